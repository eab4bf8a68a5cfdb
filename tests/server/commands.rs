//! `build`, `check` and `explain` as an operator sees them: what they print, and how they end.

use std::io::Write;

use flate2::Compression;
use flate2::write::GzEncoder;

use crate::client::{ask, question};
use crate::corewall::Site;

fn site() -> Site {
    Site::new().list("rules", "adblock", "", "||blocked.example.org^\n")
}

/// The number of the line that begins so, from 1.
fn line_of(site: &Site, start: &str) -> usize {
    1 + site.config().lines().position(|line| line.starts_with(start)).unwrap()
}

/// `check` must end with code 2 and name the line on which `key` stands, and all of `parts`.
fn check_fails(site: &Site, key: &str, parts: &[&str]) {
    let done = site.run(&["check"]);
    assert_eq!(done.code, Some(2), "{key}: {done:?}");
    let place = format!("corewall.toml:{}:", line_of(site, key));
    assert!(done.err.contains(&place), "`{place}` is not in {done:?}");
    for part in parts {
        assert!(done.err.contains(part), "`{part}` is not in {done:?}");
    }
}

#[test]
fn check_passes_what_is_right_and_sums_it_up() {
    let site = site();
    site.build();
    for arguments in [&["check"][..], &["check", "--full"]] {
        let done = site.run(arguments);
        assert_eq!((done.code, &*done.err), (Some(0), ""), "{done:?}");
        assert!(done.out.contains("generation 1") && done.out.contains("rules"), "{done:?}");
    }
}

#[test]
fn check_names_file_line_and_remedy_of_an_unknown_key() {
    let site = site().toml("[block]\nmod = \"zero\"");
    check_fails(&site, "mod", &["unknown key `mod`", "`mode`"]);
}

#[test]
fn check_names_file_line_and_remedy_of_bad_values() {
    for (key, value, said) in [
        ("cores", "\"7-3\"", "3-7"),
        ("listen", "[\"127.0.0.1\"]", "127.0.0.1:5353"),
        ("on_store_error", "\"panic\"", "servfail"),
        ("upstream_timeout_ms", "5", "10"),
        ("clients_allowed", "[\"10.0.0.0/33\"]", "192.0.2.0/24"),
        ("mmap", "\"yes\"", "boolean"),
        ("log", "\"loud\"", "debug"),
    ] {
        check_fails(&site().option(key, value), key, &[said]);
    }
}

#[test]
fn check_names_file_line_and_remedy_of_text_that_is_not_toml() {
    let site = site();
    site.write("corewall.toml", format!("cores = \"auto\"\n\nlisten = [\n{}", "store = 1\n"));
    let done = site.start_as_written(&["check"]).finish();
    assert_eq!(done.code, Some(2), "{done:?}");
    assert!(done.err.contains("corewall.toml:") && done.err.contains("not TOML"), "{done:?}");
}

#[test]
fn check_tells_which_files_are_missing() {
    let site = site();
    site.build();
    let site = site.list_file("absent", "hosts", "");
    check_fails(&site, "path = \"absent\"", &["absent", "No such file", "check the path"]);
    let site = Site::new().option("store", "\"elsewhere\"");
    check_fails(&site, "store = ", &["elsewhere", "corewall build"]);
    let gone = site.start_as_written(&["check", "--full"]);
    assert_eq!(gone.finish().code, Some(2));
    std::fs::remove_file(site.path("corewall.toml")).unwrap();
    let done = site.start_as_written(&["check"]).finish();
    assert_eq!(done.code, Some(2));
    assert!(done.err.contains("corewall.toml") && done.err.contains("cannot read"), "{done:?}");
}

#[test]
fn wrong_usage_ends_with_code_2() {
    let site = site();
    for arguments in [&["frobnicate"][..], &["build", "--shards", "0"], &["explain"], &["build", "--list", "hosts:x"]] {
        assert_eq!(site.run(arguments).code, Some(2), "{arguments:?}");
    }
}

#[test]
fn the_report_of_a_build_names_refused_lines_by_file_and_line() {
    let text = "fine.example.org\n# a comment\nbad..example.org\nco.uk\nfine.example.org\n";
    let site = Site::new().list("mixed", "plain", "subtree = true", text);
    let report = site.build();
    let path = site.path("mixed");
    for part in [
        format!("{}:3:", path.display()),
        format!("{}:4:", path.display()),
        "public suffix".to_owned(),
        "1  block subtree".to_owned(),
        "1  duplicates".to_owned(),
        "generation 1 published: 1 rules in 16 shards".to_owned(),
        "refused 2".to_owned(),
    ] {
        assert!(report.contains(&part), "`{part}` is not in\n{report}");
    }
    let server = site.serve();
    assert!(ask(server.address(), &question("fine.example.org", "A")).is_zero());
    assert_eq!(ask(server.address(), &question("co.uk", "A")).rcode, 2);
    server.stop();
}

#[test]
fn the_report_of_a_build_comes_as_json_too() {
    let site = site();
    let done = site.run(&["build", "--json"]);
    let report: serde_json::Value = serde_json::from_str(&done.out).unwrap();
    assert_eq!((done.code, report["rules"].as_u64(), report["generation"].as_u64()), (Some(0), Some(1), Some(1)));
    assert_eq!(report["lists"][0]["name"], "rules");
}

fn gzip(text: &str) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::default());
    encoder.write_all(text.as_bytes()).unwrap();
    encoder.finish().unwrap()
}

#[test]
fn compressed_lists_are_read() {
    let names =
        |from: u32| -> String { (from..from + 5_000).map(|number| format!("n{number}.example.org\n")).collect() };
    let site = Site::new().list_file("packed.gz", "plain", "").list_file("packed.zst", "plain", "");
    // Two members, as `cat a.gz b.gz` gives.
    site.write("packed.gz", [gzip(&names(0)), gzip(&names(5_000))].concat());
    site.write("packed.zst", zstd::encode_all(names(10_000).as_bytes(), 3).unwrap());
    let report = site.build();
    assert!(report.contains("15000 rules"), "{report}");
    let server = site.serve();
    for number in [0, 4_999, 5_000, 9_999, 10_000, 14_999] {
        assert!(ask(server.address(), &question(&format!("n{number}.example.org"), "A")).is_zero(), "{number}");
    }
    assert_eq!(ask(server.address(), &question("n15000.example.org", "A")).rcode, 2);
    server.stop();
}

#[test]
fn a_damaged_list_is_an_error_and_the_old_generation_stays() {
    let names: String = (0..50_000).map(|number| format!("n{number}.example.org\n")).collect();
    let site = Site::new().list_file("packed", "plain", "");
    site.write("packed", gzip("old.example.org\n"));
    let server = site.build_and_serve();
    let whole = gzip(&names);
    let zstd = zstd::encode_all(names.as_bytes(), 3).unwrap();
    let mut flipped = whole.clone();
    flipped[whole.len() / 2] ^= 0x10;
    for damaged in [&whole[..whole.len() / 2], &whole[..whole.len() - 4], &flipped, &zstd[..zstd.len() / 2]] {
        site.write("packed", damaged);
        let done = site.run(&["build"]);
        assert_eq!(done.code, Some(1), "{done:?}");
        assert!(done.err.contains("error: ") && done.err.contains("packed"), "{done:?}");
        assert!(!done.out.contains("published"), "{done:?}");
        assert!(server.reload().contains("generation 1"));
        assert!(ask(server.address(), &question("old.example.org", "A")).is_zero());
        assert_eq!(ask(server.address(), &question("n1.example.org", "A")).rcode, 2);
    }
    site.write("packed", &whole);
    assert!(site.build().contains("50000 rules"));
    server.reload();
    assert!(ask(server.address(), &question("n49999.example.org", "A")).is_zero());
    server.stop();
}

#[test]
fn a_missing_list_is_an_error_of_the_build() {
    let site = site().list_file("absent", "hosts", "");
    let done = site.run(&["build"]);
    assert_eq!(done.code, Some(1), "{done:?}");
    assert!(done.err.contains("absent"), "{done:?}");
    assert!(!site.path("store").join("current").exists());
}

#[test]
fn lists_may_come_on_the_command_line() {
    let site = site();
    site.write("hosts.txt", "0.0.0.0 one.example.org\n");
    let list = format!("hosts:{}", site.path("hosts.txt").display());
    let store = site.path("store");
    let mut command = site.command(crate::corewall::PROGRAM);
    command.args(["build", "--list", &list, "--shards", "3", "--store"]).arg(&store);
    let done = crate::process::Process::start(&mut command).finish();
    assert_eq!(done.code, Some(0), "{done:?}");
    assert!(done.out.contains("1 rules in 3 shards"), "{done:?}");
    let server = site.serve();
    assert!(ask(server.address(), &question("one.example.org", "A")).is_zero());
    server.stop();
}

#[test]
fn explain_names_the_winner_its_list_and_its_tier_without_a_server() {
    let site = Site::new()
        .list("mine", "adblock", "", "@@||fine.blocked.example.org^\n/^ads?[0-9]+\\./\n")
        .list(
            "theirs",
            "hosts",
            "category = \"malware\"",
            "0.0.0.0 blocked.example.org\n0.0.0.0 fine.blocked.example.org\n",
        )
        .list("aliases", "dnsmasq", "", "cname=old.example.org,new.example.org\n");
    site.build();
    for (name, parts) in [
        ("blocked.example.org", &["block", "theirs", "malware"][..]),
        ("fine.blocked.example.org", &["allow", "mine", "theirs"]),
        ("ads7.example.org", &["block", "pattern", "mine"]),
        ("old.example.org", &["alias", "new.example.org", "aliases"]),
        ("localhost", &["local"]),
        ("nobody.example.org", &["upstream"]),
    ] {
        let done = site.run(&["explain", name]);
        assert_eq!(done.code, Some(0), "{name}: {done:?}");
        for part in parts {
            assert!(done.out.to_lowercase().contains(part), "{name}: `{part}` is not in\n{}", done.out);
        }
    }
    assert_eq!(site.run(&["explain", "blocked.example.org", "TXT"]).code, Some(0));
    for wrong in [&["explain", "bad..name"][..], &["explain", "example.org", "NOTYPE"]] {
        assert_eq!(site.run(wrong).code, Some(2), "{wrong:?}");
    }
}
