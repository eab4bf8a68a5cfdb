//! The tasks of one worker's executor: the loop over its UDP sockets, and one small task for each other source of events.
//!
//! Invariant: a task borrows the worker for one event at a time and never across an await, so no borrow can fail. Beware:
//! `spawn_local` runs the new task at once, up to its first wait, and so must not be called with the worker borrowed unless
//! the task begins by a yield.

use std::cell::RefCell;
use std::future::poll_fn;
use std::io;
use std::net::{SocketAddr, TcpListener};
use std::ops::ControlFlow;
use std::os::unix::net::UnixStream;
use std::pin::Pin;
use std::rc::{Rc, Weak};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, SyncSender};
use std::task::{Context, Poll};
use std::time::Duration;

use futures_lite::{AsyncRead, AsyncReadExt, AsyncWrite};
use glommio::net::TcpStream;
use glommio::spawn_local;
use glommio::timer::sleep;

use super::framer::Framer;
use super::kernel::adopt;
use super::reload::{Order, Orders};
use super::turn::{TURN_US, turn};
use super::udp::ReceiveBatch;
use super::upstream::carry::carry;
use super::wait::{Rhythm, Wait, watch};
use super::worker::{ConnectUpstream, Worker};
use crate::decide::cache::{Flush, FlushCursor};
use crate::limits::{STOP_MS_MAX, TCP_ACCEPTS_IN_A_ROW_MAX, TCP_QUERIES_IN_A_ROW_MAX, TCP_READ_BYTES};

/// A worker that its tasks share. Only one of them runs at a time.
pub type Shared = Rc<RefCell<Worker>>;

/// Between two looks for TCP connections that have been silent for too long.
const SWEEP: Duration = Duration::from_secs(1);
/// Before the next connection is accepted when accepting has failed, most likely because no descriptor is left.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Starts every task but the loop. They end with the executor.
pub fn spawn_all(worker: &Shared, listeners: Vec<TcpListener>, orders: Orders) -> io::Result<()> {
    worker.borrow_mut().set_connect_upstream(connect_upstream(Rc::downgrade(worker)));
    let park = worker.borrow().park();
    for socket in worker.borrow().listener_copies()? {
        spawn_local(watch(park.clone(), socket)).detach();
    }
    for listener in listeners {
        worker.borrow().watch_for_others(&listener);
        spawn_local(accept(worker.clone(), listener)).detach();
    }
    let Orders { orders, wakeups } = orders;
    worker.borrow().watch_for_others(&wakeups);
    spawn_local(obey(worker.clone(), orders, wakeups)).detach();
    spawn_local(sweep(worker.clone())).detach();
    Ok(())
}

/// The loop over the UDP sockets, until the worker is told to stop and every query is answered.
pub async fn run(worker: Shared, wait: Wait) {
    let mut receive = ReceiveBatch::new();
    let park = worker.borrow().park();
    let mut stop_at = None;
    let mut now = worker.borrow().now();
    let (mut turned, mut is_quiet, mut rhythm) = (now, true, Rhythm::new(wait, now));
    loop {
        let round = worker.borrow_mut().round(&mut receive, rhythm.may_sleep(now));
        let found = now;
        now = worker.borrow().now();
        if round.was_busy {
            rhythm.beat(found, now);
        }
        if worker.borrow().is_stopping() {
            let mut worker = worker.borrow_mut();
            let stop_at = *stop_at.get_or_insert(now.plus_us(STOP_MS_MAX * 1_000));
            let is_over = !round.was_busy && worker.is_settled() && worker.connections().all_settled();
            if is_over || now >= stop_at {
                return;
            }
        }
        is_quiet &= !round.was_busy;
        if !round.is_others_turn && now < turned.plus_us(TURN_US) {
            continue;
        }
        let asleep = if wait != Wait::Spin && is_quiet { worker.borrow_mut().may_park() } else { None };
        match asleep {
            Some(asleep) => park.sleep(asleep).await,
            None => turn().await,
        }
        now = worker.borrow().now();
        (turned, is_quiet) = (now, true);
        worker.borrow_mut().others_had_their_turn();
    }
}

fn connect_upstream(worker: Weak<RefCell<Worker>>) -> ConnectUpstream {
    Box::new(move |token, address| {
        spawn_local(carry(worker.clone(), token, address)).detach();
    })
}

/// Takes TCP connections in.
async fn accept(worker: Shared, listener: TcpListener) {
    let listener: glommio::net::TcpListener = adopt(listener);
    let (mut accepted_in_a_row, mut has_failed) = (0, false);
    loop {
        accepted_in_a_row += 1;
        if accepted_in_a_row == TCP_ACCEPTS_IN_A_ROW_MAX {
            // While connections wait, nothing above or below lets another task run.
            accepted_in_a_row = 0;
            turn().await;
        }
        match listener.accept().await {
            Ok(stream) => {
                has_failed = false;
                // One that was reset while it waited has no peer any more, and is no reason to let the others wait.
                if let Ok(client) = stream.peer_addr() {
                    begin(&worker, stream, client);
                }
            }
            Err(error) => {
                // For as long as it lasts this goes round: it is said once.
                if !std::mem::replace(&mut has_failed, true) {
                    tracing::warn!("TCP connections cannot be accepted: {error}");
                }
                sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

fn begin(worker: &Shared, stream: TcpStream, client: SocketAddr) {
    let mut borrowed = worker.borrow_mut();
    let now = borrowed.now();
    if borrowed.is_stopping() {
        return;
    }
    let counters = borrowed.counters().clone();
    counters.tcp_accepted.add(1);
    let Some(token) = borrowed.connections().admit(client, now, &counters) else {
        return counters.tcp_refused.add(1);
    };
    // Replies are written whole, so waiting to fill a segment only delays the last one.
    if let Err(error) = stream.set_nodelay(true) {
        tracing::debug!("TCP_NODELAY was refused: {error}");
    }
    borrowed.watch_for_others(&stream);
    drop(borrowed);
    spawn_local(converse(worker.clone(), token, stream)).detach();
}

/// Carries one connection's bytes until either side ends it.
async fn converse(worker: Shared, token: u64, mut stream: TcpStream) {
    let mut framer = Framer::new(TCP_READ_BYTES);
    let mut has_ended = false;
    while poll_fn(|task| step(&worker, token, &mut stream, &mut framer, &mut has_ended, task)).await.is_continue() {
        // Other connections have their turn first.
        turn().await;
    }
    worker.borrow_mut().connections().close(token);
}

/// Writes what is there to be written, then answers what is there to be read; ready when the connection is over, or
/// has been answered so often in a row that it is to go on later.
fn step(
    worker: &Shared,
    token: u64,
    stream: &mut TcpStream,
    framer: &mut Framer,
    has_ended: &mut bool,
    task: &mut Context<'_>,
) -> Poll<ControlFlow<()>> {
    for _ in 0..TCP_QUERIES_IN_A_ROW_MAX {
        if write(worker, token, stream, task).is_ready() {
            return Poll::Ready(ControlFlow::Break(()));
        }
        let mut borrowed = worker.borrow_mut();
        let is_stopping = borrowed.is_stopping();
        let Some(connection) = borrowed.connections().get_mut(token) else {
            return Poll::Ready(ControlFlow::Break(()));
        };
        let takes_no_more = *has_ended || connection.is_ending();
        if connection.is_settled() && framer.message().is_none() && (takes_no_more || is_stopping) {
            return Poll::Ready(ControlFlow::Break(()));
        }
        if !connection.takes_queries() {
            return Poll::Pending;
        }
        if let Some(message) = framer.message() {
            borrowed.take_message(token, message);
            framer.consume();
            continue;
        }
        if takes_no_more {
            // Half-closed by the client, or at the end of its life: what has been asked is still answered.
            return Poll::Pending;
        }
        match Pin::new(&mut *stream).poll_read(task, framer.space()) {
            Poll::Ready(Ok(0)) => *has_ended = true,
            Poll::Ready(Ok(bytes)) => {
                framer.filled(bytes);
                let now = borrowed.now();
                if let Some(connection) = borrowed.connections().get_mut(token) {
                    connection.read(framer.is_within_message(), now);
                }
            }
            Poll::Ready(Err(_)) => return Poll::Ready(ControlFlow::Break(())),
            Poll::Pending => return Poll::Pending,
        }
    }
    Poll::Ready(ControlFlow::Continue(()))
}

/// Writes as much as the kernel takes; ready when the connection is lost.
fn write(worker: &Shared, token: u64, stream: &mut TcpStream, task: &mut Context<'_>) -> Poll<()> {
    let mut borrowed = worker.borrow_mut();
    let now = borrowed.now();
    let Some(connection) = borrowed.connections().get_mut(token) else { return Poll::Ready(()) };
    if connection.must_close() {
        return Poll::Ready(());
    }
    connection.set_task(task.waker());
    while !connection.unsent().is_empty() {
        match Pin::new(&mut *stream).poll_write(task, connection.unsent()) {
            Poll::Ready(Ok(bytes)) if bytes > 0 => connection.wrote(bytes, now),
            Poll::Ready(_) => return Poll::Ready(()),
            Poll::Pending => break,
        }
    }
    Poll::Pending
}

/// Carries out what is ordered.
async fn obey(worker: Shared, orders: Receiver<Order>, wakeups: UnixStream) {
    let mut wakeups: glommio::net::UnixStream = adopt(wakeups);
    let mut octets = [0; 16];
    loop {
        // The control thread is gone when its end is closed: nobody would notice what this worker serves.
        let is_gone = !matches!(wakeups.read(&mut octets).await, Ok(bytes) if bytes > 0);
        while let Ok(order) = orders.try_recv() {
            match order {
                Order::Switch { knowledge, done } => {
                    let switched = worker.borrow_mut().switch(&knowledge);
                    // The control thread may have given up waiting; then it has said so.
                    let _ = done.send(switched);
                }
                // In a task of its own: whatever is ordered next does not wait for it.
                Order::Flush { what, done } => {
                    spawn_local(flush(worker.clone(), what, done)).detach();
                }
                Order::Live { step, done } => {
                    let _ = done.send(worker.borrow_mut().change_live(&step));
                }
                Order::TopNames { done } => {
                    let _ = done.send(worker.borrow_mut().take_top_names());
                }
                Order::Report { done } => {
                    let _ = done.send(worker.borrow_mut().report());
                }
                Order::Servers { done } => {
                    let _ = done.send(worker.borrow().servers());
                }
                Order::Stop => worker.borrow_mut().begin_stop(),
            }
        }
        if is_gone {
            return worker.borrow_mut().begin_stop();
        }
    }
}

/// Forgets cached answers, a slice at a time: between two of them questions are answered.
async fn flush(worker: Shared, what: Arc<Flush>, done: SyncSender<u64>) {
    let (mut removed, mut next) = (0, Some(FlushCursor::START));
    while let Some(from) = next {
        let progress = worker.borrow_mut().flush_cache(&what, from);
        removed += u64::from(progress.removed);
        next = progress.next;
        turn().await;
    }
    // Who has asked may have given up waiting.
    let _ = done.send(removed);
}

/// Closes TCP connections that have been silent for too long, with clients and with upstream servers.
async fn sweep(worker: Shared) {
    loop {
        sleep(SWEEP).await;
        let mut worker = worker.borrow_mut();
        let (now, counters) = (worker.now(), worker.counters().clone());
        worker.connections().sweep(now, &counters);
        worker.sweep_upstream_connections();
    }
}
