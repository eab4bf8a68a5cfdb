//! `corewall prune`: removes old generations, and what builds left that did not end.
//!
//! Invariant: the current generation stays, and so does the one that a roll-back leads to, whatever is asked. A server that
//! reads a generation that goes keeps its open files.

use clap::Args;
use corewall_sharding::publish::Store;
use serde::Serialize;

use super::control::bytes_text;
use super::store::StoreArguments;
use super::{Failure, print, print_json};
use crate::limits::GENERATIONS_KEPT;

/// Remove old generations and the leftovers of builds.
#[derive(Debug, Args)]
pub struct Arguments {
    /// Generations to keep: the current one, the one before it, then the newest
    #[arg(long, value_name = "N", default_value_t = GENERATIONS_KEPT as u64, value_parser = clap::value_parser!(u64).range(1..))]
    keep: u64,
    /// Also remove builds that `corewall build --resume` could go on with
    #[arg(long)]
    builds: bool,
    /// Only tell what would be removed
    #[arg(long)]
    dry_run: bool,
    #[command(flatten)]
    store: StoreArguments,
    /// Print what was done as JSON
    #[arg(long)]
    json: bool,
}

/// What was, or would be, removed.
#[derive(Debug, Default, Serialize)]
struct Report {
    dry_run: bool,
    kept: Vec<u64>,
    removed: Vec<u64>,
    /// Directories of builds.
    leftovers: Vec<String>,
    /// Directories of builds that can be resumed.
    resumable: Vec<String>,
    /// A build runs, so leftovers were not looked at.
    build_runs: bool,
    /// Bytes that this frees.
    bytes: u64,
    #[serde(skip)]
    failures: Vec<String>,
}

/// Removes and tells.
pub(super) fn run(arguments: Arguments) -> Result<(), Failure> {
    let store = arguments.store.open()?;
    let mut report = Report { dry_run: arguments.dry_run, ..Report::default() };
    let (keep, remove) = divide(&store, arguments.keep).map_err(Failure::runtime)?;
    report.kept = keep;
    for number in remove {
        let bytes = store.manifest(number).map_or(0, |manifest| manifest.bytes());
        let removed = if arguments.dry_run { Ok(()) } else { store.remove(number) };
        match removed {
            Ok(()) => {
                report.bytes += bytes;
                report.removed.push(number);
            }
            Err(error) => report.failures.push(error.to_string()),
        }
    }
    remove_leftovers(&store, &arguments, &mut report).map_err(Failure::runtime)?;
    if arguments.json {
        print_json(&report)?
    } else {
        print(text(&report))?
    }
    let failures = report.failures;
    if failures.is_empty() { Ok(()) } else { Err(Failure { messages: failures, code: 1 }) }
}

/// Which generations stay and which go, each ascending.
fn divide(store: &Store, keep: u64) -> Result<(Vec<u64>, Vec<u64>), corewall_sharding::StoreError> {
    let (current, before) = (store.current_number()?, store.number_before()?);
    let mut numbers = store.numbers()?;
    let is_held = |number: &u64| Some(*number) == current || Some(*number) == before;
    // Those that are held first, then the newest.
    numbers.sort_unstable_by_key(|number| (!is_held(number), std::cmp::Reverse(*number)));
    let held = numbers.iter().filter(|number| is_held(number)).count();
    let kept = usize::try_from(keep).unwrap_or(usize::MAX).clamp(held, numbers.len().max(held));
    let mut gone = numbers.split_off(kept.min(numbers.len()));
    numbers.sort_unstable();
    gone.sort_unstable();
    Ok((numbers, gone))
}

fn remove_leftovers(
    store: &Store,
    arguments: &Arguments,
    report: &mut Report,
) -> Result<(), corewall_sharding::StoreError> {
    let Some(leftovers) = store.leftovers()? else {
        report.build_runs = true;
        return Ok(());
    };
    for leftover in &leftovers.found {
        let dir = leftover.dir.display().to_string();
        if leftover.is_resumable && !arguments.builds {
            report.resumable.push(dir);
            continue;
        }
        match if arguments.dry_run { Ok(()) } else { leftover.remove() } {
            Ok(()) => {
                report.bytes += leftover.bytes;
                report.leftovers.push(dir);
            }
            Err(error) => report.failures.push(error.to_string()),
        }
    }
    Ok(())
}

fn text(report: &Report) -> String {
    let removed = if report.dry_run { "would be removed" } else { "removed" };
    let mut out = format!("kept: {}\n", list(&report.kept));
    out += &format!("{removed}: {}, {}\n", list(&report.removed), bytes_text(report.bytes));
    for dir in &report.leftovers {
        out += &format!("{removed}: {dir}\n");
    }
    for dir in &report.resumable {
        out += &format!("kept: {dir}: `corewall build --resume` goes on with it; --builds removes it\n");
    }
    if report.build_runs {
        out += "a build runs, so what earlier ones left was not looked at\n";
    }
    out
}

fn list(numbers: &[u64]) -> String {
    match numbers {
        [] => "no generation".to_owned(),
        [one] => format!("generation {one}"),
        many => {
            let numbers: Vec<String> = many.iter().map(ToString::to_string).collect();
            format!("generations {}", numbers.join(", "))
        }
    }
}
