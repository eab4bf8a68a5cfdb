//! What a build may use, where the operator has not said: threads, memory, shards.

use std::path::Path;
use std::thread;

use corewall_sharding::build::{SHARDS_DEFAULT, SHARDS_MAX};

use super::input::Input;
use crate::limits;
use crate::lists::Format;

/// The part of the machine's memory that a build uses when nothing is said.
const MEMORY_PART: u64 = 4;
/// Bytes of memory of a machine that does not tell: what any machine has.
const MEMORY_BYTES_UNKNOWN: u64 = 2 << 30;
/// Rules in a shard from which on more shards are made: its filter, while it is made in memory, then takes some 400 MB. Fewer and larger
/// ones are smaller on the disk and sooner in a processor's cache.
const SHARD_RULES: u64 = 12_000_000;
/// Bytes of a rule in a list of names, line end included, as real lists have them.
const RULE_BYTES: u64 = 20;
/// How much smaller archives make lists of names.
const ARCHIVE_RATIO: u64 = 4;
/// What the names of archives that shrink lists end with.
const ARCHIVE_ENDS: [&str; 4] = ["gz", "xz", "zst", "zstd"];

/// Threads that read lists: one a core.
pub fn threads() -> usize {
    thread::available_parallelism().map_or(1, usize::from).min(limits::BUILD_THREADS_MAX)
}

/// Bytes of memory: a quarter of what there is.
pub fn memory_bytes() -> u64 {
    (machine_bytes() / MEMORY_PART).clamp(limits::BUILD_MEMORY_BYTES_MIN, limits::BUILD_MEMORY_BYTES_MAX)
}

/// Bytes of memory that this machine, or the group of processes that this one belongs to, has.
pub fn machine_bytes() -> u64 {
    let machine = std::fs::read_to_string("/proc/meminfo").ok().and_then(|text| total_of(&text));
    // Version 2 and version 1; without a limit there is a word, or a number larger than any memory.
    let groups = ["/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes"];
    let group = groups.iter().filter_map(|path| std::fs::read_to_string(path).ok()?.trim().parse::<u64>().ok()).min();
    [machine, group].into_iter().flatten().min().unwrap_or(MEMORY_BYTES_UNKNOWN)
}

fn total_of(meminfo: &str) -> Option<u64> {
    let line = meminfo.lines().find_map(|line| line.strip_prefix("MemTotal:"))?;
    line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok().map(|kib| kib << 10)
}

/// Shards for these lists, by the size of their files: the same lists give the same number.
pub fn shards(inputs: &[Input<'_>]) -> u16 {
    shards_of(inputs.iter().map(|input| rules_of(&input.spec.path, input.spec.format, input.state.bytes)).sum())
}

fn rules_of(path: &Path, format: Format, bytes: u64) -> u64 {
    let end = path.extension().unwrap_or_default();
    let is_archive = ARCHIVE_ENDS.iter().any(|archive| end.eq_ignore_ascii_case(archive));
    let bytes = if is_archive { bytes.saturating_mul(ARCHIVE_RATIO) } else { bytes };
    // A row has an index beside it.
    let rule_bytes = if format == Format::DnsmasqSqlite { 2 * RULE_BYTES } else { RULE_BYTES };
    bytes / rule_bytes
}

fn shards_of(rules: u64) -> u16 {
    let shards = (rules / SHARD_RULES).clamp(u64::from(SHARDS_DEFAULT), u64::from(SHARDS_MAX)).next_power_of_two();
    u16::try_from(shards).unwrap_or(SHARDS_MAX).min(SHARDS_MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_memory_of_a_machine_is_read() {
        assert_eq!(total_of("MemTotal:       24613704 kB\nMemFree: 1 kB\n"), Some(24_613_704 << 10));
        assert_eq!(total_of("nothing"), None);
        assert!(memory_bytes() >= limits::BUILD_MEMORY_BYTES_MIN);
    }

    #[test]
    fn shards_grow_with_the_lists_in_powers_of_two() {
        for (rules, shards) in [
            (0, 16),
            (100_000_000, 16),
            (300_000_000, 32),
            (1_000_000_000, 128),
            (3_000_000_000, 256),
            (u64::MAX, 4_096),
        ] {
            assert_eq!(shards_of(rules), shards, "{rules} rules");
        }
        assert_eq!(rules_of(Path::new("a.txt"), Format::Plain, 2_000), 100);
        assert_eq!(rules_of(Path::new("a.TXT.XZ"), Format::Plain, 2_000), 400);
    }
}
