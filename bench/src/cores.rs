//! Which cores workers and clients get, so that no two workers share a physical core as long as there are others.
//!
//! Invariant: workers and clients that are said to be apart share no logical core.

use std::fs;

/// The cores that this process may run on, the first thread of each physical core before the second ones.
pub fn in_order() -> Vec<usize> {
    let allowed = core_affinity::get_core_ids().unwrap_or_default();
    let siblings = |core: usize| {
        let path = format!("/sys/devices/system/cpu/cpu{core}/topology/thread_siblings_list");
        // Without it every core is taken for a physical one.
        fs::read_to_string(path).map_or(vec![core], |list| parse_list(&list))
    };
    order(allowed.into_iter().map(|id| (id.id, siblings(id.id))).collect())
}

/// Sorts cores, each with all threads of its physical core, by their place among those threads.
fn order(mut cores: Vec<(usize, Vec<usize>)>) -> Vec<usize> {
    cores.sort_by_key(|(core, siblings)| (siblings.iter().position(|sibling| sibling == core), *core));
    cores.into_iter().map(|(core, _)| core).collect()
}

/// A list of the kernel's, such as `0,16` or `0-1`.
fn parse_list(list: &str) -> Vec<usize> {
    let range = |part: &str| {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        Some(first.trim().parse().ok()?..=last.trim().parse().ok()?)
    };
    list.trim().split(',').filter_map(range).flatten().collect()
}

/// The cores of `count` workers and, apart from them, of as many clients; none when there are too few.
pub fn apart(cores: &[usize], count: usize) -> Option<(Vec<usize>, Vec<usize>)> {
    let clients = cores.len().checked_sub(2 * count)? + count;
    Some((cores[..count].to_vec(), cores[clients..].to_vec()))
}

/// The cores that `count` workers and as many clients share, one of each on every core; none when there are too few.
pub fn shared(cores: &[usize], count: usize) -> Option<Vec<usize>> {
    cores.get(..count).map(<[usize]>::to_vec)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn workers_get_physical_cores_first() {
        let threads = |core: usize| (core, vec![core % 4, core % 4 + 4]);
        assert_eq!(order((0..8).rev().map(threads).collect()), [0, 1, 2, 3, 4, 5, 6, 7]);
        // Where siblings are neighbours, every second one comes first.
        let neighbours = |core: usize| (core, vec![core / 2 * 2, core / 2 * 2 + 1]);
        assert_eq!(order((0..4).map(neighbours).collect()), [0, 2, 1, 3]);
        assert_eq!(parse_list("0-2,8\n"), [0, 1, 2, 8]);
    }

    #[test]
    fn workers_and_clients_are_apart_or_not_at_all() {
        let cores: Vec<usize> = (0..6).collect();
        assert_eq!(apart(&cores, 2), Some((vec![0, 1], vec![4, 5])));
        assert_eq!(apart(&cores, 3), Some((vec![0, 1, 2], vec![3, 4, 5])));
        assert_eq!(apart(&cores, 4), None);
        assert_eq!((shared(&cores, 6).map(|cores| cores.len()), shared(&cores, 7)), (Some(6), None));
    }

    #[test]
    fn this_machine_has_cores() {
        assert_eq!(in_order().len(), core_affinity::get_core_ids().unwrap().len());
    }
}
