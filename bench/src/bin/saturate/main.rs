//! How many questions a second one core answers when more come than it can take: floor, Corewall and peers in turns, over a
//! link of their own.
//!
//! Two network namespaces with a virtual link between them. The server has one core, which also does all the kernel's
//! work for it; kxdpgun on another one offers questions at rates that rise until the server is past what it can answer.
//! On loopback a client that must do half of the kernel's work limits what can be offered; this one does not.
//!
//! Every name is first asked once, its answer checked; while kxdpgun shoots, `load` asks for the same names now and then and
//! checks those answers too. kxdpgun itself counts response codes.
//!
//! Exit code 0: all answers right; 1: not so; 2: the run could not be made, or with `--if-possible` 0 and the reason.

use std::error::Error;
use std::fs;
use std::net::SocketAddr;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitCode, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use clap::Parser;
use corewall_bench::figures::Host;
use corewall_bench::kxdpgun::Shots;
use corewall_bench::link::{self, CLIENT_NAMESPACE, Link, SERVER_NAMESPACE};
use corewall_bench::load::{self, LoadOptions, Until};
use corewall_bench::process;
use corewall_bench::questions::Questions;
use corewall_bench::server::Server;
use corewall_bench::sides::{self, CorewallOptions, Place};
use serde::{Deserialize, Serialize};

mod core_time;
mod summary;

use core_time::CoreTime;
use summary::Results;

/// Tells the second of the two processes that the namespaces are there and that it is in the servers'.
const INSIDE: &str = "COREWALL_BENCH_INSIDE";
/// The reflector, which sends back questions: any answer of its is right.
const FLOOR: &str = "floor";
/// Between two looks at a child.
const PAUSE: Duration = Duration::from_millis(20);
/// Datagrams on the link that show that kxdpgun has begun.
const BEGUN_DATAGRAMS: u64 = 1_000;
/// What kxdpgun says when the device still has the program of the run before.
const BUSY: &str = "resource is busy";
/// Longer than kxdpgun takes to begin.
const BEGIN_WAIT: Duration = Duration::from_secs(10);
/// Checked questions a second beside kxdpgun's.
const SAMPLE_RATE: u64 = 100;
/// A server that answers less than this part of its best is past its best: higher rates tell nothing more.
const PAST_BEST: f64 = 0.8;

/// Measures how many questions a second one core answers, by kxdpgun over a virtual link. For root.
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
    /// Folder for configuration and logs
    #[arg(long, default_value = "target/bench/saturate")]
    work: PathBuf,
    /// File for the figures; the chart lies beside it, as .svg
    #[arg(long, default_value = "bench/results/saturate.json")]
    out: PathBuf,
    /// Names to ask for: blocked, or cached
    #[arg(long, default_value = "blocked", value_parser = ["blocked", "cached"])]
    mix: String,
    /// Names of the mix at most
    #[arg(long, default_value_t = 50_000)]
    names_max: usize,
    /// Questions a second, rising
    #[arg(
        long,
        value_delimiter = ',',
        default_value = "50000,100000,125000,150000,175000,200000,225000,250000,300000"
    )]
    rates: Vec<u64>,
    /// Corewall's option `wait`; without it the binary's default
    #[arg(long)]
    wait: Option<String>,
    /// Rounds of all servers in turns
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u16).range(1..=100))]
    rounds: u16,
    /// Seconds of each rate
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u64).range(2..=600))]
    seconds: u64,
    /// Core of the servers, and of the kernel's work for them
    #[arg(long, default_value_t = 0)]
    server_core: usize,
    /// Core of the load
    #[arg(long, default_value_t = 1)]
    client_core: usize,
    /// Says why and succeeds where the machine does not allow it: no root, no namespaces, no kxdpgun, no AF_XDP
    #[arg(long)]
    if_possible: bool,
}

/// What is asked of one server at one rate.
#[derive(Clone, Debug, Serialize)]
struct Offer {
    /// Questions a second that were meant.
    rate: u64,
    shots: Shots,
    /// CPU microseconds of the server's process per answer, with the softirqs that ran while it did.
    server_us_per_answer: f64,
    /// Microseconds per answer for which the server's core was not idle, whoever took them.
    core_us_per_answer: f64,
    /// Part of the time for which that core was not idle.
    core_busy: f64,
    /// What the sample found.
    sample: Sample,
}

/// What the sample found, as far as it is read here.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
struct Sample {
    answered: u64,
    wrong: u64,
    lost: u64,
    wrong_examples: Vec<String>,
}

/// One server's part of one round.
#[derive(Clone, Debug, Serialize)]
struct Turn {
    round: u16,
    server: String,
    offers: Vec<Offer>,
}

fn main() -> ExitCode {
    let options = Options::parse();
    let made = if std::env::var_os(INSIDE).is_some() { measure_all(&options) } else { enclose(&options) };
    match made {
        Ok(code) => code,
        Err(error) if options.if_possible => {
            println!("saturate: skipped: {error}");
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("saturate: {error}");
            ExitCode::from(2)
        }
    }
}

/// Makes the namespaces, carries this program out in the servers' one, and takes them away.
fn enclose(options: &Options) -> Result<ExitCode, Box<dyn Error>> {
    check_machine(options)?;
    let stop = Arc::new(AtomicBool::new(false));
    for signal in [signal_hook::consts::SIGTERM, signal_hook::consts::SIGINT, signal_hook::consts::SIGHUP] {
        signal_hook::flag::register(signal, Arc::clone(&stop))?;
    }
    let _link = Link::make(options.server_core)?;
    let mut command = link::within(SERVER_NAMESPACE, &std::env::current_exe()?);
    // A group of its own, so that all that it has started can be ended with it.
    let mut inside = command.args(std::env::args_os().skip(1)).env(INSIDE, "1").process_group(0).spawn()?;
    let ended = loop {
        if let Some(status) = inside.try_wait()? {
            break status;
        }
        if stop.load(Ordering::Relaxed) {
            let group = format!("-{}", inside.id());
            let end = |signal| Command::new("kill").args([signal, "--", &group]).stderr(Stdio::null()).status();
            end("-TERM")?;
            inside.wait()?;
            // kxdpgun shoots on until its time is over. That nobody is left is no error.
            end("-KILL")?;
            return Err("stopped".into());
        }
        thread::sleep(PAUSE);
    };
    Ok(ExitCode::from(ended.code().and_then(|code| u8::try_from(code).ok()).unwrap_or(2)))
}

/// Says what is missing before anything is made.
fn check_machine(options: &Options) -> Result<(), Box<dyn Error>> {
    let status = fs::read_to_string("/proc/self/status")?;
    let ids = status.lines().find_map(|line| line.strip_prefix("Uid:")).unwrap_or_default();
    if ids.split_ascii_whitespace().nth(1) != Some("0") {
        return Err("network namespaces and AF_XDP want root".into());
    }
    for (program, package) in [("ip", "iproute2"), ("taskset", "util-linux"), ("kxdpgun", "knot-dnsutils")] {
        if corewall_bench::contenders::find_program(program).is_none() {
            return Err(format!("{program} is missing; on Debian: apt-get install {package}").into());
        }
    }
    let allowed = corewall_bench::cores::in_order();
    for core in [options.server_core, options.client_core] {
        if !allowed.contains(&core) {
            return Err(format!("core {core} is not one this process may run on").into());
        }
    }
    if options.server_core == options.client_core {
        return Err("server and load need a core each".into());
    }
    Ok(())
}

fn measure_all(options: &Options) -> Result<ExitCode, Box<dyn Error>> {
    let place = Place {
        corewall: options.corewall.clone(),
        names: options.names.clone(),
        store: options.store.clone(),
        work: options.work.clone(),
        listen: SocketAddr::from((link::SERVER_ADDRESS, 53)),
        upstream: SocketAddr::from(([127, 0, 0, 1], 5300)),
        confined_to: Some(options.server_core),
    };
    place.check()?;
    let questions = place.questions(&options.mix, options.names_max)?;
    let gun = Gun::load(options, &place)?;
    let mut turns = Vec::new();
    for round in 1..=options.rounds {
        for contender in [FLOOR, "corewall"] {
            let server = start(options, &place, &questions, contender)?;
            let offers = gun.raise(&server, (round, contender))?;
            server.stop()?;
            turns.push(Turn { round, server: contender.to_owned(), offers });
        }
    }
    let results = Results::of(Host::here(), options, turns);
    fs::write(&options.out, serde_json::to_string_pretty(&results)? + "\n")?;
    results.draw(&options.out.with_extension("svg"))?;
    results.print();
    for failure in &results.failures {
        eprintln!("saturate: {failure}");
    }
    Ok(if results.failures.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// Starts a server and asks it for every name once.
fn start(options: &Options, place: &Place, questions: &Questions, contender: &str) -> Result<Server, Box<dyn Error>> {
    let cores = [options.server_core];
    let is_floor = contender == FLOOR;
    let server = if is_floor {
        place.start_floor(&cores, false)?.pop().ok_or("no reflector was started")?
    } else {
        place.start_corewall(&cores, &CorewallOptions { wait: options.wait.clone(), control: None })?
    };
    if options.mix == "cached" && !is_floor {
        place.warm_up(questions, options.client_core)?;
    }
    let load = LoadOptions { any_answer: is_floor, spin: false, window: 32, ..place.load_options() };
    let report = sides::on_core(options.client_core, || load::run(questions, &load, Until::EachAsked))?;
    if !report.is_clean() {
        return Err(format!("{contender} does not answer every name rightly:\n{}", report.to_text()).into());
    }
    Ok(server)
}

/// kxdpgun with its questions.
struct Gun<'a> {
    options: &'a Options,
    place: &'a Place,
    /// Questions as kxdpgun reads them.
    questions: PathBuf,
    /// The same with the right answers.
    sample: PathBuf,
}

impl<'a> Gun<'a> {
    fn load(options: &'a Options, place: &'a Place) -> Result<Self, Box<dyn Error>> {
        let (questions, sample) = (place.work.join("kxdpgun.names"), place.work.join("sample.names"));
        let all = fs::read_to_string(place.names.join(format!("{}.names", options.mix)))?;
        let some = || all.lines().take(options.names_max);
        // A third word would be one of kxdpgun's flags.
        let asked = |line: &str| line.split_ascii_whitespace().take(2).collect::<Vec<_>>().join(" ") + "\n";
        fs::write(&questions, some().map(asked).collect::<String>())?;
        fs::write(&sample, some().map(|line| format!("{line}\n")).collect::<String>())?;
        Ok(Self { options, place, questions, sample })
    }

    /// Offers more and more until the server answers less.
    fn raise(&self, server: &Server, (round, name): (u16, &str)) -> Result<Vec<Offer>, Box<dyn Error>> {
        let mut offers: Vec<Offer> = Vec::new();
        let mut best = 0.0f64;
        for &rate in &self.options.rates {
            let offer = self.shoot(server, rate, name == FLOOR)?;
            println!(
                "round {round} {name:14} {rate:7}/s offered: {:7.0} sent, {:7.0} answered, {:5.1} % lost; server {:.2} us/answer, \
                 core {:.2} us/answer and {:3.0} % busy; sample: {} right, {} wrong, {} lost",
                offer.shots.sent_per_second(),
                offer.shots.answered_per_second(),
                offer.shots.loss() * 100.0,
                offer.server_us_per_answer,
                offer.core_us_per_answer,
                offer.core_busy * 100.0,
                offer.sample.answered,
                offer.sample.wrong,
                offer.sample.lost,
            );
            let answered = offer.shots.answered_per_second();
            offers.push(offer);
            best = best.max(answered);
            if answered < best * PAST_BEST {
                break;
            }
        }
        Ok(offers)
    }

    fn shoot(&self, server: &Server, rate: u64, is_floor: bool) -> Result<Offer, Box<dyn Error>> {
        let log = self.place.work.join("kxdpgun.log");
        let server_before = process::group_cpu_ns(server.pid())?.max(process::cpu_ns(server.pid(), None)?);
        let said = || fs::read_to_string(&log).unwrap_or_default();
        let waited = Instant::now();
        let mut gun = loop {
            if let Some(gun) = self.begin(rate, &log)? {
                break gun;
            }
            // The kernel takes a program and its socket off the device some time after they were closed.
            if !said().contains(BUSY) || waited.elapsed() > BEGIN_WAIT {
                return Err(format!("kxdpgun sends nothing; AF_XDP may not be allowed here:\n{}", said()).into());
            }
        };
        let sample = Ended(self.sample(is_floor)?);
        // The core is looked at while all runs: what starts and ends beside it is not counted.
        let time = Duration::from_secs(self.options.seconds);
        thread::sleep(time / 5);
        let before = CoreTime::read(self.options.server_core)?;
        thread::sleep(time / 2);
        let core_busy = CoreTime::read(self.options.server_core)?.busy_since(&before);
        let sample = sample.output()?;
        let ended = gun.0.wait()?;
        let server_ns = process::group_cpu_ns(server.pid())?.max(process::cpu_ns(server.pid(), None)?) - server_before;
        if !ended.success() {
            return Err(format!("kxdpgun failed ({ended}):\n{}", said()).into());
        }
        let shots = Shots::parse(&said())?;
        let answers = (shots.answered + sample.answered + sample.wrong).max(1) as f64;
        Ok(Offer {
            rate,
            server_us_per_answer: server_ns as f64 / 1e3 / answers,
            core_us_per_answer: core_busy * 1e6 / shots.answered_per_second().max(1.0),
            core_busy,
            shots,
            sample,
        })
    }

    /// kxdpgun when it has begun to send; none when it has ended before.
    fn begin(&self, rate: u64, log: &Path) -> Result<Option<Ended>, Box<dyn Error>> {
        let log_file = fs::File::create(log)?;
        let arrived_before = arrived()?;
        let mut command = self.gun(rate);
        let mut gun = Ended(command.stdin(Stdio::null()).stdout(log_file.try_clone()?).stderr(log_file).spawn()?);
        let waited = Instant::now();
        while waited.elapsed() < BEGIN_WAIT {
            if arrived()? >= arrived_before + BEGUN_DATAGRAMS {
                return Ok(Some(gun));
            }
            if gun.0.try_wait()?.is_some() {
                return Ok(None);
            }
            thread::sleep(PAUSE);
        }
        Ok(None)
    }

    fn gun(&self, rate: u64) -> Command {
        let core = self.options.client_core.to_string();
        let mut command = link::within(CLIENT_NAMESPACE, Path::new("taskset"));
        command.args(["-c", &core, "kxdpgun", "-F", &format!("{core}s1"), "-I", link::CLIENT_DEVICE]);
        command.args(["-t", &self.options.seconds.to_string(), "-Q", &rate.to_string()]);
        command.args(["-p", &self.place.listen.port().to_string(), "-l", &link::CLIENT_ADDRESS.to_string()]);
        command.args(["-L", link::CLIENT_MAC, "-R", link::SERVER_MAC, "-i"]).arg(&self.questions);
        command.arg(link::SERVER_ADDRESS.to_string());
        command
    }

    /// A few questions from ordinary sockets, for about as long as kxdpgun shoots.
    fn sample(&self, is_floor: bool) -> Result<Child, Box<dyn Error>> {
        let mut command = link::within(CLIENT_NAMESPACE, &std::env::current_exe()?.with_file_name("load"));
        command.args(["--core", &self.options.client_core.to_string(), "--server", &self.place.listen.to_string()]);
        command.args(["--rate", &SAMPLE_RATE.to_string(), "--timeout-ms", "500", "--json", "--names"]);
        command.arg(&self.sample).args(["--seconds", &(self.options.seconds - 1).to_string()]);
        if is_floor {
            command.arg("--any-answer");
        }
        Ok(command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::inherit()).spawn()?)
    }
}

/// A child that does not outlive this value.
struct Ended(Child);

impl Ended {
    /// What the sample has found.
    fn output(mut self) -> Result<Sample, Box<dyn Error>> {
        let mut told = String::new();
        if let Some(mut output) = self.0.stdout.take() {
            std::io::Read::read_to_string(&mut output, &mut told)?;
        }
        let ended = self.0.wait()?;
        // Exit code 1 tells of wrong and lost answers, which the report tells as well.
        match ended.code() {
            Some(0 | 1) => Ok(serde_json::from_str(&told)?),
            _ => Err(format!("the checking client failed ({ended}); see above").into()),
        }
    }
}

impl Drop for Ended {
    fn drop(&mut self) {
        // Both fail only when it has ended.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Datagrams that have come to the servers' end of the link.
fn arrived() -> Result<u64, Box<dyn Error>> {
    let path = format!("/sys/class/net/{}/statistics/rx_packets", link::SERVER_DEVICE);
    Ok(fs::read_to_string(path)?.trim().parse()?)
}
