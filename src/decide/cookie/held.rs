//! Cookies towards one upstream server, whose client we are (RFC 7873 §5.1, §5.3): our own cookie, which an answer must
//! repeat, and the server's, by which it knows that we are where our questions come from.
//!
//! Invariants: no two servers get the same client cookie, and none gets one for longer than [`CLIENT_COOKIE_S_MAX`]. A server
//! that has once answered with cookies is believed without one over TCP only, and after such an answer for
//! [`PEER_HABIT_S`](crate::limits::PEER_HABIT_S): some of the machines behind one address may know cookies and others not. The
//! same when TCP fails again and again.

use super::{CLIENT_COOKIE_BYTES, ClientCookie, Cookie, ServerCookie};
use crate::decide::leniency::Leniency;
use crate::decide::wire::rcode;
use crate::decide::{Now, Transport};
use crate::limits::CLIENT_COOKIE_S_MAX;

/// What is known of one server.
#[derive(Clone, Copy, Debug)]
pub struct HeldCookies {
    client: ClientCookie,
    /// When the client cookie was drawn; none before the first question.
    drawn: Option<Now>,
    /// What it gave us last for this client cookie.
    server: Option<ServerCookie>,
    /// It has answered with cookies.
    knows_cookies: bool,
    /// It has shown over TCP that it does not always: an answer without one is no wonder for a while.
    leniency: Leniency,
}

/// A cookie in an answer, as far as it could be read.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum CookieSeen {
    /// There is no such option.
    #[default]
    None,
    /// It has no length that is allowed.
    Malformed,
    /// This one.
    Read(Cookie),
}

/// What an answer's cookie means for it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CookieVerdict {
    /// Nothing is wrong; the sender need not have seen our question, though.
    Fine,
    /// The sender has seen our question.
    Proven,
    /// Not the answer to our question: the wait goes on (RFC 7873 §5.3).
    Forged,
    /// A server that knows cookies would have sent one, or sends one that it does not accept itself: only TCP can tell.
    Doubtful,
    /// The server wants the cookie that it has just given (BADCOOKIE).
    AskAgain,
}

impl Default for HeldCookies {
    /// Nothing is known of the server yet.
    fn default() -> Self {
        Self {
            client: ClientCookie([0; CLIENT_COOKIE_BYTES]),
            drawn: None,
            server: None,
            knows_cookies: false,
            leniency: Leniency::default(),
        }
    }
}

impl HeldCookies {
    /// What the next question bears. The client cookie is drawn with the first one and changes from time to time, so that
    /// nobody follows us by it for long; `random` must be unpredictable.
    pub fn offer(&mut self, random: u64, now: Now) -> ClientCookie {
        if self.drawn.is_none_or(|drawn| now.seconds_since(drawn) >= CLIENT_COOKIE_S_MAX) {
            self.client = ClientCookie(random.to_be_bytes());
            self.drawn = Some(now);
            // It was made for the other one.
            self.server = None;
        }
        self.client
    }

    /// Whether the server has ever answered with cookies.
    pub fn knows_cookies(&self) -> bool {
        self.knows_cookies
    }

    /// The server's cookie that belongs to this client cookie.
    pub fn server_cookie(&self, client: ClientCookie) -> Option<ServerCookie> {
        self.server.filter(|_| self.client == client)
    }

    /// An answer to a question that bore `sent`. `is_retry`: the question bore what the server had given with a BADCOOKIE.
    pub fn judge(
        &mut self,
        now: Now,
        transport: Transport,
        sent: ClientCookie,
        is_retry: bool,
        seen: &CookieSeen,
        rcode: u16,
    ) -> CookieVerdict {
        let over_tcp = transport == Transport::Tcp;
        let cookie = match seen {
            CookieSeen::Read(cookie) if cookie.client == sent => cookie,
            CookieSeen::Read(_) | CookieSeen::Malformed => return CookieVerdict::Forged,
            CookieSeen::None if over_tcp => {
                if self.knows_cookies {
                    self.leniency.begin(now);
                }
                return CookieVerdict::Fine;
            }
            CookieSeen::None => {
                // A BADCOOKIE speaks of cookies and so must bear one (RFC 7873 §5.2.3).
                let is_missed = self.knows_cookies && self.leniency.is_over(now);
                let is_doubtful = is_missed || rcode == rcode::BADCOOKIE;
                return if is_doubtful { CookieVerdict::Doubtful } else { CookieVerdict::Fine };
            }
        };
        self.knows_cookies = true;
        self.leniency.note_proof();
        if cookie.server.is_some() && self.client == sent {
            self.server = cookie.server;
        }
        match (rcode == rcode::BADCOOKIE && !over_tcp, is_retry) {
            (false, _) => CookieVerdict::Proven,
            (true, false) => CookieVerdict::AskAgain,
            // It does not accept what it gave us itself: machines with different secrets (RFC 7873 §5.3).
            (true, true) => CookieVerdict::Doubtful,
        }
    }

    /// A doubtful answer could not be confirmed, for TCP failed.
    pub fn note_unconfirmed(&mut self, now: Now) {
        self.leniency.note_unconfirmed(now);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::limits::{PEER_DOUBTS_MAX, PEER_HABIT_S};

    const HOUR: u64 = PEER_HABIT_S as u64 * 1_000_000;
    const UDP: Transport = Transport::Udp;
    const TCP: Transport = Transport::Tcp;

    fn seen(client: ClientCookie, server: &[u8]) -> CookieSeen {
        CookieSeen::Read(Cookie::read(&[&client.0, server].concat()).unwrap())
    }

    /// A server, and the cookie that it is sent.
    fn held() -> (HeldCookies, ClientCookie) {
        let mut held = HeldCookies::default();
        let sent = held.offer(0x0123_4567_89ab_cdef, Now(0));
        assert_eq!(sent, ClientCookie(*b"\x01\x23\x45\x67\x89\xab\xcd\xef"));
        (held, sent)
    }

    #[test]
    fn a_server_that_has_never_sent_a_cookie_need_not() {
        let (mut held, sent) = held();
        assert_eq!(held.judge(Now(1), UDP, sent, false, &CookieSeen::None, rcode::NOERROR), CookieVerdict::Fine);
        assert_eq!(held.server_cookie(sent), None);
    }

    #[test]
    fn what_a_server_gives_is_sent_back_to_it() {
        let (mut held, sent) = held();
        assert_eq!(
            held.judge(Now(1), UDP, sent, false, &seen(sent, b"server01"), rcode::NOERROR),
            CookieVerdict::Proven
        );
        assert_eq!(held.server_cookie(sent).unwrap().as_bytes(), b"server01");
        assert_eq!(
            held.judge(Now(2), UDP, sent, false, &seen(sent, b"server-no2"), rcode::SERVFAIL),
            CookieVerdict::Proven
        );
        assert_eq!(held.server_cookie(sent).unwrap().as_bytes(), b"server-no2", "errors bring cookies as well");
        assert_eq!(held.judge(Now(3), UDP, sent, false, &seen(sent, b""), rcode::NOERROR), CookieVerdict::Proven);
        assert!(held.server_cookie(sent).is_some(), "an answer without a new one leaves the old one");
        assert_eq!(held.server_cookie(ClientCookie(*b"anotherc")), None);
    }

    #[test]
    fn another_clients_cookie_or_a_malformed_one_is_not_our_answer() {
        let (mut held, sent) = held();
        for transport in [UDP, TCP] {
            let other = seen(ClientCookie(*b"guessed!"), b"server01");
            assert_eq!(held.judge(Now(1), transport, sent, false, &other, rcode::NOERROR), CookieVerdict::Forged);
            assert_eq!(
                held.judge(Now(1), transport, sent, false, &CookieSeen::Malformed, rcode::NOERROR),
                CookieVerdict::Forged
            );
        }
        assert!(!held.knows_cookies && held.server_cookie(sent).is_none(), "and teaches us nothing");
    }

    #[test]
    fn a_server_known_for_cookies_that_sends_none_is_asked_over_tcp_and_then_believed_for_a_while() {
        let (mut held, sent) = held();
        held.judge(Now(1), UDP, sent, false, &seen(sent, b"server01"), rcode::NOERROR);
        let none = &CookieSeen::None;
        assert_eq!(held.judge(Now(2), UDP, sent, false, none, rcode::NOERROR), CookieVerdict::Doubtful);
        assert_eq!(held.judge(Now(2), UDP, sent, false, none, rcode::NOERROR), CookieVerdict::Doubtful);
        assert_eq!(held.judge(Now(3), TCP, sent, false, none, rcode::NOERROR), CookieVerdict::Fine);
        assert_eq!(held.judge(Now(4), UDP, sent, false, none, rcode::NOERROR), CookieVerdict::Fine);
        assert_eq!(held.judge(Now(3 + HOUR), UDP, sent, false, none, rcode::NOERROR), CookieVerdict::Doubtful);
    }

    #[test]
    fn tcp_answers_of_servers_without_cookies_make_no_difference() {
        let (mut held, sent) = held();
        assert_eq!(held.judge(Now(3), TCP, sent, false, &CookieSeen::None, rcode::NOERROR), CookieVerdict::Fine);
        held.judge(Now(4), UDP, sent, false, &seen(sent, b"server01"), rcode::NOERROR);
        assert_eq!(held.judge(Now(5), UDP, sent, false, &CookieSeen::None, rcode::NOERROR), CookieVerdict::Doubtful);
    }

    #[test]
    fn badcookie_is_answered_by_the_new_cookie_and_the_second_time_by_tcp() {
        let (mut held, sent) = held();
        assert_eq!(
            held.judge(Now(1), UDP, sent, false, &seen(sent, b"server01"), rcode::BADCOOKIE),
            CookieVerdict::AskAgain
        );
        assert_eq!(held.server_cookie(sent).unwrap().as_bytes(), b"server01");
        assert_eq!(
            held.judge(Now(2), UDP, sent, true, &seen(sent, b"server02"), rcode::BADCOOKIE),
            CookieVerdict::Doubtful
        );
        assert_eq!(
            held.judge(Now(3), TCP, sent, true, &seen(sent, b"server03"), rcode::BADCOOKIE),
            CookieVerdict::Proven
        );
        let (mut held, sent) = super::tests::held();
        assert_eq!(held.judge(Now(1), UDP, sent, false, &CookieSeen::None, rcode::BADCOOKIE), CookieVerdict::Doubtful);
    }

    #[test]
    fn a_server_without_tcp_that_has_given_up_cookies_is_believed_after_some_doubts_in_a_row() {
        let (mut held, sent) = held();
        let with = seen(sent, b"server01");
        for _ in 0..2 {
            held.judge(Now(1), UDP, sent, false, &with, rcode::NOERROR);
            for _ in 1..PEER_DOUBTS_MAX {
                held.note_unconfirmed(Now(2));
                let verdict = held.judge(Now(2), UDP, sent, false, &CookieSeen::None, rcode::NOERROR);
                assert_eq!(verdict, CookieVerdict::Doubtful);
            }
        }
        held.note_unconfirmed(Now(2));
        assert_eq!(held.judge(Now(2), UDP, sent, false, &CookieSeen::None, rcode::NOERROR), CookieVerdict::Fine);
    }

    #[test]
    fn the_client_cookie_is_changed_once_a_day_and_the_servers_goes_with_it() {
        let (mut held, sent) = held();
        held.judge(Now(1), UDP, sent, false, &seen(sent, b"server01"), rcode::NOERROR);
        let day = u64::from(CLIENT_COOKIE_S_MAX) * 1_000_000;
        assert_eq!(held.offer(7, Now(day - 1)), sent);
        let next = held.offer(7, Now(day));
        assert_ne!(next, sent);
        assert_eq!(held.server_cookie(next), None);
        // A late answer to the last question with the old one is still its answer.
        assert_eq!(
            held.judge(Now(day), UDP, sent, false, &seen(sent, b"server01"), rcode::NOERROR),
            CookieVerdict::Proven
        );
        assert_eq!(held.server_cookie(next), None, "but its cookie is for the old one");
    }
}
