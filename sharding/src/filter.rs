//! The filter of one shard: which names may be listed there, and which certainly are not.
//!
//! A binary fuse filter (8-bit fingerprints, 9 to 10 bits a key, 0.4 % false positives, no false negatives) behind a
//! header of our own, mapped read-only and shared by all workers. Invariant: a [`Filter`] that exists has been compared
//! with its checksum, and its descriptor cannot lead a probe outside the fingerprints. The file never changes once it is
//! published; who truncates it under a running server gets a SIGBUS, as with any mapping.
//!
//! The byte-by-byte layout is in `README.md`.

use std::fs::File;
use std::path::Path;

use memmap2::Mmap;
use xorf::{BinaryFuse8, BinaryFuse8Ref, DmaSerializable, Filter as _, FilterRef};
use xxhash_rust::xxh3::Xxh3;

use crate::StoreError;
use crate::schema::{self, FORMAT_VERSION};

/// First bytes of a filter file.
const MAGIC: [u8; 8] = *b"CWFILTER";
/// Bytes before the fingerprints: a multiple of a cache line, so that they are aligned in the mapping.
const HEADER_BYTES: usize = 128;
/// Place of the checksum, the last field of the header.
const CHECKSUM_AT: usize = 120;
/// Bits of a fingerprint.
const FINGERPRINT_BITS: u8 = 8;
/// Bytes of xorf's descriptor: seed, segment length, its mask, and the length of all segments but two.
const DESCRIPTOR_BYTES: usize = BinaryFuse8::DESCRIPTOR_LEN;
/// Place of the descriptor.
const DESCRIPTOR_AT: usize = 48;

/// A mapped, verified filter.
pub struct Filter {
    map: Mmap,
    descriptor: [u8; DESCRIPTOR_BYTES],
    generation: u64,
    shard: u16,
    keys: u64,
}

impl Filter {
    /// Maps the file and checks its version, lengths and checksum.
    pub fn open(path: &Path) -> Result<Filter, StoreError> {
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
        let version = u32::from_le_bytes(field(header, 8));
        if !schema::is_readable(version) || header[14] != FINGERPRINT_BITS {
            let found = format!("{version} with {} fingerprint bits", header[14]);
            return Err(StoreError::Format { path: path.to_path_buf(), found, expected: FORMAT_VERSION });
        }
        if u64::from_le_bytes(field(header, 32)) != body.len() as u64 {
            return Err(StoreError::damaged(path, "it is shorter or longer than its header says"));
        }
        if u64::from_le_bytes(field(header, CHECKSUM_AT)) != checksum(header, body) {
            return Err(StoreError::damaged(path, "its checksum does not match"));
        }
        let filter = Filter {
            descriptor: field(header, DESCRIPTOR_AT),
            generation: u64::from_le_bytes(field(header, 16)),
            shard: u16::from_le_bytes(field(header, 12)),
            keys: u64::from_le_bytes(field(header, 24)),
            map,
        };
        if filter.keys > 0 && !filter.descriptor_fits() {
            return Err(StoreError::damaged(path, "its descriptor does not fit its fingerprints"));
        }
        Ok(filter)
    }

    /// Whether a rule with this key (see [`crate::route::NameHash::filter_key`]) may be in the shard; false is certain.
    /// On the query path: no allocation, three reads of the mapping.
    #[inline]
    pub fn contains(&self, key: u64) -> bool {
        // An empty set has no fingerprints to compare with.
        self.keys > 0 && BinaryFuse8Ref::from_dma(&self.descriptor, self.fingerprints()).contains(&key)
    }

    /// Distinct keys in the filter.
    pub fn keys(&self) -> u64 {
        self.keys
    }

    /// Bytes of the file, all of them mapped.
    pub fn bytes(&self) -> usize {
        self.map.len()
    }

    /// The generation that it was built for.
    pub fn generation(&self) -> u64 {
        self.generation
    }

    /// The shard that it was built for.
    pub fn shard(&self) -> u16 {
        self.shard
    }

    fn fingerprints(&self) -> &[u8] {
        self.map.get(HEADER_BYTES..).unwrap_or_default()
    }

    /// The three probes of a key fall into `[0, count)`, and one and two segments further on, each inside one segment: so
    /// `count + 2 * segment` fingerprints must be there. xorf itself would panic.
    fn descriptor_fits(&self) -> bool {
        let segment = u32::from_le_bytes(field(&self.descriptor, 8));
        let mask = u32::from_le_bytes(field(&self.descriptor, 12));
        let count = u32::from_le_bytes(field(&self.descriptor, 16));
        segment.is_power_of_two()
            && mask == segment - 1
            && count > 0
            && count % segment == 0
            && u64::from(count) + 2 * u64::from(segment) == self.fingerprints().len() as u64
    }
}

/// The file of a filter over `keys`, which are sorted and without duplicates: xorf fails on those. None when no
/// filter was found for these keys, which has a negligible probability.
pub(crate) fn file_bytes(keys: &[u64], generation: u64, shard: u16) -> Option<Vec<u8>> {
    let filter = BinaryFuse8::try_from(keys).ok()?;
    let fingerprints = if keys.is_empty() { &[] } else { filter.dma_fingerprints() };
    let mut header = [0u8; HEADER_BYTES];
    header[..8].copy_from_slice(&MAGIC);
    header[8..12].copy_from_slice(&FORMAT_VERSION.to_le_bytes());
    header[12..14].copy_from_slice(&shard.to_le_bytes());
    header[14] = FINGERPRINT_BITS;
    header[16..24].copy_from_slice(&generation.to_le_bytes());
    header[24..32].copy_from_slice(&(keys.len() as u64).to_le_bytes());
    header[32..40].copy_from_slice(&(fingerprints.len() as u64).to_le_bytes());
    filter.dma_copy_descriptor_to(&mut header[DESCRIPTOR_AT..DESCRIPTOR_AT + DESCRIPTOR_BYTES]);
    let sum = checksum(&header, fingerprints);
    header[CHECKSUM_AT..].copy_from_slice(&sum.to_le_bytes());
    Some([&header[..], fingerprints].concat())
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
    use super::*;

    fn written(keys: &[u64]) -> (tempfile::TempDir, std::path::PathBuf) {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("dns_shard_00.filter");
        std::fs::write(&path, file_bytes(keys, 7, 3).unwrap()).unwrap();
        (dir, path)
    }

    fn spread_keys(count: u64) -> Vec<u64> {
        let mut keys: Vec<u64> = (0..count).map(|n| (n + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15)).collect();
        keys.sort_unstable();
        keys
    }

    #[test]
    fn a_filter_of_any_size_holds_all_its_keys() {
        for count in (0..200).chain([1_000, 1_023, 1_024, 1_025, 20_000]) {
            let keys = spread_keys(count);
            let (_dir, path) = written(&keys);
            let filter = Filter::open(&path).unwrap();
            assert_eq!((filter.keys(), filter.generation(), filter.shard()), (count, 7, 3));
            assert!(keys.iter().all(|&key| filter.contains(key)), "{count} keys");
        }
    }

    #[test]
    fn an_empty_filter_holds_nothing() {
        let (_dir, path) = written(&[]);
        let filter = Filter::open(&path).unwrap();
        assert!((0..100_000).all(|key| !filter.contains(key)));
    }

    #[test]
    fn false_positives_stay_under_one_percent() {
        let (_dir, path) = written(&spread_keys(20_000));
        let filter = Filter::open(&path).unwrap();
        let wrong = (0..100_000u64).filter(|&key| filter.contains(key)).count();
        assert!(wrong < 1_000, "{wrong} of 100,000");
    }

    #[test]
    fn every_bit_flip_and_truncation_is_refused() {
        let (_dir, path) = written(&spread_keys(20));
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

    #[test]
    fn a_descriptor_out_of_bounds_is_refused_even_with_a_right_checksum() {
        let (_dir, path) = written(&spread_keys(1_000));
        let mut bytes = std::fs::read(&path).unwrap();
        bytes[DESCRIPTOR_AT + 19] = 0xff;
        let (header, body) = bytes.split_first_chunk::<HEADER_BYTES>().unwrap();
        let sum = checksum(header, body).to_le_bytes();
        bytes[CHECKSUM_AT..HEADER_BYTES].copy_from_slice(&sum);
        std::fs::write(&path, bytes).unwrap();
        assert!(matches!(Filter::open(&path), Err(StoreError::Damaged { .. })));
    }

    #[test]
    fn another_format_version_says_to_build_again() {
        let (_dir, path) = written(&spread_keys(10));
        let mut bytes = std::fs::read(&path).unwrap();
        bytes[8] = 99;
        std::fs::write(&path, bytes).unwrap();
        let error = Filter::open(&path).err().unwrap().to_string();
        assert!(error.contains("build the store again"), "{error}");
    }
}
