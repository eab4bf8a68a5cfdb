//! Lists of one name a line.
//!
//! Invariant: what is not a name alone, a comment behind it aside, is refused: a line of another format is not guessed at.

use corewall_sharding::rule::Scope;

use super::names::{is_local_name, read_name_or_below};
use super::report::SkipReason;
use super::sink::Sink;

/// Reads one line.
pub fn line(line: &[u8], sink: &mut Sink<'_>) {
    let text = match line.iter().position(|&octet| octet == b'#') {
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
    match read_name_or_below(text) {
        Ok((name, below)) => {
            let scope = match (below, sink.options.subtree) {
                (true, _) => Scope::Below,
                (false, true) => Scope::Subtree,
                (false, false) => Scope::Exact,
            };
            sink.name(name, scope, sink.options.default_kind, text);
        }
        Err(reason) => sink.refuse(text, reason),
    }
}
