//! Which generations were current before, so that a roll-back leads to one that has served.
//!
//! `STORE/history` has a line for each switch: the number of the generation that was current until then, the oldest first.
//! Invariant: a line is durable before `current` changes, so every number in it was current once; the file is replaced whole
//! and holds at most [`HISTORY_MAX`] lines. A line that cannot be read is passed over: the history only ranks generations,
//! and each is opened and verified before it is switched to.

use std::fs;
use std::io::ErrorKind;
use std::path::Path;

use crate::StoreError;
use crate::publish::write_durably;

/// Name of the file within the store.
pub(crate) const HISTORY: &str = "history";
/// What the next history is called until it is complete.
pub(crate) const NEW_HISTORY: &str = ".history-new";
/// Switches remembered: far more than the generations that a store keeps.
const HISTORY_MAX: usize = 100;

/// The numbers of the generations that were current, the latest last; empty for a store that was never switched.
pub(crate) fn read(store: &Path) -> Result<Vec<u64>, StoreError> {
    let path = store.join(HISTORY);
    match fs::read_to_string(&path) {
        Ok(text) => Ok(text.lines().filter_map(|line| line.trim().parse().ok()).collect()),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(Vec::new()),
        Err(error) => Err(StoreError::io(&path, "read the history")(error)),
    }
}

/// Remembers that `number` was current until now. The caller holds the lock of switches, and makes the directory durable.
pub(crate) fn remember(store: &Path, number: u64) -> Result<(), StoreError> {
    // A history that cannot be read must not keep anybody from rolling back; it begins anew.
    let mut numbers = read(store).unwrap_or_default();
    if numbers.last() == Some(&number) {
        return Ok(());
    }
    numbers.push(number);
    let kept = numbers.len().saturating_sub(HISTORY_MAX);
    let text: String = numbers.iter().skip(kept).map(|number| format!("{number}\n")).collect();
    let (new, path) = (store.join(NEW_HISTORY), store.join(HISTORY));
    // What a killed process left.
    let _ = fs::remove_file(&new);
    write_durably(&new, text.as_bytes())?;
    fs::rename(&new, &path).map_err(StoreError::io(&path, "replace the history"))
}

/// The generation that was current before `current` and still is there: the latest one of the history with a lower number, for
/// a newer one is not "before". Without such a history, which older versions did not write, the highest number below.
pub(crate) fn before(history: &[u64], current: u64, there: &[u64]) -> Option<u64> {
    let is_before = |number: &&u64| **number < current && there.contains(number);
    history.iter().rev().find(is_before).or_else(|| there.iter().filter(is_before).max()).copied()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn before_is_what_served_last_and_is_older() {
        let there = [1, 2, 3, 4];
        assert_eq!(before(&[1, 2], 3, &there), Some(2));
        // Rolled back from 3 to 2: the next roll-back goes further, not forward.
        assert_eq!(before(&[1, 2, 3], 2, &there), Some(1));
        // Then 4 was built: before it came 2, and 3 was the bad one.
        assert_eq!(before(&[1, 2, 3, 2], 4, &there), Some(2));
        assert_eq!(before(&[1, 2, 3, 2], 4, &[3, 4]), Some(3), "2 and 1 are gone");
        assert_eq!(before(&[], 4, &there), Some(3), "no history");
        assert_eq!(before(&[2, 3], 1, &there), None);
    }

    #[test]
    fn a_history_is_bounded_and_survives_a_damaged_line() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(read(dir.path()).unwrap(), Vec::<u64>::new());
        for number in 0..2 * HISTORY_MAX as u64 {
            remember(dir.path(), number).unwrap();
            remember(dir.path(), number).unwrap();
        }
        let numbers = read(dir.path()).unwrap();
        assert_eq!((numbers.len(), numbers.first(), numbers.last()), (HISTORY_MAX, Some(&100), Some(&199)));
        fs::write(dir.path().join(HISTORY), "7\nnonsense\n9\n").unwrap();
        fs::write(dir.path().join(NEW_HISTORY), "left by a killed process").unwrap();
        remember(dir.path(), 10).unwrap();
        assert_eq!(read(dir.path()).unwrap(), [7, 9, 10]);
    }
}
