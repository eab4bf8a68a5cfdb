//! One immutable generation, opened for reading.
//!
//! Invariant: when a [`Generation`] exists, its manifest matched its checksum, every file had its size, every filter and
//! its checksum, and every class, pattern, address rule and rewrite was readable and consistent. The rule rows themselves are not read:
//! that would take minutes for a large store; [`Generation::verify`] does it on demand.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use ipnet::IpNet;

use crate::StoreError;
use crate::filter::Filter;
use crate::manifest::{FileEntry, MANIFEST_NAME, Manifest, key_check};
use crate::name::Name;
use crate::route::{self, HashKey};
use crate::rows::{Reads, Shard, connect};
use crate::rule::{Class, ClassId, IpRewrite, List};
use crate::schema;

/// A pattern rule.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PatternRow {
    /// Dense from 0 and equal to its place in [`Generation::patterns`]; the compiled patterns carry this number.
    pub id: u32,
    /// In PCRE syntax, see [`crate::rule::RuleKey::Pattern`].
    pub regex: String,
    /// What the rule says.
    pub class: ClassId,
    /// For an alias.
    pub target: Option<Name>,
}

/// An address rule.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AddressRow {
    /// An address or prefix, no bits beyond its length.
    pub net: IpNet,
    /// What the rule says.
    pub class: ClassId,
    /// For an alias. In a box, for there may be a million rows and hardly any has one.
    pub target: Option<Box<Name>>,
}

/// An immutable generation, opened and verified.
pub struct Generation {
    /// Its number, from 1.
    pub number: u64,
    /// Its directory.
    pub dir: PathBuf,
    /// What it holds.
    pub manifest: Manifest,
    /// The key that its names are hashed with.
    pub key: HashKey,
    /// Index is the [`crate::rule::ListId`].
    pub lists: Vec<List>,
    /// Index is the [`ClassId`].
    pub classes: Vec<Class>,
    /// Index is the pattern's id.
    pub patterns: Vec<PatternRow>,
    /// Every address rule, by prefix and then class.
    pub addresses: Vec<AddressRow>,
    /// Every address rewrite, by list and then source.
    pub rewrites: Vec<IpRewrite>,
    /// The classes of the rules on the root name: they speak of every question, and are better had at hand than read.
    pub root: Vec<ClassId>,
    /// Index is the shard.
    pub filters: Vec<Arc<Filter>>,
}

impl Generation {
    /// Opens the generation in `dir`, which the store's `key` belongs to.
    pub(crate) fn load(dir: &Path, number: u64, key: HashKey, key_file: &Path) -> Result<Generation, StoreError> {
        let path = dir.join(MANIFEST_NAME);
        let manifest = Manifest::read(&path)?;
        if manifest.generation != number {
            let what = format!("it says generation {} in the directory of {number}", manifest.generation);
            return Err(StoreError::damaged(&path, what));
        }
        if manifest.key_check != key_check(key) {
            return Err(StoreError::WrongKey { path: key_file.to_path_buf(), generation: number });
        }
        for file in &manifest.files {
            file.check_size(&dir.join(&file.name))?;
        }
        let (lists, classes) = load_common(dir, &manifest)?;
        let Scattered { patterns, addresses, rewrites } = load_scattered(dir, &manifest, &lists, &classes)?;
        let root = load_root(dir, &manifest, key, &classes)?;
        let filters = (0..manifest.shards).map(|shard| load_filter(dir, &manifest, shard));
        let filters = filters.collect::<Result<_, _>>()?;
        Ok(Generation {
            number,
            dir: dir.to_path_buf(),
            manifest,
            key,
            lists,
            classes,
            patterns,
            addresses,
            rewrites,
            root,
            filters,
        })
    }

    /// Opens a connection to each shard, in their order, for the calling worker alone. `mmap` maps the shards.
    pub fn open_shards(&self, mmap: bool) -> Result<Vec<Shard>, StoreError> {
        let reads = if mmap { Reads::Mapped } else { Reads::Waiting };
        (0..self.manifest.shards).map(|shard| self.open_shard(shard, reads)).collect()
    }

    /// Opens a connection to one shard, for the calling thread alone.
    pub fn open_shard(&self, shard: u16, reads: Reads) -> Result<Shard, StoreError> {
        Shard::open(&self.dir.join(shard_name(shard)), reads)
    }

    /// The content of a further file that the build put beside the shards, its checksum verified; none when the build
    /// wrote no such file.
    pub fn sidecar(&self, name: &str) -> Result<Option<Vec<u8>>, StoreError> {
        let Some(entry) = self.manifest.file(name) else { return Ok(None) };
        let path = self.dir.join(name);
        let bytes = std::fs::read(&path).map_err(StoreError::io(&path, "read the file"))?;
        if FileEntry::of_bytes(name, &bytes) != *entry {
            return Err(StoreError::damaged(&path, "its checksum does not match"));
        }
        Ok(Some(bytes))
    }

    /// Reads every file whole and compares its checksum: as long as the disk needs for all of it.
    pub fn verify(&self) -> Result<(), StoreError> {
        self.manifest.files.iter().try_for_each(|file| file.check_sum(&self.dir.join(&file.name)))
    }

    /// Shards.
    pub fn shard_count(&self) -> u16 {
        self.manifest.shards
    }

    /// Rules by name, pattern and address.
    pub fn rule_count(&self) -> u64 {
        self.manifest.rules
    }
}

/// Name of a shard's database.
pub(crate) fn shard_name(shard: u16) -> String {
    format!("dns_shard_{shard:02}.db")
}

/// Name of a shard's filter.
pub(crate) fn filter_name(shard: u16) -> String {
    format!("dns_shard_{shard:02}.filter")
}

/// Lists and classes of the first shard in which they are readable: each has the same copy.
fn load_common(dir: &Path, manifest: &Manifest) -> Result<(Vec<List>, Vec<Class>), StoreError> {
    let mut failure = None;
    for shard in 0..manifest.shards {
        match load_common_of(&dir.join(shard_name(shard)), manifest) {
            Ok(common) => return Ok(common),
            Err(error) => failure = failure.or(Some(error)),
        }
    }
    Err(failure.unwrap_or_else(|| StoreError::damaged(&dir.join(MANIFEST_NAME), "it has no shard")))
}

fn load_common_of(path: &Path, manifest: &Manifest) -> Result<(Vec<List>, Vec<Class>), StoreError> {
    let conn = connect(path, Reads::Waiting)?;
    let lists = schema::read_lists(&conn, path)?;
    let classes = schema::read_classes(&conn, path)?;
    let counted = lists.len() == manifest.lists.len() && classes.len() as u64 == manifest.classes;
    if !counted || classes.iter().any(|class| usize::from(class.list) >= lists.len()) {
        return Err(StoreError::damaged(path, "its lists or classes are not those of the manifest"));
    }
    Ok((lists, classes))
}

/// What each shard has its part of, beside the rules by name.
#[derive(Default)]
struct Scattered {
    patterns: Vec<PatternRow>,
    addresses: Vec<AddressRow>,
    rewrites: Vec<IpRewrite>,
}

fn load_scattered(dir: &Path, manifest: &Manifest, lists: &[List], classes: &[Class]) -> Result<Scattered, StoreError> {
    let mut scattered = Scattered::default();
    let Scattered { patterns, addresses, rewrites } = &mut scattered;
    for shard in 0..manifest.shards {
        let path = dir.join(shard_name(shard));
        let conn = connect(&path, Reads::Waiting)?;
        schema::read_patterns(&conn, &path, patterns)?;
        schema::read_addresses(&conn, &path, addresses)?;
        schema::read_rewrites(&conn, &path, rewrites)?;
    }
    patterns.sort_unstable_by_key(|pattern| pattern.id);
    addresses.sort_unstable_by_key(|address| (address.net, address.class));
    rewrites.sort_unstable_by_key(|rewrite| (rewrite.list, rewrite.from));
    let dense = patterns.iter().enumerate().all(|(place, pattern)| pattern.id as usize == place);
    let consistent = dense
        && patterns.len() as u64 == manifest.patterns
        && addresses.len() as u64 == manifest.addresses
        && rewrites.len() as u64 == manifest.ip_rewrites
        && patterns.iter().all(|pattern| (pattern.class as usize) < classes.len())
        && addresses.iter().all(|address| (address.class as usize) < classes.len())
        && rewrites.iter().all(|rewrite| usize::from(rewrite.list) < lists.len());
    if !consistent {
        let what = "its patterns, address rules or address rewrites are not those of the manifest";
        return Err(StoreError::damaged(dir, what));
    }
    Ok(scattered)
}

fn load_root(dir: &Path, manifest: &Manifest, key: HashKey, classes: &[Class]) -> Result<Vec<ClassId>, StoreError> {
    let shard = route::hash(key, &Name::ROOT).shard(manifest.shards);
    let path = dir.join(shard_name(shard));
    let mut root = Vec::new();
    Shard::open(&path, Reads::Waiting)?.classes_of(Name::ROOT.to_text().as_str(), &mut |class| root.push(class))?;
    if root.iter().any(|&class| class as usize >= classes.len()) {
        return Err(StoreError::damaged(&path, "a rule on the root name has no class"));
    }
    Ok(root)
}

fn load_filter(dir: &Path, manifest: &Manifest, shard: u16) -> Result<Arc<Filter>, StoreError> {
    let path = dir.join(filter_name(shard));
    let filter = Filter::open(&path)?;
    if filter.generation() != manifest.generation || filter.shard() != shard {
        let what = format!("it is the filter of shard {} of generation {}", filter.shard(), filter.generation());
        return Err(StoreError::damaged(&path, what));
    }
    Ok(Arc::new(filter))
}

// All workers share one generation; a cold read opens shards of its own on another thread.
const _: fn() = || {
    fn is_shared<T: Send + Sync>() {}
    is_shared::<Generation>();
};
