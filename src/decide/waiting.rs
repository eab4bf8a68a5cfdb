//! Questions in flight to upstreams, and the queries that wait for them: equal questions share one exchange.
//!
//! Invariants: an exchange is one question and up to [`UPSTREAM_SENDS_MAX`] sends of it, several of which may be waited for at
//! once. The id of a send finds its exchange until that one is closed, and no two sends in flight bear the same. Each exchange
//! has one moment at which something is due: the first of its sends' deadlines, its hedge, or its end.

use ahash::RandomState;
use corewall_sharding::name::Name;
use hashbrown::HashTable;

use super::Now;
use super::deadlines::Deadlines;
use super::peer::{Doubt, Terms};
use super::request::Wording;
use super::step::{ExchangeId, Ticket, Transport};
use super::subnet::{Network, SubnetPolicy};
use super::upstream::{GroupId, GroupRef, ServerId, ServerRef, Tried};
use crate::limits::{EXCHANGE_CLIENTS_MAX, EXCHANGES_MAX, UPSTREAM_ANSWER_US_MAX, UPSTREAM_SENDS_MAX};

/// What makes two questions to upstreams equal. The client's EDNS variants beside DO make no difference.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ExchangeKey {
    /// Lower case.
    pub name: Name,
    /// QTYPE.
    pub qtype: u16,
    /// QCLASS.
    pub qclass: u16,
    /// DO.
    pub dnssec_ok: bool,
    /// To whom.
    pub group: GroupId,
    /// On behalf of which clients, where the group is told networks.
    pub network: Option<Network>,
}

impl ExchangeKey {
    /// Whether upstreams are told a part of a client's address.
    pub fn tells_an_address(&self) -> bool {
        self.network.is_some_and(Network::tells_an_address)
    }
}

/// How a send does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SendState {
    /// Its answer is waited for.
    Awaited,
    /// It was given up, though its answer would still be taken.
    Silent,
    /// It was answered, has failed, or is trusted no more.
    Over,
}

/// One message to one server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Send {
    /// Message id.
    pub id: u16,
    /// To whom.
    pub server: ServerRef,
    /// From which of its sockets.
    pub socket: u16,
    /// How.
    pub transport: Transport,
    /// How it does.
    pub state: SendState,
    /// Sent to measure the server, beside another one: nobody waits for it while anyone else could be asked.
    pub is_measuring: bool,
    /// When it went out.
    pub sent: Now,
    /// When it is given up.
    pub deadline: Now,
    /// On which terms its server is spoken to.
    pub terms: Terms,
    /// What it is told of the clients' network.
    pub network: Option<Network>,
    /// How it is worded.
    pub wording: Wording,
    /// What speaks against the answer that it is to confirm over TCP.
    pub doubt: Option<Doubt>,
}

impl Send {
    const NONE: Send = Send {
        id: 0,
        server: ServerRef::NONE,
        socket: 0,
        transport: Transport::Udp,
        state: SendState::Over,
        is_measuring: false,
        sent: Now(0),
        deadline: Now(0),
        terms: Terms::USUAL,
        network: None,
        wording: Wording::PLAIN,
        doubt: None,
    };

    /// Whether a message that came from `server` in this way can be the answer to this send.
    pub fn is_answered_by(&self, id: u16, server: ServerId, transport: Transport, socket: u16) -> bool {
        self.id == id
            && self.server.id == server
            && self.transport == transport
            && (transport == Transport::Tcp || self.socket == socket)
    }

    fn is_on(&self, server: ServerId, socket: u16) -> bool {
        self.state == SendState::Awaited
            && (self.server.id, self.socket, self.transport) == (server, socket, Transport::Udp)
    }
}

/// What an exchange is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Purpose {
    /// The slot is free.
    Nothing,
    /// Queries wait for the answer.
    Answer,
    /// To see whether a server that is down is back; no query can join.
    Probe,
}

/// One question in flight.
pub struct Exchange {
    turn: u32,
    /// What it is for.
    pub purpose: Purpose,
    /// What is asked.
    pub key: ExchangeKey,
    /// The group that the question is for, and the one whose servers are being asked: it, or one that stands in for it.
    pub home: GroupRef,
    /// See `home`.
    pub asking: GroupRef,
    /// Which networks `home` wants its servers to be told: no group with another wish is told any.
    pub subnet: SubnetPolicy,
    log: [Send; UPSTREAM_SENDS_MAX as usize],
    /// Sends so far.
    pub sends: u8,
    /// Sends that are allowed: what the first client had left.
    pub sends_max: u8,
    /// Servers of `asking` tried so far; TCP after a cut answer is the same try.
    pub tried: Tried,
    /// When the first send went out.
    pub began: Now,
    /// When another server is asked too, though none has failed.
    pub hedge_at: Option<Now>,
    /// Nobody else can be asked; until then the silent ones are waited for.
    pub lingers_until: Option<Now>,
    /// Whether an attempt to poison was seen, so that only TCP is trusted.
    pub tcp_only: bool,
    /// Cut its answer while another one was being asked over TCP.
    pub cut: Option<u8>,
    /// Whether some server said that it cannot or will not resolve it: asking again makes no sense.
    pub was_refused: bool,
    /// Whether all servers have been asked and it has begun again.
    pub is_again: bool,
    first: Option<Ticket>,
    last: Option<Ticket>,
    clients: u16,
}

/// All exchanges of one worker; memory fixed at start.
pub struct Exchanges {
    slots: Vec<Exchange>,
    free: Vec<u32>,
    by_key: HashTable<u32>,
    hasher: RandomState,
    /// Slot of the UDP or TCP send that bears an id, `u32::MAX` for none: ids of sends in flight are unique.
    by_id: Vec<u32>,
    /// When something is due, by slot.
    deadlines: Deadlines,
}

const NOBODY: u32 = u32::MAX;

impl Exchanges {
    /// Takes all memory.
    pub fn new(seeds: [u64; 4]) -> Self {
        let [a, b, c, d] = seeds;
        Self {
            slots: (0..EXCHANGES_MAX).map(|_| Exchange::closed()).collect(),
            free: (0..EXCHANGES_MAX as u32).rev().collect(),
            by_key: HashTable::with_capacity(2 * EXCHANGES_MAX),
            hasher: RandomState::with_seeds(a, b, c, d),
            by_id: vec![NOBODY; 1 << 16],
            deadlines: Deadlines::new(EXCHANGES_MAX),
        }
    }

    /// The open exchanges for this name, type and class, whoever is asked.
    pub fn of_question(&self, name: &Name, qtype: u16, qclass: u16) -> impl Iterator<Item = (ExchangeId, &Exchange)> {
        let hash = question_hash(&self.hasher, name, qtype, qclass);
        let question = move |slot: &Exchange| {
            slot.key.name == *name && (slot.key.qtype, slot.key.qclass) == (qtype, qclass) && slot.is_open()
        };
        let slots = self.by_key.iter_hash(hash).filter_map(|&index| Some((index, self.slot(index)?)));
        slots.filter(move |(_, slot)| question(slot)).map(|(index, slot)| (ExchangeId { index, turn: slot.turn }, slot))
    }

    /// Networks of clients on whose behalf the same question is in flight to the same group, whether with DO or without.
    pub fn networks_in_flight(&self, key: &ExchangeKey) -> usize {
        let others = self.of_question(&key.name, key.qtype, key.qclass);
        others.filter(|(_, other)| other.key.group == key.group && other.key.tells_an_address()).count()
    }

    /// The open exchange for an equal question that still takes clients.
    pub fn find(&self, key: &ExchangeKey) -> Option<ExchangeId> {
        let index =
            *self.by_key.find(self.hash(key), |&index| self.slot(index).is_some_and(|slot| slot.key == *key))?;
        Some(ExchangeId { index, turn: self.slot(index)?.turn })
    }

    /// Opens an exchange that queries can join; none when [`EXCHANGES_MAX`] are open.
    pub fn open(&mut self, key: ExchangeKey, home: GroupRef, now: Now) -> Option<ExchangeId> {
        let id = self.begin(&key, Purpose::Answer, home, now)?;
        let hash = self.hash(&key);
        let Self { by_key, slots, hasher, .. } = self;
        by_key.insert_unique(hash, id.index, |&other| {
            slots.get(other as usize).map_or(0, |slot| hash_of(hasher, &slot.key))
        });
        Some(id)
    }

    /// Opens an exchange that nobody waits for.
    pub fn open_probe(&mut self, key: ExchangeKey, now: Now) -> Option<ExchangeId> {
        self.begin(&key, Purpose::Probe, GroupRef::NONE, now)
    }

    fn begin(&mut self, key: &ExchangeKey, purpose: Purpose, home: GroupRef, now: Now) -> Option<ExchangeId> {
        let index = self.free.pop()?;
        let slot = self.slots.get_mut(index as usize)?;
        slot.purpose = purpose;
        slot.key = *key;
        slot.home = home;
        slot.asking = home;
        slot.subnet = SubnetPolicy::USUAL;
        slot.sends = 0;
        slot.sends_max = 0;
        slot.tried = Tried::default();
        slot.began = now;
        slot.hedge_at = None;
        slot.lingers_until = None;
        slot.tcp_only = false;
        slot.cut = None;
        slot.was_refused = false;
        slot.is_again = false;
        slot.first = None;
        slot.last = None;
        slot.clients = 0;
        Some(ExchangeId { index, turn: slot.turn })
    }

    /// An open exchange.
    pub fn get(&self, id: ExchangeId) -> Option<&Exchange> {
        self.slot(id.index).filter(|slot| slot.is_open() && slot.turn == id.turn)
    }

    /// An open exchange.
    pub fn get_mut(&mut self, id: ExchangeId) -> Option<&mut Exchange> {
        self.slots.get_mut(id.index as usize).filter(|slot| slot.is_open() && slot.turn == id.turn)
    }

    /// The exchange one of whose sends bears this id.
    pub fn by_message_id(&self, id: u16) -> Option<ExchangeId> {
        let index = *self.by_id.get(usize::from(id))?;
        let slot = self.slot(index).filter(|slot| slot.is_open() && slot.log().iter().any(|send| send.id == id))?;
        Some(ExchangeId { index, turn: slot.turn })
    }

    /// An exchange with a send that went out on this UDP socket before `now` and is waited for, and the place of that send.
    /// Walks all slots: for the rare refusal only.
    pub fn find_on_socket(&self, server: ServerId, socket: u16, now: Now) -> Option<(ExchangeId, u8)> {
        let open = self.slots.iter().zip(0u32..).filter(|(slot, _)| slot.is_open());
        let found = open.filter_map(|(slot, index)| {
            let place = slot.log().iter().position(|send| send.is_on(server, socket) && send.sent < now)?;
            Some((ExchangeId { index, turn: slot.turn }, place as u8))
        });
        { found }.next()
    }

    /// Whether an id is borne by a send in flight.
    pub fn is_id_taken(&self, id: u16) -> bool {
        self.by_message_id(id).is_some()
    }

    /// Records a send: the id finds the exchange from now on. Returns its place among the exchange's sends. Then
    /// [`Self::schedule`].
    pub fn sent(&mut self, id: ExchangeId, send: Send) -> Option<u8> {
        let slot = self.get_mut(id)?;
        let place = slot.sends;
        *slot.log.get_mut(usize::from(place))? = send;
        slot.sends += 1;
        if let Some(place) = self.by_id.get_mut(usize::from(send.id)) {
            *place = id.index;
        }
        Some(place)
    }

    /// Notes when something is due for an exchange whose sends have changed.
    pub fn schedule(&mut self, id: ExchangeId) {
        if let Some(due) = self.get(id).map(Exchange::due) {
            self.deadlines.set(id.index, due);
        }
    }

    /// When something is due.
    pub fn next_deadline(&self) -> Option<Now> {
        self.deadlines.first().map(|(at, _)| at)
    }

    /// An exchange for which something is due.
    pub fn due(&self, now: Now) -> Option<ExchangeId> {
        let (_, index) = self.deadlines.first().filter(|(at, _)| *at <= now)?;
        Some(ExchangeId { index, turn: self.slot(index)?.turn })
    }

    /// Closes an exchange and hands its clients over.
    pub fn close(&mut self, id: ExchangeId) -> Option<Ticket> {
        let exchange = self.get(id)?;
        if exchange.purpose == Purpose::Answer
            && let Ok(found) = self.by_key.find_entry(self.hash(&exchange.key), |&index| index == id.index)
        {
            found.remove();
        }
        self.deadlines.clear(id.index);
        let slot = self.slots.get_mut(id.index as usize)?;
        for send in slot.log() {
            if let Some(place) = self.by_id.get_mut(usize::from(send.id)) {
                *place = NOBODY;
            }
        }
        slot.purpose = Purpose::Nothing;
        slot.turn = slot.turn.wrapping_add(1);
        self.free.push(id.index);
        slot.first.take()
    }

    /// Open exchanges.
    pub fn open_count(&self) -> usize {
        EXCHANGES_MAX - self.free.len()
    }

    fn slot(&self, index: u32) -> Option<&Exchange> {
        self.slots.get(index as usize)
    }

    fn hash(&self, key: &ExchangeKey) -> u64 {
        hash_of(&self.hasher, key)
    }
}

/// The same for all groups and both values of DO, so that a message that bears only a question finds what waits for it.
fn hash_of(hasher: &RandomState, key: &ExchangeKey) -> u64 {
    question_hash(hasher, &key.name, key.qtype, key.qclass)
}

fn question_hash(hasher: &RandomState, name: &Name, qtype: u16, qclass: u16) -> u64 {
    hasher.hash_one((name.as_wire(), qtype, qclass))
}

impl Exchange {
    fn closed() -> Self {
        Self {
            turn: 0,
            purpose: Purpose::Nothing,
            key: ExchangeKey { name: Name::ROOT, qtype: 0, qclass: 0, dnssec_ok: false, group: 0, network: None },
            home: GroupRef::NONE,
            asking: GroupRef::NONE,
            subnet: SubnetPolicy::USUAL,
            log: [Send::NONE; UPSTREAM_SENDS_MAX as usize],
            sends: 0,
            sends_max: 0,
            tried: Tried::default(),
            began: Now(0),
            hedge_at: None,
            lingers_until: None,
            tcp_only: false,
            cut: None,
            was_refused: false,
            is_again: false,
            first: None,
            last: None,
            clients: 0,
        }
    }

    fn is_open(&self) -> bool {
        self.purpose != Purpose::Nothing
    }

    /// The sends so far.
    pub fn log(&self) -> &[Send] {
        self.log.get(..usize::from(self.sends)).unwrap_or_default()
    }

    /// The sends so far.
    pub fn log_mut(&mut self) -> &mut [Send] {
        self.log.get_mut(..usize::from(self.sends)).unwrap_or_default()
    }

    /// One of them.
    pub fn send(&self, place: u8) -> Option<&Send> {
        self.log().get(usize::from(place))
    }

    /// The sends that are waited for.
    pub fn outstanding(&self) -> impl Iterator<Item = &Send> {
        self.log().iter().filter(|send| send.state == SendState::Awaited)
    }

    /// A send that waits for its answer on this UDP socket.
    pub fn outstanding_on(&self, server: ServerId, socket: u16) -> Option<&Send> {
        self.log().iter().find(|send| send.is_on(server, socket))
    }

    /// No answer is taken any more from then on, whatever the deadlines say (DNSBomb).
    pub fn end(&self) -> Now {
        self.began.plus_us(UPSTREAM_ANSWER_US_MAX)
    }

    /// When something is due.
    fn due(&self) -> Now {
        let deadlines = self.outstanding().map(|send| send.deadline);
        let others = self.hedge_at.into_iter().chain(self.lingers_until);
        deadlines.chain(others).min().map_or(self.end(), |due| due.min(self.end()))
    }

    /// Appends a client. Returns the client before it, to be linked to it; `Err` when no more are taken.
    pub fn join(&mut self, ticket: Ticket) -> Result<Option<Ticket>, TooManyClients> {
        if self.clients >= EXCHANGE_CLIENTS_MAX {
            return Err(TooManyClients);
        }
        self.clients += 1;
        if self.first.is_none() {
            self.first = Some(ticket);
        }
        Ok(self.last.replace(ticket))
    }
}

/// [`EXCHANGE_CLIENTS_MAX`] clients wait already.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TooManyClients;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::decide::subnet::SubnetMode;

    fn key(name: &str) -> ExchangeKey {
        ExchangeKey { name: name.parse().unwrap(), qtype: 1, qclass: 1, dnssec_ok: false, group: 0, network: None }
    }

    fn ticket(index: u32) -> Ticket {
        Ticket { index, turn: 0 }
    }

    #[test]
    fn equal_questions_find_one_exchange_until_it_is_closed() {
        let mut exchanges = Exchanges::new([1, 2, 3, 4]);
        let id = exchanges.open(key("a.example"), GroupRef::NONE, Now(0)).unwrap();
        assert_eq!(exchanges.find(&key("a.example")), Some(id));
        assert_eq!(exchanges.find(&key("b.example")), None);
        assert_eq!(exchanges.find(&ExchangeKey { group: 1, ..key("a.example") }), None);
        assert_eq!(exchanges.find(&ExchangeKey { dnssec_ok: true, ..key("a.example") }), None);
        assert_eq!(exchanges.get_mut(id).unwrap().join(ticket(7)), Ok(None));
        assert_eq!(exchanges.get_mut(id).unwrap().join(ticket(8)), Ok(Some(ticket(7))));
        assert_eq!(exchanges.close(id), Some(ticket(7)));
        assert_eq!(exchanges.find(&key("a.example")), None);
        assert!(exchanges.get(id).is_none(), "an old id is void");
    }

    #[test]
    fn questions_for_different_networks_are_different_and_counted() {
        let mut exchanges = Exchanges::new([1, 2, 3, 4]);
        let set = SubnetPolicy { mode: SubnetMode::Set, ..SubnetPolicy::USUAL };
        let of = |client: &str| ExchangeKey { network: set.network(client.parse().unwrap(), None), ..key("a.example") };
        let first = exchanges.open(of("192.0.2.7"), GroupRef::NONE, Now(0)).unwrap();
        assert_eq!(exchanges.find(&of("192.0.2.8")), Some(first));
        assert_eq!(exchanges.find(&of("198.51.100.7")), None);
        assert_eq!(exchanges.find(&key("a.example")), None);
        exchanges.open(ExchangeKey { dnssec_ok: true, ..of("198.51.100.7") }, GroupRef::NONE, Now(0)).unwrap();
        for untold in [of("10.0.0.7"), key("a.example"), ExchangeKey { name: Name::ROOT, ..of("192.0.2.7") }] {
            exchanges.open(untold, GroupRef::NONE, Now(0)).unwrap();
        }
        exchanges.open(ExchangeKey { group: 1, ..of("192.0.2.7") }, GroupRef::NONE, Now(0)).unwrap();
        assert_eq!(exchanges.networks_in_flight(&of("203.0.113.7")), 2);
        exchanges.close(first);
        assert_eq!(exchanges.networks_in_flight(&of("203.0.113.7")), 1);
    }

    fn send(id: u16, deadline: u64) -> Send {
        Send { id, state: SendState::Awaited, deadline: Now(deadline), ..Send::NONE }
    }

    #[test]
    fn the_first_deadline_of_its_sends_is_due_and_each_can_be_answered_until_the_end() {
        let mut exchanges = Exchanges::new([1, 2, 3, 4]);
        let id = exchanges.open(key("a.example"), GroupRef::NONE, Now(0)).unwrap();
        assert_eq!(exchanges.sent(id, send(11, 100)), Some(0));
        assert_eq!(exchanges.sent(id, send(22, 150)), Some(1));
        exchanges.schedule(id);
        assert_eq!(exchanges.by_message_id(11), Some(id));
        assert_eq!(exchanges.by_message_id(22), Some(id));
        assert_eq!((exchanges.due(Now(99)), exchanges.due(Now(100))), (None, Some(id)));
        exchanges.get_mut(id).unwrap().log_mut()[0].state = SendState::Silent;
        exchanges.schedule(id);
        assert_eq!(exchanges.next_deadline(), Some(Now(150)));
        assert_eq!(exchanges.by_message_id(11), Some(id), "a late answer finds it");
        exchanges.get_mut(id).unwrap().hedge_at = Some(Now(120));
        exchanges.schedule(id);
        assert_eq!(exchanges.next_deadline(), Some(Now(120)));
        exchanges.close(id);
        assert_eq!(exchanges.next_deadline(), None);
        assert!(!exchanges.is_id_taken(11) && !exchanges.is_id_taken(22));
    }

    #[test]
    fn a_probe_is_not_joined_by_a_query_for_the_same() {
        let mut exchanges = Exchanges::new([1, 2, 3, 4]);
        let probe = exchanges.open_probe(key("."), Now(0)).unwrap();
        assert_eq!(exchanges.find(&key(".")), None);
        let query = exchanges.open(key("."), GroupRef::NONE, Now(0)).unwrap();
        exchanges.close(probe);
        assert_eq!(exchanges.find(&key(".")), Some(query));
        exchanges.close(query);
        assert_eq!(exchanges.open_count(), 0);
    }

    #[test]
    fn exchanges_and_their_clients_are_bounded() {
        let mut exchanges = Exchanges::new([1, 2, 3, 4]);
        let ids: Vec<_> = (0..EXCHANGES_MAX)
            .map(|n| exchanges.open(key(&format!("n{n}.example")), GroupRef::NONE, Now(0)).unwrap())
            .collect();
        assert_eq!(exchanges.open(key("one-more.example"), GroupRef::NONE, Now(0)), None);
        for number in 0..u32::from(EXCHANGE_CLIENTS_MAX) {
            exchanges.get_mut(ids[0]).unwrap().join(ticket(number)).unwrap();
        }
        assert_eq!(exchanges.get_mut(ids[0]).unwrap().join(ticket(0)), Err(TooManyClients));
        exchanges.close(ids[0]);
        assert!(exchanges.open(key("one-more.example"), GroupRef::NONE, Now(0)).is_some());
    }
}
