//! Codes of some bits each in a row of octets, the most significant bit first.
//!
//! Invariant: a [`BitReader`] never gives out a bit that is not there; the bits that fill the last octet are zero.

use super::Damage;

/// Bits of the longest code that [`BitWriter::put`] takes and [`BitReader::peek`] sees.
pub(super) const CODE_BITS_MAX: u32 = 32;

/// Bits on their way into octets.
#[derive(Default)]
pub(super) struct BitWriter {
    bytes: Vec<u8>,
    /// Bits not yet in `bytes`, the last one lowest.
    rest: u64,
    /// How many: fewer than 8 between two calls.
    rest_bits: u32,
}

/// A place to come back to.
#[derive(Clone, Copy)]
pub(super) struct BitMark {
    bytes: usize,
    rest: u64,
    rest_bits: u32,
}

impl BitWriter {
    /// Appends the lowest `bits` of `code`, at most [`CODE_BITS_MAX`] of them; the others are zero.
    pub(super) fn put(&mut self, code: u32, bits: u32) {
        self.rest = self.rest << bits | u64::from(code);
        self.rest_bits += bits;
        while self.rest_bits >= 8 {
            self.rest_bits -= 8;
            self.bytes.push((self.rest >> self.rest_bits) as u8);
        }
    }

    /// Appends a number from 1 in the Elias gamma code: as many zeros as it has bits after the first, then itself.
    pub(super) fn put_gamma(&mut self, number: u32) {
        let bits = number.max(1).ilog2();
        self.put(0, bits);
        self.put(number.max(1), bits + 1);
    }

    /// Octets when it ended here.
    pub(super) fn len(&self) -> usize {
        self.bytes.len() + usize::from(self.rest_bits > 0)
    }

    pub(super) fn mark(&self) -> BitMark {
        BitMark { bytes: self.bytes.len(), rest: self.rest, rest_bits: self.rest_bits }
    }

    /// Forgets what came after the mark.
    pub(super) fn back_to(&mut self, mark: BitMark) {
        self.bytes.truncate(mark.bytes);
        (self.rest, self.rest_bits) = (mark.rest, mark.rest_bits);
    }

    /// Appends the octets to `to` and begins anew.
    pub(super) fn take_into(&mut self, to: &mut Vec<u8>) {
        if self.rest_bits > 0 {
            self.put(0, 8 - self.rest_bits);
        }
        to.append(&mut self.bytes);
        self.rest = 0;
    }
}

/// Bits of a code of the number in the Elias gamma code.
pub(super) fn gamma_bits(number: u32) -> u32 {
    2 * number.max(1).ilog2() + 1
}

/// Octets read bit by bit.
#[derive(Clone, Copy)]
pub(super) struct BitReader<'a> {
    bytes: &'a [u8],
    /// The next octet that is not in `window`.
    next: usize,
    /// The next bits, the first one highest.
    window: u64,
    /// How many of them are real; those below are zero.
    have: u32,
}

impl<'a> BitReader<'a> {
    pub(super) fn new(bytes: &'a [u8]) -> Self {
        Self { bytes, next: 0, window: 0, have: 0 }
    }

    /// The next 64 bits, of which at least [`CODE_BITS_MAX`] are real or all that are left.
    #[inline(always)]
    pub(super) fn peek(&mut self) -> u64 {
        if self.have < CODE_BITS_MAX {
            if let Some(chunk) = self.bytes.get(self.next..).and_then(|rest| rest.first_chunk::<8>()) {
                // Only whole octets are counted; bits of a further one may lie below them and are read again, equal.
                self.window |= u64::from_be_bytes(*chunk) >> self.have;
                let octets = (63 - self.have) / 8;
                self.next += octets as usize;
                self.have += 8 * octets;
            } else {
                // By value: a reader whose address is known is kept in memory instead of registers, at a third of the speed.
                *self = self.filled_to_the_end();
            }
        }
        self.window
    }

    /// Goes over bits that were seen.
    #[inline(always)]
    pub(super) fn skip(&mut self, bits: u32) -> Result<(), Damage> {
        if bits > self.have {
            return Err(Damage::Short);
        }
        // At most `CODE_BITS_MAX`, so the shift is in bounds.
        self.window <<= bits;
        self.have -= bits;
        Ok(())
    }

    /// A number in the Elias gamma code.
    pub(super) fn gamma(&mut self) -> Result<u32, Damage> {
        let zeros = self.peek().leading_zeros();
        if zeros >= CODE_BITS_MAX {
            return Err(if self.have < CODE_BITS_MAX { Damage::Short } else { Damage::Code });
        }
        self.skip(zeros)?;
        let number = (self.peek() >> (63 - zeros)) as u32;
        self.skip(zeros + 1)?;
        Ok(number)
    }

    #[cold]
    fn filled_to_the_end(mut self) -> Self {
        while let (true, Some(&octet)) = (self.have <= 56, self.bytes.get(self.next)) {
            self.window |= u64::from(octet) << (56 - self.have);
            self.next += 1;
            self.have += 8;
        }
        self
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_come_out_as_they_went_in() {
        let mut writer = BitWriter::default();
        let codes: Vec<(u32, u32)> =
            (1..=32).cycle().take(1_000).map(|bits| (u32::MAX >> (32 - bits) ^ 1, bits)).collect();
        let numbers = [1, 2, 3, 4, 63, 64, 1_000_000, u32::MAX];
        codes.iter().for_each(|&(code, bits)| writer.put(code, bits));
        numbers.iter().for_each(|&number| writer.put_gamma(number));
        let mut bytes = Vec::new();
        let len = writer.len();
        writer.take_into(&mut bytes);
        assert_eq!(bytes.len(), len);
        let all_bits = codes.iter().map(|(_, bits)| bits).sum::<u32>() + numbers.map(gamma_bits).iter().sum::<u32>();
        assert_eq!(bytes.len(), all_bits.div_ceil(8) as usize);
        let mut reader = BitReader::new(&bytes);
        for (code, bits) in codes {
            assert_eq!((reader.peek() >> (64 - bits)) as u32, code);
            reader.skip(bits).unwrap();
        }
        for number in numbers {
            assert_eq!(reader.gamma().unwrap(), number);
        }
        let left = bytes.len() as u32 * 8 - all_bits;
        reader.peek();
        assert_eq!(reader.skip(left + 1), Err(Damage::Short));
        assert_eq!(BitReader::new(&[]).gamma(), Err(Damage::Short));
        assert_eq!(BitReader::new(&[0; 9]).gamma(), Err(Damage::Code));
    }

    #[test]
    fn going_back_to_a_mark_forgets_what_came_after_it() {
        let mut bytes = [Vec::new(), Vec::new()];
        for (times, bytes) in bytes.iter_mut().enumerate() {
            let mut writer = BitWriter::default();
            writer.put(0x1a5, 13);
            let mark = writer.mark();
            for _ in 0..times {
                writer.put(0xffff, 21);
                writer.back_to(mark);
            }
            writer.put(0x2b, 6);
            writer.take_into(bytes);
        }
        assert_eq!(bytes[0], bytes[1]);
    }
}
