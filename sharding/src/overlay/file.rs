//! `STORE/overlay.db`: the entries on disk, and the one process that may change them.
//!
//! Invariants: a change that has returned is on the disk, whatever happens next; a batch is there as a whole or not at all; a
//! `seq` is never used again. Whoever only reads needs no lock ([`super::reading`]).

use std::collections::{HashMap, HashSet};
use std::fs::File;
use std::path::PathBuf;
use std::sync::Arc;

use rusqlite::{Connection, OpenFlags, OptionalExtension, TransactionBehavior, params};
use xxhash_rust::xxh3::xxh3_64;

use super::disk::{self, FILE_NAME, check_kind, damaged, failed, is_there, migrate, row_failed};
use super::lookup::{self, Held, Selector, Shards};
use super::row::{EntryRow, Identity};
use super::{LiveChange, LiveEntry, LiveUpdate, Void};
use crate::StoreError;
use crate::generation::Generation;
use crate::publish::Store;
use crate::schema::RowError;

/// Entries that may be live on top of a generation: some 200 MB in the server.
pub const LIVE_RULES_MAX: u64 = 1_000_000;
/// Patterns among them: all are compiled anew when one changes, in about a second.
pub const LIVE_PATTERNS_MAX: u64 = 256;
/// Lists that entries name: a generation has at most 65,536, and these come on top.
pub const LIVE_LISTS_MAX: usize = 1_024;
/// Entries of the file, those that are folded in included: some 2 GB.
pub const ENTRIES_MAX: u64 = 16_000_000;
/// Bytes of a list's name.
pub const LIST_BYTES_MAX: usize = 256;
/// Bytes of a reason.
pub const REASON_BYTES_MAX: usize = 1_024;

/// Statements kept ready; there are fewer.
const STATEMENTS_KEPT: usize = 32;

/// A rule to be added.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NewEntry {
    /// What it says.
    pub change: LiveChange,
    /// The list that it belongs to, or whose rules are voided.
    pub list: String,
    /// When it ends by itself, Unix time in seconds.
    pub expires_s: Option<u64>,
    /// Why.
    pub reason: String,
}

/// How rules are removed.
#[derive(Clone, Copy)]
pub struct Removal<'a> {
    /// The generation whose rules are voided; none when there is none.
    pub generation: Option<&'a Generation>,
    /// The time, Unix seconds.
    pub now_s: u64,
    /// When the generation's rules come back by themselves.
    pub expires_s: Option<u64>,
    /// Why.
    pub reason: &'a str,
}

/// What a removal has found for one selector.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Removed {
    /// Live rules that are gone.
    pub live: u64,
    /// Rules of the generation that hold no longer, from now on.
    pub voided: u64,
    /// Rules of the generation that held no longer already.
    pub void_already: u64,
    /// Live rules that were left, because a live rule cannot be removed for a time only.
    pub kept: u64,
}

impl Removed {
    /// Nothing was found.
    pub fn is_nothing(self) -> bool {
        self == Self::default()
    }
}

/// Says of a change, before it is kept, whether it can be made; what it says otherwise is for the operator.
pub type Check = Box<dyn FnMut(&LiveUpdate) -> Result<(), String> + Send>;

/// The file, open for changes. Whoever has this value is the only one.
pub struct Overlay {
    path: PathBuf,
    /// None until the first entry: a store that nobody changes by hand has no such file.
    conn: Option<Connection>,
    state: State,
    /// Up to where the served generation has entries folded in.
    folded_seq: u64,
    /// Entries that are live on top of it.
    live: u64,
    /// The patterns among them.
    live_patterns: u64,
    /// Entries by list.
    lists: HashMap<String, u64>,
    check: Option<Check>,
    // The lock goes with the file, also when the process is killed.
    _lock: File,
}

/// The row of `state`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct State {
    pub next_seq: u64,
    pub entries: u64,
    pub entries_sum: u64,
}

impl State {
    pub const EMPTY: State = State { next_seq: 1, entries: 0, entries_sum: 0 };

    pub fn read(conn: &Connection) -> Result<State, RowError> {
        let (next_seq, entries, entries_sum, sum): (i64, i64, i64, i64) =
            conn.query_row("SELECT next_seq, entries, entries_sum, sum FROM state", [], |row| {
                Ok((row.get(0)?, row.get(1)?, row.get(2)?, row.get(3)?))
            })?;
        let state = State { next_seq: next_seq as u64, entries: entries as u64, entries_sum: entries_sum as u64 };
        if state.sum() != sum as u64 {
            return Err(RowError::Value("the sum of its state does not match".to_owned()));
        }
        Ok(state)
    }

    pub fn write(self, conn: &Connection) -> rusqlite::Result<()> {
        let mut write = conn.prepare_cached("INSERT OR REPLACE INTO state VALUES (1, ?, ?, ?, ?)")?;
        let State { next_seq, entries, entries_sum } = self;
        write.execute(params![next_seq as i64, entries as i64, entries_sum as i64, self.sum() as i64]).map(drop)
    }

    fn sum(self) -> u64 {
        let numbers = [self.next_seq, self.entries, self.entries_sum].map(u64::to_le_bytes);
        xxh3_64(numbers.as_flattened())
    }
}

impl Overlay {
    /// Opens the overlay of a store for changes. There need not be one yet.
    ///
    /// # Errors
    /// Another process has it, or the file cannot be read.
    pub fn open(store: &Store) -> Result<Overlay, StoreError> {
        let lock = disk::lock(store.dir())?;
        let path = store.dir().join(FILE_NAME);
        let mut overlay = Overlay {
            conn: None,
            state: State::EMPTY,
            folded_seq: 0,
            live: 0,
            live_patterns: 0,
            lists: HashMap::new(),
            check: None,
            _lock: lock,
            path,
        };
        if is_there(&overlay.path)? {
            overlay.connect()?;
        }
        Ok(overlay)
    }

    /// Tells up to where the served generation has entries folded in: later ones are counted as live.
    pub fn set_folded(&mut self, overlay_seq: u64) -> Result<(), StoreError> {
        self.folded_seq = overlay_seq;
        self.count()
    }

    /// Has every change asked about from now on, before it is kept: one that is refused is not made.
    pub fn set_check(&mut self, check: Check) {
        self.check = Some(check);
    }

    /// Reads everything, and compares its sums and its indexes.
    ///
    /// # Errors
    /// The file is damaged.
    pub fn verify(&self) -> Result<(), StoreError> {
        let Some(conn) = &self.conn else { return Ok(()) };
        let verdict = conn.query_row("PRAGMA integrity_check(1)", [], |row| row.get::<_, String>(0));
        let verdict = verdict.map_err(failed(&self.path, "check the file"))?;
        if verdict != "ok" {
            return Err(damaged(&self.path, verdict));
        }
        super::reading::read_all(conn, &self.path, |_| {}).map(drop)
    }

    /// Adds rules. One that is there already, by list, key, scope and kind, is replaced.
    ///
    /// # Errors
    /// There are too many; the file cannot be written. Then nothing has changed.
    pub fn add(&mut self, entries: &[NewEntry], now_s: u64) -> Result<LiveUpdate, StoreError> {
        entries.iter().try_for_each(check_texts)?;
        let seqs = self.state.next_seq..;
        let entries = entries.iter().zip(seqs).map(|(new, seq)| LiveEntry {
            seq,
            change: new.change.clone(),
            list: new.list.clone(),
            created_s: now_s,
            expires_s: new.expires_s,
            reason: new.reason.clone(),
        });
        self.change(entries.map(Arc::new).collect(), &[])
    }

    /// Removes rules: live ones go, and for those of the generation there are voids from now on. Tells for each selector what was
    /// found.
    ///
    /// # Errors
    /// The generation or the file cannot be read or written. Then nothing has changed.
    pub fn remove(
        &mut self,
        selectors: &[Selector],
        removal: Removal<'_>,
    ) -> Result<(LiveUpdate, Vec<Removed>), StoreError> {
        let mut shards = removal.generation.map(Shards::new);
        let (mut leaves, mut leaves_seen) = (Vec::new(), HashSet::new());
        let (mut voids, mut voids_seen) = (Vec::new(), HashSet::new());
        let mut found = Vec::with_capacity(selectors.len());
        for selector in selectors {
            let mut removed = Removed::default();
            let held = self.held(selector)?;
            for rule in held.iter().filter(|held| !held.is_void) {
                if removal.expires_s.is_some() {
                    removed.kept += 1;
                    continue;
                }
                removed.live += 1;
                if leaves_seen.insert(rule.seq) {
                    leaves.push(rule.seq);
                }
            }
            let in_generation = shards.as_mut().map(|shards| shards.matching(selector)).transpose()?;
            for (list, void) in in_generation.unwrap_or_default() {
                let change = LiveChange::Void(void);
                if self.void_until(&change, &list)? == Some(removal.expires_s) {
                    removed.void_already += 1;
                    continue;
                }
                removed.voided += 1;
                let LiveChange::Void(void) = change else { continue };
                if voids_seen.insert((list.clone(), void.clone())) {
                    voids.push((list, void));
                }
            }
            found.push(removed);
        }
        let entries = voids.into_iter().zip(self.state.next_seq..).map(|((list, void), seq)| LiveEntry {
            seq,
            change: LiveChange::Void(void),
            list,
            created_s: removal.now_s,
            expires_s: removal.expires_s,
            reason: removal.reason.to_owned(),
        });
        let update = self.change(entries.map(Arc::new).collect(), &leaves)?;
        Ok((update, found))
    }

    /// Lifts voids, so that the generation's rules hold again. Tells for each selector how many there were.
    ///
    /// # Errors
    /// The file cannot be read or written. Then nothing has changed.
    pub fn restore(&mut self, selectors: &[Selector]) -> Result<(LiveUpdate, Vec<u64>), StoreError> {
        let (mut leaves, mut seen, mut found) = (Vec::new(), HashSet::new(), Vec::new());
        for selector in selectors {
            let held = self.held(selector)?;
            let voids: Vec<u64> = held.iter().filter(|held| held.is_void).map(|held| held.seq).collect();
            found.push(voids.len() as u64);
            leaves.extend(voids.into_iter().filter(|&seq| seen.insert(seq)));
        }
        Ok((self.change(Vec::new(), &leaves)?, found))
    }

    /// Removes the live rules of a list, at most `count_max` of them: the caller goes on until there are none. Voids stay.
    ///
    /// # Errors
    /// The file cannot be read or written. Then nothing has changed.
    pub fn remove_list(&mut self, list: &str, count_max: usize) -> Result<LiveUpdate, StoreError> {
        let leaves =
            self.seqs("SELECT seq FROM entry WHERE list = ? AND is_void = 0 LIMIT ?", params![list, count_max as i64])?;
        self.change(Vec::new(), &leaves)
    }

    /// Removes what has ended by now, at most `count_max` entries: the caller goes on until there are none.
    ///
    /// # Errors
    /// The file cannot be read or written. Then nothing has changed.
    pub fn expire(&mut self, now_s: u64, count_max: usize) -> Result<LiveUpdate, StoreError> {
        let leaves = self.seqs(
            "SELECT seq FROM entry WHERE expires_s IS NOT NULL AND expires_s <= ? LIMIT ?",
            params![i64::try_from(now_s).unwrap_or(i64::MAX), count_max as i64],
        )?;
        self.change(Vec::new(), &leaves)
    }

    /// When the next entry ends by itself, Unix time in seconds.
    pub fn next_expiry(&self) -> Result<Option<u64>, StoreError> {
        let Some(conn) = &self.conn else { return Ok(None) };
        let read = || {
            conn.query_row("SELECT min(expires_s) FROM entry WHERE expires_s IS NOT NULL", [], |row| {
                row.get::<_, Option<i64>>(0)
            })
        };
        let next = read().map_err(failed(&self.path, "look for the next end"))?;
        Ok(next.map(|expires_s| expires_s.max(0) as u64))
    }

    /// The last number that was given to an entry; 0 for none.
    pub fn last_seq(&self) -> u64 {
        self.state.next_seq - 1
    }

    /// Entries that are live on top of the generation ([`Overlay::set_folded`]).
    pub fn live(&self) -> u64 {
        self.live
    }

    /// Everything that is changed goes through here: one transaction, durable when it returns.
    fn change(&mut self, entered: Vec<Arc<LiveEntry>>, leaves: &[u64]) -> Result<LiveUpdate, StoreError> {
        if entered.is_empty() && leaves.is_empty() {
            return Ok(LiveUpdate::default());
        }
        if self.conn.is_none() {
            self.create()?;
        }
        let Overlay { path, conn: Some(conn), folded_seq, check, .. } = self else { return Ok(LiveUpdate::default()) };
        let mut after = Tally {
            state: self.state,
            live: self.live,
            live_patterns: self.live_patterns,
            lists: Vec::new(),
            folded_seq: *folded_seq,
        };
        let mut left = Vec::new();
        let begun = conn.transaction_with_behavior(TransactionBehavior::Immediate);
        let tx = begun.map_err(failed(path, "write the change"))?;
        let mut write = || -> rusqlite::Result<()> {
            for &seq in leaves {
                if after.leave(&tx, seq)? {
                    left.push(seq);
                }
            }
            for entry in &entered {
                if let Some(seq) = find(&tx, &Identity::of(&entry.change), &entry.list)?.map(|(seq, _)| seq)
                    && after.leave(&tx, seq)?
                {
                    left.push(seq);
                }
                let sum = EntryRow::of(entry).insert(&tx)?;
                after.enter(entry, sum);
            }
            after.state.write(&tx)
        };
        write().map_err(failed(path, "write the change"))?;
        let lists_new: HashSet<&str> =
            after.lists.iter().filter(|(_, is_new)| *is_new).map(|(list, _)| &**list).collect();
        let lists = self.lists.len() + lists_new.iter().filter(|list| !self.lists.contains_key(**list)).count();
        after.check(lists)?;
        // An entry may have been replaced within its own batch.
        let first_seq = entered.first().map_or(u64::MAX, |entry| entry.seq);
        let replaced: HashSet<u64> = left.iter().copied().filter(|&seq| seq >= first_seq).collect();
        let entered = entered.iter().filter(|entry| !replaced.contains(&entry.seq)).cloned().collect();
        left.retain(|&seq| seq < first_seq);
        let update = LiveUpdate { entered, left };
        if let Some(Err(what)) = check.as_mut().map(|check| check(&update)) {
            // The transaction is undone.
            return Err(StoreError::Bounds { what, remedy: "nothing was changed" });
        }
        tx.commit().map_err(failed(path, "write the change"))?;
        for (list, is_new) in after.lists {
            let count = self.lists.entry(list).or_default();
            *count = if is_new { *count + 1 } else { count.saturating_sub(1) };
        }
        self.lists.retain(|_, count| *count > 0);
        (self.state, self.live, self.live_patterns) = (after.state, after.live, after.live_patterns);
        Ok(update)
    }

    fn held(&self, selector: &Selector) -> Result<Vec<Held>, StoreError> {
        match &self.conn {
            Some(conn) => lookup::held(conn, selector).map_err(failed(&self.path, "look an entry up")),
            None => Ok(Vec::new()),
        }
    }

    /// When the void of this change ends, if there is one.
    fn void_until(&self, change: &LiveChange, list: &str) -> Result<Option<Option<u64>>, StoreError> {
        let Some(conn) = &self.conn else { return Ok(None) };
        let found = find(conn, &Identity::of(change), list).map_err(failed(&self.path, "look an entry up"))?;
        Ok(found.map(|(_, expires_s)| expires_s))
    }

    fn seqs(&self, sql: &str, params: impl rusqlite::Params) -> Result<Vec<u64>, StoreError> {
        let Some(conn) = &self.conn else { return Ok(Vec::new()) };
        let read = || -> rusqlite::Result<Vec<u64>> {
            let mut statement = conn.prepare_cached(sql)?;
            statement.query_map(params, |row| Ok(row.get::<_, i64>(0)? as u64))?.collect()
        };
        read().map_err(failed(&self.path, "look entries up"))
    }

    fn create(&mut self) -> Result<(), StoreError> {
        disk::create(&self.path)?;
        self.connect()
    }

    fn connect(&mut self) -> Result<(), StoreError> {
        let path = &self.path;
        let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
        let opened = || -> rusqlite::Result<Connection> {
            let conn = Connection::open_with_flags(path, flags)?;
            disk::prepare(&conn)?;
            // Each commit waits for the disk.
            conn.pragma_update(None, "synchronous", "FULL")?;
            conn.set_prepared_statement_cache_capacity(STATEMENTS_KEPT);
            Ok(conn)
        };
        let mut conn = opened().map_err(failed(path, "open the file"))?;
        let version = check_kind(&conn, path)?;
        migrate(&mut conn, version).map_err(failed(path, "bring the tables up to date"))?;
        self.state = State::read(&conn).map_err(|error| row_failed(path, error))?;
        self.conn = Some(conn);
        self.count()
    }

    /// Counts what is bounded.
    fn count(&mut self) -> Result<(), StoreError> {
        let Some(conn) = &self.conn else { return Ok(()) };
        let sql = "SELECT list, count(*), sum(seq > ?1 OR expires_s IS NOT NULL), \
                   sum((seq > ?1 OR expires_s IS NOT NULL) AND scope = 'pattern' AND is_void = 0) FROM entry GROUP BY list";
        let read = || -> rusqlite::Result<Vec<(String, i64, i64, i64)>> {
            let mut statement = conn.prepare(sql)?;
            let row = |row: &rusqlite::Row<'_>| Ok((row.get(0)?, row.get(1)?, row.get(2)?, row.get(3)?));
            statement.query_map([self.folded_seq as i64], row)?.collect()
        };
        let rows = read().map_err(failed(&self.path, "count the entries"))?;
        self.live = rows.iter().map(|row| row.2 as u64).sum();
        self.live_patterns = rows.iter().map(|row| row.3 as u64).sum();
        self.lists = rows.into_iter().map(|(list, count, ..)| (list, count as u64)).collect();
        Ok(())
    }
}

/// What is bounded, and the row of `state`, as they will be after a change.
struct Tally {
    state: State,
    live: u64,
    live_patterns: u64,
    /// The list of each entry that enters (true) or leaves.
    lists: Vec<(String, bool)>,
    folded_seq: u64,
}

impl Tally {
    /// Takes an entry out; false when there is none of this number.
    fn leave(&mut self, conn: &Connection, seq: u64) -> rusqlite::Result<bool> {
        let mut delete = conn.prepare_cached(
            "DELETE FROM entry WHERE seq = ? RETURNING sum, parts, list, expires_s IS NOT NULL, \
             scope = 'pattern' AND is_void = 0",
        )?;
        let read = |row: &rusqlite::Row<'_>| {
            Ok((
                row.get::<_, i64>(0)?,
                row.get::<_, i64>(1)?,
                row.get::<_, String>(2)?,
                row.get::<_, bool>(3)?,
                row.get::<_, bool>(4)?,
            ))
        };
        let Some((sum, parts, list, ends, is_pattern)) = delete.query_row([seq as i64], read).optional()? else {
            return Ok(false);
        };
        if parts != 0 {
            conn.prepare_cached("DELETE FROM entry_part WHERE entry = ?")?.execute([seq as i64])?;
        }
        self.state.entries = self.state.entries.saturating_sub(1);
        self.state.entries_sum ^= sum as u64;
        if seq > self.folded_seq || ends {
            self.live = self.live.saturating_sub(1);
            self.live_patterns = self.live_patterns.saturating_sub(u64::from(is_pattern));
        }
        self.lists.push((list, false));
        Ok(true)
    }

    fn enter(&mut self, entry: &LiveEntry, sum: u64) {
        self.state.entries += 1;
        self.state.entries_sum ^= sum;
        self.state.next_seq = self.state.next_seq.max(entry.seq + 1);
        self.live += 1;
        let identity = Identity::of(&entry.change);
        self.live_patterns += u64::from(identity.scope == "pattern" && !identity.is_void);
        self.lists.push((entry.list.clone(), true));
    }

    fn check(&self, lists: usize) -> Result<(), StoreError> {
        let bounds = |what: String, remedy: &'static str| Err(StoreError::Bounds { what, remedy });
        if self.live > LIVE_RULES_MAX {
            return bounds(
                format!("there would be more than {LIVE_RULES_MAX} live rules"),
                "fold them into a generation by `corewall build --fold-overlay` and reload",
            );
        }
        if self.live_patterns > LIVE_PATTERNS_MAX {
            return bounds(
                format!("there would be more than {LIVE_PATTERNS_MAX} live patterns"),
                "fold them into a generation by `corewall build --fold-overlay` and reload, or put them into a list",
            );
        }
        if self.state.entries > ENTRIES_MAX {
            return bounds(
                format!("there would be more than {ENTRIES_MAX} rules in the overlay"),
                "put them into a list, and remove them here by `corewall rule remove --list L --all`",
            );
        }
        if lists > LIVE_LISTS_MAX {
            return bounds(
                format!("live rules would be of more than {LIVE_LISTS_MAX} lists"),
                "use a list's name for many rules; `--reason` is for what is said of one",
            );
        }
        Ok(())
    }
}

/// The entry of this identity: its number, and when it ends.
fn find(conn: &Connection, identity: &Identity<'_>, list: &str) -> rusqlite::Result<Option<(u64, Option<u64>)>> {
    let mut select = conn.prepare_cached(
        "SELECT seq, expires_s FROM entry WHERE key = ? AND scope = ? AND kind = ? AND list = ? AND is_void = ?",
    )?;
    let Identity { key, scope, kind, is_void } = identity;
    let row = |row: &rusqlite::Row<'_>| {
        Ok((row.get::<_, i64>(0)? as u64, row.get::<_, Option<i64>>(1)?.map(|expires_s| expires_s as u64)))
    };
    select.query_row(params![key, scope, kind, list, is_void], row).optional()
}

fn check_texts(new: &NewEntry) -> Result<(), StoreError> {
    if new.list.is_empty() || new.list.len() > LIST_BYTES_MAX {
        let what = format!("a list's name of {} bytes", new.list.len());
        return Err(StoreError::Bounds { what, remedy: "use 1 to 256 bytes" });
    }
    if new.reason.len() > REASON_BYTES_MAX {
        let what = format!("a reason of {} bytes", new.reason.len());
        return Err(StoreError::Bounds { what, remedy: "use at most 1024 bytes" });
    }
    if matches!(new.change, LiveChange::Void(Void::Name { scope, .. }) if scope > crate::rule::Scope::Below) {
        return Err(StoreError::Bounds { what: "a void on a name".to_owned(), remedy: "use a scope of names" });
    }
    Ok(())
}
