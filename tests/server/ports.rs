//! Ports for servers of tests.

use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, UdpSocket};
use std::sync::atomic::{AtomicU16, Ordering};

/// Under all ports that the kernel or Corewall draw for questions to upstreams (from 16384): those come and go.
const PORTS: std::ops::Range<u16> = 4_096..16_384;
/// Apart from each other, so that two test programs at a time seldom try the same ones.
const PROCESS_STRIDE: u32 = 613;

/// A port that nobody uses over UDP or TCP, IPv4 or IPv6, and that this program has not handed out before.
pub fn free() -> u16 {
    static NEXT: AtomicU16 = AtomicU16::new(0);
    let first = std::process::id().wrapping_mul(PROCESS_STRIDE);
    for _ in PORTS {
        let turn = u32::from(NEXT.fetch_add(1, Ordering::Relaxed));
        let port = PORTS.start + (first.wrapping_add(turn) % PORTS.len() as u32) as u16;
        if addresses(port)
            .into_iter()
            .all(|address| UdpSocket::bind(address).is_ok() && TcpListener::bind(address).is_ok())
        {
            return port;
        }
    }
    panic!("no free port");
}

/// Both loopback addresses, or IPv4's alone where there is no IPv6.
pub fn addresses(port: u16) -> Vec<SocketAddr> {
    let mut addresses = vec![SocketAddr::from((Ipv4Addr::LOCALHOST, port))];
    if UdpSocket::bind((Ipv6Addr::LOCALHOST, 0)).is_ok() {
        addresses.push(SocketAddr::from((Ipv6Addr::LOCALHOST, port)));
    }
    addresses
}
