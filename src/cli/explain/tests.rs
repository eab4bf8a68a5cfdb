//! Explanations of small stores, word by word.

use super::*;
use crate::build::patterns::Compiler;
use crate::build::{self, ListSpec, Options};
use crate::decide::local::{LocalRecords, Served};
use crate::lists::Format;
use corewall_sharding::overlay::{LiveChange, Void};
use corewall_sharding::rule::{Rule, RuleKey, Scope};

/// A store of these lists: name, format, text.
fn store(lists: &[(&str, Format, &str)]) -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    let specs: Vec<ListSpec> = lists
        .iter()
        .map(|(name, format, text)| {
            let path = dir.path().join(name);
            std::fs::write(&path, text).unwrap();
            ListSpec::new(name, *format, &path)
        })
        .collect();
    build::run(
        &specs,
        &dir.path().join("store"),
        &Options { shards: Some(2), compiler: Compiler::Here, ..Options::default() },
        &mut |_| {},
    )
    .unwrap();
    dir
}

fn explained(dir: &tempfile::TempDir, name: &str, rtype: &str) -> String {
    explained_with(dir, name, rtype, &[])
}

/// With these entries of the overlay.
fn explained_with(dir: &tempfile::TempDir, name: &str, rtype: &str, entries: &[LiveEntry]) -> String {
    let question = Question {
        name: parse_subject(name).unwrap().name,
        address: parse_subject(name).unwrap().address,
        rtype: parse_type(rtype).unwrap(),
        client: "192.0.2.7".parse().unwrap(),
    };
    let local =
        LocalRecords::new(Vec::new(), Served { special_use_names: true, reverse_zones: true, canary_domains: true });
    let settings = Settings { local, ede_text: true, ..Settings::default() };
    explain(&dir.path().join("store"), settings, false, &question, |_, _| Ok(entries.to_vec())).unwrap()
}

#[test]
fn every_candidate_is_shown_with_its_tier_and_the_winner_is_marked() {
    let dir = store(&[
        (
            "ads",
            Format::Adblock,
            "||example.com^\n||ads.example.com^$important\n/^ads\\.ex/\n||ads.example.com^$dnstype=TXT\n",
        ),
        ("own", Format::Adblock, "@@||ads.example.com^\n"),
    ]);
    let text = explained(&dir, "Ads.Example.com", "A");
    let lines: Vec<&str> = text.lines().collect();
    assert_eq!(
        lines,
        [
            "ads.example.com A asked by 192.0.2.7, generation 1",
            "  its policy is `default`",
            "",
            "ads.example.com",
            "  => 3 important block   block subtree ads.example.com important  [`ads`]",
            "     4 allow             allow subtree ads.example.com  [`own`]",
            "     6 block by name     block subtree example.com  [`ads`]",
            "     7 block by pattern  block pattern /^ads\\.ex/  [`ads`]",
            "     6 block by name     block subtree ads.example.com types TXT  [`ads`]  not applied: its condition does not hold",
            "  blocked by list `ads`",
            "",
            "answer",
            "  NOERROR",
            "  answer: ads.example.com. 60 IN A 0.0.0.0",
            "  Extended DNS Error 15 (Blocked): ads",
        ],
        "{text}"
    );
}

#[test]
fn an_alias_is_followed_to_its_target_and_the_target_is_judged() {
    let dir = store(&[
        ("own", Format::Dnsmasq, "cname=old.example.com,new.example.net\n"),
        ("ads", Format::Adblock, "||new.example.net^\n"),
    ]);
    let text = explained(&dir, "old.example.com", "TXT");
    for line in [
        "  => 5 alias             alias exact old.example.com -> new.example.net  [`own`]",
        "  => 6 block by name     block subtree new.example.net  [`ads`]",
        "  Extended DNS Error 15 (Blocked): ads",
    ] {
        assert!(text.contains(&format!("{line}\n")), "{line}\nis not in\n{text}");
    }
}

#[test]
fn a_loop_of_aliases_ends() {
    let dir =
        store(&[("own", Format::Dnsmasq, "cname=a.example.com,b.example.com\ncname=b.example.com,a.example.com\n")]);
    let text = explained(&dir, "a.example.com", "A");
    assert!(text.contains("the chain of aliases is a loop or too long\n"), "{text}");
    assert!(text.contains("  SERVFAIL\n"), "{text}");
}

#[test]
fn a_name_that_no_rule_speaks_of_goes_to_the_default_upstream() {
    let dir = store(&[("ads", Format::Plain, "ads.example.com\n")]);
    let text = explained(&dir, "www.example.com", "AAAA");
    assert!(text.contains("  no rule decides: upstream group `default` (none is configured)\n"), "{text}");
    assert!(text.contains("no upstream server is configured"), "{text}");
    let text = explained(&dir, "localhost", "A");
    assert!(text.contains("  => 1 local record or special-use name\n"), "{text}");
}

#[test]
fn an_address_is_explained_by_the_rules_on_answers_that_hold_it() {
    let dir = store(&[
        ("drop", Format::Cidr, "198.51.100.0/24 ; SBL1\n2001:db8:bad::/48\n"),
        ("zone", Format::Rpz, "$ORIGIN rpz.example.\n32.7.100.51.198.rpz-ip CNAME rpz-passthru.\n"),
        ("own", Format::Dnsmasq, "alias=203.0.113.7,203.0.113.8\n"),
    ]);
    let text = explained(&dir, "198.51.100.9", "A");
    let lines: Vec<&str> = text.lines().collect();
    assert_eq!(
        lines,
        [
            "198.51.100.9 in an upstream's answer to 192.0.2.7, generation 1",
            "  its policy is `default`",
            "",
            "198.51.100.9",
            "  => 6 block by name     block address 198.51.100.0/24  [`drop`]",
            "  an answer with it is blocked by list `drop`",
        ]
    );
    let spared = explained(&dir, "198.51.100.7", "A");
    assert!(spared.contains("=> 4 allow             allow address 198.51.100.7/32  [`zone`]"), "{spared}");
    assert!(explained(&dir, "2001:db8:bad::1", "A").contains("block address 2001:db8:bad::/48"));
    let rewritten = explained(&dir, "203.0.113.7", "A");
    assert!(rewritten.ends_with("  no rule speaks of it\n  it is replaced by 203.0.113.8\n"), "{rewritten}");
}

fn entry(seq: u64, list: &str, change: LiveChange, reason: &str) -> LiveEntry {
    let (list, reason) = (list.to_owned(), reason.to_owned());
    LiveEntry { seq, change, list, created_s: 1_709_208_000, expires_s: (seq == 8).then_some(1_767_225_599), reason }
}

fn live_rule(kind: Kind, scope: Scope, key: RuleKey) -> LiveChange {
    LiveChange::Rule(Rule { class: Class::plain(kind, scope, 0), key })
}

#[test]
fn live_rules_and_what_they_void_are_told_with_their_entries() {
    let dir = store(&[("ads", Format::Adblock, "||ads.example.com^\n/^ads\\.ex/\n||c.example.com^\n")]);
    let name = |text: &str| -> Name { text.parse().unwrap() };
    let entries = [
        entry(
            7,
            "ads",
            LiveChange::Void(Void::Name { name: name("ads.example.com"), scope: Scope::Subtree, kind: Kind::Block }),
            "",
        ),
        entry(
            8,
            "live",
            live_rule(
                Kind::Alias,
                Scope::Exact,
                RuleKey::Name { name: name("ads.example.com"), target: Some(name("c.example.com")) },
            ),
            "ticket 5",
        ),
        entry(9, "ads", LiveChange::Void(Void::Pattern { regex: "^ads\\.ex".to_owned(), kind: Kind::Block }), ""),
        entry(
            10,
            "live",
            live_rule(Kind::Block, Scope::Pattern, RuleKey::Pattern { regex: "ads".to_owned(), target: None }),
            "",
        ),
    ];
    let text = explained_with(&dir, "ads.example.com", "A", &entries);
    let lines: Vec<&str> = text.lines().collect();
    assert_eq!(
        lines[3..9],
        [
            "ads.example.com",
            "  => 5 alias             alias exact ads.example.com -> c.example.com  [`live`]  (overlay entry 8, added 2024-02-29 12:00:00 UTC, until 2025-12-31 23:59:59 UTC, reason: ticket 5)",
            "     7 block by pattern  block pattern /ads/  [`live`]  (overlay entry 10, added 2024-02-29 12:00:00 UTC)",
            "     6 block by name     block subtree ads.example.com  [`ads`]  not applied: it was removed by hand  (overlay entry 7, made 2024-02-29 12:00:00 UTC)",
            "     7 block by pattern  block pattern /^ads\\.ex/  [`ads`]  not applied: it was removed by hand  (overlay entry 9, made 2024-02-29 12:00:00 UTC)",
            "  alias of list `live`",
        ]
    );
    assert!(lines.contains(&"c.example.com") && lines.contains(&"  blocked by list `ads`"), "{text}");
    assert!(text.contains("  answer: ads.example.com. 60 IN A 0.0.0.0\n"), "{text}");
}

#[test]
fn live_rules_on_addresses_and_on_the_root_name_are_told_too() {
    let dir = store(&[(
        "ads",
        Format::Rpz,
        "$TTL 60\n@ SOA localhost. root.localhost. 1 3600 600 86400 60\n NS localhost.\n24.0.2.0.192.rpz-ip CNAME .\n",
    )]);
    let net = "192.0.2.0/24".parse().unwrap();
    let entries = [
        entry(1, "ads", LiveChange::Void(Void::Address { net, kind: Kind::Block }), "too wide"),
        entry(
            2,
            "live",
            live_rule(
                Kind::Block,
                Scope::Address,
                RuleKey::Address { net: "192.0.2.7/32".parse().unwrap(), target: None },
            ),
            "",
        ),
        entry(
            3,
            "live",
            live_rule(Kind::Block, Scope::Subtree, RuleKey::Name { name: Name::ROOT, target: None }),
            "lock-down",
        ),
    ];
    let text = explained_with(&dir, "192.0.2.7", "A", &entries);
    assert!(text.contains("block address 192.0.2.7/32  [`live`]  (overlay entry 2, added"), "{text}");
    assert!(
        text.contains(
            "not applied: it was removed by hand  (overlay entry 1, made 2024-02-29 12:00:00 UTC, reason: too wide)"
        ),
        "{text}"
    );
    let text = explained_with(&dir, "www.example.com", "A", &entries);
    assert!(text.contains("=> 6 block by name     block subtree .  [`live`]  (overlay entry 3, added"), "{text}");
}
