//! Scenarios of other programs, where their data is at hand: unbound's forwarding ones and those of Stelline for a client's
//! cache, as JSON. They are not part of this repository.
//!
//! What they are held to is what a forwarder can do: the root and name servers that they script are one upstream server, and
//! of an answer the status and the answer section count, for authority and additional records beside an SOA are not kept, AA
//! is not ours to set, and RA says nothing about the answer.

use std::path::{Path, PathBuf};

use libtest_mimic::Trial;
use serde_json::Value;

use crate::message;
use crate::parse::{read_header, read_match};
use crate::real_data;
use crate::run::{self, Strictness};
use crate::scenario::{Adjust, Entry, Event, File, Match, Range, Scenario, Step};

/// The scenarios that unbound, dnsmasq and dnsdist all pass: we must as well.
const PASSED_BY_ALL: [&str; 13] = [
    "fwd",
    "fwd_any",
    "fwd_cached",
    "fwd_droptoomany",
    "fwd_notcached",
    "fwd_two",
    "rrset_rettl",
    "rrset_untrusted",
    "rrset_updated",
    "cache_aa",
    "cache_broken_nodata",
    "cache_case",
    "cache_nxdomain",
];

/// The server that all their servers are for us.
const SERVER: &str = "[upstream.default]\nservers = [\"192.0.2.53\"]\n";

/// A test for each of [`PASSED_BY_ALL`]; the others are run with `--ignored`, for information.
pub fn trials() -> Vec<Trial> {
    let Some(folder) = real_data::folder("rpl-dev") else { return Vec::new() };
    let cases = match read_all(&folder.join("rpl-json")) {
        Ok(cases) => cases,
        Err(error) => return vec![Trial::test("foreign", move || Err(error.into()))],
    };
    let missing = PASSED_BY_ALL.iter().filter(|name| !cases.iter().any(|(known, _)| known == *name));
    let mut trials: Vec<Trial> =
        missing.map(|name| Trial::test(format!("foreign/{name}"), || Err("it is not in the archive".into()))).collect();
    for (name, case) in cases {
        let is_ours = PASSED_BY_ALL.contains(&name.as_str());
        let title = format!("foreign/{name}");
        let trial = Trial::test(title, move || {
            let scenario = translate(&name, &case)?;
            run::run(&scenario, Strictness::Foreign).map_err(|failure| failure.text.into())
        });
        trials.push(trial.with_ignored_flag(!is_ours));
    }
    trials
}

fn read_all(folder: &Path) -> Result<Vec<(String, Value)>, String> {
    let mut cases = Vec::new();
    for file in ["unbound-forwarder.json", "domain-client-cache.json"] {
        let path = folder.join(file);
        let text = std::fs::read_to_string(&path).map_err(|error| format!("{}: {error}", path.display()))?;
        let all: Vec<Value> = serde_json::from_str(&text).map_err(|error| format!("{}: {error}", path.display()))?;
        for case in all {
            let path = text_of(&case["file"]);
            // The validators' scenarios are of a validating resolver.
            if path.contains("/validator/") || path.contains("/server/") {
                continue;
            }
            let name = Path::new(&path).file_stem().unwrap_or_default().to_string_lossy().into_owned();
            cases.push((name, case));
        }
    }
    Ok(cases)
}

fn translate(name: &str, case: &Value) -> Result<Scenario, String> {
    if let Some(unsupported) = case["unsupported"].as_array().filter(|list| !list.is_empty()) {
        return Err(format!("cannot be told in this form: {unsupported:?}"));
    }
    let mut scenario =
        Scenario { file: PathBuf::from(format!("{name}.rpl")), title: text_of(&case["desc"]), ..Scenario::default() };
    (scenario.config, scenario.files) = translate_config(case);
    for range in list(&case["ranges"]) {
        let bound = |key: &str| range[key].as_u64().map_or(0, |number| number as u32);
        scenario.ranges.push(Range {
            first: bound("from"),
            last: bound("to"),
            servers: Vec::new(),
            entries: list(&range["entries"])
                .iter()
                .filter(|entry| !is_referral(entry))
                .map(|entry| translate_entry(entry, false))
                .collect::<Result<_, _>>()?,
        });
    }
    for step in list(&case["steps"]) {
        let number = step["n"].as_u64().unwrap_or(0) as u32;
        scenario.steps.push(Step { number, line: number as usize, event: translate_event(step)? });
    }
    Ok(scenario)
}

/// A referral to other servers, which no forwarder gets: the one server that all are for us answers in their place.
fn is_referral(entry: &Value) -> bool {
    let is_ns = |record: &Value| list(record).iter().any(|word| text_of(word) == "NS");
    let authority = list(&entry["authority"]);
    list(&entry["answer"]).is_empty() && !authority.is_empty() && authority.iter().all(is_ns)
}

/// Unbound's zones and TTL bounds in our words; what it has beside them is left out.
fn translate_config(case: &Value) -> (String, Vec<File>) {
    let lines: Vec<String> = list(&case["config"]).iter().map(text_of).collect();
    let (mut config, mut cache, mut lists) = (SERVER.to_owned(), String::new(), String::new());
    let mut files = Vec::new();
    let mut local = String::new();
    let mut add = |format: &str, text: String| {
        let name = format!("{}.{format}", files.len());
        let is_wide = if format == "rpz" { "allow_public_suffix = true\n" } else { "" };
        lists.push_str(&format!("\n[[list]]\nname = \"{name}\"\npath = \"{name}\"\nformat = \"{format}\"\n{is_wide}"));
        files.push(File { name, text, is_database: false });
    };
    let mut rest = lines.iter();
    while let Some(line) = rest.next() {
        let (key, value) = line.trim().split_once(':').unwrap_or_default();
        match key {
            "local-zone" | "local-data" => local.push_str(&format!("{line}\n")),
            "cache-max-ttl" => cache.push_str(&format!("ttl_s_max = {value}\n")),
            "cache-min-ttl" => cache.push_str(&format!("ttl_s_min = {value}\n")),
            "cache-max-negative-ttl" => cache.push_str(&format!("negative_ttl_s_max = {value}\n")),
            _ if line.starts_with("TEMPFILE_CONTENTS") => {
                let zone = rest.by_ref().take_while(|line| !line.starts_with("TEMPFILE_END"));
                add("rpz", zone.map(|line| format!("{line}\n")).collect());
            }
            _ => {}
        }
    }
    if !local.is_empty() {
        add("unbound", local);
    }
    if !cache.is_empty() {
        config.push_str(&format!("\n[cache]\n{cache}"));
    }
    (config + &lists, files)
}

fn translate_event(step: &Value) -> Result<Event, String> {
    let entry = |is_answer| translate_entry(&step["entry"], is_answer);
    let arguments: Vec<String> = list(&step["args"]).iter().map(text_of).collect();
    let address = arguments.iter().position(|word| word == "ADDRESS").and_then(|place| arguments.get(place + 1));
    let client = address.and_then(|address| address.parse().ok());
    Ok(match text_of(&step["type"]).as_str() {
        "QUERY" => Event::Query { entry: entry(false)?, client },
        "CHECK_ANSWER" => Event::CheckAnswer { entry: entry(true)?, client: None },
        "CHECK_OUT_QUERY" => Event::CheckOutQuery { entry: entry(false)?, server: None },
        "REPLY" => Event::Reply { entry: entry(false)?, server: None, late: false },
        "NOTHING" | "TRAFFIC" => Event::Nothing,
        "TIMEOUT" => Event::Timeout { server: None },
        "ERROR" => Event::Error { server: None },
        "TIME_PASSES" => {
            let seconds = arguments.iter().find_map(|word| word.parse::<f64>().ok());
            Event::TimePasses((seconds.ok_or("TIME_PASSES without seconds")? * 1e6) as u64)
        }
        kind => return Err(format!("unknown step {kind}")),
    })
}

fn translate_entry(entry: &Value, is_answer: bool) -> Result<Entry, String> {
    let mut translated = Entry::default();
    for word in list(&entry["match"]) {
        match text_of(word).as_str() {
            // See the module's doc.
            "all" if is_answer => {
                translated.matches.extend([
                    Match::Opcode,
                    Match::Rcode,
                    Match::Question,
                    Match::Answer,
                    Match::AnyOrder,
                ]);
            }
            "flags" | "authority" | "additional" if is_answer => {}
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
    for word in list(&entry["flags"]) {
        read_header(&text_of(word), &mut translated)?;
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
        return Err(format!("EDNS options in hexadecimal: {options}"));
    }
    if let Some(hex) = entry["hex"].as_str() {
        translated.raw = Some(message::parse_hex(hex)?);
    } else {
        translated.message = message::Message::parse(&translated.draft.compose(false)?)?;
    }
    // A negative answer is only known by its SOA.
    if is_answer && translated.message.sections[0].is_empty() && !translated.message.sections[1].is_empty() {
        translated.matches.insert(Match::Authority);
    }
    Ok(translated)
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

fn list(value: &Value) -> &[Value] {
    value.as_array().map_or(&[], Vec::as_slice)
}

fn text_of(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        Value::Null => String::new(),
        other => other.to_string(),
    }
}
