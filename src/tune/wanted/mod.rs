//! What is wanted of a machine, and why: the files of `tuning/`, compiled in, or changed ones from a folder.
//!
//! Invariant: a [`Wanted`] is whole: every value has its reason, and something that mends it. A file that says otherwise is an
//! error with its place. `90-corewall.conf` and `limits.conf` are what the system itself reads (`lines.rs`); the others are
//! TOML, a file for each group, a table for each value (`advice.rs`).

mod advice;
mod lines;

use std::fmt;
use std::io;
use std::path::Path;

use serde::de::DeserializeOwned;

pub use self::advice::{Advice, Buffers, Channels, Clock, Cpu, Irq, KernelValues, Memory, Nic, Rank, Storage, Switch};
pub use self::lines::{Compare, Limit, Sysctl};
use crate::config::ConfigError;

/// The files with what they hold when nobody has changed them.
const FILES: [(&str, &str); 10] = [
    ("90-corewall.conf", include_str!("../../../tuning/90-corewall.conf")),
    ("buffers.conf", include_str!("../../../tuning/buffers.conf")),
    ("nic.conf", include_str!("../../../tuning/nic.conf")),
    ("irq.conf", include_str!("../../../tuning/irq.conf")),
    ("cpu.conf", include_str!("../../../tuning/cpu.conf")),
    ("memory.conf", include_str!("../../../tuning/memory.conf")),
    ("limits.conf", include_str!("../../../tuning/limits.conf")),
    ("storage.conf", include_str!("../../../tuning/storage.conf")),
    ("clock.conf", include_str!("../../../tuning/clock.conf")),
    ("kernel.conf", include_str!("../../../tuning/kernel.conf")),
];

/// Names of the files.
pub fn file_names() -> impl Iterator<Item = &'static str> {
    FILES.iter().map(|(name, _)| *name)
}

/// The text of a file, as it is compiled in.
pub fn embedded(name: &str) -> Option<&'static str> {
    FILES.iter().find(|(known, _)| *known == name).map(|(_, text)| *text)
}

/// The text of a file: of `folder` when it has one, else as it is compiled in.
///
/// # Errors
/// There is no such file here, or it cannot be read.
pub fn text(folder: Option<&Path>, name: &str) -> Result<String, WantedError> {
    let known = embedded(name).ok_or_else(|| WantedError::NoSuchFile(name.to_owned()))?;
    let Some(path) = folder.map(|folder| folder.join(name)) else { return Ok(known.to_owned()) };
    match std::fs::read_to_string(&path) {
        Ok(text) => Ok(text),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(known.to_owned()),
        Err(error) => Err(WantedError::Unreadable(path.display().to_string(), error)),
    }
}

/// Why nothing can be compared.
#[derive(Debug)]
pub enum WantedError {
    /// No file of `tuning/` has this name.
    NoSuchFile(String),
    /// A file is there and cannot be read.
    Unreadable(String, io::Error),
    /// A TOML file is wrong.
    Toml(ConfigError),
    /// A line of the other two is wrong.
    Line {
        /// Where.
        file: String,
        /// From 1.
        line: usize,
        /// What is wrong and what to do.
        message: String,
    },
}

impl fmt::Display for WantedError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoSuchFile(name) => {
                write!(
                    f,
                    "there is no tuning file `{name}`; use one of {}",
                    file_names().collect::<Vec<_>>().join(", ")
                )
            }
            Self::Unreadable(path, error) => {
                write!(f, "{path}: cannot read: {error}; check the path and that this user may read it")
            }
            Self::Toml(error) => error.fmt(f),
            Self::Line { file, line, message } => write!(f, "{file}:{line}: {message}"),
        }
    }
}

impl std::error::Error for WantedError {}

/// Everything that is wanted.
#[derive(Clone, Debug)]
pub struct Wanted {
    /// `90-corewall.conf`.
    pub sysctls: Vec<Sysctl>,
    /// `limits.conf`.
    pub limits: Vec<Limit>,
    /// `buffers.conf`.
    pub buffers: Buffers,
    /// `nic.conf`.
    pub nic: Nic,
    /// `irq.conf`.
    pub irq: Irq,
    /// `cpu.conf`.
    pub cpu: Cpu,
    /// `memory.conf`.
    pub memory: Memory,
    /// `storage.conf`.
    pub storage: Storage,
    /// `clock.conf`.
    pub clock: Clock,
    /// `kernel.conf`.
    pub kernel: KernelValues,
}

impl Wanted {
    /// The files of `folder`, and those compiled in for what it lacks.
    ///
    /// # Errors
    /// A file cannot be read, or is wrong.
    pub fn load(folder: Option<&Path>) -> Result<Self, WantedError> {
        if let Some(folder) = folder {
            // A folder that is mistyped would otherwise mean what is compiled in.
            std::fs::read_dir(folder).map_err(|error| WantedError::Unreadable(folder.display().to_string(), error))?;
        }
        let lines_of = |name: &str| Ok((place(folder, name), text(folder, name)?));
        let (sysctl_file, sysctls) = lines_of("90-corewall.conf")?;
        let (limits_file, limits) = lines_of("limits.conf")?;
        Ok(Self {
            sysctls: lines::parse_sysctls(&sysctl_file, &sysctls)?,
            limits: lines::parse_limits(&limits_file, &limits)?,
            buffers: parsed(folder, "buffers.conf")?,
            nic: parsed(folder, "nic.conf")?,
            irq: parsed(folder, "irq.conf")?,
            cpu: parsed(folder, "cpu.conf")?,
            memory: parsed(folder, "memory.conf")?,
            storage: parsed(folder, "storage.conf")?,
            clock: parsed(folder, "clock.conf")?,
            kernel: parsed(folder, "kernel.conf")?,
        })
    }
}

fn parsed<T: DeserializeOwned>(folder: Option<&Path>, name: &str) -> Result<T, WantedError> {
    let text = text(folder, name)?;
    toml::from_str(&text)
        .map_err(|error| WantedError::Toml(ConfigError::from_toml(Path::new(&place(folder, name)), &text, &error)))
}

/// How a file is called in an error.
fn place(folder: Option<&Path>, name: &str) -> String {
    folder.unwrap_or(Path::new("tuning")).join(name).display().to_string()
}
