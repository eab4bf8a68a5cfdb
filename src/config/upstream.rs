//! `[upstream.NAME]`: groups of upstream servers.

use std::net::SocketAddr;

use serde::Deserialize;

use super::value;

/// The upstream groups.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Upstreams {
    /// For everything that no rule sends elsewhere.
    pub default: Upstream,
    /// For `forward-allow` rules without a server of their own.
    pub allow: Upstream,
    /// For `forward-block` rules without a server of their own.
    pub block: Upstream,
}

/// One upstream group.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Upstream {
    /// In the order in which they are tried.
    #[serde(deserialize_with = "value::servers")]
    pub servers: Vec<SocketAddr>,
    /// Whether its answers may hold private addresses in spite of `rebinding_protection`.
    pub private_answers: bool,
}
