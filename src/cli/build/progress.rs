//! How far a build is: a bar on a terminal, a line from time to time elsewhere.
//!
//! Invariant: nothing is said elsewhere before [`LINE_S`], so that a short build in a script is silent.

use std::fmt;
use std::io::IsTerminal;
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

use crate::build::Progress;

/// Times a second that the terminal is drawn anew.
const DRAWS_HZ: u8 = 10;
/// Seconds between two lines where there is no terminal: a log of an hour's build has a few hundred.
const LINE_S: f64 = 10.0;
/// Seconds of a stage before which its rate and the time left are guesses.
const PACE_S_MIN: f64 = 1.0;
/// How much is done of a stage, in parts of this, on the bar.
const BAR_STEPS: u64 = 1_000;

/// What is told of a stage.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Word {
    what: &'static str,
    /// Of the stage, from 0 to 1; none where that cannot be told.
    done: Option<f64>,
    /// What is counted, and how many so far.
    count: Option<(u64, &'static str)>,
    /// Seconds since the stage began.
    seconds: f64,
}

impl Word {
    fn of(progress: Progress, seconds: f64) -> Self {
        let part = |done: u64, of: u64| (of > 0).then(|| (done as f64 / of as f64).min(1.0));
        let (what, done, count) = match progress {
            Progress::Scan => ("looking for $badfilter rules", None, None),
            Progress::Read { rules, bytes, of } => ("reading lists", part(bytes, of), Some((rules, "rules"))),
            Progress::Compile { patterns } => ("compiling patterns", None, Some((patterns as u64, "patterns"))),
            Progress::Write { done, of } => ("writing shards", part(done, of), Some((done, "rules"))),
            Progress::Sync { done, of } => ("syncing files", part(done, of), Some((done, "files"))),
        };
        Self { what, done, count, seconds }
    }

    /// Seconds to the end of the stage at its rate so far.
    fn seconds_left(&self) -> Option<f64> {
        let done = self.done.filter(|done| *done > 0.0 && self.seconds >= PACE_S_MIN)?;
        Some(self.seconds * (1.0 - done) / done)
    }

    /// Of what is counted, while it is counted.
    fn per_second(&self) -> Option<f64> {
        let (count, _) = self.count?;
        (self.done.is_some() && self.seconds >= PACE_S_MIN).then(|| count as f64 / self.seconds)
    }
}

impl fmt::Display for Word {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.what)?;
        if let Some((count, unit)) = self.count {
            write!(f, ": {count} {unit}")?;
        }
        if let Some(done) = self.done {
            write!(f, ", {:.0} %", 100.0 * done)?;
        }
        if let Some(rate) = self.per_second() {
            write!(f, ", {rate:.0} a second")?;
        }
        match self.seconds_left() {
            Some(left) => write!(f, ", {} left", Seconds(left)),
            None => Ok(()),
        }
    }
}

/// A time as a person says it.
struct Seconds(f64);

impl fmt::Display for Seconds {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let seconds = self.0.ceil() as u64;
        match seconds {
            0..60 => write!(f, "{seconds} s"),
            60..3_600 => write!(f, "{} min {} s", seconds / 60, seconds % 60),
            _ => write!(f, "{} h {} min", seconds / 3_600, seconds / 60 % 60),
        }
    }
}

/// Tells how far a build is.
pub struct Teller {
    /// None where there is no terminal.
    bar: Option<ProgressBar>,
    stage: Option<(std::mem::Discriminant<Progress>, Instant)>,
    last_line: Instant,
}

impl Teller {
    /// Before the build.
    pub fn new() -> Self {
        let bar = std::io::stderr().is_terminal().then(|| {
            let bar = ProgressBar::with_draw_target(Some(BAR_STEPS), ProgressDrawTarget::stderr_with_hz(DRAWS_HZ));
            // The template is a constant of this file; a wrong one leaves the plain style.
            if let Ok(style) = ProgressStyle::with_template("{msg} {wide_bar}") {
                bar.set_style(style);
            }
            bar.enable_steady_tick(Duration::from_millis(1_000 / u64::from(DRAWS_HZ)));
            bar
        });
        Self { bar, stage: None, last_line: Instant::now() }
    }

    /// The build is so far.
    pub fn tell(&mut self, progress: Progress) {
        let now = Instant::now();
        let stage = std::mem::discriminant(&progress);
        let since = match self.stage {
            Some((known, since)) if known == stage => since,
            _ => {
                self.stage = Some((stage, now));
                now
            }
        };
        let word = Word::of(progress, now.duration_since(since).as_secs_f64());
        match &self.bar {
            Some(bar) => {
                bar.set_position(word.done.map_or(0, |done| (done * BAR_STEPS as f64) as u64));
                bar.set_message(word.to_string());
            }
            None if now.duration_since(self.last_line).as_secs_f64() >= LINE_S => {
                self.last_line = now;
                eprintln!("{word}");
            }
            None => {}
        }
    }

    /// The build has ended.
    pub fn end(self) {
        if let Some(bar) = self.bar {
            bar.finish_and_clear();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stage_is_told_with_its_rate_and_the_time_left() {
        let read = Progress::Read { rules: 30_000_000, bytes: 600, of: 2_000 };
        assert_eq!(
            Word::of(read, 60.0).to_string(),
            "reading lists: 30000000 rules, 30 %, 500000 a second, 2 min 20 s left"
        );
        assert_eq!(Word::of(read, 0.5).to_string(), "reading lists: 30000000 rules, 30 %");
        assert_eq!(
            Word::of(Progress::Write { done: 1, of: 3_600 }, 1.0).to_string(),
            "writing shards: 1 rules, 0 %, 1 a second, 59 min 59 s left"
        );
        assert_eq!(Word::of(Progress::Scan, 5.0).to_string(), "looking for $badfilter rules");
        assert_eq!(Word::of(Progress::Compile { patterns: 7 }, 9.0).to_string(), "compiling patterns: 7 patterns");
        assert_eq!(Word::of(Progress::Read { rules: 0, bytes: 0, of: 0 }, 2.0).to_string(), "reading lists: 0 rules");
        assert_eq!(Seconds(7_260.0).to_string(), "2 h 1 min");
    }
}
