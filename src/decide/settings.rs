//! What the configuration says to the query path, validated and ready to use. Immutable: a reload makes a new one.

use std::net::SocketAddr;

use corewall_sharding::rule::{BlockMode, ListId};

use super::cookie::issued::Secret;
use super::local::LocalRecords;
use super::prefixes::Prefixes;
use crate::limits::TTL_S_MAX;

/// A policy's number; 0 is the default one.
pub type PolicyId = u16;

/// What is done with a question when the store cannot be read.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum OnStoreError {
    /// SERVFAIL with an Extended DNS Error: nothing passes unjudged.
    #[default]
    Servfail,
    /// As if no rule had matched.
    Allow,
    /// As if a block rule had matched.
    Block,
}

/// Which lists apply to a set of clients.
#[derive(Clone, Debug)]
pub struct Policy {
    /// Unique; `default` for policy 0. Also what `$client` and `$ctag` may name.
    pub name: String,
    /// Names of the lists that apply; none means all. Resolved to numbers per generation.
    pub lists: Option<Vec<String>>,
    /// Instead of the global block mode, when the list has none of its own.
    pub block_mode: Option<BlockMode>,
}

/// An upstream group.
#[derive(Clone, Debug)]
pub struct Group {
    /// `default`, `allow`, `block` or another.
    pub name: String,
    /// In the order in which they are tried.
    pub servers: Vec<SocketAddr>,
}

/// Bounds on what is cached, in seconds.
#[derive(Clone, Copy, Debug)]
pub struct CacheBounds {
    /// Bytes of memory that the cache of one worker may take.
    pub bytes: usize,
    /// Answers with data and a shorter TTL are kept this long, and say so to the client.
    pub ttl_s_min: u32,
    /// Answers with a longer TTL are kept this long.
    pub ttl_s_max: u32,
    /// The same for negative answers (RFC 2308 §5).
    pub negative_ttl_s_max: u32,
    /// Failures to resolve (RFC 9520 §3.2: 1 s to 5 min).
    pub failure_ttl_s: u32,
}

/// All that `decide` needs to know of the configuration.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Clients that are answered; empty means all. Others get REFUSED.
    pub clients_allowed: Prefixes<()>,
    /// What cookies for clients are made with (RFC 9018); none gives them no cookies.
    pub client_cookies: Option<Secret>,
    /// Policy 0 is the default one.
    pub policies: Vec<Policy>,
    /// Which clients have which policy; the longest prefix wins.
    pub policy_clients: Prefixes<PolicyId>,
    /// Answer to a blocked question unless list or policy say otherwise.
    pub block_mode: BlockMode,
    /// Seconds in blocked answers.
    pub block_ttl_s: u32,
    /// Seconds in the CNAME of an alias.
    pub alias_ttl_s: u32,
    /// Whether blocked answers carry an Extended DNS Error, and whether it names the list.
    pub ede: bool,
    /// See `ede`.
    pub ede_text: bool,
    /// Bounds of the response cache.
    pub cache: CacheBounds,
    /// Upstream groups; `default`, `allow` and `block` are always there, maybe without servers.
    pub groups: Vec<Group>,
    /// Milliseconds until the next server is tried.
    pub upstream_timeout_ms: u64,
    /// Local records and special-use names.
    pub local: LocalRecords,
    /// What a store that cannot be read does to the answer.
    pub on_store_error: OnStoreError,
}

impl Default for Settings {
    /// What a configuration that says nothing means.
    fn default() -> Self {
        let group = |name: &str| Group { name: name.to_owned(), servers: Vec::new() };
        Self {
            clients_allowed: Prefixes::default(),
            client_cookies: None,
            policies: vec![Policy { name: "default".to_owned(), lists: None, block_mode: None }],
            policy_clients: Prefixes::default(),
            block_mode: BlockMode::Zero,
            block_ttl_s: 60,
            alias_ttl_s: 60,
            ede: true,
            ede_text: false,
            cache: CacheBounds {
                bytes: 64 << 20,
                ttl_s_min: 0,
                ttl_s_max: TTL_S_MAX,
                negative_ttl_s_max: 3_600,
                failure_ttl_s: 5,
            },
            groups: vec![group("default"), group("allow"), group("block")],
            upstream_timeout_ms: 600,
            local: LocalRecords::default(),
            on_store_error: OnStoreError::default(),
        }
    }
}

impl Settings {
    /// Which of a generation's lists a policy applies, as one flag a list; none means all of them.
    pub fn lists_of(&self, policy: PolicyId, names: &[&str]) -> Option<Vec<bool>> {
        let wanted = self.policies.get(usize::from(policy))?.lists.as_ref()?;
        Some(names.iter().map(|name| wanted.iter().any(|list| list == name)).collect())
    }
}

/// Whether `list` applies under a policy's flags.
pub fn list_applies(flags: Option<&[bool]>, list: ListId) -> bool {
    flags.is_none_or(|flags| flags.get(usize::from(list)).copied().unwrap_or(false))
}
