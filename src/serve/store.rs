//! Stage 6, rule, the reading half: the rows of a name's suffixes, from this worker's own connection to each shard.
//!
//! Invariant: a read that fails is said and handed on as [`StoreFailed`], which `decide` counts; it is never an empty result,
//! for that would let a blocked name pass. One line is logged for a failing spell, not one a query.

use corewall_sharding::StoreError;
use corewall_sharding::name::Name;
use corewall_sharding::publish::Generation;
use corewall_sharding::rows::Shard;
use corewall_sharding::rule::ClassId;

use crate::decide::StoreFailed;
use crate::decide::filter::Lookup;

/// One worker's connections to the shards of one generation.
pub struct StoreReader {
    shards: Vec<Shard>,
    is_failing: bool,
}

impl StoreReader {
    /// Opens every shard. `mmap`: map the files instead of reading pages into SQLite's own cache.
    pub fn open(generation: &Generation, mmap: bool) -> Result<Self, StoreError> {
        Ok(Self { shards: generation.open_shards(mmap)?, is_failing: false })
    }

    /// No store: the filters of no generation never ask for a row.
    pub fn empty() -> Self {
        Self { shards: Vec::new(), is_failing: false }
    }

    /// Hands over the rules of every suffix that the filters could not rule out: number of labels, and class. On the hot
    /// path.
    pub fn read(&mut self, lookup: &Lookup, found: &mut dyn FnMut(u8, ClassId)) -> Result<(), StoreFailed> {
        let Self { shards, is_failing } = self;
        for key in lookup.keys() {
            // A shard that is not there is a failure too: filters and shards are of two generations.
            let shard = shards.get_mut(usize::from(key.shard));
            let read = shard.map(|shard| shard.classes_of(key.text, &mut |class| found(key.labels, class)));
            if !matches!(read, Some(Ok(()))) {
                return Err(failed(is_failing, key.shard, read.and_then(Result::err)));
            }
        }
        recovered(is_failing);
        Ok(())
    }

    /// The target of the alias rule of `class` on the very name `name`.
    pub fn target(&mut self, shard: u16, name: &str, class: ClassId) -> Result<Option<Name>, StoreFailed> {
        match self.shards.get_mut(usize::from(shard)).map(|shard| shard.target_of(name, class)) {
            Some(Ok(target)) => {
                recovered(&mut self.is_failing);
                Ok(target)
            }
            read => Err(failed(&mut self.is_failing, shard, read.and_then(Result::err))),
        }
    }
}

#[cold]
fn failed(is_failing: &mut bool, shard: u16, error: Option<StoreError>) -> StoreFailed {
    if !std::mem::replace(is_failing, true) {
        match error {
            Some(error) => {
                tracing::error!(shard, "the store cannot be read, answering as on_store_error says: {error}")
            }
            None => tracing::error!(shard, "the generation has no such shard, answering as on_store_error says"),
        }
    }
    StoreFailed
}

fn recovered(is_failing: &mut bool) {
    if std::mem::replace(is_failing, false) {
        tracing::info!("the store can be read again");
    }
}
