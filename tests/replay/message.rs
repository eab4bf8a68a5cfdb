//! DNS messages as scenarios speak of them: composed from text, parsed from the wire, compared, and shown as `dig` would.
//!
//! Whatever a scenario wants is composed to wire format and parsed again, so that what is wanted and what was got went
//! through the same reader. It is the `domain` crate's, which shares no code with the appliance's own.

use std::fmt;

use domain::base::iana::{Class, Opcode, Rcode};
use domain::base::message_builder::TreeCompressor;
use domain::base::opt::{Opt, UnknownOptData};
use domain::base::rdata::UnknownRecordData;
use domain::base::wire::Composer;
use domain::base::{MessageBuilder, Name, ParsedRecord, Rtype, ToName, Ttl};
use domain::rdata::AllRecordData;
use domain::zonefile::inplace::{Entry as ZoneEntry, ScannedRecord, Zonefile};

/// Seconds of a record that is written without a TTL.
const TTL_S_DEFAULT: u32 = 3_600;
/// Option code of an Extended DNS Error (RFC 8914 §2).
pub const OPTION_EDE: u16 = 15;

/// Option code of a cookie (RFC 7873 §4), and octets of the client's part.
pub const OPTION_COOKIE: u16 = 10;
const CLIENT_COOKIE_BYTES: usize = 8;

/// The flags of a header by name, as bits of its second 16-bit word.
pub const FLAGS: [(&str, u16); 8] = [
    ("QR", 0x8000),
    ("AA", 0x0400),
    ("TC", 0x0200),
    ("RD", 0x0100),
    ("RA", 0x0080),
    ("Z", 0x0040),
    ("AD", 0x0020),
    ("CD", 0x0010),
];

/// A message in parts, names and data as text.
#[derive(Clone, Debug, Default)]
pub struct Message {
    /// Message id.
    pub id: u16,
    /// Bits of [`FLAGS`].
    pub flags: u16,
    /// OPCODE.
    pub opcode: u8,
    /// RCODE with the bits that OPT adds.
    pub rcode: u16,
    /// QNAME, QCLASS and QTYPE.
    pub question: Vec<(String, Class, Rtype)>,
    /// Records by section: answer, authority, additional. OPT records are in `edns`.
    pub sections: [Vec<Record>; 3],
    /// OPT records.
    pub edns: Vec<Edns>,
    /// As it was on the wire.
    pub wire: Vec<u8>,
}

/// A record with its data in presentation format.
#[derive(Clone, Debug)]
pub struct Record {
    pub owner: String,
    pub class: Class,
    pub ttl_s: u32,
    pub rtype: Rtype,
    pub data: String,
}

/// An OPT record.
#[derive(Clone, Debug)]
pub struct Edns {
    /// Bytes of UDP payload.
    pub size: u16,
    pub version: u8,
    /// The 16 bits beside the version, DO the highest.
    pub flags: u16,
    /// Code and data.
    pub options: Vec<(u16, Vec<u8>)>,
}

impl Default for Edns {
    fn default() -> Self {
        Self { size: 1_232, version: 0, flags: 0, options: Vec::new() }
    }
}

impl Edns {
    /// The DO flag (RFC 3225).
    pub const DO: u16 = 0x8000;
}

impl Message {
    /// The first cookie: the client's part and the server's, which may be empty.
    pub fn cookie(&self) -> Option<(&[u8], &[u8])> {
        let mut options = self.edns.iter().flat_map(|edns| &edns.options);
        let (_, cookie) = options.find(|(code, _)| *code == OPTION_COOKIE)?;
        cookie.split_at_checked(CLIENT_COOKIE_BYTES)
    }

    /// Reads a message.
    pub fn parse(wire: &[u8]) -> Result<Message, String> {
        let message = domain::base::Message::from_octets(wire).map_err(|_| format!("{} bytes", wire.len()))?;
        let header = message.header();
        let mut parsed = Message {
            id: header.id(),
            flags: wire.get(2..4).map_or(0, |word| u16::from_be_bytes([word[0], word[1]])) & 0x87f0,
            opcode: header.opcode().to_int(),
            rcode: u16::from(header.rcode().to_int()),
            wire: wire.to_vec(),
            ..Message::default()
        };
        for question in message.question() {
            let question = question.map_err(|error| format!("question: {error}"))?;
            parsed.question.push((question.qname().fmt_with_dot().to_string(), question.qclass(), question.qtype()));
        }
        let (_, answer, authority, additional) = message.sections().map_err(|error| error.to_string())?;
        for (place, section) in [answer, authority, additional].into_iter().enumerate() {
            for record in section {
                let record = record.map_err(|error| format!("section {}: {error}", SECTIONS[place]))?;
                match record.rtype() {
                    Rtype::OPT => {
                        let edns = Edns::parse(&record)?;
                        parsed.rcode |= (record.ttl().as_secs() >> 24 << 4) as u16;
                        parsed.edns.push(edns);
                    }
                    _ => parsed.sections[place].push(Record::parse(&record)?),
                }
            }
        }
        let counts = message.header_counts();
        let counted = [counts.ancount(), counts.nscount(), counts.arcount()].map(usize::from).iter().sum::<usize>();
        let read = parsed.sections.iter().map(Vec::len).sum::<usize>() + parsed.edns.len();
        if counted != read {
            return Err(format!("the header counts {counted} records, there are {read}"));
        }
        Ok(parsed)
    }

    /// INFO-CODE and EXTRA-TEXT of the first Extended DNS Error.
    pub fn ede(&self) -> Option<(u16, String)> {
        let mut options = self.edns.iter().flat_map(|edns| &edns.options);
        let (_, data) = options.find(|(code, _)| *code == OPTION_EDE)?;
        let (code, text) = data.split_first_chunk::<2>()?;
        Some((u16::from_be_bytes(*code), String::from_utf8_lossy(text).into_owned()))
    }
}

impl Record {
    fn parse(record: &ParsedRecord<'_, &[u8]>) -> Result<Record, String> {
        let known: domain::base::Record<_, AllRecordData<_, _>> =
            record.to_any_record().map_err(|error| format!("{} {}: {error}", record.owner(), record.rtype()))?;
        Ok(Record {
            owner: record.owner().fmt_with_dot().to_string(),
            class: record.class(),
            ttl_s: record.ttl().as_secs(),
            rtype: record.rtype(),
            data: known.data().to_string(),
        })
    }

    /// Whether two records say the same; letter case and TTL only count when asked for.
    pub fn equals(&self, other: &Record, ttl: bool, case: bool) -> bool {
        let text = |a: &str, b: &str| if case { a == b } else { a.eq_ignore_ascii_case(b) };
        text(&self.owner, &other.owner)
            && text(&self.data, &other.data)
            && (self.class, self.rtype) == (other.class, other.rtype)
            && (!ttl || self.ttl_s == other.ttl_s)
    }
}

impl Edns {
    fn parse(record: &ParsedRecord<'_, &[u8]>) -> Result<Edns, String> {
        let wrong = |error| format!("OPT: {error}");
        let opt = record.to_record::<Opt<_>>().map_err(wrong)?.ok_or("OPT: another class")?;
        let mut options = Vec::new();
        for option in opt.data().iter::<UnknownOptData<_>>() {
            let option = option.map_err(wrong)?;
            options.push((option.code().to_int(), option.data().to_vec()));
        }
        let ttl = record.ttl().as_secs();
        Ok(Edns { size: record.class().to_int(), version: (ttl >> 16) as u8, flags: ttl as u16, options })
    }
}

/// What a message is to be composed of.
#[derive(Clone, Debug, Default)]
pub struct Draft {
    pub id: u16,
    pub flags: u16,
    pub opcode: u8,
    pub rcode: u16,
    /// `name class type`.
    pub question: Vec<(Name<Vec<u8>>, Rtype, Class)>,
    pub sections: [Vec<ScannedRecord>; 3],
    pub edns: Vec<Edns>,
}

impl Draft {
    /// Composes the message; names in records are compressed when `compressed`, as servers do, which loses their letter case
    /// where it differs from the first one's.
    pub fn compose(&self, compressed: bool) -> Result<Vec<u8>, String> {
        match compressed {
            true => self.compose_into(TreeCompressor::new(Vec::new())).map(TreeCompressor::into_target),
            false => self.compose_into(Vec::new()),
        }
    }

    fn compose_into<Target: Composer>(&self, target: Target) -> Result<Target, String> {
        let full = |_| "the message is too long".to_owned();
        let mut builder = MessageBuilder::from_target(target).map_err(|_| "no room for a header".to_owned())?;
        let header = builder.header_mut();
        header.set_id(self.id);
        header.set_opcode(Opcode::from_int(self.opcode));
        header.set_rcode(Rcode::checked_from_int((self.rcode & 0x0f) as u8).unwrap_or(Rcode::NOERROR));
        let is_set = |name: &str| FLAGS.iter().any(|(flag, bit)| *flag == name && self.flags & bit != 0);
        header.set_qr(is_set("QR"));
        header.set_aa(is_set("AA"));
        header.set_tc(is_set("TC"));
        header.set_rd(is_set("RD"));
        header.set_ra(is_set("RA"));
        header.set_z(is_set("Z"));
        header.set_ad(is_set("AD"));
        header.set_cd(is_set("CD"));
        let mut builder = builder.question();
        for (name, qtype, class) in &self.question {
            builder.push((name, *qtype, *class)).map_err(full)?;
        }
        let [answer, authority, additional] = &self.sections;
        let mut builder = builder.answer();
        for record in answer {
            builder.push(record).map_err(full)?;
        }
        let mut builder = builder.authority();
        for record in authority {
            builder.push(record).map_err(full)?;
        }
        let mut builder = builder.additional();
        for record in additional {
            builder.push(record).map_err(full)?;
        }
        for edns in &self.edns {
            let mut data = Vec::new();
            for (code, option) in &edns.options {
                data.extend(code.to_be_bytes());
                data.extend((option.len() as u16).to_be_bytes());
                data.extend(option);
            }
            let ttl = u32::from(self.rcode >> 4) << 24 | u32::from(edns.version) << 16 | u32::from(edns.flags);
            let data = UnknownRecordData::from_octets(Rtype::OPT, data).map_err(|error| error.to_string())?;
            let class = Class::from_int(edns.size);
            builder.push((Name::root_ref(), class, Ttl::from_secs(ttl), data)).map_err(full)?;
        }
        Ok(builder.finish())
    }
}

/// Reads a record in presentation format; class and TTL may be left out.
pub fn parse_record(line: &str) -> Result<ScannedRecord, String> {
    // The reader takes the class of the first record for that of the zone, unless it has a default.
    read_record(line, None).or_else(|_| read_record(line, Some(Class::IN)))
}

fn read_record(line: &str, class: Option<Class>) -> Result<ScannedRecord, String> {
    let text = format!("$TTL {TTL_S_DEFAULT}\n{line}\n");
    let mut zone = Zonefile::load(&mut text.as_bytes()).map_err(|error| error.to_string())?;
    zone.set_origin(Name::root_bytes());
    if let Some(class) = class {
        zone.set_default_class(class);
    }
    match zone.next_entry() {
        Ok(Some(ZoneEntry::Record(record))) => Ok(record),
        Ok(_) => Err(format!("`{line}` is no record")),
        Err(error) => Err(format!("`{line}`: {error}")),
    }
}

/// Reads `name class type`, or `name type`.
pub fn parse_question(line: &str) -> Result<(Name<Vec<u8>>, Rtype, Class), String> {
    let words: Vec<&str> = line.split_whitespace().collect();
    let (name, class, rtype) = match words[..] {
        [name, class, rtype] => (name, class, rtype),
        [name, rtype] => (name, "IN", rtype),
        _ => return Err(format!("`{line}` is no question; write `name. IN A`")),
    };
    Ok((
        name.parse().map_err(|error| format!("`{name}`: {error}"))?,
        rtype.parse().map_err(|_| format!("unknown type `{rtype}`"))?,
        class.parse().map_err(|_| format!("unknown class `{class}`"))?,
    ))
}

const SECTIONS: [&str; 3] = ["ANSWER", "AUTHORITY", "ADDITIONAL"];

impl fmt::Display for Record {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { owner, class, ttl_s, rtype, data } = self;
        write!(f, "{owner}\t{ttl_s}\t{class}\t{rtype}\t{data}")
    }
}

impl fmt::Display for Message {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let opcode = Opcode::from_int(self.opcode);
        writeln!(f, ";; ->>HEADER<<- opcode: {opcode}, status: {}, id: {}", rcode_name(self.rcode), self.id)?;
        let flags = FLAGS.iter().filter(|(_, bit)| self.flags & bit != 0).map(|(name, _)| name.to_lowercase());
        writeln!(f, ";; flags: {}; {} bytes", flags.collect::<Vec<_>>().join(" "), self.wire.len())?;
        for Edns { size, version, flags, options } in &self.edns {
            let dnssec_ok = if flags & Edns::DO != 0 { " do" } else { "" };
            writeln!(f, "; EDNS: version: {version}, flags:{dnssec_ok} ({flags:#06x}); udp: {size}")?;
            for (code, data) in options.iter().filter(|(code, _)| *code != OPTION_EDE) {
                writeln!(f, "; OPTION {code}: {}", hex(data))?;
            }
        }
        if let Some((code, text)) = self.ede() {
            writeln!(f, "; EDE: {code}: \"{text}\"")?;
        }
        writeln!(f, ";; QUESTION SECTION:")?;
        for (name, class, rtype) in &self.question {
            writeln!(f, ";{name}\t{class}\t{rtype}")?;
        }
        for (title, records) in SECTIONS.iter().zip(&self.sections).filter(|(_, records)| !records.is_empty()) {
            writeln!(f, ";; {title} SECTION:")?;
            for record in records {
                writeln!(f, "{record}")?;
            }
        }
        Ok(())
    }
}

/// An extended RCODE as `dig` writes it.
pub fn rcode_name(rcode: u16) -> String {
    RCODES
        .iter()
        .find(|(_, number)| *number == rcode)
        .map_or_else(|| format!("RCODE{rcode}"), |(name, _)| (*name).into())
}

/// RCODEs that scenarios may name.
pub const RCODES: [(&str, u16); 13] = [
    ("NOERROR", 0),
    ("FORMERR", 1),
    ("SERVFAIL", 2),
    ("NXDOMAIN", 3),
    ("NOTIMP", 4),
    ("REFUSED", 5),
    ("YXDOMAIN", 6),
    ("YXRRSET", 7),
    ("NXRRSET", 8),
    ("NOTAUTH", 9),
    ("NOTZONE", 10),
    ("BADVERS", 16),
    ("BADCOOKIE", 23),
];

/// OPCODEs that scenarios may name.
pub const OPCODES: [(&str, u8); 6] =
    [("QUERY", 0), ("IQUERY", 1), ("STATUS", 2), ("NOTIFY", 4), ("UPDATE", 5), ("DSO", 6)];

/// Octets in hexadecimal.
pub fn hex(octets: &[u8]) -> String {
    octets.iter().map(|octet| format!("{octet:02x}")).collect()
}

/// Reads octets in hexadecimal; spaces do not count.
pub fn parse_hex(text: &str) -> Result<Vec<u8>, String> {
    let digits: Vec<u8> = text.chars().filter(|c| !c.is_whitespace()).map(|c| c as u8).collect();
    if !digits.len().is_multiple_of(2) {
        return Err("an odd number of hexadecimal digits".to_owned());
    }
    let octet = |pair: &[u8]| {
        let pair = std::str::from_utf8(pair).ok().filter(|pair| pair.bytes().all(|c| c.is_ascii_hexdigit()));
        pair.and_then(|pair| u8::from_str_radix(pair, 16).ok()).ok_or_else(|| "not hexadecimal".to_owned())
    };
    digits.chunks(2).map(octet).collect()
}
