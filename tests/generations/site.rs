//! A folder with lists and a store, and the program.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use corewall_sharding::publish::Store;
use serde_json::Value;

/// A folder of its own for a test.
pub struct Folder(tempfile::TempDir);

/// How a command ended.
#[derive(Debug)]
pub struct Done {
    pub code: Option<i32>,
    pub out: String,
    pub err: String,
}

impl Folder {
    pub fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    pub fn write(&self, name: &str, content: impl AsRef<[u8]>) {
        fs::write(self.path(name), content).unwrap();
    }

    pub fn read(&self, name: &str) -> String {
        fs::read_to_string(self.path(name)).unwrap()
    }

    /// Carries a command out in the folder.
    pub fn run(&self, arguments: &[&str]) -> Done {
        let mut command = Command::new(env!("CARGO_BIN_EXE_corewall"));
        done(command.current_dir(self.0.path()).env_remove("RUST_LOG").args(arguments))
    }

    /// One that must succeed; gives its output.
    pub fn told(&self, arguments: &[&str]) -> String {
        let done = self.run(arguments);
        assert_eq!(done.code, Some(0), "{arguments:?}: {done:?}");
        done.out
    }

    /// A command on the store `store`.
    pub fn on_store(&self, arguments: &[&str]) -> Done {
        self.run(&[arguments, &["--store", "store"]].concat())
    }

    /// One that must succeed, as JSON.
    pub fn json(&self, arguments: &[&str]) -> Value {
        let out = self.told(&[arguments, &["--store", "store", "--json"]].concat());
        serde_json::from_str(&out).unwrap_or_else(|error| panic!("{error}: {out}"))
    }

    /// Builds a generation of plain names.
    pub fn build(&self, names: &str) -> u64 {
        self.write("names.txt", names);
        let report = self.json(&["build", "--list", "plain:names.txt", "--shards", "3"]);
        report["generation"].as_u64().unwrap()
    }

    pub fn store(&self) -> Store {
        Store::open(&self.path("store")).unwrap()
    }

    /// A file of a generation.
    pub fn file(&self, generation: u64, name: &str) -> PathBuf {
        self.store().generation_dir(generation).join(name)
    }
}

pub fn done(command: &mut Command) -> Done {
    let Output { status, stdout, stderr } = command.output().unwrap();
    let text = |octets| String::from_utf8(octets).unwrap();
    Done { code: status.code(), out: text(stdout), err: text(stderr) }
}

/// Flips the last bit of a file.
pub fn damage(path: &Path) {
    let mut octets = fs::read(path).unwrap();
    *octets.last_mut().unwrap() ^= 1;
    fs::write(path, octets).unwrap();
}

/// A folder with everything in it.
pub fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let to = to.join(entry.file_name());
        if entry.file_type().unwrap().is_dir() {
            copy(&entry.path(), &to);
        } else if entry.file_type().unwrap().is_symlink() {
            symlink(fs::read_link(entry.path()).unwrap(), to).unwrap();
        } else {
            fs::copy(entry.path(), to).unwrap();
        }
    }
}
