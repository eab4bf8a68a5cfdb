//! Hosts files as operators write them for their own network: addresses with their names, to be answered.
//!
//! Not a list: what stands here is no rule but an answer. Lines about the machine itself and its networks (loopback and
//! unspecified addresses, broadcast, multicast, `localhost` and its kin) are passed over, for no client can use them. A line
//! that cannot be read is counted and told, and never stops anything.

use std::fmt;
use std::io::{self, BufReader, Read};
use std::net::IpAddr;
use std::path::{Path, PathBuf};

use corewall_sharding::name::Name;

use super::input::{self, Line, Lines};
use super::names::{is_local_name, is_sinkhole, read_address, read_name};
use super::report::RefuseReason;
use crate::limits::{HOSTS_FILE_BYTES_MAX, HOSTS_NAMES_MAX, HOSTS_REFUSED_SHOWN_MAX};

/// What one hosts file says.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct HostsFile {
    /// The file.
    pub path: PathBuf,
    /// Addresses in the order of the file.
    pub hosts: Vec<Host>,
    /// Lines and names that could not be read.
    pub refused: usize,
    /// The first of them, at most [`HOSTS_REFUSED_SHOWN_MAX`].
    pub refused_first: Vec<RefusedLine>,
    /// Lines and names passed over.
    pub skipped: usize,
}

/// One line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Host {
    /// Its address.
    pub address: IpAddr,
    /// Its names; the first one is the canonical one. Never empty.
    pub names: Vec<Name>,
}

/// What could not be read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RefusedLine {
    /// Line number from 1.
    pub line: u64,
    /// Why.
    pub reason: RefuseReason,
}

impl fmt::Display for RefusedLine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "line {}: {}", self.line, self.reason)
    }
}

impl HostsFile {
    /// Reads a file; it may be compressed as lists may.
    ///
    /// # Errors
    /// It cannot be read, or holds more than [`HOSTS_FILE_BYTES_MAX`] bytes or [`HOSTS_NAMES_MAX`] names.
    pub fn read(path: &Path) -> io::Result<HostsFile> {
        let mut file = HostsFile { path: path.to_path_buf(), ..HostsFile::default() };
        // One byte more than may be tells a file that is too large.
        let mut bounded = input::open(path)?.take(HOSTS_FILE_BYTES_MAX + 1);
        let mut reader = BufReader::new(&mut bounded);
        let mut lines = Lines::new(&mut reader);
        let mut names = 0;
        while let Some((number, line)) = lines.next()? {
            let hosts = file.hosts.len();
            match line {
                Line::Whole(line) => file.line(number, line),
                Line::TooLong(_) => file.refuse(number, RefuseReason::LineTooLong),
            }
            names += file.hosts.iter().skip(hosts).map(|host| host.names.len()).sum::<usize>();
            if names > HOSTS_NAMES_MAX {
                return Err(too_large(&format!("more than {HOSTS_NAMES_MAX} names")));
            }
        }
        if bounded.limit() == 0 {
            return Err(too_large(&format!("more than {} MiB", HOSTS_FILE_BYTES_MAX >> 20)));
        }
        Ok(file)
    }

    fn line(&mut self, number: u64, line: &[u8]) {
        let text = line.split(|&octet| octet == b'#').next().unwrap_or_default();
        let mut words = text.split(u8::is_ascii_whitespace).filter(|word| !word.is_empty());
        let Some(first) = words.next() else { return };
        let Some(address) = read_address(first) else { return self.refuse(number, RefuseReason::BadAddress) };
        if is_sinkhole(address) || address.is_multicast() {
            self.skipped += 1;
            return;
        }
        let mut host = Host { address, names: Vec::new() };
        let mut is_bare = true;
        for word in words {
            is_bare = false;
            if is_local_name(word) {
                self.skipped += 1;
                continue;
            }
            match read_name(word) {
                Ok(name) => host.names.push(name),
                Err(reason) => self.refuse(number, reason),
            }
        }
        if is_bare {
            self.refuse(number, RefuseReason::BadSyntax);
        }
        if !host.names.is_empty() {
            self.hosts.push(host);
        }
    }

    fn refuse(&mut self, line: u64, reason: RefuseReason) {
        self.refused += 1;
        if self.refused_first.len() < HOSTS_REFUSED_SHOWN_MAX {
            self.refused_first.push(RefusedLine { line, reason });
        }
    }
}

fn too_large(what: &str) -> io::Error {
    io::Error::new(
        io::ErrorKind::FileTooLarge,
        format!("it holds {what}, which is no hosts file of a network; name block lists in [[list]]"),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> io::Result<HostsFile> {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("hosts");
        std::fs::write(&path, text).unwrap();
        HostsFile::read(&path)
    }

    #[test]
    fn each_line_gives_its_address_with_all_its_names() {
        let file = read(
            "127.0.0.1 localhost myhost\n::1 ip6-localhost\nff02::1 ip6-allnodes\n255.255.255.255 broadcasthost\n\
             # a comment\n\n192.0.2.1\tNAS.lan nas  # in the cellar\n2001:db8::1%eth0 nas.lan\r\n10.0.0.7 localhost tv\n",
        )
        .unwrap();
        let shown: Vec<String> = file
            .hosts
            .iter()
            .map(|host| {
                let names: Vec<String> = host.names.iter().map(Name::to_string).collect();
                format!("{} {}", host.address, names.join(" "))
            })
            .collect();
        assert_eq!(shown, ["192.0.2.1 nas.lan nas", "2001:db8::1 nas.lan", "10.0.0.7 tv"]);
        assert_eq!((file.refused, file.skipped), (0, 5));
    }

    #[test]
    fn what_cannot_be_read_is_told_with_its_line_and_stops_nothing() {
        let file = read("300.1.1.1 a\n10.0.0.1\n10.0.0.2 a..b ok\n10.0.0.3 good\nnas 10.0.0.4\n").unwrap();
        let told: Vec<String> = file.refused_first.iter().map(RefusedLine::to_string).collect();
        assert_eq!(file.refused, 4);
        assert_eq!(told[0], "line 1: not an address");
        assert!(told[1].starts_with("line 2: ") && told[2].starts_with("line 3: "), "{told:?}");
        assert_eq!(told[3], "line 5: not an address");
        let names: Vec<String> = file.hosts.iter().flat_map(|host| &host.names).map(Name::to_string).collect();
        assert_eq!(names, ["ok", "good"]);
        let many = read(&"x y\n".repeat(HOSTS_REFUSED_SHOWN_MAX + 5)).unwrap();
        assert_eq!((many.refused, many.refused_first.len()), (HOSTS_REFUSED_SHOWN_MAX + 5, HOSTS_REFUSED_SHOWN_MAX));
    }

    #[test]
    fn too_many_names_and_too_many_bytes_are_an_error_that_says_so() {
        let fits: String =
            (0..HOSTS_NAMES_MAX / 8).map(|n| format!("10.0.0.1{}\n", format!(" n{n}").repeat(8))).collect();
        assert_eq!(read(&fits).unwrap().hosts.len(), HOSTS_NAMES_MAX / 8);
        let commented = fits.replace('\n', "\n# what is no name does not count\n");
        assert!(read(&commented).is_ok());
        assert!(
            read(&format!("{fits}10.0.0.2 x\n")).unwrap_err().to_string().contains("names, which is no hosts file")
        );
        let bytes_max = usize::try_from(HOSTS_FILE_BYTES_MAX).unwrap();
        let comments = format!("{}\n", "#".repeat(1_023)).repeat(bytes_max / 1_024);
        assert!(read(&comments).is_ok());
        assert!(read(&format!("{comments}#")).unwrap_err().to_string().contains("more than 16 MiB"));
    }
}
