//! Live rules on the control side: what is served on top of the generation, and how a change to it reaches the workers.
//!
//! ```text
//!  prepare ── is there room? do the patterns compile? ──► (whoever keeps the overlay makes it durable) ──► commit ──► an order
//!  to each worker, with all live rules as they are now
//! ```
//!
//! Invariants: nothing that workers could not serve gets past [`LiveRules::prepare`]; each step holds everything, so that a
//! worker which missed one has it with the next; changes are made one at a time, in the order of their versions.

use std::sync::{Arc, Mutex, PoisonError};

use corewall_sharding::overlay::{LiveEntry, LiveUpdate, Overlay};
use corewall_sharding::publish::{Generation, Store};

use super::patterns::PatternDatabase;
use crate::build::patterns::Compiler;
use crate::decide::live::compose::Composer;
use crate::decide::live::{LiveChange, LiveSummary};
use crate::decide::rulebook::RuleBook;
use crate::decide::settings::Settings;
use crate::limits::LIVE_UPDATE_ENTRIES_MAX;

/// What a worker takes over. Immutable and shared.
pub struct LiveStep {
    /// The generation that it stands on; none without a store.
    pub generation: Option<u64>,
    /// All rules as they are now, and what the last change touched.
    pub change: LiveChange,
    /// The live patterns, compiled.
    pub patterns: Arc<LivePatterns>,
}

/// The live patterns of a step.
pub struct LivePatterns {
    /// Compiled in the order of their numbers.
    pub database: Arc<PatternDatabase>,
    /// The number of the first one.
    pub first: u32,
}

/// The live rules on one generation under one configuration.
pub struct LiveRules {
    state: Mutex<State>,
    /// Held by the change that is being made.
    turn: Mutex<()>,
    generation: Option<u64>,
    compiler: Compiler,
}

struct State {
    composer: Composer,
    regexes: Vec<String>,
    now: Arc<LiveStep>,
}

/// An update that can be served, before it is.
pub struct Prepared {
    update: LiveUpdate,
    regexes: Vec<String>,
    /// None: as they are.
    patterns: Option<Arc<PatternDatabase>>,
}

impl LiveRules {
    /// None yet on `base`, which is made of `generation` and `settings`.
    pub fn none(
        base: Arc<RuleBook>,
        generation: Option<Arc<Generation>>,
        settings: Arc<Settings>,
        compiler: Compiler,
    ) -> Self {
        let number = generation.as_ref().map(|generation| generation.number);
        let first = base.base_pattern_count();
        let change = LiveChange { version: 0, rules: base.clone(), touched: None, changes_addresses: false };
        let patterns = Arc::new(LivePatterns { database: Arc::new(PatternDatabase::empty()), first });
        let now = Arc::new(LiveStep { generation: number, change, patterns });
        let composer = Composer::new(base, generation, settings);
        let state = Mutex::new(State { composer, regexes: Vec::new(), now });
        Self { state, turn: Mutex::default(), generation: number, compiler }
    }

    /// Takes the overlay's entries in, before anybody serves them.
    ///
    /// # Errors
    /// Which bound they break, or which pattern is refused.
    pub fn load(&self, entries: impl IntoIterator<Item = LiveEntry>) -> Result<(), String> {
        let mut entries = entries.into_iter().map(Arc::new).peekable();
        while entries.peek().is_some() {
            // A part at a time: entries are large, and what is made of them is small.
            let entered = entries.by_ref().take(LIVE_UPDATE_ENTRIES_MAX).collect();
            let prepared = self.prepare(LiveUpdate { entered, left: Vec::new() })?;
            self.commit(prepared);
        }
        Ok(())
    }

    /// What is to be served now.
    pub fn now(&self) -> Arc<LiveStep> {
        self.state().now.clone()
    }

    /// How many there are.
    pub fn summary(&self) -> LiveSummary {
        self.state().now.change.rules.live().summary()
    }

    /// Makes the live rules those of `entries`, which are all that there are: for what has changed while a generation was being
    /// opened. Nothing is told to anybody.
    ///
    /// # Errors
    /// As [`Self::load`]; then some may have been taken in.
    pub fn match_entries(&self, entries: impl IntoIterator<Item = LiveEntry>) -> Result<(), String> {
        let known = self.state().composer.numbers();
        let mut gone = known.clone();
        let new = entries.into_iter().filter(|entry| !gone.remove(&entry.seq) && !known.contains(&entry.seq));
        self.load(new.collect::<Vec<_>>())?;
        let left = gone.into_iter().collect();
        self.commit(self.prepare(LiveUpdate { entered: Vec::new(), left })?);
        Ok(())
    }

    /// Makes one change, from the check to the workers: `keep` makes it durable, `tell` gives the step to every worker and says
    /// what went wrong, by core. One at a time.
    ///
    /// # Errors
    /// The update cannot be served, `keep` failed, both with nothing changed; or some workers did not take it over, though it
    /// is durable: they have it with the next change.
    pub fn change(
        &self,
        update: LiveUpdate,
        keep: impl FnOnce() -> Result<(), String>,
        tell: impl FnOnce(&Arc<LiveStep>) -> Vec<(usize, String)>,
    ) -> Result<(), String> {
        let _turn = self.turn.lock().unwrap_or_else(PoisonError::into_inner);
        let prepared = self.prepare(update)?;
        keep()?;
        let failures = tell(&self.commit(prepared));
        match failures.is_empty() {
            true => Ok(()),
            false => {
                let failures = failures.into_iter().map(|(core, reason)| format!("core {core} ({reason})"));
                let failures: Vec<String> = failures.collect();
                Err(format!("the change is kept, but not served yet on {}", failures.join(", ")))
            }
        }
    }

    /// Finds out whether an update can be served, before it is made durable. Entries that are there already, and numbers that
    /// are not, are passed over when it is committed.
    ///
    /// # Errors
    /// Which bound it breaks, or which pattern is refused and why, in words for the operator.
    pub fn prepare(&self, update: LiveUpdate) -> Result<Prepared, String> {
        let state = self.state();
        state.composer.check(&update)?;
        let regexes = state.composer.patterns_after(&update);
        let patterns = match regexes == state.regexes {
            true => None,
            false => Some(Arc::new(compile(&regexes, self.compiler)?)),
        };
        Ok(Prepared { update, regexes, patterns })
    }

    /// Takes over what was prepared, and gives what each worker is to be told: by [`super::reload::change_all`], or by an
    /// [`super::reload::Order::live`] of one's own. Nothing else may have been committed since it was prepared.
    pub fn commit(&self, prepared: Prepared) -> Arc<LiveStep> {
        let Prepared { update, regexes, patterns } = prepared;
        let mut state = self.state();
        let change = state.composer.apply(&update);
        let patterns = match patterns {
            Some(database) => Arc::new(LivePatterns { database, first: change.rules.base_pattern_count() }),
            None => state.now.patterns.clone(),
        };
        state.regexes = regexes;
        state.now = Arc::new(LiveStep { generation: self.generation, change, patterns });
        state.now.clone()
    }

    /// The state, whole also after a panic: it is replaced piece by piece only in [`Composer::apply`], which takes nothing in
    /// that was not checked.
    fn state(&self) -> std::sync::MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Whether these live patterns can be served.
///
/// # Errors
/// Which is refused and why, in words for the operator.
pub fn check_patterns(regexes: &[String]) -> Result<(), String> {
    compile(regexes, Compiler::Child).map(drop)
}

fn compile(regexes: &[String], compiler: Compiler) -> Result<PatternDatabase, String> {
    let regexes: Vec<&str> = regexes.iter().map(String::as_str).collect();
    PatternDatabase::of_live(&regexes, compiler)
}

/// The entries of the store's overlay that are live on a generation which holds those up to `after_seq`.
///
/// # Errors
/// The overlay cannot be read.
pub fn entries_after(store: &Store, after_seq: u64) -> Result<Vec<LiveEntry>, String> {
    Overlay::read(store, after_seq).map_err(|error| error.to_string())
}

#[cfg(test)]
mod tests {
    use corewall_sharding::overlay::LiveChange as Change;
    use corewall_sharding::rule::{Class, Kind, Rule, RuleKey, Scope};

    use super::*;
    use crate::decide::pattern::Matches;
    use crate::serve::patterns::PatternScanner;

    fn live() -> LiveRules {
        let settings = Arc::new(Settings::default());
        LiveRules::none(Arc::new(RuleBook::empty(&settings)), None, settings, Compiler::Here)
    }

    fn pattern(seq: u64, regex: &str) -> LiveEntry {
        let key = RuleKey::Pattern { regex: regex.to_owned(), target: None };
        let change = Change::Rule(Rule { class: Class::plain(Kind::Block, Scope::Pattern, 0), key });
        LiveEntry { seq, change, list: "live".to_owned(), created_s: 0, expires_s: None, reason: String::new() }
    }

    fn entered(entries: &[LiveEntry]) -> LiveUpdate {
        LiveUpdate { entered: entries.iter().cloned().map(Arc::new).collect(), left: Vec::new() }
    }

    #[test]
    fn a_pattern_that_no_engine_takes_is_refused_before_anything_has_changed() {
        let live = live();
        let refused = live.prepare(entered(&[pattern(1, "good"), pattern(2, "(bad")])).map(drop).unwrap_err();
        assert!(refused.starts_with("the pattern /(bad/ cannot be used: "), "{refused}");
        assert_eq!((live.summary(), live.now().change.version), (LiveSummary::default(), 0));
        live.commit(live.prepare(entered(&[pattern(3, "good")])).unwrap());
        assert_eq!((live.summary().rules, live.now().change.version), (1, 1));
    }

    #[test]
    fn a_change_is_kept_before_it_is_told_and_nothing_is_told_that_cannot_be_kept() {
        let live = live();
        let told = |live: &LiveRules, kept: Result<(), String>| {
            let mut versions = Vec::new();
            let outcome = live.change(
                entered(&[pattern(1, "one")]),
                || kept,
                |step| {
                    versions.push(step.change.version);
                    vec![(3, "it takes no orders".to_owned())]
                },
            );
            (outcome.unwrap_err(), versions)
        };
        assert_eq!(told(&live, Err("disk full".to_owned())), ("disk full".to_owned(), vec![]));
        assert_eq!(live.summary().rules, 0);
        let (outcome, versions) = told(&live, Ok(()));
        assert_eq!(
            (&*outcome, versions),
            ("the change is kept, but not served yet on core 3 (it takes no orders)", vec![1])
        );
        assert_eq!(live.summary().rules, 1);
    }

    #[test]
    fn what_changed_while_a_generation_was_opened_is_made_up_for() {
        let live = live();
        live.load([pattern(1, "one"), pattern(2, "two")]).unwrap();
        live.match_entries([pattern(2, "two"), pattern(3, "three")]).unwrap();
        let regexes: Vec<String> =
            live.now().change.rules.live().patterns().iter().map(|pattern| pattern.regex.clone()).collect();
        assert_eq!((regexes, live.summary().last_seq), (vec!["two".to_owned(), "three".to_owned()], 3));
    }

    #[test]
    fn patterns_are_compiled_when_they_change_and_have_the_numbers_of_their_rules() {
        let live = live();
        live.load([pattern(1, "one"), pattern(2, "^(?!x)two"), pattern(3, "three")]).unwrap();
        let first = live.now();
        let update = LiveUpdate { entered: Vec::new(), left: vec![99] };
        let same = live.commit(live.prepare(update).unwrap());
        assert!(Arc::ptr_eq(&first.patterns, &same.patterns));
        let update = LiveUpdate { entered: vec![Arc::new(pattern(4, "four"))], left: vec![1] };
        let next = live.commit(live.prepare(update).unwrap());
        let mut scanner = PatternScanner::new(Arc::new(PatternDatabase::empty())).unwrap();
        let mut found = |step: &LiveStep, text: &str| {
            scanner.set_live(&step.patterns).unwrap();
            let mut matches = Matches::new();
            scanner.scan(text, &mut matches).unwrap();
            let regex = |&number: &u32| step.change.rules.live_pattern(number).unwrap().regex.clone();
            let mut found: Vec<String> = matches.as_slice().iter().map(regex).collect();
            found.sort();
            found
        };
        assert_eq!(found(&next, "two.one.three.four"), ["^(?!x)two", "four", "three"]);
        assert_eq!(found(&first, "two.one.three.four"), ["^(?!x)two", "one", "three"]);
        assert_eq!(found(&next, "one"), Vec::<String>::new());
    }
}
