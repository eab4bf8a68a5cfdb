//! What the commands have in common that work on a store beside a server: which store, and telling the server of a change.

use std::path::{Path, PathBuf};

use clap::Args;
use corewall_sharding::publish::Store;
use serde::Serialize;

use super::{ConfigArgument, Failure};
use crate::control::client::{Client, ClientError};
use crate::control::protocol::{Reloaded, Request, Status};

/// Which store.
#[derive(Debug, Args)]
pub struct StoreArguments {
    #[command(flatten)]
    config: ConfigArgument,
    /// Directory of the store, instead of the configuration's
    #[arg(long, value_name = "DIR")]
    store: Option<PathBuf>,
}

/// Which store, and by which socket its server is spoken to.
#[derive(Debug, Args)]
pub struct ServedStoreArguments {
    #[command(flatten)]
    store: StoreArguments,
    /// Control socket of the server that reads the store, instead of the configuration's
    #[arg(long, value_name = "PATH")]
    control: Option<PathBuf>,
}

impl StoreArguments {
    /// Opens the store.
    pub(super) fn open(&self) -> Result<Store, Failure> {
        self.open_and_socket().map(|(store, _)| store)
    }

    fn open_and_socket(&self) -> Result<(Store, Option<PathBuf>), Failure> {
        let (dir, socket) = match (&self.store, &self.config.config) {
            // A store that is named alone belongs to no configuration; the default's socket may still be its server's.
            (Some(dir), None) => (dir.clone(), self.config.load().ok().and_then(|(config, _)| config.control_socket)),
            (named, _) => {
                let (config, _) = self.config.load()?;
                (named.clone().unwrap_or(config.store), config.control_socket)
            }
        };
        let store = Store::open(&dir).map_err(Failure::usage)?;
        Ok((store, socket))
    }
}

impl ServedStoreArguments {
    /// Opens the store, and finds out who serves it.
    pub(super) fn open(&self) -> Result<(Store, Server), Failure> {
        let (store, socket) = self.store.open_and_socket()?;
        let server = Server::find(self.control.clone().or(socket), &store);
        Ok((store, server))
    }
}

/// The server of a store.
pub(super) enum Server {
    /// It answers on its socket.
    Serves {
        /// The connection.
        client: Box<Client>,
        /// How it is.
        status: Box<Status>,
    },
    /// None that is known of, and why.
    Unknown(String),
}

impl Server {
    fn find(socket: Option<PathBuf>, store: &Store) -> Self {
        let Some(socket) = socket else {
            return Self::Unknown("the configuration has no control_socket".to_owned());
        };
        let asked = Client::connect(&socket).and_then(|mut client| {
            let status: Status = client.ask(&Request::Status {})?;
            Ok((client, status))
        });
        match asked {
            Ok((client, status)) if is_same(status.store.as_deref(), store.dir()) => {
                Self::Serves { client: Box::new(client), status: Box::new(status) }
            }
            Ok((_, status)) => Self::Unknown(match status.store {
                Some(other) => format!("the server on {} serves {}", socket.display(), other.display()),
                None => format!("the server on {} serves no store", socket.display()),
            }),
            Err(ClientError::NoServer(_)) => Self::Unknown(format!("none listens on {}", socket.display())),
            Err(error) => Self::Unknown(error.to_string()),
        }
    }

    /// What it serves: `3`, or `2, 3` in the middle of a reload; none when there is no server.
    pub(super) fn served(&self) -> Option<Vec<u64>> {
        let Self::Serves { status, .. } = self else { return None };
        let mut served: Vec<u64> = status.workers.iter().filter_map(|worker| worker.generation).collect();
        served.sort_unstable();
        served.dedup();
        Some(served)
    }

    /// Has it go over to what is current now, and waits for it.
    ///
    /// # Errors
    /// It answers, and does not go over.
    pub(super) fn reload(self) -> Result<Told, Failure> {
        match self {
            Self::Unknown(why) => Ok(Told { generation: None, not_reloaded: Some(why) }),
            Self::Serves { mut client, .. } => {
                let reloaded: Reloaded = client.ask(&Request::Reload {}).map_err(|error| {
                    Failure::runtime(format_args!(
                        "the store has been switched, but the server has not gone over: {error}; when that is mended, run \
                         `corewall reload`"
                    ))
                })?;
                Ok(Told { generation: reloaded.generation, not_reloaded: None })
            }
        }
    }
}

/// What has become of telling the server.
#[derive(Debug, Serialize)]
pub(super) struct Told {
    /// The generation that it serves now.
    #[serde(rename = "served")]
    pub(super) generation: Option<u64>,
    /// Why no server was told.
    pub(super) not_reloaded: Option<String>,
}

impl Told {
    /// A line for people.
    pub(super) fn text(&self) -> String {
        match (&self.not_reloaded, self.generation) {
            (Some(why), _) => {
                format!("no server was told: {why}; one that runs goes over by `corewall reload` or SIGHUP\n")
            }
            (None, Some(generation)) => format!("the server serves generation {generation} now\n"),
            (None, None) => "the server serves no store\n".to_owned(),
        }
    }
}

/// Whether a server's store, which it tells as an absolute path, is this one.
fn is_same(served: Option<&Path>, dir: &Path) -> bool {
    served.is_some_and(|served| dir.canonicalize().is_ok_and(|dir| dir == served))
}

/// A moment in seconds since 1970, as UTC.
pub(super) fn utc_text(unix_s: u64) -> String {
    let (days, minutes) = (unix_s / 86_400, unix_s % 86_400 / 60);
    // Howard Hinnant's `civil_from_days`: years begin in March, so that the leap day comes last.
    let from_era = days + 719_468;
    let (era, day_of_era) = (from_era / 146_097, from_era % 146_097);
    let year_of_era = (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month_from_march = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month_from_march + 2) / 5 + 1;
    let month = if month_from_march < 10 { month_from_march + 3 } else { month_from_march - 9 };
    let year = year_of_era + era * 400 + u64::from(month <= 2);
    format!("{year:04}-{month:02}-{day:02} {:02}:{:02} UTC", minutes / 60, minutes % 60)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn moments_are_told_as_dates() {
        for (unix_s, text) in [
            (0, "1970-01-01 00:00 UTC"),
            (951_782_400, "2000-02-29 00:00 UTC"),
            (1_709_251_199, "2024-02-29 23:59 UTC"),
            (1_795_203_763, "2026-11-20 19:42 UTC"),
            (4_107_542_400, "2100-03-01 00:00 UTC"),
        ] {
            assert_eq!(utc_text(unix_s), text);
        }
    }
}
