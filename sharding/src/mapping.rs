//! Files of a generation, mapped read-only.
//!
//! Invariant: only files that nothing writes to any more are mapped, so that what was checked once stays as it is. Who truncates one
//! under a running server gets a SIGBUS, as with any mapping.

use std::fs::File;
use std::path::Path;

use memmap2::Mmap;

use crate::StoreError;

/// Maps a finished file of a generation; an empty one gives an empty mapping.
pub(crate) fn map(path: &Path) -> Result<Mmap, StoreError> {
    let file = File::open(path).map_err(StoreError::io(path, "open the file"))?;
    // SAFETY: the mapping is read-only and the file belongs to a generation, which is never modified once published:
    // `Built::publish` renames a finished directory into place and nothing opens a file of it for writing.
    unsafe { Mmap::map(&file) }.map_err(StoreError::io(path, "map the file"))
}
