//! `corewall check`: is the configuration right, and is what it names there?

use std::fmt::Write;
use std::path::Path;

use clap::Args;
use corewall_sharding::StoreError;
use corewall_sharding::overlay::Overlay;
use corewall_sharding::publish::{Generation, Store};

use super::{ConfigArgument, Failure, print};
use crate::config::{Config, ConfigError, Hosts};
use crate::decide::rulebook::RuleBook;
use crate::lists;
use crate::serve::cores::{self, CoresError};
use crate::serve::patterns::PatternDatabase;
use crate::serve::placement::Placement;
use crate::serve::steering;
use crate::serve::topology::Machine;

/// Validate configuration and store.
#[derive(Debug, Args)]
pub struct Arguments {
    #[command(flatten)]
    config: ConfigArgument,
    /// Also read every file of the store whole and compare its checksum
    #[arg(long)]
    full: bool,
}

/// Checks everything that can be checked, and prints a summary or all that is wrong.
pub(super) fn run(arguments: Arguments) -> Result<(), Failure> {
    let (config, file) = arguments.config.load()?;
    // Options that are not in a file are right: they are the defaults.
    let at = |path: &[&'static str], index: Option<usize>, message: String| match &file {
        Some(file) => ConfigError::at(file, path, index, message).to_string(),
        None => format!("{}: {message}", path.join(".")),
    };
    let mut problems = Vec::new();
    for (index, list) in config.list.iter().enumerate() {
        if let Err(error) = lists::open(&list.path) {
            let message = format!("{}: cannot read: {error}; check the path, or remove the list", list.path.display());
            problems.push(at(&["list", "path"], Some(index), message));
        }
    }
    let hosts = Hosts::read(&config.hosts_files).unwrap_or_else(|error| {
        problems.push(at(&["hosts_files"], Some(error.index), error.message()));
        Hosts::default()
    });
    let threads = describe_threads(&config).unwrap_or_else(|error| {
        problems.push(at(&[error.option()], None, error.message()));
        String::new()
    });
    let summary = match summarise(&config, arguments.full) {
        Ok(summary) => summary,
        Err(message) => {
            problems.push(at(&["store"], None, message));
            String::new()
        }
    };
    if !problems.is_empty() {
        return Err(Failure { messages: problems, code: 2 });
    }
    let source = file.as_deref().map_or("the defaults".to_owned(), |file| file.display().to_string());
    let hosts = describe_hosts(&hosts);
    print(format_args!("configuration: {source}\n{}{threads}{hosts}{summary}", describe(&config)))
}

/// Opens the store as a server would, and tells what is in it.
fn summarise(config: &Config, full: bool) -> Result<String, String> {
    let store = Store::open(&config.store).map_err(|error| error.to_string())?;
    let generation = store.current().map_err(|error| error.to_string())?;
    // A server does not start without the rules that were changed by hand.
    let live = Overlay::read(&store, generation.manifest.overlay_seq).map_err(|error| error.to_string())?;
    if full {
        generation.verify().map_err(|error| error.to_string())?;
        match Overlay::open(&store) {
            Ok(overlay) => overlay.verify().map_err(|error| error.to_string())?,
            // A server that holds it has read it.
            Err(StoreError::OverlayBusy { .. }) => {}
            Err(error) => return Err(error.to_string()),
        }
    }
    let rules = RuleBook::new(&generation, &config.settings()).map_err(|error| error.to_string())?;
    generation.open_shards(config.mmap).map_err(|error| error.to_string())?;
    let patterns = PatternDatabase::load(&generation).map_err(|error| error.to_string())?;
    let mut text = String::new();
    // Writing to a text cannot fail.
    let _ = writeln!(text, "store: {}, generation {}", config.store.display(), rules.generation());
    let manifest = &generation.manifest;
    let _ = writeln!(
        text,
        "  {} rules in {} shards, {} of them patterns; {} address rewrites; {} bytes",
        manifest.rules,
        manifest.shards,
        manifest.patterns,
        manifest.ip_rewrites,
        manifest.bytes()
    );
    if !live.is_empty() {
        let _ = writeln!(text, "  {} rules changed by hand", live.len());
    }
    if let Some(why) = patterns.recompiled() {
        let _ = writeln!(text, "  patterns are compiled at each start ({why}); build the store again on this machine");
    }
    for (shard, reason) in generation.filters.bad() {
        let _ = writeln!(text, "  the filter of shard {shard} is bad, and made again at each start: {reason}");
    }
    for list in &manifest.lists {
        let _ = writeln!(text, "  {:>10}  {}", list.rules, list.name);
    }
    for name in unbuilt(config, &generation) {
        let _ = writeln!(text, "  list `{name}` is not in this generation; run `corewall build` to add it");
    }
    Ok(text)
}

/// The current generation of the store in `dir`.
pub(super) fn open(dir: &Path) -> Result<Generation, String> {
    Store::open(dir).and_then(|store| store.current()).map_err(|error| error.to_string())
}

/// Lists of the configuration that the generation was built without.
fn unbuilt<'a>(config: &'a Config, generation: &Generation) -> Vec<&'a str> {
    let is_built = |name: &str| generation.lists.iter().any(|list| list.name == name);
    config.list.iter().map(|list| list.name.as_str()).filter(|name| !is_built(name)).collect()
}

/// What the hosts files say, and what in them cannot be read.
fn describe_hosts(hosts: &Hosts) -> String {
    let mut text = String::new();
    for file in hosts.files() {
        let path = file.path.display();
        // Writing to a text cannot fail.
        let _ = writeln!(
            text,
            "  hosts {path}: {} addresses, {} lines or names passed over, {} that cannot be read",
            file.hosts.len(),
            file.skipped,
            file.refused
        );
        for line in &file.refused_first {
            let _ = writeln!(text, "    {path}:{}: {}", line.line, line.reason);
        }
    }
    text
}

/// Which thread would run where, and how packets would come to the workers.
fn describe_threads(config: &Config) -> Result<String, CoresError> {
    let machine = Machine::here();
    let placement = Placement::resolve(config.placement(), &machine, cores::allowed()?)?;
    let choices = steering::choose(config.steering, &config.listen, &placement.workers, &machine);
    let steered = choices.iter().map(|choice| format!("packets are steered to {choice}"));
    Ok(placement.describe().into_iter().chain(steered).map(|line| format!("  {line}\n")).collect())
}

fn describe(config: &Config) -> String {
    let addresses: Vec<String> = config.listen.iter().map(ToString::to_string).collect();
    let mut text = format!("  listens on {}\n", addresses.join(", "));
    for (name, group) in config.upstream.iter() {
        let servers: Vec<String> = group.servers.iter().map(ToString::to_string).collect();
        let servers = if servers.is_empty() { "none".to_owned() } else { servers.join(", ") };
        text += &format!("  upstream {name}: {servers}\n");
    }
    text + &format!(
        "  {} lists, {} policies, {} local records\n",
        config.list.len(),
        config.policy.len(),
        config.record.len()
    )
}
