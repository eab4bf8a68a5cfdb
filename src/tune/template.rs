//! Commands of the `tuning/` files with places to fill in, such as `ethtool -L {interface} combined {wanted}`.
//!
//! Invariant: what is filled in is one word of the shell, whatever characters it has: names of interfaces, datasets and
//! programs come from the machine, and the commands are for root.

use serde::de::{self, Deserialize, Deserializer};

/// What may stand between braces.
pub const PLACES: [&str; 10] =
    ["interface", "wanted", "found", "core", "number", "queue", "mask", "state", "dataset", "mount"];

/// A command, or words for a person, with places to fill in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Template(String);

/// What to fill in.
pub type Values<'a> = [(&'static str, &'a str)];

impl Template {
    /// Checks the places.
    ///
    /// # Errors
    /// What is wrong and what to do.
    pub fn parse(text: &str) -> Result<Self, String> {
        if text.trim().is_empty() || text.contains('\n') {
            return Err("a command is one line that is not empty; write one, or take it away".to_owned());
        }
        let mut rest = text;
        while let Some((_, after)) = rest.split_once('{') {
            let (place, after) = after.split_once('}').unwrap_or((after, ""));
            if !PLACES.contains(&place) {
                let known = PLACES.join("}, {");
                return Err(format!("`{{{place}}}` is no place that is filled in; use {{{known}}}"));
            }
            rest = after;
        }
        Ok(Self(text.to_owned()))
    }

    /// The text with each place filled in as one word of the shell. A place without a value stays as it is.
    pub fn command(&self, values: &Values<'_>) -> String {
        self.fill(values, quoted)
    }

    /// The text with each place filled in as it is, for a person.
    pub fn words(&self, values: &Values<'_>) -> String {
        self.fill(values, str::to_owned)
    }

    fn fill(&self, values: &Values<'_>, word: impl Fn(&str) -> String) -> String {
        let mut text = String::new();
        let mut rest = self.0.as_str();
        while let Some((before, after)) = rest.split_once('{') {
            let (place, after) = after.split_once('}').unwrap_or((after, ""));
            text += before;
            match values.iter().find(|(name, _)| *name == place) {
                Some((_, value)) => text += &word(value),
                None => text += &format!("{{{place}}}"),
            }
            rest = after;
        }
        text + rest
    }
}

impl<'de> Deserialize<'de> for Template {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Self::parse(&String::deserialize(deserializer)?).map_err(de::Error::custom)
    }
}

/// One word of a shell, for any text on one line.
pub fn quoted(text: &str) -> String {
    let is_plain = |c: char| c.is_ascii_alphanumeric() || "_-./:=,+@%".contains(c);
    if !text.is_empty() && text.chars().all(is_plain) {
        return text.to_owned();
    }
    let line = text.replace(['\n', '\r', '\0'], " ");
    format!("'{}'", line.replace('\'', r"'\''"))
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use super::*;

    #[test]
    fn a_place_is_filled_in_and_an_unknown_one_is_an_error() {
        let template = Template::parse("ethtool -L {interface} combined {wanted}").unwrap();
        assert_eq!(template.command(&[("interface", "eth0"), ("wanted", "4")]), "ethtool -L eth0 combined 4");
        assert_eq!(template.command(&[("interface", "eth0")]), "ethtool -L eth0 combined {wanted}");
        assert!(Template::parse("echo {nonsense}").unwrap_err().contains("`{nonsense}`"));
        assert!(Template::parse("echo {wanted").is_ok(), "an unclosed brace ends with the text");
        assert!(Template::parse(" ").is_err());
        assert!(Template::parse("a\nb").is_err());
    }

    #[test]
    fn whatever_is_filled_in_is_one_word_of_the_shell() {
        for word in ["eth0", "a b", "$(reboot)", "it's", "`id`", "", "*", "a;b", "tank/my data", "ä\\", "{core}"] {
            let command = Template::parse("printf %s {interface}").unwrap().command(&[("interface", word)]);
            let said = Command::new("sh").args(["-c", &command]).output().unwrap();
            assert_eq!(String::from_utf8(said.stdout).unwrap(), word, "{command}");
        }
    }
}
