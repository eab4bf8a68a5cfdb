//! How one upstream server is spoken to, and what its answers are worth: letter case, cookies, client subnets and EDNS put
//! together. [`Peer`] is what a worker remembers of a server; [`Terms`] is what the configuration wants of its group.
//!
//! ```text
//! Peer::word  -> Wording --- request.rs ---> the server
//!                   |                            |
//! Peer::judge <- Wording + ResponseHead <--------+  -> Verdict: take it, wait on, ask again, ask over TCP, refuse it
//! ```
//!
//! Invariants: an answer that a secret of its question speaks against is never taken over UDP. What a forged answer could
//! say about a server is not remembered: letter case and cookies are given up for a while after proof over TCP, or after TCP
//! has failed several times in a row, a plainer form of EDNS only after an answer of use.

use super::answer::ResponseHead;
use super::case::{CaseKeeping, CaseRandomization, CaseVerdict, Spelling};
use super::cookie::ServerCookie;
use super::cookie::held::{CookieVerdict, HeldCookies};
use super::request::{Form, Wording};
use super::subnet::{Network, SubnetPolicy};
use super::wire::rcode;
use super::{Now, Transport};
use crate::limits::PEER_HABIT_S;

/// How the servers of a group are to be spoken to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Terms {
    /// Whether letter case is a secret.
    pub case: CaseRandomization,
    /// Whether cookies are used.
    pub cookies: bool,
    /// Which networks they are told.
    pub subnet: SubnetPolicy,
}

impl Terms {
    /// Those of a configuration that says nothing.
    pub const USUAL: Terms = Terms { case: CaseRandomization::Auto, cookies: true, subnet: SubnetPolicy::USUAL };
}

impl Default for Terms {
    fn default() -> Self {
        Self::USUAL
    }
}

/// What one worker knows of one server; by default nothing.
#[derive(Clone, Copy, Debug, Default)]
pub struct Peer {
    case: CaseKeeping,
    cookies: HeldCookies,
    /// What it takes, as far as known.
    form: Form,
    /// From then on more is tried again.
    form_until: Now,
}

/// How the next send to the same server differs from a first one.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Rewording {
    /// Not with more than this.
    pub form: Form,
    /// The server has just given the cookie that it wants.
    pub is_cookie_retry: bool,
}

impl From<Wording> for Rewording {
    /// As it was sent before.
    fn from(sent: Wording) -> Self {
        Self { form: sent.form, is_cookie_retry: sent.is_cookie_retry }
    }
}

/// What is to be done with an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It is the server's answer, such as it is.
    Take,
    /// It is not the answer: the wait goes on.
    Wait,
    /// The same server is to be asked again, in another way.
    AskAgain(Rewording),
    /// It may be forged: the same server is to be asked over TCP.
    AskOverTcp(Doubt),
    /// The server cannot be had on these terms: another one is to be asked.
    Refuse,
}

/// What speaks against an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Doubt {
    /// No cookie, or one that the server itself does not accept.
    Cookie,
    /// The letter case of its question.
    LetterCase,
}

/// What was sent, as far as an answer has to agree with it.
#[derive(Clone, Copy, Debug)]
pub struct Sent {
    /// How.
    pub transport: Transport,
    /// In which words.
    pub wording: Wording,
    /// About which network.
    pub network: Option<Network>,
}

impl Peer {
    /// How the next send to this server is worded. Both random numbers must be unpredictable.
    pub fn word(&mut self, terms: &Terms, now: Now, random: [u64; 2], again: Rewording) -> Wording {
        let [case_seed, cookie_seed] = random;
        let known = if self.form_until > now { self.form } else { Form::Whole };
        let spelling = if self.case.is_asked(terms.case, now) { Spelling::random(case_seed) } else { Spelling::PLAIN };
        Wording {
            form: known.max(again.form),
            spelling,
            cookie: terms.cookies.then(|| self.cookies.offer(cookie_seed, now)),
            is_cookie_retry: again.is_cookie_retry,
        }
    }

    /// Whether the server has ever answered with cookies.
    pub fn knows_cookies(&self) -> bool {
        self.cookies.knows_cookies()
    }

    /// The server's cookie that goes with a wording.
    pub fn server_cookie(&self, wording: &Wording) -> Option<ServerCookie> {
        wording.sent_cookie().and_then(|client| self.cookies.server_cookie(client))
    }

    /// What is to be done with an answer to `sent`.
    pub fn judge(&mut self, terms: &Terms, now: Now, sent: &Sent, head: &ResponseHead) -> Verdict {
        let Sent { transport, wording, network } = *sent;
        let over_tcp = transport == Transport::Tcp;
        // Over TCP there is nothing to wait on for: the connection has given its answer.
        let not_ours = if over_tcp { Verdict::Refuse } else { Verdict::Wait };
        let mut is_proven = over_tcp;
        if let Some(client) = wording.sent_cookie() {
            let is_retry = wording.is_cookie_retry;
            match self.cookies.judge(now, transport, client, is_retry, &head.cookie, head.rcode) {
                CookieVerdict::Fine => {}
                CookieVerdict::Proven => is_proven = true,
                CookieVerdict::Forged => return not_ours,
                CookieVerdict::Doubtful => return Verdict::AskOverTcp(Doubt::Cookie),
                CookieVerdict::AskAgain => {
                    return Verdict::AskAgain(Rewording { form: wording.form, is_cookie_retry: true });
                }
            }
        }
        if let Some(network) = wording.sent_network(network)
            && !network.is_answered_by(&head.subnet)
        {
            return not_ours;
        }
        if wording.spelling.is_random() {
            match self.case.judge(terms.case, now, head.letter_case, is_proven) {
                CaseVerdict::Fine => {}
                CaseVerdict::Doubtful => return Verdict::AskOverTcp(Doubt::LetterCase),
                CaseVerdict::Refused => return Verdict::Refuse,
            }
        }
        self.judge_form(now, wording, network, head.rcode)
    }

    /// Whether the server took the form in which it was asked.
    fn judge_form(&mut self, now: Now, wording: Wording, network: Option<Network>, rcode: u16) -> Verdict {
        let tells_an_address = wording.sent_network(network).is_some_and(Network::tells_an_address);
        let plainer = match rcode {
            // Servers older than EDNS answer so to an OPT record, others to an option (RFC 6891 §7, RFC 8906 §3.2).
            rcode::FORMERR | rcode::NOTIMP => wording.plainer(network),
            // "It should not have been told a network" (RFC 7871 §7.1.3), or one of a refusal's other meanings.
            rcode::REFUSED if tells_an_address => Some(Form::WithoutNetwork),
            _ => None,
        };
        if let Some(form) = plainer {
            return Verdict::AskAgain(Rewording { form, is_cookie_retry: false });
        }
        let is_of_use = rcode == rcode::NOERROR || rcode == rcode::NXDOMAIN;
        if is_of_use && wording.form > Form::Whole && self.form_until <= now {
            self.form = wording.form;
            self.form_until = now.plus_us(u64::from(PEER_HABIT_S) * 1_000_000);
        }
        Verdict::Take
    }

    /// The server was to be asked over TCP because of this doubt, and could not be.
    pub fn note_unconfirmed(&mut self, now: Now, doubt: Doubt) {
        match doubt {
            Doubt::Cookie => self.cookies.note_unconfirmed(now),
            Doubt::LetterCase => self.case.note_unconfirmed(now),
        }
    }
}

#[cfg(test)]
mod tests;
