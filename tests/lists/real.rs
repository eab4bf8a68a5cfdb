//! Every real list that there is, read as what it is: no panic, no rule that the list does not hold, and nearly all of it
//! read.

use std::collections::BTreeMap;
use std::fs::File;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::io::{BufReader, Read};
use std::path::Path;

use corewall::lists::{
    AdblockLines, Counts, Disabled, Format, Item, Options, RefuseReason, SkipReason, find_badfilters,
    lines_stand_alone, open, read, read_from,
};
use corewall_sharding::rule::{Kind, RuleKey, Scope};

use crate::{files, real_data};

/// Lines of a list that are looked at to tell its format.
const LINES_SEEN: usize = 400;

/// Lines shown of one list, and of all, for each reason (with `LIST_SAMPLES` set in the environment).
const LIST_SAMPLES: usize = 8;
const SAMPLES: usize = 400;

/// Top-level domains of private networks; any other lone word is no name that a list means.
const PRIVATE: [&str; 8] = ["example", "home", "internal", "invalid", "lan", "local", "localdomain", "test"];

/// The format of a real list, by what most of its lines look like; none for what is no list.
fn format_of(path: &Path) -> Option<Format> {
    let name = path.file_name()?.to_str()?;
    if [".pdf", ".checksum", ".symlink", ".md", "LICENSE", "README"].iter().any(|end| name.ends_with(end)) {
        return None;
    }
    let in_folder = |folder: &str| path.components().any(|part| part.as_os_str() == folder);
    if name == "expressions" || name == "very_restrictive_expression" || name == "regex.list" {
        return Some(Format::Regex);
    }
    if in_folder("mmotti-pihole-regex-2024") && name != "whitelist.list" {
        return Some(Format::Regex);
    }
    let mut head = vec![0; 64 * 1024];
    let length = File::open(path).unwrap().read(&mut head).unwrap();
    let text = String::from_utf8_lossy(&head[..length]).into_owned();
    let mut votes: BTreeMap<&str, (usize, Format)> = BTreeMap::new();
    for line in text.lines().map(str::trim).filter(|line| !line.is_empty()).take(LINES_SEEN) {
        let first = line.split([' ', '\t']).next().unwrap_or_default();
        let (vote, format) = if line.starts_with(['#', ';']) {
            continue;
        } else if line.starts_with("local-zone:") || line.starts_with("local-data:") {
            ("unbound", Format::Unbound)
        } else if ["server=/", "address=/", "local=/"].iter().any(|start| line.starts_with(start)) {
            ("dnsmasq", Format::Dnsmasq)
        } else if line.contains(" CNAME ") || line.starts_with("$TTL") || line.contains(" SOA ") {
            ("rpz", Format::Rpz)
        } else if line.starts_with("||") || line.starts_with('!') || line.contains("##") || line.starts_with("@@") {
            ("adblock", Format::Adblock)
        } else if first.parse::<std::net::IpAddr>().is_ok() && first != line {
            ("hosts", Format::Hosts)
        } else {
            ("plain", Format::Plain)
        };
        votes.entry(vote).or_insert((0, format)).0 += 1;
    }
    votes.values().max_by_key(|(count, _)| *count).map(|&(_, format)| format)
}

/// What no list holds as a rule, whatever the format.
fn check(item: &Item<'_>, path: &Path) {
    let Item::Rule { rule, .. } = item else { return };
    let path = path.display();
    match &rule.key {
        RuleKey::Name { name, .. } => {
            let text = name.to_string();
            assert!(text.parse::<std::net::IpAddr>().is_err(), "{path}: a rule on the address {text}");
            assert!(text != "fe" && text != "ff", "{path}: a rule on {text}");
            let names_clients = rule.class.condition.as_ref().is_some_and(|condition| !condition.clients.is_empty());
            assert!(!name.is_root() || names_clients, "{path}: a rule on all names");
            assert!(!text.contains(['#', '!', '$', '/', '*', '|', '^', ':', ' ']), "{path}: a rule on {text}");
            assert!(
                text != "localhost" && (!text.starts_with("ip6-") || text.contains('.')),
                "{path}: a rule on {text}"
            );
            let alone = rule.class.scope == Scope::Exact && rule.class.kind == Kind::Block;
            assert!(!alone || name.label_count() > 1 || PRIVATE.contains(&&*text), "{path}: a rule on the word {text}");
        }
        RuleKey::Pattern { regex, .. } => {
            assert!(regex.len() >= 3 && !regex.starts_with('!') && !regex.starts_with('#'), "{path}: {regex}");
        }
        RuleKey::Address { net, .. } => assert!(net.prefix_len() > 0, "{path}: a rule on all addresses"),
    }
}

#[test]
fn every_real_list_is_read_without_a_wrong_guess() {
    let mut totals: BTreeMap<String, (u64, Counts)> = BTreeMap::new();
    let mut samples: BTreeMap<(String, String), Vec<String>> = BTreeMap::new();
    let mut lists = 0;
    for archive in ["lists-dev", "samples"] {
        let Some(folder) = real_data::folder(archive) else { return };
        for path in files::below(&folder) {
            let Some(format) = format_of(&path) else { continue };
            let mut disabled = Disabled::default();
            if format == Format::Adblock {
                find_badfilters(&mut *open(&path).unwrap(), &mut disabled).unwrap();
            }
            let mut reader = BufReader::new(open(&path).unwrap());
            let counts = read(format, &mut reader, &Options::new(0), &disabled, &mut |item| {
                check(&item, &path);
                let (what, text) = match &item {
                    Item::Refused { line, text, reason } => (format!("refused: {reason}"), format!("{line}: {text}")),
                    Item::Skipped { line, reason } => (format!("skipped: {reason}"), format!("{line}")),
                    _ => return,
                };
                let seen = samples.entry((format.to_string(), what)).or_default();
                // A sample of every list, not all of the first.
                let list = path.strip_prefix(&folder).unwrap().display().to_string();
                if seen.iter().filter(|known| known.starts_with(&list)).count() < LIST_SAMPLES && seen.len() < SAMPLES {
                    seen.push(format!("{list}:{text}"));
                }
            })
            .unwrap();
            lists += 1;
            let total = totals.entry(format.to_string()).or_default();
            total.0 += 1;
            total.1.add(&counts);
        }
    }
    for (format, (lists, counts)) in &totals {
        println!(
            "{format}: {lists} lists, {} lines, {} rules, {} comments, {} gained by stripping",
            counts.lines, counts.rules, counts.comments, counts.gained_by_stripping
        );
        for reason in SkipReason::ALL.into_iter().filter(|&reason| counts.skipped(reason) > 0) {
            println!("    skipped {:8}: {reason}", counts.skipped(reason));
        }
        for reason in RefuseReason::ALL.into_iter().filter(|&reason| counts.refused(reason) > 0) {
            println!("    refused {:8}: {reason:?}", counts.refused(reason));
        }
    }
    if std::env::var_os("LIST_SAMPLES").is_some() {
        for ((format, what), lines) in &samples {
            println!("== {format}, {what}");
            lines.iter().for_each(|line| println!("    {line}"));
        }
    }
    assert!(lists > 1_800, "{lists} lists");
    let rules: u64 = totals.values().map(|(_, counts)| counts.rules).sum();
    assert!(rules > 3_000_000, "{rules} rules");
}

/// What a list says, item by item, as one number each for lists cut at every so many lines and read as a whole.
fn digest(item: &Item<'_>, digest: &mut DefaultHasher) {
    match item {
        Item::Rule { line, rule } => {
            (line, &rule.class).hash(digest);
            match &rule.key {
                RuleKey::Name { name, target } => (name, target).hash(digest),
                RuleKey::Pattern { regex, target } => (regex, target).hash(digest),
                RuleKey::Address { net, target } => (net, target).hash(digest),
            }
        }
        Item::Rewrite(rewrite) => rewrite.hash(digest),
        Item::Skipped { line, reason } => (line, reason).hash(digest),
        Item::Refused { line, text, reason } => (line, text, reason).hash(digest),
    }
}

#[test]
fn real_lists_whose_lines_stand_alone_say_the_same_in_pieces() {
    let Some(folder) = real_data::folder("lists-dev") else { return };
    let (mut lists, mut pieces) = (0, 0);
    let options = Options::new(0);
    for path in files::below(&folder) {
        let Some(format) = format_of(&path) else { continue };
        let mut disabled = Disabled::default();
        let mut lines = AdblockLines::default();
        if format == Format::Adblock {
            lines = find_badfilters(&mut *open(&path).unwrap(), &mut disabled).unwrap();
        }
        if !lines_stand_alone(format, &options, lines) {
            continue;
        }
        let mut text = Vec::new();
        open(&path).unwrap().read_to_end(&mut text).unwrap();
        let (mut whole, mut cut) = (DefaultHasher::new(), DefaultHasher::new());
        let counts = read(format, &mut &text[..], &options, &disabled, &mut |item| digest(&item, &mut whole)).unwrap();
        let mut sum = Counts::default();
        let mut first = 1;
        // A prime, so that pieces do not end where lists have their sections.
        let ends: Vec<&[u8]> = text.split_inclusive(|&octet| octet == b'\n').collect();
        for piece in ends.chunks(997) {
            let text = piece.concat();
            let mut take = |item: Item<'_>| digest(&item, &mut cut);
            sum.add(&read_from(first, format, &mut &text[..], &options, &disabled, &mut take).unwrap());
            first += piece.len() as u64;
            pieces += 1;
        }
        assert_eq!(sum, counts, "{}", path.display());
        assert_eq!(cut.finish(), whole.finish(), "{}", path.display());
        lists += 1;
    }
    println!("{lists} lists in {pieces} pieces");
    assert!(lists > 100 && pieces > 2 * lists, "{lists} lists in {pieces} pieces");
}
