//! The configuration: one TOML file, read whole and checked before anything starts.
//!
//! Invariant: a [`Config`] from [`load`] or [`parse`] is valid. Each value was checked where it is read (`value.rs`), what
//! only shows when values are put side by side in `check.rs`. Every error names file, line, key and remedy
//! ([`ConfigError`]). `config.default.toml` documents every option; a test holds it equal to [`Config::default`].
//!
//! Not done here: opening lists or the store, reading hosts files (but see [`Hosts`], which commands read them by), and asking the machine which cores it has. `cli` does that.

mod cache;
mod check;
mod error;
mod local;
mod settings;
mod tcp;
mod upstream;
mod value;

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};

use corewall_sharding::manifest::{FILTER_BITS_DEFAULT, Layout};
use corewall_sharding::name::Name;
use corewall_sharding::rule::{BlockMode, TypedAnswer};
use ipnet::IpNet;
use serde::Deserialize;

pub use self::cache::Cache;
pub use self::error::ConfigError;
pub use self::local::{Hosts, HostsError, Record};
pub use self::tcp::Tcp;
pub use self::upstream::{Forward, Upstream, Upstreams};
pub use self::value::{CookieSecret, Cores, LogLevel, WildcardAction, parse_build_memory, parse_server};
use crate::decide::settings::OnStoreError;
use crate::lists::{AdblockModifiers, Format};
use crate::serve::direct::StoreInMemory;
use crate::serve::filters::FilterPlacement;
use crate::serve::placement::Smt;
use crate::serve::steering::SteeringOption;
use crate::serve::wait::Wait;

/// Where the configuration is looked for when no `--config` is given.
pub const PATH_DEFAULT: &str = "/etc/corewall/corewall.toml";

/// Every option with its default value, unit and meaning.
pub const DEFAULT_TOML: &str = include_str!("config.default.toml");

/// The whole configuration. The meaning of each option is told in `config.default.toml`.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    /// The cores that get a worker each.
    pub cores: Cores,
    /// Whether hyper-threads count as cores.
    pub smt: Smt,
    /// Where the threads run that read the store for workers.
    pub reader_cores: Cores,
    /// Where all other threads run.
    pub control_cores: Cores,
    /// Which worker a packet goes to.
    pub steering: SteeringOption,
    /// Addresses that are answered on, UDP and TCP.
    #[serde(deserialize_with = "value::listen")]
    pub listen: Vec<SocketAddr>,
    /// The store's directory.
    pub store: PathBuf,
    /// Where a running server is spoken to; none means not at all.
    #[serde(deserialize_with = "value::path_or_none")]
    pub control_socket: Option<PathBuf>,
    /// Whether shards are mapped into memory.
    pub mmap: bool,
    /// Where the filters lie.
    pub filter_placement: FilterPlacement,
    /// Threads of each worker that read what is not in memory; 0: the worker itself does, and waits.
    #[serde(deserialize_with = "value::store_readers")]
    pub store_readers: usize,
    /// Whether the store is locked in memory and read without SQLite.
    pub store_in_memory: StoreInMemory,
    /// Milliseconds that a question may wait for the store.
    #[serde(deserialize_with = "value::store_wait_ms_max")]
    pub store_wait_ms_max: u64,
    /// What a store that cannot be read does to the answer.
    pub on_store_error: OnStoreError,
    /// Names asked for most that are counted and kept beside the store; 0 for none.
    #[serde(deserialize_with = "value::top_names")]
    pub top_names: usize,
    /// Clients that are answered; empty means all.
    #[serde(deserialize_with = "value::networks")]
    pub clients_allowed: Vec<IpNet>,
    /// Whether clients that send a cookie are given one (RFC 7873, RFC 9018).
    pub client_cookies: bool,
    /// What these are made with; none is drawn at random when the server starts.
    pub cookie_secret: Option<CookieSecret>,
    /// Whether special-use names are answered here (RFC 6761).
    pub special_use_names: bool,
    /// Whether reverse zones of private and local addresses are answered here (RFC 6303).
    pub local_reverse_zones: bool,
    /// Whether browsers are told to use this resolver (canary domains).
    pub canary_domains: bool,
    /// Hosts files whose names are answered here.
    #[serde(deserialize_with = "value::paths")]
    pub hosts_files: Vec<PathBuf>,
    /// Seconds in their answers.
    #[serde(deserialize_with = "value::ttl_s")]
    pub hosts_ttl_s: u32,
    /// Whether local addresses get reverse records by themselves.
    pub reverse_records: bool,
    /// What `version.bind` tells; empty tells nothing.
    #[serde(deserialize_with = "value::chaos_text")]
    pub chaos_version: String,
    /// What `id.server` tells; empty tells nothing.
    #[serde(deserialize_with = "value::chaos_text")]
    pub chaos_id: String,
    /// Whether private addresses in upstreams' answers are refused.
    pub rebinding_protection: bool,
    /// Names for which they are not.
    #[serde(deserialize_with = "value::names")]
    pub rebinding_exceptions: Vec<Name>,
    /// What a worker does when nothing is asked.
    pub wait: Wait,
    /// Least severe log lines that are written.
    pub log: LogLevel,
    /// Milliseconds that an upstream server is waited for at most.
    #[serde(deserialize_with = "value::upstream_timeout_ms")]
    pub upstream_timeout_ms: u64,
    /// Upstream groups.
    pub upstream: Upstreams,
    /// Zones that are asked of servers of their own.
    pub forward: Vec<Forward>,
    /// Answers to blocked questions.
    pub block: Block,
    /// Answers by alias.
    pub alias: Alias,
    /// The response cache.
    pub cache: Cache,
    /// How much of each worker TCP clients may take.
    pub tcp: Tcp,
    /// How a store is built.
    pub build: Build,
    /// Policies by client, in order.
    pub policy: Vec<Policy>,
    /// Local records.
    pub record: Vec<Record>,
    /// Lists, in order of precedence.
    pub list: Vec<List>,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            cores: Cores::Auto,
            smt: Smt::Use,
            reader_cores: Cores::Auto,
            control_cores: Cores::Auto,
            steering: SteeringOption::Auto,
            listen: vec![SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 5353)],
            store: PathBuf::from("/var/lib/corewall"),
            control_socket: Some(PathBuf::from("/run/corewall/control.sock")),
            mmap: true,
            filter_placement: FilterPlacement::Mapped,
            store_readers: 2,
            store_in_memory: StoreInMemory::Auto,
            store_wait_ms_max: 250,
            on_store_error: OnStoreError::Servfail,
            top_names: 10_000,
            clients_allowed: Vec::new(),
            client_cookies: true,
            cookie_secret: None,
            special_use_names: true,
            local_reverse_zones: true,
            canary_domains: true,
            hosts_files: Vec::new(),
            hosts_ttl_s: 300,
            reverse_records: true,
            chaos_version: String::new(),
            chaos_id: String::new(),
            rebinding_protection: false,
            rebinding_exceptions: Vec::new(),
            wait: Wait::Adaptive,
            log: LogLevel::Info,
            upstream_timeout_ms: 600,
            upstream: Upstreams::default(),
            forward: Vec::new(),
            block: Block::default(),
            alias: Alias::default(),
            cache: Cache::default(),
            tcp: Tcp::default(),
            build: Build::default(),
            policy: Vec::new(),
            record: Vec::new(),
            list: Vec::new(),
        }
    }
}

/// Answers to blocked questions, unless list or policy say otherwise.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Block {
    /// What is answered.
    pub mode: BlockMode,
    /// Seconds that a client may keep the answer.
    #[serde(deserialize_with = "value::ttl_s")]
    pub ttl_s: u32,
    /// Whether an Extended DNS Error tells why (RFC 8914).
    pub ede: bool,
    /// Whether it names the list.
    pub ede_text: bool,
}

impl Default for Block {
    fn default() -> Self {
        Self { mode: BlockMode::Zero, ttl_s: 60, ede: true, ede_text: false }
    }
}

/// Answers by alias.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Alias {
    /// Seconds that a client may keep the CNAME.
    #[serde(deserialize_with = "value::ttl_s")]
    pub ttl_s: u32,
}

impl Default for Alias {
    fn default() -> Self {
        Self { ttl_s: 60 }
    }
}

/// How a store is built.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Build {
    /// Shards of the next generation; none leaves it to the size of the lists.
    #[serde(deserialize_with = "value::shards")]
    pub shards: Option<u16>,
    /// How the rules by name lie in them.
    pub layout: Layout,
    /// Bits of a fingerprint in the filters.
    #[serde(deserialize_with = "value::filter_bits")]
    pub filter_bits: u8,
    /// Whether the places of the rows are written; none leaves it to layout and size.
    #[serde(deserialize_with = "value::places")]
    pub places: Option<bool>,
    /// Bytes of memory that a build uses; none means a quarter of the machine's.
    #[serde(deserialize_with = "value::build_memory")]
    pub memory: Option<u64>,
    /// Threads of a build; none means one a core.
    #[serde(deserialize_with = "value::build_threads")]
    pub threads: Option<usize>,
}

impl Default for Build {
    fn default() -> Self {
        Self {
            shards: None,
            layout: Layout::Sql,
            filter_bits: FILTER_BITS_DEFAULT,
            places: None,
            memory: None,
            threads: None,
        }
    }
}

/// Which lists apply to a set of clients.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Policy {
    /// Unique; `default` is the policy of clients that no other one names.
    pub name: String,
    /// Addresses and prefixes; the longest prefix of all policies wins.
    #[serde(default, deserialize_with = "value::networks")]
    pub clients: Vec<IpNet>,
    /// Names of the lists that apply; absent means all.
    #[serde(default)]
    pub lists: Option<Vec<String>>,
    /// Instead of `block.mode`.
    #[serde(default)]
    pub block_mode: Option<BlockMode>,
    /// The upstream group instead of `default`.
    #[serde(default)]
    pub upstream: Option<String>,
}

/// What a name in a list means when the list's format leaves it open.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ListKind {
    /// Blocked.
    #[default]
    Block,
    /// Allowed.
    Allow,
}

/// A list to build into the store.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct List {
    /// Unique.
    pub name: String,
    /// File, may be compressed by gzip, xz or zstd.
    pub path: PathBuf,
    /// Its syntax.
    pub format: Format,
    /// Free text; also chooses the Extended DNS Error code.
    #[serde(default)]
    pub category: String,
    /// What a name means.
    #[serde(default)]
    pub kind: ListKind,
    /// Whether a plain name speaks of its subtree.
    #[serde(default)]
    pub subtree: bool,
    /// Whether its rules are in the important tiers.
    #[serde(default)]
    pub important: bool,
    /// Whether rules on a whole public suffix count.
    #[serde(default)]
    pub allow_public_suffix: bool,
    /// Whether patterns with fewer than three literal characters count.
    #[serde(default)]
    pub allow_wide: bool,
    /// The upstream group for its forwarding rules that name no server.
    #[serde(default)]
    pub upstream: Option<String>,
    /// What becomes of modifiers meant for browsers.
    #[serde(default)]
    pub adblock_modifiers: AdblockModifiers,
    /// Whether an address in a hosts file that is no sinkhole is an answer to give.
    #[serde(default)]
    pub hosts_addresses: bool,
    /// What `block_wildcard` rows of a dnsmasq-sqlite database become.
    #[serde(default)]
    pub wildcard_action: WildcardAction,
    /// Instead of the policy's or `block.mode`.
    #[serde(default)]
    pub block_mode: Option<BlockMode>,
    /// Seconds instead of `block.ttl_s`.
    #[serde(default, deserialize_with = "value::ttl_s_optional")]
    pub block_ttl_s: Option<u32>,
    /// Addresses for `block_mode = "sinkhole"`.
    #[serde(default)]
    pub sinkhole: Vec<IpAddr>,
    /// Text of the Extended DNS Error instead of the list's name.
    #[serde(default, deserialize_with = "value::ede_text_optional")]
    pub ede_text: Option<String>,
    /// Answers to blocked questions by type.
    #[serde(default)]
    pub answers: Vec<TypedAnswer>,
}

/// Reads and checks the file. Relative paths in it are made relative to its directory.
///
/// # Errors
/// The file cannot be read, is not TOML, has an unknown key or a bad value.
pub fn load(path: &Path) -> Result<Config, ConfigError> {
    let text = std::fs::read_to_string(path).map_err(|error| ConfigError::unreadable(path, &error))?;
    parse(&text, path)
}

/// As [`load`], from `text` that stands for the content of `file`.
///
/// # Errors
/// The text is not TOML, has an unknown key or a bad value.
pub fn parse(text: &str, file: &Path) -> Result<Config, ConfigError> {
    let mut config: Config = toml::from_str(text).map_err(|error| ConfigError::from_toml(file, text, &error))?;
    check::check(&config).map_err(|problem| ConfigError::from_problem(file, text, problem))?;
    let base = file.parent().unwrap_or(Path::new(""));
    // `join` leaves absolute paths as they are.
    config.store = base.join(&config.store);
    for file in &mut config.hosts_files {
        *file = base.join(&file);
    }
    config.control_socket = config.control_socket.map(|path| base.join(path));
    if let Some(directory) = &mut config.cache.save_dir {
        *directory = base.join(&directory);
    }
    for list in &mut config.list {
        list.path = base.join(&list.path);
    }
    Ok(config)
}

/// The configuration of a command: the file that `--config` names, else [`PATH_DEFAULT`] when there is one, else the
/// defaults. Also tells which file it was.
///
/// # Errors
/// As [`load`].
pub fn find(path: Option<&Path>) -> Result<(Config, Option<PathBuf>), ConfigError> {
    let default = Path::new(PATH_DEFAULT);
    match path {
        Some(path) => load(path).map(|config| (config, Some(path.to_path_buf()))),
        None if default.exists() => load(default).map(|config| (config, Some(default.to_path_buf()))),
        None => Ok((Config::default(), None)),
    }
}

#[cfg(test)]
mod tests;
