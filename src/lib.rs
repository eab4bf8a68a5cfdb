//! Corewall: a thread-per-core, shared-nothing DNS filtering appliance.

pub mod lists;
