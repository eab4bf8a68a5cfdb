//! The places of one shard's rows: from a name's hash to where its rows lie in the database, by one cache line.
//!
//! A hash table of buckets that fill a cache line each, beside a shard of the layout `sql`. It holds no rule: what it leads to is
//! compared octet by octet with the name that was asked for, and a shard without it is read by SQLite. Invariants: every row of the shard
//! has an entry, or its name has one that says "ask SQLite"; the bytes depend on the database alone; whatever the bytes are, a
//! look at them reads nothing outside the file and ends.
//!
//! The byte-by-byte layout is in `README.md`.

use std::fs;
use std::io;
use std::path::Path;

use memmap2::Mmap;

use crate::StoreError;
use crate::btree;
use crate::filter::prefetch_at;
use crate::manifest::FileEntry;
use crate::memory::{locked_copy, map};
use crate::route::{NameHash, WholeHasher};
use crate::schema::{self, FORMAT_VERSION};

/// First bytes of a file of places.
const MAGIC: [u8; 8] = *b"CWPLACES";
/// Bytes before the buckets: a multiple of a cache line, so that they are aligned in the mapping.
const HEADER_BYTES: usize = 128;
/// Bytes of a bucket: a cache line.
const BUCKET_BYTES: usize = 64;
/// Entries of a bucket: 2 bytes of tag and 4 of place each, so that 4 bytes are left for [`Bucket::has_moved_on`].
const ENTRIES: usize = 10;
/// Where the places begin in a bucket, behind the tags.
const PLACES_AT: usize = 2 * ENTRIES;
/// Where it stands which entries have moved on.
const MOVED_AT: usize = PLACES_AT + 4 * ENTRIES;
const _: () = assert!(MOVED_AT + 4 == BUCKET_BYTES, "a bucket is a cache line");
/// Entries a bucket has on average. At 7 of 10 a bucket in ten overflows, and 3 entries of 100 lie in another one than their own; 8 would
/// save 1.1 bytes a rule and have 5 of 100 there.
const ENTRIES_ON_AVERAGE: u64 = 7;
/// The place of a name whose rows SQLite is to be asked for: no row can lie there, it is in the database's first words.
const ASK_SQLITE: u32 = 1;
/// Rows of one name that have an entry each; a name with more has one that says [`ASK_SQLITE`], so that no name fills the buckets
/// of others.
pub(crate) const ROWS_A_NAME_MAX: usize = 8;
/// Bytes of memory a row while places are made.
pub(crate) const MAKING_BYTES: u64 = (BUCKET_BYTES as u64).div_ceil(ENTRIES_ON_AVERAGE);

/// The places of a shard's rows, mapped.
pub(crate) struct Places {
    map: Mmap,
    buckets: u64,
    /// How many buckets behind its own an entry lies at most.
    reach: u64,
}

impl Places {
    /// Maps the file and checks version and lengths. The buckets are not looked at.
    pub(crate) fn open(path: &Path, generation: u64, shard: u16) -> Result<Places, StoreError> {
        let map = map(path)?;
        let Some((header, body)) = map.split_first_chunk::<HEADER_BYTES>() else {
            return Err(StoreError::damaged(path, format!("{} bytes are too few for places", map.len())));
        };
        if header[..8] != MAGIC {
            return Err(StoreError::damaged(path, "it does not begin as places do"));
        }
        let version = u32::from_le_bytes(field(header, 8));
        if !schema::is_readable(version) {
            let found = version.to_string();
            return Err(StoreError::Format { path: path.to_path_buf(), found, expected: FORMAT_VERSION });
        }
        let (of_shard, of_generation) = (u16::from_le_bytes(field(header, 12)), u64::from_le_bytes(field(header, 16)));
        if (of_generation, of_shard) != (generation, shard) {
            let what = format!("it has the places of shard {of_shard} of generation {of_generation}");
            return Err(StoreError::damaged(path, what));
        }
        let [buckets, reach] = [32, 40].map(|at| u64::from_le_bytes(field(header, at)));
        // A bucket's number is a product of 32 bits each.
        let fits = (1..=u64::from(u32::MAX)).contains(&buckets) && reach < buckets;
        if !fits || buckets.checked_mul(BUCKET_BYTES as u64) != Some(body.len() as u64) {
            return Err(StoreError::damaged(path, "it is shorter or longer than its header says"));
        }
        Ok(Places { map, buckets, reach })
    }

    /// The same, read from a copy in memory that stays there.
    pub(crate) fn lock(&mut self) -> io::Result<()> {
        self.map = locked_copy(&self.map)?;
        Ok(())
    }

    /// The mapping.
    pub(crate) fn map(&self) -> &Mmap {
        &self.map
    }

    /// Has the bucket of a name fetched from memory. On the query path.
    #[inline]
    pub(crate) fn prefetch(&self, hash: NameHash) {
        prefetch_at(&self.map, byte_of(home(hash, self.buckets)));
    }

    /// The first place that the name may have. On the query path.
    #[inline]
    pub(crate) fn first(&self, hash: NameHash) -> Option<u32> {
        let bucket = self.bucket(home(hash, self.buckets))?;
        bucket.places(hash).next()
    }

    /// The places that rows of the name may have, in the order in which they were entered, until `found` says that it has heard
    /// enough. On the query path: nearly always one cache line.
    #[inline]
    pub(crate) fn each(&self, hash: NameHash, mut found: impl FnMut(Place) -> bool) {
        let mut number = home(hash, self.buckets);
        for _ in 0..=self.reach {
            let Some(bucket) = self.bucket(number) else { return };
            for place in bucket.places(hash) {
                let place = if place == ASK_SQLITE { Place::AskSqlite } else { Place::At(place) };
                if !found(place) {
                    return;
                }
            }
            if !bucket.has_moved_on(hash) {
                return;
            }
            number = next(number, self.buckets);
        }
    }

    #[inline]
    fn bucket(&self, number: u64) -> Option<Bucket<'_>> {
        self.map.get(byte_of(number)..)?.first_chunk().map(Bucket)
    }
}

/// Where a row of a name may be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Place {
    /// The length of its payload stands at this byte of the database.
    At(u32),
    /// Only SQLite reads it.
    AskSqlite,
}

/// A name's own bucket. The hash's highest bits have chosen the shard.
#[inline]
fn home(hash: NameHash, buckets: u64) -> u64 {
    (u64::from(hash.0 as u32) * buckets) >> 32
}

/// The bucket where what does not fit into one goes.
#[inline]
fn next(number: u64, buckets: u64) -> u64 {
    if number + 1 < buckets { number + 1 } else { 0 }
}

#[inline]
fn byte_of(bucket: u64) -> usize {
    HEADER_BYTES + bucket as usize * BUCKET_BYTES
}

/// Tells the names of a bucket apart: bits that have a part neither in the bucket's number nor in the shard's, of which there are 4,096.
#[inline]
fn tag(hash: NameHash) -> u16 {
    (hash.0 >> 32) as u16
}

/// The bit that tells for a name that entries of its kind have moved on: bits that hardly have a part in the bucket's number.
#[inline]
fn moved_bit(hash: NameHash) -> u32 {
    1 << (hash.0 & 31)
}

#[derive(Clone, Copy)]
struct Bucket<'a>(&'a [u8; BUCKET_BYTES]);

impl<'a> Bucket<'a> {
    /// Places under the name's tag.
    #[inline]
    fn places(self, hash: NameHash) -> impl Iterator<Item = u32> + use<'a> {
        let (tag, (tags, rest)) = (tag(hash).to_le_bytes(), self.0.split_at(PLACES_AT));
        let mut matching = 0u32;
        for (entry, found) in tags.as_chunks::<2>().0.iter().enumerate() {
            matching |= u32::from(*found == tag) << entry;
        }
        let (places, _) = rest.as_chunks::<4>();
        std::iter::from_fn(move || {
            while matching != 0 {
                let entry = matching.trailing_zeros() as usize;
                matching &= matching - 1;
                let place = u32::from_le_bytes(*places.get(entry)?);
                // Where nothing was entered all is zero, also the tag.
                if place != 0 {
                    return Some(place);
                }
            }
            None
        })
    }

    /// Whether entries like this name's did not fit and lie in the next bucket, or behind it.
    #[inline]
    fn has_moved_on(self, hash: NameHash) -> bool {
        u32::from_le_bytes(field(self.0, MOVED_AT)) & moved_bit(hash) != 0
    }
}

/// Writes the places of the rows of the finished database at `database`, which has `rows` of them.
pub(crate) fn write_places(
    path: &Path,
    name: &str,
    database: &Path,
    rows: u64,
    hasher: &WholeHasher,
    of: (u64, u16),
) -> Result<FileEntry, StoreError> {
    let bytes = file_bytes(database, rows, hasher, of)?;
    fs::write(path, &bytes).map_err(StoreError::io(path, "write the places"))?;
    Ok(FileEntry::of_bytes(name, &bytes))
}

fn file_bytes(database: &Path, rows: u64, hasher: &WholeHasher, of: (u64, u16)) -> Result<Vec<u8>, StoreError> {
    let mut table = Table::new(rows);
    let mut waiting = Waiting { name: Vec::new(), places: Vec::new(), rows: 0 };
    let mut found = 0;
    let mut enter = |waiting: &mut Waiting| waiting.enter(&mut table, hasher, database);
    btree::each_place(database, &mut |name, place, is_whole| {
        found += 1;
        if waiting.rows > 0 && waiting.name != name {
            enter(&mut waiting)?;
        }
        // A row behind the first 4 GiB has a place that an entry has no room for.
        waiting.add(name, if is_whole { u32::try_from(place).unwrap_or(ASK_SQLITE) } else { ASK_SQLITE });
        Ok(())
    })?;
    enter(&mut waiting)?;
    if found != rows {
        return Err(StoreError::damaged(database, format!("it has {found} rules instead of {rows}")));
    }
    Ok(table.finish(rows, of))
}

/// The rows of one name, which come one after the other.
struct Waiting {
    name: Vec<u8>,
    places: Vec<u32>,
    rows: usize,
}

impl Waiting {
    fn add(&mut self, name: &[u8], place: u32) {
        if self.rows == 0 {
            self.name.clear();
            self.name.extend_from_slice(name);
            self.places.clear();
        }
        self.rows += 1;
        if self.places.len() <= ROWS_A_NAME_MAX {
            self.places.push(place);
        }
    }

    fn enter(&mut self, table: &mut Table, hasher: &WholeHasher, database: &Path) -> Result<(), StoreError> {
        if std::mem::take(&mut self.rows) == 0 {
            return Ok(());
        }
        let hash = std::str::from_utf8(&self.name).ok().and_then(|name| hasher.hash_text(name));
        let (hash, _) = hash.ok_or_else(|| StoreError::damaged(database, "a rule's name is none"))?;
        if self.places.len() > ROWS_A_NAME_MAX || self.places.contains(&ASK_SQLITE) {
            table.enter(hash, ASK_SQLITE);
        } else {
            self.places.iter().for_each(|&place| table.enter(hash, place));
        }
        Ok(())
    }
}

/// The table being filled.
struct Table {
    /// Header and buckets.
    bytes: Vec<u8>,
    buckets: u64,
    reach: u64,
}

impl Table {
    /// Room for so many rows.
    fn new(rows: u64) -> Table {
        let buckets = rows.div_ceil(ENTRIES_ON_AVERAGE).max(1);
        Table { bytes: vec![0; byte_of(buckets)], buckets, reach: 0 }
    }

    /// Enters a place of a name into its bucket or the first behind it that has room. There is room: at most as many come as there are rows.
    fn enter(&mut self, hash: NameHash, place: u32) {
        let mut number = home(hash, self.buckets);
        for away in 0..self.buckets {
            let Some(bucket) = self.bytes.get_mut(byte_of(number)..).and_then(<[u8]>::first_chunk_mut) else { return };
            if enter_into(bucket, hash, place) {
                self.reach = self.reach.max(away);
                return;
            }
            number = next(number, self.buckets);
        }
    }

    fn finish(self, rows: u64, (generation, shard): (u64, u16)) -> Vec<u8> {
        let mut bytes = self.bytes;
        if let Some(header) = bytes.first_chunk_mut::<HEADER_BYTES>() {
            header[..8].copy_from_slice(&MAGIC);
            header[8..12].copy_from_slice(&FORMAT_VERSION.to_le_bytes());
            header[12..14].copy_from_slice(&shard.to_le_bytes());
            header[16..24].copy_from_slice(&generation.to_le_bytes());
            header[24..32].copy_from_slice(&rows.to_le_bytes());
            header[32..40].copy_from_slice(&self.buckets.to_le_bytes());
            header[40..48].copy_from_slice(&self.reach.to_le_bytes());
        }
        bytes
    }
}

/// False when the bucket is full, which then says that the entry has moved on.
fn enter_into(bucket: &mut [u8; BUCKET_BYTES], hash: NameHash, place: u32) -> bool {
    let (tags, rest) = bucket.split_at_mut(PLACES_AT);
    let (places, moved) = rest.split_at_mut(MOVED_AT - PLACES_AT);
    let free = places.as_chunks::<4>().0.iter().position(|place| *place == [0; 4]);
    match free {
        Some(entry) => {
            tags.as_chunks_mut::<2>().0[entry] = tag(hash).to_le_bytes();
            places.as_chunks_mut::<4>().0[entry] = place.to_le_bytes();
        }
        None => {
            let bits = u32::from_le_bytes(field(moved, 0)) | moved_bit(hash);
            moved.copy_from_slice(&bits.to_le_bytes());
        }
    }
    free.is_some()
}

/// `N` bytes at a constant place, so that a wrong one fails every test.
#[inline]
fn field<const N: usize>(bytes: &[u8], at: usize) -> [u8; N] {
    bytes.get(at..).and_then(|rest| rest.first_chunk()).copied().unwrap_or([0; N])
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use super::*;

    fn spread(number: u64) -> NameHash {
        let mut hash = (number + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        hash ^= hash >> 31;
        NameHash(hash.wrapping_mul(0xbf58_476d_1ce4_e5b9))
    }

    fn opened(table: Table, rows: u64) -> (tempfile::TempDir, Places) {
        let dir = tempfile::tempdir().unwrap();
        let path: PathBuf = dir.path().join("dns_shard_03.places");
        fs::write(&path, table.finish(rows, (7, 3))).unwrap();
        let places = Places::open(&path, 7, 3).unwrap();
        assert!(Places::open(&path, 8, 3).is_err() && Places::open(&path, 7, 2).is_err());
        (dir, places)
    }

    fn found(places: &Places, hash: NameHash) -> Vec<Place> {
        let mut found = Vec::new();
        places.each(hash, |place| {
            found.push(place);
            true
        });
        found
    }

    #[test]
    fn a_table_of_any_size_holds_all_its_places() {
        for rows in (0..200).chain([1_000, 20_000]) {
            let mut table = Table::new(rows);
            (0..rows).for_each(|row| table.enter(spread(row), row as u32 + 2));
            let (_dir, places) = opened(table, rows);
            for row in 0..rows {
                assert!(found(&places, spread(row)).contains(&Place::At(row as u32 + 2)), "{row} of {rows}");
            }
            let strangers = (0..20_000).filter(|&row| !found(&places, spread(rows + row)).is_empty()).count();
            assert!(strangers < 20, "{strangers} of 20,000 names that are not there lead somewhere");
        }
    }

    #[test]
    fn few_names_are_sought_in_a_second_bucket() {
        let rows = 200_000;
        let mut table = Table::new(rows);
        (0..rows).for_each(|row| table.enter(spread(row), row as u32 + 2));
        let (_dir, places) = opened(table, rows);
        let goes_on = |hash| places.bucket(home(hash, places.buckets)).unwrap().has_moved_on(hash);
        let second = (0..rows).filter(|&row| goes_on(spread(row))).count();
        assert!(second < 12_000, "{second} of {rows} names");
    }

    #[test]
    fn names_that_all_have_one_bucket_are_all_found() {
        // One of the two lines that they share is the last, so that they go on at the first.
        let rows = 300;
        let same = |row: u64| NameHash(row << 32 | u64::from(u32::MAX));
        let mut table = Table::new(rows);
        (0..rows).for_each(|row| table.enter(same(row), row as u32 + 2));
        let (_dir, places) = opened(table, rows);
        assert_eq!(places.reach, 29);
        for row in 0..rows {
            assert_eq!(found(&places, same(row)), [Place::At(row as u32 + 2)]);
        }
    }

    #[test]
    fn every_truncation_and_bit_flip_is_refused_or_reads_within_the_file() {
        let mut table = Table::new(50);
        (0..50).for_each(|row| table.enter(spread(row), row as u32 + 2));
        let good = table.finish(50, (7, 3));
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("places");
        for len in 0..good.len() {
            fs::write(&path, &good[..len]).unwrap();
            assert!(Places::open(&path, 7, 3).is_err(), "length {len}");
        }
        for bit in 0..good.len() * 8 {
            let mut bad = good.clone();
            bad[bit / 8] ^= 1 << (bit % 8);
            fs::write(&path, &bad).unwrap();
            let Ok(places) = Places::open(&path, 7, 3) else { continue };
            for row in 0..60 {
                places.prefetch(spread(row));
                assert!(found(&places, spread(row)).len() <= 50);
            }
        }
    }
}
