//! Tests of the connections without sockets: who is let in, who is closed, and what each is told.

use super::*;

const LIMITS: TcpLimits =
    TcpLimits { connections: 256, connections_per_client: 16, idle_ms: 10_000, pipeline: 64, lifetime_ms: 60_000 };

fn frame(message: &[u8]) -> Vec<u8> {
    let mut framed = (message.len() as u16).to_be_bytes().to_vec();
    framed.extend_from_slice(message);
    framed
}

fn client(number: u8) -> SocketAddr {
    SocketAddr::from(([192, 0, 2, number], 4_000))
}

fn admit(connections: &mut Connections, client: SocketAddr, at: u64) -> Option<u64> {
    connections.admit(client, Now(at), &SocketCounters::default())
}

#[test]
fn one_client_cannot_take_every_connection_and_all_clients_together_not_more_than_there_are() {
    let mut connections = Connections::new(LIMITS);
    let mine: Vec<u64> =
        (0..LIMITS.connections_per_client).filter_map(|_| admit(&mut connections, client(1), 0)).collect();
    assert_eq!(mine.len(), LIMITS.connections_per_client);
    assert_eq!(admit(&mut connections, client(1), 0), None);
    let mapped = "[::ffff:192.0.2.1]:9".parse().unwrap();
    assert_eq!(admit(&mut connections, mapped, 0), None, "the same client by its mapped address");
    connections.close(mine[0]);
    let again = admit(&mut connections, client(1), 0).unwrap();
    assert!(connections.get_mut(mine[0]).is_none() && connections.get_mut(again).is_some());
    let others = (2..=200).flat_map(|number| std::iter::repeat_n(client(number), 8));
    for client in others {
        let _ = admit(&mut connections, client, 0);
    }
    assert_eq!(connections.open_count(), LIMITS.connections);
    assert!(connections.of_client.len() <= LIMITS.connections);
}

#[test]
fn all_addresses_of_a_slash_64_are_one_client() {
    let mut connections = Connections::new(LIMITS);
    let address = |network: u16, host: u16| SocketAddr::from(([0x2001, 0xdb8, 0, network, 0, 0, 0, host], 4_000));
    for host in 0..LIMITS.connections_per_client as u16 {
        admit(&mut connections, address(1, host), 0).unwrap();
    }
    assert_eq!(admit(&mut connections, address(1, 999), 0), None);
    assert!(admit(&mut connections, address(2, 999), 0).is_some());
    assert_eq!(connections.of_client.len(), 2);
}

#[test]
fn the_connection_idle_for_longest_makes_room_and_those_that_wait_for_us_do_not() {
    let counters = SocketCounters::default();
    let mut connections = Connections::new(LIMITS);
    let address = |number: usize| SocketAddr::from(([10, 0, (number >> 8) as u8, number as u8], 4_000));
    let all: Vec<u64> = (0..LIMITS.connections)
        .map(|number| connections.admit(address(number), Now(number as u64), &counters).unwrap())
        .collect();
    assert_eq!(counters.tcp_displaced.value(), 0);
    // The oldest waits for an upstream, the next is still to be written to, the third has just asked.
    connections.get_mut(all[0]).unwrap().query_waits();
    connections.reply(all[1], b"unread", &counters);
    connections.get_mut(all[2]).unwrap().query_came(Now(1_000));
    connections.admit(address(600), Now(1_001), &counters).unwrap();
    assert_eq!(connections.open_count(), LIMITS.connections);
    let is_open = |connections: &mut Connections, index: usize| connections.get_mut(all[index]).is_some();
    assert_eq!([0, 1, 2, 3, 4].map(|index| is_open(&mut connections, index)), [true, true, true, false, true]);
    for index in (4..all.len()).chain([2]) {
        connections.get_mut(all[index]).unwrap().query_waits();
    }
    assert!(connections.admit(address(601), Now(1_002), &counters).is_some(), "the newcomer of before is idle");
    assert_eq!(counters.tcp_displaced.value(), 2);
}

#[test]
fn a_reply_goes_to_its_own_connection_or_nowhere() {
    let counters = SocketCounters::default();
    let mut connections = Connections::new(LIMITS);
    let old = admit(&mut connections, client(1), 0).unwrap();
    connections.close(old);
    let new = admit(&mut connections, client(2), 0).unwrap();
    assert_eq!(old as u32, new as u32, "the slot is used again");
    connections.reply(old, b"late", &counters);
    connections.reply(new, b"answer", &counters);
    assert_eq!(connections.get_mut(new).unwrap().unsent(), frame(b"answer"));
    assert_eq!((counters.tcp_gone.value(), counters.tcp_replies.value()), (1, 1));
}

#[test]
fn a_client_that_does_not_read_is_asked_no_more_and_then_cut_off() {
    let counters = SocketCounters::default();
    let mut connections = Connections::new(LIMITS);
    let token = admit(&mut connections, client(1), 0).unwrap();
    let reply = vec![0; TCP_OUTBOX_BYTES_HIGH];
    let mut replies = 0;
    while !connections.get_mut(token).unwrap().must_close() {
        connections.reply(token, &reply, &counters);
        assert!(!connections.get_mut(token).unwrap().takes_queries());
        replies += 1;
    }
    assert!(connections.get_mut(token).unwrap().unsent().len() <= TCP_OUTBOX_BYTES_MAX);
    assert_eq!(replies, 1 + TCP_OUTBOX_BYTES_MAX / (2 + TCP_OUTBOX_BYTES_HIGH));
    connections.reply(token, &reply, &counters);
    assert_eq!((counters.tcp_slow.value(), counters.tcp_gone.value()), (1, 1), "it is cut off once");
}

#[test]
fn a_reader_gets_every_reply_in_order_and_frees_the_memory() {
    let counters = SocketCounters::default();
    let mut connections = Connections::new(LIMITS);
    let token = admit(&mut connections, client(1), 0).unwrap();
    let mut read = Vec::new();
    let mut written = Vec::new();
    for number in 0..100u8 {
        let reply = vec![number; 2_000];
        connections.reply(token, &reply, &counters);
        written.extend(frame(&reply));
        let connection = connections.get_mut(token).unwrap();
        let part = connection.unsent().len().min(1_999);
        read.extend_from_slice(&connection.unsent()[..part]);
        connection.wrote(part, Now(1));
    }
    let connection = connections.get_mut(token).unwrap();
    read.extend_from_slice(connection.unsent());
    connection.wrote(connection.unsent().len(), Now(1));
    assert!(read == written);
    assert!(connection.is_settled() && connection.outbox.capacity() <= TCP_OUTBOX_BYTES_HIGH);
}

#[test]
fn too_many_waiting_queries_stop_the_reading_until_one_is_answered() {
    let mut connections = Connections::new(LIMITS);
    let token = admit(&mut connections, client(1), 0).unwrap();
    for _ in 0..LIMITS.pipeline {
        let connection = connections.get_mut(token).unwrap();
        assert!(connection.takes_queries());
        connection.query_waits();
    }
    assert!(!connections.get_mut(token).unwrap().takes_queries());
    connections.query_ended(token);
    assert!(connections.get_mut(token).unwrap().takes_queries());
}

#[test]
fn a_silent_connection_is_closed_and_one_that_waits_for_an_answer_is_not() {
    let counters = SocketCounters::default();
    let mut connections = Connections::new(LIMITS);
    let [silent, waiting, deaf] = [1, 2, 3].map(|number| admit(&mut connections, client(number), 0).unwrap());
    connections.get_mut(waiting).unwrap().query_waits();
    connections.get_mut(deaf).unwrap().query_waits();
    connections.reply(deaf, b"unread", &counters);
    connections.sweep(Now(LIMITS.idle_ms * 1_000 - 1), &counters);
    assert_eq!(counters.tcp_idle.value(), 0);
    connections.sweep(Now(LIMITS.idle_ms * 1_000), &counters);
    assert_eq!(
        [silent, waiting, deaf].map(|token| connections.get_mut(token).unwrap().must_close()),
        [true, false, true]
    );
}

#[test]
fn a_message_that_does_not_come_whole_in_time_closes_its_connection_and_later_ones_start_anew() {
    let counters = SocketCounters::default();
    let mut connections = Connections::new(TcpLimits { idle_ms: 60_000, ..LIMITS });
    let [slow, quick] = [1, 2].map(|number| admit(&mut connections, client(number), 0).unwrap());
    let time = TCP_MESSAGE_MS_MAX * 1_000;
    for at in [1, time / 2, time] {
        // Octet by octet; the other one ends a message and begins the next.
        connections.get_mut(slow).unwrap().read(true, Now(at));
        connections.get_mut(quick).unwrap().read(at != time / 2, Now(at));
    }
    connections.sweep(Now(time), &counters);
    assert!([slow, quick].into_iter().all(|token| !connections.get_mut(token).unwrap().must_close()));
    connections.sweep(Now(time + 1), &counters);
    assert_eq!([slow, quick].map(|token| connections.get_mut(token).unwrap().must_close()), [true, false]);
    assert_eq!((counters.tcp_incomplete.value(), counters.tcp_idle.value()), (1, 0));
}

#[test]
fn a_connection_that_has_lived_long_enough_takes_no_more_and_is_not_cut_off() {
    let counters = SocketCounters::default();
    let mut connections = Connections::new(LIMITS);
    let token = admit(&mut connections, client(1), 0).unwrap();
    for at in [0, 9_000_000, 18_000_000, 27_000_000, 36_000_000, 45_000_000, 54_000_000, 59_999_999] {
        connections.get_mut(token).unwrap().query_came(Now(at));
        connections.sweep(Now(at), &counters);
        assert!(!connections.get_mut(token).unwrap().is_ending());
    }
    connections.get_mut(token).unwrap().query_waits();
    for _ in 0..2 {
        connections.sweep(Now(60_000_000), &counters);
        let connection = connections.get_mut(token).unwrap();
        assert!(connection.is_ending() && !connection.must_close() && !connection.is_settled());
    }
    assert_eq!(counters.tcp_ended.value(), 1);
}

#[test]
fn a_client_is_told_its_idle_time_and_less_when_connections_are_scarce_or_its_own_is_old() {
    let mut connections = Connections::new(LIMITS);
    let mut told = Vec::new();
    let mut first = None;
    for number in 0..LIMITS.connections {
        let address = SocketAddr::from(([10, 0, (number >> 8) as u8, number as u8], 4_000));
        let token = admit(&mut connections, address, 0).unwrap();
        first.get_or_insert(token);
        told.push(connections.keepalive(token, Now(0)));
    }
    assert!(told[..192].iter().all(|units| *units == 100), "ten seconds while a quarter is left");
    assert!(told.is_sorted_by(|earlier, later| earlier >= later));
    assert_eq!((told[223], told[255]), (50, 0), "half of it at an eighth, and at last to go");
    let mut connections = Connections::new(LIMITS);
    let token = admit(&mut connections, client(1), 0).unwrap();
    let at = [49, 55, 60, 70].map(|second| connections.keepalive(token, Now(second * 1_000_000)));
    assert_eq!(at, [100, 50, 0, 0]);
}

#[test]
fn other_limits_hold_for_the_connections_that_are_there() {
    let counters = SocketCounters::default();
    let mut connections = Connections::new(LIMITS);
    let tokens: Vec<u64> = (1..=4).map(|number| admit(&mut connections, client(number), 0).unwrap()).collect();
    connections.get_mut(tokens[0]).unwrap().query_waits();
    connections.set_limits(TcpLimits {
        connections: 3,
        connections_per_client: 1,
        idle_ms: 1_000,
        pipeline: 1,
        ..LIMITS
    });
    assert!(!connections.get_mut(tokens[0]).unwrap().takes_queries());
    assert_eq!(admit(&mut connections, client(2), 1), None, "it has one");
    assert!(admit(&mut connections, client(5), 1).is_some(), "an idle one makes room");
    assert_eq!(connections.open_count(), 4, "those there were are not cut off");
    connections.sweep(Now(1_000_000), &counters);
    assert_eq!(counters.tcp_idle.value(), 2, "but held to the new time");
}

#[test]
fn the_search_for_an_idle_connection_is_bounded_and_comes_round_to_all() {
    let counters = SocketCounters::default();
    let count = 3 * TCP_DISPLACE_STEPS_MAX;
    let mut connections = Connections::new(TcpLimits { connections: count, ..LIMITS });
    let address = |number: usize| SocketAddr::from(([10, 0, (number >> 8) as u8, number as u8], 4_000));
    let all: Vec<u64> =
        (0..count).map(|number| connections.admit(address(number), Now(0), &counters).unwrap()).collect();
    for token in &all[..count - 1] {
        connections.get_mut(*token).unwrap().query_waits();
    }
    let tries = (0..3).filter(|_| connections.admit(address(count), Now(1), &counters).is_some()).count();
    assert_eq!((tries, counters.tcp_displaced.value()), (1, 1), "the only idle one is found within one round");
    assert!(connections.get_mut(all[count - 1]).is_none());
}
