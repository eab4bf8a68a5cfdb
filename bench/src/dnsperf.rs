//! A second opinion: the same names asked by dnsperf, whose figures are not ours. It checks no answer but for its response code.

use std::error::Error;
use std::net::SocketAddr;
use std::path::Path;
use std::process::Command;

use serde::Serialize;

use crate::process;

/// Seconds until dnsperf counts a question as lost.
const TIMEOUT_S: u64 = 3;

/// What dnsperf says, and what it cost the server.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct DnsperfReport {
    /// Questions sent.
    pub sent: u64,
    /// Questions answered.
    pub completed: u64,
    /// Questions without an answer.
    pub lost: u64,
    /// Answers that told of a failure: SERVFAIL or REFUSED.
    pub failed: u64,
    /// Answers a second.
    pub qps: f64,
    /// Mean latency in microseconds.
    pub us_mean: f64,
    /// The server's CPU microseconds per answer.
    pub server_cpu_us_per_answer: f64,
}

/// How dnsperf asks.
#[derive(Clone, Debug)]
pub struct DnsperfOptions<'a> {
    /// Where the server listens.
    pub server: SocketAddr,
    /// Its process.
    pub server_pid: u32,
    /// File of names and types.
    pub names: &'a Path,
    /// Whether the file may be gone through once only.
    pub once: bool,
    /// Seconds to ask.
    pub seconds: u64,
    /// Questions open at a time.
    pub window: usize,
    /// Core to run on.
    pub core: usize,
}

/// Runs dnsperf.
pub fn run(options: &DnsperfOptions<'_>) -> Result<DnsperfReport, Box<dyn Error>> {
    let mut command = Command::new("taskset");
    command.args(["-c", &options.core.to_string(), "dnsperf", "-c", "1", "-T", "1", "-O", "suppress=timeouts"]);
    command.args(["-s", &options.server.ip().to_string(), "-p", &options.server.port().to_string()]);
    command.args(["-l", &options.seconds.to_string(), "-q", &options.window.to_string(), "-t", &TIMEOUT_S.to_string()]);
    command.arg("-d").arg(options.names);
    if options.once {
        command.args(["-n", "1"]);
    }
    let before = process::server_cpu_ns(options.server_pid)?;
    let output = command.output()?;
    let cost_ns = process::server_cpu_ns(options.server_pid)?.saturating_sub(before);
    let said = String::from_utf8_lossy(&output.stdout);
    let Some(report) = parse(&said).filter(|_| output.status.success()) else {
        let complained = String::from_utf8_lossy(&output.stderr);
        return Err(format!("{command:?} failed ({}):\n{said}{complained}", output.status).into());
    };
    Ok(DnsperfReport { server_cpu_us_per_answer: cost_ns as f64 / 1e3 / report.completed.max(1) as f64, ..report })
}

/// Its summary; none when it has another form.
fn parse(said: &str) -> Option<DnsperfReport> {
    let figure = |name: &str| -> Option<f64> {
        let (_, rest) = said.lines().find_map(|line| line.trim().strip_prefix(name)?.split_once(':'))?;
        rest.split_ascii_whitespace().next()?.parse().ok()
    };
    let count = |name| figure(name).map(|figure| figure as u64);
    let codes = said.lines().find_map(|line| line.trim().strip_prefix("Response codes:")).unwrap_or_default();
    let words: Vec<&str> = codes.split_ascii_whitespace().collect();
    let of_code =
        |code: &str| words.windows(2).find(|pair| pair[0] == code).and_then(|pair| pair[1].parse::<u64>().ok());
    Some(DnsperfReport {
        sent: count("Queries sent")?,
        completed: count("Queries completed")?,
        lost: count("Queries lost")?,
        failed: of_code("SERVFAIL").unwrap_or_default() + of_code("REFUSED").unwrap_or_default(),
        qps: figure("Queries per second")?,
        us_mean: figure("Average Latency (s)")? * 1e6,
        server_cpu_us_per_answer: 0.0,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn its_summary_is_read_and_another_one_is_not_guessed_at() {
        let said = "[Status] Command line: dnsperf -l 1\n\nStatistics:\n\n  Queries sent:         101000\n  Queries completed:    100998 (99.99%)\n  \
                    Queries lost:         2 (0.01%)\n\n  Response codes:       NOERROR 100990 (99.99%), SERVFAIL 5 (0.01%), REFUSED 3 (0.01%)\n  \
                    Average packet size:  request 30, response 46\n  Run time (s):         1.000412\n  Queries per second:   100956.4\n\n  \
                    Average Latency (s):  0.000512 (min 0.000021, max 0.004110)\n  Latency StdDev (s):   0.000100\n";
        let report = parse(said).unwrap();
        assert_eq!((report.sent, report.completed, report.lost, report.failed), (101_000, 100_998, 2, 8));
        assert!((report.qps - 100_956.4).abs() < 0.01 && (report.us_mean - 512.0).abs() < 0.01);
        assert_eq!(parse("Queries sent: many"), None);
        assert_eq!(parse(&said.replace("Queries lost:", "Queries gone:")), None);
    }
}
