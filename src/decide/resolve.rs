//! Stage 8 in motion: an exchange with upstreams from its first send to its end. [`super::hear`] tells it what comes back,
//! [`super::resume`] hands its outcome over.
//!
//! Which sends an exchange makes, at most [`UPSTREAM_SENDS_MAX`] of them all together:
//!
//! | send | when | to whom |
//! |---|---|---|
//! | first | at once | whom the strategy chooses |
//! | at once | beside it | with strategy `parallel`, the next ones that are up |
//! | measuring | beside it | a server that was not asked for long, or a suspect, to see if it is back |
//! | hedge | `hedge_ms` later, while the first is still waited for | the next one that is up |
//! | next | when none is waited for any more | the next one of the group, then of its fallback group, then all again |
//! | over TCP | after a cut answer, one with a wrong id, or one that its letter case or cookie speaks against | the same server |
//! | reworded | after an answer that refuses EDNS or an option, or wants the cookie that it brings | the same server |
//!
//! Invariants: an exchange ends by its first good answer; else when nothing is waited for and nobody is left to ask; at the
//! latest [`UPSTREAM_ANSWER_US_MAX`] after it began.
//!
//! [`UPSTREAM_ANSWER_US_MAX`]: crate::limits::UPSTREAM_ANSWER_US_MAX

use std::collections::VecDeque;
use std::sync::Arc;

use super::counters::Counters;
use super::peer::{Doubt, Rewording, Terms};
use super::request::REQUEST_BYTES_MAX;
use super::step::{ExchangeId, Now, Ready, SendId, Ticket, Transport};
use super::subnet::Network;
use super::upstream::{Chance, Health, Manner, ServerRef, Stray, Upstreams};
use super::waiting::{Exchange, ExchangeKey, Exchanges, Purpose, Send, SendState};
use super::why::Failure;
use super::wire::{CLASS_IN, rtype};
use crate::limits::{
    EXCHANGES_MAX, MESSAGE_BYTES_MAX, REFRESHES_MAX, SERVER_SOCKETS, UPSTREAM_ALONE_US_MIN, UPSTREAM_BACK_OFF_US_MIN,
    UPSTREAM_GROUPS_MAX, UPSTREAM_PARALLEL_MAX, UPSTREAM_SENDS_MAX,
};

use corewall_sharding::name::Name;

/// Draws of a message id before one is given up as taken: with four sends in flight of each of [`EXCHANGES_MAX`] exchanges,
/// one id in four is taken, and twenty-four draws fail once in 10^14 times.
const ID_DRAWS_MAX: usize = 24;
const _: () = assert!(EXCHANGES_MAX * UPSTREAM_SENDS_MAX as usize <= 1 << 14, "or ids are often taken");
const _: () = assert!(UPSTREAM_PARALLEL_MAX < UPSTREAM_SENDS_MAX, "a cut answer can be asked again over TCP");

/// What came of an exchange, while its clients are being resumed.
#[derive(Clone, Copy)]
pub(super) enum Outcome {
    Nothing,
    /// The message is in `response`.
    Answered {
        rcode: u16,
        authentic_data: bool,
        /// Whom it is for, see [`super::query::Query::note_answer_for`].
        answer_for: u64,
        scope_bits: Option<u8>,
    },
    Failed(Failure),
}

/// Why a message is sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Occasion {
    /// The first of an exchange, or the next after others that failed.
    Turn,
    /// Beside another one, to measure the server.
    Measuring,
}

/// A message to be sent.
struct Draft {
    server: ServerRef,
    terms: Terms,
    network: Option<Network>,
    again: Rewording,
    transport: Transport,
    is_measuring: bool,
    doubt: Option<Doubt>,
}

/// The upstream side of one worker.
pub(super) struct Resolver {
    pub(super) upstreams: Upstreams,
    pub(super) chance: Chance,
    pub(super) exchanges: Exchanges,
    pub(super) counters: Arc<Counters>,
    /// Microseconds that a server of which nothing is known is waited for, and any server at most.
    pub(super) timeout_us_max: u64,
    /// Where the request at hand is written.
    pub(super) request: [u8; REQUEST_BYTES_MAX],
    pub(super) ready: VecDeque<Ready>,
    pub(super) outcome: Outcome,
    pub(super) outcome_sends: u8,
    pub(super) resuming: Option<Ticket>,
    pub(super) response: Vec<u8>,
    pub(super) response_bytes: usize,
}

impl Resolver {
    pub(super) fn new(seed: [u8; 32], counters: Arc<Counters>) -> Self {
        let mut chance = Chance::new(seed);
        Self {
            upstreams: Upstreams::new(&mut chance),
            exchanges: Exchanges::new(chance.seeds()),
            chance,
            counters,
            timeout_us_max: 0,
            request: [0; REQUEST_BYTES_MAX],
            // Per event at most the sends and a closing for each exchange that its clients open or end; and the queries that no
            // client waits for, of several events.
            ready: VecDeque::with_capacity((1 + usize::from(UPSTREAM_SENDS_MAX)) * EXCHANGES_MAX + REFRESHES_MAX),
            outcome: Outcome::Nothing,
            outcome_sends: 0,
            resuming: None,
            response: vec![0; MESSAGE_BYTES_MAX],
            response_bytes: 0,
        }
    }

    /// Sends the question of a new exchange for the first time; `Err` when it cannot be, so that nobody is to wait for it.
    pub(super) fn begin(&mut self, now: Now, id: ExchangeId) -> Result<(), Failure> {
        let exchange = self.exchanges.get_mut(id).ok_or(Failure::NoUpstream)?;
        let home = exchange.home;
        exchange.subnet = self.upstreams.terms(home).subnet;
        exchange.asking = self.upstreams.first_asked(home);
        if exchange.asking != home {
            self.counters.upstream_fallbacks.add(1);
        }
        self.upstreams.opened(home, now);
        let (server, asking) = self.next_server(now, id).ok_or(Failure::NoUpstream)?;
        self.send(now, id, server, Occasion::Turn)?;
        let Manner { at_once, hedge_us } = self.upstreams.manner(asking);
        for _ in 1..at_once {
            if self.has_spare_send(id)
                && let Some(server) = self.next_up(now, id)
                && self.send(now, id, server, Occasion::Turn).is_ok()
            {
                self.counters.upstream_parallel.add(1);
            }
        }
        if self.has_spare_send(id)
            && let Some(exchange) = self.exchanges.get_mut(id)
            && let Some(server) = self.upstreams.choose_to_measure(asking, &mut exchange.tried, now)
        {
            if self.upstreams.note_retry(server, now, self.timeout_us_max) == Health::WentDown {
                // From now on it is probed.
                self.counters.upstream_downs.add(1);
            } else if self.send(now, id, server, Occasion::Measuring).is_ok() {
                self.counters.upstream_measurings.add(1);
            }
        }
        if hedge_us > 0
            && let Some(exchange) = self.exchanges.get_mut(id)
        {
            exchange.hedge_at = Some(now.plus_us(hedge_us));
        }
        self.exchanges.schedule(id);
        Ok(())
    }

    /// Whether another send beside the others leaves one for TCP.
    pub(super) fn has_spare_send(&self, id: ExchangeId) -> bool {
        self.exchanges.get(id).is_some_and(|exchange| exchange.sends + 1 < exchange.sends_max)
    }

    /// The next server of the group that is being asked, if it is up.
    fn next_up(&mut self, now: Now, id: ExchangeId) -> Option<ServerRef> {
        let exchange = self.exchanges.get_mut(id)?;
        self.upstreams.choose_up(exchange.asking, &mut exchange.tried, now)
    }

    /// Whom to ask next, and in which group: one that was not asked yet, of the group or of those that stand in for it. When
    /// all were asked, and have been silent, it begins again.
    fn next_server(&mut self, now: Now, id: ExchangeId) -> Option<(ServerRef, super::upstream::GroupRef)> {
        let Self { exchanges, upstreams, counters, .. } = self;
        let exchange = exchanges.get_mut(id)?;
        // As many groups may stand in for each other as there are.
        for _ in 0..UPSTREAM_GROUPS_MAX {
            if let Some(server) = upstreams.choose(exchange.asking, &mut exchange.tried, now) {
                return Some((server, exchange.asking));
            }
            let Some(fallback) = upstreams.fallback(exchange.asking) else { break };
            exchange.asking = fallback;
            exchange.tried = Default::default();
            counters.upstream_fallbacks.add(1);
        }
        let may_begin_again = !exchange.was_refused && exchange.sends > 0 && exchange.outstanding().next().is_none();
        if !may_begin_again {
            return None;
        }
        exchange.is_again = true;
        exchange.asking = upstreams.first_asked(exchange.home);
        exchange.tried = Default::default();
        let server = upstreams.choose(exchange.asking, &mut exchange.tried, now)?;
        Some((server, exchange.asking))
    }

    /// Sends the question to a server; `Err` when its sends or its time are used up. Then [`Exchanges::schedule`].
    pub(super) fn send(
        &mut self,
        now: Now,
        id: ExchangeId,
        server: ServerRef,
        occasion: Occasion,
    ) -> Result<(), Failure> {
        let exchange = self.exchanges.get(id).ok_or(Failure::UpstreamsSilent)?;
        let is_probe = exchange.purpose == Purpose::Probe;
        let terms = if is_probe { self.upstreams.terms_of(server) } else { self.upstreams.terms(exchange.asking) };
        let draft = Draft {
            server,
            terms,
            network: exchange.key.network.filter(|_| terms.subnet == exchange.subnet),
            again: Rewording::default(),
            transport: if exchange.tcp_only { Transport::Tcp } else { Transport::Udp },
            is_measuring: occasion == Occasion::Measuring,
            doubt: None,
        };
        self.put(now, id, draft)
    }

    /// Sends the question again to the server of one of its sends, in other words or over TCP; `Err` as for [`Self::send`].
    pub(super) fn send_again(
        &mut self,
        now: Now,
        id: ExchangeId,
        before: &Send,
        again: Rewording,
        transport: Transport,
        doubt: Option<Doubt>,
    ) -> Result<(), Failure> {
        let &Send { server, terms, network, is_measuring, .. } = before;
        let is_measuring = is_measuring && transport == Transport::Udp;
        self.put(now, id, Draft { server, terms, network, again, transport, is_measuring, doubt })
    }

    fn put(&mut self, now: Now, id: ExchangeId, draft: Draft) -> Result<(), Failure> {
        let Draft { server, terms, network, again, transport, is_measuring, doubt } = draft;
        let exchange = self.exchanges.get(id).ok_or(Failure::UpstreamsSilent)?;
        if exchange.sends >= exchange.sends_max || now >= exchange.end() {
            return Err(Failure::UpstreamsSilent);
        }
        // A reload may have taken the server away.
        if self.upstreams.address(server).is_none() {
            return Err(Failure::UpstreamsSilent);
        }
        // What a connection takes is not measured; and who is asked again for the same may well need longer than usual.
        let is_patient = transport == Transport::Tcp || exchange.is_again || exchange.purpose == Purpose::Probe;
        let max = self.timeout_us_max;
        let timeout_us = match self.upstreams.timeout_us(server, max) {
            _ if is_patient => max,
            usual if usual < UPSTREAM_ALONE_US_MIN && self.upstreams.is_alone(exchange.asking) => {
                UPSTREAM_ALONE_US_MIN.min(max)
            }
            usual => usual,
        };
        // An answer after the end would be dropped: nobody is to wait for it.
        let deadline = now.plus_us(timeout_us).min(exchange.end());
        let message_id = self.draw_id().ok_or(Failure::Overloaded)?;
        let send = Send {
            id: message_id,
            server,
            socket: self.draw_socket(id, server),
            transport,
            state: SendState::Awaited,
            is_measuring,
            sent: now,
            deadline,
            terms,
            network,
            wording: self.upstreams.word(server, &terms, now, again),
            doubt,
        };
        let place = self.exchanges.sent(id, send).ok_or(Failure::UpstreamsSilent)?;
        self.upstreams.note_asked(server, now);
        self.ready.push_back(Ready::Send(SendId { exchange: id, place }));
        Ok(())
    }

    /// One of a server's sockets, but none that has sent this question before: a refusal on it could not be told from one of
    /// the earlier send.
    fn draw_socket(&mut self, id: ExchangeId, server: ServerRef) -> u16 {
        let drawn = self.chance.below(SERVER_SOCKETS as u16);
        let log = self.exchanges.get(id).map(Exchange::log).unwrap_or_default();
        let is_fresh = |socket: &u16| !log.iter().any(|send| (send.server, send.socket) == (server, *socket));
        (0..SERVER_SOCKETS as u16).map(|step| (drawn + step) % SERVER_SOCKETS as u16).find(is_fresh).unwrap_or(drawn)
    }

    fn draw_id(&mut self) -> Option<u16> {
        (0..ID_DRAWS_MAX).map(|_| self.chance.id()).find(|&id| !self.exchanges.is_id_taken(id))
    }

    /// Asks another server too, for the first has been silent for long, though not so long that it is to blame.
    pub(super) fn hedge(&mut self, now: Now, id: ExchangeId) {
        let Some(exchange) = self.exchanges.get_mut(id) else { return };
        exchange.hedge_at = None;
        let (asking, is_waiting) = (exchange.asking, exchange.outstanding().next().is_some());
        // The group that is asked by now may be one that stands in, and does not hedge.
        let hedge_us = self.upstreams.manner(asking).hedge_us;
        if hedge_us == 0 || !is_waiting || !self.has_spare_send(id) {
            return;
        }
        let Some(server) = self.next_up(now, id) else { return };
        if self.send(now, id, server, Occasion::Turn).is_ok() {
            self.counters.upstream_hedges.add(1);
            if let Some(exchange) = self.exchanges.get_mut(id) {
                exchange.hedge_at = Some(now.plus_us(hedge_us));
            }
        }
    }

    /// A send is over without an answer to be used: waits for the others, or asks the next server, or ends the exchange.
    pub(super) fn advance(&mut self, now: Now, id: ExchangeId) {
        let Some(exchange) = self.exchanges.get_mut(id) else { return };
        exchange.lingers_until = None;
        if exchange.purpose == Purpose::Probe {
            return self.finish(now, id, Outcome::Nothing);
        }
        let has_other = exchange.outstanding().any(|send| !send.is_measuring);
        if !has_other && exchange.cut.is_some() {
            return self.ask_over_tcp(now, id);
        }
        if !has_other
            && let Some((server, _)) = self.next_server(now, id)
            && self.send(now, id, server, Occasion::Turn).is_ok()
        {
            return self.exchanges.schedule(id);
        }
        let Some(exchange) = self.exchanges.get_mut(id) else { return };
        if exchange.outstanding().next().is_some() {
            return self.exchanges.schedule(id);
        }
        // Nobody is left to ask. Those who have been silent for less than the longest time-out may still answer.
        let patience_us = self.timeout_us_max;
        let silent = exchange.log().iter().filter(|send| send.state == SendState::Silent);
        let until = silent.map(|send| send.sent.plus_us(patience_us)).max().filter(|until| *until > now);
        exchange.lingers_until = until;
        exchange.hedge_at = None;
        if until.is_some() && now < exchange.end() {
            return self.exchanges.schedule(id);
        }
        let failure = if exchange.was_refused { Failure::UpstreamRefused } else { Failure::UpstreamsSilent };
        self.finish(now, id, Outcome::Failed(failure));
    }

    /// Asks the server that has cut its answer for the whole of it.
    pub(super) fn ask_over_tcp(&mut self, now: Now, id: ExchangeId) {
        let cut = self.exchanges.get_mut(id).and_then(|exchange| {
            let place = exchange.cut.take()?;
            exchange.send(place).copied()
        });
        let ask = |send: Send| self.send_again(now, id, &send, Rewording::from(send.wording), Transport::Tcp, None);
        match cut.map(ask) {
            Some(Ok(())) => self.exchanges.schedule(id),
            _ => self.advance(now, id),
        }
    }

    /// Ends an exchange; its clients are resumed one by one by [`super::Core::next_ready`].
    pub(super) fn finish(&mut self, now: Now, id: ExchangeId, outcome: Outcome) {
        let Some(exchange) = self.exchanges.get(id) else { return };
        let (purpose, home, sends) = (exchange.purpose, exchange.home, exchange.sends);
        self.keep_strays(now, id);
        let clients = self.exchanges.close(id);
        self.ready.push_back(Ready::Done(id));
        if purpose == Purpose::Probe {
            return;
        }
        debug_assert!(self.resuming.is_none(), "the clients of the last exchange are still to be resumed");
        self.upstreams.closed(home);
        self.outcome = outcome;
        self.outcome_sends = sends;
        self.resuming = clients;
    }

    /// Ends an exchange that was never sent, and for which nobody but the query at hand waits.
    pub(super) fn abandon(&mut self, id: ExchangeId) {
        if let Some(home) = self.exchanges.get(id).map(|exchange| exchange.home) {
            self.upstreams.closed(home);
            self.exchanges.close(id);
        }
    }

    /// What was sent and not answered when another server's answer ended the exchange is still measured.
    fn keep_strays(&mut self, now: Now, id: ExchangeId) {
        let Self { exchanges, upstreams, counters, .. } = self;
        let sends = exchanges.get(id).map(Exchange::log).unwrap_or_default();
        for send in sends.iter().filter(|send| send.state != SendState::Over && send.transport == Transport::Udp) {
            let Send { id, socket, server, sent, state, is_measuring, .. } = *send;
            let stray = Stray { id, socket, server, sent, was_given_up: state == SendState::Silent, is_measuring };
            if upstreams.add_stray(stray, now) == Health::WentDown {
                counters.upstream_downs.add(1);
            }
        }
    }

    /// Asks a server that is down whether it is back.
    pub(super) fn probe(&mut self, now: Now, server: ServerRef) {
        let key = ExchangeKey {
            name: Name::ROOT,
            qtype: rtype::NS,
            qclass: CLASS_IN,
            dnssec_ok: false,
            group: 0,
            network: None,
        };
        let Some(id) = self.exchanges.open_probe(key, now) else {
            return self.upstreams.postpone_probe(server, now.plus_us(UPSTREAM_BACK_OFF_US_MIN));
        };
        if let Some(exchange) = self.exchanges.get_mut(id) {
            exchange.sends_max = 1;
        }
        match self.send(now, id, server, Occasion::Turn) {
            Ok(()) => {
                self.counters.upstream_probes.add(1);
                self.exchanges.schedule(id);
            }
            Err(_) => {
                self.exchanges.close(id);
                self.upstreams.postpone_probe(server, now.plus_us(UPSTREAM_BACK_OFF_US_MIN));
            }
        }
    }
}
