//! Small measurements behind the values in `tuning/`: what a socket holds, what is lost of a burst, what a clock costs to read, what
//! pages of another size save. `bench/tuning.sh` sets the machine up and runs them; each prints one figure, or a few with names.

use std::net::{SocketAddr, UdpSocket};
use std::process::ExitCode;
use std::thread;
use std::time::{Duration, Instant};

use clap::{Parser, Subcommand};
use corewall_bench::datagrams::{self, BATCH_MAX, Batch, Wait};
use corewall_bench::process;
use socket2::{Domain, SockAddr, Socket, Type};

/// Octets of a question such as real ones: a name of 20 with an EDNS record.
const QUESTION_BYTES: usize = 49;
/// Without a datagram for so long, none is on its way.
const QUIET: Duration = Duration::from_millis(200);

/// Measures one thing behind a value in `tuning/`.
#[derive(Parser)]
struct Options {
    #[command(subcommand)]
    what: What,
}

#[derive(Subcommand)]
enum What {
    /// Datagrams that a socket with so large a buffer holds while nobody reads
    Hold {
        /// Bytes asked for
        #[arg(long)]
        bytes: usize,
    },
    /// Datagrams lost of bursts to a socket that is read on another core, none of which overflows its buffer
    Burst {
        /// Datagrams of one burst
        #[arg(long, default_value_t = 4_000)]
        datagrams: usize,
        #[arg(long, default_value_t = 100)]
        bursts: usize,
        /// Core that sends
        #[arg(long, default_value_t = 0)]
        core: usize,
    },
    /// Nanoseconds to read the clock
    Clock,
    /// Nanoseconds to read from memory at random, as a cache is read
    Walk {
        #[arg(long, default_value_t = 256)]
        mib: usize,
    },
}

fn main() -> ExitCode {
    match run(&Options::parse().what) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("tuning: {error}");
            ExitCode::FAILURE
        }
    }
}

fn run(what: &What) -> Result<(), Box<dyn std::error::Error>> {
    match *what {
        What::Hold { bytes } => println!("{}", hold(bytes)?),
        What::Burst { datagrams, bursts, core } => {
            process::pin(core)?;
            let lost = burst(datagrams, bursts)?;
            println!("sent={} lost={lost}", datagrams * bursts);
        }
        What::Clock => println!("{:.1}", clock_ns()),
        What::Walk { mib } => println!("{:.1}", walk_ns(mib)),
    }
    Ok(())
}

/// A socket on loopback with so large a buffer, and one connected to it.
fn pair(bytes: usize) -> Result<(UdpSocket, UdpSocket), Box<dyn std::error::Error>> {
    let socket = Socket::new(Domain::IPV4, Type::DGRAM, None)?;
    socket.set_recv_buffer_size(bytes)?;
    socket.bind(&SockAddr::from(SocketAddr::from(([127, 0, 0, 1], 0))))?;
    let receiver: UdpSocket = socket.into();
    receiver.set_read_timeout(Some(QUIET))?;
    let sender = datagrams::connect(receiver.local_addr()?)?;
    Ok((receiver, sender))
}

/// Sends so many datagrams as fast as the kernel takes them.
fn send(sender: &UdpSocket, count: usize) -> Result<(), Box<dyn std::error::Error>> {
    let mut left = count;
    let mut batch = Batch::new(32.min(BATCH_MAX));
    while left > 0 {
        batch.clear();
        while left > batch.len() && !batch.is_full() {
            batch.push(&[0; QUESTION_BYTES]).ok_or("a question fits")?;
        }
        left -= batch.send(sender, false)?;
    }
    Ok(())
}

/// Reads until nothing comes any more.
fn drain(receiver: &UdpSocket) -> Result<usize, Box<dyn std::error::Error>> {
    let (mut batch, mut seen) = (Batch::new(BATCH_MAX), 0);
    loop {
        match batch.receive(receiver, Wait::First)? {
            0 => return Ok(seen),
            count => seen += count,
        }
    }
}

fn hold(bytes: usize) -> Result<usize, Box<dyn std::error::Error>> {
    let (receiver, sender) = pair(bytes)?;
    send(&sender, 40_000)?;
    drain(&receiver)
}

fn burst(datagrams: usize, bursts: usize) -> Result<usize, Box<dyn std::error::Error>> {
    let (receiver, sender) = pair(4 << 20)?;
    let mut lost = 0;
    for _ in 0..bursts {
        send(&sender, datagrams)?;
        // Whatever was handed to the other core and not dropped is in the socket by then.
        thread::sleep(Duration::from_millis(20));
        lost += datagrams - drain_now(&receiver)?;
    }
    Ok(lost)
}

/// Reads what is there.
fn drain_now(receiver: &UdpSocket) -> Result<usize, Box<dyn std::error::Error>> {
    let (mut batch, mut seen) = (Batch::new(BATCH_MAX), 0);
    loop {
        match batch.receive(receiver, Wait::Never)? {
            0 => return Ok(seen),
            count => seen += count,
        }
    }
}

fn clock_ns() -> f64 {
    const READS: u32 = 5_000_000;
    let started = Instant::now();
    let mut last = started;
    for _ in 0..READS {
        last = std::hint::black_box(Instant::now());
    }
    last.duration_since(started).as_nanos() as f64 / f64::from(READS)
}

/// Follows a chain through all of the memory, one link a cache line, in an order that no prefetcher guesses.
fn walk_ns(mib: usize) -> f64 {
    const LINE_WORDS: usize = 64 / size_of::<usize>();
    let lines = (mib << 20) / 64;
    let mut memory = vec![0usize; lines * LINE_WORDS];
    // A permutation of one cycle (Sattolo), by a generator whose seed is always the same.
    let mut order: Vec<usize> = (0..lines).collect();
    let mut state = 0x9E37_79B9_7F4A_7C15u64;
    for place in (1..lines).rev() {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        order.swap(place, (state >> 33) as usize % place);
    }
    for (place, next) in order.iter().enumerate() {
        memory[place * LINE_WORDS] = next * LINE_WORDS;
    }
    drop(order);
    const STEPS: usize = 5_000_000;
    let mut at = 0;
    let started = Instant::now();
    for _ in 0..STEPS {
        at = memory[at];
    }
    let elapsed = started.elapsed();
    std::hint::black_box(at);
    elapsed.as_nanos() as f64 / STEPS as f64
}
