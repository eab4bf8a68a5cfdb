//! Source ports towards upstream servers, for questions over UDP.
//!
//! Invariants (RFC 5452): each source port is drawn at random from one population of the whole process and belongs to one
//! connected socket, so the kernel drops what comes from another address or port; `decide` picks one of a server's
//! [`SERVER_SOCKETS`] at random for every question; a port is given up after [`UPSTREAM_PORT_SENDS_MAX`] questions, or a multiple of it
//! while all places for ports are taken. Ports are never shared (SO_REUSEPORT would hand duplicates out) and never a fixed set (CVE-2026-50252).

use std::collections::{HashMap, VecDeque};
use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};

use socket2::{Domain, Protocol, Socket, Type};

use super::Unsent;
use crate::decide::upstream::{Chance, ServerId};
use crate::decide::{Now, UpstreamRequest};
use crate::limits::{
    SERVER_SOCKETS, UPSTREAM_ANSWER_US_MAX, UPSTREAM_PORT_DRAWS_MAX, UPSTREAM_PORT_SENDS_MAX, UPSTREAM_PORTS_MAX,
};
use crate::serve::kernel::{Epoll, Interest};
use crate::serve::wait::Tag;

/// Lowest port drawn: below are those that services are known by.
const PORT_MIN: u16 = 16_384;

/// One connected socket.
struct Port {
    socket: UdpSocket,
    server: ServerId,
    /// Which of the server's sockets.
    slot: u16,
    sends: u32,
    last_send: Now,
}

/// A server's sockets by their slots, each an index into [`Ports::places`].
type Slots = [Option<u32>; SERVER_SOCKETS];

/// One worker's source ports.
pub struct Ports {
    places: Vec<Option<Port>>,
    free: Vec<u32>,
    servers: HashMap<ServerId, Slots>,
    /// Ports that send no more but may still receive, with the moment when they may not.
    retired: VecDeque<(Now, u32)>,
    chance: Chance,
    opened: u64,
}

/// A message from a server, or the news that its host refuses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Heard {
    /// The first `bytes` of the buffer.
    Message { server: ServerId, slot: u16, bytes: usize },
    /// An ICMP error came back.
    Refused { server: ServerId, slot: u16 },
    /// The same on a port that was given up: what is in flight on the one that followed it has not failed.
    RefusedLate,
    /// Nothing (more).
    Nothing,
}

impl Ports {
    /// None open yet. `seed` must be unpredictable.
    pub fn new(seed: [u8; 32]) -> Self {
        Self {
            places: (0..UPSTREAM_PORTS_MAX).map(|_| None).collect(),
            free: (0..UPSTREAM_PORTS_MAX as u32).rev().collect(),
            servers: HashMap::new(),
            retired: VecDeque::with_capacity(UPSTREAM_PORTS_MAX),
            chance: Chance::new(seed),
            opened: 0,
        }
    }

    /// Sends a question over UDP. Opens the port when there is none yet, or draws another when it is worn.
    pub fn send(&mut self, now: Now, request: &UpstreamRequest<'_>, epoll: &Epoll) -> Result<(), Unsent> {
        self.close_retired(now);
        let index = self.port_for(now, request, epoll)?;
        let port = self.places.get_mut(index as usize).and_then(Option::as_mut).ok_or(Unsent::NoRoom)?;
        port.last_send = now;
        port.sends += 1;
        match port.socket.send(request.message) {
            Ok(_) => Ok(()),
            Err(error) => Err(Unsent::from(&error)),
        }
    }

    /// Receives one message from the port at `index` into `buffer`.
    pub fn receive(&mut self, index: u32, buffer: &mut [u8]) -> Heard {
        let Some(port) = self.places.get(index as usize).and_then(Option::as_ref) else { return Heard::Nothing };
        let (server, slot) = (port.server, port.slot);
        match port.socket.recv(buffer) {
            Ok(bytes) => Heard::Message { server, slot, bytes },
            Err(error) => match error.kind() {
                io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted => Heard::Nothing,
                // Refused, unreachable: reading the error has cleared it.
                _ if self.current(server, usize::from(slot)) == Some(index) => Heard::Refused { server, slot },
                _ => Heard::RefusedLate,
            },
        }
    }

    /// Ports opened so far.
    pub fn opened(&self) -> u64 {
        self.opened
    }

    /// Closes the ports whose last answer can no longer come.
    pub fn close_retired(&mut self, now: Now) {
        while let Some(&(_, index)) = self.retired.front().filter(|(until, _)| *until <= now) {
            self.retired.pop_front();
            self.close(index);
        }
    }

    fn port_for(&mut self, now: Now, request: &UpstreamRequest<'_>, epoll: &Epoll) -> Result<u32, Unsent> {
        let slot = usize::from(request.socket);
        if let Some(index) = self.current(request.server, slot) {
            let port = self.places.get(index as usize).and_then(Option::as_ref).ok_or(Unsent::NoRoom)?;
            // It is not worn before, and while there is no place for another one it goes on for as many again: at more than
            // UPSTREAM_PORTS_MAX times so many questions in UPSTREAM_ANSWER_US_MAX.
            let is_worn = port.sends > 0 && port.sends.is_multiple_of(UPSTREAM_PORT_SENDS_MAX);
            if !is_worn || !self.make_room(now) {
                return Ok(index);
            }
            self.retire(request.server, slot);
        }
        if !self.make_room(now) {
            return Err(Unsent::NoRoom);
        }
        let index = self.free.pop().ok_or(Unsent::NoRoom)?;
        let opened = open(request.address, &mut self.chance)
            .and_then(|socket| epoll.add(&socket, Tag::Port(index).into(), Interest::Readable).map(|()| socket));
        let socket = match opened {
            Ok(socket) => socket,
            Err(error) => {
                self.free.push(index);
                return Err(Unsent::from(&error));
            }
        };
        let place = self.places.get_mut(index as usize).ok_or(Unsent::NoRoom)?;
        *place = Some(Port { socket, server: request.server, slot: request.socket, sends: 0, last_send: now });
        if let Some(place) = self.servers.entry(request.server).or_default().get_mut(slot) {
            *place = Some(index);
        }
        self.opened += 1;
        Ok(index)
    }

    /// The port of this slot sends no more. The answers to what it has sent may still come.
    fn retire(&mut self, server: ServerId, slot: usize) {
        let Some(index) = self.current(server, slot) else { return };
        let Some(port) = self.places.get(index as usize).and_then(Option::as_ref) else { return };
        self.retired.push_back((port.last_send.plus_us(UPSTREAM_ANSWER_US_MAX), index));
        self.forget(server, slot);
    }

    /// Whether there is a place for another port, maybe now.
    fn make_room(&mut self, now: Now) -> bool {
        if self.free.is_empty()
            && let Some(index) = self.take_idle(now)
        {
            self.free.push(index);
        }
        !self.free.is_empty()
    }

    /// Closes the port that has sent nothing for longest, if no answer to it can come any more.
    fn take_idle(&mut self, now: Now) -> Option<u32> {
        let idle_since =
            |port: &Port| (port.last_send.plus_us(UPSTREAM_ANSWER_US_MAX) <= now).then_some(port.last_send);
        let ports = self.places.iter().zip(0u32..).filter_map(|(place, index)| Some((place.as_ref()?, index)));
        let (_, index) = ports.filter_map(|(port, index)| Some((idle_since(port)?, index))).min()?;
        self.retired.retain(|&(_, retired)| retired != index);
        self.close(index);
        self.free.pop()
    }

    fn close(&mut self, index: u32) {
        let Some(port) = self.places.get_mut(index as usize).and_then(Option::take) else { return };
        let slot = usize::from(port.slot);
        if self.current(port.server, slot) == Some(index) {
            self.forget(port.server, slot);
        }
        self.free.push(index);
    }

    /// The port that sends for this slot.
    fn current(&self, server: ServerId, slot: usize) -> Option<u32> {
        self.servers.get(&server).and_then(|slots| slots.get(slot).copied().flatten())
    }

    fn forget(&mut self, server: ServerId, slot: usize) {
        let Some(slots) = self.servers.get_mut(&server) else { return };
        if let Some(place) = slots.get_mut(slot) {
            *place = None;
        }
        // Servers come and go with reloads; their numbers are not given again.
        if slots.iter().all(Option::is_none) {
            self.servers.remove(&server);
        }
    }
}

/// A socket on a random free port, connected to `server`.
fn open(server: SocketAddr, chance: &mut Chance) -> io::Result<UdpSocket> {
    let any = match server {
        SocketAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
        SocketAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
    };
    let mut drawn = 0;
    loop {
        // Another port for each draw: without SO_REUSEPORT the kernel refuses one that anybody on this machine has.
        let port = PORT_MIN + chance.below(u16::MAX - PORT_MIN + 1);
        let socket = Socket::new(Domain::for_address(server), Type::DGRAM, Some(Protocol::UDP))?;
        socket.set_nonblocking(true)?;
        drawn += 1;
        match socket.bind(&SocketAddr::new(any, port).into()) {
            Ok(()) => {
                socket.connect(&server.into())?;
                return Ok(socket.into());
            }
            Err(error) if error.kind() == io::ErrorKind::AddrInUse && drawn < UPSTREAM_PORT_DRAWS_MAX => {}
            Err(error) => return Err(error),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;
    use std::time::Duration;

    use super::*;
    use crate::decide::Transport;
    use crate::serve::kernel::Events;

    struct Server(UdpSocket);

    impl Server {
        fn start() -> Self {
            let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
            socket.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
            Self(socket)
        }

        fn request(&self, socket: u16) -> UpstreamRequest<'static> {
            let address = self.0.local_addr().unwrap();
            UpstreamRequest { server: 3, address, transport: Transport::Udp, socket, id: 9, message: b"question" }
        }

        fn heard(&self) -> SocketAddr {
            self.0.recv_from(&mut [0; 64]).unwrap().1
        }
    }

    #[test]
    fn each_socket_of_a_server_has_a_port_of_its_own_and_keeps_it_until_it_is_worn() {
        let (server, epoll) = (Server::start(), Epoll::new().unwrap());
        let mut ports = Ports::new([7; 32]);
        let mut seen = HashSet::new();
        for socket in 0..SERVER_SOCKETS as u16 {
            ports.send(Now(0), &server.request(socket), &epoll).unwrap();
            assert!(seen.insert(server.heard()));
        }
        for _ in 1..UPSTREAM_PORT_SENDS_MAX {
            ports.send(Now(0), &server.request(0), &epoll).unwrap();
            assert!(!seen.insert(server.heard()));
        }
        ports.send(Now(0), &server.request(0), &epoll).unwrap();
        assert!(seen.insert(server.heard()), "the worn port was not replaced");
        assert_eq!(ports.opened(), SERVER_SOCKETS as u64 + 1);
    }

    #[test]
    fn a_worn_port_goes_on_while_there_is_no_place_for_another() {
        let (server, epoll) = (Server::start(), Epoll::new().unwrap());
        let mut ports = Ports::new([14; 32]);
        ports.send(Now(0), &server.request(2), &epoll).unwrap();
        let (port, others) = (server.heard(), std::mem::take(&mut ports.free));
        for _ in 1..2 * UPSTREAM_PORT_SENDS_MAX {
            ports.send(Now(0), &server.request(2), &epoll).unwrap();
            assert_eq!(server.heard(), port);
        }
        assert_eq!(ports.send(Now(0), &server.request(3), &epoll), Err(Unsent::NoRoom), "one that was not there yet");
        ports.free = others;
        ports.send(Now(0), &server.request(2), &epoll).unwrap();
        assert_ne!(server.heard(), port);
        assert_eq!(ports.retired.len(), 1);
    }

    #[test]
    fn a_worn_port_still_hears_its_answers_until_they_would_be_too_late() {
        let (server, epoll) = (Server::start(), Epoll::new().unwrap());
        let mut ports = Ports::new([8; 32]);
        let mut worn = None;
        for _ in 0..UPSTREAM_PORT_SENDS_MAX {
            ports.send(Now(5), &server.request(2), &epoll).unwrap();
            worn = Some(server.heard());
        }
        ports.send(Now(6), &server.request(2), &epoll).unwrap();
        server.0.send_to(b"answer", worn.unwrap()).unwrap();
        let mut events = Events::<4>::new();
        epoll.wait(&mut events, 1_000).unwrap();
        let Some(Tag::Port(index)) = events.tag(0).map(Tag::from) else { panic!("no port is ready") };
        let mut buffer = [0; 64];
        assert_eq!(ports.receive(index, &mut buffer), Heard::Message { server: 3, slot: 2, bytes: 6 });
        assert_eq!(ports.receive(index, &mut buffer), Heard::Nothing);
        ports.close_retired(Now(4 + UPSTREAM_ANSWER_US_MAX));
        assert_eq!(ports.free.len(), UPSTREAM_PORTS_MAX - 2);
        ports.close_retired(Now(5 + UPSTREAM_ANSWER_US_MAX));
        assert_eq!(ports.free.len(), UPSTREAM_PORTS_MAX - 1);
        assert_eq!(ports.receive(index, &mut buffer), Heard::Nothing);
    }

    #[test]
    fn a_refusing_server_is_heard_of_at_once() {
        let epoll = Epoll::new().unwrap();
        let mut ports = Ports::new([9; 32]);
        let server = Server::start();
        let request = server.request(1);
        drop(server);
        ports.send(Now(0), &request, &epoll).unwrap();
        let mut events = Events::<4>::new();
        epoll.wait(&mut events, 1_000).unwrap();
        let Some(Tag::Port(index)) = events.tag(0).map(Tag::from) else { panic!("no port is ready") };
        assert_eq!(ports.receive(index, &mut [0; 64]), Heard::Refused { server: 3, slot: 1 });
    }

    #[test]
    fn a_refusal_of_a_port_that_was_given_up_is_told_apart_from_one_of_its_follower() {
        let epoll = Epoll::new().unwrap();
        let mut ports = Ports::new([12; 32]);
        let server = Server::start();
        let request = server.request(1);
        for _ in 1..UPSTREAM_PORT_SENDS_MAX {
            ports.send(Now(0), &request, &epoll).unwrap();
        }
        let worn = ports.current(3, 1).unwrap();
        drop(server);
        ports.send(Now(0), &request, &epoll).unwrap();
        let mut events = Events::<4>::new();
        epoll.wait(&mut events, 1_000).unwrap();
        assert_eq!(events.tag(0).map(Tag::from), Some(Tag::Port(worn)));
        ports.send(Now(1), &request, &epoll).unwrap();
        let follower = ports.current(3, 1).unwrap();
        assert_ne!(follower, worn);
        assert_eq!(ports.receive(worn, &mut [0; 64]), Heard::RefusedLate);
        epoll.wait(&mut events, 1_000).unwrap();
        assert_eq!(ports.receive(follower, &mut [0; 64]), Heard::Refused { server: 3, slot: 1 });
    }

    #[test]
    fn nothing_is_kept_of_a_server_whose_ports_are_all_closed() {
        let (server, epoll) = (Server::start(), Epoll::new().unwrap());
        let mut ports = Ports::new([13; 32]);
        ports.send(Now(0), &server.request(0), &epoll).unwrap();
        assert_eq!(ports.servers.len(), 1);
        ports.free.clear();
        ports.take_idle(Now(UPSTREAM_ANSWER_US_MAX)).unwrap();
        assert!(ports.servers.is_empty());
    }

    #[test]
    fn what_another_sends_to_our_port_is_not_heard() {
        let (server, stranger, epoll) = (Server::start(), Server::start(), Epoll::new().unwrap());
        let mut ports = Ports::new([10; 32]);
        ports.send(Now(0), &server.request(0), &epoll).unwrap();
        let port = server.heard();
        stranger.0.send_to(b"forged", port).unwrap();
        server.0.send_to(b"true", port).unwrap();
        let mut buffer = [0; 64];
        let mut events = Events::<4>::new();
        epoll.wait(&mut events, 1_000).unwrap();
        let Some(Tag::Port(index)) = events.tag(0).map(Tag::from) else { panic!("no port is ready") };
        assert_eq!(ports.receive(index, &mut buffer), Heard::Message { server: 3, slot: 0, bytes: 4 });
        assert_eq!(&buffer[..4], b"true");
    }

    #[test]
    fn when_all_ports_are_open_the_idlest_makes_room_and_busy_ones_do_not() {
        let (server, epoll) = (Server::start(), Epoll::new().unwrap());
        let mut ports = Ports::new([11; 32]);
        // Leave two places.
        ports.free.truncate(2);
        for (at, socket) in [(0, 0), (10, 1)] {
            ports.send(Now(at), &server.request(socket), &epoll).unwrap();
        }
        assert_eq!(ports.send(Now(20), &server.request(2), &epoll), Err(Unsent::NoRoom));
        ports.send(Now(UPSTREAM_ANSWER_US_MAX), &server.request(2), &epoll).unwrap();
        let slots = ports.servers.get(&3).unwrap();
        assert!(slots[0].is_none() && slots[1].is_some() && slots[2].is_some());
    }
}
