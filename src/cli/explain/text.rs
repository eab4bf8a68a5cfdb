//! Rules in words: the normalised form of what lists wrote.

use corewall_sharding::rule::{Answer, Class, ClientMatch, Condition, List};
use domain::base::Rtype;

use super::found::{Found, FoundRule};
use crate::build::report::{kind_name, scope_name};
use crate::decide::rule::{Inapplicable, Tier};
use crate::decide::rulebook::RuleBook;

/// The rules that were found, one a line; `=>` is before the one that decides, but for a name that is not theirs to decide.
pub fn candidates(rules: &RuleBook, found: &Found, is_local: bool) -> String {
    let mut out = String::new();
    for rule in &found.rules {
        let Some(class) = rules.class(rule.class) else { continue };
        let wins = !is_local && rule.outcome.is_ok() && rule.outcome.ok() == found.winner;
        let tier = Tier::of(class);
        let from = rules.list(class.list).map(|book| list(&book.list)).unwrap_or_default();
        let mark = if wins { "=>" } else { "  " };
        out += &format!("  {mark} {} {:<16}  {}  [{from}]", tier as u8, tier_name(tier), normalised(class, rule));
        if let Err(why) = rule.outcome {
            out += &format!("  not applied: {}", inapplicable(why));
        }
        if !rule.entry.is_empty() {
            out += &format!("  ({})", rule.entry);
        }
        out.push('\n');
    }
    out
}

/// A list's name with its category.
pub fn list(list: &List) -> String {
    if list.category.is_empty() {
        format!("`{}`", list.name)
    } else {
        format!("`{}`, category {}", list.name, list.category)
    }
}

fn tier_name(tier: Tier) -> &'static str {
    match tier {
        Tier::ImportantAllow => "important allow",
        Tier::ImportantBlock => "important block",
        Tier::Allow => "allow",
        Tier::Alias => "alias",
        Tier::BlockByName => "block by name",
        Tier::BlockByPattern => "block by pattern",
    }
}

fn inapplicable(why: Inapplicable) -> &'static str {
    match why {
        Inapplicable::Scope => "it does not speak of this very name",
        Inapplicable::Policy => "the client's policy leaves its list out",
        Inapplicable::Condition => "its condition does not hold",
        Inapplicable::Voided => "it was removed by hand",
        Inapplicable::UnknownClass => "the store is damaged",
    }
}

fn normalised(class: &Class, rule: &FoundRule) -> String {
    let mut words = vec![kind_name(class.kind).to_owned(), scope_name(class.scope).to_owned(), rule.key.clone()];
    if let Some(target) = &rule.target {
        words.push(format!("-> {target}"));
    }
    if class.important {
        words.push("important".to_owned());
    }
    if let Some(condition) = &class.condition {
        words.extend(conditions(condition));
    }
    if !class.servers.is_empty() {
        words.push(format!("servers {}", joined(&class.servers)));
    }
    match &class.answer {
        None => {}
        Some(Answer::Mode(mode)) => words.push(format!("answer {}", format!("{mode:?}").to_lowercase())),
        Some(Answer::Records(records)) => {
            let types: Vec<Rtype> = records.iter().map(|record| Rtype::from_int(record.rtype)).collect();
            words.push(if types.is_empty() {
                "answer nodata".to_owned()
            } else {
                format!("answer {}", joined(&types))
            });
        }
    }
    words.join(" ")
}

fn conditions(condition: &Condition) -> Vec<String> {
    let types = |types: &[u16]| joined(&types.iter().copied().map(Rtype::from_int).collect::<Vec<_>>());
    let clients = |clients: &[ClientMatch]| {
        let texts = clients.iter().map(|client| match client {
            ClientMatch::Net(net) => net.to_string(),
            ClientMatch::Named(name) => name.to_string(),
        });
        texts.collect::<Vec<_>>().join(",")
    };
    let Condition { types: only, types_not, names_not, clients: whose, clients_not, lifts_answers_only } = condition;
    [
        (!only.is_empty()).then(|| format!("types {}", types(only))),
        (!types_not.is_empty()).then(|| format!("not types {}", types(types_not))),
        (!names_not.is_empty()).then(|| format!("not under {}", joined(names_not))),
        (!whose.is_empty()).then(|| format!("clients {}", clients(whose))),
        (!clients_not.is_empty()).then(|| format!("not clients {}", clients(clients_not))),
        lifts_answers_only.then(|| "lifts rules with an answer only".to_owned()),
    ]
    .into_iter()
    .flatten()
    .collect()
}

fn joined<T: ToString>(values: &[T]) -> String {
    values.iter().map(ToString::to_string).collect::<Vec<_>>().join(",")
}
