//! What is filed under address prefixes, found by an address.
//!
//! Invariant: finding costs at most one look-up for each prefix length that occurs, and allocates nothing.

use std::hash::Hash;
use std::net::IpAddr;
use std::ops::BitAnd;

use ahash::RandomState;
use hashbrown::HashMap;
use ipnet::IpNet;

/// Values by prefix, several to each. Immutable once filled.
#[derive(Clone, Debug, PartialEq)]
pub struct Prefixes<T> {
    v4: Vec<Length<T, u32>>,
    v6: Vec<Length<T, u128>>,
}

/// The prefixes of one family and one length; they stand longest first.
#[derive(Clone, Debug, PartialEq)]
struct Length<T, A: Eq + Hash> {
    bits: u8,
    /// Which bits of an address count.
    mask: A,
    /// By network address.
    networks: HashMap<A, Vec<T>, RandomState>,
}

impl<T> Prefixes<T> {
    /// Whether nothing is filed.
    pub fn is_empty(&self) -> bool {
        self.v4.is_empty() && self.v6.is_empty()
    }

    /// Files a value after those of the same prefix. Bits of `net` beyond its length do not count.
    pub fn file(&mut self, net: &IpNet, value: T) {
        match net {
            IpNet::V4(net) => {
                file(&mut self.v4, net.prefix_len(), net.netmask().to_bits(), net.network().to_bits(), value);
            }
            IpNet::V6(net) => {
                file(&mut self.v6, net.prefix_len(), net.netmask().to_bits(), net.network().to_bits(), value);
            }
        }
    }

    /// The prefixes that hold `address`, the longest first: their length in bits and their values. On the hot path.
    #[inline]
    pub fn holding(&self, address: IpAddr) -> impl Iterator<Item = (u8, &[T])> {
        let (v4, v6): ((&[_], _), (&[_], _)) = match address {
            IpAddr::V4(address) => ((&self.v4, address.to_bits()), (&[], 0)),
            IpAddr::V6(address) => ((&[], 0), (&self.v6, address.to_bits())),
        };
        holding(v4.0, v4.1).chain(holding(v6.0, v6.1))
    }

    /// The first of [`Self::holding`]. On the hot path.
    #[inline]
    pub fn longest(&self, address: IpAddr) -> Option<(u8, &[T])> {
        match address {
            IpAddr::V4(address) => holding(&self.v4, address.to_bits()).next(),
            IpAddr::V6(address) => holding(&self.v6, address.to_bits()).next(),
        }
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

fn file<T, A: Eq + Hash>(lengths: &mut Vec<Length<T, A>>, bits: u8, mask: A, network: A, value: T) {
    let at = lengths.partition_point(|held| held.bits > bits);
    if lengths.get(at).is_none_or(|held| held.bits != bits) {
        lengths.insert(at, Length { bits, mask, networks: HashMap::default() });
    }
    if let Some(held) = lengths.get_mut(at) {
        held.networks.entry(network).or_default().push(value);
    }
}

#[inline]
fn holding<T, A>(lengths: &[Length<T, A>], address: A) -> impl Iterator<Item = (u8, &[T])>
where
    A: Copy + Eq + Hash + BitAnd<Output = A>,
{
    lengths.iter().filter_map(move |held| {
        let values = held.networks.get(&(address & held.mask))?;
        Some((held.bits, values.as_slice()))
    })
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
            let held: Vec<_> = held.map(|(bits, values)| (bits, values.join(" "))).collect();
            let longest = prefixes.longest(address.parse().unwrap());
            assert_eq!(longest.map(|(bits, values)| (bits, values.join(" "))).as_ref(), held.first(), "{address}");
            held
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
