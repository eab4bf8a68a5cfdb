//! Measures the store on a file of names, one a line: build time, memory, bytes a rule, lookup and probe time.
//!
//! `cargo run --release -p corewall-sharding --example measure -- NAMES [COUNT] [SHARDS] [STORE]`

use std::hint::black_box;
use std::io::{BufRead, BufReader};
use std::time::Instant;

use corewall_sharding::StoreError;
use corewall_sharding::build::{BuildOptions, Builder};
use corewall_sharding::name::Name;
use corewall_sharding::publish::Store;
use corewall_sharding::route::{self, Reach};
use corewall_sharding::rows::Reads;
use corewall_sharding::rule::{Class, Kind, List, Rule, RuleKey, Scope};

/// Names looked up.
const LOOKUPS: usize = 200_000;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut arguments = std::env::args().skip(1);
    let names = arguments.next().ok_or("usage: measure NAMES [COUNT] [SHARDS] [STORE]")?;
    let count: usize = arguments.next().map_or(Ok(usize::MAX), |count| count.parse())?;
    let shards: u16 = arguments.next().map_or(Ok(16), |shards| shards.parse())?;
    let temporary;
    let dir = match arguments.next() {
        Some(dir) => dir.into(),
        None => {
            temporary = tempfile::tempdir()?;
            temporary.path().to_path_buf()
        }
    };
    let store = Store::create_or_open(&dir)?;
    let mut sample = Vec::new();
    let built = Instant::now();
    let mut builder = Builder::new(&store, BuildOptions { shards, ..Default::default() })?;
    let list = List::named("names");
    let list = builder.list(list)?;
    let class = Class::plain(Kind::Block, Scope::Exact, list);
    let mut rule = Rule { class, key: RuleKey::Name { name: Name::ROOT, target: None } };
    let mut pushed = 0usize;
    for line in BufReader::new(std::fs::File::open(names)?).lines().take(count) {
        let Ok(name) = Name::from_text(line?.trim()) else { continue };
        if pushed.wrapping_mul(0x9e37_79b9).is_multiple_of(16) && sample.len() < LOOKUPS {
            sample.push(name.to_text().as_str().to_owned());
        }
        pushed += 1;
        rule.key = RuleKey::Name { name, target: None };
        builder.push(&rule)?;
    }
    let push_s = built.elapsed().as_secs_f64();
    let done = builder.finish(&mut |_, _, _| {})?;
    let finish_s = built.elapsed().as_secs_f64() - push_s;
    let report = done.report.clone();
    done.publish()?;
    println!("rules {} of {pushed}, duplicates {}", report.rules, report.duplicates);
    println!("push {push_s:.2} s, finish {finish_s:.2} s, all {:.2} s", built.elapsed().as_secs_f64());
    println!(
        "bytes a rule {:.2}, filters {:.2} of them",
        report.bytes_per_rule(),
        report.filter_bytes as f64 / report.rules as f64
    );
    for line in std::fs::read_to_string("/proc/self/status")?.lines().filter(|line| line.starts_with("VmHWM")) {
        println!("{line}");
    }

    let opened = Instant::now();
    let generation = store.current()?;
    println!("open {:.1} ms", opened.elapsed().as_secs_f64() * 1e3);
    for reads in [Reads::Mapped, Reads::Waiting, Reads::InMemory] {
        let opened = Instant::now();
        let shards = 0..generation.shard_count();
        let mut shards = shards.map(|shard| generation.open_shard(shard, reads)).collect::<Result<Vec<_>, _>>()?;
        let open_ms = opened.elapsed().as_secs_f64() * 1e3;
        let routed: Vec<(&str, u16)> = sample
            .iter()
            .map(|text| {
                (
                    text.as_str(),
                    route::hash(generation.key, &text.parse().unwrap_or(Name::ROOT)).shard(generation.shard_count()),
                )
            })
            .collect();
        let (mut best_us, mut would_wait) = (f64::MAX, 0);
        for _ in 0..5 {
            let started = Instant::now();
            let mut found = 0u64;
            for (text, shard) in &routed {
                let read =
                    shards[usize::from(*shard)].classes_of(text, &mut |class| found += 1 + u64::from(black_box(class)));
                match read {
                    Err(StoreError::WouldWait { .. }) => would_wait += 1,
                    read => read?,
                }
            }
            assert!(found + would_wait >= routed.len() as u64, "every name is listed");
            best_us = best_us.min(started.elapsed().as_secs_f64() * 1e6 / routed.len() as f64);
        }
        println!("{reads:?}: shards opened in {open_ms:.1} ms, lookup {best_us:.2} us, {would_wait} not in memory");
    }
    let hashes: Vec<_> =
        sample.iter().map(|text| route::hash(generation.key, &text.parse().unwrap_or(Name::ROOT))).collect();
    let started = Instant::now();
    let maybe = hashes.iter().filter(|&&hash| generation.filters.contains(hash, Reach::Under)).count();
    let probe_ns = started.elapsed().as_secs_f64() * 1e9 / hashes.len() as f64;
    println!("probe {probe_ns:.1} ns, false positives {:.3} %", maybe as f64 * 100.0 / hashes.len() as f64);
    Ok(())
}
