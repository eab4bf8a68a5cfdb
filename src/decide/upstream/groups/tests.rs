//! Numbers, bounds and the coming and going of groups.

use std::collections::HashSet;

use super::*;
use crate::decide::settings::Group as Configured;

const SECOND: u64 = 1_000_000;

fn groups() -> Groups {
    Groups::new([1, 2, 3, 4])
}

fn configured(name: &str, servers: &[&str]) -> Configured {
    Configured::new(name, servers.iter().map(|server| server.parse().unwrap()).collect())
}

fn address(number: usize) -> SocketAddr {
    SocketAddr::from(([10, (number >> 16) as u8, (number >> 8) as u8, number as u8], 53))
}

fn addresses_of(groups: &Groups, id: GroupId) -> Vec<SocketAddr> {
    let group = groups.group(groups.find(id).unwrap()).unwrap();
    group.servers().iter().map(|&slot| groups.servers[slot as usize].address).collect()
}

fn known_servers(groups: &Groups) -> usize {
    groups.servers.len() - groups.free_servers.len()
}

#[test]
fn numbers_of_servers_and_groups_outlive_a_reload() {
    let mut groups = groups();
    let rule = ["192.0.2.2:53".parse().unwrap()];
    groups.switch(&[configured("default", &["192.0.2.1:53"]), configured("allow", &["192.0.2.2:53"])], 1);
    let (default, allow) = (groups.id_of("default"), groups.id_of("allow"));
    let own = groups.of_class(0, &rule, Now(0)).unwrap();
    let server = groups.by_address.iter().map(|&slot| groups.servers[slot as usize].id).collect::<HashSet<_>>();
    assert_eq!(server.len(), 2, "a server of two groups is one");
    groups.switch(&[configured("default", &["192.0.2.3:53"])], 1);
    assert_eq!(groups.id_of("default"), default);
    assert_eq!(groups.of_class(0, &rule, Now(0)), Ok(own));
    assert_eq!(addresses_of(&groups, default), ["192.0.2.3:53".parse().unwrap()]);
    assert_eq!(groups.id_of("allow"), NO_SERVERS, "a group that is configured no more has no servers");
    assert_eq!(addresses_of(&groups, allow).len(), 1, "but a question to it may be in flight");
    groups.switch(&[configured("default", &["192.0.2.3:53"])], 1);
    assert_eq!(groups.find(allow), None, "what two reloads do not name is forgotten");
    groups.switch(&[configured("default", &[]), configured("allow", &[])], 1);
    assert_ne!(groups.id_of("allow"), allow, "its number is not given again");
}

#[test]
fn reloads_leave_nothing_behind() {
    let mut groups = groups();
    let mut given = HashSet::new();
    for reload in 0..100 {
        let name = format!("g{reload}");
        groups.switch(&[Configured::new(&name, (0..10).map(|n| address(10 * reload + n)).collect())], 0);
        assert!(given.insert(groups.id_of(&name)), "a number was given twice");
        assert!(known_servers(&groups) <= 20 && groups.by_number.len() <= 2, "reload {reload}");
    }
    assert!(groups.servers.len() <= 20 && groups.groups.len() <= 2);
}

#[test]
fn a_set_of_servers_is_one_group_for_all_classes_that_name_it_in_this_order() {
    let mut groups = groups();
    groups.switch(&[], 4);
    let (a, b) = (address(1), address(2));
    let first = groups.of_class(0, &[a, b], Now(0)).unwrap();
    assert_eq!(groups.of_class(1, &[a, b], Now(0)), Ok(first));
    let other = groups.of_class(2, &[b, a], Now(0)).unwrap();
    assert_ne!(other, first);
    assert_eq!((groups.idle_count(), known_servers(&groups)), (2, 2));
    assert_eq!(addresses_of(&groups, other), [b, a]);
}

#[test]
fn a_group_of_a_rule_is_dropped_when_it_has_been_idle_and_keeps_its_number() {
    let mut groups = groups();
    groups.switch(&[configured("default", &["192.0.2.1:53"])], 3);
    let idle = groups.of_class(0, &[address(0)], Now(0)).unwrap();
    let busy = groups.of_class(1, &[address(1)], Now(0)).unwrap();
    groups.of_class(1, &[address(1)], Now(UPSTREAM_IDLE_US - 1)).unwrap();
    assert_eq!(groups.idle_count(), 2);
    groups.of_class(1, &[address(1)], Now(UPSTREAM_IDLE_US)).unwrap();
    assert_eq!((groups.find(idle), groups.idle_count(), known_servers(&groups)), (None, 1, 2));
    assert!(groups.find(busy).is_some() && groups.id_of("default") != NO_SERVERS);
    // What was cached under its number is still its own.
    assert_eq!(groups.of_class(0, &[address(0)], Now(UPSTREAM_IDLE_US)), Ok(idle));
    assert_eq!(addresses_of(&groups, idle), [address(0)]);
}

#[test]
fn when_there_is_no_room_the_idlest_group_without_a_question_in_flight_goes() {
    let mut groups = groups();
    groups.switch(&[], RULE_GROUPS_MAX + 2);
    for class in 0..RULE_GROUPS_MAX {
        groups.of_class(class as u32, &[address(class)], Now(class as u64)).unwrap();
    }
    let first = groups.class_groups[0];
    let one_more = RULE_GROUPS_MAX as u32;
    let servers = [address(RULE_GROUPS_MAX)];
    assert_eq!(groups.of_class(one_more, &servers, Now(SECOND)), Err(NoRoom), "all were used just now");
    let open = groups.find(first).unwrap();
    groups.group_mut(open).unwrap().open = 1;
    assert_eq!(groups.of_class(one_more, &servers, Now(10 * SECOND)), Err(NoRoom), "the idlest is in use");
    groups.group_mut(open).unwrap().open = 0;
    groups.of_class(one_more, &servers, Now(10 * SECOND)).unwrap();
    assert_eq!((groups.find(first), groups.idle_count()), (None, RULE_GROUPS_MAX));
    assert_eq!(known_servers(&groups), RULE_GROUPS_MAX);
}

#[test]
fn rules_name_any_number_of_servers_in_turn_and_no_memory_is_taken() {
    let mut groups = groups();
    let classes = 50_000;
    groups.switch(&[configured("default", &["192.0.2.1:53"])], classes);
    let memory = |groups: &Groups| {
        let lists = (groups.servers.capacity(), groups.groups.capacity());
        let free = (groups.free_servers.capacity(), groups.free_groups.capacity());
        let tables = [groups.by_address.allocation_size(), groups.by_set.allocation_size()];
        (lists, free, tables, groups.by_number.allocation_size())
    };
    let before = memory(&groups);
    let mut given = HashSet::new();
    for class in 0..classes {
        let now = Now(class as u64 * UPSTREAM_IDLE_US_MIN / 1_000);
        let servers = [address(class), address(class + 1), address(class + 7)];
        let group = groups.of_class(class as u32, &servers, now).unwrap();
        assert!(given.insert(group), "a number was given twice");
        assert_eq!(addresses_of(&groups, group), servers);
        assert!(known_servers(&groups) <= RULE_SERVERS_MAX + 1 && groups.idle_count() <= RULE_GROUPS_MAX);
    }
    assert_eq!(memory(&groups), before);
    assert_eq!(addresses_of(&groups, groups.id_of("default")).len(), 1, "the configuration's are never dropped");
}
