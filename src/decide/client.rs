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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::decide::settings::Policy;

    #[test]
    fn the_longest_prefix_chooses_the_policy_and_strangers_are_refused() {
        let mut settings = Settings::default();
        settings.policies.extend(["lan", "kids"].map(|name| Policy {
            name: name.to_owned(),
            lists: None,
            block_mode: None,
        }));
        settings.policy_clients = vec![
            ("10.0.0.0/8".parse().unwrap(), 1),
            ("10.1.0.0/16".parse().unwrap(), 2),
            ("2001:db8::/32".parse().unwrap(), 2),
        ];
        let policy = |settings: &Settings, client: &str| admit(settings, client.parse().unwrap());
        assert_eq!(policy(&settings, "10.2.0.1"), Some(1));
        assert_eq!(policy(&settings, "10.1.0.1"), Some(2));
        assert_eq!(policy(&settings, "::ffff:10.1.0.1"), Some(2));
        assert_eq!(policy(&settings, "2001:db8::1"), Some(2));
        assert_eq!(policy(&settings, "192.0.2.1"), Some(0));
        settings.clients_allowed = vec!["10.0.0.0/8".parse().unwrap()];
        assert_eq!(policy(&settings, "192.0.2.1"), None);
        assert_eq!(policy(&settings, "10.1.0.1"), Some(2));
    }
}
