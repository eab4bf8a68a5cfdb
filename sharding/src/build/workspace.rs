//! What the collectors of one build share: its directory, its numbers, its journal and the runs that are finished.
//!
//! Nothing here is touched for a rule; a lock is taken once a run. Invariant: a run is in the list only when its file is whole,
//! and in the journal only when it is durable as well.

use std::path::PathBuf;
use std::sync::atomic::{AtomicU32, AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};

use super::journal::{Journal, Record, ShardRecord};
use super::resume::run_name;
use super::run::RunRecord;
use crate::StoreError;
use crate::manifest::Layout;
use crate::publish::sync_dir;
use crate::route::WholeHasher;

/// A collector holds at least so many bytes: with fewer the files would be more than the rules.
const COLLECTOR_BYTES_MIN: usize = 64 << 10;
/// And at most so many: the places of its keys are kept in 32 bits.
const COLLECTOR_BYTES_MAX: usize = 2 << 30;

/// What the collectors of one build share.
pub(super) struct Workspace {
    /// Where runs and the journal are.
    pub(super) dir: PathBuf,
    pub(super) layout: Layout,
    pub(super) shards: u16,
    pub(super) hasher: WholeHasher,
    /// Whether a later build may go on with this one: then what is finished is made durable at once.
    pub(super) resumable: bool,
    /// Bytes that all collectors may hold together.
    collect_bytes: u64,
    /// Threads that are expected to have a collector each.
    threads: usize,
    collectors: AtomicUsize,
    /// Collectors that ended without [`super::Collector::finish`].
    lost: AtomicUsize,
    next_run: AtomicU32,
    next_part: AtomicU32,
    journal: Mutex<Option<Journal>>,
    runs: Mutex<Vec<RunRecord>>,
}

impl Workspace {
    pub(super) fn new(
        dir: PathBuf,
        layout: Layout,
        shards: u16,
        hasher: WholeHasher,
        collect_bytes: u64,
        threads: usize,
    ) -> Workspace {
        Workspace {
            dir,
            layout,
            shards,
            hasher,
            resumable: false,
            collect_bytes,
            threads,
            collectors: AtomicUsize::new(0),
            lost: AtomicUsize::new(0),
            next_run: AtomicU32::new(0),
            next_part: AtomicU32::new(0),
            journal: Mutex::new(None),
            runs: Mutex::new(Vec::new()),
        }
    }

    /// Goes on with the runs of a journal, which have these numbers and parts.
    pub(super) fn resume(&mut self, journal: Journal, runs: Vec<RunRecord>, next_run: u32, next_part: u32) {
        self.resumable = true;
        *self.next_run.get_mut() = next_run;
        *self.next_part.get_mut() = next_part;
        self.journal = Mutex::new(Some(journal));
        self.runs = Mutex::new(runs);
    }

    pub(super) fn collector_begins(&self) {
        self.collectors.fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn collector_ends(&self, finished: bool) {
        self.collectors.fetch_sub(1, Ordering::Relaxed);
        if !finished {
            self.lost.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Collectors at work, and those that ended without having handed on what they held.
    pub(super) fn unfinished_collectors(&self) -> usize {
        self.collectors.load(Ordering::Relaxed) + self.lost.load(Ordering::Relaxed)
    }

    /// Bytes that one collector may hold now.
    pub(super) fn collector_bytes(&self) -> usize {
        let sharers = self.collectors.load(Ordering::Relaxed).max(self.threads).max(1);
        let share = usize::try_from(self.collect_bytes).unwrap_or(usize::MAX) / sharers;
        share.clamp(COLLECTOR_BYTES_MIN, COLLECTOR_BYTES_MAX)
    }

    pub(super) fn next_part(&self) -> u32 {
        self.next_part.fetch_add(1, Ordering::Relaxed)
    }

    pub(super) fn next_run(&self) -> u32 {
        self.next_run.fetch_add(1, Ordering::Relaxed)
    }

    pub(super) fn run_path(&self, number: u32) -> PathBuf {
        self.dir.join(run_name(number))
    }

    /// Notes a finished run, in the journal as well when a later build is to find it there.
    pub(super) fn add_run(&self, record: RunRecord, in_journal: bool) -> Result<(), StoreError> {
        let record = if in_journal {
            let record = Record::Run(record);
            sync_dir(&self.dir)?;
            self.append(&record)?;
            let Record::Run(record) = record else { return Ok(()) };
            record
        } else {
            record
        };
        self.runs.lock().unwrap_or_else(PoisonError::into_inner).push(record);
        Ok(())
    }

    /// Notes a finished shard, which is durable.
    pub(super) fn add_shard(&self, record: ShardRecord) -> Result<(), StoreError> {
        self.append(&Record::Shard(record))
    }

    fn append(&self, record: &Record) -> Result<(), StoreError> {
        match &mut *self.journal.lock().unwrap_or_else(PoisonError::into_inner) {
            Some(journal) => journal.append(record),
            None => Ok(()),
        }
    }

    /// Calls `look` with the runs that are finished so far.
    pub(super) fn with_runs<T>(&self, look: impl FnOnce(&[RunRecord]) -> T) -> T {
        look(&self.runs.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// The finished runs; none are left.
    pub(super) fn take_runs(&self) -> Vec<RunRecord> {
        std::mem::take(&mut *self.runs.lock().unwrap_or_else(PoisonError::into_inner))
    }
}
