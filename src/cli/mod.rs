//! The command line: one file a subcommand.
//!
//! Exit codes: 0 done, 1 failed at run time, 2 wrong usage or configuration. Errors go to standard error, as `error: ` and
//! what to do about it; reports go to standard output.

pub mod build;
pub mod cache;
pub mod check;
pub mod control;
pub mod explain;
pub mod export;
pub mod generations;
pub mod plan;
pub mod prune;
pub mod publish;
mod reload;
mod rule;
pub mod serve;
mod status;
mod stop;
mod store;
pub mod tune;
mod upstreams;
pub mod verify;

use std::fmt::Display;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, Parser, Subcommand};

use self::control::ControlArguments;
use crate::build::patterns;
use crate::config::{self, Config};

/// A thread-per-core, shared-nothing DNS filtering appliance.
#[derive(Debug, Parser)]
#[command(name = "corewall", version, about)]
pub struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Read lists and publish a new generation of the store.
    Build(Box<build::Arguments>),
    /// Answer queries until SIGTERM; SIGHUP goes over to the newest configuration and generation.
    Serve(serve::Arguments),
    /// Validate configuration and store.
    Check(check::Arguments),
    /// Tell what would be answered to a question, and why.
    Explain(Box<explain::Arguments>),
    /// List the generations of the store.
    Generations(Box<generations::Arguments>),
    /// Make a generation the current one, and have the running server go over to it.
    Publish(Box<publish::PublishArguments>),
    /// Go back to the generation that was current before, and have the running server go over to it.
    Rollback(Box<publish::RollbackArguments>),
    /// Read generations whole, and tell every file that is not as it was built.
    Verify(Box<verify::Arguments>),
    /// Remove old generations, and what builds left that did not end.
    Prune(Box<prune::Arguments>),
    /// Write the rules of a generation out as a list.
    Export(Box<export::Arguments>),
    /// Tell what a store of so many rules takes: disk, memory, time to build, reads from the disk.
    Plan(Box<plan::Arguments>),
    /// Hold this machine against what a busy server should have, and tell what mends the difference.
    Tune(Box<tune::Arguments>),
    /// Tell how the running server is: generation, workers, caches, counters.
    Status(ControlArguments),
    /// Look into the caches of the running server, or make it forget.
    Cache(Box<cache::Arguments>),
    /// Tell how the upstream servers of the running server do: times, failures, whether they are down.
    Upstreams(ControlArguments),
    /// Add, remove and list rules by hand: in the running server at once, or for its next start.
    Rule(Box<rule::Arguments>),
    /// Have the running server go over to the newest configuration and generation; comes back when it has.
    Reload(ControlArguments),
    /// End the running server; comes back when it has answered what it was asked and ended.
    Stop(ControlArguments),
    /// Print the default configuration with the meaning of every option.
    DefaultConfig,
    /// Compile patterns from standard input, within limits; started by `build` and `serve`.
    #[command(name = patterns::SUBCOMMAND, hide = true)]
    CompilePatterns {
        /// Seconds of CPU time after which it is ended
        #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
        cpu_s: u64,
        /// Seconds after which it is ended
        #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
        wall_s: u64,
    },
}

/// Which configuration.
#[derive(Clone, Debug, Args)]
pub struct ConfigArgument {
    /// Configuration file; without it /etc/corewall/corewall.toml when there is one, else the defaults
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,
}

impl ConfigArgument {
    /// The configuration, and the file it came from.
    fn load(&self) -> Result<(Config, Option<PathBuf>), Failure> {
        config::find(self.config.as_deref()).map_err(Failure::usage)
    }
}

/// Why a command did not do what it was to do.
#[derive(Debug)]
pub struct Failure {
    /// Told on standard error, each with `error: ` in front.
    messages: Vec<String>,
    code: u8,
}

impl Failure {
    /// It failed at run time.
    fn runtime(message: impl Display) -> Self {
        Self { messages: vec![message.to_string()], code: 1 }
    }

    /// It was asked wrongly, or is configured wrongly.
    fn usage(message: impl Display) -> Self {
        Self { messages: vec![message.to_string()], code: 2 }
    }
}

/// Carries out the command.
pub fn run(cli: Cli) -> ExitCode {
    let result = match cli.command {
        Command::Build(arguments) => build::run(*arguments),
        Command::Serve(arguments) => serve::run(arguments),
        Command::Check(arguments) => check::run(arguments),
        Command::Explain(arguments) => explain::run(*arguments),
        Command::Generations(arguments) => generations::run(*arguments),
        Command::Publish(arguments) => publish::publish(*arguments),
        Command::Rollback(arguments) => publish::rollback(*arguments),
        Command::Verify(arguments) => verify::run(*arguments),
        Command::Prune(arguments) => prune::run(*arguments),
        Command::Export(arguments) => export::run(*arguments),
        Command::Plan(arguments) => plan::run(*arguments),
        Command::Tune(arguments) => tune::run(*arguments),
        Command::Status(control) => status::run(control),
        Command::Cache(arguments) => cache::run(*arguments),
        Command::Upstreams(control) => upstreams::run(control),
        Command::Rule(arguments) => rule::run(*arguments),
        Command::Reload(control) => reload::run(control),
        Command::Stop(control) => stop::run(control),
        Command::DefaultConfig => print(config::DEFAULT_TOML),
        Command::CompilePatterns { cpu_s, wall_s } => {
            let bounds = patterns::Bounds { cpu_s, wall_s };
            patterns::serve_child(bounds, &mut std::io::stdin().lock(), &mut std::io::stdout().lock())
                .map_err(Failure::runtime)
        }
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            for message in &failure.messages {
                eprintln!("error: {message}");
            }
            ExitCode::from(failure.code)
        }
    }
}

/// Prints a report. A reader that went away, as `head` does, is no failure.
fn print(text: impl Display) -> Result<(), Failure> {
    use std::io::{ErrorKind, Write};
    let mut out = std::io::stdout().lock();
    match write!(out, "{text}").and_then(|()| out.flush()) {
        Err(error) if error.kind() != ErrorKind::BrokenPipe => Err(Failure::runtime(error)),
        _ => Ok(()),
    }
}

/// Prints a report for programs.
fn print_json(report: &impl serde::Serialize) -> Result<(), Failure> {
    let json = serde_json::to_string_pretty(report).map_err(Failure::runtime)?;
    print(format_args!("{json}\n"))
}
