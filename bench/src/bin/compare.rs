//! What Corewall's work costs above the floor: both run in turns on the same core, under the same questions.
//!
//! In each round the reflector and then Corewall is started, asked and stopped, so a machine that slows down slows both.
//! Two mixes: *blocked*, names in the store; *cached*, names that are not, each asked before and answered with the
//! upstream stopped, so that an answer can only come from the cache. Each mix is asked at full speed and at fixed rates: at
//! a fixed rate batches are small and waiting counts, as on a server that is not saturated. Blocked names are first asked
//! once each, of a server that has just started: that figure (*first time*) is of filters, store and cold memory, the
//! others are of names that come again. It is told, not held to the ratio.
//!
//! Exit code 0: all answers right and every ratio within `--ratio-max`; 1: not so; 2: the run could not be made.

use std::collections::BTreeMap;
use std::error::Error;
use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};
use std::time::Duration;

use clap::Parser;
use corewall_bench::figures::{Host, Spread};
use corewall_bench::load::{self, LoadOptions, LoadReport, Until};
use corewall_bench::process;
use corewall_bench::questions::{PacketOptions, Questions};
use corewall_bench::server::{self, Server};
use serde::Serialize;

/// Longer than a first answer takes that has to come from upstream.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(3);
/// Passes over the names before *cached* is measured; the last one must be clean.
const WARM_UP_PASSES: usize = 3;
/// Open questions while warming up: an upstream on one core is not to be flooded.
const WARM_UP_WINDOW: usize = 32;

/// Measures the CPU of Corewall per answer against a bare reflector, in turns.
#[derive(Parser)]
struct Options {
    /// Binary of the server
    #[arg(long, default_value = "target/release/corewall")]
    corewall: PathBuf,
    /// Folder written by bench/names.sh
    #[arg(long, default_value = "target/bench/names")]
    names: PathBuf,
    /// Store built from that folder's union.txt
    #[arg(long, default_value = "target/bench/store")]
    store: PathBuf,
    /// Folder for configuration and logs of the servers
    #[arg(long, default_value = "target/bench/compare")]
    work: PathBuf,
    /// File for the figures
    #[arg(long, default_value = "bench/results/compare.json")]
    out: PathBuf,
    /// Mixes to measure
    #[arg(long, value_delimiter = ',', default_value = "blocked,cached")]
    mixes: Vec<String>,
    /// Questions a second; 0 is full speed
    #[arg(long, value_delimiter = ',', default_value = "0,100000")]
    rates: Vec<u64>,
    /// Rounds of floor and server in turns
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u16).range(1..=100))]
    rounds: u16,
    /// Seconds of each measurement
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u64).range(1..=600))]
    seconds: u64,
    /// Questions open at a time
    #[arg(long, default_value_t = 128)]
    window: usize,
    /// Core of the servers
    #[arg(long, default_value_t = 0)]
    server_core: usize,
    /// Core of the load and of the upstream
    #[arg(long, default_value_t = 1)]
    client_core: usize,
    /// Adds an EDNS OPT record to the questions
    #[arg(long)]
    edns: bool,
    /// The ratio to the floor that may not be exceeded
    #[arg(long, default_value_t = 1.5)]
    ratio_max: f64,
    /// Address of both servers
    #[arg(long, default_value = "127.0.0.1:5399")]
    listen: SocketAddr,
    /// Address of the upstream
    #[arg(long, default_value = "127.0.0.1:5398")]
    upstream: SocketAddr,
}

/// Whose turn it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Side {
    Floor,
    Corewall,
}

/// One server's part of one round.
struct Turn<'a> {
    options: &'a Options,
    questions: &'a Questions,
    mix: &'a str,
    round: u16,
    side: Side,
}

/// The figures of one mix at one rate, a pair a round.
#[derive(Debug, Default, Serialize)]
struct Turns {
    floor: Vec<LoadReport>,
    corewall: Vec<LoadReport>,
}

/// What is written to the results.
#[derive(Debug, Serialize)]
struct Results {
    #[serde(flatten)]
    host: Host,
    seconds: u64,
    window: usize,
    edns: bool,
    /// Milliseconds from the start of the process to `ready`, each start.
    ready_ms: Vec<f64>,
    summaries: Vec<Summary>,
    figures: BTreeMap<String, Turns>,
}

/// One way to ask the names of a mix.
struct Measurement {
    name: String,
    rate: Option<u64>,
    until: Until,
    /// Whether the ratio may not be exceeded.
    is_held: bool,
}

fn measurements(options: &Options, mix: &str) -> Vec<Measurement> {
    let first = (mix == "blocked").then(|| Measurement {
        name: format!("{mix}, first time"),
        rate: None,
        until: Until::EachAsked,
        is_held: false,
    });
    let at_rate = |&rate: &u64| Measurement {
        name: if rate == 0 { format!("{mix}, full speed") } else { format!("{mix}, {rate}/s") },
        rate: Some(rate).filter(|rate| *rate > 0),
        until: Until::Elapsed(Duration::from_secs(options.seconds)),
        is_held: true,
    };
    first.into_iter().chain(options.rates.iter().map(at_rate)).collect()
}

/// The comparison of one measurement; CPU in microseconds per answer.
#[derive(Debug, Serialize)]
struct Summary {
    name: String,
    is_held: bool,
    floor_us: Spread,
    corewall_us: Spread,
    /// Median of the ratios of the rounds.
    ratio: f64,
    wrong: u64,
    lost: u64,
}

fn main() -> ExitCode {
    match run(&Options::parse()) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("compare: {error}");
            ExitCode::from(2)
        }
    }
}

fn run(options: &Options) -> Result<bool, Box<dyn Error>> {
    fs::create_dir_all(&options.work)?;
    let config = options.work.join("corewall.toml");
    let (listen, upstream) = (options.listen.to_string(), options.upstream.to_string());
    let store = fs::canonicalize(&options.store)
        .map_err(|error| format!("no store at {} ({error}); `make bench` builds one", options.store.display()))?;
    let union = fs::canonicalize(options.names.join("union.txt"))?;
    let core = options.server_core.to_string();
    fs::write(&config, server::corewall_config(&core, &listen, &store, &union, &upstream))?;

    let mut results = Results {
        host: Host::here(),
        seconds: options.seconds,
        window: options.window,
        edns: options.edns,
        ready_ms: Vec::new(),
        summaries: Vec::new(),
        figures: BTreeMap::new(),
    };
    for mix in &options.mixes {
        let packets = PacketOptions { recursion_desired: true, edns: options.edns, seed: 1, ..Default::default() };
        let questions = Questions::read(&options.names.join(format!("{mix}.names")), packets)?;
        for round in 1..=options.rounds {
            let floor = start_reflector(options)?;
            let turn = Turn { options, questions: &questions, mix, round, side: Side::Floor };
            measure(&turn, &floor, &mut results)?;
            floor.stop()?;
            let corewall = start_corewall(options, &config)?;
            results.ready_ms.push(corewall.ready_after.as_secs_f64() * 1e3);
            if mix == "cached" {
                warm_up(options, &questions)?;
            }
            measure(&Turn { side: Side::Corewall, ..turn }, &corewall, &mut results)?;
            let ended = corewall.stop()?;
            if !ended.success() {
                return Err(format!("Corewall did not end cleanly on SIGTERM: {ended}").into());
            }
        }
    }
    for mix in &options.mixes {
        for measurement in measurements(options, mix) {
            results.summaries.push(summarise(&measurement, &results.figures[&measurement.name]));
        }
    }
    fs::write(&options.out, serde_json::to_string_pretty(&results)? + "\n")?;
    print_summaries(&results);
    Ok(results.summaries.iter().all(|s| s.wrong == 0 && s.lost == 0 && (s.ratio <= options.ratio_max || !s.is_held)))
}

fn start_reflector(options: &Options) -> Result<Server, Box<dyn Error>> {
    // Cargo puts the binaries of one package side by side.
    server::await_free(options.listen)?;
    let mut command = Command::new(std::env::current_exe()?.with_file_name("reflector"));
    command.args(["--listen", &options.listen.to_string(), "--core", &options.server_core.to_string()]);
    Ok(Server::start(command, &options.work.join("reflector.log"))?)
}

fn start_corewall(options: &Options, config: &Path) -> Result<Server, Box<dyn Error>> {
    let mut command = Command::new(&options.corewall);
    command.arg("serve").arg("--config").arg(config);
    Ok(Server::start(command, &options.work.join("corewall.log"))?)
}

/// Asks each name until all are answered from the cache, then stops the upstream.
fn warm_up(options: &Options, questions: &Questions) -> Result<(), Box<dyn Error>> {
    let mut command = Command::new("taskset");
    command.args(["-c", &options.client_core.to_string(), "bench/nsd/wildcard.sh"]);
    command.arg(format!("{}@{}", options.upstream.ip(), options.upstream.port()));
    command.arg(options.names.join("root.zone"));
    let upstream = Server::start_answering(command, &options.work.join("nsd.log"), options.upstream)?;
    for pass in 1..=WARM_UP_PASSES {
        let load = LoadOptions { window: WARM_UP_WINDOW, ..load_options(options, None, None) };
        let report = on_client_core(options, || load::run(questions, &load, Until::EachAsked))?;
        if pass == WARM_UP_PASSES && !report.is_clean() {
            return Err(format!("the names could not all be cached:\n{}", report.to_text()).into());
        }
    }
    upstream.stop()?;
    Ok(())
}

/// Asks in every way and keeps the figures.
fn measure(turn: &Turn<'_>, server: &Server, results: &mut Results) -> Result<(), Box<dyn Error>> {
    let Turn { options, side, .. } = *turn;
    for Measurement { name, rate, until, .. } in measurements(options, turn.mix) {
        let load = LoadOptions { any_answer: side == Side::Floor, ..load_options(options, rate, Some(server)) };
        let report = on_client_core(options, || load::run(turn.questions, &load, until))?;
        println!(
            "round {} {:9} {:22} {:6.2} us CPU/answer, {:4.2} cores, {:7.0} answers/s, p99 {:.0} us, {} wrong, {} lost",
            turn.round,
            format!("{side:?}").to_lowercase(),
            name,
            cpu_us(&report),
            report.server_cores_used.unwrap_or_default(),
            report.qps,
            report.us_p99,
            report.wrong,
            report.lost,
        );
        for example in &report.wrong_examples {
            println!("  {example}");
        }
        if cpu_us(&report) == 0.0 {
            return Err("the server's process used no CPU: it is not the one that answers".into());
        }
        let turns = results.figures.entry(name).or_default();
        match side {
            Side::Floor => turns.floor.push(report),
            Side::Corewall => turns.corewall.push(report),
        }
    }
    Ok(())
}

fn cpu_us(report: &LoadReport) -> f64 {
    report.server_cpu_us_per_answer.unwrap_or_default()
}

fn load_options(options: &Options, rate: Option<u64>, server: Option<&Server>) -> LoadOptions {
    LoadOptions {
        server: options.listen,
        window: options.window,
        sockets: 1,
        batch: 32,
        rate,
        timeout: ANSWER_TIMEOUT,
        spin: true,
        any_answer: false,
        server_pid: server.map(Server::pid),
        server_thread: None,
        phase_ends: Vec::new(),
    }
}

fn on_client_core(
    options: &Options,
    load: impl FnOnce() -> std::io::Result<LoadReport> + Send,
) -> Result<LoadReport, Box<dyn Error>> {
    Ok(process::on_core(options.client_core, load)??)
}

fn summarise(measurement: &Measurement, turns: &Turns) -> Summary {
    let us = |reports: &[LoadReport]| reports.iter().map(cpu_us).collect::<Vec<_>>();
    let (floor, corewall) = (us(&turns.floor), us(&turns.corewall));
    let ratios = floor.iter().zip(&corewall).map(|(floor, corewall)| corewall / floor);
    let ratio = Spread::of(ratios).median;
    Summary {
        name: measurement.name.clone(),
        is_held: measurement.is_held,
        floor_us: Spread::of(floor),
        corewall_us: Spread::of(corewall),
        ratio,
        wrong: turns.corewall.iter().map(|report| report.wrong).sum(),
        lost: turns.corewall.iter().map(|report| report.lost).sum(),
    }
}

fn print_summaries(results: &Results) {
    println!(
        "\nCPU us per answer, median (least - most) of the rounds; {}, kernel {}",
        results.host.cpu, results.host.kernel
    );
    println!("{:24} {:>22} {:>22} {:>7} {:>6} {:>6}", "mix", "floor", "corewall", "ratio", "wrong", "lost");
    for summary in &results.summaries {
        println!(
            "{:24} {:>22} {:>22} {:>7.2} {:>6} {:>6}",
            summary.name, summary.floor_us, summary.corewall_us, summary.ratio, summary.wrong, summary.lost
        );
    }
    let ready = Spread::of(results.ready_ms.clone());
    println!("start to ready: {:.0} ms ({:.0} - {:.0})", ready.median, ready.min, ready.max);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_median_and_the_ratio_are_those_of_the_rounds() {
        let report = |us| LoadReport { server_cpu_us_per_answer: Some(us), ..Default::default() };
        let turns = Turns { floor: [2.0, 4.0, 2.0].map(report).into(), corewall: [3.0, 4.0, 2.4].map(report).into() };
        let measurement =
            Measurement { name: "blocked".to_owned(), rate: None, until: Until::EachAsked, is_held: true };
        let summary = summarise(&measurement, &turns);
        assert_eq!((summary.floor_us.median, summary.corewall_us.median, summary.ratio), (2.0, 3.0, 1.2));
    }
}
