//! Stage 6, rule, the reading half: the rows of a name's suffixes, from this worker's own connection to each shard.
//!
//! Invariants: a read that fails is said and handed on as [`Unread::Failed`], which `decide` counts; it is never an empty
//! result, for that would let a blocked name pass. One line is logged for a failing spell, not one a query. With reader
//! threads ([`readers`]) the worker never waits for the disk: what is not in memory is [`Unread::WouldWait`], is read by
//! them, and is at hand for the one event in which the query goes on.
//!
//! Shards that are locked in memory ([`DirectShards`]) are read without SQLite, and without a wait.

pub mod readers;

use std::sync::Arc;

use corewall_sharding::StoreError;
use corewall_sharding::direct::DirectShards;
use corewall_sharding::name::Name;
use corewall_sharding::publish::Generation;
use corewall_sharding::rows::{Reads, Shard};
use corewall_sharding::rule::ClassId;

use self::readers::{Finding, ReadJob, Readers, TooManyReads, WantedRows};
use crate::decide::filter::Lookup;
use crate::decide::{Ticket, Unread};

/// One worker's connections to the shards of one generation.
pub struct StoreReader {
    shards: Vec<Shard>,
    /// Those of them that are in memory for certain, the same ones for all workers.
    direct: Arc<DirectShards>,
    readers: Option<Readers>,
    /// What the reader threads have read for the query at hand.
    at_hand: Option<Finding>,
    is_failing: bool,
}

impl StoreReader {
    /// Opens every shard, to be read in place. `mmap`: map the files instead of reading pages into SQLite's own cache.
    pub fn open(generation: &Generation, mmap: bool) -> Result<Self, StoreError> {
        Ok(Self::new(generation.open_shards(mmap)?, generation.direct.clone(), None))
    }

    /// Opens every shard so that only what is in memory is read in place. The rest is read by `readers`.
    pub fn open_in_memory(generation: &Generation, readers: Readers) -> Result<Self, StoreError> {
        let shards = (0..generation.shard_count()).map(|shard| generation.open_shard(shard, Reads::InMemory));
        let shards = shards.collect::<Result<_, _>>()?;
        Ok(Self::new(shards, generation.direct.clone(), Some(readers)))
    }

    /// No store: the filters of no generation never ask for a row.
    pub fn empty() -> Self {
        Self::new(Vec::new(), Arc::new(DirectShards::none(0)), None)
    }

    fn new(shards: Vec<Shard>, direct: Arc<DirectShards>, readers: Option<Readers>) -> Self {
        Self { shards, direct, readers, at_hand: None, is_failing: false }
    }

    /// Has fetched from memory what tells where the rows of `lookup` lie: for each query of a batch, before
    /// [`Self::prefetch_rows`] for each of them, before the first is read. On the hot path.
    pub fn prefetch_places(&self, lookup: &Lookup) {
        for (shard, hash) in lookup.hashes() {
            if let Some(shard) = self.direct.shard(shard) {
                shard.prefetch_places(hash);
            }
        }
    }

    /// Has the rows of `lookup` fetched from memory. On the hot path.
    pub fn prefetch_rows(&self, lookup: &Lookup) {
        for (shard, hash) in lookup.hashes() {
            if let Some(shard) = self.direct.shard(shard) {
                shard.prefetch_rows(hash);
            }
        }
    }

    /// Hands over the rules of every suffix that the filters could not rule out: number of labels, and class. On the hot
    /// path.
    pub fn read(&mut self, lookup: &Lookup, found: &mut dyn FnMut(u8, ClassId)) -> Result<(), Unread> {
        let Self { shards, direct, at_hand, is_failing, .. } = self;
        for key in lookup.keys() {
            if let Some(shard) = direct.shard(key.shard) {
                match shard.classes_of(key.hash, key.text, &mut |class| found(key.labels, class)) {
                    Ok(true) => continue,
                    // Only SQLite reads what is there.
                    Ok(false) => {}
                    Err(error) => return Err(unread(is_failing, key.shard, Some(error))),
                }
            }
            if let Some(classes) = at_hand.as_ref().and_then(|finding| finding.classes(key.shard, key.text)) {
                classes?.iter().for_each(|&class| found(key.labels, class));
                continue;
            }
            // A shard that is not there is a failure too: filters and shards are of two generations.
            let shard = shards.get_mut(usize::from(key.shard));
            let read = shard.map(|shard| shard.classes_of(key.text, &mut |class| found(key.labels, class)));
            if !matches!(read, Some(Ok(()))) {
                return Err(unread(is_failing, key.shard, read.and_then(Result::err)));
            }
        }
        recovered(is_failing);
        Ok(())
    }

    /// The target of the alias rule of `class` on the very name `name`.
    pub fn target(&mut self, shard: u16, name: &str, class: ClassId) -> Result<Option<Name>, Unread> {
        if let Some(target) = self.at_hand.as_ref().and_then(|finding| finding.target(shard, name, class)) {
            return target;
        }
        match self.shards.get_mut(usize::from(shard)).map(|shard| shard.target_of(name, class)) {
            Some(Ok(target)) => {
                recovered(&mut self.is_failing);
                Ok(target)
            }
            read => Err(unread(&mut self.is_failing, shard, read.and_then(Result::err))),
        }
    }

    /// Has the reader threads read what was not in memory: the rows of `lookup`, and an alias's target when that is asked for.
    /// Off the hot path: allocates.
    pub fn have_read(
        &mut self,
        ticket: Ticket,
        lookup: &Lookup,
        alias: Option<(u16, &str, ClassId)>,
    ) -> Result<(), TooManyReads> {
        let readers = self.readers.as_mut().ok_or(TooManyReads)?;
        let job = match alias {
            // The rows have been judged.
            Some((shard, name, class)) => ReadJob::Target { shard, name: name.to_owned(), class },
            None => {
                let rows = lookup.keys().map(|key| WantedRows { shard: key.shard, name: key.text.to_owned() });
                ReadJob::Rows(rows.collect())
            }
        };
        readers.ask(ticket, job)
    }

    /// The next thing that has been read, and who waits for it; see [`Self::lay_out`].
    pub fn next_finding(&mut self) -> Option<(Vec<Ticket>, Finding)> {
        self.readers.as_mut()?.next_finding()
    }

    /// Puts what has been read at hand for the events until [`Self::clear_away`].
    pub fn lay_out(&mut self, finding: Finding) {
        self.at_hand = Some(finding);
    }

    /// Nothing is at hand any more.
    pub fn clear_away(&mut self) {
        self.at_hand = None;
    }

    /// The shards that are read without SQLite.
    pub fn direct(&self) -> &Arc<DirectShards> {
        &self.direct
    }

    /// Whether anything is being read.
    pub fn is_reading(&self) -> bool {
        self.readers.as_ref().is_some_and(Readers::is_reading)
    }

    /// Who waits for something to be read. Nothing will come for them any more; the reader threads end.
    pub fn abandon_reads(&mut self) -> Vec<Ticket> {
        self.readers.take().map(Readers::abandon).unwrap_or_default()
    }
}

#[cold]
fn unread(is_failing: &mut bool, shard: u16, error: Option<StoreError>) -> Unread {
    if let Some(StoreError::WouldWait { .. }) = error {
        return Unread::WouldWait;
    }
    if !std::mem::replace(is_failing, true) {
        match error {
            Some(error) => {
                tracing::error!(shard, "the store cannot be read, answering as on_store_error says: {error}")
            }
            None => tracing::error!(shard, "the generation has no such shard, answering as on_store_error says"),
        }
    }
    Unread::Failed
}

fn recovered(is_failing: &mut bool) {
    if std::mem::replace(is_failing, false) {
        tracing::info!("the store can be read again");
    }
}
