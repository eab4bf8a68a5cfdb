//! From the configuration to what the query path and the build are given.

use corewall_sharding::name::Name;
use corewall_sharding::rule::{AnswerRecord, Kind, List as StoredList};

use super::check::POLICY_DEFAULT;
use super::{Config, CookieSecret, List, ListKind};
use crate::build::ListSpec;
use crate::decide::local::{LocalRecords, Served};
use crate::decide::settings::{CacheBounds, Group, Policy, PolicyId, Settings};
use crate::{lists, rdata};

impl Config {
    /// What `decide` needs to know.
    pub fn settings(&self) -> Settings {
        let mut policies = vec![Policy { name: POLICY_DEFAULT.to_owned(), lists: None, block_mode: None }];
        let mut policy_clients = Vec::new();
        for policy in &self.policy {
            let entry =
                Policy { name: policy.name.clone(), lists: policy.lists.clone(), block_mode: policy.block_mode };
            if policy.name == POLICY_DEFAULT {
                policies[0] = entry;
                continue;
            }
            // `check` holds their number under POLICIES_MAX.
            let id = PolicyId::try_from(policies.len()).unwrap_or(PolicyId::MAX);
            policy_clients.extend(policy.clients.iter().map(|net| (*net, id)));
            policies.push(entry);
        }
        Settings {
            clients_allowed: self.clients_allowed.iter().map(|net| (*net, ())).collect(),
            client_cookies: self.cookie_secret.as_ref().filter(|_| self.client_cookies).map(CookieSecret::secret),
            policies,
            policy_clients: policy_clients.into_iter().collect(),
            block_mode: self.block.mode,
            block_ttl_s: self.block.ttl_s,
            alias_ttl_s: self.alias.ttl_s,
            ede: self.block.ede,
            ede_text: self.block.ede_text,
            cache: CacheBounds {
                bytes: self.cache.bytes,
                ttl_s_min: self.cache.ttl_s_min,
                ttl_s_max: self.cache.ttl_s_max,
                negative_ttl_s_max: self.cache.negative_ttl_s_max,
                failure_ttl_s: self.cache.failure_ttl_s,
            },
            groups: [
                ("default", &self.upstream.default),
                ("allow", &self.upstream.allow),
                ("block", &self.upstream.block),
            ]
            .map(|(name, group)| Group { name: name.to_owned(), servers: group.servers.clone() })
            .to_vec(),
            upstream_timeout_ms: self.upstream_timeout_ms,
            local: LocalRecords::new(self.local_records(), self.served_locally()),
            on_store_error: self.on_store_error,
        }
    }

    fn served_locally(&self) -> Served {
        Served { special_use_names: self.special_use_names, reverse_zones: self.local_reverse_zones }
    }

    /// The local records in wire format.
    pub fn local_records(&self) -> Vec<(Name, AnswerRecord)> {
        // `check` has parsed each of them before: none is left out.
        let parsed = |record: &super::Record| {
            let (rtype, rdata) = rdata::parse(&record.rtype, &record.data).ok()?;
            Some((record.name, AnswerRecord { rtype, ttl_s: Some(record.ttl_s), rdata }))
        };
        self.record.iter().filter_map(parsed).collect()
    }

    /// The lists to build a store from.
    pub fn list_specs(&self) -> Vec<ListSpec> {
        self.list.iter().map(List::spec).collect()
    }
}

impl List {
    fn spec(&self) -> ListSpec {
        // The build puts the list's number in.
        let mut options = lists::Options::new(0);
        options.default_kind = match self.kind {
            ListKind::Block => Kind::Block,
            ListKind::Allow => Kind::Allow,
        };
        options.subtree = self.subtree;
        options.important = self.important;
        options.allow_public_suffix = self.allow_public_suffix;
        options.allow_wide = self.allow_wide;
        options.adblock_modifiers = self.adblock_modifiers;
        options.hosts_addresses = self.hosts_addresses;
        ListSpec {
            list: StoredList {
                name: self.name.clone(),
                category: self.category.clone(),
                block_mode: self.block_mode,
                sinkhole: self.sinkhole.clone(),
                ede_text: self.ede_text.clone(),
                block_ttl_s: self.block_ttl_s,
                answers: self.answers.clone(),
            },
            path: self.path.clone(),
            format: self.format,
            options,
            wildcard_action: self.wildcard_action,
        }
    }
}
