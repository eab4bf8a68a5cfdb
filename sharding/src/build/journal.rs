//! The journal of a build: which runs and shards are finished, so that a build that was killed need not begin again.
//!
//! A file that only grows: a magic, then records, each with its length and checksum in front. The first one says whose build it is
//! ([`Header`]). Invariant: a record is written only after everything it speaks of is durable, and is durable itself before
//! [`Journal::append`] returns; reading ends at the first record that is not whole, so what a kill left half-written is as if
//! it had never been begun.

use std::fs::{File, OpenOptions};
use std::io::{Read, Write};
use std::path::{Path, PathBuf};

use xxhash_rust::xxh3::xxh3_64;

use super::codec::{self, Bytes};
use super::run::RunRecord;
use crate::StoreError;
use crate::manifest::FileEntry;
use crate::route::SubtreeDepths;

/// First bytes of a journal; the last two are the version of what follows.
const MAGIC: [u8; 8] = *b"CWBLD\0\x02\0";
/// Bytes before a record: its length, its checksum.
const RECORD_HEADER_BYTES: usize = 16;
/// Bytes of the largest journal that is read: ten million parts with a note each, far past any list.
const JOURNAL_BYTES_MAX: u64 = 4 << 30;

/// Whose build it is: another one cannot be gone on with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Header {
    pub(super) key_check: String,
    /// The caller's word for its lists and options.
    pub(super) identity: Vec<u8>,
    pub(super) shards: u16,
    pub(super) layout: String,
    pub(super) filter_bits: u8,
    pub(super) places: Option<bool>,
    pub(super) overlay_seq: u64,
}

/// A finished shard.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct ShardRecord {
    pub(super) shard: u16,
    /// Of everything that its bytes depend on beside the rules in the runs.
    pub(super) digest: u64,
    /// The database, its filter, and its places if it has them.
    pub(super) files: Vec<FileEntry>,
    /// By final class id.
    pub(super) kept: Vec<u64>,
    /// Likewise, those that the runs have left out not counted.
    pub(super) duplicates: Vec<u64>,
    pub(super) depths: SubtreeDepths,
}

/// What a journal says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Record {
    Header(Header),
    Run(RunRecord),
    Shard(ShardRecord),
}

/// A journal being written.
pub(super) struct Journal {
    path: PathBuf,
    file: File,
}

impl Journal {
    /// Begins a new one.
    pub(super) fn create(path: &Path, header: Header) -> Result<Journal, StoreError> {
        let file = File::create_new(path).map_err(StoreError::io(path, "make the build's journal"))?;
        let mut journal = Journal { path: path.to_path_buf(), file };
        journal.write(&MAGIC)?;
        journal.append(&Record::Header(header))?;
        Ok(journal)
    }

    /// Reads the whole records of a journal and goes on behind them.
    pub(super) fn resume(path: &Path) -> Result<(Journal, Vec<Record>), StoreError> {
        let file = OpenOptions::new().read(true).append(true).open(path);
        let mut file = file.map_err(StoreError::io(path, "open the build's journal"))?;
        let mut bytes = Vec::new();
        let read = Read::by_ref(&mut file).take(JOURNAL_BYTES_MAX).read_to_end(&mut bytes);
        read.map_err(StoreError::io(path, "read the build's journal"))?;
        let (records, whole) = read_records(&bytes);
        file.set_len(whole as u64).map_err(StoreError::io(path, "cut the build's journal"))?;
        Ok((Journal { path: path.to_path_buf(), file }, records))
    }

    /// Adds a record and waits until it is on the disk.
    pub(super) fn append(&mut self, record: &Record) -> Result<(), StoreError> {
        let mut payload = Vec::new();
        record.put(&mut payload);
        let mut bytes = Vec::with_capacity(RECORD_HEADER_BYTES + payload.len());
        bytes.extend_from_slice(&(payload.len() as u64).to_le_bytes());
        bytes.extend_from_slice(&xxh3_64(&payload).to_le_bytes());
        bytes.extend_from_slice(&payload);
        self.write(&bytes)
    }

    fn write(&mut self, bytes: &[u8]) -> Result<(), StoreError> {
        let written = self.file.write_all(bytes).and_then(|()| self.file.sync_all());
        written.map_err(StoreError::io(&self.path, "write the build's journal"))
    }
}

/// The records that are whole, and the bytes that they take.
fn read_records(bytes: &[u8]) -> (Vec<Record>, usize) {
    let mut records = Vec::new();
    let Some(mut rest) = bytes.strip_prefix(&MAGIC) else { return (records, 0) };
    while let Some((record, behind)) = read_record(rest) {
        records.push(record);
        rest = behind;
    }
    (records, bytes.len() - rest.len())
}

fn read_record(bytes: &[u8]) -> Option<(Record, &[u8])> {
    let (len, rest) = bytes.split_first_chunk()?;
    let (sum, rest) = rest.split_first_chunk()?;
    let (payload, behind) = rest.split_at_checked(usize::try_from(u64::from_le_bytes(*len)).ok()?)?;
    if xxh3_64(payload) != u64::from_le_bytes(*sum) {
        return None;
    }
    let mut payload = Bytes(payload);
    let record = Record::read(&mut payload)?;
    payload.is_empty().then_some((record, behind))
}

const HEADER: u64 = 0;
const RUN: u64 = 1;
const SHARD: u64 = 2;
/// By their numbers in a header.
const PLACES: [Option<bool>; 3] = [None, Some(false), Some(true)];

impl Record {
    fn put(&self, to: &mut Vec<u8>) {
        use codec::{put_bytes, put_integer};
        match self {
            Record::Header(header) => {
                put_integer(to, HEADER);
                put_bytes(to, header.key_check.as_bytes());
                put_bytes(to, &header.identity);
                put_integer(to, u64::from(header.shards));
                put_bytes(to, header.layout.as_bytes());
                put_integer(to, u64::from(header.filter_bits));
                put_integer(to, PLACES.iter().position(|places| *places == header.places).unwrap_or(0) as u64);
                put_integer(to, header.overlay_seq);
            }
            Record::Run(run) => {
                put_integer(to, RUN);
                run.put(to);
            }
            Record::Shard(shard) => {
                put_integer(to, SHARD);
                put_integer(to, u64::from(shard.shard));
                put_integer(to, shard.digest);
                put_integer(to, shard.files.len() as u64);
                for file in &shard.files {
                    put_bytes(to, file.name.as_bytes());
                    put_integer(to, file.size);
                    put_bytes(to, file.xxh3.as_bytes());
                }
                for counts in [&shard.kept, &shard.duplicates] {
                    put_integer(to, counts.len() as u64);
                    counts.iter().for_each(|&count| put_integer(to, count));
                }
                put_bytes(to, &shard.depths.0.to_le_bytes());
            }
        }
    }

    fn read(from: &mut Bytes<'_>) -> Option<Record> {
        let text = |from: &mut Bytes<'_>| String::from_utf8(from.bytes()?.to_vec()).ok();
        match from.integer()? {
            HEADER => Some(Record::Header(Header {
                key_check: text(from)?,
                identity: from.bytes()?.to_vec(),
                shards: from.number()?,
                layout: text(from)?,
                filter_bits: from.number()?,
                places: *PLACES.get(usize::try_from(from.integer()?).ok()?)?,
                overlay_seq: from.integer()?,
            })),
            RUN => RunRecord::read(from).map(Record::Run),
            SHARD => Some(Record::Shard(ShardRecord {
                shard: from.number()?,
                digest: from.integer()?,
                files: from
                    .many(|from| Some(FileEntry { name: text(from)?, size: from.integer()?, xxh3: text(from)? }))?,
                kept: from.many(Bytes::integer)?,
                duplicates: from.many(Bytes::integer)?,
                depths: SubtreeDepths(u128::from_le_bytes(from.bytes()?.try_into().ok()?)),
            })),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn records() -> Vec<Record> {
        let header = Header {
            key_check: "00".into(),
            identity: b"lists".to_vec(),
            shards: 16,
            layout: "sql".into(),
            filter_bits: 8,
            places: Some(true),
            overlay_seq: 9,
        };
        let shard = ShardRecord {
            shard: 3,
            digest: u64::MAX,
            files: vec![FileEntry { name: "dns_shard_03.db".into(), size: 7, xxh3: "0123".into() }],
            kept: vec![1, 2, 3],
            duplicates: vec![0, 0, 1 << 40],
            depths: SubtreeDepths(1 << 127 | 4),
        };
        vec![
            Record::Header(header),
            Record::Run(RunRecord { number: 1, bytes: 5, ..RunRecord::default() }),
            Record::Shard(shard),
        ]
    }

    fn written(dir: &Path) -> PathBuf {
        let path = dir.join("journal");
        let mut records = records().into_iter();
        let Some(Record::Header(header)) = records.next() else { panic!("the header is first") };
        let mut journal = Journal::create(&path, header).unwrap();
        records.for_each(|record| journal.append(&record).unwrap());
        path
    }

    #[test]
    fn a_journal_reads_back_and_one_cut_anywhere_gives_the_records_that_are_whole() {
        let dir = tempfile::tempdir().unwrap();
        let path = written(dir.path());
        let (_, read) = Journal::resume(&path).unwrap();
        assert_eq!(read, records());
        let good = std::fs::read(&path).unwrap();
        let mut lengths = Vec::new();
        for len in 0..=good.len() {
            std::fs::write(&path, &good[..len]).unwrap();
            let (mut journal, read) = Journal::resume(&path).unwrap();
            assert_eq!(read, records()[..read.len()], "length {len}");
            lengths.push(read.len());
            if let [Record::Header(_), ..] = read[..] {
                journal.append(&records()[1]).unwrap();
                let (_, again) = Journal::resume(&path).unwrap();
                assert_eq!(again.len(), read.len() + 1, "what follows a cut is read");
            }
        }
        assert!(lengths.is_sorted() && lengths.first() == Some(&0) && lengths.last() == Some(&3));
    }

    #[test]
    fn a_flipped_bit_ends_the_journal_before_its_record() {
        let dir = tempfile::tempdir().unwrap();
        let path = written(dir.path());
        let good = std::fs::read(&path).unwrap();
        for bit in 0..good.len() * 8 {
            let mut bad = good.clone();
            bad[bit / 8] ^= 1 << (bit % 8);
            let (read, _) = read_records(&bad);
            assert!(read.len() < 3 && read == records()[..read.len()], "bit {bit}");
        }
    }
}
