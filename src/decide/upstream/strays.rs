//! Sends that nobody waits for any more, for another server was faster: their answers are measured if they still come.
//!
//! Invariant: a stray changes what is known of a server and nothing else; its message is not looked at.

use super::groups::ServerRef;
use crate::decide::Now;
use crate::limits::{UPSTREAM_ANSWER_US_MAX, UPSTREAM_STRAYS_MAX};

/// A send over UDP whose exchange has ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stray {
    /// Message id.
    pub id: u16,
    /// From which of the server's sockets.
    pub socket: u16,
    /// To whom.
    pub server: ServerRef,
    /// When.
    pub sent: Now,
    /// Whether it counts as a time-out already.
    pub was_given_up: bool,
    /// Whether it was sent to measure the server, so that its answer is missed more than others.
    pub is_measuring: bool,
}

/// The latest of them.
pub struct Strays {
    ring: Vec<Option<Stray>>,
    next: usize,
    count: usize,
}

impl Strays {
    /// Takes all memory.
    pub fn new() -> Self {
        Self { ring: vec![None; UPSTREAM_STRAYS_MAX], next: 0, count: 0 }
    }

    /// Adds one if there is a place: free, or of one whose answer can no longer come, which is returned. Under load this is a
    /// sample of them; those that measure, a few per second, always have one, or a suspect would not be seen to answer.
    pub fn push(&mut self, stray: Stray, now: Now) -> Option<Stray> {
        let place = self.ring.get_mut(self.next)?;
        self.next = (self.next + 1) % UPSTREAM_STRAYS_MAX;
        match *place {
            Some(known) if known.sent.plus_us(UPSTREAM_ANSWER_US_MAX) > now => {
                if stray.is_measuring {
                    *place = Some(stray);
                }
                None
            }
            known => {
                *place = Some(stray);
                self.count += usize::from(known.is_none());
                known
            }
        }
    }

    /// Takes the one out that a message with this id on this socket answers in time.
    pub fn take(&mut self, now: Now, id: u16, server: u32, socket: u16) -> Option<Stray> {
        if self.count == 0 {
            return None;
        }
        let is_it = |stray: &Stray| (stray.id, stray.server.id, stray.socket) == (id, server, socket);
        let place = self.ring.iter_mut().find(|place| place.as_ref().is_some_and(is_it))?;
        self.count -= 1;
        place.take().filter(|stray| stray.sent.plus_us(UPSTREAM_ANSWER_US_MAX) > now)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stray(id: u16) -> Stray {
        Stray {
            id,
            socket: 3,
            server: ServerRef { slot: 0, id: 7 },
            sent: Now(100),
            was_given_up: false,
            is_measuring: false,
        }
    }

    #[test]
    fn a_stray_is_found_once_and_only_by_its_own_answer_in_time() {
        let mut strays = Strays::new();
        strays.push(stray(1), Now(100));
        assert_eq!(strays.take(Now(200), 1, 7, 4), None, "another socket");
        assert_eq!(strays.take(Now(200), 1, 8, 3), None, "another server");
        assert_eq!(strays.take(Now(200), 2, 7, 3), None, "another id");
        assert_eq!(strays.take(Now(200), 1, 7, 3), Some(stray(1)));
        assert_eq!(strays.take(Now(200), 1, 7, 3), None, "twice");
        strays.push(stray(2), Now(200));
        assert_eq!(strays.take(Now(100 + UPSTREAM_ANSWER_US_MAX), 2, 7, 3), None, "too late");
    }

    #[test]
    fn those_that_can_no_longer_be_answered_make_room_and_the_others_only_for_measuring() {
        let mut strays = Strays::new();
        for id in 0..UPSTREAM_STRAYS_MAX as u16 {
            assert_eq!(strays.push(stray(id), Now(100)), None);
        }
        assert_eq!(strays.push(stray(999), Now(200)), None);
        assert_eq!(strays.take(Now(200), 999, 7, 3), None, "there was no place");
        let measuring = Stray { is_measuring: true, ..stray(998) };
        assert_eq!(strays.push(measuring, Now(200)), None, "the one before it may still be answered");
        assert_eq!(strays.take(Now(200), 998, 7, 3), Some(measuring), "one that measures has a place");
        assert_eq!(strays.take(Now(200), 1, 7, 3), None, "that of another");
        let late = Now(100 + UPSTREAM_ANSWER_US_MAX);
        assert_eq!(strays.push(Stray { sent: late, ..stray(999) }, late), Some(stray(2)));
        assert!(strays.take(late, 999, 7, 3).is_some());
    }
}
