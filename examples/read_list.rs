//! How fast a list is read on one core: `cargo run --release --example read_list -- FORMAT FILE [TIMES]`.
//!
//! The file is read into memory first, so that what is measured is the reading of lines and names, not a disk.

use std::time::Instant;

use corewall::lists::{Disabled, Format, Item, Options, read};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut arguments = std::env::args().skip(1);
    let (Some(format), Some(path)) = (arguments.next(), arguments.next()) else {
        return Err("name a format and a file".into());
    };
    let format: Format = format.parse()?;
    let times: u32 = arguments.next().map_or(Ok(3), |times| times.parse())?;
    let text = std::fs::read(path)?;
    for _ in 0..times {
        let started = Instant::now();
        let mut octets = 0usize;
        let counts = read(format, &mut &text[..], &Options::new(0), &Disabled::default(), &mut |item| {
            if let Item::Rule { rule, .. } = &item
                && let corewall_sharding::rule::RuleKey::Name { name, .. } = &rule.key
            {
                octets += name.as_wire().len();
            }
        })?;
        let seconds = started.elapsed().as_secs_f64();
        println!(
            "{} lines, {} rules of {octets} octets in {seconds:.3} s: {:.2} million rules/s, {:.0} MB/s",
            counts.lines,
            counts.rules,
            counts.rules as f64 / seconds / 1e6,
            text.len() as f64 / seconds / 1e6
        );
    }
    Ok(())
}
