//! The appliance as the stages see it: one worker's half without sockets, over one store.
//!
//! Everything that this package calls on the way of a query is called here, so that this file alone follows when the
//! appliance changes.

use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4};
use std::path::Path;
use std::sync::Arc;

use corewall::decide::answer::{Answer, Section};
use corewall::decide::cache::{Flush, FlushCursor};
use corewall::decide::pattern::Matches;
use corewall::decide::question::{self, Question};
use corewall::decide::rewrite::Rewrites;
use corewall::decide::rulebook::RuleBook;
use corewall::decide::settings::{Group, Settings};
use corewall::decide::wire::{CLASS_IN, rtype};
use corewall::decide::{Core, Now, Origin, Ready, Step, Transport};
use corewall::limits::{BATCH_DATAGRAMS, UDP_PAYLOAD_BYTES_MAX};
use corewall::serve::answer_here::{carry_out, fetch_ahead};
use corewall::serve::patterns::{PatternDatabase, PatternScanner};
use corewall::serve::store::StoreReader;
use corewall_sharding::filters::Filters;
use corewall_sharding::name::Name;
use corewall_sharding::publish::Store;
use corewall_sharding::route::{HashKey, SuffixHashes};
use corewall_sharding::rows::Shard;

use crate::Failure;

/// Shards are mapped, as the configuration has it unless told otherwise.
const MMAP: bool = true;
/// Message ids and upstream ports are drawn from it.
const SEED: [u8; 32] = [1; 32];
/// The client of every question.
const ORIGIN: Origin = Origin {
    client: SocketAddr::V4(SocketAddrV4::new(Ipv4Addr::new(192, 0, 2, 77), 5_353)),
    local: None,
    transport: Transport::Udp,
    token: 0,
};
/// What an upstream answers to any question: an A record of an hour for the question's name.
const ANSWER: &[u8; 16] = b"\xc0\x0c\0\x01\0\x01\0\0\x0e\x10\0\x04\xc0\0\x02\x05";
/// The OPT record of the questions: 1,232 octets of payload, no option.
const OPT: &[u8; 11] = b"\0\0\x29\x04\xd0\0\0\0\0\0\0";
/// Bytes of a message's header.
const HEADER_BYTES: usize = 12;
/// The address in the answer whose rewriting is measured. A rule turns it into that of the next network of 16 bits, and so
/// on through all of 10.0.0.0/8.
pub const REWRITTEN: [u8; 4] = [10, 0, 0, 5];

/// A name in all the forms in which some stage takes it.
pub struct Asked {
    /// In lower case, without the final dot.
    pub text: String,
    /// Off the wire, every other letter in upper case.
    pub spelled: Vec<u8>,
    /// The question for its address.
    pub datagram: Vec<u8>,
    /// Of its suffixes.
    pub hashes: SuffixHashes,
    /// Where its rules would be.
    pub shard: u16,
}

/// What came of a question.
pub struct Outcome(Step);

/// One worker's half over one store.
pub struct Appliance {
    core: Core,
    store: StoreReader,
    patterns: PatternScanner,
    clock_us: u64,
    replies: [Vec<u8>; BATCH_DATAGRAMS],
    // For the stages that are measured by themselves.
    key: HashKey,
    filters: Arc<Filters>,
    shards: Vec<Shard>,
    rewrites: Rewrites,
    question: Question,
    name: Name,
    hashes: SuffixHashes,
    matches: Matches,
    answer: Answer,
}

impl Appliance {
    /// Opens the store's current generation, with one upstream that answers as [`Appliance::answer_upstream`] says.
    ///
    /// # Errors
    /// The store cannot be read, or its patterns cannot be used as they were compiled.
    pub fn open(store: &Path) -> Result<Appliance, Failure> {
        let generation = Store::open(store)?.current()?;
        let mut settings = Settings::default();
        settings.groups[0] = Group::new("default", vec![SocketAddr::from(([192, 0, 2, 1], 53))]);
        let rules = Arc::new(RuleBook::new(&generation, &settings)?);
        let patterns = PatternDatabase::load(&generation)?;
        if let Some(why) = patterns.recompiled() {
            return Err(format!("the compiled patterns in {} cannot be used: {why}", store.display()).into());
        }
        Ok(Appliance {
            core: Core::new(Arc::new(settings), rules, SEED),
            store: StoreReader::open(&generation, MMAP)?,
            patterns: PatternScanner::new(Arc::new(patterns))?,
            clock_us: 1,
            replies: std::array::from_fn(|_| vec![0; UDP_PAYLOAD_BYTES_MAX]),
            key: generation.key,
            filters: generation.filters.clone(),
            shards: generation.open_shards(MMAP)?,
            rewrites: Rewrites::new(&generation.rewrites),
            question: Question::EMPTY,
            name: Name::ROOT,
            hashes: SuffixHashes::EMPTY,
            matches: Matches::new(),
            answer: Answer::new(),
        })
    }

    /// All forms of a name over this store.
    ///
    /// # Errors
    /// It is no name.
    pub fn asked(&self, text: &str) -> Result<Asked, Failure> {
        let name = Name::from_text(text)?;
        let mut hashes = SuffixHashes::EMPTY;
        hashes.compute(self.key, &name);
        let mut spelled = name.as_wire().to_vec();
        spelled.iter_mut().step_by(2).for_each(u8::make_ascii_uppercase);
        let mut datagram = b"\x12\x34\x01\0\0\x01\0\0\0\0\0\x01".to_vec();
        datagram.extend_from_slice(name.as_wire());
        datagram.extend_from_slice(b"\0\x01\0\x01");
        datagram.extend_from_slice(OPT);
        let shard = hashes.whole().shard(self.filters.shard_count());
        Ok(Asked { text: text.to_owned(), spelled, datagram, hashes, shard })
    }

    /// Reads the question; whether there was one with an OPT record.
    pub fn parse(&mut self, datagram: &[u8]) -> bool {
        question::parse(datagram, Transport::Udp, &mut self.question).is_ok() && self.question.edns.is_some()
    }

    /// Reads a name off the wire and hashes all its suffixes; whether it was one.
    pub fn fold_and_hash(&mut self, wire: &[u8]) -> bool {
        let is_read = self.name.read_wire(wire).is_ok();
        self.hashes.compute(self.key, &self.name);
        is_read && self.hashes.label_count() > 0
    }

    /// Whether any filter lets a suffix of the name pass.
    pub fn may_be_listed(&self, hashes: &SuffixHashes) -> bool {
        self.filters.probe(0, hashes) != 0
    }

    /// Rules of this very name in the shard.
    pub fn rows_of(&mut self, shard: u16, text: &str) -> usize {
        let mut rows = 0;
        let Some(shard) = self.shards.get_mut(usize::from(shard)) else { return 0 };
        if shard.classes_of(text, &mut |_| rows += 1).is_ok() { rows } else { 0 }
    }

    /// Scans a name for the patterns; whether it could be.
    pub fn scan(&mut self, text: &str) -> bool {
        self.patterns.scan(text, &mut self.matches).is_ok()
    }

    /// Patterns that the last scan found.
    pub fn matches(&self) -> usize {
        self.matches.as_slice().len()
    }

    /// Puts an answer in place for [`Appliance::rewrite`]: a link of a chain, and an address.
    pub fn begin_rewriting(&mut self) {
        let (name, target) =
            ([3, b'w', b'w', b'w', 3, b'n', b'e', b't', 0], [3, b'c', b'd', b'n', 3, b'n', b'e', b't', 0]);
        self.answer.clear();
        for (owner, rtype, rdata) in [(name, rtype::CNAME, target.as_slice()), (target, rtype::A, &REWRITTEN)] {
            let owner = Name::from_wire(&owner).unwrap_or(Name::ROOT);
            let pushed = self.answer.push(Section::Answer, &owner, rtype, CLASS_IN, 3_600, rdata);
            debug_assert!(pushed.is_ok(), "an answer has room for two records");
        }
    }

    /// Rewrites the address of the answer in place, from one network to the next; whether it was.
    pub fn rewrite(&mut self) -> bool {
        self.rewrites.apply(&mut self.answer, &|_| true)
    }

    /// Asks as a client over UDP, and does all that can be done on this machine.
    pub fn ask(&mut self, datagram: &[u8]) -> Outcome {
        let now = self.tick();
        let step = self.core.on_datagram(now, ORIGIN, datagram, &mut self.replies[0]);
        self.go_on(now, 0, step)
    }

    /// Asks as many clients whose questions came together, at most [`BATCH_DATAGRAMS`]; how many were answered.
    pub fn ask_batch(&mut self, batch: &[Asked]) -> usize {
        let now = self.tick();
        let batch = || batch.iter().enumerate().take(BATCH_DATAGRAMS);
        batch().for_each(|(index, asked)| self.core.hear(now, index, ORIGIN, &asked.datagram));
        fetch_ahead(&mut self.core, batch().count(), &self.store);
        let mut answered = 0;
        for (index, asked) in batch() {
            let step = self.core.answer(now, index, &asked.datagram, &mut self.replies[index]);
            answered += usize::from(self.go_on(now, index, step).is_answered());
        }
        answered
    }

    fn tick(&mut self) -> Now {
        self.clock_us += 1;
        Now(self.clock_us)
    }

    fn go_on(&mut self, now: Now, reply: usize, step: Step) -> Outcome {
        Outcome(carry_out(&mut self.core, now, step, &mut self.store, &mut self.patterns, &mut self.replies[reply]))
    }

    /// Asks what must be forwarded; whether the upstream's answer led to a reply.
    pub fn forward(&mut self, datagram: &[u8]) -> bool {
        matches!(self.ask(datagram), Outcome(Step::Wait(_))) && self.answer_upstream()
    }

    /// Lets the upstream answer what was asked of it, with one address; whether the clients' replies came of it.
    pub fn answer_upstream(&mut self) -> bool {
        let now = Now(self.clock_us);
        let mut is_replied = false;
        while let Some(ready) = self.core.next_ready() {
            match ready {
                Ready::Send(id) => {
                    let Some(request) = self.core.upstream_request(id) else { continue };
                    let (server, socket) = (request.server, request.socket);
                    let mut message = [0; UDP_PAYLOAD_BYTES_MAX];
                    let Some(bytes) = write_answer(request.message, &mut message) else { continue };
                    self.core.on_upstream(now, server, Transport::Udp, socket, &message[..bytes]);
                }
                Ready::Query(ticket) => {
                    let step = self.core.resume(now, ticket, &mut self.replies[0]);
                    is_replied = self.go_on(now, 0, step).is_answered();
                }
                Ready::Done(_) => {}
            }
        }
        is_replied
    }

    /// Empties the cache.
    pub fn forget_answers(&mut self) {
        let mut at = Some(FlushCursor::START);
        while let Some(from) = at {
            at = self.core.flush(&Flush::All, from).next;
        }
    }
}

impl Outcome {
    /// Whether it is a reply.
    pub fn is_answered(&self) -> bool {
        matches!(self.0, Step::Reply { .. })
    }
}

/// The answer to a request; its length, or none when there is no question in it.
fn write_answer(request: &[u8], message: &mut [u8]) -> Option<usize> {
    let name_bytes = request.get(HEADER_BYTES..)?.iter().position(|&octet| octet == 0)? + 1;
    let question_end = HEADER_BYTES + name_bytes + 4;
    let bytes = question_end + ANSWER.len();
    message.get_mut(..question_end)?.copy_from_slice(request.get(..question_end)?);
    message.get_mut(question_end..bytes)?.copy_from_slice(ANSWER);
    // QR and RA; one answer, and no OPT record.
    *message.get_mut(2)? |= 0x80;
    *message.get_mut(3)? = 0x80;
    *message.get_mut(7)? = 1;
    *message.get_mut(11)? = 0;
    Some(bytes)
}
