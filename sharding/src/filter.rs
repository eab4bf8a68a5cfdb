//! The filter of one shard: which names may be listed there, and which certainly are not.
//!
//! A binary fuse filter (9 to 10 bits a key and 0.4 % false positives, or 18 bits and 0.002 %; no false negatives) behind a
//! header of our own, mapped read-only or copied into memory. Invariant: a [`Filter`] that exists has been compared with its
//! checksum or was made from its shard's rows, and its descriptor cannot lead a probe outside the fingerprints. What has only
//! been opened is an [`Unverified`], which can be asked nothing. The file never changes once it is published; who truncates it
//! under a running server gets a SIGBUS, as with any mapping.
//!
//! A probe has two halves: [`Filter::begin`] computes where the three fingerprints of a key lie and has them fetched,
//! [`Probe::may_hold`] compares them. A filter is far larger than the processor's caches, so whoever begins several probes
//! before the first is compared waits for memory once.
//!
//! The byte-by-byte layout is in `README.md`.

use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use memmap2::{Advice, Mmap};
use xorf::{BinaryFuse8, BinaryFuse16, DmaSerializable};
use xxhash_rust::xxh3::Xxh3;

use crate::StoreError;
use crate::memory::anonymous;
use crate::schema::{self, FORMAT_VERSION};

/// First bytes of a filter file.
const MAGIC: [u8; 8] = *b"CWFILTER";
/// Bytes before the fingerprints: a multiple of a cache line, so that they are aligned in the mapping.
const HEADER_BYTES: usize = 128;
/// Place of the checksum, the last field of the header.
const CHECKSUM_AT: usize = 120;
/// Bytes of xorf's descriptor: seed, segment length, its mask, and the length of all segments but two.
const DESCRIPTOR_BYTES: usize = BinaryFuse8::DESCRIPTOR_LEN;
/// Place of the descriptor.
const DESCRIPTOR_AT: usize = 48;
/// Filters copied one behind the other begin at multiples of so many bytes: a cache line.
const COPY_ALIGNMENT_BYTES: usize = 64;

/// A filter file, opened: header, lengths and descriptor are right, its fingerprints have not been looked at.
pub struct Unverified {
    path: PathBuf,
    filter: Filter,
    checksum: u64,
}

/// A filter whose every byte is right.
#[derive(Clone)]
pub struct Filter {
    memory: Arc<Mmap>,
    /// Where the fingerprints lie in `memory`, in bytes.
    from: usize,
    bytes: usize,
    seed: u64,
    /// Fingerprints of a segment, a power of two.
    segment: u32,
    /// Fingerprints of all segments but two.
    count: u32,
    /// Two bytes a fingerprint, not one.
    is_wide: bool,
    generation: u64,
    shard: u16,
    keys: u64,
}

/// Where the fingerprints of one key lie, and what they must come to.
#[derive(Clone, Copy)]
pub struct Probe<'a> {
    filter: &'a Filter,
    places: [u32; 3],
    fingerprint: u16,
}

impl Unverified {
    /// Maps the file and checks version, lengths and descriptor.
    pub fn open(path: &Path) -> Result<Unverified, StoreError> {
        let file = File::open(path).map_err(StoreError::io(path, "open the filter"))?;
        // SAFETY: the mapping is read-only and the file belongs to a generation, which is never modified once published:
        // `Built::publish` renames a finished directory into place and nothing opens a file of it for writing.
        let map = unsafe { Mmap::map(&file) }.map_err(StoreError::io(path, "map the filter"))?;
        let Some((header, body)) = map.split_first_chunk::<HEADER_BYTES>() else {
            return Err(StoreError::damaged(path, format!("{} bytes are too few for a filter", map.len())));
        };
        if header[..8] != MAGIC {
            return Err(StoreError::damaged(path, "it does not begin as a filter does"));
        }
        let (version, bits) = (u32::from_le_bytes(field(header, 8)), header[14]);
        // Format 1 has filters of 8 bits alone.
        if !schema::is_readable(version) || !is_filter_bits(bits) || (version == 1 && bits != 8) {
            let found = format!("{version} with {bits} fingerprint bits");
            return Err(StoreError::Format { path: path.to_path_buf(), found, expected: FORMAT_VERSION });
        }
        if u64::from_le_bytes(field(header, 32)) != body.len() as u64 {
            return Err(StoreError::damaged(path, "it is shorter or longer than its header says"));
        }
        let (checksum, bytes) = (u64::from_le_bytes(field(header, CHECKSUM_AT)), body.len());
        let keys = u64::from_le_bytes(field(header, 24));
        let (generation, shard) = (u64::from_le_bytes(field(header, 16)), u16::from_le_bytes(field(header, 12)));
        let descriptor: [u8; DESCRIPTOR_BYTES] = field(header, DESCRIPTOR_AT);
        let unreadable = || StoreError::damaged(path, "its descriptor does not fit its fingerprints");
        let shape = Shape::of(keys, &descriptor, bytes, bits).ok_or_else(unreadable)?;
        let filter = Filter::new(Arc::new(map), HEADER_BYTES, bytes, shape, (generation, shard, keys));
        Ok(Unverified { path: path.to_path_buf(), filter, checksum })
    }

    /// Reads every byte and compares the checksum.
    pub fn verify(self) -> Result<Filter, StoreError> {
        // Read once from end to end; a kernel that does not heed it reads the same bytes in smaller pieces.
        let _ = self.filter.memory.advise(Advice::WillNeed);
        let is_right = match self.filter.memory.split_first_chunk::<HEADER_BYTES>() {
            Some((header, body)) => checksum(header, body) == self.checksum,
            None => false,
        };
        if !is_right {
            return Err(StoreError::damaged(&self.path, "its checksum does not match"));
        }
        // Huge pages where the kernel gives them to files; most give none, and that is no error.
        let _ = self.filter.memory.advise(Advice::HugePage);
        Ok(self.filter)
    }

    /// Of the file's mapping.
    pub fn bytes(&self) -> usize {
        self.filter.memory.len()
    }

    /// The generation that it was built for.
    pub fn generation(&self) -> u64 {
        self.filter.generation
    }

    /// The shard that it was built for.
    pub fn shard(&self) -> u16 {
        self.filter.shard
    }

    /// Bits of a fingerprint.
    pub fn bits(&self) -> u8 {
        self.filter.bits()
    }
}

impl Filter {
    /// Maps the file and checks every byte of it.
    pub fn open(path: &Path) -> Result<Filter, StoreError> {
        Unverified::open(path)?.verify()
    }

    /// A filter in memory over `keys`, as [`file_bytes`] takes them.
    pub(crate) fn of_keys(keys: &[u64], bits: u8, generation: u64, shard: u16) -> Result<Filter, FilterNotMade> {
        let (descriptor, fingerprints) = made(keys, bits).ok_or(FilterNotMade::NotFound)?;
        let shape = Shape::of(keys.len() as u64, &descriptor, fingerprints.len(), bits);
        let shape = shape.ok_or(FilterNotMade::NotFound)?;
        let mut memory = anonymous(fingerprints.len()).map_err(FilterNotMade::NoMemory)?;
        memory[..fingerprints.len()].copy_from_slice(&fingerprints);
        let memory = Arc::new(memory.make_read_only().map_err(FilterNotMade::NoMemory)?);
        Ok(Filter::new(memory, 0, fingerprints.len(), shape, (generation, shard, keys.len() as u64)))
    }

    /// Copies of `filters` in memory of their own, one behind the other, in huge pages where the kernel gives them. The
    /// calling thread is the first to touch that memory, which so lies near the core that it runs on.
    pub fn copies(filters: &[Arc<Filter>]) -> io::Result<Vec<Filter>> {
        let room = |filter: &Arc<Filter>| filter.bytes.next_multiple_of(COPY_ALIGNMENT_BYTES);
        let mut memory = anonymous(filters.iter().map(room).sum())?;
        let mut at = 0;
        for filter in filters {
            memory[at..at + filter.bytes].copy_from_slice(filter.fingerprints());
            at += room(filter);
        }
        let memory = Arc::new(memory.make_read_only()?);
        let mut from = 0;
        let copy = |filter: &Arc<Filter>| {
            let copy = Filter { memory: memory.clone(), from, ..Filter::clone(filter) };
            from += room(filter);
            copy
        };
        Ok(filters.iter().map(copy).collect())
    }

    fn new(memory: Arc<Mmap>, from: usize, bytes: usize, shape: Shape, of: (u64, u16, u64)) -> Filter {
        let Shape { seed, segment, count, is_wide } = shape;
        let (generation, shard, keys) = of;
        Filter { memory, from, bytes, seed, segment, count, is_wide, generation, shard, keys }
    }

    /// Begins to ask whether a rule with this key (see [`crate::route::NameHash::filter_key`]) may be in the shard: computes
    /// where its fingerprints lie, and has them fetched. On the query path: no allocation, reads nothing of the filter.
    #[inline]
    pub fn begin(&self, key: u64) -> Probe<'_> {
        let hash = mix(key.wrapping_add(self.seed));
        let (segment, mask) = (self.segment, self.segment.wrapping_sub(1));
        let first = ((u128::from(hash) * u128::from(self.count)) >> 64) as u32;
        // `Shape::of` holds the sums within 32 bits.
        let second = first.wrapping_add(segment) ^ ((hash >> 18) as u32 & mask);
        let third = first.wrapping_add(segment).wrapping_add(segment) ^ (hash as u32 & mask);
        let (places, fingerprints) = ([first, second, third], self.fingerprints());
        for place in places {
            prefetch_at(fingerprints, self.byte_of(place));
        }
        let fingerprint = (hash ^ (hash >> 32)) as u16;
        Probe { filter: self, places, fingerprint: if self.is_wide { fingerprint } else { fingerprint & 0xff } }
    }

    /// Whether a rule with this key may be in the shard; false is certain. On the query path.
    #[inline]
    pub fn contains(&self, key: u64) -> bool {
        self.begin(key).may_hold()
    }

    /// Distinct keys in the filter.
    pub fn keys(&self) -> u64 {
        self.keys
    }

    /// Bytes of the fingerprints.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// Bits of a fingerprint.
    pub fn bits(&self) -> u8 {
        if self.is_wide { 16 } else { 8 }
    }

    /// The generation that it was built for.
    pub fn generation(&self) -> u64 {
        self.generation
    }

    /// The shard that it was built for.
    pub fn shard(&self) -> u16 {
        self.shard
    }

    #[inline]
    fn fingerprints(&self) -> &[u8] {
        self.memory.get(self.from..self.from + self.bytes).unwrap_or_default()
    }

    #[inline]
    fn byte_of(&self, place: u32) -> usize {
        (place as usize) << u8::from(self.is_wide)
    }
}

impl Probe<'_> {
    /// Whether a rule with the key may be in the shard; false is certain. On the query path: three reads.
    #[inline]
    pub fn may_hold(self) -> bool {
        let Probe { filter, places, mut fingerprint } = self;
        let fingerprints = filter.fingerprints();
        for place in places {
            let at = filter.byte_of(place);
            let found = match filter.is_wide {
                false => fingerprints.get(at).map(|&byte| u16::from(byte)),
                true => fingerprints.get(at..).and_then(<[u8]>::first_chunk).map(|&bytes| u16::from_le_bytes(bytes)),
            };
            // An empty set has no fingerprints; every other filter has all that a probe can ask for (`Shape::of`).
            let Some(found) = found else { return false };
            fingerprint ^= found;
        }
        fingerprint == 0
    }
}

/// What a filter's descriptor says.
struct Shape {
    seed: u64,
    segment: u32,
    count: u32,
    is_wide: bool,
}

impl Shape {
    /// None when it does not fit the fingerprints. The three probes of a key fall into `[0, count)`, and one and two segments
    /// further on, each inside one segment: so `count + 2 * segment` fingerprints must be there.
    fn of(keys: u64, descriptor: &[u8; DESCRIPTOR_BYTES], bytes: usize, bits: u8) -> Option<Shape> {
        let is_wide = bits == 16;
        if keys == 0 {
            return (bytes == 0).then_some(Shape { seed: 0, segment: 1, count: 0, is_wide });
        }
        let seed = u64::from_le_bytes(field(descriptor, 0));
        let [segment, mask, count] = [8, 12, 16].map(|at| u32::from_le_bytes(field(descriptor, at)));
        let fingerprints = u64::from(count) + 2 * u64::from(segment);
        let fits = segment.is_power_of_two()
            && mask == segment - 1
            && count > 0
            && count % segment == 0
            && fingerprints <= u64::from(u32::MAX)
            && fingerprints << u8::from(is_wide) == bytes as u64;
        fits.then_some(Shape { seed, segment, count, is_wide })
    }
}

/// Why a filter could not be made again.
#[derive(Debug)]
pub(crate) enum FilterNotMade {
    /// None was found for these keys, which has a negligible probability.
    NotFound,
    /// The system gives no memory.
    NoMemory(io::Error),
}

/// Whether filters have so many bits a fingerprint.
pub(crate) fn is_filter_bits(bits: u8) -> bool {
    matches!(bits, 8 | 16)
}

/// The file of a filter over `keys`, which are sorted and without duplicates: xorf fails on those. `bits` are 8 or 16. None
/// when no filter was found for these keys, which has a negligible probability.
pub fn file_bytes(keys: &[u64], bits: u8, generation: u64, shard: u16) -> Option<Vec<u8>> {
    let (descriptor, fingerprints) = made(keys, bits)?;
    let mut header = [0u8; HEADER_BYTES];
    header[..8].copy_from_slice(&MAGIC);
    header[8..12].copy_from_slice(&FORMAT_VERSION.to_le_bytes());
    header[12..14].copy_from_slice(&shard.to_le_bytes());
    header[14] = bits;
    header[16..24].copy_from_slice(&generation.to_le_bytes());
    header[24..32].copy_from_slice(&(keys.len() as u64).to_le_bytes());
    header[32..40].copy_from_slice(&(fingerprints.len() as u64).to_le_bytes());
    header[DESCRIPTOR_AT..DESCRIPTOR_AT + DESCRIPTOR_BYTES].copy_from_slice(&descriptor);
    let sum = checksum(&header, &fingerprints);
    header[CHECKSUM_AT..].copy_from_slice(&sum.to_le_bytes());
    Some([&header[..], &fingerprints].concat())
}

/// Descriptor and fingerprints.
fn made(keys: &[u64], bits: u8) -> Option<([u8; DESCRIPTOR_BYTES], Vec<u8>)> {
    fn parts<Made: DmaSerializable>(filter: &Made, is_empty: bool) -> ([u8; DESCRIPTOR_BYTES], Vec<u8>) {
        let mut descriptor = [0; DESCRIPTOR_BYTES];
        filter.dma_copy_descriptor_to(&mut descriptor);
        (descriptor, if is_empty { Vec::new() } else { filter.dma_fingerprints().to_vec() })
    }
    match bits {
        8 => BinaryFuse8::try_from(keys).ok().map(|filter| parts(&filter, keys.is_empty())),
        16 => BinaryFuse16::try_from(keys).ok().map(|filter| parts(&filter, keys.is_empty())),
        _ => None,
    }
}

/// MurmurHash3's 64-bit finaliser.
#[inline]
fn mix(mut hash: u64) -> u64 {
    hash ^= hash >> 33;
    hash = hash.wrapping_mul(0xff51_afd7_ed55_8ccd);
    hash ^= hash >> 33;
    hash = hash.wrapping_mul(0xc4ce_b9fe_1a85_ec53);
    hash ^ hash >> 33
}

/// Has the cache line of the byte at a place fetched, if there is one.
#[inline]
pub(crate) fn prefetch_at(bytes: &[u8], at: usize) {
    if let Some(byte) = bytes.get(at) {
        prefetch(byte);
    }
}

/// Has the processor fetch the cache line in which `place` begins, without waiting for it.
#[inline]
pub fn prefetch<T>(place: &T) {
    #[cfg(target_arch = "x86_64")]
    {
        use std::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
        // SAFETY: the instruction belongs to every x86-64 processor, changes nothing that a program can see, and is given the
        // address of something that is there.
        unsafe { _mm_prefetch::<_MM_HINT_T0>(std::ptr::from_ref(place).cast()) };
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = place;
}

/// xxh3-64 of the header without its checksum, then the fingerprints.
fn checksum(header: &[u8; HEADER_BYTES], fingerprints: &[u8]) -> u64 {
    let mut sum = Xxh3::new();
    sum.update(&header[..CHECKSUM_AT]);
    sum.update(fingerprints);
    sum.digest()
}

/// `N` bytes of a fixed-size header; the places are constants, so a wrong one fails every test.
fn field<const N: usize>(header: &[u8], at: usize) -> [u8; N] {
    header.get(at..).and_then(|rest| rest.first_chunk()).copied().unwrap_or([0; N])
}

#[cfg(test)]
mod tests {
    use xorf::{BinaryFuse8Ref, BinaryFuse16Ref, Filter as _, FilterRef};

    use super::*;

    fn written(keys: &[u64], bits: u8) -> (tempfile::TempDir, PathBuf) {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("dns_shard_00.filter");
        std::fs::write(&path, file_bytes(keys, bits, 7, 3).unwrap()).unwrap();
        (dir, path)
    }

    fn spread_keys(count: u64) -> Vec<u64> {
        let mut keys: Vec<u64> = (0..count).map(|n| (n + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15)).collect();
        keys.sort_unstable();
        keys
    }

    #[test]
    fn a_filter_of_any_size_holds_all_its_keys() {
        for bits in [8, 16] {
            for count in (0..200).chain([1_000, 1_023, 1_024, 1_025, 20_000]) {
                let keys = spread_keys(count);
                let (_dir, path) = written(&keys, bits);
                let filter = Filter::open(&path).unwrap();
                assert_eq!((filter.keys(), filter.generation(), filter.shard()), (count, 7, 3));
                assert_eq!(filter.bits(), bits);
                assert!(keys.iter().all(|&key| filter.contains(key)), "{count} keys");
                let again = Filter::of_keys(&keys, bits, 7, 3).unwrap();
                assert!(again.fingerprints() == filter.fingerprints(), "made in memory or in a file, it is the same");
            }
        }
    }

    #[test]
    fn a_probe_says_what_xorf_says() {
        for count in [1, 2, 3, 10, 1_000, 300_000] {
            let keys = spread_keys(count);
            for bits in [8, 16] {
                let (_dir, path) = written(&keys, bits);
                let filter = Filter::open(&path).unwrap();
                let (descriptor, fingerprints) = made(&keys, bits).unwrap();
                let xorfs: Box<dyn Fn(u64) -> bool> = match bits {
                    8 => Box::new(|key| BinaryFuse8Ref::from_dma(&descriptor, &fingerprints).contains(&key)),
                    _ => Box::new(|key| BinaryFuse16Ref::from_dma(&descriptor, filter.fingerprints()).contains(&key)),
                };
                let strangers = (0..100_000u64).map(|n| n.wrapping_mul(0xd129_1c5b_8f1a_7d33));
                for key in keys.iter().copied().chain(strangers).chain([u64::MAX, u64::MAX / 2]) {
                    assert_eq!(filter.contains(key), xorfs(key), "{count} keys, {bits} bits, {key:x}");
                }
            }
        }
    }

    #[test]
    fn an_empty_filter_holds_nothing() {
        for bits in [8, 16] {
            let (_dir, path) = written(&[], bits);
            let filter = Filter::open(&path).unwrap();
            assert!((0..100_000).all(|key| !filter.contains(key)));
        }
    }

    #[test]
    fn false_positives_are_rare_and_rarer_with_more_bits() {
        for (bits, most) in [(8, 1_000), (16, 20)] {
            let (_dir, path) = written(&spread_keys(20_000), bits);
            let filter = Filter::open(&path).unwrap();
            let wrong = (0..100_000u64).filter(|&key| filter.contains(key)).count();
            assert!(wrong < most, "{wrong} of 100,000 with {bits} bits");
        }
    }

    #[test]
    fn copies_say_what_the_originals_say() {
        let files: Vec<_> = [0, 1, 1_000, 77].map(|count| written(&spread_keys(count), 8)).into();
        let open = |(_, path): &(tempfile::TempDir, PathBuf)| Arc::new(Filter::open(path).unwrap());
        let filters: Vec<_> = files.iter().map(open).collect();
        let copies = Filter::copies(&filters).unwrap();
        assert_eq!(copies.len(), filters.len());
        for (copy, filter) in copies.iter().zip(&filters) {
            assert!(copy.fingerprints() == filter.fingerprints());
            let address = copy.fingerprints().as_ptr() as usize;
            assert!(copy.bytes() == 0 || address.is_multiple_of(COPY_ALIGNMENT_BYTES));
            assert!((0..20_000).all(|key| copy.contains(key) == filter.contains(key)));
        }
        assert!(Filter::copies(&[]).unwrap().is_empty());
    }

    #[test]
    fn every_bit_flip_and_truncation_is_refused() {
        for bits in [8, 16] {
            let (_dir, path) = written(&spread_keys(20), bits);
            let good = std::fs::read(&path).unwrap();
            for bit in 0..good.len() * 8 {
                let mut bad = good.clone();
                bad[bit / 8] ^= 1 << (bit % 8);
                std::fs::write(&path, &bad).unwrap();
                assert!(Filter::open(&path).is_err(), "bit {bit}");
            }
            for len in 0..good.len() {
                std::fs::write(&path, &good[..len]).unwrap();
                assert!(Filter::open(&path).is_err(), "length {len}");
            }
            std::fs::write(&path, [&good[..], b"x"].concat()).unwrap();
            assert!(Filter::open(&path).is_err());
        }
    }

    /// Changes a filter's bytes and makes its checksum right again.
    fn forged(path: &Path, change: impl FnOnce(&mut [u8])) {
        let mut bytes = std::fs::read(path).unwrap();
        change(&mut bytes);
        let (header, body) = bytes.split_first_chunk::<HEADER_BYTES>().unwrap();
        let sum = checksum(header, body).to_le_bytes();
        bytes[CHECKSUM_AT..HEADER_BYTES].copy_from_slice(&sum);
        std::fs::write(path, bytes).unwrap();
    }

    #[test]
    fn a_descriptor_out_of_bounds_is_refused_even_with_a_right_checksum() {
        for bits in [8, 16] {
            let (_dir, path) = written(&spread_keys(1_000), bits);
            forged(&path, |bytes| bytes[DESCRIPTOR_AT + 19] = 0xff);
            assert!(matches!(Filter::open(&path), Err(StoreError::Damaged { .. })));
            let (_dir, path) = written(&spread_keys(1_000), bits);
            forged(&path, |bytes| bytes[14] = 24 - bits);
            assert!(matches!(Filter::open(&path), Err(StoreError::Damaged { .. })), "one width taken for the other");
        }
    }

    #[test]
    fn a_filter_of_format_1_opens_and_has_8_bits() {
        let keys = spread_keys(500);
        for (bits, opens) in [(8, true), (16, false)] {
            let (_dir, path) = written(&keys, bits);
            forged(&path, |bytes| bytes[8..12].copy_from_slice(&1u32.to_le_bytes()));
            let filter = Filter::open(&path);
            assert_eq!(filter.is_ok(), opens);
            assert!(filter.iter().all(|filter| keys.iter().all(|&key| filter.contains(key))));
        }
    }

    #[test]
    fn another_format_version_says_to_build_again() {
        let (_dir, path) = written(&spread_keys(10), 8);
        let mut bytes = std::fs::read(&path).unwrap();
        bytes[8] = 99;
        std::fs::write(&path, bytes).unwrap();
        let error = Filter::open(&path).err().unwrap().to_string();
        assert!(error.contains("build the store again"), "{error}");
    }
}
