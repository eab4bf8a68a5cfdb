//! Which cores the workers run on: what the configuration names, held against what this machine and this process have.
//!
//! Invariant: every core that [`resolve`] returns exists and is one that this process may run on.

use std::fmt;

use crate::limits::WORKERS_MAX;

/// Cores that no worker can run on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CoresError {
    /// Not on this machine, or not for this process.
    Impossible {
        /// Those that cannot be used.
        wanted: Vec<usize>,
        /// Those that can.
        allowed: Vec<usize>,
    },
    /// More than [`WORKERS_MAX`].
    TooMany(usize),
    /// The kernel does not tell which cores this process may use.
    Unknown,
}

impl fmt::Display for CoresError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Impossible { wanted, allowed } => write!(
                f,
                "cores: cannot use core {}: this process may run on {}; name only those, or widen the process's affinity \
                 (taskset, systemd CPUAffinity=, the container's cpuset)",
                list(wanted),
                list(allowed)
            ),
            Self::TooMany(count) => {
                write!(f, "cores: {count} cores are more than the {WORKERS_MAX} that one process serves; name fewer")
            }
            Self::Unknown => {
                write!(f, "cores: the kernel does not say which cores this process may use (sched_getaffinity failed)")
            }
        }
    }
}

impl std::error::Error for CoresError {}

/// The cores to use on this machine: those `named`, in that order, or without any every core that this process may run on.
pub fn resolve(named: Option<&[usize]>) -> Result<Vec<usize>, CoresError> {
    let ids = core_affinity::get_core_ids().filter(|ids| !ids.is_empty()).ok_or(CoresError::Unknown)?;
    let allowed: Vec<usize> = ids.into_iter().map(|core| core.id).collect();
    among(named, &allowed)
}

fn among(named: Option<&[usize]>, allowed: &[usize]) -> Result<Vec<usize>, CoresError> {
    let Some(named) = named else { return Ok(allowed.iter().copied().take(WORKERS_MAX).collect()) };
    let impossible: Vec<usize> = named.iter().copied().filter(|core| !allowed.contains(core)).collect();
    if !impossible.is_empty() {
        return Err(CoresError::Impossible { wanted: impossible, allowed: allowed.to_vec() });
    }
    if named.len() > WORKERS_MAX {
        return Err(CoresError::TooMany(named.len()));
    }
    Ok(named.to_vec())
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
    fn without_names_every_core_that_the_process_may_use_has_a_worker() {
        assert_eq!(among(None, &ALLOWED), Ok(ALLOWED.to_vec()));
        assert!(!resolve(None).unwrap().is_empty());
    }

    #[test]
    fn named_cores_keep_their_order() {
        assert_eq!(among(Some(&[6, 0]), &ALLOWED), Ok(vec![6, 0]));
    }

    #[test]
    fn an_impossible_core_names_the_possible_ones() {
        let error = among(Some(&[0, 4, 5, 7]), &ALLOWED).unwrap_err();
        assert_eq!(error, CoresError::Impossible { wanted: vec![4, 5, 7], allowed: ALLOWED.to_vec() });
        assert!(error.to_string().contains("cannot use core 4,5,7: this process may run on 0-3,6"), "{error}");
        assert!(resolve(Some(&[usize::MAX])).is_err());
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
