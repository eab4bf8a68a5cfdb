//! An answer while it is being judged and changed: records with uncompressed names, in buffers that exist from the start.
//!
//! Invariant: within the answer section the records stand in the order of the CNAME chain, so that the n-th CNAME is the
//! n-th link, and an owner is lower case while names in RDATA keep the letter case in which they came. What an upstream
//! sends beside the answer to the asked name never gets in (see [`Answer::append_response`], in `answer/response.rs`).
//!
//! The RCODE and AD are the caller's: it takes them from [`ResponseHead`], for they belong to the last response of a
//! chain while the records may come from several.

mod response;

use std::ops::Range;

use corewall_sharding::name::Name;

pub use response::{ResponseError, ResponseHead, response_head};

use super::wire::rtype;
use crate::limits::{ANSWER_BYTES_MAX, ANSWER_RECORDS_MAX};

/// Where a record stands (RFC 1035 §4.1). The additional section is never kept: nothing in it is trusted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Section {
    /// Answer.
    Answer,
    /// Authority: SOA of negative answers, denial proofs.
    Authority,
}

/// One record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Record<'a> {
    /// Its section.
    pub section: Section,
    /// Owner, wire format, lower case, uncompressed.
    pub owner: &'a [u8],
    /// TYPE.
    pub rtype: u16,
    /// CLASS.
    pub class: u16,
    /// Seconds.
    pub ttl_s: u32,
    /// RDATA, names in it uncompressed.
    pub rdata: &'a [u8],
}

impl Record<'_> {
    /// The type that a signature covers (RFC 4034 §3.1.1); none for other records.
    pub fn covered(&self) -> Option<u16> {
        let covered = self.rdata.first_chunk::<2>().copied().map(u16::from_be_bytes);
        if self.rtype == rtype::RRSIG { covered } else { None }
    }
}

/// The buffers are full: the answer is larger than we take.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AnswerFull;

/// An answer in the making.
pub struct Answer {
    /// Extended RCODE.
    pub rcode: u16,
    /// AD.
    pub authentic_data: bool,
    records: Vec<Entry>,
    octets: Vec<u8>,
    /// Records of the message that [`Answer::append_response`] is reading.
    received: Vec<response::Received>,
}

/// See [`Answer::drop_duplicates`].
const DUPLICATES_LOOKED_AT_MAX: usize = 64;

/// A record whose octets are elsewhere.
#[derive(Clone, Copy)]
struct Entry {
    section: Section,
    rtype: u16,
    class: u16,
    ttl_s: u32,
    owner: Span,
    rdata: Span,
}

/// A stretch of `Answer::octets`.
#[derive(Clone, Copy)]
struct Span {
    start: u32,
    bytes: u16,
}

impl Span {
    fn range(self) -> Range<usize> {
        self.start as usize..self.start as usize + usize::from(self.bytes)
    }

    fn of(self, octets: &[u8]) -> &[u8] {
        octets.get(self.range()).unwrap_or_default()
    }
}

impl Entry {
    fn record(self, octets: &[u8]) -> Record<'_> {
        Record {
            section: self.section,
            owner: self.owner.of(octets),
            rtype: self.rtype,
            class: self.class,
            ttl_s: self.ttl_s,
            rdata: self.rdata.of(octets),
        }
    }
}

impl Answer {
    /// Buffers for the largest answer.
    pub fn new() -> Self {
        Self {
            rcode: 0,
            authentic_data: false,
            records: Vec::with_capacity(ANSWER_RECORDS_MAX),
            octets: Vec::with_capacity(ANSWER_BYTES_MAX),
            received: Vec::with_capacity(ANSWER_RECORDS_MAX),
        }
    }

    /// Forgets all records; NOERROR.
    pub fn clear(&mut self) {
        self.rcode = 0;
        self.authentic_data = false;
        self.records.clear();
        self.octets.clear();
    }

    /// Adds a record; `rdata` is uncompressed.
    pub fn push(
        &mut self,
        section: Section,
        owner: &Name,
        rtype: u16,
        class: u16,
        ttl_s: u32,
        rdata: &[u8],
    ) -> Result<(), AnswerFull> {
        let owner = self.store(owner.as_wire())?;
        let rdata = self.store(rdata)?;
        self.push_entry(Entry { section, rtype, class, ttl_s, owner, rdata })
    }

    fn push_entry(&mut self, entry: Entry) -> Result<(), AnswerFull> {
        if self.records.len() >= ANSWER_RECORDS_MAX {
            return Err(AnswerFull);
        }
        self.records.push(entry);
        Ok(())
    }

    fn store(&mut self, octets: &[u8]) -> Result<Span, AnswerFull> {
        let start = self.octets.len();
        if start + octets.len() > ANSWER_BYTES_MAX {
            return Err(AnswerFull);
        }
        self.octets.extend_from_slice(octets);
        self.span_from(start)
    }

    /// The octets stored since there were `start` of them.
    fn span_from(&self, start: usize) -> Result<Span, AnswerFull> {
        let bytes = u16::try_from(self.octets.len() - start).map_err(|_| AnswerFull)?;
        Ok(Span { start: start as u32, bytes })
    }

    /// The records in order.
    pub fn records(&self) -> impl Iterator<Item = Record<'_>> {
        self.records.iter().map(|entry| entry.record(&self.octets))
    }

    /// Whether there are no records.
    pub fn is_empty(&self) -> bool {
        self.records.is_empty()
    }

    /// Least TTL of all records; none when there are none.
    pub fn ttl_s_min(&self) -> Option<u32> {
        self.records.iter().map(|entry| entry.ttl_s).min()
    }

    /// Whether the answer section holds what was asked for, and not only links of a chain towards it.
    pub fn has_data(&self, qtype: u16) -> bool {
        self.records
            .iter()
            .any(|entry| entry.section == Section::Answer && (entry.rtype == qtype || qtype == rtype::ANY))
    }

    /// The `index`-th link of the CNAME chain that starts at the first name: its target and TTL.
    pub fn chain_target(&self, index: usize) -> Option<(Name, u32)> {
        let link = self.records.iter().filter(|entry| entry.is_link()).nth(index)?;
        let target = Name::from_wire(link.rdata.of(&self.octets)).ok()?;
        Some((target, link.ttl_s))
    }

    /// The name at the end of the CNAME chain; `first` when there is none.
    pub fn chain_end(&self, first: &Name) -> Name {
        let last = self.records.iter().rev().find(|entry| entry.is_link());
        last.and_then(|link| Name::from_wire(link.rdata.of(&self.octets)).ok()).unwrap_or(*first)
    }

    /// Keeps only the first `links` CNAMEs of the chain (with their DNAMEs and signatures) and nothing else. RCODE and AD
    /// stay as they are.
    pub fn cut_chain(&mut self, links: usize) {
        let Some(last) = links.checked_sub(1) else {
            self.records.clear();
            return;
        };
        let places = self.records.iter().enumerate().filter(|(_, entry)| entry.is_link());
        let Some((at, link)) = places.map(|(at, entry)| (at, *entry)).nth(last) else {
            // The chain is shorter: what stands behind its last link goes all the same.
            let links_held = self.records.iter().filter(|entry| entry.is_link()).count();
            return self.cut_chain(links_held);
        };
        let owner = link.owner.of(&self.octets);
        let signatures = self
            .records
            .iter()
            .skip(at + 1)
            .map(|entry| entry.record(&self.octets))
            .take_while(|record| record.owner == owner && record.covered() == Some(rtype::CNAME))
            .count();
        self.records.truncate(at + 1 + signatures);
    }

    /// Sets each record's TTL to what `ttl_s` says of it.
    pub fn set_ttls(&mut self, mut ttl_s: impl FnMut(&Record<'_>) -> u32) {
        for entry in &mut self.records {
            entry.ttl_s = ttl_s(&entry.record(&self.octets));
        }
    }

    /// Replaces the RDATA of each record for which `replacement` gives octets of the same length. Returns whether there
    /// was one.
    pub fn replace_rdata<const N: usize>(
        &mut self,
        mut replacement: impl FnMut(&Record<'_>) -> Option<[u8; N]>,
    ) -> bool {
        let mut replaced = false;
        for entry in &self.records {
            let Some(rdata) = replacement(&entry.record(&self.octets)) else { continue };
            let Some(place) = self.octets.get_mut(entry.rdata.range()) else { continue };
            if place.len() == N && *place != rdata {
                place.copy_from_slice(&rdata);
                replaced = true;
            }
        }
        replaced
    }

    /// Keeps the records of which `keep` holds.
    pub fn retain(&mut self, mut keep: impl FnMut(&Record<'_>) -> bool) {
        let octets = &self.octets;
        self.records.retain(|entry| keep(&entry.record(octets)));
    }

    /// Drops each record of `rtype` that is equal to one of the first [`DUPLICATES_LOOKED_AT_MAX`] kept before it: an RRset
    /// is a set (RFC 2181 §5.5). In a larger set some may stay, which harms nobody; comparing all with all would let one
    /// answer cost a million comparisons.
    pub fn drop_duplicates(&mut self, rtype: u16) {
        let mut kept = 0;
        for at in 0..self.records.len() {
            let Some(entry) = self.records.get(at).copied() else { break };
            let record = entry.record(&self.octets);
            let mut front = self.records.iter().take(kept).filter(|entry| entry.rtype == rtype);
            let is_duplicate = record.rtype == rtype
                && front.by_ref().take(DUPLICATES_LOOKED_AT_MAX).any(|entry| entry.record(&self.octets) == record);
            if !is_duplicate {
                if let Some(place) = self.records.get_mut(kept) {
                    *place = entry;
                }
                kept += 1;
            }
        }
        self.records.truncate(kept);
    }
}

impl Default for Answer {
    fn default() -> Self {
        Self::new()
    }
}

impl Entry {
    fn is_link(&self) -> bool {
        self.section == Section::Answer && self.rtype == rtype::CNAME
    }
}
