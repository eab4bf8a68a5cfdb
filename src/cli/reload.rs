//! `corewall reload`: has a running server read configuration and store again, and tells what has become of it.

use super::Failure;
use super::control::ControlArguments;
use crate::control::protocol::{Reloaded, Request};

/// Asks the server, and waits until every worker has gone over.
pub(super) fn run(control: ControlArguments) -> Result<(), Failure> {
    control.ask_and_print(&Request::Reload {}, text)
}

fn text(reloaded: &Reloaded) -> String {
    let serves = match reloaded.generation {
        Some(generation) => format!("generation {generation}, {} rules", reloaded.rules),
        None => "no store, no rules".to_owned(),
    };
    let mut text = format!("reloaded in {} ms: {serves}\n", reloaded.took_ms);
    if !reloaded.at_restart.is_empty() {
        text += &format!("changed at a restart only: {}\n", reloaded.at_restart.join(", "));
    }
    text
}
