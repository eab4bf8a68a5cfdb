//! Stage 11, reply: from an answer to bytes within the client's size.

use super::Transport;
use super::answer::Answer;
use super::question::{ErrorReply, Question};

/// An Extended DNS Error (RFC 8914).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ede<'a> {
    /// INFO-CODE.
    pub code: u16,
    /// EXTRA-TEXT, maybe empty.
    pub text: &'a str,
}

/// The sections behind the question in wire form: compressed against the question's name, with the places of the TTLs.
/// The same bytes serve every client that asks the same question, for the question's length is the same.
pub struct Body {}

impl Body {
    /// Buffers for the largest body.
    pub fn new() -> Self {
        todo!()
    }
    /// Composes the records of `answer` behind a question for `question.name`.
    pub fn compose(&mut self, _question: &Question, _answer: &Answer) {
        todo!()
    }
}

/// The header's and OPT's part of a reply.
#[derive(Clone, Copy, Debug)]
pub struct ReplyHead<'a> {
    /// Extended RCODE.
    pub rcode: u16,
    /// AD; sent only to clients that set AD or DO.
    pub authentic_data: bool,
    /// AA: set for blocked, local and aliased answers? No: we are a forwarder; kept false.
    pub ede: Option<Ede<'a>>,
}

/// Writes a whole reply; with TC and no records when it doesn't fit. Returns its length.
pub fn write(
    _question: &Question,
    _transport: Transport,
    _head: ReplyHead<'_>,
    _body: &Body,
    _out: &mut [u8],
) -> usize {
    todo!()
}

/// Writes a reply without records: SERVFAIL, REFUSED and the like.
pub fn write_empty(_question: &Question, _transport: Transport, _head: ReplyHead<'_>, _out: &mut [u8]) -> usize {
    todo!()
}

/// Writes an empty reply with TC, to bring a UDP client to TCP.
pub fn write_truncated(_question: &Question, _out: &mut [u8]) -> usize {
    todo!()
}

/// Writes the reply to a message that was not taken up, echoing its question where `reply` says so.
pub fn write_error(_reply: &ErrorReply, _datagram: &[u8], _out: &mut [u8]) -> usize {
    todo!()
}
