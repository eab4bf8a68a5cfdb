//! Nanoseconds beside the instructions: what these are worth on this machine.
//!
//! A figure is for readers and no gate. The fastest tenth of many short turns counts, for in the others the process shared
//! its core; caches are warm, for the same thousand names come again each turn.

use std::time::{Duration, Instant};

use crate::Failure;
use crate::stages::Ready;

/// Turns at least.
const TURNS_MIN: usize = 30;
/// Time for the turns of one stage, what is not measured of them aside.
const MEASURED_MIN: Duration = Duration::from_millis(300);

/// Nanoseconds an operation.
///
/// # Errors
/// The stage fails.
pub fn measure(ready: &mut Ready<'_>) -> Result<f64, Failure> {
    let (mut turns, mut measured) = (Vec::new(), Duration::ZERO);
    while turns.len() < TURNS_MIN || measured < MEASURED_MIN {
        ready.prepare();
        let started = Instant::now();
        let done = ready.run();
        let took = started.elapsed();
        ready.check(done)?;
        measured += took;
        turns.push(took);
    }
    turns.sort();
    Ok(turns[turns.len() / 10].as_nanos() as f64 / ready.operations() as f64)
}
