//! The machine as files: `/proc` and `/sys` below a root that tests put somewhere else.
//!
//! Invariant: nothing here fails; what cannot be read is an [`Untold`] that says why.

use std::fs;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use super::facts::{Fact, Untold};
use super::programs::Programs;
use crate::limits::MACHINE_FILE_BYTES_MAX;

/// Where facts come from.
pub struct Machine<'a> {
    root: PathBuf,
    programs: &'a dyn Programs,
    receive_buffer: &'a dyn Fn(usize) -> io::Result<usize>,
}

impl<'a> Machine<'a> {
    /// `root` is `/` on a real machine; `receive_buffer` asks the kernel for a UDP socket's buffer and tells what was granted.
    pub fn new(
        root: impl Into<PathBuf>,
        programs: &'a dyn Programs,
        receive_buffer: &'a dyn Fn(usize) -> io::Result<usize>,
    ) -> Self {
        Self { root: root.into(), programs, receive_buffer }
    }

    fn place(&self, path: &str) -> PathBuf {
        self.root.join(path.trim_start_matches('/'))
    }

    /// Whether there is such a file or folder.
    pub fn has(&self, path: &str) -> bool {
        self.place(path).exists()
    }

    /// A file's text, white space around it taken away.
    pub fn read(&self, path: &str) -> Fact<String> {
        let mut bytes = Vec::new();
        let file = fs::File::open(self.place(path));
        let read = file.and_then(|file| file.take(MACHINE_FILE_BYTES_MAX).read_to_end(&mut bytes));
        read.map_err(|error| untold(path, &error))?;
        Ok(String::from_utf8_lossy(&bytes).trim().to_owned())
    }

    /// As [`Self::read`]; a file that is not there while `folder` is there means `reason`.
    pub fn read_within(&self, path: &str, folder: &str, reason: &str) -> Fact<String> {
        self.read(path).map_err(|untold| match untold {
            Untold::Missing(_) if self.has(folder) => Untold::Inapplicable(reason.to_owned()),
            other => other,
        })
    }

    /// A file that holds one whole number.
    pub fn number(&self, path: &str) -> Fact<u64> {
        let text = self.read(path)?;
        text.parse().map_err(|_| Untold::Unreadable(format!("{path} holds `{}`, no number", brief(&text))))
    }

    /// Names of what is in a folder, in order, numbers by their value.
    pub fn entries(&self, path: &str) -> Fact<Vec<String>> {
        let entries = fs::read_dir(self.place(path)).map_err(|error| untold(path, &error))?;
        let mut names: Vec<String> =
            entries.flatten().filter_map(|entry| entry.file_name().into_string().ok()).collect();
        names.sort_by_key(|name| (last_number(name), name.clone()));
        Ok(names)
    }

    /// What a program said. One that failed is told by its first words.
    pub fn ask(&self, program: &str, arguments: &[&str]) -> Fact<String> {
        let said = self.programs.run(program, arguments)?;
        let failed = || {
            let line = said.errors.lines().chain(said.output.lines()).find(|line| !line.trim().is_empty());
            brief(line.unwrap_or("it failed without a word"))
        };
        let refused = ["not supported", "No such device", "no such device"];
        match said.is_success {
            true => Ok(said.output),
            false if said.errors.contains("not permitted") || said.errors.contains("ermission denied") => {
                Err(Untold::Denied(format!("{program} {}", arguments.join(" "))))
            }
            false if refused.iter().any(|word| said.errors.contains(word)) => {
                Err(Untold::Inapplicable(format!("the driver does not support it ({program}: {})", failed())))
            }
            false => Err(Untold::Unreadable(format!("{program} {}: {}", arguments.join(" "), failed()))),
        }
    }

    /// Bytes of receive buffer that the kernel grants a UDP socket that asks for so many, counted as it was asked for.
    pub fn receive_buffer(&self, asked: usize) -> Fact<u64> {
        let granted = (self.receive_buffer)(asked);
        granted
            .map(|bytes| bytes as u64)
            .map_err(|error| Untold::Unreadable(format!("no socket to try it with: {error}")))
    }
}

fn untold(path: &str, error: &io::Error) -> Untold {
    match error.kind() {
        io::ErrorKind::NotFound | io::ErrorKind::NotADirectory => Untold::Missing(path.to_owned()),
        io::ErrorKind::PermissionDenied => Untold::Denied(path.to_owned()),
        _ => Untold::Unreadable(format!("{path}: {error}")),
    }
}

/// The first characters of a text, for a message.
pub fn brief(text: &str) -> String {
    const CHARACTERS: usize = 80;
    let line = text.lines().next().unwrap_or_default().trim();
    match line.char_indices().nth(CHARACTERS) {
        Some((end, _)) => format!("{}...", line.get(..end).unwrap_or_default()),
        None => line.to_owned(),
    }
}

/// The number at the end of a name: of a queue, an interrupt, a core.
pub fn last_number(name: &str) -> Option<u64> {
    let digits = name.chars().rev().take_while(char::is_ascii_digit).count();
    name.get(name.len() - digits..)?.parse().ok()
}

/// Bytes of receive buffer that a UDP socket of this process gets when it asks for so many.
///
/// # Errors
/// There is no socket to be had.
pub fn receive_buffer_granted(asked: usize) -> io::Result<usize> {
    use socket2::{Domain, Socket, Type};
    let socket = Socket::new(Domain::IPV4, Type::DGRAM, None)?;
    socket.set_recv_buffer_size(asked)?;
    // The kernel takes twice of it, for what it has to note, and tells that.
    Ok(socket.recv_buffer_size()? / 2)
}

/// The root of a real machine.
pub fn root() -> &'static Path {
    Path::new("/")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_number_at_the_end_of_a_name_is_read() {
        assert_eq!(last_number("rx-12"), Some(12));
        assert_eq!(last_number("virtio2-input.0"), Some(0));
        assert_eq!(last_number("eth0-event"), None);
        assert_eq!(last_number(""), None);
    }

    #[test]
    fn this_machine_grants_a_small_buffer_in_full() {
        assert_eq!(receive_buffer_granted(8_192).unwrap(), 8_192);
    }
}
