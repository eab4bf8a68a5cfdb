//! Cores: how fast they run, how deep they sleep, what else runs there, who shares them.

use super::{Fact, Untold, unreadable};
use crate::tune::machine::Machine;

const FOLDER: &str = "/sys/devices/system/cpu";

/// What is known of the cores.
#[derive(Clone, Debug)]
pub struct Cpu {
    /// Those of the workers, in their order.
    pub cores: Vec<Core>,
    /// All that run.
    pub online: Fact<Vec<usize>>,
    /// Cores that the scheduler leaves alone.
    pub isolated: Fact<Vec<usize>>,
    /// Cores whose tick rests.
    pub nohz_full: Fact<Vec<usize>>,
    /// Cores without the work of read-copy-update.
    pub rcu_nocbs: Fact<Vec<usize>>,
}

/// A core of a worker.
#[derive(Clone, Debug)]
pub struct Core {
    /// As the kernel counts.
    pub number: usize,
    /// How its frequency is chosen.
    pub governor: Fact<String>,
    /// How it may sleep.
    pub idle_states: Fact<Vec<IdleState>>,
    /// The threads of its physical core, itself among them.
    pub siblings: Fact<Vec<usize>>,
    /// Its NUMA node.
    pub node: Fact<u64>,
}

/// A way to sleep.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct IdleState {
    /// Its folder's number.
    pub number: u64,
    /// Such as `C6`.
    pub name: String,
    /// Microseconds to wake up from it.
    pub latency_us: u64,
    /// Whether it is switched off.
    pub is_disabled: bool,
}

impl Cpu {
    /// Reads them.
    pub fn read(machine: &Machine<'_>, cores: &[usize]) -> Self {
        let named = |file: &str| {
            let path = format!("{FOLDER}/{file}");
            cpu_list(&path, &machine.read_within(&path, FOLDER, "this kernel cannot do it")?)
        };
        let rcu_nocbs = machine.read("/proc/cmdline").and_then(|line| {
            let value = line.split_whitespace().find_map(|word| word.strip_prefix("rcu_nocbs="));
            value.map_or(Ok(Vec::new()), |cores| match cores {
                "all" => Ok((0..crate::limits::CORES_MAX).collect()),
                cores => cpu_list("rcu_nocbs= of /proc/cmdline", cores),
            })
        });
        Self {
            cores: cores.iter().map(|&number| Core::read(machine, number)).collect(),
            online: named("online"),
            isolated: named("isolated"),
            nohz_full: named("nohz_full"),
            rcu_nocbs,
        }
    }
}

impl Core {
    fn read(machine: &Machine<'_>, number: usize) -> Self {
        let folder = format!("{FOLDER}/cpu{number}");
        let siblings = format!("{folder}/topology/thread_siblings_list");
        let node = machine.entries(&folder).and_then(|entries| {
            let node = entries.iter().find_map(|name| name.strip_prefix("node")?.parse().ok());
            node.ok_or_else(|| Untold::Inapplicable("this machine has one NUMA node".to_owned()))
        });
        Self {
            number,
            governor: machine.read_within(
                &format!("{folder}/cpufreq/scaling_governor"),
                &folder,
                "the frequency is not chosen here, but by the host or the firmware",
            ),
            idle_states: idle_states(machine, &folder),
            siblings: machine.read(&siblings).and_then(|text| cpu_list(&siblings, &text)),
            node,
        }
    }
}

fn idle_states(machine: &Machine<'_>, core: &str) -> Fact<Vec<IdleState>> {
    let folder = format!("{core}/cpuidle");
    let states = machine.entries(&folder).map_err(|untold| match untold {
        Untold::Missing(_) if machine.has(core) => {
            Untold::Inapplicable("how deep cores sleep is not chosen here, but by the host or the firmware".to_owned())
        }
        other => other,
    })?;
    let states = states.iter().filter_map(|state| {
        let folder = format!("{folder}/{state}");
        Some(IdleState {
            number: state.strip_prefix("state")?.parse().ok()?,
            name: machine.read(&format!("{folder}/name")).ok()?,
            latency_us: machine.number(&format!("{folder}/latency")).ok()?,
            is_disabled: machine.number(&format!("{folder}/disable")) == Ok(1),
        })
    });
    Ok(states.collect())
}

/// Reads `0-3,8`; nothing means none.
pub(super) fn cpu_list(what: &str, text: &str) -> Fact<Vec<usize>> {
    let mut cores = Vec::new();
    for part in text.split(',').map(str::trim).filter(|part| !part.is_empty() && *part != "(null)") {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        let (Ok(first), Ok(last)) = (first.parse::<usize>(), last.parse::<usize>()) else {
            // `isolcpus=` has words in front of its numbers.
            if part.chars().all(|c| c.is_ascii_lowercase() || c == '_') {
                continue;
            }
            return unreadable(what, text);
        };
        if first > last || last > 1 << 16 {
            return unreadable(what, text);
        }
        cores.extend(first..=last);
    }
    Ok(cores)
}

/// Reads `00000000,0000000f`, the lowest cores last.
pub(super) fn cpu_mask(what: &str, text: &str) -> Fact<Vec<usize>> {
    let mut cores = Vec::new();
    for (word, hex) in text.trim().rsplit(',').enumerate() {
        let Ok(bits) = u32::from_str_radix(hex, 16) else { return unreadable(what, text) };
        cores.extend((0..32).filter(|bit| bits >> bit & 1 == 1).map(|bit| 32 * word + bit));
    }
    Ok(cores)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_and_masks_of_cores_are_read_as_the_kernel_writes_them() {
        assert_eq!(cpu_list("x", "0-2,5,8-9"), Ok(vec![0, 1, 2, 5, 8, 9]));
        assert_eq!(cpu_list("x", ""), Ok(vec![]));
        assert_eq!(cpu_list("x", "(null)"), Ok(vec![]));
        assert_eq!(cpu_list("x", "managed_irq,domain,1-2"), Ok(vec![1, 2]));
        assert!(cpu_list("x", "3-1").is_err() && cpu_list("x", "0-99999999").is_err() && cpu_list("x", "1,?").is_err());
        assert_eq!(cpu_mask("x", "00000001,80000005"), Ok(vec![0, 2, 31, 32]));
        assert_eq!(cpu_mask("x", "0"), Ok(vec![]));
        assert!(cpu_mask("x", "xyz").is_err() && cpu_mask("x", "").is_err());
    }
}
