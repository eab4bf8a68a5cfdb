//! Which interfaces questions come in by.
//!
//! An address that is listened on leads to the interface whose network it is of; a wildcard, and an address that is announced by
//! routing (on loopback, or a /32 of its own), to those of the default routes. What lies on others, a bond, a bridge, a VLAN,
//! stands for those.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::{Fact, Untold};
use crate::tune::machine::Machine;
use crate::tune::site::Site;

/// Levels of interfaces upon interfaces that are followed.
const LEVELS_MAX: usize = 4;

/// Names of the interfaces; an error when there is none to look at.
pub(super) fn interfaces(machine: &Machine<'_>, site: &Site) -> Fact<Vec<String>> {
    if !site.interfaces.is_empty() {
        return Ok(site.interfaces.clone());
    }
    if !site.listen.is_empty() && site.listen.iter().all(|address| address.ip().is_loopback()) {
        return Err(Untold::Inapplicable("the configuration listens on loopback alone".to_owned()));
    }
    let routes = Routes::read(machine)?;
    let mut names = Vec::new();
    let addresses = site.listen.iter().map(|address| address.ip()).filter(|address| !address.is_loopback());
    for address in addresses {
        names.extend(routes.leading_to(address));
    }
    if site.listen.is_empty() {
        names = routes.default_interfaces();
    }
    let mut found: Vec<String> = Vec::new();
    for name in names {
        for lower in below(machine, &name, LEVELS_MAX) {
            if lower != "lo" && !found.contains(&lower) {
                found.push(lower);
            }
        }
    }
    if found.is_empty() {
        return Err(Untold::Unreadable(
            "no route tells which interface questions come in by; name it by --interface".to_owned(),
        ));
    }
    Ok(found)
}

/// The interfaces that this one lies upon, or itself.
fn below(machine: &Machine<'_>, name: &str, levels: usize) -> Vec<String> {
    let entries = machine.entries(&format!("/sys/class/net/{name}")).unwrap_or_default();
    let lower: Vec<&str> = entries.iter().filter_map(|entry| entry.strip_prefix("lower_")).collect();
    match levels {
        _ if lower.is_empty() => vec![name.to_owned()],
        0 => vec![name.to_owned()],
        _ => lower.into_iter().flat_map(|lower| below(machine, lower, levels - 1)).collect(),
    }
}

/// Networks with their interfaces.
struct Routes {
    v4: Vec<(Ipv4Addr, u32, String)>,
    /// Own addresses of version 6.
    v6: Vec<(Ipv6Addr, String)>,
    /// Interfaces of the default routes of version 6.
    v6_default: Vec<String>,
}

impl Routes {
    fn read(machine: &Machine<'_>) -> Fact<Self> {
        let v4 = machine.read("/proc/net/route")?;
        let v4 = v4.lines().skip(1).filter_map(|line| {
            let fields: Vec<&str> = line.split_whitespace().collect();
            // In the byte order of the network, whatever the machine's: hexadecimal of an integer in memory.
            let address = |field: usize| u32::from_str_radix(fields.get(field)?, 16).ok().map(u32::to_ne_bytes);
            let mask = u32::from_be_bytes(address(7)?);
            Some((Ipv4Addr::from(address(1)?), mask, (*fields.first()?).to_owned()))
        });
        // A kernel without version 6 has none of these.
        let v6_own = machine.read("/proc/net/if_inet6").unwrap_or_default();
        let v6 = v6_own.lines().filter_map(|line| {
            let (address, name) = (line.split_whitespace().next()?, line.split_whitespace().last()?);
            Some((Ipv6Addr::from(u128::from_str_radix(address, 16).ok()?), name.to_owned()))
        });
        let v6_routes = machine.read("/proc/net/ipv6_route").unwrap_or_default();
        let v6_default = v6_routes.lines().filter_map(|line| {
            let fields: Vec<&str> = line.split_whitespace().collect();
            let is_default = fields.first()?.bytes().all(|digit| digit == b'0') && fields.get(1) == Some(&"00");
            let name = *fields.last()?;
            // The kernel's route of last resort, to nowhere, is on loopback.
            (is_default && name != "lo").then(|| name.to_owned())
        });
        Ok(Self { v4: v4.collect(), v6: v6.collect(), v6_default: v6_default.collect() })
    }

    fn default_interfaces(&self) -> Vec<String> {
        let v4 = self.v4.iter().filter(|(_, mask, _)| *mask == 0).map(|(.., name)| name.clone());
        v4.chain(self.v6_default.iter().cloned()).collect()
    }

    fn leading_to(&self, address: IpAddr) -> Vec<String> {
        let own = match address {
            _ if address.is_unspecified() => None,
            IpAddr::V4(address) => {
                let holds = |network: &Ipv4Addr, mask: u32| u32::from(address) & mask == u32::from(*network);
                let holding = self.v4.iter().filter(|(network, mask, _)| *mask != 0 && holds(network, *mask));
                holding.max_by_key(|(_, mask, _)| *mask).map(|(.., name)| name)
            }
            IpAddr::V6(address) => self.v6.iter().find(|(own, _)| *own == address).map(|(_, name)| name),
        };
        own.filter(|name| *name != "lo").map_or_else(|| self.default_interfaces(), |name| vec![name.clone()])
    }
}
