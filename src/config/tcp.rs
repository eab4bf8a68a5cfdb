//! `[tcp]`: how much of each worker TCP clients may take.

use serde::Deserialize;

use super::value;
use crate::serve::tcp::TcpLimits;

/// How much of each worker TCP clients may take.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Tcp {
    /// Connections of each worker.
    #[serde(deserialize_with = "value::tcp_connections")]
    pub connections: usize,
    /// Of them, with one client.
    #[serde(deserialize_with = "value::tcp_connections")]
    pub connections_per_client: usize,
    /// Milliseconds without a query after which a connection is closed (RFC 7766 §6.2.3).
    #[serde(deserialize_with = "value::tcp_idle_ms")]
    pub idle_ms: u64,
    /// Queries of one connection that wait for their answers at a time.
    #[serde(deserialize_with = "value::tcp_pipeline")]
    pub pipeline: usize,
    /// Milliseconds after which a connection takes no more queries.
    #[serde(deserialize_with = "value::tcp_lifetime_ms")]
    pub lifetime_ms: u64,
}

impl Default for Tcp {
    fn default() -> Self {
        Self { connections: 512, connections_per_client: 32, idle_ms: 10_000, pipeline: 64, lifetime_ms: 3_600_000 }
    }
}

impl Tcp {
    /// As the workers are told.
    pub fn limits(&self) -> TcpLimits {
        let Self { connections, connections_per_client, idle_ms, pipeline, lifetime_ms } = *self;
        TcpLimits { connections, connections_per_client, idle_ms, pipeline, lifetime_ms }
    }
}
