//! What a server would say of a name, from a generation and the rules by hand on top of it: blocked, or not.
//!
//! Invariant: the verdict is a [`Core`]'s own, by the stages that every question goes through, local records and aliases
//! included. Nothing is sent: the question does not desire recursion, so what no rule answers is refused.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;

use corewall_sharding::generation::Generation;
use corewall_sharding::name::Name;
use corewall_sharding::overlay::LiveEntry;
use domain::base::Message;
use domain::base::opt::ExtendedError;

use crate::build::patterns::Compiler;
use crate::decide::cache::{Flush, FlushCursor};
use crate::decide::rulebook::RuleBook;
use crate::decide::settings::Settings;
use crate::decide::wire::rtype;
use crate::decide::{Core, Now, Origin, Step, Transport};
use crate::limits;
use crate::serve::answer_here::carry_out;
use crate::serve::live::LiveRules;
use crate::serve::patterns::{PatternDatabase, PatternScanner};
use crate::serve::store::StoreReader;

/// Who asks: somebody whom no policy names.
const CLIENT: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::LOCALHOST), 53_535);
/// A query's header (RFC 1035 §4.1.1): nothing set, one question, one additional record.
const HEADER: [u8; 12] = [0, 0, 0, 0, 0, 1, 0, 0, 0, 0, 0, 1];
/// An OPT record (RFC 6891 §6.1.2) without options, so that the answer may tell why.
const OPT: [u8; 11] = [0, 0, 41, 0x04, 0xd0, 0, 0, 0, 0, 0, 0];

/// What becomes of a name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It is answered here or goes to an upstream.
    Passes,
    /// By the list of this name, or the text that this list gives as the reason; empty when it is not told.
    Blocked(String),
}

/// Judges names by one generation, under the default policy.
pub struct Judge {
    core: Core,
    store: StoreReader,
    scanner: PatternScanner,
    query: Vec<u8>,
    reply: Vec<u8>,
}

impl Judge {
    /// Makes the generation ready, with the entries of the overlay that are live on it. Errors say what to do.
    pub fn new(generation: Generation, live: Vec<LiveEntry>, settings: &Settings) -> Result<Self, String> {
        let generation = Arc::new(generation);
        let mut settings = settings.clone();
        settings.cache.bytes = limits::CACHE_BYTES_MIN;
        settings.top_names = 0;
        // The default policy is asked about, whoever may ask.
        settings.clients_allowed = Default::default();
        settings.policy_clients = Default::default();
        (settings.ede, settings.ede_text) = (true, true);
        let failed = |error: &dyn std::fmt::Display| error.to_string();
        let settings = Arc::new(settings);
        let rules = RuleBook::new(&generation, &settings).map_err(|error| failed(&error))?;
        let by_hand = LiveRules::none(Arc::new(rules), Some(generation.clone()), settings.clone(), Compiler::Here);
        by_hand.load(live)?;
        let by_hand = by_hand.now();
        let patterns = PatternDatabase::load(&generation).map_err(|error| failed(&error))?;
        let scanner = PatternScanner::new(Arc::new(patterns)).map_err(|error| failed(&error))?;
        Ok(Self {
            // Nothing is sent, so that nobody could guess what is drawn from this seed.
            core: Core::new(settings, by_hand.change.rules.clone(), [0; 32]),
            store: StoreReader::open(&generation, false).map_err(|error| failed(&error))?,
            scanner: scanner.with_live(&by_hand.patterns)?,
            query: Vec::new(),
            reply: vec![0; limits::MESSAGE_BYTES_MAX],
        })
    }

    /// Judges a question for the name's IPv4 address.
    ///
    /// # Errors
    /// The generation cannot be read.
    pub fn verdict(&mut self, name: &Name) -> Result<Verdict, String> {
        let Self { core, store, scanner, query, reply } = self;
        query.clear();
        query.extend_from_slice(&HEADER);
        query.extend_from_slice(name.as_wire());
        query.extend_from_slice(&rtype::A.to_be_bytes());
        query.extend_from_slice(&[0, 1]);
        query.extend_from_slice(&OPT);
        // What an earlier question left in the cache is a verdict that was not counted again.
        let mut next = Some(FlushCursor::START);
        while let Some(from) = next {
            next = core.flush(&Flush::All, from).next;
        }
        let count = |core: &Core| {
            let counters = core.counters();
            (counters.blocked.value() + counters.drops_block_mode.value(), counters.store_failures.value())
        };
        let (blocked, failures) = count(core);
        let from = Origin { client: CLIENT, local: None, transport: Transport::Tcp, token: 0 };
        let now = Now(1);
        let step = core.on_datagram(now, from, query, reply);
        let step = carry_out(core, now, step, store, scanner, reply);
        let (blocked_after, failures_after) = count(core);
        if failures_after != failures {
            return Err(format!("{name}: the store or its patterns cannot be read; run `corewall verify`"));
        }
        if blocked_after == blocked {
            return Ok(Verdict::Passes);
        }
        let list = match step {
            Step::Reply { bytes, .. } => reply.get(..bytes).and_then(reason).unwrap_or_default(),
            _ => String::new(),
        };
        Ok(Verdict::Blocked(list))
    }
}

/// The text of the Extended DNS Error in a reply.
fn reason(reply: &[u8]) -> Option<String> {
    let message = Message::from_octets(reply).ok()?;
    let opt = message.opt()?;
    let error = opt.opt().iter::<ExtendedError<_>>().next()?.ok()?;
    error.text_slice().map(|text| String::from_utf8_lossy(text).into_owned())
}
