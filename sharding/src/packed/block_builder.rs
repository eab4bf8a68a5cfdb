//! Names in order become a block that fills its room.
//!
//! The codes are fixed before, so the size is known with every name: a block ends where the next name would not fit, and a
//! block is as large as a page of the database holds.

use super::bits::{BitWriter, gamma_bits};
use super::block::{HEAD_START_BYTES, put_number};
use super::model::NameEncoder;
use super::{common_len, sum};
use crate::rule::ClassId;

/// Names of a group: half of them are spelled for a name that is there. Measured, see the table in `README.md`.
pub(super) const GROUP_NAMES: u32 = 64;
/// Octets of a group's entry in the head beside its separator: three numbers and a sum.
const ENTRY_BYTES_MAX: usize = 2 + 2 + 1 + 3 + 3 + 4;
/// Octets that the head's numbers may take beside.
const END_BYTES_MAX: usize = 2;
/// Groups of one block, so that the head's length fits into its 16 bits also when every separator is as long as a name.
const GROUPS_MAX: usize = 32;
const _: () = assert!((GROUPS_MAX + 1) * (super::KEY_BYTES_MAX + ENTRY_BYTES_MAX) < u16::MAX as usize);

/// A name to be added.
#[derive(Clone, Copy)]
pub(super) struct NameRow<'a> {
    pub(super) key: &'a [u8],
    /// The key before it, in this block or the one before.
    pub(super) before: &'a [u8],
    /// Octets that the two share.
    pub(super) shared: usize,
    /// Octets that the two before shared.
    pub(super) shared_before: usize,
    /// What its rules say, in order.
    pub(super) classes: &'a [ClassId],
}

impl NameRow<'_> {
    /// The shortest text that is behind the key before and not behind this one. Empty for the very first.
    pub(super) fn separator(&self, is_very_first: bool) -> &[u8] {
        if is_very_first { &[] } else { self.key.get(..=self.shared).unwrap_or(self.key) }
    }
}

/// Collects the names of one block.
pub(super) struct BlockBuilder {
    room_bytes: usize,
    start: Vec<u8>,
    directory: Vec<u8>,
    bodies: Vec<u8>,
    groups: usize,
    /// The separator of the last group that is finished.
    separator_before: Vec<u8>,
    group: Group,
}

#[derive(Default)]
struct Group {
    separator: Vec<u8>,
    names: u32,
    letters: BitWriter,
    classes: BitWriter,
    /// Names of the run of equal classes that is not written yet.
    run: u32,
    run_classes: Vec<ClassId>,
}

impl BlockBuilder {
    /// An empty block that begins with `start`, for at most `room_bytes` octets.
    pub(super) fn new(start: &[u8], room_bytes: usize) -> BlockBuilder {
        BlockBuilder {
            room_bytes,
            start: start.to_vec(),
            directory: Vec::new(),
            bodies: Vec::new(),
            groups: 0,
            separator_before: Vec::new(),
            group: Group { separator: start.to_vec(), ..Default::default() },
        }
    }

    /// Adds a name. False when there is no room: then it is for the next block. The first one is always taken.
    pub(super) fn push(&mut self, encoder: &mut NameEncoder, row: NameRow<'_>) -> bool {
        if self.group.names == GROUP_NAMES {
            if self.groups + 1 == GROUPS_MAX {
                return false;
            }
            self.end_group();
            self.group.separator.extend_from_slice(row.separator(false));
        }
        let is_first_of_group = self.group.names == 0;
        let is_first = is_first_of_group && self.groups == 0;
        let (from, shared_before) =
            if is_first_of_group { (self.group.separator.len(), None) } else { (row.shared, Some(row.shared_before)) };
        let mark = self.group.letters.mark();
        encoder.put(&mut self.group.letters, row.before, row.key, from, shared_before);
        // The end of the block is at most one octet longer than what the last name shares with the next.
        let len = self.len_with(row.classes) + row.key.len() + 1;
        if !is_first && len > self.room_bytes {
            self.group.letters.back_to(mark);
            return false;
        }
        self.group.push_classes(row.classes);
        self.group.names += 1;
        true
    }

    /// The block's first octets, and the block, which every name in it is lower than `end`.
    pub(super) fn finish(mut self, end: Option<&[u8]>) -> (Vec<u8>, Vec<u8>) {
        self.end_group();
        let mut head = Vec::new();
        put_number(end.map_or(0, |end| end.len() as u32 + 1), &mut head);
        head.extend_from_slice(end.unwrap_or_default());
        head.append(&mut self.directory);
        let head_len = (HEAD_START_BYTES + head.len()) as u16;
        let block = [&head_len.to_le_bytes()[..], &sum(&head).to_le_bytes(), &head, &self.bodies].concat();
        (self.start, block)
    }

    /// Octets of the block so far with one more name of these classes, the end left out.
    fn len_with(&self, classes: &[ClassId]) -> usize {
        let done = HEAD_START_BYTES + END_BYTES_MAX + self.directory.len() + self.bodies.len();
        let entry = ENTRY_BYTES_MAX + self.group.separator.len();
        done + entry + self.group.letters.len() + self.group.classes_len_with(classes)
    }

    fn end_group(&mut self) {
        let group = &mut self.group;
        if group.names > 0 {
            let start = self.bodies.len();
            group.letters.take_into(&mut self.bodies);
            let letters_len = self.bodies.len() - start;
            group.put_run();
            group.classes.take_into(&mut self.bodies);
            let shared = common_len(&self.separator_before, &group.separator);
            let tail = &group.separator[shared..];
            put_number(shared as u32, &mut self.directory);
            put_number(tail.len() as u32, &mut self.directory);
            self.directory.extend_from_slice(tail);
            put_number(group.names, &mut self.directory);
            put_number(letters_len as u32, &mut self.directory);
            put_number((self.bodies.len() - start - letters_len) as u32, &mut self.directory);
            self.directory.extend_from_slice(&sum(&self.bodies[start..]).to_le_bytes());
            self.groups += 1;
            std::mem::swap(&mut self.separator_before, &mut group.separator);
        }
        group.separator.clear();
        (group.names, group.run) = (0, 0);
        group.run_classes.clear();
    }
}

impl Group {
    fn push_classes(&mut self, classes: &[ClassId]) {
        if self.run_classes != classes {
            self.put_run();
            self.run_classes.extend_from_slice(classes);
        }
        self.run += 1;
    }

    fn put_run(&mut self) {
        if self.run > 0 {
            self.classes.put_gamma(self.run);
            self.classes.put_gamma(self.run_classes.len() as u32);
            self.run_classes.iter().for_each(|&class| self.classes.put_gamma(class + 1));
        }
        self.run_classes.clear();
        self.run = 0;
    }

    /// Octets of the classes with one more name, at most.
    fn classes_len_with(&self, classes: &[ClassId]) -> usize {
        let run_bits = |run: u32, classes: &[ClassId]| {
            let ids: u32 = classes.iter().map(|&class| gamma_bits(class + 1)).sum();
            gamma_bits(run) + gamma_bits(classes.len() as u32) + ids
        };
        let open = if self.run > 0 { run_bits(self.run + 1, &self.run_classes) } else { 0 };
        let new = if self.run > 0 && self.run_classes == classes { 0 } else { run_bits(1, classes) };
        self.classes.len() + (open + new).div_ceil(8) as usize
    }
}
