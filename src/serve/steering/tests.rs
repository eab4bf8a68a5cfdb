//! The choice on machines that are written down.

use super::*;
use crate::serve::topology::tests::Fake;

fn addresses(listen: &[&str]) -> Vec<SocketAddr> {
    listen.iter().map(|address| address.parse().unwrap()).collect()
}

/// What `auto` comes to for one address, and why.
fn auto(fake: &Fake, address: &str, cores: &[usize]) -> (Steering, String) {
    let mut choices = choose(SteeringOption::Auto, &addresses(&[address]), cores, &fake.machine());
    let Choice { steering, reason, is_told, .. } = choices.remove(0);
    assert!(!is_told);
    (steering, reason)
}

/// A card with four queues on the cores 0 to 3.
fn four_queues() -> Fake {
    let interrupts = [("eth0-TxRx-0", "0"), ("eth0-TxRx-1", "1"), ("eth0-TxRx-2", "2"), ("eth0-TxRx-3", "3")];
    Fake::default().nic("eth0", 60, &interrupts).queues("eth0", &["0"; 4]).address("eth0", "192.0.2.1")
}

#[test]
fn queues_that_match_the_cores_steer_by_core() {
    let expected = (Steering::Cpu, "4 receive queues of eth0 are on the workers' cores".to_owned());
    for (address, cores) in [("192.0.2.1:53", [0, 1, 2, 3]), ("0.0.0.0:53", [3, 1, 0, 2]), ("[::]:53", [0, 1, 2, 3])] {
        assert_eq!(auto(&four_queues(), address, &cores), expected);
    }
}

#[test]
fn a_core_without_a_queue_and_a_queue_without_a_worker_steer_by_flow_and_are_named() {
    let flow = |reason: &str| (Steering::Flow, reason.to_owned());
    assert_eq!(
        auto(&four_queues(), "192.0.2.1:53", &[0, 1, 2, 3, 4, 5]),
        flow("no receive queue of eth0 is on core 4,5")
    );
    assert_eq!(
        auto(&four_queues(), "192.0.2.1:53", &[0, 1, 2]),
        flow("rx-3 of eth0 is on core 3, which has no worker")
    );
    assert_eq!(auto(&four_queues(), "192.0.2.1:53", &[0]), flow("there is one worker"));
    assert_eq!(
        auto(&four_queues(), "192.0.2.9:53", &[0, 1]),
        flow("no interface with receive queues has this address")
    );
}

#[test]
fn one_queue_that_is_handed_on_to_all_workers_steers_by_core() {
    let fake = Fake::default().nic("eth0", 5, &[("virtio0-input.0", "0")]).queues("eth0", &["3"]);
    assert_eq!(auto(&fake, "0.0.0.0:53", &[0, 1]).0, Steering::Cpu);
    assert_eq!(auto(&fake, "0.0.0.0:53", &[0, 1, 2]).0, Steering::Flow);
}

#[test]
fn each_address_is_steered_as_its_interface_asks() {
    let fake = four_queues().address("lo", "127.0.0.1");
    let listen = addresses(&["127.0.0.1:53", "192.0.2.1:53"]);
    let choices = choose(SteeringOption::Auto, &listen, &[0, 1, 2, 3], &fake.machine());
    let told: Vec<String> = choices.iter().map(ToString::to_string).collect();
    assert_eq!(
        told,
        [
            "127.0.0.1:53 by flow (packets of lo arrive on the core that has sent them)",
            "192.0.2.1:53 by cpu (4 receive queues of eth0 are on the workers' cores)",
        ]
    );
}

#[test]
fn what_is_asked_for_is_not_weighed() {
    for (option, steering) in [
        (SteeringOption::Cpu, Steering::Cpu),
        (SteeringOption::Flow, Steering::Flow),
        (SteeringOption::Name, Steering::Name),
    ] {
        let choices = choose(option, &addresses(&["127.0.0.1:53"]), &[0, 1], &Fake::default().machine());
        assert!(choices[0].steering == steering && choices[0].is_told, "{choices:?}");
    }
}

#[test]
fn a_connection_that_begins_without_a_name_is_never_steered_by_it() {
    let has = |steering| {
        let Programs { udp, tcp } = Programs::of(steering, &[0, 1], 7);
        (udp.is_some(), tcp.is_some())
    };
    assert_eq!(has(Steering::Cpu), (true, true));
    assert_eq!(has(Steering::Name), (true, false));
    assert_eq!(has(Steering::Flow), (false, false));
}
