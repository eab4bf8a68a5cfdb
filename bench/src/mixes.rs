//! What is asked in each mix, the same for every contender, round and run.
//!
//! Invariant: a name that may come once only (`forwarded`, the uncached ones of `mixed`, `store`) comes once in all sheets
//! together, so whichever are asked of a server, it has never seen it; and no name lies below one that is blocked, for some
//! peers block what is below as well.

use std::collections::HashSet;
use std::error::Error;
use std::fs;
use std::path::Path;

use clap::ValueEnum;

use crate::fresh_names::FreshNames;
use crate::questions::{PacketOptions, Questions, Random};

/// Of `mixed`: questions for names that are blocked.
const BLOCKED_SHARE: f64 = 0.20;
/// Of `mixed`: questions for names that nobody has asked before.
const UNCACHED_SHARE: f64 = 0.05;
/// Of `mixed`: questions for names that are not there. The rest is popular names, cached.
const ABSENT_SHARE: f64 = 0.02;
/// Names that are not there, of which `mixed` draws.
const ABSENT_NAMES: usize = 1_000;
/// Names asked of a server that has just started, before it is measured with new ones.
const FIRST_NAMES: usize = 5_000;
/// Names of the large store asked before it is measured: after them nearly all of its pages and filters are mapped.
const FIRST_STORE_NAMES: usize = 300_000;

/// A mix of questions.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, ValueEnum)]
pub enum Mix {
    /// Listed names, again and again.
    Blocked,
    /// Names asked before, the upstream stopped.
    Cached,
    /// Names never asked before.
    Forwarded,
    /// As people ask: popular names by Zipf's law, some blocked, some new, some not there.
    Mixed,
    /// Listed names, each once, of a store of ten million rules.
    Store,
}

impl Mix {
    /// As it is called.
    pub fn name(self) -> &'static str {
        match self {
            Self::Blocked => "blocked",
            Self::Cached => "cached",
            Self::Forwarded => "forwarded",
            Self::Mixed => "mixed",
            Self::Store => "store",
        }
    }

    /// Whether a name may be asked once only.
    pub fn is_of_new_names(self) -> bool {
        matches!(self, Self::Forwarded | Self::Mixed | Self::Store)
    }

    /// Whether the upstream works while the mix is asked.
    pub fn needs_upstream(self) -> bool {
        matches!(self, Self::Forwarded | Self::Mixed)
    }

    /// Whether what is asked in the warm-up must be answered by the upstream first.
    pub fn is_warmed_by_upstream(self) -> bool {
        self != Self::Blocked && self != Self::Store
    }

    /// Questions a second that no server here reaches, so that names last as long as the time.
    fn per_second_max(self) -> u64 {
        match self {
            Self::Blocked | Self::Cached => 0,
            Self::Forwarded => 200_000,
            Self::Mixed | Self::Store => 400_000,
        }
    }
}

/// How much is asked.
#[derive(Clone, Debug)]
pub struct Amount {
    /// Questions a second of each measurement; 0 is full speed.
    pub rates: Vec<u64>,
    /// Seconds of each.
    pub seconds: u64,
    /// Seconds of dnsperf; 0 is none.
    pub dnsperf_seconds: u64,
    /// How packets are made.
    pub packets: PacketOptions,
}

/// All questions of one mix.
pub struct Sheet {
    /// Asked first, and not measured.
    pub warm_up: Questions,
    /// One for each rate.
    pub measured: Vec<Questions>,
    /// What dnsperf asks, in its format; empty without dnsperf.
    pub dnsperf: String,
}

/// Where the names come from.
pub struct Sources {
    blocked: Vec<String>,
    cached: Vec<String>,
    popular: Vec<String>,
    fresh: FreshNames,
    random: Random,
}

impl Sources {
    /// Reads what `bench/names.sh` has written; `cached_names` of those for the mix `cached`.
    pub fn read(folder: &Path, cached_names: usize) -> Result<Self, Box<dyn Error>> {
        let lines = |file: &str| -> Result<Vec<String>, Box<dyn Error>> {
            let path = folder.join(file);
            let text = fs::read_to_string(&path)
                .map_err(|error| format!("{}: {error}; bench/names.sh writes it", path.display()))?;
            Ok(text.lines().map(str::to_owned).collect())
        };
        let blocked = lines("blocked.names")?;
        let listed: HashSet<&str> = blocked.iter().map(|line| name_of(line)).collect();
        let free = |line: &String| !is_within(name_of(line), &listed);
        let mut cached: Vec<String> = lines("cached.names")?.into_iter().filter(free).collect();
        cached.truncate(cached_names);
        let popular: Vec<String> = lines("popular.names")?.into_iter().filter(free).collect();
        if blocked.is_empty() || cached.is_empty() || popular.is_empty() {
            return Err(format!("{} has no names; delete it and run bench/names.sh", folder.display()).into());
        }
        Ok(Self { blocked, cached, popular, fresh: FreshNames::default(), random: Random::new(1) })
    }

    /// The names to block.
    pub fn blocked_names(&self) -> Vec<String> {
        self.blocked.iter().map(|line| name_of(line).to_owned()).collect()
    }

    /// The zone that has an answer for all names, with the one that `bench/names.sh` has written.
    pub fn zone(folder: &Path) -> Result<String, Box<dyn Error>> {
        Ok(fs::read_to_string(folder.join("root.zone"))? + &FreshNames::records())
    }

    /// The questions of a mix; those of `store` are [`store_sheet`]'s.
    pub fn sheet(&mut self, mix: Mix, amount: &Amount) -> Result<Sheet, String> {
        let warm_up = match mix {
            Mix::Blocked | Mix::Store => self.blocked.join("\n"),
            Mix::Cached => self.cached.join("\n"),
            Mix::Forwarded => self.fresh.lines(FIRST_NAMES),
            Mix::Mixed => {
                self.popular.join("\n") + "\n" + &(0..ABSENT_NAMES).map(FreshNames::absent_line).collect::<String>()
            }
        };
        let mut measured = Vec::new();
        for &rate in &amount.rates {
            let per_second = if rate == 0 { mix.per_second_max() } else { rate };
            measured.push(parse(&self.lines(mix, per_second * amount.seconds), amount.packets)?);
        }
        let dnsperf = match amount.dnsperf_seconds {
            0 => String::new(),
            seconds => dnsperf_lines(&self.lines(mix, mix.per_second_max() * seconds)),
        };
        Ok(Sheet { warm_up: parse(&warm_up, amount.packets)?, measured, dnsperf })
    }

    /// Lines of questions; `count` is of names that may come once only, the others are as many as there are.
    fn lines(&mut self, mix: Mix, count: u64) -> String {
        match mix {
            Mix::Blocked | Mix::Store => self.blocked.join("\n"),
            Mix::Cached => self.cached.join("\n"),
            Mix::Forwarded => self.fresh.lines(count as usize),
            Mix::Mixed => self.mixed_lines(count),
        }
    }

    fn mixed_lines(&mut self, count: u64) -> String {
        let blocked = Zipf::of(self.blocked.len());
        let popular = Zipf::of(self.popular.len());
        let absent = Zipf::of(ABSENT_NAMES);
        let mut text = String::new();
        for _ in 0..count {
            let kind = unit(&mut self.random);
            if kind < BLOCKED_SHARE {
                text += &self.blocked[blocked.draw(&mut self.random)];
                text.push('\n');
            } else if kind < BLOCKED_SHARE + UNCACHED_SHARE {
                text += &self.fresh.lines(1);
            } else if kind < BLOCKED_SHARE + UNCACHED_SHARE + ABSENT_SHARE {
                text += &FreshNames::absent_line(absent.draw(&mut self.random));
            } else {
                text += &self.popular[popular.draw(&mut self.random)];
                text.push('\n');
            }
        }
        text
    }
}

/// How many names of the large store [`store_sheet`] needs.
pub fn store_names(amount: &Amount) -> u64 {
    let per_rate = |&rate: &u64| amount.seconds * if rate == 0 { Mix::Store.per_second_max() } else { rate };
    FIRST_STORE_NAMES as u64
        + amount.rates.iter().map(per_rate).sum::<u64>()
        + amount.dnsperf_seconds * Mix::Store.per_second_max()
}

/// The questions of `store`, of listed names in an order by chance. A name that comes again is left out.
pub fn store_sheet(listed: &str, amount: &Amount) -> Result<Sheet, String> {
    let mut seen = HashSet::new();
    let mut names: Vec<&str> = listed.lines().filter(|name| seen.insert(*name)).collect();
    Random::new(2).shuffle(&mut names);
    let mut names = names.into_iter();
    let mut take =
        |count: usize| -> String { names.by_ref().take(count).map(|name| format!("{name} A blocked\n")).collect() };
    let warm_up = parse(&take(FIRST_STORE_NAMES), amount.packets)?;
    let mut measured = Vec::new();
    for &rate in &amount.rates {
        let per_second = if rate == 0 { Mix::Store.per_second_max() } else { rate };
        measured.push(parse(&take((per_second * amount.seconds) as usize), amount.packets)?);
    }
    let dnsperf = dnsperf_lines(&take((amount.dnsperf_seconds * Mix::Store.per_second_max()) as usize));
    Ok(Sheet { warm_up, measured, dnsperf })
}

fn parse(lines: &str, packets: PacketOptions) -> Result<Questions, String> {
    Questions::parse(lines, packets).map_err(|(line, reason)| format!("question {line}: {reason}"))
}

/// Name and type of each question.
fn dnsperf_lines(lines: &str) -> String {
    let mut text = String::new();
    for line in lines.lines() {
        let mut fields = line.split(' ');
        text += fields.next().unwrap_or_default();
        text.push(' ');
        text += fields.next().unwrap_or("A");
        text.push('\n');
    }
    text
}

fn name_of(line: &str) -> &str {
    line.split(' ').next().unwrap_or_default()
}

/// Whether `name` or one above it is in `listed`.
fn is_within(name: &str, listed: &HashSet<&str>) -> bool {
    let mut rest = Some(name);
    while let Some(name) = rest {
        if listed.contains(name) {
            return true;
        }
        rest = name.split_once('.').map(|(_, above)| above);
    }
    false
}

/// A number from 0 to below 1.
fn unit(random: &mut Random) -> f64 {
    (random.next() >> 11) as f64 / (1u64 << 53) as f64
}

/// Zipf's law with exponent 1: the name in place n comes 1/n as often as the first one.
struct Zipf {
    /// The sum of all weights up to each place.
    sums: Vec<f64>,
}

impl Zipf {
    fn of(places: usize) -> Self {
        let mut sum = 0.0;
        let add = |place: usize| {
            sum += 1.0 / (place + 1) as f64;
            sum
        };
        Self { sums: (0..places).map(add).collect() }
    }

    fn draw(&self, random: &mut Random) -> usize {
        let wanted = unit(random) * self.sums.last().copied().unwrap_or_default();
        self.sums.partition_point(|sum| *sum <= wanted).min(self.sums.len().saturating_sub(1))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::questions::Expect;

    fn sources() -> Sources {
        let lines = |prefix: &str, expect: &str| (0..50).map(|n| format!("{prefix}{n}.com A {expect}")).collect();
        Sources {
            blocked: lines("ads", "blocked"),
            cached: lines("known", "192.0.2.1"),
            popular: lines("popular", "192.0.2.2"),
            fresh: FreshNames::default(),
            random: Random::new(1),
        }
    }

    fn amount() -> Amount {
        Amount {
            rates: vec![0, 500],
            seconds: 1,
            dnsperf_seconds: 1,
            packets: PacketOptions { recursion_desired: true, seed: 1, ..Default::default() },
        }
    }

    fn sections(questions: &Questions) -> Vec<Vec<u8>> {
        (0..questions.len()).map(|index| questions.question_section(questions.question(index)).to_vec()).collect()
    }

    #[test]
    fn mixed_has_its_shares_and_the_first_place_twice_as_often_as_the_second() {
        let sheet = sources().sheet(Mix::Mixed, &amount()).unwrap();
        let questions = &sheet.measured[0];
        let share = |is_it: &dyn Fn(Expect, &[u8]) -> bool| {
            let of_kind = (0..questions.len()).filter(|&index| {
                let question = questions.question(index);
                is_it(question.expect, questions.question_section(question))
            });
            of_kind.count() as f64 / questions.len() as f64
        };
        assert!((share(&|expect, _| expect == Expect::Blocked) - BLOCKED_SHARE).abs() < 0.005);
        assert!((share(&|expect, _| expect == Expect::Nxdomain) - ABSENT_SHARE).abs() < 0.005);
        assert!((share(&|_, name| name.ends_with(b"\x09forwarded\x03org\0\0\x01\0\x01")) - 0.07).abs() < 0.005);
        let first = share(&|_, name| name.starts_with(b"\x08popular0"));
        let second = share(&|_, name| name.starts_with(b"\x08popular1\x03"));
        assert!((first / second - 2.0).abs() < 0.1, "{first} {second}");
    }

    #[test]
    fn no_new_name_comes_twice_in_all_sheets() {
        let mut sources = sources();
        let (forwarded, mixed) =
            (sources.sheet(Mix::Forwarded, &amount()).unwrap(), sources.sheet(Mix::Mixed, &amount()).unwrap());
        let mut seen = HashSet::new();
        for questions in [&forwarded.warm_up, &forwarded.measured[0], &forwarded.measured[1]] {
            assert!(sections(questions).into_iter().all(|section| seen.insert(section)));
        }
        assert_eq!(forwarded.measured[1].len(), 500);
        for questions in [&mixed.measured[0], &mixed.measured[1]] {
            let is_new = |section: &Vec<u8>| section.windows(11).any(|part| part == b"\x09forwarded\x03");
            let absent = |section: &Vec<u8>| section.windows(7).any(|part| part == b"\x06absent");
            let mut new = sections(questions).into_iter().filter(|section| is_new(section) && !absent(section));
            assert!(new.all(|section| seen.insert(section)));
        }
        let by_dnsperf: HashSet<&str> = forwarded.dnsperf.lines().collect();
        assert_eq!(by_dnsperf.len(), 200_000);
        let is_asked_elsewhere = |line: &&str| seen.contains(&sections(&parse(line, amount().packets).unwrap())[0]);
        assert!(!by_dnsperf.iter().take(1_000).any(is_asked_elsewhere));
    }

    #[test]
    fn names_of_the_store_are_shared_out_and_those_that_come_twice_are_left_out() {
        let listed: String = (0..800_000).map(|n| format!("n{}.example\n", n % 700_600)).collect();
        let sheet = store_sheet(&listed, &Amount { dnsperf_seconds: 0, ..amount() }).unwrap();
        let mut all = sections(&sheet.warm_up);
        sheet.measured.iter().for_each(|questions| all.extend(sections(questions)));
        assert_eq!((sheet.warm_up.len(), sheet.measured[1].len(), all.len()), (FIRST_STORE_NAMES, 500, 700_500));
        assert_eq!(all.into_iter().collect::<HashSet<_>>().len(), 700_500);
    }

    #[test]
    fn what_is_below_a_blocked_name_is_known() {
        let listed = HashSet::from(["ads.com"]);
        assert!(is_within("ads.com", &listed) && is_within("www.ads.com", &listed));
        assert!(!is_within("com", &listed) && !is_within("bads.com", &listed));
    }
}
