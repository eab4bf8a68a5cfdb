//! Scenarios that are not passed, and why.

/// A reason and the scenarios that it holds for.
type Verdict = (&'static str, &'static [&'static str]);

/// Why Corewall differs.
const DIFFERS: [Verdict; 0] = [];

/// Why `scenario` is not passed, if it need not.
pub fn reason(scenario: &str) -> Option<&'static str> {
    DIFFERS.iter().find(|(_, names)| names.contains(&scenario)).map(|(reason, _)| *reason)
}

/// All that need not be passed.
pub fn names() -> impl Iterator<Item = &'static str> {
    DIFFERS.iter().flat_map(|(_, names)| names.iter().copied())
}
