//! Single values of the configuration, checked as they are read, so that TOML knows the line of each error.
//!
//! Messages are written as "what is wrong; what to do", which `error.rs` relies on.

use std::fmt;
use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::path::PathBuf;

use corewall_sharding::build::SHARDS_MAX;
use corewall_sharding::name::Name;
use ipnet::IpNet;
use serde::de::{self, Deserializer, SeqAccess, Visitor};
use serde::{Deserialize, Serialize};

use crate::decide::cookie::issued::Secret;
use crate::limits;

/// Port of a DNS server that is named without one.
const DNS_PORT: u16 = 53;

/// The cores that get a worker each.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Cores {
    /// All that the process may run on.
    Auto,
    /// These, by the numbers that the kernel gives them.
    These(Vec<usize>),
}

impl std::str::FromStr for Cores {
    type Err = String;

    /// Reads `auto`, `0-7` or `0,2,4-5`.
    fn from_str(text: &str) -> Result<Self, String> {
        if text.trim() == "auto" {
            return Ok(Self::Auto);
        }
        let unreadable = || format!("`{text}` names no cores; write \"auto\", \"0-7\", \"0,2\" or a list of numbers");
        let mut cores = Vec::new();
        for part in text.split(',') {
            let (first, last) = part.split_once('-').unwrap_or((part, part));
            let first: usize = first.trim().parse().map_err(|_| unreadable())?;
            let last: usize = last.trim().parse().map_err(|_| unreadable())?;
            if first > last {
                return Err(format!("the range `{}` runs backwards; write \"{last}-{first}\"", part.trim()));
            }
            if last >= limits::CORES_MAX {
                return Err(core_too_high(last));
            }
            cores.extend(first..=last);
        }
        Self::from_numbers(cores)
    }
}

impl Cores {
    /// The named cores; none for `auto`.
    pub fn named(&self) -> Option<&[usize]> {
        match self {
            Self::Auto => None,
            Self::These(cores) => Some(cores),
        }
    }

    fn from_numbers(cores: Vec<usize>) -> Result<Self, String> {
        if cores.is_empty() {
            return Err("names no cores; name at least one, or write \"auto\"".to_owned());
        }
        if let Some(&core) = cores.iter().find(|&&core| core >= limits::CORES_MAX) {
            return Err(core_too_high(core));
        }
        match cores.iter().enumerate().find(|(place, core)| cores[..*place].contains(core)) {
            Some((_, core)) => Err(format!("core {core} is named twice; name each core once")),
            None => Ok(Self::These(cores)),
        }
    }
}

fn core_too_high(core: usize) -> String {
    format!("core {core} is out of bounds; use numbers from 0 to {}", limits::CORES_MAX - 1)
}

impl<'de> Deserialize<'de> for Cores {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct CoresVisitor;
        impl<'de> Visitor<'de> for CoresVisitor {
            type Value = Cores;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("\"auto\", a range such as \"0-7\", or a list of core numbers")
            }

            fn visit_str<E: de::Error>(self, text: &str) -> Result<Cores, E> {
                text.parse().map_err(E::custom)
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Cores, A::Error> {
                let mut cores = Vec::new();
                while let Some(core) = seq.next_element()? {
                    cores.push(core);
                }
                Cores::from_numbers(cores).map_err(de::Error::custom)
            }
        }
        deserializer.deserialize_any(CoresVisitor)
    }
}

/// 128 bits that cookies for clients are made with. Never shown, not even in an error.
#[derive(Clone, PartialEq, Eq)]
pub struct CookieSecret([u8; 16]);

impl fmt::Debug for CookieSecret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("CookieSecret")
    }
}

impl CookieSecret {
    /// One that nobody knows.
    pub fn random() -> Self {
        Self(rand::random())
    }

    /// To make cookies with.
    pub fn secret(&self) -> Secret {
        Secret::new(&self.0)
    }
}

impl<'de> Deserialize<'de> for CookieSecret {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        let is_hex = text.len() == 32 && text.bytes().all(|digit| digit.is_ascii_hexdigit());
        let key = u128::from_str_radix(&text, 16).ok().filter(|_| is_hex);
        key.map(|key| Self(key.to_be_bytes())).ok_or_else(|| {
            de::Error::custom("is no secret of 32 hexadecimal digits; make one with `openssl rand -hex 16`")
        })
    }
}

/// The least severe log lines that are written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LogLevel {
    /// What needs an operator.
    Error,
    /// What may need one.
    Warn,
    /// Start, reload and end.
    #[default]
    Info,
    /// For a closer look.
    Debug,
    /// Everything.
    Trace,
}

impl LogLevel {
    /// As `tracing` filters by.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Error => "error",
            Self::Warn => "warn",
            Self::Info => "info",
            Self::Debug => "debug",
            Self::Trace => "trace",
        }
    }
}

/// What the `block_wildcard` rows of a dnsmasq-sqlite database become.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub enum WildcardAction {
    /// Blocked, answered as the block mode says.
    #[default]
    Block,
    /// Forwarded to the `block` upstream group, as one generation of that software did.
    ForwardBlock,
}

/// Reads `1.1.1.1`, `1.1.1.1:53`, `1.1.1.1#53`, `::1`, `[::1]:53`, `::1#53` or `[::1]#53`.
///
/// # Errors
/// What is wrong and what to write instead.
pub fn parse_server(text: &str) -> Result<SocketAddr, String> {
    let unreadable =
        || format!("`{text}` is no server address; write it as 1.1.1.1, 1.1.1.1:53 or [2606:4700::1111]:53");
    let server = if let Some((host, port)) = text.split_once('#') {
        let host = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host);
        SocketAddr::new(host.parse().map_err(|_| unreadable())?, port.parse().map_err(|_| unreadable())?)
    } else if let Some(host) = text.strip_prefix('[').and_then(|host| host.strip_suffix(']')) {
        SocketAddr::new(host.parse::<Ipv6Addr>().map_err(|_| unreadable())?.into(), DNS_PORT)
    } else if let Ok(host) = text.parse::<IpAddr>() {
        SocketAddr::new(host, DNS_PORT)
    } else {
        text.parse().map_err(|_| unreadable())?
    };
    if server.port() == 0 {
        return Err(format!("`{text}` has port 0; write the server's port, usually 53"));
    }
    if server.ip().is_unspecified() || server.ip().is_multicast() {
        return Err(format!("`{text}` is no address of one server; write the server's own address"));
    }
    Ok(server)
}

/// A list of upstream servers, at most [`limits::GROUP_SERVERS_MAX`].
pub(super) fn servers<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<SocketAddr>, D::Error> {
    let servers = parsed(deserializer, parse_server)?;
    if servers.len() > limits::GROUP_SERVERS_MAX {
        return Err(de::Error::custom(format!(
            "{} servers are too many; name at most {}",
            servers.len(),
            limits::GROUP_SERVERS_MAX
        )));
    }
    Ok(servers)
}

/// Servers asked at once.
pub(super) fn parallel<'de, D: Deserializer<'de>>(deserializer: D) -> Result<u8, D::Error> {
    let servers = between(deserializer, 2, u64::from(limits::UPSTREAM_PARALLEL_MAX), "servers")?;
    Ok(u8::try_from(servers).unwrap_or(limits::UPSTREAM_PARALLEL_MAX))
}

/// Milliseconds until another server is asked too; 0 is never.
pub(super) fn hedge_ms<'de, D: Deserializer<'de>>(deserializer: D) -> Result<u64, D::Error> {
    let (min, max) = (limits::UPSTREAM_HEDGE_MS_MIN, limits::UPSTREAM_TIMEOUT_MS_MAX);
    match i64::deserialize(deserializer)? {
        0 => Ok(0),
        value => match u64::try_from(value) {
            Ok(value) if (min..=max).contains(&value) => Ok(value),
            _ => Err(de::Error::custom(format!(
                "{value} is out of bounds; use {min} to {max} milliseconds, or 0 to ask no other server"
            ))),
        },
    }
}

/// Bits of an IPv4 address that an upstream may be told.
pub(super) fn client_subnet_v4<'de, D: Deserializer<'de>>(deserializer: D) -> Result<u8, D::Error> {
    bits(deserializer, limits::NETWORK_V4_BITS_MAX)
}

/// The same for IPv6.
pub(super) fn client_subnet_v6<'de, D: Deserializer<'de>>(deserializer: D) -> Result<u8, D::Error> {
    bits(deserializer, limits::NETWORK_V6_BITS_MAX)
}

fn bits<'de, D: Deserializer<'de>>(deserializer: D, max: u8) -> Result<u8, D::Error> {
    let bits = between(deserializer, 0, u64::from(max), "bits")?;
    Ok(u8::try_from(bits).unwrap_or(max))
}

/// Listen addresses: at least one, each with its port, none twice.
pub(super) fn listen<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<SocketAddr>, D::Error> {
    let addresses = parsed(deserializer, |text| {
        let address: SocketAddr = text
            .parse()
            .map_err(|_| format!("`{text}` is no address with a port; write it as 127.0.0.1:5353 or [::1]:5353"))?;
        match address.port() {
            // Each worker binds for itself: the kernel would give each of them another port.
            0 => Err(format!("`{text}` has port 0; write the port to listen on, usually 53")),
            _ => Ok(address),
        }
    })?;
    if addresses.is_empty() || addresses.len() > limits::LISTEN_ADDRESSES_MAX {
        return Err(de::Error::custom(format!(
            "{} listen addresses; name from 1 to {}",
            addresses.len(),
            limits::LISTEN_ADDRESSES_MAX
        )));
    }
    match addresses.iter().enumerate().find(|(place, address)| addresses[..*place].contains(address)) {
        Some((_, address)) => Err(de::Error::custom(format!("{address} is named twice; name each address once"))),
        None => Ok(addresses),
    }
}

/// Addresses and prefixes; an address alone is a prefix of full length.
pub(super) fn networks<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<IpNet>, D::Error> {
    parsed(deserializer, |text| {
        text.parse::<IpNet>().map(|net| net.trunc()).or_else(|_| text.parse::<IpAddr>().map(IpNet::from)).map_err(
            |_| format!("`{text}` is no address or prefix; write it as 192.0.2.1, 192.0.2.0/24 or 2001:db8::/32"),
        )
    })
}

/// A domain name; one that is not ASCII is converted by IDNA.
pub(super) fn name<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Name, D::Error> {
    parse_name(&String::deserialize(deserializer)?).map_err(de::Error::custom)
}

/// Domain names.
pub(super) fn names<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<Name>, D::Error> {
    parsed(deserializer, parse_name)
}

/// Zones: one or a list, at least one.
pub(super) fn zones<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<Name>, D::Error> {
    let names = parsed(deserializer, parse_name)?;
    match names.len() {
        1..=limits::FORWARD_ZONES_MAX => Ok(names),
        count => Err(de::Error::custom(format!("{count} zones; name from 1 to {}", limits::FORWARD_ZONES_MAX))),
    }
}

fn parse_name(text: &str) -> Result<Name, String> {
    let ascii = match text.is_ascii() {
        true => Ok(text.to_owned()),
        false => idna::domain_to_ascii(text).map_err(|_| "not a valid internationalised name".to_owned()),
    };
    ascii
        .and_then(|ascii| Name::from_text(&ascii).map_err(|error| error.to_string()))
        .map_err(|error| format!("`{text}` is no domain name ({error}); correct it"))
}

/// Paths of files.
pub(super) fn paths<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<PathBuf>, D::Error> {
    parsed(deserializer, |text| Ok(PathBuf::from(text)))
}

/// What a server tells of itself: one character-string (RFC 4892).
pub(super) fn chaos_text<'de, D: Deserializer<'de>>(deserializer: D) -> Result<String, D::Error> {
    let text = String::deserialize(deserializer)?;
    if text.len() > limits::CHAOS_TEXT_BYTES_MAX {
        let message = format!("the text has {} bytes; use at most {}", text.len(), limits::CHAOS_TEXT_BYTES_MAX);
        return Err(de::Error::custom(message));
    }
    Ok(text)
}

/// A path; none when it is empty.
pub(super) fn path_or_none<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<PathBuf>, D::Error> {
    let path = PathBuf::deserialize(deserializer)?;
    Ok(Some(path).filter(|path| !path.as_os_str().is_empty()))
}

/// Seconds that something may be cached.
pub(super) fn ttl_s<'de, D: Deserializer<'de>>(deserializer: D) -> Result<u32, D::Error> {
    between(deserializer, 0, u64::from(limits::TTL_S_MAX), "seconds").map(narrow)
}

pub(super) fn ttl_s_optional<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<u32>, D::Error> {
    ttl_s(deserializer).map(Some)
}

/// Seconds that a failure is cached.
pub(super) fn failure_ttl_s<'de, D: Deserializer<'de>>(deserializer: D) -> Result<u32, D::Error> {
    between(deserializer, u64::from(limits::FAILURE_TTL_S_MIN), u64::from(limits::FAILURE_TTL_S_MAX), "seconds")
        .map(narrow)
}

/// Seconds past its end that an answer is kept.
pub(super) fn stale_window_s<'de, D: Deserializer<'de>>(deserializer: D) -> Result<u32, D::Error> {
    between(deserializer, 1, u64::from(limits::STALE_WINDOW_S_MAX), "seconds").map(narrow)
}

/// Seconds that a client may keep an expired answer.
pub(super) fn stale_ttl_s<'de, D: Deserializer<'de>>(deserializer: D) -> Result<u32, D::Error> {
    between(deserializer, 1, u64::from(limits::STALE_TTL_S_MAX), "seconds").map(narrow)
}

/// Milliseconds that a client waits before it gets an expired answer.
pub(super) fn stale_client_timeout_ms<'de, D: Deserializer<'de>>(deserializer: D) -> Result<u64, D::Error> {
    between(deserializer, 0, limits::STALE_CLIENT_TIMEOUT_MS_MAX, "milliseconds")
}

/// The last part of a TTL.
pub(super) fn prefetch_percent<'de, D: Deserializer<'de>>(deserializer: D) -> Result<u32, D::Error> {
    between(deserializer, 1, 90, "percent").map(narrow)
}

/// Threads of each worker that read what is not in memory.
pub(super) fn store_readers<'de, D: Deserializer<'de>>(deserializer: D) -> Result<usize, D::Error> {
    between(deserializer, 0, limits::STORE_READERS_MAX as u64, "threads").map(|count| count as usize)
}

/// Milliseconds that a question may wait for the store.
pub(super) fn store_wait_ms_max<'de, D: Deserializer<'de>>(deserializer: D) -> Result<u64, D::Error> {
    between(deserializer, 1, limits::STORE_WAIT_MS_MAX, "milliseconds")
}

pub(super) fn upstream_timeout_ms<'de, D: Deserializer<'de>>(deserializer: D) -> Result<u64, D::Error> {
    between(deserializer, limits::UPSTREAM_TIMEOUT_MS_MIN, limits::UPSTREAM_TIMEOUT_MS_MAX, "milliseconds")
}

pub(super) fn tcp_connections<'de, D: Deserializer<'de>>(deserializer: D) -> Result<usize, D::Error> {
    between(deserializer, 1, limits::TCP_CONNECTIONS_MAX as u64, "connections").map(|count| count as usize)
}

pub(super) fn tcp_idle_ms<'de, D: Deserializer<'de>>(deserializer: D) -> Result<u64, D::Error> {
    between(deserializer, limits::TCP_IDLE_MS_MIN, limits::TCP_IDLE_MS_MAX, "milliseconds")
}

pub(super) fn tcp_pipeline<'de, D: Deserializer<'de>>(deserializer: D) -> Result<usize, D::Error> {
    between(deserializer, 1, limits::TCP_PIPELINE_MAX as u64, "queries").map(|count| count as usize)
}

pub(super) fn tcp_lifetime_ms<'de, D: Deserializer<'de>>(deserializer: D) -> Result<u64, D::Error> {
    between(deserializer, limits::TCP_IDLE_MS_MIN, limits::TCP_LIFETIME_MS_MAX, "milliseconds")
}

pub(super) fn shards<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<u16>, D::Error> {
    let shards = auto_or(deserializer, "a number of shards", parse_number)?;
    bounded(shards, 1, u64::from(SHARDS_MAX), "shards").map(|shards| shards.and_then(|count| u16::try_from(count).ok()))
}

pub(super) fn build_threads<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<usize>, D::Error> {
    let threads = auto_or(deserializer, "a number of threads", parse_number)?;
    bounded(threads, 1, limits::BUILD_THREADS_MAX as u64, "threads").map(|threads| threads.map(|count| count as usize))
}

pub(super) fn build_memory<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<u64>, D::Error> {
    let bytes = auto_or(deserializer, "a number of bytes, or text such as \"3 GiB\"", parse_bytes)?;
    bytes.map(check_build_memory).transpose().map_err(de::Error::custom)
}

fn check_build_memory(bytes: u64) -> Result<u64, String> {
    let (min, max) = (limits::BUILD_MEMORY_BYTES_MIN, limits::BUILD_MEMORY_BYTES_MAX);
    if (min..=max).contains(&bytes) {
        return Ok(bytes);
    }
    Err(format!("{bytes} bytes are out of bounds; use {} MiB to {} TiB", min >> 20, max >> 40))
}

/// Reads the memory that a build may use, as the command line has it.
pub fn parse_build_memory(text: &str) -> Result<u64, String> {
    parse_bytes(text).and_then(check_build_memory)
}

pub(super) fn filter_bits<'de, D: Deserializer<'de>>(deserializer: D) -> Result<u8, D::Error> {
    match i64::deserialize(deserializer)? {
        8 => Ok(8),
        16 => Ok(16),
        bits => Err(de::Error::custom(format!("{bits} bits are not to be had; use 8 or 16"))),
    }
}

/// `auto` is none.
pub(super) fn places<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<bool>, D::Error> {
    struct PlacesVisitor;
    impl Visitor<'_> for PlacesVisitor {
        type Value = Option<bool>;

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("\"auto\", true or false")
        }

        fn visit_bool<E: de::Error>(self, value: bool) -> Result<Option<bool>, E> {
            Ok(Some(value))
        }

        fn visit_str<E: de::Error>(self, text: &str) -> Result<Option<bool>, E> {
            if text == "auto" { Ok(None) } else { Err(E::invalid_value(de::Unexpected::Str(text), &self)) }
        }
    }
    deserializer.deserialize_any(PlacesVisitor)
}

fn bounded<E: de::Error>(value: Option<u64>, min: u64, max: u64, unit: &str) -> Result<Option<u64>, E> {
    match value {
        Some(value) if !(min..=max).contains(&value) => {
            Err(E::custom(format!("{value} is out of bounds; use {min} to {max} {unit}, or \"auto\"")))
        }
        value => Ok(value),
    }
}

fn parse_number(text: &str) -> Result<u64, String> {
    text.parse().map_err(|_| format!("`{text}` is no number; write a number, or \"auto\""))
}

/// `auto` is none; a number, or text that `parse` reads.
fn auto_or<'de, D: Deserializer<'de>>(
    deserializer: D,
    what: &'static str,
    parse: fn(&str) -> Result<u64, String>,
) -> Result<Option<u64>, D::Error> {
    struct AutoVisitor(&'static str, fn(&str) -> Result<u64, String>);
    impl Visitor<'_> for AutoVisitor {
        type Value = Option<u64>;

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            write!(f, "\"auto\" or {}", self.0)
        }

        fn visit_i64<E: de::Error>(self, number: i64) -> Result<Option<u64>, E> {
            // None is too few as well, and has the message about bounds.
            Ok(Some(u64::try_from(number).unwrap_or(0)))
        }

        fn visit_str<E: de::Error>(self, text: &str) -> Result<Option<u64>, E> {
            if text == "auto" { Ok(None) } else { (self.1)(text).map(Some).map_err(E::custom) }
        }
    }
    deserializer.deserialize_any(AutoVisitor(what, parse))
}

/// Bytes of a cache: an integer, or text with a unit.
pub(super) fn cache_bytes<'de, D: Deserializer<'de>>(deserializer: D) -> Result<usize, D::Error> {
    struct BytesVisitor;
    impl Visitor<'_> for BytesVisitor {
        type Value = u64;

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("a number of bytes, or text such as \"64 MiB\"")
        }

        fn visit_i64<E: de::Error>(self, bytes: i64) -> Result<u64, E> {
            u64::try_from(bytes).map_err(|_| E::custom(format!("{bytes} bytes are too few; use a positive number")))
        }

        fn visit_str<E: de::Error>(self, text: &str) -> Result<u64, E> {
            parse_bytes(text).map_err(E::custom)
        }
    }
    let bytes = deserializer.deserialize_any(BytesVisitor)?;
    let (min, max) = (limits::CACHE_BYTES_MIN, limits::CACHE_BYTES_MAX);
    match usize::try_from(bytes) {
        Ok(bytes) if bytes == 0 || (min..=max).contains(&bytes) => Ok(bytes),
        _ => Err(de::Error::custom(format!(
            "{bytes} bytes are out of bounds; use {} KiB to {} GiB, or 0 for no cache",
            min >> 10,
            max >> 30
        ))),
    }
}

/// Names that are counted, see [`limits::TOP_NAMES_MAX`].
pub(super) fn top_names<'de, D: Deserializer<'de>>(deserializer: D) -> Result<usize, D::Error> {
    let names = i64::deserialize(deserializer)?;
    let most = limits::TOP_NAMES_MAX;
    usize::try_from(names)
        .ok()
        .filter(|names| *names <= most)
        .ok_or_else(|| de::Error::custom(format!("{names} is out of bounds; use 0 to {most}")))
}

/// Text of an Extended DNS Error: longer than [`limits::EDE_TEXT_BYTES_MAX`] would be cut in each answer.
pub(super) fn ede_text_optional<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<String>, D::Error> {
    let text = String::deserialize(deserializer)?;
    if text.len() > limits::EDE_TEXT_BYTES_MAX {
        return Err(de::Error::custom(format!(
            "the text has {} bytes; use at most {}",
            text.len(),
            limits::EDE_TEXT_BYTES_MAX
        )));
    }
    Ok(Some(text))
}

fn parse_bytes(text: &str) -> Result<u64, String> {
    let unreadable = || format!("`{text}` is no number of bytes; write it as 67108864, \"64 MiB\" or \"1 GiB\"");
    let digits = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (number, unit) = text.split_at(digits);
    let number: u64 = number.parse().map_err(|_| unreadable())?;
    let shift = match unit.trim() {
        "" | "B" => 0,
        "K" | "KiB" => 10,
        "M" | "MiB" => 20,
        "G" | "GiB" => 30,
        "T" | "TiB" => 40,
        _ => return Err(unreadable()),
    };
    number.checked_mul(1 << shift).ok_or_else(unreadable)
}

fn between<'de, D: Deserializer<'de>>(deserializer: D, min: u64, max: u64, unit: &str) -> Result<u64, D::Error> {
    // Signed, so that a negative number gets the message about bounds as well.
    let value = i64::deserialize(deserializer)?;
    match u64::try_from(value) {
        Ok(value) if (min..=max).contains(&value) => Ok(value),
        _ => Err(de::Error::custom(format!("{value} is out of bounds; use {min} to {max} {unit}"))),
    }
}

fn narrow(value: u64) -> u32 {
    u32::try_from(value).unwrap_or(u32::MAX)
}

/// A list of texts, or one text alone, each read by `parse`.
fn parsed<'de, D, T>(deserializer: D, parse: impl Fn(&str) -> Result<T, String>) -> Result<Vec<T>, D::Error>
where
    D: Deserializer<'de>,
{
    struct TextsVisitor<T, F>(F, std::marker::PhantomData<T>);
    impl<'de, T, F: Fn(&str) -> Result<T, String>> Visitor<'de> for TextsVisitor<T, F> {
        type Value = Vec<T>;

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("a text or a list of texts")
        }

        fn visit_str<E: de::Error>(self, text: &str) -> Result<Vec<T>, E> {
            Ok(vec![(self.0)(text).map_err(E::custom)?])
        }

        fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Vec<T>, A::Error> {
            let mut values = Vec::new();
            while let Some(text) = seq.next_element::<String>()? {
                values.push((self.0)(&text).map_err(de::Error::custom)?);
            }
            Ok(values)
        }
    }
    deserializer.deserialize_any(TextsVisitor(parse, std::marker::PhantomData))
}
