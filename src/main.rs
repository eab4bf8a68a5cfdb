//! The program `corewall`: the command line, and nothing else. What each command does is told in `cli`.

use std::process::ExitCode;

use clap::Parser;
use corewall::cli::{self, Cli};

fn main() -> ExitCode {
    // Wrong usage ends here with exit code 2, `--help` and `--version` with 0.
    cli::run(Cli::parse())
}
