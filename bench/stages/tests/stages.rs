//! Over small stores: the stages do what they say, and what is counted of them repeats.

use std::path::Path;

use corewall_sharding::publish::Store;
use corewall_stages::appliance::Appliance;
use corewall_stages::count::count;
use corewall_stages::fixtures::{Fixtures, Names, Sizes, StoreKind};
use corewall_stages::stages::{STAGES, Stage};

const SMALL: Sizes = Sizes { listed: 2_000, asked: 64, patterns: 20 };

#[test]
fn every_stage_does_what_it_says_for_every_name() {
    let folder = tempfile::tempdir().unwrap();
    let fixtures = Fixtures::make(folder.path(), SMALL).unwrap();
    for stage in &STAGES {
        let ready = stage.warm(&fixtures).unwrap();
        assert_eq!(ready.operations(), SMALL.asked, "{}", stage.name);
    }
}

#[test]
fn a_stage_that_does_something_else_gives_no_figure() {
    let folder = tempfile::tempdir().unwrap();
    let fixtures = Fixtures::make(folder.path(), SMALL).unwrap();
    // No filter lets these names pass, so that no shard has a row of theirs.
    let [sql, rows] = ["cached", "row-sql"].map(|name| Stage::named(name).unwrap());
    let mixed_up = Stage { names: sql.names, ..*rows };
    let error = mixed_up.warm(&fixtures).err().expect("an error").to_string();
    assert_eq!(error, "stage `row-sql`: 64 of 64 names came to something else");
}

#[test]
fn listed_names_are_in_both_layouts_and_unlisted_ones_match_no_filter() {
    let folder = tempfile::tempdir().unwrap();
    let fixtures = Fixtures::make(folder.path(), SMALL).unwrap();
    for kind in [StoreKind::Sql, StoreKind::Packed] {
        let mut appliance = Appliance::open(&fixtures.store(kind)).unwrap();
        for name in fixtures.names(Names::Listed).unwrap() {
            let asked = appliance.asked(&name).unwrap();
            assert!(appliance.may_be_listed(&asked.hashes) && appliance.rows_of(asked.shard, &name) > 0, "{name}");
        }
        for name in fixtures.names(Names::Unlisted).unwrap() {
            assert!(!appliance.may_be_listed(&appliance.asked(&name).unwrap().hashes), "{name}");
        }
    }
}

#[test]
fn a_name_that_a_pattern_speaks_of_is_found_by_the_scan() {
    let folder = tempfile::tempdir().unwrap();
    let fixtures = Fixtures::make(folder.path(), SMALL).unwrap();
    let store = fixtures.store(StoreKind::Patterns);
    let patterns = Store::open(&store).unwrap().current().unwrap().patterns;
    assert_eq!(patterns.len(), SMALL.patterns);
    let regex = &patterns[2].regex;
    let word = regex.strip_prefix('^').and_then(|rest| rest.strip_suffix(r"[0-9]+\.")).unwrap();
    let mut appliance = Appliance::open(&store).unwrap();
    for (name, matches) in [(format!("{word}12.net"), 1), (format!("x{word}12.net"), 0)] {
        assert!(appliance.scan(&name));
        assert_eq!(appliance.matches(), matches, "{name}");
    }
}

#[test]
fn counts_repeat_and_grow_with_the_work() {
    let folder = tempfile::tempdir().unwrap();
    Fixtures::make(folder.path(), SMALL).unwrap();
    let program = Path::new(env!("CARGO_BIN_EXE_stages"));
    let counted = |name| count(program, Stage::named(name).unwrap(), folder.path()).unwrap().instructions;
    let (once, again) = (counted("parse"), counted("parse"));
    assert!((once / again - 1.0).abs() < 0.002, "{once} and {again} instructions");
    // A cached answer is parsed, and more.
    assert!(counted("cached") > once);
}
