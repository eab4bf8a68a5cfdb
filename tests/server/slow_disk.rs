//! A disk that does not answer: a FUSE file system holds reads of the store back until the test lets them through, and
//! whatever needs none is answered meanwhile.
//!
//! Such a file system cannot tell what is in memory, so that each lookup goes to the reader threads: a name that has not been
//! asked before stands for one whose page is not in memory. Mounting it takes root; without, nothing is tested here.

use std::collections::HashMap;
use std::ffi::OsStr;
use std::fs::{self, File};
use std::os::unix::fs::{FileExt, symlink};
use std::path::Path;
use std::sync::{Arc, Condvar, Mutex};
use std::time::{Duration, SystemTime};

use fuser::{
    BackgroundSession, Config, Errno, FileAttr, FileHandle, FileType, Filesystem, FopenFlags, Generation, INodeNo,
    LockOwner, MountOption, OpenFlags, ReplyAttr, ReplyData, ReplyEntry, ReplyOpen, Request,
};
use tempfile::TempDir;

use crate::client::{Reply, TcpClient, UdpClient, ask, framed, next_id, question};
use crate::corewall::{Server, Site};
use crate::process::PATIENCE;

/// For how long the kernel may keep what it knows of a file.
const KEPT: Duration = Duration::from_secs(3_600);

/// Whether reads are let through, and how many are held back.
#[derive(Default)]
struct Gate {
    state: Mutex<(bool, usize)>,
    changed: Condvar,
}

impl Gate {
    fn close(&self) {
        self.state.lock().unwrap().0 = true;
    }

    fn open(&self) {
        self.state.lock().unwrap().0 = false;
        self.changed.notify_all();
    }

    /// Until it is open.
    fn pass(&self) {
        let mut state = self.state.lock().unwrap();
        state.1 += 1;
        self.changed.notify_all();
        while state.0 {
            state = self.changed.wait(state).unwrap();
        }
        state.1 -= 1;
    }

    /// Until a read is held back.
    fn wait_for_a_read(&self) {
        let state = self.state.lock().unwrap();
        let (state, _) = self.changed.wait_timeout_while(state, PATIENCE, |(_, held)| *held == 0).unwrap();
        assert!(state.1 > 0, "nothing is read");
    }
}

/// Some files in one folder, read only, none of whose pages the kernel keeps.
struct Files {
    files: Vec<(String, File)>,
    gate: Arc<Gate>,
}

impl Files {
    fn attributes(&self, number: INodeNo) -> Option<FileAttr> {
        let (kind, size) = match u64::from(number) {
            1 => (FileType::Directory, 0),
            number => {
                let (_, file) = self.files.get(usize::try_from(number).ok()?.checked_sub(2)?)?;
                (FileType::RegularFile, file.metadata().ok()?.len())
            }
        };
        let time = SystemTime::UNIX_EPOCH;
        Some(FileAttr {
            ino: number,
            size,
            blocks: size.div_ceil(512),
            atime: time,
            mtime: time,
            ctime: time,
            crtime: time,
            kind,
            perm: 0o755,
            nlink: 1,
            uid: 0,
            gid: 0,
            rdev: 0,
            blksize: 4_096,
            flags: 0,
        })
    }
}

impl Filesystem for Files {
    fn lookup(&self, _: &Request, _: INodeNo, name: &OsStr, reply: ReplyEntry) {
        let place = self.files.iter().position(|(known, _)| OsStr::new(known) == name);
        match place.and_then(|place| self.attributes(INodeNo(place as u64 + 2))) {
            Some(attributes) => reply.entry(&KEPT, &attributes, Generation(0)),
            None => reply.error(Errno::ENOENT),
        }
    }

    fn getattr(&self, _: &Request, number: INodeNo, _: Option<FileHandle>, reply: ReplyAttr) {
        match self.attributes(number) {
            Some(attributes) => reply.attr(&KEPT, &attributes),
            None => reply.error(Errno::ENOENT),
        }
    }

    fn open(&self, _: &Request, _: INodeNo, _: OpenFlags, reply: ReplyOpen) {
        reply.opened(FileHandle(0), FopenFlags::FOPEN_DIRECT_IO);
    }

    fn read(
        &self,
        _: &Request,
        number: INodeNo,
        _: FileHandle,
        offset: u64,
        size: u32,
        _: OpenFlags,
        _: Option<LockOwner>,
        reply: ReplyData,
    ) {
        self.gate.pass();
        let mut octets = vec![0; size as usize];
        let file = u64::from(number).checked_sub(2).and_then(|place| self.files.get(place as usize));
        match file.map(|(_, file)| file.read_at(&mut octets, offset)) {
            Some(Ok(bytes)) => reply.data(&octets[..bytes]),
            _ => reply.error(Errno::EIO),
        }
    }
}

/// A server whose shards are read through the gate.
struct Slow {
    server: Option<Server>,
    gate: Arc<Gate>,
    _mount: BackgroundSession,
    _folder: TempDir,
    site: Site,
}

impl Slow {
    /// None, and a word, where nothing can be mounted.
    fn start(site: Site) -> Option<Slow> {
        site.build();
        let (folder, gate) = (tempfile::tempdir().unwrap(), Arc::new(Gate::default()));
        let generation = fs::canonicalize(site.path("store").join("current")).unwrap();
        let shards = shards_of(&generation);
        assert!(!shards.is_empty());
        let files = shards.iter().map(|name| (name.clone(), File::open(generation.join(name)).unwrap())).collect();
        let mut config = Config::default();
        config.mount_options = vec![MountOption::RO];
        let mount = match fuser::spawn_mount(Files { files, gate: gate.clone() }, folder.path(), &config) {
            Ok(mount) => mount,
            Err(error) => {
                eprintln!("skipped: a file system cannot be mounted here: {error}");
                return None;
            }
        };
        for name in shards {
            fs::remove_file(generation.join(&name)).unwrap();
            symlink(folder.path().join(&name), generation.join(&name)).unwrap();
        }
        let server = site.serve();
        server.wait_for_log("file system cannot tell what is in memory");
        Some(Slow { server: Some(server), gate, _mount: mount, _folder: folder, site })
    }

    fn server(&self) -> &Server {
        self.server.as_ref().unwrap()
    }

    fn stop(mut self) -> HashMap<&'static str, u64> {
        let counts = self.server.take().unwrap().stop();
        let names = ["store_reads_waited", "store_waits_over", "store_queue_full", "blocked", "cache_hits"];
        names.map(|name| (name, counts.get(name))).into()
    }
}

impl Drop for Slow {
    fn drop(&mut self) {
        // Nobody who waits for a read could end, and the file system not be taken away.
        self.gate.open();
        self.server.take();
    }
}

fn shards_of(generation: &Path) -> Vec<String> {
    let names = fs::read_dir(generation).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap());
    names.filter(|name| name.starts_with("dns_shard_") && name.ends_with(".db")).collect()
}

fn site(wait_ms_max: &str) -> Site {
    let names: String = (0..100).map(|number| format!("ads{number}.example\n")).collect();
    // What is locked in memory has no disk to wait for.
    let site = Site::new().option("store_in_memory", "\"off\"").option("store_wait_ms_max", wait_ms_max);
    let site = site.list("ads", "plain", "", &names);
    site.toml("[[record]]\nname = \"here.example\"\ntype = \"A\"\ndata = \"192.0.2.7\"\n")
}

#[test]
fn while_a_read_hangs_all_that_needs_none_is_answered_and_then_the_rest() {
    // Longer than the test waits for anything.
    let Some(slow) = Slow::start(site("10000")) else { return };
    let address = slow.server().address();
    assert!(ask(address, &question("ads1.example", "A")).is_zero(), "reads are let through");

    slow.gate.close();
    let (waiting, id) = (UdpClient::new(address), next_id());
    waiting.send(&question("ads2.example", "A").to_wire(id));
    slow.gate.wait_for_a_read();
    for _ in 0..20 {
        assert!(ask(address, &question("ads1.example", "A")).is_zero(), "it is cached");
        assert_eq!(ask(address, &question("here.example", "A")).data(), ["A 192.0.2.7"], "it is a local record");
    }
    // Over TCP too, on one connection with a question that waits.
    let mut connection = TcpClient::new(address);
    let late = next_id();
    connection.send(&framed(&question("ads3.example", "A").to_wire(late)));
    assert!(connection.ask(&question("ads1.example", "A")).is_zero());

    slow.gate.open();
    let answer = Reply::parse(&waiting.receive());
    assert!(answer.id == id && answer.is_zero(), "{answer:?}");
    let answer = connection.reply();
    assert!(answer.id == late && answer.is_zero(), "{answer:?}");
    let counts = slow.stop();
    assert_eq!(counts["store_waits_over"], 0, "{counts:?}");
    assert!(counts["store_reads_waited"] >= 3 && counts["cache_hits"] >= 21, "{counts:?}");
}

#[test]
fn a_read_that_does_not_end_is_answered_as_on_store_error_says_and_harms_nothing_later() {
    let Some(slow) = Slow::start(site("30")) else { return };
    let address = slow.server().address();
    slow.gate.close();
    for name in ["ads4.example", "ads4.example", "ads5.example"] {
        let reply = ask(address, &question(name, "A"));
        assert_eq!((reply.rcode, reply.ede.as_ref().map(|(code, _)| *code)), (2, Some(0)), "{reply:?}");
    }
    slow.gate.open();
    // What was read too late is of no use; the questions are asked again, and by then nothing hangs.
    let blocks = |name: &str| ask(address, &question(name, "A")).is_zero();
    for name in ["ads4.example", "ads5.example", "ads6.example"] {
        assert!((0..1_000).any(|_| blocks(name)), "{name}");
    }
    let counts = slow.stop();
    assert!(counts["store_waits_over"] >= 3, "{counts:?}");
}

#[test]
fn what_a_generation_was_being_read_for_is_asked_of_the_next_one() {
    let Some(slow) = Slow::start(site("10000")) else { return };
    let address = slow.server().address();
    slow.gate.close();
    let waiting = UdpClient::new(address);
    waiting.send(&question("ads7.example", "A").to_wire(next_id()));
    slow.gate.wait_for_a_read();
    // The next generation lies on a disk that answers.
    slow.site.build();
    let said = slow.server().reload();
    assert!(said.contains("generation 2"), "{said}");
    assert!(Reply::parse(&waiting.receive()).is_zero(), "though the old one still hangs");
    slow.gate.open();
    let counts = slow.stop();
    assert!(counts["store_reads_waited"] >= 1 && counts["store_waits_over"] == 0, "{counts:?}");
}
