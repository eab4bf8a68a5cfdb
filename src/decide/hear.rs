//! Stage 8, what comes back: answers, refusals, silence. Each event changes one exchange, and ends at most that one.

use corewall_sharding::name::Name;

use super::Core;
use super::answer::{self, ResponseError, ResponseHead};
use super::request::{Request, Wording};
use super::resolve::{Occasion, Outcome, Resolver};
use super::step::{ExchangeId, Now, SendId, Transport, Undelivered, UpstreamRequest};
use super::upstream::{Health, ServerId, ServerReport};
use super::waiting::{Exchange, ExchangeKey, Purpose, Send, SendState};
use super::why::Failure;
use super::wire::rcode;
use crate::limits::HEADER_BYTES;

/// Whose answer a message is.
enum Found {
    /// Of this send, which takes one.
    Answer(ExchangeId, u8),
    /// Of a send that has had one, or is trusted no more.
    Spent,
    /// Of none.
    Nothing,
}

impl Resolver {
    /// The send that a message with this id is the answer to.
    fn find_send(&self, id: u16, server: ServerId, transport: Transport, socket: u16) -> Found {
        let Some(exchange_id) = self.exchanges.by_message_id(id) else { return Found::Nothing };
        let sends = self.exchanges.get(exchange_id).map(Exchange::log).unwrap_or_default();
        let is_asked = |send: &Send| send.is_answered_by(id, server, transport, socket);
        match sends.iter().position(is_asked) {
            None => Found::Nothing,
            Some(place) if sends.get(place).is_some_and(|send| send.state == SendState::Over) => Found::Spent,
            Some(place) => Found::Answer(exchange_id, place as u8),
        }
    }

    /// An exchange whose question `message` repeats, and that waits for an answer on just this socket.
    fn find_by_question(&self, server: ServerId, socket: u16, message: &[u8]) -> Option<(ExchangeId, Send)> {
        let name = Name::from_wire(message.get(HEADER_BYTES..)?).ok()?;
        let (qtype, rest) = message.get(HEADER_BYTES + name.as_wire().len()..)?.split_first_chunk::<2>()?;
        let (qclass, _) = rest.split_first_chunk::<2>()?;
        let (qtype, qclass) = (u16::from_be_bytes(*qtype), u16::from_be_bytes(*qclass));
        let mut candidates = self.exchanges.of_question(&name, qtype, qclass);
        candidates.find_map(|(id, exchange)| Some((id, *exchange.outstanding_on(server, socket)?)))
    }

    /// Ends the wait for one send. Returns it as it was before.
    fn end_send(&mut self, id: ExchangeId, place: u8) -> Option<Send> {
        let send = self.exchanges.get_mut(id)?.log_mut().get_mut(usize::from(place))?;
        let before = *send;
        send.state = SendState::Over;
        Some(before)
    }

    /// A send could not be delivered.
    fn fail_send(&mut self, now: Now, id: ExchangeId, place: u8, why: Undelivered) {
        let Some(before) = self.end_send(id, place) else { return };
        let is_probe = self.exchanges.get(id).is_some_and(|exchange| exchange.purpose == Purpose::Probe);
        match before.state {
            // But a probe that was not sent is to be followed by another one, as one that failed is.
            SendState::Awaited if why == Undelivered::NoRoom && !is_probe => {}
            SendState::Awaited => {
                self.counters.upstream_failures.add(1);
                self.blame(now, id, &before, true);
            }
            // Given up before: it makes a difference only when it was the last one to be hoped for.
            SendState::Silent => {}
            SendState::Over => return,
        }
        self.advance(now, id);
    }

    /// Holds a failure against a server.
    fn blame(&mut self, now: Now, id: ExchangeId, send: &Send, was_refused: bool) {
        let is_probe = self.exchanges.get(id).is_some_and(|exchange| exchange.purpose == Purpose::Probe);
        let upstreams = &mut self.upstreams;
        let health = match was_refused {
            _ if is_probe => {
                upstreams.note_probe_failed(send.server, now);
                Health::Same
            }
            true => upstreams.note_refusal(send.server, now, send.sent),
            false => upstreams.note_timeout(send.server, now, send.sent),
        };
        if health == Health::WentDown {
            self.counters.upstream_downs.add(1);
        }
    }

    /// Does what is due for an exchange: gives up sends whose time is over, hedges, or ends it.
    fn attend(&mut self, now: Now, id: ExchangeId) {
        let Some(exchange) = self.exchanges.get(id) else { return };
        let (end, hedge_at, lingers_until) = (exchange.end(), exchange.hedge_at, exchange.lingers_until);
        let mut has_given_up = false;
        for place in 0..exchange.sends {
            let Some(exchange) = self.exchanges.get_mut(id) else { return };
            let Some(send) = exchange.log_mut().get_mut(usize::from(place)) else { return };
            if send.state == SendState::Awaited && send.deadline <= now {
                send.state = SendState::Silent;
                let send = *send;
                self.counters.upstream_timeouts.add(1);
                // One that was sent shortly before the end has not had its time.
                let timeout_us = self.upstreams.timeout_us(send.server, self.timeout_us_max);
                if send.deadline < end || send.sent.plus_us(timeout_us) <= end {
                    self.blame(now, id, &send, false);
                }
                has_given_up = true;
            }
        }
        if has_given_up || lingers_until.is_some_and(|until| until <= now) || now >= end {
            return self.advance(now, id);
        }
        if hedge_at.is_some_and(|at| at <= now) {
            self.hedge(now, id);
        }
        self.exchanges.schedule(id);
    }
}

impl Core {
    /// What is to be sent after [`super::Ready::Send`]; none when its exchange is over.
    pub fn upstream_request(&mut self, id: SendId) -> Option<UpstreamRequest<'_>> {
        let Resolver { exchanges, upstreams, request, .. } = &mut self.resolver;
        let exchange = exchanges.get(id.exchange)?;
        let &Send { id: message_id, server, socket, transport, .. } = exchange.send(id.place)?;
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
        Some(UpstreamRequest { server: server.id, address, transport, socket, id: message_id, message })
    }

    /// Whether the answer to this send is still waited for.
    pub fn is_awaited(&self, id: SendId) -> bool {
        let exchange = self.resolver.exchanges.get(id.exchange);
        exchange.and_then(|exchange| exchange.send(id.place)).is_some_and(|send| send.state == SendState::Awaited)
    }

    /// A message came from a server, on one of its sockets (over TCP: 0). Then drain [`Core::next_ready`].
    pub fn on_upstream(&mut self, now: Now, server: ServerId, transport: Transport, socket: u16, message: &[u8]) {
        let Some((id, _)) = message.split_first_chunk::<2>() else { return self.counters.upstream_unexpected.add(1) };
        let message_id = u16::from_be_bytes(*id);
        let (id, place) = match self.resolver.find_send(message_id, server, transport, socket) {
            Found::Answer(id, place) => (id, place),
            Found::Spent => return self.counters.upstream_unexpected.add(1),
            Found::Nothing => return self.on_unasked(now, server, transport, socket, message),
        };
        let Some(key) = self.resolver.exchanges.get(id).map(|exchange| &exchange.key) else { return };
        match answer::response_head(message, key.name.as_wire(), key.qtype, key.qclass) {
            Ok(head) => self.on_response(now, id, place, head, message),
            // Whoever wrote it, it is not the answer: the wait goes on (TuDoor).
            Err(ResponseError::Malformed | ResponseError::ChainTooLong | ResponseError::TooLarge) => {
                self.counters.upstream_unexpected.add(1);
            }
        }
    }

    fn on_response(&mut self, now: Now, id: ExchangeId, place: u8, head: ResponseHead, message: &[u8]) {
        let resolver = &mut self.resolver;
        let Some(exchange) = resolver.exchanges.get(id) else { return };
        if now >= exchange.end() {
            // So late that answers of many questions may have been gathered to come at once (DNSBomb).
            self.counters.upstream_unexpected.add(1);
            return resolver.finish(now, id, Outcome::Failed(Failure::UpstreamsSilent));
        }
        let Some(send) = resolver.end_send(id, place) else { return };
        let is_cut = head.truncated && send.transport == Transport::Udp;
        // Cut over TCP too, it is no answer at all: what is left of it would be taken for the whole.
        let is_cut_for_good = head.truncated && send.transport == Transport::Tcp;
        let is_failure =
            (head.rcode != rcode::NOERROR && head.rcode != rcode::NXDOMAIN) || head.is_referral || is_cut_for_good;
        let sample_us = (send.transport == Transport::Udp && !is_failure).then(|| now.0.saturating_sub(send.sent.0));
        resolver.upstreams.note_answer(send.server, !is_failure, sample_us);
        let Some(exchange) = resolver.exchanges.get_mut(id) else { return };
        if exchange.purpose == Purpose::Probe {
            return resolver.finish(now, id, Outcome::Nothing);
        }
        if is_cut {
            self.counters.upstream_truncated.add(1);
            // One connection at a time is enough, however many servers have cut their answers.
            let is_asked = exchange.outstanding().any(|send| send.transport == Transport::Tcp);
            exchange.cut = exchange.cut.or(Some(send.server));
            return match is_asked {
                true => resolver.advance(now, id),
                false => resolver.ask_over_tcp(now, id),
            };
        }
        if is_failure {
            // Another server may know better; when none does, the failure is what they agree on.
            exchange.was_refused = true;
            return resolver.advance(now, id);
        }
        if let Some(place) = resolver.response.get_mut(..message.len()) {
            place.copy_from_slice(message);
            resolver.response_bytes = message.len();
        }
        let outcome = Outcome::Answered { rcode: head.rcode, authentic_data: head.authentic_data };
        resolver.finish(now, id, outcome);
    }

    /// Nobody has asked for this message: a late one of an exchange that is over, or an attempt to poison.
    fn on_unasked(&mut self, now: Now, server: ServerId, transport: Transport, socket: u16, message: &[u8]) {
        if transport == Transport::Tcp {
            return self.counters.upstream_unexpected.add(1);
        }
        let resolver = &mut self.resolver;
        if let Some((id, _)) = message.split_first_chunk::<2>()
            && resolver.upstreams.hear_stray(now, u16::from_be_bytes(*id), server, socket)
        {
            return;
        }
        self.counters.upstream_unexpected.add(1);
        // Somebody answers our question under another id: the true server would not. Only TCP can be trusted for it now.
        let Some((id, send)) = resolver.find_by_question(server, socket, message) else { return };
        let Some(exchange) = resolver.exchanges.get_mut(id) else { return };
        exchange.tcp_only = true;
        // What is on its way over UDP may be what the attempt aims at.
        for send in exchange.log_mut().iter_mut().filter(|send| send.transport == Transport::Udp) {
            send.state = SendState::Over;
        }
        self.counters.upstream_wrong_id.add(1);
        match resolver.send(now, id, send.server, Occasion::OverTcp) {
            Ok(()) => resolver.exchanges.schedule(id),
            Err(_) => resolver.advance(now, id),
        }
    }

    /// A send failed at once. One that was given up before, so that another send is waited for, makes no difference. Then
    /// drain [`Core::next_ready`].
    pub fn on_upstream_failed(&mut self, now: Now, id: SendId, why: Undelivered) {
        self.resolver.fail_send(now, id.exchange, id.place, why);
    }

    /// The same for all that is in flight on a UDP socket: a refusal (ICMP) does not say which question it is about.
    /// Call until it returns false, draining [`Core::next_ready`] in between.
    pub fn on_socket_failed(&mut self, now: Now, server: ServerId, socket: u16) -> bool {
        let Some((id, place)) = self.resolver.exchanges.find_on_socket(server, socket, now) else { return false };
        self.resolver.fail_send(now, id, place, Undelivered::Refused);
        true
    }

    /// Does what is due: gives up sends whose time is over, hedges, probes, serves clients that have waited long enough. Call
    /// until it returns false, draining [`Core::next_ready`] in between.
    pub fn on_tick(&mut self, now: Now) -> bool {
        if self.pop_client_timer(now) {
            return true;
        }
        let resolver = &mut self.resolver;
        if let Some(id) = resolver.exchanges.due(now) {
            resolver.attend(now, id);
            return true;
        }
        if resolver.upstreams.next_probe().is_some_and(|at| at <= now) {
            if let Some(server) = resolver.upstreams.take_probe(now) {
                resolver.probe(now, server);
            }
            return true;
        }
        false
    }

    /// When [`Core::on_tick`] has something to do.
    pub fn next_deadline(&mut self) -> Option<Now> {
        let served = self.client_timers.next_deadline(&self.queries);
        let Resolver { exchanges, upstreams, .. } = &self.resolver;
        [exchanges.next_deadline(), upstreams.next_probe(), served].into_iter().flatten().min()
    }

    /// Exchanges in flight, probes included.
    pub fn exchanges_open(&self) -> usize {
        self.resolver.exchanges.open_count()
    }

    /// What is known of each upstream server.
    pub fn servers(&self) -> impl Iterator<Item = ServerReport<'_>> {
        self.resolver.upstreams.servers()
    }
}
