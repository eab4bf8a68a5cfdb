//! The file of compiled patterns in a generation, `patterns.hs`.
//!
//! It is a cache: the patterns themselves are in the shards, and whoever cannot use this file compiles them again. Integers
//! are little-endian.
//!
//! ```text
//! 8 bytes    "CWPATRN1"
//! u64        XXH3 of everything that follows
//! u64        XXH3 of the expressions, each followed by a zero byte: which patterns these are
//! u32        number of patterns
//! blob       version of the engine, as it tells it
//! u32        number of confirmed patterns, then for each: u32 its number
//! u32        number of examples, then for each: u32 its pattern's number, blob the text
//! blob       database of plain patterns, empty without any
//! blob       database of candidates, empty without any
//! ```
//!
//! A blob is a u32 length and so many bytes.

use std::fmt;

use hyperscan::{BlockDatabase, SerializedDatabase};
use xxhash_rust::xxh3::{Xxh3, xxh3_64};

use super::{CompileError, Compiled, confirming, self_test};

/// Name of the file.
pub const FILE_NAME: &str = "patterns.hs";

const MAGIC: &[u8; 8] = b"CWPATRN1";

/// Why a file of compiled patterns cannot be used.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Unusable {
    /// Shorter than it says, or not such a file.
    Damaged,
    /// Of other patterns than those of its generation.
    OtherPatterns,
    /// Written for another engine.
    OtherEngine {
        /// Which one.
        wrote: String,
    },
    /// The engine refuses it, for example on another kind of processor.
    Refused(String),
    /// A pattern does not find its example.
    SelfTest(String),
}

impl fmt::Display for Unusable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Damaged => f.write_str("the file is damaged"),
            Self::OtherPatterns => f.write_str("they are of other patterns"),
            Self::OtherEngine { wrote } => write!(f, "they are for engine {wrote}, this is {}", engine_version()),
            Self::Refused(reason) => write!(f, "the engine refuses them: {reason}"),
            Self::SelfTest(reason) => write!(f, "{reason}"),
        }
    }
}

/// The version of the engine in this process.
pub fn engine_version() -> String {
    hyperscan::version_str().to_string_lossy().into_owned()
}

/// The file of these databases.
///
/// # Errors
/// The engine cannot serialise a database.
pub fn write(compiled: &Compiled, regexes: &[&str]) -> Result<Vec<u8>, CompileError> {
    let mut body = Vec::new();
    body.extend_from_slice(&fingerprint(regexes).to_le_bytes());
    put_length(&mut body, regexes.len());
    put_blob(&mut body, engine_version().as_bytes());
    put_length(&mut body, compiled.confirm.len());
    for (number, _) in &compiled.confirm {
        body.extend_from_slice(&number.to_le_bytes());
    }
    put_length(&mut body, compiled.examples.len());
    for (number, example) in &compiled.examples {
        body.extend_from_slice(&number.to_le_bytes());
        put_blob(&mut body, example.as_bytes());
    }
    for database in [&compiled.plain, &compiled.candidates] {
        match database {
            Some(database) => {
                put_blob(&mut body, &database.serialize().map_err(|error| CompileError::Engine(error.to_string()))?);
            }
            None => put_blob(&mut body, &[]),
        }
    }
    let mut file = MAGIC.to_vec();
    file.extend_from_slice(&xxh3_64(&body).to_le_bytes());
    file.extend_from_slice(&body);
    Ok(file)
}

/// The databases of the file, which must be those of `regexes`; each pattern has found its example.
///
/// # Errors
/// Why they must be compiled again.
pub fn read(file: &[u8], regexes: &[&str]) -> Result<Compiled, Unusable> {
    let rest = file.strip_prefix(MAGIC).ok_or(Unusable::Damaged)?;
    let (sum, body) = rest.split_first_chunk().ok_or(Unusable::Damaged)?;
    if u64::from_le_bytes(*sum) != xxh3_64(body) {
        return Err(Unusable::Damaged);
    }
    let mut body = Reader(body);
    let of = u64::from_le_bytes(body.array()?);
    let count = body.number()? as usize;
    if (of, count) != (fingerprint(regexes), regexes.len()) {
        return Err(Unusable::OtherPatterns);
    }
    let wrote = String::from_utf8_lossy(body.blob()?).into_owned();
    if wrote != engine_version() {
        return Err(Unusable::OtherEngine { wrote });
    }
    let mut confirm = Vec::new();
    for _ in 0..body.number()? {
        let number = body.number()?;
        let regex = regexes.get(number as usize).ok_or(Unusable::Damaged)?;
        confirm.push((number, confirming(regex).map_err(Unusable::Refused)?));
    }
    let mut examples = Vec::new();
    for _ in 0..body.number()? {
        let number = body.number()?;
        examples.push((number, String::from_utf8(body.blob()?.to_vec()).map_err(|_| Unusable::Damaged)?));
    }
    let compiled = Compiled { plain: database(body.blob()?)?, candidates: database(body.blob()?)?, confirm, examples };
    self_test(&compiled, regexes).map_err(|error| Unusable::SelfTest(error.to_string()))?;
    Ok(compiled)
}

fn database(bytes: &[u8]) -> Result<Option<BlockDatabase>, Unusable> {
    if bytes.is_empty() {
        return Ok(None);
    }
    bytes.deserialize().map(Some).map_err(|error| Unusable::Refused(error.to_string()))
}

fn fingerprint(regexes: &[&str]) -> u64 {
    let mut hash = Xxh3::new();
    for regex in regexes {
        hash.update(regex.as_bytes());
        hash.update(&[0]);
    }
    hash.digest()
}

fn put_length(file: &mut Vec<u8>, length: usize) {
    // Patterns and their databases are bounded far below 4 GiB, see `limits::PATTERN_COMPILE_BYTES_MAX`.
    file.extend_from_slice(&u32::try_from(length).unwrap_or(u32::MAX).to_le_bytes());
}

fn put_blob(file: &mut Vec<u8>, blob: &[u8]) {
    put_length(file, blob.len());
    file.extend_from_slice(blob);
}

struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    fn array<const N: usize>(&mut self) -> Result<[u8; N], Unusable> {
        let (array, rest) = self.0.split_first_chunk().ok_or(Unusable::Damaged)?;
        self.0 = rest;
        Ok(*array)
    }

    fn number(&mut self) -> Result<u32, Unusable> {
        self.array().map(u32::from_le_bytes)
    }

    fn blob(&mut self) -> Result<&'a [u8], Unusable> {
        let length = self.number()? as usize;
        let (blob, rest) = self.0.split_at_checked(length).ok_or(Unusable::Damaged)?;
        self.0 = rest;
        Ok(blob)
    }
}

#[cfg(test)]
mod tests {
    use super::super::{Wanted, compile};
    use super::*;

    fn file_of(regexes: &[&str]) -> Vec<u8> {
        let wanted = |regex: &&str| Wanted { regex: (*regex).to_owned(), may_match_empty: true };
        let wanted: Vec<_> = regexes.iter().map(wanted).collect();
        write(&compile(&wanted).unwrap().1, regexes).unwrap()
    }

    /// Changes the body and puts the right checksum in front of it again.
    fn tampered(file: &[u8], change: impl FnOnce(&mut Vec<u8>)) -> Vec<u8> {
        let mut body = file[16..].to_vec();
        change(&mut body);
        [MAGIC.as_slice(), &xxh3_64(&body).to_le_bytes(), &body].concat()
    }

    #[test]
    fn what_was_written_is_read_back() {
        let regexes = ["^ads?\\.", "(?!x)track", "[[:digit:]]+x"];
        let compiled = read(&file_of(&regexes), &regexes).unwrap();
        assert!(compiled.plain.is_some() && compiled.candidates.is_some());
        assert_eq!(compiled.confirm[0].0, 1);
        assert_eq!(compiled.examples.len(), 2);
        assert!(read(&file_of(&[]), &[]).unwrap().plain.is_none());
    }

    #[test]
    fn every_truncation_and_every_flipped_bit_is_noticed() {
        let regexes = ["ads"];
        let file = file_of(&regexes);
        for end in 0..file.len() {
            assert!(matches!(read(&file[..end], &regexes), Err(Unusable::Damaged)));
        }
        for at in 0..file.len() {
            let mut flipped = file.clone();
            flipped[at] ^= 1;
            assert!(matches!(read(&flipped, &regexes), Err(Unusable::Damaged)), "{at}");
        }
    }

    #[test]
    fn truncations_with_a_right_checksum_are_noticed_too() {
        let regexes = ["ads", "(?!x)track"];
        let file = file_of(&regexes);
        for end in 0..file.len() - 16 {
            assert!(read(&tampered(&file, |body| body.truncate(end)), &regexes).is_err(), "{end}");
        }
    }

    #[test]
    fn other_patterns_and_other_engines_are_told_apart() {
        let file = file_of(&["ads"]);
        assert_eq!(read(&file, &["adz"]).err(), Some(Unusable::OtherPatterns));
        let other = tampered(&file, |body| body[16] = b'9');
        let Err(Unusable::OtherEngine { wrote }) = read(&other, &["ads"]) else { panic!("taken") };
        assert!(wrote.starts_with('9'));
    }
}
