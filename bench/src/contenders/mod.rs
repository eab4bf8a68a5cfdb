//! The servers that are compared: how each is configured, started, and asked for its version.
//!
//! All get the same: one thread on one core, UDP and TCP on one loopback address, the same upstreams for everything that is not
//! blocked, caches of the same size, no validation, no limit of rates, no log of questions. Peers block the names of
//! [`Site::blocked`] in the way that costs them least among those that their manuals name for it; Corewall has a store.
//!
//! Invariant: a contender that has started answers, and blocks the first and the last name of its list.

mod bind9;
mod dnsdist;
mod dnsmasq;
mod knot_resolver;
mod pdns_recursor;
mod policy_zone;
mod unbound;

use std::error::Error;
use std::fs;
use std::io;
use std::net::SocketAddr;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;

use crate::figures::first_line;
use crate::questions::{PacketOptions, Questions};
use crate::server::{self, Server};

/// The configuration under which Corewall is compared.
const COREWALL_CONFIG: &str = include_str!("../../contender.toml.in");
/// Where programs of administrators lie that a user's PATH may lack.
const SBIN: [&str; 3] = ["/usr/sbin", "/usr/local/sbin", "/sbin"];
/// The peers in the order in which they are told.
pub const PEERS: [&Peer; 6] = [
    &unbound::UNBOUND,
    &dnsdist::DNSDIST,
    &pdns_recursor::PDNS_RECURSOR,
    &knot_resolver::KNOT_RESOLVER,
    &bind9::BIND9,
    &dnsmasq::DNSMASQ,
];

/// One of the compared.
#[derive(Clone, Copy, Debug)]
pub enum Contender {
    /// The floor: sends questions back.
    Reflector,
    /// The server under test.
    Corewall,
    /// Another DNS server.
    Peer(&'static Peer),
}

/// What is particular to a peer. Its configuration is made for a folder of its own.
#[derive(Debug)]
pub struct Peer {
    /// As it is called here: its Debian package but for a suffix.
    name: &'static str,
    /// The Debian package that has it.
    package: &'static str,
    /// Its program.
    program: &'static str,
    /// Makes it tell its version.
    version_argument: &'static str,
    /// Its configuration, each file by its name; the first is told in reports.
    configs: fn(&Site, &Path) -> Vec<(&'static str, String)>,
    /// The list of names to block as it reads it, in the file [`BLOCKED`] of its folder.
    blocked: fn(&[String]) -> String,
    /// Its command line.
    arguments: fn(&Path) -> Vec<String>,
}

/// The file of the names to block in a peer's folder.
const BLOCKED: &str = "blocked";

/// What a contender is started with.
#[derive(Clone, Debug)]
pub struct Site {
    /// Corewall's binary.
    pub corewall: PathBuf,
    /// Store built by `corewall build`.
    pub store: PathBuf,
    /// The list it was built from.
    pub rules: PathBuf,
    /// Names that peers block, all of them in Corewall's store.
    pub blocked: Arc<Vec<String>>,
    /// Folder for configurations and logs.
    pub work: PathBuf,
    /// Cores of the server's threads, such as `0` or `0-1`.
    pub cores: String,
    /// Address to answer on.
    pub listen: SocketAddr,
    /// Servers to forward to.
    pub upstreams: Vec<SocketAddr>,
    /// Corewall's `strategy` of the upstream group; none leaves the line out.
    pub strategy: Option<String>,
    /// Kibibytes of cache.
    pub cache_kib: u64,
}

impl Contender {
    /// A peer by its name.
    pub fn peer(name: &str) -> Result<Self, String> {
        PEERS
            .into_iter()
            .find(|peer| peer.name == name)
            .map(Self::Peer)
            .ok_or_else(|| format!("no peer `{name}`; known are {}", PEERS.map(|peer| peer.name).join(", ")))
    }

    /// As it is called on the command line and in results.
    pub fn name(self) -> &'static str {
        match self {
            Self::Reflector => "floor",
            Self::Corewall => "corewall",
            Self::Peer(peer) => peer.name,
        }
    }

    /// Its program, or how to get it.
    pub fn program(self, site: &Site) -> Result<PathBuf, String> {
        match self {
            // Cargo puts the binaries of one package side by side.
            Self::Reflector => {
                Ok(std::env::current_exe().map_err(|error| error.to_string())?.with_file_name("reflector"))
            }
            Self::Corewall => Ok(site.corewall.clone()),
            Self::Peer(peer) => find_program(peer.program)
                .ok_or_else(|| format!("{} is not installed; on Debian: apt-get install {}", peer.name, peer.package)),
        }
    }

    /// The first line of what it says of its version; none for the floor, which is of this commit.
    pub fn version(self, site: &Site) -> Result<Option<String>, String> {
        let argument = match self {
            Self::Reflector => return Ok(None),
            Self::Corewall => "--version",
            Self::Peer(peer) => peer.version_argument,
        };
        let said = first_line(Command::new(self.program(site)?).arg(argument));
        // One tells the time before it.
        let begin = said.find("PowerDNS").unwrap_or_default();
        Ok(Some(said[begin..].to_owned()))
    }

    /// Its configuration for a report: paths begin where the measurement was started.
    pub fn told_config(self, site: &Site) -> Option<String> {
        let here = std::env::current_dir().map(|here| here.display().to_string()).unwrap_or_default();
        let config = match self {
            Self::Reflector => return None,
            Self::Corewall => corewall_config(site),
            Self::Peer(peer) => (peer.configs)(site, &site.work.join(peer.name)).swap_remove(0).1,
        };
        Some(if here.is_empty() { config } else { config.replace(&here, ".") })
    }

    /// Starts it and waits until it answers; peers need an upstream that does.
    pub fn start(self, site: &Site) -> Result<Server, Box<dyn Error>> {
        server::await_free(site.listen)?;
        let work = fs::canonicalize(&site.work)?;
        let log = work.join(format!("{}.log", self.name()));
        // Each program becomes the next one, so the process id is the server's. Threads that are no workers stay on the
        // cores too, and a measurement that is killed leaves no server behind.
        let mut command = Command::new("setpriv");
        command.args(["--pdeathsig", "TERM", "taskset", "-c", &site.cores]).arg(self.program(site)?).process_group(0);
        match self {
            Self::Reflector => {
                command.args(["--listen", &site.listen.to_string(), "--core", &site.cores]);
                Ok(Server::start(command, &log)?)
            }
            Self::Corewall => {
                let config = work.join("corewall.conf");
                fs::write(&config, corewall_config(site))?;
                command.arg("serve").arg("--config").arg(config);
                Ok(Server::start(command, &log)?)
            }
            Self::Peer(peer) => {
                let folder = work.join(peer.name);
                peer.write_files(site, &folder)?;
                command.args((peer.arguments)(&folder)).current_dir(&folder);
                let server = Server::start_answering(command, &log, site.listen)?;
                // Some answer before they have read what they shall block.
                for name in site.blocked.first().into_iter().chain(site.blocked.last()) {
                    server.await_right(site.listen, &blocked_question(name)?)?;
                }
                Ok(server)
            }
        }
    }
}

impl Peer {
    fn write_files(&self, site: &Site, folder: &Path) -> io::Result<()> {
        // What a run before has left, such as a cache in a file, is not to help this one.
        match fs::remove_dir_all(folder) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => fs::create_dir_all(folder)?,
        }
        fs::write(folder.join(BLOCKED), (self.blocked)(&site.blocked))?;
        (self.configs)(site, folder).into_iter().try_for_each(|(name, text)| fs::write(folder.join(name), text))
    }
}

fn blocked_question(name: &str) -> Result<Questions, String> {
    let options = PacketOptions { recursion_desired: true, ..Default::default() };
    Questions::parse(&format!("{name} A blocked"), options).map_err(|(_, reason)| reason)
}

/// The program of this name on PATH or where administrators have theirs.
pub fn find_program(name: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let places = std::env::split_paths(&path).chain(SBIN.map(PathBuf::from));
    places.map(|place| place.join(name)).find(|program| program.is_file())
}

/// Builds a store of the list `site.rules` into `site.store`, with these arguments more.
pub fn build_store(site: &Site, arguments: &[&str]) -> Result<(), Box<dyn Error>> {
    fs::create_dir_all(&site.store)?;
    let config = fs::canonicalize(&site.work)?.join("build.conf");
    // Without the strategy: whether the binary knows that option is not the question here.
    fs::write(&config, corewall_config(&Site { strategy: None, ..site.clone() }))?;
    let mut command = Command::new(&site.corewall);
    command.arg("build").arg("--store").arg(&site.store).arg("--config").arg(&config).args(arguments);
    let built = command.output()?;
    if !built.status.success() {
        return Err(format!("no store can be built:\n{}", String::from_utf8_lossy(&built.stderr)).into());
    }
    Ok(())
}

/// Builds the store that Corewall needs, of one rule that no question meets.
pub fn build_small_store(site: &mut Site) -> Result<(), Box<dyn Error>> {
    let folder = fs::canonicalize(&site.work)?;
    site.rules = folder.join("rules.txt");
    site.store = folder.join("store");
    fs::write(&site.rules, "blocked.example.net\n")?;
    build_store(site, &[])
}

/// Whether this binary takes the configuration, so that it is known before a run whether it knows an option.
pub fn is_config_right(site: &Site) -> Result<bool, Box<dyn Error>> {
    let config = site.work.join("check.conf");
    fs::write(&config, corewall_config(site))?;
    let mut check = Command::new(&site.corewall);
    check.arg("check").arg("--config").arg(&config).stdout(Stdio::null()).stderr(Stdio::null());
    Ok(check.status()?.success())
}

fn corewall_config(site: &Site) -> String {
    let servers: Vec<String> = site.upstreams.iter().map(|upstream| format!("\"{upstream}\"")).collect();
    let strategy = site.strategy.as_ref().map(|strategy| format!("strategy = \"{strategy}\"")).unwrap_or_default();
    COREWALL_CONFIG
        .replace("@CORES@", &site.cores)
        .replace("@LISTEN@", &site.listen.to_string())
        .replace("@STORE@", &site.store.display().to_string())
        .replace("@RULES@", &site.rules.display().to_string())
        .replace("@SERVERS@", &servers.join(", "))
        .replace("@STRATEGY@", &strategy)
        .replace("@CACHE_KIB@", &site.cache_kib.to_string())
}

/// One line for each name.
fn lines(names: &[String], mut line: impl FnMut(&mut String, &str)) -> String {
    let mut text = String::new();
    for name in names {
        line(&mut text, name);
        text.push('\n');
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn site(strategy: Option<&str>) -> Site {
        Site {
            corewall: "corewall".into(),
            store: "/store".into(),
            rules: "/rules.txt".into(),
            blocked: Arc::new(vec!["ads.example.com".to_owned(), "x_y.example.net".to_owned()]),
            work: std::env::temp_dir(),
            cores: "0".into(),
            listen: "127.0.0.1:5399".parse().unwrap(),
            upstreams: ["127.0.0.1:5398", "127.0.0.1:5397"].map(|upstream| upstream.parse().unwrap()).into(),
            strategy: strategy.map(str::to_owned),
            cache_kib: 256 << 10,
        }
    }

    #[test]
    fn no_placeholder_is_left_in_corewalls_configuration() {
        let settings = |site: &Site| -> String {
            corewall_config(site)
                .lines()
                .filter(|line| !line.starts_with('#'))
                .map(|line| line.to_owned() + "\n")
                .collect()
        };
        let plain = settings(&site(None));
        assert!(!plain.contains('@') && !plain.contains("strategy"), "{plain}");
        assert!(plain.contains("servers = [\"127.0.0.1:5398\", \"127.0.0.1:5397\"]"), "{plain}");
        assert!(plain.contains("bytes = \"262144 KiB\""), "{plain}");
        assert!(settings(&site(Some("ordered"))).contains("strategy = \"ordered\""));
    }

    #[test]
    fn each_peer_listens_forwards_to_all_upstreams_and_has_both_names() {
        for peer in PEERS {
            let site = site(None);
            let folder = Path::new("/folder");
            let text: String = (peer.configs)(&site, folder).into_iter().map(|(_, text)| text).collect();
            for port in ["5399", "5398", "5397"] {
                assert!(text.contains(port), "{}: {port} is not in\n{text}", peer.name);
            }
            assert!(text.contains("/folder/blocked"), "{}:\n{text}", peer.name);
            let blocked = (peer.blocked)(&site.blocked);
            assert!(site.blocked.iter().all(|name| blocked.contains(name.as_str())), "{}: {blocked}", peer.name);
        }
    }

    #[test]
    fn a_peer_is_found_by_its_name_and_told_when_it_lacks() {
        assert_eq!(Contender::peer("unbound").unwrap().name(), "unbound");
        assert!(Contender::peer("bind").unwrap_err().contains("bind9"));
        assert!(find_program("sh").is_some() && find_program("no-such-program").is_none());
        const ABSENT: Peer = Peer { program: "no-such-program", ..unbound::UNBOUND };
        let error = Contender::Peer(&ABSENT).program(&site(None)).unwrap_err();
        assert!(error.ends_with("apt-get install unbound"), "{error}");
    }
}
