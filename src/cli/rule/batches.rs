//! Rules of the command line or of a file, in batches that fit one request.
//!
//! Invariant: whatever the input, a batch has at most [`RULE_LINES_MAX`] lines, which take less than
//! [`CONTROL_REQUEST_BYTES_MAX`] bytes together. What comes from a pipe waits for nothing that has not been written yet.

use std::fs::File;
use std::io::{self, BufRead, BufReader, Read};
use std::path::{Path, PathBuf};

use crate::cli::Failure;
use crate::control::protocol::RefusedLine;
use crate::limits::{CONTROL_REQUEST_BYTES_MAX, RULE_LINES_MAX};
use crate::lists::LINE_BYTES_MAX;

/// Bytes read at a time.
const READ_BYTES: usize = 256 * 1024;
/// Bytes of a request beside its lines: options, a list's name and a reason of the greatest length, each octet escaped.
const OTHER_BYTES_MAX: usize = 16 * 1024;
const _: () = assert!(OTHER_BYTES_MAX + 2 * LINE_BYTES_MAX < CONTROL_REQUEST_BYTES_MAX, "any line of text can be sent");

/// Lines that make one request.
#[derive(Debug, Default)]
pub struct Batch {
    /// Without their ends.
    pub lines: Vec<String>,
    /// The number of each, from 1.
    pub numbers: Vec<u64>,
    /// What cannot be sent.
    pub refused: Vec<RefusedLine>,
}

/// Where lines come from.
pub struct Batches {
    from: BufReader<Box<dyn Read>>,
    /// Of a file or the standard input: lines have numbers that mean something.
    are_lines: bool,
    /// What was read is carried out before more is waited for.
    is_stream: bool,
    path: PathBuf,
    number: u64,
    /// Read, but not in the batch before, for it was full.
    held: Option<(u64, String, usize)>,
    has_ended: bool,
}

impl Batches {
    /// Of these rules, or of the file, where `-` is the standard input.
    ///
    /// # Errors
    /// The file cannot be opened.
    pub fn open(rules: Vec<String>, file: Option<PathBuf>) -> Result<Self, Failure> {
        let (from, are_lines, is_stream): (Box<dyn Read>, bool, bool) = match &file {
            None => (Box::new(io::Cursor::new(rules.join("\n").into_bytes())), false, false),
            Some(path) if path == Path::new("-") => (Box::new(io::stdin()), true, true),
            Some(path) => {
                let file = File::open(path).map_err(|error| cannot_read(path, &error))?;
                (Box::new(file), true, false)
            }
        };
        let from = BufReader::with_capacity(READ_BYTES, from);
        let path = file.unwrap_or_default();
        Ok(Self { from, are_lines, is_stream, path, number: 0, held: None, has_ended: false })
    }

    /// Whether they are lines of a file.
    pub fn are_lines(&self) -> bool {
        self.are_lines
    }

    /// The next batch; none at the end.
    ///
    /// # Errors
    /// The file cannot be read.
    pub fn next(&mut self) -> Result<Option<Batch>, Failure> {
        let mut batch = Batch::default();
        let mut bytes = OTHER_BYTES_MAX;
        loop {
            let line = match self.held.take() {
                Some(held) => Some(held),
                None => self.line(&mut batch.refused)?,
            };
            let Some((number, text, cost)) = line else {
                self.has_ended = batch.refused.len() < RULE_LINES_MAX;
                break;
            };
            if batch.lines.len() == RULE_LINES_MAX || bytes + cost > CONTROL_REQUEST_BYTES_MAX {
                self.held = Some((number, text, cost));
                break;
            }
            bytes += cost;
            batch.lines.push(text);
            batch.numbers.push(number);
            if self.is_stream && self.from.buffer().is_empty() {
                break;
            }
        }
        let is_empty = batch.lines.is_empty() && batch.refused.is_empty();
        Ok(if self.has_ended && is_empty { None } else { Some(batch) })
    }

    /// The next line that says something, with the bytes that it takes in a request; none at the end, or when enough is refused.
    fn line(&mut self, refused: &mut Vec<RefusedLine>) -> Result<Option<(u64, String, usize)>, Failure> {
        let mut line = Vec::new();
        while refused.len() < RULE_LINES_MAX {
            line.clear();
            let bytes = (&mut self.from).take(LINE_BYTES_MAX as u64 + 1).read_until(b'\n', &mut line);
            if bytes.map_err(|error| cannot_read(&self.path, &error))? == 0 {
                return Ok(None);
            }
            self.number += 1;
            let is_too_long = line.len() > LINE_BYTES_MAX && !line.ends_with(b"\n");
            if is_too_long {
                self.pass_over_line()?;
            }
            let text = String::from_utf8_lossy(&line);
            let text = text.trim();
            if is_too_long {
                let text = text.chars().take(80).collect();
                let reason = format!("it is longer than {LINE_BYTES_MAX} bytes");
                refused.push(RefusedLine { line: self.number, text, reason });
                continue;
            }
            if text.is_empty() || text.starts_with(['#', '!']) {
                continue;
            }
            // In quotation marks, with a comma behind.
            let cost = escaped_bytes(text) + 3;
            if cost + OTHER_BYTES_MAX > CONTROL_REQUEST_BYTES_MAX {
                let reason = "it holds too many characters that no rule has".to_owned();
                refused.push(RefusedLine { line: self.number, text: text.chars().take(80).collect(), reason });
                continue;
            }
            return Ok(Some((self.number, text.to_owned(), cost)));
        }
        Ok(None)
    }

    fn pass_over_line(&mut self) -> Result<(), Failure> {
        loop {
            let buffer = self.from.fill_buf().map_err(|error| cannot_read(&self.path, &error))?;
            let (used, is_over) = match buffer.iter().position(|&octet| octet == b'\n') {
                Some(at) => (at + 1, true),
                None => (buffer.len(), buffer.is_empty()),
            };
            self.from.consume(used);
            if is_over {
                return Ok(());
            }
        }
    }
}

/// Bytes of a text in JSON: control characters take six.
fn escaped_bytes(text: &str) -> usize {
    text.bytes().map(|octet| if octet < b' ' { 6 } else { 1 + usize::from(matches!(octet, b'"' | b'\\')) }).sum()
}

fn cannot_read(path: &Path, error: &io::Error) -> Failure {
    let name = if path == Path::new("-") { "the standard input".to_owned() } else { path.display().to_string() };
    Failure::runtime(format_args!("cannot read {name}: {error}"))
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    fn of_file(text: impl AsRef<[u8]>) -> Vec<Batch> {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("rules");
        fs::write(&path, text).unwrap();
        let mut batches = Batches::open(Vec::new(), Some(path)).ok().unwrap();
        std::iter::from_fn(|| batches.next().ok().unwrap()).collect()
    }

    #[test]
    fn every_line_comes_once_with_its_number_and_no_batch_is_too_large() {
        let line = |number: usize| format!("{}{number}.example", "x\"".repeat(number % 60));
        let text: String = (1..=30_000).map(|number| line(number) + "\r\n").collect();
        let batches = of_file(&text);
        assert!(batches.len() > 3);
        for batch in &batches {
            let json = serde_json::to_string(&batch.lines).unwrap();
            let bytes = json.len() - "[]".len() + OTHER_BYTES_MAX;
            assert!(bytes <= CONTROL_REQUEST_BYTES_MAX && batch.lines.len() <= RULE_LINES_MAX);
        }
        let lines: Vec<String> = batches.iter().flat_map(|batch| batch.lines.clone()).collect();
        assert_eq!(lines, (1..=30_000).map(line).collect::<Vec<_>>());
        let numbers: Vec<u64> = batches.iter().flat_map(|batch| batch.numbers.clone()).collect();
        assert_eq!(numbers, (1..=30_000).collect::<Vec<_>>());
    }

    #[test]
    fn comments_are_not_sent_and_what_cannot_be_is_told() {
        let long = "x".repeat(LINE_BYTES_MAX + 5);
        let odd = "\u{1}".repeat(LINE_BYTES_MAX - 9);
        let batches = of_file(format!("# comment\n\n a.example \n{long}\n{odd}\n! more\nb.example"));
        let [batch] = &batches[..] else { panic!("{} batches", batches.len()) };
        assert_eq!(
            (&batch.lines[..], &batch.numbers[..]),
            (&["a.example".to_owned(), "b.example".to_owned()][..], &[3, 7][..])
        );
        assert_eq!(batch.refused.iter().map(|refused| refused.line).collect::<Vec<_>>(), [4, 5]);
        // However many there are.
        let batches = of_file(format!("{long}\n").repeat(RULE_LINES_MAX / 64).repeat(2) + "c.example\n");
        assert_eq!(batches.iter().map(|batch| batch.lines.len()).sum::<usize>(), 1);
    }

    #[test]
    fn nothing_is_no_batch() {
        assert_eq!(of_file("").len() + of_file("# only this\n\n").len(), 0);
    }
}
