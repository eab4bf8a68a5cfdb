//! The file that a worker's popular answers are saved in from its stop to the next start.
//!
//! Layout: magic, version, octets of the rest, their checksum (xxh3), then the moment of saving and the answers as `postcard`
//! writes them. Invariant: a file is taken whole or not at all; one that is cut, damaged or of another version is refused in
//! plain words and the worker starts with an empty cache. A file is written beside the old one, forced to the disk, and takes
//! its place.

use std::fs::{self, File, OpenOptions, Permissions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use xxhash_rust::xxh3::xxh3_64;

use crate::decide::cache::SavedCache;
use crate::limits::SAVED_BYTES_MAX;

const MAGIC: [u8; 8] = *b"corecach";
/// Changes with every change of the layout, [`SavedCache`] included.
const VERSION: u32 = 2;
/// Read and written by the user that the server runs as.
const FILE_MODE: u32 = 0o600;
/// Magic, version, length and checksum.
const HEAD_BYTES: usize = 8 + 4 + 8 + 8;

/// The file of one worker in the directory for them.
pub fn path_of(directory: &Path, worker: usize) -> PathBuf {
    directory.join(format!("cache-of-worker-{worker}"))
}

/// Seconds between two moments, in seconds since 1970; by a clock that went back nobody knows, and it is more than any answer
/// lives.
pub fn elapsed_s(saved_unix_s: u64, unix_s: u64) -> u32 {
    unix_s.checked_sub(saved_unix_s).and_then(|elapsed| u32::try_from(elapsed).ok()).unwrap_or(u32::MAX)
}

/// Writes the file.
///
/// # Errors
/// The file cannot be written.
pub fn save(path: &Path, saved_unix_s: u64, saved: &SavedCache) -> io::Result<()> {
    let octets = encode(saved_unix_s, saved)?;
    if let Some(directory) = path.parent() {
        fs::create_dir_all(directory)?;
    }
    let partly = path.with_extension("new");
    // Whom its clients ask for is nobody else's business.
    let mut file = OpenOptions::new().write(true).create(true).truncate(true).mode(FILE_MODE).open(&partly)?;
    // One that a process before left half written may have another mode.
    file.set_permissions(Permissions::from_mode(FILE_MODE))?;
    file.write_all(&octets)?;
    file.sync_all()?;
    fs::rename(&partly, path)?;
    // The new name is on the disk when its directory is.
    path.parent().map_or(Ok(()), |directory| File::open(directory)?.sync_all())
}

/// Reads the file; none when there is none. Gives when it was saved, in seconds since 1970, and what.
///
/// # Errors
/// What is wrong with the file.
pub fn load(path: &Path) -> Result<Option<(u64, SavedCache)>, String> {
    let file = match File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(format!("it cannot be opened: {error}")),
    };
    let mut octets = Vec::new();
    file.take(SAVED_BYTES_MAX).read_to_end(&mut octets).map_err(|error| format!("it cannot be read: {error}"))?;
    decode(&octets).map(Some)
}

fn encode(saved_unix_s: u64, saved: &SavedCache) -> io::Result<Vec<u8>> {
    let content = postcard::to_stdvec(&(saved_unix_s, saved)).map_err(io::Error::other)?;
    let mut octets = Vec::with_capacity(HEAD_BYTES + content.len());
    octets.extend_from_slice(&MAGIC);
    octets.extend_from_slice(&VERSION.to_le_bytes());
    octets.extend_from_slice(&(content.len() as u64).to_le_bytes());
    octets.extend_from_slice(&xxh3_64(&content).to_le_bytes());
    octets.extend_from_slice(&content);
    Ok(octets)
}

fn decode(octets: &[u8]) -> Result<(u64, SavedCache), String> {
    let cut = || "it is cut".to_owned();
    let (magic, rest) = octets.split_first_chunk::<8>().ok_or_else(cut)?;
    if *magic != MAGIC {
        return Err("it is no file of saved answers".to_owned());
    }
    let (version, rest) = rest.split_first_chunk::<4>().ok_or_else(cut)?;
    let version = u32::from_le_bytes(*version);
    if version != VERSION {
        return Err(format!("it has version {version}, and this program reads version {VERSION}"));
    }
    let (bytes, rest) = rest.split_first_chunk::<8>().ok_or_else(cut)?;
    let (checksum, content) = rest.split_first_chunk::<8>().ok_or_else(cut)?;
    if content.len() as u64 != u64::from_le_bytes(*bytes) {
        return Err(cut());
    }
    if xxh3_64(content) != u64::from_le_bytes(*checksum) {
        return Err("it is damaged: its checksum is wrong".to_owned());
    }
    postcard::from_bytes(content).map_err(|error| format!("it cannot be understood: {error}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::decide::Now;
    use crate::decide::answer::{Answer, Section};
    use crate::decide::cache::{Cache, CacheKey, EntryHead, Eviction, Origin};
    use crate::decide::question::Question;
    use crate::decide::reply::Body;

    fn saved() -> SavedCache {
        let mut cache = Cache::new(0, Eviction::Sieve, [1, 2, 3, 4]);
        let mut question = Question::EMPTY;
        (question.qtype, question.qclass) = (1, 1);
        let mut entries = Vec::new();
        for number in 0..3 {
            question.name = format!("n{number}.example").parse().unwrap();
            let (mut answer, mut body) = (Answer::new(), Body::new());
            answer.push(Section::Answer, &question.name, 1, 1, 300, &[198, 51, 100, number]).unwrap();
            body.compose(&question, &answer);
            let key = CacheKey {
                policy: 0,
                name: &question.name,
                qtype: 1,
                qclass: 1,
                dnssec_ok: false,
                checking_disabled: false,
                subnet: 0,
            };
            let origin = Origin::Upstream { group: 0, chain: false };
            let (stored, ttl_s) = (Now(0), 300);
            let head = EntryHead {
                origin,
                rcode: 0,
                authentic_data: false,
                ede: None,
                rules: 1,
                by_name_alone: true,
                stored,
                ttl_s,
                scope_bits: None,
            };
            assert!(cache.keep(&key, head, &body) && cache.find(&key, Now(0)).is_some());
        }
        cache.export(Now(0), 10, 0, &mut |entry| entries.push(entry));
        assert_eq!(entries.len(), 3);
        SavedCache { policies: vec!["default".to_owned()], groups: vec!["default".to_owned()], entries }
    }

    #[test]
    fn what_a_clock_that_went_back_has_saved_is_too_old() {
        assert_eq!([elapsed_s(100, 100), elapsed_s(100, 160), elapsed_s(0, u64::MAX)], [0, 60, u32::MAX]);
        assert_eq!(elapsed_s(100, 99), u32::MAX);
    }

    #[test]
    fn what_was_saved_is_loaded_by_the_next_process() {
        let folder = tempfile::tempdir().unwrap();
        let path = path_of(&folder.path().join("made at the first stop"), 3);
        assert_eq!(load(&path), Ok(None));
        for moment in [1_000, 2_000] {
            save(&path, moment, &saved()).unwrap();
            assert_eq!(load(&path), Ok(Some((moment, saved()))));
        }
        let left: Vec<_> = fs::read_dir(path.parent().unwrap()).unwrap().map(|file| file.unwrap().path()).collect();
        assert_eq!(left, [path]);
    }

    #[test]
    fn nobody_else_reads_what_was_asked_for() {
        let folder = tempfile::tempdir().unwrap();
        let path = path_of(folder.path(), 0);
        fs::write(path.with_extension("new"), "left half written").unwrap();
        fs::set_permissions(path.with_extension("new"), Permissions::from_mode(0o644)).unwrap();
        save(&path, 1, &saved()).unwrap();
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
    }

    #[test]
    fn a_file_that_is_cut_anywhere_is_refused() {
        let whole = encode(7, &saved()).unwrap();
        assert_eq!(decode(&whole), Ok((7, saved())));
        for bytes in 0..whole.len() {
            assert!(decode(&whole[..bytes]).is_err(), "{bytes} of {}", whole.len());
        }
        assert!(decode(&[&whole[..], b"x"].concat()).is_err());
    }

    #[test]
    fn a_file_with_any_octet_changed_is_refused() {
        let whole = encode(7, &saved()).unwrap();
        for at in 0..whole.len() {
            for flip in [0x01, 0x80, 0xff] {
                let mut damaged = whole.clone();
                damaged[at] ^= flip;
                assert!(decode(&damaged).is_err(), "octet {at}");
            }
        }
    }

    #[test]
    fn refusals_say_what_is_wrong() {
        let whole = encode(7, &saved()).unwrap();
        assert_eq!(decode(b"something else").unwrap_err(), "it is no file of saved answers");
        assert_eq!(decode(&whole[..40]).unwrap_err(), "it is cut");
        let mut newer = whole.clone();
        newer[8] = 3;
        assert_eq!(decode(&newer).unwrap_err(), "it has version 3, and this program reads version 2");
        let mut damaged = whole;
        *damaged.last_mut().unwrap() ^= 1;
        assert_eq!(decode(&damaged).unwrap_err(), "it is damaged: its checksum is wrong");
    }
}
