//! `corewall tune` and `tuning/apply.sh` on the machine that runs the tests, of which nothing is known: what they say is held
//! against itself.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use serde_json::Value;
use tempfile::TempDir;

const COREWALL: &str = env!("CARGO_BIN_EXE_corewall");
const GROUPS: [&str; 10] = ["sysctl", "buffers", "nic", "irq", "cpu", "memory", "limits", "storage", "clock", "kernel"];

/// A folder with a configuration that listens on loopback.
fn site() -> (TempDir, String) {
    let folder = tempfile::tempdir().unwrap();
    let config = folder.path().join("corewall.toml");
    fs::write(&config, "listen = [\"127.0.0.1:5353\"]\nstore = \"store\"\n").unwrap();
    let config = config.display().to_string();
    (folder, config)
}

fn tune(arguments: &[&str]) -> Output {
    Command::new(COREWALL).arg("tune").args(arguments).output().unwrap()
}

fn stdout(output: &Output) -> String {
    String::from_utf8(output.stdout.clone()).unwrap()
}

fn stderr(output: &Output) -> String {
    String::from_utf8(output.stderr.clone()).unwrap()
}

fn report(arguments: &[&str]) -> (Value, Option<i32>) {
    let output = tune(&[arguments, &["--json"]].concat());
    assert_eq!(stderr(&output), "");
    (serde_json::from_slice(&output.stdout).unwrap(), output.status.code())
}

fn apply(arguments: &[&str], corewall: &Path, path: &str) -> Output {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tuning/apply.sh");
    Command::new("bash").arg(script).args(arguments).env("COREWALL", corewall).env("PATH", path).output().unwrap()
}

fn path() -> String {
    std::env::var("PATH").unwrap()
}

#[test]
fn every_group_is_reported_and_the_exit_code_says_whether_anything_differs() {
    let (_folder, config) = site();
    let (report, code) = report(&["--config", &config]);
    let findings = report["findings"].as_array().unwrap();
    for group in GROUPS {
        assert!(findings.iter().any(|finding| finding["group"] == group), "{group}");
    }
    let mut differ = 0;
    for finding in findings {
        for field in ["group", "name", "wanted", "why", "lasting", "state"] {
            assert!(!finding[field].as_str().unwrap().is_empty(), "{field} of {finding:#}");
        }
        let state = finding["state"].as_str().unwrap();
        let is_open = ["differs", "optional"].contains(&state);
        let says = !finding["commands"].as_array().unwrap().is_empty() || finding["by_hand"].is_string();
        assert_eq!(says, is_open, "{finding:#}");
        let is_told = ["good", "differs", "optional"].contains(&state);
        assert!(if is_told { finding["found"].is_string() } else { finding["note"].is_string() }, "{finding:#}");
        differ += usize::from(state == "differs");
        if ["nic", "irq"].contains(&finding["group"].as_str().unwrap()) {
            assert_eq!(state, "not-applicable", "the configuration listens on loopback alone: {finding:#}");
        }
    }
    assert_eq!(report["counts"]["differs"], differ);
    assert_eq!(code, Some(i32::from(differ > 0)));
    assert!(!report["cores"].as_array().unwrap().is_empty());
}

#[test]
fn what_was_found_is_what_the_machine_has() {
    let (report, _) = report(&["--only", "sysctl.net.core.somaxconn"]);
    let findings = report["findings"].as_array().unwrap();
    assert_eq!(findings.len(), 1);
    match fs::read_to_string("/proc/sys/net/core/somaxconn") {
        Ok(text) => assert_eq!(findings[0]["found"], text.trim()),
        Err(_) => assert_eq!(findings[0]["found"], Value::Null),
    }
}

#[test]
fn a_terminal_is_told_the_same_in_a_table_with_the_commands_whole() {
    let (_folder, config) = site();
    let (report, _) = report(&["--config", &config]);
    let table = stdout(&tune(&["--config", &config]));
    for finding in report["findings"].as_array().unwrap() {
        let (name, wanted) = (finding["name"].as_str().unwrap(), finding["wanted"].as_str().unwrap());
        let is_row = |line: &str| line.contains(name) && line.contains(&format!("wanted {wanted}"));
        assert!(table.lines().any(is_row), "{name} is not in\n{table}");
        for command in finding["commands"].as_array().unwrap() {
            let command = command.as_str().unwrap();
            assert!(table.lines().any(|line| line.ends_with(command)), "{command} is not in\n{table}");
        }
    }
}

#[test]
fn wrong_usage_configuration_and_files_are_told_with_exit_code_2() {
    let (folder, config) = site();
    fs::write(folder.path().join("clock.conf"), "[clocksource]\nwanted = 1\n").unwrap();
    let here = folder.path().display().to_string();
    for (arguments, word) in [
        (&["--only", "sysctls"][..], "`sysctls` is neither a group"),
        (&["--only", "nic.rx_rings"], "`nic.rx_rings`"),
        (&["--config", "/nonexistent.toml"], "/nonexistent.toml"),
        (&["--tuning", &here], "clock.conf:"),
        (&["--tuning", "/nonexistent"], "/nonexistent: cannot read"),
        (&["--print", "passwd"], "there is no tuning file `passwd`"),
        (&["--optional"], "--commands"),
    ] {
        let output = tune(arguments);
        assert_eq!(output.status.code(), Some(2), "{arguments:?}");
        assert!(stderr(&output).contains(word), "{arguments:?}: {}", stderr(&output));
    }
    fs::write(folder.path().join("corewall.toml"), "cores = [1000]\n").unwrap();
    assert_eq!(tune(&["--config", &config]).status.code(), Some(2));
}

#[test]
fn a_file_of_tuning_is_printed_as_it_is() {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("tuning/90-corewall.conf");
    let output = tune(&["--print", "90-corewall.conf"]);
    assert_eq!((output.status.code(), stdout(&output)), (Some(0), fs::read_to_string(file).unwrap()));
}

#[test]
fn a_changed_file_changes_what_is_wanted() {
    let folder = tempfile::tempdir().unwrap();
    let value = fs::read_to_string("/proc/sys/vm/swappiness").unwrap();
    let value: u64 = value.trim().parse().unwrap();
    let here = folder.path().display().to_string();
    for (wanted, state) in [(value, "good"), (value + 1, "differs")] {
        fs::write(folder.path().join("90-corewall.conf"), format!("# A test.\nvm.swappiness = {wanted}\n")).unwrap();
        let (report, code) = report(&["--tuning", &here, "--only", "sysctl"]);
        assert_eq!(report["findings"].as_array().unwrap().len(), 1);
        assert_eq!((&report["findings"][0]["state"], code), (&state.into(), Some(i32::from(state == "differs"))));
    }
}

#[test]
fn a_dry_run_prints_every_command_of_the_report_and_runs_none() {
    let before = fs::read_to_string("/proc/sys/vm/swappiness").unwrap();
    let (report, _) = report(&[]);
    let output = apply(&["--dry-run", "--all"], Path::new(COREWALL), &path());
    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
    let printed = stdout(&output);
    for finding in report["findings"].as_array().unwrap() {
        let is_meant = finding["state"] == "differs";
        for command in finding["commands"].as_array().unwrap() {
            let command = command.as_str().unwrap();
            assert_eq!(printed.lines().any(|line| line == command), is_meant, "{command}\n{printed}");
        }
    }
    assert_eq!(fs::read_to_string("/proc/sys/vm/swappiness").unwrap(), before);
    let listed = apply(&["--list"], Path::new(COREWALL), &path());
    let open = report["counts"]["differs"].as_u64().unwrap();
    let lines = stdout(&listed).lines().filter(|line| line.contains(": wanted ")).count() as u64;
    assert_eq!((listed.status.code(), lines), (Some(0), open), "{}", stdout(&listed));
}

#[test]
fn names_that_are_wrong_apply_nothing() {
    for arguments in [&[][..], &["--all", "nic"], &["--nonsense"], &["--dry-run", "nonsense"], &["--config"]] {
        let output = apply(arguments, Path::new(COREWALL), &path());
        assert_eq!(output.status.code(), Some(2), "{arguments:?}");
        assert!(!stderr(&output).is_empty() && stdout(&output).is_empty(), "{arguments:?}");
    }
}

/// A folder with a `corewall` that says `script`, and an `id` that says who asks.
fn pretended(script: &str, user: &str) -> (TempDir, PathBuf, String) {
    let folder = tempfile::tempdir().unwrap();
    let program = |name: &str, text: &str| {
        let path = folder.path().join(name);
        fs::write(&path, format!("#!/bin/sh\n{text}\n")).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
        path
    };
    program("id", &format!("echo {user}"));
    fs::write(folder.path().join("script"), script.replace("HERE", &folder.path().display().to_string())).unwrap();
    let corewall = program("corewall", &format!("cat '{}/script'; exit 1", folder.path().display()));
    let path = format!("{}:{}", folder.path().display(), path());
    (folder, corewall, path)
}

const SCRIPT: &str = "# sysctl.a.b: wanted 1, found 0\n# why: it is so\n# lasts: a while\n# undo: rm HERE/mended\ntouch HERE/mended\n\
                      # nic.x of eth0: wanted 1, found 0\n# lasts: a while\n# by hand: ask somebody\n# undo: undo-x\nfalse\ntouch HERE/after\n";

#[test]
fn commands_are_run_in_order_a_failure_is_told_and_what_undoes_them_is_kept() {
    let (folder, corewall, path) = pretended(SCRIPT, "0");
    let here = |name: &str| folder.path().join(name);
    let undo = here("undo").display().to_string();
    let output = apply(&["--undo", &undo, "--all"], &corewall, &path);
    assert_eq!(output.status.code(), Some(1), "one command fails");
    assert!(here("mended").exists() && here("after").exists(), "the others are run all the same");
    assert!(stderr(&output).contains("this failed: false") && stderr(&output).contains("1 commands failed"));
    let told = stdout(&output);
    for line in
        ["# sysctl.a.b: wanted 1, found 0", "  nic.x of eth0: ask somebody", "  sysctl.a.b: a while", "  undo-x"]
    {
        assert!(told.lines().any(|shown| shown == line), "{line}\n{told}");
    }
    assert!(!told.contains("it is so"), "the reason is told by corewall tune");
    let undo = fs::read_to_string(here("undo")).unwrap();
    assert_eq!(undo, format!("rm {}/mended\nundo-x\n", folder.path().display()));
}

#[test]
fn without_root_nothing_is_run() {
    let (folder, corewall, path) = pretended(SCRIPT, "1000");
    let output = apply(&["--all"], &corewall, &path);
    assert_eq!(output.status.code(), Some(2));
    assert!(stderr(&output).contains("run it as root"), "{}", stderr(&output));
    let output = apply(&["--dry-run", "--all"], &corewall, &path);
    assert_eq!(output.status.code(), Some(0));
    assert!(!folder.path().join("mended").exists());
}
