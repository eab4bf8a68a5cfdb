//! A child process whose output is read line by line while it runs.

use std::io::{BufRead, BufReader, Read};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Condvar, Mutex};
use std::thread;
use std::time::{Duration, Instant};

/// After so long without what a test waits for, it has failed.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// A running process. It is killed when dropped.
pub struct Process {
    child: Child,
    /// Its standard output.
    pub out: Lines,
    /// Its standard error.
    pub err: Lines,
}

/// How a process ended.
#[derive(Debug)]
pub struct Done {
    /// Exit code; none when a signal ended it.
    pub code: Option<i32>,
    /// Its standard output.
    pub out: String,
    /// Its standard error.
    pub err: String,
}

impl Process {
    /// Starts it without input.
    pub fn start(command: &mut Command) -> Self {
        let spawned = command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn();
        let mut child = spawned.unwrap_or_else(|error| panic!("{command:?}: {error}"));
        let out = Lines::read(child.stdout.take().unwrap());
        let err = Lines::read(child.stderr.take().unwrap());
        Self { child, out, err }
    }

    /// Sends it a signal, by name.
    pub fn signal(&self, name: &str) {
        let sent = Command::new("kill").args([format!("-{name}"), self.child.id().to_string()]).status().unwrap();
        assert!(sent.success(), "SIG{name} cannot be sent\n{}", self.output());
    }

    /// Kills it at once.
    pub fn kill(&mut self) {
        // It may have ended by itself.
        let _ = self.child.kill();
    }

    /// Asks it to end, and waits until it and its children have closed their output.
    pub fn end(&mut self) {
        // It may have ended by itself.
        let _ = Command::new("kill").args(["-TERM", &self.child.id().to_string()]).status();
        self.out.wait_for_end();
    }

    /// Waits for its end.
    pub fn finish(mut self) -> Done {
        let has_ended = self.out.wait_for_end() && self.err.wait_for_end();
        assert!(has_ended, "the process does not end\n{}", self.output());
        let status = self.child.wait().unwrap();
        Done { code: status.code(), out: self.out.text(), err: self.err.text() }
    }

    /// Whether it is still running.
    pub fn is_running(&mut self) -> bool {
        self.child.try_wait().unwrap().is_none()
    }

    /// Everything printed so far.
    pub fn output(&self) -> String {
        format!("standard output:\n{}standard error:\n{}", self.out.text(), self.err.text())
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.kill();
        let _ = self.child.wait();
    }
}

/// The lines of a pipe, read by a thread of their own.
#[derive(Clone)]
pub struct Lines(Arc<(Mutex<Seen>, Condvar)>);

#[derive(Default)]
struct Seen {
    lines: Vec<String>,
    has_ended: bool,
}

impl Lines {
    fn read(pipe: impl Read + Send + 'static) -> Self {
        let lines = Self(Arc::default());
        let reader = lines.clone();
        thread::spawn(move || {
            for line in BufReader::new(pipe).split(b'\n').map_while(Result::ok) {
                reader.change(|read| read.lines.push(String::from_utf8_lossy(&line).into_owned()));
            }
            reader.change(|read| read.has_ended = true);
        });
        lines
    }

    fn change(&self, change: impl FnOnce(&mut Seen)) {
        change(&mut self.0.0.lock().unwrap());
        self.0.1.notify_all();
    }

    /// Waits for a line with `text` in it behind the first `seen` lines; none when the pipe ends without.
    pub fn wait_for(&self, text: &str, seen: usize) -> Option<String> {
        let mut found = None;
        self.wait_until(|read| {
            found = read.lines.iter().skip(seen).find(|line| line.contains(text)).cloned();
            found.is_some() || read.has_ended
        });
        found
    }

    fn wait_for_end(&self) -> bool {
        self.wait_until(|read| read.has_ended)
    }

    fn wait_until(&self, mut is_so: impl FnMut(&Seen) -> bool) -> bool {
        let until = Instant::now() + PATIENCE;
        let mut read = self.0.0.lock().unwrap();
        loop {
            if is_so(&read) {
                return true;
            }
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return false;
            }
            read = self.0.1.wait_timeout(read, left).unwrap().0;
        }
    }

    /// Lines so far.
    pub fn count(&self) -> usize {
        self.0.0.lock().unwrap().lines.len()
    }

    /// Everything so far.
    pub fn text(&self) -> String {
        self.0.0.lock().unwrap().lines.iter().map(|line| format!("{line}\n")).collect()
    }
}
