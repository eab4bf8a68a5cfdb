//! Plain lists and hosts files: names, and nothing else.
//!
//! A subtree is a name and everything under it, which these formats say in two lines. Invariant: a line is written only when
//! the reader of the format reads this very name from it.

use std::io::{self, Write};

use corewall_sharding::rule::{Answer, BlockMode, Class, ClassId, IpRewrite, Kind, Scope};
use ipnet::IpNet;

use super::{ADDRESS, Book, CONDITION, FORWARD, IMPORTANT, Left, MODE, PATTERN, REWRITE, ROOT, SPELLING, Writer};
use crate::lists::names::{is_local_name, read_name_or_below};

/// What stands before a name in a hosts file.
pub const HOSTS_PREFIX: &str = "0.0.0.0 ";

/// Which lines a rule takes.
#[derive(Clone, Copy)]
struct Lines {
    itself: bool,
    below: bool,
    /// Its own block mode is not said.
    loses_mode: bool,
}

/// Writes names.
pub struct NamesWriter {
    prefix: &'static str,
    /// By class: how it is said, or why not.
    classes: Vec<Result<Lines, &'static str>>,
    left: Left,
}

impl NamesWriter {
    /// Each line begins with `prefix`. Allow rules are written instead of block rules when `of_allowed`.
    pub fn new(book: Book<'_>, prefix: &'static str, of_allowed: bool) -> Self {
        let kind = if of_allowed { Kind::Allow } else { Kind::Block };
        let classes = book.classes.iter().map(|class| said(class, kind)).collect();
        Self { prefix, classes, left: Left::default() }
    }
}

fn said(class: &Class, kind: Kind) -> Result<Lines, &'static str> {
    if class.kind != kind {
        return Err(match class.kind {
            Kind::ForwardAllow | Kind::ForwardBlock => FORWARD,
            Kind::Alias => "aliases",
            Kind::Allow => "allow rules (`--kind allow` exports them alone)",
            Kind::Block => "block rules",
        });
    }
    if class.important {
        return Err(IMPORTANT);
    }
    if class.condition.is_some() {
        return Err(CONDITION);
    }
    let loses_mode = match &class.answer {
        None => false,
        Some(Answer::Mode(BlockMode::TcpOnly)) => return Err("rules that send clients to TCP"),
        Some(Answer::Mode(_)) => true,
        Some(Answer::Records(_)) => return Err("rules with records of their own"),
    };
    let (itself, below) = match class.scope {
        Scope::Exact => (true, false),
        Scope::Subtree => (true, true),
        Scope::Below => (false, true),
        Scope::Pattern => return Err(PATTERN),
        Scope::Address => return Err(ADDRESS),
    };
    Ok(Lines { itself, below, loses_mode })
}

impl Writer for NamesWriter {
    fn name(&mut self, name: &str, class: ClassId, _target: Option<&str>, out: &mut dyn Write) -> io::Result<()> {
        let Some(said) = self.classes.get(class as usize) else { return Ok(()) };
        let lines = match said {
            Ok(_) if name.is_empty() => Err(ROOT),
            Ok(_) if !reads_back(name) => Err(SPELLING),
            said => *said,
        };
        let lines = match lines {
            Ok(lines) => lines,
            Err(why) => {
                self.left.leave_out(why);
                return Ok(());
            }
        };
        if lines.loses_mode {
            self.left.note(MODE);
        }
        self.left.written += 1;
        let prefix = self.prefix;
        if lines.itself {
            writeln!(out, "{prefix}{name}")?;
        }
        if lines.below {
            writeln!(out, "{prefix}*.{name}")?;
        }
        Ok(())
    }

    fn pattern(&mut self, _: &str, _: ClassId, _: Option<&str>, _: &mut dyn Write) -> io::Result<()> {
        self.left.leave_out(PATTERN);
        Ok(())
    }

    fn address(&mut self, _: &IpNet, _: ClassId, _: Option<&str>, _: &mut dyn Write) -> io::Result<()> {
        self.left.leave_out(ADDRESS);
        Ok(())
    }

    fn rewrite(&mut self, _: &IpRewrite, _: &mut dyn Write) -> io::Result<()> {
        self.left.leave_out(REWRITE);
        Ok(())
    }

    fn left(self: Box<Self>) -> Left {
        self.left
    }
}

/// Whether a reader of these formats makes this very name of it.
fn reads_back(name: &str) -> bool {
    let is_comment = name.starts_with(['!', ';']) || name.contains('#');
    let read = read_name_or_below(name.as_bytes());
    !is_comment
        && !is_local_name(name.as_bytes())
        && read.is_ok_and(|(read, below)| !below && read.to_text().as_str() == name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_that_would_be_read_as_another_or_not_at_all_is_not_written() {
        for name in ["ads.example", "under_score.example", "xn--bcher-kva.example"] {
            assert!(reads_back(name), "{name}");
        }
        for name in ["", "localhost", "*.example", r"a\.b.example", r"a\032b.example", "a#b.example", "!a.example"] {
            assert!(!reads_back(name), "{name}");
        }
    }
}
