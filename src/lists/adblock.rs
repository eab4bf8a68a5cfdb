//! Lists in AdGuard's syntax for DNS.
//!
//! The order of the questions asked of a line is that of AdGuard's DNS engine: comment, cosmetic rule, hosts line, network
//! rule. What that engine would load and never match, because no DNS request looks like it, is skipped and counted here.
//!
//! Invariant: a cosmetic rule, a URL path or a comment never becomes a rule on a name, whatever it looks like.

use std::io::{self, BufRead};

use corewall_sharding::rule::{AliasLabels, Answer, BlockMode, Kind, Rule, Scope};
use memchr::memchr2;
use memchr::memmem::Finder;

use super::AdblockModifiers;
use super::Options;
use super::adblock_pattern::{Limits, NoRule, Pattern, read_pattern};
use super::badfilter::Disabled;
use super::dnsrewrite::Rewrite;
use super::hosts::read_hosts_line;
use super::input::{Line, Lines};
use super::modifiers::Modifiers;
use super::names::{is_local_name, is_name_octet, read_address, read_name};
use super::report::{RefuseReason, SkipReason};
use super::sink::{Sink, Sinkholes};

/// Marks of cosmetic rules, by the octet they begin with.
const COSMETIC_MARKS: [&str; 12] =
    ["##", "#@#", "#?#", "#@?#", "#$#", "#@$#", "#$?#", "#@$?#", "#%#", "#@%#", "$$", "$@$"];

/// Depth of `!#if` blocks within one another that is kept apart; what is deeper ends with the outermost.
const CONDITIONS_MAX: u32 = 1_000;

/// Reads one line after another.
pub struct AdblockReader<'d> {
    disabled: &'d Disabled,
    /// Depth of `!#if` blocks.
    conditions: u32,
}

/// A network rule taken apart at its modifiers.
struct RuleText<'t> {
    /// `@@`, pattern, without modifiers.
    head: &'t str,
    pattern: &'t str,
    exception: bool,
    modifiers: &'t str,
}

impl<'d> AdblockReader<'d> {
    /// A reader at the beginning of a list.
    pub fn new(disabled: &'d Disabled) -> Self {
        Self { disabled, conditions: 0 }
    }

    /// Reads one line.
    pub fn line(&mut self, line: &[u8], sink: &mut Sink<'_>) {
        if self.conditions == 0 && self.read_plain_rule(line, sink) {
            return;
        }
        let Ok(text) = std::str::from_utf8(line) else {
            return self.not_text(line, sink);
        };
        let text = text.trim();
        if self.pass_over(text, sink) {
            return;
        }
        if is_cosmetic(text) {
            return sink.skip(SkipReason::Cosmetic);
        }
        if read_as_hosts(text, sink) {
            return;
        }
        if let Err(reason) = self.read_network_rule(text, sink) {
            match reason {
                NoRule::Skip(reason) => sink.skip(reason),
                NoRule::Refuse(reason) => sink.refuse(text.as_bytes(), reason),
            }
        }
    }

    /// The commonest line by far, `||name^`, without a look at anything else; false when it is another.
    fn read_plain_rule(&self, line: &[u8], sink: &mut Sink<'_>) -> bool {
        let (exception, rest) = match line.strip_prefix(b"@@") {
            Some(rest) => (true, rest),
            None => (false, line),
        };
        let Some(name) = rest.strip_prefix(b"||").and_then(|rest| rest.strip_suffix(b"^")) else { return false };
        if name.len() < 2 || name.ends_with(b".") || !name.iter().all(|&octet| is_name_octet(octet)) {
            return false;
        }
        if sink.read_plain(name).is_err() {
            return false;
        }
        if !self.disabled.is_empty() && std::str::from_utf8(line).is_ok_and(|text| self.disabled.contains(text, "")) {
            sink.skip(SkipReason::Badfilter);
            return true;
        }
        let kind = if exception { Kind::Allow } else { sink.options.default_kind };
        sink.hand_on_plain(Scope::Subtree, kind, line);
        true
    }

    /// Lines that are no rules: comments, directives, headers, and what stands inside a condition.
    fn pass_over(&mut self, text: &str, sink: &mut Sink<'_>) -> bool {
        if text.is_empty() {
            sink.comment();
        } else if let Some(directive) = text.strip_prefix("!#") {
            if directive.starts_with("if") {
                self.conditions = (self.conditions + 1).min(CONDITIONS_MAX);
            } else if directive.starts_with("endif") {
                self.conditions = self.conditions.saturating_sub(1);
            }
            sink.comment();
        } else if text.starts_with('!') || (text.starts_with('#') && !is_cosmetic(text)) || is_header(text) {
            sink.comment();
        } else if self.conditions > 0 {
            sink.skip(SkipReason::Conditional);
        } else {
            return false;
        }
        true
    }

    /// A line in another encoding: only its marks can be told.
    fn not_text(&mut self, line: &[u8], sink: &mut Sink<'_>) {
        let text = String::from_utf8_lossy(line);
        let text = text.trim();
        if self.pass_over(text, sink) {
            return;
        }
        if is_cosmetic(text) { sink.skip(SkipReason::Cosmetic) } else { sink.refuse(line, RefuseReason::BadSyntax) }
    }

    fn read_network_rule(&self, text: &str, sink: &mut Sink<'_>) -> Result<(), NoRule> {
        let rule = RuleText::split(text)?;
        let modifiers = Modifiers::read(rule.modifiers, rule.exception);
        if let Some(reason) = modifiers.void {
            return Err(reason);
        }
        if modifiers.badfilter || self.disabled.contains(rule.head, &modifiers.badfilter_key()) {
            return Err(NoRule::Skip(SkipReason::Badfilter));
        }
        let limits = Limits { allow_wide: sink.options.allow_wide, narrowed: modifiers.narrowed };
        let pattern = read_pattern(rule.pattern, limits);
        if let Some(reason) = modifiers.strippable
            && sink.options.adblock_modifiers == AdblockModifiers::Adguard
        {
            sink.counts.gained_by_stripping += u64::from(pattern.is_ok());
            return Err(reason);
        }
        hand_on(pattern?, rule.exception, modifiers, text, sink);
        Ok(())
    }
}

impl<'t> RuleText<'t> {
    fn split(text: &'t str) -> Result<Self, NoRule> {
        let (exception, body) = match text.strip_prefix("@@") {
            Some(body) => (true, body),
            None => (false, text),
        };
        if body.is_empty() {
            return Err(NoRule::Refuse(RefuseReason::BadSyntax));
        }
        // A regular expression may hold dollar signs of its own.
        let is_regex = body.len() > 1 && body.starts_with('/') && body.ends_with('/') && !body.contains("replace=");
        let at = if is_regex { None } else { find_modifiers(body) };
        let (pattern, modifiers) = match at {
            Some(at) => (&body[..at], &body[at + 1..]),
            None => (body, ""),
        };
        let head = &text[..text.len() - body.len() + pattern.len()];
        Ok(Self { head, pattern, exception, modifiers })
    }
}

/// The place of the last `$` that is not escaped and not the last octet.
fn find_modifiers(body: &str) -> Option<usize> {
    let octets = body.as_bytes();
    (0..octets.len().saturating_sub(1)).rev().find(|&at| octets[at] == b'$' && (at == 0 || octets[at - 1] != b'\\'))
}

fn hand_on(pattern: Pattern, exception: bool, modifiers: Modifiers, text: &str, sink: &mut Sink<'_>) {
    let important = modifiers.important || sink.options.important;
    let mut condition = modifiers.condition;
    let mut kind = if exception { Kind::Allow } else { sink.options.default_kind };
    let mut answer = None;
    let mut target = None;
    match modifiers.rewrite {
        None => {}
        Some(_) if exception => condition.lifts_answers_only = true,
        Some(rewrite) => {
            kind = Kind::Block;
            match rewrite {
                Rewrite::Empty => answer = Some(Answer::Mode(BlockMode::Nodata)),
                Rewrite::Mode(mode) => answer = Some(Answer::Mode(mode)),
                Rewrite::Record(record) => answer = Some(Answer::Records(vec![record])),
                Rewrite::Alias(name) => {
                    kind = Kind::Alias;
                    target = Some(name);
                }
            }
        }
    }
    let (key, scope) = pattern.into_key(target);
    let mut class = sink.class(kind, scope);
    class.important = important;
    class.condition = (!condition.is_empty()).then_some(condition);
    class.answer = answer;
    if kind == Kind::Alias {
        class.alias_labels = AliasLabels::None;
    }
    let rule = Rule { class, key };
    match rule.class.answer {
        // Several rewrites of one name are one answer.
        Some(Answer::Records(_)) => sink.gather(rule, Sinkholes::Answer),
        _ => sink.rule(rule, text.as_bytes()),
    }
}

/// A hosts line, or a name alone, which AdGuard's engine takes for a hosts line of `0.0.0.0`; false when it is neither.
fn read_as_hosts(text: &str, sink: &mut Sink<'_>) -> bool {
    // A comment begins at a `#` behind a blank: AdGuard's engine cuts elsewhere too, and loses the octet in front of it.
    let text = match text.find(" #").or_else(|| text.find("\t#")) {
        Some(at) => text[..at].trim_end(),
        None => text,
    };
    match text.split_once([' ', '\t']) {
        Some((address, names)) if let Some(address) = read_address(address.as_bytes()) => {
            // A zone file's `1.2.3.4 CNAME .` begins with an address too.
            let is_name = |text: &str| is_local_name(text.as_bytes()) || read_name(text.as_bytes()).is_ok();
            match names.split_ascii_whitespace().find(|text| !is_name(text)) {
                Some(text) => sink.refuse(text.as_bytes(), RefuseReason::BadSyntax),
                None => read_hosts_line(address, names.as_bytes(), sink),
            }
            true
        }
        None if is_domain_name(text) => {
            match read_name(text.as_bytes()) {
                Ok(name) => sink.name(name, Scope::Exact, sink.options.default_kind, text.as_bytes()),
                Err(reason) => sink.refuse(text.as_bytes(), reason),
            }
            true
        }
        _ => false,
    }
}

/// What AdGuard's engine takes for a domain name where a line holds nothing else: labels of letters, digits and hyphens that
/// do not begin with a hyphen, the last one of letters alone or an A-label. Any other text is a pattern.
fn is_domain_name(text: &str) -> bool {
    let is_label = |label: &str| {
        (1..=63).contains(&label.len())
            && !label.starts_with('-')
            && label.bytes().all(|octet| octet.is_ascii_alphanumeric() || octet == b'-')
    };
    let mut labels = text.rsplit('.');
    let Some(top) = labels.next() else { return false };
    let top_known = top.bytes().all(|octet| octet.is_ascii_alphabetic())
        || (top.len() >= 8 && top.get(..4).is_some_and(|prefix| prefix.eq_ignore_ascii_case("xn--")));
    text.len() <= 253
        && top.len() >= 2
        && is_label(top)
        && top_known
        && labels.all(|label| is_label(label) && !label.ends_with('-'))
}

/// Whether the first `#` or the first `$` of the line begins a cosmetic mark. A blank in front of it means a comment.
fn is_cosmetic(text: &str) -> bool {
    ['#', '$'].into_iter().any(|first| {
        let Some(at) = text.find(first) else { return false };
        let (before, rest) = text.split_at(at);
        !before.ends_with(' ') && COSMETIC_MARKS.iter().any(|mark| rest.starts_with(mark))
    })
}

/// `[Adblock Plus 2.0]` and its like.
fn is_header(text: &str) -> bool {
    let inner = text.strip_prefix('[').and_then(|text| text.strip_suffix(']'));
    inner.is_some_and(|inner| {
        let inner = inner.to_ascii_lowercase();
        inner.starts_with("ad") || inner.starts_with("ublock")
    })
}

/// What the first pass has told of a list's lines.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum AdblockLines {
    /// Each says the same wherever it stands.
    Alone,
    /// Some may belong together: in an `!#if` block, or as records of one answer.
    #[default]
    Together,
}

/// The first pass: remembers what the `$badfilter` rules of a list switch off, and tells whether its lines stand alone.
///
/// # Errors
/// Those of the reader.
pub fn find_badfilters(reader: &mut dyn BufRead, disabled: &mut Disabled) -> io::Result<AdblockLines> {
    let nothing = Disabled::default();
    let options = Options::new(0);
    let mut ignore = |_: super::Item<'_>| {};
    let mut sink = Sink::new(&options, &mut ignore);
    let mut conditions = AdblockReader::new(&nothing);
    let mut together = false;
    let finders = ["badfilter", "dnsrewrite", "!#if"].map(Finder::new);
    let mut lines = Lines::new(reader);
    while let Some((_, line)) = lines.next()? {
        let Line::Whole(line) = line else { continue };
        // Cheap tests first: this pass reads whole lists for a handful of rules, each behind one of these two octets.
        if memchr2(b'$', b'!', line).is_none() {
            continue;
        }
        let [badfilter, dnsrewrite, condition] = &finders;
        // Too often is harmless: such a list is read in one piece.
        together = together || dnsrewrite.find(line).is_some() || condition.find(line).is_some();
        if !line.starts_with(b"!") && badfilter.find(line).is_none() {
            continue;
        }
        let Ok(text) = std::str::from_utf8(line) else { continue };
        let text = text.trim();
        if conditions.pass_over(text, &mut sink) || is_cosmetic(text) {
            continue;
        }
        let Ok(rule) = RuleText::split(text) else { continue };
        let modifiers = Modifiers::read(rule.modifiers, rule.exception);
        // `$popup,badfilter` switches off the `$popup` rule of the same pattern, not the rule without.
        if modifiers.badfilter && modifiers.void.is_none() && modifiers.strippable.is_none() {
            disabled.insert(rule.head, &modifiers.badfilter_key());
        }
    }
    Ok(if together { AdblockLines::Together } else { AdblockLines::Alone })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cosmetic_marks_are_found_where_adguard_looks_for_them() {
        for text in ["##.ad", "a.example##.ad", "a.example#@#.ad", "a.example#$#body{}", "x$$script", "#%#x", "#?#x"] {
            assert!(is_cosmetic(text), "{text}");
        }
        for text in ["# comment", "0.0.0.0 a.example  ## phishing", "||a.example^$important", "a#b##c"] {
            assert!(!is_cosmetic(text), "{text}");
        }
    }

    #[test]
    fn a_lone_name_is_told_from_a_pattern() {
        for text in ["a.example", "A.Example", "3.example", "xn--abc.xn--fiqs8s", "com"] {
            assert!(is_domain_name(text), "{text}");
        }
        for text in ["728x90px", "a_b.example", "-a.example", "a.example.", ".autos", "a.e", "a.123", "a*.example", ""]
        {
            assert!(!is_domain_name(text), "{text}");
        }
    }

    #[test]
    fn modifiers_begin_at_the_last_dollar_that_is_not_escaped() {
        let split = |text: &'static str| {
            let rule = RuleText::split(text).ok().unwrap();
            (rule.head, rule.pattern, rule.modifiers)
        };
        assert_eq!(split("@@||a^$important"), ("@@||a^", "||a^", "important"));
        assert_eq!(split("||a^$"), ("||a^$", "||a^$", ""));
        assert_eq!(split("/a$/"), ("/a$/", "/a$/", ""));
        assert_eq!(split("/a$/$dnstype=A"), ("/a$/", "/a$/", "dnstype=A"));
        assert_eq!(split(r"||a\$b"), (r"||a\$b", r"||a\$b", ""));
    }
}
