//! Scenarios of other programs, where their data is at hand: Unbound's forwarding ones and those of Stelline for a client's
//! cache, as JSON. They are not part of this repository.
//!
//! What they are held to is what a forwarder can do: the servers to which their configuration leads stand at their own
//! addresses, the root and name servers behind those answer in their place, and of an answer the status and the answer
//! section count; for authority and additional records beside an SOA are not kept, AA is not ours to set, and RA says nothing
//! about the answer. Each either passes or stands in [`verdicts`] with the step at which Corewall differs and the reason; one
//! that stands there and passes, or fails at another step, is a failure too.

mod config;
mod translate;
mod verdicts;

use std::path::{Path, PathBuf};

use libtest_mimic::Trial;
use serde_json::Value;

use crate::Failure;
use crate::real_data;
use crate::run::{self, Strictness};

/// A test for each scenario. Those that differ can be looked at with `--ignored`.
pub fn trials() -> Vec<Trial> {
    let Some(folder) = real_data::folder("rpl-dev") else { return Vec::new() };
    let cases = match read_all(&folder.join("rpl-json")) {
        Ok(cases) => cases,
        Err(error) => return vec![Trial::test("foreign", move || Err(error.into()))],
    };
    let is_known = |name: &str| cases.iter().any(|(known, _)| known == name);
    let strangers = verdicts::names().filter(|name| !is_known(name));
    let mut trials: Vec<Trial> = strangers
        .map(|name| {
            Trial::test(format!("foreign/{name}"), || Err("it is not in the archive: verdicts.rs is old".into()))
        })
        .collect();
    for (name, case) in cases {
        let title = format!("foreign/{name}");
        let difference = verdicts::difference(&name);
        if let Some((step, reason)) = difference {
            let (name, case) = (name.clone(), case.clone());
            trials.push(Trial::test(format!("foreign/differs/{name}"), move || {
                differs(&name, &case, step, reason).map_err(Into::into)
            }));
        }
        let trial = Trial::test(title, move || pass(&name, &case).map_err(|failure| failure.to_string().into()));
        trials.push(trial.with_ignored_flag(difference.is_some()));
    }
    trials
}

/// Runs a scenario; of a failure, the line is the step's number.
fn pass(name: &str, case: &Value) -> Result<(), Failure> {
    let scenario = translate::translate(name, case).map_err(|text| {
        let file = PathBuf::from(name);
        Failure { file, line: verdicts::NOT_TOLD as usize, text }
    })?;
    run::run(&scenario, Strictness::Foreign)
}

fn differs(name: &str, case: &Value, step: u32, reason: &str) -> Result<(), String> {
    match pass(name, case) {
        Ok(()) => Err(format!("it passes: take it out of verdicts.rs, where it stands because {reason}")),
        Err(failure) if failure.line == step as usize => Ok(()),
        Err(failure) => Err(format!("verdicts.rs has step {step}, because {reason}; but it fails so:\n{failure}")),
    }
}

/// The forwarding scenarios of the archive by name.
fn read_all(folder: &Path) -> Result<Vec<(String, Value)>, String> {
    let mut cases = Vec::new();
    for file in ["unbound-forwarder.json", "domain-client-cache.json"] {
        let path = folder.join(file);
        let text = std::fs::read_to_string(&path).map_err(|error| format!("{}: {error}", path.display()))?;
        let all: Vec<Value> = serde_json::from_str(&text).map_err(|error| format!("{}: {error}", path.display()))?;
        for case in all {
            let path = text_of(&case["file"]);
            // The validators' scenarios are of a validating resolver.
            if path.contains("/validator/") || path.contains("/server/") {
                continue;
            }
            let name = Path::new(&path).file_stem().unwrap_or_default().to_string_lossy().into_owned();
            cases.push((name, case));
        }
    }
    Ok(cases)
}

fn list(value: &Value) -> &[Value] {
    value.as_array().map_or(&[], Vec::as_slice)
}

fn text_of(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        Value::Null => String::new(),
        other => other.to_string(),
    }
}
