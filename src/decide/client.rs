//! Stage 2, admit: whether a client is answered, and under which policy.

use std::net::IpAddr;

use ipnet::IpNet;

use super::settings::{PolicyId, Settings};

/// The policy of a client; none when it is to be refused.
pub fn admit(settings: &Settings, client: IpAddr) -> Option<PolicyId> {
    // An IPv4 client of a dual-stack socket shows as ::ffff:a.b.c.d, but the configuration speaks of a.b.c.d.
    let client = client.to_canonical();
    if !settings.clients_allowed.is_empty() && !settings.clients_allowed.iter().any(|net| net.contains(&client)) {
        return None;
    }
    let longest = settings.policy_clients.iter().filter(|(net, _)| net.contains(&client));
    Some(longest.max_by_key(|(net, _)| IpNet::prefix_len(net)).map_or(0, |&(_, policy)| policy))
}
