//! Whether this machine lets the workers run, looked at before the first one starts.
//!
//! The executor panics its thread when io_uring is forbidden and fails without a remedy when too little memory may be
//! locked, so both are tried here first, and what to change is said in plain words.

use std::fmt;
use std::fs;
use std::io;

use super::kernel;

/// Bytes of memory that the executor must be allowed to lock, for its rings.
pub(crate) const MEMLOCK_BYTES_MIN: u64 = 512 * 1024;
/// Files that one worker may hold open at most beside its TCP clients' connections: sockets, shards, upstream connections.
const FILES_PER_WORKER: u64 = 4_096;
/// Where the kernel says who may use io_uring: 0 everyone, 1 a group, 2 nobody.
const IO_URING_DISABLED: &str = "/proc/sys/kernel/io_uring_disabled";

/// Why no worker can run here.
#[derive(Debug)]
pub enum ProbeError {
    /// The kernel has no io_uring.
    NoIoUring,
    /// io_uring is switched off by the administrator.
    IoUringDisabled {
        /// Value of `kernel.io_uring_disabled`.
        level: u8,
    },
    /// io_uring is refused by a filter: a container's seccomp profile, or a security module.
    IoUringFiltered,
    /// io_uring fails for another reason.
    IoUring(io::Error),
    /// The memlock limit is too low and cannot be raised.
    Memlock {
        /// Hard limit in bytes.
        hard: u64,
    },
}

impl fmt::Display for ProbeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoIoUring => write!(
                f,
                "this kernel has no io_uring, which every worker needs; run Linux 5.8 or newer, built with CONFIG_IO_URING"
            ),
            Self::IoUringDisabled { level } => write!(
                f,
                "io_uring is switched off on this machine (kernel.io_uring_disabled = {level}); \
                 allow it with `sysctl -w kernel.io_uring_disabled=0`{}",
                if *level == 1 { ", or run as a member of the group in kernel.io_uring_group" } else { "" }
            ),
            Self::IoUringFiltered => write!(
                f,
                "io_uring is refused to this process, most likely by the container's seccomp profile; allow io_uring_setup, \
                 io_uring_enter and io_uring_register in it (docker run --security-opt seccomp=..., podman likewise), or run \
                 on the host"
            ),
            Self::IoUring(error) => write!(f, "io_uring cannot be set up: {error}; `dmesg` may tell more"),
            Self::Memlock { hard } => write!(
                f,
                "this process may lock {} KiB of memory, a worker needs {} KiB for its rings; raise the limit with \
                 `ulimit -l {}`, LimitMEMLOCK= in the systemd unit, or --ulimit memlock= of the container",
                hard / 1024,
                MEMLOCK_BYTES_MIN / 1024,
                MEMLOCK_BYTES_MIN / 1024
            ),
        }
    }
}

impl std::error::Error for ProbeError {}

/// Tries what the workers, each with so many connections with TCP clients, will need.
pub fn probe(workers: usize, tcp_connections: usize) -> Result<(), ProbeError> {
    raise_memlock()?;
    raise_files(files_wanted(workers, tcp_connections));
    match kernel::set_up_ring() {
        Ok(()) => Ok(()),
        Err(error) => Err(judge(error, disabled_level())),
    }
}

/// Open files that so many workers ask for.
pub(crate) fn files_wanted(workers: usize, tcp_connections: usize) -> u64 {
    (FILES_PER_WORKER + tcp_connections as u64).saturating_mul(workers as u64)
}

/// What a refusal means, with the value of `kernel.io_uring_disabled` where there is one.
fn judge(error: io::Error, level: Option<u8>) -> ProbeError {
    match (error.raw_os_error(), level) {
        (Some(libc::ENOSYS), _) => ProbeError::NoIoUring,
        (Some(libc::EPERM), Some(level @ 1..)) => ProbeError::IoUringDisabled { level },
        (Some(libc::EPERM | libc::EACCES), _) => ProbeError::IoUringFiltered,
        // Kernels before 5.12 count the rings against the limit.
        (Some(libc::ENOMEM), _) => ProbeError::Memlock { hard: kernel::limit(kernel::Resource::Memlock).1 },
        _ => ProbeError::IoUring(error),
    }
}

fn disabled_level() -> Option<u8> {
    fs::read_to_string(IO_URING_DISABLED).ok()?.trim().parse().ok()
}

fn raise_memlock() -> Result<(), ProbeError> {
    let (soft, hard) = kernel::limit(kernel::Resource::Memlock);
    if soft >= MEMLOCK_BYTES_MIN {
        return Ok(());
    }
    // The executor looks at the soft limit, and everyone may raise that up to the hard one.
    if hard >= MEMLOCK_BYTES_MIN && kernel::raise(kernel::Resource::Memlock, hard, hard).is_ok() {
        return Ok(());
    }
    Err(ProbeError::Memlock { hard })
}

/// Files are not worth a refusal: a worker that runs out of them says so and goes on with what it has.
fn raise_files(wanted: u64) {
    let (soft, hard) = kernel::limit(kernel::Resource::Files);
    if soft >= wanted {
        return;
    }
    let reached = wanted.min(hard);
    if kernel::raise(kernel::Resource::Files, reached, hard).is_err() || reached < wanted {
        tracing::warn!(wanted, allowed = reached, "few open files are allowed; raise `ulimit -n` or LimitNOFILE=");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn said(errno: i32, level: Option<u8>) -> String {
        judge(io::Error::from_raw_os_error(errno), level).to_string()
    }

    #[test]
    fn each_refusal_says_what_to_change() {
        assert!(said(libc::ENOSYS, None).contains("Linux 5.8"));
        assert!(said(libc::EPERM, Some(2)).contains("sysctl -w kernel.io_uring_disabled=0"));
        assert!(said(libc::EPERM, Some(1)).contains("kernel.io_uring_group"));
        assert!(said(libc::EPERM, Some(0)).contains("seccomp"));
        assert!(said(libc::EPERM, None).contains("seccomp"));
        assert!(said(libc::ENOMEM, None).contains("ulimit -l 512"));
        assert!(said(libc::EMFILE, Some(0)).contains("cannot be set up"));
    }
}
