//! What `corewall rule` prints.

use std::time::{Duration, UNIX_EPOCH};

use crate::cli::control::{ControlArguments, row, table};
use crate::cli::{Failure, print};
use crate::control::protocol::{ListedRule, RefusedLine, RulesChanged, RulesListed};

/// Refused lines that are told one by one.
const REFUSED_TOLD_MAX: usize = 100;

/// What all requests of a command together have led to.
#[derive(Default)]
pub struct Total {
    changed: RulesChanged,
    /// All of them; the first are told in `changed`.
    refused: u64,
    /// They have numbers that mean something.
    are_lines: bool,
    was_carried_out: bool,
}

impl Total {
    /// Adds what one request has led to. `numbers` are those of its lines.
    pub fn add(&mut self, changed: RulesChanged, numbers: &[u64], are_lines: bool) {
        let RulesChanged { added, replaced, removed, voided, voided_before, restored, last_seq, workers, refused } =
            changed;
        let total = &mut self.changed;
        total.added += added;
        total.replaced += replaced;
        total.removed += removed;
        total.voided += voided;
        total.voided_before += voided_before;
        total.restored += restored;
        (total.last_seq, total.workers) = (last_seq, workers);
        self.was_carried_out = true;
        for refused in refused {
            let number = usize::try_from(refused.line).ok().and_then(|line| numbers.get(line.checked_sub(1)?));
            self.refuse(RefusedLine { line: number.copied().unwrap_or(refused.line), ..refused }, are_lines);
        }
    }

    /// Notes a line that was not even asked for.
    pub fn refuse(&mut self, refused: RefusedLine, are_lines: bool) {
        self.are_lines = are_lines;
        self.refused += 1;
        if self.changed.refused.len() < REFUSED_TOLD_MAX {
            self.changed.refused.push(refused);
        }
    }

    /// Whether nothing was changed.
    pub fn is_nothing(&self) -> bool {
        let RulesChanged { added, replaced, removed, voided, voided_before, restored, .. } = self.changed;
        added + replaced + removed + voided + voided_before + restored == 0
    }

    /// Prints it. Refused lines make a failure of it, after all others were carried out.
    pub fn finish(mut self, control: &ControlArguments, outcome: Result<(), Failure>) -> Result<(), Failure> {
        self.changed.refused.sort_by_key(|refused| refused.line);
        if self.was_carried_out {
            control.print(&self.changed, text)?;
        }
        let mut messages: Vec<String> = Vec::new();
        for RefusedLine { line, text, reason } in &self.changed.refused {
            messages.push(match self.are_lines {
                true => format!("line {line}: `{text}`: {reason}"),
                false => format!("`{text}`: {reason}"),
            });
        }
        let untold = self.refused - self.changed.refused.len() as u64;
        if untold > 0 {
            messages.push(format!("{untold} more lines were refused"));
        }
        match outcome {
            Err(mut failure) => {
                messages.append(&mut failure.messages);
                Err(Failure { messages, code: failure.code })
            }
            Ok(()) if !messages.is_empty() => Err(Failure { messages, code: 1 }),
            Ok(()) => Ok(()),
        }
    }
}

fn text(changed: &RulesChanged) -> String {
    let counted = [
        (changed.added, "added"),
        (changed.replaced, "replaced"),
        (changed.removed, "removed"),
        (changed.voided, "of the generation removed"),
        (changed.voided_before, "of the generation removed before"),
        (changed.restored, "of the generation restored"),
    ];
    let parts: Vec<String> =
        counted.iter().filter(|(count, _)| *count > 0).map(|(count, what)| format!("{count} {what}")).collect();
    let parts = if parts.is_empty() { "nothing is changed".to_owned() } else { parts.join(", ") };
    match changed.workers {
        0 => format!("rules: {parts}; no server was asked, its next start takes it\n"),
        1 => format!("rules: {parts}; in force on the worker\n"),
        workers => format!("rules: {parts}; in force on all {workers} workers\n"),
    }
}

/// Pages of a list, printed as they come; as JSON at the end, for it is one value.
pub struct Shown<'a> {
    control: &'a ControlArguments,
    /// When they are printed as JSON.
    all: RulesListed,
    count: u64,
}

impl<'a> Shown<'a> {
    /// Nothing so far.
    pub fn new(control: &'a ControlArguments) -> Self {
        Self { control, all: RulesListed::default(), count: 0 }
    }

    /// A page.
    pub fn page(&mut self, rules: Vec<ListedRule>) -> Result<(), Failure> {
        let is_first = self.count == 0;
        self.count += rules.len() as u64;
        if self.control.is_json() {
            self.all.rules.extend(rules);
            return Ok(());
        }
        let heading = row([&"seq", &"what", &"scope", &"rule", &"list", &"ends", &"reason"]);
        let rows: Vec<Vec<String>> = std::iter::once(heading).chain(rules.iter().map(row_of)).collect();
        match rows.len() {
            1 => Ok(()),
            _ if is_first => print(table(&rows)),
            // The heading takes part in the widths alone.
            _ => print(table(&rows).split_once('\n').map_or("", |(_, rows)| rows)),
        }
    }

    /// There are no more.
    pub fn finish(self) -> Result<(), Failure> {
        match (self.control.is_json(), self.count) {
            (true, _) => self.control.print(&self.all, |_| String::new()),
            (false, 0) => print("no live rules\n"),
            (false, _) => Ok(()),
        }
    }
}

fn row_of(rule: &ListedRule) -> Vec<String> {
    let what = format!(
        "{}{}{}",
        if rule.is_void { "without " } else { "" },
        rule.kind,
        if rule.important { ", important" } else { "" }
    );
    let mut text = rule.key.clone();
    if let Some(target) = &rule.target {
        text += &format!(" -> {target}");
    }
    if !rule.servers.is_empty() {
        let servers: Vec<String> = rule.servers.iter().map(ToString::to_string).collect();
        text += &format!(" by {}", servers.join(", "));
    }
    if let Some(answer) = &rule.answer {
        text += &format!(" ({answer})");
    }
    if rule.is_conditional {
        text += " (conditional)";
    }
    let ends = rule.expires_s.map_or("-".to_owned(), date);
    row([&rule.seq, &what, &rule.scope, &text, &rule.list, &ends, &rule.reason])
}

fn date(unix_s: u64) -> String {
    match UNIX_EPOCH.checked_add(Duration::from_secs(unix_s.min(DATE_S_MAX))) {
        Some(date) => humantime::format_rfc3339_seconds(date).to_string(),
        None => unix_s.to_string(),
    }
}

/// The end of the year 9999, past which dates have no form.
const DATE_S_MAX: u64 = 253_402_300_799;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_has_been_done_is_told_in_one_line() {
        let changed = RulesChanged { added: 2, voided: 1, workers: 2, ..RulesChanged::default() };
        assert_eq!(text(&changed), "rules: 2 added, 1 of the generation removed; in force on all 2 workers\n");
        let offline = RulesChanged { removed: 1, ..RulesChanged::default() };
        assert_eq!(text(&offline), "rules: 1 removed; no server was asked, its next start takes it\n");
    }

    #[test]
    fn a_date_that_has_no_form_is_the_last_one() {
        assert_eq!(date(1_800_000_000), "2027-01-15T08:00:00Z");
        assert_eq!(date(u64::MAX), "9999-12-31T23:59:59Z");
    }
}
