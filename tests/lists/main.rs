//! List readers against real lists, against verdicts of other engines, and against damage.
//!
//! Real lists come from `real_data`; tests that want them say so when they skip.

mod adguard;
mod cases;
mod evaluate;
mod files;
mod hostile;
mod real;
#[path = "../real_data/mod.rs"]
mod real_data;
mod servers;
