//! `generations`, `publish`, `rollback`, `verify`, `prune` and `plan`.

use std::fs::{self, File};

use serde_json::json;

use crate::site::{Folder, damage};

fn current(folder: &Folder) -> u64 {
    folder.store().current_number().unwrap().unwrap()
}

#[test]
fn generations_are_listed_with_the_current_one_and_the_one_before() {
    let folder = Folder::new();
    assert_eq!(folder.on_store(&["generations"]).code, Some(2), "there is no store");
    folder.build("a.example\nb.example\n");
    folder.build("a.example\n");
    let listed = folder.json(&["generations"]);
    assert_eq!((&listed["current"], &listed["before"], &listed["served"]), (&json!(2), &json!(1), &json!(null)));
    let first = &listed["generations"][0];
    for (key, value) in [("number", json!(1)), ("rules", json!(2)), ("lists", json!(1)), ("shards", json!(3))] {
        assert_eq!(first[key], value, "{key}");
    }
    assert_eq!((&first["layout"], &first["overlay_seq"]), (&json!("sql"), &json!(0)));
    assert!(first["bytes"].as_u64().unwrap() > 10_000);
    let text = folder.on_store(&["generations"]).out;
    let line = |number: &str| {
        let line = text.lines().find(|line| line.trim_start().starts_with(number));
        line.unwrap_or_else(|| panic!("{text}")).to_owned()
    };
    assert!(line("1 ").contains(" before ") && line("2 ").contains(" current "), "{text}");
    assert!(line("1 ").contains(" UTC ") && text.contains("no running server"), "{text}");
    // One that cannot be read is told, and does not hide the others.
    damage(&folder.file(1, "manifest.toml"));
    let listed = folder.on_store(&["generations"]);
    assert_eq!(listed.code, Some(0));
    assert!(listed.out.contains("manifest.toml: is damaged"), "{}", listed.out);
}

#[test]
fn a_roll_back_leads_to_what_served_before_and_never_forward() {
    let folder = Folder::new();
    for names in ["a.example\n", "b.example\n", "c.example\n"] {
        folder.build(names);
    }
    let rolled = folder.json(&["rollback"]);
    assert_eq!((&rolled["current"], &rolled["was"]), (&json!(2), &json!(3)));
    assert!(rolled["not_reloaded"].as_str().unwrap().contains("none listens on"), "{rolled}");
    // 3 was the bad one: what is built next replaces 2, and a roll-back from it leads there.
    assert_eq!(folder.build("d.example\n"), 4);
    assert_eq!((folder.json(&["rollback"])["current"].clone(), current(&folder)), (json!(2), 2));
    // 1 was removed by the build, as the fourth.
    let refused = folder.on_store(&["rollback"]);
    assert_eq!((refused.code, current(&folder)), (Some(1), 2), "{refused:?}");
    assert!(refused.err.contains("there is no generation before 2"), "{}", refused.err);
    let published = folder.on_store(&["publish", "3"]);
    assert_eq!((published.code, current(&folder)), (Some(0), 3));
    assert!(published.out.starts_with("generation 3 is the current one; it was 2\n"), "{}", published.out);
    assert!(published.out.contains("goes over by `corewall reload`"), "{}", published.out);
    assert_eq!(folder.json(&["rollback"])["current"], json!(2));
}

#[test]
fn a_generation_that_cannot_be_opened_is_not_published() {
    let folder = Folder::new();
    folder.build("a.example\n");
    folder.build("b.example\n");
    let path = folder.file(1, "dns_shard_00.db");
    File::options().write(true).open(&path).unwrap().set_len(100).unwrap();
    for arguments in [&["publish", "1"][..], &["rollback"], &["publish", "9"]] {
        let refused = folder.on_store(arguments);
        assert_eq!((refused.code, current(&folder)), (Some(1), 2), "{arguments:?}: {refused:?}");
    }
    assert!(folder.on_store(&["publish", "1"]).err.contains("dns_shard_00.db"), "the file is named");
    assert!(folder.on_store(&["publish", "9"]).err.contains("there is no generation 9"));
    assert_eq!(folder.on_store(&["publish", "0"]).code, Some(2));
}

#[test]
fn a_roll_back_does_not_wait_for_a_build() {
    let folder = Folder::new();
    folder.build("a.example\n");
    folder.build("b.example\n");
    // As a build holds it.
    let lock = File::create(folder.path("store/lock")).unwrap();
    lock.lock().unwrap();
    assert_eq!(folder.json(&["rollback"])["current"], json!(1));
}

#[test]
fn verify_tells_every_bad_file() {
    let folder = Folder::new();
    let names: String = (0..500).map(|number| format!("host{number}.example\n*.below{number}.example\n")).collect();
    folder.build(&names);
    folder.build(&names);
    let verified = folder.json(&["verify", "--all", "--sample", "100"]);
    for (place, number) in [(0, 1), (1, 2)] {
        assert_eq!((&verified[place]["generation"], &verified[place]["rows"]), (&json!(number), &json!(300)));
        // Three shards with a filter and places each, and no patterns, nor refused lines.
        assert_eq!((&verified[place]["files"], &verified[place]["bad"]), (&json!(9), &json!([])));
    }
    for file in ["dns_shard_00.db", "dns_shard_01.places", "dns_shard_02.filter"] {
        damage(&folder.file(1, file));
    }
    let bad = folder.on_store(&["verify", "1", "--rate-mib", "1000"]);
    assert_eq!(bad.code, Some(1), "{bad:?}");
    assert_eq!(bad.err.lines().count(), 3, "{}", bad.err);
    for file in ["dns_shard_00.db: is damaged", "dns_shard_01.places: is damaged", "dns_shard_02.filter: is damaged"] {
        assert!(bad.err.contains(file), "{}", bad.err);
    }
    assert!(bad.out.contains("3 things are wrong"), "{}", bad.out);
    assert_eq!(folder.on_store(&["verify"]).code, Some(0), "the current one is whole");
    fs::remove_file(folder.file(1, "manifest.toml")).unwrap();
    assert!(folder.on_store(&["verify", "1"]).err.contains("cannot open the manifest"));
    assert_eq!(folder.on_store(&["verify", "1", "--all"]).code, Some(2));
}

#[test]
fn verify_finds_a_row_that_no_query_would_find() {
    let folder = Folder::new();
    folder.build("a.example\nb.example\nc.example\nd.example\n");
    // A store whose files are as their sums say, and whose filter does not hold what its shard has: as a mistake of the build
    // would leave it.
    let path = folder.file(1, "dns_shard_00.db");
    let conn = rusqlite::Connection::open(&path).unwrap();
    let before = fs::metadata(&path).unwrap().len();
    conn.execute("INSERT INTO rule VALUES ('foreign.example', 0)", []).unwrap();
    drop(conn);
    assert_eq!(fs::metadata(&path).unwrap().len(), before);
    let manifest = folder.file(1, "manifest.toml");
    let sum = |octets: &[u8]| format!("{:016x}", xxhash_rust::xxh3::xxh3_64(octets));
    let text = fs::read_to_string(&manifest).unwrap();
    let rest = text.split_once('\n').unwrap().1;
    let entry = rest.find("dns_shard_00.db").unwrap();
    let at = entry + rest[entry..].find("xxh3 = \"").unwrap() + 8;
    let rest = format!("{}{}{}", &rest[..at], sum(&fs::read(&path).unwrap()), &rest[at + 16..]);
    fs::write(&manifest, format!("checksum = \"{}\"\n{rest}", sum(rest.as_bytes()))).unwrap();
    assert_eq!(folder.on_store(&["verify", "--sample", "0"]).code, Some(0), "the sums alone do not tell");
    let bad = folder.on_store(&["verify"]);
    assert_eq!(bad.code, Some(1), "{bad:?}");
    assert!(bad.err.contains("its rule on `foreign.example`"), "{}", bad.err);
}

#[test]
fn prune_keeps_the_current_generation_and_the_one_before() {
    let folder = Folder::new();
    for names in ["a.example\n", "b.example\n", "c.example\n"] {
        folder.build(names);
    }
    folder.json(&["publish", "1"]);
    folder.json(&["publish", "2"]);
    let leftover = folder.path("store/generations/.building-4711");
    let resumable = folder.path("store/generations/.building-4712");
    for dir in [&leftover, &resumable] {
        fs::create_dir(dir).unwrap();
        fs::write(dir.join("dns_shard_00.db"), [0; 100]).unwrap();
    }
    fs::write(resumable.join("journal"), "").unwrap();
    fs::create_dir(resumable.join("generation")).unwrap();
    let numbers = || folder.store().numbers().unwrap();
    let would = folder.json(&["prune", "--keep", "1", "--dry-run"]);
    assert_eq!((&would["kept"], &would["removed"]), (&json!([1, 2]), &json!([3])));
    assert!(leftover.exists() && numbers() == [1, 2, 3], "it was a dry run");
    // While a build runs, its directory is not taken for a leftover.
    let lock = File::create(folder.path("store/lock")).unwrap();
    lock.lock().unwrap();
    let pruned = folder.on_store(&["prune"]);
    assert!(pruned.out.contains("a build runs") && leftover.exists() && numbers() == [1, 2, 3], "{pruned:?}");
    drop(lock);
    let pruned = folder.json(&["prune", "--keep", "1"]);
    assert_eq!((&pruned["kept"], &pruned["removed"]), (&json!([1, 2]), &json!([3])));
    assert!(pruned["bytes"].as_u64().unwrap() > 10_000, "{pruned}");
    assert_eq!((leftover.exists(), resumable.exists(), numbers()), (false, true, vec![1, 2]));
    folder.json(&["prune", "--builds"]);
    assert!(!resumable.exists());
    assert_eq!(folder.on_store(&["prune", "--keep", "0"]).code, Some(2));
}

#[test]
fn a_plan_tells_its_figures_and_what_it_assumes() {
    let folder = Folder::new();
    let text = folder.told(&["plan", "--rules", "1e9", "--cores", "4", "--layout", "packed", "--memory", "64"]);
    for part in ["1000000000 rules, layout packed", "shards advised    256", "cold reads", "assuming", "--hit-percent"]
    {
        assert!(text.contains(part), "{part} is not in\n{text}");
    }
    let plan = folder.told(&["plan", "--rules", "1000000", "--cores", "1", "--json"]);
    let plan: serde_json::Value = serde_json::from_str(&plan).unwrap();
    assert!((30.0..32.0).contains(&plan["bytes_per_rule"].as_f64().unwrap()), "{plan}");
    assert_eq!(folder.run(&["plan", "--rules", "many", "--cores", "1"]).code, Some(2));
}
