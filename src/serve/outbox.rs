//! Messages that wait to be written on one TCP connection, each with its length in front (RFC 1035 §4.2.2).
//!
//! Invariant: what a message's writer was told to be taken goes out whole and in order, however little the kernel takes at a
//! time. How much may wait is for the owner to bound.

/// What is still to be written on a connection.
#[derive(Debug, Default)]
pub struct Outbox {
    octets: Vec<u8>,
    /// How many of them the kernel has taken.
    sent: usize,
}

impl Outbox {
    /// What is to be written next.
    pub fn unsent(&self) -> &[u8] {
        self.octets.get(self.sent..).unwrap_or_default()
    }

    /// The first `bytes` of [`Self::unsent`] were written. Once all are, at most `kept_bytes` of memory are held on to.
    pub fn wrote(&mut self, bytes: usize, kept_bytes: usize) {
        self.sent += bytes;
        if self.sent >= self.octets.len() {
            self.sent = 0;
            self.octets.clear();
            self.octets.shrink_to(kept_bytes);
        }
    }

    /// Appends a message. False, with nothing done, when `bytes_max` would then wait, or no length can tell its size.
    pub fn push(&mut self, message: &[u8], bytes_max: usize) -> bool {
        let Ok(length) = u16::try_from(message.len()) else { return false };
        if self.unsent().len() + 2 + message.len() > bytes_max {
            return false;
        }
        self.octets.drain(..std::mem::take(&mut self.sent));
        self.octets.extend_from_slice(&length.to_be_bytes());
        self.octets.extend_from_slice(message);
        true
    }

    /// Octets of memory held.
    pub fn capacity(&self) -> usize {
        self.octets.capacity()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_come_out_whole_and_in_order_however_little_is_taken_at_a_time() {
        let mut outbox = Outbox::default();
        let mut written = Vec::new();
        for number in 0..50u8 {
            assert!(outbox.push(&vec![number; usize::from(number)], 10_000));
            let some = outbox.unsent().len().min(7);
            written.extend_from_slice(&outbox.unsent()[..some]);
            outbox.wrote(some, 64);
        }
        written.extend_from_slice(outbox.unsent());
        outbox.wrote(outbox.unsent().len(), 64);
        let framed = |number: u8| [vec![0, number], vec![number; usize::from(number)]].concat();
        assert_eq!(written, (0..50).flat_map(framed).collect::<Vec<u8>>());
        assert!(outbox.capacity() <= 64);
    }

    #[test]
    fn what_does_not_fit_changes_nothing() {
        let mut outbox = Outbox::default();
        assert!(outbox.push(b"abc", 10));
        assert!(!outbox.push(b"defg", 10));
        assert_eq!(outbox.unsent(), b"\0\x03abc");
        assert!(outbox.push(b"def", 10));
        assert!(!Outbox::default().push(&[0; 65_536], 1 << 20), "no length tells that size");
    }
}
