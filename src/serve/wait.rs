//! How a worker waits when nothing is there to be done.
//!
//! In three steps, because the quickest wait, the cheapest one, and the one that lets the executor's other tasks run are not the
//! same:
//!
//! 0. It **spins**: looks at its listening sockets again at once, as long as the next batch will soon be there ([`Rhythm`]).
//! 1. It **naps** in one `poll` over its listening sockets and the epoll instance that has all others, at most
//!    [`NAP_MS_MAX`](crate::limits::NAP_MS_MAX): under traffic a batch costs three system calls (wait, receive, send). While it naps no other task of the executor runs, but their sockets are among
//!    those waited for, so their traffic ends the nap at once.
//!    A nap's end is an alarm among the sockets and not a time limit of the call: it is set once and outlives the naps that
//!    traffic ends, while each limit sets the processor's timer anew, twice; on a virtual machine that more than doubled the
//!    cost of an answer with one question open (20 us against 9 us).
//! 2. When a nap passes quietly, no upstream is asked and nothing is due soon, it **parks**: small tasks peek at the listening
//!    sockets through io_uring and the executor sleeps until anything at all happens, or a timer of its own says that
//!    something is due (a failed server is to be tried again in some seconds). An idle worker takes no CPU time.
//!
//! Measured (Linux 6.18, loopback, cached answers), CPU time of the worker an answer, the bare `recvmmsg`/`sendmmsg` reflector
//! of `bench` in the same minute beside it:
//!
//! | questions open | reflector | nap, then park | park at once |
//! |---|---|---|---|
//! | 256 | 1.95 us | 2.38 us | 2.45 us |
//! | 16 | 2.1 us | 3.5 us | 5.4 us |
//! | 1 | 27 us | 43 us | 74 us |
//!
//! Spinning (`wait = "spin"`) saves the wake-up: 25 us instead of 57 us of round trip with one question open. It is for cores
//! that have nothing else to do.

use std::cell::{Cell, RefCell};
use std::convert::Infallible;
use std::future::poll_fn;
use std::net::UdpSocket;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use glommio::timer::{Timer, sleep};
use serde::{Deserialize, Serialize};

use super::kernel::adopt;
use crate::decide::Now;
use crate::limits::{GAP_US_MAX, SPIN_US_MAX};

/// Before a socket is watched again after that has failed: the most that its next datagram may wait then.
const WATCH_PAUSE: Duration = Duration::from_millis(10);

/// What a worker does between two batches.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Wait {
    /// Looks again while batches come in quick succession, and sleeps otherwise: see [`Rhythm`].
    #[default]
    Adaptive,
    /// Looks again and again: lowest latency, a core of its own, always at 100 %.
    Spin,
    /// Sleeps at once: least CPU time at any load.
    // Its name in the first versions.
    #[serde(alias = "sleep")]
    Wait,
}

/// Whether a worker that has found nothing looks again or sleeps.
///
/// Adaptive means: as long as batches come [`SPIN_US_MAX`] apart or less on average, it is cheaper to look for the next one
/// than to sleep and be woken, and the next one is answered at once; so it is looked for, for as long as that may take. When it has
/// not come by then, or when batches come less often, the worker sleeps.
#[derive(Clone, Copy, Debug)]
pub struct Rhythm {
    wait: Wait,
    /// Mean microseconds from one batch to the next, times [`GAP_SHARE`].
    gap_us: u64,
    /// When the last batch had been answered.
    beat: Now,
}

/// A gap counts so much of the mean, one part of this many.
const GAP_SHARE: u64 = 8;

impl Rhythm {
    /// Nothing has come yet.
    pub fn new(wait: Wait, now: Now) -> Self {
        Self { wait, gap_us: GAP_SHARE * GAP_US_MAX, beat: now }
    }

    /// A batch was there, and has been answered by `now`. `found` is when the look began that found it.
    pub fn beat(&mut self, found: Now, now: Now) {
        // A long silence says nothing about what comes after it: a few batches soon weigh more.
        let gap_us = found.0.saturating_sub(self.beat.0).min(GAP_US_MAX);
        self.gap_us = self.gap_us - self.gap_us / GAP_SHARE + gap_us;
        self.beat = now;
    }

    /// Whether it is time to sleep.
    pub fn may_sleep(&self, now: Now) -> bool {
        match self.wait {
            Wait::Spin => false,
            Wait::Wait => true,
            Wait::Adaptive => self.gap_us > GAP_SHARE * SPIN_US_MAX || now.0.saturating_sub(self.beat.0) >= SPIN_US_MAX,
        }
    }
}

/// Whom readiness is reported for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Tag {
    /// The upstream port of this number.
    Port(u32),
    /// A socket that one of the executor's tasks reads: TCP, orders.
    Task,
    /// The bell of the threads that read the store.
    Readers,
}

impl From<Tag> for u64 {
    fn from(tag: Tag) -> u64 {
        match tag {
            Tag::Port(index) => 1 << 32 | u64::from(index),
            Tag::Task => 2 << 32,
            Tag::Readers => 3 << 32,
        }
    }
}

impl From<u64> for Tag {
    fn from(number: u64) -> Tag {
        match (number >> 32, number as u32) {
            (1, index) => Tag::Port(index),
            (3, _) => Tag::Readers,
            _ => Tag::Task,
        }
    }
}

/// How long a parked worker sleeps.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Asleep {
    /// Until something wakes it.
    UntilWoken,
    /// For so long, if nothing wakes it before.
    AtMost(Duration),
}

/// Where a worker's main task sleeps when nothing is to be done; any other task wakes it.
#[derive(Debug, Default)]
pub struct Park {
    is_parked: Cell<bool>,
    sleeper: RefCell<Option<Waker>>,
    watchers: RefCell<Vec<Waker>>,
}

impl Park {
    /// Sleeps until [`Self::wake`], or for its time.
    pub async fn sleep(&self, asleep: Asleep) {
        self.is_parked.set(true);
        for watcher in self.watchers.take() {
            watcher.wake();
        }
        let mut timer = match asleep {
            Asleep::UntilWoken => None,
            Asleep::AtMost(time) => Some(Timer::new(time)),
        };
        poll_fn(|task: &mut Context<'_>| {
            if !self.is_parked.get() {
                return Poll::Ready(());
            }
            if timer.as_mut().is_some_and(|timer| Pin::new(timer).poll(task).is_ready()) {
                self.is_parked.set(false);
                self.sleeper.take();
                return Poll::Ready(());
            }
            self.sleeper.replace(Some(task.waker().clone()));
            Poll::Pending
        })
        .await;
    }

    /// Ends the sleep; nothing when nobody sleeps.
    pub fn wake(&self) {
        self.is_parked.set(false);
        if let Some(sleeper) = self.sleeper.take() {
            sleeper.wake();
        }
    }

    async fn until_parked(&self) {
        poll_fn(|task: &mut Context<'_>| {
            if self.is_parked.get() {
                return Poll::Ready(());
            }
            self.watchers.borrow_mut().push(task.waker().clone());
            Poll::Pending
        })
        .await;
    }
}

/// Wakes the parked worker when a datagram is at `socket`; runs for ever. It peeks at one octet, for glommio has no plain
/// readiness (and panics on an empty buffer), and only while the worker is parked, else it would be woken for each batch.
pub async fn watch(park: Rc<Park>, socket: UdpSocket) -> Infallible {
    let socket: glommio::net::UdpSocket = adopt(socket);
    let mut has_failed = false;
    loop {
        park.until_parked().await;
        let peeked = socket.peek_from(&mut [0]).await;
        // After an error too: the worker is to see for itself, and its receive takes a pending one off the socket.
        park.wake();
        if let Err(error) = peeked {
            // No memory, or no room in a ring: for as long as it lasts this goes round, so it is said once and slowly tried.
            if !std::mem::replace(&mut has_failed, true) {
                tracing::warn!("a listening socket cannot be watched, and is looked at again and again: {error}");
            }
            sleep(WATCH_PAUSE).await;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tags_survive_the_kernel() {
        for tag in [Tag::Port(0), Tag::Port(7), Tag::Port(u32::MAX), Tag::Task, Tag::Readers] {
            assert_eq!(Tag::from(u64::from(tag)), tag);
        }
    }

    /// Whether a worker sleeps right after the last of many batches so far apart, and still a while later.
    fn sleeps(wait: Wait, gap_us: u64, later_us: u64) -> bool {
        let (mut rhythm, mut now) = (Rhythm::new(wait, Now(0)), Now(0));
        for _ in 0..100 {
            now = now.plus_us(gap_us);
            rhythm.beat(now, now.plus_us(5));
            now = now.plus_us(5);
        }
        rhythm.may_sleep(now.plus_us(later_us))
    }

    #[test]
    fn the_next_batch_is_looked_for_while_it_is_due_and_slept_for_otherwise() {
        for gap_us in [0, 1, SPIN_US_MAX - 1] {
            assert!(!sleeps(Wait::Adaptive, gap_us, 0) && !sleeps(Wait::Adaptive, gap_us, SPIN_US_MAX - 1));
            assert!(sleeps(Wait::Adaptive, gap_us, SPIN_US_MAX), "silence after batches {gap_us} us apart");
        }
        for gap_us in [SPIN_US_MAX + 2, 1_000, 1_000_000, u64::MAX / 200] {
            assert!(sleeps(Wait::Adaptive, gap_us, 0), "batches {gap_us} us apart");
        }
        for gap_us in [0, 1_000_000] {
            assert!(sleeps(Wait::Wait, gap_us, 0) && !sleeps(Wait::Spin, gap_us, 10_000_000));
        }
        assert!(Rhythm::new(Wait::Adaptive, Now(0)).may_sleep(Now(0)), "nothing has come yet");
    }

    #[test]
    fn an_idle_worker_that_gets_busy_soon_looks_for_the_next_batch() {
        let mut rhythm = Rhythm::new(Wait::Adaptive, Now(0));
        let mut now = Now(3_600_000_000);
        let beats = std::iter::repeat_with(|| {
            now = now.plus_us(5);
            rhythm.beat(now, now);
            rhythm.may_sleep(now)
        });
        assert!(beats.take_while(|sleeps| *sleeps).take(100).count() < 50);
    }

    #[test]
    fn a_parked_worker_is_woken_by_a_datagram_and_by_another_task() {
        let executor = glommio::LocalExecutorBuilder::default().io_memory(1 << 16).make().unwrap();
        executor.run(async {
            let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
            let client = UdpSocket::bind("127.0.0.1:0").unwrap();
            let park = Rc::new(Park::default());
            glommio::spawn_local(watch(park.clone(), socket.try_clone().unwrap())).detach();
            for round in 0..3u8 {
                let other = park.clone();
                let to = socket.local_addr().unwrap();
                let client = client.try_clone().unwrap();
                glommio::spawn_local(async move {
                    futures_lite::future::yield_now().await;
                    if round == 1 {
                        other.wake();
                    } else {
                        client.send_to(&[round; 30], to).unwrap();
                    }
                })
                .detach();
                park.sleep(Asleep::UntilWoken).await;
                if round != 1 {
                    let mut buffer = [0; 64];
                    assert_eq!(socket.recv(&mut buffer).unwrap(), 30);
                    assert_eq!(buffer[0], round);
                }
            }
        });
    }

    #[test]
    fn a_sleep_with_a_time_ends_then_or_when_it_is_woken_whichever_is_first() {
        let executor = glommio::LocalExecutorBuilder::default().io_memory(1 << 16).make().unwrap();
        executor.run(async {
            let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
            let client = UdpSocket::bind("127.0.0.1:0").unwrap();
            let park = Rc::new(Park::default());
            glommio::spawn_local(watch(park.clone(), socket.try_clone().unwrap())).detach();
            for _ in 0..3 {
                // Nobody else ends this one.
                park.sleep(Asleep::AtMost(Duration::from_millis(20))).await;
                assert!(!park.is_parked.get() && park.sleeper.borrow().is_none());
                client.send_to(b"datagram", socket.local_addr().unwrap()).unwrap();
                // Longer than any test may take.
                park.sleep(Asleep::AtMost(Duration::from_secs(3_600))).await;
                assert_eq!(socket.recv(&mut [0; 64]).unwrap(), 8, "woken by something else");
            }
        });
    }

    #[test]
    fn an_error_on_a_socket_does_not_end_the_watch_over_it() {
        let executor = glommio::LocalExecutorBuilder::default().io_memory(1 << 16).make().unwrap();
        executor.run(async {
            let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
            let client = UdpSocket::bind("127.0.0.1:0").unwrap();
            let from = client.local_addr().unwrap();
            socket.connect(from).unwrap();
            drop(client);
            let park = Rc::new(Park::default());
            glommio::spawn_local(watch(park.clone(), socket.try_clone().unwrap())).detach();
            let is_woken = || {
                let woken = async {
                    park.sleep(Asleep::UntilWoken).await;
                    true
                };
                let never = async {
                    sleep(Duration::from_secs(30)).await;
                    false
                };
                futures_lite::future::or(woken, never)
            };
            for round in 0..3 {
                // Nobody is there: the next look at the socket is refused.
                socket.send(b"x").unwrap();
                assert!(is_woken().await, "nothing wakes the worker any more in round {round}");
            }
            UdpSocket::bind(from).unwrap().send_to(b"datagram", socket.local_addr().unwrap()).unwrap();
            assert!(is_woken().await, "nothing wakes the worker any more");
            assert_eq!(socket.recv(&mut [0; 64]).unwrap(), 8);
        });
    }
}
