//! Taking the addresses that are listened on: a UDP and a TCP socket on each, for each worker.
//!
//! Invariants: an address that another server has is an error, also where SO_REUSEPORT would let both have it; the sockets of
//! an address are bound, and listen, in the order of the workers' cores, for what steers packets counts them so; what one TCP
//! client makes the kernel hold is bounded.

use std::io;
use std::net::{SocketAddr, TcpListener, UdpSocket};
use std::thread;
use std::time::{Duration, Instant};

use socket2::{Domain, Protocol, Socket, Type};

use super::steering::{Choice, Programs};
use super::{ServeError, kernel, udp};
use crate::limits::{ADDRESS_FREE_MS_MAX, TCP_RECEIVE_BUFFER_BYTES, TCP_SEND_BUFFER_BYTES};

/// Connections that the kernel completes before they are accepted.
const TCP_BACKLOG: i32 = 1_024;
/// Between two looks whether an address is free.
const ADDRESS_PAUSE: Duration = Duration::from_millis(10);

/// The listening sockets of one worker.
pub struct Sockets {
    /// In the order of the addresses.
    pub udp: Vec<UdpSocket>,
    /// The same.
    pub tcp: Vec<TcpListener>,
}

/// Binds every socket of every worker.
pub fn listen(addresses: &[SocketAddr], workers: usize) -> Result<Vec<Sockets>, ServeError> {
    let failed = |address, transport| move |source| ServeError::Listen { address, transport, source };
    let until = Instant::now() + Duration::from_millis(ADDRESS_FREE_MS_MAX);
    for &address in addresses {
        retry_while_in_use(until, || udp::is_free(address)).map_err(failed(address, "UDP"))?;
        retry_while_in_use(until, || listen_tcp(address, false)).map_err(failed(address, "TCP"))?;
    }
    let of_worker = |_| {
        let udp = addresses.iter().map(|&address| udp::bind(address).map_err(failed(address, "UDP")));
        let tcp = addresses.iter().map(|&address| listen_tcp(address, true).map_err(failed(address, "TCP")));
        Ok(Sockets { udp: udp.collect::<Result<_, _>>()?, tcp: tcp.collect::<Result<_, _>>()? })
    };
    (0..workers).map(of_worker).collect()
}

/// Has the packets for each address steered as was chosen for it.
pub fn steer(sockets: &[Sockets], choices: &[Choice], cores: &[usize]) -> Result<(), ServeError> {
    let seed = rand::random();
    // A program is the whole group's; its first socket is as good as any.
    let Some(Sockets { udp, tcp }) = sockets.first() else { return Ok(()) };
    for ((choice, udp), tcp) in choices.iter().zip(udp).zip(tcp) {
        let programs = Programs::of(choice.steering, cores, seed);
        let udp = programs.udp.map_or(Ok(()), |program| kernel::steer(udp, &program));
        let steered = udp.and_then(|()| programs.tcp.map_or(Ok(()), |program| kernel::steer(tcp, &program)));
        match steered {
            Ok(()) => tracing::info!("packets are steered to {choice}"),
            Err(source) if choice.is_told => {
                let Choice { address, steering, .. } = *choice;
                return Err(ServeError::Steering { address, steering, source });
            }
            Err(error) => tracing::warn!(
                "packets to {} are steered by flow: the kernel refuses a program for it ({error})",
                choice.address
            ),
        }
    }
    Ok(())
}

/// Takes an address, and tries again until then while somebody has it: the kernel closes the sockets of a server that has just
/// ended a moment after its end, when its io_uring is taken down, and a restart is not to fail over that.
fn retry_while_in_use<Taken>(until: Instant, mut take: impl FnMut() -> io::Result<Taken>) -> io::Result<Taken> {
    loop {
        match take() {
            Err(error) if error.kind() == io::ErrorKind::AddrInUse && Instant::now() < until => {
                thread::sleep(ADDRESS_PAUSE);
            }
            taken => return taken,
        }
    }
}

fn listen_tcp(address: SocketAddr, is_shared: bool) -> io::Result<TcpListener> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    // Connections of a server that has just ended may linger; a listening one is still noticed.
    socket.set_reuse_address(true)?;
    socket.set_reuse_port(is_shared)?;
    if address.is_ipv6() {
        socket.set_only_v6(true)?;
    }
    // Those that are accepted have them from here. By itself the kernel lets each grow to some MiB, on either side.
    socket.set_send_buffer_size(TCP_SEND_BUFFER_BYTES)?;
    socket.set_recv_buffer_size(TCP_RECEIVE_BUFFER_BYTES)?;
    socket.bind(&address.into())?;
    socket.listen(TCP_BACKLOG)?;
    Ok(socket.into())
}

#[cfg(test)]
mod tests {
    use std::net::TcpStream;

    use socket2::SockRef;

    use super::*;

    #[test]
    fn an_accepted_connection_holds_no_more_in_the_kernel_than_is_said() {
        let listener = listen_tcp(SocketAddr::from(([127, 0, 0, 1], 0)), false).unwrap();
        let _client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let (accepted, _) = listener.accept().unwrap();
        let socket = SockRef::from(&accepted);
        // The kernel takes twice of it, for what it has to note.
        assert_eq!(socket.send_buffer_size().unwrap(), 2 * TCP_SEND_BUFFER_BYTES);
        assert_eq!(socket.recv_buffer_size().unwrap(), 2 * TCP_RECEIVE_BUFFER_BYTES);
    }
}
