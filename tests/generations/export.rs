//! `export`: what it writes reads back to the same verdicts, and what it cannot write is told.

use std::path::Path;
use std::process::Command;

use serde_json::Value;

use crate::site::{Folder, copy, done};

/// A store with rules of every kind.
fn folder() -> Folder {
    let folder = Folder::new();
    copy(&Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/formats/v1"), &folder.path("store"));
    folder
}

/// What `explain` says of a name, less what differs between two stores of one meaning: the rule's list and class.
fn verdict(folder: &Folder, store: &str, arguments: &[&str]) -> Vec<String> {
    let explained = folder.told(&[&["explain", "--store", store], arguments].concat());
    let words = ["blocked", "alias of", "allowed", "forwarded", "no rule decides", "an answer with it"];
    let mut verdicts: Vec<String> = explained
        .lines()
        .filter_map(|line| words.iter().find(|word| line.trim_start().starts_with(**word)))
        .map(|word| (*word).to_owned())
        .collect();
    // The names that aliases led to.
    verdicts.extend(explained.lines().filter(|line| !line.is_empty() && !line.contains(' ')).map(str::to_owned));
    verdicts
}

const NAMES: [&[&str]; 16] = [
    &["host1.plain.example"],
    &["a.host1.plain.example"],
    &["a.below.example"],
    &["below.example"],
    &["dnsmasq.example"],
    &["a.b.dnsmasq.example"],
    &["subtree.example"],
    &["a.subtree.example"],
    &["nxdomain.example"],
    &["a.nxdomain.example"],
    &["a.wild.example"],
    &["wild.example"],
    &["xn--bcher-kva.example"],
    &["under_score.example"],
    &["walled.example.org"],
    &["unlisted.example"],
];

#[test]
fn names_that_are_exported_as_a_list_block_the_same_when_they_are_read_back() {
    for (format, file) in [("plain", "out.txt"), ("hosts", "out.hosts")] {
        let folder = folder();
        let exported = folder.on_store(&["export", "--format", format, "--kind", "block", "--output", file]);
        assert_eq!((exported.code, &*exported.out), (Some(0), ""), "{exported:?}");
        for told in [
            "2 left out: patterns",
            "left out: rules with a condition",
            "1 left out: important rules",
            "2 left out: rules with records of their own",
            "1 left out: rules that send clients to TCP",
            "rules with a block mode of their own are read back with that of their list",
        ] {
            assert!(exported.err.contains(told), "{told} is not in\n{}", exported.err);
        }
        assert!(!folder.path(&format!("{file}.partly")).exists());
        folder.told(&["build", "--store", "again", "--list", &format!("{format}:{file}")]);
        for name in NAMES {
            assert_eq!(verdict(&folder, "again", name), verdict(&folder, "store", name), "{format}: {name:?}");
        }
        assert_eq!(
            verdict(&folder, "again", &["important.example"]),
            ["no rule decides", "important.example", "answer"],
            "it was told"
        );
    }
}

#[test]
fn allow_rules_are_exported_alone() {
    let folder = folder();
    let exported = folder.on_store(&["export", "--format", "plain", "--kind", "allow"]);
    let mut lines: Vec<&str> = exported.out.lines().collect();
    lines.sort_unstable();
    assert_eq!(lines, ["*.good.subtree.example", "good.subtree.example", "pass.example"]);
}

#[test]
fn a_policy_zone_reads_back_to_the_same_verdicts() {
    let folder = folder();
    let exported = folder.on_store(&["export", "--format", "rpz", "--output", "out.rpz"]);
    assert_eq!(exported.code, Some(0), "{exported:?}");
    for told in ["3 left out: patterns", "1 left out: forwarding rules", "5 left out: address rewrites"] {
        assert!(exported.err.contains(told), "{told} is not in\n{}", exported.err);
    }
    let zone = folder.read("out.rpz");
    for line in [
        "nodata.example CNAME *.",
        "drop.example CNAME rpz-drop.",
        "tcp.example CNAME rpz-tcp-only.",
        "pass.example CNAME rpz-passthru.",
        "*.wild.example CNAME .",
        "walled.example CNAME garden.example.",
        "*.walled.example CNAME *.garden.example.",
        "data.example 120 IN A 192.0.2.8",
        "data.example 120 IN TXT \"some text\"",
        "24.0.100.51.198.rpz-ip CNAME .",
        "32.1.113.0.203.rpz-ip CNAME rpz-passthru.",
        "24.0.2.0.192.rpz-client-ip CNAME rpz-passthru.",
    ] {
        assert!(zone.lines().any(|there| there == line), "{line} is not in\n{zone}");
    }
    folder.told(&["build", "--store", "again", "--list", "rpz:out.rpz"]);
    let more: [&[&str]; 12] = [
        &["nodata.example"],
        &["drop.example"],
        &["tcp.example"],
        &["pass.example"],
        &["walled.example"],
        &["b.walled.example"],
        &["data.example", "TXT"],
        &["good.subtree.example"],
        &["portal.example"],
        &["host2.plain.example", "--client", "192.0.2.7"],
        &["198.51.100.77"],
        &["203.0.113.1"],
    ];
    for name in NAMES.into_iter().chain(more) {
        assert_eq!(verdict(&folder, "again", name), verdict(&folder, "store", name), "{name:?}");
    }
    // What was exported once is exported so for ever.
    folder.told(&["export", "--store", "again", "--format", "rpz", "--output", "twice.rpz"]);
    let sorted = |text: String| {
        let mut lines: Vec<String> = text.lines().filter(|line| !line.contains(" SOA ")).map(str::to_owned).collect();
        lines.sort();
        lines
    };
    assert_eq!(sorted(folder.read("twice.rpz")), sorted(zone));
}

#[test]
fn other_programs_take_the_policy_zone() {
    let folder = folder();
    folder.told(&["export", "--store", "store", "--format", "rpz", "--output", "out.rpz"]);
    let zone = folder.path("out.rpz").display().to_string();
    let mut checked = 0;
    for program in ["nsd-checkzone", "named-checkzone"] {
        let path = std::env::var_os("PATH").unwrap_or_default();
        let mut folders = std::env::split_paths(&path).chain(["/usr/sbin".into()]);
        let Some(program) = folders.find_map(|dir| Some(dir.join(program)).filter(|path| path.exists())) else {
            continue;
        };
        let said = done(Command::new(&program).args(["rpz.invalid", &zone]));
        assert_eq!(said.code, Some(0), "{program:?}: {said:?}\n{}", folder.read("out.rpz"));
        checked += 1;
    }
    assert!(checked > 0, "neither nsd-checkzone nor named-checkzone is installed; `make test` installs nsd");
}

#[test]
fn json_lines_hold_every_rule_with_all_that_it_says() {
    let folder = folder();
    let exported = folder.on_store(&["export"]);
    let rows: Vec<Value> = exported.out.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(rows.len(), 53 + 5, "rules and address rewrites");
    assert_eq!(exported.err, "generation 1: 58 rules exported\n", "nothing is left out");
    let row = |key: &str| rows.iter().find(|row| row["key"] == key).unwrap_or_else(|| panic!("no {key}"));
    assert_eq!(row("typed.example")["condition"]["types"][0], "TXT");
    assert_eq!(row("denied.example")["condition"]["names_not"][0], "spared.denied.example");
    assert_eq!(row("rewritten.example")["answer"][0]["data"], "192.0.2.7");
    assert_eq!(row("gone.example")["answer"], "nxdomain");
    assert_eq!(row("forwarded.example")["servers"][0], "192.0.2.53:5353");
    assert_eq!(row("walled.example")["target"], "garden.example");
    assert_eq!((&row("^ads[0-9]+\\.")["scope"], &row("^ads[0-9]+\\.")["list"]), (&"pattern".into(), &"own".into()));
    assert_eq!(
        (&row("198.51.100.0/24")["scope"], &row("important.example")["important"]),
        (&"address".into(), &true.into())
    );
    assert_eq!(
        (&row("203.0.113.5")["kind"], &row("203.0.113.5")["target"]),
        (&"ip-rewrite".into(), &"192.0.2.5".into())
    );
    let keys = |arguments: &[&str]| {
        let exported = folder.on_store(&[&["export"], arguments].concat());
        exported.out.lines().count()
    };
    assert_eq!(keys(&["--list", "plain"]), 27);
    assert_eq!(keys(&["--list", "plain", "--list", "own"]), 38);
    assert_eq!(keys(&["--scope", "pattern"]), 3);
    assert_eq!(keys(&["--kind", "alias", "--kind", "ip-rewrite"]), 3 + 5);
    let unknown = folder.on_store(&["export", "--list", "other"]);
    assert_eq!(unknown.code, Some(2));
    assert!(unknown.err.contains("has no list `other`; it has `own`, `policy`, `old`, `plain`"), "{}", unknown.err);
}

#[test]
fn csv_reads_back_with_as_many_columns_in_each_row() {
    let folder = folder();
    folder.told(&["export", "--store", "store", "--format", "csv", "--output", "out.csv"]);
    let text = folder.read("out.csv");
    let mut reader = csv::Reader::from_reader(text.as_bytes());
    let columns: Vec<String> = reader.headers().unwrap().iter().map(str::to_owned).collect();
    assert_eq!(&columns[..4], ["kind", "scope", "key", "target"]);
    // Not flexible: a row with more or fewer cells is an error.
    let rows: Vec<csv::StringRecord> = reader.records().collect::<Result<_, _>>().unwrap();
    assert_eq!(rows.len(), 58);
    let row = |key: &str| rows.iter().find(|row| &row[2] == key).unwrap();
    let cell = |key: &str, column: &str| row(key)[columns.iter().position(|known| known == column).unwrap()].to_owned();
    let condition: Value = serde_json::from_str(&cell("client.example", "condition")).unwrap();
    assert_eq!(condition["clients"][0], "192.0.2.0/24");
    let answer: Value = serde_json::from_str(&cell("data.example", "answer")).unwrap();
    assert_eq!(answer.as_array().unwrap().len(), 2);
    assert_eq!(cell("^banner\\..*\\.example$", "kind"), "block");
    assert_eq!(cell("203.0.113.5", "target"), "192.0.2.5");
}

#[test]
fn an_export_that_fails_leaves_no_file_and_the_one_before() {
    let folder = folder();
    folder.write("out.txt", "from before\n");
    let file = folder.file(1, "dns_shard_01.db");
    let mut octets = std::fs::read(&file).unwrap();
    // The pages of rules lie behind the schema's.
    octets[4096 * 2..].fill(0xff);
    std::fs::write(&file, octets).unwrap();
    let failed = folder.on_store(&["export", "--output", "out.txt"]);
    assert_eq!(failed.code, Some(1), "{failed:?}");
    assert_eq!(folder.read("out.txt"), "from before\n");
    assert!(!folder.path("out.txt.partly").exists());
}
