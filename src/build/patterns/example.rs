//! A text that a regular expression matches, made up from the expression: what a pattern engine is tested with.

use fancy_regex::Regex;
use regex_syntax::ParserBuilder;
use regex_syntax::hir::{Class, Hir, HirKind};

use super::confirming;
use crate::limits;

/// A short lower-case text that `regex` matches, or none when none is easily found: for expressions that
/// `regex_syntax` cannot read, with word boundaries that the text happens not to have, or without printable characters.
pub fn example_of(regex: &str) -> Option<String> {
    let tree = ParserBuilder::new()
        .unicode(false)
        .utf8(false)
        .nest_limit(limits::PATTERN_NESTING_MAX)
        .build()
        .parse(regex)
        .ok()?;
    let mut bytes = Vec::new();
    write(&tree, &mut bytes)?;
    let text = String::from_utf8(bytes).ok()?.to_ascii_lowercase();
    let is_matched = |engine: Regex| engine.is_match(text.as_bytes()).unwrap_or(false);
    (!text.is_empty() && confirming(regex).is_ok_and(is_matched)).then_some(text)
}

/// Appends what `tree` matches, each choice decided for the first and the shortest. The recursion is bounded by the nesting
/// that the parser takes.
fn write(tree: &Hir, text: &mut Vec<u8>) -> Option<()> {
    match tree.kind() {
        HirKind::Empty | HirKind::Look(_) => {}
        HirKind::Literal(literal) => text.extend_from_slice(&literal.0),
        HirKind::Class(Class::Bytes(class)) => text.push(pick(class.ranges().iter().map(|r| (r.start(), r.end())))?),
        HirKind::Class(Class::Unicode(class)) => {
            let narrow = |c: char| u8::try_from(u32::from(c)).unwrap_or(u8::MAX);
            text.push(pick(class.ranges().iter().map(|r| (narrow(r.start()), narrow(r.end()))))?);
        }
        HirKind::Repetition(repetition) => {
            for _ in 0..repetition.min {
                write(&repetition.sub, text)?;
            }
        }
        HirKind::Capture(capture) => write(&capture.sub, text)?,
        HirKind::Concat(parts) => parts.iter().try_for_each(|part| write(part, text))?,
        HirKind::Alternation(choices) => write(choices.first()?, text)?,
    }
    (text.len() <= limits::PATTERN_EXAMPLE_BYTES_MAX).then_some(())
}

/// A character of the class as names have them: a letter rather than a digit, a digit rather than another one.
fn pick(ranges: impl Iterator<Item = (u8, u8)> + Clone) -> Option<u8> {
    let mut wanted = (b'a'..=b'z').chain(b'0'..=b'9').chain(0x21..=0x7e);
    wanted.find(|byte| ranges.clone().any(|(start, end)| (start..=end).contains(byte)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn examples_are_short_and_match() {
        for (regex, example) in [
            (r"^ad([sxv]?[0-9]*|system)[_.-]", "ad-"),
            ("FOO(bar)+", "foobar"),
            (r"[[:digit:]]{3}\.", "000."),
            ("[^a-z]x", "0x"),
            (r"^(a|b)\.c$", "a.c"),
        ] {
            assert_eq!(example_of(regex).as_deref(), Some(example), "{regex}");
        }
    }

    #[test]
    fn what_has_no_easy_example_has_none() {
        for regex in ["(?=a)b", ".*", "(", r"a\Bb\b", "x{5000}"] {
            let example = example_of(regex);
            assert!(example.is_none() || regex == r"a\Bb\b", "{regex}: {example:?}");
        }
    }
}
