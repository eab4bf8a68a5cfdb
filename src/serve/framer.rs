//! Messages in a stream of bytes: each with its length in front (RFC 1035 §4.2.2), however the stream was segmented.
//!
//! Invariant: the buffer holds one message of the largest size at most, takes no more than twice what was received beyond
//! its first size, and is small again when a long message has been taken out.

use crate::limits::MESSAGE_BYTES_MAX;

/// Cuts a stream of bytes into messages, however it was segmented.
#[derive(Debug)]
pub struct Framer {
    /// Bytes of the buffer while no long message is being read.
    room: usize,
    buffer: Vec<u8>,
    /// Where the next message begins.
    at: usize,
    filled: usize,
}

impl Framer {
    /// Nothing read yet; reads `room` bytes at a time, at least 2, where no longer message is under way.
    pub fn new(room: usize) -> Self {
        let room = room.max(2);
        Self { room, buffer: vec![0; room], at: 0, filled: 0 }
    }

    /// Whether a message has begun that is not complete.
    pub fn is_within_message(&self) -> bool {
        self.at < self.filled && self.message().is_none()
    }

    /// The next whole message without its length; none until it is complete.
    pub fn message(&self) -> Option<&[u8]> {
        let (length, rest) = self.buffer.get(self.at..self.filled)?.split_first_chunk::<2>()?;
        rest.get(..usize::from(u16::from_be_bytes(*length)))
    }

    /// Takes the message of [`Self::message`] out.
    pub fn consume(&mut self) {
        self.at += self.message().map_or(0, |message| 2 + message.len());
    }

    /// Where to read on to; never empty while no whole message is there.
    pub fn space(&mut self) -> &mut [u8] {
        self.buffer.copy_within(self.at..self.filled, 0);
        self.filled -= self.at;
        self.at = 0;
        let needed = match self.buffer.get(..self.filled).and_then(|bytes| bytes.split_first_chunk::<2>()) {
            Some((length, _)) => 2 + usize::from(u16::from_be_bytes(*length)),
            None => 2,
        };
        debug_assert!(needed <= 2 + MESSAGE_BYTES_MAX);
        // Grows for a long message only, and no faster than it comes: a length alone is cheap to send. Shrinks when it is over.
        let wanted = needed.min(2 * self.filled).max(self.room);
        if self.buffer.len() != wanted && self.filled <= wanted {
            self.buffer.resize(wanted, 0);
            self.buffer.shrink_to_fit();
        }
        self.buffer.get_mut(self.filled..).unwrap_or_default()
    }

    /// The first `bytes` of [`Self::space`] have been read.
    pub fn filled(&mut self, bytes: usize) {
        self.filled = (self.filled + bytes).min(self.buffer.len());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ROOM: usize = 1_024;

    fn frame(message: &[u8]) -> Vec<u8> {
        let mut framed = (message.len() as u16).to_be_bytes().to_vec();
        framed.extend_from_slice(message);
        framed
    }

    /// Feeds `bytes` in pieces of at most `piece` and returns the messages.
    fn cut(bytes: &[u8], piece: usize) -> Vec<Vec<u8>> {
        let mut framer = Framer::new(ROOM);
        let mut messages = Vec::new();
        let mut rest = bytes;
        while !rest.is_empty() {
            let space = framer.space();
            assert!(!space.is_empty());
            let count = space.len().min(piece).min(rest.len());
            space[..count].copy_from_slice(&rest[..count]);
            framer.filled(count);
            rest = &rest[count..];
            while let Some(message) = framer.message() {
                messages.push(message.to_vec());
                framer.consume();
            }
        }
        messages
    }

    #[test]
    fn messages_come_whole_however_the_stream_was_cut() {
        let messages: Vec<Vec<u8>> = [0, 1, 12, 300, 1_021, 1_022, 1_023, 5_000, 65_535, 17]
            .iter()
            .map(|&size| vec![size as u8; size])
            .collect();
        let stream: Vec<u8> = messages.iter().flat_map(|message| frame(message)).collect();
        for piece in [1, 2, 3, 7, 1_024, 1_025, 65_537, 200_000] {
            assert!(cut(&stream, piece) == messages, "pieces of {piece}");
        }
    }

    #[test]
    fn a_length_without_its_message_takes_no_memory() {
        let mut framer = Framer::new(ROOM);
        framer.space()[..2].copy_from_slice(&[0xff, 0xff]);
        framer.filled(2);
        assert_eq!(framer.space().len(), ROOM - 2);
        assert!(framer.is_within_message());
        for _ in 0..3 * ROOM {
            framer.space()[0] = 1;
            framer.filled(1);
        }
        framer.space();
        assert!(framer.buffer.capacity() <= 2 * (3 * ROOM + 2), "{}", framer.buffer.capacity());
    }

    #[test]
    fn the_buffer_is_small_again_after_a_long_message() {
        let mut framer = Framer::new(ROOM);
        let stream = frame(&[1; 60_000]);
        for byte in stream.chunks(1_000) {
            let space = framer.space();
            let count = byte.len().min(space.len());
            space[..count].copy_from_slice(&byte[..count]);
            framer.filled(count);
            assert_eq!(count, byte.len());
        }
        assert_eq!(framer.message().map(<[u8]>::len), Some(60_000));
        assert!(!framer.is_within_message());
        framer.consume();
        assert_eq!(framer.space().len(), ROOM);
        assert!(framer.buffer.capacity() <= 2 * ROOM);
    }
}
