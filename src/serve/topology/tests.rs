//! Machines that are written down as folders, read as the kernel's own.

use std::fs;
use std::os::unix::fs::symlink;

use super::*;

/// A machine whose `/sys` and `/proc` are written file by file.
pub struct Fake {
    folder: tempfile::TempDir,
    addresses: Vec<(String, IpAddr)>,
    interrupts: String,
}

impl Default for Fake {
    /// One of which nothing is known.
    fn default() -> Self {
        Self { folder: tempfile::tempdir().unwrap(), addresses: Vec::new(), interrupts: String::new() }
    }
}

impl Fake {
    /// With this file.
    pub fn file(self, path: &str, text: &str) -> Self {
        let path = self.folder.path().join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
        self
    }

    /// With an address.
    pub fn address(mut self, interface: &str, address: &str) -> Self {
        self.addresses.push((interface.to_owned(), address.parse().unwrap()));
        self
    }

    /// With hyper-threads: each of these is one physical core.
    pub fn physical_cores(mut self, cores: &[&str]) -> Self {
        for list in cores {
            for core in cores_of(list) {
                let path = format!("sys/devices/system/cpu/cpu{core}/topology/thread_siblings_list");
                self = self.file(&path, &format!("{list}\n"));
            }
        }
        self
    }

    /// With NUMA nodes.
    pub fn nodes(mut self, nodes: &[&str]) -> Self {
        for (number, cores) in nodes.iter().enumerate() {
            self = self.file(&format!("sys/devices/system/node/node{number}/cpulist"), &format!("{cores}\n"));
        }
        self
    }

    /// With a NIC on the PCI bus, whose interrupts from this number on have these names and go to these cores.
    pub fn nic(mut self, interface: &str, first: usize, interrupts: &[(&str, &str)]) -> Self {
        let device = format!("sys/devices/pci0/{interface}");
        self = self.file(&format!("{device}/vendor"), "0x1af4\n");
        for (number, (name, cores)) in (first..).zip(interrupts) {
            self = self.file(&format!("{device}/msi_irqs/{number}"), "msix\n");
            self = self.file(&format!("proc/irq/{number}/smp_affinity_list"), "0-63\n");
            self = self.file(&format!("proc/irq/{number}/effective_affinity_list"), &format!("{cores}\n"));
            self.interrupts += &format!(" {number}:  17  0   IR-PCI-MSI-0000:18:00.0  {number}-edge      {name}\n");
        }
        let interface = format!("sys/class/net/{interface}");
        self = self.file(&format!("{interface}/operstate"), "up\n");
        let to = self.folder.path();
        symlink(to.join(&device), to.join(&interface).join("device")).unwrap();
        let table = format!("           CPU0       CPU1\n{}NMI:  0  0  Non-maskable\n", self.interrupts);
        self.file("proc/interrupts", &table)
    }

    /// With receive queues of an interface, each with its mask of cores that it hands packets on to.
    pub fn queues(mut self, interface: &str, masks: &[&str]) -> Self {
        for (number, mask) in masks.iter().enumerate() {
            self = self.file(&format!("sys/class/net/{interface}/queues/rx-{number}/rps_cpus"), &format!("{mask}\n"));
        }
        self
    }

    /// As it is read.
    pub fn machine(&self) -> Machine {
        Machine::at(self.folder.path(), self.addresses.clone())
    }
}

fn cores(queues: &[Queue]) -> Vec<Vec<usize>> {
    queues.iter().map(|queue| queue.cores.clone()).collect()
}

#[test]
fn hyper_threads_and_nodes_are_read_as_the_kernel_tells_them() {
    let fake = Fake::default().physical_cores(&["0,4", "1,5", "2-3"]).nodes(&["0-3", "", "8,10-11"]);
    let fake = fake.file("sys/devices/system/node/power", "9\n");
    let machine = fake.machine();
    assert_eq!([4, 3, 9].map(|core| machine.siblings(core)), [vec![0, 4], vec![2, 3], vec![9]]);
    let nodes: Vec<(usize, Vec<usize>)> = machine.nodes().into_iter().map(|node| (node.number, node.cores)).collect();
    assert_eq!(nodes, [(0, vec![0, 1, 2, 3]), (1, vec![]), (2, vec![8, 10, 11])]);
    assert!(Fake::default().machine().nodes().is_empty());
}

#[test]
fn masks_are_read_in_words_of_32_cores() {
    assert_eq!(cores_of_mask("00000000,0000000f"), [0, 1, 2, 3]);
    assert_eq!(cores_of_mask("80000001,00000000,00000002"), [1, 64, 95]);
    assert!(cores_of_mask("0").is_empty() && cores_of_mask("").is_empty());
}

#[test]
fn a_queue_is_on_the_core_that_it_interrupts_whatever_the_driver_calls_it() {
    let cards: [&[(&str, &str)]; 4] = [
        &[("eth0", "7"), ("eth0-TxRx-0", "2"), ("eth0-TxRx-1", "3")][1..],
        &[("virtio3-config", "9"), ("virtio3-input.0", "2"), ("virtio3-output.0", "9"), ("virtio3-input.1", "3")],
        &[("mlx5_async0@pci:0000:18:00.0", "9"), ("mlx5_comp0@pci:0000:18:00.0", "2"), ("mlx5_comp1@pci:0", "3")],
        &[("ena-mgmnt@pci:0000:00:05.0", "9"), ("eth0-Tx-Rx-0", "2"), ("eth0-Tx-Rx-1", "3")],
    ];
    for card in cards {
        let fake = Fake::default().nic("eth0", 98, card).queues("eth0", &["0", "0"]);
        assert_eq!(cores(&fake.machine().queues_of("eth0").unwrap()), [[2], [3]], "{card:?}");
    }
}

#[test]
fn a_virtio_card_has_its_interrupts_on_the_device_above() {
    let fake =
        Fake::default().nic("pci", 40, &[("virtio3-input.0", "5"), ("virtio3-output.0", "6")]).queues("eth0", &["0"]);
    let root = fake.folder.path();
    fs::create_dir(root.join("sys/devices/pci0/pci/virtio3")).unwrap();
    symlink(root.join("sys/devices/pci0/pci/virtio3"), root.join("sys/class/net/eth0/device")).unwrap();
    assert_eq!(cores(&fake.machine().queues_of("eth0").unwrap()), [[5]]);
}

#[test]
fn where_packets_are_handed_on_those_cores_count() {
    let fake = Fake::default().nic("eth0", 5, &[("eth0-rx-0", "0")]).queues("eth0", &["00000000,0000000e"]);
    assert_eq!(cores(&fake.machine().queues_of("eth0").unwrap()), [[1, 2, 3]]);
}

#[test]
fn a_bond_and_a_vlan_on_it_have_the_queues_of_their_cards() {
    let fake = Fake::default().nic("eth0", 5, &[("eth0-rx-0", "0")]).queues("eth0", &["0"]);
    let fake = fake.nic("eth1", 8, &[("eth1-rx-0", "1")]).queues("eth1", &["0"]);
    let fake = fake.file("sys/class/net/bond0/lower_eth0/x", "").file("sys/class/net/bond0/lower_eth1/x", "");
    let machine = fake.file("sys/class/net/bond0.7/lower_bond0/x", "");
    assert_eq!(cores(&machine.machine().queues_of("bond0.7").unwrap()), [[0], [1]]);
}

#[test]
fn what_is_not_told_is_said_to_be_so() {
    let fake = Fake::default().nic("eth0", 5, &[("eth0-rx-0", "0")]).queues("eth0", &["0", "0"]);
    let fake = fake.queues("lo", &["0"]).file("sys/class/net/loop0/lower_loop0/x", "");
    let error = |interface| fake.machine().queues_of(interface).unwrap_err();
    assert_eq!(error("eth0"), "the kernel does not tell which core the receive queue rx-0 of eth0 interrupts");
    assert_eq!(error("lo"), "packets of lo arrive on the core that has sent them");
    assert_eq!(error("loop0"), "there are too many layers of interfaces below loop0");
}

#[test]
fn an_address_is_on_its_interface_and_a_wildcard_on_all_that_receive() {
    let fake = Fake::default().nic("eth0", 5, &[]).nic("eth1", 8, &[]).nic("eth2", 9, &[]);
    let fake = fake.file("sys/class/net/eth1/operstate", "down\n").queues("lo", &["0"]).address("lo", "127.0.0.1");
    let machine = fake.address("eth1", "192.0.2.1").address("eth1", "2001:db8::1");
    let of = |address: &str| machine.machine().interfaces_of(address.parse().unwrap()).unwrap();
    assert_eq!(of("0.0.0.0"), ["eth0", "eth2"]);
    assert_eq!(of("::"), ["eth0", "eth2"]);
    assert_eq!(of("192.0.2.1"), ["eth1"]);
    assert_eq!(of("2001:db8::1"), ["eth1"]);
    assert!(of("192.0.2.2").is_empty());
}

#[test]
fn this_machine_has_a_loopback_interface() {
    assert_eq!(Machine::here().interfaces_of("127.0.0.1".parse().unwrap()).unwrap(), ["lo"]);
}
