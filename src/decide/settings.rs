//! What the configuration says to the query path, validated and ready to use. Immutable: a reload makes a new one.

use std::net::SocketAddr;

use corewall_sharding::rule::{BlockMode, ListId};

use super::cache::{Eviction, Terms};
use super::chaos::Chaos;
use super::cookie::issued::Secret;
use super::forward::Forwards;
use super::local::LocalRecords;
use super::peer;
use super::prefixes::Prefixes;
use super::rebinding::Rebinding;
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
    /// Name of the group that is asked instead of `default`.
    pub upstream: Option<String>,
}

/// Which server of a group is asked.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Strategy {
    /// The one that has answered fastest lately; the others are measured now and then, beside it.
    #[default]
    Fastest,
    /// Several at once; the first good answer counts.
    Parallel,
    /// The first one that is up.
    Ordered,
    /// One after the other.
    RoundRobin,
}

/// An upstream group.
#[derive(Clone, Debug)]
pub struct Group {
    /// `default`, `allow`, `block` or another.
    pub name: String,
    /// In the order in which they are tried.
    pub servers: Vec<SocketAddr>,
    /// Which of them is asked.
    pub strategy: Strategy,
    /// Servers that [`Strategy::Parallel`] asks at once.
    pub parallel: u8,
    /// Milliseconds after which the next server is asked too while the first one is still waited for; 0: never.
    pub hedge_ms: u64,
    /// Name of the group that is asked when none of these servers gives an answer.
    pub fallback: Option<String>,
    /// Whether its NXDOMAIN holds for all names below (RFC 8020).
    pub nxdomain_cut: bool,
    /// How its servers are spoken to: letter case, cookies, client subnets.
    pub terms: peer::Terms,
}

impl Group {
    /// A group of these servers, as a configuration that says no more has it.
    pub fn new(name: &str, servers: Vec<SocketAddr>) -> Self {
        Self {
            name: name.to_owned(),
            servers,
            strategy: Strategy::default(),
            parallel: 2,
            hedge_ms: 0,
            fallback: None,
            nxdomain_cut: true,
            terms: peer::Terms::default(),
        }
    }
}

/// Bounds on what is cached, in seconds.
#[derive(Clone, Copy, Debug)]
pub struct CacheBounds {
    /// Bytes of memory that the cache of one worker may take.
    pub bytes: usize,
    /// Which answer goes when room is needed.
    pub eviction: Eviction,
    /// Answers with data and a shorter TTL are kept this long, and say so to the client.
    pub ttl_s_min: u32,
    /// Answers with a longer TTL are kept this long.
    pub ttl_s_max: u32,
    /// Negative answers with a shorter one are kept this long.
    pub negative_ttl_s_min: u32,
    /// Negative answers with a longer one are kept this long (RFC 2308 §5).
    pub negative_ttl_s_max: u32,
    /// Failures to resolve (RFC 9520 §3.2: 1 s to 5 min).
    pub failure_ttl_s: u32,
    /// Expired answers are kept so much longer, for when the upstreams fail (RFC 8767); 0 for not at all.
    pub stale_window_s: u32,
    /// How long clients may keep an expired answer.
    pub stale_ttl_s: u32,
    /// Milliseconds that a client waits for an upstream before it gets an expired answer; 0: it gets that at once.
    pub stale_client_timeout_ms: u64,
    /// The last part of a TTL, in percent, in which a popular answer is asked for again; 0 for never.
    pub prefetch_percent: u32,
}

impl CacheBounds {
    /// What the cache needs to know while it runs.
    pub fn terms(&self) -> Terms {
        Terms { stale_window_s: self.stale_window_s, prefetch_percent: self.prefetch_percent }
    }
}

impl Default for CacheBounds {
    fn default() -> Self {
        Self {
            bytes: 64 << 20,
            eviction: Eviction::default(),
            ttl_s_min: 0,
            ttl_s_max: TTL_S_MAX,
            negative_ttl_s_min: 0,
            negative_ttl_s_max: 3_600,
            failure_ttl_s: 5,
            stale_window_s: 86_400,
            stale_ttl_s: 30,
            stale_client_timeout_ms: 1_800,
            prefetch_percent: 10,
        }
    }
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
    /// Zones that are forwarded to groups of their own.
    pub forwards: Forwards,
    /// By the name of a list: the group for its forwarding rules that name no server.
    pub list_upstreams: Vec<(String, String)>,
    /// Milliseconds that a server of which nothing is known is waited for, and any server at most.
    pub upstream_timeout_ms: u64,
    /// Local records and special-use names.
    pub local: LocalRecords,
    /// What is told of this server.
    pub chaos: Chaos,
    /// Whether private addresses in upstreams' answers are refused, and where not.
    pub rebinding: Rebinding,
    /// What a store that cannot be read does to the answer.
    pub on_store_error: OnStoreError,
    /// Milliseconds that a query may wait for the store, before it counts as not to be read.
    pub store_wait_ms_max: u64,
    /// Names asked for most that are counted; 0 counts none.
    pub top_names: usize,
}

impl Default for Settings {
    /// What a configuration that says nothing means.
    fn default() -> Self {
        Self {
            clients_allowed: Prefixes::default(),
            client_cookies: None,
            policies: vec![Policy { name: "default".to_owned(), lists: None, block_mode: None, upstream: None }],
            policy_clients: Prefixes::default(),
            block_mode: BlockMode::Zero,
            block_ttl_s: 60,
            alias_ttl_s: 60,
            ede: true,
            ede_text: false,
            cache: CacheBounds::default(),
            groups: ["default", "allow", "block"].map(|name| Group::new(name, Vec::new())).to_vec(),
            forwards: Forwards::default(),
            list_upstreams: Vec::new(),
            upstream_timeout_ms: 600,
            local: LocalRecords::default(),
            chaos: Chaos::default(),
            rebinding: Rebinding::default(),
            on_store_error: OnStoreError::default(),
            store_wait_ms_max: 250,
            top_names: 10_000,
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
