//! Explanations of small stores, word by word.

use super::*;
use crate::build::patterns::Compiler;
use crate::build::{self, ListSpec, Options};
use crate::decide::local::{LocalRecords, Served};
use crate::lists::Format;

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
        &Options { shards: 2, refused: None, compiler: Compiler::Here, fold_overlay: false },
        &mut |_| {},
    )
    .unwrap();
    dir
}

fn explained(dir: &tempfile::TempDir, name: &str, rtype: &str) -> String {
    let question = Question {
        name: parse_subject(name).unwrap().name,
        address: parse_subject(name).unwrap().address,
        rtype: parse_type(rtype).unwrap(),
        client: "192.0.2.7".parse().unwrap(),
    };
    let local =
        LocalRecords::new(Vec::new(), Served { special_use_names: true, reverse_zones: true, canary_domains: true });
    let settings = Settings { local, ede_text: true, ..Settings::default() };
    explain(&dir.path().join("store"), settings, false, &question).unwrap()
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
