//! Interrupts of an interface's receive queues, who moves them, and steering by software.

use super::cpu::{cpu_list, cpu_mask};
use super::nic::queue_of;
use super::{Fact, Untold};
use crate::tune::machine::{Machine, last_number};

/// Interrupt of a receive queue.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Interrupt {
    /// As `/proc/interrupts` numbers it.
    pub number: u64,
    /// The queue.
    pub queue: u64,
    /// Cores that it may come to.
    pub cores: Vec<usize>,
}

/// Cores of one queue.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Steering {
    /// The queue's number.
    pub queue: u64,
    /// The file that holds them.
    pub path: String,
    /// As the file has it.
    pub mask: String,
    /// The same, read.
    pub cores: Vec<usize>,
}

/// A daemon that moves interrupts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct IrqBalance {
    /// Cores that it leaves alone.
    pub banned: Vec<usize>,
}

/// Words in the name of an interrupt that is of no receive queue.
const OTHER: [&str; 12] =
    ["config", "output", "-tx", "async", "event", "misc", "mgmt", "control", "pages", "cmd", "fdir", "aen"];

pub(super) fn interrupts(machine: &Machine<'_>, interface: &str) -> Fact<Vec<Interrupt>> {
    let text = machine.read("/proc/interrupts")?;
    let folder = format!("/sys/class/net/{interface}/device");
    if !machine.has(&folder) {
        return Err(Untold::Inapplicable("it is made of software, without a device".to_owned()));
    }
    // Of a PCI device itself, or of the one that a virtio device is in.
    let own = ["msi_irqs", "../msi_irqs"].iter().find_map(|name| machine.entries(&format!("{folder}/{name}")).ok());
    let own: Vec<u64> = own.unwrap_or_default().iter().filter_map(|number| number.parse().ok()).collect();
    let mut found = Vec::new();
    for line in text.lines() {
        let Some((number, rest)) = line.split_once(':') else { continue };
        let (Ok(number), Some(name)) = (number.trim().parse::<u64>(), rest.split_whitespace().last()) else { continue };
        // Drivers put the interface or the device's own name first; what comes behind `@` is the PCI address.
        let name = name.split('@').next().unwrap_or_default();
        let is_own = own.contains(&number) || name.contains(interface);
        let lower = name.to_ascii_lowercase();
        if !is_own
            || OTHER.iter().any(|word| lower.contains(word) && !lower.contains("txrx") && !lower.contains("tx-rx"))
        {
            continue;
        }
        // The interface's own number is none of a queue: `eth0` alone is for everything else.
        let Some(queue) = last_number(&name.replace(interface, "")) else { continue };
        let path = format!("/proc/irq/{number}/smp_affinity_list");
        // Where it really comes to, of the cores that it may come to.
        let cores = machine
            .read(&format!("/proc/irq/{number}/effective_affinity_list"))
            .ok()
            .filter(|cores| !cores.is_empty())
            .map_or_else(|| machine.read(&path), Ok)?;
        found.push(Interrupt { number, queue, cores: cpu_list(&path, &cores)? });
    }
    if found.is_empty() {
        return Err(Untold::Inapplicable("none of /proc/interrupts is known as that of a receive queue".to_owned()));
    }
    found.sort_by_key(|interrupt| (interrupt.queue, interrupt.number));
    Ok(found)
}

pub(super) fn steering(machine: &Machine<'_>, interface: &str, queue: &str, file: &str) -> Fact<Vec<Steering>> {
    let folder = format!("/sys/class/net/{interface}/queues");
    let mut found = Vec::new();
    for name in machine.entries(&folder)?.iter().filter(|name| name.starts_with(queue)) {
        let path = format!("{folder}/{name}/{file}");
        // The kernel shows these of a single send queue and does not let them be read.
        let mask = machine.read_within(&path, &folder, "it has one queue")?;
        let Some(queue) = queue_of(name) else { continue };
        found.push(Steering { queue, cores: cpu_mask(&path, &mask)?, mask, path });
    }
    Ok(found)
}

/// The daemon that moves interrupts, when one runs.
pub(super) fn irqbalance(machine: &Machine<'_>) -> Fact<Option<IrqBalance>> {
    let processes = machine.entries("/proc")?;
    let processes = processes.iter().filter(|name| name.bytes().all(|digit| digit.is_ascii_digit()));
    for process in processes {
        if machine.read(&format!("/proc/{process}/comm")).as_deref() != Ok("irqbalance") {
            continue;
        }
        let environment = machine.read(&format!("/proc/{process}/environ"))?;
        let banned = environment.split('\0').find_map(|word| word.strip_prefix("IRQBALANCE_BANNED_CPULIST="));
        let banned = banned.map_or(Ok(Vec::new()), |cores| cpu_list("IRQBALANCE_BANNED_CPULIST", cores))?;
        return Ok(Some(IrqBalance { banned }));
    }
    Ok(None)
}
