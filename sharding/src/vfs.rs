//! Reading a shard without ever waiting for the disk: a VFS of SQLite that reads what the page cache holds and nothing else.
//!
//! SQLite reads a shard through [`NAME`] by `preadv2(2)` with `RWF_NOWAIT`. That alone would not do: asked for a page that is not
//! in memory, the kernel starts to read it before it says so, which waits where the device's queue is full or the file's own
//! map has to be read (some 600 ms were seen on a slow device). So `cachestat(2)` is asked first; it starts nothing, and what
//! changes between the two calls is still not waited for. A page that is not in memory ends the lookup with
//! [`ffi::SQLITE_IOERR_BLOCKED`] (a code that no VFS of SQLite's own uses), which the shard reports as
//! [`crate::StoreError::WouldWait`]; somebody who may wait then reads it. The connection stays usable: SQLite drops the page
//! that it could not fill and keeps the others, upper pages of the trees above all.
//!
//! Invariants: files are opened for reading and taken for immutable, as generations are, so that nothing is locked and no
//! journal looked for; nothing unsafe leaves this file. A connection waits while it is opened ([`open`]), and never after
//! [`stop_waiting`].
//!
//! Where the file system cannot tell (FUSE, ZFS, overlayfs, kernels before 4.14), every page that SQLite's own cache does not
//! hold counts as one that would be waited for: [`knows_what_is_in_memory`] tells which.
//!
//! Other ways, measured with 3.3 million names, all in memory: see `README.md` of this crate. A crate for this
//! (`sqlite-plugin`) needs libclang to build; mapped pages (`xFetch`) need `mincore(2)` for each page, which tells lies to
//! whoever may not write to the file.

use std::ffi::{CStr, OsStr, c_int, c_void};
use std::fs::File;
use std::mem::ManuallyDrop;
use std::os::fd::AsRawFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, Ordering};
use std::{io, ptr, slice};

use rusqlite::{Connection, OpenFlags, ffi};

/// What SQLite knows the VFS by.
const NAME: &CStr = c"corewall-in-memory";
/// Operation of `sqlite3_file_control` by which a file is told to wait no more. SQLite leaves numbers above 100 to
/// applications.
const STOP_WAITING: c_int = 0x00c0_0e1d;
/// The same, by which it tells whether its file system can read without waiting.
const KNOWS_WHAT_IS_IN_MEMORY: c_int = 0x00c0_0e1e;

/// An open file, as SQLite holds it: in memory of its own, of the size that the VFS gives.
#[repr(C)]
struct ShardFile {
    /// SQLite's part; it must come first.
    base: ffi::sqlite3_file,
    file: ManuallyDrop<File>,
    may_wait: bool,
    knows_what_is_in_memory: bool,
    /// Whether `cachestat` is worth a call: older kernels have none, and newer ones do not tell whoever may not write to the
    /// file. Then the kernel's reading ahead is put up with.
    has_cachestat: AtomicBool,
}

/// Number of the system call; the same on every architecture but Alpha.
const SYS_CACHESTAT: libc::c_long = 451;

/// The kernel's `struct cachestat_range`: a part of a file, in bytes.
#[repr(C)]
struct CachestatRange {
    offset: u64,
    bytes: u64,
}

/// The kernel's `struct cachestat`, in pages: in memory, dirty, being written, evicted, evicted not long ago.
#[repr(C)]
#[derive(Default)]
struct Cachestat([u64; 5]);

static METHODS: ffi::sqlite3_io_methods = ffi::sqlite3_io_methods {
    iVersion: 1,
    xClose: Some(close),
    xRead: Some(read),
    xWrite: Some(refuse_write),
    xTruncate: Some(refuse_truncate),
    xSync: Some(ignore),
    xFileSize: Some(file_size),
    xLock: Some(ignore),
    xUnlock: Some(ignore),
    xCheckReservedLock: Some(no_reserved_lock),
    xFileControl: Some(file_control),
    xSectorSize: Some(sector_size),
    xDeviceCharacteristics: Some(device_characteristics),
    xShmMap: None,
    xShmLock: None,
    xShmBarrier: None,
    xShmUnmap: None,
    xFetch: None,
    xUnfetch: None,
};

/// Makes the VFS known to SQLite, once a process. An error is one of SQLite's codes.
fn register() -> Result<(), c_int> {
    static REGISTERED: OnceLock<c_int> = OnceLock::new();
    let code = *REGISTERED.get_or_init(|| {
        // SAFETY: SQLite initialises itself when it is first called; a null name asks for the default VFS, which lives as
        // long as the process.
        let usual = unsafe { ffi::sqlite3_vfs_find(ptr::null()) };
        // SAFETY: the pointer is null or to that VFS, which nobody changes.
        let Some(usual) = (unsafe { usual.as_ref() }) else { return ffi::SQLITE_INTERNAL };
        // All but opening is as usual: paths, randomness, clock.
        let vfs = ffi::sqlite3_vfs {
            szOsFile: c_int::try_from(size_of::<ShardFile>()).unwrap_or(c_int::MAX),
            pNext: ptr::null_mut(),
            zName: NAME.as_ptr(),
            pAppData: ptr::null_mut(),
            xOpen: Some(open_file),
            ..*usual
        };
        // SAFETY: the VFS and its name live as long as the process, and its functions keep SQLite's contract as told at each.
        unsafe { ffi::sqlite3_vfs_register(Box::leak(Box::new(vfs)), 0) }
    });
    if code == ffi::SQLITE_OK { Ok(()) } else { Err(code) }
}

/// A read-only connection through the VFS. It waits for the disk until [`stop_waiting`].
pub fn open(path: impl AsRef<Path>, flags: OpenFlags) -> rusqlite::Result<Connection> {
    register().map_err(|code| rusqlite::Error::SqliteFailure(ffi::Error::new(code), None))?;
    Connection::open_with_flags_and_vfs(path, flags, NAME)
}

/// From now on the connection reads only what is in memory.
pub fn stop_waiting(conn: &Connection) -> rusqlite::Result<()> {
    control(conn, STOP_WAITING).map(drop)
}

/// Whether the file system of the connection's file can read without waiting.
pub fn knows_what_is_in_memory(conn: &Connection) -> rusqlite::Result<bool> {
    control(conn, KNOWS_WHAT_IS_IN_MEMORY)
}

/// Whether a lookup failed because a page would have been waited for.
pub fn would_wait(error: &rusqlite::Error) -> bool {
    matches!(error, rusqlite::Error::SqliteFailure(error, _) if error.extended_code == ffi::SQLITE_IOERR_BLOCKED)
}

fn control(conn: &Connection, operation: c_int) -> rusqlite::Result<bool> {
    let mut told: c_int = 0;
    // SAFETY: the connection is open for as long as it is borrowed, `main` is its only database, and `told` outlives the call,
    // in which `file_control` below writes at most that one int.
    let code = unsafe { ffi::sqlite3_file_control(conn.handle(), c"main".as_ptr(), operation, (&raw mut told).cast()) };
    if code == ffi::SQLITE_OK {
        Ok(told != 0)
    } else {
        Err(rusqlite::Error::SqliteFailure(ffi::Error::new(code), None))
    }
}

/// # Safety
/// Called by SQLite alone: `name` is null or ends in a zero, and `place` has the size that the VFS gives.
unsafe extern "C" fn open_file(
    _: *mut ffi::sqlite3_vfs,
    name: ffi::sqlite3_filename,
    place: *mut ffi::sqlite3_file,
    flags: c_int,
    flags_out: *mut c_int,
) -> c_int {
    // SAFETY: `place` is writable; without methods SQLite does not close what was not opened.
    unsafe { (*place).pMethods = ptr::null() };
    if name.is_null() || flags & ffi::SQLITE_OPEN_MAIN_DB == 0 || flags & ffi::SQLITE_OPEN_READONLY == 0 {
        return ffi::SQLITE_CANTOPEN;
    }
    // SAFETY: see above; the name is not kept.
    let path = Path::new(OsStr::from_bytes(unsafe { CStr::from_ptr(name) }.to_bytes()));
    let Ok(file) = File::open(path) else { return ffi::SQLITE_CANTOPEN };
    // The first octet is enough to learn whether the file system refuses to be asked so.
    let knows_what_is_in_memory = match read_in_memory(&file, &mut [0], 0) {
        Ok(_) => true,
        Err(error) => error.kind() == io::ErrorKind::WouldBlock,
    };
    let base = ffi::sqlite3_file { pMethods: &raw const METHODS };
    let opened = ShardFile {
        base,
        file: ManuallyDrop::new(file),
        may_wait: true,
        knows_what_is_in_memory,
        has_cachestat: AtomicBool::new(true),
    };
    // SAFETY: `place` has room for a `ShardFile`, as `szOsFile` says, is aligned for one (SQLite aligns to 8 bytes) and holds
    // nothing that would have to be dropped.
    unsafe { place.cast::<ShardFile>().write(opened) };
    if !flags_out.is_null() {
        // SAFETY: SQLite gives null or a place for an int.
        unsafe { *flags_out = flags };
    }
    ffi::SQLITE_OK
}

/// # Safety
/// Called by SQLite alone, once, on a file that [`open_file`] has opened.
unsafe extern "C" fn close(file: *mut ffi::sqlite3_file) -> c_int {
    // SAFETY: see above: what is there was written by `open_file`, and nothing calls in again after this.
    unsafe {
        let file = &mut *file.cast::<ShardFile>();
        ManuallyDrop::drop(&mut file.file);
        file.base.pMethods = ptr::null();
    }
    ffi::SQLITE_OK
}

/// On the hot path.
///
/// # Safety
/// Called by SQLite alone, on a file that [`open_file`] has opened, with room for `bytes` bytes.
unsafe extern "C" fn read(file: *mut ffi::sqlite3_file, place: *mut c_void, bytes: c_int, offset: i64) -> c_int {
    // SAFETY: see above; a connection is used by one thread at a time.
    let file = unsafe { &*file.cast::<ShardFile>() };
    let (Ok(bytes), Ok(offset)) = (usize::try_from(bytes), u64::try_from(offset)) else {
        return ffi::SQLITE_IOERR_READ;
    };
    // SAFETY: the room is SQLite's own, allocated, and nobody else's during the call; what it holds are plain octets.
    let place = unsafe { slice::from_raw_parts_mut(place.cast::<u8>(), bytes) };
    match (file.may_wait, file.knows_what_is_in_memory) {
        (true, _) => read_all(place, offset, |place, offset| file.file.read_at(place, offset)),
        (false, true) if !may_be_in_memory(file, offset, bytes) => ffi::SQLITE_IOERR_BLOCKED,
        (false, true) => read_all(place, offset, |place, offset| read_in_memory(&file.file, place, offset)),
        (false, false) => ffi::SQLITE_IOERR_BLOCKED,
    }
}

/// Reads until `place` is full; what lies past the end of the file becomes zeros, as SQLite wants it.
fn read_all(mut place: &mut [u8], mut offset: u64, read: impl Fn(&mut [u8], u64) -> io::Result<usize>) -> c_int {
    while !place.is_empty() {
        match read(place, offset) {
            Ok(0) => {
                place.fill(0);
                return ffi::SQLITE_IOERR_SHORT_READ;
            }
            // A part of it is in memory: the rest is asked for alone, and told to be missing if it is.
            Ok(count) => {
                place = place.get_mut(count..).unwrap_or_default();
                offset = offset.saturating_add(count as u64);
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return ffi::SQLITE_IOERR_BLOCKED,
            Err(_) => return ffi::SQLITE_IOERR_READ,
        }
    }
    ffi::SQLITE_OK
}

/// Whether the page cache holds something of each page that a part of the file touches; true when nobody can tell.
fn may_be_in_memory(file: &ShardFile, offset: u64, bytes: usize) -> bool {
    if !file.has_cachestat.load(Ordering::Relaxed) {
        return true;
    }
    let (range, mut pages) = (CachestatRange { offset, bytes: bytes as u64 }, Cachestat::default());
    // SAFETY: the descriptor is open; the kernel reads `range` and writes `pages`, which have the layout of its structs and
    // outlive the call.
    let code = unsafe {
        libc::syscall(SYS_CACHESTAT, file.file.as_raw_fd(), &raw const range, &raw mut pages, 0 as libc::c_uint)
    };
    if code != 0 {
        file.has_cachestat.store(false, Ordering::Relaxed);
        return true;
    }
    let touched = offset.saturating_add(range.bytes).div_ceil(page_bytes()) - offset / page_bytes();
    let [in_memory, ..] = pages.0;
    in_memory >= touched
}

/// Bytes of a page of the page cache.
fn page_bytes() -> u64 {
    static BYTES: OnceLock<u64> = OnceLock::new();
    *BYTES.get_or_init(|| {
        // SAFETY: the call takes no pointer.
        let bytes = unsafe { libc::sysconf(libc::_SC_PAGESIZE) };
        u64::try_from(bytes).ok().filter(|bytes| *bytes > 0).unwrap_or(4_096)
    })
}

/// Reads what the page cache holds at `offset`; `WouldBlock` when it holds nothing there.
fn read_in_memory(file: &File, place: &mut [u8], offset: u64) -> io::Result<usize> {
    let to = libc::iovec { iov_base: place.as_mut_ptr().cast(), iov_len: place.len() };
    let offset = libc::off_t::try_from(offset).map_err(|_| io::ErrorKind::InvalidInput)?;
    // SAFETY: the descriptor is open, and the one vector describes `place`, which outlives the call.
    let count = unsafe { libc::preadv2(file.as_raw_fd(), &raw const to, 1, offset, libc::RWF_NOWAIT) };
    usize::try_from(count).map_err(|_| io::Error::last_os_error())
}

/// # Safety
/// Called by SQLite alone, on a file that [`open_file`] has opened, with a place for the size.
unsafe extern "C" fn file_size(file: *mut ffi::sqlite3_file, bytes: *mut i64) -> c_int {
    // SAFETY: see above.
    let file = unsafe { &*file.cast::<ShardFile>() };
    let Ok(length) = file.file.metadata().map(|metadata| metadata.len()) else { return ffi::SQLITE_IOERR_FSTAT };
    // SAFETY: see above.
    unsafe { *bytes = i64::try_from(length).unwrap_or(i64::MAX) };
    ffi::SQLITE_OK
}

/// # Safety
/// Called by SQLite alone, on a file that [`open_file`] has opened; for our operations by [`control`], with a place for an int.
unsafe extern "C" fn file_control(file: *mut ffi::sqlite3_file, operation: c_int, told: *mut c_void) -> c_int {
    // SAFETY: see above; a connection is used by one thread at a time.
    let file = unsafe { &mut *file.cast::<ShardFile>() };
    match operation {
        STOP_WAITING => file.may_wait = false,
        // SAFETY: see above.
        KNOWS_WHAT_IS_IN_MEMORY => unsafe { *told.cast::<c_int>() = c_int::from(file.knows_what_is_in_memory) },
        _ => return ffi::SQLITE_NOTFOUND,
    }
    ffi::SQLITE_OK
}

extern "C" fn refuse_write(_: *mut ffi::sqlite3_file, _: *const c_void, _: c_int, _: i64) -> c_int {
    ffi::SQLITE_READONLY
}

extern "C" fn refuse_truncate(_: *mut ffi::sqlite3_file, _: i64) -> c_int {
    ffi::SQLITE_READONLY
}

extern "C" fn ignore(_: *mut ffi::sqlite3_file, _: c_int) -> c_int {
    ffi::SQLITE_OK
}

/// # Safety
/// Called by SQLite alone, with a place for the answer.
unsafe extern "C" fn no_reserved_lock(_: *mut ffi::sqlite3_file, is_held: *mut c_int) -> c_int {
    // SAFETY: see above.
    unsafe { *is_held = 0 };
    ffi::SQLITE_OK
}

extern "C" fn sector_size(_: *mut ffi::sqlite3_file) -> c_int {
    4_096
}

extern "C" fn device_characteristics(_: *mut ffi::sqlite3_file) -> c_int {
    ffi::SQLITE_IOCAP_IMMUTABLE
}
