//! Which server is asked, and what becomes of those that fail.

use super::*;
use crate::decide::settings::Strategy;
use crate::limits::{UPSTREAM_BACK_OFF_US_MIN, UPSTREAM_EXPLORE_US, UPSTREAM_PROBE_US_MAX, UPSTREAM_SUSPECT_US};

const SECOND: u64 = 1_000_000;

/// Servers numbered from 0, in one group.
struct Bench {
    upstreams: Upstreams,
    group: GroupRef,
}

impl Bench {
    fn new(strategy: Strategy, servers: u8) -> Self {
        let servers = (0..servers).map(|number| SocketAddr::from(([192, 0, 2, number], 53))).collect();
        let mut upstreams = Upstreams::new(&mut Chance::new([5; 32]));
        upstreams.switch(&[Group { strategy, ..Group::new("default", servers) }], 0);
        let group = upstreams.find(upstreams.group("default")).unwrap();
        Self { upstreams, group }
    }

    fn server(&self, number: u8) -> ServerRef {
        let slots = self.upstreams.groups.group(self.group).unwrap().servers();
        self.upstreams.groups.server_at(slots[usize::from(number)]).unwrap()
    }

    fn number(&self, server: ServerRef) -> u8 {
        match self.upstreams.address(server).unwrap().ip() {
            std::net::IpAddr::V4(address) => address.octets()[3],
            std::net::IpAddr::V6(_) => panic!("there are none"),
        }
    }

    /// The order in which all are asked for one question.
    fn order(&mut self, now: Now) -> Vec<u8> {
        let mut tried = Tried::default();
        std::iter::from_fn(|| {
            let server = self.upstreams.choose(self.group, &mut tried, now)?;
            Some(self.number(server))
        })
        .collect()
    }

    fn answers(&mut self, number: u8, sample_us: u64) {
        let server = self.server(number);
        self.upstreams.note_answer(server, Now(0), true, Some(sample_us));
    }

    fn fails(&mut self, number: u8, now: Now) {
        let server = self.server(number);
        assert_eq!(self.upstreams.note_timeout(server, now, now), Health::Same);
    }

    fn takes_down(&mut self, number: u8, now: Now) {
        let server = self.server(number);
        let health: Vec<_> = (0..2).map(|_| self.upstreams.note_refusal(server, now, now)).collect();
        assert_eq!(health, [Health::Same, Health::WentDown]);
    }

    fn measured(&mut self, tried: &[u8], now: Now) -> Option<u8> {
        let mut bits = Tried::default();
        tried.iter().for_each(|&number| bits.add(usize::from(number)));
        let server = self.upstreams.choose_to_measure(self.group, &mut bits, now)?;
        self.upstreams.note_asked(server, now);
        Some(self.number(server))
    }
}

#[test]
fn ordered_asks_the_first_that_is_up() {
    let mut bench = Bench::new(Strategy::Ordered, 3);
    bench.answers(2, 10);
    assert_eq!(bench.order(Now(0)), [0, 1, 2]);
    bench.takes_down(0, Now(0));
    assert_eq!(bench.order(Now(0)), [1, 2, 0]);
    bench.answers(0, 10);
    assert_eq!(bench.order(Now(0)), [0, 1, 2]);
}

#[test]
fn fastest_asks_by_what_was_measured_and_those_not_measured_last() {
    let mut bench = Bench::new(Strategy::Fastest, 4);
    assert_eq!(bench.order(Now(0)), [0, 1, 2, 3], "nothing is known: the order of the configuration");
    bench.answers(3, 20_000);
    bench.answers(1, 5_000);
    assert_eq!(bench.order(Now(0)), [1, 3, 0, 2]);
    let one = bench.server(1);
    (0..3).for_each(|_| bench.upstreams.note_answer(one, Now(0), false, None));
    assert_eq!(bench.order(Now(0)), [3, 1, 0, 2], "failing to resolve is held against it");
    bench.answers(1, 5_000);
    bench.takes_down(1, Now(0));
    assert_eq!(bench.order(Now(0)), [3, 0, 2, 1]);
}

#[test]
fn round_robin_begins_with_the_next_one_each_time_and_passes_over_those_that_are_down() {
    let mut bench = Bench::new(Strategy::RoundRobin, 3);
    let firsts: Vec<u8> = (0..4).map(|_| bench.order(Now(0))[0]).collect();
    assert_eq!(firsts, [0, 1, 2, 0]);
    assert_eq!(bench.order(Now(0)), [1, 2, 0]);
    bench.takes_down(0, Now(0));
    let firsts: Vec<u8> = (0..4).map(|_| bench.order(Now(0))[0]).collect();
    assert_eq!(firsts, [2, 1, 2, 1]);
}

#[test]
fn servers_are_measured_in_turn_and_not_again_for_a_while() {
    let mut bench = Bench::new(Strategy::Fastest, 3);
    assert_eq!(bench.measured(&[0], Now(SECOND)), Some(1));
    assert_eq!(bench.measured(&[0], Now(SECOND)), Some(2));
    assert_eq!(bench.measured(&[0], Now(SECOND)), None, "both are being measured");
    assert_eq!(bench.measured(&[0], Now(SECOND + UPSTREAM_EXPLORE_US - 1)), None);
    assert_eq!(bench.measured(&[0, 1], Now(SECOND + UPSTREAM_EXPLORE_US)), Some(2), "not whom is asked anyway");
    let mut bench = Bench::new(Strategy::Ordered, 3);
    assert_eq!(bench.measured(&[0], Now(0)), None, "nothing comes of it");
    let mut bench = Bench::new(Strategy::Fastest, 2);
    bench.takes_down(1, Now(0));
    assert_eq!(bench.measured(&[0], Now(0)), None, "that is what probes are for");
}

#[test]
fn suspects_are_asked_behind_the_others_and_before_those_that_are_down() {
    for strategy in [Strategy::Ordered, Strategy::RoundRobin, Strategy::Fastest, Strategy::Parallel] {
        let mut bench = Bench::new(strategy, 3);
        (0..3).for_each(|number| bench.answers(number, 1_000 * (1 + u64::from(number))));
        bench.fails(0, Now(SECOND));
        bench.takes_down(1, Now(SECOND));
        assert_eq!(bench.order(Now(SECOND)), [2, 0, 1], "{strategy:?}");
        bench.fails(2, Now(2 * SECOND));
        let order = bench.order(Now(2 * SECOND));
        assert_eq!(order[2], 1, "{strategy:?}: all are suspects or down: {order:?}");
        bench.answers(0, 1_000);
        assert_eq!(bench.order(Now(2 * SECOND)), [0, 2, 1], "{strategy:?}");
    }
}

#[test]
fn suspects_are_tried_by_every_strategy_the_one_asked_longest_ago_first() {
    for strategy in [Strategy::Ordered, Strategy::RoundRobin, Strategy::Fastest, Strategy::Parallel] {
        let mut bench = Bench::new(strategy, 3);
        for number in 0..3 {
            let server = bench.server(number);
            bench.upstreams.note_asked(server, Now(SECOND - u64::from(number)));
        }
        let due = SECOND + UPSTREAM_SUSPECT_US;
        assert_eq!(bench.measured(&[0], Now(due)), None, "{strategy:?}: they are waited for");
        (0..3).for_each(|number| bench.fails(number, Now(SECOND)));
        assert_eq!(bench.measured(&[0], Now(due)), Some(2), "{strategy:?}");
        assert_eq!(bench.measured(&[0], Now(due)), Some(1), "{strategy:?}");
        assert_eq!(bench.measured(&[0], Now(due)), None, "{strategy:?}: whom is asked anyway is left out");
        bench.takes_down(2, Now(2 * SECOND));
        assert_eq!(bench.measured(&[0, 1], Now(3 * SECOND)), None, "{strategy:?}: that is what probes are for");
    }
}

#[test]
fn a_server_is_alone_when_no_other_group_stands_in_for_its_own() {
    let servers = |numbers: &[u8]| numbers.iter().map(|&number| SocketAddr::from(([192, 0, 2, number], 53))).collect();
    let mut upstreams = Upstreams::new(&mut Chance::new([5; 32]));
    let with = |name, fallback: Option<&str>, numbers| Group {
        fallback: fallback.map(str::to_owned),
        ..Group::new(name, servers(numbers))
    };
    let groups = [with("one", None, &[1]), with("two", None, &[2, 3]), with("helped", Some("one"), &[4])];
    upstreams.switch(&[&groups[..], &[with("unhelped", Some("none"), &[5]), with("none", None, &[])]].concat(), 0);
    let alone = ["one", "two", "helped", "unhelped"]
        .map(|name| upstreams.is_alone(upstreams.find(upstreams.group(name)).unwrap()));
    assert_eq!(alone, [true, false, false, true]);
}

#[test]
fn when_all_are_down_the_one_that_is_probed_first_is_asked_first() {
    let mut bench = Bench::new(Strategy::Ordered, 2);
    bench.takes_down(0, Now(9 * SECOND));
    bench.takes_down(1, Now(SECOND));
    assert_eq!(bench.order(Now(10 * SECOND)), [1, 0]);
    let mut tried = Tried::default();
    assert_eq!(bench.upstreams.choose_up(bench.group, &mut tried, Now(0)), None, "no beside-question to them");
}

#[test]
fn a_server_that_is_down_is_probed_while_it_is_wanted() {
    let mut bench = Bench::new(Strategy::Ordered, 2);
    bench.takes_down(0, Now(0));
    let first = bench.upstreams.next_probe().unwrap();
    assert!((UPSTREAM_BACK_OFF_US_MIN..UPSTREAM_BACK_OFF_US_MIN * 5 / 4).contains(&first.0));
    assert_eq!(bench.upstreams.take_probe(Now(first.0 - 1)), None);
    let zero = bench.server(0);
    assert_eq!(bench.upstreams.take_probe(first), Some(zero));
    assert_eq!(bench.upstreams.next_probe(), None, "one is in flight");
    bench.order(first);
    assert_eq!(bench.upstreams.next_probe(), None, "a question to the group changes nothing about that");
    bench.upstreams.note_probe_failed(zero, first);
    assert!(bench.upstreams.next_probe().unwrap() >= first.plus_us(2 * UPSTREAM_BACK_OFF_US_MIN));
    // Nobody has asked since.
    let late = Now(first.0 + UPSTREAM_PROBE_US_MAX);
    assert_eq!((bench.upstreams.take_probe(late), bench.upstreams.next_probe()), (None, None));
    bench.order(late);
    assert_eq!(bench.upstreams.next_probe(), Some(late), "it is wanted again");
    assert_eq!(bench.upstreams.take_probe(late), Some(zero));
    bench.answers(0, 10);
    assert_eq!((bench.upstreams.next_probe(), bench.order(late)), (None, vec![0, 1]));
}

#[test]
fn a_fallback_group_is_asked_first_while_the_group_is_down() {
    let servers = |number| vec![SocketAddr::from(([192, 0, 2, number], 53))];
    let mut upstreams = Upstreams::new(&mut Chance::new([5; 32]));
    let with = |name, fallback: Option<&str>, number| Group {
        fallback: fallback.map(str::to_owned),
        ..Group::new(name, servers(number))
    };
    upstreams.switch(&[with("a", Some("b"), 1), with("b", Some("c"), 2), with("c", None, 3)], 0);
    let [a, b, c] = ["a", "b", "c"].map(|name| upstreams.find(upstreams.group(name)).unwrap());
    assert_eq!((upstreams.fallback(a), upstreams.fallback(c)), (Some(b), None));
    assert_eq!(upstreams.first_asked(a), a);
    let mut down = |group: GroupRef| {
        let server = upstreams.choose(group, &mut Tried::default(), Now(0)).unwrap();
        for _ in 0..2 {
            upstreams.note_refusal(server, Now(0), Now(0));
        }
        (upstreams.first_asked(a), upstreams.is_swamped(a))
    };
    assert_eq!(down(a), (b, false));
    assert_eq!(down(b), (c, false));
    assert_eq!(down(c), (a, false), "all are: the group itself");
    (0..UPSTREAM_DOWN_EXCHANGES_MAX).for_each(|_| upstreams.opened(a, Now(0)));
    assert!(upstreams.is_swamped(a));
    upstreams.closed(a);
    assert!(!upstreams.is_swamped(a));
}

#[test]
fn operators_are_told_of_each_server() {
    let mut bench = Bench::new(Strategy::Fastest, 2);
    bench.answers(1, 3_000);
    bench.takes_down(0, Now(0));
    let told: Vec<_> = bench
        .upstreams
        .servers()
        .map(|server| {
            let groups: Vec<_> = server.groups().collect();
            (server.address().to_string(), groups, server.round_trip(), server.failures(), server.is_down())
        })
        .collect();
    let round_trip = Some(RoundTrip { smoothed_us: 3_000, variation_us: 1_500 });
    assert_eq!(
        told,
        [
            ("192.0.2.0:53".to_owned(), vec!["default"], None, 2, true),
            ("192.0.2.1:53".to_owned(), vec!["default"], round_trip, 0, false),
        ]
    );
}
