//! Tests of the cache, which look inside it: they are beside it and not in it for their length.

use super::*;
use crate::decide::answer::{Answer, Section};
use crate::decide::question::Edns;
use crate::decide::wire::rtype;
use crate::limits::CACHE_EVICTION_STEPS_MAX;
use corewall_sharding::name::Name;

fn question(text: &str) -> Question {
    let mut question = Question::EMPTY;
    question.name = Name::from_text(text).unwrap();
    let wire = question.name.as_wire().to_ascii_uppercase();
    question.asked[..wire.len()].copy_from_slice(&wire);
    (question.qtype, question.qclass) = (rtype::TXT, 1);
    question
}

fn key(question: &Question) -> CacheKey<'_> {
    let (qtype, qclass) = (question.qtype, question.qclass);
    CacheKey { policy: 0, name: &question.name, qtype, qclass, dnssec_ok: false, checking_disabled: false, subnet: 0 }
}

const HEAD: EntryHead =
    EntryHead { origin: Origin::Upstream { group: 1, chain: false }, ttl_s: 300, ..EntryHead::EMPTY };

/// A body of `records` TXT records with `bytes` of RDATA each and TTLs 300, 301 and so on.
fn body(question: &Question, records: usize, bytes: usize) -> (Answer, Body) {
    let (mut answer, mut body) = (Answer::new(), Body::new());
    for index in 0..records {
        let rdata = vec![index as u8; bytes];
        answer.push(Section::Answer, &question.name, rtype::TXT, 1, 300 + index as u32, &rdata).unwrap();
    }
    body.compose(question, &answer);
    (answer, body)
}

fn small_cache() -> Cache {
    Cache::new(0, Eviction::Sieve, [1, 2, 3, 4])
}

/// Walks everything that the cache holds and checks that it agrees.
fn check(cache: &Cache) {
    let (mut at, mut older, mut entries, mut chunks) = (cache.queue.oldest, NONE, 0, 0);
    while at != NONE {
        let meta = &cache.metas[at as usize];
        assert!(meta.name_bytes > 0 && meta.older == older);
        let hash = stored_hash(&cache.hashing, &cache.chunks, &cache.metas, at);
        assert!(cache.index.find(hash, |held| held == at).is_some());
        chunks += cache.chunks.chain_length(at);
        entries += 1;
        (older, at) = (at, meta.newer);
    }
    assert_eq!((older, entries), (cache.queue.newest, cache.len()));
    let free = if cache.chunks.free_count() == 0 { 0 } else { cache.chunks.chain_length(cache.chunks.first_free()) };
    assert_eq!((free, free + chunks), (cache.chunks.free_count(), cache.chunks.count()));
    let cuts = cache.metas.iter().filter(|meta| meta.name_bytes > 0 && meta.is_cut).count();
    assert_eq!(cuts, cache.cuts.count());
    assert!(cache.queue.hand == NONE || cache.metas[cache.queue.hand as usize].name_bytes > 0);
}

#[test]
fn a_cached_reply_is_octet_for_octet_a_composed_one_with_aged_ttls() {
    let mut cache = small_cache();
    let mut question = question("www.example.com");
    for (records, bytes) in [(0, 0), (1, 4), (2, 30), (5, 100), (12, 28), (40, 300), (3, 5_000)] {
        let (mut answer, mut composed) = body(&question, records, bytes);
        let ede = Some((15, 7));
        let head = EntryHead { rcode: 3, authentic_data: true, ede, stored: Now(5_000_000), ..HEAD };
        assert!(cache.keep(&key(&question), head, &composed));
        answer.set_ttls(|record| record.ttl_s - 41);
        for edns in [None, Some(Edns { payload_bytes: 900, dnssec_ok: true })] {
            question.edns = edns;
            question.id ^= 0x1234;
            composed.compose(&question, &answer);
            for transport in [Transport::Udp, Transport::Tcp] {
                let (mut fresh, mut cached) = (vec![0; 65_535], vec![0; 65_535]);
                let reply_head = ReplyHead {
                    rcode: 3,
                    authentic_data: true,
                    ede: Some(Ede { code: 15, text: "list" }),
                    scope_bits: None,
                };
                let written = reply::write(&question, transport, reply_head, &composed, &mut fresh);
                let now = Now(5_000_000 + 41_999_999);
                let entry = cache.find(&key(&question), now).unwrap();
                let copied = cache.write_reply(entry, now, &question, transport, "list", &mut cached);
                assert!(written > 0 && fresh[..written] == cached[..copied], "{records} records, {transport:?}");
            }
        }
        check(&cache);
    }
    assert_eq!(cache.len(), 1);
}

#[test]
fn answers_by_rule_neither_age_nor_expire() {
    let mut cache = small_cache();
    let question = question("ads.example");
    let (_, body) = body(&question, 1, 4);
    let head = EntryHead { origin: Origin::Rule, ttl_s: u32::MAX, ..HEAD };
    assert!(cache.keep(&key(&question), head, &body));
    let much_later = Now(u64::MAX);
    let entry = cache.find(&key(&question), much_later).unwrap();
    let mut out = [0; 512];
    let bytes = cache.write_reply(entry, much_later, &question, Transport::Udp, "", &mut out);
    let ttl_at = bytes - 4 - 2 - 4;
    assert_eq!(out[ttl_at..ttl_at + 4], 300u32.to_be_bytes());
}

#[test]
fn an_entry_expires_after_its_seconds_and_is_removed() {
    let mut cache = small_cache();
    let question = question("www.example");
    let (_, body) = body(&question, 1, 4);
    let head = EntryHead { stored: Now(1_500_000), ttl_s: 10, ..HEAD };
    assert!(cache.keep(&key(&question), head, &body));
    assert!(cache.find(&key(&question), Now(0)).is_some(), "a clock that steps back ages nothing");
    assert!(cache.find(&key(&question), Now(11_499_999)).is_some());
    assert!(cache.find(&key(&question), Now(11_500_000)).is_none());
    assert_eq!(cache.len(), 0);
    check(&cache);
    assert!(!cache.keep(&key(&question), EntryHead { ttl_s: 0, ..HEAD }, &body));
}

#[test]
fn keys_that_differ_in_one_field_are_different_entries() {
    let mut cache = small_cache();
    let (www, web) = (question("www.example"), question("web.example"));
    let base = key(&www);
    let keys = [
        base,
        CacheKey { policy: 1, ..base },
        CacheKey { name: &web.name, ..base },
        CacheKey { qtype: 1, ..base },
        CacheKey { qclass: 3, ..base },
        CacheKey { dnssec_ok: true, ..base },
        CacheKey { checking_disabled: true, ..base },
    ];
    let (_, body) = body(&www, 1, 4);
    for (index, key) in keys.iter().enumerate() {
        assert!(cache.keep(key, EntryHead { rules: index as u64, ..HEAD }, &body));
    }
    for (index, key) in keys.iter().enumerate() {
        let entry = cache.find(key, Now(0)).unwrap();
        assert_eq!(cache.head(entry).unwrap().rules, index as u64);
    }
    cache.remove(&keys[3]);
    let found: Vec<_> = keys.iter().map(|key| cache.find(key, Now(0)).is_some()).collect();
    assert_eq!(found, [true, true, true, false, true, true, true]);
    check(&cache);
}

#[test]
fn an_entry_judged_again_says_so_and_a_newer_one_replaces_it() {
    let mut cache = small_cache();
    let question = question("www.example");
    let (_, first) = body(&question, 1, 4);
    assert!(cache.keep(&key(&question), EntryHead { rules: 1, ..HEAD }, &first));
    let entry = cache.find(&key(&question), Now(0)).unwrap();
    cache.confirm(entry, 2);
    assert_eq!(cache.head(entry).unwrap(), &EntryHead { rules: 2, ..HEAD });
    let (_, larger) = body(&question, 20, 100);
    assert!(cache.keep(&key(&question), EntryHead { rules: 3, ..HEAD }, &larger));
    let entry = cache.find(&key(&question), Now(0)).unwrap();
    assert_eq!((cache.len(), cache.head(entry).unwrap().rules), (1, 3));
    check(&cache);
}

#[test]
fn what_is_larger_than_an_entry_may_be_is_not_kept() {
    let mut cache = small_cache();
    let longest = ["a".repeat(63), "b".repeat(63), "c".repeat(63), "d".repeat(61)].join(".");
    let question = question(&longest);
    let most = (CACHE_ENTRY_BYTES_MAX - 12 * CACHE_ENTRY_RECORDS_MAX) / CACHE_ENTRY_RECORDS_MAX;
    let (_, fits) = body(&question, CACHE_ENTRY_RECORDS_MAX, most);
    assert!(cache.keep(&key(&question), HEAD, &fits));
    check(&cache);
    for (records, bytes) in [(CACHE_ENTRY_RECORDS_MAX + 1, 1), (1, CACHE_ENTRY_BYTES_MAX)] {
        let (_, body) = body(&question, records, bytes);
        assert!(!cache.keep(&key(&question), HEAD, &body));
        assert!(cache.find(&key(&question), Now(0)).is_none(), "the answer that it replaces is gone all the same");
    }
    check(&cache);
}

#[test]
fn what_was_used_stays_when_a_flood_of_new_names_goes_by() {
    let mut cache = Cache::new(60_000, Eviction::Sieve, [1, 2, 3, 4]);
    let popular: Vec<_> = (0..20).map(|index| question(&format!("popular-{index}.example"))).collect();
    let (_, body) = body(&popular[0], 1, 4);
    for question in &popular {
        assert!(cache.keep(&key(question), HEAD, &body));
    }
    for index in 0..5_000 {
        assert!(cache.keep(&key(&question(&format!("random-{index}.example"))), HEAD, &body));
        if index % 50 == 0 {
            for question in &popular {
                assert!(cache.find(&key(question), Now(0)).is_some(), "{index}");
            }
        }
    }
    assert!(cache.find(&key(&question("random-4999.example")), Now(0)).is_some());
    assert!(cache.find(&key(&question("random-0.example")), Now(0)).is_none());
    check(&cache);
}

#[test]
fn without_use_the_oldest_goes_first() {
    let mut cache = Cache::new(60_000, Eviction::Sieve, [1, 2, 3, 4]);
    let (_, body) = body(&question("x.example"), 1, 4);
    let room = cache.chunks.count();
    for index in 0..room + 10 {
        assert!(cache.keep(&key(&question(&format!("n{index}.example"))), HEAD, &body));
    }
    assert_eq!(cache.len(), room);
    for index in 0..room + 10 {
        let found = cache.find(&key(&question(&format!("n{index}.example"))), Now(0)).is_some();
        assert_eq!(found, index >= 10, "{index}");
    }
}

#[test]
fn one_eviction_looks_at_a_bounded_number_of_entries() {
    let mut cache = Cache::new(60_000, Eviction::Sieve, [1, 2, 3, 4]);
    let (_, body) = body(&question("x.example"), 1, 4);
    let room = cache.chunks.count();
    assert!(room > 2 * CACHE_EVICTION_STEPS_MAX);
    for index in 0..room {
        let question = question(&format!("n{index}.example"));
        assert!(cache.keep(&key(&question), HEAD, &body));
        assert!(cache.find(&key(&question), Now(0)).is_some());
    }
    assert!(cache.keep(&key(&question("new.example")), HEAD, &body));
    let marked = cache.metas.iter().filter(|meta| meta.is_used && meta.name_bytes > 0).count();
    assert_eq!(marked, room - CACHE_EVICTION_STEPS_MAX);
    check(&cache);
}

#[test]
fn memory_stays_as_it_was_taken_however_much_is_kept() {
    for allowed in [100_000, 1_000_000, 3_000_000] {
        let mut cache = Cache::new(allowed, Eviction::Sieve, [5, 6, 7, 8]);
        let (bytes, index_bytes) = (cache.bytes(), cache.index.bytes());
        assert!(bytes <= allowed && bytes > allowed / 2, "{bytes} of {allowed}");
        let mut random = 1u64;
        let mut answers = Vec::new();
        let names: Vec<_> =
            (0..997).map(|index| question(&format!("n{index}.{}.example", "x".repeat(1 + index % 60)))).collect();
        for size in 0..40 {
            answers.push(body(&names[0], size % 7, size * 13).1);
        }
        for turn in 0..20_000u64 {
            random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            let question = &names[(random >> 33) as usize % names.len()];
            let key = CacheKey { policy: (random >> 60) as u16, ..key(question) };
            match random >> 20 & 3 {
                0 => drop(cache.find(&key, Now(turn * 100_000))),
                1 if turn % 16 == 0 => cache.remove(&key),
                _ => {
                    let body = &answers[(random >> 50) as usize % answers.len()];
                    assert!(cache.keep(&key, EntryHead { stored: Now(turn * 100_000), ..HEAD }, body));
                }
            }
            if turn % 1_000 == 0 {
                check(&cache);
            }
        }
        check(&cache);
        assert_eq!((cache.bytes(), cache.index.bytes()), (bytes, index_bytes));
    }
}

#[test]
fn the_root_name_is_a_name_like_others() {
    let mut cache = small_cache();
    let root = question(".");
    let (_, body) = body(&root, 1, 4);
    assert!(cache.keep(&key(&root), HEAD, &body));
    let entry = cache.find(&key(&root), Now(0)).unwrap();
    assert!(cache.head(entry).is_some());
    check(&cache);
}

#[test]
fn by_lru_what_was_not_asked_for_for_the_longest_time_goes_first() {
    let mut cache = Cache::new(60_000, Eviction::Lru, [1, 2, 3, 4]);
    let (_, body) = body(&question("x.example"), 1, 4);
    let room = cache.chunks.count();
    for index in 0..room {
        assert!(cache.keep(&key(&question(&format!("n{index}.example"))), HEAD, &body));
    }
    assert!(cache.find(&key(&question("n0.example")), Now(0)).is_some());
    for index in room..room + 10 {
        assert!(cache.keep(&key(&question(&format!("n{index}.example"))), HEAD, &body));
        check(&cache);
    }
    for index in 0..room + 10 {
        let found = cache.find(&key(&question(&format!("n{index}.example"))), Now(0)).is_some();
        assert_eq!(found, index == 0 || index > 10, "{index}");
        check(&cache);
    }
}

fn flush_all(cache: &mut Cache, what: &Flush) -> (u32, usize) {
    let (mut from, mut removed, mut slices) = (Some(FlushCursor::START), 0, 0);
    while let Some(cursor) = from {
        let progress = cache.flush(what, cursor);
        (removed, from, slices) = (removed + progress.removed, progress.next, slices + 1);
        check(cache);
    }
    (removed, slices)
}

#[test]
fn a_flush_removes_a_name_a_subtree_or_all_in_bounded_slices() {
    let mut cache = Cache::new(8 << 20, Eviction::Sieve, [1, 2, 3, 4]);
    let names = ["example", "a.example", "b.a.example", "aa.example", "a.example.org"].map(question);
    let (_, body) = body(&names[0], 1, 4);
    let fill = |cache: &mut Cache| {
        for question in &names {
            for (qtype, policy) in [(1, 0), (28, 0), (1, 1)] {
                assert!(cache.keep(&CacheKey { qtype, policy, ..key(question) }, HEAD, &body));
            }
        }
    };
    let left = |cache: &mut Cache| {
        names.each_ref().map(|name| {
            [(1, 0), (28, 0), (1, 1)]
                .into_iter()
                .filter(|(qtype, policy)| {
                    cache.find(&CacheKey { qtype: *qtype, policy: *policy, ..key(name) }, Now(0)).is_some()
                })
                .count()
        })
    };
    fill(&mut cache);
    let slices = cache.metas.len().div_ceil(crate::limits::CACHE_FLUSH_STEP);
    assert!(slices > 5);
    assert_eq!(flush_all(&mut cache, &Flush::Name(names[1].name)), (3, slices));
    assert_eq!(left(&mut cache), [3, 0, 3, 3, 3]);
    fill(&mut cache);
    assert_eq!(flush_all(&mut cache, &Flush::Subtree(names[1].name)), (6, slices));
    assert_eq!(left(&mut cache), [3, 0, 0, 3, 3]);
    assert_eq!(flush_all(&mut cache, &Flush::Subtree(Name::ROOT)), (9, slices));
    fill(&mut cache);
    assert_eq!(flush_all(&mut cache, &Flush::All), (15, slices));
    assert!(cache.is_empty());
}

#[test]
fn an_answer_for_a_client_network_is_kept_apart_and_read_as_the_others() {
    let mut cache = small_cache();
    let question = question("www.example");
    let (_, body) = body(&question, 2, 200);
    for subnet in [0, 1, u64::MAX] {
        let head = EntryHead { rules: subnet, ..HEAD };
        assert!(cache.keep(&CacheKey { subnet, ..key(&question) }, head, &body));
    }
    let mut replies = Vec::new();
    for subnet in [0, 1, u64::MAX] {
        let entry = cache.find(&CacheKey { subnet, ..key(&question) }, Now(0)).unwrap();
        assert_eq!(cache.head(entry).unwrap().rules, subnet);
        let mut out = [0; 1_232];
        let bytes = cache.write_reply(entry, Now(0), &question, Transport::Tcp, "", &mut out);
        replies.push(out[..bytes].to_vec());
    }
    assert!(replies[0].len() > 400 && replies.iter().all(|reply| *reply == replies[0]));
    assert!(cache.find(&CacheKey { subnet: 2, ..key(&question) }, Now(0)).is_none());
    check(&cache);
}

#[test]
fn an_expired_answer_stays_for_its_window_and_goes_first_when_room_is_needed() {
    const SECOND: u64 = 1_000_000;
    let mut cache = Cache::new(60_000, Eviction::Sieve, [1, 2, 3, 4]);
    cache.set_terms(Terms { stale_window_s: 100, prefetch_percent: 0 });
    let (_, body) = body(&question("x.example"), 1, 4);
    let room = cache.chunks.count();
    let old = question("old.example");
    assert!(cache.keep(&key(&old), EntryHead { ttl_s: 10, ..HEAD }, &body));
    assert!(cache.find(&key(&old), Now(9 * SECOND)).is_some(), "marked as used");
    assert!(cache.find(&key(&old), Now(10 * SECOND)).is_none());
    let at = |cache: &mut Cache, s: u64| cache.look_up(&key(&old), Now(s * SECOND)).map(|(_, freshness)| freshness);
    assert_eq!(at(&mut cache, 109), Some(Freshness::Stale { is_failing: false }));
    for index in 1..room {
        let head = EntryHead { stored: Now(20 * SECOND), ..HEAD };
        assert!(cache.keep(&key(&question(&format!("n{index}.example"))), head, &body));
    }
    assert_eq!(at(&mut cache, 20), Some(Freshness::Stale { is_failing: false }));
    assert!(cache.keep(&key(&question("new.example")), EntryHead { stored: Now(20 * SECOND), ..HEAD }, &body));
    assert_eq!(at(&mut cache, 20), None, "used, but expired");
    assert!(cache.keep(&key(&old), EntryHead { ttl_s: 10, ..HEAD }, &body));
    assert_eq!(at(&mut cache, 110), None, "past the window");
    let failure = EntryHead { origin: Origin::Failure, ttl_s: 10, ..HEAD };
    assert!(cache.keep(&key(&old), failure, &body));
    assert_eq!(at(&mut cache, 10), None, "a failure has no window");
    check(&cache);
}

#[test]
fn one_attempt_at_a_time_is_made_to_renew_an_answer_and_a_failed_one_is_not_repeated_at_once() {
    const SECOND: u64 = 1_000_000;
    let mut cache = small_cache();
    cache.set_terms(Terms { stale_window_s: 100, prefetch_percent: 10 });
    let www = question("www.example");
    let (_, body) = body(&www, 1, 4);
    assert!(cache.keep(&key(&www), EntryHead { ttl_s: 100, ..HEAD }, &body));
    let at = |cache: &mut Cache, s: u64| cache.look_up(&key(&www), Now(s * SECOND)).unwrap();
    let (entry, freshness) = at(&mut cache, 90);
    assert_eq!(freshness, Freshness::Due);
    assert!(!cache.take_refresh(entry, Now(90 * SECOND)), "asked for once");
    at(&mut cache, 90);
    assert!(cache.take_refresh(entry, Now(90 * SECOND)));
    assert!(!cache.take_refresh(entry, Now(90 * SECOND)));
    assert_eq!(at(&mut cache, 91).1, Freshness::Fresh, "somebody has begun");
    assert_eq!(at(&mut cache, 90 + u64::from(REFRESH_S_MAX)).1, Freshness::Due, "and has not come back");
    cache.note_failure(entry, Now(98 * SECOND), 5);
    assert_eq!(at(&mut cache, 99).1, Freshness::Fresh);
    assert_eq!(at(&mut cache, 102).1, Freshness::Stale { is_failing: true });
    assert_eq!(at(&mut cache, 103).1, Freshness::Stale { is_failing: false });
    // Of rules, of failures and of short lives nothing is asked before the end.
    for head in [
        EntryHead { origin: Origin::Failure, ttl_s: 100, ..HEAD },
        EntryHead { ttl_s: 9, ..HEAD },
        EntryHead { origin: Origin::Rule, ttl_s: u32::MAX, ..HEAD },
    ] {
        assert!(cache.keep(&key(&www), head, &body));
        for s in 0..u64::from(head.ttl_s.min(100)) {
            assert_eq!(at(&mut cache, s).1, Freshness::Fresh, "{head:?}");
        }
    }
}

fn denial(group: u32) -> EntryHead {
    EntryHead { origin: Origin::Upstream { group, chain: false }, rcode: 3, ..HEAD }
}

#[test]
fn a_cut_is_found_from_every_name_below_by_its_group_alone() {
    let mut cache = small_cache();
    let (gone, below) = (question("gone.example"), question("a.b.c.gone.example"));
    let (_, empty) = body(&gone, 0, 0);
    assert!(cache.keep(&key(&gone), denial(1), &empty));
    assert!(cache.find_cut(&key(&below), 1, Now(0)).is_none(), "only where it is asked for");
    cache.cut_at(&key(&gone));
    check(&cache);
    let at = |cache: &mut Cache, name: &str, group: u32, now: u64| {
        let asked = question(name);
        let key = CacheKey { qtype: 28, ..key(&asked) };
        cache.find_cut(&key, group, Now(now)).map(|(_, name)| name.to_string())
    };
    for name in ["gone.example", "a.gone.example", "a.b.c.gone.example"] {
        assert_eq!(at(&mut cache, name, 1, 0).as_deref(), Some("gone.example"), "{name}");
    }
    for name in ["example", "begone.example", "gone.example.org", "."] {
        assert_eq!(at(&mut cache, name, 1, 0), None, "{name}");
    }
    assert_eq!(at(&mut cache, "a.gone.example", 2, 0), None);
    assert_eq!(at(&mut cache, "a.gone.example", 1, 300_000_000), None, "expired");
    let with_do = CacheKey { dnssec_ok: true, ..key(&below) };
    assert!(cache.find_cut(&with_do, 1, Now(0)).is_none());
    // The same denial for another type takes the place, and its end is the end of the cut.
    let other = CacheKey { qtype: 28, ..key(&gone) };
    assert!(cache.keep(&other, denial(1), &empty));
    cache.cut_at(&other);
    check(&cache);
    cache.remove(&other);
    assert_eq!(at(&mut cache, "a.gone.example", 1, 0), None);
    check(&cache);
    // Neither an answer with data nor one at the end of a chain is a cut.
    let (_, full) = body(&gone, 1, 4);
    assert!(cache.keep(&key(&gone), denial(1), &full));
    cache.cut_at(&key(&gone));
    assert_eq!(cache.cuts.count(), 0);
}

#[test]
fn cuts_take_no_more_memory_than_was_taken_for_them() {
    let mut cache = Cache::new(200_000, Eviction::Sieve, [1, 2, 3, 4]);
    let (_, empty) = body(&question("x.example"), 0, 0);
    let (bytes, cut_bytes) = (cache.bytes(), cache.cuts.bytes());
    assert!(bytes <= 200_000);
    for index in 0..10_000 {
        let question = question(&format!("n{index}.example"));
        assert!(cache.keep(&key(&question), denial(1), &empty));
        cache.cut_at(&key(&question));
        if index % 500 == 0 {
            check(&cache);
        }
    }
    check(&cache);
    assert!(cache.cuts.count() > 0 && cache.cuts.count() <= cache.chunks.count() / 2);
    assert_eq!((cache.bytes(), cache.cuts.bytes()), (bytes, cut_bytes));
}

#[test]
fn what_is_given_out_is_taken_in_with_its_time_gone_on() {
    let mut cache = Cache::new(1 << 20, Eviction::Sieve, [1, 2, 3, 4]);
    let names: Vec<_> = (0..30).map(|index| question(&format!("n{index}.example"))).collect();
    let (_, body) = body(&names[0], 2, 100);
    for (index, question) in names.iter().enumerate() {
        let head = EntryHead { authentic_data: index % 2 == 0, ..HEAD };
        assert!(cache.keep(&CacheKey { policy: 1, subnet: index as u64, ..key(question) }, head, &body));
        for _ in 0..index {
            cache.find(&CacheKey { policy: 1, subnet: index as u64, ..key(question) }, Now(0));
        }
    }
    let mut given = Vec::new();
    cache.export(Now(100_000_000), 25, 0, &mut |entry| given.push(entry));
    assert_eq!(given.len(), 25);
    let mut other = Cache::new(1 << 20, Eviction::Lru, [5, 6, 7, 8]);
    for entry in given.into_iter().rev() {
        assert!(other.import(Now(7), 150, entry.clone(), 3, 9, true));
        assert!(!other.import(Now(7), 200, entry, 4, 9, true), "its time is over");
    }
    check(&other);
    let (mut before, mut after) = ([0; 1_232], [0; 1_232]);
    for (index, question) in names.iter().enumerate() {
        let (old, new) = (
            CacheKey { policy: 1, subnet: index as u64, ..key(question) },
            CacheKey { policy: 3, subnet: index as u64, ..key(question) },
        );
        let Some(entry) = other.find(&new, Now(7)) else {
            assert!(index < 5, "{index}: the least used are left out");
            continue;
        };
        let head = *other.head(entry).unwrap();
        assert_eq!((head.ttl_s, head.rules, head.authentic_data), (50, 0, index % 2 == 0));
        assert_eq!(head.origin, Origin::Upstream { group: 9, chain: false });
        let now = Now(250_000_000);
        let old = cache.find(&old, now).unwrap();
        let bytes = cache.write_reply(old, now, question, Transport::Tcp, "", &mut before);
        assert_eq!(other.write_reply(entry, Now(7), question, Transport::Tcp, "", &mut after), bytes);
        assert_eq!(before[..bytes], after[..bytes]);
    }
    assert!(other.find(&CacheKey { policy: 3, subnet: 29, ..key(&names[29]) }, Now(7)).is_some());
}

#[test]
fn what_was_taken_in_is_given_out_again_by_a_process_that_ends_soon() {
    let mut cache = Cache::new(1 << 20, Eviction::Lru, [1, 2, 3, 4]);
    let question = question("popular.example");
    let (_, body) = body(&question, 2, 100);
    cache.keep(&key(&question), HEAD, &body);
    for _ in 0..20 {
        cache.find(&key(&question), Now(0));
    }
    let given = |cache: &Cache| {
        let mut entries = Vec::new();
        cache.export(Now(0), 10, 0, &mut |entry| entries.push(entry));
        entries
    };
    let first = given(&cache);
    let mut next = Cache::new(1 << 20, Eviction::Lru, [5, 6, 7, 8]);
    assert!(next.import(Now(0), 0, first[0].clone(), 0, 1, true));
    assert_eq!(given(&next), first);
}
