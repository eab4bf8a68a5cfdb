//! Stage 8, upstream: which servers there are, which one is asked next, and what a question to it looks like.

use std::net::SocketAddr;

use corewall_sharding::name::{NAME_BYTES_MAX, Name};
use rand::Rng;

use super::Now;
use super::settings::Group;
use crate::limits::{GROUP_SERVERS_MAX, HEADER_BYTES, OPT_BYTES_MIN, SERVERS_MAX, UDP_PAYLOAD_BYTES_MAX};

/// A server's number within a worker; it keeps it over reloads.
pub type ServerId = u32;
/// A group's number within a worker; it keeps it over reloads, for cached answers are partitioned by it.
pub type GroupId = u16;

const _: () = assert!(GROUP_SERVERS_MAX <= u16::BITS as usize, "a bit for each server of a group");

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

struct Server {
    address: SocketAddr,
    /// Not asked first before then.
    failing_until: Now,
}

struct Servers {
    name: String,
    servers: Vec<ServerId>,
}

/// The servers and groups that one worker knows. Grows at start and reload only.
pub struct Upstreams {
    servers: Vec<Server>,
    groups: Vec<Servers>,
}

impl Upstreams {
    /// None yet.
    pub fn new() -> Self {
        Self { servers: Vec::new(), groups: Vec::new() }
    }

    /// Takes over the groups of a configuration; one that has gone loses its servers.
    pub fn configure(&mut self, groups: &[Group]) {
        for known in self.groups.iter_mut().filter(|group| !group.name.starts_with(RULE_GROUP)) {
            known.servers.clear();
        }
        for Group { name, servers } in groups {
            self.set(name, servers);
        }
    }

    /// The group of a forwarding rule's own servers.
    pub fn group_of_rule(&mut self, servers: &[SocketAddr]) -> GroupId {
        let mut name = String::from(RULE_GROUP);
        for server in servers.iter().take(GROUP_SERVERS_MAX) {
            name.push_str(&server.to_string());
            name.push(' ');
        }
        self.set(&name, servers)
    }

    /// The group of this name; one that is not configured has no servers.
    pub fn group(&mut self, name: &str) -> GroupId {
        let known = self.groups.iter().position(|group| group.name == name);
        known.map_or_else(|| self.set(name, &[]), |index| index as GroupId)
    }

    fn set(&mut self, name: &str, addresses: &[SocketAddr]) -> GroupId {
        let servers: Vec<ServerId> =
            addresses.iter().take(GROUP_SERVERS_MAX).filter_map(|&address| self.server(address)).collect();
        if let Some(index) = self.groups.iter().position(|group| group.name == name) {
            if let Some(group) = self.groups.get_mut(index) {
                group.servers = servers;
            }
            return index as GroupId;
        }
        self.groups.push(Servers { name: name.to_owned(), servers });
        (self.groups.len() - 1) as GroupId
    }

    fn server(&mut self, address: SocketAddr) -> Option<ServerId> {
        if let Some(known) = self.servers.iter().position(|server| server.address == address) {
            return Some(known as ServerId);
        }
        if self.servers.len() >= SERVERS_MAX {
            return None;
        }
        self.servers.push(Server { address, failing_until: Now(0) });
        Some((self.servers.len() - 1) as ServerId)
    }

    /// A server's address.
    pub fn address(&self, server: ServerId) -> Option<SocketAddr> {
        self.servers.get(server as usize).map(|server| server.address)
    }

    /// Servers of a group.
    pub fn server_count(&self, group: GroupId) -> usize {
        self.groups.get(usize::from(group)).map_or(0, |group| group.servers.len())
    }

    /// Whom to ask next for a question that `tried` have been asked for already: in the order of the group, but servers that
    /// failed lately stand behind the others. When all were asked it begins again. Notes the choice in `tried`.
    pub fn choose(&self, group: GroupId, tried: &mut Tried, now: Now) -> Option<ServerId> {
        let servers = &self.groups.get(usize::from(group))?.servers;
        // A reload may have taken servers away.
        if (0..servers.len()).all(|place| tried.has(place)) {
            *tried = Tried::default();
        }
        let untried = || servers.iter().enumerate().filter(|(place, _)| !tried.has(*place));
        let is_healthy =
            |id: &ServerId| self.servers.get(*id as usize).is_none_or(|server| server.failing_until <= now);
        let (place, server) = untried().find(|(_, id)| is_healthy(id)).or_else(|| untried().next())?;
        let server = *server;
        tried.add(place);
        Some(server)
    }

    /// The server did not answer in time, or could not be reached.
    pub fn note_failure(&mut self, server: ServerId, now: Now) {
        if let Some(server) = self.servers.get_mut(server as usize) {
            server.failing_until = now.plus_us(SERVER_PENALTY_US);
        }
    }

    /// The server answered.
    pub fn note_answer(&mut self, server: ServerId) {
        if let Some(server) = self.servers.get_mut(server as usize) {
            server.failing_until = Now(0);
        }
    }
}

impl Default for Upstreams {
    fn default() -> Self {
        Self::new()
    }
}

/// Before the name of a group made of a rule's servers; no configured name can begin with a space.
const RULE_GROUP: &str = " ";

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
    use super::*;

    fn group(name: &str, servers: &[&str]) -> Group {
        Group { name: name.to_owned(), servers: servers.iter().map(|server| server.parse().unwrap()).collect() }
    }

    #[test]
    fn servers_are_tried_in_order_and_failing_ones_last() {
        let mut upstreams = Upstreams::new();
        upstreams.configure(&[group("default", &["192.0.2.1:53", "192.0.2.2:53", "192.0.2.3:53"])]);
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
        upstreams.configure(&[group("default", &["192.0.2.1:53", "192.0.2.2:53", "192.0.2.3:53"])]);
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

    #[test]
    fn numbers_of_servers_and_groups_outlive_a_reload() {
        let mut upstreams = Upstreams::new();
        upstreams.configure(&[group("default", &["192.0.2.1:53"]), group("allow", &["192.0.2.2:53"])]);
        let (default, allow) = (upstreams.group("default"), upstreams.group("allow"));
        let rule = upstreams.group_of_rule(&["192.0.2.2:53".parse().unwrap()]);
        upstreams.configure(&[group("default", &["192.0.2.3:53"])]);
        assert_eq!((upstreams.group("default"), upstreams.group("allow")), (default, allow));
        assert_eq!(upstreams.server_count(allow), 0, "a group that is configured no more has no servers");
        assert_eq!(upstreams.server_count(rule), 1);
        let choose = |group| upstreams.choose(group, &mut Tried::default(), Now(0));
        assert_eq!(choose(default).and_then(|server| upstreams.address(server)), "192.0.2.3:53".parse().ok());
        assert_eq!(choose(allow), None);
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
