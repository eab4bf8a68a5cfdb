//! The file of questions and the packets made of it.
//!
//! One question a line: `NAME TYPE [EXPECT]`, `#` begins a comment. Without `EXPECT` any answer to the question is right.
//! Invariant: every packet in a [`Questions`] is a whole query with id 0, so the loop only copies it and writes an id.

use std::fmt;
use std::net::IpAddr;
use std::path::Path;
use std::str::FromStr;

/// Octets of a DNS header (RFC 1035 §4.1.1).
pub const HEADER_BYTES: usize = 12;
/// Octets of the longest query we make: header, name, type and class, an empty OPT.
pub const QUERY_BYTES_MAX: usize = HEADER_BYTES + 255 + 4 + 11;
/// Payload size in the OPT record (RFC 9715).
const EDNS_PAYLOAD_BYTES: u16 = 1_232;

/// What a right answer is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Expect {
    /// Any response that echoes id and question.
    Any,
    /// NOERROR with an answer, none of whose addresses is `0.0.0.0` or `::`.
    Answered,
    /// Block mode `zero`: `0.0.0.0` or `::`, and no answer record for types without an address.
    Blocked,
    /// NXDOMAIN.
    Nxdomain,
    /// NOERROR without an answer record.
    Nodata,
    /// REFUSED.
    Refused,
    /// SERVFAIL.
    Servfail,
    /// NOERROR with this address among the answers, and no other address of its family.
    Address(IpAddr),
}

impl FromStr for Expect {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        Ok(match text {
            "any" => Self::Any,
            "answered" => Self::Answered,
            "blocked" => Self::Blocked,
            "nxdomain" => Self::Nxdomain,
            "nodata" => Self::Nodata,
            "refused" => Self::Refused,
            "servfail" => Self::Servfail,
            address => Self::Address(address.parse().map_err(|_| {
                format!(
                    "`{address}` is neither any, answered, blocked, nxdomain, nodata, refused, servfail nor an address"
                )
            })?),
        })
    }
}

/// One query and what its answer must be.
#[derive(Clone, Copy, Debug)]
pub struct Question {
    start: u32,
    len: u16,
    question_end: u16,
    /// RR type number.
    pub rtype: u16,
    /// The right answer.
    pub expect: Expect,
}

/// How packets are made of the lines.
#[derive(Clone, Copy, Debug, Default)]
pub struct PacketOptions {
    /// Adds an OPT record with a payload of 1232 octets.
    pub edns: bool,
    /// Writes letters in random case, so that the echo is checked (0x20).
    pub mixed_case: bool,
    /// Sets RD; a resolver needs it, an authoritative server does not mind it.
    pub recursion_desired: bool,
    /// Seed of the order and the letter case.
    pub seed: u64,
}

/// All questions of a run, in the shuffled order in which they are asked.
#[derive(Debug)]
pub struct Questions {
    packets: Vec<u8>,
    questions: Vec<Question>,
}

/// A line that is not a question.
#[derive(Debug)]
pub struct QuestionError {
    file: String,
    line: usize,
    reason: String,
}

impl fmt::Display for QuestionError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}: {}", self.file, self.line, self.reason)
    }
}

impl std::error::Error for QuestionError {}

impl Questions {
    /// Reads, encodes and shuffles a question file.
    pub fn read(path: &Path, options: PacketOptions) -> Result<Self, QuestionError> {
        let fail = |line, reason| QuestionError { file: path.display().to_string(), line, reason };
        let text = std::fs::read_to_string(path).map_err(|error| fail(0, error.to_string()))?;
        Self::parse(&text, options).map_err(|(line, reason)| fail(line, reason))
    }

    /// The same from text; an error is a line number and a reason.
    pub fn parse(text: &str, options: PacketOptions) -> Result<Self, (usize, String)> {
        let mut lines: Vec<(usize, &str)> = (1..)
            .zip(text.lines())
            .map(|(number, line)| (number, line.split('#').next().unwrap_or_default().trim()))
            .filter(|(_, line)| !line.is_empty())
            .collect();
        let mut random = Random::new(options.seed);
        random.shuffle(&mut lines);
        let mut all =
            Self { packets: Vec::with_capacity(lines.len() * 48), questions: Vec::with_capacity(lines.len()) };
        for (number, line) in lines {
            all.push(line, options, &mut random).map_err(|reason| (number, reason))?;
        }
        if all.questions.is_empty() {
            return Err((0, "no question in the file".into()));
        }
        Ok(all)
    }

    fn push(&mut self, line: &str, options: PacketOptions, random: &mut Random) -> Result<(), String> {
        let mut fields = line.split_ascii_whitespace();
        let name = fields.next().unwrap_or_default();
        let rtype = type_number(fields.next().unwrap_or("A"))?;
        let expect = fields.next().unwrap_or("any").parse()?;
        if let Some(extra) = fields.next() {
            return Err(format!("`{extra}` after NAME TYPE EXPECT"));
        }
        let start = self.packets.len();
        let flags_hi = u8::from(options.recursion_desired);
        self.packets.extend_from_slice(&[0, 0, flags_hi, 0, 0, 1, 0, 0, 0, 0, 0, u8::from(options.edns)]);
        push_name(&mut self.packets, name)?;
        if options.mixed_case {
            for octet in &mut self.packets[start + HEADER_BYTES..] {
                if octet.is_ascii_alphabetic() && random.next() & 1 == 1 {
                    *octet ^= 0x20;
                }
            }
        }
        self.packets.extend_from_slice(&rtype.to_be_bytes());
        self.packets.extend_from_slice(&[0, 1]);
        let question_end = (self.packets.len() - start) as u16;
        if options.edns {
            self.packets.extend_from_slice(&[0, 0, 41]);
            self.packets.extend_from_slice(&EDNS_PAYLOAD_BYTES.to_be_bytes());
            self.packets.extend_from_slice(&[0; 6]);
        }
        let len = (self.packets.len() - start) as u16;
        let start = u32::try_from(start).map_err(|_| "more than 4 GiB of questions".to_string())?;
        self.questions.push(Question { start, len, question_end, rtype, expect });
        Ok(())
    }

    /// How many there are; never zero.
    #[allow(clippy::len_without_is_empty)]
    pub fn len(&self) -> usize {
        self.questions.len()
    }

    /// The question at `index`, which is taken modulo the number of questions.
    pub fn question(&self, index: usize) -> &Question {
        &self.questions[index % self.questions.len()]
    }

    /// The query's packet with id 0.
    pub fn packet(&self, question: &Question) -> &[u8] {
        &self.packets[question.start as usize..][..usize::from(question.len)]
    }

    /// The packet's octets from the name to the class, which an answer must repeat.
    pub fn question_section(&self, question: &Question) -> &[u8] {
        &self.packet(question)[HEADER_BYTES..usize::from(question.question_end)]
    }
}

fn push_name(packet: &mut Vec<u8>, name: &str) -> Result<(), String> {
    let before = packet.len();
    for label in name.strip_suffix('.').unwrap_or(name).split('.').filter(|_| name != ".") {
        if label.is_empty() || label.len() > 63 {
            return Err(format!("`{name}` has a label of {} octets", label.len()));
        }
        packet.push(label.len() as u8);
        packet.extend_from_slice(label.as_bytes());
    }
    packet.push(0);
    if packet.len() - before > 255 {
        return Err(format!("`{name}` is longer than 255 octets"));
    }
    Ok(())
}

fn type_number(text: &str) -> Result<u16, String> {
    Ok(match text {
        "A" => 1,
        "NS" => 2,
        "CNAME" => 5,
        "SOA" => 6,
        "PTR" => 12,
        "MX" => 15,
        "TXT" => 16,
        "AAAA" => 28,
        "SRV" => 33,
        "SVCB" => 64,
        "HTTPS" => 65,
        "ANY" => 255,
        "CAA" => 257,
        other => other
            .strip_prefix("TYPE")
            .and_then(|number| number.parse().ok())
            .ok_or_else(|| format!("`{other}` is no type this tool knows; write it as TYPE123"))?,
    })
}

/// A splitmix64 stream: enough for an order that can be repeated from its seed.
pub struct Random(u64);

impl Random {
    /// The stream of `seed`.
    pub fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// The next 64 bits.
    #[allow(clippy::should_implement_trait)]
    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// Puts the items in an order by chance.
    pub fn shuffle<T>(&mut self, items: &mut [T]) {
        for end in (1..items.len()).rev() {
            let other = (u128::from(self.next()) * (end as u128 + 1)) >> 64;
            items.swap(end, other as usize);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_becomes_a_query_with_its_expectation() {
        let options = PacketOptions { edns: true, recursion_desired: true, ..Default::default() };
        let questions = Questions::parse("# comment\n ads.example.com AAAA blocked # why\n", options).unwrap();
        let question = questions.question(7);
        assert_eq!((question.rtype, question.expect), (28, Expect::Blocked));
        let packet = questions.packet(question);
        assert_eq!(packet[..12], [0, 0, 1, 0, 0, 1, 0, 0, 0, 0, 0, 1]);
        assert_eq!(questions.question_section(question), b"\x03ads\x07example\x03com\0\0\x1c\0\x01");
        assert_eq!(packet[packet.len() - 11..], [0, 0, 41, 4, 208, 0, 0, 0, 0, 0, 0]);
    }

    #[test]
    fn a_bad_line_is_told_with_its_number() {
        for (text, line) in [
            ("a.com A\nb..com A", 2),
            ("a.com A maybe", 1),
            ("a.com WKS9", 1),
            ("a.com A any more", 1),
            ("# only\n", 0),
        ] {
            assert_eq!(Questions::parse(text, PacketOptions::default()).unwrap_err().0, line, "{text}");
        }
    }

    #[test]
    fn the_order_follows_the_seed_and_loses_no_line() {
        let text: String = (0..100).map(|number| format!("h{number}.example A 192.0.2.{number}\n")).collect();
        let order = |seed| {
            let questions = Questions::parse(&text, PacketOptions { seed, ..Default::default() }).unwrap();
            (0..100).map(|index| format!("{:?}", questions.question(index).expect)).collect::<Vec<_>>()
        };
        assert_eq!(order(1), order(1));
        assert_ne!(order(1), order(2));
        let (mut one, mut two) = (order(1), order(2));
        one.sort();
        two.sort();
        assert_eq!(one, two);
    }

    #[test]
    fn mixed_case_changes_letters_only() {
        let options = PacketOptions { mixed_case: true, seed: 5, ..Default::default() };
        let questions = Questions::parse("abcdefghijklmnopqrstuvwxyz-0123.example A", options).unwrap();
        let section = questions.question_section(questions.question(0));
        assert_ne!(section, section.to_ascii_lowercase());
        assert_eq!(section.to_ascii_lowercase(), b"\x1fabcdefghijklmnopqrstuvwxyz-0123\x07example\0\0\x01\0\x01");
    }
}
