//! Merging the sorted entries of one shard from all runs.
//!
//! Invariant: names come out in key order, each once, with its classes in order and each of them once; of several targets for
//! one name and class the first in list order. What comes out depends on the rules alone, not on how they were spread over runs.

use std::cmp::Ordering;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::compose::Parts;
use super::run::{Advance, Place, READER_BYTES, RunFile, RunRecord, RunWriter, SegmentReader, Target};
use crate::StoreError;
use crate::rule::ClassId;

/// Segments merged at once, at most: more would take memory for buffers and gain little.
const FAN_IN_MAX: usize = 128;
/// And at least: with fewer, passes over the data are many.
const FAN_IN_MIN: usize = 4;

/// The runs of a build with what their numbers mean.
pub(super) struct Runs {
    pub(super) records: Vec<RunRecord>,
    pub(super) files: Vec<Arc<RunFile>>,
    /// Final class by the run's number, for each run.
    pub(super) ranks: Vec<Arc<[ClassId]>>,
    /// Final class by final class, for what a merge writes in between.
    pub(super) same_ranks: Arc<[ClassId]>,
    pub(super) parts: Parts,
    /// Where a merge may write.
    pub(super) dir: PathBuf,
}

impl Runs {
    /// Entries of a shard, those counted that a merge will leave out.
    pub(super) fn entries(&self, shard: u16) -> u64 {
        self.records.iter().filter_map(|run| run.segment(shard)).map(|segment| segment.entries).sum()
    }

    /// Reads all entries of a shard in order and hands the rows on: key, class, target. `duplicates` counts those left out by
    /// final class. `memory_bytes` bounds the buffers.
    pub(super) fn merge(
        &self,
        shard: u16,
        memory_bytes: u64,
        duplicates: &mut [u64],
        mut each: impl FnMut(&[u8], &[MergedRow<'_>]) -> Result<(), StoreError>,
    ) -> Result<(), StoreError> {
        let segments = self.records.iter().zip(&self.files).zip(&self.ranks).filter_map(|((run, file), ranks)| {
            run.segment(shard).map(|segment| SegmentReader::new(file.clone(), *segment, ranks.clone()))
        });
        let mut readers: Vec<_> = segments.collect();
        let fan_in = usize::try_from(memory_bytes / READER_BYTES).unwrap_or(usize::MAX).clamp(FAN_IN_MIN, FAN_IN_MAX);
        let mut between = Between { dir: &self.dir, shard, paths: Vec::new() };
        // The oldest go first, so each entry is copied about equally often.
        while readers.len() > fan_in {
            let rest = readers.split_off(fan_in);
            let merged = self.merge_between(std::mem::replace(&mut readers, rest), &mut between, duplicates)?;
            readers.push(merged);
        }
        Merge::new(readers)?.run(self, duplicates, &mut each)
    }

    /// Merges some segments into one of a file of its own.
    fn merge_between(
        &self,
        readers: Vec<SegmentReader>,
        between: &mut Between<'_>,
        duplicates: &mut [u64],
    ) -> Result<SegmentReader, StoreError> {
        let path = between.next();
        let mut writer = RunWriter::create(path.clone())?;
        writer.begin_segment(between.shard)?;
        Merge::new(readers)?.run(self, duplicates, &mut |key, rows| {
            rows.iter().try_for_each(|row| writer.push(key, row.class, row.target))
        })?;
        let (_, segments) = writer.finish(false)?;
        let file = RunFile::open(&path)?;
        Ok(SegmentReader::new(file, segments.first().copied().unwrap_or_default(), self.same_ranks.clone()))
    }
}

/// Files of one shard's merge, which go with it.
struct Between<'a> {
    dir: &'a Path,
    shard: u16,
    paths: Vec<PathBuf>,
}

impl Between<'_> {
    fn next(&mut self) -> PathBuf {
        let path = self.dir.join(format!("merge-{:04}-{:04}", self.shard, self.paths.len()));
        self.paths.push(path.clone());
        path
    }
}

impl Drop for Between<'_> {
    fn drop(&mut self) {
        for path in &self.paths {
            // The directory goes with the build; what cannot be removed now is removed then.
            let _ = fs::remove_file(path);
        }
    }
}

/// What takes a name's key and its classes.
type EachName<'a> = dyn FnMut(&[u8], &[MergedRow<'_>]) -> Result<(), StoreError> + 'a;

/// One class of a name.
#[derive(Clone, Copy)]
pub(super) struct MergedRow<'a> {
    pub(super) class: ClassId,
    pub(super) target: Option<Target<'a>>,
}

/// One class of a name, its target in [`Merge::targets`].
#[derive(Clone, Copy)]
struct Row {
    class: ClassId,
    target: Option<(Place, usize, usize)>,
}

/// Segments at their next entries; the one with the lowest key is the first of a binary heap.
struct Merge {
    readers: Vec<SegmentReader>,
    heap: Vec<usize>,
    zstd: zstd::bulk::Decompressor<'static>,
    targets: Vec<u8>,
}

impl Merge {
    fn new(mut readers: Vec<SegmentReader>) -> Result<Merge, StoreError> {
        let zstd = zstd::bulk::Decompressor::new();
        let mut zstd = zstd.map_err(StoreError::io(Path::new("zstd"), "begin to unpack the runs"))?;
        let mut heap = Vec::with_capacity(readers.len());
        for (place, reader) in readers.iter_mut().enumerate() {
            if reader.advance(&mut zstd)? != Advance::End {
                heap.push(place);
            }
        }
        let mut merge = Merge { readers, heap, zstd, targets: Vec::new() };
        for place in (0..merge.heap.len() / 2).rev() {
            merge.sink(place);
        }
        Ok(merge)
    }

    fn run(mut self, runs: &Runs, duplicates: &mut [u64], each: &mut EachName<'_>) -> Result<(), StoreError> {
        let (mut key, mut rows): (Vec<u8>, Vec<Row>) = (Vec::new(), Vec::new());
        while let Some(&first) = self.heap.first() {
            key.clear();
            key.extend_from_slice(&self.readers[first].key);
            rows.clear();
            self.targets.clear();
            self.take_entries(&mut rows)?;
            while let Some(&next) = self.heap.first() {
                if self.readers[next].key != key {
                    break;
                }
                self.take_entries(&mut rows)?;
            }
            if let [row @ Row { target: None, .. }] = rows[..] {
                // Nearly all names are of one rule.
                each(&key, &[MergedRow { class: row.class, target: None }])?;
                continue;
            }
            let order = |row: &Row| (row.class, row.target.map(|(place, ..)| runs.parts.order(place)));
            rows.sort_by_key(order);
            rows.dedup_by(|later, first| {
                let is_again = later.class == first.class;
                duplicates[first.class as usize] += u64::from(is_again);
                is_again
            });
            let merged: Vec<_> = rows
                .iter()
                .map(|row| {
                    let target = row.target.map(|(place, from, to)| Target { place, text: &self.targets[from..to] });
                    MergedRow { class: row.class, target }
                })
                .collect();
            each(&key, &merged)?;
        }
        Ok(())
    }

    /// Takes all entries of the lowest segment's key out of that segment.
    fn take_entries(&mut self, rows: &mut Vec<Row>) -> Result<(), StoreError> {
        let Some(&first) = self.heap.first() else { return Ok(()) };
        let reader = &mut self.readers[first];
        loop {
            let target = reader.target().map(|target| {
                let from = self.targets.len();
                self.targets.extend_from_slice(target.text);
                (target.place, from, self.targets.len())
            });
            rows.push(Row { class: reader.class, target });
            match reader.advance(&mut self.zstd)? {
                Advance::SameKey => {}
                Advance::NextKey => break,
                Advance::End => {
                    self.heap.swap_remove(0);
                    break;
                }
            }
        }
        self.sink(0);
        Ok(())
    }

    /// Moves the segment at `place` of the heap down to where no lower one is below it.
    fn sink(&mut self, mut place: usize) {
        loop {
            let mut lowest = place;
            for child in [2 * place + 1, 2 * place + 2] {
                if child < self.heap.len() && self.compare(child, lowest) == Ordering::Less {
                    lowest = child;
                }
            }
            if lowest == place {
                return;
            }
            self.heap.swap(place, lowest);
            place = lowest;
        }
    }

    fn compare(&self, a: usize, b: usize) -> Ordering {
        let (a, b) = (&self.readers[self.heap[a]], &self.readers[self.heap[b]]);
        a.head.cmp(&b.head).then_with(|| a.key.cmp(&b.key))
    }
}
