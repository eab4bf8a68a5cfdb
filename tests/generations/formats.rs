//! Stores that older versions of the program wrote, kept in `tests/data/formats`, and those that no version has written yet.

use std::fs;
use std::path::{Path, PathBuf};

use corewall_sharding::manifest::Layout;
use corewall_sharding::schema::FORMAT_VERSION;

use crate::site::{Folder, copy, damage};

fn formats() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/formats")
}

/// The versions that are kept, with their folders.
fn kept() -> Vec<(u32, PathBuf)> {
    let mut kept: Vec<(u32, PathBuf)> = fs::read_dir(formats())
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter_map(|path| {
            // `v1`, or `v2-packed` where a version has several layouts.
            let version = path.file_name()?.to_str()?.strip_prefix('v')?.split('-').next()?.parse().ok()?;
            Some((version, path))
        })
        .collect();
    kept.sort();
    let versions: Vec<u32> = kept.iter().map(|(version, _)| *version).collect();
    assert_eq!(versions.first(), Some(&1), "{kept:?}");
    // Each layout of the version that is written now.
    let of_now = versions.iter().filter(|version| **version == FORMAT_VERSION).count();
    assert_eq!(of_now, Layout::ALL.len(), "{kept:?}");
    kept
}

#[test]
fn a_store_of_each_format_version_answers_as_its_lists_say() {
    let folder = Folder::new();
    for (version, store) in kept() {
        copy(&store, &folder.path("store"));
        let listed = folder.json(&["generations"]);
        assert_eq!(
            (&listed["generations"][0]["format"], &listed["generations"][0]["rules"]),
            (&version.into(), &53.into())
        );
        let verified = folder.on_store(&["verify", "--sample", "100"]);
        assert_eq!(verified.code, Some(0), "{verified:?}");
        for (arguments, wanted) in [
            (&["host7.plain.example"][..], "answer: host7.plain.example. 60 IN A 192.0.2.66"),
            (&["host7.plain.example", "AAAA"], "AAAA 2001:db8::66"),
            (&["a.below.example"], "block below below.example"),
            (&["below.example"], "no rule decides"),
            (&["under.subtree.example"], "block subtree subtree.example"),
            (&["good.subtree.example"], "allowed by list `own`, category own"),
            (&["important.example"], "3 important block"),
            (&["typed.example", "TXT"], "blocked by list `own`"),
            (&["typed.example", "A"], "no rule decides"),
            (&["spared.denied.example"], "no rule decides"),
            (&["client.example", "--client", "192.0.2.9"], "allowed by list `policy`"),
            (&["rewritten.example"], "IN A 192.0.2.7"),
            (&["gone.example"], "NXDOMAIN"),
            (&["ads22.example"], "block pattern /^ads[0-9]+\\./"),
            (&["ads1.example"], "allowed by list `own`"),
            (&["nxdomain.example"], "NXDOMAIN"),
            (&["nodata.example"], "NOERROR"),
            (&["drop.example"], "none at all"),
            (&["a.wild.example"], "NXDOMAIN"),
            (&["walled.example"], "alias exact walled.example -> garden.example"),
            (&["b.walled.example"], "\nb.walled.example.garden.example\n"),
            (&["data.example", "TXT"], "120 IN TXT \"some text\""),
            (&["dnsmasq.example"], "blocked by list `old`"),
            (&["forwarded.example"], "forwarded by list `old`"),
            (&["portal.example"], "\nwww.example\n"),
            (&["198.51.100.77"], "an answer with it is blocked by list `policy`"),
            (&["203.0.113.5"], "it is replaced by 192.0.2.5"),
            (&["203.0.113.9"], "it is replaced by 192.0.2.9"),
        ] {
            let explained = folder.on_store(&[&["explain"], arguments].concat());
            assert_eq!(explained.code, Some(0), "{arguments:?}: {explained:?}");
            assert!(
                explained.out.contains(wanted),
                "format {version}: {arguments:?}: no `{wanted}` in\n{}",
                explained.out
            );
        }
        fs::remove_dir_all(folder.path("store")).unwrap();
    }
}

#[test]
fn an_older_store_is_built_upon_and_rolled_back_to() {
    for (_, store) in kept() {
        let folder = Folder::new();
        copy(&store, &folder.path("store"));
        assert_eq!(folder.build("new.example\n"), 2);
        assert_eq!(folder.json(&["rollback"])["current"], 1);
        assert!(folder.on_store(&["explain", "host7.plain.example"]).out.contains("block exact"));
    }
}

#[test]
fn an_export_does_not_depend_on_the_format_or_layout() {
    let folder = Folder::new();
    for format in ["csv", "jsonl", "plain", "hosts", "rpz"] {
        let mut exports = kept().into_iter().map(|(_, store)| {
            copy(&store, &folder.path("store"));
            let export = folder.on_store(&["export", "--format", format]);
            assert_eq!(export.code, Some(0), "{export:?}");
            fs::remove_dir_all(folder.path("store")).unwrap();
            // The serial of a zone is the moment of its build; names come in another order, and by other classes.
            let mut lines: Vec<String> =
                export.out.lines().filter(|l| !l.contains(" SOA ")).map(str::to_owned).collect();
            lines.sort();
            (lines, export.err, store)
        });
        let (lines, left, _) = exports.next().unwrap();
        assert!(!lines.is_empty());
        for (other, other_left, store) in exports {
            assert_eq!((&other, &other_left), (&lines, &left), "{format}: {}", store.display());
        }
    }
}

#[test]
fn a_store_of_an_unknown_version_is_refused_in_plain_words() {
    let folder = Folder::new();
    copy(&formats().join("v1"), &folder.path("store"));
    let manifest = folder.file(1, "manifest.toml");
    let text = fs::read_to_string(&manifest).unwrap();
    let rest = text.split_once('\n').unwrap().1.replace("format = 1\n", "format = 99\n");
    let sum = xxhash_rust::xxh3::xxh3_64(rest.as_bytes());
    fs::write(&manifest, format!("checksum = \"{sum:016x}\"\n{rest}")).unwrap();
    for arguments in [&["explain", "a.example"][..], &["verify"], &["publish", "1"], &["export"]] {
        let refused = folder.on_store(arguments);
        assert!(refused.code == Some(1) || refused.code == Some(2), "{arguments:?}: {refused:?}");
        let words = "is in format 99, this version reads formats up to ";
        assert!(refused.err.contains(words) && refused.err.contains("build the store again"), "{}", refused.err);
    }
    // The next build does not mind what it replaces.
    assert_eq!(folder.build("new.example\n"), 2);
}

#[test]
fn a_damaged_store_of_each_version_is_refused_and_names_the_file() {
    for (file, (_, store)) in ["manifest.toml", "dns_shard_00.db"]
        .into_iter()
        .flat_map(|file| kept().into_iter().map(move |kept| (file, kept)))
    {
        let folder = Folder::new();
        copy(&store, &folder.path("store"));
        damage(&folder.file(1, file));
        let refused = folder.on_store(&["verify"]);
        assert_eq!(refused.code, Some(1), "{refused:?}");
        assert!(refused.err.contains(&format!("{file}: is damaged")), "{}", refused.err);
    }
}
