//! `corewall stop`: ends a running server, as SIGTERM does, and waits for its end.

use super::Failure;
use super::control::{ControlArguments, failure};
use crate::control::protocol::{Request, Stopping};

/// Asks the server, and waits until it has ended.
pub(super) fn run(control: ControlArguments) -> Result<(), Failure> {
    let mut client = control.connect()?;
    let stopping: Stopping = client.ask(&Request::Stop {}).map_err(failure)?;
    client.wait_for_end().map_err(failure)?;
    control.print(&stopping, |stopping| format!("stopped: process {}\n", stopping.pid))
}
