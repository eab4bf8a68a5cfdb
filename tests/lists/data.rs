//! Real data beside the repository, unpacked once into the build folder.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Mutex;

/// Unpacks one archive and yields its folder; none, with a line that says so, where there is no such archive.
pub fn folder(archive: &str) -> Option<PathBuf> {
    static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());
    let _guard = ONE_AT_A_TIME.lock().unwrap();
    let packed = Path::new(env!("CARGO_MANIFEST_DIR")).join("../shared/data").join(format!("{archive}.tar.zst"));
    let Ok(about) = fs::metadata(&packed) else {
        println!("SKIPPED: no {}", packed.display());
        return None;
    };
    // The size tells a newer archive from the one that was unpacked.
    let unpacked = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("{archive}-{}", about.len()));
    if !unpacked.exists() {
        let partly = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
        let reader = zstd::Decoder::new(fs::File::open(&packed).unwrap()).unwrap();
        tar::Archive::new(reader).unpack(partly.path()).unwrap();
        fs::rename(partly.keep(), &unpacked).unwrap();
    }
    Some(unpacked)
}

/// All files under a folder, sorted.
pub fn files(folder: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut folders = vec![folder.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).unwrap() {
            let entry = entry.unwrap();
            let kind = entry.file_type().unwrap();
            if kind.is_dir() {
                folders.push(entry.path());
            } else if kind.is_file() {
                found.push(entry.path());
            }
        }
    }
    found.sort();
    found
}
