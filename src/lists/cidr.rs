//! Lists of addresses: one address or prefix a line, as FireHOL's netsets and Spamhaus's DROP have them.
//!
//! A rule of such a list speaks of the addresses in upstreams' answers, as `rpz-ip` does. Invariant: bits set beyond a
//! prefix's length are refused, not cut off: nobody knows whether the address or the length is the slip.

use corewall_sharding::rule::{Rule, RuleKey, Scope};
use ipnet::IpNet;

use super::names::read_address;
use super::report::RefuseReason;
use super::sink::Sink;

/// Reads one line. A comment begins with `#` or `;`, also behind an address.
pub fn line(line: &[u8], sink: &mut Sink<'_>) {
    let text = line.split(|octet| matches!(octet, b'#' | b';')).next().unwrap_or_default().trim_ascii();
    if text.is_empty() {
        return sink.comment();
    }
    match read_net(text) {
        Ok(net) => {
            let class = sink.class(sink.options.default_kind, Scope::Address);
            sink.rule(Rule { class, key: RuleKey::Address { net, target: None } }, text);
        }
        Err(reason) => sink.refuse(text, reason),
    }
}

pub(super) fn read_net(text: &[u8]) -> Result<IpNet, RefuseReason> {
    if text.iter().any(u8::is_ascii_whitespace) {
        return Err(RefuseReason::SeveralWords);
    }
    if !text.contains(&b'/') {
        // A zone means nothing in an answer.
        let address = if text.contains(&b'%') { None } else { read_address(text) };
        return address.map(IpNet::from).ok_or(RefuseReason::BadAddress);
    }
    let net: Option<IpNet> = std::str::from_utf8(text).ok().and_then(|text| text.parse().ok());
    net.filter(|net| net.trunc() == *net).ok_or(RefuseReason::BadPrefix)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_and_prefixes_are_read_and_nothing_else() {
        for (text, net) in [
            ("192.0.2.1", "192.0.2.1/32"),
            ("192.0.2.0/24", "192.0.2.0/24"),
            ("2001:DB8::/32", "2001:db8::/32"),
            ("2001:db8::1", "2001:db8::1/128"),
        ] {
            assert_eq!(read_net(text.as_bytes()), Ok(net.parse().unwrap()), "{text}");
        }
        for (text, reason) in [
            ("192.0.2.1/24", RefuseReason::BadPrefix),
            ("192.0.2.0/33", RefuseReason::BadPrefix),
            ("ads.example/24", RefuseReason::BadPrefix),
            ("192.0.2", RefuseReason::BadAddress),
            ("ads.example", RefuseReason::BadAddress),
            ("fe80::1%eth0", RefuseReason::BadAddress),
            ("192.0.2.0/24 China", RefuseReason::SeveralWords),
        ] {
            assert_eq!(read_net(text.as_bytes()), Err(reason), "{text}");
        }
    }
}
