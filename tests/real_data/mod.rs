//! Real data beside the repository, unpacked once into the build folder.
//!
//! It lies in `../shared/data`, or in the folder that `COREWALL_DATA` names (relative to the repository root, as the default
//! is). Tests that want it say so when it is not there, and pass.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Mutex;

/// Unpacks `NAME.tar.zst` and yields its folder; none, with a line that says so, where there is no such archive.
pub fn folder(name: &str) -> Option<PathBuf> {
    static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());
    let _guard = ONE_AT_A_TIME.lock().unwrap();
    let data = std::env::var_os("COREWALL_DATA").unwrap_or_else(|| "../shared/data".into());
    let packed = Path::new(env!("CARGO_MANIFEST_DIR")).join(data).join(format!("{name}.tar.zst"));
    let Ok(about) = fs::metadata(&packed) else {
        println!("SKIPPED: no {}", packed.display());
        return None;
    };
    // The size tells a newer archive from the one that was unpacked.
    let unpacked = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("{name}-{}", about.len()));
    if !unpacked.exists() {
        let partly = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
        let reader = zstd::Decoder::new(fs::File::open(&packed).unwrap()).unwrap();
        tar::Archive::new(reader).unpack(partly.path()).unwrap();
        fs::rename(partly.keep(), &unpacked).unwrap();
    }
    Some(unpacked)
}
