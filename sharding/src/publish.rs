//! skeleton
use crate::StoreError;
use crate::filter::Filter;
use crate::manifest::Manifest;
use crate::name::Name;
use crate::route::HashKey;
use crate::rows::Shard;
use crate::rule::{Class, ClassId, IpRewrite, List};
use std::path::{Path, PathBuf};
use std::sync::Arc;
/// A store's directory.
pub struct Store {}
impl Store {
    /// Opens the store, making it when there is none.
    pub fn create_or_open(_dir: &Path) -> Result<Store, StoreError> {
        todo!()
    }
    /// Opens an existing store.
    pub fn open(_dir: &Path) -> Result<Store, StoreError> {
        todo!()
    }
    /// The installation's hash key.
    pub fn key(&self) -> HashKey {
        todo!()
    }
    /// The published generation, opened and verified.
    pub fn current(&self) -> Result<Generation, StoreError> {
        todo!()
    }
    /// The number of the published generation, from the symlink alone.
    pub fn current_number(&self) -> Result<Option<u64>, StoreError> {
        todo!()
    }
    /// Any generation of the store, opened and verified.
    pub fn generation(&self, _number: u64) -> Result<Generation, StoreError> {
        todo!()
    }
}
/// A pattern rule.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PatternRow {
    /// Dense from 0, equal to its place in [`Generation::patterns`].
    pub id: u32,
    /// In PCRE syntax, see [`crate::rule::RuleKey::Pattern`].
    pub regex: String,
    /// What the rule says.
    pub class: ClassId,
    /// For an alias.
    pub target: Option<Name>,
}
/// An immutable generation, opened.
pub struct Generation {
    /// Its number.
    pub number: u64,
    /// Its directory.
    pub dir: PathBuf,
    /// What it holds.
    pub manifest: Manifest,
    /// The key its names are hashed with.
    pub key: HashKey,
    /// Index is the list's id.
    pub lists: Vec<List>,
    /// Index is the class's id.
    pub classes: Vec<Class>,
    /// Index is the pattern's id.
    pub patterns: Vec<PatternRow>,
    /// Every address rewrite.
    pub rewrites: Vec<IpRewrite>,
    /// Index is the shard.
    pub filters: Vec<Arc<Filter>>,
}
impl Generation {
    /// Opens a connection to each shard for the calling worker.
    pub fn open_shards(&self, _mmap: bool) -> Result<Vec<Shard>, StoreError> {
        todo!()
    }
    /// A sidecar's bytes, its checksum verified.
    pub fn sidecar(&self, _name: &str) -> Result<Option<Vec<u8>>, StoreError> {
        todo!()
    }
    /// Shards.
    pub fn shard_count(&self) -> u16 {
        todo!()
    }
    /// Rules.
    pub fn rule_count(&self) -> u64 {
        todo!()
    }
    /// Reads every file whole and compares its checksum.
    pub fn verify(&self) -> Result<(), StoreError> {
        todo!()
    }
}
