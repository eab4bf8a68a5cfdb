//! Reading lists on many threads.
//!
//! Each thread takes what is to be read next: a list as a whole, or the next piece of one that may be cut
//! ([`lines_stand_alone`]). Only one thread at a time unpacks and cuts a list, and hands it back before it reads the piece
//! that it has cut, so that unpacking one piece and reading those before it go on together. No thread ever waits for another
//! but for the next piece, and in [`Turns`].
//!
//! Invariant: what comes out does not depend on which thread read what, nor when: it is what reading one list after the other
//! would give, the first bad list included. At most one piece a thread is in memory.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Duration;

use corewall_sharding::build::{Collector, PartId};
use corewall_sharding::rule::ListId;

use super::BuildError;
use super::fold::Fold;
use super::input::Input;
use super::part::{Note, Part, Said, Shared};
use super::pieces::{Piece, Pieces};
use super::servers::Turns;
use super::source::{Gate, SourceError, Watch};
use crate::limits;
use crate::lists::{AdblockLines, Disabled, Format, find_badfilters, lines_stand_alone};

/// What the first pass over the lists in Adblock syntax has told.
pub struct Scan {
    /// What their `$badfilter` rules switch off in any of them.
    pub disabled: Disabled,
    /// What was changed by hand, when it is folded in.
    pub fold: Option<Arc<Fold>>,
    /// Index is the list's number.
    lines: Vec<AdblockLines>,
}

/// Passes over the lists in Adblock syntax, on `threads` threads.
///
/// # Errors
/// One of them cannot be read to its end; the first one of these.
pub fn scan(inputs: &[Input<'_>], threads: usize, watch: &Watch) -> Result<Scan, BuildError> {
    let next = AtomicUsize::new(0);
    let work = || {
        let mut found = Vec::new();
        while let Some(input) = inputs.get(next.fetch_add(1, Ordering::Relaxed)) {
            if input.spec.format == Format::Adblock && !watch.gate.is_shut(input.id) {
                let scanned = scan_list(input, watch);
                if scanned.is_err() {
                    watch.gate.shut_from(usize::from(input.id));
                }
                found.push((input.id, scanned));
            }
        }
        found
    };
    let mut found = on_threads(vec![(); threads.max(1)], |()| work()).into_iter().flatten().collect::<Vec<_>>();
    found.sort_unstable_by_key(|(list, _)| *list);
    let mut scan =
        Scan { disabled: Disabled::default(), fold: None, lines: vec![AdblockLines::default(); inputs.len()] };
    for (list, scanned) in found {
        let (disabled, lines) = scanned?;
        scan.disabled.add(disabled);
        if let Some(place) = scan.lines.get_mut(usize::from(list)) {
            *place = lines;
        }
    }
    if watch.gate.is_stopped() { Err(BuildError::Interrupted) } else { Ok(scan) }
}

fn scan_list(input: &Input<'_>, watch: &Watch) -> Result<(Disabled, AdblockLines), BuildError> {
    let mut disabled = Disabled::default();
    let mut source = input.source(watch).map_err(|error| input.failed(error))?;
    let lines = find_badfilters(&mut source, &mut disabled);
    let lines = lines.map_err(|error| input.failed(source.explain(error)))?;
    Ok((disabled, lines))
}

/// Runs `work` for each of `jobs` on a thread of its own.
fn on_threads<Job: Send, Done: Send>(jobs: Vec<Job>, work: impl Fn(Job) -> Done + Sync) -> Vec<Done> {
    thread::scope(|scope| {
        let work = &work;
        let threads: Vec<_> = jobs.into_iter().map(|job| scope.spawn(move || work(job))).collect();
        let join = |thread: thread::ScopedJoinHandle<'_, Done>| match thread.join() {
            Ok(done) => done,
            Err(panic) => std::panic::resume_unwind(panic),
        };
        threads.into_iter().map(join).collect()
    })
}

/// What is told while lists are read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ReadProgress {
    /// Rules so far.
    pub rules: u64,
    /// Bytes of files so far, as they lie on the disk.
    pub bytes: u64,
}

/// Reads all lists, a thread for each of `collectors`. Parts of `finished` are not read again.
///
/// # Errors
/// A list cannot be read (the first one that cannot), the store cannot be written, or the gate has been shut.
pub fn read(
    inputs: &[Input<'_>],
    scan: &Scan,
    collectors: Vec<Collector>,
    finished: BTreeMap<PartId, Vec<u8>>,
    part_bytes: usize,
    watch: &Watch,
    progress: &mut dyn FnMut(ReadProgress),
) -> Result<Said, BuildError> {
    let is_cut = |input: &Input<'_>| {
        let lines = scan.lines.get(usize::from(input.id)).copied().unwrap_or_default();
        lines_stand_alone(input.spec.format, &input.spec.options, lines)
    };
    let is_cut: Vec<bool> = inputs.iter().map(is_cut).collect();
    let reading = Reading {
        inputs,
        disabled: &scan.disabled,
        finished: &finished,
        part_bytes,
        shared: Shared {
            turns: Turns::new(is_cut.iter().map(|cut| !cut).collect()),
            said: Mutex::new(Said::of(inputs)),
            watch: watch.clone(),
            rules: AtomicU64::new(0),
            fold: scan.fold.clone(),
        },
        queue: Queue::new(&is_cut, collectors.len(), watch.gate.clone()),
    };
    // Those of rules by hand as well: they are in use.
    for rule in reading.shared.fold.iter().flat_map(|fold| fold.rules()).filter(|rule| !rule.class.servers.is_empty()) {
        reading.shared.turns.admitted_before(rule.class.servers.clone());
    }
    reading.take_finished_servers()?;
    thread::scope(|scope| {
        let reading = &reading;
        for collector in collectors {
            scope.spawn(move || {
                // Also when it panics: the others would wait for it for ever.
                let _leave = Leave(&reading.queue);
                if let Err(error) = reading.work(collector) {
                    reading.queue.abort(error);
                    reading.shared.turns.wake();
                }
            });
        }
        reading.queue.wait_for_all(&mut || {
            progress(ReadProgress {
                rules: reading.shared.rules.load(Ordering::Relaxed),
                bytes: reading.shared.watch.bytes.load(Ordering::Relaxed),
            });
            // Those who wait for their turn do not look by themselves.
            reading.shared.turns.wake();
        });
    });
    let Reading { queue, shared, .. } = reading;
    queue.into_result()?;
    Ok(shared.said.into_inner().unwrap_or_else(PoisonError::into_inner))
}

struct Leave<'q>(&'q Queue);

impl Drop for Leave<'_> {
    fn drop(&mut self) {
        if thread::panicking() {
            self.0.gate.shut_from(0);
        }
        self.0.leave();
    }
}

struct Reading<'a> {
    inputs: &'a [Input<'a>],
    disabled: &'a Disabled,
    finished: &'a BTreeMap<PartId, Vec<u8>>,
    part_bytes: usize,
    shared: Shared,
    queue: Queue,
}

impl Reading<'_> {
    /// Sets of servers that parts finished before have named have their places: they had them before the build was killed.
    fn take_finished_servers(&self) -> Result<(), BuildError> {
        for note in self.finished.values() {
            Note::from_bytes(note)?.servers.into_iter().for_each(|set| self.shared.turns.admitted_before(set));
        }
        Ok(())
    }

    fn work(&self, mut collector: Collector) -> Result<(), BuildError> {
        while let Some(job) = self.queue.next() {
            match job {
                Job::Whole(list) => {
                    let read = self.read_whole(list, &mut collector);
                    self.shared.turns.end(list);
                    self.end_list(list, read)?;
                }
                Job::Cut(list, pieces) => match self.cut(list, pieces) {
                    Ok(Some((piece, pieces))) => {
                        self.queue.give_back(list, pieces);
                        self.read_piece(list, &piece, &mut collector)?;
                    }
                    Ok(None) => self.end_list(list, Ok(()))?,
                    Err(error) => self.end_list(list, Err(error))?,
                },
            }
        }
        if self.queue.is_good() { Ok(collector.finish()?) } else { Ok(()) }
    }

    /// An error of the list is told when no list before it has one; any other ends the build.
    fn end_list(&self, list: ListId, read: Result<(), BuildError>) -> Result<(), BuildError> {
        match read {
            Ok(()) => self.queue.end(list),
            Err(error) if error.is_of_a_list() => {
                self.queue.fail(list, error);
                self.shared.turns.wake();
            }
            Err(BuildError::Interrupted) if !self.shared.watch.gate.is_stopped() => self.queue.end(list),
            Err(error) => return Err(error),
        }
        Ok(())
    }

    fn input(&self, list: ListId) -> Result<&Input<'_>, BuildError> {
        self.inputs.get(usize::from(list)).ok_or(BuildError::NoLists)
    }

    /// Whether the part had been finished before; then its note is taken instead.
    fn was_finished(&self, id: PartId) -> Result<bool, BuildError> {
        let Some(note) = self.finished.get(&id) else { return Ok(false) };
        let note = Note::from_bytes(note)?;
        self.shared.rules.fetch_add(note.rules, Ordering::Relaxed);
        self.said().add_finished(id, note);
        Ok(true)
    }

    fn said(&self) -> MutexGuard<'_, Said> {
        self.shared.said.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn read_whole(&self, list: ListId, collector: &mut Collector) -> Result<(), BuildError> {
        let id = PartId { list, part: 0 };
        let input = self.input(list)?;
        let watch = &self.shared.watch;
        if self.was_finished(id)? {
            watch.bytes.fetch_add(input.state.bytes, Ordering::Relaxed);
            return Ok(());
        }
        let mut part = Part::new(id, &self.shared, collector);
        let counts = input.read(self.disabled, watch, &mut |item| part.take(item))?;
        if watch.gate.is_shut(list) {
            return Err(BuildError::Interrupted);
        }
        let note = part.end(&counts)?;
        self.said().add(id, note);
        Ok(())
    }

    /// The next piece of a list; none at its end.
    fn cut(&self, list: ListId, pieces: Option<Box<Pieces>>) -> Result<Option<(Piece, Box<Pieces>)>, BuildError> {
        let input = self.input(list)?;
        let next = || -> Result<_, SourceError> {
            let mut pieces = match pieces {
                Some(pieces) => pieces,
                None => Box::new(Pieces::new(input.source(&self.shared.watch)?, self.part_bytes)),
            };
            match pieces.next() {
                Ok(Some(piece)) => Ok(Some((piece, pieces))),
                Ok(None) => pieces.source().check_unchanged().map(|()| None),
                Err(error) => Err(pieces.source().explain(error)),
            }
        };
        next().map_err(|error| input.failed(error))
    }

    fn read_piece(&self, list: ListId, piece: &Piece, collector: &mut Collector) -> Result<(), BuildError> {
        let id = PartId { list, part: piece.part };
        // Behind a bad list, or at the end of the build, nobody wants it.
        if self.shared.watch.gate.is_shut(list) || self.was_finished(id)? {
            return Ok(());
        }
        let input = self.input(list)?;
        let mut part = Part::new(id, &self.shared, collector);
        let mut text = piece.text.as_slice();
        let counts = input.read_lines(piece.first_line, &mut text, self.disabled, &mut |item| part.take(item));
        let note = part.end(&counts.map_err(|error| input.failed(error.into()))?)?;
        self.said().add(id, note);
        Ok(())
    }
}

/// What a thread is to do.
enum Job {
    /// Read this list.
    Whole(ListId),
    /// Cut the next piece off this list, which is opened first if nobody has, and read that.
    Cut(ListId, Option<Box<Pieces>>),
}

enum Slot {
    Whole,
    /// None until it is opened.
    Cut(Option<Box<Pieces>>),
    /// A thread reads it, or cuts it.
    Busy {
        is_cut: bool,
    },
    Ended,
}

/// What is left to read, and how it ended.
struct Queue {
    state: Mutex<QueueState>,
    changed: Condvar,
    gate: Arc<Gate>,
}

struct QueueState {
    slots: Vec<Slot>,
    /// Threads that have not ended.
    threads: usize,
    /// The first bad list.
    failed: Option<(ListId, BuildError)>,
    /// What has ended the whole build.
    aborted: Option<BuildError>,
}

impl Queue {
    fn new(is_cut: &[bool], threads: usize, gate: Arc<Gate>) -> Self {
        let slots = is_cut.iter().map(|&is_cut| if is_cut { Slot::Cut(None) } else { Slot::Whole }).collect();
        let state = QueueState { slots, threads, failed: None, aborted: None };
        Self { state: Mutex::new(state), changed: Condvar::new(), gate }
    }

    fn lock(&self) -> MutexGuard<'_, QueueState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What to do next; none when nothing is left. Lists that cannot be cut come first, each keeps its thread busy to its
    /// end; [`Turns`] relies on their being begun in their order.
    fn next(&self) -> Option<Job> {
        let mut state = self.lock();
        loop {
            let wanted = |list: usize| !self.gate.is_shut(list as ListId);
            let whole = state.slots.iter().position(|slot| matches!(slot, Slot::Whole)).filter(|&list| wanted(list));
            if let Some(list) = whole {
                state.slots[list] = Slot::Busy { is_cut: false };
                return Some(Job::Whole(list as ListId));
            }
            let cut = state.slots.iter().position(|slot| matches!(slot, Slot::Cut(_))).filter(|&list| wanted(list));
            if let Some(list) = cut
                && let Slot::Cut(pieces) = std::mem::replace(&mut state.slots[list], Slot::Busy { is_cut: true })
            {
                return Some(Job::Cut(list as ListId, pieces));
            }
            let may_come = |(list, slot): (usize, &Slot)| matches!(slot, Slot::Busy { is_cut: true }) && wanted(list);
            if !state.slots.iter().enumerate().any(may_come) {
                return None;
            }
            state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
    }

    fn set(&self, list: ListId, to: Slot) {
        if let Some(slot) = self.lock().slots.get_mut(usize::from(list)) {
            *slot = to;
        }
        self.changed.notify_all();
    }

    fn give_back(&self, list: ListId, pieces: Box<Pieces>) {
        self.set(list, Slot::Cut(Some(pieces)));
    }

    fn end(&self, list: ListId) {
        self.set(list, Slot::Ended);
    }

    /// A list is bad. Lists before it are still read, for they may be bad too, and are told first then.
    fn fail(&self, list: ListId, error: BuildError) {
        self.gate.shut_from(usize::from(list));
        let mut state = self.lock();
        if state.failed.as_ref().is_none_or(|(first, _)| list < *first) {
            state.failed = Some((list, error));
        }
        drop(state);
        self.end(list);
    }

    /// Nothing more is to be read.
    fn abort(&self, error: BuildError) {
        self.gate.shut_from(0);
        self.lock().aborted.get_or_insert(error);
        self.changed.notify_all();
    }

    fn is_good(&self) -> bool {
        let state = self.lock();
        state.failed.is_none() && state.aborted.is_none() && !self.gate.is_stopped()
    }

    fn leave(&self) {
        self.lock().threads -= 1;
        self.changed.notify_all();
    }

    /// Until all threads have ended, says from time to time how far they are.
    fn wait_for_all(&self, say: &mut dyn FnMut()) {
        let wait = Duration::from_millis(limits::BUILD_PROGRESS_MS);
        loop {
            let state = self.lock();
            let busy = |state: &mut QueueState| state.threads > 0;
            let waited = self.changed.wait_timeout_while(state, wait, busy);
            let ended = waited.unwrap_or_else(PoisonError::into_inner).0.threads == 0;
            if ended {
                return;
            }
            if self.gate.is_stopped() {
                // Who waits for a piece looks again.
                self.changed.notify_all();
            }
            say();
        }
    }

    fn into_result(self) -> Result<(), BuildError> {
        let state = self.state.into_inner().unwrap_or_else(PoisonError::into_inner);
        if self.gate.is_stopped() {
            return Err(BuildError::Interrupted);
        }
        match (state.aborted, state.failed) {
            (Some(error), _) | (None, Some((_, error))) => Err(error),
            (None, None) => Ok(()),
        }
    }
}
