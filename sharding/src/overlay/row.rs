//! An entry as the columns of `entry` and `entry_part`, and back.
//!
//! Invariant: what is written here reads back equal, and a row whose sum does not match is damage, never an entry.

use std::borrow::Cow;
use std::net::IpAddr;

use ipnet::IpNet;
use rusqlite::{Connection, Row, params};
use xxhash_rust::xxh3::Xxh3;

use super::{LiveChange, LiveEntry, Void};
use crate::rule::{AliasLabels, Answer, AnswerRecord, Class, IpRewrite, Kind, Rule, RuleKey, Scope};
use crate::schema::{
    ALIAS_LABELS, KINDS, MODES, RECORDS, RowError, SCOPES, add_condition_part, condition_parts, kind_word,
    name_from_text, parsed, scope_word, server_address, server_from, source_from_text, source_text, value_of, word_of,
};

/// The kind of an address rewrite in the file; rules have the words of the shards.
pub(crate) const REWRITE: &str = "ip-rewrite";
/// In `entry_part.part`: a server of a forwarding rule, `ADDRESS PORT`.
const SERVER: &str = "server";
/// In `entry_part.part`: a record of an answer, `TYPE TTL RDATA`, the TTL `-` for none, RDATA in hexadecimal.
const RECORD: &str = "record";
/// The columns in the order in which [`EntryRow::read`] takes them.
pub(crate) const COLUMNS: &str = "seq, is_void, kind, scope, key, list, target, important, answer, alias_labels, \
     created_s, expires_s, reason, parts, sum";

/// What makes two entries the same change.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Identity<'a> {
    pub key: Cow<'a, str>,
    pub scope: &'static str,
    pub kind: &'static str,
    pub is_void: bool,
}

impl<'a> Identity<'a> {
    /// Of a change.
    pub fn of(change: &'a LiveChange) -> Self {
        let (key, scope, kind, is_void) = match change {
            LiveChange::Rule(rule) => {
                let (scope, kind) = (scope_word(rule.class.scope), kind_word(rule.class.kind));
                match &rule.key {
                    RuleKey::Name { name, .. } => (name.to_text().as_str().to_owned().into(), scope, kind, false),
                    RuleKey::Pattern { regex, .. } => (Cow::Borrowed(regex.as_str()), scope, kind, false),
                    RuleKey::Address { net, .. } => (source_text(net).into(), scope, kind, false),
                }
            }
            LiveChange::Rewrite(rewrite) => {
                (source_text(&rewrite.from).into(), scope_word(Scope::Address), REWRITE, false)
            }
            LiveChange::Void(Void::Name { name, scope, kind }) => {
                (name.to_text().as_str().to_owned().into(), scope_word(*scope), kind_word(*kind), true)
            }
            LiveChange::Void(Void::Pattern { regex, kind }) => {
                (Cow::Borrowed(regex.as_str()), scope_word(Scope::Pattern), kind_word(*kind), true)
            }
            LiveChange::Void(Void::Address { net, kind }) => {
                (source_text(net).into(), scope_word(Scope::Address), kind_word(*kind), true)
            }
            LiveChange::Void(Void::Rewrite { from }) => {
                (source_text(from).into(), scope_word(Scope::Address), REWRITE, true)
            }
        };
        Identity { key, scope, kind, is_void }
    }
}

/// One row of `entry` with its parts.
pub(crate) struct EntryRow<'a> {
    seq: u64,
    is_void: bool,
    kind: Cow<'a, str>,
    scope: Cow<'a, str>,
    key: Cow<'a, str>,
    list: Cow<'a, str>,
    target: Option<String>,
    important: bool,
    answer: Option<Cow<'a, str>>,
    alias_labels: Cow<'a, str>,
    created_s: u64,
    expires_s: Option<u64>,
    reason: Cow<'a, str>,
    parts: Vec<(Cow<'a, str>, String)>,
}

impl<'a> EntryRow<'a> {
    /// The row of an entry.
    pub fn of(entry: &'a LiveEntry) -> Self {
        let Identity { key, scope, kind, is_void } = Identity::of(&entry.change);
        let target = match &entry.change {
            LiveChange::Rule(Rule { key, .. }) => {
                let (RuleKey::Name { target, .. } | RuleKey::Pattern { target, .. } | RuleKey::Address { target, .. }) =
                    key;
                target.as_ref().map(|target| target.to_text().as_str().to_owned())
            }
            LiveChange::Rewrite(rewrite) => Some(rewrite.to.to_string()),
            LiveChange::Void(_) => None,
        };
        let class = match &entry.change {
            LiveChange::Rule(rule) => Some(&rule.class),
            _ => None,
        };
        let answer = class.and_then(|class| class.answer.as_ref()).map(|answer| match answer {
            Answer::Mode(mode) => word_of(&MODES, *mode),
            Answer::Records(_) => RECORDS,
        });
        let labels = class.map_or(AliasLabels::default(), |class| class.alias_labels);
        EntryRow {
            seq: entry.seq,
            is_void,
            kind: kind.into(),
            scope: scope.into(),
            key,
            list: Cow::Borrowed(&entry.list),
            target,
            important: class.is_some_and(|class| class.important),
            answer: answer.map(Cow::Borrowed),
            alias_labels: word_of(&ALIAS_LABELS, labels).into(),
            created_s: entry.created_s,
            expires_s: entry.expires_s,
            reason: Cow::Borrowed(&entry.reason),
            parts: class.map(parts_of).unwrap_or_default(),
        }
    }

    /// Writes it, and gives its sum.
    pub fn insert(&self, conn: &Connection) -> rusqlite::Result<u64> {
        let sum = self.sum();
        let mut insert =
            conn.prepare_cached("INSERT INTO entry VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)")?;
        insert.execute(params![
            self.seq as i64,
            self.is_void,
            self.kind,
            self.scope,
            self.key,
            self.list,
            self.target,
            self.important,
            self.answer,
            self.alias_labels,
            self.created_s as i64,
            self.expires_s.map(|expires_s| expires_s as i64),
            self.reason,
            self.parts.len() as i64,
            sum as i64,
        ])?;
        if !self.parts.is_empty() {
            let mut insert = conn.prepare_cached("INSERT INTO entry_part VALUES (?, ?, ?, ?)")?;
            for (place, (part, value)) in (0i64..).zip(&self.parts) {
                insert.execute(params![self.seq as i64, place, part, value])?;
            }
        }
        Ok(sum)
    }

    /// Reads the entry in [`COLUMNS`], with its sum.
    pub fn read(conn: &Connection, row: &Row<'_>) -> Result<(LiveEntry, u64), RowError> {
        let text = |column: usize| row.get::<_, String>(column).map(Cow::Owned);
        let (seq, parts): (i64, i64) = (row.get(0)?, row.get(13)?);
        let mut read = EntryRow {
            seq: seq as u64,
            is_void: row.get(1)?,
            kind: text(2)?,
            scope: text(3)?,
            key: text(4)?,
            list: text(5)?,
            target: row.get(6)?,
            important: row.get(7)?,
            answer: row.get::<_, Option<String>>(8)?.map(Cow::Owned),
            alias_labels: text(9)?,
            created_s: row.get::<_, i64>(10)? as u64,
            expires_s: row.get::<_, Option<i64>>(11)?.map(|expires_s| expires_s as u64),
            reason: text(12)?,
            parts: Vec::new(),
        };
        if parts != 0 {
            let mut of = conn.prepare_cached("SELECT part, value FROM entry_part WHERE entry = ? ORDER BY place")?;
            let mut rows = of.query([seq])?;
            while let Some(row) = rows.next()? {
                read.parts.push((Cow::Owned(row.get(0)?), row.get(1)?));
            }
        }
        let sum = read.sum();
        if row.get::<_, i64>(14)? as u64 != sum || parts != read.parts.len() as i64 {
            return Err(RowError::Value(format!("the sum of entry {seq} does not match")));
        }
        Ok((read.into_entry()?, sum))
    }

    fn into_entry(self) -> Result<LiveEntry, RowError> {
        let scope = value_of(&SCOPES, &self.scope)?;
        let is_rewrite = self.kind == REWRITE;
        let kind = if is_rewrite { None } else { Some(value_of(&KINDS, &self.kind)?) };
        let change = match (kind, self.is_void) {
            (Some(kind), true) => LiveChange::Void(void_of(kind, scope, &self.key)?),
            (None, true) => LiveChange::Void(Void::Rewrite { from: net(&self.key)? }),
            (None, false) => {
                let to: IpAddr = parsed(self.target.as_deref().unwrap_or_default(), "an address")?;
                LiveChange::Rewrite(IpRewrite { from: net(&self.key)?, to, list: 0 })
            }
            (Some(kind), false) => LiveChange::Rule(self.rule(kind, scope)?),
        };
        Ok(LiveEntry {
            seq: self.seq,
            change,
            list: self.list.into_owned(),
            created_s: self.created_s,
            expires_s: self.expires_s,
            reason: self.reason.into_owned(),
        })
    }

    fn rule(&self, kind: Kind, scope: Scope) -> Result<Rule, RowError> {
        let mut class = Class::plain(kind, scope, 0);
        class.important = self.important;
        class.alias_labels = value_of(&ALIAS_LABELS, &self.alias_labels)?;
        class.answer = match self.answer.as_deref() {
            None => None,
            Some(RECORDS) => Some(Answer::Records(Vec::new())),
            Some(mode) => Some(Answer::Mode(value_of(&MODES, mode)?)),
        };
        for (part, value) in &self.parts {
            add_part(&mut class, part, value)?;
        }
        let target = self.target.as_deref().map(name_from_text).transpose()?;
        let key = match scope {
            Scope::Exact | Scope::Subtree | Scope::Below => RuleKey::Name { name: name_from_text(&self.key)?, target },
            Scope::Pattern => RuleKey::Pattern { regex: self.key.clone().into_owned(), target },
            Scope::Address => RuleKey::Address { net: net(&self.key)?, target },
        };
        Ok(Rule { class, key })
    }

    /// Of everything but itself. Each text has its length in front, so that no two rows are the same octets.
    fn sum(&self) -> u64 {
        let mut sum = Xxh3::new();
        let mut text = |text: Option<&str>| match text {
            None => sum.update(&u64::MAX.to_le_bytes()),
            Some(text) => {
                sum.update(&(text.len() as u64).to_le_bytes());
                sum.update(text.as_bytes());
            }
        };
        [&self.kind, &self.scope, &self.key, &self.list].into_iter().for_each(|column| text(Some(column)));
        text(self.target.as_deref());
        text(self.answer.as_deref());
        text(Some(&self.alias_labels));
        text(Some(&self.reason));
        for (part, value) in &self.parts {
            text(Some(part));
            text(Some(value));
        }
        let numbers = [
            self.seq,
            u64::from(self.is_void),
            u64::from(self.important),
            self.created_s,
            self.expires_s.unwrap_or(u64::MAX),
            self.parts.len() as u64,
        ];
        numbers.iter().for_each(|number| sum.update(&number.to_le_bytes()));
        sum.digest()
    }
}

/// What a void of this kind, scope and key speaks of.
pub(crate) fn void_of(kind: Kind, scope: Scope, key: &str) -> Result<Void, RowError> {
    Ok(match scope {
        Scope::Exact | Scope::Subtree | Scope::Below => Void::Name { name: name_from_text(key)?, scope, kind },
        Scope::Pattern => Void::Pattern { regex: key.to_owned(), kind },
        Scope::Address => Void::Address { net: net(key)?, kind },
    })
}

fn net(text: &str) -> Result<IpNet, RowError> {
    source_from_text(text).ok_or_else(|| RowError::Value(format!("`{text}` is not an address or prefix")))
}

fn parts_of<'a>(class: &'a Class) -> Vec<(Cow<'a, str>, String)> {
    let mut parts: Vec<(Cow<'a, str>, String)> = Vec::new();
    let servers = class.servers.iter().map(|server| format!("{} {}", server_address(server), server.port()));
    parts.extend(servers.map(|server| (SERVER.into(), server)));
    if let Some(Answer::Records(records)) = &class.answer {
        parts.extend(records.iter().map(|record| (RECORD.into(), record_text(record))));
    }
    let conditions = class.condition.iter().flat_map(condition_parts);
    parts.extend(conditions.map(|(part, value)| (Cow::Borrowed(part), value)));
    parts
}

fn add_part(class: &mut Class, part: &str, value: &str) -> Result<(), RowError> {
    let bad = || RowError::Value(format!("`{value}` is no {part}"));
    match part {
        SERVER => {
            let (address, port) = value.split_once(' ').ok_or_else(bad)?;
            class.servers.push(server_from(address, parsed(port, "a port")?)?);
        }
        RECORD => match &mut class.answer {
            Some(Answer::Records(records)) => records.push(record_from(value).ok_or_else(bad)?),
            _ => return Err(RowError::Value("an entry has records but another answer".to_owned())),
        },
        _ => add_condition_part(class.condition.get_or_insert_default(), part, value)?,
    }
    Ok(())
}

fn record_text(record: &AnswerRecord) -> String {
    let ttl_s = record.ttl_s.map_or("-".to_owned(), |ttl_s| ttl_s.to_string());
    let rdata: String = record.rdata.iter().map(|byte| format!("{byte:02x}")).collect();
    format!("{} {ttl_s} {rdata}", record.rtype)
}

fn record_from(text: &str) -> Option<AnswerRecord> {
    let mut words = text.split(' ');
    let rtype = words.next()?.parse().ok()?;
    let ttl_s = match words.next()? {
        "-" => None,
        ttl_s => Some(ttl_s.parse().ok()?),
    };
    let digits = words.next()?.as_bytes();
    let pair = |pair: &[u8]| u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok();
    let rdata: Option<Vec<u8>> = digits.chunks(2).map(pair).collect();
    words.next().is_none().then_some(AnswerRecord { rtype, ttl_s, rdata: rdata?.into() })
}
