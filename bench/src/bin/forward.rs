//! What an answer costs that must be fetched, against Unbound: both forward to the same nsd, in turns on the same core.
//!
//! In each round every server is started, asked and stopped, so a machine that slows down slows all. Four measurements:
//! *uncached*, names never asked before in this run, at a fixed rate and at full speed; *cached*, names asked once before, the
//! same two ways, with nsd stopped by SIGSTOP so that what is answered came from the cache. nsd and the client share the other core.
//!
//! Exit code 0: all answers right, none lost, and Corewall's CPU per uncached answer within `--ratio-max` of Unbound's; 1: not
//! so; 2: the run could not be made.

use std::collections::BTreeMap;
use std::error::Error;
use std::fmt;
use std::fs;
use std::net::SocketAddr;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};
use std::time::Duration;

use clap::Parser;
use corewall_bench::figures::{Host, Spread, first_line};
use corewall_bench::forwarders::{self, CACHE_MIB, Forwarder, Site};
use corewall_bench::fresh_names::FreshNames;
use corewall_bench::load::{self, LoadOptions, LoadReport, Until};
use corewall_bench::process;
use corewall_bench::questions::{PacketOptions, Questions};
use corewall_bench::server::Server;
use serde::Serialize;

/// Longer than any of the servers tries to get an answer.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(5);
/// Names asked of a server that has just started, before anything is measured.
const FIRST_NAMES: u64 = 5_000;
/// Open questions while the cache is filled: an upstream on one core is not to be flooded.
const WARM_UP_WINDOW: usize = 32;

/// Measures the CPU of forwarded and of cached answers against Unbound, in turns.
#[derive(Parser)]
struct Options {
    /// Binary of the server
    #[arg(long, default_value = "target/release/corewall")]
    corewall: PathBuf,
    /// Store for Corewall, with --rules; without it one of a single rule is built
    #[arg(long, requires = "rules")]
    store: Option<PathBuf>,
    /// The plain list that the store was built from
    #[arg(long, requires = "store")]
    rules: Option<PathBuf>,
    /// Servers to measure beside Corewall; the ratio is to the first
    #[arg(long, value_delimiter = ',', default_value = "unbound")]
    peers: Vec<String>,
    /// Folder for configurations and logs
    #[arg(long, default_value = "target/bench/forward")]
    work: PathBuf,
    /// File for the figures
    #[arg(long, default_value = "bench/results/forward.json")]
    out: PathBuf,
    /// Rounds of the servers in turns
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u16).range(1..=100))]
    rounds: u16,
    /// Questions a second; 0 is full speed
    #[arg(long, value_delimiter = ',', default_value = "0,25000,10000")]
    rates: Vec<u64>,
    /// Rates at which the ratio may not be exceeded
    #[arg(long, value_delimiter = ',', default_value = "0")]
    held_rates: Vec<u64>,
    /// Seconds of each measurement but the uncached one at full speed, which takes as long as its names last
    #[arg(long, default_value_t = 4, value_parser = clap::value_parser!(u64).range(1..=600))]
    seconds: u64,
    /// New names of the uncached measurement at full speed
    #[arg(long, default_value_t = 200_000, value_parser = clap::value_parser!(u64).range(1..=10_000_000))]
    names: u64,
    /// Names that are asked again from the cache
    #[arg(long, default_value_t = 20_000, value_parser = clap::value_parser!(u64).range(1..=1_000_000))]
    cached_names: u64,
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
    /// Share of the first peer's CPU per uncached answer that Corewall's may not exceed
    #[arg(long, default_value_t = 0.5)]
    ratio_max: f64,
    /// Address of the servers
    #[arg(long, default_value = "127.0.0.1:5399")]
    listen: SocketAddr,
    /// Address of the upstream
    #[arg(long, default_value = "127.0.0.1:5398")]
    upstream: SocketAddr,
}

/// What is written to the results.
#[derive(Debug, Serialize)]
struct Results {
    #[serde(flatten)]
    host: Host,
    /// Of each server and of nsd.
    versions: BTreeMap<String, String>,
    /// The configuration of each server.
    configs: BTreeMap<String, String>,
    rates: Vec<u64>,
    held_rates: Vec<u64>,
    seconds: u64,
    names: u64,
    cached_names: u64,
    window: usize,
    cache_mib: usize,
    edns: bool,
    ratio_max: f64,
    summaries: Vec<Summary>,
    /// By measurement and server, one a round.
    figures: BTreeMap<String, BTreeMap<String, Vec<LoadReport>>>,
}

/// One way to ask.
struct Measurement {
    mix: &'static str,
    /// Questions a second; 0 is full speed.
    rate: u64,
}

impl fmt::Display for Measurement {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.rate {
            0 => write!(f, "{}, full speed", self.mix),
            rate => write!(f, "{}, {rate}/s", self.mix),
        }
    }
}

/// One measurement of all rounds; CPU in microseconds per answer.
#[derive(Debug, Serialize)]
struct Summary {
    name: String,
    /// Whether the ratio may not be exceeded.
    is_held: bool,
    cpu_us: BTreeMap<String, Spread>,
    qps: BTreeMap<String, Spread>,
    /// Corewall's share of each peer's CPU: the ratios of the rounds.
    ratios: BTreeMap<String, Spread>,
    wrong: BTreeMap<String, u64>,
    lost: BTreeMap<String, u64>,
}

fn main() -> ExitCode {
    match run(&Options::parse()) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("forward: {error}");
            ExitCode::from(2)
        }
    }
}

fn run(options: &Options) -> Result<bool, Box<dyn Error>> {
    fs::create_dir_all(&options.work)?;
    let site = make_site(options)?;
    let mut servers = vec![Forwarder::Corewall];
    for name in &options.peers {
        let known = || Forwarder::PEERS.map(|(peer, _)| peer.name()).join(", ");
        let peer = Forwarder::of_name(name).filter(|peer| *peer != Forwarder::Corewall);
        servers.push(peer.ok_or_else(|| format!("no peer `{name}`; known are {}", known()))?);
    }
    let nsd = forwarders::find_program("nsd").ok_or("nsd is missing; on Debian: apt-get install nsd")?;
    let mut versions = BTreeMap::from([("nsd".to_owned(), first_line(Command::new(nsd).arg("-v")))]);
    for server in &servers {
        versions.insert(server.name().to_owned(), server.version(&site)?);
    }
    let zone = options.work.join("root.zone");
    fs::write(&zone, FreshNames::zone())?;
    let upstream = start_upstream(options, &zone)?;
    let mut results = Results {
        host: Host::here(),
        versions,
        configs: servers.iter().map(|server| (server.name().to_owned(), server.told_config(&site))).collect(),
        rates: options.rates.clone(),
        held_rates: options.held_rates.clone(),
        seconds: options.seconds,
        names: options.names,
        cached_names: options.cached_names,
        window: options.window,
        cache_mib: CACHE_MIB,
        edns: options.edns,
        ratio_max: options.ratio_max,
        summaries: Vec::new(),
        figures: BTreeMap::new(),
    };
    let mut names = FreshNames::default();
    for round in 1..=options.rounds {
        for &forwarder in &servers {
            let server = forwarder.start(&site)?;
            let mut turn =
                Turn { options, forwarder, round, server: &server, upstream: &upstream, results: &mut results };
            turn.uncached(&mut names)?;
            turn.cached(&mut names)?;
            let ended = server.stop()?;
            if forwarder == Forwarder::Corewall && !ended.success() {
                return Err(format!("Corewall did not end cleanly on SIGTERM: {ended}").into());
            }
        }
    }
    upstream.stop()?;
    for mix in ["uncached", "cached"] {
        for &rate in &options.rates {
            let measurement = Measurement { mix, rate };
            let is_held = mix == "uncached" && options.held_rates.contains(&rate);
            let figures = &results.figures[&measurement.to_string()];
            results.summaries.push(summarise(&measurement, is_held, figures));
        }
    }
    fs::write(&options.out, serde_json::to_string_pretty(&results)? + "\n")?;
    print_summaries(&results, &servers);
    Ok(is_good(&results, servers.get(1).copied()))
}

fn make_site(options: &Options) -> Result<Site, Box<dyn Error>> {
    let mut site = Site {
        corewall: options.corewall.clone(),
        store: PathBuf::new(),
        rules: PathBuf::new(),
        work: options.work.clone(),
        cores: options.server_core.to_string(),
        listen: options.listen,
        upstreams: vec![options.upstream],
        strategy: None,
    };
    match (&options.store, &options.rules) {
        (Some(store), Some(rules)) => {
            (site.store, site.rules) = (fs::canonicalize(store)?, fs::canonicalize(rules)?);
        }
        _ => forwarders::build_small_store(&mut site)?,
    }
    Ok(site)
}

fn start_upstream(options: &Options, zone: &Path) -> Result<Server, Box<dyn Error>> {
    let mut command = Command::new("taskset");
    command.args(["-c", &options.client_core.to_string(), "bench/nsd/wildcard.sh"]);
    command.arg(format!("{}@{}", options.upstream.ip(), options.upstream.port())).arg(zone).process_group(0);
    Ok(Server::start_answering(command, &options.work.join("nsd.log"), options.upstream)?)
}

/// One server's part of one round.
struct Turn<'a> {
    options: &'a Options,
    forwarder: Forwarder,
    round: u16,
    server: &'a Server,
    upstream: &'a Server,
    results: &'a mut Results,
}

impl Turn<'_> {
    fn uncached(&mut self, names: &mut FreshNames) -> Result<(), Box<dyn Error>> {
        // A server that has just started has not made its sockets and buffers yet.
        self.ask_once(names, FIRST_NAMES)?;
        for &rate in &self.options.rates {
            let count = if rate == 0 { self.options.names } else { rate * self.options.seconds };
            let questions = names.take(usize::try_from(count)?, self.packets())?;
            self.measure("uncached", &questions, rate, Until::EachAsked)?;
        }
        Ok(())
    }

    fn cached(&mut self, names: &mut FreshNames) -> Result<(), Box<dyn Error>> {
        let questions = self.ask_once(names, self.options.cached_names)?;
        let until = Until::Elapsed(Duration::from_secs(self.options.seconds));
        // What is not in the cache is now lost, and fails the run.
        self.upstream.signal_group("STOP")?;
        let rates = &self.options.rates;
        let measured = rates.iter().try_for_each(|&rate| self.measure("cached", &questions, rate, until));
        self.upstream.signal_group("CONT")?;
        measured
    }

    /// Asks new names that are not measured, and returns them.
    fn ask_once(&self, names: &mut FreshNames, count: u64) -> Result<Questions, Box<dyn Error>> {
        let questions = names.take(usize::try_from(count)?, self.packets())?;
        let load = LoadOptions { window: WARM_UP_WINDOW, server_pid: None, ..self.load(None) };
        let report = self.on_client_core(|| load::run(&questions, &load, Until::EachAsked))?;
        if report.is_clean() {
            return Ok(questions);
        }
        Err(format!("{} did not answer all names of the warm-up:\n{}", self.forwarder.name(), report.to_text()).into())
    }

    fn measure(
        &mut self,
        mix: &'static str,
        questions: &Questions,
        rate: u64,
        until: Until,
    ) -> Result<(), Box<dyn Error>> {
        let key = Measurement { mix, rate };
        let load = self.load(Some(rate).filter(|rate| *rate > 0));
        let report = self.on_client_core(|| load::run(questions, &load, until))?;
        println!(
            "round {} {:9} {:22} {:6.2} us CPU/answer, {:4.2} cores, {:7.0} answers/s, p99 {:.0} us, {} wrong, {} lost",
            self.round,
            self.forwarder.name(),
            key.to_string(),
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
        let of_all = self.results.figures.entry(key.to_string()).or_default();
        of_all.entry(self.forwarder.name().to_owned()).or_default().push(report);
        Ok(())
    }

    fn packets(&self) -> PacketOptions {
        PacketOptions { recursion_desired: true, edns: self.options.edns, seed: 1, ..Default::default() }
    }

    fn load(&self, rate: Option<u64>) -> LoadOptions {
        LoadOptions {
            server: self.options.listen,
            window: self.options.window,
            sockets: 1,
            batch: 32,
            rate,
            timeout: ANSWER_TIMEOUT,
            // A client that spins would take the core that nsd needs.
            spin: false,
            any_answer: false,
            server_pid: Some(self.server.pid()),
            server_thread: None,
            phase_ends: Vec::new(),
        }
    }

    fn on_client_core(
        &self,
        load: impl FnOnce() -> std::io::Result<LoadReport> + Send,
    ) -> Result<LoadReport, Box<dyn Error>> {
        Ok(process::on_core(self.options.client_core, load)??)
    }
}

fn cpu_us(report: &LoadReport) -> f64 {
    report.server_cpu_us_per_answer.unwrap_or_default()
}

fn summarise(measurement: &Measurement, is_held: bool, figures: &BTreeMap<String, Vec<LoadReport>>) -> Summary {
    let spreads = |figure: fn(&LoadReport) -> f64| {
        figures.iter().map(|(server, reports)| (server.clone(), Spread::of(reports.iter().map(figure)))).collect()
    };
    let sums = |count: fn(&LoadReport) -> u64| {
        figures.iter().map(|(server, reports)| (server.clone(), reports.iter().map(count).sum())).collect()
    };
    let corewall = &figures[Forwarder::Corewall.name()];
    let peers = figures.iter().filter(|(server, _)| *server != Forwarder::Corewall.name());
    let ratios = peers.map(|(peer, reports)| {
        let of_rounds = corewall.iter().zip(reports).map(|(corewall, peer)| cpu_us(corewall) / cpu_us(peer));
        (peer.clone(), Spread::of(of_rounds))
    });
    Summary {
        name: measurement.to_string(),
        is_held,
        cpu_us: spreads(cpu_us),
        qps: spreads(|report| report.qps),
        ratios: ratios.collect(),
        wrong: sums(|report| report.wrong),
        lost: sums(|report| report.lost),
    }
}

/// A peer's losses are told, but not held against Corewall.
fn is_good(results: &Results, held_to: Option<Forwarder>) -> bool {
    results.summaries.iter().all(|summary| {
        let corewall = Forwarder::Corewall.name();
        let ratio = held_to.and_then(|peer| summary.ratios.get(peer.name())).map(|ratio| ratio.median);
        summary.wrong[corewall] == 0
            && summary.lost[corewall] == 0
            && (!summary.is_held || ratio.is_none_or(|ratio| ratio <= results.ratio_max))
    })
}

fn print_summaries(results: &Results, servers: &[Forwarder]) {
    println!(
        "\nCPU us per answer, median (least - most) of the rounds; {}, kernel {}",
        results.host.cpu, results.host.kernel
    );
    for (name, version) in &results.versions {
        println!("  {name}: {version}");
    }
    println!(
        "{:22} {:10} {:>24} {:>10} {:>20} {:>6} {:>6}",
        "", "server", "CPU us", "answers/s", "corewall's share", "wrong", "lost"
    );
    for summary in &results.summaries {
        for server in servers.iter().map(|server| server.name()) {
            println!(
                "{:22} {:10} {:>24} {:>10.0} {:>20} {:>6} {:>6}",
                summary.name,
                server,
                summary.cpu_us[server],
                summary.qps[server].median,
                summary.ratios.get(server).map(Spread::to_string).unwrap_or_default(),
                summary.wrong[server],
                summary.lost[server],
            );
        }
    }
    println!(
        "held: corewall's share of {} of an uncached answer at most {}",
        servers.get(1).map_or("-", |peer| peer.name()),
        results.ratio_max
    );
}

#[cfg(test)]
mod tests {
    use super::*;

    fn figures(corewall: [f64; 3], unbound: [f64; 3]) -> BTreeMap<String, Vec<LoadReport>> {
        let report = |us| LoadReport { server_cpu_us_per_answer: Some(us), ..Default::default() };
        let of = |name: &str, us: [f64; 3]| (name.to_owned(), us.map(report).to_vec());
        BTreeMap::from([of("corewall", corewall), of("unbound", unbound)])
    }

    #[test]
    fn the_ratio_is_the_median_of_the_ratios_of_the_rounds() {
        let measurement = Measurement { mix: "uncached", rate: 0 };
        let summary = summarise(&measurement, true, &figures([5.0, 20.0, 6.0], [10.0, 20.0, 20.0]));
        assert!(summary.is_held && summary.name == "uncached, full speed");
        assert_eq!(summary.ratios["unbound"], Spread { min: 0.3, median: 0.5, max: 1.0 });
    }
}
