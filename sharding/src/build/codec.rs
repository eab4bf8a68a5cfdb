//! Values of a build as bytes, for its runs and its journal.
//!
//! These bytes never outlive the build that wrote them and are read by the same version alone. Invariant: reading checks every
//! length and every value, so damaged bytes give `None`, never a panic or a huge allocation.

use std::net::SocketAddr;

use ipnet::IpNet;

use crate::generation::AddressRow;
use crate::name::Name;
use crate::rule::{
    AliasLabels, Answer, AnswerRecord, BlockMode, Class, ClientMatch, Condition, IpRewrite, Kind, Scope,
};

const KINDS: [Kind; 5] = [Kind::ForwardAllow, Kind::ForwardBlock, Kind::Allow, Kind::Alias, Kind::Block];
const SCOPES: [Scope; 5] = [Scope::Exact, Scope::Subtree, Scope::Below, Scope::Pattern, Scope::Address];
const LABELS: [AliasLabels; 3] = [AliasLabels::None, AliasLabels::Below, AliasLabels::All];
const MODES: [BlockMode; 7] = [
    BlockMode::Zero,
    BlockMode::Sinkhole,
    BlockMode::Nxdomain,
    BlockMode::Nodata,
    BlockMode::Refused,
    BlockMode::Drop,
    BlockMode::TcpOnly,
];
/// What stands in the place of an answer's mode.
const NO_ANSWER: u64 = 100;
const RECORDS: u64 = 101;

/// Appends an integer, seven bits a byte, the lowest first.
pub(super) fn put_integer(to: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        to.push(value as u8 | 0x80);
        value >>= 7;
    }
    to.push(value as u8);
}

/// Appends bytes with their length in front.
pub(super) fn put_bytes(to: &mut Vec<u8>, bytes: &[u8]) {
    put_integer(to, bytes.len() as u64);
    to.extend_from_slice(bytes);
}

fn put_text(to: &mut Vec<u8>, value: impl ToString) {
    put_bytes(to, value.to_string().as_bytes());
}

fn put_place<T: PartialEq>(to: &mut Vec<u8>, all: &[T], value: &T) {
    put_integer(to, all.iter().position(|known| known == value).unwrap_or(all.len()) as u64);
}

/// Appends a class.
pub(super) fn put_class(to: &mut Vec<u8>, class: &Class) {
    put_place(to, &KINDS, &class.kind);
    put_place(to, &SCOPES, &class.scope);
    put_place(to, &LABELS, &class.alias_labels);
    put_integer(to, u64::from(class.important));
    put_integer(to, u64::from(class.list));
    put_integer(to, class.servers.len() as u64);
    class.servers.iter().for_each(|server| put_text(to, server));
    match &class.answer {
        None => put_integer(to, NO_ANSWER),
        Some(Answer::Mode(mode)) => put_place(to, &MODES, mode),
        Some(Answer::Records(records)) => {
            put_integer(to, RECORDS);
            put_integer(to, records.len() as u64);
            for record in records {
                put_integer(to, u64::from(record.rtype));
                put_integer(to, record.ttl_s.map_or(0, |ttl_s| u64::from(ttl_s) + 1));
                put_bytes(to, &record.rdata);
            }
        }
    }
    put_integer(to, u64::from(class.condition.is_some()));
    class.condition.iter().for_each(|condition| put_condition(to, condition));
}

fn put_condition(to: &mut Vec<u8>, condition: &Condition) {
    for types in [&condition.types, &condition.types_not] {
        put_integer(to, types.len() as u64);
        types.iter().for_each(|&rtype| put_integer(to, u64::from(rtype)));
    }
    put_integer(to, condition.names_not.len() as u64);
    condition.names_not.iter().for_each(|name| put_bytes(to, name.as_wire()));
    for clients in [&condition.clients, &condition.clients_not] {
        put_integer(to, clients.len() as u64);
        for client in clients {
            match client {
                ClientMatch::Net(net) => {
                    put_integer(to, 0);
                    put_text(to, net);
                }
                ClientMatch::Named(name) => {
                    put_integer(to, 1);
                    put_text(to, name);
                }
            }
        }
    }
    put_integer(to, u64::from(condition.lifts_answers_only));
}

/// Appends an address rule.
pub(super) fn put_address(to: &mut Vec<u8>, row: &AddressRow) {
    put_text(to, row.net);
    put_integer(to, u64::from(row.class));
    put_bytes(to, row.target.as_ref().map_or(&[], |target| target.as_wire()));
}

/// Appends an address rewrite.
pub(super) fn put_rewrite(to: &mut Vec<u8>, rewrite: &IpRewrite) {
    put_text(to, rewrite.from);
    put_text(to, rewrite.to);
    put_integer(to, u64::from(rewrite.list));
}

/// Bytes being read, from the left.
#[derive(Clone)]
pub(super) struct Bytes<'a>(pub(super) &'a [u8]);

impl<'a> Bytes<'a> {
    pub(super) fn integer(&mut self) -> Option<u64> {
        let mut value = 0u64;
        for shift in (0..64).step_by(7) {
            let (&byte, rest) = self.0.split_first()?;
            self.0 = rest;
            value |= u64::from(byte & 0x7f) << shift;
            if byte < 0x80 {
                return Some(value);
            }
        }
        None
    }

    /// An integer of a narrower type.
    pub(super) fn number<T: TryFrom<u64>>(&mut self) -> Option<T> {
        T::try_from(self.integer()?).ok()
    }

    pub(super) fn take(&mut self, len: usize) -> Option<&'a [u8]> {
        let (taken, rest) = self.0.split_at_checked(len)?;
        self.0 = rest;
        Some(taken)
    }

    pub(super) fn bytes(&mut self) -> Option<&'a [u8]> {
        let len = self.number()?;
        self.take(len)
    }

    /// As many values as the integer in front says. Each takes a byte or more, so the bytes bound them.
    pub(super) fn many<T>(&mut self, mut one: impl FnMut(&mut Self) -> Option<T>) -> Option<Vec<T>> {
        let count: usize = self.number()?;
        if count > self.0.len() {
            return None;
        }
        (0..count).map(|_| one(self)).collect()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    fn text(&mut self) -> Option<&'a str> {
        std::str::from_utf8(self.bytes()?).ok()
    }

    fn parsed<T: std::str::FromStr>(&mut self) -> Option<T> {
        self.text()?.parse().ok()
    }

    fn flag(&mut self) -> Option<bool> {
        Some(self.integer()? != 0)
    }

    fn place<T: Copy>(&mut self, all: &[T]) -> Option<T> {
        all.get(self.number::<usize>()?).copied()
    }

    fn name(&mut self) -> Option<Name> {
        Name::from_wire(self.bytes()?).ok()
    }

    pub(super) fn class(&mut self) -> Option<Class> {
        let (kind, scope, alias_labels) = (self.place(&KINDS)?, self.place(&SCOPES)?, self.place(&LABELS)?);
        let (important, list) = (self.flag()?, self.number()?);
        let servers = self.many(Self::parsed::<SocketAddr>)?;
        let answer = match self.integer()? {
            NO_ANSWER => None,
            RECORDS => Some(Answer::Records(self.many(Self::record)?)),
            mode => Some(Answer::Mode(MODES.get(usize::try_from(mode).ok()?).copied()?)),
        };
        let condition = if self.flag()? { Some(self.condition()?) } else { None };
        Some(Class { kind, scope, important, list, condition, servers, answer, alias_labels })
    }

    fn record(&mut self) -> Option<AnswerRecord> {
        let rtype = self.number()?;
        let ttl_s = match self.integer()?.checked_sub(1) {
            Some(ttl_s) => Some(u32::try_from(ttl_s).ok()?),
            None => None,
        };
        Some(AnswerRecord { rtype, ttl_s, rdata: self.bytes()?.into() })
    }

    fn condition(&mut self) -> Option<Condition> {
        Some(Condition {
            types: self.many(Self::number)?,
            types_not: self.many(Self::number)?,
            names_not: self.many(Self::name)?,
            clients: self.many(Self::client)?,
            clients_not: self.many(Self::client)?,
            lifts_answers_only: self.flag()?,
        })
    }

    fn client(&mut self) -> Option<ClientMatch> {
        match self.integer()? {
            0 => self.parsed().map(ClientMatch::Net),
            _ => self.text().map(|name| ClientMatch::Named(name.into())),
        }
    }

    pub(super) fn address(&mut self) -> Option<AddressRow> {
        let (net, class): (IpNet, _) = (self.parsed()?, self.number()?);
        let target = match self.bytes()? {
            [] => None,
            wire => Some(Box::new(Name::from_wire(wire).ok()?)),
        };
        Some(AddressRow { net, class, target })
    }

    pub(super) fn rewrite(&mut self) -> Option<IpRewrite> {
        Some(IpRewrite { from: self.parsed()?, to: self.parsed()?, list: self.number()? })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn full_class() -> Class {
        let name = |text: &str| text.parse().unwrap();
        Class {
            important: true,
            condition: Some(Condition {
                types: vec![1, 28],
                types_not: vec![65_535],
                names_not: vec![name("a.example"), Name::ROOT],
                clients: vec![ClientMatch::Net("10.0.0.0/8".parse().unwrap()), ClientMatch::Named("Ann".into())],
                clients_not: vec![ClientMatch::Named("".into())],
                lifts_answers_only: true,
            }),
            servers: vec!["192.0.2.1:53".parse().unwrap(), "[fe80::1%3]:5353".parse().unwrap()],
            answer: Some(Answer::Records(vec![
                AnswerRecord { rtype: 1, ttl_s: Some(0), rdata: [192, 0, 2, 1].into() },
                AnswerRecord { rtype: 16, ttl_s: None, rdata: [].into() },
            ])),
            alias_labels: AliasLabels::All,
            ..Class::plain(Kind::ForwardBlock, Scope::Below, 65_535)
        }
    }

    #[test]
    fn values_read_back_equal_and_no_truncation_reads_or_panics() {
        let mode = Class { answer: Some(Answer::Mode(BlockMode::TcpOnly)), ..full_class() };
        for class in [full_class(), mode, Class::plain(Kind::Alias, Scope::Exact, 0)] {
            let mut bytes = Vec::new();
            put_class(&mut bytes, &class);
            let mut read = Bytes(&bytes);
            assert_eq!(read.class(), Some(class));
            assert!(read.is_empty());
            for len in 0..bytes.len() {
                assert_eq!(Bytes(&bytes[..len]).class(), None, "length {len}");
            }
            for bit in 0..bytes.len() * 8 {
                let mut bad = bytes.clone();
                bad[bit / 8] ^= 1 << (bit % 8);
                let _ = Bytes(&bad).class();
            }
        }
        let target = Some(Box::new("to.example".parse().unwrap()));
        let rows = [target, None].map(|target| AddressRow { net: "2001:db8::/32".parse().unwrap(), class: 7, target });
        for row in rows {
            let mut bytes = Vec::new();
            put_address(&mut bytes, &row);
            assert_eq!(Bytes(&bytes).address(), Some(row));
        }
        let rewrite = IpRewrite { from: "10.0.0.0/8".parse().unwrap(), to: "192.0.2.1".parse().unwrap(), list: 3 };
        let mut bytes = Vec::new();
        put_rewrite(&mut bytes, &rewrite);
        assert_eq!(Bytes(&bytes).rewrite(), Some(rewrite));
    }

    #[test]
    fn integers_of_every_width_read_back() {
        for value in (0..64).flat_map(|shift| [1u64 << shift, (1u64 << shift) - 1]).chain([u64::MAX]) {
            let mut bytes = Vec::new();
            put_integer(&mut bytes, value);
            assert_eq!(Bytes(&bytes).integer(), Some(value));
        }
        assert_eq!(Bytes(&[0xff; 11]).integer(), None);
        assert_eq!(Bytes(&[0xff, 0xff, 0x03]).number::<u16>(), Some(0xffff));
        assert_eq!(Bytes(&[0x80, 0x80, 0x04]).number::<u16>(), None);
    }
}
