//! Writing all shards of a generation from the runs, several at a time.
//!
//! Invariant: a shard counts as finished when both its files are durable and the journal says so; only then is it taken over by a
//! resumed build, and only when everything that its bytes depend on is the same and the files still have their sums.

use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Mutex, PoisonError};
use std::thread;

use super::BuildStage;
use super::journal::ShardRecord;
use super::memory::Memory;
use super::merge::Runs;
use super::workspace::Workspace;
use crate::StoreError;
use crate::generation::{filter_name, places_name, shard_name};
use crate::manifest::FileEntry;
use crate::places::write_places;
use crate::publish::{sync_dir, sync_file};
use crate::route::{Reach, SubtreeDepths};
use crate::row_key::read_key;
use crate::rule::Scope;
use crate::shard_file::{Beside, Common, ShardFile, write_filter};

/// Progress messages waiting to be said.
const PROGRESS_MESSAGES_MAX: usize = 1_024;
/// Rows between two of them.
const PROGRESS_ROWS: u64 = 16_384;

/// What writing the shards takes.
pub(super) struct Writing<'a> {
    /// Where the generation's files go.
    pub(super) dir: &'a Path,
    pub(super) workspace: &'a Workspace,
    pub(super) runs: &'a Runs,
    pub(super) common: &'a Common<'a>,
    /// Whether the places of the rows are written as well.
    pub(super) has_places: bool,
    /// Index is the shard.
    pub(super) beside: &'a [Beside],
    /// Of everything that a shard's bytes depend on beside the runs.
    pub(super) digest: u64,
    /// Shards that an earlier build has finished.
    pub(super) finished: &'a [ShardRecord],
    /// Rules by name that were read.
    pub(super) rules: u64,
    pub(super) threads: usize,
    /// Bytes of one thread's buffers while it merges.
    pub(super) merge_bytes: u64,
    pub(super) memory: Memory,
}

/// All shards written.
pub(super) struct Written {
    /// In the order of the shards.
    pub(super) shards: Vec<ShardRecord>,
    /// Those taken over from an earlier build.
    pub(super) resumed: u64,
}

enum Said {
    Rules(u64),
    Files(u64),
}

impl Writing<'_> {
    /// Writes the shards, makes them durable and notes each in the journal. `progress` hears rules, then files.
    pub(super) fn run(&self, progress: &mut dyn FnMut(BuildStage, u64, u64)) -> Result<Written, StoreError> {
        let shards = self.beside.len() as u16;
        self.check_memory(shards)?;
        let rules = self.rules;
        let failed = AtomicBool::new(false);
        let jobs = Mutex::new(0..shards);
        thread::scope(|scope| {
            let (say, heard) = sync_channel(PROGRESS_MESSAGES_MAX);
            let (hand_on, written) = sync_channel(self.threads);
            let (failed, jobs) = (&failed, &jobs);
            let run = move |say: SyncSender<Said>, hand_on: SyncSender<(ShardRecord, bool)>| {
                let result = self.write_some(jobs, failed, &say, &hand_on);
                self.fail_all(failed, result)
            };
            let writers: Vec<_> = (0..self.threads)
                .map(|_| {
                    let (say, hand_on) = (say.clone(), hand_on.clone());
                    scope.spawn(move || run(say, hand_on))
                })
                .collect();
            drop(hand_on);
            let syncer = scope.spawn(move || {
                let result = self.sync_all(written, &say);
                self.fail_all(failed, result)
            });
            // What the runs have left out already is done.
            let mut done: u64 = self.left_out_by_runs();
            let (mut synced, files) = (0, u64::from(shards) * self.files());
            progress(BuildStage::Write, done, rules);
            for said in heard {
                match said {
                    Said::Rules(count) => {
                        done += count;
                        progress(BuildStage::Write, done, rules);
                    }
                    Said::Files(count) => synced += count,
                }
                if done == rules && synced > 0 {
                    progress(BuildStage::Sync, synced, files);
                }
            }
            // The first failure stops the others, which then have nothing to tell but that.
            let mut result = join(syncer);
            for writer in writers {
                let writer = join(writer);
                result = match (result, writer) {
                    (Ok(written), Err(error)) => {
                        drop(written);
                        Err(error)
                    }
                    (result, _) => result,
                };
            }
            let Written { mut shards, resumed } = result?;
            shards.sort_unstable_by_key(|record| record.shard);
            Ok(Written { shards, resumed })
        })
    }

    /// Files of a shard: the database, its filter, its places.
    fn files(&self) -> u64 {
        2 + u64::from(self.has_places)
    }

    fn left_out_by_runs(&self) -> u64 {
        self.runs.records.iter().flat_map(|run| &run.classes).map(|class| class.duplicates).sum()
    }

    /// Refuses what would not fit before anything is written.
    fn check_memory(&self, shards: u16) -> Result<(), StoreError> {
        let largest = (0..shards).map(|shard| self.runs.entries(shard)).max().unwrap_or(0);
        if self.memory.fits(largest) {
            return Ok(());
        }
        let needed = Memory::bytes_for(largest);
        let enough = needed.saturating_mul(u64::from(shards)).div_ceil(self.memory.bytes().max(1)) + 1;
        Err(StoreError::Bounds {
            what: format!(
                "a filter over the {largest} rules of one of {shards} shards takes {} MiB while it is made, and there are {} MiB; \
                 {enough} shards would do",
                needed >> 20,
                self.memory.bytes() >> 20
            ),
            remedy: "build with more shards or with more memory",
        })
    }

    fn fail_all<T>(&self, failed: &AtomicBool, result: Result<T, StoreError>) -> Result<T, StoreError> {
        result.inspect_err(|_| {
            failed.store(true, Ordering::Relaxed);
            self.memory.end();
        })
    }

    fn write_some(
        &self,
        jobs: &Mutex<std::ops::Range<u16>>,
        failed: &AtomicBool,
        say: &SyncSender<Said>,
        hand_on: &SyncSender<(ShardRecord, bool)>,
    ) -> Result<(), StoreError> {
        while !failed.load(Ordering::Relaxed) {
            let Some(shard) = jobs.lock().unwrap_or_else(PoisonError::into_inner).next() else { break };
            let (record, resumed) = match self.finished(shard) {
                Some(record) => {
                    let rules = record.kept.iter().chain(&record.duplicates).sum();
                    let _ = say.send(Said::Rules(rules));
                    (record, true)
                }
                None => match self.write(shard, say)? {
                    Some(record) => (record, false),
                    // Another thread has failed.
                    None => break,
                },
            };
            // It fails only when the other end has failed, which says why.
            if hand_on.send((record, resumed)).is_err() {
                break;
            }
        }
        Ok(())
    }

    /// A shard that an earlier build has finished just as this one would.
    fn finished(&self, shard: u16) -> Option<ShardRecord> {
        let record = self.finished.iter().find(|record| record.shard == shard && record.digest == self.digest)?;
        let whole = record.files.iter().all(|file| file.check_sum(&self.dir.join(&file.name)).is_ok());
        whole.then(|| record.clone())
    }

    /// Writes one shard; none when another thread has failed meanwhile.
    fn write(&self, shard: u16, say: &SyncSender<Said>) -> Result<Option<ShardRecord>, StoreError> {
        let entries = self.runs.entries(shard);
        let Some(held) = self.memory.begin(entries) else { return Ok(None) };
        let layout = self.common.layout;
        let classes = self.common.classes;
        let is_exact: Vec<bool> = classes.iter().map(|class| class.scope == Scope::Exact).collect();
        let (mut kept, mut duplicates) = (vec![0u64; classes.len()], vec![0u64; classes.len()]);
        let mut depths = SubtreeDepths::NONE;
        let mut keys: Vec<u64> = Vec::with_capacity(entries as usize);
        let (mut name, mut unsaid) = (String::new(), 0);

        let path = self.dir.join(shard_name(shard));
        let file = ShardFile::create(&path, self.common)?;
        let mut sink = file.rows(self.common)?;
        self.runs.merge(shard, self.merge_bytes, &mut duplicates, |key, rows| {
            let hashed = if read_key(layout, key, &mut name) { self.workspace.hasher.hash_text(&name) } else { None };
            let Some((hash, labels)) = hashed else {
                return Err(StoreError::damaged(&self.workspace.dir, "a run holds what is no name"));
            };
            let (mut itself, mut under) = (false, false);
            for row in rows {
                let target = row.target.map(|target| std::str::from_utf8(target.text).unwrap_or_default());
                sink.row(&name, row.class, target)?;
                kept[row.class as usize] += 1;
                itself |= is_exact[row.class as usize];
                under |= !is_exact[row.class as usize];
            }
            if itself {
                keys.push(hash.filter_key(Reach::Itself));
            }
            if under {
                keys.push(hash.filter_key(Reach::Under));
                depths.add(labels);
            }
            unsaid += rows.len() as u64;
            if unsaid >= PROGRESS_ROWS {
                let _ = say.send(Said::Rules(std::mem::take(&mut unsaid)));
            }
            Ok(())
        })?;
        sink.finish()?;
        drop(sink);
        file.finish(&self.beside[usize::from(shard)])?;
        let database = FileEntry::of(&path, &shard_name(shard))?;
        let files = held.with_filter(|| -> Result<_, StoreError> {
            keys.sort_unstable();
            keys.dedup();
            let name = filter_name(shard);
            let filter = write_filter(&self.dir.join(&name), &name, &keys, self.common, shard)?;
            let mut files = vec![database, filter];
            if self.has_places {
                let (name, rows) = (places_name(shard), kept.iter().sum());
                let (hasher, of) = (&self.workspace.hasher, (self.common.generation, shard));
                files.push(write_places(&self.dir.join(&name), &name, &path, rows, hasher, of)?);
            }
            Ok(files)
        })?;
        let _ = say.send(Said::Rules(unsaid + duplicates.iter().sum::<u64>()));
        Ok(Some(ShardRecord { shard, digest: self.digest, files, kept, duplicates, depths }))
    }

    /// Makes each shard durable and notes it, in the order in which they are written.
    fn sync_all(&self, written: Receiver<(ShardRecord, bool)>, say: &SyncSender<Said>) -> Result<Written, StoreError> {
        let mut done = Written { shards: Vec::new(), resumed: 0 };
        for (record, resumed) in written {
            if resumed {
                done.resumed += 1;
            } else {
                record.files.iter().try_for_each(|file| sync_file(&self.dir.join(&file.name)))?;
                sync_dir(self.dir)?;
                self.workspace.add_shard(record.clone())?;
            }
            let _ = say.send(Said::Files(self.files()));
            done.shards.push(record);
        }
        Ok(done)
    }
}

fn join<T>(thread: thread::ScopedJoinHandle<'_, T>) -> T {
    match thread.join() {
        Ok(value) => value,
        Err(panic) => std::panic::resume_unwind(panic),
    }
}
