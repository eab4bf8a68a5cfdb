//! Measures the store on a file of names, one a line: build time, memory, bytes a rule, lookup and probe time.
//!
//! `cargo run --release -p corewall-sharding --example measure -- NAMES [COUNT] [SHARDS] [LAYOUT] [STORE]`

use std::io::{BufRead, BufReader};
use std::time::Instant;

use corewall_sharding::StoreError;
use corewall_sharding::build::{BuildOptions, Builder};
use corewall_sharding::manifest::Layout;
use corewall_sharding::name::Name;
use corewall_sharding::publish::Store;
use corewall_sharding::route::{self, Reach};
use corewall_sharding::rule::{Class, Kind, List, Rule, RuleKey, Scope};

/// Names looked up.
const LOOKUPS: usize = 200_000;
/// Lookups of which one time is taken: shorter than the scheduler's slice, so that the median is that of an undisturbed run.
const BATCH: usize = 500;
/// How often each name is looked up.
const ROUNDS: usize = 5;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut arguments = std::env::args().skip(1);
    let names = arguments.next().ok_or("usage: measure NAMES [COUNT] [SHARDS] [sql | packed] [STORE]")?;
    let count: usize = arguments.next().map_or(Ok(usize::MAX), |count| count.parse())?;
    let shards: u16 = arguments.next().map_or(Ok(16), |shards| shards.parse())?;
    let layout = arguments.next().map_or(Ok(Layout::Sql), |word| {
        let known = Layout::ALL.iter().find(|(_, known)| *known == word);
        known.map(|(layout, _)| *layout).ok_or("the layout is `sql` or `packed`")
    })?;
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
    let mut builder = Builder::new(&store, BuildOptions { shards, layout, ..Default::default() })?;
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
    for mmap in [true, false] {
        let opened = Instant::now();
        let mut shards = generation.open_shards(mmap)?;
        let open_ms = opened.elapsed().as_secs_f64() * 1e3;
        let routed: Vec<(String, u16)> = sample
            .iter()
            .map(|text| {
                (
                    text.clone(),
                    route::hash(generation.key, &text.parse().unwrap_or(Name::ROOT)).shard(generation.shard_count()),
                )
            })
            .collect();
        let mut lookups_us = |names: &[(String, u16)], is_there: bool| -> Result<String, StoreError> {
            let mut batches_us = Vec::new();
            for batch in names.chunks(BATCH).cycle().take(ROUNDS * names.len() / BATCH) {
                let started = Instant::now();
                let mut found = 0u64;
                for (text, shard) in batch {
                    shards[usize::from(*shard)].classes_of(text, &mut |class| found += 1 + u64::from(class))?;
                }
                batches_us.push(started.elapsed().as_secs_f64() * 1e6 / batch.len() as f64);
                assert!(!is_there || found >= batch.len() as u64, "every name is listed");
            }
            batches_us.sort_by(f64::total_cmp);
            Ok(format!("{:.2} us (best {:.2})", batches_us[batches_us.len() / 2], batches_us[0]))
        };
        let there = lookups_us(&routed, true)?;
        // Neighbours of listed names, where a lookup has the most to read.
        let absent: Vec<_> = routed.iter().map(|(text, shard)| (format!("{text}x"), *shard)).collect();
        let absent = lookups_us(&absent, false)?;
        println!("mmap {mmap}: shards opened in {open_ms:.1} ms, lookup {there}, of an absent name {absent}");
    }
    let keys: Vec<(u64, u16)> = sample
        .iter()
        .map(|text| {
            let hash = route::hash(generation.key, &text.parse().unwrap_or(Name::ROOT));
            (hash.filter_key(Reach::Under), hash.shard(generation.shard_count()))
        })
        .collect();
    let started = Instant::now();
    let maybe = keys.iter().filter(|(key, shard)| generation.filters[usize::from(*shard)].contains(*key)).count();
    let probe_ns = started.elapsed().as_secs_f64() * 1e9 / keys.len() as f64;
    println!("probe {probe_ns:.1} ns, false positives {:.3} %", maybe as f64 * 100.0 / keys.len() as f64);
    Ok(())
}
