//! The sets of upstream servers that the rules of all lists name together.
//!
//! Invariant: no generation names more than [`RULE_SETS_MAX`] of them. Lists are read in the order of the configuration, so that
//! a later one cannot take the places of those before it. How many a server knows at a time is another matter: it makes a
//! group of them when a rule is first used.

use std::collections::HashSet;
use std::net::SocketAddr;

use crate::limits::{GROUP_SERVERS_MAX, RULE_SETS_MAX};

/// The sets of servers that were named so far.
#[derive(Default)]
pub struct RuleServers {
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
        if self.sets.len() >= RULE_SETS_MAX {
            return Err(format!("more than {RULE_SETS_MAX} different sets of upstream servers in all lists"));
        }
        self.sets.insert(servers.to_vec());
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn server(number: usize) -> SocketAddr {
        SocketAddr::from(([10, (number >> 16) as u8, (number >> 8) as u8, number as u8], 53))
    }

    #[test]
    fn the_sets_named_first_stay_and_those_past_the_bound_are_refused() {
        let mut servers = RuleServers::default();
        for number in 0..RULE_SETS_MAX {
            assert_eq!(servers.add(&[server(number)]), Ok(()));
        }
        assert!(servers.add(&[server(RULE_SETS_MAX)]).unwrap_err().contains("262144 different sets"));
        assert!(servers.add(&[server(0), server(1)]).is_err(), "a set of known servers is one more");
        assert_eq!(servers.add(&[server(0)]), Ok(()), "one that is known already");
        assert_eq!(servers.add(&[]), Ok(()));
    }

    #[test]
    fn one_rule_names_no_more_servers_than_a_group_has() {
        let many: Vec<SocketAddr> = (0..=GROUP_SERVERS_MAX).map(server).collect();
        assert!(RuleServers::default().add(&many).is_err());
        assert_eq!(RuleServers::default().add(&many[1..]), Ok(()));
    }
}
