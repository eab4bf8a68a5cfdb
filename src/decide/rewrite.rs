//! Stage 9, rewrite: addresses in upstream answers replaced, TTLs bounded, before the answer is kept.

use corewall_sharding::rule::IpRewrite;

use super::answer::Answer;
use super::settings::CacheBounds;

/// The generation's address rewrites, longest prefix first. Immutable.
#[derive(Clone, Debug, Default)]
pub struct Rewrites {}

impl Rewrites {
    /// From the generation's rules; of equal prefixes the lower list number wins.
    pub fn new(_rules: &[IpRewrite]) -> Self {
        todo!()
    }
    /// Replaces A and AAAA data by the longest prefix that holds it and applies (`applies` tells whether a list does
    /// under the policy). Signatures over a changed RRset are dropped and AD cleared.
    pub fn apply(&self, _answer: &mut Answer, _applies: &dyn Fn(u16) -> bool) -> bool {
        todo!()
    }
}

/// Caps and lifts the TTLs of `answer`, and returns the seconds it may be kept: 0 means not at all. Negative answers
/// are kept by their SOA (RFC 2308 §5), and not at all without one.
pub fn bound_ttls(_answer: &mut Answer, _qtype: u16, _bounds: &CacheBounds) -> u32 {
    todo!()
}
