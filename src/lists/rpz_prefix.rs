//! Addresses and prefixes as policy zones write them in owner names.
//!
//! The prefix length comes first, then the address from its end: `24.0.2.0.192` is 192.0.2.0/24. The words of an IPv6 address
//! are hexadecimal, and `zz` stands for its `::`: `32.zz.db8.2001` is 2001:db8::/32. Invariant: a prefix that leaves this file
//! has no bits beyond its length; one that is written with some is refused, for it is not told what was meant.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::IpNet;

use super::report::RefuseReason;

/// Labels of the prefix length and the longest address.
const LABELS_MAX: usize = 9;

/// Reads the labels before `rpz-ip` or `rpz-client-ip`.
///
/// # Errors
/// [`RefuseReason::BadPrefix`] when they tell no prefix.
pub fn read_prefix<'a>(labels: impl Iterator<Item = &'a [u8]>) -> Result<IpNet, RefuseReason> {
    read(labels).filter(|net| net.addr() == net.network()).ok_or(RefuseReason::BadPrefix)
}

fn read<'a>(labels: impl Iterator<Item = &'a [u8]>) -> Option<IpNet> {
    let labels: Vec<&str> = labels.take(LABELS_MAX + 1).map(std::str::from_utf8).collect::<Result<_, _>>().ok()?;
    let (bits, words) = labels.split_first()?;
    let address = if words.len() == 4 && !words.contains(&"zz") { v4(words)?.into() } else { v6(words)?.into() };
    IpNet::new(address, decimal(bits)?).ok().filter(|_| !matches!(address, IpAddr::V6(v6) if is_mapped(v6)))
}

/// An IPv4 address in IPv6 form, which no client and no record would be compared as.
fn is_mapped(address: Ipv6Addr) -> bool {
    address.to_ipv4_mapped().is_some()
}

/// Last octet first.
fn v4(words: &[&str]) -> Option<Ipv4Addr> {
    let mut octets = [0; 4];
    for (octet, word) in octets.iter_mut().rev().zip(words) {
        *octet = decimal(word)?;
    }
    Some(octets.into())
}

/// Last word first.
fn v6(words: &[&str]) -> Option<Ipv6Addr> {
    let gap = words.iter().position(|word| *word == "zz");
    let (after, before) = match gap {
        Some(gap) => (words.get(..gap)?, words.get(gap + 1..)?),
        None => (words, &[][..]),
    };
    let told = after.len() + before.len();
    if told > 8 || (gap.is_none() && told != 8) || (gap.is_some() && told == 8) {
        return None;
    }
    let mut segments = [0; 8];
    for (segment, word) in segments.iter_mut().rev().zip(after) {
        *segment = hexadecimal(word)?;
    }
    for (segment, word) in segments.iter_mut().zip(before.iter().rev()) {
        *segment = hexadecimal(word)?;
    }
    Some(segments.into())
}

/// Without leading zeros, which some read as octal.
fn decimal(text: &str) -> Option<u8> {
    let is_plain = text.bytes().all(|octet| octet.is_ascii_digit()) && (text == "0" || !text.starts_with('0'));
    if is_plain { text.parse().ok() } else { None }
}

fn hexadecimal(text: &str) -> Option<u16> {
    let is_plain = text.len() <= 4 && text.bytes().all(|octet| octet.is_ascii_hexdigit());
    if is_plain { u16::from_str_radix(text, 16).ok() } else { None }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Option<String> {
        read_prefix(text.split('.').map(str::as_bytes)).ok().map(|net| net.to_string())
    }

    #[test]
    fn both_families_are_read_from_their_end() {
        for (text, net) in [
            ("24.0.2.0.192", "192.0.2.0/24"),
            ("32.1.2.0.192", "192.0.2.1/32"),
            ("0.0.0.0.0", "0.0.0.0/0"),
            ("32.zz.db8.2001", "2001:db8::/32"),
            ("128.1.zz.db8.2001", "2001:db8::1/128"),
            ("128.57.zz.1.0.db8.2001", "2001:db8:0:1::57/128"),
            ("128.8.7.6.5.4.3.db8.2001", "2001:db8:3:4:5:6:7:8/128"),
            ("128.1.zz", "::1/128"),
            ("0.zz", "::/0"),
            ("48.zz.3.db8.2001", "2001:db8:3::/48"),
            ("128.4.3.2.zz", "::2:3:4/128"),
        ] {
            assert_eq!(read(text).as_deref(), Some(net), "{text}");
        }
    }

    #[test]
    fn what_is_no_prefix_or_has_bits_beyond_its_length_is_refused() {
        for text in [
            "24.1.2.0.192",
            "33.1.2.0.192",
            "256.1.2.0.192",
            "32.256.2.0.192",
            "32.01.2.0.192",
            "032.1.2.0.192",
            "32.+1.2.0.192",
            "32.1.2.0",
            "32.1.2.0.192.0",
            "1.2.0.192",
            "32",
            "",
            "a.0.2.0.192",
            "31.1.zz.db8.2001",
            "129.1.zz.db8.2001",
            "128.1.zz.zz.2001",
            "128.1.zz.8.7.6.5.4.3.2",
            "128.7.6.5.4.3.db8.2001",
            "128.9.8.7.6.5.4.3.db8.2001",
            "128.10000.zz",
            "128.g.zz",
            "128..zz",
            "128.1.2.ffff.zz",
        ] {
            assert_eq!(read(text), None, "{text}");
        }
    }
}
