//! Reads the databases of dnsmasq-sqlite in each of its generations: flat, normalised, and minimal with three tables.
//!
//! Invariant: every row comes out, as a rule, a rewrite, or refused with its place and reason; none is passed over and
//! none is guessed at. Tables and columns may be missing, for those databases grew by hand. In these databases
//! `block_wildcard`, `fqdn_dns_allow`, `fqdn_dns_block` and `domain_alias` speak of the name and everything under it, with or
//! without a leading `*.`; `block_exact` and `block_hosts` of the name alone.

use std::borrow::Cow;
use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::path::Path;

use rusqlite::types::ValueRef;
use rusqlite::{Connection, OpenFlags, Row};

use crate::StoreError;
use crate::name::{Name, NameError};
use crate::rule::{Class, IpRewrite, Kind, ListId, Rule, RuleKey, Scope};
use crate::schema::source_from_text;

/// What a row of an ancestor's database is.
// One item exists at a time, as with the rule in it.
#[expect(clippy::large_enum_variant)]
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum AncestorItem {
    /// A rule.
    Rule(Rule),
    /// An address rewrite.
    Rewrite(IpRewrite),
    /// A row, or a whole table, that cannot be read.
    Refused {
        /// `table:rowid`, the row's place in the order of reading where the table has no rowid, or the table alone.
        place: String,
        /// The row's text.
        text: String,
        /// Why.
        reason: String,
    },
}

/// Port of a server that names none.
const DNS_PORT: u16 = 53;
/// Servers that one row may name.
const SERVERS_MAX: usize = 16;

/// What the rows of a table say.
#[derive(Clone, Copy)]
enum Meaning {
    BlockExact,
    BlockWildcard,
    BlockRegex,
    Forward(Kind),
    Alias,
    Rewrite,
}

/// A table that holds rows of one meaning: name, column of the key, column of the value.
type FlatTable = (&'static str, Meaning, &'static str, Option<&'static str>);

/// The tables of the flat and the minimal generation. The value column of a forwarding table may be missing.
const FLAT_TABLES: [FlatTable; 10] = [
    ("block_exact", Meaning::BlockExact, "Domain", None),
    ("block_wildcard", Meaning::BlockWildcard, "Domain", None),
    ("block_regex", Meaning::BlockRegex, "Pattern", None),
    ("fqdn_dns_allow", Meaning::Forward(Kind::ForwardAllow), "Domain", Some("Server")),
    ("fqdn_dns_block", Meaning::Forward(Kind::ForwardBlock), "Domain", Some("Server")),
    ("domain_alias", Meaning::Alias, "Source_Domain", Some("Target_Domain")),
    ("ip_rewrite_v4", Meaning::Rewrite, "Source_IPv4", Some("Target_IPv4")),
    ("ip_rewrite_v6", Meaning::Rewrite, "Source_IPv6", Some("Target_IPv6")),
    ("block_hosts", Meaning::BlockExact, "Domain", None),
    ("block_ips", Meaning::Rewrite, "Source_IP", Some("Target_IP")),
];

/// The two tables of the normalised generation.
const NORMALISED_TABLES: [&str; 2] = ["domains", "records"];

/// `records.record_type`.
const RECORD_TYPES: [(&str, Meaning); 8] = [
    ("block_exact", Meaning::BlockExact),
    ("block_wildcard", Meaning::BlockWildcard),
    ("block_regex", Meaning::BlockRegex),
    ("dns_allow", Meaning::Forward(Kind::ForwardAllow)),
    ("dns_block", Meaning::Forward(Kind::ForwardBlock)),
    ("domain_alias", Meaning::Alias),
    ("ip_rewrite_v4", Meaning::Rewrite),
    ("ip_rewrite_v6", Meaning::Rewrite),
];

/// Reads the database and hands on every row of every table that it knows; a table that it does not know is handed on
/// as refused. With `wildcard_forward_block`, wildcard rows are forwarded to the blocker's DNS instead of answered, as one
/// generation of the ancestor did. Fails when the file cannot be read or has none of the tables.
pub fn read_ancestor(
    path: &Path,
    list: ListId,
    wildcard_forward_block: bool,
    item: &mut dyn FnMut(AncestorItem),
) -> Result<(), StoreError> {
    let failed = || StoreError::sqlite(path, "read the dnsmasq-sqlite database");
    let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let conn = Connection::open_with_flags(path, flags).map_err(failed())?;
    // One transaction, so that a server which is writing to the file does not mix two states.
    conn.execute_batch("BEGIN").map_err(failed())?;
    let tables = tables(&conn).map_err(failed())?;
    let reader = Reader { conn: &conn, list, wildcard_forward_block };
    let normalised = NORMALISED_TABLES.iter().all(|name| tables.contains_key(*name));
    let mut known = normalised;
    for table in FLAT_TABLES {
        match tables.get(table.0) {
            // Beside the normalised tables a view of this name shows the same rows once more.
            Some(Table { is_view: true, .. }) if normalised => {}
            Some(found) => {
                known = true;
                reader.read_flat(found, &table, item).map_err(failed())?;
            }
            None => {}
        }
    }
    if normalised {
        reader.read_normalised(&tables, item).map_err(failed())?;
    }
    if !known {
        return Err(StoreError::NotAncestor { path: path.to_path_buf() });
    }
    let mut foreign: Vec<&Table> = tables.values().filter(|table| table.is_foreign(normalised)).collect();
    foreign.sort_by(|a, b| a.name.cmp(&b.name));
    for table in foreign {
        item(refused(table.name.clone(), String::new(), "not a table of rules that is known; left out"));
    }
    Ok(())
}

struct Table {
    name: String,
    is_view: bool,
}

impl Table {
    fn is_foreign(&self, normalised: bool) -> bool {
        let name = self.name.to_ascii_lowercase();
        let known = FLAT_TABLES.iter().any(|table| table.0 == name)
            || (normalised && NORMALISED_TABLES.contains(&name.as_str()));
        !self.is_view && !known && !name.starts_with("sqlite_")
    }
}

/// Tables and views by lower-case name.
fn tables(conn: &Connection) -> rusqlite::Result<HashMap<String, Table>> {
    let mut statement = conn.prepare("SELECT name, type FROM sqlite_schema WHERE type IN ('table', 'view')")?;
    let table = |row: &Row<'_>| {
        let (name, kind): (String, String) = (row.get(0)?, row.get(1)?);
        Ok((name.to_ascii_lowercase(), Table { name, is_view: kind == "view" }))
    };
    statement.query_map([], table)?.collect()
}

/// The table's own spelling of a column's name.
fn column(conn: &Connection, table: &str, wanted: &str) -> rusqlite::Result<Option<String>> {
    let mut statement = conn.prepare("SELECT name FROM pragma_table_info(?1)")?;
    let names: Vec<String> = statement.query_map([table], |row| row.get(0))?.collect::<rusqlite::Result<_>>()?;
    Ok(names.into_iter().find(|name| name.eq_ignore_ascii_case(wanted)))
}

fn quoted(identifier: &str) -> String {
    format!("\"{}\"", identifier.replace('"', "\"\""))
}

fn refused(place: String, text: String, reason: impl Into<String>) -> AncestorItem {
    AncestorItem::Refused { place, text, reason: reason.into() }
}

struct Reader<'a> {
    conn: &'a Connection,
    list: ListId,
    wildcard_forward_block: bool,
}

impl Reader<'_> {
    fn read_flat(&self, found: &Table, table: &FlatTable, item: &mut dyn FnMut(AncestorItem)) -> rusqlite::Result<()> {
        let (_, meaning, key, value) = table;
        let Some(key) = column(self.conn, &found.name, key)? else {
            item(refused(found.name.clone(), String::new(), format!("the table has no column `{key}`")));
            return Ok(());
        };
        let value = match value {
            Some(value) => column(self.conn, &found.name, value)?,
            None => None,
        };
        let columns = format!("{}, {}", quoted(&key), value.as_deref().map_or("NULL".to_owned(), quoted));
        let select = |rowid: &str| format!("SELECT {rowid}, {columns} FROM {}", quoted(&found.name));
        // A table WITHOUT ROWID has none; its rows are counted instead.
        let with_rowid = self.conn.prepare(&select("rowid"));
        let mut statement = with_rowid.or_else(|_| self.conn.prepare(&select("NULL")))?;
        let mut rows = statement.query([])?;
        let mut count = 0u64;
        while let Some(row) = rows.next()? {
            count += 1;
            let number = row.get::<_, Option<i64>>(0).ok().flatten().map_or(count.to_string(), |id| id.to_string());
            self.read_row(*meaning, format!("{}:{number}", found.name), row, item)?;
        }
        Ok(())
    }

    fn read_normalised(
        &self,
        tables: &HashMap<String, Table>,
        item: &mut dyn FnMut(AncestorItem),
    ) -> rusqlite::Result<()> {
        let [Some(domains), Some(records)] = NORMALISED_TABLES.map(|name| tables.get(name)) else { return Ok(()) };
        for (table, needed) in
            [(domains, "domain_id"), (domains, "domain"), (records, "domain_id"), (records, "record_type")]
        {
            if column(self.conn, &table.name, needed)?.is_none() {
                item(refused(table.name.clone(), String::new(), format!("the table has no column `{needed}`")));
                return Ok(());
            }
        }
        let has = |name| column(self.conn, &records.name, name).map(|column| column.is_some());
        let target = if has("target_value")? { "r.target_value" } else { "NULL" };
        let id = if has("record_id")? { "r.record_id" } else { "r.rowid" };
        // The higher priority first: of two rules for one name that exclude each other the first one stays.
        let order = if has("priority")? { format!("r.priority DESC, {id}") } else { id.to_owned() };
        let query = format!(
            "SELECT {id}, d.domain, {target}, r.record_type FROM {} r LEFT JOIN {} d ON d.domain_id = r.domain_id ORDER BY {order}",
            quoted(&records.name),
            quoted(&domains.name)
        );
        let mut statement = self.conn.prepare(&query)?;
        let mut rows = statement.query([])?;
        while let Some(row) = rows.next()? {
            let place = format!("{}:{}", records.name, text_of(row.get_ref(0)?).unwrap_or_default());
            let record_type = text_of(row.get_ref(3)?).unwrap_or_default().into_owned();
            match RECORD_TYPES.iter().find(|(word, _)| record_type.eq_ignore_ascii_case(word)) {
                Some((_, meaning)) => self.read_row(*meaning, place, row, item)?,
                None => {
                    let text = text_of(row.get_ref(1)?).unwrap_or_default().into_owned();
                    item(refused(place, text, format!("unknown record type `{record_type}`")));
                }
            }
        }
        Ok(())
    }

    /// Reads a row whose column 1 is the key and 2 the value.
    fn read_row(
        &self,
        meaning: Meaning,
        place: String,
        row: &Row<'_>,
        item: &mut dyn FnMut(AncestorItem),
    ) -> rusqlite::Result<()> {
        let (key, value) = (row.get_ref(1)?, row.get_ref(2)?);
        let read = match (text_of(key), text_of(value)) {
            (Ok(key), Ok(value)) => self.item(meaning, &key, value.trim()),
            (Err(reason), _) | (_, Err(reason)) => Err(reason.to_owned()),
        };
        item(read.unwrap_or_else(|reason| {
            let [key, value] = [key, value].map(|value| text_of(value).unwrap_or_default());
            let text = if value.is_empty() { key.into_owned() } else { format!("{key} {value}") };
            refused(place, text, reason)
        }));
        Ok(())
    }

    fn item(&self, meaning: Meaning, key: &str, value: &str) -> Result<AncestorItem, String> {
        let plain = |kind, scope| Class::plain(kind, scope, self.list);
        let named = |class, name| AncestorItem::Rule(Rule { class, key: RuleKey::Name { name, target: None } });
        match meaning {
            Meaning::BlockExact if key.trim().starts_with("*.") => {
                Err("`*.` in a table of exact names, where it never matched".to_owned())
            }
            Meaning::BlockExact => Ok(named(plain(Kind::Block, Scope::Exact), name(key)?)),
            Meaning::BlockWildcard => {
                let kind = if self.wildcard_forward_block { Kind::ForwardBlock } else { Kind::Block };
                Ok(named(plain(kind, Scope::Subtree), subtree_name(key)?))
            }
            Meaning::BlockRegex if key.is_empty() => Err("an empty pattern would match every name".to_owned()),
            Meaning::BlockRegex => {
                let class = plain(Kind::Block, Scope::Pattern);
                let key = RuleKey::Pattern { regex: key.to_owned(), target: None };
                Ok(AncestorItem::Rule(Rule { class, key }))
            }
            Meaning::Forward(kind) => {
                let class = Class { servers: servers(value)?, ..plain(kind, Scope::Subtree) };
                Ok(named(class, subtree_name(key)?))
            }
            Meaning::Alias => {
                let target = name(value).map_err(|reason| format!("target: {reason}"))?;
                let key = RuleKey::Name { name: subtree_name(key)?, target: Some(target) };
                Ok(AncestorItem::Rule(Rule { class: plain(Kind::Alias, Scope::Subtree), key }))
            }
            Meaning::Rewrite => {
                let from = source_from_text(key.trim()).ok_or("the source is not an address or prefix")?;
                let to: IpAddr = value.parse().map_err(|_| "the target is not an address")?;
                if from.addr().is_ipv4() != to.is_ipv4() {
                    return Err("source and target are of different families".to_owned());
                }
                Ok(AncestorItem::Rewrite(IpRewrite { from, to, list: self.list }))
            }
        }
    }
}

/// Text of a column; NULL is empty. A blob or an ill-encoded text is not guessed at.
fn text_of(value: ValueRef<'_>) -> Result<Cow<'_, str>, &'static str> {
    match value {
        ValueRef::Null => Ok(Cow::Borrowed("")),
        ValueRef::Text(text) => std::str::from_utf8(text).map(Cow::Borrowed).map_err(|_| "not UTF-8 text"),
        ValueRef::Integer(number) => Ok(Cow::Owned(number.to_string())),
        ValueRef::Real(number) => Ok(Cow::Owned(number.to_string())),
        ValueRef::Blob(_) => Err("a blob where text belongs"),
    }
}

fn name(text: &str) -> Result<Name, String> {
    let text = text.trim();
    let ascii = if text.is_ascii() {
        Cow::Borrowed(text)
    } else {
        idna::domain_to_ascii_cow(text.as_bytes(), idna::AsciiDenyList::EMPTY)
            .map_err(|_| NameError::BadIdna.to_string())?
    };
    Name::from_text(&ascii).map_err(|error| error.to_string())
}

fn subtree_name(text: &str) -> Result<Name, String> {
    let text = text.trim();
    name(text.strip_prefix("*.").unwrap_or(text))
}

/// `1.1.1.1`, `1.1.1.1#5353`, `2001:db8::1`, `[2001:db8::1]:53`, several of them with commas or spaces between; empty is none.
fn servers(text: &str) -> Result<Vec<SocketAddr>, String> {
    let parts = text.split([',', ';', ' ']).filter(|part| !part.is_empty());
    // Nothing can be sent to port 0.
    let read = |part| server(part).filter(|server| server.port() != 0);
    let servers = parts.map(|part| read(part).ok_or_else(|| format!("`{part}` is not a server's address")));
    let servers: Vec<SocketAddr> = servers.collect::<Result<_, _>>()?;
    if servers.len() > SERVERS_MAX { Err(format!("more than {SERVERS_MAX} servers")) } else { Ok(servers) }
}

fn server(text: &str) -> Option<SocketAddr> {
    if let Some((address, port)) = text.split_once('#') {
        return Some(SocketAddr::new(bare_address(address)?, port.parse().ok()?));
    }
    text.parse().ok().or_else(|| Some(SocketAddr::new(bare_address(text)?, DNS_PORT)))
}

/// An address, in brackets or not.
fn bare_address(text: &str) -> Option<IpAddr> {
    let inner = text.strip_prefix('[').and_then(|rest| rest.strip_suffix(']'));
    inner.unwrap_or(text).parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn servers_are_read_in_every_spelling() {
        for (text, read) in [
            ("1.1.1.1", "1.1.1.1:53"),
            ("1.1.1.1#5353", "1.1.1.1:5353"),
            ("1.1.1.1:5353", "1.1.1.1:5353"),
            ("2001:db8::1", "[2001:db8::1]:53"),
            ("2001:db8::1#5353", "[2001:db8::1]:5353"),
            ("[2001:db8::1]", "[2001:db8::1]:53"),
            ("[2001:db8::1]:53", "[2001:db8::1]:53"),
            ("[2001:db8::1]#5353", "[2001:db8::1]:5353"),
        ] {
            assert_eq!(servers(text).unwrap(), [read.parse().unwrap()], "{text}");
        }
        assert_eq!(servers("1.1.1.1, 9.9.9.9#54").unwrap().len(), 2);
        assert!(servers("").unwrap().is_empty());
        for text in ["dns.example", "1.1.1.1#", "1.1.1.1#70000", "1.1.1.1#0", "1.1.1", "[::1"] {
            assert!(servers(text).is_err(), "{text}");
        }
    }
}
