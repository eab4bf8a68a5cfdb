//! Verdicts of AdGuard's engine on real rules, and what share of them the readers agree with.

use std::collections::BTreeMap;
use std::fs;

use corewall::lists::{Format, Options, SkipReason};
use corewall_sharding::name::Name;
use domain::base::iana::Rtype;

use crate::evaluate::{Rules, Verdict};
use crate::real_data;

/// Share of rows that must agree, in thousandths (the bound).
const AGREE_MIN_PERMILLE: usize = 995;

fn options() -> Options {
    // The engine knows no public suffixes, and little of what is wide.
    Options { allow_public_suffix: true, allow_wide: true, hosts_addresses: true, ..Options::new(0) }
}

fn verdict(rules: &Rules, name: &str, rtype: &str) -> &'static str {
    let Ok(name) = name.parse::<Name>() else { return "none" };
    match rules.verdict(&name, Rtype::from_mnemonic(rtype.as_bytes()).unwrap().to_int()) {
        Verdict::None => "none",
        Verdict::Allow(_) => "allow",
        Verdict::Alias(_) => "rewrite",
        Verdict::Block(rule) if rule.class.answer.is_some() => "rewrite",
        Verdict::Block(_) => "block",
    }
}

/// Whether a row is one of the three spots where two engines of AdGuard's own disagree (MANIFEST of the data).
fn is_known_disagreement(rule: &str, name: &str) -> bool {
    let pattern = rule.split('$').next().unwrap_or_default();
    name.starts_with("_dmarc.")
        || name.split('.').any(|label| label.starts_with('-'))
        || (pattern.starts_with("||") && pattern.ends_with('/'))
}

#[test]
fn single_rules_mean_what_adguards_engine_makes_of_them() {
    let Some(folder) = real_data::folder("vectors-dev") else { return };
    let text = String::from_utf8_lossy(&fs::read(folder.join("micro-dev.tsv")).unwrap()).into_owned();
    let (mut rows, mut agreed, mut known, mut known_agreed) = (0, 0, 0, 0);
    let mut statuses: BTreeMap<(String, String), usize> = BTreeMap::new();
    let mut last = String::new();
    let mut rules = Rules::default();
    for line in text.lines().filter(|line| !line.starts_with("#rule\t")) {
        let [rule, status, name, rtype, expected] = *line.split('\t').collect::<Vec<_>>().as_slice() else {
            panic!("not a row: {line}");
        };
        if rule != last || rows == 0 {
            rules = Rules::read(Format::Adblock, rule.as_bytes(), &options());
            rule.clone_into(&mut last);
            let status = status.split(':').next().unwrap_or_default().to_owned();
            *statuses.entry((status, ours(&rules).to_owned())).or_default() += 1;
        }
        let expected = if expected.starts_with("host,") { "block" } else { expected };
        let found = verdict(&rules, name, rtype);
        rows += 1;
        agreed += usize::from(found == expected);
        if is_known_disagreement(rule, name) {
            known += 1;
            known_agreed += usize::from(found == expected);
        }
        if found != expected {
            println!("{rule}\t{status}\t{name}\t{rtype}\tAdGuard {expected}, here {found} ({})", ours(&rules));
        }
    }
    println!("rows {rows}, agreed {agreed}; of these known disagreements {known}, agreed {known_agreed}");
    for ((theirs, ours), count) in statuses {
        println!("{count:6} rules: AdGuard {theirs}, here {ours}");
    }
    assert!(rows > 40_000);
    assert!((agreed - known_agreed) * 1_000 >= (rows - known) * AGREE_MIN_PERMILLE);
}

/// What became of a list of one rule.
fn ours(rules: &Rules) -> &'static str {
    let counts = &rules.counts;
    if counts.rules > 0 {
        "rule"
    } else if counts.refused_all() > 0 {
        "refused"
    } else if counts.comments > 0 {
        "comment"
    } else {
        let reason = SkipReason::ALL.into_iter().find(|&reason| counts.skipped(reason) > 0);
        match reason {
            Some(SkipReason::Cosmetic | SkipReason::BrowserOnly) => "skipped as not for DNS",
            Some(_) => "skipped as matching no name",
            None => "nothing",
        }
    }
}

#[test]
fn whole_lists_give_adguards_verdicts() {
    let Some(folder) = real_data::folder("vectors-dev") else { return };
    for list in ["adguard-sdn-2019", "dandelion-nordic-agh", "hagezi-pro.mini"] {
        let rules = Rules::read(Format::Adblock, &fs::read(folder.join(list).join("list.txt")).unwrap(), &options());
        let rows = fs::read_to_string(folder.join(list).join("expect-adguard.tsv")).unwrap();
        let (mut total, mut agreed) = (0, 0);
        for row in rows.lines().filter(|row| !row.starts_with("#name\t")) {
            let mut fields = row.split('\t');
            let mut field = || fields.next().unwrap_or_default();
            let (name, rtype, expected, rule) = (field(), field(), field(), field());
            let expected = if expected.starts_with("host,") { "block" } else { expected };
            let found = verdict(&rules, name, rtype);
            total += 1;
            agreed += usize::from(found == expected);
            if found != expected {
                println!("{list}: {name} {rtype}: AdGuard {expected} by {rule}, here {found}");
            }
        }
        println!("{list}: {} rules, rows {total}, agreed {agreed}", rules.rules.len());
        assert!(total > 10_000 && agreed * 1_000 >= total * AGREE_MIN_PERMILLE, "{list}");
    }
}
