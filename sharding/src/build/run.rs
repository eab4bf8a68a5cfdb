//! Runs: sorted rules on the disk, between reading the lists and writing the shards.
//!
//! A run file is nothing but compressed blocks; which of them belong to which shard is in its [`RunRecord`], which the journal
//! keeps. Within a shard the entries are in key order. Invariant: what a [`SegmentReader`] gives has matched its block's
//! checksum, so a run that was damaged or cut short ends the build with its file's name and never gives a wrong rule.

use std::fs::File;
use std::io::{self, BufWriter, Write};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use xxhash_rust::xxh3::xxh3_64;

use super::PartId;
use super::codec::{self, Bytes};
use crate::StoreError;
use crate::generation::AddressRow;
use crate::name::NAME_TEXT_BYTES_MAX;
use crate::rule::{Class, ClassId, IpRewrite};

/// Bytes of a block before compression: small enough that a merge holds one of each of a hundred runs.
const BLOCK_BYTES: usize = 64 << 10;
/// Bytes of the largest entry: two texts and their integers.
const ENTRY_BYTES_MAX: usize = 2 * NAME_TEXT_BYTES_MAX + 64;
/// Bytes before each block: its length, its compressed length, the checksum of the compressed bytes.
const BLOCK_HEADER_BYTES: usize = 16;
/// Bytes that a file's writer holds back.
const WRITE_BYTES: usize = 256 << 10;
/// The fastest of zstd's regular levels: see the measurement in `README.md`.
const ZSTD_LEVEL: i32 = 1;
/// Bytes of memory of one [`SegmentReader`]: a block, the same compressed, a key and a target.
pub(super) const READER_BYTES: u64 = (2 * (BLOCK_BYTES + ENTRY_BYTES_MAX)) as u64 + 4_096;
/// Bytes of memory of one [`RunWriter`], zstd's tables among them.
pub(super) const WRITER_BYTES: u64 = (3 * BLOCK_BYTES + WRITE_BYTES) as u64 + (1 << 20);

/// Where in the order of all lists a rule stands: first by its part (as the build numbers them until it knows their ids), then
/// by its place in it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Place {
    pub(super) part: u32,
    pub(super) order: u64,
}

/// A class of one run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct RunClass {
    pub(super) class: Class,
    /// Rules that were read with it, those left out among them.
    pub(super) uses: u64,
    /// Rules left out because the run has the name and class already.
    pub(super) duplicates: u64,
    /// Where it first came.
    pub(super) first: Place,
}

/// The blocks of one shard in a run.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Segment {
    pub(super) shard: u16,
    pub(super) offset: u64,
    pub(super) bytes: u64,
    pub(super) entries: u64,
}

/// A part all of whose rules are in this run and the ones before it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct RunPart {
    /// Its number in [`Place`].
    pub(super) number: u32,
    pub(super) id: PartId,
    pub(super) note: Vec<u8>,
    /// Runs that hold the beginning of it.
    pub(super) pieces: Vec<u32>,
}

/// What a run holds. One without parts holds a piece of one that is not finished yet.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct RunRecord {
    pub(super) number: u32,
    /// Bytes of the file.
    pub(super) bytes: u64,
    pub(super) segments: Vec<Segment>,
    /// By their numbers in the run.
    pub(super) classes: Vec<RunClass>,
    pub(super) parts: Vec<RunPart>,
    pub(super) addresses: Vec<(Place, AddressRow)>,
    pub(super) rewrites: Vec<(Place, IpRewrite)>,
}

impl RunRecord {
    /// Rules by name that were read, those left out among them.
    pub(super) fn rules_by_name(&self) -> u64 {
        self.classes.iter().map(|class| class.uses).sum::<u64>() - self.addresses.len() as u64
    }

    pub(super) fn segment(&self, shard: u16) -> Option<&Segment> {
        let place = self.segments.binary_search_by_key(&shard, |segment| segment.shard).ok()?;
        self.segments.get(place)
    }

    pub(super) fn put(&self, to: &mut Vec<u8>) {
        use codec::{put_bytes, put_integer};
        let put_place = |to: &mut Vec<u8>, place: Place| {
            put_integer(to, u64::from(place.part));
            put_integer(to, place.order);
        };
        put_integer(to, u64::from(self.number));
        put_integer(to, self.bytes);
        put_integer(to, self.segments.len() as u64);
        for segment in &self.segments {
            [u64::from(segment.shard), segment.offset, segment.bytes, segment.entries]
                .iter()
                .for_each(|&value| put_integer(to, value));
        }
        put_integer(to, self.classes.len() as u64);
        for class in &self.classes {
            codec::put_class(to, &class.class);
            put_integer(to, class.uses);
            put_integer(to, class.duplicates);
            put_place(to, class.first);
        }
        put_integer(to, self.parts.len() as u64);
        for part in &self.parts {
            put_integer(to, u64::from(part.number));
            put_integer(to, u64::from(part.id.list));
            put_integer(to, u64::from(part.id.part));
            put_bytes(to, &part.note);
            put_integer(to, part.pieces.len() as u64);
            part.pieces.iter().for_each(|&piece| put_integer(to, u64::from(piece)));
        }
        put_integer(to, self.addresses.len() as u64);
        for (place, row) in &self.addresses {
            put_place(to, *place);
            codec::put_address(to, row);
        }
        put_integer(to, self.rewrites.len() as u64);
        for (place, rewrite) in &self.rewrites {
            put_place(to, *place);
            codec::put_rewrite(to, rewrite);
        }
    }

    pub(super) fn read(from: &mut Bytes<'_>) -> Option<RunRecord> {
        let place = |from: &mut Bytes<'_>| Some(Place { part: from.number()?, order: from.integer()? });
        Some(RunRecord {
            number: from.number()?,
            bytes: from.integer()?,
            segments: from.many(|from| {
                Some(Segment {
                    shard: from.number()?,
                    offset: from.integer()?,
                    bytes: from.integer()?,
                    entries: from.integer()?,
                })
            })?,
            classes: from.many(|from| {
                Some(RunClass {
                    class: from.class()?,
                    uses: from.integer()?,
                    duplicates: from.integer()?,
                    first: place(from)?,
                })
            })?,
            parts: from.many(|from| {
                Some(RunPart {
                    number: from.number()?,
                    id: PartId { list: from.number()?, part: from.number()? },
                    note: from.bytes()?.to_vec(),
                    pieces: from.many(Bytes::number)?,
                })
            })?,
            addresses: from.many(|from| Some((place(from)?, from.address()?)))?,
            rewrites: from.many(|from| Some((place(from)?, from.rewrite()?)))?,
        })
    }
}

/// An alias's target, and where the alias stands among those that say the same.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Target<'a> {
    pub(super) place: Place,
    pub(super) text: &'a [u8],
}

/// Writes one run file, or one that a merge needs in between.
pub(super) struct RunWriter {
    path: PathBuf,
    file: BufWriter<File>,
    zstd: zstd::bulk::Compressor<'static>,
    block: Vec<u8>,
    compressed: Vec<u8>,
    last_key: Vec<u8>,
    written: u64,
    segments: Vec<Segment>,
}

impl RunWriter {
    /// Replaces what is at `path`.
    pub(super) fn create(path: PathBuf) -> Result<RunWriter, StoreError> {
        let file = File::create(&path).map_err(StoreError::io(&path, "make the run"))?;
        let zstd =
            zstd::bulk::Compressor::new(ZSTD_LEVEL).map_err(StoreError::io(&path, "begin to compress the run"))?;
        Ok(RunWriter {
            file: BufWriter::with_capacity(WRITE_BYTES, file),
            zstd,
            block: Vec::with_capacity(BLOCK_BYTES + ENTRY_BYTES_MAX),
            compressed: Vec::with_capacity(zstd::zstd_safe::compress_bound(BLOCK_BYTES + ENTRY_BYTES_MAX)),
            last_key: Vec::new(),
            written: 0,
            segments: Vec::new(),
            path,
        })
    }

    /// The entries that follow are of this shard, which is above the one before.
    pub(super) fn begin_segment(&mut self, shard: u16) -> Result<(), StoreError> {
        self.end_segment()?;
        self.segments.push(Segment { shard, offset: self.written, bytes: 0, entries: 0 });
        Ok(())
    }

    /// Adds an entry, which is not below the one before by its key.
    #[inline]
    pub(super) fn push(&mut self, key: &[u8], class: u32, target: Option<Target<'_>>) -> Result<(), StoreError> {
        let shared = if self.block.is_empty() { 0 } else { shared_front(&self.last_key, key) };
        let rest = &key[shared..];
        codec::put_integer(&mut self.block, shared as u64);
        codec::put_integer(&mut self.block, rest.len() as u64);
        self.block.extend_from_slice(rest);
        codec::put_integer(&mut self.block, u64::from(class) << 1 | u64::from(target.is_some()));
        if let Some(target) = target {
            codec::put_integer(&mut self.block, u64::from(target.place.part));
            codec::put_integer(&mut self.block, target.place.order);
            codec::put_bytes(&mut self.block, target.text);
        }
        self.last_key.truncate(shared);
        self.last_key.extend_from_slice(rest);
        if let Some(segment) = self.segments.last_mut() {
            segment.entries += 1;
        }
        if self.block.len() >= BLOCK_BYTES { self.end_block() } else { Ok(()) }
    }

    fn end_block(&mut self) -> Result<(), StoreError> {
        self.compressed.clear();
        let write = |writer: &mut Self| -> io::Result<()> {
            writer.zstd.compress_to_buffer(&writer.block, &mut writer.compressed)?;
            let mut header = [0; BLOCK_HEADER_BYTES];
            header[..4].copy_from_slice(&(writer.block.len() as u32).to_le_bytes());
            header[4..8].copy_from_slice(&(writer.compressed.len() as u32).to_le_bytes());
            header[8..].copy_from_slice(&xxh3_64(&writer.compressed).to_le_bytes());
            writer.file.write_all(&header)?;
            writer.file.write_all(&writer.compressed)
        };
        write(self).map_err(|error| StoreError::io(&self.path, "write the run")(error))?;
        self.written += (BLOCK_HEADER_BYTES + self.compressed.len()) as u64;
        self.block.clear();
        Ok(())
    }

    fn end_segment(&mut self) -> Result<(), StoreError> {
        if !self.block.is_empty() {
            self.end_block()?;
        }
        if let Some(segment) = self.segments.last_mut() {
            segment.bytes = self.written - segment.offset;
        }
        Ok(())
    }

    /// Ends the file; `durable` waits until it is on the disk. Gives its bytes and segments.
    pub(super) fn finish(mut self, durable: bool) -> Result<(u64, Vec<Segment>), StoreError> {
        self.end_segment()?;
        self.file.flush().map_err(StoreError::io(&self.path, "write the run"))?;
        if durable {
            self.file.get_ref().sync_all().map_err(StoreError::io(&self.path, "make the run durable"))?;
        }
        Ok((self.written, self.segments))
    }
}

fn shared_front(a: &[u8], b: &[u8]) -> usize {
    a.iter().zip(b).take_while(|(a, b)| a == b).count()
}

/// A run file that segments are read from.
pub(super) struct RunFile {
    path: PathBuf,
    file: File,
}

impl RunFile {
    pub(super) fn open(path: &Path) -> Result<Arc<RunFile>, StoreError> {
        let file = File::open(path).map_err(StoreError::io(path, "open the run"))?;
        Ok(Arc::new(RunFile { path: path.to_path_buf(), file }))
    }
}

/// What [`SegmentReader::advance`] came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Advance {
    /// An entry of the same key.
    SameKey,
    /// An entry of the next key.
    NextKey,
    /// Nothing more.
    End,
}

/// Reads the entries of one segment in their order. Before the first [`SegmentReader::advance`] it is at none.
pub(super) struct SegmentReader {
    run: Arc<RunFile>,
    at: u64,
    end: u64,
    compressed: Vec<u8>,
    block: Vec<u8>,
    block_at: usize,
    /// Final class by the run's number.
    ranks: Arc<[ClassId]>,
    /// The key at hand.
    pub(super) key: Vec<u8>,
    /// Its first octets, by which most comparisons are decided.
    pub(super) head: u128,
    /// Its final class.
    pub(super) class: ClassId,
    target: Vec<u8>,
    target_place: Option<Place>,
}

impl SegmentReader {
    pub(super) fn new(run: Arc<RunFile>, segment: Segment, ranks: Arc<[ClassId]>) -> SegmentReader {
        SegmentReader {
            run,
            at: segment.offset,
            end: segment.offset + segment.bytes,
            compressed: Vec::new(),
            block: Vec::new(),
            block_at: 0,
            ranks,
            key: Vec::new(),
            head: 0,
            class: 0,
            target: Vec::new(),
            target_place: None,
        }
    }

    /// The target at hand.
    pub(super) fn target(&self) -> Option<Target<'_>> {
        self.target_place.map(|place| Target { place, text: &self.target })
    }

    /// Goes on to the next entry.
    #[inline]
    pub(super) fn advance(&mut self, zstd: &mut zstd::bulk::Decompressor<'static>) -> Result<Advance, StoreError> {
        let first_of_block = self.block_at == self.block.len();
        if first_of_block {
            if self.at == self.end {
                return Ok(Advance::End);
            }
            self.read_block(zstd)?;
        }
        match self.read_entry(first_of_block) {
            Some(advance) => Ok(advance),
            None => Err(self.damaged("an entry does not read")),
        }
    }

    fn read_entry(&mut self, first_of_block: bool) -> Option<Advance> {
        let mut bytes = Bytes(self.block.get(self.block_at..)?);
        let shared: usize = bytes.number()?;
        let rest = bytes.bytes()?;
        if shared > self.key.len() {
            return None;
        }
        // The first entry of a block has its whole key, which may be the one at hand.
        let same = if first_of_block { self.key == rest } else { shared == self.key.len() && rest.is_empty() };
        if !same {
            self.key.truncate(shared);
            self.key.extend_from_slice(rest);
            self.head = head(&self.key);
        }
        let class: usize = bytes.number()?;
        self.class = *self.ranks.get(class >> 1)?;
        self.target_place = None;
        if class & 1 == 1 {
            self.target_place = Some(Place { part: bytes.number()?, order: bytes.integer()? });
            self.target.clear();
            self.target.extend_from_slice(bytes.bytes()?);
        }
        self.block_at = self.block.len() - bytes.0.len();
        Some(if same { Advance::SameKey } else { Advance::NextKey })
    }

    fn read_block(&mut self, zstd: &mut zstd::bulk::Decompressor<'static>) -> Result<(), StoreError> {
        let mut header = [0; BLOCK_HEADER_BYTES];
        self.read_at(&mut header)?;
        let [a, b, c, d, e, f, g, h, sum @ ..] = header;
        let (len, compressed_len) = (u32::from_le_bytes([a, b, c, d]), u32::from_le_bytes([e, f, g, h]));
        let fits = (1..=BLOCK_BYTES + ENTRY_BYTES_MAX).contains(&(len as usize))
            && u64::from(compressed_len) <= self.end - self.at
            && compressed_len as usize <= zstd::zstd_safe::compress_bound(BLOCK_BYTES + ENTRY_BYTES_MAX);
        if !fits {
            return Err(self.damaged("a block's length is out of bounds"));
        }
        let mut compressed = std::mem::take(&mut self.compressed);
        compressed.resize(compressed_len as usize, 0);
        self.read_at(&mut compressed)?;
        if xxh3_64(&compressed) != u64::from_le_bytes(sum) {
            return Err(self.damaged("a block's checksum does not match"));
        }
        self.block.clear();
        self.block.reserve_exact(len as usize);
        let unpacked = zstd.decompress_to_buffer(&compressed, &mut self.block);
        self.compressed = compressed;
        self.block_at = 0;
        match unpacked {
            Ok(unpacked) if unpacked == len as usize => Ok(()),
            _ => Err(self.damaged("a block does not unpack")),
        }
    }

    fn read_at(&mut self, to: &mut [u8]) -> Result<(), StoreError> {
        let next = self.at + to.len() as u64;
        if next > self.end {
            return Err(self.damaged("it ends inside a block"));
        }
        let read = self.run.file.read_exact_at(to, self.at);
        read.map_err(StoreError::io(&self.run.path, "read the run"))?;
        self.at = next;
        Ok(())
    }

    fn damaged(&self, what: &str) -> StoreError {
        StoreError::Damaged { path: self.run.path.clone(), what: what.to_owned() }
    }
}

/// Orders as the keys do, up to their first sixteen octets.
pub(super) fn head(key: &[u8]) -> u128 {
    if let Some(first) = key.first_chunk() {
        return u128::from_be_bytes(*first);
    }
    let mut octets = [0; 16];
    octets[..key.len()].copy_from_slice(key);
    u128::from_be_bytes(octets)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rule::{Kind, Scope};

    type Entry = (Vec<u8>, u32, Option<(Place, Vec<u8>)>);

    fn entries() -> Vec<Entry> {
        let mut entries: Vec<Entry> = (0..20_000u64)
            .map(|number| (format!("host{:06}.example", number / 3).into_bytes(), (number % 3) as u32, None))
            .collect();
        for (number, entry) in entries.iter_mut().enumerate().step_by(7) {
            entry.2 = Some((Place { part: 3, order: number as u64 }, b"to.example".to_vec()));
        }
        entries
    }

    fn write(path: &Path, entries: &[Entry]) -> (u64, Vec<Segment>) {
        let mut writer = RunWriter::create(path.to_path_buf()).unwrap();
        for shard in [2, 5] {
            writer.begin_segment(shard).unwrap();
            for (key, class, target) in entries {
                let target = target.as_ref().map(|(place, text)| Target { place: *place, text });
                writer.push(key, *class, target).unwrap();
            }
        }
        writer.finish(true).unwrap()
    }

    fn read(path: &Path, segment: Segment) -> Result<Vec<Entry>, StoreError> {
        let mut reader = SegmentReader::new(RunFile::open(path)?, segment, Arc::from([0, 1, 2]));
        let mut zstd = zstd::bulk::Decompressor::new().unwrap();
        let mut found: Vec<Entry> = Vec::new();
        loop {
            let advance = reader.advance(&mut zstd)?;
            let entry =
                (reader.key.clone(), reader.class, reader.target().map(|target| (target.place, target.text.to_vec())));
            match advance {
                Advance::End => return Ok(found),
                Advance::SameKey => assert_eq!(entry.0, found.last().unwrap().0),
                Advance::NextKey => assert!(found.last().is_none_or(|last| last.0 < entry.0)),
            }
            found.push(entry);
        }
    }

    #[test]
    fn a_segment_reads_back_as_it_was_written() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("run");
        let entries = entries();
        let (bytes, segments) = write(&path, &entries);
        assert_eq!(std::fs::metadata(&path).unwrap().len(), bytes);
        assert_eq!(
            segments.iter().map(|segment| (segment.shard, segment.entries)).collect::<Vec<_>>(),
            [(2, 20_000), (5, 20_000)]
        );
        assert!(bytes < 40_000 * 8, "{bytes} bytes");
        for segment in segments {
            assert_eq!(read(&path, segment).unwrap(), entries);
        }
    }

    #[test]
    fn a_run_that_was_damaged_or_cut_short_is_refused_with_its_name() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("run");
        let (_, segments) = write(&path, &entries()[..2_000]);
        let good = std::fs::read(&path).unwrap();
        for at in (0..segments[1].offset as usize).step_by(131).chain(0..BLOCK_HEADER_BYTES) {
            let mut bad = good.clone();
            bad[at] ^= 0x11;
            std::fs::write(&path, bad).unwrap();
            let error = read(&path, segments[0]).unwrap_err().to_string();
            assert!(error.contains(path.to_str().unwrap()), "{error}");
        }
        for len in (0..good.len()).step_by(997) {
            std::fs::write(&path, &good[..len]).unwrap();
            assert!(read(&path, segments[1]).is_err(), "length {len}");
        }
    }

    #[test]
    fn a_record_reads_back_equal() {
        let class = RunClass {
            class: Class::plain(Kind::Block, Scope::Exact, 3),
            uses: 7,
            duplicates: 2,
            first: Place { part: 1, order: 9 },
        };
        let place = Place { part: 1, order: 4 };
        let record = RunRecord {
            number: 3,
            bytes: 1 << 40,
            segments: vec![Segment { shard: 1, offset: 2, bytes: 3, entries: 4 }],
            classes: vec![class],
            parts: vec![RunPart {
                number: 1,
                id: PartId { list: 2, part: 3 },
                note: b"note".to_vec(),
                pieces: vec![1, 2],
            }],
            addresses: vec![(place, AddressRow { net: "10.0.0.0/8".parse().unwrap(), class: 0, target: None })],
            rewrites: vec![(
                place,
                IpRewrite { from: "10.0.0.0/8".parse().unwrap(), to: "192.0.2.1".parse().unwrap(), list: 2 },
            )],
        };
        let mut bytes = Vec::new();
        record.put(&mut bytes);
        assert_eq!(RunRecord::read(&mut Bytes(&bytes)), Some(record));
        for len in 0..bytes.len() {
            assert_eq!(RunRecord::read(&mut Bytes(&bytes[..len])), None);
        }
    }
}
