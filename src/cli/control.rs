//! What the commands have in common that speak to a running server.

use std::path::PathBuf;

use clap::Args;
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::{ConfigArgument, Failure, print};
use crate::control::client::{Client, ClientError};
use crate::control::protocol::{RefusalKind, Request};

/// Which server, and how its answer is printed.
#[derive(Debug, Args)]
pub struct ControlArguments {
    #[command(flatten)]
    config: ConfigArgument,
    /// The server's control socket, instead of the configuration's
    #[arg(long, value_name = "PATH", conflicts_with = "config")]
    control: Option<PathBuf>,
    /// Print the answer as JSON
    #[arg(long)]
    json: bool,
}

impl ControlArguments {
    /// Asks the server, and prints its answer: as JSON, or as `text` makes it readable.
    pub(super) fn ask_and_print<Answer: DeserializeOwned + Serialize>(
        &self,
        request: &Request,
        text: impl FnOnce(&Answer) -> String,
    ) -> Result<(), Failure> {
        let answer: Answer = self.connect()?.ask(request).map_err(failure)?;
        self.print(&answer, text)
    }

    /// Connects with the server.
    pub(super) fn connect(&self) -> Result<Client, Failure> {
        Client::connect(&self.path()?).map_err(failure)
    }

    /// Connects with the server if one is running.
    pub(super) fn connect_if_running(&self) -> Result<Option<Client>, Failure> {
        let path = match &self.control {
            Some(path) => path.clone(),
            None => match self.config.load()?.0.control_socket {
                Some(path) => path,
                None => return Ok(None),
            },
        };
        match Client::connect(&path) {
            Ok(client) => Ok(Some(client)),
            Err(ClientError::NoServer(_)) => Ok(None),
            Err(error) => Err(failure(error)),
        }
    }

    /// The store that the configuration names.
    pub(super) fn store(&self) -> Result<PathBuf, Failure> {
        self.config.load().map(|(config, _)| config.store)
    }

    /// Whether answers are printed as JSON.
    pub(super) fn is_json(&self) -> bool {
        self.json
    }

    /// Prints an answer.
    pub(super) fn print<Answer: Serialize>(
        &self,
        answer: &Answer,
        text: impl FnOnce(&Answer) -> String,
    ) -> Result<(), Failure> {
        if self.json {
            let json = serde_json::to_string_pretty(answer).map_err(Failure::runtime)?;
            return print(format_args!("{json}\n"));
        }
        print(text(answer))
    }

    fn path(&self) -> Result<PathBuf, Failure> {
        if let Some(path) = &self.control {
            return Ok(path.clone());
        }
        let (config, file) = self.config.load()?;
        config.control_socket.ok_or_else(|| {
            let file = file.map_or("the configuration".to_owned(), |file| file.display().to_string());
            Failure::usage(format_args!(
                "control_socket is empty in {file}: a server started with it cannot be spoken to; name a socket there and \
                 restart it, or another server's by --control"
            ))
        })
    }
}

/// Exit code 2 is for what asking again cannot make right.
pub(super) fn failure(error: ClientError) -> Failure {
    match &error {
        ClientError::Refused(refusal) if matches!(refusal.kind, RefusalKind::Malformed | RefusalKind::Version) => {
            Failure::usage(error)
        }
        _ => Failure::runtime(error),
    }
}

/// Rows as columns, each as wide as its widest cell, numbers to the right; the first row is the heading.
pub(super) fn table(rows: &[Vec<String>]) -> String {
    let columns = rows.iter().map(Vec::len).max().unwrap_or_default();
    let width = |column: usize| rows.iter().filter_map(|row| row.get(column)).map(|cell| cell.chars().count()).max();
    let widths: Vec<usize> = (0..columns).map(|column| width(column).unwrap_or_default()).collect();
    let is_number = |column: usize| {
        let mut cells = rows.iter().skip(1).filter_map(|row| row.get(column));
        cells.all(|cell| cell.starts_with(|first: char| first.is_ascii_digit() || first == '-'))
    };
    let is_right: Vec<bool> = (0..columns).map(is_number).collect();
    let mut text = String::new();
    for row in rows {
        let cells = row.iter().zip(&widths).zip(&is_right).map(|((cell, &width), is_right)| match is_right {
            true => format!("{cell:>width$}"),
            false => format!("{cell:<width$}"),
        });
        text += cells.collect::<Vec<_>>().join("  ").trim_end();
        text.push('\n');
    }
    text
}

/// A row of a table.
pub(super) fn row<const N: usize>(cells: [&dyn std::fmt::Display; N]) -> Vec<String> {
    cells.iter().map(ToString::to_string).collect()
}

/// Bytes in the unit that keeps them readable.
pub(super) fn bytes_text(bytes: u64) -> String {
    let units = [(30, "GiB"), (20, "MiB"), (10, "KiB")];
    match units.into_iter().find(|(shift, _)| bytes >> shift > 0) {
        Some((shift, unit)) => format!("{:.1} {unit}", bytes as f64 / (1u64 << shift) as f64),
        None => format!("{bytes} B"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::control::protocol::Refusal;

    #[test]
    fn a_table_is_aligned_and_its_numbers_stand_to_the_right() {
        let rows = [row([&"name", &"count"]), row([&"a", &7]), row([&"longer", &12_345])];
        assert_eq!(table(&rows), "name    count\na           7\nlonger  12345\n");
        assert_eq!(table(&[]), "");
    }

    #[test]
    fn bytes_are_told_in_a_unit_that_fits() {
        let told = [0, 1_023, 1_024, 64 << 20, 3 << 29].map(bytes_text);
        assert_eq!(told, ["0 B", "1023 B", "1.0 KiB", "64.0 MiB", "1.5 GiB"]);
    }

    #[test]
    fn what_a_server_cannot_understand_is_wrong_usage_and_what_it_could_not_do_is_not() {
        let code = |kind| failure(ClientError::Refused(Refusal::new(kind, "no"))).code;
        assert_eq!([RefusalKind::Version, RefusalKind::Malformed].map(code), [2, 2]);
        assert_eq!([RefusalKind::Busy, RefusalKind::Failed, RefusalKind::Stopping].map(code), [1, 1, 1]);
    }
}
