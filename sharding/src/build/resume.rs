//! Going on with a build that was killed.
//!
//! Invariant: only what the journal names, and what still has the size that it says, is taken over; every other file in the
//! build's directory is removed. A run with a piece of a part that was not finished is such a file: the part is read again.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;

use super::journal::{Header, Journal, Record, ShardRecord};
use super::run::RunRecord;
use crate::StoreError;
use crate::publish::GENERATION;

/// The journal's name in a build's directory.
pub(super) const JOURNAL: &str = "journal";

/// Whether a build goes on with one that was killed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Resumed {
    /// It was not asked to.
    NotAsked,
    /// It begins anew, and why.
    Anew(&'static str),
    /// It goes on.
    From {
        /// Parts of lists that need not be read again.
        parts: u64,
        /// Shards that are written, if nothing else has changed.
        shards: u64,
    },
}

/// What a killed build has left.
pub(super) struct Leftover {
    pub(super) journal: Journal,
    pub(super) runs: Vec<RunRecord>,
    pub(super) shards: Vec<ShardRecord>,
    /// Above the number of every run and part that was ever in the journal.
    pub(super) next_run: u32,
    pub(super) next_part: u32,
}

impl Leftover {
    pub(super) fn resumed(&self) -> Resumed {
        let parts = self.runs.iter().map(|run| run.parts.len() as u64).sum();
        Resumed::From { parts, shards: self.shards.len() as u64 }
    }
}

/// Takes over what is in the build's directory `root`; the error is why that cannot be.
pub(super) fn take_over(root: &Path, header: &Header) -> Result<Leftover, &'static str> {
    let path = root.join(JOURNAL);
    if !path.exists() {
        return Err("the killed build had no journal yet");
    }
    // Its directory is made before the journal, and gets its number by a rename.
    if !root.join(GENERATION).is_dir() {
        return Err("the killed build was complete but for its publication; `corewall generations` has its generation");
    }
    let (journal, records) = Journal::resume(&path).map_err(|_| "the journal of the killed build cannot be read")?;
    let mut records = records.into_iter();
    match records.next() {
        Some(Record::Header(found)) if found == *header => {}
        Some(Record::Header(_)) => return Err("the killed build was of other lists, options or another key"),
        _ => return Err("the killed build had no journal yet"),
    }
    let (mut runs, mut shards) = (BTreeMap::new(), BTreeMap::new());
    let (mut next_run, mut next_part) = (0, 0);
    for record in records {
        match record {
            Record::Header(_) => return Err("the journal of the killed build is not in order"),
            Record::Run(run) => {
                next_run = next_run.max(run.number + 1);
                next_part = run.parts.iter().map(|part| part.number + 1).fold(next_part, u32::max);
                runs.insert(run.number, run);
            }
            Record::Shard(shard) => {
                shards.insert(shard.shard, shard);
            }
        }
    }
    let runs = whole_runs(root, runs);
    let shards: Vec<ShardRecord> = shards.into_values().collect();
    let taken = remove_others(root, &runs, &shards);
    taken.map_err(|_| "what the killed build left cannot be removed")?;
    Ok(Leftover { journal, runs, shards, next_run, next_part })
}

/// Name of a run's file.
pub(super) fn run_name(number: u32) -> String {
    format!("run-{number:06}")
}

/// The runs whose files are there, with all pieces of their parts, and those pieces.
fn whole_runs(root: &Path, runs: BTreeMap<u32, RunRecord>) -> Vec<RunRecord> {
    let has_file =
        |run: &RunRecord| fs::metadata(root.join(run_name(run.number))).is_ok_and(|file| file.len() == run.bytes);
    let there: BTreeSet<u32> = runs.values().filter(|run| has_file(run)).map(|run| run.number).collect();
    let mut kept = BTreeSet::new();
    for run in runs.values().filter(|run| !run.parts.is_empty() && there.contains(&run.number)) {
        let pieces: Vec<u32> = run.parts.iter().flat_map(|part| part.pieces.iter().copied()).collect();
        if pieces.iter().all(|piece| there.contains(piece)) {
            kept.insert(run.number);
            kept.extend(pieces);
        }
    }
    runs.into_values().filter(|run| kept.contains(&run.number)).collect()
}

fn remove_others(root: &Path, runs: &[RunRecord], shards: &[ShardRecord]) -> Result<(), StoreError> {
    let mut keep: BTreeSet<String> = runs.iter().map(|run| run_name(run.number)).collect();
    keep.extend([JOURNAL.to_owned(), GENERATION.to_owned()]);
    remove_all_but(root, &keep)?;
    let keep = shards.iter().flat_map(|shard| &shard.files).map(|file| file.name.clone()).collect();
    remove_all_but(&root.join(GENERATION), &keep)
}

fn remove_all_but(dir: &Path, keep: &BTreeSet<String>) -> Result<(), StoreError> {
    let entries = fs::read_dir(dir).and_then(|entries| entries.collect::<Result<Vec<_>, _>>());
    for entry in entries.map_err(StoreError::io(dir, "list the directory"))? {
        if !keep.contains(&*entry.file_name().to_string_lossy()) {
            let path = entry.path();
            fs::remove_file(&path).map_err(StoreError::io(&path, "remove what a killed build left"))?;
        }
    }
    Ok(())
}
