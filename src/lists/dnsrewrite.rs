//! The value of `$dnsrewrite`: what a rule in Adblock syntax answers instead of the block mode.
//!
//! Two forms, as AdGuard documents them: a keyword, an address or a name alone, or `RCODE;TYPE;VALUE`.

use corewall_sharding::name::Name;
use corewall_sharding::rule::{AnswerRecord, BlockMode};
use domain::base::iana::Rtype;

use super::names::{read_address, read_name};
use super::records::{address_record, read_type, record};
use super::report::RefuseReason;

/// What a `$dnsrewrite` asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Rewrite {
    /// No value: an exception for every rewrite of the names, or, on a blocking rule, an empty answer.
    Empty,
    /// A response code, or an empty answer.
    Mode(BlockMode),
    /// A CNAME to this name.
    Alias(Name),
    /// A record.
    Record(AnswerRecord),
}

/// Reads the value of a `$dnsrewrite` modifier.
///
/// # Errors
/// [`RefuseReason::BadModifier`] for what AdGuard's engine refuses too, [`RefuseReason::UnsupportedModifier`] for response
/// codes and types that an answer of ours cannot have.
pub fn read_rewrite(value: &str) -> Result<Rewrite, RefuseReason> {
    let mut parts = value.splitn(3, ';');
    match (parts.next().unwrap_or_default(), parts.next(), parts.next()) {
        ("", None, None) => Ok(Rewrite::Empty),
        (short, None, None) => read_short(short),
        (rcode, Some(rtype), Some(data)) => read_full(rcode, rtype, data),
        _ => Err(RefuseReason::BadModifier),
    }
}

fn read_short(value: &str) -> Result<Rewrite, RefuseReason> {
    // A keyword is all upper case; a name of one label in upper case is read as one too, as AdGuard does.
    if value.bytes().all(|octet| octet.is_ascii_uppercase()) {
        return read_rcode(value);
    }
    if let Some(address) = read_address(value.as_bytes()) {
        return Ok(Rewrite::Record(address_record(address, None)));
    }
    read_target(value).map(Rewrite::Alias)
}

fn read_full(rcode: &str, rtype: &str, data: &str) -> Result<Rewrite, RefuseReason> {
    let mode = read_rcode(&rcode.to_ascii_uppercase())?;
    if mode != Rewrite::Mode(BlockMode::Nodata) || (rtype.is_empty() && data.is_empty()) {
        return Ok(mode);
    }
    let rtype = read_type(rtype).ok_or(RefuseReason::BadModifier)?;
    match rtype {
        Rtype::CNAME => read_target(data).map(Rewrite::Alias),
        Rtype::TXT => text_record(data),
        Rtype::A | Rtype::AAAA | Rtype::MX | Rtype::PTR | Rtype::SRV | Rtype::HTTPS | Rtype::SVCB => {
            let tokens: Vec<&str> = data.split_ascii_whitespace().collect();
            record(rtype, &tokens, None).map(Rewrite::Record).map_err(|_| RefuseReason::BadModifier)
        }
        // AdGuard's engine knows no values of other types and answers with none.
        _ => Ok(Rewrite::Mode(BlockMode::Nodata)),
    }
}

fn read_rcode(rcode: &str) -> Result<Rewrite, RefuseReason> {
    match rcode {
        "NOERROR" => Ok(Rewrite::Mode(BlockMode::Nodata)),
        "NXDOMAIN" => Ok(Rewrite::Mode(BlockMode::Nxdomain)),
        "REFUSED" => Ok(Rewrite::Mode(BlockMode::Refused)),
        "SERVFAIL" | "FORMERR" | "NOTIMP" => Err(RefuseReason::UnsupportedModifier),
        _ => Err(RefuseReason::BadModifier),
    }
}

fn read_target(text: &str) -> Result<Name, RefuseReason> {
    read_name(text.as_bytes()).map_err(|_| RefuseReason::BadModifier)
}

/// The whole value is one text; a character-string holds 255 octets of it (RFC 1035 §3.3).
fn text_record(text: &str) -> Result<Rewrite, RefuseReason> {
    let mut rdata = Vec::with_capacity(text.len() + 1);
    for piece in text.as_bytes().chunks(255) {
        rdata.push(u8::try_from(piece.len()).unwrap_or(u8::MAX));
        rdata.extend_from_slice(piece);
    }
    if rdata.is_empty() {
        rdata.push(0);
    }
    Ok(Rewrite::Record(AnswerRecord { rtype: Rtype::TXT.to_int(), ttl_s: None, rdata: rdata.into() }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn short_and_full_forms_are_read() {
        let record = |rtype: Rtype, rdata: &[u8]| {
            Rewrite::Record(AnswerRecord { rtype: rtype.to_int(), ttl_s: None, rdata: rdata.into() })
        };
        for (value, rewrite) in [
            ("", Rewrite::Empty),
            ("REFUSED", Rewrite::Mode(BlockMode::Refused)),
            ("NXDOMAIN;;", Rewrite::Mode(BlockMode::Nxdomain)),
            ("nxdomain;A;1.2.3.4", Rewrite::Mode(BlockMode::Nxdomain)),
            ("NOERROR;;", Rewrite::Mode(BlockMode::Nodata)),
            ("192.0.2.1", record(Rtype::A, &[192, 0, 2, 1])),
            ("::1", record(Rtype::AAAA, &[0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1])),
            ("NOERROR;A;192.0.2.1", record(Rtype::A, &[192, 0, 2, 1])),
            ("NOERROR;TXT;hello; world", record(Rtype::TXT, b"\x0chello; world")),
            ("NOERROR;MX;32 mx.example", record(Rtype::MX, b"\0\x20\x02mx\x07example\0")),
            ("NOERROR;PTR;host.example.", record(Rtype::PTR, b"\x04host\x07example\0")),
            ("NOERROR;HTTPS;32 x.example alpn=h3", record(Rtype::HTTPS, b"\0\x20\x01x\x07example\0\0\x01\0\x03\x02h3")),
            ("NOERROR;SRV;1 2 53 .", record(Rtype::SRV, b"\0\x01\0\x02\0\x35\0")),
            ("safe.example", Rewrite::Alias("safe.example".parse().unwrap())),
            ("NOERROR;CNAME;safe.example", Rewrite::Alias("safe.example".parse().unwrap())),
        ] {
            assert_eq!(read_rewrite(value), Ok(rewrite), "{value}");
        }
    }

    #[test]
    fn values_that_mean_nothing_are_refused() {
        for value in
            ["NOSUCH", "NOERROR;A", "NOERROR;A;::1", "NOERROR;MX;x", "x/y", "NOERROR;NOSUCH;x", "WHAT;A;1.2.3.4"]
        {
            assert_eq!(read_rewrite(value), Err(RefuseReason::BadModifier), "{value}");
        }
        assert_eq!(read_rewrite("SERVFAIL"), Err(RefuseReason::UnsupportedModifier));
    }
}
