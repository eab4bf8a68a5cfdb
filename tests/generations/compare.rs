//! What a build would change among the names asked for most, and builds that are not published for it.

use std::fs;

use serde_json::{Value, json};

use crate::site::Folder;

/// Names asked for most: ten that no list of these tests speaks of, and some that one does.
fn top_names(folder: &Folder) {
    let others: String = (0..10).map(|number| format!("{} other{number}.example\n", 50 - number)).collect();
    folder.write("top", format!("900 popular.example\n800 a.shop.example\n700 cdn.example\n{others}"));
}

fn build(folder: &Folder, list: &str, more: &[&str]) -> (Option<i32>, Value, String) {
    let arguments = ["build", "--store", "store", "--list", list, "--top-names", "top", "--json"];
    let done = folder.run(&[&arguments[..], more].concat());
    let report = serde_json::from_str(&done.out).unwrap_or_else(|error| panic!("{error}: {done:?}"));
    (done.code, report, done.err)
}

#[test]
fn a_build_tells_what_it_newly_blocks_and_allows_among_the_names_asked_for_most() {
    let folder = Folder::new();
    top_names(&folder);
    folder.write("old.txt", "||cdn.example^\n||never.example^\n");
    folder.write("new.txt", "||shop.example^\n/^popular\\./\n@@||cdn.example^\n||never.example^\n");
    let (code, first, _) = build(&folder, "adblock:old.txt", &["--max-new-blocks", "0"]);
    assert_eq!(
        (code, &first["published"], &first["comparison"]),
        (Some(0), &json!(true), &json!(null)),
        "nothing to compare with"
    );
    let (code, report, _) = build(&folder, "adblock:new.txt", &[]);
    assert_eq!((code, &report["published"]), (Some(0), &json!(true)), "without a threshold it is only told");
    assert_eq!(
        report["comparison"],
        json!({
            "against": 1, "names": 13, "newly_blocked": 2, "newly_allowed": 1,
            "first_newly_blocked": [
                {"name": "popular.example", "asked": 900, "list": "new.txt"},
                {"name": "a.shop.example", "asked": 800, "list": "new.txt"},
            ],
            "first_newly_allowed": [{"name": "cdn.example", "asked": 700, "list": "old.txt"}],
            "max_new_blocks": null,
        })
    );
    let text = folder.told(&["build", "--store", "store", "--list", "adblock:old.txt", "--top-names", "top"]);
    assert!(
        text.contains("of 13 names asked for most, against generation 2: 1 newly blocked, 2 newly allowed"),
        "{text}"
    );
    assert!(text.contains("newly blocked: cdn.example, asked 700 times  [`old.txt`]"), "{text}");
}

#[test]
fn a_build_that_blocks_too_much_is_kept_and_not_published() {
    let folder = Folder::new();
    top_names(&folder);
    folder.write("old.txt", "never.example\n");
    folder.write("new.txt", "popular.example\na.shop.example\n");
    build(&folder, "plain:old.txt", &[]);
    let current = || folder.store().current_number().unwrap();
    // 10 % of 13 names are one.
    for threshold in ["1", "10%"] {
        let (code, report, err) = build(&folder, "plain:new.txt", &["--max-new-blocks", threshold]);
        assert_eq!((code, &report["published"], current()), (Some(1), &json!(false), Some(1)), "{err}");
        assert_eq!(report["comparison"]["max_new_blocks"], 1);
        assert!(err.contains("it would newly block 2 of 13 names asked for most, and 1 are allowed to be"), "{err}");
        assert!(err.contains(&format!("`corewall publish {}`", report["generation"])), "{err}");
    }
    for _ in 0..3 {
        build(&folder, "plain:new.txt", &["--max-new-blocks", "0"]);
    }
    assert_eq!(
        folder.store().numbers().unwrap(),
        [1, 5, 6],
        "those that are held back do not heap up, the current one stays"
    );
    let (code, report, _) = build(&folder, "plain:new.txt", &["--max-new-blocks", "2"]);
    assert_eq!((code, &report["published"], current()), (Some(0), &json!(true), Some(7)));
    assert_eq!(folder.json(&["rollback"])["current"], 1, "what was held back never served");
    assert_eq!(folder.json(&["publish", "7"])["current"], 7);
}

#[test]
fn names_are_judged_as_the_server_does_by_the_default_policy() {
    let folder = Folder::new();
    let config = |rules: &str| {
        folder.write("rules.txt", rules);
        let text = "store = \"store\"\nclients_allowed = [\"192.0.2.0/24\"]\n\n[block]\nede = false\n\n[[policy]]\nname = \"home\"\n\
            clients = [\"127.0.0.0/8\"]\nlists = []\n\n[[record]]\nname = \"local.example\"\ntype = \"A\"\ndata = \"192.0.2.1\"\n\n\
            [[list]]\nname = \"rules\"\npath = \"rules.txt\"\nformat = \"adblock\"\n\n[[list]]\nname = \"dropped\"\n\
            path = \"dropped.txt\"\nformat = \"plain\"\nblock_mode = \"drop\"\n";
        folder.write("corewall.toml", text);
    };
    folder.write("dropped.txt", "");
    config("||never.example^\n");
    let built = folder.run(&["build", "--config", "corewall.toml"]);
    assert_eq!(built.code, Some(0), "{built:?}");
    // As a server writes it.
    fs::write(folder.path("store/top-names"), "5 local.example\n4 led.example\n3 drop.example\n2 typed.example\n1 .\n")
        .unwrap();
    folder.write("dropped.txt", "drop.example\n");
    config("||local.example^\n||end.example^\n||led.example^$dnsrewrite=end.example\n||typed.example^$dnstype=TXT\n");
    let done = folder.run(&["build", "--config", "corewall.toml", "--json"]);
    let report: Value = serde_json::from_str(&done.out).unwrap_or_else(|error| panic!("{error}: {done:?}"));
    let names = |key: &str| {
        let changes = report["comparison"][key].as_array().unwrap().iter();
        changes.map(|change| change["name"].as_str().unwrap().to_owned()).collect::<Vec<_>>()
    };
    // Not the local record, and not a rule on another type.
    assert_eq!(names("first_newly_blocked"), ["led.example", "drop.example"], "{report}");
    assert_eq!(report["comparison"]["names"], 5);
}

#[test]
fn a_threshold_without_names_to_compare_is_said_before_anything_is_built() {
    let folder = Folder::new();
    folder.build("a.example\n");
    let arguments = ["build", "--list", "plain:names.txt", "--max-new-blocks", "5"];
    let refused = folder.on_store(&arguments);
    assert_eq!((refused.code, folder.store().numbers().unwrap().len()), (Some(2), 1), "{refused:?}");
    assert!(refused.err.contains("top-names: cannot read the names asked for most"), "{}", refused.err);
    folder.write("top", "no count\n");
    let refused = folder.on_store(&[&arguments[..], &["--top-names", "top"]].concat());
    assert_eq!(refused.code, Some(2), "{refused:?}");
    assert!(refused.err.contains("line 1 is no count with a name: `no count`"), "{}", refused.err);
    for wrong in ["many", "101%"] {
        assert_eq!(folder.on_store(&["build", "--list", "plain:names.txt", "--max-new-blocks", wrong]).code, Some(2));
    }
}

#[test]
fn what_rules_by_hand_say_already_is_no_change() {
    let folder = Folder::new();
    top_names(&folder);
    folder.write("old.txt", "never.example\n");
    build(&folder, "plain:old.txt", &[]);
    let added = folder.on_store(&["rule", "add", "popular.example", r"/^a\.shop\./"]);
    assert_eq!(added.code, Some(0), "{added:?}");
    // They are in force on the current generation, and fold into the next one.
    let (code, report, _) = build(&folder, "plain:old.txt", &["--fold-overlay", "--max-new-blocks", "0"]);
    assert_eq!((code, &report["published"]), (Some(0), &json!(true)), "{report}");
    assert_eq!(report["comparison"]["newly_blocked"], 0, "{report}");
    // A list that blocks what is allowed by hand blocks nothing; another name it does.
    let added = folder.on_store(&["rule", "add", "cdn.example", "--kind", "allow"]);
    assert_eq!(added.code, Some(0), "{added:?}");
    folder.write("new.txt", "cdn.example\nother1.example\n");
    let (_, report, _) = build(&folder, "plain:new.txt", &["--fold-overlay"]);
    assert_eq!(report["comparison"]["first_newly_blocked"].as_array().unwrap().len(), 1, "{report}");
    assert_eq!(report["comparison"]["first_newly_blocked"][0]["name"], "other1.example", "{report}");
    // Not folded in, they stand on top of both.
    let (_, report, _) = build(&folder, "plain:old.txt", &[]);
    assert_eq!(report["comparison"]["newly_allowed"], 1, "{report}");
}
