//! Rows in the order of their keys become the packed tables of a shard.
//!
//! Invariant: the same rows and the same code give the same tables. Each row is seen once, and memory does not grow with their
//! number: the code is there before, made of the names of some shards for all of them ([`PackedCode`]).

use std::path::{Path, PathBuf};
use std::sync::Arc;

use rusqlite::{Connection, Statement};

use super::block_builder::{BlockBuilder, NameRow};
use super::common_len;
use super::model::{Counts, Model, NameEncoder};
use crate::StoreError;
use crate::row_key::RowKey;
use crate::rule::ClassId;
use crate::shard_file::PAGE_BYTES;

/// Octets of a row that stay on its own page of a table with row ids: a page less what SQLite keeps there.
const ROW_BYTES_MAX: usize = PAGE_BYTES as usize - 35;
/// Octets of the row beside its two values: the header's length, a null for the row id, and two lengths.
const ROW_HEADER_BYTES_MAX: usize = 1 + 1 + 2 + 2;
/// Names that a code is made of, if there are so many: more make it no better.
const CODE_NAMES_ENOUGH: u64 = 1_000_000;

/// The code of all shards of a generation. Names are in shards by their hash, so that the names of one shard speak for all; and a server
/// that decodes names of many shards has one table in its core's cache instead of one a shard.
pub(crate) struct PackedCode(Model);

/// Makes a [`PackedCode`] of the keys of some shards.
pub(crate) struct CodeMaker {
    counts: Counts,
    names: u64,
}

impl CodeMaker {
    pub(crate) fn new() -> CodeMaker {
        CodeMaker { counts: Counts::new(), names: 0 }
    }

    /// The keys of a shard follow, in their order.
    pub(crate) fn begin_shard(&mut self) {
        self.counts.begin_shard();
    }

    /// Counts a key. False when it is none.
    pub(crate) fn add(&mut self, key: &[u8]) -> bool {
        self.names += 1;
        self.counts.add(key)
    }

    /// Whether the names of another shard would make the code no better.
    pub(crate) fn has_enough(&self) -> bool {
        self.names >= CODE_NAMES_ENOUGH
    }

    /// The code.
    pub(crate) fn finish(self) -> Arc<PackedCode> {
        Arc::new(PackedCode(self.counts.model()))
    }
}

/// Takes the rows of a shard and writes its packed tables.
pub(crate) struct PackedWriter<'conn> {
    path: PathBuf,
    alias: Statement<'conn>,
    block: Statement<'conn>,
    id: u32,
    encoder: NameEncoder,
    builder: BlockBuilder,
    name: String,
    classes: Vec<ClassId>,
    key: RowKey,
    before: Vec<u8>,
    /// Octets that the two names before shared.
    shared_before: usize,
    names: u64,
}

impl<'conn> PackedWriter<'conn> {
    /// Begins with the shard at `path`, in which `conn` has made the tables.
    pub(crate) fn begin(path: &Path, conn: &'conn Connection, code: &PackedCode) -> Result<Self, StoreError> {
        let PackedCode(model) = code;
        let prepare = |sql: &str| conn.prepare(sql).map_err(StoreError::sqlite(path, "write the shard"));
        let written = conn.execute("INSERT INTO block_code VALUES (0, ?1)", [model.to_bytes()]);
        written.map_err(StoreError::sqlite(path, "write the shard"))?;
        Ok(PackedWriter {
            path: path.to_path_buf(),
            alias: prepare("INSERT INTO alias VALUES (?1, ?2, ?3)")?,
            block: prepare("INSERT INTO block VALUES (?1, ?2, ?3)")?,
            id: 0,
            encoder: NameEncoder::new(model),
            builder: BlockBuilder::new(&[], room_bytes(&[])),
            name: String::new(),
            classes: Vec::new(),
            key: RowKey::EMPTY,
            before: Vec::new(),
            shared_before: 0,
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

    /// Writes the last block.
    pub(crate) fn finish(mut self) -> Result<(), StoreError> {
        self.end_name()?;
        let last = std::mem::replace(&mut self.builder, BlockBuilder::new(&[], 0));
        self.write(last.finish(None))
    }

    /// Codes the name whose classes are complete.
    fn end_name(&mut self) -> Result<(), StoreError> {
        if self.classes.is_empty() {
            return Ok(());
        }
        let is_very_first = self.names == 0;
        let is_key = self.key.write(&self.name) && (is_very_first || self.before[..] < *self.key.as_bytes());
        if !is_key || !Model::may_hold(self.key.as_bytes()) {
            return Err(StoreError::Bounds {
                what: format!("the name `{}` came out of order or is not one", self.name),
                remedy: "report this as a bug",
            });
        }
        self.names += 1;
        let key = self.key.as_bytes();
        let shared = common_len(&self.before, key);
        let (before, shared_before) = (&self.before[..], self.shared_before);
        let row = NameRow { key, before, shared, shared_before, classes: &self.classes };
        let full = if self.builder.push(&mut self.encoder, row) {
            None
        } else {
            let start = row.separator(is_very_first);
            let full = std::mem::replace(&mut self.builder, BlockBuilder::new(start, room_bytes(start)));
            self.builder.push(&mut self.encoder, row);
            Some(full.finish(Some(start)))
        };
        self.before.clear();
        self.before.extend_from_slice(key);
        self.shared_before = shared;
        self.classes.clear();
        full.map_or(Ok(()), |block| self.write(block))
    }

    fn write(&mut self, (start, block): (Vec<u8>, Vec<u8>)) -> Result<(), StoreError> {
        self.id += 1;
        let written = self.block.execute((self.id, start, block));
        written.map(|_| ()).map_err(StoreError::sqlite(&self.path, "write the shard"))
    }
}

/// Octets of a block that begins with `start` and lies on a page of its own.
fn room_bytes(start: &[u8]) -> usize {
    (ROW_BYTES_MAX - ROW_HEADER_BYTES_MAX).saturating_sub(start.len())
}
