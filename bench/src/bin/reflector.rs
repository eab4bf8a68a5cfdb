//! The floor under every DNS server on this machine: takes a batch of datagrams, sets QR, sends them back.
//!
//! It reads nothing, decides nothing, and looks at one octet. What a server costs above it is the server's own work.

use std::net::SocketAddr;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use clap::Parser;
use corewall_bench::datagrams::{self, BATCH_MAX, Batch, DATAGRAM_BYTES_MAX, Wait};
use corewall_bench::process;

/// How often an idle reflector looks whether it shall stop.
const IDLE_WAIT: Duration = Duration::from_millis(200);

/// Sends DNS questions back as answers, and nothing more.
#[derive(Parser)]
struct Options {
    /// UDP address to listen on
    #[arg(long, default_value = "127.0.0.1:5399")]
    listen: SocketAddr,
    /// Core to run on
    #[arg(long, default_value_t = 0)]
    core: usize,
    /// Datagrams in one system call
    #[arg(long, default_value_t = 32, value_parser = clap::value_parser!(u16).range(1..=BATCH_MAX as i64))]
    batch: u16,
    /// Octets added to each datagram: 16 are the size of one A record
    #[arg(long, default_value_t = 16, value_parser = clap::value_parser!(u16).range(0..=512))]
    answer_bytes: u16,
    /// Spins while nothing comes instead of sleeping: the floor under a server that does so
    #[arg(long)]
    spin: bool,
    /// Stops by itself after this time
    #[arg(long)]
    seconds: Option<u64>,
}

fn main() -> ExitCode {
    match run(&Options::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("reflector: {error}");
            ExitCode::FAILURE
        }
    }
}

fn run(options: &Options) -> Result<(), Box<dyn std::error::Error>> {
    process::pin(options.core)?;
    let stop = Arc::new(AtomicBool::new(false));
    signal_hook::flag::register(signal_hook::consts::SIGTERM, Arc::clone(&stop))?;
    signal_hook::flag::register(signal_hook::consts::SIGINT, Arc::clone(&stop))?;
    let socket = datagrams::listen(options.listen, IDLE_WAIT)?;
    let mut batch = Batch::new(usize::from(options.batch));
    let (mut answers, mut batches) = (0u64, 0u64);
    let started = Instant::now();
    let wait = if options.spin { Wait::Never } else { Wait::First };
    println!("ready on {} core {} batch {}", socket.local_addr()?, options.core, options.batch);
    while !stop.load(Ordering::Relaxed) {
        let received = batch.receive(&socket, wait)?;
        if received == 0 {
            // Only an idle moment looks at the clock.
            if options.seconds.is_some_and(|seconds| started.elapsed() >= Duration::from_secs(seconds)) {
                break;
            }
            continue;
        }
        for index in 0..received {
            let (octets, length) = batch.datagram_mut(index);
            octets[2] |= 0x80;
            *length = (*length + usize::from(options.answer_bytes)).min(DATAGRAM_BYTES_MAX);
        }
        answers += batch.send_all(&socket)? as u64;
        batches += 1;
    }
    println!("answers {answers} in {batches} batches, {:.1} each", answers as f64 / batches.max(1) as f64);
    Ok(())
}
