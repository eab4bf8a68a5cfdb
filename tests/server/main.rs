//! The real program on loopback: `corewall build`, `serve`, `check` and `explain` as processes, asked over real sockets,
//! with a real second DNS server (nsd) or one played by the test as upstream.
//!
//! Nothing here sleeps. A test waits by reading: a line that the server prints, a datagram, the end of a stream. Time-outs
//! are there only to turn a hang into a failure ([`process::PATIENCE`]). Where an order has to be known (was the question taken
//! in yet?) a question that is answered at once is sent behind it on the same socket: one worker answers in order.

mod client;
mod corewall;
mod namespace;
mod nsd;
mod ports;
mod process;
#[path = "../real_data/mod.rs"]
mod real_data;
mod tool;
mod upstream;

// What is tested.
mod answers;
mod commands;
mod control;
mod dig;
mod dnssec;
mod faults;
mod filters;
mod generations;
mod hostile;
mod hosts;
mod in_memory;
mod interop;
mod lists;
mod reload;
mod rules;
mod saved;
mod slow_disk;
mod start;
mod steering;
mod stop;
mod tcp;
mod upstream_tcp;
mod upstreams;
mod workers;
