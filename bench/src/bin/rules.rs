//! Makes a block list of any size whose names are like those of real lists, the same for the same seed; or learns the model for
//! it from a real list.
//!
//! Exit code 0: done; 2: it could not be.

use std::error::Error;
use std::fs;
use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::Parser;
use corewall_bench::name_model::{self, CHUNK_NAMES, NameMaker, NameModel};
use corewall_bench::questions::Random;

/// The model of the measurements, learned from 3.3 million names of public block lists.
const MODEL: &str = include_str!("../../data/name-model.json");

/// Makes a block list of so many names.
#[derive(Parser)]
struct Options {
    /// Names to make
    #[arg(long, default_value_t = 1_000_000)]
    names: u64,
    /// Seed: another one makes other names
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Threads that make them
    #[arg(long, default_value_t = 2)]
    threads: usize,
    /// Instead of all: so many of them, drawn at random
    #[arg(long, value_name = "N")]
    sample: Option<u64>,
    /// Put behind each name, such as ` A blocked` to make questions for `load`
    #[arg(long, default_value = "")]
    append: String,
    /// Instead of making names: learn a model from this list, one name a line, and print it
    #[arg(long, value_name = "FILE")]
    learn: Option<PathBuf>,
}

fn main() -> ExitCode {
    match run(&Options::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        // A reader that has enough, as `head` does, is no failure.
        Err(error)
            if error.downcast_ref::<io::Error>().is_some_and(|error| error.kind() == io::ErrorKind::BrokenPipe) =>
        {
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("rules: {error}");
            ExitCode::from(2)
        }
    }
}

fn run(options: &Options) -> Result<(), Box<dyn Error>> {
    let mut out = BufWriter::with_capacity(1 << 20, io::stdout().lock());
    match (&options.learn, options.sample) {
        (Some(list), _) => learn(list, &mut out)?,
        (None, Some(sample)) => write_sample(&maker(options)?, options, sample, &mut out)?,
        (None, None) => name_model::write_names(&maker(options)?, options.names, options.threads, &mut out)?,
    }
    Ok(out.flush()?)
}

fn maker(options: &Options) -> Result<NameMaker, Box<dyn Error>> {
    Ok(NameMaker::new(serde_json::from_str(MODEL)?, options.seed)?)
}

fn learn(list: &Path, out: &mut impl Write) -> Result<(), Box<dyn Error>> {
    let text = fs::read_to_string(list).map_err(|error| format!("{}: {error}", list.display()))?;
    let suffix_of = |name: &str| psl::suffix_str(name).map(str::len);
    let model = NameModel::learn(text.lines(), |name| Some(&name[name.len() - suffix_of(name)?..]));
    serde_json::to_writer(&mut *out, &model)?;
    Ok(writeln!(out)?)
}

/// Whole chunks are made for a name of each: that is quick enough for some hundred thousand names from hundreds of chunks.
fn write_sample(maker: &NameMaker, options: &Options, sample: u64, out: &mut impl Write) -> io::Result<()> {
    let chunks = (options.names / CHUNK_NAMES).max(1);
    let mut random = Random::new(options.seed ^ 0x5a5a_5a5a);
    let taken_from = chunks.min(SAMPLED_CHUNKS_MAX);
    for turn in 0..taken_from {
        let mut wanted = sample * (turn + 1) / taken_from - sample * turn / taken_from;
        let mut left = CHUNK_NAMES.min(options.names);
        let mut failure = Ok(());
        // Chunks spread evenly over all of them; within one, each name with the chance that brings the wanted number.
        maker.chunk(turn * chunks / taken_from, &mut |name| {
            if left > 0 && random.next() % left < wanted && failure.is_ok() {
                wanted -= 1;
                failure = out.write_all(name).and_then(|()| writeln!(out, "{}", options.append));
            }
            left = left.saturating_sub(1);
        });
        failure?;
    }
    Ok(())
}

/// Chunks that a sample is drawn from.
const SAMPLED_CHUNKS_MAX: u64 = 2_048;
