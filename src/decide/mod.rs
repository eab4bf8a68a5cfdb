//! The life of one query, without I/O: it takes events and returns what is to be done next.
//!
//! ```text
//!  on_datagram ── parse ─ admit ─ cache ─ local ─ filter ─┐        each arrow may end in Reply or Drop
//!                                                         ├─ AskStore ──── on_rows ────┐
//!                                                         │                            ├─ AskPatterns ── on_matches ─┐
//!                                                         └────────────────────────────┴── verdict ◄─────────────────┘
//!     not in memory: ReadStore, or Wait ── on_read ── (AskStore or AskTarget again)
//!        alias: AskTarget ── on_target ── (cache ... verdict again for the target) ◄──────────┤
//!        not blocked: AskUpstream, or Wait for an equal question in flight ◄──────────────────┘
//!        on_upstream / on_tick ── next_ready ── resume ── uncloak (AskStore ... again) ─ rebinding ─ addresses ─ rewrite ─ keep ─ Reply
//! ```
//!
//! Architecture invariant: nothing here performs I/O, reads a clock, logs, panics on what a packet holds, or allocates after
//! [`Core::new`]. Time comes in as [`Now`]; randomness from a generator that [`Core::new`] is given the seed of.

// In the order of a query's life.
pub mod step;
pub mod arrivals;
pub mod question;
pub mod chaos;
pub mod client;
pub mod cache;
pub mod local;
pub mod filter;
pub mod rule;
pub mod pattern;
pub mod block;
pub mod forward;
mod route;
mod resolve;
mod reading;
mod recall;
mod hear;
mod resume;
mod stale;
mod refresh;
pub mod upstream;
pub mod peer;
pub mod request;
pub mod waiting;
mod deadlines;
mod chain;
pub mod rebinding;
pub mod address;
pub mod rewrite;
mod conclude;
pub mod reply;

// What the stages share.
pub mod case;
pub mod leniency;
pub mod cookie;
pub mod subnet;
pub mod query;
pub mod kept;
pub mod quota;
pub mod answer;
pub mod rulebook;
pub mod live;
pub mod changes;
pub mod root;
pub mod prefixes;
pub mod settings;
mod why;
pub mod wire;
pub mod counters;
pub mod top_names;

use std::borrow::Cow;
use std::sync::Arc;

use corewall_sharding::name::Name;
use corewall_sharding::rule::{ClassId, Kind};

pub use self::step::{
    DropReason, ExchangeId, Now, Origin, Ready, SendId, Step, StoreFailed, Ticket, Transport, Undelivered, Unread,
    UpstreamRequest,
};

use self::answer::Answer;
use self::arrivals::Arrivals;
use self::block::Blocked;
use self::cache::Cache;
use self::chain::push_links;
use self::changes::Changes;
use self::conclude::Shared;
use self::counters::Counters;
use self::deadlines::Deadlines;
use self::filter::Lookup;
use self::kept::KeptAnswers;
use self::pattern::Matches;
use self::query::{AliasAsked, Link, Queries, Stage, Subject};
use self::question::Question;
use self::quota::Quota;
use self::reply::Body;
use self::resolve::Resolver;
use self::route::Routes;
use self::rule::Key;
use self::rulebook::RuleBook;
use self::settings::{OnStoreError, Settings};
use self::stale::ClientTimers;
use self::top_names::TopNames;
use self::upstream::{Chance, GroupId, NoRoom};
use self::why::{Failure, Why};
use self::wire::{rcode, rtype};

/// Everything that answers the queries of one worker, but the sockets, the store and the patterns.
pub struct Core {
    settings: Arc<Settings>,
    rules: Arc<RuleBook>,
    /// Grows with each change of rules or settings; cached answers bear the one they were judged under.
    rules_stamp: u64,
    /// Since when addresses in upstreams' answers have been judged and rewritten as they are now: older answers are asked
    /// for again.
    addresses_stamp: u64,
    /// What has changed since older stamps.
    changes: Changes,
    counters: Arc<Counters>,
    /// Seconds since 1970 at `Now(0)`, see [`Core::set_wall_clock`].
    unix_s_at_zero: u32,
    cache: Cache,
    queries: Queries,
    quota: Quota,
    resolver: Resolver,
    client_timers: ClientTimers,
    /// When the queries that wait for the store have waited for long enough, by their slots.
    reads: Deadlines,
    kept: KeptAnswers,
    /// Queries under way that no client waits for any more.
    refreshes: usize,
    routes: Routes,
    /// Groups whose answers may hold private addresses.
    trusted_groups: Vec<GroupId>,
    top_names: TopNames,
    /// What a client over TCP is told that asks how long its connection may be idle, in units of 100 ms.
    keepalive: u16,
    arrivals: Arrivals,
    // Scratch, used within one event and never across two.
    lookup: Box<Lookup>,
    /// It has been made for the question at hand already, see [`arrivals`].
    is_probed_ahead: bool,
    answer: Answer,
    body: Body,
    recalled: Vec<u8>,
    recalled_bytes: usize,
    /// What the last client of the exchange at hand was answered, for the next ones: see [`Core::resume`].
    shared: Option<Shared>,
}

impl Core {
    /// Takes all the memory that this worker will need. `seed` must be unpredictable in service: message ids come from it.
    pub fn new(settings: Arc<Settings>, rules: Arc<RuleBook>, seed: [u8; 32]) -> Core {
        let counters = Arc::<Counters>::default();
        let mut resolver = Resolver::new(seed, counters.clone());
        let seeds = resolver.chance.seeds();
        let cache = match settings.cache.bytes {
            0 => Cache::off(seeds),
            bytes => Cache::new(bytes, settings.cache.eviction, seeds),
        };
        let mut core = Core {
            rules_stamp: 0,
            addresses_stamp: 0,
            changes: Changes::new(),
            counters,
            unix_s_at_zero: 0,
            cache,
            queries: Queries::new(),
            quota: Quota::new(resolver.chance.seeds()),
            resolver,
            client_timers: ClientTimers::new(),
            reads: Deadlines::new(query::SLOTS),
            kept: KeptAnswers::new(),
            refreshes: 0,
            routes: Routes::default(),
            trusted_groups: Vec::new(),
            top_names: TopNames::new(Chance::new(seed.map(|octet| !octet)).seeds()),
            keepalive: 0,
            arrivals: Arrivals::new(),
            lookup: Box::default(),
            is_probed_ahead: false,
            answer: Answer::new(),
            body: Body::new(),
            recalled: vec![0; crate::limits::MESSAGE_BYTES_MAX],
            recalled_bytes: 0,
            shared: None,
            settings: settings.clone(),
            rules: rules.clone(),
        };
        core.switch(settings, rules);
        core
    }

    /// Goes over to other settings and rules, between two batches. Cached answers are judged again when they are asked for.
    pub fn switch(&mut self, settings: Arc<Settings>, rules: Arc<RuleBook>) {
        self.resolver.upstreams.switch(&settings.groups, rules.base_class_count());
        self.resolver.upstreams.set_live_classes(rules.base_class_count(), rules.class_count());
        self.resolver.timeout_us_max = settings.upstream_timeout_ms * 1_000;
        self.routes = Routes::new(&settings, &rules, &self.resolver.upstreams);
        self.rules_stamp += 1;
        self.changes.note_switch(self.rules_stamp);
        self.cache.set_terms(settings.cache.terms());
        self.top_names.set_room(settings.top_names);
        let upstreams = &self.resolver.upstreams;
        self.trusted_groups = settings.rebinding.trusted_groups(|name| upstreams.group(name));
        let refuses_as_before = settings.rebinding == self.settings.rebinding;
        if !rules.treats_addresses_as(&self.rules) || !refuses_as_before {
            // What the addresses of a cached answer were before, it does not tell.
            self.addresses_stamp = self.rules_stamp;
        }
        self.settings = settings;
        self.rules = rules;
    }

    /// Has the filters asked that lie at this place from now on, see [`corewall_sharding::filters::Filters`]: those near this
    /// worker. Of a place that there is not, every answer is "maybe".
    pub fn set_filter_place(&mut self, place: usize) {
        self.lookup.set_place(place);
        self.set_place_ahead(place);
    }

    /// The rules at hand.
    pub fn rules(&self) -> &RuleBook {
        &self.rules
    }

    /// Says that `unix_s` seconds have passed since 1970 at the moment `now`. Cookies for clients bear the time, so that other
    /// machines with the same secret take them (RFC 9018 §4.3); nothing else depends on it.
    pub fn set_wall_clock(&mut self, now: Now, unix_s: u64) {
        // A cookie bears 32 bits, which go round in 2106.
        self.unix_s_at_zero = (unix_s as u32).wrapping_sub(now.seconds_since(Now(0)));
    }

    /// What the client of the next message over TCP is told, should it ask how long its connection may be idle, in units of
    /// 100 ms (RFC 7828); 0 asks it to close.
    pub fn set_keepalive(&mut self, units: u16) {
        self.keepalive = units;
    }

    /// Stages 1 to 3 and what follows, for a message that comes alone. `out` holds [`crate::limits::UDP_PAYLOAD_BYTES_MAX`]
    /// bytes for UDP and [`crate::limits::MESSAGE_BYTES_MAX`] for TCP. On the hot path.
    pub fn on_datagram(&mut self, now: Now, from: Origin, datagram: &[u8], out: &mut [u8]) -> Step {
        self.hear(now, 0, from, datagram);
        self.answer(now, 0, datagram, out)
    }

    /// The names asked for most, with the questions for each that are estimated; after it each count is a bit less, so that
    /// what nobody asks for any more ends.
    pub fn take_top_names(&mut self) -> Vec<(Name, u32)> {
        let names = self.top_names.each().map(|(name, asked)| (*name, asked)).collect();
        self.top_names.decay();
        names
    }

    /// Stage 4: records of our own for the name that is to be resolved.
    pub(super) fn answer_locally(&mut self, now: Now, ticket: Ticket, out: &mut [u8]) -> Step {
        let Some(query) = self.queries.get_mut(ticket) else { return lost() };
        self.answer.clear();
        let Ok(()) = push_links(&mut self.answer, &query.question.name, query.links()) else {
            return self.fail(now, ticket, rcode::SERVFAIL, Failure::ChainTooLong, out);
        };
        let (local, name) = (&self.settings.local, query.resolved());
        // A special-use or reverse zone that the configuration forwards is not ours to deny.
        let is_forwarded =
            self.settings.forwards.find(name).is_some_and(|zone| local.serves(&name.suffix(zone.labels)));
        let qtype = query.question.qtype;
        let is_local = match is_forwarded {
            true => local.answer_configured(name, qtype, &mut self.answer),
            false => local.answer(name, qtype, &mut self.answer),
        };
        if !is_local {
            return self.judge(now, ticket, Subject::Resolved, out);
        }
        // A local CNAME leads on, as an alias does.
        if query.question.qtype != rtype::CNAME
            && let Some((target, ttl_s)) = self.answer.chain_target(query.links().len())
        {
            return self.follow(now, ticket, Link { ttl_s, target }, out);
        }
        self.counters.local_answers.add(1);
        self.body.compose(&query.question, &self.answer);
        self.conclude(now, ticket, cache::Origin::Rule, u32::MAX, None, out)
    }

    /// Stage 5: begins to ask the rules about a name.
    fn judge(&mut self, now: Now, ticket: Ticket, subject: Subject, out: &mut [u8]) -> Step {
        let Some(query) = self.queries.get_mut(ticket) else { return lost() };
        query.stage = Stage::Judging(subject);
        let Some(name) = subject_name(query, &self.answer, subject) else { return lost() };
        let asked = query.asked(&name);
        let mut judgement = rule::Judgement::default();
        if self.rules.has_root_rules() {
            judgement.consider_root(&self.rules, &asked, query.is_led_on);
        }
        // Only the first name that is judged for a message is the one that was asked for.
        let is_first = subject == Subject::Resolved && query.links().is_empty();
        let is_probed_ahead = std::mem::take(&mut self.is_probed_ahead) && is_first;
        let must_read = match is_probed_ahead {
            true => self.lookup.must_read(),
            false => self.lookup.probe(&self.rules, &name),
        };
        if self.rules.live().has_names() {
            judgement.consider_live(&self.rules, &asked, &self.lookup);
        }
        query.judgement = judgement;
        if must_read {
            return Step::AskStore(ticket);
        }
        self.scan_or_decide(now, ticket, out)
    }

    /// What is to be scanned after [`Step::AskPatterns`].
    pub fn lookup(&self) -> &Lookup {
        &self.lookup
    }

    /// Stage 6: the rules of the name at hand. `read` is told what to look up, and hands over each row that it finds: the
    /// number of labels and the class. On the hot path.
    pub fn on_rows<E: Into<Unread>>(
        &mut self,
        now: Now,
        ticket: Ticket,
        out: &mut [u8],
        read: impl FnOnce(&Lookup, &mut dyn FnMut(u8, ClassId)) -> Result<(), E>,
    ) -> Step {
        let Some(query) = self.queries.get_mut(ticket) else { return lost() };
        let Stage::Judging(subject) = query.stage else { return lost() };
        let Some(name) = subject_name(query, &self.answer, subject) else { return lost() };
        let asked = query.asked(&name);
        let (mut judgement, mut rows, rules, lookup) = (query.judgement, 0u32, &self.rules, &self.lookup);
        let read = read(lookup, &mut |labels, class| {
            rows += 1;
            if !rules.voids_row(lookup, &name, labels, class) {
                judgement.consider_row(rules, &asked, labels, class);
            }
        });
        let read = read.map_err(Into::into);
        if read == Err(Unread::WouldWait) {
            return self.wait_for_store(now, ticket, subject, None, out);
        }
        self.counters.store_reads.add(1);
        if read.is_err() {
            return self.on_store_failure(now, ticket, subject, out);
        }
        if rows == 0 {
            self.counters.store_reads_empty.add(1);
        }
        query.judgement = judgement;
        self.scan_or_decide(now, ticket, out)
    }

    fn scan_or_decide(&mut self, now: Now, ticket: Ticket, out: &mut [u8]) -> Step {
        let Some(query) = self.queries.get(ticket) else { return lost() };
        if query.judgement.needs_patterns(&self.rules) {
            self.counters.pattern_scans.add(1);
            return Step::AskPatterns(ticket);
        }
        self.decide(now, ticket, out)
    }

    /// Stage 7: the patterns that match [`Lookup::text`].
    pub fn on_matches(
        &mut self,
        now: Now,
        ticket: Ticket,
        matches: Result<&Matches, StoreFailed>,
        out: &mut [u8],
    ) -> Step {
        let Some(query) = self.queries.get_mut(ticket) else { return lost() };
        let Stage::Judging(subject) = query.stage else { return lost() };
        let Some(name) = subject_name(query, &self.answer, subject) else { return lost() };
        let Some(matches) = matches.ok().filter(|matches| !matches.is_overfull()) else {
            return self.on_store_failure(now, ticket, subject, out);
        };
        let asked = query.asked(&name);
        let mut judgement = query.judgement;
        for &pattern in matches.as_slice() {
            judgement.consider_pattern(&self.rules, &asked, pattern);
        }
        query.judgement = judgement;
        self.decide(now, ticket, out)
    }

    /// The verdict is in: carries it out.
    pub(super) fn decide(&mut self, now: Now, ticket: Ticket, out: &mut [u8]) -> Step {
        let Some(query) = self.queries.get_mut(ticket) else { return lost() };
        let Stage::Judging(subject) = query.stage else { return lost() };
        query.is_private |= query.judgement.depends_on_client();
        let Some(winner) = query.judgement.winner() else { return self.let_pass(now, ticket, subject, out) };
        let Some(kind) = self.rules.class(winner.class).map(|class| class.kind) else { return lost() };
        match kind {
            Kind::Block => self.block(now, ticket, subject, Some(winner.class), out),
            Kind::Alias => {
                query.stage = Stage::Target(subject, AliasAsked { labels: winner.labels, class: winner.class });
                query.is_led_on |= winner.reaches_every_name();
                let target = match winner.key {
                    Key::Name if self.rules.is_live(winner.class) => self.rules.live_root_target(winner.class),
                    Key::Name => return Step::AskTarget(ticket),
                    Key::Live { seq } => subject_name(query, &self.answer, subject)
                        .and_then(|name| self.rules.live().target(&self.lookup, &name, winner.labels, seq)),
                    Key::Pattern(pattern) => self.rules.pattern(pattern).and_then(|(_, target)| target),
                    Key::Address { target, .. } => target.and_then(|target| self.rules.addresses().target(target)),
                };
                self.on_target(now, ticket, Ok(target), out)
            }
            Kind::Allow | Kind::ForwardAllow | Kind::ForwardBlock => {
                // Only the verdict on the name itself chooses the upstream; in a chain it merely does not block.
                if subject == Subject::Resolved {
                    query.is_allowed = true;
                    let Some(class) = self.rules.class(winner.class) else { return lost() };
                    let upstreams = &mut self.resolver.upstreams;
                    query.group = match kind {
                        _ if kind == Kind::Allow => self.routes.of_name(&self.settings, query.resolved(), query.policy),
                        _ if class.servers.is_empty() => self.routes.of_rule(kind, class.list),
                        _ => match upstreams.group_of_class(winner.class, &class.servers, now) {
                            Ok(group) => group,
                            Err(NoRoom) => {
                                self.counters.rule_groups_refused.add(1);
                                return self.fail(now, ticket, rcode::SERVFAIL, Failure::Overloaded, out);
                            }
                        },
                    };
                }
                self.let_pass_to(now, ticket, subject, out)
            }
        }
    }

    fn on_store_failure(&mut self, now: Now, ticket: Ticket, subject: Subject, out: &mut [u8]) -> Step {
        self.counters.store_failures.add(1);
        if let Some(query) = self.queries.get_mut(ticket) {
            // What was not judged must not outlive the failure in the cache.
            query.is_private = true;
        }
        match self.settings.on_store_error {
            OnStoreError::Servfail => self.fail(now, ticket, rcode::SERVFAIL, Failure::StoreFailed, out),
            OnStoreError::Allow => self.let_pass(now, ticket, subject, out),
            OnStoreError::Block => self.block(now, ticket, subject, None, out),
        }
    }

    /// The question is answered as blocked, whatever its type.
    fn block(&mut self, now: Now, ticket: Ticket, subject: Subject, class: Option<ClassId>, out: &mut [u8]) -> Step {
        let Some(query) = self.queries.get_mut(ticket) else { return lost() };
        let rules = &self.rules;
        let class = class.and_then(|class| rules.class(class));
        let list = class.and_then(|class| rules.list(class.list));
        let policy = self.settings.policies.get(usize::from(query.policy));
        let defaults = block::Defaults {
            mode: policy.and_then(|policy| policy.block_mode).unwrap_or(self.settings.block_mode),
            ttl_s: self.settings.block_ttl_s,
        };
        let Question { name, qtype, .. } = &query.question;
        let upstreams_ttl_s = match subject {
            Subject::Resolved => u32::MAX,
            Subject::Chained(_) | Subject::Addresses => {
                self.answer.ttl_s_min().unwrap_or(0).max(self.settings.cache.ttl_s_min)
            }
        };
        match block::answer(&mut self.answer, name, *qtype, class, list, defaults) {
            Ok(Blocked::Answered) => {}
            Ok(Blocked::Dropped) => return self.drop(ticket, DropReason::BlockMode),
            Ok(Blocked::TcpOnly) if query.origin.transport == Transport::Udp => {
                let bytes = reply::write_truncated(&query.question, out);
                return self.reply(ticket, bytes);
            }
            Ok(Blocked::TcpOnly) => {
                // Kept, the answer would reach clients over UDP.
                query.is_private = true;
                return self.let_pass(now, ticket, subject, out);
            }
            Err(answer::AnswerFull) => {
                return self.fail(now, ticket, rcode::SERVFAIL, Failure::UpstreamBroken, out);
            }
        }
        self.counters.blocked.add(1);
        match subject {
            Subject::Resolved => {}
            Subject::Chained(_) => self.counters.uncloaked.add(1),
            Subject::Addresses => self.counters.blocked_by_address.add(1),
        }
        let why = match (class, list) {
            (Some(class), Some(list)) => Why::List { code: list.ede_code, list: class.list },
            _ => Why::Failure(Failure::StoreFailed),
        };
        self.body.compose(&query.question, &self.answer);
        // A block for what an upstream's answer holds stands on that answer: it may change, and so may its verdict.
        let (origin, ttl_s) = match subject {
            Subject::Resolved => (cache::Origin::Rule, u32::MAX),
            Subject::Chained(_) | Subject::Addresses => (
                cache::Origin::Derived { group: query.group },
                self.answer.ttl_s_min().unwrap_or(self.settings.block_ttl_s).min(upstreams_ttl_s),
            ),
        };
        self.conclude(now, ticket, origin, ttl_s, Some(why), out)
    }

    /// No rule decides: the upstream of the name's zone or of the client's policy, or the next link of the chain.
    fn let_pass(&mut self, now: Now, ticket: Ticket, subject: Subject, out: &mut [u8]) -> Step {
        if let Some(query) = self.queries.get_mut(ticket)
            && subject == Subject::Resolved
        {
            query.group = self.routes.of_name(&self.settings, query.resolved(), query.policy);
        }
        self.let_pass_to(now, ticket, subject, out)
    }

    fn let_pass_to(&mut self, now: Now, ticket: Ticket, subject: Subject, out: &mut [u8]) -> Step {
        match subject {
            Subject::Resolved => self.recall_or_ask(now, ticket, out),
            Subject::Chained(index) => self.uncloak(now, ticket, index + 1, out),
            Subject::Addresses => self.finish_answer(now, ticket, out),
        }
    }

    /// What this worker counts.
    pub fn counters(&self) -> &Arc<Counters> {
        &self.counters
    }

    /// Queries under way whose client waits: 0 when every one taken in was replied to or dropped.
    pub fn queries_waiting(&self) -> usize {
        self.queries.under_way() - self.refreshes
    }

    /// Forgets cached answers, a slice at a time: call it again with [`cache::FlushProgress::next`] until there is none, other
    /// events in between. An answer that is on its way from an upstream is still kept when it comes.
    pub fn flush(&mut self, what: &cache::Flush, from: cache::FlushCursor) -> cache::FlushProgress {
        let progress = self.cache.flush(what, from);
        self.counters.cache_flushed.add(u64::from(progress.removed));
        progress
    }

    /// How full the cache is.
    pub fn cache_stats(&self) -> cache::CacheStats {
        self.cache.stats()
    }

    /// Answers in the cache.
    pub fn cached(&self) -> usize {
        self.cache.len()
    }
}

/// A query that is gone. Cannot happen while `serve` keeps to the contract: tickets end with a reply or a drop.
fn lost() -> Step {
    debug_assert!(false, "a step for a query that is over");
    Step::Drop(DropReason::TimedOut)
}

fn subject_name<'a>(query: &'a query::Query, answer: &Answer, subject: Subject) -> Option<Cow<'a, Name>> {
    match subject {
        Subject::Resolved | Subject::Addresses => Some(Cow::Borrowed(query.resolved())),
        Subject::Chained(index) => answer.chain_target(index).map(|(name, _)| Cow::Owned(name)),
    }
}
