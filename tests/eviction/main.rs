//! Which eviction keeps more of what is asked: SIEVE or LRU. Replays what people asked through the cache itself, alone and with
//! queries for random subdomains between, and prints the hit rates of the former. `bench/README.md` has the numbers.
//!
//! ```text
//! cargo test --release --test eviction -- --ignored --nocapture
//! ```
//!
//! TTLs play no part: nothing expires. Needs `names.tar.zst` of the real data.

#[path = "../real_data/mod.rs"]
mod real_data;

use std::path::Path;

use corewall::decide::Now;
use corewall::decide::answer::{Answer, Section};
use corewall::decide::cache::{Cache, CacheKey, EntryHead, Eviction, Origin};
use corewall::decide::question::Question;
use corewall::decide::reply::Body;
use corewall_sharding::name::Name;

/// Queries drawn from the list of popular names.
const DRAWS: usize = 300_000;

/// A small generator with a fixed seed: the same table in each run.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        self.0 >> 11
    }

    fn fraction(&mut self) -> f64 {
        self.next() as f64 / (1u64 << 53) as f64
    }
}

/// Places in a list of so many names, the n-th drawn in proportion to 1/n, as popularity is spread.
fn zipf(names: usize, draws: usize) -> Vec<usize> {
    let mut sums = Vec::with_capacity(names);
    let mut sum = 0.0;
    for rank in 1..=names {
        sum += 1.0 / rank as f64;
        sums.push(sum);
    }
    let mut random = Random(1);
    let mut draw = || {
        let wanted = random.fraction() * sum;
        sums.partition_point(|&below| below < wanted).min(names - 1)
    };
    (0..draws).map(|_| draw()).collect()
}

fn names(folder: &Path, file: &str) -> Vec<Name> {
    let text = std::fs::read_to_string(folder.join(file)).unwrap_or_else(|error| panic!("{file}: {error}"));
    text.lines().filter_map(|line| Name::from_text(line.trim()).ok()).collect()
}

/// A cache, and what every answer in it is.
struct Replay {
    cache: Cache,
    question: Question,
    body: Body,
}

impl Replay {
    fn new(bytes: usize, eviction: Eviction) -> Self {
        let mut question = Question::EMPTY;
        question.name = Name::from_text("www.example.com").unwrap();
        (question.qtype, question.qclass) = (1, 1);
        let (mut answer, mut body) = (Answer::new(), Body::new());
        answer.push(Section::Answer, &question.name, 1, 1, 300, &[198, 51, 100, 7]).unwrap();
        body.compose(&question, &answer);
        Self { cache: Cache::new(bytes, eviction, [1, 2, 3, 4]), question, body }
    }

    /// Whether the answer was there; now it is.
    fn ask(&mut self, name: &Name) -> bool {
        let Question { qtype, qclass, .. } = self.question;
        let key = CacheKey { policy: 0, name, qtype, qclass, dnssec_ok: false, checking_disabled: false, subnet: 0 };
        if self.cache.find(&key, Now(0)).is_some() {
            return true;
        }
        let origin = Origin::Upstream { group: 0, chain: false };
        let head = EntryHead {
            origin,
            rcode: 0,
            authentic_data: false,
            ede: None,
            rules: 1,
            by_name_alone: false,
            stored: Now(0),
            ttl_s: 300,
            scope_bits: None,
        };
        self.cache.keep(&key, head, &self.body);
        false
    }
}

/// Hits per thousand of the queries of `trace`, with so many queries for random subdomains for each hundred in all.
fn hit_rate(bytes: usize, eviction: Eviction, trace: &[&Name], random_percent: u64) -> (f64, usize) {
    let mut replay = Replay::new(bytes, eviction);
    let mut random = Random(7);
    let (mut hits, mut entries_max) = (0, 0);
    for name in trace {
        while random.next() % 100 < random_percent {
            let label = format!("{:x}.victim.example", random.next());
            replay.ask(&Name::from_text(&label).unwrap());
        }
        hits += usize::from(replay.ask(name));
        entries_max = entries_max.max(replay.cache.len());
    }
    (100.0 * hits as f64 / trace.len() as f64, entries_max)
}

#[test]
#[ignore = "a measurement: prints a table"]
fn hit_rates_by_eviction() {
    let Some(folder) = real_data::folder("names") else { return };
    let folder = if folder.join("names").is_dir() { folder.join("names") } else { folder };
    let browsed = names(&folder, "browse-trace-brave-2015.txt");
    let popular = names(&folder, "opendns-top-10k.txt");
    let drawn = zipf(popular.len(), DRAWS);
    let traces: [(&str, Vec<&Name>); 2] = [
        ("browsing", browsed.iter().collect()),
        ("popular names", drawn.iter().map(|&place| &popular[place]).collect()),
    ];
    println!("| trace | random subdomains | entries | SIEVE | LRU |\n|---|---|---|---|---|");
    for (label, trace) in &traces {
        for random_percent in [0, 50, 90] {
            for kib in [64, 128, 256, 512, 1_024] {
                let rates = [Eviction::Sieve, Eviction::Lru]
                    .map(|eviction| hit_rate(kib << 10, eviction, trace, random_percent));
                let [(sieve, entries), (lru, _)] = rates;
                println!("| {label} | {random_percent} % | {entries} | {sieve:.1} % | {lru:.1} % |");
            }
        }
    }
}

#[test]
fn a_flood_of_random_names_costs_sieve_less_than_lru() {
    let names: Vec<Name> = (0..2_000).map(|number| Name::from_text(&format!("n{number}.example")).unwrap()).collect();
    let drawn = zipf(names.len(), 20_000);
    let trace: Vec<&Name> = drawn.iter().map(|&place| &names[place]).collect();
    let [sieve, lru] = [Eviction::Sieve, Eviction::Lru].map(|eviction| hit_rate(128 << 10, eviction, &trace, 90).0);
    assert!(sieve > lru + 5.0, "SIEVE {sieve:.1} %, LRU {lru:.1} %");
}
