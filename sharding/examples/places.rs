//! Measures what a lookup of a listed name costs: by SQLite, by its places, and by its places with those of a batch fetched before.
//!
//! ```text
//! cargo run --release -p corewall-sharding --example places -- STORE NAMES [LOOKUPS]
//! ```
//!
//! Names are looked up in an order that has nothing to do with the file's, each once, so that hardly anything that one lookup reads
//! is still in the processor's caches for another.

use std::io::{BufRead, BufReader};
use std::time::Instant;

use corewall_sharding::name::Name;
use corewall_sharding::publish::Store;
use corewall_sharding::route::{self, NameHash};
use corewall_sharding::rows::Reads;

/// Names of a batch: what one `recvmmsg` brings.
const BATCH: usize = 32;
/// Lookups when nothing else is said.
const LOOKUPS: usize = 1_000_000;

struct Wanted {
    text: String,
    hash: NameHash,
    shard: u16,
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut arguments = std::env::args().skip(1);
    let usage = "usage: places STORE NAMES [LOOKUPS]";
    let (store, names) = (arguments.next().ok_or(usage)?, arguments.next().ok_or(usage)?);
    let lookups: usize = arguments.next().map_or(Ok(LOOKUPS), |count| count.parse())?;
    let generation = Store::open(store.as_ref())?.current()?;
    let shards = generation.shard_count();
    let started = Instant::now();
    for shard in 0..shards {
        generation.read_directly(shard)?;
    }
    let mib = generation.direct.bytes() >> 20;
    println!("{mib} MiB locked and summed in {:.0} ms", started.elapsed().as_secs_f64() * 1e3);

    // Of all names those whose hash is in a range: as many as are wanted.
    let part = u64::MAX / generation.rule_count().max(1);
    let limit = part.saturating_mul(lookups as u64);
    let mut wanted = Vec::new();
    for line in BufReader::new(std::fs::File::open(names)?).lines() {
        let Ok(name) = Name::from_text(line?.trim()) else { continue };
        let hash = route::hash(generation.key, &name);
        if hash.0.wrapping_mul(0x9e37_79b9_7f4a_7c15) <= limit {
            wanted.push(Wanted { text: name.to_text().as_str().to_owned(), hash, shard: hash.shard(shards) });
        }
    }
    wanted.sort_unstable_by_key(|wanted| wanted.hash.0.reverse_bits());

    let report = |what: &str, ns: &mut Vec<f64>, found: u64| {
        ns.sort_by(f64::total_cmp);
        let quantile = |part: f64| ns[((ns.len() - 1) as f64 * part) as usize];
        let mean = ns.iter().sum::<f64>() / ns.len() as f64;
        println!(
            "{what}: {found} rows, ns a lookup: mean {mean:.0}, p10 {:.0}, median {:.0}, p90 {:.0}",
            quantile(0.1),
            quantile(0.5),
            quantile(0.9)
        );
    };
    for reads in [Reads::Mapped, Reads::InMemory] {
        let mut open = (0..shards).map(|shard| generation.open_shard(shard, reads)).collect::<Result<Vec<_>, _>>()?;
        let (mut ns, mut found) = (Vec::new(), 0);
        for batch in wanted.chunks(BATCH) {
            let started = Instant::now();
            for Wanted { text, shard, .. } in batch {
                open[usize::from(*shard)].classes_of(text, &mut |_| found += 1)?;
            }
            ns.push(started.elapsed().as_secs_f64() * 1e9 / batch.len() as f64);
        }
        report(&format!("SQLite, {reads:?}"), &mut ns, found);
    }
    for is_fetched in [false, true] {
        let (mut ns, mut found) = (Vec::new(), 0);
        for batch in wanted.chunks(BATCH) {
            let started = Instant::now();
            if is_fetched {
                for Wanted { hash, shard, .. } in batch {
                    generation.direct.shard(*shard).into_iter().for_each(|shard| shard.prefetch_places(*hash));
                }
                for Wanted { hash, shard, .. } in batch {
                    generation.direct.shard(*shard).into_iter().for_each(|shard| shard.prefetch_rows(*hash));
                }
            }
            for Wanted { text, hash, shard } in batch {
                let Some(shard) = generation.direct.shard(*shard) else { continue };
                assert!(shard.classes_of(*hash, text, &mut |_| found += 1)?, "no name here has many rows");
            }
            ns.push(started.elapsed().as_secs_f64() * 1e9 / batch.len() as f64);
        }
        report(if is_fetched { "places, batches fetched before" } else { "places" }, &mut ns, found);
    }
    Ok(())
}
