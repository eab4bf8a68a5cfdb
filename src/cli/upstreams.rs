//! `corewall upstreams`: how the upstream servers of a running server do.

use super::Failure;
use super::control::{ControlArguments, row, table};
use crate::control::protocol::{Request, UpstreamServer, UpstreamServers, WorkerServer};

/// Stands for a group where rules alone name a server.
const BY_RULES: &str = "(rules)";

/// Asks the server.
pub(super) fn run(control: ControlArguments) -> Result<(), Failure> {
    control.ask_and_print(&Request::Upstreams {}, text)
}

/// A row for each server of each group: the workers' times as a range, their counts added up.
fn text(upstreams: &UpstreamServers) -> String {
    let mut rows = Vec::new();
    for server in &upstreams.servers {
        let groups: Vec<&str> = server.groups.iter().map(String::as_str).collect();
        for group in if groups.is_empty() { vec![BY_RULES] } else { groups } {
            rows.push(server_row(group, server));
        }
    }
    if rows.is_empty() {
        return "no upstream servers\n".to_owned();
    }
    // Within a group they stay in the order of their addresses; what rules name comes last.
    rows.sort_by_key(|row| row.first().map(|group| (group == BY_RULES, group.clone())));
    rows.insert(0, row([&"group", &"server", &"round trip", &"answers", &"time-outs", &"failing in a row", &"down"]));
    table(&rows)
}

fn server_row(group: &str, UpstreamServer { address, workers, .. }: &UpstreamServer) -> Vec<String> {
    let sum = |count: fn(&WorkerServer) -> u64| workers.iter().map(count).sum::<u64>();
    let times: Vec<u64> = workers.iter().filter_map(|worker| worker.round_trip_us).collect();
    let round_trip = match (times.iter().min(), times.iter().max()) {
        (Some(&least), Some(&most)) if ms_text(least) != ms_text(most) => {
            format!("{} to {} ms", ms_text(least), ms_text(most))
        }
        (Some(&least), _) => format!("{} ms", ms_text(least)),
        _ => "-".to_owned(),
    };
    let failures = workers.iter().map(|worker| worker.failures).max().unwrap_or_default();
    let down = match workers.iter().filter(|worker| worker.is_down).count() {
        0 => "no".to_owned(),
        down if down == workers.len() => "yes".to_owned(),
        down => format!("on {down} of {} workers", workers.len()),
    };
    row([&group, address, &round_trip, &sum(|it| it.answers), &sum(|it| it.timeouts), &failures, &down])
}

fn ms_text(us: u64) -> String {
    format!("{:.1}", us as f64 / 1_000.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn worker(core: usize, round_trip_us: Option<u64>, is_down: bool) -> WorkerServer {
        let failures = if is_down { 3 } else { 0 };
        WorkerServer { core, round_trip_us, variation_us: None, answers: 10, timeouts: 2, failures, is_down }
    }

    fn server(address: &str, groups: &[&str], workers: &[WorkerServer]) -> UpstreamServer {
        let groups = groups.iter().map(|group| (*group).to_owned()).collect();
        UpstreamServer { address: address.parse().unwrap(), groups, workers: workers.to_vec() }
    }

    #[test]
    fn each_group_has_a_row_for_each_of_its_servers_with_what_all_workers_found() {
        let servers = vec![
            server("192.0.2.1:53", &[], &[worker(0, None, false)]),
            server(
                "192.0.2.2:53",
                &["default", "block"],
                &[worker(0, Some(900), false), worker(1, Some(12_040), true)],
            ),
            server("192.0.2.3:53", &["default"], &[worker(0, Some(1_000), true), worker(1, Some(1_001), true)]),
        ];
        let wanted = [
            "group    server        round trip      answers  time-outs  failing in a row  down",
            "block    192.0.2.2:53  0.9 to 12.0 ms       20          4                 3  on 1 of 2 workers",
            "default  192.0.2.2:53  0.9 to 12.0 ms       20          4                 3  on 1 of 2 workers",
            "default  192.0.2.3:53  1.0 ms               20          4                 3  yes",
            "(rules)  192.0.2.1:53  -                    10          2                 0  no",
        ];
        // The columns of addresses and times begin with digits: they stand to the right.
        let squeeze = |text: &str| text.split_whitespace().collect::<Vec<_>>().join(" ");
        let told: Vec<String> = text(&UpstreamServers { servers }).lines().map(squeeze).collect();
        assert_eq!(told, wanted.map(squeeze));
        assert_eq!(text(&UpstreamServers { servers: Vec::new() }), "no upstream servers\n");
    }
}
