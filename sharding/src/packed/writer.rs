//! Rows in the order of their keys become the packed tables of a shard.
//!
//! Invariant: the same rows give the same tables. Rows are read twice, for the codes are made of all of them: they wait in
//! a [`Spool`]. Memory does not grow with their number.

use std::path::{Path, PathBuf};

use rusqlite::{Connection, Statement};

use super::block_builder::{BlockBuilder, NameRow};
use super::common_len;
use super::model::{Counts, NameEncoder};
use super::spool::Spool;
use crate::StoreError;
use crate::row_key::RowKey;
use crate::rule::ClassId;
use crate::shard_file::PAGE_BYTES;

/// Octets of a row that stay on its own page of a table with row ids: a page less what SQLite keeps there.
const ROW_BYTES_MAX: usize = PAGE_BYTES as usize - 35;
/// Octets of the row beside its two values: the header's length, a null for the row id, and two lengths.
const ROW_HEADER_BYTES_MAX: usize = 1 + 1 + 2 + 2;

/// Takes the rows of a shard and writes its packed tables.
pub(crate) struct PackedWriter<'conn> {
    path: PathBuf,
    conn: &'conn Connection,
    alias: Statement<'conn>,
    spool: Spool,
    counts: Counts,
    name: String,
    classes: Vec<ClassId>,
    key: RowKey,
    before: Vec<u8>,
    names: u64,
}

impl<'conn> PackedWriter<'conn> {
    /// Begins with the shard at `path`, in which `conn` has made the tables. Names wait in `spool` meanwhile, a file in the build's directory.
    pub(crate) fn begin(path: &Path, conn: &'conn Connection, spool: &Path) -> Result<Self, StoreError> {
        let alias = conn.prepare("INSERT INTO alias VALUES (?1, ?2, ?3)");
        Ok(PackedWriter {
            path: path.to_path_buf(),
            conn,
            alias: alias.map_err(StoreError::sqlite(path, "write the shard"))?,
            spool: Spool::create(spool)?,
            counts: Counts::new(),
            name: String::new(),
            classes: Vec::new(),
            key: RowKey::EMPTY,
            before: Vec::new(),
            names: 0,
        })
    }

    /// Adds a rule. Names come in the order of their [`RowKey`], all classes of a name one after the other and each once.
    pub(crate) fn row(&mut self, name: &str, class: ClassId, target: Option<&str>) -> Result<(), StoreError> {
        if self.classes.is_empty() || name != self.name {
            self.end_name()?;
            self.name.clear();
            self.name.push_str(name);
        }
        self.classes.push(class);
        let Some(target) = target else { return Ok(()) };
        let written = self.alias.execute((name, class, target));
        written.map(|_| ()).map_err(StoreError::sqlite(&self.path, "write the shard"))
    }

    /// Writes the blocks. `progress` hears of names done, one by one.
    pub(crate) fn finish(mut self, progress: &mut dyn FnMut()) -> Result<(), StoreError> {
        self.end_name()?;
        let model = self.counts.model();
        let refused = |error| StoreError::sqlite(&self.path, "write the shard")(error);
        self.conn.execute("INSERT INTO block_code VALUES (0, ?1)", [model.to_bytes()]).map_err(refused)?;
        let mut block_row = self.conn.prepare("INSERT INTO block VALUES (?1, ?2, ?3)").map_err(refused)?;
        let mut id = 0u32;
        let mut write = |(start, block): (Vec<u8>, Vec<u8>)| {
            id += 1;
            block_row.execute((id, start, block)).map(|_| ()).map_err(refused)
        };
        let mut encoder = NameEncoder::new(&model);
        let mut builder = BlockBuilder::new(&[], room_bytes(&[]));
        let (mut before, mut shared_before, mut is_very_first) = (Vec::new(), 0, true);
        self.spool.read(|key, classes| {
            let shared = common_len(&before, key);
            let row = NameRow { key, before: &before, shared, shared_before, classes };
            if !builder.push(&mut encoder, row) {
                let start = row.separator(is_very_first);
                let full = std::mem::replace(&mut builder, BlockBuilder::new(start, room_bytes(start)));
                write(full.finish(Some(start)))?;
                builder.push(&mut encoder, row);
            }
            before.clear();
            before.extend_from_slice(key);
            (shared_before, is_very_first) = (shared, false);
            progress();
            Ok(())
        })?;
        write(builder.finish(None))
    }

    /// Counts the name whose classes are complete.
    fn end_name(&mut self) -> Result<(), StoreError> {
        if self.classes.is_empty() {
            return Ok(());
        }
        self.before.clear();
        self.before.extend_from_slice(self.key.as_bytes());
        let is_key = self.key.write(&self.name) && (self.names == 0 || self.before[..] < *self.key.as_bytes());
        if !is_key || !self.counts.add(self.key.as_bytes()) {
            return Err(StoreError::Bounds {
                what: format!("the name `{}` came out of order or is not one", self.name),
                remedy: "report this as a bug",
            });
        }
        self.names += 1;
        self.spool.push(self.key.as_bytes(), &self.classes)?;
        self.classes.clear();
        Ok(())
    }
}

/// Octets of a block that begins with `start` and lies on a page of its own.
fn room_bytes(start: &[u8]) -> usize {
    (ROW_BYTES_MAX - ROW_HEADER_BYTES_MAX).saturating_sub(start.len())
}
