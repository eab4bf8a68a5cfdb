//! From the configuration to what the query path and the build are given.

use corewall_sharding::rule::{Kind, List as StoredList};

use super::check::POLICY_DEFAULT;
use super::{Build, Config, CookieSecret, Hosts, List, ListKind};
use crate::build::{self, ListSpec};
use crate::decide::chaos::Chaos;
use crate::decide::local::LocalRecords;
use crate::decide::rebinding::Rebinding;
use crate::decide::settings::{Policy, PolicyId, Settings};
use crate::lists;
use crate::serve::placement::Wishes;

impl Config {
    /// What `decide` needs to know, hosts files aside.
    pub fn settings(&self) -> Settings {
        self.settings_with(&Hosts::default())
    }

    /// What `decide` needs to know.
    pub fn settings_with(&self, hosts: &Hosts) -> Settings {
        let mut policies =
            vec![Policy { name: POLICY_DEFAULT.to_owned(), lists: None, block_mode: None, upstream: None }];
        let mut policy_clients = Vec::new();
        for policy in &self.policy {
            let entry = Policy {
                name: policy.name.clone(),
                lists: policy.lists.clone(),
                block_mode: policy.block_mode,
                upstream: policy.upstream.clone(),
            };
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
            cache: self.cache.bounds(),
            groups: self.groups(),
            forwards: self.forwards(),
            list_upstreams: self
                .list
                .iter()
                .filter_map(|list| Some((list.name.clone(), list.upstream.clone()?)))
                .collect(),
            upstream_timeout_ms: self.upstream_timeout_ms,
            local: LocalRecords::new(self.local_records(hosts), self.served_locally()),
            chaos: Chaos::new(&self.chaos_version, &self.chaos_id),
            rebinding: self.rebinding(),
            on_store_error: self.on_store_error,
            store_wait_ms_max: self.store_wait_ms_max,
            top_names: self.top_names,
        }
    }

    fn rebinding(&self) -> Rebinding {
        if !self.rebinding_protection {
            return Rebinding::default();
        }
        let trusted = self.upstream.iter().filter(|(_, group)| group.private_answers).map(|(name, _)| name.to_owned());
        // Whoever says where a zone is asked trusts who is asked there.
        let zones = self.forward.iter().flat_map(|forward| &forward.zone);
        let exceptions: Vec<_> = self.rebinding_exceptions.iter().chain(zones).copied().collect();
        Rebinding::refused_except(&exceptions, trusted.collect())
    }

    /// Which thread is to run where.
    pub fn placement(&self) -> Wishes<'_> {
        Wishes {
            cores: self.cores.named(),
            reader_cores: self.reader_cores.named(),
            control_cores: self.control_cores.named(),
            smt: self.smt,
        }
    }

    /// The lists to build a store from.
    pub fn list_specs(&self) -> Vec<ListSpec> {
        self.list.iter().map(List::spec).collect()
    }
}

impl Build {
    /// Has a build use what the configuration says.
    pub fn put_into(&self, options: &mut build::Options) {
        let Build { shards, layout, filter_bits, places, memory, threads } = *self;
        (options.shards, options.layout, options.filter_bits) = (shards, layout, filter_bits);
        (options.places, options.memory_bytes, options.threads) = (places, memory, threads);
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
