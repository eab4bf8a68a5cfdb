//! One immutable generation, opened for reading.
//!
//! Invariant: when a [`Generation`] exists, its manifest matched its checksum, every file but the filters had its size, and every
//! class, pattern, address rule and rewrite was readable and consistent. The rule rows themselves are not read: that would take
//! minutes for a large store; [`Generation::verify`] does it on demand. A filter that is bad or not read yet is known as such
//! ([`Filters`]) and does not keep a generation from being served: the shards hold all the rules.

use std::collections::HashSet;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use ipnet::IpNet;

use crate::StoreError;
use crate::direct::{DirectShard, DirectShards, NotDirect};
use crate::filter::{Filter, FilterNotMade};
use crate::filters::{Filters, VERIFY_THREADS_MAX};
use crate::manifest::{FileEntry, MANIFEST_NAME, Manifest, key_check};
use crate::name::Name;
use crate::packed::DecoderCache;
use crate::route::{self, HashKey, Reach};
use crate::rows::{CACHE_KIB_MAX, Opening, Reads, Shard, connect};
use crate::rule::{Class, ClassId, IpRewrite, List, Scope};
use crate::schema;

/// Rules of one shard that its filter is made again from: 8 bytes each and then 25 in xorf, 2.2 GB while it lasts. The filter
/// of a larger shard is done without, for want of memory would end the server.
const REBUILD_RULES_MAX: usize = 1 << 26;

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
    /// What tells which rules cannot be there.
    pub filters: Arc<Filters>,
    /// The shards that are read without SQLite; none until [`Generation::read_directly`].
    pub direct: Arc<DirectShards>,
    /// What the connections to its shards share.
    decoders: DecoderCache,
}

impl Generation {
    /// Opens the generation in `dir`, which the store's `key` belongs to. Its filters are opened and not read; `copies` as in
    /// [`Filters::open`].
    pub(crate) fn load(
        dir: &Path,
        number: u64,
        key: HashKey,
        key_file: &Path,
        copies: Option<usize>,
    ) -> Result<Generation, StoreError> {
        let path = dir.join(MANIFEST_NAME);
        let manifest = Manifest::read(&path)?;
        if manifest.generation != number {
            let what = format!("it says generation {} in the directory of {number}", manifest.generation);
            return Err(StoreError::damaged(&path, what));
        }
        if manifest.key_check != key_check(key) {
            return Err(StoreError::WrongKey { path: key_file.to_path_buf(), generation: number });
        }
        // Bad filters and places are done without.
        let spared: HashSet<String> =
            (0..manifest.shards).flat_map(|shard| [filter_name(shard), places_name(shard)]).collect();
        for file in manifest.files.iter().filter(|file| !spared.contains(&file.name)) {
            file.check_size(&dir.join(&file.name))?;
        }
        let (lists, classes) = load_common(dir, &manifest)?;
        let Scattered { patterns, addresses, rewrites } = load_scattered(dir, &manifest, &lists, &classes)?;
        let root = load_root(dir, &manifest, key, &classes)?;
        let filters = Arc::new(Filters::open(dir, &manifest, copies));
        let direct = Arc::new(DirectShards::none(manifest.shards));
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
            direct,
            decoders: DecoderCache::default(),
        })
    }

    /// Opens a connection to each shard, in their order, for the calling worker alone. `mmap` maps the shards.
    pub fn open_shards(&self, mmap: bool) -> Result<Vec<Shard>, StoreError> {
        let reads = if mmap { Reads::Mapped } else { Reads::Waiting };
        (0..self.manifest.shards).map(|shard| self.open_shard(shard, reads)).collect()
    }

    /// Opens a connection to one shard, for the calling thread alone.
    pub fn open_shard(&self, shard: u16, reads: Reads) -> Result<Shard, StoreError> {
        Shard::open(&self.dir.join(shard_name(shard)), Opening::of_many(reads, self.manifest.shards, &self.decoders))
    }

    /// Has a shard read without SQLite from now on, by all who share this generation: locks its files in memory, which reads all of
    /// them, and compares their sums first.
    pub fn read_directly(&self, shard: u16) -> Result<(), NotDirect> {
        self.direct.add(&self.dir, &self.manifest, shard)
    }

    /// A shard to be read without SQLite by the caller alone, and not locked in memory: for measurements and tests.
    pub fn direct_shard(&self, shard: u16) -> Result<DirectShard, StoreError> {
        DirectShard::open(&self.dir, self.number, shard)
    }

    /// Bytes of the files of a shard that are locked in memory to read it like this.
    pub fn direct_bytes(&self, shard: u16) -> u64 {
        let files = [shard_name(shard), places_name(shard)];
        files.iter().filter_map(|name| self.manifest.file(name)).map(|file| file.size).sum()
    }

    /// Whether the build wrote the places of all shards' rows.
    pub fn has_places(&self) -> bool {
        (0..self.manifest.shards).all(|shard| self.manifest.file(&places_name(shard)).is_some())
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

    /// Fails unless every filter is as it was built; reads those that have not been read yet.
    pub fn require_filters(&self) -> Result<(), StoreError> {
        self.filters.verify(u64::MAX, VERIFY_THREADS_MAX, &|| true);
        match self.filters.bad().into_iter().next() {
            Some((shard, what)) => Err(StoreError::damaged(&self.dir.join(filter_name(shard)), what)),
            None => Ok(()),
        }
    }

    /// Fails unless all places that were written are as they were built.
    pub fn require_places(&self) -> Result<(), StoreError> {
        let places = (0..self.manifest.shards).filter_map(|shard| self.manifest.file(&places_name(shard)));
        places.into_iter().try_for_each(|file| file.check_sum(&self.dir.join(&file.name)))
    }

    /// Makes the bad filter of a shard again from the shard's rows, in memory; it can be asked when this returns. Reads the
    /// whole shard twice: whether it is as it was built comes first, for a rule that is missing there would be missed.
    pub fn rebuild_filter(&self, shard: u16) -> Result<(), StoreError> {
        let name = shard_name(shard);
        let path = self.dir.join(&name);
        let entry = self.manifest.file(&name).ok_or_else(|| StoreError::damaged(&path, "the manifest lacks it"))?;
        entry.check_sum(&path)?;
        let (mut keys, mut rules, mut unreadable) = (Vec::new(), 0usize, None);
        Shard::open(&path, Opening::once(&self.decoders))?.each_rule(&mut |text, class, _| {
            rules += 1;
            if rules > REBUILD_RULES_MAX {
                keys = Vec::new();
                return ControlFlow::Break(());
            }
            let parsed = if text.is_empty() { Ok(Name::ROOT) } else { Name::from_text(text) };
            match (parsed, self.classes.get(class as usize)) {
                (Ok(name), Some(class)) => {
                    let reach = if class.scope == Scope::Exact { Reach::Itself } else { Reach::Under };
                    keys.push(route::hash(self.key, &name).filter_key(reach));
                }
                _ => {
                    unreadable = Some(text.to_owned());
                    return ControlFlow::Break(());
                }
            }
            ControlFlow::Continue(())
        })?;
        if let Some(text) = unreadable {
            return Err(StoreError::damaged(&path, format!("the rule on `{text}` has no class or no name")));
        }
        if rules > REBUILD_RULES_MAX {
            return Err(StoreError::Bounds {
                what: format!(
                    "{}: a filter of more than {REBUILD_RULES_MAX} rules takes too much memory to be made again",
                    path.display()
                ),
                remedy: "build the store again",
            });
        }
        keys.sort_unstable();
        keys.dedup();
        let made = Filter::of_keys(&keys, self.manifest.filter_bits, self.number, shard);
        self.filters.put_rebuilt(
            shard,
            made.map_err(|error| match error {
                FilterNotMade::NotFound => StoreError::damaged(&path, "no filter was found for its names"),
                FilterNotMade::NoMemory(source) => StoreError::io(&path, "take memory for its filter")(source),
            })?,
        );
        Ok(())
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

/// Name of the places of a shard's rows.
pub(crate) fn places_name(shard: u16) -> String {
    format!("dns_shard_{shard:02}.places")
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
    let conn = connect(path, Reads::Waiting, CACHE_KIB_MAX)?;
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
        let conn = connect(&path, Reads::Waiting, CACHE_KIB_MAX)?;
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
    Shard::open(&path, Opening::once(&DecoderCache::default()))?
        .classes_of(Name::ROOT.to_text().as_str(), &mut |class| root.push(class))?;
    if root.iter().any(|&class| class as usize >= classes.len()) {
        return Err(StoreError::damaged(&path, "a rule on the root name has no class"));
    }
    Ok(root)
}

// All workers share one generation; a cold read opens shards of its own on another thread.
const _: fn() = || {
    fn is_shared<T: Send + Sync>() {}
    is_shared::<Generation>();
};
