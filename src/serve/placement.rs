//! Which thread runs on which cores: workers, the threads that read for them, and everything else of this process.
//!
//! Invariants: every core that is named here exists and is one that this process may run on; there is a worker on at least one,
//! and neither readers nor control threads are without a core. Where the configuration leaves it open, they keep away from
//! workers as far as there is room: from their physical cores, else from their hyper-threads.

use std::fmt::Write;

use serde::{Deserialize, Serialize};

use super::cores::{self, CoresError};
use super::topology::{Machine, Node};

/// What becomes of hyper-threads.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Smt {
    /// Each is a core like any other.
    #[default]
    Use,
    /// A physical core has one worker at most.
    Skip,
}

/// What the configuration says; none is `auto`.
#[derive(Clone, Copy, Debug, Default)]
pub struct Wishes<'a> {
    /// The workers' cores.
    pub cores: Option<&'a [usize]>,
    /// Those of the threads that read for them.
    pub reader_cores: Option<&'a [usize]>,
    /// Those of all other threads.
    pub control_cores: Option<&'a [usize]>,
    /// What becomes of hyper-threads.
    pub smt: Smt,
}

/// Where reader threads run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ReaderCores {
    /// On these.
    These(Vec<usize>),
    /// On these but for that of the worker whom they read for, if there is another: every core has a worker.
    ButTheirWorkers(Vec<usize>),
}

impl ReaderCores {
    /// Those of the threads that read for the worker on this core.
    pub fn of_worker(&self, core: usize) -> Vec<usize> {
        match self {
            Self::ButTheirWorkers(cores) if cores.len() > 1 => {
                cores.iter().copied().filter(|other| *other != core).collect()
            }
            Self::These(cores) | Self::ButTheirWorkers(cores) => cores.clone(),
        }
    }
}

/// Which thread runs where.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Placement {
    /// One worker on each, in this order.
    pub workers: Vec<usize>,
    /// Hyper-threads of workers' cores that have no worker.
    pub siblings: Vec<usize>,
    /// The threads that read for workers.
    pub readers: ReaderCores,
    /// All other threads.
    pub control: Vec<usize>,
    nodes: Vec<Node>,
}

impl Placement {
    /// What the wishes come to on this machine, for a process that may run on `allowed`.
    ///
    /// # Errors
    /// A core is named that cannot be used, or both threads of one that should have one worker.
    pub fn resolve(wishes: Wishes<'_>, machine: &Machine, allowed: &[usize]) -> Result<Self, CoresError> {
        let workers = workers(wishes, machine, allowed)?;
        let has_none = |core: &usize| !workers.contains(core);
        let near: Vec<usize> = workers.iter().flat_map(|&core| machine.siblings(core)).filter(has_none).collect();
        let free: Vec<usize> = allowed.iter().copied().filter(has_none).collect();
        let away: Vec<usize> = free.iter().copied().filter(|core| !near.contains(core)).collect();
        let left = if away.is_empty() { free } else { away };
        let readers = match wishes.reader_cores {
            Some(named) => ReaderCores::These(cores::among("reader_cores", named, allowed)?),
            None if left.is_empty() => ReaderCores::ButTheirWorkers(allowed.to_vec()),
            None => ReaderCores::These(left.clone()),
        };
        let control = match wishes.control_cores {
            Some(named) => cores::among("control_cores", named, allowed)?,
            None if left.is_empty() => allowed.to_vec(),
            None => left,
        };
        let mut siblings: Vec<usize> = near.into_iter().filter(|core| allowed.contains(core)).collect();
        siblings.sort_unstable();
        siblings.dedup();
        Ok(Self { workers, siblings, readers, control, nodes: machine.nodes() })
    }

    /// For an operator, a line each for workers, readers and everything else.
    pub fn describe(&self) -> Vec<String> {
        let mut workers = format!("workers on {}", self.with_nodes(&self.workers));
        if !self.siblings.is_empty() {
            // Writing to a text cannot fail.
            let _ = write!(workers, "; no worker on their hyper-threads {}", cores::list(&self.siblings));
        }
        let readers = match &self.readers {
            ReaderCores::These(cores) => format!("reader threads on {}", self.with_nodes(cores)),
            ReaderCores::ButTheirWorkers(cores) => {
                format!("reader threads on {}, each but on its own worker's", self.with_nodes(cores))
            }
        };
        vec![workers, readers, format!("control threads on {}", self.with_nodes(&self.control))]
    }

    /// `core 0-3 (NUMA node 0), 8 (node 1)`.
    fn with_nodes(&self, cores: &[usize]) -> String {
        let mut rest = cores.to_vec();
        let mut parts = Vec::new();
        for node in &self.nodes {
            let (here, elsewhere): (Vec<usize>, Vec<usize>) = rest.iter().partition(|core| node.cores.contains(core));
            if !here.is_empty() {
                parts.push(format!("{} (NUMA node {})", cores::list(&here), node.number));
            }
            rest = elsewhere;
        }
        if !rest.is_empty() {
            parts.push(cores::list(&rest));
        }
        format!("core{} {}", if cores.len() == 1 { "" } else { "s" }, parts.join(", "))
    }
}

fn workers(wishes: Wishes<'_>, machine: &Machine, allowed: &[usize]) -> Result<Vec<usize>, CoresError> {
    let shared = |core: usize, taken: &[usize]| {
        let siblings = machine.siblings(core);
        taken.iter().copied().find(|other| wishes.smt == Smt::Skip && siblings.contains(other))
    };
    let mut workers = Vec::new();
    match wishes.cores {
        None => {
            for &core in allowed {
                if shared(core, &workers).is_none() {
                    workers.push(core);
                }
            }
            workers.truncate(crate::limits::WORKERS_MAX);
        }
        Some(named) => {
            for core in cores::among("cores", named, allowed)? {
                if let Some(other) = shared(core, &workers) {
                    return Err(CoresError::Siblings([other, core]));
                }
                workers.push(core);
            }
            if workers.len() > crate::limits::WORKERS_MAX {
                return Err(CoresError::TooMany(workers.len()));
            }
        }
    }
    Ok(workers)
}

#[cfg(test)]
mod tests;
