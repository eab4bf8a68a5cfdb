//! An upstream server played by the test itself: it hears each question and says what it likes, when it likes.

use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::str::FromStr;
use std::sync::{Arc, Mutex, mpsc};
use std::thread;
use std::time::Duration;

use domain::base::iana::Rcode;
use domain::base::message_builder::TreeCompressor;
use domain::base::{Message, MessageBuilder, Name, Ttl};
use domain::rdata::{A, Cname, Txt};

use crate::process::PATIENCE;

/// Its UDP socket.
pub struct Upstream {
    socket: UdpSocket,
}

/// A question that Corewall has sent.
#[derive(Clone, Debug)]
pub struct Asked {
    pub wire: Vec<u8>,
    pub from: SocketAddr,
}

impl Upstream {
    /// On a free port.
    pub fn new() -> Self {
        Self::at(crate::ports::addresses(crate::ports::free())[0])
    }

    /// At an address.
    pub fn at(address: SocketAddr) -> Self {
        let socket = UdpSocket::bind(address).unwrap();
        socket.set_read_timeout(Some(PATIENCE)).unwrap();
        Self { socket }
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.socket.local_addr().unwrap()
    }

    /// The next question.
    pub fn hear(&self) -> Asked {
        let mut buffer = vec![0; 4_096];
        let (bytes, from) = self.socket.recv_from(&mut buffer).unwrap_or_else(|error| panic!("not asked: {error}"));
        buffer.truncate(bytes);
        Asked { wire: buffer, from }
    }

    /// Whether nothing has been asked that was not heard.
    pub fn is_not_asked(&self) -> bool {
        self.socket.set_nonblocking(true).unwrap();
        let is_not_asked = self.socket.peek(&mut [0; 1]).is_err();
        self.socket.set_nonblocking(false).unwrap();
        is_not_asked
    }

    /// Sends any octets to whoever asked.
    pub fn say(&self, asked: &Asked, wire: &[u8]) {
        self.socket.send_to(wire, asked.from).unwrap();
    }

    /// Answers with an address.
    pub fn answer(&self, asked: &Asked, address: [u8; 4]) {
        self.say(asked, &asked.answer(address));
    }

    /// Listens on TCP too; the test does the rest.
    pub fn listen(&self) -> TcpSide {
        let listener = TcpListener::bind(self.address()).unwrap();
        // It is for `accept` too.
        socket2::SockRef::from(&listener).set_read_timeout(Some(PATIENCE)).unwrap();
        TcpSide(listener)
    }

    /// Hears a question and says that its answer does not fit.
    pub fn cut_short(&self) -> Asked {
        let asked = self.hear();
        self.say(&asked, &asked.truncated());
        asked
    }

    /// Listens on TCP too and answers each question there with an address, on a connection of its own that it closes. What it
    /// was asked comes through the channel.
    pub fn answer_over_tcp(&self, address: [u8; 4]) -> mpsc::Receiver<Vec<u8>> {
        let listener = TcpListener::bind(self.address()).unwrap();
        let (sender, receiver) = mpsc::channel();
        thread::spawn(move || {
            for stream in listener.incoming() {
                let asked = stream.and_then(|stream| converse(stream, address));
                if asked.is_ok_and(|asked| sender.send(asked).is_err()) {
                    return;
                }
            }
        });
        receiver
    }
}

fn converse(mut stream: TcpStream, address: [u8; 4]) -> std::io::Result<Vec<u8>> {
    stream.set_read_timeout(Some(PATIENCE))?;
    let mut length = [0; 2];
    stream.read_exact(&mut length)?;
    let mut wire = vec![0; usize::from(u16::from_be_bytes(length))];
    stream.read_exact(&mut wire)?;
    let asked = Asked { wire, from: stream.peer_addr()? };
    stream.write_all(&crate::client::framed(&asked.answer(address)))?;
    Ok(asked.wire)
}

/// The TCP side of an upstream server, by hand.
pub struct TcpSide(TcpListener);

/// One connection that Corewall has made.
pub struct Peer(TcpStream);

impl TcpSide {
    /// The next connection.
    pub fn accept(&self) -> Peer {
        let (stream, _) = self.0.accept().unwrap_or_else(|error| panic!("no connection is made: {error}"));
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream.set_write_timeout(Some(PATIENCE)).unwrap();
        stream.set_nodelay(true).unwrap();
        Peer(stream)
    }

    /// Whether no connection has been made that was not accepted.
    pub fn is_not_connected(&self) -> bool {
        self.0.set_nonblocking(true).unwrap();
        let is_not_connected = self.0.accept().is_err();
        self.0.set_nonblocking(false).unwrap();
        is_not_connected
    }
}

impl Peer {
    /// The next question; none when Corewall has closed the connection.
    pub fn try_hear(&mut self) -> Option<Asked> {
        let mut length = [0; 2];
        let mut wire = Vec::new();
        let read = self.0.read_exact(&mut length).and_then(|()| {
            wire.resize(usize::from(u16::from_be_bytes(length)), 0);
            self.0.read_exact(&mut wire)
        });
        match read {
            Ok(()) => Some(Asked { wire, from: self.0.peer_addr().unwrap() }),
            Err(error) => {
                assert_ne!(error.kind(), std::io::ErrorKind::WouldBlock, "neither asked nor closed");
                None
            }
        }
    }

    /// The next question.
    pub fn hear(&mut self) -> Asked {
        self.try_hear().expect("Corewall has closed the connection")
    }

    /// Writes any octets. False when Corewall has closed the connection.
    pub fn say(&mut self, octets: &[u8]) -> bool {
        self.0.write_all(octets).is_ok()
    }

    /// Answers with an address.
    pub fn answer(&mut self, asked: &Asked, address: [u8; 4]) {
        assert!(self.say(&crate::client::framed(&asked.answer(address))));
    }

    /// Resets the connection.
    pub fn reset(self) {
        socket2::SockRef::from(&self.0).set_linger(Some(std::time::Duration::ZERO)).unwrap();
    }
}

impl Asked {
    /// The name asked for, without the last dot and in lower case: each question spells it at random.
    pub fn name(&self) -> String {
        let message = Message::from_octets(&self.wire[..]).unwrap();
        message.sole_question().unwrap().qname().to_string().trim_end_matches('.').to_lowercase()
    }

    /// An answer with one address.
    pub fn answer(&self, address: [u8; 4]) -> Vec<u8> {
        let message = Message::from_octets(&self.wire[..]).unwrap();
        let name = message.sole_question().unwrap().into_qname();
        let mut answer = MessageBuilder::new_vec().start_answer(&message, Rcode::NOERROR).unwrap();
        answer.header_mut().set_ra(true);
        let [a, b, c, d] = address;
        answer.push((name, Ttl::from_secs(300), A::from_octets(a, b, c, d))).unwrap();
        answer.finish()
    }

    /// An answer of CNAMEs, each from one name to the next.
    pub fn chain(&self, names: &[&str]) -> Vec<u8> {
        let message = Message::from_octets(&self.wire[..]).unwrap();
        let mut answer = MessageBuilder::new_vec().start_answer(&message, Rcode::NOERROR).unwrap();
        answer.header_mut().set_ra(true);
        for link in names.windows(2) {
            let [owner, target] = [link[0], link[1]].map(|name| Name::<Vec<u8>>::from_str(name).unwrap());
            answer.push((owner, Ttl::from_secs(300), Cname::new(target))).unwrap();
        }
        answer.finish()
    }

    /// An answer of so many address records, 20.x.y.z by their number.
    pub fn addresses(&self, count: u32) -> Vec<u8> {
        let message = Message::from_octets(&self.wire[..]).unwrap();
        let name = message.sole_question().unwrap().into_qname();
        let mut builder = MessageBuilder::from_target(TreeCompressor::new(Vec::new())).unwrap();
        builder.header_mut().set_ra(true);
        let mut answer = builder.start_answer(&message, Rcode::NOERROR).unwrap();
        for number in 0..count {
            let [_, b, c, d] = number.to_be_bytes();
            answer.push((&name, Ttl::from_secs(300), A::from_octets(20, b, c, d))).unwrap();
        }
        answer.finish().into_target()
    }

    /// An answer of TXT records, none like another, that takes so many octets.
    pub fn octets(&self, octets: usize) -> Vec<u8> {
        /// Pointer to the name, type, class, TTL, length; and the length of a string.
        const FIXED_BYTES: usize = 13;
        /// With the longest string.
        const RECORD_BYTES_MAX: usize = FIXED_BYTES + 255;
        let message = Message::from_octets(&self.wire[..]).unwrap();
        let name = message.sole_question().unwrap().into_qname();
        let mut builder = MessageBuilder::from_target(TreeCompressor::new(Vec::new())).unwrap();
        builder.header_mut().set_ra(true);
        let mut answer = builder.start_answer(&message, Rcode::NOERROR).unwrap();
        let left = octets - answer.as_slice().len();
        let records = left.div_ceil(RECORD_BYTES_MAX);
        for number in 0..records {
            let record_bytes = left / records + usize::from(number < left % records);
            let text = format!("{number:0width$}", width = record_bytes - FIXED_BYTES);
            let mut string = vec![u8::try_from(text.len()).unwrap()];
            string.extend_from_slice(text.as_bytes());
            answer.push((&name, Ttl::from_secs(300), Txt::from_octets(string).unwrap())).unwrap();
        }
        let wire = answer.finish().into_target();
        assert_eq!(wire.len(), octets);
        wire
    }

    /// A reply without records and with this RCODE.
    pub fn failure(&self, rcode: Rcode) -> Vec<u8> {
        let message = Message::from_octets(&self.wire[..]).unwrap();
        let mut answer = MessageBuilder::new_vec().start_answer(&message, rcode).unwrap();
        answer.header_mut().set_ra(true);
        answer.finish()
    }

    /// A reply without records and with TC.
    pub fn truncated(&self) -> Vec<u8> {
        let mut wire = self.failure(Rcode::NOERROR);
        wire[2] |= 0x02;
        wire
    }
}

/// How a question came to a played server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Over {
    Udp,
    Tcp,
}

/// What a played server does with a question.
#[derive(Clone, Debug)]
pub enum Deed {
    /// Nothing; over TCP the connection stays.
    Silence,
    /// Says each of these messages.
    Say(Vec<Vec<u8>>),
    /// Over TCP: says so many octets of the message, its length in front, and resets the connection.
    Reset(Vec<u8>, usize),
}

/// A server that follows a script by itself, over UDP and TCP, with as many questions and connections as come.
pub struct Played {
    address: SocketAddr,
    heard: Heard,
}

type Heard = Arc<Mutex<Vec<(Over, String)>>>;
type Script = Arc<dyn Fn(&Asked, Over) -> Deed + Send + Sync>;

impl Played {
    /// At a free port.
    pub fn new(script: impl Fn(&Asked, Over) -> Deed + Send + Sync + 'static) -> Self {
        Self::at(crate::ports::addresses(crate::ports::free())[0], script)
    }

    /// At an address.
    pub fn at(address: SocketAddr, script: impl Fn(&Asked, Over) -> Deed + Send + Sync + 'static) -> Self {
        let (socket, listener) = (UdpSocket::bind(address).unwrap(), TcpListener::bind(address).unwrap());
        let (script, heard): (Script, Heard) = (Arc::new(script), Heard::default());
        let (tcp_script, tcp_heard) = (Arc::clone(&script), Arc::clone(&heard));
        // Both threads end with the test program: they hold nothing but their sockets.
        thread::spawn(move || {
            for stream in listener.incoming().map_while(Result::ok) {
                let (script, heard) = (Arc::clone(&tcp_script), Arc::clone(&tcp_heard));
                thread::spawn(move || play_tcp(stream, &script, &heard));
            }
        });
        let udp_heard = Arc::clone(&heard);
        thread::spawn(move || play_udp(&socket, &script, &udp_heard));
        Self { address, heard }
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// How often it was asked this name.
    pub fn times_asked(&self, over: Over, name: &str) -> usize {
        let heard = self.heard.lock().unwrap();
        heard.iter().filter(|(known, asked)| (*known, asked.as_str()) == (over, name)).count()
    }
}

fn play_udp(socket: &UdpSocket, script: &Script, heard: &Heard) {
    let mut buffer = [0; 4_096];
    loop {
        let (bytes, from) = match socket.recv_from(&mut buffer) {
            Ok(received) => received,
            // The one who asked has closed its port before an earlier answer came.
            Err(error) if error.kind() == ErrorKind::ConnectionRefused => continue,
            Err(_) => return,
        };
        let asked = Asked { wire: buffer[..bytes].to_vec(), from };
        heard.lock().unwrap().push((Over::Udp, asked.name()));
        match script(&asked, Over::Udp) {
            Deed::Silence => {}
            Deed::Say(messages) => {
                for message in messages {
                    // Whoever asked may have gone.
                    let _ = socket.send_to(&message, from);
                }
            }
            Deed::Reset(..) => panic!("there is nothing to reset over UDP"),
        }
    }
}

fn play_tcp(mut stream: TcpStream, script: &Script, heard: &Heard) {
    let Ok(from) = stream.peer_addr() else { return };
    loop {
        let mut length = [0; 2];
        let mut wire = Vec::new();
        let read = stream.read_exact(&mut length).and_then(|()| {
            wire.resize(usize::from(u16::from_be_bytes(length)), 0);
            stream.read_exact(&mut wire)
        });
        if read.is_err() {
            return;
        }
        let asked = Asked { wire, from };
        heard.lock().unwrap().push((Over::Tcp, asked.name()));
        match script(&asked, Over::Tcp) {
            Deed::Silence => {}
            Deed::Say(messages) => {
                for message in messages {
                    if stream.write_all(&crate::client::framed(&message)).is_err() {
                        return;
                    }
                }
            }
            Deed::Reset(message, octets) => {
                let framed = crate::client::framed(&message);
                // Without lingering the end is a reset. It may have gone by itself.
                let _ = socket2::SockRef::from(&stream).set_linger(Some(Duration::ZERO));
                let _ = stream.write_all(&framed[..octets.min(framed.len())]);
                return;
            }
        }
    }
}
