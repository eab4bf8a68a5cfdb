//! Stages 1 to 3 for messages that come together: each is parsed and admitted, then what their answers will be read from is
//! fetched for all of them, then one after the other is answered.
//!
//! A large cache lies in memory that no processor's cache holds, and an answer out of it would wait for memory three times in
//! a row. Told ahead what a whole batch will read, the processor fetches that side by side; measured with 200,000 answers of 256
//! MiB: see `bench/README.md`.
//!
//! Invariants: an answer is looked for anew when its turn comes, for the one before may have changed the cache; what the filters say
//! stands, for the rules do not change within a batch. A question that is answered from the cache takes no slot of a query. Between
//! [`Core::hear`] and [`Core::answer`] of one batch nothing else is called.

use super::cache::{CacheKey, EntryId, KeyHash};
use super::filter::Lookup;
use super::question::{self, Question, Rejection};
use super::settings::{PolicyId, Settings};
use super::step::{DropReason, Now, Origin, Step, Transport};
use super::why::Failure;
use super::wire::rcode;
use super::{Core, client, lost};
use crate::limits::BATCH_DATAGRAMS;

/// Messages that have come together, each until it is answered.
pub(super) struct Arrivals(Box<[Arrival]>);

/// A message and what was made of it so far.
struct Arrival {
    from: Origin,
    /// Valid with the outcomes `Admitted`, `NotAllowed` and `Chaos`.
    question: Question,
    /// Of a name that is not in the cache: what the filters say of it.
    lookup: Box<Lookup>,
    /// They have been asked.
    is_probed: bool,
    outcome: Outcome,
}

#[derive(Clone, Copy)]
enum Outcome {
    /// No message.
    None,
    /// Nobody could be answered.
    Unanswerable,
    /// It asks no question that is taken up, or one of class CHAOS.
    Rejected(Rejection),
    /// Its client is not among those that are answered.
    NotAllowed,
    /// It asks a question of class IN.
    Admitted {
        policy: PolicyId,
        /// See [`super::query::Query::is_singled_out`]: the cache is not asked.
        is_singled_out: bool,
        /// Of the answer in the cache.
        hash: KeyHash,
    },
}

impl Arrivals {
    pub(super) fn new() -> Self {
        let nobody = ([0; 4], 0).into();
        let from = Origin { client: nobody, local: None, transport: Transport::Udp, token: 0 };
        let arrival = || Arrival {
            from,
            question: Question::EMPTY,
            lookup: Box::default(),
            is_probed: false,
            outcome: Outcome::None,
        };
        Self((0..BATCH_DATAGRAMS).map(|_| arrival()).collect())
    }
}

impl Arrival {
    /// Of its answer in the cache, if that may be one.
    fn hash(&self) -> Option<KeyHash> {
        match self.outcome {
            Outcome::Admitted { hash, .. } => Some(hash),
            _ => None,
        }
    }
}

impl Core {
    /// Stages 1 and 2 for message `index` of a batch of at most [`BATCH_DATAGRAMS`]: takes it in. [`Self::answer`] is then
    /// called for each of them. On the hot path.
    pub fn hear(&mut self, now: Now, index: usize, from: Origin, datagram: &[u8]) {
        self.counters.received.add(1);
        let Some(arrival) = self.arrivals.0.get_mut(index) else { return debug_assert!(false, "too many for a batch") };
        let Arrival { question, outcome, .. } = arrival;
        (arrival.from, arrival.is_probed) = (from, false);
        if from.client.port() == 0 {
            *outcome = Outcome::Unanswerable;
            return;
        }
        let parsed = question::parse(datagram, from.transport, question);
        if let Err(rejection) = parsed {
            *outcome = Outcome::Rejected(rejection);
            if rejection != Rejection::Chaos {
                return;
            }
        }
        let unix_s = self.unix_s_at_zero.wrapping_add(now.seconds_since(Now(0)));
        answer_options(&self.settings, question, from, unix_s, self.keepalive);
        if parsed.is_err() {
            return;
        }
        let Some(policy) = client::admit(&self.settings, from.client.ip()) else {
            *outcome = Outcome::NotAllowed;
            return;
        };
        self.top_names.hear(&question.name);
        let is_singled_out = self.rules.singles_out(policy, from.client.ip());
        let hash = self.cache.hash(&CacheKey::of(question, policy));
        *outcome = Outcome::Admitted { policy, is_singled_out, hash };
    }

    /// Has what the answers to the first `count` messages will be read from fetched, once they have been heard: first where the cache
    /// has noted them, then the answers. What is not cached is asked of the filters, true when [`Self::lookups_ahead`] then has rows that the
    /// store may fetch too. On the hot path.
    ///
    /// Each kind of thing in a pass of its own over the batch: a processor goes on past a few reads of memory only, so what waits is
    /// to stand close together.
    pub fn look_ahead(&mut self, count: usize) -> bool {
        let Self { arrivals, cache, rules, .. } = self;
        let batch = arrivals.0.get_mut(..count).unwrap_or_default();
        for hash in batch.iter().filter_map(Arrival::hash) {
            cache.prefetch_place(hash);
        }
        let (mut is_any_probed, mut is_any_read) = (false, false);
        for arrival in &mut *batch {
            arrival.is_probed = arrival.hash().is_some_and(|hash| !cache.prefetch_entry(hash));
            is_any_probed |= arrival.is_probed;
        }
        if is_any_probed {
            for Arrival { lookup, question, .. } in batch.iter_mut().filter(|arrival| arrival.is_probed) {
                lookup.begin(rules, &question.name);
            }
            for Arrival { lookup, question, .. } in batch.iter_mut().filter(|arrival| arrival.is_probed) {
                is_any_read |= lookup.compare(rules, &question.name);
            }
        }
        is_any_read
    }

    /// What is to be read for the first `count` messages, as far as the filters know.
    pub fn lookups_ahead(&self, count: usize) -> impl Iterator<Item = &Lookup> {
        let probed = self.arrivals.0.iter().take(count).filter(|arrival| arrival.is_probed);
        probed.map(|arrival| &*arrival.lookup).filter(|lookup| lookup.must_read())
    }

    /// Has the copy of the filters asked that lies at this place.
    pub(super) fn set_place_ahead(&mut self, place: usize) {
        self.arrivals.0.iter_mut().for_each(|arrival| arrival.lookup.set_place(place));
    }

    /// Stage 3 and all that follow, for message `index` of the batch; `datagram` is what was heard. `out` is as in
    /// [`Self::on_datagram`]. On the hot path.
    pub fn answer(&mut self, now: Now, index: usize, datagram: &[u8], out: &mut [u8]) -> Step {
        let Some(arrival) = self.arrivals.0.get_mut(index) else { return lost() };
        let Arrival { from, question, outcome, .. } = arrival;
        let from = *from;
        let outcome = std::mem::replace(outcome, Outcome::None);
        match outcome {
            Outcome::Admitted { policy, is_singled_out: false, hash } => {
                let key = CacheKey::of(question, policy);
                if let Some(entry) = self.cache.find_good(&key, hash, self.rules_stamp, now) {
                    return self.answer_from_cache(now, index, entry, out);
                }
            }
            Outcome::Rejected(rejection) if rejection != Rejection::Chaos => {
                return self.reject(from, rejection, datagram, out);
            }
            Outcome::Unanswerable => return self.drop_unbegun(DropReason::Unanswerable),
            _ => {}
        }
        self.shared = None;
        let Some((ticket, query)) = self.queries.begin(from) else { return lost() };
        query.rules = self.rules_stamp;
        query.question.copy_from(question);
        match outcome {
            Outcome::Admitted { policy, is_singled_out, .. } => {
                query.policy = policy;
                query.is_singled_out = is_singled_out;
                query.is_private = is_singled_out;
                if arrival.is_probed {
                    std::mem::swap(&mut self.lookup, &mut arrival.lookup);
                    self.is_probed_ahead = true;
                }
                let step = self.recall(now, ticket, out);
                self.is_probed_ahead = false;
                step
            }
            Outcome::Rejected(_) => self.answer_chaos(ticket, out),
            _ => {
                self.counters.refused_clients.add(1);
                self.fail(now, ticket, rcode::REFUSED, Failure::ClientNotAllowed, out)
            }
        }
    }

    /// The answer of an entry that is good as it is, to the message `index`.
    fn answer_from_cache(&self, now: Now, index: usize, entry: EntryId, out: &mut [u8]) -> Step {
        let Some(Arrival { from, question, .. }) = self.arrivals.0.get(index) else { return lost() };
        self.counters.replies.add(1);
        let bytes = self.write_from_cache(now, entry, question, from.transport, out);
        Step::Reply { bytes, to: *from }
    }
}

/// Puts in what the reply says to the client's options: a cookie (RFC 7873 §5.2), how long its connection may be idle (RFC
/// 7828 §3.3.1).
fn answer_options(settings: &Settings, question: &mut Question, from: Origin, unix_s: u32, keepalive: u16) {
    let secret = settings.client_cookies.as_ref();
    if let Some(asked) = question.cookie {
        question.cookie = secret.map(|secret| secret.answer(&asked, from.client.ip(), unix_s));
    }
    if question.keepalive.is_some() {
        question.keepalive = Some(keepalive);
    }
}
