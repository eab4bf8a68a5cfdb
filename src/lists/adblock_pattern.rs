//! The pattern of a rule in Adblock syntax: from its masks to a name, or to a regular expression over the name.
//!
//! AdGuard's engine turns every pattern into a regular expression and runs it over the host name, or over `http://` and the
//! host name when the pattern begins with `||`, `://` or `http://`. Here most patterns become name rules, which cost a hash
//! each; the equivalence holds for host names of the usual octets.
//!
//! Invariant: a pattern that cannot match any name, because it speaks of another part of a URL, never becomes a rule.

use corewall_sharding::name::{Name, NameError};
use corewall_sharding::rule::{RuleKey, Scope};

use super::names::{is_name_octet, read_name};
use super::patterns::{Dialect, Judgement, LITERALS_MIN, PROBES, judge};
use super::report::{RefuseReason, SkipReason};

/// Octets that AdGuard's engine wants in a pattern that no modifier limits.
const PATTERN_BYTES_MIN: usize = 3;
/// Stars in a pattern; each one multiplies the work of a regular expression engine.
const STARS_MAX: usize = 16;

/// Why a pattern is no rule.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NoRule {
    /// It is none of a DNS filter's business.
    Skip(SkipReason),
    /// It may not count.
    Refuse(RefuseReason),
}

/// What a pattern matches.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Pattern {
    /// A name in a scope.
    Name(Name, Scope),
    /// A regular expression, as in [`RuleKey::Pattern`].
    Regex(String),
}

impl Pattern {
    /// The key of a rule with this pattern.
    pub fn into_key(self, target: Option<Name>) -> (RuleKey, Scope) {
        match self {
            Self::Name(name, scope) => (RuleKey::Name { name, target }, scope),
            Self::Regex(regex) => (RuleKey::Pattern { regex, target }, Scope::Pattern),
        }
    }
}

/// How the list limits patterns.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// The list's `allow_wide`.
    pub allow_wide: bool,
    /// Some modifier narrows the rule (`$denyallow`, `$client`, ...), so that even `||` would load.
    pub narrowed: bool,
}

/// Reads a pattern, without `@@` and modifiers.
///
/// # Errors
/// Why it becomes no rule.
pub fn read_pattern(pattern: &str, limits: Limits) -> Result<Pattern, NoRule> {
    if pattern.len() < PATTERN_BYTES_MIN && !limits.narrowed {
        return Err(NoRule::Refuse(RefuseReason::TooWide));
    }
    if let Some(regex) = regex_of(pattern) {
        return read_regex(regex, limits);
    }
    if pattern.bytes().any(|octet| octet.is_ascii_whitespace()) {
        return Err(NoRule::Refuse(RefuseReason::BadSyntax));
    }
    let masks = Masks::parse(pattern)?;
    masks.into_pattern(limits)
}

/// The expression between the slashes of `/.../`.
fn regex_of(pattern: &str) -> Option<&str> {
    pattern.strip_prefix('/')?.strip_suffix('/')
}

fn read_regex(regex: &str, limits: Limits) -> Result<Pattern, NoRule> {
    match judge(regex, Dialect::Go) {
        Judgement::Good => Ok(Pattern::Regex(regex.to_owned())),
        Judgement::TooWide if limits.allow_wide => Ok(Pattern::Regex(regex.to_owned())),
        Judgement::TooWide => Err(NoRule::Refuse(RefuseReason::TooWide)),
        Judgement::NoName => Err(NoRule::Skip(SkipReason::UrlPart)),
        Judgement::Bad => Err(NoRule::Refuse(RefuseReason::BadRegex)),
    }
}

/// Where a pattern may begin to match.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Start {
    /// `||`: at the beginning of any label.
    Label,
    /// `|`, `://`, `http://`: at the beginning of the name.
    Name,
    /// Anywhere.
    Any,
}

/// A pattern taken apart: literal pieces with a `*` between each two.
#[derive(Debug)]
struct Masks<'a> {
    start: Start,
    pieces: Vec<&'a str>,
    /// `^` or `|`: the match ends with the name. The separator mark matches no octet of a name, only its end.
    ends: bool,
}

impl<'a> Masks<'a> {
    fn parse(pattern: &'a str) -> Result<Self, NoRule> {
        let (start, rest) = split_start(pattern);
        if is_address_pattern(rest) {
            return Err(NoRule::Skip(SkipReason::Address));
        }
        // AdGuard's engine reads `/*` at the end as `^`; a `|` is an end mark in the last place only.
        let (rest, cut) = match rest.strip_suffix("/*") {
            Some(before) => (before, true),
            None => rest.strip_suffix('|').map_or((rest, false), |before| (before, true)),
        };
        let (text, after) = rest.split_once('^').map_or((rest, ""), |(text, after)| (text, after));
        let mut ends = cut || text.len() < rest.len();
        // `^*` says no more than `^`; but nothing else of a name can follow its end.
        if !after.bytes().all(|octet| matches!(octet, b'*' | b'^')) || text.bytes().any(is_no_name_octet) {
            return Err(NoRule::Skip(SkipReason::UrlPart));
        }
        let mut pieces: Vec<&str> = text.split('*').collect();
        if pieces.len() > STARS_MAX + 1 {
            return Err(NoRule::Refuse(RefuseReason::BadSyntax));
        }
        // A star at either end frees the match from its anchor there.
        let mut start = start;
        while pieces.len() > 1 && pieces.first().is_some_and(|piece| piece.is_empty()) {
            pieces.remove(0);
            start = Start::Any;
        }
        while pieces.len() > 1 && pieces.last().is_some_and(|piece| piece.is_empty()) {
            pieces.pop();
            ends = false;
        }
        Ok(Self { start, pieces, ends })
    }

    fn into_pattern(self, limits: Limits) -> Result<Pattern, NoRule> {
        if let [piece] = self.pieces.as_slice()
            && self.ends
        {
            match (self.start, piece.strip_prefix('.')) {
                // `||.d` would need two dots in a row before `d`.
                (Start::Label | Start::Name, Some(_)) => return Err(NoRule::Skip(SkipReason::UrlPart)),
                (Start::Label, None) => return name_of(piece, Scope::Subtree),
                (Start::Name, None) => return name_of(piece, Scope::Exact),
                (Start::Any, Some(name)) => return name_of(name, Scope::Below),
                (Start::Any, None) => {}
            }
        }
        self.check_pieces()?;
        if !limits.allow_wide && self.is_wide() {
            return Err(NoRule::Refuse(RefuseReason::TooWide));
        }
        if self.literals() == 0 {
            return Err(NoRule::Refuse(RefuseReason::TooWide));
        }
        Ok(Pattern::Regex(self.to_regex()))
    }

    /// Pieces that no name can hold: an empty label, or a dot at either end of the name.
    fn check_pieces(&self) -> Result<(), NoRule> {
        if self.pieces.iter().any(|piece| !piece.is_ascii()) {
            return Err(NoRule::Refuse(RefuseReason::Name(NameError::BadIdna)));
        }
        let first = self.pieces.first().copied().unwrap_or_default();
        let last = self.pieces.last().copied().unwrap_or_default();
        let impossible = self.pieces.iter().any(|piece| piece.contains(".."))
            || (self.start != Start::Any && first.starts_with('.'))
            || (self.ends && last.ends_with('.'));
        if impossible { Err(NoRule::Skip(SkipReason::UrlPart)) } else { Ok(()) }
    }

    fn literals(&self) -> u32 {
        u32::try_from(self.pieces.iter().map(|piece| piece.len()).sum::<usize>()).unwrap_or(u32::MAX)
    }

    fn is_wide(&self) -> bool {
        self.literals() < LITERALS_MIN || PROBES.iter().any(|name| self.matches(name))
    }

    /// Whether the pattern matches this name.
    fn matches(&self, name: &str) -> bool {
        let begins = |at: usize| match self.start {
            Start::Name => at == 0,
            Start::Label => at == 0 || name.as_bytes().get(at - 1) == Some(&b'.'),
            Start::Any => true,
        };
        let Some((first, rest)) = self.pieces.split_first() else { return true };
        (0..=name.len()).filter(|&at| begins(at)).any(|at| {
            let Some(mut left) = name.get(at..).and_then(|tail| strip_prefix_folded(tail, first)) else { return false };
            for (place, piece) in rest.iter().enumerate() {
                let last = place + 1 == rest.len();
                let found = if last && self.ends {
                    left.len().checked_sub(piece.len()).filter(|&at| strip_prefix_folded(&left[at..], piece).is_some())
                } else {
                    (0..=left.len()).find(|&at| strip_prefix_folded(&left[at..], piece).is_some())
                };
                match found {
                    Some(at) => left = &left[at + piece.len()..],
                    None => return false,
                }
            }
            !self.ends || left.is_empty()
        })
    }

    fn to_regex(&self) -> String {
        let mut regex = String::with_capacity(32);
        regex.push_str(match self.start {
            Start::Label => r"(?:^|\.)",
            Start::Name => "^",
            Start::Any => "",
        });
        for (place, piece) in self.pieces.iter().enumerate() {
            if place > 0 {
                regex.push_str(".*");
            }
            for octet in piece.chars() {
                if octet == '.' {
                    regex.push('\\');
                }
                regex.push(octet.to_ascii_lowercase());
            }
        }
        if self.ends {
            regex.push('$');
        }
        regex
    }
}

fn strip_prefix_folded<'t>(text: &'t str, prefix: &str) -> Option<&'t str> {
    let (head, tail) = text.split_at_checked(prefix.len())?;
    head.eq_ignore_ascii_case(prefix).then_some(tail)
}

fn split_start(pattern: &str) -> (Start, &str) {
    if let Some(rest) = pattern.strip_prefix("||") {
        return (Start::Label, rest);
    }
    for scheme in ["://", "http://"] {
        if let Some(rest) = pattern.strip_prefix(scheme) {
            return (Start::Name, rest);
        }
    }
    // `/ads.` with a dot at its end is matched against the URL, whose last slash stands before the name.
    if let Some(rest) = pattern.strip_prefix('/')
        && rest.len() > 2
        && rest.ends_with('.')
        && rest.bytes().all(|octet| octet.is_ascii_alphanumeric() || matches!(octet, b'.' | b'-'))
    {
        return (Start::Name, rest);
    }
    match pattern.strip_prefix('|') {
        Some(rest) => (Start::Name, rest),
        None => (Start::Any, pattern),
    }
}

/// Whether a pattern speaks of an IPv4 or IPv6 address, a part of one or a network.
fn is_address_pattern(text: &str) -> bool {
    let v4 = text.contains('.')
        && text.bytes().any(|octet| octet.is_ascii_digit())
        && text.bytes().all(|octet| octet.is_ascii_digit() || matches!(octet, b'.' | b'*' | b'/' | b':' | b'^' | b'|'));
    let v6 = text.starts_with('[') && text.contains(':');
    v4 || v6
}

fn is_no_name_octet(octet: u8) -> bool {
    octet.is_ascii() && octet != b'*' && !is_name_octet(octet)
}

fn name_of(text: &str, scope: Scope) -> Result<Pattern, NoRule> {
    // A dot at the end belongs to the pattern here, and no host name ends with one.
    if text.ends_with('.') {
        return Err(NoRule::Skip(SkipReason::UrlPart));
    }
    read_name(text.as_bytes()).map(|name| Pattern::Name(name, scope)).map_err(NoRule::Refuse)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(pattern: &str) -> Result<Pattern, NoRule> {
        read_pattern(pattern, Limits { allow_wide: false, narrowed: false })
    }

    #[test]
    fn patterns_that_mean_a_name_become_names() {
        for (pattern, name, scope) in [
            ("||ads.example^", "ads.example", Scope::Subtree),
            ("||Ads.Example|", "ads.example", Scope::Subtree),
            ("||ads.example^|", "ads.example", Scope::Subtree),
            ("||ads.example^*", "ads.example", Scope::Subtree),
            ("||ads.example/*", "ads.example", Scope::Subtree),
            ("|ads.example^", "ads.example", Scope::Exact),
            ("|ads.example|", "ads.example", Scope::Exact),
            ("|ads.example^|", "ads.example", Scope::Exact),
            ("://ads.example^", "ads.example", Scope::Exact),
            ("http://ads.example^", "ads.example", Scope::Exact),
            (".ads.example^", "ads.example", Scope::Below),
            ("*.ads.example^", "ads.example", Scope::Below),
            ("||*.ads.example^", "ads.example", Scope::Below),
            (".in-addr.arpa|", "in-addr.arpa", Scope::Below),
            ("||b\u{fc}cher.example^", "xn--bcher-kva.example", Scope::Subtree),
        ] {
            assert_eq!(read(pattern), Ok(Pattern::Name(name.parse().unwrap(), scope)), "{pattern}");
        }
    }

    #[test]
    fn other_masks_become_expressions() {
        for (pattern, regex) in [
            ("||ads.", r"(?:^|\.)ads\."),
            ("||smartpixel.tv", r"(?:^|\.)smartpixel\.tv"),
            ("||track*.example.com^", r"(?:^|\.)track.*\.example\.com$"),
            ("||*-reklama.cz", r"-reklama\.cz"),
            ("||banner.*.no^", r"(?:^|\.)banner\..*\.no$"),
            ("||brukerservice*", r"(?:^|\.)brukerservice"),
            ("|topad.html", r"^topad\.html"),
            ("ads.example|", r"ads\.example$"),
            ("finn.no.*", r"finn\.no\."),
            ("*Butikk.com^", r"butikk\.com$"),
            ("/snowfall.jquery.", r"^snowfall\.jquery\."),
            ("://blog.*.top^", r"^blog\..*\.top$"),
            ("||ads*^", r"(?:^|\.)ads"),
        ] {
            assert_eq!(read(pattern), Ok(Pattern::Regex(regex.into())), "{pattern}");
        }
        assert_eq!(read(r"/^ads\d+\.foo/"), Ok(Pattern::Regex(r"^ads\d+\.foo".into())));
    }

    #[test]
    fn parts_of_a_url_and_addresses_are_no_rules() {
        let url = Err(NoRule::Skip(SkipReason::UrlPart));
        for pattern in [
            "||example.com/ads^",
            "||example.com^*.gif",
            "|http://ads.example",
            "https://ads.example^",
            "/banner.js",
            "&ad_type=",
            "||.ads.example^",
            "||ads.example.^",
            "||a..example*",
            "||example.com:8080^",
            "^ads.example",
            "ads|example",
            r"/^https:\/\/x/",
        ] {
            assert_eq!(read(pattern), url, "{pattern}");
        }
        for pattern in ["||1.2.3.4^", "|1.2.3.4|", "||192.168.1.", "10.0.0.0/8", "[2a01::1]", "://1.2.3.4:80/"] {
            assert_eq!(read(pattern), Err(NoRule::Skip(SkipReason::Address)), "{pattern}");
        }
    }

    #[test]
    fn wide_patterns_need_leave_and_empty_ones_never_get_it() {
        for pattern in ["||ad*", "*.*", "||co", "||com", ".com", ".net*", "om^", "||de.", "/.com$/"] {
            let wide = read_pattern(pattern, Limits { allow_wide: true, narrowed: true });
            let refused = read_pattern(pattern, Limits { allow_wide: false, narrowed: true });
            if pattern == "||de." {
                assert!(refused.is_ok());
                continue;
            }
            assert_eq!(refused, Err(NoRule::Refuse(RefuseReason::TooWide)), "{pattern}");
            assert!(wide.is_ok(), "{pattern}");
        }
        for pattern in ["||", "|", "*", "", "||*", "**", "||^"] {
            assert!(read_pattern(pattern, Limits { allow_wide: true, narrowed: true }).is_err(), "{pattern}");
        }
        assert_eq!(
            read_pattern("ab", Limits { allow_wide: true, narrowed: false }),
            Err(NoRule::Refuse(RefuseReason::TooWide))
        );
    }
}
