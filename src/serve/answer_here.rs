//! What a query needs of this machine alone: rows from the shards, scans by the patterns, until it is answered or waits for
//! an upstream or the disk. The server and the tests that run scenarios share it, so that both walk the same stages.

use super::patterns::PatternScanner;
use super::store::StoreReader;
use super::store::readers::TooManyReads;
use crate::decide::pattern::Matches;
use crate::decide::{Core, Now, Step, Unread};

/// Has what the answers to the first `count` messages of a batch will be read from fetched side by side, once all have been
/// heard: answers of the cache, and rows where they lie in memory. On the hot path.
pub fn fetch_ahead(core: &mut Core, count: usize, store: &StoreReader) {
    if core.look_ahead(count) {
        core.lookups_ahead(count).for_each(|lookup| store.prefetch_places(lookup));
        core.lookups_ahead(count).for_each(|lookup| store.prefetch_rows(lookup));
    }
}

/// Carries out the steps that need no waiting and returns the first other one: reply, drop or wait. `out` is the buffer
/// that the step's event was given. Does not allocate while the store can be read. On the hot path.
///
/// The loop ends because `decide` bounds a chain of names ([`crate::limits::CHAIN_LINKS_MAX`]) and asks at most three times
/// about each.
pub fn carry_out(
    core: &mut Core,
    now: Now,
    mut step: Step,
    store: &mut StoreReader,
    patterns: &mut PatternScanner,
    out: &mut [u8],
) -> Step {
    while let Step::AskStore(_) | Step::AskTarget(_) | Step::AskPatterns(_) | Step::ReadStore(_) = step {
        step = carry_one_out(core, now, step, store, patterns, out);
    }
    step
}

/// Carries out one step, if it is one that needs no network, and returns the one after it. On the hot path.
pub fn carry_one_out(
    core: &mut Core,
    now: Now,
    step: Step,
    store: &mut StoreReader,
    patterns: &mut PatternScanner,
    out: &mut [u8],
) -> Step {
    match step {
        Step::AskStore(ticket) => core.on_rows(now, ticket, out, |lookup, found| store.read(lookup, found)),
        Step::AskTarget(ticket) => {
            let target = match core.alias_asked(ticket) {
                Some((shard, name, class)) => store.target(shard, name, class),
                None => Err(Unread::Failed),
            };
            core.on_target(now, ticket, target, out)
        }
        Step::AskPatterns(ticket) => {
            let mut matches = Matches::new();
            let scanned = patterns.scan(core.lookup().text(), &mut matches);
            core.on_matches(now, ticket, scanned.map(|()| &matches), out)
        }
        Step::ReadStore(ticket) => match store.have_read(ticket, core.lookup(), core.alias_asked(ticket)) {
            Ok(()) => Step::Wait(ticket),
            Err(TooManyReads) => core.on_read_refused(now, ticket, out),
        },
        Step::Reply { .. } | Step::Drop(_) | Step::Refreshed | Step::Wait(_) => step,
    }
}
