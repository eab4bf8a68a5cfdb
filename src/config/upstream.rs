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
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Upstream {
    /// In the order in which they are tried.
    #[serde(deserialize_with = "value::servers")]
    pub servers: Vec<SocketAddr>,
    /// Whether its NXDOMAIN holds for all names below (RFC 8020).
    pub nxdomain_cut: bool,
    /// Whether its answers may hold private addresses in spite of `rebinding_protection`.
    pub private_answers: bool,
}

impl Default for Upstream {
    fn default() -> Self {
        Self { servers: Vec::new(), nxdomain_cut: true, private_answers: false }
    }
}
