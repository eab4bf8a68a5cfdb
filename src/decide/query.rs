//! One client's query while it is being answered, and the slots that all queries of a worker live in.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use corewall_sharding::name::Name;
use corewall_sharding::rule::ClassId;

use super::cache::CacheKey;
use super::changes::Changes;
use super::kept::KeptId;
use super::question::Question;
use super::rule::{Asked, Judgement};
use super::settings::PolicyId;
use super::step::{ExchangeId, Now, Origin, Ticket, Transport};
use super::subnet::Network;
use super::upstream::{GroupId, NO_SERVERS};
use crate::limits::{CHAIN_LINKS_MAX, QUERIES_WAITING_MAX};

/// A link of the chain from the asked name to the name that is resolved: the CNAME's TTL and its target.
#[derive(Clone, Copy, Debug)]
pub struct Link {
    /// Seconds.
    pub ttl_s: u32,
    /// Target.
    pub target: Name,
}

/// Which name the rules are being asked about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Subject {
    /// The name that is to be resolved: the asked one, or an alias's target.
    Resolved,
    /// The target of a CNAME in the upstream's answer, by its place in the whole chain (uncloaking).
    Chained(usize),
    /// The resolved name again, by the addresses in the upstream's answer.
    Addresses,
}

/// Where a query stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stage {
    /// The slot is free.
    Idle,
    /// Being parsed and admitted, or looked up.
    Begun,
    /// Store or patterns are asked about this subject.
    Judging(Subject),
    /// The store is asked for the target of this class's rule.
    Target(Subject, AliasAsked),
    /// The same rows, or that target, are being read by somebody who may wait for the disk.
    Reading(Subject, Option<AliasAsked>),
    /// An exchange is in flight.
    Upstream(ExchangeId),
}

/// Which rule's target is wanted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AliasAsked {
    /// Labels of the rule's name, a suffix of the subject.
    pub labels: u8,
    /// The rule's class.
    pub class: ClassId,
}

/// One query. Slots are reset, never freed.
pub struct Query {
    turn: u32,
    /// Where it stands.
    pub stage: Stage,
    /// Where the reply goes.
    pub origin: Origin,
    /// What is asked.
    pub question: Question,
    /// The client's policy.
    pub policy: PolicyId,
    /// The rules of the moment when it came. Should they change while it waits, its answer is kept as judged under these.
    pub rules: u64,
    /// What the rules have said of the current subject so far.
    pub judgement: Judgement,
    /// Chosen by the verdict on the resolved name.
    pub group: GroupId,
    /// What the group is told of the client's network; none: answers of this group are for all clients.
    pub network: Option<Network>,
    /// Whom the answer at hand is for: [`Network::key`], or 0 for all.
    pub answer_for: u64,
    /// What a client that sent its network is told of that, see [`super::reply::ReplyHead`].
    pub scope_bits: Option<u8>,
    /// An allow rule spares the CNAME chain from uncloaking.
    pub is_allowed: bool,
    /// The answer must not be kept: another client may get another one.
    pub is_private: bool,
    /// A rule on every name speaks of this client: the cache holds what others get, and so is not asked either.
    pub is_singled_out: bool,
    /// An alias on the root name or on an address was followed. Such a one reaches its own target too, so it is followed
    /// once.
    pub is_led_on: bool,
    /// Some link of its chain came from an upstream, so that the answer lives no longer than that link.
    pub is_linked_upstream: bool,
    /// Its answer is read from the cache: it has been judged, rewritten and bounded before.
    pub is_recalled: bool,
    /// A recalled answer whose chain was judged under other rules: its names are judged again.
    pub is_judged_again: bool,
    /// Its answer is read from the NXDOMAIN of a name above: it is not kept, or floods of random names would fill the cache.
    pub is_below_cut: bool,
    /// There may be an expired answer for it, see [`super::stale`]: the look-up that told so would else be done for every query.
    pub may_have_stale: bool,
    /// There is one.
    pub has_stale: bool,
    /// Its client, if it ever had one, has been answered: it goes on to renew what the cache holds.
    pub is_answered: bool,
    /// Live rules have changed while it waited, and it was judged from the start.
    pub has_begun_again: bool,
    /// It was begun to ask the upstream, whatever the cache holds.
    pub asks_anew: bool,
    /// Counted among its client's waiting queries.
    pub is_counted: bool,
    /// Since when it waits for the store, and under which rules.
    pub reading_since: Now,
    /// See `reading_since`.
    pub reading_rules: u64,
    /// Microseconds that it has waited for the store before.
    pub store_waited_us: u64,
    /// The upstream's answer that is being judged, if the store was waited for meanwhile.
    pub kept: Option<KeptId>,
    /// Upstream sends made on behalf of this query.
    pub sends: u8,
    /// The next client of the same exchange.
    pub next: Option<Ticket>,
    links: [Link; CHAIN_LINKS_MAX],
    link_count: usize,
}

impl Query {
    fn idle() -> Self {
        let nobody = SocketAddr::new(IpAddr::V4(Ipv4Addr::UNSPECIFIED), 0);
        Self {
            turn: 0,
            stage: Stage::Idle,
            origin: Origin { client: nobody, local: None, transport: Transport::Udp, token: 0 },
            question: Question::EMPTY,
            policy: 0,
            rules: 0,
            judgement: Judgement::default(),
            group: NO_SERVERS,
            network: None,
            answer_for: 0,
            scope_bits: None,
            is_allowed: false,
            is_private: false,
            is_singled_out: false,
            is_led_on: false,
            is_linked_upstream: false,
            is_recalled: false,
            is_judged_again: false,
            is_below_cut: false,
            may_have_stale: false,
            has_stale: false,
            is_answered: false,
            has_begun_again: false,
            asks_anew: false,
            is_counted: false,
            reading_since: Now(0),
            reading_rules: 0,
            store_waited_us: 0,
            kept: None,
            sends: 0,
            next: None,
            links: [Link { ttl_s: 0, target: Name::ROOT }; CHAIN_LINKS_MAX],
            link_count: 0,
        }
    }

    fn reset(&mut self, origin: Origin) {
        self.stage = Stage::Begun;
        self.origin = origin;
        self.judgement = Judgement::default();
        self.network = None;
        self.answer_for = 0;
        self.scope_bits = None;
        self.group = NO_SERVERS;
        self.is_allowed = false;
        self.is_private = false;
        self.is_singled_out = false;
        self.is_led_on = false;
        self.is_linked_upstream = false;
        self.is_recalled = false;
        self.is_judged_again = false;
        self.is_below_cut = false;
        self.may_have_stale = false;
        self.has_stale = false;
        self.is_answered = false;
        self.has_begun_again = false;
        self.asks_anew = false;
        self.is_counted = false;
        self.store_waited_us = 0;
        self.kept = None;
        self.sends = 0;
        self.next = None;
        self.link_count = 0;
    }

    /// Whether rules on the asked name, or on one that it led to, have changed since it was judged.
    pub(super) fn is_touched(&self, changes: &Changes) -> bool {
        let mut names = self.links().iter().map(|link| &link.target).chain([&self.question.name]);
        names.any(|name| changes.touch(name, self.rules))
    }

    /// Goes back to the asked name, to be judged by other rules than before: what was found out under the old ones is
    /// forgotten, but not that its answer is for few, nor what it has sent.
    pub(super) fn begin_again(&mut self, rules: u64) {
        self.stage = Stage::Begun;
        self.rules = rules;
        self.judgement = Judgement::default();
        self.network = None;
        self.answer_for = 0;
        self.scope_bits = None;
        self.group = NO_SERVERS;
        self.is_allowed = false;
        self.is_led_on = false;
        self.is_linked_upstream = false;
        self.is_recalled = false;
        self.is_judged_again = false;
        self.is_below_cut = false;
        self.link_count = 0;
    }

    /// The links from the asked name on.
    pub fn links(&self) -> &[Link] {
        self.links.get(..self.link_count).unwrap_or_default()
    }

    /// Adds a link; false when there are [`CHAIN_LINKS_MAX`], or when the target is in the chain already.
    pub fn push_link(&mut self, link: Link) -> bool {
        let loops = self.question.name == link.target || self.links().iter().any(|known| known.target == link.target);
        match self.links.get_mut(self.link_count) {
            Some(place) if !loops => {
                *place = link;
                self.link_count += 1;
                true
            }
            _ => false,
        }
    }

    /// The name that is to be resolved: the end of the links.
    pub fn resolved(&self) -> &Name {
        self.links().last().map_or(&self.question.name, |link| &link.target)
    }

    /// A part of its answer is for this network alone ([`Network::key`]), or for all clients (0).
    pub fn note_answer_for(&mut self, subnet: u64, scope_bits: Option<u8>) {
        match self.answer_for {
            0 => self.answer_for = subnet,
            // Two groups are told different parts of one address: no key says so.
            known => self.is_private |= subnet != 0 && subnet != known,
        }
        self.scope_bits = self.scope_bits.max(scope_bits);
    }

    /// What the cache may know answers for this query by: those for all clients, then those for its network.
    pub fn subnets(&self) -> impl Iterator<Item = u64> + use<> {
        [Some(0), self.network.map(Network::key)].into_iter().flatten()
    }

    /// What the cache knows this query's answer by, if that is for all clients.
    pub fn cache_key(&self) -> CacheKey<'_> {
        self.cache_key_of(&self.question.name)
    }

    /// The same for another name of its chain.
    pub fn cache_key_of<'a>(&self, name: &'a Name) -> CacheKey<'a> {
        CacheKey { name, ..CacheKey::of(&self.question, self.policy) }
    }

    /// What the rules are asked about `name`.
    pub fn asked<'a>(&self, name: &'a Name) -> Asked<'a> {
        Asked { name, qtype: self.question.qtype, client: self.origin.client.ip(), policy: self.policy }
    }
}

/// Places for the queries that wait, and one more for the query at hand: that many waiting questions must not keep blocked
/// and cached names from being answered.
pub const SLOTS: usize = QUERIES_WAITING_MAX + 1;

/// All queries of one worker; memory fixed at start.
pub struct Queries {
    slots: Vec<Query>,
    free: Vec<u32>,
}

impl Default for Queries {
    fn default() -> Self {
        Self::new()
    }
}

impl Queries {
    /// Takes all memory.
    pub fn new() -> Self {
        Self {
            slots: (0..SLOTS).map(|_| Query::idle()).collect(),
            // The last freed is the first used: a worker whose answers are all at hand stays within one warm slot.
            free: (0..SLOTS as u32).rev().collect(),
        }
    }

    /// A fresh query. There is always a slot for one that can be answered at once: see [`Queries::may_wait`].
    pub fn begin(&mut self, origin: Origin) -> Option<(Ticket, &mut Query)> {
        let index = self.free.pop()?;
        let query = self.slots.get_mut(index as usize)?;
        query.reset(origin);
        Some((Ticket { index, turn: query.turn }, query))
    }

    /// A query that asks the same as another one, under the same policy, and that no client waits for.
    pub fn begin_refresh(&mut self, of: Ticket, rules: u64) -> Option<Ticket> {
        let Query { origin, policy, ref question, .. } = *self.get(of)?;
        let question = question.clone();
        let (ticket, query) = self.begin(origin)?;
        (query.question, query.policy, query.rules) = (question, policy, rules);
        (query.is_answered, query.asks_anew, query.is_singled_out) = (true, true, false);
        Some(ticket)
    }

    /// A query under way.
    pub fn get(&self, ticket: Ticket) -> Option<&Query> {
        self.slots.get(ticket.index as usize).filter(|query| query.turn == ticket.turn && query.stage != Stage::Idle)
    }

    /// A query under way.
    pub fn get_mut(&mut self, ticket: Ticket) -> Option<&mut Query> {
        let query = self.slots.get_mut(ticket.index as usize)?;
        (query.turn == ticket.turn && query.stage != Stage::Idle).then_some(query)
    }

    /// The query is over; its ticket is void.
    pub fn end(&mut self, ticket: Ticket) {
        if let Some(query) = self.get_mut(ticket) {
            query.stage = Stage::Idle;
            query.turn = query.turn.wrapping_add(1);
            self.free.push(ticket.index);
        }
    }

    /// The ticket of the query in this slot, if one is under way there.
    pub fn ticket_of(&self, index: u32) -> Option<Ticket> {
        let query = self.slots.get(index as usize).filter(|query| query.stage != Stage::Idle)?;
        Some(Ticket { index, turn: query.turn })
    }

    /// Queries under way.
    pub fn under_way(&self) -> usize {
        SLOTS - self.free.len()
    }

    /// Whether the query at hand may wait: one slot is kept for those that need not.
    pub fn may_wait(&self) -> bool {
        !self.free.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_of_parts_is_for_the_one_network_among_them_or_for_nobody_else() {
        let mut query = Query::idle();
        query.note_answer_for(0, None);
        assert_eq!((query.answer_for, query.scope_bits, query.is_private), (0, None, false));
        query.note_answer_for(7, Some(24));
        query.note_answer_for(0, Some(0));
        query.note_answer_for(7, Some(16));
        assert_eq!((query.answer_for, query.scope_bits, query.is_private), (7, Some(24), false));
        query.note_answer_for(8, None);
        assert!(query.is_private, "no key stands for two networks");
    }
}
