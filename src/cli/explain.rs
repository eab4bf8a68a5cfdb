//! `corewall explain`: what would be answered to a question, and which rules say so, from the store alone.
//!
//! It judges by the very code of the server: rules are found by filters, shards and patterns and weighed by `decide::rule`,
//! and the answer at the end is made by a [`crate::decide::Core`]. Only the cache is not asked: it is in the server's memory.

mod entry;
mod found;
mod reply;
mod text;

use std::net::{IpAddr, Ipv4Addr};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use clap::Args;
use corewall_sharding::name::Name;
use corewall_sharding::overlay::LiveEntry;
use corewall_sharding::publish::Store;
use corewall_sharding::rule::{Class, Kind};
use domain::base::Rtype;

use self::entry::Entries;
use self::found::Finder;
use super::serve::hosts_failure;
use super::{Failure, check, print};
use crate::build::patterns::Compiler;
use crate::config::{self, Hosts};
use crate::decide::answer::Answer;
use crate::decide::client;
use crate::decide::rule::Asked;
use crate::decide::rulebook::RuleBook;
use crate::decide::settings::Settings;
use crate::limits;
use crate::serve::live::{self, LiveRules};
use crate::serve::patterns::{PatternDatabase, PatternScanner};
use crate::serve::store::StoreReader;

/// Tell what would be answered to a question, and why.
#[derive(Debug, Args)]
pub struct Arguments {
    /// The name that is asked for, or an address, to see the rules on answers that hold it
    #[arg(value_parser = parse_subject)]
    name: Subject,
    /// The record type that is asked for
    #[arg(value_name = "TYPE", default_value = "A", value_parser = parse_type)]
    rtype: u16,
    /// The client that asks, for policies and for rules that name clients
    #[arg(long, value_name = "ADDR", default_value_t = IpAddr::V4(Ipv4Addr::LOCALHOST))]
    client: IpAddr,
    /// Configuration file; without it /etc/corewall/corewall.toml when there is one, else the defaults
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Directory of the store, instead of the configuration's
    #[arg(long, value_name = "DIR")]
    store: Option<PathBuf>,
}

/// Explains and prints.
pub(super) fn run(arguments: Arguments) -> Result<(), Failure> {
    let (config, file) = config::find(arguments.config.as_deref()).map_err(Failure::usage)?;
    let hosts = Hosts::read(&config.hosts_files).map_err(|error| hosts_failure(file.as_deref(), &error))?;
    let store = arguments.store.as_deref().unwrap_or(&config.store);
    let question = Question {
        name: arguments.name.name,
        address: arguments.name.address,
        rtype: arguments.rtype,
        client: arguments.client,
    };
    let settings = config.settings_with(&hosts);
    print(explain(store, settings, config.mmap, &question, live::entries_after).map_err(Failure::usage)?)
}

/// What is asked.
struct Question {
    name: Name,
    /// It is not a name but an address, and the rules on answers that hold it are wanted.
    address: Option<IpAddr>,
    rtype: u16,
    client: IpAddr,
}

/// A name, or an address in its place.
#[derive(Clone, Debug)]
struct Subject {
    name: Name,
    address: Option<IpAddr>,
}

fn parse_subject(text: &str) -> Result<Subject, String> {
    match text.parse() {
        Ok(address) => Ok(Subject { name: Name::ROOT, address: Some(address) }),
        Err(_) => parse_name(text).map(|name| Subject { name, address: None }),
    }
}

fn parse_name(text: &str) -> Result<Name, String> {
    let ascii = idna::domain_to_ascii(text).unwrap_or_else(|_| text.to_owned());
    Name::from_text(&ascii).map_err(|error| error.to_string())
}

fn parse_type(text: &str) -> Result<u16, String> {
    text.parse().map(Rtype::to_int).map_err(|_| "no record type; write it as A, TXT or TYPE65".to_owned())
}

/// The whole explanation, for the store in `dir` and the entries that `live_after` finds.
fn explain(
    dir: &Path,
    settings: Settings,
    mmap: bool,
    question: &Question,
    live_after: impl Fn(&Store, u64) -> Result<Vec<LiveEntry>, String>,
) -> Result<String, String> {
    let generation = Arc::new(check::open(dir)?);
    let opened = Store::open(dir).map_err(|error| error.to_string())?;
    let entries = live_after(&opened, generation.manifest.overlay_seq)?;
    let rules = RuleBook::new(&generation, &settings).map_err(|error| error.to_string())?;
    let live = LiveRules::none(Arc::new(rules), Some(generation.clone()), Arc::new(settings.clone()), Compiler::Here);
    live.load(entries.iter().cloned())?;
    let live = live.now();
    let rules = live.change.rules.clone();
    let patterns = PatternDatabase::load(&generation).map_err(|error| error.to_string())?;
    let scanner = PatternScanner::new(Arc::new(patterns)).map_err(|error| error.to_string())?;
    let scanner = scanner.with_live(&live.patterns)?;
    let store = StoreReader::open(&generation, mmap).map_err(|error| error.to_string())?;
    let mut finder = Finder::new(&generation, rules.clone(), store, scanner, Entries(entries));
    let Question { name, address, rtype, client } = *question;
    let mut out = match address {
        Some(address) => format!("{address} in an upstream's answer to {client}, generation {}\n", generation.number),
        None => format!("{name} {} asked by {client}, generation {}\n", Rtype::from_int(rtype), generation.number),
    };
    match client::admit(&settings, client) {
        None => out += "  the client is not among clients_allowed\n",
        Some(policy) => {
            let policy_name = settings.policies.get(usize::from(policy)).map_or("", |policy| &policy.name);
            out += &format!("  its policy is `{policy_name}`\n");
            if let Some(address) = address {
                let asked = Asked { name: &name, qtype: rtype, client, policy };
                out += &explain_address(&settings, &finder, &asked, address);
                return Ok(out);
            }
            let mut next = Some(name);
            // An alias leads to the next name, as it does in the server.
            for _ in 0..=limits::CHAIN_LINKS_MAX {
                let Some(name) = next else { break };
                let asked = Asked { name: &name, qtype: rtype, client, policy };
                next = explain_name(&mut out, &settings, &mut finder, &asked)?;
            }
            if let Some(name) = next {
                out += &format!("\n{name}: the chain of aliases is a loop or too long\n");
            }
        }
    }
    out += "\nanswer\n";
    let Finder { store, scanner, .. } = &mut finder;
    out += &reply::of(question, settings, rules, store, scanner)?;
    Ok(out)
}

/// Explains what becomes of an answer that holds an address.
fn explain_address(settings: &Settings, finder: &Finder<'_>, asked: &Asked<'_>, address: IpAddr) -> String {
    let mut out = format!("\n{address}\n");
    if settings.rebinding.refuses(address) {
        out += "  refused to names that are no exception (rebinding_protection)\n";
    }
    let found = finder.find_address(asked, address);
    out += &text::candidates(&finder.rules, &found, false);
    let winner = found.winner.and_then(|winner| finder.rules.class(winner.class));
    let by = winner.and_then(|class| finder.rules.list(class.list)).map(|book| text::list(&book.list));
    out += &match (winner.map(|class| class.kind), by) {
        (Some(Kind::Block), Some(list)) => format!("  an answer with it is blocked by list {list}\n"),
        (Some(Kind::Alias), Some(list)) => format!("  an answer with it becomes an alias of list {list}\n"),
        (Some(_), Some(list)) => format!("  allowed by list {list}\n"),
        _ => "  no rule speaks of it\n".to_owned(),
    };
    if let Some(to) = finder.rewritten(asked, address) {
        out += &format!("  it is replaced by {to}\n");
    }
    out
}

/// Explains one name of the chain; gives the next one.
fn explain_name(
    out: &mut String,
    settings: &Settings,
    finder: &mut Finder<'_>,
    asked: &Asked<'_>,
) -> Result<Option<Name>, String> {
    *out += &format!("\n{}\n", asked.name);
    let is_local = settings.local.answer(asked.name, asked.qtype, &mut Answer::new());
    if is_local {
        *out += "  => 1 local record or special-use name\n";
    }
    let found = finder.find(asked)?;
    *out += &text::candidates(&finder.rules, &found, is_local);
    if is_local {
        return Ok(None);
    }
    let winner = found.winner.and_then(|winner| finder.rules.class(winner.class));
    *out += &format!("  {}\n", verdict(settings, finder, winner));
    if winner.is_some_and(|class| class.kind == Kind::Alias) { finder.target(asked.name, &found) } else { Ok(None) }
}

/// What the winner, or that there is none, comes to.
fn verdict(settings: &Settings, finder: &Finder<'_>, winner: Option<&Class>) -> String {
    let group = |name: &str| {
        let servers = settings.groups.iter().filter(|group| group.name == name).flat_map(|group| &group.servers);
        let servers: Vec<String> = servers.map(ToString::to_string).collect();
        let servers = if servers.is_empty() { "none is configured".to_owned() } else { servers.join(", ") };
        format!("upstream group `{name}` ({servers})")
    };
    let Some(class) = winner else { return format!("no rule decides: {}", group("default")) };
    let by = finder.rules.list(class.list).map(|book| text::list(&book.list)).unwrap_or_default();
    let servers: Vec<String> = class.servers.iter().map(ToString::to_string).collect();
    match class.kind {
        Kind::Block => format!("blocked by list {by}"),
        Kind::Alias => format!("alias of list {by}"),
        Kind::Allow => format!("allowed by list {by}: {}", group("default")),
        Kind::ForwardAllow | Kind::ForwardBlock if !servers.is_empty() => {
            format!("forwarded by list {by} to {}", servers.join(", "))
        }
        Kind::ForwardAllow => format!("allowed by list {by}: {}", group("allow")),
        Kind::ForwardBlock => format!("forwarded by list {by}: {}", group("block")),
    }
}

#[cfg(test)]
mod tests;
