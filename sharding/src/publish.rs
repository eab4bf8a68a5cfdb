//! A store on disk: its key, its generations, and which of them is current.
//!
//! ```text
//! STORE/key                       the installation's hash key, 32 hexadecimal digits, mode 0600
//! STORE/lock                      held (flock) by the one build that may run
//! STORE/generations/00000001/     a generation, complete since its directory has this name
//! STORE/generations/.building-PID a build under way, or left by one that was killed
//! STORE/current                   symlink to the generation being served
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
pub use crate::generation::{AddressRow, Generation, PatternRow};
use crate::route::HashKey;

const KEY: &str = "key";
const LOCK: &str = "lock";
const GENERATIONS: &str = "generations";
const CURRENT: &str = "current";
/// What the directory of an unfinished build is called before its process id.
const BUILDING_PREFIX: &str = ".building-";
/// What the next `current` is called before it is renamed.
const NEXT_PREFIX: &str = ".current-";
/// What the key is called until it is complete.
const NEW_KEY_PREFIX: &str = ".key-";
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

    /// Any generation, opened and verified.
    pub fn generation(&self, number: u64) -> Result<Generation, StoreError> {
        Generation::load(&self.generation_dir(number), number, self.key, &self.dir.join(KEY))
    }

    /// Numbers of the generations that are there, ascending.
    pub fn numbers(&self) -> Result<Vec<u64>, StoreError> {
        let mut numbers: Vec<u64> =
            names_in(&self.dir.join(GENERATIONS))?.iter().filter_map(|name| number_from_name(name)).collect();
        numbers.sort_unstable();
        Ok(numbers)
    }

    /// Makes an existing generation the current one, after opening and verifying it: how a build is published, and how
    /// it is rolled back.
    pub fn switch(&self, number: u64) -> Result<(), StoreError> {
        self.generation(number)?;
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
        if self.current_number()? == Some(number) {
            return Err(StoreError::Bounds {
                what: format!("generation {number} is the current one"),
                remedy: "switch to another generation before removing it",
            });
        }
        let dir = self.generation_dir(number);
        // Renamed first: a removal that is killed half-way must not leave half a generation under a number.
        let doomed = self.dir.join(GENERATIONS).join(format!("{BUILDING_PREFIX}removed-{number}"));
        fs::rename(&dir, &doomed).map_err(StoreError::io(&dir, "rename the directory"))?;
        fs::remove_dir_all(&doomed).map_err(StoreError::io(&doomed, "remove the directory"))
    }

    /// Where a generation lies, or would.
    pub fn generation_dir(&self, number: u64) -> PathBuf {
        self.dir.join(GENERATIONS).join(name_from_number(number))
    }
}

/// The directory of a build under way; removed when dropped without being published.
pub(crate) struct Staging {
    store: Store,
    /// Where the build writes.
    pub(crate) dir: PathBuf,
    /// The number that it will get.
    pub(crate) number: u64,
    published: bool,
    // Held to the end: the lock goes with the file, also when the process is killed.
    _lock: File,
}

impl Staging {
    /// Takes the store's lock, removes what killed builds left, and makes a directory.
    pub(crate) fn begin(store: &Store) -> Result<Staging, StoreError> {
        let lock_path = store.dir.join(LOCK);
        let lock = OpenOptions::new().create(true).truncate(false).write(true).open(&lock_path);
        let lock = lock.map_err(StoreError::io(&lock_path, "open the lock"))?;
        match lock.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => return Err(StoreError::Busy { path: lock_path }),
            Err(TryLockError::Error(error)) => return Err(StoreError::io(&lock_path, "take the lock")(error)),
        }
        remove_leftovers(store)?;
        // A symlink that leads nowhere does not hinder the build that will replace it.
        let current = store.current_number().ok().flatten();
        let number = store.numbers()?.last().copied().max(current).unwrap_or(0) + 1;
        let dir = store.dir.join(GENERATIONS).join(format!("{BUILDING_PREFIX}{}", std::process::id()));
        fs::create_dir(&dir).map_err(StoreError::io(&dir, "make the directory"))?;
        Ok(Staging { store: store.clone(), dir, number, published: false, _lock: lock })
    }

    /// The store's key.
    pub(crate) fn key(&self) -> HashKey {
        self.store.key
    }

    /// Makes the finished directory a generation and that the current one. Every file in it is on the disk already.
    pub(crate) fn publish(mut self) -> Result<u64, StoreError> {
        sync_dir(&self.dir)?;
        Generation::load(&self.dir, self.number, self.store.key, &self.store.dir.join(KEY))?;
        let dir = self.store.generation_dir(self.number);
        fs::rename(&self.dir, &dir).map_err(StoreError::io(&dir, "rename the finished build"))?;
        self.published = true;
        sync_dir(&self.store.dir.join(GENERATIONS))?;
        self.store.switch(self.number)?;
        Ok(self.number)
    }
}

impl Drop for Staging {
    fn drop(&mut self) {
        if !self.published {
            // What cannot be removed now is removed by the next build.
            let _ = fs::remove_dir_all(&self.dir);
        }
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

/// Only called with the lock held, so no build that could own them is alive.
fn remove_leftovers(store: &Store) -> Result<(), StoreError> {
    let generations = store.dir.join(GENERATIONS);
    for name in names_in(&generations)?.iter().filter(|name| name.starts_with(BUILDING_PREFIX)) {
        let dir = generations.join(name);
        fs::remove_dir_all(&dir).map_err(StoreError::io(&dir, "remove what a killed build left"))?;
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
