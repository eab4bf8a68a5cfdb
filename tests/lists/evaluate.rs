//! The precedence of rules in memory: what a store would answer, without one.

use std::collections::HashMap;

use corewall::lists::{Counts, Disabled, Format, Item, Options, find_badfilters, read};
use corewall_sharding::name::Name;
use corewall_sharding::rule::{Answer, BlockMode, Kind, Rule, RuleKey, Scope};
use hyperscan::PatternFlags;
use hyperscan::prelude::*;

/// A list as it was read.
#[derive(Default)]
pub struct Rules {
    pub rules: Vec<Rule>,
    pub counts: Counts,
    by_name: HashMap<Vec<u8>, Vec<usize>>,
    patterns: Vec<usize>,
    engine: Option<(BlockDatabase, Scratch)>,
}

/// What the rules say of a question.
#[derive(Debug, PartialEq, Eq)]
pub enum Verdict<'r> {
    None,
    Allow(&'r Rule),
    Alias(&'r Rule),
    Block(&'r Rule),
}

impl Rules {
    /// Reads a list, `$badfilter` pass included.
    pub fn read(format: Format, text: &[u8], options: &Options) -> Self {
        let mut disabled = Disabled::default();
        if format == Format::Adblock {
            find_badfilters(&mut &text[..], &mut disabled).unwrap();
        }
        let mut rules = Self::default();
        let mut found = Vec::new();
        rules.counts = read(format, &mut &text[..], options, &disabled, &mut |item| {
            if let Item::Rule { rule, .. } = item {
                found.push(rule.clone());
            }
        })
        .unwrap();
        rules.rules = found;
        rules.index();
        rules
    }

    fn index(&mut self) {
        let mut expressions = Vec::new();
        for (place, rule) in self.rules.iter().enumerate() {
            match &rule.key {
                RuleKey::Name { name, .. } => {
                    self.by_name.entry(name.as_wire().to_vec()).or_default().push(place);
                }
                RuleKey::Pattern { regex, .. } => {
                    let flags = PatternFlags::CASELESS | PatternFlags::SINGLEMATCH | PatternFlags::ALLOWEMPTY;
                    let mut pattern = Pattern::with_flags(regex, flags).unwrap();
                    pattern.id = Some(self.patterns.len());
                    self.patterns.push(place);
                    expressions.push(pattern);
                }
                // No answer is at hand to judge.
                RuleKey::Address { .. } => {}
            }
        }
        if !expressions.is_empty() {
            let database: BlockDatabase = Patterns(expressions).build().unwrap();
            let scratch = database.alloc_scratch().unwrap();
            self.engine = Some((database, scratch));
        }
    }

    /// The verdict on a name and type for a client that no rule names.
    pub fn verdict(&self, name: &Name, rtype: u16) -> Verdict<'_> {
        let mut best: Option<(u32, usize, &Rule)> = None;
        let mut weigh = |rule, labels| {
            let Some(tier) = tier(rule, name, rtype) else { return };
            if best
                .is_none_or(|(known, known_labels, _)| (tier, usize::MAX - labels) < (known, usize::MAX - known_labels))
            {
                best = Some((tier, labels, rule));
            }
        };
        for labels in 0..=name.label_count() {
            for &place in self.by_name.get(name.suffix_wire(labels)).into_iter().flatten() {
                let rule = &self.rules[place];
                let whole = labels == name.label_count();
                if match rule.class.scope {
                    Scope::Exact => whole,
                    Scope::Subtree => true,
                    Scope::Below => !whole,
                    Scope::Pattern | Scope::Address => unreachable!("such a rule has no name"),
                } {
                    weigh(rule, labels);
                }
            }
        }
        if let Some((database, scratch)) = &self.engine {
            let text = name.to_text();
            let mut matched = Vec::new();
            let _ = database.scan(text.as_str(), scratch, |id, _, _, _| {
                matched.push(id as usize);
                Matching::Continue
            });
            for id in matched {
                weigh(&self.rules[self.patterns[id]], 0);
            }
        }
        match best {
            None => Verdict::None,
            Some((_, _, rule)) => match rule.class.kind {
                Kind::Alias => Verdict::Alias(rule),
                Kind::Block => Verdict::Block(rule),
                _ => Verdict::Allow(rule),
            },
        }
    }
}

/// The tier of a rule for this question; none when its condition does not hold.
fn tier(rule: &Rule, name: &Name, rtype: u16) -> Option<u32> {
    if let Some(condition) = &rule.class.condition {
        let types = condition.types.is_empty() || condition.types.contains(&rtype);
        let names = condition.names_not.iter().any(|not| name.is_at_or_below(not));
        // The asking client has no name, tag or address that a list could know.
        if !types || condition.types_not.contains(&rtype) || names || !condition.clients.is_empty() {
            return None;
        }
        if condition.lifts_answers_only {
            return None;
        }
    }
    let allows = matches!(rule.class.kind, Kind::Allow | Kind::ForwardAllow);
    Some(match (rule.class.important, allows) {
        (true, true) => 2,
        (true, false) => 3,
        (false, true) => 4,
        (false, false) if rule.class.kind == Kind::Alias => 5,
        (false, false) if rule.class.scope != Scope::Pattern => 6,
        (false, false) => 7,
    })
}

/// The block mode that a rule brings with it.
pub fn own_mode(rule: &Rule) -> Option<BlockMode> {
    match rule.class.answer {
        Some(Answer::Mode(mode)) => Some(mode),
        _ => None,
    }
}
