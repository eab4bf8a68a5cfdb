//! PowerDNS' load balancer with a packet cache. The names are a set that one rule looks up and answers by itself. It takes many
//! datagrams by one system call, which its manual names as a means to go faster and which is off by default.

use std::path::Path;

use super::{BLOCKED, Peer, Site, lines};

/// Octets that an entry of the cache is taken to have, since dnsdist counts entries.
const ENTRY_BYTES: u64 = 256;
/// As many as the floor takes.
const BATCH: usize = 32;

pub const DNSDIST: Peer = Peer {
    name: "dnsdist",
    package: "dnsdist",
    program: "dnsdist",
    version_argument: "--version",
    configs: |site, folder| vec![("dnsdist.conf", config(site, folder))],
    blocked: |names| lines(names, |text, name| *text += name),
    arguments: |folder| {
        let config = folder.join("dnsdist.conf").display().to_string();
        ["--supervised", "--disable-syslog", "-C", &config].map(str::to_owned).into()
    },
};

fn config(site: &Site, folder: &Path) -> String {
    let upstreams: String = site
        .upstreams
        .iter()
        // Without its health checks: they are questions that nobody asked.
        .map(|upstream| format!("newServer({{address=\"{upstream}\", healthCheckMode=\"up\"}})\n"))
        .collect();
    format!(
        "setLocal(\"{}\")
setSecurityPollSuffix(\"\")
setMaxUDPOutstanding(65535)
setUDPMultipleMessagesVectorSize({BATCH})
{upstreams}-- One thread asks: no shards. No answer is left out because another thread has the lock.
getPool(\"\"):setCache(newPacketCache({}, {{numberOfShards=1, deferrableInsertLock=false}}))
names = newDNSNameSet()
for name in io.lines(\"{}\") do names:add(newDNSName(name)) end
addAction(QNameSetRule(names), SpoofAction({{\"0.0.0.0\", \"::\"}}))
",
        site.listen,
        site.cache_kib * 1024 / ENTRY_BYTES,
        folder.join(BLOCKED).display(),
    )
}
