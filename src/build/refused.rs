//! Lines that were refused: the first of each list for the report, all of them for a file.

use std::fmt::{Display, Write};
use std::path::{Path, PathBuf};

use corewall_sharding::build::Built;
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
        if self.text.len() < limits::REFUSED_FILE_BYTES_MAX {
            // Writing to a text cannot fail.
            let _ = writeln!(self.text, "{}:{place}: {reason}: {}", path.display(), printable(text));
        } else {
            self.left_out += 1;
        }
        if report.first_refused.len() < limits::REFUSED_SHOWN_MAX {
            report.first_refused.push(Refusal { place: place.to_owned(), reason, text: printable(text) });
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

/// A list's text is not to move an operator's cursor.
fn printable(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { '\u{fffd}' } else { c }).collect()
}
