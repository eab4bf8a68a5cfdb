//! Asking other programs: what an interface's driver says only `ethtool` tells, what a dataset is like only `zfs`.
//!
//! Invariant: a program that hangs, as `zfs` does on a suspended pool, is ended after [`PROGRAM_MS_MAX`] and is then something
//! that cannot be told.

use std::io::{self, Read};
use std::process::{Command, Stdio};
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use super::facts::Untold;
use crate::limits::{PROGRAM_MS_MAX, PROGRAM_OUTPUT_BYTES_MAX};

/// What a program said.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Said {
    /// Whether it ended well.
    pub is_success: bool,
    /// Standard output.
    pub output: String,
    /// Standard error.
    pub errors: String,
}

/// Who runs programs; tests answer for them.
pub trait Programs {
    /// Runs a program to its end.
    ///
    /// # Errors
    /// It is not there, must not be run, or did not end.
    fn run(&self, program: &str, arguments: &[&str]) -> Result<Said, Untold>;
}

/// The programs of this machine.
#[derive(Clone, Copy, Debug)]
pub struct Installed;

impl Programs for Installed {
    fn run(&self, program: &str, arguments: &[&str]) -> Result<Said, Untold> {
        run_within(PROGRAM_MS_MAX, program, arguments)
    }
}

fn run_within(ms_max: u64, program: &str, arguments: &[&str]) -> Result<Said, Untold> {
    // A user's PATH often lacks the folders in which Debian keeps these.
    let path = std::env::var("PATH").unwrap_or_default() + ":/usr/local/sbin:/usr/sbin:/sbin";
    let mut command = Command::new(program);
    command.args(arguments).env("PATH", path).env("LC_ALL", "C");
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().map_err(|error| match error.kind() {
        io::ErrorKind::NotFound => Untold::NoProgram(program.to_owned()),
        _ => Untold::Unreadable(format!("{program} cannot be run: {error}")),
    })?;
    let (output, errors) = (child.stdout.take(), child.stderr.take());
    let (done, ended) = mpsc::channel();
    thread::spawn(move || {
        // Both pipes are read at a time: a program that fills one would otherwise wait for ever while the other is read.
        let errors = thread::spawn(move || read(errors));
        let output = read(output);
        done.send((output, errors.join().unwrap_or_default()))
    });
    let late = || Untold::Unreadable(format!("{program} did not end within {} s", ms_max / 1_000));
    match ended.recv_timeout(Duration::from_millis(ms_max)) {
        Ok((output, errors)) => {
            let status = child.wait().map_err(|_| late())?;
            Ok(Said { is_success: status.success(), output, errors })
        }
        Err(_) => {
            // Not waited for: one that hangs in the kernel does not end by this.
            let _ = child.kill();
            Err(late())
        }
    }
}

fn read(pipe: Option<impl Read>) -> String {
    let mut bytes = Vec::new();
    if let Some(pipe) = pipe {
        // What was read before an error is what there is.
        let _ = pipe.take(PROGRAM_OUTPUT_BYTES_MAX).read_to_end(&mut bytes);
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_program_is_heard_on_both_pipes_and_one_that_is_not_there_is_told() {
        let said = Installed.run("sh", &["-c", "echo out; echo err >&2; exit 3"]).unwrap();
        assert_eq!(said, Said { is_success: false, output: "out\n".to_owned(), errors: "err\n".to_owned() });
        let absent = Installed.run("corewall-no-such-program", &[]);
        assert_eq!(absent, Err(Untold::NoProgram("corewall-no-such-program".to_owned())));
    }

    #[test]
    fn a_program_that_does_not_end_is_given_up() {
        let given_up = run_within(20, "sh", &["-c", "exec sleep 1000"]);
        assert_eq!(given_up, Err(Untold::Unreadable("sh did not end within 0 s".to_owned())));
    }
}
