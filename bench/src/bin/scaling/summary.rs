//! What the runs say together: capacity and efficiency by number of workers, for each way to count.
//!
//! Invariant: a speed-up is of two runs of the same round, side and accounting.

use std::error::Error;
use std::path::Path;

use corewall_bench::figures::{Host, Spread};
use corewall_bench::line_chart::{self, Labels, Line, Scale};
use serde::Serialize;

use super::{Accounting, Options, Run, Side};

/// Workers for which a speed-up is held.
const HELD_WORKERS: usize = 2;

/// Answers a second that `workers` are good for.
pub fn capacity(accounting: Accounting, workers: usize, answers_per_second: f64, us_per_answer: f64) -> f64 {
    match accounting {
        Accounting::Apart => answers_per_second,
        Accounting::Shared => workers as f64 * 1e6 / us_per_answer,
    }
}

/// All rounds of one side with so many workers.
#[derive(Debug, Serialize)]
pub struct Summary {
    side: Side,
    accounting: Accounting,
    workers: usize,
    capacity: Spread,
    worker_us_per_answer: Spread,
    /// Times the capacity of one worker: the median of the rounds' ratios; none without a run of one worker.
    speed_up: Option<f64>,
    /// The speed-up divided by the number of workers.
    efficiency: Option<f64>,
    is_saturated: bool,
    /// The least and the most that a worker had of the answers, 1 being an equal part; none where workers do not tell.
    balance: Option<(f64, f64)>,
    wrong: u64,
    lost: u64,
}

/// What is written to the results.
#[derive(Debug, Serialize)]
pub struct Results {
    #[serde(flatten)]
    host: Host,
    seconds: u64,
    sockets_per_worker: u64,
    window_per_worker: usize,
    wait: Option<String>,
    /// What this machine has no cores for.
    left_out: Vec<String>,
    summaries: Vec<Summary>,
    /// What is not as it has to be.
    pub failures: Vec<String>,
    runs: Vec<Run>,
}

impl Results {
    /// Of all runs.
    pub fn of(host: Host, options: &Options, left_out: Vec<String>, runs: Vec<Run>) -> Self {
        let mut kinds: Vec<_> = runs.iter().map(|run| (run.accounting, run.side, run.workers)).collect();
        kinds.sort_unstable();
        kinds.dedup();
        let summaries: Vec<Summary> = kinds.into_iter().map(|kind| summarise(&runs, kind)).collect();
        Self {
            host,
            seconds: options.seconds,
            sockets_per_worker: options.sockets,
            window_per_worker: options.window,
            wait: options.wait.clone(),
            left_out,
            failures: failures(&summaries, options.two_min),
            summaries,
            runs,
        }
    }

    /// For a reader.
    pub fn print(&self) {
        println!(
            "\nmedian (least - most) of the rounds; {}, kernel {}, {} cores",
            self.host.cpu, self.host.kernel, self.host.cores
        );
        println!(
            "{:8} {:9} {:>7} {:>28} {:>20} {:>8} {:>10}",
            "counted", "server", "workers", "capacity, answers/s", "us CPU/answer", "speed-up", "efficiency"
        );
        for summary in &self.summaries {
            let Spread { min, median, max } = summary.capacity;
            let or_dash = |figure: Option<f64>| figure.map_or("-".to_owned(), |figure| format!("{figure:.3}"));
            println!(
                "{:8} {:9} {:>7} {:>28} {:>20} {:>8} {:>10}{}{}",
                format!("{:?}", summary.accounting).to_lowercase(),
                format!("{:?}", summary.side).to_lowercase(),
                summary.workers,
                format!("{median:.0} ({min:.0} - {max:.0})"),
                summary.worker_us_per_answer,
                or_dash(summary.speed_up),
                or_dash(summary.efficiency),
                summary.balance.map_or(String::new(), |(least, most)| format!("  parts {least:.2} - {most:.2}")),
                match summary.accounting {
                    Accounting::Apart if !summary.is_saturated => "  workers were not busy all the time: no capacity",
                    _ => "",
                },
            );
        }
        for told in &self.left_out {
            println!("{told}");
        }
    }

    /// Efficiency over workers.
    pub fn draw(&self, path: &Path) -> Result<(), Box<dyn Error>> {
        let mut lines: Vec<Line> = Vec::new();
        for summary in &self.summaries {
            let counted = match summary.accounting {
                Accounting::Apart => "answers a second",
                Accounting::Shared => "CPU per answer",
            };
            let name = format!("{}, by {counted}", format!("{:?}", summary.side).to_lowercase());
            let Some(efficiency) = summary.efficiency else { continue };
            let point = (summary.workers as f64, efficiency);
            match lines.iter_mut().find(|line| line.name == name) {
                Some(line) => line.points.push(point),
                None => lines.push(Line { name, points: vec![point] }),
            }
        }
        let labels = Labels { title: "Efficiency against one worker", across: "workers", upright: "efficiency" };
        line_chart::write(path, labels, Scale::Linear, &lines)
    }
}

fn summarise(runs: &[Run], (accounting, side, workers): (Accounting, Side, usize)) -> Summary {
    let of_kind = |count| {
        let is_wanted = move |run: &&Run| (run.accounting, run.side, run.workers) == (accounting, side, count);
        runs.iter().filter(is_wanted)
    };
    let one_in = |round| of_kind(1).find(|run| run.round == round).map(|run| run.capacity);
    let speed_ups: Vec<f64> = of_kind(workers).filter_map(|run| Some(run.capacity / one_in(run.round)?)).collect();
    let speed_up = (!speed_ups.is_empty()).then(|| Spread::of(speed_ups).median);
    let parts = of_kind(workers).flat_map(|run| &run.parts).filter_map(|part| Some(part.answers? * workers as f64));
    let balance = parts.fold(None, |balance: Option<(f64, f64)>, part| {
        let (least, most) = balance.unwrap_or((part, part));
        Some((least.min(part), most.max(part)))
    });
    Summary {
        side,
        accounting,
        workers,
        capacity: Spread::of(of_kind(workers).map(|run| run.capacity)),
        worker_us_per_answer: Spread::of(of_kind(workers).map(|run| run.worker_us_per_answer)),
        speed_up,
        efficiency: speed_up.map(|speed_up| speed_up / workers as f64),
        is_saturated: of_kind(workers).all(|run| run.is_saturated),
        balance,
        wrong: of_kind(workers).map(|run| run.wrong).sum(),
        lost: of_kind(workers).map(|run| run.lost).sum(),
    }
}

fn failures(summaries: &[Summary], two_min: f64) -> Vec<String> {
    let mut failures = Vec::new();
    for summary in summaries.iter().filter(|summary| summary.side == Side::Corewall) {
        let place = format!("{} workers, {:?}", summary.workers, summary.accounting).to_lowercase();
        if summary.wrong > 0 || summary.lost > 0 {
            failures.push(format!("{place}: {} wrong, {} lost", summary.wrong, summary.lost));
        }
        if let Some(speed_up) = summary.speed_up.filter(|_| summary.workers == HELD_WORKERS) {
            // A client that was too slow says nothing of the workers.
            let is_told = summary.accounting == Accounting::Shared || summary.is_saturated;
            if is_told && speed_up < two_min {
                failures.push(format!("{place}: {speed_up:.3} times one, less than {two_min}"));
            }
        }
    }
    failures
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::WorkerPart;

    fn run(round: u16, workers: usize, accounting: Accounting, capacity: f64) -> Run {
        let part = WorkerPart { busy: 0.99, answers: Some(1.0 / workers as f64), batch: None };
        Run {
            round,
            side: Side::Corewall,
            accounting,
            workers,
            worker_cores: Vec::new(),
            client_cores: Vec::new(),
            answers_per_second: capacity,
            worker_us_per_answer: workers as f64 * 1e6 / capacity,
            capacity,
            is_saturated: true,
            wrong: 0,
            lost: 0,
            parts: vec![part; workers],
        }
    }

    #[test]
    fn capacity_is_counted_as_told() {
        assert_eq!(capacity(Accounting::Apart, 2, 500_000.0, 9.0), 500_000.0);
        // Two workers of 2.5 us an answer are good for 800,000 a second, whatever the clients left them.
        assert_eq!(capacity(Accounting::Shared, 2, 100_000.0, 2.5), 800_000.0);
    }

    #[test]
    fn efficiency_is_against_one_worker_of_the_same_round_and_accounting() {
        let runs = [
            run(1, 1, Accounting::Shared, 400.0),
            run(1, 2, Accounting::Shared, 760.0),
            run(2, 1, Accounting::Shared, 200.0),
            run(2, 2, Accounting::Shared, 380.0),
            run(1, 1, Accounting::Apart, 100.0),
            run(2, 1, Accounting::Apart, 100.0),
        ];
        let two = summarise(&runs, (Accounting::Shared, Side::Corewall, 2));
        assert!((two.speed_up.unwrap() - 1.9).abs() < 1e-9 && (two.efficiency.unwrap() - 0.95).abs() < 1e-9);
        assert_eq!(two.balance, Some((1.0, 1.0)));
        let one = summarise(&runs, (Accounting::Apart, Side::Corewall, 1));
        assert_eq!((one.speed_up, one.efficiency), (Some(1.0), Some(1.0)));
        let without_one = summarise(&runs[1..2], (Accounting::Shared, Side::Corewall, 2));
        assert!(without_one.speed_up.is_none());
    }

    #[test]
    fn two_workers_are_held_and_a_slow_client_is_no_failure_of_theirs() {
        let failures_of = |accounting, is_saturated, capacity| {
            let mut runs = [run(1, 1, accounting, 100.0), run(1, 2, accounting, capacity)];
            runs[1].is_saturated = is_saturated;
            failures(&[summarise(&runs, (accounting, Side::Corewall, 2))], 1.9).len()
        };
        assert_eq!(failures_of(Accounting::Shared, false, 191.0), 0);
        assert_eq!(failures_of(Accounting::Shared, false, 180.0), 1);
        assert_eq!(failures_of(Accounting::Apart, true, 180.0), 1);
        assert_eq!(failures_of(Accounting::Apart, false, 180.0), 0);
    }
}
