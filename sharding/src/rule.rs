//! What a rule is, once its list's syntax is behind it.
//!
//! Millions of rules differ only in their name: all else that they say is their [`Class`], stored once and referred to by
//! a small integer. Invariant: a class is immutable within its generation, and everything in it was validated when the
//! generation was built.

use std::net::{IpAddr, SocketAddr};

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use crate::name::Name;

/// Which names a rule speaks of.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
#[repr(u8)]
pub enum Scope {
    /// The name alone.
    Exact = 0,
    /// The name and everything under it.
    Subtree = 1,
    /// Everything under the name, not the name itself.
    Below = 2,
    /// Names that a regular expression finds; the rule has no name of its own.
    Pattern = 3,
    /// Upstream answers with an address in a prefix; the rule has no name of its own.
    Address = 4,
}

/// What a rule does. The order is that of precedence within a tier.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[repr(u8)]
pub enum Kind {
    /// Allowed, and forwarded to the class's servers or to the `allow` upstream group.
    ForwardAllow = 0,
    /// Forwarded to the class's servers or to the `block` upstream group.
    ForwardBlock = 1,
    /// Never blocked by a lower tier.
    Allow = 2,
    /// Answered with a CNAME to the rule's target.
    Alias = 3,
    /// Answered as the class's [`Answer`] or the block mode says.
    Block = 4,
}

/// A list's number within a generation, in the order of the configuration: the lower one wins a tie.
pub type ListId = u16;

/// A class's number within a generation.
pub type ClassId = u32;

/// How a blocked question is answered.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum BlockMode {
    /// A `0.0.0.0`, AAAA `::`, other types NODATA.
    #[default]
    Zero,
    /// The list's own addresses; other types, and a family without any, NODATA.
    Sinkhole,
    /// NXDOMAIN with an SOA.
    Nxdomain,
    /// NOERROR without an answer, with an SOA.
    Nodata,
    /// REFUSED.
    Refused,
    /// No answer at all.
    Drop,
    /// TC over UDP, resolved as usual over TCP (RPZ's TCP-ONLY).
    TcpOnly,
}

/// One resource record to answer with; owner and class come from the question.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct AnswerRecord {
    /// RR type number.
    pub rtype: u16,
    /// Seconds; none means the list's or the global block TTL.
    pub ttl_s: Option<u32>,
    /// Uncompressed wire-format RDATA.
    pub rdata: Box<[u8]>,
}

/// What a block rule answers instead of the block mode.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Answer {
    /// This mode, whatever the list's says.
    Mode(BlockMode),
    /// The records of the asked type, NODATA when there are none.
    Records(Vec<AnswerRecord>),
}

/// How much of the asked name an alias puts before its target.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum AliasLabels {
    /// Nothing: the target as it stands.
    None,
    /// The labels below the rule's name: `a.x -> a.y`.
    #[default]
    Below,
    /// The whole asked name (RPZ `CNAME *.target`).
    All,
}

/// A client as `$client` names it.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum ClientMatch {
    /// An address or a prefix.
    Net(IpNet),
    /// A client's name or tag in the configuration.
    Named(Box<str>),
}

/// When a rule applies; all parts must hold.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Condition {
    /// Only these types; empty means any.
    pub types: Vec<u16>,
    /// None of these types.
    pub types_not: Vec<u16>,
    /// Not for these names and what is under them (`$denyallow`).
    pub names_not: Vec<Name>,
    /// Only these clients; empty means any (`$client`, `$ctag`).
    pub clients: Vec<ClientMatch>,
    /// None of these clients.
    pub clients_not: Vec<ClientMatch>,
    /// Only rules that carry an [`Answer`] are lifted by this allow rule (`@@...$dnsrewrite`).
    pub lifts_answers_only: bool,
}

impl Condition {
    /// Whether a rule with this condition is no different from one without.
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    /// Whether the verdict may differ between two clients of one policy.
    pub fn depends_on_client(&self) -> bool {
        !self.clients.is_empty() || !self.clients_not.is_empty()
    }
}

/// All that a rule says beside its name.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Class {
    /// What the rule does.
    pub kind: Kind,
    /// Which names it speaks of.
    pub scope: Scope,
    /// In the tiers of `$important`.
    pub important: bool,
    /// Where it came from.
    pub list: ListId,
    /// When it applies.
    pub condition: Option<Condition>,
    /// Servers of a forwarding rule; empty means the group of its kind.
    pub servers: Vec<SocketAddr>,
    /// Own answer of a block rule.
    pub answer: Option<Answer>,
    /// For an alias.
    pub alias_labels: AliasLabels,
}

impl Class {
    /// A rule of `kind` and `scope` from `list` without anything special.
    pub fn plain(kind: Kind, scope: Scope, list: ListId) -> Self {
        Self {
            kind,
            scope,
            important: false,
            list,
            condition: None,
            servers: Vec::new(),
            answer: None,
            alias_labels: AliasLabels::default(),
        }
    }
}

/// One rule as a list reader hands it on.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rule {
    /// All but the key.
    pub class: Class,
    /// Name or pattern.
    pub key: RuleKey,
}

/// What a rule is looked up by.
// One rule exists at a time and is handed on by reference; a box would cost an allocation for each of millions.
#[expect(clippy::large_enum_variant)]
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum RuleKey {
    /// A name with scope exact, subtree or below; `target` for an alias.
    Name { name: Name, target: Option<Name> },
    /// A regular expression in PCRE syntax, searched (not anchored) in the lower-case text of the name without the final
    /// dot, case-insensitively; `target` for an alias.
    Pattern { regex: String, target: Option<Name> },
    /// An address or prefix without bits beyond its length, searched among the A and AAAA records of upstream answers;
    /// `target` for an alias.
    Address { net: IpNet, target: Option<Name> },
}

/// An `ip-rewrite` rule: addresses in `from` in upstream answers become `to`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct IpRewrite {
    /// Address or prefix, the longest one wins.
    pub from: IpNet,
    /// Of the same family.
    pub to: IpAddr,
    /// Where it came from.
    pub list: ListId,
}

/// A list as the generation remembers it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct List {
    /// Unique, shown in reports and Extended DNS Errors.
    pub name: String,
    /// Free text such as `ads`; also chooses the Extended DNS Error code: `censored`, `filtered`, `prohibited` and
    /// `forged` give 16, 17, 18 and 4 (RFC 8914), anything else 15.
    #[serde(default)]
    pub category: String,
    /// Own block mode.
    #[serde(default)]
    pub block_mode: Option<BlockMode>,
    /// Own sinkhole addresses.
    #[serde(default)]
    pub sinkhole: Vec<IpAddr>,
    /// EXTRA-TEXT of the Extended DNS Error instead of the list's name.
    #[serde(default)]
    pub ede_text: Option<String>,
    /// Own seconds for blocked answers.
    #[serde(default)]
    pub block_ttl_s: Option<u32>,
    /// Answers by type for blocked questions of the types that have no address, in presentation format.
    #[serde(default)]
    pub answers: Vec<TypedAnswer>,
}

impl List {
    /// A list of this name with nothing special about it.
    pub fn named(name: &str) -> Self {
        Self {
            name: name.to_owned(),
            category: String::new(),
            block_mode: None,
            sinkhole: Vec::new(),
            ede_text: None,
            block_ttl_s: None,
            answers: Vec::new(),
        }
    }
}

/// A list's answer to blocked questions of one type.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TypedAnswer {
    /// RR type mnemonic, such as `TXT`.
    #[serde(rename = "type")]
    pub rtype: String,
    /// RDATA in presentation format (RFC 1035 §5.1).
    pub data: String,
}
