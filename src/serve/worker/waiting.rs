//! How a worker waits for its sockets: in a nap of one system call, or parked in the executor.

use std::io;
use std::time::Duration;

use super::{Round, Worker};
use crate::decide::Now;
use crate::limits::{NAP_MS_MAX, PARK_US_MIN};
use crate::serve::kernel::Interest;
use crate::serve::wait::{Asleep, Tag};

/// Lengths of a nap after which it ends although the alarm did not ring. It always does; a server should not hang on that.
const NAPS_BEFORE_ALARM_IS_LOST: u16 = 10;

impl Worker {
    /// Lets traffic on a socket that another task reads end this worker's nap.
    pub fn watch_for_others(&self, socket: &impl std::os::fd::AsRawFd) {
        if let Err(error) = self.epoll.add(socket, Tag::Task.into(), Interest::Change) {
            // The nap then ends a millisecond late for this socket, no more.
            tracing::debug!("a socket cannot be waited for: {error}");
        }
    }

    /// Waits until any socket is ready or the alarm rings, and hears what upstreams say.
    pub(super) fn nap(&mut self) -> Round {
        let mut wait_ms = NAP_MS_MAX;
        if self.is_alarm_set || self.alarm.set(wait_ms).is_ok() {
            self.is_alarm_set = true;
            self.counters.naps.add(1);
            wait_ms = wait_ms.saturating_mul(NAPS_BEFORE_ALARM_IS_LOST);
        }
        if let Err(error) = self.polled.wait(wait_ms) {
            return self.cannot_wait(&error);
        }
        for listener in &mut self.listeners {
            listener.may_hold_more = self.polled.is_ready(listener.number);
        }
        if self.polled.is_ready(self.epoll_number) { self.look() } else { Round::default() }
    }

    /// Asks the kernel which sockets but the listening ones are ready, and hears what upstreams say.
    pub(super) fn look(&mut self) -> Round {
        self.unasked_rounds = 0;
        let mut round = Round::default();
        if let Err(error) = self.epoll.wait(&mut self.events, 0) {
            return self.cannot_wait(&error);
        }
        let now = self.clock.now();
        for index in 0..self.events.count() {
            match self.events.tag(index).map(Tag::from) {
                Some(Tag::Port(port)) => round.was_busy |= self.hear(now, port),
                Some(Tag::Readers) => {
                    self.take_findings(now);
                    round.was_busy = true;
                }
                Some(Tag::Task) => round.is_others_turn = true,
                None => {}
            }
        }
        round
    }

    #[cold]
    fn cannot_wait(&mut self, error: &io::Error) -> Round {
        tracing::error!("waiting for sockets failed: {error}");
        // Look at every listening socket instead, and let the executor wait.
        self.listeners.iter_mut().for_each(|listener| listener.may_hold_more = true);
        Round { is_others_turn: true, ..Round::default() }
    }

    /// The other tasks have had their turn: naps may go on for their whole length again.
    pub fn others_had_their_turn(&mut self) {
        self.is_alarm_set = false;
    }

    /// For how long nothing but new traffic can make work, so that the worker may park: until the next deadline, when that is
    /// worth a timer. Not while an upstream is asked or the store is read, for nobody watches for that meanwhile.
    pub fn may_park(&mut self) -> Option<Asleep> {
        let now = self.clock.now();
        self.ports.close_retired(now);
        if self.is_stopping || self.is_waited_for() {
            return None;
        }
        let asleep = match self.core.next_deadline() {
            None => Asleep::UntilWoken,
            Some(due) if due > now.plus_us(PARK_US_MIN) => Asleep::AtMost(Duration::from_micros(due.0 - now.0)),
            Some(_) => return None,
        };
        self.parked_until = self.core.next_deadline().unwrap_or(Now(u64::MAX));
        self.counters.parks.add(1);
        Some(asleep)
    }
}
