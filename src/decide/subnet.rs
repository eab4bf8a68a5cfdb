//! Client subnet (RFC 7871): what a client says of its network, what of it an upstream is told, and whom an answer is for.
//!
//! Invariants: a [`ClientSubnet`] is well-formed, octet for octet, so that it can be echoed. A [`Network`] holds at most
//! [`NETWORK_V4_BITS_MAX`] or [`NETWORK_V6_BITS_MAX`] bits of an address and never more than the client itself gave: it is
//! what an upstream may learn, what equal questions are told apart by, and what cached answers are kept under.
//!
//! | in mode | client | upstream is told | its answer is kept for |
//! |---|---|---|---|
//! | drop | any | nothing | all |
//! | forward | sent its network | that, shortened | that network; all, if the server says so |
//! | forward | sent source 0: wants none told | source 0 | those who want none told |
//! | forward | sent nothing | nothing | those of whom nothing is told |
//! | set | has a public address | its network | that network; all, if the server says so |
//! | set | has a private address | nothing | those of whom nothing is told |
//!
//! The last rows are kept apart from "all" on purpose: a server that is told nothing may still tailor its answer to our own
//! address, which must not become everybody's (RFC 7871 §7.3.1 for source 0).

use std::net::IpAddr;
use std::num::NonZeroU64;

use super::wire::option;
use crate::limits::{NETWORK_V4_BITS_MAX, NETWORK_V6_BITS_MAX};

/// Octets of an option in front of its address: code, length, family, source, scope (RFC 7871 §6).
const FIXED_BYTES: usize = 8;
/// Octets of the longest option that a client is answered with.
pub const CLIENT_SUBNET_BYTES_MAX: usize = FIXED_BYTES + 16;
/// Octets of the longest option that an upstream is sent.
pub const NETWORK_BYTES_MAX: usize = FIXED_BYTES + (NETWORK_V6_BITS_MAX as usize).div_ceil(8);

/// FAMILY numbers (IANA Address Family Numbers).
const FAMILY_NONE: u8 = 0;
const FAMILY_V4: u8 = 1;
const FAMILY_V6: u8 = 2;

/// What is done with client subnets towards an upstream group.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum SubnetMode {
    /// Clients' options are passed over, none is sent.
    #[default]
    Drop,
    /// A client's own option is sent on, shortened; none is made up.
    Forward,
    /// The network of the client's address is sent.
    Set,
}

/// Which networks an upstream group is told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SubnetPolicy {
    /// What is done with them.
    pub mode: SubnetMode,
    /// Bits of an IPv4 address that are told, at most [`NETWORK_V4_BITS_MAX`].
    pub v4_bits: u8,
    /// The same for IPv6, at most [`NETWORK_V6_BITS_MAX`].
    pub v6_bits: u8,
}

impl Default for SubnetPolicy {
    fn default() -> Self {
        Self::USUAL
    }
}

impl SubnetPolicy {
    /// That of a configuration that says nothing.
    pub const USUAL: SubnetPolicy =
        SubnetPolicy { mode: SubnetMode::Drop, v4_bits: NETWORK_V4_BITS_MAX, v6_bits: NETWORK_V6_BITS_MAX };

    /// What is told of this client's network; none when answers are not kept apart by it at all.
    pub fn network(&self, client: IpAddr, said: Option<&ClientSubnet>) -> Option<Network> {
        let client = client.to_canonical();
        match (self.mode, said) {
            (SubnetMode::Drop, _) => None,
            // Who wants nothing told is heard in every mode (RFC 7871 §7.1.2).
            (_, Some(said)) if said.source_bits == 0 => Some(Network::WITHHELD),
            (SubnetMode::Forward, Some(said)) => {
                Some(self.shortened(said.family, said.left_aligned(), said.source_bits))
            }
            (SubnetMode::Forward, None) => Some(Network::UNTOLD),
            // The network of a private address is the same everywhere: it tells a server nothing, and others too much.
            (SubnetMode::Set, _) if is_private(client) => Some(Network::UNTOLD),
            (SubnetMode::Set, said) => {
                let (family, address) = match client {
                    IpAddr::V4(v4) => (FAMILY_V4, u64::from(u32::from(v4)) << 32),
                    IpAddr::V6(v6) => (FAMILY_V6, (u128::from(v6) >> 64) as u64),
                };
                // No more bits than the client itself was willing to give (RFC 7871 §7.1.2).
                Some(self.shortened(family, address, said.map_or(u8::MAX, |said| said.source_bits)))
            }
        }
    }

    /// The first bits of an address, `bits` at most.
    fn shortened(&self, family: u8, address: u64, bits: u8) -> Network {
        let bits_max = if family == FAMILY_V4 { self.v4_bits } else { self.v6_bits };
        Network::new(family, address, bits.min(bits_max))
    }
}

/// Addresses that mean nothing, or something else, outside of their site.
fn is_private(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(v4) => {
            let [a, b, ..] = v4.octets();
            let is_shared = a == 100 && b & 0xc0 == 64; // RFC 6598
            v4.is_private() || v4.is_loopback() || v4.is_link_local() || v4.is_unspecified() || is_shared
        }
        IpAddr::V6(v6) => {
            let [first, ..] = v6.segments();
            let is_local = first & 0xfe00 == 0xfc00 || first & 0xffc0 == 0xfe80; // RFC 4193, RFC 4291 §2.5.6
            is_local || v6.is_loopback() || v6.is_unspecified()
        }
    }
}

/// An option as a client sent it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ClientSubnet {
    family: u8,
    source_bits: u8,
    /// The first `source_bits`, all others zero.
    address: [u8; 16],
}

/// An option in an upstream's answer, as far as it could be read.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum SubnetSeen {
    /// There is no such option.
    #[default]
    None,
    /// It is not as RFC 7871 §6 wants it.
    Malformed,
    /// What it repeats, and the bits of the network that the answer is for.
    Read(ClientSubnet, u8),
}

impl SubnetSeen {
    /// Bits of the network that the answer is for: 0, all clients, without an option (RFC 7871 §7.3).
    pub fn scope_bits(&self) -> u8 {
        if let Self::Read(_, scope_bits) = self { *scope_bits } else { 0 }
    }
}

/// The option is not as RFC 7871 §6 wants it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BadSubnet;

impl ClientSubnet {
    /// Reads the data of an option in a query, whose scope is zero (RFC 7871 §6).
    pub fn from_query(data: &[u8]) -> Result<Self, BadSubnet> {
        match Self::read(data)? {
            (subnet, 0) => Ok(subnet),
            _ => Err(BadSubnet),
        }
    }

    /// Reads the data of an option; also gives its scope. The address has just the octets that its length asks for, and no
    /// bit behind it. Family 0 is taken with length 0, as those send it who want nothing told.
    pub fn read(data: &[u8]) -> Result<(Self, u8), BadSubnet> {
        let (&[0, family, source_bits, scope_bits], octets) = data.split_first_chunk::<4>().ok_or(BadSubnet)? else {
            return Err(BadSubnet);
        };
        let bits_max = match family {
            FAMILY_NONE => 0,
            FAMILY_V4 => 32,
            FAMILY_V6 => 128,
            _ => return Err(BadSubnet),
        };
        let is_long = source_bits > bits_max || scope_bits > bits_max;
        if is_long || octets.len() != usize::from(source_bits).div_ceil(8) {
            return Err(BadSubnet);
        }
        let unused_bits = (8 - source_bits % 8) % 8;
        if octets.last().is_some_and(|last| last.trailing_zeros() < u32::from(unused_bits)) {
            return Err(BadSubnet);
        }
        let mut address = [0; 16];
        address.get_mut(..octets.len()).ok_or(BadSubnet)?.copy_from_slice(octets);
        Ok((Self { family, source_bits, address }, scope_bits))
    }

    /// The first 64 bits of the address.
    fn left_aligned(&self) -> u64 {
        self.address.first_chunk().map_or(0, |octets| u64::from_be_bytes(*octets))
    }

    /// Octets of the whole option.
    pub fn option_bytes(&self) -> usize {
        FIXED_BYTES + usize::from(self.source_bits).div_ceil(8)
    }

    /// Writes the whole option as an answer echoes it (RFC 7871 §7.2.1), whose `scope_bits` say how large a network the
    /// answer is for. Returns its length; 0 when there is no room.
    pub fn put(&self, scope_bits: u8, out: &mut [u8]) -> usize {
        let address = self.address.get(..usize::from(self.source_bits).div_ceil(8)).unwrap_or_default();
        put(self.family, self.source_bits, scope_bits, address, out)
    }
}

fn put(family: u8, source_bits: u8, scope_bits: u8, address: &[u8], out: &mut [u8]) -> usize {
    let bytes = FIXED_BYTES + address.len();
    let Some((fixed, behind)) = out.get_mut(..bytes).and_then(<[u8]>::split_first_chunk_mut::<FIXED_BYTES>) else {
        return 0;
    };
    let [code_hi, code_lo] = option::CLIENT_SUBNET.to_be_bytes();
    *fixed = [code_hi, code_lo, 0, (bytes - 4) as u8, 0, family, source_bits, scope_bits];
    behind.copy_from_slice(address);
    bytes
}

/// What an upstream is told of a client's network, in one number.
///
/// The family in the two highest bits, the length in six, then the first 56 bits of the address. It is never zero, so that
/// zero can stand for "all clients" where answers are kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Network(NonZeroU64);

/// Bits of an address that a [`Network`] has room for.
const ADDRESS_BITS: u32 = 56;
const _: () = assert!(NETWORK_V4_BITS_MAX <= 32 && NETWORK_V6_BITS_MAX as u32 <= ADDRESS_BITS);

impl Network {
    /// The client wants nothing told: an option with source 0, whose family is that of IPv4, for there are servers that take
    /// no other one (RFC 7871 §7.1.2).
    pub const WITHHELD: Network = Network(match NonZeroU64::new((FAMILY_V4 as u64) << 62) {
        Some(key) => key,
        None => NonZeroU64::MIN,
    });
    /// No option is sent: nothing is known of the client's network, or nothing that would help.
    pub const UNTOLD: Network = Network(NonZeroU64::MAX);

    /// The first `bits` of a left-aligned address.
    fn new(family: u8, address: u64, bits: u8) -> Network {
        if bits == 0 {
            return Self::WITHHELD;
        }
        let kept = address & u64::MAX.checked_shl(64 - u32::from(bits)).unwrap_or(u64::MAX);
        let packed = u64::from(family) << 62 | u64::from(bits) << ADDRESS_BITS | kept >> (64 - ADDRESS_BITS);
        Self(NonZeroU64::new(packed).unwrap_or(NonZeroU64::MAX))
    }

    /// What answers for this network alone are kept under; never zero.
    pub fn key(self) -> u64 {
        self.0.get()
    }

    /// Whether an upstream learns a part of the client's address.
    pub fn tells_an_address(self) -> bool {
        self != Self::WITHHELD && self != Self::UNTOLD
    }

    fn family(self) -> u8 {
        (self.key() >> 62) as u8
    }

    fn bits(self) -> u8 {
        (self.key() >> ADDRESS_BITS & 0x3f) as u8
    }

    /// Writes the whole option as a request bears it. Returns its length; 0 for [`Network::UNTOLD`].
    pub fn put(self, out: &mut [u8]) -> usize {
        if self == Self::UNTOLD {
            return 0;
        }
        let address = (self.key() << (64 - ADDRESS_BITS)).to_be_bytes();
        let address = address.get(..usize::from(self.bits()).div_ceil(8)).unwrap_or_default();
        put(self.family(), self.bits(), 0, address, out)
    }

    /// Whether an answer agrees with what was told: its option repeats it, or there is none (RFC 7871 §7.3). What a server
    /// says to a question that tells no address is of no interest.
    pub fn is_answered_by(self, seen: &SubnetSeen) -> bool {
        let answer = match seen {
            _ if !self.tells_an_address() => return true,
            SubnetSeen::None => return true,
            SubnetSeen::Malformed => return false,
            SubnetSeen::Read(answer, _) => answer,
        };
        let is_short = u32::from(answer.source_bits) <= ADDRESS_BITS;
        is_short && self == Self::new(answer.family, answer.left_aligned(), answer.source_bits)
    }

    /// Whom an answer with this scope is for, as [`Network::key`] or 0 for all clients. An answer without the option has scope 0
    /// (RFC 7871 §7.3).
    pub fn answer_key(told: Option<Network>, scope_bits: u8) -> u64 {
        match told {
            None => 0,
            Some(network) if network.tells_an_address() && scope_bits == 0 => 0,
            // A scope that is shorter than what was told would serve more clients, but a search for the longest prefix on
            // every look into the cache costs more than asking once for each network.
            Some(network) => network.key(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn subnet(family: u8, source: u8, address: &[u8]) -> ClientSubnet {
        ClientSubnet::from_query(&[&[0, family, source, 0], address].concat()).unwrap()
    }

    fn policy(mode: SubnetMode) -> SubnetPolicy {
        SubnetPolicy { mode, ..SubnetPolicy::default() }
    }

    fn sent(network: Network) -> Vec<u8> {
        let mut out = [0xee; NETWORK_BYTES_MAX];
        let bytes = network.put(&mut out);
        out[..bytes].to_vec()
    }

    #[test]
    fn an_option_is_exact_or_malformed() {
        for (good, bits) in [
            (b"\0\x01\x18\0\xc0\0\x02".as_slice(), 24),
            (b"\0\x01\0\0", 0),
            (b"\0\0\0\0", 0),
            (b"\0\x01\x20\0\xc0\0\x02\x01", 32),
            (b"\0\x01\x17\0\xc0\0\x02", 23),
            (b"\0\x02\x38\0\x20\x01\x0d\xb8\0\0\x01", 56),
            (b"\0\x02\x80\0\x20\x01\x0d\xb8\0\0\0\0\0\0\0\0\0\0\0\x01", 128),
        ] {
            let subnet = ClientSubnet::from_query(good).unwrap();
            assert_eq!(subnet.source_bits, bits);
            let mut out = [0xee; CLIENT_SUBNET_BYTES_MAX];
            let bytes = subnet.put(7, &mut out);
            assert_eq!((bytes, &out[..4]), (good.len() + 4, &[0, 8, 0, good.len() as u8][..]));
            assert_eq!((&out[4..7], out[7], &out[8..bytes]), (&good[..3], 7, &good[4..]), "echoed with the scope");
            assert_eq!(bytes, subnet.option_bytes());
            assert_eq!(subnet.put(0, &mut out[..bytes - 1]), 0);
            for end in 0..good.len() {
                assert_eq!(ClientSubnet::from_query(&good[..end]), Err(BadSubnet), "{good:x?} {end}");
            }
            assert_eq!(ClientSubnet::from_query(&[good, &[0]].concat()), Err(BadSubnet), "{good:x?} and an octet");
        }
        for bad in [
            b"\0\x03\0\0".as_slice(),        // a family that does not exist
            b"\x01\x01\0\0",                 // the same
            b"\0\x01\x21\0\xc0\0\x02\x01\0", // longer than its family
            b"\0\0\x08\0\x0a",               // a length without a family
            b"\0\x01\x18\x01\xc0\0\x02",     // a scope in a query
            b"\0\x01\x17\0\xc0\0\x03",       // a bit behind the length
            b"\0\x01\x19\0\xc0\0\x02\x40",   // the same
        ] {
            assert_eq!(ClientSubnet::from_query(bad), Err(BadSubnet), "{bad:x?}");
        }
        assert_eq!(ClientSubnet::read(b"\0\x01\x08\x21\x0a"), Err(BadSubnet), "a scope longer than its family");
        assert_eq!(ClientSubnet::read(b"\0\x01\x08\x20\x0a").unwrap().1, 32);
    }

    #[test]
    fn a_forwarded_option_is_shortened_and_never_made_longer() {
        let forward = policy(SubnetMode::Forward);
        let client = "198.51.100.7".parse().unwrap();
        let told = |said: &ClientSubnet| sent(forward.network(client, Some(said)).unwrap());
        assert_eq!(told(&subnet(1, 32, &[192, 0, 2, 77])), b"\0\x08\0\x07\0\x01\x18\0\xc0\0\x02");
        assert_eq!(told(&subnet(1, 16, &[192, 0])), b"\0\x08\0\x06\0\x01\x10\0\xc0\0");
        let long = subnet(2, 128, b"\x20\x01\x0d\xb8\x11\x22\x33\x44\0\0\0\0\0\0\0\x01");
        assert_eq!(told(&long), b"\0\x08\0\x0b\0\x02\x38\0\x20\x01\x0d\xb8\x11\x22\x33");
        for nothing in [subnet(1, 0, b""), subnet(2, 0, b""), subnet(0, 0, b"")] {
            assert_eq!(forward.network(client, Some(&nothing)), Some(Network::WITHHELD));
        }
        assert_eq!(sent(Network::WITHHELD), b"\0\x08\0\x04\0\x01\0\0");
        assert_eq!(forward.network(client, None), Some(Network::UNTOLD));
        assert_eq!(sent(Network::UNTOLD), b"");
    }

    #[test]
    fn a_set_network_is_the_clients_own_unless_it_is_private_or_asks_for_less() {
        let set = policy(SubnetMode::Set);
        let told = |client: &str, said: Option<ClientSubnet>| {
            sent(set.network(client.parse().unwrap(), said.as_ref()).unwrap())
        };
        assert_eq!(told("198.51.100.7", None), b"\0\x08\0\x07\0\x01\x18\0\xc6\x33\x64");
        assert_eq!(told("::ffff:198.51.100.7", None), told("198.51.100.7", None), "of a dual-stack socket");
        assert_eq!(told("2001:db8:1:2345::7", None), b"\0\x08\0\x0b\0\x02\x38\0\x20\x01\x0d\xb8\0\x01\x23");
        let other = Some(subnet(1, 12, &[192, 0x50]));
        assert_eq!(
            told("198.51.100.7", other),
            b"\0\x08\0\x06\0\x01\x0c\0\xc6\x30",
            "its length counts, its address not"
        );
        assert_eq!(told("198.51.100.7", Some(subnet(2, 0, b""))), sent(Network::WITHHELD));
        for private in [
            "10.1.2.3",
            "127.0.0.1",
            "192.168.1.1",
            "169.254.1.1",
            "100.64.0.1",
            "::1",
            "fd00::1",
            "fe80::1",
            "0.0.0.0",
        ] {
            assert_eq!(set.network(private.parse().unwrap(), None), Some(Network::UNTOLD), "{private}");
        }
    }

    #[test]
    fn dropped_options_leave_all_clients_alike() {
        let said = subnet(1, 24, &[192, 0, 2]);
        assert_eq!(policy(SubnetMode::Drop).network("198.51.100.7".parse().unwrap(), Some(&said)), None);
        assert_eq!(Network::answer_key(None, 24), 0);
    }

    #[test]
    fn an_answer_is_for_the_network_that_was_told_or_for_all() {
        let network = Network::new(FAMILY_V4, 0xc000_0200_0000_0000, 24);
        assert_eq!(Network::answer_key(Some(network), 24), network.key());
        assert_eq!(Network::answer_key(Some(network), 16), network.key());
        assert_eq!(Network::answer_key(Some(network), 32), network.key());
        assert_eq!(Network::answer_key(Some(network), 0), 0);
        for apart in [Network::WITHHELD, Network::UNTOLD] {
            assert_eq!(Network::answer_key(Some(apart), 0), apart.key(), "not for those who tell their network");
        }
    }

    #[test]
    fn networks_have_different_keys_and_none_is_zero() {
        let mut keys = std::collections::HashSet::from([Network::WITHHELD.key(), Network::UNTOLD.key(), 0]);
        for (family, bits_max) in [(FAMILY_V4, NETWORK_V4_BITS_MAX), (FAMILY_V6, NETWORK_V6_BITS_MAX)] {
            for bits in 1..=bits_max {
                for address in [0, u64::MAX, 0xaaaa_aaaa_aaaa_aaaa] {
                    let network = Network::new(family, address, bits);
                    let is_new = keys.insert(network.key());
                    assert!(is_new || (address == 0xaaaa_aaaa_aaaa_aaaa && bits == 1), "{family} {bits} {address:x}");
                    assert_eq!((network.family(), network.bits()), (family, bits));
                }
            }
        }
    }

    #[test]
    fn an_answer_must_repeat_what_was_told() {
        let network = Network::new(FAMILY_V4, 0xc000_0200_0000_0000, 24);
        let read = |family, source, address: &[u8]| SubnetSeen::Read(subnet(family, source, address), 16);
        assert!(network.is_answered_by(&read(1, 24, &[192, 0, 2])));
        assert!(network.is_answered_by(&SubnetSeen::None), "the server does not know the option");
        for other in [
            read(1, 24, &[192, 0, 3]),
            read(1, 22, &[192, 0, 0]),
            read(1, 32, &[192, 0, 2, 0]),
            read(2, 24, &[192, 0, 2]),
            SubnetSeen::Malformed,
        ] {
            assert!(!network.is_answered_by(&other), "{other:?}");
            assert!(Network::WITHHELD.is_answered_by(&other) && Network::UNTOLD.is_answered_by(&other));
        }
        let six = Network::new(FAMILY_V6, 0x2001_0db8_0000_0000, 56);
        assert!(six.is_answered_by(&read(2, 56, b"\x20\x01\x0d\xb8\0\0\0")));
        assert!(!six.is_answered_by(&read(2, 64, b"\x20\x01\x0d\xb8\0\0\0\0")));
        assert_eq!((read(1, 24, &[192, 0, 2]).scope_bits(), SubnetSeen::None.scope_bits()), (16, 0));
    }
}
