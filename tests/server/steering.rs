//! Which worker a packet goes to, in networks of its own: on loopback and on a veth pair a packet is received by the core that
//! sends it, so a client that is pinned to a core stands for a receive queue of it.

use std::collections::HashSet;
use std::fs;
use std::net::SocketAddr;
use std::process::Command;
use std::thread;

use core_affinity::CoreId;

use crate::client::{TcpClient, UdpClient, question};
use crate::control::json;
use crate::corewall::{Server, Site};
use crate::namespace::is_inside;
use crate::process::Done;
use crate::tool;
use crate::workers::two_cores;

const LOOPBACK: &str = "ip link set lo up";
/// Clients, each with a port of its own: that one of two workers gets none of them by chance happens once in 2^63 runs.
const CLIENTS: usize = 64;

fn site(cores: [usize; 2], steering: &str) -> Site {
    let [first, second] = cores;
    Site::new()
        .list("rules", "adblock", "", "||blocked.example.org^\n")
        .option("cores", &format!("[{first}, {second}]"))
        .option("steering", &format!("\"{steering}\""))
}

/// What has come to the workers on these cores, over UDP and over TCP.
fn received(site: &Site, cores: [usize; 2]) -> [[u64; 2]; 2] {
    let status = json(site, &["status"]);
    let workers = status["workers"].as_array().unwrap();
    cores.map(|core| {
        let worker = workers.iter().find(|worker| worker["core"] == core).unwrap_or_else(|| panic!("{status}"));
        ["udp_received", "tcp_received"].map(|counter| worker[counter].as_u64().unwrap())
    })
}

/// Asks a blocked name from as many new ports as are said, on this core.
fn ask_from(core: usize, address: SocketAddr, [over_udp, over_tcp]: [u64; 2]) {
    let ask = move || {
        assert!(core_affinity::set_for_current(CoreId { id: core }));
        for _ in 0..over_udp {
            assert!(UdpClient::new(address).ask(&question("blocked.example.org", "A")).is_zero());
        }
        for _ in 0..over_tcp {
            assert!(TcpClient::new(address).ask(&question("blocked.example.org", "A")).is_zero());
        }
    };
    thread::scope(|scope| scope.spawn(ask).join().unwrap());
}

#[test]
fn a_core_answers_what_it_has_received_in_whatever_order_the_cores_are_named() {
    let Some([first, second]) = two_cores() else { return };
    if !is_inside("steering::a_core_answers_what_it_has_received_in_whatever_order_the_cores_are_named", LOOPBACK, "") {
        return;
    }
    for cores in [[first, second], [second, first]] {
        let site = site(cores, "cpu");
        let server = site.build_and_serve();
        for address in server.addresses() {
            let before = received(&site, [first, second]);
            ask_from(first, address, [10, 3]);
            ask_from(second, address, [20, 5]);
            let after = received(&site, [first, second]);
            let grown = [0, 1].map(|core| [0, 1].map(|transport| after[core][transport] - before[core][transport]));
            assert_eq!(grown, [[10, 3], [20, 5]], "cores {cores:?}, {address}\n{}", server.output());
        }
        server.stop();
    }
}

#[test]
fn what_a_core_without_a_worker_receives_is_spread_over_all_workers() {
    let Some([first, second]) = two_cores() else { return };
    let Some(spare) = core_affinity::get_core_ids().unwrap_or_default().into_iter().map(|core| core.id).nth(2) else {
        return println!("SKIPPED: two workers and a core without one want three cores");
    };
    let site = site([first, second], "cpu");
    let server = site.build_and_serve();
    ask_from(spare, server.address(), [CLIENTS as u64, 0]);
    assert!(received(&site, [first, second]).iter().all(|worker| worker[0] > 0), "{}", server.output());
    server.stop();
}

#[test]
fn clients_on_one_core_are_spread_by_flow_over_all_workers_also_when_nothing_is_said() {
    let Some([first, second]) = two_cores() else { return };
    if !is_inside(
        "steering::clients_on_one_core_are_spread_by_flow_over_all_workers_also_when_nothing_is_said",
        LOOPBACK,
        "",
    ) {
        return;
    }
    for steering in ["flow", "auto"] {
        let site = site([first, second], steering);
        let server = site.build_and_serve();
        ask_from(first, server.address(), [CLIENTS as u64, CLIENTS as u64]);
        let grown = received(&site, [first, second]);
        assert_eq!(grown.iter().map(|[over_udp, _]| over_udp).sum::<u64>(), CLIENTS as u64);
        assert!(grown.as_flattened().iter().all(|count| *count > 0), "{steering}: {grown:?}");
        // One port has one worker.
        let client = UdpClient::new(server.address());
        for _ in 0..CLIENTS {
            assert!(client.ask(&question("blocked.example.org", "A")).is_zero());
        }
        let again = received(&site, [first, second]);
        let mut more = [0, 1].map(|core| again[core][0] - grown[core][0]);
        more.sort_unstable();
        assert_eq!(more, [0, CLIENTS as u64], "{steering}");
        if steering == "auto" {
            server.wait_for_log("by flow (packets of lo arrive on the core that has sent them)");
        }
        server.stop();
    }
}

/// Asks each name in several letter cases and types, from new ports on both cores, and returns the worker of each.
fn workers_of(names: &[String], site: &Site, server: &Server, cores: [usize; 2]) -> Vec<usize> {
    let worker_of = |name: &String| {
        let before = received(site, cores);
        for core in cores {
            let ask = || {
                assert!(core_affinity::set_for_current(CoreId { id: core }));
                for (spelled, rtype) in [(name.clone(), "A"), (name.to_uppercase(), "AAAA"), (name.clone(), "TXT")] {
                    let edns = [None, Some(1_232)];
                    for edns_bytes in edns {
                        let reply = UdpClient::new(server.address()).ask(&question(&spelled, rtype).edns(edns_bytes));
                        assert_eq!(reply.rcode, 0, "{spelled} {rtype}");
                    }
                }
            };
            thread::scope(|scope| scope.spawn(ask).join().unwrap());
        }
        let after = received(site, cores);
        let grown = [0, 1].map(|core| after[core][0] - before[core][0]);
        match grown {
            [12, 0] => 0,
            [0, 12] => 1,
            _ => panic!("{name} has come to {grown:?}"),
        }
    };
    names.iter().map(worker_of).collect()
}

#[test]
fn a_name_is_answered_by_one_worker_whoever_asks_and_a_reload_changes_nothing_of_that() {
    let Some(cores) = two_cores() else { return };
    if !is_inside(
        "steering::a_name_is_answered_by_one_worker_whoever_asks_and_a_reload_changes_nothing_of_that",
        LOOPBACK,
        "",
    ) {
        return;
    }
    let site = site(cores, "name");
    let server = site.build_and_serve();
    let names: Vec<String> = (0..24).map(|number| format!("Host{number}.Blocked.Example.org")).collect();
    let workers = workers_of(&names, &site, &server, cores);
    // All on one of two: once in 2^23 starts.
    assert_eq!(workers.iter().collect::<HashSet<_>>().len(), 2, "{workers:?}");
    assert!(server.reload().contains("reloaded"));
    assert_eq!(workers_of(&names, &site, &server, cores), workers);
    // Over TCP, where the name is not known when the connection begins, clients are spread.
    let before = received(&site, cores);
    ask_from(cores[0], server.address(), [0, CLIENTS as u64]);
    let after = received(&site, cores);
    assert!([0, 1].iter().all(|&core| after[core][1] > before[core][1]), "{after:?}");
    server.stop();
}

/// A veth pair with one end in a network called `clients`; `ip netns` keeps its names in `/run`.
const PAIR: &str = "ip link set lo up && mount -t tmpfs tmpfs /run && ip netns add clients && ip link add server0 type veth peer name \
                    client0 netns clients && ip address add 192.0.2.1/24 dev server0 && ip link set server0 up && ip -n clients \
                    address add 192.0.2.2/24 dev client0 && ip -n clients link set client0 up";

#[test]
fn packets_from_another_machine_are_answered_by_the_core_that_receives_them() {
    let Some([first, second]) = two_cores() else { return };
    if !is_inside("steering::packets_from_another_machine_are_answered_by_the_core_that_receives_them", PAIR, "") {
        return;
    }
    for cores in [[first, second], [second, first]] {
        let site = site(cores, "cpu");
        let listen = format!("[\"127.0.0.1:{port}\", \"192.0.2.1:{port}\", \"[::1]:{port}\"]", port = site.port());
        let site = site.option("listen", &listen);
        let server = site.build_and_serve();
        let port = site.port().to_string();
        for (core, transport, times) in [(first, "+notcp", 4), (second, "+notcp", 7), (first, "+tcp", 2)] {
            for _ in 0..times {
                let mut command = Command::new("taskset");
                command.args(["--cpu-list", &core.to_string(), "ip", "netns", "exec", "clients", "dig", "@192.0.2.1"]);
                command.args(["-p", &port, "+tries=1", "+timeout=20", "+short", transport, "blocked.example.org", "A"]);
                let Some(output) = tool::output(command, "util-linux") else { return };
                let said = String::from_utf8_lossy(&output.stderr);
                if said.contains("No such file") {
                    return println!("SKIPPED: dig is not installed; `apt-get install bind9-dnsutils`");
                }
                assert_eq!(String::from_utf8_lossy(&output.stdout), "0.0.0.0\n", "{said}");
            }
        }
        assert_eq!(received(&site, [first, second]), [[4, 2], [7, 0]], "{cores:?}\n{}", server.output());
        server.stop();
    }
}

/// Whether a program may be so large, in the network that this process is in.
fn set_program_bytes_max(bytes: u32) -> bool {
    fs::write("/proc/sys/net/core/optmem_max", bytes.to_string()).is_ok()
}

#[test]
fn a_program_that_the_kernel_refuses_is_an_error_that_says_what_to_do() {
    let Some(cores) = two_cores() else { return };
    if !is_inside("steering::a_program_that_the_kernel_refuses_is_an_error_that_says_what_to_do", LOOPBACK, "") {
        return;
    }
    if !set_program_bytes_max(4_096) {
        return println!("SKIPPED: this kernel has no net.core.optmem_max for each network (Linux 6.9)");
    }
    let by_name = site(cores, "name");
    by_name.build();
    let done: Done = by_name.run(&["serve"]);
    assert!(done.code == Some(1) && !done.out.contains("ready"), "{done:?}");
    for part in ["by name", "Cannot allocate memory", "sysctl net.core.optmem_max=20480", "steering = \"flow\""] {
        assert!(done.err.contains(part), "`{part}` is not in {done:?}");
    }
    // What kernels have had until 6.8.
    assert!(set_program_bytes_max(20_480));
    by_name.serve().stop();
}

#[test]
fn a_check_tells_how_packets_are_steered_and_where_threads_run() {
    let Some([first, second]) = two_cores() else { return };
    let site = site([second, first], "auto").option("control_cores", &format!("[{first}]"));
    site.build();
    let done = site.run(&["check"]);
    let parts = [
        format!("  workers on cores {second},{first}"),
        "  reader threads on cores ".to_owned(),
        format!("  control threads on core {first}"),
        format!("  packets are steered to 127.0.0.1:{} by flow (packets of lo arrive on", site.port()),
    ];
    for part in parts {
        assert!(done.code == Some(0) && done.out.contains(&part), "`{part}` is not in {done:?}");
    }
    let site = site.option("reader_cores", "\"1000\"").option("steering", "\"cpu\"");
    let done = site.run(&["check"]);
    let line = 1 + site.config().lines().position(|line| line.starts_with("reader_cores")).unwrap();
    let part = format!("corewall.toml:{line}: reader_cores: cannot use core 1000: this process may run on");
    assert!(done.code == Some(2) && done.err.contains(&part), "`{part}` is not in {done:?}");
}

/// The threads of a server by their names, each with the cores that it may run on; none of those that the kernel adds.
fn threads(site: &Site) -> Vec<(String, String)> {
    let pid = json(site, &["status"])["pid"].as_u64().unwrap();
    let folders = fs::read_dir(format!("/proc/{pid}/task")).unwrap();
    let mut threads = Vec::new();
    for folder in folders {
        // One may end meanwhile.
        let Ok(status) = fs::read_to_string(folder.unwrap().path().join("status")) else { continue };
        let value = |key: &str| {
            let line = status.lines().find_map(|line| line.strip_prefix(key));
            line.unwrap_or_else(|| panic!("{key}: {status}")).trim().to_owned()
        };
        let name = value("Name:");
        if !name.starts_with("iou-") {
            threads.push((name, value("Cpus_allowed_list:")));
        }
    }
    threads
}

#[test]
fn every_thread_runs_where_the_configuration_says() {
    let Some([first, second]) = two_cores() else { return };
    for (worker, readers, control) in [(first, second, second), (second, first, second), (first, first, second)] {
        let site = Site::new()
            .list("rules", "adblock", "", "||blocked.example.org^\n")
            .option("cores", &format!("[{worker}]"))
            .option("reader_cores", &format!("[{readers}]"))
            .option("control_cores", &format!("[{control}]"));
        let server = site.build_and_serve();
        // A reload starts readers anew, and whoever watches over the new generation.
        for _ in ["started", "reloaded"] {
            let threads = threads(&site);
            let of = |name: &str| -> Vec<&str> {
                let named = threads.iter().filter(|(thread, _)| thread.starts_with(name));
                named.map(|(_, cores)| cores.as_str()).collect()
            };
            let one = [worker, readers, control].map(|core| core.to_string());
            let [worker, readers, control] = one.each_ref().map(String::as_str);
            // The worker and the thread that its executor makes blocking calls on, which has its name.
            let mut workers = of("worker-");
            workers.sort_unstable();
            let mut expected = [worker, control];
            expected.sort_unstable();
            assert_eq!(workers, expected, "{threads:?}");
            assert_eq!(of("reader-"), [readers, readers], "{threads:?}");
            for (name, cores) in
                threads.iter().filter(|(name, _)| !["worker-", "reader-"].iter().any(|it| name.starts_with(it)))
            {
                assert_eq!(cores, control, "{name}: {threads:?}");
            }
            assert!(threads.len() > 6, "{threads:?}");
            assert!(server.reload().contains("reloaded"));
        }
        server.stop();
    }
}
