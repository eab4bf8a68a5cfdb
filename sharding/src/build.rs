//! skeleton
use crate::StoreError;
use crate::publish::{PatternRow, Store};
use crate::rule::{IpRewrite, Kind, List, ListId, Rule, Scope};
use std::collections::BTreeMap;
/// How to build.
#[derive(Clone, Debug)]
pub struct BuildOptions {
    /// Shards, 1 to 4096.
    pub shards: u16,
    /// Threads that write shards; none means one a core.
    pub threads: Option<usize>,
}
impl Default for BuildOptions {
    fn default() -> Self {
        Self { shards: 16, threads: None }
    }
}
/// What [`Builder::finish`] is at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BuildStage {
    /// Sorting and writing; counted in rules.
    Write,
    /// Making durable; counted in files.
    Sync,
}
/// Rules of one list.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ListReport {
    /// The list's name.
    pub name: String,
    /// Rules kept, by kind and scope.
    pub rules: BTreeMap<(Kind, Scope), u64>,
    /// Address rewrites kept.
    pub ip_rewrites: u64,
    /// Rules that the list said more than once, the first not counted.
    pub duplicates: u64,
}
/// What was built.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct BuildReport {
    /// Index is the list's id.
    pub lists: Vec<ListReport>,
    /// Rules kept, patterns included, rewrites not.
    pub rules: u64,
    /// Rules left out as duplicates within their list.
    pub duplicates: u64,
    /// Bytes of each shard.
    pub shard_bytes: Vec<u64>,
    /// Bytes of all filters.
    pub filter_bytes: u64,
    /// Bytes on disk a rule, filters included.
    pub bytes_per_rule: f64,
}
/// Takes rules and writes a generation.
pub struct Builder {}
impl Builder {
    /// Starts a build; fails when another is under way.
    pub fn new(_store: &Store, _options: BuildOptions) -> Result<Builder, StoreError> {
        todo!()
    }
    /// Adds a list; its rules carry the id it gives.
    pub fn list(&mut self, _list: List) -> Result<ListId, StoreError> {
        todo!()
    }
    /// Adds a rule.
    pub fn push(&mut self, _rule: &Rule) -> Result<(), StoreError> {
        todo!()
    }
    /// Adds an address rewrite.
    pub fn rewrite(&mut self, _rewrite: IpRewrite) {
        todo!()
    }
    /// Writes the shards and filters into the build's directory.
    pub fn finish(self, _progress: &mut dyn FnMut(BuildStage, u64, u64)) -> Result<Built, StoreError> {
        todo!()
    }
}
/// A generation not yet published.
pub struct Built {
    /// The number it will have.
    pub number: u64,
    /// Its patterns, to be compiled into a sidecar.
    pub patterns: Vec<PatternRow>,
    /// What was built.
    pub report: BuildReport,
}
impl Built {
    /// Writes a further file beside the shards.
    pub fn add_sidecar(&mut self, _name: &str, _bytes: &[u8]) -> Result<(), StoreError> {
        todo!()
    }
    /// Makes it the current generation.
    pub fn publish(self) -> Result<u64, StoreError> {
        todo!()
    }
}
