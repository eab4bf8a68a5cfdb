//! What an answer is known by, and how that is written in front of it.

use ahash::RandomState;
use corewall_sharding::name::{NAME_BYTES_MAX, Name};
use std::hash::{BuildHasher, Hasher};

use super::chunks::Pieces;
use crate::decide::question::Question;
use crate::decide::settings::PolicyId;

/// What makes two questions equal for the cache: never the raw EDNS bytes.
#[derive(Clone, Copy, Debug)]
pub struct CacheKey<'a> {
    /// Under which the answer was judged.
    pub policy: PolicyId,
    /// Lower case.
    pub name: &'a Name,
    /// QTYPE.
    pub qtype: u16,
    /// QCLASS.
    pub qclass: u16,
    /// DO.
    pub dnssec_ok: bool,
    /// CD.
    pub checking_disabled: bool,
    /// The client network that the answer is for, as a number of the caller's; 0 for an answer that is for everybody.
    pub subnet: u64,
}

/// Octets of a key that is for everybody, the name aside.
const PACKED_BYTES: usize = 8;
/// Octets of any key, the name aside.
pub(super) const FIXED_BYTES_MAX: usize = PACKED_BYTES + 8;
/// Which bits of a packed key are QTYPE: an NXDOMAIN is for all types.
const QTYPE_BITS: u64 = 0xffff_0000;
const DNSSEC_OK: u64 = 1 << 49;
const CHECKING_DISABLED: u64 = 1 << 48;
/// The subnet's number follows.
const HAS_SUBNET: u64 = 1 << 50;

impl<'a> CacheKey<'a> {
    /// Of the answer to this question under a policy, for all clients of it.
    pub fn of(question: &'a Question, policy: PolicyId) -> Self {
        let Question { ref name, qtype, qclass, checking_disabled, .. } = *question;
        Self { policy, name, qtype, qclass, dnssec_ok: question.dnssec_ok(), checking_disabled, subnet: 0 }
    }

    /// As it is stored: nearly all answers are for everybody, and do not pay for a subnet.
    pub(super) fn fixed(&self) -> Fixed {
        let flag = |is_set: bool, bit: u64| if is_set { bit } else { 0 };
        let packed = flag(self.dnssec_ok, DNSSEC_OK)
            | flag(self.checking_disabled, CHECKING_DISABLED)
            | flag(self.subnet != 0, HAS_SUBNET)
            | u64::from(self.policy) << 32
            | u64::from(self.qtype) << 16
            | u64::from(self.qclass);
        Fixed { packed, subnet: self.subnet }
    }
}

/// All of a key but the name.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) struct Fixed {
    packed: u64,
    subnet: u64,
}

impl Fixed {
    /// Octets that it takes in front of the name.
    pub(super) fn bytes(self) -> usize {
        if self.subnet == 0 { PACKED_BYTES } else { FIXED_BYTES_MAX }
    }

    /// Its octets; the first [`Fixed::bytes`] of them count.
    pub(super) fn octets(self) -> [u8; FIXED_BYTES_MAX] {
        (u128::from(self.packed) << 64 | u128::from(self.subnet)).to_be_bytes()
    }

    /// The same for every type.
    pub(super) fn of_all_types(self) -> Fixed {
        Fixed { packed: self.packed & !QTYPE_BITS, ..self }
    }

    pub(super) fn hash(self, hashing: &RandomState, name: &[u8]) -> u64 {
        let mut hasher = hashing.build_hasher();
        hasher.write_u64(self.packed);
        if self.subnet != 0 {
            hasher.write_u64(self.subnet);
        }
        hasher.write(name);
        hasher.finish()
    }

    pub(super) fn policy(self) -> PolicyId {
        (self.packed >> 32) as PolicyId
    }

    pub(super) fn qtype(self) -> u16 {
        (self.packed >> 16) as u16
    }

    pub(super) fn qclass(self) -> u16 {
        self.packed as u16
    }

    pub(super) fn dnssec_ok(self) -> bool {
        self.packed & DNSSEC_OK != 0
    }

    pub(super) fn checking_disabled(self) -> bool {
        self.packed & CHECKING_DISABLED != 0
    }

    pub(super) fn subnet(self) -> u64 {
        self.subnet
    }
}

/// A key read back from the chunks.
pub(super) struct StoredKey {
    pub(super) fixed: Fixed,
    name: [u8; NAME_BYTES_MAX],
    name_bytes: usize,
}

impl StoredKey {
    /// Reads it from the start of an entry whose name has so many octets.
    pub(super) fn read(mut stored: Pieces<'_>, name_bytes: usize) -> Self {
        let (mut packed, mut subnet, mut name) = ([0; 8], [0; 8], [0; NAME_BYTES_MAX]);
        stored.copy_to(&mut packed);
        let packed = u64::from_be_bytes(packed);
        if packed & HAS_SUBNET != 0 {
            stored.copy_to(&mut subnet);
        }
        let name_bytes = name_bytes.min(NAME_BYTES_MAX);
        stored.copy_to(name.get_mut(..name_bytes).unwrap_or_default());
        Self { fixed: Fixed { packed, subnet: u64::from_be_bytes(subnet) }, name, name_bytes }
    }

    pub(super) fn name(&self) -> &[u8] {
        self.name.get(..self.name_bytes).unwrap_or_default()
    }
}
