//! Stage 9, addresses: rules on the addresses in an upstream's answer (RPZ's `rpz-ip`).
//!
//! Judged after the names of the chain and before addresses are replaced, so that a rule speaks of what the upstream said.

use std::net::IpAddr;

use corewall_sharding::name::Name;
use corewall_sharding::publish::AddressRow;
use corewall_sharding::rule::ClassId;

use super::answer::{Record, Section};
use super::prefixes::Prefixes;
use super::query::{Stage, Subject};
use super::rule::Judgement;
use super::step::{Now, Step, Ticket};
use super::wire::rtype;
use super::{Core, lost};

/// The generation's rules on addresses. Immutable.
#[derive(Clone, Debug, Default)]
pub struct AddressRules {
    by_network: Prefixes<AddressRule>,
    /// Where aliases lead.
    targets: Vec<Name>,
}

/// One of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AddressRule {
    /// What it says.
    pub class: ClassId,
    /// Number of an alias's target.
    pub target: Option<u32>,
}

impl AddressRules {
    /// From the generation's rows.
    pub fn new(rows: &[AddressRow]) -> Self {
        let mut rules = Self::default();
        for AddressRow { net, class, target } in rows {
            let target = target.as_ref().map(|target| {
                rules.targets.push(**target);
                rules.targets.len() as u32 - 1
            });
            rules.by_network.file(net, AddressRule { class: *class, target });
        }
        rules
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.by_network.is_empty()
    }

    /// The rules whose prefix holds `address`, each with the prefix's bits; the longest first.
    pub fn holding(&self, address: IpAddr) -> impl Iterator<Item = (u8, AddressRule)> {
        self.by_network.holding(address).flat_map(|(bits, rules)| rules.iter().map(move |rule| (bits, *rule)))
    }

    /// A target by its number.
    pub fn target(&self, number: u32) -> Option<Name> {
        self.targets.get(number as usize).copied()
    }
}

impl Core {
    /// Judges the addresses in `answer`, unless an allow rule spares it. On the hot path.
    pub(super) fn judge_addresses(&mut self, now: Now, ticket: Ticket, out: &mut [u8]) -> Step {
        let Some(query) = self.queries.get_mut(ticket) else { return lost() };
        if query.is_allowed || query.is_recalled || self.rules.addresses().is_empty() {
            return self.finish_answer(now, ticket, out);
        }
        let asked = query.asked(query.resolved());
        let mut judgement = Judgement::default();
        for address in self.answer.records().filter_map(address) {
            judgement.consider_address(&self.rules, &asked, address, query.is_led_on);
        }
        query.judgement = judgement;
        query.stage = Stage::Judging(Subject::Addresses);
        self.decide(now, ticket, out)
    }
}

/// The address that an answer's record tells.
fn address(record: Record<'_>) -> Option<IpAddr> {
    match (record.section, record.rtype) {
        (Section::Answer, rtype::A) => <[u8; 4]>::try_from(record.rdata).ok().map(IpAddr::from),
        (Section::Answer, rtype::AAAA) => <[u8; 16]>::try_from(record.rdata).ok().map(IpAddr::from),
        _ => None,
    }
}
