//! Counts held against those that were accepted.
//!
//! Invariant: a stage passes only when there is a reference for it, and a reference only when there still is its stage: what
//! nobody compares any more is told as a failure.

use std::fmt;
use std::fs;
use std::path::Path;
use std::process::Command;

use corewall::build::patterns::sidecar;
use corewall_bench::figures::{Host, first_line};
use serde::{Deserialize, Serialize};

use crate::Failure;

/// How much more than its reference a stage may take. Repeated counts differ by less than 0.3 % (`bench/README.md`), so this
/// leaves room for another choice of what is inlined, by which a change elsewhere moves small stages, and for little that
/// anyone wrote on purpose.
pub const TOLERANCE: f64 = 0.05;
/// The same when another compiler, engine, C library, valgrind or processor counted than did for the reference: their own
/// work is in the counts. Other string functions of the C library alone move a stage by up to 7 % (measured by
/// `glibc.cpu.hwcaps`), and a compiler moves more than those.
pub const TOLERANCE_ELSEWHERE: f64 = 0.20;
const _: () = assert!(TOLERANCE < TOLERANCE_ELSEWHERE, "the same tools count the same");

/// What has its work in the counts, beside this repository.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Tools {
    /// The compiler.
    pub rustc: String,
    /// The pattern engine.
    pub hyperscan: String,
    /// The C library, whose `memcpy` is in most stages.
    pub libc: String,
    /// What counts.
    pub valgrind: String,
    /// The processor as valgrind shows it.
    pub processor: String,
}

impl Tools {
    /// Those of this machine; valgrind shows the program this processor.
    pub fn here(processor: String) -> Tools {
        Tools {
            rustc: env!("STAGES_RUSTC").to_owned(),
            hyperscan: sidecar::engine_version(),
            libc: first_line(Command::new("getconf").arg("GNU_LIBC_VERSION")),
            valgrind: first_line(Command::new("valgrind").arg("--version")),
            processor,
        }
    }

    fn differences(&self, other: &Tools) -> Vec<String> {
        let pairs = [
            (&self.rustc, &other.rustc),
            (&self.hyperscan, &other.hyperscan),
            (&self.libc, &other.libc),
            (&self.valgrind, &other.valgrind),
            (&self.processor, &other.processor),
        ];
        let differ = pairs.into_iter().filter(|(reference, here)| reference != here);
        differ.map(|(reference, here)| format!("`{here}` instead of `{reference}`")).collect()
    }
}

/// The figures of one stage.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Figures {
    /// Which one.
    pub stage: String,
    /// Instructions an operation.
    pub instructions: f64,
    /// Nanoseconds an operation, on that machine.
    pub ns: f64,
}

/// The figures of all stages, and where they are from.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Measured {
    /// Where and of which commit.
    pub host: Host,
    /// With what.
    pub tools: Tools,
    /// In the order of a query's life.
    pub stages: Vec<Figures>,
}

impl Measured {
    /// Reads a file of references.
    ///
    /// # Errors
    /// There is none, or it is something else.
    pub fn read(path: &Path) -> Result<Measured, Failure> {
        let read = fs::read(path).map_err(Failure::from).and_then(|text| Ok(serde_json::from_slice(&text)?));
        read.map_err(|error| format!("{}: {error}; write it with --accept", path.display()).into())
    }

    /// Writes them as a file of references.
    ///
    /// # Errors
    /// It cannot be written.
    pub fn write(&self, path: &Path) -> Result<(), Failure> {
        let text = serde_json::to_string_pretty(self)? + "\n";
        fs::write(path, text).map_err(|error| format!("{}: {error}", path.display()).into())
    }

    fn stage(&self, stage: &str) -> Option<&Figures> {
        self.stages.iter().find(|figures| figures.stage == stage)
    }
}

/// What a comparison says of one stage.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// As the reference, within the tolerance.
    Held,
    /// Fewer instructions, by more than the tolerance: to be accepted, or what was gained may be lost unseen.
    Gained,
    /// More, by more than the tolerance.
    Lost,
    /// There is no reference.
    New,
}

/// One stage beside its reference.
#[derive(Clone, Debug, PartialEq)]
pub struct Compared {
    /// As it is now.
    pub now: Figures,
    /// As it was.
    pub reference: Option<Figures>,
    /// What that means.
    pub verdict: Verdict,
}

/// All stages beside their references.
#[derive(Clone, Debug)]
pub struct Comparison {
    /// In the order of a query's life.
    pub stages: Vec<Compared>,
    /// References whose stages are gone.
    pub gone: Vec<String>,
    /// What else counted now than did for the reference.
    pub differences: Vec<String>,
    /// That was granted.
    pub tolerance: f64,
}

impl Comparison {
    /// Holds `now` against `reference`.
    pub fn of(now: &Measured, reference: &Measured) -> Comparison {
        let differences = reference.tools.differences(&now.tools);
        let tolerance = if differences.is_empty() { TOLERANCE } else { TOLERANCE_ELSEWHERE };
        let compare = |figures: &Figures| {
            let reference = reference.stage(&figures.stage).cloned();
            let verdict = match &reference {
                None => Verdict::New,
                Some(reference) if figures.instructions > reference.instructions * (1.0 + tolerance) => Verdict::Lost,
                Some(reference) if figures.instructions < reference.instructions * (1.0 - tolerance) => Verdict::Gained,
                Some(_) => Verdict::Held,
            };
            Compared { now: figures.clone(), reference, verdict }
        };
        let gone = reference.stages.iter().filter(|figures| now.stage(&figures.stage).is_none());
        Comparison {
            stages: now.stages.iter().map(compare).collect(),
            gone: gone.map(|figures| figures.stage.clone()).collect(),
            differences,
            tolerance,
        }
    }

    /// Whether every stage has a reference and takes no more than that allows, and every reference has its stage.
    pub fn is_held(&self) -> bool {
        let holds = |compared: &Compared| matches!(compared.verdict, Verdict::Held | Verdict::Gained);
        self.gone.is_empty() && self.stages.iter().all(holds)
    }
}

impl fmt::Display for Comparison {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{:<16} {:>12} {:>12} {:>7} {:>8}", "stage", "instructions", "reference", "ratio", "ns")?;
        for Compared { now, reference, verdict } in &self.stages {
            let Figures { stage, instructions, ns } = now;
            write!(f, "{stage:<16} {instructions:>12.1} ")?;
            match reference {
                Some(Figures { instructions: before, .. }) => {
                    write!(f, "{before:>12.1} {:>7.3} ", instructions / before)?;
                }
                None => write!(f, "{:>12} {:>7} ", "-", "-")?,
            }
            writeln!(f, "{ns:>8.1}{}", verdict.remark())?;
        }
        for stage in &self.gone {
            writeln!(f, "{stage:<16} is gone; its reference is still there")?;
        }
        if !self.differences.is_empty() {
            writeln!(f, "counted with {}: more is tolerated", self.differences.join(", "))?;
        }
        Ok(())
    }
}

impl Verdict {
    fn remark(self) -> &'static str {
        match self {
            Self::Held => "",
            Self::Gained => "  fewer: accept it, or it may be lost again unseen",
            Self::Lost => "  MORE",
            Self::New => "  NO REFERENCE",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn measured(stages: &[(&str, f64)]) -> Measured {
        let text = |text: &str| text.to_owned();
        let host = Host { commit: text("c"), kernel: text("k"), cpu: text("p"), date: text("d"), cores: 2 };
        let tools = Tools {
            rustc: text("rustc 1"),
            hyperscan: text("5.4.0"),
            libc: text("glibc 2.36"),
            valgrind: text("valgrind-3.19.0"),
            processor: text("x86_64 avx2"),
        };
        let stages = stages.iter().map(|&(stage, instructions)| Figures { stage: text(stage), instructions, ns: 1.0 });
        Measured { host, tools, stages: stages.collect() }
    }

    fn verdicts(comparison: &Comparison) -> Vec<Verdict> {
        comparison.stages.iter().map(|compared| compared.verdict).collect()
    }

    #[test]
    fn a_stage_that_takes_more_than_the_tolerance_fails_the_gate() {
        let reference = measured(&[("parse", 100.0), ("cached", 1_000.0)]);
        let held = Comparison::of(&measured(&[("parse", 104.9), ("cached", 951.0)]), &reference);
        assert_eq!((verdicts(&held), held.is_held()), (vec![Verdict::Held; 2], true));
        let lost = Comparison::of(&measured(&[("parse", 105.1), ("cached", 1_000.0)]), &reference);
        assert_eq!((verdicts(&lost), lost.is_held()), (vec![Verdict::Lost, Verdict::Held], false));
        let said = lost.to_string();
        assert!(said.lines().any(|line| line.starts_with("parse") && line.ends_with("MORE")), "{said}");
    }

    #[test]
    fn a_stage_that_takes_far_less_is_told_and_passes() {
        let gained = Comparison::of(&measured(&[("parse", 90.0)]), &measured(&[("parse", 100.0)]));
        assert_eq!((verdicts(&gained), gained.is_held()), (vec![Verdict::Gained], true));
        assert!(gained.to_string().contains("accept it"));
    }

    #[test]
    fn a_stage_without_a_reference_and_a_reference_without_its_stage_fail_the_gate() {
        let new = Comparison::of(&measured(&[("parse", 100.0), ("hash", 1.0)]), &measured(&[("parse", 100.0)]));
        assert_eq!((verdicts(&new), new.is_held()), (vec![Verdict::Held, Verdict::New], false));
        let gone = Comparison::of(&measured(&[("parse", 100.0)]), &measured(&[("parse", 100.0), ("hash", 1.0)]));
        assert_eq!((gone.gone.as_slice(), gone.is_held()), (["hash".to_owned()].as_slice(), false));
    }

    #[test]
    fn what_other_tools_counted_is_told_and_held_to_a_wider_tolerance() {
        let reference = measured(&[("parse", 100.0)]);
        for (instructions, is_held) in [(119.0, true), (121.0, false)] {
            let mut now = measured(&[("parse", instructions)]);
            now.tools.rustc = "rustc 2".to_owned();
            let comparison = Comparison::of(&now, &reference);
            assert_eq!(comparison.is_held(), is_held);
            assert!(comparison.to_string().contains("`rustc 2` instead of `rustc 1`"));
        }
    }

    #[test]
    fn accepted_counts_come_back_from_their_file_as_they_were() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("stages.json");
        assert!(Measured::read(&path).unwrap_err().to_string().contains("--accept"));
        let measured = measured(&[("parse", 100.25)]);
        measured.write(&path).unwrap();
        let read = Measured::read(&path).unwrap();
        assert_eq!((read.stages, read.tools), (measured.stages, measured.tools));
    }
}
