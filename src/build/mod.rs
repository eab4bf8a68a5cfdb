//! From lists to a published generation: read, compile the patterns, write the shards, publish.
//!
//! ```text
//!  lists ── find $badfilter ── read ─┬─ names, rewrites ──────────────► Builder ─ finish ─ sidecars ─ publish
//!                (each thread a part) └─ patterns ─ compile (a child) ──────▲                  ▲
//!                                    └─ refused lines ──────────────────────────── refused.txt┘
//! ```
//!
//! Invariant: nothing that a server reads changes before everything has succeeded. A list that cannot be read to its end is
//! an error of the build; a line that cannot be read is not, it is reported. The same lists and options give the same
//! generation and the same report, whatever the number of threads, and in one go or resumed.

pub mod compare;
pub mod fold;
mod input;
mod part;
pub mod patterns;
mod pieces;
mod read;
mod refused;
pub mod report;
pub(crate) mod resources;
mod servers;
mod source;

use std::cmp::Reverse;
use std::collections::HashMap;
use std::fmt;
use std::io;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64};

use corewall_sharding::StoreError;
use corewall_sharding::build::{BuildOptions, BuildStage, Builder, Built, Resumed};
use corewall_sharding::manifest::{FILTER_BITS_DEFAULT, Layout};
use corewall_sharding::publish::{Sealed, Store};
use corewall_sharding::rule::{Class, List, ListId, Rule, RuleKey};

use self::compare::{Compare, Comparison};
use self::fold::Fold;
use self::input::Input;
use self::part::Said;
use self::patterns::{CompileError, Compiler, Engine, Outcome, Wanted, compile_bounded, sidecar, taken};
use self::refused::Refused;
use self::report::{ListReport, Report, Stages};
use self::source::{Gate, Watch};
use crate::config::WildcardAction;
use crate::limits;
use crate::lists::{self, Format};

/// One list to build from.
#[derive(Clone, Debug)]
pub struct ListSpec {
    /// As the generation remembers it.
    pub list: List,
    /// Its file.
    pub path: PathBuf,
    /// Its syntax.
    pub format: Format,
    /// How it is read; its number is put in by the build.
    pub options: lists::Options,
    /// What the `block_wildcard` rows of a dnsmasq-sqlite database become.
    pub wildcard_action: WildcardAction,
}

impl ListSpec {
    /// A list of this name with nothing special about it.
    pub fn new(name: &str, format: Format, path: &Path) -> Self {
        Self {
            list: List::named(name),
            path: path.to_path_buf(),
            format,
            options: lists::Options::new(0),
            wildcard_action: WildcardAction::default(),
        }
    }
}

/// How to build.
#[derive(Clone, Debug)]
pub struct Options {
    /// Shards of the generation; none leaves it to the size of the lists.
    pub shards: Option<u16>,
    /// How the rules by name lie in them.
    pub layout: Layout,
    /// Bits of a fingerprint in the filters, 8 or 16.
    pub filter_bits: u8,
    /// Whether the places of the rows are written; none leaves it to layout and size.
    pub places: Option<bool>,
    /// Bytes of memory to use; none means a quarter of the machine's.
    pub memory_bytes: Option<u64>,
    /// Threads that read lists and write shards; none means one a core.
    pub threads: Option<usize>,
    /// Go on with a build of the same lists and options that was killed or stopped.
    pub resume: bool,
    /// Where the refused lines are written; none means [`refused::FILE_NAME`] in the generation.
    pub refused: Option<PathBuf>,
    /// Which process compiles the patterns.
    pub compiler: Compiler,
    /// Bytes of the parts that lists are cut into where they may be.
    pub part_bytes: usize,
    /// Set, it ends the build ([`BuildError::Interrupted`]) before the next stage, and soon while lists are read.
    pub stop: Arc<AtomicBool>,
    /// Tell what would change against the current generation, and maybe do not publish.
    pub compare: Option<Compare>,
    /// Make what was changed by hand part of the generation.
    pub fold_overlay: bool,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            shards: None,
            layout: Layout::default(),
            filter_bits: FILTER_BITS_DEFAULT,
            places: None,
            memory_bytes: None,
            threads: None,
            resume: false,
            refused: None,
            compiler: Compiler::Child,
            part_bytes: limits::LIST_PART_BYTES,
            stop: Arc::default(),
            compare: None,
            fold_overlay: false,
        }
    }
}

/// What the build is at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Progress {
    /// Passing over lists in Adblock syntax for rules that switch off others.
    Scan,
    /// Reading lists: rules so far, and bytes of their files of all.
    Read { rules: u64, bytes: u64, of: u64 },
    /// Compiling so many patterns.
    Compile { patterns: usize },
    /// Writing shards, in rules.
    Write { done: u64, of: u64 },
    /// Making files durable.
    Sync { done: u64, of: u64 },
}

/// Why nothing was published.
#[derive(Debug)]
pub enum BuildError {
    /// No list to build from.
    NoLists,
    /// A list cannot be read to its end.
    List {
        /// Its name.
        list: String,
        /// Its file.
        path: PathBuf,
        /// Why.
        source: io::Error,
        /// Bytes of its text, unpacked, that were read before.
        behind: Option<u64>,
    },
    /// A file that is something else than a list.
    NoList {
        /// The list's name.
        list: String,
        /// Its file.
        path: PathBuf,
        /// What it is, and what to do.
        what: &'static str,
    },
    /// A list has changed since the build began.
    Changed {
        /// Its name.
        list: String,
        /// Its file.
        path: PathBuf,
    },
    /// A database cannot be read.
    Database {
        /// Its list.
        list: String,
        /// Why.
        source: Box<StoreError>,
    },
    /// The store cannot be written.
    Store(Box<StoreError>),
    /// The patterns cannot be compiled.
    Patterns(CompileError),
    /// The file of refused lines cannot be written.
    Refused {
        /// That file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The operator has ended the build.
    Interrupted,
    /// A rule that was folded in has been removed or changed by hand since.
    FoldChanged,
    /// What a killed build has kept of a part cannot be read.
    Note,
    /// The store has not numbered the patterns in the order in which it was given them: a mistake in this program.
    PatternsMixedUp,
}

impl fmt::Display for BuildError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoLists => f.write_str("no list to build from; add [[list]] to the configuration, or use --list"),
            Self::List { list, path, source, behind } => {
                write!(f, "{}: cannot read list `{list}`", path.display())?;
                if let Some(bytes) = behind.filter(|bytes| *bytes > 0) {
                    write!(f, " behind byte {bytes} of its text")?;
                }
                write!(f, ": {source}; check the path, and fetch the file again if it is damaged")
            }
            Self::NoList { list, path, what } => write!(f, "{}: cannot read list `{list}`: {what}", path.display()),
            Self::Changed { list, path } => write!(
                f,
                "{}: list `{list}` has changed while it was read; build again when it is whole, and have it replaced by a \
                 rename, not written in place",
                path.display()
            ),
            Self::Database { list, source } => write!(f, "list `{list}`: {source}"),
            Self::Store(error) if error.is_no_room() => write!(
                f,
                "{error}; there is no room left; make some on the store's disk, then the same command with --resume goes on"
            ),
            Self::Store(error) => error.fmt(f),
            Self::Patterns(error) => error.fmt(f),
            Self::Refused { path, source } => {
                write!(
                    f,
                    "{}: cannot write the refused lines: {source}; name another file by --refused",
                    path.display()
                )
            }
            Self::Interrupted => f.write_str(
                "the build was interrupted and nothing was published; the same command with --resume goes on with it",
            ),
            Self::FoldChanged => f.write_str(
                "a live rule that is folded in was removed or changed while the build ran, and nothing was published; build \
                 again, or without --fold-overlay",
            ),
            Self::Note => f.write_str("what the last build has left is damaged; build without --resume"),
            Self::PatternsMixedUp => f.write_str("the store has mixed up the patterns; report this as a bug"),
        }
    }
}

impl std::error::Error for BuildError {}

impl BuildError {
    /// Whether it says that one list is bad; then lists before it may be bad as well.
    fn is_of_a_list(&self) -> bool {
        matches!(self, Self::List { .. } | Self::NoList { .. } | Self::Changed { .. } | Self::Database { .. })
    }
}

impl From<StoreError> for BuildError {
    fn from(error: StoreError) -> Self {
        Self::Store(Box::new(error))
    }
}

/// Builds a generation of the store in `dir`, which is made when there is none, and publishes it.
///
/// # Errors
/// A list cannot be read, the patterns cannot be compiled, or the store cannot be written. Then nothing has changed. What goes
/// wrong after the publication is a warning of the report.
pub fn run(
    specs: &[ListSpec],
    dir: &Path,
    options: &Options,
    progress: &mut dyn FnMut(Progress),
) -> Result<Report, BuildError> {
    let mut stages = Stages::start();
    if specs.is_empty() {
        return Err(BuildError::NoLists);
    }
    // All are opened before the first is read: a slip in the last path should not cost a minute.
    for (spec, id) in specs.iter().zip(0..) {
        Input::open(id, spec)?;
    }
    let store = Store::create_or_open(dir)?;
    // Behind the lists that are read are those that only the overlay has.
    let mut all = specs.to_vec();
    let fold = options.fold_overlay.then(|| Fold::read(&store, &mut all)).transpose()?;
    let (from_files, from_overlay) = all.split_at(specs.len());
    let mut inputs =
        from_files.iter().zip(0..).map(|(spec, id)| Input::open(id, spec)).collect::<Result<Vec<_>, _>>()?;
    inputs.extend(from_overlay.iter().zip(specs.len() as ListId..).map(|(spec, id)| Input::of_overlay(id, spec)));
    let (inputs_read, _) = inputs.split_at(specs.len());
    let mut build = Build::start(&store, &inputs, inputs_read, options, fold.map(Arc::new))?;
    stages.end("prepare");
    // What is finished stays for a build that goes on.
    let patterns = match build.prepare(&inputs, inputs_read, options, &mut stages, progress) {
        Ok(patterns) => patterns,
        Err(error) => {
            build.builder.keep();
            return Err(error);
        }
    };
    let mut is_writing = true;
    let mut built = build.builder.finish(&mut |stage, done, of| {
        if is_writing && stage == BuildStage::Sync {
            is_writing = false;
            stages.end("write");
        }
        progress(match stage {
            BuildStage::Write => Progress::Write { done, of },
            BuildStage::Sync => Progress::Sync { done, of },
        });
    })?;
    stages.end("sync");
    let refused = std::mem::take(&mut build.refused);
    let is_stopped = build.watch.gate.is_stopped();
    let completed = if is_stopped { Err(BuildError::Interrupted) } else { patterns.attach(&mut built) };
    let refused_file = match completed.and_then(|()| refused.save(&mut built, &store, options.refused.as_deref())) {
        Ok(file) => file,
        Err(error) => {
            built.keep();
            return Err(error);
        }
    };
    if let Some(fold) = &build.fold
        && !fold.still_holds(&store)?
    {
        return Err(BuildError::FoldChanged);
    }
    let report = built.report.clone();
    // Asked while the store's lock is held. A symlink that leads nowhere is what this build is about to replace.
    let previous = store.current_number().ok().flatten();
    let sealed = built.seal()?;
    let (comparison, warning) = compare(&store, &sealed, previous, options.compare.as_ref());
    let is_held_back = match &comparison {
        Some(comparison) => comparison.is_too_much(),
        // What was to be looked at before it is published, and cannot be, is not published unseen.
        None => warning.is_some() && options.compare.as_ref().is_some_and(|compare| compare.max_new_blocks.is_some()),
    };
    let generation = sealed.number();
    if !is_held_back {
        sealed.publish()?;
    }
    stages.end("publish");
    let folded = build.fold.as_ref().map(|fold| fold.report(build.left_out));
    let mut report = Report::new(generation, report, build.reports, patterns.counts(), refused_file, stages);
    report.folded = folded;
    report.layout = options.layout;
    report.resumed_parts = build.resumed_parts;
    report.warnings = build.warnings;
    report.published = !is_held_back;
    report.comparison = comparison;
    report.warnings.extend(warning);
    report.warnings.extend(remove_old(&store, generation, previous));
    Ok(report)
}

/// What the finished generation would change; none when there is nothing to compare with. Also why it cannot be told.
fn compare(
    store: &Store,
    sealed: &Sealed,
    current: Option<u64>,
    compare: Option<&Compare>,
) -> (Option<Comparison>, Option<String>) {
    let (Some(compare), Some(current)) = (compare, current) else { return (None, None) };
    let opened = store.generation(current).and_then(|old| Ok((old, sealed.open()?)));
    let compared = opened.map_err(|error| error.to_string()).and_then(|(old, new)| compare.run(store, old, new));
    match compared {
        Ok(comparison) => (Some(comparison), None),
        Err(reason) => (None, Some(format!("what it changes against generation {current} cannot be told: {reason}"))),
    }
}

/// What must be the same for a build to go on with one that was killed: lists and options. Memory and threads may differ, for
/// nothing depends on them.
fn identity(inputs: &[Input<'_>], options: &Options, shards: u16, fold: Option<&Fold>) -> Vec<u8> {
    let Options { layout, filter_bits, part_bytes, .. } = options;
    let version = env!("CARGO_PKG_VERSION");
    let mut text = format!("{version} {shards} {layout:?} {filter_bits} {part_bytes}\n");
    for Input { spec, state, .. } in inputs {
        text += &format!("{spec:?} {} {:?}\n", state.bytes, state.modified);
    }
    if let Some(fold) = fold {
        text += &format!("{} {:x}\n", fold.overlay_seq(), fold.fingerprint());
    }
    text.into_bytes()
}

/// Generations past [`limits::GENERATIONS_KEPT`] go, and what could not be removed is told: the new one is in use by then.
/// A server that still reads one keeps its open files.
///
/// The previous one, which was current until now, is always among those kept. After a roll-back it is the one that is known
/// to be good, though newer ones lie beside it. So is the one that a roll-back leads to: when the newest was not published, that
/// is another one.
fn remove_old(store: &Store, newest: u64, previous: Option<u64>) -> Vec<String> {
    let still_there = |error: StoreError| format!("an old generation is still there: {error}");
    let mut old = match store.numbers() {
        Ok(numbers) => numbers,
        Err(error) => return vec![still_there(error)],
    };
    old.retain(|&number| number < newest);
    let before = store.number_before().ok().flatten();
    // The previous one first, then the one before, then from the newest to the oldest.
    old.sort_unstable_by_key(|&number| (Some(number) != previous, Some(number) != before, Reverse(number)));
    let removed = old.iter().skip(limits::GENERATIONS_KEPT - 1).map(|&number| store.remove(number));
    removed.filter_map(Result::err).map(still_there).collect()
}

/// A pattern rule on its way into the store, with where it came from for when it is refused.
struct PatternRule {
    rule: Rule,
    input: usize,
    place: String,
    /// Among those that differ in class or expression: the store numbers these.
    number: usize,
}

/// The patterns that were taken.
struct Patterns {
    /// In the order in which the store was given them.
    regexes: Vec<String>,
    engines: Vec<Engine>,
    sidecar: Vec<u8>,
}

impl Patterns {
    fn attach(&self, built: &mut Built) -> Result<(), BuildError> {
        // Compiled patterns carry their number alone: one out of place would block other names than it says.
        if !built.patterns.iter().map(|row| &row.regex).eq(&self.regexes) {
            return Err(BuildError::PatternsMixedUp);
        }
        if !self.regexes.is_empty() {
            built.add_sidecar(sidecar::FILE_NAME, &self.sidecar)?;
        }
        Ok(())
    }

    fn counts(&self) -> report::PatternCounts {
        let of = |engine| self.engines.iter().filter(|&&of| of == engine).count();
        report::PatternCounts { plain: of(Engine::Plain), confirmed: of(Engine::Confirmed) }
    }
}

/// A build under way.
struct Build {
    builder: Builder,
    reports: Vec<ListReport>,
    refused: Refused,
    patterns: Vec<PatternRule>,
    threads: usize,
    watch: Watch,
    /// Parts of lists that a killed build had finished.
    resumed_parts: u64,
    /// What the report is to tell beside what was built.
    warnings: Vec<String>,
    /// What was changed by hand; none when it stays live.
    fold: Option<Arc<Fold>>,
    /// Rules and rewrites of lists that were voided by hand.
    left_out: u64,
}

impl Build {
    /// Of all `inputs` those that are read, and what was changed by hand.
    fn start(
        store: &Store,
        inputs: &[Input<'_>],
        inputs_read: &[Input<'_>],
        options: &Options,
        fold: Option<Arc<Fold>>,
    ) -> Result<Build, BuildError> {
        let threads = options.threads.unwrap_or_else(resources::threads).clamp(1, limits::BUILD_THREADS_MAX);
        let shards = options.shards.unwrap_or_else(|| resources::shards(inputs_read));
        let memory_bytes = options.memory_bytes.unwrap_or_else(resources::memory_bytes);
        // Those who read hold a part each and cut the next one meanwhile; what is refused is in memory too.
        let own_bytes = (2 * threads * options.part_bytes + limits::REFUSED_FILE_BYTES_MAX) as u64;
        let mut builder = Builder::new(
            store,
            BuildOptions {
                shards,
                threads: Some(threads),
                layout: options.layout,
                filter_bits: options.filter_bits,
                places: options.places,
                memory_bytes: memory_bytes.saturating_sub(own_bytes).max(memory_bytes / 2),
                resume: options.resume,
                identity: identity(inputs_read, options, shards, fold.as_deref()),
                overlay_seq: fold.as_ref().map_or(0, |fold| fold.overlay_seq()),
            },
        )?;
        for input in inputs {
            builder.list(input.spec.list.clone())?;
        }
        let warnings = match builder.resumed() {
            Resumed::Anew(why) => vec![format!("--resume: the build began anew: {why}")],
            Resumed::NotAsked | Resumed::From { .. } => Vec::new(),
        };
        Ok(Build {
            builder,
            reports: inputs.iter().map(|input| ListReport::new(input.spec)).collect(),
            refused: Refused::default(),
            patterns: Vec::new(),
            threads,
            watch: Watch { gate: Arc::new(Gate::new(options.stop.clone())), bytes: Arc::new(AtomicU64::new(0)) },
            resumed_parts: 0,
            warnings,
            fold,
            left_out: 0,
        })
    }

    fn check_stop(&self) -> Result<(), BuildError> {
        if self.watch.gate.is_stopped() { Err(BuildError::Interrupted) } else { Ok(()) }
    }

    /// All that comes before the shards are written.
    fn prepare(
        &mut self,
        inputs: &[Input<'_>],
        inputs_read: &[Input<'_>],
        options: &Options,
        stages: &mut Stages,
        progress: &mut dyn FnMut(Progress),
    ) -> Result<Patterns, BuildError> {
        self.read_lists(inputs_read, options, stages, progress)?;
        self.fold_in()?;
        let patterns = self.compile_patterns(inputs, options.compiler, progress)?;
        stages.end("compile");
        self.check_stop()?;
        Ok(patterns)
    }

    fn read_lists(
        &mut self,
        inputs: &[Input<'_>],
        options: &Options,
        stages: &mut Stages,
        progress: &mut dyn FnMut(Progress),
    ) -> Result<(), BuildError> {
        let finished = self.builder.finished_parts();
        self.resumed_parts = finished.len() as u64;
        progress(Progress::Scan);
        let mut scan = read::scan(inputs, self.threads, &self.watch)?;
        scan.fold = self.fold.clone();
        stages.end("scan");
        // The scan has read some of them as well.
        self.watch.bytes = Arc::default();
        let of = inputs.iter().map(|input| input.state.bytes).sum();
        let collectors = (0..self.threads).map(|_| self.builder.collector()).collect();
        let said = read::read(inputs, &scan, collectors, finished, options.part_bytes, &self.watch, &mut |read| {
            progress(Progress::Read { rules: read.rules, bytes: read.bytes.min(of), of });
        })?;
        self.take(said, inputs);
        stages.end("read");
        self.check_stop()
    }

    /// Takes over what the lists have said, in their order.
    fn take(&mut self, mut said: Said, inputs: &[Input<'_>]) {
        for (report, sum) in self.reports.iter_mut().zip(std::mem::take(&mut said.lists)) {
            report.take_counts(&sum.counts);
            report.refused = sum.refused_for.values().sum();
            report.refused_for = sum.refused_for;
        }
        self.left_out = said.left_out;
        for (id, kept) in said.into_parts() {
            let place = usize::from(id.list);
            let (Some(report), Some(input)) = (self.reports.get_mut(place), inputs.get(place)) else { continue };
            let room = limits::REFUSED_SHOWN_MAX - report.first_refused.len();
            report.first_refused.extend(kept.first_refused.into_iter().take(room));
            self.refused.add_part(&input.spec.path, &kept.refused_lines, kept.refused);
            let rule =
                |part::PatternRule { rule, place: line }| PatternRule { rule, input: place, place: line, number: 0 };
            self.patterns.extend(kept.patterns.into_iter().map(rule));
        }
    }

    /// Adds the rules that were added by hand.
    fn fold_in(&mut self) -> Result<(), BuildError> {
        let Some(fold) = &self.fold else { return Ok(()) };
        for rule in fold.rules() {
            let input = usize::from(rule.class.list);
            match rule.key {
                RuleKey::Name { .. } | RuleKey::Address { .. } => self.builder.push(rule)?,
                RuleKey::Pattern { .. } => {
                    let place = "live rule".to_owned();
                    self.patterns.push(PatternRule { rule: rule.clone(), input, place, number: 0 });
                }
            }
        }
        fold.rewrites().iter().for_each(|&rewrite| self.builder.rewrite(rewrite));
        // The patterns of each list stay next to each other.
        self.patterns.sort_by_key(|pattern| pattern.input);
        Ok(())
    }

    /// Compiles the patterns of all lists and gives those that were taken to the store.
    fn compile_patterns(
        &mut self,
        inputs: &[Input<'_>],
        compiler: Compiler,
        progress: &mut dyn FnMut(Progress),
    ) -> Result<Patterns, BuildError> {
        let mut rules = std::mem::take(&mut self.patterns);
        let (wanted, lists) = number_patterns(&mut rules, inputs);
        if wanted.is_empty() {
            return Ok(Patterns { regexes: Vec::new(), engines: Vec::new(), sidecar: Vec::new() });
        }
        progress(Progress::Compile { patterns: wanted.len() });
        let compiled = compile_bounded(&wanted, &lists, compiler).map_err(BuildError::Patterns)?;
        for PatternRule { rule, input, place, number } in &rules {
            match &compiled.outcomes[*number] {
                Outcome::Taken(_) => self.builder.push(rule)?,
                Outcome::Refused(reason) => {
                    let report = &mut self.reports[*input];
                    self.refused.add(report, &inputs[*input].spec.path, place, &wanted[*number].regex, reason);
                }
            }
        }
        let engines = compiled.outcomes.iter().filter_map(|outcome| match outcome {
            Outcome::Taken(engine) => Some(*engine),
            Outcome::Refused(_) => None,
        });
        let regexes = taken(&wanted, &compiled.outcomes).into_iter().map(str::to_owned).collect();
        Ok(Patterns { regexes, engines: engines.collect(), sidecar: compiled.sidecar })
    }
}

/// Numbers the patterns as the store will: each pair of class and expression gets the next number when it comes first. Also
/// tells which numbers each list has.
fn number_patterns(rules: &mut [PatternRule], inputs: &[Input<'_>]) -> (Vec<Wanted>, Vec<Range<usize>>) {
    let mut wanted = Vec::new();
    let mut lists = vec![0..0; inputs.len()];
    let mut numbers: HashMap<(Class, String), usize> = HashMap::new();
    for pattern in rules {
        let RuleKey::Pattern { regex, .. } = &pattern.rule.key else { continue };
        let mut class = pattern.rule.class.clone();
        class.condition.take_if(|condition| condition.is_empty());
        pattern.number = *numbers.entry((class, regex.clone())).or_insert_with(|| {
            let spec = inputs[pattern.input].spec;
            // A database is taken over as it stands: its owner has lived with such a pattern.
            let may_match_empty = spec.options.allow_wide || spec.format == Format::DnsmasqSqlite;
            wanted.push(Wanted { regex: regex.clone(), may_match_empty });
            let number = wanted.len() - 1;
            // Lists are read one after the other: their numbers are next to each other.
            let list = &mut lists[pattern.input];
            *list = if *list == (0..0) { number } else { list.start }..number + 1;
            number
        });
    }
    (wanted, lists)
}

#[cfg(test)]
mod tests;
