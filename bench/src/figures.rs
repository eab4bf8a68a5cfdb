//! What stands beside every figure: where it was measured, and how far the rounds lie apart.

use std::fmt;
use std::fs;
use std::process::Command;
use std::thread;

use serde::{Deserialize, Serialize};

/// The machine and the commit of a run.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Host {
    /// `git describe` of the working tree, or what COREWALL_BENCH_COMMIT says where binaries have come without one.
    pub commit: String,
    /// Release of the kernel.
    pub kernel: String,
    /// Model of the CPU.
    pub cpu: String,
    /// Year, month and day, UTC.
    pub date: String,
    /// Cores that this process may run on.
    pub cores: usize,
}

impl Host {
    /// This machine, now.
    pub fn here() -> Self {
        Self {
            commit: std::env::var("COREWALL_BENCH_COMMIT")
                .unwrap_or_else(|_| first_line(Command::new("git").args(["describe", "--always", "--dirty"]))),
            kernel: fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default().trim().into(),
            cpu: cpu_model(),
            date: first_line(Command::new("date").args(["-u", "+%F"])),
            cores: thread::available_parallelism().map_or(0, usize::from),
        }
    }
}

/// Least, middle and most of the rounds.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Spread {
    /// The least.
    pub min: f64,
    /// The one in the middle, or half-way between the two there.
    pub median: f64,
    /// The most.
    pub max: f64,
}

impl Spread {
    /// Of at least one figure.
    pub fn of(figures: impl IntoIterator<Item = f64>) -> Self {
        let mut figures: Vec<f64> = figures.into_iter().collect();
        figures.sort_by(f64::total_cmp);
        let middle = figures.len() / 2;
        let median =
            if figures.len() % 2 == 1 { figures[middle] } else { (figures[middle - 1] + figures[middle]) / 2.0 };
        Self { min: figures[0], median, max: figures[figures.len() - 1] }
    }
}

impl fmt::Display for Spread {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&format!("{:.2} ({:.2} - {:.2})", self.median, self.min, self.max))
    }
}

/// The first line that a command prints on either output, empty when it cannot be run: what it says is for readers only.
pub fn first_line(command: &mut Command) -> String {
    let Ok(output) = command.output() else { return String::new() };
    // nsd tells its version on standard error.
    let said = if output.stdout.is_empty() { output.stderr } else { output.stdout };
    String::from_utf8_lossy(&said).lines().next().unwrap_or_default().into()
}

fn cpu_model() -> String {
    let cpuinfo = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let model = cpuinfo.lines().find(|line| line.starts_with("model name"));
    model.and_then(|line| line.split(": ").nth(1)).unwrap_or("unknown CPU").into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_median_is_the_one_in_the_middle() {
        assert_eq!(Spread::of([4.0, 1.0, 2.0]), Spread { min: 1.0, median: 2.0, max: 4.0 });
        assert_eq!(Spread::of([4.0, 1.0]).median, 2.5);
        assert_eq!(format!("{:>20}", Spread::of([1.0])), "  1.00 (1.00 - 1.00)");
    }

    #[test]
    fn a_program_tells_its_first_line_wherever_it_says_it() {
        assert_eq!(first_line(Command::new("sh").args(["-c", "echo one >&2; echo two >&2"])), "one");
        assert_eq!(first_line(&mut Command::new("no such program")), "");
    }
}
