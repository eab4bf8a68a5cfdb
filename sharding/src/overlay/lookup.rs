//! Which entries, and which rules of a generation, an operator means who names a rule.
//!
//! Invariant: a rule of a generation is found in the one shard that may hold it, so that the size of the store does not matter.

use std::collections::HashMap;

use ipnet::IpNet;
use rusqlite::{Connection, params};

use super::Void;
use super::row::REWRITE;
use crate::StoreError;
use crate::generation::Generation;
use crate::name::Name;
use crate::route;
use crate::rows::{Reads, Shard};
use crate::rule::{Class, Kind, ListId, Scope};
use crate::schema::{kind_word, scope_word, source_text};

/// Shards that are open at a time while rules are looked for.
const SHARDS_OPEN_MAX: usize = 64;

/// What a rule does, address rewrites included.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Effect {
    /// A rule of this kind.
    Rule(Kind),
    /// An address rewrite.
    Rewrite,
}

impl Effect {
    /// The word for it in files and reports.
    pub fn word(self) -> &'static str {
        match self {
            Self::Rule(kind) => kind_word(kind),
            Self::Rewrite => REWRITE,
        }
    }
}

/// What rules are looked for by.
#[derive(Clone, Debug, PartialEq, Eq)]
#[expect(clippy::large_enum_variant, reason = "one at a time")]
pub enum Subject {
    /// The rules on this very name.
    Name(Name),
    /// The rules with this very pattern.
    Pattern(String),
    /// The rules on this very address or prefix, and the rewrite of it.
    Address(IpNet),
}

/// Which rules are meant.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Selector {
    /// What they speak of.
    pub subject: Subject,
    /// Only those of this scope.
    pub scope: Option<Scope>,
    /// Only those that do this.
    pub effect: Option<Effect>,
    /// Only those of this list.
    pub list: Option<String>,
}

impl Selector {
    fn takes(&self, effect: Effect, scope: Scope, list: &str) -> bool {
        self.effect.is_none_or(|wanted| wanted == effect)
            && self.scope.is_none_or(|wanted| wanted == scope)
            && self.list.as_deref().is_none_or(|wanted| wanted == list)
    }
}

/// An entry that was found.
pub(crate) struct Held {
    pub seq: u64,
    pub is_void: bool,
}

/// The entries that a selector means.
pub(crate) fn held(conn: &Connection, selector: &Selector) -> rusqlite::Result<Vec<Held>> {
    let name_text;
    let net_text;
    let (key, scopes) = match &selector.subject {
        Subject::Name(name) => {
            name_text = name.to_text();
            (name_text.as_str(), &["exact", "subtree", "below"][..])
        }
        Subject::Pattern(regex) => (regex.as_str(), &["pattern"][..]),
        Subject::Address(net) => {
            net_text = source_text(net);
            (net_text.as_str(), &["address"][..])
        }
    };
    let mut select =
        conn.prepare_cached("SELECT seq, is_void, scope, kind, list FROM entry WHERE key = ? ORDER BY seq")?;
    let mut rows = select.query(params![key])?;
    let mut held = Vec::new();
    while let Some(row) = rows.next()? {
        let (scope, kind, list) = (row.get_ref(2)?.as_str()?, row.get_ref(3)?.as_str()?, row.get_ref(4)?.as_str()?);
        let is_meant = scopes.contains(&scope)
            && selector.scope.is_none_or(|wanted| scope_word(wanted) == scope)
            && selector.effect.is_none_or(|wanted| wanted.word() == kind)
            && selector.list.as_deref().is_none_or(|wanted| wanted == list);
        if is_meant {
            held.push(Held { seq: row.get::<_, i64>(0)? as u64, is_void: row.get(1)? });
        }
    }
    Ok(held)
}

/// A generation's shards, opened when they are first needed.
pub(crate) struct Shards<'a> {
    generation: &'a Generation,
    open: HashMap<u16, Shard>,
}

impl<'a> Shards<'a> {
    pub fn new(generation: &'a Generation) -> Self {
        Self { generation, open: HashMap::new() }
    }

    /// The rules that a selector means, each as what would void it, with its list's name.
    pub fn matching(&mut self, selector: &Selector) -> Result<Vec<(String, Void)>, StoreError> {
        let mut found = Vec::new();
        match &selector.subject {
            Subject::Name(name) => {
                for class in self.classes_of(name)? {
                    let void = |class: &Class| Void::Name { name: *name, scope: class.scope, kind: class.kind };
                    self.add_rule(selector, class, void, &mut found);
                }
            }
            Subject::Pattern(wanted) => {
                for pattern in self.generation.patterns.iter().filter(|pattern| pattern.regex == *wanted) {
                    let void = |class: &Class| Void::Pattern { regex: wanted.clone(), kind: class.kind };
                    self.add_rule(selector, pattern.class, void, &mut found);
                }
            }
            Subject::Address(net) => {
                // They are sorted by prefix.
                let addresses = &self.generation.addresses;
                let first = addresses.partition_point(|address| address.net < *net);
                for address in addresses.iter().skip(first).take_while(|address| address.net == *net) {
                    let void = |class: &Class| Void::Address { net: *net, kind: class.kind };
                    self.add_rule(selector, address.class, void, &mut found);
                }
                for rewrite in self.generation.rewrites.iter().filter(|rewrite| rewrite.from == *net) {
                    if let Some(list) = self.list(rewrite.list)
                        && selector.takes(Effect::Rewrite, Scope::Address, list)
                    {
                        found.push((list.to_owned(), Void::Rewrite { from: *net }));
                    }
                }
            }
        }
        // Rules that differ in their conditions or answers alone are voided together.
        let mut seen = std::collections::HashSet::new();
        found.retain(|void| seen.insert(void.clone()));
        Ok(found)
    }

    fn add_rule(
        &self,
        selector: &Selector,
        class: u32,
        void: impl Fn(&Class) -> Void,
        found: &mut Vec<(String, Void)>,
    ) {
        let Some(class) = self.generation.classes.get(class as usize) else { return };
        let Some(list) = self.list(class.list) else { return };
        if selector.takes(Effect::Rule(class.kind), class.scope, list) {
            found.push((list.to_owned(), void(class)));
        }
    }

    fn list(&self, list: ListId) -> Option<&str> {
        self.generation.lists.get(usize::from(list)).map(|list| &*list.name)
    }

    fn classes_of(&mut self, name: &Name) -> Result<Vec<u32>, StoreError> {
        let shard = route::hash(self.generation.key, name).shard(self.generation.shard_count());
        if self.open.len() >= SHARDS_OPEN_MAX && !self.open.contains_key(&shard) {
            self.open.clear();
        }
        let shard = match self.open.entry(shard) {
            std::collections::hash_map::Entry::Occupied(open) => open.into_mut(),
            std::collections::hash_map::Entry::Vacant(place) => {
                // Not mapped: a few rows are read of what may be a large file.
                place.insert(self.generation.open_shard(shard, Reads::Waiting)?)
            }
        };
        let mut classes = Vec::new();
        shard.classes_of(name.to_text().as_str(), &mut |class| classes.push(class))?;
        Ok(classes)
    }
}
