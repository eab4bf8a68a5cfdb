//! A list's file while it is read: its text as it comes out of an archive, how far it is, and what is wrong with it.
//!
//! Invariant: what was read is one state of the file. A file that changes between the beginning of a build and the end of
//! its reading is an error, for half of one version and half of another are no list; one that is replaced by a rename
//! meanwhile is read to its end as it was.

use std::fs::{File, Metadata};
use std::io::{self, BufRead, ErrorKind, Read};
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};

use corewall_sharding::rule::ListId;

use crate::lists::{self, Format, what_it_is_instead};

/// Which state of a file this is.
#[derive(Clone, Copy, Default, Debug, PartialEq, Eq)]
pub struct FileState {
    /// Bytes as they lie on the disk.
    pub bytes: u64,
    /// When it was written last: seconds and nanoseconds of Unix time.
    pub modified: (i64, i64),
    /// Device and number of the file itself.
    file: (u64, u64),
}

impl FileState {
    fn of(about: &Metadata) -> Self {
        Self { bytes: about.size(), modified: (about.mtime(), about.mtime_nsec()), file: (about.dev(), about.ino()) }
    }
}

/// Why a list's file is none that can be read.
#[derive(Debug)]
pub enum SourceError {
    /// The system refuses, or an archive is damaged; behind so many bytes of the text where some were read.
    Io(io::Error, Option<u64>),
    /// It is something else than a list, and what to do.
    NoList(&'static str),
    /// It is not what it was when the build began.
    Changed,
    /// The build is ending; nothing is wrong with the list.
    Shut,
}

impl From<io::Error> for SourceError {
    fn from(error: io::Error) -> Self {
        Self::Io(error, None)
    }
}

/// Looks at a list's file before anything is built: whether it can be opened, and is what its format says.
///
/// # Errors
/// It is not.
pub fn examine(path: &Path, format: Format) -> Result<FileState, SourceError> {
    // Asked before it is opened: opening a pipe waits for who writes to it.
    let about = std::fs::metadata(path)?;
    if about.is_dir() {
        return Err(SourceError::NoList("it is a directory; name a file in it"));
    }
    if !about.is_file() {
        return Err(SourceError::NoList("it is no regular file; write the list into one, for it is read twice"));
    }
    let state = FileState::of(&about);
    check_head(format, &mut *lists::open(path)?)?;
    Ok(state)
}

fn check_head(format: Format, reader: &mut dyn BufRead) -> Result<(), SourceError> {
    // A database has a check of its own.
    let is_text = format != Format::DnsmasqSqlite;
    match what_it_is_instead(reader.fill_buf()?) {
        Some(what) if is_text => Err(SourceError::NoList(what)),
        _ => Ok(()),
    }
}

/// Shut for all lists when the build is to end, and for those behind a bad one: only what stands before it can still change
/// which error is told.
#[derive(Debug)]
pub struct Gate {
    stop: Arc<AtomicBool>,
    shut_from: AtomicUsize,
}

impl Default for Gate {
    /// Open until it is shut by [`Gate::shut_from`].
    fn default() -> Self {
        Self::new(Arc::default())
    }
}

impl Gate {
    /// Open until `stop` is set.
    pub fn new(stop: Arc<AtomicBool>) -> Self {
        Self { stop, shut_from: AtomicUsize::new(usize::MAX) }
    }

    /// Whether the operator has asked for the end.
    pub fn is_stopped(&self) -> bool {
        self.stop.load(Ordering::Relaxed)
    }

    /// Whether nobody wants this list any more.
    pub fn is_shut(&self, list: ListId) -> bool {
        self.is_stopped() || usize::from(list) >= self.shut_from.load(Ordering::Relaxed)
    }

    /// Shuts it for this list and those behind it.
    pub fn shut_from(&self, list: usize) {
        self.shut_from.fetch_min(list, Ordering::Relaxed);
    }
}

/// What the readers of one build share.
#[derive(Clone, Debug)]
pub struct Watch {
    /// Whether to go on.
    pub gate: Arc<Gate>,
    /// Bytes of files read so far, as they lie on the disk.
    pub bytes: Arc<AtomicU64>,
}

/// The file below the archive.
struct Watched {
    file: File,
    list: ListId,
    watch: Watch,
}

impl Read for Watched {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.watch.gate.is_shut(self.list) {
            return Err(io::Error::other("the build is ending"));
        }
        let read = self.file.read(buffer)?;
        self.watch.bytes.fetch_add(read as u64, Ordering::Relaxed);
        Ok(read)
    }
}

/// A list's text.
pub struct Source {
    reader: Box<dyn BufRead + Send>,
    /// The same open file, to be asked for its state.
    file: File,
    state: FileState,
    list: ListId,
    gate: Arc<Gate>,
    /// Bytes of text consumed.
    bytes: u64,
}

impl Source {
    /// Opens the file at `path`, which was in `state` when the build began.
    ///
    /// # Errors
    /// It cannot be opened, is no list, or another state of it by now.
    pub fn open(
        list: ListId,
        path: &Path,
        format: Format,
        state: FileState,
        watch: &Watch,
    ) -> Result<Source, SourceError> {
        let file = File::open(path)?;
        let same = file.try_clone()?;
        if FileState::of(&same.metadata()?) != state {
            return Err(SourceError::Changed);
        }
        let reader = lists::decode(Watched { file, list, watch: watch.clone() });
        let gate = watch.gate.clone();
        let mut source = Source { reader: reader?, file: same, state, list, gate, bytes: 0 };
        check_head(format, &mut source.reader)?;
        Ok(source)
    }

    /// To be asked at the end of the text.
    ///
    /// # Errors
    /// The file has changed since the build began.
    pub fn check_unchanged(&self) -> Result<(), SourceError> {
        // Replaced by a rename, the old file is as it was; only its links and the time of their change are others.
        if FileState::of(&self.file.metadata()?) == self.state { Ok(()) } else { Err(SourceError::Changed) }
    }

    /// What an error of this reader means.
    pub fn explain(&self, error: io::Error) -> SourceError {
        if self.gate.is_shut(self.list) {
            return SourceError::Shut;
        }
        // Cut short by whoever writes it, an archive looks damaged.
        if self.check_unchanged().is_err() {
            return SourceError::Changed;
        }
        let error = match error.kind() {
            ErrorKind::UnexpectedEof => io::Error::new(error.kind(), "the archive ends too early"),
            _ => error,
        };
        SourceError::Io(error, Some(self.bytes))
    }
}

impl Read for Source {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.reader.read(buffer)?;
        self.bytes += read as u64;
        Ok(read)
    }
}

impl BufRead for Source {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        self.reader.fill_buf()
    }

    fn consume(&mut self, amount: usize) {
        self.bytes += amount as u64;
        self.reader.consume(amount);
    }
}
