//! What one worker counts of its sockets; what it counts of its queries is [`crate::decide::counters`].
//!
//! Invariant: only the worker writes its counters; others read them relaxed. No two workers' counters share a cache line.

use std::net::SocketAddr;
use std::sync::Arc;

use corewall_sharding::direct::DirectShards;
use corewall_sharding::filters::Filters;
use std::path::PathBuf;

use crate::control::protocol::{CacheUse, WorkerServer};
use crate::decide::counters::{Counter, Counters};
use crate::decide::live::LiveSummary;

macro_rules! socket_counters {
    ($($(#[doc = $doc:literal])+ $name:ident,)+) => {
        /// The socket counters of one worker.
        #[derive(Debug, Default)]
        #[repr(align(128))]
        pub struct SocketCounters { $($(#[doc = $doc])+ pub $name: Counter,)+ }

        impl SocketCounters {
            /// Every counter with its name and meaning.
            pub fn each(&self) -> impl Iterator<Item = (&'static str, &'static str, u64)> {
                [$((stringify!($name), concat!($($doc),+), self.$name.value()),)+].into_iter()
            }
        }
    };
}

socket_counters! {
    /// Calls that received datagrams.
    udp_batches,
    /// Datagrams received.
    udp_received,
    /// Datagrams longer than the largest that is read.
    udp_cut,
    /// Replies sent.
    udp_sent,
    /// Replies dropped because the socket's buffer was full.
    udp_dropped,
    /// Replies that the kernel refused to send.
    udp_failed,
    /// TCP connections accepted.
    tcp_accepted,
    /// TCP connections closed at once: too many of one client, or too many in all and none of them idle.
    tcp_refused,
    /// Idle TCP connections closed to make room for new ones.
    tcp_displaced,
    /// TCP connections closed because nothing was asked, or nothing was read, for too long.
    tcp_idle,
    /// TCP connections closed because a message took too long to come whole.
    tcp_incomplete,
    /// TCP connections ended because they had lived long enough.
    tcp_ended,
    /// TCP connections closed because the client does not read its replies.
    tcp_slow,
    /// Messages received over TCP.
    tcp_received,
    /// Replies handed to TCP connections.
    tcp_replies,
    /// Replies for TCP connections that had gone.
    tcp_gone,
    /// Ports opened towards upstreams.
    upstream_ports,
    /// Upstream sends that found no socket or were refused at once.
    upstream_unsent,
    /// TCP connections begun with upstream servers.
    upstream_connections,
    /// Questions sent once more because an upstream server closed a TCP connection that it had answered on before.
    upstream_again,
    /// Times that the worker waited for its sockets in one system call.
    naps,
    /// Times that the worker slept in the executor because nothing came.
    parks,
}

/// The counters of several workers added up, in the order of [`SocketCounters::each`], then [`Counters::each`].
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Totals(Vec<(&'static str, u64)>);

impl Totals {
    /// Of one worker.
    pub fn of(sockets: &SocketCounters, queries: &Counters) -> Self {
        Self(sockets.each().chain(queries.each()).map(|(name, _, value)| (name, value)).collect())
    }

    /// Adds another worker's.
    pub fn add(&mut self, other: &Totals) {
        if self.0.is_empty() {
            self.0.clone_from(&other.0);
            return;
        }
        for ((_, sum), (_, value)) in self.0.iter_mut().zip(&other.0) {
            *sum = sum.wrapping_add(*value);
        }
    }

    /// Every counter with its name.
    pub fn each(&self) -> impl Iterator<Item = (&'static str, u64)> {
        self.0.iter().copied()
    }

    /// One of them; 0 when there is none of this name.
    pub fn value(&self, name: &str) -> u64 {
        self.each().find(|(known, _)| *known == name).map_or(0, |(_, value)| value)
    }

    /// `name=value` of everything that is not zero.
    pub fn line(&self) -> String {
        let parts: Vec<String> =
            self.0.iter().filter(|(_, value)| *value != 0).map(|(name, value)| format!("{name}={value}")).collect();
        if parts.is_empty() { "nothing was asked".to_owned() } else { parts.join(" ") }
    }
}

/// What one worker says of itself when it is asked.
#[derive(Clone)]
pub struct WorkerReport {
    /// The generation that it serves; none without a store.
    pub generation: Option<u64>,
    /// The directory of its store.
    pub store: Option<PathBuf>,
    /// Rules of that generation.
    pub rules: u64,
    /// Its filters.
    pub filters: Arc<Filters>,
    /// Its shards that are locked in memory.
    pub direct: Arc<DirectShards>,
    /// The live rules on top of them.
    pub live: LiveSummary,
    /// Queries taken in and not answered yet.
    pub queries_waiting: u64,
    /// TCP connections with clients.
    pub tcp_connections: u64,
    /// How full its cache is.
    pub cache: CacheUse,
    /// Everything that it has counted.
    pub totals: Totals,
}

/// What one worker says of an upstream server when it is asked.
#[derive(Clone, Debug)]
pub struct ServerReport {
    /// Its address.
    pub address: SocketAddr,
    /// The configured groups that it is in.
    pub groups: Vec<String>,
    /// What this worker has found out; the core is filled in by whoever asked.
    pub found: WorkerServer,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn totals_are_the_sums_over_the_workers_and_leave_zeroes_out() {
        let mut totals = Totals::default();
        assert_eq!(totals.line(), "nothing was asked");
        for received in [3, 4] {
            let (sockets, queries) = (SocketCounters::default(), Counters::default());
            sockets.udp_received.add(received);
            queries.blocked.add(1);
            totals.add(&Totals::of(&sockets, &queries));
        }
        assert_eq!(totals.line(), "udp_received=7 blocked=2");
        assert_eq!(["udp_received", "blocked", "parks", "no_such"].map(|name| totals.value(name)), [7, 2, 0, 0]);
    }
}
