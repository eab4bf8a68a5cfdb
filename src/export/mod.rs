//! From a generation back to lists.
//!
//! ```text
//!  generation ── each shard's names in order ─┐
//!             ── patterns, address rules ─────┼─ chosen? ── Writer of a format ── text
//!             ── address rewrites ────────────┘              └ what it cannot say: counted by reason
//! ```
//!
//! Architecture invariants: memory is bounded by what a generation keeps in memory anyhow, for names are written as they are
//! read, shard by shard and in order within each. A format is never given a rule that it would make another of: what it cannot
//! say is left out, counted, and told ([`Left`]). Rules of the overlay are in no generation, and so in no export.

mod names;
mod said;
mod table;
mod zone;

use std::collections::BTreeMap;
use std::fmt;
use std::io::{self, Write};
use std::ops::ControlFlow;

use corewall_sharding::StoreError;
use corewall_sharding::generation::Generation;
use corewall_sharding::rule::{Class, ClassId, IpRewrite, Kind, List, ListId, Scope};
use ipnet::IpNet;

/// In what syntax.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Format {
    /// A name a line: block rules by name; allow rules when they alone are chosen.
    Plain,
    /// The same as a hosts file.
    Hosts,
    /// A response policy zone: block, allow and alias rules by name, client address and answer address.
    Rpz,
    /// Everything, with a line of column names (RFC 4180).
    Csv,
    /// Everything, a JSON object a line.
    Jsonl,
}

/// What is exported.
#[derive(Clone, Debug, Default)]
pub struct Selection {
    /// Of these lists; empty means all.
    pub lists: Vec<ListId>,
    /// Of these kinds, and whether address rewrites; none means all.
    pub kinds: Option<(Vec<Kind>, bool)>,
    /// Of these scopes; empty means all. Address rewrites have none.
    pub scopes: Vec<Scope>,
}

impl Selection {
    fn holds(&self, class: &Class) -> bool {
        (self.lists.is_empty() || self.lists.contains(&class.list))
            && self.kinds.as_ref().is_none_or(|(kinds, _)| kinds.contains(&class.kind))
            && (self.scopes.is_empty() || self.scopes.contains(&class.scope))
    }

    fn holds_rewrite(&self, rewrite: &IpRewrite) -> bool {
        (self.lists.is_empty() || self.lists.contains(&rewrite.list))
            && self.kinds.as_ref().is_none_or(|(_, rewrites)| *rewrites)
            && self.scopes.is_empty()
    }

    /// Only allow rules were chosen.
    fn is_of_allowed(&self) -> bool {
        self.kinds.as_ref().is_some_and(|(kinds, rewrites)| **kinds == [Kind::Allow] && !rewrites)
    }
}

/// Why nothing, or not everything, was exported.
#[derive(Debug)]
pub enum ExportError {
    /// The generation cannot be read.
    Store(Box<StoreError>),
    /// The output cannot be written.
    Output(io::Error),
}

impl fmt::Display for ExportError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Store(error) => error.fmt(f),
            Self::Output(error) => write!(f, "cannot write the export: {error}"),
        }
    }
}

impl From<StoreError> for ExportError {
    fn from(error: StoreError) -> Self {
        Self::Store(Box::new(error))
    }
}

impl From<io::Error> for ExportError {
    fn from(error: io::Error) -> Self {
        Self::Output(error)
    }
}

/// What became of the chosen rules.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Left {
    /// Rules that were written.
    pub written: u64,
    /// Rules that were left out, by reason.
    pub out: BTreeMap<&'static str, u64>,
    /// Rules that were written though the format cannot say all of them, by what it cannot.
    pub noted: BTreeMap<&'static str, u64>,
}

impl Left {
    fn leave_out(&mut self, why: &'static str) {
        *self.out.entry(why).or_default() += 1;
    }

    fn note(&mut self, what: &'static str) {
        *self.noted.entry(what).or_default() += 1;
    }
}

/// What the writers of formats have in common.
trait Writer {
    /// Before all rules.
    fn begin(&mut self, _out: &mut dyn Write) -> io::Result<()> {
        Ok(())
    }

    /// A rule by name. Those of one name follow each other.
    fn name(&mut self, name: &str, class: ClassId, target: Option<&str>, out: &mut dyn Write) -> io::Result<()>;

    /// A pattern.
    fn pattern(&mut self, regex: &str, class: ClassId, target: Option<&str>, out: &mut dyn Write) -> io::Result<()>;

    /// A rule on addresses.
    fn address(&mut self, net: &IpNet, class: ClassId, target: Option<&str>, out: &mut dyn Write) -> io::Result<()>;

    /// An address rewrite.
    fn rewrite(&mut self, rewrite: &IpRewrite, out: &mut dyn Write) -> io::Result<()>;

    /// After all rules.
    fn end(&mut self, _out: &mut dyn Write) -> io::Result<()> {
        Ok(())
    }

    /// What was written and what was not.
    fn left(self: Box<Self>) -> Left;
}

/// Writes the chosen rules of a generation. A shard that cannot be read ends it.
///
/// # Errors
/// The generation cannot be read, or the output not be written.
pub fn export(
    generation: &Generation,
    selection: &Selection,
    format: Format,
    out: &mut dyn Write,
) -> Result<Left, ExportError> {
    let chosen: Vec<bool> = generation.classes.iter().map(|class| selection.holds(class)).collect();
    let is_chosen = |class: ClassId| chosen.get(class as usize).copied().unwrap_or(false);
    let book = Book { classes: &generation.classes, lists: &generation.lists };
    let mut writer: Box<dyn Writer + '_> = match format {
        Format::Plain => Box::new(names::NamesWriter::new(book, "", selection.is_of_allowed())),
        Format::Hosts => Box::new(names::NamesWriter::new(book, names::HOSTS_PREFIX, selection.is_of_allowed())),
        Format::Rpz => Box::new(zone::ZoneWriter::new(book, generation.manifest.created_s)),
        Format::Csv => Box::new(table::CsvWriter::new(book)),
        Format::Jsonl => Box::new(table::JsonWriter::new(book)),
    };
    writer.begin(out)?;
    for mut shard in generation.open_shards(false)? {
        let mut outcome = Ok(());
        shard.each_rule(&mut |name, class, target| {
            if is_chosen(class) {
                outcome = writer.name(name, class, target, out);
            }
            if outcome.is_ok() { ControlFlow::Continue(()) } else { ControlFlow::Break(()) }
        })?;
        outcome?;
    }
    for row in generation.patterns.iter().filter(|row| is_chosen(row.class)) {
        let target = row.target.map(|target| target.to_text());
        writer.pattern(&row.regex, row.class, target.as_ref().map(|target| target.as_str()), out)?;
    }
    for row in generation.addresses.iter().filter(|row| is_chosen(row.class)) {
        let target = row.target.as_ref().map(|target| target.to_text());
        writer.address(&row.net, row.class, target.as_ref().map(|target| target.as_str()), out)?;
    }
    for rewrite in generation.rewrites.iter().filter(|rewrite| selection.holds_rewrite(rewrite)) {
        writer.rewrite(rewrite, out)?;
    }
    writer.end(out)?;
    out.flush()?;
    Ok(writer.left())
}

/// Classes and lists by their numbers.
#[derive(Clone, Copy)]
struct Book<'a> {
    classes: &'a [Class],
    lists: &'a [List],
}

impl Book<'_> {
    fn list_of(&self, class: &Class) -> Option<&List> {
        self.lists.get(usize::from(class.list))
    }
}

/// What patterns and rewrites are called where they are left out.
const PATTERN: &str = "patterns";
const REWRITE: &str = "address rewrites";
const ADDRESS: &str = "rules on addresses";
const FORWARD: &str = "forwarding rules";
const IMPORTANT: &str = "important rules";
const CONDITION: &str = "rules with a condition (type, client, excepted names)";
const ROOT: &str = "rules on every name";
const SPELLING: &str = "rules on names that this format cannot spell";
const MODE: &str = "rules with a block mode of their own are read back with that of their list";
