//! A histogram of nanoseconds: 64 steps in each power of two, so a percentile is right to 1.6 %.

/// Steps in each power of two.
const STEPS: u64 = 64;
/// Highest power of two kept apart: 2^40 ns are 18 minutes, longer than any time-out here.
const POWERS: u64 = 40;

/// Counts of latencies.
pub struct Latencies {
    counts: Vec<u64>,
    total: u64,
    ns_max: u64,
}

impl Default for Latencies {
    fn default() -> Self {
        Self { counts: vec![0; (STEPS * POWERS) as usize], total: 0, ns_max: 0 }
    }
}

impl Latencies {
    /// Adds one latency.
    pub fn record(&mut self, ns: u64) {
        let place = step_of(ns).min(self.counts.len() - 1);
        self.counts[place] += 1;
        self.total += 1;
        self.ns_max = self.ns_max.max(ns);
    }

    /// The latency in microseconds that the share `quantile` (0 to 1) of all stayed under; 0 without any.
    pub fn us_at(&self, quantile: f64) -> f64 {
        let wanted = (self.total as f64 * quantile).ceil().max(1.0) as u64;
        let mut seen = 0;
        for (step, count) in (0u64..).zip(&self.counts) {
            seen += count;
            if seen >= wanted {
                return upper_edge_ns(step).min(self.ns_max) as f64 / 1e3;
            }
        }
        0.0
    }

    /// The longest in microseconds.
    pub fn us_max(&self) -> f64 {
        self.ns_max as f64 / 1e3
    }
}

fn step_of(ns: u64) -> usize {
    if ns < STEPS {
        return ns as usize;
    }
    // The six bits after the leading one choose the step within the power.
    let power = u64::from(ns.ilog2());
    ((power - 5) * STEPS + (ns >> (power - 6)) - STEPS) as usize
}

fn upper_edge_ns(step: u64) -> u64 {
    if step < STEPS { step } else { ((step % STEPS + STEPS + 1) << (step / STEPS - 1)) - 1 }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_latency_lies_within_its_step() {
        for ns in (0..1_000).chain([4_095, 4_096, 65_537, 1_000_003, 999_999_999]) {
            let edge = upper_edge_ns(step_of(ns) as u64);
            assert!(edge >= ns && edge as f64 <= ns as f64 * 1.016, "{ns} {edge}");
        }
    }

    #[test]
    fn percentiles_of_a_known_row() {
        let mut latencies = Latencies::default();
        assert_eq!(latencies.us_at(0.5), 0.0);
        (1..=1_000).for_each(|us| latencies.record(us * 1_000));
        assert!((latencies.us_at(0.5) - 500.0).abs() < 8.0);
        assert!((latencies.us_at(0.99) - 990.0).abs() < 16.0);
        assert_eq!(latencies.us_at(1.0), 1_000.0);
        assert_eq!(latencies.us_max(), 1_000.0);
    }
}
