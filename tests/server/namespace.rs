//! Network namespaces: a test that runs once more, as a process in a network of its own.

use std::process::Command;

use crate::tool;

/// Says to this program that it runs in namespaces of its own.
const INSIDE: &str = "COREWALL_TEST_INSIDE";

/// Whether this is the process in a network of its own. If it is not, runs `test` (the name by which this program knows the
/// caller) in one that `prepare` has set up, a script for a shell with `$0` as `argument`, and holds that it succeeds. Says so
/// where there are no namespaces to be had.
pub fn is_inside(test: &str, prepare: &str, argument: &str) -> bool {
    if std::env::var_os(INSIDE).is_some() {
        return true;
    }
    let inside = |script: &str| {
        let mut command = Command::new("unshare");
        command.args(["--map-root-user", "--net", "--mount", "sh", "-c", script, argument]);
        command
    };
    let Some(tried) = tool::output(inside(prepare), "util-linux") else { return false };
    if !tried.status.success() {
        let reason = String::from_utf8_lossy(&tried.stderr);
        println!("SKIPPED: no network and mount namespace to be had here (`unshare -rnm`, `ip`): {reason}");
        return false;
    }
    let mut command = inside(&format!("{prepare} && exec \"$@\""));
    command.arg(std::env::current_exe().unwrap()).args(["--exact", test, "--nocapture"]).env(INSIDE, "1");
    let output = command.output().unwrap();
    let said = format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success() && said.contains("1 passed"), "{said}");
    print!("{said}");
    false
}
