//! The sets of upstream servers that the rules of all lists name together.
//!
//! Invariant: no generation names more than [`RULE_SETS_MAX`] of them, and a later list cannot take the places of those before
//! it, though lists are read at the same time: a list that comes with a set not known yet waits until those before it have
//! been read ([`Turns`]). How many a server knows at a time is another matter: it makes a group of them when a rule is first
//! used.

use std::collections::HashSet;
use std::net::SocketAddr;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};

use corewall_sharding::rule::ListId;

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

/// The sets of all lists, admitted in the order of the lists.
///
/// Nobody waits for ever: lists are begun in their order, so that the first one which has not ended is being read, and it
/// waits for none.
pub struct Turns {
    state: Mutex<TurnsState>,
    changed: Condvar,
}

struct TurnsState {
    servers: RuleServers,
    /// Whether each list may still name sets.
    reading: Vec<bool>,
}

impl Turns {
    /// Before any list is read; `reading` tells which of them will be, in one piece each.
    pub fn new(reading: Vec<bool>) -> Self {
        let state = TurnsState { servers: RuleServers::default(), reading };
        Self { state: Mutex::new(state), changed: Condvar::new() }
    }

    fn lock(&self) -> MutexGuard<'_, TurnsState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Notes the servers of one rule of `list` when it is that list's turn. True when nobody had named them before.
    ///
    /// # Errors
    /// Why the rule is to be refused. Without a reason that counts when `is_shut` tells that the build is ending.
    pub fn admit(&self, list: ListId, servers: &[SocketAddr], is_shut: &dyn Fn() -> bool) -> Result<bool, String> {
        let mut state = self.lock();
        loop {
            if state.servers.sets.contains(servers) {
                return Ok(false);
            }
            if is_shut() {
                return Err(String::new());
            }
            if !state.reading.iter().take(usize::from(list)).any(|reading| *reading) {
                return state.servers.add(servers).map(|()| true);
            }
            state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// Notes a set that a killed build had admitted.
    pub fn admitted_before(&self, servers: Vec<SocketAddr>) {
        self.lock().servers.sets.insert(servers);
    }

    /// `list` names no further sets.
    pub fn end(&self, list: ListId) {
        if let Some(reading) = self.lock().reading.get_mut(usize::from(list)) {
            *reading = false;
        }
        self.changed.notify_all();
    }

    /// Has those that wait look whether the build is ending.
    pub fn wake(&self) {
        // Locked, so that none of them is between its look and its sleep.
        drop(self.lock());
        self.changed.notify_all();
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

    #[test]
    fn a_later_list_waits_for_those_before_it_unless_its_servers_are_known() {
        let turns = Turns::new(vec![true, false, true]);
        let open = || false;
        assert_eq!(turns.admit(0, &[server(0)], &open), Ok(true));
        assert_eq!(turns.admit(2, &[server(0)], &open), Ok(false), "no need to wait");
        std::thread::scope(|scope| {
            let later = scope.spawn(|| turns.admit(2, &[server(1)], &open));
            for number in 2..=RULE_SETS_MAX {
                assert_eq!(turns.admit(0, &[server(number)], &open), Ok(true));
            }
            turns.end(0);
            assert!(
                later.join().unwrap().unwrap_err().contains("262144 different sets"),
                "the first list had them all"
            );
        });
    }

    #[test]
    fn who_waits_is_let_go_when_the_build_ends() {
        let turns = Turns::new(vec![true, true]);
        let ending = std::sync::atomic::AtomicBool::new(false);
        std::thread::scope(|scope| {
            let (turns, ending) = (&turns, &ending);
            let is_shut = move || ending.load(std::sync::atomic::Ordering::SeqCst);
            let waiting = scope.spawn(move || turns.admit(1, &[server(0)], &is_shut));
            ending.store(true, std::sync::atomic::Ordering::SeqCst);
            turns.wake();
            assert!(waiting.join().unwrap().is_err());
        });
    }
}
