//! From datagram to reply nothing is allocated: counted by the allocator itself, on the paths of a blocked, a cached, a
//! local and an unlisted name, with a real store behind them.
//!
//! SQLite's own allocations (its C allocator, mostly the connection's lookaside slots) are not Rust's and are not counted.

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::net::SocketAddr;
use std::sync::Arc;

use corewall::build::patterns::Compiler;
use corewall::decide::chaos::Chaos;
use corewall::decide::cookie::issued::Secret;
use corewall::decide::local::{LocalRecords, Served};
use corewall::decide::rebinding::Rebinding;
use corewall::decide::rulebook::RuleBook;
use corewall::decide::settings::{Group, Settings, Strategy};
use corewall::decide::subnet::SubnetMode;
use corewall::decide::{Core, Now, Origin, Ready, Step, Transport, Undelivered};
use corewall::limits::{BATCH_DATAGRAMS, RULE_GROUPS_MAX, RULE_SERVERS_MAX};
use corewall::serve::answer_here::{carry_out, fetch_ahead};
use corewall::serve::live::LiveRules;
use corewall::serve::patterns::{PatternDatabase, PatternScanner};
use corewall::serve::store::StoreReader;
use corewall_sharding::build::{BuildOptions, Builder};
use corewall_sharding::name::Name;
use corewall_sharding::overlay::{LiveChange, LiveEntry, LiveUpdate, Void};
use corewall_sharding::publish::{Generation, Store};
use corewall_sharding::rule::{AnswerRecord, Class, ClientMatch, Condition, Kind, List, Rule, RuleKey, Scope};

thread_local! {
    static ALLOCATIONS: Cell<u64> = const { Cell::new(0) };
}

struct Counting;

// SAFETY: every call is handed on to the system's allocator unchanged; counting touches a thread-local number only.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        ALLOCATIONS.with(|count| count.set(count.get() + 1));
        // SAFETY: the caller keeps the contract of `alloc`.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        // SAFETY: the caller keeps the contract of `dealloc`.
        unsafe { System.dealloc(pointer, layout) }
    }

    unsafe fn realloc(&self, pointer: *mut u8, layout: Layout, bytes: usize) -> *mut u8 {
        ALLOCATIONS.with(|count| count.set(count.get() + 1));
        // SAFETY: the caller keeps the contract of `realloc`.
        unsafe { System.realloc(pointer, layout, bytes) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

fn allocations(work: impl FnOnce()) -> u64 {
    let before = ALLOCATIONS.with(Cell::get);
    work();
    ALLOCATIONS.with(Cell::get) - before
}

/// Whom the rules on the root name speak of.
const HELD_CLIENT: &str = "192.0.2.78/32";
/// What [`Worker::answer_upstream`] answers.
const UPSTREAMS_ANSWER: &str = "192.0.2.5/32";

/// Rules that name a server each: more than are known at a time.
const OWN_SERVERS: usize = RULE_GROUPS_MAX + 500;

/// A worker's half without sockets, over a real store.
struct Worker {
    core: Core,
    rules: Arc<RuleBook>,
    store: StoreReader,
    patterns: PatternScanner,
    out: Vec<u8>,
    clock: u64,
    /// What the upstream answers.
    address: [u8; 4],
    generation: Generation,
    _folder: tempfile::TempDir,
}

impl Worker {
    fn new(cache_bytes: usize) -> Self {
        Self::with(cache_bytes, Kind::Allow)
    }

    /// `answer_kind`: of the rule on the address in the upstream's answers.
    fn with(cache_bytes: usize, answer_kind: Kind) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::create_or_open(folder.path()).unwrap();
        let mut builder = Builder::new(&store, BuildOptions { shards: 4, ..BuildOptions::default() }).unwrap();
        let list = builder.list(List::named("blocked")).unwrap();
        for number in 0..2_000 {
            let name = format!("host{number}.blocked.example").parse().unwrap();
            let key = RuleKey::Name { name, target: None };
            builder.push(&Rule { class: Class::plain(Kind::Block, Scope::Exact, list), key }).unwrap();
        }
        // A client and an address that rules speak of, and others that they have to be told from.
        for net in [HELD_CLIENT, "198.51.100.0/24", "2001:db8::/32"] {
            let clients = vec![ClientMatch::Net(net.parse().unwrap())];
            let condition = Some(Condition { clients, ..Condition::default() });
            let class = Class { condition, ..Class::plain(Kind::Allow, Scope::Subtree, list) };
            let key = RuleKey::Name { name: Name::ROOT, target: None };
            builder.push(&Rule { class, key }).unwrap();
        }
        for (net, kind) in [("192.0.2.0/24", Kind::Block), (UPSTREAMS_ANSWER, answer_kind), ("10.0.0.0/8", Kind::Block)]
        {
            let key = RuleKey::Address { net: net.parse().unwrap(), target: None };
            builder.push(&Rule { class: Class::plain(kind, Scope::Address, list), key }).unwrap();
        }
        // Rules with servers of their own, each of which becomes a group when it is first used.
        for number in 0..OWN_SERVERS {
            let servers = vec![SocketAddr::from(([10, 0, (number >> 8) as u8, number as u8], 53))];
            let class = Class { servers, ..Class::plain(Kind::ForwardAllow, Scope::Subtree, list) };
            let key = RuleKey::Name { name: format!("own{number}.example").parse().unwrap(), target: None };
            builder.push(&Rule { class, key }).unwrap();
        }
        builder.finish(&mut |_, _, _| {}).unwrap().publish().unwrap();
        let generation = store.current().unwrap();
        let mut settings = Settings::default();
        settings.cache.bytes = cache_bytes;
        settings.client_cookies = Some(Secret::new(&[7; 16]));
        settings.groups[0] = Group::new("default", vec!["192.0.2.1:53".parse().unwrap()]);
        settings.rebinding = Rebinding::refused_except(&["corp.example".parse().unwrap()], Vec::new());
        settings.chaos = Chaos::new("corewall", "");
        let record = AnswerRecord { rtype: 1, ttl_s: None, rdata: [10, 0, 0, 1].into() };
        let owners = ["nas.lan.example", "*.lan.example"].map(|owner| (owner.parse().unwrap(), record.clone()));
        settings.local = LocalRecords::new(owners.to_vec(), Served { canary_domains: true, ..Served::default() });
        let rules = Arc::new(RuleBook::new(&generation, &settings).unwrap());
        Self {
            core: Core::new(Arc::new(settings), rules.clone(), [1; 32]),
            rules,
            store: StoreReader::open(&generation, true).unwrap(),
            patterns: PatternScanner::new(Arc::new(PatternDatabase::empty())).unwrap(),
            out: vec![0; 65_535],
            clock: 1,
            address: [192, 0, 2, 5],
            generation,
            _folder: folder,
        }
    }

    fn ask(&mut self, query: &[u8]) -> Step {
        self.ask_from("192.0.2.77:5353".parse().unwrap(), query)
    }

    fn ask_from(&mut self, client: SocketAddr, query: &[u8]) -> Step {
        self.clock += 10;
        let now = Now(self.clock);
        let from = Origin { client, local: None, transport: Transport::Udp, token: 0 };
        let step = self.core.on_datagram(now, from, query, &mut self.out);
        carry_out(&mut self.core, now, step, &mut self.store, &mut self.patterns, &mut self.out)
    }

    /// Asks for all of them in one batch; what comes of each, and its reply.
    fn ask_together(&mut self, queries: &[Vec<u8>], replies: &mut [Vec<u8>]) -> [Option<Step>; BATCH_DATAGRAMS] {
        self.clock += 10;
        let now = Now(self.clock);
        let client = "192.0.2.77:5353".parse().unwrap();
        let from = Origin { client, local: None, transport: Transport::Udp, token: 0 };
        queries.iter().enumerate().for_each(|(index, query)| self.core.hear(now, index, from, query));
        fetch_ahead(&mut self.core, queries.len(), &self.store);
        let mut steps = [None; BATCH_DATAGRAMS];
        for (index, (query, reply)) in queries.iter().zip(replies).enumerate() {
            let step = self.core.answer(now, index, query, reply);
            steps[index] = Some(carry_out(&mut self.core, now, step, &mut self.store, &mut self.patterns, reply));
        }
        steps
    }

    /// Goes over to a default group of this kind.
    fn switch(&mut self, group: Group) {
        let mut settings = Settings::default();
        settings.groups[0] = group;
        self.core.switch(Arc::new(settings), self.rules.clone());
    }

    /// Lets microseconds pass and does what is due.
    fn pass(&mut self, us: u64) {
        self.clock += us;
        while self.core.on_tick(Now(self.clock)) {}
    }

    /// Lets the upstream answer with one address, and gives the last reply.
    fn answer_upstream(&mut self) -> Step {
        self.answer_sends(0)
    }

    /// The same, but for so many sends, which are lost.
    fn answer_sends(&mut self, mut lost: usize) -> Step {
        let now = Now(self.clock);
        let mut last = None;
        while let Some(ready) = self.core.next_ready() {
            match ready {
                Ready::Send(_) if lost > 0 => lost -= 1,
                Ready::Send(id) => {
                    // The answer to an earlier one may have ended the exchange.
                    let Some(request) = self.core.upstream_request(id) else { continue };
                    let (server, socket) = (request.server, request.socket);
                    // The question without its OPT record, as a response with one A record of an hour.
                    let mut message = [0u8; 512];
                    let name_bytes = request.message[12..].iter().position(|octet| *octet == 0).unwrap() + 1;
                    let end = 12 + name_bytes + 4;
                    message[..end].copy_from_slice(&request.message[..end]);
                    message[2] |= 0x80;
                    message[3] = 0x80;
                    (message[7], message[11]) = (1, 0);
                    let record = b"\xc0\x0c\0\x01\0\x01\0\0\x0e\x10\0\x04....";
                    message[end..end + record.len()].copy_from_slice(record);
                    message[end + record.len() - 4..end + record.len()].copy_from_slice(&self.address);
                    self.core.on_upstream(now, server, Transport::Udp, socket, &message[..end + record.len()]);
                }
                Ready::Query(ticket) => {
                    let step = self.core.resume(now, ticket, &mut self.out);
                    let (store, patterns) = (&mut self.store, &mut self.patterns);
                    last = Some(carry_out(&mut self.core, now, step, store, patterns, &mut self.out));
                }
                Ready::Done(_) => {}
            }
        }
        last.expect("a query that waited")
    }
}

/// A query for an address with an OPT record.
fn query(name: &str) -> Vec<u8> {
    let mut message = b"\x12\x34\x01\0\0\x01\0\0\0\0\0\x01".to_vec();
    for label in name.split('.') {
        message.push(label.len() as u8);
        message.extend_from_slice(label.as_bytes());
    }
    message.extend_from_slice(b"\0\0\x01\0\x01\0\0\x29\x04\xd0\0\0\0\0\0\0");
    message
}

/// Address in the last four octets before the OPT record, or none.
fn is_reply(step: Step, out: &[u8], rcode: u8, answers: u8) {
    let Step::Reply { bytes, .. } = step else { panic!("{step:?} instead of a reply") };
    assert!(bytes > 12 && out[2] & 0x80 != 0, "a response");
    assert_eq!((out[3] & 0xf, out[7]), (rcode, answers), "RCODE and number of answers");
}

#[test]
fn a_blocked_name_is_answered_from_the_store_without_allocation() {
    let mut worker = Worker::new(1 << 20);
    let queries: Vec<_> = (0..2_000).map(|number| query(&format!("Host{number}.Blocked.Example"))).collect();
    // The first read of a shard fills SQLite's own page cache.
    for query in &queries[..200] {
        worker.ask(query);
    }
    let count = allocations(|| {
        for query in &queries[200..] {
            let step = worker.ask(query);
            is_reply(step, &worker.out, 0, 1);
        }
    });
    assert_eq!(worker.core.counters().blocked.value(), 2_000, "none of them came from the cache");
    assert_eq!(count, 0);
}

#[test]
fn a_blocked_name_whose_shard_is_in_memory_is_answered_without_allocation() {
    let mut worker = Worker::new(1 << 20);
    (0..4).for_each(|shard| worker.generation.read_directly(shard).unwrap());
    let queries: Vec<_> = (0..2_000).map(|number| query(&format!("Host{number}.Blocked.Example"))).collect();
    let count = allocations(|| {
        for query in &queries {
            let step = worker.ask(query);
            is_reply(step, &worker.out, 0, 1);
        }
    });
    assert_eq!(worker.core.counters().blocked.value(), 2_000, "none of them came from the cache");
    assert_eq!(count, 0);
}

#[test]
fn messages_that_come_together_are_answered_as_one_by_one_and_without_allocation() {
    for (cache_bytes, is_in_memory) in [(4 << 20, true), (4 << 20, false), (0, true)] {
        let [mut together, mut apart] = [(); 2].map(|()| Worker::new(cache_bytes));
        let cached: Vec<_> = (0..20).map(|number| query(&format!("www{number}.unlisted.example"))).collect();
        for worker in [&mut together, &mut apart] {
            if is_in_memory {
                (0..4).for_each(|shard| worker.generation.read_directly(shard).unwrap());
            }
            for query in &cached {
                worker.ask(query);
                worker.answer_upstream();
            }
            // The first read of a shard fills SQLite's own page cache.
            for number in 1_000..1_200 {
                worker.ask(&query(&format!("host{number}.blocked.example")));
            }
        }
        let mut replies = vec![vec![0; 1_232]; BATCH_DATAGRAMS];
        for round in 0..60 {
            let blocked = query(&format!("Host{round}.blocked.example"));
            let mut batch = vec![
                blocked.clone(),
                query("nas.lan.example"),
                // Its first asking is in this very batch.
                blocked,
                query(&format!("new{round}.lan.example")),
                b"no message".to_vec(),
                query("use-application-dns.net"),
                query(&format!("host{round}.blocked.example")),
            ];
            batch.extend_from_slice(&cached[..if cache_bytes > 0 { 20 } else { 0 }]);
            let mut steps = [None; BATCH_DATAGRAMS];
            let count = allocations(|| steps = together.ask_together(&batch, &mut replies));
            assert_eq!(count, 0, "round {round}");
            for (index, query) in batch.iter().enumerate() {
                let step = apart.ask(query);
                match (steps[index].unwrap(), step) {
                    (Step::Reply { bytes, .. }, Step::Reply { bytes: as_many, .. }) => {
                        assert_eq!(replies[index][..bytes], apart.out[..as_many], "round {round}, message {index}");
                    }
                    (one, other) => assert_eq!(one, other, "round {round}, message {index}"),
                }
            }
        }
        let counted = |worker: &Worker| {
            let counters = worker.core.counters();
            [&counters.received, &counters.replies, &counters.blocked, &counters.cache_hits]
                .map(|counter| counter.value())
        };
        assert_eq!(counted(&together), counted(&apart));
        assert_eq!(together.core.counters().cache_hits.value() > 0, cache_bytes > 0);
    }
}

#[test]
fn a_cached_name_is_answered_without_allocation_and_so_is_a_blocked_one() {
    let mut worker = Worker::new(4 << 20);
    let names: Vec<_> = (0..500).map(|number| query(&format!("www{number}.unlisted.example"))).collect();
    for query in &names {
        assert!(matches!(worker.ask(query), Step::Wait(_)));
        let step = worker.answer_upstream();
        is_reply(step, &worker.out, 0, 1);
    }
    let blocked = query("host7.blocked.example");
    worker.ask(&blocked);
    let hits = worker.core.counters().cache_hits.value();
    let count = allocations(|| {
        for query in &names {
            let step = worker.ask(query);
            is_reply(step, &worker.out, 0, 1);
            let step = worker.ask(&blocked);
            is_reply(step, &worker.out, 0, 1);
        }
    });
    assert_eq!(worker.core.counters().cache_hits.value() - hits, 1_000);
    assert_eq!(count, 0);
}

#[test]
fn live_rules_are_judged_and_cached_answers_confirmed_without_allocation() {
    let mut worker = Worker::new(4 << 20);
    let live = LiveRules::none(worker.rules.clone(), None, Arc::new(Settings::default()), Compiler::Here);
    let entry = |seq, change| LiveEntry {
        seq,
        change,
        list: "live".to_owned(),
        created_s: 0,
        expires_s: None,
        reason: String::new(),
    };
    let rule = |seq: u64, kind, name: String, target: Option<&str>| {
        let target = target.map(|target| target.parse().unwrap());
        let key = RuleKey::Name { name: name.parse().unwrap(), target };
        Arc::new(entry(seq, LiveChange::Rule(Rule { class: Class::plain(kind, Scope::Subtree, 0), key })))
    };
    let blocked = (1..=500).map(|seq| rule(seq, Kind::Block, format!("host{seq}.live.example"), None));
    let aliased =
        (501..=600).map(|seq| rule(seq, Kind::Alias, format!("alias{seq}.example"), Some("host1.live.example")));
    let voided = (601..=700).map(|seq| {
        let name = format!("host{seq}.blocked.example").parse().unwrap();
        let void = Void::Name { name, scope: Scope::Exact, kind: Kind::Block };
        Arc::new(LiveEntry { list: "blocked".to_owned(), ..entry(seq, LiveChange::Void(void)) })
    });
    let entered = blocked.chain(aliased).chain(voided).collect();
    let step = live.commit(live.prepare(LiveUpdate { entered, left: Vec::new() }).unwrap());
    let cached: Vec<_> = (0..500).map(|number| query(&format!("www{number}.unlisted.example"))).collect();
    for query in &cached {
        worker.ask(query);
        worker.answer_upstream();
    }
    worker.core.change_live(&step.change, true);
    let asked = |format: fn(u64) -> String, numbers: std::ops::RangeInclusive<u64>| -> Vec<_> {
        numbers.map(|number| query(&format(number))).collect()
    };
    let blocked = asked(|number| format!("x.host{number}.live.example"), 1..=500);
    let aliased = asked(|number| format!("Alias{number}.example"), 501..=600);
    let voided = asked(|number| format!("host{number}.blocked.example"), 601..=700);
    let update =
        |seq, name: &str| LiveUpdate { entered: vec![rule(seq, Kind::Block, name.to_owned(), None)], left: Vec::new() };
    let next = live.commit(live.prepare(update(1_000, "touched.example")).unwrap());
    // Cached answers that many changes have come since are judged again, with a table of live rules at hand.
    let count = allocations(|| {
        for query in &cached {
            let step = worker.ask(query);
            is_reply(step, &worker.out, 0, 1);
        }
        for query in &blocked {
            let step = worker.ask(query);
            is_reply(step, &worker.out, 0, 1);
        }
        // What an alias leads to is blocked, and so is the whole question.
        for query in &aliased {
            let step = worker.ask(query);
            is_reply(step, &worker.out, 0, 1);
        }
        for query in &voided {
            assert!(matches!(worker.ask(query), Step::Wait(_)));
            worker.answer_upstream();
        }
    });
    assert_eq!((worker.core.counters().blocked.value(), count), (600, 0));
    worker.core.change_live(&next.change, true);
    let confirmed = worker.core.counters().cache_confirmed.value();
    let reads = worker.core.counters().store_reads.value();
    let count = allocations(|| {
        for query in cached.iter().chain(&blocked).chain(&voided) {
            let step = worker.ask(query);
            is_reply(step, &worker.out, 0, 1);
        }
    });
    assert_eq!((worker.core.counters().cache_confirmed.value() - confirmed, count), (1_100, 0));
    assert_eq!(worker.core.counters().store_reads.value(), reads, "none was judged again");
}

#[test]
fn clients_are_given_cookies_without_allocation() {
    let mut worker = Worker::new(1 << 20);
    let mut with_cookie = query("host7.blocked.example");
    let bytes = with_cookie.len();
    with_cookie[bytes - 1] = 12;
    with_cookie.extend_from_slice(b"\0\x0a\0\x08clientck");
    worker.ask(&with_cookie);
    let count = allocations(|| {
        for _ in 0..100 {
            let Step::Reply { bytes, .. } = worker.ask(&with_cookie) else { panic!("no reply") };
            let cookie = worker.out[..bytes].windows(12).position(|part| part == b"\0\x0a\0\x18clientck");
            assert!(cookie.is_some_and(|at| worker.out[at + 12] == 1), "a server cookie of version 1");
        }
    });
    assert_eq!(worker.core.counters().cache_hits.value(), 100);
    assert_eq!(count, 0);
}

#[test]
fn an_unlisted_name_is_forwarded_and_kept_without_allocation() {
    let mut worker = Worker::new(1 << 20);
    let queries: Vec<_> = (0..5_000).map(|number| query(&format!("www{number}.unlisted.example"))).collect();
    for query in &queries[..100] {
        worker.ask(query);
        worker.answer_upstream();
    }
    let count = allocations(|| {
        for query in &queries[100..] {
            worker.ask(query);
            let step = worker.answer_upstream();
            is_reply(step, &worker.out, 0, 1);
        }
    });
    assert_eq!(count, 0, "not even when the cache is full and entries are evicted ({} kept)", worker.core.cached());
}

#[test]
fn answers_are_renewed_and_served_expired_without_allocation() {
    let mut worker = Worker::new(4 << 20);
    let names: Vec<_> = (0..200).map(|number| query(&format!("www{number}.unlisted.example"))).collect();
    for query in &names {
        worker.ask(query);
        worker.answer_upstream();
        worker.ask(query);
    }
    let count = allocations(|| {
        // In the last tenth of the hour.
        worker.clock += 3_300_000_000;
        for query in &names {
            let step = worker.ask(query);
            is_reply(step, &worker.out, 0, 1);
            assert!(matches!(worker.answer_upstream(), Step::Refreshed));
        }
        // Past the next hour: each client waits, is served, and the answer comes after all.
        worker.clock += 3_601_000_000;
        for query in &names {
            assert!(matches!(worker.ask(query), Step::Wait(_)));
            let Some(Ready::Send(sent)) = worker.core.next_ready() else { panic!("nothing is sent") };
            worker.clock += 1_800_000;
            while worker.core.on_tick(Now(worker.clock)) {
                while let Some(ready) = worker.core.next_ready() {
                    if let Ready::Query(ticket) = ready {
                        let step = worker.core.resume(Now(worker.clock), ticket, &mut worker.out);
                        if matches!(step, Step::Reply { .. }) {
                            is_reply(step, &worker.out, 0, 1);
                        }
                    }
                }
            }
            worker.core.on_upstream_failed(Now(worker.clock), sent, Undelivered::Refused);
            while let Some(ready) = worker.core.next_ready() {
                if let Ready::Query(ticket) = ready {
                    worker.core.resume(Now(worker.clock), ticket, &mut worker.out);
                }
            }
        }
    });
    assert_eq!(worker.core.counters().refreshes.value(), 200);
    assert_eq!(worker.core.counters().stale_answers.value(), 200);
    assert_eq!(worker.core.queries_waiting(), 0);
    assert_eq!(count, 0);
}

#[test]
fn clients_networks_are_told_and_answers_kept_apart_without_allocation() {
    let mut worker = Worker::new(1 << 20);
    let mut settings = Settings::default();
    let mut group = Group::new("default", vec!["192.0.2.1:53".parse().unwrap()]);
    group.terms.subnet.mode = SubnetMode::Set;
    settings.groups[0] = group;
    settings.cache.bytes = 1 << 20;
    let rules = RuleBook::empty(&settings);
    worker.core = Core::new(Arc::new(settings), Arc::new(rules), [1; 32]);
    worker.store = StoreReader::empty();
    let queries: Vec<_> = (0..1_000).map(|number| query(&format!("www{number}.unlisted.example"))).collect();
    let clients = ["10.0.0.7:5353", "198.51.100.7:5353", "203.0.113.7:5353"].map(|client| client.parse().unwrap());
    let count = allocations(|| {
        for query in &queries {
            for client in clients {
                if matches!(worker.ask_from(client, query), Step::Wait(_)) {
                    let step = worker.answer_upstream();
                    is_reply(step, &worker.out, 0, 1);
                }
            }
        }
    });
    // Of a private address nothing is told; then the first answer is for all, for it says nothing of networks.
    assert_eq!(worker.core.counters().exchanges.value(), 2_000);
    assert_eq!(count, 0);
}

#[test]
fn rules_on_addresses_and_on_clients_are_judged_without_allocation() {
    let mut worker = Worker::with(1 << 20, Kind::Block);
    let queries: Vec<_> = (0..1_000).map(|number| query(&format!("www{number}.unlisted.example"))).collect();
    let held: SocketAddr = "192.0.2.78:5353".parse().unwrap();
    let count = allocations(|| {
        for query in &queries {
            worker.ask(query);
            let step = worker.answer_upstream();
            is_reply(step, &worker.out, 0, 1);
            // Spared by the rule for this client: neither the block nor the cache is for it.
            worker.ask_from(held, query);
            let step = worker.answer_upstream();
            is_reply(step, &worker.out, 0, 1);
        }
    });
    assert_eq!(worker.core.counters().blocked_by_address.value(), 1_000);
    assert_eq!(worker.core.counters().exchanges.value(), 2_000);
    assert_eq!(count, 0);
}

#[test]
fn local_names_and_what_the_server_tells_of_itself_are_answered_without_allocation() {
    let mut worker = Worker::new(1 << 20);
    let names = ["nas.lan.example", "x.y.lan.example", "use-application-dns.net"].map(query);
    let mut version = query("version.bind");
    let end = version.len() - 11;
    version[end - 4..end].copy_from_slice(&[0, 16, 0, 3]);
    let count = allocations(|| {
        for (query, (rcode, answers)) in names.iter().zip([(0, 1), (0, 1), (3, 0)]) {
            let step = worker.ask(query);
            is_reply(step, &worker.out, rcode, answers);
        }
        let step = worker.ask(&version);
        is_reply(step, &worker.out, 0, 1);
    });
    assert_eq!(worker.core.counters().local_answers.value(), 4);
    assert_eq!(count, 0);
}

#[test]
fn a_private_address_of_a_public_name_is_refused_without_allocation() {
    let mut worker = Worker::new(1 << 20);
    worker.address = [192, 168, 0, 1];
    let queries: Vec<_> = (0..1_000).map(|number| query(&format!("www{number}.unlisted.example"))).collect();
    let count = allocations(|| {
        for query in &queries {
            worker.ask(query);
            let step = worker.answer_upstream();
            is_reply(step, &worker.out, 0, 0);
        }
    });
    assert_eq!(worker.core.counters().rebinding_refused.value(), 1_000);
    assert_eq!(count, 0);
}

#[test]
fn several_sends_time_outs_hedges_and_probes_need_no_allocation() {
    let mut worker = Worker::new(1 << 20);
    let servers: Vec<SocketAddr> = (1..=4).map(|number| SocketAddr::from(([192, 0, 2, number], 53))).collect();
    let queries: Vec<_> = (0..2_000).map(|number| query(&format!("www{number}.unlisted.example"))).collect();
    for (strategy, hedge_ms) in [(Strategy::Parallel, 0), (Strategy::Fastest, 20), (Strategy::RoundRobin, 0)] {
        worker.switch(Group { strategy, hedge_ms, ..Group::new("default", servers.clone()) });
        worker.ask(&queries[0]);
        worker.answer_upstream();
        let count = allocations(|| {
            for (number, query) in queries.iter().enumerate() {
                // Kept answers are forgotten, so that each is asked again.
                worker.pass(3_700_000_000);
                worker.ask(query);
                if number % 3 == 0 {
                    worker.pass(700_000);
                    worker.answer_sends(1);
                } else {
                    worker.answer_upstream();
                }
            }
        });
        assert_eq!(count, 0, "{strategy:?}");
    }
    let counters = worker.core.counters();
    assert!(counters.upstream_timeouts.value() > 500 && counters.upstream_parallel.value() > 1_000);
}

#[test]
fn groups_of_rules_servers_come_and_go_without_allocation() {
    let mut worker = Worker::new(1 << 20);
    let queries: Vec<_> = (0..OWN_SERVERS).map(|number| query(&format!("www.own{number}.example"))).collect();
    // The first read of a shard fills SQLite's own page cache.
    for query in &queries[..100] {
        worker.ask(query);
        worker.answer_upstream();
    }
    let count = allocations(|| {
        for query in queries.iter().chain(&queries) {
            worker.pass(1_000);
            if let Step::Wait(_) = worker.ask(query) {
                worker.answer_upstream();
            }
        }
    });
    assert_eq!(count, 0);
    assert_eq!(worker.core.counters().rule_groups_refused.value(), 0);
    assert!(worker.core.servers().count() <= RULE_SERVERS_MAX + 1);
    assert_eq!(worker.core.counters().exchanges.value(), OWN_SERVERS as u64);
}

#[test]
fn what_is_not_a_query_is_turned_away_without_allocation() {
    let mut worker = Worker::new(1 << 20);
    let whole = query("host1.blocked.example");
    let count = allocations(|| {
        for bytes in 0..whole.len() {
            worker.ask(&whole[..bytes]);
        }
        let mut response = [0u8; 64];
        response[..whole.len()].copy_from_slice(&whole);
        response[2] |= 0x80;
        assert!(matches!(worker.ask(&response[..whole.len()]), Step::Drop(_)));
    });
    assert_eq!(count, 0);
}

#[test]
fn the_counting_allocator_counts() {
    assert_eq!(allocations(|| drop(std::hint::black_box(Box::new(1)))), 1);
}
