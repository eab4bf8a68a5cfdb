//! The clock, io_uring, mitigations.

use crate::tune::facts::{Facts, Untold};
use crate::tune::finding::{Finding, Group};
use crate::tune::wanted::{Clock, KernelValues};

use super::{Case, Outcome, because, some};

/// Holes whose mitigation makes every entry into the kernel or every switch of processes dearer (the kernel's
/// Documentation/admin-guide/hw-vuln).
const COSTLY: [&str; 11] = [
    "indirect_target_selection",
    "itlb_multihit",
    "l1tf",
    "mds",
    "meltdown",
    "mmio_stale_data",
    "reg_file_data_sampling",
    "retbleed",
    "spec_rstack_overflow",
    "spectre_v2",
    "tsx_async_abort",
];

pub(super) fn clock(wanted: &Clock, facts: &Facts) -> Option<Finding> {
    let advice = &wanted.clocksource;
    let outcome = because(&facts.clock).map(|(current, available)| {
        let best = advice.wanted.iter().find(|clock| available.contains(clock));
        let mut outcome = Outcome::one(
            advice.wanted.contains(current),
            current,
            &[("wanted", best.map(String::as_str).unwrap_or_default())],
        );
        if best.is_none() {
            outcome.repairs.clear();
            outcome.note = Some("the kernel offers no better one; `dmesg | grep -i tsc` tells why".to_owned());
        }
        outcome
    });
    Case { group: Group::Clock, name: "clocksource", subject: None }.judge(advice, advice.wanted.join(" or "), outcome)
}

pub(super) fn judge(wanted: &KernelValues, facts: &Facts) -> Vec<Finding> {
    let case = |name| Case { group: Group::Kernel, name, subject: None };
    let mut findings = Vec::new();
    let advice = &wanted.io_uring_disabled;
    let text = advice.wanted.to_string();
    let outcome = because(&facts.io_uring_disabled)
        .map(|found| Outcome::one(*found == advice.wanted, found.to_string(), &[("wanted", &text)]));
    findings.extend(case("io_uring_disabled").judge(advice, &text, outcome));

    let advice = &wanted.mitigations;
    let outcome = because(&facts.vulnerabilities).and_then(|holes| {
        if holes.is_empty() {
            return Err(Untold::Inapplicable("this kernel names no holes of its processor".to_owned()));
        }
        let states = |word: &str| -> Vec<String> {
            let those = holes.iter().filter(|(_, text)| text.starts_with(word));
            those.map(|(name, _)| name.clone()).collect()
        };
        let costly: Vec<String> = holes
            .iter()
            .filter(|(name, text)| COSTLY.contains(&name.as_str()) && text.starts_with("Mitigation"))
            .map(|(name, text)| {
                let what = text.trim_start_matches("Mitigation").trim_start_matches([':', ';', ' ']);
                format!("{name} ({})", what.split([';', ',']).next().unwrap_or_default().trim())
            })
            .collect();
        let vulnerable = states("Vulnerable");
        let found = if costly.is_empty() { "none that costs system calls".to_owned() } else { some(&costly) };
        let note = (!vulnerable.is_empty()).then(|| format!("not mitigated: {}", some(&vulnerable)));
        Ok(Outcome::one(costly.is_empty(), found, &[]).with_note(note))
    });
    findings.extend(case("mitigations").judge(advice, advice.wanted.clone(), outcome));
    findings
}
