//! List readers: from the bytes of a block list to rules.
//!
//! Each format has a file of its own that turns one line into rules; what they share is here. Invariant: whatever comes out
//! as a rule was written in the list and means there what `Rule` says. A line that cannot be read so is refused with its
//! number and a reason, a line that says nothing about names is skipped and counted, and neither ever stops a build. Only an
//! error of the reader itself (a disk, a corrupt archive) does.
//!
//! Never done here: fetching, merging lists, removing duplicates, or deciding which rule wins.

// A name is 257 bytes in place by design: millions of them pass through these enums, each for a moment, and a box would
// be an allocation a line.
#![allow(clippy::large_enum_variant)]

mod adblock;
mod adblock_pattern;
mod badfilter;
mod cidr;
mod dnsmasq;
mod dnsrewrite;
mod hosts;
mod input;
pub mod live;
pub mod local_hosts;
mod modifiers;
pub(crate) mod names;
mod patterns;
mod plain;
pub(crate) mod records;
mod regex;
mod report;
mod rpz;
mod rpz_prefix;
mod sink;
mod unbound;
pub(crate) mod zone;

use std::fmt;
use std::io::{self, BufRead};
use std::str::FromStr;

use corewall_sharding::rule::{IpRewrite, Kind, ListId, Rule};
use serde::{Deserialize, Serialize};

use adblock::AdblockReader;
use input::{Line, Lines};
use rpz::ZoneReader;
use sink::Sink;
use unbound::UnboundReader;

pub use adblock::{AdblockLines, find_badfilters};
pub use badfilter::Disabled;
pub use input::{HEAD_BYTES, LINE_BYTES_MAX, decode, open, what_it_is_instead};
pub use report::{Counts, RefuseReason, SkipReason};

/// The syntax of a list.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Format {
    /// One name a line.
    Plain,
    /// An address, then names, as in `/etc/hosts`.
    Hosts,
    /// AdGuard's syntax for DNS.
    Adblock,
    /// A dnsmasq configuration file.
    Dnsmasq,
    /// An unbound configuration file.
    Unbound,
    /// A response policy zone in master file format.
    Rpz,
    /// One regular expression a line.
    Regex,
    /// One address or prefix a line: what upstreams' answers may not hold.
    Cidr,
    /// A database of the dnsmasq-sqlite family. It is not text: the store reads it, [`read`] does not.
    DnsmasqSqlite,
}

impl Format {
    /// All formats with their names in the configuration.
    pub const ALL: [(Format, &'static str); 9] = [
        (Format::Plain, "plain"),
        (Format::Hosts, "hosts"),
        (Format::Adblock, "adblock"),
        (Format::Dnsmasq, "dnsmasq"),
        (Format::Unbound, "unbound"),
        (Format::Rpz, "rpz"),
        (Format::Regex, "regex"),
        (Format::Cidr, "cidr"),
        (Format::DnsmasqSqlite, "dnsmasq-sqlite"),
    ];
}

impl fmt::Display for Format {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = Self::ALL.iter().find(|(format, _)| format == self).map_or("", |(_, name)| name);
        f.pad(name)
    }
}

impl FromStr for Format {
    type Err = UnknownFormat;

    fn from_str(text: &str) -> Result<Self, UnknownFormat> {
        Self::ALL.iter().find(|(_, name)| *name == text).map(|(format, _)| *format).ok_or(UnknownFormat)
    }
}

/// The text names none of [`Format::ALL`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct UnknownFormat;

impl fmt::Display for UnknownFormat {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("unknown list format; one of")?;
        for (place, (_, name)) in Format::ALL.iter().enumerate() {
            write!(f, "{} {name}", if place == 0 { "" } else { "," })?;
        }
        Ok(())
    }
}

impl std::error::Error for UnknownFormat {}

/// What becomes of a rule in Adblock syntax that carries a modifier meant for browsers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum AdblockModifiers {
    /// The rule is void, as AdGuard's DNS engine has it.
    #[default]
    Adguard,
    /// `$all`, `$document`, `$doc`, `$popup`, `$third-party`, `$3p` and `$network` are taken off and the rule counts.
    Strip,
}

/// How to read one list.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Options {
    /// Number of the list, copied into its rules.
    pub list: ListId,
    /// What a name without more means: block, or allow for an allow list.
    pub default_kind: Kind,
    /// Names in plain and hosts lists speak of their subtree too.
    pub subtree: bool,
    /// All rules of the list are in the important tiers.
    pub important: bool,
    /// Rules on everything under a public suffix count.
    pub allow_public_suffix: bool,
    /// Patterns with fewer than three literal characters count.
    pub allow_wide: bool,
    /// For lists in Adblock syntax.
    pub adblock_modifiers: AdblockModifiers,
    /// An address in a hosts file that is no sinkhole is the answer to give; otherwise its line is skipped.
    pub hosts_addresses: bool,
}

impl Options {
    /// Options as the configuration has them by default.
    pub fn new(list: ListId) -> Self {
        Self {
            list,
            default_kind: Kind::Block,
            subtree: false,
            important: false,
            allow_public_suffix: false,
            allow_wide: false,
            adblock_modifiers: AdblockModifiers::default(),
            hosts_addresses: false,
        }
    }
}

/// What a reader hands on, in the order of the list; records of one name that gather into one answer come last.
#[derive(Debug, PartialEq)]
pub enum Item<'a> {
    /// A rule.
    Rule {
        /// Line number from 1; the first one, when it was gathered from several.
        line: u64,
        /// What it says. Lent: half a kilobyte that is not worth a copy.
        rule: &'a Rule,
    },
    /// A rule about addresses in answers.
    Rewrite(IpRewrite),
    /// A line, or a name in it, that says nothing which a DNS filter could do.
    Skipped {
        /// Line number from 1.
        line: u64,
        /// Why.
        reason: SkipReason,
    },
    /// A line, or a name in it, that could not be read or may not count.
    Refused {
        /// Line number from 1.
        line: u64,
        /// The offending text, shortened when it is long.
        text: &'a str,
        /// Why.
        reason: RefuseReason,
    },
}

/// Reads a list to its end and hands every item to `item`.
///
/// # Errors
/// Those of `reader`, and `InvalidInput` for [`Format::DnsmasqSqlite`]. No content of a list is an error.
pub fn read(
    format: Format,
    reader: &mut dyn BufRead,
    options: &Options,
    disabled: &Disabled,
    item: &mut dyn FnMut(Item<'_>),
) -> io::Result<Counts> {
    read_from(1, format, reader, options, disabled, item)
}

/// As [`read`], where the first line is that of number `first` in its list. The lines of a list for which
/// [`lines_stand_alone`] may be read so in pieces, one after the other or at the same time: together they say what the list
/// says. The counts are those of the piece.
///
/// # Errors
/// As [`read`].
pub fn read_from(
    first: u64,
    format: Format,
    reader: &mut dyn BufRead,
    options: &Options,
    disabled: &Disabled,
    item: &mut dyn FnMut(Item<'_>),
) -> io::Result<Counts> {
    let mut sink = Sink::new(options, item);
    let lines = &mut Lines::starting_at(reader, first);
    match format {
        Format::Plain => each_line(lines, &mut sink, plain::line)?,
        Format::Hosts => each_line(lines, &mut sink, hosts::line)?,
        Format::Adblock => {
            let mut adblock = AdblockReader::new(disabled);
            each_line(lines, &mut sink, |line, sink| adblock.line(line, sink))?;
        }
        Format::Dnsmasq => each_line(lines, &mut sink, dnsmasq::line)?,
        Format::Unbound => {
            let mut unbound = UnboundReader::default();
            each_line(lines, &mut sink, |line, sink| unbound.line(line, sink))?;
            unbound.finish(&mut sink);
        }
        Format::Rpz => {
            let mut zone = ZoneReader::default();
            each_line(lines, &mut sink, |line, sink| zone.line(line, sink))?;
            zone.finish(&mut sink);
        }
        Format::Regex => each_line(lines, &mut sink, regex::line)?,
        Format::Cidr => each_line(lines, &mut sink, cidr::line)?,
        Format::DnsmasqSqlite => {
            let message = "a dnsmasq-sqlite database is not text: import it through the store";
            return Err(io::Error::new(io::ErrorKind::InvalidInput, message));
        }
    }
    Ok(sink.finish())
}

/// Whether each line of a list says the same wherever it stands, so that the list may be cut at any line end.
///
/// Not so where records or servers of several lines make one answer, where an entry goes on over the line end, or where a
/// block (`!#if`) does. Of lists in Adblock syntax the first pass has told ([`find_badfilters`]).
pub fn lines_stand_alone(format: Format, options: &Options, adblock: AdblockLines) -> bool {
    match format {
        Format::Plain | Format::Regex | Format::Cidr => true,
        // An address that is an answer is gathered with others of its name.
        Format::Hosts => !options.hosts_addresses,
        Format::Adblock => adblock == AdblockLines::Alone && !options.hosts_addresses,
        Format::Dnsmasq | Format::Unbound | Format::Rpz | Format::DnsmasqSqlite => false,
    }
}

fn each_line<'a>(
    lines: &mut Lines<'_>,
    sink: &mut Sink<'a>,
    mut read_line: impl FnMut(&[u8], &mut Sink<'a>),
) -> io::Result<()> {
    while let Some((number, line)) = lines.next()? {
        sink.line = number;
        sink.counts.lines += 1;
        match line {
            Line::Whole(line) => read_line(line, sink),
            Line::TooLong(beginning) => sink.refuse(beginning, RefuseReason::LineTooLong),
        }
    }
    Ok(())
}
