//! The memory that the threads writing shards share.
//!
//! A shard's hashes are kept while its rows are merged, and its filter then takes several times as much for a moment. Invariant: a
//! shard is begun only when, with the hashes of all that are at work held, the largest filter among them still fits; so whoever waits for
//! room to make a filter gets it in the end, whatever the others do.

use std::sync::{Condvar, Mutex, PoisonError};

use crate::places;

/// Bytes of a name's hash while its shard is merged.
const HASH_BYTES: u64 = 8;
/// Bytes a key while a filter is made, beside the hashes: xorf's tables (25), the fingerprints (at most 2.5), and the file's copy of them.
const FILTER_BYTES: u64 = 30;
const _: () =
    assert!(places::MAKING_BYTES <= FILTER_BYTES, "places are made in the room of the filter, when that is done");

/// Bytes shared by the threads that write shards.
pub(super) struct Memory {
    bytes: u64,
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Default)]
struct State {
    /// Keys of each shard at work.
    keys: Vec<u64>,
    /// Bytes of filters being made.
    filters: u64,
    ended: bool,
}

impl State {
    fn hashes(&self) -> u64 {
        self.keys.iter().sum::<u64>() * HASH_BYTES
    }
}

impl Memory {
    pub(super) fn new(bytes: u64) -> Memory {
        Memory { bytes, state: Mutex::default(), changed: Condvar::new() }
    }

    /// Bytes that there are.
    pub(super) fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Whether a shard of so many keys can be written at all.
    pub(super) fn fits(&self, keys: u64) -> bool {
        keys.saturating_mul(HASH_BYTES + FILTER_BYTES) <= self.bytes
    }

    /// Bytes that `keys` keys of one shard need.
    pub(super) fn bytes_for(keys: u64) -> u64 {
        keys.saturating_mul(HASH_BYTES + FILTER_BYTES)
    }

    /// Waits until a shard of so many keys may begin; none when another one has failed.
    pub(super) fn begin(&self, keys: u64) -> Option<Held<'_>> {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        loop {
            let largest = state.keys.iter().copied().max().unwrap_or(0).max(keys);
            let hashes = state.hashes() + keys * HASH_BYTES;
            if state.ended {
                return None;
            }
            let fits = hashes + largest * FILTER_BYTES <= self.bytes && hashes + state.filters <= self.bytes;
            // Alone it may always begin: what can never fit was refused before.
            if fits || state.keys.is_empty() {
                state.keys.push(keys);
                return Some(Held { memory: self, keys });
            }
            state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// Nobody waits any longer: the build has failed.
    pub(super) fn end(&self) {
        self.state.lock().unwrap_or_else(PoisonError::into_inner).ended = true;
        self.changed.notify_all();
    }
}

/// A shard's room for its hashes, until it is dropped.
pub(super) struct Held<'a> {
    memory: &'a Memory,
    keys: u64,
}

impl Held<'_> {
    /// Waits for the room that the shard's filter takes, and then its places, and runs `make`.
    pub(super) fn with_filter<T>(&self, make: impl FnOnce() -> T) -> T {
        let bytes = self.keys * FILTER_BYTES;
        let mut state = self.memory.state.lock().unwrap_or_else(PoisonError::into_inner);
        while state.filters > 0 && state.hashes() + state.filters + bytes > self.memory.bytes && !state.ended {
            state = self.memory.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
        state.filters += bytes;
        drop(state);
        let made = make();
        self.memory.state.lock().unwrap_or_else(PoisonError::into_inner).filters -= bytes;
        self.memory.changed.notify_all();
        made
    }
}

impl Drop for Held<'_> {
    fn drop(&mut self) {
        let mut state = self.memory.state.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(place) = state.keys.iter().position(|&keys| keys == self.keys) {
            state.keys.swap_remove(place);
        }
        drop(state);
        self.memory.changed.notify_all();
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU64, Ordering};

    use super::*;

    #[test]
    fn shards_at_work_never_take_more_than_there_is_and_all_come_to_their_end() {
        let memory = Memory::new(100 * (HASH_BYTES + FILTER_BYTES));
        let (taken, peak, done) = (AtomicU64::new(0), AtomicU64::new(0), AtomicU64::new(0));
        let take = |bytes: u64| {
            let now = taken.fetch_add(bytes, Ordering::SeqCst) + bytes;
            peak.fetch_max(now, Ordering::SeqCst);
        };
        std::thread::scope(|scope| {
            for thread in 0..8u64 {
                let (memory, take, taken, done) = (&memory, &take, &taken, &done);
                scope.spawn(move || {
                    for round in 0..50 {
                        let keys = (thread * 13 + round * 7) % 101;
                        assert!(memory.fits(keys));
                        let held = memory.begin(keys).unwrap();
                        take(keys * HASH_BYTES);
                        held.with_filter(|| {
                            take(keys * FILTER_BYTES);
                            std::thread::yield_now();
                            taken.fetch_sub(keys * (FILTER_BYTES + HASH_BYTES), Ordering::SeqCst);
                        });
                        done.fetch_add(1, Ordering::SeqCst);
                    }
                });
            }
        });
        assert_eq!(done.into_inner(), 400);
        assert!(peak.into_inner() <= memory.bytes);
        assert!(!memory.fits(101));
    }

    #[test]
    fn who_waits_is_sent_away_when_the_build_has_failed() {
        let memory = Memory::new(100 * (HASH_BYTES + FILTER_BYTES));
        let held = memory.begin(100);
        std::thread::scope(|scope| {
            let waiting = scope.spawn(|| memory.begin(100).is_none());
            memory.end();
            assert!(waiting.join().unwrap());
        });
        drop(held);
    }
}
