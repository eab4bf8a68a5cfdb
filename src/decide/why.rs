//! Why a client gets the answer it gets: the reasons that an Extended DNS Error can give (RFC 8914).

use super::rulebook::RuleBook;
use super::settings::Settings;
use crate::limits::{LISTS_MAX, LIVE_LISTS_MAX};

/// Why an answer is what it is, for the client: an Extended DNS Error (RFC 8914) without its text, which is looked up when
/// the reply is written, so that a cached answer keeps a number only.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Why {
    /// Blocked by a rule of this list.
    List { code: u16, list: u16 },
    /// A failure of ours or of the upstreams.
    Failure(Failure),
}

/// The failures that a client may be told of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u16)]
pub(super) enum Failure {
    NoUpstream,
    UpstreamsSilent,
    UpstreamsDown,
    UpstreamRefused,
    UpstreamBroken,
    ChainTooLong,
    SendsUsedUp,
    StoreFailed,
    Overloaded,
    ClientNotAllowed,
    NotRecursive,
    PrivateAddress,
    NameTooLong,
}

impl Failure {
    const ALL: [Failure; 13] = [
        Failure::NoUpstream,
        Failure::UpstreamsSilent,
        Failure::UpstreamsDown,
        Failure::UpstreamRefused,
        Failure::UpstreamBroken,
        Failure::ChainTooLong,
        Failure::SendsUsedUp,
        Failure::StoreFailed,
        Failure::Overloaded,
        Failure::ClientNotAllowed,
        Failure::NotRecursive,
        Failure::PrivateAddress,
        Failure::NameTooLong,
    ];

    /// INFO-CODE (RFC 8914 §4) and EXTRA-TEXT.
    pub(super) fn ede(self) -> (u16, &'static str) {
        match self {
            Failure::NoUpstream => (22, "no upstream server is configured"),
            Failure::UpstreamsSilent => (22, "no upstream server answered"),
            Failure::UpstreamsDown => (22, "the upstream servers are down, and enough questions wait for them"),
            Failure::UpstreamRefused => (22, "the upstream servers failed to resolve the name"),
            Failure::UpstreamBroken => (23, "the upstream server's answer is broken"),
            Failure::ChainTooLong => (0, "the chain of aliases is a loop or too long"),
            Failure::SendsUsedUp => (22, "the chain of names took too many questions to the upstream servers"),
            Failure::StoreFailed => (0, "the rule store cannot be read"),
            Failure::Overloaded => (0, "too many questions are waiting"),
            Failure::ClientNotAllowed => (18, "this client is not allowed"),
            // 15, Blocked: "due to an internal security policy" (RFC 8914 §4.16).
            Failure::PrivateAddress => (15, "the upstream gave this name a private address"),
            Failure::NotRecursive => (20, "not a rule's name, and recursion was not desired"),
            Failure::NameTooLong => (0, "the name that an alias leads to is too long"),
        }
    }
}

impl Why {
    /// Whether nothing but what the upstreams did is the reason.
    pub(super) fn is_of_upstreams(self) -> bool {
        matches!(self, Why::Failure(Failure::UpstreamsSilent | Failure::UpstreamRefused | Failure::UpstreamBroken))
    }

    /// As a cached answer keeps it.
    pub(super) fn to_code_and_text(self) -> (u16, u16) {
        match self {
            Why::List { code, list } => (code, list),
            Why::Failure(failure) => (failure.ede().0, FAILURE_TEXTS + failure as u16),
        }
    }
}

/// Text numbers from here on are failures', below it lists'.
const FAILURE_TEXTS: u16 = 1 << 15;
const _: () = assert!(LISTS_MAX + LIVE_LISTS_MAX <= FAILURE_TEXTS as usize, "no list's number is a failure's");

/// The text of a number of [`Why::to_code_and_text`].
pub(super) fn ede_text<'a>(settings: &Settings, rules: &'a RuleBook, text: u16) -> &'a str {
    match text.checked_sub(FAILURE_TEXTS) {
        Some(failure) => Failure::ALL.get(usize::from(failure)).map_or("", |failure| failure.ede().1),
        None if settings.ede_text => rules.list(text).map_or("", |list| list.ede_text.as_str()),
        None => "",
    }
}
