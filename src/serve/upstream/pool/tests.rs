//! Tests of the pool without sockets: what goes on which connection, and what becomes of it.

use std::net::SocketAddr;

use super::*;
use crate::decide::Transport;

const SILENCE: u64 = UPSTREAM_ANSWER_US_MAX;
const IDLE: u64 = UPSTREAM_TCP_IDLE_MS * 1_000;

/// The first send of exchange `number`.
fn send(number: u16) -> SendId {
    SendId::all_of(ExchangeId::of_test(u32::from(number))).next().unwrap()
}

fn message(id: u16) -> [u8; 12] {
    let mut message = [0; 12];
    message[..2].copy_from_slice(&id.to_be_bytes());
    message
}

fn put(pool: &mut Pool, now: u64, server: ServerId, id: u16, is_again: bool) -> Result<Option<u64>, Unsent> {
    let address = SocketAddr::from(([192, 0, 2, 1], 53));
    let message = message(id);
    let request = UpstreamRequest { server, address, transport: Transport::Tcp, socket: 0, id, message: &message };
    pool.send(Now(now), send(id), &request, is_again)
}

/// Asks on a new connection and gives its token.
fn connect(pool: &mut Pool, now: u64, server: ServerId, id: u16) -> u64 {
    put(pool, now, server, id, false).unwrap().expect("a new connection")
}

fn in_flight(pool: &mut Pool, token: u64) -> usize {
    pool.get_mut(token).map_or(0, |connection| connection.in_flight.len())
}

#[test]
fn many_questions_share_a_connection_and_the_next_is_opened_when_it_is_full() {
    let mut pool = Pool::new();
    let mut id = 0;
    let mut tokens = Vec::new();
    for _ in 0..UPSTREAM_TCP_CONNECTIONS {
        for place in 0..UPSTREAM_TCP_PIPELINE {
            let opened = put(&mut pool, 0, 7, id, false).unwrap();
            assert_eq!(opened.is_some(), place == 0);
            tokens.extend(opened);
            id += 1;
        }
    }
    assert_eq!(put(&mut pool, 0, 7, id, false), Err(Unsent::NoRoom), "past the bounds");
    assert!(put(&mut pool, 0, 8, id, false).unwrap().is_some(), "another server has connections of its own");
    assert_eq!(pool.take(Now(1), tokens[1], &message(UPSTREAM_TCP_PIPELINE as u16)), Some(7));
    assert_eq!(put(&mut pool, 1, 7, id + 1, false), Ok(None), "an answer makes room");
    assert_eq!(in_flight(&mut pool, tokens[1]), UPSTREAM_TCP_PIPELINE);
}

#[test]
fn answers_come_in_any_order_and_each_frees_its_place() {
    let mut pool = Pool::new();
    let token = connect(&mut pool, 0, 1, 10);
    for id in [11, 12] {
        put(&mut pool, 0, 1, id, false).unwrap();
    }
    for (id, left) in [(12, 2), (10, 1), (11, 0)] {
        assert_eq!(pool.take(Now(1), token, &message(id)), Some(1));
        assert_eq!(in_flight(&mut pool, token), left);
    }
    assert_eq!(pool.close(token, Now(2)), Lost::default());
    assert!(pool.by_send.is_empty() && pool.servers.is_empty() && pool.open_count == 0);
}

#[test]
fn what_a_connection_loses_that_never_answered_has_failed() {
    let mut pool = Pool::new();
    let token = connect(&mut pool, 0, 1, 10);
    put(&mut pool, 0, 1, 11, false).unwrap();
    assert_eq!(pool.close(token, Now(1)), Lost { again: vec![], failed: vec![send(10), send(11)] });
    assert_eq!(pool.close(token, Now(1)), Lost::default(), "once");
}

#[test]
fn what_a_used_connection_loses_is_sent_once_more_on_a_fresh_one_and_then_has_failed() {
    let mut pool = Pool::new();
    let (used, other) = (connect(&mut pool, 0, 1, 1), {
        for id in 2..=UPSTREAM_TCP_PIPELINE as u16 {
            put(&mut pool, 0, 1, id, false).unwrap();
        }
        connect(&mut pool, 0, 1, 500)
    });
    // Both have answered everything, and then the server closes one with a question on its way.
    for id in 1..=UPSTREAM_TCP_PIPELINE as u16 {
        pool.take(Now(1), used, &message(id));
    }
    pool.take(Now(1), other, &message(500));
    assert_eq!(put(&mut pool, 2, 1, 600, false), Ok(None));
    assert_eq!(in_flight(&mut pool, used), 1);
    assert_eq!(pool.close(used, Now(3)), Lost { again: vec![send(600)], failed: vec![] });
    let fresh = put(&mut pool, 3, 1, 600, true).unwrap().expect("not the other one, which may be closed as well");
    assert_eq!(put(&mut pool, 3, 1, 601, true), Ok(None), "several share the fresh one");
    pool.take(Now(4), fresh, &message(601));
    assert_eq!(pool.close(fresh, Now(5)), Lost { again: vec![], failed: vec![send(600)] });
}

#[test]
fn forgotten_questions_free_their_places_and_their_late_answers_do_no_harm() {
    let mut pool = Pool::new();
    let token = connect(&mut pool, 0, 1, 0);
    let forgotten = UPSTREAM_TCP_UNEXPECTED_MAX as u16 + 20;
    for id in 0..forgotten {
        if id > 0 {
            put(&mut pool, 0, 1, id, false).unwrap();
        }
        pool.forget(ExchangeId::of_test(u32::from(id)));
    }
    assert!(in_flight(&mut pool, token) == 0 && pool.by_send.is_empty());
    for id in 0..forgotten {
        assert_eq!(pool.take(Now(1), token, &message(id)), Some(1), "handed on, to be counted");
    }
    assert!(!pool.get_mut(token).unwrap().must_close());
    assert_eq!(put(&mut pool, 1, 1, 999, false), Ok(None));
}

#[test]
fn a_server_that_says_what_nobody_asked_is_cut_off() {
    let mut pool = Pool::new();
    let token = connect(&mut pool, 0, 1, 5);
    for garbage in 0..UPSTREAM_TCP_UNEXPECTED_MAX {
        pool.take(Now(1), token, if garbage % 2 == 0 { b"" } else { b"\xff\xff?" });
        assert!(!pool.get_mut(token).unwrap().must_close());
    }
    pool.take(Now(1), token, b"\xff\xff?");
    assert!(pool.get_mut(token).unwrap().must_close());
    assert!(put(&mut pool, 1, 1, 6, false).unwrap().is_some(), "nothing more is asked on it");
}

#[test]
fn a_server_that_never_answers_loses_the_connection_though_its_questions_were_given_up() {
    let mut pool = Pool::new();
    let token = connect(&mut pool, 0, 1, 5);
    pool.forget(ExchangeId::of_test(5));
    put(&mut pool, SILENCE - 1, 1, 6, false).unwrap();
    pool.sweep(Now(SILENCE - 1));
    assert!(!pool.get_mut(token).unwrap().must_close());
    assert!(put(&mut pool, SILENCE, 1, 7, false).unwrap().is_some(), "nothing more is asked on it");
    assert!(pool.get_mut(token).unwrap().must_close());
    assert_eq!(pool.close(token, Now(SILENCE)), Lost { again: vec![], failed: vec![send(6)] });
}

#[test]
fn silence_counts_from_the_last_message_and_only_while_something_is_asked() {
    let mut pool = Pool::new();
    let token = connect(&mut pool, 0, 1, 5);
    put(&mut pool, 0, 1, 6, false).unwrap();
    pool.take(Now(SILENCE - 1), token, &message(5));
    pool.sweep(Now(2 * SILENCE - 2));
    assert!(!pool.get_mut(token).unwrap().must_close());
    pool.take(Now(2 * SILENCE - 2), token, &message(6));
    pool.sweep(Now(3 * SILENCE));
    assert!(!pool.get_mut(token).unwrap().must_close(), "nothing is asked");
}

#[test]
fn an_unused_connection_is_closed_after_its_time_and_one_with_a_question_is_not() {
    let mut pool = Pool::new();
    let unused = connect(&mut pool, 0, 1, 5);
    pool.take(Now(10), unused, &message(5));
    let used = connect(&mut pool, IDLE, 2, 6);
    pool.sweep(Now(IDLE + 9));
    assert!(!pool.get_mut(unused).unwrap().must_close());
    pool.sweep(Now(IDLE + 10));
    assert!(pool.get_mut(unused).unwrap().must_close() && !pool.get_mut(used).unwrap().must_close());
}

#[test]
fn when_all_connections_are_open_the_idlest_makes_room_and_those_that_are_asked_do_not() {
    let mut pool = Pool::new();
    let all: Vec<u64> = (0..UPSTREAM_TCP_CONNECTIONS_MAX as u16)
        .map(|number| connect(&mut pool, u64::from(number), u32::from(number), number))
        .collect();
    assert_eq!(put(&mut pool, 500, 9_999, 9_999, false), Err(Unsent::NoRoom), "all are asked");
    for number in [3, 2] {
        pool.take(Now(1_000 - u64::from(number)), all[usize::from(number)], &message(number));
    }
    assert!(put(&mut pool, 1_000, 9_999, 9_999, false).unwrap().is_some());
    assert!(pool.get_mut(all[3]).is_none() && pool.get_mut(all[2]).is_some());
    assert_eq!(pool.open_count, UPSTREAM_TCP_CONNECTIONS_MAX);
}

#[test]
fn a_server_that_closes_after_one_answer_gets_a_connection_for_each_question_for_a_while() {
    let mut pool = Pool::new();
    let token = connect(&mut pool, 0, 1, 1);
    pool.get_mut(token).unwrap().connected();
    for id in 2..=3 {
        put(&mut pool, 0, 1, id, false).unwrap();
    }
    pool.take(Now(1), token, &message(1));
    let lost = pool.close(token, Now(1));
    assert_eq!(lost, Lost { again: vec![send(2), send(3)].into_iter().rev().collect(), failed: vec![] });
    for id in 0..UPSTREAM_TCP_ONE_SHOT_CONNECTIONS as u16 {
        let fresh = put(&mut pool, 2, 1, 100 + id, id < 2).unwrap();
        assert!(fresh.is_some(), "question {id} shares a connection");
        if id == 0 {
            pool.take(Now(2), fresh.unwrap(), &message(100));
            assert!(pool.get_mut(fresh.unwrap()).unwrap().must_close(), "the server would close it");
        }
    }
    let later = 1 + UPSTREAM_TCP_ONE_SHOT_MS * 1_000;
    pool.sweep(Now(later));
    let token = put(&mut pool, later, 1, 300, false).unwrap();
    assert!(token.is_some(), "those of before have been silent");
    assert_eq!(put(&mut pool, later, 1, 301, false), Ok(None), "it is tried again");
}

#[test]
fn several_questions_lost_before_the_first_answer_are_sent_once_more_each_on_its_own() {
    let mut pool = Pool::new();
    let token = connect(&mut pool, 0, 1, 1);
    pool.get_mut(token).unwrap().connected();
    put(&mut pool, 0, 1, 2, false).unwrap();
    // The answer was lost with the connection that the server reset.
    assert_eq!(pool.close(token, Now(1)), Lost { again: vec![send(1), send(2)], failed: vec![] });
    let again = [1, 2].map(|id| put(&mut pool, 1, 1, id, true).unwrap().expect("a connection of its own"));
    for (token, id) in again.into_iter().zip([1, 2]) {
        pool.get_mut(token).unwrap().connected();
        assert_eq!(pool.close(token, Now(2)), Lost { again: vec![], failed: vec![send(id)] });
    }
}

#[test]
fn a_single_question_lost_before_the_first_answer_has_failed() {
    let mut pool = Pool::new();
    let token = connect(&mut pool, 0, 1, 1);
    pool.get_mut(token).unwrap().connected();
    assert_eq!(pool.close(token, Now(1)), Lost { again: vec![], failed: vec![send(1)] });
    assert!(pool.servers.is_empty(), "and nothing is held against the server");
}

#[test]
fn nothing_is_kept_of_servers_that_are_asked_no_more() {
    let mut pool = Pool::new();
    for server in 0..1_000 {
        let token = connect(&mut pool, 0, server, 1);
        pool.get_mut(token).unwrap().connected();
        put(&mut pool, 0, server, 2, false).unwrap();
        pool.take(Now(0), token, &message(1));
        pool.close(token, Now(0));
    }
    assert_eq!(pool.servers.len(), 1_000, "each is remembered for closing after one answer");
    pool.sweep(Now(UPSTREAM_TCP_ONE_SHOT_MS * 1_000));
    assert!(pool.servers.is_empty() && pool.slots.len() == 1);
}

#[test]
fn a_server_that_does_not_read_holds_a_bounded_number_of_octets() {
    let mut pool = Pool::new();
    let token = connect(&mut pool, 0, 1, 0);
    for id in 1..10_000 {
        pool.forget(ExchangeId::of_test(u32::from(id) - 1));
        let _ = put(&mut pool, 0, 1, id, false);
    }
    let held = |pool: &mut Pool, token| pool.get_mut(token).unwrap().unsent().len();
    assert!(held(&mut pool, token) <= UPSTREAM_TCP_OUTBOX_BYTES_MAX);
    assert!(pool.open_count <= UPSTREAM_TCP_CONNECTIONS);
}
