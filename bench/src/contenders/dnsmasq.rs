//! The forwarder of small routers. The names are a hosts file: measured, that costs it less than `address=/NAME/#`, above all for
//! names that are not in the list.

use std::path::Path;

use super::{BLOCKED, Peer, Site, lines};
use crate::figures::first_line;

/// Octets that an entry of the cache is taken to have, since dnsmasq counts entries.
const ENTRY_BYTES: u64 = 256;

pub const DNSMASQ: Peer = Peer {
    name: "dnsmasq",
    package: "dnsmasq-base",
    program: "dnsmasq",
    version_argument: "--version",
    configs: |site, folder| vec![("dnsmasq.conf", config(site, folder))],
    blocked: |names| lines(names, |text, name| *text += &format!("0.0.0.0 {name}\n:: {name}")),
    arguments: |folder| vec!["-C".into(), folder.join("dnsmasq.conf").display().to_string()],
};

fn config(site: &Site, folder: &Path) -> String {
    let upstreams: String =
        site.upstreams.iter().map(|upstream| format!("server={}#{}\n", upstream.ip(), upstream.port())).collect();
    format!(
        "port={}
listen-address={}
bind-interfaces
keep-in-foreground
# Started by root it would become somebody who may not read these files.
user={}
pid-file={}
log-facility=-
no-resolv
no-poll
no-hosts
addn-hosts={}
cache-size={}
dns-forward-max=10000
{upstreams}",
        site.listen.port(),
        site.listen.ip(),
        first_line(std::process::Command::new("id").arg("-un")),
        folder.join("pid").display(),
        folder.join(BLOCKED).display(),
        site.cache_kib * 1024 / ENTRY_BYTES,
    )
}
