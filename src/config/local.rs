//! What is answered without asking anybody: `[[record]]`, hosts files, and the reverse records of both.

use std::collections::HashSet;
use std::io;
use std::net::IpAddr;
use std::path::{Path, PathBuf};

use corewall_sharding::name::Name;
use corewall_sharding::rule::AnswerRecord;
use domain::base::Rtype;
use serde::Deserialize;

use super::error::{Place, Problem};
use super::{Config, value};
use crate::decide::local::Served;
use crate::lists::local_hosts::{Host, HostsFile};
use crate::{limits, rdata};

/// A local record.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Record {
    /// Its owner.
    #[serde(deserialize_with = "value::name")]
    pub name: Name,
    /// Type mnemonic, or `TYPE123`.
    #[serde(rename = "type")]
    pub rtype: String,
    /// RDATA in presentation format (RFC 1035 §5.1).
    pub data: String,
    /// Seconds.
    #[serde(default = "Record::ttl_s_default", deserialize_with = "value::ttl_s")]
    pub ttl_s: u32,
}

impl Record {
    fn ttl_s_default() -> u32 {
        300
    }
}

/// The hosts files of a configuration as they were read last.
#[derive(Clone, Debug, Default)]
pub struct Hosts {
    files: Vec<HostsFile>,
}

/// A hosts file cannot be read.
#[derive(Debug)]
pub struct HostsError {
    /// Its place in `hosts_files`.
    pub index: usize,
    /// The file.
    pub path: PathBuf,
    /// Why.
    pub source: io::Error,
}

impl HostsError {
    /// What is wrong and what to do, without the place in the configuration.
    pub fn message(&self) -> String {
        format!("{}: cannot read: {}; check the path, or remove it here", self.path.display(), self.source)
    }
}

impl Hosts {
    /// Reads the files.
    ///
    /// # Errors
    /// One of them cannot be read, or is too large.
    pub fn read(paths: &[PathBuf]) -> Result<Hosts, HostsError> {
        Self::read_again(&Hosts::default(), paths, &mut |_| {})
    }

    /// The same; a file that cannot be read now keeps what it said in `before`, and `kept` is told.
    ///
    /// # Errors
    /// A file that was not read before cannot be read, or is too large.
    pub fn read_again(
        before: &Hosts,
        paths: &[PathBuf],
        kept: &mut dyn FnMut(&HostsError),
    ) -> Result<Hosts, HostsError> {
        let read = |(index, path): (usize, &PathBuf)| {
            HostsFile::read(path).or_else(|source| {
                let error = HostsError { index, path: path.clone(), source };
                let Some(old) = before.file(path) else { return Err(error) };
                kept(&error);
                Ok(old.clone())
            })
        };
        Ok(Hosts { files: paths.iter().enumerate().map(read).collect::<Result<_, _>>()? })
    }

    fn file(&self, path: &Path) -> Option<&HostsFile> {
        self.files.iter().find(|file| file.path == path)
    }

    /// What each file said, in the order of the configuration.
    pub fn files(&self) -> &[HostsFile] {
        &self.files
    }

    fn hosts(&self) -> impl Iterator<Item = &Host> {
        self.files.iter().flat_map(|file| &file.hosts)
    }
}

impl Config {
    /// The local records in wire format: those of the configuration, then those of hosts files for names and types that have
    /// none there, then the reverse records of both.
    pub fn local_records(&self, hosts: &Hosts) -> Vec<(Name, AnswerRecord)> {
        // `check` has parsed each of them before: none is left out.
        let parsed = |record: &Record| {
            let (rtype, rdata) = rdata::parse(&record.rtype, &record.data).ok()?;
            Some((record.name, AnswerRecord { rtype, ttl_s: Some(record.ttl_s), rdata }))
        };
        let mut records: Vec<(Name, AnswerRecord)> = self.record.iter().filter_map(parsed).collect();
        let types: HashSet<(Name, u16)> = records.iter().map(|(name, record)| (*name, record.rtype)).collect();
        for host in hosts.hosts() {
            let record = address_record(host.address, self.hosts_ttl_s);
            let is_free = |name: &Name| {
                !types.contains(&(*name, record.rtype)) && !types.contains(&(*name, Rtype::CNAME.to_int()))
            };
            records.extend(host.names.iter().filter(|name| is_free(name)).map(|name| (*name, record.clone())));
        }
        if self.reverse_records {
            let reverse = self.reverse(&records, hosts);
            records.extend(reverse);
        }
        records
    }

    /// What is answered locally beside records.
    pub(super) fn served_locally(&self) -> Served {
        Served {
            special_use_names: self.special_use_names,
            reverse_zones: self.local_reverse_zones,
            canary_domains: self.canary_domains,
        }
    }

    /// A PTR for each address that has none: to the first name that it is configured for, else to the canonical name of the
    /// first line of a hosts file. Not for wildcards, which are no names, nor for addresses that are the same everywhere.
    fn reverse(&self, records: &[(Name, AnswerRecord)], hosts: &Hosts) -> Vec<(Name, AnswerRecord)> {
        let configured = records.iter().take(self.record.len()).filter_map(|(name, record)| {
            let address = address_of(record)?;
            (name.labels().next() != Some(b"*")).then_some((address, *name, record.ttl_s))
        });
        let of_hosts =
            hosts.hosts().filter_map(|host| Some((host.address, *host.names.first()?, Some(self.hosts_ttl_s))));
        let points = |record: &AnswerRecord| [Rtype::PTR, Rtype::CNAME].map(Rtype::to_int).contains(&record.rtype);
        let taken = records.iter().filter(|(_, record)| points(record)).map(|(name, _)| *name);
        let mut taken: HashSet<Name> = taken.collect();
        configured
            .chain(of_hosts)
            .filter(|(address, ..)| !(address.is_unspecified() || address.is_loopback() || address.is_multicast()))
            .filter_map(|(address, name, ttl_s)| {
                let owner = reverse_name(address)?;
                let rdata = name.as_wire().into();
                taken.insert(owner).then_some((owner, AnswerRecord { rtype: Rtype::PTR.to_int(), ttl_s, rdata }))
            })
            .collect()
    }

    /// The first problem of the options that this file reads.
    pub(super) fn check_local(&self) -> Result<(), Problem> {
        use Place::{Index, Key};
        let mut owners: HashSet<(Name, bool)> = HashSet::new();
        for (place, record) in self.record.iter().enumerate() {
            let here = |key| vec![Key("record"), Index(place), Key(key)];
            let (rtype, _) =
                check_record(&record.rtype, &record.data).map_err(|message| Problem { path: here("data"), message })?;
            let name = record.name;
            if is_meta(rtype) {
                let message = format!("`{}` is a type of questions, not of records; choose another", record.rtype);
                return Err(Problem { path: here("type"), message });
            }
            let is_cname = rtype == Rtype::CNAME.to_int();
            // RFC 1034 §3.6.2.
            let is_double = owners.contains(&(name, true)) || (is_cname && owners.contains(&(name, false)));
            if is_double {
                let message =
                    format!("`{name}` has a CNAME and other records; a CNAME stands alone: remove one of them");
                return Err(Problem { path: here("type"), message });
            }
            owners.insert((name, is_cname));
        }
        let bounds = [
            ("hosts_files", self.hosts_files.len(), limits::HOSTS_FILES_MAX),
            ("rebinding_exceptions", self.rebinding_exceptions.len(), limits::REBINDING_EXCEPTIONS_MAX),
        ];
        match bounds.into_iter().find(|(_, count, max)| count > max) {
            Some((key, count, max)) => {
                let message = format!("{count} entries are too many; use at most {max}");
                Err(Problem { path: vec![Key(key)], message })
            }
            None => Ok(()),
        }
    }
}

/// Reads a record in presentation format.
pub(super) fn check_record(rtype: &str, data: &str) -> Result<(u16, Box<[u8]>), String> {
    rdata::parse(rtype, data)
        .map_err(|reason| format!("`{rtype} {data}` is no record ({reason}); write type and data as in a zone file"))
}

/// Types that exist in messages only (RFC 6895 §3.1).
fn is_meta(rtype: u16) -> bool {
    matches!(rtype, 0 | 41 | 128..=255)
}

fn address_record(address: IpAddr, ttl_s: u32) -> AnswerRecord {
    let (rtype, rdata): (Rtype, Box<[u8]>) = match address {
        IpAddr::V4(v4) => (Rtype::A, v4.octets().into()),
        IpAddr::V6(v6) => (Rtype::AAAA, v6.octets().into()),
    };
    AnswerRecord { rtype: rtype.to_int(), ttl_s: Some(ttl_s), rdata }
}

fn address_of(record: &AnswerRecord) -> Option<IpAddr> {
    match Rtype::from_int(record.rtype) {
        Rtype::A => <[u8; 4]>::try_from(&*record.rdata).ok().map(IpAddr::from),
        Rtype::AAAA => <[u8; 16]>::try_from(&*record.rdata).ok().map(IpAddr::from),
        _ => None,
    }
}

/// The name that an address is looked up by (RFC 1035 §3.5, RFC 3596 §2.5).
fn reverse_name(address: IpAddr) -> Option<Name> {
    let text = match address {
        IpAddr::V4(v4) => {
            let [a, b, c, d] = v4.octets();
            format!("{d}.{c}.{b}.{a}.in-addr.arpa")
        }
        IpAddr::V6(v6) => {
            let nibbles = v6.octets().into_iter().rev().map(|octet| format!("{:x}.{:x}.", octet & 0xf, octet >> 4));
            format!("{}ip6.arpa", nibbles.collect::<String>())
        }
    };
    Name::from_text(&text).ok()
}
