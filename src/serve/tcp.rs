//! TCP towards clients (RFC 7766): messages with a length in front, many on one connection, answered as they are ready.
//!
//! Invariants, all by [`TcpLimits`]: a worker has so many connections and one client so many of them, a client being an IPv4
//! address or an IPv6 /64; when all are taken, one that is idle is closed for a newcomer; a connection has so many queries
//! waiting, and [`TCP_OUTBOX_BYTES_MAX`] of replies unread, past which it is closed; it is closed when for too long nothing is
//! asked or read on it, a message takes longer than [`TCP_MESSAGE_MS_MAX`] to come whole, or its life is over. So neither many
//! clients nor slow ones make memory grow without a bound.
//!
//! Here is what a connection is and what it has to say; [`super::worker`] answers, the tasks of `tasks.rs` carry the bytes.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::task::Waker;

use super::metrics::SocketCounters;
use super::outbox::Outbox;
use crate::decide::Now;
use crate::limits::{
    MESSAGE_BYTES_MAX, TCP_DISPLACE_STEPS_MAX, TCP_MESSAGE_MS_MAX, TCP_OUTBOX_BYTES_HIGH, TCP_OUTBOX_BYTES_MAX,
};

/// Milliseconds of one unit of edns-tcp-keepalive (RFC 7828 §3.1).
const KEEPALIVE_UNIT_MS: u64 = 100;

/// How much of a worker TCP clients may take. A reload may change it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TcpLimits {
    /// Connections of one worker.
    pub connections: usize,
    /// Of them, with one client.
    pub connections_per_client: usize,
    /// Milliseconds without a query after which a connection is closed.
    pub idle_ms: u64,
    /// Queries of one connection that wait for their answers at a time.
    pub pipeline: usize,
    /// Milliseconds after which a connection takes no more queries.
    pub lifetime_ms: u64,
}

/// One connection, apart from its stream.
#[derive(Debug)]
pub struct Connection {
    turn: u32,
    is_open: bool,
    client: SocketAddr,
    outbox: Outbox,
    /// Queries that wait for an upstream.
    waiting: usize,
    /// How many may.
    waiting_max: usize,
    opened: Now,
    /// When a query came or some of a reply was taken.
    active: Now,
    /// Since when a message has begun that is not complete.
    incomplete_since: Option<Now>,
    /// Its life is over: it takes no more queries, and is closed when those taken are answered.
    is_ending: bool,
    must_close: bool,
    task: Option<Waker>,
}

impl Connection {
    fn new(turn: u32, client: SocketAddr, waiting_max: usize, now: Now) -> Self {
        Self {
            turn,
            is_open: true,
            client,
            outbox: Outbox::default(),
            waiting: 0,
            waiting_max,
            opened: now,
            active: now,
            incomplete_since: None,
            is_ending: false,
            must_close: false,
            task: None,
        }
    }

    /// Whom it is with.
    pub fn client(&self) -> SocketAddr {
        self.client
    }

    /// What is to be written next.
    pub fn unsent(&self) -> &[u8] {
        self.outbox.unsent()
    }

    /// The first `bytes` of [`Self::unsent`] were written.
    pub fn wrote(&mut self, bytes: usize, now: Now) {
        self.active = now;
        // A long answer is not a reason to hold on to its memory.
        self.outbox.wrote(bytes, TCP_OUTBOX_BYTES_HIGH);
    }

    /// Whether another query may be read: the client reads its replies and does not ask too many at a time.
    pub fn takes_queries(&self) -> bool {
        self.waiting < self.waiting_max && self.unsent().len() < TCP_OUTBOX_BYTES_HIGH
    }

    /// Whether everything that was asked is answered, and the answers are written.
    pub fn is_settled(&self) -> bool {
        self.waiting == 0 && self.unsent().is_empty()
    }

    /// Whether it is to be closed without further ado.
    pub fn must_close(&self) -> bool {
        self.must_close
    }

    /// Whether it takes no more queries than those that have been read.
    pub fn is_ending(&self) -> bool {
        self.is_ending
    }

    /// Some of a message was read, and whether all of it.
    pub fn read(&mut self, is_within_message: bool, now: Now) {
        self.incomplete_since = is_within_message.then(|| self.incomplete_since.unwrap_or(now));
    }

    /// A query came; how it ended is told by [`Self::query_waits`] and [`Connections::query_ended`].
    pub fn query_came(&mut self, now: Now) {
        self.active = now;
    }

    /// A query waits for an upstream.
    pub fn query_waits(&mut self) {
        self.waiting += 1;
    }

    /// Whom to wake when there is something to write.
    pub fn set_task(&mut self, task: &Waker) {
        if !self.task.as_ref().is_some_and(|known| known.will_wake(task)) {
            self.task = Some(task.clone());
        }
    }

    fn close_soon(&mut self) {
        self.must_close = true;
        self.wake();
    }

    fn wake(&self) {
        if let Some(task) = &self.task {
            task.wake_by_ref();
        }
    }
}

/// All connections of one worker.
#[derive(Debug)]
pub struct Connections {
    limits: TcpLimits,
    slots: Vec<Connection>,
    free: Vec<u32>,
    /// By [`site_of`].
    of_client: HashMap<IpAddr, usize>,
    open_count: usize,
    /// Where the next search for an idle one begins.
    hand: usize,
}

impl Connections {
    /// None.
    pub fn new(limits: TcpLimits) -> Self {
        Self { limits, slots: Vec::new(), free: Vec::new(), of_client: HashMap::new(), open_count: 0, hand: 0 }
    }

    /// Other limits from now on. Connections beyond them end as others do.
    pub fn set_limits(&mut self, limits: TcpLimits) {
        self.limits = limits;
        for connection in self.slots.iter_mut().filter(|slot| slot.is_open) {
            connection.waiting_max = limits.pipeline;
            connection.wake();
        }
    }

    /// Connections open.
    pub fn open_count(&self) -> usize {
        self.open_count
    }

    /// Takes a connection in; none when this client has too many, or all clients together have and every connection waits for
    /// us. The token stands for it from now on.
    pub fn admit(&mut self, client: SocketAddr, now: Now, counters: &SocketCounters) -> Option<u64> {
        let of_client = self.of_client.get(&site_of(client.ip())).copied().unwrap_or_default();
        if of_client >= self.limits.connections_per_client {
            return None;
        }
        if self.open_count >= self.limits.connections {
            let idlest = self.idlest()?;
            self.close(idlest);
            counters.tcp_displaced.add(1);
        }
        *self.of_client.entry(site_of(client.ip())).or_default() += 1;
        self.open_count += 1;
        let waiting_max = self.limits.pipeline;
        let index = match self.free.pop() {
            Some(index) => {
                let slot = self.slots.get_mut(index as usize)?;
                *slot = Connection::new(slot.turn.wrapping_add(1), client, waiting_max, now);
                index
            }
            None => {
                self.slots.push(Connection::new(0, client, waiting_max, now));
                self.slots.len() as u32 - 1
            }
        };
        let slot = self.slots.get(index as usize)?;
        Some(u64::from(slot.turn) << 32 | u64::from(index))
    }

    /// The connection that has been silent for longest and waits for no answer, among the next [`TCP_DISPLACE_STEPS_MAX`]:
    /// however many there are, a flood of newcomers costs the same.
    fn idlest(&mut self) -> Option<u64> {
        let steps = self.slots.len().min(TCP_DISPLACE_STEPS_MAX);
        let indexes = (0..steps).map(|step| (self.hand + step) % self.slots.len());
        let looked_at = indexes.filter_map(|index| Some((index, self.slots.get(index)?)));
        let idle = looked_at.filter(|(_, slot)| slot.is_open && slot.is_settled());
        let idlest = idle.min_by_key(|(_, slot)| slot.active);
        let token = idlest.map(|(index, slot)| u64::from(slot.turn) << 32 | index as u64);
        self.hand = (self.hand + steps).checked_rem(self.slots.len()).unwrap_or(0);
        token
    }

    /// What a client is told that asks how long this connection may be idle, in units of 100 ms (RFC 7828 §3.3.2): less when
    /// fewer than a quarter of all connections are left, 0 when there are none or its life is over. It is kept at least as long.
    pub fn keepalive(&self, token: u64, now: Now) -> u16 {
        let Some(slot) = self.slots.get(token as u32 as usize) else { return 0 };
        let TcpLimits { connections, idle_ms, lifetime_ms, .. } = self.limits;
        let (free, scarce) = (connections.saturating_sub(self.open_count), connections.div_ceil(4));
        let affordable_ms = if free >= scarce { idle_ms } else { idle_ms * free as u64 / scarce as u64 };
        let left_ms = lifetime_ms.saturating_sub(now.0.saturating_sub(slot.opened.0) / 1_000);
        u16::try_from(affordable_ms.min(left_ms) / KEEPALIVE_UNIT_MS).unwrap_or(u16::MAX)
    }

    /// A connection that is open.
    pub fn get_mut(&mut self, token: u64) -> Option<&mut Connection> {
        let (turn, index) = ((token >> 32) as u32, token as u32);
        self.slots.get_mut(index as usize).filter(|slot| slot.is_open && slot.turn == turn)
    }

    /// Forgets a connection and everything that waits to be written on it. Its task, if it still runs, ends.
    pub fn close(&mut self, token: u64) {
        let Some(slot) = self.get_mut(token) else { return };
        slot.is_open = false;
        slot.outbox = Outbox::default();
        if let Some(task) = slot.task.take() {
            task.wake();
        }
        let client = site_of(slot.client.ip());
        self.free.push(token as u32);
        self.open_count -= 1;
        if let Some(count) = self.of_client.get_mut(&client) {
            *count -= 1;
            if *count == 0 {
                self.of_client.remove(&client);
            }
        }
    }

    /// Puts a reply where its connection's task will find it. A client that has not read enough is given up.
    pub fn reply(&mut self, token: u64, message: &[u8], counters: &SocketCounters) {
        let Some(connection) = self.get_mut(token).filter(|connection| !connection.must_close) else {
            return counters.tcp_gone.add(1);
        };
        debug_assert!(message.len() <= MESSAGE_BYTES_MAX, "a reply over 65,535 bytes");
        if !connection.outbox.push(message, TCP_OUTBOX_BYTES_MAX) {
            counters.tcp_slow.add(1);
            return connection.close_soon();
        }
        connection.wake();
        counters.tcp_replies.add(1);
    }

    /// A query that had been waiting has ended, with or without a reply.
    pub fn query_ended(&mut self, token: u64) {
        if let Some(connection) = self.get_mut(token) {
            connection.waiting = connection.waiting.saturating_sub(1);
            connection.wake();
        }
    }

    /// Closes the connections that have been silent, or slow, for too long, and ends those that have lived long enough. To be
    /// called about once a second.
    pub fn sweep(&mut self, now: Now, counters: &SocketCounters) {
        let TcpLimits { idle_ms, lifetime_ms, .. } = self.limits;
        let is_over = |since: Now, ms: u64| since.plus_us(ms * 1_000) <= now;
        for connection in self.slots.iter_mut().filter(|slot| slot.is_open && !slot.must_close) {
            let is_silent = is_over(connection.active, idle_ms);
            // Who waits for us is not idle, but who does not take what is written is.
            if is_silent && (connection.waiting == 0 || !connection.unsent().is_empty()) {
                counters.tcp_idle.add(1);
                connection.close_soon();
            } else if connection.incomplete_since.is_some_and(|since| is_over(since, TCP_MESSAGE_MS_MAX)) {
                counters.tcp_incomplete.add(1);
                connection.close_soon();
            } else if !connection.is_ending && is_over(connection.opened, lifetime_ms) {
                counters.tcp_ended.add(1);
                connection.is_ending = true;
                connection.wake();
            }
        }
    }

    /// Whether every connection has been answered and has written it.
    pub fn all_settled(&self) -> bool {
        self.slots.iter().all(|slot| !slot.is_open || slot.must_close || slot.is_settled())
    }

    /// Lets each connection's task see that the server stops.
    pub fn wake_all(&mut self) {
        for connection in self.slots.iter_mut().filter(|slot| slot.is_open) {
            connection.wake();
        }
    }
}

/// Whom connections are counted for: an IPv4 address, or the /64 of an IPv6 one, for a single host has all of a /64.
fn site_of(client: IpAddr) -> IpAddr {
    match client.to_canonical() {
        IpAddr::V4(address) => address.into(),
        IpAddr::V6(address) => Ipv6Addr::from_bits(address.to_bits() & !u128::from(u64::MAX)).into(),
    }
}

#[cfg(test)]
mod tests;
