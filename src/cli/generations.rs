//! `corewall generations`: what a store holds, which generation is current, and which one a roll-back would lead to.

use clap::Args;
use corewall_sharding::publish::Store;
use serde::Serialize;

use super::control::{bytes_text, row, table};
use super::store::{ServedStoreArguments, utc_text};
use super::{Failure, print, print_json};

/// List the generations of the store.
#[derive(Debug, Args)]
pub struct Arguments {
    #[command(flatten)]
    store: ServedStoreArguments,
    /// Print them as JSON
    #[arg(long)]
    json: bool,
}

/// What there is.
#[derive(Debug, Serialize)]
struct Report {
    /// The one that a server that starts now serves.
    current: Option<u64>,
    /// The one that `corewall rollback` leads to.
    before: Option<u64>,
    /// What the running server serves; more than one number in the middle of a reload. None when none answers.
    served: Option<Vec<u64>>,
    generations: Vec<Line>,
}

/// One generation.
#[derive(Debug, Serialize)]
#[serde(untagged)]
enum Line {
    Readable {
        number: u64,
        created_s: u64,
        format: u32,
        layout: &'static str,
        shards: u16,
        rules: u64,
        lists: usize,
        /// Of all files but the places.
        bytes: u64,
        bytes_per_rule: f64,
        places_bytes: u64,
        overlay_seq: u64,
    },
    Unreadable {
        number: u64,
        error: String,
    },
}

/// Lists them.
pub(super) fn run(arguments: Arguments) -> Result<(), Failure> {
    let (store, server) = arguments.store.open()?;
    let report = report(&store, server.served()).map_err(Failure::runtime)?;
    if arguments.json { print_json(&report) } else { print(text(&report)) }
}

fn report(store: &Store, served: Option<Vec<u64>>) -> Result<Report, corewall_sharding::StoreError> {
    let line = |number| match store.manifest(number) {
        Ok(manifest) => {
            let places_bytes = manifest.places_bytes();
            let bytes = manifest.bytes() - places_bytes;
            Line::Readable {
                number,
                created_s: manifest.created_s,
                format: manifest.format,
                layout: manifest.layout.word(),
                shards: manifest.shards,
                rules: manifest.rules,
                lists: manifest.lists.len(),
                bytes,
                bytes_per_rule: if manifest.rules == 0 { 0.0 } else { bytes as f64 / manifest.rules as f64 },
                places_bytes,
                overlay_seq: manifest.overlay_seq,
            }
        }
        Err(error) => Line::Unreadable { number, error: error.to_string() },
    };
    Ok(Report {
        current: store.current_number()?,
        before: store.number_before()?,
        served,
        generations: store.numbers()?.into_iter().map(line).collect(),
    })
}

fn text(report: &Report) -> String {
    if report.generations.is_empty() {
        return "no generation; make one with `corewall build`\n".to_owned();
    }
    let mark = |number: u64| {
        let mut marks = Vec::new();
        if report.current == Some(number) {
            marks.push("current");
        }
        if report.before == Some(number) {
            marks.push("before");
        }
        if report.served.as_ref().is_some_and(|served| served.contains(&number)) {
            marks.push("served");
        }
        marks.join(", ")
    };
    let heading: [&dyn std::fmt::Display; 12] = [
        &"number", &"", &"created", &"rules", &"lists", &"layout", &"shards", &"bytes", &"a rule", &"places",
        &"format", &"overlay",
    ];
    let (mut rows, mut errors) = (vec![row(heading)], String::new());
    for line in &report.generations {
        match line {
            Line::Readable {
                number,
                created_s,
                format,
                layout,
                shards,
                rules,
                lists,
                bytes,
                bytes_per_rule,
                places_bytes,
                overlay_seq,
            } => rows.push(row([
                number,
                &mark(*number),
                &utc_text(*created_s),
                rules,
                lists,
                layout,
                shards,
                &bytes_text(*bytes),
                &format!("{bytes_per_rule:.1}"),
                &bytes_text(*places_bytes),
                format,
                overlay_seq,
            ])),
            Line::Unreadable { number, error } => {
                let none: &dyn std::fmt::Display = &"-";
                rows.push(row([number, &mark(*number), none, none, none, none, none, none, none, none, none, none]));
                errors += &format!("generation {number}: {error}\n");
            }
        }
    }
    if let Some(current) = report.current.filter(|current| !numbers(report).any(|number| number == *current)) {
        errors += &format!("the current generation {current} is gone; publish another one\n");
    }
    let told = match &report.served {
        None => "no running server of this store is known of\n".to_owned(),
        Some(served) if served.iter().copied().eq(report.current) => String::new(),
        Some(_) => {
            "the running server does not serve the current generation; `corewall reload` has it go over\n".to_owned()
        }
    };
    table(&rows) + &told + &errors
}

fn numbers(report: &Report) -> impl Iterator<Item = u64> {
    report.generations.iter().map(|line| match line {
        Line::Readable { number, .. } | Line::Unreadable { number, .. } => *number,
    })
}
