//! How a running server is spoken to: a Unix socket, the requests that come through it, and who carries them out.
//!
//! ```text
//!  corewall status ─► client ─► socket ─► conversation ─► commands ─┬─► an order to each worker, and its reply
//!                               (who may)  (lines, bounds)           ├─► an errand for the control thread: reload, stop
//!                                                                    └─► rules: onto the disk, then to each worker
//! ```
//!
//! Architecture invariants: nothing here runs on a worker, and no worker ever waits for it. Connections are a bounded number
//! of threads that sleep until somebody speaks ([`CONTROL_CONNECTIONS_MAX`]); of their requests one at a time has orders with
//! the workers, so that the orders of the control thread itself always find room in a worker's queue. A request that cannot
//! be carried out is answered, never kept for later.

pub mod client;
pub mod commands;
mod conversation;
pub mod protocol;
pub mod rules;
pub mod socket;
pub mod workers;

use std::io;
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::Duration;

use self::commands::Commands;
use self::protocol::{Refusal, RefusalKind};
use self::socket::ControlSocket;
use crate::limits::CONTROL_CONNECTIONS_MAX;

/// Before the next connection is accepted when accepting has failed, most likely because no descriptor is left.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Answers on the socket from now on, on threads of their own, until the process ends.
///
/// # Errors
/// No thread can be started.
pub fn serve(socket: &ControlSocket, commands: Commands) -> io::Result<()> {
    let listener = socket.listener()?;
    let (commands, places) = (Arc::new(commands), Arc::default());
    let accept = move || {
        let mut has_failed = false;
        for stream in listener.incoming() {
            match stream.and_then(|stream| admit(stream, &commands, &places)) {
                Ok(()) => has_failed = false,
                Err(error) => {
                    // No descriptor or thread is left: for as long as it lasts this goes round, and is said once.
                    if !std::mem::replace(&mut has_failed, true) {
                        tracing::warn!("connections of the control socket cannot be accepted: {error}");
                    }
                    thread::sleep(ACCEPT_PAUSE);
                }
            }
        }
    };
    thread::Builder::new().name("control".to_owned()).spawn(accept).map(drop)
}

/// Gives a connection a thread, or tells it that there are too many.
fn admit(stream: UnixStream, commands: &Arc<Commands>, places: &Arc<AtomicUsize>) -> io::Result<()> {
    let Some(place) = Place::take(places) else {
        let message = format!("{CONTROL_CONNECTIONS_MAX} connections are open; close some, or try again");
        // It has said nothing yet that could be lost, and a socket's buffer holds this: nobody is waited for.
        let _ = conversation::tell(&stream, &Err(Refusal::new(RefusalKind::Busy, message)));
        return Ok(());
    };
    let commands = commands.clone();
    let converse = move || {
        let _place = place;
        if let Err(error) = conversation::converse(&stream, &*commands) {
            tracing::debug!("a connection of the control socket ended: {error}");
        }
    };
    thread::Builder::new().name("control".to_owned()).spawn(converse).map(drop)
}

/// One of the connections that may be open at a time; given back when dropped.
struct Place(Arc<AtomicUsize>);

impl Place {
    fn take(places: &Arc<AtomicUsize>) -> Option<Self> {
        // Counted up by the accepting thread alone, so nobody can come between.
        (places.load(Ordering::Acquire) < CONTROL_CONNECTIONS_MAX).then(|| {
            places.fetch_add(1, Ordering::AcqRel);
            Self(places.clone())
        })
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::AcqRel);
    }
}
