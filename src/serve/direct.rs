//! Which shards lie in memory for certain, and are read without SQLite; see [`corewall_sharding::direct`].
//!
//! Invariants: a shard is locked in memory by a thread that answers no query, after the start, and is read by SQLite as ever until it is,
//! or when it cannot be; a start or a reload waits for nothing of this. All generations together take no more than they may: the
//! next one waits until the last worker has let go of the one before. Why shards are not in memory is said once, and in the status.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use corewall_sharding::direct::{NotDirect, locked_bytes};
use corewall_sharding::publish::Generation;
use serde::{Deserialize, Serialize};

use super::kernel::{self, Resource};
use crate::build::resources::machine_bytes;
use crate::limits::{SHARDS_SAID_MAX, STORE_IN_MEMORY_PART, STORE_IN_MEMORY_ROOM_MS};

/// Whether the store is held in memory.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum StoreInMemory {
    /// When it takes no more than a part of the machine's memory.
    #[default]
    Auto,
    /// Not at all.
    Off,
    /// However large it is.
    Always,
}

impl StoreInMemory {
    /// Bytes that may be locked.
    fn bytes_max(self) -> u64 {
        match self {
            Self::Auto => machine_bytes() / STORE_IN_MEMORY_PART,
            Self::Off => 0,
            Self::Always => u64::MAX,
        }
    }
}

/// A thread that locks the shards of a generation in memory; dropped, it ends with the shard at hand.
pub struct DirectWork {
    is_wanted: Arc<AtomicBool>,
}

impl DirectWork {
    /// Starts it; none when nothing of this generation is to be in memory.
    pub fn begin(generation: &Arc<Generation>, wanted: StoreInMemory) -> Option<DirectWork> {
        let bytes_max = wanted.bytes_max();
        if let Some(reason) = why_not_at_all(generation, wanted, bytes_max) {
            generation.direct.set_why_not(reason);
            return None;
        }
        let is_wanted = Arc::new(AtomicBool::new(true));
        let work = DirectWork { is_wanted: is_wanted.clone() };
        let generation = generation.clone();
        let run = move || hold(&generation, bytes_max, &|| is_wanted.load(Ordering::Relaxed));
        if let Err(error) = thread::Builder::new().name("direct".to_owned()).spawn(run) {
            tracing::error!("no thread can be started that locks the store in memory: {error}; SQLite reads it");
        }
        Some(work)
    }
}

impl Drop for DirectWork {
    fn drop(&mut self) {
        self.is_wanted.store(false, Ordering::Relaxed);
    }
}

fn why_not_at_all(generation: &Generation, wanted: StoreInMemory, bytes_max: u64) -> Option<String> {
    let bytes: u64 = (0..generation.shard_count()).map(|shard| generation.direct_bytes(shard)).sum();
    if wanted == StoreInMemory::Off {
        Some("`store_in_memory` is off".to_owned())
    } else if !generation.has_places() {
        Some("the generation was built without places".to_owned())
    } else if bytes > bytes_max {
        let (bytes, bytes_max) = (bytes >> 20, bytes_max >> 20);
        Some(format!("it takes {bytes} MiB, and may have {bytes_max}: `store_in_memory` is \"auto\""))
    } else {
        None
    }
}

/// Locks shard after shard until one is refused or nobody wants them any more.
fn hold(generation: &Generation, bytes_max: u64, is_wanted: &impl Fn() -> bool) {
    let started = Instant::now();
    let (soft, hard) = kernel::limit(Resource::Memlock);
    if soft < hard && kernel::raise(Resource::Memlock, hard, hard).is_err() {
        tracing::debug!(soft, hard, "the limit of locked memory cannot be raised");
    }
    let (mut outcome, mut bad) = (Ok(()), 0);
    for shard in 0..generation.shard_count() {
        let bytes = generation.direct_bytes(shard);
        while is_wanted() && locked_bytes().saturating_add(bytes) > bytes_max {
            thread::sleep(Duration::from_millis(STORE_IN_MEMORY_ROOM_MS));
        }
        if !is_wanted() {
            return;
        }
        match generation.read_directly(shard) {
            Ok(()) => {}
            // The next one would be refused too.
            Err(NotDirect::NotLocked(error)) => {
                outcome = Err(not_locked(&error));
                break;
            }
            // The others may be sound.
            Err(error) => {
                bad += 1;
                if bad <= SHARDS_SAID_MAX {
                    tracing::warn!(generation = generation.number, shard, "SQLite goes on to read a shard: {error}");
                }
                outcome = Err(error.to_string());
            }
        }
    }
    let (direct, number) = (&generation.direct, generation.number);
    let (shards, bytes, took_ms) = (direct.count(), direct.bytes(), started.elapsed().as_millis() as u64);
    match outcome {
        Ok(()) => tracing::info!(generation = number, shards, bytes, took_ms, "shards locked in memory"),
        Err(reason) => {
            let of = direct.shard_count();
            tracing::info!(generation = number, shards, of, bytes, took_ms, "not all shards are in memory: {reason}");
            direct.set_why_not(reason);
        }
    }
}

fn not_locked(error: &std::io::Error) -> String {
    let (soft, _) = kernel::limit(Resource::Memlock);
    format!(
        "the system refuses to lock them ({error}); {} KiB may be locked: raise `ulimit -l`, or LimitMEMLOCK= in the systemd unit",
        soft >> 10
    )
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use corewall_sharding::build::{BuildOptions, Builder};
    use corewall_sharding::publish::Store;
    use corewall_sharding::rule::{Class, Kind, List, Rule, RuleKey, Scope};

    use super::*;

    fn generation(folder: &Path, places: bool) -> Arc<Generation> {
        let store = Store::create_or_open(folder).unwrap();
        let options = BuildOptions { shards: 2, places: Some(places), ..BuildOptions::default() };
        let mut builder = Builder::new(&store, options).unwrap();
        builder.list(List::named("test")).unwrap();
        for number in 0..100 {
            let key = RuleKey::Name { name: format!("n{number}.example").parse().unwrap(), target: None };
            builder.push(&Rule { class: Class::plain(Kind::Block, Scope::Exact, 0), key }).unwrap();
        }
        builder.finish(&mut |_, _, _| {}).unwrap().publish().unwrap();
        Arc::new(store.current().unwrap())
    }

    #[test]
    fn what_is_not_wanted_too_large_or_has_no_places_is_left_to_sqlite_and_that_is_said() {
        let folders = [tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap()];
        let with = generation(folders[0].path(), true);
        for (wanted, bytes_max, said) in [
            (StoreInMemory::Off, 0, Some("is off")),
            (StoreInMemory::Auto, 100 << 10, Some("may have 0")),
            (StoreInMemory::Auto, 1 << 30, None),
            (StoreInMemory::Always, u64::MAX, None),
        ] {
            let reason = why_not_at_all(&with, wanted, bytes_max);
            assert_eq!(reason.is_some(), said.is_some(), "{reason:?}");
            assert!(reason.unwrap_or_default().contains(said.unwrap_or_default()));
        }
        let without = generation(folders[1].path(), false);
        assert!(DirectWork::begin(&without, StoreInMemory::Always).is_none());
        assert!(without.direct.why_not().contains("without places"));
    }

    #[test]
    fn shards_are_locked_until_nobody_wants_them_any_more() {
        let folder = tempfile::tempdir().unwrap();
        let generation = generation(folder.path(), true);
        hold(&generation, u64::MAX, &|| false);
        assert_eq!(generation.direct.count(), 0);
        hold(&generation, u64::MAX, &|| true);
        assert_eq!((generation.direct.count(), generation.direct.why_not()), (2, String::new()));
        assert!(locked_bytes() >= generation.direct.bytes() && generation.direct.bytes() > 0);
    }
}
