//! The vocabulary between the core and whoever carries its steps out.

use std::net::{IpAddr, SocketAddr};

use super::upstream::ServerId;
use crate::limits;

/// Microseconds on a monotonic clock whose zero is any moment before the first event.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Now(pub u64);

impl Now {
    /// This moment and `us` microseconds.
    pub fn plus_us(self, us: u64) -> Now {
        Now(self.0.saturating_add(us))
    }

    /// Whole seconds from `earlier` to this moment; 0 when it is later.
    pub fn seconds_since(self, earlier: Now) -> u32 {
        u32::try_from(self.0.saturating_sub(earlier.0) / 1_000_000).unwrap_or(u32::MAX)
    }
}

/// How a message travels.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Transport {
    /// One datagram, bounded by the client's EDNS size.
    Udp,
    /// A stream of messages with a length in front.
    Tcp,
}

/// Where a query came from and where its reply goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Origin {
    /// The client's address and port.
    pub client: SocketAddr,
    /// The address that it asked, when the socket is bound to all of them.
    pub local: Option<IpAddr>,
    /// How it asked.
    pub transport: Transport,
    /// For `serve` alone: socket or connection.
    pub token: u64,
}

/// A query that waits; void once it has been replied to or dropped.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Ticket {
    pub(super) index: u32,
    pub(super) turn: u32,
}

/// An upstream exchange in flight.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct ExchangeId {
    pub(super) index: u32,
    pub(super) turn: u32,
}

/// One message of an exchange to one server; void once the exchange is over.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct SendId {
    /// Of which exchange.
    pub exchange: ExchangeId,
    /// Which of its sends, from 0.
    pub(super) place: u8,
}

impl SendId {
    /// Whatever an exchange may have sent.
    pub fn all_of(exchange: ExchangeId) -> impl Iterator<Item = SendId> {
        (0..limits::UPSTREAM_SENDS_MAX).map(move |place| SendId { exchange, place })
    }
}

/// Why a message did not reach its server.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Undelivered {
    /// The server, or the way to it, did not take it: refused, unreachable, reset.
    Refused,
    /// It did not leave this machine, for want of a descriptor, a port, memory or a place: that tells nothing of the server.
    NoRoom,
}

#[cfg(test)]
impl Ticket {
    /// One to test with.
    pub(crate) fn of_test(index: u32) -> Self {
        Self { index, turn: 0 }
    }
}

#[cfg(test)]
impl ExchangeId {
    /// One to test with.
    pub(crate) fn of_test(index: u32) -> Self {
        Self { index, turn: 0 }
    }
}

/// What `serve` is to do next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// Send the first `bytes` of the buffer to `to`; the query is over.
    Reply { bytes: usize, to: Origin },
    /// Nothing is sent; the query is over.
    Drop(DropReason),
    /// Nothing is sent: the client was answered before, and the query, which went on to renew what the cache holds, is over.
    Refreshed,
    /// Read the rows of [`super::Core::lookup`] and call [`super::Core::on_rows`].
    AskStore(Ticket),
    /// Read the target of [`super::Core::alias_asked`] and call [`super::Core::on_target`].
    AskTarget(Ticket),
    /// Scan the text of [`super::Core::lookup`] and call [`super::Core::on_matches`].
    AskPatterns(Ticket),
    /// What was asked last is not in memory: have it read where the disk may be waited for, [`super::Core::alias_asked`]
    /// and the rows of [`super::Core::lookup`], then call [`super::Core::on_read`]; or at once
    /// [`super::Core::on_read_refused`]. The query waits.
    ReadStore(Ticket),
    /// The query waits for an upstream; see [`super::Core::next_ready`].
    Wait(Ticket),
}

/// Work that an event left behind; to be drained by [`super::Core::next_ready`] before the next event.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ready {
    /// Send [`super::Core::upstream_request`].
    Send(SendId),
    /// Call [`super::Core::resume`]: an upstream has answered or failed, its client has waited long enough for an expired
    /// answer, the store has been waited for for too long, or the query is a new one that no client waits for.
    Query(Ticket),
    /// The exchange is over: no answer to any of its sends is waited for any more.
    Done(ExchangeId),
}

/// The store or the patterns could not be read. Who found it has said why, though not for each query, and `decide` counts the
/// query ([`super::counters::Counters::store_failures`]).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StoreFailed;

/// Why rows, or the target of an alias, are not there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unread {
    /// They could not be read.
    Failed,
    /// The disk would have to be waited for.
    WouldWait,
}

impl From<StoreFailed> for Unread {
    fn from(_: StoreFailed) -> Unread {
        Unread::Failed
    }
}

/// Why a message gets no answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum DropReason {
    /// Shorter than a header.
    Short,
    /// QR set: answering a response would let two servers loop (RFC 1035 §4.1.1).
    NotAQuery,
    /// From port 0 or another address that cannot be answered.
    Unanswerable,
    /// The block mode says so.
    BlockMode,
    /// The query's time was over before an answer came.
    TimedOut,
}

/// An upstream request to send.
#[derive(Clone, Copy, Debug)]
pub struct UpstreamRequest<'a> {
    /// To whom.
    pub server: ServerId,
    /// Its address.
    pub address: SocketAddr,
    /// How.
    pub transport: Transport,
    /// Which of the server's sockets (source ports), below [`limits::SERVER_SOCKETS`]; for UDP.
    pub socket: u16,
    /// Its message id: no other send in flight bears it.
    pub id: u16,
    /// The message, without a length in front.
    pub message: &'a [u8],
}

const _: () = assert!(limits::SERVER_SOCKETS <= u16::MAX as usize);
