//! `cargo bench --package corewall-stages [-- STAGE...]`: nanoseconds of each stage, without counting.

use std::path::Path;
use std::process::ExitCode;

use corewall_stages::Failure;
use corewall_stages::fixtures::{Fixtures, Sizes};
use corewall_stages::stages::{STAGES, Stage};
use corewall_stages::wall_time;

fn main() -> ExitCode {
    // Cargo adds `--bench`.
    let wanted: Vec<String> = std::env::args().skip(1).filter(|argument| !argument.starts_with("--")).collect();
    match run(&wanted) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("stages: {error}");
            ExitCode::from(2)
        }
    }
}

fn run(wanted: &[String]) -> Result<(), Failure> {
    let named = wanted.iter().map(|name| Stage::named(name)).collect::<Result<Vec<_>, _>>()?;
    let stages = if named.is_empty() { STAGES.iter().collect() } else { named };
    // Cargo runs a bench in its package's folder.
    let work = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../target/bench/stages");
    let fixtures = Fixtures::make(&work, Sizes::FULL)?;
    for stage in stages {
        let ns = wall_time::measure(&mut stage.warm(&fixtures)?)?;
        println!("{:<16} {ns:>8.1} ns  {}", stage.name, stage.does);
    }
    Ok(())
}
