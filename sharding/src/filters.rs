//! The filters of one generation: which of them can be asked, and what may be listed of a name by all of them.
//!
//! Invariants: a filter is asked only when each of its bytes has been checked, or when it was made from its shard's rows; until
//! then, and when it cannot be had at all, the answer is "maybe" and the shard answers. So a filter that is missing, damaged or
//! not read yet costs time and never a rule. Once a filter can be asked this does not change again. Asking takes no lock.
//!
//! The filters may lie in several places: one mapping that all share, or copies in memory, each for the workers that are near.

use std::collections::BTreeMap;
use std::io;
use std::path::Path;
use std::sync::atomic::{AtomicU8, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::thread;

use crate::StoreError;
use crate::filter::{Filter, Probe, Unverified};
use crate::generation::filter_name;
use crate::manifest::Manifest;
use crate::route::{NameHash, Reach, SubtreeDepths, SuffixHashes};

/// Probes begun before the first of them is compared: most names have fewer labels, and a core keeps some ten to sixteen
/// cache lines on their way from memory.
const PROBES_AT_ONCE: usize = 8;
/// Threads that compare checksums while nothing is answered yet: so many read memory as fast as it is.
pub const VERIFY_THREADS_MAX: usize = 8;

/// What a filter is good for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum FilterState {
    /// Not read yet: the shard answers.
    Unverified,
    /// As the build wrote it.
    Verified,
    /// The file is bad: made again from the shard's rows, in memory.
    Rebuilt,
    /// The file is bad and none was made: the shard answers.
    Missing,
}

impl FilterState {
    fn of(number: u8) -> FilterState {
        let all = [Self::Unverified, Self::Verified, Self::Rebuilt, Self::Missing];
        all.into_iter().find(|state| *state as u8 == number).unwrap_or(Self::Missing)
    }
}

/// How many filters of a generation are in which state.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct FilterCounts {
    /// As the build wrote them.
    pub verified: u64,
    /// Not read yet.
    pub unverified: u64,
    /// Bad in their files and made again from the shards.
    pub rebuilt: u64,
    /// Bad in their files; the shards answer without them.
    pub missing: u64,
}

/// The filters of one generation, by place and shard.
pub struct Filters {
    depths: SubtreeDepths,
    bits: u8,
    generation: u64,
    files: Box<[FilterFile]>,
    /// One when the files are mapped.
    places: Box<[Place]>,
    are_copies: bool,
    /// Bytes of copies and of filters made again.
    bytes_in_memory: AtomicU64,
}

/// The filters that some workers ask, by shard; none where the shard answers.
type Place = Box<[OnceLock<Arc<Filter>>]>;

/// One filter's file.
struct FilterFile {
    state: AtomicU8,
    bytes: u64,
    content: Mutex<Content>,
}

enum Content {
    Unverified(Unverified),
    /// Why it cannot be used.
    Bad(String),
    /// To be copied to where it is asked.
    Verified(Arc<Filter>),
    /// Wherever it is asked it has been put.
    Placed,
}

impl Filters {
    /// No filters, for there is no store.
    pub fn none() -> Filters {
        Filters {
            depths: SubtreeDepths::NONE,
            bits: 0,
            generation: 0,
            files: Box::new([]),
            places: Box::new([]),
            are_copies: false,
            bytes_in_memory: AtomicU64::new(0),
        }
    }

    /// Opens the filters of the generation in `dir` without reading their fingerprints. `copies`: in how many places they are
    /// to be copied into memory ([`Filters::copy_to`]); none leaves them mapped. A bad file is no error, see [`Filters::bad`].
    pub(crate) fn open(dir: &Path, manifest: &Manifest, copies: Option<usize>) -> Filters {
        let sizes: BTreeMap<&str, u64> = manifest.files.iter().map(|file| (file.name.as_str(), file.size)).collect();
        let open = |shard: u16| match open_file(dir, manifest, &sizes, shard) {
            Ok(filter) => FilterFile {
                state: AtomicU8::new(FilterState::Unverified as u8),
                bytes: filter.bytes() as u64,
                content: Mutex::new(Content::Unverified(filter)),
            },
            Err(error) => FilterFile {
                state: AtomicU8::new(FilterState::Missing as u8),
                bytes: 0,
                content: Mutex::new(Content::Bad(error.to_string())),
            },
        };
        let place = |_| (0..manifest.shards).map(|_| OnceLock::new()).collect();
        Filters {
            depths: manifest.subtree_depths,
            bits: manifest.filter_bits,
            generation: manifest.generation,
            files: (0..manifest.shards).map(open).collect(),
            places: (0..copies.unwrap_or(1).max(1)).map(place).collect(),
            are_copies: copies.is_some(),
            bytes_in_memory: AtomicU64::new(0),
        }
    }

    /// Whether there is no store.
    pub fn is_empty(&self) -> bool {
        self.files.is_empty()
    }

    /// Shards, at least one.
    pub fn shard_count(&self) -> u16 {
        (self.files.len() as u16).max(1)
    }

    /// Asks, in one of the places, about each suffix of a name but the root: bit `n` is set when the suffix of `n` labels may
    /// be listed, by an exact rule if it is the whole name; clear is certain. On the query path: no allocation, no lock.
    pub fn probe(&self, place: usize, hashes: &SuffixHashes) -> u128 {
        let whole = hashes.label_count();
        if whole == 0 || self.is_empty() {
            return 0;
        }
        let suffixes = suffixes_of(whole);
        // A place that there is not has no filters to ask.
        let Some(place) = self.places.get(place) else { return suffixes };
        let (mut wanted, mut under) = (0, self.depths.0 & suffixes);
        let mut next = Some((whole, Reach::Itself));
        while next.is_some() {
            let mut begun: [Option<(u8, Probe<'_>)>; PROBES_AT_ONCE] = [None; PROBES_AT_ONCE];
            for begun in &mut begun {
                let Some((labels, reach)) = next else { break };
                match self.begin(place, hashes.suffix(labels), reach) {
                    Some(probe) => *begun = Some((labels as u8, probe)),
                    None => wanted |= 1 << labels,
                }
                next = (under != 0).then(|| (under.trailing_zeros() as usize, Reach::Under));
                under &= under.wrapping_sub(1);
            }
            for (labels, probe) in begun.into_iter().flatten() {
                wanted |= u128::from(probe.may_hold()) << labels;
            }
        }
        wanted
    }

    /// Has fetched from memory what [`Filters::probe`] will read: for each name of a batch, before the first is asked about. On the
    /// query path.
    pub fn prefetch(&self, place: usize, hashes: &SuffixHashes) {
        let whole = hashes.label_count();
        let Some(place) = self.places.get(place).filter(|_| whole > 0 && !self.is_empty()) else { return };
        let mut under = self.depths.0 & suffixes_of(whole);
        let _ = self.begin(place, hashes.whole(), Reach::Itself);
        while under != 0 {
            let _ = self.begin(place, hashes.suffix(under.trailing_zeros() as usize), Reach::Under);
            under &= under.wrapping_sub(1);
        }
    }

    /// Begins to ask one of the filters of a place; none when it cannot be asked, and the shard is to answer.
    #[inline]
    fn begin<'a>(&self, place: &'a Place, hash: NameHash, reach: Reach) -> Option<Probe<'a>> {
        let filter = place.get(usize::from(hash.shard(self.shard_count())))?.get()?;
        Some(filter.begin(hash.filter_key(reach)))
    }

    /// Whether the store may hold a rule of this name and reach; false is certain.
    pub fn contains(&self, hash: NameHash, reach: Reach) -> bool {
        let place = self.places.first().filter(|_| !self.is_empty());
        place.is_some_and(|place| self.begin(place, hash, reach).is_none_or(Probe::may_hold))
    }

    /// Reads the files that have not been read yet, in their order and by at most `threads_max` threads, until `bytes_max` bytes:
    /// those that are right can be asked from then on, or be copied. `is_wanted` is asked before each; false ends it.
    pub fn verify(&self, bytes_max: u64, threads_max: usize, is_wanted: &(impl Fn() -> bool + Sync)) {
        let mut left = bytes_max;
        let mut shards: Vec<u16> = Vec::new();
        for (shard, file) in (0..).zip(&self.files).filter(|(_, file)| file.state() == FilterState::Unverified) {
            let Some(rest) = left.checked_sub(file.bytes) else { break };
            left = rest;
            shards.push(shard);
        }
        let cores = thread::available_parallelism().map_or(1, usize::from);
        let threads = threads_max.min(cores).min(shards.len());
        let next = AtomicUsize::new(0);
        let run = || {
            while let Some(&shard) = shards.get(next.fetch_add(1, Ordering::Relaxed)).filter(|_| is_wanted()) {
                self.verify_one(shard);
            }
        };
        match threads {
            0 | 1 => run(),
            _ => thread::scope(|scope| (0..threads).for_each(|_| drop(scope.spawn(run)))),
        }
    }

    fn verify_one(&self, shard: u16) {
        let Some(file) = self.files.get(usize::from(shard)) else { return };
        let mut content = file.content();
        match std::mem::replace(&mut *content, Content::Placed) {
            Content::Unverified(filter) => match filter.verify() {
                Ok(filter) => {
                    let filter = Arc::new(filter);
                    if self.are_copies {
                        *content = Content::Verified(filter);
                    } else {
                        self.put(0, shard, filter);
                    }
                    file.set(FilterState::Verified);
                }
                Err(error) => {
                    *content = Content::Bad(error.to_string());
                    file.set(FilterState::Missing);
                }
            },
            other => *content = other,
        }
    }

    /// Copies every verified filter into memory and has the workers of this place ask the copies. To be called on a thread
    /// that runs near them: the memory lies where it is first touched. Does nothing when the files are mapped. Without memory
    /// the workers of this place ask the mapped files.
    pub fn copy_to(&self, place: usize) -> io::Result<()> {
        if !self.are_copies {
            return Ok(());
        }
        let verified = |(shard, file): (usize, &FilterFile)| match &*file.content() {
            Content::Verified(filter) => Some((shard as u16, filter.clone())),
            _ => None,
        };
        let is_placed = |shard: u16| self.slot(place, shard).is_none_or(|slot| slot.get().is_some());
        let verified = self.files.iter().enumerate().filter_map(verified).filter(|(shard, _)| !is_placed(*shard));
        let (shards, filters): (Vec<u16>, Vec<Arc<Filter>>) = verified.unzip();
        let (copies, outcome) = match Filter::copies(&filters) {
            Ok(copies) => (copies.into_iter().map(Arc::new).collect(), Ok(())),
            Err(error) => (filters, Err(error)),
        };
        for (shard, copy) in shards.into_iter().zip(copies) {
            if outcome.is_ok() {
                self.bytes_in_memory.fetch_add(copy.bytes() as u64, Ordering::Relaxed);
            }
            self.put(place, shard, copy);
        }
        outcome
    }

    /// Lets go of the files that have been copied to every place.
    pub fn release_files(&self) {
        for (shard, file) in self.files.iter().enumerate() {
            let is_placed = |place| self.slot(place, shard as u16).is_some_and(|slot| slot.get().is_some());
            let mut content = file.content();
            if matches!(*content, Content::Verified(_)) && (0..self.places.len()).all(is_placed) {
                *content = Content::Placed;
            }
        }
    }

    /// The filters that cannot be used, and why.
    pub fn bad(&self) -> Vec<(u16, String)> {
        let bad = |(shard, file): (usize, &FilterFile)| match &*file.content() {
            Content::Bad(reason) => Some((shard as u16, reason.clone())),
            _ => None,
        };
        self.files.iter().enumerate().filter_map(bad).collect()
    }

    /// Puts a filter that was made from the shard's rows in the place of a bad one.
    pub(crate) fn put_rebuilt(&self, shard: u16, filter: Filter) {
        let Some(file) = self.files.get(usize::from(shard)) else { return };
        let mut content = file.content();
        if matches!(*content, Content::Bad(_)) {
            self.bytes_in_memory.fetch_add(filter.bytes() as u64, Ordering::Relaxed);
            let filter = Arc::new(filter);
            (0..self.places.len()).for_each(|place| self.put(place, shard, filter.clone()));
            *content = Content::Placed;
            file.set(FilterState::Rebuilt);
        }
    }

    fn put(&self, place: usize, shard: u16, filter: Arc<Filter>) {
        if let Some(slot) = self.slot(place, shard) {
            // Each is put once: the lock on its file is held.
            let _ = slot.set(filter);
        }
    }

    fn slot(&self, place: usize, shard: u16) -> Option<&OnceLock<Arc<Filter>>> {
        self.places.get(place)?.get(usize::from(shard))
    }

    /// What the filter of a shard is good for.
    pub fn state(&self, shard: u16) -> FilterState {
        self.files.get(usize::from(shard)).map_or(FilterState::Missing, FilterFile::state)
    }

    /// How many are in which state.
    pub fn counts(&self) -> FilterCounts {
        let mut counts = FilterCounts::default();
        for file in &self.files {
            *match file.state() {
                FilterState::Verified => &mut counts.verified,
                FilterState::Unverified => &mut counts.unverified,
                FilterState::Rebuilt => &mut counts.rebuilt,
                FilterState::Missing => &mut counts.missing,
            } += 1;
        }
        counts
    }

    /// Whether verified filters still have to be copied to some place.
    pub fn is_to_be_copied(&self) -> bool {
        self.files.iter().any(|file| matches!(*file.content(), Content::Verified(_)))
    }

    /// Places that they are copied to; none when the files are mapped.
    pub fn copies(&self) -> Option<usize> {
        self.are_copies.then_some(self.places.len())
    }

    /// Bits of a fingerprint.
    pub fn bits(&self) -> u8 {
        self.bits
    }

    /// The generation that they belong to.
    pub fn generation(&self) -> u64 {
        self.generation
    }

    /// Bytes of the files that could be opened.
    pub fn file_bytes(&self) -> u64 {
        self.files.iter().map(|file| file.bytes).sum()
    }

    /// Bytes of memory beside the mapped files: copies, and filters that were made again.
    pub fn bytes_in_memory(&self) -> u64 {
        self.bytes_in_memory.load(Ordering::Relaxed)
    }
}

impl FilterFile {
    fn state(&self) -> FilterState {
        FilterState::of(self.state.load(Ordering::Relaxed))
    }

    fn set(&self, state: FilterState) {
        self.state.store(state as u8, Ordering::Relaxed);
    }

    fn content(&self) -> MutexGuard<'_, Content> {
        // Every change is made in one step.
        self.content.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A bit for each suffix of a name of so many labels but the root, whose rules are at hand.
#[inline]
fn suffixes_of(labels: usize) -> u128 {
    let longer = u128::MAX.checked_shl(labels as u32 + 1).unwrap_or(0);
    !longer & !1
}

fn open_file(
    dir: &Path,
    manifest: &Manifest,
    sizes: &BTreeMap<&str, u64>,
    shard: u16,
) -> Result<Unverified, StoreError> {
    let name = filter_name(shard);
    let path = dir.join(&name);
    let filter = Unverified::open(&path)?;
    if filter.generation() != manifest.generation || filter.shard() != shard {
        let what = format!("it is the filter of shard {} of generation {}", filter.shard(), filter.generation());
        return Err(StoreError::damaged(&path, what));
    }
    if filter.bits() != manifest.filter_bits || sizes.get(name.as_str()) != Some(&(filter.bytes() as u64)) {
        return Err(StoreError::damaged(&path, "its bits or bytes are not those of the manifest"));
    }
    Ok(filter)
}
