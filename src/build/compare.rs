//! What a new generation would change among the names that are asked for most, told before it is published.
//!
//! Invariant: both generations are judged by the server's own stages under the default policy and the configuration of now,
//! each with the rules by hand that are live on it, so that only what clients would notice differs. A name whose verdict cannot be found out makes the whole comparison fail.

use std::fmt;
use std::str::FromStr;

use corewall_sharding::generation::Generation;
use corewall_sharding::name::Name;
use corewall_sharding::overlay::{LiveEntry, Overlay};
use corewall_sharding::publish::Store;
use serde::Serialize;

use crate::decide::settings::Settings;
use crate::judge::{Judge, Verdict};

/// Changed names that a report shows.
const SHOWN_MAX: usize = 20;

/// How to compare.
#[derive(Clone, Debug)]
pub struct Compare {
    /// The names with how often they are asked for, the most asked first, each of them once.
    pub names: Vec<(Name, u64)>,
    /// Under which configuration.
    pub settings: Settings,
    /// More newly blocked names than this are not published.
    pub max_new_blocks: Option<Threshold>,
}

/// How many newly blocked names are too many.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Threshold {
    /// More than so many.
    Names(u64),
    /// More than this part, in percent, of the names that are compared.
    Percent(f64),
}

impl Threshold {
    fn of(self, names: u64) -> u64 {
        match self {
            Self::Names(most) => most,
            // Whole names, rounded down: 1 % of 99 names is none.
            Self::Percent(percent) => (names as f64 * percent / 100.0) as u64,
        }
    }
}

impl FromStr for Threshold {
    type Err = String;

    /// Reads `10` or `0.5%`.
    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || "write a number of names, such as 10, or a part of them, such as 0.5%".to_owned();
        match text.strip_suffix('%') {
            Some(percent) => match percent.parse() {
                Ok(percent) if (0.0..=100.0).contains(&percent) => Ok(Self::Percent(percent)),
                _ => Err(wrong()),
            },
            None => text.parse().map(Self::Names).map_err(|_| wrong()),
        }
    }
}

/// What would change.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Comparison {
    /// The generation that serves until now.
    pub against: u64,
    /// Names that were compared.
    pub names: u64,
    /// Of these, passed until now and blocked by the new one.
    pub newly_blocked: u64,
    /// Of these, blocked until now and passed by the new one.
    pub newly_allowed: u64,
    /// The first of the newly blocked, the most asked first.
    pub first_newly_blocked: Vec<Change>,
    /// The first of the newly allowed.
    pub first_newly_allowed: Vec<Change>,
    /// More newly blocked names than this are too many.
    pub max_new_blocks: Option<u64>,
}

/// One name.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Change {
    /// The name.
    pub name: String,
    /// Questions for it, an estimate.
    pub asked: u64,
    /// The list that blocks it, or did; empty when it is not told.
    pub list: String,
}

impl Comparison {
    /// Whether too many names would be blocked.
    pub fn is_too_much(&self) -> bool {
        self.max_new_blocks.is_some_and(|most| self.newly_blocked > most)
    }
}

impl Compare {
    /// Judges every name by both generations of the store.
    ///
    /// # Errors
    /// One of them, or the overlay, cannot be made ready or read.
    pub fn run(&self, store: &Store, old: Generation, new: Generation) -> Result<Comparison, String> {
        let against = old.number;
        let live_on = |generation: &Generation| -> Result<Vec<LiveEntry>, String> {
            Overlay::read(store, generation.manifest.overlay_seq).map_err(|error| error.to_string())
        };
        let (live_on_old, live_on_new) = (live_on(&old)?, live_on(&new)?);
        let mut by_old = Judge::new(old, live_on_old, &self.settings)?;
        let mut by_new = Judge::new(new, live_on_new, &self.settings)?;
        let names = self.names.len() as u64;
        let mut comparison = Comparison {
            against,
            names,
            newly_blocked: 0,
            newly_allowed: 0,
            first_newly_blocked: Vec::new(),
            first_newly_allowed: Vec::new(),
            max_new_blocks: self.max_new_blocks.map(|threshold| threshold.of(names)),
        };
        for (name, asked) in &self.names {
            let change = |list: String| Change { name: name.to_string(), asked: *asked, list };
            let (count, first, list) = match (by_old.verdict(name)?, by_new.verdict(name)?) {
                (Verdict::Passes, Verdict::Blocked(list)) => {
                    (&mut comparison.newly_blocked, &mut comparison.first_newly_blocked, list)
                }
                (Verdict::Blocked(list), Verdict::Passes) => {
                    (&mut comparison.newly_allowed, &mut comparison.first_newly_allowed, list)
                }
                _ => continue,
            };
            *count += 1;
            if first.len() < SHOWN_MAX {
                first.push(change(list));
            }
        }
        Ok(comparison)
    }
}

impl fmt::Display for Comparison {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { against, names, newly_blocked, newly_allowed, .. } = self;
        writeln!(
            f,
            "  of {names} names asked for most, against generation {against}: {newly_blocked} newly blocked, {newly_allowed} newly \
             allowed"
        )?;
        let changes = [("blocked", &self.first_newly_blocked), ("allowed", &self.first_newly_allowed)];
        for (what, first) in changes {
            for Change { name, asked, list } in first {
                let by = if list.is_empty() { String::new() } else { format!("  [`{list}`]") };
                writeln!(f, "    newly {what}: {name}, asked {asked} times{by}")?;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_threshold_is_a_number_or_a_part() {
        for (text, of, wanted) in
            [("0", 1_000, 0), ("10", 1_000, 10), ("1%", 1_000, 10), ("0.5%", 1_000, 5), ("1%", 99, 0), ("100%", 7, 7)]
        {
            assert_eq!(text.parse::<Threshold>().unwrap().of(of), wanted, "{text}");
        }
        for text in ["", "-1", "101%", "%", "1.5", "x%", "NaN%"] {
            assert!(text.parse::<Threshold>().is_err(), "{text}");
        }
    }
}
