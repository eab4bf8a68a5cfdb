//! A network of two: a pair of virtual Ethernet devices between two network namespaces, one of the servers', one of the load's.
//!
//! A datagram for the server is handed to [`SERVER_DEVICE`] by the client's core; by receive packet steering it is
//! taken through the server's stack on the server's core, as the interrupt of a card would have it.
//!
//! Invariant: the namespaces go with the [`Link`]; what a run that was killed has left is taken away by the next one.

use std::error::Error;
use std::net::Ipv4Addr;
use std::path::Path;
use std::process::{Command, Stdio};

/// The servers' namespace.
pub const SERVER_NAMESPACE: &str = "cwb-server";
/// The load's.
pub const CLIENT_NAMESPACE: &str = "cwb-client";
/// The servers' end.
pub const SERVER_DEVICE: &str = "cwb-s";
/// The load's end.
pub const CLIENT_DEVICE: &str = "cwb-c";
/// Addresses of networks under measurement (RFC 2544).
pub const SERVER_ADDRESS: Ipv4Addr = Ipv4Addr::new(198, 18, 0, 1);
/// The load's.
pub const CLIENT_ADDRESS: Ipv4Addr = Ipv4Addr::new(198, 18, 0, 2);
/// Locally administered.
pub const SERVER_MAC: &str = "02:00:00:00:53:01";
/// The load's.
pub const CLIENT_MAC: &str = "02:00:00:00:53:02";
/// Ports of ordinary sockets in the load's namespace: below those that kxdpgun asks from, whose answers its XDP program takes.
const CLIENT_PORTS: &str = "1024 1999";

/// The two namespaces.
pub struct Link(());

impl Link {
    /// Makes both, and has `server_core` take in what comes for the server. For root.
    pub fn make(server_core: usize) -> Result<Self, Box<dyn Error>> {
        take_away();
        // From here on whatever there is goes again, be it half made.
        let link = Self(());
        for namespace in [SERVER_NAMESPACE, CLIENT_NAMESPACE] {
            said(ip(&["netns", "add", namespace]))?;
            said(ip(&["-n", namespace, "link", "set", "lo", "up"]))?;
        }
        // One queue: kxdpgun runs a thread for each.
        let one = ["numtxqueues", "1", "numrxqueues", "1"];
        let mut pair = ip(&["link", "add", SERVER_DEVICE, "netns", SERVER_NAMESPACE, "address", SERVER_MAC]);
        pair.args(one).args(["type", "veth", "peer", "name", CLIENT_DEVICE, "netns", CLIENT_NAMESPACE]);
        said(pair.args(["address", CLIENT_MAC]).args(one))?;
        for (namespace, device, own, other, other_mac) in [
            (SERVER_NAMESPACE, SERVER_DEVICE, SERVER_ADDRESS, CLIENT_ADDRESS, CLIENT_MAC),
            (CLIENT_NAMESPACE, CLIENT_DEVICE, CLIENT_ADDRESS, SERVER_ADDRESS, SERVER_MAC),
        ] {
            let (own, other) = (format!("{own}/30"), other.to_string());
            said(ip(&["-n", namespace, "address", "add", &own, "dev", device]))?;
            said(ip(&["-n", namespace, "link", "set", device, "up"]))?;
            let neighbour = [other.as_str(), "lladdr", other_mac, "dev", device, "nud", "permanent"];
            said(ip(&["-n", namespace, "neighbour", "replace"]).args(neighbour))?;
        }
        // `ip netns exec` shows a namespace its own devices in /sys, which nobody else sees.
        let write = |namespace: &str, text: &str, file: &str| {
            said(within(namespace, Path::new("sh")).args(["-c", &format!("echo '{text}' > {file}")]))
        };
        let steering = format!("/sys/class/net/{SERVER_DEVICE}/queues/rx-0/rps_cpus");
        write(SERVER_NAMESPACE, &core_mask(server_core), &steering)?;
        write(CLIENT_NAMESPACE, CLIENT_PORTS, "/proc/sys/net/ipv4/ip_local_port_range")?;
        Ok(link)
    }
}

impl Drop for Link {
    fn drop(&mut self) {
        take_away();
    }
}

/// A command in a namespace. `ip` becomes the program, so the process is the program's.
pub fn within(namespace: &str, program: &Path) -> Command {
    let mut command = ip(&["netns", "exec", namespace]);
    command.arg(program);
    command
}

fn ip(arguments: &[&str]) -> Command {
    let mut command = Command::new("ip");
    // Administrators' programs, such as this one and kxdpgun, may not be where a user's shell looks.
    let path = std::env::var("PATH").unwrap_or_default();
    command.args(arguments).env("PATH", format!("{path}:/usr/sbin:/sbin"));
    command
}

/// Runs a command, and tells what it said when it fails.
fn said(mut command: impl std::borrow::BorrowMut<Command>) -> Result<(), Box<dyn Error>> {
    let command = command.borrow_mut();
    let output = command.stdin(Stdio::null()).output().map_err(|error| format!("{command:?}: {error}"))?;
    if output.status.success() {
        return Ok(());
    }
    Err(format!("{command:?}: {}", String::from_utf8_lossy(&output.stderr).trim()).into())
}

/// With a namespace go the devices in it, and with one of a pair the other. That there is none is no error.
fn take_away() {
    for namespace in [SERVER_NAMESPACE, CLIENT_NAMESPACE] {
        let _ = ip(&["netns", "delete", namespace]).stdout(Stdio::null()).stderr(Stdio::null()).status();
    }
}

/// One core as the kernel writes sets of them: hexadecimal digits in groups of 32 bits.
fn core_mask(core: usize) -> String {
    let first = format!("{:x}", 1u32 << (core % 32));
    std::iter::once(first).chain((0..core / 32).map(|_| "00000000".to_owned())).collect::<Vec<_>>().join(",")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_core_is_told_as_the_kernel_reads_it() {
        assert_eq!([0, 3, 31, 32, 65].map(core_mask), ["1", "8", "80000000", "1,00000000", "2,00000000,00000000"]);
    }

    #[test]
    fn what_a_command_says_is_told_when_it_fails() {
        let mut command = Command::new("sh");
        let error = said(command.args(["-c", "echo not permitted >&2; exit 1"])).unwrap_err().to_string();
        assert!(error.contains("not permitted"), "{error}");
    }
}
