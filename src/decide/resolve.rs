//! Stage 8 in motion: exchanges with upstreams, from the first send to the answer; [`super::resume`] hands it over.

use std::collections::VecDeque;

use corewall_sharding::name::Name;

use super::Core;
use super::answer::{self, ResponseError, ResponseHead};
use super::request::{REQUEST_BYTES_MAX, Request, Wording};
use super::step::{ExchangeId, Now, Ready, SendId, Ticket, Transport, UpstreamRequest};
use super::upstream::{Chance, ServerId, Upstreams};
use super::waiting::{Exchange, ExchangeKey, Exchanges, Send};
use super::why::Failure;
use super::wire::rcode;
use crate::limits::{EXCHANGES_MAX, HEADER_BYTES, MESSAGE_BYTES_MAX, SERVER_SOCKETS, UPSTREAM_ANSWER_US_MAX};

/// Draws of a message id before one is given up as taken: with [`EXCHANGES_MAX`] of 65,536 ids taken, eight draws fail once
/// in 10^12 times.
const ID_DRAWS_MAX: usize = 8;
const _: () = assert!(EXCHANGES_MAX <= 2_048, "or ids are often taken");

/// What came of an exchange, while its clients are being resumed.
#[derive(Clone, Copy)]
pub(super) enum Outcome {
    Nothing,
    /// The message is in `response`.
    Answered {
        rcode: u16,
        authentic_data: bool,
    },
    Failed(Failure),
}

/// The upstream side of one worker.
pub(super) struct Resolver {
    pub(super) upstreams: Upstreams,
    pub(super) chance: Chance,
    pub(super) exchanges: Exchanges,
    /// Where the request at hand is written.
    request: [u8; REQUEST_BYTES_MAX],
    pub(super) ready: VecDeque<Ready>,
    pub(super) outcome: Outcome,
    pub(super) outcome_sends: u8,
    pub(super) resuming: Option<Ticket>,
    pub(super) response: Vec<u8>,
    pub(super) response_bytes: usize,
}

impl Resolver {
    pub(super) fn new(seed: [u8; 32]) -> Self {
        let mut chance = Chance::new(seed);
        Self {
            upstreams: Upstreams::new(),
            exchanges: Exchanges::new(chance.seeds()),
            chance,
            request: [0; REQUEST_BYTES_MAX],
            // Per event at most a send and a closing for each exchange that its clients open or end.
            ready: VecDeque::with_capacity(2 * EXCHANGES_MAX),
            outcome: Outcome::Nothing,
            outcome_sends: 0,
            resuming: None,
            response: vec![0; MESSAGE_BYTES_MAX],
            response_bytes: 0,
        }
    }

    /// Sends the question to the next server, or over TCP to the same one; `Err` when its sends or its time are used up.
    pub(super) fn send(
        &mut self,
        now: Now,
        timeout_us: u64,
        id: ExchangeId,
        over_tcp: Option<ServerId>,
    ) -> Result<(), Failure> {
        let exchange = self.exchanges.get_mut(id).ok_or(Failure::UpstreamsSilent)?;
        let end = exchange.began.plus_us(UPSTREAM_ANSWER_US_MAX);
        if exchange.sends >= exchange.sends_max || now >= end {
            return Err(Failure::UpstreamsSilent);
        }
        let server = match over_tcp {
            Some(server) => server,
            None => self.upstreams.choose(exchange.key.group, &mut exchange.tried, now).ok_or(Failure::NoUpstream)?,
        };
        let transport = if over_tcp.is_some() || exchange.tcp_only { Transport::Tcp } else { Transport::Udp };
        let mut message_id = self.chance.id();
        for _ in 0..ID_DRAWS_MAX {
            if !self.exchanges.is_id_taken(message_id) {
                break;
            }
            message_id = self.chance.id();
        }
        if self.exchanges.is_id_taken(message_id) {
            return Err(Failure::Overloaded);
        }
        let socket = self.chance.below(SERVER_SOCKETS as u16);
        // An answer after the end would be dropped: nobody is to wait for it.
        let send = Send { id: message_id, server, socket, transport };
        self.exchanges.sent(id, send, now, now.plus_us(timeout_us).min(end));
        let sends = self.exchanges.get(id).map_or(0, |exchange| exchange.sends);
        self.ready.push_back(Ready::Send(SendId { exchange: id, place: sends.saturating_sub(1) }));
        Ok(())
    }

    /// Ends an exchange; its clients are resumed one by one by [`Core::next_ready`].
    fn finish(&mut self, id: ExchangeId, outcome: Outcome) {
        debug_assert!(self.resuming.is_none(), "the clients of the last exchange are still to be resumed");
        let Some(exchange) = self.exchanges.get(id) else { return };
        self.outcome = outcome;
        self.outcome_sends = exchange.sends;
        self.resuming = self.exchanges.close(id);
        self.ready.push_back(Ready::Done(id));
    }

    /// An exchange whose question `message` repeats, and that waits for an answer on just this socket.
    fn find_by_question(&self, server: ServerId, socket: u16, message: &[u8]) -> Option<ExchangeId> {
        let name = Name::from_wire(message.get(HEADER_BYTES..)?).ok()?;
        let (qtype, rest) = message.get(HEADER_BYTES + name.as_wire().len()..)?.split_first_chunk::<2>()?;
        let (qclass, _) = rest.split_first_chunk::<2>()?;
        let (qtype, qclass) = (u16::from_be_bytes(*qtype), u16::from_be_bytes(*qclass));
        let is_asked_there = |exchange: &Exchange| {
            let send = exchange.current();
            send.is_some_and(|send| (send.server, send.socket, send.transport) == (server, socket, Transport::Udp))
        };
        let mut candidates = self.exchanges.of_question(&name, qtype, qclass);
        candidates.find(|(_, exchange)| !exchange.tcp_only && is_asked_there(exchange)).map(|(id, _)| id)
    }
}

impl Core {
    /// What is to be sent after [`Ready::Send`]; none when its exchange is over.
    pub fn upstream_request(&mut self, id: SendId) -> Option<UpstreamRequest<'_>> {
        let Resolver { exchanges, upstreams, request, .. } = &mut self.resolver;
        let exchange = exchanges.get(id.exchange)?;
        let &Send { id: message_id, server, socket, transport } = exchange.send(id.place)?;
        let address = upstreams.address(server)?;
        let ExchangeKey { name, qtype, qclass, dnssec_ok, .. } = &exchange.key;
        let question = Request {
            id: message_id,
            name,
            qtype: *qtype,
            qclass: *qclass,
            dnssec_ok: *dnssec_ok,
            wording: Wording::default(),
            server_cookie: None,
            network: None,
        };
        let bytes = question.write(request);
        let message = request.get(..bytes)?;
        Some(UpstreamRequest { server, address, transport, socket, id: message_id, message })
    }

    /// Whether the answer to this send is still waited for.
    pub fn is_awaited(&self, id: SendId) -> bool {
        let exchange = self.resolver.exchanges.get(id.exchange);
        exchange.is_some_and(|exchange| exchange.sends == id.place + 1)
    }

    /// A message came from a server, on one of its sockets (over TCP: 0). Then drain [`Core::next_ready`].
    pub fn on_upstream(&mut self, now: Now, server: ServerId, transport: Transport, socket: u16, message: &[u8]) {
        let Some((id, _)) = message.split_first_chunk::<2>() else { return self.counters.upstream_unexpected.add(1) };
        let message_id = u16::from_be_bytes(*id);
        let exchanges = &self.resolver.exchanges;
        let matching = exchanges.by_message_id(message_id).and_then(|id| {
            let exchange = exchanges.get(id)?;
            let is_asked = |send: &&Send| send.is_answered_by(message_id, server, transport, socket);
            let send = exchange.log().iter().rev().find(is_asked)?;
            // Once an attempt to poison was seen, an earlier send over UDP may be what it aims at.
            (transport == Transport::Tcp || !exchange.tcp_only).then_some((id, exchange, *send))
        });
        let Some((id, exchange, send)) = matching else {
            return self.on_wrong_id(now, server, transport, socket, message);
        };
        let key = &exchange.key;
        match answer::response_head(message, key.name.as_wire(), key.qtype, key.qclass) {
            Ok(head) => self.on_response(now, id, send, head, message),
            // Whoever wrote it, it is not the answer: the wait goes on (TuDoor).
            Err(ResponseError::Malformed | ResponseError::ChainTooLong | ResponseError::TooLarge) => {
                self.counters.upstream_unexpected.add(1);
            }
        }
    }

    fn on_response(&mut self, now: Now, id: ExchangeId, send: Send, head: ResponseHead, message: &[u8]) {
        let timeout_us = self.settings.upstream_timeout_ms * 1_000;
        let resolver = &mut self.resolver;
        let Some(exchange) = resolver.exchanges.get(id) else { return };
        if now >= exchange.began.plus_us(UPSTREAM_ANSWER_US_MAX) {
            // So late that answers of many questions may have been gathered to come at once (DNSBomb).
            self.counters.upstream_unexpected.add(1);
            return resolver.finish(id, Outcome::Failed(Failure::UpstreamsSilent));
        }
        resolver.upstreams.note_answer(send.server);
        let is_cut = head.truncated && send.transport == Transport::Udp;
        let is_failure = (head.rcode != rcode::NOERROR && head.rcode != rcode::NXDOMAIN) || head.is_referral;
        if (is_cut || is_failure) && exchange.current() != Some(&send) {
            // Late and of no use: the send that followed it is waited for.
            return self.counters.upstream_unexpected.add(1);
        }
        let mut outcome = Outcome::Answered { rcode: head.rcode, authentic_data: head.authentic_data };
        if is_cut {
            self.counters.upstream_truncated.add(1);
            match resolver.send(now, timeout_us, id, Some(send.server)) {
                Ok(()) => return,
                Err(failure) => outcome = Outcome::Failed(failure),
            }
        } else if is_failure {
            // Another server may know better; when none does, the failure is what they agree on.
            let has_others = resolver.upstreams.server_count(exchange.key.group) > exchange.tried.count();
            if has_others && resolver.send(now, timeout_us, id, None).is_ok() {
                return;
            }
            outcome = Outcome::Failed(Failure::UpstreamRefused);
        }
        if let Some(place) = resolver.response.get_mut(..message.len()) {
            place.copy_from_slice(message);
            resolver.response_bytes = message.len();
        }
        resolver.finish(id, outcome);
    }

    /// Somebody answers our question under another id: the true server would not. Only TCP can be trusted for it now.
    fn on_wrong_id(&mut self, now: Now, server: ServerId, transport: Transport, socket: u16, message: &[u8]) {
        self.counters.upstream_unexpected.add(1);
        let resolver = &mut self.resolver;
        if transport == Transport::Tcp {
            return;
        }
        let Some(id) = resolver.find_by_question(server, socket, message) else { return };
        let Some(exchange) = resolver.exchanges.get_mut(id) else { return };
        exchange.tcp_only = true;
        self.counters.upstream_wrong_id.add(1);
        if let Err(failure) = resolver.send(now, self.settings.upstream_timeout_ms * 1_000, id, Some(server)) {
            resolver.finish(id, Outcome::Failed(failure));
        }
    }

    /// A send failed at once: refused, unreachable, reset. One that was given up before, so that another send is waited for,
    /// makes no difference. Then drain [`Core::next_ready`].
    pub fn on_upstream_failed(&mut self, now: Now, id: SendId) {
        if self.is_awaited(id) {
            self.counters.upstream_failures.add(1);
            self.try_next(now, id.exchange);
        }
    }

    /// The same for all that is in flight on a UDP socket: a refusal (ICMP) does not say which question it is about.
    /// Call until it returns false, draining [`Core::next_ready`] in between.
    pub fn on_socket_failed(&mut self, now: Now, server: ServerId, socket: u16) -> bool {
        let Some(id) = self.resolver.exchanges.find_on_socket(server, socket, now) else { return false };
        self.counters.upstream_failures.add(1);
        self.try_next(now, id);
        true
    }

    /// Gives up sends whose time is over. Call until it returns false, draining [`Core::next_ready`] in between.
    pub fn on_tick(&mut self, now: Now) -> bool {
        let Some(id) = self.resolver.exchanges.pop_expired(now) else { return false };
        self.counters.upstream_timeouts.add(1);
        self.try_next(now, id);
        true
    }

    fn try_next(&mut self, now: Now, id: ExchangeId) {
        let resolver = &mut self.resolver;
        let Some(exchange) = resolver.exchanges.get(id) else { return };
        if let Some(send) = exchange.current() {
            resolver.upstreams.note_failure(send.server, now);
        }
        if let Err(failure) = resolver.send(now, self.settings.upstream_timeout_ms * 1_000, id, None) {
            resolver.finish(id, Outcome::Failed(failure));
        }
    }

    /// When [`Core::on_tick`] has something to do.
    pub fn next_deadline(&mut self) -> Option<Now> {
        self.resolver.exchanges.next_deadline()
    }

    /// Exchanges in flight.
    pub fn exchanges_open(&self) -> usize {
        self.resolver.exchanges.open_count()
    }
}
