//! Corewall: a thread-per-core, shared-nothing DNS filtering appliance.

pub mod decide;
pub mod limits;
pub mod lists;
pub mod rdata;
