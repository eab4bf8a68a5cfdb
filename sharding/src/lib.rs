//! The store of Corewall: rules in hash-sharded SQLite files with their filters, in generations.
//!
//! This crate alone knows the bytes on disk; `README.md` beside it documents each format. It knows nothing of DNS messages,
//! sockets or clients.

pub mod ancestor;
mod btree;
pub mod build;
pub mod direct;
pub mod error;
pub mod filter;
pub mod filters;
pub mod generation;
mod history;
pub mod manifest;
pub mod memory;
pub mod name;
pub mod overlay;
mod packed;
mod places;
pub mod publish;
mod record;
pub mod route;
pub mod row_key;
pub mod rows;
pub mod rule;
pub mod schema;
mod shard_file;
mod vfs;
pub mod verify;

pub use error::StoreError;
