//! Verdicts of unbound on a real policy zone and of dnsmasq on a real configuration: all must agree.

use std::fs;

use corewall::lists::{Format, Options};
use corewall_sharding::rule::BlockMode;
use domain::base::iana::Rtype;

use crate::evaluate::{Rules, Verdict, own_mode};
use crate::real_data;

fn compare(format: Format, list: &str, rows: &str) {
    let Some(folder) = real_data::folder("vectors-dev") else { return };
    let folder = folder.join("server");
    let rules = Rules::read(format, &fs::read(folder.join(list)).unwrap(), &Options::new(0));
    let rows = fs::read_to_string(folder.join(rows)).unwrap();
    let (mut total, mut wrong) = (0, 0);
    for row in rows.lines().filter(|row| !row.starts_with('#')) {
        let [name, rtype, expected] = *row.split('\t').collect::<Vec<_>>().as_slice() else {
            panic!("not a row: {row}")
        };
        let name = name.parse().unwrap();
        let found = match rules.verdict(&name, Rtype::from_mnemonic(rtype.as_bytes()).unwrap().to_int()) {
            Verdict::None | Verdict::Allow(_) => "PASS",
            Verdict::Block(rule) if own_mode(rule) == Some(BlockMode::Nxdomain) => "NXDOMAIN",
            _ => "another answer",
        };
        total += 1;
        if found != expected {
            wrong += 1;
            println!("{list}: {row}, here {found}");
        }
    }
    println!("{list}: {} rules, rows {total}, wrong {wrong}", rules.rules.len());
    assert!(total > 7_000 && wrong == 0);
}

#[test]
fn a_policy_zone_gives_unbounds_verdicts() {
    compare(Format::Rpz, "rpz-hagezi-doh.zone", "rpz-unbound-hagezi-doh.tsv");
}

#[test]
fn a_dnsmasq_configuration_gives_dnsmasqs_verdicts() {
    compare(Format::Dnsmasq, "dnsmasq-hagezi-doh.conf", "dnsmasq-hagezi-doh.tsv");
}
