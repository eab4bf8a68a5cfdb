//! Scenarios: what clients ask, what upstream servers answer, and what must come of it, run through the whole query path in
//! virtual time. README.md tells how to write one; each file under `cases` is a test of its own.
//!
//! Never done here: sleeping, reading a clock, or opening a socket.

mod appliance;
mod compare;
mod live;
mod foreign;
mod message;
mod parse;
#[path = "../real_data/mod.rs"]
mod real_data;
mod run;
mod scenario;

use std::fmt;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use libtest_mimic::{Arguments, Trial};

use self::run::Strictness;

/// Why a scenario failed, and where.
#[derive(Debug)]
pub struct Failure {
    pub file: PathBuf,
    pub line: usize,
    pub text: String,
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { file, line, text } = self;
        write!(f, "{}:{line}: {text}", file.display())
    }
}

fn main() -> ExitCode {
    let arguments = Arguments::from_args();
    let here = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/replay");
    let mut trials = Vec::new();
    for file in rpl_files(&here.join("cases")) {
        trials.push(Trial::test(test_name(&here, &file), move || pass(&file).map_err(Into::into)));
    }
    for file in rpl_files(&here.join("must_fail")) {
        trials.push(Trial::test(test_name(&here, &file), move || fail_as_said(&file).map_err(Into::into)));
    }
    trials.extend(foreign::trials());
    libtest_mimic::run(&arguments, trials).exit_code()
}

/// All `.rpl` files of a folder and the folders in it, sorted.
fn rpl_files(folder: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(folder).unwrap_or_else(|error| panic!("{}: {error}", folder.display()));
    let mut files = Vec::new();
    for entry in entries {
        let path = entry.unwrap_or_else(|error| panic!("{}: {error}", folder.display())).path();
        if path.is_dir() {
            files.extend(rpl_files(&path));
        } else if path.extension().is_some_and(|extension| extension == "rpl") {
            files.push(path);
        }
    }
    files.sort();
    files
}

fn test_name(here: &Path, file: &Path) -> String {
    let name = file.strip_prefix(here).unwrap_or(file).with_extension("");
    name.to_string_lossy().into_owned()
}

fn pass(file: &Path) -> Result<(), String> {
    let text = std::fs::read_to_string(file).map_err(|error| format!("{}: {error}", file.display()))?;
    let result = parse::parse(file, &text).and_then(|scenario| run::run(&scenario, Strictness::Full));
    result.map_err(|failure| failure.to_string())
}

/// A test that cannot fail shows nothing: each of these must, at the line and with the words that its first line tells.
fn fail_as_said(file: &Path) -> Result<(), String> {
    let text = std::fs::read_to_string(file).map_err(|error| format!("{}: {error}", file.display()))?;
    let said = text.lines().next().and_then(|line| line.strip_prefix("# fails: "));
    let said = said.ok_or_else(|| format!("{}:1: begin with `# fails: LINE: TEXT`", file.display()))?;
    match pass(file) {
        Ok(()) => Err(format!("{}: passed, but should fail: {said}", file.display())),
        Err(failure) if failure.contains(&format!(".rpl:{said}")) => Ok(()),
        Err(failure) => Err(format!("{}: should fail: {said}\nbut failed:\n{failure}", file.display())),
    }
}
