//! Made-up names that are like those of real block lists: as long, with as many labels, under the same suffixes, as many of
//! them siblings, and as well compressible.
//!
//! A [`NameModel`] holds nothing but counts, learned from lists that are not part of this repository. Invariant: the names of a
//! model, a seed and a place are always the same, whoever asks for them and in which order: they come in chunks of
//! [`CHUNK_NAMES`], each from a stream of random numbers of its own.

use std::collections::{BTreeMap, HashMap};
use std::io::Write;

use serde::{Deserialize, Serialize};

use crate::questions::Random;

/// Names in one chunk.
pub const CHUNK_NAMES: u64 = 1 << 16;
/// Letters of a label that stand in the model: the rest of them is too rare to matter.
const ALPHABET: &[u8; 38] = b"abcdefghijklmnopqrstuvwxyz0123456789-_";
/// What stands for a letter before the first one.
const START: usize = ALPHABET.len();
/// Contexts of two letters, each a letter or the start.
const CONTEXTS: usize = (ALPHABET.len() + 1) * (ALPHABET.len() + 1);
/// Steps of a share: one random octet draws by it.
const STEPS: usize = 256;
/// Octets of a label at most.
const LABEL_BYTES_MAX: usize = 63;
/// Suffixes and labels that are remembered as a whole.
const SUFFIXES_MAX: usize = 700;
const LABELS_MAX: usize = 1_500;
/// Names of one family at most: a bigger one is as good as several.
const FAMILY_MAX: u32 = 4_096;
/// Labels before the registered one at most.
const DEPTH_MAX: usize = 6;

/// Counts of real lists.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct NameModel {
    /// Public suffixes, by how many names are under them.
    pub suffixes: Vec<(String, u32)>,
    /// Registered names by how many listed names they have, in powers of two: the index is the power, and the count that of
    /// the registered names with at least that many and fewer than twice as many.
    pub families: Vec<u32>,
    /// Of 1,000 registered names, how many are listed themselves.
    pub apex_permille: u32,
    /// Names below a registered one by their further labels, from one.
    pub depths: Vec<u32>,
    /// Frequent labels before the registered one.
    pub labels: Vec<(String, u32)>,
    /// Of 1,000 labels before the registered one, how many are among them.
    pub frequent_permille: u32,
    /// Registered labels by length, from one.
    pub registered_lengths: Vec<u32>,
    /// Other labels before it by length, from one.
    pub label_lengths: Vec<u32>,
    /// By two letters (`^` for none): which ones follow, each with a count, as in `a12b3`.
    pub follows: BTreeMap<String, String>,
}

impl NameModel {
    /// Learns from names, one a line. `suffix_of` gives the public suffix of a name.
    pub fn learn<'a>(names: impl Iterator<Item = &'a str>, suffix_of: impl Fn(&str) -> Option<&str>) -> NameModel {
        let (mut suffixes, mut labels) = (HashMap::<&str, u32>::new(), HashMap::<&str, u32>::new());
        let mut families = HashMap::<&str, (u32, bool)>::new();
        let mut model = NameModel::default();
        let mut follows = vec![[0u32; ALPHABET.len()]; CONTEXTS];
        let mut depths = vec![0; DEPTH_MAX];
        for name in names {
            let is_usual = |suffix: &&str| suffix.len() < name.len() && !is_unusual(suffix);
            let Some(suffix) = suffix_of(name).filter(is_usual) else { continue };
            let before = &name[..name.len() - suffix.len() - 1];
            let registered = before.rsplit('.').next().unwrap_or(before);
            let family = families.entry(&name[before.len() - registered.len()..]).or_default();
            family.0 += 1;
            *suffixes.entry(suffix).or_default() += 1;
            if registered.len() == before.len() {
                family.1 = true;
            } else {
                let further = &before[..before.len() - registered.len() - 1];
                depths[further.split('.').count().min(DEPTH_MAX) - 1] += 1;
                further.split('.').for_each(|label| *labels.entry(label).or_default() += 1);
            }
            if family.0 == 1 {
                count(&mut model.registered_lengths, registered.len());
                learn_letters(&mut follows, registered);
            }
        }
        let listed = families.values().filter(|(_, apex)| *apex).count();
        model.apex_permille = (listed * 1_000 / families.len().max(1)) as u32;
        families.values().for_each(|(names, _)| count(&mut model.families, 1 + names.ilog2() as usize));
        let all: u64 = labels.values().map(|&uses| u64::from(uses)).sum();
        model.labels = most_used(&labels, LABELS_MAX);
        let frequent: HashMap<&str, u32> = model.labels.iter().map(|(label, uses)| (label.as_str(), *uses)).collect();
        let of_frequent: u64 = frequent.values().map(|&uses| u64::from(uses)).sum();
        model.frequent_permille = (of_frequent * 1_000 / all.max(1)) as u32;
        for (label, uses) in labels.iter().filter(|(label, _)| !frequent.contains_key(*label)) {
            learn_letters(&mut follows, label);
            for _ in 0..*uses {
                count(&mut model.label_lengths, label.len());
            }
        }
        if model.label_lengths.is_empty() {
            // All of them are frequent ones.
            model.label_lengths = model.registered_lengths.clone();
        }
        model.suffixes = most_used(&suffixes, SUFFIXES_MAX);
        model.depths = depths;
        model.follows =
            (0..CONTEXTS).filter_map(|context| Some((context_text(context), row_text(&follows[context])?))).collect();
        model
    }
}

/// Ends of what is no name of a host on the Internet: addresses, and names that resolvers answer by themselves (RFC 6761, RFC 7686).
fn is_unusual(suffix: &str) -> bool {
    let top = suffix.rsplit('.').next().unwrap_or(suffix);
    top.bytes().all(|octet| octet.is_ascii_digit())
        || ["onion", "test", "local", "localhost", "invalid", "arpa"].contains(&top)
}

fn count(counts: &mut Vec<u32>, from_one: usize) {
    let at = from_one.max(1) - 1;
    if counts.len() <= at {
        counts.resize(at + 1, 0);
    }
    counts[at] += 1;
}

fn most_used(uses: &HashMap<&str, u32>, max: usize) -> Vec<(String, u32)> {
    let mut all: Vec<(&str, u32)> = uses.iter().map(|(text, uses)| (*text, *uses)).collect();
    all.sort_unstable_by(|a, b| b.1.cmp(&a.1).then(a.0.cmp(b.0)));
    all.truncate(max);
    all.into_iter().map(|(text, uses)| (text.to_owned(), uses)).collect()
}

fn letter(octet: u8) -> Option<usize> {
    ALPHABET.iter().position(|&known| known == octet)
}

fn learn_letters(follows: &mut [[u32; ALPHABET.len()]], label: &str) {
    let mut context = (START, START);
    for octet in label.bytes() {
        let Some(next) = letter(octet) else { return };
        follows[context.0 * (START + 1) + context.1][next] += 1;
        context = (context.1, next);
    }
}

fn context_text(context: usize) -> String {
    let text = |at: usize| ALPHABET.get(at).map_or('^', |&octet| char::from(octet));
    [text(context / (START + 1)), text(context % (START + 1))].iter().collect()
}

/// Counts scaled to [`STEPS`], those that come to nothing left out; none when there are none.
fn row_text(row: &[u32; ALPHABET.len()]) -> Option<String> {
    let sum: u64 = row.iter().map(|&count| u64::from(count)).sum();
    if sum == 0 {
        return None;
    }
    let scaled = |count: u32| (u64::from(count) * STEPS as u64 + sum / 2) / sum;
    let parts = ALPHABET.iter().zip(row).filter(|(_, count)| scaled(**count) > 0);
    let text: String = parts.map(|(&octet, &count)| format!("{}{}", octet_text(octet), scaled(count))).collect();
    (!text.is_empty()).then_some(text)
}

/// Digits are written as capital letters, for a count follows.
fn octet_text(octet: u8) -> char {
    char::from(if octet.is_ascii_digit() { octet - b'0' + b'A' } else { octet })
}

/// Draws an index by weight.
struct Weighted {
    ends: Vec<u64>,
}

impl Weighted {
    fn new(weights: impl Iterator<Item = u32>) -> Weighted {
        let mut sum = 0;
        let ends = weights.map(|weight| {
            sum += u64::from(weight);
            sum
        });
        Weighted { ends: ends.collect() }
    }

    fn draw(&self, random: &mut Random) -> usize {
        let point = below(random, self.ends.last().copied().unwrap_or(0));
        self.ends.partition_point(|&end| end <= point)
    }
}

/// A number from 0 to `end`, itself left out; 0 for 0.
fn below(random: &mut Random, end: u64) -> u64 {
    ((u128::from(random.next()) * u128::from(end)) >> 64) as u64
}

/// Makes names by a model.
pub struct NameMaker {
    model: NameModel,
    seed: u64,
    suffixes: Weighted,
    families: Weighted,
    depths: Weighted,
    labels: Weighted,
    registered_lengths: Weighted,
    label_lengths: Weighted,
    /// For each context the letter that each random octet draws.
    next: Vec<[u8; STEPS]>,
}

/// A model that cannot be drawn from.
#[derive(Debug)]
pub struct BadModel(&'static str);

impl std::fmt::Display for BadModel {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "the model has {}", self.0)
    }
}

impl std::error::Error for BadModel {}

impl NameMaker {
    /// Prepares to make names.
    ///
    /// # Errors
    /// The model lacks something.
    pub fn new(model: NameModel, seed: u64) -> Result<NameMaker, BadModel> {
        let numbers = |counts: &[u32], what| {
            let weighted = Weighted::new(counts.iter().copied());
            if weighted.ends.last().copied().unwrap_or(0) == 0 { Err(BadModel(what)) } else { Ok(weighted) }
        };
        let of = |texts: &[(String, u32)]| texts.iter().map(|(_, uses)| *uses).collect::<Vec<_>>();
        Ok(NameMaker {
            suffixes: numbers(&of(&model.suffixes), "no suffixes")?,
            families: numbers(&model.families, "no families")?,
            depths: numbers(&model.depths, "no depths")?,
            labels: numbers(&of(&model.labels), "no labels")?,
            registered_lengths: numbers(&model.registered_lengths, "no lengths")?,
            label_lengths: numbers(&model.label_lengths, "no lengths of labels")?,
            next: letters(&model.follows)?,
            model,
            seed,
        })
    }

    /// Calls `name` with each name of a chunk: [`CHUNK_NAMES`] of them. Few come twice.
    pub fn chunk(&self, chunk: u64, name: &mut dyn FnMut(&[u8])) {
        let mut random = Random::new(self.seed ^ chunk.wrapping_mul(0xd6e8_feb8_6659_fd93));
        let (mut left, mut domain, mut text) = (CHUNK_NAMES, Vec::new(), Vec::new());
        while left > 0 {
            domain.clear();
            let length = 1 + self.registered_lengths.draw(&mut random);
            self.push_label(&mut domain, length, &mut random);
            domain.push(b'.');
            domain.extend_from_slice(self.model.suffixes[self.suffixes.draw(&mut random)].0.as_bytes());
            let power = self.families.draw(&mut random);
            let size = (1 << power.min(31)) + below(&mut random, 1 << power.min(31)) as u32;
            let mut members = u64::from(size.min(FAMILY_MAX)).min(left);
            left -= members;
            if below(&mut random, 1_000) < u64::from(self.model.apex_permille) {
                name(&domain);
                members -= 1;
            }
            for _ in 0..members {
                text.clear();
                for _ in 0..=self.depths.draw(&mut random) {
                    if below(&mut random, 1_000) < u64::from(self.model.frequent_permille) {
                        text.extend_from_slice(self.model.labels[self.labels.draw(&mut random)].0.as_bytes());
                    } else {
                        let length = 1 + self.label_lengths.draw(&mut random);
                        self.push_label(&mut text, length, &mut random);
                    }
                    text.push(b'.');
                }
                text.extend_from_slice(&domain);
                name(&text);
            }
        }
    }

    fn push_label(&self, text: &mut Vec<u8>, length: usize, random: &mut Random) {
        let (mut context, mut bits) = ((START, START), 0);
        let start = text.len();
        for place in 0..length.min(LABEL_BYTES_MAX) {
            if place % 8 == 0 {
                bits = random.next();
            }
            let next = usize::from(self.next[context.0 * (START + 1) + context.1][(bits & 255) as usize]);
            bits >>= 8;
            text.push(ALPHABET[next]);
            context = (context.1, next);
        }
        // A host name's label neither begins nor ends with a hyphen (RFC 1123 §2.1).
        let end = text.len() - 1;
        for at in [start, end] {
            if text[at] == b'-' {
                text[at] = b'x';
            }
        }
    }
}

fn letters(follows: &BTreeMap<String, String>) -> Result<Vec<[u8; STEPS]>, BadModel> {
    let bad = || BadModel("letters that it does not know");
    let at = |letter: u8| if letter == b'^' { Some(START) } else { self::letter(letter) };
    // A context that was never seen goes on as a label begins.
    let mut rows: Vec<Option<[u8; STEPS]>> = vec![None; CONTEXTS];
    for (context, row) in follows {
        let &[first, second] = context.as_bytes() else { return Err(bad()) };
        let context = at(first).ok_or_else(bad)? * (START + 1) + at(second).ok_or_else(bad)?;
        rows[context] = Some(draws(row).ok_or_else(bad)?);
    }
    let begin = rows[START * (START + 1) + START].ok_or(BadModel("no first letters"))?;
    Ok(rows.into_iter().map(|row| row.unwrap_or(begin)).collect())
}

/// For each random octet the letter that it draws.
fn draws(row: &str) -> Option<[u8; STEPS]> {
    let mut weights = Vec::new();
    let mut rest = row;
    while let Some(first) = rest.bytes().next() {
        let digits = rest[1..].bytes().take_while(u8::is_ascii_digit).count();
        let octet = if first.is_ascii_uppercase() { first - b'A' + b'0' } else { first };
        weights.push((letter(octet)? as u8, rest[1..1 + digits].parse::<u32>().ok()?));
        rest = &rest[1 + digits..];
    }
    let weighted = Weighted::new(weights.iter().map(|(_, weight)| *weight));
    let sum = weighted.ends.last().copied().filter(|&sum| sum > 0)?;
    let mut draws = [0; STEPS];
    for (step, draw) in (0u64..).zip(&mut draws) {
        let place = weighted.ends.partition_point(|&end| end <= step * sum / STEPS as u64);
        *draw = weights.get(place)?.0;
    }
    Some(draws)
}

/// Writes the first `names` names, one a line, made by `threads` threads.
///
/// # Errors
/// `out` does not take them.
pub fn write_names(maker: &NameMaker, names: u64, threads: usize, out: &mut dyn Write) -> std::io::Result<()> {
    let chunks = names.div_ceil(CHUNK_NAMES);
    let lines = |chunk: u64| {
        let (mut text, mut left) = (Vec::with_capacity(24 * CHUNK_NAMES as usize), names - chunk * CHUNK_NAMES);
        maker.chunk(chunk, &mut |name| {
            if left > 0 {
                text.extend_from_slice(name);
                text.push(b'\n');
                left -= 1;
            }
        });
        text
    };
    for first in (0..chunks).step_by(threads.max(1)) {
        let made: Vec<Vec<u8>> = std::thread::scope(|scope| {
            let spawn = |chunk| scope.spawn(move || lines(chunk));
            let makers: Vec<_> = (first..chunks.min(first + threads.max(1) as u64)).map(spawn).collect();
            makers.into_iter().map(|maker| maker.join().unwrap_or_default()).collect()
        });
        for text in made {
            out.write_all(&text)?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    const NAMES: [&str; 8] = [
        "ads.example.com",
        "example.com",
        "track-1.ads.example.com",
        "shop.co.uk",
        "x.shop.co.uk",
        "www.other.net",
        "cdn.other.net",
        "other.net",
    ];

    fn suffix_of(name: &str) -> Option<&str> {
        ["co.uk", "com", "net"]
            .into_iter()
            .find(|suffix| name.ends_with(&format!(".{suffix}")))
            .map(|suffix| &name[name.len() - suffix.len()..])
    }

    fn chunk(maker: &NameMaker, chunk: u64) -> Vec<String> {
        let mut names = Vec::new();
        maker.chunk(chunk, &mut |name| names.push(String::from_utf8(name.to_vec()).unwrap()));
        names
    }

    #[test]
    fn a_model_counts_what_its_names_have() {
        let model = NameModel::learn(NAMES.into_iter(), suffix_of);
        assert_eq!(model.suffixes, [("com".to_owned(), 3), ("net".to_owned(), 3), ("co.uk".to_owned(), 2)]);
        assert_eq!(model.families, [0, 3], "each registered name has two or three");
        assert_eq!((model.apex_permille, &model.depths[..3]), (1_000, &[4, 1, 0][..]));
        assert_eq!(model.registered_lengths, [0, 0, 0, 1, 1, 0, 1]);
    }

    #[test]
    fn the_same_seed_makes_the_same_names_in_any_order_and_another_one_does_not() {
        let maker = |seed| NameMaker::new(NameModel::learn(NAMES.into_iter(), suffix_of), seed).unwrap();
        let (first, second) = (chunk(&maker(1), 0), chunk(&maker(1), 1));
        assert_eq!(first.len() as u64, CHUNK_NAMES);
        assert_eq!((chunk(&maker(1), 1), chunk(&maker(1), 0)), (second.clone(), first.clone()));
        assert_ne!(first, second);
        assert_ne!(chunk(&maker(2), 0), first);
    }

    #[test]
    fn every_name_is_a_host_name_under_a_learned_suffix() {
        let maker = NameMaker::new(NameModel::learn(NAMES.into_iter(), suffix_of), 7).unwrap();
        for name in chunk(&maker, 3) {
            assert!(suffix_of(&name).is_some() && name.len() < 254, "{name}");
            for label in name.split('.') {
                let is_label = (1..=63).contains(&label.len()) && !label.starts_with('-') && !label.ends_with('-');
                assert!(is_label && label.bytes().all(|octet| letter(octet).is_some()), "{name}");
            }
        }
    }

    #[test]
    fn as_many_names_are_written_as_were_asked_for_however_many_threads_make_them() {
        let maker = NameMaker::new(NameModel::learn(NAMES.into_iter(), suffix_of), 7).unwrap();
        let written = |threads| {
            let mut out = Vec::new();
            write_names(&maker, 2 * CHUNK_NAMES + 5, threads, &mut out).unwrap();
            out
        };
        let text = written(1);
        assert_eq!(text.iter().filter(|&&octet| octet == b'\n').count() as u64, 2 * CHUNK_NAMES + 5);
        assert!(text == written(3), "it depends on the threads");
    }

    #[test]
    fn a_model_survives_its_file_and_a_broken_one_is_refused() {
        let model = NameModel::learn(NAMES.into_iter(), suffix_of);
        let read: NameModel = serde_json::from_str(&serde_json::to_string(&model).unwrap()).unwrap();
        assert_eq!(chunk(&NameMaker::new(read, 3).unwrap(), 0), chunk(&NameMaker::new(model.clone(), 3).unwrap(), 0));
        let broken = |change: fn(&mut NameModel)| {
            let mut model = model.clone();
            change(&mut model);
            NameMaker::new(model, 1).is_err()
        };
        assert!(broken(|model| model.suffixes.clear()));
        assert!(broken(|model| model.follows.clear()));
        assert!(broken(|model| {
            model.follows.insert("ab".to_owned(), "?3".to_owned());
        }));
    }
}
