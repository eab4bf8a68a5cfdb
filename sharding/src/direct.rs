//! Shards of the layout `sql` that are read without SQLite: a cache line of the places, then the row in a copy of the database.
//!
//! The database stays what it is, and the only truth: the places lead to its rows, and each row's name is compared octet by octet with
//! the one that was asked for. Invariants: a shard is among [`DirectShards`] only when copies of both its files lie in memory and are locked
//! there, so that no worker waits for the disk, and when both have the sums that the build gave them; once it is there this
//! does not change again. Asking takes no lock and allocates nothing. A row that cannot be read like this is left to SQLite.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, OnceLock, PoisonError};

use memmap2::Mmap;
use xxhash_rust::xxh3::xxh3_64;

use crate::StoreError;
use crate::filter::prefetch_at;
use crate::generation::{places_name, shard_name};
use crate::manifest::{FileEntry, Manifest};
use crate::memory::{locked_copy, map};
use crate::places::{Place, Places, ROWS_A_NAME_MAX};
use crate::record::{Pages, Row};
use crate::route::NameHash;
use crate::rule::ClassId;

/// How far behind the beginning of a row the rest of it is fetched as well: the row of a name of twenty letters is some 25 octets, so
/// that it lies in two cache lines at most.
const ROW_BYTES: usize = 24;

/// Bytes that this process has locked in memory for shards, of all generations that it has open.
static LOCKED_BYTES: AtomicU64 = AtomicU64::new(0);

/// Bytes that this process has locked in memory for shards, of all generations that it has open.
pub fn locked_bytes() -> u64 {
    LOCKED_BYTES.load(Ordering::Relaxed)
}

/// A shard that is read without SQLite.
pub struct DirectShard {
    path: PathBuf,
    places: Places,
    database: Mmap,
    pages: Pages,
    is_locked: bool,
}

impl DirectShard {
    /// Maps the files of a shard. Whoever asks may wait for the disk as long as they are not locked in memory.
    pub(crate) fn open(dir: &Path, generation: u64, shard: u16) -> Result<DirectShard, StoreError> {
        let path = dir.join(shard_name(shard));
        let database = map(&path)?;
        let pages = Pages::of(&database, database.len() as u64);
        let pages = pages.ok_or_else(|| StoreError::damaged(&path, "its pages are not as they should be"))?;
        let places = Places::open(&dir.join(places_name(shard)), generation, shard)?;
        Ok(DirectShard { path, places, database, pages, is_locked: false })
    }

    /// Has all of it read from the disk, into memory of its own that stays until it is dropped.
    fn lock(&mut self) -> io::Result<()> {
        self.places.lock()?;
        self.database = locked_copy(&self.database)?;
        self.is_locked = true;
        LOCKED_BYTES.fetch_add(self.bytes(), Ordering::Relaxed);
        Ok(())
    }

    /// Whether both files are as the build wrote them.
    fn check_sums(&self, dir: &Path, manifest: &Manifest, shard: u16) -> Result<(), StoreError> {
        for (name, map) in [(places_name(shard), self.places.map()), (shard_name(shard), &self.database)] {
            let is_right = |entry: &FileEntry| entry.has_sum(map.len() as u64, xxh3_64(map));
            if !manifest.file(&name).is_some_and(is_right) {
                return Err(StoreError::damaged(&dir.join(name), "its checksum does not match"));
            }
        }
        Ok(())
    }

    /// Bytes of both files.
    pub fn bytes(&self) -> u64 {
        self.places.map().len() as u64 + self.database.len() as u64
    }

    /// Has fetched from memory what tells where the rows of a name lie. On the query path: for the names of a batch, before
    /// [`DirectShard::prefetch_rows`] for each of them, before the first is looked up.
    #[inline]
    pub fn prefetch_places(&self, hash: NameHash) {
        self.places.prefetch(hash);
    }

    /// Has the row of a name fetched from memory. On the query path: reads what [`DirectShard::prefetch_places`] had fetched.
    #[inline]
    pub fn prefetch_rows(&self, hash: NameHash) {
        if let Some(place) = self.places.first(hash) {
            let place = place as usize;
            prefetch_at(&self.database, place);
            prefetch_at(&self.database, place + ROW_BYTES);
        }
    }

    /// Calls `found` with the class of each rule for this very name, in the order of the classes, and gives true; or gives false, without a
    /// call, when only SQLite reads the rows of this name. `hash` is the name's, and the shard the one that it leads to. On the query path:
    /// allocates nothing unless it fails.
    pub fn classes_of(
        &self,
        hash: NameHash,
        name_text: &str,
        found: &mut dyn FnMut(ClassId),
    ) -> Result<bool, StoreError> {
        let mut classes = [0; ROWS_A_NAME_MAX];
        let (mut count, mut is_whole, mut is_damaged) = (0, true, false);
        self.places.each(hash, |place| {
            let Place::At(at) = place else {
                is_whole = false;
                return false;
            };
            match Row::at(&self.database, self.pages, at as usize) {
                Some(Row::Whole { name, class }) if name == name_text.as_bytes() => match classes.get_mut(count) {
                    Some(place) => {
                        *place = class;
                        count += 1;
                    }
                    None => is_damaged = true,
                },
                // Another name's.
                Some(Row::Whole { .. }) => {}
                // Such rows have no place of their own.
                Some(Row::Overflows) | None => is_damaged = true,
            }
            !is_damaged
        });
        if is_damaged {
            return Err(self.damaged());
        }
        if is_whole {
            classes.iter().take(count).for_each(|&class| found(class));
        }
        Ok(is_whole)
    }

    #[cold]
    fn damaged(&self) -> StoreError {
        StoreError::damaged(&self.path, "its places lead to what is no rule")
    }
}

impl Drop for DirectShard {
    fn drop(&mut self) {
        if self.is_locked {
            LOCKED_BYTES.fetch_sub(self.bytes(), Ordering::Relaxed);
        }
    }
}

/// Why a shard is not read directly.
#[derive(Debug, thiserror::Error)]
pub enum NotDirect {
    /// The build wrote no places.
    #[error("the generation was built without places")]
    NoPlaces,
    /// The system does not let so much memory be locked.
    #[error("{0}")]
    NotLocked(io::Error),
    /// A file is not as it was built, or cannot be read.
    #[error(transparent)]
    Bad(#[from] StoreError),
}

/// The shards of a generation that are read without SQLite.
pub struct DirectShards {
    shards: Box<[OnceLock<DirectShard>]>,
    bytes: AtomicU64,
    why_not: Mutex<String>,
}

impl DirectShards {
    /// None of so many is.
    pub fn none(shards: u16) -> DirectShards {
        let shards = (0..shards).map(|_| OnceLock::new()).collect();
        DirectShards { shards, bytes: AtomicU64::new(0), why_not: Mutex::default() }
    }

    /// The shard of this number, if it is read directly. On the query path.
    #[inline]
    pub fn shard(&self, shard: u16) -> Option<&DirectShard> {
        self.shards.get(usize::from(shard))?.get()
    }

    /// How many there are.
    pub fn count(&self) -> u64 {
        self.shards.iter().filter(|shard| shard.get().is_some()).count() as u64
    }

    /// Of how many shards.
    pub fn shard_count(&self) -> u64 {
        self.shards.len() as u64
    }

    /// Why not all of them are, in words; empty when nobody has said.
    pub fn why_not(&self) -> String {
        self.why_not.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Says why not all of them are.
    pub fn set_why_not(&self, reason: String) {
        *self.why_not.lock().unwrap_or_else(PoisonError::into_inner) = reason;
    }

    /// Bytes that are locked in memory.
    pub fn bytes(&self) -> u64 {
        self.bytes.load(Ordering::Relaxed)
    }

    /// Locks a shard in memory, which reads all of it, compares its sums, and has it read directly from then on.
    pub(crate) fn add(&self, dir: &Path, manifest: &Manifest, shard: u16) -> Result<(), NotDirect> {
        let Some(slot) = self.shards.get(usize::from(shard)).filter(|slot| slot.get().is_none()) else { return Ok(()) };
        if manifest.file(&places_name(shard)).is_none() {
            return Err(NotDirect::NoPlaces);
        }
        let mut direct = DirectShard::open(dir, manifest.generation, shard)?;
        direct.lock().map_err(NotDirect::NotLocked)?;
        direct.check_sums(dir, manifest, shard)?;
        let bytes = direct.bytes();
        if slot.set(direct).is_ok() {
            self.bytes.fetch_add(bytes, Ordering::Relaxed);
        }
        Ok(())
    }
}
