//! A scenario: configuration, lists, scripted upstreams, and steps that are taken one after the other.

use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;

use corewall::decide::Undelivered;
use corewall::decide::cache::Flush;
use corewall_sharding::overlay::LiveUpdate;

use crate::message::{Draft, Message};

/// A whole `.rpl` file.
#[derive(Debug, Default)]
pub struct Scenario {
    /// Where it was read from.
    pub file: PathBuf,
    /// What it shows.
    pub title: String,
    /// The appliance's configuration, in TOML.
    pub config: String,
    /// Files beside the configuration.
    pub files: Vec<File>,
    /// What the upstream servers answer, and when.
    pub ranges: Vec<Range>,
    /// In the order in which they are taken.
    pub steps: Vec<Step>,
}

/// A file that the configuration names.
#[derive(Clone, Debug)]
pub struct File {
    /// Relative to the configuration.
    pub name: String,
    /// Its content, or the statements that make it when it is a database.
    pub text: String,
    /// Whether it is an SQLite database.
    pub is_database: bool,
}

/// Answers that upstream servers give while the steps `first` to `last` are at hand.
#[derive(Debug)]
pub struct Range {
    pub first: u32,
    pub last: u32,
    /// Which servers; none means any.
    pub servers: Vec<Server>,
    pub entries: Vec<Entry>,
}

/// A server as scenarios name it: its address, maybe with the port.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Server {
    Address(IpAddr),
    Socket(SocketAddr),
}

impl Server {
    /// Reads `192.0.2.1`, `192.0.2.1:53` or `[2001:db8::1]:53`.
    pub fn parse(text: &str) -> Result<Server, String> {
        let address = text.parse().map(Server::Address);
        address.or_else(|_| text.parse().map(Server::Socket)).map_err(|_| format!("`{text}` is no address"))
    }

    /// Whether `address` is it.
    pub fn is(self, address: SocketAddr) -> bool {
        match self {
            Server::Address(wanted) => wanted == address.ip(),
            Server::Socket(wanted) => wanted == address,
        }
    }
}

/// A message to send, or what a message is compared with.
#[derive(Clone, Debug, Default)]
pub struct Entry {
    /// Where it begins.
    pub line: usize,
    /// What must be equal.
    pub matches: BTreeSet<Match>,
    /// What is changed in an answer before it is sent.
    pub adjusts: BTreeSet<Adjust>,
    /// The message.
    pub draft: Draft,
    /// The same, parsed from its wire format.
    pub message: Message,
    /// The wire format itself, when it was written in hexadecimal.
    pub raw: Option<Vec<u8>>,
    /// The Extended DNS Error that is wanted: INFO-CODE and, when it matters, EXTRA-TEXT.
    pub ede: Option<(u16, Option<String>)>,
}

/// What must be equal in two messages, or hold for the one that is looked at.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Match {
    Opcode,
    Rcode,
    Flags,
    Qname,
    Qtype,
    /// The QNAME is the wanted one or lies below it.
    Subdomain,
    Question,
    Answer,
    Authority,
    Additional,
    /// TTLs count in the sections that are compared.
    Ttl,
    /// Letter case counts in the names and data that are compared.
    Case,
    /// There is an OPT record and it is equal, Extended DNS Errors aside, and in questions cookies.
    Edns,
    NoEdns,
    NoEde,
    /// The OPT record bears these options, Extended DNS Errors aside, and no others.
    EdnsData,
    DnssecOk,
    /// The flag is set.
    AuthenticData,
    CheckingDisabled,
    RecursionDesired,
    Udp,
    Tcp,
    /// At most as many bytes on the wire.
    BytesMax(usize),
    /// Exactly as many.
    Bytes(usize),
    /// There is a COOKIE option with this server's part in hexadecimal; empty: a client's part alone.
    Cookie(String),
    NoCookie,
    /// The QNAME has letters of both cases.
    MixedCase,
    /// The octets on the wire are those in hexadecimal.
    Raw,
    /// The sections may have their records in any order.
    AnyOrder,
}

/// What `all` stands for.
pub const MATCH_ALL: [Match; 7] =
    [Match::Opcode, Match::Rcode, Match::Flags, Match::Question, Match::Answer, Match::Authority, Match::Additional];

/// What is changed in an answer before it is sent.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Adjust {
    /// It bears the id of the question. Without it, it bears another id.
    CopyId,
    /// It repeats the question as it was asked.
    CopyQuery,
    /// It comes to another socket (source port) than the question left from.
    OtherSocket,
    /// It comes over the other transport than the question went.
    OtherTransport,
    /// Names in it are not compressed, which keeps their letter case.
    Uncompressed,
    /// Its question is in the letter case in which it is written. Without it, in that of the question as it was asked.
    OwnCase,
    /// It repeats the client's part of the question's cookie, and adds this server's part in hexadecimal.
    Cookie(String),
}

/// One step.
#[derive(Debug)]
pub struct Step {
    /// Its number, which the ranges refer to.
    pub number: u32,
    /// Where it begins.
    pub line: usize,
    pub event: Event,
}

/// What a step does.
#[derive(Debug)]
pub enum Event {
    /// A client asks.
    Query {
        entry: Entry,
        client: Option<IpAddr>,
    },
    /// The oldest answer not yet looked at, to `client` if given.
    CheckAnswer {
        entry: Entry,
        client: Option<IpAddr>,
    },
    /// No client has an answer that was not yet looked at.
    CheckNoAnswer,
    /// A query was dropped, for this reason if given.
    CheckDrop(Option<String>),
    /// The oldest message to an upstream server that was not yet looked at.
    CheckOutQuery {
        entry: Entry,
        server: Option<Server>,
    },
    /// No message went to an upstream server that was not yet looked at.
    CheckNoOutQuery,
    /// So many messages went to upstream servers since the start.
    CheckOutCount(u64),
    /// A counter has this value.
    CheckCounter(String, u64),
    /// An upstream server answers what it was asked last; `late`: what was given up.
    Reply {
        entry: Entry,
        server: Option<Server>,
        late: bool,
    },
    /// Time passes until a message that waits for its answer, to `server` if given, is given up.
    Timeout {
        server: Option<Server>,
    },
    /// The last message to an upstream server, to `server` if given, could not be delivered.
    Error {
        server: Option<Server>,
        why: Undelivered,
    },
    /// An upstream server counts as up or down.
    CheckServer {
        server: Server,
        is_down: bool,
    },
    /// Microseconds pass.
    TimePasses(u64),
    /// Cached answers are forgotten.
    Flush(Flush),
    /// The appliance saves its popular answers and ends; so many whole seconds later another one takes them in.
    Restart(u64),
    /// The files change, a generation is built and published, and the appliance goes over to it.
    Reload {
        config: Option<String>,
        files: Vec<File>,
    },
    /// Live rules change.
    Live(LiveUpdate),
    /// The store, or the patterns, can no longer be read, or not at once; or can again.
    Store(StoreState),
    Nothing,
}

/// How the store does.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum StoreState {
    #[default]
    Works,
    /// Rows and targets are not in memory; they are read in so many microseconds, or never.
    Cold(Option<u64>),
    /// Rows cannot be read.
    RowsFail,
    /// Targets of aliases cannot be read.
    TargetsFail,
    /// Patterns cannot be scanned.
    PatternsFail,
}
