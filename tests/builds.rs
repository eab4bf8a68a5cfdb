//! Builds that fail, are ended, or are told how to work, as an operator meets them: what is said, the exit code, and that the
//! generation that is served stays as it is.

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;

/// Seconds after which a build that should have ended hangs.
const HANGS_S: u64 = 120;

struct Site(tempfile::TempDir);

impl Site {
    /// A store with one generation.
    fn new() -> Self {
        let site = Self(tempfile::tempdir().unwrap());
        let list = site.file("good.txt", "a.example.com\n");
        assert!(site.build(&[&format!("plain:{list}")], &[]).status.success());
        site
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn file(&self, name: &str, content: impl AsRef<[u8]>) -> String {
        fs::write(self.path(name), content).unwrap();
        self.path(name).display().to_string()
    }

    fn store(&self) -> String {
        self.path("store").display().to_string()
    }

    fn command(&self, lists: &[&str], more: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_corewall"));
        command.args(["build", "--store", &self.store()]).args(more).stdout(Stdio::piped()).stderr(Stdio::piped());
        lists.iter().for_each(|list| {
            command.args(["--list", list]);
        });
        command
    }

    fn build(&self, lists: &[&str], more: &[&str]) -> Output {
        self.command(lists, more).output().unwrap()
    }

    /// What a server reads: each file of the published generation.
    fn served(&self) -> Vec<(PathBuf, Vec<u8>)> {
        let current = self.path("store/current");
        let mut files = vec![(fs::read_link(&current).unwrap(), Vec::new())];
        let mut entries: Vec<PathBuf> = fs::read_dir(current).unwrap().map(|entry| entry.unwrap().path()).collect();
        entries.sort();
        files.extend(entries.into_iter().map(|path| (path.clone(), fs::read(path).unwrap())));
        files
    }

    /// The build fails at run time, says all of `words` in one line, and leaves what is served as it is.
    fn fails(&self, lists: &[&str], words: &[&str]) {
        let before = self.served();
        let output = self.build(lists, &[]);
        let said = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(1), "{said}");
        assert!(said.starts_with("error: ") && said.lines().count() == 1, "{said}");
        words.iter().for_each(|word| assert!(said.contains(word), "`{word}` is not in {said}"));
        assert!(self.served() == before, "another generation is served: {said}");
    }
}

fn gzip(text: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    encoder.write_all(text).unwrap();
    encoder.finish().unwrap()
}

fn xz(text: &[u8]) -> Vec<u8> {
    let mut encoder = lzma_rust2::XzWriter::new(Vec::new(), lzma_rust2::XzOptions::default()).unwrap();
    encoder.write_all(text).unwrap();
    encoder.finish().unwrap()
}

fn zst(text: &[u8]) -> Vec<u8> {
    let mut encoder = zstd::Encoder::new(Vec::new(), 1).unwrap();
    // Without a sum nothing tells a flipped bit.
    encoder.include_checksum(true).unwrap();
    encoder.write_all(text).unwrap();
    encoder.finish().unwrap()
}

/// Names that shrink as those of real lists do.
fn names(count: u32) -> String {
    (0..count).map(|number| format!("{:x}.example.com\n", number.wrapping_mul(2_654_435_761))).collect()
}

type Packer = fn(&[u8]) -> Vec<u8>;

const ARCHIVES: [(&str, Packer); 3] = [("gz", gzip), ("xz", xz), ("zst", zst)];

#[test]
fn lists_of_every_archive_are_read() {
    let site = Site::new();
    let lists = ARCHIVES.map(|(end, pack)| {
        format!("plain:{}", site.file(&format!("list.{end}"), pack(format!("{end}.example.com\n").as_bytes())))
    });
    let lists: Vec<&str> = lists.iter().map(String::as_str).collect();
    let output = site.build(&lists, &["--json"]);
    let report: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!((&report["rules"], &report["refused"]), (&3.into(), &0.into()));
}

#[test]
fn a_damaged_archive_is_told_with_its_list_and_place() {
    let site = Site::new();
    let text = names(40_000);
    for (end, pack) in ARCHIVES {
        let whole = pack(text.as_bytes());
        let name = format!("torn.{end}");
        for cut in [whole.len() / 2, whole.len() - 1] {
            let path = site.file(&name, &whole[..cut]);
            let place = format!("error: {path}: cannot read list `{name}` behind byte ");
            site.fails(&[&format!("plain:{path}")], &[&place, "fetch the file again if it is damaged"]);
        }
        let mut flipped = whole.clone();
        flipped[whole.len() / 2] ^= 0x10;
        let path = site.file(&name, &flipped);
        for format in ["plain", "rpz", "adblock"] {
            let place = format!("error: {path}: cannot read list `{name}`");
            site.fails(&[&format!("{format}:{path}")], &[&place, "fetch the file again if it is damaged"]);
        }
    }
}

#[test]
fn what_is_no_list_is_told_as_what_it_is() {
    let site = Site::new();
    let good = format!("plain:{}", site.file("good.txt", "a.example.com\n"));
    let folder = site.path("folder");
    fs::create_dir(&folder).unwrap();
    let pipe = site.path("pipe");
    assert!(Command::new("mkfifo").arg(&pipe).status().unwrap().success());
    let random: Vec<u8> = (0..100_000u32).map(|number| (number.wrapping_mul(2_654_435_761) >> 13) as u8).collect();
    for (path, what) in [
        (folder.display().to_string(), "it is a directory; name a file in it"),
        (pipe.display().to_string(), "it is no regular file; write the list into one"),
        (site.path("gone.txt").display().to_string(), "No such file or directory (os error 2); check the path"),
        (site.file("random.bin", &random[1..]), "it is no text: it has octets of value 0"),
        (site.file("packed.bin", gzip(&random)), "it is no text: it has octets of value 0"),
        (site.file("list.zip", b"PK\x03\x04 and so on"), "it is a ZIP archive; unpack it"),
        (site.file("list.bz2", b"BZh91AY&SY"), "it is compressed by bzip2; unpack it"),
        (site.file("wide.txt", b"\xff\xfea\0.\0b\0"), "it is text in UTF-16; convert it to UTF-8"),
        (site.file("list.db", b"SQLite format 3\0...."), "say format \"dnsmasq-sqlite\""),
    ] {
        let name = Path::new(&path).file_name().unwrap().to_str().unwrap().to_owned();
        let start = format!("error: {path}: cannot read list `{name}`: ");
        site.fails(&[&good, &format!("plain:{path}")], &[&start, what]);
    }
}

/// Runs the build where the store's file system has no room for it; none where this user may not mount one.
fn build_without_room(site: &Site, list: &str) -> Option<Output> {
    let script = "mount -t tmpfs -o size=3m none \"$1\" && shift && mkdir \"$1\" && cp -a \"$2\"/. \"$1\" && shift 2 && \
                  { \"$@\"; code=$?; readlink \"$0/current\"; exit $code; }";
    let mount = site.path("mount");
    fs::create_dir(&mount).unwrap();
    let store = mount.join("store").display().to_string();
    let unshare = |more: &[&str]| {
        let mut command = Command::new("unshare");
        command.args(["--user", "--map-root-user", "--mount"]).args(more);
        command
    };
    if !unshare(&["true"]).output().is_ok_and(|output| output.status.success()) {
        println!("SKIPPED: no user may mount a file system here");
        return None;
    }
    let arguments = ["sh", "-c", script, &store, &mount.display().to_string(), &store, &site.store()];
    let program = [env!("CARGO_BIN_EXE_corewall"), "build", "--store", &store, "--list", list];
    Some(unshare(&arguments).args(program).output().unwrap())
}

#[test]
fn a_full_disk_ends_the_build_and_leaves_what_is_served() {
    let site = Site::new();
    let list = format!("plain:{}", site.file("many.txt", names(200_000)));
    let Some(output) = build_without_room(&site, &list) else { return };
    let said = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(said.contains("error: ") && said.contains("there is no room left; "), "{said}");
    assert_eq!(String::from_utf8(output.stdout).unwrap().trim(), "generations/00000001", "what is served");
}

fn wait(mut child: Child) -> Output {
    let started = Instant::now();
    while child.try_wait().unwrap().is_none() {
        if started.elapsed() > Duration::from_secs(HANGS_S) {
            child.kill().unwrap();
            panic!("the build has not ended");
        }
        std::thread::yield_now();
    }
    child.wait_with_output().unwrap()
}

#[test]
fn a_signal_ends_a_build_that_says_how_to_go_on() {
    let site = Site::new();
    let before = site.served();
    let list = format!("plain:{}", site.file("many.txt", names(400_000)));
    for signal in ["-INT", "-TERM"] {
        let child = site.command(&[&list], &["--threads", "1"]).spawn().unwrap();
        // Those that were ended before have left theirs.
        let building = format!(".building-{}", child.id());
        let is_building = || {
            let names = fs::read_dir(site.path("store/generations")).unwrap();
            names.flatten().any(|entry| entry.file_name().to_string_lossy().starts_with(&building))
        };
        let started = Instant::now();
        while !is_building() {
            assert!(started.elapsed() < Duration::from_secs(HANGS_S), "the build does not begin");
            std::thread::yield_now();
        }
        assert!(Command::new("kill").args([signal, &child.id().to_string()]).status().unwrap().success());
        let output = wait(child);
        let said = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(1), "{said}");
        assert!(said.starts_with("error: the build was interrupted and nothing was published; "), "{said}");
        assert!(said.contains("with --resume goes on"), "{said}");
        assert!(site.served() == before, "another generation is served");
    }
    let output = site.build(&[&list], &["--resume", "--json"]);
    let report: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(report["rules"], 400_000);
}

#[test]
fn a_build_works_as_its_options_and_the_configuration_say() {
    let site = Site::new();
    let list = format!("plain:{}", site.file("list.txt", names(1_000)));
    let output =
        site.build(&[&list], &["--json", "--memory", "64M", "--threads", "2", "--filter-bits", "8", "--layout", "sql"]);
    let report: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!((&report["shards"], &report["layout"]), (&16.into(), &"sql".into()), "{report:#}");
    assert_eq!(report["resumed_parts"], 0);
    assert!(report["rules_per_second"].as_f64().unwrap() > 0.0 && report["rss_bytes_max"].as_u64().unwrap() > 0);
    let stages = report["stages"].as_array().unwrap();
    let names: Vec<&str> = stages.iter().map(|stage| stage["stage"].as_str().unwrap()).collect();
    assert_eq!(names, ["prepare", "scan", "read", "compile", "write", "sync", "publish"]);
    let sum: f64 = stages.iter().map(|stage| stage["seconds"].as_f64().unwrap()).sum();
    assert!(sum <= report["seconds"].as_f64().unwrap());
    for (option, value, said) in [
        ("--memory", "1M", "64 MiB to 16 TiB"),
        ("--memory", "3 GB", "is no number of bytes"),
        ("--threads", "0", "use 1 to 256 threads"),
        ("--filter-bits", "9", "use 8 or 16"),
        ("--layout", "zip", "use sql or packed"),
    ] {
        let output = site.build(&[&list], &[option, value]);
        assert_eq!(output.status.code(), Some(2), "{option}");
        assert!(String::from_utf8(output.stderr).unwrap().contains(said), "{option} {value}");
    }
    let config = site.file(
        "corewall.toml",
        "store = \"store\"\n[build]\nshards = 3\nmemory = \"1 GiB\"\nthreads = 1\n[[list]]\nname = \"a\"\npath = \"list.txt\"\nformat = \"plain\"\n",
    );
    let output =
        Command::new(env!("CARGO_BIN_EXE_corewall")).args(["build", "--json", "--config", &config]).output().unwrap();
    let report: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(report["shards"], 3);
}
