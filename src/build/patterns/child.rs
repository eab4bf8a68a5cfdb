//! Compiling in a process of its own, with limits on memory and time.

use std::io::{self, Read, Write};
use std::path::PathBuf;
use std::process::{Command, Stdio};

use super::{CompileError, Outcome, Wanted, compile, sidecar, taken};
use crate::limits;

/// Name of the hidden subcommand that compiles in a process of its own.
pub const SUBCOMMAND: &str = "compile-patterns";

/// Name of this program's binary; another one (a test's) has no such subcommand.
const PROGRAM: &str = "corewall";

/// As compiling in a process of its own says it: what became of each pattern, and the databases as a sidecar.
pub struct Bounded {
    /// In the order of the patterns.
    pub outcomes: Vec<Outcome>,
    /// See [`sidecar`].
    pub sidecar: Vec<u8>,
}

/// As [`compile`], for a build: in a child process when there are many patterns.
///
/// # Errors
/// As [`compile`], and when the child cannot be started or is ended by its limits.
pub fn compile_bounded(wanted: &[Wanted]) -> Result<Bounded, CompileError> {
    match own_program() {
        Some(program) if wanted.len() > limits::PATTERNS_COMPILED_HERE_MAX => compile_in_child(&program, wanted),
        _ => {
            let (outcomes, compiled) = compile(wanted)?;
            let sidecar = sidecar::write(&compiled, &taken(wanted, &outcomes))?;
            Ok(Bounded { outcomes, sidecar })
        }
    }
}

/// The child's side of [`compile_bounded`]: reads patterns from `input`, and writes what became of them to `output`.
///
/// # Errors
/// As [`compile`], and when either end of the pipe fails.
pub fn serve_child(input: &mut dyn Read, output: &mut dyn Write) -> Result<(), CompileError> {
    limit_this_process().map_err(CompileError::Child)?;
    answer(input, output)
}

fn answer(input: &mut dyn Read, output: &mut dyn Write) -> Result<(), CompileError> {
    let wanted: Vec<Wanted> = serde_json::from_reader(input).map_err(|error| CompileError::Child(error.into()))?;
    let (outcomes, compiled) = compile(&wanted)?;
    let sidecar = sidecar::write(&compiled, &taken(&wanted, &outcomes))?;
    let mut line = serde_json::to_vec(&outcomes).map_err(|error| CompileError::Child(error.into()))?;
    line.push(b'\n');
    output.write_all(&line).and_then(|()| output.write_all(&sidecar)).map_err(CompileError::Child)
}

/// This program's file, when it is the one that has the subcommand.
fn own_program() -> Option<PathBuf> {
    std::env::current_exe().ok().filter(|path| path.file_name().is_some_and(|name| name == PROGRAM))
}

fn compile_in_child(program: &PathBuf, wanted: &[Wanted]) -> Result<Bounded, CompileError> {
    let mut child = Command::new(program)
        .arg(SUBCOMMAND)
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
    if !output.status.success() {
        let stderr = String::from_utf8_lossy(&output.stderr);
        let first = stderr.lines().next().unwrap_or("without a word").trim_start_matches("error: ");
        return Err(CompileError::Limits(format!("failed ({}): {first}", output.status)));
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

/// From here on the process is ended by the kernel when it takes more than a build may.
fn limit_this_process() -> io::Result<()> {
    let limits = [
        (libc::RLIMIT_AS, limits::PATTERN_COMPILE_BYTES_MAX),
        (libc::RLIMIT_CPU, limits::PATTERN_COMPILE_CPU_S_MAX),
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
        let here = compile_bounded(&wanted).unwrap();
        let there = read_answer(&output).unwrap();
        assert_eq!(there.outcomes, here.outcomes);
        assert_eq!(there.sidecar, here.sidecar);
        assert!(read_answer(&output[..5]).is_err());
    }
}
