//! How long a rule that is changed by hand takes to be effective, on a server under full load.
//!
//! Corewall forwards to an nsd that knows every name. A closed loop keeps its workers busy with cached and with blocked names;
//! beside it, round after round, a name whose answer every worker has in its cache is blocked by `corewall rule add` and let go
//! again by `corewall rule remove`. Many sockets ask for it, so that each worker is asked: as long as the command runs, to see
//! when the last one has changed, and once more when it has come back: from then on no old answer may come.
//!
//! Exit code 0: no old answer after a command had come back, and p99 within `--ms-max`; 1: not so; 2: the run could not be made.

use std::error::Error;
use std::fs;
use std::net::{SocketAddr, UdpSocket};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitCode, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use clap::Parser;
use corewall_bench::answer;
use corewall_bench::figures::Host;
use corewall_bench::latency::Latencies;
use corewall_bench::load::{self, LoadOptions, LoadReport, Until};
use corewall_bench::questions::{Expect, HEADER_BYTES, PacketOptions, Questions};
use corewall_bench::server::Server;
use serde::Serialize;

/// Sockets that ask for the changed name: SO_REUSEPORT misses one of two workers once in 2^31 times.
const SOCKETS: usize = 32;
/// A single answer is waited for so long.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(2);
/// Sets of questions that the load goes through.
const LOAD_SECONDS: u64 = 1;

/// Measures how long a changed rule takes to be effective under load.
#[derive(Parser)]
struct Options {
    /// Binary of the server
    #[arg(long, default_value = "target/release/corewall")]
    corewall: PathBuf,
    /// Folder of the store
    #[arg(long, default_value = "target/bench/store")]
    store: PathBuf,
    /// Questions of the load: NAME TYPE EXPECT a line
    #[arg(long, default_value = "target/bench/names/mix.names")]
    names: PathBuf,
    /// Zone of the upstream
    #[arg(long, default_value = "target/bench/names/root.zone")]
    zone: PathBuf,
    /// Rules that are added and removed
    #[arg(long, default_value_t = 300)]
    rounds: u64,
    /// Questions a second of the load; none means as many as the server answers
    #[arg(long)]
    rate: Option<u64>,
    /// Cores of Corewall's workers
    #[arg(long, default_value = "0-1")]
    cores: String,
    /// Milliseconds that p99 may be at most
    #[arg(long, default_value_t = 100.0)]
    ms_max: f64,
    /// Folder for configuration and logs
    #[arg(long, default_value = "target/bench/change")]
    work: PathBuf,
    /// File for the figures
    #[arg(long, default_value = "bench/results/change.json")]
    out: PathBuf,
    /// Address of Corewall
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
    cores: String,
    rounds: u64,
    /// From the start of the command to the answer of the last socket that had changed, and to the command's end.
    added: Times,
    removed: Times,
    /// Answers of before that came after a command had come back.
    old_answers: u64,
    /// The load meanwhile.
    load: Vec<LoadReport>,
}

/// Milliseconds of one kind of change.
#[derive(Debug, Default, Serialize)]
struct Times {
    effective_ms_p50: f64,
    effective_ms_p99: f64,
    effective_ms_max: f64,
    command_ms_p50: f64,
    command_ms_p99: f64,
    command_ms_max: f64,
}

fn main() -> ExitCode {
    match run(&Options::parse()) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("change: {error}");
            ExitCode::from(2)
        }
    }
}

fn run(options: &Options) -> Result<bool, Box<dyn Error>> {
    fs::create_dir_all(&options.work)?;
    let work = fs::canonicalize(&options.work)?;
    let mut upstream = Command::new("bench/nsd/wildcard.sh");
    upstream.arg(format!("{}@{}", options.upstream.ip(), options.upstream.port())).arg(&options.zone);
    let _upstream = Server::start_answering(upstream, &work.join("nsd.log"), options.upstream)?;
    let config = work.join("corewall.toml");
    fs::write(&config, config_text(options, &work)?)?;
    let mut serve = Command::new(&options.corewall);
    serve.arg("serve").arg("--config").arg(&config);
    let corewall = Server::start(serve, &work.join("corewall.log"))?;
    let questions = Questions::read(&options.names, packets())?;
    let load = LoadOptions {
        server: options.listen,
        window: 512,
        sockets: 16,
        batch: 32,
        rate: options.rate,
        timeout: Duration::from_secs(3),
        spin: false,
        any_answer: false,
        server_pid: Some(corewall.pid()),
        server_thread: None,
        phase_ends: Vec::new(),
    };
    // Everything that the load asks for is cached before anything is measured.
    load::run(&questions, &load, Until::EachAsked)?;
    let is_over = AtomicBool::new(false);
    let (mut change, reports) = thread::scope(|scope| {
        let asking = scope.spawn(|| {
            let mut reports = Vec::new();
            while !is_over.load(Ordering::Relaxed) {
                match load::run(&questions, &load, Until::Elapsed(Duration::from_secs(LOAD_SECONDS))) {
                    Ok(report) => reports.push(report),
                    Err(error) => return Err(error),
                }
            }
            Ok(reports)
        });
        let changed =
            Change::new(options, &config).and_then(|mut change| change.carry_out(options.rounds).map(|()| change));
        is_over.store(true, Ordering::Relaxed);
        let reports = asking.join().map_err(|_| "the load generator panicked")?;
        Ok::<_, Box<dyn Error>>((changed?, reports?))
    })?;
    if !corewall.stop()?.success() {
        return Err("Corewall did not end cleanly on SIGTERM".into());
    }
    let results = Results {
        host: Host::here(),
        cores: options.cores.clone(),
        rounds: options.rounds,
        added: change.added.times(),
        removed: change.removed.times(),
        old_answers: change.old_answers,
        load: reports,
    };
    fs::write(&options.out, serde_json::to_string_pretty(&results)? + "\n")?;
    let rates: Vec<f64> = results.load.iter().map(|report| report.qps).collect();
    let (lost, wrong) = results.load.iter().fold((0, 0), |sum, report| (sum.0 + report.lost, sum.1 + report.wrong));
    println!("load {:.0}/s, {lost} lost, {wrong} wrong", rates.iter().sum::<f64>() / rates.len().max(1) as f64);
    for (what, times) in [("added", &results.added), ("removed", &results.removed)] {
        println!(
            "{what}: effective everywhere after {:.1} ms (p99 {:.1}, max {:.1}); the command came back after {:.1} ms (p99 {:.1}, max {:.1})",
            times.effective_ms_p50,
            times.effective_ms_p99,
            times.effective_ms_max,
            times.command_ms_p50,
            times.command_ms_p99,
            times.command_ms_max
        );
    }
    println!("{} old answers after a command had come back", results.old_answers);
    let worst = results.added.command_ms_p99.max(results.removed.command_ms_p99);
    let worst = worst.max(results.added.effective_ms_p99).max(results.removed.effective_ms_p99);
    Ok(results.old_answers == 0 && worst <= options.ms_max)
}

fn packets() -> PacketOptions {
    PacketOptions { recursion_desired: true, seed: 1, ..Default::default() }
}

fn config_text(options: &Options, work: &Path) -> Result<String, Box<dyn Error>> {
    Ok(format!(
        "cores = \"{}\"\nlisten = [\"{}\"]\nstore = \"{}\"\ncontrol_socket = \"{}/control.sock\"\n\n[upstream.default]\nservers = [\"{}\"]\n\n\
         [cache]\nbytes = \"256 MiB\"\n",
        options.cores,
        options.listen,
        fs::canonicalize(&options.store)?.display(),
        work.display(),
        options.upstream
    ))
}

/// Latencies of one kind of change.
#[derive(Default)]
struct Kind {
    effective: Latencies,
    command: Latencies,
}

impl Kind {
    fn times(&mut self) -> Times {
        let ms = |latencies: &Latencies, quantile| latencies.us_at(quantile) / 1e3;
        Times {
            effective_ms_p50: ms(&self.effective, 0.5),
            effective_ms_p99: ms(&self.effective, 0.99),
            effective_ms_max: self.effective.us_max() / 1e3,
            command_ms_p50: ms(&self.command, 0.5),
            command_ms_p99: ms(&self.command, 0.99),
            command_ms_max: self.command.us_max() / 1e3,
        }
    }
}

/// The changes, and who watches them.
struct Change {
    corewall: PathBuf,
    config: PathBuf,
    sockets: Vec<UdpSocket>,
    id: u16,
    added: Kind,
    removed: Kind,
    old_answers: u64,
}

impl Change {
    fn new(options: &Options, config: &Path) -> Result<Self, Box<dyn Error>> {
        let socket = |_| {
            let socket = UdpSocket::bind("127.0.0.1:0")?;
            socket.connect(options.listen)?;
            socket.set_read_timeout(Some(ANSWER_TIMEOUT))?;
            Ok::<_, std::io::Error>(socket)
        };
        Ok(Self {
            corewall: options.corewall.clone(),
            config: config.to_path_buf(),
            sockets: (0..SOCKETS).map(socket).collect::<Result<_, _>>()?,
            id: 0,
            added: Kind::default(),
            removed: Kind::default(),
            old_answers: 0,
        })
    }

    fn carry_out(&mut self, rounds: u64) -> Result<(), Box<dyn Error>> {
        for round in 0..rounds {
            let name = format!("changed{round}.by-hand.com");
            let question =
                |expect| Questions::parse(&format!("{name} A {expect}"), packets()).map_err(|(_, reason)| reason);
            let (blocked, answered) = (question("blocked")?, question("answered")?);
            for socket in 0..SOCKETS {
                if !self.is_as_expected(socket, &answered)? {
                    return Err(format!("{name} has no answer before it is blocked").into());
                }
            }
            let times = self.change("add", &name, &blocked)?;
            self.added.effective.record(times.0);
            self.added.command.record(times.1);
            let times = self.change("remove", &name, &answered)?;
            self.removed.effective.record(times.0);
            self.removed.command.record(times.1);
        }
        Ok(())
    }

    /// Runs the command; gives nanoseconds until every socket is answered anew, and until the command came back.
    fn change(&mut self, what: &str, name: &str, question: &Questions) -> Result<(u64, u64), Box<dyn Error>> {
        let started = Instant::now();
        let mut command = Command::new(&self.corewall);
        command.args(["rule", what, name, "--config"]).arg(&self.config).stdout(Stdio::null()).stderr(Stdio::piped());
        let mut child = command.spawn()?;
        let (mut changed, mut effective, mut ended) = ([false; SOCKETS], None, None);
        while effective.is_none() || ended.is_none() {
            if ended.is_none() && has_ended(&mut child)? {
                ended = Some(started.elapsed().as_nanos() as u64);
                // From now on everybody is to be answered anew.
                for (socket, changed) in changed.iter_mut().enumerate() {
                    let is_new = self.is_as_expected(socket, question)?;
                    self.old_answers += u64::from(!is_new);
                    *changed |= is_new;
                }
            }
            for (socket, changed) in changed.iter_mut().enumerate().filter(|(_, changed)| !**changed) {
                *changed = self.is_as_expected(socket, question)?;
            }
            if effective.is_none() && changed.iter().all(|&changed| changed) {
                effective = Some(started.elapsed().as_nanos() as u64);
            }
        }
        Ok((effective.unwrap_or_default(), ended.unwrap_or_default()))
    }

    fn is_as_expected(&mut self, socket: usize, questions: &Questions) -> Result<bool, Box<dyn Error>> {
        let question = questions.question(0);
        let socket = &self.sockets[socket];
        let mut packet = questions.packet(question).to_vec();
        let mut answer = [0; 1_500];
        // A datagram may be lost under full load: that is the load's figure, not this one's.
        for _ in 0..3 {
            self.id = self.id.wrapping_add(1);
            packet[..2].copy_from_slice(&self.id.to_be_bytes());
            socket.send(&packet)?;
            while let Ok(bytes) = socket.recv(&mut answer) {
                if bytes >= HEADER_BYTES && answer[..2] == packet[..2] {
                    let section = questions.question_section(question);
                    return Ok(answer::check(&answer[..bytes], section, question.rtype, question.expect).is_ok());
                }
            }
        }
        let expected: Expect = question.expect;
        Err(format!("three questions in a row had no answer (expected {expected:?})").into())
    }
}

fn has_ended(child: &mut Child) -> Result<bool, Box<dyn Error>> {
    match child.try_wait()? {
        None => Ok(false),
        Some(status) if status.success() => Ok(true),
        Some(status) => {
            let mut said = String::new();
            if let Some(stderr) = &mut child.stderr {
                std::io::Read::read_to_string(stderr, &mut said)?;
            }
            Err(format!("corewall rule ended with {status}: {said}").into())
        }
    }
}
