//! Stage 8, what comes back: answers, refusals, silence. Each event changes one exchange, and ends at most that one.

use corewall_sharding::name::Name;

use super::Core;
use super::answer::{self, ResponseError, ResponseHead};
use super::peer::{Rewording, Sent, Verdict};
use super::request::Request;
use super::resolve::{Outcome, Resolver};
use super::step::{ExchangeId, Now, SendId, Transport, Undelivered, UpstreamRequest};
use super::subnet::{Network, SubnetMode};
use super::upstream::{Health, ServerId, ServerReport};
use super::waiting::{Exchange, ExchangeKey, Purpose, Send, SendState};
use super::why::Failure;
use super::wire::{WireName, rcode};
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

    /// What is to be done with an answer to a send.
    fn judge(&mut self, now: Now, send: &Send, head: &ResponseHead) -> Verdict {
        let &Send { server, transport, wording, network, ref terms, .. } = send;
        let sent = Sent { transport, wording, network };
        let (verdict, is_first_cookie) = self.upstreams.judge(server, terms, now, &sent, head);
        if is_first_cookie {
            self.counters.upstream_cookies_learnt.add(1);
        }
        if matches!(verdict, Verdict::Wait | Verdict::AskOverTcp(_)) {
            self.counters.upstream_doubtful.add(1);
        }
        verdict
    }

    /// Asks the server of a send once more, as its answer demands; false when there is no way to.
    fn ask_again(&mut self, now: Now, id: ExchangeId, send: &Send, verdict: Verdict) -> bool {
        let Some(exchange) = self.exchanges.get(id) else { return false };
        let (again, transport, doubt) = match verdict {
            Verdict::AskAgain(again) => (again, send.transport, None),
            Verdict::AskOverTcp(doubt) => (Rewording::from(send.wording), Transport::Tcp, Some(doubt)),
            _ => return false,
        };
        // One connection is enough; and what only measures a server leaves the last send to the others.
        let is_asked = doubt.is_some() && exchange.outstanding().any(|send| send.transport == Transport::Tcp);
        let is_spared = send.is_measuring && !self.has_spare_send(id);
        if is_asked || is_spared || self.send_again(now, id, send, again, transport, doubt).is_err() {
            return false;
        }
        // Whatever it says, there is somebody.
        self.upstreams.note_answer(send.server, now, true, None);
        if doubt.is_none() && !again.is_cookie_retry {
            self.counters.upstream_plainer.add(1);
        }
        self.exchanges.schedule(id);
        true
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
        // It has just answered over UDP: what is wanting is the proof.
        if let Some(doubt) = send.doubt {
            return self.upstreams.note_unconfirmed(send.server, now, doubt);
        }
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

/// Whom an answer is for: what it is to be kept under, and what clients that sent their network are told.
fn audience(key: &ExchangeKey, send: &Send, head: &ResponseHead) -> (u64, Option<u8>) {
    if send.network != key.network {
        // It was told less than the group for which it stands in: its answer says nothing about other networks.
        return (key.network.map_or(0, Network::key), None);
    }
    let told = send.wording.sent_network(send.network).filter(|network| network.tells_an_address());
    let scope_bits = if told.is_some() { head.subnet.scope_bits() } else { 0 };
    let answer_for = Network::answer_key(send.network, scope_bits);
    let is_of_option = match send.terms.subnet.mode {
        SubnetMode::Drop => false,
        SubnetMode::Forward => true,
        // It is for the client's address, whatever the client's option says.
        SubnetMode::Set => answer_for == 0,
    };
    (answer_for, is_of_option.then_some(scope_bits))
}

impl Core {
    /// What is to be sent after [`super::Ready::Send`]; none when its exchange is over.
    pub fn upstream_request(&mut self, id: SendId) -> Option<UpstreamRequest<'_>> {
        let Resolver { exchanges, upstreams, request, .. } = &mut self.resolver;
        let exchange = exchanges.get(id.exchange)?;
        let &Send { id: message_id, server, socket, transport, wording, network, .. } = exchange.send(id.place)?;
        let address = upstreams.address(server)?;
        let ExchangeKey { name, qtype, qclass, dnssec_ok, .. } = &exchange.key;
        let question = Request {
            id: message_id,
            name,
            qtype: *qtype,
            qclass: *qclass,
            dnssec_ok: *dnssec_ok,
            wording,
            server_cookie: upstreams.server_cookie(server, &wording),
            network,
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
        let Some(exchange) = self.resolver.exchanges.get(id) else { return };
        let (key, Some(send)) = (&exchange.key, exchange.send(place)) else { return };
        let spelled = send.wording.spelling.is_random().then(|| send.wording.spell(&key.name));
        let asked = spelled.as_ref().map_or(key.name.as_wire(), WireName::as_wire);
        match answer::response_head(message, asked, key.qtype, key.qclass) {
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
        let Some(send) = exchange.send(place).copied() else { return };
        let verdict = resolver.judge(now, &send, &head);
        if verdict == Verdict::Wait {
            return self.counters.upstream_unexpected.add(1);
        }
        resolver.end_send(id, place);
        match verdict {
            Verdict::AskAgain(_) | Verdict::AskOverTcp(_) if resolver.ask_again(now, id, &send, verdict) => {}
            // There is no send left to confirm it by; a probe wants to hear no more than this.
            Verdict::AskOverTcp(_) => {
                resolver.upstreams.note_answer(send.server, now, true, None);
                resolver.advance(now, id);
            }
            // It refuses the words of a question for which there is no other send left.
            Verdict::Take | Verdict::AskAgain(_) => {
                self.take_response(now, SendId { exchange: id, place }, &send, head, message)
            }
            Verdict::Refuse => {
                resolver.upstreams.note_answer(send.server, now, false, None);
                if let Some(exchange) = resolver.exchanges.get_mut(id) {
                    exchange.was_refused = true;
                }
                resolver.advance(now, id);
            }
            Verdict::Wait => {}
        }
    }

    /// It is the server's answer, such as it is.
    fn take_response(
        &mut self,
        now: Now,
        SendId { exchange: id, place }: SendId,
        send: &Send,
        head: ResponseHead,
        message: &[u8],
    ) {
        let resolver = &mut self.resolver;
        let is_cut = head.truncated && send.transport == Transport::Udp;
        // Cut over TCP too, it is no answer at all: what is left of it would be taken for the whole.
        let is_cut_for_good = head.truncated && send.transport == Transport::Tcp;
        let is_failure =
            (head.rcode != rcode::NOERROR && head.rcode != rcode::NXDOMAIN) || head.is_referral || is_cut_for_good;
        let sample_us = (send.transport == Transport::Udp && !is_failure).then(|| now.0.saturating_sub(send.sent.0));
        resolver.upstreams.note_answer(send.server, now, !is_failure, sample_us);
        let Some(exchange) = resolver.exchanges.get_mut(id) else { return };
        if exchange.purpose == Purpose::Probe {
            return resolver.finish(now, id, Outcome::Nothing);
        }
        if is_cut {
            self.counters.upstream_truncated.add(1);
            // One connection at a time is enough, however many servers have cut their answers.
            let is_asked = exchange.outstanding().any(|send| send.transport == Transport::Tcp);
            exchange.cut = exchange.cut.or(Some(place));
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
        let (answer_for, scope_bits) = audience(&exchange.key, send, &head);
        let name = exchange.key.name.as_wire();
        if let Some(place) = resolver.response.get_mut(..message.len()) {
            place.copy_from_slice(message);
            // As if the question had been in lower case: names in the answer point to it.
            if let Some(asked) = place.get_mut(HEADER_BYTES..HEADER_BYTES + name.len()) {
                asked.copy_from_slice(name);
            }
            resolver.response_bytes = message.len();
        }
        let ResponseHead { rcode, authentic_data, .. } = head;
        let outcome = Outcome::Answered { rcode, authentic_data, answer_for, scope_bits };
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
        match resolver.send_again(now, id, &send, Rewording::from(send.wording), Transport::Tcp, None) {
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

    /// Does what is due: gives up sends whose time is over, hedges, probes, serves clients that have waited long enough, for
    /// upstreams or the store. Call
    /// until it returns false, draining [`Core::next_ready`] in between.
    pub fn on_tick(&mut self, now: Now) -> bool {
        if self.pop_client_timer(now) || self.pop_read_deadline(now) {
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
        let read = self.reads.first().map(|(at, _)| at);
        [exchanges.next_deadline(), upstreams.next_probe(), served, read].into_iter().flatten().min()
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
