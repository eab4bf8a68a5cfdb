//! Stage 7, pattern: the regular expressions of a generation, found in a name by Hyperscan.
//!
//! [`PatternDatabase`] is immutable and shared by all workers of a generation; each worker has a [`PatternScanner`] of its
//! own, with all the memory that scanning takes. How patterns are compiled: `build/patterns.rs`.
//!
//! Invariants: a database that exists holds every pattern of its generation, and found each pattern's example when it was
//! loaded. A scan takes a bounded time whatever the name and the patterns are, and one that fails is said with the pattern,
//! though not for each query: at the 1st, 10th, 100th... of a scanner.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use corewall_sharding::StoreError;
use corewall_sharding::publish::Generation;
use fancy_regex::Regex;
use hyperscan::{HsError, Matching, Scratch};

use super::kernel::thread_cpu_time;
use super::live::LivePatterns;
use crate::build::patterns::{Bounded, CompileError, Compiled, Compiler, Outcome, Wanted, compile_bounded, sidecar};
use crate::decide::StoreFailed;
use crate::decide::pattern::Matches;
use crate::limits::{PATTERN_CONFIRM_US_MAX, PATTERN_STEPS_MAX};

/// The compiled patterns of one generation.
pub struct PatternDatabase {
    compiled: Compiled,
    /// Why they were compiled here instead of loaded.
    recompiled: Option<String>,
}

/// Why a generation's patterns cannot be used.
#[derive(Debug)]
pub enum PatternError {
    /// The file of compiled patterns cannot be read.
    Store(StoreError),
    /// They cannot be compiled either.
    Compile(CompileError),
    /// This engine refuses a pattern that the one of the build had taken.
    Refused {
        /// The pattern.
        regex: String,
        /// Why.
        reason: String,
    },
    /// No memory to scan with.
    Scratch(String),
}

impl fmt::Display for PatternError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Store(error) => error.fmt(f),
            Self::Compile(error) => error.fmt(f),
            Self::Refused { regex, reason } => {
                write!(f, "the pattern engine refuses /{regex}/ ({reason}); build the store again with this program")
            }
            Self::Scratch(reason) => write!(f, "no memory to scan patterns with: {reason}; free some memory"),
        }
    }
}

impl std::error::Error for PatternError {}

impl PatternDatabase {
    /// The patterns of a generation: loaded from its file of compiled ones, or compiled again when this engine or this
    /// processor cannot use that; in a process of their own, for that may take a minute and a gigabyte.
    ///
    /// # Errors
    /// The file's checksum is wrong, or the patterns do not compile within the limits of a build.
    pub fn load(generation: &Generation) -> Result<PatternDatabase, PatternError> {
        Self::load_or_compile(generation, Compiler::Child)
    }

    fn load_or_compile(generation: &Generation, compiler: Compiler) -> Result<PatternDatabase, PatternError> {
        let regexes: Vec<&str> = generation.patterns.iter().map(|row| row.regex.as_str()).collect();
        if regexes.is_empty() {
            return Ok(Self::empty());
        }
        let why = match generation.sidecar(sidecar::FILE_NAME).map_err(PatternError::Store)? {
            Some(file) => match sidecar::read(&file, &regexes) {
                Ok(compiled) => return Ok(PatternDatabase { compiled, recompiled: None }),
                Err(unusable) => unusable.to_string(),
            },
            None => "there are none".to_owned(),
        };
        let number = generation.number;
        tracing::warn!(
            generation = number,
            patterns = regexes.len(),
            why,
            "compiled patterns unusable: compiling again"
        );
        Self::compile(&regexes, why, compiler)
    }

    /// Live patterns, compiled now.
    ///
    /// # Errors
    /// Which of them is refused and why, in words for the operator.
    pub fn of_live(regexes: &[&str], compiler: Compiler) -> Result<PatternDatabase, String> {
        match Self::compile(regexes, String::new(), compiler) {
            _ if regexes.is_empty() => Ok(Self::empty()),
            Ok(database) => Ok(PatternDatabase { recompiled: None, ..database }),
            Err(PatternError::Refused { regex, reason }) => {
                Err(format!("the pattern /{regex}/ cannot be used: {reason}"))
            }
            Err(error) => Err(error.to_string()),
        }
    }

    /// No patterns: nothing is ever found.
    pub fn empty() -> PatternDatabase {
        let compiled = Compiled { plain: None, candidates: None, confirm: Vec::new(), examples: Vec::new() };
        PatternDatabase { compiled, recompiled: None }
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.compiled.plain.is_none() && self.compiled.candidates.is_none()
    }

    /// Why the patterns were compiled anew at load; none when they were loaded as the build had compiled them.
    pub fn recompiled(&self) -> Option<&str> {
        self.recompiled.as_deref()
    }

    fn compile(regexes: &[&str], why: String, compiler: Compiler) -> Result<PatternDatabase, PatternError> {
        let wanted = |regex: &&str| Wanted { regex: (*regex).to_owned(), may_match_empty: true };
        let wanted: Vec<Wanted> = regexes.iter().map(wanted).collect();
        let Bounded { outcomes, sidecar: file } =
            compile_bounded(&wanted, std::slice::from_ref(&(0..regexes.len())), compiler)
                .map_err(PatternError::Compile)?;
        // A refused one would shift the numbers of all that follow it.
        for (Wanted { regex, .. }, outcome) in wanted.into_iter().zip(outcomes) {
            if let Outcome::Refused(reason) = outcome {
                return Err(PatternError::Refused { regex, reason });
            }
        }
        let unusable = |unusable: sidecar::Unusable| PatternError::Compile(CompileError::Engine(unusable.to_string()));
        let compiled = sidecar::read(&file, regexes).map_err(unusable)?;
        Ok(PatternDatabase { compiled, recompiled: Some(why) })
    }
}

/// One worker's means to scan: its own scratch memory, and its own copy of the confirming expressions, which keep caches
/// that workers would otherwise contend for.
pub struct PatternScanner {
    database: Arc<PatternDatabase>,
    plain_scratch: Option<Scratch>,
    candidates_scratch: Option<Scratch>,
    confirm: Vec<(u32, Regex)>,
    /// Candidates of one scan; room for each confirmed pattern.
    candidates: Vec<u32>,
    /// Scans that failed.
    failures: u64,
    /// What finds the live patterns, and the number of the first; none without any.
    live: Option<(Box<PatternScanner>, u32)>,
}

impl PatternScanner {
    /// A scanner over `database` with all the memory that it will need.
    ///
    /// # Errors
    /// No memory.
    pub fn new(database: Arc<PatternDatabase>) -> Result<PatternScanner, PatternError> {
        let scratch = |of: &Option<hyperscan::BlockDatabase>| {
            of.as_ref()
                .map(|of| of.alloc_scratch())
                .transpose()
                .map_err(|error| PatternError::Scratch(error.to_string()))
        };
        let compiled = &database.compiled;
        Ok(PatternScanner {
            plain_scratch: scratch(&compiled.plain)?,
            candidates_scratch: scratch(&compiled.candidates)?,
            confirm: compiled.confirm.clone(),
            candidates: Vec::with_capacity(compiled.confirm.len()),
            failures: 0,
            live: None,
            database,
        })
    }

    /// The same with live patterns.
    ///
    /// # Errors
    /// No memory.
    pub fn with_live(mut self, patterns: &LivePatterns) -> Result<PatternScanner, String> {
        self.set_live(patterns)?;
        Ok(self)
    }

    /// Goes over to other live patterns; allocates only if they are others.
    ///
    /// # Errors
    /// No memory; then all is as before.
    pub fn set_live(&mut self, patterns: &LivePatterns) -> Result<(), String> {
        let LivePatterns { database, first } = patterns;
        let is_same = |live: &(Box<PatternScanner>, u32)| Arc::ptr_eq(&live.0.database, database) && live.1 == *first;
        if database.is_empty() {
            self.live = None;
        } else if !self.live.as_ref().is_some_and(is_same) {
            let scanner = PatternScanner::new(database.clone()).map_err(|error| error.to_string())?;
            self.live = Some((Box::new(scanner), *first));
        }
        Ok(())
    }

    /// Finds the patterns that match in `text`, the lower-case text of a name, and puts their numbers into `matches`, which
    /// is cleared first. On the packet path; does not allocate unless a candidate must be confirmed.
    ///
    /// # Errors
    /// The engine failed, or confirming took more than [`PATTERN_STEPS_MAX`] steps for one pattern or
    /// [`PATTERN_CONFIRM_US_MAX`] for all of them: whether the name is listed is not known.
    pub fn scan(&mut self, text: &str, matches: &mut Matches) -> Result<(), StoreFailed> {
        matches.clear();
        self.scan_on(text, matches)?;
        if let Some((live, first)) = &mut self.live {
            let before = matches.as_slice().len();
            live.scan_on(text, matches)?;
            matches.renumber_from(before, *first);
        }
        Ok(())
    }

    fn scan_on(&mut self, text: &str, matches: &mut Matches) -> Result<(), StoreFailed> {
        self.find_plain(text, matches)
            .and_then(|()| self.find_candidates(text))
            .and_then(|()| self.confirm_candidates(text, matches))
            .map_err(|failed| self.say(&failed))
    }

    fn find_plain(&self, text: &str, matches: &mut Matches) -> Result<(), ScanFailed> {
        let (Some(database), Some(scratch)) = (&self.database.compiled.plain, &self.plain_scratch) else {
            return Ok(());
        };
        let on_match = |id: u32, _: u64, _: u64, _: u32| {
            matches.push(id);
            Matching::Continue
        };
        completed(database.scan(text, scratch, on_match))
    }

    fn find_candidates(&mut self, text: &str) -> Result<(), ScanFailed> {
        let Self { database, candidates_scratch, candidates, .. } = self;
        candidates.clear();
        let (Some(database), Some(scratch)) = (&database.compiled.candidates, candidates_scratch) else {
            return Ok(());
        };
        let on_match = |id: u32, _: u64, _: u64, _: u32| {
            // The engine reports each pattern once (SINGLEMATCH), so that there is room; were there none, this must not
            // allocate.
            if candidates.len() < candidates.capacity() {
                candidates.push(id);
            }
            Matching::Continue
        };
        completed(database.scan(text, scratch, on_match))
    }

    fn confirm_candidates(&self, text: &str, matches: &mut Matches) -> Result<(), ScanFailed> {
        // The steps of a single candidate bound its time. CPU time, for a worker that had to wait for its core has done
        // nothing wrong.
        let until = match self.candidates.len() {
            0 | 1 => Duration::MAX,
            _ => thread_cpu_time().saturating_add(Duration::from_micros(PATTERN_CONFIRM_US_MAX)),
        };
        for (confirmed, &id) in self.candidates.iter().enumerate() {
            let place = self.confirm.binary_search_by_key(&id, |(number, _)| *number);
            let (_, regex) = place.ok().and_then(|place| self.confirm.get(place)).ok_or(ScanFailed::Unknown(id))?;
            if confirmed > 0 && thread_cpu_time() >= until {
                return Err(ScanFailed::Candidates { id, confirmed });
            }
            if regex.is_match(text.as_bytes()).map_err(|_| ScanFailed::Steps(id))? {
                matches.push(id);
            }
        }
        Ok(())
    }

    #[cold]
    fn say(&mut self, failed: &ScanFailed) -> StoreFailed {
        self.failures += 1;
        let failures = self.failures;
        if failures == 10u64.pow(failures.ilog10()) {
            let candidates = self.candidates.len();
            let pattern =
                |id| self.confirm.iter().find(|(number, _)| *number == id).map_or("", |(_, regex)| regex.as_str());
            match *failed {
                ScanFailed::Engine(ref reason) => {
                    tracing::error!(failures, "the pattern engine failed, answering as on_store_error says: {reason}");
                }
                ScanFailed::Steps(id) => tracing::error!(
                    failures,
                    pattern = pattern(id),
                    "confirming a pattern takes more than {PATTERN_STEPS_MAX} steps, answering as on_store_error says; \
                     write the pattern without nested repetitions"
                ),
                ScanFailed::Candidates { id, confirmed } => tracing::error!(
                    failures,
                    pattern = pattern(id),
                    candidates,
                    confirmed,
                    "confirming patterns with look-around or back-references takes more than {PATTERN_CONFIRM_US_MAX} us \
                     for one name, answering as on_store_error says; have fewer of them"
                ),
                ScanFailed::Unknown(id) => {
                    tracing::error!(failures, id, "the pattern engine reports a pattern that there is not");
                }
            }
        }
        StoreFailed
    }
}

/// Why a scan did not come to its end.
enum ScanFailed {
    /// The engine's own words.
    Engine(hyperscan::Error),
    /// Confirming this pattern took too many steps.
    Steps(u32),
    /// Confirming took too long altogether; before this pattern so many had been confirmed or not.
    Candidates { id: u32, confirmed: usize },
    /// No pattern has this number.
    Unknown(u32),
}

/// A scan that a callback ended is complete: it has found what it looked for.
fn completed(result: hyperscan::Result<()>) -> Result<(), ScanFailed> {
    match result {
        Ok(()) | Err(hyperscan::Error::Hyperscan(HsError::ScanTerminated)) => Ok(()),
        Err(error) => Err(ScanFailed::Engine(error)),
    }
}

#[cfg(test)]
mod tests;
