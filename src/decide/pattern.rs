//! Stage 7, pattern: what a scan found. The engine is in `serve`.

use crate::limits::MATCHES_MAX;

/// The patterns that match one name, by their number in the generation.
pub struct Matches {
    len: usize,
    is_overfull: bool,
    ids: [u32; MATCHES_MAX],
}

impl Matches {
    /// None.
    pub fn new() -> Self {
        Self { len: 0, is_overfull: false, ids: [0; MATCHES_MAX] }
    }

    /// None again.
    pub fn clear(&mut self) {
        self.len = 0;
        self.is_overfull = false;
    }

    /// Adds a pattern.
    pub fn push(&mut self, id: u32) {
        match self.ids.get_mut(self.len) {
            Some(place) => {
                *place = id;
                self.len += 1;
            }
            None => self.is_overfull = true,
        }
    }

    /// Adds `first` to the numbers from place `from` on, which were another database's own.
    pub fn renumber_from(&mut self, from: usize, first: u32) {
        self.ids.iter_mut().take(self.len).skip(from).for_each(|id| *id = id.saturating_add(first));
    }

    /// Whether there were more than [`MATCHES_MAX`], so that some are missing.
    pub fn is_overfull(&self) -> bool {
        self.is_overfull
    }

    /// The patterns found.
    pub fn as_slice(&self) -> &[u32] {
        self.ids.get(..self.len).unwrap_or_default()
    }
}

impl Default for Matches {
    fn default() -> Self {
        Self::new()
    }
}
