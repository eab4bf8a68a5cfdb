//! `manifest.toml`: what a generation holds, with a checksum for each of its files.
//!
//! It is the last file that a build writes, so a directory without it is no generation. Invariant: a [`Manifest`] read
//! from disk matched its own checksum and is of a version that is read here, up to [`FORMAT_VERSION`].

use std::fs::{self, File};
use std::io::Read;
use std::path::Path;

use serde::{Deserialize, Serialize};
use xxhash_rust::xxh3::{Xxh3, xxh3_64};

use crate::StoreError;
use crate::generation::places_name;
use crate::route::{HashKey, SubtreeDepths, hash_text};
use crate::schema::{self, FORMAT_VERSION};

/// Name of the manifest within a generation.
pub const MANIFEST_NAME: &str = "manifest.toml";
/// Bytes of the largest manifest: 4,096 shards with a filter each take 1 MB, 65,536 lists with names of 100 letters 12 MB.
const MANIFEST_BYTES_MAX: u64 = 16 << 20;
/// Bytes read at a time while a file is summed.
const SUM_CHUNK_BYTES: usize = 1 << 20;
/// What the manifest's first line begins with; the sum covers everything after that line.
const CHECKSUM_PREFIX: &str = "checksum = \"";

/// How the rules by name lie in a shard.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Layout {
    /// A row each, in a table that SQL reads.
    #[default]
    Sql,
    /// Sorted names, front-coded and compressed in blocks: a third of the bytes, at some microseconds more a lookup.
    Packed,
}

impl Layout {
    /// All layouts with their names in the configuration.
    pub const ALL: [(Layout, &'static str); 2] = [(Layout::Sql, "sql"), (Layout::Packed, "packed")];

    /// Its name.
    pub fn word(self) -> &'static str {
        Self::ALL.iter().find(|(layout, _)| *layout == self).map_or("", |(_, word)| word)
    }
}

/// Bits of a fingerprint when nothing else is said.
pub const FILTER_BITS_DEFAULT: u8 = 8;

fn filter_bits_default() -> u8 {
    FILTER_BITS_DEFAULT
}

/// What a generation holds.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Manifest {
    /// [`FORMAT_VERSION`] of everything in the generation.
    pub format: u32,
    /// Its number.
    pub generation: u64,
    /// When it was built, Unix time in seconds.
    pub created_s: u64,
    /// Shards.
    pub shards: u16,
    /// Tells whether the store's key is the one that the names were hashed with.
    pub key_check: String,
    /// Rules by name, pattern and address.
    pub rules: u64,
    /// The patterns among them.
    pub patterns: u64,
    /// The rules on addresses among them.
    pub addresses: u64,
    /// Address rewrites.
    pub ip_rewrites: u64,
    /// Rules left out because their list had said them before.
    pub duplicates: u64,
    /// Classes.
    pub classes: u64,
    /// How the rules by name lie in the shards.
    #[serde(default)]
    pub layout: Layout,
    /// Bits of a fingerprint in the filters, 8 or 16.
    #[serde(default = "filter_bits_default")]
    pub filter_bits: u8,
    /// Of which numbers of labels there are subtree or below rules.
    #[serde(default)]
    pub subtree_depths: SubtreeDepths,
    /// The last entry of the overlay that is folded in, with all before it; 0 when none is.
    #[serde(default)]
    pub overlay_seq: u64,
    /// The lists in the order of their ids.
    #[serde(default, rename = "list")]
    pub lists: Vec<ListEntry>,
    /// Every file but the manifest, by name.
    #[serde(default, rename = "file")]
    pub files: Vec<FileEntry>,
}

/// One list of a generation.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ListEntry {
    /// Its name.
    pub name: String,
    /// Its category.
    pub category: String,
    /// Rules kept.
    pub rules: u64,
    /// Rules left out because the list had said them before.
    pub duplicates: u64,
}

/// One file of a generation.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FileEntry {
    /// Its name.
    pub name: String,
    /// Bytes.
    pub size: u64,
    /// xxh3-64 of its content in hexadecimal.
    pub xxh3: String,
}

impl Manifest {
    /// Reads a manifest and checks its sum and version.
    pub fn read(path: &Path) -> Result<Manifest, StoreError> {
        let mut text = String::new();
        let file = File::open(path).map_err(StoreError::io(path, "open the manifest"))?;
        let read = file.take(MANIFEST_BYTES_MAX + 1).read_to_string(&mut text);
        read.map_err(StoreError::io(path, "read the manifest"))?;
        if text.len() as u64 > MANIFEST_BYTES_MAX {
            return Err(StoreError::damaged(path, format!("it is larger than {MANIFEST_BYTES_MAX} bytes")));
        }
        let (first, rest) = text.split_once('\n').unwrap_or((&text, ""));
        let sum = first.strip_prefix(CHECKSUM_PREFIX).and_then(|sum| sum.strip_suffix('"'));
        if sum != Some(hex(xxh3_64(rest.as_bytes())).as_str()) {
            return Err(StoreError::damaged(path, "its checksum does not match"));
        }
        // The version is looked at alone first: another version may well have other fields.
        #[derive(Deserialize)]
        struct Version {
            format: u32,
        }
        let unreadable = |error: toml::de::Error| StoreError::damaged(path, error.message().to_owned());
        let version: Version = toml::from_str(rest).map_err(unreadable)?;
        if !schema::is_readable(version.format) {
            let found = version.format.to_string();
            return Err(StoreError::Format { path: path.to_path_buf(), found, expected: FORMAT_VERSION });
        }
        toml::from_str(rest).map_err(unreadable)
    }

    /// The file's text.
    pub(crate) fn to_text(&self) -> Result<String, StoreError> {
        let rest = toml::to_string(self).map_err(|error| StoreError::Bounds {
            what: format!("the manifest cannot hold a value: {error}"),
            remedy: "report this as a bug",
        })?;
        Ok(format!("{CHECKSUM_PREFIX}{}\"\n{rest}", hex(xxh3_64(rest.as_bytes()))))
    }

    /// The entry of a file.
    pub fn file(&self, name: &str) -> Option<&FileEntry> {
        self.files.iter().find(|file| file.name == name)
    }

    /// Bytes of the places of all rows; zero when the build wrote none.
    pub fn places_bytes(&self) -> u64 {
        let places = (0..self.shards).filter_map(|shard| self.file(&places_name(shard)));
        places.map(|file| file.size).sum()
    }

    /// Bytes of all files but the manifest.
    pub fn bytes(&self) -> u64 {
        self.files.iter().map(|file| file.size).sum()
    }
}

impl FileEntry {
    /// Sums a finished file.
    pub(crate) fn of(path: &Path, name: &str) -> Result<FileEntry, StoreError> {
        let (size, sum) = sum_file(path)?;
        Ok(FileEntry { name: name.to_owned(), size, xxh3: hex(sum) })
    }

    /// Sums a file's content.
    pub(crate) fn of_bytes(name: &str, bytes: &[u8]) -> FileEntry {
        FileEntry { name: name.to_owned(), size: bytes.len() as u64, xxh3: hex(xxh3_64(bytes)) }
    }

    /// Whether a file of so many bytes and this sum is the one.
    pub(crate) fn has_sum(&self, size: u64, sum: u64) -> bool {
        size == self.size && hex(sum) == self.xxh3
    }

    /// Compares the size alone, which costs no read.
    pub(crate) fn check_size(&self, path: &Path) -> Result<(), StoreError> {
        let size = fs::metadata(path).map_err(StoreError::io(path, "find the file"))?.len();
        if size != self.size {
            return Err(StoreError::damaged(path, format!("it has {size} bytes instead of {}", self.size)));
        }
        Ok(())
    }

    /// Reads the whole file and compares size and sum.
    pub(crate) fn check_sum(&self, path: &Path) -> Result<(), StoreError> {
        self.check_sum_slowly(path, &mut |_| {})
    }

    /// As [`FileEntry::check_sum`]; `read` hears the bytes of each chunk, and may sleep.
    pub(crate) fn check_sum_slowly(&self, path: &Path, read: &mut dyn FnMut(u64)) -> Result<(), StoreError> {
        self.check_size(path)?;
        if hex(sum_file_slowly(path, read)?.1) != self.xxh3 {
            return Err(StoreError::damaged(path, "its checksum does not match"));
        }
        Ok(())
    }
}

/// A value that tells two keys apart and gives nothing of either away: the hash of a fixed text.
pub(crate) fn key_check(key: HashKey) -> String {
    hex(hash_text(key, "corewall key check").0)
}

fn hex(sum: u64) -> String {
    format!("{sum:016x}")
}

fn sum_file(path: &Path) -> Result<(u64, u64), StoreError> {
    sum_file_slowly(path, &mut |_| {})
}

fn sum_file_slowly(path: &Path, read: &mut dyn FnMut(u64)) -> Result<(u64, u64), StoreError> {
    let mut file = File::open(path).map_err(StoreError::io(path, "open the file"))?;
    let mut chunk = vec![0; SUM_CHUNK_BYTES];
    let (mut size, mut sum) = (0, Xxh3::new());
    loop {
        let len = file.read(&mut chunk).map_err(StoreError::io(path, "read the file"))?;
        if len == 0 {
            return Ok((size, sum.digest()));
        }
        size += len as u64;
        sum.update(&chunk[..len]);
        read(len as u64);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn manifest() -> Manifest {
        Manifest {
            format: FORMAT_VERSION,
            generation: 3,
            created_s: 1_800_000_000,
            shards: 1,
            key_check: key_check(HashKey([1; 16])),
            rules: 2,
            patterns: 1,
            addresses: 0,
            ip_rewrites: 0,
            duplicates: 4,
            classes: 1,
            layout: Layout::Packed,
            filter_bits: 16,
            subtree_depths: SubtreeDepths(1 << 2 | 1 << 127),
            overlay_seq: 9,
            lists: vec![ListEntry { name: "a \"list\"\n".into(), category: String::new(), rules: 2, duplicates: 4 }],
            files: vec![FileEntry { name: "dns_shard_00.db".into(), size: 1, xxh3: hex(7) }],
        }
    }

    #[test]
    fn a_manifest_reads_back_equal_and_every_bit_flip_or_truncation_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join(MANIFEST_NAME);
        let good = manifest().to_text().unwrap().into_bytes();
        fs::write(&path, &good).unwrap();
        assert_eq!(Manifest::read(&path).unwrap(), manifest());
        for bit in 0..good.len() * 8 {
            let mut bad = good.clone();
            bad[bit / 8] ^= 1 << (bit % 8);
            fs::write(&path, &bad).unwrap();
            assert!(Manifest::read(&path).is_err(), "bit {bit}");
        }
        for len in 0..good.len() {
            fs::write(&path, &good[..len]).unwrap();
            assert!(Manifest::read(&path).is_err(), "length {len}");
        }
    }

    #[test]
    fn a_manifest_of_version_1_reads_with_what_was_so_then() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join(MANIFEST_NAME);
        let old = Manifest { format: 1, ..manifest() }.to_text().unwrap();
        let is_new = |line: &&str| {
            ["layout", "filter_bits", "subtree_depths", "overlay_seq"].iter().any(|field| line.starts_with(field))
        };
        let rest: String = old.lines().skip(1).filter(|line| !is_new(line)).map(|line| format!("{line}\n")).collect();
        fs::write(&path, format!("{CHECKSUM_PREFIX}{}\"\n{rest}", hex(xxh3_64(rest.as_bytes())))).unwrap();
        let read = Manifest::read(&path).unwrap();
        assert_eq!((read.format, read.layout, read.filter_bits, read.overlay_seq), (1, Layout::Sql, 8, 0));
        assert_eq!(read.subtree_depths, SubtreeDepths::ALL, "nothing is known, so every depth is looked at");
    }

    #[test]
    fn a_manifest_of_another_version_says_to_build_again() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join(MANIFEST_NAME);
        let text = Manifest { format: FORMAT_VERSION + 1, ..manifest() }.to_text().unwrap();
        fs::write(&path, text).unwrap();
        let error = Manifest::read(&path).unwrap_err().to_string();
        assert!(error.contains("build the store again with this version"), "{error}");
    }
}
