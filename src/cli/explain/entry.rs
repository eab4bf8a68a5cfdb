//! Which entry of the overlay a rule is, or is removed by, in words.

use std::net::IpAddr;

use corewall_sharding::name::Name;
use corewall_sharding::overlay::{LiveChange, LiveEntry, Void};
use corewall_sharding::rule::{Class, RuleKey};
use ipnet::IpNet;

/// What a rule was found by.
#[derive(Clone, Copy)]
pub enum FoundBy<'a> {
    Name(&'a Name),
    Pattern(&'a str),
    Address(IpNet),
}

impl FoundBy<'_> {
    /// The prefix of so many bits that holds `address`.
    pub fn prefix(address: IpAddr, bits: u8) -> Self {
        FoundBy::Address(IpNet::new(address, bits).map_or_else(|_| address.into(), |net| net.trunc()))
    }
}

/// The entries that are live on the generation that is explained.
pub struct Entries(pub Vec<LiveEntry>);

impl Entries {
    /// What is to be told of the live rule of `class` of `list`; `seq` when it is known.
    pub fn adding(&self, by: FoundBy<'_>, class: &Class, list: &str, seq: Option<u64>) -> String {
        let is_it = |entry: &&LiveEntry| match (&entry.change, seq) {
            (_, Some(seq)) => entry.seq == seq,
            (LiveChange::Rule(rule), None) => {
                let same_class = Class { list: class.list, ..rule.class.clone() } == *class && entry.list == list;
                same_class && is_key(&rule.key, by)
            }
            _ => false,
        };
        self.0.iter().rev().find(is_it).map(|entry| words(entry, "added")).unwrap_or_default()
    }

    /// By what the generation's rule of `class` of `list` was removed, if it was.
    pub fn removing(&self, by: FoundBy<'_>, class: &Class, list: &str) -> Option<String> {
        let is_it = |entry: &&LiveEntry| match &entry.change {
            LiveChange::Void(void) => entry.list == list && voids(void, by, class),
            LiveChange::Rule(_) | LiveChange::Rewrite(_) => false,
        };
        self.0.iter().find(is_it).map(|entry| words(entry, "made"))
    }
}

fn is_key(key: &RuleKey, by: FoundBy<'_>) -> bool {
    match (key, by) {
        (RuleKey::Name { name, .. }, FoundBy::Name(wanted)) => name == wanted,
        (RuleKey::Pattern { regex, .. }, FoundBy::Pattern(wanted)) => regex == wanted,
        (RuleKey::Address { net, .. }, FoundBy::Address(wanted)) => net.trunc() == wanted,
        _ => false,
    }
}

fn voids(void: &Void, by: FoundBy<'_>, class: &Class) -> bool {
    match (void, by) {
        (Void::Name { name, scope, kind }, FoundBy::Name(wanted)) => {
            (name, *scope, *kind) == (wanted, class.scope, class.kind)
        }
        (Void::Pattern { regex, kind }, FoundBy::Pattern(wanted)) => regex == wanted && *kind == class.kind,
        (Void::Address { net, kind }, FoundBy::Address(wanted)) => net.trunc() == wanted && *kind == class.kind,
        _ => false,
    }
}

fn words(entry: &LiveEntry, verb: &str) -> String {
    let mut text = format!("overlay entry {}, {verb} {}", entry.seq, utc(entry.created_s));
    if let Some(expires_s) = entry.expires_s {
        text += &format!(", until {}", utc(expires_s));
    }
    if !entry.reason.is_empty() {
        text += &format!(", reason: {}", entry.reason);
    }
    text
}

/// A moment of Unix time as `2026-01-31 23:59:59 UTC`.
fn utc(unix_s: u64) -> String {
    let (days, second) = (unix_s / 86_400, unix_s % 86_400);
    // Years begin in March, so that the leap day is the last; 400 of them have 146,097 days.
    let from_march = days + 719_468;
    let (era, day) = (from_march / 146_097, from_march % 146_097);
    let year = (day - day / 1_460 + day / 36_524 - day / 146_096) / 365;
    let day_of_year = day - (365 * year + year / 4 - year / 100);
    let month = (5 * day_of_year + 2) / 153;
    let day_of_month = day_of_year - (153 * month + 2) / 5 + 1;
    let (month, years_on) = if month < 10 { (month + 3, 0) } else { (month - 9, 1) };
    let year = era * 400 + year + years_on;
    let (hour, minute) = (second / 3_600, second / 60 % 60);
    format!("{year:04}-{month:02}-{day_of_month:02} {hour:02}:{minute:02}:{:02} UTC", second % 60)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_moment_is_told_as_date_and_time() {
        let told = [0, 951_782_399, 951_782_400, 1_709_208_000, 1_767_225_599, 4_107_542_400].map(utc);
        let dates = [
            "1970-01-01 00:00:00 UTC",
            "2000-02-28 23:59:59 UTC",
            "2000-02-29 00:00:00 UTC",
            "2024-02-29 12:00:00 UTC",
            "2025-12-31 23:59:59 UTC",
            "2100-03-01 00:00:00 UTC",
        ];
        assert_eq!(told, dates);
    }
}
