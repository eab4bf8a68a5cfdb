//! RDATA from presentation format, for records that an operator writes by hand. Start-up and build code: it allocates.

use domain::base::Rtype;
use domain::base::iana::Class;
use domain::base::name::FlattenInto;
use domain::rdata::ZoneRecordData;
use domain::zonefile::inplace::{Entry, Zonefile};

/// Parses RDATA such as `10 mail.example.com.` for a type such as `MX` into uncompressed wire format (RFC 1035 §5.1).
/// Relative names are taken as absolute.
pub fn parse(rtype: &str, data: &str) -> Result<(u16, Box<[u8]>), String> {
    let rtype: Rtype = rtype.parse().map_err(|_| format!("unknown record type `{rtype}`"))?;
    if data.contains(['\n', '\r']) {
        return Err("line break in record data".to_owned());
    }
    let line = format!("owner.invalid. 1 IN {rtype} {data}\n");
    let mut zone = Zonefile::load(&mut line.as_bytes()).map_err(|error| error.to_string())?;
    zone.set_origin(domain::base::Name::root_bytes());
    match zone.next_entry() {
        Ok(Some(Entry::Record(record))) => {
            debug_assert_eq!(record.class(), Class::IN);
            let data: ZoneRecordData<bytes::Bytes, domain::base::Name<bytes::Bytes>> =
                record.into_data().try_flatten_into().map_err(|_| "name too long".to_owned())?;
            let mut wire = Vec::new();
            use domain::base::rdata::ComposeRecordData;
            data.compose_rdata(&mut wire).map_err(|error| error.to_string())?;
            Ok((rtype.to_int(), wire.into_boxed_slice()))
        }
        Ok(_) => Err("no record data".to_owned()),
        Err(error) => Err(error.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use super::parse;

    #[test]
    fn record_data_is_read_in_presentation_format() {
        assert_eq!(parse("A", "192.0.2.1").unwrap(), (1, Box::from([192, 0, 2, 1])));
        assert_eq!(parse("mx", "10 mail.example.").unwrap(), (15, Box::from(*b"\0\x0a\x04mail\x07example\0")));
        assert_eq!(parse("TXT", "\"two words\"").unwrap(), (16, Box::from(*b"\x09two words")));
        assert_eq!(parse("CNAME", "target.example").unwrap(), (5, Box::from(*b"\x06target\x07example\0")));
    }

    #[test]
    fn what_is_not_record_data_is_refused_with_a_reason() {
        assert!(parse("A", "not-an-address").is_err());
        assert!(parse("BOGUS", "1").unwrap_err().contains("BOGUS"));
        assert!(parse("A", "").is_err());
        assert!(parse("A", "192.0.2.1\nx A 192.0.2.2").is_err());
    }
}
