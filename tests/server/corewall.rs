//! Corewall as a process: a folder with configuration and lists, its commands, and the server.

use std::collections::HashMap;
use std::fmt::Write;
use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;

use tempfile::TempDir;

use crate::ports;
use crate::process::{Done, Process};

/// The program under test.
pub const PROGRAM: &str = env!("CARGO_BIN_EXE_corewall");

/// A folder with a configuration. Unless told otherwise: one worker, both loopback addresses, no upstream, a small cache.
pub struct Site {
    folder: Arc<TempDir>,
    port: u16,
    /// Options that stand in front of all tables.
    options: Vec<(String, String)>,
    /// Keys and values of `[cache]`, for it is set here.
    tables: String,
}

impl Site {
    /// Without lists.
    pub fn new() -> Self {
        let port = ports::free();
        let listen: Vec<String> = ports::addresses(port).iter().map(|address| format!("{address:?}")).collect();
        let quoted: Vec<String> = listen.iter().map(|address| format!("\"{address}\"")).collect();
        let options = [
            ("cores", "\"0\"".to_owned()),
            ("listen", format!("[{}]", quoted.join(", "))),
            ("store", "\"store\"".to_owned()),
            ("control_socket", "\"control.sock\"".to_owned()),
            // A machine that runs all tests at once may take long to read a page; what is about this says its own.
            ("store_wait_ms_max", "10000".to_owned()),
            // As long as an answer is taken at all: a slow test machine is not to be asked twice.
            ("upstream_timeout_ms", "1900".to_owned()),
        ];
        let options = options.map(|(key, value)| (key.to_owned(), value)).to_vec();
        let tables = "[cache]\nbytes = \"4 MiB\"\n".to_owned();
        Self { folder: Arc::new(tempfile::tempdir().unwrap()), port, options, tables }
    }

    /// An option outside of all tables; replaces the one before.
    pub fn option(mut self, key: &str, value: &str) -> Self {
        self.options.retain(|(known, _)| known != key);
        self.options.push((key.to_owned(), value.to_owned()));
        self
    }

    /// Tables.
    pub fn toml(mut self, text: &str) -> Self {
        let _ = writeln!(self.tables, "{text}");
        self
    }

    /// Servers of the default group.
    pub fn upstream(self, servers: &[SocketAddr]) -> Self {
        let servers: Vec<String> = servers.iter().map(|server| format!("\"{server}\"")).collect();
        self.toml(&format!("[upstream.default]\nservers = [{}]", servers.join(", ")))
    }

    /// The same, with further lines of the group's table.
    pub fn upstream_group(self, servers: &[SocketAddr], options: &str) -> Self {
        self.upstream(servers).toml(options)
    }

    /// A list with this text. `options` are further lines of its table.
    pub fn list(self, name: &str, format: &str, options: &str, text: &str) -> Self {
        self.write(name, text);
        self.list_file(name, format, options)
    }

    /// A list whose file, of the list's name, is there already or not at all.
    pub fn list_file(self, name: &str, format: &str, options: &str) -> Self {
        self.toml(&format!("[[list]]\nname = \"{name}\"\npath = \"{name}\"\nformat = \"{format}\"\n{options}"))
    }

    /// Writes a file of the folder.
    pub fn write(&self, name: &str, content: impl AsRef<[u8]>) {
        fs::write(self.path(name), content).unwrap();
    }

    /// A path in the folder.
    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// The configuration's text.
    pub fn config(&self) -> String {
        let options: String = self.options.iter().map(|(key, value)| format!("{key} = {value}\n")).collect();
        format!("{options}{}", self.tables)
    }

    /// Writes the configuration and starts a command with it.
    pub fn start(&self, arguments: &[&str]) -> Process {
        self.write("corewall.toml", self.config());
        self.start_as_written(arguments)
    }

    /// Starts a command with the configuration that is there.
    pub fn start_as_written(&self, arguments: &[&str]) -> Process {
        Process::start(self.command(PROGRAM).args(arguments).arg("--config").arg(self.path("corewall.toml")))
    }

    /// A command in the folder.
    pub fn command(&self, program: &str) -> Command {
        let mut command = Command::new(program);
        command.current_dir(self.folder.path()).env_remove("RUST_LOG");
        command
    }

    /// Carries a command out.
    pub fn run(&self, arguments: &[&str]) -> Done {
        self.start(arguments).finish()
    }

    /// Builds a generation and returns the report.
    pub fn build(&self) -> String {
        let done = self.run(&["build"]);
        assert_eq!(done.code, Some(0), "{done:?}");
        done.out
    }

    /// Builds a generation and serves it.
    pub fn build_and_serve(&self) -> Server {
        self.build();
        self.serve()
    }

    /// Serves what has been built.
    pub fn serve(&self) -> Server {
        let mut server = Server::ready(self.start(&["serve"]), self.port);
        server.folder = Some(self.folder.clone());
        server
    }

    /// The port that it listens on.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// The addresses that it listens on.
    pub fn addresses(&self) -> Vec<SocketAddr> {
        ports::addresses(self.port)
    }
}

/// The sample configuration of the repository in a folder of its own, with `store` beside it.
pub fn sample() -> Site {
    let data = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data");
    let text = fs::read_to_string(data.join("sample.toml")).unwrap();
    let is_set_here = |line: &&str| {
        ["cores ", "listen ", "store ", "control_socket ", "servers "].iter().any(|key| line.starts_with(key))
    };
    let lines = text.lines().filter(|line| !is_set_here(line) && *line != "[upstream.default]");
    let absolute = format!("path = \"{}/", data.display());
    let tables: String = lines.map(|line| line.replace("path = \"", &absolute) + "\n").collect();
    assert!(tables.contains("[block]") && tables.contains("name = \"basic\""), "{tables}");
    Site::new().toml(&tables)
}

/// A server that has said `ready`.
pub struct Server {
    process: Process,
    port: u16,
    /// Its store stays as long as it runs: shards are also opened after the start.
    folder: Option<Arc<TempDir>>,
}

impl Server {
    /// One that somebody else has started.
    pub fn ready(process: Process, port: u16) -> Self {
        let ready = process.out.wait_for("ready", 0);
        assert!(ready.is_some_and(|line| line.starts_with("ready")), "not ready\n{}", process.output());
        Self { process, port, folder: None }
    }

    /// IPv4's loopback address with its port.
    pub fn address(&self) -> SocketAddr {
        ports::addresses(self.port)[0]
    }

    /// All its addresses.
    pub fn addresses(&self) -> Vec<SocketAddr> {
        ports::addresses(self.port)
    }

    /// The line that said so.
    pub fn ready_line(&self) -> String {
        self.process.out.wait_for("ready", 0).unwrap()
    }

    /// Sends SIGHUP and waits for what is logged about it.
    pub fn reload(&self) -> String {
        let seen = self.process.err.count();
        self.process.signal("HUP");
        let said = self.process.err.wait_for("reload", seen);
        said.unwrap_or_else(|| panic!("nothing is said of the reload\n{}", self.output()))
    }

    /// Sends a signal.
    pub fn signal(&self, name: &str) {
        self.process.signal(name);
    }

    /// Waits for a line of the log, from its beginning.
    pub fn wait_for_log(&self, text: &str) {
        assert!(self.process.err.wait_for(text, 0).is_some(), "the log lacks `{text}`\n{}", self.output());
    }

    /// Everything it has printed.
    pub fn output(&self) -> String {
        self.process.output()
    }

    /// Whether it is still running.
    pub fn is_running(&mut self) -> bool {
        self.process.is_running()
    }

    /// Its end, that somebody else has brought about.
    pub fn finish(self) -> Done {
        self.process.finish()
    }

    /// Ends it by SIGTERM; returns what it has counted.
    pub fn stop(self) -> Counts {
        self.process.signal("TERM");
        let done = self.process.finish();
        assert_eq!(done.code, Some(0), "{done:?}");
        Counts::of(&done.err)
    }
}

/// What a server has counted, as its last line tells.
#[derive(Debug)]
pub struct Counts(HashMap<String, u64>);

impl Counts {
    /// From a log.
    pub fn of(log: &str) -> Self {
        let line = log.lines().rev().find(|line| line.contains("stopped: ")).unwrap_or_else(|| panic!("no end\n{log}"));
        let parts = line.split_whitespace().filter_map(|part| part.split_once('='));
        Self(parts.filter_map(|(name, count)| Some((name.to_owned(), count.parse().ok()?))).collect())
    }

    /// One of them.
    pub fn get(&self, name: &str) -> u64 {
        self.0.get(name).copied().unwrap_or(0)
    }
}
