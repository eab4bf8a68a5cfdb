//! One worker's connection to one shard, and the two questions a query asks of it.
//!
//! Invariant: the file is opened `immutable=1`, so SQLite takes no lock and never looks whether it changed; a generation
//! never does. The connection has no mutex: a [`Shard`] belongs to one worker. Statements are prepared once and kept,
//! in one value with the connection they borrow; dropping the shard frees both.

use std::collections::HashSet;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};

use rusqlite::{Connection, OpenFlags, Params, Statement};
use self_cell::self_cell;

use crate::StoreError;
use crate::name::Name;
use crate::packed::{DecoderCache, PackedRules};
use crate::rule::{ClassId, Kind};
use crate::schema::{self, APPLICATION_ID, FORMAT_VERSION, RowError};
use crate::vfs;

/// KiB of page cache of all connections of one thread together, when files are not mapped; mapped pages need none. The pages that lead to
/// the others are what matters: measured, 512 KiB a shard are as good as 2 MiB.
const CACHES_KIB: i64 = 32 << 10;
/// The same of a thread that reads what is not in memory.
const WAITING_CACHES_KIB: i64 = 4 << 10;
/// KiB of one of them at least.
const CACHE_KIB_MIN: i64 = 128;
/// KiB of one of them at most.
pub(crate) const CACHE_KIB_MAX: i64 = 2_048;

/// How a connection reads its shard.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reads {
    /// SQLite maps the file: the fastest while it fits in memory; far beyond that, page-fault storms make plain reads the
    /// better choice. A page that is not in memory is waited for.
    Mapped,
    /// Pages are read into SQLite's own cache. One that is not in memory is waited for.
    Waiting,
    /// The same, but a page that is not in memory is not waited for: the lookup fails with [`StoreError::WouldWait`].
    InMemory,
}

/// How a shard is opened.
#[derive(Clone, Copy)]
pub(crate) struct Opening<'a> {
    pub(crate) reads: Reads,
    /// KiB of pages that the connection may keep.
    pub(crate) cache_kib: i64,
    /// Of the generation.
    pub(crate) decoders: &'a DecoderCache,
}

impl<'a> Opening<'a> {
    /// For one pass over a shard, or a look at it.
    pub(crate) fn once(decoders: &'a DecoderCache) -> Opening<'a> {
        Opening { reads: Reads::Waiting, cache_kib: CACHE_KIB_MAX, decoders }
    }

    /// For the lookups of one thread that has a connection to each of so many shards.
    pub(crate) fn of_many(reads: Reads, shards: u16, decoders: &'a DecoderCache) -> Opening<'a> {
        // Whoever waits for the disk anyway needs none but for the pages of one lookup.
        let all_kib = if reads == Reads::Waiting { WAITING_CACHES_KIB } else { CACHES_KIB };
        let cache_kib = (all_kib / i64::from(shards.max(1))).clamp(CACHE_KIB_MIN, CACHE_KIB_MAX);
        Opening { reads, cache_kib, decoders }
    }
}

/// A shard opened for reading.
pub struct Shard {
    path: PathBuf,
    cell: Cell,
}

struct Statements<'conn> {
    rules: Rules<'conn>,
    target: Statement<'conn>,
}

/// The rules by name in the shard's layout.
enum Rules<'conn> {
    Sql(Statement<'conn>),
    Packed(Box<PackedRules<'conn>>),
}

self_cell!(
    struct Cell {
        owner: Connection,
        #[not_covariant]
        dependent: Statements,
    }
);

impl Shard {
    /// Opens a shard of a published generation. Waits for the disk, whatever `reads` says of the lookups.
    pub(crate) fn open(path: &Path, how: Opening<'_>) -> Result<Shard, StoreError> {
        let Opening { reads, cache_kib, decoders } = how;
        let conn = connect(path, reads, cache_kib)?;
        let cell = Cell::try_new(conn, |conn| -> Result<_, RowError> {
            let rules = if is_packed(conn)? {
                Rules::Packed(Box::new(PackedRules::open(conn, decoders)?))
            } else {
                Rules::Sql(conn.prepare("SELECT class FROM rule WHERE name = ?1")?)
            };
            Ok(Statements { rules, target: conn.prepare("SELECT target FROM alias WHERE name = ?1 AND class = ?2")? })
        });
        let cell = cell.map_err(|error| error.at(path, "prepare the lookups"))?;
        if reads == Reads::InMemory {
            let conn = cell.borrow_owner();
            vfs::stop_waiting(conn).map_err(StoreError::sqlite(path, "stop waiting for the disk"))?;
        }
        Ok(Shard { path: path.to_path_buf(), cell })
    }

    /// Whether a shard opened with [`Reads::InMemory`] can tell what is in memory: not on every file system. Where it
    /// cannot, each page that SQLite's own cache does not hold counts as one that would be waited for.
    pub fn knows_what_is_in_memory(&self) -> bool {
        vfs::knows_what_is_in_memory(self.cell.borrow_owner()).unwrap_or(false)
    }

    /// Calls `found` with the class of each rule for this very name, as [`crate::name::NameText`] spells it. On the
    /// query path: allocates nothing of its own unless it fails. A damaged page is an error, and so is one that would be
    /// waited for ([`StoreError::WouldWait`]), also after some calls of `found`.
    pub fn classes_of(&mut self, name_text: &str, found: &mut dyn FnMut(ClassId)) -> Result<(), StoreError> {
        let read = self.cell.with_dependent_mut(|_, statements| -> Result<(), RowError> {
            let classes = match &mut statements.rules {
                Rules::Packed(rules) => return rules.classes_of(name_text, found),
                Rules::Sql(classes) => classes,
            };
            classes.raw_bind_parameter(1, name_text)?;
            let mut rows = classes.raw_query();
            while let Some(row) = rows.next()? {
                found(row.get(0)?);
            }
            Ok(())
        });
        read.map_err(|error| error.at(&self.path, "look a name up"))
    }

    /// Calls `found` with the name's text, the class and for an alias the target of each rule by name, until it breaks: all rules of a name one after
    /// the other, names in an order of the layout's own. Reads the whole shard, with memory that does not grow with it.
    pub fn each_rule(&mut self, found: &mut EachRule<'_>) -> Result<(), StoreError> {
        let read = self.cell.with_dependent_mut(|conn, statements| match &mut statements.rules {
            Rules::Sql(_) => each_row(conn, found),
            Rules::Packed(rules) => each_packed(conn, rules, &mut statements.target, found),
        });
        read.map_err(|error| error.at(&self.path, "read the rules"))
    }

    /// Some name with a rule of this kind that covers the name itself; for an operator to try. Reads through the shard.
    pub fn example(&mut self, kind: Kind) -> Result<Option<String>, StoreError> {
        let sql = "SELECT id FROM class WHERE kind = ?1 AND scope IN ('exact', 'subtree')";
        let classes = class_ids(self.cell.borrow_owner(), sql, [schema::kind_word(kind)]);
        let classes = classes.map_err(|error| error.at(&self.path, "find an example"))?;
        let mut example = None;
        if !classes.is_empty() {
            self.each_rule(&mut |name, class, _| {
                let fits = !name.is_empty() && classes.contains(&class);
                example = fits.then(|| name.to_owned());
                if fits { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
            })?;
        }
        Ok(example)
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

/// Takes a name's text, a class and an alias's target; breaks to hear no more.
pub type EachRule<'a> = dyn FnMut(&str, ClassId, Option<&str>) -> ControlFlow<()> + 'a;

fn is_packed(conn: &Connection) -> rusqlite::Result<bool> {
    conn.query_row("SELECT EXISTS (SELECT 1 FROM sqlite_schema WHERE name = 'block_code')", [], |row| row.get(0))
}

fn class_ids(conn: &Connection, sql: &str, of: impl Params) -> Result<HashSet<ClassId>, RowError> {
    let mut statement = conn.prepare(sql)?;
    let ids = statement.query_map(of, |row| row.get(0))?;
    Ok(ids.collect::<rusqlite::Result<_>>()?)
}

fn each_row(conn: &Connection, found: &mut EachRule<'_>) -> Result<(), RowError> {
    let sql =
        "SELECT rule.name, rule.class, alias.target FROM rule LEFT JOIN alias USING (name, class) ORDER BY rule.name";
    let mut statement = conn.prepare(sql)?;
    let mut rows = statement.query([])?;
    while let Some(row) = rows.next()? {
        let text = |place| -> Result<Option<&str>, RowError> {
            Ok(row.get_ref(place)?.as_str_or_null().map_err(rusqlite::Error::from)?)
        };
        if found(text(0)?.unwrap_or_default(), row.get(1)?, text(2)?).is_break() {
            break;
        }
    }
    Ok(())
}

fn each_packed(
    conn: &Connection,
    rules: &mut PackedRules<'_>,
    target: &mut Statement<'_>,
    found: &mut EachRule<'_>,
) -> Result<(), RowError> {
    let aliases = class_ids(conn, "SELECT id FROM class WHERE kind = 'alias'", [])?;
    let mut failure = None;
    rules.each(conn, &mut |name, class| {
        let flow = if aliases.contains(&class) {
            let read = target.query_row((name, class), |row| Ok(found(name, class, Some(row.get_ref(0)?.as_str()?))));
            read.unwrap_or_else(|error| {
                failure = Some(error);
                ControlFlow::Break(())
            })
        } else {
            found(name, class, None)
        };
        flow.is_continue()
    })?;
    failure.map_or(Ok(()), |error| Err(error.into()))
}

/// A read-only connection to a shard of this version.
pub(crate) fn connect(path: &Path, reads: Reads, cache_kib: i64) -> Result<Connection, StoreError> {
    let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX | OpenFlags::SQLITE_OPEN_URI;
    let opened = || -> rusqlite::Result<(Connection, u32, u32)> {
        let conn = match reads {
            Reads::InMemory => vfs::open(immutable_uri(path), flags)?,
            Reads::Mapped | Reads::Waiting => Connection::open_with_flags(immutable_uri(path), flags)?,
        };
        conn.pragma_update(None, "mmap_size", if reads == Reads::Mapped { i64::MAX } else { 0 })?;
        conn.pragma_update(None, "cache_size", -cache_kib)?;
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
