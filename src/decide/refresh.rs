//! Queries without a client, which renew what the cache holds: popular answers near their end (prefetch), and expired ones whose
//! client has been served already (RFC 8767 with a client timer of 0).
//!
//! Invariant: such a query is judged as that of the client whose hit began it, and takes at most [`REFRESHES_MAX`] of the places
//! that clients wait in. It ends with [`Step::Refreshed`], whatever came of it.

use super::Core;
use super::cache::EntryId;
use super::step::{Now, Ready, Step, Ticket};
use crate::limits::REFRESHES_MAX;

impl Core {
    /// Begins to ask anew for `entry`, which answers the query at hand, unless somebody has. The query at hand goes on.
    pub(super) fn begin_refresh(&mut self, now: Now, ticket: Ticket, entry: EntryId) {
        let Some(query) = self.queries.get(ticket) else { return };
        // What depends on the client is not kept, and who wants no recursion is not to cause it.
        let is_wanted = query.question.recursion_desired && !query.is_private && !query.is_answered;
        let has_place = self.refreshes < REFRESHES_MAX && self.queries.may_wait();
        if !is_wanted || !has_place || !self.cache.take_refresh(entry, now) {
            return;
        }
        let Some(refresh) = self.queries.begin_refresh(ticket, self.rules_stamp) else { return };
        self.refreshes += 1;
        self.counters.refreshes.add(1);
        self.resolver.ready.push_back(Ready::Query(refresh));
    }

    /// The query is over and nobody waits for its answer.
    pub(super) fn refreshed(&mut self, ticket: Ticket) -> Step {
        self.end(ticket);
        Step::Refreshed
    }

    /// Queries under way that no client waits for any more.
    pub fn refreshes_under_way(&self) -> usize {
        self.refreshes
    }
}
