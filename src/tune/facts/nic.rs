//! Interfaces: what their drivers say through `ethtool`, and the files of their queues.
//!
//! `ethtool` before 6.9 prints little of it as JSON, so its text is read: `Name: value` lines, of which a driver that has no
//! such thing says `n/a` or nothing.

use super::irq::{self, Interrupt, Steering};
use super::{Fact, Untold};
use crate::tune::machine::{Machine, last_number};

/// What an interface is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// It has a device under it, real or of the host.
    Device,
    /// It is made of software alone: loopback, veth, dummy, tunnel.
    Software,
}

/// An interface that questions come in by.
#[derive(Clone, Debug)]
pub struct Interface {
    /// Its name.
    pub name: String,
    /// What it is.
    pub kind: Fact<Kind>,
    /// Receive queues now and at most.
    pub queues: Fact<Range>,
    /// Places of a receive ring now and at most.
    pub rx_ring: Fact<Range>,
    /// The same for sending.
    pub tx_ring: Fact<Range>,
    /// What of an IPv4 datagram chooses its queue, in ethtool's letters.
    pub udp4_hash: Fact<String>,
    /// The same for IPv6.
    pub udp6_hash: Fact<String>,
    /// The indirection table.
    pub table: Fact<Table>,
    /// How often it interrupts.
    pub coalescing: Fact<Coalescing>,
    /// What it merges.
    pub features: Fact<Features>,
    /// Whether a full ring stops the sender.
    pub flow_control_rx: Fact<bool>,
    /// Interrupts of its receive queues.
    pub interrupts: Fact<Vec<Interrupt>>,
    /// Cores that packets of each receive queue are handed to by software.
    pub receive_steering: Fact<Vec<Steering>>,
    /// Cores that send on each queue.
    pub send_steering: Fact<Vec<Steering>>,
    /// Its NUMA node; none where there is one only.
    pub node: Fact<u64>,
}

/// A number now, and the most it can be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Range {
    /// Now.
    pub now: u64,
    /// At most.
    pub max: u64,
}

/// How many places of the indirection table name each queue.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Table(pub Vec<u64>);

/// How often a queue interrupts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Coalescing {
    /// Whether the driver chooses; none when it cannot.
    pub is_adaptive: Option<bool>,
    /// Microseconds that an interrupt is held back; none when it cannot be.
    pub rx_usecs: Option<u64>,
}

/// What is merged before the kernel sees it: whether it is on, and whether that can be changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Features {
    /// Generic receive offload.
    pub gro: Option<(bool, bool)>,
    /// Large receive offload.
    pub lro: Option<(bool, bool)>,
}

impl Interface {
    /// Reads all of it.
    pub fn read(machine: &Machine<'_>, name: String) -> Self {
        let kind = kind(machine, &name);
        let ask = |option: &str| match &kind {
            Ok(Kind::Software) => Err(Untold::Inapplicable("it is made of software, without a device".to_owned())),
            Ok(Kind::Device) => machine.ask("ethtool", &[option, &name]),
            Err(untold) => Err(untold.clone()),
        };
        let rings = ask("-g");
        Self {
            queues: ask("-l").and_then(|text| queues(&text)),
            rx_ring: rings.clone().and_then(|text| range(&text, "RX")),
            tx_ring: rings.and_then(|text| range(&text, "TX")),
            udp4_hash: hash(machine, &kind, &name, "udp4"),
            udp6_hash: hash(machine, &kind, &name, "udp6"),
            table: ask("-x").and_then(|text| table(&text)),
            coalescing: ask("-c").map(|text| coalescing(&text)),
            features: ask("-k").map(|text| features(&text)),
            flow_control_rx: ask("-a").and_then(|text| {
                let rx = value(&text, "RX").ok_or_else(|| silent("flow control"))?;
                Ok(rx == "on")
            }),
            interrupts: irq::interrupts(machine, &name),
            receive_steering: irq::steering(machine, &name, "rx-", "rps_cpus"),
            send_steering: irq::steering(machine, &name, "tx-", "xps_cpus"),
            node: node(machine, &name),
            kind,
            name,
        }
    }
}

fn kind(machine: &Machine<'_>, name: &str) -> Fact<Kind> {
    let folder = format!("/sys/class/net/{name}");
    if machine.has(&format!("{folder}/device")) {
        return Ok(Kind::Device);
    }
    if machine.has(&folder) {
        return Ok(Kind::Software);
    }
    match machine.has("/sys/class/net") {
        true => Err(Untold::Unreadable(format!("there is no interface {name} here (`ip link` shows those there are)"))),
        false => Err(Untold::Missing("/sys/class/net".to_owned())),
    }
}

fn node(machine: &Machine<'_>, name: &str) -> Fact<u64> {
    let only = || Untold::Inapplicable("it belongs to no NUMA node".to_owned());
    let folder = format!("/sys/class/net/{name}");
    let text = machine.read_within(&format!("{folder}/device/numa_node"), &folder, "it belongs to no NUMA node")?;
    // -1: the firmware does not say.
    text.parse().map_err(|_| only())
}

fn silent(what: &str) -> Untold {
    Untold::Inapplicable(format!("the driver tells nothing of {what}"))
}

/// The value of the last line `name: value`: what is set stands behind what is possible.
fn value<'a>(text: &'a str, name: &str) -> Option<&'a str> {
    let values = text.lines().filter_map(|line| line.trim().strip_prefix(name)?.strip_prefix(':'));
    values.map(str::trim).next_back().filter(|value| !value.is_empty() && !value.starts_with("n/a"))
}

/// A value now, and the maximum that stands before the words `Current hardware settings`.
fn range(text: &str, name: &str) -> Fact<Range> {
    let (before, after) = text.split_once("Current hardware settings").unwrap_or(("", text));
    let number = |text| value(text, name).and_then(|value| value.split_whitespace().next()?.parse().ok());
    let now: u64 = number(after).ok_or_else(|| silent(&format!("its {name} numbers")))?;
    Ok(Range { now, max: number(before).unwrap_or(now) })
}

/// Queues that receive: combined ones, or those of drivers that keep both directions apart.
fn queues(text: &str) -> Fact<Range> {
    let combined = range(text, "Combined").ok().filter(|range| range.max > 0);
    combined.map_or_else(|| range(text, "RX"), Ok)
}

fn hash(machine: &Machine<'_>, kind: &Fact<Kind>, name: &str, flow: &str) -> Fact<String> {
    if *kind != Ok(Kind::Device) {
        return Err(Untold::Inapplicable("it is made of software, without a device".to_owned()));
    }
    let text = machine.ask("ethtool", &["-n", name, "rx-flow-hash", flow])?;
    let letters = [("IP SA", "s"), ("IP DA", "d"), ("L4 bytes 0 & 1", "f"), ("L4 bytes 2 & 3", "n")];
    let letters: String = letters.iter().filter(|(words, _)| text.contains(words)).map(|(_, letter)| *letter).collect();
    match letters.is_empty() {
        true => Err(Untold::Inapplicable("it does not spread by hash".to_owned())),
        false => Ok(letters),
    }
}

fn table(text: &str) -> Fact<Table> {
    let mut places: Vec<u64> = Vec::new();
    for line in text.lines() {
        // `    8:      0     1     0     1`
        let Some((at, queues)) = line.split_once(':') else { continue };
        if at.trim().parse::<u64>().is_err() {
            continue;
        }
        for queue in queues.split_whitespace() {
            let Some(queue) = queue.parse().ok().filter(|queue| *queue < crate::limits::CORES_MAX) else {
                return super::unreadable("ethtool -x", line);
            };
            if places.len() <= queue {
                places.resize(queue + 1, 0);
            }
            places[queue] += 1;
        }
    }
    if places.is_empty() { Err(silent("its indirection table")) } else { Ok(Table(places)) }
}

fn coalescing(text: &str) -> Coalescing {
    // `Adaptive RX: off  TX: n/a`
    let adaptive = value(text, "Adaptive RX").and_then(|value| value.split_whitespace().next());
    Coalescing {
        is_adaptive: adaptive.map(|word| word == "on"),
        rx_usecs: value(text, "rx-usecs").and_then(|value| value.parse().ok()),
    }
}

fn features(text: &str) -> Features {
    // `large-receive-offload: off [fixed]`
    let feature = |name| value(text, name).map(|value| (value.starts_with("on"), !value.contains("[fixed]")));
    Features { gro: feature("generic-receive-offload"), lro: feature("large-receive-offload") }
}

/// The queue of a folder such as `rx-3`.
pub(super) fn queue_of(folder: &str) -> Option<u64> {
    last_number(folder)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_current_number_and_the_most_are_told_apart() {
        let text = "Channel parameters for eth0:\nPre-set maximums:\nRX:\t\tn/a\nCombined:\t16\nCurrent hardware settings:\nRX:\t\tn/a\nCombined:\t8\n";
        assert_eq!(queues(text), Ok(Range { now: 8, max: 16 }));
        let apart = text.replace("Combined:\t16", "Combined:\t0").replace("Combined:\t8", "Combined:\t0");
        assert!(queues(&apart).is_err(), "neither way has a number");
        assert_eq!(queues(&apart.replace("RX:\t\tn/a", "RX:\t\t4")), Ok(Range { now: 4, max: 4 }));
    }

    #[test]
    fn a_table_is_counted_by_queue_and_nonsense_is_told() {
        let text = "RX flow hash indirection table for eth0 with 2 RX ring(s):\n    0:      0     1     0     1\n    4:      0     1     0     0\nRSS hash key:\naa:bb:cc\n";
        assert_eq!(table(text), Ok(Table(vec![5, 3])));
        assert!(table("    0:  0 x\n").is_err());
        assert!(
            table("RX flow hash indirection table for eth0 with 1 RX ring(s):\nOperation not supported\n").is_err()
        );
    }

    #[test]
    fn what_a_driver_cannot_do_is_none() {
        let told = coalescing("Adaptive RX: n/a  TX: n/a\nrx-usecs: n/a\nrx-usecs-irq: 3\n");
        assert_eq!(told, Coalescing { is_adaptive: None, rx_usecs: None });
        let told = coalescing("Adaptive RX: on  TX: off\nrx-usecs: 50\n");
        assert_eq!(told, Coalescing { is_adaptive: Some(true), rx_usecs: Some(50) });
        let told = features("generic-receive-offload: on\nlarge-receive-offload: off [fixed]\n");
        assert_eq!(told, Features { gro: Some((true, true)), lro: Some((false, false)) });
    }
}
