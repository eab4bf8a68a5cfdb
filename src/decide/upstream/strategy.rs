//! Which server of a group is asked next.
//!
//! Invariants: a server that is down is asked only when all others of its group are down or were asked already, and a suspect,
//! which has left a question without an answer and has not answered since, behind those that are not: when a server falls
//! silent, only what was on its way to it has to wait. A server is measured beside a question that another one is asked,
//! never instead of it, so that no client waits for a slow one.

use super::groups::{GroupRef, ServerRef};
use super::server::Server;
use super::{Tried, Upstreams};
use crate::decide::Now;
use crate::decide::settings::Strategy;

/// Who comes first: the lowest.
type Rank = (bool, bool, u64);

impl Upstreams {
    /// Whom to ask next for a question that `tried` have been asked for already; none when all were. Notes the choice in
    /// `tried`. On the query path.
    pub fn choose(&mut self, group: GroupRef, tried: &mut Tried, now: Now) -> Option<ServerRef> {
        self.choose_among(group, tried, now, |_| true)
    }

    /// The same, but none of those that are down.
    pub fn choose_up(&mut self, group: GroupRef, tried: &mut Tried, now: Now) -> Option<ServerRef> {
        self.choose_among(group, tried, now, |server| !server.is_down)
    }

    /// A server to be measured beside the one that is asked, if it is time to: the one that was asked longest ago. Whatever the
    /// strategy a suspect is, to see if it is back.
    pub fn choose_to_measure(&mut self, group: GroupRef, tried: &mut Tried, now: Now) -> Option<ServerRef> {
        let known = self.groups.group(group)?;
        let is_measured = matches!(known.strategy, Strategy::Fastest | Strategy::Parallel);
        let places = known.servers().iter().enumerate().filter(|(place, _)| !tried.has(*place));
        let servers = places.filter_map(|(place, &slot)| Some((place, slot, self.groups.servers.get(slot as usize)?)));
        let is_due = |server: &Server| (is_measured && server.is_due(now)) || server.is_due_as_suspect(now);
        let due = servers.filter(|(.., server)| !server.is_down && is_due(server));
        let (place, slot, _) = due.min_by_key(|(.., server)| server.asked())?;
        tried.add(place);
        self.groups.server_at(slot)
    }

    fn choose_among(
        &mut self,
        group: GroupRef,
        tried: &mut Tried,
        now: Now,
        may_be: impl Fn(&Server) -> bool,
    ) -> Option<ServerRef> {
        let is_first = tried.count() == 0;
        let known = self.groups.group(group)?;
        let (strategy, turn, count) = (known.strategy, usize::from(known.turn), known.servers().len());
        let mut best: Option<(Rank, usize, u32)> = None;
        let mut turn_after = None;
        for place in 0..count {
            let Some(&slot) = self.groups.group(group)?.servers().get(place) else { break };
            let Some(server) = self.groups.servers.get(slot as usize) else { continue };
            let rank = match strategy {
                _ if server.is_down => (true, true, server.probe_at.0),
                Strategy::Fastest | Strategy::Parallel => (false, server.is_suspect(), server.expected_us()),
                Strategy::Ordered => (false, server.is_suspect(), 0),
                Strategy::RoundRobin => (false, server.is_suspect(), ((place + count - turn % count) % count) as u64),
            };
            let is_candidate = !tried.has(place) && may_be(server);
            if server.is_down && is_first {
                self.want(slot, now);
            }
            if is_candidate && best.is_none_or(|(known, ..)| rank < known) {
                best = Some((rank, place, slot));
                turn_after = Some(place + 1);
            }
        }
        let (_, place, slot) = best?;
        tried.add(place);
        if is_first
            && strategy == Strategy::RoundRobin
            && let (Some(known), Some(turn)) = (self.groups.group_mut(group), turn_after)
        {
            known.turn = turn as u8;
        }
        self.groups.server_at(slot)
    }
}
