//! Stages 10 and 11, keep and reply: how every query ends.

use super::cache::{self, CacheKey, EntryHead};
use super::query::Stage;
use super::question::Rejection;
use super::reply::{self, Ede, ReplyHead};
use super::settings::PolicyId;
use super::step::{DropReason, Now, Origin, Step, Ticket};
use super::why::{Failure, Why, ede_text};
use super::wire::rcode;
use super::{Core, lost};

/// An answer that is still in `body`, and for whom else it is the answer.
#[derive(Clone, Copy)]
pub(super) struct Shared {
    pub(super) policy: PolicyId,
    pub(super) checking_disabled: bool,
    pub(super) rules: u64,
    pub(super) rcode: u16,
    pub(super) authentic_data: bool,
    pub(super) ede: Option<(u16, u16)>,
}

impl Core {
    /// Stages 10 and 11: keeps what `answer` and `body` hold for `ttl_s` seconds and replies.
    pub(super) fn conclude(
        &mut self,
        now: Now,
        ticket: Ticket,
        origin: cache::Origin,
        ttl_s: u32,
        why: Option<Why>,
        out: &mut [u8],
    ) -> Step {
        let Some(query) = self.queries.get(ticket) else { return lost() };
        // The option speaks of blocked answers; why something failed is always told.
        let why = why.filter(|why| self.settings.ede || matches!(why, Why::Failure(_)));
        let ede = why.map(Why::to_code_and_text);
        let (rcode, authentic_data, rules) = (self.answer.rcode, self.answer.authentic_data, query.rules);
        // What a rule said of a name that an upstream led to holds no longer than the upstream's word.
        let (origin, ttl_s) = match origin {
            cache::Origin::Rule if query.is_linked_upstream => {
                let ttl_s = query.links().iter().map(|link| link.ttl_s).min().unwrap_or(0);
                (cache::Origin::Derived { group: query.group }, ttl_s.min(self.settings.cache.ttl_s_max))
            }
            _ => (origin, ttl_s),
        };
        let by_name_alone = query.links().is_empty()
            && match origin {
                cache::Origin::Rule => true,
                cache::Origin::Upstream { chain, .. } => !chain,
                cache::Origin::Derived { .. } => false,
                cache::Origin::Failure => why.is_some_and(Why::is_of_upstreams),
            };
        self.shared = None;
        if !query.is_private && !query.is_below_cut {
            let key = CacheKey { subnet: query.answer_for, ..query.cache_key() };
            if ttl_s > 0 {
                let scope_bits = query.scope_bits;
                let stored = now;
                let head =
                    EntryHead { origin, rcode, authentic_data, scope_bits, ede, rules, by_name_alone, stored, ttl_s };
                self.cache.keep(&key, head, &self.body);
                // What one network is told does not exist another one may be told of.
                if key.subnet == 0 && rcode == rcode::NXDOMAIN && self.resolver.upstreams.cuts_at_nxdomain(query.group)
                {
                    self.cache.cut_at(&key);
                }
            } else if origin.group().is_some() {
                // What the upstream says for this once only still voids what it said before.
                self.cache.remove(&key);
            }
            if let (Stage::Upstream(_) | Stage::Judging(_), true) = (query.stage, query.links().is_empty()) {
                let (policy, checking_disabled) = (query.policy, query.question.checking_disabled);
                self.shared = Some(Shared { policy, checking_disabled, rules, rcode, authentic_data, ede });
            }
        }
        self.write(ticket, rcode, authentic_data, ede, out)
    }

    /// Writes the reply that `body` holds the records of.
    pub(super) fn write(
        &mut self,
        ticket: Ticket,
        rcode: u16,
        authentic_data: bool,
        ede: Option<(u16, u16)>,
        out: &mut [u8],
    ) -> Step {
        let Some(query) = self.queries.get(ticket) else { return lost() };
        if query.is_answered {
            return self.refreshed(ticket);
        }
        if rcode == rcode::SERVFAIL {
            self.counters.servfail.add(1);
        }
        let ede = ede.map(|(code, text)| Ede { code, text: ede_text(&self.settings, &self.rules, text) });
        let head = ReplyHead { rcode, authentic_data, ede, scope_bits: query.scope_bits };
        let bytes = reply::write(&query.question, query.origin.transport, head, &self.body, out);
        self.reply(ticket, bytes)
    }

    /// Replies without records, or with an expired answer where the upstreams have failed. Such failures are kept for a while
    /// (RFC 9520).
    pub(super) fn fail(&mut self, now: Now, ticket: Ticket, rcode: u16, failure: Failure, out: &mut [u8]) -> Step {
        let is_kept = matches!(
            failure,
            Failure::UpstreamsSilent | Failure::UpstreamRefused | Failure::UpstreamBroken | Failure::ChainTooLong
        );
        let may_be_bridged =
            is_kept || matches!(failure, Failure::UpstreamsDown | Failure::Overloaded | Failure::SendsUsedUp);
        if may_be_bridged && let Some(step) = self.reply_despite(now, ticket, is_kept, out) {
            return step;
        }
        let Some(query) = self.queries.get_mut(ticket) else { return lost() };
        if let Some(network) = query.network.filter(|_| is_kept) {
            query.note_answer_for(network.key(), None);
        }
        self.answer.clear();
        self.answer.rcode = rcode;
        self.body.compose(&query.question, &self.answer);
        // One from before a reload is served to nobody, and must not take the place of an expired answer that still may be.
        let ttl_s = if is_kept && query.rules == self.rules_stamp { self.settings.cache.failure_ttl_s } else { 0 };
        self.conclude(now, ticket, cache::Origin::Failure, ttl_s, Some(Why::Failure(failure)), out)
    }

    pub(super) fn reply(&mut self, ticket: Ticket, bytes: usize) -> Step {
        let Some(query) = self.queries.get(ticket) else { return lost() };
        if query.is_answered {
            return self.refreshed(ticket);
        }
        let to = query.origin;
        self.end(ticket);
        self.counters.replies.add(1);
        Step::Reply { bytes, to }
    }

    pub(super) fn drop(&mut self, ticket: Ticket, reason: DropReason) -> Step {
        if self.queries.get(ticket).is_some_and(|query| query.is_answered) {
            return self.refreshed(ticket);
        }
        self.end(ticket);
        self.drop_unbegun(reason)
    }

    pub(super) fn end(&mut self, ticket: Ticket) {
        self.let_go_of_answer(ticket);
        if let Some(query) = self.queries.get(ticket) {
            if query.is_counted {
                self.quota.give_back(query.origin.client.ip());
            }
            self.refreshes = self.refreshes.saturating_sub(usize::from(query.is_answered));
        }
        self.queries.end(ticket);
    }

    pub(super) fn drop_unbegun(&mut self, reason: DropReason) -> Step {
        self.counters.dropped(reason);
        Step::Drop(reason)
    }

    pub(super) fn reject(&mut self, from: Origin, rejection: Rejection, datagram: &[u8], out: &mut [u8]) -> Step {
        match rejection {
            Rejection::Drop(reason) => self.drop_unbegun(reason),
            Rejection::Reply(reply) => {
                self.counters.rejected.add(1);
                self.counters.replies.add(1);
                Step::Reply { bytes: reply::write_error(&reply, datagram, out), to: from }
            }
            // It has a query of its own, which is answered, not rejected.
            Rejection::Chaos => lost(),
        }
    }
}
