//! The programs, run by an interpreter of the few instructions that they have, and by the kernel.

use std::collections::HashSet;
use std::net::UdpSocket;
use std::time::{Duration, Instant};

use libc::{BPF_A, BPF_SUB};

use super::*;
use crate::serve::{kernel, udp};

/// After so long without a datagram that was sent, a test has failed.
const PATIENCE: Duration = Duration::from_secs(60);

/// What a packet is to a program.
#[derive(Clone, Copy)]
struct Packet<'a> {
    core: u32,
    payload: &'a [u8],
}

/// Runs a program as the kernel does; also tells how many steps it took.
fn run(program: &[sock_filter], packet: Packet<'_>) -> (u32, usize) {
    let (mut a, mut x, mut memory, mut at) = (0u32, 0u32, [0u32; 16], 0);
    for step in 1.. {
        let sock_filter { code, jt, jf, k } = program[at];
        let code = u32::from(code);
        let load = |from: u32, octets: usize| {
            let octets = packet.payload.get(from as usize..)?.get(..octets)?;
            Some(octets.iter().fold(0, |word, octet| word << 8 | u32::from(*octet)))
        };
        let operand = if code & BPF_X != 0 { x } else { k };
        at += 1;
        match code & 0x07 {
            BPF_LD => {
                let width = match code & 0x18 {
                    BPF_W => 4,
                    BPF_H => 2,
                    BPF_B => 1,
                    width => panic!("no such width: {width:#x}"),
                };
                let loaded = match code & 0xe0 {
                    BPF_ABS if k == (SKF_AD_OFF + SKF_AD_CPU) as u32 => Some(packet.core),
                    BPF_ABS => load(k, width),
                    BPF_IND => load(x + k, width),
                    BPF_LEN => Some(packet.payload.len() as u32),
                    BPF_MEM => Some(memory[k as usize]),
                    mode => panic!("no such load: {mode:#x}"),
                };
                // Past the end the kernel ends the program with 0, which must not happen.
                a = loaded.unwrap_or_else(|| panic!("instruction {at} loads past {} octets", packet.payload.len()));
            }
            BPF_LDX if code & 0xe0 == BPF_IMM => x = k,
            BPF_LDX if code & 0xe0 == BPF_MEM => x = memory[k as usize],
            BPF_ST => memory[k as usize] = a,
            BPF_STX => memory[k as usize] = x,
            BPF_ALU => {
                a = match code & 0xf0 {
                    BPF_ADD => a.wrapping_add(operand),
                    BPF_SUB => a.wrapping_sub(operand),
                    BPF_MUL => a.wrapping_mul(operand),
                    BPF_OR => a | operand,
                    BPF_XOR => a ^ operand,
                    BPF_RSH => a >> operand,
                    operation => panic!("no such operation: {operation:#x}"),
                }
            }
            BPF_JMP => {
                let holds = match code & 0xf0 {
                    BPF_JA => {
                        at += k as usize;
                        continue;
                    }
                    BPF_JEQ => a == operand,
                    BPF_JGT => a > operand,
                    BPF_JGE => a >= operand,
                    test => panic!("no such test: {test:#x}"),
                };
                at += usize::from(if holds { jt } else { jf });
            }
            BPF_RET => return (if code & 0x18 == BPF_A { a } else { k }, step),
            BPF_MISC if code & 0xf8 == BPF_TAX => x = a,
            BPF_MISC if code & 0xf8 == BPF_TXA => a = x,
            class => panic!("no such instruction: {class:#x}"),
        }
    }
    unreachable!("every program returns")
}

fn by_core(program: &[sock_filter], core: u32) -> u32 {
    run(program, Packet { core, payload: &[] }).0
}

fn by_payload(program: &[sock_filter], payload: &[u8]) -> u32 {
    run(program, Packet { core: 0, payload }).0
}

/// A question for a name, with a type and whatever comes behind.
fn question(name: &str, rtype: u8, behind: &[u8]) -> Vec<u8> {
    let mut message = vec![7, rtype, 1, 0, 0, 1, 0, 0, 0, 0, 0, behind.len() as u8];
    for label in name.split('.').filter(|label| !label.is_empty()) {
        message.push(label.len() as u8);
        message.extend_from_slice(label.as_bytes());
    }
    message.extend_from_slice(&[0, 0, rtype, 0, 1]);
    message.extend_from_slice(behind);
    message
}

#[test]
fn a_core_has_the_socket_of_its_worker_whatever_the_order_of_the_cores() {
    for cores in
        [vec![0, 1], vec![1, 0], vec![2, 5, 9], vec![0, 1, 2, 3, 8, 9, 10, 11], vec![3, 2, 1, 0, 7, 8], vec![6]]
    {
        let program = by_cpu(&cores);
        for core in 0..20 {
            let socket = cores.iter().position(|&worker| worker == core).map_or(FLOW, |socket| socket as u32);
            assert_eq!(by_core(&program, core as u32), socket, "core {core} of {cores:?}");
        }
        assert_eq!(by_core(&program, u32::MAX), FLOW);
    }
}

#[test]
fn as_many_cores_as_there_may_be_are_found_in_few_steps() {
    let scattered: Vec<usize> = (0..WORKERS_MAX).map(|number| 1_023 - 2 * number).collect();
    let program = by_cpu(&scattered);
    for (socket, &core) in scattered.iter().enumerate() {
        let (found, steps) = run(&program, Packet { core: core as u32, payload: &[] });
        assert!(found == socket as u32 && steps < 24, "core {core}: {found} after {steps} steps");
        assert_eq!(by_core(&program, core as u32 - 1), FLOW);
    }
    assert_eq!(by_cpu(&(0..WORKERS_MAX).collect::<Vec<_>>()).len(), 9, "cores in a row are one step");
}

#[test]
fn a_name_has_one_socket_in_any_letter_case_of_any_type_with_anything_behind() {
    let program = by_name(7, 0x1234_5678);
    let long = ["a-label-of-some-length-that-is-repeated-until-it-is-long"; 4].join(".");
    let many = vec!["x"; 120].join(".");
    for name in ["", "a", "ab", "abc", "abcd", "de", "www.Example.org", "x.y", "ads.tracker.example", &long, &many] {
        let expected = by_payload(&program, &question(name, 1, &[]));
        assert!(expected < 7, "{name}: {expected}");
        for spelled in [name.to_uppercase(), name.to_lowercase(), name.to_owned()] {
            for (rtype, behind) in [(1, &[][..]), (28, &[]), (65, b"\0\0\x29\x04\xd0\0\0\0\0\0\0"), (255, &[0xff; 400])]
            {
                assert_eq!(by_payload(&program, &question(&spelled, rtype, behind)), expected, "{spelled} {rtype}");
            }
        }
    }
}

#[test]
fn each_octet_of_a_name_counts() {
    // As many workers as there may be: two names rarely meet by chance.
    let name = "abcdefg.hijklmnopq.rstuvwxyz0123456789.example";
    let mut differing = 0;
    for at in (0..name.len()).filter(|&at| name.as_bytes()[at] != b'.') {
        let mut other = name.to_owned().into_bytes();
        other[at] = b'_';
        let other = String::from_utf8(other).unwrap();
        for seed in [1, 0xdead_beef, 0x0bad_cafe] {
            let program = by_name(WORKERS_MAX, seed);
            let sockets = [name, &other].map(|name| by_payload(&program, &question(name, 1, &[])));
            differing += usize::from(sockets[0] != sockets[1]);
        }
    }
    assert!(differing >= 3 * 43 - 4, "{differing} of {}", 3 * 43);
}

#[test]
fn names_spread_evenly_and_another_seed_spreads_them_otherwise() {
    for workers in [2, 3, 8, 61] {
        let (one, other) = (by_name(workers, 1), by_name(workers, 0xfeed_face));
        let (mut counts, mut moved) = (vec![0u32; workers], 0);
        for number in 0..20_000 {
            let message = question(&format!("host-{number}.site{}.example", number % 97), 1, &[]);
            let socket = by_payload(&one, &message);
            counts[socket as usize] += 1;
            moved += u32::from(by_payload(&other, &message) != socket);
        }
        let fair = 20_000 / workers as u32;
        let (least, most) = (*counts.iter().min().unwrap(), *counts.iter().max().unwrap());
        assert!(least * 10 > fair * 7 && most * 10 < fair * 13, "{workers} workers: {least} to {most}");
        assert!(moved > 20_000 * (workers as u32 - 1) / workers as u32 * 9 / 10, "{workers} workers: {moved} moved");
    }
}

#[test]
fn what_is_cut_off_or_no_plain_name_goes_by_its_flow_and_nothing_is_read_past_its_end() {
    let program = by_name(2, 3);
    let whole = question("www.example.org", 1, &[]);
    let name_end = 12 + "\x03www\x07example\x03org".len();
    for bytes in 0..whole.len() {
        let is_judged = bytes > name_end;
        assert_eq!(by_payload(&program, &whole[..bytes]) != FLOW, is_judged, "{bytes} octets");
    }
    for octet in [64, 0x80, 0xc0, 0xff] {
        let mut message = whole.clone();
        message[12] = octet;
        assert_eq!(by_payload(&program, &message), FLOW);
    }
    // The last label that is looked at says that it is longer than the packet.
    let mut message = question(&vec!["x"; STEERING_LABELS_MAX].join("."), 1, &[]);
    message[12 + 2 * (STEERING_LABELS_MAX - 1)] = 63;
    assert_eq!(by_payload(&program, &message), FLOW);
}

#[test]
fn hostile_names_take_a_bounded_number_of_steps() {
    let program = by_name(WORKERS_MAX, 9);
    let most = [1, 2, 3, 7, 31, 63].map(|letters| {
        let label = "x".repeat(letters);
        let name = vec![label.as_str(); 4_000 / (letters + 1)].join(".");
        run(&program, Packet { core: 0, payload: &question(&name, 1, &[]) }).1
    });
    assert!(most.iter().all(|steps| *steps < 700), "{most:?}");
    let usual = run(&program, Packet { core: 0, payload: &question("www.example.org", 1, &[]) }).1;
    assert!(usual < 100, "{usual} steps for a usual name");
}

/// Sockets of one group on loopback.
fn group(sockets: usize) -> Vec<UdpSocket> {
    let first = udp::bind("127.0.0.1:0".parse().unwrap()).unwrap();
    let address = first.local_addr().unwrap();
    let others = (1..sockets).map(|_| udp::bind(address).unwrap());
    std::iter::once(first).chain(others).collect()
}

/// The socket that a datagram comes to.
fn receiver(group: &[UdpSocket], sender: &UdpSocket, payload: &[u8]) -> usize {
    sender.send_to(payload, group[0].local_addr().unwrap()).unwrap();
    let receives = |socket: &UdpSocket| socket.recv(&mut [0; 1_024]).is_ok_and(|bytes| bytes == payload.len());
    let until = Instant::now() + PATIENCE;
    loop {
        if let Some(socket) = group.iter().position(receives) {
            return socket;
        }
        assert!(Instant::now() < until, "a datagram that was sent is received");
        std::thread::yield_now();
    }
}

fn sender() -> UdpSocket {
    UdpSocket::bind("127.0.0.1:0").unwrap()
}

#[test]
fn the_kernel_takes_the_largest_programs() {
    let group = group(1);
    for cores in [vec![0], (0..WORKERS_MAX).map(|core| 4 * core).collect()] {
        kernel::steer(&group[0], &by_cpu(&cores)).unwrap();
    }
    kernel::steer(&group[0], &by_name(WORKERS_MAX, 77)).unwrap();
}

#[test]
fn the_kernel_steers_names_as_the_interpreter_does() {
    let group = group(5);
    let program = by_name(5, 0x5eed_5eed);
    kernel::steer(&group[3], &program).unwrap();
    let mut seen = HashSet::new();
    for number in 0..40 {
        let name = format!("{}{number}.Example.net", "n".repeat(number));
        let message = question(&name, 1, &[]);
        let expected = by_payload(&program, &message) as usize;
        // Every time from another port.
        assert_eq!(receiver(&group, &sender(), &message), expected, "{name}");
        assert_eq!(receiver(&group, &sender(), &question(&name.to_uppercase(), 28, &[0; 30])), expected, "{name}");
        seen.insert(expected);
    }
    assert_eq!(seen.len(), 5);
    // What is no question is spread by its flow, of which one port has one.
    let (one, mut sockets) = (sender(), HashSet::new());
    let fixed = receiver(&group, &one, b"short");
    assert_eq!(receiver(&group, &one, b"other"), fixed);
    for _ in 0..200 {
        sockets.insert(receiver(&group, &sender(), b"short"));
    }
    assert_eq!(sockets.len(), 5);
}

#[test]
fn the_kernel_steers_by_the_core_that_receives_and_by_flow_where_none_is_meant() {
    let core = core_affinity::get_core_ids().unwrap()[0];
    std::thread::scope(|scope| {
        scope.spawn(|| {
            assert!(core_affinity::set_for_current(core));
            // On loopback a packet is received by the core that sends it.
            for place in 0..4 {
                let cores: Vec<usize> =
                    (0..4).map(|at| if at == place { core.id } else { core.id + 10 + at }).collect();
                let group = group(4);
                kernel::steer(&group[0], &by_cpu(&cores)).unwrap();
                assert!((0..20).all(|_| receiver(&group, &sender(), b"payload") == place), "{cores:?}");
            }
            let group = group(4);
            kernel::steer(&group[0], &by_cpu(&[core.id + 1, core.id + 2, core.id + 3, core.id + 4])).unwrap();
            let sockets: HashSet<usize> = (0..200).map(|_| receiver(&group, &sender(), b"payload")).collect();
            assert_eq!(sockets.len(), 4);
        });
    });
}
