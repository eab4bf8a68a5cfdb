//! What a server needs of a machine: its configuration and store, in numbers.
//!
//! The figures were measured (`bench/tuning.sh`, `tuning/limits.conf`), and bounds are those of `limits.rs`: a server never holds
//! more.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use corewall_sharding::manifest::Manifest;
use corewall_sharding::publish::Store;

use crate::build::resources::machine_bytes;
use crate::config::Config;
use crate::limits::{STORE_IN_MEMORY_PART, UPSTREAM_PORTS_MAX, UPSTREAM_TCP_CONNECTIONS_MAX};
use crate::serve::direct::StoreInMemory;
use crate::serve::filters::FilterPlacement;
use crate::serve::probe;

/// Bytes of memory that one worker's rings lock, and as much again for a restart: the kernel takes the last server's down a
/// moment after its end. Eight workers of one user start with 2,048 KiB and not with 1,536.
const MEMLOCK_BYTES_PER_WORKER: u64 = 2 * 256 * 1024;
/// Files of a worker beside its shards, listeners and connections: 13 were counted.
const FILES_PER_WORKER_BESIDE: u64 = 16;
/// Files and mappings of a process whatever it serves: some 8 and some 100 were counted, and a build's child comes and goes.
const FILES_BESIDE: u64 = 64;
const MAPPINGS_BESIDE: u64 = 512;
/// Shards of a store that is not built yet and whose number nobody has set.
const SHARDS_LEAST: u64 = 16;

/// What a server needs, and where.
#[derive(Clone, Debug)]
pub struct Site {
    /// The file that says so; none when there is none and the defaults count.
    pub configuration: Option<PathBuf>,
    /// Cores with a worker each, in the order of the workers.
    pub cores: Vec<usize>,
    /// Addresses that are listened on; none when nobody has said.
    pub listen: Vec<SocketAddr>,
    /// Interfaces that were named instead.
    pub interfaces: Vec<String>,
    /// Where the store lies or will: its real path, as far as it exists.
    pub store: PathBuf,
    /// Shards of the current generation.
    pub shards: u64,
    /// Bytes of its filters in memory, with their copies.
    pub filter_bytes: u64,
    /// Bytes of shards that are locked in memory; 0 when they are not to be, or do not fit.
    pub locked_bytes: u64,
    /// Bytes of one worker's response cache.
    pub cache_bytes: u64,
    /// TCP clients of one worker.
    pub tcp_connections: u64,
    /// Whether shards are mapped when a worker reads them itself.
    pub mmap: bool,
    /// Threads of each worker that read what is not in memory.
    pub store_readers: u64,
    /// The process whose limits are looked at; none for this one.
    pub pid: Option<u32>,
}

impl Site {
    /// What this configuration asks for. A store that is not there, or not readable, counts as one of the least size.
    pub fn new(config: &Config, configuration: Option<PathBuf>, cores: Vec<usize>) -> Self {
        let generation = Store::open(&config.store).ok().and_then(|store| {
            let number = store.current_number().ok()??;
            store.manifest(number).ok()
        });
        let shards = generation.as_ref().map(|manifest| u64::from(manifest.shards));
        let filters = generation.iter().flat_map(|manifest| &manifest.files);
        let filters = filters.filter(|file| file.name.ends_with(FILTER_NAME_END)).map(|file| file.size).sum::<u64>();
        let locked_bytes = generation.as_ref().map_or(0, |manifest| locked_bytes(manifest, config.store_in_memory));
        let copies = match config.filter_placement {
            FilterPlacement::Worker => cores.len() as u64,
            _ => 1,
        };
        Self {
            listen: if configuration.is_some() { config.listen.clone() } else { Vec::new() },
            interfaces: Vec::new(),
            store: real(&config.store),
            shards: shards.or(config.build.shards.map(u64::from)).unwrap_or(SHARDS_LEAST),
            filter_bytes: filters * copies,
            locked_bytes,
            cache_bytes: config.cache.bytes as u64,
            tcp_connections: config.tcp.connections as u64,
            mmap: config.mmap,
            store_readers: config.store_readers as u64,
            pid: None,
            configuration,
            cores,
        }
    }

    /// Workers.
    pub fn workers(&self) -> u64 {
        self.cores.len() as u64
    }

    /// Bytes that are locked: rings of all workers, and the store.
    pub fn memlock_bytes(&self) -> u64 {
        (self.workers() * MEMLOCK_BYTES_PER_WORKER).max(probe::MEMLOCK_BYTES_MIN) + self.locked_bytes
    }

    /// Files that the server may have open: two generations' shards while it goes over to a newer one, for the worker and each
    /// of its readers. Not less than it asks for at its start.
    pub fn files(&self) -> u64 {
        let listeners = 2 * self.listen.len().max(1) as u64;
        let upstreams = (UPSTREAM_PORTS_MAX + UPSTREAM_TCP_CONNECTIONS_MAX) as u64;
        let worker = 2 * self.shards * (1 + self.store_readers)
            + listeners
            + upstreams
            + self.tcp_connections
            + FILES_PER_WORKER_BESIDE;
        let asked = probe::files_wanted(self.cores.len(), usize::try_from(self.tcp_connections).unwrap_or(usize::MAX));
        (FILES_BESIDE + self.workers() * worker).max(asked)
    }

    /// Mappings that it may have: filters once, shards once a worker where workers map them, two generations of each.
    pub fn mappings(&self) -> u64 {
        let mapped_by_workers = if self.mmap && self.store_readers == 0 { self.workers() } else { 0 };
        MAPPINGS_BESIDE + 2 * self.shards * (1 + mapped_by_workers)
    }

    /// Bytes that are wanted in memory: caches, filters, and what of the store is locked there.
    pub fn memory_bytes(&self) -> u64 {
        self.workers() * self.cache_bytes + self.filter_bytes + self.locked_bytes
    }
}

/// Bytes of a generation that a server locks in memory. Two generations, while it goes over to a newer one, where it need not heed
/// the machine's memory.
fn locked_bytes(manifest: &Manifest, wanted: StoreInMemory) -> u64 {
    let bytes_of = |end: &str| -> u64 {
        manifest.files.iter().filter(|file| file.name.ends_with(end)).map(|file| file.size).sum()
    };
    let (shards, places) = (bytes_of(SHARD_NAME_END), bytes_of(PLACES_NAME_END));
    match wanted {
        // Shards without places are read by SQLite alone.
        _ if places == 0 => 0,
        StoreInMemory::Off => 0,
        StoreInMemory::Auto if shards + places > machine_bytes() / STORE_IN_MEMORY_PART => 0,
        StoreInMemory::Auto => shards + places,
        StoreInMemory::Always => 2 * (shards + places),
    }
}

/// What the name of a shard's file ends with.
const SHARD_NAME_END: &str = ".db";
/// What that of its places ends with.
const PLACES_NAME_END: &str = ".places";
/// What that of its filter ends with.
const FILTER_NAME_END: &str = ".filter";

/// The path with its links followed; of one that does not exist, the nearest folder above that does.
fn real(path: &Path) -> PathBuf {
    let path = std::path::absolute(path).unwrap_or_else(|_| path.to_path_buf());
    path.ancestors().find_map(|path| path.canonicalize().ok()).unwrap_or(path)
}
