//! The stores of ten million rules: made-up names like those of real lists, built once and used again.

use std::error::Error;
use std::fs::{self, File};
use std::io;
use std::path::Path;
use std::process::Command;

use crate::contenders::{self, Site};
use crate::mixes::{self, Amount};

/// What list and names were made from stands in this file of their folder, and it is written last.
const MADE: &str = "made";
/// The same for the stores; it is as old as they are.
const BUILT: &str = "built";

/// The layouts that are measured, the first being the default.
pub const LAYOUTS: [&str; 2] = ["sql", "packed"];

/// Makes list, names to ask and a store for each layout in `folder` unless they are there, and returns the names. A store that
/// is older than Corewall's binary is built again: another version may write other files.
pub fn prepare(folder: &Path, rules: u64, amount: &Amount, site: &Site) -> Result<String, Box<dyn Error>> {
    let asked = mixes::store_names(amount);
    let made_from = format!("{rules} {asked}");
    let names = folder.join("asked.txt");
    if fs::read_to_string(folder.join(MADE)).ok().as_ref() != Some(&made_from) {
        println!("stores of {rules} rules: making the list");
        if folder.exists() {
            fs::remove_dir_all(folder)?;
        }
        fs::create_dir_all(folder)?;
        let rules = rules.to_string();
        write_rules(&folder.join("rules.txt"), &["--names", &rules])?;
        // A tenth more than are needed: some come twice.
        write_rules(&names, &["--names", &rules, "--sample", &(asked + asked / 10).to_string()])?;
        fs::write(folder.join(MADE), made_from)?;
    }
    let folder = fs::canonicalize(folder)?;
    let age = |path: &Path| fs::metadata(path).and_then(|metadata| metadata.modified());
    let binary = age(&site.corewall).map_err(|error| format!("{}: {error}", site.corewall.display()))?;
    if age(&folder.join(BUILT)).is_ok_and(|built| built > binary) {
        return Ok(fs::read_to_string(names)?);
    }
    for layout in LAYOUTS {
        println!("stores of {rules} rules: building, layout {layout}");
        let site = site_of(&folder, layout, site);
        if site.store.exists() {
            fs::remove_dir_all(&site.store)?;
        }
        contenders::build_store(&site, &["--layout", layout])?;
    }
    fs::write(folder.join(BUILT), LAYOUTS.join(" "))?;
    Ok(fs::read_to_string(names)?)
}

/// The site with the store of this layout, and without a cache: a name is asked once.
pub fn site_of(folder: &Path, layout: &str, site: &Site) -> Site {
    Site { store: folder.join(layout), rules: folder.join("rules.txt"), cache_kib: 0, ..site.clone() }
}

/// Reads a store's files, so that they are in the page cache.
pub fn read_all(store: &Path) -> io::Result<()> {
    for file in fs::read_dir(store.join("current"))? {
        let path = file?.path();
        if path.is_file() {
            io::copy(&mut File::open(path)?, &mut io::sink())?;
        }
    }
    Ok(())
}

fn write_rules(path: &Path, arguments: &[&str]) -> Result<(), Box<dyn Error>> {
    // Cargo puts the binaries of one package side by side.
    let mut command = Command::new(std::env::current_exe()?.with_file_name("rules"));
    let status = command.args(arguments).stdout(File::create(path)?).status()?;
    if status.success() { Ok(()) } else { Err(format!("{command:?} failed: {status}").into()) }
}
