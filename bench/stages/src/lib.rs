//! What each stage of a query costs: instructions, counted by callgrind, and nanoseconds.
//!
//! A stage is one small function over names that are always the same ([`stages`]), run within this process over stores
//! that are always the same ([`fixtures`]); no socket, no thread, no clock. Instructions are the same on each run and
//! each machine, so that they can be held against a reference ([`reference`]); time tells what they are worth, and moves.
//!
//! Invariant: a run that did not do what its stage says is an error, never a figure.

pub mod stages;

pub mod appliance;

pub mod fixtures;

pub mod count;

pub mod wall_time;

pub mod reference;

/// Why something could not be measured, in words for whoever started it.
pub type Failure = Box<dyn std::error::Error>;
