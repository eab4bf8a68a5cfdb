//! What a class says beside its name, for people and programs.

use std::collections::BTreeMap;

use corewall_sharding::rule::{Answer, AnswerRecord, Class, ClientMatch, Condition};
use corewall_sharding::schema;
use domain::base::zonefile_fmt::{DisplayKind, ZonefileFmt};
use domain::base::{ParseRecordData, ParsedName, Rtype};
use domain::dep::octseq::Parser;
use domain::rdata::AllRecordData;
use serde::Serialize;

use super::Book;
use crate::lists::records::read_data;
use crate::lists::zone::Entry;

/// What a class says. Serialised, absent parts are left out.
#[derive(Clone, Debug, Serialize)]
pub struct Said {
    pub important: bool,
    pub list: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub category: String,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub condition: BTreeMap<&'static str, Vec<String>>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub servers: Vec<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub answer: Option<SaidAnswer>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub alias_labels: Option<&'static str>,
}

/// An own answer.
#[derive(Clone, Debug, Serialize)]
#[serde(untagged)]
pub enum SaidAnswer {
    /// By this mode.
    Mode(&'static str),
    /// These; none means no data.
    Records(Vec<SaidRecord>),
}

/// A record in presentation format.
#[derive(Clone, Debug, Serialize)]
pub struct SaidRecord {
    #[serde(rename = "type")]
    pub rtype: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ttl_s: Option<u32>,
    pub data: String,
}

impl Said {
    pub fn of(book: Book<'_>, class: &Class) -> Self {
        let list = book.list_of(class);
        Self {
            important: class.important,
            list: list.map(|list| list.name.clone()).unwrap_or_default(),
            category: list.map(|list| list.category.clone()).unwrap_or_default(),
            condition: class.condition.as_ref().map(condition).unwrap_or_default(),
            servers: class.servers.iter().map(ToString::to_string).collect(),
            answer: class.answer.as_ref().map(|answer| match answer {
                Answer::Mode(mode) => SaidAnswer::Mode(schema::mode_word(*mode)),
                Answer::Records(records) => SaidAnswer::Records(records.iter().map(SaidRecord::of).collect()),
            }),
            alias_labels: (class.kind == corewall_sharding::rule::Kind::Alias)
                .then(|| schema::alias_labels_word(class.alias_labels)),
        }
    }
}

impl SaidRecord {
    pub fn of(record: &AnswerRecord) -> Self {
        let rtype = Rtype::from_int(record.rtype);
        Self { rtype: rtype.to_string(), ttl_s: record.ttl_s, data: data_text(rtype, &record.rdata) }
    }
}

/// The parts of a condition by name, those that are empty left out.
fn condition(condition: &Condition) -> BTreeMap<&'static str, Vec<String>> {
    let types = |types: &[u16]| types.iter().map(|&rtype| Rtype::from_int(rtype).to_string()).collect::<Vec<_>>();
    let clients = |clients: &[ClientMatch]| {
        let text = |client: &ClientMatch| match client {
            ClientMatch::Net(net) => net.to_string(),
            ClientMatch::Named(name) => name.to_string(),
        };
        clients.iter().map(text).collect::<Vec<_>>()
    };
    let Condition { types: only, types_not, names_not, clients: whose, clients_not, lifts_answers_only } = condition;
    let names_not = names_not.iter().map(ToString::to_string).collect();
    let parts = [
        ("types", types(only)),
        ("types_not", types(types_not)),
        ("names_not", names_not),
        ("clients", clients(whose)),
        ("clients_not", clients(clients_not)),
        ("lifts_answers_only", lifts_answers_only.then(|| "true".to_owned()).into_iter().collect()),
    ];
    parts.into_iter().filter(|(_, values)| !values.is_empty()).collect()
}

/// A record's data in presentation format: that of its type where it reads back to the same octets, else that of unknown
/// types (RFC 3597 §5), which always does.
fn data_text(rtype: Rtype, rdata: &[u8]) -> String {
    let reads_back = |text: &String| {
        let mut entry = Entry::default();
        entry.add_line(&format!("x {text}"));
        read_data(rtype, &entry.tokens_from(1)).is_ok_and(|read| *read == *rdata)
    };
    known_text(rtype, rdata).filter(reads_back).unwrap_or_else(|| {
        let digits: String = rdata.iter().map(|octet| format!("{octet:02x}")).collect();
        format!("\\# {} {digits}", rdata.len()).trim_end().to_owned()
    })
}

fn known_text(rtype: Rtype, rdata: &[u8]) -> Option<String> {
    let mut parser = Parser::from_ref(rdata);
    let data = AllRecordData::<&[u8], ParsedName<&[u8]>>::parse_rdata(rtype, &mut parser).ok()??;
    Some(data.display_zonefile(DisplayKind::Simple).to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn data_is_spelled_so_that_it_reads_back() {
        for (rtype, tokens, wanted) in [
            ("A", vec!["192.0.2.1"], "192.0.2.1"),
            ("AAAA", vec!["2001:db8::1"], "2001:db8::1"),
            ("MX", vec!["10", "mx.example."], "10 mx.example."),
            ("TXT", vec!["two words", "x"], "\"two words\" \"x\""),
            ("TYPE65280", vec!["\\#", "2", "abcd"], "\\# 2 ab cd"),
        ] {
            let rtype = crate::lists::records::read_type(rtype).unwrap();
            let rdata = read_data(rtype, &tokens).unwrap();
            assert_eq!(data_text(rtype, &rdata), wanted);
        }
        for (rtype, tokens) in [
            ("HTTPS", vec!["1", ".", "alpn=h2"]),
            ("SRV", vec!["1", "2", "53", "."]),
            ("CAA", vec!["0", "issue", "a;b"]),
            ("TXT", vec![r#"q\"q;"#]),
        ] {
            let rtype = crate::lists::records::read_type(rtype).unwrap();
            let rdata = read_data(rtype, &tokens).unwrap();
            let mut entry = Entry::default();
            entry.add_line(&format!("x {}", data_text(rtype, &rdata)));
            assert_eq!(read_data(rtype, &entry.tokens_from(1)).as_deref(), Ok(&*rdata), "{rtype}");
        }
    }
}
