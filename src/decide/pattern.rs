//! Stage 7, pattern: what a scan found. The engine is in `serve`.

use crate::limits::MATCHES_MAX;

/// The patterns that match one name, by their number in the generation.
pub struct Matches {
    len: usize,
    ids: [u32; MATCHES_MAX],
}

impl Matches {
    /// None.
    pub fn new() -> Self {
        Self { len: 0, ids: [0; MATCHES_MAX] }
    }

    /// None again.
    pub fn clear(&mut self) {
        self.len = 0;
    }

    /// Adds a pattern; past [`MATCHES_MAX`] they are left out.
    pub fn push(&mut self, id: u32) {
        if let Some(place) = self.ids.get_mut(self.len) {
            *place = id;
            self.len += 1;
        }
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
