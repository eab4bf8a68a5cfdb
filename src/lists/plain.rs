//! Lists of one name a line.
//!
//! Invariant: what is not a name alone, a comment behind it aside, is refused: a line of another format is not guessed at.

use corewall_sharding::rule::Scope;
use memchr::memchr;

use super::names::is_local_name;
use super::report::SkipReason;
use super::sink::Sink;

/// Reads one line.
pub fn line(line: &[u8], sink: &mut Sink<'_>) {
    let text = match memchr(b'#', line) {
        Some(at) => line.get(..at).unwrap_or_default(),
        None => line,
    }
    .trim_ascii();
    // No name begins with the comment marks of Adblock lists and zone files.
    if text.is_empty() || text.starts_with(b"!") || text.starts_with(b";") {
        return sink.comment();
    }
    if is_local_name(text) {
        return sink.skip(SkipReason::LocalName);
    }
    read_word(text, sink);
}

/// Reads a name alone, or `*.` and a name: everything under it.
pub fn read_word(text: &[u8], sink: &mut Sink<'_>) {
    let (name, scope) = match text.strip_prefix(b"*.") {
        Some(rest) => (rest, Scope::Below),
        None if sink.options.subtree => (text, Scope::Subtree),
        None => (text, Scope::Exact),
    };
    sink.name_text(name, scope, sink.options.default_kind, text);
}
