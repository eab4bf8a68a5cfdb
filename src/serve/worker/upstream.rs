//! The worker's side towards upstream servers: what `decide` wants sent is sent, what comes is handed to it.

use super::{Failed, Worker};
use crate::decide::{ExchangeId, Now, SendId, Transport, Undelivered};
use crate::limits::UPSTREAM_ANSWERS_IN_A_ROW_MAX;
use crate::serve::upstream::Unsent;
use crate::serve::upstream::pool::Connection;
use crate::serve::upstream::ports::Heard;

impl Worker {
    /// Hears what came on an upstream port.
    pub(super) fn hear(&mut self, now: Now, port: u32) -> bool {
        for heard in 0..UPSTREAM_ANSWERS_IN_A_ROW_MAX {
            match self.ports.receive(port, &mut self.answer) {
                Heard::Message { server, slot, bytes } => {
                    let message = self.answer.get(..bytes).unwrap_or_default();
                    self.core.on_upstream(now, server, Transport::Udp, slot, message);
                }
                Heard::Refused { server, slot } => {
                    self.failed.push_back(Failed::Socket(server, slot));
                    self.drain(now);
                    // What was sent just now may have been refused already: only at a later moment is that told from the
                    // refusal of what was sent before.
                    return true;
                }
                // Which of the questions of then it is about is not known; each has its time-out.
                Heard::RefusedLate => {}
                Heard::Nothing => return heard > 0,
            }
            self.drain(now);
        }
        true
    }

    /// Sends what `decide` has made ready to be sent. `is_again`: the TCP connection that it was sent on has ended.
    pub(super) fn send_upstream(&mut self, now: Now, send: SendId, is_again: bool) {
        let Some(request) = self.core.upstream_request(send) else { return };
        let sent = match request.transport {
            Transport::Udp => {
                let opened = self.ports.opened();
                let sent = self.ports.send(now, &request, &self.epoll);
                self.counters.upstream_ports.add(self.ports.opened() - opened);
                sent
            }
            Transport::Tcp => {
                self.has_work_for_others = true;
                match (self.pool.send(now, send, &request, is_again), &self.connect_upstream) {
                    (Ok(None), _) => Ok(()),
                    (Ok(Some(token)), Some(connect)) => {
                        self.counters.upstream_connections.add(1);
                        connect(token, request.address);
                        Ok(())
                    }
                    (Ok(Some(token)), None) => {
                        self.pool.close(token, now);
                        Err(Unsent::NoRoom)
                    }
                    (Err(unsent), _) => Err(unsent),
                }
            }
        };
        let Err(unsent) = sent else { return };
        self.counters.upstream_unsent.add(1);
        let failed = match unsent {
            Unsent::Refused => Failed::Socket(request.server, request.socket),
            _ => Failed::Send(send, unsent.into()),
        };
        // Reported after all that is ready now has been carried out: `decide` is in the middle of handing it out.
        self.failed.push_back(failed);
    }

    /// No answer to an exchange's questions is waited for any more.
    pub(super) fn forget_exchange(&mut self, exchange: ExchangeId) {
        self.pool.forget(exchange);
    }

    /// A TCP connection with an upstream server that is still open.
    pub fn upstream_connection(&mut self, token: u64) -> Option<&mut Connection> {
        self.pool.get_mut(token)
    }

    /// Takes a message that came over TCP from an upstream server.
    pub fn take_upstream_message(&mut self, token: u64, message: &[u8]) {
        let now = self.clock.now();
        if let Some(server) = self.pool.take(now, token, message) {
            self.core.on_upstream(now, server, Transport::Tcp, 0, message);
        }
        self.settle(now);
    }

    /// A TCP connection with an upstream server has ended, or was never made. `why` is held against the server, or not.
    pub fn upstream_connection_ended(&mut self, token: u64, why: Undelivered) {
        let now = self.clock.now();
        self.lose(now, token, why);
        self.settle(now);
    }

    fn lose(&mut self, now: Now, token: u64, why: Undelivered) {
        let lost = self.pool.close(token, now);
        for send in lost.again {
            // One that has been given up for another is not worth a second try.
            if self.core.is_awaited(send) {
                self.counters.upstream_again.add(1);
                self.send_upstream(now, send, true);
            }
        }
        self.failed.extend(lost.failed.into_iter().map(|send| Failed::Send(send, why)));
    }

    /// Closes the TCP connections with upstream servers that are of no use any more. To be called about once a second.
    pub fn sweep_upstream_connections(&mut self) {
        let now = self.clock.now();
        self.pool.sweep(now);
    }
}
