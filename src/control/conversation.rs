//! One connection of the control socket: lines in, lines out, within bounds.
//!
//! Invariant: whatever the other side sends, or does not send or read, costs one thread for a bounded time and
//! [`CONTROL_REQUEST_BYTES_MAX`] bytes, and no worker anything.

use std::io::{self, ErrorKind, Read, Write};
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use super::protocol::{Answer, Refusal, RefusalKind, Request, answer_line};
use crate::limits::{CONTROL_IDLE_MS_MAX, CONTROL_REQUEST_BYTES_MAX, CONTROL_WRITE_MS_MAX};

/// Bytes read at a time.
const READ_BYTES: usize = 16_384;

/// Who does what is asked.
pub trait CarryOut {
    /// Does it, and comes back when it is done.
    ///
    /// # Errors
    /// It could not be done, in words.
    fn carry_out(&self, request: Request) -> Result<Answer, Refusal>;

    /// Does what must not overtake the answer, now that this was sent.
    fn follow_up(&self, answer: &Answer);
}

/// Answers every request of a connection until the other side has said its last, says nothing for too long, or does not read.
pub fn converse(stream: &UnixStream, commands: &impl CarryOut) -> io::Result<()> {
    let mut lines = Lines { stream, bytes: Vec::new() };
    loop {
        match lines.next()? {
            Line::Whole(line) => {
                let outcome = Request::parse(&line).and_then(|request| commands.carry_out(request));
                let told = tell(stream, &outcome);
                if let Ok(answer) = &outcome {
                    commands.follow_up(answer);
                }
                told?;
            }
            Line::TooLong => {
                let message = format!("a request has at most {CONTROL_REQUEST_BYTES_MAX} bytes; this one is longer");
                tell(stream, &Err(Refusal::new(RefusalKind::Malformed, message)))?;
                // Where the next one begins is anybody's guess.
                return lines.pass_over();
            }
            Line::End => return Ok(()),
        }
    }
}

/// Says what has become of a request.
pub fn tell(mut stream: &UnixStream, outcome: &Result<Answer, Refusal>) -> io::Result<()> {
    let line = answer_line(outcome);
    let until = Instant::now() + Duration::from_millis(CONTROL_WRITE_MS_MAX);
    let mut left = line.as_bytes();
    while !left.is_empty() {
        stream.set_write_timeout(Some(time_until(until)?))?;
        match stream.write(left) {
            Ok(0) => return Err(ErrorKind::WriteZero.into()),
            Ok(bytes) => left = left.get(bytes..).unwrap_or_default(),
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

/// What is left of a time-out; an error when it is over.
fn time_until(until: Instant) -> io::Result<Duration> {
    let left = until.saturating_duration_since(Instant::now());
    // Of zero a socket would wait for ever.
    if left.is_zero() { Err(ErrorKind::TimedOut.into()) } else { Ok(left) }
}

enum Line {
    /// Without its end. The last one may lack it.
    Whole(Vec<u8>),
    TooLong,
    End,
}

struct Lines<'a> {
    stream: &'a UnixStream,
    /// Read and not yet given out.
    bytes: Vec<u8>,
}

impl Lines<'_> {
    /// The next line, which must come whole within [`CONTROL_IDLE_MS_MAX`]: a drop now and then keeps no connection.
    fn next(&mut self) -> io::Result<Line> {
        let until = Instant::now() + Duration::from_millis(CONTROL_IDLE_MS_MAX);
        let mut searched = 0;
        loop {
            if let Some(at) = self.bytes.iter().skip(searched).position(|&byte| byte == b'\n') {
                let mut line: Vec<u8> = self.bytes.drain(..=searched + at).collect();
                line.pop();
                return Ok(if line.len() > CONTROL_REQUEST_BYTES_MAX { Line::TooLong } else { Line::Whole(line) });
            }
            searched = self.bytes.len();
            if searched > CONTROL_REQUEST_BYTES_MAX {
                return Ok(Line::TooLong);
            }
            if self.read(until)? == 0 {
                let line = std::mem::take(&mut self.bytes);
                return Ok(if line.is_empty() { Line::End } else { Line::Whole(line) });
            }
        }
    }

    /// Takes what the other side is still writing, for a while: closing with octets unread would tell it that the connection was
    /// reset, maybe before it has read the answer.
    fn pass_over(&mut self) -> io::Result<()> {
        let until = Instant::now() + Duration::from_millis(CONTROL_WRITE_MS_MAX);
        while self.read(until)? > 0 {
            self.bytes.clear();
        }
        Ok(())
    }

    fn read(&mut self, until: Instant) -> io::Result<usize> {
        let mut buffer = [0; READ_BYTES];
        loop {
            self.stream.set_read_timeout(Some(time_until(until)?))?;
            match (&mut &*self.stream).read(&mut buffer) {
                Ok(bytes) => {
                    self.bytes.extend_from_slice(buffer.get(..bytes).unwrap_or_default());
                    return Ok(bytes);
                }
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::thread;

    use super::*;
    use crate::control::protocol::Stopping;

    struct AlwaysStopping;

    impl CarryOut for AlwaysStopping {
        fn carry_out(&self, _: Request) -> Result<Answer, Refusal> {
            Ok(Answer::Stopping(Stopping { pid: 7 }))
        }

        fn follow_up(&self, answer: &Answer) {
            assert!(matches!(answer, Answer::Stopping(_)));
        }
    }

    /// What is answered to `said`, after which nothing more is said.
    fn answers_to(said: &[u8]) -> Vec<String> {
        let (ours, theirs) = UnixStream::pair().unwrap();
        let server = thread::spawn(move || converse(&theirs, &AlwaysStopping));
        let mut writer = ours.try_clone().unwrap();
        let said = said.to_vec();
        let writer = thread::spawn(move || {
            // It may have been answered and cut off before its end.
            let _ = writer.write_all(&said);
            let _ = writer.shutdown(std::net::Shutdown::Write);
        });
        let mut heard = String::new();
        (&ours).read_to_string(&mut heard).unwrap();
        writer.join().unwrap();
        server.join().unwrap().unwrap();
        heard.lines().map(str::to_owned).collect()
    }

    const STOP: &str = r#"{"version":1,"command":"stop"}"#;
    const STOPPING: &str = r#"{"version":1,"answer":{"pid":7}}"#;

    #[test]
    fn each_line_is_answered_in_order_and_the_last_one_needs_no_end() {
        assert_eq!(answers_to(b""), [""; 0]);
        assert_eq!(answers_to(format!("{STOP}\n{STOP}\n{STOP}").as_bytes()), [STOPPING; 3]);
        let answers = answers_to(format!("{STOP}\nnonsense\n\n{STOP}\n").as_bytes());
        assert_eq!((answers.len(), &*answers[0], &*answers[3]), (4, STOPPING, STOPPING));
        assert!(answers[1].contains(r#""kind":"malformed""#) && answers[2].contains(r#""kind":"malformed""#));
    }

    #[test]
    fn a_line_of_the_greatest_length_is_read_and_a_longer_one_ends_the_connection() {
        let padded = |bytes: usize| format!("{}{STOP}", " ".repeat(bytes - STOP.len()));
        let longest = padded(CONTROL_REQUEST_BYTES_MAX);
        assert_eq!(answers_to(format!("{longest}\n{longest}").as_bytes()), [STOPPING; 2]);
        for longer in [CONTROL_REQUEST_BYTES_MAX + 1, 40 * CONTROL_REQUEST_BYTES_MAX] {
            let answers = answers_to(format!("{}\n{STOP}\n", padded(longer)).as_bytes());
            assert_eq!(answers.len(), 1, "{answers:?}");
            assert!(answers[0].contains("at most"), "{answers:?}");
        }
    }
}
