//! Orders to all workers.
//!
//! Invariants: one request at a time has orders with the workers, and at most one order with each of them, so that their
//! queues always have room for the control thread's own; a worker that does not answer in time is an error that names it.

use std::sync::mpsc::{self, RecvTimeoutError, SyncSender};
use std::sync::{Mutex, PoisonError, Weak};
use std::time::{Duration, Instant};

use super::protocol::{Refusal, RefusalKind};
use crate::limits::CONTROL_ORDER_MS_MAX;
use crate::serve::reload::{Commander, Order};

/// The workers, for as long as the control thread has them.
pub struct Workers {
    commanders: Weak<Vec<Commander>>,
    /// Held by the request whose orders the workers have.
    turn: Mutex<()>,
}

impl Workers {
    /// These workers.
    pub fn new(commanders: Weak<Vec<Commander>>) -> Self {
        Self { commanders, turn: Mutex::default() }
    }

    /// Whether the control thread has given them up.
    pub fn are_gone(&self) -> bool {
        self.commanders.strong_count() == 0
    }

    /// Gives every worker an order and waits for all their replies; each comes with the worker's core.
    ///
    /// # Errors
    /// A worker takes no orders, does not answer in time, or has ended.
    pub fn order_all<Reply>(&self, order: impl Fn(SyncSender<Reply>) -> Order) -> Result<Vec<(usize, Reply)>, Refusal> {
        // One that panicked has left nothing half done here.
        let _turn = self.turn.lock().unwrap_or_else(PoisonError::into_inner);
        let workers = self.commanders.upgrade().ok_or_else(stopping)?;
        // All of them at once: the last one is done when the slowest is.
        let begin = |worker: &Commander| {
            let (done, is_done) = mpsc::sync_channel(1);
            (worker.core(), worker.order(order(done)).then_some(is_done))
        };
        let begun: Vec<_> = workers.iter().map(begin).collect();
        let until = Instant::now() + Duration::from_millis(CONTROL_ORDER_MS_MAX);
        let end = |(core, is_done): (usize, Option<mpsc::Receiver<Reply>>)| {
            let is_done = is_done.ok_or_else(|| failed(core, "takes no orders"))?;
            match is_done.recv_timeout(until.saturating_duration_since(Instant::now())) {
                Ok(reply) => Ok((core, reply)),
                Err(RecvTimeoutError::Timeout) => Err(failed(core, "does not answer in time")),
                Err(RecvTimeoutError::Disconnected) => Err(stopping()),
            }
        };
        // Every one of them is waited for, also when one has failed: then the others have done it.
        let ended: Vec<_> = begun.into_iter().map(end).collect();
        ended.into_iter().collect()
    }
}

fn failed(core: usize, what: &str) -> Refusal {
    let message = format!("the worker on core {core} {what}; the other workers have done what was asked");
    Refusal::new(RefusalKind::Failed, message)
}

/// The server is ending.
pub fn stopping() -> Refusal {
    Refusal::new(RefusalKind::Stopping, "the server is stopping")
}
