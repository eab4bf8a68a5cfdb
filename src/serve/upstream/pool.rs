//! TCP connections with upstream servers (RFC 7766): kept open, each with many questions at a time, answered in any order.
//!
//! Invariants: a server has at most [`UPSTREAM_TCP_CONNECTIONS`] connections with [`UPSTREAM_TCP_PIPELINE`] questions in
//! flight on each, all servers together [`UPSTREAM_TCP_CONNECTIONS_MAX`]; past that a question is not sent, and `decide` asks
//! another server. Each question in flight ends in one of these ways: its answer comes; `decide` forgets it; its connection
//! ends, and then it is sent once more on a fresh connection if the old one had answered before (the server closed it for
//! being idle, RFC 7766 §6.2.4) or may have stumbled over several questions at a time, or it is reported as failed.
//!
//! What a server can do to us is bounded: one that takes questions and answers none for [`UPSTREAM_ANSWER_US_MAX`], or sends
//! [`UPSTREAM_TCP_UNEXPECTED_MAX`] messages that nobody waits for, loses the connection; what it does not read,
//! [`UPSTREAM_TCP_OUTBOX_BYTES_MAX`] at most, waits here.
//!
//! Some servers close after their first answer and so lose what was pipelined behind it, maybe that answer too. Such a one is
//! remembered for [`UPSTREAM_TCP_ONE_SHOT_MS`] and then gets a connection for each question,
//! [`UPSTREAM_TCP_ONE_SHOT_CONNECTIONS`] at most.
//!
//! Here is what a connection is and what it has to say; [`super::carry`] moves the bytes.

use std::collections::HashMap;
use std::task::Waker;

use super::Unsent;
use crate::decide::upstream::ServerId;
use crate::decide::{ExchangeId, Now, SendId, UpstreamRequest};
use crate::limits::{
    UPSTREAM_ANSWER_US_MAX, UPSTREAM_TCP_CONNECTIONS, UPSTREAM_TCP_CONNECTIONS_MAX, UPSTREAM_TCP_IDLE_MS,
    UPSTREAM_TCP_ONE_SHOT_CONNECTIONS, UPSTREAM_TCP_ONE_SHOT_MS, UPSTREAM_TCP_OUTBOX_BYTES_MAX, UPSTREAM_TCP_PIPELINE,
    UPSTREAM_TCP_READ_BYTES, UPSTREAM_TCP_UNEXPECTED_MAX,
};
use crate::serve::outbox::Outbox;

/// A question whose answer is waited for.
#[derive(Clone, Copy, Debug)]
struct InFlight {
    id: u16,
    send: SendId,
    /// It was on another connection before, which ended.
    is_again: bool,
}

/// One connection, apart from its stream.
#[derive(Debug)]
pub struct Connection {
    turn: u32,
    is_open: bool,
    server: ServerId,
    outbox: Outbox,
    is_connected: bool,
    in_flight: Vec<InFlight>,
    /// Questions put in so far.
    asked: u64,
    /// Answers to them.
    answers: u64,
    /// Questions given up: their answers may come late.
    forgotten: u32,
    /// Messages that nobody waited for.
    unexpected: u32,
    /// Since when something is asked and nothing has come.
    silent_since: Option<Now>,
    /// When a question was put in or a message came.
    active: Now,
    must_close: bool,
    task: Option<Waker>,
}

impl Connection {
    fn new(turn: u32, server: ServerId, now: Now) -> Self {
        Self {
            turn,
            is_open: true,
            server,
            outbox: Outbox::default(),
            is_connected: false,
            in_flight: Vec::new(),
            asked: 0,
            answers: 0,
            forgotten: 0,
            unexpected: 0,
            silent_since: None,
            active: now,
            must_close: false,
            task: None,
        }
    }

    /// The server has taken the connection.
    pub fn connected(&mut self) {
        self.is_connected = true;
    }

    /// What is to be written next.
    pub fn unsent(&self) -> &[u8] {
        self.outbox.unsent()
    }

    /// The first `bytes` of [`Self::unsent`] were written.
    pub fn wrote(&mut self, bytes: usize) {
        self.outbox.wrote(bytes, UPSTREAM_TCP_READ_BYTES);
    }

    /// Whether it is to be closed without further ado.
    pub fn must_close(&self) -> bool {
        self.must_close
    }

    /// Whom to wake when there is something to write, or the connection is to be closed.
    pub fn set_task(&mut self, task: &Waker) {
        if !self.task.as_ref().is_some_and(|known| known.will_wake(task)) {
            self.task = Some(task.clone());
        }
    }

    fn is_silent(&self, now: Now) -> bool {
        self.silent_since.is_some_and(|since| since.plus_us(UPSTREAM_ANSWER_US_MAX) <= now)
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

/// A server that has connections, or had some lately.
#[derive(Debug, Default)]
struct Server {
    connections: Vec<u32>,
    /// Until then it gets a connection for each question.
    one_shot_until: Now,
}

/// What was in flight on a connection that has ended.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Lost {
    /// To be sent on a fresh connection.
    pub again: Vec<SendId>,
    /// To be reported as failed.
    pub failed: Vec<SendId>,
}

/// One worker's connections with upstream servers.
#[derive(Debug, Default)]
pub struct Pool {
    slots: Vec<Connection>,
    free: Vec<u32>,
    servers: HashMap<ServerId, Server>,
    /// The connection that each question in flight is on.
    by_send: HashMap<SendId, u32>,
    open_count: usize,
}

impl Pool {
    /// No connection yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// Puts a question where its connection's task will find it. Gives a token when that connection is new and its task is to be
    /// started. A question sent again takes no connection that has answered before: the server may be closing that as well.
    pub fn send(
        &mut self,
        now: Now,
        send: SendId,
        request: &UpstreamRequest<'_>,
        is_again: bool,
    ) -> Result<Option<u64>, Unsent> {
        if 2 + request.message.len() > UPSTREAM_TCP_OUTBOX_BYTES_MAX {
            return Err(Unsent::NoRoom);
        }
        let known = self.connection_for(now, request, is_again);
        let index = match known {
            Some(index) => index,
            None => self.open(now, request.server).ok_or(Unsent::NoRoom)?,
        };
        let connection = self.slots.get_mut(index as usize).ok_or(Unsent::NoRoom)?;
        if !connection.outbox.push(request.message, UPSTREAM_TCP_OUTBOX_BYTES_MAX) {
            return Err(Unsent::NoRoom);
        }
        connection.in_flight.push(InFlight { id: request.id, send, is_again });
        connection.asked += 1;
        connection.silent_since.get_or_insert(now);
        connection.active = now;
        connection.wake();
        let token = token(connection.turn, index);
        self.by_send.insert(send, index);
        Ok(known.is_none().then_some(token))
    }

    /// The first connection with this server that has room.
    fn connection_for(&mut self, now: Now, request: &UpstreamRequest<'_>, is_again: bool) -> Option<u32> {
        let Self { servers, slots, .. } = self;
        let server = servers.get(&request.server)?;
        let in_flight_max = if server.one_shot_until > now { 1 } else { UPSTREAM_TCP_PIPELINE };
        server.connections.iter().copied().find(|&index| {
            let Some(connection) = slots.get_mut(index as usize).filter(|slot| !slot.must_close) else { return false };
            if connection.is_silent(now) {
                connection.close_soon();
                return false;
            }
            let has_room = connection.in_flight.len() < in_flight_max
                && connection.unsent().len() + 2 + request.message.len() <= UPSTREAM_TCP_OUTBOX_BYTES_MAX;
            has_room && !(is_again && connection.answers > 0)
        })
    }

    fn open(&mut self, now: Now, server: ServerId) -> Option<u32> {
        let mut count = 0;
        let mut count_max = UPSTREAM_TCP_CONNECTIONS;
        if let Some(known) = self.servers.get(&server) {
            let slots = &self.slots;
            let is_used = |index: &&u32| slots.get(**index as usize).is_some_and(|slot| !slot.must_close);
            count = known.connections.iter().filter(is_used).count();
            if known.one_shot_until > now {
                count_max = UPSTREAM_TCP_ONE_SHOT_CONNECTIONS;
            }
        }
        if count >= count_max {
            return None;
        }
        if self.open_count >= UPSTREAM_TCP_CONNECTIONS_MAX {
            let idlest = self.idlest()?;
            self.close(idlest, now);
        }
        let index = match self.free.pop() {
            Some(index) => {
                let slot = self.slots.get_mut(index as usize)?;
                *slot = Connection::new(slot.turn.wrapping_add(1), server, now);
                index
            }
            None => {
                self.slots.push(Connection::new(0, server, now));
                self.slots.len() as u32 - 1
            }
        };
        self.open_count += 1;
        self.servers.entry(server).or_default().connections.push(index);
        Some(index)
    }

    /// The connection that has been used last the longest time ago and waits for nothing. Walks all of them, a bounded number.
    fn idlest(&self) -> Option<u64> {
        let open = self.slots.iter().zip(0u32..).filter(|(slot, _)| slot.is_open && slot.in_flight.is_empty());
        let (slot, index) = open.min_by_key(|(slot, _)| slot.active)?;
        Some(token(slot.turn, index))
    }

    /// A connection that is open.
    pub fn get_mut(&mut self, token: u64) -> Option<&mut Connection> {
        let (turn, index) = ((token >> 32) as u32, token as u32);
        self.slots.get_mut(index as usize).filter(|slot| slot.is_open && slot.turn == turn)
    }

    /// A message came. Gives the server that it is from; whether it answers what was asked is for `decide` to say.
    pub fn take(&mut self, now: Now, token: u64, message: &[u8]) -> Option<ServerId> {
        let connection = self.get_mut(token)?;
        let id = message.first_chunk::<2>().map(|id| u16::from_be_bytes(*id));
        let place = connection.in_flight.iter().position(|question| Some(question.id) == id);
        let answered = place.map(|place| connection.in_flight.swap_remove(place).send);
        if answered.is_some() {
            connection.answers += 1;
        } else {
            connection.unexpected += 1;
            if connection.unexpected > connection.forgotten.saturating_add(UPSTREAM_TCP_UNEXPECTED_MAX) {
                connection.close_soon();
            }
        }
        connection.active = now;
        connection.silent_since = (!connection.in_flight.is_empty()).then_some(now);
        let (server, is_unused) = (connection.server, connection.in_flight.is_empty());
        if let Some(send) = answered {
            self.by_send.remove(&send);
        }
        if is_unused && self.servers.get(&server).is_some_and(|known| known.one_shot_until > now) {
            // The server would close it.
            self.get_mut(token)?.close_soon();
        }
        Some(server)
    }

    /// Nobody waits for answers to this exchange's questions any more.
    pub fn forget(&mut self, exchange: ExchangeId) {
        if self.by_send.is_empty() {
            return;
        }
        for send in SendId::all_of(exchange) {
            let Some(index) = self.by_send.remove(&send) else { continue };
            if let Some(connection) = self.slots.get_mut(index as usize) {
                connection.in_flight.retain(|question| question.send != send);
                connection.forgotten = connection.forgotten.saturating_add(1);
            }
        }
    }

    /// Forgets a connection. Its task, if it still runs, ends.
    pub fn close(&mut self, token: u64, now: Now) -> Lost {
        let mut lost = Lost::default();
        let Some(connection) = self.get_mut(token) else { return lost };
        connection.is_open = false;
        connection.outbox = Outbox::default();
        if let Some(task) = connection.task.take() {
            task.wake();
        }
        let (server, index) = (connection.server, token as u32);
        // One that closes after its first answer with more questions on their way resets the connection, and its answer may be
        // lost with it.
        let is_one_shot = connection.is_connected
            && !connection.must_close
            && connection.answers <= 1
            && connection.asked > 1
            && !connection.in_flight.is_empty();
        let is_worth_another = connection.answers > 0 || is_one_shot;
        for question in std::mem::take(&mut connection.in_flight) {
            self.by_send.remove(&question.send);
            let is_to_be_sent_again = is_worth_another && !question.is_again;
            if is_to_be_sent_again { &mut lost.again } else { &mut lost.failed }.push(question.send);
        }
        self.free.push(index);
        self.open_count -= 1;
        if let Some(known) = self.servers.get_mut(&server) {
            known.connections.retain(|other| *other != index);
            if is_one_shot {
                known.one_shot_until = now.plus_us(UPSTREAM_TCP_ONE_SHOT_MS * 1_000);
            }
            // Servers come and go with reloads; their numbers are not given again.
            if known.connections.is_empty() && known.one_shot_until <= now {
                self.servers.remove(&server);
            }
        }
        lost
    }

    /// Closes what is idle, or asked in vain. To be called about once a second.
    pub fn sweep(&mut self, now: Now) {
        for connection in self.slots.iter_mut().filter(|slot| slot.is_open && !slot.must_close) {
            let is_idle =
                connection.in_flight.is_empty() && connection.active.plus_us(UPSTREAM_TCP_IDLE_MS * 1_000) <= now;
            if is_idle || connection.is_silent(now) {
                connection.close_soon();
            }
        }
        self.servers.retain(|_, server| !server.connections.is_empty() || server.one_shot_until > now);
    }
}

fn token(turn: u32, index: u32) -> u64 {
    u64::from(turn) << 32 | u64::from(index)
}

#[cfg(test)]
mod tests;
