//! What the kernel tells of this machine: which cores are hyper-threads of one, which are near which memory, and on which cores
//! the packets of an interface arrive.
//!
//! Invariant: everything is read below one root, so that a test can show another machine. What the kernel does not tell is
//! never guessed: it is an empty list, or an error in words.

use std::fs;
use std::io;
use std::net::IpAddr;
use std::path::{Path, PathBuf};

use crate::limits::INTERFACE_LAYERS_MAX;

/// Parts of interrupts' names that are none of a receive queue: settings, link state, and queues for what is sent.
const OTHER_INTERRUPTS: [&str; 9] = ["config", "async", "ctrl", "cmd", "mgmnt", "mgmt", "misc", "event", "fdir"];
const SENDING_INTERRUPTS: [&str; 2] = ["tx", "output"];
const RECEIVING_INTERRUPTS: [&str; 2] = ["rx", "input"];

/// A machine.
#[derive(Clone, Debug)]
pub struct Machine {
    root: PathBuf,
    /// Interfaces with their addresses, or why they are not known.
    addresses: Result<Vec<(String, IpAddr)>, String>,
}

/// The NUMA node of some cores.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Node {
    /// Its number.
    pub number: usize,
    /// Its cores.
    pub cores: Vec<usize>,
}

/// A receive queue.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Queue {
    /// As in `rx-0 of eth0`.
    pub name: String,
    /// Cores that its packets are handed to.
    pub cores: Vec<usize>,
}

impl Machine {
    /// This one.
    pub fn here() -> Self {
        let named = |interface: if_addrs::Interface| {
            // `eth0:1` is another address of `eth0`.
            let name = interface.name.split(':').next().unwrap_or_default().to_owned();
            (name, interface.addr.ip())
        };
        let addresses = match if_addrs::get_if_addrs() {
            Ok(interfaces) => Ok(interfaces.into_iter().map(named).collect()),
            Err(error) => Err(format!(
                "it cannot be asked which interface has this address: {error}; sandboxes must allow AF_NETLINK"
            )),
        };
        Self { root: PathBuf::from("/"), addresses }
    }

    /// One whose `/sys` and `/proc` are below this folder.
    pub fn at(root: &Path, addresses: Vec<(String, IpAddr)>) -> Self {
        Self { root: root.to_owned(), addresses: Ok(addresses) }
    }

    /// The hyper-threads of a core's physical core, that core among them.
    pub fn siblings(&self, core: usize) -> Vec<usize> {
        let path = format!("sys/devices/system/cpu/cpu{core}/topology/thread_siblings_list");
        let mut siblings = self.read(&path).map(|text| cores_of(&text)).unwrap_or_default();
        if !siblings.contains(&core) {
            siblings.push(core);
        }
        siblings
    }

    /// The NUMA nodes, in the order of their numbers; nothing where the kernel tells of none.
    pub fn nodes(&self) -> Vec<Node> {
        let folder = "sys/devices/system/node";
        let numbers = self.numbered(folder, "node");
        let node = |number| {
            let cores = self.read(&format!("{folder}/node{number}/cpulist"))?;
            Some(Node { number, cores: cores_of(&cores) })
        };
        numbers.into_iter().filter_map(node).collect()
    }

    /// The interfaces that packets for an address come in by: the one that has it, or for a wildcard address all that are up and
    /// have receive queues.
    ///
    /// # Errors
    /// The kernel does not tell which interface has which address.
    pub fn interfaces_of(&self, address: IpAddr) -> Result<Vec<String>, String> {
        if address.is_unspecified() {
            let is_used = |name: &String| self.has_queues(name) && !self.is_down(name);
            return Ok(self.names("sys/class/net").into_iter().filter(is_used).collect());
        }
        let owners = self.addresses.as_ref().map_err(String::clone)?.iter().filter(|(_, of)| *of == address);
        Ok(owners.map(|(name, _)| name.clone()).collect())
    }

    /// The receive queues by which the packets of an interface arrive: its own, or those of the interfaces below it (of a bridge,
    /// a bond, a VLAN).
    ///
    /// # Errors
    /// It has none, or the kernel does not tell which cores they are on.
    pub fn queues_of(&self, interface: &str) -> Result<Vec<Queue>, String> {
        self.queues_below(interface, INTERFACE_LAYERS_MAX)
    }

    fn queues_below(&self, interface: &str, layers_max: usize) -> Result<Vec<Queue>, String> {
        if self.has_queues(interface) {
            return self.own_queues(interface);
        }
        let entries = self.names(&format!("sys/class/net/{interface}"));
        let lower: Vec<&str> = entries.iter().filter_map(|entry| entry.strip_prefix("lower_")).collect();
        if lower.is_empty() {
            return Err(format!("packets of {interface} arrive on the core that has sent them"));
        }
        if layers_max == 0 {
            return Err(format!("there are too many layers of interfaces below {interface}"));
        }
        let queues = lower.into_iter().map(|lower| self.queues_below(lower, layers_max - 1));
        queues.collect::<Result<Vec<_>, _>>().map(|queues| queues.concat())
    }

    fn own_queues(&self, interface: &str) -> Result<Vec<Queue>, String> {
        let folder = format!("sys/class/net/{interface}/queues");
        let numbers = self.numbered(&folder, "rx-");
        if numbers.is_empty() {
            return Err(format!("the kernel tells of no receive queue of {interface}"));
        }
        let interrupts = self.receive_interrupts(interface);
        let queue = |(place, number): (usize, &usize)| {
            let name = format!("rx-{number} of {interface}");
            let mask = self.read(&format!("{folder}/rx-{number}/rps_cpus")).unwrap_or_default();
            let steered = cores_of_mask(&mask);
            if !steered.is_empty() {
                return Ok(Queue { name, cores: steered });
            }
            let interrupt = interrupts.get(place).filter(|_| interrupts.len() >= numbers.len());
            let cores = interrupt.map(|&interrupt| self.cores_of_interrupt(interrupt)).unwrap_or_default();
            if cores.is_empty() {
                return Err(format!("the kernel does not tell which core the receive queue {name} interrupts"));
            }
            Ok(Queue { name, cores })
        };
        numbers.iter().enumerate().map(queue).collect()
    }

    /// The interrupts of an interface's receive queues, in the order of their numbers.
    fn receive_interrupts(&self, interface: &str) -> Vec<usize> {
        let Ok(device) = fs::canonicalize(self.root.join(format!("sys/class/net/{interface}/device"))) else {
            return Vec::new();
        };
        // A virtio device is one on a PCI device, which has the interrupts.
        let folders = [Some(device.as_path()), device.parent()];
        let found = folders.into_iter().flatten().map(|folder| names_in(&folder.join("msi_irqs")).unwrap_or_default());
        let mut numbers: Vec<usize> =
            found.filter(|names| !names.is_empty()).take(1).flatten().filter_map(|name| name.parse().ok()).collect();
        numbers.sort_unstable();
        let table = self.read("proc/interrupts").unwrap_or_default();
        let name_of = |number: &usize| {
            let of_number =
                |line: &&str| line.split(':').next().and_then(|text| text.trim().parse().ok()) == Some(*number);
            table.lines().find(of_number)?.split_whitespace().last().map(str::to_lowercase)
        };
        let receives = |number: &usize| {
            let Some(name) = name_of(number) else { return false };
            let holds = |parts: &[&str]| parts.iter().any(|part| name.contains(part));
            !holds(&OTHER_INTERRUPTS) && (holds(&RECEIVING_INTERRUPTS) || !holds(&SENDING_INTERRUPTS))
        };
        numbers.into_iter().filter(receives).collect()
    }

    /// Where the interrupt goes, or else where it may go.
    fn cores_of_interrupt(&self, interrupt: usize) -> Vec<usize> {
        let files = ["effective_affinity_list", "smp_affinity_list"].into_iter();
        let cores = files.filter_map(|file| self.read(&format!("proc/irq/{interrupt}/{file}")));
        cores.map(|text| cores_of(&text)).find(|cores| !cores.is_empty()).unwrap_or_default()
    }

    fn has_queues(&self, interface: &str) -> bool {
        self.root.join(format!("sys/class/net/{interface}/device")).exists()
    }

    fn is_down(&self, interface: &str) -> bool {
        self.read(&format!("sys/class/net/{interface}/operstate")).is_some_and(|state| state == "down")
    }

    fn read(&self, path: &str) -> Option<String> {
        fs::read_to_string(self.root.join(path)).ok().map(|text| text.trim().to_owned())
    }

    /// The numbers of a folder's entries that begin so, in order.
    fn numbered(&self, folder: &str, prefix: &str) -> Vec<usize> {
        let names = self.names(folder);
        let mut numbers: Vec<usize> = names.iter().filter_map(|name| name.strip_prefix(prefix)?.parse().ok()).collect();
        numbers.sort_unstable();
        numbers
    }

    /// A folder's entries, in order.
    fn names(&self, folder: &str) -> Vec<String> {
        names_in(&self.root.join(folder)).unwrap_or_default()
    }
}

fn names_in(folder: &Path) -> io::Result<Vec<String>> {
    let names = fs::read_dir(folder)?.filter_map(|entry| entry.ok()?.file_name().into_string().ok());
    let mut names: Vec<String> = names.collect();
    names.sort_unstable();
    Ok(names)
}

/// `0-3,8` as the kernel writes it; what is not of that form is passed over.
fn cores_of(list: &str) -> Vec<usize> {
    let range = |part: &str| {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        Some(first.parse::<usize>().ok()?..=last.parse().ok()?)
    };
    list.split(',').filter_map(range).flatten().collect()
}

/// `00000000,0000000f` as the kernel writes it: 32 cores a word, the highest first.
fn cores_of_mask(mask: &str) -> Vec<usize> {
    let words = mask.rsplit(',').map(|word| u32::from_str_radix(word, 16).unwrap_or(0));
    let of_word =
        |(place, word): (usize, u32)| (0..32).filter(move |bit| word >> bit & 1 == 1).map(move |bit| 32 * place + bit);
    words.enumerate().flat_map(of_word).collect()
}

#[cfg(test)]
pub mod tests;
