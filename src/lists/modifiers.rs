//! The modifiers of a rule in Adblock syntax: what stands behind its last `$`.
//!
//! AdGuard's DNS engine tells three sorts apart: those it honours, those it knows and that keep the rule from ever matching a
//! DNS request, and unknown ones, which void the rule. Invariant: modifiers are read as that engine reads them, down to
//! `$~script`, which excludes a sort of request that a DNS request never is, and so changes nothing.

use std::net::IpAddr;

use corewall_sharding::name::NameError;
use corewall_sharding::rule::{ClientMatch, Condition};
use ipnet::IpNet;

use super::adblock_pattern::NoRule;
use super::dnsrewrite::{Rewrite, read_rewrite};
use super::names::read_name;
use super::records::read_type;
use super::report::{RefuseReason, SkipReason};

/// Values in one modifier; the longest `$denyallow` of real lists has some 250.
const VALUES_MAX: usize = 4_096;

/// Sorts of requests that a browser makes; a DNS request counts as none of them.
const REQUEST_SORTS: [&str; 11] = [
    "script",
    "stylesheet",
    "subdocument",
    "object",
    "image",
    "xmlhttprequest",
    "media",
    "font",
    "websocket",
    "ping",
    "other",
];

/// What the modifiers of a rule say.
#[derive(Debug, Default)]
pub struct Modifiers {
    /// `$important`.
    pub important: bool,
    /// `$badfilter`.
    pub badfilter: bool,
    /// `$dnstype`, `$denyallow`, `$client`, `$ctag`.
    pub condition: Condition,
    /// `$dnsrewrite`.
    pub rewrite: Option<Rewrite>,
    /// Why the rule is void, when something else than a modifier that may be stripped makes it so.
    pub void: Option<NoRule>,
    /// Why the rule is void unless such modifiers are taken off.
    pub strippable: Option<NoRule>,
    /// Negated sorts of requests, in their order in the list; two rules that differ in them are two to `$badfilter`.
    excluded_sorts: u16,
    /// A value limits the rule, so that a wide pattern is let through.
    pub narrowed: bool,
    has_client: bool,
    has_tag: bool,
}

impl Modifiers {
    /// Reads the modifiers of a blocking rule, or of an exception when `exception` is set.
    pub fn read(text: &str, exception: bool) -> Self {
        let mut modifiers = Self::default();
        for option in split_escaped(text, ',') {
            let (name, value) = match option.find('=') {
                Some(at) if at > 0 => (&option[..at], &option[at + 1..]),
                _ => (option.as_str(), ""),
            };
            if let Err(reason) = modifiers.read_one(name, value, exception) {
                modifiers.void.get_or_insert(reason);
            }
        }
        if modifiers.has_client && modifiers.has_tag {
            // Both would have to hold, and a condition knows one set of clients.
            modifiers.void.get_or_insert(NoRule::Refuse(RefuseReason::UnsupportedModifier));
        }
        modifiers
    }

    /// What `$badfilter` compares beside the pattern, in a canonical form.
    pub fn badfilter_key(&self) -> String {
        let list = |clients: &[ClientMatch]| {
            let mut names: Vec<String> = clients.iter().map(client_text).collect();
            names.sort();
            names.join("|")
        };
        let condition = &self.condition;
        if !self.important && self.excluded_sorts == 0 && !self.has_client && !self.has_tag {
            return String::new();
        }
        format!(
            "${}{:x},{},{},{}",
            if self.important { '!' } else { '-' },
            self.excluded_sorts,
            if self.has_tag { 't' } else { 'c' },
            list(&condition.clients),
            list(&condition.clients_not)
        )
    }

    fn read_one(&mut self, name: &str, value: &str, exception: bool) -> Result<(), NoRule> {
        const BROWSER_ONLY: NoRule = NoRule::Skip(SkipReason::BrowserOnly);
        const UNKNOWN: NoRule = NoRule::Refuse(RefuseReason::UnknownModifier);
        let refused = NoRule::Refuse;
        match name {
            "important" => self.important = true,
            "badfilter" => self.badfilter = true,
            "dnstype" => self.read_types(value).map_err(refused)?,
            "denyallow" => self.read_denyallow(value).map_err(refused)?,
            "client" => self.read_clients(value).map_err(refused)?,
            "ctag" => self.read_tags(value).map_err(refused)?,
            "dnsrewrite" => self.rewrite = Some(read_rewrite(value).map_err(refused)?),
            "all" | "doc" | "3p" | "network" => self.strippable = Some(UNKNOWN),
            "third-party" | "popup" => {
                self.strippable.get_or_insert(if name == "popup" && exception { UNKNOWN } else { BROWSER_ONLY });
            }
            "document" => {
                self.strippable.get_or_insert(if exception { BROWSER_ONLY } else { UNKNOWN });
            }
            "~third-party" | "first-party" | "~first-party" | "match-case" | "~match-case" | "domain" => {
                return Err(BROWSER_ONLY);
            }
            "elemhide" | "generichide" | "genericblock" | "jsinject" | "urlblock" | "content" | "extension"
            | "~extension" | "stealth" => return Err(if exception { BROWSER_ONLY } else { UNKNOWN }),
            "empty" | "mp4" => return Err(if exception { UNKNOWN } else { BROWSER_ONLY }),
            _ => {
                let sort = name.strip_prefix('~').unwrap_or(name);
                let place = REQUEST_SORTS.iter().position(|known| *known == sort).ok_or(UNKNOWN)?;
                if sort.len() == name.len() {
                    return Err(BROWSER_ONLY);
                }
                self.excluded_sorts |= 1 << place;
            }
        }
        Ok(())
    }

    fn read_types(&mut self, value: &str) -> Result<(), RefuseReason> {
        for text in value.split('|').take(VALUES_MAX) {
            let (text, types) = match text.strip_prefix('~') {
                Some(text) => (text, &mut self.condition.types_not),
                None => (text, &mut self.condition.types),
            };
            let rtype = read_type(text).ok_or(RefuseReason::BadModifier)?.to_int();
            if !types.contains(&rtype) {
                types.push(rtype);
            }
        }
        self.narrowed = true;
        Ok(())
    }

    fn read_denyallow(&mut self, value: &str) -> Result<(), RefuseReason> {
        for text in value.split('|').take(VALUES_MAX) {
            if let Some(base) = text.strip_suffix(".*") {
                // Under any public suffix: a condition knows no such set. But a list that leaves a remark here, too long
                // for a label, excepts no name by it.
                match read_name(base.as_bytes()) {
                    Err(RefuseReason::Name(NameError::LabelTooLong | NameError::NameTooLong)) => continue,
                    _ => return Err(RefuseReason::UnsupportedModifier),
                }
            }
            let name = read_name(text.as_bytes()).map_err(|_| RefuseReason::BadModifier)?;
            self.condition.names_not.push(name);
        }
        self.narrowed = true;
        Ok(())
    }

    fn read_tags(&mut self, value: &str) -> Result<(), RefuseReason> {
        for text in value.split('|').take(VALUES_MAX) {
            let (tag, clients) = match text.strip_prefix('~') {
                Some(tag) => (tag, &mut self.condition.clients_not),
                None => (text, &mut self.condition.clients),
            };
            if tag.is_empty() || !tag.bytes().all(|octet| matches!(octet, b'a'..=b'z' | b'0'..=b'9' | b'_')) {
                return Err(RefuseReason::BadModifier);
            }
            clients.push(ClientMatch::Named(tag.into()));
        }
        (self.has_tag, self.narrowed) = (true, true);
        Ok(())
    }

    fn read_clients(&mut self, value: &str) -> Result<(), RefuseReason> {
        for text in split_escaped(value, '|').into_iter().take(VALUES_MAX) {
            let (client, clients) = match text.strip_prefix('~') {
                Some(client) => (client, &mut self.condition.clients_not),
                None => (text.as_str(), &mut self.condition.clients),
            };
            let client = unquote(client);
            if client.is_empty() {
                return Err(RefuseReason::BadModifier);
            }
            clients.push(match (client.parse::<IpAddr>(), client.parse::<IpNet>()) {
                (Ok(address), _) => ClientMatch::Net(address.into()),
                (_, Ok(net)) => ClientMatch::Net(net.trunc()),
                _ => ClientMatch::Named(client.into()),
            });
        }
        if self.condition.clients.is_empty() && self.condition.clients_not.is_empty() {
            return Err(RefuseReason::BadModifier);
        }
        (self.has_client, self.narrowed) = (true, true);
        Ok(())
    }
}

fn client_text(client: &ClientMatch) -> String {
    match client {
        ClientMatch::Net(net) => net.to_string(),
        ClientMatch::Named(name) => name.to_string(),
    }
}

/// Takes quotes and the escapes of quotes and commas off a client's name.
fn unquote(text: &str) -> String {
    let quote = text.chars().next().filter(|quote| matches!(quote, '\'' | '"'));
    match quote.and_then(|quote| text.strip_prefix(quote)?.strip_suffix(quote).map(|inner| (quote, inner))) {
        Some((quote, inner)) => inner.replace("\\,", ",").replace(&format!("\\{quote}"), &quote.to_string()),
        None => text.replace("\\,", ","),
    }
}

/// Splits at a separator that no backslash stands before; empty parts vanish.
fn split_escaped(text: &str, separator: char) -> Vec<String> {
    let mut parts = Vec::new();
    let mut part = String::new();
    let mut escaped = false;
    for letter in text.chars() {
        if letter == '\\' && !escaped {
            escaped = true;
        } else if letter == separator && !escaped {
            if !part.is_empty() {
                parts.push(std::mem::take(&mut part));
            }
        } else {
            if escaped && letter != separator {
                part.push('\\');
            }
            escaped = false;
            part.push(letter);
        }
    }
    if !part.is_empty() {
        parts.push(part);
    }
    parts
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn honoured_modifiers_become_conditions() {
        let modifiers = Modifiers::read("important,dnstype=A|~TXT|AAAA,denyallow=a.example|b.example,~script", false);
        assert!(modifiers.important && modifiers.narrowed && modifiers.void.is_none());
        assert_eq!(modifiers.condition.types, [1, 28]);
        assert_eq!(modifiers.condition.types_not, [16]);
        assert_eq!(modifiers.condition.names_not, ["a.example", "b.example"].map(|name| name.parse().unwrap()));
    }

    #[test]
    fn clients_are_addresses_networks_or_quoted_names() {
        let modifiers = Modifiers::read(r"client=192.0.2.1|10.1.2.3/8|'Frank\'s laptop'|~Mom\,Dad", false);
        assert_eq!(
            modifiers.condition.clients,
            [
                ClientMatch::Net("192.0.2.1/32".parse().unwrap()),
                ClientMatch::Net("10.0.0.0/8".parse().unwrap()),
                ClientMatch::Named("Frank's laptop".into())
            ]
        );
        assert_eq!(modifiers.condition.clients_not, [ClientMatch::Named("Mom,Dad".into())]);
        let modifiers = Modifiers::read("ctag=~device_pc|~os_windows", false);
        assert_eq!(modifiers.condition.clients_not.len(), 2);
        assert!(Modifiers::read("ctag=a,client=b", false).void.is_some());
    }

    #[test]
    fn unknown_and_browser_modifiers_void_the_rule_as_adguard_has_it() {
        let unknown = NoRule::Refuse(RefuseReason::UnknownModifier);
        let browser = NoRule::Skip(SkipReason::BrowserOnly);
        for (text, exception, void, strippable) in [
            ("removeparam=x", false, Some(unknown), None),
            ("script", false, Some(browser), None),
            ("~script,~image", false, None, None),
            ("domain=a.example", false, Some(browser), None),
            ("elemhide", false, Some(unknown), None),
            ("elemhide", true, Some(browser), None),
            ("all", false, None, Some(unknown)),
            ("third-party", false, None, Some(browser)),
            ("3p,third-party", true, None, Some(unknown)),
            ("document", false, None, Some(unknown)),
            ("document", true, None, Some(browser)),
            ("popup", true, None, Some(unknown)),
            ("dnstype=NOSUCH", false, Some(NoRule::Refuse(RefuseReason::BadModifier)), None),
            ("denyallow=a.*", false, Some(NoRule::Refuse(RefuseReason::UnsupportedModifier)), None),
            (
                "denyallow=a.example|a_remark_that_is_longer_than_the_sixty_three_octets_of_a_label_may_be.*",
                false,
                None,
                None,
            ),
            ("dnstype=", false, Some(NoRule::Refuse(RefuseReason::BadModifier)), None),
        ] {
            let modifiers = Modifiers::read(text, exception);
            assert_eq!((modifiers.void, modifiers.strippable), (void, strippable), "{text} {exception}");
        }
    }

    #[test]
    fn the_key_of_badfilter_leaves_out_what_adguard_does_not_compare() {
        let key = |text: &str| Modifiers::read(text, false).badfilter_key();
        assert_eq!(key("badfilter"), key("dnstype=A"));
        assert_eq!(key("important,badfilter"), key("important"));
        assert_ne!(key("important"), key(""));
        assert_ne!(key("~script"), key("~image"));
        assert_eq!(key("client=a|b"), key("client=b|a"));
        assert_ne!(key("client=a"), key("ctag=a"));
    }
}
