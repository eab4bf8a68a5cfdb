//! The server: one worker for each configured core, and the control thread that starts, reloads and stops them.
//!
//! Architecture invariant: workers share no lock and no mutable memory on the path of a query; each is one glommio executor
//! pinned to its core with sockets, cache, store connections, regex scratch, upstream ports and timers of its own. `serve` is
//! the only code that waits; what is to be done is decided by [`crate::decide`].
//!
//! The order of a start: signals are caught, the machine is probed, every listening socket is bound, the store is opened, the
//! workers start, and only when all of them serve is `ready` printed. Any failure before that ends the process with a message
//! that says what to change. SIGTERM and SIGINT end a start as they end service; a SIGHUP that comes too early is carried out
//! after `ready`. A worker that ends while it should serve stops the whole server: half a server would hide the loss.

pub mod answer_here;
pub mod clock;
pub mod cores;
pub mod direct;
mod error;
pub mod filters;
pub mod framer;
mod kernel;
mod listen;
pub mod live;
pub mod metrics;
pub mod outbox;
pub mod patterns;
pub mod placement;
pub mod probe;
pub mod reload;
pub mod saved;
pub mod steering;
pub mod store;
mod tasks;
pub mod tcp;
pub mod top_names;
pub mod topology;
mod turn;
pub mod udp;
pub mod upstream;
pub mod wait;
mod worker;

use std::cell::RefCell;
use std::io::{self, Write};
use std::net::SocketAddr;
use std::panic::{self, AssertUnwindSafe};
use std::path::PathBuf;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::mpsc::{self, Receiver, RecvTimeoutError, SyncSender};
use std::thread;
use std::time::{Duration, Instant};

use corewall_sharding::publish::Store;
use glommio::{CpuSet, ExecutorJoinHandle, LocalExecutorBuilder, PoolPlacement};
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use signal_hook::iterator::Signals;

pub use self::error::ServeError;

use self::direct::DirectWork;
use self::filters::{FilterWork, Readiness};
use self::listen::{Sockets, listen, steer};
use self::metrics::Totals;
use self::placement::Placement;
use self::reload::{Commander, Knowledge, Order, Orders, Wanted};
use self::steering::SteeringOption;
use self::top_names::TopNames;
use self::topology::Machine;
use self::wait::Wait;
use self::worker::Worker;
use crate::control;
use crate::control::commands::{Commands, Errand};
use crate::control::protocol::Reloaded;
use crate::control::rules::{LiveRules, expiry};
use crate::control::socket::ControlSocket;
use crate::control::workers::Workers;
use crate::limits::{
    CONTROL_EVENTS_MAX, LISTEN_ADDRESSES_MAX, START_MS_MAX, STOP_MS_MAX, TOP_NAMES_ORDER_MS_MAX, TOP_NAMES_SAVE_S,
    WORKERS_MAX,
};

/// Bytes of memory registered with each executor's rings: the least it takes, for no file is read through them.
const RING_BYTES: usize = 64 * 1024;

/// What to serve, ready to use.
#[derive(Clone, Debug)]
pub struct Plan {
    /// Which thread runs where.
    pub placement: Placement,
    /// Addresses, each over UDP and TCP.
    pub listen: Vec<SocketAddr>,
    /// How packets are steered to workers.
    pub steering: SteeringOption,
    /// What a worker does when nothing is asked.
    pub wait: Wait,
    /// What is logged, as the configuration says it; the caller has set it up.
    pub log: String,
    /// Where it can be spoken to while it runs; none means not at all.
    pub control_socket: Option<PathBuf>,
    /// Directory that popular answers are saved in from a stop to the next start; none for not at all.
    pub save_dir: Option<PathBuf>,
    /// After `ready`, print commands to try.
    pub hints: bool,
    /// What may change while the server runs.
    pub wanted: Wanted,
}

impl Plan {
    /// The options that `newer` has changed and that a running server keeps as they are.
    fn kept_against(&self, newer: &Plan) -> Vec<&'static str> {
        let cache_bytes = |plan: &Plan| plan.wanted.settings.cache.bytes;
        let eviction = |plan: &Plan| plan.wanted.settings.cache.eviction;
        let changed = [
            ("`cores`", self.placement.workers != newer.placement.workers),
            ("`control_cores`", self.placement.control != newer.placement.control),
            ("`listen`", self.listen != newer.listen),
            ("`steering`", self.steering != newer.steering),
            ("`wait`", self.wait != newer.wait),
            ("`log`", self.log != newer.log),
            ("`control_socket`", self.control_socket != newer.control_socket),
            ("`cache.save_dir`", self.save_dir != newer.save_dir),
            ("`cache.bytes`", cache_bytes(self) != cache_bytes(newer)),
            ("`cache.eviction`", eviction(self) != eviction(newer)),
        ];
        changed.into_iter().filter(|(_, is_changed)| *is_changed).map(|(option, _)| option).collect()
    }
}

/// Reads the configuration again at SIGHUP. The error is shown as it is.
pub type Reread = Box<dyn FnMut() -> Result<Plan, String>>;

/// What the control thread waits for.
enum Event {
    Signal(i32),
    /// Something was asked through the control socket.
    Errand(Errand),
    /// Configuration and store were read, or cannot be used.
    Loaded(Result<Arc<Knowledge>, String>),
    Serving,
    Ended(usize, Result<Totals, String>),
}

/// Whether the server goes on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Course {
    Serving,
    /// A signal, or a request, ends it.
    Stopped,
}

/// What became of reading the store.
enum Load {
    Done(Arc<Knowledge>),
    /// Why.
    Unusable(String),
    /// Something came that ends the server.
    Stopped,
}

/// Why a reload changed nothing, or not everything.
enum NotReloaded {
    /// Configuration or store cannot be used.
    Unusable(String),
    /// Some workers did not go over.
    Partly(String),
    /// The server must stop.
    Stopped(ServeError),
}

/// Signals that wait to be carried out; see [`catch_signals`].
pub struct CaughtSignals(Signals);

/// Catches SIGHUP, SIGINT and SIGTERM from now on, to be carried out by [`run`]. To be called first of all: uncaught, a
/// SIGHUP ends the process.
///
/// # Errors
/// The operating system refuses.
pub fn catch_signals() -> Result<CaughtSignals, ServeError> {
    let failed = |source| ServeError::System { doing: "catch signals", source };
    Signals::new([SIGHUP, SIGINT, SIGTERM]).map(CaughtSignals).map_err(failed)
}

/// Serves until SIGTERM or SIGINT. Prints one line that begins with `ready` to the standard output when every worker serves.
/// SIGHUP reads the configuration again and goes over to the newest generation; so does a request through the control socket.
pub fn run(plan: Plan, reread: Reread, signals: CaughtSignals) -> Result<(), ServeError> {
    let started = Instant::now();
    let (sender, events) = mpsc::sync_channel(CONTROL_EVENTS_MAX);
    forward_signals(signals, sender.clone(), &plan.placement)?;
    check(&plan)?;
    let workers = &plan.placement.workers;
    probe::probe(workers.len(), plan.wanted.tcp.connections).map_err(ServeError::Probe)?;
    let sockets = listen(&plan.listen, workers.len())?;
    plan.placement.describe().iter().for_each(|line| tracing::info!("{line}"));
    let choices = steering::choose(plan.steering, &plan.listen, workers, &Machine::here());
    steer(&sockets, &choices, workers)?;
    // Whoever connects from now on is answered when all workers serve.
    let control_socket =
        plan.control_socket.as_deref().map(ControlSocket::bind).transpose().map_err(ServeError::Control)?;
    let mut server = Server {
        commanders: Arc::default(),
        threads: Vec::new(),
        sender,
        events,
        totals: Totals::default(),
        must_reload: false,
        reload_asked: Vec::new(),
        filter_work: None,
        direct_work: None,
        top_names: None,
        top_names_due: Instant::now() + Duration::from_secs(TOP_NAMES_SAVE_S),
        rules: Arc::default(),
        plan,
        reread,
    };
    let knowledge = match server.load(server.plan.wanted.clone(), Readiness::Start)? {
        Load::Done(knowledge) => knowledge,
        Load::Unusable(reason) => return Err(ServeError::Store(reason)),
        Load::Stopped => return Ok(()),
    };
    // Not before: until the workers answer, reading the store may have all cores. Threads that are started later inherit it.
    run_on(&server.plan.placement.control);
    let outcome = server.start(sockets, &knowledge).and_then(|start| {
        if start == Course::Stopped {
            return Ok(());
        }
        server.rules.hold().finish(knowledge.generation_shared(), knowledge.live.clone());
        server.say_ready(&knowledge, started);
        server.filter_work = knowledge.tend_filters();
        server.direct_work = knowledge.hold_in_memory();
        drop(knowledge);
        server.keep_top_names(&server.plan.wanted.clone());
        server.answer_on(control_socket.as_ref())?;
        server.serve()
    });
    server.stop();
    server.rules.close();
    outcome
}

fn check(plan: &Plan) -> Result<(), ServeError> {
    let refused = |reason: &str| Err(ServeError::Plan(reason.to_owned()));
    let workers = plan.placement.workers.len();
    if workers == 0 || workers > WORKERS_MAX {
        return refused("cores: there must be at least one, and at most 256");
    }
    if plan.listen.is_empty() || plan.listen.len() > LISTEN_ADDRESSES_MAX {
        return refused("listen: there must be at least one address, and at most 16");
    }
    Ok(())
}

/// Keeps the calling thread, and those that it starts, on these cores.
fn run_on(cores: &[usize]) {
    if let Err(error) = kernel::run_on(cores) {
        tracing::warn!("a thread is not kept on its cores {}: {error}", cores::list(cores));
    }
}

fn forward_signals(signals: CaughtSignals, events: SyncSender<Event>, placement: &Placement) -> Result<(), ServeError> {
    let CaughtSignals(mut signals) = signals;
    let cores = placement.control.clone();
    let forward = move || {
        run_on(&cores);
        for signal in signals.forever() {
            // The control thread is gone only when the process ends.
            let _ = events.send(Event::Signal(signal));
        }
    };
    let failed = |source| ServeError::System { doing: "start a thread", source };
    thread::Builder::new().name("signals".to_owned()).spawn(forward).map(drop).map_err(failed)
}

/// The control thread's view of the workers.
struct Server {
    commanders: Arc<Vec<Commander>>,
    threads: Vec<Option<ExecutorJoinHandle<()>>>,
    /// For those who have something to tell.
    sender: SyncSender<Event>,
    events: Receiver<Event>,
    totals: Totals,
    /// A SIGHUP or a request for it came and is to be carried out.
    must_reload: bool,
    /// Who is to be told what becomes of it: at most one for each connection of the control socket.
    reload_asked: Vec<SyncSender<Result<Reloaded, String>>>,
    /// What is still done for the filters of the generation being served.
    filter_work: Option<FilterWork>,
    /// What is still locked in memory of it.
    direct_work: Option<DirectWork>,
    /// The file of the names asked for most; none when they are not to be counted.
    top_names: Option<TopNames>,
    /// When it is to be written.
    top_names_due: Instant,
    /// What is changed by hand.
    rules: Arc<LiveRules>,
    plan: Plan,
    reread: Reread,
}

impl Server {
    /// Reads the store, on a thread of its own: it may take long, and neither SIGTERM nor a worker's end is to wait for it.
    /// When one of them comes first the thread, which changes nothing, ends with the process.
    fn load(&mut self, wanted: Wanted, filters: Readiness) -> Result<Load, ServeError> {
        let (sender, cores, rules) = (self.sender.clone(), self.plan.placement.workers.clone(), self.rules.clone());
        let load = move || {
            let read = || {
                let store = wanted.store.as_deref().map(Store::open).transpose().map_err(|error| error.to_string())?;
                // Nobody else changes the live rules from now on, so that what is read is what there is.
                rules.begin(store.as_ref())?;
                Knowledge::load(&wanted, store.as_ref(), &cores, filters)
            };
            let loaded = panic::catch_unwind(AssertUnwindSafe(read));
            let loaded = loaded.unwrap_or_else(|_| Err("reading the store panicked".to_owned()));
            // The control thread has stopped waiting when the server ends.
            let _ = sender.send(Event::Loaded(loaded.map(Arc::new)));
        };
        let failed = |source| ServeError::System { doing: "start a thread", source };
        thread::Builder::new().name("load".to_owned()).spawn(load).map_err(failed)?;
        loop {
            match self.events.recv() {
                Ok(Event::Loaded(Ok(knowledge))) => return Ok(Load::Done(knowledge)),
                Ok(Event::Loaded(Err(reason))) => return Ok(Load::Unusable(reason)),
                Ok(event) => match self.hear(event)? {
                    Course::Serving => {}
                    Course::Stopped => return Ok(Load::Stopped),
                },
                Err(_) => return Ok(Load::Stopped),
            }
        }
    }

    /// What every wait does with an event that is not the one it waits for: a reload is remembered, an end ends the wait.
    fn hear(&mut self, event: Event) -> Result<Course, ServeError> {
        match event {
            Event::Signal(SIGHUP) => self.must_reload = true,
            Event::Errand(Errand::Reload(done)) => {
                self.must_reload = true;
                self.reload_asked.push(done);
            }
            Event::Signal(signal) => {
                tracing::info!(signal, "stopping");
                return Ok(Course::Stopped);
            }
            Event::Errand(Errand::Stop) => {
                tracing::info!("stopping: asked through the control socket");
                return Ok(Course::Stopped);
            }
            Event::Ended(worker, outcome) => return Err(self.ended(worker, outcome)),
            Event::Serving | Event::Loaded(_) => {}
        }
        Ok(Course::Serving)
    }

    fn start(&mut self, sockets: Vec<Sockets>, knowledge: &Arc<Knowledge>) -> Result<Course, ServeError> {
        let failed = |source| ServeError::System { doing: "make a pair of sockets", source };
        let cores = self.plan.placement.workers.clone();
        let queues = cores.iter().map(|&core| reload::orders(core)).collect::<io::Result<Vec<_>>>().map_err(failed)?;
        let (commanders, orders): (Vec<_>, Vec<_>) = queues.into_iter().unzip();
        self.commanders = Arc::new(commanders);
        for (index, ((sockets, orders), core)) in sockets.into_iter().zip(orders).zip(cores).enumerate() {
            let failed = |error| ServeError::Worker { core, reason: format!("its executor did not start: {error}") };
            let (knowledge, wait) = (knowledge.clone(), self.plan.wait);
            let saved = self.plan.save_dir.as_ref().map(|directory| saved::path_of(directory, index));
            let report = Report { events: self.sender.clone(), index, is_made: false };
            let thread = LocalExecutorBuilder::new(glommio::Placement::Fixed(core))
                .name("worker")
                .io_memory(RING_BYTES)
                // Its thread for blocking calls would else compete for this very core.
                .blocking_thread_pool_placement(self.beside_workers().map_err(failed)?)
                .preempt_timer(turn::PREEMPT_NEVER)
                .spawn(move || work(knowledge, core, sockets, orders, wait, saved, report))
                .map_err(failed)?;
            self.threads.push(Some(thread));
        }
        let until = Instant::now() + Duration::from_millis(START_MS_MAX);
        let (mut serving, workers) = (0, self.commanders.len());
        while serving < workers {
            match self.events.recv_timeout(until.saturating_duration_since(Instant::now())) {
                Ok(Event::Serving) => serving += 1,
                Ok(event) => match self.hear(event)? {
                    Course::Serving => {}
                    Course::Stopped => return Ok(Course::Stopped),
                },
                Err(_) => return Err(ServeError::Slow { serving, workers }),
            }
        }
        Ok(Course::Serving)
    }

    /// Where the thread of an executor runs that makes its blocking calls.
    fn beside_workers(&self) -> glommio::Result<PoolPlacement, ()> {
        let control = &self.plan.placement.control;
        Ok(PoolPlacement::Fenced(1, CpuSet::online()?.filter(|location| control.contains(&location.cpu))))
    }

    fn say_ready(&self, knowledge: &Knowledge, started: Instant) {
        let Plan { placement: Placement { workers: cores, .. }, listen, .. } = &self.plan;
        let addresses: Vec<String> = listen.iter().map(SocketAddr::to_string).collect();
        let line = format!(
            "ready: {} worker{} on core{} {}; {} sockets (udp+tcp) on {}; {}; started in {} ms",
            cores.len(),
            if cores.len() == 1 { "" } else { "s" },
            if cores.len() == 1 { "" } else { "s" },
            cores::list(cores),
            2 * cores.len() * listen.len(),
            addresses.join(", "),
            knowledge.describe(),
            started.elapsed().as_millis(),
        );
        let mut out = io::stdout().lock();
        // A closed standard output is no reason not to serve.
        let _ = writeln!(out, "{line}").and_then(|()| out.flush());
        if self.plan.hints
            && let Some(address) = listen.first()
        {
            let hints = knowledge
                .examples()
                .into_iter()
                .map(|(name, expect)| format!("  dig @{} -p {} {name}   # {expect}\n", address.ip(), address.port()));
            let _ = out.write_all(hints.collect::<String>().as_bytes()).and_then(|()| out.flush());
        }
    }

    /// From now on what comes through the control socket is answered, and rules end when they are due.
    fn answer_on(&self, socket: Option<&ControlSocket>) -> Result<(), ServeError> {
        let failed = |source| ServeError::System { doing: "start a thread", source };
        let workers = Arc::new(Workers::new(Arc::downgrade(&self.commanders)));
        expiry::start(self.rules.clone(), workers.clone()).map_err(failed)?;
        let Some(socket) = socket else { return Ok(()) };
        let sender = self.sender.clone();
        let commands = Commands {
            workers,
            rules: self.rules.clone(),
            listen: self.plan.listen.clone(),
            ready_since: Instant::now(),
            send: Box::new(move |errand| sender.send(Event::Errand(errand)).is_ok()),
        };
        control::serve(socket, commands).map_err(failed)
    }

    fn serve(&mut self) -> Result<(), ServeError> {
        loop {
            // It may have been asked for while the workers started, or during the last reload.
            while std::mem::take(&mut self.must_reload) {
                if self.reload()? == Course::Stopped {
                    return Ok(());
                }
            }
            let event = match self.events.recv_timeout(self.top_names_due.saturating_duration_since(Instant::now())) {
                Ok(event) => event,
                Err(RecvTimeoutError::Timeout) => {
                    self.save_top_names();
                    continue;
                }
                Err(RecvTimeoutError::Disconnected) => return Ok(()),
            };
            if self.hear(event)? == Course::Stopped {
                return Ok(());
            }
        }
    }

    /// Goes over to the file that the configuration says. What workers have counted goes there, unless its room is another.
    fn keep_top_names(&mut self, wanted: &Wanted) {
        let (store, room) = (wanted.store.as_deref(), wanted.settings.top_names);
        if self.top_names.as_ref().zip(store).is_some_and(|(top_names, store)| top_names.is(store, room)) {
            return;
        }
        self.top_names = store.filter(|_| room > 0).map(|store| TopNames::open(store, room));
    }

    /// Asks the workers for their names, and writes the file.
    fn save_top_names(&mut self) {
        self.top_names_due = Instant::now() + Duration::from_secs(TOP_NAMES_SAVE_S);
        let Some(top_names) = &mut self.top_names else { return };
        let order = |commander: &Commander| {
            let (done, is_done) = mpsc::sync_channel(1);
            commander.order(Order::TopNames { done }).then_some(is_done)
        };
        let told: Vec<_> = self.commanders.iter().filter_map(order).collect();
        let until = Instant::now() + Duration::from_millis(TOP_NAMES_ORDER_MS_MAX);
        // What a worker does not tell in time is told the next time.
        let told = told.into_iter();
        let names = told.filter_map(|told| told.recv_timeout(until.saturating_duration_since(Instant::now())).ok());
        top_names.save(names.collect());
    }

    /// Reads configuration and store again, and says what has become of it: to the log, and to whoever has asked.
    fn reload(&mut self) -> Result<Course, ServeError> {
        let asked = std::mem::take(&mut self.reload_asked);
        let outcome = match self.go_over() {
            Ok(Some(reloaded)) => Ok(reloaded),
            // Those who have asked see that the server ends.
            Ok(None) => return Ok(Course::Stopped),
            Err(NotReloaded::Stopped(error)) => return Err(error),
            Err(NotReloaded::Unusable(reason)) => Err(format!("reload failed, serving as before: {reason}")),
            Err(NotReloaded::Partly(reason)) => Err(format!("reload failed in part: {reason}")),
        };
        if let Err(reason) = &outcome {
            tracing::error!("{reason}");
        }
        for done in asked {
            // Somebody may have given up waiting.
            let _ = done.try_send(outcome.clone());
        }
        Ok(Course::Serving)
    }

    /// Goes over to what configuration and store are now; none when the server is to end. What cannot be used leaves the old
    /// ones serving.
    fn go_over(&mut self) -> Result<Option<Reloaded>, NotReloaded> {
        let started = Instant::now();
        let plan = (self.reread)().map_err(NotReloaded::Unusable)?;
        let knowledge = match self.load(plan.wanted.clone(), Readiness::Whole).map_err(NotReloaded::Stopped)? {
            Load::Done(knowledge) => knowledge,
            Load::Unusable(reason) => {
                self.rules.abandon();
                return Err(NotReloaded::Unusable(reason));
            }
            Load::Stopped => return Ok(None),
        };
        let kept = self.plan.kept_against(&plan);
        if !kept.is_empty() {
            tracing::warn!("{} change at a restart only; the rest of the configuration is taken over", kept.join(", "));
        }
        let held = self.rules.hold();
        if let Err(reason) = held.catch_up(knowledge.generation_shared().as_deref(), &knowledge.live) {
            drop(held);
            self.rules.abandon();
            return Err(NotReloaded::Unusable(reason));
        }
        let failures = reload::switch_all(&self.commanders, &knowledge);
        held.finish(knowledge.generation_shared(), knowledge.live.clone());
        self.filter_work = knowledge.tend_filters();
        self.direct_work = knowledge.hold_in_memory();
        if !failures.is_empty() {
            let failures = failures.into_iter().map(|(core, reason)| format!("core {core} ({reason})"));
            let failures: Vec<String> = failures.collect();
            return Err(NotReloaded::Partly(format!("the old generation is still served on {}", failures.join(", "))));
        }
        self.keep_top_names(&plan.wanted);
        tracing::info!("reloaded in {} ms: {}", started.elapsed().as_millis(), knowledge.describe());
        Ok(Some(Reloaded {
            generation: knowledge.generation(),
            rules: knowledge.rule_count(),
            took_ms: u64::try_from(started.elapsed().as_millis()).unwrap_or(u64::MAX),
            at_restart: kept.into_iter().map(|option| option.trim_matches('`').to_owned()).collect(),
        }))
    }

    fn ended(&mut self, worker: usize, outcome: Result<Totals, String>) -> ServeError {
        let reason = match outcome {
            Ok(totals) => {
                self.totals.add(&totals);
                "it ended by itself".to_owned()
            }
            Err(reason) => reason,
        };
        // Its report was its last act: nothing is left to be waited for in `stop`.
        if let Some(thread) = self.threads.get_mut(worker) {
            drop(thread.take());
        }
        ServeError::Worker { core: self.plan.placement.workers.get(worker).copied().unwrap_or_default(), reason }
    }

    /// Lets every worker answer what it has taken in, for a bounded time.
    fn stop(&mut self) {
        self.save_top_names();
        for commander in self.commanders.iter() {
            commander.order(Order::Stop);
        }
        let until = Instant::now() + Duration::from_millis(2 * STOP_MS_MAX);
        let mut left = self.threads.iter().filter(|thread| thread.is_some()).count();
        while left > 0 {
            match self.events.recv_timeout(until.saturating_duration_since(Instant::now())) {
                Ok(Event::Ended(_, outcome)) => {
                    left -= 1;
                    if let Ok(totals) = outcome {
                        self.totals.add(&totals);
                    }
                }
                Ok(_) => {}
                Err(_) => {
                    tracing::warn!("{left} workers did not end in time");
                    break;
                }
            }
        }
        tracing::info!("stopped: {}", self.totals.line());
    }
}

/// Tells the control thread how a worker fares; also that it died, for a panic drops it.
struct Report {
    events: SyncSender<Event>,
    index: usize,
    is_made: bool,
}

impl Report {
    fn serving(&self) {
        // The control thread outlives its workers but in a process that is ending.
        let _ = self.events.send(Event::Serving);
    }

    fn ended(mut self, outcome: Result<Totals, String>) {
        self.is_made = true;
        let _ = self.events.send(Event::Ended(self.index, outcome));
    }
}

impl Drop for Report {
    fn drop(&mut self) {
        if !self.is_made {
            let reason =
                "it panicked, or its executor could not be made; the standard error output tells why".to_owned();
            let _ = self.events.send(Event::Ended(self.index, Err(reason)));
        }
    }
}

/// The life of one worker, in its executor.
async fn work(
    knowledge: Arc<Knowledge>,
    core: usize,
    sockets: Sockets,
    orders: Orders,
    wait: Wait,
    saved: Option<PathBuf>,
    report: Report,
) {
    let seeds = [rand::random(), rand::random()];
    let worker = match Worker::new(&knowledge, core, sockets.udp, seeds) {
        Ok(worker) => Rc::new(RefCell::new(worker)),
        Err(reason) => return report.ended(Err(reason)),
    };
    // Held for ever, it would keep the first generation's files open.
    drop(knowledge);
    if let Err(error) = tasks::spawn_all(&worker, sockets.tcp, orders) {
        return report.ended(Err(format!("cannot copy a socket's descriptor: {error}")));
    }
    if let Some(path) = &saved {
        worker.borrow_mut().load_cache(path);
    }
    report.serving();
    tasks::run(worker.clone(), wait).await;
    if let Some(path) = &saved {
        worker.borrow().save_cache(path);
    }
    let totals = worker.borrow().totals();
    report.ended(Ok(totals));
}
