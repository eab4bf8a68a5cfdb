//! What the tests of the store share.
#![allow(dead_code)]

use std::path::Path;

use corewall_sharding::StoreError;
use corewall_sharding::build::{BuildOptions, Builder, Built};
use corewall_sharding::name::Name;
use corewall_sharding::publish::{Generation, Store};
use corewall_sharding::route;
use corewall_sharding::rows::Shard;
use corewall_sharding::rule::{Class, ClassId, Kind, List, Rule, RuleKey, Scope};

pub fn list(name: &str) -> List {
    List::named(name)
}

pub fn name(text: &str) -> Name {
    if text.is_empty() { Name::ROOT } else { text.parse().unwrap() }
}

pub fn named(class: &Class, text: &str) -> Rule {
    Rule { class: class.clone(), key: RuleKey::Name { name: name(text), target: None } }
}

pub fn blocked(text: &str) -> Rule {
    named(&Class::plain(Kind::Block, Scope::Exact, 0), text)
}

/// Builds a generation out of `rules` of the list 0 in `shards` shards, not yet published.
pub fn build(store: &Store, shards: u16, rules: impl IntoIterator<Item = Rule>) -> Result<Built, StoreError> {
    let mut builder = Builder::new(store, BuildOptions { shards, threads: Some(2), ..BuildOptions::default() })?;
    builder.list(list("test"))?;
    for rule in rules {
        builder.push(&rule)?;
    }
    builder.finish(&mut |_, _, _| {})
}

/// A generation's shards, asked as a worker does.
pub struct Reader {
    pub generation: Generation,
    pub shards: Vec<Shard>,
}

impl Reader {
    pub fn open(store: &Store) -> Reader {
        let generation = store.current().unwrap();
        let shards = generation.open_shards(true).unwrap();
        Reader { generation, shards }
    }

    pub fn shard(&mut self, text: &str) -> &mut Shard {
        let hash = route::hash(self.generation.key, &name(text));
        &mut self.shards[usize::from(hash.shard(self.generation.shard_count()))]
    }

    pub fn class_ids(&mut self, text: &str) -> Vec<ClassId> {
        let mut found = Vec::new();
        self.shard(text).classes_of(text, &mut |class| found.push(class)).unwrap();
        found
    }

    pub fn classes(&mut self, text: &str) -> Vec<Class> {
        self.class_ids(text).into_iter().map(|id| self.generation.classes[id as usize].clone()).collect()
    }

    pub fn may_hold(&self, text: &str, reach: route::Reach) -> bool {
        let hash = route::hash(self.generation.key, &name(text));
        self.generation.filters.contains(hash, reach)
    }
}

/// The shard databases of a generation.
pub fn shard_files(dir: &Path) -> Vec<std::path::PathBuf> {
    let mut files: Vec<_> = std::fs::read_dir(dir)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.extension().is_some_and(|extension| extension == "db"))
        .collect();
    files.sort();
    files
}
