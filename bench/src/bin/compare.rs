//! What an answer costs: the floor, Corewall and other DNS servers, in turns on one core, asked the same names.
//!
//! In each round every contender is started, asked and stopped, and every second round goes the other way round, so a machine
//! that slows down slows all. The mixes are told in `mixes`; *cached* is asked while the upstream is stopped by SIGSTOP, so what
//! is answered came from the cache. *store* is for the floor and Corewall alone, with a store of ten million rules: each name is
//! asked once, and the response cache is as small as can be.
//!
//! Exit code 0: all conditions hold; 1: one does not; 2: the run could not be made.

use std::collections::BTreeMap;
use std::error::Error;
use std::fs;
use std::net::SocketAddr;
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Command, ExitCode};
use std::sync::Arc;
use std::time::Duration;

use clap::Parser;
use corewall_bench::big_store;
use corewall_bench::chart;
use corewall_bench::comparison::{COREWALL, Comparison, Measurement, Turn};
use corewall_bench::contenders::{self, Contender, PEERS, Site};
use corewall_bench::dnsperf::{self, DnsperfOptions, DnsperfReport};
use corewall_bench::figures::{Host, first_line};
use corewall_bench::load::{self, LoadOptions, LoadReport, Until};
use corewall_bench::mixes::{self, Amount, Mix, Sheet, Sources};
use corewall_bench::process;
use corewall_bench::questions::{PacketOptions, Questions};
use corewall_bench::server::Server;

/// Longer than any of the servers tries to get an answer.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(5);
/// Passes over the names of a warm-up at most, until one is answered as a whole.
const WARM_UP_PASSES: usize = 3;
/// Open questions while an upstream is asked: one on one core is not to be flooded.
const WARM_UP_WINDOW: usize = 32;

/// Measures the CPU per answer of Corewall, of a bare reflector and of other DNS servers, in turns.
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
    /// Rules of the store of the mix `store`
    #[arg(long, default_value_t = 10_000_000, value_parser = clap::value_parser!(u64).range(1_000_000..=1_000_000_000))]
    store_rules: u64,
    /// Folder for that store, which is built once for a number of rules
    #[arg(long, default_value = "target/bench/store-10m")]
    big_store: PathBuf,
    /// Folder for configurations and logs of the servers
    #[arg(long, default_value = "target/bench/compare")]
    work: PathBuf,
    /// File for the figures; the chart lies beside it
    #[arg(long, default_value = "bench/results/compare.json")]
    out: PathBuf,
    /// Mixes to measure
    #[arg(long, value_delimiter = ',', default_value = "blocked,cached,forwarded,mixed,store")]
    mixes: Vec<Mix>,
    /// Servers to measure beside Corewall; those that are not installed are left out
    #[arg(long, value_delimiter = ',', default_value = "unbound,dnsdist,pdns-recursor,knot-resolver,bind9,dnsmasq")]
    peers: Vec<String>,
    /// Questions a second; 0 is full speed, at which alone the conditions are held
    #[arg(long, value_delimiter = ',', default_value = "0")]
    rates: Vec<u64>,
    /// Rounds of all in turns
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u16).range(1..=100))]
    rounds: u16,
    /// Seconds of each measurement
    #[arg(long, default_value_t = 2, value_parser = clap::value_parser!(u64).range(1..=600))]
    seconds: u64,
    /// Seconds of dnsperf after each measurement at full speed; 0 is none
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u64).range(0..=600))]
    dnsperf_seconds: u64,
    /// Names of the mix `cached`
    #[arg(long, default_value_t = 100_000)]
    cached_names: usize,
    /// Mebibytes of cache of each contender
    #[arg(long, default_value_t = 256, value_parser = clap::value_parser!(u64).range(1..=65_536))]
    cache_mib: u64,
    /// Questions open at a time
    #[arg(long, default_value_t = 128)]
    window: usize,
    /// Core of the servers
    #[arg(long, default_value_t = 0)]
    server_core: usize,
    /// Core of the load
    #[arg(long, default_value_t = 1)]
    client_core: usize,
    /// Core of the upstream; the load's when it is left out
    #[arg(long)]
    upstream_core: Option<usize>,
    /// Adds an EDNS OPT record to the questions
    #[arg(long)]
    edns: bool,
    /// Address of the servers
    #[arg(long, default_value = "127.0.0.1:5399")]
    listen: SocketAddr,
    /// Address of the upstream
    #[arg(long, default_value = "127.0.0.1:5398")]
    upstream: SocketAddr,
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
    let mut sources = Sources::read(&options.names, options.cached_names)?;
    let site = make_site(options, &sources)?;
    let mut comparison = begin(options, &site);
    let contenders = find_contenders(options, &site, &mut comparison)?;
    let amount = Amount {
        rates: options.rates.clone(),
        seconds: options.seconds,
        dnsperf_seconds: options.dnsperf_seconds,
        packets: PacketOptions { recursion_desired: true, edns: options.edns, seed: 1, ..Default::default() },
    };
    let mut asked = Vec::new();
    for &mix in &options.mixes {
        let sheet = match mix {
            Mix::Store => {
                let names = big_store::prepare(&options.big_store, options.store_rules, &amount, &site)?;
                mixes::store_sheet(&names, &amount)?
            }
            _ => sources.sheet(mix, &amount)?,
        };
        fs::write(dnsperf_file(options, mix), &sheet.dnsperf)?;
        asked.push((mix, sheet));
    }
    let upstream = start_upstream(options, &Sources::zone(&options.names)?)?;
    let mut bench = Bench { options, upstream: &upstream, comparison };
    for round in 1..=options.rounds {
        bench.round(round, &contenders, &asked, &site)?;
    }
    let mut comparison = bench.comparison;
    upstream.stop()?;
    comparison.conclude();
    fs::write(&options.out, serde_json::to_string_pretty(&comparison)? + "\n")?;
    let drawing = options.out.with_extension("svg");
    chart::draw(&comparison, &drawing)?;
    print!("{}", comparison.to_text());
    println!("figures: {}, chart: {}", options.out.display(), drawing.display());
    Ok(comparison.is_good())
}

fn make_site(options: &Options, sources: &Sources) -> Result<Site, Box<dyn Error>> {
    let store = fs::canonicalize(&options.store)
        .map_err(|error| format!("no store at {} ({error}); `make bench` builds one", options.store.display()))?;
    Ok(Site {
        corewall: options.corewall.clone(),
        store,
        rules: fs::canonicalize(options.names.join("union.txt"))?,
        blocked: Arc::new(sources.blocked_names()),
        work: options.work.clone(),
        cores: options.server_core.to_string(),
        listen: options.listen,
        upstreams: vec![options.upstream],
        strategy: None,
        cache_kib: options.cache_mib << 10,
    })
}

fn begin(options: &Options, site: &Site) -> Comparison {
    Comparison {
        host: Host::here(),
        versions: BTreeMap::new(),
        configs: BTreeMap::new(),
        left_out: BTreeMap::new(),
        rounds: options.rounds,
        seconds: options.seconds,
        window: options.window,
        edns: options.edns,
        cache_kib: site.cache_kib,
        peer_rules: site.blocked.len(),
        store_rules: options.store_rules,
        claims: Vec::new(),
        summaries: Vec::new(),
        entries: Vec::new(),
    }
}

/// The floor, Corewall, and the peers that are installed; what is missing is told.
fn find_contenders(
    options: &Options,
    site: &Site,
    comparison: &mut Comparison,
) -> Result<Vec<Contender>, Box<dyn Error>> {
    let wanted: Vec<Contender> = options
        .peers
        .iter()
        .filter(|name| !name.is_empty())
        .map(|name| Contender::peer(name))
        .collect::<Result<_, _>>()?;
    let nsd = contenders::find_program("nsd").ok_or("nsd is missing; on Debian: apt-get install nsd")?;
    comparison.versions.insert("nsd".to_owned(), first_line(Command::new(nsd).arg("-v")));
    if options.dnsperf_seconds > 0 {
        let dnsperf = contenders::find_program("dnsperf")
            .ok_or("dnsperf is missing; on Debian: apt-get install dnsperf; or run with --dnsperf-seconds 0")?;
        // It has no option for its version, and tells it at the end of its help.
        let help = Command::new(dnsperf).arg("-h").output()?;
        let said = String::from_utf8_lossy(&help.stdout).into_owned() + &String::from_utf8_lossy(&help.stderr);
        let version = said.lines().find(|line| line.starts_with("Version")).unwrap_or_default();
        comparison.versions.insert("dnsperf".to_owned(), version.to_owned());
    }
    let mut found = Vec::new();
    for contender in [Contender::Reflector, Contender::Corewall].into_iter().chain(wanted) {
        match contender.version(site) {
            Ok(version) => {
                found.push(contender);
                let name = contender.name().to_owned();
                comparison.configs.extend(contender.told_config(site).map(|config| (name.clone(), config)));
                comparison.versions.extend(version.map(|version| (name, version)));
            }
            Err(missing) => {
                println!("left out: {missing}");
                comparison.leave_out(contender.name(), missing);
            }
        }
    }
    let all: Vec<&str> = PEERS.iter().map(|peer| Contender::Peer(peer).name()).collect();
    println!("peers: {} of {}", found.len() - 2, all.join(", "));
    Ok(found)
}

fn start_upstream(options: &Options, zone: &str) -> Result<Server, Box<dyn Error>> {
    let file = options.work.join("root.zone");
    fs::write(&file, zone)?;
    let core = options.upstream_core.unwrap_or(options.client_core);
    let mut command = Command::new("setpriv");
    command.args(["--pdeathsig", "TERM", "taskset", "-c", &core.to_string(), "bench/nsd/wildcard.sh"]);
    command.arg(format!("{}@{}", options.upstream.ip(), options.upstream.port())).arg(file).process_group(0);
    Ok(Server::start_answering(command, &options.work.join("nsd.log"), options.upstream)?)
}

fn dnsperf_file(options: &Options, mix: Mix) -> PathBuf {
    options.work.join(format!("{}.dnsperf", mix.name()))
}

/// What all rounds share.
struct Bench<'a> {
    options: &'a Options,
    upstream: &'a Server,
    comparison: Comparison,
}

/// One contender that runs, in one round.
struct Running<'a> {
    contender: Contender,
    /// As it is called in the results: Corewall with another store has another name.
    name: &'a str,
    round: u16,
    server: &'a Server,
}

/// What one contender is to be asked in each round.
struct Planned<'a> {
    contender: Contender,
    name: String,
    site: Site,
    asked: &'a [&'a (Mix, Sheet)],
}

impl Bench<'_> {
    fn round(
        &mut self,
        round: u16,
        contenders: &[Contender],
        asked: &[(Mix, Sheet)],
        site: &Site,
    ) -> Result<(), Box<dyn Error>> {
        let (of_store, of_all): (Vec<_>, Vec<_>) = asked.iter().partition(|(mix, _)| *mix == Mix::Store);
        let plan = |contender: Contender| Planned {
            contender,
            name: contender.name().to_owned(),
            site: site.clone(),
            asked: &of_all,
        };
        let mut turns: Vec<Planned<'_>> = contenders.iter().copied().map(plan).collect();
        if !of_store.is_empty() {
            let folder = fs::canonicalize(&self.options.big_store)?;
            turns.push(Planned { asked: &of_store, ..plan(Contender::Reflector) });
            for (number, layout) in big_store::LAYOUTS.into_iter().enumerate() {
                let name = if number == 0 { COREWALL.to_owned() } else { format!("{COREWALL} {layout}") };
                let site = big_store::site_of(&folder, layout, site);
                turns.push(Planned { contender: Contender::Corewall, name, site, asked: &of_store });
            }
        }
        // Back and forth: what changes steadily meanwhile weighs the same on the first and on the last.
        if round.is_multiple_of(2) {
            turns.reverse();
        }
        for Planned { contender, name, site, asked } in turns {
            if asked.is_empty() || self.comparison.left_out.contains_key(&name) {
                continue;
            }
            if asked.iter().any(|(mix, _)| *mix == Mix::Store) && contender.name() == COREWALL {
                big_store::read_all(&site.store)?;
            }
            let outcome = self.turn(round, contender, &name, &site, asked);
            match (outcome, contender) {
                (Ok(()), _) => {}
                (Err(error), Contender::Peer(_)) => {
                    // Whatever it was, the upstream has to go on.
                    self.upstream.signal_group("CONT")?;
                    println!("left out: {name}: {error}");
                    self.comparison.leave_out(&name, error.to_string());
                }
                (Err(error), _) => return Err(error),
            }
        }
        Ok(())
    }

    fn turn(
        &mut self,
        round: u16,
        contender: Contender,
        name: &str,
        site: &Site,
        asked: &[&(Mix, Sheet)],
    ) -> Result<(), Box<dyn Error>> {
        let server = contender.start(site)?;
        let running = Running { contender, name, round, server: &server };
        for (mix, sheet) in asked {
            self.mix(&running, *mix, sheet)?;
        }
        let ended = server.stop()?;
        if contender.name() == COREWALL && !ended.success() {
            return Err(format!("Corewall did not end cleanly on SIGTERM: {ended}").into());
        }
        Ok(())
    }

    fn mix(&mut self, running: &Running<'_>, mix: Mix, sheet: &Sheet) -> Result<(), Box<dyn Error>> {
        self.warm_up(running, mix, sheet)?;
        if mix == Mix::Cached {
            // What is not in the cache is lost from here on, and told.
            self.upstream.signal_group("STOP")?;
        }
        for (&rate, questions) in self.options.rates.iter().zip(&sheet.measured) {
            let load = self.measure(running, mix, rate, questions)?;
            let dnsperf = if rate == 0 { self.dnsperf(running, mix)? } else { None };
            let measurement = Measurement { mix: mix.name().to_owned(), rate };
            print_turn(running, &measurement, &load, dnsperf.as_ref());
            self.comparison.add(measurement, running.name, Turn { round: running.round, load, dnsperf });
        }
        if mix == Mix::Cached {
            self.upstream.signal_group("CONT")?;
        }
        Ok(())
    }

    /// Asks what is not measured, until all is answered rightly.
    fn warm_up(&self, running: &Running<'_>, mix: Mix, sheet: &Sheet) -> Result<(), Box<dyn Error>> {
        let window = if mix.is_warmed_by_upstream() { WARM_UP_WINDOW } else { self.options.window };
        let load = LoadOptions { window, ..self.load(running, mix, 0) };
        for pass in 1..=WARM_UP_PASSES {
            let report = self.on_client_core(|| load::run(&sheet.warm_up, &load, Until::EachAsked))?;
            if report.is_clean() {
                return Ok(());
            }
            println!("{}: {} in pass {pass} of the warm-up: {}", running.name, mix.name(), report.to_text());
        }
        Err(format!("{} did not answer all names of the warm-up of {}", running.name, mix.name()).into())
    }

    fn measure(
        &self,
        running: &Running<'_>,
        mix: Mix,
        rate: u64,
        questions: &Questions,
    ) -> Result<LoadReport, Box<dyn Error>> {
        let limit = Duration::from_secs(self.options.seconds);
        let until = if mix.is_of_new_names() { Until::EachAskedWithin(limit) } else { Until::Elapsed(limit) };
        let load = self.load(running, mix, rate);
        let report = self.on_client_core(|| load::run(questions, &load, until))?;
        if report.answered + report.wrong == 0 {
            return Err(format!("{} answered nothing:\n{}", running.name, report.to_text()).into());
        }
        if report.server_cpu_us_per_answer.unwrap_or_default() == 0.0 {
            return Err("the server's process used no CPU: it is not the one that answers".into());
        }
        Ok(report)
    }

    fn dnsperf(&self, running: &Running<'_>, mix: Mix) -> Result<Option<DnsperfReport>, Box<dyn Error>> {
        if self.options.dnsperf_seconds == 0 {
            return Ok(None);
        }
        let options = DnsperfOptions {
            server: self.options.listen,
            server_pid: running.server.pid(),
            names: &dnsperf_file(self.options, mix),
            once: mix.is_of_new_names(),
            seconds: self.options.dnsperf_seconds,
            window: self.options.window,
            core: self.options.client_core,
        };
        dnsperf::run(&options).map(Some)
    }

    fn load(&self, running: &Running<'_>, mix: Mix, rate: u64) -> LoadOptions {
        let upstream_shares_core =
            self.options.upstream_core.is_none_or(|upstream_core| upstream_core == self.options.client_core);
        LoadOptions {
            server: self.options.listen,
            window: self.options.window,
            sockets: 1,
            batch: 32,
            rate: Some(rate).filter(|rate| *rate > 0),
            timeout: ANSWER_TIMEOUT,
            // A client that sleeps must be woken by the server; one that spins would take the core that nsd needs.
            spin: !(mix.needs_upstream() && upstream_shares_core),
            any_answer: matches!(running.contender, Contender::Reflector),
            server_pid: Some(running.server.pid()),
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

fn print_turn(running: &Running<'_>, measurement: &Measurement, load: &LoadReport, dnsperf: Option<&DnsperfReport>) {
    let by_dnsperf = dnsperf.map_or_else(String::new, |report| {
        format!(
            "; dnsperf {:.0}/s, {:.2} us, {} lost",
            report.qps,
            report.server_cpu_us_per_answer,
            report.lost + report.failed
        )
    });
    println!(
        "round {} {:16} {:20} {:6.2} us CPU/answer, {:4.2} cores, {:7.0} answers/s, p99 {:.0} us, {} wrong, {} lost{by_dnsperf}",
        running.round,
        running.name,
        measurement.name(),
        load.server_cpu_us_per_answer.unwrap_or_default(),
        load.server_cores_used.unwrap_or_default(),
        load.qps,
        load.us_p99,
        load.wrong,
        load.lost,
    );
    for example in &load.wrong_examples {
        println!("  {example}");
    }
}
