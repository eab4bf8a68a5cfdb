//! Is this machine set up as a busy server should be? What `corewall tune` knows.
//!
//! Three parts that know nothing of each other's work: [`wanted`] reads what is wanted and why (`tuning/*.conf`), [`facts`]
//! reads what the machine has, [`judge`] holds one against the other. Judging is pure: equal facts give equal findings, so that
//! tests judge machines that nobody has.
//!
//! Invariants: nothing is changed here, only told how; a file, a program or a permission that is missing makes a finding that
//! says so, never an error; what a finding gives as a command is quoted for a shell, whatever the machine calls its parts.

pub mod facts;
pub mod finding;
pub mod judge;
pub mod machine;
pub mod programs;
pub mod site;
pub mod template;
pub mod wanted;

#[cfg(test)]
mod tests;
