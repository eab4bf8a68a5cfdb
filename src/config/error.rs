//! An error of the configuration, in words for whoever has to correct it: file, line, key, what is wrong, what to do.

use std::fmt;
use std::io;
use std::ops::Range;
use std::path::{Path, PathBuf};

use toml::Spanned;
use toml::de::{DeTable, DeValue};

/// Edits from an unknown key to a known one, past which the known one is not offered.
const NEAREST_KEY_EDITS_MAX: usize = 3;

/// What is wrong with the configuration. Shown as `FILE:LINE: KEY: WHAT; REMEDY`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConfigError {
    /// The file.
    pub file: PathBuf,
    /// Line from 1; none when the file could not be read at all.
    pub line: Option<usize>,
    /// The key with its tables, such as `block.ttl_s`; empty when the text is not TOML.
    pub key: String,
    /// What is wrong and, after a semicolon, what to do.
    pub message: String,
}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:", self.file.display())?;
        if let Some(line) = self.line {
            write!(f, "{line}:")?;
        }
        if !self.key.is_empty() {
            write!(f, " {}:", self.key)?;
        }
        write!(f, " {}", self.message)
    }
}

impl std::error::Error for ConfigError {}

/// A problem that shows only when values are put side by side.
#[derive(Debug)]
pub(super) struct Problem {
    /// Where: keys and places in lists.
    pub path: Vec<Place>,
    /// What is wrong and, after a semicolon, what to do.
    pub message: String,
}

/// One step on the way to a value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Place {
    Key(&'static str),
    /// A key that the operator has chosen.
    Named(String),
    Index(usize),
}

impl ConfigError {
    pub(super) fn unreadable(file: &Path, error: &io::Error) -> Self {
        let message = format!("cannot read: {error}; check the path and that this user may read it");
        Self { file: file.to_path_buf(), line: None, key: String::new(), message }
    }

    /// What the deserialiser says of `text`, the content of `file`.
    pub(crate) fn from_toml(file: &Path, text: &str, error: &toml::de::Error) -> Self {
        let span = error.span().unwrap_or(0..0);
        let document = DeTable::parse(text);
        let key = document.as_ref().ok().and_then(|root| key_at(root.get_ref(), &span)).unwrap_or_default();
        let message = match document {
            Ok(_) => reword(error.message()),
            Err(_) => format!("not TOML: {}; correct the syntax here", error.message()),
        };
        Self { file: file.to_path_buf(), line: Some(line_at(text, span.start)), key, message }
    }

    /// A problem that shows only outside of the configuration, such as a file that is not there: with the line on which
    /// the option stands. `index` is the place in a list of tables whose key is the first of `keys`.
    pub fn at(file: &Path, keys: &[&'static str], index: Option<usize>, message: String) -> Self {
        let mut path: Vec<Place> = keys.iter().map(|key| Place::Key(key)).collect();
        if let Some(index) = index {
            path.insert(1, Place::Index(index));
        }
        // Gone since it was loaded: then there is no line to tell, which the first one stands for.
        let text = std::fs::read_to_string(file).unwrap_or_default();
        Self::from_problem(file, &text, Problem { path, message })
    }

    pub(super) fn from_problem(file: &Path, text: &str, problem: Problem) -> Self {
        let span = DeTable::parse(text).ok().and_then(|root| span_of(&root, &problem.path)).unwrap_or(0..0);
        let key = problem.path.iter().filter_map(|place| match place {
            Place::Key(key) => Some(*key),
            Place::Named(key) => Some(key.as_str()),
            Place::Index(_) => None,
        });
        Self {
            file: file.to_path_buf(),
            line: Some(line_at(text, span.start)),
            key: key.collect::<Vec<_>>().join("."),
            message: problem.message,
        }
    }
}

/// Puts the words of the deserialiser into those of an operator, and adds what to do.
fn reword(message: &str) -> String {
    let quoted: Vec<&str> = message.split('`').skip(1).step_by(2).collect();
    if message.starts_with("unknown field") {
        let (unknown, known) = quoted.split_first().unwrap_or((&"", &[]));
        return match nearest(unknown, known) {
            Some(near) => format!("unknown key `{unknown}`; did you mean `{near}`?"),
            None => format!("unknown key `{unknown}`; the keys here are {}", known.join(", ")),
        };
    }
    if message.starts_with("unknown variant") {
        let (unknown, known) = quoted.split_first().unwrap_or((&"", &[]));
        return format!("unknown value `{unknown}`; use one of {}", known.join(", "));
    }
    if message.starts_with("missing field") {
        return format!("`{}` is missing; add it here", quoted.first().unwrap_or(&""));
    }
    if let Some((found, wanted)) = message.split_once(", expected ") {
        return format!("{found}; use {wanted}");
    }
    message.to_owned()
}

fn nearest<'a>(unknown: &str, known: &[&'a str]) -> Option<&'a str> {
    let (edits, near) = known.iter().map(|known| (edits_between(unknown, known), *known)).min()?;
    // A short key may be turned into any other by few edits.
    (edits <= NEAREST_KEY_EDITS_MAX.min(near.len().div_ceil(2))).then_some(near)
}

/// Levenshtein's distance.
fn edits_between(a: &str, b: &str) -> usize {
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, x) in a.bytes().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, y) in b.bytes().enumerate() {
            let replaced = diagonal + usize::from(x != y);
            diagonal = row[j + 1];
            row[j + 1] = replaced.min(row[j] + 1).min(diagonal + 1);
        }
    }
    row[b.len()]
}

fn line_at(text: &str, offset: usize) -> usize {
    1 + text.bytes().take(offset).filter(|&byte| byte == b'\n').count()
}

/// The key, with its tables, whose key or value the span lies in.
fn key_at(table: &DeTable<'_>, span: &Range<usize>) -> Option<String> {
    let holds = |outer: Range<usize>| outer.start <= span.start && span.end <= outer.end;
    for (key, value) in table {
        // An unknown key is named by the message itself: only the table is told.
        if holds(key.span()) {
            return Some(String::new());
        }
        let below = match value.get_ref() {
            DeValue::Table(table) => key_at(table, span),
            DeValue::Array(items) => items.iter().find_map(|item| match item.get_ref() {
                DeValue::Table(table) => key_at(table, span).or_else(|| holds(item.span()).then(String::new)),
                _ => holds(item.span()).then(String::new),
            }),
            _ => None,
        };
        match below {
            Some(below) if below.is_empty() => return Some(key.get_ref().to_string()),
            Some(below) => return Some(format!("{}.{below}", key.get_ref())),
            None if holds(value.span()) => return Some(key.get_ref().to_string()),
            None => {}
        }
    }
    None
}

/// Where the value at the end of the path stands; where the path leaves the text, the last part that is there.
fn span_of(root: &Spanned<DeTable<'_>>, path: &[Place]) -> Option<Range<usize>> {
    let mut table = Some(root.get_ref());
    let mut value: Option<&Spanned<DeValue<'_>>> = None;
    let mut span = None;
    for place in path {
        let key = match place {
            Place::Key(key) => *key,
            Place::Named(key) => key.as_str(),
            Place::Index(_) => "",
        };
        let next = match *place {
            Place::Key(_) | Place::Named(_) => {
                let entry = table.or_else(|| value?.get_ref().as_table())?;
                let Some((key, next)) = entry.iter().find(|(name, _)| name.get_ref() == key) else { break };
                span = Some(key.span());
                next
            }
            Place::Index(index) => {
                let Some(next) = value?.get_ref().as_array().and_then(|items| items.get(index)) else { break };
                span = Some(next.span());
                next
            }
        };
        table = None;
        value = Some(next);
    }
    span
}
