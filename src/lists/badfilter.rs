//! Rules that `$badfilter` switches off.
//!
//! A `$badfilter` rule disables every rule of the same text, its own modifier aside, in all lists in Adblock syntax; it may
//! stand in a list that is read later. So these lists are passed over once before they are read.

use hashbrown::HashSet;

/// Texts of disabled rules in canonical form.
#[derive(Clone, Debug, Default)]
pub struct Disabled {
    rules: HashSet<Box<str>>,
}

impl Disabled {
    /// Whether no rule is disabled, which saves the look at each.
    pub fn is_empty(&self) -> bool {
        self.rules.is_empty()
    }

    /// How many rules are disabled.
    pub fn len(&self) -> usize {
        self.rules.len()
    }

    /// Adds what another list disables.
    pub fn add(&mut self, other: Disabled) {
        self.rules.extend(other.rules);
    }

    /// `text` is the rule's text up to its modifiers, `@@` included; `modifiers` their canonical form.
    pub(super) fn insert(&mut self, text: &str, modifiers: &str) {
        self.rules.insert(format!("{text}{modifiers}").into());
    }

    /// Whether the rule of this text and these modifiers is disabled.
    pub(super) fn contains(&self, text: &str, modifiers: &str) -> bool {
        if self.rules.is_empty() {
            return false;
        }
        // Nearly every rule has no modifiers, and needs no new text to be looked up.
        if modifiers.is_empty() {
            self.rules.contains(text)
        } else {
            self.rules.contains(&*format!("{text}{modifiers}"))
        }
    }
}
