//! The servers that are compared as forwarders: how each is configured, started, and asked for its version.
//!
//! All get the same: one thread on one core, UDP and TCP on one loopback address, the same upstreams for everything, a cache of
//! [`CACHE_MIB`], no validation, no limit of rates. Corewall judges each name by a store; the others have no lists.

use std::error::Error;
use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use crate::figures::first_line;
use crate::server::Server;

/// The configuration under which Corewall is measured as a forwarder.
const COREWALL_CONFIG: &str = include_str!("../forwarding.toml.in");
/// Mebibytes of cache: Corewall's default for a worker.
pub const CACHE_MIB: usize = 64;
/// Entries of dnsdist's packet cache, which it counts instead of bytes: more than are asked again.
const DNSDIST_CACHE_ENTRIES: usize = 200_000;
/// Where programs of administrators lie that a user's PATH may lack.
const SBIN: [&str; 3] = ["/usr/sbin", "/usr/local/sbin", "/sbin"];

/// A server that forwards.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Forwarder {
    /// The server under test.
    Corewall,
    /// NLnet Labs' resolver with one forward-zone, which Corewall is held against.
    Unbound,
    /// PowerDNS' load balancer with a packet cache, for the record.
    Dnsdist,
}

/// What a forwarder is started with.
#[derive(Clone, Debug)]
pub struct Site {
    /// Corewall's binary.
    pub corewall: PathBuf,
    /// Store built by `corewall build`, and the list it was built from.
    pub store: PathBuf,
    /// That list.
    pub rules: PathBuf,
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
}

impl Forwarder {
    /// Each with the Debian package that it comes in.
    pub const PEERS: [(Self, &'static str); 2] = [(Self::Unbound, "unbound"), (Self::Dnsdist, "dnsdist")];

    /// As it is called on the command line and in results.
    pub fn name(self) -> &'static str {
        match self {
            Self::Corewall => "corewall",
            Self::Unbound => "unbound",
            Self::Dnsdist => "dnsdist",
        }
    }

    /// By its name.
    pub fn of_name(name: &str) -> Option<Self> {
        [Self::Corewall, Self::Unbound, Self::Dnsdist].into_iter().find(|forwarder| forwarder.name() == name)
    }

    /// Its program, or how to get it.
    pub fn program(self, site: &Site) -> Result<PathBuf, String> {
        let package = Self::PEERS.into_iter().find(|(peer, _)| *peer == self).map(|(_, package)| package);
        let Some(package) = package else { return Ok(site.corewall.clone()) };
        find_program(self.name())
            .ok_or_else(|| format!("{} is missing; on Debian: apt-get install {package}", self.name()))
    }

    /// The first line of what it says of its version.
    pub fn version(self, site: &Site) -> Result<String, String> {
        let argument = if self == Self::Unbound { "-V" } else { "--version" };
        Ok(first_line(Command::new(self.program(site)?).arg(argument)))
    }

    /// Its configuration.
    pub fn config(self, site: &Site) -> String {
        match self {
            Self::Corewall => corewall_config(site),
            Self::Unbound => unbound_config(site),
            Self::Dnsdist => dnsdist_config(site),
        }
    }

    /// The same for a report: paths begin where the measurement was started.
    pub fn told_config(self, site: &Site) -> String {
        let here = std::env::current_dir().map(|here| here.display().to_string()).unwrap_or_default();
        if here.is_empty() { self.config(site) } else { self.config(site).replace(&here, ".") }
    }

    /// Starts it and waits until it answers.
    pub fn start(self, site: &Site) -> Result<Server, Box<dyn Error>> {
        let config = fs::canonicalize(&site.work)?.join(format!("{}.conf", self.name()));
        fs::write(&config, self.config(site))?;
        let log = site.work.join(format!("{}.log", self.name()));
        // `taskset` becomes the server, so its process id is the server's; threads that are not workers stay there too.
        let mut command = Command::new("taskset");
        command.args(["-c", &site.cores]).arg(self.program(site)?);
        Ok(match self {
            Self::Corewall => Server::start(
                {
                    command.arg("serve").arg("--config").arg(config);
                    command
                },
                &log,
            )?,
            Self::Unbound => {
                command.args(["-d", "-p", "-c"]).arg(config);
                Server::start_answering(command, &log, site.listen)?
            }
            Self::Dnsdist => {
                command.args(["--supervised", "--disable-syslog", "-C"]).arg(config);
                Server::start_answering(command, &log, site.listen)?
            }
        })
    }
}

/// The program of this name on PATH or where administrators have theirs.
pub fn find_program(name: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let places = std::env::split_paths(&path).chain(SBIN.map(PathBuf::from));
    places.map(|place| place.join(name)).find(|program| program.is_file())
}

/// Builds the store that Corewall needs, of one rule that no question meets.
pub fn build_small_store(site: &mut Site) -> Result<(), Box<dyn Error>> {
    let folder = fs::canonicalize(&site.work)?;
    site.rules = folder.join("rules.txt");
    site.store = folder.join("store");
    fs::write(&site.rules, "blocked.example.net\n")?;
    fs::create_dir_all(&site.store)?;
    let config = folder.join("build.conf");
    // Without the strategy: whether the binary knows that option is not the question here.
    fs::write(&config, corewall_config(&Site { strategy: None, ..site.clone() }))?;
    let built = Command::new(&site.corewall)
        .arg("build")
        .arg("--store")
        .arg(&site.store)
        .arg("--config")
        .arg(&config)
        .output()?;
    if !built.status.success() {
        return Err(format!("no store can be built:\n{}", String::from_utf8_lossy(&built.stderr)).into());
    }
    Ok(())
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
    let path = |path: &Path| path.display().to_string();
    COREWALL_CONFIG
        .replace("@CORES@", &site.cores)
        .replace("@LISTEN@", &site.listen.to_string())
        .replace("@STORE@", &path(&site.store))
        .replace("@RULES@", &path(&site.rules))
        .replace("@SERVERS@", &servers.join(", "))
        .replace("@STRATEGY@", &strategy)
}

fn unbound_config(site: &Site) -> String {
    let at = |address: &SocketAddr| format!("{}@{}", address.ip(), address.port());
    let upstreams: String =
        site.upstreams.iter().map(|upstream| format!("    forward-addr: {}\n", at(upstream))).collect();
    // Its manual asks for twice as much room for record sets as for messages.
    let messages_mib = CACHE_MIB / 3;
    format!(
        "server:\n    interface: {}\n    num-threads: 1\n    username: \"\"\n    chroot: \"\"\n    directory: \"\"\n    \
         pidfile: \"\"\n    use-syslog: no\n    do-daemonize: no\n    do-not-query-localhost: no\n    module-config: \"iterator\"\n    \
         msg-cache-size: {messages_mib}m\n    rrset-cache-size: {}m\n    minimal-responses: yes\n\
         remote-control:\n    control-enable: no\nforward-zone:\n    name: \".\"\n{upstreams}",
        at(&site.listen),
        CACHE_MIB - messages_mib,
    )
}

fn dnsdist_config(site: &Site) -> String {
    let upstreams: String = site
        .upstreams
        .iter()
        // Without its health checks: they are questions that nobody asked.
        .map(|upstream| format!("newServer({{address=\"{upstream}\", healthCheckMode=\"up\"}})\n"))
        .collect();
    format!(
        "setLocal(\"{}\")\nsetSecurityPollSuffix(\"\")\n{upstreams}getPool(\"\"):setCache(newPacketCache({DNSDIST_CACHE_ENTRIES}))\n",
        site.listen
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn site(strategy: Option<&str>) -> Site {
        Site {
            corewall: "corewall".into(),
            store: "/store".into(),
            rules: "/rules.txt".into(),
            work: std::env::temp_dir(),
            cores: "0".into(),
            listen: "127.0.0.1:5399".parse().unwrap(),
            upstreams: ["127.0.0.1:5398", "127.0.0.1:5397"].map(|upstream| upstream.parse().unwrap()).into(),
            strategy: strategy.map(str::to_owned),
        }
    }

    #[test]
    fn each_server_forwards_to_all_upstreams() {
        let settings: String =
            Forwarder::Corewall.config(&site(None)).lines().filter(|line| !line.starts_with('#')).collect();
        assert!(!settings.contains('@') && !settings.contains("strategy"), "{settings}");
        assert!(settings.contains("servers = [\"127.0.0.1:5398\", \"127.0.0.1:5397\"]"), "{settings}");
        assert!(Forwarder::Corewall.config(&site(Some("ordered"))).contains("strategy = \"ordered\""));
        let unbound = Forwarder::Unbound.config(&site(None));
        assert!(unbound.contains("forward-addr: 127.0.0.1@5398") && unbound.contains("forward-addr: 127.0.0.1@5397"));
        assert!(unbound.contains("msg-cache-size: 21m") && unbound.contains("rrset-cache-size: 43m"), "{unbound}");
        assert_eq!(Forwarder::Dnsdist.config(&site(None)).matches("newServer").count(), 2);
    }

    #[test]
    fn a_forwarder_is_found_by_its_name_and_told_when_it_lacks() {
        assert_eq!(Forwarder::of_name("unbound"), Some(Forwarder::Unbound));
        assert_eq!(Forwarder::of_name("bind"), None);
        assert!(find_program("sh").is_some() && find_program("no-such-program").is_none());
    }
}
