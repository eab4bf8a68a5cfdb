//! ISC's server with everything forwarded. The names are a response policy zone.

use std::net::SocketAddr;
use std::path::Path;

use super::policy_zone::{self, ORIGIN};
use super::{BLOCKED, Peer, Site};

pub const BIND9: Peer = Peer {
    name: "bind9",
    package: "bind9",
    program: "named",
    version_argument: "-v",
    configs: |site, folder| vec![("named.conf", config(site, folder))],
    blocked: policy_zone::zone,
    arguments: |folder| {
        ["-g", "-n", "1", "-c", &folder.join("named.conf").display().to_string()].map(str::to_owned).into()
    },
};

fn config(site: &Site, folder: &Path) -> String {
    let at = |address: &SocketAddr| format!("{} port {};", address.ip(), address.port());
    let upstreams: Vec<String> = site.upstreams.iter().map(at).collect();
    format!(
        "logging {{ channel errors {{ stderr; severity error; }}; category default {{ errors; }}; }};
options {{
    directory \"{}\";
    pid-file none;
    session-keyfile none;
    lock-file none;
    listen-on port {} {{ {}; }};
    listen-on-v6 {{ none; }};
    recursion yes;
    allow-query {{ any; }};
    allow-recursion {{ any; }};
    forward only;
    forwarders {{ {} }};
    dnssec-validation no;
    empty-zones-enable no;
    minimal-responses yes;
    querylog no;
    recursive-clients 10000;
    max-cache-size {}K;
    response-policy {{ zone \"{ORIGIN}\" log no; }} qname-wait-recurse no;
}};
controls {{ }};
zone \"{ORIGIN}\" {{
    type primary;
    file \"{}\";
    # Names of lists that are no host names are blocked as well.
    check-names ignore;
    notify no;
    allow-query {{ none; }};
}};
",
        folder.display(),
        site.listen.port(),
        site.listen.ip(),
        upstreams.join(" "),
        site.cache_kib,
        folder.join(BLOCKED).display(),
    )
}
