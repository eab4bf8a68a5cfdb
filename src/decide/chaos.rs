//! Questions of class CHAOS: which software this is, and which of several servers (RFC 4892).
//!
//! Invariant: nothing is told that the configuration does not hold: every other question of the class is refused, as is every
//! other class (see [`super::question`]). The answers are not kept, by us or by anybody: their TTL is 0 (RFC 4892 §3).

use corewall_sharding::name::Name;

use super::answer::Section;
use super::client;
use super::step::{Step, Ticket};
use super::wire::{CLASS_CH, rcode, rtype};
use super::{Core, lost};

/// What is told. Each is the RDATA of a TXT record; empty tells nothing.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Chaos {
    version: Box<[u8]>,
    id: Box<[u8]>,
}

impl Chaos {
    /// From two texts, of which no more than the 255 octets of one character-string are told; an empty one tells nothing.
    pub fn new(version: &str, id: &str) -> Self {
        Self { version: txt(version), id: txt(id) }
    }

    /// The RDATA for a name; none when nothing is told by it.
    fn told(&self, name: &Name) -> Option<&[u8]> {
        let text = match name.as_wire() {
            b"\x07version\x04bind\0" | b"\x07version\x06server\0" => &self.version,
            b"\x08hostname\x04bind\0" | b"\x02id\x06server\0" => &self.id,
            _ => return None,
        };
        if text.is_empty() { None } else { Some(text) }
    }
}

fn txt(text: &str) -> Box<[u8]> {
    let octets = text.as_bytes().get(..usize::from(u8::MAX)).unwrap_or(text.as_bytes());
    if octets.is_empty() { Box::default() } else { [&[octets.len() as u8], octets].concat().into() }
}

impl Core {
    /// Answers a TXT question of class CHAOS, or refuses it.
    pub(super) fn answer_chaos(&mut self, ticket: Ticket, out: &mut [u8]) -> Step {
        let Some(query) = self.queries.get(ticket) else { return lost() };
        let is_admitted = client::admit(&self.settings, query.origin.client.ip()).is_some();
        let name = &query.question.name;
        self.answer.clear();
        match self.settings.chaos.told(name).filter(|_| is_admitted) {
            Some(rdata) if self.answer.push(Section::Answer, name, rtype::TXT, CLASS_CH, 0, rdata).is_ok() => {
                self.counters.local_answers.add(1);
            }
            _ => {
                self.answer.rcode = rcode::REFUSED;
                self.counters.rejected.add(1);
            }
        }
        self.body.compose(&query.question, &self.answer);
        self.write(ticket, self.answer.rcode, false, None, out)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_is_configured_is_told_and_only_by_its_names() {
        let told = |chaos: &Chaos, name: &str| chaos.told(&name.parse().unwrap()).map(<[u8]>::to_vec);
        let chaos = Chaos::new("9", "node-1");
        for (name, text) in [
            ("version.bind", "\u{1}9"),
            ("version.server", "\u{1}9"),
            ("id.server", "\u{6}node-1"),
            ("hostname.bind", "\u{6}node-1"),
        ] {
            assert_eq!(told(&chaos, name), Some(text.as_bytes().to_vec()));
            assert_eq!(told(&Chaos::new("", ""), name), None);
        }
        for name in ["authors.bind", "server", "x.version.bind", "bind"] {
            assert_eq!(told(&chaos, name), None, "{name}");
        }
        assert_eq!(told(&Chaos::new(&"x".repeat(300), ""), "version.bind").unwrap().len(), 256);
    }
}
