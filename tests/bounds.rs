//! What happens at the bounds: when all places for waiting queries are taken, and when many lists speak of one name.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;

use corewall::decide::local::{LocalRecords, Served};
use corewall::decide::rulebook::RuleBook;
use corewall::decide::settings::{Group, Policy, Settings};
use corewall::decide::{Core, Now, Origin, Ready, Step, Transport};
use corewall::limits::{CLIENT_QUERIES_WAITING_MAX, EXCHANGE_CLIENTS_MAX, QUERIES_WAITING_MAX, REFRESHES_MAX};
use corewall::serve::answer_here::carry_out;
use corewall::serve::patterns::{PatternDatabase, PatternScanner};
use corewall::serve::store::StoreReader;
use corewall_sharding::build::{BuildOptions, Builder};
use corewall_sharding::publish::Store;
use corewall_sharding::rule::{Class, Kind, List, Rule, RuleKey, Scope};

const NOERROR: u8 = 0;
const SERVFAIL: u8 = 2;

fn settings() -> Settings {
    let mut settings = Settings::default();
    settings.groups[0] = Group::new("default", vec!["192.0.2.1:53".parse().unwrap()]);
    // Answers are made of the questions here, by leaving out their OPT record.
    settings.groups[0].terms.cookies = false;
    settings.local =
        LocalRecords::new(Vec::new(), Served { special_use_names: true, reverse_zones: true, canary_domains: true });
    settings
}

fn core() -> Core {
    let settings = settings();
    let rules = RuleBook::empty(&settings);
    Core::new(Arc::new(settings), Arc::new(rules), [1; 32])
}

fn query(id: u16, name: &str) -> Vec<u8> {
    let mut message = id.to_be_bytes().to_vec();
    message.extend_from_slice(b"\x01\0\0\x01\0\0\0\0\0\0");
    for label in name.split('.') {
        message.push(label.len() as u8);
        message.extend_from_slice(label.as_bytes());
    }
    message.extend_from_slice(b"\0\0\x01\0\x01");
    message
}

fn client(number: usize) -> Origin {
    let address = IpAddr::V4(Ipv4Addr::from(0x0a00_0000 + number as u32));
    Origin { client: SocketAddr::new(address, 5_353), local: None, transport: Transport::Udp, token: number as u64 }
}

/// RCODE of the reply; none when the query waits.
fn ask(core: &mut Core, from: usize, id: u16, name: &str) -> Option<u8> {
    let mut out = [0; 4_096];
    match core.on_datagram(Now(1), client(from), &query(id, name), &mut out) {
        Step::Reply { .. } => Some(out[3] & 0x0f),
        Step::Wait(_) => None,
        step => panic!("{step:?}"),
    }
}

fn drain_sends(core: &mut Core) {
    while core.next_ready().is_some() {}
}

#[test]
fn what_can_be_answered_at_once_is_answered_however_many_wait() {
    let mut core = core();
    for number in 0..QUERIES_WAITING_MAX {
        // Few names, so that the bound of exchanges is not met first.
        let name = format!("n{}.example", number / (usize::from(EXCHANGE_CLIENTS_MAX) / 2));
        assert_eq!(ask(&mut core, number, 7, &name), None, "query {number}");
        drain_sends(&mut core);
    }
    assert_eq!(core.queries_waiting(), QUERIES_WAITING_MAX);
    for number in 0..3 {
        assert_eq!(ask(&mut core, 100_000 + number, 8, "one-more.example"), Some(SERVFAIL));
        assert_eq!(ask(&mut core, 100_000 + number, 9, "localhost"), Some(NOERROR));
    }
    assert_eq!(core.counters().overloaded.value(), 3);
    assert_eq!(core.queries_waiting(), QUERIES_WAITING_MAX);
}

#[test]
fn one_client_cannot_take_the_places_of_the_others() {
    let mut core = core();
    for number in 0..CLIENT_QUERIES_WAITING_MAX {
        assert_eq!(ask(&mut core, 1, 7, &format!("n{number}.example")), None);
        drain_sends(&mut core);
    }
    assert_eq!(ask(&mut core, 1, 8, "one-more.example"), Some(SERVFAIL));
    assert_eq!(ask(&mut core, 2, 9, "one-more.example"), None);
}

#[test]
fn all_who_wait_for_one_answer_get_it_and_their_places_are_free_again() {
    let mut core = core();
    let clients = usize::from(EXCHANGE_CLIENTS_MAX);
    let mut request = None;
    for number in 0..clients {
        assert_eq!(ask(&mut core, number, number as u16, "Www.Example.com"), None);
        while let Some(ready) = core.next_ready() {
            let Ready::Send(id) = ready else { panic!("{ready:?}") };
            let sent = core.upstream_request(id).unwrap();
            request = Some((sent.server, sent.socket, sent.message.to_vec()));
        }
    }
    // A TTL of 0: nothing of it may be kept, so each client's answer comes from the exchange itself.
    let (server, socket, mut message) = request.expect("one question to the upstream");
    message.truncate(12 + "\x03www\x07example\x03com\0".len() + 4);
    message[2] |= 0x80;
    (message[7], message[11]) = (1, 0);
    message.extend_from_slice(b"\xc0\x0c\0\x01\0\x01\0\0\0\0\0\x04\xc0\0\x02\x05");
    core.on_upstream(Now(2), server, Transport::Udp, socket, &message);
    let mut answered = vec![false; clients];
    let mut out = [0; 4_096];
    while let Some(ready) = core.next_ready() {
        if let Ready::Query(ticket) = ready {
            let Step::Reply { bytes, to } = core.resume(Now(2), ticket, &mut out) else { panic!("no reply") };
            let id = u16::from_be_bytes([out[0], out[1]]);
            assert_eq!(u64::from(id), to.token, "the answer bears its client's id");
            assert_eq!(out[..bytes].windows(12).filter(|part| *part == b"\x03Www\x07Example").count(), 1);
            assert!(out[..bytes].ends_with(b"\xc0\0\x02\x05"));
            answered[usize::from(id)] = true;
        }
    }
    assert!(answered.iter().all(|&answered| answered));
    assert_eq!((core.queries_waiting(), core.cached()), (0, 0));
    assert_eq!(ask(&mut core, 0, 1, "www.example.com"), None, "asked again, and there is room");
}

#[test]
fn the_rule_that_decides_is_found_among_hundreds_on_one_name() {
    const LISTS: usize = 300;
    let folder = tempfile::tempdir().unwrap();
    let store = Store::create_or_open(folder.path()).unwrap();
    let mut builder = Builder::new(&store, BuildOptions { shards: 1, ..BuildOptions::default() }).unwrap();
    let lists: Vec<_> = (0..LISTS).map(|n| builder.list(List::named(&format!("list {n}"))).unwrap()).collect();
    let own = builder.list(List::named("own")).unwrap();
    for list in lists {
        let key = RuleKey::Name { name: "www.example.com".parse().unwrap(), target: None };
        builder.push(&Rule { class: Class::plain(Kind::Block, Scope::Exact, list), key }).unwrap();
    }
    let key = RuleKey::Name { name: "example.com".parse().unwrap(), target: None };
    builder.push(&Rule { class: Class::plain(Kind::Allow, Scope::Subtree, own), key }).unwrap();
    builder.finish(&mut |_, _, _| {}).unwrap().publish().unwrap();
    let generation = store.current().unwrap();

    let mut settings = settings();
    let only = |name: &str| Policy {
        name: name.to_owned(),
        lists: Some(vec![name.to_owned()]),
        block_mode: None,
        upstream: None,
    };
    settings.policies.push(only(&format!("list {}", LISTS - 1)));
    settings.policy_clients = [("10.0.0.1/32".parse().unwrap(), 1)].into_iter().collect();
    let rules = RuleBook::new(&generation, &settings).unwrap();
    let mut core = Core::new(Arc::new(settings), Arc::new(rules), [1; 32]);
    let mut store = StoreReader::open(&generation, true).unwrap();
    let mut patterns = PatternScanner::new(Arc::new(PatternDatabase::empty())).unwrap();
    let mut out = [0; 4_096];
    let mut judged = |from: usize| {
        let step = core.on_datagram(Now(1), client(from), &query(1, "www.example.com"), &mut out);
        carry_out(&mut core, Now(1), step, &mut store, &mut patterns, &mut out)
    };
    assert!(matches!(judged(2), Step::Wait(_)), "an allow rule on the parent stands above all blocks");
    assert!(matches!(judged(1), Step::Reply { .. }), "the one list of this policy blocks");
}

#[test]
fn refreshes_take_no_more_than_their_share_of_the_places() {
    let mut core = core();
    let mut out = [0; 4_096];
    let mut ask_at = |core: &mut Core, now: Now, from: usize, name: &str| {
        core.on_datagram(now, client(from), &query(1, name), &mut out)
    };
    let names: Vec<String> = (0..2 * REFRESHES_MAX).map(|number| format!("n{number}.example")).collect();
    for (number, name) in names.iter().enumerate() {
        assert!(matches!(ask_at(&mut core, Now(1), number, name), Step::Wait(_)));
        let mut out = [0; 4_096];
        while let Some(ready) = core.next_ready() {
            match ready {
                Ready::Send(id) => {
                    let sent = core.upstream_request(id).unwrap();
                    let (server, socket, mut message) = (sent.server, sent.socket, sent.message.to_vec());
                    message.truncate(message.len() - 11);
                    message[2] |= 0x80;
                    (message[7], message[11]) = (1, 0);
                    message.extend_from_slice(b"\xc0\x0c\0\x01\0\x01\0\0\0\x64\0\x04\xc0\0\x02\x05");
                    core.on_upstream(Now(1), server, Transport::Udp, socket, &message);
                }
                Ready::Query(ticket) => {
                    let step = core.resume(Now(1), ticket, &mut out);
                    assert!(matches!(step, Step::Reply { .. }), "{step:?}");
                }
                Ready::Done(_) => {}
            }
        }
        assert!(matches!(ask_at(&mut core, Now(1), number, name), Step::Reply { .. }));
    }
    let near_the_end = Now(95_000_000);
    for (number, name) in names.iter().enumerate() {
        assert!(matches!(ask_at(&mut core, near_the_end, number, name), Step::Reply { .. }));
        while let Some(ready) = core.next_ready() {
            if let Ready::Query(ticket) = ready {
                let step = core.resume(near_the_end, ticket, &mut [0; 4_096]);
                assert!(matches!(step, Step::Wait(_)), "{step:?}");
            }
        }
    }
    assert_eq!((core.refreshes_under_way(), core.queries_waiting()), (REFRESHES_MAX, 0));
    assert!(matches!(ask_at(&mut core, near_the_end, 1, "client.example"), Step::Wait(_)), "clients have their places");
}
