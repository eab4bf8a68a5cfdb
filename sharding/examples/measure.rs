//! Measures the store on a file of names, one a line: build time, memory, bytes a rule, lookup and probe time.
//!
//! ```text
//! cargo run --release -p corewall-sharding --example measure -- NAMES [OPTION=VALUE]...
//!   count=N       names taken of the file, all when not given
//!   made=N        before each name stand labels of random letters, until there are so many names
//!   shards=N threads=N memory=MIB layout=sql|packed places=true|false store=DIR resume=identity
//! ```

use std::io::{BufRead, BufReader};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Instant;

use corewall_sharding::StoreError;
use corewall_sharding::build::{BuildOptions, BuildStage, Builder, Collector, PartId};
use corewall_sharding::manifest::Layout;
use corewall_sharding::name::Name;
use corewall_sharding::publish::Store;
use corewall_sharding::route::{self, Reach};
use corewall_sharding::rows::Reads;
use corewall_sharding::rule::{Class, Kind, List, Rule, RuleKey, Scope};

/// Names looked up.
const LOOKUPS: usize = 200_000;
/// Lookups of which one time is taken: shorter than the scheduler's slice, so that the median is that of an undisturbed run.
const BATCH: usize = 500;
/// How often each name is looked up.
const ROUNDS: usize = 5;
/// Names of one part.
const PART: usize = 100_000;

/// Name `number` of those that are made of the file's: a random label before one of them.
fn made(names: &[Box<[u8]>], number: usize) -> Name {
    let mut state = (number as u64 + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    state ^= state >> 29;
    state = state.wrapping_mul(0xbf58_476d_1ce4_e5b9);
    state ^= state >> 32;
    let mut wire = vec![5 + (state % 5) as u8];
    let base = &names[(state >> 8) as usize % names.len()];
    for place in 0..wire[0] {
        wire.push(b'a' + ((state >> (5 * place)) % 26) as u8);
    }
    wire.extend_from_slice(base);
    Name::from_wire(&wire).unwrap_or(Name::ROOT)
}

/// The wire octets of the names in a file, of those up to `bytes_max`.
fn read_names(path: &str, count: usize, bytes_max: usize) -> std::io::Result<Vec<Box<[u8]>>> {
    let mut names = Vec::new();
    for line in BufReader::new(std::fs::File::open(path)?).lines() {
        let name = Name::from_text(line?.trim()).ok().filter(|name| name.as_wire().len() <= bytes_max);
        names.extend(name.map(|name| name.as_wire().into()));
        if names.len() == count {
            break;
        }
    }
    Ok(names)
}

/// Pushes part after part until none is left.
fn collect(
    mut collector: Collector,
    next: &AtomicUsize,
    parts: usize,
    count: usize,
    name: impl Fn(usize) -> Name,
) -> Result<(), StoreError> {
    let class = Class::plain(Kind::Block, Scope::Exact, 0);
    let mut rule = Rule { class, key: RuleKey::Name { name: Name::ROOT, target: None } };
    loop {
        let part = next.fetch_add(1, Ordering::Relaxed);
        if part >= parts {
            return collector.finish();
        }
        for number in part * PART..count.min((part + 1) * PART) {
            rule.key = RuleKey::Name { name: name(number), target: None };
            collector.push(&rule)?;
        }
        collector.end_part(PartId { list: 0, part: part as u32 }, Vec::new())?;
    }
}

/// A line of the process's own status, in KiB.
fn memory_kib(field: &str) -> std::io::Result<u64> {
    let status = std::fs::read_to_string("/proc/self/status")?;
    let line = status.lines().find(|line| line.starts_with(field)).unwrap_or_default();
    Ok(line.split_whitespace().nth(1).and_then(|kib| kib.parse().ok()).unwrap_or(0))
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut arguments = std::env::args().skip(1);
    let path = arguments.next().ok_or("usage: measure NAMES [OPTION=VALUE]...")?;
    let (mut count, mut made_count, mut dir) = (usize::MAX, 0usize, None);
    let mut options = BuildOptions::default();
    for argument in arguments {
        let (option, value) = argument.split_once('=').ok_or("options are OPTION=VALUE")?;
        match option {
            "count" => count = value.parse()?,
            "made" => made_count = value.parse()?,
            "shards" => options.shards = value.parse()?,
            "threads" => options.threads = Some(value.parse()?),
            "memory" => options.memory_bytes = value.parse::<u64>()? << 20,
            "layout" => options.layout = if value == "packed" { Layout::Packed } else { Layout::Sql },
            "places" => options.places = Some(value.parse()?),
            "store" => dir = Some(value.into()),
            "resume" => (options.resume, options.identity) = (true, value.into()),
            _ => return Err(format!("unknown option `{option}`").into()),
        }
    }
    let temporary = tempfile::tempdir()?;
    let dir = dir.unwrap_or_else(|| temporary.path().to_path_buf());
    let store = Store::create_or_open(&dir)?;
    // Of short ones, what is made of them is about as long as real names are.
    let names = if made_count > 0 { read_names(&path, 100_000, 15)? } else { read_names(&path, count, 255)? };
    let total = if made_count > 0 { made_count } else { names.len() };
    let name = |number: usize| match made_count {
        0 => Name::from_wire(&names[number]).unwrap_or(Name::ROOT),
        _ => made(&names, number),
    };
    let sample: Vec<String> = (0..total)
        .step_by((total / LOOKUPS).max(1))
        .take(LOOKUPS)
        .map(|number| name(number).to_text().as_str().to_owned())
        .collect();
    let threads = options.threads.unwrap_or_else(|| std::thread::available_parallelism().map_or(1, usize::from));

    // What the build takes comes on top of what the names take; from here on the peak is counted anew.
    std::fs::write("/proc/self/clear_refs", "5")?;
    let before_kib = memory_kib("VmRSS")?;
    let built = Instant::now();
    let mut builder = Builder::new(&store, options)?;
    builder.list(List::named("names"))?;
    println!("{:?}", builder.resumed());
    let (next, parts) = (AtomicUsize::new(0), total.div_ceil(PART));
    std::thread::scope(|scope| {
        let (next, name) = (&next, &name);
        let run = |collector| scope.spawn(move || collect(collector, next, parts, total, name));
        let readers: Vec<_> = (0..threads).map(|_| run(builder.collector())).collect();
        readers
            .into_iter()
            .try_for_each(|reader| reader.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)))
    })?;
    let push_s = built.elapsed().as_secs_f64();
    let mut write_s = 0.0;
    let done = builder.finish(&mut |stage, done, of| {
        if stage == BuildStage::Write && done == of {
            write_s = built.elapsed().as_secs_f64() - push_s;
        }
    })?;
    let finish_s = built.elapsed().as_secs_f64() - push_s;
    let report = done.report.clone();
    done.publish()?;
    println!("rules {} of {total}, duplicates {}", report.rules, report.duplicates);
    println!(
        "push {push_s:.2} s, write {write_s:.2} s, durable after {finish_s:.2} s, all {:.2} s",
        built.elapsed().as_secs_f64()
    );
    println!(
        "{} runs, {:.2} bytes a rule in them",
        report.runs,
        report.spilled_bytes as f64 / (report.rules + report.duplicates) as f64
    );
    println!(
        "bytes a rule {:.2}, filters {:.2} of them; places {:.2} more",
        report.bytes_per_rule(),
        report.filter_bytes as f64 / report.rules as f64,
        report.places_bytes as f64 / report.rules as f64
    );
    println!("memory {} MiB at its peak beside the names", memory_kib("VmHWM")?.saturating_sub(before_kib) >> 10);
    let stat = std::fs::read_to_string("/proc/self/stat")?;
    let ticks: Vec<f64> = stat.split(' ').skip(13).take(2).filter_map(|ticks| ticks.parse().ok()).collect();
    println!(
        "CPU {:.2} us a rule in user mode, {:.2} in the kernel",
        ticks[0] * 1e4 / total as f64,
        ticks[1] * 1e4 / total as f64
    );

    let opened = Instant::now();
    let generation = store.current()?;
    println!("open {:.1} ms", opened.elapsed().as_secs_f64() * 1e3);
    for reads in [Reads::Mapped, Reads::Waiting, Reads::InMemory] {
        let opened = Instant::now();
        let shards = 0..generation.shard_count();
        let mut shards = shards.map(|shard| generation.open_shard(shard, reads)).collect::<Result<Vec<_>, _>>()?;
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
        println!("{reads:?}: shards opened in {open_ms:.1} ms, lookup {there}, of an absent name {absent}");
    }
    let hashes: Vec<_> =
        sample.iter().map(|text| route::hash(generation.key, &text.parse().unwrap_or(Name::ROOT))).collect();
    let started = Instant::now();
    let maybe = hashes.iter().filter(|&&hash| generation.filters.contains(hash, Reach::Under)).count();
    let probe_ns = started.elapsed().as_secs_f64() * 1e9 / hashes.len() as f64;
    println!("probe {probe_ns:.1} ns, false positives {:.3} %", maybe as f64 * 100.0 / hashes.len() as f64);
    Ok(())
}
