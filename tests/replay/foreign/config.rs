//! Unbound's configuration in our words; what it has beside them is left out.

use std::net::IpAddr;

use crate::scenario::File;

/// The server for everything where the configuration names none.
const SERVER: &str = "192.0.2.53";

/// Options that are one of `[cache]` each. The values of those that end in `ms` and `s` are in the same unit in both.
const CACHE_OPTIONS: [(&str, &str); 9] = [
    ("cache-max-ttl", "ttl_s_max"),
    ("cache-min-ttl", "ttl_s_min"),
    ("cache-max-negative-ttl", "negative_ttl_s_max"),
    ("cache-min-negative-ttl", "negative_ttl_s_min"),
    ("serve-expired", "stale"),
    ("serve-expired-ttl", "stale_window_s"),
    ("serve-expired-reply-ttl", "stale_ttl_s"),
    ("serve-expired-client-timeout", "stale_client_timeout_ms"),
    ("prefetch", "prefetch"),
];

/// What begins a section; other keys without a value are templates of test tools.
const SECTIONS: [&str; 6] = ["server", "forward-zone", "stub-zone", "rpz", "auth-zone", "view"];

/// What a scenario's configuration becomes.
#[derive(Debug, Default)]
pub struct Translated {
    /// In TOML.
    pub toml: String,
    /// The lists beside it.
    pub files: Vec<File>,
    /// The servers for everything that no rule sends elsewhere; none when any server answers it.
    pub default_servers: Vec<IpAddr>,
    /// Servers that have zones of their own.
    pub zone_servers: Vec<IpAddr>,
}

/// A `forward-zone` or `stub-zone`.
#[derive(Debug, Default)]
struct Zone {
    is_forward: bool,
    name: String,
    servers: Vec<IpAddr>,
    /// Whether the servers for everything are asked when these fail.
    has_fallback: bool,
}

/// An `rpz` clause.
#[derive(Debug, Default)]
struct PolicyZone {
    text: String,
    action: String,
    target: String,
}

/// What is read of Unbound's configuration.
#[derive(Debug, Default)]
struct Unbound {
    zones: Vec<Zone>,
    policy_zones: Vec<PolicyZone>,
    /// `local-zone` and `local-data` as they stand.
    local: String,
    cache: String,
    /// `access-control`: prefix and action.
    clients: Vec<(String, String)>,
    /// `local-zone` of type `nodefault`.
    no_default: Vec<String>,
}

/// Translates the lines of a configuration. `addresses_of` knows the addresses of a `forward-host`.
pub fn translate(lines: &[String], addresses_of: &dyn Fn(&str) -> Vec<IpAddr>) -> Translated {
    let unbound = Unbound::read(lines, addresses_of);
    let mut translated = Translated::default();
    let mut lists = String::new();
    let mut add = |format: &str, text: String| {
        let name = format!("{}.{format}", translated.files.len());
        let is_wide = if format == "rpz" { "allow_public_suffix = true\n" } else { "" };
        lists.push_str(&format!("\n[[list]]\nname = \"{name}\"\npath = \"{name}\"\nformat = \"{format}\"\n{is_wide}"));
        translated.files.push(File { name, text, is_database: false });
    };
    for zone in &unbound.policy_zones {
        if let Some(text) = zone.overridden() {
            add("rpz", text);
        }
    }
    if !unbound.local.is_empty() {
        add("unbound", unbound.local.clone());
    }
    let everything = unbound.zones.iter().filter(|zone| zone.name == ".").max_by_key(|zone| zone.is_forward);
    // A rule that forwards a zone would win over rules that block in it, which none of Unbound's zones does.
    let has_rules = !unbound.local.is_empty() || !unbound.policy_zones.is_empty();
    let others = unbound.zones.iter().filter(|zone| zone.name != "." && !has_rules);
    let others: Vec<&Zone> = others.filter(|_| everything.is_some() || unbound.zones.len() > 1).collect();
    translated.default_servers = everything.map(|zone| zone.servers.clone()).unwrap_or_default();
    if !others.is_empty() {
        let mut text = String::new();
        for zone in &others {
            let fallback = translated.default_servers.iter().filter(|_| zone.has_fallback);
            for server in zone.servers.iter().chain(fallback) {
                text.push_str(&format!("server=/{}/{server}\n", zone.name));
            }
        }
        add("dnsmasq", text);
        translated.zone_servers = others.iter().flat_map(|zone| zone.servers.clone()).collect();
    }
    let mut servers: Vec<String> = translated.default_servers.iter().map(IpAddr::to_string).collect();
    if servers.is_empty() {
        servers.push(SERVER.to_owned());
    }
    translated.toml =
        format!("{}\n[upstream.default]\nservers = {servers:?}\n{}{lists}", unbound.top(), unbound.cache());
    translated
}

impl Unbound {
    fn read(lines: &[String], addresses_of: &dyn Fn(&str) -> Vec<IpAddr>) -> Unbound {
        let mut unbound = Unbound::default();
        let mut section = String::new();
        let mut rest = lines.iter();
        while let Some(line) = rest.next() {
            if line.starts_with("TEMPFILE_CONTENTS") {
                let text = rest.by_ref().take_while(|line| !line.starts_with("TEMPFILE_END"));
                let text = text.map(|line| format!("{line}\n")).collect();
                if let (Some(zone), "rpz") = (unbound.policy_zones.last_mut(), section.as_str()) {
                    zone.text = text;
                }
                continue;
            }
            for (key, values) in clauses(line) {
                let Some(value) = values.first() else {
                    if !SECTIONS.contains(&key.as_str()) {
                        continue;
                    }
                    section = key;
                    match section.as_str() {
                        "forward-zone" | "stub-zone" => {
                            unbound.zones.push(Zone { is_forward: section == "forward-zone", ..Zone::default() })
                        }
                        "rpz" => unbound.policy_zones.push(PolicyZone::default()),
                        _ => {}
                    }
                    continue;
                };
                match section.as_str() {
                    "forward-zone" | "stub-zone" => {
                        let Some(zone) = unbound.zones.last_mut() else { continue };
                        match key.as_str() {
                            "name" => zone.name.clone_from(value),
                            "forward-first" | "stub-first" => zone.has_fallback = value == "yes",
                            "forward-addr" | "stub-addr" => zone.servers.extend(value.parse::<IpAddr>()),
                            "forward-host" | "stub-host" => {
                                let known = addresses_of(value).into_iter();
                                let new: Vec<IpAddr> = known.filter(|known| !zone.servers.contains(known)).collect();
                                zone.servers.extend(new);
                            }
                            _ => {}
                        }
                    }
                    "rpz" => {
                        let Some(zone) = unbound.policy_zones.last_mut() else { continue };
                        match key.as_str() {
                            "rpz-action-override" => zone.action.clone_from(value),
                            "rpz-cname-override" => zone.target.clone_from(value),
                            _ => {}
                        }
                    }
                    // Views are not ours: policies choose lists by client, but lists here are for all.
                    "view" | "auth-zone" => {}
                    _ => unbound.server(line, &key, &values),
                }
            }
        }
        unbound
    }

    /// An option of the server itself.
    fn server(&mut self, line: &str, key: &str, values: &[String]) {
        match (key, values) {
            ("local-zone", [name, kind]) if kind == "nodefault" => self.no_default.push(name.clone()),
            ("local-zone" | "local-data", _) => self.local.push_str(&format!("{line}\n")),
            ("access-control", [prefix, action]) => self.clients.push((prefix.clone(), action.clone())),
            ("response-ip", [prefix, action]) => {
                let rdata = match action.as_str() {
                    "deny" => "CNAME rpz-drop.",
                    "always_nxdomain" => "CNAME .",
                    // Its data follows.
                    _ => return,
                };
                self.address_rule(prefix, rdata);
            }
            ("response-ip-data", [prefix, data]) => self.address_rule(prefix, data),
            (_, [value]) => {
                let Some((_, ours)) = CACHE_OPTIONS.iter().find(|(theirs, _)| *theirs == key) else { return };
                let value = match value.as_str() {
                    "yes" => "true",
                    "no" => "false",
                    number => number,
                };
                self.cache.push_str(&format!("{ours} = {value}\n"));
            }
            _ => {}
        }
    }

    /// `response-ip` is what a policy zone says of an address.
    fn address_rule(&mut self, prefix: &str, rdata: &str) {
        let Some((address, bits)) = prefix.split_once('/') else { return };
        let reversed: Vec<&str> = address.split('.').rev().collect();
        let text = format!("{bits}.{}.rpz-ip. {rdata}\n", reversed.join("."));
        self.policy_zones.push(PolicyZone { text, ..PolicyZone::default() });
    }

    fn cache(&self) -> String {
        let mut cache = self.cache.clone();
        // Off in Unbound unless turned on.
        for key in ["stale", "prefetch"] {
            if !cache.contains(&format!("{key} = ")) {
                cache.push_str(&format!("{key} = false\n"));
            }
        }
        if cache.is_empty() { cache } else { format!("\n[cache]\n{cache}") }
    }

    /// Options that stand before all tables.
    fn top(&self) -> String {
        let mut top = String::new();
        if !self.clients.is_empty() {
            let allowed = self.clients.iter().filter(|(_, action)| action.starts_with("allow"));
            let mut allowed: Vec<&str> = allowed.map(|(prefix, _)| prefix.as_str()).collect();
            // Unbound serves its own machine unless told otherwise.
            let is_local = |prefix: &str| prefix.starts_with("127.");
            let is_refused =
                self.clients.iter().any(|(prefix, action)| is_local(prefix) && !action.starts_with("allow"));
            allowed.push(if is_refused { "::1" } else { "127.0.0.0/8" });
            top.push_str(&format!("clients_allowed = {allowed:?}\n"));
        }
        let has = |suffix: &str| self.no_default.iter().any(|name| name.trim_end_matches('.').ends_with(suffix));
        if has("in-addr.arpa") || has("ip6.arpa") {
            top.push_str("local_reverse_zones = false\n");
        }
        if self.no_default.iter().any(|name| !name.contains("arpa")) {
            top.push_str("special_use_names = false\n");
        }
        top
    }
}

impl PolicyZone {
    /// The zone with the action of `rpz-action-override` in each of its rules; none when the zone is turned off.
    fn overridden(&self) -> Option<String> {
        let rdata = match self.action.as_str() {
            "" => return Some(self.text.clone()),
            "disabled" => return None,
            "nxdomain" => "CNAME .".to_owned(),
            "nodata" => "CNAME *.".to_owned(),
            "passthru" => "CNAME rpz-passthru.".to_owned(),
            "drop" => "CNAME rpz-drop.".to_owned(),
            "cname" => format!("CNAME {}.", self.target.trim_end_matches('.')),
            action => return Some(format!("unknown action {action}\n")),
        };
        let is_rule = |words: &[&str]| words.iter().any(|word| matches!(*word, "A" | "AAAA" | "TXT" | "CNAME"));
        let mut text = String::new();
        let mut owners: Vec<&str> = Vec::new();
        for line in self.text.lines() {
            let words: Vec<&str> = line.split_whitespace().collect();
            match words.as_slice() {
                [owner, rest @ ..] if is_rule(rest) => {
                    // One action for each owner, however many records it had.
                    if !owners.contains(owner) {
                        owners.push(owner);
                        text.push_str(&format!("{owner} {rdata}\n"));
                    }
                }
                _ => text.push_str(&format!("{line}\n")),
            }
        }
        Some(text)
    }
}

/// The `key: value value` clauses of a line; a key without values begins a section. Quotes hold a value together.
fn clauses(line: &str) -> Vec<(String, Vec<String>)> {
    let mut clauses: Vec<(String, Vec<String>)> = Vec::new();
    let mut rest = line.trim_start();
    while let Some(first) = rest.chars().next() {
        let (word, is_quoted) = match first {
            '#' => break,
            '"' | '\'' => {
                let inner = &rest[1..];
                let end = inner.find(first).unwrap_or(inner.len());
                rest = inner.get(end + 1..).unwrap_or_default();
                (&inner[..end], true)
            }
            _ => {
                let end = rest.find([' ', '\t', '"', '\'']).unwrap_or(rest.len());
                let (word, after) = rest.split_at(end);
                rest = after;
                (word, false)
            }
        };
        match (word.strip_suffix(':'), clauses.last_mut()) {
            (Some(key), _) if !is_quoted => clauses.push((key.to_owned(), Vec::new())),
            (_, Some((_, values))) => values.push(word.to_owned()),
            // A file's name or the like.
            (_, None) => {}
        }
        rest = rest.trim_start();
    }
    clauses
}
