//! The two files of one shard, written from rows that come in key order.
//!
//! Invariant: the bytes written depend on nothing but the rows, the tables beside them and the generation's number. Rows go in sorted, so
//! SQLite fills page after page and never splits one; there is no journal, for a shard that is not finished is thrown away whole.

use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rusqlite::{Connection, OpenFlags, Statement, params};

use crate::StoreError;
use crate::filter;
use crate::generation::{AddressRow, PatternRow};
use crate::manifest::{FileEntry, Layout};
use crate::packed::{PackedCode, PackedWriter};
use crate::rule::{Class, ClassId, IpRewrite, List};
use crate::schema::{self, APPLICATION_ID, FORMAT_VERSION};

/// Bytes of a shard's page. Measured, see the table in `README.md`.
pub(crate) const PAGE_BYTES: u32 = 4_096;
/// KiB of pages that SQLite may hold back while it writes: the last leaf and the few pages above it are all that it needs.
const CACHE_KIB: i64 = 2_048;
/// Bytes of memory of a shard being written, the rows that wait for their statement among them.
pub(crate) const SHARD_FILE_BYTES: u64 = (CACHE_KIB as u64 + 512) * 1_024;
/// Rows of one statement. A statement of its own for each row takes twice as long: the place to insert is looked for anew.
const ROWS_A_STATEMENT: usize = 256;

/// What each shard's file says alike.
pub(crate) struct Common<'a> {
    pub(crate) generation: u64,
    pub(crate) layout: Layout,
    pub(crate) filter_bits: u8,
    /// Of the layout `packed`.
    pub(crate) code: Option<Arc<PackedCode>>,
    pub(crate) lists: &'a [List],
    /// By final id.
    pub(crate) classes: &'a [Class],
}

/// What a shard holds beside rules by name, with final class ids.
#[derive(Default)]
pub(crate) struct Beside {
    pub(crate) patterns: Vec<PatternRow>,
    pub(crate) addresses: Vec<AddressRow>,
    pub(crate) rewrites: Vec<IpRewrite>,
}

/// What takes the rows of a shard, in the order of their keys ([`crate::row_key`]); those of one name come one after the other in the
/// order of their classes, and no name and class comes twice.
pub(crate) trait RowSink {
    /// Takes a rule: the name's text, its class, and the target's text when it is an alias.
    fn row(&mut self, name: &str, class: ClassId, target: Option<&str>) -> Result<(), StoreError>;

    /// No row follows.
    fn finish(&mut self) -> Result<(), StoreError>;
}

/// A shard's database being written, in one transaction.
pub(crate) struct ShardFile {
    conn: Connection,
    path: PathBuf,
}

impl ShardFile {
    /// Makes the file with the tables that every shard has a copy of, in the place of one that a killed build left.
    pub(crate) fn create(path: &Path, common: &Common<'_>) -> Result<ShardFile, StoreError> {
        match fs::remove_file(path) {
            Err(error) if error.kind() != ErrorKind::NotFound => {
                return Err(StoreError::io(path, "remove what a killed build left")(error));
            }
            _ => {}
        }
        let begin = || -> rusqlite::Result<Connection> {
            let conn = connect(path)?;
            conn.execute_batch("BEGIN")?;
            for tables in schema::tables(common.layout) {
                conn.execute_batch(tables)?;
            }
            schema::write_common(&conn, common.lists, common.classes)?;
            Ok(conn)
        };
        let conn = begin().map_err(StoreError::sqlite(path, "begin the shard"))?;
        Ok(ShardFile { conn, path: path.to_path_buf() })
    }

    /// What writes the rules by name in their layout.
    pub(crate) fn rows(&self, common: &Common<'_>) -> Result<Box<dyn RowSink + '_>, StoreError> {
        match common.layout {
            Layout::Sql => Ok(Box::new(SqlRows::new(self)?)),
            Layout::Packed => {
                let code = common.code.as_deref().ok_or_else(|| StoreError::Bounds {
                    what: "the packed layout has no code".to_owned(),
                    remedy: "report this as a bug",
                })?;
                Ok(Box::new(PackedRows { writer: Some(PackedWriter::begin(&self.path, &self.conn, code)?) }))
            }
        }
    }

    /// Writes what is beside the rules by name and ends the file. It is not durable yet.
    pub(crate) fn finish(self, beside: &Beside) -> Result<(), StoreError> {
        let ShardFile { conn, path } = self;
        let finish = || -> rusqlite::Result<()> {
            write_beside(&conn, beside)?;
            conn.execute_batch("COMMIT")?;
            conn.close().map_err(|(_, error)| error)
        };
        finish().map_err(StoreError::sqlite(&path, "write the shard"))
    }
}

/// Writes the filter over `keys`, which are sorted and without duplicates.
pub(crate) fn write_filter(
    path: &Path,
    name: &str,
    keys: &[u64],
    common: &Common<'_>,
    shard: u16,
) -> Result<FileEntry, StoreError> {
    let bytes =
        filter::file_bytes(keys, common.filter_bits, common.generation, shard).ok_or_else(|| StoreError::Bounds {
            what: format!("no filter was found for the {} names of shard {shard}", keys.len()),
            remedy: "build with another number of shards",
        })?;
    fs::write(path, &bytes).map_err(StoreError::io(path, "write the filter"))?;
    Ok(FileEntry::of_bytes(name, &bytes))
}

/// The layout `sql`: a row each in `rule`, and in `alias` where it leads.
struct SqlRows<'conn> {
    path: &'conn Path,
    many: Statement<'conn>,
    one: Statement<'conn>,
    alias: Statement<'conn>,
    /// Names of the rows that wait, one behind the other.
    text: String,
    /// Where each ends, and its class.
    waiting: Vec<(usize, ClassId)>,
}

impl<'conn> SqlRows<'conn> {
    fn new(shard: &'conn ShardFile) -> Result<SqlRows<'conn>, StoreError> {
        let places = ["(?,?)"; ROWS_A_STATEMENT].join(",");
        let prepare = |sql: &str| shard.conn.prepare(sql).map_err(StoreError::sqlite(&shard.path, "write the shard"));
        Ok(SqlRows {
            path: &shard.path,
            many: prepare(&format!("INSERT INTO rule VALUES {places}"))?,
            one: prepare("INSERT INTO rule VALUES (?,?)")?,
            alias: prepare("INSERT INTO alias VALUES (?,?,?)")?,
            text: String::new(),
            waiting: Vec::with_capacity(ROWS_A_STATEMENT),
        })
    }

    fn insert(&mut self) -> rusqlite::Result<()> {
        let SqlRows { many, one, text, waiting, .. } = self;
        let whole = waiting.len() == ROWS_A_STATEMENT;
        let mut start = 0;
        for (place, &(end, class)) in waiting.iter().enumerate() {
            let statement = if whole { &mut *many } else { &mut *one };
            let parameter = if whole { 2 * place + 1 } else { 1 };
            statement.raw_bind_parameter(parameter, text.get(start..end).unwrap_or_default())?;
            statement.raw_bind_parameter(parameter + 1, class)?;
            if !whole {
                statement.raw_execute()?;
            }
            start = end;
        }
        if whole {
            many.raw_execute()?;
        }
        text.clear();
        waiting.clear();
        Ok(())
    }
}

impl RowSink for SqlRows<'_> {
    fn row(&mut self, name: &str, class: ClassId, target: Option<&str>) -> Result<(), StoreError> {
        self.text.push_str(name);
        self.waiting.push((self.text.len(), class));
        let write = |rows: &mut Self| -> rusqlite::Result<()> {
            if let Some(target) = target {
                rows.alias.execute(params![name, class, target])?;
            }
            if rows.waiting.len() == ROWS_A_STATEMENT { rows.insert() } else { Ok(()) }
        };
        write(self).map_err(StoreError::sqlite(self.path, "write the shard"))
    }

    fn finish(&mut self) -> Result<(), StoreError> {
        self.insert().map_err(StoreError::sqlite(self.path, "write the shard"))
    }
}

/// The layout `packed`: blocks.
struct PackedRows<'conn> {
    /// Until it has finished.
    writer: Option<PackedWriter<'conn>>,
}

impl RowSink for PackedRows<'_> {
    fn row(&mut self, name: &str, class: ClassId, target: Option<&str>) -> Result<(), StoreError> {
        self.writer.as_mut().map_or(Ok(()), |writer| writer.row(name, class, target))
    }

    fn finish(&mut self) -> Result<(), StoreError> {
        self.writer.take().map_or(Ok(()), |writer| writer.finish())
    }
}

fn write_beside(conn: &Connection, beside: &Beside) -> rusqlite::Result<()> {
    let mut pattern_row = conn.prepare("INSERT INTO pattern VALUES (?1, ?2, ?3, ?4)")?;
    for pattern in &beside.patterns {
        let target = pattern.target.map(|target| target.to_text().as_str().to_owned());
        pattern_row.execute(params![pattern.id, pattern.regex, pattern.class, target])?;
    }
    let mut address_row = conn.prepare("INSERT INTO address VALUES (?1, ?2, ?3)")?;
    for AddressRow { net, class, target } in &beside.addresses {
        let target = target.as_ref().map(|target| target.to_text().as_str().to_owned());
        address_row.execute(params![schema::source_text(net), class, target])?;
    }
    let mut rewrite_row = conn.prepare("INSERT INTO ip_rewrite VALUES (?1, ?2, ?3, ?4)")?;
    for rewrite in &beside.rewrites {
        let family = if rewrite.from.addr().is_ipv4() { 4 } else { 6 };
        let source = schema::source_text(&rewrite.from);
        rewrite_row.execute(params![source, rewrite.to.to_string(), family, rewrite.list])?;
    }
    Ok(())
}

fn connect(path: &Path) -> rusqlite::Result<Connection> {
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_CREATE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let conn = Connection::open_with_flags(path, flags)?;
    conn.pragma_update(None, "page_size", PAGE_BYTES)?;
    conn.pragma_update(None, "journal_mode", "off")?;
    conn.pragma_update(None, "synchronous", "off")?;
    conn.pragma_update(None, "locking_mode", "exclusive")?;
    conn.pragma_update(None, "cache_size", -CACHE_KIB)?;
    conn.pragma_update(None, "application_id", APPLICATION_ID)?;
    conn.pragma_update(None, "user_version", FORMAT_VERSION)?;
    Ok(conn)
}
