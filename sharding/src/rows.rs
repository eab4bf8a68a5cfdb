//! One worker's connection to one shard, and the two questions a query asks of it.
//!
//! Invariant: the file is opened `immutable=1`, so SQLite takes no lock and never looks whether it changed; a generation
//! never does. The connection has no mutex: a [`Shard`] belongs to one worker. Statements are prepared once and kept,
//! in one value with the connection they borrow; dropping the shard frees both.

use std::path::{Path, PathBuf};

use rusqlite::{Connection, OpenFlags, OptionalExtension, Statement};
use self_cell::self_cell;

use crate::StoreError;
use crate::name::Name;
use crate::rule::{ClassId, Kind};
use crate::schema::{self, APPLICATION_ID, FORMAT_VERSION};

/// KiB of page cache of one connection when the file is not mapped; mapped pages need none.
const CACHE_KIB: i64 = 2_048;

/// A shard opened for reading.
pub struct Shard {
    path: PathBuf,
    cell: Cell,
}

struct Statements<'conn> {
    classes: Statement<'conn>,
    target: Statement<'conn>,
}

self_cell!(
    struct Cell {
        owner: Connection,
        #[not_covariant]
        dependent: Statements,
    }
);

impl Shard {
    /// Opens a shard of a published generation. `mmap` maps the whole file, the fastest while it fits in memory; far
    /// beyond that, page-fault storms make plain reads the better choice.
    pub(crate) fn open(path: &Path, mmap: bool) -> Result<Shard, StoreError> {
        let conn = connect(path, mmap)?;
        let cell = Cell::try_new(conn, |conn| {
            Ok(Statements {
                classes: conn.prepare("SELECT class FROM rule WHERE name = ?1")?,
                target: conn.prepare("SELECT target FROM alias WHERE name = ?1 AND class = ?2")?,
            })
        });
        let cell = cell.map_err(StoreError::sqlite(path, "prepare the lookups"))?;
        Ok(Shard { path: path.to_path_buf(), cell })
    }

    /// Calls `found` with the class of each rule for this very name, as [`crate::name::NameText`] spells it. On the
    /// query path: allocates nothing of its own unless it fails. A damaged page is an error, also after some calls of `found`.
    pub fn classes_of(&mut self, name_text: &str, found: &mut dyn FnMut(ClassId)) -> Result<(), StoreError> {
        let read = self.cell.with_dependent_mut(|_, statements| -> rusqlite::Result<()> {
            statements.classes.raw_bind_parameter(1, name_text)?;
            let mut rows = statements.classes.raw_query();
            while let Some(row) = rows.next()? {
                found(row.get(0)?);
            }
            Ok(())
        });
        read.map_err(StoreError::sqlite(&self.path, "look a name up"))
    }

    /// Some name with a rule of this kind that covers the name itself; for an operator to try. Reads through the shard.
    pub fn example(&mut self, kind: Kind) -> Result<Option<String>, StoreError> {
        let sql =
            "SELECT Name FROM every_rule WHERE Kind = ?1 AND Scope IN ('exact', 'subtree') AND Name <> '' LIMIT 1";
        let conn = self.cell.borrow_owner();
        let name = conn.query_row(sql, [schema::kind_word(kind)], |row| row.get(0)).optional();
        name.map_err(StoreError::sqlite(&self.path, "find an example"))
    }

    /// Where the alias rule of this name and class leads; none when there is no such rule.
    pub fn target_of(&mut self, name_text: &str, class: ClassId) -> Result<Option<Name>, StoreError> {
        let read = self.cell.with_dependent_mut(|_, statements| -> rusqlite::Result<_> {
            statements.target.raw_bind_parameter(1, name_text)?;
            statements.target.raw_bind_parameter(2, class)?;
            let mut rows = statements.target.raw_query();
            let Some(row) = rows.next()? else { return Ok(None) };
            Ok(Some(schema::name_from_text(row.get_ref(0)?.as_str()?)))
        });
        let name = read.map_err(StoreError::sqlite(&self.path, "look an alias up"))?;
        name.transpose().map_err(|_| StoreError::damaged(&self.path, format!("bad alias target of `{name_text}`")))
    }
}

/// A read-only connection to a shard of this version.
pub(crate) fn connect(path: &Path, mmap: bool) -> Result<Connection, StoreError> {
    let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX | OpenFlags::SQLITE_OPEN_URI;
    let opened = || -> rusqlite::Result<(Connection, u32, u32)> {
        let conn = Connection::open_with_flags(immutable_uri(path), flags)?;
        conn.pragma_update(None, "mmap_size", if mmap { i64::MAX } else { 0 })?;
        conn.pragma_update(None, "cache_size", -CACHE_KIB)?;
        conn.pragma_update(None, "trusted_schema", false)?;
        let application = conn.pragma_query_value(None, "application_id", |row| row.get(0))?;
        let version = conn.pragma_query_value(None, "user_version", |row| row.get(0))?;
        Ok((conn, application, version))
    };
    let (conn, application, version) = opened().map_err(StoreError::sqlite(path, "open the shard"))?;
    if application != APPLICATION_ID {
        return Err(StoreError::damaged(path, "it is not a shard of a store"));
    }
    if !schema::is_readable(version) {
        let found = version.to_string();
        return Err(StoreError::Format { path: path.to_path_buf(), found, expected: FORMAT_VERSION });
    }
    Ok(conn)
}

/// `file:` URI of a path with what SQLite would read as its end or as an escape written as `%XX`.
pub(crate) fn immutable_uri(path: &Path) -> String {
    let mut uri = String::from("file:");
    for character in path.to_string_lossy().chars() {
        match character {
            '%' => uri.push_str("%25"),
            '?' => uri.push_str("%3f"),
            '#' => uri.push_str("%23"),
            _ => uri.push(character),
        }
    }
    uri + "?immutable=1"
}
