//! Holding what is wanted against what was read. Pure: no file, no clock, no program.
//!
//! Invariant: every value that is wanted gives a finding for each thing it speaks of, also when nothing can be told of it; what
//! is as wanted, or cannot be mended here, comes without commands.

mod cpu;
mod irq;
mod kernel;
mod memory;
mod nic;
mod storage;
mod values;

use super::facts::{Fact, Facts, Untold};
use super::finding::{Finding, Group, State};
use super::site::Site;
use super::template::Values;
use super::wanted::{Advice, Rank, Wanted};

/// Things of one kind that a finding names one by one; the others are counted.
const NAMED_MAX: usize = 4;

/// All findings, group after group.
pub fn judge(wanted: &Wanted, facts: &Facts, site: &Site) -> Vec<Finding> {
    let mut findings = Vec::new();
    findings.extend(values::sysctls(&wanted.sysctls, facts, site));
    findings.extend(values::buffers(&wanted.buffers, facts));
    findings.extend(nic::judge(&wanted.nic, facts, site));
    findings.extend(irq::judge(&wanted.irq, facts, site));
    findings.extend(cpu::judge(&wanted.cpu, facts, site));
    findings.extend(memory::judge(&wanted.memory, facts, site));
    findings.extend(values::limits(&wanted.limits, facts, site));
    findings.extend(storage::judge(&wanted.storage, facts, site));
    findings.extend(kernel::clock(&wanted.clock, facts));
    findings.extend(kernel::judge(&wanted.kernel, facts));
    findings.sort_by_key(|finding| finding.group);
    findings
}

/// What a comparison came to.
struct Outcome {
    is_good: bool,
    found: String,
    note: Option<String>,
    /// What the commands are filled with, once for each thing to mend. Without any there is nothing that a command could do.
    repairs: Vec<Vec<(&'static str, String)>>,
}

impl Outcome {
    /// One thing, mended by one filling.
    fn one(is_good: bool, found: impl Into<String>, values: &[(&'static str, &str)]) -> Self {
        let found = found.into();
        let mut filling: Vec<_> = values.iter().map(|(name, value)| (*name, (*value).to_owned())).collect();
        if !values.iter().any(|(name, _)| *name == "found") {
            filling.push(("found", found.clone()));
        }
        Self { is_good, found, note: None, repairs: vec![filling] }
    }

    fn with_note(mut self, note: Option<String>) -> Self {
        self.note = note;
        self
    }
}

/// Which value is held against what.
struct Case<'a> {
    group: Group,
    name: &'static str,
    subject: Option<&'a str>,
}

impl Case<'_> {
    /// The finding; none when nobody wants to look.
    fn judge<T>(&self, advice: &Advice<T>, wanted: impl Into<String>, outcome: Fact<Outcome>) -> Option<Finding> {
        if advice.rank == Rank::Ignored {
            return None;
        }
        let mut finding = Finding {
            group: self.group,
            name: self.name.to_owned(),
            subject: self.subject.map(str::to_owned),
            state: State::Good,
            wanted: wanted.into(),
            found: None,
            note: None,
            why: advice.why.clone(),
            commands: Vec::new(),
            by_hand: None,
            undo: Vec::new(),
            lasting: advice.lasting.clone(),
        };
        match outcome {
            Err(untold) => tell(&mut finding, &untold),
            Ok(outcome) => {
                if !outcome.is_good {
                    finding.state = if advice.rank == Rank::Optional { State::Optional } else { State::Differs };
                    fill(&mut finding, advice, &outcome);
                }
                finding.found = Some(outcome.found);
                finding.note = outcome.note;
            }
        }
        Some(finding)
    }
}

/// Why there is nothing to compare.
fn tell(finding: &mut Finding, untold: &Untold) {
    finding.state = match untold {
        Untold::Inapplicable(_) => State::NotApplicable,
        _ => State::Unknown,
    };
    finding.note = Some(untold.to_string());
}

fn fill<T>(finding: &mut Finding, advice: &Advice<T>, outcome: &Outcome) {
    for repair in &outcome.repairs {
        let values: Vec<(&'static str, &str)> = repair.iter().map(|(name, value)| (*name, value.as_str())).collect();
        let values: &Values<'_> = &values;
        for (templates, lines) in [(&advice.commands, &mut finding.commands), (&advice.undo, &mut finding.undo)] {
            for line in templates.iter().map(|template| template.command(values)) {
                if !lines.contains(&line) {
                    lines.push(line);
                }
            }
        }
        if finding.by_hand.is_none() {
            finding.by_hand = advice.by_hand.as_ref().map(|words| words.words(values));
        }
    }
    if outcome.repairs.is_empty() {
        finding.by_hand = advice.by_hand.as_ref().map(|words| words.words(&[]));
    }
}

/// The first of some things by name, and how many more there are.
fn some(things: &[String]) -> String {
    let named = things.iter().take(NAMED_MAX).cloned().collect::<Vec<_>>().join(", ");
    match things.len().saturating_sub(NAMED_MAX) {
        0 => named,
        more => format!("{named} and {more} more"),
    }
}

/// A mask of cores as the kernel writes it, the lowest cores last.
fn mask(cores: &[usize]) -> String {
    let words = cores.iter().max().map_or(1, |core| core / 32 + 1);
    let mut bits = vec![0u32; words];
    for core in cores {
        bits[core / 32] |= 1 << (core % 32);
    }
    let words: Vec<String> = bits.iter().rev().map(|word| format!("{word:08x}")).collect();
    words.join(",")
}

/// An error that is told for what a fact would have been needed for.
fn because<T>(fact: &Fact<T>) -> Fact<&T> {
    fact.as_ref().map_err(Clone::clone)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mask_has_the_lowest_cores_last() {
        assert_eq!(mask(&[0, 1, 35]), "00000008,00000003");
        assert_eq!(mask(&[]), "00000000");
    }

    #[test]
    fn many_things_are_named_in_part_and_counted() {
        let things: Vec<String> = (0..6).map(|number| number.to_string()).collect();
        assert_eq!(some(&things), "0, 1, 2, 3 and 2 more");
        assert_eq!(some(&things[..2]), "0, 1");
    }
}
