//! skeleton
use serde::{Deserialize, Serialize};
/// What a generation holds.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Manifest {
    /// Version of every format in the generation.
    pub format: u32,
    /// Its number.
    pub generation: u64,
    /// Unix time of the build, seconds.
    pub created_s: u64,
    /// Shards.
    pub shards: u16,
    /// Rules by name, patterns included, duplicates not.
    pub rules: u64,
    /// Of them patterns.
    pub patterns: u64,
    /// Address rewrites.
    pub ip_rewrites: u64,
}
