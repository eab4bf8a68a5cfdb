//! The sample lists of the repository, built and asked for name by name, and a list of popular names against them.

use std::collections::HashSet;
use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use fancy_regex::Regex;

use crate::client::{Question, Reply, UdpClient, question};
use crate::corewall::{Server, Site, sample};
use crate::nsd::Nsd;
use crate::real_data;

/// Questions in flight from one socket: far fewer than a socket's buffer holds.
const WINDOW: usize = 64;

fn sample_file(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data").join(name)
}

/// The lines of a sample without comments.
fn lines(name: &str) -> Vec<String> {
    let text = fs::read_to_string(sample_file(name)).unwrap();
    let lines = text.lines().map(|line| line.trim().to_lowercase());
    lines.filter(|line| !line.is_empty() && !line.starts_with(['#', '!'])).collect()
}

/// The names of a hosts file.
fn hosts(name: &str) -> Vec<String> {
    lines(name).iter().filter_map(|line| Some(line.split_whitespace().nth(1)?.to_owned())).collect()
}

/// What stands between `before` and `after` on the lines that have both.
fn between(name: &str, before: &str, after: &str) -> HashSet<String> {
    let cut = |line: &String| Some(line.strip_prefix(before)?.strip_suffix(after)?.to_owned());
    lines(name).iter().filter_map(cut).collect()
}

/// The sample's rules, read as simply as can be: sets of names.
struct Rules {
    exact: HashSet<String>,
    /// With everything under them.
    subtree: HashSet<String>,
    patterns: Vec<Regex>,
    allowed: HashSet<String>,
}

impl Rules {
    fn read() -> Self {
        let exact = ["basic", "crypto", "ransomware"].map(|list| hosts(&format!("blocklistproject/{list}.txt")));
        let mut subtree: HashSet<String> = hosts("blocklistproject/scam.txt").into_iter().collect();
        subtree.extend(between("blocklistproject/ransomware-ags.txt", "||", "^"));
        subtree.extend(between("blocklistproject/tiktok-ags.txt", "||", "^"));
        subtree.extend(between("blocklistproject/ransomware-dnsmasq.txt", "address=/", "/"));
        assert!(subtree.len() > 12_000, "{} names with their subtrees", subtree.len());
        let patterns = lines("mmotti/regex.list");
        Self {
            exact: exact.into_iter().flatten().collect(),
            subtree,
            patterns: patterns.iter().map(|pattern| Regex::new(&format!("(?i){pattern}")).unwrap()).collect(),
            allowed: lines("mmotti/whitelist.list").into_iter().collect(),
        }
    }

    fn is_blocked(&self, name: &str) -> bool {
        let mut suffixes = std::iter::successors(Some(name), |name| Some(name.split_once('.')?.1));
        let is_listed = self.exact.contains(name)
            || suffixes.any(|suffix| self.subtree.contains(suffix))
            || self.patterns.iter().any(|pattern| pattern.is_match(name).unwrap());
        is_listed && !self.allowed.contains(name) && !self.is_the_operators(name)
    }

    /// Whether the sample's own rules speak of it.
    fn is_the_operators(&self, name: &str) -> bool {
        ["1inch.io", "old-portal.example.org"].iter().any(|own| name == *own || name.ends_with(&format!(".{own}")))
    }
}

/// Asks all questions, some at a time, and hands each reply to `check`.
fn ask_all(server: SocketAddr, questions: &[Question], mut check: impl FnMut(&Question, &Reply)) {
    let client = UdpClient::new(server);
    for window in questions.chunks(WINDOW) {
        for (id, question) in (0u16..).zip(window) {
            client.send(&question.to_wire(id));
        }
        let mut is_open = vec![true; window.len()];
        for _ in window {
            let reply = Reply::parse(&client.receive());
            let place = usize::from(reply.id);
            assert!(std::mem::take(&mut is_open[place]), "answered twice: {reply:?}");
            check(&window[place], &reply);
        }
    }
}

fn questions(names: &[String], rtype: &'static str) -> Vec<Question> {
    names.iter().map(|name| question(name, rtype)).collect()
}

/// Names that the build has refused, by its report's file.
fn refused(site: &Site) -> String {
    let store = site.path("store");
    let generations = fs::read_dir(store)
        .unwrap()
        .filter_map(|entry| fs::read_to_string(entry.unwrap().path().join("refused.txt")).ok());
    generations.collect()
}

#[test]
fn every_name_of_a_whole_hosts_list_is_blocked() {
    let site = sample();
    let server = site.build_and_serve();
    let rules = Rules::read();
    let refused = refused(&site);
    let is_refused =
        |name: &String| refused.lines().any(|line| line.ends_with(&format!(" {name}")) && line.contains("basic.txt"));
    // Local records and special-use names come before all rules (RFC 7686 for those under `onion`).
    let is_ours = |name: &String| rules.is_blocked(name) && !is_refused(name) && !name.ends_with(".onion");
    let (names, others): (Vec<String>, Vec<String>) =
        hosts("blocklistproject/basic.txt").into_iter().partition(is_ours);
    assert!(names.len() > 76_000, "{} names", names.len());
    assert!(others.len() < 40, "too many are refused or allowed: {others:?}");
    ask_all(server.address(), &questions(&names, "A"), |question, reply| {
        assert!(reply.is_zero() && reply.ede == Some((15, "basic".to_owned())), "{question:?} {reply:?}");
    });
    // Those that other rules decide are not blocked by this list.
    ask_all(server.address(), &questions(&others, "A"), |question, reply| {
        assert_ne!(reply.ede, Some((15, "basic".to_owned())), "{question:?}");
    });
    assert!(server.stop().get("blocked") >= names.len() as u64);
}

#[test]
fn popular_names_that_no_rule_covers_are_not_blocked_and_the_others_are() {
    let Some(folder) = real_data::folder("names") else { return };
    let Some(nsd) = Nsd::start() else { return };
    let server = sample_with(&nsd);
    let rules = Rules::read();
    let text = fs::read_to_string(folder.join("opendns-top-10k.txt")).unwrap();
    let names: Vec<String> =
        text.lines().map(|line| line.trim().to_lowercase()).filter(|line| !line.is_empty()).collect();
    assert!(names.len() >= 9_000, "{} names", names.len());
    let mut blocked = 0;
    ask_all(server.address(), &questions(&names, "A"), |question, reply| {
        let is_blocked = reply.ede.as_ref().is_some_and(|(code, _)| *code == 15);
        assert_eq!(is_blocked, rules.is_blocked(&question.name), "{question:?} {reply:?}");
        if is_blocked {
            blocked += 1;
        } else {
            // What the upstream says of every name.
            assert_eq!(reply.data(), ["A 198.51.100.1"], "{question:?} {reply:?}");
        }
    });
    assert!(blocked > 0 && blocked < names.len() / 4, "{blocked} of {}", names.len());
    server.stop();
}

fn sample_with(nsd: &Nsd) -> Server {
    sample().upstream(&[nsd.address()]).build_and_serve()
}

#[test]
fn the_three_names_of_the_readme_are_answered_as_it_says() {
    let server = sample().build_and_serve();
    let client = UdpClient::new(server.address());
    let blocked = client.ask(&question("0slot.trade", "A"));
    assert!(blocked.is_zero(), "{blocked:?}");
    assert!(blocked.ede.is_some_and(|(code, text)| code == 15 && !text.is_empty()));
    let allowed = client.ask(&question("1inch.io", "A"));
    assert_eq!((allowed.rcode, allowed.ede.map(|(code, _)| code)), (2, Some(22)));
    assert_eq!(
        client.ask(&question("old-portal.example.org", "A")).data(),
        ["A 192.0.2.10", "CNAME portal.example.org."]
    );
    server.stop();
}
