//! The stores and names that the stages run over: the same on every machine, made anew each time.
//!
//! Names are those of the model that `bench/data` learned from real block lists, drawn from fixed seeds; the key that they
//! are hashed with is fixed as well, so that each name lies in the same shard, at the same place of the same page. Only
//! the compiled patterns are kept from one time to the next, for they take some ten seconds.

use std::collections::BTreeSet;
use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use corewall::build::patterns::{Compiled, sidecar};
use corewall_bench::name_model::{CHUNK_NAMES, NameMaker, NameModel};
use corewall_sharding::build::{BuildOptions, Builder};
use corewall_sharding::manifest::Layout;
use corewall_sharding::name::Name;
use corewall_sharding::publish::Store;
use corewall_sharding::rule::{Class, IpRewrite, Kind, List, Rule, RuleKey, Scope};
use hyperscan::{BlockDatabase, Builder as _, CpuFeatures, Pattern, PatternFlags, Patterns, Platform, Tune};
use serde_json::from_str;

use crate::Failure;
use crate::appliance::{Appliance, REWRITTEN};

const MODEL: &str = include_str!("../../data/name-model.json");
/// Of the names that are listed.
const LISTED_SEED: u64 = 1;
/// Of those that are not: another draw from the same model.
const UNLISTED_SEED: u64 = 2;
/// Hash key of the stores, as it lies in the store's folder.
const KEY: &str = "000102030405060708090a0b0c0d0e0f\n";
/// Rewrites by prefixes that hold no address of an answer, beside the 256 that do.
const OTHER_REWRITES: u32 = 744;
/// Letters of a word that a pattern is made of, at least: shorter ones would match nearly every name.
const WORD_BYTES_MIN: usize = 7;

/// How large the stores are.
#[derive(Clone, Copy, Debug)]
pub struct Sizes {
    /// Rules by name.
    pub listed: u64,
    /// Names of each kind that a stage runs over.
    pub asked: usize,
    /// Regular expressions.
    pub patterns: usize,
}

impl Sizes {
    /// Those of the references: filters larger than the processor's second cache, and enough names that no single one
    /// tells.
    pub const FULL: Sizes = Sizes { listed: 1_000_000, asked: 1_024, patterns: 10_000 };
}

/// Which store.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StoreKind {
    /// The listed names, half of them with all that is under them, in shards that SQL reads.
    Sql,
    /// The same in packed shards.
    Packed,
    /// Patterns alone.
    Patterns,
    /// Address rewrites alone.
    Rewrites,
}

/// Which names.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Names {
    /// Names of the list.
    Listed,
    /// Names of which the filters know that no suffix is listed.
    Unlisted,
}

/// Stores and names in a folder.
pub struct Fixtures {
    folder: PathBuf,
}

impl Fixtures {
    /// Those that have been made in `folder`.
    pub fn at(folder: &Path) -> Fixtures {
        Fixtures { folder: folder.to_path_buf() }
    }

    /// Makes them in `folder`, in place of those that are there.
    ///
    /// # Errors
    /// They cannot be written, or patterns cannot be compiled.
    pub fn make(folder: &Path, sizes: Sizes) -> Result<Fixtures, Failure> {
        fs::create_dir_all(folder).map_err(|error| format!("cannot make {}: {error}", folder.display()))?;
        let fixtures = Fixtures::at(folder);
        for (kind, layout) in [(StoreKind::Sql, Layout::Sql), (StoreKind::Packed, Layout::Packed)] {
            fixtures.make_store(kind, layout, |builder, list| list_names(builder, list, sizes.listed))?;
        }
        fixtures.make_store(StoreKind::Rewrites, Layout::Sql, list_rewrites)?;
        fixtures.make_patterns(sizes.patterns)?;
        fixtures.choose_names(sizes)?;
        Ok(fixtures)
    }

    /// The folder of a store.
    pub fn store(&self, kind: StoreKind) -> PathBuf {
        self.folder.join(match kind {
            StoreKind::Sql => "sql",
            StoreKind::Packed => "packed",
            StoreKind::Patterns => "patterns",
            StoreKind::Rewrites => "rewrites",
        })
    }

    /// The names of a kind.
    ///
    /// # Errors
    /// They have not been made.
    pub fn names(&self, names: Names) -> Result<Vec<String>, Failure> {
        let path = self.names_path(names);
        let text = fs::read_to_string(&path).map_err(|error| format!("{}: {error}", path.display()))?;
        Ok(text.lines().map(str::to_owned).collect())
    }

    fn names_path(&self, names: Names) -> PathBuf {
        self.folder.join(match names {
            Names::Listed => "listed.names",
            Names::Unlisted => "unlisted.names",
        })
    }

    fn make_store(
        &self,
        kind: StoreKind,
        layout: Layout,
        fill: impl FnOnce(&mut Builder, u16) -> Result<(), Failure>,
    ) -> Result<(), Failure> {
        let (builder, list) = self.begin_store(kind, layout, fill)?;
        debug_assert_eq!(list, 0, "a store of one list");
        builder.finish(&mut |_, _, _| {})?.publish()?;
        Ok(())
    }

    fn begin_store(
        &self,
        kind: StoreKind,
        layout: Layout,
        fill: impl FnOnce(&mut Builder, u16) -> Result<(), Failure>,
    ) -> Result<(Builder, u16), Failure> {
        let folder = self.store(kind);
        match fs::remove_dir_all(&folder) {
            Err(error) if error.kind() != ErrorKind::NotFound => return Err(error.into()),
            _ => fs::create_dir_all(&folder)?,
        }
        fs::write(folder.join("key"), KEY)?;
        let store = Store::create_or_open(&folder)?;
        let mut builder = Builder::new(&store, BuildOptions { layout, ..BuildOptions::default() })?;
        let list = builder.list(List::named("blocked"))?;
        fill(&mut builder, list)?;
        Ok((builder, list))
    }

    fn make_patterns(&self, count: usize) -> Result<(), Failure> {
        let (regexes, examples): (Vec<String>, Vec<String>) = made_up_patterns(count)?.into_iter().unzip();
        let regexes: Vec<&str> = regexes.iter().map(String::as_str).collect();
        let (builder, _) = self.begin_store(StoreKind::Patterns, Layout::Sql, |builder, list| {
            for regex in &regexes {
                let class = Class::plain(Kind::Block, Scope::Pattern, list);
                let key = RuleKey::Pattern { regex: (*regex).to_owned(), target: None };
                builder.push(&Rule { class, key })?;
            }
            Ok(())
        })?;
        let mut built = builder.finish(&mut |_, _, _| {})?;
        built.add_sidecar(sidecar::FILE_NAME, &self.compiled(&regexes, examples)?)?;
        built.publish()?;
        Ok(())
    }

    /// The file of compiled patterns: the one of the last time, if it is of these patterns and this engine.
    fn compiled(&self, regexes: &[&str], examples: Vec<String>) -> Result<Vec<u8>, Failure> {
        let kept = self.folder.join(sidecar::FILE_NAME);
        if let Ok(file) = fs::read(&kept)
            && sidecar::read(&file, regexes).is_ok()
        {
            return Ok(file);
        }
        let examples = (0..).zip(examples).collect();
        let compiled = Compiled { plain: Some(database(regexes)?), candidates: None, confirm: Vec::new(), examples };
        let file = sidecar::write(&compiled, regexes)?;
        fs::write(&kept, &file)?;
        Ok(file)
    }

    fn choose_names(&self, sizes: Sizes) -> Result<(), Failure> {
        let write = |names: Names, chosen: &[String]| fs::write(self.names_path(names), chosen.join("\n"));
        // A few more than are wanted, for names that come twice.
        let stride = (sizes.listed as usize / (sizes.asked + sizes.asked / 16)).max(1);
        // The second question for a name would be answered out of the cache.
        let (mut listed, mut seen) = (Vec::new(), BTreeSet::new());
        each_name(LISTED_SEED, sizes.listed, &mut |number, text| {
            if number % stride as u64 == 0 && listed.len() < sizes.asked && seen.insert(text.to_owned()) {
                listed.push(text.to_owned());
            }
            Ok(())
        })?;
        write(Names::Listed, &listed)?;
        let appliance = Appliance::open(&self.store(StoreKind::Sql))?;
        let mut unlisted = Vec::new();
        each_name(UNLISTED_SEED, CHUNK_NAMES, &mut |number, text| {
            // Neighbours are of one family.
            if number % UNLISTED_STRIDE == 0 && unlisted.len() < sizes.asked && seen.insert(text.to_owned()) {
                let is_unlisted = !appliance.may_be_listed(&appliance.asked(text)?.hashes);
                unlisted.extend(is_unlisted.then(|| text.to_owned()));
            }
            Ok(())
        })?;
        Ok(write(Names::Unlisted, &unlisted)?)
    }
}

/// Of so many names one is asked for: enough are left when the filters have let some pass.
const UNLISTED_STRIDE: u64 = 32;

fn each_name(seed: u64, names: u64, found: &mut dyn FnMut(u64, &str) -> Result<(), Failure>) -> Result<(), Failure> {
    let maker = NameMaker::new(from_str::<NameModel>(MODEL)?, seed)?;
    let (mut number, mut outcome) = (0, Ok(()));
    for chunk in 0..names.div_ceil(CHUNK_NAMES) {
        maker.chunk(chunk, &mut |name| {
            if number < names && outcome.is_ok() {
                outcome = std::str::from_utf8(name).map_err(Failure::from).and_then(|text| found(number, text));
                number += 1;
            }
        });
    }
    outcome
}

fn list_names(builder: &mut Builder, list: u16, names: u64) -> Result<(), Failure> {
    each_name(LISTED_SEED, names, &mut |number, text| {
        // As hosts files and as filter lists have them.
        let scope = if number % 2 == 0 { Scope::Exact } else { Scope::Subtree };
        let key = RuleKey::Name { name: Name::from_text(text)?, target: None };
        Ok(builder.push(&Rule { class: Class::plain(Kind::Block, scope, list), key })?)
    })
}

/// Each network's addresses become one of the next network, so that an answer in one of them can be rewritten for ever and
/// meets all of them: the tables are keyed at random, and what one look-up costs differs from key to key.
fn list_rewrites(builder: &mut Builder, list: u16) -> Result<(), Failure> {
    for number in 0..=u8::MAX {
        let to = [REWRITTEN[0], number.wrapping_add(1), REWRITTEN[2], REWRITTEN[3]];
        let from = format!("{}.{number}.0.0/16", REWRITTEN[0]);
        builder.rewrite(IpRewrite { from: from.parse()?, to: to.into(), list });
    }
    for number in 0..OTHER_REWRITES {
        let [_, _, high, low] = number.to_be_bytes();
        let from = if number % 2 == 0 { format!("172.{high}.{low}.0/24") } else { format!("172.{high}.{low}.1/32") };
        builder.rewrite(IpRewrite { from: from.parse()?, to: REWRITTEN.into(), list });
    }
    Ok(())
}

/// Expressions as lists of them have, each of a word of its own and with a name that it must find.
fn made_up_patterns(count: usize) -> Result<Vec<(String, String)>, Failure> {
    let mut words = BTreeSet::new();
    let mut patterns = Vec::with_capacity(count);
    // Names are of many families; a quarter of them has a new word.
    each_name(LISTED_SEED, 64 * count as u64, &mut |_, text| {
        let word = text.split('.').max_by_key(|label| label.len()).unwrap_or_default();
        let is_word = word.len() >= WORD_BYTES_MIN && word.bytes().all(|octet| octet.is_ascii_lowercase());
        if is_word && patterns.len() < count && words.insert(word.to_owned()) {
            patterns.push(match patterns.len() % 5 {
                0 => (format!("^(.+[-_.])?{word}[0-9]*[-_.]"), format!("www.{word}1.net")),
                1 => (format!(r"(^|\.){word}\.(com|net)$"), format!("{word}.com")),
                2 => (format!(r"^{word}[0-9]+\."), format!("{word}12.net")),
                3 => (format!(r"[-_.]{word}-(cdn|ads?)\."), format!("www.{word}-cdn.net")),
                _ => (format!(r"^ads?[0-9]*[-_.]{word}\."), format!("ads2.{word}.net")),
            });
        }
        Ok(())
    })?;
    if patterns.len() < count {
        return Err(format!("only {} of {count} patterns could be made up", patterns.len()).into());
    }
    Ok(patterns)
}

/// Compiled as a build compiles them (see `corewall::build::patterns`), but for the processor that valgrind shows to the
/// program, whatever this one is: what is compiled for AVX-512 could not be counted, and everything newer takes what is
/// compiled for AVX2.
fn database(regexes: &[&str]) -> Result<BlockDatabase, Failure> {
    let flags = PatternFlags::CASELESS | PatternFlags::SINGLEMATCH | PatternFlags::ALLOWEMPTY;
    let pattern = |(number, regex): (usize, &&str)| Pattern {
        expression: (*regex).to_owned(),
        flags,
        id: Some(number),
        ext: Default::default(),
        som: None,
    };
    let platform = Platform::new(Tune::Haswell, features());
    Ok(Patterns(regexes.iter().enumerate().map(pattern).collect()).for_platform(Some(&platform))?)
}

fn features() -> CpuFeatures {
    if crate::count::processor().contains("avx2") { CpuFeatures::AVX2 } else { CpuFeatures::empty() }
}
