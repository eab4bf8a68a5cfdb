//! Why the server cannot start, or had to stop, in words for whoever has to set it right.

use std::fmt;
use std::io;
use std::net::SocketAddr;

use super::probe::ProbeError;
use super::steering::Steering;
use crate::control::socket::SocketError;
use crate::limits::START_MS_MAX;

/// Why the server cannot start, or had to stop. Each is shown to the operator as it is.
#[derive(Debug)]
pub enum ServeError {
    /// The machine does not let workers run.
    Probe(ProbeError),
    /// Nothing to serve on, or too much of it.
    Plan(String),
    /// An address cannot be listened on.
    Listen {
        /// Which.
        address: SocketAddr,
        /// `UDP` or `TCP`.
        transport: &'static str,
        /// Why.
        source: io::Error,
    },
    /// The kernel does not take the program that was asked for.
    Steering {
        /// For which address.
        address: SocketAddr,
        /// What was asked for.
        steering: Steering,
        /// Why.
        source: io::Error,
    },
    /// The control socket cannot be made.
    Control(SocketError),
    /// The store, or something made of it, cannot be used.
    Store(String),
    /// Some workers did not serve in time.
    Slow {
        /// How many did.
        serving: usize,
        /// Of so many.
        workers: usize,
    },
    /// A worker did not start, or ended while it should serve.
    Worker {
        /// Its core.
        core: usize,
        /// Why.
        reason: String,
    },
    /// The operating system refused something that never fails in health.
    System {
        /// What was tried, as in "cannot ...".
        doing: &'static str,
        /// Why.
        source: io::Error,
    },
}

impl fmt::Display for ServeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Probe(error) => error.fmt(f),
            Self::Control(error) => error.fmt(f),
            Self::Plan(reason) | Self::Store(reason) => f.write_str(reason),
            Self::Listen { address, transport, source } => {
                write!(f, "cannot listen on {address} ({transport}): {source}")?;
                let port = address.port();
                match source.kind() {
                    io::ErrorKind::AddrInUse => write!(
                        f,
                        "; another server has it (`ss -lnp 'sport = :{port}'` shows which): stop that one, or change `listen`"
                    ),
                    io::ErrorKind::AddrNotAvailable => {
                        write!(
                            f,
                            "; this machine has no such address (`ip address` shows those it has): change `listen`"
                        )
                    }
                    io::ErrorKind::PermissionDenied => write!(
                        f,
                        "; ports below 1024 need root, CAP_NET_BIND_SERVICE (AmbientCapabilities= in the systemd unit), or \
                         `sysctl net.ipv4.ip_unprivileged_port_start={port}`"
                    ),
                    _ => Ok(()),
                }
            }
            Self::Steering { address, steering, source } => {
                write!(f, "the kernel does not steer packets to {address} by {steering}: {source}")?;
                match source.raw_os_error() {
                    Some(libc::ENOMEM) => write!(
                        f,
                        "; its program wants 20 KiB: `sysctl net.core.optmem_max=20480`, or set steering = \"flow\""
                    ),
                    _ => write!(
                        f,
                        "; set steering = \"flow\", or run where SO_ATTACH_REUSEPORT_CBPF is there and allowed (Linux 4.5; some \
                         sandboxes have it not)"
                    ),
                }
            }
            Self::Slow { serving, workers } => write!(
                f,
                "only {serving} of {workers} workers serve after {} s; if the machine is busy or its disks are slow, start \
                 again, or name fewer `cores`",
                START_MS_MAX / 1_000
            ),
            Self::Worker { core, reason } => write!(f, "the worker on core {core} failed: {reason}"),
            Self::System { doing, source } => write!(f, "cannot {doing}: {source}"),
        }
    }
}

impl std::error::Error for ServeError {}
