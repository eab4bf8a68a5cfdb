//! The files of the overlay: making, locking and opening them, and telling damage from what may go by.
//!
//! ```text
//! STORE/overlay.db        SQLite in WAL mode; made complete under another name, so that it is never there in part
//! STORE/overlay.db-wal    the newest changes; SQLite joins them to the file
//! STORE/overlay.db-shm    where its readers and its writer meet; means nothing when none runs
//! STORE/overlay.lock      held (flock) by the process that may change it
//! ```
//!
//! Invariant: what is left of a file is damage that is told, never an overlay without entries.

use std::fs::{self, File, OpenOptions, TryLockError};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

use rusqlite::{Connection, ErrorCode, OpenFlags, TransactionBehavior};

use super::file::State;
use crate::StoreError;
use crate::publish::{sync_dir, sync_file};
use crate::schema::RowError;

/// Name of the file.
pub(super) const FILE_NAME: &str = "overlay.db";
/// Name of the lock.
const LOCK_NAME: &str = "overlay.lock";
/// What the file is called until it is complete.
const NEW_NAME: &str = ".overlay-new.db";
/// Mode of both: what an operator has changed is nobody else's business, as with the key.
const FILE_MODE: u32 = 0o600;
/// `PRAGMA application_id`: `CWOV` in ASCII.
pub(super) const APPLICATION_ID: u32 = 0x4357_4f56;
/// The steps from nothing to today's tables, in their order; `PRAGMA user_version` tells how many of them a file has had. A
/// step that was released is never changed, only followed by another.
const MIGRATIONS: [&str; 1] = [include_str!("../../../schema/overlay/1-entries.sql")];
/// Today's `PRAGMA user_version`.
pub(super) const VERSION: u32 = MIGRATIONS.len() as u32;
/// How long SQLite waits for another process that reads or recovers the file: these are done within milliseconds.
pub(super) const BUSY_WAIT: Duration = Duration::from_secs(5);

pub(super) fn lock(dir: &Path) -> Result<File, StoreError> {
    let path = dir.join(LOCK_NAME);
    let is_new = !path.exists();
    let mut options = OpenOptions::new();
    options.create(true).truncate(false).write(true).mode(FILE_MODE);
    let lock = options.open(&path).map_err(StoreError::io(&path, "open the lock"))?;
    if is_new {
        give_to_owner(&path);
    }
    match lock.try_lock() {
        Ok(()) => Ok(lock),
        Err(TryLockError::WouldBlock) => Err(StoreError::OverlayBusy { path }),
        Err(TryLockError::Error(error)) => Err(StoreError::io(&path, "take the lock")(error)),
    }
}

/// What root makes in somebody's store is that user's: the server that runs as them could not use it otherwise. SQLite does the
/// same with the files that it makes beside its own.
fn give_to_owner(path: &Path) {
    let owner = path.parent().and_then(|dir| fs::metadata(dir).ok()).map(|dir| (dir.uid(), dir.gid()));
    let file = fs::metadata(path).ok().map(|file| (file.uid(), file.gid()));
    if let (Some((uid, gid)), Some(has)) = (owner, file)
        && has != (uid, gid)
    {
        // Only root may; for others it stays as it is, and opening it says what is wrong.
        let _ = std::os::unix::fs::chown(path, Some(uid), Some(gid));
    }
}

/// Whether there is a file. What is left of one is damage.
pub(super) fn is_there(path: &Path) -> Result<bool, StoreError> {
    match fs::metadata(path) {
        // It is made complete under another name: an empty one is no beginning.
        Ok(file) if file.len() == 0 => Err(damaged(path, "it is empty")),
        Ok(_) => Ok(true),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            let wal = wal_path(path);
            if fs::metadata(&wal).is_ok_and(|wal| wal.len() > 0) {
                return Err(damaged(path, format!("it is missing, but {} is there", wal.display())));
            }
            Ok(false)
        }
        Err(error) => Err(StoreError::io(path, "look at the file")(error)),
    }
}

pub(super) fn wal_path(path: &Path) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push("-wal");
    name.into()
}

/// Makes the file, empty and complete. The lock is held.
pub(super) fn create(path: &Path) -> Result<(), StoreError> {
    let new = path.with_file_name(NEW_NAME);
    for leftover in [new.clone(), wal_path(&new), path.with_file_name(format!("{NEW_NAME}-shm"))] {
        match fs::remove_file(&leftover) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                return Err(StoreError::io(&leftover, "remove what a killed process left")(error));
            }
            _ => {}
        }
    }
    let file = OpenOptions::new().write(true).create_new(true).mode(FILE_MODE).open(&new);
    file.map_err(StoreError::io(&new, "make the file"))?;
    let make = || -> rusqlite::Result<()> {
        let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
        let mut conn = Connection::open_with_flags(&new, flags)?;
        conn.pragma_update(None, "journal_mode", "WAL")?;
        conn.pragma_update(None, "application_id", APPLICATION_ID)?;
        migrate(&mut conn, 0)?;
        State::EMPTY.write(&conn)?;
        conn.close().map_err(|(_, error)| error)
    };
    make().map_err(failed(&new, "make the tables"))?;
    give_to_owner(&new);
    sync_file(&new)?;
    fs::rename(&new, path).map_err(StoreError::io(path, "rename the new file"))?;
    sync_dir(path.parent().unwrap_or(Path::new(".")))
}

/// What every connection has.
pub(super) fn prepare(conn: &Connection) -> rusqlite::Result<()> {
    conn.busy_timeout(BUSY_WAIT)?;
    conn.pragma_update(None, "trusted_schema", false)?;
    conn.pragma_update(None, "cell_size_check", true)
}

/// Makes sure that it is a file of live rules, and gives its version.
pub(super) fn check_kind(conn: &Connection, path: &Path) -> Result<u32, StoreError> {
    let number = |pragma: &str| conn.pragma_query_value(None, pragma, |row| row.get::<_, u32>(0));
    let read = || Ok((number("application_id")?, number("user_version")?));
    let (application, version) = read().map_err(failed(path, "open the file"))?;
    if application != APPLICATION_ID || version == 0 {
        return Err(damaged(path, "it is no file of live rules"));
    }
    if version > VERSION {
        return Err(StoreError::OverlayFormat { path: path.to_path_buf(), found: version, expected: VERSION });
    }
    Ok(version)
}

/// Takes the steps that are missing, all of them or none.
pub(super) fn migrate(conn: &mut Connection, version: u32) -> rusqlite::Result<()> {
    if version >= VERSION {
        return Ok(());
    }
    let tx = conn.transaction_with_behavior(TransactionBehavior::Immediate)?;
    for step in MIGRATIONS.iter().skip(version as usize) {
        tx.execute_batch(step)?;
    }
    tx.pragma_update(None, "user_version", VERSION)?;
    tx.commit()
}

pub(super) fn damaged(path: &Path, what: impl Into<String>) -> StoreError {
    StoreError::OverlayDamaged { path: path.to_path_buf(), what: what.into() }
}

/// Tells damage from what may go by.
pub(super) fn failed(path: &Path, doing: &'static str) -> impl FnOnce(rusqlite::Error) -> StoreError {
    move |source| match source.sqlite_error_code() {
        Some(ErrorCode::DatabaseCorrupt | ErrorCode::NotADatabase) => damaged(path, source.to_string()),
        // The tables are not as they were made, or a column holds another type.
        None | Some(ErrorCode::Unknown) => damaged(path, source.to_string()),
        _ => StoreError::Overlay { path: path.to_path_buf(), doing, source },
    }
}

pub(super) fn row_failed(path: &Path, error: RowError) -> StoreError {
    match error {
        RowError::Sqlite(source) => failed(path, "read the entries")(source),
        RowError::Value(what) => damaged(path, what),
    }
}
