//! Measures the filters of a store of COUNT rules over 16 shards, made of random keys: what one name's probes cost, mapped and
//! copied, one after the other and begun together.
//!
//! `cargo run --release -p corewall-sharding --example probe -- [COUNT] [BITS]`
//!
//! The names have three or eight labels, a probe for each and one more, and are not listed. Each name's keys depend on what came of the one
//! before, so that the processor cannot run ahead to the next name: a server has other work between two of them.

use std::hint::black_box;
use std::sync::Arc;
use std::time::Instant;

use corewall_sharding::filter::{Filter, Unverified, file_bytes};
use xorf::{BinaryFuse8Ref, BinaryFuse16Ref, Filter as _, FilterRef};

const SHARDS: u64 = 16;
/// Names asked about in each turn: some milliseconds, so that many turns have the core to themselves.
const NAMES: u64 = 8_000;
/// Turns.
const TURNS: usize = 200;
/// Names whose probes are begun together, as a batch of datagrams may have.
const BATCH: usize = 16;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut arguments = std::env::args().skip(1);
    let count: u64 = arguments.next().map_or(Ok(100_000_000), |count| count.parse())?;
    let bits: u8 = arguments.next().map_or(Ok(8), |bits| bits.parse())?;
    let folder = tempfile::tempdir()?;
    let path = |shard| folder.path().join(format!("{shard}.filter"));
    let started = Instant::now();
    for shard in 0..SHARDS {
        let mut keys: Vec<u64> = (0..count / SHARDS).map(|n| random(shard << 40 | n)).collect();
        keys.sort_unstable();
        keys.dedup();
        std::fs::write(path(shard), file_bytes(&keys, bits, 1, shard as u16).ok_or("no filter was found")?)?;
    }
    println!("{count} keys, {bits} bits: built in {:.1} s", started.elapsed().as_secs_f64());
    let opened = Instant::now();
    let unverified = (0..SHARDS).map(|shard| Unverified::open(&path(shard))).collect::<Result<Vec<_>, _>>()?;
    let opened_us = opened.elapsed().as_secs_f64() * 1e6;
    let verified = Instant::now();
    let mapped = unverified.into_iter().map(|filter| filter.verify().map(Arc::new)).collect::<Result<Vec<_>, _>>()?;
    let bytes: usize = mapped.iter().map(|filter| filter.bytes()).sum();
    println!(
        "{:.1} MiB, {:.2} bits a key; opened in {opened_us:.0} us, verified in {:.0} ms",
        bytes as f64 / f64::from(1 << 20),
        bytes as f64 * 8.0 / count as f64,
        verified.elapsed().as_secs_f64() * 1e3
    );
    let copied = Instant::now();
    let copies: Vec<_> = Filter::copies(&mapped)?.into_iter().map(Arc::new).collect();
    println!("copied in {:.0} ms, {}", copied.elapsed().as_secs_f64() * 1e3, huge_pages()?);
    let files = (0..SHARDS).map(|shard| std::fs::read(path(shard))).collect::<Result<Vec<_>, _>>()?;
    for (place, filters) in [("mapped", &mapped), ("copied", &copies)] {
        compare::<4>(place, filters, &files, bits);
        compare::<9>(place, filters, &files, bits);
    }
    let wrong = (0..1_000_000u64).filter(|n| filter_of(&mapped, random(!n)).contains(random(!n))).count();
    println!("false positives {:.4} %", wrong as f64 / 1e4);
    Ok(())
}

/// Nanoseconds a name in the fastest tenth of the turns: in others this process had to share its core.
fn fastest(mut turn: impl FnMut(u64)) -> f64 {
    let mut all: Vec<f64> = (0..TURNS as u64)
        .map(|number| {
            let started = Instant::now();
            turn(number << 40);
            started.elapsed().as_secs_f64() * 1e9 / NAMES as f64
        })
        .collect();
    all.sort_by(f64::total_cmp);
    all[TURNS / 10]
}

fn measure(ask: impl Fn(u64) -> bool) -> f64 {
    fastest(|mut seed| {
        for _ in 0..NAMES {
            seed = seed.wrapping_add(16 + u64::from(black_box(ask(seed))));
        }
    })
}

/// Asks names of `PROBES - 1` labels in every way. xorf's own probe is given the files as they are read into plain memory.
fn compare<const PROBES: usize>(place: &str, filters: &[Arc<Filter>], files: &[Vec<u8>], bits: u8) {
    println!(
        "{place}, {} labels: xorf {:.0} ns a name, in turn {:.0} ns, begun together {:.0} ns, {BATCH} names begun together \
         {:.0} ns",
        PROBES - 1,
        measure(|seed| by_xorf::<PROBES>(files, bits, seed)),
        measure(|seed| one_by_one::<PROBES>(filters, seed)),
        measure(|seed| together::<PROBES>(filters, seed)),
        measure_batches::<PROBES>(filters),
    );
}

fn by_xorf<const PROBES: usize>(files: &[Vec<u8>], bits: u8, seed: u64) -> bool {
    let mut found = false;
    for probe in 0..PROBES as u64 {
        let key = random(seed + probe);
        let file = &files[((u128::from(key) * u128::from(SHARDS)) >> 64) as usize];
        let (descriptor, fingerprints) = (&file[48..68], &file[128..]);
        found |= match bits {
            8 => BinaryFuse8Ref::from_dma(descriptor, fingerprints).contains(&key),
            _ => BinaryFuse16Ref::from_dma(descriptor, fingerprints).contains(&key),
        };
    }
    found
}

fn one_by_one<const PROBES: usize>(filters: &[Arc<Filter>], seed: u64) -> bool {
    let mut found = false;
    for probe in 0..PROBES as u64 {
        let key = random(seed + probe);
        found |= filter_of(filters, key).contains(key);
    }
    found
}

fn together<const PROBES: usize>(filters: &[Arc<Filter>], seed: u64) -> bool {
    let begun: [_; PROBES] = std::array::from_fn(|probe| {
        let key = random(seed + probe as u64);
        filter_of(filters, key).begin(key)
    });
    begun.into_iter().fold(false, |found, probe| found | probe.may_hold())
}

fn measure_batches<const PROBES: usize>(filters: &[Arc<Filter>]) -> f64 {
    let batch = |seed: u64| {
        let begun: [[_; PROBES]; BATCH] = std::array::from_fn(|name| {
            std::array::from_fn(|probe| {
                let key = random(seed + (name * PROBES + probe) as u64 + (1 << 49));
                filter_of(filters, key).begin(key)
            })
        });
        begun.into_iter().flatten().fold(false, |found, probe| found | probe.may_hold())
    };
    fastest(|mut seed| {
        for _ in 0..NAMES / BATCH as u64 {
            seed = seed.wrapping_add(16 * BATCH as u64 + u64::from(black_box(batch(seed))));
        }
    })
}

fn filter_of(filters: &[Arc<Filter>], key: u64) -> &Filter {
    &filters[((u128::from(key) * u128::from(SHARDS)) >> 64) as usize]
}

/// SplitMix64.
fn random(number: u64) -> u64 {
    let mut hash = number.wrapping_add(1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    hash = (hash ^ hash >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    hash = (hash ^ hash >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
    hash ^ hash >> 31
}

fn huge_pages() -> Result<String, Box<dyn std::error::Error>> {
    let text = std::fs::read_to_string("/proc/self/smaps_rollup")?;
    let told = |line: &&str| line.starts_with("AnonHugePages") || line.starts_with("FilePmdMapped");
    Ok(text
        .lines()
        .filter(told)
        .map(|line| line.split_whitespace().collect::<Vec<_>>().join(" "))
        .collect::<Vec<_>>()
        .join(", "))
}
