//! How many queries of each client wait for upstreams, so that no client takes all the places (DNSBomb, CVE-2024-33655).

use std::net::IpAddr;

use ahash::RandomState;

use crate::limits::{CLIENT_QUERIES_WAITING_MAX, QUOTA_BUCKETS};

/// Waiting queries by client. Clients share buckets by a keyed hash: two that meet share one bound, which costs a client
/// that is not flooding something only while its neighbour does. Memory is fixed and no step depends on how many
/// clients there are.
pub struct Quota {
    hasher: RandomState,
    waiting: Vec<u16>,
}

const _: () = assert!(CLIENT_QUERIES_WAITING_MAX < u16::MAX as usize);

impl Quota {
    /// Nobody waits.
    pub fn new(seeds: [u64; 4]) -> Self {
        let [a, b, c, d] = seeds;
        Self { hasher: RandomState::with_seeds(a, b, c, d), waiting: vec![0; QUOTA_BUCKETS] }
    }

    /// Counts one more waiting query of `client`; false when it has [`CLIENT_QUERIES_WAITING_MAX`] already.
    pub fn take(&mut self, client: IpAddr) -> bool {
        match self.bucket(client) {
            Some(waiting) if usize::from(*waiting) < CLIENT_QUERIES_WAITING_MAX => {
                *waiting += 1;
                true
            }
            _ => false,
        }
    }

    /// A query that was counted waits no more.
    pub fn give_back(&mut self, client: IpAddr) {
        if let Some(waiting) = self.bucket(client) {
            *waiting = waiting.saturating_sub(1);
        }
    }

    fn bucket(&mut self, client: IpAddr) -> Option<&mut u16> {
        // An IPv6 client has a whole /64 to choose from (RFC 6177), an IPv4 client one address.
        let network = match client.to_canonical() {
            IpAddr::V4(v4) => u64::from(u32::from(v4)),
            IpAddr::V6(v6) => (u128::from(v6) >> 64) as u64,
        };
        let hash = self.hasher.hash_one(network);
        self.waiting.get_mut((hash % QUOTA_BUCKETS as u64) as usize)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_client_takes_its_share_and_no_more() {
        let mut quota = Quota::new([1, 2, 3, 4]);
        let (greedy, other) = ("192.0.2.1".parse().unwrap(), "192.0.2.2".parse().unwrap());
        for _ in 0..CLIENT_QUERIES_WAITING_MAX {
            assert!(quota.take(greedy));
        }
        assert!(!quota.take(greedy));
        assert!(quota.take(other));
        quota.give_back(greedy);
        assert!(quota.take(greedy));
    }

    #[test]
    fn addresses_of_one_ipv6_network_are_one_client() {
        let mut quota = Quota::new([1, 2, 3, 4]);
        for host in 0..CLIENT_QUERIES_WAITING_MAX {
            assert!(quota.take(format!("2001:db8::{host:x}").parse().unwrap()));
        }
        assert!(!quota.take("2001:db8::ffff:1".parse().unwrap()));
        assert!(quota.take("2001:db8:0:1::1".parse().unwrap()));
    }
}
