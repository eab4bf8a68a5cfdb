//! The appliance under test: the real core with a real store, without sockets and without a clock.
//!
//! It stands where `serve` stands in the running program: it takes the core's steps and carries them out. The store is built
//! from the scenario's lists by the same code as `corewall build`; rows come from SQLite, patterns from their engine.
//! Only time and the network are the scenario's.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::Path;
use std::sync::Arc;

use corewall::build::patterns::Compiler;
use corewall::decide::cache::{Flush, FlushCursor};
use corewall::decide::rulebook::RuleBook;
use corewall::decide::settings::Settings;
use corewall::decide::upstream::ServerId;
use corewall::decide::{Core, Now, Origin, Ready, SendId, Step, StoreFailed, Ticket, Transport, Undelivered, Unread};
use corewall::serve::answer_here::{carry_one_out, carry_out, fetch_ahead};
use corewall::serve::live::LiveRules;
use corewall::serve::patterns::{PatternDatabase, PatternScanner};
use corewall::serve::saved;
use corewall::serve::store::StoreReader;
use corewall::{build, config, limits};
use corewall_sharding::overlay::{LiveEntry, LiveUpdate};
use corewall_sharding::publish::Store;

use crate::scenario::{File, Server, StoreState};

/// The client of queries that name none.
pub const CLIENT_DEFAULT: IpAddr = IpAddr::V4(Ipv4Addr::new(192, 0, 2, 200));
/// Events that one step may lead to: past it, something goes round in circles.
const EVENTS_MAX: usize = 10_000;

/// An answer to a client.
pub struct Answer {
    pub client: IpAddr,
    pub transport: Transport,
    pub wire: Vec<u8>,
}

/// A message to an upstream server.
pub struct Sent {
    pub id: SendId,
    pub server: ServerId,
    pub address: SocketAddr,
    pub transport: Transport,
    pub socket: u16,
    pub wire: Vec<u8>,
    /// Whether it was answered, maybe in a way that the core did not take.
    pub is_answered: bool,
    /// Whether a step has looked at it.
    pub is_checked: bool,
}

/// A row or a target, as the store is asked for it: shard, name, and of a target its class.
type Wanted = (u16, String, Option<u32>);

/// What is being read for a query.
struct Reading {
    ticket: Ticket,
    wanted: Vec<Wanted>,
    /// None: never.
    until: Option<Now>,
}

/// The appliance and what it has done so far.
pub struct Appliance {
    core: Core,
    store: StoreReader,
    patterns: PatternScanner,
    live: LiveRules,
    /// The entries of the overlay.
    entries: Vec<Arc<LiveEntry>>,
    folder: tempfile::TempDir,
    name: String,
    config: String,
    now: Now,
    out: Vec<u8>,
    port: u16,
    readings: Vec<Reading>,
    /// What has been read for the query at hand, whatever the store does.
    at_hand: Vec<Wanted>,
    /// What the store does when it is asked.
    pub state: StoreState,
    /// Answers that no step has looked at.
    pub answers: Vec<Answer>,
    /// Reasons of drops that no step has looked at.
    pub drops: Vec<String>,
    /// All messages to upstream servers.
    pub sent: Vec<Sent>,
}

impl Appliance {
    /// Builds a store from `files` as `config` says and starts on it. `name` is what errors call the configuration.
    pub fn start(name: &str, config: &str, files: &[File]) -> Result<Appliance, String> {
        let folder = tempfile::tempdir().map_err(|error| error.to_string())?;
        write_files(folder.path(), files)?;
        let Opened { settings, live, store, patterns } = open(folder.path(), name, config, &[])?;
        // Message ids need not be unpredictable here, but the same in each run.
        let mut core = Core::new(settings, live.now().change.rules.clone(), [7; 32]);
        core.set_keepalive(300);
        Ok(Appliance {
            core,
            store,
            patterns,
            live,
            entries: Vec::new(),
            folder,
            name: name.to_owned(),
            config: config.to_owned(),
            now: Now(1_000_000_000),
            out: vec![0; limits::MESSAGE_BYTES_MAX],
            port: 40_000,
            readings: Vec::new(),
            at_hand: Vec::new(),
            state: StoreState::Works,
            answers: Vec::new(),
            drops: Vec::new(),
            sent: Vec::new(),
        })
    }

    /// Builds another generation and goes over to it.
    pub fn reload(&mut self, config: Option<&str>, files: &[File]) -> Result<(), String> {
        if let Some(config) = config {
            config.clone_into(&mut self.config);
        }
        write_files(self.folder.path(), files)?;
        let Opened { settings, live, store, patterns } =
            open(self.folder.path(), &self.name, &self.config, &self.entries)?;
        self.core.switch(settings, live.now().change.rules.clone());
        (self.live, self.store, self.patterns) = (live, store, patterns);
        // What was being read is asked of the new generation.
        for Reading { ticket, .. } in std::mem::take(&mut self.readings) {
            self.end_reading(ticket, Vec::new())?;
        }
        Ok(())
    }

    /// Live rules change, as by a worker's order.
    pub fn change_live(&mut self, update: &LiveUpdate) -> Result<(), String> {
        self.entries.retain(|entry| !update.left.contains(&entry.seq));
        self.entries.extend(update.entered.iter().cloned());
        let step = self.live.commit(self.live.prepare(update.clone())?);
        self.patterns.set_live(&step.patterns)?;
        self.core.change_live(&step.change, true);
        Ok(())
    }

    /// Cached answers are forgotten, slice after slice.
    pub fn flush(&mut self, what: &Flush) {
        let mut from = Some(FlushCursor::START);
        while let Some(cursor) = from {
            from = self.core.flush(what, cursor).next;
        }
    }

    /// Saves the popular answers and ends; another appliance, with the configuration and the files of now, takes them in.
    pub fn restart(&mut self, seconds: u64) -> Result<(), String> {
        self.finish()?;
        let path = saved::path_of(self.folder.path(), 0);
        saved::save(&path, 1_000_000, &self.core.save(self.now)).map_err(|error| error.to_string())?;
        let Opened { settings, live, store, patterns } =
            open(self.folder.path(), &self.name, &self.config, &self.entries)?;
        self.core = Core::new(settings, live.now().change.rules.clone(), [8; 32]);
        (self.live, self.store, self.patterns) = (live, store, patterns);
        // A clock of its own, which may have begun later than the answers were stored.
        self.now = Now(1_000);
        self.readings.clear();
        self.sent.iter_mut().for_each(|sent| sent.is_answered = true);
        let (_, saved) = saved::load(&path)?.ok_or("nothing was saved")?;
        self.core.load(self.now, seconds as u32, saved);
        Ok(())
    }

    /// A client asks.
    pub fn ask(&mut self, client: IpAddr, transport: Transport, wire: &[u8]) -> Result<(), String> {
        self.port = self.port.wrapping_add(1).max(1_024);
        let origin = Origin { client: SocketAddr::new(client, self.port), local: None, transport, token: 0 };
        let step = match transport {
            // As the server takes in a batch.
            Transport::Udp => {
                self.core.hear(self.now, 0, origin, wire);
                fetch_ahead(&mut self.core, 1, &self.store);
                self.core.answer(self.now, 0, wire, &mut self.out)
            }
            Transport::Tcp => self.core.on_datagram(self.now, origin, wire, &mut self.out),
        };
        self.carry_out(step)?;
        self.drain()
    }

    /// The message that `place` in `sent` holds is answered by `wire`.
    pub fn answer(&mut self, place: usize, socket: u16, transport: Transport, wire: &[u8]) -> Result<(), String> {
        let Sent { server, is_answered, .. } = &mut self.sent[place];
        *is_answered = true;
        self.core.on_upstream(self.now, *server, transport, socket, wire);
        self.drain()
    }

    /// The message that `place` in `sent` holds could not be delivered.
    pub fn fail(&mut self, place: usize, why: Undelivered) -> Result<(), String> {
        self.core.on_upstream_failed(self.now, self.sent[place].id, why);
        self.drain()
    }

    /// Whether the core still waits for an answer to this very message.
    pub fn is_awaited(&self, sent: &Sent) -> bool {
        self.core.is_awaited(sent.id)
    }

    /// Microseconds until something is given up, if anything waits.
    pub fn until_deadline(&mut self) -> Option<u64> {
        let read = self.readings.iter().filter_map(|reading| reading.until).min();
        let due = self.core.next_deadline().into_iter().chain(read).min();
        due.map(|due| due.0.saturating_sub(self.now.0))
    }

    /// Microseconds pass; what waits longer than it may is given up.
    pub fn pass(&mut self, us: u64) -> Result<(), String> {
        self.now = self.now.plus_us(us);
        while let Some(place) =
            self.readings.iter().position(|reading| reading.until.is_some_and(|until| until <= self.now))
        {
            let Reading { ticket, wanted, .. } = self.readings.remove(place);
            self.end_reading(ticket, wanted)?;
        }
        for _ in 0..EVENTS_MAX {
            if !self.core.on_tick(self.now) {
                return Ok(());
            }
            self.drain()?;
        }
        Err("time-outs never end".to_owned())
    }

    /// Whether a server is down, if it is known.
    pub fn is_down(&self, server: Server) -> Option<bool> {
        self.core.servers().find(|known| server.is(known.address())).map(|known| known.is_down())
    }

    /// A counter by its name.
    pub fn counter(&self, name: &str) -> Option<u64> {
        self.core.counters().each().find(|(known, ..)| *known == name).map(|(.., value)| value)
    }

    /// Holds at any time: what came in was answered, dropped, or waits.
    pub fn check_balance(&self) -> Result<(), String> {
        let counters = self.core.counters();
        let drops: u64 = counters.each().filter(|(name, ..)| name.starts_with("drops_")).map(|(.., value)| value).sum();
        let (received, replies) = (counters.received.value(), counters.replies.value());
        let waiting = self.core.queries_waiting();
        match received == replies + drops + waiting as u64 {
            true => Ok(()),
            false => Err(format!("{received} received, but {replies} answered, {drops} dropped and {waiting} waiting")),
        }
    }

    /// Lets time pass until nothing waits any more, as it must in the end.
    pub fn finish(&mut self) -> Result<(), String> {
        for _ in 0..EVENTS_MAX {
            let Some(us) = self.until_deadline() else { break };
            self.pass(us)?;
        }
        self.check_balance()?;
        if self.core.has_reads() || self.core.answers_kept() > 0 {
            return Err(format!("{} answers are kept for nobody", self.core.answers_kept()));
        }
        match (self.core.queries_waiting(), self.core.refreshes_under_way(), self.core.exchanges_open()) {
            (0, 0, 0) => Ok(()),
            (queries, refreshes, exchanges) => {
                Err(format!("{queries} queries, {refreshes} refreshes and {exchanges} exchanges wait for ever"))
            }
        }
    }

    /// What a query waits for has been read, or the store is another one now.
    fn end_reading(&mut self, ticket: Ticket, wanted: Vec<Wanted>) -> Result<(), String> {
        if !self.core.is_reading(ticket) {
            return Ok(());
        }
        self.at_hand = wanted;
        let step = self.core.on_read(self.now, ticket, &mut self.out);
        self.carry_out(step)?;
        self.at_hand.clear();
        self.drain()
    }

    fn drain(&mut self) -> Result<(), String> {
        for _ in 0..EVENTS_MAX {
            match self.core.next_ready() {
                None => return Ok(()),
                Some(Ready::Send(id)) => {
                    let request = self.core.upstream_request(id).ok_or("a send without a message")?;
                    self.sent.push(Sent {
                        id,
                        server: request.server,
                        address: request.address,
                        transport: request.transport,
                        socket: request.socket,
                        wire: request.message.to_vec(),
                        is_answered: false,
                        is_checked: false,
                    });
                }
                Some(Ready::Query(ticket)) => {
                    let step = self.core.resume(self.now, ticket, &mut self.out);
                    self.carry_out(step)?;
                }
                Some(Ready::Done(_)) => {}
            }
        }
        Err("the core always has something ready".to_owned())
    }

    fn carry_out(&mut self, mut step: Step) -> Result<(), String> {
        let Self { core, store, patterns, out, now, .. } = self;
        for _ in 0..EVENTS_MAX {
            step = match (self.state, step) {
                (StoreState::Cold(_), Step::AskStore(ticket)) if !are_rows_at_hand(core, &self.at_hand) => {
                    core.on_rows(*now, ticket, out, |_, _| Err(Unread::WouldWait))
                }
                (StoreState::Cold(_), Step::AskTarget(ticket)) if !is_target_at_hand(core, ticket, &self.at_hand) => {
                    core.on_target(*now, ticket, Err(Unread::WouldWait), out)
                }
                (StoreState::Cold(us), Step::ReadStore(ticket)) => {
                    let wanted = match core.alias_asked(ticket) {
                        Some((shard, name, class)) => vec![(shard, name.to_owned(), Some(class))],
                        None => core.lookup().keys().map(|key| (key.shard, key.text.to_owned(), None)).collect(),
                    };
                    self.readings.push(Reading { ticket, wanted, until: us.map(|us| now.plus_us(us)) });
                    return Ok(());
                }
                (StoreState::RowsFail, Step::AskStore(ticket)) => {
                    core.on_rows(*now, ticket, out, |_, _| Err(StoreFailed))
                }
                (StoreState::TargetsFail, Step::AskTarget(ticket)) => {
                    core.on_target(*now, ticket, Err(Unread::Failed), out)
                }
                (StoreState::PatternsFail, Step::AskPatterns(ticket)) => {
                    core.on_matches(*now, ticket, Err(StoreFailed), out)
                }
                (StoreState::Works, step @ (Step::AskStore(_) | Step::AskTarget(_) | Step::AskPatterns(_))) => {
                    carry_out(core, *now, step, store, patterns, out)
                }
                (_, step @ (Step::AskStore(_) | Step::AskTarget(_) | Step::AskPatterns(_))) => {
                    carry_one_out(core, *now, step, store, patterns, out)
                }
                (_, Step::ReadStore(_)) => return Err("the store works, and is to be waited for".to_owned()),
                (_, Step::Wait(_) | Step::Refreshed) => return Ok(()),
                (_, Step::Drop(reason)) => {
                    self.drops.push(format!("{reason:?}"));
                    return Ok(());
                }
                (_, Step::Reply { bytes, to }) => {
                    let limit = match to.transport {
                        Transport::Udp => limits::UDP_PAYLOAD_BYTES_MAX,
                        Transport::Tcp => limits::MESSAGE_BYTES_MAX,
                    };
                    let wire = out.get(..bytes).filter(|wire| wire.len() <= limit);
                    let wire = wire.ok_or_else(|| format!("a reply of {bytes} bytes over {:?}", to.transport))?;
                    self.answers.push(Answer { client: to.client.ip(), transport: to.transport, wire: wire.to_vec() });
                    return Ok(());
                }
            };
        }
        Err("a query never ends".to_owned())
    }
}

fn are_rows_at_hand(core: &Core, at_hand: &[Wanted]) -> bool {
    core.lookup().keys().all(|key| {
        at_hand.iter().any(|(shard, name, class)| (*shard, name.as_str(), *class) == (key.shard, key.text, None))
    })
}

fn is_target_at_hand(core: &Core, ticket: Ticket, at_hand: &[Wanted]) -> bool {
    let Some((shard, name, class)) = core.alias_asked(ticket) else { return false };
    at_hand.iter().any(|known| (known.0, known.1.as_str(), known.2) == (shard, name, Some(class)))
}

fn write_files(folder: &Path, files: &[File]) -> Result<(), String> {
    for File { name, text, is_database, .. } in files {
        let path = folder.join(name);
        if *is_database {
            let _ = std::fs::remove_file(&path);
            let database = rusqlite::Connection::open(&path).map_err(|error| error.to_string())?;
            database.execute_batch(text).map_err(|error| format!("{name}: {error}"))?;
        } else {
            std::fs::write(&path, text).map_err(|error| format!("{name}: {error}"))?;
        }
    }
    Ok(())
}

/// What the core works with.
struct Opened {
    settings: Arc<Settings>,
    live: LiveRules,
    store: StoreReader,
    patterns: PatternScanner,
}

/// Reads the configuration, builds a generation of its lists if it has any, and opens it as the server does, with these entries
/// of the overlay on top.
fn open(folder: &Path, name: &str, config: &str, entries: &[Arc<LiveEntry>]) -> Result<Opened, String> {
    let config = config::parse(config, &folder.join(name)).map_err(|error| error.to_string())?;
    let hosts = config::Hosts::read(&config.hosts_files).map_err(|error| error.message())?;
    let settings = Arc::new(config.settings_with(&hosts));
    let (rules, generation, reader, patterns);
    if config.list.is_empty() {
        (rules, generation) = (RuleBook::empty(&settings), None);
        (reader, patterns) = (StoreReader::empty(), PatternDatabase::empty());
    } else {
        let store = folder.join("store");
        let mut options = build::Options { compiler: Compiler::Here, ..build::Options::default() };
        config.build.put_into(&mut options);
        build::run(&config.list_specs(), &store, &options, &mut |_| {}).map_err(|error| error.to_string())?;
        let opened = Store::open(&store).and_then(|store| store.current()).map_err(|error| error.to_string())?;
        rules = RuleBook::new(&opened, &settings).map_err(|error| error.to_string())?;
        reader = StoreReader::open(&opened, config.mmap).map_err(|error| error.to_string())?;
        patterns = PatternDatabase::load(&opened).map_err(|error| error.to_string())?;
        generation = Some(Arc::new(opened));
    }
    let live = LiveRules::none(Arc::new(rules), generation, settings.clone(), Compiler::Here);
    live.load(entries.iter().map(|entry| LiveEntry::clone(entry)))?;
    let patterns = PatternScanner::new(Arc::new(patterns)).map_err(|error| error.to_string())?;
    let patterns = patterns.with_live(&live.now().patterns)?;
    Ok(Opened { settings, live, store: reader, patterns })
}
