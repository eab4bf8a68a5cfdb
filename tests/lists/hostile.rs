//! Damaged lists: no damage to a line makes a reader panic, or a rule that could not be asked for.

use std::fs;
use std::path::Path;

use corewall::lists::{Disabled, Format, Item, LINE_BYTES_MAX, Options, RefuseReason, find_badfilters, read};
use corewall_sharding::name::Name;
use corewall_sharding::rule::RuleKey;

fn options() -> Options {
    // Nothing is held back by policy, so that all code is reached.
    Options { allow_public_suffix: true, allow_wide: true, hosts_addresses: true, ..Options::new(0) }
}

/// Reads a list and checks what every rule must be.
fn survive(format: Format, text: &[u8]) {
    let mut disabled = Disabled::default();
    find_badfilters(&mut &text[..], &mut disabled).unwrap();
    let counts = read(format, &mut &text[..], &options(), &disabled, &mut |item| {
        if let Item::Rule { rule, .. } = item {
            match &rule.key {
                RuleKey::Name { name, target } => {
                    for name in [Some(*name), *target].into_iter().flatten() {
                        assert_eq!(Name::from_wire(name.as_wire()), Ok(name));
                        assert_eq!(Name::from_text(&name.to_string()), Ok(name));
                    }
                }
                RuleKey::Pattern { regex, .. } => assert!(!regex.is_empty()),
                RuleKey::Address { net, .. } => assert_eq!(*net, net.trunc()),
            }
        }
    })
    .unwrap();
    assert!(counts.lines <= text.len() as u64 + 1);
}

fn cases() -> Vec<(Format, Vec<u8>)> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/lists/cases");
    let paths = crate::files::below(&folder);
    let list = paths.iter().filter_map(|path| {
        let format = path.extension()?.to_str()?.parse().ok()?;
        Some((format, fs::read(path).unwrap()))
    });
    list.collect()
}

#[test]
fn every_truncation_of_every_line_is_survived() {
    for (format, text) in cases() {
        for line in text.split(|&octet| octet == b'\n') {
            let cut: Vec<&[u8]> = (0..line.len()).map(|end| &line[..end]).collect();
            survive(format, &cut.join(&b'\n'));
        }
        for end in (0..text.len()).step_by(37) {
            survive(format, &text[..end]);
        }
    }
}

#[test]
fn every_bit_flip_of_every_line_is_survived() {
    for (format, text) in cases() {
        for line in text.split(|&octet| octet == b'\n') {
            let mut flipped = Vec::new();
            for bit in 0..line.len() * 8 {
                let mut damaged = line.to_vec();
                damaged[bit / 8] ^= 1 << (bit % 8);
                flipped.push(damaged);
            }
            survive(format, &flipped.join(&b'\n'));
        }
    }
}

#[test]
fn every_format_survives_the_lists_of_every_other() {
    let cases = cases();
    for (format, _) in Format::ALL.into_iter().filter(|(format, _)| *format != Format::DnsmasqSqlite) {
        for (_, text) in &cases {
            survive(format, text);
        }
        for octet in 0..=255u8 {
            survive(format, &[octet; 300]);
            survive(format, &[b'a', octet, b'.', b'b', octet, b'\n', octet]);
        }
    }
}

#[test]
fn a_line_over_the_bound_is_refused_and_the_next_one_read() {
    let text = [vec![b'a'; LINE_BYTES_MAX + 1], b"\nnext.example".to_vec()].concat();
    let mut found = Vec::new();
    let counts = read(Format::Plain, &mut &text[..], &options(), &Disabled::default(), &mut |item| match item {
        Item::Rule { .. } => found.push("rule".to_owned()),
        Item::Refused { line, text, reason } => found.push(format!("{line} {reason} {}", text.len())),
        _ => {}
    })
    .unwrap();
    assert_eq!(found, ["1 line too long 200", "rule"]);
    assert_eq!(counts.refused(RefuseReason::LineTooLong), 1);
}
