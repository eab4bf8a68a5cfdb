//! When each question of an open loop is due: a function of its number alone, so no answer can move it.
//!
//! Invariant: due times never fall, and on the long run they come at exactly the rate that was asked for.

use crate::questions::Random;

/// Gaps that are drawn; after as many arrivals they come again, which no server can make anything of. 512 KiB.
const CYCLE: usize = 65_536;

/// The due times of a run.
#[derive(Clone, Debug)]
pub enum Arrivals {
    /// One after the other at equal distances.
    Evenly {
        /// Questions a second.
        rate: u64,
    },
    /// At random, independent of one another, as those of many clients are: bursts and pauses belong to it.
    Poisson {
        /// Nanoseconds from the start of a cycle to each arrival in it; the first is 0.
        offsets_ns: Vec<u64>,
        /// Nanoseconds of a cycle.
        cycle_ns: u64,
    },
}

impl Arrivals {
    /// `rate` questions a second at equal distances.
    pub fn evenly(rate: u64) -> Self {
        Self::Evenly { rate: rate.max(1) }
    }

    /// `rate` questions a second at exponential distances, the same for the same seed.
    pub fn poisson(rate: u64, seed: u64) -> Self {
        let mut random = Random::new(seed);
        // 53 bits make a number from 0 up to, not including, 1; so the logarithm is of a number above 0.
        let mut gap = || -(1.0 - (random.next() >> 11) as f64 / (1u64 << 53) as f64).ln();
        let gaps: Vec<f64> = (0..CYCLE).map(|_| gap()).collect();
        let cycle_ns = CYCLE as f64 * 1e9 / rate.max(1) as f64;
        // Whatever was drawn, a cycle takes as long as its rate says.
        let scale_ns = cycle_ns / gaps.iter().sum::<f64>();
        let mut at = 0.0;
        let offset = |gap: &f64| {
            let offset_ns = (at * scale_ns) as u64;
            at += gap;
            offset_ns
        };
        Self::Poisson { offsets_ns: gaps.iter().map(offset).collect(), cycle_ns: cycle_ns as u64 }
    }

    /// Nanoseconds from the start until question `number` is due; the first one is due at once.
    pub fn due_ns(&self, number: usize) -> u64 {
        match self {
            Self::Evenly { rate } => (number as u128 * 1_000_000_000 / u128::from(*rate)) as u64,
            Self::Poisson { offsets_ns, cycle_ns } => {
                let cycles = (number / offsets_ns.len()) as u64;
                cycles * cycle_ns + offsets_ns[number % offsets_ns.len()]
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn even_arrivals_keep_their_distance_however_many_there_were() {
        let arrivals = Arrivals::evenly(3);
        assert_eq!([0, 1, 2, 3].map(|number| arrivals.due_ns(number)), [0, 333_333_333, 666_666_666, 1_000_000_000]);
        assert_eq!(arrivals.due_ns(3_000_000_000), 1_000_000_000_000_000_000);
    }

    #[test]
    fn random_arrivals_keep_the_rate_and_never_go_back() {
        let arrivals = Arrivals::poisson(100_000, 7);
        let due: Vec<u64> = (0..3 * CYCLE).map(|number| arrivals.due_ns(number)).collect();
        assert!(due[0] == 0 && due.is_sorted());
        // Two cycles later by two cycles' time.
        let cycle_ns = due[CYCLE] - due[0];
        assert_eq!((due[2 * CYCLE], cycle_ns), (2 * cycle_ns, CYCLE as u64 * 10_000));
    }

    #[test]
    fn random_arrivals_are_as_uneven_as_independent_clients() {
        let arrivals = Arrivals::poisson(1_000_000, 3);
        let gaps = (1..CYCLE).map(|number| arrivals.due_ns(number) - arrivals.due_ns(number - 1));
        let longer = gaps.filter(|gap_ns| *gap_ns > 2_000).count() as f64 / CYCLE as f64;
        // e^-2 of exponential gaps are longer than twice the mean.
        assert!((longer - 0.135).abs() < 0.01, "{longer}");
    }

    #[test]
    fn the_seed_decides_the_arrivals() {
        let due = |seed| (0..100).map(|number| Arrivals::poisson(1_000, seed).due_ns(number)).collect::<Vec<_>>();
        assert_eq!(due(1), due(1));
        assert_ne!(due(1), due(2));
    }
}
