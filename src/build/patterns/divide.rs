//! Compiling so that the build ends whatever the lists say.
//!
//! Nearly always all patterns compile together, in one attempt. When that attempt ends by its limits, or the engine gives up,
//! some of them are to blame, and the engine does not say which: they are divided, first between lists and then within a
//! list by halves, until each that cannot be compiled stands alone. Those are refused, like any line that cannot be read,
//! and the others are compiled together.
//!
//! Invariant: attempts and time are bounded ([`limits::PATTERN_SEARCH_ATTEMPTS_MAX`], [`limits::PATTERN_COMPILE_S_MAX`]).
//! Patterns for which they do not suffice are refused as well, the later ones first, for earlier lists weigh more.

use std::collections::VecDeque;
use std::ops::Range;
use std::time::Instant;

use super::child::{self, Bounded, Bounds, Compiler};
use super::{CompileError, Outcome, Wanted};
use crate::limits;

/// A third of the time is for all patterns together, one for the search, and one for what the search has left.
const PHASE_S: u64 = limits::PATTERN_COMPILE_S_MAX / 3;
const _: () =
    assert!(PHASE_S >= limits::PATTERN_COMPILE_CPU_S_MAX, "the first attempt has all the time that it may take");

const NOT_TRIED: &str = "not compiled: other patterns have taken all the time that there is for them";
const TOO_MUCH: &str = "not compiled: with the patterns before it, it takes more memory or time than there is for them";

/// Compiles patterns, those of each list next to each other as `lists` tells. What cannot be compiled is refused.
///
/// # Errors
/// Not even no pattern at all can be compiled: the child process does not start, or the machine has no memory.
pub fn compile_bounded(wanted: &[Wanted], lists: &[Range<usize>], compiler: Compiler) -> Result<Bounded, CompileError> {
    compile_divided(wanted, lists, &mut Machine { compiler, started: Instant::now() })
}

/// What dividing asks of the world.
trait Attempts {
    /// Compiles these together.
    fn compile(&mut self, wanted: &[Wanted], bounds: Bounds) -> Result<Bounded, CompileError>;
    /// Seconds since the start.
    fn elapsed_s(&self) -> u64;
}

struct Machine {
    compiler: Compiler,
    started: Instant,
}

impl Attempts for Machine {
    fn compile(&mut self, wanted: &[Wanted], bounds: Bounds) -> Result<Bounded, CompileError> {
        child::compile(wanted, self.compiler, bounds)
    }

    fn elapsed_s(&self) -> u64 {
        self.started.elapsed().as_secs()
    }
}

fn compile_divided(
    wanted: &[Wanted],
    lists: &[Range<usize>],
    attempts: &mut dyn Attempts,
) -> Result<Bounded, CompileError> {
    let failure = match attempts.compile(wanted, bounds(PHASE_S, 1)) {
        Err(error) if error.may_be_of_patterns() => error,
        result => return result,
    };
    // Without this, a machine that can compile nothing would publish a generation without patterns.
    let Ok(nothing) = attempts.compile(&[], bounds(PHASE_S, 1)) else { return Err(failure) };
    let refused = search(wanted, lists, attempts)?;
    let kept: Vec<usize> = (0..wanted.len()).filter(|&place| refused[place].is_none()).collect();
    let compiled = fit(wanted, &kept, nothing, attempts)?;
    let outcome = |reason: Option<String>| Outcome::Refused(reason.unwrap_or_else(|| TOO_MUCH.to_owned()));
    let mut outcomes: Vec<Outcome> = refused.into_iter().map(outcome).collect();
    for (&place, outcome) in kept.iter().zip(compiled.outcomes) {
        outcomes[place] = outcome;
    }
    Ok(Bounded { outcomes, sidecar: compiled.sidecar })
}

/// Why each pattern cannot be compiled; none for those that can, in some company.
///
/// Breadth first: all lists have had their turn before any half of a bad one has its second.
fn search(
    wanted: &[Wanted],
    lists: &[Range<usize>],
    attempts: &mut dyn Attempts,
) -> Result<Vec<Option<String>>, CompileError> {
    let mut refused: Vec<Option<String>> = vec![None; wanted.len()];
    // All together have failed already.
    let mut groups = VecDeque::from(halves(0..wanted.len(), lists));
    let until_s = attempts.elapsed_s() + PHASE_S;
    let mut attempted = 0;
    while let Some(group) = groups.pop_front() {
        let left_s = until_s.saturating_sub(attempts.elapsed_s());
        if attempted == limits::PATTERN_SEARCH_ATTEMPTS_MAX || left_s == 0 {
            refused[group].fill(Some(NOT_TRIED.to_owned()));
            continue;
        }
        attempted += 1;
        match attempts.compile(&wanted[group.clone()], bounds(left_s, groups.len() as u64 + 1)) {
            Ok(Bounded { outcomes, .. }) => {
                for (place, outcome) in group.zip(outcomes) {
                    if let Outcome::Refused(reason) = outcome {
                        refused[place] = Some(reason);
                    }
                }
            }
            Err(error) if !error.may_be_of_patterns() => return Err(error),
            Err(error) if group.len() < 2 => refused[group].fill(Some(error.reason())),
            Err(_) => groups.extend(halves(group, lists)),
        }
    }
    Ok(refused)
}

/// Compiles as many as fit of those that can be compiled in some company, from the first on.
fn fit(
    wanted: &[Wanted],
    kept: &[usize],
    nothing: Bounded,
    attempts: &mut dyn Attempts,
) -> Result<Bounded, CompileError> {
    let until_s = attempts.elapsed_s() + PHASE_S;
    let kept: Vec<Wanted> = kept.iter().map(|&place| wanted[place].clone()).collect();
    // So many are known to fit, and so many not to; at first all are tried.
    let (mut fitting, mut too_many) = ((0, nothing), kept.len() + 1);
    let mut next = kept.len();
    for _ in 0..limits::PATTERN_FIT_ATTEMPTS_MAX {
        let left_s = until_s.saturating_sub(attempts.elapsed_s());
        if left_s == 0 || next == fitting.0 {
            break;
        }
        // Half of what is left, so that a smaller number can still be tried.
        match attempts.compile(&kept[..next], bounds(left_s, 2)) {
            Ok(compiled) => fitting = (next, compiled),
            Err(error) if error.may_be_of_patterns() => too_many = next,
            Err(error) => return Err(error),
        }
        next = fitting.0.midpoint(too_many - 1).max(fitting.0);
    }
    Ok(fitting.1)
}

/// Between two lists where there are several, as near to the middle as possible; in the middle of one. Nothing of one.
fn halves(group: Range<usize>, lists: &[Range<usize>]) -> Vec<Range<usize>> {
    if group.len() < 2 {
        return vec![group];
    }
    let middle = group.start.midpoint(group.end);
    let within = |place: &usize| group.start < *place && *place < group.end;
    let between = lists.iter().map(|list| list.start).filter(within).min_by_key(|start| start.abs_diff(middle));
    let at = between.unwrap_or(middle);
    vec![group.start..at, at..group.end]
}

/// An equal share of the time left.
fn bounds(left_s: u64, of: u64) -> Bounds {
    let cpu_s = (left_s / of).clamp(1, limits::PATTERN_COMPILE_CPU_S_MAX);
    // A process that waits for its turn has all the time left, lest a busy machine look like a bad pattern.
    Bounds { cpu_s, wall_s: left_s.max(1) }
}

#[cfg(test)]
#[expect(clippy::single_range_in_vec_init, reason = "one list is a range of patterns")]
mod tests {
    use super::*;

    /// Compiles what is not bad, and not too much.
    struct Made {
        is_bad: fn(&str) -> bool,
        together_max: usize,
        attempt_s: u64,
        elapsed_s: u64,
        /// Patterns of each attempt.
        attempted: Vec<usize>,
    }

    impl Made {
        fn new(is_bad: fn(&str) -> bool) -> Self {
            Self { is_bad, together_max: usize::MAX, attempt_s: 0, elapsed_s: 0, attempted: Vec::new() }
        }

        /// Which of these are refused, and why.
        fn refused(&mut self, wanted: &[&str], lists: &[Range<usize>]) -> Vec<(usize, String)> {
            let wanted: Vec<Wanted> =
                wanted.iter().map(|&regex| Wanted { regex: regex.to_owned(), may_match_empty: false }).collect();
            let compiled = compile_divided(&wanted, lists, self).unwrap();
            assert_eq!(compiled.outcomes.len(), wanted.len());
            let taken = compiled.outcomes.iter().filter(|outcome| matches!(outcome, Outcome::Taken(_))).count();
            assert_eq!(compiled.sidecar, [taken as u8], "the databases are those of what was taken");
            let refused = |(place, outcome)| match outcome {
                Outcome::Refused(reason) => Some((place, reason)),
                Outcome::Taken(_) => None,
            };
            compiled.outcomes.into_iter().enumerate().filter_map(refused).collect()
        }
    }

    impl Attempts for Made {
        fn compile(&mut self, wanted: &[Wanted], bounds: Bounds) -> Result<Bounded, CompileError> {
            assert!(bounds.cpu_s > 0 && bounds.wall_s > 0, "no limit is none to the kernel");
            self.attempted.push(wanted.len());
            self.elapsed_s += self.attempt_s;
            if wanted.len() > self.together_max || wanted.iter().any(|wanted| (self.is_bad)(&wanted.regex)) {
                return Err(CompileError::Limits("ended".to_owned()));
            }
            let outcome = |wanted: &Wanted| match wanted.regex.as_str() {
                "(" => Outcome::Refused("no pattern".to_owned()),
                _ => Outcome::Taken(super::super::Engine::Plain),
            };
            let outcomes: Vec<Outcome> = wanted.iter().map(outcome).collect();
            let taken = outcomes.iter().filter(|outcome| matches!(outcome, Outcome::Taken(_))).count();
            Ok(Bounded { outcomes, sidecar: vec![taken as u8] })
        }

        fn elapsed_s(&self) -> u64 {
            self.elapsed_s
        }
    }

    #[test]
    fn good_patterns_take_one_attempt() {
        let mut made = Made::new(|_| false);
        assert_eq!(made.refused(&["a", "(", "b"], &[0..3]), [(1, "no pattern".to_owned())]);
        assert_eq!(made.attempted, [3]);
    }

    #[test]
    fn the_bad_ones_are_found_wherever_they_stand_and_the_others_taken() {
        for bad in [vec![0], vec![9], vec![4, 5], vec![0, 3, 9], (0..10).collect()] {
            let regexes: Vec<&str> = (0..10).map(|place| if bad.contains(&place) { "bad" } else { "a" }).collect();
            for lists in [vec![0..10], vec![0..1, 1..4, 4..10], vec![0..5, 5..5, 5..10]] {
                let refused = Made::new(|regex| regex == "bad").refused(&regexes, &lists);
                assert_eq!(refused.iter().map(|(place, _)| *place).collect::<Vec<_>>(), bad, "{lists:?}");
                assert!(refused.iter().all(|(_, reason)| reason.contains("ended")), "{refused:?}");
            }
        }
    }

    #[test]
    fn what_a_part_says_of_one_pattern_holds_for_the_whole() {
        let refused = Made::new(|regex| regex == "bad").refused(&["(", "a", "bad", "b"], &[0..2, 2..4]);
        assert_eq!(refused.len(), 2);
        assert_eq!(refused[0], (0, "no pattern".to_owned()));
    }

    #[test]
    fn lists_are_told_apart_before_they_are_divided() {
        let mut made = Made::new(|regex| regex == "bad");
        assert_eq!(made.refused(&["a", "a", "a", "a", "a", "bad"], &[0..5, 5..6]).len(), 1);
        assert_eq!(made.attempted, [6, 0, 5, 1, 5]);
    }

    #[test]
    fn of_patterns_that_are_too_much_together_the_first_ones_are_taken() {
        let mut made = Made { together_max: 70, ..Made::new(|_| false) };
        let refused = made.refused(&["a"; 100], &[0..50, 50..100]);
        assert_eq!(refused[0].1, TOO_MUCH);
        let places: Vec<usize> = refused.iter().map(|(place, _)| *place).collect();
        assert!((30..=45).contains(&places.len()) && places.is_sorted() && places.last() == Some(&99), "{places:?}");
    }

    #[test]
    fn attempts_are_bounded_and_the_rest_refused() {
        let mut made = Made::new(|regex| regex == "bad");
        let refused = made.refused(&["bad"; 5_000], &[0..5_000]);
        assert_eq!(refused.len(), 5_000);
        assert_eq!(refused[0].1, NOT_TRIED);
        assert!(made.attempted.len() <= limits::PATTERN_SEARCH_ATTEMPTS_MAX + limits::PATTERN_FIT_ATTEMPTS_MAX + 2);
    }

    #[test]
    fn time_is_bounded_and_the_rest_refused() {
        let mut made = Made { attempt_s: PHASE_S / 2, ..Made::new(|regex| regex == "bad") };
        let refused = made.refused(&["a", "a", "bad", "a"], &[0..2, 2..4]);
        assert_eq!(refused.iter().map(|(place, _)| *place).collect::<Vec<_>>(), [2, 3]);
        assert_eq!(refused[0].1, NOT_TRIED);
        assert_eq!(made.attempted, [4, 0, 2, 2, 2], "the good half is compiled once more, for the store");
    }

    #[test]
    fn a_machine_that_compiles_nothing_is_an_error_not_a_store_without_patterns() {
        struct Broken;
        impl Attempts for Broken {
            fn compile(&mut self, _: &[Wanted], _: Bounds) -> Result<Bounded, CompileError> {
                Err(CompileError::Limits("ended".to_owned()))
            }
            fn elapsed_s(&self) -> u64 {
                0
            }
        }
        let wanted = [Wanted { regex: "a".to_owned(), may_match_empty: false }];
        assert!(compile_divided(&wanted, &[0..1], &mut Broken).is_err());
    }
}
