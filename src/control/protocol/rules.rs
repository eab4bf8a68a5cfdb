//! What is said of live rules.
//!
//! Rules go as the lines that an operator has written ([`crate::lists::live`]) and are read by whoever carries the request out: a
//! line that makes no sense is refused by its number and stops no other.

use std::net::SocketAddr;

use corewall_sharding::name::Name;
use corewall_sharding::overlay::{LiveChange, LiveEntry, Void};
use corewall_sharding::rule::{Answer, BlockMode, RuleKey, Scope};
use corewall_sharding::schema::{kind_word, scope_word};
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

use super::parse_name;
use crate::lists::live::{LiveOptions, MODES, RuleKind};

/// Rules to be added.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RulesToAdd {
    /// One rule a line.
    pub lines: Vec<String>,
    /// What the lines do not say.
    #[serde(default)]
    pub options: LiveOptions,
    /// The list that they belong to; none is [`corewall_sharding::overlay::LIST_DEFAULT`].
    #[serde(default)]
    pub list: Option<String>,
    /// When they end by themselves, Unix time in seconds.
    #[serde(default)]
    pub expires_s: Option<u64>,
    /// Why.
    #[serde(default)]
    pub reason: String,
}

/// Rules to be removed, or to be restored.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RulesToFind {
    /// One name, pattern or address a line.
    pub lines: Vec<String>,
    /// Only rules that do this.
    #[serde(default)]
    pub kind: Option<RuleKind>,
    /// Only rules of this scope.
    #[serde(default)]
    pub scope: Option<Scope>,
    /// Only rules of this list.
    #[serde(default)]
    pub list: Option<String>,
    /// When rules of the generation come back by themselves, Unix time in seconds.
    #[serde(default)]
    pub expires_s: Option<u64>,
    /// Why.
    #[serde(default)]
    pub reason: String,
}

/// Which live rules are listed; each part that is there must hold.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RulesToList {
    /// Of this list.
    #[serde(default)]
    pub list: Option<String>,
    /// That do this.
    #[serde(default)]
    pub kind: Option<RuleKind>,
    /// On this name or names below it.
    #[serde(default, serialize_with = "name_text", deserialize_with = "text_name")]
    pub name: Option<Name>,
    /// Those behind this number: the page before has ended with it.
    #[serde(default)]
    pub after: u64,
}

/// What a change of live rules has led to.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct RulesChanged {
    /// Rules that are live now and were not.
    pub added: u64,
    /// Rules that are live now in the place of the same ones.
    pub replaced: u64,
    /// Live rules that are gone.
    pub removed: u64,
    /// Rules of the generation that hold no longer.
    pub voided: u64,
    /// Rules of the generation that held no longer before.
    pub voided_before: u64,
    /// Rules of the generation that hold again.
    pub restored: u64,
    /// The last number that was given to an entry.
    pub last_seq: u64,
    /// Workers on which the change is in force; 0 when no server runs.
    pub workers: u64,
    /// Lines that were not carried out.
    pub refused: Vec<RefusedLine>,
}

/// A line that was not carried out.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RefusedLine {
    /// Its number in the request, from 1.
    pub line: u64,
    /// Its beginning.
    pub text: String,
    /// Why.
    pub reason: String,
}

/// A page of live rules.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct RulesListed {
    /// By number.
    pub rules: Vec<ListedRule>,
    /// There may be more behind the last one.
    pub has_more: bool,
}

/// One live rule, or a void.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ListedRule {
    /// The entry's number.
    pub seq: u64,
    /// It says that such rules of generations hold no longer.
    pub is_void: bool,
    /// What the rule does.
    pub kind: String,
    /// Exact, subtree, below, pattern or address.
    pub scope: String,
    /// Name, pattern, address or prefix.
    pub key: String,
    /// Where an alias leads, or the address that a rewrite puts in place.
    pub target: Option<String>,
    /// Servers of a forwarding rule.
    pub servers: Vec<SocketAddr>,
    /// How a blocked question is answered: a mode, or `records`.
    pub answer: Option<String>,
    /// In the important tiers.
    pub important: bool,
    /// It holds for some questions or clients only.
    pub is_conditional: bool,
    /// The list that it belongs to, or whose rules are voided.
    pub list: String,
    /// When it was made, Unix time in seconds.
    pub created_s: u64,
    /// When it ends by itself, Unix time in seconds.
    pub expires_s: Option<u64>,
    /// Why, in the operator's words.
    pub reason: String,
}

impl From<LiveEntry> for ListedRule {
    fn from(entry: LiveEntry) -> Self {
        let LiveEntry { seq, change, list, created_s, expires_s, reason } = entry;
        let mut listed = Self {
            seq,
            is_void: matches!(change, LiveChange::Void(_)),
            kind: RuleKind::IpRewrite.effect().word().to_owned(),
            scope: scope_word(Scope::Address).to_owned(),
            key: String::new(),
            target: None,
            servers: Vec::new(),
            answer: None,
            important: false,
            is_conditional: false,
            list,
            created_s,
            expires_s,
            reason,
        };
        let (kind, scope) = match change {
            LiveChange::Rule(rule) => {
                let (key, target) = match rule.key {
                    RuleKey::Name { name, target } => (name.to_string(), target),
                    RuleKey::Pattern { regex, target } => (regex, target),
                    RuleKey::Address { net, target } => (net_text(net), target),
                };
                (listed.key, listed.target) = (key, target.map(|target| target.to_string()));
                listed.answer = rule.class.answer.map(|answer| match answer {
                    Answer::Mode(mode) => mode_text(mode),
                    Answer::Records(_) => "records".to_owned(),
                });
                listed.servers = rule.class.servers;
                listed.important = rule.class.important;
                listed.is_conditional = rule.class.condition.is_some();
                (rule.class.kind, rule.class.scope)
            }
            LiveChange::Rewrite(rewrite) => {
                (listed.key, listed.target) = (net_text(rewrite.from), Some(rewrite.to.to_string()));
                return listed;
            }
            LiveChange::Void(Void::Rewrite { from }) => {
                listed.key = net_text(from);
                return listed;
            }
            LiveChange::Void(Void::Name { name, scope, kind }) => {
                listed.key = name.to_string();
                (kind, scope)
            }
            LiveChange::Void(Void::Pattern { regex, kind }) => {
                listed.key = regex;
                (kind, Scope::Pattern)
            }
            LiveChange::Void(Void::Address { net, kind }) => {
                listed.key = net_text(net);
                (kind, Scope::Address)
            }
        };
        (listed.kind, listed.scope) = (kind_word(kind).to_owned(), scope_word(scope).to_owned());
        listed
    }
}

/// An address where the prefix is one.
fn net_text(net: ipnet::IpNet) -> String {
    if net.prefix_len() == net.max_prefix_len() { net.addr().to_string() } else { net.to_string() }
}

fn mode_text(mode: BlockMode) -> String {
    MODES.iter().find(|(known, _)| *known == mode).map_or("", |(_, word)| word).to_owned()
}

fn name_text<S: Serializer>(name: &Option<Name>, serializer: S) -> Result<S::Ok, S::Error> {
    name.map(|name| name.to_string()).serialize(serializer)
}

fn text_name<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Name>, D::Error> {
    let text = Option::<String>::deserialize(deserializer)?;
    text.map(|text| parse_name(&text).map_err(de::Error::custom)).transpose()
}
