//! Receive queues, rings, hashing, coalescing, merging.

use crate::tune::facts::{Fact, Facts, Features, Interface, Kind, Range, Table, Untold};
use crate::tune::finding::{Finding, Group};
use crate::tune::site::Site;
use crate::tune::wanted::{Advice, Channels, Nic, Switch};

use super::{Case, Outcome, because};

pub(super) fn judge(wanted: &Nic, facts: &Facts, site: &Site) -> Vec<Finding> {
    match &facts.interfaces {
        Ok(interfaces) => interfaces.iter().flat_map(|interface| one(wanted, interface, site)).collect(),
        // Of no interface in particular: what would be looked at, and why it is not.
        Err(untold) => one(wanted, &nameless(untold), site),
    }
}

/// An interface of which nothing is known.
fn nameless(untold: &Untold) -> Interface {
    Interface {
        name: String::new(),
        kind: Err(untold.clone()),
        queues: Err(untold.clone()),
        rx_ring: Err(untold.clone()),
        tx_ring: Err(untold.clone()),
        udp4_hash: Err(untold.clone()),
        udp6_hash: Err(untold.clone()),
        table: Err(untold.clone()),
        coalescing: Err(untold.clone()),
        features: Err(untold.clone()),
        flow_control_rx: Err(untold.clone()),
        interrupts: Err(untold.clone()),
        receive_steering: Err(untold.clone()),
        send_steering: Err(untold.clone()),
        node: Err(untold.clone()),
    }
}

/// The subject of findings on this interface.
pub(super) fn subject(interface: &Interface) -> Option<&str> {
    Some(interface.name.as_str()).filter(|name| !name.is_empty())
}

fn one(wanted: &Nic, interface: &Interface, site: &Site) -> Vec<Finding> {
    let name = interface.name.as_str();
    let case = |name| Case { group: Group::Nic, name, subject: subject(interface) };
    let mut findings = Vec::new();

    let count = number_of(wanted.combined_queues.wanted, site);
    let capped = interface.queues.as_ref().map_or(count, |range| count.min(range.max));
    let outcome = because(&interface.queues).map(|range| {
        let note = (range.max < count).then(|| format!("{count} workers, and the NIC has no more queues"));
        outcome(range.now == capped, range.now, capped, name).with_note(note)
    });
    findings.extend(case("combined_queues").judge(&wanted.combined_queues, capped.to_string(), outcome));

    for (key, advice, ring) in
        [("rx_ring", &wanted.rx_ring, &interface.rx_ring), ("tx_ring", &wanted.tx_ring, &interface.tx_ring)]
    {
        let (text, outcome) = of_ring(advice, ring, name);
        findings.extend(case(key).judge(advice, text, outcome));
    }
    for (key, advice, hash) in
        [("udp4_hash", &wanted.udp4_hash, &interface.udp4_hash), ("udp6_hash", &wanted.udp6_hash, &interface.udp6_hash)]
    {
        let outcome = several(interface).and_then(|()| because(hash)).map(|found| {
            Outcome::one(same_letters(found, &advice.wanted), found, &[("interface", name), ("wanted", &advice.wanted)])
        });
        findings.extend(case(key).judge(advice, &advice.wanted, outcome));
    }

    let queues = number_of(wanted.rss_table.wanted, site);
    let queues = interface.queues.as_ref().map_or(queues, |range| queues.min(range.now));
    let outcome =
        several(interface).and_then(|()| because(&interface.table)).map(|table| of_table(table, queues, name));
    findings.extend(case("rss_table").judge(&wanted.rss_table, format!("{queues} queues, evenly"), outcome));

    findings.extend(coalescing(wanted, interface, &case));
    let merging = because(&interface.features);
    for (key, advice, feature) in [
        ("gro", &wanted.gro, merging.clone().map(|Features { gro, .. }| *gro)),
        ("lro", &wanted.lro, merging.map(|Features { lro, .. }| *lro)),
    ] {
        let outcome = feature.and_then(|feature| of_feature(feature, advice, name));
        findings.extend(case(key).judge(advice, advice.wanted.word(), outcome));
    }
    let advice = &wanted.flow_control_rx;
    let outcome = because(&interface.flow_control_rx).map(|&is_on| of_switch(is_on, advice, name));
    findings.extend(case("flow_control_rx").judge(advice, advice.wanted.word(), outcome));
    findings
}

fn coalescing<'a>(
    wanted: &Nic,
    interface: &'a Interface,
    case: &dyn Fn(&'static str) -> Case<'a>,
) -> impl Iterator<Item = Finding> {
    let name = interface.name.as_str();
    let cannot = || Untold::Inapplicable("the driver cannot do it".to_owned());
    let advice = &wanted.adaptive_rx;
    let adaptive = because(&interface.coalescing).and_then(|one| one.is_adaptive.ok_or_else(cannot));
    let adaptive =
        case("adaptive_rx").judge(advice, advice.wanted.word(), adaptive.map(|is_on| of_switch(is_on, advice, name)));
    let advice = &wanted.rx_usecs;
    let held = because(&interface.coalescing).and_then(|one| one.rx_usecs.ok_or_else(cannot));
    let held = held.map(|found| outcome(found == advice.wanted, found, advice.wanted, name));
    let held = case("rx_usecs").judge(advice, format!("{} us", advice.wanted), held);
    adaptive.into_iter().chain(held)
}

fn number_of(channels: Channels, site: &Site) -> u64 {
    match channels {
        Channels::Workers => site.workers(),
        Channels::Number(number) => number,
    }
}

fn outcome(is_good: bool, found: u64, wanted: u64, interface: &str) -> Outcome {
    let wanted = wanted.to_string();
    Outcome::one(is_good, found.to_string(), &[("interface", interface), ("wanted", &wanted)])
}

/// What is spread needs several queues.
fn several(interface: &Interface) -> Fact<()> {
    match (&interface.kind, &interface.queues) {
        (Ok(Kind::Device), Ok(range)) if range.now == 1 => {
            Err(Untold::Inapplicable("it has one queue, so nothing is spread".to_owned()))
        }
        _ => Ok(()),
    }
}

fn of_ring(advice: &Advice<u64>, ring: &Fact<Range>, interface: &str) -> (String, Fact<Outcome>) {
    let most = ring.as_ref().map_or(advice.wanted, |range| advice.wanted.min(range.max));
    let text = match most < advice.wanted {
        true => format!("{most}, the most it has"),
        false => format!("at least {most}"),
    };
    (text, because(ring).map(|range| outcome(range.now >= most, range.now, most, interface)))
}

fn same_letters(one: &str, other: &str) -> bool {
    one.len() == other.len() && one.chars().all(|letter| other.contains(letter))
}

fn of_table(Table(places): &Table, queues: u64, interface: &str) -> Outcome {
    let used: Vec<u64> = places.iter().copied().filter(|count| *count > 0).collect();
    let spread = used.iter().max().unwrap_or(&0) - used.iter().min().unwrap_or(&0);
    // The first so many, each as often as the others as far as it can be divided.
    let is_first = places.iter().take(used.len()).all(|count| *count > 0);
    let found = match (is_first, spread) {
        (true, 0 | 1) => format!("{} queues, evenly", used.len()),
        _ => format!(
            "{} queues, {} times at least and {} at most",
            used.len(),
            used.iter().min().unwrap_or(&0),
            used.iter().max().unwrap_or(&0)
        ),
    };
    let is_good = is_first && spread <= 1 && used.len() as u64 == queues;
    let wanted = queues.to_string();
    Outcome::one(is_good, found, &[("interface", interface), ("wanted", &wanted)])
}

fn of_feature(feature: Option<(bool, bool)>, advice: &Advice<Switch>, interface: &str) -> Fact<Outcome> {
    match feature {
        None => Err(Untold::Inapplicable("the driver does not tell it".to_owned())),
        Some((is_on, false)) if is_on != (advice.wanted == Switch::On) => {
            Err(Untold::Inapplicable(format!("the driver has it {} for good", word(is_on))))
        }
        Some((is_on, _)) => Ok(of_switch(is_on, advice, interface)),
    }
}

fn of_switch(is_on: bool, advice: &Advice<Switch>, interface: &str) -> Outcome {
    let wanted = advice.wanted;
    Outcome::one(is_on == (wanted == Switch::On), word(is_on), &[("interface", interface), ("wanted", wanted.word())])
}

fn word(is_on: bool) -> &'static str {
    if is_on { "on" } else { "off" }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_table_is_good_when_the_first_queues_are_named_equally_often() {
        for (places, queues, is_good) in [
            (vec![64, 64], 2, true),
            (vec![43, 43, 42], 3, true),
            (vec![128], 2, false),
            (vec![100, 28], 2, false),
            (vec![0, 64, 64], 2, false),
            (vec![32, 32, 32, 32], 2, false),
        ] {
            assert_eq!(of_table(&Table(places.clone()), queues, "eth0").is_good, is_good, "{places:?} {queues}");
        }
    }

    #[test]
    fn the_letters_of_a_hash_have_no_order() {
        assert!(same_letters("sdfn", "nfds") && !same_letters("sd", "sdfn") && !same_letters("sdfn", "sdf"));
    }
}
