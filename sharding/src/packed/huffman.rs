//! Huffman codes of bounded length: their lengths out of counts, the canonical codes, and the table that decodes.
//!
//! Invariant: the same counts give the same lengths, and the lengths alone give the codes: shorter ones first, equally long
//! ones in the order of their symbols. A [`Decoder`] made of any lengths at all decodes to a symbol that has one or fails.

use super::Damage;
use super::bits::BitReader;

/// Bits of the longest code: 15 fit in the model's four bits a length, and 12 cost next to nothing against more.
pub(super) const LENGTH_MAX: usize = 12;
/// Bits by which the table is indexed: codes of up to so many are decoded by one look. With 8 the tables of a shard take some 50 KB and
/// the busy ones stay in the core's first cache; longer codes are 2 % of all.
const TABLE_BITS: u32 = 8;
/// An entry for windows that begin no short code.
const NO_CODE: u16 = 0;

/// The lengths of a best prefix code in which no code is longer than [`LENGTH_MAX`] (package-merge, Larmore and Hirschberg
/// 1990). A symbol that was never counted has length 0, and a lone symbol has 1.
pub(super) fn lengths_of(counts: &[u64]) -> Vec<u8> {
    let mut lengths = vec![0u8; counts.len()];
    let mut leaves: Vec<(u64, Vec<u8>)> = Vec::new();
    for (symbol, &count) in counts.iter().enumerate().filter(|(_, count)| **count > 0) {
        leaves.push((count, vec![symbol as u8]));
    }
    leaves.sort_by_key(|(count, _)| *count);
    if let [(_, lone)] = &leaves[..] {
        lone.iter().for_each(|&symbol| lengths[usize::from(symbol)] = 1);
        return lengths;
    }
    let mut packages: Vec<(u64, Vec<u8>)> = Vec::new();
    for _ in 0..LENGTH_MAX {
        let pairs = packages.chunks_exact(2).map(|pair| (pair[0].0 + pair[1].0, [&pair[0].1[..], &pair[1].1].concat()));
        let mut merged: Vec<_> = leaves.iter().cloned().chain(pairs).collect();
        // Stable: of equal weights the leaf stays first, so the result depends on nothing else.
        merged.sort_by_key(|(weight, _)| *weight);
        packages = merged;
    }
    for (_, symbols) in packages.iter().take(2 * leaves.len().saturating_sub(1)) {
        symbols.iter().for_each(|&symbol| lengths[usize::from(symbol)] += 1);
    }
    lengths
}

/// The canonical code of each symbol with its length.
pub(super) fn codes_of(lengths: &[u8]) -> Vec<(u16, u8)> {
    let mut next = first_codes(&counts_of(lengths));
    let code = |&length: &u8| {
        let place = &mut next[usize::from(length)];
        let code = *place;
        *place += u32::from(length > 0);
        (code as u16, length)
    };
    lengths.iter().map(code).collect()
}

/// Symbols of each length; index 0 holds none.
fn counts_of(lengths: &[u8]) -> [u32; LENGTH_MAX + 1] {
    let mut counts = [0; LENGTH_MAX + 1];
    for &length in lengths.iter().filter(|length| **length > 0) {
        counts[usize::from(length)] += 1;
    }
    counts
}

/// The first code of each length.
fn first_codes(counts: &[u32; LENGTH_MAX + 1]) -> [u32; LENGTH_MAX + 1] {
    let mut first = [0; LENGTH_MAX + 1];
    for length in 1..=LENGTH_MAX {
        first[length] = (first[length - 1] + counts[length - 1]) << 1;
    }
    first
}

/// Decodes the codes of some contexts.
pub(super) struct Decoder {
    /// For each context, by the first [`TABLE_BITS`] of the window: symbol in the high octet, length in the low one.
    tables: Vec<[u16; 1 << TABLE_BITS]>,
    long: Vec<LongCodes>,
}

/// What decodes the longer codes of a context.
struct LongCodes {
    /// For each length the first window, as a number of 16 bits, that a code so long or shorter does not begin.
    ends: [u32; LENGTH_MAX + 1],
    /// For each length what added to a code of it gives its place among `symbols`.
    places: [i32; LENGTH_MAX + 1],
    /// By code.
    symbols: Box<[u8]>,
}

impl Decoder {
    /// From the lengths of each context; an error when they are those of no code.
    pub(super) fn new(contexts: &[Vec<u8>]) -> Result<Decoder, Damage> {
        let long = contexts.iter().map(|lengths| LongCodes::new(lengths)).collect::<Result<_, _>>()?;
        Ok(Decoder { tables: contexts.iter().map(|lengths| table_of(lengths)).collect(), long })
    }

    /// The next symbol in this context.
    #[inline(always)]
    pub(super) fn symbol(&self, context: usize, bits: &mut BitReader<'_>) -> Result<u8, Damage> {
        let window = bits.peek();
        let table = self.tables.get(context).ok_or(Damage::Code)?;
        let mut entry = table[usize::from((window >> (64 - TABLE_BITS)) as u8)];
        if entry == NO_CODE {
            entry = self.long_entry(context, window)?;
        }
        bits.skip(u32::from(entry & 0xff))?;
        Ok((entry >> 8) as u8)
    }

    #[cold]
    fn long_entry(&self, context: usize, window: u64) -> Result<u16, Damage> {
        let long = self.long.get(context).ok_or(Damage::Code)?;
        let window = (window >> 48) as u32;
        for (length, (&end, &place)) in long.ends.iter().zip(&long.places).enumerate().skip(TABLE_BITS as usize + 1) {
            if window < end {
                let place = (window >> (16 - length)) as i32 + place;
                let symbol = usize::try_from(place).ok().and_then(|at| long.symbols.get(at)).ok_or(Damage::Code)?;
                return Ok(u16::from(*symbol) << 8 | length as u16);
            }
        }
        Err(Damage::Code)
    }
}

impl LongCodes {
    fn new(lengths: &[u8]) -> Result<LongCodes, Damage> {
        if lengths.iter().any(|&length| usize::from(length) > LENGTH_MAX) {
            return Err(Damage::Code);
        }
        let counts = counts_of(lengths);
        let first = first_codes(&counts);
        let mut ends = [0u32; LENGTH_MAX + 1];
        let mut places = [0i32; LENGTH_MAX + 1];
        let mut place = 0;
        for length in 1..=LENGTH_MAX {
            let end = first[length] + counts[length];
            if end > 1 << length {
                return Err(Damage::Code);
            }
            ends[length] = end << (16 - length);
            places[length] = place - first[length] as i32;
            place += counts[length] as i32;
        }
        let mut symbols: Vec<u8> = (0..lengths.len()).filter(|&at| lengths[at] > 0).map(|at| at as u8).collect();
        symbols.sort_by_key(|&symbol| lengths[usize::from(symbol)]);
        Ok(LongCodes { ends, places, symbols: symbols.into() })
    }
}

/// The table of the short codes among those of these lengths, which are codes.
fn table_of(lengths: &[u8]) -> [u16; 1 << TABLE_BITS] {
    let mut table = [NO_CODE; 1 << TABLE_BITS];
    for (symbol, (code, length)) in codes_of(lengths).into_iter().enumerate() {
        let spare = TABLE_BITS.wrapping_sub(u32::from(length));
        if length > 0 && spare < TABLE_BITS {
            let from = usize::from(code) << spare;
            table[from..from + (1 << spare)].fill((symbol as u16) << 8 | u16::from(length));
        }
    }
    table
}

#[cfg(test)]
mod tests {
    use super::super::bits::BitWriter;
    use super::*;

    fn round_trip(counts: &[u64]) -> Vec<u8> {
        let lengths = lengths_of(counts);
        let codes = codes_of(&lengths);
        let decoder = Decoder::new(std::slice::from_ref(&lengths)).unwrap();
        let symbols: Vec<u8> = (0..counts.len()).filter(|&at| counts[at] > 0).map(|at| at as u8).collect();
        let mut writer = BitWriter::default();
        for _ in 0..3 {
            for &symbol in &symbols {
                let (code, length) = codes[usize::from(symbol)];
                assert!(length > 0 && usize::from(length) <= LENGTH_MAX);
                writer.put(code.into(), length.into());
            }
        }
        let mut bytes = Vec::new();
        writer.take_into(&mut bytes);
        let mut reader = BitReader::new(&bytes);
        for _ in 0..3 {
            for &symbol in &symbols {
                assert_eq!(decoder.symbol(0, &mut reader), Ok(symbol));
            }
        }
        lengths
    }

    #[test]
    fn every_symbol_decodes_to_itself_whatever_the_counts() {
        assert_eq!(round_trip(&[0, 7, 0]), [0, 1, 0]);
        assert_eq!(round_trip(&[1, 1]), [1, 1]);
        assert_eq!(round_trip(&[4, 2, 1, 1]), [1, 2, 3, 3]);
        assert_eq!(round_trip(&[0; 5]), [0; 5]);
        round_trip(&[1; 256]);
        // Fibonacci counts would give codes of 39 bits without a bound.
        let mut counts = vec![1u64, 1];
        (0..38).for_each(|at| counts.push(counts[at] + counts[at + 1]));
        let lengths = round_trip(&counts);
        assert_eq!(lengths.iter().map(|&length| 1 << (LENGTH_MAX - usize::from(length))).sum::<u32>(), 1 << LENGTH_MAX);
    }

    #[test]
    fn lengths_that_are_no_code_are_refused_and_bits_that_are_none_fail() {
        assert!(Decoder::new(&[vec![1, 1, 1]]).is_err());
        assert!(Decoder::new(&[vec![13]]).is_err());
        let decoder = Decoder::new(&[vec![1, 0, 3]]).unwrap();
        assert_eq!(decoder.symbol(0, &mut BitReader::new(&[0xff; 8])), Err(Damage::Code));
        assert_eq!(decoder.symbol(0, &mut BitReader::new(&[])), Err(Damage::Short));
        let decoder = Decoder::new(&[vec![1, 11, 12]]).unwrap();
        assert_eq!(decoder.symbol(0, &mut BitReader::new(&[0xff; 8])), Err(Damage::Code));
        assert_eq!(decoder.symbol(0, &mut BitReader::new(&[0x80, 0x00])), Ok(1));
        assert_eq!(decoder.symbol(0, &mut BitReader::new(&[0x80, 0x20])), Ok(2));
    }
}
