//! The store of Corewall: rules in hash-sharded SQLite files with their filters, in generations.
//!
//! This crate alone knows the bytes on disk; `README.md` beside it documents each format. It knows nothing of DNS messages,
//! sockets or clients.

pub mod ancestor;
pub mod build;
pub mod error;
pub mod filter;
pub mod generation;
mod history;
pub mod manifest;
pub mod name;
pub mod overlay;
pub mod publish;
pub mod route;
pub mod rows;
pub mod rule;
pub mod schema;
mod shard_file;
pub mod verify;

pub use error::StoreError;
