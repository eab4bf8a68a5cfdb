//! Scenarios in JSON become ours.

use std::net::{IpAddr, Ipv4Addr};
use std::path::PathBuf;

use corewall::decide::Undelivered;
use corewall::limits::UPSTREAM_SENDS_MAX;
use serde_json::Value;

use super::config::{self, Translated};
use super::{list, text_of};
use crate::message::{self, Edns};
use crate::parse::{read_header, read_match};
use crate::scenario::{Adjust, Entry, Event, Match, Range, Scenario, Server, Step};

/// The client of queries that name none.
const CLIENT: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);

/// What an entry is for.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Use {
    /// A question, or an upstream server's answer.
    Said,
    /// What must come.
    Wanted,
}

/// Reads the scenario `name`.
pub fn translate(name: &str, case: &Value) -> Result<Scenario, String> {
    if let Some(unsupported) = case["unsupported"].as_array().filter(|list| !list.is_empty()) {
        return Err(format!("cannot be told in this form: {unsupported:?}"));
    }
    let lines: Vec<String> = list(&case["config"]).iter().map(text_of).collect();
    let translated = config::translate(&lines, &|host| addresses_of(case, host));
    let mut scenario =
        Scenario { file: PathBuf::from(format!("{name}.rpl")), title: text_of(&case["desc"]), ..Scenario::default() };
    let is_stelline = text_of(&case["file"]).contains("stelline");
    let reader = Reader { is_stelline, says_do: is_stelline || has_dnssec(case) };
    for range in list(&case["ranges"]) {
        let bound = |key: &str| range[key].as_u64().map_or(0, |number| number as u32);
        let entries = list(&range["entries"]).iter().filter(|entry| !is_referral(entry));
        scenario.ranges.push(Range {
            first: bound("from"),
            last: bound("to"),
            servers: servers_of(range, &translated),
            entries: entries.map(|entry| reader.entry(entry, Use::Said)).collect::<Result<_, _>>()?,
        });
    }
    // How often Unbound tries is an option; ours is not. What fails is to fail until we have given up.
    let times = if lines.iter().any(|line| line.contains("outbound-msg-retry")) { UPSTREAM_SENDS_MAX } else { 1 };
    for step in list(&case["steps"]) {
        let number = step["n"].as_u64().unwrap_or(0) as u32;
        let times = if text_of(&step["type"]) == "ERROR" { times } else { 1 };
        for _ in 0..times {
            scenario.steps.push(Step { number, line: number as usize, event: reader.event(step)? });
        }
    }
    (scenario.config, scenario.files) = (translated.toml, translated.files);
    Ok(scenario)
}

/// Which of our servers a range speaks for: name servers that are only reached by a referral answer in the place of those
/// for everything.
fn servers_of(range: &Value, translated: &Translated) -> Vec<Server> {
    let addresses: Vec<IpAddr> = list(&range["addr"]).iter().filter_map(|text| text_of(text).parse().ok()).collect();
    let is_ours =
        |address: &&IpAddr| translated.zone_servers.contains(address) || translated.default_servers.contains(address);
    let ours: Vec<Server> = addresses.iter().filter(is_ours).copied().map(Server::Address).collect();
    if ours.is_empty() { translated.default_servers.iter().copied().map(Server::Address).collect() } else { ours }
}

/// The addresses that the scenario's servers tell of a host.
fn addresses_of(case: &Value, host: &str) -> Vec<IpAddr> {
    let is_host = |word: &Value| text_of(word).trim_end_matches('.') == host.trim_end_matches('.');
    let entries = list(&case["ranges"]).iter().flat_map(|range| list(&range["entries"]));
    let records = entries.flat_map(|entry| list(&entry["answer"])).map(list);
    let records = records.filter(|record| record.first().is_some_and(is_host));
    records.filter_map(|record| text_of(record.last()?).parse().ok()).collect()
}

/// A referral to other servers, which no forwarder gets: the servers that we have answer in their place.
fn is_referral(entry: &Value) -> bool {
    let authority = list(&entry["authority"]);
    let has = |rtype| authority.iter().any(|record| type_of(record) == rtype);
    list(&entry["answer"]).is_empty() && has("NS") && !has("SOA")
}

/// The type of a record: the first word behind owner and TTLs that is no class.
fn type_of(record: &Value) -> String {
    let words = list(record).iter().skip(1).map(text_of);
    let is_type = |word: &String| !matches!(word.as_str(), "IN" | "CH") && !word.bytes().all(|c| c.is_ascii_digit());
    words.into_iter().find(is_type).unwrap_or_default()
}

/// Whether a server answers with something of DNSSEC.
fn has_dnssec(case: &Value) -> bool {
    let entries = list(&case["ranges"]).iter().flat_map(|range| list(&range["entries"]));
    let mut records = entries.flat_map(|entry| list(&entry["answer"]).iter().chain(list(&entry["authority"])));
    records.any(|record| matches!(type_of(record).as_str(), "RRSIG" | "NSEC" | "NSEC3" | "DS" | "DNSKEY"))
}

struct Reader {
    /// Whether the scenario is one of Stelline, not of Unbound.
    ///
    /// Its client is another program's cache: it takes answers of any size, as clients over TCP do, and CD is something it
    /// tells apart. Unbound's scenarios have CD to turn validation off; nothing validates here, and since answers with CD are
    /// kept apart, their questions with and without it would never meet.
    is_stelline: bool,
    /// Whether DO asks for something. Where nothing is signed, it only says that the client speaks EDNS, so that it may be
    /// told of errors; and since answers with DO are kept apart, the same client's questions without it would not be of use.
    says_do: bool,
}

impl Reader {
    fn event(&self, step: &Value) -> Result<Event, String> {
        let entry = |usage| self.entry(&step["entry"], usage);
        let arguments: Vec<String> = list(&step["args"]).iter().map(text_of).collect();
        let address = arguments.iter().position(|word| word == "ADDRESS").and_then(|place| arguments.get(place + 1));
        let address: Option<IpAddr> = address.and_then(|address| address.parse().ok());
        let server = address.map(Server::Address);
        Ok(match text_of(&step["type"]).as_str() {
            "QUERY" => {
                let mut entry = entry(Use::Said)?;
                entry.matches.extend(self.is_stelline.then_some(Match::Tcp));
                Event::Query { entry, client: Some(address.unwrap_or(CLIENT)) }
            }
            "CHECK_ANSWER" => Event::CheckAnswer { entry: entry(Use::Wanted)?, client: None },
            "CHECK_OUT_QUERY" => Event::CheckOutQuery { entry: entry(Use::Said)?, server },
            "REPLY" => {
                let mut entry = entry(Use::Said)?;
                // Such a reply is handed to the very question that waits for it.
                entry.adjusts.insert(Adjust::CopyId);
                Event::Reply { entry, server, late: false }
            }
            "NOTHING" | "TRAFFIC" => Event::Nothing,
            "TIMEOUT" => Event::Timeout { server: None },
            "ERROR" => Event::Error { server: None, why: Undelivered::Refused },
            "TIME_PASSES" => {
                let seconds = arguments.iter().find_map(|word| word.parse::<f64>().ok());
                Event::TimePasses((seconds.ok_or("TIME_PASSES without seconds")? * 1e6) as u64)
            }
            kind => return Err(format!("unknown step {kind}")),
        })
    }

    fn entry(&self, entry: &Value, usage: Use) -> Result<Entry, String> {
        let mut translated = Entry::default();
        let is_wanted = usage == Use::Wanted;
        for word in list(&entry["match"]) {
            match text_of(word).as_str() {
                // See the module above.
                "all" if is_wanted => translated.matches.extend([
                    Match::Opcode,
                    Match::Rcode,
                    Match::Question,
                    Match::Answer,
                    Match::AnyOrder,
                ]),
                "flags" | "authority" | "additional" if is_wanted => {}
                word => read_match(word, &mut translated)?,
            }
        }
        for word in list(&entry["adjust"]) {
            translated.adjusts.insert(match text_of(word).as_str() {
                "copy_id" => Adjust::CopyId,
                "copy_query" => Adjust::CopyQuery,
                word => return Err(format!("unknown ADJUST {word}")),
            });
        }
        let flags: Vec<String> = list(&entry["flags"]).iter().map(text_of).collect();
        for word in &flags {
            match word.as_str() {
                "CD" if !self.is_stelline => {}
                "DO" if !self.says_do => translated.draft.edns.push(Edns::default()),
                word => read_header(word, &mut translated)?,
            }
        }
        let question: Vec<String> = list(&entry["q"]).iter().map(text_of).collect();
        if !question.is_empty() {
            translated.draft.question.push(message::parse_question(&question.join(" "))?);
        }
        for (place, section) in ["answer", "authority", "additional"].into_iter().enumerate() {
            for record in list(&entry[section]) {
                translated.draft.sections[place].push(message::parse_record(&record_line(record)?)?);
            }
        }
        if let Some(options) = entry["ednshex"].as_str() {
            let options = read_options(&message::parse_hex(options)?)?;
            match translated.draft.edns.first_mut() {
                Some(edns) => edns.options = options,
                // Data that is wanted is data alone: without any, there may be an OPT record or none.
                None => translated.draft.edns.push(Edns { options, ..Edns::default() }),
            }
        }
        if let Some(hex) = entry["hex"].as_str() {
            translated.raw = Some(message::parse_hex(hex)?);
        } else {
            translated.message = message::Message::parse(&translated.draft.compose(false)?)?;
        }
        let [answer, authority, _] = &translated.message.sections;
        // A negative answer is only known by its SOA; what the SOA of an answer with AA says, which the server made up
        // itself, is that server's choice.
        let is_made_up = flags.iter().any(|word| word == "AA");
        if is_wanted && answer.is_empty() && !authority.is_empty() && !is_made_up {
            translated.matches.insert(Match::Authority);
        }
        Ok(translated)
    }
}

/// EDNS options as they stand in an OPT record (RFC 6891 §6.1.2).
fn read_options(mut octets: &[u8]) -> Result<Vec<(u16, Vec<u8>)>, String> {
    let mut options = Vec::new();
    while let [a, b, c, d, rest @ ..] = octets {
        let (code, length) = (u16::from_be_bytes([*a, *b]), usize::from(u16::from_be_bytes([*c, *d])));
        let (data, after) = rest.split_at_checked(length).ok_or("an EDNS option is longer than its data")?;
        options.push((code, data.to_vec()));
        octets = after;
    }
    if octets.is_empty() { Ok(options) } else { Err("an EDNS option is cut short".to_owned()) }
}

/// Owner, the TTL that the converter put there, then the words as they stood: maybe the real TTL, class, type and data.
fn record_line(record: &Value) -> Result<String, String> {
    let words: Vec<String> = list(record).iter().map(text_of).collect();
    let (Some(owner), Some(ttl), Some(rest)) = (words.first(), words.get(1), words.get(2..)) else {
        return Err(format!("no record: {record}"));
    };
    let has_own_ttl = rest.first().is_some_and(|word| word.bytes().all(|c| c.is_ascii_digit()));
    let ttl = if has_own_ttl { "" } else { ttl };
    Ok(format!("{owner} {ttl} {}", rest.join(" ")))
}
