//! `corewall serve`: answers queries until SIGTERM or SIGINT.

use std::io::IsTerminal;
use std::path::Path;
use std::sync::Arc;

use clap::Args;
use tracing_subscriber::EnvFilter;

use super::{ConfigArgument, Failure};
use crate::config::{self, Config, ConfigError, CookieSecret, Hosts, HostsError};
use crate::serve::placement::Placement;
use crate::serve::reload::Wanted;
use crate::serve::topology::Machine;
use crate::serve::{self, Plan, ServeError, cores};

/// Answer queries until SIGTERM; SIGHUP goes over to the newest configuration and generation.
#[derive(Debug, Args)]
pub struct Arguments {
    #[command(flatten)]
    config: ConfigArgument,
    /// After `ready`, print commands to try: a blocked, an allowed and an aliased name of the store
    #[arg(long)]
    hints: bool,
}

/// Serves; comes back when the server has been stopped.
pub(super) fn run(arguments: Arguments) -> Result<(), Failure> {
    let signals = serve::catch_signals().map_err(Failure::runtime)?;
    let (mut config, file) = arguments.config.load()?;
    hear_log(&config);
    // Drawn once: cookies that clients hold are as good after a reload as before.
    let drawn = CookieSecret::random();
    config.cookie_secret.get_or_insert_with(|| drawn.clone());
    let mut hosts = Hosts::read(&config.hosts_files).map_err(|error| hosts_failure(file.as_deref(), &error))?;
    say_refused(&hosts);
    let plan = plan_of(&config, &hosts, arguments.hints).map_err(Failure::usage)?;
    let reread = move || {
        let (mut config, _) = config::find(file.as_deref().map(Path::new)).map_err(|error| error.to_string())?;
        config.cookie_secret.get_or_insert_with(|| drawn.clone());
        let kept = &mut |error: &HostsError| {
            tracing::warn!("{}; its hosts are answered as before", error.message());
        };
        let read = Hosts::read_again(&hosts, &config.hosts_files, kept);
        let newer = read.map_err(|error| hosts_error(file.as_deref(), &error))?;
        say_refused(&newer);
        let plan = plan_of(&config, &newer, false).map_err(|error| error.to_string())?;
        hosts = newer;
        Ok(plan)
    };
    serve::run(plan, Box::new(reread), signals).map_err(failure)
}

/// Exit code 2 is for what starting again cannot make right.
fn failure(error: ServeError) -> Failure {
    match error {
        ServeError::Plan(_) => Failure::usage(error),
        _ => Failure::runtime(error),
    }
}

/// A hosts file that cannot be read, with the place where the configuration names it.
pub(super) fn hosts_error(file: Option<&Path>, error: &HostsError) -> String {
    match file {
        Some(file) => ConfigError::at(file, &["hosts_files"], Some(error.index), error.message()).to_string(),
        None => error.message(),
    }
}

pub(super) fn hosts_failure(file: Option<&Path>, error: &HostsError) -> Failure {
    Failure::usage(hosts_error(file, error))
}

/// Tells what in the hosts files cannot be read.
fn say_refused(hosts: &Hosts) {
    for file in hosts.files().iter().filter(|file| file.refused > 0) {
        let path = file.path.display();
        for line in &file.refused_first {
            tracing::warn!("{path}:{}: {}; this is not answered", line.line, line.reason);
        }
        tracing::warn!("{path}: {} lines or names cannot be read; the others are answered", file.refused);
    }
}

/// What the configuration asks to be served, on this machine.
fn plan_of(config: &Config, hosts: &Hosts, hints: bool) -> Result<Plan, cores::CoresError> {
    let settings = Arc::new(config.settings_with(hosts));
    let placement = Placement::resolve(config.placement(), &Machine::here(), cores::allowed()?)?;
    let reader_cores = placement.readers.clone();
    Ok(Plan {
        placement,
        listen: config.listen.clone(),
        steering: config.steering,
        wait: config.wait,
        log: config.log.as_str().to_owned(),
        control_socket: config.control_socket.clone(),
        save_dir: config.cache.save_dir.clone(),
        hints,
        wanted: Wanted {
            settings,
            tcp: config.tcp.limits(),
            store: Some(config.store.clone()),
            mmap: config.mmap,
            filter_placement: config.filter_placement,
            store_readers: config.store_readers,
            store_in_memory: config.store_in_memory,
            reader_cores,
        },
    })
}

/// Log lines go to standard error; `RUST_LOG` overrides the configuration, for a closer look at one module.
fn hear_log(config: &Config) {
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new(config.log.as_str()));
    // Another subscriber may be there already in a test; the first one stays.
    let log = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr);
    // A journal or a file is to be read without a terminal's colours.
    let _ = log.with_ansi(std::io::stderr().is_terminal()).try_init();
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_start_that_takes_too_long_may_be_tried_again_and_a_wrong_plan_not() {
        let slow = failure(ServeError::Slow { serving: 1, workers: 2 });
        assert_eq!(slow.code, 1);
        assert!(slow.messages[0].starts_with("only 1 of 2 workers serve after 30 s"), "{:?}", slow.messages);
        assert_eq!(failure(ServeError::Plan("no cores".to_owned())).code, 2);
    }
}
