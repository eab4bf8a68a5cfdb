//! `[cache]`: the response cache of each worker.

use std::path::PathBuf;

use serde::Deserialize;

use super::value;
use crate::decide::cache::Eviction;
use crate::decide::settings::CacheBounds;

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
    /// The same for answers that say there is nothing.
    #[serde(deserialize_with = "value::ttl_s")]
    pub negative_ttl_s_min: u32,
    /// The same for answers that say there is nothing (RFC 2308 §5).
    #[serde(deserialize_with = "value::ttl_s")]
    pub negative_ttl_s_max: u32,
    /// Seconds that a failure to resolve is kept (RFC 9520 §3.2).
    #[serde(deserialize_with = "value::failure_ttl_s")]
    pub failure_ttl_s: u32,
    /// Whether expired answers are served when the upstreams fail (RFC 8767).
    pub stale: bool,
    /// Seconds past its end that an answer is kept for it.
    #[serde(deserialize_with = "value::stale_window_s")]
    pub stale_window_s: u32,
    /// Seconds that a client may keep it.
    #[serde(deserialize_with = "value::stale_ttl_s")]
    pub stale_ttl_s: u32,
    /// Milliseconds that a client waits for the upstream first.
    #[serde(deserialize_with = "value::stale_client_timeout_ms")]
    pub stale_client_timeout_ms: u64,
    /// Whether popular answers are asked for again before they end.
    pub prefetch: bool,
    /// In which last part of their TTL, in percent.
    #[serde(deserialize_with = "value::prefetch_percent")]
    pub prefetch_percent: u32,
    /// Directory that popular answers are saved in from a stop to the next start; none for not at all.
    #[serde(deserialize_with = "value::path_or_none")]
    pub save_dir: Option<PathBuf>,
}

impl Default for Cache {
    fn default() -> Self {
        let bounds = CacheBounds::default();
        Self {
            bytes: bounds.bytes,
            eviction: bounds.eviction,
            ttl_s_min: bounds.ttl_s_min,
            ttl_s_max: bounds.ttl_s_max,
            negative_ttl_s_min: bounds.negative_ttl_s_min,
            negative_ttl_s_max: bounds.negative_ttl_s_max,
            failure_ttl_s: bounds.failure_ttl_s,
            stale: true,
            stale_window_s: bounds.stale_window_s,
            stale_ttl_s: bounds.stale_ttl_s,
            stale_client_timeout_ms: bounds.stale_client_timeout_ms,
            prefetch: true,
            prefetch_percent: bounds.prefetch_percent,
            save_dir: None,
        }
    }
}

impl Cache {
    /// What the query path is told.
    pub(super) fn bounds(&self) -> CacheBounds {
        CacheBounds {
            bytes: self.bytes,
            eviction: self.eviction,
            ttl_s_min: self.ttl_s_min,
            ttl_s_max: self.ttl_s_max,
            negative_ttl_s_min: self.negative_ttl_s_min,
            negative_ttl_s_max: self.negative_ttl_s_max,
            failure_ttl_s: self.failure_ttl_s,
            stale_window_s: if self.stale { self.stale_window_s } else { 0 },
            stale_ttl_s: self.stale_ttl_s,
            stale_client_timeout_ms: self.stale_client_timeout_ms,
            prefetch_percent: if self.prefetch { self.prefetch_percent } else { 0 },
        }
    }
}
