//! The upstream servers that the rules of all lists name together.
//!
//! Invariant: no generation names more than a server knows ([`RULE_SERVERS_MAX`], [`RULE_GROUPS_MAX`]). Lists are read in the
//! order of the configuration, so that a later one cannot take the places of those before it.

use std::collections::HashSet;
use std::net::SocketAddr;

use crate::limits::{GROUP_SERVERS_MAX, RULE_GROUPS_MAX, RULE_SERVERS_MAX};

/// The servers and sets of them that were named so far.
#[derive(Default)]
pub struct RuleServers {
    servers: HashSet<SocketAddr>,
    sets: HashSet<Vec<SocketAddr>>,
}

impl RuleServers {
    /// Notes the servers of one rule.
    ///
    /// # Errors
    /// Why the rule is to be refused; then nothing is noted.
    pub fn add(&mut self, servers: &[SocketAddr]) -> Result<(), String> {
        if servers.is_empty() || self.sets.contains(servers) {
            return Ok(());
        }
        if servers.len() > GROUP_SERVERS_MAX {
            return Err(format!("more than {GROUP_SERVERS_MAX} servers for one name"));
        }
        let new: HashSet<SocketAddr> = servers.iter().copied().filter(|it| !self.servers.contains(it)).collect();
        if self.servers.len() + new.len() > RULE_SERVERS_MAX {
            return Err(format!("more than {RULE_SERVERS_MAX} different upstream servers in all lists"));
        }
        if self.sets.len() >= RULE_GROUPS_MAX {
            return Err(format!("more than {RULE_GROUPS_MAX} different sets of upstream servers in all lists"));
        }
        self.servers.extend(new);
        self.sets.insert(servers.to_vec());
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn server(number: usize) -> SocketAddr {
        SocketAddr::from(([10, 0, (number >> 8) as u8, number as u8], 53))
    }

    #[test]
    fn the_servers_named_first_stay_and_those_past_the_bound_are_refused() {
        let mut servers = RuleServers::default();
        for number in 0..RULE_SERVERS_MAX {
            assert_eq!(servers.add(&[server(number)]), Ok(()));
        }
        assert!(servers.add(&[server(RULE_SERVERS_MAX)]).unwrap_err().contains("4096 different upstream servers"));
        assert_eq!(servers.add(&[server(0)]), Ok(()), "one that is known already");
        assert_eq!(servers.add(&[]), Ok(()));
        assert!(servers.add(&[server(0), server(1)]).unwrap_err().contains("sets"));
    }

    #[test]
    fn one_rule_names_no_more_servers_than_a_group_has() {
        let many: Vec<SocketAddr> = (0..=GROUP_SERVERS_MAX).map(server).collect();
        assert!(RuleServers::default().add(&many).is_err());
        assert_eq!(RuleServers::default().add(&many[1..]), Ok(()));
    }
}
