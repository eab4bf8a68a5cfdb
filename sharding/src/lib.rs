//! The store of Corewall: rules in hash-sharded SQLite files with their filters, in generations.
//!
//! This crate alone knows the bytes on disk; `README.md` beside it documents each format. It knows nothing of DNS messages,
//! sockets or clients.

pub mod name;
pub mod route;
pub mod rule;
