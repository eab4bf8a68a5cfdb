//! PowerDNS' resolver with everything forwarded. The names are a response policy zone.

use std::path::Path;

use super::{BLOCKED, Peer, Site, policy_zone};

/// Octets that an entry of either cache is taken to have, since it counts entries.
const ENTRY_BYTES: u64 = 256;

pub const PDNS_RECURSOR: Peer = Peer {
    name: "pdns-recursor",
    package: "pdns-recursor",
    program: "pdns_recursor",
    version_argument: "--version",
    configs: |site, folder| {
        let lua = format!("rpzFile(\"{}\", {{policyName=\"blocked\"}})\n", folder.join(BLOCKED).display());
        vec![("recursor.conf", config(site, folder)), ("policy.lua", lua)]
    },
    blocked: policy_zone::zone,
    arguments: |folder| vec![format!("--config-dir={}", folder.display())],
};

fn config(site: &Site, folder: &Path) -> String {
    let upstreams: Vec<String> = site.upstreams.iter().map(|upstream| upstream.to_string()).collect();
    // Half of the entries each for records and for whole answers.
    let entries = site.cache_kib * 1024 / ENTRY_BYTES / 2;
    format!(
        "local-address={}
local-port={}
socket-dir={folder}
lua-config-file={folder}/policy.lua
daemon=no
write-pid=no
threads=1
pdns-distributes-queries=no
quiet=yes
loglevel=3
disable-syslog=yes
statistics-interval=0
security-poll-suffix=
dont-query=
forward-zones-recurse=.={}
max-cache-entries={entries}
max-packetcache-entries={entries}
dnssec=off
# The upstream's zone is the root, and one name of it that is not there says nothing of its top-level domain.
root-nx-trust=no
# An upstream that is stopped while cached answers are measured is asked again afterwards.
server-down-max-fails=0
",
        site.listen.ip(),
        site.listen.port(),
        upstreams.join(";"),
        folder = folder.display(),
    )
}
