//! The threads of one worker that read what is not in memory, and may wait for the disk.
//!
//! Invariants: they belong to this worker alone, have a connection of their own to each shard that they have had to read,
//! and share nothing with the worker but two bounded queues. At most [`STORE_READS_MAX`] lookups are asked for at a time; equal
//! ones are one. A lookup that nobody can wait for any more when its turn comes is not read. The threads end when the worker
//! lets go of its end; none is waited for.

use std::collections::HashMap;
use std::io::{self, Read, Write};
use std::os::fd::{AsRawFd, RawFd};
use std::os::unix::net::UnixStream;
use std::sync::mpsc::{self, Receiver, SyncSender};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use corewall_sharding::StoreError;
use corewall_sharding::name::Name;
use corewall_sharding::publish::Generation;
use corewall_sharding::rows::{Reads, Shard};
use corewall_sharding::rule::ClassId;

use crate::decide::{Ticket, Unread};
use crate::limits::{STORE_READ_WAITERS_MAX, STORE_READS_MAX};
use crate::serve::kernel;

/// The rows of one name.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct WantedRows {
    /// Where they would be.
    pub shard: u16,
    /// As the shards write it.
    pub name: String,
}

/// What is to be read for a query. Equal ones are read once.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum ReadJob {
    /// The rows of each suffix that may be listed.
    Rows(Vec<WantedRows>),
    /// The target of an alias.
    Target {
        /// Where it is.
        shard: u16,
        /// Name of the rule, as the shards write it.
        name: String,
        /// Its class.
        class: ClassId,
    },
}

/// What was found; [`Unread::Failed`] where the store could not be read.
#[derive(Debug)]
enum Found {
    /// It was not looked for: its time was over before its turn came.
    Nothing,
    /// Of each name of [`ReadJob::Rows`], in their order.
    Rows(Vec<Result<Vec<ClassId>, Unread>>),
    /// Of [`ReadJob::Target`].
    Target(Box<Result<Option<Name>, Unread>>),
}

/// A job that has been done.
#[derive(Debug)]
pub struct Finding {
    job: Arc<ReadJob>,
    found: Found,
}

impl Finding {
    /// The classes of a name, if it was looked up.
    pub fn classes(&self, shard: u16, name: &str) -> Option<Result<&[ClassId], Unread>> {
        let (ReadJob::Rows(wanted), Found::Rows(rows)) = (&*self.job, &self.found) else { return None };
        let place = wanted.iter().position(|wanted| wanted.shard == shard && wanted.name == name)?;
        Some(rows.get(place)?.as_deref().map_err(|unread| *unread))
    }

    /// The target of an alias, if it was looked up.
    pub fn target(&self, shard: u16, name: &str, class: ClassId) -> Option<Result<Option<Name>, Unread>> {
        let ReadJob::Target { shard: of_shard, name: of, class: of_class } = &*self.job else { return None };
        let Found::Target(target) = &self.found else { return None };
        ((*of_shard, of.as_str(), *of_class) == (shard, name, class)).then_some(**target)
    }
}

/// As much is being read as may be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TooManyReads;

/// A worker's end of the wire by which its reader threads tell it that something has been read. It outlives generations.
#[derive(Debug)]
pub struct Bell {
    ours: UnixStream,
    theirs: Arc<UnixStream>,
}

impl Bell {
    /// One that is silent.
    pub fn new() -> io::Result<Self> {
        let (ours, theirs) = UnixStream::pair()?;
        ours.set_nonblocking(true)?;
        theirs.set_nonblocking(true)?;
        Ok(Self { ours, theirs: Arc::new(theirs) })
    }

    /// Takes note that it rang.
    pub fn hush(&self) {
        let mut octets = [0; 64];
        while matches!((&self.ours).read(&mut octets), Ok(bytes) if bytes == octets.len()) {}
    }
}

impl AsRawFd for Bell {
    fn as_raw_fd(&self) -> RawFd {
        self.ours.as_raw_fd()
    }
}

/// What the threads are started with.
#[derive(Clone, Debug)]
pub struct ReaderSettings {
    /// How many.
    pub threads: usize,
    /// The worker's core, in their names.
    pub core: usize,
    /// Where they run.
    pub cores: Vec<usize>,
    /// How long anybody waits for what they read.
    pub wait_ms_max: u64,
}

/// A lookup on its way to a thread.
struct Errand {
    job: Arc<ReadJob>,
    /// Nobody waits for it any more after this.
    until: Instant,
}

/// The worker's end.
pub struct Readers {
    errands: SyncSender<Errand>,
    findings: Receiver<Finding>,
    /// Who waits for what.
    waiting: HashMap<Arc<ReadJob>, Vec<Ticket>>,
    wait_max: Duration,
}

impl Readers {
    /// Starts the threads.
    pub fn start(generation: &Arc<Generation>, settings: ReaderSettings, bell: &Bell) -> io::Result<Self> {
        let (errands, to_do) = mpsc::sync_channel(STORE_READS_MAX);
        // Each errand has one finding, so that a thread never waits for the worker.
        let (done, findings) = mpsc::sync_channel(STORE_READS_MAX);
        let to_do = Arc::new(Mutex::new(to_do));
        for number in 0..settings.threads {
            let (generation, core, cores) = (generation.clone(), settings.core, settings.cores.clone());
            let (to_do, done, bell) = (to_do.clone(), done.clone(), bell.theirs.clone());
            let run = move || {
                if let Err(error) = kernel::run_on(&cores) {
                    tracing::warn!("a reader thread stays on its worker's core {core}: {error}");
                }
                let shards = (0..generation.shard_count()).map(|_| None).collect();
                Reader { generation, shards, to_do, done, bell, is_failing: false }.run();
            };
            thread::Builder::new().name(format!("reader-{core}-{number}")).spawn(run)?;
        }
        let wait_max = Duration::from_millis(settings.wait_ms_max);
        Ok(Self { errands, findings, waiting: HashMap::with_capacity(STORE_READS_MAX), wait_max })
    }

    /// Has a job done, or joins an equal one.
    pub fn ask(&mut self, ticket: Ticket, job: ReadJob) -> Result<(), TooManyReads> {
        if let Some(tickets) = self.waiting.get_mut(&job) {
            if tickets.len() >= STORE_READ_WAITERS_MAX {
                return Err(TooManyReads);
            }
            tickets.push(ticket);
            return Ok(());
        }
        if self.waiting.len() >= STORE_READS_MAX {
            return Err(TooManyReads);
        }
        let job = Arc::new(job);
        let errand = Errand { job: job.clone(), until: Instant::now() + self.wait_max };
        self.errands.try_send(errand).map_err(|_| TooManyReads)?;
        self.waiting.insert(job, vec![ticket]);
        Ok(())
    }

    /// The next job that is done, with those who wait for it. One whose query has been answered meanwhile may be among them.
    pub fn next_finding(&mut self) -> Option<(Vec<Ticket>, Finding)> {
        let finding = self.findings.try_recv().ok()?;
        let tickets = self.waiting.remove(&finding.job).unwrap_or_default();
        Some((tickets, finding))
    }

    /// Whether anything is being read.
    pub fn is_reading(&self) -> bool {
        !self.waiting.is_empty()
    }

    /// Ends the threads; tells who waited for them.
    pub fn abandon(self) -> Vec<Ticket> {
        self.waiting.into_values().flatten().collect()
    }
}

/// One thread.
struct Reader {
    generation: Arc<Generation>,
    /// Opened when they are first read.
    shards: Vec<Option<Shard>>,
    to_do: Arc<Mutex<Receiver<Errand>>>,
    done: SyncSender<Finding>,
    bell: Arc<UnixStream>,
    is_failing: bool,
}

impl Reader {
    /// Until the worker lets go of its end.
    fn run(mut self) {
        loop {
            // One thread at a time waits for errands, the others for their turn to.
            let errand = self.to_do.lock().unwrap_or_else(PoisonError::into_inner).recv();
            let Ok(Errand { job, until }) = errand else { return };
            let found = if Instant::now() < until { self.carry_out(&job) } else { Found::Nothing };
            if self.done.try_send(Finding { job, found }).is_err() {
                return;
            }
            // When its buffer is full the worker has long been told.
            let _ = (&*self.bell).write(&[1]);
        }
    }

    fn carry_out(&mut self, job: &ReadJob) -> Found {
        match job {
            ReadJob::Rows(wanted) => Found::Rows(wanted.iter().map(|wanted| self.classes(wanted)).collect()),
            ReadJob::Target { shard, name, class } => {
                let target = self.shard(*shard).and_then(|shard| shard.target_of(name, *class));
                Found::Target(Box::new(self.told(target)))
            }
        }
    }

    fn classes(&mut self, WantedRows { shard, name }: &WantedRows) -> Result<Vec<ClassId>, Unread> {
        let mut classes = Vec::new();
        let read = self.shard(*shard).and_then(|shard| shard.classes_of(name, &mut |class| classes.push(class)));
        self.told(read).map(|()| classes)
    }

    fn shard(&mut self, number: u16) -> Result<&mut Shard, StoreError> {
        let Some(place) = self.shards.get_mut(usize::from(number)) else {
            let (what, remedy) = (format!("the generation has no shard {number}"), "restart the server");
            return Err(StoreError::Bounds { what, remedy });
        };
        match place {
            Some(shard) => Ok(shard),
            // A page that is wanted is read by itself; mapped, the kernel would read its neighbours too.
            None => Ok(place.insert(self.generation.open_shard(number, Reads::Waiting)?)),
        }
    }

    /// Says once what is wrong with the store.
    fn told<T>(&mut self, read: Result<T, StoreError>) -> Result<T, Unread> {
        match &read {
            Ok(_) => self.is_failing = false,
            Err(error) if !std::mem::replace(&mut self.is_failing, true) => {
                tracing::error!("the store cannot be read, answering as on_store_error says: {error}");
            }
            Err(_) => {}
        }
        read.map_err(|_| Unread::Failed)
    }
}

#[cfg(test)]
mod tests;
