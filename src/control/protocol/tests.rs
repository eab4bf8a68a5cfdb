//! Every request and answer there and back, and what is neither.

use corewall_sharding::rule::Scope;

use super::*;
use crate::lists::live::{LiveOptions, RuleKind};

fn name(text: &str) -> Name {
    parse_name(text).unwrap()
}

fn requests() -> Vec<(Request, &'static str)> {
    let flush = |what| Request::CacheFlush { what };
    vec![
        (Request::Status {}, r#"{"version":1,"command":"status"}"#),
        (Request::CacheStats {}, r#"{"version":1,"command":"cache-stats"}"#),
        (
            flush(FlushWhat::Name(name("www.example.org"))),
            r#"{"version":1,"command":"cache-flush","what":{"name":"www.example.org"}}"#,
        ),
        (flush(FlushWhat::Subtree(name("."))), r#"{"version":1,"command":"cache-flush","what":{"subtree":"."}}"#),
        (flush(FlushWhat::All), r#"{"version":1,"command":"cache-flush","what":"all"}"#),
        (Request::Upstreams {}, r#"{"version":1,"command":"upstreams"}"#),
        (
            Request::RuleAdd(RulesToAdd {
                lines: vec!["a.example".to_owned(), "allow *.b.example".to_owned()],
                options: LiveOptions { kind: Some(RuleKind::ForwardAllow), ..LiveOptions::default() },
                list: Some("mine".to_owned()),
                expires_s: Some(1_800_000_000),
                reason: "a ticket".to_owned(),
            }),
            r#"{"version":1,"command":"rule-add","lines":["a.example","allow *.b.example"],"options":{"kind":"forward-allow","scope":null,"target":null,"servers":[],"answer":null,"important":false,"allow_wide":false},"list":"mine","expires_s":1800000000,"reason":"a ticket"}"#,
        ),
        (
            Request::RuleRemove(RulesToFind { lines: vec!["a.example".to_owned()], ..RulesToFind::default() }),
            r#"{"version":1,"command":"rule-remove","lines":["a.example"],"kind":null,"scope":null,"list":null,"expires_s":null,"reason":""}"#,
        ),
        (
            Request::RuleRestore(RulesToFind { scope: Some(Scope::Below), ..RulesToFind::default() }),
            r#"{"version":1,"command":"rule-restore","lines":[],"kind":null,"scope":"below","list":null,"expires_s":null,"reason":""}"#,
        ),
        (
            Request::RuleRemoveList { list: "mine".to_owned() },
            r#"{"version":1,"command":"rule-remove-list","list":"mine"}"#,
        ),
        (
            Request::RuleList(RulesToList { name: Some(name("a.example")), after: 7, ..RulesToList::default() }),
            r#"{"version":1,"command":"rule-list","list":null,"kind":null,"name":"a.example","after":7}"#,
        ),
        (Request::Reload {}, r#"{"version":1,"command":"reload"}"#),
        (Request::Stop {}, r#"{"version":1,"command":"stop"}"#),
    ]
}

#[test]
fn every_request_is_one_line_that_is_read_as_itself() {
    for (request, line) in requests() {
        assert_eq!(request.to_line(), format!("{line}\n"));
        assert_eq!(Request::parse(request.to_line().as_bytes()), Ok(request.clone()));
        // The order of the fields and blanks between them mean nothing.
        let turned = line.replace(r#"{"version":1,"#, "{ ").replace('}', " }");
        let turned = turned.strip_suffix(" }").unwrap().to_owned() + ",\t\"version\": 1}\r\n";
        assert_eq!(Request::parse(turned.as_bytes()), Ok(request), "{turned}");
    }
}

#[test]
fn no_request_that_is_cut_short_is_taken_for_another_one() {
    for (_, line) in requests() {
        for length in 0..line.len() {
            let refusal = Request::parse(&line.as_bytes()[..length]).unwrap_err();
            assert_eq!(refusal.kind, RefusalKind::Malformed, "{}", &line[..length]);
        }
    }
}

#[test]
fn no_flipped_bit_does_harm() {
    for (request, line) in requests() {
        for bit in 0..8 * line.len() {
            let mut flipped = line.as_bytes().to_vec();
            flipped[bit / 8] ^= 1 << (bit % 8);
            match Request::parse(&flipped) {
                // In a name, another name comes of it; in the command's name never another command.
                Ok(other) => assert_eq!(std::mem::discriminant(&other), std::mem::discriminant(&request), "{bit}"),
                Err(refusal) => assert!(!refusal.message.is_empty()),
            }
        }
    }
}

#[test]
fn what_is_no_request_is_refused_in_words() {
    use RefusalKind::{Malformed, Version};
    let deep = "[".repeat(10_000);
    for (line, kind, said) in [
        ("", Malformed, "EOF"),
        ("status", Malformed, "a request is a line such as {\"version\":1"),
        ("[]", Malformed, "map"),
        ("null", Malformed, "map"),
        ("{}", Malformed, "it has no `version`"),
        (&*deep, Malformed, "invalid type"),
        (&*format!("{{\"version\":{deep}"), Malformed, "recursion limit"),
        (r#"{"version":1}"#, Malformed, "missing field `command`"),
        (r#"{"command":"status"}"#, Malformed, "it has no `version`"),
        (r#"{"version":2,"command":"status"}"#, Version, "version 2 of the control protocol"),
        (r#"{"version":"1","command":"status"}"#, Version, "version \"1\" of the control protocol"),
        (r#"{"version":1,"command":"reboot"}"#, Malformed, "unknown variant `reboot`, expected one of `status`"),
        (r#"{"version":1,"command":["stop"]}"#, Malformed, "command"),
        (r#"{"version":1,"command":"stop","now":true}"#, Malformed, "unknown field `now`"),
        (r#"{"version":1,"command":"cache-flush"}"#, Malformed, "missing field `what`"),
        (r#"{"version":1,"command":"cache-flush","what":"some"}"#, Malformed, "unknown variant `some`"),
        (r#"{"version":1,"command":"cache-flush","what":"name"}"#, Malformed, "variant"),
        (r#"{"version":1,"command":"cache-flush","what":{"name":"a..b"}}"#, Malformed, "`a..b` is no domain name"),
        (r#"{"version":1,"command":"cache-flush","what":{"name":7}}"#, Malformed, "invalid type: integer `7`"),
        (r#"{"version":1,"command":"status"}{"version":1,"command":"stop"}"#, Malformed, "trailing characters"),
        ("{\"version\":1,\"command\":\"st\u{0}atus\"}", Malformed, "control character"),
    ] {
        let refusal = Request::parse(line.as_bytes()).expect_err(line);
        assert_eq!(refusal.kind, kind, "{line}: {refusal}");
        assert!(refusal.message.contains(said), "{line}: {refusal}");
    }
    assert_eq!(Request::parse(b"{\"version\":1,\"command\":\"\xff\"}").unwrap_err().kind, Malformed);
}

#[test]
fn names_are_taken_in_any_form_and_given_in_one() {
    for (text, said) in
        [("WWW.Example.org.", "www.example.org"), ("bücher.example", "xn--bcher-kva.example"), (".", ".")]
    {
        let line = Request::CacheFlush { what: FlushWhat::Name(name(text)) }.to_line();
        assert!(line.contains(&format!("{{\"name\":\"{said}\"}}")), "{line}");
    }
    // Octets that text has no letters for go there and back.
    let odd = name(r#"a\.b\000\".example"#);
    let request = Request::CacheFlush { what: FlushWhat::Subtree(odd) };
    assert_eq!(Request::parse(request.to_line().as_bytes()), Ok(request));
}

fn flushed() -> Flushed {
    Flushed { removed: 3, workers: vec![WorkerFlushed { core: 0, removed: 1 }, WorkerFlushed { core: 2, removed: 2 }] }
}

#[test]
fn answers_and_refusals_go_there_and_back() {
    let line = answer_line(&Ok(Answer::Flushed(flushed())));
    let told = r#"{"version":1,"answer":{"removed":3,"workers":[{"core":0,"removed":1},{"core":2,"removed":2}]}}"#;
    assert_eq!(line, format!("{told}\n"));
    assert_eq!(parse_answer(line.as_bytes()), Ok(flushed()));
    let status = Status {
        program_version: "0.1.0".to_owned(),
        pid: 1,
        uptime_s: 2,
        listen: vec!["[::1]:53".parse().unwrap()],
        filters: FilterStatus { verified: 3, rebuilt: 1, bits: 16, ..FilterStatus::default() },
        shards_in_memory: DirectStatus { shards: 1, of: 2, bytes: 3, why_not: "too large".to_owned() },
        store: Some("/var/lib/corewall".into()),
        workers: vec![WorkerStatus {
            core: 0,
            generation: None,
            rules: 0,
            live_rules: 2,
            live_voids: 1,
            live_seq: 7,
            queries_waiting: 1,
            tcp_connections: 2,
            udp_received: 9,
            tcp_received: 3,
            udp_sent: 6,
            udp_batches: 3,
            cache: CacheUse { entries: 3, bytes_used: 4, bytes: 5 },
        }],
        counters: BTreeMap::from([("received".to_owned(), u64::MAX)]),
    };
    assert_eq!(parse_answer(answer_line(&Ok(Answer::Status(status.clone()))).as_bytes()), Ok(status));
    let refusal = Refusal::new(RefusalKind::Busy, "too \"much\"\n");
    let line = answer_line(&Err(refusal.clone()));
    assert_eq!(line.lines().count(), 1, "whatever is in it, it is one line");
    assert_eq!(parse_answer::<Status>(line.as_bytes()), Err(refusal));
}

#[test]
fn a_newer_server_s_answer_may_hold_more_and_a_stranger_s_is_told() {
    let newer = r#"{"version":1,"answer":{"removed":3,"of":9,"workers":[]},"seconds":1}"#;
    assert_eq!(parse_answer(newer.as_bytes()), Ok(Flushed { removed: 3, workers: Vec::new() }));
    for strange in [
        "",
        "220 mail.example.org ESMTP",
        r#"{"version":1}"#,
        r#"{"version":2,"answer":{"removed":3,"workers":[]}}"#,
        r#"{"version":1,"answer":{"removed":-1,"workers":[]}}"#,
        r#"{"version":1,"error":"no"}"#,
        r#"{"version":1,"error":{"kind":"unheard-of","message":""}}"#,
    ] {
        let refusal = parse_answer::<Flushed>(strange.as_bytes()).expect_err(strange);
        assert_eq!(refusal.kind, RefusalKind::Version, "{strange}: {refusal}");
        assert!(refusal.message.contains("use the program that"), "{strange}: {refusal}");
    }
}

#[test]
fn no_answer_that_is_cut_short_is_taken_for_a_whole_one() {
    let line = answer_line(&Ok(Answer::Flushed(flushed())));
    for length in 0..line.trim_end().len() {
        assert!(parse_answer::<Flushed>(&line.as_bytes()[..length]).is_err());
    }
}
