//! Which names the last changes of live rules spoke of, so that cached answers to all others need not be judged again.
//!
//! Invariant: [`Changes::touch`] says false only when no rule has changed since the given stamp that could speak of the name
//! itself. What an answer's chain or addresses have come to mean, it does not tell.

use std::collections::VecDeque;

use corewall_sharding::name::Name;

use crate::limits::LIVE_CHANGES_KEPT;

/// A name of which rules have changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Touched {
    /// The name.
    pub name: Name,
    /// Whether names under it are touched too.
    pub is_subtree: bool,
}

impl Touched {
    fn speaks_of(&self, name: &Name) -> bool {
        if self.is_subtree { name.is_at_or_below(&self.name) } else { *name == self.name }
    }
}

/// The last changes.
pub(super) struct Changes {
    /// Before this stamp other settings or another generation held.
    switched: u64,
    /// What was judged before this stamp, rules of unknown names have changed since.
    known_from: u64,
    /// The stamp that each change made, the oldest first.
    last: VecDeque<(u64, Touched)>,
}

impl Changes {
    pub(super) fn new() -> Self {
        Self { switched: 0, known_from: 0, last: VecDeque::with_capacity(LIVE_CHANGES_KEPT) }
    }

    /// With `stamp` come other settings or another generation.
    pub(super) fn note_switch(&mut self, stamp: u64) {
        self.switched = stamp;
        self.note_all(stamp);
    }

    /// The rules of `stamp` differ from those before in any name.
    pub(super) fn note_all(&mut self, stamp: u64) {
        self.known_from = stamp;
        self.last.clear();
    }

    /// The rules of `stamp` differ from those before in these names only.
    pub(super) fn note(&mut self, stamp: u64, touched: &[Touched]) {
        if touched.len() > LIVE_CHANGES_KEPT {
            return self.note_all(stamp);
        }
        for touched in touched {
            if self.last.len() == LIVE_CHANGES_KEPT
                && let Some((forgotten, _)) = self.last.pop_front()
            {
                self.known_from = forgotten;
            }
            self.last.push_back((stamp, *touched));
        }
    }

    /// Whether other settings or another generation have come since `stamp`.
    pub(super) fn switched_since(&self, stamp: u64) -> bool {
        stamp < self.switched
    }

    /// Whether it is not known which names are touched since `stamp`.
    pub(super) fn is_unknown(&self, stamp: u64) -> bool {
        stamp < self.known_from
    }

    /// Whether rules on `name` may have changed since those of `stamp`. On the hot path.
    pub(super) fn touch(&self, name: &Name, stamp: u64) -> bool {
        let since = self.last.iter().rev().take_while(|(changed, _)| *changed > stamp);
        self.is_unknown(stamp) || since.into_iter().any(|(_, touched)| touched.speaks_of(name))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn touched(name: &str, is_subtree: bool) -> Touched {
        Touched { name: name.parse().unwrap(), is_subtree }
    }

    fn name(text: &str) -> Name {
        text.parse().unwrap()
    }

    #[test]
    fn names_are_touched_by_later_changes_at_or_above_them() {
        let mut changes = Changes::new();
        changes.note_all(1);
        changes.note(2, &[touched("a.example", true)]);
        changes.note(3, &[touched("b.example", false), touched("c.example", false)]);
        assert!(changes.touch(&name("x.a.example"), 1) && changes.touch(&name("a.example"), 1));
        assert!(!changes.touch(&name("x.a.example"), 2), "it was judged by then");
        assert!(changes.touch(&name("b.example"), 2) && changes.touch(&name("c.example"), 2));
        assert!(!changes.touch(&name("x.b.example"), 1) && !changes.touch(&name("example"), 1));
        assert!(changes.touch(&name("z.example"), 0), "it was judged before anything is known");
    }

    #[test]
    fn what_is_forgotten_may_have_touched_anything() {
        let mut changes = Changes::new();
        changes.note_all(1);
        for stamp in 2..2 + LIVE_CHANGES_KEPT as u64 {
            changes.note(stamp, &[touched("a.example", false)]);
        }
        assert!(!changes.touch(&name("z.example"), 1));
        changes.note(1_000, &[touched("a.example", false)]);
        assert!(changes.touch(&name("z.example"), 1));
        assert!(!changes.touch(&name("z.example"), 2), "the change of its own stamp was judged with it");
        let many = vec![touched("a.example", false); LIVE_CHANGES_KEPT + 1];
        changes.note(1_001, &many);
        assert!(changes.touch(&name("z.example"), 1_000) && !changes.touch(&name("z.example"), 1_001));
    }
}
