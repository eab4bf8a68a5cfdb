//! What has changed since a reload began to read the store.
//!
//! Invariant: made on top of whatever the reload has read of the overlay, at any moment since the record was begun, these changes
//! lead to what the overlay is now.

use std::collections::BTreeMap;
use std::sync::Arc;

use corewall_sharding::overlay::{LiveEntry, LiveUpdate};

/// Changes in the order in which they were made, with what has gone again taken out.
#[derive(Default)]
pub struct Since {
    entered: BTreeMap<u64, Arc<LiveEntry>>,
    left: Vec<u64>,
}

impl Since {
    /// Notes a change.
    pub fn add(&mut self, update: &LiveUpdate) {
        self.entered.extend(update.entered.iter().map(|entry| (entry.seq, entry.clone())));
        for seq in &update.left {
            // The reload may have read it all the same.
            self.entered.remove(seq);
            self.left.push(*seq);
        }
    }

    /// Numbers that are held.
    pub fn len(&self) -> usize {
        self.entered.len() + self.left.len()
    }

    /// All of it as one change.
    pub fn update(&self) -> LiveUpdate {
        LiveUpdate { entered: self.entered.values().cloned().collect(), left: self.left.clone() }
    }
}

#[cfg(test)]
mod tests {
    use corewall_sharding::overlay::{LiveChange, Void};

    use super::*;

    fn entry(seq: u64) -> Arc<LiveEntry> {
        let change = LiveChange::Void(Void::Rewrite { from: "10.0.0.1/32".parse().unwrap() });
        Arc::new(LiveEntry {
            seq,
            change,
            list: "live".to_owned(),
            created_s: 0,
            expires_s: None,
            reason: String::new(),
        })
    }

    #[test]
    fn what_came_and_went_is_told_as_gone() {
        let mut since = Since::default();
        since.add(&LiveUpdate { entered: vec![entry(5), entry(6)], left: vec![1] });
        since.add(&LiveUpdate { entered: vec![entry(7)], left: vec![5] });
        assert_eq!(since.update(), LiveUpdate { entered: vec![entry(6), entry(7)], left: vec![1, 5] });
        assert_eq!(since.len(), 4);
    }
}
