//! One reading thread's rules, from its pushes to sorted runs on the disk.
//!
//! Invariant: a run holds the rules of whole parts, or a piece of one part alone. So when a build was killed, what belongs to a part
//! that must be read again can be left out without a look at the rules. Nothing is shared between collectors but what
//! [`Workspace`] counts once a run: no rule takes a lock.

use std::collections::HashMap;
use std::collections::hash_map::Entry as Known;
use std::sync::Arc;

use super::PartId;
use super::run::{Place, RunClass, RunPart, RunRecord, RunWriter, Target};
use super::sort::{self, Entry};
use super::workspace::Workspace;
use super::{CLASSES_MAX, check_rule};
use crate::StoreError;
use crate::generation::AddressRow;
use crate::row_key::write_key;
use crate::rule::{Class, IpRewrite, Rule, RuleKey};

/// Bytes that a class, an address rule or a rewrite is reckoned to take.
const CLASS_BYTES: usize = 512;
const ADDRESS_BYTES: usize = 96;

/// Takes the rules of one part after the other; each thread that reads lists has its own.
///
/// It ends with [`Collector::finish`]: a build whose collector was dropped without that fails, for its rules would be missing.
pub struct Collector {
    workspace: Arc<Workspace>,
    lists: usize,
    in_journal: bool,
    finished: bool,
    text: Vec<u8>,
    entries: Vec<Entry>,
    /// Entries and text before these are of whole parts.
    open_entry: usize,
    open_text: usize,
    /// Bytes past which a run is written.
    bytes_max: usize,
    classes: Vec<CollectedClass>,
    class_ids: HashMap<Class, u32>,
    last_class: u32,
    /// Whole parts since the last run.
    parts: Vec<RunPart>,
    /// The number of the part at hand, and of the rules pushed of it.
    part: u32,
    order: u64,
    /// Runs with pieces of it.
    pieces: Vec<u32>,
    addresses: Vec<(Place, AddressRow)>,
    rewrites: Vec<(Place, IpRewrite)>,
    /// Those before these are of whole parts.
    open_address: usize,
    open_rewrite: usize,
    firsts: Vec<(u32, Place)>,
    open_first: usize,
}

/// A class as this collector numbers it.
struct CollectedClass {
    class: Class,
    /// The last part in which it was seen.
    seen: Option<u32>,
}

impl Collector {
    pub(super) fn new(workspace: Arc<Workspace>, lists: usize, in_journal: bool) -> Collector {
        workspace.collector_begins();
        Collector {
            part: workspace.next_part(),
            bytes_max: workspace.collector_bytes(),
            in_journal: in_journal && workspace.resumable,
            workspace,
            lists,
            finished: false,
            text: Vec::new(),
            entries: Vec::new(),
            open_entry: 0,
            open_text: 0,
            classes: Vec::new(),
            class_ids: HashMap::new(),
            last_class: 0,
            parts: Vec::new(),
            order: 0,
            pieces: Vec::new(),
            addresses: Vec::new(),
            rewrites: Vec::new(),
            open_address: 0,
            open_rewrite: 0,
            firsts: Vec::new(),
            open_first: 0,
        }
    }

    /// Adds a rule by name or address of the part at hand. Patterns are compiled first and go to [`super::Builder::push`].
    ///
    /// It fails for what no list reader produces, and when a run cannot be written.
    pub fn push(&mut self, rule: &Rule) -> Result<(), StoreError> {
        check_rule(rule, self.lists)?;
        let class = self.class_id(&rule.class)?;
        let place = Place { part: self.part, order: self.order };
        self.order += 1;
        let known = &mut self.classes[class as usize];
        if known.seen != Some(self.part) {
            known.seen = Some(self.part);
            self.firsts.push((class, place));
        }
        match &rule.key {
            RuleKey::Name { name, target } => {
                let at = self.text.len();
                write_key(self.workspace.layout, name, &mut self.text);
                let key = &self.text[at..];
                let entry = Entry {
                    head: sort::head(key),
                    at: at as u32,
                    class: class << 1 | u32::from(target.is_some()),
                    len: key.len() as u16,
                    shard: self.workspace.hasher.hash(name).shard(self.workspace.shards),
                };
                if let Some(target) = target {
                    let target = target.to_text();
                    self.text.extend_from_slice(&place.part.to_le_bytes());
                    self.text.extend_from_slice(&place.order.to_le_bytes());
                    self.text.extend_from_slice(&(target.as_bytes().len() as u16).to_le_bytes());
                    self.text.extend_from_slice(target.as_bytes());
                }
                self.entries.push(entry);
            }
            RuleKey::Address { net, target } => {
                let row = AddressRow { net: net.trunc(), class, target: target.map(Box::new) };
                self.addresses.push((place, row));
            }
            RuleKey::Pattern { .. } => {
                return Err(StoreError::Bounds {
                    what: "a pattern rule among the rules by name".to_owned(),
                    remedy: "report this as a bug of the list's reader",
                });
            }
        }
        if self.held_bytes() >= self.bytes_max { self.spill() } else { Ok(()) }
    }

    /// Adds an address rewrite of the part at hand.
    pub fn rewrite(&mut self, rewrite: IpRewrite) {
        self.rewrites.push((Place { part: self.part, order: self.order }, rewrite));
        self.order += 1;
    }

    /// All of the part has been pushed. `note` is the reader's own: a resumed build gives it back
    /// ([`super::Builder::finished_parts`]) once the run that holds the part's last rule is on the disk.
    pub fn end_part(&mut self, id: PartId, note: Vec<u8>) -> Result<(), StoreError> {
        self.parts.push(RunPart { number: self.part, id, note, pieces: std::mem::take(&mut self.pieces) });
        self.part = self.workspace.next_part();
        self.order = 0;
        self.open_entry = self.entries.len();
        self.open_text = self.text.len();
        self.open_address = self.addresses.len();
        self.open_rewrite = self.rewrites.len();
        self.open_first = self.firsts.len();
        if self.held_bytes() >= self.bytes_max { self.spill() } else { Ok(()) }
    }

    /// No part follows. What is left goes to the disk.
    pub fn finish(mut self) -> Result<(), StoreError> {
        if self.order > 0 || !self.pieces.is_empty() {
            return Err(StoreError::Bounds {
                what: "a part of a list was begun and not ended".to_owned(),
                remedy: "report this as a bug of the list's reader",
            });
        }
        if !self.parts.is_empty() {
            self.write_whole_parts()?;
        }
        self.finished = true;
        Ok(())
    }

    /// Rules pushed of the part at hand, for who numbers the rules of several of them.
    pub(super) fn set_order(&mut self, order: u64) {
        self.order = order;
    }

    fn held_bytes(&self) -> usize {
        self.text.len() + self.entries.len() * size_of::<Entry>()
    }

    fn class_id(&mut self, class: &Class) -> Result<u32, StoreError> {
        // Lists come in runs of one class; comparing is far cheaper than hashing.
        if self.classes.get(self.last_class as usize).is_some_and(|last| last.class == *class) {
            return Ok(self.last_class);
        }
        let mut class = class.clone();
        class.condition.take_if(|condition| condition.is_empty());
        let next = self.classes.len();
        self.last_class = match self.class_ids.entry(class) {
            Known::Occupied(known) => *known.get(),
            Known::Vacant(_) if next == CLASSES_MAX => return Err(super::too_many_classes()),
            Known::Vacant(place) => {
                self.classes.push(CollectedClass { class: place.key().clone(), seen: None });
                *place.insert(next as u32)
            }
        };
        Ok(self.last_class)
    }

    /// Writes what is held: the whole parts if there are some, else a piece of the part at hand.
    fn spill(&mut self) -> Result<(), StoreError> {
        if self.parts.is_empty() {
            let number = self.write_run(Vec::new(), self.entries.len(), self.firsts.len())?;
            self.pieces.push(number);
            self.entries.clear();
            self.text.clear();
            self.firsts.clear();
            // Address rules stay: they are few, and go with the part's end.
        } else {
            self.write_whole_parts()?;
        }
        let classes = self.classes.len() * CLASS_BYTES + (self.addresses.len() + self.rewrites.len()) * ADDRESS_BYTES;
        let share = self.workspace.collector_bytes();
        self.bytes_max = share.saturating_sub(classes).max(share / 4);
        Ok(())
    }

    fn write_whole_parts(&mut self) -> Result<(), StoreError> {
        let parts = std::mem::take(&mut self.parts);
        self.write_run(parts, self.open_entry, self.open_first)?;
        self.entries.drain(..self.open_entry);
        self.text.drain(..self.open_text);
        for entry in &mut self.entries {
            entry.at -= self.open_text as u32;
        }
        self.firsts.drain(..self.open_first);
        (self.open_entry, self.open_text, self.open_first) = (0, 0, 0);
        (self.open_address, self.open_rewrite) = (0, 0);
        Ok(())
    }

    /// Sorts the first `count` entries and writes them as a run; gives its number.
    fn write_run(&mut self, parts: Vec<RunPart>, count: usize, firsts: usize) -> Result<u32, StoreError> {
        let Collector { workspace, entries, text, classes, .. } = self;
        let entries = &mut entries[..count];
        // Classes by their numbers in the run: those that it has.
        let mut uses = vec![0u64; classes.len()];
        entries.iter().for_each(|entry| uses[(entry.class >> 1) as usize] += 1);
        // A piece has none of the address rules, which stay until the part ends.
        let (addresses, rewrites) = if parts.is_empty() { (0, 0) } else { (self.open_address, self.open_rewrite) };
        self.addresses[..addresses].iter().for_each(|(_, row)| uses[row.class as usize] += 1);
        // By the ids of the parts, not by when this thread came to them.
        let id_of = |place: &Place| {
            let part = parts.binary_search_by_key(&place.part, |part| part.number).ok();
            (part.map(|part| parts[part].id), place.order)
        };
        let mut first: Vec<Option<Place>> = vec![None; classes.len()];
        for (class, place) in &self.firsts[..firsts] {
            let first = &mut first[*class as usize];
            if first.is_none_or(|first| id_of(place) < id_of(&first)) {
                *first = Some(*place);
            }
        }
        let mut run_ids = vec![0u32; classes.len()];
        let mut run_classes = Vec::new();
        for (id, class) in classes.iter().enumerate() {
            // A class may be seen first in a piece by an address rule that comes with the part's end: its place goes with the piece.
            if uses[id] > 0 || first[id].is_some() {
                run_ids[id] = run_classes.len() as u32;
                let first = first[id].unwrap_or(Place { part: u32::MAX, order: u64::MAX });
                run_classes.push(RunClass { class: class.class.clone(), uses: uses[id], duplicates: 0, first });
            }
        }
        let number = workspace.next_run();
        let places = sort::sort(entries, text, workspace.shards);
        let mut writer = RunWriter::create(workspace.run_path(number))?;
        for (shard, place) in places.into_iter().enumerate().filter(|(_, place)| !place.is_empty()) {
            writer.begin_segment(shard as u16)?;
            let mut last: Option<Entry> = None;
            for entry in &entries[place] {
                let class = run_ids[(entry.class >> 1) as usize];
                let target = target_of(entry, text);
                // Of equal ones the first stays. Those with targets are left to the merge, which knows the order of the parts.
                let is_again = |last: Entry| last.class == entry.class && last.key(text) == entry.key(text);
                if target.is_none() && last.is_some_and(is_again) {
                    run_classes[class as usize].duplicates += 1;
                    continue;
                }
                last = Some(*entry);
                writer.push(entry.key(text), class, target)?;
            }
        }
        let (bytes, segments) = writer.finish(self.in_journal)?;
        let mut addresses: Vec<_> = self.addresses.drain(..addresses).collect();
        addresses.iter_mut().for_each(|(_, row)| row.class = run_ids[row.class as usize]);
        let rewrites = self.rewrites.drain(..rewrites).collect();
        let record = RunRecord { number, bytes, segments, classes: run_classes, parts, addresses, rewrites };
        self.workspace.add_run(record, self.in_journal)?;
        Ok(number)
    }
}

/// The target that follows the entry's key in the text.
fn target_of<'a>(entry: &Entry, text: &'a [u8]) -> Option<Target<'a>> {
    if entry.class & 1 == 0 {
        return None;
    }
    let behind = &text[entry.at as usize + usize::from(entry.len)..];
    let (part, rest) = behind.split_first_chunk()?;
    let (order, rest) = rest.split_first_chunk()?;
    let (len, rest) = rest.split_first_chunk()?;
    let place = Place { part: u32::from_le_bytes(*part), order: u64::from_le_bytes(*order) };
    Some(Target { place, text: rest.get(..usize::from(u16::from_le_bytes(*len)))? })
}

impl Drop for Collector {
    fn drop(&mut self) {
        self.workspace.collector_ends(self.finished);
    }
}
