//! Letter case of a question as a secret (draft-vixie-dnsext-dns0x20): each send spells the name in a case of its own, which
//! the answer has to repeat, so that whoever makes an answer up without having seen the question has that to guess too.
//!
//! Invariant: a spelling is a function of its seed and the name, so that it can be made again when the answer comes. It
//! differs from the name in letter case only.
//!
//! A server that does not repeat the case is told from a forged answer by asking again over TCP, where nobody can forge:
//!
//! | answer | over UDP | over UDP, with our cookie | over TCP |
//! |---|---|---|---|
//! | in our case | taken | taken | taken |
//! | in another, `auto` | asked again over TCP | taken, the server is spared | taken, the server is spared |
//! | in another, `on` | asked again over TCP | refused | refused |

use std::num::NonZeroU64;

use super::Now;
use super::leniency::Leniency;

/// Whether letter case is a secret towards an upstream group.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum CaseRandomization {
    /// With servers that keep it.
    #[default]
    Auto,
    /// Always; answers of servers that do not keep it are not taken.
    On,
    /// Never.
    Off,
}

/// How one send spells its name; none is in lower case.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Spelling(Option<NonZeroU64>);

impl Spelling {
    /// In lower case.
    pub const PLAIN: Spelling = Spelling(None);

    /// One of 2^64, or as many as the name has letters. `seed` must be unpredictable.
    pub fn random(seed: u64) -> Self {
        // The one seed that cannot be kept stands in for another.
        Self(Some(NonZeroU64::new(seed).unwrap_or(NonZeroU64::MAX)))
    }

    /// Whether the answer's case tells anything.
    pub fn is_random(self) -> bool {
        self.0.is_some()
    }

    /// Spells a name in lower case and wire format. Octets of length are below any letter, so they stay as they are.
    pub fn apply(self, name: &mut [u8]) {
        let Some(seed) = self.0 else { return };
        let mut bits = seed.get();
        for octet in name {
            // Without branches, which no processor could foretell: 20 ns a name instead of 130.
            let is_letter = u8::from(octet.is_ascii_lowercase());
            *octet ^= (bits as u8 & is_letter) << CASE_BIT;
            // More than 64 letters repeat the pattern: 64 bits are more than anyone guesses.
            bits = bits.rotate_right(u32::from(is_letter));
        }
    }
}

/// The bit by which lower and upper case of an ASCII letter differ.
const CASE_BIT: u32 = 5;

/// Whether an answer repeats a question's letter case.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LetterCase {
    /// Octet for octet.
    Kept,
    /// The same name otherwise.
    Changed,
}

/// What is known of how one server treats letter case.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CaseKeeping {
    spared: Leniency,
}

/// What an answer's letter case means for it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CaseVerdict {
    /// Nothing is wrong with it.
    Fine,
    /// It may be forged: only TCP can tell.
    Doubtful,
    /// The server does not do what it was configured to do.
    Refused,
}

impl CaseKeeping {
    /// Whether the next question is spelled at random.
    pub fn is_asked(&self, mode: CaseRandomization, now: Now) -> bool {
        match mode {
            CaseRandomization::Auto => self.spared.is_over(now),
            CaseRandomization::On => true,
            CaseRandomization::Off => false,
        }
    }

    /// An answer to a question that was spelled at random. `is_proven`: it cannot be forged, for it came over TCP or bears our
    /// cookie.
    pub fn judge(&mut self, mode: CaseRandomization, now: Now, case: LetterCase, is_proven: bool) -> CaseVerdict {
        match (case, is_proven, mode) {
            (LetterCase::Kept, ..) => {
                self.spared.note_proof();
                CaseVerdict::Fine
            }
            (LetterCase::Changed, false, _) => CaseVerdict::Doubtful,
            (LetterCase::Changed, true, CaseRandomization::On) => CaseVerdict::Refused,
            (LetterCase::Changed, true, _) => {
                self.spared.begin(now);
                CaseVerdict::Fine
            }
        }
    }

    /// A doubtful answer could not be confirmed, for TCP failed.
    pub fn note_unconfirmed(&mut self, now: Now) {
        self.spared.note_unconfirmed(now);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::limits::{PEER_DOUBTS_MAX, PEER_HABIT_S};

    const HOUR: u64 = PEER_HABIT_S as u64 * 1_000_000;

    fn spelled(seed: u64, name: &[u8]) -> Vec<u8> {
        let mut name = name.to_vec();
        Spelling::random(seed).apply(&mut name);
        name
    }

    #[test]
    fn a_spelling_changes_letters_only_and_can_be_made_again() {
        let name = b"\x03www\x0aa-1_b.exam\x02\xc3\xa4\x3fzzz\0";
        assert_eq!(spelled(0b1011, b"\x03www\x03com\0"), b"\x03WWw\x03Com\0");
        for seed in [1, 0x5555_5555_5555_5555, u64::MAX, 0] {
            let other = spelled(seed, name);
            assert_eq!(other.to_ascii_lowercase(), name);
            assert_eq!(other, spelled(seed, name));
        }
        assert_eq!(spelled(u64::MAX, name), name.to_ascii_uppercase());
        let mut plain = *name;
        Spelling::PLAIN.apply(&mut plain);
        assert_eq!(&plain, name);
    }

    #[test]
    fn every_letter_of_a_long_name_can_be_of_either_case() {
        let name = [b'x'; 250];
        let (one, other) = (spelled(0x0123_4567_89ab_cdef, &name), spelled(!0x0123_4567_89ab_cdef, &name));
        assert!(one.iter().zip(&other).all(|(one, other)| one != other));
    }

    #[test]
    fn a_server_that_changes_the_case_is_spared_for_an_hour_once_that_is_proven() {
        let mut server = CaseKeeping::default();
        let auto = CaseRandomization::Auto;
        assert!(server.is_asked(auto, Now(5)));
        assert_eq!(server.judge(auto, Now(5), LetterCase::Changed, false), CaseVerdict::Doubtful);
        assert!(server.is_asked(auto, Now(5)), "anyone can send such an answer");
        assert_eq!(server.judge(auto, Now(5), LetterCase::Changed, true), CaseVerdict::Fine);
        assert!(!server.is_asked(auto, Now(5)) && !server.is_asked(auto, Now(4 + HOUR)));
        assert!(server.is_asked(auto, Now(5 + HOUR)), "it may have learnt to");
    }

    #[test]
    fn on_is_never_given_up_and_off_never_asked() {
        let mut server = CaseKeeping::default();
        assert_eq!(server.judge(CaseRandomization::On, Now(5), LetterCase::Changed, true), CaseVerdict::Refused);
        for _ in 0..PEER_DOUBTS_MAX {
            server.note_unconfirmed(Now(5));
        }
        assert!(server.is_asked(CaseRandomization::On, Now(6)));
        assert!(!CaseKeeping::default().is_asked(CaseRandomization::Off, Now(0)));
    }

    #[test]
    fn a_server_without_tcp_is_spared_after_some_doubts_in_a_row() {
        let mut server = CaseKeeping::default();
        let auto = CaseRandomization::Auto;
        for _ in 1..PEER_DOUBTS_MAX {
            server.note_unconfirmed(Now(5));
        }
        assert_eq!(server.judge(auto, Now(5), LetterCase::Kept, false), CaseVerdict::Fine);
        for _ in 1..PEER_DOUBTS_MAX {
            server.note_unconfirmed(Now(5));
            assert!(server.is_asked(auto, Now(5)), "an answer that kept the case began the count anew");
        }
        server.note_unconfirmed(Now(5));
        assert!(!server.is_asked(auto, Now(5)));
    }
}
