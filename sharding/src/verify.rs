//! A generation read whole: every file against its checksum, and rows of every shard against its filter and its routing.
//!
//! Invariant: what is wrong with one file does not end the look at the others; only a manifest that cannot be read does, for
//! nothing else tells what should be there. Nothing is written. The rows are drawn at random, so that each run sees others.

use std::ops::ControlFlow;
use std::path::Path;

use crate::StoreError;
use crate::direct::DirectShard;
use crate::filters::VERIFY_THREADS_MAX;
use crate::generation::{Generation, filter_name, places_name, shard_name};
use crate::manifest::Manifest;
use crate::name::Name;
use crate::publish::Store;
use crate::route::{self, Reach};
use crate::rows::{Reads, Shard};
use crate::rule::{ClassId, Scope};
use crate::schema;

/// Rows that are read before it is told how far the look at a shard is: a quarter of a MiB of the plainest.
const ROWS_BETWEEN_TOLD: u64 = 8_192;

/// How far a verification has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum VerifyStage {
    /// Bytes of files summed, of all files.
    Sum,
    /// Bytes of shards of which rows were looked up, of all shards: each is read once more for it.
    Sample,
}

/// What was found.
#[derive(Debug, Default)]
pub struct Verified {
    /// Files summed.
    pub files: u64,
    /// Their bytes.
    pub bytes: u64,
    /// Rows looked up.
    pub rows: u64,
    /// What is wrong, each with its file; empty when all is well.
    pub bad: Vec<StoreError>,
}

/// Verifies a generation of the store. `sample` rows of each shard are looked up; with 0 the shards are not read as databases.
/// `progress` hears the stage, what is done and of how much, at least once a MiB: it may sleep to spare the disk.
///
/// # Errors
/// The manifest cannot be read.
pub fn verify(
    store: &Store,
    number: u64,
    sample: usize,
    progress: &mut dyn FnMut(VerifyStage, u64, u64),
) -> Result<Verified, StoreError> {
    let (dir, manifest) = (store.generation_dir(number), store.manifest(number)?);
    let (mut found, of) = (Verified::default(), manifest.bytes());
    let mut is_bad = Vec::new();
    for file in &manifest.files {
        let before = found.bytes;
        let sum = file.check_sum_slowly(&dir.join(&file.name), &mut |read| {
            found.bytes += read;
            progress(VerifyStage::Sum, found.bytes, of);
        });
        found.files += 1;
        if let Err(error) = sum {
            found.bytes = before + file.size;
            is_bad.push(file.name.as_str());
            found.bad.push(error);
        }
    }
    if sample > 0 {
        sample_shards(store, &manifest, &is_bad, sample, &mut found, progress);
    }
    Ok(found)
}

/// Looks rows up in each shard whose files are as they were built.
fn sample_shards(
    store: &Store,
    manifest: &Manifest,
    is_bad: &[&str],
    sample: usize,
    found: &mut Verified,
    progress: &mut dyn FnMut(VerifyStage, u64, u64),
) {
    let generation = match store.generation(manifest.generation) {
        Ok(generation) => generation,
        // Most likely for a file that has been told of.
        Err(_) if !is_bad.is_empty() => return,
        Err(error) => return found.bad.push(error),
    };
    // One that is not verified says "maybe" of every row, which would prove nothing.
    generation.filters.verify(u64::MAX, VERIFY_THREADS_MAX, &|| true);
    let Ok(mut random) = Random::new() else { return };
    let bytes_of = |shard: u16| {
        let file = manifest.files.iter().find(|file| file.name == shard_name(shard));
        file.map_or(0, |file| file.size)
    };
    let of = (0..manifest.shards).map(bytes_of).sum();
    let mut done = 0;
    for shard in 0..manifest.shards {
        let bytes = bytes_of(shard);
        if !is_bad.iter().any(|&file| file == shard_name(shard) || file == filter_name(shard)) {
            // A part of the shard's bytes for the same part of its rows, for nobody hears how far SQLite has read.
            let rows = (manifest.rules / u64::from(manifest.shards.max(1))).max(1);
            let mut read = |seen: u64| {
                let part = u128::from(bytes) * u128::from(seen.min(rows)) / u128::from(rows);
                progress(VerifyStage::Sample, done + u64::try_from(part).unwrap_or(bytes), of);
            };
            let has_places =
                manifest.file(&places_name(shard)).is_some() && !is_bad.contains(&places_name(shard).as_str());
            match sample_shard(&generation, (shard, has_places), sample, &mut random, &mut read) {
                Ok(rows) => found.rows += rows,
                Err(error) => found.bad.push(error),
            }
        }
        done += bytes;
        progress(VerifyStage::Sample, done, of);
    }
}

/// Draws rows of one shard and looks each up; gives their number, or what is wrong with the first bad one.
///
/// `read` hears how many rows were read, every [`ROWS_BETWEEN_TOLD`] of them.
fn sample_shard(
    generation: &Generation,
    (number, has_places): (u16, bool),
    sample: usize,
    random: &mut Random,
    read: &mut dyn FnMut(u64),
) -> Result<u64, StoreError> {
    let path = generation.dir.join(shard_name(number));
    let mut shard = generation.open_shard(number, Reads::Waiting)?;
    let direct = if has_places { Some(generation.direct_shard(number)?) } else { None };
    let mut rows: Vec<(String, ClassId)> = Vec::new();
    let mut seen = 0u64;
    // Vitter's reservoir: each row of the shard is as likely as any other, though nobody knows how many there are.
    shard.each_rule(&mut |name, class, _| {
        seen += 1;
        if seen.is_multiple_of(ROWS_BETWEEN_TOLD) {
            read(seen);
        }
        if rows.len() < sample {
            rows.push((name.to_owned(), class));
            return ControlFlow::Continue(());
        }
        let place = random.below(seen);
        if let Some(row) = usize::try_from(place).ok().and_then(|place| rows.get_mut(place)) {
            *row = (name.to_owned(), class);
        }
        ControlFlow::Continue(())
    })?;
    for (text, class) in &rows {
        check_row(generation, number, (&mut shard, direct.as_ref()), &path, text, *class)?;
    }
    Ok(rows.len() as u64)
}

/// A query must find this row: by its hash in this shard, by its filter, in the table, and by its place if there are places.
fn check_row(
    generation: &Generation,
    number: u16,
    (shard, direct): (&mut Shard, Option<&DirectShard>),
    path: &Path,
    text: &str,
    class: ClassId,
) -> Result<(), StoreError> {
    let bad = |what: &str| Err(StoreError::damaged(path, format!("its rule on `{text}` {what}")));
    let Ok(name) = schema::name_from_text(text) else { return bad("has no valid name") };
    if name_text(&name) != text {
        return bad("is not spelled as names are looked up");
    }
    let Some(said) = generation.classes.get(class as usize) else { return bad("has no class") };
    let hash = route::hash(generation.key, &name);
    if hash.shard(generation.shard_count()) != number {
        return bad("belongs into another shard, where it would not be found");
    }
    let reach = if said.scope == Scope::Exact { Reach::Itself } else { Reach::Under };
    if reach == Reach::Under && !generation.manifest.subtree_depths.may_hold(name.label_count()) {
        return bad("has more or fewer labels than any such rule according to the manifest, so it would not be found");
    }
    if !generation.filters.contains(hash, reach) {
        return bad("is not in its filter, so it would not be found");
    }
    let mut is_there = false;
    shard.classes_of(text, &mut |there| is_there |= there == class)?;
    if !is_there {
        return bad("is not found by its name");
    }
    let Some(direct) = direct else { return Ok(()) };
    let mut has_place = false;
    let is_told = direct.classes_of(hash, text, &mut |there| has_place |= there == class)?;
    if has_place || !is_told { Ok(()) } else { bad("has no place, so it would not be found in memory") }
}

fn name_text(name: &Name) -> String {
    name.to_text().as_str().to_owned()
}

/// Numbers that nobody has to be unable to guess (xorshift64*).
struct Random(u64);

impl Random {
    fn new() -> Result<Self, getrandom::Error> {
        // Zero is the one state that stays.
        getrandom::u64().map(|seed| Self(seed | 1))
    }

    fn below(&mut self, bound: u64) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        let number = self.0.wrapping_mul(0x2545_f491_4f6c_dd1d);
        ((u128::from(number) * u128::from(bound)) >> 64) as u64
    }
}
