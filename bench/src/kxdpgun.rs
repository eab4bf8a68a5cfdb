//! What kxdpgun reports: the load generator of Knot DNS, whose packets go past the client's network stack.
//!
//! It counts answers and their response codes and looks at nothing else in them: what is in the answers is for others to check.

use std::collections::BTreeMap;

use serde::Serialize;

/// A run of kxdpgun.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Shots {
    /// Questions sent.
    pub sent: u64,
    /// Answers that came back while it ran.
    pub answered: u64,
    /// Answers by response code.
    pub codes: BTreeMap<String, u64>,
    /// Octets of an answer, on average.
    pub answer_bytes: u64,
    /// Seconds.
    pub seconds: f64,
}

impl Shots {
    /// Reads what it prints.
    ///
    /// # Errors
    /// Something that is counted on is not told.
    pub fn parse(text: &str) -> Result<Self, String> {
        let first_number = |label: &str| {
            let told = text.lines().find_map(|line| line.trim().strip_prefix(label))?;
            told.split_ascii_whitespace().next()?.parse::<f64>().ok()
        };
        let needed = |label| first_number(label).ok_or_else(|| format!("kxdpgun does not tell `{label}`:\n{text}"));
        let code = |line: &str| {
            let (code, count) = line.trim().strip_prefix("responded ")?.split_once(':')?;
            Some((code.to_owned(), count.trim().parse().ok()?))
        };
        Ok(Self {
            sent: needed("total queries:")? as u64,
            answered: needed("total replies:")? as u64,
            codes: text.lines().filter_map(code).collect(),
            // Told only when there was an answer.
            answer_bytes: first_number("average DNS reply size:").unwrap_or_default() as u64,
            seconds: needed("duration:")?,
        })
    }

    /// Questions a second.
    pub fn sent_per_second(&self) -> f64 {
        self.sent as f64 / self.seconds
    }

    /// Answers a second.
    pub fn answered_per_second(&self) -> f64 {
        self.answered as f64 / self.seconds
    }

    /// The part of the questions without an answer.
    pub fn loss(&self) -> f64 {
        1.0 - self.answered as f64 / self.sent.max(1) as f64
    }

    /// Answers with a code other than `NOERROR`.
    pub fn refused(&self) -> u64 {
        self.codes.iter().filter(|(code, _)| *code != "NOERROR").map(|(_, count)| count).sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_report_is_read() {
        let text = "using interface cwb-c, XDP threads 1, UDP, native mode\nthread#00: sent 600000, received 410871\n\
                    total queries:     600000 (200000 pps)\ntotal replies:     410871 (136957 pps) (68%)\n\
                    average DNS reply size: 52 B\naverage Ethernet reply rate: 15097152 bps (15.10 Mbps)\n\
                    responded NOERROR:   410000\nresponded SERVFAIL:   871\nduration: 3 s\n";
        let shots = Shots::parse(text).unwrap();
        assert_eq!((shots.sent, shots.answered, shots.answer_bytes, shots.refused()), (600_000, 410_871, 52, 871));
        assert_eq!((shots.sent_per_second(), shots.answered_per_second()), (200_000.0, 136_957.0));
        assert!((shots.loss() - 0.315).abs() < 0.001);
    }

    #[test]
    fn silence_is_loss_and_no_report_is_an_error() {
        let silent = "total queries:     10 (10 pps)\ntotal replies:     0 (0 pps) (0%)\nduration: 1 s\n";
        let shots = Shots::parse(silent).unwrap();
        assert_eq!((shots.loss(), shots.refused(), shots.answer_bytes), (1.0, 0, 0));
        assert!(Shots::parse("failed to initialize XDP socket#0 (Operation not permitted)\n").is_err());
    }
}
