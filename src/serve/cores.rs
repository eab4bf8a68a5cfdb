//! Cores as the configuration names them, held against what this machine and this process have.
//!
//! Invariant: what [`among`] returns exists and is what this process may run on.

use std::fmt;
use std::sync::OnceLock;

use crate::limits::WORKERS_MAX;

/// Cores that cannot be used as the configuration says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CoresError {
    /// Not on this machine, or not for this process.
    Impossible {
        /// The option that names them.
        option: &'static str,
        /// Those that cannot be used.
        wanted: Vec<usize>,
        /// Those that can.
        allowed: Vec<usize>,
    },
    /// More than [`WORKERS_MAX`].
    TooMany(usize),
    /// Two hyper-threads of one physical core, which is to have one worker.
    Siblings([usize; 2]),
    /// The kernel does not tell which cores this process may use.
    Unknown,
}

impl CoresError {
    /// The option that is to be changed.
    pub fn option(&self) -> &'static str {
        match self {
            Self::Impossible { option, .. } => option,
            Self::TooMany(_) | Self::Siblings(_) | Self::Unknown => "cores",
        }
    }

    /// What is wrong with it.
    pub fn message(&self) -> String {
        match self {
            Self::Impossible { wanted, allowed, .. } => format!(
                "cannot use core {}: this process may run on {}; name only those, or widen the process's affinity \
                 (taskset, systemd CPUAffinity=, the container's cpuset)",
                list(wanted),
                list(allowed)
            ),
            Self::TooMany(count) => {
                format!("{count} cores are more than the {WORKERS_MAX} that one process serves; name fewer")
            }
            Self::Siblings([one, other]) => format!(
                "{one} and {other} are hyper-threads of one core, and smt = \"skip\" gives a core one worker: name one of \
                 them, or set smt = \"use\""
            ),
            Self::Unknown => {
                "the kernel does not say which cores this process may use (sched_getaffinity failed)".to_owned()
            }
        }
    }
}

impl fmt::Display for CoresError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.option(), self.message())
    }
}

impl std::error::Error for CoresError {}

/// The cores that this process may run on, as they were when this was first asked: later its own threads are pinned, and know no
/// others.
pub fn allowed() -> Result<&'static [usize], CoresError> {
    static ALLOWED: OnceLock<Vec<usize>> = OnceLock::new();
    let cores = ALLOWED
        .get_or_init(|| core_affinity::get_core_ids().unwrap_or_default().into_iter().map(|core| core.id).collect());
    if cores.is_empty() { Err(CoresError::Unknown) } else { Ok(cores) }
}

/// The cores that an option names, in that order.
pub fn among(option: &'static str, named: &[usize], allowed: &[usize]) -> Result<Vec<usize>, CoresError> {
    let wanted: Vec<usize> = named.iter().copied().filter(|core| !allowed.contains(core)).collect();
    if wanted.is_empty() {
        return Ok(named.to_vec());
    }
    Err(CoresError::Impossible { option, wanted, allowed: allowed.to_vec() })
}

/// Numbers as an operator writes them: `0-3,8`.
pub fn list(cores: &[usize]) -> String {
    let mut text = String::new();
    let mut rest = cores;
    while let Some((&first, after)) = rest.split_first() {
        let run = after.iter().zip(first + 1..).take_while(|&(&core, next)| core == next).count();
        if !text.is_empty() {
            text.push(',');
        }
        match run {
            0 => text.push_str(&first.to_string()),
            1 => text.push_str(&format!("{first},{}", first + 1)),
            _ => text.push_str(&format!("{first}-{}", first + run)),
        }
        rest = after.get(run..).unwrap_or_default();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    const ALLOWED: [usize; 5] = [0, 1, 2, 3, 6];

    #[test]
    fn named_cores_keep_their_order() {
        assert_eq!(among("cores", &[6, 0], &ALLOWED), Ok(vec![6, 0]));
        assert!(!allowed().unwrap().is_empty());
    }

    #[test]
    fn an_impossible_core_names_the_possible_ones() {
        let error = among("reader_cores", &[0, 4, 5, 7], &ALLOWED).unwrap_err();
        let (wanted, allowed) = (vec![4, 5, 7], ALLOWED.to_vec());
        assert_eq!(error, CoresError::Impossible { option: "reader_cores", wanted, allowed });
        let text = error.to_string();
        assert!(text.starts_with("reader_cores: cannot use core 4,5,7: this process may run on 0-3,6"), "{text}");
    }

    #[test]
    fn numbers_are_listed_as_an_operator_writes_them() {
        for (cores, text) in
            [(&[0][..], "0"), (&[0, 1], "0,1"), (&[0, 1, 2, 5, 7, 8, 9], "0-2,5,7-9"), (&[3, 1], "3,1")]
        {
            assert_eq!(list(cores), text);
        }
    }
}
