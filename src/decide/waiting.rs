//! Questions in flight to upstreams, and the queries that wait for them: equal questions share one exchange.

use std::collections::VecDeque;

use ahash::RandomState;
use corewall_sharding::name::Name;
use hashbrown::HashTable;

use super::Now;
use super::step::{ExchangeId, Ticket, Transport};
use super::upstream::{GroupId, ServerId, Tried};
use crate::limits::{EXCHANGE_CLIENTS_MAX, EXCHANGES_MAX, UPSTREAM_SENDS_MAX};

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
}

/// One message to one server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Send {
    /// Message id.
    pub id: u16,
    /// To whom.
    pub server: ServerId,
    /// From which of its sockets.
    pub socket: u16,
    /// How.
    pub transport: Transport,
}

impl Send {
    /// Whether a message that came from `server` in this way can be the answer to this send.
    pub fn is_answered_by(&self, id: u16, server: ServerId, transport: Transport, socket: u16) -> bool {
        self.id == id
            && self.server == server
            && self.transport == transport
            && (transport == Transport::Tcp || self.socket == socket)
    }
}

/// One question in flight.
pub struct Exchange {
    turn: u32,
    is_open: bool,
    /// What is asked.
    pub key: ExchangeKey,
    /// The sends so far, the current one last. A late answer to an earlier one is as good.
    log: [Send; UPSTREAM_SENDS_MAX as usize],
    /// How many.
    pub sends: u8,
    /// Sends that are allowed: what the first client had left.
    pub sends_max: u8,
    /// Servers tried so far; TCP after a cut answer is the same try.
    pub tried: Tried,
    /// When the first send went out.
    pub began: Now,
    /// When the current send went out.
    pub sent: Now,
    /// Whether an attempt to poison was seen, so that only TCP is trusted.
    pub tcp_only: bool,
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
    /// In order, those of sends that are over included.
    deadlines: VecDeque<(Now, ExchangeId, u8)>,
}

const NOBODY: u32 = u32::MAX;
/// Places for deadlines, those of finished exchanges included until they are taken out.
const DEADLINES_MAX: usize = EXCHANGES_MAX * 16;

impl Exchanges {
    /// Takes all memory.
    pub fn new(seeds: [u64; 4]) -> Self {
        let [a, b, c, d] = seeds;
        Self {
            slots: (0..EXCHANGES_MAX).map(|_| Exchange::closed()).collect(),
            free: (0..EXCHANGES_MAX as u32).rev().collect(),
            by_key: HashTable::with_capacity(EXCHANGES_MAX),
            hasher: RandomState::with_seeds(a, b, c, d),
            by_id: vec![NOBODY; 1 << 16],
            deadlines: VecDeque::with_capacity(DEADLINES_MAX),
        }
    }

    /// The open exchanges for this name, type and class, whoever is asked.
    pub fn of_question(&self, name: &Name, qtype: u16, qclass: u16) -> impl Iterator<Item = (ExchangeId, &Exchange)> {
        let hash = question_hash(&self.hasher, name, qtype, qclass);
        let question = move |slot: &Exchange| {
            slot.key.name == *name && (slot.key.qtype, slot.key.qclass) == (qtype, qclass) && slot.is_open
        };
        let slots = self.by_key.iter_hash(hash).filter_map(|&index| Some((index, self.slot(index)?)));
        slots.filter(move |(_, slot)| question(slot)).map(|(index, slot)| (ExchangeId { index, turn: slot.turn }, slot))
    }

    /// The open exchange for an equal question that still takes clients.
    pub fn find(&self, key: &ExchangeKey) -> Option<ExchangeId> {
        let index =
            *self.by_key.find(self.hash(key), |&index| self.slot(index).is_some_and(|slot| slot.key == *key))?;
        Some(ExchangeId { index, turn: self.slot(index)?.turn })
    }

    /// Opens an exchange; none when [`EXCHANGES_MAX`] are open.
    pub fn open(&mut self, key: ExchangeKey, now: Now) -> Option<ExchangeId> {
        let index = self.free.pop()?;
        let slot = self.slots.get_mut(index as usize)?;
        slot.is_open = true;
        slot.key = key;
        slot.sends = 0;
        slot.sends_max = 0;
        slot.tried = Tried::default();
        slot.began = now;
        slot.tcp_only = false;
        slot.first = None;
        slot.last = None;
        slot.clients = 0;
        let id = ExchangeId { index, turn: slot.turn };
        let hash = self.hash(&key);
        let Self { by_key, slots, hasher, .. } = self;
        by_key.insert_unique(hash, index, |&other| {
            slots.get(other as usize).map_or(0, |slot| hash_of(hasher, &slot.key))
        });
        Some(id)
    }

    /// An open exchange.
    pub fn get(&self, id: ExchangeId) -> Option<&Exchange> {
        self.slot(id.index).filter(|slot| slot.is_open && slot.turn == id.turn)
    }

    /// An open exchange.
    pub fn get_mut(&mut self, id: ExchangeId) -> Option<&mut Exchange> {
        self.slots.get_mut(id.index as usize).filter(|slot| slot.is_open && slot.turn == id.turn)
    }

    /// The exchange one of whose sends bears this id.
    pub fn by_message_id(&self, id: u16) -> Option<ExchangeId> {
        let index = *self.by_id.get(usize::from(id))?;
        let slot = self.slot(index).filter(|slot| slot.is_open && slot.log().iter().any(|send| send.id == id))?;
        Some(ExchangeId { index, turn: slot.turn })
    }

    /// An exchange whose current send went out on this UDP socket before `now`. Walks all slots: for the rare refusal only.
    pub fn find_on_socket(&self, server: ServerId, socket: u16, now: Now) -> Option<ExchangeId> {
        let is_on_it = |slot: &Exchange| {
            let is_there =
                |send: &Send| send.transport == Transport::Udp && (send.server, send.socket) == (server, socket);
            slot.is_open && slot.sent < now && slot.current().is_some_and(is_there)
        };
        let index = self.slots.iter().position(is_on_it)?;
        Some(ExchangeId { index: index as u32, turn: self.slot(index as u32)?.turn })
    }

    /// Whether an id is borne by a send in flight.
    pub fn is_id_taken(&self, id: u16) -> bool {
        self.by_message_id(id).is_some()
    }

    /// Records a send: the id finds the exchange from now on, and its deadline is kept.
    pub fn sent(&mut self, id: ExchangeId, send: Send, now: Now, deadline: Now) {
        // Exchanges may finish much faster than their deadlines come. Only an exchange's last send counts, so taking the
        // void ones out leaves at most EXCHANGES_MAX.
        if self.deadlines.len() >= DEADLINES_MAX {
            let Self { deadlines, slots, .. } = self;
            deadlines.retain(|&(_, id, sends)| {
                slots.get(id.index as usize).is_some_and(|s| s.is_open && s.turn == id.turn && s.sends == sends)
            });
        }
        let Some(slot) = self.slots.get_mut(id.index as usize) else { return };
        let Some(place) = slot.log.get_mut(usize::from(slot.sends)) else { return };
        *place = send;
        slot.sent = now;
        slot.sends += 1;
        if let Some(place) = self.by_id.get_mut(usize::from(send.id)) {
            *place = id.index;
        }
        // Nearly always at the end: only a send near its exchange's end, or after a reload, has an earlier deadline.
        let place = self.deadlines.partition_point(|&(other, ..)| other <= deadline);
        self.deadlines.insert(place, (deadline, id, slot.sends));
    }

    /// When the next send is to be given up.
    pub fn next_deadline(&mut self) -> Option<Now> {
        while let Some(&(deadline, id, sends)) = self.deadlines.front() {
            if self.get(id).is_some_and(|exchange| exchange.sends == sends) {
                return Some(deadline);
            }
            self.deadlines.pop_front();
        }
        None
    }

    /// The next send whose time is over.
    pub fn pop_expired(&mut self, now: Now) -> Option<ExchangeId> {
        if self.next_deadline()? > now {
            return None;
        }
        self.deadlines.pop_front().map(|(_, id, _)| id)
    }

    /// Closes an exchange and hands its clients over.
    pub fn close(&mut self, id: ExchangeId) -> Option<Ticket> {
        let hash = self.hash(&self.get(id)?.key);
        if let Ok(found) = self.by_key.find_entry(hash, |&index| index == id.index) {
            found.remove();
        }
        let slot = self.slots.get_mut(id.index as usize)?;
        for send in slot.log() {
            if let Some(place) = self.by_id.get_mut(usize::from(send.id)) {
                *place = NOBODY;
            }
        }
        slot.is_open = false;
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
            is_open: false,
            key: ExchangeKey { name: Name::ROOT, qtype: 0, qclass: 0, dnssec_ok: false, group: 0 },
            log: [Send { id: 0, server: 0, socket: 0, transport: Transport::Udp }; UPSTREAM_SENDS_MAX as usize],
            sends: 0,
            sends_max: 0,
            tried: Tried::default(),
            began: Now(0),
            sent: Now(0),
            tcp_only: false,
            first: None,
            last: None,
            clients: 0,
        }
    }

    /// The sends so far.
    pub fn log(&self) -> &[Send] {
        self.log.get(..usize::from(self.sends)).unwrap_or_default()
    }

    /// One of them.
    pub fn send(&self, place: u8) -> Option<&Send> {
        self.log().get(usize::from(place))
    }

    /// The send that is waited for.
    pub fn current(&self) -> Option<&Send> {
        self.log().last()
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

    fn key(name: &str) -> ExchangeKey {
        ExchangeKey { name: name.parse().unwrap(), qtype: 1, qclass: 1, dnssec_ok: false, group: 0 }
    }

    fn ticket(index: u32) -> Ticket {
        Ticket { index, turn: 0 }
    }

    #[test]
    fn equal_questions_find_one_exchange_until_it_is_closed() {
        let mut exchanges = Exchanges::new([1, 2, 3, 4]);
        let id = exchanges.open(key("a.example"), Now(0)).unwrap();
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

    fn send(id: u16) -> Send {
        Send { id, server: 0, socket: 0, transport: Transport::Udp }
    }

    #[test]
    fn only_the_last_send_can_expire_but_any_can_be_answered_until_the_end() {
        let mut exchanges = Exchanges::new([1, 2, 3, 4]);
        let id = exchanges.open(key("a.example"), Now(0)).unwrap();
        exchanges.sent(id, send(11), Now(0), Now(100));
        exchanges.sent(id, send(22), Now(50), Now(150));
        assert_eq!(exchanges.by_message_id(11), Some(id));
        assert_eq!(exchanges.by_message_id(22), Some(id));
        assert_eq!(exchanges.get(id).unwrap().current(), Some(&send(22)));
        assert_eq!(exchanges.pop_expired(Now(120)), None);
        assert_eq!(exchanges.next_deadline(), Some(Now(150)));
        assert_eq!(exchanges.pop_expired(Now(150)), Some(id));
        assert_eq!(exchanges.next_deadline(), None);
        exchanges.close(id);
        assert!(!exchanges.is_id_taken(11) && !exchanges.is_id_taken(22));
    }

    #[test]
    fn exchanges_and_their_clients_are_bounded() {
        let mut exchanges = Exchanges::new([1, 2, 3, 4]);
        let ids: Vec<_> =
            (0..EXCHANGES_MAX).map(|n| exchanges.open(key(&format!("n{n}.example")), Now(0)).unwrap()).collect();
        assert_eq!(exchanges.open(key("one-more.example"), Now(0)), None);
        for number in 0..u32::from(EXCHANGE_CLIENTS_MAX) {
            exchanges.get_mut(ids[0]).unwrap().join(ticket(number)).unwrap();
        }
        assert_eq!(exchanges.get_mut(ids[0]).unwrap().join(ticket(0)), Err(TooManyClients));
        exchanges.close(ids[0]);
        assert!(exchanges.open(key("one-more.example"), Now(0)).is_some());
    }

    #[test]
    fn deadlines_stay_bounded_when_exchanges_end_before_them() {
        let mut exchanges = Exchanges::new([1, 2, 3, 4]);
        let kept = exchanges.open(key("kept.example"), Now(0)).unwrap();
        exchanges.sent(kept, send(1), Now(0), Now(1_000_000));
        for round in 0..3 * DEADLINES_MAX as u64 {
            let id = exchanges.open(key("brief.example"), Now(round)).unwrap();
            exchanges.sent(id, send(2), Now(round), Now(round + 1_000_000));
            exchanges.close(id);
        }
        assert!(exchanges.deadlines.len() <= DEADLINES_MAX && exchanges.deadlines.capacity() <= 2 * DEADLINES_MAX);
        assert_eq!(exchanges.pop_expired(Now(1_000_000)), Some(kept), "the live one was kept");
    }
}
