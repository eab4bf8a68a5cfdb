//! A list's file on its way to rules: text through the readers of `lists`, a database through the one of `sharding`.

use std::fmt;
use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use corewall_sharding::ancestor::{AncestorItem, read_ancestor};
use corewall_sharding::rule::{IpRewrite, Kind, ListId, Rule};

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
// One item exists at a time, as with the rule in it.
#[expect(clippy::large_enum_variant)]
pub enum Item<'a> {
    /// A rule.
    Rule(Rule, Place<'a>),
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
    /// Makes sure that the list can be opened.
    ///
    /// # Errors
    /// It cannot.
    pub fn open(id: ListId, spec: &'a ListSpec) -> Result<Input<'a>, BuildError> {
        let input = Input { spec, id };
        lists::open(&spec.path).map_err(|error| input.failed(error))?;
        Ok(input)
    }

    /// This list cannot be read.
    pub fn failed(&self, source: io::Error) -> BuildError {
        BuildError::List { list: self.spec.list.name.clone(), path: self.spec.path.clone(), source }
    }

    /// Reads the list to its end.
    ///
    /// # Errors
    /// The file cannot be read, or is damaged.
    pub fn read(&self, disabled: &Disabled, item: &mut dyn FnMut(Item<'_>)) -> Result<Counts, BuildError> {
        match self.spec.format {
            Format::DnsmasqSqlite => self.read_database(item),
            _ => self.read_text(disabled, item),
        }
    }

    fn read_text(&self, disabled: &Disabled, item: &mut dyn FnMut(Item<'_>)) -> Result<Counts, BuildError> {
        let ListSpec { format, options, path, .. } = self.spec;
        let options = lists::Options { list: self.id, ..options.clone() };
        let mut reader = lists::open(path).map_err(|error| self.failed(error))?;
        lists::read(*format, &mut reader, &options, disabled, &mut |read| match read {
            lists::Item::Rule { line, rule } => item(Item::Rule(rule, Place::Line(line))),
            lists::Item::Rewrite(rewrite) => item(Item::Rewrite(rewrite)),
            lists::Item::Refused { line, text, reason } => {
                item(Item::Refused { place: Place::Line(line), text, reason: &reason });
            }
            // Counted by the reader.
            lists::Item::Skipped { .. } => {}
        })
        .map_err(|error| self.failed(error))
    }

    fn read_database(&self, item: &mut dyn FnMut(Item<'_>)) -> Result<Counts, BuildError> {
        let database = Database::open(&self.spec.path).map_err(|error| self.failed(error))?;
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
                    item(Item::Rule(rule, Place::Line(counts.lines)));
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
