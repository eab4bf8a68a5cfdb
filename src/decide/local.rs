//! Stage 4, local: records from the configuration and from hosts files, special-use names, canary domains, and the reverse
//! zones of addresses that nobody else can know.
//!
//! Invariant: a name that is answered here never reaches a rule or an upstream, whatever the type asked, but for the DS of a
//! zone that its parent must answer. Configured records win over the rest. Nothing here depends on the client.
//!
//! A name with records is all that is ours: the names above it and below it are resolved as any other. A wildcard is more: it
//! makes everything below its parent ours, as in a zone (RFC 4592 §2.2.2 and §3.3.1).

mod special;
#[cfg(test)]
mod tests;

use std::fmt;

use ahash::RandomState;
use corewall_sharding::name::Name;
use corewall_sharding::rule::AnswerRecord;
use hashbrown::{HashMap, HashSet};

use self::special::{Special, special};
use super::answer::{Answer, AnswerFull, Section};
use super::wire::{CLASS_IN, rcode, rtype};

/// Seconds in a configured record that says none: short, for its owner may edit it and reload.
pub const LOCAL_TTL_S: u32 = 300;
/// The first label of a wildcard (RFC 4592 §2.1.1).
const WILDCARD: &[u8] = b"\x01*";

/// What is answered here beside the records of the configuration.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Served {
    /// Special-use names (RFC 6761, 6762, 7686, 8375, 9462, 9476, 9665).
    pub special_use_names: bool,
    /// Reverse zones of private, local and documentation addresses (RFC 6303 §4).
    pub reverse_zones: bool,
    /// Names by whose absence a network tells browsers to use its own resolver.
    pub canary_domains: bool,
}

/// Records of the configuration, special-use names and local reverse zones. Immutable.
#[derive(Clone, Default)]
pub struct LocalRecords {
    records: HashMap<Box<[u8]>, Vec<AnswerRecord>, RandomState>,
    /// The same by the parent of each wildcard.
    wildcards: HashMap<Box<[u8]>, Vec<AnswerRecord>, RandomState>,
    /// Names above those with records: they exist, though without data (RFC 8020 §2).
    parents: HashSet<Box<[u8]>, RandomState>,
    served: Served,
}

impl fmt::Debug for LocalRecords {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LocalRecords")
            .field("names", &self.records.len())
            .field("wildcards", &self.wildcards.len())
            .field("served", &self.served)
            .finish()
    }
}

/// What is known of a name by records.
enum Configured<'a> {
    /// It has these, itself or by a wildcard.
    Records(&'a [AnswerRecord]),
    /// It lies below a wildcard's parent, of so many labels, and is above a name with records.
    Empty { labels: usize },
    /// It lies below a wildcard's parent, of so many labels, that another name keeps the wildcard from.
    Absent { labels: usize },
}

impl LocalRecords {
    /// From names and their records, and what is answered beside them. A record that is there twice counts once, and the
    /// records of one set have the least of their TTLs (RFC 2181 §5).
    pub fn new(records: Vec<(Name, AnswerRecord)>, served: Served) -> Self {
        let mut local = Self { served, ..Self::default() };
        for (name, mut record) in records {
            local.parents.extend((1..name.label_count()).map(|labels| Box::from(name.suffix_wire(labels))));
            let set = match name.as_wire().strip_prefix(WILDCARD) {
                Some(parent) => local.wildcards.entry(parent.into()),
                None => local.records.entry(name.as_wire().into()),
            }
            .or_default();
            let ttl_s = |record: &AnswerRecord| record.ttl_s.unwrap_or(LOCAL_TTL_S);
            let of_type = |held: &&mut AnswerRecord| held.rtype == record.rtype;
            let least = set.iter_mut().filter(of_type).map(|held| ttl_s(held)).chain([ttl_s(&record)]).min();
            record.ttl_s = least;
            for held in set.iter_mut().filter(|held| held.rtype == record.rtype) {
                held.ttl_s = least;
            }
            if !set.contains(&record) {
                set.push(record);
            }
        }
        local
    }

    /// Appends to `answer` when the name is ours: its records of the type, NODATA, NXDOMAIN; false when it is not ours.
    ///
    /// A CNAME in the configuration answers every type with itself alone; the caller follows it, so that its target is
    /// judged as any name. ANY gets one set of records, whichever comes first (RFC 8482 §4.1). Negative answers carry an SOA,
    /// so that clients may cache them (RFC 2308 §3). Should the answer not fit, it is SERVFAIL without records.
    pub fn answer(&self, name: &Name, qtype: u16, answer: &mut Answer) -> bool {
        answer.rcode = rcode::NOERROR;
        let filled = match self.configured(name) {
            Some(Configured::Records(records)) => fill_configured(name, records, qtype, answer),
            Some(Configured::Empty { labels }) => push_soa(&name.suffix(labels), LOCAL_TTL_S, answer),
            Some(Configured::Absent { labels }) => {
                answer.rcode = rcode::NXDOMAIN;
                push_soa(&name.suffix(labels), LOCAL_TTL_S, answer)
            }
            None => match special(name, qtype, self.served) {
                Some(special) => special::fill(name, self.with_parents(name, special), qtype, answer),
                None => return false,
            },
        };
        if filled.is_err() {
            answer.clear();
            answer.rcode = rcode::SERVFAIL;
        }
        true
    }

    /// Whether names below this one have records here: then it is there, whatever an upstream says.
    pub fn is_above_records(&self, name: &Name) -> bool {
        self.parents.contains(name.as_wire())
    }

    /// As [`LocalRecords::answer`], from the records of the configuration alone.
    pub fn answer_configured(&self, name: &Name, qtype: u16, answer: &mut Answer) -> bool {
        let is_ours = self.configured(name).is_some();
        is_ours && self.answer(name, qtype, answer)
    }

    /// Whether a zone is answered here without any record of the configuration: a special-use or local reverse zone, or one
    /// within it.
    pub fn serves(&self, zone: &Name) -> bool {
        special(zone, rtype::SOA, self.served).is_some()
    }

    fn configured(&self, name: &Name) -> Option<Configured<'_>> {
        if !self.records.is_empty()
            && let Some(records) = self.records.get(name.as_wire())
        {
            return Some(Configured::Records(records));
        }
        if self.wildcards.is_empty() { None } else { self.by_wildcard(name) }
    }

    /// What the wildcards say of a name without records of its own: that of the closest encloser counts (RFC 4592 §3.3.1).
    fn by_wildcard(&self, name: &Name) -> Option<Configured<'_>> {
        let is_there = self.parents.contains(name.as_wire());
        let mut is_kept_off = is_there;
        for labels in (0..name.label_count()).rev() {
            let encloser = name.suffix_wire(labels);
            if let Some(records) = self.wildcards.get(encloser) {
                return Some(match (is_there, is_kept_off) {
                    (true, _) => Configured::Empty { labels },
                    (false, true) => Configured::Absent { labels },
                    (false, false) => Configured::Records(records),
                });
            }
            is_kept_off |= self.records.contains_key(encloser) || self.parents.contains(encloser);
        }
        None
    }

    /// A name above a configured one is there: denying it would deny that one too.
    fn with_parents(&self, name: &Name, special: Special) -> Special {
        match special {
            Special::Absent { labels } if self.is_above_records(name) => Special::Empty { labels },
            special => special,
        }
    }
}

fn fill_configured(name: &Name, records: &[AnswerRecord], qtype: u16, answer: &mut Answer) -> Result<(), AnswerFull> {
    let asked = match records.first() {
        _ if records.iter().any(|record| record.rtype == rtype::CNAME) => rtype::CNAME,
        Some(first) if qtype == rtype::ANY => first.rtype,
        _ => qtype,
    };
    for record in records.iter().filter(|record| record.rtype == asked) {
        let ttl_s = record.ttl_s.unwrap_or(LOCAL_TTL_S);
        answer.push(Section::Answer, name, record.rtype, CLASS_IN, ttl_s, &record.rdata)?;
    }
    if answer.has_data(asked) { Ok(()) } else { push_soa(name, LOCAL_TTL_S, answer) }
}

/// The SOA of a zone that is served here (RFC 6303 §3): its MINIMUM is its TTL.
fn push_soa(zone: &Name, ttl_s: u32, answer: &mut Answer) -> Result<(), AnswerFull> {
    const RNAME: &[u8] = b"\x06nobody\x07invalid\0";
    const TIMERS_BYTES: usize = 20;
    let mut rdata = [0u8; corewall_sharding::name::NAME_BYTES_MAX + RNAME.len() + TIMERS_BYTES];
    let mut bytes = 0;
    let [serial, refresh, retry, expire] = [1u32, 3_600, 1_200, 604_800].map(u32::to_be_bytes);
    for part in [zone.as_wire(), RNAME, &serial, &refresh, &retry, &expire, &ttl_s.to_be_bytes()] {
        rdata.get_mut(bytes..bytes + part.len()).ok_or(AnswerFull)?.copy_from_slice(part);
        bytes += part.len();
    }
    answer.push(Section::Authority, zone, rtype::SOA, CLASS_IN, ttl_s, rdata.get(..bytes).ok_or(AnswerFull)?)
}
