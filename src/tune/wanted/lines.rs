//! `90-corewall.conf` and `limits.conf`: files that the system reads, whose comments are the reasons.
//!
//! A block of comment lines stands in front of the values that it is the reason of; an empty line ends it. The system skips a
//! line `#: WORDS`, which says here how the block's values are compared: `at least`, `at most`, `covers` (a range), otherwise
//! equal; and `optional`. Values of a block without words of its own are wanted as they stand.

use super::{Rank, WantedError};

/// How a value is held against the wanted one.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Compare {
    /// Equal.
    #[default]
    Equal,
    /// Not less.
    AtLeast,
    /// Not more.
    AtMost,
    /// A range that holds the wanted one.
    Covers,
}

/// A kernel setting.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sysctl {
    /// Such as `net.core.rmem_max`.
    pub key: String,
    /// Wanted; numbers between single spaces.
    pub value: String,
    /// How.
    pub compare: Compare,
    /// How much it matters.
    pub rank: Rank,
    /// Why.
    pub why: String,
}

/// A limit of a user's processes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Limit {
    /// Whose.
    pub domain: String,
    /// `memlock` or `nofile`.
    pub item: String,
    /// In the file's unit: KiB of locked memory, or files; none is without a limit.
    pub value: Option<u64>,
    /// Why.
    pub why: String,
}

/// A comment's words so far.
#[derive(Default)]
struct Block {
    why: Vec<String>,
    compare: Compare,
    rank: Rank,
    /// A value has stood below it: the next comment begins another block.
    is_used: bool,
}

impl Block {
    fn comment(&mut self, text: &str) -> Result<(), String> {
        if std::mem::take(&mut self.is_used) {
            *self = Self::default();
        }
        let Some(words) = text.strip_prefix(':') else {
            self.why.push(text.trim().to_owned());
            return Ok(());
        };
        for word in words.split(',') {
            match word.trim() {
                "at least" => self.compare = Compare::AtLeast,
                "at most" => self.compare = Compare::AtMost,
                "covers" => self.compare = Compare::Covers,
                "optional" => self.rank = Rank::Optional,
                "ignored" => self.rank = Rank::Ignored,
                other => {
                    return Err(format!(
                        "`{other}` says nothing; after `#:` write `at least`, `at most`, `covers`, `optional` or `ignored`"
                    ));
                }
            }
        }
        Ok(())
    }

    fn reason(&mut self) -> Result<String, String> {
        self.is_used = true;
        let why = self.why.join(" ");
        if why.is_empty() {
            Err("no reason; write it as a comment above, without an empty line between".to_owned())
        } else {
            Ok(why)
        }
    }
}

/// Calls `value` with each line that is neither empty nor a comment, and the block above it.
fn each_line(
    file: &str,
    text: &str,
    value: &mut dyn FnMut(&str, &mut Block) -> Result<(), String>,
) -> Result<(), WantedError> {
    let mut block = Block::default();
    for (number, line) in text.lines().enumerate() {
        let line = line.trim();
        let done = if line.is_empty() {
            block = Block::default();
            Ok(())
        } else if let Some(comment) = line.strip_prefix(['#', ';']) {
            block.comment(comment)
        } else {
            value(line, &mut block)
        };
        done.map_err(|message| WantedError::Line { file: file.to_owned(), line: number + 1, message })?;
    }
    Ok(())
}

/// Reads a file as `sysctl --system` does (sysctl.d(5)).
pub fn parse_sysctls(file: &str, text: &str) -> Result<Vec<Sysctl>, WantedError> {
    let mut sysctls: Vec<Sysctl> = Vec::new();
    each_line(file, text, &mut |line, block| {
        let (key, value) = line.split_once('=').ok_or("no setting; write `KEY = VALUE`")?;
        // A `-` in front means that it may fail.
        let key = key.trim().trim_start_matches('-').to_owned();
        let is_name = |c: char| c.is_ascii_alphanumeric() || "._-/".contains(c);
        if key.is_empty() || !key.chars().all(is_name) || key.contains("..") {
            return Err(format!("`{key}` is no setting; write it as `net.core.rmem_max`"));
        }
        if sysctls.iter().any(|known| known.key == key) {
            return Err(format!("`{key}` stands here twice; take one away"));
        }
        let value = value.split_whitespace().collect::<Vec<_>>().join(" ");
        let numbers = value.split(' ').filter(|number| number.parse::<u64>().is_ok()).count();
        let (is_right, what) = match block.compare {
            Compare::Equal => (!value.is_empty(), "a value"),
            Compare::AtLeast | Compare::AtMost => (numbers == 1 && !value.contains(' '), "one number"),
            Compare::Covers => (numbers == 2 && value.split(' ').count() == 2, "two numbers"),
        };
        if !is_right {
            return Err(format!("`{value}` is not {what}; correct it, or the line `#:` above"));
        }
        sysctls.push(Sysctl { key, value, compare: block.compare, rank: block.rank, why: block.reason()? });
        Ok(())
    })?;
    Ok(sysctls)
}

/// Reads a file as pam_limits does (limits.conf(5)), the hard limits of what is known here.
pub fn parse_limits(file: &str, text: &str) -> Result<Vec<Limit>, WantedError> {
    let mut limits = Vec::new();
    each_line(file, text, &mut |line, block| {
        let fields: Vec<&str> = line.split_whitespace().collect();
        let [domain, kind, item, value] = fields[..] else {
            return Err("no limit; write `USER hard nofile 262144`".to_owned());
        };
        if !["memlock", "nofile"].contains(&item) {
            return Err(format!("`{item}` is not compared here; use memlock or nofile"));
        }
        let value = match value {
            "unlimited" | "infinity" | "-1" => None,
            value => {
                Some(value.parse().map_err(|_| format!("`{value}` is no number; correct it, or write `unlimited`"))?)
            }
        };
        let why = block.reason()?;
        match kind {
            // A server raises its soft limit by itself, up to the hard one.
            "hard" | "-" => limits.push(Limit { domain: domain.to_owned(), item: item.to_owned(), value, why }),
            "soft" => {}
            _ => return Err(format!("`{kind}` is no kind of limit; use soft or hard")),
        }
        Ok(())
    })?;
    Ok(limits)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_comment_is_the_reason_of_the_values_below_it_until_an_empty_line() {
        let text = "# A file.\n\n# Why\n# it is so.\n#: at least\na.b = 3\na.c=4\n\n# Another.\n#: covers, optional\nr = 1\t9\n";
        let sysctls = parse_sysctls("x", text).unwrap();
        let told: Vec<_> = sysctls
            .iter()
            .map(|one| (one.key.as_str(), one.value.as_str(), one.compare, one.rank, one.why.as_str()))
            .collect();
        assert_eq!(
            told,
            [
                ("a.b", "3", Compare::AtLeast, Rank::Wanted, "Why it is so."),
                ("a.c", "4", Compare::AtLeast, Rank::Wanted, "Why it is so."),
                ("r", "1 9", Compare::Covers, Rank::Optional, "Another."),
            ]
        );
    }

    #[test]
    fn what_is_wrong_is_told_with_file_and_line() {
        for (text, line, word) in [
            ("a = 1\n", 1, "no reason"),
            ("# why\n\na = 1\n", 3, "no reason"),
            ("# why\na\n", 2, "KEY = VALUE"),
            ("# why\n#: at laest\na = 1\n", 2, "`at laest`"),
            ("# why\n#: at least\na = x\n", 3, "not one number"),
            ("# why\n#: covers\na = 1 x\n", 3, "not two numbers"),
            ("# why\na = \n", 2, "not a value"),
            ("# why\n../etc = 1\n", 2, "no setting"),
            ("# why\na = 1\na = 2\n", 3, "twice"),
        ] {
            let error = parse_sysctls("f.conf", text).unwrap_err().to_string();
            assert!(error.starts_with(&format!("f.conf:{line}: ")) && error.contains(word), "{text:?}: {error}");
        }
        for (text, word) in [
            ("# why\nme hard nofile\n", "no limit"),
            ("# why\nme hard cpu 1\n", "`cpu`"),
            ("# why\nme hard nofile many\n", "`many`"),
            ("# why\nme firm nofile 1\n", "`firm`"),
            ("me hard nofile 1\n", "no reason"),
        ] {
            let error = parse_limits("l.conf", text).unwrap_err().to_string();
            assert!(error.starts_with("l.conf:") && error.contains(word), "{text:?}: {error}");
        }
    }

    #[test]
    fn the_hard_limit_counts_and_a_dash_means_both() {
        let limits = parse_limits("x", "# why\nme soft nofile 1\nme hard nofile 2\n* - memlock unlimited\n").unwrap();
        let told: Vec<_> = limits.iter().map(|one| (one.domain.as_str(), one.item.as_str(), one.value)).collect();
        assert_eq!(told, [("me", "nofile", Some(2)), ("*", "memlock", None)]);
    }
}
