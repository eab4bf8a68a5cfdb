//! CZ.NIC's resolver with everything forwarded. The names are a response policy zone: its module `hints`, which reads hosts files,
//! takes minutes for as many names with one address.

use std::path::Path;

use super::{BLOCKED, Peer, Site, policy_zone};

pub const KNOT_RESOLVER: Peer = Peer {
    name: "knot-resolver",
    package: "knot-resolver",
    program: "kresd",
    version_argument: "--version",
    configs: |site, folder| vec![("kresd.conf", config(site, folder))],
    blocked: policy_zone::zone,
    arguments: |folder| ["-n", "-c", &folder.join("kresd.conf").display().to_string()].map(str::to_owned).into(),
};

fn config(site: &Site, folder: &Path) -> String {
    let upstreams: Vec<String> =
        site.upstreams.iter().map(|upstream| format!("'{}@{}'", upstream.ip(), upstream.port())).collect();
    format!(
        "net.listen('{}', {}, {{ kind = 'dns' }})
cache.open({} * 1024, 'lmdb://{}')
trust_anchors.remove('.')
-- Modules that ask or look by themselves.
for _, name in ipairs({{'ta_update', 'ta_signal_query', 'priming', 'detect_time_skew', 'detect_time_jump'}}) do
    modules.unload(name)
end
policy.add(policy.rpz(policy.DENY, '{}', false))
policy.add(policy.all(policy.FORWARD({{{}}})))
",
        site.listen.ip(),
        site.listen.port(),
        site.cache_kib,
        folder.join("cache").display(),
        folder.join(BLOCKED).display(),
        upstreams.join(", "),
    )
}
