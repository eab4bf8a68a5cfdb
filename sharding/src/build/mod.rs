//! From rules in any order to a generation ready to be published.
//!
//! ```text
//! Collector (one a thread) ─ sorted runs ─┐
//! Collector ──────────────── sorted runs ─┼─ merge, a shard at a time ─ rows, filter ─ Built ─ publish
//! Builder: patterns ──────────────────────┘
//! ```
//!
//! Rules go into [`Collector`]s, which write sorted runs to the disk when their share of the memory is full; [`Builder::finish`]
//! merges the runs shard by shard, and [`Built::publish`] makes the result the current generation. Invariants: until `publish` has
//! returned nothing that a server reads has changed; a [`Builder`] or [`Built`] that is dropped leaves nothing behind; the same lists give
//! the same bytes, however many threads, parts and bytes of memory there were, and whether the build was killed in between.

mod built;
mod codec;
mod collector;
mod compose;
mod journal;
mod memory;
mod merge;
mod report;
mod resume;
mod run;
mod shards;
mod sort;
mod workspace;

use std::collections::hash_map::Entry;
use std::collections::{BTreeMap, HashMap, HashSet};
use std::path::PathBuf;
use std::sync::Arc;
use std::thread;
use std::time::{SystemTime, UNIX_EPOCH};

pub use self::built::Built;
pub use self::collector::Collector;
use self::compose::{Classes, Order, Parts, Scattered};
use self::journal::{Header, Journal, ShardRecord};
use self::memory::Memory;
use self::merge::Runs;
pub use self::report::{BuildReport, ListReport};
pub use self::resume::Resumed;
use self::run::{READER_BYTES, RunFile, WRITER_BYTES};
use self::shards::{Writing, Written};
use self::workspace::Workspace;
use crate::StoreError;
use crate::filter::is_filter_bits;
use crate::generation::PatternRow;
use crate::manifest::{FILTER_BITS_DEFAULT, Layout, Manifest, key_check};
use crate::packed::{CodeMaker, PackedCode};
use crate::publish::{Staging, Store};
use crate::route::{SubtreeDepths, WholeHasher};
use crate::rule::{Class, ClassId, IpRewrite, Kind, List, ListId, Rule, RuleKey, Scope};
use crate::schema::FORMAT_VERSION;
use crate::shard_file::{Common, SHARD_FILE_BYTES};

/// Shards of one generation: each worker holds a connection to each.
pub const SHARDS_MAX: u16 = 4_096;
/// Shards when nothing else is said.
pub const SHARDS_DEFAULT: u16 = 16;
/// Lists of one generation, bounded by their 16-bit number; the last number is the build's own.
pub const LISTS_MAX: usize = ListId::MAX as usize;
/// Classes of one generation: each shard has a copy, and a list that needs a class per rule is better refused than served.
pub const CLASSES_MAX: usize = 1 << 20;
/// Rules of the largest store that has places when nothing else is said: 6 GB of shards and 2 GB of places. What is larger is rarely
/// all in memory, and without that nobody reads the places.
pub const PLACES_RULES_MAX: u64 = 200_000_000;
/// Threads that write shards.
const THREADS_MAX: usize = 64;
/// Bytes of memory for a build when nothing else is said.
pub const MEMORY_BYTES_DEFAULT: u64 = 1 << 30;
/// Bytes that filters get at least, whatever else was said: enough for half a million rules in one shard.
const FILTER_BYTES_MIN: u64 = 16 << 20;
/// Buffers of one thread that merges: enough for a hundred runs at once.
const MERGE_BYTES_MAX: u64 = 128 * READER_BYTES;

/// How to build.
#[derive(Clone, Debug)]
pub struct BuildOptions {
    /// Shards, 1 to [`SHARDS_MAX`].
    pub shards: u16,
    /// Threads that read lists, each with a collector, and then write shards; none means one a core.
    pub threads: Option<usize>,
    /// How the rules by name lie in the shards.
    pub layout: Layout,
    /// Bits of a fingerprint in the filters, 8 or 16.
    pub filter_bits: u8,
    /// Whether the places of all rows are written, for a server that has the store in memory; none: in the layout `sql` of up to
    /// [`PLACES_RULES_MAX`] rules.
    pub places: Option<bool>,
    /// Bytes of memory that the build may take. Patterns, rules on addresses and classes come on top; they are few.
    pub memory_bytes: u64,
    /// What tells this build's lists and options from another's, such as their paths, sizes and times. Empty: nothing does, so
    /// that nobody can go on with this build, and nothing is made durable before its end.
    pub identity: Vec<u8>,
    /// Go on with a build that was killed, if there is one of the same identity and options.
    pub resume: bool,
    /// The last entry of the overlay that is among the rules; 0 when none is.
    pub overlay_seq: u64,
}

impl Default for BuildOptions {
    fn default() -> Self {
        Self {
            shards: SHARDS_DEFAULT,
            threads: None,
            layout: Layout::default(),
            filter_bits: FILTER_BITS_DEFAULT,
            places: None,
            memory_bytes: MEMORY_BYTES_DEFAULT,
            identity: Vec::new(),
            resume: false,
            overlay_seq: 0,
        }
    }
}

impl BuildOptions {
    fn threads(&self) -> usize {
        let threads = self.threads.or_else(|| thread::available_parallelism().ok().map(usize::from));
        threads.unwrap_or(1).clamp(1, THREADS_MAX)
    }

    /// What collectors may hold together: all but what each needs to write a run.
    fn collect_bytes(&self) -> u64 {
        self.memory_bytes.saturating_sub(self.threads() as u64 * WRITER_BYTES).max(self.memory_bytes / 4)
    }

    /// Buffers of each thread that merges.
    fn merge_bytes(&self) -> u64 {
        (self.memory_bytes / 8 / self.threads() as u64).min(MERGE_BYTES_MAX)
    }

    /// What is left for hashes and filters while shards are written.
    fn filter_bytes(&self) -> u64 {
        let threads = self.threads() as u64 * (self.merge_bytes() + SHARD_FILE_BYTES + WRITER_BYTES);
        self.memory_bytes.saturating_sub(threads).max(FILTER_BYTES_MIN)
    }

    fn header(&self, store: &Store) -> Header {
        Header {
            key_check: key_check(store.key()),
            identity: self.identity.clone(),
            shards: self.shards,
            layout: self.layout.word().to_owned(),
            filter_bits: self.filter_bits,
            places: self.places,
            overlay_seq: self.overlay_seq,
        }
    }

    /// Whether places are written for so many rules.
    pub fn has_places(&self, rules: u64) -> bool {
        self.layout == Layout::Sql && self.places.unwrap_or(rules <= PLACES_RULES_MAX)
    }
}

/// What [`Builder::finish`] is at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BuildStage {
    /// Merging and writing, counted in rules.
    Write,
    /// Making durable, counted in files; most are by the time that the last shard is written.
    Sync,
}

/// A part of a list that is read by one thread: a list as a whole, or a piece of it, numbered in their order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PartId {
    /// Of which list.
    pub list: ListId,
    /// Which of its parts, from 0.
    pub part: u32,
}

impl PartId {
    /// Behind all others: what was pushed into the [`Builder`] itself.
    const LAST: PartId = PartId { list: ListId::MAX, part: u32::MAX };
}

/// Takes rules and writes a generation.
pub struct Builder {
    options: BuildOptions,
    lists: Vec<List>,
    workspace: Arc<Workspace>,
    /// Rules by name and address that come without a collector of their own.
    own: Option<Collector>,
    /// Rules pushed here, patterns among them.
    order: u64,
    patterns: Vec<PatternRow>,
    patterns_seen: HashSet<(ClassId, String)>,
    pattern_duplicates: Vec<ListId>,
    /// Classes of patterns, with their uses and where they first came.
    pattern_classes: Vec<(Class, u64, Order)>,
    pattern_class_ids: HashMap<Class, ClassId>,
    resumed: Resumed,
    finished_shards: Vec<ShardRecord>,
    staging: Staging,
}

impl Builder {
    /// Starts a build, or goes on with one that was killed when the options say so ([`Builder::resumed`] tells which). Fails when
    /// another one is writing to the store; removes what killed ones left.
    pub fn new(store: &Store, options: BuildOptions) -> Result<Builder, StoreError> {
        if !(1..=SHARDS_MAX).contains(&options.shards) {
            return Err(StoreError::Bounds {
                what: format!("{} shards", options.shards),
                remedy: "choose between 1 and 4096 shards",
            });
        }
        if !is_filter_bits(options.filter_bits) {
            return Err(StoreError::Bounds {
                what: format!("{} bits a fingerprint", options.filter_bits),
                remedy: "choose 8 or 16 bits",
            });
        }
        if options.places == Some(true) && options.layout != Layout::Sql {
            return Err(StoreError::Bounds {
                what: format!("places in the layout {}", options.layout.word()),
                remedy: "choose the layout sql, or leave the places out: a packed row is not read without SQLite",
            });
        }
        let resumable = !options.identity.is_empty();
        let header = options.header(store);
        let mut resumed = match (options.resume, resumable) {
            (false, _) => Resumed::NotAsked,
            (true, false) => Resumed::Anew("nothing tells this build from others"),
            (true, true) => Resumed::Anew("no killed build has left anything"),
        };
        let (staging, leftover) = Staging::begin(store, |root| {
            if !options.resume || !resumable {
                return None;
            }
            let taken = resume::take_over(root, &header);
            taken.inspect_err(|reason| resumed = Resumed::Anew(reason)).ok()
        })?;
        let hasher = WholeHasher::new(store.key());
        let (collect_bytes, threads) = (options.collect_bytes(), options.threads());
        let mut workspace =
            Workspace::new(staging.root.clone(), options.layout, options.shards, hasher, collect_bytes, threads);
        let mut finished_shards = Vec::new();
        if let Some(leftover) = leftover {
            resumed = leftover.resumed();
            finished_shards = leftover.shards;
            workspace.resume(leftover.journal, leftover.runs, leftover.next_run, leftover.next_part);
        } else if resumable {
            let journal = Journal::create(&staging.root.join(resume::JOURNAL), header)?;
            staging.sync()?;
            workspace.resume(journal, Vec::new(), 0, 0);
        }
        Ok(Builder {
            options,
            lists: Vec::new(),
            workspace: Arc::new(workspace),
            own: None,
            order: 0,
            patterns: Vec::new(),
            patterns_seen: HashSet::new(),
            pattern_duplicates: Vec::new(),
            pattern_classes: Vec::new(),
            pattern_class_ids: HashMap::new(),
            resumed,
            finished_shards,
            staging,
        })
    }

    /// Adds a list; its rules carry the id that comes back.
    pub fn list(&mut self, list: List) -> Result<ListId, StoreError> {
        let id = self.lists.len();
        if id == LISTS_MAX {
            return Err(StoreError::Bounds {
                what: format!("more than {LISTS_MAX} lists"),
                remedy: "join some of them into one",
            });
        }
        self.lists.push(list);
        Ok(id as ListId)
    }

    /// What takes the rules of one thread. All lists are added before the first one is made.
    pub fn collector(&self) -> Collector {
        Collector::new(self.workspace.clone(), self.lists.len(), true)
    }

    /// Whether this build goes on with one that was killed.
    pub fn resumed(&self) -> &Resumed {
        &self.resumed
    }

    /// The parts that a killed build had finished and that need not be read again, with their notes.
    pub fn finished_parts(&self) -> BTreeMap<PartId, Vec<u8>> {
        self.workspace
            .with_runs(|runs| runs.iter().flat_map(|run| &run.parts).map(|part| (part.id, part.note.clone())).collect())
    }

    /// Adds a rule. It fails for what no list reader produces (an unknown list, or a key that does not go with the
    /// class), and when a run cannot be written.
    pub fn push(&mut self, rule: &Rule) -> Result<(), StoreError> {
        check_rule(rule, self.lists.len())?;
        self.order += 1;
        let RuleKey::Pattern { regex, target } = &rule.key else {
            let order = self.order;
            let own = self.own();
            own.set_order(order);
            return own.push(rule);
        };
        let class = self.pattern_class(&rule.class)?;
        if self.patterns_seen.insert((class, regex.clone())) {
            let id = self.patterns.len() as u32;
            self.patterns.push(PatternRow { id, regex: regex.clone(), class, target: *target });
        } else {
            self.pattern_duplicates.push(rule.class.list);
        }
        Ok(())
    }

    /// Adds an address rewrite, both sides of which are of one family.
    pub fn rewrite(&mut self, rewrite: IpRewrite) {
        self.order += 1;
        let order = self.order;
        let own = self.own();
        own.set_order(order);
        own.rewrite(rewrite);
    }

    /// Ends the build and leaves what is finished for one that resumes it; gives the directory. None when nothing is left:
    /// without an identity nobody could go on.
    pub fn keep(mut self) -> Option<PathBuf> {
        self.workspace.resumable.then(|| self.staging.keep())
    }

    fn own(&mut self) -> &mut Collector {
        // What is pushed here has no part that a resumed build could leave out: its runs do not go into the journal.
        self.own.get_or_insert_with(|| Collector::new(self.workspace.clone(), self.lists.len(), false))
    }

    fn pattern_class(&mut self, class: &Class) -> Result<ClassId, StoreError> {
        let mut class = class.clone();
        class.condition.take_if(|condition| condition.is_empty());
        let next = self.pattern_classes.len();
        let id = match self.pattern_class_ids.entry(class) {
            Entry::Occupied(known) => *known.get(),
            Entry::Vacant(_) if next == CLASSES_MAX => return Err(too_many_classes()),
            Entry::Vacant(place) => {
                self.pattern_classes.push((place.key().clone(), 0, (Some(PartId::LAST), self.order)));
                *place.insert(next as ClassId)
            }
        };
        self.pattern_classes[id as usize].1 += 1;
        Ok(id)
    }

    /// Merges and writes everything into the build's directory and makes it durable. `progress` hears the stage, what is
    /// done, and of how much.
    ///
    /// All collectors have been finished. When the disk fails and the build has an identity, what is finished stays for a build
    /// that resumes it, and the error says so.
    pub fn finish(mut self, progress: &mut dyn FnMut(BuildStage, u64, u64)) -> Result<Built, StoreError> {
        match self.write(progress) {
            Ok((manifest, report)) => {
                let (number, is_resumable) = (self.staging.number, self.workspace.resumable);
                Ok(Built { number, patterns: self.patterns, report, manifest, is_resumable, staging: self.staging })
            }
            Err(source @ (StoreError::Io { .. } | StoreError::Sqlite { .. })) if self.workspace.resumable => {
                Err(StoreError::Unfinished { source: Box::new(source), dir: self.staging.keep() })
            }
            Err(error) => Err(error),
        }
    }

    fn write(&mut self, progress: &mut dyn FnMut(BuildStage, u64, u64)) -> Result<(Manifest, BuildReport), StoreError> {
        if let Some(mut own) = self.own.take() {
            own.end_part(PartId::LAST, Vec::new())?;
            own.finish()?;
        }
        if self.workspace.unfinished_collectors() > 0 {
            return Err(StoreError::Bounds {
                what: "a thread that read lists ended without handing its rules on".to_owned(),
                remedy: "report this as a bug of the list's reader",
            });
        }
        let mut records = self.workspace.take_runs();
        records.sort_unstable_by_key(|run| run.number);
        let parts = Parts::of(&records)?;
        let classes = Classes::rank(&records, &parts, &self.pattern_classes)?;
        for pattern in &mut self.patterns {
            pattern.class = classes.pattern_ranks[pattern.class as usize];
        }
        let mut report = self.begin_report();
        report.runs = records.len() as u64;
        report.spilled_bytes = records.iter().map(|run| run.bytes).sum();
        let rules: u64 = records.iter().map(|run| run.rules_by_name()).sum();
        let (key, shards) = (self.staging.key(), self.options.shards);
        let scattered = Scattered::route(key, shards, &mut records, &parts, &classes, &self.patterns, &mut report)?;
        let runs = Runs {
            files: records
                .iter()
                .map(|run| RunFile::open(&self.workspace.run_path(run.number)))
                .collect::<Result<_, _>>()?,
            ranks: classes.ranks.clone(),
            same_ranks: (0..classes.classes.len() as ClassId).collect(),
            parts,
            dir: self.staging.root.clone(),
            records,
        };
        let common = Common {
            generation: self.staging.number,
            layout: self.options.layout,
            filter_bits: self.options.filter_bits,
            code: self.packed_code(&runs, classes.classes.len())?,
            lists: &self.lists,
            classes: &classes.classes,
        };
        let writing = Writing {
            dir: &self.staging.dir,
            workspace: &self.workspace,
            runs: &runs,
            common: &common,
            has_places: self.options.has_places(rules),
            beside: &scattered.shards,
            digest: scattered.digest(self.staging.number, &self.lists, &classes),
            finished: &self.finished_shards,
            rules,
            threads: self.options.threads(),
            merge_bytes: self.options.merge_bytes(),
            memory: Memory::new(self.options.filter_bytes()),
        };
        let written = writing.run(progress)?;
        let (files, subtree_depths) = count(&mut report, &classes, &runs, written);
        let manifest = Manifest {
            format: FORMAT_VERSION,
            generation: self.staging.number,
            created_s: SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs()),
            shards: self.options.shards,
            key_check: key_check(key),
            rules: report.rules,
            patterns: self.patterns.len() as u64,
            addresses: scattered.addresses,
            ip_rewrites: scattered.rewrites,
            duplicates: report.duplicates,
            classes: classes.classes.len() as u64,
            layout: self.options.layout,
            filter_bits: self.options.filter_bits,
            subtree_depths,
            overlay_seq: self.options.overlay_seq,
            lists: report.list_entries(&self.lists),
            files,
        };
        Ok((manifest, report))
    }

    /// Of the layout `packed`, the code that all shards are written in: made of the names of as many of them as it takes.
    fn packed_code(&self, runs: &Runs, classes: usize) -> Result<Option<Arc<PackedCode>>, StoreError> {
        if self.options.layout != Layout::Packed {
            return Ok(None);
        }
        let (mut maker, mut duplicates) = (CodeMaker::new(), vec![0; classes]);
        for shard in 0..self.options.shards {
            if maker.has_enough() {
                break;
            }
            maker.begin_shard();
            runs.merge(shard, self.options.merge_bytes(), &mut duplicates, |key, _| match maker.add(key) {
                true => Ok(()),
                false => Err(StoreError::damaged(&self.workspace.dir, "a run holds what is no name")),
            })?;
        }
        Ok(Some(maker.finish()))
    }

    fn begin_report(&self) -> BuildReport {
        let mut report = BuildReport {
            lists: self.lists.iter().map(|list| ListReport { name: list.name.clone(), ..Default::default() }).collect(),
            ..Default::default()
        };
        for &list in &self.pattern_duplicates {
            report.lists[usize::from(list)].duplicates += 1;
        }
        if let Resumed::From { parts, .. } = self.resumed {
            report.parts_resumed = parts;
        }
        report
    }
}

/// Sums up what the runs and the shards counted; gives the files and the depths of all shards.
fn count(
    report: &mut BuildReport,
    classes: &Classes,
    runs: &Runs,
    written: Written,
) -> (Vec<crate::manifest::FileEntry>, SubtreeDepths) {
    let mut kept = vec![0; classes.classes.len()];
    let mut duplicates = vec![0; classes.classes.len()];
    for (run, ranks) in runs.records.iter().zip(&runs.ranks) {
        for (class, &rank) in run.classes.iter().zip(&**ranks) {
            duplicates[rank as usize] += class.duplicates;
        }
    }
    let mut depths = SubtreeDepths::NONE;
    let mut files = Vec::new();
    report.shards_resumed = written.resumed;
    for shard in written.shards {
        kept.iter_mut().zip(&shard.kept).for_each(|(sum, count)| *sum += count);
        duplicates.iter_mut().zip(&shard.duplicates).for_each(|(sum, count)| *sum += count);
        depths.0 |= shard.depths.0;
        files.extend(shard.files);
    }
    report.count(&classes.classes, &kept, &duplicates, &files);
    (files, depths)
}

/// Refuses a rule that no list reader produces.
fn check_rule(rule: &Rule, lists: usize) -> Result<(), StoreError> {
    let class = &rule.class;
    let (goes_with_key, target) = match &rule.key {
        RuleKey::Name { target, .. } => (!matches!(class.scope, Scope::Pattern | Scope::Address), target),
        RuleKey::Pattern { target, .. } => (class.scope == Scope::Pattern, target),
        RuleKey::Address { target, .. } => (class.scope == Scope::Address, target),
    };
    let what = if usize::from(class.list) >= lists {
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

fn too_many_classes() -> StoreError {
    StoreError::Bounds {
        what: format!("more than {CLASSES_MAX} different classes of rules"),
        remedy: "take out the list whose rules each have conditions or answers of their own",
    }
}
