//! Stage 8, to whom: which upstream group a name is asked of, once it is clear that it may pass.
//!
//! In this order: the servers that the rule itself names; the group of the rule's list; for `forward-allow` and
//! `forward-block` rules the groups `allow` and `block`; the longest `[[forward]]` zone that holds the name; the group of the
//! client's policy; `default`.

use corewall_sharding::name::Name;
use corewall_sharding::rule::{Kind, ListId};

use super::rulebook::RuleBook;
use super::settings::{PolicyId, Settings};
use super::upstream::{GroupId, Upstreams};

/// The groups' names in the settings, resolved to their numbers. Made anew by each change of settings or rules.
#[derive(Default)]
pub(super) struct Routes {
    default: GroupId,
    allow: GroupId,
    block: GroupId,
    /// By policy.
    policies: Vec<GroupId>,
    /// By the generation's list numbers, for lists that have one.
    lists: Vec<Option<GroupId>>,
    /// By the places in [`super::forward::Forwards::groups`].
    forwards: Vec<GroupId>,
}

impl Routes {
    pub(super) fn new(settings: &Settings, rules: &RuleBook, upstreams: &Upstreams) -> Self {
        let default = upstreams.group("default");
        let of_list = |name: &str| {
            let found = settings.list_upstreams.iter().find(|(list, _)| list == name);
            found.map(|(_, group)| upstreams.group(group))
        };
        Self {
            default,
            allow: upstreams.group("allow"),
            block: upstreams.group("block"),
            policies: settings
                .policies
                .iter()
                .map(|policy| policy.upstream.as_ref().map_or(default, |group| upstreams.group(group)))
                .collect(),
            lists: match settings.list_upstreams.is_empty() {
                true => Vec::new(),
                false => rules.lists().map(|book| of_list(&book.list.name)).collect(),
            },
            forwards: settings.forwards.groups().iter().map(|group| upstreams.group(group)).collect(),
        }
    }

    /// For a name that no forwarding rule speaks of.
    pub(super) fn of_name(&self, settings: &Settings, name: &Name, policy: PolicyId) -> GroupId {
        let of_zone = settings.forwards.find(name).and_then(|zone| self.forwards.get(zone.group));
        let group = of_zone.or_else(|| self.policies.get(usize::from(policy)));
        group.copied().unwrap_or(self.default)
    }

    /// For a forwarding rule that names no servers.
    pub(super) fn of_rule(&self, kind: Kind, list: ListId) -> GroupId {
        let of_list = self.lists.get(usize::from(list)).copied().flatten();
        of_list.unwrap_or(match kind {
            Kind::ForwardBlock => self.block,
            _ => self.allow,
        })
    }
}
