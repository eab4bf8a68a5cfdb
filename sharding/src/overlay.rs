//! What is changed by hand while generations come and go: rules that were added, and rules of generations that were voided.
//!
//! Each change is an entry with a number that only grows. A generation that has entries folded in names the last of them
//! ([`crate::manifest::Manifest::overlay_seq`]); only later ones are live on top of it, and those that end by themselves, which
//! are never folded ([`LiveEntry::is_live_on`]).
//!
//! A rule that was added is in force whatever voids there are: these speak of generations' rules alone.

mod disk;
mod file;
mod lookup;
mod reading;
mod row;

use ipnet::IpNet;

pub use self::file::{
    ENTRIES_MAX, LIST_BYTES_MAX, LIVE_LISTS_MAX, LIVE_PATTERNS_MAX, LIVE_RULES_MAX, NewEntry, Overlay,
    REASON_BYTES_MAX, Removal, Removed,
};
pub use self::lookup::{Effect, Selector, Subject};
pub use self::reading::{Filter, Snapshot};

use crate::name::Name;
use crate::rule::{IpRewrite, Kind, Rule, Scope};

/// The list that a rule belongs to which was added without saying one.
pub const LIST_DEFAULT: &str = "live";

/// One entry of the overlay.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LiveEntry {
    /// Grows by each entry; never used again.
    pub seq: u64,
    /// What it says.
    pub change: LiveChange,
    /// The list that the rule belongs to, or whose rules are voided.
    pub list: String,
    /// When it was made, Unix time in seconds.
    pub created_s: u64,
    /// When it ends by itself, Unix time in seconds.
    pub expires_s: Option<u64>,
    /// Why, in the operator's words; may be empty.
    pub reason: String,
}

impl LiveEntry {
    /// Whether it is live on top of a generation that has entries up to `overlay_seq` folded in. What ends by itself is never
    /// folded in, for a generation cannot end it.
    pub fn is_live_on(&self, overlay_seq: u64) -> bool {
        self.seq > overlay_seq || self.expires_s.is_some()
    }
}

/// What an entry says.
#[derive(Clone, Debug, PartialEq, Eq)]
// One at a time, or in a box with its entry.
#[expect(clippy::large_enum_variant)]
pub enum LiveChange {
    /// A rule. The list's number in its class is 0 and means nothing: the entry names the list.
    Rule(Rule),
    /// An address rewrite; its list's number means nothing either.
    Rewrite(IpRewrite),
    /// Rules of generations that hold no longer.
    Void(Void),
}

/// Which rules of the entry's list a generation is served without.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
#[expect(clippy::large_enum_variant)]
pub enum Void {
    /// The rules of this kind and scope on this very name.
    Name {
        /// The name.
        name: Name,
        /// Exact, subtree or below.
        scope: Scope,
        /// What they do.
        kind: Kind,
    },
    /// The rules of this kind with this very pattern.
    Pattern {
        /// As the list wrote it.
        regex: String,
        /// What they do.
        kind: Kind,
    },
    /// The rules of this kind on this very prefix.
    Address {
        /// The prefix.
        net: IpNet,
        /// What they do.
        kind: Kind,
    },
    /// The rewrite of this very source.
    Rewrite {
        /// An address or prefix.
        from: IpNet,
    },
}

/// What has changed since the last update: the unit in which workers are told.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LiveUpdate {
    /// Entries that are new, by number.
    pub entered: Vec<std::sync::Arc<LiveEntry>>,
    /// Numbers of those that are gone. A number that is not known is of an entry which was not live here, or has gone before:
    /// it means nothing.
    pub left: Vec<u64>,
}
