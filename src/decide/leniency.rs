//! For how long a proof is not asked of one upstream server that cannot give it: it changes letter case, or answers without the
//! cookie that it knows.
//!
//! Invariant: it begins after proof over TCP, where nobody can forge, or after [`PEER_DOUBTS_MAX`] doubtful answers in a row that
//! TCP could not confirm, and ends after [`PEER_HABIT_S`].

use super::Now;
use crate::limits::{PEER_DOUBTS_MAX, PEER_HABIT_S};

/// Towards one server, for one proof. None at first.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Leniency {
    until: Now,
    /// Doubtful answers that TCP could not confirm, one after the other.
    doubts: u8,
}

impl Leniency {
    /// Whether the proof is asked for.
    pub fn is_over(&self, now: Now) -> bool {
        self.until <= now
    }

    /// The server has given the proof.
    pub fn note_proof(&mut self) {
        self.doubts = 0;
    }

    /// A doubtful answer could not be confirmed, for TCP failed.
    pub fn note_unconfirmed(&mut self, now: Now) {
        self.doubts += 1;
        if self.doubts >= PEER_DOUBTS_MAX {
            self.begin(now);
        }
    }

    /// TCP has shown that the server does not give it.
    pub fn begin(&mut self, now: Now) {
        *self = Self { until: now.plus_us(u64::from(PEER_HABIT_S) * 1_000_000), doubts: 0 };
    }
}
