//! Stage 8, upstream, the sending half: source ports for questions over UDP ([`ports`]), pooled connections for those over
//! TCP ([`pool`] says what goes where, [`carry`] moves the bytes).

pub mod carry;
pub mod pool;
pub mod ports;

/// Why a question was not sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unsent {
    /// The server's host refused an earlier question on this socket, so everything in flight on it has failed.
    Refused,
    /// No socket, no route, or no room in the socket's buffer.
    Failed,
}
