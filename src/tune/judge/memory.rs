//! Huge pages, and whether memory is enough.

use crate::tune::facts::Facts;
use crate::tune::finding::{Finding, Group};
use crate::tune::site::Site;
use crate::tune::wanted::Memory;

use super::{Case, Outcome, because};

const MIB: u64 = 1 << 20;

pub(super) fn judge(wanted: &Memory, facts: &Facts, site: &Site) -> Vec<Finding> {
    let case = |name| Case { group: Group::Memory, name, subject: None };
    let mut findings = Vec::new();

    let advice = &wanted.transparent_huge_pages;
    let best = advice.wanted.first().map(String::as_str).unwrap_or_default();
    let outcome = because(&facts.transparent_huge_pages)
        .map(|found| Outcome::one(advice.wanted.contains(found), found, &[("wanted", best)]));
    findings.extend(case("transparent_huge_pages").judge(advice, advice.wanted.join(" or "), outcome));

    let advice = &wanted.reserved_huge_pages;
    let most = advice.wanted.to_string();
    let outcome = because(&facts.reserved_huge_pages)
        .map(|found| Outcome::one(*found <= advice.wanted, found.to_string(), &[("wanted", &most)]));
    findings.extend(case("reserved_huge_pages").judge(advice, format!("at most {most}"), outcome));

    let advice = &wanted.share_percent;
    let (need, percent) = (site.memory_bytes(), advice.wanted);
    let outcome = because(&facts.memory_bytes).map(|&memory| {
        let found = format!("{} MiB for caches, filters and locked shards, of {} MiB", need / MIB, memory / MIB);
        let most = (memory * percent / 100 / MIB).to_string();
        Outcome::one(need <= memory / 100 * percent, found, &[("wanted", &most)])
    });
    findings.extend(case("share_percent").judge(advice, format!("at most {percent} % of the memory"), outcome));
    findings
}
