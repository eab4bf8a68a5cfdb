//! Stage 8, upstream, the sending half: source ports for questions over UDP ([`ports`]), pooled connections for those over
//! TCP ([`pool`] says what goes where, [`carry`] moves the bytes).

pub mod carry;
pub mod pool;
pub mod ports;

use std::io;

use crate::decide::Undelivered;

/// Why a question was not sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unsent {
    /// The server's host refused an earlier question on this socket, so everything in flight on it has failed.
    Refused,
    /// No route to the server.
    Unreachable,
    /// No descriptor, no port, no memory, or no place for it here.
    NoRoom,
}

impl From<&io::Error> for Unsent {
    fn from(error: &io::Error) -> Self {
        match error.raw_os_error() {
            Some(libc::ECONNREFUSED) => Self::Refused,
            // The last two: the socket's buffer is full, all ports that were drawn are taken.
            Some(libc::EMFILE | libc::ENFILE | libc::ENOMEM | libc::ENOBUFS | libc::EAGAIN | libc::EADDRINUSE) => {
                Self::NoRoom
            }
            _ => Self::Unreachable,
        }
    }
}

impl From<Unsent> for Undelivered {
    fn from(unsent: Unsent) -> Self {
        match unsent {
            Unsent::Refused | Unsent::Unreachable => Self::Refused,
            Unsent::NoRoom => Self::NoRoom,
        }
    }
}
