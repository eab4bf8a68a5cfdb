//! Conditional forwarding: zones whose names are asked of servers of their own.
//!
//! Invariant: the longest zone that a name lies in decides, the zone's own name included, whatever the type asked. Finding it
//! costs one look-up for each length that occurs among the zones, and nothing when there are none.

use ahash::RandomState;
use corewall_sharding::name::Name;
use hashbrown::HashMap;

/// Zones and the groups that they are forwarded to. Immutable.
#[derive(Clone, Debug, Default)]
pub struct Forwards {
    /// By the zone's wire format in lower case: a place in `groups`.
    zones: HashMap<Box<[u8]>, usize, RandomState>,
    /// Numbers of labels that occur, longest first.
    lengths: Vec<usize>,
    /// Names of the groups.
    groups: Vec<String>,
}

/// The zone that a name is forwarded by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Forward {
    /// Labels of the zone.
    pub labels: usize,
    /// A place in [`Forwards::groups`].
    pub group: usize,
}

impl Forwards {
    /// From zones and the names of their groups.
    pub fn new(zones: impl IntoIterator<Item = (Name, String)>) -> Self {
        let mut forwards = Self::default();
        for (zone, group) in zones {
            let known = forwards.groups.iter().position(|known| *known == group);
            let place = known.unwrap_or_else(|| {
                forwards.groups.push(group);
                forwards.groups.len() - 1
            });
            forwards.zones.insert(zone.as_wire().into(), place);
            forwards.lengths.push(zone.label_count());
        }
        forwards.lengths.sort_unstable_by(|a, b| b.cmp(a));
        forwards.lengths.dedup();
        forwards
    }

    /// The longest zone that `name` lies in. On the hot path.
    pub fn find(&self, name: &Name) -> Option<Forward> {
        let labels = name.label_count();
        let mut lengths = self.lengths.iter().copied().filter(|length| *length <= labels);
        lengths.find_map(|labels| {
            let group = *self.zones.get(name.suffix_wire(labels))?;
            Some(Forward { labels, group })
        })
    }

    /// Names of the groups that zones are forwarded to.
    pub fn groups(&self) -> &[String] {
        &self.groups
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_longest_zone_wins_and_its_own_name_is_in_it() {
        let zones = [("corp.example", "a"), ("lab.corp.example", "b"), ("printer", "a"), ("10.in-addr.arpa", "c")];
        let forwards = Forwards::new(zones.map(|(zone, group)| (zone.parse().unwrap(), group.to_owned())));
        let group = |name: &str| {
            let name: Name = name.parse().unwrap();
            forwards.find(&name).map(|forward| forwards.groups()[forward.group].as_str())
        };
        assert_eq!(group("corp.example"), Some("a"));
        assert_eq!(group("www.corp.example"), Some("a"));
        assert_eq!(group("x.lab.corp.example"), Some("b"));
        assert_eq!(group("printer"), Some("a"));
        assert_eq!(group("4.3.2.10.in-addr.arpa"), Some("c"));
        for other in ["example", "notcorp.example", "corp.example.org", ".", "110.in-addr.arpa"] {
            assert_eq!(group(other), None, "{other}");
        }
        assert_eq!(Forwards::default().find(&Name::ROOT), None);
    }

    #[test]
    fn the_root_takes_what_no_other_zone_takes() {
        let zones = [(Name::ROOT, "all".to_owned()), ("example".parse().unwrap(), "one".to_owned())];
        let forwards = Forwards::new(zones);
        let labels = |name: &str| forwards.find(&name.parse().unwrap()).map(|forward| forward.labels);
        assert_eq!((labels("a.example"), labels("a.test"), labels(".")), (Some(1), Some(0), Some(0)));
    }
}
