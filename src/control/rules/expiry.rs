//! The thread that removes rules at their end, as a removal by hand would.

use std::sync::Arc;
use std::time::Duration;
use std::{io, thread};

use super::{LiveRules, Wake};
use crate::control::workers::Workers;
use crate::limits::EXPIRY_RETRY_S;

/// Removes what ends from now on, until the server ends.
///
/// # Errors
/// No thread can be started.
pub fn start(rules: Arc<LiveRules>, workers: Arc<Workers>) -> io::Result<()> {
    let watch = move || {
        loop {
            match rules.wait_for_end() {
                Wake::Closed => return,
                Wake::Look => {}
                Wake::Due => {
                    if let Err(refusal) = rules.expire(&workers) {
                        if workers.are_gone() {
                            return;
                        }
                        tracing::error!(
                            "rules that have ended are not removed everywhere: {refusal}; `corewall reload` does it"
                        );
                        thread::sleep(Duration::from_secs(EXPIRY_RETRY_S));
                    }
                }
            }
        }
    };
    thread::Builder::new().name("expiry".to_owned()).spawn(watch).map(drop)
}
