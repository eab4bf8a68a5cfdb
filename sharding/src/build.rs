//! From rules in any order to a generation ready to be published.
//!
//! [`Builder`] collects rules by shard in a compact form, [`Builder::finish`] sorts and writes the shards in parallel, and
//! [`Built::publish`] makes them the current generation. Invariant: until `publish` has returned nothing that a server
//! reads has changed; a [`Builder`] or [`Built`] that is dropped leaves nothing behind.

use std::collections::hash_map::Entry;
use std::collections::{BTreeMap, HashMap, HashSet};
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError, mpsc};
use std::thread;
use std::time::{SystemTime, UNIX_EPOCH};

use crate::StoreError;
use crate::manifest::{FILTER_BITS_DEFAULT, FileEntry, Layout, ListEntry, MANIFEST_NAME, Manifest, key_check};
use crate::name::NameText;
use crate::publish::{AddressRow, PatternRow, Sealed, Staging, Store, sync_file, write_durably};
use crate::route::{SubtreeDepths, SuffixHashes, hash_text};
use crate::rule::{Class, ClassId, IpRewrite, Kind, List, ListId, Rule, RuleKey, Scope};
use crate::schema::{FORMAT_VERSION, source_text};
use crate::shard_file::{Common, ShardRules, Tally};

/// Shards of one generation: each worker holds a connection to each.
pub const SHARDS_MAX: u16 = 4_096;
/// Shards when nothing else is said.
pub const SHARDS_DEFAULT: u16 = 16;
/// Lists of one generation, bounded by their 16-bit number.
pub const LISTS_MAX: usize = ListId::MAX as usize + 1;
/// Classes of one generation: each shard has a copy, and a list that needs a class per rule is better refused than served.
pub const CLASSES_MAX: usize = 1 << 20;
/// Threads that write shards.
const THREADS_MAX: usize = 64;
/// Progress messages waiting to be said.
const PROGRESS_MESSAGES_MAX: usize = 1_024;

/// How to build.
#[derive(Clone, Debug)]
pub struct BuildOptions {
    /// Shards, 1 to [`SHARDS_MAX`].
    pub shards: u16,
    /// Threads that write shards; none means one a core.
    pub threads: Option<usize>,
    /// How the rules by name lie in the shards.
    pub layout: Layout,
    /// Bits of a fingerprint in the filters, 8 or 16.
    pub filter_bits: u8,
    /// Bytes of memory that the build may take.
    pub memory_bytes: u64,
    /// Go on with a build that was killed, if there is one of the same lists and options.
    pub resume: bool,
    /// The last entry of the overlay that is among the rules; 0 when none is.
    pub overlay_seq: u64,
}

/// Bytes of memory for a build when nothing else is said.
pub const MEMORY_BYTES_DEFAULT: u64 = 1 << 30;

impl Default for BuildOptions {
    fn default() -> Self {
        Self {
            shards: SHARDS_DEFAULT,
            threads: None,
            layout: Layout::default(),
            filter_bits: FILTER_BITS_DEFAULT,
            memory_bytes: MEMORY_BYTES_DEFAULT,
            resume: false,
            overlay_seq: 0,
        }
    }
}

/// What [`Builder::finish`] is at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BuildStage {
    /// Sorting and writing, counted in rules.
    Write,
    /// Making durable, counted in files.
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
    /// Rules and rewrites that the list had said before.
    pub duplicates: u64,
}

/// What was built.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct BuildReport {
    /// Index is the list's id.
    pub lists: Vec<ListReport>,
    /// Rules kept, by name, pattern and address; address rewrites not.
    pub rules: u64,
    /// Rules and rewrites left out because their list had said them before.
    pub duplicates: u64,
    /// Bytes of each shard without its filter.
    pub shard_bytes: Vec<u64>,
    /// Bytes of all filters.
    pub filter_bytes: u64,
}

impl BuildReport {
    /// Bytes on disk a rule, filters included; zero without rules.
    pub fn bytes_per_rule(&self) -> f64 {
        let bytes = self.shard_bytes.iter().sum::<u64>() + self.filter_bytes;
        if self.rules == 0 { 0.0 } else { bytes as f64 / self.rules as f64 }
    }
}

/// A part of a list that is read by one thread: a list as a whole, or a piece of it, numbered in their order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PartId {
    /// Of which list.
    pub list: ListId,
    /// Which of its parts, from 0.
    pub part: u32,
}

/// What a finished part has said.
#[derive(Default)]
struct Part {
    rules: Vec<Rule>,
    rewrites: Vec<IpRewrite>,
}

/// Takes the rules of one part after the other; each thread that reads lists has its own.
pub struct Collector {
    parts: Arc<Mutex<BTreeMap<PartId, Part>>>,
    part: Part,
}

impl Collector {
    /// Adds a rule by name or address of the part at hand. Patterns are compiled first and go to [`Builder::push`].
    pub fn push(&mut self, rule: &Rule) -> Result<(), StoreError> {
        self.part.rules.push(rule.clone());
        Ok(())
    }

    /// Adds an address rewrite of the part at hand.
    pub fn rewrite(&mut self, rewrite: IpRewrite) {
        self.part.rewrites.push(rewrite);
    }

    /// All of the part has been pushed. `note` is the reader's own: a resumed build gives it back ([`Builder::finished_parts`]).
    pub fn end_part(&mut self, id: PartId, _note: Vec<u8>) -> Result<(), StoreError> {
        let part = std::mem::take(&mut self.part);
        self.parts.lock().unwrap_or_else(PoisonError::into_inner).insert(id, part);
        Ok(())
    }

    /// No part follows.
    pub fn finish(self) -> Result<(), StoreError> {
        Ok(())
    }
}

/// Takes rules and writes a generation.
pub struct Builder {
    parts: Arc<Mutex<BTreeMap<PartId, Part>>>,
    options: BuildOptions,
    lists: Vec<List>,
    classes: Vec<Class>,
    class_ids: HashMap<Class, ClassId>,
    /// Rules pushed by class, which orders the final ids.
    class_uses: Vec<u64>,
    shards: Vec<ShardRules>,
    patterns: Vec<PatternRow>,
    patterns_seen: HashSet<(ClassId, String)>,
    addresses: Vec<AddressRow>,
    rewrites: Vec<IpRewrite>,
    pattern_duplicates: Vec<ListId>,
    // Scratch of `push`, 2 KiB that need not be cleared for each rule.
    text: Box<NameText>,
    hashes: Box<SuffixHashes>,
    last_class: ClassId,
    staging: Staging,
}

impl Builder {
    /// Starts a build. Fails when another one is writing to the store; removes what killed ones left.
    pub fn new(store: &Store, options: BuildOptions) -> Result<Builder, StoreError> {
        if !(1..=SHARDS_MAX).contains(&options.shards) {
            return Err(StoreError::Bounds {
                what: format!("{} shards", options.shards),
                remedy: "choose between 1 and 4096 shards",
            });
        }
        Ok(Builder {
            parts: Arc::default(),
            shards: (0..options.shards).map(|_| ShardRules::default()).collect(),
            options,
            lists: Vec::new(),
            classes: Vec::new(),
            class_ids: HashMap::new(),
            class_uses: Vec::new(),
            patterns: Vec::new(),
            patterns_seen: HashSet::new(),
            addresses: Vec::new(),
            rewrites: Vec::new(),
            pattern_duplicates: Vec::new(),
            text: Box::new(NameText::EMPTY),
            hashes: Box::new(SuffixHashes::EMPTY),
            last_class: 0,
            staging: Staging::begin(store)?,
        })
    }

    /// Adds a list; its rules carry the id that comes back.
    pub fn list(&mut self, list: List) -> Result<ListId, StoreError> {
        let id = ListId::try_from(self.lists.len()).map_err(|_| StoreError::Bounds {
            what: format!("more than {LISTS_MAX} lists"),
            remedy: "join some of them into one",
        })?;
        self.lists.push(list);
        Ok(id)
    }

    /// What takes the rules of one thread. All lists are added before the first one is made.
    pub fn collector(&self) -> Collector {
        Collector { parts: self.parts.clone(), part: Part::default() }
    }

    /// The parts that a killed build had finished and that need not be read again, with their notes.
    pub fn finished_parts(&self) -> BTreeMap<PartId, Vec<u8>> {
        BTreeMap::new()
    }

    /// Adds a rule. It fails only for what no list reader produces: an unknown list, or a key that does not go with the
    /// class.
    pub fn push(&mut self, rule: &Rule) -> Result<(), StoreError> {
        self.check(rule)?;
        let class = self.class_id(&rule.class)?;
        match &rule.key {
            RuleKey::Name { name, target } => {
                self.text.write(name);
                self.hashes.compute(self.staging.key(), name);
                let hash = self.hashes.whole();
                let shard = &mut self.shards[usize::from(hash.shard(self.options.shards))];
                shard.push(self.text.as_str(), hash, class)?;
                if let Some(target) = target {
                    shard.push_alias(self.text.as_str(), class, target.to_text().as_str());
                }
            }
            RuleKey::Pattern { regex, target } => {
                if self.patterns_seen.insert((class, regex.clone())) {
                    let id = self.patterns.len() as u32;
                    self.patterns.push(PatternRow { id, regex: regex.clone(), class, target: *target });
                } else {
                    self.pattern_duplicates.push(rule.class.list);
                }
            }
            RuleKey::Address { net, target } => {
                self.addresses.push(AddressRow { net: net.trunc(), class, target: target.map(Box::new) });
            }
        }
        self.class_uses[class as usize] += 1;
        Ok(())
    }

    /// Adds an address rewrite, both sides of which are of one family.
    pub fn rewrite(&mut self, rewrite: IpRewrite) {
        self.rewrites.push(rewrite);
    }

    fn check(&self, rule: &Rule) -> Result<(), StoreError> {
        let class = &rule.class;
        let (goes_with_key, target) = match &rule.key {
            RuleKey::Name { target, .. } => (!matches!(class.scope, Scope::Pattern | Scope::Address), target),
            RuleKey::Pattern { target, .. } => (class.scope == Scope::Pattern, target),
            RuleKey::Address { target, .. } => (class.scope == Scope::Address, target),
        };
        let what = if usize::from(class.list) >= self.lists.len() {
            format!("a rule of list {}, which was never added", class.list)
        } else if !goes_with_key {
            "a key and a scope that do not go together".to_owned()
        } else if target.is_some() != (class.kind == Kind::Alias) {
            "a target without an alias, or an alias without one".to_owned()
        } else {
            return Ok(());
        };
        Err(StoreError::Bounds { what, remedy: "report this as a bug of the list's reader" })
    }

    fn class_id(&mut self, class: &Class) -> Result<ClassId, StoreError> {
        // Lists come in runs of one class; comparing is far cheaper than hashing.
        if self.classes.get(self.last_class as usize) == Some(class) {
            return Ok(self.last_class);
        }
        let mut class = class.clone();
        class.condition.take_if(|condition| condition.is_empty());
        let next = self.classes.len();
        self.last_class = match self.class_ids.entry(class) {
            Entry::Occupied(known) => *known.get(),
            Entry::Vacant(_) if next == CLASSES_MAX => {
                return Err(StoreError::Bounds {
                    what: format!("more than {CLASSES_MAX} different classes of rules"),
                    remedy: "take out the list whose rules each have conditions or answers of their own",
                });
            }
            Entry::Vacant(place) => {
                self.classes.push(place.key().clone());
                self.class_uses.push(0);
                *place.insert(next as ClassId)
            }
        };
        Ok(self.last_class)
    }

    /// Sorts and writes everything into the build's directory and makes it durable. `progress` hears the stage, what is
    /// done, and of how much.
    pub fn finish(mut self, progress: &mut dyn FnMut(BuildStage, u64, u64)) -> Result<Built, StoreError> {
        let parts = std::mem::take(&mut *self.parts.lock().unwrap_or_else(PoisonError::into_inner));
        for part in parts.into_values() {
            part.rules.iter().try_for_each(|rule| self.push(rule))?;
            part.rewrites.into_iter().for_each(|rewrite| self.rewrite(rewrite));
        }
        let (classes, ranks) = self.rank_classes();
        let mut report = BuildReport {
            lists: self.lists.iter().map(|list| ListReport { name: list.name.clone(), ..Default::default() }).collect(),
            ..Default::default()
        };
        let patterns = self.route_patterns(&ranks, &classes, &mut report);
        let not_by_name = patterns.len() + self.pattern_duplicates.len() + self.addresses.len();
        let addresses = self.route_addresses(&ranks, &classes, &mut report);
        let ip_rewrites = self.route_rewrites(&mut report)?;
        let common = Common {
            dir: &self.staging.dir,
            generation: self.staging.number,
            lists: &self.lists,
            classes: &classes,
            ranks: &ranks,
        };
        let rules = self.class_uses.iter().sum::<u64>() - not_by_name as u64;
        let threads = self.options.threads.or_else(|| thread::available_parallelism().ok().map(usize::from));
        let threads = threads.unwrap_or(1).clamp(1, THREADS_MAX);
        let shards = std::mem::take(&mut self.shards);
        let (files, tally) =
            write_shards(shards, &common, threads, &mut |done| progress(BuildStage::Write, done, rules))?;
        let total = files.len() as u64;
        let paths = files.iter().map(|file| self.staging.dir.join(&file.name)).collect();
        sync_files(paths, threads, &mut |done| progress(BuildStage::Sync, done, total))?;
        count(&mut report, &classes, &tally, &files);
        let manifest = Manifest {
            format: FORMAT_VERSION,
            generation: self.staging.number,
            created_s: SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs()),
            shards: self.options.shards,
            key_check: key_check(self.staging.key()),
            rules: report.rules,
            patterns: patterns.len() as u64,
            addresses,
            ip_rewrites,
            duplicates: report.duplicates,
            classes: classes.len() as u64,
            layout: self.options.layout,
            filter_bits: self.options.filter_bits,
            subtree_depths: SubtreeDepths::ALL,
            overlay_seq: self.options.overlay_seq,
            lists: list_entries(&self.lists, &report),
            files,
        };
        Ok(Built { number: self.staging.number, patterns, report, manifest, staging: self.staging })
    }

    /// The classes by final id, the most used first, and the final id of each.
    fn rank_classes(&mut self) -> (Vec<Class>, Vec<ClassId>) {
        let mut order: Vec<usize> = (0..self.classes.len()).collect();
        order.sort_by_key(|&id| std::cmp::Reverse(self.class_uses[id]));
        let mut ranks = vec![0; order.len()];
        for (rank, &id) in order.iter().enumerate() {
            ranks[id] = rank as ClassId;
        }
        (order.iter().map(|&id| self.classes[id].clone()).collect(), ranks)
    }

    fn route_patterns(&mut self, ranks: &[ClassId], classes: &[Class], report: &mut BuildReport) -> Vec<PatternRow> {
        let mut patterns = std::mem::take(&mut self.patterns);
        for pattern in &mut patterns {
            pattern.class = ranks[pattern.class as usize];
            let class = &classes[pattern.class as usize];
            *report.lists[usize::from(class.list)].rules.entry((class.kind, class.scope)).or_default() += 1;
            let shard = hash_text(self.staging.key(), &pattern.regex).shard(self.options.shards);
            self.shards[usize::from(shard)].patterns.push(pattern.clone());
        }
        for &list in &self.pattern_duplicates {
            report.lists[usize::from(list)].duplicates += 1;
        }
        patterns
    }

    /// Of two rules on one prefix that say the same the first one stays. Gives the number of those that stay.
    fn route_addresses(&mut self, ranks: &[ClassId], classes: &[Class], report: &mut BuildReport) -> u64 {
        let mut addresses = std::mem::take(&mut self.addresses);
        addresses.iter_mut().for_each(|address| address.class = ranks[address.class as usize]);
        // A stable sort: of two targets the one that came first stays.
        addresses.sort_by_key(|address| (address.net, address.class));
        addresses.dedup_by(|later, first| {
            let same = (later.net, later.class) == (first.net, first.class);
            if same {
                report.lists[usize::from(classes[first.class as usize].list)].duplicates += 1;
            }
            same
        });
        let kept = addresses.len() as u64;
        for address in addresses {
            let class = &classes[address.class as usize];
            *report.lists[usize::from(class.list)].rules.entry((class.kind, class.scope)).or_default() += 1;
            let shard = hash_text(self.staging.key(), &source_text(&address.net)).shard(self.options.shards);
            self.shards[usize::from(shard)].addresses.push(address);
        }
        kept
    }

    /// Of two rewrites of one source in one list the first one stays.
    fn route_rewrites(&mut self, report: &mut BuildReport) -> Result<u64, StoreError> {
        let mut first: BTreeMap<(ListId, String), IpRewrite> = BTreeMap::new();
        for rewrite in std::mem::take(&mut self.rewrites) {
            let list = report.lists.get_mut(usize::from(rewrite.list)).ok_or_else(|| StoreError::Bounds {
                what: format!("a rewrite of list {}, which was never added", rewrite.list),
                remedy: "report this as a bug of the list's reader",
            })?;
            match first.entry((rewrite.list, source_text(&rewrite.from))) {
                std::collections::btree_map::Entry::Occupied(_) => list.duplicates += 1,
                std::collections::btree_map::Entry::Vacant(place) => {
                    list.ip_rewrites += 1;
                    place.insert(rewrite);
                }
            }
        }
        for ((_, source), rewrite) in &first {
            let shard = hash_text(self.staging.key(), source).shard(self.options.shards);
            self.shards[usize::from(shard)].rewrites.push(*rewrite);
        }
        Ok(first.len() as u64)
    }
}

fn count(report: &mut BuildReport, classes: &[Class], tally: &Tally, files: &[FileEntry]) {
    for (class, (kept, duplicates)) in classes.iter().zip(tally.kept.iter().zip(&tally.duplicates)) {
        let list = &mut report.lists[usize::from(class.list)];
        if *kept > 0 {
            *list.rules.entry((class.kind, class.scope)).or_default() += kept;
        }
        list.duplicates += duplicates;
    }
    report.rules = report.lists.iter().flat_map(|list| list.rules.values()).sum();
    report.duplicates = report.lists.iter().map(|list| list.duplicates).sum();
    let (filters, shards): (Vec<_>, Vec<_>) = files.iter().partition(|file| file.name.ends_with(".filter"));
    report.shard_bytes = shards.iter().map(|file| file.size).collect();
    report.filter_bytes = filters.iter().map(|file| file.size).sum();
}

fn list_entries(lists: &[List], report: &BuildReport) -> Vec<ListEntry> {
    let entry = |(list, counts): (&List, &ListReport)| ListEntry {
        name: list.name.clone(),
        category: list.category.clone(),
        rules: counts.rules.values().sum(),
        duplicates: counts.duplicates,
    };
    lists.iter().zip(&report.lists).map(entry).collect()
}

/// Writes all shards on `threads` threads; gives their files in the order of the shards.
fn write_shards(
    shards: Vec<ShardRules>,
    common: &Common<'_>,
    threads: usize,
    progress: &mut dyn FnMut(u64),
) -> Result<(Vec<FileEntry>, Tally), StoreError> {
    let mut tally = Tally::new(common.classes.len());
    let tallies = Mutex::new(&mut tally);
    let write = |(shard, rules): (usize, ShardRules), said: &mut dyn FnMut(u64)| {
        let mut own = Tally::new(common.classes.len());
        let files = rules.write(shard as u16, common, &mut own, said)?;
        tallies.lock().unwrap_or_else(PoisonError::into_inner).add(&own);
        Ok((shard, files))
    };
    let mut files = in_parallel(shards.into_iter().enumerate().collect(), threads, write, progress)?;
    files.sort_unstable_by_key(|(shard, _)| *shard);
    Ok((files.into_iter().flat_map(|(_, files)| files).collect(), tally))
}

fn sync_files(paths: Vec<PathBuf>, threads: usize, progress: &mut dyn FnMut(u64)) -> Result<(), StoreError> {
    let sync = |path: PathBuf, said: &mut dyn FnMut(u64)| {
        sync_file(&path)?;
        said(1);
        Ok(())
    };
    in_parallel(paths, threads, sync, progress).map(|_| ())
}

/// Runs `work` on each job, on several threads; the first failure ends it. `progress` hears the sum of what the jobs said,
/// on the calling thread.
fn in_parallel<Job: Send, Done: Send>(
    jobs: Vec<Job>,
    threads: usize,
    work: impl Fn(Job, &mut dyn FnMut(u64)) -> Result<Done, StoreError> + Sync,
    progress: &mut dyn FnMut(u64),
) -> Result<Vec<Done>, StoreError> {
    let failed = AtomicBool::new(false);
    let jobs = Mutex::new(jobs.into_iter());
    let (say, heard) = mpsc::sync_channel::<u64>(PROGRESS_MESSAGES_MAX);
    let run = |say: mpsc::SyncSender<u64>| -> Result<Vec<Done>, StoreError> {
        let mut done = Vec::new();
        while !failed.load(Ordering::Relaxed) {
            let Some(job) = jobs.lock().unwrap_or_else(PoisonError::into_inner).next() else { break };
            // The listener goes away only after all threads have ended.
            let result = work(job, &mut |amount| {
                let _ = say.send(amount);
            });
            done.push(result.inspect_err(|_| failed.store(true, Ordering::Relaxed))?);
        }
        Ok(done)
    };
    thread::scope(|scope| {
        let run = &run;
        let spawn = |say: mpsc::SyncSender<u64>| scope.spawn(move || run(say));
        let workers: Vec<_> = (0..threads).map(|_| spawn(say.clone())).collect();
        drop(say);
        let mut sum = 0;
        for amount in heard {
            sum += amount;
            progress(sum);
        }
        let mut all = Vec::new();
        for worker in workers {
            match worker.join() {
                Ok(done) => all.extend(done?),
                Err(panic) => std::panic::resume_unwind(panic),
            }
        }
        Ok(all)
    })
}

/// A generation on the disk that no server reads yet. Dropped without [`Built::publish`], it is removed.
pub struct Built {
    /// The number that it will have.
    pub number: u64,
    /// Its patterns, to be compiled into a sidecar; index is the pattern's id.
    pub patterns: Vec<PatternRow>,
    /// What was built.
    pub report: BuildReport,
    manifest: Manifest,
    staging: Staging,
}

impl Built {
    /// Writes a further file beside the shards, to be read by [`crate::publish::Generation::sidecar`].
    pub fn add_sidecar(&mut self, name: &str, bytes: &[u8]) -> Result<(), StoreError> {
        let plain = !name.is_empty()
            && name.bytes().all(|octet| octet.is_ascii_alphanumeric() || b"._-".contains(&octet))
            && !name.starts_with('.');
        if !plain || name == MANIFEST_NAME || self.manifest.file(name).is_some() {
            return Err(StoreError::Bounds {
                what: format!("a file called `{name}` in a generation"),
                remedy: "choose a new name of letters, digits, dots, dashes and underscores",
            });
        }
        write_durably(&self.staging.dir.join(name), bytes)?;
        self.manifest.files.push(FileEntry::of_bytes(name, bytes));
        Ok(())
    }

    /// Opens and verifies what was built and gives it its number. Nobody serves it until it is published.
    pub fn seal(self) -> Result<Sealed, StoreError> {
        let text = self.manifest.to_text()?;
        write_durably(&self.staging.dir.join(MANIFEST_NAME), text.as_bytes())?;
        self.staging.seal()
    }

    /// Opens and verifies what was built, then makes it the current generation. On failure the old one stays.
    pub fn publish(self) -> Result<u64, StoreError> {
        self.seal()?.publish()
    }
}
