//! The bytes of one TCP connection with an upstream server: what the pool has to say is written, what comes is handed over.
//!
//! Invariant: a connection's task ends when its connection does, whoever ends it, and then tells the worker, which sends what
//! was in flight again or reports it. It borrows the worker for one event at a time and never across an await.

use std::cell::RefCell;
use std::future::poll_fn;
use std::io;
use std::net::SocketAddr;
use std::ops::ControlFlow;
use std::pin::Pin;
use std::rc::Weak;
use std::task::{Context, Poll};
use std::time::Duration;

use futures_lite::future::yield_now;
use futures_lite::{AsyncRead, AsyncWrite};
use glommio::net::TcpStream;

use super::Unsent;
use crate::decide::Undelivered;
use crate::limits::{
    UPSTREAM_ANSWER_US_MAX, UPSTREAM_ANSWERS_IN_A_ROW_MAX, UPSTREAM_TCP_OCTETS_IN_A_ROW_MAX, UPSTREAM_TCP_READ_BYTES,
};
use crate::serve::framer::Framer;
use crate::serve::turn::turn;
use crate::serve::worker::Worker;

/// Connects, carries, and ends with the connection of this token. Waits for nothing before it has yielded once: whoever starts
/// it has the worker borrowed.
pub async fn carry(worker: Weak<RefCell<Worker>>, token: u64, address: SocketAddr) {
    yield_now().await;
    let time_out = Duration::from_micros(UPSTREAM_ANSWER_US_MAX);
    let why = match TcpStream::connect_timeout(address, time_out).await {
        Ok(stream) => {
            converse(&worker, token, stream).await;
            Undelivered::Refused
        }
        Err(error) => {
            tracing::debug!(%address, "no TCP connection with an upstream server: {error}");
            Unsent::from(&io::Error::from(error)).into()
        }
    };
    if let Some(worker) = worker.upgrade() {
        worker.borrow_mut().upstream_connection_ended(token, why);
    }
}

async fn converse(worker: &Weak<RefCell<Worker>>, token: u64, mut stream: TcpStream) {
    // Questions are written whole: to hold one back until the last one is acknowledged would only delay it.
    if let Err(error) = stream.set_nodelay(true) {
        tracing::debug!("TCP_NODELAY was refused: {error}");
    }
    if let Some(worker) = worker.upgrade() {
        let mut worker = worker.borrow_mut();
        worker.watch_for_others(&stream);
        if let Some(connection) = worker.upstream_connection(token) {
            connection.connected();
        }
    }
    let mut framer = Framer::new(UPSTREAM_TCP_READ_BYTES);
    while poll_fn(|task| step(worker, token, &mut stream, &mut framer, task)).await.is_continue() {
        turn().await;
    }
}

/// Writes what is there to be written, then takes what has come; ready when the connection is over, or so much came in a row
/// that others have their turn first.
fn step(
    worker: &Weak<RefCell<Worker>>,
    token: u64,
    stream: &mut TcpStream,
    framer: &mut Framer,
    task: &mut Context<'_>,
) -> Poll<ControlFlow<()>> {
    let over = Poll::Ready(ControlFlow::Break(()));
    let Some(worker) = worker.upgrade() else { return over };
    let mut octets = 0;
    for _ in 0..UPSTREAM_ANSWERS_IN_A_ROW_MAX {
        if octets >= UPSTREAM_TCP_OCTETS_IN_A_ROW_MAX {
            break;
        }
        if write(&mut worker.borrow_mut(), token, stream, task).is_break() {
            return over;
        }
        if let Some(message) = framer.message() {
            octets += message.len();
            worker.borrow_mut().take_upstream_message(token, message);
            framer.consume();
            continue;
        }
        match Pin::new(&mut *stream).poll_read(task, framer.space()) {
            Poll::Ready(Ok(bytes)) if bytes > 0 => framer.filled(bytes),
            Poll::Ready(_) => return over,
            Poll::Pending => return Poll::Pending,
        }
    }
    Poll::Ready(ControlFlow::Continue(()))
}

/// Writes as much as the kernel takes; breaks when the connection is lost or to be closed.
fn write(worker: &mut Worker, token: u64, stream: &mut TcpStream, task: &mut Context<'_>) -> ControlFlow<()> {
    let Some(connection) = worker.upstream_connection(token) else { return ControlFlow::Break(()) };
    if connection.must_close() {
        return ControlFlow::Break(());
    }
    connection.set_task(task.waker());
    while !connection.unsent().is_empty() {
        match Pin::new(&mut *stream).poll_write(task, connection.unsent()) {
            Poll::Ready(Ok(bytes)) if bytes > 0 => connection.wrote(bytes),
            Poll::Ready(_) => return ControlFlow::Break(()),
            Poll::Pending => break,
        }
    }
    ControlFlow::Continue(())
}
