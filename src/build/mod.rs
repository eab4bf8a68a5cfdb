//! From lists to a published generation: read, compile the patterns, write the shards, publish.
//!
//! ```text
//!  lists ── find $badfilter ── read ─┬─ names, rewrites ──────────────► Builder ─ finish ─ sidecars ─ publish
//!                                    └─ patterns ─ compile (a child) ──────▲                  ▲
//!                                    └─ refused lines ──────────────────────────── refused.txt┘
//! ```
//!
//! Invariant: nothing that a server reads changes before everything has succeeded. A list that cannot be read to its end is
//! an error of the build; a line that cannot be read is not, it is reported.

pub mod fold;
mod input;
pub mod patterns;
mod refused;
pub mod report;
mod servers;

use std::cmp::Reverse;
use std::collections::HashMap;
use std::fmt;
use std::io;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::time::Instant;

use corewall_sharding::StoreError;
use corewall_sharding::build::{BuildOptions, BuildStage, Builder, Built, SHARDS_DEFAULT};
use corewall_sharding::publish::Store;
use corewall_sharding::rule::{Class, List, Rule, RuleKey};

use self::fold::Fold;
use self::input::Input;
use self::patterns::{CompileError, Compiler, Engine, Outcome, Wanted, compile_bounded, sidecar, taken};
use self::refused::Refused;
use self::report::{ListReport, Report};
use self::servers::RuleServers;
use crate::config::WildcardAction;
use crate::limits;
use crate::lists::{self, Disabled, Format};

/// Items of lists between two words about the progress.
const PROGRESS_ITEMS: u64 = 65_536;

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
    /// Shards of the generation.
    pub shards: u16,
    /// Where the refused lines are written; none means [`refused::FILE_NAME`] in the generation.
    pub refused: Option<PathBuf>,
    /// Which process compiles the patterns.
    pub compiler: Compiler,
    /// Make what was changed by hand part of the generation.
    pub fold_overlay: bool,
}

impl Default for Options {
    fn default() -> Self {
        Self { shards: SHARDS_DEFAULT, refused: None, compiler: Compiler::Child, fold_overlay: false }
    }
}

/// What the build is at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Progress<'a> {
    /// Reading a list; how many rules all lists have given so far.
    Read { list: &'a str, rules: u64 },
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
    /// The store has not numbered the patterns in the order in which it was given them: a mistake in this program.
    PatternsMixedUp,
}

impl fmt::Display for BuildError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoLists => f.write_str("no list to build from; add [[list]] to the configuration, or use --list"),
            Self::List { list, path, source } => write!(
                f,
                "{}: cannot read list `{list}`: {source}; check the path, and fetch the file again if it is damaged",
                path.display()
            ),
            Self::Database { list, source } => write!(f, "list `{list}`: {source}"),
            Self::Store(error) => error.fmt(f),
            Self::Patterns(error) => error.fmt(f),
            Self::Refused { path, source } => {
                write!(
                    f,
                    "{}: cannot write the refused lines: {source}; name another file by --refused",
                    path.display()
                )
            }
            Self::PatternsMixedUp => f.write_str("the store has mixed up the patterns; report this as a bug"),
        }
    }
}

impl std::error::Error for BuildError {}

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
    progress: &mut dyn FnMut(Progress<'_>),
) -> Result<Report, BuildError> {
    let started = Instant::now();
    if specs.is_empty() {
        return Err(BuildError::NoLists);
    }
    // All are opened before the first is read: a slip in the last path should not cost a minute.
    let open = |(spec, id)| Input::open(id, spec);
    specs.iter().zip(0..).map(open).collect::<Result<Vec<_>, _>>()?;
    let store = Store::create_or_open(dir)?;
    // Behind the lists that are read are those that only the overlay has.
    let mut all = specs.to_vec();
    let fold = options.fold_overlay.then(|| Fold::read(&store, &mut all)).transpose()?;
    let inputs = all.iter().zip(0..).map(open).collect::<Result<Vec<_>, _>>()?;
    let (inputs_read, _) = inputs.split_at(specs.len());
    let disabled = find_disabled(inputs_read)?;
    let mut build = Build::start(&store, &inputs, options.shards, fold)?;
    for input in inputs_read {
        build.read(input, &disabled, progress)?;
    }
    build.fold_in(&inputs)?;
    let patterns = build.compile_patterns(&inputs, options.compiler, progress)?;
    let mut built = build.builder.finish(&mut |stage, done, of| {
        progress(match stage {
            BuildStage::Write => Progress::Write { done, of },
            BuildStage::Sync => Progress::Sync { done, of },
        });
    })?;
    patterns.attach(&mut built)?;
    let refused_file = build.refused.save(&mut built, &store, options.refused.as_deref())?;
    let report = built.report.clone();
    // Asked while the store's lock is held. A symlink that leads nowhere is what this build is about to replace.
    let previous = store.current_number().ok().flatten();
    let generation = built.publish()?;
    let folded = build.fold.as_ref().map(Fold::report);
    let mut report = Report::new(generation, report, build.reports, patterns.counts(), refused_file, started);
    report.folded = folded;
    report.warnings = remove_old(&store, generation, previous);
    Ok(report)
}

/// The first pass: what the `$badfilter` rules of all lists in Adblock syntax switch off in any of them.
fn find_disabled(inputs: &[Input<'_>]) -> Result<Disabled, BuildError> {
    let mut disabled = Disabled::default();
    for input in inputs.iter().filter(|input| input.spec.format == Format::Adblock) {
        let mut reader = lists::open(&input.spec.path).map_err(|error| input.failed(error))?;
        lists::find_badfilters(&mut reader, &mut disabled).map_err(|error| input.failed(error))?;
    }
    Ok(disabled)
}

/// Generations past [`limits::GENERATIONS_KEPT`] go, and what could not be removed is told: the new one is in use by then.
/// A server that still reads one keeps its open files.
///
/// The previous one, which was current until now, is always among those kept. After a roll-back it is the one that is known
/// to be good, though newer ones lie beside it.
fn remove_old(store: &Store, newest: u64, previous: Option<u64>) -> Vec<String> {
    let still_there = |error: StoreError| format!("an old generation is still there: {error}");
    let mut old = match store.numbers() {
        Ok(numbers) => numbers,
        Err(error) => return vec![still_there(error)],
    };
    old.retain(|&number| number < newest);
    // The previous one first, then from the newest to the oldest.
    old.sort_unstable_by_key(|&number| (Some(number) != previous, Reverse(number)));
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
    servers: RuleServers,
    /// Rules handed on so far, for the progress.
    rules: u64,
    /// What was changed by hand; none when it stays live.
    fold: Option<Fold>,
}

impl Build {
    fn start(store: &Store, inputs: &[Input<'_>], shards: u16, fold: Option<Fold>) -> Result<Build, BuildError> {
        let overlay_seq = fold.as_ref().map_or(0, Fold::overlay_seq);
        let mut builder = Builder::new(store, BuildOptions { shards, overlay_seq, ..BuildOptions::default() })?;
        for input in inputs {
            builder.list(input.spec.list.clone())?;
        }
        let reports = inputs.iter().map(|input| ListReport::new(input.spec)).collect();
        Ok(Build {
            builder,
            reports,
            refused: Refused::default(),
            patterns: Vec::new(),
            servers: RuleServers::default(),
            rules: 0,
            fold,
        })
    }

    fn read(
        &mut self,
        input: &Input<'_>,
        disabled: &Disabled,
        progress: &mut dyn FnMut(Progress<'_>),
    ) -> Result<(), BuildError> {
        let Build { builder, reports, refused, patterns, servers, rules, fold } = self;
        let report = &mut reports[usize::from(input.id)];
        // The reader cannot be stopped half-way: after a failure the rest of the list is passed over.
        let mut failure = Ok(());
        let mut seen = 0u64;
        let counts = input.read(disabled, &mut |item| {
            if failure.is_err() {
                return;
            }
            seen += 1;
            if seen.is_multiple_of(PROGRESS_ITEMS) {
                progress(Progress::Read { list: &input.spec.list.name, rules: *rules });
            }
            match item {
                input::Item::Rule(rule, place) => {
                    if fold.as_mut().is_some_and(|fold| fold.leaves_out(&rule)) {
                        return;
                    }
                    if let Err(reason) = servers.add(&rule.class.servers) {
                        let text = match &rule.key {
                            RuleKey::Name { name, .. } => name.to_string(),
                            RuleKey::Pattern { regex, .. } => regex.clone(),
                            RuleKey::Address { net, .. } => net.to_string(),
                        };
                        return refused.add(report, &input.spec.path, &place.to_string(), &text, &reason);
                    }
                    *rules += 1;
                    match rule.key {
                        RuleKey::Name { .. } | RuleKey::Address { .. } => failure = builder.push(&rule),
                        RuleKey::Pattern { .. } => {
                            patterns.push(PatternRule {
                                rule,
                                input: usize::from(input.id),
                                place: place.to_string(),
                                number: 0,
                            });
                        }
                    }
                }
                input::Item::Rewrite(rewrite) => {
                    if !fold.as_mut().is_some_and(|fold| fold.leaves_out_rewrite(&rewrite)) {
                        builder.rewrite(rewrite);
                    }
                }
                input::Item::Refused { place, text, reason } => {
                    refused.add(report, &input.spec.path, &place.to_string(), text, reason);
                }
            }
        })?;
        failure?;
        report.take_counts(&counts);
        Ok(())
    }

    /// Adds the rules that were added by hand.
    fn fold_in(&mut self, inputs: &[Input<'_>]) -> Result<(), BuildError> {
        let Some(fold) = &self.fold else { return Ok(()) };
        for rule in fold.rules() {
            let input = usize::from(rule.class.list);
            let place = "live rule".to_owned();
            if let Err(reason) = self.servers.add(&rule.class.servers) {
                let path = &inputs[input].spec.path;
                self.refused.add(&mut self.reports[input], path, &place, "a rule with servers", &reason);
                continue;
            }
            match rule.key {
                RuleKey::Name { .. } | RuleKey::Address { .. } => self.builder.push(rule)?,
                RuleKey::Pattern { .. } => {
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
        progress: &mut dyn FnMut(Progress<'_>),
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
