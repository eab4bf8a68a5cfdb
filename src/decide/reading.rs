//! Stage 6 when a page of the store is not in memory: the query waits while somebody who may wait for the disk reads.
//!
//! What is read is handed to the store's reader, not to `decide`: the judgement of the name begins again, and finds its rows at
//! hand. An upstream's answer, in whose chain the name stands, is kept meanwhile ([`super::kept`]) and read again.
//!
//! Invariants: a query waits for the store at most `store_wait_ms_max` in all, however many names it leads to; past it, or
//! when there is no place to wait, what `on_store_error` says is done with it. Rules that came meanwhile judge from the
//! beginning.

use super::client;
use super::kept::KeptHead;
use super::query::{AliasAsked, Stage, Subject};
use super::step::{Now, Ready, Step, Ticket};
use super::why::Failure;
use super::wire::rcode;
use super::{Core, lost, subject_name};

impl Core {
    /// The query begins to wait: for rows of the name at hand, or for the target of an alias.
    pub(super) fn wait_for_store(
        &mut self,
        now: Now,
        ticket: Ticket,
        subject: Subject,
        asked: Option<AliasAsked>,
        out: &mut [u8],
    ) -> Step {
        let Some(query) = self.queries.get(ticket) else { return lost() };
        let left_us = (self.settings.store_wait_ms_max * 1_000).saturating_sub(query.store_waited_us);
        if left_us == 0 {
            self.counters.store_waits_over.add(1);
            return self.on_store_failure(now, ticket, subject, out);
        }
        if !self.take_place(ticket) || !self.keep_answer(now, ticket, subject) {
            self.counters.store_queue_full.add(1);
            return self.on_store_failure(now, ticket, subject, out);
        }
        let Some(query) = self.queries.get_mut(ticket) else { return lost() };
        query.stage = Stage::Reading(subject, asked);
        (query.reading_since, query.reading_rules) = (now, self.rules_stamp);
        self.reads.set(ticket.index, now.plus_us(left_us));
        Step::ReadStore(ticket)
    }

    /// Keeps the answer in whose chain the subject stands; false when there is no room.
    fn keep_answer(&mut self, now: Now, ticket: Ticket, subject: Subject) -> bool {
        let Some(query) = self.queries.get_mut(ticket) else { return false };
        if subject == Subject::Resolved || query.kept.is_some() {
            return true;
        }
        let head = KeptHead { since: now, rcode: self.answer.rcode, authentic_data: self.answer.authentic_data };
        let resolver = &self.resolver;
        query.kept = match query.is_recalled {
            true => self.recalled.get(..self.recalled_bytes).and_then(|message| self.kept.keep(head, message)),
            false => {
                let message = resolver.response.get(..resolver.response_bytes);
                message.and_then(|message| self.kept.share(head, message))
            }
        };
        query.kept.is_some()
    }

    /// The answer at hand, if there is one, is needed no more.
    pub(super) fn let_go_of_answer(&mut self, ticket: Ticket) {
        if let Some(kept) = self.queries.get_mut(ticket).and_then(|query| query.kept.take()) {
            self.kept.let_go(kept);
        }
    }

    /// Reads the kept answer again, as if it came now, but for its TTLs.
    fn restore_answer(&mut self, now: Now, ticket: Ticket) -> Result<(), Failure> {
        let kept = self.queries.get(ticket).and_then(|query| query.kept).ok_or(Failure::UpstreamBroken)?;
        let (head, bytes, message) = self.kept.take_out(kept).ok_or(Failure::UpstreamBroken)?;
        let answer = message.get(..bytes).unwrap_or_default();
        let read = self.read_response(ticket, answer, head.rcode, head.authentic_data);
        self.kept.put_back(kept, message);
        let waited_s = now.seconds_since(head.since);
        if waited_s > 0 {
            self.answer.set_ttls(|record| record.ttl_s.saturating_sub(waited_s));
        }
        read
    }

    /// Whether the query waits for the store: not any more when its time was over first.
    pub fn is_reading(&self, ticket: Ticket) -> bool {
        self.queries.get(ticket).is_some_and(|query| matches!(query.stage, Stage::Reading(..)))
    }

    /// Whether any query waits for the store.
    pub fn has_reads(&self) -> bool {
        self.reads.first().is_some()
    }

    /// Answers of upstreams that are kept for queries which wait for the store.
    pub fn answers_kept(&self) -> usize {
        self.kept.count()
    }

    /// What a query waits for after [`Step::ReadStore`] has been read, or could not be: its judging begins again, and is to
    /// find that at hand. Only while [`Core::is_reading`].
    pub fn on_read(&mut self, now: Now, ticket: Ticket, out: &mut [u8]) -> Step {
        let Some((subject, asked)) = self.end_reading(now, ticket) else { return lost() };
        let Some(query) = self.queries.get(ticket) else { return lost() };
        let has_changed = query.reading_rules != self.rules_stamp;
        if has_changed && !self.admit_again(ticket) {
            return self.fail(now, ticket, rcode::REFUSED, Failure::ClientNotAllowed, out);
        }
        if has_changed && subject != Subject::Resolved && self.must_begin_again(ticket) {
            self.let_go_of_answer(ticket);
            return self.answer_locally(now, ticket, out);
        }
        if subject != Subject::Resolved
            && let Err(failure) = self.restore_answer(now, ticket)
        {
            return self.fail(now, ticket, rcode::SERVFAIL, failure, out);
        }
        let Some(query) = self.queries.get_mut(ticket) else { return lost() };
        if has_changed {
            if subject != Subject::Resolved {
                let links = query.links().len();
                return self.uncloak(now, ticket, links, out);
            }
            // Nothing has been asked or answered on its behalf that the new rules have not been asked about.
            query.begin_again(self.rules_stamp);
            (query.may_have_stale, query.has_stale) = (false, false);
            return match query.asks_anew {
                true => self.answer_locally(now, ticket, out),
                false => self.recall(now, ticket, out),
            };
        }
        let Some(asked) = asked else { return self.judge(now, ticket, subject, out) };
        let Some(name) = subject_name(query, &self.answer, subject) else { return lost() };
        self.lookup.probe(&self.rules, &name);
        query.stage = Stage::Target(subject, asked);
        Step::AskTarget(ticket)
    }

    /// After [`Step::ReadStore`], at once: too much is being read already.
    pub fn on_read_refused(&mut self, now: Now, ticket: Ticket, out: &mut [u8]) -> Step {
        let Some((subject, _)) = self.end_reading(now, ticket) else { return lost() };
        self.counters.store_queue_full.add(1);
        self.on_store_failure(now, ticket, subject, out)
    }

    /// The query has waited for as long as it may.
    pub(super) fn give_up_reading(&mut self, now: Now, ticket: Ticket, out: &mut [u8]) -> Step {
        let Some((subject, _)) = self.end_reading(now, ticket) else { return lost() };
        self.counters.store_waits_over.add(1);
        let has_changed = self.queries.get(ticket).is_some_and(|query| query.reading_rules != self.rules_stamp);
        if has_changed && !self.admit_again(ticket) {
            return self.fail(now, ticket, rcode::REFUSED, Failure::ClientNotAllowed, out);
        }
        if subject != Subject::Resolved
            && let Err(failure) = self.restore_answer(now, ticket)
        {
            return self.fail(now, ticket, rcode::SERVFAIL, failure, out);
        }
        self.on_store_failure(now, ticket, subject, out)
    }

    /// Makes the next query ready that has waited for as long as it may; false when there is none.
    pub(super) fn pop_read_deadline(&mut self, now: Now) -> bool {
        let Some((_, index)) = self.reads.first().filter(|(at, _)| *at <= now) else { return false };
        self.reads.clear(index);
        if let Some(ticket) = self.queries.ticket_of(index) {
            self.resolver.ready.push_back(Ready::Query(ticket));
        }
        true
    }

    /// The wait is over, whatever came of it.
    fn end_reading(&mut self, now: Now, ticket: Ticket) -> Option<(Subject, Option<AliasAsked>)> {
        let query = self.queries.get_mut(ticket)?;
        let Stage::Reading(subject, asked) = query.stage else { return None };
        query.store_waited_us += now.0.saturating_sub(query.reading_since.0);
        query.stage = Stage::Judging(subject);
        self.reads.clear(ticket.index);
        // Of the exchange whose clients were being resumed.
        self.shared = None;
        self.counters.store_reads_waited.add(1);
        Some((subject, asked))
    }

    /// Rules or settings have changed while the query waited: its policy may have another number now, by which it is judged from
    /// here on. False when its client is not allowed any more.
    pub(super) fn admit_again(&mut self, ticket: Ticket) -> bool {
        let Some(query) = self.queries.get_mut(ticket) else { return false };
        let client = query.origin.client.ip();
        let Some(policy) = client::admit(&self.settings, client) else {
            self.counters.refused_clients.add(1);
            return false;
        };
        query.policy = policy;
        let is_singled_out = self.rules.singles_out(policy, client);
        query.is_singled_out |= is_singled_out;
        query.is_private |= is_singled_out;
        true
    }

    /// Takes a place among the queries that wait, unless it has one; false when there is none for it.
    pub(super) fn take_place(&mut self, ticket: Ticket) -> bool {
        let Some(query) = self.queries.get(ticket) else { return false };
        let (is_counted, is_answered, client) = (query.is_counted, query.is_answered, query.origin.client.ip());
        // Who waits for nothing has taken its place already.
        let has_place = is_counted || is_answered || (self.queries.may_wait() && self.quota.take(client));
        if !has_place {
            return false;
        }
        if let Some(query) = self.queries.get_mut(ticket) {
            query.is_counted = is_counted || !is_answered;
        }
        true
    }
}
