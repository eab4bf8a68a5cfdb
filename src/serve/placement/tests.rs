//! Placements on machines that are written down.

use super::*;
use crate::serve::topology::tests::Fake;

const NAMED: Wishes<'_> = Wishes { cores: None, reader_cores: None, control_cores: None, smt: Smt::Use };

/// Two NUMA nodes of two physical cores with two threads each.
fn fake() -> Fake {
    Fake::default().physical_cores(&["0,4", "1,5", "2,6", "3,7"]).nodes(&["0-1,4-5", "2-3,6-7"])
}

fn place(wishes: Wishes<'_>, allowed: &[usize]) -> Placement {
    Placement::resolve(wishes, &fake().machine(), allowed).unwrap()
}

const ALL: [usize; 8] = [0, 1, 2, 3, 4, 5, 6, 7];

#[test]
fn without_wishes_every_core_has_a_worker_and_readers_leave_their_own() {
    let placement = place(NAMED, &ALL);
    assert_eq!(placement.workers, ALL);
    assert!(placement.siblings.is_empty());
    assert_eq!(placement.control, ALL);
    assert_eq!(placement.readers.of_worker(3), [0, 1, 2, 4, 5, 6, 7]);
    assert_eq!(
        placement.describe(),
        [
            "workers on cores 0,1,4,5 (NUMA node 0), 2,3,6,7 (NUMA node 1)",
            "reader threads on cores 0,1,4,5 (NUMA node 0), 2,3,6,7 (NUMA node 1), each but on its own worker's",
            "control threads on cores 0,1,4,5 (NUMA node 0), 2,3,6,7 (NUMA node 1)",
        ]
    );
}

#[test]
fn skipping_hyper_threads_leaves_a_worker_on_the_first_of_each_core() {
    let placement = place(Wishes { smt: Smt::Skip, ..NAMED }, &ALL);
    assert_eq!(placement.workers, [0, 1, 2, 3]);
    assert_eq!(placement.siblings, [4, 5, 6, 7]);
    // There is nothing else: their hyper-threads disturb workers less than being interrupted.
    assert_eq!(placement.control, [4, 5, 6, 7]);
    assert_eq!(placement.readers, ReaderCores::These(vec![4, 5, 6, 7]));
    assert!(placement.describe()[0].ends_with("; no worker on their hyper-threads 4-7"), "{placement:?}");
    // The first that the process may run on.
    assert_eq!(place(Wishes { smt: Smt::Skip, ..NAMED }, &[1, 3, 4, 5]).workers, [1, 3, 4]);
}

#[test]
fn other_threads_keep_away_from_workers_and_their_hyper_threads_while_there_is_room() {
    let cores = Some(&[2, 0][..]);
    let placement = place(Wishes { cores, ..NAMED }, &ALL);
    assert_eq!(placement.workers, [2, 0], "in the order that is named");
    assert_eq!((placement.control, placement.siblings), (vec![1, 3, 5, 7], vec![4, 6]));
    assert_eq!(placement.readers, ReaderCores::These(vec![1, 3, 5, 7]));
    let cores = Some(&[0, 1, 2, 3, 4][..]);
    assert_eq!(place(Wishes { cores, ..NAMED }, &ALL).control, [5, 6, 7], "hyper-threads of workers, if nothing else");
}

#[test]
fn what_is_named_is_taken_as_it_is() {
    let wishes = Wishes { reader_cores: Some(&[7]), control_cores: Some(&[0, 6]), ..NAMED };
    let placement = place(wishes, &ALL);
    assert_eq!((placement.readers, placement.control), (ReaderCores::These(vec![7]), vec![0, 6]));
}

#[test]
fn two_threads_of_one_core_are_refused_only_where_they_are_to_be_skipped() {
    let cores = Some(&[1, 4, 0][..]);
    assert_eq!(place(Wishes { cores, ..NAMED }, &ALL).workers, [1, 4, 0]);
    let error = Placement::resolve(Wishes { cores, smt: Smt::Skip, ..NAMED }, &fake().machine(), &ALL).unwrap_err();
    assert_eq!(error, CoresError::Siblings([4, 0]));
    assert_eq!(
        error.to_string(),
        "cores: 4 and 0 are hyper-threads of one core, and smt = \"skip\" gives a core one worker: name one of them, or set \
         smt = \"use\""
    );
}

#[test]
fn a_core_that_is_not_there_is_told_with_its_option() {
    let named = Some(&[8][..]);
    for (wishes, option) in [
        (Wishes { cores: named, ..NAMED }, "cores"),
        (Wishes { reader_cores: named, ..NAMED }, "reader_cores"),
        (Wishes { control_cores: named, ..NAMED }, "control_cores"),
    ] {
        assert_eq!(Placement::resolve(wishes, &fake().machine(), &ALL).unwrap_err().option(), option);
    }
}

#[test]
fn a_machine_of_one_core_has_everything_there_and_one_of_too_many_as_many_as_may_be() {
    let placement = place(NAMED, &[0]);
    assert_eq!((placement.readers.of_worker(0), placement.control), (vec![0], vec![0]));
    let many: Vec<usize> = (0..300).collect();
    assert_eq!(place(NAMED, &many).workers.len(), crate::limits::WORKERS_MAX);
    let wishes = Wishes { cores: Some(&many), ..NAMED };
    assert_eq!(Placement::resolve(wishes, &fake().machine(), &many), Err(CoresError::TooMany(300)));
}

#[test]
fn a_machine_that_tells_nothing_of_itself_is_placed_all_the_same() {
    let wishes = Wishes { cores: Some(&[0]), smt: Smt::Skip, ..NAMED };
    let placement = Placement::resolve(wishes, &Fake::default().machine(), &[0, 1]).unwrap();
    assert_eq!(placement.describe(), ["workers on core 0", "reader threads on core 1", "control threads on core 1"]);
}

#[test]
fn a_placement_is_told_as_the_readme_shows() {
    let cores: Vec<String> = (0..8).map(|core| format!("{core},{}", core + 8)).collect();
    let cores: Vec<&str> = cores.iter().map(String::as_str).collect();
    let fake = Fake::default().physical_cores(&cores).nodes(&["0-3,8-11", "4-7,12-15"]);
    let allowed: Vec<usize> = (0..16).collect();
    let wishes = Wishes { cores: Some(&[0, 1, 2, 4, 5, 6]), ..NAMED };
    let readme = include_str!("../../../README.md");
    for line in Placement::resolve(wishes, &fake.machine(), &allowed).unwrap().describe() {
        assert!(readme.contains(&format!("\n  {line}\n")), "{line}");
    }
}
