//! A real authoritative server, nsd, as upstream.

use std::fs;
use std::net::SocketAddr;
use std::process::Command;

use tempfile::TempDir;

use crate::client::{UdpClient, question};
use crate::ports;
use crate::process::Process;

/// Directories of programs for administrators, which a user's PATH may lack.
const PROGRAMS: [&str; 3] = ["/usr/sbin/nsd", "/usr/local/sbin/nsd", "/sbin/nsd"];

/// What is under [`ZONE`].
const RECORDS: &str = "
$TTL 300
@        SOA ns nobody 1 3600 600 86400 120
@        NS ns
ns       A 192.0.2.53
www      A 198.51.100.10
www      A 198.51.100.11
www      AAAA 2001:db8:1::10
mail     MX 10 www
mail     MX 20 ns
*.wild   A 198.51.100.20
*.wild   TXT \"grown wild\"
one      600 CNAME two
two      CNAME three
three    30 CNAME www
lost     CNAME nowhere
hidden   CNAME tracker
tracker  A 198.51.100.66
srv      SRV 1 2 853 www
caa      CAA 0 issue \"ca.example\"
svc      HTTPS 1 . alpn=h2
odd      TYPE65280 \\# 4 0badcafe
empty.under A 198.51.100.30
";

/// The zone with a bit of everything.
pub const ZONE: &str = "upstream.example";

/// A running nsd.
pub struct Nsd {
    process: Process,
    address: SocketAddr,
    _folder: TempDir,
}

impl Nsd {
    /// Starts one that serves [`ZONE`], and a root zone in which every other name has the address 198.51.100.1. None, with a line
    /// that says so, where nsd is not installed.
    pub fn start() -> Option<Self> {
        // Truncated without EDNS, whole with it; and truncated even with EDNS.
        let strings = |count: usize| -> String {
            (0..count).map(|number| format!("size{count} TXT \"{number:03} {}\"\n", "x".repeat(196))).collect()
        };
        let zone = format!("$ORIGIN {ZONE}.{RECORDS}{}{}", strings(4), strings(40));
        let root = "$ORIGIN .\n$TTL 300\n@ SOA ns.example nobody.example 1 3600 600 86400 60\n@ NS ns.example\n* A 198.51.100.1\n";
        Self::start_with(&[(ZONE, &zone), (".", root)])
    }

    /// Starts one that serves these zones, each with its name and its master file; none as [`Nsd::start`].
    pub fn start_with(zones: &[(&str, &str)]) -> Option<Self> {
        let Some(program) = PROGRAMS.iter().find(|program| fs::exists(program).unwrap_or(false)) else {
            println!("SKIPPED: nsd is not installed; `apt-get install nsd` (it need not run as a service)");
            return None;
        };
        let folder = tempfile::tempdir().unwrap();
        let at = folder.path().display();
        let port = ports::free();
        let mut served = String::new();
        for (number, (zone, text)) in zones.iter().enumerate() {
            fs::write(folder.path().join(format!("zone{number}")), text).unwrap();
            served += &format!("zone:\n name: {zone}\n zonefile: zone{number}\n");
        }
        let config = format!(
            "server:\n ip-address: 127.0.0.1@{port}\n username: \"\"\n chroot: \"\"\n zonesdir: \"{at}\"\n pidfile: \"\"\n \
             xfrdfile: \"{at}/xfrd\"\n zonelistfile: \"{at}/zones\"\n xfrdir: \"{at}\"\n database: \"\"\n server-count: 1\n \
             rrl-ratelimit: 0\n\
             remote-control:\n control-enable: no\n{served}"
        );
        let file = folder.path().join("nsd.conf");
        fs::write(&file, config).unwrap();
        let process = Process::start(Command::new(program).arg("-d").arg("-c").arg(&file));
        let nsd = Self { process, address: SocketAddr::from(([127, 0, 0, 1], port)), _folder: folder };
        nsd.wait_until_it_answers(zones[0].0);
        Some(nsd)
    }

    /// Before it listens its port refuses, which a connected socket is told of at once.
    fn wait_until_it_answers(&self, zone: &str) {
        use std::io::ErrorKind::ConnectionRefused;
        let socket = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
        socket.connect(self.address).unwrap();
        socket.set_read_timeout(Some(crate::process::PATIENCE)).unwrap();
        let until = std::time::Instant::now() + crate::process::PATIENCE;
        let hello = question(zone, "SOA").to_wire(1);
        let mut buffer = [0; 512];
        loop {
            match socket.send(&hello).and_then(|_| socket.recv(&mut buffer)) {
                Ok(_) => return,
                Err(error) if error.kind() == ConnectionRefused && std::time::Instant::now() < until => {
                    std::thread::yield_now();
                }
                Err(error) => panic!("nsd does not answer: {error}\n{}", self.process.output()),
            }
        }
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// A client that asks it without Corewall in between.
    pub fn client(&self) -> UdpClient {
        UdpClient::new(self.address)
    }
}

impl Drop for Nsd {
    fn drop(&mut self) {
        // Killed, it would leave its children behind; asked to end, it takes them with it.
        self.process.end();
    }
}
