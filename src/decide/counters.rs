//! What one worker counts. Only that worker writes, so an increment is a load and a store; others read relaxed.

use std::sync::atomic::{AtomicU64, Ordering};

use super::step::DropReason;

/// A number that one thread writes and any may read.
#[derive(Debug, Default)]
pub struct Counter(AtomicU64);

impl Counter {
    /// Adds `n`. Only for the owner: two writers would lose counts.
    pub fn add(&self, n: u64) {
        self.0.store(self.0.load(Ordering::Relaxed).wrapping_add(n), Ordering::Relaxed);
    }

    /// The number now.
    pub fn value(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

macro_rules! counters {
    ($($(#[doc = $doc:literal])+ $name:ident,)+) => {
        /// The counters of one worker. Aligned to two cache lines, so that no two workers' counters share one (the
        /// prefetcher of x86 fetches lines in pairs).
        #[derive(Debug, Default)]
        #[repr(align(128))]
        pub struct Counters { $($(#[doc = $doc])+ pub $name: Counter,)+ }

        impl Counters {
            /// Every counter with its name and meaning, in the order of a query's life.
            pub fn each(&self) -> impl Iterator<Item = (&'static str, &'static str, u64)> {
                [$((stringify!($name), concat!($($doc),+), self.$name.value()),)+].into_iter()
            }
        }
    };
}

counters! {
    /// Messages received.
    received,
    /// Replies written.
    replies,
    /// Messages shorter than a header.
    drops_short,
    /// Messages with QR set.
    drops_not_a_query,
    /// Messages from an address that cannot be answered.
    drops_unanswerable,
    /// Questions that a block mode leaves without an answer.
    drops_block_mode,
    /// Queries whose time was over.
    drops_timed_out,
    /// Messages answered by an error of the protocol: FORMERR, NOTIMP, BADVERS, REFUSED.
    rejected,
    /// Questions refused by the list of allowed clients.
    refused_clients,
    /// Questions answered from the cache.
    cache_hits,
    /// Cached answers that were judged again after a change of rules and held.
    cache_confirmed,
    /// Questions answered by an expired answer (RFC 8767).
    stale_answers,
    /// Questions answered by the NXDOMAIN of a name at or above theirs (RFC 8020).
    cut_answers,
    /// Cached answers that were asked for again while no client waited for them.
    refreshes,
    /// Cached answers that were forgotten on demand.
    cache_flushed,
    /// Questions answered from local records and special-use names.
    local_answers,
    /// Questions for which a filter said that the store may know more.
    store_reads,
    /// Questions for which the store then had no row: the filters' false positives.
    store_reads_empty,
    /// Times that a query waited because a page of the store was not in memory.
    store_reads_waited,
    /// Times that this took longer than `store_wait_ms_max`.
    store_waits_over,
    /// Times that a query could not wait: too many did already, or too much was being read.
    store_queue_full,
    /// Reads of store or patterns that failed, those that took too long or could not wait among them.
    store_failures,
    /// Names scanned by the patterns.
    pattern_scans,
    /// Questions answered as blocked, cached ones aside.
    blocked,
    /// Blocked because of a name in the answer's CNAME chain.
    uncloaked,
    /// Blocked because of an address in the answer.
    blocked_by_address,
    /// Answers refused because an upstream gave a public name a private address.
    rebinding_refused,
    /// Questions led on by an alias.
    aliased,
    /// Answers in which an address was rewritten.
    rewritten,
    /// Exchanges begun with an upstream.
    exchanges,
    /// Questions that joined an exchange in flight.
    exchanges_shared,
    /// Messages sent to upstreams.
    upstream_sends,
    /// Of these, further servers that strategy `parallel` asked at once.
    upstream_parallel,
    /// Of these, servers that were asked beside another one to measure them.
    upstream_measurings,
    /// Of these, servers that were asked because the first took long.
    upstream_hedges,
    /// Of these, questions of our own to see whether a server is back.
    upstream_probes,
    /// Exchanges in which a fallback group was asked.
    upstream_fallbacks,
    /// Servers that went down: several failures in a row.
    upstream_downs,
    /// Questions refused because too many wait for a group whose servers are all down.
    upstream_swamped,
    /// Questions refused because rules name more servers than are known at a time.
    rule_groups_refused,
    /// Upstream sends that no answer came to in time.
    upstream_timeouts,
    /// Upstream sends that failed at once: refused, unreachable, reset.
    upstream_failures,
    /// Upstream answers that were cut and asked again over TCP.
    upstream_truncated,
    /// Upstream messages that answered nothing we asked, or were malformed.
    upstream_unexpected,
    /// Upstream messages that answered our question under a wrong id: an attempt to poison.
    upstream_wrong_id,
    /// Upstream answers that may be forged: in another letter case than asked, without the server's cookie, or with a cookie or
    /// client subnet that is not ours.
    upstream_doubtful,
    /// Upstream servers found to know cookies (RFC 7873).
    upstream_cookies_learnt,
    /// Questions asked again of the same server in a plainer form of EDNS, for it did not take the one before.
    upstream_plainer,
    /// SERVFAIL answers.
    servfail,
    /// Questions refused because too many were waiting.
    overloaded,
}

impl Counters {
    /// Counts a message that gets no answer.
    pub fn dropped(&self, reason: DropReason) {
        match reason {
            DropReason::Short => &self.drops_short,
            DropReason::NotAQuery => &self.drops_not_a_query,
            DropReason::Unanswerable => &self.drops_unanswerable,
            DropReason::BlockMode => &self.drops_block_mode,
            DropReason::TimedOut => &self.drops_timed_out,
        }
        .add(1);
    }
}
