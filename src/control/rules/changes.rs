//! A request about rules carried out on the file: by the server, or by `corewall rule` itself when no server runs.
//!
//! Invariant: what makes no sense is refused line by line before the file is touched; what is left is one transaction.

use std::time::{SystemTime, UNIX_EPOCH};

use corewall_sharding::StoreError;
use corewall_sharding::generation::Generation;
use corewall_sharding::overlay::{
    Filter, LIST_BYTES_MAX, LIST_DEFAULT, LiveChange, LiveUpdate, NewEntry, Overlay, REASON_BYTES_MAX, Removal,
    Removed, Selector,
};
use corewall_sharding::publish::Store;
use corewall_sharding::rule::{Rule, RuleKey};

use crate::build::patterns::{Compiler, Outcome, Wanted, compile_bounded};
use crate::control::protocol::{
    Refusal, RefusalKind, RefusedLine, RulesChanged, RulesListed, RulesToAdd, RulesToFind, RulesToList,
};
use crate::limits::{RULE_LINES_MAX, RULES_LEAVING_MAX, RULES_LISTED_MAX};
use crate::lists::live::{read_line, read_selector};

/// Characters of a refused line that are told.
const REFUSED_SHOWN_MAX: usize = 200;

/// What has been done, and what the workers are to be told.
pub type Done = (LiveUpdate, RulesChanged);

/// Seconds since 1970.
pub fn now_s() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
}

/// Rules that were read and may be added.
pub struct Added {
    entries: Vec<NewEntry>,
    refused: Vec<RefusedLine>,
}

impl Added {
    /// Reads the lines, and has patterns compiled to see whether they can be.
    ///
    /// # Errors
    /// What is said of all lines makes no sense.
    pub fn read(rules: &RulesToAdd, compiler: Compiler) -> Result<Self, Refusal> {
        check(&rules.lines, rules.list.as_deref(), rules.expires_s, &rules.reason)?;
        let list = rules.list.as_deref().unwrap_or(LIST_DEFAULT);
        let (mut changes, mut refused) = (Vec::with_capacity(rules.lines.len()), Vec::new());
        for (line, text) in (1..).zip(&rules.lines) {
            match read_line(text, &rules.options) {
                Ok(read) => changes.extend(read.into_iter().map(|change| (line, change))),
                Err(reason) => refused.push(refusal(line, text, reason)),
            }
        }
        refuse_patterns(&mut changes, &mut refused, rules.options.allow_wide, compiler)?;
        let entry = |(_, change)| NewEntry {
            change,
            list: list.to_owned(),
            expires_s: rules.expires_s,
            reason: rules.reason.clone(),
        };
        Ok(Self { entries: changes.into_iter().map(entry).collect(), refused })
    }

    /// Puts them on the disk.
    ///
    /// # Errors
    /// There are too many, or the file cannot be written.
    pub fn write(self, overlay: &mut Overlay) -> Result<Done, StoreError> {
        let update = overlay.add(&self.entries, now_s())?;
        let replaced = update.left.len() as u64;
        let changed = RulesChanged {
            added: (update.entered.len() as u64).saturating_sub(replaced),
            replaced,
            last_seq: overlay.last_seq(),
            refused: self.refused,
            ..RulesChanged::default()
        };
        Ok((update, changed))
    }
}

/// Compiles the patterns among the rules, in a process of their own: what cannot be compiled is refused now, not by every worker.
fn refuse_patterns(
    changes: &mut Vec<(u64, LiveChange)>,
    refused: &mut Vec<RefusedLine>,
    may_match_empty: bool,
    compiler: Compiler,
) -> Result<(), Refusal> {
    let regex_of = |change: &LiveChange| match change {
        LiveChange::Rule(Rule { key: RuleKey::Pattern { regex, .. }, .. }) => Some(regex.clone()),
        _ => None,
    };
    let regexes = changes.iter().filter_map(|(_, change)| regex_of(change));
    let wanted: Vec<Wanted> = regexes.map(|regex| Wanted { regex, may_match_empty }).collect();
    if wanted.is_empty() {
        return Ok(());
    }
    let all = 0..wanted.len();
    let compiled = compile_bounded(&wanted, std::slice::from_ref(&all), compiler)
        .map_err(|error| Refusal::new(RefusalKind::Failed, error.to_string()))?;
    let mut outcomes = compiled.outcomes.into_iter();
    changes.retain(|(line, change)| {
        let Some(regex) = regex_of(change) else { return true };
        match outcomes.next() {
            Some(Outcome::Refused(reason)) => {
                refused.push(refusal(*line, &regex, reason));
                false
            }
            _ => true,
        }
    });
    refused.sort_by_key(|refused| refused.line);
    Ok(())
}

/// Rules that are looked for.
pub struct Found {
    selectors: Vec<Selector>,
    /// The line and text of each.
    lines: Vec<(u64, String)>,
    refused: Vec<RefusedLine>,
}

impl Found {
    /// Reads the lines.
    ///
    /// # Errors
    /// What is said of all lines makes no sense.
    pub fn read(rules: &RulesToFind) -> Result<Self, Refusal> {
        check(&rules.lines, rules.list.as_deref(), rules.expires_s, &rules.reason)?;
        let mut found = Self { selectors: Vec::new(), lines: Vec::new(), refused: Vec::new() };
        for (line, text) in (1..).zip(&rules.lines) {
            match read_selector(text, rules.kind, rules.scope, rules.list.as_deref()) {
                Ok(None) => {}
                Ok(Some(selector)) => {
                    found.selectors.push(selector);
                    found.lines.push((line, text.clone()));
                }
                Err(reason) => found.refused.push(refusal(line, text, reason)),
            }
        }
        Ok(found)
    }

    /// Removes them.
    ///
    /// # Errors
    /// The generation or the file cannot be read or written.
    pub fn remove(
        mut self,
        overlay: &mut Overlay,
        generation: Option<&Generation>,
        rules: &RulesToFind,
    ) -> Result<Done, StoreError> {
        let removal = Removal { generation, now_s: now_s(), expires_s: rules.expires_s, reason: &rules.reason };
        let (update, found) = overlay.remove(&self.selectors, removal)?;
        let sum = |of: fn(&Removed) -> u64| found.iter().map(of).sum();
        let (removed, voided, voided_before) =
            (sum(|one| one.live), sum(|one| one.voided), sum(|one| one.void_already));
        for (removed, (line, text)) in found.iter().zip(&self.lines) {
            if removed.is_nothing() {
                self.refused.push(refusal(
                    *line,
                    text,
                    "no live rule and no rule of the generation is this".to_owned(),
                ));
            } else if removed.kept > 0 {
                let reason =
                    "a live rule cannot be removed for a time only; remove it, and add it again when it is wanted";
                self.refused.push(refusal(*line, text, reason.to_owned()));
            }
        }
        self.refused.sort_by_key(|refused| refused.line);
        let last_seq = overlay.last_seq();
        Ok((
            update,
            RulesChanged { removed, voided, voided_before, last_seq, refused: self.refused, ..RulesChanged::default() },
        ))
    }

    /// Lets rules of the generation hold again.
    ///
    /// # Errors
    /// The file cannot be read or written.
    pub fn restore(mut self, overlay: &mut Overlay) -> Result<Done, StoreError> {
        let (update, found) = overlay.restore(&self.selectors)?;
        for (count, (line, text)) in found.iter().zip(&self.lines) {
            if *count == 0 {
                let reason = "no rule of a generation was removed that is this".to_owned();
                self.refused.push(refusal(*line, text, reason));
            }
        }
        self.refused.sort_by_key(|refused| refused.line);
        let (restored, last_seq) = (update.left.len() as u64, overlay.last_seq());
        Ok((update, RulesChanged { restored, last_seq, refused: self.refused, ..RulesChanged::default() }))
    }
}

/// Removes some of the live rules of a list.
///
/// # Errors
/// The file cannot be read or written.
pub fn remove_list(overlay: &mut Overlay, list: &str) -> Result<Done, StoreError> {
    let update = overlay.remove_list(list, RULES_LEAVING_MAX)?;
    let (removed, last_seq) = (update.left.len() as u64, overlay.last_seq());
    Ok((update, RulesChanged { removed, last_seq, ..RulesChanged::default() }))
}

/// A page of the live rules. Changes go on meanwhile.
///
/// # Errors
/// The file cannot be read.
pub fn list(store: &Store, which: &RulesToList) -> Result<RulesListed, StoreError> {
    let filter = Filter { list: which.list.clone(), effect: which.kind.map(|kind| kind.effect()), name: which.name };
    let entries = Overlay::list(store, &filter, which.after, RULES_LISTED_MAX)?;
    let has_more = entries.len() == RULES_LISTED_MAX;
    Ok(RulesListed { rules: entries.into_iter().map(Into::into).collect(), has_more })
}

/// What is said of all lines of a request.
fn check(lines: &[String], list: Option<&str>, expires_s: Option<u64>, reason: &str) -> Result<(), Refusal> {
    let refused = |message: String| Err(Refusal::new(RefusalKind::Malformed, message));
    if lines.len() > RULE_LINES_MAX {
        return refused(format!("a request has at most {RULE_LINES_MAX} lines; this one has {}", lines.len()));
    }
    if list.is_some_and(|list| list.is_empty() || list.len() > LIST_BYTES_MAX || list.contains(char::is_control)) {
        return refused(format!("a list's name has 1 to {LIST_BYTES_MAX} bytes, and no control characters"));
    }
    if reason.len() > REASON_BYTES_MAX || reason.contains(char::is_control) {
        return refused(format!("a reason has at most {REASON_BYTES_MAX} bytes, and no control characters"));
    }
    if expires_s.is_some_and(|expires_s| expires_s <= now_s()) {
        return refused("it would have ended already; `--expires` is a time to come".to_owned());
    }
    if expires_s.is_some_and(|expires_s| i64::try_from(expires_s).is_err()) {
        return refused("it would never end; leave `--expires` out".to_owned());
    }
    Ok(())
}

fn refusal(line: u64, text: &str, reason: String) -> RefusedLine {
    RefusedLine { line, text: text.trim().chars().take(REFUSED_SHOWN_MAX).collect(), reason }
}
