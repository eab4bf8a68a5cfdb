//! Floor and Corewall as the tools start them: on the same cores and the same address, one after the other.
//!
//! Invariant: what is started here ends with the value that stands for it.

use std::error::Error;
use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use crate::load::{self, LoadOptions, LoadReport, Until};
use crate::process;
use crate::questions::{PacketOptions, Questions};
use crate::server::{self, Server};

/// Passes over the names before cached answers are measured; the last one must be clean.
const WARM_UP_PASSES: usize = 3;
/// Open questions while warming up: an upstream on one core is not to be flooded.
const WARM_UP_WINDOW: usize = 32;
/// Longer than a first answer takes that has to come from upstream.
pub const ANSWER_TIMEOUT: Duration = Duration::from_secs(3);

/// Where servers are started, and with what.
#[derive(Clone, Debug)]
pub struct Place {
    /// Corewall's binary.
    pub corewall: PathBuf,
    /// Folder written by bench/names.sh.
    pub names: PathBuf,
    /// Store built from that folder's union.txt.
    pub store: PathBuf,
    /// Folder for configurations and logs.
    pub work: PathBuf,
    /// Address of the server under test.
    pub listen: SocketAddr,
    /// Address of the upstream.
    pub upstream: SocketAddr,
    /// The only core that any thread of a server may run on; none leaves those that are no workers to the kernel.
    pub confined_to: Option<usize>,
}

/// What Corewall is started with beside its place.
#[derive(Clone, Debug, Default)]
pub struct CorewallOptions {
    /// The option `wait`; none leaves it at the binary's default.
    pub wait: Option<String>,
    /// The option `control_socket`; none means no socket.
    pub control: Option<PathBuf>,
}

impl Place {
    /// Says what is missing, and makes the folder for logs.
    pub fn check(&self) -> Result<(), Box<dyn Error>> {
        for needed in [&self.corewall, &self.names.join("union.txt"), &self.store] {
            if !needed.exists() {
                return Err(format!("{} is missing; `make bench` makes it", needed.display()).into());
            }
        }
        fs::create_dir_all(&self.work).map_err(|error| format!("{}: {error}", self.work.display()).into())
    }

    /// One reflector on each of `cores`, all on one address.
    pub fn start_floor(&self, cores: &[usize], spin: bool) -> Result<Vec<Server>, Box<dyn Error>> {
        server::await_free(self.listen)?;
        let start = |core: &usize| {
            // Cargo puts the binaries of one package side by side.
            let mut command = self.command(&std::env::current_exe()?.with_file_name("reflector"));
            command.args(["--listen", &self.listen.to_string(), "--core", &core.to_string()]);
            if spin {
                command.arg("--spin");
            }
            Ok(Server::start(command, &self.work.join(format!("reflector-{core}.log")))?)
        };
        cores.iter().map(start).collect()
    }

    /// Corewall with a worker on each of `cores`.
    pub fn start_corewall(&self, cores: &[usize], options: &CorewallOptions) -> Result<Server, Box<dyn Error>> {
        server::await_free(self.listen)?;
        let cores: Vec<String> = cores.iter().map(ToString::to_string).collect();
        let (store, union) = (fs::canonicalize(&self.store)?, fs::canonicalize(self.names.join("union.txt"))?);
        let (listen, upstream) = (self.listen.to_string(), self.upstream.to_string());
        let mut config = server::corewall_config(&cores.join(","), &listen, &store, &union, &upstream);
        if let Some(wait) = &options.wait {
            // Before the first table.
            config = format!("wait = \"{wait}\"\n{config}");
        }
        if let Some(control) = &options.control {
            config = config.replace("control_socket = \"\"", &format!("control_socket = \"{}\"", control.display()));
        }
        let path = fs::canonicalize(&self.work)?.join("corewall.toml");
        fs::write(&path, config)?;
        let mut command = self.command(&self.corewall);
        command.arg("serve").arg("--config").arg(path);
        Ok(Server::start(command, &self.work.join("corewall.log"))?)
    }

    /// Asks each name until all are answered from the cache, then stops the upstream. Both run on `core`.
    pub fn warm_up(&self, questions: &Questions, core: usize) -> Result<(), Box<dyn Error>> {
        let mut command = Command::new("taskset");
        command.args(["-c", &core.to_string(), "bench/nsd/wildcard.sh"]);
        command.arg(format!("{}@{}", self.upstream.ip(), self.upstream.port()));
        command.arg(self.names.join("root.zone"));
        let upstream = Server::start_answering(command, &self.work.join("nsd.log"), self.upstream)?;
        let load = LoadOptions { window: WARM_UP_WINDOW, spin: false, ..self.load_options() };
        for pass in 1..=WARM_UP_PASSES {
            let report = on_core(core, || load::run(questions, &load, Until::EachAsked))?;
            if pass == WARM_UP_PASSES && !report.is_clean() {
                return Err(format!("the names could not all be cached:\n{}", report.to_text()).into());
            }
        }
        upstream.stop()?;
        Ok(())
    }

    /// The questions of a mix, at most so many, in the order of a fixed seed.
    pub fn questions(&self, mix: &str, names_max: usize) -> Result<Questions, Box<dyn Error>> {
        let path = self.names.join(format!("{mix}.names"));
        let fail = |reason: String| format!("{}: {reason}", path.display());
        let text = fs::read_to_string(&path).map_err(|error| fail(error.to_string()))?;
        let some: Vec<&str> = text.lines().take(names_max).collect();
        let packets = PacketOptions { recursion_desired: true, seed: 1, ..Default::default() };
        Ok(Questions::parse(&some.join("\n"), packets)
            .map_err(|(line, reason)| fail(format!("line {line}: {reason}")))?)
    }

    /// A load on the server of this place: one spinning socket, every answer checked.
    pub fn load_options(&self) -> LoadOptions {
        LoadOptions {
            server: self.listen,
            window: 128,
            sockets: 1,
            batch: 32,
            rate: None,
            timeout: ANSWER_TIMEOUT,
            spin: true,
            any_answer: false,
            server_pid: None,
            server_thread: None,
            phase_ends: Vec::new(),
        }
    }

    /// `taskset` becomes the program, so the process is the server's.
    fn command(&self, program: &Path) -> Command {
        let Some(core) = self.confined_to else { return Command::new(program) };
        let mut command = Command::new("taskset");
        command.args(["-c", &core.to_string()]).arg(program);
        command
    }
}

/// Carries a load out on `core`.
pub fn on_core(
    core: usize,
    load: impl FnOnce() -> std::io::Result<LoadReport> + Send,
) -> Result<LoadReport, Box<dyn Error>> {
    Ok(process::on_core(core, load)??)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn place(confined_to: Option<usize>) -> Place {
        Place {
            corewall: "/no/corewall".into(),
            names: "/no/names".into(),
            store: "/no/store".into(),
            work: "/no/work".into(),
            listen: "127.0.0.1:5399".parse().unwrap(),
            upstream: "127.0.0.1:5398".parse().unwrap(),
            confined_to,
        }
    }

    #[test]
    fn a_confined_server_is_started_on_its_core() {
        let told = |core| format!("{:?}", place(core).command(Path::new("reflector")));
        assert_eq!(told(None), r#""reflector""#);
        assert_eq!(told(Some(3)), r#""taskset" "-c" "3" "reflector""#);
    }

    #[test]
    fn what_is_missing_is_told_with_the_remedy() {
        let error = place(None).check().unwrap_err().to_string();
        assert!(error.contains("/no/corewall") && error.contains("make bench"), "{error}");
    }
}
