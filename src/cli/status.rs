//! `corewall status`: how a running server is.

use super::Failure;
use super::control::{ControlArguments, bytes_text, row, table};
use crate::control::protocol::{DirectStatus, FilterStatus, Request, Status};

/// Asks the server.
pub(super) fn run(control: ControlArguments) -> Result<(), Failure> {
    control.ask_and_print(&Request::Status {}, text)
}

fn text(status: &Status) -> String {
    let Status { program_version, pid, uptime_s, .. } = status;
    let addresses: Vec<String> = status.listen.iter().map(ToString::to_string).collect();
    let mut text = format!(
        "corewall {program_version}, process {pid}, serving for {}\nlistens on {}\n{}{}\n",
        uptime_text(*uptime_s),
        addresses.join(", "),
        filters_text(&status.filters),
        direct_text(&status.shards_in_memory)
    );
    let mut rows = vec![row([
        &"core",
        &"generation",
        &"rules",
        &"live",
        &"live seq",
        &"waiting",
        &"over udp",
        &"over tcp",
        &"connections",
        &"UDP replies",
        &"cached answers",
        &"cache used",
    ])];
    for worker in &status.workers {
        let generation = worker.generation.map_or("-".to_owned(), |number| number.to_string());
        rows.push(row([
            &worker.core,
            &generation,
            &worker.rules,
            &(worker.live_rules + worker.live_voids),
            &worker.live_seq,
            &worker.queries_waiting,
            &worker.udp_received,
            &worker.tcp_received,
            &worker.tcp_connections,
            &worker.udp_sent,
            &worker.cache.entries,
            &bytes_text(worker.cache.bytes_used),
        ]));
    }
    text += &table(&rows);
    let counters = status.counters.iter().filter(|(_, value)| **value > 0).map(|(name, value)| row([name, value]));
    let counters: Vec<Vec<String>> = std::iter::once(row([&"counter", &"since the start"])).chain(counters).collect();
    text + "\n" + &table(&counters)
}

/// A line on the filters; nothing without a store.
fn filters_text(filters: &FilterStatus) -> String {
    let counted = [
        ("verified", filters.verified),
        ("not verified yet", filters.unverified),
        ("rebuilt", filters.rebuilt),
        ("missing", filters.missing),
    ];
    let counted: Vec<String> =
        counted.iter().filter(|(_, count)| *count > 0).map(|(what, count)| format!("{count} {what}")).collect();
    if counted.is_empty() {
        return String::new();
    }
    let mut text = format!("filters of {} bits: {}; ", filters.bits, counted.join(", "));
    match filters.copies {
        0 => text += &format!("{} mapped", bytes_text(filters.file_bytes)),
        1 => text += "one copy in memory",
        copies => text += &format!("{copies} copies in memory"),
    }
    if filters.memory_bytes > 0 {
        let (all, huge) = (bytes_text(filters.memory_bytes), bytes_text(filters.huge_page_bytes));
        text += &format!("; {all} of the process's own memory, of which the system holds {huge} in huge pages");
    }
    text + "\n"
}

/// A line on the shards in memory; nothing without a store.
fn direct_text(direct: &DirectStatus) -> String {
    let DirectStatus { shards, of, bytes, why_not } = direct;
    if *of == 0 {
        return String::new();
    }
    let why_not = if why_not.is_empty() { String::new() } else { format!("; {why_not}") };
    format!("shards in memory: {shards} of {of}, {} locked{why_not}\n", bytes_text(*bytes))
}

/// The two largest units of a time.
fn uptime_text(seconds: u64) -> String {
    let (minutes, hours, days) = (seconds / 60, seconds / 3_600, seconds / 86_400);
    match (days, hours, minutes) {
        (0, 0, 0) => format!("{seconds} s"),
        (0, 0, _) => format!("{minutes} min {} s", seconds % 60),
        (0, ..) => format!("{hours} h {} min", minutes % 60),
        _ => format!("{days} d {} h", hours % 24),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_uptime_is_told_in_its_two_largest_units() {
        let told = [0, 59, 61, 3_599, 7_260, 90_000].map(uptime_text);
        assert_eq!(told, ["0 s", "59 s", "1 min 1 s", "59 min 59 s", "2 h 1 min", "1 d 1 h"]);
    }
}
