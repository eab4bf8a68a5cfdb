//! `corewall cache`: what the caches of a running server hold, and forgetting some of it.

use clap::{Args, Subcommand};
use corewall_sharding::name::Name;

use super::Failure;
use super::control::{ControlArguments, bytes_text, row, table};
use crate::control::protocol::{CacheStats, FlushWhat, Flushed, Request, WorkerCache, parse_name};

/// Look into the caches of the running server, or make it forget.
#[derive(Debug, Args)]
pub struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Forget cached answers; comes back when every worker has.
    Flush(Box<FlushArguments>),
    /// Tell how full the caches are, and what they have counted.
    Stats(ControlArguments),
}

#[derive(Debug, Args)]
struct FlushArguments {
    #[command(flatten)]
    which: Which,
    #[command(flatten)]
    control: ControlArguments,
}

#[derive(Debug, Args)]
#[group(required = true, multiple = false)]
struct Which {
    /// The name whose answers are forgotten, of every type
    #[arg(value_parser = parse_name)]
    name: Option<Name>,
    /// Forget the answers for this name and all names below it
    #[arg(long, value_name = "NAME", value_parser = parse_name)]
    subtree: Option<Name>,
    /// Forget all answers
    #[arg(long)]
    all: bool,
}

/// Asks the server.
pub(super) fn run(arguments: Arguments) -> Result<(), Failure> {
    match arguments.command {
        Command::Flush(arguments) => {
            let FlushArguments { which, control } = *arguments;
            let what = match (which.name, which.subtree) {
                (Some(name), _) => FlushWhat::Name(name),
                (None, Some(name)) => FlushWhat::Subtree(name),
                // clap lets nothing else through: one of the three must be there.
                (None, None) => FlushWhat::All,
            };
            control.ask_and_print(&Request::CacheFlush { what }, flushed_text)
        }
        Command::Stats(control) => control.ask_and_print(&Request::CacheStats {}, stats_text),
    }
}

fn flushed_text(flushed: &Flushed) -> String {
    let entries = if flushed.removed == 1 { "entry" } else { "entries" };
    let parts: Vec<String> =
        flushed.workers.iter().map(|worker| format!("{} on core {}", worker.removed, worker.core)).collect();
    format!("removed {} {entries}: {}\n", flushed.removed, parts.join(", "))
}

fn stats_text(stats: &CacheStats) -> String {
    let mut rows = vec![row([&"core", &"entries", &"used", &"memory"])];
    for WorkerCache { core, cache } in &stats.workers {
        rows.push(row([core, &cache.entries, &bytes_text(cache.bytes_used), &bytes_text(cache.bytes)]));
    }
    let counters = stats.counters.iter().map(|(name, value)| row([name, value]));
    let heading = row([&"counter", &"since the start"]);
    table(&rows) + "\n" + &table(&std::iter::once(heading).chain(counters).collect::<Vec<_>>())
}
