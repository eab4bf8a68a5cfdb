//! What the rounds say together: medians, ratios to the floor, what is held and is not so, and the chart.
//!
//! Invariant: a ratio is of two runs of the same round, for a machine that slows down slows both.

use std::error::Error;

use corewall_bench::figures::{Host, Spread};
use corewall_bench::line_chart::{self, Labels, Line, Scale};
use corewall_bench::load::{LoadReport, PhaseReport};
use serde::Serialize;

use super::{AtRate, Basis, HELD_PERCENT, Options, Side, Spacing, Turn, sides};

/// All rounds of one side at one rate; latency in microseconds.
#[derive(Debug, Serialize)]
pub struct Summary {
    pub mix: String,
    pub side: String,
    pub percent: u64,
    pub of: Basis,
    pub rate: Spread,
    pub us_p50: Spread,
    pub us_p99_typical: Spread,
    pub us_p99: Spread,
    pub us_p999: Spread,
    pub us_max: Spread,
    pub cpu_us_per_answer: Spread,
    /// Median of the rounds' ratios of the typical p99 to that of the floor: at the same part of its own capacity, or at the same
    /// rate.
    pub typical_p99_to_floor: Option<f64>,
    /// The same of the p99 of whole runs.
    pub p99_to_floor: Option<f64>,
    pub is_held: bool,
    pub wrong: u64,
    pub lost: u64,
    /// Whether every round's loop stayed open: no question waited for room in the window.
    pub is_open: bool,
}

/// A side left alone.
#[derive(Debug, Serialize)]
pub struct Idle {
    pub mix: String,
    pub side: String,
    pub percent: Spread,
    pub is_held: bool,
}

/// What is written to the results.
#[derive(Debug, Serialize)]
pub struct Results {
    #[serde(flatten)]
    pub host: Host,
    pub seconds: u64,
    pub spacing: Spacing,
    pub seed: u64,
    /// Whether the kernel was told to prefer servers and load to everything else; only root may.
    pub is_favoured: bool,
    pub summaries: Vec<Summary>,
    pub idle: Vec<Idle>,
    pub turns: Vec<Turn>,
}

pub fn summarise(options: &Options, turns: &[Turn]) -> (Vec<Summary>, Vec<Idle>) {
    let (mut summaries, mut idle) = (Vec::new(), Vec::new());
    for mix in &options.mixes {
        for side in sides(&options.wait) {
            let of_side: Vec<&Turn> = turns_of(turns, mix, &side).collect();
            idle.push(Idle {
                mix: mix.clone(),
                side: side.name(),
                percent: Spread::of(of_side.iter().map(|turn| turn.idle_percent)),
                is_held: matches!(side, Side::Corewall { .. }) && !side.spins(),
            });
            for of in [Basis::Own, Basis::Floor] {
                let summary = |&percent: &u64| summarise_rate(turns, mix, &side, (percent, of));
                summaries.extend(options.percent.iter().filter_map(summary));
            }
        }
    }
    (summaries, idle)
}

fn turns_of<'a>(turns: &'a [Turn], mix: &'a str, side: &Side) -> impl Iterator<Item = &'a Turn> {
    let name = side.name();
    turns.iter().filter(move |turn| turn.mix == mix && turn.side == name)
}

/// None when no round asked at this rate.
fn summarise_rate(turns: &[Turn], mix: &str, side: &Side, (percent, of): (u64, Basis)) -> Option<Summary> {
    let at = |turn: &Turn, of| turn.at.iter().position(|at| at.percent == percent && at.of == of);
    let reports: Vec<(u16, &AtRate)> =
        turns_of(turns, mix, side).filter_map(|turn| Some((turn.round, &turn.at[at(turn, of)?]))).collect();
    if reports.is_empty() {
        return None;
    }
    let is_floor = matches!(side, Side::Floor { .. });
    let to_floor = |of: fn(&AtRate) -> f64| {
        let floor = |round| {
            let turn = turns_of(turns, mix, &side.floor()).find(|turn| turn.round == round)?;
            Some(of(&turn.at[at(turn, Basis::Own)?]))
        };
        let ratios: Vec<f64> = reports.iter().filter_map(|&(round, at)| Some(of(at) / floor(round)?)).collect();
        (!is_floor && !ratios.is_empty()).then(|| Spread::of(ratios).median)
    };
    let spread = |of: fn(&LoadReport) -> f64| Spread::of(reports.iter().map(|(_, at)| of(&at.report)));
    Some(Summary {
        mix: mix.to_owned(),
        side: side.name(),
        percent,
        of,
        rate: Spread::of(reports.iter().map(|(_, at)| at.rate as f64)),
        us_p50: spread(|report| report.us_p50),
        us_p99_typical: Spread::of(reports.iter().map(|(_, at)| at.us_p99_typical)),
        us_p99: spread(|report| report.us_p99),
        us_p999: spread(|report| report.us_p999),
        us_max: spread(|report| report.us_max),
        cpu_us_per_answer: spread(|report| report.server_cpu_us_per_answer.unwrap_or_default()),
        typical_p99_to_floor: to_floor(|at| at.us_p99_typical),
        p99_to_floor: to_floor(|at| at.report.us_p99),
        is_held: !is_floor && percent == HELD_PERCENT && of == Basis::Own,
        wrong: reports.iter().map(|(_, at)| at.report.wrong).sum(),
        lost: reports.iter().map(|(_, at)| at.report.lost).sum(),
        is_open: reports.iter().all(|(_, at)| at.report.window_full == 0),
    })
}

/// The median of the slices' p99; a slice without an answer has none.
pub fn typical_p99(slices: &[PhaseReport]) -> f64 {
    let answered: Vec<f64> = slices.iter().filter(|slice| slice.answered > 0).map(|slice| slice.us_p99).collect();
    if answered.is_empty() { 0.0 } else { Spread::of(answered).median }
}

/// What is not as it has to be, in words.
pub fn failures(results: &Results, options: &Options) -> Vec<String> {
    let mut failures = Vec::new();
    for summary in &results.summaries {
        let Summary { mix, side, percent, .. } = summary;
        let place = format!("{mix}, {side} at {percent} %");
        if summary.wrong > 0 || summary.lost > 0 {
            failures.push(format!("{place}: {} wrong, {} lost", summary.wrong, summary.lost));
        }
        if !summary.is_open {
            failures.push(format!("{place}: the window was full, so the loop was not open; give more --sockets"));
        }
        if let Some(ratio) = summary.typical_p99_to_floor.filter(|ratio| summary.is_held && *ratio > options.ratio_max)
        {
            failures.push(format!("{place}: p99 is {ratio:.2} times the floor's, more than {}", options.ratio_max));
        }
    }
    for Idle { mix, side, percent, is_held } in &results.idle {
        if *is_held && percent.median > options.idle_percent_max {
            failures.push(format!(
                "{mix}, {side}: {:.2} % of a core when idle, more than {}",
                percent.median, options.idle_percent_max
            ));
        }
    }
    failures
}

pub fn print_summaries(results: &Results) {
    println!(
        "\nlatency in us from when a question was due, medians of the rounds; {}, kernel {}",
        results.host.cpu, results.host.kernel
    );
    println!(
        "{:8} {:17} {:>12} {:>9} {:>7} {:>20} {:>7} {:>22} {:>7} {:>8} {:>8} {:>8}",
        "mix",
        "server",
        "part of",
        "rate",
        "p50",
        "typical p99",
        "/floor",
        "p99 of all",
        "/floor",
        "p99.9",
        "max",
        "CPU us"
    );
    let spread = |of: Spread| format!("{:.0} ({:.0} - {:.0})", of.median, of.min, of.max);
    let ratio = |of: Option<f64>| of.map_or(String::new(), |ratio| format!("{ratio:.2}"));
    for summary in &results.summaries {
        println!(
            "{:8} {:17} {:>12} {:>9.0} {:>7.0} {:>20} {:>7} {:>22} {:>7} {:>8.0} {:>8.0} {:>8.2}",
            summary.mix,
            summary.side,
            format!("{} % {}", summary.percent, format!("{:?}", summary.of).to_lowercase()),
            summary.rate.median,
            summary.us_p50.median,
            spread(summary.us_p99_typical),
            ratio(summary.typical_p99_to_floor),
            spread(summary.us_p99),
            ratio(summary.p99_to_floor),
            summary.us_p999.median,
            summary.us_max.median,
            summary.cpu_us_per_answer.median,
        );
    }
    for Idle { mix, side, percent, .. } in &results.idle {
        println!("{mix:8} {side:17} idle: {percent} % of a core");
    }
}

/// p99 over the rate: of each side at parts of its own capacity, in the first mix.
pub fn draw(options: &Options, results: &Results) -> Result<(), Box<dyn Error>> {
    let Some(mix) = options.mixes.first() else { return Ok(()) };
    let line = |side: &Side, what: &str, of: fn(&Summary) -> f64| {
        let of_side = results
            .summaries
            .iter()
            .filter(|summary| summary.mix == *mix && summary.side == side.name() && summary.of == Basis::Own);
        let points = of_side.map(|summary| (summary.percent as f64, of(summary))).collect();
        Line { name: format!("{}, {what}", side.name()), points }
    };
    let lines: Vec<Line> = sides(&options.wait)
        .iter()
        .flat_map(|side| {
            [
                line(side, "p50", |summary| summary.us_p50.median),
                line(side, "p99", |summary| summary.us_p99_typical.median),
            ]
        })
        .collect();
    let title = format!("Latency of {mix} names under an open loop");
    let labels = Labels { title: &title, across: "percent of the server's own capacity", upright: "microseconds" };
    line_chart::write(&options.out.with_extension("svg"), labels, Scale::Logarithmic, &lines)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::DEFAULT_WAIT;
    use clap::Parser;

    fn turn(round: u16, side: &Side, of: Basis, us_p99: f64) -> Turn {
        let report = LoadReport { us_p99, ..Default::default() };
        let at_rate = AtRate {
            percent: HELD_PERCENT,
            of,
            rate: 1_000,
            us_p99_typical: us_p99,
            server_waited_percent: 0.0,
            report,
        };
        let at = vec![at_rate];
        Turn { round, mix: "blocked".to_owned(), side: side.name(), capacity: 2_000.0, idle_percent: 0.1, at }
    }

    #[test]
    fn a_ratio_is_of_the_floor_in_the_same_round() {
        let corewall = Side::Corewall { wait: DEFAULT_WAIT.to_owned() };
        let floor = Side::Floor { spin: false };
        let mut turns = Vec::new();
        for (round, floor_us, corewall_us) in [(1, 10.0, 20.0), (2, 100.0, 120.0), (3, 10.0, 11.0)] {
            turns.push(turn(round, &floor, Basis::Own, floor_us));
            turns.push(turn(round, &corewall, Basis::Own, corewall_us));
        }
        let summary = summarise_rate(&turns, "blocked", &corewall, (HELD_PERCENT, Basis::Own)).unwrap();
        // 2.0, 1.2 and 1.1: not the ratio of the medians, which is 2.
        assert!((summary.typical_p99_to_floor.unwrap() - 1.2).abs() < 1e-9 && summary.is_held, "{summary:?}");
        assert!(summarise_rate(&turns, "blocked", &corewall, (HELD_PERCENT, Basis::Floor)).is_none());
        let floor = summarise_rate(&turns, "blocked", &floor, (HELD_PERCENT, Basis::Own)).unwrap();
        assert!(floor.p99_to_floor.is_none() && !floor.is_held);
    }

    #[test]
    fn a_stall_of_the_machine_moves_no_typical_p99() {
        let slice = |us_p99, answered| PhaseReport { us_p99, answered, ..Default::default() };
        let slices = [slice(30.0, 9), slice(5_000.0, 9), slice(31.0, 9), slice(0.0, 0), slice(29.0, 9), slice(32.0, 9)];
        assert_eq!(typical_p99(&slices), 31.0);
        assert_eq!(typical_p99(&[]), 0.0);
    }

    #[test]
    fn a_server_that_spins_is_held_against_a_floor_that_spins() {
        let waits = ["default".to_owned(), "spin".to_owned()];
        let names: Vec<String> = sides(&waits).iter().map(Side::name).collect();
        assert_eq!(names, ["floor", "spinning floor", "corewall", "corewall, spin"]);
        assert_eq!(sides(&waits)[3].floor(), sides(&waits)[1]);
        assert_eq!(sides(&waits[..1]).len(), 2);
    }

    #[test]
    fn what_is_held_fails_when_it_is_not_so() {
        let options = Options::parse_from(["latency"]);
        let floor = Side::Floor { spin: false };
        let corewall = Side::Corewall { wait: DEFAULT_WAIT.to_owned() };
        let failures_of = |change: fn(&mut Turn)| {
            let mut turns = vec![turn(1, &floor, Basis::Own, 10.0), turn(1, &corewall, Basis::Own, 14.0)];
            change(&mut turns[1]);
            let summary = summarise_rate(&turns, "blocked", &corewall, (HELD_PERCENT, Basis::Own));
            let idle = Idle {
                mix: "blocked".to_owned(),
                side: corewall.name(),
                percent: Spread::of([turns[1].idle_percent]),
                is_held: true,
            };
            let results = Results {
                host: Host::here(),
                seconds: 1,
                spacing: Spacing::Even,
                seed: 1,
                is_favoured: false,
                summaries: summary.into_iter().collect(),
                idle: vec![idle],
                turns,
            };
            failures(&results, &options).len()
        };
        assert_eq!(failures_of(|_| ()), 0);
        assert_eq!(failures_of(|turn| turn.at[0].us_p99_typical = 16.0), 1);
        assert_eq!(failures_of(|turn| turn.at[0].report.lost = 1), 1);
        assert_eq!(failures_of(|turn| turn.at[0].report.window_full = 1), 1);
        assert_eq!(failures_of(|turn| turn.idle_percent = 1.5), 1);
    }
}
