//! Patterns from a published generation, scanned as a worker does.

use std::path::Path;

use corewall_sharding::build::{BuildOptions, Builder, Built};
use corewall_sharding::publish::Store;
use corewall_sharding::rule::{Class, Kind, List, Rule, RuleKey, Scope};

use super::*;

/// Publishes a generation with these patterns; `sidecar` is put beside them.
fn generation(dir: &Path, regexes: &[&str], sidecar: impl FnOnce(&mut Built)) -> Generation {
    let store = Store::create_or_open(dir).unwrap();
    let mut builder =
        Builder::new(&store, BuildOptions { shards: 2, threads: Some(1), ..BuildOptions::default() }).unwrap();
    let list = List::named("patterns");
    let list = builder.list(list).unwrap();
    for regex in regexes {
        let class = Class::plain(Kind::Block, Scope::Pattern, list);
        let key = RuleKey::Pattern { regex: (*regex).to_owned(), target: None };
        builder.push(&Rule { class, key }).unwrap();
    }
    let mut built = builder.finish(&mut |_, _, _| {}).unwrap();
    sidecar(&mut built);
    built.publish().unwrap();
    store.current().unwrap()
}

fn compiled(regexes: &[&str]) -> Vec<u8> {
    let wanted = |regex: &&str| Wanted { regex: (*regex).to_owned(), may_match_empty: true };
    let wanted: Vec<_> = regexes.iter().map(wanted).collect();
    compile_bounded(&wanted, std::slice::from_ref(&(0..wanted.len())), Compiler::Here).unwrap().sidecar
}

fn with_sidecar(dir: &Path, regexes: &[&str]) -> Generation {
    generation(dir, regexes, |built| built.add_sidecar(sidecar::FILE_NAME, &compiled(regexes)).unwrap())
}

fn scan(scanner: &mut PatternScanner, text: &str) -> Vec<u32> {
    let mut matches = Matches::new();
    scanner.scan(text, &mut matches).unwrap();
    let mut ids = matches.as_slice().to_vec();
    ids.sort_unstable();
    ids
}

const REGEXES: [&str; 5] = [r"^ad[0-9]*\.", r"^(?!www\.)[^.]*track", "[[:digit:]]{3}x", r"([xyz])\1\1\.", "x*"];

fn assert_finds(database: PatternDatabase) {
    let mut scanner = PatternScanner::new(Arc::new(database)).unwrap();
    for (text, ids) in [
        ("ad7.example", &[0, 4][..]),
        ("bad7.example", &[4]),
        ("mytracker.example", &[1, 4]),
        ("www.track.example", &[4]),
        ("a123x.example", &[2, 4]),
        ("zzz.example", &[3, 4]),
        ("ad1.tracker.yyy.example", &[0, 3, 4]),
        ("", &[4]),
    ] {
        assert_eq!(scan(&mut scanner, text), ids, "{text}");
    }
}

#[test]
fn compiled_patterns_of_both_engines_are_loaded_and_found() {
    let dir = tempfile::tempdir().unwrap();
    let database = PatternDatabase::load(&with_sidecar(dir.path(), &REGEXES)).unwrap();
    assert_eq!(database.recompiled(), None);
    assert_finds(database);
}

#[test]
fn patterns_that_were_not_compiled_are_compiled_at_load() {
    let dir = tempfile::tempdir().unwrap();
    let database = PatternDatabase::load_or_compile(&generation(dir.path(), &REGEXES, |_| {}), Compiler::Here).unwrap();
    assert_eq!(database.recompiled(), Some("there are none"));
    assert_finds(database);
}

#[test]
fn compiled_patterns_of_another_engine_or_generation_are_compiled_again() {
    for (name, file) in
        [("damaged", b"CWPATRN1rubbish".to_vec()), ("other patterns", compiled(&["a", "b", "c", "d", "e"]))]
    {
        let dir = tempfile::tempdir().unwrap();
        let generation =
            generation(dir.path(), &REGEXES, |built| built.add_sidecar(sidecar::FILE_NAME, &file).unwrap());
        let database = PatternDatabase::load_or_compile(&generation, Compiler::Here).unwrap();
        assert!(database.recompiled().unwrap().contains(name), "{:?}", database.recompiled());
        assert_finds(database);
    }
}

#[test]
fn a_pattern_that_no_engine_takes_is_an_error_that_names_it() {
    let dir = tempfile::tempdir().unwrap();
    let error = PatternDatabase::load_or_compile(&generation(dir.path(), &["good", "(bad"], |_| {}), Compiler::Here)
        .err()
        .unwrap();
    assert!(error.to_string().contains("refuses /(bad/ (Missing close parenthesis"), "{error}");
}

#[test]
fn a_generation_without_patterns_finds_nothing() {
    let dir = tempfile::tempdir().unwrap();
    for database in [PatternDatabase::load(&generation(dir.path(), &[], |_| {})).unwrap(), PatternDatabase::empty()] {
        let mut scanner = PatternScanner::new(Arc::new(database)).unwrap();
        assert!(scan(&mut scanner, "ad1.example").is_empty());
    }
}

#[test]
fn each_scan_begins_with_no_matches() {
    let dir = tempfile::tempdir().unwrap();
    let database = PatternDatabase::load(&with_sidecar(dir.path(), &["^a", "^b"])).unwrap();
    let mut scanner = PatternScanner::new(Arc::new(database)).unwrap();
    let mut matches = Matches::new();
    scanner.scan("a.example", &mut matches).unwrap();
    scanner.scan("b.example", &mut matches).unwrap();
    assert_eq!(matches.as_slice(), [1]);
}

#[test]
fn confirming_that_takes_too_many_steps_is_a_failure_and_not_a_pass() {
    let dir = tempfile::tempdir().unwrap();
    // Backtracks exponentially on a name of one letter that ends otherwise.
    let database = PatternDatabase::load(&with_sidecar(dir.path(), &[r"^(a|aa|aaa)*(?!a)b\1$"])).unwrap();
    let mut scanner = PatternScanner::new(Arc::new(database)).unwrap();
    let mut matches = Matches::new();
    let hostile = format!("{}b.example", "a".repeat(60));
    assert_eq!(scanner.scan(&hostile, &mut matches), Err(StoreFailed));
    // The next name is judged as if nothing had happened.
    assert_eq!(scanner.scan("aab", &mut matches), Ok(()));
}

#[test]
fn a_name_that_is_a_candidate_of_many_slow_patterns_does_not_hold_up_its_core() {
    let dir = tempfile::tempdir().unwrap();
    // Each divides the letters in 1,891 ways and finds none that fits, well within its own limit.
    let regexes: Vec<String> = (0..100).map(|number| format!("^(?:a*)(a*)(?<=x{number})")).collect();
    let regexes: Vec<&str> = regexes.iter().map(String::as_str).collect();
    let hostile = format!("{}.example", "a".repeat(60));
    let one = PatternDatabase::load(&with_sidecar(&dir.path().join("one"), &regexes[..1])).unwrap();
    let mut matches = Matches::new();
    assert_eq!(PatternScanner::new(Arc::new(one)).unwrap().scan(&hostile, &mut matches), Ok(()));
    let all = PatternDatabase::load(&with_sidecar(&dir.path().join("all"), &regexes)).unwrap();
    let mut scanner = PatternScanner::new(Arc::new(all)).unwrap();
    assert_eq!(scanner.scan(&hostile, &mut matches), Err(StoreFailed));
    assert_eq!((scanner.failures, scanner.candidates.len()), (1, 100));
}

#[test]
fn scanners_of_one_database_work_side_by_side() {
    let dir = tempfile::tempdir().unwrap();
    let database = Arc::new(PatternDatabase::load(&with_sidecar(dir.path(), &REGEXES)).unwrap());
    std::thread::scope(|scope| {
        for _ in 0..4 {
            let database = database.clone();
            scope.spawn(move || {
                let mut scanner = PatternScanner::new(database).unwrap();
                for number in 0..500 {
                    assert_eq!(scan(&mut scanner, &format!("ad{number}.mytracker.example")), [0, 4]);
                }
            });
        }
    });
}
