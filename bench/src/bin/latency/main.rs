//! How long answers take at a part of the capacity: floor and Corewall in turns, in an open loop.
//!
//! In each turn a server is started, its capacity is measured (a closed loop at full speed), and then it is asked at parts of
//! that capacity. Arrivals follow a schedule that no answer can move, and latency counts from when a question was due.
//! Corewall is asked at the floor's rates as well: at the same part of its own capacity the two have different rates. Last the
//! server is left alone, and what it takes of its core is its idle CPU.
//!
//! A machine that takes a core away for some milliseconds once a second, as virtual ones do, moves the p99 of a whole run by
//! chance, the floor's as well. So each run is cut into slices by when questions were due, and the *typical* p99 is the median of
//! theirs: it says what the server does while the machine lets it. The p99 of the whole run is told beside it, and for how long
//! the server waited for its core.
//!
//! Held: the typical p99 at half of the own capacity against the floor's, idle CPU, and that everything was answered rightly in a loop
//! that stayed open. A server that spins is held against a floor that spins, and to no idle CPU.
//!
//! Exit code 0: all that is held is so; 1: not so; 2: the run could not be made.

use std::error::Error;
use std::fs;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitCode;
use std::thread;
use std::time::{Duration, Instant};

use clap::{Parser, ValueEnum};
use corewall_bench::arrivals::Arrivals;
use corewall_bench::figures::Host;
use corewall_bench::load::{self, LoadOptions, LoadReport, Until};
use corewall_bench::process;
use corewall_bench::questions::Questions;
use corewall_bench::server::Server;
use corewall_bench::sides::{self, CorewallOptions, Place};
use serde::Serialize;

mod summary;

use summary::Results;

/// The binary's own choice of the option `wait`.
const DEFAULT_WAIT: &str = "default";
/// The mode that takes its whole core, and is held against a floor that does so too.
const SPINNING_WAIT: &str = "spin";
/// The part of the capacity at which the ratio is held.
const HELD_PERCENT: u64 = 50;
/// A rate nearer to the capacity measures the queue, not the server.
const PERCENT_MAX: f64 = 90.0;
/// Long enough for a p99 of its own at a few thousand questions a second.
const SLICE: Duration = Duration::from_millis(100);
/// Between the last answer and the look at an idle server, so that what the load left behind is not counted.
const SETTLING: Duration = Duration::from_millis(500);

/// Measures latency at parts of the capacity, in an open loop, against a bare reflector.
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
    #[arg(long, default_value = "target/bench/latency")]
    work: PathBuf,
    /// File for the figures; the chart lies beside it, as .svg
    #[arg(long, default_value = "bench/results/latency.json")]
    out: PathBuf,
    /// Mixes to measure: blocked, cached
    #[arg(long, value_delimiter = ',', default_value = "blocked,cached")]
    mixes: Vec<String>,
    /// Names of a mix at most
    #[arg(long, default_value_t = 50_000)]
    names_max: usize,
    /// Corewall's option `wait`, each mode a side of its own; "default" leaves it at the binary's default
    #[arg(long, value_delimiter = ',', default_value = "default,spin")]
    wait: Vec<String>,
    /// Parts of the capacity
    #[arg(long, value_delimiter = ',', default_value = "10,50,80", value_parser = clap::value_parser!(u64).range(1..=90))]
    percent: Vec<u64>,
    /// How arrivals are spread
    #[arg(long, value_enum, default_value = "poisson")]
    spacing: Spacing,
    /// Seed of random arrivals; each round has another one, the same for all servers
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Rounds of all servers in turns
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u16).range(1..=100))]
    rounds: u16,
    /// Seconds of each measurement
    #[arg(long, default_value_t = 2, value_parser = clap::value_parser!(u64).range(1..=60))]
    seconds: u64,
    /// Seconds for which a server is left alone
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u64).range(1..=600))]
    idle_seconds: u64,
    /// Client sockets of the open loop, each with a window of 4096 questions
    #[arg(long, default_value_t = 4)]
    sockets: usize,
    /// Core of the servers
    #[arg(long, default_value_t = 0)]
    server_core: usize,
    /// Core of the load and of the upstream
    #[arg(long, default_value_t = 1)]
    client_core: usize,
    /// Times the floor's p99 at half capacity that Corewall's may not exceed
    #[arg(long, default_value_t = 1.5)]
    ratio_max: f64,
    /// Percent of a core that an idle server may take
    #[arg(long, default_value_t = 1.0)]
    idle_percent_max: f64,
    /// Address of the servers
    #[arg(long, default_value = "127.0.0.1:5399")]
    listen: SocketAddr,
    /// Address of the upstream
    #[arg(long, default_value = "127.0.0.1:5398")]
    upstream: SocketAddr,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum, Serialize)]
#[serde(rename_all = "kebab-case")]
enum Spacing {
    /// Random moments, as of many independent clients
    Poisson,
    /// Equal distances
    Even,
}

/// A server under measurement.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Side {
    Floor { spin: bool },
    Corewall { wait: String },
}

impl Side {
    fn name(&self) -> String {
        match self {
            Self::Floor { spin: false } => "floor".to_owned(),
            Self::Floor { spin: true } => "spinning floor".to_owned(),
            Self::Corewall { wait } if wait == DEFAULT_WAIT => "corewall".to_owned(),
            Self::Corewall { wait } => format!("corewall, {wait}"),
        }
    }

    fn spins(&self) -> bool {
        match self {
            Self::Floor { spin } => *spin,
            Self::Corewall { wait } => wait == SPINNING_WAIT,
        }
    }

    /// The floor that it is held against.
    fn floor(&self) -> Self {
        Self::Floor { spin: self.spins() }
    }
}

/// All sides of a round, floors first: Corewall is asked at their rates too.
fn sides(waits: &[String]) -> Vec<Side> {
    let corewalls: Vec<Side> = waits.iter().map(|wait| Side::Corewall { wait: wait.clone() }).collect();
    let mut sides = vec![Side::Floor { spin: false }];
    if corewalls.iter().any(Side::spins) {
        sides.push(Side::Floor { spin: true });
    }
    sides.extend(corewalls);
    sides
}

/// Whose capacity a rate is a part of.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
enum Basis {
    /// The server's own.
    Own,
    /// That of the floor it is held against, in the same round.
    Floor,
}

/// A run at one rate.
#[derive(Debug, Serialize)]
struct AtRate {
    percent: u64,
    of: Basis,
    rate: u64,
    /// Median of the slices' p99 in microseconds.
    us_p99_typical: f64,
    /// Part of the time for which threads of the server waited for a core that others had.
    server_waited_percent: f64,
    report: LoadReport,
}

/// One server's part of one round.
#[derive(Debug, Serialize)]
struct Turn {
    round: u16,
    mix: String,
    side: String,
    /// Answers a second at full speed.
    capacity: f64,
    /// The part of a core that it took when it was left alone.
    idle_percent: f64,
    at: Vec<AtRate>,
}

fn main() -> ExitCode {
    let options = Options::parse();
    match run(&options) {
        Ok(results) if summary::failures(&results, &options).is_empty() => ExitCode::SUCCESS,
        Ok(results) => {
            for failure in summary::failures(&results, &options) {
                eprintln!("latency: {failure}");
            }
            ExitCode::FAILURE
        }
        Err(error) => {
            eprintln!("latency: {error}");
            ExitCode::from(2)
        }
    }
}

fn run(options: &Options) -> Result<Results, Box<dyn Error>> {
    let place = Place {
        corewall: options.corewall.clone(),
        names: options.names.clone(),
        store: options.store.clone(),
        work: options.work.clone(),
        listen: options.listen,
        upstream: options.upstream,
        confined_to: None,
    };
    place.check()?;
    let is_favoured = process::favour_ourselves();
    let mut turns = Vec::new();
    for mix in &options.mixes {
        let questions = place.questions(mix, options.names_max)?;
        for round in 1..=options.rounds {
            let from = turns.len();
            for side in sides(&options.wait) {
                let floor_capacity = turns[from..].iter().find(|turn: &&Turn| turn.side == side.floor().name());
                let floor_capacity = floor_capacity.map(|turn| turn.capacity);
                let asker = Asker { options, place: &place, questions: &questions, mix, round, side };
                turns.push(asker.take_turn(floor_capacity)?);
            }
        }
    }
    let (summaries, idle) = summary::summarise(options, &turns);
    let results = Results {
        host: Host::here(),
        seconds: options.seconds,
        spacing: options.spacing,
        seed: options.seed,
        is_favoured,
        summaries,
        idle,
        turns,
    };
    fs::write(&options.out, serde_json::to_string_pretty(&results)? + "\n")?;
    summary::draw(options, &results)?;
    summary::print_summaries(&results);
    Ok(results)
}

/// Whoever asks one server in one round.
struct Asker<'a> {
    options: &'a Options,
    place: &'a Place,
    questions: &'a Questions,
    mix: &'a str,
    round: u16,
    side: Side,
}

impl Asker<'_> {
    fn take_turn(&self, floor_capacity: Option<f64>) -> Result<Turn, Box<dyn Error>> {
        let server = self.start()?;
        let capacity = self.ask(&server, None)?.qps;
        let mut at = Vec::new();
        let own = self.options.percent.iter().map(|&percent| (percent, Basis::Own, capacity));
        let floor = floor_capacity.filter(|_| !matches!(self.side, Side::Floor { .. }));
        let floor = floor
            .into_iter()
            .flat_map(|capacity| self.options.percent.iter().map(move |&percent| (percent, Basis::Floor, capacity)));
        for (percent, of, of_capacity) in own.chain(floor) {
            let rate = of_capacity * percent as f64 / 100.0;
            if rate > capacity * PERCENT_MAX / 100.0 {
                println!(
                    "  {percent} % of the floor's capacity is beyond what {} answers; not asked",
                    self.side.name()
                );
                continue;
            }
            let (waited_before, started) = (process::waited_ns(server.pid())?, Instant::now());
            let mut report = self.ask(&server, Some(rate as u64))?;
            let waited_ns = process::waited_ns(server.pid())?.saturating_sub(waited_before);
            let server_waited_percent = waited_ns as f64 / started.elapsed().as_nanos() as f64 * 100.0;
            // Their figures are in the median now, and would be most of the file.
            let slices = std::mem::take(&mut report.phases);
            let us_p99_typical = summary::typical_p99(&slices);
            let at_rate = AtRate { percent, of, rate: rate as u64, us_p99_typical, server_waited_percent, report };
            self.tell(&at_rate);
            at.push(at_rate);
        }
        let idle_percent = self.leave_alone(&server)?;
        println!("  idle: {idle_percent:.2} % of a core; capacity {capacity:.0}/s");
        server.stop()?;
        let (mix, side) = (self.mix.to_owned(), self.side.name());
        Ok(Turn { round: self.round, mix, side, capacity, idle_percent, at })
    }

    fn start(&self) -> Result<Server, Box<dyn Error>> {
        let cores = [self.options.server_core];
        match &self.side {
            Side::Floor { spin } => {
                let mut servers = self.place.start_floor(&cores, *spin)?;
                servers.pop().ok_or_else(|| "no reflector was started".into())
            }
            Side::Corewall { wait } => {
                let wait = Some(wait.clone()).filter(|wait| wait != DEFAULT_WAIT);
                let server = self.place.start_corewall(&cores, &CorewallOptions { wait, control: None })?;
                if self.mix == "cached" {
                    self.place.warm_up(self.questions, self.options.client_core)?;
                } else {
                    // Every name once, so that each round begins with the same pages of the store in memory.
                    let load = self.place.load_options();
                    sides::on_core(self.options.client_core, || load::run(self.questions, &load, Until::EachAsked))?;
                }
                Ok(server)
            }
        }
    }

    /// At full speed without a rate, else in an open loop.
    fn ask(&self, server: &Server, rate: Option<u64>) -> Result<LoadReport, Box<dyn Error>> {
        let mut load = LoadOptions {
            any_answer: matches!(self.side, Side::Floor { .. }),
            server_pid: Some(server.pid()),
            ..self.place.load_options()
        };
        if rate.is_some() {
            load.sockets = self.options.sockets;
            load.window = self.options.sockets * load::WINDOW_MAX;
            let slices = self.options.seconds * 1_000 / SLICE.as_millis() as u64;
            load.phase_ends = (1..slices).map(|slice| SLICE * slice as u32).collect();
        }
        let arrivals = rate.map(|rate| match self.options.spacing {
            Spacing::Even => Arrivals::evenly(rate),
            Spacing::Poisson => Arrivals::poisson(rate, self.options.seed + u64::from(self.round)),
        });
        let until = Until::Elapsed(Duration::from_secs(self.options.seconds));
        let report =
            sides::on_core(self.options.client_core, || load::run_arriving(self.questions, &load, until, arrivals))?;
        if report.server_cpu_us_per_answer == Some(0.0) {
            return Err("the server's process used no CPU: it is not the one that answers".into());
        }
        Ok(report)
    }

    fn leave_alone(&self, server: &Server) -> Result<f64, Box<dyn Error>> {
        thread::sleep(SETTLING);
        let (before, started) = (process::cpu_ns(server.pid(), None)?, Instant::now());
        thread::sleep(Duration::from_secs(self.options.idle_seconds));
        let used = process::cpu_ns(server.pid(), None)?.saturating_sub(before);
        Ok(used as f64 / started.elapsed().as_nanos() as f64 * 100.0)
    }

    fn tell(&self, at: &AtRate) {
        let AtRate { percent, of, rate, us_p99_typical, server_waited_percent, report } = at;
        println!(
            "round {} {:7} {:16} {percent:2} % of {:5} {rate:7}/s: p50 {:.0}, typical p99 {us_p99_typical:.0}, p99 {:.0}, p99.9 {:.0}, \
             max {:.0} us; {:.2} us CPU/answer; sent late p99 {:.0} us; waited for its core {server_waited_percent:.1} %; \
             {} wrong, {} lost{}",
            self.round,
            self.mix,
            self.side.name(),
            format!("{of:?}").to_lowercase(),
            report.us_p50,
            report.us_p99,
            report.us_p999,
            report.us_max,
            report.server_cpu_us_per_answer.unwrap_or_default(),
            report.us_late_p99,
            report.wrong,
            report.lost,
            if report.window_full > 0 { "; not open" } else { "" },
        );
        for example in &report.wrong_examples {
            println!("  {example}");
        }
    }
}
