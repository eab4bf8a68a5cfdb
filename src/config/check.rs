//! What only shows when values of the configuration are put side by side.

use std::collections::HashSet;

use corewall_sharding::manifest::Layout;
use corewall_sharding::rule::BlockMode;

use super::error::{Place, Problem};
use super::local::check_record;
use super::value::WildcardAction;
use super::{Config, List, Policy, upstream};
use crate::limits;
use crate::lists::Format;
use corewall_sharding::overlay::LIST_DEFAULT;

use Place::{Index, Key};

/// Name of the policy of clients that no other one names.
pub(super) const POLICY_DEFAULT: &str = "default";

/// The first problem found.
pub(super) fn check(config: &Config) -> Result<(), Problem> {
    check_cache(config)?;
    check_build(config)?;
    upstream::check(config)?;
    check_lists(config)?;
    check_policies(config)?;
    config.check_local()
}

fn check_cache(config: &Config) -> Result<(), Problem> {
    let cache = &config.cache;
    let bounds = [
        ("ttl_s_max", cache.ttl_s_max, "ttl_s_min", cache.ttl_s_min),
        ("negative_ttl_s_max", cache.negative_ttl_s_max, "negative_ttl_s_min", cache.negative_ttl_s_min),
    ];
    for (upper, most, lower, least) in bounds {
        if most < least {
            let message = format!("{most} is less than {lower} ({least}); raise it or lower {lower}");
            return Err(problem([Key("cache"), Key(upper)], message));
        }
    }
    Ok(())
}

fn check_build(config: &Config) -> Result<(), Problem> {
    if config.build.places == Some(true) && config.build.layout == Layout::Packed {
        let message = "a store of the layout \"packed\" has no places; use \"auto\", or the layout \"sql\"".to_owned();
        return Err(problem([Key("build"), Key("places")], message));
    }
    Ok(())
}

fn check_lists(config: &Config) -> Result<(), Problem> {
    if config.list.len() > limits::LISTS_MAX {
        let message = format!("{} lists are too many; use at most {}", config.list.len(), limits::LISTS_MAX);
        return Err(problem([Key("list"), Index(limits::LISTS_MAX)], message));
    }
    let mut names = HashSet::new();
    for (place, list) in config.list.iter().enumerate() {
        let here = |key| [Key("list"), Index(place), Key(key)];
        if list.name.trim().is_empty() {
            return Err(problem(here("name"), "a list needs a name; give it one"));
        }
        if !names.insert(list.name.as_str()) {
            return Err(problem(here("name"), format!("`{}` names two lists; give each its own name", list.name)));
        }
        check_list(list, here)?;
        for (index, answer) in list.answers.iter().enumerate() {
            check_record(&answer.rtype, &answer.data).map_err(|message| {
                problem([Key("list"), Index(place), Key("answers"), Index(index), Key("data")], message)
            })?;
        }
    }
    Ok(())
}

fn check_list(list: &List, here: impl Fn(&'static str) -> [Place; 3]) -> Result<(), Problem> {
    if list.block_mode == Some(BlockMode::Sinkhole) && list.sinkhole.is_empty() {
        return Err(problem(here("block_mode"), "\"sinkhole\" needs addresses; add sinkhole = [\"192.0.2.1\"]"));
    }
    // An option that the format does not look at is a misunderstanding: better said now than found out by a user.
    let ignored = [
        (list.subtree && !matches!(list.format, Format::Plain | Format::Hosts), "subtree", "plain and hosts"),
        (list.hosts_addresses && list.format != Format::Hosts, "hosts_addresses", "hosts"),
        (
            list.adblock_modifiers != Default::default() && list.format != Format::Adblock,
            "adblock_modifiers",
            "adblock",
        ),
        (
            list.wildcard_action != WildcardAction::Block && list.format != Format::DnsmasqSqlite,
            "wildcard_action",
            "dnsmasq-sqlite",
        ),
    ];
    match ignored.into_iter().find(|(is_ignored, ..)| *is_ignored) {
        Some((_, key, formats)) => Err(problem(
            here(key),
            format!("has no meaning for format {}; it is for {formats}: remove it", list.format),
        )),
        None => Ok(()),
    }
}

fn check_policies(config: &Config) -> Result<(), Problem> {
    if config.policy.len() >= limits::POLICIES_MAX {
        let message = format!("{} policies are too many; use fewer than {}", config.policy.len(), limits::POLICIES_MAX);
        return Err(problem([Key("policy"), Index(limits::POLICIES_MAX - 1)], message));
    }
    let mut names = HashSet::new();
    let mut clients = HashSet::new();
    for (place, policy) in config.policy.iter().enumerate() {
        let here = |key| [Key("policy"), Index(place), Key(key)];
        if !names.insert(policy.name.as_str()) {
            let message = format!("`{}` names two policies; give each its own name", policy.name);
            return Err(problem(here("name"), message));
        }
        check_policy_lists(config, place, policy)?;
        if policy.name == POLICY_DEFAULT && !policy.clients.is_empty() {
            let message = "the policy `default` is for clients that no other one names; remove its clients";
            return Err(problem(here("clients"), message));
        }
        if policy.name != POLICY_DEFAULT && policy.clients.is_empty() {
            let message = format!("the policy `{}` applies to nobody; add clients = [\"192.0.2.0/24\"]", policy.name);
            return Err(problem(here("name"), message));
        }
        if let Some(net) = policy.clients.iter().find(|&&net| !clients.insert(net)) {
            let message = format!("{net} has two policies; name each prefix once");
            return Err(problem(here("clients"), message));
        }
    }
    Ok(())
}

fn check_policy_lists(config: &Config, place: usize, policy: &Policy) -> Result<(), Problem> {
    for (index, name) in policy.lists.iter().flatten().enumerate() {
        // Rules that are added by hand need no list of the configuration.
        if name != LIST_DEFAULT && !config.list.iter().any(|list| &list.name == name) {
            let names: Vec<&str> = config.list.iter().map(|list| list.name.as_str()).collect();
            let message = match names.is_empty() {
                true => format!("there is no list `{name}`; add it as [[list]]"),
                false => format!("there is no list `{name}`; the lists are {}", names.join(", ")),
            };
            return Err(problem([Key("policy"), Index(place), Key("lists"), Index(index)], message));
        }
    }
    Ok(())
}

fn problem<const N: usize>(path: [Place; N], message: impl Into<String>) -> Problem {
    Problem { path: path.to_vec(), message: message.into() }
}
