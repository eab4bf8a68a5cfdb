//! What a list writes where a name should be.
//!
//! Invariant: a name that leaves this file could be asked for as it stands: ASCII letters, digits, hyphens, underscores and
//! dots, no address, no part of a URL, non-ASCII text turned into A-labels (UTS 46). Everything else is refused with the
//! reason that tells an operator what the line is.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use corewall_sharding::name::{NAME_BYTES_MAX, Name, NameError};
use psl::Type;

use super::report::RefuseReason;

/// Labels in the longest ICANN suffix of the Public Suffix List, with room for a longer one.
const SUFFIX_LABELS_MAX: usize = 5;

/// Top-level domains that only private networks use: RFC 6762 appendix G, RFC 6761, RFC 7686 and ICANN's `internal`. A rule
/// on one of them covers what an operator runs, not a registry.
const PRIVATE_TOP_LEVEL: [&[u8]; 12] = [
    b"intranet",
    b"internal",
    b"private",
    b"corp",
    b"home",
    b"lan",
    b"local",
    b"localdomain",
    b"test",
    b"example",
    b"invalid",
    b"localhost",
];

/// Names that hosts files give to the machine itself and to its networks.
const LOCAL_NAMES: [&[u8]; 15] = [
    b"localhost",
    b"localhost.localdomain",
    b"localhost4",
    b"localhost4.localdomain4",
    b"localhost6",
    b"localhost6.localdomain6",
    b"localdomain",
    b"local",
    b"loopback",
    b"broadcasthost",
    b"ip6-localhost",
    b"ip6-loopback",
    b"ip6-localnet",
    b"ip6-mcastprefix",
    b"0.0.0.0",
];

/// Which octets may stand in the text of a host name.
const NAME_OCTETS: [bool; 256] = {
    let mut octets = [false; 256];
    let mut octet = 0u8;
    while octet < 128 {
        octets[octet as usize] = octet.is_ascii_alphanumeric() || matches!(octet, b'-' | b'_' | b'.');
        octet += 1;
    }
    octets
};

/// Whether an octet may stand in the text of a host name; wider than RFC 952, because `_dmarc` and `foo_bar` are asked for.
pub const fn is_name_octet(octet: u8) -> bool {
    NAME_OCTETS[octet as usize]
}

/// Reads a name, with or without its final dot.
///
/// # Errors
/// What the text is instead.
pub fn read_name(text: &[u8]) -> Result<Name, RefuseReason> {
    let mut name = Name::ROOT;
    read_name_into(text, &mut name)?;
    Ok(name)
}

/// As [`read_name`], into a name that is there already: for millions of them one after the other. After an error that name
/// means nothing.
///
/// # Errors
/// What the text is instead.
pub fn read_name_into(text: &[u8], name: &mut Name) -> Result<(), RefuseReason> {
    // All octets of a name may be asked for; no look at what the others mean where there are none.
    if !text.iter().all(|&octet| is_name_octet(octet)) {
        *name = read_what_is_no_plain_name(text)?;
        return Ok(());
    }
    if is_address_like(text) {
        return Err(RefuseReason::Address);
    }
    name.read_host_text(text).map_err(RefuseReason::Name)?;
    if name.is_root() { Err(RefuseReason::Name(NameError::EmptyLabel)) } else { Ok(()) }
}

fn read_what_is_no_plain_name(text: &[u8]) -> Result<Name, RefuseReason> {
    if text.iter().any(|&octet| octet.is_ascii() && !is_name_octet(octet)) {
        return Err(classify(text));
    }
    read_international(text)
}

/// Reads a name whose leading `*.` means everything under it.
///
/// # Errors
/// As [`read_name`].
pub fn read_name_or_below(text: &[u8]) -> Result<(Name, bool), RefuseReason> {
    match text.strip_prefix(b"*.") {
        Some(rest) => read_name(rest).map(|name| (name, true)),
        None => read_name(text).map(|name| (name, false)),
    }
}

fn read_international(text: &[u8]) -> Result<Name, RefuseReason> {
    let bad = RefuseReason::Name(NameError::BadIdna);
    let text = std::str::from_utf8(text).map_err(|_| bad)?;
    let ascii = idna::domain_to_ascii(text).map_err(|_| bad)?;
    // Compatibility mapping may bring forth what was refused above, such as a full-width slash.
    if ascii.bytes().all(is_name_octet) { read_name(ascii.as_bytes()) } else { Err(bad) }
}

/// Whether the text is an IPv4 address or a shortened one: labels of digits only. No top-level domain is all digits.
pub fn is_address_like(text: &[u8]) -> bool {
    text.first().is_some_and(u8::is_ascii_digit)
        && text.contains(&b'.')
        && text.iter().all(|octet| octet.is_ascii_digit() || *octet == b'.')
}

/// Reads an address; a zone (`fe80::1%lo0`) is passed over.
pub fn read_address(text: &[u8]) -> Option<IpAddr> {
    if !text.first()?.is_ascii_hexdigit() && text.first() != Some(&b':') {
        return None;
    }
    let text = std::str::from_utf8(text).ok()?;
    match text.split_once('%') {
        Some((address, zone)) if !zone.is_empty() => address.parse::<Ipv6Addr>().ok().map(IpAddr::V6),
        _ => text.parse().ok(),
    }
}

/// Whether a block list means nothing but "blocked" by this address.
pub fn is_sinkhole(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(address) => is_sinkhole_v4(address),
        IpAddr::V6(address) => {
            address.is_unspecified() || address.is_loopback() || address.to_ipv4_mapped().is_some_and(is_sinkhole_v4)
        }
    }
}

fn is_sinkhole_v4(address: Ipv4Addr) -> bool {
    address.is_unspecified() || address.is_loopback() || address.is_broadcast()
}

/// Whether a hosts file names the machine itself or its networks by this text.
pub fn is_local_name(text: &[u8]) -> bool {
    // What those names begin with; most names of a list do not.
    if !matches!(text.first(), Some(b'l' | b'L' | b'b' | b'B' | b'i' | b'I' | b'0')) {
        return false;
    }
    let text = text.strip_suffix(b".").unwrap_or(text);
    let ip6 = |prefix: &[u8]| prefix.eq_ignore_ascii_case(b"ip6-");
    (text.first_chunk::<4>().is_some_and(|prefix| ip6(prefix)) && !text.contains(&b'.'))
        || (text.len() <= 24 && LOCAL_NAMES.iter().any(|local| local.eq_ignore_ascii_case(text)))
}

/// What a text is that holds an octet which no name may hold.
fn classify(text: &[u8]) -> RefuseReason {
    let has = |wanted: u8| text.contains(&wanted);
    if text.iter().any(u8::is_ascii_whitespace) {
        return RefuseReason::SeveralWords;
    }
    if text.windows(3).any(|three| three == b"://") || text.starts_with(b"//") {
        return RefuseReason::Url;
    }
    if read_address(text).is_some() || (text.starts_with(b"[") && has(b':')) {
        return RefuseReason::Address;
    }
    let (host, rest) = split_at(text, |octet| octet == b'/');
    if let Some(rest) = rest {
        let numeric = !rest.is_empty() && rest.iter().all(u8::is_ascii_digit);
        if numeric && read_address(host).is_some() {
            return RefuseReason::Network;
        }
        let host = split_at(host, |octet| octet == b':').0;
        if !host.is_empty() && host.iter().all(|&octet| is_name_octet(octet) || !octet.is_ascii()) {
            return RefuseReason::Path;
        }
    }
    if let (host, Some(port)) = split_at(text, |octet| octet == b':')
        && !host.is_empty()
        && host.iter().all(|&octet| is_name_octet(octet))
        && !port.is_empty()
        && port.iter().all(u8::is_ascii_digit)
    {
        return RefuseReason::Port;
    }
    RefuseReason::Name(NameError::BadCharacter)
}

fn split_at(text: &[u8], wanted: impl Fn(u8) -> bool) -> (&[u8], Option<&[u8]>) {
    match text.iter().position(|&octet| wanted(octet)) {
        Some(at) => (text.get(..at).unwrap_or_default(), text.get(at + 1..)),
        None => (text, None),
    }
}

/// Whether everything under `name` is open to registration by the public: an ICANN suffix of the Public Suffix List, the
/// root, or a top-level domain that the list does not know (its default rule is `*`) and that is not a private one.
///
/// Private suffixes, such as `github.io`, are not: operators block them as a whole on purpose.
pub fn is_public_suffix(name: &Name) -> bool {
    match name.label_count() {
        0 => true,
        1 => {
            let label = name.labels().next().unwrap_or_default();
            !PRIVATE_TOP_LEVEL.contains(&label)
        }
        _ => is_icann_suffix(name),
    }
}

/// Whether `name` is itself an ICANN suffix of the Public Suffix List.
pub fn is_icann_suffix(name: &Name) -> bool {
    if name.label_count() > SUFFIX_LABELS_MAX {
        return false;
    }
    // The presentation format without escapes, which no suffix has.
    let mut text = [b'.'; NAME_BYTES_MAX];
    let mut len = 0usize;
    for label in name.labels() {
        // The dot is there already.
        len += usize::from(len > 0);
        let Some(place) = text.get_mut(len..len + label.len()) else { return false };
        place.copy_from_slice(label);
        len += label.len();
    }
    let text = text.get(..len).unwrap_or_default();
    psl::suffix(text).is_some_and(|suffix| suffix.typ() == Some(Type::Icann) && suffix.as_bytes().len() == text.len())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_no_name_is_refused_as_what_it_is() {
        for (text, reason) in [
            ("1.2.3.4", RefuseReason::Address),
            ("10.1", RefuseReason::Address),
            ("2001:db8::1", RefuseReason::Address),
            ("fe80::1%lo0", RefuseReason::Address),
            ("[2a01:4f8::1]", RefuseReason::Address),
            ("10.0.0.0/8", RefuseReason::Network),
            ("2001:db8::/32", RefuseReason::Network),
            ("http://ads.example/x", RefuseReason::Url),
            ("//ads.example", RefuseReason::Url),
            ("ads.example/banner", RefuseReason::Path),
            ("ads.example/1", RefuseReason::Path),
            ("ads.example:8080/x", RefuseReason::Path),
            ("1.2.3.4/x", RefuseReason::Path),
            ("ads.example:8080", RefuseReason::Port),
            ("1.2.3.4:80", RefuseReason::Port),
            ("two words", RefuseReason::SeveralWords),
            ("full:ads.example", RefuseReason::Name(NameError::BadCharacter)),
            ("a*b.example", RefuseReason::Name(NameError::BadCharacter)),
            (".ads.example", RefuseReason::Name(NameError::EmptyLabel)),
            ("ads..example", RefuseReason::Name(NameError::EmptyLabel)),
            (".", RefuseReason::Name(NameError::EmptyLabel)),
            ("", RefuseReason::Name(NameError::Empty)),
            ("b\u{fc}cher.example/x", RefuseReason::Path),
            ("a\u{ff0f}b.example", RefuseReason::Name(NameError::BadIdna)),
        ] {
            assert_eq!(read_name(text.as_bytes()), Err(reason), "{text}");
        }
        assert_eq!(read_name(b"b\xfccher.example"), Err(RefuseReason::Name(NameError::BadIdna)));
    }

    #[test]
    fn names_are_folded_and_internationalised() {
        for (text, name) in [
            ("Ads.EXAMPLE.com.", "ads.example.com"),
            ("_dmarc.foo_bar.example", "_dmarc.foo_bar.example"),
            ("local-dates.com", "local-dates.com"),
            ("3.example", "3.example"),
            ("B\u{dc}CHER.example", "xn--bcher-kva.example"),
            ("stra\u{df}e.example", "xn--strae-oqa.example"),
            ("\u{43f}\u{440}\u{438}\u{43c}\u{435}\u{440}.\u{440}\u{444}", "xn--e1afmkfd.xn--p1ai"),
        ] {
            assert_eq!(read_name(text.as_bytes()).unwrap().to_string(), name);
        }
        assert_eq!(read_name_or_below(b"*.a.example").unwrap(), ("a.example".parse().unwrap(), true));
    }

    #[test]
    fn only_icann_suffixes_and_unknown_top_level_domains_are_public() {
        for (name, public) in [
            ("com", true),
            ("co.uk", true),
            ("fe", true),
            ("xn--p1ai", true),
            ("github.io", false),
            ("example.com", false),
            ("lan", false),
            ("a.b.c.d.e.f.com", false),
        ] {
            assert_eq!(is_public_suffix(&name.parse().unwrap()), public, "{name}");
        }
        assert!(is_public_suffix(&Name::ROOT));
    }

    #[test]
    fn addresses_and_local_names_are_known() {
        assert_eq!(read_address(b"fe80::1%lo0"), Some("fe80::1".parse().unwrap()));
        assert_eq!(read_address(b"fe"), None);
        assert_eq!(read_address(b"127.0.0.1%x"), None);
        for address in ["0.0.0.0", "127.0.0.1", "127.0.1.1", "::", "::1", "::ffff:127.0.0.1", "255.255.255.255"] {
            assert!(is_sinkhole(address.parse().unwrap()), "{address}");
        }
        assert!(!is_sinkhole("192.168.1.1".parse().unwrap()) && !is_sinkhole("fe80::1".parse().unwrap()));
        for name in ["LocalHost", "ip6-allnodes", "broadcasthost", "local", "0.0.0.0", "localhost."] {
            assert!(is_local_name(name.as_bytes()), "{name}");
        }
        assert!(!is_local_name(b"local-dates.com") && !is_local_name(b"ip6-foo.example"));
    }
}
