//! Names that nobody has asked before, each with an address that follows from it.
//!
//! Invariant: one [`FreshNames`] never makes the same name twice, and the address of a name is that of [`FreshNames::zone`].
//! An answer given for another name has another address, but for one time in [`SUBTREES`].

use std::net::Ipv4Addr;

use crate::questions::{PacketOptions, Questions, Random};

/// Subtrees of the zone, each with an address of its own: as many as two octets can tell.
pub const SUBTREES: u32 = 65_536;
/// The zone that they lie in. None that a forwarder answers by itself (RFC 6761), and unlike the names of any list.
const APEX: &str = "forwarded.org";

/// A source of names; `next` counts those already made.
#[derive(Debug, Default)]
pub struct FreshNames {
    next: u64,
}

impl FreshNames {
    /// So many new questions for an address.
    pub fn take(&mut self, count: usize, options: PacketOptions) -> Result<Questions, String> {
        let text = self.lines(count);
        Questions::parse(&text, options).map_err(|(line, reason)| format!("made-up question {line}: {reason}"))
    }

    /// The same as lines of a file of questions.
    pub fn lines(&mut self, count: usize) -> String {
        let mut text = String::new();
        for _ in 0..count {
            let number = self.next;
            self.next += 1;
            // Mixed, so that neighbours in time do not lie in neighbouring subtrees.
            let subtree = (Random::new(number).next() % u64::from(SUBTREES)) as u32;
            let address = address(subtree);
            text += &format!("n{number:x}.w{subtree:04x}.{APEX} A {address}\n");
        }
        text
    }

    /// The question for a name that is not there, always the same for one number.
    pub fn absent_line(number: usize) -> String {
        // No wildcard is right below the apex, so nothing but a subtree is there.
        format!("n{number:x}.absent.{APEX} A nxdomain\n")
    }

    /// The root zone that answers all of them, as a master file.
    pub fn zone() -> String {
        "$TTL 86400\n. IN SOA a.invalid. hostmaster.invalid. 1 3600 900 604800 60\n. IN NS a.invalid.\n".to_owned()
            + &Self::records()
    }

    /// The same without what a zone begins with, to be added to another one of the root.
    pub fn records() -> String {
        (0..SUBTREES).map(|subtree| format!("*.w{subtree:04x}.{APEX}. IN A {}\n", address(subtree))).collect()
    }
}

/// In public space: an answer with a private address may be refused as rebinding.
fn address(subtree: u32) -> Ipv4Addr {
    let [_, _, high, low] = subtree.to_be_bytes();
    Ipv4Addr::new(20, high, low, 53)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::questions::Expect;
    use std::collections::HashSet;

    #[test]
    fn no_name_comes_twice_and_its_address_is_in_the_zone() {
        let zone = FreshNames::zone();
        let known: HashSet<&str> = zone.lines().collect();
        assert_eq!(known.len(), SUBTREES as usize + 3);
        let mut names = FreshNames::default();
        let mut seen = HashSet::new();
        for _ in 0..3 {
            let questions = names.take(500, PacketOptions::default()).unwrap();
            for index in 0..questions.len() {
                let question = questions.question(index);
                let section = questions.question_section(question).to_vec();
                let label_at = 1 + usize::from(section[0]);
                let subtree = String::from_utf8(section[label_at + 1..label_at + 6].to_vec()).unwrap();
                let Expect::Address(address) = question.expect else { panic!("{:?}", question.expect) };
                assert!(known.contains(format!("*.{subtree}.{APEX}. IN A {address}").as_str()), "{subtree} {address}");
                assert!(seen.insert(section));
            }
        }
        assert_eq!(seen.len(), 1_500);
    }
}
