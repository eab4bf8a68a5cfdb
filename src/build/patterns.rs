//! Regular expressions compiled for Hyperscan.
//!
//! Hyperscan scans a name for all patterns at once, but knows neither look-around nor back-references nor atomic groups.
//! What it refuses for that goes into a second database, which finds *candidates* (HS_FLAG_PREFILTER), and each candidate
//! is confirmed by `fancy-regex` under a step limit. What neither takes is refused, with a reason.
//!
//! Invariants: all patterns of one database have the same flags (a mixture is known to miss matches), and every pattern for
//! which an example could be made up finds it ([`Compiled::examples`]).
//!
//! Compiling takes memory and time out of proportion to the patterns, so that a build compiles them in a child process with
//! limits on both, and refuses those that end it ([`compile_bounded`]): a hostile list stops neither a build nor a server.

mod child;
mod divide;
mod example;
pub mod sidecar;

use std::io;

use fancy_regex::{BytesMode, Regex, RegexBuilder};
use hyperscan::{BlockDatabase, Builder, HsError, Pattern, PatternFlags, Patterns};
use serde::{Deserialize, Serialize};

pub use self::child::{Bounded, Bounds, Compiler, SUBCOMMAND, serve_child};
pub use self::divide::compile_bounded;
use self::example::example_of;
use crate::limits;

/// What the engine says when it has no memory left.
const NO_MEMORY: &str = "Unable to allocate memory.";

/// Which engine decides whether a pattern matches.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Engine {
    /// Hyperscan alone.
    Plain,
    /// Hyperscan finds candidates, `fancy-regex` confirms them.
    Confirmed,
}

/// A pattern to compile.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Wanted {
    /// In PCRE syntax.
    pub regex: String,
    /// Whether it is taken though it matches the empty text, and so nearly every name.
    pub may_match_empty: bool,
}

/// What became of one pattern.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Outcome {
    /// It is in a database, and who decides.
    Taken(Engine),
    /// Neither engine takes it, and why.
    Refused(String),
}

/// Databases of the patterns taken, which are numbered from 0 in their order.
pub struct Compiled {
    /// Of [`Engine::Plain`] patterns; none without any.
    pub plain: Option<BlockDatabase>,
    /// Of [`Engine::Confirmed`] patterns; none without any.
    pub candidates: Option<BlockDatabase>,
    /// The numbers and expressions of confirmed patterns.
    pub confirm: Vec<(u32, Regex)>,
    /// Texts that plain patterns, by number, must find: a self-test for whoever loads the databases.
    pub examples: Vec<(u32, String)>,
}

/// Why no databases could be made.
#[derive(Debug)]
pub enum CompileError {
    /// The engine gave up on all patterns together.
    Engine(String),
    /// A pattern does not find a text that it matches.
    SelfTest { regex: String, example: String },
    /// The child process could not be started or talked to.
    Child(io::Error),
    /// The child process was ended by its limits, or failed.
    Limits(String),
}

impl std::fmt::Display for CompileError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Engine(reason) => write!(f, "cannot compile the patterns: {reason}; take out the list that has them"),
            Self::SelfTest { regex, example } => write!(
                f,
                "the pattern engine does not find `{example}` by /{regex}/; install another version of libhyperscan"
            ),
            Self::Child(error) => {
                write!(
                    f,
                    "cannot compile the patterns in a process of their own: {error}; check that it may be started"
                )
            }
            Self::Limits(how) => write!(
                f,
                "compiling the patterns {how}, and compiling none as well; check that a process may have some memory and time"
            ),
        }
    }
}

impl std::error::Error for CompileError {}

impl CompileError {
    /// Whether other patterns might have been compiled.
    fn may_be_of_patterns(&self) -> bool {
        !matches!(self, Self::Child(_))
    }

    /// Why a single pattern is refused.
    fn reason(&self) -> String {
        match self {
            Self::Engine(reason) => reason.clone(),
            Self::Limits(how) => format!("compiling it {how}"),
            Self::SelfTest { .. } | Self::Child(_) => self.to_string(),
        }
    }
}

/// Tells which patterns can be taken and compiles those.
///
/// # Errors
/// The engine gives up, or does not find what it must.
pub fn compile(wanted: &[Wanted]) -> Result<(Vec<Outcome>, Compiled), CompileError> {
    let mut outcomes: Vec<Outcome> = wanted.iter().map(classify).collect();
    // An expression may be well formed and yet too large to compile; the engine tells which one, one at a time.
    for _ in 0..=limits::PATTERNS_TOO_LARGE_MAX {
        match compile_taken(wanted, &outcomes) {
            Ok(compiled) => return Ok((outcomes, compiled)),
            Err(Failure::Pattern(index, reason)) => outcomes[index] = Outcome::Refused(reason),
            Err(Failure::All(error)) => return Err(error),
        }
    }
    Err(CompileError::Engine(format!("more than {} of them are too large", limits::PATTERNS_TOO_LARGE_MAX)))
}

/// The expressions that were taken, by number.
pub fn taken<'a>(wanted: &'a [Wanted], outcomes: &[Outcome]) -> Vec<&'a str> {
    let is_taken = |outcome: &Outcome| matches!(outcome, Outcome::Taken(_));
    wanted.iter().zip(outcomes).filter(|(_, outcome)| is_taken(outcome)).map(|(of, _)| of.regex.as_str()).collect()
}

/// The engine that confirms candidates. Names are ASCII, as are its classes.
///
/// # Errors
/// What it does not like about the expression.
pub fn confirming(regex: &str) -> Result<Regex, String> {
    RegexBuilder::new(regex)
        .case_insensitive(true)
        .bytes_mode(BytesMode::Ascii)
        .backtrack_limit(limits::PATTERN_STEPS_MAX)
        .delegate_size_limit(limits::PATTERN_PROGRAM_BYTES_MAX)
        .build()
        .map_err(|error| error.to_string())
}

fn flags(engine: Engine) -> PatternFlags {
    // ALLOWEMPTY: whether an expression that matches the empty text is wanted is the build's decision, not the engine's.
    let flags = PatternFlags::CASELESS | PatternFlags::SINGLEMATCH | PatternFlags::ALLOWEMPTY;
    match engine {
        Engine::Plain => flags,
        Engine::Confirmed => flags | PatternFlags::PREFILTER,
    }
}

fn pattern(regex: &str, engine: Engine) -> Pattern {
    Pattern { expression: regex.to_owned(), flags: flags(engine), id: None, ext: Default::default(), som: None }
}

fn classify(wanted: &Wanted) -> Outcome {
    let regex = &wanted.regex;
    if regex.len() > limits::PATTERN_BYTES_MAX {
        return Outcome::Refused(format!("longer than {} bytes", limits::PATTERN_BYTES_MAX));
    }
    let taken = |engine, matches_empty| match matches_empty && !wanted.may_match_empty {
        true => Outcome::Refused("matches the empty text, and so nearly every name; allow_wide is off".to_owned()),
        false => Outcome::Taken(engine),
    };
    let refusal = match pattern(regex, Engine::Plain).info() {
        Ok(info) => return taken(Engine::Plain, info.min_width() == 0),
        Err(error) => reason(error),
    };
    match confirming(regex) {
        Ok(confirm) if pattern(regex, Engine::Confirmed).info().is_ok() => {
            // The only error is that of the step limit: an expression that takes so long on nothing is suspect.
            taken(Engine::Confirmed, confirm.is_match(b"".as_slice()).unwrap_or(true))
        }
        _ => Outcome::Refused(refusal),
    }
}

enum Failure {
    /// This pattern cannot be compiled, and why.
    Pattern(usize, String),
    /// None can.
    All(CompileError),
}

fn compile_taken(wanted: &[Wanted], outcomes: &[Outcome]) -> Result<Compiled, Failure> {
    let mut of_engine = [(Vec::new(), Vec::new()), (Vec::new(), Vec::new())];
    let mut confirm = Vec::new();
    let mut examples = Vec::new();
    let mut number = 0u32;
    for (index, (Wanted { regex, .. }, outcome)) in wanted.iter().zip(outcomes).enumerate() {
        let Outcome::Taken(engine) = *outcome else { continue };
        let (patterns, indexes) = &mut of_engine[engine as usize];
        patterns.push(Pattern { id: Some(number as usize), ..pattern(regex, engine) });
        indexes.push(index);
        match engine {
            Engine::Plain => examples.extend(example_of(regex).map(|example| (number, example))),
            Engine::Confirmed => {
                let regex = confirming(regex).map_err(|reason| Failure::Pattern(index, reason))?;
                confirm.push((number, regex));
            }
        }
        number += 1;
    }
    let [plain, candidates] = of_engine;
    let compiled = Compiled { plain: database(plain)?, candidates: database(candidates)?, confirm, examples };
    self_test(&compiled, &taken(wanted, outcomes)).map_err(Failure::All)?;
    Ok(compiled)
}

fn database((patterns, indexes): (Vec<Pattern>, Vec<usize>)) -> Result<Option<BlockDatabase>, Failure> {
    if patterns.is_empty() {
        return Ok(None);
    }
    match Patterns(patterns).build() {
        Ok(database) => Ok(Some(database)),
        Err(hyperscan::Error::Hyperscan(HsError::CompileError(error))) => {
            // The engine blames the first pattern when it is the machine that lacks memory.
            let blamed = error.expression().filter(|_| error.message() != NO_MEMORY);
            match blamed.and_then(|place| indexes.get(place)) {
                Some(&index) => Err(Failure::Pattern(index, error.message().to_owned())),
                None => Err(Failure::All(CompileError::Engine(error.message().trim_end_matches('.').to_owned()))),
            }
        }
        Err(error) => Err(Failure::All(CompileError::Engine(reason(error)))),
    }
}

/// Every pattern finds its example. Engines of this family have had patterns that never matched.
///
/// # Errors
/// The first pattern that does not, or the engine's own failure.
pub fn self_test(compiled: &Compiled, regexes: &[&str]) -> Result<(), CompileError> {
    let Some(plain) = &compiled.plain else { return Ok(()) };
    let scratch = plain.alloc_scratch().map_err(|error| CompileError::Engine(error.to_string()))?;
    for (number, example) in &compiled.examples {
        let mut is_found = false;
        let on_match = |id: u32, _: u64, _: u64, _: u32| {
            is_found |= id == *number;
            hyperscan::Matching::Continue
        };
        plain.scan(example, &scratch, on_match).map_err(|error| CompileError::Engine(error.to_string()))?;
        if !is_found {
            let regex = regexes.get(*number as usize).copied().unwrap_or_default().to_owned();
            return Err(CompileError::SelfTest { regex, example: example.clone() });
        }
    }
    Ok(())
}

/// The engine's own words without the wrapping of its binding.
fn reason(error: hyperscan::Error) -> String {
    match error {
        hyperscan::Error::Hyperscan(HsError::CompileError(error)) => error.message().trim_end_matches('.').to_owned(),
        error => error.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wanted(regex: &str) -> Wanted {
        Wanted { regex: regex.to_owned(), may_match_empty: false }
    }

    fn outcome(regex: &str) -> Outcome {
        compile(&[wanted(regex)]).unwrap().0.remove(0)
    }

    #[test]
    fn plain_expressions_and_posix_classes_are_for_hyperscan_alone() {
        for regex in [r"^ads?[0-9]*\.", "[_.-]ad[[:space:][:digit:]]x", r"(foo|bar)\.example$", "a{3,5}b"] {
            assert_eq!(outcome(regex), Outcome::Taken(Engine::Plain), "{regex}");
        }
    }

    #[test]
    fn look_around_and_back_references_are_confirmed_by_the_other_engine() {
        for regex in [r"^(?!www\.)ad\.", r"(?<!no)track\.", r"^(.)\1\.", r"(?>a+)b", r"^x++y"] {
            assert_eq!(outcome(regex), Outcome::Taken(Engine::Confirmed), "{regex}");
        }
    }

    #[test]
    fn what_neither_engine_takes_is_refused_with_the_reason() {
        for (regex, part) in [
            ("(", "Missing close parenthesis"),
            ("[a", "Unterminated"),
            ("a**b(", "Invalid repeat"),
            ("a\0b", "nul byte"),
            ("(?R)", "Unrecognised"),
            ("x{1,40000}", "Bounded repeat"),
        ] {
            let Outcome::Refused(reason) = outcome(regex) else { panic!("{regex} was taken") };
            assert!(reason.contains(part), "{regex}: {reason}");
        }
        assert!(matches!(outcome(&"a".repeat(limits::PATTERN_BYTES_MAX + 1)), Outcome::Refused(_)));
    }

    #[test]
    fn expressions_that_match_the_empty_text_are_taken_only_when_that_is_wanted() {
        for (regex, engine) in [(".*", Engine::Plain), ("a*", Engine::Plain), ("^(?!foo)", Engine::Confirmed)] {
            let Outcome::Refused(reason) = outcome(regex) else { panic!("{regex} was taken") };
            assert!(reason.contains("allow_wide"), "{reason}");
            let wide = Wanted { may_match_empty: true, ..wanted(regex) };
            assert_eq!(compile(&[wide]).unwrap().0, [Outcome::Taken(engine)]);
        }
        for regex in ["a+", "^(?!foo)."] {
            assert!(matches!(outcome(regex), Outcome::Taken(_)), "{regex}");
        }
    }

    #[test]
    fn refused_patterns_leave_no_gap_in_the_numbers() {
        let wanted = ["one", "(", "two", r"(?!x)three"].map(wanted);
        let (outcomes, compiled) = compile(&wanted).unwrap();
        assert_eq!(taken(&wanted, &outcomes), ["one", "two", "(?!x)three"]);
        assert_eq!(compiled.examples, [(0, "one".to_owned()), (1, "two".to_owned())]);
        assert_eq!(compiled.confirm.iter().map(|(number, _)| *number).collect::<Vec<_>>(), [2]);
    }

    #[test]
    fn a_pattern_that_misses_its_example_is_found_out() {
        let (_, mut compiled) = compile(&[wanted("abc")]).unwrap();
        compiled.examples[0].1 = "abd".to_owned();
        let error = self_test(&compiled, &["abc"]).unwrap_err();
        assert!(error.to_string().contains("does not find `abd` by /abc/"), "{error}");
    }
}
