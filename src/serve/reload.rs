//! What the workers are told while they serve: another generation or configuration, what the control socket is asked for, or
//! to stop.
//!
//! Invariants: what workers share is immutable and handed over whole ([`Knowledge`]); a worker goes over to it between two
//! batches and drops the old one afterwards, so no query is lost; a configuration or store that cannot be used leaves the old
//! one serving everywhere, and that is said. Each worker has one bounded queue of orders; full, it is an error, not a wait.

use std::io::{self, Write};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::mpsc::{self, Receiver, SyncSender};
use std::time::Duration;

use corewall_sharding::name::Name;
use corewall_sharding::publish::{Generation, Store};
use corewall_sharding::rows::Reads;
use corewall_sharding::rule::Kind;

use super::direct::{DirectWork, StoreInMemory};
use super::filters::{FilterPlacement, FilterPlaces, FilterWork, Readiness, prepare};
use super::live::{self, LiveRules, LiveStep};
use super::metrics::{ServerReport, WorkerReport};
use super::patterns::{PatternDatabase, PatternScanner};
use super::placement::ReaderCores;
use super::store::StoreReader;
use super::store::readers::{Bell, ReaderSettings, Readers};
use super::tcp::TcpLimits;
use crate::build::patterns::Compiler;
use crate::decide::cache::Flush;
use crate::decide::rulebook::RuleBook;
use crate::decide::settings::Settings;
use crate::limits::{ORDERS_MAX, START_MS_MAX};

/// What the configuration says that may change while the server runs.
#[derive(Clone, Debug)]
pub struct Wanted {
    /// What `decide` needs to know.
    pub settings: Arc<Settings>,
    /// How much TCP clients may take.
    pub tcp: TcpLimits,
    /// The store's directory; none serves without rules.
    pub store: Option<PathBuf>,
    /// Map the shards into memory.
    pub mmap: bool,
    /// Where the filters lie.
    pub filter_placement: FilterPlacement,
    /// Threads of each worker that read what is not in memory; 0: the worker itself does, and waits.
    pub store_readers: usize,
    /// Whether the store is locked in memory and read without SQLite.
    pub store_in_memory: StoreInMemory,
    /// Where these threads run.
    pub reader_cores: ReaderCores,
}

/// Everything immutable that the workers share.
pub struct Knowledge {
    /// The configuration.
    pub settings: Arc<Settings>,
    /// How much TCP clients may take.
    pub tcp: TcpLimits,
    /// The live rules on top of the generation's, and the book of both.
    pub live: Arc<LiveRules>,
    patterns: Arc<PatternDatabase>,
    generation: Option<Arc<Generation>>,
    mmap: bool,
    filter_places: FilterPlaces,
    store_readers: usize,
    store_in_memory: StoreInMemory,
    reader_cores: ReaderCores,
}

impl Knowledge {
    /// Opens the newest generation of `store`, which is the wanted one, and makes it ready for workers on these cores, its filters as far as
    /// `filters` says. Errors say what to do.
    pub fn load(wanted: &Wanted, store: Option<&Store>, cores: &[usize], filters: Readiness) -> Result<Self, String> {
        let Wanted { settings, tcp, mmap, filter_placement, store_readers, store_in_memory, reader_cores, .. } = wanted;
        let filter_places = FilterPlaces::new(*filter_placement, cores);
        let (settings, tcp, mmap, store_in_memory) = (settings.clone(), *tcp, *mmap, *store_in_memory);
        let (store_readers, reader_cores) = (*store_readers, reader_cores.clone());
        let Some(store) = store else {
            let (rules, patterns) = (Arc::new(RuleBook::empty(&settings)), Arc::new(PatternDatabase::empty()));
            let live = Arc::new(LiveRules::none(rules, None, settings.clone(), Compiler::Child));
            return Ok(Self {
                settings,
                tcp,
                live,
                patterns,
                generation: None,
                mmap,
                filter_places,
                store_readers,
                store_in_memory,
                reader_cores,
            });
        };
        let generation = store.current_unverified(filter_places.copies()).map_err(|error| error.to_string())?;
        prepare(&generation, &filter_places, filters);
        let generation = Arc::new(generation);
        let rules = RuleBook::new(&generation, &settings).map_err(|error| error.to_string())?;
        let patterns = PatternDatabase::load(&generation).map_err(|error| error.to_string())?;
        let live = LiveRules::none(Arc::new(rules), Some(generation.clone()), settings.clone(), Compiler::Child);
        live.load(live::entries_after(store, generation.manifest.overlay_seq)?)?;
        let (live, patterns) = (Arc::new(live), Arc::new(patterns));
        let generation = Some(generation);
        let knowledge = Self {
            settings,
            tcp,
            live,
            patterns,
            generation,
            mmap,
            filter_places,
            store_readers,
            store_in_memory,
            reader_cores,
        };
        // Every worker will do the same: better to fail here, once and before anything has changed.
        knowledge.open_store(None)?;
        knowledge.open_patterns()?;
        knowledge.warn_of_its_file_system()?;
        Ok(knowledge)
    }

    /// Says once where lookups will be slow because nobody can tell what is in memory.
    fn warn_of_its_file_system(&self) -> Result<(), String> {
        let Some(generation) = self.generation.as_ref().filter(|_| self.store_readers > 0) else { return Ok(()) };
        let shard = generation.open_shard(0, Reads::InMemory).map_err(|error| error.to_string())?;
        if !shard.knows_what_is_in_memory() {
            tracing::warn!(
                "the store's file system cannot tell what is in memory (no RWF_NOWAIT), so that reader threads read nearly \
                 everything: put the store on ext4, XFS or Btrfs, or set store_readers = 0 if it stays in memory"
            );
        }
        Ok(())
    }

    /// A worker's own connections to the shards, and its reader threads, which ring the worker's bell; none, to see whether
    /// they can be opened.
    pub fn open_store(&self, worker: Option<(usize, &Bell)>) -> Result<StoreReader, String> {
        let Some(generation) = &self.generation else { return Ok(StoreReader::empty()) };
        let Some((core, bell)) = worker.filter(|_| self.store_readers > 0) else {
            return StoreReader::open(generation, self.mmap).map_err(|error| error.to_string());
        };
        let settings = ReaderSettings {
            threads: self.store_readers,
            core,
            cores: self.reader_cores.of_worker(core),
            wait_ms_max: self.settings.store_wait_ms_max,
        };
        let readers = Readers::start(generation, settings, bell)
            .map_err(|error| format!("cannot start a thread that reads the store: {error}"))?;
        StoreReader::open_in_memory(generation, readers).map_err(|error| error.to_string())
    }

    /// A worker's own scanner of the generation's patterns.
    pub fn open_patterns(&self) -> Result<PatternScanner, String> {
        PatternScanner::new(self.patterns.clone()).map_err(|error| error.to_string())
    }

    /// Which copy of the filters the worker on this core asks.
    pub fn filter_place(&self, core: usize) -> usize {
        self.filter_places.of_core(core)
    }

    /// Goes on with the filters beside the workers; none when there is nothing left to do.
    pub fn tend_filters(&self) -> Option<FilterWork> {
        self.generation.as_ref().and_then(|generation| FilterWork::begin(generation, &self.filter_places))
    }

    /// Locks the store in memory beside the workers; none when it is not to be.
    pub fn hold_in_memory(&self) -> Option<DirectWork> {
        self.generation.as_ref().and_then(|generation| DirectWork::begin(generation, self.store_in_memory))
    }

    /// The generation's number; none without a store.
    pub fn generation(&self) -> Option<u64> {
        self.generation.as_ref().map(|generation| generation.number)
    }

    /// The store's directory as an absolute path, so that others know it again; none without a store.
    pub fn store_dir(&self) -> Option<PathBuf> {
        // `STORE/generations/NUMBER`.
        self.generation.as_ref()?.dir.canonicalize().ok()?.ancestors().nth(2).map(PathBuf::from)
    }

    /// The generation itself; none without a store.
    pub fn generation_shared(&self) -> Option<Arc<Generation>> {
        self.generation.clone()
    }

    /// The generation's rules.
    pub fn rule_count(&self) -> u64 {
        self.generation.as_ref().map_or(0, |generation| generation.rule_count())
    }

    /// The generation's number and rules, for people.
    pub fn describe(&self) -> String {
        match &self.generation {
            Some(generation) => format!("{} rules, generation {}", grouped(generation.rule_count()), generation.number),
            None => "no store, no rules".to_owned(),
        }
    }

    /// A name of each of the most telling kinds, with what to expect of it. Reads shards until it finds one.
    pub fn examples(&self) -> Vec<(String, &'static str)> {
        let kinds = [
            (&[Kind::Block][..], "blocked"),
            (&[Kind::Allow, Kind::ForwardAllow], "allowed: answered by the upstream, if there is one"),
            (&[Kind::Alias], "an alias"),
        ];
        let Some(mut shards) = self.generation.as_ref().and_then(|generation| generation.open_shards(self.mmap).ok())
        else {
            return Vec::new();
        };
        let mut example = |kinds: &[Kind]| {
            let mut name_of = |kind| shards.iter_mut().find_map(|shard| shard.example(kind).ok().flatten());
            kinds.iter().find_map(|&kind| name_of(kind))
        };
        kinds.into_iter().filter_map(|(kinds, expect)| Some((example(kinds)?, expect))).collect()
    }
}

/// A number with its thousands apart.
fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::new();
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// One order to a worker.
pub enum Order {
    /// Go over to this; say how it went.
    Switch {
        /// To what.
        knowledge: Arc<Knowledge>,
        /// Whom to tell.
        done: SyncSender<Result<(), String>>,
    },
    /// Forget cached answers; say how many are gone.
    Flush {
        /// Which.
        what: Arc<Flush>,
        /// Whom to tell.
        done: SyncSender<u64>,
    },
    /// Rules were added or removed by hand: take the change over, cached answers included, and say when that is done. See
    /// [`Order::live`].
    Live {
        /// All live rules as they are now.
        step: Arc<LiveStep>,
        /// Whom to tell.
        done: SyncSender<Result<(), String>>,
    },
    /// Say which names are asked for most, with estimated questions.
    TopNames {
        /// Whom to tell.
        done: SyncSender<Vec<(Name, u32)>>,
    },
    /// Say how it is.
    Report {
        /// Whom to tell.
        done: SyncSender<WorkerReport>,
    },
    /// Say how the upstream servers do.
    Servers {
        /// Whom to tell.
        done: SyncSender<Vec<ServerReport>>,
    },
    /// Answer what has been asked and end.
    Stop,
}

impl Order {
    /// The order to take over what [`LiveRules::commit`] gave.
    pub fn live(step: &Arc<LiveStep>, done: SyncSender<Result<(), String>>) -> Order {
        Order::Live { step: step.clone(), done }
    }
}

/// The worker's end of its queue of orders.
pub struct Orders {
    /// The queue.
    pub orders: Receiver<Order>,
    /// Readable when something was put into the queue; closed when nobody will any more.
    pub wakeups: UnixStream,
}

/// The control thread's end.
pub struct Commander {
    core: usize,
    orders: SyncSender<Order>,
    wakeups: UnixStream,
}

/// A queue of orders for the worker on this core.
pub fn orders(core: usize) -> io::Result<(Commander, Orders)> {
    let (sender, receiver) = mpsc::sync_channel(ORDERS_MAX);
    let (ours, theirs) = UnixStream::pair()?;
    ours.set_nonblocking(true)?;
    theirs.set_nonblocking(true)?;
    Ok((Commander { core, orders: sender, wakeups: ours }, Orders { orders: receiver, wakeups: theirs }))
}

impl Commander {
    /// The worker's core.
    pub fn core(&self) -> usize {
        self.core
    }

    /// Puts an order into the queue. False when the worker does not take its orders any more.
    pub fn order(&self, order: Order) -> bool {
        let is_taken = self.orders.try_send(order).is_ok();
        // When its buffer is full the worker has long been woken.
        let _ = (&self.wakeups).write(&[1]);
        is_taken
    }
}

/// Makes every worker take over changed live rules. Returns what went wrong, by core; the other workers have, and one that has
/// not takes this change over with the next one.
pub fn change_all(commanders: &[Commander], step: &Arc<LiveStep>) -> Vec<(usize, String)> {
    tell_each(commanders, |done| Order::live(step, done))
}

/// Makes every worker go over to `knowledge`, one after the other, so that never more than one of them is opening files
/// instead of answering. Returns what went wrong, by core; the other workers have changed.
pub fn switch_all(commanders: &[Commander], knowledge: &Arc<Knowledge>) -> Vec<(usize, String)> {
    tell_each(commanders, |done| Order::Switch { knowledge: knowledge.clone(), done })
}

/// Gives one worker after the other an order, each when the one before has carried it out.
fn tell_each(
    commanders: &[Commander],
    order: impl Fn(SyncSender<Result<(), String>>) -> Order,
) -> Vec<(usize, String)> {
    let mut failures = Vec::new();
    for commander in commanders {
        let (done, is_done) = mpsc::sync_channel(1);
        let outcome = if commander.order(order(done)) {
            is_done
                .recv_timeout(Duration::from_millis(START_MS_MAX))
                .unwrap_or_else(|_| Err("it does not answer".to_owned()))
        } else {
            Err("it takes no orders".to_owned())
        };
        if let Err(reason) = outcome {
            failures.push((commander.core, reason));
        }
    }
    failures
}

#[cfg(test)]
mod tests {
    use std::io::Read;

    use super::*;

    #[test]
    fn numbers_are_grouped_by_thousands() {
        assert_eq!([0, 999, 1_000, 86_013, 1_234_567].map(grouped), ["0", "999", "1,000", "86,013", "1,234,567"]);
    }

    #[test]
    fn an_order_wakes_its_worker_and_a_full_queue_is_said() {
        let (commander, mut orders) = orders(0).unwrap();
        for _ in 0..ORDERS_MAX {
            assert!(commander.order(Order::Stop));
        }
        assert!(!commander.order(Order::Stop));
        assert_eq!(orders.wakeups.read(&mut [0; 16]).unwrap(), ORDERS_MAX + 1);
        assert!(matches!(orders.orders.try_recv(), Ok(Order::Stop)));
        drop(commander);
        assert_eq!(orders.wakeups.read(&mut [0; 16]).unwrap(), 0);
    }
}
