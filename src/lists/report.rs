//! Why a line of a list did not become a rule, and the counts of a reading.
//!
//! Skipped means that the line is well formed and rightly no business of a DNS filter. Refused means that an operator may
//! want to look at it.

use std::fmt;

use corewall_sharding::name::NameError;
use serde::{Deserialize, Serialize};

/// Why a line says nothing that a DNS filter could do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum SkipReason {
    /// Hides or changes elements of a page.
    Cosmetic,
    /// Speaks of a path, port, scheme or query of a URL, which a name does not have.
    UrlPart,
    /// Inside an `!#if` block, whose condition only a browser extension can tell.
    Conditional,
    /// Speaks of an address.
    Address,
    /// Limited by its modifiers to requests that a browser makes.
    BrowserOnly,
    /// Switched off by `$badfilter`, or a `$badfilter` rule itself.
    Badfilter,
    /// A name of the machine itself, such as `localhost`.
    LocalName,
    /// A hosts line whose address is no sinkhole.
    HostsAddress,
    /// A directive or option that is no rule.
    Directive,
    /// SOA and NS records of a policy zone's own apex.
    ZoneApex,
    /// An RPZ trigger that no forwarder can apply.
    NotApplicable,
}

impl SkipReason {
    /// All reasons, in the order of [`Counts::skipped`].
    pub const ALL: [SkipReason; 11] = [
        Self::Cosmetic,
        Self::UrlPart,
        Self::Conditional,
        Self::Address,
        Self::BrowserOnly,
        Self::Badfilter,
        Self::LocalName,
        Self::HostsAddress,
        Self::Directive,
        Self::ZoneApex,
        Self::NotApplicable,
    ];
}

impl fmt::Display for SkipReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Cosmetic => "cosmetic rule",
            Self::UrlPart => "speaks of a part of a URL that is not its host name",
            Self::Conditional => "inside an !#if block",
            Self::Address => "speaks of an address, not of a name",
            Self::BrowserOnly => "modifiers limit the rule to browsers",
            Self::Badfilter => "switched off by $badfilter",
            Self::LocalName => "name of the local machine or network",
            Self::HostsAddress => "address is no sinkhole and hosts_addresses is off",
            Self::Directive => "directive that is no rule",
            Self::ZoneApex => "record of the policy zone itself",
            Self::NotApplicable => "trigger that a forwarder cannot apply",
        })
    }
}

/// Why a line was not taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum RefuseReason {
    /// Longer than any line may be.
    LineTooLong,
    /// Not a domain name.
    Name(NameError),
    /// An address where a name should be.
    Address,
    /// A CIDR block where a name should be.
    Network,
    /// A URL where a name should be.
    Url,
    /// A name with a path.
    Path,
    /// A name with a port.
    Port,
    /// More than one word where one name should be.
    SeveralWords,
    /// Everything under a public suffix.
    PublicSuffix,
    /// One label alone, which is no host's name.
    LoneWord,
    /// A pattern that matches too many names.
    TooWide,
    /// A modifier that is not known, which makes the rule void.
    UnknownModifier,
    /// A modifier whose value cannot be read.
    BadModifier,
    /// A modifier that is known and cannot be honoured.
    UnsupportedModifier,
    /// A regular expression that does not compile.
    BadRegex,
    /// Not an address where one should be.
    BadAddress,
    /// A forwarding server that would be this very machine.
    ForwardLoop,
    /// A record whose type or data cannot be read.
    BadRecord,
    /// Not a prefix as policy zones write it, or bits are set beyond its length.
    BadPrefix,
    /// An action or trigger that is known and cannot be honoured.
    UnsupportedAction,
    /// An owner name outside the policy zone.
    OutOfZone,
    /// Not the syntax of this format.
    BadSyntax,
}

impl RefuseReason {
    /// One of each reason, in the order of [`Counts::refused`]; the name errors count as one.
    pub const ALL: [RefuseReason; 22] = [
        Self::LineTooLong,
        Self::Name(NameError::Empty),
        Self::Address,
        Self::Network,
        Self::Url,
        Self::Path,
        Self::Port,
        Self::SeveralWords,
        Self::PublicSuffix,
        Self::LoneWord,
        Self::TooWide,
        Self::UnknownModifier,
        Self::BadModifier,
        Self::UnsupportedModifier,
        Self::BadRegex,
        Self::BadAddress,
        Self::ForwardLoop,
        Self::BadRecord,
        Self::BadPrefix,
        Self::UnsupportedAction,
        Self::OutOfZone,
        Self::BadSyntax,
    ];
}

impl fmt::Display for RefuseReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::LineTooLong => "line too long",
            Self::Name(error) => return error.fmt(f),
            Self::Address => "address instead of a name",
            Self::Network => "network instead of a name",
            Self::Url => "URL instead of a name",
            Self::Path => "name with a path",
            Self::Port => "name with a port",
            Self::SeveralWords => "several words instead of one name",
            Self::PublicSuffix => "would cover a whole public suffix; allow_public_suffix is off",
            Self::LoneWord => "single word, not the name of a host; allow_public_suffix is off",
            Self::TooWide => "pattern matches too many names; allow_wide is off",
            Self::UnknownModifier => "unknown modifier makes the rule void",
            Self::BadModifier => "value of a modifier cannot be read",
            Self::UnsupportedModifier => "modifier cannot be honoured",
            Self::BadRegex => "regular expression does not compile",
            Self::BadAddress => "not an address",
            Self::ForwardLoop => "would forward to the DNS port of this very machine",
            Self::BadRecord => "record cannot be read",
            Self::BadPrefix => "not an address prefix, or bits are set beyond its length",
            Self::UnsupportedAction => "action or trigger cannot be honoured",
            Self::OutOfZone => "owner name outside the policy zone",
            Self::BadSyntax => "not the syntax of this list format",
        })
    }
}

/// Counts of one reading.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Counts {
    /// Lines in the list.
    pub lines: u64,
    /// Empty lines and comments.
    pub comments: u64,
    /// Rules handed on.
    pub rules: u64,
    /// Address rewrites handed on.
    pub rewrites: u64,
    /// In the order of [`SkipReason::ALL`].
    skipped: [u64; SkipReason::ALL.len()],
    /// In the order of [`RefuseReason::ALL`].
    refused: [u64; RefuseReason::ALL.len()],
    /// Void rules in Adblock syntax that `adblock_modifiers = "strip"` would bring back.
    pub gained_by_stripping: u64,
}

impl Counts {
    /// Lines and names skipped for this reason.
    pub fn skipped(&self, reason: SkipReason) -> u64 {
        self.skipped[reason as usize]
    }

    /// Lines and names skipped.
    pub fn skipped_all(&self) -> u64 {
        self.skipped.iter().sum()
    }

    /// Lines and names refused for this reason, all name errors as one.
    pub fn refused(&self, reason: RefuseReason) -> u64 {
        self.refused[refused_place(reason)]
    }

    /// Lines and names refused.
    pub fn refused_all(&self) -> u64 {
        self.refused.iter().sum()
    }

    /// Adds the counts of another reading.
    pub fn add(&mut self, other: &Counts) {
        self.lines += other.lines;
        self.comments += other.comments;
        self.rules += other.rules;
        self.rewrites += other.rewrites;
        self.gained_by_stripping += other.gained_by_stripping;
        self.skipped.iter_mut().zip(other.skipped).for_each(|(sum, more)| *sum += more);
        self.refused.iter_mut().zip(other.refused).for_each(|(sum, more)| *sum += more);
    }

    /// Counts one more skipped line or name.
    pub fn add_skipped(&mut self, reason: SkipReason) {
        self.skipped[reason as usize] += 1;
    }

    /// Counts one more refused line or name.
    pub fn add_refused(&mut self, reason: RefuseReason) {
        self.refused[refused_place(reason)] += 1;
    }
}

fn refused_place(reason: RefuseReason) -> usize {
    let same = |other: &RefuseReason| std::mem::discriminant(other) == std::mem::discriminant(&reason);
    RefuseReason::ALL.iter().position(same).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_reason_has_a_count_of_its_own() {
        let mut counts = Counts::default();
        for (place, reason) in SkipReason::ALL.into_iter().enumerate() {
            assert_eq!(reason as usize, place);
            counts.add_skipped(reason);
        }
        for reason in RefuseReason::ALL {
            counts.add_refused(reason);
        }
        counts.add_refused(RefuseReason::Name(NameError::BadIdna));
        assert!(SkipReason::ALL.into_iter().all(|reason| counts.skipped(reason) == 1));
        for reason in RefuseReason::ALL {
            assert_eq!(counts.refused(reason), 1 + u64::from(matches!(reason, RefuseReason::Name(_))), "{reason}");
        }
        let mut twice = counts;
        twice.add(&counts);
        assert_eq!((twice.skipped_all(), twice.refused_all()), (2 * counts.skipped_all(), 2 * counts.refused_all()));
    }
}
