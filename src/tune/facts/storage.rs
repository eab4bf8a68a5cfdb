//! The file system that the store lies on.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use super::{Fact, Untold};
use crate::tune::machine::Machine;

/// What is mounted where the store is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mount {
    /// Where.
    pub point: PathBuf,
    /// Such as `ext4`.
    pub filesystem: String,
    /// Device, dataset or server.
    pub source: String,
    /// Options of the mount and of the file system.
    pub options: Vec<String>,
    /// On ZFS.
    pub dataset: Option<Dataset>,
}

/// Properties of a ZFS dataset.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Dataset {
    /// Its name.
    pub name: String,
    /// By their names, numbers in full.
    pub properties: Fact<BTreeMap<String, String>>,
}

impl Mount {
    /// The mount that `store` lies on.
    pub(super) fn read(machine: &Machine<'_>, store: &Path) -> Fact<Self> {
        let text = machine.read("/proc/self/mountinfo")?;
        let mounts = text.lines().filter_map(parse);
        // Of several at one place the last one is seen.
        let mount =
            mounts.filter(|mount| store.starts_with(&mount.point)).max_by_key(|mount| mount.point.components().count());
        let mut mount = mount
            .ok_or_else(|| Untold::Unreadable(format!("/proc/self/mountinfo has no mount for {}", store.display())))?;
        if mount.filesystem == "zfs" {
            let name = mount.source.clone();
            mount.dataset = Some(Dataset { properties: properties(machine, &name), name });
        }
        Ok(mount)
    }
}

/// `36 35 98:0 /root /point rw,noatime master:1 - ext4 /dev/sda1 rw,discard` (proc(5)).
fn parse(line: &str) -> Option<Mount> {
    let (front, back) = line.split_once(" - ")?;
    let front: Vec<&str> = front.split(' ').collect();
    let mut back = back.split(' ');
    let (filesystem, source, own) = (back.next()?, back.next()?, back.next().unwrap_or_default());
    let options = front.get(5)?.split(',').chain(own.split(',')).filter(|option| !option.is_empty());
    Some(Mount {
        point: PathBuf::from(unescaped(front.get(4)?)),
        filesystem: filesystem.to_owned(),
        source: unescaped(source),
        options: options.map(str::to_owned).collect(),
        dataset: None,
    })
}

/// The kernel writes a space as `\040`.
fn unescaped(text: &str) -> String {
    let mut plain = Vec::new();
    let mut rest = text.as_bytes();
    while let Some((&first, after)) = rest.split_first() {
        let octal = after.get(..3).and_then(|digits| u8::from_str_radix(std::str::from_utf8(digits).ok()?, 8).ok());
        match (first, octal) {
            (b'\\', Some(byte)) => {
                plain.push(byte);
                rest = after.get(3..).unwrap_or_default();
            }
            _ => {
                plain.push(first);
                rest = after;
            }
        }
    }
    String::from_utf8_lossy(&plain).into_owned()
}

fn properties(machine: &Machine<'_>, dataset: &str) -> Fact<BTreeMap<String, String>> {
    let wanted = "recordsize,compression,primarycache,atime";
    let text = machine.ask("zfs", &["get", "-Hp", "-o", "property,value", wanted, dataset])?;
    let properties = text.lines().filter_map(|line| line.split_once('\t'));
    Ok(properties.map(|(name, value)| (name.to_owned(), value.trim().to_owned())).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_of_mountinfo_is_read_with_its_escapes_and_its_optional_fields() {
        let line = r"36 35 98:0 / /my\040data rw,noatime master:1 shared:2 - zfs tank/my\040data rw,xattr";
        let mount = parse(line).unwrap();
        assert_eq!((mount.point, mount.source), (PathBuf::from("/my data"), "tank/my data".to_owned()));
        assert_eq!(mount.options, ["rw", "noatime", "rw", "xattr"]);
        assert_eq!(parse("no separator"), None);
        assert_eq!(parse("1 2 - ext4"), None);
        assert_eq!(unescaped(r"a\"), r"a\");
    }
}
