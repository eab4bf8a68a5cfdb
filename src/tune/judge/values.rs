//! Values that are numbers in one place: kernel settings, what a socket is granted, limits of processes.

use crate::limits::UDP_RECEIVE_BUFFER_BYTES;
use crate::tune::facts::{Fact, Facts, Untold};
use crate::tune::finding::{Finding, Group, State};
use crate::tune::site::Site;
use crate::tune::template::quoted;
use crate::tune::wanted::{Buffers, Compare, Limit, Rank, Sysctl};

use super::{Case, Outcome, because, tell};

/// Settings whose need follows from workers and shards.
const MAPPINGS: &str = "vm.max_map_count";

const SYSCTL_LASTING: &str = "until the next start of the machine; `corewall tune --print 90-corewall.conf > \
                              /etc/sysctl.d/90-corewall.conf` makes all of these last";
const LIMIT_LASTING: &str = "for good, from the next login on; a service of systemd has LimitMEMLOCK= and LimitNOFILE= in its unit \
                             instead (tuning/corewall.service)";

pub(super) fn sysctls(wanted: &[Sysctl], facts: &Facts, site: &Site) -> Vec<Finding> {
    let looked_at = wanted.iter().filter(|one| one.rank != Rank::Ignored);
    looked_at.map(|one| sysctl(one, facts.sysctls.get(&one.key), site)).collect()
}

fn sysctl(one: &Sysctl, found: Option<&Fact<String>>, site: &Site) -> Finding {
    // What is needed counts; what is set is the file's value, so that a store that grows need not come back for more.
    let (needed, set) = match one.value.parse::<u64>() {
        Ok(value) if one.key == MAPPINGS => (site.mappings().to_string(), site.mappings().max(value).to_string()),
        _ => (one.value.clone(), one.value.clone()),
    };
    let wanted = match one.compare {
        Compare::Equal => needed.clone(),
        Compare::AtLeast => format!("at least {needed}"),
        Compare::AtMost => format!("at most {needed}"),
        Compare::Covers => format!("a range that holds {needed}"),
    };
    let mut finding = Finding {
        group: Group::Sysctl,
        name: one.key.clone(),
        subject: None,
        state: State::Good,
        wanted,
        found: None,
        note: None,
        why: one.why.clone(),
        commands: Vec::new(),
        by_hand: None,
        undo: Vec::new(),
        lasting: SYSCTL_LASTING.to_owned(),
    };
    match found {
        None => tell(&mut finding, &Untold::Unreadable("it was not read".to_owned())),
        Some(Err(untold)) => tell(&mut finding, untold),
        Some(Ok(found)) => {
            if !holds(one.compare, &needed, found) {
                finding.state = if one.rank == Rank::Optional { State::Optional } else { State::Differs };
                let assign = |value: &str| format!("sysctl -w {}", quoted(&format!("{}={value}", one.key)));
                finding.commands = vec![assign(&set)];
                finding.undo = vec![assign(found)];
            }
            finding.found = Some(found.clone());
        }
    }
    finding
}

/// Whether `found` is what is wanted.
fn holds(compare: Compare, wanted: &str, found: &str) -> bool {
    let numbers = |text: &str| text.split_whitespace().map(|word| word.parse::<u64>().ok()).collect::<Option<Vec<_>>>();
    match (compare, numbers(wanted).as_deref(), numbers(found).as_deref()) {
        (Compare::AtLeast, Some([wanted]), Some([found])) => found >= wanted,
        (Compare::AtMost, Some([wanted]), Some([found])) => found <= wanted,
        (Compare::Covers, Some([low, high]), Some([found_low, found_high])) => found_low <= low && found_high >= high,
        _ => wanted == found,
    }
}

pub(super) fn buffers(wanted: &Buffers, facts: &Facts) -> Option<Finding> {
    let advice = &wanted.udp_receive;
    let asked = UDP_RECEIVE_BUFFER_BYTES as u64;
    let least = asked * advice.wanted / 100;
    let outcome = because(&facts.receive_buffer).map(|&granted| {
        let (least, found) = (least.to_string(), granted.to_string());
        Outcome::one(granted >= asked * advice.wanted / 100, found, &[("wanted", &least)])
    });
    let case = Case { group: Group::Buffers, name: "udp_receive", subject: None };
    case.judge(advice, format!("at least {least} of the {asked} bytes that a socket asks for"), outcome)
}

pub(super) fn limits(wanted: &[Limit], facts: &Facts, site: &Site) -> Vec<Finding> {
    wanted.iter().map(|limit| of_limit(limit, facts, site)).collect()
}

fn of_limit(limit: &Limit, facts: &Facts, site: &Site) -> Finding {
    let is_memory = limit.item == "memlock";
    let (fact, needed, unit) = match is_memory {
        true => {
            (facts.memlock.clone().map(|bytes| bytes.map(|bytes| bytes / 1_024)), site.memlock_bytes() / 1_024, " KiB")
        }
        false => (facts.files.clone(), site.files(), ""),
    };
    let mut finding = Finding {
        group: Group::Limits,
        name: limit.item.clone(),
        subject: Some(site.pid.map_or("this process".to_owned(), |pid| format!("process {pid}"))),
        state: State::Good,
        wanted: format!("at least {needed}{unit}"),
        found: None,
        note: None,
        why: limit.why.clone(),
        commands: Vec::new(),
        by_hand: None,
        undo: Vec::new(),
        lasting: LIMIT_LASTING.to_owned(),
    };
    match fact {
        Err(untold) => tell(&mut finding, &untold),
        Ok(None) => finding.found = Some("unlimited".to_owned()),
        Ok(Some(found)) => {
            finding.found = Some(format!("{found}{unit}"));
            if found < needed {
                let (domain, item, value) = (
                    &limit.domain,
                    &limit.item,
                    limit.value.map_or("unlimited".to_owned(), |value| value.max(needed).to_string()),
                );
                // An underscore sorts behind the dot of corewall.conf: pam_limits goes by what it reads last.
                let file = format!("/etc/security/limits.d/corewall_{item}.conf");
                let line = |kind: &str| quoted(&format!("{domain} {kind} {item} {value}"));
                finding.state = State::Differs;
                finding.commands = vec![format!("printf '%s\\n' {} {} > {file}", line("soft"), line("hard"))];
                finding.undo = vec![format!("rm {file}")];
            }
        }
    }
    finding
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_setting_is_compared_as_its_file_says() {
        for (compare, wanted, found, is_good) in [
            (Compare::Equal, "1", "1", true),
            (Compare::Equal, "1", "2", false),
            (Compare::AtLeast, "10", "9", false),
            (Compare::AtLeast, "10", "18446744073709551615", true),
            (Compare::AtMost, "1", "60", false),
            (Compare::AtMost, "1", "0", true),
            (Compare::Covers, "10240 65535", "1024 65535", true),
            (Compare::Covers, "10240 65535", "32768 60999", false),
            (Compare::AtLeast, "10", "nonsense", false),
            (Compare::Covers, "1 2", "1", false),
        ] {
            assert_eq!(holds(compare, wanted, found), is_good, "{compare:?} {wanted} {found}");
        }
    }
}
