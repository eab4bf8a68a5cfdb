//! Many datagrams by one system call: the only file of these tools with `unsafe` in it.
//!
//! Invariant: the headers that the kernel sees are made anew from live buffers for each call, and no pointer outlives the
//! call it was made for.

use std::io;
use std::net::{SocketAddr, UdpSocket};
use std::ops::Range;
use std::os::fd::AsRawFd;
use std::time::Duration;

use socket2::{Domain, Protocol, SockAddr, Socket, Type};

/// Datagrams in one batch; the gain flattens at 8 to 32.
pub const BATCH_MAX: usize = 128;
/// Octets of one buffer: more than any answer within an EDNS payload of 1232.
pub const DATAGRAM_BYTES_MAX: usize = 1_500;
/// Socket buffers, so that a burst of a whole window fits; the kernel caps it at `net.core.rmem_max`.
const SOCKET_BUFFER_BYTES: usize = 4 << 20;
/// One wait for room to send.
const ROOM_WAIT: Duration = Duration::from_millis(1);

/// Whether receiving waits for the first datagram.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wait {
    /// Until one is there, or the socket's read timeout is over.
    First,
    /// Not at all.
    Never,
}

/// Buffers for the datagrams of one batch, with the addresses they came from.
pub struct Batch {
    buffers: Vec<[u8; DATAGRAM_BYTES_MAX]>,
    lengths: Vec<usize>,
    peers: Vec<libc::sockaddr_storage>,
    peer_lengths: Vec<libc::socklen_t>,
    parts: Vec<libc::iovec>,
    headers: Vec<libc::mmsghdr>,
    count: usize,
}

impl Batch {
    /// Room for `capacity` datagrams, at most [`BATCH_MAX`].
    pub fn new(capacity: usize) -> Self {
        let capacity = capacity.clamp(1, BATCH_MAX);
        // SAFETY: sockaddr_storage, iovec and mmsghdr are plain C structures for which all-zero is a valid value.
        let (peer, part, header) = unsafe { (std::mem::zeroed(), std::mem::zeroed(), std::mem::zeroed()) };
        Self {
            buffers: vec![[0; DATAGRAM_BYTES_MAX]; capacity],
            lengths: vec![0; capacity],
            peers: vec![peer; capacity],
            peer_lengths: vec![0; capacity],
            parts: vec![part; capacity],
            headers: vec![header; capacity],
            count: 0,
        }
    }

    /// Datagrams in the batch.
    pub fn len(&self) -> usize {
        self.count
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// Whether another would not fit.
    pub fn is_full(&self) -> bool {
        self.count == self.buffers.len()
    }

    /// Forgets all datagrams.
    pub fn clear(&mut self) {
        self.count = 0;
    }

    /// Adds a datagram and gives its octets for changes; none when the batch is full or the datagram too long.
    pub fn push(&mut self, octets: &[u8]) -> Option<&mut [u8]> {
        let buffer = self.buffers.get_mut(self.count)?.get_mut(..octets.len())?;
        buffer.copy_from_slice(octets);
        self.lengths[self.count] = octets.len();
        self.count += 1;
        Some(buffer)
    }

    /// The octets of datagram `index`.
    pub fn datagram(&self, index: usize) -> &[u8] {
        &self.buffers[index][..self.lengths[index]]
    }

    /// The whole buffer of datagram `index` and its length, to answer in place.
    pub fn datagram_mut(&mut self, index: usize) -> (&mut [u8; DATAGRAM_BYTES_MAX], &mut usize) {
        (&mut self.buffers[index], &mut self.lengths[index])
    }

    /// Fills the batch from `socket` and returns how many there are; none when nothing came in time.
    pub fn receive(&mut self, socket: &UdpSocket, wait: Wait) -> io::Result<usize> {
        let flags = match wait {
            Wait::First => libc::MSG_WAITFORONE,
            Wait::Never => libc::MSG_DONTWAIT,
        };
        let capacity = self.buffers.len();
        self.count = 0;
        self.lengths.fill(DATAGRAM_BYTES_MAX);
        self.peer_lengths.fill(size_of::<libc::sockaddr_storage>() as libc::socklen_t);
        self.make_headers(0..capacity, true);
        // SAFETY: `make_headers` has just pointed the first `capacity` headers at buffers and addresses of this batch with
        // their true sizes; nothing of them moves before the call returns.
        let received = unsafe {
            libc::recvmmsg(
                socket.as_raw_fd(),
                self.headers.as_mut_ptr(),
                capacity as u32,
                flags as _,
                std::ptr::null_mut(),
            )
        };
        if received < 0 {
            let error = io::Error::last_os_error();
            return match error.kind() {
                io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted => Ok(0),
                _ => Err(error),
            };
        }
        self.count = received as usize;
        for index in 0..self.count {
            self.lengths[index] = (self.headers[index].msg_len as usize).min(DATAGRAM_BYTES_MAX);
            self.peer_lengths[index] = self.headers[index].msg_hdr.msg_namelen;
        }
        Ok(self.count)
    }

    /// Sends the batch, back to where each datagram came from when `to_peers`, else to the connected peer. Returns how
    /// many the kernel took; fewer than all when its buffer is full.
    pub fn send(&mut self, socket: &UdpSocket, to_peers: bool) -> io::Result<usize> {
        self.send_from(0, socket, to_peers)
    }

    /// Sends all of the batch to where each datagram came from, and waits for room where there is none. Returns how many
    /// the kernel took: one that it refuses, such as an answer to port 0, holds up none of the others.
    pub fn send_all(&mut self, socket: &UdpSocket) -> io::Result<usize> {
        let (mut next, mut taken) = (0, 0);
        while next < self.count {
            match self.send_from(next, socket, true) {
                Ok(0) => wait_writable(socket)?,
                Ok(sent) => {
                    next += sent;
                    taken += sent;
                }
                // The kernel tells a reason only when it took none: it is that of the first datagram.
                Err(_) => next += 1,
            }
        }
        Ok(taken)
    }

    fn send_from(&mut self, first: usize, socket: &UdpSocket, to_peers: bool) -> io::Result<usize> {
        self.make_headers(first..self.count, to_peers);
        let headers = &mut self.headers[first..self.count];
        // SAFETY: as in `receive`; the kernel only reads the octets of these headers, each within its buffer.
        let sent = unsafe {
            libc::sendmmsg(socket.as_raw_fd(), headers.as_mut_ptr(), headers.len() as u32, libc::MSG_DONTWAIT as _)
        };
        if sent >= 0 {
            return Ok(sent as usize);
        }
        let error = io::Error::last_os_error();
        match error.kind() {
            io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted => Ok(0),
            _ if error.raw_os_error() == Some(libc::ENOBUFS) => Ok(0),
            _ => Err(error),
        }
    }

    fn make_headers(&mut self, places: Range<usize>, with_peers: bool) {
        for index in places {
            self.parts[index] =
                libc::iovec { iov_base: self.buffers[index].as_mut_ptr().cast(), iov_len: self.lengths[index] };
            let header = &mut self.headers[index].msg_hdr;
            header.msg_iov = &mut self.parts[index];
            header.msg_iovlen = 1;
            (header.msg_name, header.msg_namelen) = if with_peers {
                ((&raw mut self.peers[index]).cast(), self.peer_lengths[index])
            } else {
                (std::ptr::null_mut(), 0)
            };
        }
    }
}

/// A socket bound to `address` with SO_REUSEPORT, as a worker of the server has one. A blocking receive ends after `wait`.
pub fn listen(address: SocketAddr, wait: Duration) -> io::Result<UdpSocket> {
    let socket = Socket::new(Domain::for_address(address), Type::DGRAM, Some(Protocol::UDP))?;
    socket.set_reuse_port(true)?;
    socket.set_recv_buffer_size(SOCKET_BUFFER_BYTES)?;
    socket.set_send_buffer_size(SOCKET_BUFFER_BYTES)?;
    socket.bind(&SockAddr::from(address))?;
    socket.set_read_timeout(Some(wait))?;
    Ok(socket.into())
}

/// A socket connected to `server` from a port of its own.
pub fn connect(server: SocketAddr) -> io::Result<UdpSocket> {
    let socket = Socket::new(Domain::for_address(server), Type::DGRAM, Some(Protocol::UDP))?;
    socket.set_recv_buffer_size(SOCKET_BUFFER_BYTES)?;
    socket.set_send_buffer_size(SOCKET_BUFFER_BYTES)?;
    socket.connect(&SockAddr::from(server))?;
    Ok(socket.into())
}

/// Waits until one of `sockets` can be read, at most `wait`, which is less than a second.
pub fn wait_readable(sockets: &[UdpSocket], wait: Duration) -> io::Result<()> {
    let mut polled: Vec<libc::pollfd> = sockets
        .iter()
        .map(|socket| libc::pollfd { fd: socket.as_raw_fd(), events: libc::POLLIN, revents: 0 })
        .collect();
    poll(&mut polled, wait)
}

/// Waits until `socket` takes datagrams; after [`ROOM_WAIT`] the caller may try all the same, for a queue below it may
/// have been full.
fn wait_writable(socket: &UdpSocket) -> io::Result<()> {
    poll(&mut [libc::pollfd { fd: socket.as_raw_fd(), events: libc::POLLOUT, revents: 0 }], ROOM_WAIT)
}

fn poll(polled: &mut [libc::pollfd], wait: Duration) -> io::Result<()> {
    let wait = libc::timespec { tv_sec: 0, tv_nsec: wait.subsec_nanos() as _ };
    // SAFETY: the pointer and the length are those of a live slice, the time is a local; no signal mask is given.
    let ready = unsafe { libc::ppoll(polled.as_mut_ptr(), polled.len() as _, &wait, std::ptr::null()) };
    if ready < 0 {
        let error = io::Error::last_os_error();
        if error.kind() != io::ErrorKind::Interrupted {
            return Err(error);
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_batch_arrives_whole_and_is_answered_to_its_senders() {
        let server = listen("127.0.0.1:0".parse().unwrap(), Duration::from_secs(5)).unwrap();
        let client = connect(server.local_addr().unwrap()).unwrap();
        client.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
        let mut asked = Batch::new(4);
        for octet in 0..4u8 {
            asked.push(&[octet; 20]).unwrap()[0] = 9;
        }
        assert!(asked.is_full() && asked.push(&[0]).is_none());
        assert_eq!(asked.send(&client, false).unwrap(), 4);
        let mut seen = Batch::new(8);
        assert_eq!(seen.receive(&server, Wait::First).unwrap(), 4);
        for index in 0..4 {
            let (octets, length) = seen.datagram_mut(index);
            octets[*length] = 7;
            *length += 1;
        }
        assert_eq!(seen.send(&server, true).unwrap(), 4);
        let mut answers = Batch::new(8);
        assert_eq!(answers.receive(&client, Wait::First).unwrap(), 4);
        for index in 0..4 {
            let answer = answers.datagram(index);
            assert_eq!((answer.len(), answer[0], answer[1], answer[20]), (21, 9, index as u8, 7));
        }
        assert_eq!(answers.receive(&client, Wait::Never).unwrap(), 0);
    }

    #[test]
    fn a_datagram_that_the_kernel_refuses_holds_up_none_of_the_others() {
        let server = listen("127.0.0.1:0".parse().unwrap(), Duration::from_secs(5)).unwrap();
        let client = connect(server.local_addr().unwrap()).unwrap();
        client.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
        let mut asked = Batch::new(5);
        for octet in 0..5u8 {
            asked.push(&[octet; 20]).unwrap();
        }
        assert_eq!(asked.send(&client, false).unwrap(), 5);
        let mut seen = Batch::new(5);
        assert_eq!(seen.receive(&server, Wait::First).unwrap(), 5);
        // An address of zeros has port 0, which nothing can be sent to: the first and the fourth are refused.
        for index in [0, 3] {
            seen.peers[index] = Batch::new(1).peers[0];
        }
        assert!(seen.send(&server, true).is_err());
        assert_eq!(seen.send_all(&server).unwrap(), 3);
        let mut answers = Batch::new(5);
        assert_eq!(answers.receive(&client, Wait::First).unwrap(), 3);
        assert_eq!([0, 1, 2].map(|index| answers.datagram(index)[0]), [1, 2, 4]);
    }
}
