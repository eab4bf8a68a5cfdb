//! The other end of the control socket: what a command of the program uses to speak to a running server.

use std::fmt;
use std::io::{self, BufRead, BufReader, ErrorKind, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::de::DeserializeOwned;

use super::protocol::{Refusal, Request, parse_answer};
use crate::limits::{CONTROL_ANSWER_BYTES_MAX, CONTROL_CLIENT_MS_MAX};

/// Why a request has no answer. Shown to the operator as it is.
#[derive(Debug)]
pub enum ClientError {
    /// Nobody listens.
    NoServer(PathBuf),
    /// The socket belongs to somebody else.
    NotAllowed(PathBuf),
    /// The server has closed the connection without an answer.
    NoAnswer,
    /// It did not answer in time, or the connection broke.
    Broken(io::Error),
    /// The server says no.
    Refused(Refusal),
}

impl fmt::Display for ClientError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoServer(path) => write!(
                f,
                "no server listens on {path}; is one running, and was it started with control_socket = \"{path}\"? \
                 `--config` or `--control` name another one",
                path = path.display()
            ),
            Self::NotAllowed(path) => write!(
                f,
                "{} may be used only by the user that the server runs as, and by root; try it with sudo",
                path.display()
            ),
            Self::NoAnswer => {
                f.write_str("the server has closed the connection without an answer; its log may tell why")
            }
            Self::Broken(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {
                write!(f, "the server does not answer within {} s; its log may tell why", CONTROL_CLIENT_MS_MAX / 1_000)
            }
            Self::Broken(error) => write!(f, "the connection with the server broke: {error}"),
            Self::Refused(refusal) => refusal.fmt(f),
        }
    }
}

impl std::error::Error for ClientError {}

/// A connection with a running server.
#[derive(Debug)]
pub struct Client {
    stream: BufReader<UnixStream>,
}

impl Client {
    /// Connects with the server that listens at `path`.
    ///
    /// # Errors
    /// None does, or this user may not use it.
    pub fn connect(path: &Path) -> Result<Self, ClientError> {
        let stream = UnixStream::connect(path).map_err(|error| match error.kind() {
            ErrorKind::NotFound | ErrorKind::ConnectionRefused => ClientError::NoServer(path.to_path_buf()),
            ErrorKind::PermissionDenied => ClientError::NotAllowed(path.to_path_buf()),
            _ => ClientError::Broken(error),
        })?;
        Ok(Self { stream: BufReader::new(stream) })
    }

    /// Asks, and waits for the answer of the type that belongs to the request.
    ///
    /// # Errors
    /// The server refuses, or does not answer.
    pub fn ask<Expected: DeserializeOwned>(&mut self, request: &Request) -> Result<Expected, ClientError> {
        let patience = match request {
            // As long as reading the store takes.
            Request::Reload {} => None,
            _ => Some(Duration::from_millis(CONTROL_CLIENT_MS_MAX)),
        };
        let stream = self.stream.get_mut();
        stream.set_read_timeout(patience).map_err(ClientError::Broken)?;
        stream.set_write_timeout(Some(Duration::from_millis(CONTROL_CLIENT_MS_MAX))).map_err(ClientError::Broken)?;
        // A server that has too many connections answers unasked and closes: its words are worth more than this error.
        let sent = stream.write_all(request.to_line().as_bytes());
        let mut line = Vec::new();
        match (&mut self.stream).take(CONTROL_ANSWER_BYTES_MAX).read_until(b'\n', &mut line) {
            Ok(_) if line.ends_with(b"\n") => parse_answer(&line).map_err(ClientError::Refused),
            Ok(_) => match sent {
                Err(error) if error.kind() != ErrorKind::BrokenPipe => Err(ClientError::Broken(error)),
                _ => Err(ClientError::NoAnswer),
            },
            Err(error) if error.kind() == ErrorKind::ConnectionReset => Err(ClientError::NoAnswer),
            Err(error) => Err(ClientError::Broken(error)),
        }
    }

    /// Waits until the server has closed the connection, which one that ends does at its end.
    ///
    /// # Errors
    /// It does not in time.
    pub fn wait_for_end(mut self) -> Result<(), ClientError> {
        match io::copy(&mut self.stream, &mut io::sink()) {
            Ok(_) => Ok(()),
            Err(error) if error.kind() == ErrorKind::ConnectionReset => Ok(()),
            Err(error) => Err(ClientError::Broken(error)),
        }
    }
}
