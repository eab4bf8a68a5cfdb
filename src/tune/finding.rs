//! What came out of holding one wanted value against the machine.

use std::fmt;

use serde::Serialize;

/// What a finding is about; each has a file in `tuning/`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Group {
    /// Kernel settings below `/proc/sys`.
    Sysctl,
    /// What the kernel grants a socket.
    Buffers,
    /// Receive queues, rings, hashing, coalescing.
    Nic,
    /// Which core an interrupt or a packet goes to.
    Irq,
    /// Frequency, sleep, isolation, siblings.
    Cpu,
    /// Huge pages, and whether there is enough of it.
    Memory,
    /// Locked memory, open files.
    Limits,
    /// The file system that the store lies on.
    Storage,
    /// The clock that is read for each batch.
    Clock,
    /// io_uring and mitigations.
    Kernel,
}

impl Group {
    /// In the order in which they are told.
    pub const ALL: [Self; 10] = [
        Self::Sysctl,
        Self::Buffers,
        Self::Nic,
        Self::Irq,
        Self::Cpu,
        Self::Memory,
        Self::Limits,
        Self::Storage,
        Self::Clock,
        Self::Kernel,
    ];

    /// As it is written on the command line.
    pub fn word(self) -> &'static str {
        match self {
            Self::Sysctl => "sysctl",
            Self::Buffers => "buffers",
            Self::Nic => "nic",
            Self::Irq => "irq",
            Self::Cpu => "cpu",
            Self::Memory => "memory",
            Self::Limits => "limits",
            Self::Storage => "storage",
            Self::Clock => "clock",
            Self::Kernel => "kernel",
        }
    }
}

impl fmt::Display for Group {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.word())
    }
}

/// How what was found stands to what is wanted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum State {
    /// As wanted.
    Good,
    /// Not as wanted.
    Differs,
    /// Not as suggested, which has a price that somebody has to weigh.
    Optional,
    /// Cannot be told.
    Unknown,
    /// Means nothing on this machine.
    NotApplicable,
}

impl State {
    /// For a table.
    pub fn word(self) -> &'static str {
        match self {
            Self::Good => "good",
            Self::Differs => "differs",
            Self::Optional => "optional",
            Self::Unknown => "unknown",
            Self::NotApplicable => "n/a",
        }
    }
}

/// One wanted value, held against the machine. Its fields are what `corewall tune --json` prints.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// What it is about.
    pub group: Group,
    /// Which value, as its file names it.
    pub name: String,
    /// Which part of the machine: an interface, the store; none when there is only one.
    pub subject: Option<String>,
    /// How it stands.
    pub state: State,
    /// What is wanted.
    pub wanted: String,
    /// What was found; none when it cannot be told or means nothing here.
    pub found: Option<String>,
    /// Why it cannot be told, why it means nothing here, or what else is to be known.
    pub note: Option<String>,
    /// Why it is wanted.
    pub why: String,
    /// Commands that mend it, for root, one after the other; empty when there is nothing to mend.
    pub commands: Vec<String>,
    /// What no command here can do, in words.
    pub by_hand: Option<String>,
    /// Commands that bring back what was found.
    pub undo: Vec<String>,
    /// How long it lasts, and what makes it last longer.
    pub lasting: String,
}

impl Finding {
    /// `group.name`, as `--only` takes it.
    pub fn path(&self) -> String {
        format!("{}.{}", self.group, self.name)
    }

    /// The same with its subject.
    pub fn title(&self) -> String {
        match &self.subject {
            Some(subject) => format!("{} of {subject}", self.path()),
            None => self.path(),
        }
    }
}
