//! Which worker's socket a packet goes to: by the core that received it, by its flow, or by the name that it asks for.
//!
//! Invariants: each address is a group of sockets of its own, bound in the order of the workers' cores, and has a program of its
//! own; the sockets stay for as long as the server runs, and with them what steers packets to them, over reloads too. What
//! somebody has asked for is done or is an error; only what was chosen here gives way, to `flow`, which needs nothing.

pub mod program;

use std::collections::BTreeMap;
use std::fmt;
use std::net::{IpAddr, SocketAddr};

use libc::sock_filter;
use serde::{Deserialize, Serialize};

use super::cores;
use super::topology::{Machine, Queue};

/// What the configuration says.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum SteeringOption {
    /// [`Steering::Cpu`] where that fits the machine, else [`Steering::Flow`].
    #[default]
    Auto,
    /// [`Steering::Cpu`].
    Cpu,
    /// [`Steering::Flow`].
    Flow,
    /// [`Steering::Name`].
    Name,
}

/// How the kernel chooses a socket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Steering {
    /// That of the core which has received the packet; by flow on cores without a worker.
    Cpu,
    /// By the kernel's hash of addresses and ports.
    Flow,
    /// By a hash of the name that is asked for. TCP connections, which begin without one, go by flow.
    Name,
}

impl fmt::Display for Steering {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Cpu => "cpu",
            Self::Flow => "flow",
            Self::Name => "name",
        })
    }
}

/// How packets for one address are steered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Choice {
    /// Which address.
    pub address: SocketAddr,
    /// How.
    pub steering: Steering,
    /// Why.
    pub reason: String,
    /// The configuration says so, rather than leaving it open.
    pub is_told: bool,
}

impl fmt::Display for Choice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { address, steering, reason, .. } = self;
        write!(f, "{address} by {steering} ({reason})")
    }
}

/// How packets for each of these addresses are steered to workers on `cores`.
pub fn choose(option: SteeringOption, listen: &[SocketAddr], cores: &[usize], machine: &Machine) -> Vec<Choice> {
    let told = |steering| (steering, "steering says so".to_owned(), true);
    let choice = |&address: &SocketAddr| {
        let (steering, reason, is_told) = match option {
            SteeringOption::Cpu => told(Steering::Cpu),
            SteeringOption::Flow => told(Steering::Flow),
            SteeringOption::Name => told(Steering::Name),
            SteeringOption::Auto => match queues_match(address.ip(), cores, machine) {
                Ok(reason) => (Steering::Cpu, reason, false),
                Err(reason) => (Steering::Flow, reason, false),
            },
        };
        Choice { address, steering, reason, is_told }
    };
    listen.iter().map(choice).collect()
}

/// Whether each worker's core receives packets for the address and no other core does, and from what that is known.
fn queues_match(address: IpAddr, workers: &[usize], machine: &Machine) -> Result<String, String> {
    if workers.len() < 2 {
        return Err("there is one worker".to_owned());
    }
    let interfaces = machine.interfaces_of(address)?;
    if interfaces.is_empty() {
        return Err("no interface with receive queues has this address".to_owned());
    }
    let queues = interfaces.iter().map(|name| machine.queues_of(name)).collect::<Result<Vec<_>, _>>()?.concat();
    let mut received: BTreeMap<usize, &Queue> = BTreeMap::new();
    for queue in &queues {
        if let Some(core) = queue.cores.iter().find(|core| !workers.contains(core)) {
            return Err(format!("{} is on core {core}, which has no worker", queue.name));
        }
        received.extend(queue.cores.iter().map(|&core| (core, queue)));
    }
    let without: Vec<usize> = workers.iter().copied().filter(|core| !received.contains_key(core)).collect();
    if !without.is_empty() {
        return Err(format!("no receive queue of {} is on core {}", interfaces.join(", "), cores::list(&without)));
    }
    Ok(format!("{} receive queues of {} are on the workers' cores", queues.len(), interfaces.join(", ")))
}

/// What the kernel is given for the sockets of an address.
#[derive(Debug, Default)]
pub struct Programs {
    /// For UDP; none leaves the choice to the kernel.
    pub udp: Option<Vec<sock_filter>>,
    /// For TCP.
    pub tcp: Option<Vec<sock_filter>>,
}

impl Programs {
    /// For sockets that are bound in the order of `cores`. `seed` is what names are hashed with.
    pub fn of(steering: Steering, cores: &[usize], seed: u32) -> Self {
        match steering {
            Steering::Flow => Self::default(),
            Steering::Cpu => Self { udp: Some(program::by_cpu(cores)), tcp: Some(program::by_cpu(cores)) },
            Steering::Name => Self { udp: Some(program::by_name(cores.len(), seed)), tcp: None },
        }
    }
}

#[cfg(test)]
mod tests;
