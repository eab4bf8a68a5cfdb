//! Compiling in a process of its own, with limits on memory and time.

use std::io::{self, Read, Write};
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use super::{CompileError, Outcome, Wanted, sidecar, taken};
use crate::limits;

/// Name of the hidden subcommand that compiles in a process of its own.
pub const SUBCOMMAND: &str = "compile-patterns";

/// Leads to this program's file, also when an upgrade has replaced or removed it since the start.
const OWN_PROGRAM: &str = "/proc/self/exe";

/// Which process compiles.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Compiler {
    /// A child with limits on memory and time: this program anew, which must have the subcommand [`SUBCOMMAND`].
    Child,
    /// This very process, without limits: for programs without that subcommand, such as tests, and patterns they know.
    Here,
}

/// What one attempt at compiling may take; a child is ended when it does not suffice.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bounds {
    /// Seconds of CPU time, at least 1.
    pub cpu_s: u64,
    /// Seconds from start to end, at least 1.
    pub wall_s: u64,
}

/// As compiling in a process of its own says it: what became of each pattern, and the databases as a sidecar.
pub struct Bounded {
    /// In the order of the patterns.
    pub outcomes: Vec<Outcome>,
    /// See [`sidecar`].
    pub sidecar: Vec<u8>,
}

/// As [`super::compile`], within bounds when it is a child that compiles.
///
/// # Errors
/// Likewise, and when the child cannot be started, or is ended by its limits.
pub(super) fn compile(wanted: &[Wanted], compiler: Compiler, bounds: Bounds) -> Result<Bounded, CompileError> {
    match compiler {
        Compiler::Child => compile_in_child(wanted, bounds),
        Compiler::Here => {
            let (outcomes, compiled) = super::compile(wanted)?;
            let sidecar = sidecar::write(&compiled, &taken(wanted, &outcomes))?;
            Ok(Bounded { outcomes, sidecar })
        }
    }
}

/// The child's side: reads patterns from `input`, and writes what became of them to `output`. From here on this process
/// lives within `bounds`.
///
/// # Errors
/// As [`super::compile`], and when either end of the pipe fails.
pub fn serve_child(bounds: Bounds, input: &mut dyn Read, output: &mut dyn Write) -> Result<(), CompileError> {
    limit_this_process(bounds).map_err(CompileError::Child)?;
    answer(input, output)
}

fn answer(input: &mut dyn Read, output: &mut dyn Write) -> Result<(), CompileError> {
    let wanted: Vec<Wanted> = serde_json::from_reader(input).map_err(|error| CompileError::Child(error.into()))?;
    let (outcomes, compiled) = super::compile(&wanted)?;
    let sidecar = sidecar::write(&compiled, &taken(&wanted, &outcomes))?;
    let mut line = serde_json::to_vec(&outcomes).map_err(|error| CompileError::Child(error.into()))?;
    line.push(b'\n');
    output.write_all(&line).and_then(|()| output.write_all(&sidecar)).map_err(CompileError::Child)
}

fn own_program() -> io::Result<PathBuf> {
    // Where there is no /proc, the path must do.
    if Path::new(OWN_PROGRAM).exists() { Ok(PathBuf::from(OWN_PROGRAM)) } else { std::env::current_exe() }
}

fn compile_in_child(wanted: &[Wanted], bounds: Bounds) -> Result<Bounded, CompileError> {
    let mut child = Command::new(own_program().map_err(CompileError::Child)?)
        .arg(SUBCOMMAND)
        .args(["--cpu-s", &bounds.cpu_s.to_string(), "--wall-s", &bounds.wall_s.to_string()])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(CompileError::Child)?;
    // The child reads all of its input before it writes anything, so that neither waits for the other.
    let written = match child.stdin.take() {
        Some(stdin) => serde_json::to_writer(io::BufWriter::new(stdin), wanted).map_err(io::Error::from),
        None => Ok(()),
    };
    let output = child.wait_with_output().map_err(CompileError::Child)?;
    if let Some(signal) = output.status.signal() {
        return Err(CompileError::Limits(format!(
            "took more than {} MiB of memory or {} s (signal {signal})",
            limits::PATTERN_COMPILE_BYTES_MAX >> 20,
            bounds.cpu_s,
        )));
    }
    if !output.status.success() {
        let stderr = String::from_utf8_lossy(&output.stderr);
        let first = stderr.lines().next().unwrap_or("without a word").trim_start_matches("error: ");
        return Err(CompileError::Limits(format!("failed ({first})")));
    }
    written.map_err(CompileError::Child)?;
    read_answer(&output.stdout)
}

fn read_answer(output: &[u8]) -> Result<Bounded, CompileError> {
    let unreadable = || CompileError::Child(io::Error::new(io::ErrorKind::InvalidData, "its answer cannot be read"));
    let mut parts = output.splitn(2, |&byte| byte == b'\n');
    let (Some(line), Some(sidecar)) = (parts.next(), parts.next()) else { return Err(unreadable()) };
    let outcomes = serde_json::from_slice(line).map_err(|_| unreadable())?;
    Ok(Bounded { outcomes, sidecar: sidecar.to_vec() })
}

/// From here on the process is ended by the kernel when it takes more than it may.
fn limit_this_process(bounds: Bounds) -> io::Result<()> {
    let limits = [
        (libc::RLIMIT_AS, limits::PATTERN_COMPILE_BYTES_MAX),
        (libc::RLIMIT_CPU, bounds.cpu_s),
        (libc::RLIMIT_CORE, 0),
    ];
    for (resource, wanted) in limits {
        let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
        // SAFETY: `limit` is a whole value that lives until the call returns, which writes it.
        if unsafe { libc::getrlimit(resource, &mut limit) } != 0 {
            return Err(io::Error::last_os_error());
        }
        // Who starts the build may have set a stricter one, which nobody but root may lift.
        let wanted = wanted.min(limit.rlim_max);
        let limit = libc::rlimit { rlim_cur: wanted, rlim_max: wanted };
        // SAFETY: `limit` is a whole value that lives until the call returns, which only reads it.
        if unsafe { libc::setrlimit(resource, &limit) } != 0 {
            return Err(io::Error::last_os_error());
        }
    }
    let wall_s = libc::c_uint::try_from(bounds.wall_s).unwrap_or(libc::c_uint::MAX);
    // SAFETY: it takes no pointer, and its signal has the action that ends the process: nothing here handles it.
    unsafe { libc::alarm(wall_s) };
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_child_answers_as_the_process_itself_would() {
        // What `serve_child` does without its limits, which would be this process's.
        let wanted = ["one", "(", r"(?!x)two"].map(|regex| Wanted { regex: regex.to_owned(), may_match_empty: false });
        let input = serde_json::to_vec(&wanted).unwrap();
        let mut output = Vec::new();
        answer(&mut input.as_slice(), &mut output).unwrap();
        let here = compile(&wanted, Compiler::Here, Bounds { cpu_s: 1, wall_s: 1 }).unwrap();
        let there = read_answer(&output).unwrap();
        assert_eq!(there.outcomes, here.outcomes);
        assert_eq!(there.sidecar, here.sidecar);
        assert!(read_answer(&output[..5]).is_err());
    }
}
