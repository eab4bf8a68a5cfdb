//! Stages 3 and 8 when upstreams fail or tarry: an expired answer instead of none (RFC 8767).
//!
//! Invariants: an expired answer is served only after the name has been judged under the rules of now, and only where a fresh
//! one of the same origin would be; it never stands in for an upstream that has just said otherwise. Who is served one while the
//! upstream is still asked becomes a query without a client: its answer is judged and kept as any other, and sent to nobody.

use std::collections::VecDeque;

use super::cache::{CacheKey, EntryId, Freshness, Origin};
use super::query::{Queries, Stage};
use super::recall::is_for_this;
use super::reply::Ede;
use super::step::{Now, Ready, Step, Ticket};
use super::subnet::Network;
use super::wire::rcode;
use super::{Core, lost};
use crate::limits::CLIENT_TIMERS_MAX;

/// INFO-CODE of an expired answer (RFC 8914 §4.4), and of one that says there is no such name (§4.20).
const STALE_ANSWER: u16 = 3;
const STALE_NXDOMAIN: u16 = 19;

/// When clients for whom there is an expired answer have waited long enough. All wait equally long, so a queue keeps them in
/// order; a reload that shortens the wait is felt when those from before it are over.
pub(super) struct ClientTimers {
    due: VecDeque<(Now, Ticket)>,
}

impl ClientTimers {
    /// Takes all memory.
    pub(super) fn new() -> Self {
        Self { due: VecDeque::with_capacity(CLIENT_TIMERS_MAX) }
    }

    fn push(&mut self, at: Now, ticket: Ticket, queries: &Queries) {
        // Answers mostly come before the timer: what is over is taken out when room is needed, and there is room for twice as
        // many as can wait. Who waits for a second exchange has a timer from the first.
        if self.due.len() >= CLIENT_TIMERS_MAX {
            self.due.retain(|(_, ticket)| is_waiting(queries, *ticket));
        }
        if self.due.len() < CLIENT_TIMERS_MAX {
            self.due.push_back((at, ticket));
        }
    }

    /// When the next of those who still wait has waited long enough.
    pub(super) fn next_deadline(&mut self, queries: &Queries) -> Option<Now> {
        while let Some((at, ticket)) = self.due.front() {
            if is_waiting(queries, *ticket) {
                return Some(*at);
            }
            self.due.pop_front();
        }
        None
    }
}

/// Whether the client of a query still waits for an upstream.
fn is_waiting(queries: &Queries, ticket: Ticket) -> bool {
    queries.get(ticket).is_some_and(|query| !query.is_answered && matches!(query.stage, Stage::Upstream(_)))
}

impl Core {
    /// The cached answer to the asked name, expired or not, that holds for this query under the rules of now.
    pub(super) fn fallback(&mut self, now: Now, ticket: Ticket) -> Option<(EntryId, Freshness)> {
        let query = self.queries.get(ticket)?;
        // Rules that came while the query waited have not judged it.
        let is_judged = query.rules == self.rules_stamp || !query.is_touched(&self.changes);
        if query.is_singled_out || !is_judged {
            return None;
        }
        // Rather what was said for its own network than what was for all.
        let subnets = query.network.map(Network::key).into_iter().chain([0]);
        { subnets }.find_map(|subnet| self.fallback_for(now, ticket, subnet))
    }

    fn fallback_for(&mut self, now: Now, ticket: Ticket, subnet: u64) -> Option<(EntryId, Freshness)> {
        let query = self.queries.get(ticket)?;
        let (entry, freshness) = self.cache.look_up(&CacheKey { subnet, ..query.cache_key() }, now)?;
        let head = self.cache.head(entry)?;
        if !is_for_this(query, subnet, head) {
            return None;
        }
        let is_current = head.rules == self.rules_stamp;
        let holds = match head.origin {
            Origin::Upstream { group, chain } => {
                let is_judged = (!chain || is_current) && head.rules >= self.addresses_stamp;
                group == query.group && is_judged && query.links().is_empty()
            }
            // Several groups may have had a part in it: under the same rules they are the ones that would be asked now.
            Origin::Derived { .. } => is_current && !query.is_private,
            Origin::Rule | Origin::Failure => false,
        };
        holds.then_some((entry, freshness))
    }

    /// The upstream is about to be asked: the expired answer, if it is to be served at once.
    pub(super) fn reply_stale_at_once(&mut self, now: Now, ticket: Ticket, out: &mut [u8]) -> Option<Step> {
        if !self.queries.get(ticket)?.may_have_stale {
            return None;
        }
        let (entry, Freshness::Stale { is_failing }) = self.fallback(now, ticket)? else { return None };
        let is_impatient = self.settings.cache.stale_client_timeout_ms == 0;
        let query = self.queries.get_mut(ticket)?;
        if !is_failing && (!is_impatient || query.is_private) {
            // The answer for a client alone is not kept: served at once, the expired one would never be renewed.
            query.has_stale = !is_impatient;
            return None;
        }
        if !is_failing {
            self.begin_refresh(now, ticket, entry);
        }
        Some(self.reply_stale(ticket, entry, out))
    }

    /// The query has begun to wait for an upstream: if there is an expired answer it will not wait long.
    pub(super) fn start_client_timer(&mut self, now: Now, ticket: Ticket) {
        let Some(query) = self.queries.get(ticket) else { return };
        if query.has_stale && !query.is_answered {
            let at = now.plus_us(self.settings.cache.stale_client_timeout_ms * 1_000);
            self.client_timers.push(at, ticket, &self.queries);
        }
    }

    /// Makes the next client ready that has waited long enough; false when there is none.
    pub(super) fn pop_client_timer(&mut self, now: Now) -> bool {
        if self.client_timers.next_deadline(&self.queries).is_none_or(|at| at > now) {
            return false;
        }
        let Some((_, ticket)) = self.client_timers.due.pop_front() else { return false };
        self.resolver.ready.push_back(Ready::Query(ticket));
        true
    }

    /// The client has waited long enough: it gets the expired answer, and its query goes on without it.
    pub(super) fn reply_stale_meanwhile(&mut self, now: Now, ticket: Ticket, out: &mut [u8]) -> Step {
        self.shared = None;
        let Some((entry, _)) = self.fallback(now, ticket) else {
            // It was evicted, or the rules have changed: nothing better than to wait.
            return Step::Wait(ticket);
        };
        let (bytes, Some(query)) = (self.write_stale(ticket, entry, out), self.queries.get_mut(ticket)) else {
            return lost();
        };
        query.is_answered = true;
        let to = query.origin;
        self.refreshes += 1;
        self.counters.replies.add(1);
        Step::Reply { bytes, to }
    }

    /// The upstreams failed this query: what is in the cache for it after all. `is_kept`: they are not asked again for a while.
    pub(super) fn reply_despite(&mut self, now: Now, ticket: Ticket, is_kept: bool, out: &mut [u8]) -> Option<Step> {
        let (entry, freshness) = self.fallback(now, ticket)?;
        let query = self.queries.get(ticket)?;
        if is_kept && !query.is_private {
            // Kept as an answer of its own, the failure would replace the expired one.
            self.cache.note_failure(entry, now, self.settings.cache.failure_ttl_s);
        }
        self.shared = None;
        Some(match freshness {
            _ if query.is_answered => self.refreshed(ticket),
            Freshness::Stale { .. } => self.reply_stale(ticket, entry, out),
            Freshness::Fresh | Freshness::Due => self.reply_from_cache(now, ticket, entry, Freshness::Fresh, out),
        })
    }

    fn reply_stale(&mut self, ticket: Ticket, entry: EntryId, out: &mut [u8]) -> Step {
        let bytes = self.write_stale(ticket, entry, out);
        self.reply(ticket, bytes)
    }

    fn write_stale(&self, ticket: Ticket, entry: EntryId, out: &mut [u8]) -> usize {
        let Some(query) = self.queries.get(ticket) else { return 0 };
        self.counters.stale_answers.add(1);
        let is_denial = self.cache.head(entry).is_some_and(|head| head.rcode == rcode::NXDOMAIN);
        let ede = Ede { code: if is_denial { STALE_NXDOMAIN } else { STALE_ANSWER }, text: "" };
        let (ttl_s, transport) = (self.settings.cache.stale_ttl_s, query.origin.transport);
        self.cache.write_stale_reply(entry, &query.question, transport, ttl_s, ede, out)
    }
}

#[cfg(test)]
mod tests {
    use std::net::SocketAddr;

    use super::*;
    use crate::decide::step::Transport;
    use crate::decide::step::{ExchangeId, Origin};

    #[test]
    fn timers_stay_bounded_when_answers_come_before_them() {
        let client: SocketAddr = "192.0.2.1:53".parse().unwrap();
        let origin = Origin { client, local: None, transport: Transport::Udp, token: 0 };
        let (mut queries, mut timers) = (Queries::new(), ClientTimers::new());
        let capacity = timers.due.capacity();
        let begin = |queries: &mut Queries| {
            let (ticket, query) = queries.begin(origin).unwrap();
            query.stage = Stage::Upstream(ExchangeId { index: 0, turn: 0 });
            ticket
        };
        let kept = begin(&mut queries);
        timers.push(Now(5), kept, &queries);
        for round in 0..3 * CLIENT_TIMERS_MAX as u64 {
            let ticket = begin(&mut queries);
            timers.push(Now(10 + round), ticket, &queries);
            queries.end(ticket);
        }
        assert!(timers.due.len() <= CLIENT_TIMERS_MAX && timers.due.capacity() == capacity);
        assert_eq!(timers.next_deadline(&queries), Some(Now(5)), "the live one was kept");
        queries.end(kept);
        assert_eq!(timers.next_deadline(&queries), None);
    }

    #[test]
    fn timers_stay_bounded_when_one_client_waits_again_and_again() {
        let client: SocketAddr = "192.0.2.1:53".parse().unwrap();
        let origin = Origin { client, local: None, transport: Transport::Udp, token: 0 };
        let (mut queries, mut timers) = (Queries::new(), ClientTimers::new());
        let capacity = timers.due.capacity();
        let (ticket, query) = queries.begin(origin).unwrap();
        query.stage = Stage::Upstream(ExchangeId { index: 0, turn: 0 });
        for round in 0..2 * capacity as u64 {
            timers.push(Now(5 + round), ticket, &queries);
        }
        assert_eq!(timers.due.capacity(), capacity);
        assert_eq!(timers.next_deadline(&queries), Some(Now(5)), "the first one counts");
    }
}
