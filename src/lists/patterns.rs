//! What can be told of a regular expression before the pattern engine compiles it.
//!
//! Invariant: an expression that leaves here compiles, may match some host name, and does not match nearly every one. The
//! text is handed on as the list wrote it; taking it apart serves the judgement alone.

use fancy_regex::{Regex, RegexBuilder};
use hyperscan::{Pattern, PatternFlags};
use regex_syntax::ParserBuilder;
use regex_syntax::hir::{Class, Hir, HirKind};

use super::names::is_name_octet;

/// Octets of a regular expression; those of real lists stay below 2,000.
pub const REGEX_BYTES_MAX: usize = 8 * 1024;
/// Letters that a match must at least hold for an expression not to be too wide (semantics.md).
pub const LITERALS_MIN: u32 = 3;
/// A class of at most so many octets counts as a literal: `[0-9]` and `[_.-]` do, `[a-z]` and `.` do not.
const NARROW_CLASS_MAX: usize = 12;
/// Steps of the engine that judges expressions with look-around, so that none can stop a build.
const BACKTRACKS_MAX: usize = 10_000;

/// Names that nobody registered, under suffixes that millions did: what matches one of them matches a whole suffix.
pub const PROBES: [&str; 24] = [
    "qzxvkjw.com",
    "qzxvkjw.net",
    "qzxvkjw.org",
    "qzxvkjw.info",
    "qzxvkjw.xyz",
    "qzxvkjw.top",
    "qzxvkjw.shop",
    "qzxvkjw.online",
    "qzxvkjw.io",
    "qzxvkjw.de",
    "qzxvkjw.uk",
    "qzxvkjw.co.uk",
    "qzxvkjw.fr",
    "qzxvkjw.nl",
    "qzxvkjw.eu",
    "qzxvkjw.ru",
    "qzxvkjw.cn",
    "qzxvkjw.com.cn",
    "qzxvkjw.com.br",
    "qzxvkjw.com.au",
    "qzxvkjw.jp",
    "qzxvkjw.it",
    "qzxvkjw.pl",
    "www.qzxvkjw.no",
];

/// What an expression turned out to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Judgement {
    /// Matches some names.
    Good,
    /// Matches nearly any name, or all names under a suffix.
    TooWide,
    /// Holds something that no host name holds, such as a slash or a colon, wherever it could match.
    NoName,
    /// Does not compile.
    Bad,
}

/// Which constructs an expression may use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Dialect {
    /// Go's, as in AdGuard's engine: no look-around, no back-reference.
    Go,
    /// PCRE's, as the pattern engine takes them, those that need a second engine included.
    Pcre,
}

/// Judges an expression that is searched in the lower-case text of a name.
pub fn judge(regex: &str, dialect: Dialect) -> Judgement {
    if regex.is_empty() || regex.len() > REGEX_BYTES_MAX {
        return Judgement::Bad;
    }
    let parsed = ParserBuilder::new().case_insensitive(true).utf8(false).build().parse(regex);
    match &parsed {
        Ok(hir) if !may_match_name(hir) => return Judgement::NoName,
        Ok(hir) if literals(hir) < LITERALS_MIN => return Judgement::TooWide,
        _ => {}
    }
    let engine = is_known_to_hyperscan(regex);
    let confirmer = compile(regex);
    let compiles = match dialect {
        // What this parser cannot take apart and the engine can, such as a lone brace, Go takes as well.
        Dialect::Go => engine,
        Dialect::Pcre => engine || confirmer.is_some(),
    };
    if !compiles {
        return Judgement::Bad;
    }
    let wide = confirmer.is_some_and(|regex| PROBES.iter().any(|name| regex.is_match(name).unwrap_or(true)));
    if wide { Judgement::TooWide } else { Judgement::Good }
}

fn compile(regex: &str) -> Option<Regex> {
    RegexBuilder::new(regex).case_insensitive(true).backtrack_limit(BACKTRACKS_MAX).build().ok()
}

fn is_known_to_hyperscan(regex: &str) -> bool {
    Pattern::with_flags(regex, PatternFlags::CASELESS).and_then(|pattern| pattern.info()).is_ok()
}

/// Whether some text of name octets alone matches; anchors are taken to hold.
fn may_match_name(hir: &Hir) -> bool {
    match hir.kind() {
        HirKind::Empty | HirKind::Look(_) => true,
        HirKind::Literal(literal) => literal.0.iter().all(|&octet| is_name_octet(octet)),
        HirKind::Class(class) => octets(class).next().is_some(),
        HirKind::Repetition(repetition) => repetition.min == 0 || may_match_name(&repetition.sub),
        HirKind::Capture(capture) => may_match_name(&capture.sub),
        HirKind::Concat(parts) => parts.iter().all(may_match_name),
        HirKind::Alternation(parts) => parts.iter().any(may_match_name),
    }
}

/// The fewest octets told by the expression itself in any match.
fn literals(hir: &Hir) -> u32 {
    match hir.kind() {
        HirKind::Empty | HirKind::Look(_) => 0,
        HirKind::Literal(literal) => u32::try_from(literal.0.len()).unwrap_or(u32::MAX),
        HirKind::Class(class) => u32::from(octets(class).count() <= NARROW_CLASS_MAX),
        HirKind::Repetition(repetition) => repetition.min.saturating_mul(literals(&repetition.sub)),
        HirKind::Capture(capture) => literals(&capture.sub),
        HirKind::Concat(parts) => parts.iter().fold(0, |sum: u32, part| sum.saturating_add(literals(part))),
        HirKind::Alternation(parts) => {
            parts.iter().filter(|part| may_match_name(part)).map(literals).min().unwrap_or_default()
        }
    }
}

/// The octets of lower-case names in a class.
fn octets(class: &Class) -> impl Iterator<Item = u8> {
    (0..=127u8).filter(move |&octet| {
        is_name_octet(octet)
            && !octet.is_ascii_uppercase()
            && match class {
                Class::Unicode(class) => {
                    class.iter().any(|range| (range.start()..=range.end()).contains(&char::from(octet)))
                }
                Class::Bytes(class) => class.iter().any(|range| (range.start()..=range.end()).contains(&octet)),
            }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_expression_is_judged_by_what_it_can_match() {
        for (regex, judgement) in [
            (r"^ad([sxv]?[0-9]*|system)[_.-]([^.[:space:]]+\.){1,}", Judgement::Good),
            (r"^(.+[_.-])?(facebook|fb(cdn|sbx)?|tfbnw)\.[^.]+$", Judgement::Good),
            (r"^\d{5,}\.", Judgement::Good),
            (r"^mads\.", Judgement::Good),
            (r"^https?:\/\/ads\.", Judgement::NoName),
            (r"^(https?:\/\/)?ads\.foo", Judgement::Good),
            (r"example\.com\/[a-z]+", Judgement::NoName),
            (r"", Judgement::Bad),
            (r"a(b", Judgement::Bad),
            (r".*", Judgement::TooWide),
            (r"a|b", Judgement::TooWide),
            (r"[a-z]+\.[a-z]+", Judgement::TooWide),
            (r"\.com$", Judgement::TooWide),
            (r"\.(com|example)$", Judgement::TooWide),
            (r"^.{3,}\.de?", Judgement::TooWide),
        ] {
            assert_eq!(judge(regex, Dialect::Go), judgement, "{regex}");
        }
    }

    #[test]
    fn look_around_is_for_lists_of_expressions_only() {
        assert_eq!(judge(r"^(?!www)ads\.", Dialect::Go), Judgement::Bad);
        assert_eq!(judge(r"^(?!www)ads\.", Dialect::Pcre), Judgement::Good);
        assert_eq!(judge(r"^(?!qqq).*$", Dialect::Pcre), Judgement::TooWide);
    }
}
