//! Stage 2, admit: whether a client is answered, and under which policy.

use std::net::IpAddr;

use super::settings::{PolicyId, Settings};

/// The policy of a client, that of the longest prefix it lies in; none when it is to be refused. On the hot path.
pub fn admit(settings: &Settings, client: IpAddr) -> Option<PolicyId> {
    // An IPv4 client of a dual-stack socket shows as ::ffff:a.b.c.d, but the configuration speaks of a.b.c.d.
    let client = client.to_canonical();
    let allowed = &settings.clients_allowed;
    if !allowed.is_empty() && allowed.longest(client).is_none() {
        return None;
    }
    let longest = settings.policy_clients.longest(client);
    Some(longest.and_then(|(_, policies)| policies.first()).copied().unwrap_or(0))
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
            upstream: None,
        }));
        settings.policy_clients = [
            ("10.0.0.0/8".parse().unwrap(), 1),
            ("10.1.0.0/16".parse().unwrap(), 2),
            ("2001:db8::/32".parse().unwrap(), 2),
        ]
        .into_iter()
        .collect();
        let policy = |settings: &Settings, client: &str| admit(settings, client.parse().unwrap());
        assert_eq!(policy(&settings, "10.2.0.1"), Some(1));
        assert_eq!(policy(&settings, "10.1.0.1"), Some(2));
        assert_eq!(policy(&settings, "::ffff:10.1.0.1"), Some(2));
        assert_eq!(policy(&settings, "2001:db8::1"), Some(2));
        assert_eq!(policy(&settings, "192.0.2.1"), Some(0));
        settings.clients_allowed.file(&"10.0.0.0/8".parse().unwrap(), ());
        assert_eq!(policy(&settings, "192.0.2.1"), None);
        assert_eq!(policy(&settings, "10.1.0.1"), Some(2));
    }
}
