//! Forgetting answers on demand, in slices: the cache may hold millions of entries, and queries wait meanwhile.

use corewall_sharding::name::Name;

use super::Cache;
use super::key::StoredKey;
use crate::limits::CACHE_FLUSH_STEP;

/// Which answers are to be forgotten. Answers count by the name that was asked, whatever names lie in their chains.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Flush {
    /// Those for this name: every type, policy and upstream group, failures included.
    Name(Name),
    /// The same for the name and all names under it.
    Subtree(Name),
    /// All.
    All,
}

/// How far a flush has come.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct FlushCursor(u32);

impl FlushCursor {
    /// Where every flush begins.
    pub const START: FlushCursor = FlushCursor(0);
}

/// What one slice of a flush came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FlushProgress {
    /// Entries removed by this slice.
    pub removed: u32,
    /// Where to go on; none when all is done.
    pub next: Option<FlushCursor>,
}

impl Cache {
    /// Forgets some of what `what` says and tells where to go on. An entry that comes while a flush is under way was asked for
    /// after it began, and may stay or go.
    pub fn flush(&mut self, what: &Flush, from: FlushCursor) -> FlushProgress {
        let first = from.0 as usize;
        let end = first.saturating_add(CACHE_FLUSH_STEP).min(self.metas.len());
        let mut removed = 0;
        for at in first..end {
            let Some(name_bytes) = self.metas.get(at).map(|meta| usize::from(meta.name_bytes)) else { break };
            if name_bytes == 0 {
                continue;
            }
            let is_meant = match what {
                Flush::All => true,
                Flush::Name(name) => self.is_stored_at_or_below(at as u32, name_bytes, name, false),
                Flush::Subtree(name) => self.is_stored_at_or_below(at as u32, name_bytes, name, true),
            };
            if is_meant {
                self.drop_entry(at as u32);
                removed += 1;
            }
        }
        let next = (end < self.metas.len()).then_some(FlushCursor(end as u32));
        FlushProgress { removed, next }
    }

    fn is_stored_at_or_below(&self, first: u32, name_bytes: usize, ancestor: &Name, may_be_below: bool) -> bool {
        let ancestor_bytes = ancestor.as_wire().len();
        // Most names differ in length already: their chunks are not even read.
        if name_bytes < ancestor_bytes || (name_bytes > ancestor_bytes && !may_be_below) {
            return false;
        }
        let key = StoredKey::read(self.chunks.pieces(first), name_bytes);
        Name::from_wire(key.name()).is_ok_and(|name| name.is_at_or_below(ancestor))
    }
}
