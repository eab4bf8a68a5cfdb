//! The tables of a shard and how lists, classes, patterns, address rules and rewrites are spelled in them.
//!
//! Invariant: what is written here reads back equal. The SQL is in `schema/shard`; a shard is rebuilt, never migrated, so
//! a change of any table or of a word in this file needs a new [`FORMAT_VERSION`].

use std::net::{IpAddr, SocketAddr, SocketAddrV6};
use std::path::Path;
use std::str::FromStr;

use ipnet::IpNet;
use rusqlite::{Connection, Row, params};

use crate::StoreError;
use crate::manifest::Layout;
use crate::name::Name;
use crate::publish::{AddressRow, PatternRow};
use crate::rule::{
    AliasLabels, Answer, AnswerRecord, BlockMode, Class, ClientMatch, Condition, IpRewrite, Kind, List, Scope,
    TypedAnswer,
};

/// Version of every format in a generation: shards, filters and manifest change together.
pub const FORMAT_VERSION: u32 = 2;
/// The oldest version that is read. Version 1 has the same tables and filters; its manifest lacks the fields that have a default.
pub const FORMAT_VERSION_MIN: u32 = 1;

/// Whether this program reads generations of this version.
pub fn is_readable(version: u32) -> bool {
    (FORMAT_VERSION_MIN..=FORMAT_VERSION).contains(&version)
}
/// `PRAGMA application_id` of a shard: `CWRL` in ASCII.
pub const APPLICATION_ID: u32 = 0x4357_524c;

/// The tables and views of a shard of this layout, in the order in which they are created.
pub(crate) fn tables(layout: Layout) -> [&'static str; 5] {
    [
        include_str!("../../schema/shard/1-lists.sql"),
        include_str!("../../schema/shard/2-classes.sql"),
        include_str!("../../schema/shard/3-rules.sql"),
        include_str!("../../schema/shard/4-views.sql"),
        match layout {
            Layout::Sql => include_str!("../../schema/shard/5-rules-sql.sql"),
            Layout::Packed => include_str!("../../schema/shard/5-rules-packed.sql"),
        },
    ]
}

pub(crate) const KINDS: [(Kind, &str); 5] = [
    (Kind::ForwardAllow, "forward-allow"),
    (Kind::ForwardBlock, "forward-block"),
    (Kind::Allow, "allow"),
    (Kind::Alias, "alias"),
    (Kind::Block, "block"),
];
pub(crate) const SCOPES: [(Scope, &str); 5] = [
    (Scope::Exact, "exact"),
    (Scope::Subtree, "subtree"),
    (Scope::Below, "below"),
    (Scope::Pattern, "pattern"),
    (Scope::Address, "address"),
];
pub(crate) const MODES: [(BlockMode, &str); 7] = [
    (BlockMode::Zero, "zero"),
    (BlockMode::Sinkhole, "sinkhole"),
    (BlockMode::Nxdomain, "nxdomain"),
    (BlockMode::Nodata, "nodata"),
    (BlockMode::Refused, "refused"),
    (BlockMode::Drop, "drop"),
    (BlockMode::TcpOnly, "tcp-only"),
];
pub(crate) const ALIAS_LABELS: [(AliasLabels, &str); 3] =
    [(AliasLabels::None, "none"), (AliasLabels::Below, "below"), (AliasLabels::All, "all")];
/// In `class.answer`: the answer is the rows of `class_record`.
pub(crate) const RECORDS: &str = "records";

/// The word of a kind, as the shards and reports spell it.
pub fn kind_word(kind: Kind) -> &'static str {
    word_of(&KINDS, kind)
}

/// The word of a block mode, likewise.
pub fn mode_word(mode: BlockMode) -> &'static str {
    word_of(&MODES, mode)
}

/// The word of an alias's labels, likewise.
pub fn alias_labels_word(labels: AliasLabels) -> &'static str {
    word_of(&ALIAS_LABELS, labels)
}

/// The word of a scope, as the shards and reports spell it.
pub fn scope_word(scope: Scope) -> &'static str {
    word_of(&SCOPES, scope)
}

pub(crate) fn word_of<T: Copy + PartialEq>(words: &[(T, &'static str)], value: T) -> &'static str {
    // Every variant is in its table: the round-trip test walks them all.
    words.iter().find(|(known, _)| *known == value).map_or("", |(_, word)| word)
}

/// Why a row cannot be read.
pub(crate) enum RowError {
    /// SQLite's own reason, also a column of the wrong type.
    Sqlite(rusqlite::Error),
    /// A value that this version does not write.
    Value(String),
}

impl From<rusqlite::Error> for RowError {
    fn from(error: rusqlite::Error) -> Self {
        Self::Sqlite(error)
    }
}

impl RowError {
    /// With the shard, and what was tried.
    pub(crate) fn at(self, file: &Path, doing: &'static str) -> StoreError {
        match self {
            Self::Sqlite(source) => StoreError::sqlite(file, doing)(source),
            Self::Value(what) => StoreError::damaged(file, what),
        }
    }
}

pub(crate) fn value_of<T: Copy>(words: &[(T, &'static str)], word: &str) -> Result<T, RowError> {
    let found = words.iter().find(|(_, known)| *known == word);
    found.map(|(value, _)| *value).ok_or_else(|| RowError::Value(format!("unknown word `{word}` in a table")))
}

pub(crate) fn parsed<T: FromStr>(text: &str, what: &str) -> Result<T, RowError> {
    text.parse().map_err(|_| RowError::Value(format!("`{text}` is not {what}")))
}

/// A name as the shards hold it: presentation format, the root as the empty text.
pub(crate) fn name_from_text(text: &str) -> Result<Name, RowError> {
    if text.is_empty() {
        return Ok(Name::ROOT);
    }
    Name::from_text(text).map_err(|error| RowError::Value(format!("`{text}`: {error}")))
}

/// A rewrite's source, or what an address rule speaks of, as the shards hold it: a plain address when the prefix is one address.
pub fn source_text(from: &IpNet) -> String {
    if from.prefix_len() == from.max_prefix_len() { from.addr().to_string() } else { from.trunc().to_string() }
}

/// Reads an address or a prefix; bits beyond the prefix are cleared.
pub(crate) fn source_from_text(text: &str) -> Option<IpNet> {
    let host = text.parse::<IpAddr>().ok().map(IpNet::from);
    host.or_else(|| text.parse::<IpNet>().ok().map(|net| net.trunc()))
}

/// Writes the tables that every shard has a copy of.
pub(crate) fn write_common(conn: &Connection, lists: &[List], classes: &[Class]) -> rusqlite::Result<()> {
    write_lists(conn, lists)?;
    let mut class_row = conn.prepare("INSERT INTO class VALUES (?, ?, ?, ?, ?, ?, ?)")?;
    let mut server_row = conn.prepare("INSERT INTO class_server VALUES (?, ?, ?, ?)")?;
    let mut record_row = conn.prepare("INSERT INTO class_record VALUES (?, ?, ?, ?, ?)")?;
    let mut condition_row = conn.prepare("INSERT INTO class_condition VALUES (?, ?, ?, ?)")?;
    for (id, class) in (0u32..).zip(classes) {
        let (answer, records) = match &class.answer {
            None => (None, &[][..]),
            Some(Answer::Mode(mode)) => (Some(word_of(&MODES, *mode)), &[][..]),
            Some(Answer::Records(records)) => (Some(RECORDS), &records[..]),
        };
        class_row.execute(params![
            id,
            kind_word(class.kind),
            scope_word(class.scope),
            class.important,
            class.list,
            answer,
            word_of(&ALIAS_LABELS, class.alias_labels)
        ])?;
        for (place, server) in (0u32..).zip(&class.servers) {
            server_row.execute(params![id, place, server_address(server), server.port()])?;
        }
        for (place, record) in (0u32..).zip(records) {
            record_row.execute(params![id, place, record.rtype, record.ttl_s, &record.rdata[..]])?;
        }
        for (place, (part, value)) in (0u32..).zip(class.condition.iter().flat_map(condition_parts)) {
            condition_row.execute(params![id, place, part, value])?;
        }
    }
    Ok(())
}

fn write_lists(conn: &Connection, lists: &[List]) -> rusqlite::Result<()> {
    let mut list_row = conn.prepare("INSERT INTO list VALUES (?, ?, ?, ?, ?, ?)")?;
    let mut sinkhole_row = conn.prepare("INSERT INTO list_sinkhole VALUES (?, ?, ?)")?;
    let mut answer_row = conn.prepare("INSERT INTO list_answer VALUES (?, ?, ?, ?)")?;
    for (id, list) in (0u32..).zip(lists) {
        let mode = list.block_mode.map(|mode| word_of(&MODES, mode));
        list_row.execute(params![id, list.name, list.category, mode, list.ede_text, list.block_ttl_s])?;
        for (place, address) in (0u32..).zip(&list.sinkhole) {
            sinkhole_row.execute(params![id, place, address.to_string()])?;
        }
        for (place, answer) in (0u32..).zip(&list.answers) {
            answer_row.execute(params![id, place, answer.rtype, answer.data])?;
        }
    }
    Ok(())
}

pub(crate) fn server_address(server: &SocketAddr) -> String {
    match server {
        SocketAddr::V6(v6) if v6.scope_id() != 0 => format!("{}%{}", v6.ip(), v6.scope_id()),
        _ => server.ip().to_string(),
    }
}

pub(crate) fn server_from(address: &str, port: u16) -> Result<SocketAddr, RowError> {
    match address.split_once('%') {
        Some((ip, zone)) => {
            let ip = parsed(ip, "an IPv6 address")?;
            Ok(SocketAddrV6::new(ip, port, 0, parsed(zone, "an interface number")?).into())
        }
        None => Ok(SocketAddr::new(parsed(address, "an address")?, port)),
    }
}

pub(crate) fn condition_parts(condition: &Condition) -> Vec<(&'static str, String)> {
    let mut parts = Vec::new();
    parts.extend(condition.types.iter().map(|rtype| ("type", rtype.to_string())));
    parts.extend(condition.types_not.iter().map(|rtype| ("type-not", rtype.to_string())));
    parts.extend(condition.names_not.iter().map(|name| ("name-not", name.to_text().as_str().to_owned())));
    parts.extend(condition.clients.iter().map(|client| client_part(client, "client-net", "client-name")));
    parts.extend(condition.clients_not.iter().map(|client| client_part(client, "client-net-not", "client-name-not")));
    if condition.lifts_answers_only {
        parts.push(("lifts-answers-only", String::new()));
    }
    parts
}

fn client_part(client: &ClientMatch, net_part: &'static str, name_part: &'static str) -> (&'static str, String) {
    match client {
        ClientMatch::Net(net) => (net_part, net.to_string()),
        ClientMatch::Named(name) => (name_part, name.to_string()),
    }
}

pub(crate) fn add_condition_part(condition: &mut Condition, part: &str, value: &str) -> Result<(), RowError> {
    let net = || parsed(value, "a prefix").map(ClientMatch::Net);
    match part {
        "type" => condition.types.push(parsed(value, "a type number")?),
        "type-not" => condition.types_not.push(parsed(value, "a type number")?),
        "name-not" => condition.names_not.push(name_from_text(value)?),
        "client-net" => condition.clients.push(net()?),
        "client-net-not" => condition.clients_not.push(net()?),
        "client-name" => condition.clients.push(ClientMatch::Named(value.into())),
        "client-name-not" => condition.clients_not.push(ClientMatch::Named(value.into())),
        "lifts-answers-only" => condition.lifts_answers_only = true,
        _ => return Err(RowError::Value(format!("unknown part `{part}` of a condition"))),
    }
    Ok(())
}

/// Runs `query` on the shard `file` and hands each row to `each`.
fn each_row(
    conn: &Connection,
    file: &Path,
    query: &str,
    mut each: impl FnMut(&Row<'_>) -> Result<(), RowError>,
) -> Result<(), StoreError> {
    let mut run = || -> Result<(), RowError> {
        let mut statement = conn.prepare(query)?;
        let mut rows = statement.query([])?;
        while let Some(row) = rows.next()? {
            each(row)?;
        }
        Ok(())
    };
    run().map_err(|error| error.at(file, "read a table"))
}

/// The lists, their place in the vector being their id.
pub(crate) fn read_lists(conn: &Connection, file: &Path) -> Result<Vec<List>, StoreError> {
    let mut lists: Vec<List> = Vec::new();
    each_row(
        conn,
        file,
        "SELECT id, name, category, block_mode, ede_text, block_ttl_s FROM list ORDER BY id",
        |row| {
            dense(row.get(0)?, lists.len())?;
            let mode: Option<String> = row.get(3)?;
            lists.push(List {
                name: row.get(1)?,
                category: row.get(2)?,
                block_mode: mode.map(|word| value_of(&MODES, &word)).transpose()?,
                sinkhole: Vec::new(),
                ede_text: row.get(4)?,
                block_ttl_s: row.get(5)?,
                answers: Vec::new(),
            });
            Ok(())
        },
    )?;
    each_row(conn, file, "SELECT list, address FROM list_sinkhole ORDER BY list, place", |row| {
        let address: String = row.get(1)?;
        owner(&mut lists, row.get(0)?)?.sinkhole.push(parsed(&address, "an address")?);
        Ok(())
    })?;
    each_row(conn, file, "SELECT list, type, data FROM list_answer ORDER BY list, place", |row| {
        let answer = TypedAnswer { rtype: row.get(1)?, data: row.get(2)? };
        owner(&mut lists, row.get(0)?)?.answers.push(answer);
        Ok(())
    })?;
    Ok(lists)
}

/// The classes, their place in the vector being their id.
pub(crate) fn read_classes(conn: &Connection, file: &Path) -> Result<Vec<Class>, StoreError> {
    let mut classes: Vec<Class> = Vec::new();
    let query = "SELECT id, kind, scope, important, list, answer, alias_labels FROM class ORDER BY id";
    each_row(conn, file, query, |row| {
        dense(row.get(0)?, classes.len())?;
        let (kind, scope, labels): (String, String, String) = (row.get(1)?, row.get(2)?, row.get(6)?);
        let answer: Option<String> = row.get(5)?;
        let mut class = Class::plain(value_of(&KINDS, &kind)?, value_of(&SCOPES, &scope)?, row.get(4)?);
        class.important = row.get(3)?;
        class.alias_labels = value_of(&ALIAS_LABELS, &labels)?;
        class.answer = match answer.as_deref() {
            None => None,
            Some(RECORDS) => Some(Answer::Records(Vec::new())),
            Some(mode) => Some(Answer::Mode(value_of(&MODES, mode)?)),
        };
        classes.push(class);
        Ok(())
    })?;
    each_row(conn, file, "SELECT class, address, port FROM class_server ORDER BY class, place", |row| {
        let address: String = row.get(1)?;
        owner(&mut classes, row.get(0)?)?.servers.push(server_from(&address, row.get(2)?)?);
        Ok(())
    })?;
    each_row(conn, file, "SELECT class, type, ttl_s, rdata FROM class_record ORDER BY class, place", |row| {
        let rdata: Vec<u8> = row.get(3)?;
        let record = AnswerRecord { rtype: row.get(1)?, ttl_s: row.get(2)?, rdata: rdata.into() };
        match &mut owner(&mut classes, row.get(0)?)?.answer {
            Some(Answer::Records(records)) => records.push(record),
            _ => return Err(RowError::Value("a class has records but another answer".to_owned())),
        }
        Ok(())
    })?;
    each_row(conn, file, "SELECT class, part, value FROM class_condition ORDER BY class, place", |row| {
        let (part, value): (String, String) = (row.get(1)?, row.get(2)?);
        let condition = owner(&mut classes, row.get(0)?)?.condition.get_or_insert_default();
        add_condition_part(condition, &part, &value)
    })?;
    Ok(classes)
}

/// The shard's patterns.
pub(crate) fn read_patterns(conn: &Connection, file: &Path, to: &mut Vec<PatternRow>) -> Result<(), StoreError> {
    each_row(conn, file, "SELECT id, regex, class, target FROM pattern ORDER BY id", |row| {
        let target: Option<String> = row.get(3)?;
        let target = target.map(|text| name_from_text(&text)).transpose()?;
        to.push(PatternRow { id: row.get(0)?, regex: row.get(1)?, class: row.get(2)?, target });
        Ok(())
    })
}

/// The shard's address rules.
pub(crate) fn read_addresses(conn: &Connection, file: &Path, to: &mut Vec<AddressRow>) -> Result<(), StoreError> {
    each_row(conn, file, "SELECT net, class, target FROM address", |row| {
        let (net, target): (String, Option<String>) = (row.get(0)?, row.get(2)?);
        let not_a_net = || RowError::Value(format!("`{net}` is not an address or prefix"));
        let target = target.map(|text| name_from_text(&text)).transpose()?.map(Box::new);
        to.push(AddressRow { net: source_from_text(&net).ok_or_else(not_a_net)?, class: row.get(1)?, target });
        Ok(())
    })
}

/// The shard's address rewrites.
pub(crate) fn read_rewrites(conn: &Connection, file: &Path, to: &mut Vec<IpRewrite>) -> Result<(), StoreError> {
    each_row(conn, file, "SELECT source, target, list FROM ip_rewrite", |row| {
        let (source, target): (String, String) = (row.get(0)?, row.get(1)?);
        let not_a_source = || RowError::Value(format!("`{source}` is not an address or prefix"));
        let from = source_from_text(&source).ok_or_else(not_a_source)?;
        to.push(IpRewrite { from, to: parsed(&target, "an address")?, list: row.get(2)? });
        Ok(())
    })
}

fn dense(id: u32, expected: usize) -> Result<(), RowError> {
    if id as usize == expected { Ok(()) } else { Err(RowError::Value(format!("row {expected} is missing in a table"))) }
}

fn owner<T>(rows: &mut [T], id: u32) -> Result<&mut T, RowError> {
    rows.get_mut(id as usize).ok_or_else(|| RowError::Value(format!("a row belongs to row {id}, which is missing")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_word_reads_back_as_what_it_was_written_for() {
        for (kind, word) in KINDS {
            assert_eq!((kind_word(kind), value_of(&KINDS, word).ok().unwrap()), (word, kind));
        }
        for (scope, word) in SCOPES {
            assert_eq!((scope_word(scope), value_of(&SCOPES, word).ok().unwrap()), (word, scope));
        }
        for (mode, word) in MODES {
            assert_eq!((word_of(&MODES, mode), value_of(&MODES, word).ok().unwrap()), (word, mode));
        }
        for (labels, word) in ALIAS_LABELS {
            assert_eq!((word_of(&ALIAS_LABELS, labels), value_of(&ALIAS_LABELS, word).ok().unwrap()), (word, labels));
        }
        assert!(value_of(&KINDS, "bloc").is_err());
    }

    #[test]
    fn a_source_is_an_address_or_a_prefix_without_host_bits() {
        for (text, written) in [
            ("10.0.0.1", "10.0.0.1"),
            ("10.1.2.3/8", "10.0.0.0/8"),
            ("2001:DB8::1", "2001:db8::1"),
            ("fd00::1/8", "fd00::/8"),
        ] {
            assert_eq!(source_text(&source_from_text(text).unwrap()), written);
        }
        assert!(source_from_text("10.0.0.0/33").is_none());
    }
}
