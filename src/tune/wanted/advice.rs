//! The TOML files of `tuning/`: a table for each value, with what is wanted, why, and what mends it.
//!
//! The keys of such a table are those of [`Advice`]; `tuning/README.md` tells them to whoever writes one.

use serde::de::{self, Deserializer, MapAccess, Visitor};
use serde::{Deserialize, Serialize};

use crate::tune::template::Template;

/// How much a value matters.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Rank {
    /// Every server wants it.
    #[default]
    Wanted,
    /// It has a price: told, but neither counted nor applied unless it is asked for.
    Optional,
    /// Not looked at.
    Ignored,
}

/// A value that is wanted.
#[derive(Clone, Debug)]
pub struct Advice<T> {
    /// What is wanted.
    pub wanted: T,
    /// Why: what was measured, or what it is taken from.
    pub why: String,
    /// Commands that mend it.
    pub commands: Vec<Template>,
    /// What no command does, in words.
    pub by_hand: Option<Template>,
    /// Commands that bring back what was found.
    pub undo: Vec<Template>,
    /// How long it lasts, and what makes it last longer.
    pub lasting: String,
    /// How much it matters.
    pub rank: Rank,
}

/// As it is written.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Written<T> {
    wanted: T,
    why: String,
    #[serde(default)]
    commands: Vec<Template>,
    #[serde(default)]
    by_hand: Option<Template>,
    #[serde(default)]
    undo: Vec<Template>,
    lasting: String,
    #[serde(default)]
    rank: Rank,
}

impl<'de, T: Deserialize<'de>> Deserialize<'de> for Advice<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let Written { wanted, why, commands, by_hand, undo, lasting, rank } = Written::deserialize(deserializer)?;
        // The text of a file is broken into lines; a finding's is not.
        let flat = |text: &str| text.split_whitespace().collect::<Vec<_>>().join(" ");
        let (why, lasting) = (flat(&why), flat(&lasting));
        if why.is_empty() || lasting.is_empty() {
            return Err(de::Error::custom(
                "`why` and `lasting` are empty; write why it is wanted and how long it lasts",
            ));
        }
        if commands.is_empty() && by_hand.is_none() {
            return Err(de::Error::custom("nothing mends it; write `commands`, or `by_hand` in words"));
        }
        Ok(Self { wanted, why, commands, by_hand, undo, lasting, rank })
    }
}

/// How many queues.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Channels {
    /// One for each worker.
    Workers,
    /// So many.
    Number(u64),
}

impl<'de> Deserialize<'de> for Channels {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Either;
        impl<'de> Visitor<'de> for Either {
            type Value = Channels;
            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("\"workers\" or a number from 1 on")
            }
            fn visit_str<E: de::Error>(self, text: &str) -> Result<Channels, E> {
                match text {
                    "workers" => Ok(Channels::Workers),
                    _ => Err(E::custom(format!("`{text}` is no number of queues; write \"workers\" or a number"))),
                }
            }
            fn visit_i64<E: de::Error>(self, number: i64) -> Result<Channels, E> {
                let number = u64::try_from(number).ok().filter(|number| *number > 0);
                number.map(Channels::Number).ok_or_else(|| E::custom("there are no queues; write 1 or more"))
            }
            fn visit_map<A: MapAccess<'de>>(self, _: A) -> Result<Channels, A::Error> {
                Err(de::Error::custom("a table is no number of queues; write \"workers\" or a number"))
            }
        }
        deserializer.deserialize_any(Either)
    }
}

/// Whether something is on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Switch {
    /// It is.
    On,
    /// It is not.
    Off,
}

impl Switch {
    /// As `ethtool` writes it.
    pub fn word(self) -> &'static str {
        match self {
            Self::On => "on",
            Self::Off => "off",
        }
    }
}

/// Any of these words, the best one first.
type OneOf = Vec<String>;

/// `buffers.conf`.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Buffers {
    /// Percent of what the server asks for that the kernel has to grant.
    pub udp_receive: Advice<u64>,
}

/// `nic.conf`.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Nic {
    /// Receive queues.
    pub combined_queues: Advice<Channels>,
    /// Places of a receive ring at least, as far as the NIC has them.
    pub rx_ring: Advice<u64>,
    /// The same for sending.
    pub tx_ring: Advice<u64>,
    /// What of an IPv4 datagram chooses its queue, in ethtool's letters.
    pub udp4_hash: Advice<String>,
    /// The same for IPv6.
    pub udp6_hash: Advice<String>,
    /// Queues that the indirection table names, evenly.
    pub rss_table: Advice<Channels>,
    /// Whether the driver chooses how often it interrupts.
    pub adaptive_rx: Advice<Switch>,
    /// Microseconds that an interrupt is held back.
    pub rx_usecs: Advice<u64>,
    /// Generic receive offload.
    pub gro: Advice<Switch>,
    /// Large receive offload.
    pub lro: Advice<Switch>,
    /// Pause frames for a full ring.
    pub flow_control_rx: Advice<Switch>,
}

/// `irq.conf`.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Irq {
    /// Whether queue `i` interrupts the core of worker `i`.
    pub affinity: Advice<Switch>,
    /// Whether a daemon may move interrupts on workers' cores.
    pub irqbalance: Advice<Switch>,
    /// Whether packets are steered by software, for NICs with a queue for each worker; those with fewer want the contrary.
    pub rps: Advice<Switch>,
    /// Whether a core sends on the queue of its own.
    pub xps: Advice<Switch>,
}

/// `cpu.conf`.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Cpu {
    /// Frequency governor of workers' cores.
    pub governor: Advice<OneOf>,
    /// Microseconds that a core may take to wake up.
    pub idle_latency_us: Advice<u64>,
    /// Whether the scheduler keeps other work off workers' cores.
    pub isolated: Advice<Switch>,
    /// Whether their timer tick rests while one task runs.
    pub nohz_full: Advice<Switch>,
    /// Whether read-copy-update leaves its work to other cores.
    pub rcu_nocbs: Advice<Switch>,
    /// Workers on the threads of one physical core, at most.
    pub workers_per_core: Advice<u64>,
    /// Whether workers run on the NUMA node of the NIC.
    pub numa_local: Advice<Switch>,
}

/// `memory.conf`.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Memory {
    /// Transparent huge pages.
    pub transparent_huge_pages: Advice<OneOf>,
    /// Huge pages that are kept back for programs that ask for them by name.
    pub reserved_huge_pages: Advice<u64>,
    /// Percent of the memory that caches and filters may take.
    pub share_percent: Advice<u64>,
}

/// `storage.conf`.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Storage {
    /// File systems for the store.
    pub filesystem: Advice<OneOf>,
    /// Whether reading a file writes.
    pub access_times: Advice<OneOf>,
    /// Bytes of a ZFS record at most.
    pub zfs_recordsize: Advice<u64>,
    /// Whether reading a file of a ZFS dataset writes.
    pub zfs_atime: Advice<OneOf>,
    /// Compression of a ZFS dataset.
    pub zfs_compression: Advice<OneOf>,
    /// What of it the ARC keeps.
    pub zfs_primarycache: Advice<OneOf>,
    /// `mmap` of the configuration, on ZFS.
    pub zfs_mmap: Advice<Switch>,
    /// Reader threads of the configuration, on ZFS.
    pub zfs_store_readers: Advice<u64>,
}

/// `clock.conf`.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Clock {
    /// Clocks that are read without a system call.
    pub clocksource: Advice<OneOf>,
}

/// `kernel.conf`.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct KernelValues {
    /// `kernel.io_uring_disabled`.
    pub io_uring_disabled: Advice<u64>,
    /// Mitigations that cost system calls.
    pub mitigations: Advice<String>,
}
