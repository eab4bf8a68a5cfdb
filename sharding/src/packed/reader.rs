//! The packed tables of a shard, read.
//!
//! Invariant: statements are prepared and buffers made once; a lookup allocates nothing of its own.

use std::sync::{Arc, Mutex, PoisonError};

use rusqlite::{Connection, Statement};

use super::Damage;
use super::block::{Block, Scratch};
use super::model::{Model, NameDecoder};
use crate::row_key::{RowKey, text_of};
use crate::rule::ClassId;
use crate::schema::RowError;

/// The decoder of the code that was seen last: all shards of a generation have the same one, and a table that all of them share stays in
/// a core's cache, where one for each shard does not.
#[derive(Default)]
pub(crate) struct DecoderCache(Mutex<Option<(Vec<u8>, Arc<NameDecoder>)>>);

impl DecoderCache {
    fn decoder(&self, code: Vec<u8>) -> Result<Arc<NameDecoder>, Damage> {
        let mut last = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((known, decoder)) = &*last
            && *known == code
        {
            return Ok(decoder.clone());
        }
        let decoder = Arc::new(NameDecoder::new(&Model::from_bytes(&code)?)?);
        *last = Some((code, decoder.clone()));
        Ok(decoder)
    }
}

/// The rules by name of a packed shard.
pub(crate) struct PackedRules<'conn> {
    block: Statement<'conn>,
    decoder: Arc<NameDecoder>,
    key: RowKey,
    scratch: Box<Scratch>,
}

impl From<Damage> for RowError {
    fn from(damage: Damage) -> Self {
        Self::Value(damage.to_string())
    }
}

impl<'conn> PackedRules<'conn> {
    pub(crate) fn open(conn: &'conn Connection, decoders: &DecoderCache) -> Result<Self, RowError> {
        let code: Vec<u8> = conn.query_row("SELECT code FROM block_code", [], |row| row.get(0))?;
        Ok(PackedRules {
            block: conn.prepare("SELECT names FROM block WHERE start <= ?1 ORDER BY start DESC LIMIT 1")?,
            decoder: decoders.decoder(code)?,
            key: RowKey::EMPTY,
            scratch: Scratch::new(),
        })
    }

    /// Calls `found` with each class of the name.
    pub(crate) fn classes_of(&mut self, name_text: &str, found: &mut dyn FnMut(ClassId)) -> Result<(), RowError> {
        if !self.key.write(name_text) {
            return Ok(());
        }
        self.block.raw_bind_parameter(1, self.key.as_bytes())?;
        let mut rows = self.block.raw_query();
        // The first block begins before every name.
        let row = rows.next()?.ok_or(Damage::Place)?;
        let block = Block::read(row.get_ref(0)?.as_blob().map_err(rusqlite::Error::from)?)?;
        Ok(block.find(&self.decoder, self.key.as_bytes(), &mut self.scratch, found)?)
    }

    /// Calls `found` with each name and class in the order of the keys; false ends it.
    pub(crate) fn each(
        &mut self,
        conn: &Connection,
        found: &mut dyn FnMut(&str, ClassId) -> bool,
    ) -> Result<(), RowError> {
        let mut blocks = conn.prepare("SELECT start, names FROM block ORDER BY id")?;
        let mut rows = blocks.query([])?;
        let (mut key, mut key_of_text, mut text) = (Vec::new(), Vec::new(), String::new());
        let mut start: Option<Vec<u8>> = Some(Vec::new());
        while let Some(row) = rows.next()? {
            let block = Block::read(row.get_ref(1)?.as_blob().map_err(rusqlite::Error::from)?)?;
            if start.as_deref() != Some(row.get_ref(0)?.as_blob().map_err(rusqlite::Error::from)?) {
                return Err(Damage::Place.into());
            }
            let go_on = block.each(&self.decoder, &mut self.scratch, &mut key, &mut |key, class| {
                if key_of_text != key || text.is_empty() {
                    key_of_text.clear();
                    key_of_text.extend_from_slice(key);
                    text_of(key, &mut text);
                }
                found(&text, class)
            })?;
            if !go_on {
                return Ok(());
            }
            start = block.end().map(<[u8]>::to_vec);
        }
        if start.is_some() { Err(Damage::Short.into()) } else { Ok(()) }
    }
}
