//! Moments at which something is to be done, one for each numbered thing; the earliest is at hand.
//!
//! Invariant: a thing is in it once or not at all, so what is over leaves nothing behind. A moment that is later than most,
//! as time-outs are, is filed in a step or two; none takes more than the logarithm of the number of things. Memory is taken
//! by [`Deadlines::new`] and [`Deadlines::grow`] alone.

use super::Now;

/// A binary heap that knows where each thing stands in it.
pub struct Deadlines {
    /// Each is no earlier than the one at half its place.
    heap: Vec<(Now, u32)>,
    /// By the number of the thing: its place in `heap`, [`NOWHERE`] when it has none.
    places: Vec<u32>,
}

const NOWHERE: u32 = u32::MAX;

impl Deadlines {
    /// For things numbered from 0 to `things - 1`.
    pub fn new(things: usize) -> Self {
        let mut deadlines = Self { heap: Vec::new(), places: Vec::new() };
        deadlines.grow(things);
        deadlines
    }

    /// Makes room for `things` in all. Allocates.
    pub fn grow(&mut self, things: usize) {
        if things > self.places.len() {
            self.places.resize(things, NOWHERE);
            self.heap.reserve(things - self.heap.len());
        }
    }

    /// Files or moves a thing.
    pub fn set(&mut self, thing: u32, at: Now) {
        let Some(&place) = self.places.get(thing as usize) else { return };
        let place = if place == NOWHERE {
            self.heap.push((at, thing));
            self.heap.len() - 1
        } else {
            if let Some(entry) = self.heap.get_mut(place as usize) {
                entry.0 = at;
            }
            place as usize
        };
        self.note(place);
        let place = self.rise(place);
        self.sink(place);
    }

    /// Takes a thing out, if it is there.
    pub fn clear(&mut self, thing: u32) {
        let Some(place) = self.places.get_mut(thing as usize) else { return };
        let place = std::mem::replace(place, NOWHERE) as usize;
        if place >= self.heap.len() {
            return;
        }
        self.heap.swap_remove(place);
        if place < self.heap.len() {
            self.note(place);
            let place = self.rise(place);
            self.sink(place);
        }
    }

    /// Whether a thing is there.
    pub fn has(&self, thing: u32) -> bool {
        self.places.get(thing as usize).is_some_and(|&place| place != NOWHERE)
    }

    /// The earliest.
    pub fn first(&self) -> Option<(Now, u32)> {
        self.heap.first().copied()
    }

    fn at(&self, place: usize) -> Option<Now> {
        self.heap.get(place).map(|&(at, _)| at)
    }

    /// Lets what is at `place` know where it stands.
    fn note(&mut self, place: usize) {
        if let Some(&(_, thing)) = self.heap.get(place)
            && let Some(known) = self.places.get_mut(thing as usize)
        {
            *known = place as u32;
        }
    }

    fn swap(&mut self, a: usize, b: usize) {
        self.heap.swap(a, b);
        self.note(a);
        self.note(b);
    }

    fn rise(&mut self, mut place: usize) -> usize {
        while place > 0 {
            let parent = (place - 1) / 2;
            if self.at(parent) <= self.at(place) {
                break;
            }
            self.swap(place, parent);
            place = parent;
        }
        place
    }

    fn sink(&mut self, mut place: usize) {
        loop {
            let (left, right) = (2 * place + 1, 2 * place + 2);
            let Some(mut earliest) = self.at(left) else { return };
            let mut child = left;
            if let Some(at) = self.at(right).filter(|at| *at < earliest) {
                (earliest, child) = (at, right);
            }
            if self.at(place).is_none_or(|at| at <= earliest) {
                return;
            }
            self.swap(place, child);
            place = child;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    #[test]
    fn the_earliest_is_first_whatever_was_filed_moved_and_taken_out() {
        let mut deadlines = Deadlines::new(64);
        let mut model: BTreeMap<u32, Now> = BTreeMap::new();
        let mut chance = 7u64;
        for _ in 0..20_000 {
            chance = chance.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            let (thing, at) = ((chance >> 33) as u32 % 64, Now(chance >> 50));
            if chance >> 40 & 3 == 0 {
                deadlines.clear(thing);
                model.remove(&thing);
            } else {
                deadlines.set(thing, at);
                model.insert(thing, at);
            }
            assert_eq!(deadlines.first().map(|(at, _)| at), model.values().min().copied());
            assert_eq!(deadlines.has(thing), model.contains_key(&thing));
            assert_eq!(deadlines.heap.len(), model.len());
        }
    }

    #[test]
    fn memory_is_taken_at_the_start() {
        let mut deadlines = Deadlines::new(100);
        let before = deadlines.heap.capacity();
        for round in 0..10u64 {
            (0..100).for_each(|thing| deadlines.set(thing, Now(round * 1_000 + u64::from(thing))));
        }
        assert_eq!(deadlines.heap.capacity(), before);
        deadlines.set(100, Now(1));
        assert_eq!(deadlines.heap.len(), 100, "a thing that there is no room for");
    }
}
