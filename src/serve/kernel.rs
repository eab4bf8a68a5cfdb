//! The few system calls that neither the standard library nor glommio offers safely: readiness of many sockets at once (twice),
//! a timer among them, packet information, what steers packets, process limits, a thread's CPU time and cores, a trial ring.
//!
//! Invariant: with `udp.rs` this is the only file of `serve` with `unsafe` in it (`tests/architecture.rs` holds that), and
//! nothing unsafe leaves it: every function takes and returns owned or borrowed descriptors and plain values.

use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsFd, AsRawFd, FromRawFd, IntoRawFd, OwnedFd};
use std::time::Duration;

/// A limit of the process.
#[derive(Clone, Copy, Debug)]
pub enum Resource {
    /// Bytes of locked memory.
    Memlock,
    /// Open files.
    Files,
}

impl Resource {
    fn number(self) -> libc::__rlimit_resource_t {
        match self {
            Self::Memlock => libc::RLIMIT_MEMLOCK,
            Self::Files => libc::RLIMIT_NOFILE,
        }
    }
}

/// Soft and hard limit; nothing when the kernel does not say.
pub fn limit(resource: Resource) -> (u64, u64) {
    let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: `limit` is a valid, writable rlimit for the duration of the call.
    let status = unsafe { libc::getrlimit(resource.number(), &mut limit) };
    if status == 0 { (limit.rlim_cur, limit.rlim_max) } else { (0, 0) }
}

/// Sets the soft limit.
pub fn raise(resource: Resource, soft: u64, hard: u64) -> io::Result<()> {
    let limit = libc::rlimit { rlim_cur: soft, rlim_max: hard };
    // SAFETY: `limit` is a valid rlimit that the kernel only reads.
    check(unsafe { libc::setrlimit(resource.number(), &limit) }).map(drop)
}

/// CPU time that the calling thread has taken so far; nothing when the kernel does not say. Some 0.2 us.
pub fn thread_cpu_time() -> Duration {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: `time` is a valid, writable timespec for the duration of the call.
    let status = unsafe { libc::clock_gettime(libc::CLOCK_THREAD_CPUTIME_ID, &mut time) };
    let (seconds, nanoseconds) = (u64::try_from(time.tv_sec), u32::try_from(time.tv_nsec));
    match (status, seconds, nanoseconds) {
        (0, Ok(seconds), Ok(nanoseconds)) => Duration::new(seconds, nanoseconds),
        _ => Duration::ZERO,
    }
}

/// Lets the calling thread, and those that it starts from now on, run on these cores alone.
pub fn run_on(cores: &[usize]) -> io::Result<()> {
    let bytes = size_of::<libc::cpu_set_t>();
    // SAFETY: a set of processors is plain bits, and all of them clear is a valid one.
    let mut set: libc::cpu_set_t = unsafe { std::mem::zeroed() };
    for &core in cores.iter().filter(|core| **core < 8 * bytes) {
        // SAFETY: the bit of `core` lies within the set.
        unsafe { libc::CPU_SET(core, &mut set) };
    }
    // SAFETY: `set` has `bytes` bytes that the kernel only reads; 0 is the calling thread.
    check(unsafe { libc::sched_setaffinity(0, bytes, &set) }).map(drop)
}

/// Has this program choose the socket for each packet to the group of sockets (SO_REUSEPORT) that this one is of. The kernel
/// keeps a copy.
pub fn steer(socket: &impl AsFd, program: &[libc::sock_filter]) -> io::Result<()> {
    let too_long = |_| io::Error::from_raw_os_error(libc::EINVAL);
    let len = program.len().try_into().map_err(too_long)?;
    let program = libc::sock_fprog { len, filter: program.as_ptr().cast_mut() };
    let (level, option) = (libc::SOL_SOCKET, libc::SO_ATTACH_REUSEPORT_CBPF);
    let bytes = size_of::<libc::sock_fprog>() as libc::socklen_t;
    // SAFETY: the descriptor is open for as long as it is borrowed; `program` has `bytes` bytes and points at `len`
    // instructions that are borrowed for the call, all of which the kernel only reads.
    check(unsafe { libc::setsockopt(socket.as_fd().as_raw_fd(), level, option, (&raw const program).cast(), bytes) })
        .map(drop)
}

/// Sets a small io_uring up and closes it again.
pub fn set_up_ring() -> io::Result<()> {
    /// The kernel's `struct io_uring_params` is 120 bytes; the call fills it in.
    #[repr(C, align(8))]
    struct Params([u8; 120]);
    let mut params = Params([0; 120]);
    let entries: libc::c_uint = 8;
    // SAFETY: `params` is zeroed, writable, and as large and as aligned as the kernel's struct.
    let fd = unsafe { libc::syscall(libc::SYS_io_uring_setup, entries, params.0.as_mut_ptr()) };
    let fd = check(i32::try_from(fd).unwrap_or(-1))?;
    // SAFETY: the call has just returned this descriptor and nobody else knows it.
    drop(unsafe { OwnedFd::from_raw_fd(fd) });
    Ok(())
}

/// Asks for the destination address of each datagram (IP_PKTINFO, IPV6_RECVPKTINFO), so that a socket bound to the wildcard
/// address can answer from the address that was asked.
pub fn receive_packet_info(socket: &impl AsFd, address: SocketAddr) -> io::Result<()> {
    let (level, option) = match address {
        SocketAddr::V4(_) => (libc::IPPROTO_IP, libc::IP_PKTINFO),
        SocketAddr::V6(_) => (libc::IPPROTO_IPV6, libc::IPV6_RECVPKTINFO),
    };
    let on: libc::c_int = 1;
    let bytes = size_of::<libc::c_int>() as libc::socklen_t;
    // SAFETY: the descriptor is open for as long as it is borrowed, and `on` is an int of `bytes` bytes.
    check(unsafe { libc::setsockopt(socket.as_fd().as_raw_fd(), level, option, (&raw const on).cast(), bytes) })
        .map(drop)
}

/// Wraps a descriptor in a type of glommio's, which offers no safe way in.
pub fn adopt<Wrapped: FromRawFd>(descriptor: impl Into<OwnedFd>) -> Wrapped {
    // SAFETY: `into_raw_fd` gives up the only ownership there was, and the wrapper takes it.
    unsafe { Wrapped::from_raw_fd(descriptor.into().into_raw_fd()) }
}

/// What a descriptor's readiness is reported for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Interest {
    /// Reported while there is something to read: the caller reads it until nothing is left.
    Readable,
    /// Reported once for every change in either direction: somebody else reads and writes.
    Change,
}

/// An epoll instance.
#[derive(Debug)]
pub struct Epoll(OwnedFd);

/// The events of one wait; [`Self::tags`] are what the descriptors were added with.
pub struct Events<const MAX: usize> {
    count: usize,
    events: [libc::epoll_event; MAX],
}

impl<const MAX: usize> Events<MAX> {
    /// None.
    pub fn new() -> Self {
        Self { count: 0, events: [libc::epoll_event { events: 0, u64: 0 }; MAX] }
    }

    /// Events of the last wait.
    pub fn count(&self) -> usize {
        self.count
    }

    /// The tag of an event of the last wait.
    pub fn tag(&self, index: usize) -> Option<u64> {
        self.events.get(..self.count)?.get(index).map(|event| event.u64)
    }
}

impl<const MAX: usize> Default for Events<MAX> {
    fn default() -> Self {
        Self::new()
    }
}

impl AsRawFd for Epoll {
    fn as_raw_fd(&self) -> std::os::fd::RawFd {
        self.0.as_raw_fd()
    }
}

impl Epoll {
    /// An instance without descriptors.
    pub fn new() -> io::Result<Self> {
        // SAFETY: no memory is passed; the result is checked before it is used.
        let fd = check(unsafe { libc::epoll_create1(libc::EPOLL_CLOEXEC) })?;
        // SAFETY: the call has just returned this descriptor and nobody else knows it.
        Ok(Self(unsafe { OwnedFd::from_raw_fd(fd) }))
    }

    /// Adds a descriptor. The kernel forgets it when it is closed.
    pub fn add(&self, descriptor: &impl AsRawFd, tag: u64, interest: Interest) -> io::Result<()> {
        let events = match interest {
            Interest::Readable => libc::EPOLLIN,
            Interest::Change => libc::EPOLLIN | libc::EPOLLOUT | libc::EPOLLRDHUP | libc::EPOLLET,
        };
        let mut event = libc::epoll_event { events: events as u32, u64: tag };
        // SAFETY: both descriptors are open for as long as they are borrowed, `event` is valid for the call.
        let status =
            unsafe { libc::epoll_ctl(self.0.as_raw_fd(), libc::EPOLL_CTL_ADD, descriptor.as_raw_fd(), &mut event) };
        check(status).map(drop)
    }

    /// Waits for events, at most `wait_ms` milliseconds. A signal ends the wait without events.
    pub fn wait<const MAX: usize>(&self, events: &mut Events<MAX>, wait_ms: u16) -> io::Result<()> {
        events.count = 0;
        let places = libc::c_int::try_from(MAX).unwrap_or(libc::c_int::MAX);
        // SAFETY: `events.events` has `places` places and outlives the call.
        let count = unsafe {
            libc::epoll_wait(self.0.as_raw_fd(), events.events.as_mut_ptr(), places, libc::c_int::from(wait_ms))
        };
        match check(count) {
            Ok(count) => events.count = usize::try_from(count).unwrap_or(0).min(MAX),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
        Ok(())
    }
}

/// Descriptors that are waited for together, and only while somebody waits.
///
/// A socket in an epoll instance has a sleeper in its queue all the time: each datagram that it sends or gets wakes the instance,
/// whether anybody waits there or not, which costs a reply 2 to 3 % of all that the kernel does for it. `poll(2)` puts a sleeper
/// in when it begins to wait and takes it out again.
#[derive(Debug, Default)]
pub struct PollSet(Vec<libc::pollfd>);

impl PollSet {
    /// Adds a descriptor, and gives the number that it is known by here. One that is closed later counts as ready from then on.
    pub fn add(&mut self, descriptor: &impl AsRawFd) -> usize {
        self.0.push(libc::pollfd { fd: descriptor.as_raw_fd(), events: libc::POLLIN, revents: 0 });
        self.0.len() - 1
    }

    /// Waits until one of them can be read, at most `wait_ms` milliseconds. A signal ends the wait.
    pub fn wait(&mut self, wait_ms: u16) -> io::Result<()> {
        self.0.iter_mut().for_each(|polled| polled.revents = 0);
        // SAFETY: the pointer and the number are those of the vector, which outlives the call; the kernel writes to `revents` alone.
        let ready =
            unsafe { libc::poll(self.0.as_mut_ptr(), self.0.len() as libc::nfds_t, libc::c_int::from(wait_ms)) };
        match check(ready) {
            Err(error) if error.kind() != io::ErrorKind::Interrupted => Err(error),
            _ => Ok(()),
        }
    }

    /// Whether the last wait found the descriptor of this number ready.
    pub fn is_ready(&self, number: usize) -> bool {
        self.0.get(number).is_some_and(|polled| polled.revents != 0)
    }
}

/// A timer with a descriptor, to be waited for among sockets.
#[derive(Debug)]
pub struct Alarm(OwnedFd);

impl Alarm {
    /// One that is not set.
    pub fn new() -> io::Result<Self> {
        let flags = libc::TFD_CLOEXEC | libc::TFD_NONBLOCK;
        // SAFETY: no memory is passed; the result is checked before it is used.
        let fd = check(unsafe { libc::timerfd_create(libc::CLOCK_MONOTONIC, flags) })?;
        // SAFETY: the call has just returned this descriptor and nobody else knows it.
        Ok(Self(unsafe { OwnedFd::from_raw_fd(fd) }))
    }

    /// Makes it readable in `ms` milliseconds, and not before; never when that is 0.
    pub fn set(&self, ms: u16) -> io::Result<()> {
        let after = libc::timespec {
            tv_sec: libc::time_t::from(ms / 1_000),
            tv_nsec: libc::c_long::from(ms % 1_000) * 1_000_000,
        };
        let once = libc::itimerspec { it_interval: libc::timespec { tv_sec: 0, tv_nsec: 0 }, it_value: after };
        // SAFETY: the descriptor is open, `once` is valid for the call, and the old setting is not asked for.
        check(unsafe { libc::timerfd_settime(self.0.as_raw_fd(), 0, &once, std::ptr::null_mut()) }).map(drop)
    }
}

impl AsRawFd for Alarm {
    fn as_raw_fd(&self) -> std::os::fd::RawFd {
        self.0.as_raw_fd()
    }
}

fn check(status: libc::c_int) -> io::Result<libc::c_int> {
    if status < 0 { Err(io::Error::last_os_error()) } else { Ok(status) }
}

#[cfg(test)]
mod tests {
    use std::net::UdpSocket;

    use super::*;

    #[test]
    fn a_readable_socket_is_reported_until_it_is_read_and_a_changed_one_once() {
        let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
        let sender = UdpSocket::bind("127.0.0.1:0").unwrap();
        let mut events = Events::<4>::new();
        let (level, edge) = (Epoll::new().unwrap(), Epoll::new().unwrap());
        level.add(&socket, 7, Interest::Readable).unwrap();
        level.wait(&mut events, 0).unwrap();
        assert_eq!(events.count(), 0);
        sender.send_to(b"x", socket.local_addr().unwrap()).unwrap();
        edge.add(&socket, 9, Interest::Change).unwrap();
        edge.wait(&mut events, 1_000).unwrap();
        assert_eq!((events.count(), events.tag(0), events.tag(1)), (1, Some(9), None));
        edge.wait(&mut events, 0).unwrap();
        assert_eq!(events.count(), 0);
        for _ in 0..2 {
            level.wait(&mut events, 1_000).unwrap();
            assert_eq!(events.tag(0), Some(7));
        }
        socket.recv(&mut [0; 1]).unwrap();
        level.wait(&mut events, 0).unwrap();
        assert_eq!(events.count(), 0);
    }

    #[test]
    fn what_is_polled_is_told_apart_and_an_epoll_instance_may_be_among_it() {
        let sockets = [(); 2].map(|()| UdpSocket::bind("127.0.0.1:0").unwrap());
        let (epoll, alarm, mut polled) = (Epoll::new().unwrap(), Alarm::new().unwrap(), PollSet::default());
        epoll.add(&alarm, 5, Interest::Change).unwrap();
        let numbers = [polled.add(&sockets[0]), polled.add(&sockets[1]), polled.add(&epoll)];
        let ready = |polled: &PollSet| numbers.map(|number| polled.is_ready(number));
        polled.wait(0).unwrap();
        assert_eq!(ready(&polled), [false; 3]);
        sockets[0].send_to(b"x", sockets[1].local_addr().unwrap()).unwrap();
        polled.wait(10_000).unwrap();
        assert_eq!(ready(&polled), [false, true, false]);
        sockets[1].recv(&mut [0; 1]).unwrap();
        alarm.set(1).unwrap();
        polled.wait(10_000).unwrap();
        assert_eq!(ready(&polled), [false, false, true]);
    }

    #[test]
    fn a_thread_that_works_takes_cpu_time() {
        let began = thread_cpu_time();
        assert!(began > Duration::ZERO);
        let mut rounds = 0u64;
        while thread_cpu_time() == began {
            rounds += 1;
        }
        assert!(thread_cpu_time() > began, "after {rounds} rounds");
    }

    #[test]
    fn an_alarm_ends_a_wait_each_time_it_is_set_and_is_reported_once() {
        let (epoll, alarm, mut events) = (Epoll::new().unwrap(), Alarm::new().unwrap(), Events::<4>::new());
        epoll.add(&alarm, 5, Interest::Change).unwrap();
        for _ in 0..2 {
            alarm.set(1).unwrap();
            epoll.wait(&mut events, 10_000).unwrap();
            assert_eq!((events.count(), events.tag(0)), (1, Some(5)));
            epoll.wait(&mut events, 0).unwrap();
            assert_eq!(events.count(), 0, "nobody reads it, and it is not reported again");
        }
    }

    #[test]
    fn this_machine_can_set_a_ring_up_and_tells_its_limits() {
        set_up_ring().unwrap();
        let (soft, hard) = limit(Resource::Files);
        assert!(soft > 0 && soft <= hard);
        raise(Resource::Files, soft, hard).unwrap();
    }
}
