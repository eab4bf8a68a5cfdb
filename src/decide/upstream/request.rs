//! What a question to an upstream looks like on the wire.

use corewall_sharding::name::{NAME_BYTES_MAX, Name};

use crate::limits::{HEADER_BYTES, OPT_BYTES_MIN, UDP_PAYLOAD_BYTES_MAX};

/// Bytes of the largest question we send.
pub const REQUEST_BYTES_MAX: usize = HEADER_BYTES + NAME_BYTES_MAX + 4 + OPT_BYTES_MIN;

/// Writes a question to an upstream: RD set, CD not (the upstream is to validate), an OPT record of our own with DO as the
/// client wants it (OPT is rebuilt, never passed on). Returns its length.
pub fn write_request(id: u16, name: &Name, qtype: u16, qclass: u16, dnssec_ok: bool, out: &mut [u8]) -> usize {
    let mut at = 0usize;
    let mut put = |octets: &[u8]| {
        if let Some(place) = out.get_mut(at..at + octets.len()) {
            place.copy_from_slice(octets);
            at += octets.len();
        }
    };
    put(&id.to_be_bytes());
    // RD; AD asks the upstream to say whether it validated (RFC 6840 §5.7).
    put(&[0x01, 0x20, 0, 1, 0, 0, 0, 0, 0, 1]);
    put(name.as_wire());
    put(&qtype.to_be_bytes());
    put(&qclass.to_be_bytes());
    put(&[0, 0, 41]);
    put(&(UDP_PAYLOAD_BYTES_MAX as u16).to_be_bytes());
    put(&[0, 0, if dnssec_ok { 0x80 } else { 0 }, 0, 0, 0]);
    at
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_is_a_question_with_an_opt_record_of_ours() {
        let mut out = [0; REQUEST_BYTES_MAX];
        let bytes = write_request(0x1234, &"a.example".parse().unwrap(), 28, 1, true, &mut out);
        assert_eq!(
            &out[..bytes],
            b"\x12\x34\x01\x20\0\x01\0\0\0\0\0\x01\x01a\x07example\0\0\x1c\0\x01\0\0\x29\x04\xd0\0\0\x80\0\0\0"
        );
        let longest: Name =
            [&*"a".repeat(63), &"b".repeat(63), &"c".repeat(63), &"d".repeat(61)].join(".").parse().unwrap();
        assert_eq!(write_request(1, &longest, 1, 1, false, &mut out), REQUEST_BYTES_MAX);
    }
}
