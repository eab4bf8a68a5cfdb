//! Tests of what answers are worth, by heads as `response_head` gives them.

use super::*;
use crate::decide::case::LetterCase;
use crate::decide::cookie::Cookie;
use crate::decide::cookie::held::CookieSeen;
use crate::decide::subnet::{ClientSubnet, SubnetMode, SubnetSeen};
use crate::limits::PEER_DOUBTS_MAX;

const HOUR: u64 = PEER_HABIT_S as u64 * 1_000_000;
const UDP: Transport = Transport::Udp;
const TCP: Transport = Transport::Tcp;

/// A server, the terms on which it is spoken to, and the time.
struct Talk {
    peer: Peer,
    terms: Terms,
    now: Now,
    network: Option<Network>,
}

impl Talk {
    fn on(terms: Terms) -> Self {
        let network = terms.subnet.network("192.0.2.7".parse().unwrap(), None);
        Self { peer: Peer::default(), terms, now: Now(1), network }
    }

    fn send(&mut self, transport: Transport, again: Rewording) -> Sent {
        let wording = self.peer.word(&self.terms, self.now, [0x5555, 9], again);
        Sent { transport, wording, network: self.network }
    }

    fn judge(&mut self, sent: &Sent, head: &ResponseHead) -> Verdict {
        self.peer.judge(&self.terms, self.now, sent, head)
    }

    /// The verdict on an answer that repeats everything as it should be, but for what `change` does to it.
    fn answer(&mut self, transport: Transport, again: Rewording, change: impl FnOnce(&mut ResponseHead)) -> Verdict {
        let sent = self.send(transport, again);
        let mut head = answer_to(&sent);
        change(&mut head);
        self.judge(&sent, &head)
    }
}

/// The answer of a server that knows all options.
fn answer_to(sent: &Sent) -> ResponseHead {
    let cookie = sent.wording.sent_cookie().map(|client| {
        let data = [&client.0[..], b"server01"].concat();
        CookieSeen::Read(Cookie::read(&data).unwrap())
    });
    let repeated =
        sent.wording.sent_network(sent.network).filter(|network| *network != Network::UNTOLD).map(|network| {
            let mut option = [0; 32];
            let bytes = network.put(&mut option);
            SubnetSeen::Read(ClientSubnet::from_query(&option[4..bytes]).unwrap(), 16)
        });
    ResponseHead {
        id: 0,
        truncated: false,
        rcode: rcode::NOERROR,
        authentic_data: false,
        is_referral: false,
        letter_case: LetterCase::Kept,
        cookie: cookie.unwrap_or_default(),
        subnet: repeated.unwrap_or_default(),
    }
}

fn no_cookie(head: &mut ResponseHead) {
    head.cookie = CookieSeen::None;
}

fn other_case(head: &mut ResponseHead) {
    head.letter_case = LetterCase::Changed;
}

const FIRST: Rewording = Rewording { form: Form::Whole, is_cookie_retry: false };

fn set_networks() -> Terms {
    Terms { subnet: SubnetPolicy { mode: SubnetMode::Set, ..SubnetPolicy::default() }, ..Terms::default() }
}

#[test]
fn an_answer_that_repeats_everything_is_taken() {
    for terms in [Terms::default(), set_networks(), Terms { case: CaseRandomization::On, ..Terms::default() }] {
        let mut talk = Talk::on(terms);
        for transport in [UDP, TCP] {
            assert_eq!(talk.answer(transport, FIRST, |_| {}), Verdict::Take);
        }
        assert_eq!(talk.answer(UDP, FIRST, |head| head.rcode = rcode::SERVFAIL), Verdict::Take, "such as it is");
    }
}

#[test]
fn what_is_turned_off_is_neither_sent_nor_wanted() {
    let terms = Terms { case: CaseRandomization::Off, cookies: false, subnet: SubnetPolicy::default() };
    let mut talk = Talk::on(terms);
    let sent = talk.send(UDP, FIRST);
    assert_eq!(sent.wording, Wording::default());
    let foreign = CookieSeen::Read(Cookie::read(b"anotherc").unwrap());
    let head = ResponseHead { cookie: foreign, letter_case: LetterCase::Changed, ..answer_to(&sent) };
    assert_eq!(talk.judge(&sent, &head), Verdict::Take);
    assert_eq!(talk.judge(&sent, &ResponseHead { subnet: SubnetSeen::Malformed, ..head }), Verdict::Take);
}

#[test]
fn another_letter_case_without_a_cookie_leads_to_tcp_and_is_proven_there() {
    let mut talk = Talk::on(Terms::default());
    let change = |head: &mut ResponseHead| {
        no_cookie(head);
        other_case(head);
    };
    assert_eq!(talk.answer(UDP, FIRST, change), Verdict::AskOverTcp(Doubt::LetterCase));
    assert!(talk.send(TCP, FIRST).wording.spelling.is_random(), "TCP is to show whether the server keeps case");
    assert_eq!(talk.answer(TCP, FIRST, change), Verdict::Take);
    assert!(!talk.send(UDP, FIRST).wording.spelling.is_random());
    talk.now = Now(1 + HOUR);
    assert!(talk.send(UDP, FIRST).wording.spelling.is_random());
}

#[test]
fn our_cookie_proves_a_letter_case_without_tcp() {
    let mut talk = Talk::on(Terms::default());
    assert_eq!(talk.answer(UDP, FIRST, other_case), Verdict::Take);
    assert!(!talk.send(UDP, FIRST).wording.spelling.is_random());
}

#[test]
fn a_server_that_must_keep_case_and_does_not_is_refused() {
    let mut talk = Talk::on(Terms { case: CaseRandomization::On, ..Terms::default() });
    assert_eq!(talk.answer(UDP, FIRST, other_case), Verdict::Refuse, "proven by its cookie");
    assert_eq!(talk.answer(TCP, FIRST, other_case), Verdict::Refuse);
    assert!(talk.send(UDP, FIRST).wording.spelling.is_random());
}

#[test]
fn a_wrong_cookie_is_not_the_answer_whatever_else_it_says() {
    let mut talk = Talk::on(Terms::default());
    let forged = |head: &mut ResponseHead| {
        head.cookie = CookieSeen::Read(Cookie::read(b"guessed!server01").unwrap());
        head.rcode = rcode::FORMERR;
        other_case(head);
    };
    assert_eq!(talk.answer(UDP, FIRST, forged), Verdict::Wait);
    assert_eq!(talk.answer(UDP, FIRST, |head| head.cookie = CookieSeen::Malformed), Verdict::Wait);
    assert_eq!(talk.answer(TCP, FIRST, forged), Verdict::Refuse);
    assert_eq!(talk.answer(UDP, FIRST, no_cookie), Verdict::Take, "nothing was learnt from them");
}

#[test]
fn badcookie_leads_to_the_new_cookie_and_then_to_tcp() {
    let mut talk = Talk::on(Terms::default());
    let bad = |head: &mut ResponseHead| head.rcode = rcode::BADCOOKIE;
    let again = Rewording { form: Form::Whole, is_cookie_retry: true };
    let first = talk.send(UDP, FIRST);
    assert_eq!(talk.peer.server_cookie(&first.wording), None);
    assert_eq!(talk.answer(UDP, FIRST, bad), Verdict::AskAgain(again));
    let sent = talk.send(UDP, again);
    assert_eq!(talk.peer.server_cookie(&sent.wording).unwrap().as_bytes(), b"server01");
    assert_eq!(talk.answer(UDP, again, bad), Verdict::AskOverTcp(Doubt::Cookie));
    assert_eq!(Rewording::from(sent.wording), again);
}

#[test]
fn a_missed_cookie_leads_to_tcp_even_where_the_answer_is_an_error() {
    let mut talk = Talk::on(Terms::default());
    assert_eq!(talk.answer(UDP, FIRST, |_| {}), Verdict::Take);
    let formerr = |head: &mut ResponseHead| {
        no_cookie(head);
        head.rcode = rcode::FORMERR;
    };
    assert_eq!(talk.answer(UDP, FIRST, formerr), Verdict::AskOverTcp(Doubt::Cookie), "or forgers could turn them off");
    assert!(matches!(talk.answer(TCP, FIRST, formerr), Verdict::AskAgain(_)));
}

#[test]
fn a_server_that_does_not_take_edns_is_asked_plainer_and_plainer_and_that_is_remembered() {
    for error in [rcode::FORMERR, rcode::NOTIMP] {
        let mut talk = Talk::on(set_networks());
        let refuse = |head: &mut ResponseHead| {
            *head = ResponseHead { rcode: error, cookie: CookieSeen::None, subnet: SubnetSeen::None, ..*head };
        };
        let mut again = FIRST;
        for form in [Form::WithoutOptions, Form::WithoutEdns] {
            let plainer = Rewording { form, is_cookie_retry: false };
            assert_eq!(talk.answer(UDP, again, refuse), Verdict::AskAgain(plainer));
            assert_eq!(talk.send(UDP, FIRST).wording.form, Form::Whole, "not remembered before it has helped");
            again = plainer;
        }
        assert_eq!(talk.answer(UDP, again, refuse), Verdict::Take, "it says so to anything");
        assert_eq!(talk.send(UDP, FIRST).wording.form, Form::Whole);
        assert_eq!(talk.answer(UDP, again, |_| {}), Verdict::Take);
        let sent = talk.send(UDP, FIRST);
        assert_eq!((sent.wording.form, sent.wording.sent_cookie()), (Form::WithoutEdns, None));
        talk.now = Now(1 + HOUR);
        assert_eq!(talk.send(UDP, FIRST).wording.form, Form::Whole, "it may have been replaced");
    }
}

#[test]
fn a_server_that_refuses_networks_is_asked_without() {
    let mut talk = Talk::on(set_networks());
    let refused = |head: &mut ResponseHead| head.rcode = rcode::REFUSED;
    let without = Rewording { form: Form::WithoutNetwork, is_cookie_retry: false };
    assert_eq!(talk.answer(UDP, FIRST, refused), Verdict::AskAgain(without));
    assert_eq!(talk.answer(UDP, without, refused), Verdict::Take, "it refuses us, not the network");
    assert_eq!(talk.answer(UDP, without, |_| {}), Verdict::Take);
    assert_eq!(talk.send(UDP, FIRST).wording.form, Form::WithoutNetwork);
    let mut talk = Talk::on(Terms::default());
    assert_eq!(talk.answer(UDP, FIRST, refused), Verdict::Take, "it was told none");
}

#[test]
fn an_answer_for_another_network_is_not_ours() {
    let mut talk = Talk::on(set_networks());
    let other = SubnetSeen::Read(ClientSubnet::from_query(b"\0\x01\x18\0\xc6\x33\x64").unwrap(), 24);
    assert_eq!(talk.answer(UDP, FIRST, |head| head.subnet = other), Verdict::Wait);
    assert_eq!(talk.answer(UDP, FIRST, |head| head.subnet = SubnetSeen::Malformed), Verdict::Wait);
    assert_eq!(talk.answer(TCP, FIRST, |head| head.subnet = other), Verdict::Refuse);
    assert_eq!(talk.answer(UDP, FIRST, |head| head.subnet = SubnetSeen::None), Verdict::Take);
    talk.network = Some(Network::WITHHELD);
    assert_eq!(talk.answer(UDP, FIRST, |head| head.subnet = other), Verdict::Take);
}

#[test]
fn a_server_without_tcp_comes_back_into_use() {
    let mut talk = Talk::on(Terms::default());
    assert_eq!(talk.answer(UDP, FIRST, |_| {}), Verdict::Take);
    for doubt in [Doubt::Cookie, Doubt::LetterCase] {
        let change = |head: &mut ResponseHead| {
            no_cookie(head);
            other_case(head);
        };
        for _ in 0..PEER_DOUBTS_MAX {
            assert_eq!(talk.answer(UDP, FIRST, change), Verdict::AskOverTcp(doubt));
            talk.peer.note_unconfirmed(talk.now, doubt);
        }
    }
    assert_eq!(talk.answer(UDP, FIRST, no_cookie), Verdict::Take);
    assert!(!talk.send(UDP, FIRST).wording.spelling.is_random());
}
