//! Where the readers of all formats put what they found.
//!
//! Invariant: every item passes here, so here it is counted, and here a rule on a public suffix is held back. Records and
//! servers of one name that a list tells line by line are gathered into one rule and handed on at the end.

use std::borrow::Cow;

use corewall_sharding::name::Name;
use corewall_sharding::rule::{Answer, AnswerRecord, Class, ClientMatch, IpRewrite, Kind, Rule, RuleKey, Scope};
use hashbrown::HashMap;
use ipnet::IpNet;

use super::names::{is_icann_suffix, is_public_suffix, is_sinkhole, read_name_into};
use super::report::{Counts, RefuseReason, SkipReason};
use super::{Item, Options};

/// Bytes of an offending text that are shown.
const SHOWN_BYTES_MAX: usize = 200;
/// Records in one gathered answer: more than that is no sane answer, and would not fit one message.
const RECORDS_MAX: usize = 64;
/// RR type numbers of addresses (RFC 1035 §3.2.2, RFC 3596 §2.1).
const TYPE_A: u16 = 1;
const TYPE_AAAA: u16 = 28;

/// Takes items, counts them and hands them on.
pub struct Sink<'a> {
    /// How to read.
    pub options: &'a Options,
    /// Number of the line that is being read.
    pub line: u64,
    /// What was counted so far.
    pub counts: Counts,
    item: &'a mut dyn FnMut(Item<'_>),
    gathered: HashMap<GatherKey, Gathered>,
    /// The last rule of [`Sink::name_text`], written over by the next one: a rule is half a kilobyte, and most differ from
    /// the one before in some twenty octets.
    plain: Rule,
}

/// Rules that differ in nothing but their records or servers.
#[derive(PartialEq, Eq, Hash)]
struct GatherKey {
    class: Class,
    key: Key,
}

#[derive(PartialEq, Eq, Hash)]
enum Key {
    Wire(Box<[u8]>),
    Regex(String),
    Address(IpNet),
}

struct Gathered {
    /// Order of the first line about it.
    place: usize,
    line: u64,
    rule: Rule,
    sinkholes: Sinkholes,
}

/// What an answer of sinkhole addresses alone means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sinkholes {
    /// The name is blocked; how that is answered is the operator's choice.
    Block,
    /// That very answer.
    Answer,
}

impl<'a> Sink<'a> {
    /// A sink that hands items to `item`.
    pub fn new(options: &'a Options, item: &'a mut dyn FnMut(Item<'_>)) -> Self {
        let class =
            Class { important: options.important, ..Class::plain(options.default_kind, Scope::Exact, options.list) };
        let plain = Rule { class, key: RuleKey::Name { name: Name::ROOT, target: None } };
        Self { options, line: 0, counts: Counts::default(), item, gathered: HashMap::new(), plain }
    }

    /// A class of this list without anything special.
    pub fn class(&self, kind: Kind, scope: Scope) -> Class {
        Class { important: self.options.important, ..Class::plain(kind, scope, self.options.list) }
    }

    /// An empty line or a comment.
    pub fn comment(&mut self) {
        self.counts.comments += 1;
    }

    /// A line, or a name in it, that is no business of ours.
    pub fn skip(&mut self, reason: SkipReason) {
        self.counts.add_skipped(reason);
        (self.item)(Item::Skipped { line: self.line, reason });
    }

    /// A line, or a name in it, that cannot be taken.
    pub fn refuse(&mut self, text: &[u8], reason: RefuseReason) {
        self.counts.add_refused(reason);
        let shown = shorten(text);
        (self.item)(Item::Refused { line: self.line, text: &shown, reason });
    }

    /// A rule of `kind` on a name, without anything special. `text` is what the list wrote.
    pub fn name(&mut self, name: Name, scope: Scope, kind: Kind, text: &[u8]) {
        let class = self.class(kind, scope);
        self.rule(Rule { class, key: RuleKey::Name { name, target: None } }, text);
    }

    /// The same for a name in text form, without a copy of the rule: for the formats of most lists. What is no name is
    /// refused.
    pub fn name_text(&mut self, name: &[u8], scope: Scope, kind: Kind, text: &[u8]) {
        match self.read_plain(name) {
            Ok(()) => self.hand_on_plain(scope, kind, text),
            Err(reason) => self.refuse(text, reason),
        }
    }

    /// Reads the name that [`Sink::hand_on_plain`] makes a rule of.
    ///
    /// # Errors
    /// What it is instead.
    pub fn read_plain(&mut self, name: &[u8]) -> Result<(), RefuseReason> {
        let RuleKey::Name { name: place, .. } = &mut self.plain.key else { return Ok(()) };
        read_name_into(name, place)
    }

    /// A rule on the name that was read last, without anything special.
    pub fn hand_on_plain(&mut self, scope: Scope, kind: Kind, text: &[u8]) {
        (self.plain.class.scope, self.plain.class.kind) = (scope, kind);
        if !self.options.allow_public_suffix
            && let Some(reason) = reaches_too_far(&self.plain)
        {
            return self.refuse(text, reason);
        }
        self.counts.rules += 1;
        (self.item)(Item::Rule { line: self.line, rule: &self.plain });
    }

    /// A rule.
    pub fn rule(&mut self, rule: Rule, text: &[u8]) {
        if !self.options.allow_public_suffix
            && let Some(reason) = reaches_too_far(&rule)
        {
            self.refuse(text, reason);
            return;
        }
        self.counts.rules += 1;
        (self.item)(Item::Rule { line: self.line, rule: &rule });
    }

    /// An address rewrite.
    pub fn rewrite(&mut self, rewrite: IpRewrite) {
        self.counts.rewrites += 1;
        (self.item)(Item::Rewrite(rewrite));
    }

    /// A rule whose records or servers are joined with those of other lines about the same name.
    pub fn gather(&mut self, mut rule: Rule, sinkholes: Sinkholes) {
        let answer = rule.class.answer.take();
        let servers = std::mem::take(&mut rule.class.servers);
        let key = GatherKey {
            class: rule.class.clone(),
            key: match &rule.key {
                RuleKey::Name { name, .. } => Key::Wire(name.as_wire().into()),
                RuleKey::Pattern { regex, .. } => Key::Regex(regex.clone()),
                RuleKey::Address { net, .. } => Key::Address(*net),
            },
        };
        let (place, line) = (self.gathered.len(), self.line);
        let gathered = self.gathered.entry(key).or_insert(Gathered { place, line, rule, sinkholes });
        let class = &mut gathered.rule.class;
        let full = match (&mut class.answer, answer) {
            (Some(Answer::Records(records)), Some(Answer::Records(more))) => add_records(records, more),
            (Some(_), _) => false,
            (place, answer) => {
                *place = answer;
                false
            }
        };
        for server in servers {
            if !class.servers.contains(&server) {
                class.servers.push(server);
            }
        }
        if full {
            self.refuse(b"more records than one answer may have", RefuseReason::BadRecord);
        }
    }

    /// Hands on what was gathered, in the order of the list, and yields the counts.
    pub fn finish(mut self) -> Counts {
        let mut gathered: Vec<Gathered> = self.gathered.drain().map(|(_, gathered)| gathered).collect();
        gathered.sort_unstable_by_key(|gathered| gathered.place);
        for Gathered { line, mut rule, sinkholes, .. } in gathered {
            self.line = line;
            if sinkholes == Sinkholes::Block && rule.class.answer.as_ref().is_some_and(is_sinkhole_answer) {
                rule.class.answer = None;
            }
            let text = match &rule.key {
                RuleKey::Name { name, .. } => name.to_string(),
                RuleKey::Pattern { regex, .. } => regex.clone(),
                RuleKey::Address { net, .. } => net.to_string(),
            };
            self.rule(rule, text.as_bytes());
        }
        self.counts
    }
}

/// Why a rule reaches so far that a single registrant cannot be meant.
///
/// An exact rule takes one name away and may be meant even on a suffix (`gov.uk` has a web site), but not on a top-level
/// domain: nothing answers there (RFC 7085), so that the line is a word of prose, or a parser's slip in whatever made the
/// list, such as the `fe` of `fe80::1%lo0`. An exact rule with an own answer is an operator's record for a short local name.
/// Rules that allow, forward or alias are held to the suffixes of the list alone, because private zones have any name.
/// A rule on the root name that names clients by their networks is about these; one on all networks is about everything.
pub(super) fn reaches_too_far(rule: &Rule) -> Option<RefuseReason> {
    let name = match &rule.key {
        RuleKey::Name { name, .. } => name,
        RuleKey::Pattern { .. } => return None,
        RuleKey::Address { net, .. } => return (net.prefix_len() == 0).then_some(RefuseReason::PublicSuffix),
    };
    let clients = rule.class.condition.as_ref().map_or(&[][..], |condition| &condition.clients);
    let is_narrow = |client: &ClientMatch| matches!(client, ClientMatch::Net(net) if net.prefix_len() > 0);
    if name.is_root() && !clients.is_empty() && clients.iter().all(is_narrow) {
        return None;
    }
    let (refused, reason) = match (rule.class.scope, rule.class.kind) {
        (Scope::Exact, Kind::Block) => {
            let is_record = matches!(rule.class.answer, Some(Answer::Records(_)));
            (name.label_count() <= 1 && !is_record && is_public_suffix(name), RefuseReason::LoneWord)
        }
        (Scope::Exact, _) => (false, RefuseReason::LoneWord),
        (_, Kind::Block) => (is_public_suffix(name), RefuseReason::PublicSuffix),
        _ => (name.is_root() || is_icann_suffix(name), RefuseReason::PublicSuffix),
    };
    refused.then_some(reason)
}

fn add_records(records: &mut Vec<AnswerRecord>, more: Vec<AnswerRecord>) -> bool {
    for record in more {
        if records.contains(&record) {
            continue;
        }
        if records.len() == RECORDS_MAX {
            return true;
        }
        records.push(record);
    }
    false
}

fn is_sinkhole_answer(answer: &Answer) -> bool {
    let Answer::Records(records) = answer else { return false };
    records.iter().all(|record| match (record.rtype, &*record.rdata) {
        (TYPE_A, data) => <[u8; 4]>::try_from(data).is_ok_and(|data| is_sinkhole(data.into())),
        (TYPE_AAAA, data) => <[u8; 16]>::try_from(data).is_ok_and(|data| is_sinkhole(data.into())),
        _ => false,
    })
}

fn shorten(text: &[u8]) -> Cow<'_, str> {
    let shown = text.get(..text.len().min(SHOWN_BYTES_MAX)).unwrap_or_default();
    String::from_utf8_lossy(shown)
}
