//! The codes of a generation: how often what follows what, and the Huffman codes made of that.
//!
//! A name is spelled after the one before it ([`spell`]): how many octets the two share, in the context of how many the two before
//! shared; the first octet that differs, in the context of the one it differs from; then each octet up to the end, in the
//! context of the one before it. The names of some shards are counted for all of them. What was never counted counts as once: so
//! each name has a code.
//!
//! Invariant: a [`Model`] has lengths that are codes, for a sorted alphabet without double octets.

use super::bits::{BitReader, BitWriter};
use super::huffman::{Decoder, LENGTH_MAX, codes_of, lengths_of};
use super::{Damage, KEY_BYTES_MAX, common_len, sum};
use crate::row_key::LABEL_END;

/// The symbol after a name's last octet; lower than that of any octet, so symbols are ordered as keys are.
pub(super) const END: u8 = 0;
/// Octets that a key may hold: the end of a label, and what [`crate::name::NameText`] writes.
const OCTETS: usize = 1 + (0x7e - 0x21 + 1);
/// Symbols of the largest alphabet.
const SYMBOLS_MAX: usize = OCTETS + 1;
/// Octets shared with the name before, up to which each number is a context of its own.
const SHARED_CONTEXT_MAX: usize = 24;
/// The symbol for so many shared octets or more; how many more comes after it.
const SHARED_SYMBOL_MAX: usize = 63;
/// Bits of a code's length in the model.
const LENGTH_BITS: u32 = 4;
const _: () = assert!(LENGTH_MAX < 1 << LENGTH_BITS && SYMBOLS_MAX <= u8::MAX as usize);
const _: () = assert!(KEY_BYTES_MAX < u16::MAX as usize);

/// The symbols of a key by one alphabet, in a buffer that ends with [`END`].
pub(super) type Symbols = [u8; KEY_BYTES_MAX + 1];

/// What is coded next.
#[derive(Clone, Copy)]
enum Step {
    /// Octets shared, in the context of those shared before.
    Shared(usize, usize),
    /// The first octet that differs, in the context of the one that stood there.
    Branch(u8, u8),
    /// An octet or the end, in the context of the octet before.
    Letter(u8, u8),
}

/// Takes a name apart: `name` shares `shared` symbols with `before`. The first of a group is spelled alone, from `shared`
/// on, without `shared_before`.
fn spell(before: &[u8], name: &[u8], shared: usize, shared_before: Option<usize>, mut step: impl FnMut(Step)) {
    let symbol = |of: &[u8], at: usize| of.get(at).copied().unwrap_or(END);
    let mut from = shared;
    if let Some(shared_before) = shared_before {
        step(Step::Shared(shared_before.min(SHARED_CONTEXT_MAX), shared));
        step(Step::Branch(symbol(before, shared), symbol(name, shared)));
        from += 1;
    }
    for at in from..=name.len() {
        step(Step::Letter(if at == 0 { END } else { symbol(name, at - 1) }, symbol(name, at)));
    }
}

/// How often each symbol came in each context.
pub(super) struct Counts {
    shared: Vec<[u64; SHARED_SYMBOL_MAX + 1]>,
    branch: Vec<[u64; SYMBOLS_MAX]>,
    letter: Vec<[u64; SYMBOLS_MAX]>,
    before: Vec<u8>,
    name: Vec<u8>,
    shared_before: usize,
    is_first: bool,
}

impl Counts {
    pub(super) fn new() -> Counts {
        Counts {
            shared: vec![[0; SHARED_SYMBOL_MAX + 1]; SHARED_CONTEXT_MAX + 1],
            branch: vec![[0; SYMBOLS_MAX]; SYMBOLS_MAX],
            letter: vec![[0; SYMBOLS_MAX]; SYMBOLS_MAX],
            before: Vec::new(),
            name: Vec::new(),
            shared_before: 0,
            is_first: true,
        }
    }

    /// The keys of another shard follow.
    pub(super) fn begin_shard(&mut self) {
        self.before.clear();
        (self.shared_before, self.is_first) = (0, true);
    }

    /// Counts the next key in order. False when it holds an octet that no key holds.
    pub(super) fn add(&mut self, key: &[u8]) -> bool {
        self.name.clear();
        for &octet in key {
            let symbol = match octet {
                LABEL_END => 1,
                0x21..=0x7e => octet - 0x21 + 2,
                _ => return false,
            };
            self.name.push(symbol);
        }
        let shared = common_len(&self.before, &self.name);
        let shared_before = (!self.is_first).then_some(self.shared_before);
        spell(&self.before, &self.name, shared, shared_before, |step| match step {
            Step::Shared(context, shared) => self.shared[context][shared.min(SHARED_SYMBOL_MAX)] += 1,
            Step::Branch(context, symbol) => self.branch[usize::from(context)][usize::from(symbol)] += 1,
            Step::Letter(context, symbol) => self.letter[usize::from(context)][usize::from(symbol)] += 1,
        });
        std::mem::swap(&mut self.before, &mut self.name);
        (self.shared_before, self.is_first) = (shared, false);
        true
    }

    /// The codes that spell the counted names in the fewest bits, and any other name as well.
    pub(super) fn model(&self) -> Model {
        let octet = |symbol: usize| if symbol == 1 { LABEL_END } else { symbol as u8 - 2 + 0x21 };
        let lengths = |counts: &[u64]| lengths_of(&counts.iter().map(|count| count + 1).collect::<Vec<_>>());
        Model {
            octets: (1..SYMBOLS_MAX).map(octet).collect(),
            shared: self.shared.iter().map(|counts| lengths(counts)).collect(),
            branch: self.branch.iter().map(|counts| lengths(counts)).collect(),
            letter: self.letter.iter().map(|counts| lengths(counts)).collect(),
        }
    }
}

/// The lengths of all codes. Symbol 0 is the end of a name, and then come the octets of the alphabet.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Model {
    octets: Vec<u8>,
    shared: Vec<Vec<u8>>,
    branch: Vec<Vec<u8>>,
    letter: Vec<Vec<u8>>,
}

impl Model {
    /// Whether a key holds nothing but what keys hold.
    pub(super) fn may_hold(key: &[u8]) -> bool {
        key.iter().all(|octet| *octet == LABEL_END || (0x21..=0x7e).contains(octet))
    }

    /// As each shard stores it.
    pub(super) fn to_bytes(&self) -> Vec<u8> {
        let mut lengths = BitWriter::default();
        for &length in [&self.letter, &self.branch, &self.shared].into_iter().flatten().flatten() {
            lengths.put(length.into(), LENGTH_BITS);
        }
        let mut rest = vec![self.octets.len() as u8];
        rest.extend_from_slice(&self.octets);
        lengths.take_into(&mut rest);
        [&sum(&rest).to_le_bytes()[..], &rest].concat()
    }

    /// Reads what [`Model::to_bytes`] wrote.
    pub(super) fn from_bytes(bytes: &[u8]) -> Result<Model, Damage> {
        let (expected, rest) = bytes.split_first_chunk::<4>().ok_or(Damage::Short)?;
        if sum(rest) != u32::from_le_bytes(*expected) {
            return Err(Damage::Sum);
        }
        let (&count, rest) = rest.split_first().ok_or(Damage::Short)?;
        let (octets, rest) = rest.split_at_checked(usize::from(count)).ok_or(Damage::Short)?;
        let is_key = |octet: &u8| *octet == LABEL_END || (0x21..=0x7e).contains(octet);
        if !octets.is_sorted_by(|a, b| a < b) || !octets.iter().all(is_key) {
            return Err(Damage::Code);
        }
        let mut bits = BitReader::new(rest);
        let symbols = octets.len() + 1;
        let mut table = |contexts: usize, symbols: usize| -> Result<Vec<Vec<u8>>, Damage> {
            let mut length = || -> Result<u8, Damage> {
                let length = (bits.peek() >> (64 - LENGTH_BITS)) as u8;
                bits.skip(LENGTH_BITS)?;
                Ok(length)
            };
            (0..contexts).map(|_| (0..symbols).map(|_| length()).collect()).collect()
        };
        let letter = table(symbols, symbols)?;
        let branch = table(symbols, symbols)?;
        let shared = table(SHARED_CONTEXT_MAX + 1, SHARED_SYMBOL_MAX + 1)?;
        Ok(Model { octets: octets.to_vec(), shared, branch, letter })
    }

    fn symbol_of_octet(&self) -> [u8; 256] {
        let mut symbols = [END; 256];
        for (place, &octet) in self.octets.iter().enumerate() {
            symbols[usize::from(octet)] = place as u8 + 1;
        }
        symbols
    }
}

/// Spells names into bits.
pub(super) struct NameEncoder {
    symbol_of_octet: [u8; 256],
    shared: Vec<Vec<(u16, u8)>>,
    branch: Vec<Vec<(u16, u8)>>,
    letter: Vec<Vec<(u16, u8)>>,
    before: Vec<u8>,
    name: Vec<u8>,
}

impl NameEncoder {
    pub(super) fn new(model: &Model) -> NameEncoder {
        let codes = |tables: &Vec<Vec<u8>>| tables.iter().map(|lengths| codes_of(lengths)).collect();
        NameEncoder {
            symbol_of_octet: model.symbol_of_octet(),
            shared: codes(&model.shared),
            branch: codes(&model.branch),
            letter: codes(&model.letter),
            before: Vec::new(),
            name: Vec::new(),
        }
    }

    /// Spells a key, see [`spell`]: without `shared_before` alone, from `shared` octets on.
    pub(super) fn put(
        &mut self,
        bits: &mut BitWriter,
        before: &[u8],
        key: &[u8],
        shared: usize,
        shared_before: Option<usize>,
    ) {
        for (symbols, octets) in [(&mut self.before, before), (&mut self.name, key)] {
            symbols.clear();
            symbols.extend(octets.iter().map(|&octet| self.symbol_of_octet[usize::from(octet)]));
        }
        let mut put = |(code, length): (u16, u8)| {
            debug_assert!(length > 0, "every symbol has a code");
            bits.put(code.into(), length.into());
        };
        spell(&self.before, &self.name, shared, shared_before, |step| match step {
            Step::Shared(context, shared) if shared >= SHARED_SYMBOL_MAX => {
                put(self.shared[context][SHARED_SYMBOL_MAX]);
                // The longest key has 1,020 octets, so the rest fits into ten bits.
                put(((shared - SHARED_SYMBOL_MAX) as u16, SHARED_REST_BITS as u8));
            }
            Step::Shared(context, shared) => put(self.shared[context][shared]),
            Step::Branch(context, symbol) => put(self.branch[usize::from(context)][usize::from(symbol)]),
            Step::Letter(context, symbol) => put(self.letter[usize::from(context)][usize::from(symbol)]),
        });
    }
}

/// Bits that tell how many more octets than [`SHARED_SYMBOL_MAX`] are shared.
const SHARED_REST_BITS: u32 = 10;
const _: () = assert!(KEY_BYTES_MAX - SHARED_SYMBOL_MAX < 1 << SHARED_REST_BITS);

/// Reads names that [`NameEncoder`] spelled.
pub(super) struct NameDecoder {
    octets: Vec<u8>,
    symbol_of_octet: [u8; 256],
    shared: Decoder,
    branch: Decoder,
    letter: Decoder,
}

impl NameDecoder {
    pub(super) fn new(model: &Model) -> Result<NameDecoder, Damage> {
        Ok(NameDecoder {
            octets: model.octets.clone(),
            symbol_of_octet: model.symbol_of_octet(),
            shared: Decoder::new(&model.shared)?,
            branch: Decoder::new(&model.branch)?,
            letter: Decoder::new(&model.letter)?,
        })
    }

    /// Writes a key's symbols and the end; gives their number without the end. None when an octet is not in the alphabet, so that no
    /// name of the shard has it.
    pub(super) fn symbols(&self, key: &[u8], to: &mut Symbols) -> Option<usize> {
        let to = to.get_mut(..=key.len())?;
        let (end, to) = to.split_last_mut()?;
        *end = END;
        for (to, &octet) in to.iter_mut().zip(key) {
            *to = self.symbol_of_octet[usize::from(octet)];
            if *to == END {
                return None;
            }
        }
        Some(key.len())
    }

    /// Writes the octets of symbols that were decoded.
    pub(super) fn octets(&self, symbols: &[u8], to: &mut Vec<u8>) {
        to.clear();
        // Symbols come out of codes of this very alphabet.
        to.extend(symbols.iter().filter_map(|&symbol| self.octets.get(usize::from(symbol).wrapping_sub(1))));
    }

    /// How many symbols the next name shares with the one before it.
    #[inline(always)]
    pub(super) fn shared(&self, bits: &mut BitReader<'_>, shared_before: usize) -> Result<usize, Damage> {
        let shared = usize::from(self.shared.symbol(shared_before.min(SHARED_CONTEXT_MAX), bits)?);
        if shared < SHARED_SYMBOL_MAX {
            return Ok(shared);
        }
        let rest = (bits.peek() >> (64 - SHARED_REST_BITS)) as usize;
        bits.skip(SHARED_REST_BITS)?;
        Ok(shared + rest)
    }

    /// Replaces what is after the `shared` symbols of the name by those of the next one, which is behind it in the order;
    /// gives its length.
    #[inline(always)]
    pub(super) fn next(&self, bits: &mut BitReader<'_>, shared: usize, name: &mut Symbols) -> Result<usize, Damage> {
        let place = name.get_mut(shared).ok_or(Damage::Order)?;
        let symbol = self.branch.symbol(usize::from(*place), bits)?;
        if symbol <= *place {
            return Err(Damage::Order);
        }
        *place = symbol;
        self.letters(bits, shared + 1, symbol, name)
    }

    /// Reads the rest of a name of which `len` symbols are known; gives its length.
    #[inline(always)]
    pub(super) fn rest(&self, bits: &mut BitReader<'_>, len: usize, name: &mut Symbols) -> Result<usize, Damage> {
        let last = len.checked_sub(1).and_then(|at| name.get(at)).copied().unwrap_or(END);
        self.letters(bits, len, last, name)
    }

    #[inline(always)]
    fn letters(
        &self,
        bits: &mut BitReader<'_>,
        mut at: usize,
        mut before: u8,
        name: &mut Symbols,
    ) -> Result<usize, Damage> {
        loop {
            let symbol = self.letter.symbol(usize::from(before), bits)?;
            // Past the longest key there is no place: this ends every loop.
            *name.get_mut(at).ok_or(Damage::Order)? = symbol;
            if symbol == END {
                return Ok(at);
            }
            before = symbol;
            at += 1;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bytes() -> Vec<u8> {
        let mut counts = Counts::new();
        for key in ["", "com", "com\0a", "com\0a\0-x", "com\0ab", "net\0z9"] {
            assert!(counts.add(key.as_bytes()));
        }
        counts.model().to_bytes()
    }

    #[test]
    fn every_truncation_and_bit_flip_of_a_model_is_refused() {
        let good = bytes();
        Model::from_bytes(&good).unwrap();
        for bit in 0..good.len() * 8 {
            let mut bad = good.clone();
            bad[bit / 8] ^= 1 << (bit % 8);
            assert!(Model::from_bytes(&bad).is_err(), "bit {bit}");
        }
        for len in 0..good.len() {
            assert!(Model::from_bytes(&good[..len]).is_err(), "length {len}");
        }
    }

    #[test]
    fn a_model_of_any_octets_under_a_right_sum_makes_no_panic() {
        let good = bytes();
        let mut state = 3u64;
        for _ in 0..3_000 {
            let mut bad = good.clone();
            for _ in 0..3 {
                state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
                let at = 4 + (state >> 33) as usize % (bad.len() - 4);
                bad[at] = (state >> 20) as u8;
            }
            let sum = sum(&bad[4..]).to_le_bytes();
            bad[..4].copy_from_slice(&sum);
            let Ok(decoder) = Model::from_bytes(&bad).and_then(|model| NameDecoder::new(&model)) else { continue };
            let mut name = [END; KEY_BYTES_MAX + 1];
            let mut bits = BitReader::new(&bad);
            while let Ok(len) = decoder.rest(&mut bits, 0, &mut name) {
                assert!(len <= KEY_BYTES_MAX);
            }
        }
    }

    #[test]
    fn a_shard_without_names_has_a_model_too() {
        let model = Counts::new().model();
        assert_eq!(Model::from_bytes(&model.to_bytes()).unwrap(), model);
        NameDecoder::new(&model).unwrap();
        assert!(!Counts::new().add(b"\x80"), "no key holds this octet");
    }
}
