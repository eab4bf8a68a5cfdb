//! Stage 8, upstream: which servers there are, how they do, and which one is asked next.
//!
//! ```text
//!  groups    the servers and groups of the configuration and of rules
//!  server    how long one takes, whether it is a suspect, and whether it is down
//!  strategy  which server of a group is asked next
//!  strays    late answers that are still measured
//!  chance    unpredictable numbers
//! ```

mod chance;
mod groups;
mod server;
mod strategy;
mod strays;

use std::net::{IpAddr, SocketAddr};

use corewall_sharding::rule::ClassId;

pub use self::chance::Chance;
pub use self::groups::{GroupId, GroupRef, NO_SERVERS, NoRoom, ServerRef};
pub use self::server::{Health, RoundTrip, ServerId};
pub use self::strays::Stray;

use self::groups::Groups;
use self::server::Server;
use self::strays::Strays;
use super::Now;
use super::answer::ResponseHead;
use super::cookie::ServerCookie;
use super::deadlines::Deadlines;
use super::peer::{Doubt, Peer, Rewording, Sent, Terms, Verdict};
use super::request::Wording;
use super::settings::Group;
use super::subnet::{ClientSubnet, Network, SubnetMode};
use crate::limits::{GROUP_SERVERS_MAX, UPSTREAM_DOWN_EXCHANGES_MAX, UPSTREAM_GROUPS_MAX};

/// Which servers of a group were asked for one question, by their places in it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tried(u16);

const _: () = assert!(GROUP_SERVERS_MAX <= u16::BITS as usize, "each place of a group has a bit");

impl Tried {
    /// How many.
    pub fn count(self) -> usize {
        self.0.count_ones() as usize
    }

    fn has(self, place: usize) -> bool {
        self.0 >> place & 1 != 0
    }

    fn add(&mut self, place: usize) {
        self.0 |= 1 << place;
    }
}

/// How a group wants its questions to be asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Manner {
    /// Servers that are asked at once.
    pub at_once: u8,
    /// Microseconds after which another one is asked too; 0: never.
    pub hedge_us: u64,
}

/// What operators are told of a server.
#[derive(Clone, Copy)]
pub struct ServerReport<'a> {
    groups: &'a Groups,
    slot: u32,
    server: &'a Server,
}

impl<'a> ServerReport<'a> {
    /// Its address.
    pub fn address(&self) -> SocketAddr {
        self.server.address
    }

    /// Names of the configured groups that it is in; none: only rules name it.
    pub fn groups(&self) -> impl Iterator<Item = &'a str> + use<'a> {
        self.groups.names_of(self.slot)
    }

    /// Smoothed round-trip time and variation; none until it has answered over UDP.
    pub fn round_trip(&self) -> Option<RoundTrip> {
        self.server.round_trip
    }

    /// Time-outs and refusals in a row.
    pub fn failures(&self) -> u8 {
        self.server.failures
    }

    /// Whether it is passed over while another one of its group is up.
    pub fn is_down(&self) -> bool {
        self.server.is_down
    }

    /// Answers of any kind.
    pub fn answers(&self) -> u64 {
        self.server.answers
    }

    /// Questions that it did not answer in time.
    pub fn timeouts(&self) -> u64 {
        self.server.timeouts
    }
}

/// The servers and groups that one worker knows. Allocates at start and reload only.
pub struct Upstreams {
    groups: Groups,
    /// When servers that are down are to be probed, by their places.
    probes: Deadlines,
    strays: Strays,
    chance: Chance,
    /// Whether any group is told clients' networks.
    tells_networks: bool,
}

impl Upstreams {
    /// None yet.
    pub fn new(chance: &mut Chance) -> Self {
        let mut seed = [0; 32];
        for (part, number) in seed.chunks_exact_mut(8).zip(chance.seeds()) {
            part.copy_from_slice(&number.to_ne_bytes());
        }
        Self {
            groups: Groups::new(chance.seeds()),
            probes: Deadlines::new(0),
            strays: Strays::new(),
            chance: Chance::new(seed),
            tells_networks: false,
        }
    }

    /// Goes over to the groups of another configuration, and to other rules, of so many classes. What is named as before
    /// keeps its number and what is known of it.
    pub fn switch(&mut self, configured: &[Group], classes: usize) {
        self.groups.switch(configured, classes);
        self.tells_networks = configured.iter().any(|group| group.terms.subnet.mode != SubnetMode::Drop);
        self.probes.grow(self.groups.servers.capacity());
    }

    /// Goes over to other live rules, whose classes are numbered from `first` to below `end`. Allocates where there are more.
    pub fn set_live_classes(&mut self, first: usize, end: usize) {
        self.groups.set_live_classes(first, end);
    }

    /// The configured group of this name; one that is not configured has no servers.
    pub fn group(&self, name: &str) -> GroupId {
        self.groups.id_of(name)
    }

    /// The name of a configured group.
    pub fn group_name(&self, group: GroupId) -> Option<&str> {
        self.groups.name_of(group)
    }

    /// The group of the servers that a class of rules names, made if need be.
    pub fn group_of_class(&mut self, class: ClassId, servers: &[SocketAddr], now: Now) -> Result<GroupId, NoRoom> {
        self.groups.of_class(class, servers, now)
    }

    /// Where the group of this number is.
    pub fn find(&self, group: GroupId) -> Option<GroupRef> {
        self.groups.find(group)
    }

    /// Sets of servers that rules have named and that are still known.
    pub fn rule_groups(&self) -> usize {
        self.groups.idle_count()
    }

    /// Whether an NXDOMAIN of this group holds for all names below (RFC 8020).
    pub fn cuts_at_nxdomain(&self, group: GroupId) -> bool {
        let known = self.groups.find(group).and_then(|group| self.groups.group(group));
        known.is_some_and(|group| group.nxdomain_cut)
    }

    /// Whether there is only one server to ask, those of groups that stand in for its own included.
    pub fn is_alone(&self, group: GroupRef) -> bool {
        self.with_fallbacks(group).map(|group| self.server_count(group)).sum::<usize>() == 1
    }

    /// Servers of a group.
    pub fn server_count(&self, group: GroupRef) -> usize {
        self.groups.group(group).map_or(0, |group| group.servers().len())
    }

    /// A server's address.
    pub fn address(&self, server: ServerRef) -> Option<SocketAddr> {
        self.groups.server(server).map(|server| server.address)
    }

    /// The group that is asked when none of this one's servers gives an answer.
    pub fn fallback(&self, group: GroupRef) -> Option<GroupRef> {
        let fallback = self.groups.group(group)?.fallback;
        self.groups.find(fallback)
    }

    /// This group and those that stand in for it, in their order.
    fn with_fallbacks(&self, group: GroupRef) -> impl Iterator<Item = GroupRef> {
        // The configuration has no cycles; one that came to be would end here.
        std::iter::successors(Some(group), |group| self.fallback(*group)).take(UPSTREAM_GROUPS_MAX)
    }

    /// Whether there is any server to ask, of the group or of those that stand in for it.
    pub fn has_servers(&self, group: GroupRef) -> bool {
        self.with_fallbacks(group).any(|group| self.server_count(group) > 0)
    }

    fn is_up(&self, group: GroupRef) -> bool {
        let servers = self.groups.group(group).map_or(&[][..], |group| group.servers());
        servers.iter().any(|&slot| self.groups.servers.get(slot as usize).is_some_and(|server| !server.is_down))
    }

    /// Where a question for the group is asked first: the group itself, unless all its servers are down and those of one that stands in
    /// for it are not.
    pub fn first_asked(&self, group: GroupRef) -> GroupRef {
        if self.is_up(group) {
            return group;
        }
        self.with_fallbacks(group).find(|group| self.is_up(*group)).unwrap_or(group)
    }

    /// Whether as many questions are in flight as a group may have whose servers are all down.
    pub fn is_swamped(&self, group: GroupRef) -> bool {
        let open = self.groups.group(group).map_or(0, |group| group.open);
        open >= UPSTREAM_DOWN_EXCHANGES_MAX && !self.with_fallbacks(group).any(|group| self.is_up(group))
    }

    /// How the group wants its questions to be asked.
    pub fn manner(&self, group: GroupRef) -> Manner {
        let group = self.groups.group(group);
        group.map_or(Manner { at_once: 1, hedge_us: 0 }, |group| Manner {
            at_once: group.parallel,
            hedge_us: group.hedge_us,
        })
    }

    /// How the group wants its servers to be spoken to.
    pub fn terms(&self, group: GroupRef) -> Terms {
        self.groups.group(group).map_or_else(Terms::default, |group| group.terms)
    }

    /// What a group is told of a client's network; none where its answers are for all clients.
    pub fn network(&self, group: GroupId, client: IpAddr, said: Option<&ClientSubnet>) -> Option<Network> {
        // No look-up for nothing.
        if !self.tells_networks {
            return None;
        }
        let group = self.groups.find(group)?;
        self.terms(group).subnet.network(client, said)
    }

    /// How a server is spoken to that is asked on behalf of no group.
    pub fn terms_of(&self, server: ServerRef) -> Terms {
        self.groups.terms_of(server.slot)
    }

    /// How the next send to a server is worded.
    pub fn word(&mut self, server: ServerRef, terms: &Terms, now: Now, again: Rewording) -> Wording {
        let random = [self.chance.number(), self.chance.number()];
        self.groups.server_mut(server).map_or_else(Wording::default, |known| known.peer.word(terms, now, random, again))
    }

    /// The server's cookie that goes with a wording.
    pub fn server_cookie(&self, server: ServerRef, wording: &Wording) -> Option<ServerCookie> {
        self.groups.server(server).and_then(|known| known.peer.server_cookie(wording))
    }

    /// What is to be done with an answer of the server, and whether it is the first one with a cookie. One that a reload has
    /// taken away in the meantime is judged as one of which nothing is known.
    pub fn judge(
        &mut self,
        server: ServerRef,
        terms: &Terms,
        now: Now,
        sent: &Sent,
        head: &ResponseHead,
    ) -> (Verdict, bool) {
        let mut nobody = Peer::default();
        let peer = self.groups.server_mut(server).map_or(&mut nobody, |known| &mut known.peer);
        let knew_cookies = peer.knows_cookies();
        let verdict = peer.judge(terms, now, sent, head);
        (verdict, !knew_cookies && peer.knows_cookies())
    }

    /// The server was to be asked over TCP because of this doubt, and could not be.
    pub fn note_unconfirmed(&mut self, server: ServerRef, now: Now, doubt: Doubt) {
        if let Some(known) = self.groups.server_mut(server) {
            known.peer.note_unconfirmed(now, doubt);
        }
    }

    /// An exchange for the group's names begins.
    pub fn opened(&mut self, group: GroupRef, now: Now) {
        self.groups.touch(group, now);
        if let Some(group) = self.groups.group_mut(group) {
            group.open += 1;
        }
    }

    /// It has ended.
    pub fn closed(&mut self, group: GroupRef) {
        if let Some(group) = self.groups.group_mut(group) {
            group.open = group.open.saturating_sub(1);
        }
    }

    /// Microseconds that an answer of the server is waited for.
    pub fn timeout_us(&self, server: ServerRef, max: u64) -> u64 {
        self.groups.server(server).map_or(max, |server| server.timeout_us(max))
    }

    /// The server is being asked.
    pub fn note_asked(&mut self, server: ServerRef, now: Now) {
        if let Some(known) = self.groups.server_mut(server) {
            known.note_asked(now);
        }
    }

    /// The server answered: `is_good` when with something to be used. `sample_us`: since it was asked over UDP.
    pub fn note_answer(&mut self, server: ServerRef, now: Now, is_good: bool, sample_us: Option<u64>) {
        if let Some(known) = self.groups.server_mut(server) {
            known.note_answer(now, is_good, sample_us);
            self.probes.clear(server.slot);
        }
    }

    /// A server is about to be measured; a suspect that is silent since the last time has failed once more. `max`: the longest
    /// time-out, in microseconds.
    pub fn note_retry(&mut self, server: ServerRef, now: Now, max: u64) -> Health {
        self.note_failure(server, |known, chance| known.note_retry(now, max, chance))
    }

    /// The server did not answer in time what it was asked at `sent`.
    pub fn note_timeout(&mut self, server: ServerRef, now: Now, sent: Now) -> Health {
        self.note_failure(server, |known, chance| known.note_timeout(now, sent, chance))
    }

    /// The server's host said that nobody listens, or it cannot be reached.
    pub fn note_refusal(&mut self, server: ServerRef, now: Now, sent: Now) -> Health {
        self.note_failure(server, |known, chance| known.note_refusal(now, sent, chance))
    }

    fn note_failure(&mut self, server: ServerRef, note: impl FnOnce(&mut Server, &mut Chance) -> Health) -> Health {
        let Some(known) = self.groups.server_mut(server) else { return Health::Same };
        let health = note(known, &mut self.chance);
        if health == Health::WentDown {
            let at = known.probe_at;
            self.probes.set(server.slot, at);
        }
        health
    }

    /// A probe was not answered, or could not be sent.
    pub fn note_probe_failed(&mut self, server: ServerRef, now: Now) {
        let Some(known) = self.groups.server_mut(server).filter(|known| known.is_down) else { return };
        known.note_probe_failed(now, &mut self.chance);
        let at = known.probe_at;
        self.probes.set(server.slot, at);
    }

    /// There was no room for the probe: it is sent at another moment.
    pub fn postpone_probe(&mut self, server: ServerRef, at: Now) {
        if let Some(known) = self.groups.server_mut(server).filter(|known| known.is_down) {
            known.is_probed = false;
            self.probes.set(server.slot, at);
        }
    }

    /// A group that a server which is down is in has been asked something: it goes on being probed.
    fn want(&mut self, slot: u32, now: Now) {
        let Some(server) = self.groups.servers.get_mut(slot as usize) else { return };
        server.wanted = now;
        if !server.is_probed && !self.probes.has(slot) {
            self.probes.set(slot, server.probe_at.max(now));
        }
    }

    /// When a server is to be probed next.
    pub fn next_probe(&self) -> Option<Now> {
        self.probes.first().map(|(at, _)| at)
    }

    /// A server whose back-off is over, to be probed now. One that nobody has wanted for long is left alone.
    pub fn take_probe(&mut self, now: Now) -> Option<ServerRef> {
        let (_, slot) = self.probes.first().filter(|(at, _)| *at <= now)?;
        self.probes.clear(slot);
        let server = self.groups.server_at(slot)?;
        let known = self.groups.server_mut(server)?;
        if !known.is_down || !known.is_wanted(now) {
            return None;
        }
        known.is_probed = true;
        Some(server)
    }

    /// Nobody waits for this send any more. The stray whose place it may take was not answered.
    pub fn add_stray(&mut self, stray: Stray, now: Now) -> Health {
        match self.strays.push(stray, now) {
            Some(Stray { server, sent, was_given_up: false, .. }) => self.note_timeout(server, now, sent),
            _ => Health::Same,
        }
    }

    /// Whether a message is the answer to a stray, which is then measured.
    pub fn hear_stray(&mut self, now: Now, id: u16, server: ServerId, socket: u16) -> bool {
        let Some(Stray { server, sent, .. }) = self.strays.take(now, id, server, socket) else { return false };
        self.note_answer(server, now, true, Some(now.0.saturating_sub(sent.0)));
        true
    }

    /// What operators may want to know of each server.
    pub fn servers(&self) -> impl Iterator<Item = ServerReport<'_>> {
        let groups = &self.groups;
        let known = groups.servers.iter().zip(0u32..).filter(|(server, _)| server.groups > 0);
        known.map(move |(server, slot)| ServerReport { groups, slot, server })
    }
}

#[cfg(test)]
mod tests;
