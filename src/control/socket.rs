//! The Unix socket that a running server is spoken to through: making it, and taking it away again.
//!
//! Invariants: whoever may use the socket may use it from the first moment on and nobody else ever (its mode is 0600 before
//! it listens); one server alone has it, by a lock on the file beside it that ends with the server however that ends; what is
//! removed is a socket that nobody listens on, never another kind of file.

use std::fmt;
use std::fs::{self, File, OpenOptions, Permissions, TryLockError};
use std::io::{self, ErrorKind};
use std::os::unix::fs::{DirBuilderExt, FileTypeExt, OpenOptionsExt, PermissionsExt};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};

use socket2::{Domain, SockAddr, Socket, Type};

use crate::limits::CONTROL_BACKLOG;

/// Only the user that the server runs as, and root.
const SOCKET_MODE: u32 = 0o600;
/// Of a folder made for the socket: everybody may see that it is there.
const FOLDER_MODE: u32 = 0o755;

/// Why there can be no control socket.
#[derive(Debug)]
pub enum SocketError {
    /// Another server has it.
    InUse(PathBuf),
    /// Something that is no socket is there.
    NoSocket(PathBuf),
    /// The operating system refuses.
    System {
        /// Where.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
}

impl fmt::Display for SocketError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::InUse(path) => write!(
                f,
                "another server listens on the control socket {path}; stop that one, or give this one a `control_socket` of \
                 its own",
                path = path.display()
            ),
            Self::NoSocket(path) => write!(
                f,
                "cannot make the control socket {path}: a file that is no socket is there; remove it, or change \
                 `control_socket`",
                path = path.display()
            ),
            Self::System { path, source } => {
                write!(f, "cannot make the control socket {}: {source}", path.display())?;
                match source.kind() {
                    ErrorKind::NotFound => f.write_str("; make its folder, or change `control_socket`"),
                    ErrorKind::InvalidInput => {
                        f.write_str("; a socket's path has at most 107 bytes: shorten `control_socket`")
                    }
                    _ => f.write_str(
                        "; set `control_socket` to a path in a folder that this user may write to, or to \"\" for none",
                    ),
                }
            }
        }
    }
}

impl std::error::Error for SocketError {}

/// A listening control socket. Removed when dropped.
#[derive(Debug)]
pub struct ControlSocket {
    listener: UnixListener,
    path: PathBuf,
    /// Held for as long as the socket is there.
    _lock: File,
}

impl ControlSocket {
    /// Listens at `path`; takes the place of a socket that a server which is dead has left. A folder that is missing is made.
    ///
    /// # Errors
    /// Another server has it, or the operating system refuses.
    pub fn bind(path: &Path) -> Result<Self, SocketError> {
        let failed = |source| SocketError::System { path: path.to_path_buf(), source };
        let address = SockAddr::unix(path).map_err(failed)?;
        make_folder(path).map_err(failed)?;
        let lock = lock(path)?;
        remove_stale(path)?;
        let socket = Socket::new(Domain::UNIX, Type::STREAM, None).map_err(failed)?;
        socket.bind(&address).map_err(failed)?;
        // Made at this moment, by whoever listens at the end of this function: to be removed when that fails.
        let socket = Self { listener: socket.into(), path: path.to_path_buf(), _lock: lock };
        fs::set_permissions(path, Permissions::from_mode(SOCKET_MODE)).map_err(failed)?;
        // Nobody can connect before it listens.
        let listener = socket.listener.try_clone().map_err(failed)?;
        Socket::from(listener).listen(CONTROL_BACKLOG).map_err(failed)?;
        Ok(socket)
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Another descriptor of it, to accept connections on.
    ///
    /// # Errors
    /// No descriptor is left.
    pub fn listener(&self) -> io::Result<UnixListener> {
        self.listener.try_clone()
    }
}

impl Drop for ControlSocket {
    fn drop(&mut self) {
        // Gone already when somebody tidied up; a socket that stays is replaced by the next start.
        let _ = fs::remove_file(&self.path);
    }
}

fn make_folder(path: &Path) -> io::Result<()> {
    let Some(folder) = path.parent().filter(|folder| !folder.as_os_str().is_empty()) else { return Ok(()) };
    match fs::DirBuilder::new().mode(FOLDER_MODE).create(folder) {
        Err(error) if error.kind() != ErrorKind::AlreadyExists => Err(error),
        _ => Ok(()),
    }
}

/// The lock that says which server has the socket. A socket alone could not: two servers that start at a time would both find
/// it stale. The file stays, for removing it would let two servers lock two files of one name.
fn lock(path: &Path) -> Result<File, SocketError> {
    let mut name = path.as_os_str().to_owned();
    name.push(".lock");
    let failed = |source| SocketError::System { path: path.to_path_buf(), source };
    let mut options = OpenOptions::new();
    options.write(true).create(true).truncate(false).mode(SOCKET_MODE).custom_flags(libc::O_NOFOLLOW);
    let file = options.open(PathBuf::from(name)).map_err(failed)?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(TryLockError::WouldBlock) => Err(SocketError::InUse(path.to_path_buf())),
        Err(TryLockError::Error(source)) => Err(failed(source)),
    }
}

fn remove_stale(path: &Path) -> Result<(), SocketError> {
    let failed = |source| SocketError::System { path: path.to_path_buf(), source };
    match fs::symlink_metadata(path) {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(failed(error)),
        Ok(file) if !file.file_type().is_socket() => return Err(SocketError::NoSocket(path.to_path_buf())),
        Ok(_) => {}
    }
    // Ours would be locked; this is for another program's.
    match UnixStream::connect(path) {
        Ok(_) => Err(SocketError::InUse(path.to_path_buf())),
        Err(error) if error.kind() == ErrorKind::ConnectionRefused => fs::remove_file(path).map_err(failed),
        Err(error) => Err(failed(error)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mode(path: &Path) -> u32 {
        fs::metadata(path).unwrap().permissions().mode() & 0o777
    }

    #[test]
    fn it_is_for_its_owner_alone_and_gone_with_the_server() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("made/control.sock");
        let socket = ControlSocket::bind(&path).unwrap();
        assert_eq!(mode(&path), 0o600);
        assert!(UnixStream::connect(&path).is_ok());
        drop(socket);
        assert!(!path.exists());
        drop(ControlSocket::bind(&path).unwrap());
    }

    #[test]
    fn a_second_server_is_refused_and_harms_nothing() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("control.sock");
        let socket = ControlSocket::bind(&path).unwrap();
        let error = ControlSocket::bind(&path).unwrap_err();
        assert!(matches!(error, SocketError::InUse(_)), "{error}");
        assert!(UnixStream::connect(&path).is_ok());
        drop(socket);
        // Of a program that knows nothing of the lock.
        let _foreign = UnixListener::bind(&path).unwrap();
        assert!(matches!(ControlSocket::bind(&path), Err(SocketError::InUse(_))));
        assert!(UnixStream::connect(&path).is_ok());
    }

    #[test]
    fn a_socket_that_a_dead_server_left_is_replaced_and_a_file_is_not() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("control.sock");
        drop(UnixListener::bind(&path).unwrap());
        assert!(path.exists());
        drop(ControlSocket::bind(&path).unwrap());
        fs::write(&path, "precious").unwrap();
        let error = ControlSocket::bind(&path).unwrap_err();
        assert!(matches!(error, SocketError::NoSocket(_)), "{error}");
        assert_eq!(fs::read(&path).unwrap(), b"precious");
    }

    #[test]
    fn a_path_that_cannot_be_is_told_with_a_remedy() {
        let folder = tempfile::tempdir().unwrap();
        let said = |path: &Path| ControlSocket::bind(path).unwrap_err().to_string();
        let long = said(&folder.path().join("x".repeat(108)));
        assert!(long.contains("at most 107 bytes"), "{long}");
        let nowhere = said(&folder.path().join("a/b/c/control.sock"));
        assert!(nowhere.contains("make its folder"), "{nowhere}");
        fs::write(folder.path().join("file"), "").unwrap();
        let file = said(&folder.path().join("file/control.sock"));
        assert!(file.contains("or to \"\" for none"), "{file}");
    }
}
