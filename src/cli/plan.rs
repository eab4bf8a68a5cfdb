//! `corewall plan`: what a store of so many rules takes, before it is built.
//!
//! Invariant: nothing is measured here and nothing guessed in silence. Every figure follows from constants that were measured
//! (`sharding/README.md`, `README.md`) and from assumptions that are printed with the result; both can be overridden where they
//! differ from one site to the next.

use clap::Args;
use corewall_sharding::build::{BuildOptions, SHARDS_MAX};
use corewall_sharding::manifest::Layout;
use serde::Serialize;

use super::{Failure, print, print_json};

/// Bytes of a rule beside its name in layout `sql`, in pages filled as they are: a million names of 19 characters in 16 shards
/// took 30.8 bytes each with 1.2 of filter and 0.9 of the shards' fixed cost (`sharding/README.md`, Measured).
const SQL_BYTES_BESIDE_NAME: f64 = 9.7;
/// Bytes of a rule with a name of 19 characters in layout `packed`: 3.3 million real names in 16 shards, blocks with their pages'
/// ends and their index, without filter and what a shard takes anyhow (`sharding/README.md`, The packed layout).
const PACKED_BYTES_OF_19: f64 = 6.77;
/// Bytes that a shard takes without rules (`sharding/README.md`: 2,000,000 rules in 16 and in 256 shards).
const SQL_SHARD_BYTES: f64 = 57_000.0;
/// The same in layout `packed`, with the codes.
const PACKED_SHARD_BYTES: f64 = 65_536.0;
/// Bits of a filter for a rule and bit of fingerprint: 9.5 bits where fingerprints have 8.
const FILTER_BITS_PER_BIT: f64 = 9.5 / 8.0;
/// Bytes of a rule's place in layout `sql`: 64 for seven of them.
const PLACE_BYTES: f64 = 64.0 / 7.0;
/// Rules a second and core that a build reads, sorts and writes in layout `sql`: 103.6 million in 66 s on two cores of an Intel
/// Xeon, with 2.5 GB of memory.
const BUILD_RULES_PER_CORE_S: f64 = 785_000.0;
/// Bytes of a rule with a name of 19 characters in a sorted run: 8.6 to 11.0 (`sharding/README.md`, Measured).
const RUN_BYTES_OF_19: f64 = 11.0;
/// Bytes of memory for a key while a filter is made of a shard's keys: the key, and what the construction notes of it.
const FILTER_BUILD_BYTES_PER_KEY: f64 = 38.0;
/// Rules of one shard that a build handles well: its filter is made in a hundred MB.
const RULES_PER_SHARD: u64 = 4_000_000;
/// Shards at least, and what a store has when nobody says otherwise.
const SHARDS_LEAST: u64 = 16;
/// Bytes a second that a disk writes and reads in order: a common NVMe drive's, shared with others.
const DISK_BYTES_PER_S: f64 = 500.0 * MIB;
/// Lookups in a filter for a name: itself, and each name above it, of which names asked have two or three.
const PROBES: f64 = 4.0;
/// Bytes of a page that a cold lookup reads.
const PAGE_BYTES: f64 = 4_096.0;
/// Bytes of memory that the system and the server need beside filters and caches.
const OTHER_BYTES: f64 = 1_024.0 * MIB;
const MIB: f64 = 1_048_576.0;
const GIB: f64 = 1_024.0 * MIB;

/// Tell what a store of so many rules takes: disk, memory, time to build, reads from the disk.
#[derive(Clone, Debug, Args)]
pub struct Arguments {
    /// Rules, such as 1000000000 or 1e9
    #[arg(long, value_name = "N", value_parser = parse_rules)]
    rules: u64,
    /// Cores that serve, a worker on each, and that build
    #[arg(long, value_name = "C", value_parser = clap::value_parser!(u32).range(1..=1024))]
    cores: u32,
    /// Layout of the shards, sql or packed
    #[arg(long, value_name = "LAYOUT", default_value = "sql", value_parser = parse_layout)]
    layout: Layout,
    /// Bits of a fingerprint in the filters, 8 or 16
    #[arg(long, value_name = "BITS", default_value = "8", value_parser = parse_filter_bits)]
    filter_bits: u8,
    /// Mean length of the names
    #[arg(long, value_name = "BYTES", default_value_t = 19, value_parser = clap::value_parser!(u32).range(1..=253))]
    name_bytes: u32,
    /// GiB of memory of the machine
    #[arg(long, value_name = "GIB", default_value_t = 16, value_parser = clap::value_parser!(u32).range(1..=65_536))]
    memory: u32,
    /// MiB of response cache for each worker (`cache.bytes`)
    #[arg(long, value_name = "MIB", default_value_t = 64)]
    cache_mib: u32,
    /// Questions a second
    #[arg(long, value_name = "N", default_value_t = 50_000)]
    qps: u32,
    /// Percent of the questions that the caches answer
    #[arg(long, value_name = "PERCENT", default_value_t = 80, value_parser = clap::value_parser!(u32).range(0..=100))]
    hit_percent: u32,
    /// Percent of the others that a rule speaks of
    #[arg(long, value_name = "PERCENT", default_value_t = 20, value_parser = clap::value_parser!(u32).range(0..=100))]
    listed_percent: u32,
    /// Print the plan as JSON
    #[arg(long)]
    json: bool,
}

/// What it takes.
#[derive(Clone, Debug, PartialEq, Serialize)]
struct Plan {
    rules: u64,
    cores: u32,
    layout: Layout,
    filter_bits: u8,
    /// Shards advised.
    shards: u64,
    /// Bytes on disk of one generation, filters included, places not.
    disk_bytes: f64,
    bytes_per_rule: f64,
    /// Bytes on disk at most: the generation that serves, the one that is built, and the build's sorted runs.
    disk_bytes_while_building: f64,
    /// Places of the rules, beside them.
    places_bytes: f64,
    /// Filters, once for all workers.
    filter_bytes: f64,
    /// Response caches of all workers.
    cache_bytes: f64,
    /// What is left of the memory for the shards' pages; below zero the filters do not fit.
    page_cache_bytes: f64,
    /// Which share of the shards fits there.
    pages_in_memory: f64,
    build_seconds: f64,
    /// Least memory that a build must be given.
    build_bytes_least: f64,
    /// Lookups in the shards.
    store_reads_per_s: f64,
    /// Of these, those that wait for the disk.
    cold_reads_per_s: f64,
    assumptions: Vec<String>,
}

/// Plans and prints.
pub(super) fn run(arguments: Arguments) -> Result<(), Failure> {
    let plan = plan(&arguments);
    if arguments.json { print_json(&plan) } else { print(text(&plan)) }
}

fn plan(wanted: &Arguments) -> Plan {
    let (rules, cores, name_bytes) = (wanted.rules as f64, f64::from(wanted.cores), f64::from(wanted.name_bytes));
    let shards = shards(wanted.rules);
    let (row_bytes, fixed_bytes) = match wanted.layout {
        Layout::Sql => (SQL_BYTES_BESIDE_NAME + name_bytes, SQL_SHARD_BYTES),
        // What front-coding leaves of a name grows with the name.
        Layout::Packed => (PACKED_BYTES_OF_19 * name_bytes / 19.0, PACKED_SHARD_BYTES),
    };
    let filter_bytes = rules * f64::from(wanted.filter_bits) * FILTER_BITS_PER_BIT / 8.0;
    let shard_bytes = rules * row_bytes + shards as f64 * fixed_bytes;
    let disk_bytes = shard_bytes + filter_bytes;
    let options = BuildOptions { layout: wanted.layout, ..BuildOptions::default() };
    let places_bytes = if options.has_places(wanted.rules) { rules * PLACE_BYTES } else { 0.0 };
    let run_bytes = rules * RUN_BYTES_OF_19 * name_bytes / 19.0;
    let cache_bytes = cores * f64::from(wanted.cache_mib) * MIB;
    let page_cache_bytes = f64::from(wanted.memory) * GIB - OTHER_BYTES - filter_bytes - cache_bytes;
    let pages_in_memory = (page_cache_bytes / shard_bytes).clamp(0.0, 1.0);
    let cpu_s = rules / (BUILD_RULES_PER_CORE_S * cores);
    // The lists are read, runs written and read again, shards written and summed.
    let disk_s = (rules * name_bytes + 2.0 * run_bytes + 2.0 * (disk_bytes + places_bytes)) / DISK_BYTES_PER_S;
    let misses = f64::from(wanted.qps) * (1.0 - f64::from(wanted.hit_percent) / 100.0);
    let listed = f64::from(wanted.listed_percent) / 100.0;
    let false_positive = 0.5f64.powi(i32::from(wanted.filter_bits));
    let store_reads_per_s = misses * (listed + (1.0 - listed) * PROBES * false_positive);
    Plan {
        rules: wanted.rules,
        cores: wanted.cores,
        layout: wanted.layout,
        filter_bits: wanted.filter_bits,
        shards,
        disk_bytes,
        bytes_per_rule: disk_bytes / rules.max(1.0),
        disk_bytes_while_building: 2.0 * (disk_bytes + places_bytes) + run_bytes,
        places_bytes,
        filter_bytes,
        cache_bytes,
        page_cache_bytes,
        pages_in_memory,
        build_seconds: cpu_s.max(disk_s),
        build_bytes_least: cores * rules / shards as f64 * FILTER_BUILD_BYTES_PER_KEY + 64.0 * MIB,
        store_reads_per_s,
        cold_reads_per_s: store_reads_per_s * (1.0 - pages_in_memory),
        assumptions: assumptions(wanted),
    }
}

/// A power of two, so that a shard holds at most [`RULES_PER_SHARD`].
fn shards(rules: u64) -> u64 {
    rules.div_ceil(RULES_PER_SHARD).max(1).next_power_of_two().clamp(SHARDS_LEAST, u64::from(SHARDS_MAX))
}

fn assumptions(wanted: &Arguments) -> Vec<String> {
    let Arguments { name_bytes, qps, hit_percent, listed_percent, .. } = wanted;
    let disk = DISK_BYTES_PER_S / MIB;
    vec![
        format!("names of {name_bytes} characters on average (--name-bytes), each a plain rule"),
        match wanted.layout {
            Layout::Sql => format!(
                "{SQL_BYTES_BESIDE_NAME} bytes a rule beside its name, {:.0} KB a shard: measured, sharding/README.md",
                SQL_SHARD_BYTES / 1_000.0
            ),
            Layout::Packed => format!(
                "{PACKED_BYTES_OF_19} bytes a name of 19 characters, {:.0} KB a shard: measured on 3.3 million real names; names \
                 that share less with their neighbours take more, those of larger shards less",
                PACKED_SHARD_BYTES / 1_000.0
            ),
        },
        format!(
            "filters of {:.1} bits a rule, that let {:.3} % of unlisted names pass at each of {PROBES} lookups",
            f64::from(wanted.filter_bits) * FILTER_BITS_PER_BIT,
            100.0 * 0.5f64.powi(i32::from(wanted.filter_bits))
        ),
        format!(
            "a build handles {BUILD_RULES_PER_CORE_S} rules a second and core (measured in layout sql on two cores of an Intel Xeon; packed was not) and the disk {disk} \
             MiB a second in order; it takes the longer of the two"
        ),
        format!(
            "{qps} questions a second (--qps), {hit_percent} % answered from caches (--hit-percent), a rule on {listed_percent} % \
             of the others (--listed-percent), asked evenly over the whole store: real names repeat, so that fewer are cold"
        ),
        format!(
            "a lookup reads one page of {PAGE_BYTES} bytes, for inner pages stay in memory; {:.0} MiB go to the system and the \
             server itself",
            OTHER_BYTES / MIB
        ),
    ]
}

fn text(plan: &Plan) -> String {
    let gib = |bytes: f64| format!("{:.1} GiB", bytes / GIB);
    let mut out = format!(
        "{} rules, layout {}, filters of {} bits, {} cores\n",
        plan.rules,
        plan.layout.word(),
        plan.filter_bits,
        plan.cores
    );
    out += &format!("  shards advised    {}\n", plan.shards);
    out += &format!("  disk              {}, {:.1} bytes a rule\n", gib(plan.disk_bytes), plan.bytes_per_rule);
    if plan.places_bytes > 0.0 {
        let held = plan.disk_bytes - plan.filter_bytes + plan.places_bytes;
        let (places, held) = (gib(plan.places_bytes), gib(held));
        out += &format!(
            "  places            {places} of disk beside it; {held} of memory where the store is held in it\n"
        );
    }
    out += &format!("  disk in a build   {} in all\n", gib(plan.disk_bytes_while_building));
    out += &format!("  filter memory     {}, once for all workers\n", gib(plan.filter_bytes));
    out += &format!("  cache memory      {}\n", gib(plan.cache_bytes));
    out += &if plan.page_cache_bytes < 0.0 {
        format!("  page cache        none: {} of memory are missing\n", gib(-plan.page_cache_bytes))
    } else {
        let percent = 100.0 * plan.pages_in_memory;
        format!("  page cache        {} are left, {percent:.0} % of the shards fit\n", gib(plan.page_cache_bytes))
    };
    out += &format!("  build time        {}\n", duration_text(plan.build_seconds));
    out += &format!("  build memory      {} at least (--memory of the build)\n", gib(plan.build_bytes_least));
    out += &format!("  lookups in shards {:.0} a second\n", plan.store_reads_per_s);
    out += &format!("  cold reads        {:.0} a second\n", plan.cold_reads_per_s);
    out += "assuming\n";
    for assumption in &plan.assumptions {
        out += &format!("  {assumption}\n");
    }
    out
}

fn duration_text(seconds: f64) -> String {
    match seconds {
        _ if seconds < 120.0 => format!("{seconds:.0} s"),
        _ if seconds < 7_200.0 => format!("{:.0} min", seconds / 60.0),
        _ => format!("{:.1} h", seconds / 3_600.0),
    }
}

/// A number, also as `1e9` or with `_` between its digits.
fn parse_rules(text: &str) -> Result<u64, String> {
    let digits = text.replace('_', "");
    let number = match digits.split_once(['e', 'E']) {
        None => digits.parse().ok(),
        Some((digits, power)) => {
            let power = power.parse().ok().and_then(|power| 10u64.checked_pow(power));
            digits.parse::<u64>().ok().zip(power).and_then(|(digits, power)| digits.checked_mul(power))
        }
    };
    number.filter(|number| *number > 0).ok_or_else(|| "write a number above 0, such as 100000000 or 1e8".to_owned())
}

fn parse_layout(text: &str) -> Result<Layout, String> {
    let found = Layout::ALL.iter().find(|(_, word)| *word == text);
    found.map(|(layout, _)| *layout).ok_or_else(|| "there are `sql` and `packed`".to_owned())
}

fn parse_filter_bits(text: &str) -> Result<u8, String> {
    match text {
        "8" => Ok(8),
        "16" => Ok(16),
        _ => Err("there are filters of 8 and of 16 bits".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wanted(rules: u64) -> Arguments {
        Arguments {
            rules,
            cores: 2,
            layout: Layout::Sql,
            filter_bits: 8,
            name_bytes: 19,
            memory: 16,
            cache_mib: 256,
            qps: 50_000,
            hit_percent: 80,
            listed_percent: 20,
            json: false,
        }
    }

    fn near(value: f64, wanted: f64) -> bool {
        (value - wanted).abs() <= 0.02 * wanted
    }

    #[test]
    fn the_plan_of_what_was_measured_is_what_was_measured() {
        // sharding/README.md: a million names of 19 characters, 30.8 bytes a rule with a filter of 1.2.
        let plan = plan(&wanted(1_000_000));
        assert!(near(plan.bytes_per_rule, 30.8), "{plan:?}");
        assert!(near(plan.filter_bytes, 1_187_500.0), "{plan:?}");
        assert_eq!(plan.shards, 16);
        assert!(
            near(plan.places_bytes, 9_143_000.0) && text(&plan).contains("where the store is held in it"),
            "{plan:?}"
        );
        // 103.6 million names of 20 characters: 31.5 bytes a rule, 66 s on two cores.
        let plan = self::plan(&Arguments { name_bytes: 20, ..wanted(103_600_000) });
        assert!(near(plan.bytes_per_rule, 31.5) && near(plan.build_seconds, 66.0), "{plan:?}");
        // 3.3 million real names of 18.9 characters in 16 packed shards: 8.2 bytes a rule.
        let plan = self::plan(&Arguments { layout: Layout::Packed, ..wanted(3_337_881) });
        assert!(plan.shards == 16 && near(plan.bytes_per_rule, 8.2), "{plan:?}");
    }

    #[test]
    fn a_hundred_million_rules() {
        let plan = plan(&wanted(100_000_000));
        assert_eq!(plan.shards, 32);
        // 100e6 x 28.7 + 32 x 57,000 + 100e6 x 1.1875.
        assert!(near(plan.disk_bytes, 2_990_574_000.0), "{plan:?}");
        // 14.5 GiB are free, more than the shards have: no read is cold.
        assert_eq!((plan.pages_in_memory, plan.cold_reads_per_s), (1.0, 0.0));
        // 10,000 misses: 2,000 listed, and 4 / 256 of the other 8,000.
        assert!(near(plan.store_reads_per_s, 2_125.0), "{plan:?}");
        // 100e6 / (2 x 785,000) s of computing; the disk is done sooner.
        assert!(near(plan.build_seconds, 63.7), "{plan:?}");
    }

    #[test]
    fn what_does_not_fit_into_memory_is_read_from_the_disk() {
        let sql = plan(&wanted(1_000_000_000));
        assert_eq!(sql.shards, 256);
        // 16 - 1 - 1.106 - 0.5 GiB are left for 26.7 GiB of shards.
        assert!(near(sql.pages_in_memory, 0.501), "{sql:?}");
        assert!(near(sql.cold_reads_per_s, 2_125.0 * 0.499), "{sql:?}");
        let packed = plan(&Arguments { layout: Layout::Packed, filter_bits: 16, ..wanted(1_000_000_000) });
        assert!(near(packed.bytes_per_rule, 9.16), "{packed:?}");
        assert_eq!((sql.places_bytes, packed.places_bytes), (0.0, 0.0), "too large, and packed");
        assert_eq!(packed.cold_reads_per_s, 0.0, "{packed:?}");
        let tight = plan(&Arguments { memory: 1, ..wanted(1_000_000_000) });
        assert!(tight.page_cache_bytes < 0.0 && tight.pages_in_memory == 0.0);
        assert!(text(&tight).contains("are missing"), "{}", text(&tight));
    }

    #[test]
    fn numbers_of_rules_are_read_as_people_write_them() {
        assert_eq!(
            ["1000", "1e9", "3E8", "100_000_000"].map(|text| parse_rules(text).ok()),
            [Some(1_000), Some(1_000_000_000), Some(300_000_000), Some(100_000_000)]
        );
        for text in ["0", "", "1.5e9", "-1", "1e99", "many"] {
            assert!(parse_rules(text).is_err(), "{text}");
        }
    }
}
