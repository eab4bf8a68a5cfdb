//! What the machine has, read and not judged.
//!
//! Invariant: reading never fails; a fact that could not be had says why ([`Untold`]), in words for whoever reads the report.

mod cpu;
mod irq;
mod net;
mod nic;
mod storage;

use std::collections::BTreeMap;
use std::fmt;

pub use self::cpu::{Core, Cpu, IdleState};
pub use self::irq::{Interrupt, IrqBalance, Steering};
pub use self::nic::{Coalescing, Features, Interface, Kind, Range, Table};
pub use self::storage::{Dataset, Mount};
use super::machine::Machine;
use super::site::Site;
use super::wanted::Sysctl;
use crate::limits::UDP_RECEIVE_BUFFER_BYTES;

/// Something read, or why it could not be.
pub type Fact<T> = Result<T, Untold>;

/// Why something cannot be told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Untold {
    /// There is no such file.
    Missing(String),
    /// Reading it, or asking for it, is not allowed.
    Denied(String),
    /// The program that tells it is not installed.
    NoProgram(String),
    /// It was read and makes no sense, or could not be read for another reason.
    Unreadable(String),
    /// It means nothing on this machine.
    Inapplicable(String),
}

impl fmt::Display for Untold {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Missing(path) => write!(f, "there is no {path} here"),
            Self::Denied(what) => write!(f, "no permission for {what}; ask as root"),
            Self::NoProgram(program) => write!(f, "there is no `{program}` here; install it"),
            Self::Unreadable(what) | Self::Inapplicable(what) => f.write_str(what),
        }
    }
}

/// A text that does not read as was expected.
fn unreadable<T>(what: &str, text: &str) -> Fact<T> {
    Err(Untold::Unreadable(format!("{what} says `{}`, which makes no sense here", super::machine::brief(text))))
}

/// Everything that is compared.
#[derive(Clone, Debug)]
pub struct Facts {
    /// By their keys.
    pub sysctls: BTreeMap<String, Fact<String>>,
    /// Bytes granted of [`UDP_RECEIVE_BUFFER_BYTES`].
    pub receive_buffer: Fact<u64>,
    /// Interfaces that questions come in by, or why none is looked at.
    pub interfaces: Fact<Vec<Interface>>,
    /// Daemons that move interrupts.
    pub irqbalance: Fact<Option<IrqBalance>>,
    /// Cores and their power.
    pub cpu: Cpu,
    /// The setting of transparent huge pages.
    pub transparent_huge_pages: Fact<String>,
    /// Huge pages kept back.
    pub reserved_huge_pages: Fact<u64>,
    /// Bytes of memory.
    pub memory_bytes: Fact<u64>,
    /// Hard limits: locked bytes and open files; none is without a limit.
    pub memlock: Fact<Option<u64>>,
    /// The same of open files.
    pub files: Fact<Option<u64>>,
    /// What the store lies on.
    pub mount: Fact<Mount>,
    /// The clock that is used, and those that could be.
    pub clock: Fact<(String, Vec<String>)>,
    /// `kernel.io_uring_disabled`; none in kernels that cannot switch it off.
    pub io_uring_disabled: Fact<u64>,
    /// Holes of the processor and what the kernel does about them.
    pub vulnerabilities: Fact<BTreeMap<String, String>>,
}

impl Facts {
    /// Reads all of them.
    pub fn read(machine: &Machine<'_>, site: &Site, sysctls: &[Sysctl]) -> Self {
        let cpu = Cpu::read(machine, &site.cores);
        Self {
            sysctls: sysctls.iter().map(|one| (one.key.clone(), read_sysctl(machine, &one.key))).collect(),
            receive_buffer: machine.receive_buffer(UDP_RECEIVE_BUFFER_BYTES),
            interfaces: net::interfaces(machine, site)
                .map(|names| names.into_iter().map(|name| Interface::read(machine, name)).collect()),
            irqbalance: irq::irqbalance(machine),
            cpu,
            transparent_huge_pages: chosen(machine, "/sys/kernel/mm/transparent_hugepage/enabled"),
            reserved_huge_pages: meminfo(machine, "HugePages_Total"),
            memory_bytes: meminfo(machine, "MemTotal").map(|kib| kib * 1_024),
            memlock: limit(machine, site, "Max locked memory"),
            files: limit(machine, site, "Max open files"),
            mount: Mount::read(machine, &site.store),
            clock: clock(machine),
            io_uring_disabled: machine
                .read_within("/proc/sys/kernel/io_uring_disabled", "/proc/sys/kernel", "this kernel has no such switch")
                .and_then(|text| text.parse().or_else(|_| unreadable("kernel.io_uring_disabled", &text))),
            vulnerabilities: vulnerabilities(machine),
        }
    }
}

fn read_sysctl(machine: &Machine<'_>, key: &str) -> Fact<String> {
    // As sysctl(8) does: with slashes it is a path already, in which a dot is a dot.
    let path = if key.contains('/') { key.to_owned() } else { key.replace('.', "/") };
    let folder = format!("/proc/sys/{}", path.rsplit_once('/').map_or("", |(folder, _)| folder));
    let text = machine.read_within(&format!("/proc/sys/{path}"), &folder, "this kernel has no such setting")?;
    Ok(text.split_whitespace().collect::<Vec<_>>().join(" "))
}

/// What stands in brackets among the choices of a file.
fn chosen(machine: &Machine<'_>, path: &str) -> Fact<String> {
    let text = machine.read_within(path, "/sys/kernel/mm", "this kernel has none")?;
    let chosen = text.split_once('[').and_then(|(_, rest)| rest.split_once(']'));
    chosen.map_or_else(|| unreadable(path, &text), |(word, _)| Ok(word.to_owned()))
}

fn meminfo(machine: &Machine<'_>, key: &str) -> Fact<u64> {
    let text = machine.read("/proc/meminfo")?;
    let line = text.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix(':'));
    let number = line.and_then(|line| line.split_whitespace().next()?.parse().ok());
    number.ok_or_else(|| Untold::Unreadable(format!("/proc/meminfo does not tell {key}")))
}

/// A hard limit of the process.
fn limit(machine: &Machine<'_>, site: &Site, name: &str) -> Fact<Option<u64>> {
    let path = site.pid.map_or("/proc/self/limits".to_owned(), |pid| format!("/proc/{pid}/limits"));
    let text = machine.read(&path)?;
    let line = text.lines().find_map(|line| line.strip_prefix(name));
    match line.and_then(|line| line.split_whitespace().nth(1)) {
        Some("unlimited") => Ok(None),
        Some(number) => number.parse().map(Some).or_else(|_| unreadable(&path, number)),
        None => Err(Untold::Unreadable(format!("{path} does not tell `{name}`"))),
    }
}

fn clock(machine: &Machine<'_>) -> Fact<(String, Vec<String>)> {
    const FOLDER: &str = "/sys/devices/system/clocksource/clocksource0";
    let current = machine.read(&format!("{FOLDER}/current_clocksource"))?;
    let available = machine.read(&format!("{FOLDER}/available_clocksource")).unwrap_or_default();
    Ok((current, available.split_whitespace().map(str::to_owned).collect()))
}

fn vulnerabilities(machine: &Machine<'_>) -> Fact<BTreeMap<String, String>> {
    const FOLDER: &str = "/sys/devices/system/cpu/vulnerabilities";
    let names = machine.entries(FOLDER)?;
    let told = names.into_iter().filter_map(|name| {
        let text = machine.read(&format!("{FOLDER}/{name}")).ok()?;
        Some((name, text))
    });
    Ok(told.collect())
}
