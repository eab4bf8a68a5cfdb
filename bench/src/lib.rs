//! What the bench tools share, in the order of a measurement: what is asked, what answer is right, how it travels,
//! how long it took, what it cost the server, and the loop that ties them.
//!
//! Invariant: nothing here uses the appliance's crates, so no mistake of the server can hide in its checker.

pub mod questions;

pub mod name_model;

pub mod fresh_names;

pub mod mixes;

pub mod answer;

pub mod datagrams;

pub mod latency;

pub mod process;

pub mod cores;

pub mod arrivals;

pub mod load;

pub mod server;

pub mod contenders;

pub mod dnsperf;

pub mod big_store;

pub mod sides;

pub mod link;

pub mod kxdpgun;

pub mod figures;

pub mod comparison;

pub mod chart;

pub mod line_chart;
