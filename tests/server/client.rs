//! A small DNS client over UDP and TCP that sees every octet.

use std::io::{ErrorKind, Read, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream, UdpSocket};
use std::str::FromStr;
use std::sync::atomic::{AtomicU16, Ordering};

use domain::base::iana::{Class, Rtype};
use domain::base::{Message, MessageBuilder, Name};
use domain::rdata::AllRecordData;
use socket2::{Domain, Socket, Type};

use crate::process::PATIENCE;

/// EDNS payload size of a question that does not say another.
pub const EDNS_BYTES: u16 = 1_232;

/// A question as it is sent.
#[derive(Clone, Debug)]
pub struct Question {
    /// In the letter case that is sent.
    pub name: String,
    /// QTYPE, as a mnemonic.
    pub rtype: &'static str,
    /// EDNS payload size; none sends no OPT record.
    pub edns_bytes: Option<u16>,
}

/// For `name` and a type, with EDNS.
pub fn question(name: &str, rtype: &'static str) -> Question {
    Question { name: name.to_owned(), rtype, edns_bytes: Some(EDNS_BYTES) }
}

impl Question {
    /// With another EDNS payload size, or none.
    pub fn edns(self, edns_bytes: Option<u16>) -> Self {
        Self { edns_bytes, ..self }
    }

    /// The message, with this id.
    pub fn to_wire(&self, id: u16) -> Vec<u8> {
        let mut message = MessageBuilder::new_vec();
        message.header_mut().set_id(id);
        message.header_mut().set_rd(true);
        let mut message = message.question();
        let name = Name::<Vec<u8>>::from_str(&self.name).unwrap();
        message.push((name, Rtype::from_str(self.rtype).unwrap(), Class::IN)).unwrap();
        let mut message = message.additional();
        if let Some(bytes) = self.edns_bytes {
            message
                .opt(|opt| {
                    opt.set_udp_payload_size(bytes);
                    Ok(())
                })
                .unwrap();
        }
        message.finish()
    }
}

/// An id that this program has not used for a while.
pub fn next_id() -> u16 {
    static NEXT: AtomicU16 = AtomicU16::new(1);
    NEXT.fetch_add(1, Ordering::Relaxed)
}

/// One record, its owner in lower case.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Record {
    pub owner: String,
    pub rtype: String,
    pub data: String,
    pub ttl_s: u32,
}

/// A reply, taken apart.
#[derive(Clone, Debug)]
pub struct Reply {
    pub wire: Vec<u8>,
    pub id: u16,
    pub rcode: u16,
    pub is_truncated: bool,
    pub answers: Vec<Record>,
    pub authorities: Vec<Record>,
    /// Whether it has an OPT record.
    pub has_edns: bool,
    /// INFO-CODE and EXTRA-TEXT of an Extended DNS Error.
    pub ede: Option<(u16, String)>,
}

impl Reply {
    /// Reads a message; one that cannot be read fails the test.
    pub fn parse(wire: &[u8]) -> Self {
        Self::read(wire).unwrap_or_else(|error| panic!("malformed reply: {error}\n{wire:02x?}"))
    }

    fn read(wire: &[u8]) -> Result<Self, Box<dyn std::error::Error>> {
        let message = Message::from_octets(wire)?;
        let header = message.header();
        assert!(header.qr(), "no reply: {wire:02x?}");
        let opt = message.opt();
        let ede = opt.as_ref().and_then(|opt| opt.opt().extended_error());
        let text = |bytes: Option<&[u8]>| String::from_utf8_lossy(bytes.unwrap_or_default()).into_owned();
        Ok(Self {
            wire: wire.to_vec(),
            id: header.id(),
            rcode: message.opt_rcode().to_int(),
            is_truncated: header.tc(),
            answers: records(message.answer()?)?,
            authorities: records(message.authority()?)?,
            has_edns: opt.is_some(),
            ede: ede.map(|ede| (ede.code().to_int(), text(ede.text_slice()))),
        })
    }

    /// `TYPE DATA` of each answer, sorted.
    pub fn data(&self) -> Vec<String> {
        let mut data: Vec<String> =
            self.answers.iter().map(|record| format!("{} {}", record.rtype, record.data)).collect();
        data.sort_unstable();
        data
    }

    /// The answers without their TTLs, sorted.
    pub fn sorted_answers(&self) -> Vec<Record> {
        let mut answers: Vec<Record> =
            self.answers.iter().map(|record| Record { ttl_s: 0, ..record.clone() }).collect();
        answers.sort_unstable();
        answers
    }

    /// Whether it blocks as mode `zero` does.
    pub fn is_zero(&self) -> bool {
        self.rcode == 0 && self.data() == ["A 0.0.0.0"]
    }

    /// The octets of the question's name and the rest of the question.
    pub fn question_wire(&self) -> &[u8] {
        let mut end = 12;
        while self.wire[end] != 0 {
            end += 1 + usize::from(self.wire[end]);
        }
        &self.wire[12..end + 5]
    }
}

fn records<'a>(
    section: domain::base::message::RecordSection<'a, &'a [u8]>,
) -> Result<Vec<Record>, Box<dyn std::error::Error>> {
    let mut records = Vec::new();
    for record in section {
        let record = record?.into_any_record::<AllRecordData<_, _>>()?;
        records.push(Record {
            owner: record.owner().to_string().to_lowercase(),
            rtype: record.rtype().to_string(),
            data: record.data().to_string(),
            ttl_s: record.ttl().as_secs(),
        });
    }
    Ok(records)
}

/// A UDP socket connected to a server.
pub struct UdpClient(UdpSocket);

impl UdpClient {
    /// From a port of its own.
    pub fn new(server: SocketAddr) -> Self {
        let any: IpAddr = if server.is_ipv4() { Ipv4Addr::LOCALHOST.into() } else { Ipv6Addr::LOCALHOST.into() };
        Self::bound(any, server)
    }

    /// From another loopback address.
    pub fn from_address(client: [u8; 4], server: SocketAddr) -> Self {
        Self::bound(client.into(), server)
    }

    fn bound(client: IpAddr, server: SocketAddr) -> Self {
        let socket = UdpSocket::bind((client, 0)).unwrap();
        socket.connect(server).unwrap();
        socket.set_read_timeout(Some(PATIENCE)).unwrap();
        Self(socket)
    }

    /// Sends any octets.
    pub fn send(&self, message: &[u8]) {
        self.0.send(message).unwrap();
    }

    /// Waits for a datagram.
    pub fn receive(&self) -> Vec<u8> {
        let mut buffer = vec![0; 65_535];
        let bytes = self.0.recv(&mut buffer).unwrap_or_else(|error| panic!("no reply: {error}"));
        buffer.truncate(bytes);
        buffer
    }

    /// Asks and waits for the answer.
    pub fn ask(&self, question: &Question) -> Reply {
        let id = next_id();
        self.send(&question.to_wire(id));
        let reply = Reply::parse(&self.receive());
        assert_eq!(reply.id, id, "another question's reply");
        reply
    }

    /// Sends `message` and returns all that is replied before the answer to a question that is asked behind it. Only for a
    /// server with one worker and without an upstream, which answers in order.
    pub fn replies_to(&self, message: &[u8]) -> Vec<Vec<u8>> {
        let mut id = next_id();
        if message.starts_with(&id.to_be_bytes()) {
            id = next_id();
        }
        self.send(message);
        self.send(&question("localhost", "A").to_wire(id));
        let mut replies = Vec::new();
        loop {
            let reply = self.receive();
            if reply.starts_with(&id.to_be_bytes()) {
                return replies;
            }
            replies.push(reply);
        }
    }
}

/// Asks from a port of its own.
pub fn ask(server: SocketAddr, question: &Question) -> Reply {
    UdpClient::new(server).ask(question)
}

/// Asks over a connection of its own.
pub fn ask_over_tcp(server: SocketAddr, question: &Question) -> Reply {
    TcpClient::new(server).ask(question)
}

/// A message with its length in front (RFC 1035 §4.2.2).
pub fn framed(message: &[u8]) -> Vec<u8> {
    let mut framed = u16::try_from(message.len()).unwrap().to_be_bytes().to_vec();
    framed.extend_from_slice(message);
    framed
}

/// A TCP connection.
pub struct TcpClient(pub TcpStream);

impl TcpClient {
    /// Connects.
    pub fn new(server: SocketAddr) -> Self {
        Self::with(TcpStream::connect(server).unwrap())
    }

    /// Connects from this address of the machine.
    pub fn from_address(client: IpAddr, server: SocketAddr) -> Self {
        let socket = Socket::new(Domain::for_address(server), Type::STREAM, None).unwrap();
        socket.bind(&SocketAddr::new(client, 0).into()).unwrap();
        socket.connect(&server.into()).unwrap();
        Self::with(socket.into())
    }

    fn with(stream: TcpStream) -> Self {
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream.set_write_timeout(Some(PATIENCE)).unwrap();
        // What is written at once is sent at once.
        stream.set_nodelay(true).unwrap();
        Self(stream)
    }

    /// Writes any octets.
    pub fn send(&mut self, octets: &[u8]) {
        self.0.write_all(octets).unwrap();
    }

    /// Reads one message; none when the server has closed the connection.
    pub fn receive(&mut self) -> Option<Vec<u8>> {
        let mut length = [0; 2];
        let mut message = Vec::new();
        let read = self.0.read_exact(&mut length).and_then(|()| {
            message.resize(usize::from(u16::from_be_bytes(length)), 0);
            self.0.read_exact(&mut message)
        });
        match read {
            Ok(()) => Some(message),
            Err(error) => {
                let kinds = [ErrorKind::UnexpectedEof, ErrorKind::ConnectionReset];
                assert!(kinds.contains(&error.kind()), "no reply: {error}");
                None
            }
        }
    }

    /// Reads one reply.
    pub fn reply(&mut self) -> Reply {
        Reply::parse(&self.receive().expect("the server has closed the connection"))
    }

    /// Asks and waits for the answer.
    pub fn ask(&mut self, question: &Question) -> Reply {
        let id = next_id();
        self.send(&framed(&question.to_wire(id)));
        let reply = self.reply();
        assert_eq!(reply.id, id, "another question's reply");
        reply
    }
}
