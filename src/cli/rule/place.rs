//! Where rules are changed: in a running server, or, when none runs, in the files.

use std::path::Path;

use corewall_sharding::StoreError;
use corewall_sharding::overlay::Overlay;
use corewall_sharding::publish::{Generation, Store};
use serde::de::DeserializeOwned;

use super::StoreArguments;
use crate::build::patterns::Compiler;
use crate::cli::Failure;
use crate::cli::control::failure;
use crate::control::client::Client;
use crate::control::protocol::{
    Refusal, RefusalKind, Request, RulesChanged, RulesListed, RulesToAdd, RulesToFind, RulesToList,
};
use crate::control::rules::changes::{self, Added, Found, now_s};
use crate::limits::RULES_LEAVING_MAX;

/// Where rules are changed.
pub enum Place {
    /// In a running server.
    Server(Client),
    /// In the files of a store that no server serves.
    Files(Box<Files>),
}

/// The files, locked.
pub struct Files {
    overlay: Overlay,
    /// None when nothing has been built yet.
    generation: Option<Generation>,
}

impl Place {
    /// The running server if there is one.
    ///
    /// # Errors
    /// The server may not be spoken to, or somebody else has the files.
    pub fn find(arguments: &StoreArguments) -> Result<Self, Failure> {
        if arguments.store.is_none()
            && let Some(client) = arguments.control.connect_if_running()?
        {
            return Ok(Self::Server(client));
        }
        let dir = match &arguments.store {
            Some(dir) => dir.clone(),
            None => arguments.control.store()?,
        };
        Files::open(&dir).map(|files| Self::Files(Box::new(files))).map_err(|error| match error {
            StoreError::OverlayBusy { .. } if arguments.store.is_none() => {
                Failure::runtime(format_args!("{error}; --control names another socket"))
            }
            error => Failure::runtime(error),
        })
    }

    /// Adds rules.
    pub fn add(&mut self, rules: RulesToAdd) -> Result<RulesChanged, Failure> {
        match self {
            Self::Server(client) => ask(client, &Request::RuleAdd(rules)),
            Self::Files(files) => {
                let added = Added::read(&rules, Compiler::Child).map_err(refused)?;
                done(added.write(&mut files.overlay))
            }
        }
    }

    /// Removes rules.
    pub fn remove(&mut self, rules: RulesToFind) -> Result<RulesChanged, Failure> {
        match self {
            Self::Server(client) => ask(client, &Request::RuleRemove(rules)),
            Self::Files(files) => {
                let found = Found::read(&rules).map_err(refused)?;
                done(found.remove(&mut files.overlay, files.generation.as_ref(), &rules))
            }
        }
    }

    /// Lets rules of the generation hold again.
    pub fn restore(&mut self, rules: RulesToFind) -> Result<RulesChanged, Failure> {
        match self {
            Self::Server(client) => ask(client, &Request::RuleRestore(rules)),
            Self::Files(files) => done(Found::read(&rules).map_err(refused)?.restore(&mut files.overlay)),
        }
    }

    /// Removes some live rules of a list.
    pub fn remove_list(&mut self, list: &str) -> Result<RulesChanged, Failure> {
        match self {
            Self::Server(client) => ask(client, &Request::RuleRemoveList { list: list.to_owned() }),
            Self::Files(files) => done(changes::remove_list(&mut files.overlay, list)),
        }
    }
}

impl Files {
    fn open(dir: &Path) -> Result<Self, StoreError> {
        let store = Store::open(dir)?;
        let mut overlay = Overlay::open(&store)?;
        let generation = match store.current() {
            Ok(generation) => Some(generation),
            Err(StoreError::NoGeneration { .. }) => None,
            Err(error) => return Err(error),
        };
        while !overlay.expire(now_s(), RULES_LEAVING_MAX)?.left.is_empty() {}
        overlay.set_folded(generation.as_ref().map_or(0, |generation| generation.manifest.overlay_seq))?;
        Ok(Self { overlay, generation })
    }
}

/// Where rules are listed.
pub enum Reader {
    /// A running server.
    Server(Client),
    /// The files, which are read beside whoever changes them.
    Files(Store),
}

impl Reader {
    /// The running server if there is one.
    ///
    /// # Errors
    /// The server may not be spoken to, or there is no store.
    pub fn find(arguments: &StoreArguments) -> Result<Self, Failure> {
        if arguments.store.is_none()
            && let Some(client) = arguments.control.connect_if_running()?
        {
            return Ok(Self::Server(client));
        }
        let dir = match &arguments.store {
            Some(dir) => dir.clone(),
            None => arguments.control.store()?,
        };
        Store::open(&dir).map(Self::Files).map_err(Failure::runtime)
    }

    /// A page.
    pub fn list(&mut self, which: &RulesToList) -> Result<RulesListed, Failure> {
        match self {
            Self::Server(client) => ask(client, &Request::RuleList(which.clone())),
            Self::Files(store) => changes::list(store, which).map_err(Failure::runtime),
        }
    }
}

fn ask<Answer: DeserializeOwned>(client: &mut Client, request: &Request) -> Result<Answer, Failure> {
    client.ask(request).map_err(failure)
}

fn done(outcome: Result<changes::Done, StoreError>) -> Result<RulesChanged, Failure> {
    outcome.map(|(_, changed)| changed).map_err(Failure::runtime)
}

fn refused(refusal: Refusal) -> Failure {
    match refusal.kind {
        RefusalKind::Malformed => Failure::usage(refusal),
        _ => Failure::runtime(refusal),
    }
}
