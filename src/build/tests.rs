//! Small stores built from each format and read back, and builds that must fail before anything is published.

use std::io::Write;

use corewall_sharding::build::BuildReport;
use corewall_sharding::rule::{Kind, Scope};

use super::report::RuleCount;
use super::*;
use crate::lists::AdblockModifiers;

/// A folder with lists in it and room for a store.
struct Bench {
    dir: tempfile::TempDir,
    specs: Vec<ListSpec>,
}

impl Bench {
    fn new() -> Self {
        Self { dir: tempfile::tempdir().unwrap(), specs: Vec::new() }
    }

    fn list(&mut self, name: &str, format: Format, text: impl AsRef<[u8]>) -> &mut ListSpec {
        let path = self.dir.path().join(name);
        std::fs::write(&path, text).unwrap();
        self.specs.push(ListSpec::new(name, format, &path));
        self.specs.last_mut().unwrap()
    }

    fn store(&self) -> PathBuf {
        self.dir.path().join("store")
    }

    fn build(&self) -> Result<Report, BuildError> {
        run(&self.specs, &self.store(), &options(3, None), &mut |_| {})
    }

    fn published(&self) -> Option<u64> {
        Store::open(&self.store()).ok().and_then(|store| store.current_number().unwrap())
    }

    /// Kind and scope of each rule on this very name.
    fn rules_on(&self, name: &str) -> Vec<(Kind, Scope)> {
        let generation = Store::open(&self.store()).unwrap().current().unwrap();
        let mut found = Vec::new();
        for shard in &mut generation.open_shards(false).unwrap() {
            shard.classes_of(name, &mut |class| found.push(class)).unwrap();
        }
        found.iter().map(|&class| &generation.classes[class as usize]).map(|class| (class.kind, class.scope)).collect()
    }
}

fn options(shards: u16, refused: Option<&Path>) -> Options {
    Options { shards, refused: refused.map(Path::to_path_buf), compiler: Compiler::Here, ..Options::default() }
}

fn count(report: &Report, list: usize) -> Vec<(Kind, Scope, u64)> {
    report.lists[list].rules.iter().map(|RuleCount { kind, scope, rules }| (*kind, *scope, *rules)).collect()
}

#[test]
fn every_text_format_is_built_and_read_back() {
    let mut bench = Bench::new();
    bench.list("plain", Format::Plain, "plain.example.com\n");
    bench.list("hosts", Format::Hosts, "0.0.0.0 hosts.example.com\n");
    bench.list("adblock", Format::Adblock, "||adblock.example.com^\n@@||allowed.example.com^\n");
    bench.list(
        "dnsmasq",
        Format::Dnsmasq,
        "address=/dnsmasq.example.com/\ncname=alias.example.com,target.example.net\n",
    );
    bench.list("unbound", Format::Unbound, "local-zone: \"unbound.example.com\" always_nxdomain\n");
    bench.list("rpz", Format::Rpz, "$ORIGIN rpz.example.\nrpz.example.com CNAME .\n");
    bench.list("regex", Format::Regex, "^ads[0-9]+\\.\n");
    let report = bench.build().unwrap();
    assert_eq!((report.generation, report.rules, report.refused), (1, 9, 0), "{report}");
    assert_eq!(bench.rules_on("plain.example.com"), [(Kind::Block, Scope::Exact)]);
    assert_eq!(bench.rules_on("hosts.example.com"), [(Kind::Block, Scope::Exact)]);
    assert_eq!(bench.rules_on("adblock.example.com"), [(Kind::Block, Scope::Subtree)]);
    assert_eq!(bench.rules_on("allowed.example.com"), [(Kind::Allow, Scope::Subtree)]);
    assert_eq!(bench.rules_on("dnsmasq.example.com"), [(Kind::Block, Scope::Subtree)]);
    assert_eq!(bench.rules_on("alias.example.com"), [(Kind::Alias, Scope::Exact)]);
    assert_eq!(bench.rules_on("unbound.example.com"), [(Kind::Block, Scope::Subtree)]);
    assert_eq!(bench.rules_on("rpz.example.com"), [(Kind::Block, Scope::Exact)]);
    let generation = Store::open(&bench.store()).unwrap().current().unwrap();
    assert_eq!(generation.patterns[0].regex, "^ads[0-9]+\\.");
    assert!(generation.sidecar(sidecar::FILE_NAME).unwrap().is_some());
    assert_eq!(count(&report, 6), [(Kind::Block, Scope::Pattern, 1)]);
}

#[test]
fn compressed_lists_are_read_by_their_first_bytes() {
    let mut bench = Bench::new();
    let text = "a.example.com\nb.example.com\n".repeat(1_000);
    let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    gzip.write_all(text.as_bytes()).unwrap();
    bench.list("gzip", Format::Plain, gzip.finish().unwrap());
    bench.list("zstd", Format::Plain, zstd::encode_all(text.as_bytes(), 1).unwrap());
    let report = bench.build().unwrap();
    for list in 0..2 {
        assert_eq!(count(&report, list), [(Kind::Block, Scope::Exact, 2)]);
        assert_eq!(report.lists[list].duplicates, 1_998);
    }
}

#[test]
fn a_damaged_archive_is_an_error_and_the_old_generation_stays() {
    let mut bench = Bench::new();
    bench.list("plain", Format::Plain, "a.example.com\n");
    bench.build().unwrap();
    let names: String = (0..50_000).map(|number| format!("host{number}.example.com\n")).collect();
    let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    gzip.write_all(names.as_bytes()).unwrap();
    let mut archive = gzip.finish().unwrap();
    archive.truncate(archive.len() / 2);
    bench.list("torn.gz", Format::Plain, &archive);
    let message = bench.build().unwrap_err().to_string();
    let path = bench.dir.path().join("torn.gz");
    assert!(message.starts_with(&format!("{}: cannot read list `torn.gz`: ", path.display())), "{message}");
    assert!(message.ends_with("; check the path, and fetch the file again if it is damaged"), "{message}");
    assert_eq!(bench.published(), Some(1));
}

#[test]
fn a_missing_list_is_an_error_before_a_store_is_made() {
    let mut bench = Bench::new();
    bench.list("plain", Format::Plain, "a.example.com\n");
    bench.specs.push(ListSpec::new("gone", Format::Plain, Path::new("/no/such/list")));
    let message = bench.build().unwrap_err().to_string();
    assert!(message.starts_with("/no/such/list: cannot read list `gone`: "), "{message}");
    assert!(!bench.store().exists());
    bench.specs.clear();
    assert!(matches!(bench.build(), Err(BuildError::NoLists)));
}

#[test]
fn badfilter_reaches_into_the_other_adblock_lists() {
    let mut bench = Bench::new();
    bench.list("first", Format::Adblock, "||ads.example.com^\n||kept.example.com^\n");
    bench.list("second", Format::Adblock, "||ads.example.com^$badfilter\n");
    let report = bench.build().unwrap();
    assert_eq!(report.rules, 1, "{report}");
    assert_eq!(bench.rules_on("ads.example.com"), []);
    assert_eq!(bench.rules_on("kept.example.com"), [(Kind::Block, Scope::Subtree)]);
}

#[test]
fn refused_lines_are_told_with_file_line_and_reason_and_all_of_them_kept() {
    let mut bench = Bench::new();
    let bad: String = (0..30).map(|number| format!("bad name {number}\n")).collect();
    bench.list("list", Format::Plain, format!("good.example.com\n{bad}"));
    let report = bench.build().unwrap();
    assert_eq!((report.rules, report.refused), (1, 30));
    let list = &report.lists[0];
    assert_eq!(list.first_refused.len(), limits::REFUSED_SHOWN_MAX);
    assert_eq!(list.first_refused[0].place, "2");
    let text = report.to_string();
    let path = bench.dir.path().join("list");
    assert!(text.contains(&format!("{}:2: several words instead of one name: bad name 0\n", path.display())), "{text}");
    assert!(text.contains("    and 10 more\n"), "{text}");
    let generation = Store::open(&bench.store()).unwrap().current().unwrap();
    let file = String::from_utf8(generation.sidecar(refused::FILE_NAME).unwrap().unwrap()).unwrap();
    assert_eq!(file.lines().count(), 30);
    assert_eq!(report.refused_file, Some(generation.dir.join(refused::FILE_NAME)));
}

#[test]
fn a_generation_may_name_more_servers_than_are_known_at_a_time() {
    let mut bench = Bench::new();
    bench.list("own", Format::Dnsmasq, "server=/own.example.com/192.0.2.1\n");
    let many = (0..=limits::RULE_SERVERS_MAX)
        .map(|number| format!("server=/n{number}.example.com/10.0.{}.{}\n", number >> 8, number & 255));
    bench.list("many", Format::Dnsmasq, many.collect::<String>());
    let report = bench.build().unwrap();
    assert_eq!((report.rules, report.refused), (limits::RULE_SERVERS_MAX as u64 + 2, 0));
    assert_eq!(bench.rules_on("own.example.com"), [(Kind::ForwardAllow, Scope::Subtree)]);
}

#[test]
fn refused_lines_go_to_the_file_that_is_named() {
    let mut bench = Bench::new();
    bench.list("list", Format::Plain, "a b c\n");
    let file = bench.dir.path().join("refused");
    let report = run(&bench.specs, &bench.store(), &options(1, Some(&file)), &mut |_| {}).unwrap();
    assert_eq!(report.refused_file.as_deref(), Some(file.as_path()));
    assert!(std::fs::read_to_string(&file).unwrap().contains(":1: several words"));
    let unwritable = options(1, Some(Path::new("/no/such/folder/refused")));
    assert!(matches!(run(&bench.specs, &bench.store(), &unwritable, &mut |_| {}), Err(BuildError::Refused { .. })));
    assert_eq!(bench.published(), Some(1));
}

#[test]
fn a_pattern_that_no_engine_takes_is_a_refused_line() {
    let mut bench = Bench::new();
    // Well formed for the reader of the list, but with a repeat that is too large to compile.
    bench.list("regex", Format::Regex, "^first\\.\n# comment\n^ab{1,40000}c\n^(?!www\\.)third\n");
    let report = bench.build().unwrap();
    assert_eq!((report.rules, report.refused), (2, 1), "{report}");
    assert_eq!(report.lists[0].first_refused[0].place, "3");
    assert!(report.lists[0].first_refused[0].reason.contains("repeat"), "{report}");
    assert_eq!((report.patterns.plain, report.patterns.confirmed), (1, 1));
    let generation = Store::open(&bench.store()).unwrap().current().unwrap();
    let regexes: Vec<&str> = generation.patterns.iter().map(|row| row.regex.as_str()).collect();
    assert_eq!(regexes, ["^first\\.", "^(?!www\\.)third"]);
}

#[test]
fn patterns_are_numbered_as_the_store_numbers_them() {
    let mut bench = Bench::new();
    bench.list("a", Format::Regex, "^one\\.\n^two\\.\n^one\\.\n");
    bench.list("b", Format::Adblock, "/^one\\./\n/^three\\./$important\n/^three\\./\n@@/^one\\./\n");
    let report = bench.build().unwrap();
    assert_eq!((report.rules, report.duplicates), (6, 1), "{report}");
    let generation = Store::open(&bench.store()).unwrap().current().unwrap();
    let database = crate::serve::patterns::PatternDatabase::load(&generation).unwrap();
    assert_eq!(database.recompiled(), None);
}

#[test]
fn what_stripping_would_gain_is_told() {
    let mut bench = Bench::new();
    bench.list("adguard", Format::Adblock, "||a.example.com^$third-party\n||b.example.com^$popup\n||c.example.com^\n");
    let report = bench.build().unwrap();
    assert_eq!((report.rules, report.gained_by_stripping), (1, 2), "{report}");
    bench.specs[0].options.adblock_modifiers = AdblockModifiers::Strip;
    let report = bench.build().unwrap();
    assert_eq!((report.rules, report.gained_by_stripping), (3, 0), "{report}");
}

#[test]
fn old_generations_go_but_the_last_ones_stay() {
    let mut bench = Bench::new();
    bench.list("plain", Format::Plain, "a.example.com\n");
    for generation in 1..=5 {
        assert_eq!(bench.build().unwrap().generation, generation);
    }
    assert_eq!(Store::open(&bench.store()).unwrap().numbers().unwrap(), [3, 4, 5]);
}

#[test]
fn the_generation_rolled_back_to_outlives_newer_ones() {
    let mut bench = Bench::new();
    bench.list("plain", Format::Plain, "a.example.com\n");
    for _ in 1..=3 {
        bench.build().unwrap();
    }
    let store = Store::open(&bench.store()).unwrap();
    store.switch(1).unwrap();
    assert_eq!(bench.build().unwrap().generation, 4);
    assert_eq!(store.numbers().unwrap(), [1, 3, 4], "the good one stays, the older of the bad ones goes");
}

#[test]
fn an_old_generation_that_cannot_be_removed_is_a_warning() {
    let mut bench = Bench::new();
    bench.list("plain", Format::Plain, "a.example.com\n");
    for _ in 1..=3 {
        bench.build().unwrap();
    }
    let store = Store::open(&bench.store()).unwrap();
    // A file in place of the directory: not even root removes it as one.
    let oldest = store.generation_dir(1);
    std::fs::remove_dir_all(&oldest).unwrap();
    std::fs::write(&oldest, "").unwrap();
    let report = bench.build().unwrap();
    assert_eq!((report.generation, bench.published()), (4, Some(4)));
    assert_eq!(report.warnings.len(), 1, "{report}");
    assert!(report.to_string().contains("\n  warning: an old generation is still there: "), "{report}");
}

#[test]
fn the_report_counts_what_the_store_counts() {
    let report = Report::new(
        4,
        BuildReport { rules: 10, shard_bytes: vec![100, 200], filter_bytes: 20, ..BuildReport::default() },
        Vec::new(),
        report::PatternCounts::default(),
        None,
        Instant::now(),
    );
    assert_eq!((report.shards, report.bytes), (2, 320));
    assert!((report.bytes_per_rule - 32.0).abs() < f64::EPSILON);
    assert!(report.rss_bytes_max > 0);
    assert!(report.to_string().starts_with("generation 4 published: 10 rules in 2 shards\n"));
    assert!(serde_json::to_value(&report).unwrap()["generation"] == 4);
}

/// Changes the overlay of the bench's store as an operator would: `+ LINE` adds, `- LINE` removes, `~ LINE` adds for an hour.
fn change_by_hand(bench: &Bench, list: &str, changes: &[&str]) {
    use corewall_sharding::overlay::{NewEntry, Overlay, Removal};

    use crate::lists::live::{LiveOptions, read_line, read_selector};

    let store = Store::create_or_open(&bench.store()).unwrap();
    let generation = store.current().ok();
    let mut overlay = Overlay::open(&store).unwrap();
    for change in changes {
        let (what, line) = change.split_once(' ').unwrap();
        let expires_s = (what == "~").then_some(u64::MAX >> 2);
        if what == "-" {
            let selector = read_selector(line, None, None, None).unwrap().unwrap();
            let removal = Removal { generation: generation.as_ref(), now_s: 1, expires_s, reason: "" };
            assert!(!overlay.remove(&[selector], removal).unwrap().1[0].is_nothing(), "{line}");
            continue;
        }
        let entry = |change| NewEntry { change, list: list.to_owned(), expires_s, reason: String::new() };
        let entries = read_line(line, &LiveOptions::default()).unwrap().into_iter().map(entry);
        overlay.add(&entries.collect::<Vec<_>>(), 1).unwrap();
    }
}

#[test]
fn live_rules_are_folded_in_and_what_is_voided_is_left_out() {
    use corewall_sharding::overlay::Overlay;

    let mut bench = Bench::new();
    bench.list("first", Format::Adblock, "||a.example^\n||b.example^\n/^ads[0-9]+\\./\n/^trackers\\./\n");
    bench.list("second", Format::Cidr, "192.0.2.0/24\n198.51.100.0/24\n");
    bench.build().unwrap();
    change_by_hand(&bench, "first", &["- a.example", "+ c.example", "+ /^banners\\./", "~ d.example"]);
    change_by_hand(
        &bench,
        "mine",
        &["+ alias e.example f.example", "- 192.0.2.0/24", "- /^ads[0-9]+\\./", "+ ip-rewrite 10.0.0.1 10.0.0.2"],
    );
    // Without being asked to, a build leaves all of that live.
    assert_eq!(bench.build().unwrap().folded, None);
    assert_eq!(bench.rules_on("a.example"), [(Kind::Block, Scope::Subtree)]);

    let folding = Options { fold_overlay: true, ..options(3, None) };
    let report = run(&bench.specs, &bench.store(), &folding, &mut |_| {}).unwrap();
    let folded = report.folded.unwrap();
    assert_eq!((folded.added, folded.left_out), (4, 3), "{report}");
    assert!(report.to_string().contains("4 added, 3 rules of lists left out"), "{report}");
    let store = Store::open(&bench.store()).unwrap();
    let generation = store.current().unwrap();
    let lists: Vec<&str> = generation.lists.iter().map(|list| &*list.name).collect();
    assert_eq!(lists, ["first", "second", "mine"]);
    assert_eq!(generation.manifest.overlay_seq, folded.overlay_seq);
    assert_eq!(bench.rules_on("a.example"), []);
    assert_eq!(bench.rules_on("b.example"), [(Kind::Block, Scope::Subtree)]);
    assert_eq!(bench.rules_on("c.example"), [(Kind::Block, Scope::Exact)]);
    assert_eq!(bench.rules_on("d.example"), [], "it ends by itself");
    assert_eq!(bench.rules_on("e.example"), [(Kind::Alias, Scope::Exact)]);
    let patterns: Vec<&str> = generation.patterns.iter().map(|pattern| &*pattern.regex).collect();
    assert_eq!(patterns, ["^trackers\\.", "^banners\\."]);
    assert_eq!(generation.addresses.len(), 1);
    assert_eq!(generation.rewrites.len(), 1);
    // On top of it only what is not in it is live.
    let live = Overlay::read(&store, generation.manifest.overlay_seq).unwrap();
    assert!(matches!(&live[..], [entry] if entry.expires_s.is_some()), "{live:?}");
    // A generation from before has none of it.
    assert_eq!(Overlay::read(&store, 0).unwrap().len(), 8);
    // What is removed that was folded in is voided, and gone from the overlay: a roll-back does not bring it back.
    change_by_hand(&bench, "mine", &["- c.example"]);
    assert_eq!(Overlay::read(&store, generation.manifest.overlay_seq).unwrap().len(), 2);
    run(&bench.specs, &bench.store(), &folding, &mut |_| {}).unwrap();
    assert_eq!(bench.rules_on("c.example"), []);
}
