//! For how long a core was idle: what is left over is work, whoever did it and whether the kernel can say who.
//!
//! Softirqs that come while nobody runs are in no process's time, and the kernel's ticks sample them badly. Its idle time is
//! measured, not sampled (a core without work has no ticks), so the rest of the clock is the core's work.

use std::fs;
use std::io;
use std::time::Instant;

/// Ticks of `/proc/stat` in a second (`USER_HZ`, the same on every architecture that Corewall runs on).
const TICKS_PER_SECOND: f64 = 100.0;

/// A look at a core.
pub struct CoreTime {
    idle_s: f64,
    at: Instant,
}

impl CoreTime {
    /// Now.
    pub fn read(core: usize) -> io::Result<Self> {
        let stat = fs::read_to_string("/proc/stat")?;
        let idle_s = idle_seconds(&stat, core)
            .ok_or_else(|| io::Error::other(format!("/proc/stat tells nothing of core {core}")))?;
        Ok(Self { idle_s, at: Instant::now() })
    }

    /// The part of the time since `before` for which the core was not idle, 1 being all of it.
    pub fn busy_since(&self, before: &Self) -> f64 {
        let elapsed_s = (self.at - before.at).as_secs_f64();
        (1.0 - (self.idle_s - before.idle_s) / elapsed_s).clamp(0.0, 1.0)
    }
}

/// Seconds of `idle` and `iowait`, the fourth and fifth figure of a core's line.
fn idle_seconds(stat: &str, core: usize) -> Option<f64> {
    let line = stat.lines().find_map(|line| line.strip_prefix(&format!("cpu{core} ")))?;
    let ticks = line.split_ascii_whitespace().skip(3).take(2).map(str::parse::<f64>);
    Some(ticks.sum::<Result<f64, _>>().ok()? / TICKS_PER_SECOND)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn what_is_not_idle_is_busy() {
        let stat = "cpu  1 2 3 900 5 6\ncpu0 1 2 3 150 50 9 9 9 0 0\ncpu10 7 7 7 700 0 7\n";
        assert_eq!(
            (idle_seconds(stat, 0), idle_seconds(stat, 10), idle_seconds(stat, 1)),
            (Some(2.0), Some(7.0), None)
        );
        let at = Instant::now();
        let look = |idle_s, ms| CoreTime { idle_s, at: at + Duration::from_millis(ms) };
        assert!((look(2.5, 2_000).busy_since(&look(2.0, 0)) - 0.75).abs() < 1e-9);
        // A tick too many is no negative work.
        assert_eq!(look(4.01, 2_000).busy_since(&look(2.0, 0)), 0.0);
    }

    #[test]
    fn this_machine_tells_of_its_cores() {
        let core = corewall_bench::cores::in_order()[0];
        assert!(CoreTime::read(core).is_ok() && CoreTime::read(100_000).is_err());
    }
}
