//! Stage 8 where queries and exchanges meet: a query begins to wait for an answer, and goes on when there is one.

use super::query::Stage;
use super::resolve::Outcome;
use super::step::{Now, Ready, Step, Ticket};
use super::subnet::Network;
use super::waiting::ExchangeKey;
use super::why::Failure;
use super::wire::rcode;
use super::{Core, lost};
use crate::limits::{UPSTREAM_NETWORKS_MAX, UPSTREAM_SENDS_MAX};

impl Core {
    /// Puts the query among those that wait for its question's answer; sends the question if nobody has.
    pub(super) fn ask_upstream(&mut self, now: Now, ticket: Ticket, out: &mut [u8]) -> Step {
        let Some(query) = self.queries.get_mut(ticket) else { return lost() };
        let resolver = &self.resolver;
        let home = resolver.upstreams.find(query.group).filter(|group| resolver.upstreams.has_servers(*group));
        let Some(home) = home else { return self.fail(now, ticket, rcode::SERVFAIL, Failure::NoUpstream, out) };
        if query.sends >= UPSTREAM_SENDS_MAX {
            return self.fail(now, ticket, rcode::SERVFAIL, Failure::SendsUsedUp, out);
        }
        // Only now does the query take a place that others may need: what could be answered at once has been.
        if !self.take_place(ticket) {
            self.counters.overloaded.add(1);
            return self.fail(now, ticket, rcode::SERVFAIL, Failure::Overloaded, out);
        }
        let (resolver, Some(query)) = (&mut self.resolver, self.queries.get_mut(ticket)) else { return lost() };
        let mut key = ExchangeKey {
            name: *query.resolved(),
            qtype: query.question.qtype,
            qclass: query.question.qclass,
            dnssec_ok: query.question.dnssec_ok(),
            group: query.group,
            network: query.network,
        };
        let mut known = resolver.exchanges.find(&key);
        if known.is_none()
            && key.tells_an_address()
            && resolver.exchanges.networks_in_flight(&key) >= UPSTREAM_NETWORKS_MAX
        {
            // One network more waits with those of whom nothing is told (birthday attack).
            key.network = Some(Network::UNTOLD);
            query.network = key.network;
            known = resolver.exchanges.find(&key);
        }
        if known.is_none() && resolver.upstreams.is_swamped(home) {
            self.counters.upstream_swamped.add(1);
            return self.fail(now, ticket, rcode::SERVFAIL, Failure::UpstreamsDown, out);
        }
        let Some(id) = known.or_else(|| resolver.exchanges.open(key, home, now)) else {
            self.counters.overloaded.add(1);
            return self.fail(now, ticket, rcode::SERVFAIL, Failure::Overloaded, out);
        };
        match known {
            Some(_) => self.counters.exchanges_shared.add(1),
            None => self.counters.exchanges.add(1),
        }
        if let Some(exchange) = resolver.exchanges.get_mut(id) {
            // A client at the end of a long chain must not leave those who join it with fewer tries than are theirs.
            exchange.sends_max = exchange.sends_max.max(UPSTREAM_SENDS_MAX - query.sends);
        }
        query.stage = Stage::Upstream(id);
        query.next = None;
        let Some(Ok(before)) = resolver.exchanges.get_mut(id).map(|exchange| exchange.join(ticket)) else {
            self.counters.overloaded.add(1);
            return self.fail(now, ticket, rcode::SERVFAIL, Failure::Overloaded, out);
        };
        if let Some(before) = before.and_then(|before| self.queries.get_mut(before)) {
            before.next = Some(ticket);
        }
        if known.is_none()
            && let Err(failure) = resolver.begin(now, id)
        {
            resolver.abandon(id);
            return self.fail(now, ticket, rcode::SERVFAIL, failure, out);
        }
        self.start_client_timer(now, ticket);
        Step::Wait(ticket)
    }

    /// What an event left to be done; drain it before the next event.
    pub fn next_ready(&mut self) -> Option<Ready> {
        if let Some(ready) = self.resolver.ready.pop_front() {
            if let Ready::Done(_) = ready {
                // The next clients to be resumed wait for another exchange.
                self.shared = None;
                self.kept.end_sharing();
            }
            if let Ready::Send(_) = ready {
                self.counters.upstream_sends.add(1);
            }
            return Some(ready);
        }
        let ticket = self.resolver.resuming?;
        self.resolver.resuming = self.queries.get(ticket).and_then(|query| query.next);
        Some(Ready::Query(ticket))
    }

    /// Goes on with a query whose exchange has ended, whose client or that itself has waited long enough, or that no client
    /// waits for.
    pub fn resume(&mut self, now: Now, ticket: Ticket, out: &mut [u8]) -> Step {
        let Some(query) = self.queries.get_mut(ticket) else { return lost() };
        match query.stage {
            Stage::Begun => {
                self.shared = None;
                return self.answer_locally(now, ticket, out);
            }
            Stage::Reading(..) => return self.give_up_reading(now, ticket, out),
            Stage::Upstream(id) if self.resolver.exchanges.get(id).is_some() => {
                return self.reply_stale_meanwhile(now, ticket, out);
            }
            _ => {}
        }
        query.next = None;
        query.sends = query.sends.saturating_add(self.resolver.outcome_sends);
        if let Outcome::Answered { answer_for, scope_bits, .. } = self.resolver.outcome {
            query.note_answer_for(answer_for, scope_bits);
        }
        if query.rules != self.rules_stamp {
            if !self.admit_again(ticket) {
                return self.fail(now, ticket, rcode::REFUSED, Failure::ClientNotAllowed, out);
            }
            if self.must_begin_again(ticket) {
                self.shared = None;
                return self.answer_locally(now, ticket, out);
            }
        }
        let Some(query) = self.queries.get(ticket) else { return lost() };
        // Whoever asked the same under the same policy has the same answer: it is read, judged and composed once, however
        // many wait for it.
        if let Some(shared) = self.shared
            && query.links().is_empty()
            && !query.is_private
            && (shared.policy, shared.checking_disabled, shared.rules)
                == (query.policy, query.question.checking_disabled, query.rules)
        {
            return self.write(ticket, shared.rcode, shared.authentic_data, shared.ede, out);
        }
        match self.resolver.outcome {
            Outcome::Answered { rcode, authentic_data, .. } => {
                let response = std::mem::take(&mut self.resolver.response);
                let message = response.get(..self.resolver.response_bytes).unwrap_or_default();
                let step = self.accept_response(now, ticket, message, rcode, authentic_data, out);
                self.resolver.response = response;
                step
            }
            Outcome::Failed(failure) => self.fail(now, ticket, rcode::SERVFAIL, failure, out),
            Outcome::Nothing => lost(),
        }
    }
}
