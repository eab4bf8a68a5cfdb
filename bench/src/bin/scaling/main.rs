//! What more workers bring: the same load on 1, 2, 4, 8 and 16 of them, floor and Corewall in turns.
//!
//! Two ways to count, each with one worker as its own measure, and never mixed:
//!
//! - *apart*: a client on a core of its own for every worker. Answers a second are counted; that takes twice as many cores as
//!   there are workers.
//! - *shared*: one worker and one client on every core. Answers a second would tell of the clients as well, so CPU time of the
//!   workers per answer is counted, and capacity is what that time would allow: workers divided by CPU per answer. It tells
//!   what workers cost each other (locks, cache lines, memory) on a machine that has no core to spare.
//!
//! The floor is a reflector on every core, all on one port: what it loses is the kernel's and the machine's.
//!
//! Exit code 0: all answers right, and two workers bring at least `--two-min` times one; 1: not so; 2: the run could not be made.

use std::error::Error;
use std::fs;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::{Command, ExitCode};
use std::sync::Barrier;
use std::thread;
use std::time::{Duration, Instant};

use clap::{Parser, ValueEnum};
use corewall_bench::cores;
use corewall_bench::figures::Host;
use corewall_bench::load::{self, LoadOptions, LoadReport, Until};
use corewall_bench::process;
use corewall_bench::questions::Questions;
use corewall_bench::server::Server;
use corewall_bench::sides::{CorewallOptions, Place};
use serde::{Deserialize, Serialize};

mod summary;

use summary::Results;

/// Threads of Corewall's that answer.
const WORKER_THREAD: &str = "worker";
/// A worker that is busy for less of the time has not been asked for all it can.
const BUSY_MIN: f64 = 0.95;

/// Measures what more workers bring, against as many bare reflectors.
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
    #[arg(long, default_value = "target/bench/scaling")]
    work: PathBuf,
    /// File for the figures; the chart lies beside it, as .svg
    #[arg(long, default_value = "bench/results/scaling.json")]
    out: PathBuf,
    /// Numbers of workers; those that the machine has no cores for are left out, and told
    #[arg(long, value_delimiter = ',', default_value = "1,2,4,8,16", value_parser = clap::value_parser!(u64).range(1..=256))]
    workers: Vec<u64>,
    /// Ways to count
    #[arg(long, value_enum, value_delimiter = ',', default_value = "apart,shared")]
    accounting: Vec<Accounting>,
    /// Names to ask for, all of them blocked; each worker is asked for each of them before it is measured
    #[arg(long, default_value_t = 20_000)]
    names_max: usize,
    /// Corewall's option `wait`; without it the binary's default
    #[arg(long)]
    wait: Option<String>,
    /// Rounds in turns
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u16).range(1..=100))]
    rounds: u16,
    /// Seconds of each measurement
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u64).range(1..=600))]
    seconds: u64,
    /// Seconds of the same load before it
    #[arg(long, default_value_t = 2, value_parser = clap::value_parser!(u64).range(1..=600))]
    warm_up_seconds: u64,
    /// Client sockets for each worker: the kernel spreads sockets over workers, and few of them unevenly
    #[arg(long, default_value_t = 64, value_parser = clap::value_parser!(u64).range(1..=load::SOCKETS_MAX as u64))]
    sockets: u64,
    /// Questions open at a time for each worker
    #[arg(long, default_value_t = 512)]
    window: usize,
    /// Times one worker's that two must bring
    #[arg(long, default_value_t = 1.9)]
    two_min: f64,
    /// Address of the servers
    #[arg(long, default_value = "127.0.0.1:5399")]
    listen: SocketAddr,
}

/// How a capacity is counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, ValueEnum, Serialize)]
#[serde(rename_all = "kebab-case")]
enum Accounting {
    /// Answers a second, clients on other cores
    Apart,
    /// CPU time of workers per answer, clients on the same cores
    Shared,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "kebab-case")]
enum Side {
    Floor,
    Corewall,
}

/// What one worker did during a measurement.
#[derive(Clone, Copy, Debug, Default, Serialize)]
struct WorkerPart {
    /// Part of the time that it was on its core.
    busy: f64,
    /// Its part of all answers; none for a server that does not tell.
    answers: Option<f64>,
    /// Questions that it received in one system call, on average.
    batch: Option<f64>,
}

/// One measurement.
#[derive(Clone, Debug, Serialize)]
struct Run {
    round: u16,
    side: Side,
    accounting: Accounting,
    workers: usize,
    worker_cores: Vec<usize>,
    client_cores: Vec<usize>,
    /// Right and wrong answers a second.
    answers_per_second: f64,
    /// CPU microseconds of the workers per answer.
    worker_us_per_answer: f64,
    /// Answers a second that the workers are good for, by this run's accounting.
    capacity: f64,
    /// Whether every worker was busy all the time; a capacity counted apart is one only then.
    is_saturated: bool,
    wrong: u64,
    lost: u64,
    parts: Vec<WorkerPart>,
}

fn main() -> ExitCode {
    let options = Options::parse();
    match run(&options) {
        Ok(results) if results.failures.is_empty() => ExitCode::SUCCESS,
        Ok(results) => {
            for failure in &results.failures {
                eprintln!("scaling: {failure}");
            }
            ExitCode::FAILURE
        }
        Err(error) => {
            eprintln!("scaling: {error}");
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
        // Blocked names need none.
        upstream: SocketAddr::from(([127, 0, 0, 1], 9)),
        confined_to: None,
    };
    place.check()?;
    let questions = place.questions("blocked", options.names_max)?;
    let cores = cores::in_order();
    let (settings, left_out) = settings(options, &cores);
    for told in &left_out {
        println!("{told}");
    }
    if settings.is_empty() {
        return Err("there is no number of workers that this machine has cores for".into());
    }
    let mut runs = Vec::new();
    for round in 1..=options.rounds {
        for side in [Side::Floor, Side::Corewall] {
            for setting in &settings {
                let run = measure(options, &place, &questions, (round, side), setting)?;
                tell(&run);
                runs.push(run);
            }
        }
    }
    let results = Results::of(Host::here(), options, left_out, runs);
    fs::write(&options.out, serde_json::to_string_pretty(&results)? + "\n")?;
    results.draw(&options.out.with_extension("svg"))?;
    results.print();
    Ok(results)
}

/// Where workers and clients run.
struct Setting {
    accounting: Accounting,
    worker_cores: Vec<usize>,
    client_cores: Vec<usize>,
}

/// All settings that these cores allow, and what is left out, in words.
fn settings(options: &Options, cores: &[usize]) -> (Vec<Setting>, Vec<String>) {
    let (mut settings, mut left_out) = (Vec::new(), Vec::new());
    for &accounting in &options.accounting {
        for &workers in &options.workers {
            let found = match accounting {
                Accounting::Apart => cores::apart(cores, workers as usize),
                Accounting::Shared => cores::shared(cores, workers as usize).map(|cores| (cores.clone(), cores)),
            };
            match found {
                Some((worker_cores, client_cores)) => settings.push(Setting { accounting, worker_cores, client_cores }),
                None => {
                    let needed = if accounting == Accounting::Apart { 2 * workers } else { workers };
                    let way = format!("{accounting:?}").to_lowercase();
                    left_out.push(format!(
                        "{workers} workers, {way}: not possible here, it takes {needed} cores and there are {}",
                        cores.len()
                    ));
                }
            }
        }
    }
    (settings, left_out)
}

/// The servers of one measurement.
struct Running {
    servers: Vec<Server>,
    cores: Vec<usize>,
    side: Side,
    corewall: PathBuf,
    control: PathBuf,
}

/// What `corewall status --json` tells of a worker, as far as it is read here.
#[derive(Clone, Debug, Default, Deserialize)]
struct WorkerStatus {
    #[serde(default)]
    udp_sent: u64,
    #[serde(default)]
    udp_batches: u64,
}

/// What `corewall status --json` tells.
#[derive(Debug, Default, Deserialize)]
struct Status {
    workers: Vec<WorkerStatus>,
}

impl Running {
    fn start(options: &Options, place: &Place, side: Side, cores: &[usize]) -> Result<Self, Box<dyn Error>> {
        let control = fs::canonicalize(&options.work)?.join("control.sock");
        let servers = match side {
            Side::Floor => place.start_floor(cores, false)?,
            Side::Corewall => {
                let with = CorewallOptions { wait: options.wait.clone(), control: Some(control.clone()) };
                vec![place.start_corewall(cores, &with)?]
            }
        };
        Ok(Self { servers, cores: cores.to_vec(), side, corewall: options.corewall.clone(), control })
    }

    /// Nanoseconds on a CPU, each worker's.
    fn workers_ns(&self) -> Result<Vec<u64>, Box<dyn Error>> {
        Ok(match self.side {
            Side::Corewall => {
                let pid = self.servers[0].pid();
                let each = self.cores.iter().map(|core| process::pinned_cpu_ns(pid, WORKER_THREAD, *core));
                each.collect::<Result<_, _>>()?
            }
            Side::Floor => {
                let each = self.servers.iter().map(|server| process::cpu_ns(server.pid(), None));
                each.collect::<Result<_, _>>()?
            }
        })
    }

    /// Replies and batches of each worker; empty for the floor.
    fn counted(&self) -> Result<Vec<WorkerStatus>, Box<dyn Error>> {
        if self.side == Side::Floor {
            return Ok(Vec::new());
        }
        let output =
            Command::new(&self.corewall).args(["status", "--json", "--control"]).arg(&self.control).output()?;
        if !output.status.success() {
            return Err(format!("corewall status: {}", String::from_utf8_lossy(&output.stderr)).into());
        }
        let status: Status = serde_json::from_slice(&output.stdout)?;
        Ok(status.workers)
    }

    fn stop(self) -> Result<(), Box<dyn Error>> {
        for server in self.servers {
            server.stop()?;
        }
        Ok(())
    }
}

fn measure(
    options: &Options,
    place: &Place,
    questions: &Questions,
    (round, side): (u16, Side),
    setting: &Setting,
) -> Result<Run, Box<dyn Error>> {
    let running = Running::start(options, place, side, &setting.worker_cores)?;
    let load = LoadOptions {
        window: options.window,
        sockets: options.sockets as usize,
        // A client that spins would take its core from the worker on it.
        spin: setting.accounting == Accounting::Apart,
        any_answer: side == Side::Floor,
        ..place.load_options()
    };
    let ask = |seconds| ask_from_all(&setting.client_cores, questions, &load, Duration::from_secs(seconds));
    ask(options.warm_up_seconds)?;
    let (ns_before, counted_before) = (running.workers_ns()?, running.counted()?);
    let started = Instant::now();
    let reports = ask(options.seconds)?;
    let elapsed_ns = started.elapsed().as_nanos() as f64;
    let (ns_after, counted_after) = (running.workers_ns()?, running.counted()?);
    running.stop()?;

    let workers = setting.worker_cores.len();
    let worker_ns: Vec<f64> =
        ns_after.iter().zip(&ns_before).map(|(after, before)| after.saturating_sub(*before) as f64).collect();
    let answers = reports.iter().map(|report| report.answered + report.wrong).sum::<u64>() as f64;
    let worker_us_per_answer = worker_ns.iter().sum::<f64>() / 1e3 / answers.max(1.0);
    let answers_per_second = reports.iter().map(|report| report.qps).sum::<f64>();
    let parts: Vec<WorkerPart> = (0..workers)
        .map(|worker| {
            let of = |all: &[WorkerStatus], what: fn(&WorkerStatus) -> u64| all.get(worker).map(what);
            let grown = |what| Some(of(&counted_after, what)?.saturating_sub(of(&counted_before, what)?) as f64);
            let (sent, batches) = (grown(|status| status.udp_sent), grown(|status| status.udp_batches));
            WorkerPart {
                busy: worker_ns[worker] / elapsed_ns,
                answers: sent.map(|sent| sent / answers.max(1.0)),
                batch: sent.zip(batches).map(|(sent, batches)| sent / batches.max(1.0)),
            }
        })
        .collect();
    Ok(Run {
        round,
        side,
        accounting: setting.accounting,
        workers,
        worker_cores: setting.worker_cores.clone(),
        client_cores: setting.client_cores.clone(),
        answers_per_second,
        worker_us_per_answer,
        capacity: summary::capacity(setting.accounting, workers, answers_per_second, worker_us_per_answer),
        is_saturated: parts.iter().all(|part| part.busy >= BUSY_MIN),
        wrong: reports.iter().map(|report| report.wrong).sum(),
        lost: reports.iter().map(|report| report.lost).sum(),
        parts,
    })
}

/// The same load from a thread on each of these cores, all beginning at once.
fn ask_from_all(
    cores: &[usize],
    questions: &Questions,
    load: &LoadOptions,
    time: Duration,
) -> Result<Vec<LoadReport>, Box<dyn Error>> {
    let begin = Barrier::new(cores.len());
    let reports: Vec<Result<LoadReport, String>> = thread::scope(|scope| {
        let ask = |&core: &usize| {
            let begin = &begin;
            scope.spawn(move || {
                let pinned = process::pin(core);
                // All of them come here, be it with an error, so none waits for ever.
                begin.wait();
                pinned?;
                load::run(questions, load, Until::Elapsed(time)).map_err(|error| error.to_string())
            })
        };
        let threads: Vec<_> = cores.iter().map(ask).collect();
        let ended = |thread: thread::ScopedJoinHandle<'_, _>| {
            thread.join().unwrap_or_else(|_| Err("a client's thread panicked".to_owned()))
        };
        threads.into_iter().map(ended).collect()
    });
    Ok(reports.into_iter().collect::<Result<_, _>>()?)
}

fn tell(run: &Run) {
    let parts: Vec<String> = run
        .parts
        .iter()
        .map(|part| {
            let answers = part.answers.map(|answers| format!(", {:.1} % of answers", answers * 100.0));
            let batch = part.batch.map(|batch| format!(", {batch:.1} a batch"));
            format!("busy {:.2}{}{}", part.busy, answers.unwrap_or_default(), batch.unwrap_or_default())
        })
        .collect();
    println!(
        "round {} {:9} {:7} {:2} workers: {:8.0} answers/s, {:.3} us of workers' CPU/answer, capacity {:8.0}/s; {} wrong, {} lost; {}",
        run.round,
        format!("{:?}", run.side).to_lowercase(),
        format!("{:?}", run.accounting).to_lowercase(),
        run.workers,
        run.answers_per_second,
        run.worker_us_per_answer,
        run.capacity,
        run.wrong,
        run.lost,
        parts.join("; "),
    );
}
