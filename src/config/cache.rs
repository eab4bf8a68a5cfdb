//! `[cache]`: the response cache of each worker.

use serde::Deserialize;

use super::value;
use crate::decide::cache::Eviction;

/// The response cache of each worker.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Cache {
    /// Bytes for each worker.
    #[serde(deserialize_with = "value::cache_bytes")]
    pub bytes: usize,
    /// Which answer goes when room is needed.
    pub eviction: Eviction,
    /// Seconds that an answer is kept at least.
    #[serde(deserialize_with = "value::ttl_s")]
    pub ttl_s_min: u32,
    /// Seconds that an answer is kept at most.
    #[serde(deserialize_with = "value::ttl_s")]
    pub ttl_s_max: u32,
    /// The same for answers that say there is nothing (RFC 2308 §5).
    #[serde(deserialize_with = "value::ttl_s")]
    pub negative_ttl_s_max: u32,
    /// Seconds that a failure to resolve is kept (RFC 9520 §3.2).
    #[serde(deserialize_with = "value::failure_ttl_s")]
    pub failure_ttl_s: u32,
}

impl Default for Cache {
    fn default() -> Self {
        Self {
            bytes: 64 << 20,
            eviction: Eviction::default(),
            ttl_s_min: 0,
            ttl_s_max: 86_400,
            negative_ttl_s_max: 3_600,
            failure_ttl_s: 5,
        }
    }
}
