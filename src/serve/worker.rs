//! One worker: everything that one core owns, and what is done with each thing that arrives.
//!
//! Invariants: nothing here is shared with another worker; no event is handled while another one is (each task borrows the
//! worker for one event and never across an await); after every event all that `decide` has made ready is carried out; the
//! clock is read once a batch. The tasks that bring the events are in [`super::tasks`].

mod change;
mod upstream;
mod waiting;

use std::collections::{HashMap, VecDeque};
use std::io;
use std::net::{SocketAddr, UdpSocket};
use std::path::PathBuf;
use std::rc::Rc;
use std::sync::Arc;

use corewall_sharding::name::Name;

use super::answer_here::{carry_out, fetch_ahead};
use super::clock::{Clock, unix_s};
use super::kernel::{Alarm, Epoll, Events, Interest, PollSet};
use super::metrics::{ServerReport, SocketCounters, Totals, WorkerReport};
use super::patterns::PatternScanner;
use super::reload::Knowledge;
use super::store::StoreReader;
use super::store::readers::Bell;
use super::tcp::Connections;
use super::udp::{ReceiveBatch, SendBatch};
use super::upstream::pool::Pool;
use super::upstream::ports::Ports;
use super::wait::{Park, Tag};
use crate::control::protocol::{CacheUse, WorkerServer};
use crate::decide::cache::{Flush, FlushCursor, FlushProgress};
use crate::decide::upstream::{ServerId, ServerReport as UpstreamReport};
use crate::decide::{Core, Now, Origin, Ready, SendId, Step, Ticket, Transport, Undelivered};
use crate::limits::{
    BATCH_DATAGRAMS, BATCHES_IN_A_ROW_MAX, DATAGRAM_BYTES_MAX, MESSAGE_BYTES_MAX, QUERIES_WAITING_MAX,
    READY_SOCKETS_MAX, UPSTREAM_FAILURES_MAX,
};

/// Rounds that may pass, while nothing waits for an upstream, before the other sockets are looked at: at a third of a microsecond
/// for a round that finds nothing, TCP clients wait 5 us for a worker that spins.
const UNASKED_ROUNDS_MAX: u32 = 16;

/// A listening UDP socket and the replies that wait to be sent on it.
struct Listener {
    socket: UdpSocket,
    /// What it is known by in the set that naps wait for.
    number: usize,
    /// It is bound to the wildcard address, and tells which address was asked.
    has_packet_info: bool,
    send: SendBatch,
    /// The last look found something, so another look is worth its system call.
    may_hold_more: bool,
}

/// What failed while `decide` was handing work out, and is reported to it afterwards.
enum Failed {
    Send(SendId, Undelivered),
    Socket(ServerId, u16),
}

/// Starts the task of a new TCP connection, of this token, with an upstream server.
pub type ConnectUpstream = Box<dyn Fn(u64, SocketAddr)>;

/// What one round of looking at the sockets came to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Round {
    /// Datagrams or upstream answers were handled.
    pub was_busy: bool,
    /// Sockets of other tasks are ready: the executor must have its turn.
    pub is_others_turn: bool,
}

/// One core's share of the server.
pub struct Worker {
    clock: Clock,
    core: Core,
    store: StoreReader,
    /// Rung by the threads that read what is not in memory.
    bell: Bell,
    /// The number of the core that it runs on.
    core_number: usize,
    patterns: PatternScanner,
    /// The last change of live rules on this generation that was taken over.
    live_version: u64,
    /// Number of the generation, and its rules.
    generation: Option<u64>,
    rule_count: u64,
    /// Directory of the store.
    store_dir: Option<PathBuf>,
    listeners: Vec<Listener>,
    ports: Ports,
    /// TCP connections with upstream servers.
    pool: Pool,
    connect_upstream: Option<ConnectUpstream>,
    connections: Connections,
    /// Connection of each TCP client's query that waits for an upstream.
    tcp_tickets: HashMap<Ticket, u64>,
    failed: VecDeque<Failed>,
    /// Where a reply is written whose client is not known before: of a resumed query, or over TCP.
    scratch: Vec<u8>,
    answer: Vec<u8>,
    /// All sockets but the listening ones.
    epoll: Epoll,
    events: Events<READY_SOCKETS_MAX>,
    /// What a nap waits for: the listening sockets, and `epoll`, by this number.
    polled: PollSet,
    epoll_number: usize,
    /// Rounds since `epoll` was asked.
    unasked_rounds: u32,
    /// Ends the naps, see [`super::wait`].
    alarm: Alarm,
    is_alarm_set: bool,
    park: Rc<Park>,
    /// When the last sleep was to end.
    parked_until: Now,
    counters: Arc<SocketCounters>,
    /// Something was put where another task finds it: it is to run before the next wait.
    has_work_for_others: bool,
    is_stopping: bool,
}

impl Worker {
    /// Takes all memory that the query path will need, opens this worker's connections to the shards.
    pub fn new(
        knowledge: &Knowledge,
        core_number: usize,
        listeners: Vec<UdpSocket>,
        seeds: [[u8; 32]; 2],
    ) -> Result<Self, String> {
        let epoll = Epoll::new().map_err(|error| format!("cannot make an epoll instance: {error}"))?;
        let mut polled = PollSet::default();
        let epoll_number = polled.add(&epoll);
        let alarm = Alarm::new().map_err(|error| format!("cannot make a timer: {error}"))?;
        let added = epoll.add(&alarm, Tag::Task.into(), Interest::Change);
        added.map_err(|error| format!("cannot wait for a timer: {error}"))?;
        let bell = Bell::new().map_err(|error| format!("cannot make a pair of sockets: {error}"))?;
        let added = epoll.add(&bell, Tag::Readers.into(), Interest::Readable);
        added.map_err(|error| format!("cannot wait for a socket: {error}"))?;
        let [core_seed, port_seed] = seeds;
        let clock = Clock::start();
        let live = knowledge.live.now();
        let mut core = Core::new(knowledge.settings.clone(), live.change.rules.clone(), core_seed);
        core.set_filter_place(knowledge.filter_place(core_number));
        core.set_wall_clock(clock.now(), unix_s());
        Ok(Self {
            clock,
            core,
            store: knowledge.open_store(Some((core_number, &bell)))?,
            bell,
            core_number,
            patterns: knowledge.open_patterns()?.with_live(&live.patterns)?,
            live_version: live.change.version,
            generation: knowledge.generation(),
            rule_count: knowledge.rule_count(),
            store_dir: knowledge.store_dir(),
            listeners: listeners
                .into_iter()
                .map(|socket| Listener {
                    number: polled.add(&socket),
                    has_packet_info: socket.local_addr().is_ok_and(|address| address.ip().is_unspecified()),
                    socket,
                    send: SendBatch::new(),
                    may_hold_more: true,
                })
                .collect(),
            ports: Ports::new(port_seed),
            pool: Pool::new(),
            connect_upstream: None,
            connections: Connections::new(knowledge.tcp),
            tcp_tickets: HashMap::with_capacity(QUERIES_WAITING_MAX),
            failed: VecDeque::with_capacity(UPSTREAM_FAILURES_MAX),
            scratch: vec![0; MESSAGE_BYTES_MAX],
            answer: vec![0; DATAGRAM_BYTES_MAX],
            epoll,
            events: Events::new(),
            polled,
            epoll_number,
            unasked_rounds: 0,
            alarm,
            is_alarm_set: false,
            park: Rc::default(),
            parked_until: Now(u64::MAX),
            counters: Arc::default(),
            has_work_for_others: false,
            is_stopping: false,
        })
    }

    /// How connections with upstream servers are begun; none are before this is set.
    pub fn set_connect_upstream(&mut self, connect: ConnectUpstream) {
        self.connect_upstream = Some(connect);
    }

    /// Where this worker's main task sleeps when nothing is to be done.
    pub fn park(&self) -> Rc<Park> {
        self.park.clone()
    }

    /// Another descriptor of each listening socket.
    pub fn listener_copies(&self) -> io::Result<Vec<UdpSocket>> {
        self.listeners.iter().map(|listener| listener.socket.try_clone()).collect()
    }

    /// This moment.
    pub fn now(&self) -> Now {
        self.clock.now()
    }

    /// The counters of its sockets.
    pub fn counters(&self) -> &Arc<SocketCounters> {
        &self.counters
    }

    /// Everything counted so far.
    pub fn totals(&self) -> Totals {
        Totals::of(&self.counters, self.core.counters())
    }

    /// Forgets a slice of the cached answers that `what` says.
    pub fn flush_cache(&mut self, what: &Flush, from: FlushCursor) -> FlushProgress {
        self.core.flush(what, from)
    }

    /// How it is.
    pub fn report(&mut self) -> WorkerReport {
        let cache = self.core.cache_stats();
        WorkerReport {
            generation: self.generation,
            store: self.store_dir.clone(),
            rules: self.rule_count,
            filters: self.core.rules().filters().clone(),
            direct: self.store.direct().clone(),
            live: self.core.live_summary(),
            queries_waiting: self.core.queries_waiting() as u64,
            tcp_connections: self.connections.open_count() as u64,
            cache: CacheUse {
                entries: cache.entries as u64,
                bytes_used: cache.bytes_used as u64,
                bytes: cache.bytes as u64,
            },
            totals: self.totals(),
        }
    }

    /// The names asked for most, see [`Core::take_top_names`].
    pub fn take_top_names(&mut self) -> Vec<(Name, u32)> {
        self.core.take_top_names()
    }

    /// How the upstream servers do.
    pub fn servers(&self) -> Vec<ServerReport> {
        let report = |server: UpstreamReport<'_>| ServerReport {
            address: server.address(),
            groups: server.groups().map(str::to_owned).collect(),
            found: WorkerServer {
                core: 0,
                round_trip_us: server.round_trip().map(|it| it.smoothed_us),
                variation_us: server.round_trip().map(|it| it.variation_us),
                answers: server.answers(),
                timeouts: server.timeouts(),
                failures: u64::from(server.failures()),
                is_down: server.is_down(),
            },
        };
        self.core.servers().map(report).collect()
    }

    /// The TCP connections with clients.
    pub fn connections(&mut self) -> &mut Connections {
        &mut self.connections
    }

    /// Looks at the UDP sockets and the time, once; naps before when nothing is known to be there and `may_nap`. On the hot
    /// path.
    pub fn round(&mut self, receive: &mut ReceiveBatch, may_nap: bool) -> Round {
        let mut round = Round::default();
        self.unasked_rounds += 1;
        // Under load the listening sockets are looked at without asking whether that is worth it, which saves a call.
        if may_nap && !self.is_stopping && !self.listeners.iter().any(|listener| listener.may_hold_more) {
            round = self.nap();
        } else {
            if self.is_waited_for() || self.is_stopping || self.unasked_rounds >= UNASKED_ROUNDS_MAX {
                round = self.look();
            }
            self.listeners.iter_mut().for_each(|listener| listener.may_hold_more = true);
        }
        for index in 0..self.listeners.len() {
            for _ in 0..BATCHES_IN_A_ROW_MAX {
                if !self.listeners.get(index).is_some_and(|listener| listener.may_hold_more) {
                    break;
                }
                round.was_busy |= self.receive(index, receive) > 0;
            }
        }
        self.tick();
        self.flush();
        round.is_others_turn |= std::mem::take(&mut self.has_work_for_others);
        round
    }

    /// Receives a batch from one listening socket and answers what can be answered. On the hot path.
    fn receive(&mut self, index: usize, receive: &mut ReceiveBatch) -> usize {
        let Some(listener) = self.listeners.get_mut(index) else { return 0 };
        let count = match receive.receive(&listener.socket, listener.has_packet_info) {
            Ok(count) => count,
            Err(error) => {
                // An error of an earlier send; reading it has cleared it.
                tracing::debug!("receiving failed: {error}");
                0
            }
        };
        // A batch that was not full has emptied the socket.
        listener.may_hold_more = count == BATCH_DATAGRAMS;
        if count == 0 {
            return 0;
        }
        self.counters.udp_batches.add(1);
        self.counters.udp_received.add(count as u64);
        let now = self.clock.now();
        // One pass after the other over the whole batch: what its answers are read from is fetched side by side.
        for datagram in 0..count {
            if let Some(received) = receive.datagram(datagram, index as u64) {
                self.counters.udp_cut.add(u64::from(received.is_cut));
                self.core.hear(now, datagram, received.from, received.bytes);
            }
        }
        fetch_ahead(&mut self.core, count, &self.store);
        for datagram in 0..count {
            if let Some(octets) = receive.octets(datagram) {
                self.take_datagram(now, index, datagram, octets);
            }
        }
        // Cached answers near their end have begun to be asked for again.
        self.drain(now);
        self.flush_listener(index);
        count
    }

    fn take_datagram(&mut self, now: Now, index: usize, datagram: usize, octets: &[u8]) {
        if self.listeners.get(index).is_some_and(|listener| listener.send.is_full()) {
            self.flush_listener(index);
        }
        let Self { core, store, patterns, listeners, .. } = self;
        let Some(Listener { send, .. }) = listeners.get_mut(index) else { return };
        // The reply is written where it will be sent from.
        let step = core.answer(now, datagram, octets, send.slot());
        match carry_out(core, now, step, store, patterns, send.slot()) {
            Step::Reply { bytes, to } => send.push(bytes, &to),
            _ => self.drain(now),
        }
    }

    /// Answers a message of a TCP connection, now or later.
    pub fn take_message(&mut self, token: u64, message: &[u8]) {
        let now = self.clock.now();
        let Some(connection) = self.connections.get_mut(token) else { return };
        connection.query_came(now);
        let client = connection.client();
        self.counters.tcp_received.add(1);
        self.core.set_keepalive(self.connections.keepalive(token, now));
        let from = Origin { client, local: None, transport: Transport::Tcp, token };
        let Self { core, store, patterns, scratch, .. } = self;
        let step = core.on_datagram(now, from, message, scratch);
        match carry_out(core, now, step, store, patterns, scratch) {
            Step::Wait(ticket) => {
                if let Some(connection) = self.connections.get_mut(token) {
                    connection.query_waits();
                }
                self.tcp_tickets.insert(ticket, token);
            }
            Step::Reply { bytes, to } => self.reply(bytes, &to),
            _ => {}
        }
        self.settle(now);
    }

    /// Gives up what has waited too long.
    fn tick(&mut self) {
        let Some(deadline) = self.core.next_deadline() else { return };
        let now = self.clock.now();
        if deadline > now {
            return;
        }
        while self.core.on_tick(now) {
            self.drain(now);
        }
    }

    /// After an event that another task brought: everything that it made ready goes out, and the main task wakes if there
    /// is something to wait for.
    fn settle(&mut self, now: Now) {
        self.drain(now);
        self.flush();
        // While it sleeps nobody watches the upstream ports and the readers' bell, and what is due sooner than before would be late.
        if self.is_waited_for() || self.core.next_deadline().is_some_and(|due| due < self.parked_until) {
            self.park.wake();
        }
    }

    /// Carries out what `decide` has made ready. Ends, for every query is sent upstream a bounded number of times.
    fn drain(&mut self, now: Now) {
        loop {
            while let Some(ready) = self.core.next_ready() {
                match ready {
                    Ready::Send(send) => self.send_upstream(now, send, false),
                    Ready::Query(ticket) => self.resume(now, ticket),
                    Ready::Done(exchange) => self.forget_exchange(exchange),
                }
            }
            match self.failed.pop_front() {
                Some(Failed::Send(send, why)) => self.core.on_upstream_failed(now, send, why),
                Some(Failed::Socket(server, slot)) => {
                    if self.core.on_socket_failed(now, server, slot) {
                        self.failed.push_front(Failed::Socket(server, slot));
                    }
                }
                None => return,
            }
        }
    }

    /// Whether upstreams or the reader threads are to say something.
    fn is_waited_for(&self) -> bool {
        self.core.exchanges_open() > 0 || self.core.has_reads()
    }

    fn resume(&mut self, now: Now, ticket: Ticket) {
        let step = self.core.resume(now, ticket, &mut self.scratch);
        self.go_on(now, ticket, step);
    }

    /// Takes in what the reader threads have read.
    fn take_findings(&mut self, now: Now) {
        self.bell.hush();
        while let Some((tickets, finding)) = self.store.next_finding() {
            self.store.lay_out(finding);
            self.end_reads(now, tickets);
            self.store.clear_away();
        }
    }

    /// Goes on with queries that have waited for the store, those aside whose time was over first.
    fn end_reads(&mut self, now: Now, tickets: Vec<Ticket>) {
        for ticket in tickets {
            if self.core.is_reading(ticket) {
                let step = self.core.on_read(now, ticket, &mut self.scratch);
                self.go_on(now, ticket, step);
                self.drain(now);
            }
        }
    }

    /// Carries out what comes of a query that has waited.
    fn go_on(&mut self, now: Now, ticket: Ticket, step: Step) {
        let Self { core, store, patterns, scratch, .. } = self;
        match carry_out(core, now, step, store, patterns, scratch) {
            Step::Wait(_) => return,
            Step::Reply { bytes, to } => self.reply(bytes, &to),
            _ => {}
        }
        if let Some(token) = self.tcp_tickets.remove(&ticket) {
            self.connections.query_ended(token);
        }
    }

    /// Sends the reply in `scratch`, or puts it where it will be sent from.
    fn reply(&mut self, bytes: usize, to: &Origin) {
        let Some(message) = self.scratch.get(..bytes) else { return };
        if to.transport == Transport::Tcp {
            self.has_work_for_others = true;
            return self.connections.reply(to.token, message, &self.counters);
        }
        let index = to.token as usize;
        if self.listeners.get(index).is_some_and(|listener| listener.send.is_full()) {
            self.flush_listener(index);
        }
        let Some(Listener { send, .. }) = self.listeners.get_mut(index) else { return };
        let (Some(message), Some(slot)) = (self.scratch.get(..bytes), send.slot().get_mut(..bytes)) else {
            return debug_assert!(false, "a reply over UDP that no datagram holds");
        };
        slot.copy_from_slice(message);
        send.push(bytes, to);
    }

    fn flush(&mut self) {
        for index in 0..self.listeners.len() {
            self.flush_listener(index);
        }
    }

    fn flush_listener(&mut self, index: usize) {
        let Some(Listener { socket, send, .. }) = self.listeners.get_mut(index) else { return };
        if send.is_empty() {
            return;
        }
        let report = send.flush(socket);
        self.counters.udp_sent.add(report.sent);
        self.counters.udp_dropped.add(report.dropped);
        self.counters.udp_failed.add(report.failed);
    }

    /// Takes nothing new from now on but what the kernel holds already.
    pub fn begin_stop(&mut self) {
        self.is_stopping = true;
        self.listeners.iter_mut().for_each(|listener| listener.may_hold_more = true);
        self.connections.wake_all();
        self.park.wake();
    }

    /// Whether [`Self::begin_stop`] was called.
    pub fn is_stopping(&self) -> bool {
        self.is_stopping
    }

    /// Whether every query taken in has been answered.
    pub fn is_settled(&self) -> bool {
        self.core.queries_waiting() == 0
    }
}
