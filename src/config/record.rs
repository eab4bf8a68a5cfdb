//! Record data in presentation format, as local records and typed answers are written.

use corewall_sharding::rule::AnswerRecord;
use domain::base::iana::Class;
use domain::base::rdata::ComposeRecordData;
use domain::zonefile::inplace::{Entry, Zonefile};

/// Reads record data as a master file has it (RFC 1035 §5.1, RFC 3597 for unknown types). Names are absolute, with or
/// without the final dot.
///
/// # Errors
/// What is wrong and what to write instead.
pub fn parse_rdata(rtype: &str, data: &str) -> Result<AnswerRecord, String> {
    let unreadable = |why: &str| format!("`{rtype} {data}` is no record ({why}); write type and data as in a zone file");
    let is_mnemonic = !rtype.is_empty() && rtype.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-');
    // What has a line break would be more than one record, and a type that is no mnemonic could be a TTL or a class.
    if !is_mnemonic || data.contains(['\n', '\r']) {
        return Err(unreadable("bad type or line break"));
    }
    let mut zone = Zonefile::new();
    zone.set_origin(domain::base::Name::root_bytes());
    zone.set_default_class(Class::IN);
    zone.extend_from_slice(format!(". 0 IN {rtype} {data}\n").as_bytes());
    // The parser counts lines and columns of a file that is not there: only its reason is told.
    let reason = |error: domain::zonefile::inplace::Error| {
        let text = error.to_string();
        text.splitn(3, ':').nth(2).unwrap_or(&text).trim().to_owned()
    };
    let entry = zone.next_entry().map_err(|error| unreadable(&reason(error)))?;
    let Some(Entry::Record(record)) = entry else { return Err(unreadable("nothing there")) };
    if zone.next_entry().map_err(|error| unreadable(&reason(error)))?.is_some() {
        return Err(unreadable("more than one record"));
    }
    let mut rdata = Vec::new();
    record.data().compose_rdata(&mut rdata).map_err(|_| unreadable("too long"))?;
    if rdata.len() > usize::from(u16::MAX) {
        return Err(unreadable("too long"));
    }
    Ok(AnswerRecord { rtype: record.rtype().to_int(), ttl_s: None, rdata: rdata.into_boxed_slice() })
}
