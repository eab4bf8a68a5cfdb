//! What is known of one server: how long it takes, and whether it answers at all.
//!
//! Invariants: a failure counts only when its question was asked after the failure before it, so that many questions that were
//! lost together count once, and after the last answer, so that a lost datagram of a server that answers others counts not at
//! all. With the first failure the server is a suspect, after several it is down; any answer, however late, takes all that
//! back. While it is down, a moment for the next probe is set or a probe is in flight, unless nobody has wanted the server for
//! [`UPSTREAM_PROBE_US_MAX`].

use std::net::SocketAddr;

use super::chance::Chance;
use crate::decide::Now;
use crate::decide::peer::Peer;
use crate::limits::{
    UPSTREAM_BACK_OFF_US_MAX, UPSTREAM_BACK_OFF_US_MIN, UPSTREAM_EXPLORE_US, UPSTREAM_PROBE_US_MAX,
    UPSTREAM_REFUSALS_IN_A_ROW, UPSTREAM_RTO_US_MIN, UPSTREAM_SUSPECT_US, UPSTREAM_TIMEOUTS_IN_A_ROW,
};

/// A server's number within a worker; none is given twice while the process runs.
pub type ServerId = u32;

/// Microseconds that a server counts as at least when failures are held against it: doubling next to nothing would.
const PENALTY_US_MIN: u64 = 1_000;
/// Failures in a row after which the penalty no longer grows.
const PENALTY_DOUBLINGS_MAX: u32 = 10;

/// Smoothed round-trip time and its variation (RFC 6298 §2), in microseconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RoundTrip {
    /// SRTT.
    pub smoothed_us: u64,
    /// RTTVAR.
    pub variation_us: u64,
}

impl RoundTrip {
    /// After the first sample.
    fn first(sample_us: u64) -> Self {
        Self { smoothed_us: sample_us, variation_us: sample_us / 2 }
    }

    /// After another one, with a gain of 1/8 for the mean and 1/4 for the variation.
    fn with(self, sample_us: u64) -> Self {
        let Self { smoothed_us, variation_us } = self;
        Self {
            smoothed_us: (7 * smoothed_us + sample_us) / 8,
            variation_us: (3 * variation_us + smoothed_us.abs_diff(sample_us)) / 4,
        }
    }
}

/// Whether a failure made the difference.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Health {
    /// As before.
    Same,
    /// It was up and is down now.
    WentDown,
}

/// What is known of a server.
#[derive(Debug)]
pub struct Server {
    pub(super) id: ServerId,
    /// Where it is.
    pub address: SocketAddr,
    /// Groups that it is in; none: the place is free.
    pub(super) groups: u32,
    /// None until it has answered over UDP.
    pub round_trip: Option<RoundTrip>,
    /// Answers of any kind.
    pub answers: u64,
    /// Questions that it did not answer in time.
    pub timeouts: u64,
    /// Time-outs and refusals in a row.
    pub failures: u8,
    refusals: u8,
    /// Answers in a row that are failures to resolve: it is there, but others may know better.
    errors: u8,
    /// When the last failure was counted.
    failed: Now,
    /// When the last answer came.
    heard: Now,
    /// When it was last asked anything, and so measured if it answered.
    asked: Option<Now>,
    /// When it was asked first since its last answer or failure: it has been silent since.
    silent_since: Option<Now>,
    /// Whether it is passed over while another one is up.
    pub is_down: bool,
    back_off_us: u64,
    /// While it is down: when it is probed.
    pub(super) probe_at: Now,
    pub(super) is_probed: bool,
    /// When a group it is in was last asked something while it was down.
    pub(super) wanted: Now,
    /// How it is spoken to.
    pub(super) peer: Peer,
}

impl Server {
    pub(super) fn new(id: ServerId, address: SocketAddr) -> Self {
        Self {
            id,
            address,
            groups: 0,
            round_trip: None,
            answers: 0,
            timeouts: 0,
            failures: 0,
            refusals: 0,
            errors: 0,
            failed: Now(0),
            heard: Now(0),
            asked: None,
            silent_since: None,
            is_down: false,
            back_off_us: 0,
            probe_at: Now(0),
            is_probed: false,
            wanted: Now(0),
            peer: Peer::default(),
        }
    }

    /// Microseconds that an answer is waited for: what the server needs with some to spare, doubled with each failure in a
    /// row; `max` when nothing is known.
    pub fn timeout_us(&self, max: u64) -> u64 {
        let Some(RoundTrip { smoothed_us, variation_us }) = self.round_trip else { return max };
        let doublings = u32::from(self.failures).min(PENALTY_DOUBLINGS_MAX);
        ((smoothed_us + 4 * variation_us).max(UPSTREAM_RTO_US_MIN) << doublings).min(max)
    }

    /// Microseconds that it is expected to take, failures held against it; servers not measured yet stand behind the others.
    pub(super) fn expected_us(&self) -> u64 {
        let failures = u32::from(self.failures) + u32::from(self.errors);
        match (self.round_trip, failures) {
            (None, failures) => u64::MAX / 2 + u64::from(failures),
            (Some(known), 0) => known.smoothed_us,
            (Some(known), failures) => known.smoothed_us.max(PENALTY_US_MIN) << failures.min(PENALTY_DOUBLINGS_MAX),
        }
    }

    /// Whether it is time to measure it anew.
    pub(super) fn is_due(&self, now: Now) -> bool {
        self.asked.is_none_or(|asked| asked.plus_us(UPSTREAM_EXPLORE_US) <= now)
    }

    /// Whether it has failed and not answered since: as long as it is up, it stands behind those of which nothing bad is known.
    pub(super) fn is_suspect(&self) -> bool {
        self.failures > 0
    }

    /// Whether it is time to see if a suspect is back.
    pub(super) fn is_due_as_suspect(&self, now: Now) -> bool {
        self.is_suspect() && self.asked.is_none_or(|asked| asked.plus_us(UPSTREAM_SUSPECT_US) <= now)
    }

    /// When it was last asked; long ago if never.
    pub(super) fn asked(&self) -> Now {
        self.asked.unwrap_or(Now(0))
    }

    /// It is being asked.
    pub(super) fn note_asked(&mut self, now: Now) {
        self.asked = Some(now);
        self.silent_since = self.silent_since.or(Some(now));
    }

    /// A suspect is about to be tried again: that it has not answered the try before counts as a time-out, for the exchange of
    /// that one has most often ended by another server's answer, and nothing else would notice.
    pub(super) fn note_retry(&mut self, now: Now, max: u64, chance: &mut Chance) -> Health {
        match self.silent_since.filter(|since| self.is_suspect() && since.plus_us(self.timeout_us(max)) <= now) {
            Some(since) => self.note_timeout(now, since, chance),
            None => Health::Same,
        }
    }

    /// It answered: `is_good` when with something to be used. `sample_us`: since it was asked over UDP.
    pub(super) fn note_answer(&mut self, now: Now, is_good: bool, sample_us: Option<u64>) {
        self.answers += 1;
        self.heard = now;
        self.silent_since = None;
        self.failures = 0;
        self.refusals = 0;
        self.is_down = false;
        self.is_probed = false;
        self.back_off_us = 0;
        self.errors = if is_good { 0 } else { self.errors.saturating_add(1) };
        if let Some(sample_us) = sample_us {
            self.round_trip = Some(self.round_trip.map_or(RoundTrip::first(sample_us), |known| known.with(sample_us)));
        }
    }

    /// It did not answer in time what it was asked at `sent`.
    pub(super) fn note_timeout(&mut self, now: Now, sent: Now, chance: &mut Chance) -> Health {
        self.timeouts += 1;
        self.refusals = 0;
        self.note_failure(now, sent, chance)
    }

    /// Its host said that nobody listens, or it cannot be reached.
    pub(super) fn note_refusal(&mut self, now: Now, sent: Now, chance: &mut Chance) -> Health {
        if self.is_news(sent) {
            self.refusals = self.refusals.saturating_add(1);
        }
        self.note_failure(now, sent, chance)
    }

    /// Whether the failure of a question asked at `sent` says anything new. Asked before the last failure was noticed: it is the
    /// same one. Asked before the last answer came: the server is there, and only this question or its answer was lost.
    fn is_news(&self, sent: Now) -> bool {
        sent >= self.failed && sent >= self.heard
    }

    fn note_failure(&mut self, now: Now, sent: Now, chance: &mut Chance) -> Health {
        if !self.is_news(sent) {
            return Health::Same;
        }
        self.failures = self.failures.saturating_add(1);
        self.failed = now;
        self.silent_since = None;
        let is_over = self.failures >= UPSTREAM_TIMEOUTS_IN_A_ROW || self.refusals >= UPSTREAM_REFUSALS_IN_A_ROW;
        if self.is_down || !is_over {
            return Health::Same;
        }
        self.is_down = true;
        self.wanted = now;
        self.back_off(now, chance);
        Health::WentDown
    }

    /// A probe failed, or could not be sent.
    pub(super) fn note_probe_failed(&mut self, now: Now, chance: &mut Chance) {
        self.is_probed = false;
        self.failures = self.failures.saturating_add(1);
        self.back_off(now, chance);
    }

    /// Twice as long as the last time, and up to a quarter more, so that the workers do not all ask at the same moment.
    fn back_off(&mut self, now: Now, chance: &mut Chance) {
        const JITTER_STEPS: u16 = 1_024;
        self.back_off_us = (2 * self.back_off_us).clamp(UPSTREAM_BACK_OFF_US_MIN, UPSTREAM_BACK_OFF_US_MAX);
        let jitter_us = self.back_off_us / 4 * u64::from(chance.below(JITTER_STEPS)) / u64::from(JITTER_STEPS);
        self.probe_at = now.plus_us(self.back_off_us + jitter_us);
    }

    /// Whether anybody would be glad if it came back.
    pub(super) fn is_wanted(&self, now: Now) -> bool {
        self.wanted.plus_us(UPSTREAM_PROBE_US_MAX) > now
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MAX: u64 = 600_000;

    fn server() -> (Server, Chance) {
        (Server::new(0, "192.0.2.1:53".parse().unwrap()), Chance::new([3; 32]))
    }

    #[test]
    fn the_time_out_follows_what_was_measured_within_its_bounds() {
        let (mut server, _) = server();
        assert_eq!(server.timeout_us(MAX), MAX, "nothing is known");
        server.note_answer(Now(0), true, Some(40_000));
        assert_eq!(server.round_trip, Some(RoundTrip { smoothed_us: 40_000, variation_us: 20_000 }));
        assert_eq!(server.timeout_us(MAX), 120_000);
        server.note_answer(Now(0), true, Some(80_000));
        assert_eq!(server.round_trip, Some(RoundTrip { smoothed_us: 45_000, variation_us: 25_000 }));
        for _ in 0..50 {
            server.note_answer(Now(0), true, Some(1_000));
        }
        assert_eq!(server.timeout_us(MAX), UPSTREAM_RTO_US_MIN);
        assert_eq!(server.timeout_us(20_000), 20_000, "the configured one is the greatest");
        for _ in 0..50 {
            server.note_answer(Now(0), true, Some(1_500_000));
        }
        assert_eq!(server.timeout_us(MAX), MAX);
    }

    #[test]
    fn the_time_out_doubles_with_each_failure_and_an_answer_takes_that_back() {
        let (mut server, mut chance) = server();
        server.note_answer(Now(0), true, Some(1_000));
        for (failures, timeout_us) in [(1, 100_000), (2, 200_000), (3, 400_000), (4, MAX)] {
            server.note_timeout(Now(failures), Now(failures), &mut chance);
            assert_eq!(server.timeout_us(MAX), timeout_us, "{failures}");
        }
        server.note_answer(Now(0), true, None);
        assert_eq!(server.timeout_us(MAX), 50_000);
    }

    #[test]
    fn a_server_that_failed_is_a_suspect_until_it_answers_anything() {
        let (mut server, mut chance) = server();
        server.note_asked(Now(0));
        assert!(!server.is_suspect() && !server.is_due_as_suspect(Now(UPSTREAM_SUSPECT_US)), "it is waited for");
        server.note_timeout(Now(50), Now(0), &mut chance);
        assert!(server.is_suspect() && !server.is_due_as_suspect(Now(UPSTREAM_SUSPECT_US - 1)));
        assert!(server.is_due_as_suspect(Now(UPSTREAM_SUSPECT_US)));
        server.note_asked(Now(UPSTREAM_SUSPECT_US));
        assert!(!server.is_due_as_suspect(Now(2 * UPSTREAM_SUSPECT_US - 1)), "one try at a time");
        server.note_answer(Now(2 * UPSTREAM_SUSPECT_US), false, None);
        assert!(!server.is_suspect() && !server.is_due_as_suspect(Now(3 * UPSTREAM_SUSPECT_US)));
    }

    #[test]
    fn what_was_asked_before_the_last_answer_is_not_held_against_it() {
        let (mut server, mut chance) = server();
        server.note_answer(Now(100), true, Some(10));
        for _ in 0..3 {
            server.note_timeout(Now(200), Now(99), &mut chance);
            server.note_refusal(Now(200), Now(99), &mut chance);
        }
        assert_eq!((server.failures, server.is_down), (0, false));
        assert_eq!(server.note_refusal(Now(300), Now(100), &mut chance), Health::Same, "the first one");
        assert!(server.is_suspect());
        assert_eq!(server.note_refusal(Now(400), Now(300), &mut chance), Health::WentDown);
    }

    #[test]
    fn a_suspect_whose_tries_nobody_waits_for_goes_down() {
        let (mut server, mut chance) = server();
        server.note_answer(Now(0), true, Some(1_000));
        server.note_asked(Now(0));
        assert_eq!(server.note_retry(Now(10 * MAX), MAX, &mut chance), Health::Same);
        assert_eq!(server.failures, 0, "not a suspect: others see to that");
        server.note_timeout(Now(50_000), Now(0), &mut chance);
        assert_eq!(server.note_retry(Now(250_000), MAX, &mut chance), Health::Same);
        assert_eq!(server.failures, 1, "it has not been tried");
        server.note_asked(Now(250_000));
        server.note_asked(Now(300_000));
        server.note_retry(Now(349_999), MAX, &mut chance);
        assert_eq!(server.failures, 1, "the first try may still be answered");
        server.note_retry(Now(350_000), MAX, &mut chance);
        server.note_retry(Now(350_000), MAX, &mut chance);
        assert_eq!(server.failures, 2, "each try counts once");
        server.note_asked(Now(350_000));
        assert_eq!(server.note_retry(Now(550_000), MAX, &mut chance), Health::WentDown);
    }

    #[test]
    fn a_suspect_that_answers_more_slowly_than_it_is_tried_stays_up() {
        let (mut server, mut chance) = server();
        server.note_asked(Now(0));
        server.note_timeout(Now(MAX), Now(0), &mut chance);
        for at in [MAX, MAX + 250_000, MAX + 500_000] {
            assert_eq!(server.note_retry(Now(at), MAX, &mut chance), Health::Same);
            server.note_asked(Now(at));
        }
        assert_eq!(server.failures, 1);
        server.note_answer(Now(MAX + 590_000), true, Some(590_000));
        assert!(!server.is_suspect());
    }

    #[test]
    fn three_time_outs_in_a_row_or_two_refusals_take_a_server_down() {
        let (mut server, mut chance) = server();
        assert_eq!(server.note_timeout(Now(10), Now(0), &mut chance), Health::Same);
        assert_eq!(server.note_timeout(Now(20), Now(10), &mut chance), Health::Same);
        assert_eq!(server.note_timeout(Now(30), Now(20), &mut chance), Health::WentDown);
        assert_eq!(server.note_timeout(Now(40), Now(30), &mut chance), Health::Same, "it is down already");
        server.note_answer(Now(0), false, None);
        assert!(!server.is_down && server.failures == 0, "any answer brings it up");
        assert_eq!(server.note_refusal(Now(60), Now(60), &mut chance), Health::Same);
        assert_eq!(server.note_refusal(Now(60), Now(60), &mut chance), Health::WentDown);
    }

    #[test]
    fn what_was_lost_together_counts_once() {
        let (mut server, mut chance) = server();
        for at in 100..200 {
            assert_eq!(server.note_timeout(Now(at), Now(at - 100), &mut chance), Health::Same);
        }
        assert_eq!((server.failures, server.timeouts), (1, 100));
        for _ in 0..100 {
            assert_eq!(server.note_refusal(Now(300), Now(299), &mut chance), Health::Same);
        }
    }

    #[test]
    fn the_back_off_doubles_up_to_its_bound_with_some_jitter() {
        let (mut server, mut chance) = server();
        for _ in 0..3 {
            server.note_timeout(Now(0), Now(0), &mut chance);
        }
        let mut seconds = Vec::new();
        for _ in 0..9 {
            let us = server.probe_at.0;
            let whole = us / 1_000_000;
            seconds.push(if whole >= 60 { 60 } else { 1 << whole.ilog2() });
            assert!(us < 60_000_000 * 5 / 4 + 1);
            server.note_probe_failed(Now(0), &mut chance);
        }
        assert_eq!(seconds, [1, 2, 4, 8, 16, 32, 60, 60, 60]);
    }

    #[test]
    fn failures_are_held_against_a_server_and_unmeasured_ones_stand_behind() {
        let (mut known, mut chance) = server();
        let (mut unknown, _) = server();
        known.note_answer(Now(0), true, Some(2_000));
        assert_eq!(known.expected_us(), 2_000);
        known.note_answer(Now(0), false, None);
        assert_eq!(known.expected_us(), 4_000, "an answer that is of no use");
        known.note_timeout(Now(1), Now(1), &mut chance);
        assert_eq!(known.expected_us(), 8_000);
        assert!(known.expected_us() < unknown.expected_us());
        let before = unknown.expected_us();
        unknown.note_timeout(Now(1), Now(1), &mut chance);
        assert!(before < unknown.expected_us());
    }
}
