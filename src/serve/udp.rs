//! UDP towards clients: listening sockets, datagrams received and sent by the batch.
//!
//! Invariants: all buffers exist before the first datagram; a call never waits (`MSG_DONTWAIT`); what the kernel does not
//! take at once is dropped and counted, for a queue of our own would only answer clients that have given up. A socket bound
//! to the wildcard address answers from the address that was asked (the destination is read from the packet information and
//! echoed with interface 0, so that routing still chooses the interface).
//!
//! The batches (`recvmmsg`, `sendmmsg`) and their packet information are the kernel's structures, which only `unsafe` code can
//! fill in and read; it is confined to this file and `kernel.rs`.
//!
//! glommio's `UdpSocket::send_to` is never used: under back-pressure it sends one byte and reports success.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV4, SocketAddrV6, UdpSocket};
use std::os::fd::AsRawFd;
use std::ptr;

use socket2::{Domain, Protocol, Socket, Type};

use super::kernel;
use crate::decide::{Origin, Transport};
use crate::limits::{BATCH_DATAGRAMS, DATAGRAM_BYTES_MAX, UDP_PAYLOAD_BYTES_MAX, UDP_RECEIVE_BUFFER_BYTES};

/// Bytes of a cache line of the processors that there are.
const CACHE_LINE_BYTES: usize = 64;
/// Bytes for one control message with the larger packet information, that of IPv6.
const CONTROL_BYTES: usize = 64;
const _: () = {
    // SAFETY: CMSG_SPACE only computes.
    let needed = unsafe { libc::CMSG_SPACE(size_of::<libc::in6_pktinfo>() as libc::c_uint) };
    assert!(needed as usize <= CONTROL_BYTES, "packet information fits");
};

/// A socket for one worker on one listen address. Every worker has its own, and the kernel shares clients among them.
pub fn bind(address: SocketAddr) -> io::Result<UdpSocket> {
    let socket = Socket::new(Domain::for_address(address), Type::DGRAM, Some(Protocol::UDP))?;
    socket.set_reuse_port(true)?;
    if address.is_ipv6() {
        // Else `[::]` would also take what `0.0.0.0` is configured for.
        socket.set_only_v6(true)?;
    }
    // The kernel gives what net.core.rmem_max allows; a small buffer loses bursts, it breaks nothing.
    let _ = socket.set_recv_buffer_size(UDP_RECEIVE_BUFFER_BYTES);
    let _ = socket.set_send_buffer_size(UDP_RECEIVE_BUFFER_BYTES);
    if address.ip().is_unspecified() {
        kernel::receive_packet_info(&socket, address)?;
    }
    socket.set_nonblocking(true)?;
    socket.bind(&address.into())?;
    Ok(socket.into())
}

/// Whether anybody has this address already. Sockets of SO_REUSEPORT never collide among one user's processes: two servers
/// would silently share the clients.
pub fn is_free(address: SocketAddr) -> io::Result<()> {
    let socket = Socket::new(Domain::for_address(address), Type::DGRAM, Some(Protocol::UDP))?;
    if address.is_ipv6() {
        socket.set_only_v6(true)?;
    }
    socket.bind(&address.into())
}

/// One received datagram.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Received<'a> {
    /// Its bytes, at most [`DATAGRAM_BYTES_MAX`].
    pub bytes: &'a [u8],
    /// Where it came from and where the answer goes.
    pub from: Origin,
    /// There was more than the bytes (MSG_TRUNC).
    pub is_cut: bool,
}

/// The parts of a batch that the kernel reads and writes; boxed slices, so that pointers between them stay good.
struct Messages {
    buffers: Box<[u8]>,
    buffer_bytes: usize,
    /// From one buffer to the next.
    stride: usize,
    addresses: Box<[AddressStorage]>,
    controls: Box<[Control]>,
    vectors: Box<[libc::iovec]>,
    headers: Box<[libc::mmsghdr]>,
}

/// Room for an address of either family: the larger one, for both begin with the family. `sockaddr_storage` is four times as large,
/// and a batch of those does not fit the processor's first cache beside all else.
type AddressStorage = libc::sockaddr_in6;
const _: () = assert!(
    size_of::<libc::sockaddr_in>() <= size_of::<AddressStorage>()
        && align_of::<libc::sockaddr_in>() <= align_of::<AddressStorage>(),
    "an IPv4 address fits"
);

#[repr(C, align(8))]
#[derive(Clone, Copy)]
struct Control([u8; CONTROL_BYTES]);

impl Messages {
    fn new(buffer_bytes: usize) -> Self {
        // SAFETY: these C structs are valid when zeroed: null pointers with zero lengths.
        let (address, header) = unsafe { (std::mem::zeroed(), std::mem::zeroed()) };
        let vector = libc::iovec { iov_base: ptr::null_mut(), iov_len: 0 };
        // An odd number of cache lines: the beginnings of buffers a page apart would all compete for the same few places of
        // the processor's first cache.
        let stride = (buffer_bytes.div_ceil(CACHE_LINE_BYTES) | 1) * CACHE_LINE_BYTES;
        Self {
            buffers: vec![0; stride * BATCH_DATAGRAMS].into(),
            buffer_bytes,
            stride,
            addresses: vec![address; BATCH_DATAGRAMS].into(),
            controls: vec![Control([0; CONTROL_BYTES]); BATCH_DATAGRAMS].into(),
            vectors: vec![vector; BATCH_DATAGRAMS].into(),
            headers: vec![header; BATCH_DATAGRAMS].into(),
        }
    }

    fn buffer(&self, index: usize) -> &[u8] {
        let start = index * self.stride;
        self.buffers.get(start..start + self.buffer_bytes).unwrap_or_default()
    }

    fn buffer_mut(&mut self, index: usize) -> &mut [u8] {
        let start = index * self.stride;
        self.buffers.get_mut(start..start + self.buffer_bytes).unwrap_or_default()
    }

    /// Points header `index` at its buffer, address and control message, of these lengths.
    fn point(&mut self, index: usize, bytes: usize, address_bytes: usize, control_bytes: usize) {
        let buffer = self.buffer_mut(index).as_mut_ptr();
        let bytes = bytes.min(self.buffer_bytes);
        let (Some(vector), Some(header), Some(address), Some(control)) = (
            self.vectors.get_mut(index),
            self.headers.get_mut(index),
            self.addresses.get_mut(index),
            self.controls.get_mut(index),
        ) else {
            return;
        };
        *vector = libc::iovec { iov_base: buffer.cast(), iov_len: bytes };
        let header = &mut header.msg_hdr;
        header.msg_name = (&raw mut *address).cast();
        header.msg_namelen = address_bytes as libc::socklen_t;
        header.msg_iov = vector;
        header.msg_iovlen = 1;
        header.msg_control = (&raw mut control.0).cast();
        header.msg_controllen = control_bytes;
        header.msg_flags = 0;
    }
}

/// Room for the datagrams that one call receives.
pub struct ReceiveBatch {
    messages: Messages,
    /// Headers that are not pointed at their buffers, or that the kernel has written to since.
    used: usize,
    /// The others have room for packet information.
    has_packet_info: bool,
}

impl ReceiveBatch {
    /// Takes all memory; one batch serves any number of sockets.
    pub fn new() -> Self {
        Self { messages: Messages::new(DATAGRAM_BYTES_MAX), used: BATCH_DATAGRAMS, has_packet_info: false }
    }

    /// Receives what is there, up to [`BATCH_DATAGRAMS`]; 0 when nothing is. `has_packet_info` is whether the socket tells which
    /// address was asked. On the hot path.
    pub fn receive(&mut self, socket: &UdpSocket, has_packet_info: bool) -> io::Result<usize> {
        if self.has_packet_info != has_packet_info {
            (self.has_packet_info, self.used) = (has_packet_info, BATCH_DATAGRAMS);
        }
        let control_bytes = if has_packet_info { CONTROL_BYTES } else { 0 };
        for index in 0..self.used {
            self.messages.point(index, DATAGRAM_BYTES_MAX, size_of::<AddressStorage>(), control_bytes);
        }
        self.used = 0;
        // SAFETY: the loop above has, in this call or an earlier one, pointed every header at memory that `messages` owns and
        // that lives as long as it does, with the true lengths; the descriptor is open as long as it is borrowed; no timeout is
        // passed.
        let count = unsafe {
            libc::recvmmsg(
                socket.as_raw_fd(),
                self.messages.headers.as_mut_ptr(),
                BATCH_DATAGRAMS as libc::c_uint,
                libc::MSG_DONTWAIT as _,
                ptr::null_mut(),
            )
        };
        if let Ok(count) = usize::try_from(count) {
            self.used = count.min(BATCH_DATAGRAMS);
            return Ok(self.used);
        }
        match io::Error::last_os_error() {
            error if error.kind() == io::ErrorKind::WouldBlock => Ok(0),
            error if error.kind() == io::ErrorKind::Interrupted => Ok(0),
            error => Err(error),
        }
    }

    /// The octets of a datagram of the last [`Self::receive`], as [`Self::datagram`] gives them.
    #[inline]
    pub fn octets(&self, index: usize) -> Option<&[u8]> {
        let header = self.messages.headers.get(..self.used)?.get(index)?;
        socket_address(self.messages.addresses.get(index)?)?;
        self.messages.buffer(index).get(..header.msg_len as usize)
    }

    /// A datagram of the last [`Self::receive`]; none past its count, or when its sender has no IP address. `token` comes
    /// back in the origin.
    #[inline]
    pub fn datagram(&self, index: usize, token: u64) -> Option<Received<'_>> {
        let header = self.messages.headers.get(..self.used)?.get(index)?;
        let client = socket_address(self.messages.addresses.get(index)?)?;
        let control = self.messages.controls.get(index)?.0.get(..header.msg_hdr.msg_controllen)?;
        Some(Received {
            bytes: self.messages.buffer(index).get(..header.msg_len as usize)?,
            from: Origin { client, local: destination(control), transport: Transport::Udp, token },
            is_cut: header.msg_hdr.msg_flags & libc::MSG_TRUNC != 0,
        })
    }
}

impl Default for ReceiveBatch {
    fn default() -> Self {
        Self::new()
    }
}

/// What became of a batch of replies.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SendReport {
    /// The kernel took them.
    pub sent: u64,
    /// The socket's buffer was full.
    pub dropped: u64,
    /// The kernel refused them for another reason: no route, a firewall.
    pub failed: u64,
}

/// Replies that wait for one call to send them.
pub struct SendBatch {
    messages: Messages,
    count: usize,
}

impl SendBatch {
    /// Takes all memory.
    pub fn new() -> Self {
        Self { messages: Messages::new(UDP_PAYLOAD_BYTES_MAX), count: 0 }
    }

    /// Where the next reply is written, [`UDP_PAYLOAD_BYTES_MAX`] bytes; empty when the batch is full.
    pub fn slot(&mut self) -> &mut [u8] {
        if self.is_full() { &mut [] } else { self.messages.buffer_mut(self.count) }
    }

    /// Takes the first `bytes` of the slot as a reply to `to`. On the hot path.
    #[inline]
    pub fn push(&mut self, bytes: usize, to: &Origin) {
        let index = self.count;
        let (Some(address), Some(control)) =
            (self.messages.addresses.get_mut(index), self.messages.controls.get_mut(index))
        else {
            return;
        };
        let address_bytes = write_socket_address(address, to.client);
        let control_bytes = to.local.map_or(0, |local| write_source(control, local));
        self.messages.point(index, bytes, address_bytes, control_bytes);
        self.count += 1;
    }

    /// Whether it must be sent before another reply fits.
    pub fn is_full(&self) -> bool {
        self.count >= BATCH_DATAGRAMS
    }

    /// Whether there is nothing to send.
    pub fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// Sends all of it, and is empty afterwards. On the hot path.
    pub fn flush(&mut self, socket: &UdpSocket) -> SendReport {
        let mut report = SendReport::default();
        let mut at = 0;
        while let Some(rest) = self.messages.headers.get_mut(at..self.count).filter(|rest| !rest.is_empty()) {
            // SAFETY: `push` has pointed each of these headers at memory that `messages` owns, with the true lengths; the
            // descriptor is open as long as it is borrowed.
            let count = unsafe {
                libc::sendmmsg(
                    socket.as_raw_fd(),
                    rest.as_mut_ptr(),
                    rest.len() as libc::c_uint,
                    (libc::MSG_DONTWAIT | libc::MSG_NOSIGNAL) as _,
                )
            };
            match usize::try_from(count) {
                // No progress and no error is not documented; taken as a refusal, so that the loop ends.
                Ok(0) => report.failed += 1,
                Ok(count) => {
                    report.sent += count as u64;
                    at += count;
                    continue;
                }
                // The error is that of the first message; those before it went out in an earlier turn of the loop.
                Err(_) => match io::Error::last_os_error() {
                    error if error.kind() == io::ErrorKind::Interrupted => continue,
                    error if error.kind() == io::ErrorKind::WouldBlock => {
                        report.dropped += rest.len() as u64;
                        break;
                    }
                    _ => report.failed += 1,
                },
            }
            at += 1;
        }
        self.count = 0;
        report
    }
}

impl Default for SendBatch {
    fn default() -> Self {
        Self::new()
    }
}

/// The address that the kernel wrote; none for other families.
#[inline]
fn socket_address(storage: &AddressStorage) -> Option<SocketAddr> {
    let storage: *const AddressStorage = storage;
    // SAFETY: the storage has room and alignment for both; the family, set by the kernel, tells which it is, and every bit
    // pattern is valid for either.
    unsafe {
        match libc::c_int::from((*storage).sin6_family) {
            libc::AF_INET => {
                let address = &*storage.cast::<libc::sockaddr_in>();
                let ip = Ipv4Addr::from(address.sin_addr.s_addr.to_ne_bytes());
                Some(SocketAddrV4::new(ip, u16::from_be(address.sin_port)).into())
            }
            libc::AF_INET6 => {
                let address = &*storage.cast::<libc::sockaddr_in6>();
                let ip = Ipv6Addr::from(address.sin6_addr.s6_addr);
                // The scope is kept: an answer to a link-local client needs it to find the link.
                Some(SocketAddrV6::new(ip, u16::from_be(address.sin6_port), 0, address.sin6_scope_id).into())
            }
            _ => None,
        }
    }
}

/// Writes an address for the kernel and returns its length.
#[inline]
fn write_socket_address(storage: &mut AddressStorage, address: SocketAddr) -> usize {
    let storage: *mut AddressStorage = storage;
    match address {
        SocketAddr::V4(address) => {
            let value = libc::sockaddr_in {
                sin_family: libc::AF_INET as libc::sa_family_t,
                sin_port: address.port().to_be(),
                sin_addr: libc::in_addr { s_addr: u32::from_ne_bytes(address.ip().octets()) },
                sin_zero: [0; 8],
            };
            // SAFETY: the storage has room and alignment for it.
            unsafe { storage.cast::<libc::sockaddr_in>().write(value) };
            size_of::<libc::sockaddr_in>()
        }
        SocketAddr::V6(address) => {
            let value = libc::sockaddr_in6 {
                sin6_family: libc::AF_INET6 as libc::sa_family_t,
                sin6_port: address.port().to_be(),
                sin6_flowinfo: 0,
                sin6_addr: libc::in6_addr { s6_addr: address.ip().octets() },
                sin6_scope_id: address.scope_id(),
            };
            // SAFETY: the storage is one.
            unsafe { storage.cast::<libc::sockaddr_in6>().write(value) };
            size_of::<libc::sockaddr_in6>()
        }
    }
}

/// Bytes of a control message's header, and where its data begins.
const CONTROL_HEADER_BYTES: usize = size_of::<libc::cmsghdr>();

/// The destination address in a control message; none when there is none.
#[inline]
fn destination(control: &[u8]) -> Option<IpAddr> {
    let (header, data) = control.split_at_checked(CONTROL_HEADER_BYTES)?;
    // SAFETY: the slice has the size of a cmsghdr, every bit pattern of which is valid; the read asks for no alignment.
    let header = unsafe { header.as_ptr().cast::<libc::cmsghdr>().read_unaligned() };
    match (header.cmsg_level, header.cmsg_type) {
        (libc::IPPROTO_IP, libc::IP_PKTINFO) => {
            let data = data.get(..size_of::<libc::in_pktinfo>())?;
            // SAFETY: as above, for in_pktinfo. `ipi_addr` is the header's destination address.
            let info = unsafe { data.as_ptr().cast::<libc::in_pktinfo>().read_unaligned() };
            Some(IpAddr::V4(Ipv4Addr::from(info.ipi_addr.s_addr.to_ne_bytes())))
        }
        (libc::IPPROTO_IPV6, libc::IPV6_PKTINFO) => {
            let data = data.get(..size_of::<libc::in6_pktinfo>())?;
            // SAFETY: as above, for in6_pktinfo.
            let info = unsafe { data.as_ptr().cast::<libc::in6_pktinfo>().read_unaligned() };
            Some(IpAddr::V6(Ipv6Addr::from(info.ipi6_addr.s6_addr)))
        }
        _ => None,
    }
}

/// Writes a control message that sends from `local`, and returns its length.
fn write_source(control: &mut Control, local: IpAddr) -> usize {
    let (level, kind, data_bytes) = match local {
        IpAddr::V4(_) => (libc::IPPROTO_IP, libc::IP_PKTINFO, size_of::<libc::in_pktinfo>()),
        IpAddr::V6(_) => (libc::IPPROTO_IPV6, libc::IPV6_PKTINFO, size_of::<libc::in6_pktinfo>()),
    };
    // SAFETY: CMSG_LEN and CMSG_SPACE only compute.
    let (length, space) =
        unsafe { (libc::CMSG_LEN(data_bytes as libc::c_uint), libc::CMSG_SPACE(data_bytes as libc::c_uint)) };
    let header: *mut libc::cmsghdr = control.0.as_mut_ptr().cast();
    // SAFETY: `Control` is aligned for a cmsghdr and has CONTROL_BYTES, which the assertion at the top proves to be enough
    // for the header and either packet information behind it.
    unsafe {
        (*header).cmsg_len = length as _;
        (*header).cmsg_level = level;
        (*header).cmsg_type = kind;
        let data = control.0.as_mut_ptr().add(CONTROL_HEADER_BYTES);
        match local {
            IpAddr::V4(local) => data.cast::<libc::in_pktinfo>().write_unaligned(libc::in_pktinfo {
                ipi_ifindex: 0,
                ipi_spec_dst: libc::in_addr { s_addr: u32::from_ne_bytes(local.octets()) },
                ipi_addr: libc::in_addr { s_addr: 0 },
            }),
            IpAddr::V6(local) => data.cast::<libc::in6_pktinfo>().write_unaligned(libc::in6_pktinfo {
                ipi6_addr: libc::in6_addr { s6_addr: local.octets() },
                ipi6_ifindex: 0,
            }),
        }
    }
    space as usize
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    /// Sends `queries` from one client and answers each by its own bytes; returns what the client got and from where.
    fn echo(listen: &str, asked: &str, queries: &[&[u8]]) -> Vec<(Vec<u8>, SocketAddr)> {
        let socket = bind(listen.parse().unwrap()).unwrap();
        let server = SocketAddr::new(asked.parse().unwrap(), socket.local_addr().unwrap().port());
        let client = UdpSocket::bind(if server.is_ipv4() { "127.0.0.1:0" } else { "[::1]:0" }).unwrap();
        client.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
        for query in queries {
            client.send_to(query, server).unwrap();
        }
        let mut receive = ReceiveBatch::new();
        let mut send = SendBatch::new();
        let mut answered = 0;
        while answered < queries.len() {
            let count = receive.receive(&socket, true).unwrap();
            for index in 0..count {
                let received = receive.datagram(index, 3).unwrap();
                assert_eq!(received.from.token, 3);
                let bytes = received.bytes.len().min(UDP_PAYLOAD_BYTES_MAX);
                send.slot()[..bytes].copy_from_slice(&received.bytes[..bytes]);
                send.push(bytes, &received.from);
            }
            assert_eq!(send.flush(&socket), SendReport { sent: count as u64, dropped: 0, failed: 0 });
            answered += count;
        }
        let mut buffer = [0; 2_048];
        let mut answers = Vec::new();
        for _ in queries {
            let (bytes, from) = client.recv_from(&mut buffer).unwrap();
            answers.push((buffer[..bytes].to_vec(), from));
        }
        answers
    }

    #[test]
    fn a_wildcard_socket_answers_from_the_address_that_was_asked() {
        for (listen, asked) in [("0.0.0.0:0", "127.0.0.7"), ("[::]:0", "::1")] {
            let answers = echo(listen, asked, &[b"one", b"two"]);
            let asked: IpAddr = asked.parse().unwrap();
            assert!(answers.iter().all(|(_, from)| from.ip() == asked), "{answers:?}");
        }
    }

    #[test]
    fn a_bound_socket_answers_more_datagrams_than_a_batch_holds() {
        let queries: Vec<Vec<u8>> = (0..=BATCH_DATAGRAMS as u8).map(|number| vec![number; 40]).collect();
        let queries: Vec<&[u8]> = queries.iter().map(Vec::as_slice).collect();
        let answers = echo("127.0.0.1:0", "127.0.0.1", &queries);
        assert!(answers.iter().map(|(bytes, _)| bytes.as_slice()).eq(queries.iter().copied()));
    }

    #[test]
    fn an_empty_datagram_and_the_largest_one_arrive_whole_and_a_larger_one_is_seen_to_be_cut() {
        let socket = bind("127.0.0.1:0".parse().unwrap()).unwrap();
        let client = UdpSocket::bind("127.0.0.1:0").unwrap();
        let mut receive = ReceiveBatch::new();
        let sizes = [0, DATAGRAM_BYTES_MAX, DATAGRAM_BYTES_MAX + 1, 12];
        for size in sizes {
            client.send_to(&vec![7; size], socket.local_addr().unwrap()).unwrap();
        }
        assert_eq!(receive.receive(&socket, false).unwrap(), sizes.len());
        let seen: Vec<_> = (0..sizes.len()).map(|index| receive.datagram(index, 0).unwrap()).collect();
        assert_eq!(seen.iter().map(|seen| seen.bytes.len()).collect::<Vec<_>>(), [0, 4_096, 4_096, 12]);
        assert_eq!(seen.iter().map(|seen| seen.is_cut).collect::<Vec<_>>(), [false, false, true, false]);
        assert_eq!(receive.datagram(sizes.len(), 0), None);
        assert_eq!(receive.receive(&socket, false).unwrap(), 0);
    }

    #[test]
    fn a_reply_that_the_kernel_refuses_does_not_hold_up_the_ones_behind_it() {
        let socket = bind("127.0.0.1:0".parse().unwrap()).unwrap();
        let client = UdpSocket::bind("127.0.0.1:0").unwrap();
        let reachable = client.local_addr().unwrap();
        let mut send = SendBatch::new();
        // Port 0 cannot be sent to (EINVAL), an IPv6 address not from this socket.
        for to in ["127.0.0.1:0".parse().unwrap(), reachable, "[::1]:53".parse().unwrap(), reachable] {
            send.slot()[..5].copy_from_slice(b"reply");
            send.push(5, &Origin { client: to, local: None, transport: Transport::Udp, token: 0 });
        }
        assert_eq!(send.flush(&socket), SendReport { sent: 2, dropped: 0, failed: 2 });
        assert!(send.is_empty());
        let mut buffer = [0; 16];
        for _ in 0..2 {
            assert_eq!(client.recv(&mut buffer).unwrap(), 5);
        }
    }

    #[test]
    fn an_address_in_use_is_noticed_although_every_worker_shares_its_port() {
        let first = bind("127.0.0.1:0".parse().unwrap()).unwrap();
        let address = first.local_addr().unwrap();
        let second = bind(address).unwrap();
        assert_eq!(is_free(address).unwrap_err().kind(), io::ErrorKind::AddrInUse);
        drop((first, second));
        is_free(address).unwrap();
    }
}
