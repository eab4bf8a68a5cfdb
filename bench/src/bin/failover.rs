//! What clients notice when one of two upstreams dies under load: nothing may be lost, and the tail stays near the healthy one.
//!
//! Two nsd with the same zone stand behind Corewall; questions for new names come at a fixed rate whatever happens, and
//! latency counts from when each was due. Three phases of the same length: *healthy*; *down*, which begins when the upstream
//! that had more work is killed (its port refuses) or stopped by SIGSTOP (it is silent); *back*, from its restart or SIGCONT.
//!
//! Exit code 0: no question lost, no answer wrong, and p99 of both later phases within `--ratio-max` of the healthy one, for
//! every strategy, fault and rate; 1: not so; 2: the run could not be made.

use std::collections::BTreeMap;
use std::error::Error;
use std::fs;
use std::net::SocketAddr;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use clap::{Parser, ValueEnum};
use corewall_bench::contenders::{self, Contender, Site};
use corewall_bench::figures::{Host, first_line};
use corewall_bench::fresh_names::FreshNames;
use corewall_bench::load::{self, LoadOptions, LoadReport, PhaseReport, Until};
use corewall_bench::process;
use corewall_bench::questions::PacketOptions;
use corewall_bench::server::Server;
use serde::Serialize;

/// Strategies that are measured when none is named, as far as the binary knows them.
const STRATEGIES: [&str; 4] = ["fastest", "ordered", "round-robin", "parallel"];
/// Cache, Corewall's default.
const CACHE_KIB: u64 = 64 << 10;
/// Longer than Corewall waits for upstreams: a question without even a SERVFAIL by then is lost.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(5);
/// Client sockets: SO_REUSEPORT spreads them over the workers.
const SOCKETS: usize = 16;
/// Open questions: as many as come in [`ANSWER_TIMEOUT`] at the rates that are meant, so that the load never waits.
const WINDOW: usize = SOCKETS * load::WINDOW_MAX;
/// Load before the healthy phase, in which servers are measured for the first time and buffers grow.
const WARM_UP: Duration = Duration::from_secs(2);
/// Milliseconds by which an event follows the end of the phase before it, so that none reaches back into that phase.
const EVENT_LATE: Duration = Duration::from_millis(10);

/// Measures lost questions and latency while one of two upstreams fails.
#[derive(Parser)]
struct Options {
    /// Binary of the server
    #[arg(long, default_value = "target/release/corewall")]
    corewall: PathBuf,
    /// Strategies of the upstream group [default: all that the binary knows]
    #[arg(long = "strategy", value_delimiter = ',')]
    strategies: Vec<String>,
    /// Ways to fail
    #[arg(long = "fault", value_delimiter = ',', default_value = "kill,stop")]
    faults: Vec<Fault>,
    /// Questions a second
    #[arg(long = "rate", value_delimiter = ',', default_value = "5000,20000")]
    rates: Vec<u64>,
    /// Seconds of each phase
    #[arg(long, default_value_t = 8, value_parser = clap::value_parser!(u64).range(1..=600))]
    seconds: u64,
    /// Cores of Corewall's workers
    #[arg(long, default_value = "0-1")]
    cores: String,
    /// Times the healthy p99 that the p99 of the other phases may not exceed
    #[arg(long, default_value_t = 3.0)]
    ratio_max: f64,
    /// Folder for configurations and logs
    #[arg(long, default_value = "target/bench/failover")]
    work: PathBuf,
    /// File for the figures
    #[arg(long, default_value = "bench/results/failover.json")]
    out: PathBuf,
    /// Address of Corewall
    #[arg(long, default_value = "127.0.0.1:5399")]
    listen: SocketAddr,
    /// Addresses of the two upstreams
    #[arg(long, value_delimiter = ',', num_args = 2, default_value = "127.0.0.1:5398,127.0.0.1:5397")]
    upstreams: Vec<SocketAddr>,
}

/// How an upstream fails.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum, Serialize)]
#[serde(rename_all = "lowercase")]
enum Fault {
    /// SIGKILL: its port is closed and refuses.
    Kill,
    /// SIGSTOP: its socket takes questions until it is full, and nothing comes back.
    Stop,
}

/// What is written to the results.
#[derive(Debug, Serialize)]
struct Results {
    #[serde(flatten)]
    host: Host,
    corewall: String,
    nsd: String,
    config: String,
    /// Seconds of each phase.
    seconds: u64,
    ratio_max: f64,
    runs: Vec<Run>,
}

/// One strategy under one fault at one rate.
#[derive(Debug, Serialize)]
struct Run {
    /// None: the binary's default.
    strategy: Option<String>,
    fault: Fault,
    rate: u64,
    /// Which of the upstreams failed, from 0.
    victim: usize,
    /// Its share of the upstreams' CPU before.
    victim_share: f64,
    healthy: PhaseReport,
    down: PhaseReport,
    back: PhaseReport,
    /// p99 of the phase to that of the healthy one.
    down_ratio: f64,
    back_ratio: f64,
    sent: u64,
    wrong: u64,
    lost: u64,
    wrong_examples: Vec<String>,
    /// What Corewall has counted, warm-up included.
    counters: BTreeMap<String, u64>,
}

fn main() -> ExitCode {
    match run(&Options::parse()) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("failover: {error}");
            ExitCode::from(2)
        }
    }
}

fn run(options: &Options) -> Result<bool, Box<dyn Error>> {
    fs::create_dir_all(&options.work)?;
    let mut site = Site {
        corewall: options.corewall.clone(),
        store: PathBuf::new(),
        rules: PathBuf::new(),
        blocked: Arc::default(),
        work: options.work.clone(),
        cores: options.cores.clone(),
        listen: options.listen,
        upstreams: options.upstreams.clone(),
        strategy: None,
        cache_kib: CACHE_KIB,
    };
    contenders::build_small_store(&mut site)?;
    let nsd = contenders::find_program("nsd").ok_or("nsd is missing; on Debian: apt-get install nsd")?;
    let zone = options.work.join("root.zone");
    fs::write(&zone, FreshNames::zone())?;
    let mut results = Results {
        host: Host::here(),
        corewall: Contender::Corewall.version(&site)?.unwrap_or_default(),
        nsd: first_line(Command::new(nsd).arg("-v")),
        config: Contender::Corewall.told_config(&site).unwrap_or_default(),
        seconds: options.seconds,
        ratio_max: options.ratio_max,
        runs: Vec::new(),
    };
    let mut names = FreshNames::default();
    for strategy in strategies(options, &site)? {
        for &fault in &options.faults {
            for &rate in &options.rates {
                let site = Site { strategy: strategy.clone(), ..site.clone() };
                let run = Trial { options, site: &site, zone: &zone, fault, rate }.carry_out(&mut names)?;
                print_run(&run);
                results.runs.push(run);
                // What is known so far outlives a run that is cut short.
                fs::write(&options.out, serde_json::to_string_pretty(&results)? + "\n")?;
            }
        }
    }
    let is_good = |run: &Run| {
        run.lost == 0 && run.wrong == 0 && run.down_ratio <= options.ratio_max && run.back_ratio <= options.ratio_max
    };
    let bad = results.runs.iter().filter(|run| !is_good(run)).count();
    println!(
        "{} of {} runs without a lost question or a wrong answer, and with p99 within {} times the healthy one",
        results.runs.len() - bad,
        results.runs.len(),
        options.ratio_max
    );
    Ok(bad == 0)
}

/// Those that were asked for, else those that the binary knows, else its default alone.
fn strategies(options: &Options, site: &Site) -> Result<Vec<Option<String>>, Box<dyn Error>> {
    if !contenders::is_config_right(site)? {
        return Err(format!("{} refuses the configuration of this measurement", site.corewall.display()).into());
    }
    let asked = &options.strategies;
    let wanted: Vec<&str> =
        if asked.is_empty() { STRATEGIES.to_vec() } else { asked.iter().map(String::as_str).collect() };
    let mut known = Vec::new();
    for strategy in wanted {
        if contenders::is_config_right(&Site { strategy: Some(strategy.to_owned()), ..site.clone() })? {
            known.push(Some(strategy.to_owned()));
        } else if !asked.is_empty() {
            return Err(format!("{} knows no strategy `{strategy}`", site.corewall.display()).into());
        }
    }
    if known.is_empty() {
        println!("{} knows no strategies: its default alone is measured", site.corewall.display());
        known.push(None);
    }
    Ok(known)
}

/// One run to be made.
struct Trial<'a> {
    options: &'a Options,
    site: &'a Site,
    zone: &'a Path,
    fault: Fault,
    rate: u64,
}

impl Trial<'_> {
    fn carry_out(&self, names: &mut FreshNames) -> Result<Run, Box<dyn Error>> {
        let mut upstreams = self
            .options
            .upstreams
            .iter()
            .map(|&address| self.start_upstream(address))
            .collect::<Result<Vec<_>, _>>()?;
        let corewall = Contender::Corewall.start(self.site)?;
        let packets = PacketOptions { recursion_desired: true, seed: 1, ..Default::default() };
        let phase = Duration::from_secs(self.options.seconds);
        let count = |time: Duration| usize::try_from(self.rate * time.as_secs());
        let warm_up = names.take(count(WARM_UP)?, packets)?;
        let warm = load::run(&warm_up, &self.load(Vec::new()), Until::EachAsked)?;
        if !warm.is_clean() {
            return Err(format!("not all is answered while both upstreams are well:\n{}", warm.to_text()).into());
        }
        let before = cpu_of(&upstreams)?;
        let questions = names.take(count(phase)? * 3, packets)?;
        let load = self.load(vec![phase, phase * 2]);
        let outcome = thread::scope(|scope| {
            let asking = scope.spawn(|| load::run(&questions, &load, Until::EachAsked));
            let failing = self.fail_and_come_back(&mut upstreams, &before, Instant::now());
            let report = asking.join().map_err(|_| "the load generator panicked")?;
            Ok::<_, Box<dyn Error>>((report?, failing?))
        });
        for upstream in &upstreams {
            // One that is still stopped would not end, and one that was killed has no group any more.
            let _ = upstream.signal_group("CONT");
        }
        let (report, victim) = outcome?;
        let ended = corewall.stop()?;
        if !ended.success() {
            return Err(format!("Corewall did not end cleanly on SIGTERM: {ended}").into());
        }
        let log = fs::read_to_string(self.site.work.join("corewall.log"))?;
        self.summarise(report, victim, counters(&log))
    }

    /// Makes the busier upstream fail when the healthy phase is over, and brings it back a phase later. Returns which it was,
    /// and its share of the work.
    fn fail_and_come_back(
        &self,
        upstreams: &mut [Server],
        before: &[u64],
        began: Instant,
    ) -> Result<(usize, f64), Box<dyn Error>> {
        let phase = Duration::from_secs(self.options.seconds);
        let wait_until = |end: Duration| thread::sleep((end + EVENT_LATE).saturating_sub(began.elapsed()));
        wait_until(phase);
        let now = cpu_of(upstreams)?;
        let work: Vec<u64> = now.iter().zip(before).map(|(now, before)| now.saturating_sub(*before)).collect();
        let victim = usize::from(work[1] > work[0]);
        let share = work[victim] as f64 / work.iter().sum::<u64>().max(1) as f64;
        match self.fault {
            Fault::Kill => {
                upstreams[victim].signal_group("KILL")?;
                wait_until(phase * 2);
                upstreams[victim] = self.start_upstream(self.options.upstreams[victim])?;
            }
            Fault::Stop => {
                upstreams[victim].signal_group("STOP")?;
                wait_until(phase * 2);
                upstreams[victim].signal_group("CONT")?;
            }
        }
        Ok((victim, share))
    }

    fn start_upstream(&self, address: SocketAddr) -> Result<Server, Box<dyn Error>> {
        let mut command = Command::new("bench/nsd/wildcard.sh");
        command.arg(format!("{}@{}", address.ip(), address.port())).arg(self.zone).process_group(0);
        // Killed, it leaves its folder behind: among what `make clean` takes away.
        command.env("TMPDIR", fs::canonicalize(&self.options.work)?);
        Ok(Server::start_answering(command, &self.options.work.join(format!("nsd-{}.log", address.port())), address)?)
    }

    fn load(&self, phase_ends: Vec<Duration>) -> LoadOptions {
        LoadOptions {
            server: self.options.listen,
            window: WINDOW,
            sockets: SOCKETS,
            batch: 32,
            rate: Some(self.rate),
            timeout: ANSWER_TIMEOUT,
            spin: false,
            any_answer: false,
            server_pid: None,
            server_thread: None,
            phase_ends,
        }
    }

    fn summarise(
        &self,
        report: LoadReport,
        (victim, victim_share): (usize, f64),
        counters: BTreeMap<String, u64>,
    ) -> Result<Run, Box<dyn Error>> {
        let [healthy, down, back] = <[PhaseReport; 3]>::try_from(report.phases).map_err(|_| "not three phases")?;
        Ok(Run {
            strategy: self.site.strategy.clone(),
            fault: self.fault,
            rate: self.rate,
            victim,
            victim_share,
            down_ratio: down.us_p99 / healthy.us_p99,
            back_ratio: back.us_p99 / healthy.us_p99,
            healthy,
            down,
            back,
            sent: report.sent,
            wrong: report.wrong,
            lost: report.lost,
            wrong_examples: report.wrong_examples,
            counters,
        })
    }
}

fn cpu_of(upstreams: &[Server]) -> std::io::Result<Vec<u64>> {
    upstreams.iter().map(|upstream| process::group_cpu_ns(upstream.pid())).collect()
}

/// The counters that Corewall logs when it stops.
fn counters(log: &str) -> BTreeMap<String, u64> {
    let line = log.lines().rev().find_map(|line| line.split_once("stopped: ")).map_or("", |(_, counts)| counts);
    let counts = line.split_whitespace().filter_map(|part| part.split_once('='));
    counts.filter_map(|(name, count)| Some((name.to_owned(), count.parse().ok()?))).collect()
}

fn print_run(run: &Run) {
    let strategy = run.strategy.as_deref().unwrap_or("default");
    println!(
        "{strategy}, {:?} of upstream {} (it did {:.0} % of the work), {}/s: {} asked, {} wrong, {} lost",
        run.fault,
        run.victim + 1,
        run.victim_share * 100.0,
        run.rate,
        run.sent,
        run.wrong,
        run.lost
    );
    for (name, phase, ratio) in
        [("healthy", &run.healthy, 1.0), ("down", &run.down, run.down_ratio), ("back", &run.back, run.back_ratio)]
    {
        println!(
            "  {name:8} p50 {:7.0} us, p99 {:7.0} us ({ratio:.2} of healthy), p99.9 {:8.0} us, max {:8.0} us; {} wrong, {} lost",
            phase.us_p50, phase.us_p99, phase.us_p999, phase.us_max, phase.wrong, phase.lost
        );
    }
    for example in &run.wrong_examples {
        println!("  {example}");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counters_are_those_of_the_last_stop() {
        let log = "INFO stopped: received=1\nINFO stopped: received=7 upstream_sends=9 core 0\n";
        assert_eq!(counters(log), BTreeMap::from([("received".to_owned(), 7), ("upstream_sends".to_owned(), 9)]));
        assert!(counters("ready").is_empty());
    }
}
