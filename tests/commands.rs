//! The program as an operator meets it: output, exit codes, and what is left on the disk.

use std::io::Write;
use std::os::fd::AsRawFd;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use corewall::build::patterns::SUBCOMMAND;
use corewall::serve::patterns::PatternDatabase;
use corewall_sharding::publish::{Generation, Store};
use corewall_sharding::rule::{Kind, Scope};
use serde_json::Value;

fn corewall(arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_corewall")).args(arguments).output().unwrap()
}

fn stdout(output: &Output) -> String {
    String::from_utf8(output.stdout.clone()).unwrap()
}

fn stderr(output: &Output) -> String {
    String::from_utf8(output.stderr.clone()).unwrap()
}

struct Folder(tempfile::TempDir);

impl Folder {
    fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    fn file(&self, name: &str, content: impl AsRef<[u8]>) -> String {
        let path = self.0.path().join(name);
        std::fs::write(&path, content).unwrap();
        path.display().to_string()
    }

    fn store(&self) -> String {
        self.0.path().join("store").display().to_string()
    }

    fn generation(&self) -> Generation {
        Store::open(Path::new(&self.store())).unwrap().current().unwrap()
    }

    /// Builds from one list; gives the report.
    fn build(&self, list: &str, more: &[&str]) -> Value {
        let store = self.store();
        let output = corewall(&[&["build", "--store", &store, "--list", list, "--json"], more].concat());
        assert!(output.status.success(), "{}", stderr(&output));
        assert_eq!(stderr(&output), "", "nothing is drawn when standard error is no terminal");
        serde_json::from_slice(&output.stdout).unwrap()
    }
}

fn kinds(generation: &Generation, name: &str) -> Vec<(Kind, Scope)> {
    let mut found = Vec::new();
    for shard in &mut generation.open_shards(false).unwrap() {
        shard.classes_of(name, &mut |class| found.push(class)).unwrap();
    }
    found.iter().map(|&class| &generation.classes[class as usize]).map(|class| (class.kind, class.scope)).collect()
}

#[test]
fn a_build_ends_with_a_report_and_a_store_that_can_be_checked_and_explained() {
    let folder = Folder::new();
    let list = folder.file("ads.txt", "ads.example.com\nbad name\nads.example.com\n");
    let config = folder.file(
        "corewall.toml",
        "store = \"store\"\n\n[block]\nede_text = true\n\n[[list]]\nname = \"ads\"\npath = \"ads.txt\"\nformat = \"plain\"\n",
    );
    let output = corewall(&["build", "--config", &config, "--shards", "3"]);
    assert!(output.status.success(), "{}", stderr(&output));
    let report = stdout(&output);
    for line in [
        format!("ads (plain, {list}): 3 lines"),
        "           1  block exact".to_owned(),
        "           1  duplicates".to_owned(),
        format!("    {list}:2: several words instead of one name: bad name"),
        "generation 1 published: 1 rules in 3 shards".to_owned(),
    ] {
        assert!(report.lines().any(|shown| shown == line), "{line}\nis not in\n{report}");
    }
    let output = corewall(&["check", "--full", "--config", &config]);
    assert!(output.status.success(), "{}", stderr(&output));
    assert!(stdout(&output).contains("1 rules in 3 shards"), "{}", stdout(&output));
    let output = corewall(&["explain", "ADS.example.com", "AAAA", "--config", &config]);
    assert!(output.status.success(), "{}", stderr(&output));
    assert!(
        stdout(&output).contains("=> 6 block by name     block exact ads.example.com  [`ads`]"),
        "{}",
        stdout(&output)
    );
    assert!(stdout(&output).contains("answer: ads.example.com. 60 IN AAAA ::"), "{}", stdout(&output));
}

#[test]
fn many_patterns_are_compiled_in_a_process_of_their_own() {
    let folder = Folder::new();
    let mut text: String = (0..200).map(|number| format!("^ads{number}[a-z]+\\.example\n")).collect();
    text += "^(?!www\\.)tracker\\.\n^ab{1,40000}c\n";
    let report = folder.build(&format!("regex:{}", folder.file("regex.list", text)), &[]);
    assert_eq!(report["patterns"]["plain"], 200);
    assert_eq!(report["patterns"]["confirmed"], 1);
    assert_eq!(report["lists"][0]["first_refused"][0]["place"], "202");
    let generation = folder.generation();
    assert_eq!(generation.patterns.len(), 201);
    // Loaded as they were compiled: the child's numbers are the store's.
    assert_eq!(PatternDatabase::load(&generation).unwrap().recompiled(), None);
}

/// Takes several seconds of CPU time to compile.
const HOG: &str = "(.{1,500}a){30}";

#[test]
fn a_hostile_pattern_costs_its_own_line_and_not_the_build() {
    let folder = Folder::new();
    let list = folder.file("hostile.list", format!("^first\\.\n{HOG}\n^last\\.\n"));
    let good = folder.file("good.list", "^good[0-9]+\\.\n");
    // A second of CPU time for each process, so that the test need not wait for as long as a build may take.
    let output = Command::new("sh")
        .args(["-c", "ulimit -t 1; exec \"$@\"", "sh", env!("CARGO_BIN_EXE_corewall"), "build", "--json"])
        .args(["--shards", "1", "--store", &folder.store()])
        .args(["--list", &format!("regex:{list}"), "--list", &format!("regex:{good}")])
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", stderr(&output));
    let report: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!((&report["lists"][0]["refused"], &report["lists"][1]["refused"]), (&1.into(), &0.into()));
    let refused = std::fs::read_to_string(report["refused_file"].as_str().unwrap()).unwrap();
    assert!(refused.starts_with(&format!("{list}:2: compiling it took more than 4096 MiB of memory or ")), "{refused}");
    assert!(refused.ends_with(&format!(": {HOG}\n")), "{refused}");
    let generation = folder.generation();
    let regexes: Vec<&str> = generation.patterns.iter().map(|row| row.regex.as_str()).collect();
    assert_eq!(regexes, ["^first\\.", "^last\\.", "^good[0-9]+\\."]);
    assert_eq!(PatternDatabase::load(&generation).unwrap().recompiled(), None);
}

#[test]
fn a_build_whose_program_was_replaced_meanwhile_still_compiles_its_patterns() {
    let folder = Folder::new();
    let program = folder.0.path().join("corewall");
    // Written by another process: a descriptor for writing that a test beside this one inherits would keep the kernel from
    // running it (ETXTBSY).
    let copied = Command::new("cp").arg(env!("CARGO_BIN_EXE_corewall")).arg(&program).status().unwrap();
    assert!(copied.success());
    let open = std::fs::File::open(&program).unwrap();
    std::fs::remove_file(&program).unwrap();
    // As after an upgrade: the program that runs has no name any more, or another one has it.
    let list = format!("regex:{}", folder.file("regex.list", "^ads[0-9]+\\.\n"));
    let output = Command::new(format!("/proc/{}/fd/{}", std::process::id(), open.as_raw_fd()))
        .args(["build", "--store", &folder.store(), "--list", &list])
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", stderr(&output));
    assert_eq!(folder.generation().patterns.len(), 1);
}

#[test]
fn the_process_that_compiles_is_ended_by_its_limits() {
    let child = |cpu_s: &str, wall_s: &str| {
        Command::new(env!("CARGO_BIN_EXE_corewall"))
            .args([SUBCOMMAND, "--cpu-s", cpu_s, "--wall-s", wall_s])
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap()
    };
    // Its input never comes, for this end of the pipe stays open.
    let mut waiting = child("60", "1");
    let _input = waiting.stdin.take();
    assert_eq!(waiting.wait().unwrap().signal(), Some(libc::SIGALRM));
    let wanted = format!("[{{\"regex\":\"{HOG}\",\"may_match_empty\":false}}]");
    let mut busy = child("1", "60");
    busy.stdin.take().unwrap().write_all(wanted.as_bytes()).unwrap();
    // The soft limit is the hard one: no SIGXCPU comes first.
    assert_eq!(busy.wait().unwrap().signal(), Some(libc::SIGKILL));
}

#[test]
fn wrong_usage_and_configuration_end_with_2_and_failures_with_1() {
    let folder = Folder::new();
    let store = folder.store();
    let list = format!("plain:{}", folder.file("a.txt", "a.example.com\n"));
    let bad_key = folder.file("bad.toml", "mmap = true\nlisen = \"127.0.0.1:53\"\n");
    let bad_core = folder.file("core.toml", "\ncores = [1023]\n");
    let bad_list = folder.file("list.toml", "\n[[list]]\nname = \"a\"\npath = \"gone.txt\"\nformat = \"plain\"\n");
    for (arguments, code, message) in [
        (vec!["build"], 2, "--config".to_owned()),
        (vec!["build", "--list", &list], 2, "--store".to_owned()),
        (vec!["build", "--store", &store, "--list", "nonsense:a.txt"], 2, "unknown list format".to_owned()),
        (vec!["build", "--store", &store, "--list", &list, "--shards", "0"], 2, "--shards".to_owned()),
        (
            vec!["build", "--config", &bad_key],
            2,
            format!("error: {bad_key}:2: unknown key `lisen`; did you mean `listen`?\n"),
        ),
        (
            vec!["check", "--config", &bad_key],
            2,
            format!("error: {bad_key}:2: unknown key `lisen`; did you mean `listen`?\n"),
        ),
        (vec!["check", "--config", "/no/such.toml"], 2, "error: /no/such.toml: cannot read: ".to_owned()),
        (vec!["check", "--config", &bad_core], 2, format!("error: {bad_core}:2: cores: cannot use core 1023: ")),
        (vec!["serve", "--config", &bad_core], 2, "error: cores: cannot use core 1023: ".to_owned()),
        (vec!["check", "--config", &bad_list], 2, format!("error: {bad_list}:4: list.path: ")),
        (
            vec!["explain", "a.example.com", "--store", &store],
            2,
            "is not a store; make one with `corewall build".to_owned(),
        ),
        (vec!["explain", "a..b", "--store", &store], 2, "empty label".to_owned()),
        (vec!["explain", "a.b", "NOTYPE", "--store", &store], 2, "no record type".to_owned()),
        (
            vec!["build", "--store", &store, "--list", "plain:/no/such.txt"],
            1,
            "error: /no/such.txt: cannot read list".to_owned(),
        ),
        (vec!["build", "--store", "/proc/no/store", "--list", &list], 1, "error: /proc/no".to_owned()),
    ] {
        let output = corewall(&arguments);
        assert_eq!(output.status.code(), Some(code), "{arguments:?}: {}", stderr(&output));
        assert!(stderr(&output).contains(&message), "{arguments:?}: {}", stderr(&output));
        assert_eq!(stdout(&output), "", "{arguments:?}");
    }
    assert!(!Path::new(&store).join("current").exists());
}

#[test]
fn a_store_whose_filter_is_damaged_is_told_by_check() {
    let folder = Folder::new();
    folder.build(&format!("plain:{}", folder.file("a.txt", "a.example.com\n")), &[]);
    let config = folder.file("corewall.toml", "store = \"store\"\n");
    let filter = folder.generation().dir.join("dns_shard_00.filter");
    let mut bytes = std::fs::read(&filter).unwrap();
    *bytes.last_mut().unwrap() ^= 1;
    std::fs::write(&filter, bytes).unwrap();
    // It can be served all the same, and a start should not fail for it.
    let output = corewall(&["check", "--config", &config]);
    assert_eq!(output.status.code(), Some(0));
    let told = stdout(&output);
    assert!(told.contains("the filter of shard 0 is bad") && told.contains(filter.to_str().unwrap()), "{told}");
    let output = corewall(&["check", "--full", "--config", &config]);
    assert_eq!(output.status.code(), Some(2));
    let message = stderr(&output);
    assert!(message.starts_with(&format!("error: {config}:1: store: {}", filter.display())), "{message}");
}

#[test]
fn live_rules_that_a_server_could_not_start_with_are_told_by_check() {
    let folder = Folder::new();
    folder.build(&format!("plain:{}", folder.file("a.txt", "a.example.com\n")), &[]);
    let config = folder.file("corewall.toml", "store = \"store\"\n");
    let store = folder.store();
    assert!(corewall(&["rule", "add", "b.example.com", "--store", &store]).status.success());
    let output = corewall(&["check", "--config", &config]);
    assert!(stdout(&output).contains("  1 rules changed by hand\n"), "{}{}", stdout(&output), stderr(&output));
    let overlay = Path::new(&store).join("overlay.db");
    std::fs::write(&overlay, "no database").unwrap();
    let output = corewall(&["check", "--config", &config]);
    assert_eq!(output.status.code(), Some(2), "{}", stdout(&output));
    let message = stderr(&output);
    assert!(message.starts_with(&format!("error: {config}:1: store: {}", overlay.display())), "{message}");
}

#[test]
fn the_default_configuration_is_printed_as_it_stands() {
    let output = corewall(&["default-config"]);
    assert_eq!(stdout(&output), corewall::config::DEFAULT_TOML);
}

/// A database of the flat generation with a row in each of its eight tables.
fn ancestor(folder: &Folder) -> PathBuf {
    let path = folder.0.path().join("ancestor.db");
    let conn = rusqlite::Connection::open(&path).unwrap();
    conn.execute_batch(
        "CREATE TABLE block_exact(Domain TEXT); INSERT INTO block_exact VALUES('Exact.Example.com');
         CREATE TABLE block_wildcard(Domain TEXT); INSERT INTO block_wildcard VALUES('wild.example.com');
         CREATE TABLE block_regex(Pattern TEXT); INSERT INTO block_regex VALUES('^ads[0-9]+\\.'), ('(bad'), ('.*');
         CREATE TABLE fqdn_dns_allow(Domain TEXT, Server TEXT);
         INSERT INTO fqdn_dns_allow VALUES('allow.example.com', '192.0.2.1#5353');
         CREATE TABLE fqdn_dns_block(Domain TEXT); INSERT INTO fqdn_dns_block VALUES('dns.example.com');
         CREATE TABLE domain_alias(Source_Domain TEXT, Target_Domain TEXT);
         INSERT INTO domain_alias VALUES('alias.example.com', 'target.example.net');
         CREATE TABLE ip_rewrite_v4(Source_IPv4 TEXT, Target_IPv4 TEXT);
         INSERT INTO ip_rewrite_v4 VALUES('198.51.100.0/24', '192.0.2.9');
         CREATE TABLE ip_rewrite_v6(Source_IPv6 TEXT, Target_IPv6 TEXT);
         INSERT INTO ip_rewrite_v6 VALUES('2001:db8::1', '2001:db8::2');",
    )
    .unwrap();
    path
}

#[test]
fn a_database_is_imported_whole() {
    let folder = Folder::new();
    let report = folder.build(&format!("dnsmasq-sqlite:{}", ancestor(&folder).display()), &[]);
    assert_eq!((&report["rules"], &report["refused"]), (&7.into(), &1.into()), "{report:#}");
    assert!(report["lists"][0]["first_refused"][0]["text"].as_str().unwrap().contains("(bad"), "{report:#}");
    assert_eq!(report["lists"][0]["ip_rewrites"], 2);
    let generation = folder.generation();
    assert_eq!(kinds(&generation, "exact.example.com"), [(Kind::Block, Scope::Exact)]);
    assert_eq!(kinds(&generation, "wild.example.com"), [(Kind::Block, Scope::Subtree)]);
    assert_eq!(kinds(&generation, "allow.example.com"), [(Kind::ForwardAllow, Scope::Subtree)]);
    assert_eq!(kinds(&generation, "dns.example.com"), [(Kind::ForwardBlock, Scope::Subtree)]);
    assert_eq!(kinds(&generation, "alias.example.com"), [(Kind::Alias, Scope::Subtree)]);
    // A pattern that matches everything is taken over: it has been in use.
    let regexes: Vec<&str> = generation.patterns.iter().map(|row| row.regex.as_str()).collect();
    assert_eq!(regexes, ["^ads[0-9]+\\.", ".*"]);
    assert_eq!(generation.rewrites.len(), 2);
}

#[test]
fn wildcards_of_a_database_are_forwarded_when_that_is_wanted_and_the_file_may_be_compressed() {
    let folder = Folder::new();
    let database = std::fs::read(ancestor(&folder)).unwrap();
    let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    gzip.write_all(&database).unwrap();
    let list = format!("dnsmasq-sqlite:{}", folder.file("ancestor.db.gz", gzip.finish().unwrap()));
    let report = folder.build(&list, &["--wildcard-action", "forward-block"]);
    assert_eq!(report["rules"], 7);
    assert_eq!(kinds(&folder.generation(), "wild.example.com"), [(Kind::ForwardBlock, Scope::Subtree)]);
    let not_one = format!("dnsmasq-sqlite:{}", folder.file("no.db", "no database"));
    let output = corewall(&["build", "--store", &folder.store(), "--list", &not_one]);
    assert_eq!(output.status.code(), Some(1));
    assert!(stderr(&output).contains("it is no SQLite database"), "{}", stderr(&output));
}
