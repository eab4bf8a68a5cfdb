//! Upstream answers kept while the store is read for a name in their chain.
//!
//! An answer lies in scratch memory while it is judged, for one event. A query that waits in the middle of that has it copied
//! here and read again afterwards. Clients of one exchange have one copy.
//!
//! Invariants: memory is taken at the start (the kernel gives it when it is first written to); a copy goes when the last query
//! that holds it lets go.

use super::Now;
use crate::limits::{ANSWERS_KEPT_MAX, MESSAGE_BYTES_MAX};

/// A copy that a query holds; to be let go of once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct KeptId(u16);

const _: () = assert!(ANSWERS_KEPT_MAX <= u16::MAX as usize);

/// What was being judged.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct KeptHead {
    /// When it was put here: its TTLs go on.
    pub since: Now,
    /// RCODE.
    pub rcode: u16,
    /// AD.
    pub authentic_data: bool,
}

struct Place {
    holders: u32,
    head: KeptHead,
    bytes: usize,
    message: Vec<u8>,
}

/// All copies of one worker.
pub struct KeptAnswers {
    places: Vec<Place>,
    free: Vec<u16>,
    /// The copy of the outcome that the clients of one exchange are being told.
    shared: Option<KeptId>,
}

impl Default for KeptAnswers {
    fn default() -> Self {
        Self::new()
    }
}

impl KeptAnswers {
    /// Takes all memory.
    pub fn new() -> Self {
        let head = KeptHead { since: Now(0), rcode: 0, authentic_data: false };
        let place = || Place { holders: 0, head, bytes: 0, message: vec![0; MESSAGE_BYTES_MAX] };
        Self {
            places: (0..ANSWERS_KEPT_MAX).map(|_| place()).collect(),
            free: (0..ANSWERS_KEPT_MAX as u16).rev().collect(),
            shared: None,
        }
    }

    /// Copies an answer for one holder; none when there is no place.
    pub fn keep(&mut self, head: KeptHead, message: &[u8]) -> Option<KeptId> {
        let index = *self.free.last()?;
        let place = self.places.get_mut(usize::from(index))?;
        place.message.get_mut(..message.len())?.copy_from_slice(message);
        (place.holders, place.head, place.bytes) = (1, head, message.len());
        self.free.pop();
        Some(KeptId(index))
    }

    /// Copies the outcome of an exchange, or gives the copy that an earlier client of the same has.
    pub fn share(&mut self, head: KeptHead, message: &[u8]) -> Option<KeptId> {
        let known = self.shared.and_then(|id| Some((id, self.places.get_mut(usize::from(id.0))?)));
        if let Some((id, place)) = known {
            place.holders += 1;
            return Some(id);
        }
        self.shared = self.keep(head, message);
        self.shared
    }

    /// The next outcome is another one.
    pub fn end_sharing(&mut self) {
        self.shared = None;
    }

    /// The holder needs it no more.
    pub fn let_go(&mut self, id: KeptId) {
        let Some(place) = self.places.get_mut(usize::from(id.0)) else { return };
        place.holders = place.holders.saturating_sub(1);
        if place.holders == 0 {
            self.free.push(id.0);
            self.shared = self.shared.filter(|shared| *shared != id);
        }
    }

    /// Takes the message out to be read; to be followed by [`Self::put_back`].
    pub fn take_out(&mut self, id: KeptId) -> Option<(KeptHead, usize, Vec<u8>)> {
        let place = self.places.get_mut(usize::from(id.0))?;
        Some((place.head, place.bytes, std::mem::take(&mut place.message)))
    }

    /// It has been read.
    pub fn put_back(&mut self, id: KeptId, message: Vec<u8>) {
        if let Some(place) = self.places.get_mut(usize::from(id.0)) {
            place.message = message;
        }
    }

    /// Copies that somebody holds.
    pub fn count(&self) -> usize {
        self.places.len() - self.free.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn head(rcode: u16) -> KeptHead {
        KeptHead { since: Now(7), rcode, authentic_data: true }
    }

    #[test]
    fn a_copy_is_there_until_its_last_holder_lets_go() {
        let mut kept = KeptAnswers::new();
        let first = kept.share(head(0), b"one").unwrap();
        assert_eq!(kept.share(head(0), b"one"), Some(first), "the same outcome");
        kept.end_sharing();
        let other = kept.share(head(3), b"two").unwrap();
        assert_ne!(first, other);
        kept.let_go(first);
        let (found, bytes, message) = kept.take_out(first).unwrap();
        assert_eq!((found, &message[..bytes]), (head(0), &b"one"[..]));
        kept.put_back(first, message);
        kept.let_go(first);
        assert_eq!(kept.count(), 1);
        kept.let_go(other);
        assert_eq!(kept.count(), 0);
        let next = kept.share(head(0), b"three").unwrap();
        let (_, bytes, message) = kept.take_out(next).unwrap();
        assert_eq!(&message[..bytes], b"three", "what was let go of is shared with nobody");
        kept.put_back(next, message);
    }

    #[test]
    fn copies_are_bounded_and_room_comes_back() {
        let mut kept = KeptAnswers::new();
        let ids: Vec<_> = (0..ANSWERS_KEPT_MAX).map(|_| kept.keep(head(0), b"x").unwrap()).collect();
        assert_eq!(kept.keep(head(0), b"x"), None);
        assert_eq!(kept.share(head(0), b"x"), None);
        kept.let_go(ids[5]);
        assert_eq!(kept.keep(head(0), b"y"), Some(ids[5]));
    }
}
