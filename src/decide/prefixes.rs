//! What is filed under address prefixes, found by an address.
//!
//! Invariant: finding costs at most one look-up for each prefix length that occurs, and allocates nothing.

use std::net::IpAddr;

use ahash::RandomState;
use hashbrown::HashMap;
use ipnet::IpNet;

/// Values by prefix, several to each. Immutable once filled.
#[derive(Clone, Debug, PartialEq)]
pub struct Prefixes<T> {
    v4: Vec<Length<T, 4>>,
    v6: Vec<Length<T, 16>>,
}

/// The prefixes of one family and one length; they stand longest first.
#[derive(Clone, Debug, PartialEq)]
struct Length<T, const N: usize> {
    bits: u8,
    /// By network address.
    networks: HashMap<[u8; N], Vec<T>, RandomState>,
}

impl<T> Prefixes<T> {
    /// Whether nothing is filed.
    pub fn is_empty(&self) -> bool {
        self.v4.is_empty() && self.v6.is_empty()
    }

    /// Files a value after those of the same prefix. Bits of `net` beyond its length do not count.
    pub fn file(&mut self, net: &IpNet, value: T) {
        match net {
            IpNet::V4(net) => file(&mut self.v4, net.prefix_len(), net.network().octets(), value),
            IpNet::V6(net) => file(&mut self.v6, net.prefix_len(), net.network().octets(), value),
        }
    }

    /// The prefixes that hold `address`, the longest first: their length in bits and their values. On the hot path.
    pub fn holding(&self, address: IpAddr) -> impl Iterator<Item = (u8, &[T])> {
        let (v4, v6) = match address {
            IpAddr::V4(address) => (Some(address.octets()), None),
            IpAddr::V6(address) => (None, Some(address.octets())),
        };
        holding(&self.v4, v4).chain(holding(&self.v6, v6))
    }
}

impl<T> FromIterator<(IpNet, T)> for Prefixes<T> {
    fn from_iter<I: IntoIterator<Item = (IpNet, T)>>(values: I) -> Self {
        let mut prefixes = Self::default();
        for (net, value) in values {
            prefixes.file(&net, value);
        }
        prefixes
    }
}

impl<T> Default for Prefixes<T> {
    fn default() -> Self {
        Self { v4: Vec::new(), v6: Vec::new() }
    }
}

fn file<T, const N: usize>(lengths: &mut Vec<Length<T, N>>, bits: u8, network: [u8; N], value: T) {
    let at = lengths.partition_point(|held| held.bits > bits);
    if lengths.get(at).is_none_or(|held| held.bits != bits) {
        lengths.insert(at, Length { bits, networks: HashMap::default() });
    }
    if let Some(held) = lengths.get_mut(at) {
        held.networks.entry(network).or_default().push(value);
    }
}

fn holding<T, const N: usize>(lengths: &[Length<T, N>], address: Option<[u8; N]>) -> impl Iterator<Item = (u8, &[T])> {
    address.into_iter().flat_map(move |address| {
        lengths.iter().filter_map(move |held| {
            let values = held.networks.get(&masked(&address, held.bits))?;
            Some((held.bits, values.as_slice()))
        })
    })
}

/// The first `bits` bits of an address, the others zero.
fn masked<const N: usize>(address: &[u8; N], bits: u8) -> [u8; N] {
    let mut network = *address;
    for (at, octet) in network.iter_mut().enumerate() {
        let kept = usize::from(bits).saturating_sub(8 * at).min(8);
        *octet &= !(0xffu16 >> kept) as u8;
    }
    network
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_prefixes_that_hold_an_address_come_longest_first_and_no_others() {
        let nets = ["10.0.0.0/8", "10.1.2.3/32", "0.0.0.0/0", "10.1.0.0/17", "10.1.128.0/17", "::/0", "2001:db8::/33"];
        let mut prefixes = Prefixes::default();
        assert!(prefixes.is_empty());
        for net in nets {
            prefixes.file(&net.parse().unwrap(), net);
        }
        prefixes.file(&"10.77.0.0/8".parse().unwrap(), "again");
        let holding = |address: &str| {
            let held = prefixes.holding(address.parse().unwrap());
            held.map(|(bits, values)| (bits, values.join(" "))).collect::<Vec<_>>()
        };
        let expected =
            |held: &[(u8, &str)]| held.iter().map(|&(bits, text)| (bits, text.to_owned())).collect::<Vec<_>>();
        assert_eq!(
            holding("10.1.2.3"),
            expected(&[(32, "10.1.2.3/32"), (17, "10.1.0.0/17"), (8, "10.0.0.0/8 again"), (0, "0.0.0.0/0")])
        );
        assert_eq!(
            holding("10.1.128.1"),
            expected(&[(17, "10.1.128.0/17"), (8, "10.0.0.0/8 again"), (0, "0.0.0.0/0")])
        );
        assert_eq!(holding("192.0.2.1"), expected(&[(0, "0.0.0.0/0")]));
        assert_eq!(holding("2001:db8:7fff::1"), expected(&[(33, "2001:db8::/33"), (0, "::/0")]));
        assert_eq!(holding("2001:db8:8000::1"), expected(&[(0, "::/0")]));
    }
}
