//! Unpredictable numbers for one worker.

use rand::Rng;

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

    /// Any number.
    pub fn number(&mut self) -> u64 {
        self.0.next_u64()
    }

    /// Seeds for hash tables.
    pub fn seeds(&mut self) -> [u64; 4] {
        [self.0.next_u64(), self.0.next_u64(), self.0.next_u64(), self.0.next_u64()]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_and_sockets_use_their_whole_range() {
        let mut chance = Chance::new([7; 32]);
        let ids: std::collections::HashSet<u16> = (0..10_000).map(|_| chance.id()).collect();
        assert!(ids.len() > 9_000, "{} different ids", ids.len());
        let sockets: std::collections::HashSet<u16> = (0..1_000).map(|_| chance.below(16)).collect();
        assert_eq!(sockets.len(), 16);
    }
}
