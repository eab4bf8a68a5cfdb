//! Compares what came with what a scenario wants, and says in words what differs.

use crate::message::{Edns, FLAGS, Message, OPTION_COOKIE, OPTION_EDE, Record, hex, rcode_name};
use crate::scenario::{Entry, Match};
use corewall::decide::Transport;

/// QR among the flags.
const QR: u16 = 0x8000;

/// What differs between `got` and what `entry` wants; nothing when it matches.
pub fn differences(entry: &Entry, got: &Message, transport: Transport) -> Vec<String> {
    let wanted = &entry.message;
    let has = |what: Match| entry.matches.contains(&what);
    let mut found = Vec::new();
    for what in &entry.matches {
        match what {
            Match::Opcode => expect(&mut found, "opcode", wanted.opcode, got.opcode),
            Match::Rcode => expect(&mut found, "status", rcode_name(wanted.rcode), rcode_name(got.rcode)),
            Match::Flags => {
                for (name, bit) in FLAGS.iter().filter(|(_, bit)| (wanted.flags ^ got.flags) & bit != 0) {
                    let is_set = if got.flags & bit != 0 { "is set" } else { "is not set" };
                    found.push(format!("flag {name} {is_set}"));
                }
            }
            Match::Qname => {
                let name = |message: &Message| message.question.first().map(|(name, ..)| cased(name, has(Match::Case)));
                expect(&mut found, "QNAME", name(wanted), name(got));
            }
            Match::Qtype => {
                let qtype = |message: &Message| message.question.first().map(|(_, class, qtype)| (*class, *qtype));
                expect(&mut found, "QCLASS and QTYPE", qtype(wanted), qtype(got));
            }
            Match::Subdomain => {
                let name = |message: &Message| message.question.first().map(|(name, ..)| cased(name, false));
                if !is_at_or_below(&name(got).unwrap_or_default(), &name(wanted).unwrap_or_default()) {
                    found.push(format!("QNAME: {} is not at or below {}", text(name(got)), text(name(wanted))));
                }
            }
            Match::Question => {
                let question = |message: &Message| {
                    let question = message.question.iter();
                    question
                        .map(|(name, class, qtype)| (cased(name, has(Match::Case)), *class, *qtype))
                        .collect::<Vec<_>>()
                };
                expect(&mut found, "question", question(wanted), question(got));
            }
            Match::Answer => sections(&mut found, entry, got, 0, "answer"),
            Match::Authority => sections(&mut found, entry, got, 1, "authority"),
            Match::Additional => sections(&mut found, entry, got, 2, "additional"),
            Match::Edns => edns(&mut found, wanted, got),
            Match::NoEdns if !got.edns.is_empty() => found.push("there is an OPT record".to_owned()),
            Match::NoEde if got.ede().is_some() => found.push("there is an Extended DNS Error".to_owned()),
            Match::DnssecOk if !got.edns.iter().any(|edns| edns.flags & Edns::DO != 0) => {
                found.push("flag DO is not set".to_owned());
            }
            Match::EdnsData => {
                let is_question = got.flags & QR == 0;
                let told =
                    |message: &Message| message.edns.first().map(|edns| options(edns, is_question)).unwrap_or_default();
                expect(&mut found, "EDNS options", told(wanted), told(got));
            }
            Match::AuthenticData => is_set(&mut found, "AD", got),
            Match::CheckingDisabled => is_set(&mut found, "CD", got),
            Match::RecursionDesired => is_set(&mut found, "RD", got),
            Match::Cookie(server) => match got.cookie() {
                Some((_, got)) => expect(&mut found, "the server's part of the cookie", server.clone(), hex(got)),
                None => found.push("there is no cookie".to_owned()),
            },
            Match::NoCookie if got.cookie().is_some() => found.push("there is a cookie".to_owned()),
            Match::MixedCase => {
                let name = got.question.first().map(|(name, ..)| name.as_str()).unwrap_or_default();
                let has = |is: fn(&char) -> bool| name.chars().any(|c| is(&c));
                if !has(char::is_ascii_lowercase) || !has(char::is_ascii_uppercase) {
                    found.push(format!("QNAME: {name} is not in mixed letter case"));
                }
            }
            Match::Udp => expect(&mut found, "transport", Transport::Udp, transport),
            Match::Tcp => expect(&mut found, "transport", Transport::Tcp, transport),
            Match::BytesMax(max) if got.wire.len() > *max => {
                found.push(format!("{} bytes, at most {max} wanted", got.wire.len()));
            }
            Match::Bytes(bytes) => expect(&mut found, "bytes", *bytes, got.wire.len()),
            Match::Raw => {
                let wanted = entry.raw.as_deref().unwrap_or(&wanted.wire);
                expect(&mut found, "octets", hex(wanted), hex(&got.wire));
            }
            Match::BytesMax(_) | Match::NoEdns | Match::NoEde | Match::NoCookie | Match::DnssecOk => {}
            // They say how others are compared.
            Match::Ttl | Match::Case | Match::AnyOrder => {}
        }
    }
    if let Some((code, wanted_text)) = &entry.ede {
        match got.ede() {
            None => found.push(format!("there is no Extended DNS Error, {code} wanted")),
            Some((got_code, got_text)) => {
                expect(&mut found, "Extended DNS Error", code, &got_code);
                if let Some(wanted_text) = wanted_text {
                    expect(&mut found, "its text", wanted_text, &got_text);
                }
            }
        }
    }
    found
}

fn expect<T: PartialEq + std::fmt::Debug>(found: &mut Vec<String>, what: &str, wanted: T, got: T) {
    if wanted != got {
        found.push(format!("{what}: {got:?}, wanted {wanted:?}"));
    }
}

fn text(name: Option<String>) -> String {
    name.unwrap_or_else(|| "no question".to_owned())
}

fn cased(name: &str, case: bool) -> String {
    if case { name.to_owned() } else { name.to_ascii_lowercase() }
}

/// Whether `name` is `ancestor` or lies below it; both in lower case and with the final dot.
fn is_at_or_below(name: &str, ancestor: &str) -> bool {
    ancestor == "." || name.strip_suffix(ancestor).is_some_and(|rest| rest.is_empty() || rest.ends_with('.'))
}

fn sections(found: &mut Vec<String>, entry: &Entry, got: &Message, place: usize, what: &str) {
    let has = |what| entry.matches.contains(&what);
    let equal = |a: &Record, b: &Record| a.equals(b, has(Match::Ttl), has(Match::Case));
    let (wanted, got) = (&entry.message.sections[place], &got.sections[place]);
    let is_equal = match has(Match::AnyOrder) {
        true => {
            wanted.len() == got.len()
                && wanted.iter().all(|record| got.iter().any(|other| equal(record, other)))
                && got.iter().all(|record| wanted.iter().any(|other| equal(record, other)))
        }
        false => wanted.len() == got.len() && wanted.iter().zip(got).all(|(a, b)| equal(a, b)),
    };
    if !is_equal {
        found.push(format!("the {what} section differs"));
    }
}

fn edns(found: &mut Vec<String>, wanted: &Message, got: &Message) {
    let is_question = got.flags & QR == 0;
    let (Some(wanted), [got]) = (wanted.edns.first(), &got.edns[..]) else {
        found.push(format!("{} OPT records, one wanted", got.edns.len()));
        return;
    };
    expect(found, "EDNS size", wanted.size, got.size);
    expect(found, "EDNS version", wanted.version, got.version);
    expect(found, "EDNS flags", wanted.flags, got.flags);
    expect(found, "EDNS options", options(wanted, is_question), options(got, is_question));
}

/// The options beside Extended DNS Errors, and beside our own cookies in questions.
fn options(edns: &Edns, is_question: bool) -> Vec<(u16, Vec<u8>)> {
    let is_ours = |code: u16| code == OPTION_EDE || (is_question && code == OPTION_COOKIE);
    edns.options.iter().filter(|(code, _)| !is_ours(*code)).cloned().collect()
}

fn is_set(found: &mut Vec<String>, flag: &str, got: &Message) {
    let bit = FLAGS.iter().find(|(name, _)| *name == flag).map_or(0, |(_, bit)| *bit);
    if got.flags & bit == 0 {
        found.push(format!("flag {flag} is not set"));
    }
}
