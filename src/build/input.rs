//! A list's file on its way to rules: text through the readers of `lists`, a database through the one of `sharding`.

use std::fmt;
use std::fs::File;
use std::io::{self, BufRead, Read};
use std::path::{Path, PathBuf};

use corewall_sharding::ancestor::{AncestorItem, read_ancestor};
use corewall_sharding::rule::{IpRewrite, Kind, ListId, Rule};

use super::source::{FileState, Source, SourceError, Watch, examine};
use super::{BuildError, ListSpec};
use crate::config::WildcardAction;
use crate::limits;
use crate::lists::{self, Counts, Disabled, Format};

/// What a SQLite database begins with.
const DATABASE_MAGIC: &[u8] = b"SQLite format 3\0";

/// Names tried for an unpacked database.
const UNPACK_ATTEMPTS_MAX: u32 = 64;

/// A list that can be opened.
pub struct Input<'a> {
    /// As it was asked for.
    pub spec: &'a ListSpec,
    /// Its number in the generation.
    pub id: ListId,
    /// What it was when the build began.
    pub state: FileState,
}

/// Where in a list something stands.
#[derive(Clone, Copy, Debug)]
pub enum Place<'a> {
    /// Line from 1.
    Line(u64),
    /// `table:rowid` of a database.
    Row(&'a str),
}

impl fmt::Display for Place<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Line(line) => line.fmt(f),
            Self::Row(row) => row.fmt(f),
        }
    }
}

/// What a list says, in its order.
pub enum Item<'a> {
    /// A rule.
    Rule(&'a Rule, Place<'a>),
    /// An address rewrite.
    Rewrite(IpRewrite),
    /// What could not be read.
    Refused {
        /// Where.
        place: Place<'a>,
        /// The text, shortened when it is long.
        text: &'a str,
        /// Why.
        reason: &'a dyn fmt::Display,
    },
}

impl<'a> Input<'a> {
    /// Makes sure that the list can be read.
    ///
    /// # Errors
    /// It cannot be opened, or is no list.
    pub fn open(id: ListId, spec: &'a ListSpec) -> Result<Input<'a>, BuildError> {
        match examine(&spec.path, spec.format) {
            Ok(state) => Ok(Input { spec, id, state }),
            Err(error) => Err(failed(spec, error)),
        }
    }

    /// A list that only the overlay has: there is no file to read.
    pub fn of_overlay(id: ListId, spec: &'a ListSpec) -> Input<'a> {
        Input { spec, id, state: FileState::default() }
    }

    /// This list cannot be read.
    pub fn failed(&self, error: SourceError) -> BuildError {
        failed(self.spec, error)
    }

    /// How it is read.
    pub fn options(&self) -> lists::Options {
        lists::Options { list: self.id, ..self.spec.options.clone() }
    }

    /// Its text.
    ///
    /// # Errors
    /// It cannot be opened, or is not what it was.
    pub fn source(&self, watch: &Watch) -> Result<Source, SourceError> {
        Source::open(self.id, &self.spec.path, self.spec.format, self.state, watch)
    }

    /// Reads the list to its end.
    ///
    /// # Errors
    /// The file cannot be read, is damaged, or changes meanwhile.
    pub fn read(
        &self,
        disabled: &Disabled,
        watch: &Watch,
        item: &mut dyn FnMut(Item<'_>),
    ) -> Result<Counts, BuildError> {
        if self.spec.format == Format::DnsmasqSqlite {
            return self.read_database(item);
        }
        let mut source = self.source(watch).map_err(|error| self.failed(error))?;
        let counts = self.read_lines(1, &mut source, disabled, item);
        let counts = counts.map_err(|error| self.failed(source.explain(error)))?;
        source.check_unchanged().map_err(|error| self.failed(error))?;
        Ok(counts)
    }

    /// Reads a list, or a piece of it that begins with line `first`.
    ///
    /// # Errors
    /// Those of `reader`.
    pub fn read_lines(
        &self,
        first: u64,
        reader: &mut dyn BufRead,
        disabled: &Disabled,
        item: &mut dyn FnMut(Item<'_>),
    ) -> io::Result<Counts> {
        lists::read_from(first, self.spec.format, reader, &self.options(), disabled, &mut |read| match read {
            lists::Item::Rule { line, rule } => item(Item::Rule(rule, Place::Line(line))),
            lists::Item::Rewrite(rewrite) => item(Item::Rewrite(rewrite)),
            lists::Item::Refused { line, text, reason } => {
                item(Item::Refused { place: Place::Line(line), text, reason: &reason });
            }
            // Counted by the reader.
            lists::Item::Skipped { .. } => {}
        })
    }

    fn read_database(&self, item: &mut dyn FnMut(Item<'_>)) -> Result<Counts, BuildError> {
        let database = Database::open(&self.spec.path).map_err(|error| self.failed(error.into()))?;
        let options = &self.spec.options;
        let forward_block = self.spec.wildcard_action == WildcardAction::ForwardBlock;
        let mut counts = Counts::default();
        read_ancestor(database.path(), self.id, forward_block, &mut |read| {
            counts.lines += 1;
            match read {
                AncestorItem::Rule(mut rule) => {
                    counts.rules += 1;
                    rule.class.important = options.important;
                    // The tables say themselves what a name means: `kind = "allow"` is for those that only block.
                    if options.default_kind == Kind::Allow && rule.class.kind == Kind::Block {
                        rule.class.kind = Kind::Allow;
                    }
                    item(Item::Rule(&rule, Place::Line(counts.lines)));
                }
                AncestorItem::Rewrite(rewrite) => {
                    counts.rewrites += 1;
                    item(Item::Rewrite(rewrite));
                }
                AncestorItem::Refused { place, text, reason } => {
                    item(Item::Refused { place: Place::Row(&place), text: &text, reason: &reason });
                }
            }
        })
        .map_err(|source| BuildError::Database { list: self.spec.list.name.clone(), source: Box::new(source) })?;
        Ok(counts)
    }
}

fn failed(spec: &ListSpec, error: SourceError) -> BuildError {
    let (list, path) = (spec.list.name.clone(), spec.path.clone());
    match error {
        SourceError::Io(source, behind) => BuildError::List { list, path, source, behind },
        SourceError::NoList(what) => BuildError::NoList { list, path, what },
        SourceError::Changed => BuildError::Changed { list, path },
        SourceError::Shut => BuildError::Interrupted,
    }
}

/// A database as SQLite can open it: itself, or unpacked into a file that goes with this value.
enum Database {
    Itself(PathBuf),
    Unpacked(PathBuf),
}

impl Database {
    fn open(path: &Path) -> io::Result<Database> {
        let mut magic = [0; DATABASE_MAGIC.len()];
        let is_plain = File::open(path)?.read_exact(&mut magic).is_ok() && magic == *DATABASE_MAGIC;
        if is_plain {
            return Ok(Database::Itself(path.to_path_buf()));
        }
        let mut reader = lists::open(path)?;
        if !reader.fill_buf()?.starts_with(DATABASE_MAGIC) {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "it is no SQLite database"));
        }
        let (database, mut file) = Self::create()?;
        let bytes_max = unpacked_bytes_max(std::fs::metadata(path)?.len());
        // One byte more tells a database that is too large from one that just fits.
        if io::copy(&mut reader.take(bytes_max + 1), &mut file)? > bytes_max {
            return Err(io::Error::new(
                io::ErrorKind::FileTooLarge,
                format!(
                    "unpacked, the database has more than {} MiB; if that is right, unpack it and name the unpacked file",
                    bytes_max >> 20
                ),
            ));
        }
        Ok(database)
    }

    /// A new file that nobody else knows.
    fn create() -> io::Result<(Database, File)> {
        for attempt in 0..UNPACK_ATTEMPTS_MAX {
            let path = std::env::temp_dir().join(format!("corewall-{}-{attempt}.db", std::process::id()));
            match File::create_new(&path) {
                Ok(file) => return Ok((Database::Unpacked(path), file)),
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
                Err(error) => return Err(error),
            }
        }
        Err(io::Error::new(io::ErrorKind::AlreadyExists, "no name is free in the directory for temporary files"))
    }

    fn path(&self) -> &Path {
        match self {
            Self::Itself(path) | Self::Unpacked(path) => path,
        }
    }
}

/// Bytes that a compressed database of so many bytes may be unpacked to: it goes into the directory for temporary files, which
/// a few kilobytes made for it could fill.
fn unpacked_bytes_max(compressed_bytes: u64) -> u64 {
    compressed_bytes
        .saturating_mul(limits::DATABASE_UNPACKED_RATIO_MAX)
        .clamp(limits::DATABASE_UNPACKED_BYTES_FREE, limits::DATABASE_UNPACKED_BYTES_MAX)
}

impl Drop for Database {
    fn drop(&mut self) {
        if let Self::Unpacked(path) = self {
            // Left behind, it only takes space that the system reclaims.
            let _ = std::fs::remove_file(path);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A file of `bytes` zeros behind what a database begins with, compressed.
    fn compressed(folder: &Path, bytes: u64) -> PathBuf {
        let path = folder.join(format!("{bytes}.db.zst"));
        let mut zeros = DATABASE_MAGIC.chain(io::repeat(0)).take(bytes);
        zstd::stream::copy_encode(&mut zeros, File::create(&path).unwrap(), 1).unwrap();
        path
    }

    #[test]
    fn a_database_is_unpacked_up_to_the_bound_and_no_further() {
        let folder = tempfile::tempdir().unwrap();
        let bytes_max = limits::DATABASE_UNPACKED_BYTES_FREE;
        let fits = Database::open(&compressed(folder.path(), bytes_max)).unwrap();
        assert_eq!(std::fs::metadata(fits.path()).unwrap().len(), bytes_max);
        let Err(error) = Database::open(&compressed(folder.path(), bytes_max + 1)) else { panic!("it was unpacked") };
        assert_eq!(error.kind(), io::ErrorKind::FileTooLarge);
        assert!(error.to_string().contains("more than 64 MiB; if that is right, unpack it"), "{error}");
    }

    #[test]
    fn the_bound_grows_with_the_file_but_not_for_ever() {
        assert_eq!(unpacked_bytes_max(0), limits::DATABASE_UNPACKED_BYTES_FREE);
        assert_eq!(unpacked_bytes_max(10 << 20), 1_000 << 20);
        assert_eq!(unpacked_bytes_max(1 << 40), limits::DATABASE_UNPACKED_BYTES_MAX);
        assert_eq!(unpacked_bytes_max(u64::MAX), limits::DATABASE_UNPACKED_BYTES_MAX);
    }
}
