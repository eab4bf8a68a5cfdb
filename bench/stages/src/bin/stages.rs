//! Counts the instructions of each stage of a query and holds them against the accepted ones; see `bench/README.md`.
//!
//! Exit code 0: no stage takes more; 1: one does, or has no reference; 2: it could not be measured.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::{Parser, Subcommand};
use corewall_bench::figures::Host;
use corewall_stages::Failure;
use corewall_stages::count::{count, run_under_callgrind};
use corewall_stages::fixtures::{Fixtures, Sizes};
use corewall_stages::reference::{Comparison, Figures, Measured, Tools};
use corewall_stages::stages::{STAGES, Stage};
use corewall_stages::wall_time;

/// Counts the instructions of each stage of a query and holds them against the accepted ones.
#[derive(Parser)]
struct Options {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Counts and measures every stage, and compares
    Gate {
        /// File of the accepted counts
        #[arg(long, default_value = "bench/results/stages.json")]
        reference: PathBuf,
        /// Folder for stores and profiles
        #[arg(long, default_value = "target/bench/stages")]
        work: PathBuf,
        /// Accepts what is counted now as the reference
        #[arg(long)]
        accept: bool,
    },
    /// One stage, once, for callgrind to count
    #[command(hide = true)]
    RunCounted {
        /// Which one
        stage: String,
        /// Folder for stores and profiles
        work: PathBuf,
    },
}

fn main() -> ExitCode {
    let outcome = match Options::parse().command {
        Command::Gate { reference, work, accept } => gate(&reference, &work, accept),
        Command::RunCounted { stage, work } => run_counted(&stage, &work),
    };
    outcome.unwrap_or_else(|error| {
        eprintln!("stages: {error}");
        ExitCode::from(2)
    })
}

fn run_counted(stage: &str, work: &Path) -> Result<ExitCode, Failure> {
    let counted = run_under_callgrind(Stage::named(stage)?, &Fixtures::at(work))?;
    println!("{}", serde_json::to_string(&counted)?);
    Ok(ExitCode::SUCCESS)
}

fn gate(reference: &Path, work: &Path, accept: bool) -> Result<ExitCode, Failure> {
    if cfg!(debug_assertions) {
        return Err("this build is for debugging, its counts say nothing; build with --release".into());
    }
    let fixtures = Fixtures::make(work, Sizes::FULL)?;
    let now = measure(&fixtures, work)?;
    if accept {
        now.write(reference)?;
    }
    let comparison = Comparison::of(&now, &Measured::read(reference)?);
    print!("{comparison}");
    if comparison.is_held() {
        return Ok(ExitCode::SUCCESS);
    }
    eprintln!(
        "stages: more instructions than {} allows ({:.0} % more): see where with `callgrind_annotate {}/STAGE.callgrind`, \
         or accept them with `{} gate --accept` and say why in the commit",
        reference.display(),
        comparison.tolerance * 100.0,
        work.display(),
        std::env::args().next().unwrap_or_default(),
    );
    Ok(ExitCode::FAILURE)
}

fn measure(fixtures: &Fixtures, work: &Path) -> Result<Measured, Failure> {
    let (mut stages, mut processor) = (Vec::new(), String::new());
    let program = std::env::current_exe()?;
    for stage in &STAGES {
        let counted = count(&program, stage, work)?;
        processor = counted.processor;
        let ns = wall_time::measure(&mut stage.warm(fixtures)?)?;
        // A tenth of an instruction is as fine as anybody reads.
        let round = |figure: f64| (figure * 10.0).round() / 10.0;
        let (instructions, ns) = (round(counted.instructions), round(ns));
        stages.push(Figures { stage: stage.name.to_owned(), instructions, ns });
    }
    Ok(Measured { host: Host::here(), tools: Tools::here(processor), stages })
}
