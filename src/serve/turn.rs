//! How a worker's tasks let its executor look at its own sockets and timers: by [`turn`], of their own accord.
//!
//! Invariant: the executor's preemption timer never fires ([`PREEMPT_NEVER`]). In glommio 0.9 its firing is not harmless. When
//! it fires before the first task's turn, `run_task_queues` reports that nothing was run, which its caller takes for nothing
//! being left to run: the executor sleeps, its tasks ready, until a socket or a timer that none of those tasks reads happens to
//! wake it. With a timer of 1 ms on a core that the worker shared, TCP clients waited up to a second for an answer that way.
//!
//! Nothing interrupts a task that is never done, then. So each task that could go on for as long as its clients want takes a turn
//! now and then: the loop over the UDP sockets each [`TURN_US`], a TCP connection after
//! [`TCP_QUERIES_IN_A_ROW_MAX`](crate::limits::TCP_QUERIES_IN_A_ROW_MAX) queries. Yielding is not enough, neither to glommio's
//! queue nor by waking oneself: the executor looks at its sockets only when no task is ready.

use std::future::poll_fn;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, Wake, Waker};
use std::time::Duration;

use glommio::timer::Timer;

/// The executor's preemption timer: long enough that no scheduler, quota or debugger holds a worker for that time.
pub const PREEMPT_NEVER: Duration = Duration::from_secs(3_600);
/// Microseconds between two turns of a task that is always busy; so much later than it could does a worker under load notice
/// what happens on the sockets of its other tasks.
pub const TURN_US: u64 = 1_000;

/// Lets every other task that is ready run, then the executor look at its sockets and timers once, without sleeping.
pub async fn turn() {
    // A timer that is over is the one thing that the executor wakes for which needs no descriptor. It is set to be over only
    // after it was asked: else it would be ready at once, the executor left out.
    let mut timer = Timer::new(PREEMPT_NEVER);
    let mut wakeup: Option<Arc<Wakeup>> = None;
    poll_fn(|task: &mut Context<'_>| {
        if let Some(wakeup) = &wakeup {
            return if wakeup.has_come.load(Ordering::Relaxed) { Poll::Ready(()) } else { Poll::Pending };
        }
        let wakeup = wakeup.insert(Arc::new(Wakeup { has_come: AtomicBool::new(false), task: task.waker().clone() }));
        let waker = Waker::from(wakeup.clone());
        let polled = Pin::new(&mut timer).poll(&mut Context::from_waker(&waker)).map(drop);
        timer.reset(Duration::ZERO);
        polled
    })
    .await;
}

/// Tells the timer's wake from any other: a task that was woken for another reason still has its turn to wait for.
struct Wakeup {
    has_come: AtomicBool,
    task: Waker,
}

impl Wake for Wakeup {
    fn wake(self: Arc<Self>) {
        self.has_come.store(true, Ordering::Relaxed);
        self.task.wake_by_ref();
    }
}

#[cfg(test)]
mod tests {
    use std::cell::{Cell, RefCell};
    use std::io::Write;
    use std::os::unix::net::UnixStream;
    use std::rc::Rc;

    use futures_lite::AsyncReadExt;
    use futures_lite::future::yield_now;
    use glommio::LocalExecutorBuilder;

    use super::*;
    use crate::serve::kernel::adopt;

    fn run(test: impl Future<Output = ()>) {
        let executor = LocalExecutorBuilder::default().io_memory(1 << 16).preempt_timer(PREEMPT_NEVER).make().unwrap();
        executor.run(test);
    }

    #[test]
    fn a_busy_task_that_takes_turns_lets_another_hear_its_socket_and_one_that_yields_does_not() {
        run(async {
            let (mut ours, theirs) = UnixStream::pair().unwrap();
            let heard = Rc::new(Cell::new(0));
            let count = heard.clone();
            glommio::spawn_local(async move {
                let mut theirs: glommio::net::UnixStream = adopt(theirs);
                let mut byte = [0];
                while theirs.read(&mut byte).await.is_ok_and(|bytes| bytes > 0) {
                    count.set(count.get() + 1);
                }
            })
            .detach();
            turn().await;
            for round in 1..=3 {
                ours.write_all(&[0]).unwrap();
                for _ in 0..1_000 {
                    yield_now().await;
                }
                assert_eq!(heard.get(), round - 1, "heard without a turn: turns would be for nothing");
                // The first one hears the socket and wakes its task, which has run by the end of the second.
                turn().await;
                turn().await;
                assert_eq!(heard.get(), round);
            }
        });
    }

    #[test]
    fn a_turn_is_not_over_because_its_task_was_woken_for_another_reason() {
        run(async {
            let order = Rc::new(RefCell::new(Vec::new()));
            let log = order.clone();
            let other = glommio::spawn_local(async move {
                for _ in 0..10 {
                    yield_now().await;
                }
                log.borrow_mut().push("the other task is done");
            });
            poll_fn(|task| {
                task.waker().wake_by_ref();
                Poll::Ready(())
            })
            .await;
            turn().await;
            order.borrow_mut().push("the turn is over");
            assert_eq!(*order.borrow(), ["the other task is done", "the turn is over"]);
            other.await;
        });
    }

    #[test]
    fn two_busy_tasks_take_turns_with_each_other() {
        run(async {
            let turns = Rc::new(Cell::new(0));
            let count = turns.clone();
            let other = glommio::spawn_local(async move {
                loop {
                    turn().await;
                    count.set(count.get() + 1);
                }
            });
            for _ in 0..100 {
                turn().await;
            }
            assert!((99..=101).contains(&turns.get()), "{} turns", turns.get());
            drop(other);
        });
    }
}
