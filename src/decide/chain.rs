//! Stages 7 and 9 where one name leads to another: aliases, local CNAMEs, and the CNAME chains of upstreams.

use std::borrow::Cow;

use corewall_sharding::name::{NAME_BYTES_MAX, Name};
use corewall_sharding::rule::{AliasLabels, ClassId};

use super::answer::{self, Answer};
use super::query::{Link, Stage, Subject};
use super::question::Question;
use super::step::{Now, Step, Ticket, Transport, Unread};
use super::why::Failure;
use super::wire::{CLASS_IN, rcode, rtype};
use super::{Core, cache, lost, rewrite, subject_name};

impl Core {
    /// Whose target is wanted after [`Step::AskTarget`], and maybe after [`Step::ReadStore`]: shard, name of the rule as the shards write it, and class.
    pub fn alias_asked(&self, ticket: Ticket) -> Option<(u16, &str, ClassId)> {
        let query = self.queries.get(ticket)?;
        let (Stage::Target(subject, asked) | Stage::Reading(subject, Some(asked))) = query.stage else { return None };
        let name = subject_name(query, &self.answer, subject)?;
        // The lookup is still of this name, but may have skipped the text of a name that only patterns read.
        let shard = self.lookup.shard_of_suffix(usize::from(asked.labels));
        debug_assert_eq!(self.lookup.text(), name.to_text().as_str());
        Some((shard, self.lookup.suffix_text(usize::from(asked.labels)), asked.class))
    }

    /// The target of the alias of [`Core::alias_asked`].
    pub fn on_target(
        &mut self,
        now: Now,
        ticket: Ticket,
        target: Result<Option<Name>, Unread>,
        out: &mut [u8],
    ) -> Step {
        let Some(query) = self.queries.get_mut(ticket) else { return lost() };
        let Stage::Target(subject, asked) = query.stage else { return lost() };
        let Some(name) = subject_name(query, &self.answer, subject).map(Cow::into_owned) else { return lost() };
        let target = match target {
            Ok(Some(target)) => target,
            Err(Unread::WouldWait) => return self.wait_for_store(now, ticket, subject, Some(asked), out),
            // A rule without its target is a broken store.
            Ok(None) | Err(Unread::Failed) => return self.on_store_failure(now, ticket, subject, out),
        };
        let below = name.label_count().saturating_sub(usize::from(asked.labels));
        let kept = match self.rules.class(asked.class).map(|class| class.alias_labels) {
            Some(AliasLabels::All) => name.label_count(),
            Some(AliasLabels::Below) => below,
            Some(AliasLabels::None) | None => 0,
        };
        // The upstream's CNAMEs up to the aliased name become links of the query.
        if let Subject::Chained(last) = subject {
            query.is_linked_upstream = true;
            for index in query.links().len()..=last {
                let Some((target, ttl_s)) = self.answer.chain_target(index) else { break };
                if !query.push_link(Link { ttl_s, target }) {
                    return self.fail(now, ticket, rcode::SERVFAIL, Failure::ChainTooLong, out);
                }
            }
        }
        self.counters.aliased.add(1);
        match name.prefix_onto(kept, &target) {
            Ok(target) => self.follow(now, ticket, Link { ttl_s: self.settings.alias_ttl_s, target }, out),
            // As a DNAME's (RFC 6672 §2.2).
            Err(_) => self.fail(now, ticket, rcode::YXDOMAIN, Failure::NameTooLong, out),
        }
    }

    /// Goes on with the target of an alias or of a local CNAME, as if it had been asked.
    pub(super) fn follow(&mut self, now: Now, ticket: Ticket, link: Link, out: &mut [u8]) -> Step {
        let Some(query) = self.queries.get_mut(ticket) else { return lost() };
        if !query.push_link(link) {
            return self.fail(now, ticket, rcode::SERVFAIL, Failure::ChainTooLong, out);
        }
        query.stage = Stage::Begun;
        query.is_allowed = false;
        // What comes of the target has been judged by nobody, though the way to it may have been cached.
        (query.is_recalled, query.is_judged_again) = (false, false);
        if query.question.qtype == rtype::CNAME {
            // The CNAME itself was asked for.
            return self.answer_with_links(now, ticket, out);
        }
        self.answer_locally(now, ticket, out)
    }

    pub(super) fn answer_with_links(&mut self, now: Now, ticket: Ticket, out: &mut [u8]) -> Step {
        let Some(query) = self.queries.get(ticket) else { return lost() };
        self.answer.clear();
        let first = query.links().get(..1).unwrap_or_default();
        let Ok(()) = push_links(&mut self.answer, &query.question.name, first) else { return lost() };
        self.body.compose(&query.question, &self.answer);
        self.conclude(now, ticket, cache::Origin::Rule, u32::MAX, None, out)
    }

    /// The answer for the resolved name, or for one above that does not exist, is in the cache: it is read as an upstream's
    /// would be. `name` is the one that it was kept for, `subnet` for whom.
    pub(super) fn resolve_from_cache(
        &mut self,
        now: Now,
        ticket: Ticket,
        entry: cache::EntryId,
        name: Name,
        subnet: u64,
        out: &mut [u8],
    ) -> Step {
        let Some(query) = self.queries.get_mut(ticket) else { return lost() };
        let Some(head) = self.cache.head(entry).copied() else { return lost() };
        let mut question = query.question.clone();
        question.name = name;
        question.asked = [0; NAME_BYTES_MAX];
        if let Some(asked) = question.asked.get_mut(..question.name.as_wire().len()) {
            asked.copy_from_slice(question.name.as_wire());
        }
        let bytes = self.cache.write_reply(entry, now, &question, Transport::Tcp, "", &mut self.recalled);
        // Its chain was judged under the rules of now, or else the query says so.
        query.is_recalled = true;
        query.note_answer_for(subnet, head.scope_bits);
        query.is_linked_upstream = true;
        let recalled = std::mem::take(&mut self.recalled);
        let message = recalled.get(..bytes).unwrap_or_default();
        self.recalled_bytes = bytes;
        let step = self.accept_response(now, ticket, message, head.rcode, head.authentic_data, out);
        self.recalled = recalled;
        step
    }

    /// Stage 9: reads an upstream's answer and begins to judge the names in its chain.
    pub(super) fn accept_response(
        &mut self,
        now: Now,
        ticket: Ticket,
        message: &[u8],
        rcode: u16,
        authentic_data: bool,
        out: &mut [u8],
    ) -> Step {
        // It is another answer than the one that the store may have been waited for.
        self.let_go_of_answer(ticket);
        if rcode != rcode::NOERROR && rcode != rcode::NXDOMAIN {
            return self.fail(now, ticket, rcode::SERVFAIL, Failure::UpstreamRefused, out);
        }
        match self.read_response(ticket, message, rcode, authentic_data) {
            Ok(()) => {
                let links = self.queries.get(ticket).map_or(0, |query| query.links().len());
                self.uncloak(now, ticket, links, out)
            }
            Err(failure) => self.fail(now, ticket, rcode::SERVFAIL, failure, out),
        }
    }

    /// Puts the query's links and an upstream's answer into `answer`.
    pub(super) fn read_response(
        &mut self,
        ticket: Ticket,
        message: &[u8],
        rcode: u16,
        authentic_data: bool,
    ) -> Result<(), Failure> {
        let Some(query) = self.queries.get(ticket) else { return Err(Failure::UpstreamBroken) };
        self.answer.clear();
        let links = query.links().len();
        let Question { name, qtype, .. } = query.question;
        let read = push_links(&mut self.answer, &name, query.links())
            .map_err(|answer::AnswerFull| answer::ResponseError::TooLarge)
            .and_then(|()| self.answer.append_response(message, query.resolved(), qtype, query.question.dnssec_ok()));
        read.map_err(|error| match error {
            answer::ResponseError::ChainTooLong => Failure::ChainTooLong,
            answer::ResponseError::Malformed | answer::ResponseError::TooLarge => Failure::UpstreamBroken,
        })?;
        self.answer.rcode = rcode;
        // What we put in front was never signed.
        self.answer.authentic_data = authentic_data && links == 0;
        Ok(())
    }

    /// Judges the targets of the chain from `index` on, then the addresses.
    pub(super) fn uncloak(&mut self, now: Now, ticket: Ticket, index: usize, out: &mut [u8]) -> Step {
        let Some(query) = self.queries.get_mut(ticket) else { return lost() };
        if !query.is_allowed
            && (!query.is_recalled || query.is_judged_again)
            && query.question.qtype != rtype::CNAME
            && self.answer.chain_target(index).is_some()
        {
            return self.judge(now, ticket, Subject::Chained(index), out);
        }
        self.judge_addresses(now, ticket, out)
    }

    /// What the upstream answered has passed all rules.
    pub(super) fn finish_answer(&mut self, now: Now, ticket: Ticket, out: &mut [u8]) -> Step {
        let Some(query) = self.queries.get(ticket) else { return lost() };
        let (policy, rules) = (query.policy, &self.rules);
        let mut bounds = self.settings.cache;
        if query.is_recalled {
            // Rewritten before it was kept, and what is left of its time is not to be lifted again.
            bounds.ttl_s_min = 0;
        } else if rules.rewrites().apply(&mut self.answer, &|list| rules.list_applies(policy, list)) {
            self.counters.rewritten.add(1);
        }
        // A name above a local record is there, though the upstream cannot know: its NXDOMAIN would deny that record to whoever
        // takes it at its word (RFC 8020 §2).
        if self.answer.rcode == rcode::NXDOMAIN
            && self.settings.local.is_above_records(&self.answer.chain_end(query.resolved()))
        {
            self.answer.rcode = rcode::NOERROR;
            self.answer.authentic_data = false;
        }
        let ttl_s = rewrite::bound_ttls(&mut self.answer, query.question.qtype, &bounds);
        let group = query.group;
        let origin = match query.links().is_empty() {
            true => cache::Origin::Upstream { group, chain: self.answer.chain_target(0).is_some() },
            // The links in front are ours.
            false => cache::Origin::Derived { group },
        };
        self.body.compose(&query.question, &self.answer);
        self.conclude(now, ticket, origin, ttl_s, None, out)
    }
}

/// Puts the CNAMEs of a query's links into an answer.
pub(super) fn push_links(answer: &mut Answer, asked: &Name, links: &[Link]) -> Result<(), answer::AnswerFull> {
    let mut owner = *asked;
    for link in links {
        answer.push(answer::Section::Answer, &owner, rtype::CNAME, CLASS_IN, link.ttl_s, link.target.as_wire())?;
        owner = link.target;
    }
    Ok(())
}
