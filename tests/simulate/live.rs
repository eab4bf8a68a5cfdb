//! Live rules that come and go at random moments, over questions that are cached, in flight or new: whatever the moment, each
//! client is answered by the rules of when it is answered, as a simple model of them has it.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;

use corewall::build::patterns::Compiler;
use corewall::decide::rulebook::RuleBook;
use corewall::decide::settings::{Group, Settings};
use corewall::decide::{Core, Now, Origin, Ready, Step, Transport};
use corewall::serve::answer_here::carry_out;
use corewall::serve::live::LiveRules;
use corewall::serve::patterns::{PatternDatabase, PatternScanner};
use corewall::serve::store::StoreReader;
use corewall_sharding::name::Name;
use corewall_sharding::overlay::{LiveChange, LiveEntry, LiveUpdate};
use corewall_sharding::rule::{Class, Kind, Rule, RuleKey, Scope};

use super::{Dice, READY_MAX};

const SEEDS: u64 = 30;
const EVENTS: usize = 3_000;

/// Names that are asked, that rules speak of, and that lead to others: `c` is a CNAME for `a.y`, `b.x` for `c.y`.
const NAMES: [&str; 9] = [
    "x.example",
    "a.x.example",
    "b.x.example",
    "y.example",
    "a.y.example",
    "c.y.example",
    "c.example",
    "example",
    "q.test",
];
const CHAINS: [(&str, &str); 2] = [("c.example", "a.y.example"), ("b.x.example", "c.y.example")];

struct Run {
    core: Core,
    live: LiveRules,
    scanner: PatternScanner,
    dice: Dice,
    now: Now,
    out: Vec<u8>,
    /// Name of each question, by its token, until it is answered.
    asked: Vec<Option<Name>>,
    /// What upstreams have been asked and not answered.
    sent: Vec<(u32, u16, Vec<u8>)>,
    /// The rules that hold: number, kind, scope, name.
    model: Vec<(u64, Kind, Scope, Name)>,
    seq: u64,
    blocked: u64,
    passed: u64,
}

impl Run {
    fn new(seed: u64) -> Self {
        let mut settings = Settings::default();
        settings.groups[0] = Group::new("default", vec!["192.0.2.1:53".parse().unwrap()]);
        let settings = Arc::new(settings);
        let rules = Arc::new(RuleBook::empty(&settings));
        Self {
            core: Core::new(settings.clone(), rules.clone(), [seed as u8; 32]),
            live: LiveRules::none(rules, None, settings, Compiler::Here),
            scanner: PatternScanner::new(Arc::new(PatternDatabase::empty())).unwrap(),
            dice: Dice(seed),
            now: Now(1_000_000),
            out: vec![0; 65_535],
            asked: Vec::new(),
            sent: Vec::new(),
            model: Vec::new(),
            seq: 0,
            blocked: 0,
            passed: 0,
        }
    }

    /// What the rules say of one name: allowed, blocked, or nothing.
    fn verdict(&self, name: &Name) -> Option<Kind> {
        let speaks = |(_, _, scope, of): &&(u64, Kind, Scope, Name)| match scope {
            Scope::Exact => name == of,
            Scope::Below => name != of && name.is_at_or_below(of),
            _ => name.is_at_or_below(of),
        };
        let kinds = self.model.iter().filter(speaks).map(|(_, kind, ..)| *kind);
        kinds.min()
    }

    fn must_block(&self, name: &Name) -> bool {
        match self.verdict(name) {
            Some(kind) => kind == Kind::Block,
            None => chain_of(name).is_some_and(|target| self.verdict(&target) == Some(Kind::Block)),
        }
    }

    fn take(&mut self, step: Step) {
        let (now, store) = (self.now, &mut StoreReader::empty());
        let Self { core, scanner, out, .. } = self;
        match carry_out(core, now, step, store, scanner, out) {
            Step::Reply { bytes, to } => {
                let name = self.asked[to.token as usize].take().expect("a question is answered once");
                let is_blocked = self.out[bytes - 4..bytes] == [0; 4];
                assert_eq!(self.out[3] & 15, 0, "{name}: it fails");
                assert_eq!(is_blocked, self.must_block(&name), "{name} under {:?}", self.model);
                *(if is_blocked { &mut self.blocked } else { &mut self.passed }) += 1;
            }
            Step::Wait(_) | Step::Refreshed => {}
            other => panic!("{other:?}"),
        }
    }

    fn drain(&mut self) {
        for _ in 0..READY_MAX {
            match self.core.next_ready() {
                None => return,
                Some(Ready::Send(id)) => {
                    let request = self.core.upstream_request(id).expect("a message to send");
                    self.sent.push((request.server, request.socket, request.message.to_vec()));
                }
                Some(Ready::Query(ticket)) => {
                    let step = self.core.resume(self.now, ticket, &mut self.out);
                    self.take(step);
                }
                Some(Ready::Done(_)) => {}
            }
        }
        panic!("there is always something ready");
    }

    fn ask(&mut self) {
        let name = name(NAMES[self.dice.below(NAMES.len() as u64) as usize]);
        let mut query = vec![1, 2, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0];
        query.extend_from_slice(name.as_wire());
        query.extend_from_slice(&[0, 1, 0, 1]);
        let client = SocketAddr::new(IpAddr::V4(Ipv4Addr::new(198, 51, 100, self.dice.below(9) as u8)), 5_353);
        let from = Origin { client, local: None, transport: Transport::Udp, token: self.asked.len() as u64 };
        self.asked.push(Some(name));
        let step = self.core.on_datagram(self.now, from, &query, &mut self.out);
        self.take(step);
    }

    /// An upstream answers one of the questions, some with a name that leads on.
    fn hear(&mut self) {
        if self.sent.is_empty() {
            return;
        }
        let (server, socket, request) = self.sent.remove(self.dice.below(self.sent.len() as u64) as usize);
        let name = Name::from_wire(&request[12..]).unwrap();
        let end = 12 + name.as_wire().len() + 4;
        let mut message = request[..end].to_vec();
        message[2] |= 0x80;
        message[3] = 0x80;
        message[11] = 0;
        let ttl_s = [0, 0, 0, 1 + self.dice.below(40) as u8];
        if let Some(target) = chain_of(&name) {
            message[7] += 1;
            message.extend_from_slice(&[0xc0, 12, 0, 5, 0, 1]);
            message.extend_from_slice(&ttl_s);
            message.extend_from_slice(&(target.as_wire().len() as u16).to_be_bytes());
            message.extend_from_slice(target.as_wire());
            message.extend_from_slice(target.as_wire());
        } else {
            message.extend_from_slice(&[0xc0, 12]);
        }
        message[7] += 1;
        message.extend_from_slice(&[0, 1, 0, 1]);
        message.extend_from_slice(&ttl_s);
        message.extend_from_slice(&[0, 4, 198, 51, 100, 7]);
        self.core.on_upstream(self.now, server, Transport::Udp, socket, &message);
    }

    /// Some rules come and others go.
    fn change(&mut self) {
        let mut update = LiveUpdate::default();
        while !self.model.is_empty() && !self.dice.is_one_in(3) {
            let (seq, ..) = self.model.remove(self.dice.below(self.model.len() as u64) as usize);
            update.left.push(seq);
        }
        // Now and then so many that nobody knows which names they touch.
        let count = if self.dice.is_one_in(50) { 70 } else { self.dice.below(3) };
        for _ in 0..count {
            self.seq += 1;
            let kind = if self.dice.is_one_in(3) { Kind::Allow } else { Kind::Block };
            let scope = [Scope::Exact, Scope::Subtree, Scope::Below][self.dice.below(3) as usize];
            let name = name(NAMES[self.dice.below(NAMES.len() as u64) as usize]);
            self.model.push((self.seq, kind, scope, name));
            let class = Class::plain(kind, scope, 0);
            let change = LiveChange::Rule(Rule { class, key: RuleKey::Name { name, target: None } });
            let list = format!("list {}", self.dice.below(3));
            let (seq, reason) = (self.seq, String::new());
            update.entered.push(Arc::new(LiveEntry { seq, change, list, created_s: 0, expires_s: None, reason }));
        }
        let step = self.live.commit(self.live.prepare(update).expect("within the bounds"));
        self.core.change_live(&step.change, true);
    }

    fn event(&mut self) {
        match self.dice.below(100) {
            0..50 => self.ask(),
            50..80 => self.hear(),
            80..90 => self.change(),
            _ => self.now = self.now.plus_us(self.dice.below(300_000)),
        }
        self.drain();
        // An answer is always on its way: what waits too long is another test's.
        if self.sent.len() > 10 || self.dice.is_one_in(10) {
            while !self.sent.is_empty() {
                self.hear();
                self.drain();
            }
        }
    }
}

fn chain_of(name: &Name) -> Option<Name> {
    CHAINS.iter().find(|(from, _)| self::name(from) == *name).map(|(_, to)| self::name(to))
}

fn name(text: &str) -> Name {
    text.parse().unwrap()
}

#[test]
fn each_client_is_answered_by_the_rules_of_when_it_is_answered() {
    let (mut blocked, mut passed, mut confirmed, mut uncloaked) = (0, 0, 0, 0);
    for seed in 0..SEEDS {
        let told = std::panic::catch_unwind(|| {
            let mut run = Run::new(seed);
            (0..EVENTS).for_each(|_| run.event());
            let counters = run.core.counters();
            (run.blocked, run.passed, counters.cache_confirmed.value(), counters.uncloaked.value())
        });
        let told = told.unwrap_or_else(|_| panic!("seed {seed} fails"));
        (blocked, passed) = (blocked + told.0, passed + told.1);
        (confirmed, uncloaked) = (confirmed + told.2, uncloaked + told.3);
    }
    assert!(blocked > 1_000 && passed > 1_000 && confirmed > 1_000 && uncloaked > 100, "the events lead everywhere");
}
