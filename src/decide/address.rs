//! Stage 9, addresses: rules on the addresses in an upstream's answer (RPZ's `rpz-ip`).
//!
//! Judged after the names of the chain and before addresses are replaced, so that a rule speaks of what the upstream said.

use std::net::IpAddr;
use std::sync::Arc;

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

/// The rules on addresses: the generation's, shared, and the live ones. Immutable.
#[derive(Clone, Debug, Default)]
pub struct AddressRules {
    of_generation: Arc<Filed>,
    live: Arc<Filed>,
}

/// Rules by prefix.
#[derive(Debug, Default)]
struct Filed {
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
        Self { of_generation: Arc::new(Filed::new(rows, 0)), live: Arc::default() }
    }

    /// The generation's rules, and these instead of the live ones of before.
    pub(super) fn with_live(&self, rows: &[AddressRow]) -> Self {
        let first_target = self.of_generation.targets.len() as u32;
        Self { of_generation: self.of_generation.clone(), live: Arc::new(Filed::new(rows, first_target)) }
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.of_generation.by_network.is_empty() && self.live.by_network.is_empty()
    }

    /// The rules whose prefix holds `address`, each with the prefix's bits; of the live ones and of the generation's the
    /// longest first.
    pub fn holding(&self, address: IpAddr) -> impl Iterator<Item = (u8, AddressRule)> {
        self.live.holding(address).chain(self.of_generation.holding(address))
    }

    /// A target by its number.
    pub fn target(&self, number: u32) -> Option<Name> {
        let of_generation = &self.of_generation.targets;
        let live = || self.live.targets.get((number as usize).checked_sub(of_generation.len())?);
        of_generation.get(number as usize).or_else(live).copied()
    }
}

impl Filed {
    /// `first_target`: the number of the first target.
    fn new(rows: &[AddressRow], first_target: u32) -> Self {
        let mut rules = Self::default();
        for AddressRow { net, class, target } in rows {
            let target = target.as_ref().map(|target| {
                rules.targets.push(**target);
                first_target + rules.targets.len() as u32 - 1
            });
            rules.by_network.file(net, AddressRule { class: *class, target });
        }
        rules
    }

    fn holding(&self, address: IpAddr) -> impl Iterator<Item = (u8, AddressRule)> {
        self.by_network.holding(address).flat_map(|(bits, rules)| rules.iter().map(move |rule| (bits, *rule)))
    }
}

impl Core {
    /// Judges the addresses in `answer`, unless an allow rule spares it. On the hot path.
    pub(super) fn judge_addresses(&mut self, now: Now, ticket: Ticket, out: &mut [u8]) -> Step {
        if self.is_rebinding(ticket) {
            return self.refuse_rebinding(now, ticket, out);
        }
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_rules_that_hold_an_address_come_by_prefix_each_with_its_target() {
        let row = |net: &str, class, target: Option<&str>| AddressRow {
            net: net.parse().unwrap(),
            class,
            target: target.map(|target| Box::new(target.parse().unwrap())),
        };
        let rules = AddressRules::new(&[
            row("10.0.0.0/8", 0, Some("a.example")),
            row("10.0.0.0/8", 1, None),
            row("10.1.0.0/16", 2, Some("b.example")),
            row("2001:db8::/32", 3, None),
        ]);
        let found: Vec<_> = rules
            .holding("10.1.2.3".parse().unwrap())
            .map(|(bits, rule)| (bits, rule.class, rule.target.and_then(|target| rules.target(target))))
            .map(|(bits, class, target)| (bits, class, target.map(|target| target.to_string()).unwrap_or_default()))
            .collect();
        assert_eq!(found, [(16, 2, "b.example".into()), (8, 0, "a.example".into()), (8, 1, String::new())]);
        assert_eq!(rules.holding("2001:db8::1".parse().unwrap()).count(), 1);
        assert_eq!(rules.holding("11.0.0.1".parse().unwrap()).count(), 0);
        assert!(!rules.is_empty() && AddressRules::default().is_empty());
    }
}
