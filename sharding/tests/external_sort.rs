//! What comes out of a build does not depend on how its rules were spread over threads, parts, runs and merges, nor on whether it
//! was killed in between.
//!
//! The child that is killed is this test program itself, told by an environment variable what to do. It says on its output where
//! it is; the parent kills it there. No clock is involved.

mod common;

use std::collections::BTreeMap;
use std::fs;
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};

use common::{list, name, named};
use corewall_sharding::StoreError;
use corewall_sharding::build::{BuildOptions, Builder, Built, PartId, Resumed};
use corewall_sharding::publish::Store;
use corewall_sharding::route::SubtreeDepths;
use corewall_sharding::rule::{Answer, BlockMode, Class, IpRewrite, Kind, Rule, RuleKey, Scope};

/// Tells the child its store and what it is to resume.
const STORE: &str = "COREWALL_TEST_STORE";
const IDENTITY: &str = "COREWALL_TEST_IDENTITY";
/// Rules by name, in parts of so many.
const RULES: u32 = 24_000;
const PART: u32 = 1_500;
const PARTS: u32 = RULES / PART;
/// A collector's share is then the least that there is, so there are many runs.
const TINY: u64 = 1;

/// Rule `number` of all: names that come again in other parts, several classes, aliases with targets of their own.
fn rule(number: u32) -> Rule {
    let text = format!("host{}.example{}.org", number.wrapping_mul(2_654_435_761) % 9_000, number % 3);
    let class = |scope| Class::plain(Kind::Block, scope, (number / 12_000) as u16);
    match number % 11 {
        0 => {
            let class = Class::plain(Kind::Alias, Scope::Subtree, 0);
            let key = RuleKey::Name { name: name(&text), target: Some(name(&format!("target{number}.example"))) };
            Rule { class, key }
        }
        1 => named(&class(Scope::Subtree), &text),
        2 => named(&Class { answer: Some(Answer::Mode(BlockMode::Drop)), ..class(Scope::Exact) }, &text),
        3 if number % 1_000 < 500 => {
            let key = RuleKey::Address { net: format!("10.{}.0.0/16", number % 250).parse().unwrap(), target: None };
            Rule { class: class(Scope::Address), key }
        }
        _ => named(&class(Scope::Exact), &text),
    }
}

fn part_id(part: u32) -> PartId {
    PartId { list: (part * PART / 12_000) as u16, part }
}

struct Plan {
    threads: usize,
    memory_bytes: u64,
    /// Parts are handed out from the last to the first.
    backwards: bool,
    identity: &'static str,
}

impl Plan {
    const PLAIN: Plan = Plan { threads: 1, memory_bytes: 1 << 30, backwards: false, identity: "" };

    fn begin(&self, store: &Store) -> Builder {
        let options = BuildOptions {
            shards: 3,
            threads: Some(self.threads),
            memory_bytes: self.memory_bytes,
            identity: self.identity.into(),
            resume: true,
            ..BuildOptions::default()
        };
        let mut builder = Builder::new(store, options).unwrap();
        for name in ["one", "two"] {
            builder.list(list(name)).unwrap();
        }
        builder
    }

    /// Reads what is not finished, telling each part.
    fn run(&self, mut builder: Builder, say: &(dyn Fn(String) + Sync)) -> Result<Built, StoreError> {
        let finished = builder.finished_parts();
        for (id, note) in &finished {
            assert_eq!(*note, id.part.to_le_bytes(), "the note of the part");
        }
        let next = AtomicUsize::new(0);
        std::thread::scope(|scope| {
            let (next, finished) = (&next, &finished);
            let read = |mut collector: corewall_sharding::build::Collector| {
                scope.spawn(move || {
                    loop {
                        let part = next.fetch_add(1, Ordering::Relaxed) as u32;
                        if part >= PARTS {
                            return collector.finish();
                        }
                        let part = if self.backwards { PARTS - 1 - part } else { part };
                        if finished.contains_key(&part_id(part)) {
                            continue;
                        }
                        (part * PART..(part + 1) * PART).try_for_each(|number| collector.push(&rule(number)))?;
                        let from = format!("192.0.2.{}/32", part % 5).parse().unwrap();
                        let to = format!("198.51.100.{part}").parse().unwrap();
                        collector.rewrite(IpRewrite { from, to, list: 1 });
                        collector.end_part(part_id(part), part.to_le_bytes().to_vec())?;
                        say(format!("part {part}"));
                    }
                })
            };
            let readers: Vec<_> = (0..self.threads).map(|_| read(builder.collector())).collect();
            readers.into_iter().try_for_each(|reader| reader.join().unwrap())
        })?;
        let pattern = Class::plain(Kind::Block, Scope::Pattern, 1);
        let key = RuleKey::Pattern { regex: "^ad".into(), target: None };
        builder.push(&Rule { class: pattern, key })?;
        builder.finish(&mut |stage, done, _| say(format!("{stage:?} {done}")))
    }

    fn build(&self, store: &Store) -> Built {
        self.run(self.begin(store), &|_| {}).unwrap()
    }
}

/// A store whose key is always the same.
fn store(dir: &Path) -> Store {
    Store::create_or_open(dir).unwrap();
    fs::write(dir.join("key"), "000102030405060708090a0b0c0d0e0f\n").unwrap();
    Store::open(dir).unwrap()
}

/// The current generation's files, without the time in the manifest.
fn content(store: &Store) -> BTreeMap<String, Vec<u8>> {
    let generation = store.current().unwrap();
    generation.verify().unwrap();
    let mut manifest = generation.manifest.clone();
    manifest.created_s = 0;
    let files =
        manifest.files.iter().map(|file| (file.name.clone(), fs::read(generation.dir.join(&file.name)).unwrap()));
    let mut content: BTreeMap<_, _> = files.collect();
    content.insert("manifest".into(), format!("{manifest:?}").into_bytes());
    content
}

fn built(plan: &Plan) -> (BTreeMap<String, Vec<u8>>, u64) {
    let dir = tempfile::tempdir().unwrap();
    let store = store(dir.path());
    let built = plan.build(&store);
    let runs = built.report.runs;
    built.publish().unwrap();
    (content(&store), runs)
}

#[test]
fn many_runs_threads_and_merges_give_the_bytes_that_one_run_gives() {
    let (expected, runs) = built(&Plan::PLAIN);
    assert_eq!(runs, 1);
    for (threads, memory_bytes, backwards) in
        [(1, TINY, false), (1, TINY, true), (3, TINY, false), (4, 1 << 30, true), (2, 400_000, false)]
    {
        let (found, runs) = built(&Plan { threads, memory_bytes, backwards, ..Plan::PLAIN });
        assert!(found == expected, "{threads} threads, {memory_bytes} bytes, backwards {backwards}");
        assert!(memory_bytes > TINY || runs > 12, "{runs} runs: more than are merged at once");
    }
}

#[test]
fn parts_larger_than_the_memory_give_the_same_bytes() {
    // The builder's own rules are one part, of which each run is a piece.
    let of = |memory_bytes| {
        let dir = tempfile::tempdir().unwrap();
        let store = store(dir.path());
        let options = BuildOptions { shards: 2, memory_bytes, threads: Some(2), ..BuildOptions::default() };
        let mut builder = Builder::new(&store, options).unwrap();
        for name in ["one", "two"] {
            builder.list(list(name)).unwrap();
        }
        (0..RULES).for_each(|number| builder.push(&rule(number)).unwrap());
        let built = builder.finish(&mut |_, _, _| {}).unwrap();
        let runs = built.report.runs;
        built.publish().unwrap();
        (content(&store), runs)
    };
    let ((whole, one), (pieces, many)) = (of(1 << 30), of(TINY));
    assert!(whole == pieces);
    assert!(one == 1 && many > 10, "{one} and {many} runs");
}

#[test]
fn the_depths_of_subtree_rules_are_those_that_there_are() {
    let dir = tempfile::tempdir().unwrap();
    let store = store(dir.path());
    let class = |scope| Class::plain(Kind::Block, scope, 0);
    let rules = [
        named(&class(Scope::Exact), "a.b.c.example"),
        named(&class(Scope::Subtree), "b.example"),
        named(&class(Scope::Below), "c.b.a.d.example"),
    ];
    common::build(&store, 4, rules).unwrap().publish().unwrap();
    assert_eq!(store.current().unwrap().manifest.subtree_depths, SubtreeDepths(1 << 2 | 1 << 5));
}

#[test]
fn a_collector_that_is_dropped_unfinished_fails_the_build() {
    let dir = tempfile::tempdir().unwrap();
    let store = store(dir.path());
    for push in [false, true] {
        let builder = Plan::PLAIN.begin(&store);
        let mut collector = builder.collector();
        if push {
            collector.push(&rule(1)).unwrap();
            assert!(collector.finish().is_err(), "its part was not ended");
        } else {
            drop(collector);
        }
        let error = builder.finish(&mut |_, _, _| {}).err().unwrap().to_string();
        assert!(error.contains("without handing its rules on"), "{error}");
    }
}

/// Not a test of its own: the child's work, when this program runs as the child.
#[test]
fn child() {
    let Ok(dir) = std::env::var(STORE) else { return };
    let identity: &str = Box::leak(std::env::var(IDENTITY).unwrap().into_boxed_str());
    let plan = Plan { threads: 2, memory_bytes: TINY, identity, ..Plan::PLAIN };
    let store = Store::open(Path::new(&dir)).unwrap();
    let builder = plan.begin(&store);
    println!("step {:?}", builder.resumed());
    let built = match plan.run(builder, &|step| println!("step {step}")) {
        Ok(built) => built,
        Err(error) => return println!("step error {error}"),
    };
    println!("step finished");
    built.publish().unwrap();
    println!("step published");
}

/// Runs the child until it has said `steps` steps, then kills it; gives what it said.
fn killed_after(dir: &Path, identity: &str, steps: usize) -> Vec<String> {
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "child", "--nocapture"])
        .env(STORE, dir)
        .env(IDENTITY, identity)
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let said = lines.filter_map(|line| line.unwrap().split_once("step ").map(|(_, step)| step.to_owned()));
    let said = said.take(steps).collect();
    child.kill().unwrap();
    child.wait().unwrap();
    said
}

#[test]
fn a_build_killed_again_and_again_goes_on_and_gives_the_same_bytes() {
    let (expected, _) = built(&Plan::PLAIN);
    let whole = {
        let dir = tempfile::tempdir().unwrap();
        store(dir.path());
        killed_after(dir.path(), "same", usize::MAX)
    };
    assert_eq!(whole.last().unwrap(), "published");
    let mut goes_on = 0;
    for stride in [3, 7, whole.len() / 2, whole.len() - 2] {
        let dir = tempfile::tempdir().unwrap();
        let store = store(dir.path());
        for attempt in 1.. {
            // Further each time, so that it comes to an end also when nothing was finished yet.
            let said = killed_after(dir.path(), "same", stride * attempt);
            goes_on += usize::from(said[0].starts_with("From") && !said[0].contains("parts: 0"));
            if store.current_number().unwrap().is_some() {
                break;
            }
        }
        assert!(content(&store) == expected, "killed every {stride} steps");
        let left = fs::read_dir(dir.path().join("generations")).unwrap().map(|entry| entry.unwrap().file_name());
        let left: Vec<_> = left.filter(|name| name.to_string_lossy().starts_with('.')).collect();
        // Killed right behind the publication it may leave runs; the next build removes them.
        if !left.is_empty() {
            drop(Plan::PLAIN.begin(&store));
        }
        assert_eq!(fs::read_dir(dir.path().join("generations")).unwrap().count(), 1);
    }
    assert!(goes_on > 3, "{goes_on} builds went on");
}

/// Runs the child with files of at most so many KiB, which fails just as a full disk does; gives its last word.
fn limited(dir: &Path, identity: &str, kib: u32) -> String {
    let output = Command::new("sh")
        .args(["-c", &format!("trap '' XFSZ; ulimit -f {}; exec \"$0\" --exact child --nocapture", 2 * kib)])
        .arg(std::env::current_exe().unwrap())
        .env(STORE, dir)
        .env(IDENTITY, identity)
        .output()
        .unwrap();
    let said = String::from_utf8(output.stdout).unwrap();
    said.lines().filter_map(|line| line.split_once("step ")).next_back().unwrap().1.to_owned()
}

#[test]
fn a_disk_that_is_full_is_named_leaves_the_old_generation_and_can_be_gone_on_from() {
    let (expected, _) = built(&Plan::PLAIN);
    let dir = tempfile::tempdir().unwrap();
    let store = store(dir.path());
    let builds = || fs::read_dir(dir.path().join("generations")).unwrap().count();
    // Too little for a run: nothing is worth keeping, and nothing is left.
    let error = limited(dir.path(), "same", 4);
    assert!(error.starts_with("error") && error.contains("run-0000"), "{error}");
    assert_eq!((builds(), store.current_number().unwrap()), (0, None));
    // Enough for the runs but not for a shard.
    let error = limited(dir.path(), "same", 150);
    assert!(error.contains("dns_shard_0") && error.contains("kept in") && error.contains("--resume"), "{error}");
    assert_eq!((builds(), store.current_number().unwrap()), (1, None));
    let said = killed_after(dir.path(), "same", usize::MAX);
    assert_eq!((said[0].as_str(), said.last().unwrap().as_str()), ("From { parts: 16, shards: 0 }", "published"));
    assert!(content(&store) == expected);
    // A build without an identity leaves nothing in any case.
    let error = limited(dir.path(), "", 150);
    assert!(error.contains("dns_shard_0") && !error.contains("kept in"), "{error}");
    assert_eq!((builds(), store.current_number().unwrap()), (1, Some(1)));
}

#[test]
fn finished_parts_and_shards_are_taken_over_and_everything_else_is_not() {
    let (expected, _) = built(&Plan::PLAIN);
    let dir = tempfile::tempdir().unwrap();
    let store = store(dir.path());
    let plan = Plan { identity: "same", ..Plan::PLAIN };
    // All is written, nothing published, as when a compiler of patterns is killed.
    assert!(plan.begin(&store).keep().is_some());
    let built = plan.build(&store);
    std::mem::forget(built);
    let root = fs::read_dir(dir.path().join("generations")).unwrap().next().unwrap().unwrap().path();
    fs::write(root.join("run-000099"), "half a run").unwrap();
    fs::write(root.join("generation/patterns.hs"), "half a sidecar").unwrap();
    let shard = root.join("generation/dns_shard_01.db");
    let mut bytes = fs::read(&shard).unwrap();
    *bytes.last_mut().unwrap() ^= 1;
    fs::write(&shard, bytes).unwrap();
    unlock(&store);
    let builder = plan.begin(&store);
    assert_eq!(*builder.resumed(), Resumed::From { parts: u64::from(PARTS), shards: 3 });
    assert!(!root.join("run-000099").exists() && !root.join("generation/patterns.hs").exists());
    let built = plan.run(builder, &|_| {}).unwrap();
    assert_eq!((built.report.parts_resumed, built.report.shards_resumed), (u64::from(PARTS), 2), "one was damaged");
    built.publish().unwrap();
    assert!(content(&store) == expected);
}

/// A forgotten build holds the lock as long as this process lives; its file goes, as it does with a killed process.
fn unlock(store: &Store) {
    fs::remove_file(store.dir().join("lock")).unwrap();
}

#[test]
fn other_lists_options_or_damaged_runs_begin_anew_and_say_so() {
    let dir = tempfile::tempdir().unwrap();
    let store = store(dir.path());
    let plan = Plan { identity: "same", memory_bytes: TINY, ..Plan::PLAIN };
    let interrupted = || {
        let builder = plan.begin(&store);
        let mut collector = builder.collector();
        for part in 0..PARTS {
            (part * PART..(part + 1) * PART).for_each(|number| collector.push(&rule(number)).unwrap());
            collector.end_part(part_id(part), part.to_le_bytes().to_vec()).unwrap();
        }
        drop(collector);
        builder.keep().unwrap()
    };
    let anew = |builder: &Builder| {
        assert!(builder.finished_parts().is_empty());
        match builder.resumed() {
            Resumed::Anew(reason) => (*reason).to_owned(),
            other => panic!("{other:?}"),
        }
    };
    let root = interrupted();
    let builder = Plan { identity: "other", ..plan }.begin(&store);
    assert!(anew(&builder).contains("other lists"));
    drop(builder);
    assert!(!root.exists(), "what nobody can go on with is removed");

    let root = interrupted();
    let options = BuildOptions { shards: 5, identity: "same".into(), resume: true, ..BuildOptions::default() };
    assert!(anew(&Builder::new(&store, options).unwrap()).contains("options"));
    assert!(!root.exists());

    let root = interrupted();
    fs::write(root.join("journal"), "CWBLD").unwrap();
    assert!(anew(&plan.begin(&store)).contains("no journal"));

    // Killed when the generation had its number already, and the build's directory was not gone yet.
    let root = interrupted();
    fs::rename(root.join("generation"), root.with_file_name("00000001")).unwrap();
    assert!(!store.leftovers().unwrap().unwrap().found[0].is_resumable);
    assert!(anew(&plan.begin(&store)).contains("complete but for its publication"));
    assert!(root.with_file_name("00000001").is_dir(), "it stays as it is");
    fs::remove_dir_all(root.with_file_name("00000001")).unwrap();

    // A run that was cut short costs its own parts alone.
    let root = interrupted();
    let run = root.join("run-000001");
    let bytes = fs::read(&run).unwrap();
    fs::write(&run, &bytes[..bytes.len() - 1]).unwrap();
    let builder = plan.begin(&store);
    let parts = builder.finished_parts().len();
    assert!((1..PARTS as usize).contains(&parts), "{parts} parts");
    drop(builder);

    // One whose bytes were exchanged is found when it is read.
    let root = interrupted();
    let run = root.join("run-000001");
    let mut bytes = fs::read(&run).unwrap();
    bytes[40] ^= 1;
    fs::write(&run, bytes).unwrap();
    let error = plan.run(plan.begin(&store), &|_| {}).err().unwrap().to_string();
    assert!(error.contains("run-000001") && error.contains("checksum"), "{error}");
    assert!(!root.exists(), "it is of no use to a resumed build");
    assert_eq!(store.current_number().unwrap(), None);
}
