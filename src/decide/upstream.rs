//! Stage 8, upstream: which servers there are, which one is asked next, and what a question to it looks like.
//!
//! Invariants: no number of a server or group is given twice while the process runs, for cached answers are partitioned by
//! the group and sockets belong to a server. At most [`RULE_SERVERS_MAX`] servers in [`RULE_GROUPS_MAX`] sets are known
//! because rules name them, beside those of the configuration, which come first and are never left out. What two reloads
//! have not named is forgotten.

use std::net::SocketAddr;

use ahash::RandomState;
use corewall_sharding::name::{NAME_BYTES_MAX, Name};
use corewall_sharding::rule::Class;
use hashbrown::HashMap;
use rand::Rng;

use super::Now;
use super::settings::Group;
use crate::limits::{
    GROUP_SERVERS_MAX, HEADER_BYTES, OPT_BYTES_MIN, RULE_GROUPS_MAX, RULE_SERVERS_MAX, UDP_PAYLOAD_BYTES_MAX,
};

/// A server's number within a worker; it keeps it over reloads.
pub type ServerId = u32;
/// A group's number within a worker; it keeps it over reloads.
pub type GroupId = u32;

/// A group without servers that is always there.
pub const NO_SERVERS: GroupId = GroupId::MAX;

/// Microseconds that a server which did not answer stands behind the others.
const SERVER_PENALTY_US: u64 = 5_000_000;

/// Bytes of the largest question we send.
pub const REQUEST_BYTES_MAX: usize = HEADER_BYTES + NAME_BYTES_MAX + 4 + OPT_BYTES_MIN;

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

/// What is known of a server.
struct Server {
    address: SocketAddr,
    /// Not asked first before then.
    failing_until: Now,
    /// The last switch that named it.
    named: u64,
}

/// What is known of a group.
struct Servers {
    servers: Vec<ServerId>,
    /// See [`Group::nxdomain_cut`].
    nxdomain_cut: bool,
    /// The last switch that named it.
    named: u64,
}

/// The servers and groups that one worker knows. Allocates at start and reload only.
pub struct Upstreams {
    servers: HashMap<ServerId, Server, RandomState>,
    groups: HashMap<GroupId, Servers, RandomState>,
    by_address: HashMap<SocketAddr, ServerId, RandomState>,
    /// Groups of the configuration.
    by_name: HashMap<String, GroupId, RandomState>,
    /// Groups made of the servers that a rule names, in its order.
    by_servers: HashMap<Vec<SocketAddr>, GroupId, RandomState>,
    /// Switches so far.
    switches: u64,
    /// Servers and sets of them that the last switch named for rules alone.
    rule_servers: usize,
    rule_groups: usize,
    left_out: usize,
    // The next numbers; none is ever given again.
    next_server: ServerId,
    next_group: GroupId,
}

impl Upstreams {
    /// None yet.
    pub fn new() -> Self {
        Self {
            servers: HashMap::default(),
            groups: HashMap::default(),
            by_address: HashMap::default(),
            by_name: HashMap::default(),
            by_servers: HashMap::default(),
            switches: 0,
            rule_servers: 0,
            rule_groups: 0,
            left_out: 0,
            next_server: 0,
            next_group: 0,
        }
    }

    /// Goes over to the groups of another configuration and the servers that other rules name. Returns the group of each
    /// class that names servers. A bounded number of steps a class, for the worker's queries wait meanwhile.
    ///
    /// What nobody names any more is kept until the next switch: questions to it may be in flight.
    pub fn switch(&mut self, configured: &[Group], classes: &[Class]) -> Vec<Option<GroupId>> {
        self.switches += 1;
        (self.rule_servers, self.rule_groups, self.left_out) = (0, 0, 0);
        for Group { name, servers, nxdomain_cut } in configured {
            let servers = servers.iter().filter_map(|&address| self.server(address, usize::MAX)).collect();
            let group = self.by_name.get(name).copied().or_else(|| {
                let group = self.new_group()?;
                self.by_name.insert(name.clone(), group);
                Some(group)
            });
            self.name_group(group.unwrap_or(NO_SERVERS), servers, *nxdomain_cut);
        }
        let mut group_of = |class: &Class| (!class.servers.is_empty()).then(|| self.group_of_rule(&class.servers));
        let class_groups = classes.iter().map(&mut group_of).collect();
        self.forget_unnamed();
        class_groups
    }

    /// Whether an NXDOMAIN of this group holds for all names below (RFC 8020).
    pub fn cuts_at_nxdomain(&self, group: GroupId) -> bool {
        self.groups.get(&group).is_some_and(|group| group.nxdomain_cut)
    }

    /// The configured group of this name; one that is not configured has no servers.
    pub fn group(&self, name: &str) -> GroupId {
        let is_named = |group: &&GroupId| self.groups.get(*group).is_some_and(|known| known.named == self.switches);
        self.by_name.get(name).filter(is_named).copied().unwrap_or(NO_SERVERS)
    }

    /// The name of a configured group.
    pub fn group_name(&self, group: GroupId) -> Option<&str> {
        self.by_name.iter().find(|(_, known)| **known == group).map(|(name, _)| name.as_str())
    }

    /// Classes of the last switch some of whose servers are not known, for there are too many.
    pub fn left_out(&self) -> usize {
        self.left_out
    }

    /// The group of a forwarding rule's own servers.
    fn group_of_rule(&mut self, addresses: &[SocketAddr]) -> GroupId {
        let addresses = addresses.get(..GROUP_SERVERS_MAX).unwrap_or(addresses);
        let known = self.by_servers.get(addresses).copied();
        if let Some(group) = known.filter(|group| self.groups.get(group).is_some_and(|it| it.named == self.switches)) {
            let is_short = self.server_count(group) < addresses.len();
            self.left_out += usize::from(is_short);
            return group;
        }
        if self.rule_groups >= RULE_GROUPS_MAX {
            self.left_out += 1;
            return NO_SERVERS;
        }
        let servers: Vec<ServerId> =
            addresses.iter().filter_map(|&address| self.server(address, RULE_SERVERS_MAX)).collect();
        self.left_out += usize::from(servers.len() < addresses.len());
        let Some(group) = known.or_else(|| self.new_group()) else { return NO_SERVERS };
        if known.is_none() {
            self.by_servers.insert(addresses.to_vec(), group);
        }
        self.rule_groups += 1;
        self.name_group(group, servers, true);
        group
    }

    fn name_group(&mut self, group: GroupId, servers: Vec<ServerId>, nxdomain_cut: bool) {
        if group != NO_SERVERS {
            self.groups.insert(group, Servers { servers, nxdomain_cut, named: self.switches });
        }
    }

    /// A number for a group; none when all have been given, which is after billions of sets of servers.
    fn new_group(&mut self) -> Option<GroupId> {
        let group = Some(self.next_group).filter(|&group| group != NO_SERVERS)?;
        self.next_group += 1;
        Some(group)
    }

    /// The number of a server; none when it would be one more than `rule_servers_max` that only rules name.
    fn server(&mut self, address: SocketAddr, rule_servers_max: usize) -> Option<ServerId> {
        let known = self.by_address.get(&address).copied();
        let entry = known.and_then(|server| self.servers.get_mut(&server));
        if entry.as_ref().is_some_and(|server| server.named == self.switches) {
            return known;
        }
        let is_of_rule = rule_servers_max != usize::MAX;
        if is_of_rule && self.rule_servers >= rule_servers_max {
            return None;
        }
        let id = match (known, entry) {
            (Some(id), Some(server)) => {
                server.named = self.switches;
                id
            }
            _ => {
                let id = self.next_server;
                self.next_server = id.checked_add(1)?;
                self.by_address.insert(address, id);
                self.servers.insert(id, Server { address, failing_until: Now(0), named: self.switches });
                id
            }
        };
        self.rule_servers += usize::from(is_of_rule);
        Some(id)
    }

    fn forget_unnamed(&mut self) {
        let Self { servers, groups, by_address, by_name, by_servers, switches, .. } = self;
        servers.retain(|_, server| server.named + 1 >= *switches);
        groups.retain(|_, group| group.named + 1 >= *switches);
        by_address.retain(|_, server| servers.contains_key(server));
        by_name.retain(|_, group| groups.contains_key(group));
        by_servers.retain(|_, group| groups.contains_key(group));
    }

    /// A server's address.
    pub fn address(&self, server: ServerId) -> Option<SocketAddr> {
        self.servers.get(&server).map(|server| server.address)
    }

    /// Servers of a group.
    pub fn server_count(&self, group: GroupId) -> usize {
        self.groups.get(&group).map_or(0, |group| group.servers.len())
    }

    /// Whom to ask next for a question that `tried` have been asked for already: in the order of the group, but servers that
    /// failed lately stand behind the others. When all were asked it begins again. Notes the choice in `tried`.
    pub fn choose(&self, group: GroupId, tried: &mut Tried, now: Now) -> Option<ServerId> {
        let servers = &self.groups.get(&group)?.servers;
        // A reload may have taken servers away.
        if (0..servers.len()).all(|place| tried.has(place)) {
            *tried = Tried::default();
        }
        let untried = || servers.iter().enumerate().filter(|(place, _)| !tried.has(*place));
        let is_healthy = |id: &ServerId| self.servers.get(id).is_none_or(|server| server.failing_until <= now);
        let (place, server) = untried().find(|(_, id)| is_healthy(id)).or_else(|| untried().next())?;
        let server = *server;
        tried.add(place);
        Some(server)
    }

    /// The server did not answer in time, or could not be reached.
    pub fn note_failure(&mut self, server: ServerId, now: Now) {
        if let Some(server) = self.servers.get_mut(&server) {
            server.failing_until = now.plus_us(SERVER_PENALTY_US);
        }
    }

    /// The server answered.
    pub fn note_answer(&mut self, server: ServerId) {
        if let Some(server) = self.servers.get_mut(&server) {
            server.failing_until = Now(0);
        }
    }
}

impl Default for Upstreams {
    fn default() -> Self {
        Self::new()
    }
}

/// Writes a question to an upstream: RD set, CD not (the upstream is to validate), an OPT record of our own with DO as the
/// client wants it (OPT is rebuilt, never passed on). Returns its length.
pub fn write_request(id: u16, name: &Name, qtype: u16, qclass: u16, dnssec_ok: bool, out: &mut [u8]) -> usize {
    let mut at = 0usize;
    let mut put = |octets: &[u8]| {
        if let Some(place) = out.get_mut(at..at + octets.len()) {
            place.copy_from_slice(octets);
            at += octets.len();
        }
    };
    put(&id.to_be_bytes());
    // RD; AD asks the upstream to say whether it validated (RFC 6840 §5.7).
    put(&[0x01, 0x20, 0, 1, 0, 0, 0, 0, 0, 1]);
    put(name.as_wire());
    put(&qtype.to_be_bytes());
    put(&qclass.to_be_bytes());
    put(&[0, 0, 41]);
    put(&(UDP_PAYLOAD_BYTES_MAX as u16).to_be_bytes());
    put(&[0, 0, if dnssec_ok { 0x80 } else { 0 }, 0, 0, 0]);
    at
}

/// Unpredictable ids and source ports, from a generator that its worker alone uses (RFC 5452 §9.2).
pub struct Chance(rand::rngs::StdRng);

impl Chance {
    /// From a seed: the kernel's randomness, or a test's.
    pub fn new(seed: [u8; 32]) -> Self {
        use rand::SeedableRng;
        Self(rand::rngs::StdRng::from_seed(seed))
    }

    /// A message id.
    pub fn id(&mut self) -> u16 {
        (self.0.next_u32() >> 16) as u16
    }

    /// A number below `bound`, which is small.
    pub fn below(&mut self, bound: u16) -> u16 {
        ((u64::from(self.0.next_u32()) * u64::from(bound)) >> 32) as u16
    }

    /// Seeds for hash tables.
    pub fn seeds(&mut self) -> [u64; 4] {
        [self.0.next_u64(), self.0.next_u64(), self.0.next_u64(), self.0.next_u64()]
    }
}

#[cfg(test)]
mod tests {
    use corewall_sharding::rule::{Kind, Scope};

    use super::*;

    fn group(name: &str, servers: &[&str]) -> Group {
        let servers = servers.iter().map(|server| server.parse().unwrap()).collect();
        Group { name: name.to_owned(), servers, nxdomain_cut: true }
    }

    #[test]
    fn servers_are_tried_in_order_and_failing_ones_last() {
        let mut upstreams = Upstreams::new();
        upstreams.switch(&[group("default", &["192.0.2.1:53", "192.0.2.2:53", "192.0.2.3:53"])], &[]);
        let id = upstreams.group("default");
        let order = |upstreams: &Upstreams, now| -> Vec<_> {
            let mut tried = Tried::default();
            (0..4).map(|_| upstreams.choose(id, &mut tried, now).unwrap()).collect()
        };
        assert_eq!(order(&upstreams, Now(0)), [0, 1, 2, 0]);
        upstreams.note_failure(0, Now(0));
        assert_eq!(order(&upstreams, Now(1)), [1, 2, 0, 1]);
        assert_eq!(order(&upstreams, Now(SERVER_PENALTY_US)), [0, 1, 2, 0], "a failure is forgiven in time");
        upstreams.note_failure(0, Now(SERVER_PENALTY_US));
        upstreams.note_answer(0);
        assert_eq!(order(&upstreams, Now(SERVER_PENALTY_US + 1)), [0, 1, 2, 0], "and by an answer at once");
    }

    #[test]
    fn a_server_that_fails_while_a_question_is_tried_is_not_asked_for_it_again_before_the_others() {
        let mut upstreams = Upstreams::new();
        upstreams.switch(&[group("default", &["192.0.2.1:53", "192.0.2.2:53", "192.0.2.3:53"])], &[]);
        let id = upstreams.group("default");
        let mut tried = Tried::default();
        let mut order = Vec::new();
        for _ in 0..4 {
            let server = upstreams.choose(id, &mut tried, Now(0)).unwrap();
            upstreams.note_failure(server, Now(0));
            order.push(server);
        }
        assert_eq!(order, [0, 1, 2, 0]);
    }

    fn class(servers: &[SocketAddr]) -> Class {
        Class { servers: servers.to_vec(), ..Class::plain(Kind::ForwardAllow, Scope::Subtree, 0) }
    }

    fn address(number: usize) -> SocketAddr {
        SocketAddr::from(([10, 0, (number >> 8) as u8, number as u8], 53))
    }

    /// Each class names one server, of these numbers.
    fn classes(servers: std::ops::Range<usize>) -> Vec<Class> {
        servers.map(|number| class(&[address(number)])).collect()
    }

    #[test]
    fn numbers_of_servers_and_groups_outlive_a_reload() {
        let mut upstreams = Upstreams::new();
        let rules = [class(&["192.0.2.2:53".parse().unwrap()])];
        let both = [group("default", &["192.0.2.1:53"]), group("allow", &["192.0.2.2:53"])];
        let before = upstreams.switch(&both, &rules);
        let (default, allow) = (upstreams.group("default"), upstreams.group("allow"));
        let after = upstreams.switch(&[group("default", &["192.0.2.3:53"])], &rules);
        assert_eq!((upstreams.group("default"), after), (default, before.clone()));
        let choose = |group| upstreams.choose(group, &mut Tried::default(), Now(0));
        assert_eq!(choose(default).and_then(|server| upstreams.address(server)), "192.0.2.3:53".parse().ok());
        assert_eq!(
            choose(before[0].unwrap()).and_then(|server| upstreams.address(server)),
            "192.0.2.2:53".parse().ok()
        );
        assert_eq!(upstreams.group("allow"), NO_SERVERS, "a group that is configured no more has no servers");
        assert_eq!(choose(NO_SERVERS), None);
        assert_eq!(upstreams.server_count(allow), 1, "but a question to it may be in flight");
    }

    #[test]
    fn what_two_reloads_do_not_name_is_forgotten_and_its_number_not_given_again() {
        let mut upstreams = Upstreams::new();
        let mut given = std::collections::HashSet::new();
        for reload in 0..100 {
            let groups = upstreams.switch(&[], &classes(10 * reload..10 * reload + 10));
            assert!(groups.into_iter().all(|group| given.insert(group.unwrap())), "a number was given twice");
            let known = (upstreams.servers.len(), upstreams.groups.len(), upstreams.by_servers.len());
            assert_eq!(known, if reload == 0 { (10, 10, 10) } else { (20, 20, 20) });
            assert_eq!(upstreams.by_address.len(), known.0);
        }
        assert_eq!(given.len(), 1_000);
    }

    #[test]
    fn rules_cannot_displace_the_servers_of_the_configuration_and_those_left_out_are_counted() {
        let mut upstreams = Upstreams::new();
        let groups = upstreams.switch(&[group("default", &["192.0.2.1:53"])], &classes(0..RULE_SERVERS_MAX + 9));
        assert_eq!(upstreams.left_out(), 9);
        assert_eq!(upstreams.server_count(upstreams.group("default")), 1);
        assert!(groups[..RULE_SERVERS_MAX].iter().all(|group| upstreams.server_count(group.unwrap()) == 1));
        let without = &groups[RULE_SERVERS_MAX..];
        assert!(without.iter().all(|group| upstreams.server_count(group.unwrap()) == 0), "not sent elsewhere");
        // Those of the last rules do not hold the places of the next ones.
        upstreams.switch(&[], &classes(RULE_SERVERS_MAX..2 * RULE_SERVERS_MAX));
        assert_eq!(upstreams.left_out(), 0);
    }

    #[test]
    fn more_sets_of_servers_than_groups_are_left_out_and_get_no_other_sets_servers() {
        let mut upstreams = Upstreams::new();
        // Pairs of 400 servers: 70,000 sets, more than two octets count.
        let pairs = (0..400).flat_map(|a| (0..175).map(move |b| class(&[address(a), address(400 + b)])));
        let classes: Vec<Class> = pairs.collect();
        let groups = upstreams.switch(&[], &classes);
        assert_eq!(upstreams.left_out(), 70_000 - RULE_GROUPS_MAX);
        assert_eq!(upstreams.groups.len(), RULE_GROUPS_MAX);
        for (class, group) in classes.iter().zip(&groups).take(RULE_GROUPS_MAX) {
            let first = upstreams.choose(group.unwrap(), &mut Tried::default(), Now(0)).unwrap();
            assert_eq!(upstreams.address(first), class.servers.first().copied());
        }
        assert!(groups[RULE_GROUPS_MAX..].iter().all(|group| *group == Some(NO_SERVERS)));
    }

    #[test]
    fn a_request_is_a_question_with_an_opt_record_of_ours() {
        let mut out = [0; REQUEST_BYTES_MAX];
        let bytes = write_request(0x1234, &"a.example".parse().unwrap(), 28, 1, true, &mut out);
        assert_eq!(
            &out[..bytes],
            b"\x12\x34\x01\x20\0\x01\0\0\0\0\0\x01\x01a\x07example\0\0\x1c\0\x01\0\0\x29\x04\xd0\0\0\x80\0\0\0"
        );
        let longest: Name =
            [&*"a".repeat(63), &"b".repeat(63), &"c".repeat(63), &"d".repeat(61)].join(".").parse().unwrap();
        assert_eq!(write_request(1, &longest, 1, 1, false, &mut out), REQUEST_BYTES_MAX);
    }

    #[test]
    fn ids_and_sockets_use_their_whole_range() {
        let mut chance = Chance::new([7; 32]);
        let ids: std::collections::HashSet<u16> = (0..10_000).map(|_| chance.id()).collect();
        assert!(ids.len() > 9_000, "{} different ids", ids.len());
        let sockets: std::collections::HashSet<u16> = (0..1_000).map(|_| chance.below(16)).collect();
        assert_eq!(sockets.len(), 16);
    }
}
