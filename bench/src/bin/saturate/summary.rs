//! What the rounds say together: the most that each server answers, and what it loses on the way there.
//!
//! Invariant: a server's capacity is the most that it answered in a second at any rate, not what was offered then.

use std::error::Error;
use std::path::Path;

use corewall_bench::figures::{Host, Spread};
use corewall_bench::line_chart::{self, Labels, Line, Scale};
use serde::Serialize;

use super::{Offer, Options, Turn};

/// Loss that counts as none: one in a thousand.
const LOSS_MAX: f64 = 0.001;

/// All rounds of one server.
#[derive(Debug, Serialize)]
pub struct Summary {
    server: String,
    /// Most answers a second.
    answered_per_second: Spread,
    /// Microseconds of the core per answer at that rate.
    core_us_per_answer: Spread,
    /// Microseconds of the server's process per answer at that rate.
    server_us_per_answer: Spread,
    /// How busy the core was then: below all of it the server was not what limited the answers.
    core_busy: Spread,
    /// The highest rate offered at which at most one question in a thousand was lost, least of the rounds; none if there is none.
    lossless_rate: Option<u64>,
    wrong: u64,
    /// Answers with a response code other than NOERROR.
    refused: u64,
}

/// What is written to the results.
#[derive(Debug, Serialize)]
pub struct Results {
    #[serde(flatten)]
    host: Host,
    seconds: u64,
    mix: String,
    wait: Option<String>,
    summaries: Vec<Summary>,
    /// What is not as it has to be.
    pub failures: Vec<String>,
    turns: Vec<Turn>,
}

impl Results {
    /// Of all turns.
    pub fn of(host: Host, options: &Options, turns: Vec<Turn>) -> Self {
        let summaries: Vec<Summary> = servers(&turns).iter().map(|server| summarise(&turns, server)).collect();
        Self {
            host,
            seconds: options.seconds,
            mix: options.mix.clone(),
            wait: options.wait.clone(),
            failures: failures(&summaries),
            summaries,
            turns,
        }
    }

    /// For a reader.
    pub fn print(&self) {
        println!(
            "\n{} names, one core, median (least - most) of the rounds; {}, kernel {}",
            self.mix, self.host.cpu, self.host.kernel
        );
        println!(
            "{:16} {:>28} {:>20} {:>20} {:>6} {:>14} {:>6} {:>8}",
            "server",
            "most answers/s",
            "core us/answer",
            "server us/answer",
            "busy",
            "lossless up to",
            "wrong",
            "refused"
        );
        for summary in &self.summaries {
            let Spread { min, median, max } = summary.answered_per_second;
            println!(
                "{:16} {:>28} {:>20} {:>20} {:>6.2} {:>14} {:>6} {:>8}",
                summary.server,
                format!("{median:.0} ({min:.0} - {max:.0})"),
                summary.core_us_per_answer,
                summary.server_us_per_answer,
                summary.core_busy.median,
                summary.lossless_rate.map_or("-".to_owned(), |rate| format!("{rate}/s")),
                summary.wrong,
                summary.refused,
            );
        }
    }

    /// Answered over offered.
    pub fn draw(&self, path: &Path) -> Result<(), Box<dyn Error>> {
        let line = |server: String| {
            let mut rates: Vec<u64> = offers(&self.turns, &server).map(|offer| offer.rate).collect();
            rates.sort_unstable();
            rates.dedup();
            let at = |rate: u64| {
                let at_rate = || offers(&self.turns, &server).filter(move |offer| offer.rate == rate);
                let sent = Spread::of(at_rate().map(|offer| offer.shots.sent_per_second())).median;
                (sent / 1e3, Spread::of(at_rate().map(|offer| offer.shots.answered_per_second())).median / 1e3)
            };
            Line { points: rates.into_iter().map(at).collect(), name: server.clone() }
        };
        let lines: Vec<Line> = servers(&self.turns).into_iter().map(line).collect();
        let title = format!("{} names on one core", self.mix);
        let labels = Labels {
            title: &title,
            across: "thousand questions a second offered",
            upright: "thousand answers a second",
        };
        line_chart::write(path, labels, Scale::Linear, &lines)
    }
}

/// In the order of their first turns.
fn servers(turns: &[Turn]) -> Vec<String> {
    let mut servers: Vec<String> = Vec::new();
    for turn in turns {
        if !servers.contains(&turn.server) {
            servers.push(turn.server.clone());
        }
    }
    servers
}

fn offers<'a>(turns: &'a [Turn], server: &'a str) -> impl Iterator<Item = &'a Offer> {
    turns.iter().filter(move |turn| turn.server == server).flat_map(|turn| &turn.offers)
}

fn summarise(turns: &[Turn], server: &str) -> Summary {
    let of_server = || turns.iter().filter(|turn| turn.server == server);
    let answered = |offer: &&Offer| offer.shots.answered_per_second();
    let best =
        |turn: &'_ Turn| turn.offers.iter().max_by(|one, other| answered(one).total_cmp(&answered(other))).cloned();
    let bests: Vec<Offer> = of_server().filter_map(best).collect();
    let spread = |of: fn(&Offer) -> f64| Spread::of(bests.iter().map(of));
    // The last before the first that lost something: a rate without loss past one with it is luck.
    let lossless = |turn: &Turn| {
        let kept = turn.offers.iter().take_while(|offer| offer.shots.loss() <= LOSS_MAX);
        kept.last().map(|offer| offer.rate)
    };
    Summary {
        server: server.to_owned(),
        answered_per_second: spread(|offer| offer.shots.answered_per_second()),
        core_us_per_answer: spread(|offer| offer.core_us_per_answer),
        server_us_per_answer: spread(|offer| offer.server_us_per_answer),
        core_busy: spread(|offer| offer.core_busy),
        // A round without any is none for all.
        lossless_rate: of_server().map(lossless).min().flatten(),
        wrong: offers(turns, server).map(|offer| offer.sample.wrong).sum(),
        refused: offers(turns, server).map(|offer| offer.shots.refused()).sum(),
    }
}

fn failures(summaries: &[Summary]) -> Vec<String> {
    summaries
        .iter()
        .filter(|summary| summary.wrong > 0 || summary.refused > 0)
        .map(|summary| {
            let Summary { server, wrong, refused, .. } = summary;
            format!("{server}: {wrong} wrong answers in the sample, {refused} with another response code than NOERROR")
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Sample;
    use corewall_bench::kxdpgun::Shots;

    fn turn(round: u16, answered: &[(u64, u64)]) -> Turn {
        let offer = |&(rate, answered): &(u64, u64)| Offer {
            rate,
            shots: Shots { sent: rate, answered, seconds: 1.0, ..Shots::default() },
            server_us_per_answer: 1.0,
            core_us_per_answer: 1e6 / answered as f64,
            core_busy: 1.0,
            sample: Sample::default(),
        };
        Turn { round, server: "corewall".to_owned(), offers: answered.iter().map(offer).collect() }
    }

    #[test]
    fn capacity_is_the_most_that_was_answered_at_any_rate() {
        let turns = [
            turn(1, &[(100, 100), (200, 140), (300, 90)]),
            turn(2, &[(100, 100), (200, 120), (300, 130)]),
            turn(3, &[(100, 99), (200, 150)]),
        ];
        let summary = summarise(&turns, "corewall");
        assert_eq!(summary.answered_per_second, Spread { min: 130.0, median: 140.0, max: 150.0 });
        // One round lost a question in a hundred at the lowest rate.
        assert_eq!(summary.lossless_rate, None);
        assert_eq!(summarise(&turns[..2], "corewall").lossless_rate, Some(100));
    }

    #[test]
    fn a_wrong_answer_or_another_code_is_a_failure() {
        let failures_of = |change: fn(&mut Turn)| {
            let mut turns = [turn(1, &[(100, 100)])];
            change(&mut turns[0]);
            failures(&[summarise(&turns, &turns[0].server)]).len()
        };
        assert_eq!(failures_of(|_| ()), 0);
        assert_eq!(failures_of(|turn| turn.offers[0].sample.wrong = 1), 1);
        assert_eq!(failures_of(|turn| turn.offers[0].shots.codes = [("SERVFAIL".to_owned(), 1)].into()), 1);
    }
}
