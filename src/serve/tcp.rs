//! TCP towards clients (RFC 7766): messages with a length in front, many on one connection, answered as they are ready.
//!
//! Invariants: a worker has at most [`TCP_CONNECTIONS_MAX`] connections and one client at most
//! [`TCP_CONNECTIONS_PER_CLIENT_MAX`] of them, a client being an IPv4 address or an IPv6 /64; when all are taken, the one that
//! has been idle for longest is closed for a newcomer; a connection has at most [`TCP_PIPELINE_MAX`] queries waiting and
//! [`TCP_OUTBOX_BYTES_MAX`] of replies unread, past which it is closed; one on which nothing is asked or read for
//! [`TCP_IDLE_MS_MAX`] is closed. So neither many clients nor slow ones make memory grow without a bound.
//!
//! Here is what a connection is and what it has to say; [`super::worker`] answers, the tasks of `tasks.rs` carry the bytes.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::task::Waker;

use super::metrics::SocketCounters;
use super::outbox::Outbox;
use crate::decide::Now;
use crate::limits::{
    MESSAGE_BYTES_MAX, TCP_CONNECTIONS_MAX, TCP_CONNECTIONS_PER_CLIENT_MAX, TCP_IDLE_MS_MAX, TCP_OUTBOX_BYTES_HIGH,
    TCP_OUTBOX_BYTES_MAX, TCP_PIPELINE_MAX,
};

/// One connection, apart from its stream.
#[derive(Debug)]
pub struct Connection {
    turn: u32,
    is_open: bool,
    client: SocketAddr,
    outbox: Outbox,
    /// Queries that wait for an upstream.
    waiting: usize,
    /// When a query came or some of a reply was taken.
    active: Now,
    must_close: bool,
    task: Option<Waker>,
}

impl Connection {
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
        self.waiting < TCP_PIPELINE_MAX && self.unsent().len() < TCP_OUTBOX_BYTES_HIGH
    }

    /// Whether everything that was asked is answered, and the answers are written.
    pub fn is_settled(&self) -> bool {
        self.waiting == 0 && self.unsent().is_empty()
    }

    /// Whether it is to be closed without further ado.
    pub fn must_close(&self) -> bool {
        self.must_close
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
#[derive(Debug, Default)]
pub struct Connections {
    slots: Vec<Connection>,
    free: Vec<u32>,
    /// By [`site_of`].
    of_client: HashMap<IpAddr, usize>,
    open_count: usize,
}

impl Connections {
    /// None.
    pub fn new() -> Self {
        Self::default()
    }

    /// Connections open.
    pub fn open_count(&self) -> usize {
        self.open_count
    }

    /// Takes a connection in; none when this client has too many, or all clients together have and every connection waits for
    /// us. The token stands for it from now on.
    pub fn admit(&mut self, client: SocketAddr, now: Now, counters: &SocketCounters) -> Option<u64> {
        let of_client = self.of_client.get(&site_of(client.ip())).copied().unwrap_or_default();
        if of_client >= TCP_CONNECTIONS_PER_CLIENT_MAX {
            return None;
        }
        if self.open_count >= TCP_CONNECTIONS_MAX {
            self.close(self.idlest()?);
            counters.tcp_displaced.add(1);
        }
        *self.of_client.entry(site_of(client.ip())).or_default() += 1;
        self.open_count += 1;
        let index = self.free.pop().unwrap_or_else(|| {
            self.slots.push(Connection {
                turn: 0,
                is_open: false,
                client,
                outbox: Outbox::default(),
                waiting: 0,
                active: now,
                must_close: false,
                task: None,
            });
            self.slots.len() as u32 - 1
        });
        let slot = self.slots.get_mut(index as usize)?;
        *slot = Connection {
            turn: slot.turn.wrapping_add(1),
            is_open: true,
            client,
            outbox: Outbox::default(),
            waiting: 0,
            active: now,
            must_close: false,
            task: None,
        };
        Some(u64::from(slot.turn) << 32 | u64::from(index))
    }

    /// The connection that has been silent for longest and waits for no answer. Walks all of them, a bounded number.
    fn idlest(&self) -> Option<u64> {
        let open = self.slots.iter().zip(0u64..).filter(|(slot, _)| slot.is_open && slot.is_settled());
        let (slot, index) = open.min_by_key(|(slot, _)| slot.active)?;
        Some(u64::from(slot.turn) << 32 | index)
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

    /// Closes the connections that have been silent for too long. To be called about once a second.
    pub fn close_idle(&mut self, now: Now, counters: &SocketCounters) {
        for connection in self.slots.iter_mut().filter(|slot| slot.is_open && !slot.must_close) {
            let is_silent = connection.active.plus_us(TCP_IDLE_MS_MAX * 1_000) <= now;
            // Who waits for us is not idle, but who does not take what is written is.
            if is_silent && (connection.waiting == 0 || !connection.unsent().is_empty()) {
                counters.tcp_idle.add(1);
                connection.close_soon();
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
mod tests {
    use super::*;

    fn frame(message: &[u8]) -> Vec<u8> {
        let mut framed = (message.len() as u16).to_be_bytes().to_vec();
        framed.extend_from_slice(message);
        framed
    }

    fn client(number: u8) -> SocketAddr {
        SocketAddr::from(([192, 0, 2, number], 4_000))
    }

    fn admit(connections: &mut Connections, client: SocketAddr, at: u64) -> Option<u64> {
        connections.admit(client, Now(at), &SocketCounters::default())
    }

    #[test]
    fn one_client_cannot_take_every_connection_and_all_clients_together_not_more_than_there_are() {
        let mut connections = Connections::new();
        let mine: Vec<u64> =
            (0..TCP_CONNECTIONS_PER_CLIENT_MAX).filter_map(|_| admit(&mut connections, client(1), 0)).collect();
        assert_eq!(mine.len(), TCP_CONNECTIONS_PER_CLIENT_MAX);
        assert_eq!(admit(&mut connections, client(1), 0), None);
        let mapped = "[::ffff:192.0.2.1]:9".parse().unwrap();
        assert_eq!(admit(&mut connections, mapped, 0), None, "the same client by its mapped address");
        connections.close(mine[0]);
        let again = admit(&mut connections, client(1), 0).unwrap();
        assert!(connections.get_mut(mine[0]).is_none() && connections.get_mut(again).is_some());
        let others = (2..=200).flat_map(|number| std::iter::repeat_n(client(number), 8));
        for client in others {
            let _ = admit(&mut connections, client, 0);
        }
        assert_eq!(connections.open_count(), TCP_CONNECTIONS_MAX);
        assert!(connections.of_client.len() <= TCP_CONNECTIONS_MAX);
    }

    #[test]
    fn all_addresses_of_a_slash_64_are_one_client() {
        let mut connections = Connections::new();
        let address = |network: u16, host: u16| SocketAddr::from(([0x2001, 0xdb8, 0, network, 0, 0, 0, host], 4_000));
        for host in 0..TCP_CONNECTIONS_PER_CLIENT_MAX as u16 {
            admit(&mut connections, address(1, host), 0).unwrap();
        }
        assert_eq!(admit(&mut connections, address(1, 999), 0), None);
        assert!(admit(&mut connections, address(2, 999), 0).is_some());
        assert_eq!(connections.of_client.len(), 2);
    }

    #[test]
    fn the_connection_idle_for_longest_makes_room_and_those_that_wait_for_us_do_not() {
        let counters = SocketCounters::default();
        let mut connections = Connections::new();
        let address = |number: usize| SocketAddr::from(([10, 0, (number >> 8) as u8, number as u8], 4_000));
        let all: Vec<u64> = (0..TCP_CONNECTIONS_MAX)
            .map(|number| connections.admit(address(number), Now(number as u64), &counters).unwrap())
            .collect();
        assert_eq!(counters.tcp_displaced.value(), 0);
        // The oldest waits for an upstream, the next is still to be written to, the third has just asked.
        connections.get_mut(all[0]).unwrap().query_waits();
        connections.reply(all[1], b"unread", &counters);
        connections.get_mut(all[2]).unwrap().query_came(Now(1_000));
        connections.admit(address(600), Now(1_001), &counters).unwrap();
        assert_eq!(connections.open_count(), TCP_CONNECTIONS_MAX);
        let is_open = |connections: &mut Connections, index: usize| connections.get_mut(all[index]).is_some();
        assert_eq!([0, 1, 2, 3, 4].map(|index| is_open(&mut connections, index)), [true, true, true, false, true]);
        for index in (4..all.len()).chain([2]) {
            connections.get_mut(all[index]).unwrap().query_waits();
        }
        assert!(connections.admit(address(601), Now(1_002), &counters).is_some(), "the newcomer of before is idle");
        assert_eq!(counters.tcp_displaced.value(), 2);
    }

    #[test]
    fn a_reply_goes_to_its_own_connection_or_nowhere() {
        let counters = SocketCounters::default();
        let mut connections = Connections::new();
        let old = admit(&mut connections, client(1), 0).unwrap();
        connections.close(old);
        let new = admit(&mut connections, client(2), 0).unwrap();
        assert_eq!(old as u32, new as u32, "the slot is used again");
        connections.reply(old, b"late", &counters);
        connections.reply(new, b"answer", &counters);
        assert_eq!(connections.get_mut(new).unwrap().unsent(), frame(b"answer"));
        assert_eq!((counters.tcp_gone.value(), counters.tcp_replies.value()), (1, 1));
    }

    #[test]
    fn a_client_that_does_not_read_is_asked_no_more_and_then_cut_off() {
        let counters = SocketCounters::default();
        let mut connections = Connections::new();
        let token = admit(&mut connections, client(1), 0).unwrap();
        let reply = vec![0; TCP_OUTBOX_BYTES_HIGH];
        let mut replies = 0;
        while !connections.get_mut(token).unwrap().must_close() {
            connections.reply(token, &reply, &counters);
            assert!(!connections.get_mut(token).unwrap().takes_queries());
            replies += 1;
        }
        assert!(connections.get_mut(token).unwrap().unsent().len() <= TCP_OUTBOX_BYTES_MAX);
        assert_eq!(replies, 1 + TCP_OUTBOX_BYTES_MAX / (2 + TCP_OUTBOX_BYTES_HIGH));
        connections.reply(token, &reply, &counters);
        assert_eq!((counters.tcp_slow.value(), counters.tcp_gone.value()), (1, 1), "it is cut off once");
    }

    #[test]
    fn a_reader_gets_every_reply_in_order_and_frees_the_memory() {
        let counters = SocketCounters::default();
        let mut connections = Connections::new();
        let token = admit(&mut connections, client(1), 0).unwrap();
        let mut read = Vec::new();
        let mut written = Vec::new();
        for number in 0..100u8 {
            let reply = vec![number; 2_000];
            connections.reply(token, &reply, &counters);
            written.extend(frame(&reply));
            let connection = connections.get_mut(token).unwrap();
            let part = connection.unsent().len().min(1_999);
            read.extend_from_slice(&connection.unsent()[..part]);
            connection.wrote(part, Now(1));
        }
        let connection = connections.get_mut(token).unwrap();
        read.extend_from_slice(connection.unsent());
        connection.wrote(connection.unsent().len(), Now(1));
        assert!(read == written);
        assert!(connection.is_settled() && connection.outbox.capacity() <= TCP_OUTBOX_BYTES_HIGH);
    }

    #[test]
    fn too_many_waiting_queries_stop_the_reading_until_one_is_answered() {
        let mut connections = Connections::new();
        let token = admit(&mut connections, client(1), 0).unwrap();
        for _ in 0..TCP_PIPELINE_MAX {
            let connection = connections.get_mut(token).unwrap();
            assert!(connection.takes_queries());
            connection.query_waits();
        }
        assert!(!connections.get_mut(token).unwrap().takes_queries());
        connections.query_ended(token);
        assert!(connections.get_mut(token).unwrap().takes_queries());
    }

    #[test]
    fn a_silent_connection_is_closed_and_one_that_waits_for_an_answer_is_not() {
        let counters = SocketCounters::default();
        let mut connections = Connections::new();
        let [silent, waiting, deaf] = [1, 2, 3].map(|number| admit(&mut connections, client(number), 0).unwrap());
        connections.get_mut(waiting).unwrap().query_waits();
        connections.get_mut(deaf).unwrap().query_waits();
        connections.reply(deaf, b"unread", &counters);
        connections.close_idle(Now(TCP_IDLE_MS_MAX * 1_000 - 1), &counters);
        assert_eq!(counters.tcp_idle.value(), 0);
        connections.close_idle(Now(TCP_IDLE_MS_MAX * 1_000), &counters);
        assert_eq!(
            [silent, waiting, deaf].map(|token| connections.get_mut(token).unwrap().must_close()),
            [true, false, true]
        );
    }
}
