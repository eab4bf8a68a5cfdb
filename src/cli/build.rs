//! `corewall build`: lists in, a published generation out.

mod progress;

use std::collections::HashSet;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use clap::Args;
use corewall_sharding::build::SHARDS_MAX;
use corewall_sharding::manifest::Layout;
use corewall_sharding::publish::Store;
use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::iterator::Signals;

use self::progress::Teller;
use super::{Failure, print, print_json};
use crate::build::compare::{Compare, Threshold};
use crate::build::report::Report;
use crate::build::{self, BuildError, ListSpec, Options};
use crate::config::{self, WildcardAction, parse_build_memory};
use crate::decide::settings::Settings;
use crate::limits::{self, TOP_NAMES_SAVE_S};
use crate::lists::Format;
use crate::serve::top_names;

/// Read lists and publish a new generation of the store.
#[derive(Debug, Args)]
pub struct Arguments {
    /// Directory of the store, made when there is none; without it the configuration's
    #[arg(long, value_name = "DIR")]
    store: Option<PathBuf>,
    /// Configuration whose lists are read
    #[arg(long, value_name = "FILE", required_unless_present = "list", conflicts_with = "list")]
    config: Option<PathBuf>,
    /// A list to read, as FORMAT:PATH; may be given several times, the first one weighs most
    #[arg(long, value_name = "FORMAT:PATH", value_parser = parse_list, requires = "store")]
    list: Vec<(Format, PathBuf)>,
    /// Shards of the generation, 1 to 4096; without it the configuration's, or what the size of the lists asks for
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=i64::from(SHARDS_MAX)))]
    shards: Option<u16>,
    /// How the rules by name lie in the shards, "sql" or "packed"; without it the configuration's, or "sql"
    #[arg(long, value_name = "LAYOUT", value_parser = parse_layout)]
    layout: Option<Layout>,
    /// Bits that the filters keep of each name, 8 or 16; without it the configuration's, or 8
    #[arg(long, value_name = "BITS", value_parser = parse_filter_bits)]
    filter_bits: Option<u8>,
    /// Whether the places of the rows are written, true or false; without it the configuration's, or as layout and size ask for
    #[arg(long, value_name = "BOOL")]
    places: Option<bool>,
    /// Memory to use, such as 512M or 3G; without it the configuration's, or a quarter of the machine's
    #[arg(long, value_name = "SIZE", value_parser = parse_build_memory)]
    memory: Option<u64>,
    /// Threads to use, 1 to 256; without it the configuration's, or one a core
    #[arg(long, value_name = "N", value_parser = parse_threads)]
    threads: Option<usize>,
    /// Go on with a build of the same lists and options that was killed or interrupted, if there is one
    #[arg(long)]
    resume: bool,
    /// What the `block_wildcard` rows of dnsmasq-sqlite databases become
    #[arg(long, value_enum, value_name = "ACTION")]
    wildcard_action: Option<WildcardAction>,
    /// Write the refused lines to this file instead of into the generation
    #[arg(long, value_name = "FILE")]
    refused: Option<PathBuf>,
    /// Do not publish when more than N, or P%, of the names asked for most would be newly blocked; `corewall publish` does it then
    #[arg(long, value_name = "N|P%")]
    max_new_blocks: Option<Threshold>,
    /// The names asked for most, as a server keeps them; without it the file `top-names` of the store, if it is there
    #[arg(long, value_name = "FILE")]
    top_names: Option<PathBuf>,
    /// Make the rules that were changed by hand part of the generation; those that end by themselves stay live
    #[arg(long)]
    fold_overlay: bool,
    /// Print the report as JSON
    #[arg(long)]
    json: bool,
}

/// Builds and prints the report.
pub(super) fn run(arguments: Arguments) -> Result<(), Failure> {
    let mut options = Options {
        refused: arguments.refused,
        resume: arguments.resume,
        fold_overlay: arguments.fold_overlay,
        ..Options::default()
    };
    let mut settings = Settings::default();
    let (mut specs, store) = match &arguments.config {
        Some(path) => {
            let config = config::load(path).map_err(Failure::usage)?;
            config.build.put_into(&mut options);
            settings = config.settings();
            (config.list_specs(), arguments.store.unwrap_or(config.store))
        }
        // `clap` has made sure that both are there.
        None => (specs_of(&arguments.list), arguments.store.unwrap_or_default()),
    };
    if specs.is_empty() {
        return Err(Failure::usage(BuildError::NoLists));
    }
    options.shards = arguments.shards.or(options.shards);
    options.layout = arguments.layout.unwrap_or(options.layout);
    options.filter_bits = arguments.filter_bits.unwrap_or(options.filter_bits);
    options.places = arguments.places.or(options.places);
    options.memory_bytes = arguments.memory.or(options.memory_bytes);
    options.threads = arguments.threads.or(options.threads);
    if let Some(action) = arguments.wildcard_action {
        specs.iter_mut().for_each(|spec| spec.wildcard_action = action);
    }
    options.compare = compare(&store, arguments.top_names.as_deref(), arguments.max_new_blocks, settings)?;
    stop_at_signals(options.stop.clone()).map_err(Failure::runtime)?;
    let mut teller = Teller::new();
    let result = build::run(&specs, &store, &options, &mut |progress| teller.tell(progress));
    teller.end();
    let report = result.map_err(Failure::runtime)?;
    if arguments.json {
        print_json(&report)?
    } else {
        print(&report)?
    }
    if report.published { Ok(()) } else { Err(held_back(&report)) }
}

/// By which names the new generation is compared with the current one; none when no server has kept any.
fn compare(
    store: &Path,
    file: Option<&Path>,
    max_new_blocks: Option<Threshold>,
    settings: Settings,
) -> Result<Option<Compare>, Failure> {
    let path = file.map_or_else(|| store.join(top_names::FILE_NAME), Path::to_path_buf);
    match top_names::read(&path) {
        Ok(names) => Ok(Some(Compare { names, settings, max_new_blocks })),
        Err(error) if error.kind() == ErrorKind::NotFound && file.is_none() && max_new_blocks.is_none() => Ok(None),
        // The first build has nothing to compare with, whatever is asked of the later ones.
        Err(error) if error.kind() == ErrorKind::NotFound && file.is_none() && !has_current(store) => Ok(None),
        // A file that nobody asked about hinders no build.
        Err(error) if file.is_none() && max_new_blocks.is_none() => {
            eprintln!("warning: {}: {error}; what the build changes is not told", path.display());
            Ok(None)
        }
        Err(error) => Err(Failure::usage(format_args!(
            "{}: cannot read the names asked for most: {error}; a server writes them every {} minutes unless top_names = 0; name \
             a file of them by --top-names, or leave --max-new-blocks out",
            path.display(),
            TOP_NAMES_SAVE_S / 60
        ))),
    }
}

fn has_current(store: &Path) -> bool {
    Store::open(store).is_ok_and(|store| store.current_number().is_ok_and(|current| current.is_some()))
}

/// Why the generation was not published, and what to do with it.
fn held_back(report: &Report) -> Failure {
    let number = report.generation;
    let why = match &report.comparison {
        Some(comparison) => format!(
            "it would newly block {} of {} names asked for most, and {} are allowed to be",
            comparison.newly_blocked,
            comparison.names,
            comparison.max_new_blocks.unwrap_or_default()
        ),
        None => report.warnings.first().cloned().unwrap_or_default(),
    };
    Failure::runtime(format_args!(
        "generation {number} is complete but not published: {why}; `corewall publish {number}` publishes it all the same"
    ))
}

/// SIGINT and SIGTERM ask the build to end. Where it cannot at once, as in the middle of writing shards, the process ends:
/// a build may be killed at any moment.
fn stop_at_signals(stop: Arc<AtomicBool>) -> std::io::Result<()> {
    let mut signals = Signals::new([SIGINT, SIGTERM])?;
    let wait = move || {
        if signals.forever().next().is_some() {
            stop.store(true, Ordering::Relaxed);
            thread::sleep(Duration::from_millis(limits::BUILD_STOP_MS));
            eprintln!("error: {}", BuildError::Interrupted);
            std::process::exit(1);
        }
    };
    thread::Builder::new().name("signals".to_owned()).spawn(wait).map(drop)
}

fn parse_layout(text: &str) -> Result<Layout, String> {
    let known = Layout::ALL.iter().find(|(_, word)| *word == text);
    known.map(|(layout, _)| *layout).ok_or_else(|| "unknown layout; use sql or packed".to_owned())
}

fn parse_filter_bits(text: &str) -> Result<u8, String> {
    match text {
        "8" => Ok(8),
        "16" => Ok(16),
        _ => Err("use 8 or 16".to_owned()),
    }
}

fn parse_threads(text: &str) -> Result<usize, String> {
    let threads = text.parse().ok().filter(|threads| (1..=limits::BUILD_THREADS_MAX).contains(threads));
    threads.ok_or_else(|| format!("use 1 to {} threads", limits::BUILD_THREADS_MAX))
}

fn parse_list(text: &str) -> Result<(Format, PathBuf), String> {
    let (format, path) = text.split_once(':').ok_or("write it as FORMAT:PATH, for example hosts:/etc/hosts")?;
    if path.is_empty() {
        return Err("the path is missing; write it as FORMAT:PATH".to_owned());
    }
    Ok((format.parse().map_err(|error: crate::lists::UnknownFormat| error.to_string())?, PathBuf::from(path)))
}

/// Lists of the command line have the names of their files, or their whole path where two files have one name.
fn specs_of(lists: &[(Format, PathBuf)]) -> Vec<ListSpec> {
    let mut names = HashSet::new();
    let name_of = |path: &Path| {
        let short = path.file_name().unwrap_or(path.as_os_str()).to_string_lossy().into_owned();
        let whole = path.display().to_string();
        let numbered = (2..).map(|number| format!("{whole} ({number})"));
        // Never empty: the numbers do not end before the names do.
        [short, whole.clone()].into_iter().chain(numbered).find(|name| names.insert(name.clone())).unwrap_or_default()
    };
    let mut name_of = name_of;
    lists.iter().map(|(format, path)| ListSpec::new(&name_of(path), *format, path)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_of_the_command_line_have_different_names() {
        let list = |path: &str| parse_list(&format!("plain:{path}")).unwrap();
        let specs = specs_of(&[list("a/x.txt"), list("b/x.txt"), list("b/x.txt"), list("y.txt")]);
        let names: Vec<&str> = specs.iter().map(|spec| spec.list.name.as_str()).collect();
        assert_eq!(names, ["x.txt", "b/x.txt", "b/x.txt (2)", "y.txt"]);
    }

    #[test]
    fn a_list_argument_is_a_format_and_a_path() {
        assert_eq!(parse_list("dnsmasq-sqlite:/a:b.db").unwrap(), (Format::DnsmasqSqlite, PathBuf::from("/a:b.db")));
        assert!(parse_list("/etc/hosts").unwrap_err().contains("FORMAT:PATH"));
        assert!(parse_list("hosts:").unwrap_err().contains("missing"));
        assert!(parse_list("host:/etc/hosts").unwrap_err().contains("hosts"));
    }
}
