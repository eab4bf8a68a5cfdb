//! Is this response the right answer to that question?
//!
//! Invariant: reads any octets without panicking, and says which of the reasons first made the answer wrong.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use serde::Serialize;

use crate::questions::{Expect, HEADER_BYTES};

const RCODE_NOERROR: u8 = 0;
const RCODE_SERVFAIL: u8 = 2;
const RCODE_NXDOMAIN: u8 = 3;
const RCODE_REFUSED: u8 = 5;
const TYPE_A: u16 = 1;
const TYPE_AAAA: u16 = 28;

/// Why an answer is wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Wrong {
    /// QR not set, or another opcode.
    NotAResponse,
    /// TC set: our questions all fit.
    Truncated,
    /// The question section differs, be it in one letter's case.
    OtherQuestion,
    /// Not the response code of the expectation.
    Rcode,
    /// Not the addresses of the expectation.
    Address,
    /// Records where none may be, or none where one must be.
    Records,
    /// The answer section cannot be read.
    Malformed,
}

impl fmt::Display for Wrong {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::NotAResponse => "not a response",
            Self::Truncated => "truncated",
            Self::OtherQuestion => "another question",
            Self::Rcode => "another rcode",
            Self::Address => "another address",
            Self::Records => "records missing or too many",
            Self::Malformed => "malformed",
        })
    }
}

/// Checks `response`, whose id the caller has matched, against the question that was sent and its type.
pub fn check(response: &[u8], question_section: &[u8], rtype: u16, expect: Expect) -> Result<(), Wrong> {
    let Some((header, rest)) = response.split_first_chunk::<HEADER_BYTES>() else { return Err(Wrong::Malformed) };
    let [_, _, flags_hi, flags_lo, _, questions, answers_hi, answers_lo, ..] = *header;
    if flags_hi & 0xf8 != 0x80 {
        return Err(Wrong::NotAResponse);
    }
    if questions != 1 || !rest.starts_with(question_section) {
        return Err(Wrong::OtherQuestion);
    }
    let rcode = flags_lo & 0x0f;
    let answers = u16::from_be_bytes([answers_hi, answers_lo]);
    let wanted_rcode = match expect {
        Expect::Any => return Ok(()),
        Expect::Nxdomain => RCODE_NXDOMAIN,
        Expect::Refused => RCODE_REFUSED,
        Expect::Servfail => RCODE_SERVFAIL,
        Expect::Answered | Expect::Blocked | Expect::Nodata | Expect::Address(_) => RCODE_NOERROR,
    };
    if flags_hi & 0x02 != 0 {
        return Err(Wrong::Truncated);
    }
    if rcode != wanted_rcode {
        return Err(Wrong::Rcode);
    }
    if rcode != RCODE_NOERROR {
        return Ok(());
    }
    let at = HEADER_BYTES + question_section.len();
    check_answers(Answers { message: response, at, left: answers }, answers, rtype, expect)
}

fn check_answers(records: Answers<'_>, count: u16, rtype: u16, expect: Expect) -> Result<(), Wrong> {
    match expect {
        Expect::Nodata if count == 0 => Ok(()),
        Expect::Nodata => Err(Wrong::Records),
        Expect::Blocked => match rtype {
            TYPE_A => only_address(records, IpAddr::V4(Ipv4Addr::UNSPECIFIED)),
            TYPE_AAAA => only_address(records, IpAddr::V6(Ipv6Addr::UNSPECIFIED)),
            _ if count == 0 => Ok(()),
            _ => Err(Wrong::Records),
        },
        Expect::Address(address) => only_address(records, address),
        Expect::Answered if count == 0 => Err(Wrong::Records),
        Expect::Answered => {
            for address in records {
                if address?.is_some_and(|address| address.is_unspecified()) {
                    return Err(Wrong::Address);
                }
            }
            Ok(())
        }
        Expect::Any | Expect::Nxdomain | Expect::Refused | Expect::Servfail => Ok(()),
    }
}

/// At least one address, and no other of the wanted one's family.
fn only_address(records: Answers<'_>, wanted: IpAddr) -> Result<(), Wrong> {
    let mut found = false;
    for address in records {
        match address? {
            Some(address) if address == wanted => found = true,
            Some(address) if address.is_ipv4() == wanted.is_ipv4() => return Err(Wrong::Address),
            _ => {}
        }
    }
    if found { Ok(()) } else { Err(Wrong::Records) }
}

/// The address in each record of the answer section; none for records of other types.
struct Answers<'a> {
    message: &'a [u8],
    at: usize,
    left: u16,
}

impl Iterator for Answers<'_> {
    type Item = Result<Option<IpAddr>, Wrong>;

    fn next(&mut self) -> Option<Self::Item> {
        self.left = self.left.checked_sub(1)?;
        let record = self.read_record();
        if record.is_none() {
            self.left = 0;
        }
        Some(record.ok_or(Wrong::Malformed))
    }
}

impl Answers<'_> {
    fn read_record(&mut self) -> Option<Option<IpAddr>> {
        let mut at = self.at;
        loop {
            let length = *self.message.get(at)?;
            match length {
                0 => break at += 1,
                // A compression pointer ends the name (RFC 1035 §4.1.4); where it points does not matter here.
                0xc0.. => break at += 2,
                1..=63 => at += 1 + usize::from(length),
                _ => return None,
            }
        }
        let (fixed, rest) = self.message.get(at..)?.split_first_chunk::<10>()?;
        let rtype = u16::from_be_bytes([fixed[0], fixed[1]]);
        let rdata = rest.get(..usize::from(u16::from_be_bytes([fixed[8], fixed[9]])))?;
        self.at = at + 10 + rdata.len();
        Some(match rtype {
            TYPE_A => Some(IpAddr::from(<[u8; 4]>::try_from(rdata).ok()?)),
            TYPE_AAAA => Some(IpAddr::from(<[u8; 16]>::try_from(rdata).ok()?)),
            _ => None,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECTION: &[u8] = b"\x03ads\x04test\0\0\x01\0\x01";

    fn response(flags: [u8; 2], section: &[u8], records: &[&[u8]]) -> Vec<u8> {
        let mut message = vec![0, 7, flags[0], flags[1], 0, 1, 0, records.len() as u8, 0, 0, 0, 0];
        message.extend_from_slice(section);
        for record in records {
            message.extend_from_slice(record);
        }
        message
    }

    const ZERO: &[u8] = b"\xc0\x0c\0\x01\0\x01\0\0\0\x3c\0\x04\0\0\0\0";
    const ONE: &[u8] = b"\xc0\x0c\0\x01\0\x01\0\0\0\x3c\0\x04\xc0\0\x02\x01";
    const CNAME: &[u8] = b"\xc0\x0c\0\x05\0\x01\0\0\0\x3c\0\x03\x01y\0";

    fn judge(message: &[u8], expect: &str) -> Result<(), Wrong> {
        check(message, SECTION, 1, expect.parse().unwrap())
    }

    #[test]
    fn right_answers_pass_and_wrong_ones_are_named() {
        let blocked = response([0x81, 0x80], SECTION, &[ZERO]);
        assert_eq!(judge(&blocked, "blocked"), Ok(()));
        assert_eq!(judge(&blocked, "answered"), Err(Wrong::Address));
        assert_eq!(judge(&blocked, "nxdomain"), Err(Wrong::Rcode));
        assert_eq!(judge(&blocked, "nodata"), Err(Wrong::Records));
        let answered = response([0x81, 0x80], SECTION, &[CNAME, ONE]);
        assert_eq!(judge(&answered, "answered"), Ok(()));
        assert_eq!(judge(&answered, "192.0.2.1"), Ok(()));
        assert_eq!(judge(&answered, "192.0.2.2"), Err(Wrong::Address));
        assert_eq!(judge(&answered, "blocked"), Err(Wrong::Address));
        assert_eq!(judge(&response([0x81, 0x80], SECTION, &[ZERO, ONE]), "blocked"), Err(Wrong::Address));
        assert_eq!(judge(&response([0x81, 0x80], SECTION, &[]), "answered"), Err(Wrong::Records));
        assert_eq!(judge(&response([0x81, 0x83], SECTION, &[]), "nxdomain"), Ok(()));
    }

    #[test]
    fn a_query_sent_back_or_another_letter_case_is_no_answer() {
        assert_eq!(judge(&response([0x01, 0], SECTION, &[]), "any"), Err(Wrong::NotAResponse));
        let other = SECTION.to_ascii_uppercase();
        assert_eq!(judge(&response([0x81, 0], &other, &[]), "any"), Err(Wrong::OtherQuestion));
        assert_eq!(judge(&response([0x83, 0], SECTION, &[]), "answered"), Err(Wrong::Truncated));
    }

    #[test]
    fn every_truncation_is_refused() {
        let whole = response([0x81, 0x80], SECTION, &[CNAME, ONE]);
        for end in 0..whole.len() {
            assert!(judge(&whole[..end], "192.0.2.1").is_err(), "{end}");
        }
    }
}
