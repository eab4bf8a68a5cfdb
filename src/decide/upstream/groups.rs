//! Which servers and groups there are: those of the configuration, and those that rules name, made when they are first used.
//!
//! Invariants: no number of a server or group is given twice while the process runs, for cached answers are partitioned by
//! the group and sockets belong to a server. At most [`RULE_GROUPS_MAX`] groups of [`RULE_SERVERS_MAX`] servers are known
//! beside those that the configuration names; the idlest makes room, but none that may have a question in flight. All
//! memory is taken by [`Groups::switch`], at start and reload.

use std::net::SocketAddr;

use ahash::RandomState;
use corewall_sharding::rule::ClassId;
use hashbrown::{HashMap, HashTable};

use super::server::{Server, ServerId};
use crate::decide::Now;
use crate::decide::peer::Terms;
use crate::decide::settings::{self, Strategy};
use crate::limits::{GROUP_SERVERS_MAX, RULE_GROUPS_MAX, RULE_SERVERS_MAX, UPSTREAM_IDLE_US, UPSTREAM_IDLE_US_MIN};

/// A group's number within a worker; none is given twice while the process runs.
pub type GroupId = u32;

/// A group that is not there: it has no servers.
pub const NO_SERVERS: GroupId = 0;

/// A server, and the place where it is known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ServerRef {
    pub(super) slot: u32,
    /// Its number.
    pub id: ServerId,
}

/// A group, and the place where it is known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct GroupRef {
    pub(super) slot: u32,
    /// Its number.
    pub id: GroupId,
}

impl ServerRef {
    /// None.
    pub const NONE: ServerRef = ServerRef { slot: NOWHERE, id: ServerId::MAX };
}

impl GroupRef {
    /// None.
    pub const NONE: GroupRef = GroupRef { slot: NOWHERE, id: NO_SERVERS };
}

const NOWHERE: u32 = u32::MAX;

/// What is known of a group.
pub(super) struct Group {
    pub(super) id: GroupId,
    servers: [u32; GROUP_SERVERS_MAX],
    server_count: u8,
    pub(super) strategy: Strategy,
    pub(super) parallel: u8,
    pub(super) hedge_us: u64,
    /// As the configuration names it, resolved.
    pub(super) fallback: GroupId,
    /// See [`settings::Group::nxdomain_cut`].
    pub(super) nxdomain_cut: bool,
    /// How its servers are spoken to.
    pub(super) terms: Terms,
    /// Whose turn it is, for [`Strategy::RoundRobin`].
    pub(super) turn: u8,
    /// Exchanges in flight for its names.
    pub(super) open: u32,
    /// Whether the configuration names it: else it is among the idle ones, by its last use.
    is_configured: bool,
    /// A set of servers that rules name; found by it.
    is_of_rules: bool,
    used: Now,
    older: u32,
    newer: u32,
}

impl Group {
    fn new(id: GroupId) -> Self {
        Self {
            id,
            servers: [NOWHERE; GROUP_SERVERS_MAX],
            server_count: 0,
            strategy: Strategy::default(),
            parallel: 1,
            hedge_us: 0,
            fallback: NO_SERVERS,
            nxdomain_cut: true,
            terms: Terms::default(),
            turn: 0,
            open: 0,
            is_configured: false,
            is_of_rules: false,
            used: Now(0),
            older: NOWHERE,
            newer: NOWHERE,
        }
    }

    /// Places of its servers.
    pub(super) fn servers(&self) -> &[u32] {
        self.servers.get(..usize::from(self.server_count)).unwrap_or_default()
    }
}

/// There are too many servers or groups that rules name, all of them in use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NoRoom;

/// The servers and groups that one worker knows.
pub(super) struct Groups {
    pub(super) servers: Vec<Server>,
    free_servers: Vec<u32>,
    by_address: HashTable<u32>,
    pub(super) groups: Vec<Group>,
    free_groups: Vec<u32>,
    by_number: HashMap<GroupId, u32, RandomState>,
    /// Groups of the configuration.
    by_name: HashMap<String, u32, RandomState>,
    /// Groups made of the servers that a rule names, in its order.
    by_set: HashTable<u32>,
    hasher: RandomState,
    /// Number of the group of each class that names servers, once it has been used.
    class_groups: Vec<GroupId>,
    /// Ends of the list of groups that the configuration does not name, and how many they are.
    idlest: u32,
    busiest: u32,
    idle_count: usize,
    /// Servers that may be known at a time, and those that the configuration names.
    servers_max: usize,
    servers_named: usize,
    // The next numbers; none is ever given again.
    next_server: ServerId,
    next_group: GroupId,
}

impl Groups {
    /// None yet.
    pub(super) fn new(seeds: [u64; 4]) -> Self {
        let [a, b, c, d] = seeds;
        Self {
            servers: Vec::new(),
            free_servers: Vec::new(),
            by_address: HashTable::new(),
            groups: Vec::new(),
            free_groups: Vec::new(),
            by_number: HashMap::default(),
            by_name: HashMap::default(),
            by_set: HashTable::new(),
            hasher: RandomState::with_seeds(a, b, c, d),
            class_groups: Vec::new(),
            idlest: NOWHERE,
            busiest: NOWHERE,
            idle_count: 0,
            servers_max: 0,
            servers_named: 0,
            next_server: 0,
            next_group: NO_SERVERS + 1,
        }
    }

    /// Goes over to the groups of another configuration and to other rules, of so many classes. Groups that are named as
    /// before keep their numbers, and so do those of the same servers that rules name. Allocates.
    pub(super) fn switch(&mut self, configured: &[settings::Group], classes: usize) {
        self.drop_unnamed();
        self.take_memory(configured);
        let named_before = std::mem::take(&mut self.by_name);
        for group in configured {
            let known = named_before.get(&group.name).copied();
            let Some(slot) = known.or_else(|| self.new_group()) else { continue };
            self.configure(slot, group);
            self.by_name.insert(group.name.clone(), slot);
        }
        for group in configured {
            let fallback = group.fallback.as_ref().map_or(NO_SERVERS, |name| self.id_of(name));
            if let Some(group) = self.by_name.get(&group.name).and_then(|&slot| self.groups.get_mut(slot as usize)) {
                group.fallback = fallback;
            }
        }
        // Questions to it may be in flight: it is dropped when it has been idle.
        for (name, slot) in named_before {
            if !self.by_name.contains_key(&name)
                && let Some(group) = self.groups.get_mut(slot as usize)
            {
                group.is_configured = false;
                self.append(slot);
            }
        }
        self.class_groups = vec![NO_SERVERS; classes];
    }

    /// Classes from `first` to below `end` are others than before: their groups are found by their servers again.
    pub(super) fn set_live_classes(&mut self, first: usize, end: usize) {
        self.class_groups.truncate(first);
        self.class_groups.resize(end, NO_SERVERS);
    }

    /// Drops the groups that the last configuration did not name either.
    fn drop_unnamed(&mut self) {
        for slot in 0..self.groups.len() as u32 {
            let group = self.groups.get(slot as usize);
            if group.is_some_and(|group| {
                group.id != NO_SERVERS && !group.is_configured && !group.is_of_rules && group.open == 0
            }) {
                self.drop_group(slot);
            }
        }
    }

    /// Makes room for all servers and groups that there may be until the next switch.
    fn take_memory(&mut self, configured: &[settings::Group]) {
        let named: usize = configured.iter().map(|group| group.servers.len()).sum();
        self.servers_max = named + std::mem::replace(&mut self.servers_named, named) + RULE_SERVERS_MAX;
        let servers = self.servers_max.max(self.servers.len() - self.free_servers.len() + named);
        let groups = self.groups.len() - self.free_groups.len() + configured.len() + RULE_GROUPS_MAX;
        self.servers.reserve(servers.saturating_sub(self.servers.len()));
        self.free_servers.reserve(servers.saturating_sub(self.free_servers.len()));
        self.groups.reserve(groups.saturating_sub(self.groups.len()));
        self.free_groups.reserve(groups.saturating_sub(self.free_groups.len()));
        // Twice as much: a table more than half full would grow to be rid of what is gone.
        let Self { by_address, by_set, by_number, servers: known_servers, groups: known_groups, hasher, .. } = self;
        by_address.reserve((2 * servers).saturating_sub(by_address.len()), |&slot| {
            known_servers.get(slot as usize).map_or(0, |server| hasher.hash_one(server.address))
        });
        by_set.reserve((2 * groups).saturating_sub(by_set.len()), |&slot| {
            known_groups.get(slot as usize).map_or(0, |group| hash_of_set(hasher, known_servers, group))
        });
        by_number.reserve((2 * groups).saturating_sub(by_number.len()));
    }

    fn configure(&mut self, slot: u32, group: &settings::Group) {
        let before = self.groups.get(slot as usize).map(|known| (known.servers, known.server_count));
        self.fill(slot, &group.servers);
        if let Some((servers, count)) = before {
            servers.iter().take(usize::from(count)).for_each(|&server| self.release(server));
        }
        if let Some(known) = self.groups.get_mut(slot as usize) {
            known.strategy = group.strategy;
            known.parallel = if group.strategy == Strategy::Parallel { group.parallel } else { 1 };
            known.hedge_us = group.hedge_ms * 1_000;
            known.nxdomain_cut = group.nxdomain_cut;
            known.terms = group.terms;
            known.is_configured = true;
        }
    }

    /// Number of the configured group of this name; [`NO_SERVERS`] when there is none.
    pub(super) fn id_of(&self, name: &str) -> GroupId {
        let group = self.by_name.get(name).and_then(|&slot| self.groups.get(slot as usize));
        group.map_or(NO_SERVERS, |group| group.id)
    }

    /// Name of the configured group of this number.
    pub(super) fn name_of(&self, id: GroupId) -> Option<&str> {
        let slot = self.find(id)?.slot;
        self.by_name.iter().find(|(_, known)| **known == slot).map(|(name, _)| name.as_str())
    }

    /// Where the group of this number is.
    pub(super) fn find(&self, id: GroupId) -> Option<GroupRef> {
        self.by_number.get(&id).map(|&slot| GroupRef { slot, id })
    }

    /// The group of a class's own servers, made if need be. On the query path.
    pub(super) fn of_class(&mut self, class: ClassId, addresses: &[SocketAddr], now: Now) -> Result<GroupId, NoRoom> {
        self.drop_idle(now);
        let addresses = addresses.get(..GROUP_SERVERS_MAX).unwrap_or(addresses);
        let known = self.class_groups.get(class as usize).copied().unwrap_or(NO_SERVERS);
        if let Some(group) = self.find(known) {
            self.touch(group, now);
            return Ok(known);
        }
        let hash = self.hasher.hash_one(addresses);
        let Self { by_set, groups, servers, .. } = self;
        let is_it = |slot: &u32| groups.get(*slot as usize).is_some_and(|group| is_set(servers, group, addresses));
        if let Some(&slot) = by_set.find(hash, is_it) {
            let id = self.groups.get(slot as usize).map_or(NO_SERVERS, |group| group.id);
            self.touch(GroupRef { slot, id }, now);
            self.note_class(class, id);
            return Ok(id);
        }
        self.make_room(addresses, now)?;
        // The number of before, if it had one: what was cached under it is still its own.
        let slot = match known {
            NO_SERVERS => self.new_group(),
            known => Some(self.place_group(known)),
        };
        let slot = slot.ok_or(NoRoom)?;
        self.fill(slot, addresses);
        let Self { by_set, groups, servers, hasher, .. } = self;
        by_set.insert_unique(hash, slot, |&slot| {
            groups.get(slot as usize).map_or(0, |group| hash_of_set(hasher, servers, group))
        });
        let group = self.groups.get_mut(slot as usize).ok_or(NoRoom)?;
        group.is_of_rules = true;
        group.used = now;
        let id = group.id;
        self.append(slot);
        self.note_class(class, id);
        Ok(id)
    }

    fn note_class(&mut self, class: ClassId, group: GroupId) {
        if let Some(known) = self.class_groups.get_mut(class as usize) {
            *known = group;
        }
    }

    /// A question is asked of the group.
    pub(super) fn touch(&mut self, group: GroupRef, now: Now) {
        let Some(known) = self.groups.get_mut(group.slot as usize).filter(|known| known.id == group.id) else { return };
        known.used = now;
        if !known.is_configured && self.busiest != group.slot {
            self.unlink(group.slot);
            self.append(group.slot);
        }
    }

    /// A group that is there.
    pub(super) fn group(&self, group: GroupRef) -> Option<&Group> {
        self.groups.get(group.slot as usize).filter(|known| known.id == group.id)
    }

    /// A group that is there.
    pub(super) fn group_mut(&mut self, group: GroupRef) -> Option<&mut Group> {
        self.groups.get_mut(group.slot as usize).filter(|known| known.id == group.id)
    }

    /// A server that is there.
    pub(super) fn server(&self, server: ServerRef) -> Option<&Server> {
        self.servers.get(server.slot as usize).filter(|known| known.id == server.id && known.groups > 0)
    }

    /// A server that is there.
    pub(super) fn server_mut(&mut self, server: ServerRef) -> Option<&mut Server> {
        self.servers.get_mut(server.slot as usize).filter(|known| known.id == server.id && known.groups > 0)
    }

    /// Whether a server's place is taken.
    pub(super) fn server_at(&self, slot: u32) -> Option<ServerRef> {
        let server = self.servers.get(slot as usize).filter(|server| server.groups > 0)?;
        Some(ServerRef { slot, id: server.id })
    }

    /// How a server is spoken to on behalf of no group: as the first one that it is in wants it. Walks all groups: for the
    /// rare probe only.
    pub(super) fn terms_of(&self, server: u32) -> Terms {
        let group = self.groups.iter().find(|group| group.servers().contains(&server));
        group.map_or_else(Terms::default, |group| group.terms)
    }

    /// Names of the configured groups that a server is in.
    pub(super) fn names_of(&self, server: u32) -> impl Iterator<Item = &str> {
        let is_in = move |slot: &u32| {
            self.groups.get(*slot as usize).is_some_and(|group: &Group| group.servers().contains(&server))
        };
        self.by_name.iter().filter(move |(_, slot)| is_in(slot)).map(|(name, _)| name.as_str())
    }

    /// Groups that rules have named and that are still known.
    pub(super) fn idle_count(&self) -> usize {
        self.idle_count
    }

    /// Drops the idlest group if nobody has asked it for long; one a call, for each question makes at most one.
    fn drop_idle(&mut self, now: Now) {
        if self.idlest_since().is_some_and(|used| used.plus_us(UPSTREAM_IDLE_US) <= now) {
            self.drop_group(self.idlest);
        }
    }

    /// Since when the idlest group has not been asked anything; none when there is none without a question in flight.
    fn idlest_since(&self) -> Option<Now> {
        self.groups.get(self.idlest as usize).filter(|group| group.open == 0).map(|group| group.used)
    }

    /// Drops idle groups until there is room for one more with these servers.
    fn make_room(&mut self, addresses: &[SocketAddr], now: Now) -> Result<(), NoRoom> {
        for _ in 0..=RULE_GROUPS_MAX {
            let known = self.servers.len() - self.free_servers.len();
            if self.idle_count < RULE_GROUPS_MAX && known + addresses.len() <= self.servers_max {
                return Ok(());
            }
            match self.idlest_since() {
                Some(used) if used.plus_us(UPSTREAM_IDLE_US_MIN) <= now => self.drop_group(self.idlest),
                _ => return Err(NoRoom),
            }
        }
        Err(NoRoom)
    }

    fn drop_group(&mut self, slot: u32) {
        self.unlink(slot);
        let Some(group) = self.groups.get(slot as usize) else { return };
        let (id, servers, count) = (group.id, group.servers, group.server_count);
        if group.is_of_rules
            && let Ok(found) =
                self.by_set.find_entry(hash_of_set(&self.hasher, &self.servers, group), |&other| other == slot)
        {
            found.remove();
        }
        self.by_number.remove(&id);
        if let Some(group) = self.groups.get_mut(slot as usize) {
            *group = Group::new(NO_SERVERS);
        }
        servers.iter().take(usize::from(count)).for_each(|&server| self.release(server));
        self.free_groups.push(slot);
    }

    /// A place for a new group; none when all numbers have been given, which is after billions of them.
    fn new_group(&mut self) -> Option<u32> {
        let id = self.next_group;
        self.next_group = id.checked_add(1)?;
        Some(self.place_group(id))
    }

    fn place_group(&mut self, id: GroupId) -> u32 {
        let slot = self.free_groups.pop().unwrap_or_else(|| {
            self.groups.push(Group::new(id));
            self.groups.len() as u32 - 1
        });
        if let Some(place) = self.groups.get_mut(slot as usize) {
            *place = Group::new(id);
        }
        self.by_number.insert(id, slot);
        slot
    }

    fn fill(&mut self, slot: u32, addresses: &[SocketAddr]) {
        let mut servers = [NOWHERE; GROUP_SERVERS_MAX];
        let mut count = 0u8;
        for &address in addresses {
            let Some(place) = servers.get_mut(usize::from(count)) else { break };
            let Some(server) = self.acquire(address) else { break };
            *place = server;
            count += 1;
        }
        if let Some(group) = self.groups.get_mut(slot as usize) {
            (group.servers, group.server_count) = (servers, count);
        }
    }

    /// The place of the server at this address, which one more group is now in.
    fn acquire(&mut self, address: SocketAddr) -> Option<u32> {
        let hash = self.hasher.hash_one(address);
        let Self { by_address, servers, .. } = self;
        let is_it = |slot: &u32| servers.get(*slot as usize).is_some_and(|server| server.address == address);
        let slot = match by_address.find(hash, is_it) {
            Some(&slot) => slot,
            None => self.place_server(address, hash)?,
        };
        self.servers.get_mut(slot as usize)?.groups += 1;
        Some(slot)
    }

    fn place_server(&mut self, address: SocketAddr, hash: u64) -> Option<u32> {
        let id = self.next_server;
        self.next_server = id.checked_add(1)?;
        let server = Server::new(id, address);
        let slot = match self.free_servers.pop() {
            Some(slot) => {
                *self.servers.get_mut(slot as usize)? = server;
                slot
            }
            None => {
                self.servers.push(server);
                self.servers.len() as u32 - 1
            }
        };
        let Self { by_address, servers, hasher, .. } = self;
        by_address.insert_unique(hash, slot, |&slot| {
            servers.get(slot as usize).map_or(0, |server| hasher.hash_one(server.address))
        });
        Some(slot)
    }

    /// One group less is in this server; with the last one it is forgotten.
    fn release(&mut self, slot: u32) {
        let Some(server) = self.servers.get_mut(slot as usize) else { return };
        server.groups = server.groups.saturating_sub(1);
        if server.groups > 0 {
            return;
        }
        let hash = self.hasher.hash_one(server.address);
        if let Ok(found) = self.by_address.find_entry(hash, |&other| other == slot) {
            found.remove();
            self.free_servers.push(slot);
        }
    }

    /// Puts a group at the busy end of those that the configuration does not name.
    fn append(&mut self, slot: u32) {
        let busiest = std::mem::replace(&mut self.busiest, slot);
        if let Some(group) = self.groups.get_mut(slot as usize) {
            (group.older, group.newer) = (busiest, NOWHERE);
        }
        match self.groups.get_mut(busiest as usize) {
            Some(group) => group.newer = slot,
            None => self.idlest = slot,
        }
        self.idle_count += 1;
    }

    fn unlink(&mut self, slot: u32) {
        let Some(group) = self.groups.get(slot as usize) else { return };
        let (older, newer) = (group.older, group.newer);
        match self.groups.get_mut(older as usize) {
            Some(group) => group.newer = newer,
            None => self.idlest = newer,
        }
        match self.groups.get_mut(newer as usize) {
            Some(group) => group.older = older,
            None => self.busiest = older,
        }
        self.idle_count -= 1;
    }
}

fn address_of(servers: &[Server], slot: u32) -> Option<SocketAddr> {
    servers.get(slot as usize).map(|server| server.address)
}

fn is_set(servers: &[Server], group: &Group, addresses: &[SocketAddr]) -> bool {
    group.is_of_rules
        && group.servers().len() == addresses.len()
        && group.servers().iter().zip(addresses).all(|(&slot, address)| address_of(servers, slot) == Some(*address))
}

/// As that of the addresses themselves.
fn hash_of_set(hasher: &RandomState, servers: &[Server], group: &Group) -> u64 {
    let nobody = SocketAddr::from(([0, 0, 0, 0], 0));
    let mut addresses = [nobody; GROUP_SERVERS_MAX];
    for (place, &slot) in addresses.iter_mut().zip(group.servers()) {
        *place = address_of(servers, slot).unwrap_or(nobody);
    }
    hasher.hash_one(addresses.get(..group.servers().len()).unwrap_or_default())
}

#[cfg(test)]
mod tests;
