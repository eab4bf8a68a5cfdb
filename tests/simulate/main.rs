//! Thousands of random events against the whole core, without sockets and without a clock: questions, answers of every kind,
//! losses, refusals, forgeries, reloads, over random upstream groups. Whatever happens, each question ends once, with few
//! messages to upstreams, and nothing is left behind.
//!
//! A failure tells its seed; `COREWALL_SEED=n cargo test --test simulate` runs that one alone.

mod live;

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::Arc;

use corewall::decide::case::CaseRandomization;
use corewall::decide::peer::Terms;
use corewall::decide::rulebook::RuleBook;
use corewall::decide::settings::{Group, Settings, Strategy};
use corewall::decide::subnet::{SubnetMode, SubnetPolicy};
use corewall::decide::{Core, ExchangeId, Now, Origin, Ready, SendId, Step, Transport, Undelivered};
use corewall::limits::{SERVER_SOCKETS, UPSTREAM_SENDS_MAX};

const SEEDS: u64 = 40;
const EVENTS: usize = 4_000;
/// Answers to clients and messages to upstreams that one event may lead to: past it, something goes round in circles.
const READY_MAX: usize = 100_000;
/// Sends that may still be answered, refused or forged; older ones are lost.
const SENDS_KEPT: usize = 64;

/// Numbers that depend on the seed alone.
struct Dice(u64);

impl Dice {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    fn below(&mut self, bound: u64) -> u64 {
        self.next() % bound
    }

    fn is_one_in(&mut self, chances: u64) -> bool {
        self.below(chances) == 0
    }
}

/// Settings of a random kind: groups that stand in for each other, servers that they share.
fn settings(dice: &mut Dice) -> Settings {
    let mut settings = Settings { upstream_timeout_ms: 20 + dice.below(800), ..Settings::default() };
    let names = ["default", "allow", "block", "backup"];
    settings.groups = names
        .map(|name| {
            let servers = (0..dice.below(5)).map(|_| SocketAddr::from(([192, 0, 2, dice.below(6) as u8 + 1], 53)));
            let mut servers: Vec<_> = servers.collect();
            servers.sort();
            servers.dedup();
            let strategies = [Strategy::Fastest, Strategy::Parallel, Strategy::Ordered, Strategy::RoundRobin];
            Group {
                strategy: strategies[dice.below(4) as usize],
                parallel: 2 + dice.below(2) as u8,
                hedge_ms: if dice.is_one_in(2) { 0 } else { 5 + dice.below(200) },
                fallback: (name == "default" && dice.is_one_in(2)).then(|| "backup".to_owned()),
                terms: terms(dice),
                ..Group::new(name, servers)
            }
        })
        .to_vec();
    settings
}

fn terms(dice: &mut Dice) -> Terms {
    let cases = [CaseRandomization::Auto, CaseRandomization::On, CaseRandomization::Off];
    let modes = [SubnetMode::Drop, SubnetMode::Forward, SubnetMode::Set];
    Terms {
        case: cases[dice.below(3) as usize],
        cookies: !dice.is_one_in(4),
        subnet: SubnetPolicy { mode: modes[dice.below(3) as usize], ..SubnetPolicy::default() },
    }
}

/// Octets of a message up to the end of its question.
fn question_bytes(message: &[u8]) -> usize {
    let name_bytes = message[12..].iter().position(|octet| *octet == 0).expect("a name") + 1;
    12 + name_bytes + 4
}

/// Ends an answer with an OPT record that repeats the question's cookie, if it has one. BADCOOKIE is 23: `rcode_hi` 1 and 7.
fn append_cookie(answer: &mut Vec<u8>, question: &[u8], rcode_hi: u8, flip: u8) {
    // Behind the question, the OPT record and the option's head.
    let Some(cookie) = question.get(question_bytes(question) + 15..).and_then(|rest| rest.first_chunk::<8>()) else {
        return;
    };
    answer[3] |= 7 * rcode_hi;
    answer[11] = 1;
    answer.extend_from_slice(&[0, 0, 41, 4, 208, rcode_hi, 0, 0, 0, 0, 20, 0, 10, 0, 16]);
    answer.extend(cookie.iter().map(|octet| octet ^ flip));
    answer.extend_from_slice(b"server01");
}

/// A message to an upstream.
#[derive(Clone)]
struct Sent {
    id: SendId,
    server: u32,
    socket: u16,
    transport: Transport,
    message: Vec<u8>,
}

struct Run {
    core: Core,
    dice: Dice,
    now: Now,
    out: Vec<u8>,
    sent: Vec<Sent>,
    /// Sends of each exchange that is not over, with their message ids.
    open: HashMap<ExchangeId, Vec<u16>>,
    /// Answers that each question has had.
    answers: Vec<u32>,
    messages: usize,
}

impl Run {
    fn new(seed: u64) -> Self {
        let mut dice = Dice(seed);
        let settings = settings(&mut dice);
        let rules = RuleBook::empty(&settings);
        Self {
            core: Core::new(Arc::new(settings), Arc::new(rules), [seed as u8; 32]),
            dice,
            now: Now(1_000_000),
            out: vec![0; 65_535],
            sent: Vec::new(),
            open: HashMap::new(),
            answers: Vec::new(),
            messages: 0,
        }
    }

    fn take(&mut self, step: Step) {
        match step {
            Step::Reply { to, .. } => self.answers[to.token as usize] += 1,
            Step::Wait(_) => {}
            other => panic!("{other:?}"),
        }
    }

    fn drain(&mut self) {
        for _ in 0..READY_MAX {
            match self.core.next_ready() {
                None => return,
                Some(Ready::Send(id)) => self.send(id),
                Some(Ready::Query(ticket)) => {
                    let step = self.core.resume(self.now, ticket, &mut self.out);
                    self.take(step);
                }
                Some(Ready::Done(exchange)) => {
                    self.open.remove(&exchange).expect("an exchange that ends was sent");
                }
            }
        }
        panic!("there is always something ready");
    }

    fn send(&mut self, id: SendId) {
        let request = self.core.upstream_request(id).expect("a message to send");
        assert!(!self.open.values().flatten().any(|known| *known == request.id), "two sends in flight bear one id");
        let sends = self.open.entry(id.exchange).or_default();
        sends.push(request.id);
        assert!(sends.len() <= usize::from(UPSTREAM_SENDS_MAX), "a question was sent {} times", sends.len());
        self.messages += 1;
        self.sent.push(Sent {
            id,
            server: request.server,
            socket: request.socket,
            transport: request.transport,
            message: request.message.to_vec(),
        });
        if self.sent.len() > SENDS_KEPT {
            self.sent.remove(0);
        }
    }

    fn ask(&mut self) {
        let client = SocketAddr::from(([198, 51, self.dice.below(12) as u8, self.dice.below(2) as u8], 5_353));
        let token = self.answers.len() as u64;
        let mut query = vec![self.dice.next() as u8, self.dice.next() as u8, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0];
        // Few enough names that some are asked at the same time, so many that failures kept in the cache are not all.
        query.extend_from_slice(&[4, b'n', b'a' + self.dice.below(20) as u8, b'a' + self.dice.below(26) as u8, b'x']);
        query.extend_from_slice(b"\x07example\0\0\x01\0\x01");
        if self.dice.is_one_in(2) {
            query[11] = 1;
            query.extend_from_slice(b"\0\0\x29\x04\xd0\0\0\0\0\0\x0b\0\x08\0\x07\0\x01\x18\0\xc0\0");
            query.push(self.dice.below(12) as u8);
        }
        self.answers.push(0);
        let from = Origin { client, local: None, transport: Transport::Udp, token };
        let step = self.core.on_datagram(self.now, from, &query, &mut self.out);
        self.take(step);
    }

    fn pass(&mut self, us: u64) {
        self.now = self.now.plus_us(us);
        for _ in 0..READY_MAX {
            if !self.core.on_tick(self.now) {
                let next = self.core.next_deadline();
                return assert!(next.is_none_or(|next| next > self.now), "what was due was not done");
            }
            self.drain();
        }
        panic!("what is due never ends");
    }

    /// Something comes from the server that a message went to.
    fn hear(&mut self) {
        if self.sent.is_empty() {
            return;
        }
        let place = self.dice.below(self.sent.len() as u64) as usize;
        let sent = self.sent[place].clone();
        // The question without its OPT record.
        let mut message = sent.message[..question_bytes(&sent.message)].to_vec();
        message[2] |= 0x80;
        message[3] = 0x80;
        message[11] = 0;
        let (mut socket, mut transport) = (sent.socket, sent.transport);
        match self.dice.below(24) {
            // A good answer that nobody may keep: its TTL is 0.
            0..=6 => {
                message[7] = 1;
                message.extend_from_slice(b"\xc0\x0c\0\x01\0\x01\0\0\0\0\0\x04\xc0\0\x02\x05");
            }
            7 | 8 => message[3] |= 2,
            9 => message[3] |= 5,
            10 => message[2] |= 2,
            11 => message[0] ^= 0x55,
            12 => message.truncate(self.dice.below(message.len() as u64) as usize),
            13 => socket = (socket + 1) % SERVER_SOCKETS as u16,
            14 => {
                transport = match transport {
                    Transport::Udp => Transport::Tcp,
                    Transport::Tcp => Transport::Udp,
                }
            }
            15 => message[13] ^= 0x20,
            16 => message[3] |= 1,
            // BADCOOKIE, a cookie that is not ours, and answers of a server that knows cookies.
            17 | 18 => append_cookie(&mut message, &sent.message, 1, 0),
            19 => append_cookie(&mut message, &sent.message, 0, 0xff),
            _ => append_cookie(&mut message, &sent.message, 0, 0),
        }
        if transport == Transport::Tcp {
            socket = 0;
        }
        self.core.on_upstream(self.now, sent.server, transport, socket, &message);
    }

    fn event(&mut self) {
        match self.dice.below(100) {
            0..40 => self.ask(),
            40..75 => self.hear(),
            75..80 if !self.sent.is_empty() => {
                let place = self.dice.below(self.sent.len() as u64) as usize;
                let why = if self.dice.below(2) == 0 { Undelivered::Refused } else { Undelivered::NoRoom };
                self.core.on_upstream_failed(self.now, self.sent[place].id, why);
            }
            80..83 if !self.sent.is_empty() => {
                let place = self.dice.below(self.sent.len() as u64) as usize;
                let (server, socket) = (self.sent[place].server, self.sent[place].socket);
                for _ in 0..READY_MAX {
                    if !self.core.on_socket_failed(self.now, server, socket) {
                        break;
                    }
                    self.drain();
                }
            }
            83 if self.dice.is_one_in(4) => {
                let settings = settings(&mut self.dice);
                let rules = RuleBook::empty(&settings);
                self.core.switch(Arc::new(settings), Arc::new(rules));
            }
            84 => {
                let us = self.dice.below(3_000_000);
                self.pass(us);
            }
            _ => {
                let us = self.dice.below(30_000);
                self.pass(us);
            }
        }
        self.drain();
        let waiting = self.answers.iter().filter(|answers| **answers == 0).count();
        assert_eq!(self.core.queries_waiting(), waiting);
        assert_eq!(self.core.exchanges_open(), self.open.len());
    }

    /// Lets everything come to its end.
    fn finish(&mut self) {
        for _ in 0..READY_MAX {
            let Some(next) = self.core.next_deadline() else { break };
            self.pass(next.0.saturating_sub(self.now.0));
        }
        assert_eq!(self.core.next_deadline(), None, "something is always due");
        assert!(self.answers.iter().all(|answers| *answers == 1), "a question was not answered once");
        assert_eq!((self.core.queries_waiting(), self.core.exchanges_open(), self.open.len()), (0, 0, 0));
        assert_eq!(self.core.counters().upstream_sends.value(), self.messages as u64);
    }
}

#[test]
fn whatever_happens_each_question_ends_once_and_nothing_is_left_behind() {
    let seeds = match std::env::var("COREWALL_SEED") {
        Ok(seed) => vec![seed.parse().expect("COREWALL_SEED is a number")],
        Err(_) => (0..SEEDS).collect(),
    };
    let mut seen = HashMap::new();
    for seed in seeds {
        let told = std::panic::catch_unwind(|| {
            let mut run = Run::new(seed);
            (0..EVENTS).for_each(|_| run.event());
            run.finish();
            run.core.counters().each().map(|(name, _, value)| (name, value)).collect::<Vec<_>>()
        });
        let told = told.unwrap_or_else(|_| panic!("COREWALL_SEED={seed} fails"));
        told.into_iter().for_each(|(name, value)| *seen.entry(name).or_insert(0) += value);
    }
    // The events lead everywhere.
    for name in [
        "exchanges_shared",
        "upstream_parallel",
        "upstream_measurings",
        "upstream_hedges",
        "upstream_probes",
        "upstream_fallbacks",
        "upstream_downs",
        "upstream_timeouts",
        "upstream_failures",
        "upstream_truncated",
        "upstream_wrong_id",
        "upstream_unexpected",
        "upstream_doubtful",
        "upstream_cookies_learnt",
        "upstream_plainer",
    ] {
        assert!(seen[name] > 0, "{name} never happened");
    }
}
