//! Small stores built from each format and read back, and builds that must fail before anything is published.

use std::collections::BTreeMap;
use std::io::Write;

use corewall_sharding::build::{BuildReport, PartId};
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
    Options {
        shards: Some(shards),
        refused: refused.map(Path::to_path_buf),
        compiler: Compiler::Here,
        ..Options::default()
    }
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
    let start = format!("{}: cannot read list `torn.gz` behind byte ", path.display());
    assert!(message.starts_with(&start), "{message}");
    assert!(
        message.ends_with(
            " of its text: the archive ends too early; check the path, and fetch the file again if it is damaged"
        ),
        "{message}"
    );
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
        Stages::start(),
    );
    assert_eq!((report.shards, report.bytes), (2, 320));
    assert!((report.bytes_per_rule - 32.0).abs() < f64::EPSILON);
    assert!(report.rss_bytes_max > 0);
    assert!(report.to_string().starts_with("generation 4 published: 10 rules in 2 shards\n"));
    assert!(serde_json::to_value(&report).unwrap()["generation"] == 4);
}

/// Lists of every kind of reading: cut and whole, with patterns, servers, address rules and much that is refused.
fn many_kinds(bench: &mut Bench) {
    let names = |count: u32, line: &dyn Fn(u32) -> String| (0..count).map(line).collect::<String>();
    bench.list(
        "plain",
        Format::Plain,
        names(900, &|n| match n % 9 {
            0 => format!("bad name {n}\n"),
            1 => "# comment\r\n\n".to_owned(),
            _ => format!("n{}.example.com\n", n % 500),
        }),
    );
    bench.list("servers", Format::Dnsmasq, names(60, &|n| format!("server=/s{n}.example.com/192.0.2.{}\n", n % 7)));
    bench.list(
        "adblock",
        Format::Adblock,
        names(400, &|n| match n % 5 {
            0 => format!("/^ads{n}x[0-9]+\\./\n"),
            1 => format!("||a{n}.example.com^$nonsense\n"),
            2 => format!("a{n}.example.com##.ad\n"),
            _ => format!("||a{n}.example.com^\n"),
        }),
    );
    bench.list(
        "off",
        Format::Adblock,
        "||a3.example.com^$badfilter\n!#if x\n||b.example.com^\n!#endif\n||c.example.com^\n",
    );
    bench.list("hosts", Format::Hosts, names(300, &|n| format!("0.0.0.0 h{n}.example.com localhost b{n}..example\n")));
    bench.list("answers", Format::Hosts, "192.0.2.1 a.example\n192.0.2.2 a.example\n").options.hosts_addresses = true;
    bench.list("regex", Format::Regex, names(90, &|n| format!("^ads{n}x[0-9]+\\.\n(\n")));
    bench.list("cidr", Format::Cidr, names(99, &|n| format!("198.51.100.{n}\n198.51.100.{n}/24\n")));
    bench.list("more", Format::Dnsmasq, "server=/m.example.com/192.0.2.3\nserver=/m.example.com/192.0.2.200\n");
}

/// What must be the same of two builds: the report without its times, the refused lines, and the files.
fn outcome(bench: &Bench, options: &Options) -> (serde_json::Value, Vec<(String, Vec<u8>)>) {
    let store = tempfile::tempdir_in(bench.dir.path()).unwrap();
    // Names are routed by the store's key.
    let key = bench.dir.path().join("key");
    if !key.exists() {
        Store::create_or_open(&bench.store()).unwrap();
        std::fs::copy(bench.store().join("key"), &key).unwrap();
    }
    std::fs::copy(&key, store.path().join("key")).unwrap();
    let report = run(&bench.specs, store.path(), options, &mut |_| {}).unwrap();
    let mut value = serde_json::to_value(&report).unwrap();
    for of_this_run in ["seconds", "stages", "rules_per_second", "rss_bytes_max", "refused_file", "spilled_bytes"] {
        value.as_object_mut().unwrap().remove(of_this_run).unwrap();
    }
    let folder = Store::open(store.path()).unwrap().current().unwrap().dir;
    let mut files: Vec<(String, Vec<u8>)> = std::fs::read_dir(folder)
        .unwrap()
        .map(|entry| entry.unwrap())
        .map(|entry| (entry.file_name().into_string().unwrap(), std::fs::read(entry.path()).unwrap()))
        // It has the time of the build.
        .filter(|(name, _)| name != "manifest.toml")
        .collect();
    files.sort();
    (value, files)
}

#[test]
fn a_build_on_many_threads_in_small_parts_is_that_of_one_thread_reading_whole_lists() {
    let mut bench = Bench::new();
    many_kinds(&mut bench);
    let one = outcome(&bench, &Options { threads: Some(1), ..options(3, None) });
    assert!(one.0["refused"].as_u64().unwrap() > 500 && one.0["patterns"]["plain"].as_u64().unwrap() > 100);
    assert!(one.1.iter().any(|(name, text)| name == refused::FILE_NAME && !text.is_empty()), "{:?}", one.0);
    for (threads, part_bytes) in [(1, 100), (2, 1), (8, 100), (8, 3_000)] {
        let other = outcome(&bench, &Options { threads: Some(threads), part_bytes, ..options(3, None) });
        assert_eq!(other.0, one.0, "{threads} threads, {part_bytes} bytes");
        assert!(other.1 == one.1, "{threads} threads, {part_bytes} bytes: files differ");
    }
}

/// What the lists say beside rules by name, read on some threads in small parts.
fn said(inputs: &[Input<'_>], finished: BTreeMap<PartId, Vec<u8>>, store: &Path) -> Result<Said, BuildError> {
    let watch = Watch { gate: Arc::default(), bytes: Arc::default() };
    let scan = read::scan(inputs, 2, &watch)?;
    let mut builder = Builder::new(&Store::create_or_open(store)?, BuildOptions::default())?;
    for input in inputs {
        builder.list(input.spec.list.clone())?;
    }
    let collectors = (0..3).map(|_| builder.collector()).collect();
    read::read(inputs, &scan, collectors, finished, 200, &watch, &mut |_| {})
}

#[test]
fn parts_that_were_finished_before_are_not_read_again_and_say_what_they_said() {
    let mut bench = Bench::new();
    many_kinds(&mut bench);
    let inputs: Vec<Input<'_>> = bench.specs.iter().zip(0..).map(|(spec, id)| Input::open(id, spec).unwrap()).collect();
    let whole = said(&inputs, BTreeMap::new(), &bench.store()).unwrap();
    let notes = whole.notes();
    assert!(notes.len() > 30, "{} parts", notes.len());
    let all = |said: &Said| (format!("{:?}", said.lists), said.notes());
    for some in [0, 1, 2] {
        let mut finished: BTreeMap<PartId, Vec<u8>> = notes.clone();
        finished.retain(|id, _| some == 0 || (id.part + u32::from(id.list)) % 3 == some);
        assert!(!finished.is_empty());
        let resumed = said(&inputs, finished.clone(), &bench.store()).unwrap();
        assert!(all(&resumed) == all(&whole));
        // Another text in its place shows that it is the note that counts.
        let (first, note) =
            finished.iter().next().map(|(id, note)| (*id, part::Note::from_bytes(note).unwrap())).unwrap();
        let other = part::Note { refused_for: [("forged".to_owned(), 1)].into(), ..note };
        finished.insert(first, other.to_bytes().unwrap());
        let forged = said(&inputs, finished, &bench.store()).unwrap();
        assert_eq!(forged.lists[usize::from(first.list)].refused_for.get("forged"), Some(&1));
    }
    let torn = BTreeMap::from([(PartId { list: 0, part: 0 }, vec![0xff; 3])]);
    assert!(matches!(said(&inputs, torn, &bench.store()), Err(BuildError::Note)));
}

#[test]
fn of_several_bad_lists_the_first_one_is_told() {
    let mut bench = Bench::new();
    let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    gzip.write_all("host.example.com\n".repeat(100_000).as_bytes()).unwrap();
    let mut archive = gzip.finish().unwrap();
    archive.truncate(archive.len() / 2);
    bench.list("good", Format::Plain, "a.example.com\n".repeat(20_000));
    for number in 0..6 {
        let format = if number % 2 == 1 { Format::Rpz } else { Format::Plain };
        bench.list(&format!("torn{number}.gz"), format, &archive);
    }
    for threads in [1, 2, 8] {
        let options = Options { threads: Some(threads), part_bytes: 1_000, ..options(1, None) };
        let message = run(&bench.specs, &bench.store(), &options, &mut |_| {}).unwrap_err().to_string();
        assert!(message.contains("cannot read list `torn0.gz` behind byte "), "{message}");
    }
    assert_eq!(bench.published(), None);
}

#[test]
fn a_list_that_changes_or_vanishes_while_it_is_read_is_an_error() {
    let mut bench = Bench::new();
    bench.list("list", Format::Plain, "a.example.com\n");
    let path = bench.dir.path().join("list");
    let input = Input::open(0, &bench.specs[0]).unwrap();
    let watch = Watch { gate: Arc::default(), bytes: Arc::default() };
    let read = || input.read(&Default::default(), &watch, &mut |_| {}).map(|counts| counts.rules);
    assert_eq!(read().unwrap(), 1);
    let source = input.source(&watch).unwrap();
    std::fs::write(&path, "a.example.com\nb.example.com\n").unwrap();
    let changed =
        format!("{}: list `list` has changed while it was read; build again when it is whole", path.display());
    assert!(input.failed(source.check_unchanged().unwrap_err()).to_string().starts_with(&changed));
    assert!(read().unwrap_err().to_string().starts_with(&changed), "between two readings");
    std::fs::remove_file(&path).unwrap();
    assert!(read().unwrap_err().to_string().contains("cannot read list `list`: No such file"));
}

#[test]
fn a_list_that_is_replaced_while_it_is_read_is_read_as_it_was() {
    let mut bench = Bench::new();
    bench.list("list", Format::Plain, "a.example.com\n");
    let input = Input::open(0, &bench.specs[0]).unwrap();
    let source = input.source(&Watch { gate: Arc::default(), bytes: Arc::default() }).unwrap();
    let new = bench.dir.path().join("new");
    std::fs::write(&new, "b.example.com\nc.example.com\n").unwrap();
    std::fs::rename(&new, &bench.specs[0].path).unwrap();
    source.check_unchanged().unwrap();
    assert_eq!(std::io::read_to_string(source).unwrap(), "a.example.com\n");
}

#[test]
fn a_build_that_is_stopped_publishes_nothing_and_says_how_to_go_on() {
    let mut bench = Bench::new();
    bench.list("plain", Format::Plain, "a.example.com\n");
    bench.build().unwrap();
    let options = options(1, None);
    let stop = options.stop.clone();
    // In the middle: while shards are written.
    let stopped = run(&bench.specs, &bench.store(), &options, &mut |progress| {
        if matches!(progress, Progress::Write { .. }) {
            stop.store(true, std::sync::atomic::Ordering::Relaxed);
        }
    });
    assert!(stopped.unwrap_err().to_string().contains("with --resume goes on"));
    // From the beginning: before a list is read.
    assert!(matches!(run(&bench.specs, &bench.store(), &options, &mut |_| {}), Err(BuildError::Interrupted)));
    assert_eq!(bench.published(), Some(1));
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

#[test]
fn a_live_rule_that_is_removed_while_a_build_folds_it_in_does_not_come_back() {
    let mut bench = Bench::new();
    bench.list("first", Format::Plain, "a.example\n");
    bench.build().unwrap();
    change_by_hand(&bench, "first", &["+ b.example", "+ c.example"]);
    let folding = Options { fold_overlay: true, ..options(3, None) };
    let mut is_removed = false;
    let built = run(&bench.specs, &bench.store(), &folding, &mut |progress| {
        if matches!(progress, Progress::Write { .. }) && !std::mem::replace(&mut is_removed, true) {
            change_by_hand(&bench, "first", &["- b.example", "+ d.example"]);
        }
    });
    assert!(matches!(built, Err(BuildError::FoldChanged)), "{built:?}");
    assert_eq!(bench.published(), Some(1));
    // What is added meanwhile hinders nothing.
    let mut is_added = false;
    run(&bench.specs, &bench.store(), &folding, &mut |progress| {
        if matches!(progress, Progress::Write { .. }) && !std::mem::replace(&mut is_added, true) {
            change_by_hand(&bench, "first", &["+ e.example"]);
        }
    })
    .unwrap();
    assert_eq!(bench.rules_on("b.example"), []);
    assert_eq!(bench.rules_on("c.example"), [(Kind::Block, Scope::Exact)]);
    assert_eq!(bench.rules_on("e.example"), [], "it stays live");
}

#[test]
fn what_fails_behind_the_reading_leaves_what_is_finished_to_resume() {
    let mut bench = Bench::new();
    bench.list("plain", Format::Plain, "a.example\n");
    let adblock = "/^ads[0-9]+\\./\n";
    bench.list("patterns", Format::Adblock, adblock);
    let resumed = |refused: Option<&Path>, stop_at: fn(Progress) -> bool, resume: bool| {
        let options = Options { resume, ..options(3, refused) };
        let stop = options.stop.clone();
        run(&bench.specs, &bench.store(), &options, &mut |progress| {
            if stop_at(progress) {
                stop.store(true, std::sync::atomic::Ordering::Relaxed);
            }
        })
    };
    let never: fn(Progress) -> bool = |_| false;
    // The file of refused lines cannot be written; stopped when patterns are compiled, and when the last file is durable.
    let nowhere = bench.dir.path().join("nowhere/refused");
    let failed = resumed(Some(&nowhere), never, false);
    assert!(matches!(failed, Err(BuildError::Refused { .. })), "{failed:?}");
    let at: [fn(Progress) -> bool; 2] =
        [|at| matches!(at, Progress::Compile { .. }), |at| matches!(at, Progress::Write { .. })];
    for stop_at in at {
        assert!(matches!(resumed(None, stop_at, true), Err(BuildError::Interrupted)));
    }
    let report = resumed(None, never, true).unwrap();
    assert_eq!((report.resumed_parts, &report.warnings[..]), (2, &[][..]), "{report}");
    assert_eq!(bench.rules_on("a.example"), [(Kind::Block, Scope::Exact)]);
}
