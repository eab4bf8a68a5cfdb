//! `corewall verify`: reads generations whole, and tells every file that is not as it was built.

use std::time::{Duration, Instant};

use clap::Args;
use corewall_sharding::publish::Store;
use corewall_sharding::verify::{self, Verified, VerifyStage};
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use serde::Serialize;

use super::store::StoreArguments;
use super::{Failure, print, print_json};

/// Rows of each shard that are looked up when nothing else is said.
const SAMPLE_DEFAULT: usize = 1_000;
/// Rows of each shard that can be looked up: they are kept in memory, some 50 bytes each.
const SAMPLE_MAX: u64 = 10_000_000;
/// Times a second that the terminal is drawn anew.
const DRAWS_HZ: u8 = 5;

/// Read every file of a generation and compare its checksum; look up rows of every shard as a query does.
#[derive(Debug, Args)]
pub struct Arguments {
    /// Number of the generation; without it the current one
    #[arg(value_name = "N", value_parser = clap::value_parser!(u64).range(1..), conflicts_with = "all")]
    number: Option<u64>,
    /// Verify every generation of the store
    #[arg(long)]
    all: bool,
    /// Rows of each shard, drawn at random, that are looked up by filter, routing and table; 0 for none
    #[arg(long, value_name = "K", default_value_t = SAMPLE_DEFAULT as u64, value_parser = clap::value_parser!(u64).range(0..=SAMPLE_MAX))]
    sample: u64,
    /// MiB a second that are read at most, to spare the disk of a serving machine
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    rate_mib: Option<u32>,
    #[command(flatten)]
    store: StoreArguments,
    /// Print the report as JSON
    #[arg(long)]
    json: bool,
}

/// What was found in one generation.
#[derive(Debug, Serialize)]
struct Report {
    generation: u64,
    files: u64,
    bytes: u64,
    rows: u64,
    bad: Vec<String>,
}

/// Verifies and prints the report.
pub(super) fn run(arguments: Arguments) -> Result<(), Failure> {
    let store = arguments.store.open()?;
    let numbers = match (arguments.number, arguments.all) {
        (Some(number), _) => vec![number],
        (None, true) => store.numbers().map_err(Failure::runtime)?,
        (None, false) => match store.current_number().map_err(Failure::runtime)? {
            Some(number) => vec![number],
            None => return Err(Failure::runtime("the store has no current generation; name one, or use --all")),
        },
    };
    let reports: Vec<Report> = numbers.into_iter().map(|number| verify_one(&store, number, &arguments)).collect();
    if arguments.json {
        print_json(&reports)?;
    } else {
        print(reports.iter().map(text).collect::<String>())?;
    }
    let bad: Vec<String> = reports.into_iter().flat_map(|report| report.bad).collect();
    if bad.is_empty() { Ok(()) } else { Err(Failure { messages: bad, code: 1 }) }
}

fn text(Report { generation, files, bytes, rows, bad }: &Report) -> String {
    let verdict = match bad.len() {
        0 => "as they were built".to_owned(),
        1 => "1 thing is wrong".to_owned(),
        count => format!("{count} things are wrong"),
    };
    format!("generation {generation}: {files} files, {bytes} bytes; {rows} rows looked up; {verdict}\n")
}

fn verify_one(store: &Store, generation: u64, arguments: &Arguments) -> Report {
    let (bar, mut pace) = (Bar::new(generation), Pace::new(arguments.rate_mib));
    let verified = verify::verify(store, generation, arguments.sample as usize, &mut |stage, done, of| {
        bar.show(stage, done, of);
        pace.keep(stage, done);
    });
    bar.0.finish_and_clear();
    match verified {
        Ok(Verified { files, bytes, rows, bad }) => {
            Report { generation, files, bytes, rows, bad: bad.iter().map(ToString::to_string).collect() }
        }
        Err(error) => Report { generation, files: 0, bytes: 0, rows: 0, bad: vec![error.to_string()] },
    }
}

/// Keeps a reader to a rate. Each stage begins to count anew, as its bytes do.
struct Pace {
    stage: VerifyStage,
    since: Instant,
    bytes_per_s: Option<f64>,
}

impl Pace {
    fn new(rate_mib: Option<u32>) -> Self {
        let bytes_per_s = rate_mib.map(|mib| f64::from(mib) * f64::from(1 << 20));
        Self { stage: VerifyStage::Sum, since: Instant::now(), bytes_per_s }
    }

    /// Sleeps until so many bytes of the stage are due.
    fn keep(&mut self, stage: VerifyStage, bytes: u64) {
        if stage != self.stage {
            (self.stage, self.since) = (stage, Instant::now());
        }
        if let Some(bytes_per_s) = self.bytes_per_s {
            let due = Duration::from_secs_f64(bytes as f64 / bytes_per_s);
            std::thread::sleep(due.saturating_sub(self.since.elapsed()));
        }
    }
}

/// How far it is, on a terminal; nothing elsewhere.
struct Bar(ProgressBar);

impl Bar {
    fn new(generation: u64) -> Self {
        let bar = ProgressBar::with_draw_target(None, ProgressDrawTarget::stderr_with_hz(DRAWS_HZ));
        // A constant of this file; a wrong one leaves the plain style.
        if let Ok(style) = ProgressStyle::with_template("{msg} {wide_bar} {percent} %, {eta} left") {
            bar.set_style(style);
        }
        bar.set_message(format!("generation {generation}"));
        Self(bar)
    }

    fn show(&self, stage: VerifyStage, done: u64, of: u64) {
        if stage == VerifyStage::Sample {
            self.0.set_message("looking rows up");
        }
        self.0.set_length(of);
        self.0.set_position(done);
    }
}
