//! `corewall publish` and `corewall rollback`: make another generation the current one, and have the server go over to it.
//!
//! Invariant: the generation is opened and verified as a server does before anything changes; the switch itself is one rename.
//! A build that runs meanwhile is not waited for.

use clap::Args;
use corewall_sharding::publish::Store;
use serde::Serialize;

use super::store::{ServedStoreArguments, Server, Told};
use super::{Failure, print, print_json};

/// Make a generation the current one.
#[derive(Debug, Args)]
pub struct PublishArguments {
    /// Its number, as `corewall generations` lists it
    #[arg(value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    number: u64,
    #[command(flatten)]
    store: ServedStoreArguments,
    /// Print what has become of it as JSON
    #[arg(long)]
    json: bool,
}

/// Go back to the generation that was current before, the last older one that has served.
#[derive(Debug, Args)]
pub struct RollbackArguments {
    #[command(flatten)]
    store: ServedStoreArguments,
    /// Print what has become of it as JSON
    #[arg(long)]
    json: bool,
}

/// What has become of it.
#[derive(Debug, Serialize)]
struct Switched {
    /// Current now.
    current: u64,
    /// Current until now.
    was: Option<u64>,
    #[serde(flatten)]
    told: Told,
}

/// Publishes.
pub(super) fn publish(arguments: PublishArguments) -> Result<(), Failure> {
    let (store, server) = arguments.store.open()?;
    switch(&store, server, arguments.number, arguments.json)
}

/// Rolls back.
pub(super) fn rollback(arguments: RollbackArguments) -> Result<(), Failure> {
    let (store, server) = arguments.store.open()?;
    let number = store.number_before().map_err(Failure::runtime)?.ok_or_else(|| match store.current_number() {
        Ok(Some(current)) => Failure::runtime(format_args!(
            "there is no generation before {current}; `corewall generations` lists those that are there, and \
             `corewall publish N` makes any of them the current one"
        )),
        _ => Failure::runtime("no generation is current; `corewall publish N` makes one"),
    })?;
    switch(&store, server, number, arguments.json)
}

fn switch(store: &Store, server: Server, number: u64, json: bool) -> Result<(), Failure> {
    // A symlink that leads nowhere is about to be replaced.
    let was = store.current_number().ok().flatten();
    store.switch(number).map_err(Failure::runtime)?;
    let switched = Switched { current: number, was, told: server.reload()? };
    if json {
        return print_json(&switched);
    }
    let was = match was {
        Some(was) if was == number => ", as it was before".to_owned(),
        Some(was) => format!("; it was {was}"),
        None => String::new(),
    };
    print(format_args!("generation {number} is the current one{was}\n{}", switched.told.text()))
}
