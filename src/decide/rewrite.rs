//! Stage 9, rewrite: addresses in upstream answers replaced, TTLs bounded, before the answer is kept.
//!
//! Invariant: [`Rewrites::apply`] costs at most one look-up for each prefix length that occurs in the rules and each address in
//! the answer. Addresses within other types (SVCB hints, RFC 9460 §7.3) are left alone.

use std::net::IpAddr;
use std::sync::Arc;

use ahash::RandomState;
use corewall_sharding::rule::{IpRewrite, ListId};
use hashbrown::HashSet;
use ipnet::IpNet;

use super::answer::{Answer, Record, Section};
use super::prefixes::Prefixes;
use super::settings::CacheBounds;
use super::wire::{rcode, rtype};
use crate::limits::TTL_S_MAX;

/// The address rewrites: the generation's, shared, without those that are voided, and the live ones. Immutable.
#[derive(Clone, Debug, Default)]
pub struct Rewrites {
    of_generation: Arc<Targets>,
    live: Arc<Targets>,
    voided: Arc<HashSet<(IpNet, ListId), RandomState>>,
}

/// What each prefix becomes by each list; the lower list number first.
type Targets = Prefixes<(ListId, IpAddr)>;

impl Rewrites {
    /// From the generation's rules; of equal prefixes the lower list number wins, then the one that comes first. A rule
    /// between two families can't exist in a generation and is passed over.
    pub fn new(rules: &[IpRewrite]) -> Self {
        Self { of_generation: Arc::new(filed(rules)), ..Self::default() }
    }

    /// The generation's rewrites but for those in `voided`, and `rules` instead of the live ones of before.
    pub(super) fn with_live(&self, rules: &[IpRewrite], voided: HashSet<(IpNet, ListId), RandomState>) -> Self {
        Self { of_generation: self.of_generation.clone(), live: Arc::new(filed(rules)), voided: Arc::new(voided) }
    }

    /// Whether there are none; voided ones are there.
    pub fn is_empty(&self) -> bool {
        self.of_generation.is_empty() && self.live.is_empty()
    }

    /// Whether they are the same as others. May look at all of them.
    pub(super) fn are(&self, other: &Rewrites) -> bool {
        let same = |ours: &Arc<Targets>, theirs: &Arc<Targets>| Arc::ptr_eq(ours, theirs) || ours == theirs;
        same(&self.of_generation, &other.of_generation) && same(&self.live, &other.live) && self.voided == other.voided
    }

    /// What an address becomes by the longest prefix that holds it and applies; none when it stays. Of equal prefixes the live
    /// one wins.
    pub fn target(&self, address: IpAddr, applies: &dyn Fn(ListId) -> bool) -> Option<IpAddr> {
        let holds = |bits: u8, list: ListId| {
            let net = || IpNet::new(address, bits).map(|net| net.trunc());
            self.voided.is_empty() || !net().is_ok_and(|net| self.voided.contains(&(net, list)))
        };
        let first = |targets: &Targets, is_live: bool| {
            targets.holding(address).find_map(|(bits, targets)| {
                let mut targets = targets.iter().filter(|(list, _)| applies(*list));
                targets.find(|(list, _)| is_live || holds(bits, *list)).map(|(_, to)| (bits, *to))
            })
        };
        let (live, of_generation) = (first(&self.live, true), first(&self.of_generation, false));
        match (live, of_generation) {
            (Some((bits, to)), Some((longer, other))) => Some(if longer > bits { other } else { to }),
            (live, of_generation) => live.or(of_generation).map(|(_, to)| to),
        }
    }

    /// Replaces A and AAAA data by the longest prefix that holds it and applies (`applies` tells whether a list does
    /// under the policy). Signatures over a changed RRset are dropped and AD cleared. Returns whether anything changed.
    pub fn apply(&self, answer: &mut Answer, applies: &dyn Fn(ListId) -> bool) -> bool {
        if self.is_empty() {
            return false;
        }
        let target = |address: IpAddr| self.target(address, applies);
        let v4 = replace(answer, rtype::A, |address: [u8; 4]| match target(address.into())? {
            IpAddr::V4(to) => Some(to.octets()),
            IpAddr::V6(_) => None,
        });
        let v6 = replace(answer, rtype::AAAA, |address: [u8; 16]| match target(address.into())? {
            IpAddr::V6(to) => Some(to.octets()),
            IpAddr::V4(_) => None,
        });
        v4 || v6
    }
}

fn filed(rules: &[IpRewrite]) -> Targets {
    let mut targets = Targets::default();
    let mut rules: Vec<_> = rules.iter().filter(|rule| rule.from.addr().is_ipv4() == rule.to.is_ipv4()).collect();
    rules.sort_by_key(|rule| rule.list);
    for IpRewrite { from, to, list } in rules {
        targets.file(from, (*list, *to));
    }
    targets
}

fn replace<const N: usize>(answer: &mut Answer, rtype: u16, target: impl Fn([u8; N]) -> Option<[u8; N]>) -> bool {
    let replaced = answer.replace_rdata(|record: &Record<'_>| {
        let is_address = record.rtype == rtype && record.section == Section::Answer;
        if is_address { record.rdata.try_into().ok().and_then(&target) } else { None }
    });
    if replaced {
        answer.retain(|record| record.covered() != Some(rtype));
        answer.drop_duplicates(rtype);
        answer.authentic_data = false;
    }
    replaced
}

/// Caps and lifts the TTLs of `answer`, and returns the seconds it may be kept: 0 means not at all.
///
/// An answer with data is kept as long as its shortest record. A negative one (NXDOMAIN, or no record of `qtype` at the
/// chain's end) is kept by its SOA, whose TTL becomes the least of its own, its MINIMUM field and the negative bound
/// (RFC 2308 §5), lifted to the lower negative bound, and not at all without one. Other RCODEs are not kept by their records.
pub fn bound_ttls(answer: &mut Answer, qtype: u16, bounds: &CacheBounds) -> u32 {
    let ttl_s_max = bounds.ttl_s_max.min(TTL_S_MAX);
    let ttl_s_min = bounds.ttl_s_min.min(ttl_s_max);
    let negative_ttl_s_max = bounds.negative_ttl_s_max.min(TTL_S_MAX);
    let negative_ttl_s_min = bounds.negative_ttl_s_min.min(negative_ttl_s_max);
    let is_negative = answer.rcode == rcode::NXDOMAIN || !answer.has_data(qtype);
    let mut denied = false;
    answer.set_ttls(|record| {
        if is_negative && record.section == Section::Authority && record.rtype == rtype::SOA {
            denied = true;
            let minimum = record.rdata.last_chunk::<4>().map_or(0, |octets| u32::from_be_bytes(*octets));
            record.ttl_s.min(minimum).clamp(negative_ttl_s_min, negative_ttl_s_max)
        } else {
            record.ttl_s.clamp(ttl_s_min, ttl_s_max)
        }
    });
    if !matches!(answer.rcode, rcode::NOERROR | rcode::NXDOMAIN) || (is_negative && !denied) {
        return 0;
    }
    answer.ttl_s_min().unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use corewall_sharding::name::Name;

    fn name(text: &str) -> Name {
        Name::from_text(text).unwrap()
    }

    fn rule(from: &str, to: &str, list: ListId) -> IpRewrite {
        IpRewrite { from: from.parse().unwrap(), to: to.parse().unwrap(), list }
    }

    fn addresses(rewrites: &Rewrites, address: &str, applies: &dyn Fn(ListId) -> bool) -> String {
        let mut answer = Answer::new();
        let address: IpAddr = address.parse().unwrap();
        let (rtype, rdata) = match address {
            IpAddr::V4(v4) => (rtype::A, v4.octets().to_vec()),
            IpAddr::V6(v6) => (rtype::AAAA, v6.octets().to_vec()),
        };
        answer.push(Section::Answer, &name("x.example"), rtype, 1, 60, &rdata).unwrap();
        rewrites.apply(&mut answer, applies);
        let rdata = answer.records().next().unwrap().rdata.to_vec();
        match <[u8; 4]>::try_from(rdata.clone()) {
            Ok(v4) => IpAddr::from(v4).to_string(),
            Err(_) => IpAddr::from(<[u8; 16]>::try_from(rdata).unwrap()).to_string(),
        }
    }

    #[test]
    fn the_longest_prefix_that_applies_wins() {
        let rewrites = Rewrites::new(&[
            rule("10.0.0.0/8", "192.0.2.8", 0),
            rule("10.1.0.0/16", "192.0.2.16", 1),
            rule("10.1.2.3/32", "192.0.2.33", 3),
            rule("10.1.2.3/32", "192.0.2.32", 2),
            rule("2001:db8::/33", "2001:db8::33", 0),
            rule("0.0.0.0/0", "192.0.2.0", 9),
        ]);
        let all = |_| true;
        assert_eq!(addresses(&rewrites, "10.1.2.3", &all), "192.0.2.32");
        assert_eq!(addresses(&rewrites, "10.1.2.3", &|list| list != 2), "192.0.2.33");
        assert_eq!(addresses(&rewrites, "10.1.2.3", &|list| list < 2), "192.0.2.16");
        assert_eq!(addresses(&rewrites, "10.200.2.3", &all), "192.0.2.8");
        assert_eq!(addresses(&rewrites, "11.0.0.1", &all), "192.0.2.0");
        assert_eq!(addresses(&rewrites, "11.0.0.1", &|list| list != 9), "11.0.0.1");
        assert_eq!(addresses(&rewrites, "2001:db8:7fff::1", &all), "2001:db8::33");
        assert_eq!(addresses(&rewrites, "2001:db8:8000::1", &all), "2001:db8:8000::1");
    }

    #[test]
    fn a_changed_set_loses_signatures_duplicates_and_ad() {
        let rewrites = Rewrites::new(&[rule("10.0.0.0/8", "192.0.2.1", 0)]);
        let owner = name("x.example");
        let mut answer = Answer::new();
        let signature = |covered: u16| [&covered.to_be_bytes()[..], &[0; 17]].concat();
        answer.push(Section::Answer, &name("a.example"), rtype::CNAME, 1, 60, owner.as_wire()).unwrap();
        answer.push(Section::Answer, &name("a.example"), rtype::RRSIG, 1, 60, &signature(rtype::CNAME)).unwrap();
        for address in [[10, 0, 0, 1], [10, 0, 0, 2], [192, 0, 2, 7]] {
            answer.push(Section::Answer, &owner, rtype::A, 1, 60, &address).unwrap();
        }
        answer.push(Section::Answer, &owner, rtype::RRSIG, 1, 60, &signature(rtype::A)).unwrap();
        answer.authentic_data = true;
        let untouched: Vec<_> = answer.records().map(|record| record.rdata.to_vec()).collect();
        assert!(!rewrites.apply(&mut answer, &|_| false));
        assert_eq!(answer.records().map(|record| record.rdata.to_vec()).collect::<Vec<_>>(), untouched);
        assert!(answer.authentic_data);

        assert!(rewrites.apply(&mut answer, &|_| true));
        let left: Vec<_> = answer.records().map(|record| (record.rtype, record.rdata.to_vec())).collect();
        assert_eq!(
            left,
            [
                (rtype::CNAME, owner.as_wire().to_vec()),
                (rtype::RRSIG, signature(rtype::CNAME)),
                (rtype::A, vec![192, 0, 2, 1]),
                (rtype::A, vec![192, 0, 2, 7]),
            ]
        );
        assert!(!answer.authentic_data);
    }

    fn bounds() -> CacheBounds {
        CacheBounds { ttl_s_min: 10, ttl_s_max: 1_000, negative_ttl_s_max: 300, ..CacheBounds::default() }
    }

    fn soa(ttl_s: u32, minimum: u32) -> Answer {
        let mut answer = Answer::new();
        let rdata = [&b"\0\0"[..], &[0; 16], &minimum.to_be_bytes()].concat();
        answer.push(Section::Authority, &name("example"), rtype::SOA, 1, ttl_s, &rdata).unwrap();
        answer
    }

    #[test]
    fn ttls_of_data_are_clamped_each_and_the_least_keeps_the_answer() {
        let mut answer = Answer::new();
        for (octet, ttl_s) in [(1, 3), (2, 500), (3, 5_000)] {
            answer.push(Section::Answer, &name("x.example"), rtype::A, 1, ttl_s, &[10, 0, 0, octet]).unwrap();
        }
        assert_eq!(bound_ttls(&mut answer, rtype::A, &bounds()), 10);
        assert_eq!(answer.records().map(|record| record.ttl_s).collect::<Vec<_>>(), [10, 500, 1_000]);
        let unbounded = CacheBounds { ttl_s_min: 0, ttl_s_max: u32::MAX, ..bounds() };
        answer.set_ttls(|_| u32::MAX);
        assert_eq!(bound_ttls(&mut answer, rtype::A, &unbounded), TTL_S_MAX);
    }

    #[test]
    fn a_negative_answer_is_kept_by_its_soa() {
        for (ttl_s, minimum, kept) in [(200, 100, 100), (100, 200, 100), (900, 900, 300), (5, 900, 5), (0, 900, 0)] {
            let mut answer = soa(ttl_s, minimum);
            assert_eq!(bound_ttls(&mut answer, rtype::A, &bounds()), kept);
            assert_eq!(answer.records().next().unwrap().ttl_s, kept);
        }
        // The chain's links may end sooner than the denial.
        let mut answer = soa(200, 200);
        answer.push(Section::Answer, &name("x.example"), rtype::CNAME, 1, 50, b"\0").unwrap();
        answer.rcode = rcode::NXDOMAIN;
        assert_eq!(bound_ttls(&mut answer, rtype::A, &bounds()), 50);
    }

    #[test]
    fn denials_without_soa_and_failures_are_not_kept() {
        assert_eq!(bound_ttls(&mut Answer::new(), rtype::A, &bounds()), 0);
        let mut link = Answer::new();
        link.push(Section::Answer, &name("x.example"), rtype::CNAME, 1, 50, b"\0").unwrap();
        assert_eq!(bound_ttls(&mut link, rtype::A, &bounds()), 0);
        assert_eq!(bound_ttls(&mut link, rtype::CNAME, &bounds()), 50);
        let mut failure = soa(200, 200);
        failure.rcode = rcode::SERVFAIL;
        assert_eq!(bound_ttls(&mut failure, rtype::A, &bounds()), 0);
    }
}
