//! Corewall: a thread-per-core, shared-nothing DNS filtering appliance.

pub mod build;
pub mod cli;
pub mod config;
pub mod control;
pub mod decide;
pub mod export;
pub mod judge;
pub mod limits;
pub mod lists;
pub mod rdata;
pub mod serve;
pub mod tune;
