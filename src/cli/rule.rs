//! `corewall rule`: rules that are changed by hand.
//!
//! A running server carries the change out and comes back when it is on the disk and every worker has it. When none runs, this
//! process does the same on the file, and the next start takes it.

mod batches;
mod place;
mod show;

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use clap::{Args, Subcommand};
use corewall_sharding::name::Name;
use corewall_sharding::rule::{BlockMode, Scope};

use self::batches::Batches;
use self::place::Place;
use self::show::Total;
use super::Failure;
use super::control::ControlArguments;
use crate::config::parse_server;
use crate::control::protocol::{RulesToAdd, RulesToFind, RulesToList, parse_name};
use crate::limits::GROUP_SERVERS_MAX;
use crate::lists::live::{LiveOptions, MODES, RuleKind, SCOPES};

/// Add, remove and list rules by hand.
#[derive(Debug, Args)]
pub struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Add rules; those that are there already are replaced.
    Add(AddArguments),
    /// Remove rules, live ones and those of the generation.
    Remove(RemoveArguments),
    /// Let rules of the generation hold again that were removed.
    Restore(RestoreArguments),
    /// List what was added, and which rules of generations were removed.
    List(ListArguments),
}

#[derive(Debug, Args)]
struct AddArguments {
    #[command(flatten)]
    what: What,
    /// What the rules do: block, allow, forward-allow, forward-block, alias or ip-rewrite; without it block
    #[arg(long, value_name = "KIND", value_parser = parse_kind)]
    kind: Option<RuleKind>,
    #[command(flatten)]
    which: Which,
    /// Where an alias leads, or the address that a rewrite puts in place
    #[arg(long, value_name = "NAME|ADDR")]
    target: Option<String>,
    /// A server of a forwarding rule, as ADDRESS or ADDRESS#PORT; may be given several times
    #[arg(long, value_name = "ADDR#PORT", value_parser = parse_server)]
    server: Vec<SocketAddr>,
    /// How blocked questions are answered: zero, sinkhole, nxdomain, nodata, refused, drop or tcp-only
    #[arg(long, value_name = "MODE", value_parser = parse_mode)]
    answer: Option<BlockMode>,
    /// Put the rules into the important tiers, which win over all others
    #[arg(long)]
    important: bool,
    /// Take rules that reach over a whole public suffix, or match nearly every name
    #[arg(long)]
    allow_wide: bool,
    /// The list that the rules belong to; without it `live`
    #[arg(long, value_name = "NAME")]
    list: Option<String>,
    /// When they end by themselves: a time from now, such as 90s or 2h, or a date, such as 2026-12-01T00:00:00Z
    #[arg(long, value_name = "TIME", value_parser = parse_end)]
    expires: Option<u64>,
    /// Why, for those who list them
    #[arg(long, value_name = "TEXT", default_value = "")]
    reason: String,
    #[command(flatten)]
    store: StoreArguments,
}

/// The rules of a command.
#[derive(Debug, Args)]
#[group(required = true, multiple = false)]
struct What {
    /// Rules, each as NAME, *.NAME, /PATTERN/, ADDRESS, PREFIX, a line in Adblock syntax, or "[KIND [SCOPE]] KEY [TARGET]"
    #[arg(value_name = "RULE")]
    rules: Vec<String>,
    /// Read them from a file, one a line; - is the standard input
    #[arg(long, value_name = "FILE")]
    file: Option<PathBuf>,
}

/// Which names rules speak of.
#[derive(Debug, Args)]
#[group(multiple = false)]
struct Which {
    /// Which names: exact, subtree, below, pattern or address; without it what a name stands for alone, exact
    #[arg(long, value_name = "SCOPE", value_parser = parse_scope)]
    scope: Option<Scope>,
    /// The name and everything below it, as --scope subtree
    #[arg(long)]
    subtree: bool,
    /// The rules are patterns, as --scope pattern
    #[arg(long)]
    pattern: bool,
}

impl Which {
    fn scope(&self) -> Option<Scope> {
        match self {
            Self { subtree: true, .. } => Some(Scope::Subtree),
            Self { pattern: true, .. } => Some(Scope::Pattern),
            Self { scope, .. } => *scope,
        }
    }
}

#[derive(Debug, Args)]
struct RemoveArguments {
    #[command(flatten)]
    what: WhatToRemove,
    /// Only rules that do this
    #[arg(long, value_name = "KIND", value_parser = parse_kind)]
    kind: Option<RuleKind>,
    #[command(flatten)]
    which: Which,
    /// Only rules of this list
    #[arg(long, value_name = "NAME")]
    list: Option<String>,
    /// When rules of the generation come back by themselves: a time from now, such as 2h, or a date
    #[arg(long, value_name = "TIME", value_parser = parse_end, conflicts_with = "all")]
    expires: Option<u64>,
    /// Why, for those who list what was removed
    #[arg(long, value_name = "TEXT", default_value = "")]
    reason: String,
    #[command(flatten)]
    store: StoreArguments,
}

/// The rules of a removal.
#[derive(Debug, Args)]
#[group(required = true, multiple = false)]
struct WhatToRemove {
    /// Rules, each as NAME, *.NAME, /PATTERN/, ADDRESS, PREFIX, or a line as it was added
    #[arg(value_name = "RULE")]
    rules: Vec<String>,
    /// Read them from a file, one a line; - is the standard input
    #[arg(long, value_name = "FILE")]
    file: Option<PathBuf>,
    /// All live rules of the --list; rules of the generation stay
    #[arg(long, requires = "list", conflicts_with_all = ["kind", "scope", "subtree", "pattern"])]
    all: bool,
}

#[derive(Debug, Args)]
struct RestoreArguments {
    #[command(flatten)]
    what: What,
    /// Only rules that do this
    #[arg(long, value_name = "KIND", value_parser = parse_kind)]
    kind: Option<RuleKind>,
    #[command(flatten)]
    which: Which,
    /// Only rules of this list
    #[arg(long, value_name = "NAME")]
    list: Option<String>,
    #[command(flatten)]
    store: StoreArguments,
}

#[derive(Debug, Args)]
struct ListArguments {
    /// Only those of this list
    #[arg(long, value_name = "NAME")]
    list: Option<String>,
    /// Only those that do this
    #[arg(long, value_name = "KIND", value_parser = parse_kind)]
    kind: Option<RuleKind>,
    /// Only those on this name or names below it
    #[arg(long, value_name = "SUFFIX", value_parser = parse_name)]
    name: Option<Name>,
    #[command(flatten)]
    store: StoreArguments,
}

/// Where rules are changed.
#[derive(Debug, Args)]
struct StoreArguments {
    #[command(flatten)]
    control: ControlArguments,
    /// Work on the files of this store, and ask no server: none that serves it may run
    #[arg(long, value_name = "DIR")]
    store: Option<PathBuf>,
}

/// Carries the command out.
pub(super) fn run(arguments: Arguments) -> Result<(), Failure> {
    match arguments.command {
        Command::Add(arguments) => add(arguments),
        Command::Remove(arguments) => remove(arguments),
        Command::Restore(arguments) => restore(arguments),
        Command::List(arguments) => list(&arguments),
    }
}

fn add(arguments: AddArguments) -> Result<(), Failure> {
    if arguments.server.len() > GROUP_SERVERS_MAX {
        return Err(Failure::usage(format_args!("a rule names at most {GROUP_SERVERS_MAX} servers")));
    }
    let options = LiveOptions {
        kind: arguments.kind,
        scope: arguments.which.scope(),
        target: arguments.target,
        servers: arguments.server,
        answer: arguments.answer,
        important: arguments.important,
        allow_wide: arguments.allow_wide,
    };
    let rules = RulesToAdd {
        lines: Vec::new(),
        options,
        list: arguments.list,
        expires_s: arguments.expires,
        reason: arguments.reason,
    };
    let batches = Batches::open(arguments.what.rules, arguments.what.file)?;
    let mut place = Place::find(&arguments.store)?;
    each_batch(&arguments.store.control, batches, |lines| place.add(RulesToAdd { lines, ..rules.clone() }))
}

fn remove(arguments: RemoveArguments) -> Result<(), Failure> {
    let rules = RulesToFind {
        lines: Vec::new(),
        kind: arguments.kind,
        scope: arguments.which.scope(),
        list: arguments.list,
        expires_s: arguments.expires,
        reason: arguments.reason,
    };
    if arguments.what.all {
        let mut place = Place::find(&arguments.store)?;
        return remove_list(&arguments.store.control, &mut place, rules.list.as_deref().unwrap_or_default());
    }
    let batches = Batches::open(arguments.what.rules, arguments.what.file)?;
    let mut place = Place::find(&arguments.store)?;
    each_batch(&arguments.store.control, batches, |lines| place.remove(RulesToFind { lines, ..rules.clone() }))
}

fn restore(arguments: RestoreArguments) -> Result<(), Failure> {
    let rules = RulesToFind {
        kind: arguments.kind,
        scope: arguments.which.scope(),
        list: arguments.list,
        ..RulesToFind::default()
    };
    let batches = Batches::open(arguments.what.rules, arguments.what.file)?;
    let mut place = Place::find(&arguments.store)?;
    each_batch(&arguments.store.control, batches, |lines| place.restore(RulesToFind { lines, ..rules.clone() }))
}

/// Carries out batch after batch, and tells what has been done: also when one fails, for those before it count.
fn each_batch(
    control: &ControlArguments,
    mut batches: Batches,
    mut carry_out: impl FnMut(Vec<String>) -> Result<crate::control::protocol::RulesChanged, Failure>,
) -> Result<(), Failure> {
    let mut total = Total::default();
    let outcome = loop {
        let batch = match batches.next() {
            Ok(Some(batch)) => batch,
            Ok(None) => break Ok(()),
            Err(failure) => break Err(failure),
        };
        batch.refused.into_iter().for_each(|line| total.refuse(line, batches.are_lines()));
        if batch.lines.is_empty() {
            continue;
        }
        match carry_out(batch.lines) {
            Ok(changed) => total.add(changed, &batch.numbers, batches.are_lines()),
            Err(failure) => break Err(failure),
        }
    };
    total.finish(control, outcome)
}

fn remove_list(control: &ControlArguments, place: &mut Place, list: &str) -> Result<(), Failure> {
    let mut total = Total::default();
    let outcome = loop {
        match place.remove_list(list) {
            Ok(changed) if changed.removed == 0 && total.is_nothing() => {
                break Err(Failure::runtime(format_args!("no live rule is of list `{list}`")));
            }
            Ok(changed) if changed.removed == 0 => break Ok(()),
            Ok(changed) => total.add(changed, &[], false),
            Err(failure) => break Err(failure),
        }
    };
    total.finish(control, outcome)
}

fn list(arguments: &ListArguments) -> Result<(), Failure> {
    let mut which = RulesToList { list: arguments.list.clone(), kind: arguments.kind, name: arguments.name, after: 0 };
    let mut reader = place::Reader::find(&arguments.store)?;
    let mut shown = show::Shown::new(&arguments.store.control);
    loop {
        let page = reader.list(&which)?;
        let last = page.rules.last().map(|rule| rule.seq);
        let has_more = page.has_more;
        shown.page(page.rules)?;
        match last {
            Some(last) if has_more => which.after = last,
            _ => return shown.finish(),
        }
    }
}

fn parse_kind(text: &str) -> Result<RuleKind, String> {
    RuleKind::from_word(text).ok_or_else(|| one_of(&RuleKind::ALL.map(|(_, word)| word)))
}

fn parse_scope(text: &str) -> Result<Scope, String> {
    let found = SCOPES.iter().find(|(_, word)| *word == text);
    found.map(|(scope, _)| *scope).ok_or_else(|| one_of(&SCOPES.map(|(_, word)| word)))
}

fn parse_mode(text: &str) -> Result<BlockMode, String> {
    let found = MODES.iter().find(|(_, word)| *word == text);
    found.map(|(mode, _)| *mode).ok_or_else(|| one_of(&MODES.map(|(_, word)| word)))
}

fn one_of(words: &[&str]) -> String {
    format!("it is one of {}", words.join(", "))
}

/// Unix time in seconds of an end that is written as a date or as a time from now.
fn parse_end(text: &str) -> Result<u64, String> {
    end_from(text, SystemTime::now())
}

fn end_from(text: &str, now: SystemTime) -> Result<u64, String> {
    let unreadable =
        "write it as a time from now, such as 90, 90s, 2h or 7d, or as a date, such as 2026-12-01T00:00:00Z";
    let from_now = match text.parse::<u64>() {
        Ok(seconds) => Some(Duration::from_secs(seconds)),
        Err(_) => humantime::parse_duration(text).ok(),
    };
    let end = match from_now {
        Some(duration) => now.checked_add(duration).ok_or("that is too far away")?,
        None => humantime::parse_rfc3339_weak(text).map_err(|_| unreadable.to_owned())?,
    };
    if end <= now {
        return Err("that is over already".to_owned());
    }
    let since = end.duration_since(UNIX_EPOCH).map_err(|_| unreadable.to_owned())?;
    // Not before its time.
    Ok(since.as_secs() + u64::from(since.subsec_nanos() > 0))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_end_is_a_time_from_now_or_a_date() {
        let now = UNIX_EPOCH + Duration::from_millis(1_800_000_000_400);
        for (text, end) in [
            ("1", 1_800_000_002),
            ("90s", 1_800_000_091),
            ("2h 1m", 1_800_007_261),
            ("2027-01-15T08:00:10Z", 1_800_000_010),
            ("2027-01-15 08:00:10", 1_800_000_010),
        ] {
            assert_eq!(end_from(text, now), Ok(end), "{text}");
        }
        for (text, said) in [
            ("0", "over already"),
            ("2020-01-01T00:00:00Z", "over already"),
            ("soon", "write it as"),
            ("-5s", "write it as"),
            ("18446744073709551615", "too far"),
        ] {
            assert!(end_from(text, now).unwrap_err().contains(said), "{text}: {:?}", end_from(text, now));
        }
    }
}
