//! What changes under a running worker: generation and configuration, live rules, the answers it begins with and leaves behind.

use std::path::Path;

use super::Worker;
use crate::serve::clock::unix_s;
use crate::serve::live::LiveStep;
use crate::serve::reload::Knowledge;
use crate::serve::saved;

impl Worker {
    /// Goes over to another generation and configuration, between two batches. Opens the shards first: if one cannot be
    /// opened everything stays as it is.
    pub fn switch(&mut self, knowledge: &Knowledge) -> Result<(), String> {
        let live = knowledge.live.now();
        let store = knowledge.open_store(Some((self.core_number, &self.bell)))?;
        let patterns = knowledge.open_patterns()?.with_live(&live.patterns)?;
        self.core.switch(knowledge.settings.clone(), live.change.rules.clone());
        self.core.set_filter_place(knowledge.filter_place(self.core_number));
        self.live_version = live.change.version;
        // It may have been set since the start.
        self.core.set_wall_clock(self.clock.now(), unix_s());
        self.connections.set_limits(knowledge.tcp);
        let mut old = std::mem::replace(&mut self.store, store);
        self.patterns = patterns;
        (self.generation, self.rule_count) = (knowledge.generation(), knowledge.rule_count());
        // What was being read for them is asked of the new generation.
        let now = self.clock.now();
        self.end_reads(now, old.abandon_reads());
        self.settle(now);
        self.store_dir = knowledge.store_dir();
        Ok(())
    }

    /// Takes over rules that were added or removed by hand, between two batches; cached answers are judged again.
    pub fn change_live(&mut self, step: &LiveStep) -> Result<(), String> {
        if self.generation != step.generation {
            return Err("it serves another generation; reload first".to_owned());
        }
        // One that another order has overtaken holds nothing new.
        if step.change.version > self.live_version {
            self.patterns.set_live(&step.patterns)?;
            self.core.change_live(&step.change, step.change.version == self.live_version + 1);
            self.live_version = step.change.version;
        }
        Ok(())
    }

    /// Takes in the popular answers of the process before, if their file is there and whole.
    pub fn load_cache(&mut self, path: &Path) {
        match saved::load(path) {
            Ok(Some((saved_unix_s, cache))) => {
                let elapsed_s = saved::elapsed_s(saved_unix_s, unix_s());
                let taken = self.core.load(self.clock.now(), elapsed_s, cache);
                tracing::info!(answers = taken, "saved answers taken from {}", path.display());
            }
            Ok(None) => {}
            Err(reason) => {
                tracing::warn!("starting without the saved answers of {}: {reason}", path.display());
            }
        }
    }

    /// Saves the popular answers for the next process.
    pub fn save_cache(&self, path: &Path) {
        let cache = self.core.save(self.clock.now());
        match saved::save(path, unix_s(), &cache) {
            Ok(()) => tracing::info!(answers = cache.entries.len(), "answers saved in {}", path.display()),
            Err(error) => tracing::warn!(
                "answers cannot be saved in {}: {error}; make `cache.save_dir` a folder that this user may write to",
                path.display()
            ),
        }
    }
}
