//! A store on disk: its key, its generations, and which of them is current.
//!
//! ```text
//! STORE/key                       the installation's hash key, 32 hexadecimal digits, mode 0600
//! STORE/lock                      held (flock) by the one build that may run
//! STORE/generations/00000001/     a generation, complete since its directory has this name
//! STORE/generations/.building-PID a build under way, or left by one that was killed: its `generation`, beside what it needs
//! STORE/current                   symlink to the generation being served
//! STORE/history                   the generations that were current before
//! STORE/overlay.db                rules that were changed by hand, see [`crate::overlay`]
//! ```
//!
//! Invariant: a directory gets its number only when everything in it is on the disk, and `current` only ever names such a
//! directory; both happen by a rename, so whoever is killed in between leaves the old generation serving.

use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{self, ErrorKind, Write};
use std::os::unix::fs::{OpenOptionsExt, symlink};
use std::path::{Path, PathBuf};

use crate::StoreError;
use crate::filters::VERIFY_THREADS_MAX;
pub use crate::generation::{AddressRow, Generation, PatternRow};
use crate::history;
use crate::manifest::{MANIFEST_NAME, Manifest};
use crate::route::HashKey;

const KEY: &str = "key";
const LOCK: &str = "lock";
const GENERATIONS: &str = "generations";
const CURRENT: &str = "current";
/// What the directory of an unfinished build is called before its process id.
const BUILDING_PREFIX: &str = ".building-";
/// Within that directory, what becomes the generation.
pub(crate) const GENERATION: &str = "generation";
/// What a generation is called while it is being removed; also a leftover of a build, for the next build removes it.
const REMOVED_PREFIX: &str = ".building-removed-";
/// In the directory of a build: tells how far it has come, so that it can be resumed.
const JOURNAL: &str = "journal";
/// What the next `current` is called before it is renamed.
const NEXT_PREFIX: &str = ".current-";
/// What the key is called until it is complete.
const NEW_KEY_PREFIX: &str = ".key-";
/// Bytes of filters that are verified while a generation is opened: a quarter of a second from a disk of 500 MB/s, the filters
/// of a hundred million rules.
pub const FILTER_BYTES_AT_OPENING: u64 = 128 << 20;
/// Mode of the key: who knows it can aim names at one shard.
const KEY_MODE: u32 = 0o600;

/// A store's directory.
#[derive(Clone)]
pub struct Store {
    dir: PathBuf,
    key: HashKey,
}

impl Store {
    /// Opens the store in `dir`, making the directory and a key when there is none.
    pub fn create_or_open(dir: &Path) -> Result<Store, StoreError> {
        let generations = dir.join(GENERATIONS);
        fs::create_dir_all(&generations).map_err(StoreError::io(&generations, "make the directory"))?;
        if !dir.join(KEY).exists() {
            create_key(dir)?;
        }
        Store::open(dir)
    }

    /// Opens an existing store.
    pub fn open(dir: &Path) -> Result<Store, StoreError> {
        let path = dir.join(KEY);
        let text = match fs::read_to_string(&path) {
            Ok(text) => text,
            Err(error) if error.kind() == ErrorKind::NotFound => {
                return Err(StoreError::NoStore { path: dir.to_path_buf() });
            }
            Err(error) => return Err(StoreError::io(&path, "read the key")(error)),
        };
        let key = key_from_text(&text).ok_or_else(|| StoreError::damaged(&path, "it is not 32 hexadecimal digits"))?;
        Ok(Store { dir: dir.to_path_buf(), key })
    }

    /// The store's directory.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// The installation's hash key.
    pub fn key(&self) -> HashKey {
        self.key
    }

    /// The current generation, opened and verified.
    pub fn current(&self) -> Result<Generation, StoreError> {
        match self.current_number()? {
            Some(number) => self.generation(number),
            None => Err(StoreError::NoGeneration { path: self.dir.clone() }),
        }
    }

    /// The number of the current generation from the symlink alone: cheap enough to ask every second.
    pub fn current_number(&self) -> Result<Option<u64>, StoreError> {
        let path = self.dir.join(CURRENT);
        let target = match fs::read_link(&path) {
            Ok(target) => target,
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(StoreError::io(&path, "read the symlink")(error)),
        };
        let number = target.file_name().and_then(|name| name.to_str()).and_then(number_from_name);
        let foreign = || StoreError::damaged(&path, format!("it leads to `{}`, no generation", target.display()));
        number.map(Some).ok_or_else(foreign)
    }

    /// The current generation, opened; its filters are not read, so that each of them is still to be verified. `copies`: in how
    /// many places they are to be copied into memory; none leaves them mapped. See [`crate::filters::Filters`].
    pub fn current_unverified(&self, copies: Option<usize>) -> Result<Generation, StoreError> {
        match self.current_number()? {
            Some(number) => self.load(number, copies),
            None => Err(StoreError::NoGeneration { path: self.dir.clone() }),
        }
    }

    /// Any generation, opened and verified, of its filters some [`FILTER_BYTES_AT_OPENING`]: the others answer "maybe".
    pub fn generation(&self, number: u64) -> Result<Generation, StoreError> {
        let generation = self.load(number, None)?;
        generation.filters.verify(FILTER_BYTES_AT_OPENING, VERIFY_THREADS_MAX, &|| true);
        Ok(generation)
    }

    fn load(&self, number: u64, copies: Option<usize>) -> Result<Generation, StoreError> {
        Generation::load(&self.generation_dir(number), number, self.key, &self.dir.join(KEY), copies)
    }

    /// What a generation says it holds, without opening it: cheap, however large it is.
    pub fn manifest(&self, number: u64) -> Result<Manifest, StoreError> {
        Manifest::read(&self.generation_dir(number).join(MANIFEST_NAME))
    }

    /// The generation that a roll-back leads to: the last one that was current before the current one, is older and still is
    /// there. None when there is no such one.
    pub fn number_before(&self) -> Result<Option<u64>, StoreError> {
        let Some(current) = self.current_number()? else { return Ok(None) };
        // A history that cannot be read must not keep anybody from rolling back: without it the numbers tell.
        let history = history::read(&self.dir).unwrap_or_default();
        Ok(history::before(&history, current, &self.numbers()?))
    }

    /// Numbers of the generations that are there, ascending.
    pub fn numbers(&self) -> Result<Vec<u64>, StoreError> {
        let mut numbers: Vec<u64> =
            names_in(&self.dir.join(GENERATIONS))?.iter().filter_map(|name| number_from_name(name)).collect();
        numbers.sort_unstable();
        Ok(numbers)
    }

    /// Makes an existing generation the current one, after opening and verifying it: how a build is published, and how
    /// it is rolled back. What was current is remembered first, see [`Store::number_before`].
    pub fn switch(&self, number: u64) -> Result<(), StoreError> {
        let gone = |dir: &Path| StoreError::Bounds {
            what: format!("{}: there is no generation {number}", dir.display()),
            remedy: "`corewall generations` lists those that are there",
        };
        let dir = self.generation_dir(number);
        if !dir.is_dir() {
            return Err(gone(&dir));
        }
        self.generation(number)?;
        let _lock = self.lock_switches()?;
        // It may have been removed between the two.
        if !dir.is_dir() {
            return Err(gone(&dir));
        }
        // A symlink that leads nowhere is about to be replaced.
        if let Some(before) = self.current_number().ok().flatten().filter(|&before| before != number) {
            history::remember(&self.dir, before)?;
            sync_dir(&self.dir)?;
        }
        let next = self.dir.join(format!("{NEXT_PREFIX}{}", std::process::id()));
        let target = Path::new(GENERATIONS).join(name_from_number(number));
        if next.is_symlink() {
            fs::remove_file(&next).map_err(StoreError::io(&next, "remove the leftover"))?;
        }
        symlink(target, &next).map_err(StoreError::io(&next, "make the symlink"))?;
        let current = self.dir.join(CURRENT);
        fs::rename(&next, &current).map_err(StoreError::io(&current, "replace the symlink"))?;
        sync_dir(&self.dir)
    }

    /// Removes a generation that is not the current one. A server that still has it open keeps reading it.
    pub fn remove(&self, number: u64) -> Result<(), StoreError> {
        let dir = self.generation_dir(number);
        // Renamed first: a removal that is killed half-way must not leave half a generation under a number.
        let doomed = self.dir.join(GENERATIONS).join(format!("{REMOVED_PREFIX}{number}"));
        let lock = self.lock_switches()?;
        if self.current_number()? == Some(number) {
            return Err(StoreError::Bounds {
                what: format!("generation {number} is the current one"),
                remedy: "switch to another generation before removing it",
            });
        }
        fs::rename(&dir, &doomed).map_err(StoreError::io(&dir, "rename the directory"))?;
        drop(lock);
        fs::remove_dir_all(&doomed).map_err(StoreError::io(&doomed, "remove the directory"))
    }

    /// Held while `current` changes or a generation goes: of two commands that do so at once, one waits for the other. Not the
    /// lock of builds, for a roll-back must not wait until a build has ended.
    fn lock_switches(&self) -> Result<File, StoreError> {
        let dir = File::open(&self.dir).map_err(StoreError::io(&self.dir, "open the directory"))?;
        dir.lock().map_err(StoreError::io(&self.dir, "lock the directory"))?;
        Ok(dir)
    }

    /// Directories of builds and removals that did not end. None while a build runs, whose directory is among them.
    pub fn leftovers(&self) -> Result<Option<Leftovers>, StoreError> {
        let Some(lock) = try_lock(&self.dir.join(LOCK))? else { return Ok(None) };
        let generations = self.dir.join(GENERATIONS);
        let mut found = Vec::new();
        for name in names_in(&generations)?.into_iter().filter(|name| name.starts_with(BUILDING_PREFIX)) {
            let dir = generations.join(&name);
            let is_build =
                !name.starts_with(REMOVED_PREFIX) && dir.join(JOURNAL).exists() && dir.join(GENERATION).is_dir();
            found.push(Leftover { bytes: bytes_in(&dir), dir, is_resumable: is_build });
        }
        Ok(Some(Leftovers { found, _lock: lock }))
    }

    /// Where a generation lies, or would.
    pub fn generation_dir(&self, number: u64) -> PathBuf {
        self.dir.join(GENERATIONS).join(name_from_number(number))
    }
}

/// What builds and removals that did not end have left; no build begins while this exists.
pub struct Leftovers {
    /// Each of them.
    pub found: Vec<Leftover>,
    _lock: File,
}

/// What one of them has left.
pub struct Leftover {
    /// Its directory.
    pub dir: PathBuf,
    /// Bytes of its files.
    pub bytes: u64,
    /// A build that `corewall build --resume` can go on with.
    pub is_resumable: bool,
}

impl Leftover {
    /// Removes it.
    pub fn remove(&self) -> Result<(), StoreError> {
        fs::remove_dir_all(&self.dir).map_err(StoreError::io(&self.dir, "remove what a killed build left"))
    }
}

/// The directory of a build under way; removed when dropped without being published or kept.
pub(crate) struct Staging {
    store: Store,
    /// Where the build puts what it needs on its way.
    pub(crate) root: PathBuf,
    /// Within it, what becomes the generation.
    pub(crate) dir: PathBuf,
    /// The number that it will get.
    pub(crate) number: u64,
    stays: bool,
    // Held to the end: the lock goes with the file, also when the process is killed.
    lock: File,
}

impl Staging {
    /// Takes the store's lock and makes a directory, or takes over one that a killed build left and that `take_over` finds good.
    /// All others are removed.
    pub(crate) fn begin<T>(
        store: &Store,
        mut take_over: impl FnMut(&Path) -> Option<T>,
    ) -> Result<(Staging, Option<T>), StoreError> {
        let lock_path = store.dir.join(LOCK);
        let lock = try_lock(&lock_path)?.ok_or_else(|| StoreError::Busy { path: lock_path })?;
        let mut taken = None;
        remove_leftovers(store, |dir| {
            let value = if taken.is_none() { take_over(dir) } else { None };
            let keep = value.is_some();
            if let Some(value) = value {
                taken = Some((dir.to_path_buf(), value));
            }
            keep
        })?;
        // A symlink that leads nowhere does not hinder the build that will replace it.
        let current = store.current_number().ok().flatten();
        let number = store.numbers()?.last().copied().max(current).unwrap_or(0) + 1;
        let (root, value) = match taken {
            Some((root, value)) => (root, Some(value)),
            None => {
                let root = store.dir.join(GENERATIONS).join(format!("{BUILDING_PREFIX}{}", std::process::id()));
                fs::create_dir(&root).map_err(StoreError::io(&root, "make the directory"))?;
                (root, None)
            }
        };
        let dir = root.join(GENERATION);
        // From here on the directory goes with the value.
        let staging = Staging { store: store.clone(), dir, root, number, stays: false, lock };
        if value.is_none() {
            fs::create_dir(&staging.dir).map_err(StoreError::io(&staging.dir, "make the directory"))?;
        }
        Ok((staging, value))
    }

    /// The store's key.
    pub(crate) fn key(&self) -> HashKey {
        self.store.key
    }

    /// Makes the directories themselves durable.
    pub(crate) fn sync(&self) -> Result<(), StoreError> {
        sync_dir(&self.root)?;
        sync_dir(&self.store.dir.join(GENERATIONS))
    }

    /// Leaves the directory for a build that goes on with this one, and gives it.
    pub(crate) fn keep(&mut self) -> PathBuf {
        self.stays = true;
        self.root.clone()
    }

    /// Makes the finished directory a generation that is complete, verified and not the current one. Every file in it is on
    /// the disk already.
    pub(crate) fn seal(mut self) -> Result<Sealed, StoreError> {
        sync_dir(&self.dir)?;
        let generation = Generation::load(&self.dir, self.number, self.store.key, &self.store.dir.join(KEY), None)?;
        generation.require_filters()?;
        generation.require_places()?;
        let dir = self.store.generation_dir(self.number);
        fs::rename(&self.dir, &dir).map_err(StoreError::io(&dir, "rename the finished build"))?;
        sync_dir(&self.store.dir.join(GENERATIONS))?;
        // The runs are not needed any more. What cannot be removed now is removed by the next build.
        self.stays = true;
        let _ = fs::remove_dir_all(&self.root);
        Ok(Sealed { staging: self })
    }
}

/// A complete generation with a number of its own that is not the current one yet. Dropped, it stays as it is: it can be
/// looked at, and published later by [`Store::switch`]. No other build begins while this exists.
pub struct Sealed {
    staging: Staging,
}

impl Sealed {
    /// Its number.
    pub fn number(&self) -> u64 {
        self.staging.number
    }

    /// The generation, opened and verified.
    pub fn open(&self) -> Result<Generation, StoreError> {
        self.staging.store.generation(self.staging.number)
    }

    /// Makes it the current one.
    pub fn publish(self) -> Result<u64, StoreError> {
        self.staging.store.switch(self.staging.number)?;
        Ok(self.staging.number)
    }
}

impl Drop for Staging {
    fn drop(&mut self) {
        if !self.stays {
            // What cannot be removed now is removed by the next build.
            let _ = fs::remove_dir_all(&self.root);
        }
        // A child process that another thread is just starting has the file open as well, until it runs its own program.
        let _ = self.lock.unlock();
    }
}

/// Makes a file's content durable.
pub(crate) fn sync_file(path: &Path) -> Result<(), StoreError> {
    let file = File::open(path).map_err(StoreError::io(path, "open the file"))?;
    file.sync_all().map_err(StoreError::io(path, "make the file durable"))
}

/// Writes a new file and makes its content durable.
pub(crate) fn write_durably(path: &Path, bytes: &[u8]) -> Result<(), StoreError> {
    let write = || {
        let mut file = File::create_new(path)?;
        file.write_all(bytes)?;
        file.sync_all()
    };
    write().map_err(StoreError::io(path, "write the file"))
}

/// Makes the names in a directory durable.
pub(crate) fn sync_dir(path: &Path) -> Result<(), StoreError> {
    let dir = File::open(path).map_err(StoreError::io(path, "open the directory"))?;
    dir.sync_all().map_err(StoreError::io(path, "make the directory durable"))
}

/// The lock of builds; none when somebody has it.
fn try_lock(path: &Path) -> Result<Option<File>, StoreError> {
    let lock = OpenOptions::new().create(true).truncate(false).write(true).open(path);
    let lock = lock.map_err(StoreError::io(path, "open the lock"))?;
    match lock.try_lock() {
        Ok(()) => Ok(Some(lock)),
        Err(TryLockError::WouldBlock) => Ok(None),
        Err(TryLockError::Error(error)) => Err(StoreError::io(path, "take the lock")(error)),
    }
}

/// Bytes of the files in a directory and in those below it, as far as they can be read.
fn bytes_in(dir: &Path) -> u64 {
    let Ok(entries) = fs::read_dir(dir) else { return 0 };
    let bytes = |entry: fs::DirEntry| match entry.metadata() {
        Ok(metadata) if metadata.is_dir() => bytes_in(&entry.path()),
        Ok(metadata) => metadata.len(),
        Err(_) => 0,
    };
    entries.filter_map(Result::ok).map(bytes).sum()
}

/// Only called with the lock held, so no build that could own them is alive. `keep` says which directory stays.
fn remove_leftovers(store: &Store, mut keep: impl FnMut(&Path) -> bool) -> Result<(), StoreError> {
    let generations = store.dir.join(GENERATIONS);
    let mut names = names_in(&generations)?;
    names.sort_unstable();
    for name in names.iter().filter(|name| name.starts_with(BUILDING_PREFIX)) {
        let dir = generations.join(name);
        if !keep(&dir) {
            fs::remove_dir_all(&dir).map_err(StoreError::io(&dir, "remove what a killed build left"))?;
        }
    }
    for name in names_in(&store.dir)?.iter().filter(|name| name.starts_with(NEXT_PREFIX)) {
        let path = store.dir.join(name);
        fs::remove_file(&path).map_err(StoreError::io(&path, "remove what a killed build left"))?;
    }
    Ok(())
}

fn names_in(dir: &Path) -> Result<Vec<String>, StoreError> {
    let name = |entry: io::Result<fs::DirEntry>| Ok(entry?.file_name().to_string_lossy().into_owned());
    let read = || fs::read_dir(dir)?.map(name).collect::<io::Result<_>>();
    read().map_err(StoreError::io(dir, "list the directory"))
}

fn name_from_number(number: u64) -> String {
    format!("{number:08}")
}

fn number_from_name(name: &str) -> Option<u64> {
    let number = name.parse().ok()?;
    (name_from_number(number) == name).then_some(number)
}

fn create_key(dir: &Path) -> Result<(), StoreError> {
    let new = dir.join(format!("{NEW_KEY_PREFIX}{}", std::process::id()));
    let mut key = [0; 16];
    getrandom::fill(&mut key).map_err(|error| StoreError::io(&new, "draw a random key")(error.into()))?;
    let text: String = key.iter().map(|byte| format!("{byte:02x}")).chain(["\n".to_owned()]).collect();
    let write = || {
        let _ = fs::remove_file(&new);
        let mut file = OpenOptions::new().write(true).create_new(true).mode(KEY_MODE).open(&new)?;
        file.write_all(text.as_bytes())?;
        file.sync_all()
    };
    write().map_err(StoreError::io(&new, "write the key"))?;
    // A link, not a rename: of two processes that make the store at once, the first one's key stays.
    let path = dir.join(KEY);
    let linked = fs::hard_link(&new, &path);
    let _ = fs::remove_file(&new);
    match linked {
        Err(error) if error.kind() != ErrorKind::AlreadyExists => Err(StoreError::io(&path, "write the key")(error)),
        _ => sync_dir(dir),
    }
}

fn key_from_text(text: &str) -> Option<HashKey> {
    let mut digits = text.strip_suffix('\n').unwrap_or(text).chars().map(|digit| digit.to_digit(16));
    let mut key = [0; 16];
    for byte in &mut key {
        *byte = (digits.next()?? * 16 + digits.next()??) as u8;
    }
    digits.next().is_none().then_some(HashKey(key))
}
