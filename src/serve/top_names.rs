//! The file of the names that are asked for most: `STORE/top-names`, a line for each with the questions that are estimated, the
//! most asked first. A build compares its rules by it before it publishes them.
//!
//! Invariants: it holds names and counts, nothing of who asked; only the user that the server runs as may read it; it is
//! replaced whole. What cannot be read or written is said once and hinders nothing else.

use std::collections::HashMap;
use std::fs::{self, File, OpenOptions, Permissions};
use std::io::{self, BufRead, BufReader, BufWriter, ErrorKind, Read, Write};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use corewall_sharding::name::Name;

use crate::decide::top_names::decayed;
use crate::limits::{TOP_NAMES_FILE_BYTES_MAX, TOP_NAMES_MAX};

/// Name of the file within the store.
pub const FILE_NAME: &str = "top-names";
/// What the next one is called until it is complete.
const NEW_FILE_NAME: &str = ".top-names-new";
/// What clients ask for is nobody else's business.
const FILE_MODE: u32 = 0o600;

/// Names with how often they are asked for, the most asked first.
pub type Counted = Vec<(Name, u64)>;

/// What the control thread keeps of it.
pub struct TopNames {
    store: PathBuf,
    /// Names in the file.
    room: usize,
    /// What earlier processes found, less with each save.
    before: HashMap<Name, u32>,
    has_failed: bool,
}

impl TopNames {
    /// Takes up what an earlier process left in the store.
    pub fn open(store: &Path, room: usize) -> Self {
        let before = match read(&store.join(FILE_NAME)) {
            Ok(names) => {
                names.into_iter().map(|(name, asked)| (name, u32::try_from(asked).unwrap_or(u32::MAX))).collect()
            }
            Err(error) if error.kind() == ErrorKind::NotFound => HashMap::new(),
            Err(error) => {
                let file = store.join(FILE_NAME);
                tracing::warn!("{}: cannot read the names asked for most, counting anew: {error}", file.display());
                HashMap::new()
            }
        };
        Self { store: store.to_path_buf(), room, before, has_failed: false }
    }

    /// Whether it is what the configuration says.
    pub fn is(&self, store: &Path, room: usize) -> bool {
        self.store == store && self.room == room
    }

    /// Saves what the workers have counted, with what was found before.
    pub fn save(&mut self, workers: Vec<Vec<(Name, u32)>>) {
        for asked in self.before.values_mut() {
            *asked = decayed(*asked);
        }
        self.before.retain(|_, asked| *asked > 0);
        let mut sums: HashMap<Name, u64> = self.before.iter().map(|(name, asked)| (*name, u64::from(*asked))).collect();
        for (name, asked) in workers.into_iter().flatten() {
            *sums.entry(name).or_default() += u64::from(asked);
        }
        let mut names: Counted = sums.into_iter().collect();
        // By name where the count is the same, so that the file does not change without a reason.
        names.sort_unstable_by(|(name, asked), (other_name, other)| {
            other.cmp(asked).then_with(|| name.as_wire().cmp(other_name.as_wire()))
        });
        names.truncate(self.room);
        let written = write(&self.store, &names);
        match written {
            Ok(()) => self.has_failed = false,
            Err(error) => {
                if !std::mem::replace(&mut self.has_failed, true) {
                    let file = self.store.join(FILE_NAME);
                    tracing::warn!(
                        "{}: cannot write the names asked for most: {error}; let the server's user write to the store, or set \
                         top_names = 0",
                        file.display()
                    );
                }
            }
        }
    }
}

fn write(store: &Path, names: &Counted) -> io::Result<()> {
    let (new, path) = (store.join(NEW_FILE_NAME), store.join(FILE_NAME));
    let file = OpenOptions::new().write(true).create(true).truncate(true).mode(FILE_MODE).open(&new)?;
    // One that a process before left half written may have another mode.
    file.set_permissions(Permissions::from_mode(FILE_MODE))?;
    let mut out = BufWriter::new(file);
    for (name, asked) in names {
        writeln!(out, "{asked} {name}")?;
    }
    out.flush()?;
    out.get_ref().sync_all()?;
    fs::rename(&new, &path)?;
    // The new name is on the disk when its directory is.
    File::open(store)?.sync_all()
}

/// Reads such a file. Each name counts once, and a line that is none is an error, for then it is another file.
///
/// # Errors
/// It cannot be read, or is no such file.
pub fn read(path: &Path) -> io::Result<Counted> {
    let file = File::open(path)?;
    let (mut names, mut seen) = (Vec::new(), std::collections::HashSet::new());
    for (line, number) in BufReader::new(file.take(TOP_NAMES_FILE_BYTES_MAX)).lines().zip(1u64..) {
        let line = line?;
        let read = line.split_once(' ').and_then(|(asked, name)| {
            let name = if name == "." { Name::ROOT } else { Name::from_text(name).ok()? };
            Some((name, asked.parse().ok()?))
        });
        let Some((name, asked)) = read else {
            let message = format!("line {number} is no count with a name: `{line}`");
            return Err(io::Error::new(ErrorKind::InvalidData, message));
        };
        if seen.insert(name) {
            names.push((name, asked));
        }
        if names.len() == TOP_NAMES_MAX {
            break;
        }
    }
    Ok(names)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name(text: &str) -> Name {
        text.parse().unwrap()
    }

    #[test]
    fn what_the_workers_counted_is_added_up_and_survives_the_process() {
        let store = tempfile::tempdir().unwrap();
        let path = store.path().join(FILE_NAME);
        fs::write(store.path().join(NEW_FILE_NAME), "left half written").unwrap();
        fs::set_permissions(store.path().join(NEW_FILE_NAME), Permissions::from_mode(0o644)).unwrap();
        let mut top = TopNames::open(store.path(), 3);
        top.save(vec![vec![(name("a.example"), 16), (name("b.example"), 640)], vec![(name("a.example"), 3_200)]]);
        assert_eq!(fs::read_to_string(&path).unwrap(), "3216 a.example\n640 b.example\n");
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        // A process later: old counts fade, and the file keeps its size.
        let mut top = TopNames::open(store.path(), 3);
        let new = ["c.example", "d.example"].map(|text| (name(text), 1_000)).to_vec();
        top.save(vec![new]);
        let wanted = "3166 a.example\n1000 c.example\n1000 d.example\n";
        assert_eq!(fs::read_to_string(&path).unwrap(), wanted);
        assert_eq!(fs::read_dir(store.path()).unwrap().count(), 1);
    }

    #[test]
    fn a_file_of_something_else_is_refused_and_replaced() {
        let store = tempfile::tempdir().unwrap();
        let path = store.path().join(FILE_NAME);
        fs::write(&path, "1 a.example\nnonsense\n").unwrap();
        assert!(read(&path).unwrap_err().to_string().contains("line 2 is no count with a name: `nonsense`"));
        let mut top = TopNames::open(store.path(), 10);
        top.save(vec![vec![(name("b.example"), 16)]]);
        assert_eq!(read(&path).unwrap(), [(name("b.example"), 16)]);
        fs::write(&path, "5 a.example\n4 A.EXAMPLE\n1 .\n").unwrap();
        assert_eq!(read(&path).unwrap(), [(name("a.example"), 5), (Name::ROOT, 1)], "each name counts once");
    }

    #[test]
    fn names_of_any_octets_are_written_and_read_back() {
        let store = tempfile::tempdir().unwrap();
        // Each octet as a label of its own, and together with another.
        let names: Vec<(Name, u32)> = (0..=255u8)
            .flat_map(|octet| [vec![1, octet, 0], vec![2, b'a', octet, 1, b'b', 0]])
            .map(|wire| (Name::from_wire(&wire).unwrap(), 16))
            .collect();
        let mut top = TopNames::open(store.path(), 1_000);
        top.save(vec![names.clone()]);
        let mut read: Vec<Name> =
            read(&store.path().join(FILE_NAME)).unwrap().into_iter().map(|(name, _)| name).collect();
        // Capital letters are small ones.
        let mut wanted: Vec<Name> = names.into_iter().map(|(name, _)| name).collect();
        let by_wire = |name: &Name| name.as_wire().to_vec();
        read.sort_by_key(by_wire);
        wanted.sort_by_key(by_wire);
        wanted.dedup();
        assert_eq!(read, wanted);
    }
}
