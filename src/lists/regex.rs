//! Lists of one regular expression a line, as Pi-hole has them: searched in the name, without regard to case.
//!
//! POSIX classes (`[[:space:]]`) are allowed. Of Pi-hole's suffixes `;querytype=A,AAAA` is honoured, also negated by `!`; the
//! others are refused, because they turn the meaning of the line around.

use corewall_sharding::rule::{Condition, Rule, RuleKey, Scope};

use super::patterns::{Dialect, Judgement, judge};
use super::records::read_type;
use super::report::{RefuseReason, SkipReason};
use super::sink::Sink;

/// Pi-hole's suffixes, each behind a semicolon.
const SUFFIXES: [&str; 3] = [";querytype=", ";invert", ";reply="];

/// Reads one line.
pub fn line(line: &[u8], sink: &mut Sink<'_>) {
    let line = line.trim_ascii();
    if line.is_empty() || line.starts_with(b"#") {
        return sink.comment();
    }
    let Ok(text) = std::str::from_utf8(line) else {
        return sink.refuse(line, RefuseReason::BadRegex);
    };
    if let Err(reason) = read(text, sink) {
        sink.refuse(line, reason);
    }
}

fn read(text: &str, sink: &mut Sink<'_>) -> Result<(), RefuseReason> {
    let end = SUFFIXES.iter().filter_map(|suffix| text.find(suffix)).min().unwrap_or(text.len());
    let (regex, suffixes) = text.split_at(end);
    let condition = read_suffixes(suffixes)?;
    match judge(regex, Dialect::Pcre) {
        Judgement::Good => {}
        Judgement::TooWide if sink.options.allow_wide => {}
        Judgement::TooWide => return Err(RefuseReason::TooWide),
        Judgement::Bad => return Err(RefuseReason::BadRegex),
        Judgement::NoName => {
            sink.skip(SkipReason::UrlPart);
            return Ok(());
        }
    }
    let mut class = sink.class(sink.options.default_kind, Scope::Pattern);
    class.condition = condition;
    sink.rule(Rule { class, key: RuleKey::Pattern { regex: regex.to_owned(), target: None } }, text.as_bytes());
    Ok(())
}

fn read_suffixes(suffixes: &str) -> Result<Option<Condition>, RefuseReason> {
    let Some(suffixes) = suffixes.strip_prefix(';') else { return Ok(None) };
    let list = suffixes.strip_prefix("querytype=").ok_or(RefuseReason::UnsupportedModifier)?;
    let (list, negated) = match list.strip_prefix('!') {
        Some(list) => (list, true),
        None => (list, false),
    };
    let mut types = Vec::new();
    for text in list.split(',') {
        types.push(read_type(text.trim()).ok_or(RefuseReason::BadModifier)?.to_int());
    }
    let mut condition = Condition::default();
    *(if negated { &mut condition.types_not } else { &mut condition.types }) = types;
    Ok(Some(condition))
}
