//! Reads the lines of a `LIVE` step.

use std::sync::Arc;

use corewall_sharding::overlay::{LiveChange, LiveEntry, LiveUpdate, Void};
use corewall_sharding::rule::{Class, IpRewrite, Kind, Rule, RuleKey, Scope};

/// Reads one line: `ENTER seq list ...`, `VOID seq list ...` or `LEAVE seq`.
pub fn read(word: &str, rest: &str, update: &mut LiveUpdate) -> Result<(), String> {
    let words: Vec<&str> = rest.split_whitespace().collect();
    let (Some(seq), change) = (words.first().and_then(|seq| seq.parse().ok()), words.get(2..)) else {
        return Err(format!("write {word} and the entry's number"));
    };
    let change = match (word, change) {
        ("LEAVE", None) if words.len() == 1 => {
            update.left.push(seq);
            return Ok(());
        }
        ("ENTER", Some(["rewrite", from, to])) => {
            LiveChange::Rewrite(IpRewrite { from: parse(&prefix(from))?, to: parse(to)?, list: 0 })
        }
        ("ENTER", Some([kind, scope, key, rest @ ..])) => LiveChange::Rule(rule(kind, scope, key, rest)?),
        ("VOID", Some(["rewrite", from])) => LiveChange::Void(Void::Rewrite { from: parse(&prefix(from))? }),
        ("VOID", Some([kind, scope, key])) => LiveChange::Void(void(kind, scope, key)?),
        _ => {
            return Err(
                "write ENTER seq list kind scope key ..., VOID seq list kind scope key, or LEAVE seq".to_owned()
            );
        }
    };
    let list = words.get(1).map(ToString::to_string).unwrap_or_default();
    let entry = LiveEntry { seq, change, list, created_s: 0, expires_s: None, reason: String::new() };
    update.entered.push(Arc::new(entry));
    Ok(())
}

fn rule(kind: &str, scope: &str, key: &str, rest: &[&str]) -> Result<Rule, String> {
    let mut class = Class::plain(read_kind(kind)?, read_scope(scope)?, 0);
    let mut target = None;
    for word in rest {
        match word.split_once('=') {
            Some(("server", server)) => class.servers.push(parse(server)?),
            Some(("target", name)) => target = Some(parse(name)?),
            None if *word == "important" => class.important = true,
            _ => return Err(format!("unknown `{word}`; write important, target=name or server=address:port")),
        }
    }
    let key = match class.scope {
        Scope::Pattern => RuleKey::Pattern { regex: key.to_owned(), target },
        Scope::Address => RuleKey::Address { net: parse(&prefix(key))?, target },
        Scope::Exact | Scope::Subtree | Scope::Below => RuleKey::Name { name: parse(key)?, target },
    };
    Ok(Rule { class, key })
}

fn void(kind: &str, scope: &str, key: &str) -> Result<Void, String> {
    let kind = read_kind(kind)?;
    Ok(match read_scope(scope)? {
        Scope::Pattern => Void::Pattern { regex: key.to_owned(), kind },
        Scope::Address => Void::Address { net: parse(&prefix(key))?, kind },
        scope => Void::Name { name: parse(key)?, scope, kind },
    })
}

fn read_kind(text: &str) -> Result<Kind, String> {
    let kinds = [
        ("forward-allow", Kind::ForwardAllow),
        ("forward-block", Kind::ForwardBlock),
        ("allow", Kind::Allow),
        ("alias", Kind::Alias),
        ("block", Kind::Block),
    ];
    find(text, &kinds, "kind")
}

fn read_scope(text: &str) -> Result<Scope, String> {
    let scopes = [
        ("exact", Scope::Exact),
        ("subtree", Scope::Subtree),
        ("below", Scope::Below),
        ("pattern", Scope::Pattern),
        ("address", Scope::Address),
    ];
    find(text, &scopes, "scope")
}

fn find<T: Copy>(text: &str, known: &[(&str, T)], what: &str) -> Result<T, String> {
    let found = known.iter().find(|(word, _)| *word == text);
    found.map(|(_, value)| *value).ok_or_else(|| format!("unknown {what} `{text}`"))
}

/// An address as the prefix that holds it alone.
fn prefix(text: &str) -> String {
    match text {
        _ if text.contains('/') => text.to_owned(),
        _ if text.contains(':') => format!("{text}/128"),
        _ => format!("{text}/32"),
    }
}

fn parse<T: std::str::FromStr>(text: &str) -> Result<T, String> {
    text.parse().map_err(|_| format!("`{text}` cannot be read"))
}
