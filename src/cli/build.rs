//! `corewall build`: lists in, a published generation out.

use std::collections::HashSet;
use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::Args;
use corewall_sharding::build::SHARDS_MAX;
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

use super::{Failure, print};
use crate::build::{self, ListSpec, Options, Progress};
use crate::config::{self, WildcardAction};
use crate::lists::Format;

/// Times a second that the terminal is drawn anew.
const DRAWS_HZ: u8 = 10;

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
    /// Shards of the generation, 1 to 4096; without it the configuration's, or 16
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=i64::from(SHARDS_MAX)))]
    shards: Option<u16>,
    /// What the `block_wildcard` rows of dnsmasq-sqlite databases become
    #[arg(long, value_enum, value_name = "ACTION")]
    wildcard_action: Option<WildcardAction>,
    /// Write the refused lines to this file instead of into the generation
    #[arg(long, value_name = "FILE")]
    refused: Option<PathBuf>,
    /// Make the rules that were changed by hand part of the generation; those that end by themselves stay live
    #[arg(long)]
    fold_overlay: bool,
    /// Print the report as JSON
    #[arg(long)]
    json: bool,
}

/// Builds and prints the report.
pub(super) fn run(arguments: Arguments) -> Result<(), Failure> {
    let mut options =
        Options { refused: arguments.refused, fold_overlay: arguments.fold_overlay, ..Options::default() };
    let (mut specs, store) = match &arguments.config {
        Some(path) => {
            let config = config::load(path).map_err(Failure::usage)?;
            options.shards = config.build.shards;
            (config.list_specs(), arguments.store.unwrap_or(config.store))
        }
        // `clap` has made sure that both are there.
        None => (specs_of(&arguments.list), arguments.store.unwrap_or_default()),
    };
    if specs.is_empty() {
        return Err(Failure::usage(build::BuildError::NoLists));
    }
    options.shards = arguments.shards.unwrap_or(options.shards);
    if let Some(action) = arguments.wildcard_action {
        specs.iter_mut().for_each(|spec| spec.wildcard_action = action);
    }
    let bar = Bar::new();
    let result = build::run(&specs, &store, &options, &mut |progress| bar.show(progress));
    bar.0.finish_and_clear();
    let report = result.map_err(Failure::runtime)?;
    if !arguments.json {
        return print(report);
    }
    let json = serde_json::to_string_pretty(&report).map_err(Failure::runtime)?;
    print(format_args!("{json}\n"))
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

/// What the build is at, on a terminal; nothing elsewhere.
struct Bar(ProgressBar);

impl Bar {
    fn new() -> Self {
        // `indicatif` draws nothing when standard error is no terminal.
        let bar = ProgressBar::with_draw_target(None, ProgressDrawTarget::stderr_with_hz(DRAWS_HZ));
        bar.enable_steady_tick(Duration::from_millis(1_000 / u64::from(DRAWS_HZ)));
        Self(bar)
    }

    fn show(&self, progress: Progress<'_>) {
        match progress {
            Progress::Read { list, rules } => self.0.set_message(format!("reading {list}: {rules} rules")),
            Progress::Compile { patterns } => self.0.set_message(format!("compiling {patterns} patterns")),
            Progress::Write { done, of } => self.measure("writing rules", done, of),
            Progress::Sync { done, of } => self.measure("syncing files", done, of),
        }
    }

    fn measure(&self, what: &'static str, done: u64, of: u64) {
        if self.0.length() != Some(of) {
            self.0.set_length(of);
            // The template is a constant of this file; a wrong one leaves the plain style.
            if let Ok(style) = ProgressStyle::with_template("{msg} {wide_bar} {pos}/{len}") {
                self.0.set_style(style);
            }
        }
        self.0.set_message(what);
        self.0.set_position(done);
    }
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
