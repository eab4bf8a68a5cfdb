//! What a comparison has found: the rounds, what they come to, and which conditions hold.
//!
//! Invariant: a ratio is the median of the ratios of the rounds, in each of which both have run.

use std::collections::BTreeMap;
use std::fmt::Write;

use serde::Serialize;

use crate::dnsperf::DnsperfReport;
use crate::figures::{Host, Spread};
use crate::load::LoadReport;

/// The floor's name.
pub const FLOOR: &str = "floor";
/// The name of the server under test.
pub const COREWALL: &str = "corewall";
/// Corewall's CPU per answer over the floor's at most, for answers that need no upstream.
const FLOOR_RATIO_MAX: f64 = 1.15;
/// The same for listed names asked for the first time, of the large store.
const STORE_FLOOR_RATIO_MAX: f64 = 1.6;
/// Corewall's CPU per forwarded answer over Unbound's at most.
const UNBOUND_RATIO_MAX: f64 = 0.5;

/// One contender's part of one measurement of one round.
#[derive(Clone, Debug, Serialize)]
pub struct Turn {
    /// The round, from 1.
    pub round: u16,
    /// What our own load generator found.
    #[serde(flatten)]
    pub load: LoadReport,
    /// What dnsperf found.
    pub dnsperf: Option<DnsperfReport>,
}

/// Which questions, and how fast they were asked.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct Measurement {
    /// The mix.
    pub mix: String,
    /// Questions a second; 0 is full speed.
    pub rate: u64,
}

impl Measurement {
    /// As it is called.
    pub fn name(&self) -> String {
        match self.rate {
            0 => self.mix.clone(),
            rate => format!("{} at {rate}/s", self.mix),
        }
    }
}

/// All turns of one contender in one measurement.
#[derive(Clone, Debug, Serialize)]
pub struct Entry {
    /// What was asked.
    #[serde(flatten)]
    pub measurement: Measurement,
    /// Of whom.
    pub contender: String,
    /// By round.
    pub turns: Vec<Turn>,
}

/// What the turns of one contender come to.
#[derive(Clone, Debug, Serialize)]
pub struct Summary {
    /// What was asked.
    #[serde(flatten)]
    pub measurement: Measurement,
    /// Of whom.
    pub contender: String,
    /// CPU microseconds per answer.
    pub cpu_us: Spread,
    /// That over the floor's.
    pub floor_ratio: Option<Spread>,
    /// Corewall's CPU per answer over this one's.
    pub corewall_ratio: Option<Spread>,
    /// Answers a second.
    pub qps: Spread,
    /// Latency in microseconds.
    pub us_p50: Spread,
    /// Latency in microseconds.
    pub us_p99: Spread,
    /// Latency in microseconds.
    pub us_p999: Spread,
    /// Questions without an answer, of all rounds.
    pub lost: u64,
    /// Wrong answers of all rounds.
    pub wrong: u64,
    /// Answers a second as dnsperf counts them.
    pub dnsperf_qps: Option<Spread>,
    /// CPU microseconds per answer under dnsperf.
    pub dnsperf_cpu_us: Option<Spread>,
    /// Questions that dnsperf lost or that failed, of all rounds.
    pub dnsperf_lost: u64,
}

/// A condition of the comparison.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Claim {
    /// What is said.
    pub text: String,
    /// What was found.
    pub figure: f64,
    /// What it may be at most.
    pub limit: f64,
    /// Whether it is so.
    pub holds: bool,
}

/// What is written to the results.
#[derive(Debug, Serialize)]
pub struct Comparison {
    /// The machine and the commit.
    #[serde(flatten)]
    pub host: Host,
    /// Of each contender, of nsd and of dnsperf.
    pub versions: BTreeMap<String, String>,
    /// The configuration of each contender, without its list.
    pub configs: BTreeMap<String, String>,
    /// Peers that are not compared, and why.
    pub left_out: BTreeMap<String, String>,
    /// Rounds in which all ran in turns.
    pub rounds: u16,
    /// Seconds of each measurement.
    pub seconds: u64,
    /// Questions open at a time.
    pub window: usize,
    /// Whether questions had an OPT record.
    pub edns: bool,
    /// Kibibytes of cache of each contender.
    pub cache_kib: u64,
    /// Rules in each peer.
    pub peer_rules: usize,
    /// Rules in Corewall's store of the mix `store`.
    pub store_rules: u64,
    /// The conditions.
    pub claims: Vec<Claim>,
    /// What the rounds come to.
    pub summaries: Vec<Summary>,
    /// The rounds.
    pub entries: Vec<Entry>,
}

impl Comparison {
    /// Adds a turn.
    pub fn add(&mut self, measurement: Measurement, contender: &str, turn: Turn) {
        match self.entries.iter_mut().find(|entry| entry.measurement == measurement && entry.contender == contender) {
            Some(entry) => entry.turns.push(turn),
            None => self.entries.push(Entry { measurement, contender: contender.to_owned(), turns: vec![turn] }),
        }
    }

    /// Leaves a peer out from now on, with what it has done so far.
    pub fn leave_out(&mut self, contender: &str, reason: String) {
        self.entries.retain(|entry| entry.contender != contender);
        self.left_out.insert(contender.to_owned(), reason);
    }

    /// Makes summaries and claims of the rounds.
    pub fn conclude(&mut self) {
        let mut order: Vec<&Measurement> = Vec::new();
        for entry in &self.entries {
            if !order.contains(&&entry.measurement) {
                order.push(&entry.measurement);
            }
        }
        let place = |summary: &Summary| {
            let of_measurement = order.iter().position(|measurement| **measurement == summary.measurement);
            (of_measurement, summary.contender != FLOOR, !is_corewall(&summary.contender))
        };
        let mut summaries: Vec<Summary> = self.entries.iter().map(|entry| self.summarise(entry)).collect();
        summaries.sort_by_key(place);
        self.summaries = summaries;
        self.claims = self.claims();
    }

    fn turns(&self, measurement: &Measurement, contender: &str) -> Option<&[Turn]> {
        let entry = |entry: &&Entry| entry.measurement == *measurement && entry.contender == contender;
        self.entries.iter().find(entry).map(|entry| &entry.turns[..])
    }

    fn summarise(&self, entry: &Entry) -> Summary {
        let Entry { measurement, contender, turns } = entry;
        let spread = |figure: fn(&LoadReport) -> f64| Spread::of(turns.iter().map(|turn| figure(&turn.load)));
        let reports: Vec<&DnsperfReport> = turns.iter().filter_map(|turn| turn.dnsperf.as_ref()).collect();
        let of_dnsperf = |figure: fn(&DnsperfReport) -> f64| {
            (!reports.is_empty()).then(|| Spread::of(reports.iter().map(|report| figure(report))))
        };
        let floor = self.turns(measurement, FLOOR).filter(|_| contender != FLOOR);
        let corewall = self.turns(measurement, COREWALL).filter(|_| !is_corewall(contender));
        Summary {
            measurement: measurement.clone(),
            contender: contender.clone(),
            cpu_us: spread(cpu_us),
            floor_ratio: floor.and_then(|floor| ratio(turns, floor)),
            corewall_ratio: corewall.and_then(|corewall| ratio(corewall, turns)),
            qps: spread(|report| report.qps),
            us_p50: spread(|report| report.us_p50),
            us_p99: spread(|report| report.us_p99),
            us_p999: spread(|report| report.us_p999),
            lost: turns.iter().map(|turn| turn.load.lost).sum(),
            wrong: turns.iter().map(|turn| turn.load.wrong).sum(),
            dnsperf_qps: of_dnsperf(|report| report.qps),
            dnsperf_cpu_us: of_dnsperf(|report| report.server_cpu_us_per_answer),
            dnsperf_lost: reports.iter().map(|report| report.lost + report.failed).sum(),
        }
    }

    /// Only at full speed is a server saturated, so that nothing but its work counts.
    fn claims(&self) -> Vec<Claim> {
        let mut claims = Vec::new();
        let mixes =
            self.summaries.iter().filter(|summary| summary.contender == COREWALL && summary.measurement.rate == 0);
        for corewall in mixes {
            let mix = corewall.measurement.mix.as_str();
            let floor_ratio_max = match mix {
                "blocked" | "cached" => Some(FLOOR_RATIO_MAX),
                "store" => Some(STORE_FLOOR_RATIO_MAX),
                _ => None,
            };
            if let (Some(ratio), Some(limit)) = (corewall.floor_ratio, floor_ratio_max) {
                claims.push(at_most(format!("{mix}: CPU per answer over the floor's"), ratio.median, limit));
            }
            // No peer holds ten million rules as Corewall does: it is held against what they block of their short lists.
            let peers_mix = if mix == "store" { "blocked" } else { mix };
            let peers = self.summaries.iter().filter(|summary| {
                summary.contender != FLOOR
                    && !is_corewall(&summary.contender)
                    && summary.measurement.mix == peers_mix
                    && summary.measurement.rate == 0
            });
            for peer in peers {
                let of_rounds = peer.corewall_ratio.filter(|_| mix == peers_mix).map(|ratio| ratio.median);
                let figure = of_rounds.unwrap_or(corewall.cpu_us.median / peer.cpu_us.median);
                let text = format!("{mix}: CPU per answer over {}'s", peer.contender);
                claims.push(if (mix, peer.contender.as_str()) == ("forwarded", "unbound") {
                    at_most(text, figure, UNBOUND_RATIO_MAX)
                } else {
                    Claim { holds: figure < 1.0, ..at_most(text, figure, 1.0) }
                });
            }
        }
        let bad = |is_it: fn(&str) -> bool| {
            let summaries = self.summaries.iter().filter(|summary| is_it(&summary.contender));
            summaries.map(|summary| summary.lost + summary.wrong + summary.dnsperf_lost).sum::<u64>() as f64
        };
        claims.push(at_most("corewall: questions lost, wrong or failed".to_owned(), bad(is_corewall), 0.0));
        claims.push(at_most("floor: questions lost".to_owned(), bad(|contender| contender == FLOOR), 0.0));
        claims
    }

    /// Whether all conditions hold.
    pub fn is_good(&self) -> bool {
        self.claims.iter().all(|claim| claim.holds)
    }

    /// All of it for a reader.
    pub fn to_text(&self) -> String {
        let mut text = format!("\n{}, kernel {}, {}\n", self.host.cpu, self.host.kernel, self.host.commit);
        for (name, version) in &self.versions {
            text += &format!("  {name}: {version}\n");
        }
        let mut told = None;
        for summary in &self.summaries {
            if told != Some(&summary.measurement) {
                told = Some(&summary.measurement);
                // Writing into a String cannot fail.
                let _ = writeln!(
                    text,
                    "\n{:22} {:>24} {:>7} {:>9} {:>10} {:>7} {:>7} {:>8} {:>6} {:>6} {:>10} {:>8}",
                    summary.measurement.name(),
                    "CPU us/answer",
                    "x floor",
                    "corewall/",
                    "answers/s",
                    "p50 us",
                    "p99 us",
                    "p99.9 us",
                    "lost",
                    "wrong",
                    "dnsperf/s",
                    "CPU us"
                );
            }
            let median = |spread: Option<Spread>, digits| {
                spread.map_or("-".to_owned(), |spread: Spread| format!("{:.digits$}", spread.median))
            };
            let _ = writeln!(
                text,
                "{:22} {:>24} {:>7} {:>9} {:>10.0} {:>7.0} {:>7.0} {:>8.0} {:>6} {:>6} {:>10} {:>8}",
                summary.contender,
                summary.cpu_us,
                median(summary.floor_ratio, 2),
                median(summary.corewall_ratio, 2),
                summary.qps.median,
                summary.us_p50.median,
                summary.us_p99.median,
                summary.us_p999.median,
                summary.lost,
                summary.wrong,
                median(summary.dnsperf_qps, 0),
                median(summary.dnsperf_cpu_us, 2),
            );
        }
        text.push('\n');
        for (peer, reason) in &self.left_out {
            text += &format!("left out: {peer}: {reason}\n");
        }
        for Claim { text: said, figure, limit, holds } in &self.claims {
            text += &format!("{:9} {said}: {figure:.2}, at most {limit}\n", if *holds { "held" } else { "NOT HELD" });
        }
        text
    }
}

/// Corewall's own, whatever its store.
pub fn is_corewall(contender: &str) -> bool {
    contender.starts_with(COREWALL)
}

fn at_most(text: String, figure: f64, limit: f64) -> Claim {
    Claim { text, figure, limit, holds: figure <= limit }
}

fn cpu_us(report: &LoadReport) -> f64 {
    report.server_cpu_us_per_answer.unwrap_or_default()
}

/// The CPU of one over that of the other in each round that both have.
fn ratio(above: &[Turn], below: &[Turn]) -> Option<Spread> {
    let of_round = |turn: &Turn| {
        let other = below.iter().find(|other| other.round == turn.round)?;
        Some(cpu_us(&turn.load) / cpu_us(&other.load))
    };
    let ratios: Vec<f64> = above.iter().filter_map(of_round).collect();
    (!ratios.is_empty()).then(|| Spread::of(ratios))
}

#[cfg(test)]
pub mod tests {
    use super::*;

    fn turn(round: u16, cpu_us: f64) -> Turn {
        let load = LoadReport {
            server_cpu_us_per_answer: Some(cpu_us),
            qps: 1e6 / cpu_us,
            answered: 1_000,
            ..Default::default()
        };
        Turn { round, load, dnsperf: None }
    }

    /// A comparison of these figures, one a round.
    pub fn comparison(figures: &[(&str, &str, &[f64])]) -> Comparison {
        let mut comparison = Comparison {
            host: Host::here(),
            versions: BTreeMap::new(),
            configs: BTreeMap::new(),
            left_out: BTreeMap::new(),
            rounds: 3,
            seconds: 1,
            window: 128,
            edns: false,
            cache_kib: 1024,
            peer_rules: 10,
            store_rules: 100,
            claims: Vec::new(),
            summaries: Vec::new(),
            entries: Vec::new(),
        };
        for (mix, contender, figures) in figures {
            for (round, &figure) in (1..).zip(figures.iter()) {
                let measurement = Measurement { mix: (*mix).to_owned(), rate: 0 };
                comparison.add(measurement, contender, turn(round, figure));
            }
        }
        comparison.conclude();
        comparison
    }

    fn claim<'a>(comparison: &'a Comparison, text: &str) -> &'a Claim {
        comparison
            .claims
            .iter()
            .find(|claim| claim.text == text)
            .unwrap_or_else(|| panic!("{text}: {:?}", comparison.claims))
    }

    #[test]
    fn a_ratio_is_the_median_of_the_ratios_of_the_rounds() {
        let found = comparison(&[("blocked", FLOOR, &[2.0, 4.0, 2.0]), ("blocked", COREWALL, &[3.0, 4.0, 2.2])]);
        assert_eq!(found.summaries[1].floor_ratio, Some(Spread { min: 1.0, median: 1.1, max: 1.5 }));
        let held = claim(&found, "blocked: CPU per answer over the floor's");
        assert!(held.holds && (held.figure - 1.1).abs() < 1e-9, "{held:?}");
    }

    #[test]
    fn every_limit_is_held_or_told_not_to_be() {
        let found = comparison(&[
            ("blocked", FLOOR, &[2.0]),
            ("blocked", COREWALL, &[2.4]),
            ("blocked", "unbound", &[4.0]),
            ("blocked", "dnsdist", &[2.4]),
            ("forwarded", COREWALL, &[7.0]),
            ("forwarded", "unbound", &[20.0]),
            ("store", FLOOR, &[2.0]),
            ("store", COREWALL, &[3.0]),
            ("store", "corewall packed", &[9.0]),
        ]);
        let holds = |text: &str| claim(&found, text).holds;
        assert!(!holds("blocked: CPU per answer over the floor's") && holds("blocked: CPU per answer over unbound's"));
        // As much as a peer is not below it.
        assert!(!holds("blocked: CPU per answer over dnsdist's"));
        assert!(holds("forwarded: CPU per answer over unbound's"));
        assert!(holds("store: CPU per answer over the floor's") && !holds("store: CPU per answer over dnsdist's"));
        assert!(holds("corewall: questions lost, wrong or failed") && !found.is_good());
        let text = found.to_text();
        assert!(text.contains("NOT HELD  blocked: CPU per answer over the floor's: 1.20, at most 1.15"), "{text}");
    }

    #[test]
    fn a_lost_question_is_a_condition_that_does_not_hold() {
        let mut found = comparison(&[("cached", FLOOR, &[2.0]), ("cached", COREWALL, &[2.1])]);
        assert!(found.is_good());
        found.entries[1].turns[0].load.lost = 1;
        found.conclude();
        assert!(!claim(&found, "corewall: questions lost, wrong or failed").holds && !found.is_good());
    }

    #[test]
    fn a_peer_that_is_left_out_takes_its_figures_with_it() {
        let mut found = comparison(&[("cached", COREWALL, &[2.1]), ("cached", "dnsmasq", &[1.0])]);
        assert!(!found.is_good());
        found.leave_out("dnsmasq", "it did not start".to_owned());
        found.conclude();
        assert!(found.is_good() && found.to_text().contains("left out: dnsmasq: it did not start"));
    }
}
