//! `publish` and `rollback` beside a running server, and the names asked for most that it keeps for builds.

use std::fs;
use std::os::unix::fs::PermissionsExt;

use serde_json::{Value, json};

use crate::client::{UdpClient, ask, question};
use crate::corewall::{Server, Site};

fn is_blocked(server: &Server, name: &str) -> bool {
    ask(server.address(), &question(name, "A")).is_zero()
}

fn told(site: &Site, arguments: &[&str]) -> Value {
    let done = site.run(&[arguments, &["--json"]].concat());
    assert_eq!(done.code, Some(0), "{arguments:?}: {done:?}");
    serde_json::from_str(&done.out).unwrap()
}

#[test]
fn a_roll_back_is_in_force_when_the_command_returns() {
    let site = Site::new().list("rules", "plain", "", "first.example\n");
    site.build();
    site.write("rules", "second.example\n");
    let server = site.build_and_serve();
    assert!(is_blocked(&server, "second.example") && !is_blocked(&server, "first.example"));
    let listed = told(&site, &["generations"]);
    assert_eq!((&listed["current"], &listed["served"]), (&json!(2), &json!([2])));
    let rolled = told(&site, &["rollback"]);
    assert_eq!(rolled, json!({"current": 1, "was": 2, "served": 1, "not_reloaded": null}));
    assert!(is_blocked(&server, "first.example") && !is_blocked(&server, "second.example"));
    let published = site.run(&["publish", "2"]);
    assert_eq!(published.out, "generation 2 is the current one; it was 1\nthe server serves generation 2 now\n");
    assert!(is_blocked(&server, "second.example"));
    // A build alone changes nothing, and that is told.
    site.build();
    let text = site.run(&["generations"]).out;
    assert!(text.contains("the running server does not serve the current generation"), "{text}");
    // The one before it is served still.
    let line = |number: &str| text.lines().find(|line| line.trim_start().starts_with(number)).unwrap().to_owned();
    assert!(line("2 ").contains("before, served") && line("3 ").contains("current "), "{text}");
    server.stop();
}

#[test]
fn a_server_of_another_store_is_left_alone() {
    let site = Site::new().list("rules", "plain", "", "first.example\n");
    let server = site.build_and_serve();
    let list = format!("plain:{}", site.path("rules").display());
    let other = site.path("other").display().to_string();
    for _ in 0..2 {
        let mut command = site.command(crate::corewall::PROGRAM);
        assert!(command.args(["build", "--store", &other, "--list", &list]).output().unwrap().status.success());
    }
    let rolled = told(&site, &["rollback", "--store", &other]);
    assert_eq!((&rolled["current"], &rolled["served"]), (&json!(1), &json!(null)));
    let why = rolled["not_reloaded"].as_str().unwrap();
    let store = site.path("store").canonicalize().unwrap();
    assert!(why.contains(&format!("serves {}", store.display())), "{why}");
    assert_eq!(told(&site, &["generations", "--store", &other])["served"], json!(null));
    server.stop();
}

#[test]
fn a_server_that_cannot_go_over_is_told_of_by_the_exit_code() {
    let site = Site::new().list("rules", "plain", "", "first.example\n");
    site.build();
    let server = site.build_and_serve();
    // The configuration that the server reads again is broken; the command finds the server by its socket.
    site.write("corewall.toml", "nonsense");
    let socket = site.path("control.sock").display().to_string();
    let mut command = site.command(crate::corewall::PROGRAM);
    let output = command.args(["rollback", "--store", "store", "--control", &socket]).output().unwrap();
    let err = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(1), "{err}");
    assert!(err.contains("the store has been switched, but the server has not gone over"), "{err}");
    assert!(is_blocked(&server, "first.example"), "it serves as before");
    server.stop();
}

#[test]
fn names_asked_for_most_are_kept_for_the_next_build_and_the_next_server() {
    let site = Site::new().list("rules", "plain", "", "blocked.example\n");
    let server = site.build_and_serve();
    let client = UdpClient::new(server.address());
    let ask_often = |client: &UdpClient| {
        for _ in 0..400 {
            client.ask(&question("POPULAR.example", "A"));
        }
        for _ in 0..200 {
            client.ask(&question("blocked.example", "A"));
        }
    };
    ask_often(&client);
    server.stop();
    let path = site.path("store/top-names");
    let names = || -> Vec<(u64, String)> {
        let text = fs::read_to_string(&path).unwrap();
        let split = |line: &str| line.split_once(' ').map(|(asked, name)| (asked.parse().unwrap(), name.to_owned()));
        text.lines().map(|line| split(line).unwrap()).collect()
    };
    let first = names();
    assert_eq!(first.iter().map(|(_, name)| name.as_str()).collect::<Vec<_>>(), ["popular.example", "blocked.example"]);
    // An estimate, from one question of sixteen.
    assert!((150..900).contains(&first[0].0), "{first:?}");
    assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
    let server = site.serve();
    ask_often(&UdpClient::new(server.address()));
    server.stop();
    assert!(names()[0].0 > first[0].0, "the next server counts on: {:?} after {first:?}", names());
    // A build tells what it would change, and does not publish what would change too much.
    site.write("rules", "popular.example\n");
    let report = told(&site, &["build"]);
    assert_eq!(
        (&report["comparison"]["newly_blocked"], &report["comparison"]["newly_allowed"]),
        (&json!(1), &json!(1))
    );
    site.write("rules", "blocked.example\n");
    let held = site.run(&["build", "--max-new-blocks", "0"]);
    assert_eq!(held.code, Some(1), "{held:?}");
    assert!(held.out.contains("generation 3 built, but not published"), "{held:?}");
    assert!(held.out.contains("newly blocked: blocked.example"), "{held:?}");
}

#[test]
fn names_are_neither_counted_nor_kept_when_the_configuration_says_so() {
    let site = Site::new().option("top_names", "0").list("rules", "plain", "", "blocked.example\n");
    let server = site.build_and_serve();
    let client = UdpClient::new(server.address());
    for _ in 0..100 {
        client.ask(&question("popular.example", "A"));
    }
    server.stop();
    assert!(!site.path("store/top-names").exists());
}
