//! What is wrong is said at start, with what to change, and nothing serves half.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::net::{Shutdown, TcpListener, UdpSocket};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::os::unix::net::UnixStream;
use std::process::Command;
use std::thread;
use std::time::Instant;

use corewall_sharding::build::{BuildOptions, Builder};
use corewall_sharding::publish::Store;
use corewall_sharding::rule::{Class, Kind, List, Rule, RuleKey, Scope};

use crate::client::{ask, question};
use crate::corewall::{PROGRAM, Site};
use crate::process::{Done, PATIENCE, Process};

fn site() -> Site {
    Site::new().list("rules", "adblock", "", "||blocked.example.org^\n")
}

/// Starts a server that cannot start, and returns what it says.
fn refused(site: &Site) -> Done {
    let done = site.run(&["serve"]);
    assert!(done.code.is_some_and(|code| code != 0), "{done:?}");
    assert!(!done.out.contains("ready"), "{done:?}");
    assert!(done.err.contains("error: "), "{done:?}");
    done
}

#[test]
fn a_core_that_the_machine_lacks_is_an_error_that_names_those_it_has() {
    let site = site().option("cores", "[0, 1000]");
    site.build();
    let done = refused(&site);
    assert!(done.err.contains("1000") && done.err.contains("may run on"), "{done:?}");
}

#[test]
fn an_address_in_use_is_an_error_that_tells_how_to_find_out_by_whom() {
    let site = site();
    site.build();
    let address = site.addresses()[0];
    let udp = UdpSocket::bind(address).unwrap();
    let done = refused(&site);
    assert!(
        done.err.contains(&address.to_string()) && done.err.contains("UDP") && done.err.contains("ss -"),
        "{done:?}"
    );
    drop(udp);
    let tcp = TcpListener::bind(address).unwrap();
    let done = refused(&site);
    assert!(done.err.contains(&address.to_string()) && done.err.contains("TCP"), "{done:?}");
    drop(tcp);
    // A second server does not share the first one's port.
    let server = site.serve();
    refused(&site);
    assert!(ask(server.address(), &question("blocked.example.org", "A")).is_zero());
    server.stop();
}

#[test]
fn an_address_that_the_machine_lacks_is_an_error() {
    let site = site();
    let listen = format!("\"192.0.2.1:{}\"", site.port());
    let site = site.option("listen", &listen);
    site.build();
    let done = refused(&site);
    assert!(done.err.contains("192.0.2.1") && done.err.contains("ip address"), "{done:?}");
}

#[test]
fn a_store_that_was_never_built_is_an_error_that_says_how_to_build_it() {
    let done = refused(&site());
    assert!(done.err.contains("store") && done.err.contains("corewall build"), "{done:?}");
}

#[test]
fn a_damaged_shard_is_an_error_not_a_server_that_lets_all_pass() {
    let site = site();
    site.build();
    let damaged: Vec<_> = files(&site.path("store"))
        .into_iter()
        .filter(|path| {
            // Filters and places are done without, see `filters.rs` and `in_memory.rs`.
            path.extension()
                .is_some_and(|extension| !["txt", "json", "toml", "filter", "places"].iter().any(|it| extension == *it))
        })
        .collect();
    assert!(damaged.len() >= 16, "{damaged:?}");
    for path in damaged.iter().step_by(7) {
        let whole = fs::read(path).unwrap();
        fs::set_permissions(path, writable(path)).unwrap();
        fs::write(path, &whole[..whole.len() / 2]).unwrap();
        let done = site.run(&["check", "--full"]);
        assert_eq!(done.code, Some(2), "{}: {done:?}", path.display());
        let done = refused(&site);
        let name = path.file_name().unwrap().to_string_lossy().into_owned();
        assert!(done.err.contains(&name), "{name}: {done:?}");
        fs::write(path, &whole).unwrap();
    }
    site.serve().stop();
}

fn writable(path: &std::path::Path) -> fs::Permissions {
    use std::os::unix::fs::PermissionsExt;
    let mut permissions = fs::metadata(path).unwrap().permissions();
    permissions.set_mode(permissions.mode() | 0o200);
    permissions
}

fn files(folder: &std::path::Path) -> Vec<std::path::PathBuf> {
    let mut files: Vec<_> = fs::read_dir(folder)
        .unwrap()
        .flat_map(|entry| {
            let path = entry.unwrap().path();
            let kind = fs::symlink_metadata(&path).unwrap();
            if kind.is_dir() {
                files(&path)
            } else if kind.is_file() {
                vec![path]
            } else {
                Vec::new()
            }
        })
        .collect();
    files.sort();
    files
}

#[test]
fn too_little_memory_that_may_be_locked_is_an_error_that_says_how_to_raise_it() {
    if Command::new("prlimit").arg("--version").output().is_err() {
        return println!("SKIPPED: prlimit is not installed; `apt-get install util-linux`");
    }
    let site = site();
    site.build();
    let config = site.path("corewall.toml");
    let mut command = site.command("prlimit");
    command.args(["--memlock=65536:65536", PROGRAM, "serve", "--config"]).arg(config);
    let done = Process::start(&mut command).finish();
    assert!(done.code.is_some_and(|code| code != 0), "{done:?}");
    assert!(
        done.err.contains("64 KiB") && done.err.contains("ulimit -l") && done.err.contains("LimitMEMLOCK="),
        "{done:?}"
    );
}

#[test]
fn the_ready_line_tells_cores_sockets_rules_and_time() {
    let site = site();
    let server = site.build_and_serve();
    let line = server.ready_line();
    let sockets = format!("{} sockets", 2 * site.addresses().len());
    for part in ["1 worker", "core 0", &sockets, "1 rule", "generation 1", " ms"] {
        assert!(line.contains(part), "`{part}` is not in: {line}");
    }
    assert!(site.addresses().iter().all(|address| line.contains(&address.to_string())), "{line}");
    server.stop();
}

/// As [`held_up_program`] with the program under test.
fn held_up(site: &Site) -> (Process, File) {
    held_up_program(site, PROGRAM)
}

/// A server that reads its store's key from a pipe, and so is held up in its start until the key is written to it.
fn held_up_program(site: &Site, program: &str) -> (Process, File) {
    let key = site.path("store/key");
    fs::rename(&key, site.path("key")).unwrap();
    assert!(Command::new("mkfifo").arg(&key).status().unwrap().success());
    site.write("corewall.toml", site.config());
    let config = site.path("corewall.toml");
    let mut process = Process::start(site.command(program).arg("serve").arg("--config").arg(config));
    let until = Instant::now() + PATIENCE;
    loop {
        // Refused until somebody reads.
        match OpenOptions::new().write(true).custom_flags(libc::O_NONBLOCK).open(&key) {
            Ok(pipe) => return (process, pipe),
            Err(error) => assert!(process.is_running() && Instant::now() < until, "{error}\n{}", process.output()),
        }
        thread::yield_now();
    }
}

#[test]
fn a_reload_asked_for_during_the_start_is_done_after_it() {
    let site = site();
    site.build();
    let (process, mut pipe) = held_up(&site);
    process.signal("HUP");
    let key = fs::read(site.path("key")).unwrap();
    // The reload reads the key from a file again.
    fs::rename(site.path("key"), site.path("store/key")).unwrap();
    pipe.write_all(&key).unwrap();
    drop(pipe);
    assert!(process.out.wait_for("ready", 0).is_some(), "not ready\n{}", process.output());
    assert!(process.err.wait_for("reloaded", 0).is_some(), "not reloaded\n{}", process.output());
    assert!(ask(site.addresses()[0], &question("blocked.example.org", "A")).is_zero());
    process.signal("TERM");
    assert_eq!(process.finish().code, Some(0));
}

#[test]
fn what_is_asked_through_the_control_socket_during_the_start_is_answered_after_it() {
    let site = site();
    site.build();
    let (process, mut pipe) = held_up(&site);
    let status = {
        let mut stream = UnixStream::connect(site.path("control.sock")).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream.write_all(b"{\"version\":1,\"command\":\"status\"}\n").unwrap();
        stream.shutdown(Shutdown::Write).unwrap();
        pipe.write_all(&fs::read(site.path("key")).unwrap()).unwrap();
        drop(pipe);
        io::read_to_string(stream).unwrap()
    };
    assert!(status.starts_with("{\"version\":1,\"answer\":") && status.contains("\"generation\":1"), "{status}");
    process.signal("TERM");
    assert_eq!(process.finish().code, Some(0));
}

#[test]
fn sigterm_and_sigint_during_the_start_are_a_clean_end() {
    for signal in ["TERM", "INT"] {
        let site = site();
        site.build();
        let (process, pipe) = held_up(&site);
        process.signal(signal);
        let done = process.finish();
        assert_eq!((done.code, done.out.as_str()), (Some(0), ""), "{done:?}");
        drop(pipe);
    }
}

/// Publishes a generation whose patterns, one for each of these texts, nobody has compiled.
fn publish_uncompiled(site: &Site, patterns: impl Iterator<Item = String>) {
    let store = Store::create_or_open(&site.path("store")).unwrap();
    let mut builder =
        Builder::new(&store, BuildOptions { shards: 1, threads: Some(1), ..BuildOptions::default() }).unwrap();
    let list = List::named("patterns");
    let list = builder.list(list).unwrap();
    for regex in patterns {
        let class = Class::plain(Kind::Block, Scope::Pattern, list);
        builder.push(&Rule { class, key: RuleKey::Pattern { regex, target: None } }).unwrap();
    }
    builder.finish(&mut |_, _, _| {}).unwrap().publish().unwrap();
}

#[test]
fn patterns_are_compiled_again_in_a_process_of_their_own_when_nobody_has_compiled_them_for_this_machine() {
    let site = Site::new();
    publish_uncompiled(&site, (0..65).map(|number| format!("^ad{number}\\.")));
    let server = site.serve();
    server.wait_for_log("compiling again");
    assert!(ask(server.address(), &question("ad64.example.org", "A")).is_zero());
    assert_eq!(ask(server.address(), &question("bad64.example.org", "A")).rcode, 2, "let pass, but nobody to ask");
    server.stop();

    // A program that cannot be started any more after it has itself been: no process, no patterns.
    let program = site.path("corewall");
    fs::copy(PROGRAM, &program).unwrap();
    let (process, mut pipe) = held_up_program(&site, program.to_str().unwrap());
    fs::set_permissions(&program, fs::Permissions::from_mode(0o600)).unwrap();
    pipe.write_all(&fs::read(site.path("key")).unwrap()).unwrap();
    drop(pipe);
    let done = process.finish();
    assert_eq!(done.code, Some(1), "{done:?}");
    assert!(done.err.contains("cannot compile the patterns"), "{done:?}");
}
