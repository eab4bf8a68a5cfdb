//! Where the filters of a generation lie, and who makes them ready beside the workers.
//!
//! Invariants: a worker asks the filters of one place, and nothing else of them; copies are made and files are read by threads
//! that answer no query. What is not ready yet answers "maybe", so that a start waits for a bounded part of the files only
//! ([`FILTER_BYTES_AT_OPENING`]); a reload waits for all of them, for the old generation answers meanwhile. A filter that is bad
//! is said, once, with what has become of it.

use std::fs;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Instant;

use core_affinity::CoreId;
use corewall_sharding::filters::{Filters, VERIFY_THREADS_MAX};
use corewall_sharding::publish::{FILTER_BYTES_AT_OPENING, Generation};
use serde::{Deserialize, Serialize};

use super::topology::Machine;
use crate::limits::FILTERS_SAID_MAX;

/// Where the kernel tells how much of this process's memory is in huge pages.
const SMAPS_ROLLUP: &str = "/proc/self/smaps_rollup";

/// Threads that compare checksums while workers answer: one reads some gigabytes a second, and cores are the workers'.
const BESIDE_WORKERS: usize = 1;

/// Where the filters lie.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum FilterPlacement {
    /// In the pages of their files, which the kernel may take back: one for all, also over several processes.
    #[default]
    Mapped,
    /// One copy for the process.
    Shared,
    /// A copy for each NUMA node that workers run on.
    Node,
    /// A copy for each worker.
    Worker,
}

/// How much of a generation's filters is to be ready before it is served.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Readiness {
    /// What a start has time for.
    Start,
    /// All of them: another generation answers meanwhile.
    Whole,
}

/// The places that filters lie in, each with the cores of its workers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FilterPlaces {
    placement: FilterPlacement,
    places: Vec<FilterPlace>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct FilterPlace {
    /// Cores of the workers that ask it.
    workers: Vec<usize>,
    /// Cores near its memory, those without a worker first: copies are made on the first that will do.
    near: Vec<usize>,
}

impl FilterPlaces {
    /// For workers on these cores.
    pub fn new(placement: FilterPlacement, cores: &[usize]) -> Self {
        let nodes = match placement {
            FilterPlacement::Node => Machine::here().nodes().into_iter().map(|node| node.cores).collect(),
            _ => Vec::new(),
        };
        Self::over(placement, cores, &nodes)
    }

    fn over(placement: FilterPlacement, cores: &[usize], nodes: &[Vec<usize>]) -> Self {
        let one = FilterPlace { workers: cores.to_vec(), near: Vec::new() };
        let places = match placement {
            FilterPlacement::Mapped | FilterPlacement::Shared => vec![one],
            FilterPlacement::Worker => {
                cores.iter().map(|&core| FilterPlace { workers: vec![core], near: vec![core] }).collect()
            }
            FilterPlacement::Node => {
                let of_node = |node: &Vec<usize>| {
                    let (workers, free): (Vec<usize>, Vec<usize>) = node.iter().partition(|core| cores.contains(core));
                    FilterPlace { near: [free, workers.clone()].concat(), workers }
                };
                let mut places: Vec<_> = nodes.iter().map(of_node).filter(|place| !place.workers.is_empty()).collect();
                let is_placed = |core: &usize| places.iter().any(|place| place.workers.contains(core));
                // Cores of which the kernel tells no node, on a machine with one node say.
                let rest: Vec<usize> = cores.iter().copied().filter(|core| !is_placed(core)).collect();
                if !rest.is_empty() {
                    places.push(FilterPlace { workers: rest, near: Vec::new() });
                }
                places
            }
        };
        Self { placement, places }
    }

    /// How many copies there are; none when the files are mapped.
    pub fn copies(&self) -> Option<usize> {
        (self.placement != FilterPlacement::Mapped).then_some(self.places.len())
    }

    /// Which place the worker on this core asks.
    pub fn of_core(&self, core: usize) -> usize {
        self.places.iter().position(|place| place.workers.contains(&core)).unwrap_or(0)
    }
}

/// Makes the filters ready that must be so before the generation is served.
pub fn prepare(generation: &Generation, places: &FilterPlaces, readiness: Readiness) {
    let (bytes_max, threads_max) = match readiness {
        Readiness::Start => (FILTER_BYTES_AT_OPENING, VERIFY_THREADS_MAX),
        Readiness::Whole => (u64::MAX, BESIDE_WORKERS),
    };
    generation.filters.verify(bytes_max, threads_max, &|| true);
    // Those of a place are copied together.
    if generation.filters.counts().unverified == 0 {
        copy(&generation.filters, places);
    }
}

/// Copies what is verified to every place, each on a core near it.
fn copy(filters: &Filters, places: &FilterPlaces) {
    if !filters.is_to_be_copied() {
        return;
    }
    let started = Instant::now();
    let copy_to = |index: usize, place: &FilterPlace| {
        // Pinned nowhere, the kernel's choice of memory is as good as any.
        let _ = place.near.iter().any(|&id| core_affinity::set_for_current(CoreId { id }));
        if let Err(error) = filters.copy_to(index) {
            tracing::error!(
                generation = filters.generation(),
                "no memory for a copy of the filters: {error}; they are asked in the pages of their files: free memory, or choose a \
                 filter_placement with fewer copies"
            );
        }
    };
    thread::scope(|scope| {
        for (index, place) in places.places.iter().enumerate() {
            scope.spawn(move || copy_to(index, place));
        }
    });
    filters.release_files();
    tracing::info!(
        generation = filters.generation(),
        copies = places.places.len(),
        bytes = filters.bytes_in_memory(),
        bytes_in_huge_pages = huge_page_bytes().unwrap_or(0),
        took_ms = started.elapsed().as_millis() as u64,
        "filters copied into memory"
    );
}

/// What a thread does for the filters of a generation that is being served; dropped, it ends with the file at hand.
pub struct FilterWork {
    is_wanted: Arc<AtomicBool>,
}

impl FilterWork {
    /// Starts reading, copying and rebuilding what is left to do; none when nothing is.
    pub fn begin(generation: &Arc<Generation>, places: &FilterPlaces) -> Option<FilterWork> {
        let filters = &generation.filters;
        if filters.counts().unverified == 0 && filters.bad().is_empty() && !filters.is_to_be_copied() {
            return None;
        }
        let is_wanted = Arc::new(AtomicBool::new(true));
        let work = FilterWork { is_wanted: is_wanted.clone() };
        let (generation, places) = (generation.clone(), places.clone());
        let run = move || finish(&generation, &places, &|| is_wanted.load(Ordering::Relaxed));
        if let Err(error) = thread::Builder::new().name("filters".to_owned()).spawn(run) {
            tracing::error!("shards answer in place of filters, for no thread can be started: {error}; start again");
        }
        Some(work)
    }
}

impl Drop for FilterWork {
    fn drop(&mut self) {
        self.is_wanted.store(false, Ordering::Relaxed);
    }
}

fn finish(generation: &Generation, places: &FilterPlaces, is_wanted: &(impl Fn() -> bool + Sync)) {
    let (filters, started) = (&generation.filters, Instant::now());
    let unverified = filters.counts().unverified;
    if unverified > 0 {
        filters.verify(u64::MAX, BESIDE_WORKERS, is_wanted);
    }
    if !is_wanted() {
        return;
    }
    copy(filters, places);
    if unverified > 0 {
        tracing::info!(
            generation = generation.number,
            filters = unverified,
            bytes = filters.file_bytes(),
            took_ms = started.elapsed().as_millis() as u64,
            "filters verified; until now the shards were asked for every name"
        );
    }
    rebuild(generation, is_wanted);
}

/// Makes bad filters again, or says that the shards answer without them.
fn rebuild(generation: &Generation, is_wanted: &impl Fn() -> bool) {
    let bad = generation.filters.bad();
    for (said, (shard, reason)) in bad.iter().enumerate() {
        if !is_wanted() {
            return;
        }
        let (started, outcome) = (Instant::now(), generation.rebuild_filter(*shard));
        if said >= FILTERS_SAID_MAX {
            continue;
        }
        match outcome {
            Ok(()) => tracing::warn!(
                generation = generation.number,
                shard,
                took_ms = started.elapsed().as_millis() as u64,
                "a filter is bad and was made again from its shard, for as long as this process runs: {reason}"
            ),
            Err(error) => tracing::error!(
                generation = generation.number,
                shard,
                "a filter is bad and cannot be made again ({error}); its shard answers without it: {reason}"
            ),
        }
    }
    if bad.len() > FILTERS_SAID_MAX {
        tracing::warn!(generation = generation.number, bad = bad.len(), "more filters are bad; see `corewall status`");
    }
}

/// Bytes of this process's memory in huge pages; none where the kernel does not tell.
pub fn huge_page_bytes() -> Option<u64> {
    let text = fs::read_to_string(SMAPS_ROLLUP).ok()?;
    let kib = text.lines().find_map(|line| line.strip_prefix("AnonHugePages:"))?;
    Some(kib.trim().strip_suffix("kB")?.trim().parse::<u64>().ok()? * 1_024)
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use corewall_sharding::build::{BuildOptions, Builder};
    use corewall_sharding::filters::FilterCounts;
    use corewall_sharding::publish::Store;
    use corewall_sharding::route::{self, Reach};
    use corewall_sharding::rule::{Class, Kind, List, Rule, RuleKey, Scope};

    use super::*;

    /// A store of a few names in four shards, the filter of one of them missing.
    fn store(folder: &Path) -> Store {
        let store = Store::create_or_open(folder).unwrap();
        let mut builder = Builder::new(&store, BuildOptions { shards: 4, ..BuildOptions::default() }).unwrap();
        builder.list(List::named("test")).unwrap();
        for number in 0..100 {
            let key = RuleKey::Name { name: format!("n{number}.example").parse().unwrap(), target: None };
            builder.push(&Rule { class: Class::plain(Kind::Block, Scope::Exact, 0), key }).unwrap();
        }
        let number = builder.finish(&mut |_, _, _| {}).unwrap().publish().unwrap();
        fs::remove_file(store.generation_dir(number).join("dns_shard_02.filter")).unwrap();
        store
    }

    /// Names of the store and others that it may hold.
    fn maybes(generation: &Generation) -> (usize, usize) {
        let may_hold = |letter: &str| {
            let hash = |number| route::hash(generation.key, &format!("{letter}{number}.example").parse().unwrap());
            (0..100).filter(|&number| generation.filters.contains(hash(number), Reach::Itself)).count()
        };
        (may_hold("n"), may_hold("m"))
    }

    #[test]
    fn what_a_start_has_no_time_for_is_verified_copied_and_rebuilt_beside_the_workers() {
        let folder = tempfile::tempdir().unwrap();
        let store = store(folder.path());
        for placement in [FilterPlacement::Mapped, FilterPlacement::Shared, FilterPlacement::Worker] {
            let places = FilterPlaces::new(placement, &[0, 1]);
            let generation = store.current_unverified(places.copies()).unwrap();
            assert_eq!(maybes(&generation), (100, 100));
            finish(&generation, &places, &|| false);
            assert_eq!(generation.filters.counts().unverified, 3, "nobody wants them any more");
            finish(&generation, &places, &|| true);
            let counts = FilterCounts { verified: 3, rebuilt: 1, ..FilterCounts::default() };
            assert_eq!(generation.filters.counts(), counts, "{placement:?}");
            let (listed, others) = maybes(&generation);
            assert!(listed == 100 && others < 10, "{placement:?}: {others} false alarms");
            assert!(FilterWork::begin(&Arc::new(generation), &places).is_none(), "nothing is left to do");
        }
    }

    #[test]
    fn a_small_store_is_ready_before_it_is_served_but_for_what_is_bad() {
        let folder = tempfile::tempdir().unwrap();
        let store = store(folder.path());
        for (placement, readiness) in
            [(FilterPlacement::Mapped, Readiness::Start), (FilterPlacement::Shared, Readiness::Whole)]
        {
            let places = FilterPlaces::new(placement, &[0]);
            let generation = store.current_unverified(places.copies()).unwrap();
            prepare(&generation, &places, readiness);
            let counts = FilterCounts { verified: 3, missing: 1, ..FilterCounts::default() };
            assert_eq!(generation.filters.counts(), counts);
            let (listed, others) = maybes(&generation);
            assert!(
                listed == 100 && (10..60).contains(&others),
                "{others}: one of four shards is asked for all its names"
            );
        }
    }

    fn of_cores(places: &FilterPlaces, cores: &[usize]) -> Vec<usize> {
        cores.iter().map(|&core| places.of_core(core)).collect()
    }

    #[test]
    fn each_worker_asks_the_place_of_its_placement() {
        let cores = [1, 2, 5, 6];
        let nodes = [vec![0, 1, 2, 3], vec![8, 9], vec![4, 5, 6, 7]];
        for (placement, copies, places) in [
            (FilterPlacement::Mapped, None, [0, 0, 0, 0]),
            (FilterPlacement::Shared, Some(1), [0, 0, 0, 0]),
            (FilterPlacement::Node, Some(2), [0, 0, 1, 1]),
            (FilterPlacement::Worker, Some(4), [0, 1, 2, 3]),
        ] {
            let over = FilterPlaces::over(placement, &cores, &nodes);
            assert_eq!((over.copies(), of_cores(&over, &cores)), (copies, places.to_vec()), "{placement:?}");
        }
    }

    #[test]
    fn a_node_s_copy_is_made_on_a_core_without_a_worker_and_cores_without_a_node_have_one_too() {
        let places = FilterPlaces::over(FilterPlacement::Node, &[0, 1, 9], &[vec![0, 1, 2]]);
        assert_eq!(places.places[0], FilterPlace { workers: vec![0, 1], near: vec![2, 0, 1] });
        assert_eq!(of_cores(&places, &[0, 1, 9]), [0, 0, 1]);
        let unknown = FilterPlaces::over(FilterPlacement::Node, &[0, 1], &[]);
        assert_eq!((unknown.copies(), of_cores(&unknown, &[0, 1])), (Some(1), vec![0, 0]));
    }
}
