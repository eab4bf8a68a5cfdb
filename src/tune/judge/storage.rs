//! The file system that the store lies on.

use std::collections::BTreeMap;

use crate::tune::facts::{Dataset, Fact, Facts, Mount, Untold};
use crate::tune::finding::{Finding, Group};
use crate::tune::site::Site;
use crate::tune::wanted::{Advice, Storage, Switch};

use super::{Case, Outcome, because};

pub(super) fn judge(wanted: &Storage, facts: &Facts, site: &Site) -> Vec<Finding> {
    let store = site.store.display().to_string();
    let case = |name| Case { group: Group::Storage, name, subject: Some(&store) };
    let mount = because(&facts.mount);
    let mut findings = Vec::new();

    let advice = &wanted.filesystem;
    let outcome = mount.clone().map(|mount| of_filesystem(mount, &advice.wanted));
    findings.extend(case("filesystem").judge(advice, advice.wanted.join(" or "), outcome));

    let advice = &wanted.access_times;
    let outcome = mount.clone().and_then(|mount| access_times(mount, &advice.wanted));
    findings.extend(case("access_times").judge(advice, advice.wanted.join(" or "), outcome));

    let dataset = mount.and_then(|mount| {
        let other = || Untold::Inapplicable(format!("the store lies on {}, not on ZFS", mount.filesystem));
        mount.dataset.as_ref().ok_or_else(other)
    });
    for (name, property, advice) in [
        ("zfs_atime", "atime", &wanted.zfs_atime),
        ("zfs_compression", "compression", &wanted.zfs_compression),
        ("zfs_primarycache", "primarycache", &wanted.zfs_primarycache),
    ] {
        let outcome = dataset.clone().and_then(|dataset| of_property(dataset, property, advice));
        findings.extend(case(name).judge(advice, advice.wanted.join(" or "), outcome));
    }
    let advice = &wanted.zfs_recordsize;
    let most = advice.wanted.to_string();
    let outcome = dataset.clone().and_then(|dataset| {
        let found = property(dataset, "recordsize")?;
        let bytes: u64 =
            found.parse().map_err(|_| Untold::Unreadable(format!("zfs tells a recordsize of `{found}`")))?;
        Ok(Outcome::one(bytes <= advice.wanted, found, &[("wanted", &most), ("dataset", &dataset.name)]))
    });
    findings.extend(case("zfs_recordsize").judge(advice, format!("at most {most}"), outcome));

    // What the configuration says of reading: the file system is what makes it right or wrong.
    let advice = &wanted.zfs_mmap;
    let found = if site.mmap && site.store_readers == 0 { Switch::On } else { Switch::Off };
    let outcome = dataset
        .clone()
        .map(|_| Outcome::one(found == advice.wanted, found.word(), &[("wanted", advice.wanted.word())]));
    findings.extend(case("zfs_mmap").judge(advice, advice.wanted.word(), outcome));
    let advice = &wanted.zfs_store_readers;
    let most = advice.wanted.to_string();
    let outcome = dataset.map(|_| {
        Outcome::one(site.store_readers <= advice.wanted, site.store_readers.to_string(), &[("wanted", &most)])
    });
    findings.extend(case("zfs_store_readers").judge(advice, format!("at most {most}"), outcome));
    findings
}

fn of_filesystem(mount: &Mount, wanted: &[String]) -> Outcome {
    let found = mount.filesystem.as_str();
    let is_remote = ["nfs", "nfs4", "cifs", "smb3", "ceph", "9p", "afs", "glusterfs", "lustre", "virtiofs", "fuse"];
    let note = match found {
        "tmpfs" | "ramfs" => Some("what lies there is gone when the machine starts again"),
        "overlay" => Some(
            "a container's own layer: it goes with the container, and does not tell what is in memory; use a volume",
        ),
        found if is_remote.contains(&found) || found.starts_with("fuse.") => {
            Some("reads may wait for another machine or program, and it does not tell what is in memory")
        }
        found if wanted.iter().any(|good| good == found) => None,
        _ => Some("nobody has measured it"),
    };
    let place = mount.point.display().to_string();
    let is_good = wanted.iter().any(|good| good == found);
    Outcome::one(is_good, found, &[("mount", &place)]).with_note(note.filter(|_| !is_good).map(str::to_owned))
}

fn access_times(mount: &Mount, wanted: &[String]) -> Fact<Outcome> {
    if mount.dataset.is_some() {
        return Err(Untold::Inapplicable("a property of the dataset, see zfs_atime".to_owned()));
    }
    let has = |option: &str| mount.options.iter().any(|one| one == option);
    if has("ro") {
        return Err(Untold::Inapplicable("it is mounted read-only".to_owned()));
    }
    let found = ["noatime", "relatime"].into_iter().find(|option| has(option)).unwrap_or("strictatime");
    let best = wanted.first().map(String::as_str).unwrap_or_default();
    let place = mount.point.display().to_string();
    Ok(Outcome::one(wanted.iter().any(|good| good == found), found, &[("wanted", best), ("mount", &place)]))
}

fn property<'a>(dataset: &'a Dataset, name: &str) -> Fact<&'a str> {
    let properties: &BTreeMap<String, String> = because(&dataset.properties)?;
    let value = properties.get(name).map(String::as_str);
    value.ok_or_else(|| Untold::Unreadable(format!("zfs does not tell {name} of {}", dataset.name)))
}

fn of_property(dataset: &Dataset, name: &str, advice: &Advice<Vec<String>>) -> Fact<Outcome> {
    let found = property(dataset, name)?;
    let best = advice.wanted.first().map(String::as_str).unwrap_or_default();
    // `zstd-3` is zstd.
    let is_good = advice.wanted.iter().any(|good| found == good || found.starts_with(&format!("{good}-")));
    Ok(Outcome::one(is_good, found, &[("wanted", best), ("dataset", &dataset.name)]))
}
