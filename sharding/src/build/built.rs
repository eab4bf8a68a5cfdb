//! A generation that is written and not yet published.

use std::path::PathBuf;

use super::report::BuildReport;
use crate::StoreError;
use crate::generation::PatternRow;
use crate::manifest::{FileEntry, MANIFEST_NAME, Manifest};
use crate::publish::{Sealed, Staging, write_durably};

/// A generation on the disk that no server reads yet. Dropped without [`Built::publish`], it is removed.
pub struct Built {
    /// The number that it will have.
    pub number: u64,
    /// Its patterns, to be compiled into a sidecar; index is the pattern's id.
    pub patterns: Vec<PatternRow>,
    /// What was built.
    pub report: BuildReport,
    pub(super) manifest: Manifest,
    /// Whether a later build can go on with this one.
    pub(super) is_resumable: bool,
    pub(super) staging: Staging,
}

impl Built {
    /// Writes a further file beside the shards, to be read by [`crate::publish::Generation::sidecar`].
    pub fn add_sidecar(&mut self, name: &str, bytes: &[u8]) -> Result<(), StoreError> {
        let plain = !name.is_empty()
            && name.bytes().all(|octet| octet.is_ascii_alphanumeric() || b"._-".contains(&octet))
            && !name.starts_with('.');
        if !plain || name == MANIFEST_NAME || self.manifest.file(name).is_some() {
            return Err(StoreError::Bounds {
                what: format!("a file called `{name}` in a generation"),
                remedy: "choose a new name of letters, digits, dots, dashes and underscores",
            });
        }
        write_durably(&self.staging.dir.join(name), bytes)?;
        self.manifest.files.push(FileEntry::of_bytes(name, bytes));
        Ok(())
    }

    /// Opens and verifies what was built and gives it its number. Nobody serves it until it is published.
    ///
    /// When the disk fails and the build has an identity, what is finished stays for a build that resumes it.
    pub fn seal(mut self) -> Result<Sealed, StoreError> {
        let text = self.manifest.to_text()?;
        match write_durably(&self.staging.dir.join(MANIFEST_NAME), text.as_bytes()) {
            Err(source) if self.is_resumable => {
                Err(StoreError::Unfinished { source: Box::new(source), dir: self.staging.keep() })
            }
            written => written.and_then(|()| self.staging.seal()),
        }
    }

    /// Ends the build and leaves what is finished for one that resumes it; gives the directory. None when nothing is left:
    /// without an identity nobody could go on.
    pub fn keep(mut self) -> Option<PathBuf> {
        self.is_resumable.then(|| self.staging.keep())
    }

    /// Opens and verifies what was built, then makes it the current generation. On failure the old one stays.
    pub fn publish(self) -> Result<u64, StoreError> {
        self.seal()?.publish()
    }
}
