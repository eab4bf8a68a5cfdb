//! Asks a DNS server the questions of a file, checks every answer, and tells what it cost.
//!
//! Exit code 0: every answer was right and came in time; 1: some were wrong or lost; 2: the run could not be made.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use clap::Parser;
use corewall_bench::arrivals::Arrivals;
use corewall_bench::load::{self, LoadOptions, Until};
use corewall_bench::process;
use corewall_bench::questions::{PacketOptions, Questions};

/// Closed-loop DNS load over UDP with every answer checked.
#[derive(Parser)]
struct Options {
    /// Address of the server
    #[arg(long, default_value = "127.0.0.1:5353")]
    server: SocketAddr,
    /// File of questions: NAME TYPE [any|answered|blocked|nxdomain|nodata|refused|servfail|ADDRESS] a line
    #[arg(long)]
    names: PathBuf,
    /// Seconds to ask
    #[arg(long, default_value_t = 10, value_parser = clap::value_parser!(u64).range(1..=3_600))]
    seconds: u64,
    /// Asks each question once instead
    #[arg(long, conflicts_with = "seconds")]
    each_once: bool,
    /// Asks each question once before measuring
    #[arg(long)]
    warm_up: bool,
    /// Questions open at a time
    #[arg(long, default_value_t = 256)]
    window: usize,
    /// Client sockets; with SO_REUSEPORT on the server each may reach another worker
    #[arg(long, default_value_t = 1)]
    sockets: usize,
    /// Datagrams in one system call
    #[arg(long, default_value_t = 32)]
    batch: usize,
    /// Questions a second at most
    #[arg(long)]
    rate: Option<u64>,
    /// Questions of that rate come at random moments drawn from --seed, as those of many clients do, not at equal distances
    #[arg(long, requires = "rate")]
    poisson: bool,
    /// Milliseconds after which a question is lost
    #[arg(long, default_value_t = 2_000)]
    timeout_ms: u64,
    /// Core to run on
    #[arg(long)]
    core: Option<usize>,
    /// Spins while waiting, so that the server need not wake this tool
    #[arg(long)]
    spin: bool,
    /// Adds an EDNS OPT record
    #[arg(long)]
    edns: bool,
    /// Writes names in random letter case, which the answers must repeat
    #[arg(long)]
    mixed_case: bool,
    /// Takes any answer to the question for right
    #[arg(long)]
    any_answer: bool,
    /// Seed of order and letter case
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Process whose CPU and memory are measured
    #[arg(long)]
    server_pid: Option<u32>,
    /// Only its threads whose name begins so
    #[arg(long, requires = "server_pid")]
    server_thread: Option<String>,
    /// Prints the report as JSON
    #[arg(long)]
    json: bool,
}

fn main() -> ExitCode {
    match run(&Options::parse()) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("load: {error}");
            ExitCode::from(2)
        }
    }
}

fn run(options: &Options) -> Result<bool, Box<dyn std::error::Error>> {
    if let Some(core) = options.core {
        process::pin(core)?;
    }
    let packets = PacketOptions {
        edns: options.edns,
        mixed_case: options.mixed_case,
        recursion_desired: true,
        seed: options.seed,
    };
    let questions = Questions::read(&options.names, packets)?;
    let load_options = LoadOptions {
        server: options.server,
        window: options.window,
        sockets: options.sockets,
        batch: options.batch,
        rate: options.rate,
        timeout: Duration::from_millis(options.timeout_ms),
        spin: options.spin,
        any_answer: options.any_answer,
        server_pid: options.server_pid,
        server_thread: options.server_thread.clone(),
        phase_ends: Vec::new(),
    };
    if options.warm_up {
        let warm = load::run(&questions, &load_options, Until::EachAsked)?;
        if !options.json {
            println!("warm-up {}", warm.to_text());
        }
    }
    let until = if options.each_once { Until::EachAsked } else { Until::Elapsed(Duration::from_secs(options.seconds)) };
    let arrivals = options.rate.map(|rate| match options.poisson {
        true => Arrivals::poisson(rate, options.seed),
        false => Arrivals::evenly(rate),
    });
    let report = load::run_arriving(&questions, &load_options, until, arrivals)?;
    if options.json {
        println!("{}", serde_json::to_string_pretty(&report)?);
    } else {
        print!("{}", report.to_text());
    }
    Ok(report.is_clean())
}
