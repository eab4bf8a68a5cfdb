//! List readers against real lists, against verdicts of other engines, and against damage.
//!
//! Real lists lie in `../shared/data` beside the repository where there is one; tests that want them say so when they skip.

mod adguard;
mod cases;
mod data;
mod evaluate;
mod hostile;
mod real;
mod servers;
