//! What is said on the control socket: one JSON object a line, a request and then its answer.
//!
//! ```text
//! {"version":1,"command":"cache-flush","what":{"subtree":"example.org"}}
//! {"version":1,"answer":{"removed":12,"workers":[{"core":0,"removed":12}]}}
//! {"version":1,"error":{"kind":"malformed","message":"..."}}
//! ```
//!
//! Invariants: a [`Request`] that exists is valid, names included; whatever else comes is a [`Refusal`] in words, for it has been
//! typed by hand or comes from another version of the program. A field that is not known is refused, not passed over: what
//! somebody wanted by it would not be done. Within a version fields of answers are added, never taken away or given another
//! meaning; a request that older servers would misread gets a new [`VERSION`].

mod rules;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::net::SocketAddr;
use std::path::PathBuf;

use corewall_sharding::name::Name;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};
use serde_json::{Map, Value};

pub use self::rules::{ListedRule, RefusedLine, RulesChanged, RulesListed, RulesToAdd, RulesToFind, RulesToList};

/// The version of this protocol.
pub const VERSION: u32 = 1;

/// What a server is asked to do.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "command", rename_all = "kebab-case", deny_unknown_fields)]
pub enum Request {
    /// How it is; answered by [`Status`].
    Status {},
    /// What its caches hold; answered by [`CacheStats`].
    CacheStats {},
    /// To forget cached answers; answered by [`Flushed`] when every worker has.
    CacheFlush {
        /// Which.
        what: FlushWhat,
    },
    /// How the upstream servers do; answered by [`UpstreamServers`].
    Upstreams {},
    /// To add rules by hand; answered by [`RulesChanged`] when they are on the disk and every worker has them.
    RuleAdd(RulesToAdd),
    /// To remove rules, also those of the generation; answered by [`RulesChanged`] likewise.
    RuleRemove(RulesToFind),
    /// To let rules of the generation hold again that were removed; answered by [`RulesChanged`] likewise.
    RuleRestore(RulesToFind),
    /// To remove some live rules of a list; answered by [`RulesChanged`]. To be asked until none is removed any more.
    RuleRemoveList {
        /// Its name.
        list: String,
    },
    /// For a page of live rules; answered by [`RulesListed`].
    RuleList(RulesToList),
    /// To read configuration and store again, as SIGHUP does; answered by [`Reloaded`].
    Reload {},
    /// To end, as SIGTERM does; answered by [`Stopping`]. The connection is closed when it has ended.
    Stop {},
}

/// Which cached answers are to go.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum FlushWhat {
    /// Those for this name, of every type.
    #[serde(with = "name_text")]
    Name(Name),
    /// Those for this name and every name below it.
    #[serde(with = "name_text")]
    Subtree(Name),
    /// All of them.
    All,
}

/// How a server is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Status {
    /// Of the program.
    pub program_version: String,
    /// Its process.
    pub pid: u32,
    /// Seconds since it said `ready`.
    pub uptime_s: u64,
    /// Where it listens, over UDP and TCP.
    pub listen: Vec<SocketAddr>,
    /// The filters of the generation that the first worker serves.
    #[serde(default)]
    pub filters: FilterStatus,
    /// Its shards that are locked in memory.
    #[serde(default)]
    pub shards_in_memory: DirectStatus,
    /// Directory of its store, as an absolute path; none without a store.
    #[serde(default)]
    pub store: Option<PathBuf>,
    /// In the order of the configuration's cores.
    pub workers: Vec<WorkerStatus>,
    /// What all workers together have counted since the start, by name.
    pub counters: BTreeMap<String, u64>,
}

/// How the filters of a generation are, which lie beside its shards.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct FilterStatus {
    /// As the build wrote them.
    pub verified: u64,
    /// Not read yet: the shards answer.
    pub unverified: u64,
    /// Bad in their files, and made again from the shards.
    pub rebuilt: u64,
    /// Bad in their files: the shards answer.
    pub missing: u64,
    /// Bits of a fingerprint; 0 without a store.
    pub bits: u8,
    /// Bytes of the files.
    pub file_bytes: u64,
    /// Copies of them in memory; 0 when the files are mapped.
    pub copies: u64,
    /// Bytes of memory beside the mapped files.
    pub memory_bytes: u64,
    /// Bytes of the process's memory that are in huge pages; 0 where the system does not tell.
    pub huge_page_bytes: u64,
}

/// How many shards of a generation are locked in memory and read without SQLite.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct DirectStatus {
    /// So many.
    pub shards: u64,
    /// Of so many; 0 without a store.
    pub of: u64,
    /// Bytes that are locked.
    pub bytes: u64,
    /// Why not all of them are; empty when they are, or will be.
    pub why_not: String,
}

/// How one worker is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct WorkerStatus {
    /// Its core.
    pub core: usize,
    /// The generation that it serves; none without a store.
    pub generation: Option<u64>,
    /// Rules of that generation.
    pub rules: u64,
    /// Rules and address rewrites that were added by hand on top of them.
    #[serde(default)]
    pub live_rules: u64,
    /// Rules of the generation that were removed by hand.
    #[serde(default)]
    pub live_voids: u64,
    /// The last entry of the overlay that it has taken over; 0 for none.
    #[serde(default)]
    pub live_seq: u64,
    /// Queries taken in and not answered yet.
    pub queries_waiting: u64,
    /// TCP connections with clients.
    pub tcp_connections: u64,
    /// Datagrams that have come to it since the start.
    #[serde(default)]
    pub udp_received: u64,
    /// Messages that have come to it over TCP since the start.
    #[serde(default)]
    pub tcp_received: u64,
    /// Replies that it has sent over UDP since the start: how the kernel spreads clients over workers.
    #[serde(default)]
    pub udp_sent: u64,
    /// System calls in which it received the questions for them.
    #[serde(default)]
    pub udp_batches: u64,
    /// Its cache.
    pub cache: CacheUse,
}

/// How full a cache is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct CacheUse {
    /// Answers in it.
    pub entries: u64,
    /// Bytes that they take.
    pub bytes_used: u64,
    /// Bytes of memory that it takes, however full it is.
    pub bytes: u64,
}

/// What the caches hold.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CacheStats {
    /// Each worker's.
    pub workers: Vec<WorkerCache>,
    /// What all workers together have counted of their caches since the start, by name.
    pub counters: BTreeMap<String, u64>,
}

/// What one worker's cache holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct WorkerCache {
    /// The worker's core.
    pub core: usize,
    /// How full it is.
    pub cache: CacheUse,
}

/// What a flush has done.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Flushed {
    /// Answers that are gone, over all workers.
    pub removed: u64,
    /// Each worker's part.
    pub workers: Vec<WorkerFlushed>,
}

/// One worker's part of a flush.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct WorkerFlushed {
    /// The worker's core.
    pub core: usize,
    /// Answers that are gone.
    pub removed: u64,
}

/// How the upstream servers do.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct UpstreamServers {
    /// In the order of their addresses.
    pub servers: Vec<UpstreamServer>,
}

/// How one upstream server does. Each worker measures it for itself.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct UpstreamServer {
    /// Its address.
    pub address: SocketAddr,
    /// The configured groups that it is in; none: rules alone name it.
    pub groups: BTreeSet<String>,
    /// What each worker that knows it has found.
    pub workers: Vec<WorkerServer>,
}

/// What one worker has found out about an upstream server.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct WorkerServer {
    /// The worker's core.
    pub core: usize,
    /// Smoothed microseconds until an answer over UDP; none before the first one.
    pub round_trip_us: Option<u64>,
    /// How much that varies.
    pub variation_us: Option<u64>,
    /// Answers of any kind since the server was first named.
    pub answers: u64,
    /// Questions that it did not answer in time.
    pub timeouts: u64,
    /// Time-outs and refusals in a row, by now.
    pub failures: u64,
    /// Whether it is passed over while another one of its group is up.
    pub is_down: bool,
}

/// What a reload has led to.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Reloaded {
    /// The generation that every worker serves now; none without a store.
    pub generation: Option<u64>,
    /// Its rules.
    pub rules: u64,
    /// Milliseconds that it took.
    pub took_ms: u64,
    /// Options that have changed in the configuration and will count after a restart only.
    pub at_restart: Vec<String>,
}

/// The server is going to end.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Stopping {
    /// Its process.
    pub pid: u32,
}

/// Any answer, as it is sent: each [`Request`] says which is its own.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(untagged)]
#[allow(missing_docs, reason = "each is told where it is defined")]
pub enum Answer {
    Status(Status),
    CacheStats(CacheStats),
    Flushed(Flushed),
    UpstreamServers(UpstreamServers),
    RulesChanged(RulesChanged),
    RulesListed(RulesListed),
    Reloaded(Reloaded),
    Stopping(Stopping),
}

/// Why a request was not carried out.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Refusal {
    /// Of which kind, for programs.
    pub kind: RefusalKind,
    /// What is wrong and what to do, for people.
    pub message: String,
}

/// Kinds of [`Refusal`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum RefusalKind {
    /// It is no request.
    Malformed,
    /// It is of a version that this program does not speak.
    Version,
    /// Too much is asked at a time.
    Busy,
    /// It was tried and failed.
    Failed,
    /// The server is ending.
    Stopping,
}

impl Refusal {
    /// Of a kind, in words.
    pub fn new(kind: RefusalKind, message: impl Into<String>) -> Self {
        Self { kind, message: message.into() }
    }

    fn malformed(message: impl fmt::Display) -> Self {
        let example = r#"{"version":1,"command":"status"}"#;
        Self::new(RefusalKind::Malformed, format!("{message}; a request is a line such as {example}"))
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl Request {
    /// Reads a line, with or without its end.
    ///
    /// # Errors
    /// It is not JSON, not of this version, or no command that is known.
    pub fn parse(line: &[u8]) -> Result<Self, Refusal> {
        let mut fields: Map<String, Value> = serde_json::from_slice(line).map_err(Refusal::malformed)?;
        check_version(fields.remove("version"))?;
        serde_json::from_value(Value::Object(fields)).map_err(Refusal::malformed)
    }

    /// The line that says it.
    pub fn to_line(&self) -> String {
        line(self)
    }
}

/// The line that tells what has become of a request.
pub fn answer_line(outcome: &Result<Answer, Refusal>) -> String {
    match outcome {
        Ok(answer) => line(&Told::Answer(answer)),
        Err(refusal) => line(&Told::Error(refusal)),
    }
}

/// Reads the line that a server answers with, where `Expected` is the answer to what was asked.
///
/// # Errors
/// The server refuses, or speaks another version.
pub fn parse_answer<Expected: DeserializeOwned>(line: &[u8]) -> Result<Expected, Refusal> {
    let unreadable = |error: &dyn fmt::Display| {
        let message = format!("the server's answer cannot be read ({error}); use the program that it was started from");
        Refusal::new(RefusalKind::Version, message)
    };
    let mut fields: Map<String, Value> = serde_json::from_slice(line).map_err(|error| unreadable(&error))?;
    if let Some(refused) = fields.remove("error") {
        return Err(serde_json::from_value(refused).unwrap_or_else(|error| unreadable(&error)));
    }
    check_version(fields.remove("version"))?;
    let answer = fields.remove("answer").ok_or_else(|| unreadable(&"it has no `answer`"))?;
    serde_json::from_value(answer).map_err(|error| unreadable(&error))
}

#[derive(Serialize)]
#[serde(rename_all = "kebab-case")]
enum Told<'a> {
    Answer(&'a Answer),
    Error(&'a Refusal),
}

#[derive(Serialize)]
struct Versioned<'a, Said> {
    version: u32,
    #[serde(flatten)]
    said: &'a Said,
}

fn line(said: &impl Serialize) -> String {
    // Numbers, texts and lists of them: there is nothing that JSON cannot hold.
    let mut line = serde_json::to_string(&Versioned { version: VERSION, said }).unwrap_or_default();
    line.push('\n');
    line
}

fn check_version(version: Option<Value>) -> Result<(), Refusal> {
    match version {
        Some(version) if version == VERSION => Ok(()),
        Some(version) => {
            let message = format!(
                "version {version} of the control protocol is not spoken here, but version {VERSION}; use the program that \
                 the server was started from"
            );
            Err(Refusal::new(RefusalKind::Version, message))
        }
        None => Err(Refusal::malformed("it has no `version`")),
    }
}

/// A name from the presentation format (RFC 1035 §5.1), with or without the final dot, or from its Unicode form (UTS 46).
///
/// # Errors
/// It is no domain name.
pub fn parse_name(text: &str) -> Result<Name, String> {
    let ascii = match text.is_ascii() {
        true => Ok(text.to_owned()),
        false => idna::domain_to_ascii(text).map_err(|_| "not a valid internationalised name".to_owned()),
    };
    ascii
        .and_then(|ascii| Name::from_text(&ascii).map_err(|error| error.to_string()))
        .map_err(|error| format!("`{text}` is no domain name ({error})"))
}

/// Names as texts.
mod name_text {
    use super::{Deserialize, Deserializer, Name, Serializer, de, parse_name};

    pub fn serialize<S: Serializer>(name: &Name, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(name)
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Name, D::Error> {
        parse_name(&String::deserialize(deserializer)?).map_err(de::Error::custom)
    }
}

#[cfg(test)]
mod tests;
