//! `[upstream.NAME]`: groups of upstream servers; `[[forward]]`: zones that are asked of servers of their own.

use std::collections::{BTreeMap, HashSet};
use std::fmt;
use std::net::SocketAddr;

use corewall_sharding::name::Name;
use serde::Deserialize;
use serde::de::{self, Deserializer, MapAccess, Visitor};

use super::error::{Place, Problem};
use super::{Config, value};
use crate::decide::case::CaseRandomization;
use crate::decide::forward::Forwards;
use crate::decide::peer::Terms;
use crate::decide::settings::{Group, Strategy};
use crate::decide::subnet::{SubnetMode, SubnetPolicy};
use crate::limits;

use Place::{Index, Key, Named};

/// Groups that are always there, maybe without servers.
const ALWAYS: [&str; 3] = ["default", "allow", "block"];
/// Before the first zone of a `[[forward]]` entry in the name of the group of its own servers; no group of the file can have it.
const FORWARD_GROUP: &str = "forward:";

/// The upstream groups by name; `default`, `allow` and `block` are always there.
#[derive(Clone, Debug, PartialEq)]
pub struct Upstreams(BTreeMap<String, Upstream>);

impl Default for Upstreams {
    fn default() -> Self {
        Self(ALWAYS.into_iter().map(|name| (name.to_owned(), Upstream::default())).collect())
    }
}

impl Upstreams {
    /// A group by its name.
    pub fn get(&self, name: &str) -> Option<&Upstream> {
        self.0.get(name)
    }

    /// All of them: `default`, `allow` and `block`, then the others in the order of their names.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &Upstream)> {
        let always = ALWAYS.into_iter().filter_map(|name| Some((name, self.0.get(name)?)));
        let others = self.0.iter().map(|(name, group)| (name.as_str(), group));
        always.chain(others.filter(|(name, _)| !ALWAYS.contains(name)))
    }

    fn names(&self) -> String {
        self.iter().map(|(name, _)| name).collect::<Vec<_>>().join(", ")
    }
}

impl<'de> Deserialize<'de> for Upstreams {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct GroupsVisitor;
        impl<'de> Visitor<'de> for GroupsVisitor {
            type Value = Upstreams;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("tables such as [upstream.default]")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Upstreams, A::Error> {
                let mut groups = Upstreams::default();
                while let Some(name) = map.next_key::<GroupName>()? {
                    groups.0.insert(name.0, map.next_value()?);
                }
                Ok(groups)
            }
        }
        deserializer.deserialize_map(GroupsVisitor)
    }
}

/// A name that a group may have.
struct GroupName(String);

impl<'de> Deserialize<'de> for GroupName {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let name = String::deserialize(deserializer)?;
        let is_allowed = |c: u8| c.is_ascii_lowercase() || c.is_ascii_digit() || c == b'-' || c == b'_';
        match !name.is_empty() && name.len() <= limits::UPSTREAM_NAME_BYTES_MAX && name.bytes().all(is_allowed) {
            true => Ok(Self(name)),
            false => Err(de::Error::custom(format!(
                "`{name}` is no name for a group; use 1 to {} lower-case letters, digits, `-` and `_`",
                limits::UPSTREAM_NAME_BYTES_MAX
            ))),
        }
    }
}

/// One upstream group.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Upstream {
    /// In the order in which they are tried.
    #[serde(deserialize_with = "value::servers")]
    pub servers: Vec<SocketAddr>,
    /// Which of them is asked.
    pub strategy: Strategy,
    /// Servers that strategy `parallel` asks at once.
    #[serde(deserialize_with = "value::parallel")]
    pub parallel: u8,
    /// Milliseconds until another server is asked too; 0: never.
    #[serde(deserialize_with = "value::hedge_ms")]
    pub hedge_ms: u64,
    /// The group that is asked when none of these servers gives an answer.
    pub fallback: Option<String>,
    /// Whether its NXDOMAIN holds for all names below (RFC 8020).
    pub nxdomain_cut: bool,
    /// Whether its answers may hold private addresses in spite of `rebinding_protection`.
    pub private_answers: bool,
    /// Whether the letter case of questions is a secret.
    pub case_randomization: CaseRandomization,
    /// Whether its servers are sent cookies.
    pub cookies: bool,
    /// What is done with client subnets.
    pub client_subnet: SubnetMode,
    /// Bits of an IPv4 address that its servers may be told.
    #[serde(deserialize_with = "value::client_subnet_v4")]
    pub client_subnet_v4: u8,
    /// The same for IPv6.
    #[serde(deserialize_with = "value::client_subnet_v6")]
    pub client_subnet_v6: u8,
}

impl Default for Upstream {
    fn default() -> Self {
        Self {
            servers: Vec::new(),
            strategy: Strategy::Fastest,
            parallel: 2,
            hedge_ms: 0,
            fallback: None,
            nxdomain_cut: true,
            private_answers: false,
            case_randomization: CaseRandomization::Auto,
            cookies: true,
            client_subnet: SubnetMode::Drop,
            client_subnet_v4: limits::NETWORK_V4_BITS_MAX,
            client_subnet_v6: limits::NETWORK_V6_BITS_MAX,
        }
    }
}

impl Upstream {
    /// How its servers are spoken to.
    fn terms(&self) -> Terms {
        let subnet =
            SubnetPolicy { mode: self.client_subnet, v4_bits: self.client_subnet_v4, v6_bits: self.client_subnet_v6 };
        Terms { case: self.case_randomization, cookies: self.cookies, subnet }
    }
}

/// Zones that are asked of servers of their own.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Forward {
    /// The zones, each with everything under it.
    #[serde(deserialize_with = "value::zones")]
    pub zone: Vec<Name>,
    /// Their servers.
    #[serde(default, deserialize_with = "value::servers")]
    pub servers: Vec<SocketAddr>,
    /// Instead of servers: a group.
    #[serde(default)]
    pub upstream: Option<String>,
}

impl Config {
    /// The groups that the query path works with: those of the file, and one for each `[[forward]]` entry with servers of its
    /// own.
    pub(super) fn groups(&self) -> Vec<Group> {
        let named = self.upstream.iter().map(|(name, group)| Group {
            strategy: group.strategy,
            parallel: group.parallel,
            hedge_ms: group.hedge_ms,
            fallback: group.fallback.clone(),
            nxdomain_cut: group.nxdomain_cut,
            terms: group.terms(),
            ..Group::new(name, group.servers.clone())
        });
        let own = self.forward.iter().filter(|forward| forward.upstream.is_none());
        named.chain(own.map(|forward| Group::new(&forward.group(), forward.servers.clone()))).collect()
    }

    /// Which zone is asked of which of them.
    pub(super) fn forwards(&self) -> Forwards {
        let zones = self.forward.iter().flat_map(|forward| {
            let group = forward.group();
            forward.zone.iter().map(move |zone| (*zone, group.clone()))
        });
        Forwards::new(zones)
    }
}

impl Forward {
    /// The name of its group: that of the configuration, or one after its first zone, so that what is cached of it stays its own
    /// when entries come and go.
    fn group(&self) -> String {
        let own = || format!("{FORWARD_GROUP}{}", self.zone.first().unwrap_or(&Name::ROOT).to_text().as_str());
        self.upstream.clone().unwrap_or_else(own)
    }
}

/// What only shows when groups and those who name them are put side by side.
pub(super) fn check(config: &Config) -> Result<(), Problem> {
    let groups = &config.upstream;
    if groups.0.len() > limits::UPSTREAM_GROUPS_MAX {
        let message = format!("{} groups are too many; use at most {}", groups.0.len(), limits::UPSTREAM_GROUPS_MAX);
        return Err(Problem { path: vec![Key("upstream")], message });
    }
    for (name, group) in groups.iter() {
        let here = |key| vec![Key("upstream"), Named(name.to_owned()), Key(key)];
        if let Some(fallback) = &group.fallback {
            known(groups, fallback, here("fallback"))?;
            check_cycle(groups, name, here("fallback"))?;
        }
    }
    check_forwards(config)?;
    for (place, policy) in config.policy.iter().enumerate() {
        let path = vec![Key("policy"), Index(place), Key("upstream")];
        policy.upstream.as_ref().map_or(Ok(()), |name| known(groups, name, path))?;
    }
    for (place, list) in config.list.iter().enumerate() {
        let path = vec![Key("list"), Index(place), Key("upstream")];
        list.upstream.as_ref().map_or(Ok(()), |name| known(groups, name, path))?;
    }
    check_unused(config)
}

fn known(groups: &Upstreams, name: &str, path: Vec<Place>) -> Result<(), Problem> {
    match groups.get(name) {
        Some(_) => Ok(()),
        None => {
            let message =
                format!("there is no group `{name}`; add it as [upstream.NAME], or use one of {}", groups.names());
            Err(Problem { path, message })
        }
    }
}

/// Groups that stood in for each other in a circle would be asked for ever.
fn check_cycle(groups: &Upstreams, name: &str, path: Vec<Place>) -> Result<(), Problem> {
    let mut chain = vec![name];
    while let Some(next) = chain.last().and_then(|last| groups.get(last)?.fallback.as_deref()) {
        if chain.contains(&next) {
            let message = format!(
                "`{}` falls back to itself ({}); take one of these fallbacks out",
                next,
                chain.iter().chain([&next]).copied().collect::<Vec<_>>().join(" -> ")
            );
            return Err(Problem { path, message });
        }
        chain.push(next);
    }
    Ok(())
}

fn check_forwards(config: &Config) -> Result<(), Problem> {
    if config.forward.len() > limits::FORWARDS_MAX {
        let message = format!(
            "{} [[forward]] entries are too many; use at most {}, or a list of forward-allow rules",
            config.forward.len(),
            limits::FORWARDS_MAX
        );
        return Err(Problem { path: vec![Key("forward"), Index(limits::FORWARDS_MAX)], message });
    }
    let mut zones = HashSet::new();
    for (place, forward) in config.forward.iter().enumerate() {
        let here = |key| vec![Key("forward"), Index(place), Key(key)];
        match &forward.upstream {
            Some(_) if !forward.servers.is_empty() => {
                let message = "names servers and an upstream group; remove one of them";
                return Err(Problem { path: here("upstream"), message: message.to_owned() });
            }
            Some(name) => known(&config.upstream, name, here("upstream"))?,
            None if forward.servers.is_empty() => {
                let message = "has neither servers nor an upstream group; add servers = [\"192.0.2.53\"]";
                return Err(Problem { path: here("zone"), message: message.to_owned() });
            }
            None => {}
        }
        if let Some(zone) = forward.zone.iter().find(|zone| !zones.insert(**zone)) {
            let message = format!("`{}` is forwarded twice; name each zone once", zone.to_text().as_str());
            return Err(Problem { path: here("zone"), message });
        }
    }
    Ok(())
}

/// A group that nobody asks is mostly a slip of the pen in its name.
fn check_unused(config: &Config) -> Result<(), Problem> {
    let fallbacks = config.upstream.iter().filter_map(|(_, group)| group.fallback.as_deref());
    let forwards = config.forward.iter().filter_map(|forward| forward.upstream.as_deref());
    let policies = config.policy.iter().filter_map(|policy| policy.upstream.as_deref());
    let lists = config.list.iter().filter_map(|list| list.upstream.as_deref());
    let used: HashSet<&str> =
        ALWAYS.into_iter().chain(fallbacks).chain(forwards).chain(policies).chain(lists).collect();
    match config.upstream.iter().find(|(name, _)| !used.contains(name)) {
        None => Ok(()),
        Some((name, _)) => {
            let message = format!(
                "nothing asks the group `{name}`; name it as fallback of another group or as upstream of a [[forward]], \
                 [[policy]] or [[list]] (default, allow and block are always asked)"
            );
            Err(Problem { path: vec![Key("upstream"), Named(name.to_owned())], message })
        }
    }
}
