//! Which core an interrupt, a packet or an answer goes to.

use crate::serve::cores::list;
use crate::tune::facts::{Fact, Facts, Interface, Steering, Untold};
use crate::tune::finding::{Finding, Group};
use crate::tune::site::Site;
use crate::tune::wanted::{Irq, Switch};

use super::nic::subject;
use super::{Case, Outcome, because, mask, some};

pub(super) fn judge(wanted: &Irq, facts: &Facts, site: &Site) -> Vec<Finding> {
    let mut findings = Vec::new();
    match &facts.interfaces {
        Ok(interfaces) => interfaces.iter().for_each(|interface| findings.extend(one(wanted, interface, site))),
        Err(untold) => {
            let case = |name| Case { group: Group::Irq, name, subject: None };
            findings.extend(case("affinity").judge(&wanted.affinity, AFFINITY, Err(untold.clone())));
            findings.extend(case("rps").judge(&wanted.rps, wanted.rps.wanted.word(), Err(untold.clone())));
            findings.extend(case("xps").judge(&wanted.xps, XPS, Err(untold.clone())));
        }
    }
    findings.extend(irqbalance(wanted, facts, site));
    findings
}

const AFFINITY: &str = "queue i interrupts the core of worker i";
const XPS: &str = "the core of worker i sends on queue i";

fn one(wanted: &Irq, interface: &Interface, site: &Site) -> Vec<Finding> {
    let case = |name| Case { group: Group::Irq, name, subject: subject(interface) };
    let mut findings = Vec::new();
    if wanted.affinity.wanted == Switch::On {
        let outcome = because(&interface.interrupts).map(|interrupts| {
            let misplaced: Vec<_> = interrupts
                .iter()
                .filter_map(|interrupt| Some((interrupt, core_of(interrupt.queue, site)?)))
                .filter(|(interrupt, core)| interrupt.cores != [*core])
                .collect();
            let named: Vec<String> = misplaced
                .iter()
                .map(|(interrupt, core)| format!("queue {} on {} not {core}", interrupt.queue, list(&interrupt.cores)))
                .collect();
            let repairs = misplaced.iter().map(|(interrupt, core)| {
                vec![
                    ("interface", interface.name.clone()),
                    ("number", interrupt.number.to_string()),
                    ("queue", interrupt.queue.to_string()),
                    ("core", core.to_string()),
                    ("wanted", core.to_string()),
                    ("found", list(&interrupt.cores)),
                ]
            });
            let found = match named.is_empty() {
                true => format!("{} queues as wanted", interrupts.len()),
                false => some(&named),
            };
            Outcome { is_good: misplaced.is_empty(), found, note: None, repairs: repairs.collect() }
        });
        findings.extend(case("affinity").judge(&wanted.affinity, AFFINITY, outcome));
    }
    findings.extend(rps(wanted, interface, site));
    if wanted.xps.wanted == Switch::On {
        let outcome = because(&interface.send_steering).and_then(|queues| {
            let cores = |queue: u64| -> Vec<usize> {
                let of_queue = |(worker, _): &(usize, &usize)| (*worker as u64) % queues.len() as u64 == queue;
                site.cores.iter().enumerate().filter(of_queue).map(|(_, core)| *core).collect()
            };
            match queues.len() {
                0 | 1 => Err(Untold::Inapplicable("it has one queue".to_owned())),
                _ => Ok(of_steering(queues, interface, &cores)),
            }
        });
        findings.extend(case("xps").judge(&wanted.xps, XPS, outcome));
    }
    findings
}

/// The core of the worker that a queue belongs to.
fn core_of(queue: u64, site: &Site) -> Option<usize> {
    let worker = queue.checked_rem(site.workers())?;
    site.cores.get(usize::try_from(worker).ok()?).copied()
}

/// Off where each worker has a queue; where there are fewer, packets have to be spread by software.
fn rps(wanted: &Irq, interface: &Interface, site: &Site) -> Option<Finding> {
    let queues = interface.receive_steering.as_ref().map_or(0, Vec::len) as u64;
    let is_spread = wanted.rps.wanted == Switch::On || (queues > 0 && queues < site.workers());
    let text = match is_spread {
        true => format!("cores {} ({queues} queues, {} workers)", list(&sorted(site)), site.workers()),
        false => "off".to_owned(),
    };
    let outcome = because(&interface.receive_steering)
        .map(|queues| of_steering(queues, interface, &|_| if is_spread { sorted(site) } else { Vec::new() }));
    Case { group: Group::Irq, name: "rps", subject: subject(interface) }.judge(&wanted.rps, text, outcome)
}

fn sorted(site: &Site) -> Vec<usize> {
    let mut cores = site.cores.clone();
    cores.sort_unstable();
    cores
}

/// Whether each queue has the cores that it is to have.
fn of_steering(queues: &[Steering], interface: &Interface, cores: &dyn Fn(u64) -> Vec<usize>) -> Outcome {
    let word = |cores: &[usize]| if cores.is_empty() { "off".to_owned() } else { format!("cores {}", list(cores)) };
    let mut named = Vec::new();
    let mut repairs = Vec::new();
    for queue in queues {
        let mut wanted = cores(queue.queue);
        wanted.sort_unstable();
        if queue.cores != wanted {
            named.push(format!("queue {}: {}", queue.queue, word(&queue.cores)));
            repairs.push(vec![
                ("interface", interface.name.clone()),
                ("queue", queue.queue.to_string()),
                ("mask", mask(&wanted)),
                ("wanted", mask(&wanted)),
                ("found", queue.mask.clone()),
            ]);
        }
    }
    let found = match named.is_empty() {
        true => queues.first().map_or("no queue".to_owned(), |queue| match queues.len() {
            1 => word(&queue.cores),
            count => format!("{count} queues as wanted"),
        }),
        false => some(&named),
    };
    Outcome { is_good: named.is_empty(), found, note: None, repairs }
}

fn irqbalance(wanted: &Irq, facts: &Facts, site: &Site) -> Option<Finding> {
    let is_wanted = wanted.irqbalance.wanted == Switch::On;
    let text = if is_wanted { "runs" } else { "leaves workers' cores alone" };
    let outcome: Fact<Outcome> = match &facts.interfaces {
        Err(untold @ Untold::Inapplicable(_)) => Err(untold.clone()),
        _ => because(&facts.irqbalance).map(|daemon| {
            let (is_good, found) = match daemon {
                None => (!is_wanted, "does not run".to_owned()),
                Some(daemon) if site.cores.iter().all(|core| daemon.banned.contains(core)) => {
                    (true, format!("runs, and leaves cores {} alone", list(&daemon.banned)))
                }
                Some(_) => (is_wanted, "runs, and moves interrupts on workers' cores".to_owned()),
            };
            let cores = list(&sorted(site));
            Outcome::one(is_good, found, &[("wanted", &cores)])
        }),
    };
    Case { group: Group::Irq, name: "irqbalance", subject: None }.judge(&wanted.irqbalance, text, outcome)
}
