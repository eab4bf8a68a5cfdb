//! Rules that are changed by hand while the server runs: onto the disk, then to every worker, then the answer.
//!
//! Invariants: one change at a time, so that all workers are told of all changes in one order; a change that was answered is on the
//! disk, and in force on every worker unless the answer says otherwise. While a reload reads the store changes go on; what has
//! changed since is made again together with the switch ([`Held`]), so that no worker is ever without it. What ends by itself is
//! removed by the same way.

pub mod changes;
pub mod expiry;
mod since;

use std::path::PathBuf;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use corewall_sharding::StoreError;
use corewall_sharding::generation::Generation;
use corewall_sharding::overlay::{LiveUpdate, Overlay};
use corewall_sharding::publish::Store;

use self::changes::{Added, Done, Found, now_s};
use self::since::Since;
use super::protocol::{Refusal, RefusalKind, RulesChanged, RulesListed, RulesToAdd, RulesToFind, RulesToList};
use super::workers::{Workers, stopping};
use crate::build::patterns::Compiler;
use crate::limits::{EXPIRY_LOOK_S_MAX, EXPIRY_RETRY_S, OVERLAY_FREE_MS_MAX, RULE_CHANGES_HELD_MAX, RULES_LEAVING_MAX};
use crate::serve::live::{LiveRules as Served, LiveStep, Prepared};
use crate::serve::reload::Order;

/// Before the next look whether another process has let go of the live rules.
const FREE_PAUSE: Duration = Duration::from_millis(20);

/// The live rules of a running server.
#[derive(Default)]
pub struct LiveRules {
    state: Mutex<State>,
    /// Told when the next end may be another one.
    changed: Condvar,
}

#[derive(Default)]
struct State {
    book: Book,
    /// Of another store, that a reload is reading.
    next: Option<Book>,
    /// Since a reload began to read this store.
    since: Option<Since>,
    is_closed: bool,
}

/// The live rules of one store.
#[derive(Default)]
struct Book {
    dir: Option<PathBuf>,
    /// None when they cannot be changed.
    overlay: Option<Overlay>,
    /// Why not.
    why_not: String,
    /// What is served.
    generation: Option<Arc<Generation>>,
    /// Its live rules, as the workers have them.
    live: Option<Arc<Served>>,
    /// The change that is being written, ready to be served.
    prepared: Arc<Mutex<Option<Prepared>>>,
}

/// Why the expiry thread was woken.
enum Wake {
    /// Something has ended.
    Due,
    /// To look again.
    Look,
    /// The server ends.
    Closed,
}

impl LiveRules {
    /// Before the store is read, at a start or for a reload: from now on changes are noted.
    ///
    /// # Errors
    /// The live rules are damaged: without them names would be open that an operator has closed.
    pub fn begin(&self, store: Option<&Store>) -> Result<(), String> {
        let dir = store.map(Store::dir);
        let mut state = self.state();
        if state.book.dir.as_deref() == dir && state.book.overlay.is_some() {
            state.since = Some(Since::default());
            return Ok(());
        }
        let book = Book::open(store)?;
        if state.book.dir.as_deref() == dir {
            let (generation, live) = (state.book.generation.take(), state.book.live.take());
            state.book = Book { generation, live, ..book };
            state.book.prepare_changes();
            state.since = Some(Since::default());
        } else {
            state.next = Some(book);
        }
        Ok(())
    }

    /// The store could not be used: what is served stays.
    pub fn abandon(&self) {
        let mut state = self.state();
        (state.next, state.since) = (None, None);
    }

    /// The store was read: no change comes in until the workers have gone over.
    pub fn hold(&self) -> Held<'_> {
        let state = self.state();
        let update = match (&state.next, &state.since) {
            // What changed since is of the store before.
            (Some(_), _) | (None, None) => LiveUpdate::default(),
            (None, Some(since)) => since.update(),
        };
        Held { rules: self, state, update: Arc::new(update) }
    }

    /// The server ends: nothing is changed any more.
    pub fn close(&self) {
        let mut state = self.state();
        state.is_closed = true;
        // Closing joins the newest changes to the file.
        state.book = Book::default();
        state.next = None;
        drop(state);
        self.changed.notify_all();
    }

    /// Adds rules.
    ///
    /// # Errors
    /// They are not on the disk, or not in force on a worker.
    pub fn add(&self, workers: &Workers, rules: &RulesToAdd) -> Result<RulesChanged, Refusal> {
        let added = Added::read(rules, Compiler::Child)?;
        self.change(workers, |book| Ok(added.write(book.overlay()?)?))
    }

    /// Removes rules.
    ///
    /// # Errors
    /// It is not on the disk, or not in force on a worker.
    pub fn remove(&self, workers: &Workers, rules: &RulesToFind) -> Result<RulesChanged, Refusal> {
        let found = Found::read(rules)?;
        self.change(workers, |book| {
            let generation = book.generation.clone();
            Ok(found.remove(book.overlay()?, generation.as_deref(), rules)?)
        })
    }

    /// Lets rules of the generation hold again.
    ///
    /// # Errors
    /// It is not on the disk, or not in force on a worker.
    pub fn restore(&self, workers: &Workers, rules: &RulesToFind) -> Result<RulesChanged, Refusal> {
        let found = Found::read(rules)?;
        self.change(workers, |book| Ok(found.restore(book.overlay()?)?))
    }

    /// Removes some of the live rules of a list.
    ///
    /// # Errors
    /// It is not on the disk, or not in force on a worker.
    pub fn remove_list(&self, workers: &Workers, list: &str) -> Result<RulesChanged, Refusal> {
        self.change(workers, |book| Ok(changes::remove_list(book.overlay()?, list)?))
    }

    /// A page of the live rules.
    ///
    /// # Errors
    /// The file cannot be read.
    pub fn list(&self, which: &RulesToList) -> Result<RulesListed, Refusal> {
        let dir = self.state().book.dir.clone();
        let Some(dir) = dir else { return Ok(RulesListed::default()) };
        // By a connection of its own: changes need not wait for a long list.
        Store::open(&dir).and_then(|store| changes::list(&store, which)).map_err(refused)
    }

    /// Removes what has ended.
    fn expire(&self, workers: &Workers) -> Result<(), Refusal> {
        let changed = self.change(workers, |book| {
            let overlay = book.overlay()?;
            let update = overlay.expire(now_s(), RULES_LEAVING_MAX)?;
            let removed = update.left.len() as u64;
            Ok((update, RulesChanged { removed, ..RulesChanged::default() }))
        })?;
        if changed.removed > 0 {
            tracing::info!("{} live rules have ended", changed.removed);
        }
        Ok(())
    }

    fn wait_for_end(&self) -> Wake {
        let state = self.state();
        if state.is_closed {
            return Wake::Closed;
        }
        let next = match state.book.overlay.as_ref().map(Overlay::next_expiry) {
            None | Some(Ok(None)) => None,
            Some(Ok(Some(expires_s))) => Some(expires_s),
            // Whoever changes rules is told; here it is looked at again after a while.
            Some(Err(_)) => Some(now_s().saturating_add(EXPIRY_RETRY_S)),
        };
        match next {
            None => drop(self.changed.wait(state)),
            Some(expires_s) if expires_s <= now_s() => return Wake::Due,
            Some(expires_s) => {
                let end = UNIX_EPOCH + Duration::from_secs(expires_s);
                let wait = end.duration_since(SystemTime::now()).unwrap_or_default();
                drop(self.changed.wait_timeout(state, wait.min(Duration::from_secs(EXPIRY_LOOK_S_MAX))));
            }
        }
        Wake::Look
    }

    fn change(
        &self,
        workers: &Workers,
        make: impl FnOnce(&mut Book) -> Result<Done, NotChanged>,
    ) -> Result<RulesChanged, Refusal> {
        let mut state = self.state();
        if state.is_closed {
            return Err(stopping());
        }
        if state.since.as_ref().is_some_and(|since| since.len() > RULE_CHANGES_HELD_MAX) {
            let message = "too much has changed while the store is being read again; try it when that is done";
            return Err(Refusal::new(RefusalKind::Busy, message));
        }
        let made = make(&mut state.book);
        if made.is_err() {
            state.book.forget_prepared();
        }
        let (update, mut changed) = made.map_err(NotChanged::refusal)?;
        if let Some(since) = &mut state.since {
            since.add(&update);
        }
        self.changed.notify_all();
        let Some(step) = state.book.commit() else { return Ok(changed) };
        let replies = workers.order_all(|done| Order::live(&step, done));
        let failures = |refusal: &str| {
            let message = format!(
                "the change is on the disk, but not in force everywhere: {refusal}; `corewall reload` brings all workers up to date"
            );
            tracing::error!("{message}");
            Refusal::new(RefusalKind::Failed, message)
        };
        let replies = match replies {
            Ok(replies) => replies,
            Err(refusal) if refusal.kind == RefusalKind::Stopping => {
                let message = "the change is on the disk, but the server is stopping; its next start takes it";
                return Err(Refusal::new(RefusalKind::Stopping, message));
            }
            Err(refusal) => return Err(failures(&refusal.message)),
        };
        if let Some((core, Err(reason))) = replies.iter().find(|(_, outcome)| outcome.is_err()) {
            return Err(failures(&format!("the worker on core {core} does not take it ({reason})")));
        }
        changed.workers = replies.len() as u64;
        Ok(changed)
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // Whoever panicked had the file in a transaction, which is undone.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// No change comes in while this is there.
pub struct Held<'a> {
    rules: &'a LiveRules,
    state: MutexGuard<'a, State>,
    update: Arc<LiveUpdate>,
}

impl Held<'_> {
    /// Makes what has changed since the store was begun to be read on top of what was read, before the workers go over to it.
    ///
    /// # Errors
    /// It cannot be served there: most likely a bound that the other generation's lists have brought nearer.
    pub fn catch_up(&self, generation: Option<&Generation>, live: &Served) -> Result<(), String> {
        let folded = generation.map_or(0, |generation| generation.manifest.overlay_seq);
        let LiveUpdate { entered, left } = &*self.update;
        let entered = entered.iter().filter(|entry| entry.is_live_on(folded)).cloned().collect();
        live.commit(live.prepare(LiveUpdate { entered, left: left.clone() })?);
        Ok(())
    }

    /// The workers serve what was read, with the changes on top.
    pub fn finish(mut self, generation: Option<Arc<Generation>>, live: Arc<Served>) {
        if let Some(next) = self.state.next.take() {
            self.state.book = next;
        }
        self.state.since = None;
        let book = &mut self.state.book;
        let folded = generation.as_ref().map_or(0, |generation| generation.manifest.overlay_seq);
        (book.generation, book.live) = (generation, Some(live));
        book.prepare_changes();
        if let Some(Err(error)) = book.overlay.as_mut().map(|overlay| overlay.set_folded(folded)) {
            tracing::error!("{error}");
        }
        self.rules.changed.notify_all();
    }
}

/// Why nothing was changed.
enum NotChanged {
    /// The file, or what it was to take.
    Store(StoreError),
    /// There is no file to change.
    Closed(String),
}

impl From<StoreError> for NotChanged {
    fn from(error: StoreError) -> Self {
        Self::Store(error)
    }
}

impl NotChanged {
    fn refusal(self) -> Refusal {
        match self {
            Self::Store(error) => refused(error),
            Self::Closed(why) => Refusal::new(RefusalKind::Failed, why),
        }
    }
}

impl Book {
    /// Takes the live rules of a store, and removes what has ended while no server ran.
    fn open(store: Option<&Store>) -> Result<Book, String> {
        let Some(store) = store else {
            let why_not = "the server has no store, so there is nothing that rules could be added to".to_owned();
            return Ok(Book { why_not, ..Book::default() });
        };
        let mut book = Book { dir: Some(store.dir().to_path_buf()), ..Book::default() };
        match open_when_free(store) {
            Ok(overlay) => book.overlay = Some(overlay),
            Err(error @ (StoreError::OverlayDamaged { .. } | StoreError::OverlayFormat { .. })) => {
                return Err(error.to_string());
            }
            Err(error) => {
                book.why_not = format!("{error}; then `corewall reload`");
                tracing::warn!("live rules are served, but cannot be changed here: {error}");
            }
        }
        Ok(book)
    }

    /// From now on no change is kept that could not be served.
    fn prepare_changes(&mut self) {
        let (Some(overlay), Some(live)) = (&mut self.overlay, &self.live) else { return };
        let (live, prepared) = (live.clone(), self.prepared.clone());
        overlay.set_check(Box::new(move |update| {
            let ready = live.prepare(update.clone())?;
            *prepared.lock().unwrap_or_else(PoisonError::into_inner) = Some(ready);
            Ok(())
        }));
    }

    /// What was ready to be served has not become durable: no later change may bring it to the workers.
    fn forget_prepared(&self) {
        *self.prepared.lock().unwrap_or_else(PoisonError::into_inner) = None;
    }

    /// What the workers are to be told of the change that was written; what they know when there was nothing to change.
    fn commit(&self) -> Option<Arc<LiveStep>> {
        let live = self.live.as_ref()?;
        let prepared = self.prepared.lock().unwrap_or_else(PoisonError::into_inner).take();
        Some(prepared.map_or_else(|| live.now(), |prepared| live.commit(prepared)))
    }

    fn overlay(&mut self) -> Result<&mut Overlay, NotChanged> {
        self.overlay.as_mut().ok_or_else(|| NotChanged::Closed(self.why_not.clone()))
    }
}

/// A `corewall rule` that found no server running may be about to end.
fn open_when_free(store: &Store) -> Result<Overlay, StoreError> {
    let until = Instant::now() + Duration::from_millis(OVERLAY_FREE_MS_MAX);
    let mut overlay = loop {
        match Overlay::open(store) {
            Err(StoreError::OverlayBusy { .. }) if Instant::now() < until => thread::sleep(FREE_PAUSE),
            opened => break opened?,
        }
    };
    while !overlay.expire(now_s(), RULES_LEAVING_MAX)?.left.is_empty() {}
    Ok(overlay)
}

fn refused(error: StoreError) -> Refusal {
    Refusal::new(RefusalKind::Failed, error.to_string())
}

#[cfg(test)]
mod tests;
