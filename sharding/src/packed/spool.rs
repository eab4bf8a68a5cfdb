//! The names of a shard on the disk, between the pass that counts and the pass that codes.
//!
//! Names are front-coded there, some 14 octets each; the file is gone when the [`Spool`] is. Memory does not grow with the names.

use std::fs::{self, File};
use std::io::{self, BufReader, BufWriter, Read, Seek, Write};
use std::path::{Path, PathBuf};

use super::common_len;
use crate::StoreError;
use crate::rule::ClassId;

/// Octets written and read at a time.
const CHUNK_BYTES: usize = 1 << 16;

/// Names with their classes, written in order and then read once.
pub(super) struct Spool {
    path: PathBuf,
    file: BufWriter<File>,
    before: Vec<u8>,
}

impl Spool {
    /// Makes the file, which must be nobody else's.
    pub(super) fn create(path: &Path) -> Result<Spool, StoreError> {
        let file = File::options().read(true).write(true).create(true).truncate(true).open(path);
        let file = file.map_err(StoreError::io(path, "make the file"))?;
        Ok(Spool { path: path.to_path_buf(), file: BufWriter::with_capacity(CHUNK_BYTES, file), before: Vec::new() })
    }

    pub(super) fn push(&mut self, key: &[u8], classes: &[ClassId]) -> Result<(), StoreError> {
        let shared = common_len(&self.before, key);
        let tail = &key[shared..];
        let mut write = || -> io::Result<()> {
            self.file.write_all(&(shared as u16).to_le_bytes())?;
            self.file.write_all(&(tail.len() as u16).to_le_bytes())?;
            self.file.write_all(tail)?;
            self.file.write_all(&(classes.len() as u32).to_le_bytes())?;
            classes.iter().try_for_each(|class| self.file.write_all(&class.to_le_bytes()))
        };
        write().map_err(StoreError::io(&self.path, "write the names"))?;
        self.before.truncate(shared);
        self.before.extend_from_slice(tail);
        Ok(())
    }

    /// Calls `found` with every key and its classes, as they were pushed, to the end.
    pub(super) fn read(
        mut self,
        mut found: impl FnMut(&[u8], &[ClassId]) -> Result<(), StoreError>,
    ) -> Result<(), StoreError> {
        let rewound = self.file.flush().and_then(|()| self.file.rewind());
        rewound.map_err(StoreError::io(&self.path, "write the names"))?;
        let mut file = BufReader::with_capacity(CHUNK_BYTES, self.file.get_ref());
        let (mut key, mut classes) = (Vec::new(), Vec::new());
        loop {
            let more = next(&mut file, &mut key, &mut classes);
            if !more.map_err(StoreError::io(&self.path, "read the names back"))? {
                return Ok(());
            }
            found(&key, &classes)?;
        }
    }
}

impl Drop for Spool {
    fn drop(&mut self) {
        // It is in the directory of a build, which goes as a whole when this fails.
        let _ = fs::remove_file(&self.path);
    }
}

/// Reads the next key and its classes; false at the end.
fn next(file: &mut impl io::BufRead, key: &mut Vec<u8>, classes: &mut Vec<ClassId>) -> io::Result<bool> {
    if file.fill_buf()?.is_empty() {
        return Ok(false);
    }
    let mut short = [0; 2];
    file.read_exact(&mut short)?;
    key.truncate(usize::from(u16::from_le_bytes(short)));
    file.read_exact(&mut short)?;
    file.take(u16::from_le_bytes(short).into()).read_to_end(key)?;
    let mut long = [0; 4];
    file.read_exact(&mut long)?;
    classes.clear();
    for _ in 0..u32::from_le_bytes(long) {
        file.read_exact(&mut long)?;
        classes.push(ClassId::from_le_bytes(long));
    }
    Ok(true)
}
