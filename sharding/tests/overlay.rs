//! What was changed by hand is there again when it is read, is replaced, removed and ended, and damage never goes unnoticed.

mod common;

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use common::{blocked, build, name, named};
use corewall_sharding::StoreError;
use corewall_sharding::build::{BuildOptions, Builder};
use corewall_sharding::overlay::{
    Effect, Filter, LIVE_PATTERNS_MAX, LiveChange, LiveEntry, LiveUpdate, NewEntry, Overlay, Removal, Removed,
    Selector, Subject, Void,
};
use corewall_sharding::publish::{Generation, Store};
use corewall_sharding::rule::{
    AliasLabels, Answer, AnswerRecord, BlockMode, Class, ClientMatch, Condition, IpRewrite, Kind, List, Rule, RuleKey,
    Scope,
};

const NOW_S: u64 = 1_800_000_000;

fn store() -> (tempfile::TempDir, Store) {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::create_or_open(dir.path()).unwrap();
    (dir, store)
}

fn new(change: LiveChange) -> NewEntry {
    NewEntry { change, list: "live".to_owned(), expires_s: None, reason: String::new() }
}

fn rule(rule: Rule) -> NewEntry {
    new(LiveChange::Rule(rule))
}

fn seqs(update: &LiveUpdate) -> (Vec<u64>, Vec<u64>) {
    (update.entered.iter().map(|entry| entry.seq).collect(), update.left.clone())
}

fn on(subject: &str) -> Selector {
    Selector { subject: Subject::Name(name(subject)), scope: None, effect: None, list: None }
}

fn removal(generation: Option<&Generation>) -> Removal<'_> {
    Removal { generation, now_s: NOW_S, expires_s: None, reason: "a test" }
}

/// One of everything that an entry can say.
fn every_change() -> Vec<NewEntry> {
    let target = Some(name("target.example"));
    let mut entries = Vec::new();
    for kind in [Kind::ForwardAllow, Kind::ForwardBlock, Kind::Allow, Kind::Alias, Kind::Block] {
        for scope in [Scope::Exact, Scope::Subtree, Scope::Below] {
            entries.push(rule(named(&Class::plain(kind, scope, 0), "a.example")));
        }
        let pattern = RuleKey::Pattern { regex: "^ads[0-9]+\\.".to_owned(), target };
        entries.push(rule(Rule { class: Class::plain(kind, Scope::Pattern, 0), key: pattern }));
        let address = RuleKey::Address { net: "192.0.2.0/24".parse().unwrap(), target };
        entries.push(rule(Rule { class: Class::plain(kind, Scope::Address, 0), key: address }));
        for void in [
            Void::Name { name: name("a.example"), scope: Scope::Below, kind },
            Void::Pattern { regex: "^ads[0-9]+\\.".to_owned(), kind },
            Void::Address { net: "2001:db8::/32".parse().unwrap(), kind },
        ] {
            entries.push(new(LiveChange::Void(void)));
        }
    }
    entries.push(new(LiveChange::Void(Void::Rewrite { from: "10.0.0.1/32".parse().unwrap() })));
    let rewrite = IpRewrite { from: "10.0.0.1/32".parse().unwrap(), to: "10.0.0.2".parse().unwrap(), list: 0 };
    entries.push(new(LiveChange::Rewrite(rewrite)));
    let mut class = Class::plain(Kind::Block, Scope::Subtree, 0);
    class.important = true;
    class.alias_labels = AliasLabels::All;
    class.servers = vec!["192.0.2.1:53".parse().unwrap(), "[2001:db8::1]:5353".parse().unwrap()];
    class.answer = Some(Answer::Records(vec![
        AnswerRecord { rtype: 1, ttl_s: None, rdata: vec![192, 0, 2, 7].into() },
        AnswerRecord { rtype: 16, ttl_s: Some(60), rdata: vec![].into() },
    ]));
    class.condition = Some(Condition {
        types: vec![1, 28],
        types_not: vec![16],
        names_not: vec![name("ok.all.example")],
        clients: vec![ClientMatch::Net("10.0.0.0/8".parse().unwrap()), ClientMatch::Named("tv".into())],
        clients_not: vec![ClientMatch::Named("desk".into())],
        lifts_answers_only: true,
    });
    entries.push(NewEntry {
        expires_s: Some(u64::MAX >> 1),
        reason: "why, \"quoted\"".to_owned(),
        ..rule(named(&class, "all.example"))
    });
    let moded = Class { answer: Some(Answer::Mode(BlockMode::TcpOnly)), ..Class::plain(Kind::Block, Scope::Exact, 0) };
    entries.push(NewEntry { list: "mine".to_owned(), ..rule(named(&moded, "")) });
    let alias = RuleKey::Name { name: name("b.example"), target: Some(name("")) };
    entries.push(rule(Rule { class: Class::plain(Kind::Alias, Scope::Exact, 0), key: alias }));
    entries
}

fn is_what_was_added(read: &LiveEntry, added: &NewEntry) -> bool {
    (&read.change, &read.list, read.expires_s, &read.reason, read.created_s)
        == (&added.change, &added.list, added.expires_s, &added.reason, NOW_S)
}

#[test]
fn everything_reads_back_as_it_was_added_and_without_entries_there_is_no_file() {
    let (_dir, store) = store();
    assert_eq!(Overlay::read(&store, 0).unwrap(), []);
    let mut overlay = Overlay::open(&store).unwrap();
    assert_eq!((overlay.next_expiry().unwrap(), overlay.last_seq()), (None, 0));
    assert!(!store.dir().join("overlay.db").exists());
    let added = every_change();
    let update = overlay.add(&added, NOW_S).unwrap();
    assert_eq!(seqs(&update), ((1..=added.len() as u64).collect(), vec![]));
    // While it is being written to, and afterwards.
    for _ in 0..2 {
        let read = Overlay::read(&store, 0).unwrap();
        assert_eq!(read.iter().map(|entry| entry.seq).collect::<Vec<_>>(), seqs(&update).0);
        for (read, added) in read.iter().zip(&added) {
            assert!(is_what_was_added(read, added), "{read:?} is not {added:?}");
        }
        assert_eq!(update.entered.iter().map(|entry| LiveEntry::clone(entry)).collect::<Vec<_>>(), read);
        overlay.verify().unwrap();
    }
    drop(overlay);
    assert_eq!(Overlay::read(&store, 0).unwrap().len(), added.len());
    assert_eq!(Overlay::open(&store).unwrap().last_seq(), added.len() as u64);
}

#[test]
fn a_second_writer_is_told_and_a_reader_is_not_held_up() {
    let (_dir, store) = store();
    let mut overlay = Overlay::open(&store).unwrap();
    overlay.add(&[rule(blocked("a.example"))], NOW_S).unwrap();
    let error = Overlay::open(&store).err().unwrap();
    assert!(matches!(error, StoreError::OverlayBusy { .. }) && error.to_string().contains("running server"), "{error}");
    assert_eq!(Overlay::read(&store, 0).unwrap().len(), 1);
    drop(overlay);
    Overlay::open(&store).unwrap();
}

#[test]
fn a_rule_that_is_there_is_replaced_also_within_its_batch_and_a_number_is_never_used_again() {
    let (_dir, store) = store();
    let mut overlay = Overlay::open(&store).unwrap();
    let alias = |target| {
        let key = RuleKey::Name { name: name("a.example"), target: Some(name(target)) };
        rule(Rule { class: Class::plain(Kind::Alias, Scope::Exact, 0), key })
    };
    assert_eq!(seqs(&overlay.add(&[alias("b.example"), alias("c.example")], NOW_S).unwrap()), (vec![2], vec![]));
    assert_eq!(seqs(&overlay.add(&[alias("d.example")], NOW_S).unwrap()), (vec![3], vec![2]));
    // Of another list, scope or kind it is another rule.
    let others = [
        NewEntry { list: "other".to_owned(), ..alias("d.example") },
        rule(named(&Class::plain(Kind::Alias, Scope::Subtree, 0), "a.example")),
        rule(blocked("a.example")),
        new(LiveChange::Void(Void::Name { name: name("a.example"), scope: Scope::Exact, kind: Kind::Alias })),
    ];
    assert_eq!(seqs(&overlay.add(&others, NOW_S).unwrap()), (vec![4, 5, 6, 7], vec![]));
    let (update, found) = overlay.remove(&[on("A.Example"), on("a.example"), on("b.example")], removal(None)).unwrap();
    assert_eq!(seqs(&update), (vec![], vec![3, 4, 5, 6]));
    let four = Removed { live: 4, ..Removed::default() };
    assert_eq!(found, [four, four, Removed::default()]);
    drop(overlay);
    let mut overlay = Overlay::open(&store).unwrap();
    assert_eq!(seqs(&overlay.add(&[rule(blocked("e.example"))], NOW_S).unwrap()), (vec![8], vec![]));
    overlay.verify().unwrap();
    assert_eq!(Overlay::snapshot(&store).unwrap().last_seq, 8);
}

/// A generation of two lists.
fn generation(store: &Store) -> Generation {
    let mut builder = Builder::new(store, BuildOptions { shards: 8, ..BuildOptions::default() }).unwrap();
    builder.list(List::named("first")).unwrap();
    builder.list(List::named("second")).unwrap();
    for number in 0..100 {
        builder.push(&blocked(&format!("host{number}.example"))).unwrap();
    }
    builder.push(&named(&Class::plain(Kind::Block, Scope::Subtree, 1), "host7.example")).unwrap();
    builder.push(&named(&Class::plain(Kind::Allow, Scope::Exact, 1), "host7.example")).unwrap();
    let mut conditional = Class::plain(Kind::Allow, Scope::Exact, 1);
    conditional.condition = Some(Condition { types: vec![1], ..Condition::default() });
    builder.push(&named(&conditional, "host7.example")).unwrap();
    let regex = "^ads\\.".to_owned();
    let pattern = RuleKey::Pattern { regex, target: None };
    builder.push(&Rule { class: Class::plain(Kind::Block, Scope::Pattern, 1), key: pattern }).unwrap();
    for net in ["192.0.2.0/24", "192.0.2.0/25", "192.0.2.1/32"] {
        let address = RuleKey::Address { net: net.parse().unwrap(), target: None };
        builder.push(&Rule { class: Class::plain(Kind::Block, Scope::Address, 0), key: address }).unwrap();
    }
    builder.rewrite(IpRewrite { from: "192.0.2.1/32".parse().unwrap(), to: "10.0.0.1".parse().unwrap(), list: 1 });
    builder.finish(&mut |_, _, _| {}).unwrap().publish().unwrap();
    store.current().unwrap()
}

fn voids(update: &LiveUpdate) -> Vec<(&str, &Void)> {
    let voids = update.entered.iter().map(|entry| match &entry.change {
        LiveChange::Void(void) => (&*entry.list, void),
        other => panic!("{other:?} is no void"),
    });
    voids.collect()
}

#[test]
fn a_rule_of_the_generation_is_voided_once_and_can_be_restored() {
    let (_dir, store) = store();
    let generation = generation(&store);
    let mut overlay = Overlay::open(&store).unwrap();
    overlay.add(&[rule(blocked("host7.example"))], NOW_S).unwrap();
    let (update, found) = overlay.remove(&[on("host7.example")], removal(Some(&generation))).unwrap();
    let void = |scope, kind| Void::Name { name: name("host7.example"), scope, kind };
    let mut made = voids(&update);
    made.sort_by_key(|(list, void)| (list.to_string(), format!("{void:?}")));
    assert_eq!(
        made,
        [
            ("first", &void(Scope::Exact, Kind::Block)),
            ("second", &void(Scope::Exact, Kind::Allow)),
            ("second", &void(Scope::Subtree, Kind::Block)),
        ]
    );
    assert_eq!((update.left, found), (vec![1], vec![Removed { live: 1, voided: 3, ..Removed::default() }]));
    // Again: nothing is changed, and nothing is amiss.
    let (update, found) = overlay.remove(&[on("host7.example")], removal(Some(&generation))).unwrap();
    assert_eq!((update, found), (LiveUpdate::default(), vec![Removed { void_already: 3, ..Removed::default() }]));
    // With an end, the void that is there gets one.
    let ends = Removal { expires_s: Some(NOW_S + 60), ..removal(Some(&generation)) };
    let only = Selector { effect: Some(Effect::Rule(Kind::Allow)), ..on("host7.example") };
    let (update, _) = overlay.remove(std::slice::from_ref(&only), ends).unwrap();
    assert_eq!((update.entered.len(), update.left.len()), (1, 1));
    assert_eq!(overlay.next_expiry().unwrap(), Some(NOW_S + 60));
    let (update, found) = overlay.restore(&[only, on("host8.example")]).unwrap();
    assert_eq!((update.left.len(), found), (1, vec![1, 0]));
    // What is neither in the generation nor live is not found.
    let (_, found) = overlay.remove(&[on("nowhere.example")], removal(Some(&generation))).unwrap();
    assert!(found[0].is_nothing());
    overlay.verify().unwrap();
}

#[test]
fn patterns_addresses_and_rewrites_of_the_generation_are_found_by_their_very_text() {
    let (_dir, store) = store();
    let generation = generation(&store);
    let mut overlay = Overlay::open(&store).unwrap();
    let by = |subject| Selector { subject, scope: None, effect: None, list: None };
    let net = |text: &str| Subject::Address(text.parse().unwrap());
    let selectors = [
        by(Subject::Pattern("^ads\\.".to_owned())),
        by(net("192.0.2.0/24")),
        by(net("192.0.2.1/32")),
        by(net("192.0.2.0/26")),
        Selector { list: Some("second".to_owned()), ..by(net("192.0.2.0/25")) },
    ];
    let (update, found) = overlay.remove(&selectors, removal(Some(&generation))).unwrap();
    assert_eq!(found.iter().map(|found| found.voided).collect::<Vec<_>>(), [1, 1, 2, 0, 0]);
    let kinds: Vec<_> = voids(&update)
        .iter()
        .map(|(list, void)| match void {
            Void::Pattern { .. } => (*list, "pattern"),
            Void::Address { .. } => (*list, "address"),
            Void::Rewrite { .. } => (*list, "rewrite"),
            Void::Name { .. } => (*list, "name"),
        })
        .collect();
    assert_eq!(kinds, [("second", "pattern"), ("first", "address"), ("first", "address"), ("second", "rewrite")]);
}

#[test]
fn for_a_time_only_a_rule_of_the_generation_can_be_removed() {
    let (_dir, store) = store();
    let generation = generation(&store);
    let mut overlay = Overlay::open(&store).unwrap();
    overlay.add(&[rule(blocked("host1.example")), rule(blocked("live.example"))], NOW_S).unwrap();
    let ends = Removal { expires_s: Some(NOW_S + 5), ..removal(Some(&generation)) };
    let (update, found) = overlay.remove(&[on("host1.example"), on("live.example")], ends).unwrap();
    assert_eq!((update.entered.len(), update.left), (1, vec![]));
    let kept = Removed { kept: 1, ..Removed::default() };
    assert_eq!(found, [Removed { voided: 1, ..kept }, kept]);
}

#[test]
fn what_ends_by_itself_is_gone_at_its_second_and_is_not_folded_in() {
    let (_dir, store) = store();
    let mut overlay = Overlay::open(&store).unwrap();
    let ends = |text: &str, expires_s| NewEntry { expires_s: Some(expires_s), ..rule(blocked(text)) };
    overlay
        .add(&[ends("a.example", NOW_S + 1), ends("b.example", NOW_S + 9), rule(blocked("c.example"))], NOW_S)
        .unwrap();
    let far_off = u64::MAX >> 1;
    overlay.add(&[ends("d.example", far_off)], NOW_S).unwrap();
    assert_eq!((overlay.next_expiry().unwrap(), overlay.live()), (Some(NOW_S + 1), 4));
    overlay.set_folded(4).unwrap();
    assert_eq!(overlay.live(), 3, "what ends is live for ever on top of every generation");
    let live = |folded| Overlay::read(&store, folded).unwrap().iter().map(|entry| entry.seq).collect::<Vec<_>>();
    // By the clock of today, the first two have long not ended, or have: only the others are certain.
    assert!(live(0).ends_with(&[3, 4]) && live(4).ends_with(&[4]) && !live(4).contains(&3));
    assert_eq!(seqs(&overlay.expire(NOW_S, 10).unwrap()), (vec![], vec![]));
    assert_eq!(seqs(&overlay.expire(NOW_S + 1, 10).unwrap()), (vec![], vec![1]));
    // The clock has jumped.
    assert_eq!(seqs(&overlay.expire(NOW_S + 1_000, 10).unwrap()), (vec![], vec![2]));
    assert_eq!((overlay.next_expiry().unwrap(), overlay.live()), (Some(far_off), 1));
    overlay.verify().unwrap();
    // Long ago: it has ended for whoever reads, also before somebody has removed it.
    overlay.add(&[ends("e.example", 1)], NOW_S).unwrap();
    assert_eq!(live(0), [3, 4]);
}

#[test]
fn more_than_the_bounds_is_refused_and_changes_nothing() {
    let (_dir, store) = store();
    let mut overlay = Overlay::open(&store).unwrap();
    let pattern = |number: u64| {
        let key = RuleKey::Pattern { regex: format!("^a{number}\\."), target: None };
        rule(Rule { class: Class::plain(Kind::Block, Scope::Pattern, 0), key })
    };
    let patterns: Vec<_> = (0..LIVE_PATTERNS_MAX).map(pattern).collect();
    overlay.add(&patterns, NOW_S).unwrap();
    let error = overlay.add(&[rule(blocked("a.example")), pattern(LIVE_PATTERNS_MAX)], NOW_S).unwrap_err();
    assert!(error.to_string().contains("256 live patterns; fold them"), "{error}");
    overlay.add(&[pattern(0)], NOW_S).unwrap();
    for bad in [
        NewEntry { list: "x".repeat(257), ..rule(blocked("a.example")) },
        NewEntry { list: String::new(), ..rule(blocked("a.example")) },
        NewEntry { reason: "x".repeat(1_025), ..rule(blocked("a.example")) },
    ] {
        assert!(matches!(overlay.add(&[bad], NOW_S), Err(StoreError::Bounds { .. })));
    }
    let of_list = |number| NewEntry { list: format!("list{number}"), ..rule(blocked("a.example")) };
    overlay.add(&(0..1_023).map(of_list).collect::<Vec<_>>(), NOW_S).unwrap();
    assert!(overlay.add(&[of_list(1_023)], NOW_S).unwrap_err().to_string().contains("1024 lists"));
    assert_eq!(Overlay::read(&store, 0).unwrap().len(), 256 + 1_023);
    // Those that are folded in count no more.
    overlay.set_folded(overlay.last_seq()).unwrap();
    overlay.add(&[pattern(1_000)], NOW_S).unwrap();
    assert_eq!(overlay.live(), 1);
    // A list without entries gives its place back.
    assert_eq!(overlay.remove_list("list7", 10).unwrap().left.len(), 1);
    overlay.add(&[of_list(1_023)], NOW_S).unwrap();
}

#[test]
fn entries_are_listed_by_page_and_filter() {
    let (_dir, store) = store();
    let mut overlay = Overlay::open(&store).unwrap();
    assert_eq!(Overlay::list(&store, &Filter::default(), 0, 9).unwrap(), []);
    let allowed = Class::plain(Kind::Allow, Scope::Subtree, 0);
    overlay
        .add(
            &[
                rule(blocked("a.example")),
                rule(blocked("www.a.example")),
                rule(blocked("ba.example")),
                rule(blocked(r"x\.a.example")),
                NewEntry { list: "other".to_owned(), ..rule(named(&allowed, "a.example")) },
                new(LiveChange::Void(Void::Name { name: name("v.a.example"), scope: Scope::Exact, kind: Kind::Block })),
                new(LiveChange::Void(Void::Rewrite { from: "10.0.0.1/32".parse().unwrap() })),
            ],
            NOW_S,
        )
        .unwrap();
    let listed = |filter: &Filter, after, count| {
        let listed = Overlay::list(&store, filter, after, count).unwrap();
        listed.iter().map(|entry| entry.seq).collect::<Vec<_>>()
    };
    let all = Filter::default();
    assert_eq!((listed(&all, 0, 3), listed(&all, 3, 3), listed(&all, 7, 3)), (vec![1, 2, 3], vec![4, 5, 6], vec![]));
    assert_eq!(listed(&Filter { list: Some("other".to_owned()), ..all.clone() }, 0, 9), [5]);
    assert_eq!(listed(&Filter { effect: Some(Effect::Rule(Kind::Allow)), ..all.clone() }, 0, 9), [5]);
    assert_eq!(listed(&Filter { effect: Some(Effect::Rewrite), ..all.clone() }, 0, 9), [7]);
    assert_eq!(listed(&Filter { name: Some(name("A.example")), ..all.clone() }, 0, 9), [1, 2, 5, 6]);
    assert_eq!(listed(&Filter { name: Some(name("")), ..all.clone() }, 0, 9), [1, 2, 3, 4, 5, 6]);
}

/// A file of a few entries, with all of them in the file itself.
fn some_file() -> (tempfile::TempDir, Store, PathBuf, Vec<LiveEntry>) {
    let (dir, store) = store();
    let mut overlay = Overlay::open(&store).unwrap();
    overlay.add(&every_change(), NOW_S).unwrap();
    overlay.remove(&[on("b.example")], removal(None)).unwrap();
    drop(overlay);
    let path = store.dir().join("overlay.db");
    assert!(!store.dir().join("overlay.db-wal").exists(), "the last one to close joins the changes to the file");
    let entries = Overlay::read(&store, 0).unwrap();
    assert!(entries.len() > 40);
    (dir, store, path, entries)
}

fn replace(path: &Path, bytes: &[u8]) {
    for beside in ["-wal", "-shm"] {
        let _ = fs::remove_file(format!("{}{beside}", path.display()));
    }
    fs::write(path, bytes).unwrap();
}

#[test]
fn a_file_that_is_cut_short_anywhere_is_damage_and_not_a_smaller_overlay() {
    let (_dir, store, path, _) = some_file();
    let bytes = fs::read(&path).unwrap();
    for length in (0..bytes.len()).filter(|length| length % 61 == 0 || length % 4_096 < 2 || bytes.len() - length < 40)
    {
        replace(&path, &bytes[..length]);
        let error = Overlay::read(&store, 0).expect_err(&format!("{length} bytes"));
        assert!(error.to_string().contains("live rules cannot be read"), "{length}: {error}");
    }
    replace(&path, &bytes);
    // Gone altogether, while the newest changes are there.
    fs::remove_file(&path).unwrap();
    assert_eq!(Overlay::read(&store, 0).unwrap(), []);
    fs::write(format!("{}-wal", path.display()), "some").unwrap();
    assert!(Overlay::read(&store, 0).unwrap_err().to_string().contains("it is missing, but"));
    assert!(Overlay::open(&store).is_err());
}

#[test]
fn a_flipped_bit_is_damage_or_changes_no_entry() {
    let (_dir, store, path, entries) = some_file();
    let bytes = fs::read(&path).unwrap();
    let mut harmless = 0;
    for at in (0..bytes.len()).step_by(13) {
        let mut flipped = bytes.clone();
        flipped[at] ^= 1 << (at / 13 % 8);
        replace(&path, &flipped);
        match Overlay::read(&store, 0) {
            Ok(read) => {
                assert_eq!(read, entries, "byte {at}");
                harmless += 1;
            }
            Err(error) => assert!(error.to_string().contains("overlay.db: "), "byte {at}: {error}"),
        }
    }
    assert!(harmless < bytes.len() / 13, "none of {harmless} flips was noticed");
}

#[test]
fn a_damaged_index_is_noticed_when_a_server_opens_the_file() {
    let (_dir, store, path, _) = some_file();
    let conn = rusqlite::Connection::open(&path).unwrap();
    conn.pragma_update(None, "writable_schema", true).unwrap();
    conn.execute("DELETE FROM sqlite_schema WHERE name = 'entry_identity'", []).unwrap();
    conn.execute(
        "INSERT INTO entry SELECT 1000, is_void, kind, scope, key || 'x', list, target, important, answer, \
                  alias_labels, created_s, expires_s, reason, parts, sum FROM entry WHERE seq = 1",
        [],
    )
    .unwrap();
    drop(conn);
    let error = Overlay::open(&store).and_then(|overlay| overlay.verify()).unwrap_err();
    assert!(error.to_string().contains("live rules cannot be read"), "{error}");
}

#[test]
fn a_file_of_a_newer_version_or_of_another_program_is_refused() {
    let (_dir, store, path, _) = some_file();
    let conn = rusqlite::Connection::open(&path).unwrap();
    conn.pragma_update(None, "user_version", 2).unwrap();
    let error = Overlay::read(&store, 0).unwrap_err();
    assert!(error.to_string().contains("version 2 of its format, this program reads versions up to 1"), "{error}");
    conn.pragma_update(None, "user_version", 1).unwrap();
    conn.pragma_update(None, "application_id", 7).unwrap();
    assert!(matches!(Overlay::read(&store, 0), Err(StoreError::OverlayDamaged { .. })));
}

#[test]
fn a_batch_is_shared_by_all_who_are_told() {
    let (_dir, store) = store();
    let update = Overlay::open(&store).unwrap().add(&[rule(blocked("a.example"))], NOW_S).unwrap();
    let told: Vec<Arc<LiveEntry>> = update.entered.clone();
    assert!(Arc::ptr_eq(&told[0], &update.entered[0]));
    // The generation's own rules are another matter.
    build(&store, 2, [blocked("a.example")]).unwrap().publish().unwrap();
    assert_eq!(store.current().unwrap().rule_count(), 1);
}
