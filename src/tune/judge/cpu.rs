//! Workers' cores: how fast they run, how deep they sleep, what else runs there, who shares them.

use crate::serve::cores::list;
use crate::tune::facts::{Core, Fact, Facts, IdleState, Untold};
use crate::tune::finding::{Finding, Group};
use crate::tune::site::Site;
use crate::tune::wanted::{Cpu, Switch};

use super::nic::subject;
use super::{Case, Outcome, because, some};

fn case(name: &'static str) -> Case<'static> {
    Case { group: Group::Cpu, name, subject: None }
}

pub(super) fn judge(wanted: &Cpu, facts: &Facts, site: &Site) -> Vec<Finding> {
    let mut findings = Vec::new();
    let choices = wanted.governor.wanted.join(" or ");
    findings.extend(case("governor").judge(&wanted.governor, choices, governor(wanted, &facts.cpu.cores)));
    let text = format!("at most {} us", wanted.idle_latency_us.wanted);
    let outcome = idle_latency(wanted.idle_latency_us.wanted, &facts.cpu.cores);
    findings.extend(case("idle_latency_us").judge(&wanted.idle_latency_us, text, outcome));
    for (name, advice, found) in [
        ("isolated", &wanted.isolated, &facts.cpu.isolated),
        ("nohz_full", &wanted.nohz_full, &facts.cpu.nohz_full),
        ("rcu_nocbs", &wanted.rcu_nocbs, &facts.cpu.rcu_nocbs),
    ] {
        let cores = list(&sorted(&site.cores));
        let text = if advice.wanted == Switch::On { format!("cores {cores}") } else { "no core".to_owned() };
        let outcome = because(found).and_then(|found| kept_free(found, advice.wanted, facts, site));
        findings.extend(case(name).judge(advice, text, outcome));
    }
    let text = format!("at most {} workers on the threads of one core", wanted.workers_per_core.wanted);
    let outcome = siblings(wanted.workers_per_core.wanted, &facts.cpu.cores);
    findings.extend(case("workers_per_core").judge(&wanted.workers_per_core, text, outcome));
    if wanted.numa_local.wanted == Switch::On {
        findings.extend(numa(wanted, facts));
    }
    findings
}

fn sorted(cores: &[usize]) -> Vec<usize> {
    let mut cores = cores.to_vec();
    cores.sort_unstable();
    cores
}

/// What is known of every core, or why it is not.
fn of_each<'a, T>(cores: &'a [Core], fact: impl Fn(&'a Core) -> &'a Fact<T>) -> Fact<Vec<(usize, &'a T)>> {
    cores.iter().map(|core| Ok((core.number, because(fact(core))?))).collect()
}

fn governor(wanted: &Cpu, cores: &[Core]) -> Fact<Outcome> {
    let best = wanted.governor.wanted.first().cloned().unwrap_or_default();
    let found = of_each(cores, |core| &core.governor)?;
    let others: Vec<_> = found.iter().filter(|(_, governor)| !wanted.governor.wanted.contains(governor)).collect();
    let mut named: Vec<String> = Vec::new();
    for governor in others.iter().map(|(_, governor)| *governor) {
        let of: Vec<usize> = others.iter().filter(|(_, other)| *other == governor).map(|(core, _)| *core).collect();
        let text = format!("{governor} on {}", list(&of));
        if !named.contains(&text) {
            named.push(text);
        }
    }
    let repair = |(core, governor): &&(usize, &String)| {
        vec![("core", core.to_string()), ("wanted", best.clone()), ("found", (*governor).clone())]
    };
    let good = || found.first().map_or(String::new(), |(_, governor)| (*governor).clone());
    let text = if named.is_empty() { good() } else { some(&named) };
    Ok(Outcome { is_good: others.is_empty(), found: text, note: None, repairs: others.iter().map(repair).collect() })
}

fn idle_latency(most_us: u64, cores: &[Core]) -> Fact<Outcome> {
    let found = of_each(cores, |core| &core.idle_states)?;
    let is_deep = |state: &&IdleState| !state.is_disabled && state.latency_us > most_us;
    let mut named: Vec<String> = Vec::new();
    let mut repairs = Vec::new();
    for (core, states) in &found {
        for state in states.iter().filter(is_deep) {
            let text = format!("{} wakes in {} us", state.name, state.latency_us);
            if !named.contains(&text) {
                named.push(text);
            }
            repairs.push(vec![
                ("core", core.to_string()),
                ("state", state.number.to_string()),
                ("found", "0".to_owned()),
            ]);
        }
    }
    let awake = found.iter().flat_map(|(_, states)| states.iter()).filter(|state| !state.is_disabled);
    let text = match named.is_empty() {
        true => format!("{} us", awake.map(|state| state.latency_us).max().unwrap_or(0)),
        false => some(&named),
    };
    Ok(Outcome { is_good: named.is_empty(), found: text, note: None, repairs })
}

/// Whether the workers' cores are among those that are kept free of other work.
fn kept_free(free: &[usize], wanted: Switch, facts: &Facts, site: &Site) -> Fact<Outcome> {
    let is_free = |core: &usize| free.contains(core);
    let is_good = match wanted {
        Switch::On => site.cores.iter().all(is_free),
        Switch::Off => !site.cores.iter().any(is_free),
    };
    let online = because(&facts.cpu.online)?;
    if !is_good && wanted == Switch::On && online.iter().all(|core| site.cores.contains(core)) {
        let reason = "workers take every core; leave one to the system first (`cores` of the configuration)";
        return Err(Untold::Inapplicable(reason.to_owned()));
    }
    let found = match free {
        [] => "none".to_owned(),
        // `all` stands for more cores than any machine has.
        free => {
            format!("cores {}", list(&free.iter().copied().filter(|core| online.contains(core)).collect::<Vec<_>>()))
        }
    };
    let cores = list(&sorted(&site.cores));
    Ok(Outcome::one(is_good, found, &[("wanted", &cores)]))
}

fn siblings(most: u64, cores: &[Core]) -> Fact<Outcome> {
    let found = of_each(cores, |core| &core.siblings)?;
    let mut crowded: Vec<String> = Vec::new();
    let mut apart: Vec<usize> = Vec::new();
    for (core, siblings) in &found {
        let sharing: Vec<usize> =
            found.iter().map(|(other, _)| *other).filter(|other| siblings.contains(other)).collect();
        let place = sharing.iter().position(|other| other == core).unwrap_or(0) as u64;
        if place < most {
            apart.push(*core);
        }
        let text = format!("workers on {} share one", list(&sorted(&sharing)));
        if sharing.len() as u64 > most && !crowded.contains(&text) {
            crowded.push(text);
        }
    }
    let text = if crowded.is_empty() { "as wanted".to_owned() } else { some(&crowded) };
    let cores = list(&sorted(&apart));
    Ok(Outcome::one(crowded.is_empty(), text, &[("wanted", &cores)]))
}

fn numa(wanted: &Cpu, facts: &Facts) -> Vec<Finding> {
    let advice = &wanted.numa_local;
    let interfaces = match &facts.interfaces {
        Ok(interfaces) => interfaces,
        Err(untold) => {
            return case("numa_local")
                .judge(advice, "workers on the node of the NIC", Err(untold.clone()))
                .into_iter()
                .collect();
        }
    };
    let of_interface = |interface| {
        let case = Case { group: Group::Cpu, name: "numa_local", subject: subject(interface) };
        let node = because(&interface.node).copied();
        let text = match &node {
            Ok(node) => format!("workers on node {node}, the NIC's"),
            Err(_) => "workers on the node of the NIC".to_owned(),
        };
        let outcome = node.and_then(|node| {
            let nodes = of_each(&facts.cpu.cores, |core| &core.node)?;
            let far: Vec<usize> = nodes.iter().filter(|(_, other)| **other != node).map(|(core, _)| *core).collect();
            let found = match far.is_empty() {
                true => "as wanted".to_owned(),
                false => format!("cores {} are elsewhere", list(&sorted(&far))),
            };
            let node = node.to_string();
            Ok(Outcome::one(far.is_empty(), found, &[("interface", &interface.name), ("wanted", &node)]))
        });
        case.judge(advice, text, outcome)
    };
    interfaces.iter().filter_map(of_interface).collect()
}
