//! NLnet Labs' resolver with one forward-zone. Each name is a local zone of type `always_null`, which answers 0.0.0.0 and :: and
//! costs no record; it blocks the names below as well.

use std::net::SocketAddr;
use std::path::Path;

use super::{BLOCKED, Peer, Site, lines};

pub const UNBOUND: Peer = Peer {
    name: "unbound",
    package: "unbound",
    program: "unbound",
    version_argument: "-V",
    configs: |site, folder| vec![("unbound.conf", config(site, folder))],
    blocked: |names| lines(names, |text, name| *text += &format!("local-zone: \"{name}.\" always_null")),
    arguments: |folder| vec!["-d".into(), "-p".into(), "-c".into(), folder.join("unbound.conf").display().to_string()],
};

fn config(site: &Site, folder: &Path) -> String {
    let at = |address: &SocketAddr| format!("{}@{}", address.ip(), address.port());
    let upstreams: String =
        site.upstreams.iter().map(|upstream| format!("    forward-addr: {}\n", at(upstream))).collect();
    // Its manual asks for twice as much room for record sets as for messages.
    let messages_kib = site.cache_kib / 3;
    format!(
        "server:
    interface: {}
    num-threads: 1
    username: \"\"
    chroot: \"\"
    directory: \"\"
    pidfile: \"\"
    use-syslog: no
    do-daemonize: no
    do-not-query-localhost: no
    module-config: \"iterator\"
    msg-cache-size: {messages_kib}k
    rrset-cache-size: {}k
    minimal-responses: yes
    include: {}
remote-control:
    control-enable: no
forward-zone:
    name: \".\"
{upstreams}",
        at(&site.listen),
        site.cache_kib - messages_kib,
        folder.join(BLOCKED).display(),
    )
}
