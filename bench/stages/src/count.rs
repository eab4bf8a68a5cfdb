//! Instructions, counted by callgrind.
//!
//! A process is started for each stage under `valgrind --tool=callgrind --toggle-collect`, which counts while one function
//! runs: [`run_counted`]. That needs nothing but Debian's package: gungraun (the successor of iai-callgrind) counts in the
//! same way, yet wants a runner of exactly its version installed by `cargo install`, and keeps its baselines in `target`,
//! where no commit holds them; client requests want valgrind's headers and unsafe code.
//!
//! What a count rests on: valgrind shows the program the same processor on all that have AVX2 (an Intel Haswell), so that
//! glibc and Hyperscan choose the same code everywhere; only user space is counted; the environment is empty, for its size
//! moves the stack. The profile stays in the folder, for `callgrind_annotate`.

use std::ffi::OsString;
use std::fs;
use std::hint::black_box;
use std::path::Path;
use std::process::Command;

use serde::{Deserialize, Serialize};

use crate::Failure;
use crate::fixtures::Fixtures;
use crate::stages::{Ready, Stage};

/// Functions while which callgrind counts: [`run_counted`] alone, however its symbol is mangled.
const COUNTED: &str = "*run_counted*";

/// What a process that was counted says of itself.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Counted {
    /// How often it did what the stage does.
    pub operations: usize,
    /// The processor as it saw it, see [`processor`].
    pub processor: String,
}

/// The instructions of one stage.
#[derive(Clone, Debug, PartialEq)]
pub struct Count {
    /// Instructions an operation.
    pub instructions: f64,
    /// The processor as valgrind showed it.
    pub processor: String,
}

/// Starts `program`, which is `stages`, under callgrind to run a stage.
///
/// # Errors
/// Valgrind is not there, or the stage failed.
pub fn count(program: &Path, stage: &Stage, folder: &Path) -> Result<Count, Failure> {
    let profile = folder.join(format!("{}.callgrind", stage.name));
    let mut out = OsString::from("--callgrind-out-file=");
    out.push(&profile);
    let mut command = Command::new("valgrind");
    command.args(["--quiet", "--tool=callgrind"]).arg(format!("--toggle-collect={COUNTED}")).arg(out);
    command.arg(program).arg("run-counted").arg(stage.name).arg(folder);
    let kept = ["PATH", "LD_LIBRARY_PATH"].map(|name| (name, std::env::var_os(name)));
    command.env_clear();
    command.envs(kept.into_iter().filter_map(|(name, value)| Some((name, value?))));
    let output = command.output().map_err(|error| format!("cannot start valgrind ({error}); run .ci/setup test"))?;
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stderr);
        return Err(format!("stage `{}` under valgrind: {}: {said}", stage.name, output.status).into());
    }
    let counted: Counted = serde_json::from_slice(&output.stdout)?;
    let text = fs::read_to_string(&profile).map_err(|error| format!("{}: {error}", profile.display()))?;
    let total = total(&text).ok_or_else(|| format!("{}: nothing was counted", profile.display()))?;
    Ok(Count { instructions: total as f64 / counted.operations as f64, processor: counted.processor })
}

/// Instructions in a profile; none when there are none, as when callgrind knew no function of that name.
fn total(profile: &str) -> Option<u64> {
    let line = profile.lines().rev().find_map(|line| line.strip_prefix("totals: "))?;
    line.trim().parse().ok().filter(|&total| total > 0)
}

/// The side within valgrind: runs a stage, once it is warm.
///
/// # Errors
/// The stage fails.
pub fn run_under_callgrind(stage: &Stage, fixtures: &Fixtures) -> Result<Counted, Failure> {
    let mut ready = stage.warm(fixtures)?;
    ready.prepare();
    let done = run_counted(&mut ready);
    ready.check(done)?;
    Ok(Counted { operations: ready.operations(), processor: processor() })
}

/// What callgrind counts. Never inlined and not left by a jump, or it would see neither begin nor end.
#[inline(never)]
fn run_counted(ready: &mut Ready<'_>) -> usize {
    black_box(ready.run())
}

/// What this process sees of its processor, as far as glibc and Hyperscan choose their code by it.
pub fn processor() -> String {
    let mut words = vec![std::env::consts::ARCH];
    #[cfg(target_arch = "x86_64")]
    words.extend(
        [
            ("sse4.2", is_x86_feature_detected!("sse4.2")),
            ("popcnt", is_x86_feature_detected!("popcnt")),
            ("avx", is_x86_feature_detected!("avx")),
            ("avx2", is_x86_feature_detected!("avx2")),
            ("bmi2", is_x86_feature_detected!("bmi2")),
            ("avx512f", is_x86_feature_detected!("avx512f")),
        ]
        .into_iter()
        .filter_map(|(name, is_there)| is_there.then_some(name)),
    );
    words.join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_profile_in_which_nothing_was_counted_is_no_count() {
        assert_eq!(total("summary: 7\nfn=(1)\n1 7\n\ntotals: 7\n"), Some(7));
        assert_eq!(total("summary: 0\n\ntotals: 0\n"), None);
        assert_eq!(total("events: Ir\n"), None);
    }
}
