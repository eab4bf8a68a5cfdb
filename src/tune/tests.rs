//! Machines that a test makes as folders, and what is found of them.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

use super::facts::{Facts, Untold};
use super::finding::{Finding, Group, State};
use super::judge::judge;
use super::machine::Machine;
use super::programs::{Programs, Said};
use super::site::Site;
use super::wanted::{self, Wanted};
use crate::limits::UDP_RECEIVE_BUFFER_BYTES;

/// Programs that say what a test has them say, by their whole command line.
#[derive(Default)]
struct Told {
    sayings: BTreeMap<String, Said>,
    asked: RefCell<Vec<String>>,
}

impl Told {
    fn says(mut self, command: &str, output: &str) -> Self {
        let said = Said { is_success: true, output: output.to_owned(), errors: String::new() };
        self.sayings.insert(command.to_owned(), said);
        self
    }

    fn fails(mut self, command: &str, errors: &str) -> Self {
        let said = Said { is_success: false, output: String::new(), errors: errors.to_owned() };
        self.sayings.insert(command.to_owned(), said);
        self
    }
}

impl Programs for Told {
    fn run(&self, program: &str, arguments: &[&str]) -> Result<Said, Untold> {
        let command = format!("{program} {}", arguments.join(" "));
        self.asked.borrow_mut().push(command.clone());
        self.sayings.get(&command).cloned().ok_or_else(|| Untold::NoProgram(program.to_owned()))
    }
}

/// A machine in a folder.
struct Fixture {
    root: tempfile::TempDir,
    programs: Told,
    granted: usize,
    site: Site,
}

impl Fixture {
    fn empty(cores: &[usize]) -> Self {
        let site = Site {
            configuration: None,
            cores: cores.to_vec(),
            listen: vec!["192.0.2.2:53".parse().unwrap()],
            interfaces: Vec::new(),
            store: PathBuf::from("/var/lib/corewall"),
            shards: 16,
            filter_bytes: 1 << 20,
            locked_bytes: 0,
            cache_bytes: 64 << 20,
            tcp_connections: 512,
            mmap: true,
            store_readers: 2,
            pid: None,
        };
        let root = tempfile::tempdir().unwrap();
        Self { root, programs: Told::default(), granted: UDP_RECEIVE_BUFFER_BYTES, site }
    }

    fn file(&self, path: &str, text: &str) {
        let path = self.root.path().join(path.trim_start_matches('/'));
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }

    /// Two of four cores serve; everything is as wanted.
    fn good() -> Self {
        let mut fixture = Self::empty(&[0, 1]);
        for one in &Wanted::load(None).unwrap().sysctls {
            fixture.file(&format!("/proc/sys/{}", one.key.replace('.', "/")), &one.value.replace(' ', "\t"));
        }
        fixture.file("/proc/sys/kernel/io_uring_disabled", "0\n");
        fixture.file("/proc/cmdline", "root=/dev/sda rcu_nocbs=0-1 quiet\n");
        fixture.file("/proc/meminfo", "MemTotal:       16000000 kB\nHugePages_Total:       0\n");
        fixture.file(
            "/proc/self/limits",
            "Limit                     Soft Limit           Hard Limit           Units     \n\
             Max open files            1024                 262144               files     \n\
             Max locked memory         65536                unlimited            bytes     \n",
        );
        fixture.file(
            "/proc/self/mountinfo",
            "1 0 8:1 / / rw,noatime - ext4 /dev/sda1 rw\n2 1 0:5 / /var rw,relatime - xfs /dev/sdb rw\n",
        );
        fixture.file("/proc/1/comm", "init\n");
        fixture.network();
        fixture.cores();
        fixture.file("/sys/devices/system/clocksource/clocksource0/current_clocksource", "tsc\n");
        fixture.file("/sys/devices/system/clocksource/clocksource0/available_clocksource", "tsc hpet \n");
        fixture.file("/sys/kernel/mm/transparent_hugepage/enabled", "always [madvise] never\n");
        fixture.file("/sys/devices/system/cpu/vulnerabilities/meltdown", "Not affected\n");
        fixture.programs = good_nic();
        fixture
    }

    fn network(&self) {
        self.file(
            "/proc/net/route",
            "Iface\tDestination\tGateway\tFlags\tRefCnt\tUse\tMetric\tMask\tMTU\tWindow\tIRTT\n\
             eth1\t00000000\t010200C6\t0003\t0\t0\t0\t00000000\t0\t0\t0\n\
             eth0\t000200C0\t00000000\t0001\t0\t0\t0\t00FFFFFF\t0\t0\t0\n",
        );
        for name in ["eth0", "eth1"] {
            let class = format!("/sys/class/net/{name}");
            self.file(&format!("{class}/device/numa_node"), "0\n");
            for queue in 0..2 {
                self.file(&format!("{class}/queues/rx-{queue}/rps_cpus"), "0\n");
                self.file(&format!("{class}/queues/tx-{queue}/xps_cpus"), &format!("{}\n", 1 << queue));
            }
        }
        for number in 40..43 {
            self.file(&format!("/sys/class/net/eth0/device/msi_irqs/{number}"), "msix\n");
        }
        self.file(
            "/proc/interrupts",
            "           CPU0       CPU1\n 24:  1  0  IO-APIC  5-edge  ACPI:Ged\n 40:  0  0  PCI-MSIX  0-edge  eth0\n \
             41:  5  0  PCI-MSIX  1-edge  eth0-TxRx-0\n 42:  0  7  PCI-MSIX  2-edge  eth0-TxRx-1\nNMI:  0  0  Non-maskable interrupts\n",
        );
        self.file("/proc/irq/41/smp_affinity_list", "0\n");
        self.file("/proc/irq/42/smp_affinity_list", "0-3\n");
        // Where it really comes to counts.
        self.file("/proc/irq/42/effective_affinity_list", "1\n");
    }

    fn cores(&self) {
        const FOLDER: &str = "/sys/devices/system/cpu";
        self.file(&format!("{FOLDER}/online"), "0-3\n");
        self.file(&format!("{FOLDER}/isolated"), "0-1\n");
        self.file(&format!("{FOLDER}/nohz_full"), "0-1\n");
        for core in 0..4 {
            let folder = format!("{FOLDER}/cpu{core}");
            self.file(&format!("{folder}/cpufreq/scaling_governor"), "performance\n");
            self.file(&format!("{folder}/topology/thread_siblings_list"), &format!("{core}\n"));
            self.file(&format!("{folder}/node0/cpulist"), "0-3\n");
            for (state, name, latency, disable) in [(0, "POLL", "0", "0"), (1, "C1", "1", "0"), (2, "C6", "133", "1")] {
                self.file(&format!("{folder}/cpuidle/state{state}/name"), name);
                self.file(&format!("{folder}/cpuidle/state{state}/latency"), latency);
                self.file(&format!("{folder}/cpuidle/state{state}/disable"), disable);
            }
        }
    }

    fn findings(&self) -> Vec<Finding> {
        let wanted = Wanted::load(None).unwrap();
        let granted = |_| Ok(self.granted);
        let machine = Machine::new(self.root.path(), &self.programs, &granted);
        let facts = Facts::read(&machine, &self.site, &wanted.sysctls);
        judge(&wanted, &facts, &self.site)
    }

    fn finding(&self, path: &str) -> Finding {
        let findings = self.findings();
        let mut those = findings.into_iter().filter(|finding| finding.path() == path);
        let finding = those.next().unwrap_or_else(|| panic!("no finding {path}"));
        assert_eq!(those.next(), None, "one finding {path}");
        finding
    }
}

const CHANNELS: &str =
    "Pre-set maximums:\nRX:\t\tn/a\nCombined:\t8\nCurrent hardware settings:\nRX:\t\tn/a\nCombined:\t2\n";
const RINGS: &str = "Pre-set maximums:\nRX:\t\t8192\nRX Mini:\tn/a\nTX:\t\t2048\nCurrent hardware settings:\nRX:\t\t4096\nTX:\t\t2048\n";
const HASH: &str = "UDP over IPV4 flows use these fields for computing Hash flow key:\nIP SA\nIP DA\nL4 bytes 0 & 1 [TCP/UDP src port]\nL4 bytes 2 & 3 [TCP/UDP dst port]\n";
const TABLE: &str =
    "RX flow hash indirection table for eth0 with 2 RX ring(s):\n    0:      0     1     0     1\nRSS hash key:\n";
const COALESCING: &str = "Adaptive RX: off  TX: off\nrx-usecs: 20\n";
const FEATURES: &str = "generic-receive-offload: off\nlarge-receive-offload: off [fixed]\n";
const PAUSE: &str = "Autonegotiate:\ton\nRX:\t\toff\nTX:\t\toff\n";

fn good_nic() -> Told {
    Told::default()
        .says("ethtool -l eth0", CHANNELS)
        .says("ethtool -g eth0", RINGS)
        .says("ethtool -n eth0 rx-flow-hash udp4", HASH)
        .says("ethtool -n eth0 rx-flow-hash udp6", HASH)
        .says("ethtool -x eth0", TABLE)
        .says("ethtool -c eth0", COALESCING)
        .says("ethtool -k eth0", FEATURES)
        .says("ethtool -a eth0", PAUSE)
}

fn told(findings: &[Finding], state: State) -> Vec<String> {
    findings.iter().filter(|finding| finding.state == state).map(Finding::title).collect()
}

#[test]
fn on_a_machine_that_is_set_up_nothing_differs_and_nothing_is_to_be_mended() {
    let findings = Fixture::good().findings();
    for state in [State::Differs, State::Optional, State::Unknown] {
        assert_eq!(told(&findings, state), Vec::<String>::new(), "{state:?}");
    }
    let not_here = told(&findings, State::NotApplicable);
    assert!(not_here.iter().all(|title| title.starts_with("storage.zfs_")), "{not_here:?}");
    assert!(findings.iter().all(|finding| finding.commands.is_empty() && finding.by_hand.is_none()), "{findings:#?}");
    for group in Group::ALL {
        assert!(findings.iter().any(|finding| finding.group == group), "{group} has no finding");
    }
}

#[test]
fn only_the_interface_of_the_listen_address_is_asked_about() {
    let fixture = Fixture::good();
    fixture.findings();
    let asked = fixture.programs.asked.borrow();
    assert!(!asked.is_empty() && asked.iter().all(|command| command.contains(" eth0")), "{asked:?}");
}

#[test]
fn a_wildcard_stands_for_the_interface_of_the_default_route_and_a_bond_for_what_is_below_it() {
    let mut fixture = Fixture::good();
    fixture.site.listen = vec!["0.0.0.0:53".parse().unwrap()];
    assert_eq!(fixture.finding("nic.rx_ring").subject.as_deref(), Some("eth1"));
    fs::create_dir_all(fixture.root.path().join("sys/class/net/bond0/lower_eth0")).unwrap();
    fixture.site.interfaces = Vec::new();
    fixture.file("/proc/net/route", "Iface\tDestination\n bond0\t00000000\t0\t3\t0\t0\t0\t00000000\t0\t0\t0\n");
    assert_eq!(fixture.finding("nic.rx_ring").subject.as_deref(), Some("eth0"));
}

#[test]
fn a_machine_as_it_was_installed_is_told_what_to_change_and_by_which_command() {
    let mut fixture = Fixture::good();
    fixture.granted = 212_992;
    fixture.file("/proc/sys/net/core/rmem_max", "212992\n");
    fixture.file("/proc/sys/net/ipv4/ip_local_port_range", "32768\t60999\n");
    fixture.file("/proc/sys/net/core/busy_read", "0\n");
    fixture.file("/proc/sys/kernel/io_uring_disabled", "2\n");
    fixture.file("/proc/irq/41/smp_affinity_list", "3\n");
    fixture.file("/proc/77/comm", "irqbalance\n");
    fixture.file("/proc/77/environ", "PATH=/bin\0IRQBALANCE_BANNED_CPULIST=1\0");
    fixture.file("/proc/self/limits", "Max open files  1024  1024  files\nMax locked memory  65536  65536  bytes\n");
    fixture.file(
        "/proc/self/mountinfo",
        "1 0 8:1 / / rw,relatime - ext4 /dev/sda1 rw\n2 1 0:5 / /var rw - nfs4 box:/x rw\n",
    );
    fixture.file("/sys/kernel/mm/transparent_hugepage/enabled", "always madvise [never]\n");
    fixture.file("/sys/devices/system/clocksource/clocksource0/current_clocksource", "hpet\n");
    fixture.file("/sys/devices/system/cpu/vulnerabilities/meltdown", "Mitigation: PTI\n");
    fixture.file("/sys/devices/system/cpu/cpu1/cpufreq/scaling_governor", "powersave\n");
    fixture.file("/sys/devices/system/cpu/cpu1/cpuidle/state2/disable", "0\n");
    for core in 0..2 {
        fixture.file(&format!("/sys/devices/system/cpu/cpu{core}/topology/thread_siblings_list"), "0-1\n");
    }
    fixture.programs = good_nic()
        .says("ethtool -l eth0", &CHANNELS.replace("Combined:\t2", "Combined:\t4"))
        .says("ethtool -n eth0 rx-flow-hash udp4", "IP SA\nIP DA\n")
        .says("ethtool -x eth0", &TABLE.replace("1     0     1", "2     3     0"))
        .says("ethtool -k eth0", &FEATURES.replace("large-receive-offload: off [fixed]", "large-receive-offload: on"));
    let expected: [(&str, State, &[&str]); 18] = [
        ("sysctl.net.core.rmem_max", State::Differs, &["sysctl -w net.core.rmem_max=4194304"]),
        (
            "sysctl.net.ipv4.ip_local_port_range",
            State::Differs,
            &["sysctl -w 'net.ipv4.ip_local_port_range=10240 65535'"],
        ),
        ("sysctl.net.core.busy_read", State::Optional, &["sysctl -w net.core.busy_read=50"]),
        ("buffers.udp_receive", State::Differs, &["sysctl -w net.core.rmem_max=4194304"]),
        ("nic.combined_queues", State::Differs, &["ethtool -L eth0 combined 2"]),
        ("nic.udp4_hash", State::Differs, &["ethtool -N eth0 rx-flow-hash udp4 sdfn"]),
        ("nic.rss_table", State::Differs, &["ethtool -X eth0 equal 2"]),
        ("nic.lro", State::Differs, &["ethtool -K eth0 lro off"]),
        ("irq.affinity", State::Differs, &["echo 0 > /proc/irq/41/smp_affinity_list"]),
        ("irq.irqbalance", State::Differs, &["systemctl disable --now irqbalance"]),
        ("cpu.governor", State::Differs, &["echo performance > /sys/devices/system/cpu/cpu1/cpufreq/scaling_governor"]),
        ("cpu.idle_latency_us", State::Optional, &["echo 1 > /sys/devices/system/cpu/cpu1/cpuidle/state2/disable"]),
        ("cpu.workers_per_core", State::Differs, &[]),
        (
            "memory.transparent_huge_pages",
            State::Differs,
            &["echo madvise > /sys/kernel/mm/transparent_hugepage/enabled"],
        ),
        ("storage.filesystem", State::Differs, &[]),
        (
            "clock.clocksource",
            State::Differs,
            &["echo tsc > /sys/devices/system/clocksource/clocksource0/current_clocksource"],
        ),
        ("kernel.io_uring_disabled", State::Differs, &["sysctl -w kernel.io_uring_disabled=0"]),
        ("kernel.mitigations", State::Optional, &[]),
    ];
    for (path, state, commands) in expected {
        let finding = fixture.finding(path);
        assert_eq!((finding.state, &finding.commands[..]), (state, &commands.map_owned()[..]), "{path}: {finding:#?}");
        assert!(!finding.commands.is_empty() || finding.by_hand.is_some(), "{path} says what to do");
        assert!(finding.found.is_some() && !finding.why.is_empty() && !finding.lasting.is_empty(), "{path}");
    }
    let limit = fixture.finding("limits.nofile");
    assert_eq!(limit.state, State::Differs);
    assert!(
        limit.commands[0].starts_with("printf '%s\\n' 'corewall soft nofile 262144' 'corewall hard nofile 262144' > ")
    );
    assert_eq!(
        fixture.finding("cpu.workers_per_core").by_hand.unwrap(),
        "write cores = \"0\" or smt = \"skip\" into the configuration, and restart the server"
    );
    assert_eq!(fixture.finding("irq.affinity").undo, ["echo 3 > /proc/irq/41/smp_affinity_list"]);
    assert_eq!(fixture.finding("kernel.mitigations").found.unwrap(), "meltdown (PTI)");
}

/// Commands as a finding holds them.
trait Owned {
    fn map_owned(&self) -> Vec<String>;
}

impl Owned for &[&str] {
    fn map_owned(&self) -> Vec<String> {
        self.iter().map(|command| (*command).to_owned()).collect()
    }
}

#[test]
fn a_nic_with_fewer_queues_than_workers_is_steered_by_software() {
    let mut fixture = Fixture::good();
    fixture.site.cores = vec![0, 1, 2, 3];
    fixture.programs = good_nic().says("ethtool -l eth0", &CHANNELS.replace("Combined:\t8", "Combined:\t2"));
    let queues = fixture.finding("nic.combined_queues");
    assert_eq!((queues.state, queues.wanted.as_str()), (State::Good, "2"), "more than it has is not wanted of it");
    let rps = fixture.finding("irq.rps");
    assert_eq!(rps.state, State::Differs);
    let echo = |queue| format!("echo 0000000f > /sys/class/net/eth0/queues/rx-{queue}/rps_cpus");
    assert_eq!(rps.commands, [echo(0), echo(1)]);
    let xps = fixture.finding("irq.xps");
    assert_eq!(
        xps.commands[0], "echo 00000005 > /sys/class/net/eth0/queues/tx-0/xps_cpus",
        "workers 0 and 2 share queue 0"
    );
}

#[test]
fn of_an_empty_machine_nothing_is_told_but_why() {
    let mut fixture = Fixture::empty(&[0, 1]);
    fixture.granted = 0;
    let findings = fixture.findings();
    for finding in &findings {
        let note = finding.note.as_deref().unwrap_or_default();
        let is_silent = finding.path() == "buffers.udp_receive" || !note.is_empty();
        assert!(is_silent && !matches!(finding.state, State::Good | State::Optional), "{finding:#?}");
    }
    let memory = findings.iter().find(|finding| finding.path() == "memory.share_percent").unwrap();
    assert_eq!((memory.state, memory.note.as_deref()), (State::Unknown, Some("there is no /proc/meminfo here")));
}

#[test]
fn in_a_container_without_sys_and_ethtool_what_can_be_told_still_is() {
    let mut fixture = Fixture::good();
    fs::remove_dir_all(fixture.root.path().join("sys")).unwrap();
    fs::remove_file(fixture.root.path().join("proc/sys/net/core/rmem_max")).unwrap();
    fixture.programs = Told::default();
    let states = |path: &str| fixture.finding(path).state;
    for path in [
        "nic.combined_queues",
        "irq.affinity",
        "irq.rps",
        "cpu.governor",
        "cpu.isolated",
        "clock.clocksource",
        "kernel.mitigations",
    ] {
        let is_told = matches!(states(path), State::Unknown | State::NotApplicable);
        assert!(is_told, "{path}: {:?}", states(path));
    }
    assert_eq!(states("clock.clocksource"), State::Unknown);
    // Network namespaces other than the first one have no such setting.
    assert_eq!(states("sysctl.net.core.rmem_max"), State::NotApplicable);
    assert_eq!(
        [states("sysctl.vm.swappiness"), states("limits.memlock"), states("storage.filesystem")],
        [State::Good; 3]
    );
}

#[test]
fn what_a_driver_or_the_kernel_refuses_is_told_apart() {
    let mut fixture = Fixture::good();
    fixture.programs = good_nic()
        .fails("ethtool -a eth0", "netlink error: Operation not supported\n")
        .fails("ethtool -g eth0", "netlink error: Operation not permitted\n")
        .fails("ethtool -c eth0", "it broke\n");
    let of = |path: &str| (fixture.finding(path).state, fixture.finding(path).note.unwrap());
    let (state, note) = of("nic.flow_control_rx");
    assert!(state == State::NotApplicable && note.contains("does not support"), "{note}");
    let (state, note) = of("nic.rx_ring");
    assert!(state == State::Unknown && note.contains("as root"), "{note}");
    let (state, note) = of("nic.rx_usecs");
    assert!(state == State::Unknown && note.contains("it broke"), "{note}");
    fixture.programs = Told::default();
    let finding = fixture.finding("nic.rx_ring");
    assert_eq!(
        (finding.state, finding.note.as_deref()),
        (State::Unknown, Some("there is no `ethtool` here; install it"))
    );
}

#[test]
fn on_loopback_alone_no_nic_is_looked_at() {
    let mut fixture = Fixture::good();
    fixture.site.listen = vec!["127.0.0.1:53".parse().unwrap(), "[::1]:53".parse().unwrap()];
    let findings = fixture.findings();
    let of_nic = findings.iter().filter(|finding| matches!(finding.group, Group::Nic | Group::Irq));
    let states: Vec<State> = of_nic.map(|finding| finding.state).collect();
    assert!(states.len() > 10 && states.iter().all(|state| *state == State::NotApplicable), "{states:?}");
    assert_eq!(fixture.programs.asked.borrow().len(), 0);
}

#[test]
fn a_virtual_machine_without_a_governor_is_not_blamed_for_it() {
    let fixture = Fixture::good();
    for core in 0..4 {
        let folder = fixture.root.path().join(format!("sys/devices/system/cpu/cpu{core}"));
        fs::remove_dir_all(folder.join("cpufreq")).unwrap();
        fs::remove_dir_all(folder.join("cpuidle")).unwrap();
    }
    assert_eq!(fixture.finding("cpu.governor").state, State::NotApplicable);
    assert_eq!(fixture.finding("cpu.idle_latency_us").state, State::NotApplicable);
}

#[test]
fn the_properties_of_a_zfs_dataset_are_compared_by_its_name_as_one_word() {
    let mut fixture = Fixture::good();
    fixture.file("/proc/self/mountinfo", "1 0 0:9 / / rw,noatime - zfs tank/my\\040data rw,xattr\n");
    let ask = "zfs get -Hp -o property,value recordsize,compression,primarycache,atime tank/my data";
    let properties = "recordsize\t131072\ncompression\tzstd-3\nprimarycache\tmetadata\natime\ton\n";
    fixture.programs = good_nic().says(ask, properties);
    assert_eq!(fixture.finding("storage.filesystem").state, State::Good);
    assert_eq!(fixture.finding("storage.access_times").state, State::NotApplicable);
    assert_eq!(fixture.finding("storage.zfs_compression").state, State::Good, "zstd-3 is zstd");
    assert_eq!(fixture.finding("storage.zfs_recordsize").commands, ["zfs set recordsize=16384 'tank/my data'"]);
    assert_eq!(fixture.finding("storage.zfs_primarycache").undo, ["zfs set primarycache=metadata 'tank/my data'"]);
    assert_eq!(fixture.finding("storage.zfs_atime").state, State::Differs);
    assert_eq!(fixture.finding("storage.zfs_mmap").state, State::Good, "readers map nothing");
    assert_eq!(fixture.finding("storage.zfs_store_readers").state, State::Optional);
    fixture.site.store_readers = 0;
    assert_eq!(fixture.finding("storage.zfs_mmap").state, State::Differs);
    fixture.programs = good_nic();
    let finding = fixture.finding("storage.zfs_recordsize");
    assert_eq!((finding.state, finding.note.as_deref()), (State::Unknown, Some("there is no `zfs` here; install it")));
}

#[test]
fn files_that_make_no_sense_are_told_and_stop_nothing() {
    let fixture = Fixture::good();
    let nonsense = "\u{0}\u{ff}nonsense\n: - \n";
    let mut files = vec![fixture.root.path().to_path_buf()];
    let mut overwritten = 0;
    while let Some(path) = files.pop() {
        if path.is_dir() {
            files.extend(fs::read_dir(&path).unwrap().map(|entry| entry.unwrap().path()));
        } else {
            fs::write(&path, nonsense).unwrap();
            overwritten += 1;
        }
    }
    assert!(overwritten > 50);
    let findings = fixture.findings();
    for finding in &findings {
        // Of words any text is one; of numbers none is.
        assert!(!finding.commands.iter().any(|command| command.contains('\n')), "{finding:#?}");
    }
    let unknown = told(&findings, State::Unknown);
    for path in [
        "memory.transparent_huge_pages",
        "memory.share_percent",
        "limits.nofile of this process",
        "kernel.io_uring_disabled",
    ] {
        assert!(unknown.iter().any(|title| title == path), "{path} is not among {unknown:?}");
    }
}

#[test]
fn a_link_that_leads_to_itself_or_to_nowhere_stops_nothing() {
    let fixture = Fixture::good();
    let place = |path: &str| fixture.root.path().join(path);
    fs::remove_file(place("proc/meminfo")).unwrap();
    symlink("meminfo", place("proc/meminfo")).unwrap();
    fs::remove_file(place("proc/cmdline")).unwrap();
    symlink("gone", place("proc/cmdline")).unwrap();
    assert_eq!(fixture.finding("memory.share_percent").state, State::Unknown);
    assert_eq!(fixture.finding("cpu.rcu_nocbs").state, State::Unknown);
}

#[test]
fn what_is_needed_grows_with_workers_shards_and_caches() {
    let mut fixture = Fixture::good();
    let needs = |site: &Site| (site.memlock_bytes() >> 10, site.files(), site.mappings());
    // 4,608 a worker is what a server asks for.
    assert_eq!(needs(&fixture.site), (1_024, 9_216, 544));
    fixture.site.cores = (0..32).collect();
    fixture.site.shards = 1_024;
    let (memlock, files, mappings) = needs(&fixture.site);
    assert_eq!((memlock, mappings), (16_384, 2_560));
    assert!(files > 32 * 2 * 3 * 1_024);
    fixture.site.store_readers = 0;
    assert_eq!(fixture.site.mappings(), 68_096, "each worker maps its shards");
    fixture.file("/proc/sys/vm/max_map_count", "65530\n");
    assert_eq!(fixture.finding("sysctl.vm.max_map_count").commands, ["sysctl -w vm.max_map_count=262144"]);
    fixture.site.locked_bytes = 1 << 20;
    assert_eq!(fixture.site.memlock_bytes() >> 10, 17_408, "the store is locked too");
    fixture.site.cache_bytes = 1 << 30;
    let finding = fixture.finding("memory.share_percent");
    assert_eq!(finding.state, State::Differs);
    assert!(finding.by_hand.unwrap().contains("11718 MiB"), "75 % of the memory");
}

#[test]
fn every_file_in_tuning_reads_and_every_value_has_its_reason_and_its_remedy() {
    let wanted = Wanted::load(None).unwrap();
    assert!(wanted.sysctls.len() >= 10 && wanted.limits.len() == 2);
    // Judged against a machine on which nothing is as wanted: what has neither command nor words would show.
    let mut fixture = Fixture::empty(&[0]);
    fixture.granted = 0;
    for finding in fixture.findings() {
        assert!(!finding.why.is_empty() && !finding.lasting.is_empty() && !finding.wanted.is_empty(), "{finding:#?}");
        let measured = ["easured", "Counted", "measuring"].iter().any(|word| finding.why.contains(word));
        assert!(measured, "{} does not say whether it was measured: {}", finding.path(), finding.why);
    }
    // A folder of the same files reads the same, and one without any is as compiled in.
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tuning");
    for name in wanted::file_names() {
        assert_eq!(wanted::text(Some(&folder), name).unwrap(), wanted::embedded(name).unwrap(), "{name}");
    }
    let empty = tempfile::tempdir().unwrap();
    assert_eq!(Wanted::load(Some(empty.path())).unwrap().sysctls, wanted.sysctls);
    assert!(Wanted::load(Some(&empty.path().join("gone"))).is_err());
}

#[test]
fn a_wrong_tuning_file_is_told_with_file_line_key_and_remedy() {
    let folder = tempfile::tempdir().unwrap();
    let why = "why = \"it is\"\nlasting = \"long\"\n";
    for (text, line, word) in [
        ("[clocksource]\nwanted = [\"tsc\"]\nwhy = \"\"\nlasting = \"x\"\nby_hand = \"x\"\n", 1, "`why`"),
        (&format!("[clocksource]\nwanted = [\"tsc\"]\n{why}"), 1, "nothing mends it"),
        (&format!("[clocksource]\nwanted = 3\n{why}by_hand = \"x\"\n"), 2, "clocksource.wanted"),
        (&format!("[clocksource]\nwanted = [\"tsc\"]\n{why}commands = [\"echo {{wantde}}\"]\n"), 5, "`{wantde}`"),
        (&format!("[clocksource]\nwanted = [\"tsc\"]\n{why}by_hand = \"x\"\nrank = \"high\"\n"), 6, "`high`"),
        ("[clock]\n", 1, "`clock`"),
        ("[clocksource\n", 1, "not TOML"),
    ] {
        fs::write(folder.path().join("clock.conf"), text).unwrap();
        let error = Wanted::load(Some(folder.path())).unwrap_err().to_string();
        let place = format!("{}:{line}:", folder.path().join("clock.conf").display());
        assert!(error.starts_with(&place) && error.contains(word), "{text}\n{error}");
    }
}

#[test]
fn a_value_that_is_ignored_is_not_looked_at() {
    let folder = tempfile::tempdir().unwrap();
    let clock = wanted::embedded("clock.conf").unwrap().replace("[clocksource]", "[clocksource]\nrank = \"ignored\"");
    fs::write(folder.path().join("clock.conf"), clock).unwrap();
    let wanted = Wanted::load(Some(folder.path())).unwrap();
    let fixture = Fixture::good();
    let granted = |_| Ok(0);
    let machine = Machine::new(fixture.root.path(), &fixture.programs, &granted);
    let facts = Facts::read(&machine, &fixture.site, &wanted.sysctls);
    assert!(!judge(&wanted, &facts, &fixture.site).iter().any(|finding| finding.group == Group::Clock));
}
