//! Reading DNS messages: names, records, and which RDATA holds names (RFC 1035 §4.1, RFC 3597 §4).
//!
//! Invariant: every read is bounded by the message and every walk by a constant: compression pointers only lead
//! backwards, and at most [`POINTERS_MAX`] of them make a name. Nothing here allocates or panics.

use corewall_sharding::name::{LABEL_BYTES_MAX, LABELS_MAX, NAME_BYTES_MAX, Name};

use crate::limits::{EDNS_OPTIONS_MAX, HEADER_BYTES};

/// TYPE numbers that the query path treats in a way of their own (IANA DNS parameters).
pub mod rtype {
    #![allow(missing_docs)]
    pub const A: u16 = 1;
    pub const NS: u16 = 2;
    pub const MD: u16 = 3;
    pub const MF: u16 = 4;
    pub const CNAME: u16 = 5;
    pub const SOA: u16 = 6;
    pub const MB: u16 = 7;
    pub const MG: u16 = 8;
    pub const MR: u16 = 9;
    pub const PTR: u16 = 12;
    pub const HINFO: u16 = 13;
    pub const MINFO: u16 = 14;
    pub const MX: u16 = 15;
    pub const TXT: u16 = 16;
    pub const RP: u16 = 17;
    pub const AFSDB: u16 = 18;
    pub const RT: u16 = 21;
    pub const SIG: u16 = 24;
    pub const PX: u16 = 26;
    pub const AAAA: u16 = 28;
    pub const NXT: u16 = 30;
    pub const SRV: u16 = 33;
    pub const NAPTR: u16 = 35;
    pub const KX: u16 = 36;
    pub const DNAME: u16 = 39;
    pub const OPT: u16 = 41;
    pub const DS: u16 = 43;
    pub const RRSIG: u16 = 46;
    pub const NSEC: u16 = 47;
    pub const NSEC3: u16 = 50;
    pub const SVCB: u16 = 64;
    pub const HTTPS: u16 = 65;
    pub const TKEY: u16 = 249;
    pub const TSIG: u16 = 250;
    pub const IXFR: u16 = 251;
    pub const AXFR: u16 = 252;
    pub const MAILB: u16 = 253;
    pub const MAILA: u16 = 254;
    pub const ANY: u16 = 255;
}

/// RCODE numbers (RFC 1035 §4.1.1, RFC 6891 §9).
pub mod rcode {
    #![allow(missing_docs)]
    pub const NOERROR: u16 = 0;
    pub const FORMERR: u16 = 1;
    pub const SERVFAIL: u16 = 2;
    pub const NXDOMAIN: u16 = 3;
    pub const NOTIMP: u16 = 4;
    pub const REFUSED: u16 = 5;
    pub const YXDOMAIN: u16 = 6;
    pub const BADVERS: u16 = 16;
    pub const BADCOOKIE: u16 = 23;
}

/// OPTION-CODE numbers of EDNS (IANA DNS parameters).
pub mod option {
    #![allow(missing_docs)]
    pub const CLIENT_SUBNET: u16 = 8;
    pub const COOKIE: u16 = 10;
    pub const KEEPALIVE: u16 = 11;
    pub const EDE: u16 = 15;
}

/// CLASS IN, the only one that is resolved.
pub const CLASS_IN: u16 = 1;
/// CLASS CHAOS, in which servers tell of themselves (RFC 4892).
pub const CLASS_CH: u16 = 3;

/// Compression pointers in one name. Each saves at least a label, so no sender needs more than a name has labels; a chain
/// of pointers to pointers would otherwise cost thousands of steps a name.
pub const POINTERS_MAX: usize = LABELS_MAX;

/// A name in the letter case of its message, uncompressed.
#[derive(Clone, Copy)]
pub struct WireName {
    bytes: usize,
    octets: [u8; NAME_BYTES_MAX],
}

impl WireName {
    /// The root name.
    pub const ROOT: WireName = WireName { bytes: 1, octets: [0; NAME_BYTES_MAX] };

    /// A copy of a name.
    pub fn of(name: &Name) -> WireName {
        let mut copy = Self { bytes: 0, ..Self::ROOT };
        // A name has no more octets than there is room for.
        if copy.push(name.as_wire()).is_none() {
            return Self::ROOT;
        }
        copy
    }

    /// The octets with the root label.
    pub fn as_wire(&self) -> &[u8] {
        self.octets.get(..self.bytes).unwrap_or(&[0])
    }

    /// The same, to change the letter case of.
    pub fn as_wire_mut(&mut self) -> &mut [u8] {
        self.octets.get_mut(..self.bytes).unwrap_or_default()
    }

    /// Folds ASCII letters to lower case.
    pub fn make_lowercase(&mut self) {
        if let Some(octets) = self.octets.get_mut(..self.bytes) {
            octets.make_ascii_lowercase();
        }
    }

    fn push(&mut self, octets: &[u8]) -> Option<()> {
        let end = self.bytes + octets.len();
        self.octets.get_mut(self.bytes..end)?.copy_from_slice(octets);
        self.bytes = end;
        Some(())
    }
}

/// A record's place in a message.
#[derive(Clone, Copy, Debug)]
pub struct Frame {
    /// Where the owner name starts.
    pub owner_at: usize,
    /// TYPE.
    pub rtype: u16,
    /// CLASS.
    pub class: u16,
    /// TTL as sent.
    pub ttl_s: u32,
    /// Where RDATA starts.
    pub rdata_at: usize,
    /// RDLENGTH; RDATA lies within the message.
    pub rdata_bytes: u16,
}

impl Frame {
    /// RDATA as sent.
    pub fn rdata<'a>(&self, message: &'a [u8]) -> &'a [u8] {
        message.get(self.rdata_at..self.rdata_at + usize::from(self.rdata_bytes)).unwrap_or_default()
    }
}

/// A place in a message; each read moves it on, or gives none and leaves the reader of no further use.
#[derive(Clone, Copy)]
pub struct Reader<'a> {
    message: &'a [u8],
    at: usize,
}

impl<'a> Reader<'a> {
    /// Starts at octet `at`.
    pub fn new(message: &'a [u8], at: usize) -> Self {
        Self { message, at }
    }

    /// The octet to be read next.
    pub fn at(&self) -> usize {
        self.at
    }

    /// The next `N` octets.
    pub fn array<const N: usize>(&mut self) -> Option<[u8; N]> {
        let octets = self.message.get(self.at..)?.first_chunk::<N>()?;
        self.at += N;
        Some(*octets)
    }

    /// The next 16 bits.
    pub fn u16(&mut self) -> Option<u16> {
        self.array().map(u16::from_be_bytes)
    }

    /// Passes over a name without following its pointer.
    pub fn skip_name(&mut self) -> Option<()> {
        let start = self.at;
        loop {
            let [length] = self.array()?;
            match length {
                0 => return Some(()),
                0xc0.. => return self.array::<1>().map(|_| ()),
                1..=0x3f => self.at += usize::from(length),
                _ => return None,
            }
            if self.at - start >= NAME_BYTES_MAX {
                return None;
            }
        }
    }

    /// The next record, whose name is not expanded.
    pub fn record(&mut self) -> Option<Frame> {
        let owner_at = self.at;
        self.skip_name()?;
        let [type_hi, type_lo, class_hi, class_lo, t0, t1, t2, t3, len_hi, len_lo] = self.array()?;
        let frame = Frame {
            owner_at,
            rtype: u16::from_be_bytes([type_hi, type_lo]),
            class: u16::from_be_bytes([class_hi, class_lo]),
            ttl_s: u32::from_be_bytes([t0, t1, t2, t3]),
            rdata_at: self.at,
            rdata_bytes: u16::from_be_bytes([len_hi, len_lo]),
        };
        let end = self.at + usize::from(frame.rdata_bytes);
        if end > self.message.len() {
            return None;
        }
        self.at = end;
        Some(frame)
    }
}

/// The options in the RDATA of an OPT record (RFC 6891 §6.1.2), one after the other: at most [`EDNS_OPTIONS_MAX`]. Gives
/// [`BadOptions`] once, at its end, when they are more or don't fill the RDATA exactly.
pub struct Options<'a> {
    rest: &'a [u8],
    left: usize,
}

/// The options of an OPT record are malformed, or too many.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BadOptions;

impl<'a> Options<'a> {
    /// Of this RDATA.
    pub fn new(rdata: &'a [u8]) -> Self {
        Self { rest: rdata, left: EDNS_OPTIONS_MAX }
    }

    fn split(&mut self) -> Option<(u16, &'a [u8])> {
        self.left = self.left.checked_sub(1)?;
        let ([code_hi, code_lo, len_hi, len_lo], rest) = self.rest.split_first_chunk::<4>()?;
        let (data, rest) = rest.split_at_checked(usize::from(u16::from_be_bytes([*len_hi, *len_lo])))?;
        self.rest = rest;
        Some((u16::from_be_bytes([*code_hi, *code_lo]), data))
    }
}

impl<'a> Iterator for Options<'a> {
    /// OPTION-CODE and OPTION-DATA.
    type Item = Result<(u16, &'a [u8]), BadOptions>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.rest.is_empty() {
            return None;
        }
        let option = self.split();
        if option.is_none() {
            self.rest = &[];
        }
        Some(option.ok_or(BadOptions))
    }
}

/// Expands the name at `start` into `name`, its letter case kept. Returns where the name ends in the message.
pub fn expand_name(message: &[u8], start: usize, name: &mut WireName) -> Option<usize> {
    name.bytes = 0;
    let (mut at, mut run_at, mut end, mut pointers) = (start, start, None, 0);
    loop {
        let length = *message.get(at)?;
        if usize::from(length) <= LABEL_BYTES_MAX {
            let next = at + 1 + usize::from(length);
            name.push(message.get(at..next)?)?;
            if length == 0 {
                return Some(end.unwrap_or(next));
            }
            at = next;
        } else if length >= 0xc0 {
            let target = usize::from(length & 0x3f) << 8 | usize::from(*message.get(at + 1)?);
            end.get_or_insert(at + 2);
            pointers += 1;
            // A pointer leads to a prior name (RFC 1035 §4.1.4): in front of the run of labels that it ends, and behind
            // the header. So each run starts before the one before it, and no loop is possible.
            if target >= run_at || target < HEADER_BYTES || pointers > POINTERS_MAX {
                return None;
            }
            (at, run_at) = (target, target);
        } else {
            return None;
        }
    }
}

/// A part of RDATA.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Field {
    /// So many octets.
    Octets(usize),
    /// A <character-string> (RFC 1035 §3.3).
    Text,
    /// A name that a sender may have compressed.
    Name,
    /// All that is left.
    Rest,
}

/// What RDATA of a type is made of, for the types whose names senders may compress (RFC 3597 §4) and for addresses, which
/// are looked into; others are opaque.
pub fn layout(rtype: u16) -> &'static [Field] {
    use Field::{Name, Octets, Rest, Text};
    match rtype {
        rtype::A => &[Octets(4)],
        rtype::AAAA => &[Octets(16)],
        rtype::NS
        | rtype::MD
        | rtype::MF
        | rtype::CNAME
        | rtype::MB
        | rtype::MG
        | rtype::MR
        | rtype::PTR
        | rtype::DNAME => &[Name],
        rtype::SOA => &[Name, Name, Octets(20)],
        rtype::MINFO | rtype::RP => &[Name, Name],
        rtype::MX | rtype::AFSDB | rtype::RT | rtype::KX => &[Octets(2), Name],
        rtype::PX => &[Octets(2), Name, Name],
        rtype::SRV => &[Octets(6), Name],
        rtype::NAPTR => &[Octets(4), Text, Text, Text, Name],
        rtype::SIG => &[Octets(18), Name, Rest],
        rtype::NXT => &[Name, Rest],
        _ => &[Rest],
    }
}

/// The octets of a [`Field`] that is no name, from `at` within RDATA that ends at `end`.
pub fn field_octets(message: &[u8], field: Field, at: usize, end: usize) -> Option<&[u8]> {
    let bytes = match field {
        Field::Octets(bytes) => bytes,
        Field::Text => 1 + usize::from(*message.get(at)?),
        Field::Name | Field::Rest => end.checked_sub(at)?,
    };
    if at + bytes > end {
        return None;
    }
    message.get(at..at + bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn expanded(message: &[u8], at: usize) -> Option<(Vec<u8>, usize)> {
        let mut name = WireName::ROOT;
        let end = expand_name(message, at, &mut name)?;
        Some((name.as_wire().to_vec(), end))
    }

    #[test]
    fn pointers_are_followed_backwards_only() {
        let mut message = vec![0u8; HEADER_BYTES];
        message.extend_from_slice(b"\x03CoM\0"); // 12
        message.extend_from_slice(b"\x01a\xc0\x0c"); // 17
        message.extend_from_slice(b"\xc0\x11"); // 21
        message.extend_from_slice(b"\xc0\x17"); // 23: to itself
        message.extend_from_slice(b"\x01b\xc0\x19"); // 25: to its own labels
        message.extend_from_slice(b"\xc0\xff"); // 29: forwards
        message.extend_from_slice(b"\xc0\x00"); // 31: into the header
        message.extend_from_slice(b"\x40a\0"); // 33: a label type that does not exist
        assert_eq!(expanded(&message, 12), Some((b"\x03CoM\0".to_vec(), 17)));
        assert_eq!(expanded(&message, 17), Some((b"\x01a\x03CoM\0".to_vec(), 21)));
        assert_eq!(expanded(&message, 21), Some((b"\x01a\x03CoM\0".to_vec(), 23)));
        for at in [23, 25, 29, 31, 33, 36, 99] {
            assert_eq!(expanded(&message, at), None, "{at}");
        }
    }

    #[test]
    fn a_long_chain_of_pointers_is_cut_off() {
        let mut message = vec![0u8; HEADER_BYTES];
        message.push(0);
        let mut last = HEADER_BYTES;
        for _ in 0..POINTERS_MAX {
            let at = message.len();
            message.extend_from_slice(&(0xc000 | last as u16).to_be_bytes());
            last = at;
        }
        assert_eq!(expanded(&message, last), Some((vec![0], message.len())));
        message.extend_from_slice(&(0xc000 | last as u16).to_be_bytes());
        assert_eq!(expanded(&message, message.len() - 2), None);
    }

    #[test]
    fn a_name_may_take_255_octets_and_no_more() {
        for (last, fits) in [(61usize, true), (62, false)] {
            let mut message = vec![0u8; HEADER_BYTES];
            for length in [63, 63, 63, last] {
                message.push(length as u8);
                message.extend(std::iter::repeat_n(b'x', length));
            }
            message.push(0);
            assert_eq!(expanded(&message, HEADER_BYTES).is_some(), fits);
            let mut reader = Reader::new(&message, HEADER_BYTES);
            assert_eq!(reader.skip_name().is_some(), fits);
        }
    }

    #[test]
    fn options_end_with_what_is_malformed_or_too_much() {
        let read =
            |rdata: &[u8]| Options::new(rdata).map(|option| option.map(|(code, data)| (code, data.len()))).collect();
        let whole = b"\0\x0a\0\x02ab\xff\xf0\0\0\0\x08\0\x01c";
        let all: Vec<Result<(u16, usize), BadOptions>> = read(whole);
        assert_eq!(all, [Ok((10, 2)), Ok((0xfff0, 0)), Ok((8, 1))]);
        for end in 0..whole.len() {
            let cut: Vec<Result<(u16, usize), BadOptions>> = read(&whole[..end]);
            let is_between = [0, 6, 10].contains(&end);
            assert_eq!(cut.last() == Some(&Err(BadOptions)), !is_between, "{end}");
            assert_eq!(cut.iter().filter(|option| option.is_err()).count(), usize::from(!is_between), "{end}");
        }
        let option = b"\0\x0a\0\0";
        let most: Vec<_> = read(&option.repeat(EDNS_OPTIONS_MAX));
        assert!(most.len() == EDNS_OPTIONS_MAX && most.iter().all(Result::is_ok));
        let more: Vec<_> = read(&option.repeat(EDNS_OPTIONS_MAX + 1));
        assert_eq!((more.len(), more.last()), (EDNS_OPTIONS_MAX + 1, Some(&Err(BadOptions))));
    }
}
