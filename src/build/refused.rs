//! Lines that were refused: the first of each list for the report, all of them for a file.
//!
//! Invariant: what is kept is what reading one list after the other would keep, and no more of it is in memory than the file
//! may have, though parts of lists are read in any order ([`Room`]).

use std::collections::BTreeMap;
use std::fmt::{Display, Write};
use std::path::{Path, PathBuf};

use corewall_sharding::build::{Built, PartId};
use corewall_sharding::publish::Store;

use super::BuildError;
use super::report::{ListReport, Refusal};
use crate::limits;

/// Name of the file in the generation.
pub const FILE_NAME: &str = "refused.txt";

/// The refused lines of all lists, as `FILE:LINE: REASON: TEXT`.
#[derive(Default)]
pub struct Refused {
    text: String,
    /// Those that [`limits::REFUSED_FILE_BYTES_MAX`] left out.
    left_out: u64,
}

impl Refused {
    /// Notes a line for the file, and for its list's report.
    pub fn add(&mut self, report: &mut ListReport, path: &Path, place: &str, text: &str, reason: &dyn Display) {
        report.refused += 1;
        let reason = reason.to_string();
        *report.refused_for.entry(reason.clone()).or_default() += 1;
        let text = printable(text);
        self.add_line(path, &line_of(place, &reason, &text));
        if report.first_refused.len() < limits::REFUSED_SHOWN_MAX {
            report.first_refused.push(Refusal { place: place.to_owned(), reason, text });
        }
    }

    /// Notes what a part has kept of its refused lines ([`line_of`]), of which there were `refused`.
    pub fn add_part(&mut self, path: &Path, lines: &str, refused: u64) {
        let mut added = 0;
        for line in lines.lines() {
            self.add_line(path, line);
            added += 1;
        }
        self.left_out += refused.saturating_sub(added);
    }

    fn add_line(&mut self, path: &Path, line: &str) {
        if self.text.len() < limits::REFUSED_FILE_BYTES_MAX {
            // Writing to a text cannot fail.
            let _ = writeln!(self.text, "{}:{line}", path.display());
        } else {
            self.left_out += 1;
        }
    }

    /// Writes the file into the generation, or to `file`, and tells where it is; none when there is nothing to say.
    ///
    /// # Errors
    /// It cannot be written.
    pub fn save(
        mut self,
        built: &mut Built,
        store: &Store,
        file: Option<&Path>,
    ) -> Result<Option<PathBuf>, BuildError> {
        if self.left_out > 0 {
            let _ = writeln!(self.text, "and {} lines more", self.left_out);
        }
        match file {
            Some(file) => std::fs::write(file, &self.text)
                .map(|()| Some(file.to_path_buf()))
                .map_err(|source| BuildError::Refused { path: file.to_path_buf(), source }),
            None if self.text.is_empty() => Ok(None),
            None => {
                built.add_sidecar(FILE_NAME, self.text.as_bytes())?;
                Ok(Some(store.generation_dir(built.number).join(FILE_NAME)))
            }
        }
    }
}

/// A refused line as the file has it behind the list's path. `text` is [`printable`].
pub fn line_of(place: &str, reason: &str, text: &str) -> String {
    format!("{place}: {reason}: {text}")
}

/// A list's text is not to move an operator's cursor.
pub fn printable(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { '\u{fffd}' } else { c }).collect()
}

/// How much of the file the parts take up together.
///
/// The file holds what comes first in the order of the parts. So the last one goes when those before it fill the file
/// without it: whatever is still to come, it has no place there.
#[derive(Default)]
pub struct Room {
    parts: BTreeMap<PartId, usize>,
    bytes: usize,
}

impl Room {
    /// A part has kept so many bytes more. Gives the parts that have none of their lines in the file.
    pub fn take(&mut self, part: PartId, bytes: usize) -> Vec<PartId> {
        *self.parts.entry(part).or_default() += bytes;
        self.bytes += bytes;
        let mut gone = Vec::new();
        while let Some(last) = self.parts.last_entry()
            && self.bytes - last.get() >= limits::REFUSED_FILE_BYTES_MAX
        {
            let (part, bytes) = last.remove_entry();
            self.bytes -= bytes;
            gone.push(part);
        }
        gone
    }

    /// Whether a part may keep more lines.
    pub fn is_left_for(&self, part: PartId) -> bool {
        let before: usize = self.parts.range(..=part).map(|(_, bytes)| bytes).sum();
        before < limits::REFUSED_FILE_BYTES_MAX
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn part(list: u16, part: u32) -> PartId {
        PartId { list, part }
    }

    #[test]
    fn what_comes_first_in_the_lists_keeps_its_place_whenever_it_comes() {
        let half = limits::REFUSED_FILE_BYTES_MAX / 2;
        let mut room = Room::default();
        assert_eq!(room.take(part(1, 7), half), []);
        assert_eq!(room.take(part(2, 0), half), [], "both fill the file");
        assert!(room.is_left_for(part(1, 7)) && !room.is_left_for(part(2, 0)));
        assert_eq!(room.take(part(0, 0), half), [part(2, 0)], "an earlier one takes the place of the last");
        assert_eq!(room.take(part(1, 6), half + 1), [part(1, 7)]);
        assert_eq!(room.take(part(3, 0), 1), [part(3, 0)], "nothing of it would be in the file");
        assert!(room.bytes <= limits::REFUSED_FILE_BYTES_MAX + half);
    }
}
