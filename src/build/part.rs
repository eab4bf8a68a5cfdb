//! What a part of a list says, beside its rules by name and address: those go to the store at once.
//!
//! Invariant: a [`Note`] is all that the build needs of its part later on, so that a build that goes on need not read a
//! finished part again.

use std::collections::{BTreeMap, HashSet};
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use corewall_sharding::StoreError;
use corewall_sharding::build::{Collector, PartId};
use corewall_sharding::rule::{Rule, RuleKey};
use serde::{Deserialize, Serialize};

use super::BuildError;
use super::fold::Fold;
use super::input::{Input, Item};
use super::refused::{Room, line_of, printable};
use super::report::Refusal;
use super::servers::Turns;
use super::source::Watch;
use crate::limits;
use crate::lists::Counts;

/// What is kept of a part.
#[derive(Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Note {
    /// Of lines and names.
    pub counts: Counts,
    /// Lines and names refused.
    pub refused: u64,
    /// The same by reason.
    pub refused_for: BTreeMap<String, u64>,
    /// The first of them, at most [`limits::REFUSED_SHOWN_MAX`].
    pub first_refused: Vec<Refusal>,
    /// Those that may have a place in the file, see [`line_of`], a line each.
    pub refused_lines: String,
    /// In their order.
    pub patterns: Vec<PatternRule>,
    /// Sets of servers that the part was the first to name.
    pub servers: Vec<Vec<SocketAddr>>,
    /// Rules that were taken, patterns included.
    pub rules: u64,
    /// Rules and rewrites that were voided by hand.
    pub left_out: u64,
}

/// A pattern rule on its way into the store, with where it came from for when it is refused.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PatternRule {
    /// The rule.
    pub rule: Rule,
    /// See [`super::input::Place`].
    pub place: String,
}

impl Note {
    /// As the store keeps it.
    ///
    /// # Errors
    /// It cannot be written in this form: a mistake in this program.
    pub fn to_bytes(&self) -> Result<Vec<u8>, BuildError> {
        postcard::to_allocvec(self).map_err(|_| BuildError::Note)
    }

    /// The note that a killed build has left.
    ///
    /// # Errors
    /// It is damaged.
    pub fn from_bytes(bytes: &[u8]) -> Result<Note, BuildError> {
        postcard::from_bytes(bytes).map_err(|_| BuildError::Note)
    }
}

/// What the parts that are being read share.
pub struct Shared {
    /// Who may name servers.
    pub turns: Turns,
    /// What those say that have been read.
    pub said: Mutex<Said>,
    /// Whether to go on, and how far the files are read.
    pub watch: Watch,
    /// Rules taken so far.
    pub rules: AtomicU64,
    /// What was changed by hand, when it is folded in.
    pub fold: Option<Arc<Fold>>,
}

/// A part that is being read.
pub struct Part<'a> {
    id: PartId,
    shared: &'a Shared,
    collector: &'a mut Collector,
    note: Note,
    /// Sets of servers that are known to be admitted: asking again would mean a lock for each rule.
    known: HashSet<Vec<SocketAddr>>,
    /// Bytes of refused lines for which there was room when it was asked last.
    told: usize,
    keeps_lines: bool,
    /// Rules that the progress has not heard of.
    unsaid: u64,
    /// The reader cannot be stopped half-way: after a failure the rest is passed over.
    failure: Result<(), StoreError>,
}

impl<'a> Part<'a> {
    /// The beginning of a part.
    pub fn new(id: PartId, shared: &'a Shared, collector: &'a mut Collector) -> Self {
        Self {
            id,
            shared,
            collector,
            note: Note::default(),
            known: HashSet::new(),
            told: 0,
            keeps_lines: true,
            unsaid: 0,
            failure: Ok(()),
        }
    }

    /// Takes what the list says next.
    pub fn take(&mut self, item: Item<'_>) {
        if self.failure.is_err() {
            return;
        }
        match item {
            Item::Rule(rule, _) if self.shared.fold.as_ref().is_some_and(|fold| fold.leaves_out(rule)) => {
                self.note.left_out += 1;
            }
            Item::Rule(rule, place) => {
                if let Err(reason) = self.admit(rule) {
                    let text = match &rule.key {
                        RuleKey::Name { name, .. } => name.to_string(),
                        RuleKey::Pattern { regex, .. } => regex.clone(),
                        RuleKey::Address { net, .. } => net.to_string(),
                    };
                    return self.refuse(place.to_string(), &text, reason);
                }
                self.note.rules += 1;
                self.unsaid += 1;
                if self.unsaid == limits::BUILD_PROGRESS_RULES {
                    self.say();
                }
                match rule.key {
                    RuleKey::Name { .. } | RuleKey::Address { .. } => self.failure = self.collector.push(rule),
                    RuleKey::Pattern { .. } => {
                        self.note.patterns.push(PatternRule { rule: rule.clone(), place: place.to_string() });
                    }
                }
            }
            Item::Rewrite(rewrite) => {
                if self.shared.fold.as_ref().is_some_and(|fold| fold.leaves_out_rewrite(&rewrite)) {
                    self.note.left_out += 1;
                } else {
                    self.collector.rewrite(rewrite);
                }
            }
            Item::Refused { place, text, reason } => self.refuse(place.to_string(), text, reason.to_string()),
        }
    }

    fn admit(&mut self, rule: &Rule) -> Result<(), String> {
        let servers = &rule.class.servers;
        if servers.is_empty() || self.known.contains(servers) {
            return Ok(());
        }
        let gate = &self.shared.watch.gate;
        if self.shared.turns.admit(self.id.list, servers, &|| gate.is_shut(self.id.list))? {
            self.note.servers.push(servers.clone());
        }
        self.known.insert(servers.clone());
        Ok(())
    }

    fn refuse(&mut self, place: String, text: &str, reason: String) {
        let note = &mut self.note;
        note.refused += 1;
        let text = printable(text);
        if self.keeps_lines {
            note.refused_lines.push_str(&line_of(&place, &reason, &text));
            note.refused_lines.push('\n');
        }
        match note.refused_for.get_mut(&reason) {
            Some(count) => *count += 1,
            None => {
                note.refused_for.insert(reason.clone(), 1);
            }
        }
        if note.first_refused.len() < limits::REFUSED_SHOWN_MAX {
            note.first_refused.push(Refusal { place, reason, text });
        }
        if self.note.refused_lines.len() >= self.told + limits::REFUSED_ASK_BYTES {
            self.ask_for_room();
        }
    }

    fn ask_for_room(&mut self) {
        let bytes = self.note.refused_lines.len() - self.told;
        let mut said = self.shared.said.lock().unwrap_or_else(PoisonError::into_inner);
        let (has_place, keeps_lines) = said.take_room(self.id, bytes);
        drop(said);
        self.keeps_lines = keeps_lines;
        if !has_place {
            self.note.refused_lines = String::new();
        }
        self.told = self.note.refused_lines.len();
    }

    fn say(&mut self) {
        self.shared.rules.fetch_add(self.unsaid, Ordering::Relaxed);
        self.unsaid = 0;
    }

    /// The part has been read to its end: the store has it, and its note.
    ///
    /// # Errors
    /// Those of the store.
    pub fn end(mut self, counts: &Counts) -> Result<Note, BuildError> {
        std::mem::replace(&mut self.failure, Ok(()))?;
        self.say();
        self.note.counts = *counts;
        if self.note.refused_lines.len() > self.told {
            self.ask_for_room();
        }
        self.collector.end_part(self.id, self.note.to_bytes()?)?;
        Ok(self.note)
    }
}

/// What all parts have said, put together as if the lists had been read one after the other.
#[derive(Default)]
pub struct Said {
    parts: BTreeMap<PartId, Kept>,
    room: Room,
    /// Rules and rewrites that were voided by hand.
    pub left_out: u64,
    /// By list, what needs no order.
    pub lists: Vec<ListSum>,
    #[cfg(test)]
    notes: BTreeMap<PartId, Vec<u8>>,
}

/// Sums over the parts of a list.
#[derive(Clone, Debug, Default)]
pub struct ListSum {
    /// Of lines and names.
    pub counts: Counts,
    /// Lines and names refused, by reason.
    pub refused_for: BTreeMap<String, u64>,
}

/// What is kept of a part in its place.
pub struct Kept {
    /// Lines and names refused.
    pub refused: u64,
    /// See [`Note::first_refused`].
    pub first_refused: Vec<Refusal>,
    /// See [`Note::refused_lines`].
    pub refused_lines: String,
    /// See [`Note::patterns`].
    pub patterns: Vec<PatternRule>,
}

impl Said {
    /// Nothing yet, of so many lists.
    pub fn of(lists: &[Input<'_>]) -> Self {
        Self { lists: vec![ListSum::default(); lists.len()], ..Self::default() }
    }

    /// A part has kept so many bytes more of refused lines. Tells whether they have a place in the file, and whether there
    /// is some for more.
    fn take_room(&mut self, id: PartId, bytes: usize) -> (bool, bool) {
        let gone = self.room.take(id, bytes);
        for id in &gone {
            if let Some(kept) = self.parts.get_mut(id) {
                kept.refused_lines = String::new();
            }
        }
        let has_place = !gone.contains(&id);
        (has_place, has_place && self.room.is_left_for(id))
    }

    /// What a part has said that a killed build had finished.
    pub fn add_finished(&mut self, id: PartId, mut note: Note) {
        if !self.take_room(id, note.refused_lines.len()).0 {
            note.refused_lines = String::new();
        }
        self.add(id, note);
    }

    /// What a part has said.
    pub fn add(&mut self, id: PartId, note: Note) {
        #[cfg(test)]
        self.notes.insert(id, note.to_bytes().unwrap_or_default());
        self.left_out += note.left_out;
        if let Some(list) = self.lists.get_mut(usize::from(id.list)) {
            list.counts.add(&note.counts);
            for (reason, count) in note.refused_for {
                *list.refused_for.entry(reason).or_default() += count;
            }
        }
        // Most parts have nothing more to say, and a large list has thousands of them.
        if note.refused > 0 || !note.patterns.is_empty() {
            let Note { refused, first_refused, refused_lines, patterns, .. } = note;
            self.parts.insert(id, Kept { refused, first_refused, refused_lines, patterns });
            self.drop_later_first_refused(id);
        }
    }

    /// Forgets those for which the parts before have filled the report.
    fn drop_later_first_refused(&mut self, id: PartId) {
        let list = PartId { part: 0, ..id }..=PartId { part: u32::MAX, ..id };
        let mut shown = 0;
        for (_, kept) in self.parts.range_mut(list) {
            if shown >= limits::REFUSED_SHOWN_MAX && !kept.first_refused.is_empty() {
                kept.first_refused = Vec::new();
            }
            shown += kept.first_refused.len();
        }
    }

    /// The notes of all parts as the store has them.
    #[cfg(test)]
    pub fn notes(&self) -> BTreeMap<PartId, Vec<u8>> {
        self.notes.clone()
    }

    /// The parts in their order.
    pub fn into_parts(self) -> BTreeMap<PartId, Kept> {
        self.parts
    }
}
