//! One cached answer, beside its octets.

use crate::decide::Now;
use crate::decide::upstream::GroupId;
use crate::limits::PREFETCH_TTL_S_MIN;

/// How a cached answer came about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Origin {
    /// By a rule: true until the rules change, never ages.
    Rule,
    /// An upstream group's own words.
    Upstream {
        /// Which one.
        group: GroupId,
        /// Whether names of a chain were judged beside the asked one, so that judging that one again does not suffice
        /// after the rules changed.
        chain: bool,
    },
    /// Made here of what an upstream group said: a block for what its answer holds, an alias with its target's answer. It
    /// lives as long as the upstream's words, and holds under the very rules that it was made by.
    Derived {
        /// Which one.
        group: GroupId,
    },
    /// A failure to resolve (RFC 9520).
    Failure,
}

impl Origin {
    /// The upstream group whose words it stands on.
    pub fn group(self) -> Option<GroupId> {
        match self {
            Origin::Upstream { group, .. } | Origin::Derived { group } => Some(group),
            Origin::Rule | Origin::Failure => None,
        }
    }
}

/// What is kept beside the body.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EntryHead {
    /// See [`Origin`].
    pub origin: Origin,
    /// Extended RCODE.
    pub rcode: u16,
    /// AD.
    pub authentic_data: bool,
    /// Bits of the client's network that it is for, see [`super::super::reply::ReplyHead`].
    pub scope_bits: Option<u8>,
    /// INFO-CODE and the number of its text, meaning the caller's business.
    pub ede: Option<(u16, u16)>,
    /// The rules under which it was judged (generation and, later, overlay sequence); 0 for rules of another time.
    pub rules: u64,
    /// No rules but those on the very name made it what it is: neither on another name, nor on addresses.
    pub by_name_alone: bool,
    /// When it was stored.
    pub stored: Now,
    /// Seconds that it may be served from then; `u32::MAX` for [`Origin::Rule`].
    pub ttl_s: u32,
}

impl EntryHead {
    /// Nothing stored.
    pub(super) const EMPTY: EntryHead = EntryHead {
        origin: Origin::Failure,
        rcode: 0,
        authentic_data: false,
        scope_bits: None,
        ede: None,
        rules: 0,
        by_name_alone: false,
        stored: Now(0),
        ttl_s: 0,
    };

    /// Seconds by which its TTLs have gone down.
    pub(super) fn age_s(&self, now: Now) -> u32 {
        if self.origin == Origin::Rule { 0 } else { now.seconds_since(self.stored) }
    }
}

/// A place in the cache, valid until the next insertion.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EntryId(pub(super) u32);

/// How old a cached answer is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Freshness {
    /// Within its TTL.
    Fresh,
    /// The same, but near the end: the upstream is to be asked again now, so that it never ends (see
    /// [`super::Cache::take_refresh`]).
    Due,
    /// Past its TTL, within the window of RFC 8767.
    Stale {
        /// The upstreams have just failed to renew it, and are not to be asked again yet (RFC 9520).
        is_failing: bool,
    },
}

/// How long answers are good for something, by the configuration.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Terms {
    /// Seconds that an expired answer is kept for when the upstreams fail (RFC 8767).
    pub stale_window_s: u32,
    /// The last part of a TTL, in percent, in which a popular answer is asked for again; 0 for never.
    pub prefetch_percent: u32,
}

impl Terms {
    /// The age in seconds at which an answer is to be asked for again: when it ends, or some time before.
    pub(super) fn refresh_from_s(&self, head: &EntryHead) -> u32 {
        if self.prefetch_percent == 0 || head.ttl_s < PREFETCH_TTL_S_MIN || head.origin.group().is_none() {
            return head.ttl_s;
        }
        let part_s = u64::from(head.ttl_s) * u64::from(self.prefetch_percent) / 100;
        head.ttl_s.saturating_sub(u32::try_from(part_s).unwrap_or(u32::MAX).max(1))
    }
}

/// What there is of an entry beside its octets, under the number of its first chunk: one cache line.
#[repr(align(64))]
#[derive(Clone)]
pub(super) struct Meta {
    pub(super) head: EntryHead,
    /// Neighbours in the queue.
    pub(super) newer: u32,
    pub(super) older: u32,
    /// The age in seconds before which the upstream is not asked again for it.
    pub(super) refresh_from_s: u32,
    pub(super) body_bytes: u16,
    pub(super) answers: u16,
    pub(super) authorities: u16,
    /// Octets of the name; 0 marks a chunk that begins no entry, for the root name has one.
    pub(super) name_bytes: u8,
    /// Octets in front of the name.
    pub(super) name_at: u8,
    /// Hits so far, up to 255.
    pub(super) hits: u8,
    /// Hit since the hand passed.
    pub(super) is_used: bool,
    /// The last attempt to ask for it again failed.
    pub(super) has_failed: bool,
    /// It is in the index of [`super::cuts`].
    pub(super) is_cut: bool,
}

const _: () = assert!(size_of::<Meta>() == 64);

impl Meta {
    pub(super) const EMPTY: Meta = Meta {
        head: EntryHead::EMPTY,
        newer: super::chunks::NONE,
        older: super::chunks::NONE,
        refresh_from_s: 0,
        body_bytes: 0,
        answers: 0,
        authorities: 0,
        name_bytes: 0,
        name_at: 0,
        hits: 0,
        is_used: false,
        has_failed: false,
        is_cut: false,
    };

    /// Records in the body.
    pub(super) fn records(&self) -> usize {
        usize::from(self.answers) + usize::from(self.authorities)
    }

    /// Octets in front of the places of the TTLs.
    pub(super) fn places_at(&self) -> usize {
        usize::from(self.name_at) + usize::from(self.name_bytes)
    }
}
