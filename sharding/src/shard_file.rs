//! The rules of one shard while a generation is built, and the two files they become.
//!
//! Invariant: the bytes written depend on nothing but the rules, their order, the hash key and the generation's number.
//! Rows go in sorted by name, so SQLite fills page after page and never splits one; there is no journal, for a build
//! that dies is thrown away whole.

use std::path::Path;

use rusqlite::{Connection, OpenFlags, params};

use crate::StoreError;
use crate::filter;
use crate::generation::{AddressRow, PatternRow, filter_name, shard_name};
use crate::manifest::{FileEntry, Layout};
use crate::packed::PackedWriter;
use crate::route::{NameHash, Reach};
use crate::row_key::RowKey;
use crate::rule::{Class, ClassId, IpRewrite, List, Scope};
use crate::schema::{self, APPLICATION_ID, FORMAT_VERSION};

/// Bytes of a shard's page. Measured, see the table in `README.md`.
pub(crate) const PAGE_BYTES: u32 = 4_096;
/// KiB of pages that SQLite may hold back while it writes.
const CACHE_KIB: i64 = 8_192;
/// Rows between two calls of the progress function.
const PROGRESS_ROWS: u64 = 16_384;
/// Bytes of all names of one shard: their places are kept in 32 bits.
const TEXT_BYTES_MAX: usize = u32::MAX as usize;

/// What each shard's file says alike.
pub(crate) struct Common<'a> {
    pub(crate) dir: &'a Path,
    pub(crate) generation: u64,
    pub(crate) layout: Layout,
    pub(crate) lists: &'a [List],
    /// By final id.
    pub(crate) classes: &'a [Class],
    /// The final id of each class by its id while collecting.
    pub(crate) ranks: &'a [ClassId],
}

/// What writing a shard found, by final class id.
pub(crate) struct Tally {
    pub(crate) kept: Vec<u64>,
    pub(crate) duplicates: Vec<u64>,
}

impl Tally {
    pub(crate) fn new(classes: usize) -> Tally {
        Tally { kept: vec![0; classes], duplicates: vec![0; classes] }
    }

    pub(crate) fn add(&mut self, other: &Tally) {
        for (sum, part) in self.kept.iter_mut().zip(&other.kept) {
            *sum += part;
        }
        for (sum, part) in self.duplicates.iter_mut().zip(&other.duplicates) {
            *sum += part;
        }
    }
}

/// A rule by name: 32 bytes beside its text.
struct Entry {
    hash: NameHash,
    /// The first eight octets of the text, so that most comparisons touch no text.
    head: u64,
    at: u32,
    class: ClassId,
    len: u16,
}

struct AliasEntry {
    name: Box<str>,
    class: ClassId,
    target: Box<str>,
}

/// The rules of one shard, collected.
#[derive(Default)]
pub(crate) struct ShardRules {
    text: Vec<u8>,
    entries: Vec<Entry>,
    aliases: Vec<AliasEntry>,
    /// With final class ids.
    pub(crate) patterns: Vec<PatternRow>,
    /// Likewise.
    pub(crate) addresses: Vec<AddressRow>,
    pub(crate) rewrites: Vec<IpRewrite>,
}

impl ShardRules {
    /// Adds a rule by name with the class's id while collecting.
    pub(crate) fn push(&mut self, name: &str, hash: NameHash, class: ClassId) -> Result<(), StoreError> {
        if self.text.len() + name.len() > TEXT_BYTES_MAX {
            return Err(StoreError::Bounds {
                what: format!("the names of one shard exceed {TEXT_BYTES_MAX} bytes"),
                remedy: "build with more shards",
            });
        }
        let at = self.text.len() as u32;
        self.text.extend_from_slice(name.as_bytes());
        self.entries.push(Entry { hash, head: head(name.as_bytes()), at, class, len: name.len() as u16 });
        Ok(())
    }

    /// Adds where a rule leads that was pushed as well.
    pub(crate) fn push_alias(&mut self, name: &str, class: ClassId, target: &str) {
        self.aliases.push(AliasEntry { name: name.into(), class, target: target.into() });
    }

    /// Writes the shard and its filter and gives their sums back; neither is durable yet. `progress` hears of rules done.
    pub(crate) fn write(
        mut self,
        shard: u16,
        common: &Common<'_>,
        tally: &mut Tally,
        progress: &mut dyn FnMut(u64),
    ) -> Result<[FileEntry; 2], StoreError> {
        self.sort(common.ranks, tally, progress);
        let path = common.dir.join(shard_name(shard));
        let refused = StoreError::sqlite(&path, "write the shard");
        let conn = self.write_rows(&path, common, progress).map_err(refused)?;
        if common.layout == Layout::Packed {
            self.write_packed(&path, &conn, progress)?;
        }
        let closed = conn.execute_batch("COMMIT").and_then(|()| conn.close().map_err(|(_, error)| error));
        closed.map_err(StoreError::sqlite(&path, "write the shard"))?;
        let filter_path = common.dir.join(filter_name(shard));
        let keys = self.filter_keys(common.classes);
        drop(self);
        let bytes = filter::file_bytes(&keys, common.generation, shard).ok_or_else(|| StoreError::Bounds {
            what: format!("no filter was found for the {} names of shard {shard}", keys.len()),
            remedy: "build with another number of shards",
        })?;
        std::fs::write(&filter_path, &bytes).map_err(StoreError::io(&filter_path, "write the filter"))?;
        Ok([FileEntry::of(&path, &shard_name(shard))?, FileEntry::of_bytes(&filter_name(shard), &bytes)])
    }

    /// Sorts by name, class and order of arrival, and keeps the first of each name and class.
    fn sort(&mut self, ranks: &[ClassId], tally: &mut Tally, progress: &mut dyn FnMut(u64)) {
        let rank = |class: ClassId| ranks[class as usize];
        self.entries.iter_mut().for_each(|entry| entry.class = rank(entry.class));
        self.aliases.iter_mut().for_each(|alias| alias.class = rank(alias.class));
        let text = &self.text;
        self.entries.sort_unstable_by(|a, b| {
            let by_name = a.head.cmp(&b.head).then_with(|| a.text(text).cmp(b.text(text)));
            by_name.then(a.class.cmp(&b.class)).then(a.at.cmp(&b.at))
        });
        let before = self.entries.len();
        self.entries.dedup_by(|later, first| {
            let same = later.class == first.class && later.head == first.head && later.text(text) == first.text(text);
            if same {
                tally.duplicates[first.class as usize] += 1;
            }
            same
        });
        self.entries.iter().for_each(|entry| tally.kept[entry.class as usize] += 1);
        progress((before - self.entries.len()) as u64);
        // A stable sort: of two targets for one name and class, the one that came first stays.
        self.aliases.sort_by(|a, b| a.name.cmp(&b.name).then(a.class.cmp(&b.class)));
        self.aliases.dedup_by(|later, first| later.class == first.class && later.name == first.name);
    }

    /// Writes what SQL writes, within a transaction that stays open.
    fn write_rows(
        &self,
        path: &Path,
        common: &Common<'_>,
        progress: &mut dyn FnMut(u64),
    ) -> rusqlite::Result<Connection> {
        let conn = create(path)?;
        conn.execute_batch("BEGIN")?;
        for tables in schema::tables(common.layout) {
            conn.execute_batch(tables)?;
        }
        schema::write_common(&conn, common.lists, common.classes)?;
        if common.layout == Layout::Sql {
            self.write_names(&conn, progress)?;
        }
        let mut pattern_row = conn.prepare("INSERT INTO pattern VALUES (?1, ?2, ?3, ?4)")?;
        for pattern in &self.patterns {
            let target = pattern.target.map(|target| target.to_text().as_str().to_owned());
            pattern_row.execute(params![pattern.id, pattern.regex, pattern.class, target])?;
        }
        let mut address_row = conn.prepare("INSERT INTO address VALUES (?1, ?2, ?3)")?;
        for AddressRow { net, class, target } in &self.addresses {
            let target = target.as_ref().map(|target| target.to_text().as_str().to_owned());
            address_row.execute(params![schema::source_text(net), class, target])?;
        }
        let mut rewrite_row = conn.prepare("INSERT INTO ip_rewrite VALUES (?1, ?2, ?3, ?4)")?;
        for rewrite in &self.rewrites {
            let family = if rewrite.from.addr().is_ipv4() { 4 } else { 6 };
            let source = schema::source_text(&rewrite.from);
            rewrite_row.execute(params![source, rewrite.to.to_string(), family, rewrite.list])?;
        }
        drop((pattern_row, address_row, rewrite_row));
        Ok(conn)
    }

    fn write_names(&self, conn: &Connection, progress: &mut dyn FnMut(u64)) -> rusqlite::Result<()> {
        let mut rule_row = conn.prepare("INSERT INTO rule VALUES (?1, ?2)")?;
        let mut unsaid = 0;
        for entry in &self.entries {
            rule_row.raw_bind_parameter(1, entry.name(&self.text))?;
            rule_row.raw_bind_parameter(2, entry.class)?;
            rule_row.raw_execute()?;
            unsaid += 1;
            if unsaid == PROGRESS_ROWS {
                progress(std::mem::take(&mut unsaid));
            }
        }
        progress(unsaid);
        let mut alias_row = conn.prepare("INSERT INTO alias VALUES (?1, ?2, ?3)")?;
        for alias in &self.aliases {
            alias_row.execute(params![alias.name, alias.class, alias.target])?;
        }
        Ok(())
    }

    fn write_packed(&self, path: &Path, conn: &Connection, progress: &mut dyn FnMut(u64)) -> Result<(), StoreError> {
        let mut by_key: Vec<(Box<[u8]>, &Entry)> = Vec::with_capacity(self.entries.len());
        let mut key = RowKey::EMPTY;
        for entry in &self.entries {
            key.write(entry.name(&self.text));
            by_key.push((key.as_bytes().into(), entry));
        }
        by_key.sort_unstable_by(|a, b| a.0.cmp(&b.0).then(a.1.class.cmp(&b.1.class)));
        let mut writer = PackedWriter::begin(path, conn, &path.with_extension("names"))?;
        for (_, entry) in by_key {
            let name = entry.name(&self.text);
            let alias = |alias: &AliasEntry| (&*alias.name, alias.class).cmp(&(name, entry.class));
            let target = self.aliases.binary_search_by(alias).ok().map(|at| &*self.aliases[at].target);
            writer.row(name, entry.class, target)?;
        }
        let mut unsaid = 0;
        writer.finish(&mut || {
            unsaid += 1;
            if unsaid == PROGRESS_ROWS {
                progress(std::mem::take(&mut unsaid));
            }
        })?;
        progress(unsaid);
        Ok(())
    }

    /// Sorted, each once.
    fn filter_keys(&self, classes: &[Class]) -> Vec<u64> {
        let key = |entry: &Entry| {
            let exact = classes.get(entry.class as usize).is_some_and(|class| class.scope == Scope::Exact);
            entry.hash.filter_key(if exact { Reach::Itself } else { Reach::Under })
        };
        let mut keys: Vec<u64> = self.entries.iter().map(key).collect();
        keys.sort_unstable();
        keys.dedup();
        keys
    }
}

impl Entry {
    /// The text, which came in as a str and was cut nowhere.
    fn name<'a>(&self, text: &'a [u8]) -> &'a str {
        std::str::from_utf8(self.text(text)).unwrap_or_default()
    }

    fn text<'a>(&self, text: &'a [u8]) -> &'a [u8] {
        let at = self.at as usize;
        &text[at..at + usize::from(self.len)]
    }
}

/// Orders as the text does, up to its first eight octets: no text holds a zero octet.
fn head(text: &[u8]) -> u64 {
    let mut octets = [0; 8];
    let len = text.len().min(8);
    octets[..len].copy_from_slice(&text[..len]);
    u64::from_be_bytes(octets)
}

fn create(path: &Path) -> rusqlite::Result<Connection> {
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
