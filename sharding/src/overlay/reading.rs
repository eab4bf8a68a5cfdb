//! Reading the overlay beside whoever changes it: a server that starts, `explain`, a build, a list for the operator.
//!
//! Invariants: a reader sees one moment of the file; it takes no lock that a change would wait for. A [`Snapshot`] has been
//! compared with its sums row by row and as a whole, so that neither a damaged row nor a lost one goes unnoticed.

use std::path::Path;
use std::time::{SystemTime, UNIX_EPOCH};

use rusqlite::types::Value;
use rusqlite::{Connection, ErrorCode, OpenFlags, params_from_iter};

use super::disk::{FILE_NAME, check_kind, damaged, failed, is_there, prepare, row_failed, wal_path};
use super::file::State;
use super::lookup::Effect;
use super::row::{COLUMNS, EntryRow};
use super::{LiveChange, LiveEntry, Overlay, Void};
use crate::StoreError;
use crate::name::Name;
use crate::publish::Store;
use crate::rows::immutable_uri;
use crate::rule::RuleKey;
use crate::schema::RowError;

/// The whole overlay at one moment.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Snapshot {
    /// The last number that was given to an entry, be it gone by now; 0 for none.
    pub last_seq: u64,
    /// By number.
    pub entries: Vec<LiveEntry>,
}

/// Which entries are listed; each part that is there must hold.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Filter {
    /// Of this list.
    pub list: Option<String>,
    /// That do this.
    pub effect: Option<Effect>,
    /// On this name or names below it.
    pub name: Option<Name>,
}

impl Overlay {
    /// The entries that are live on top of a generation with entries up to `overlay_seq` folded in, by number: later ones, and
    /// those that end by themselves ([`LiveEntry::is_live_on`]). What has ended is left out.
    ///
    /// # Errors
    /// The file is damaged, or cannot be read.
    pub fn read(store: &Store, overlay_seq: u64) -> Result<Vec<LiveEntry>, StoreError> {
        let now_s = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
        let mut entries = Overlay::snapshot(store)?.entries;
        entries
            .retain(|entry| entry.is_live_on(overlay_seq) && entry.expires_s.is_none_or(|expires_s| expires_s > now_s));
        Ok(entries)
    }

    /// Everything, what has ended included.
    ///
    /// # Errors
    /// The file is damaged, or cannot be read.
    pub fn snapshot(store: &Store) -> Result<Snapshot, StoreError> {
        let path = store.dir().join(FILE_NAME);
        let Some(conn) = connect(&path)? else { return Ok(Snapshot::default()) };
        let mut entries = Vec::new();
        let last_seq = read_all(&conn, &path, |entry| entries.push(entry))?;
        Ok(Snapshot { last_seq, entries })
    }

    /// At most `count_max` entries of a filter, by number, those behind `after_seq`.
    ///
    /// # Errors
    /// The file is damaged, or cannot be read.
    pub fn list(
        store: &Store,
        filter: &Filter,
        after_seq: u64,
        count_max: usize,
    ) -> Result<Vec<LiveEntry>, StoreError> {
        let path = store.dir().join(FILE_NAME);
        let Some(conn) = connect(&path)? else { return Ok(Vec::new()) };
        list(&conn, filter, after_seq, count_max).map_err(|error| row_failed(&path, error))
    }
}

/// Hands on every entry, and gives the last number, when all sums are right.
pub(super) fn read_all(conn: &Connection, path: &Path, mut each: impl FnMut(LiveEntry)) -> Result<u64, StoreError> {
    let mut read = || -> Result<Option<u64>, RowError> {
        // One moment for the state and the rows.
        let tx = conn.unchecked_transaction()?;
        let state = State::read(&tx)?;
        let (mut entries, mut entries_sum, mut last) = (0, 0, 0);
        // Without an index: what is damaged there hides no row.
        let mut select = tx.prepare(&format!("SELECT {COLUMNS} FROM entry NOT INDEXED ORDER BY seq"))?;
        let mut rows = select.query([])?;
        while let Some(row) = rows.next()? {
            let (entry, sum) = EntryRow::read(&tx, row)?;
            entries += 1;
            entries_sum ^= sum;
            last = entry.seq;
            each(entry);
        }
        let is_whole = (entries, entries_sum) == (state.entries, state.entries_sum) && last < state.next_seq;
        Ok(is_whole.then_some(state.next_seq - 1))
    };
    match read() {
        Ok(Some(last_seq)) => Ok(last_seq),
        Ok(None) => Err(damaged(path, "entries are missing, or are there that do not belong there")),
        Err(error) => Err(row_failed(path, error)),
    }
}

fn list(conn: &Connection, filter: &Filter, after_seq: u64, count_max: usize) -> Result<Vec<LiveEntry>, RowError> {
    let mut sql = format!("SELECT {COLUMNS} FROM entry WHERE seq > ?");
    let mut values = vec![Value::Integer(i64::try_from(after_seq).unwrap_or(i64::MAX))];
    if let Some(list) = &filter.list {
        sql += " AND list = ?";
        values.push(Value::Text(list.clone()));
    }
    if let Some(effect) = filter.effect {
        sql += " AND kind = ?";
        values.push(Value::Text(effect.word().to_owned()));
    }
    if let Some(name) = &filter.name {
        // A first sieve, which lets an escaped dot pass; names are compared label by label below.
        sql += " AND scope IN ('exact', 'subtree', 'below') AND (? = '' OR substr(key, -length(?)) = ?)";
        let text = Value::Text(name.to_text().as_str().to_owned());
        values.extend([text.clone(), text.clone(), text]);
    }
    sql += " ORDER BY seq";
    let mut select = conn.prepare(&sql)?;
    let mut rows = select.query(params_from_iter(values))?;
    let mut listed = Vec::new();
    while let Some(row) = rows.next()? {
        if listed.len() == count_max {
            break;
        }
        let (entry, _) = EntryRow::read(conn, row)?;
        if filter.name.as_ref().is_none_or(|name| is_at_or_below(&entry.change, name)) {
            listed.push(entry);
        }
    }
    Ok(listed)
}

fn is_at_or_below(change: &LiveChange, ancestor: &Name) -> bool {
    match change {
        LiveChange::Rule(rule) => match &rule.key {
            RuleKey::Name { name, .. } => name.is_at_or_below(ancestor),
            RuleKey::Pattern { .. } | RuleKey::Address { .. } => false,
        },
        LiveChange::Void(Void::Name { name, .. }) => name.is_at_or_below(ancestor),
        LiveChange::Void(_) | LiveChange::Rewrite(_) => false,
    }
}

/// A connection for reading; none when there is no file.
fn connect(path: &Path) -> Result<Option<Connection>, StoreError> {
    if !is_there(path)? {
        return Ok(None);
    }
    let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let shared = || -> rusqlite::Result<Connection> {
        let conn = Connection::open_with_flags(path, flags)?;
        prepare(&conn)?;
        // The first that touches the file.
        conn.query_row("SELECT count(*) FROM sqlite_schema", [], |_| Ok(()))?;
        Ok(conn)
    };
    let opened = match shared() {
        // In a directory that cannot be written to there is no file for readers and writers to meet in, and no writer either.
        Err(error) if error.sqlite_error_code() == Some(ErrorCode::CannotOpen) && has_no_wal(path) => {
            Connection::open_with_flags(immutable_uri(path), flags | OpenFlags::SQLITE_OPEN_URI)
                .and_then(|conn| prepare(&conn).map(|()| conn))
        }
        opened => opened,
    };
    let conn = opened.map_err(failed(path, "open the file"))?;
    check_kind(&conn, path)?;
    Ok(Some(conn))
}

fn has_no_wal(path: &Path) -> bool {
    std::fs::metadata(wal_path(path)).map_or(true, |wal| wal.len() == 0)
}
