//! A build that is killed with SIGKILL leaves the old generation serving, and the next build cleans up.
//!
//! The child is this test program itself, told by an environment variable what to do. It says on its output where it is;
//! the parent kills it there. No clock is involved.

mod common;

use std::fs;
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, ChildStdout, Command, Stdio};

use common::{Reader, blocked, build, list};
use corewall_sharding::build::{BuildOptions, Builder};
use corewall_sharding::publish::Store;

/// Tells the child its store and whether it is to stop at each step.
const STORE: &str = "COREWALL_TEST_STORE";
const ENDLESS: &str = "COREWALL_TEST_ENDLESS";
/// Names in the child's builds.
const NAMES: u32 = 40_000;
/// Child processes killed at a moment that nobody chose.
const KILLS: usize = 12;

fn names() -> impl Iterator<Item = corewall_sharding::rule::Rule> {
    (0..NAMES).map(|number| blocked(&format!("host{number}.example")))
}

/// Not a test of its own: the child's work, when this program runs as the child.
#[test]
fn child() {
    let Ok(dir) = std::env::var(STORE) else { return };
    let store = Store::open(Path::new(&dir)).unwrap();
    if std::env::var(ENDLESS).is_ok() {
        loop {
            build(&store, 4, names().take(500)).unwrap().publish().unwrap();
            println!("step published");
        }
    }
    let mut builder =
        Builder::new(&store, BuildOptions { shards: 4, threads: Some(2), ..BuildOptions::default() }).unwrap();
    println!("step begun");
    builder.list(list("test")).unwrap();
    names().for_each(|rule| builder.push(&rule).unwrap());
    println!("step pushed");
    let mut built = builder.finish(&mut |stage, done, _| println!("step {stage:?} {done}")).unwrap();
    println!("step finished");
    built.add_sidecar("patterns.hs", b"compiled").unwrap();
    println!("step sidecar");
    built.publish().unwrap();
    println!("step published");
}

struct Killable {
    child: Child,
    output: std::io::Lines<BufReader<ChildStdout>>,
}

impl Killable {
    fn start(dir: &Path, endless: bool) -> Killable {
        let mut command = Command::new(std::env::current_exe().unwrap());
        command.args(["--exact", "child", "--nocapture"]).env(STORE, dir).stdout(Stdio::piped());
        if endless {
            command.env(ENDLESS, "1");
        }
        let mut child = command.spawn().unwrap();
        let output = BufReader::new(child.stdout.take().unwrap()).lines();
        Killable { child, output }
    }

    fn next_step(&mut self) -> Option<String> {
        // The first step may share its line with what the test runner says.
        self.output
            .by_ref()
            .map(Result::unwrap)
            .find_map(|line| line.split_once("step ").map(|(_, step)| step.to_owned()))
    }

    fn kill(mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }
}

fn first_generation(dir: &Path) -> Store {
    let store = Store::create_or_open(dir).unwrap();
    build(&store, 4, [blocked("first.example")]).unwrap().publish().unwrap();
    store
}

#[test]
fn a_build_killed_at_any_step_leaves_the_old_generation_serving() {
    let dir = tempfile::tempdir().unwrap();
    let mut whole = Killable::start(first_generation(dir.path()).dir(), false);
    let steps = std::iter::from_fn(|| whole.next_step()).count();
    whole.kill();
    assert!(steps > 10, "{steps} steps");
    for kill_at in 1..steps {
        let dir = tempfile::tempdir().unwrap();
        let store = first_generation(dir.path());
        let mut child = Killable::start(dir.path(), false);
        for _ in 0..kill_at {
            child.next_step().unwrap();
        }
        child.kill();
        let mut reader = Reader::open(&store);
        reader.generation.verify().unwrap();
        // The child runs on between its word and the signal, so it may have published after all; never half.
        let other = if reader.generation.number == 1 { "first.example" } else { "host39999.example" };
        assert_eq!(reader.class_ids(other), [0], "killed at step {kill_at}");

        let number = build(&store, 4, [blocked("next.example")]).unwrap().publish().unwrap();
        assert!(number > reader.generation.number);
        assert_eq!(Reader::open(&store).class_ids("next.example"), [0]);
        let left = fs::read_dir(dir.path().join("generations")).unwrap().map(|entry| entry.unwrap().file_name());
        assert!(left.into_iter().all(|name| !name.to_string_lossy().starts_with('.')), "leftovers are removed");
    }
}

#[test]
fn a_store_stays_whole_when_publications_are_killed_at_random() {
    let dir = tempfile::tempdir().unwrap();
    let store = first_generation(dir.path());
    for kill in 0..KILLS {
        let mut child = Killable::start(dir.path(), true);
        for _ in 0..=kill % 3 {
            child.next_step().unwrap();
        }
        // The child is somewhere in its next build or publication now.
        child.kill();
        let mut reader = Reader::open(&store);
        reader.generation.verify().unwrap();
        assert_eq!(reader.class_ids("host499.example"), [0]);
        for number in store.numbers().unwrap() {
            store.generation(number).unwrap().verify().unwrap();
        }
    }
}
