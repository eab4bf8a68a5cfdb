//! What can go wrong with a store, in words for the operator who reads them during an outage.
//!
//! Every message names the file, what is wrong with it, and what to do. Nothing here is built on the path of a query unless
//! a read has already failed.

use std::io;
use std::path::{Path, PathBuf};

use crate::vfs;

/// A store that cannot be read, built or published.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// The operating system refused.
    #[error("{path}: cannot {doing}: {source}; check that the path exists, its owner and mode, and the free space", path = .path.display())]
    Io {
        /// The file or directory.
        path: PathBuf,
        /// What was tried, as in "cannot ...".
        doing: &'static str,
        /// The system's reason.
        source: io::Error,
    },
    /// SQLite refused, also on a damaged page.
    #[error("{path}: cannot {doing}: {source}; if the file is damaged, build the store again or roll back", path = .path.display())]
    Sqlite {
        /// The database.
        path: PathBuf,
        /// What was tried, as in "cannot ...".
        doing: &'static str,
        /// SQLite's reason.
        source: rusqlite::Error,
    },
    /// A page that a lookup needs is not in memory, and the shard was opened never to wait for the disk.
    #[error("{path}: the page is not in memory; read it where the disk may be waited for", path = .path.display())]
    WouldWait {
        /// The shard.
        path: PathBuf,
    },
    /// Written by another version of this software.
    #[error("{path}: is in format {found}, this version reads formats up to {expected}; build the store again with this version", path = .path.display())]
    Format {
        /// The file.
        path: PathBuf,
        /// Version found.
        found: String,
        /// Version understood.
        expected: u32,
    },
    /// Content that does not agree with its checksum, its size or itself.
    #[error("{path}: is damaged: {what}; build the store again or roll back to an earlier generation", path = .path.display())]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What disagrees.
        what: String,
    },
    /// No store in this directory.
    #[error("{path}: is not a store; make one with `corewall build --store {path}`", path = .path.display())]
    NoStore {
        /// The directory.
        path: PathBuf,
    },
    /// A store in which nothing has been published.
    #[error("{path}: has no published generation; make one with `corewall build --store {path}`", path = .path.display())]
    NoGeneration {
        /// The directory.
        path: PathBuf,
    },
    /// The store's key is not the one that this generation was built with.
    #[error("{path}: is not the key that generation {generation} was built with, so none of its names would be found; put the old key back or build again", path = .path.display())]
    WrongKey {
        /// The key's file.
        path: PathBuf,
        /// The generation's number.
        generation: u64,
    },
    /// A file given as an ancestor's database that has none of its tables.
    #[error("{path}: has none of the tables of a dnsmasq-sqlite database; check the path and the list's format", path = .path.display())]
    NotAncestor {
        /// The file.
        path: PathBuf,
    },
    /// Another build holds the store.
    #[error("{path}: another build is writing to this store; wait for it to end", path = .path.display())]
    Busy {
        /// The lock's file.
        path: PathBuf,
    },
    /// A build that failed, and may be gone on with once the cause is removed.
    #[error("{source}; what is finished is kept in {dir}: build the same lists with `--resume` to go on from there, or without to begin anew", dir = .dir.display())]
    Unfinished {
        /// Why it failed.
        source: Box<StoreError>,
        /// The build's directory.
        dir: PathBuf,
    },
    /// The file of live rules is damaged.
    #[error(
        "{path}: the live rules cannot be read: {what}; put a copy of the file back, or rescue what is left by \
         `sqlite3 {path} .recover`; to go on without live rules move the file, its -wal and its -shm away",
        path = .path.display()
    )]
    OverlayDamaged {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        what: String,
    },
    /// The file of live rules cannot be read or written now.
    #[error(
        "{path}: cannot {doing}: {source}; check the free space, and the owner and mode of the file and its directory",
        path = .path.display()
    )]
    Overlay {
        /// The file.
        path: PathBuf,
        /// What was tried, as in "cannot ...".
        doing: &'static str,
        /// SQLite's reason.
        source: rusqlite::Error,
    },
    /// The file of live rules was written by a newer version of this software.
    #[error(
        "{path}: is in version {found} of its format, this program reads versions up to {expected}; use the newer program",
        path = .path.display()
    )]
    OverlayFormat {
        /// The file.
        path: PathBuf,
        /// Version found.
        found: u32,
        /// Version understood.
        expected: u32,
    },
    /// Another process changes the live rules.
    #[error(
        "{path}: another process holds the live rules of this store: a running server, which is to be asked through its \
         control socket, or a command that is about to end",
        path = .path.display()
    )]
    OverlayBusy {
        /// The lock's file.
        path: PathBuf,
    },
    /// A value out of its bounds.
    #[error("{what}; {remedy}")]
    Bounds {
        /// What is out of bounds.
        what: String,
        /// What to change.
        remedy: &'static str,
    },
}

impl StoreError {
    /// Whether the disk is full, or the user's part of it.
    pub fn is_no_room(&self) -> bool {
        match self {
            Self::Io { source, .. } => {
                matches!(source.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded)
            }
            Self::Sqlite { source, .. } => source.sqlite_error_code() == Some(rusqlite::ErrorCode::DiskFull),
            Self::Unfinished { source, .. } => source.is_no_room(),
            _ => false,
        }
    }

    pub(crate) fn io(path: &Path, doing: &'static str) -> impl FnOnce(io::Error) -> StoreError {
        move |source| StoreError::Io { path: path.to_path_buf(), doing, source }
    }

    pub(crate) fn sqlite(path: &Path, doing: &'static str) -> impl FnOnce(rusqlite::Error) -> StoreError {
        move |source| match vfs::would_wait(&source) {
            true => StoreError::WouldWait { path: path.to_path_buf() },
            false => StoreError::Sqlite { path: path.to_path_buf(), doing, source },
        }
    }

    pub(crate) fn damaged(path: &Path, what: impl Into<String>) -> StoreError {
        StoreError::Damaged { path: path.to_path_buf(), what: what.into() }
    }
}
