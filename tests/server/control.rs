//! The control socket of a running server, and the commands that speak through it.

use std::io::{BufRead, BufReader, ErrorKind, Read, Write};
use std::net::Shutdown;
use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::os::unix::net::UnixStream;
use std::str::FromStr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::{fs, thread};

use corewall::limits::{CONTROL_CONNECTIONS_MAX, CONTROL_REQUEST_BYTES_MAX};
use domain::base::iana::Rcode;
use domain::base::{Message, MessageBuilder, Name, Serial, Ttl};
use domain::rdata::Soa;
use serde_json::Value;

use crate::client::{Reply, UdpClient, ask, question};
use crate::corewall::{PROGRAM, Server, Site};
use crate::process::{Done, PATIENCE, Process};
use crate::upstream::{Asked, Upstream};
use crate::workers::two_cores;

const RIGHT: [u8; 4] = [192, 0, 2, 1];
const STATUS: &[u8] = b"{\"version\":1,\"command\":\"status\"}\n";

fn site() -> Site {
    Site::new().list("rules", "adblock", "", "||blocked.example.org^\n")
}

/// A command that finds the server by its socket: the configuration is not read, be it as broken as it may.
fn control(site: &Site, arguments: &[&str]) -> Done {
    Process::start(site.command(PROGRAM).args(arguments).args(["--control", "control.sock"])).finish()
}

/// What a command prints that must succeed.
fn told(site: &Site, arguments: &[&str]) -> String {
    let done = control(site, arguments);
    assert_eq!((done.code, &*done.err), (Some(0), ""), "{arguments:?}: {done:?}");
    done.out
}

/// The same as JSON.
pub fn json(site: &Site, arguments: &[&str]) -> Value {
    let printed = told(site, &[arguments, &["--json"]].concat());
    serde_json::from_str(&printed).unwrap_or_else(|error| panic!("{arguments:?}: {error}\n{printed}"))
}

/// A connection with the control socket that sees every octet.
struct Connection(BufReader<UnixStream>);

impl Connection {
    fn new(site: &Site) -> Self {
        let stream = UnixStream::connect(site.path("control.sock")).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        Self(BufReader::new(stream))
    }

    fn send(&mut self, octets: &[u8]) {
        self.0.get_mut().write_all(octets).unwrap();
    }

    fn say_no_more(&self) {
        self.0.get_ref().shutdown(Shutdown::Write).unwrap();
    }

    /// The next answer; none when the server has closed the connection.
    fn answer(&mut self) -> Option<Value> {
        let mut line = String::new();
        match self.0.read_line(&mut line) {
            Ok(0) => None,
            Ok(_) => Some(serde_json::from_str(&line).unwrap_or_else(|error| panic!("{error}: {line}"))),
            Err(error) => {
                assert!([ErrorKind::ConnectionReset, ErrorKind::BrokenPipe].contains(&error.kind()), "{error}");
                None
            }
        }
    }

    /// The kind of the refusal that comes next.
    fn refusal(&mut self) -> String {
        let answer = self.answer().expect("the server has closed the connection");
        assert!(answer["error"]["message"].as_str().is_some_and(|message| message.len() > 10), "{answer}");
        answer["error"]["kind"].as_str().unwrap_or_else(|| panic!("no refusal: {answer}")).to_owned()
    }

    fn is_status(&mut self) -> bool {
        self.answer().is_some_and(|answer| answer["version"] == 1 && answer["answer"]["pid"].is_u64())
    }
}

/// A server with an upstream that is asked what is not cached.
struct Resolving {
    site: Site,
    server: Server,
    upstream: Upstream,
    client: UdpClient,
}

impl Resolving {
    fn new() -> Self {
        let upstream = Upstream::new();
        let site = site().upstream(&[upstream.address()]);
        let server = site.build_and_serve();
        let client = UdpClient::new(server.address());
        Self { site, server, upstream, client }
    }

    /// The upstream is asked, and what it says is answered.
    fn is_resolved(&self, name: &str) {
        self.client.send(&question(name, "A").to_wire(1));
        let asked = self.upstream.hear();
        assert_eq!(asked.name().to_lowercase(), name);
        self.upstream.answer(&asked, RIGHT);
        assert_eq!(Reply::parse(&self.client.receive()).data(), ["A 192.0.2.1"], "{name}");
    }

    /// The cache answers.
    fn is_cached(&self, name: &str) {
        assert_eq!(self.client.ask(&question(name, "A")).data(), ["A 192.0.2.1"], "{name}");
        assert!(self.upstream.is_not_asked(), "{name}");
    }

    /// Flushes, and returns how many answers are gone.
    fn flush(&self, arguments: &[&str]) -> u64 {
        json(&self.site, &[&["cache", "flush"], arguments].concat())["removed"].as_u64().unwrap()
    }
}

/// A negative answer that may be cached (RFC 2308 §2.2).
fn no_data(asked: &Asked) -> Vec<u8> {
    let message = Message::from_octets(&asked.wire[..]).unwrap();
    let zone = Name::<Vec<u8>>::from_str("example.org").unwrap();
    let mut answer = MessageBuilder::new_vec().start_answer(&message, Rcode::NOERROR).unwrap().authority();
    let hour = Ttl::from_secs(3_600);
    let soa = Soa::new(zone.clone(), zone.clone(), Serial(1), hour, hour, hour, hour);
    answer.push((zone, hour, soa)).unwrap();
    answer.finish()
}

#[test]
fn a_flush_makes_the_next_question_go_upstream_again_and_leaves_the_other_names_cached() {
    const NAMES: [&str; 4] = ["example.org", "www.example.org", "a.www.example.org", "wwwexample.org"];
    let it = Resolving::new();
    NAMES.iter().for_each(|name| it.is_resolved(name));
    NAMES.iter().for_each(|name| it.is_cached(name));
    for (arguments, gone) in [
        (&["www.example.org"][..], &NAMES[1..2]),
        // As it may be written.
        (&["WWW.Example.org."], &NAMES[1..2]),
        (&["--subtree", "www.example.org"], &NAMES[1..3]),
        (&["--subtree", "example.org"], &NAMES[..3]),
        (&["--subtree", "."], &NAMES[..]),
        (&["--all"], &NAMES[..]),
        (&["elsewhere.example.org"], &[]),
    ] {
        assert_eq!(it.flush(arguments), gone.len() as u64, "{arguments:?}");
        NAMES.iter().filter(|name| !gone.contains(name)).for_each(|name| it.is_cached(name));
        gone.iter().for_each(|name| it.is_resolved(name));
        NAMES.iter().for_each(|name| it.is_cached(name));
    }
    assert_eq!(it.flush(&["--all"]), 4);
    assert_eq!(it.flush(&["--all"]), 0);
    it.server.stop();
}

#[test]
fn a_flush_forgets_every_type_and_negative_answers_too_and_tells_what_it_did() {
    let it = Resolving::new();
    it.is_resolved("www.example.org");
    it.client.send(&question("www.example.org", "AAAA").to_wire(2));
    let asked = it.upstream.hear();
    it.upstream.say(&asked, &no_data(&asked));
    assert_eq!(Reply::parse(&it.client.receive()).authorities.len(), 1);
    assert_eq!(it.client.ask(&question("www.example.org", "AAAA")).authorities.len(), 1);
    assert!(it.upstream.is_not_asked());
    let said = told(&it.site, &["cache", "flush", "www.example.org"]);
    assert!(said.starts_with("removed 2 entries: 2 on core 0"), "{said}");
    it.is_resolved("www.example.org");
    let said = told(&it.site, &["cache", "flush", "www.example.org"]);
    assert!(said.starts_with("removed 1 entry: 1 on core 0"), "{said}");
    for wrong in [&["cache", "flush"][..], &["cache", "flush", "a..b"], &["cache", "flush", "a.example", "--all"]] {
        assert_eq!(control(&it.site, wrong).code, Some(2), "{wrong:?}");
    }
    assert_eq!(it.server.stop().get("cache_flushed"), 3);
}

#[test]
fn status_and_cache_stats_tell_what_has_been_counted() {
    let it = Resolving::new();
    it.is_resolved("a.example.org");
    it.is_cached("a.example.org");
    assert!(it.client.ask(&question("blocked.example.org", "A")).is_zero());
    let status = json(&it.site, &["status"]);
    assert_eq!(status["program_version"], env!("CARGO_PKG_VERSION"));
    assert_eq!(status["listen"].as_array().unwrap().len(), it.server.addresses().len());
    let [worker] = &status["workers"].as_array().unwrap()[..] else { panic!("{status}") };
    let fields = ["core", "generation", "rules", "queries_waiting", "tcp_connections"].map(|field| &worker[field]);
    assert_eq!(fields, [0, 1, 1, 0, 0], "{status}");
    for (counter, value) in [("received", 3), ("udp_received", 3), ("cache_hits", 1), ("blocked", 1), ("exchanges", 1)]
    {
        assert_eq!(status["counters"][counter], value, "{counter}: {status}");
    }
    // The answer from upstream and the blocked one.
    let stats = json(&it.site, &["cache", "stats"]);
    let cache = &stats["workers"][0]["cache"];
    assert_eq!((&cache["entries"], &stats["counters"]["cache_hits"]), (&Value::from(2), &Value::from(1)), "{stats}");
    assert!(cache["bytes_used"].as_u64().is_some_and(|used| used > 0 && used < 4 << 20), "{stats}");

    // A query that waits, and the second generation.
    it.client.send(&question("waiting.example.org", "A").to_wire(3));
    let asked = it.upstream.hear();
    it.site.write("rules", "||blocked.example.org^\n||more.example.org^\n");
    it.site.build();
    assert!(it.server.reload().contains("reloaded"));
    let status = json(&it.site, &["status"]);
    let fields = ["generation", "rules", "queries_waiting"].map(|field| &status["workers"][0][field]);
    assert_eq!(fields, [2, 2, 1], "{status}");
    it.upstream.answer(&asked, RIGHT);
    it.client.receive();
    for (arguments, parts) in [
        (&["status"][..], &["corewall 0.", "listens on 127.0.0.1:", "generation", "cache_hits"][..]),
        (&["cache", "stats"], &["entries", "cache_hits"]),
    ] {
        let said = told(&it.site, arguments);
        parts.iter().for_each(|part| assert!(said.contains(part), "`{part}` is not in: {said}"));
    }
    it.server.stop();
}

#[test]
fn upstreams_tells_each_server_with_its_group_and_what_was_found_out_about_it() {
    let it = Resolving::new();
    let servers = |it: &Resolving| json(&it.site, &["upstreams"])["servers"].as_array().unwrap().clone();
    let [server] = &servers(&it)[..] else { panic!("{:?}", servers(&it)) };
    assert_eq!(server["address"], it.upstream.address().to_string());
    assert_eq!(server["groups"], Value::from(vec!["default"]));
    assert_eq!(
        (&server["workers"][0]["answers"], &server["workers"][0]["round_trip_us"]),
        (&Value::from(0), &Value::Null)
    );
    it.is_resolved("a.example.org");
    it.is_resolved("b.example.org");
    let [server] = &servers(&it)[..] else { panic!("{:?}", servers(&it)) };
    let found = &server["workers"][0];
    assert_eq!(["core", "answers", "timeouts", "failures"].map(|field| &found[field]), [0, 2, 0, 0], "{found}");
    assert!(found["round_trip_us"].is_u64() && found["is_down"] == false, "{found}");
    let said = told(&it.site, &["upstreams"]);
    assert!(said.contains("default") && said.contains(&it.upstream.address().to_string()), "{said}");
    it.server.stop();
}

#[test]
fn a_flush_reaches_every_worker_while_they_are_busy_and_no_question_is_lost() {
    let Some([first, second]) = two_cores() else { return };
    let upstream = Upstream::new();
    let site = site().upstream(&[upstream.address()]).option("cores", &format!("[{first}, {second}]"));
    let server = site.build_and_serve();
    let is_over = AtomicBool::new(false);
    thread::scope(|scope| {
        let clients: Vec<_> = (0..4)
            .map(|client| {
                let (server, is_over) = (&server, &is_over);
                scope.spawn(move || {
                    let mut asked = 0;
                    while !is_over.load(Ordering::Relaxed) {
                        // A missing or a wrong reply fails here. Each port is of one worker: so both get some.
                        let name = format!("n{}.busy.example.org", (asked + client) % 8);
                        assert_eq!(ask(server.address(), &question(&name, "A")).data(), ["A 192.0.2.1"]);
                        asked += 1;
                    }
                    asked
                })
            })
            .collect();
        let flusher = scope.spawn(|| {
            let mut removed = [0, 0];
            // Until both workers have had to forget something.
            while removed.contains(&0) {
                let flushed = json(&site, &["cache", "flush", "--subtree", "busy.example.org"]);
                let parts = flushed["workers"].as_array().unwrap();
                assert_eq!(parts.len(), 2, "{flushed}");
                for (sum, part) in removed.iter_mut().zip(parts) {
                    *sum += part["removed"].as_u64().unwrap();
                }
                let status = json(&site, &["status"]);
                assert_eq!(status["workers"].as_array().unwrap().len(), 2, "{status}");
            }
            is_over.store(true, Ordering::Relaxed);
            removed
        });
        while !(flusher.is_finished() && clients.iter().all(|client| client.is_finished())) {
            while !upstream.is_not_asked() {
                upstream.answer(&upstream.hear(), RIGHT);
            }
            thread::yield_now();
        }
        let asked: u64 = clients.into_iter().map(|client| client.join().unwrap()).sum();
        assert!(asked > 0);
        assert!(flusher.join().unwrap().iter().all(|&removed| removed > 0));
    });
    server.stop();
}

#[test]
fn malformed_oversize_and_half_lines_are_answered_and_harm_nobody() {
    let site = site();
    let server = site.build_and_serve();
    let mut connection = Connection::new(&site);
    for nonsense in [
        &b"\n"[..],
        b"hello\n",
        b"GET / HTTP/1.1\r\n",
        b"{\"version\":1,\"command\":\"reboot\"}\n",
        b"{\"version\":1,\"command\":\"cache-flush\",\"what\":{\"name\":\"a..b\"}}\n",
        b"\x00\xff\xfe\n",
        &[&[b'['; 20_000][..], b"\n"].concat(),
    ] {
        connection.send(nonsense);
        assert_eq!(connection.refusal(), "malformed");
    }
    connection.send(b"{\"version\":7,\"command\":\"status\"}\n");
    assert_eq!(connection.refusal(), "version");
    // Several in one piece, one in several pieces, the last one without its end.
    connection.send(&[STATUS, STATUS].concat());
    assert!(connection.is_status() && connection.is_status());
    STATUS.chunks(5).for_each(|piece| connection.send(piece));
    assert!(connection.is_status());
    connection.send(&STATUS[..STATUS.len() - 1]);
    connection.say_no_more();
    assert!(connection.is_status());
    assert_eq!(connection.answer(), None);
    for length in [1, STATUS.len() / 2, STATUS.len() - 2] {
        let mut half = Connection::new(&site);
        half.send(&STATUS[..length]);
        half.say_no_more();
        assert_eq!(half.refusal(), "malformed");
        assert_eq!(half.answer(), None);
    }
    let mut long = Connection::new(&site);
    long.send(&vec![b' '; CONTROL_REQUEST_BYTES_MAX + 1]);
    assert_eq!(long.refusal(), "malformed");
    long.say_no_more();
    assert_eq!(long.answer(), None);
    // One that goes away in the middle of its request, and one that does not wait for the answer.
    Connection::new(&site).send(&STATUS[..9]);
    Connection::new(&site).send(STATUS);
    assert!(told(&site, &["status"]).contains("corewall"));
    assert!(ask(server.address(), &question("blocked.example.org", "A")).is_zero());
    server.stop();
}

#[test]
fn one_connection_too_many_is_told_so_and_a_client_that_never_reads_holds_nobody_up() {
    let site = site();
    let server = site.build_and_serve();
    let mut open: Vec<Connection> = (0..CONTROL_CONNECTIONS_MAX).map(|_| Connection::new(&site)).collect();
    // When the last one is answered all of them have been accepted.
    open[CONTROL_CONNECTIONS_MAX - 1].send(STATUS);
    assert!(open[CONTROL_CONNECTIONS_MAX - 1].is_status());
    let mut surplus = Connection::new(&site);
    assert_eq!(surplus.refusal(), "busy");
    assert_eq!(surplus.answer(), None);
    let done = control(&site, &["status"]);
    assert_eq!(done.code, Some(1), "{done:?}");
    assert!(done.err.contains("connections are open"), "{done:?}");
    assert!(ask(server.address(), &question("blocked.example.org", "A")).is_zero());
    for connection in &mut open {
        connection.send(STATUS);
        assert!(connection.is_status());
    }
    // All but one go. Their places are free when their threads have seen it.
    open.truncate(1);
    while control(&site, &["status"]).code != Some(0) {}

    // It asks until nobody takes its questions any more: the server waits for it to read.
    let deaf = open.remove(0).0.into_inner();
    deaf.set_nonblocking(true).unwrap();
    let error = loop {
        if let Err(error) = (&deaf).write_all(STATUS) {
            break error;
        }
    };
    assert!([ErrorKind::WouldBlock, ErrorKind::BrokenPipe].contains(&error.kind()), "{error}");
    assert!(told(&site, &["status"]).contains("corewall"));
    assert!(ask(server.address(), &question("blocked.example.org", "A")).is_zero());
    // It does not keep the server from ending either.
    server.stop();
    deaf.set_nonblocking(false).unwrap();
    deaf.set_read_timeout(Some(PATIENCE)).unwrap();
    let mut heard = Vec::new();
    let _ = (&deaf).read_to_end(&mut heard);
    assert!(heard.starts_with(b"{\"version\":1,\"answer\":"));
}

#[test]
fn the_socket_is_its_owner_s_alone_and_goes_with_the_server() {
    let site = site();
    let server = site.build_and_serve();
    let socket = fs::metadata(site.path("control.sock")).unwrap();
    assert!(socket.file_type().is_socket());
    assert_eq!(socket.permissions().mode() & 0o777, 0o600);
    server.stop();
    assert!(!site.path("control.sock").exists());
    // One that was killed leaves it, and the next one takes its place.
    let server = site.serve();
    server.signal("KILL");
    server.finish();
    assert!(site.path("control.sock").exists());
    let done = control(&site, &["status"]);
    assert!(done.code == Some(1) && done.err.contains("no server listens on control.sock"), "{done:?}");
    let server = site.serve();
    assert!(told(&site, &["status"]).contains("corewall"));
    server.stop();
}

#[test]
fn a_second_server_on_the_same_socket_is_refused_and_the_first_one_goes_on() {
    let site = site();
    let server = site.build_and_serve();
    let socket = format!("{:?}", site.path("control.sock"));
    let other = self::site().option("control_socket", &socket);
    other.build();
    let done = other.run(&["serve"]);
    assert_eq!(done.code, Some(1), "{done:?}");
    assert!(done.err.contains("error: another server listens on the control socket"), "{done:?}");
    assert!(told(&site, &["status"]).contains("corewall"));
    // Where a file is that is no socket, it stays.
    other.write("precious", "a file");
    let other = other.option("control_socket", "\"precious\"");
    let done = other.run(&["serve"]);
    assert!(done.code == Some(1) && done.err.contains("a file that is no socket is there"), "{done:?}");
    assert_eq!(fs::read(other.path("precious")).unwrap(), b"a file");
    server.stop();
}

#[test]
fn a_reload_waits_for_its_outcome_and_tells_a_failure_with_its_reason() {
    let site = site();
    let server = site.build_and_serve();
    site.write("rules", "||turning.example.org^\n||more.example.org^\n");
    site.build();
    assert_eq!(ask(server.address(), &question("turning.example.org", "A")).rcode, 2);
    let reloaded = json(&site, &["reload"]);
    assert_eq!((&reloaded["generation"], &reloaded["rules"]), (&Value::from(2), &Value::from(2)), "{reloaded}");
    // Without waiting for anything else.
    assert!(ask(server.address(), &question("turning.example.org", "A")).is_zero());
    for (broken, said) in [
        ("cores = \"0\"\ncolour = \"blue\"\n", "corewall.toml:2: unknown key `colour`"),
        ("store = \"nowhere\"\n", "nowhere"),
    ] {
        site.write("corewall.toml", broken);
        let done = control(&site, &["reload"]);
        assert_eq!((done.code, &*done.out), (Some(1), ""), "{done:?}");
        assert!(done.err.starts_with("error: reload failed, serving as before: "), "{done:?}");
        assert!(done.err.contains(said), "{done:?}");
        assert!(ask(server.address(), &question("turning.example.org", "A")).is_zero());
    }
    site.write("corewall.toml", site.config().replace("4 MiB", "5 MiB"));
    let said = told(&site, &["reload"]);
    assert!(said.starts_with("reloaded in ") && said.contains("changed at a restart only: cache.bytes"), "{said}");
    // Many at a time, and SIGHUPs between them: each is told of one that began after it was asked for.
    thread::scope(|scope| {
        let askers: Vec<_> = (0..4).map(|_| scope.spawn(|| json(&site, &["reload"])["generation"].clone())).collect();
        server.signal("HUP");
        askers.into_iter().for_each(|asker| assert_eq!(asker.join().unwrap(), 2));
    });
    assert!(ask(server.address(), &question("turning.example.org", "A")).is_zero());
    server.stop();
}

#[test]
fn stop_ends_the_server_and_comes_back_when_it_has_ended() {
    let site = site();
    let mut server = site.build_and_serve();
    assert!(server.is_running());
    let said = told(&site, &["stop"]);
    assert!(said.starts_with("stopped: process "), "{said}");
    assert!(!site.path("control.sock").exists());
    let done = server.finish();
    assert_eq!(done.code, Some(0), "{done:?}");
    assert!(done.err.contains("asked through the control socket"), "{done:?}");
    let done = control(&site, &["stop"]);
    assert_eq!(done.code, Some(1), "{done:?}");
}

#[test]
fn commands_say_in_plain_words_that_no_server_can_be_spoken_to() {
    let site = site();
    for command in
        [&["status"][..], &["cache", "stats"], &["cache", "flush", "--all"], &["upstreams"], &["reload"], &["stop"]]
    {
        let done = site.run(command);
        assert_eq!((done.code, &*done.out), (Some(1), ""), "{command:?}: {done:?}");
        let said = format!("error: no server listens on {}", site.path("control.sock").display());
        assert!(done.err.starts_with(&said) && done.err.contains("control_socket = "), "{command:?}: {done:?}");
    }
    let site = site.option("control_socket", "\"\"");
    let done = site.run(&["status"]);
    assert!(done.code == Some(2) && done.err.contains("control_socket is empty in "), "{done:?}");
    // A server without one serves all the same.
    let server = site.build_and_serve();
    assert!(ask(server.address(), &question("blocked.example.org", "A")).is_zero());
    assert!(!site.path("control.sock").exists());
    server.stop();
}
