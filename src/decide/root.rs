//! The rules on the root name, which speak of every question.
//!
//! They are at hand, not read from the store: a question without rules of its own costs no read because of them. Invariant: a
//! client to whom no rule with a condition on clients applies is judged as if there were none of those, so that clients still
//! share answers. One to whom such a rule applies is on its own, see [`super::query::Query::is_singled_out`].

use std::net::IpAddr;

use corewall_sharding::rule::{Class, ClassId, ClientMatch};

use super::prefixes::Prefixes;

/// The classes of the rules on the root name, by whom they speak of. Immutable.
#[derive(Clone, Debug, Default)]
pub struct RootRules {
    for_all: Vec<ClassId>,
    /// Of clients in a network: a policy zone may well have thousands.
    by_network: Prefixes<ClassId>,
    /// Of clients by name, or of all but some: only lists that may cover public suffixes have any.
    by_name: Vec<ClassId>,
}

impl RootRules {
    /// Sorts the classes in `root`, each of which `class_of` must know; one that it does not is passed over.
    pub fn new<'a>(root: &[ClassId], class_of: impl Fn(ClassId) -> Option<&'a Class>) -> Self {
        let mut rules = Self::default();
        for &id in root {
            let Some(class) = class_of(id) else { continue };
            let clients = class.condition.as_ref().filter(|condition| condition.depends_on_client());
            match clients.map(|condition| &condition.clients) {
                None => rules.for_all.push(id),
                Some(clients) if clients.iter().any(|client| matches!(client, ClientMatch::Named(_))) => {
                    rules.by_name.push(id);
                }
                Some(clients) if clients.is_empty() => rules.by_name.push(id),
                Some(clients) => {
                    for client in clients {
                        if let ClientMatch::Net(net) = client {
                            rules.by_network.file(net, id);
                        }
                    }
                }
            }
        }
        rules
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.for_all.is_empty() && self.by_network.is_empty() && self.by_name.is_empty()
    }

    /// Whether some speak of clients.
    pub fn ask_for_clients(&self) -> bool {
        !(self.by_network.is_empty() && self.by_name.is_empty())
    }

    /// Those without a condition on clients.
    pub fn for_all(&self) -> impl Iterator<Item = ClassId> {
        self.for_all.iter().copied()
    }

    /// Those with one that may hold for this client.
    pub fn of_client(&self, client: IpAddr) -> impl Iterator<Item = ClassId> {
        let by_network = self.by_network.holding(client.to_canonical()).flat_map(|(_, classes)| classes);
        by_network.chain(&self.by_name).copied()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use corewall_sharding::rule::{Condition, Kind, Scope};

    #[test]
    fn a_client_gets_the_rules_of_its_networks_and_those_that_name_clients() {
        let of = |clients: Vec<ClientMatch>, clients_not| Class {
            condition: Some(Condition { clients, clients_not, ..Condition::default() }),
            ..Class::plain(Kind::Block, Scope::Subtree, 0)
        };
        let net = |text: &str| ClientMatch::Net(text.parse().unwrap());
        let named = || ClientMatch::Named("kids".into());
        let classes = [
            Class::plain(Kind::Block, Scope::Subtree, 0),
            of(vec![net("192.0.2.0/24"), net("2001:db8::/32")], Vec::new()),
            of(vec![net("192.0.2.1/32")], Vec::new()),
            of(vec![named(), net("192.0.2.1/32")], Vec::new()),
            of(Vec::new(), vec![named()]),
        ];
        let rules = RootRules::new(&[0, 1, 2, 3, 4, 5], |id| classes.get(id as usize));
        let of_client = |client: &str| rules.of_client(client.parse().unwrap()).collect::<Vec<_>>();
        assert_eq!(rules.for_all().collect::<Vec<_>>(), [0]);
        assert_eq!(of_client("192.0.2.1"), [2, 1, 3, 4]);
        assert_eq!(of_client("::ffff:192.0.2.2"), [1, 3, 4]);
        assert_eq!(of_client("2001:db8::1"), [1, 3, 4]);
        assert_eq!(of_client("198.51.100.1"), [3, 4]);
        assert!(!rules.is_empty() && RootRules::default().is_empty());
    }
}
