//! The worker's clock.
//!
//! `decide` never reads a clock: it is told a [`Now`] with each event. A worker reads the clock once a batch, not once a
//! datagram, for a batch takes some tens of microseconds and nothing that `decide` times is shorter than a millisecond.

use std::time::{Instant, SystemTime};

use crate::decide::Now;

/// Monotonic microseconds since the worker began.
#[derive(Clone, Copy, Debug)]
pub struct Clock {
    zero: Instant,
}

impl Clock {
    /// A clock that starts at zero.
    pub fn start() -> Self {
        Self { zero: Instant::now() }
    }

    /// This moment. On the hot path: one read of the vDSO, no system call.
    pub fn now(&self) -> Now {
        Now(u64::try_from(self.zero.elapsed().as_micros()).unwrap_or(u64::MAX))
    }
}

/// Seconds since 1970; 0 before.
pub fn unix_s() -> u64 {
    SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).map_or(0, |passed| passed.as_secs())
}
