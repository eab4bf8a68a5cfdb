//! Stages 3 and 8, recall: answers from the cache, before the rules are asked and after.
//!
//! Invariant: before the name has been judged only the answer to the very question is given, and only one that was judged under the
//! rules of now, or under older ones that have not changed for this name ([`super::changes`]). Afterwards one that was judged under older rules is as good if it is the upstream's own, of the group that
//! would be asked now; the names of its chain are then judged again.

use super::cache::{self, CacheKey, EntryHead, Freshness, Origin, SavedCache};
use super::query::Query;
use super::question::Question;
use super::settings::PolicyId;
use super::step::{Now, Step, Ticket, Transport};
use super::upstream::{GroupId, NO_SERVERS};
use super::why::{Failure, ede_text};
use super::wire::{rcode, rtype};
use super::{Core, block, lost};
use crate::limits::SAVED_ENTRIES_MAX;

impl Core {
    /// Stage 3: an answer that is still fresh, judged under the rules of now.
    pub(super) fn recall(&mut self, now: Now, ticket: Ticket, out: &mut [u8]) -> Step {
        let Some(query) = self.queries.get(ticket) else { return lost() };
        if !query.is_singled_out
            && let Some((entry, freshness @ (Freshness::Fresh | Freshness::Due))) =
                self.cache.look_up(&query.cache_key(), now)
            && let Some(&EntryHead { rules, by_name_alone, origin, .. }) = self.cache.head(entry)
        {
            if rules == self.rules_stamp {
                return self.reply_from_cache(now, ticket, entry, freshness, out);
            }
            // What upstreams say of addresses is told anew once that is judged in another way.
            let has_addresses = matches!(origin, Origin::Upstream { .. });
            if by_name_alone
                && !(has_addresses && rules < self.addresses_stamp)
                && !self.changes.touch(&query.question.name, rules)
            {
                self.cache.confirm(entry, self.rules_stamp);
                self.counters.cache_confirmed.add(1);
                return self.reply_from_cache(now, ticket, entry, freshness, out);
            }
        }
        self.answer_locally(now, ticket, out)
    }

    pub(super) fn reply_from_cache(
        &mut self,
        now: Now,
        ticket: Ticket,
        entry: cache::EntryId,
        freshness: Freshness,
        out: &mut [u8],
    ) -> Step {
        if freshness == Freshness::Due {
            self.begin_refresh(now, ticket, entry);
        }
        let Some(query) = self.queries.get(ticket) else { return lost() };
        let bytes = self.write_from_cache(now, entry, &query.question, query.origin.transport, out);
        self.reply(ticket, bytes)
    }

    /// Writes the reply that an entry is, and counts it. On the hot path.
    pub(super) fn write_from_cache(
        &self,
        now: Now,
        entry: cache::EntryId,
        question: &Question,
        transport: Transport,
        out: &mut [u8],
    ) -> usize {
        self.counters.cache_hits.add(1);
        let head = self.cache.head(entry);
        if head.is_some_and(|head| head.rcode == rcode::SERVFAIL) {
            self.counters.servfail.add(1);
        }
        let ede = head.and_then(|head| head.ede);
        let text = ede.map_or("", |(_, text)| ede_text(&self.settings, &self.rules, text));
        self.cache.write_reply(entry, now, question, transport, text, out)
    }

    /// Stage 8: the name is not blocked: from the cache after all, or from upstream.
    pub(super) fn recall_or_ask(&mut self, now: Now, ticket: Ticket, out: &mut [u8]) -> Step {
        let Some(query) = self.queries.get_mut(ticket) else { return lost() };
        let (client, said) = (query.origin.client.ip(), query.question.subnet.as_ref());
        query.network = self.resolver.upstreams.network(query.group, client, said);
        if query.question.qtype == rtype::ANY {
            let Ok(()) = block::answer_any(&mut self.answer, &query.question.name) else { return lost() };
            self.body.compose(&query.question, &self.answer);
            return self.conclude(now, ticket, cache::Origin::Rule, u32::MAX, None, out);
        }
        if !query.is_singled_out
            && !query.asks_anew
            && let Some(step) = self.recall_resolved(now, ticket, out)
        {
            return step;
        }
        let Some(query) = self.queries.get(ticket) else { return lost() };
        if !query.question.recursion_desired {
            return self.fail(now, ticket, rcode::REFUSED, Failure::NotRecursive, out);
        }
        if let Some(step) = self.reply_stale_at_once(now, ticket, out) {
            return step;
        }
        self.ask_upstream(now, ticket, out)
    }

    /// What the cache has for the resolved name, now that it has been judged.
    fn recall_resolved(&mut self, now: Now, ticket: Ticket, out: &mut [u8]) -> Option<Step> {
        let subnets = self.queries.get(ticket)?.subnets();
        for subnet in subnets {
            if let Some(step) = self.recall_for(now, ticket, subnet, out) {
                return Some(step);
            }
            // Before the verdict only what is for all clients was looked for.
            if subnet != 0
                && let Some(step) = self.recall_led_on(now, ticket, subnet, out)
            {
                return Some(step);
            }
        }
        let query = self.queries.get_mut(ticket)?;
        let (group, name) = (query.group, *query.resolved());
        if self.resolver.upstreams.cuts_at_nxdomain(group)
            && let Some((entry, above)) = self.cache.find_cut(&query.cache_key_of(&name), group, now)
            && self.cache.head(entry).is_some_and(|head| is_for_this(query, 0, head))
        {
            query.is_below_cut = true;
            self.counters.cut_answers.add(1);
            return Some(self.resolve_from_cache(now, ticket, entry, above, 0, out));
        }
        None
    }

    /// The same of answers for one network, or for all clients.
    fn recall_for(&mut self, now: Now, ticket: Ticket, subnet: u64, out: &mut [u8]) -> Option<Step> {
        let query = self.queries.get_mut(ticket)?;
        let (group, name, is_linked) = (query.group, *query.resolved(), !query.links().is_empty());
        let found = self.cache.look_up(&CacheKey { subnet, ..query.cache_key_of(&name) }, now);
        if let Some((entry, freshness @ (Freshness::Fresh | Freshness::Due))) = found {
            let head = *self.cache.head(entry)?;
            let is_current = head.rules == self.rules_stamp;
            // The group that is asked now may be another one than then: its servers may say otherwise, and have not failed.
            let is_ours = match head.origin {
                Origin::Upstream { group: of, .. } => {
                    of == group
                        && is_for_this(query, subnet, &head)
                        && head.rules >= self.addresses_stamp
                        // A name above a record that has come since is there: see `Core::finish_answer`.
                        && (head.rcode != rcode::NXDOMAIN || !self.settings.local.is_above_records(&name))
                }
                Origin::Derived { group: of } => of == group && is_current && is_for_this(query, subnet, &head),
                Origin::Failure => is_current,
                Origin::Rule => false,
            };
            // The asked name was judged just now, the names in its chain under the rules of then only.
            let is_judged_again = !is_current && matches!(head.origin, Origin::Upstream { chain: true, .. });
            if is_ours && !is_linked && !is_judged_again {
                if !query.is_private {
                    self.cache.confirm(entry, self.rules_stamp);
                    self.counters.cache_confirmed.add(1);
                }
                return Some(self.reply_from_cache(now, ticket, entry, freshness, out));
            }
            // A block for what the name leads to is made for each name that leads there: it may differ by more than the name.
            let is_upstreams_own = matches!(head.origin, Origin::Upstream { .. });
            if is_ours && is_upstreams_own && !query.is_led_by_upstream_to_private(&self.settings.rebinding) {
                query.is_judged_again = is_judged_again;
                return Some(self.resolve_from_cache(now, ticket, entry, name, subnet, out));
            }
        } else if found.is_some() || is_linked {
            // An alias's answer is kept for the name that was asked.
            query.may_have_stale = true;
        }
        None
    }

    /// Whether what is cached is what upstreams said, so that it holds whatever is made of addresses later.
    fn is_as_upstreams_said(&self) -> bool {
        self.rules.leaves_addresses_alone() && !self.settings.rebinding.is_on()
    }

    /// The most used answers, to be taken in by the next process: none while rules or rebinding protection look at addresses, for
    /// what an upstream said before they did is not known any more. Allocates: for a stop alone.
    pub fn save(&self, now: Now) -> SavedCache {
        let mut saved = SavedCache::default();
        if !self.is_as_upstreams_said() {
            return saved;
        }
        let SavedCache { policies, groups, entries } = &mut saved;
        *policies = self.settings.policies.iter().map(|policy| policy.name.clone()).collect();
        let mut group_ids = Vec::new();
        self.cache.export(now, SAVED_ENTRIES_MAX, self.addresses_stamp, &mut |mut entry| {
            let place = group_ids.iter().position(|known| *known == entry.group).or_else(|| {
                // A rule's own servers have no name to be found by.
                let name = self.resolver.upstreams.group_name(entry.group)?;
                group_ids.push(entry.group);
                groups.push(name.to_owned());
                Some(groups.len() - 1)
            });
            if let Some(place) = place {
                entry.group = place as u32;
                entries.push(entry);
            }
        });
        saved
    }

    /// Takes in what another process saved `elapsed_s` seconds ago; tells how many answers are still good. For a start alone.
    pub fn load(&mut self, now: Now, elapsed_s: u32, saved: SavedCache) -> usize {
        if !self.is_as_upstreams_said() {
            return 0;
        }
        let SavedCache { policies, groups, entries } = saved;
        let policy_of = |name: &String| self.settings.policies.iter().position(|policy| policy.name == *name);
        let policies: Vec<Option<usize>> = policies.iter().map(policy_of).collect();
        let groups: Vec<GroupId> = groups.iter().map(|name| self.resolver.upstreams.group(name)).collect();
        let mut taken = 0;
        // The most used last: it is then the newest.
        for entry in entries.into_iter().rev() {
            let policy = policies.get(usize::from(entry.policy)).copied().flatten();
            let group = groups.get(entry.group as usize).copied().filter(|group| *group != NO_SERVERS);
            if let (Some(policy), Some(group)) = (policy, group) {
                let cuts = self.resolver.upstreams.cuts_at_nxdomain(group);
                taken += usize::from(self.cache.import(now, elapsed_s, entry, policy as PolicyId, group, cuts));
            }
        }
        taken
    }

    /// The whole answer to the asked name, which an alias has led on, if it is kept for one network.
    fn recall_led_on(&mut self, now: Now, ticket: Ticket, subnet: u64, out: &mut [u8]) -> Option<Step> {
        let query = self.queries.get(ticket).filter(|query| !query.links().is_empty() && !query.is_private)?;
        let found = self.cache.look_up(&CacheKey { subnet, ..query.cache_key() }, now)?;
        let (entry, freshness @ (Freshness::Fresh | Freshness::Due)) = found else { return None };
        let head = self.cache.head(entry)?;
        let is_ours = head.origin == Origin::Derived { group: query.group } && head.rules == self.rules_stamp;
        is_ours.then(|| self.reply_from_cache(now, ticket, entry, freshness, out))
    }
}

/// Whether a cached answer that is known for all clients is so for this query's: one from a time when its group was told no
/// networks may be for our own.
pub(super) fn is_for_this(query: &Query, subnet: u64, head: &EntryHead) -> bool {
    query.network.is_none() || subnet != 0 || head.scope_bits.is_some()
}
