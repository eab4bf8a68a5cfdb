//! Resource records in presentation format, as policy zones, unbound and dnsmasq lists write them.
//!
//! The data of a record is read and composed by the `domain` crate. Invariant: data that leaves this file is uncompressed
//! wire format and fits a message.

use std::net::IpAddr;
use std::str::FromStr;

use corewall_sharding::name::Name;
use corewall_sharding::rule::AnswerRecord;
use domain::base::iana::Rtype;
use domain::base::rdata::ComposeRecordData;
use domain::base::scan::IterScanner;
use domain::rdata::ZoneRecordData;
use domain::zonefile::inplace::{Entry, Zonefile};

use super::report::RefuseReason;

/// Octets of one record's data: what fits an answer over TCP beside the question.
const RDATA_BYTES_MAX: usize = 16 * 1024;
/// Seconds in the longest TTL (RFC 2181 §8).
const TTL_S_MAX: u64 = (1 << 31) - 1;

type Data = ZoneRecordData<Vec<u8>, domain::base::Name<Vec<u8>>>;

/// Reads a type mnemonic, `TYPE123` included, in any case.
pub fn read_type(text: &str) -> Option<Rtype> {
    let numbered = text.len() > 4 && text.get(..4).is_some_and(|prefix| prefix.eq_ignore_ascii_case("TYPE"));
    // Case is folded here because the crate takes the numbered form in upper case alone.
    if numbered { Rtype::from_str(&text.to_ascii_uppercase()).ok() } else { Rtype::from_mnemonic(text.as_bytes()) }
}

/// Reads the data of one record from its tokens, quotes already taken off. Relative names are taken as absolute.
///
/// # Errors
/// [`RefuseReason::BadRecord`] for data that is not of this type, or that has more after it.
pub fn read_data(rtype: Rtype, tokens: &[&str]) -> Result<Box<[u8]>, RefuseReason> {
    const BAD: RefuseReason = RefuseReason::BadRecord;
    let mut wire = Vec::new();
    if matches!(rtype, Rtype::SVCB | Rtype::HTTPS) || tokens.first() == Some(&"\\#") {
        read_as_zone(rtype, tokens, &mut wire).ok_or(BAD)?;
    } else {
        let mut scanner = IterScanner::<_, Vec<u8>>::new(tokens.iter().copied());
        let data = Data::scan(rtype, &mut scanner).map_err(|_| BAD)?;
        data.compose_rdata(&mut wire).map_err(|_| BAD)?;
        if !scanner.is_exhausted() {
            return Err(BAD);
        }
    }
    if wire.len() > RDATA_BYTES_MAX { Err(BAD) } else { Ok(wire.into()) }
}

/// Service parameters (RFC 9460 §2.1) and data of unknown types (RFC 3597 §5) are read by the crate's scanner of master
/// files alone; the scanner of tokens, which costs less, knows neither.
fn read_as_zone(rtype: Rtype, tokens: &[&str], wire: &mut Vec<u8>) -> Option<()> {
    let text = format!(". 0 IN {rtype} {}\n", tokens.join(" "));
    let mut zone = Zonefile::from(text.as_str());
    zone.set_origin(domain::base::Name::root_bytes());
    let Some(Entry::Record(record)) = zone.next_entry().ok()? else { return None };
    // One entry, and nothing that a line feed or parenthesis in a token made of it.
    zone.next_entry().ok()?.is_none().then_some(())?;
    record.data().compose_rdata(wire).ok()
}

/// The A or AAAA record of an address.
pub fn address_record(address: IpAddr, ttl_s: Option<u32>) -> AnswerRecord {
    let (rtype, rdata): (Rtype, Box<[u8]>) = match address {
        IpAddr::V4(address) => (Rtype::A, Box::new(address.octets())),
        IpAddr::V6(address) => (Rtype::AAAA, Box::new(address.octets())),
    };
    AnswerRecord { rtype: rtype.to_int(), ttl_s, rdata }
}

/// A record of any type from its tokens.
///
/// # Errors
/// As [`read_data`].
pub fn record(rtype: Rtype, tokens: &[&str], ttl_s: Option<u32>) -> Result<AnswerRecord, RefuseReason> {
    Ok(AnswerRecord { rtype: rtype.to_int(), ttl_s, rdata: read_data(rtype, tokens)? })
}

/// Reads a TTL: seconds, or numbers with units as master files have them (`1h30m`).
pub fn read_ttl(text: &str) -> Option<u32> {
    let mut total = 0u64;
    let mut number: Option<u64> = None;
    for octet in text.bytes() {
        let unit = match octet.to_ascii_lowercase() {
            digit @ b'0'..=b'9' => {
                number = Some(number.unwrap_or(0).checked_mul(10)?.checked_add(u64::from(digit - b'0'))?);
                continue;
            }
            b's' => 1,
            b'm' => 60,
            b'h' => 3_600,
            b'd' => 86_400,
            b'w' => 604_800,
            _ => return None,
        };
        total = total.checked_add(number.take()?.checked_mul(unit)?)?;
    }
    match number {
        Some(seconds) => total = total.checked_add(seconds)?,
        None if text.is_empty() => return None,
        None => {}
    }
    u32::try_from(total.min(TTL_S_MAX)).ok()
}

/// Reads a name of a zone file, where any octet may stand in a label (RFC 2181 §11).
///
/// # Errors
/// That of the name.
pub fn read_zone_name(text: &str) -> Result<Name, RefuseReason> {
    Name::from_text(text).map_err(RefuseReason::Name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn data_is_composed_in_wire_format() {
        for (rtype, tokens, wire) in [
            ("A", vec!["192.0.2.1"], &b"\xc0\0\x02\x01"[..]),
            ("cname", vec!["a.example."], b"\x01a\x07example\0"),
            ("MX", vec!["10", "mx.example"], b"\0\x0a\x02mx\x07example\0"),
            ("TXT", vec!["two words", "x"], b"\x09two words\x01x"),
            ("SRV", vec!["1", "2", "53", "."], b"\0\x01\0\x02\0\x35\0"),
            ("HTTPS", vec!["1", ".", "alpn=h2"], b"\0\x01\0\0\x01\0\x03\x02h2"),
            ("TYPE65280", vec!["\\#", "2", "abcd"], b"\xab\xcd"),
        ] {
            let rtype = read_type(rtype).unwrap();
            assert_eq!(read_data(rtype, &tokens).as_deref(), Ok(wire), "{rtype}");
        }
    }

    #[test]
    fn data_of_another_type_or_with_a_rest_is_refused() {
        for (rtype, tokens) in [
            ("A", vec!["a.example"]),
            ("A", vec!["192.0.2.1", "x"]),
            ("MX", vec!["10"]),
            ("AAAA", vec![]),
            ("MX", vec![]),
        ] {
            assert_eq!(read_data(read_type(rtype).unwrap(), &tokens), Err(RefuseReason::BadRecord), "{rtype}");
        }
        assert!(read_type("NOSUCH").is_none() && read_type("TYPE").is_none());
    }

    #[test]
    fn ttls_have_units() {
        for (text, seconds) in [("0", Some(0)), ("3600", Some(3_600)), ("1h30M", Some(5_400)), ("1w", Some(604_800))] {
            assert_eq!(read_ttl(text), seconds, "{text}");
        }
        for text in ["", "h", "1x", "-1", "99999999999999999999", "A"] {
            assert_eq!(read_ttl(text), None, "{text}");
        }
        assert_eq!(read_ttl("4294967295"), Some(2_147_483_647));
    }
}
