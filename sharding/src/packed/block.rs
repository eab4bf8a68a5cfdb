//! A block: what a row of the table `block` holds, and how a name is found in it.
//!
//! Its head says which names may be in it and where its groups are; a group is some dozens of names, spelled one after the
//! other. To find a name the head and one group are read, both checked against their sums. Invariant: a name is called absent only
//! when the block is where that name belongs, so a wrong row is an error and not an answer.

use super::bits::BitReader;
use super::model::{END, NameDecoder, Symbols};
use super::{Damage, KEY_BYTES_MAX, common_len, sum};
use crate::rule::ClassId;

/// Octets before the head's content: its length with them, and its sum.
pub(super) const HEAD_START_BYTES: usize = 6;
/// Octets of a number in the head: seven bits each.
const NUMBER_BYTES_MAX: usize = 5;

/// Buffers of a lookup, made once.
pub(super) struct Scratch {
    separator: [u8; KEY_BYTES_MAX],
    name: Symbols,
    target: Symbols,
}

impl Scratch {
    pub(super) fn new() -> Box<Scratch> {
        let empty = [END; KEY_BYTES_MAX + 1];
        Box::new(Scratch { separator: [0; KEY_BYTES_MAX], name: empty, target: empty })
    }
}

/// A block whose head is sound.
pub(super) struct Block<'a> {
    /// What every name of it is lower than; none for the last block.
    end: Option<&'a [u8]>,
    /// The groups' entries.
    directory: &'a [u8],
    bodies: &'a [u8],
}

/// A group's entry in the head.
struct Entry<'a> {
    /// Octets of its separator shared with that of the group before, and the others.
    shared: usize,
    tail: &'a [u8],
    names: u32,
    letters_len: usize,
    classes_len: usize,
    sum: u32,
}

impl<'a> Block<'a> {
    /// Reads and checks the head.
    pub(super) fn read(bytes: &'a [u8]) -> Result<Block<'a>, Damage> {
        let (head_len, rest) = bytes.split_first_chunk::<2>().ok_or(Damage::Short)?;
        let (expected, _) = rest.split_first_chunk::<4>().ok_or(Damage::Short)?;
        let head_len = usize::from(u16::from_le_bytes(*head_len));
        let (head, bodies) = bytes.split_at_checked(head_len).ok_or(Damage::Short)?;
        let mut directory = head.get(HEAD_START_BYTES..).ok_or(Damage::Short)?;
        if sum(directory) != u32::from_le_bytes(*expected) {
            return Err(Damage::Sum);
        }
        // One more than the length, so that 0 says there is no end.
        let end = match number(&mut directory)?.checked_sub(1) {
            Some(len) => Some(octets(&mut directory, len as usize)?),
            None => None,
        };
        Ok(Block { end, directory, bodies })
    }

    /// What every name of it is lower than; none for the last block.
    pub(super) fn end(&self) -> Option<&'a [u8]> {
        self.end
    }

    /// Calls `found` with each class of the name with this key. Allocates nothing.
    pub(super) fn find(
        &self,
        decoder: &NameDecoder,
        key: &[u8],
        scratch: &mut Scratch,
        found: &mut dyn FnMut(ClassId),
    ) -> Result<(), Damage> {
        if self.end.is_some_and(|end| key >= end) {
            return Err(Damage::Place);
        }
        let Some((entry, separator_len, start)) = self.group_of(key, &mut scratch.separator)? else {
            return Ok(());
        };
        let Some(body) = entry.body(self.bodies, start)? else { return Err(Damage::Short) };
        let Scratch { separator, name, target } = scratch;
        // An octet that no name of the shard has.
        let Some(_) = decoder.symbols(key, target) else { return Ok(()) };
        let separator = separator.get(..separator_len).unwrap_or_default();
        let len = decoder.symbols(separator, name).ok_or(Damage::Code)?;
        let place = place_of(decoder, body.letters, entry.names, name, len, target)?;
        place.map_or(Ok(()), |place| classes_at(body.classes, place, found))
    }

    /// The group in which the key belongs, the length of its separator, which is in the buffer then, and where it starts.
    /// None when the block has no group.
    fn group_of(
        &self,
        key: &[u8],
        separator: &mut [u8; KEY_BYTES_MAX],
    ) -> Result<Option<(Entry<'a>, usize, usize)>, Damage> {
        let mut rest = self.directory;
        let mut best = None;
        let (mut start, mut matched) = (0usize, 0);
        while !rest.is_empty() {
            let entry = Entry::read(&mut rest)?;
            let len = entry.shared + entry.tail.len();
            if best.is_none() || entry.shared == matched {
                let tail = key.get(entry.shared..).unwrap_or_default();
                if entry.tail > tail {
                    break;
                }
                matched = entry.shared + common_len(entry.tail, tail);
            } else if entry.shared < matched {
                // It differs from the one before where that one still agrees with the key: it is behind the key.
                break;
            }
            let place = separator.get_mut(entry.shared..len).ok_or(Damage::Order)?;
            place.copy_from_slice(entry.tail);
            let next = start + entry.letters_len + entry.classes_len;
            best = Some((entry, len, start));
            start = next;
        }
        if best.is_none() && !self.directory.is_empty() {
            return Err(Damage::Place);
        }
        Ok(best)
    }

    /// Calls `found` with each key and class in order; false ends it, and the result is false then.
    pub(super) fn each(
        &self,
        decoder: &NameDecoder,
        scratch: &mut Scratch,
        key: &mut Vec<u8>,
        found: &mut dyn FnMut(&[u8], ClassId) -> bool,
    ) -> Result<bool, Damage> {
        let (mut rest, mut start) = (self.directory, 0usize);
        let Scratch { separator, name, .. } = scratch;
        while !rest.is_empty() {
            let entry = Entry::read(&mut rest)?;
            let len = entry.shared + entry.tail.len();
            separator.get_mut(entry.shared..len).ok_or(Damage::Order)?.copy_from_slice(entry.tail);
            let Some(body) = entry.body(self.bodies, start)? else { return Err(Damage::Short) };
            let separator = separator.get(..len).ok_or(Damage::Order)?;
            let mut len = decoder.symbols(separator, name).ok_or(Damage::Code)?;
            let mut shared = len.saturating_sub(1);
            let mut letters = BitReader::new(body.letters);
            let mut classes = Runs::new(body.classes);
            for place in 0..entry.names {
                if place == 0 {
                    len = decoder.rest(&mut letters, len, name)?;
                } else {
                    shared = decoder.shared(&mut letters, shared)?;
                    if shared > len {
                        return Err(Damage::Order);
                    }
                    len = decoder.next(&mut letters, shared, name)?;
                }
                decoder.octets(name.get(..len).ok_or(Damage::Order)?, key);
                let mut go_on = true;
                classes.next(&mut |class| go_on = go_on && found(key, class))?;
                if !go_on {
                    return Ok(false);
                }
            }
            start += entry.letters_len + entry.classes_len;
        }
        if start == self.bodies.len() { Ok(true) } else { Err(Damage::Short) }
    }
}

impl<'a> Entry<'a> {
    fn read(rest: &mut &'a [u8]) -> Result<Entry<'a>, Damage> {
        let shared = number(rest)? as usize;
        let len = number(rest)? as usize;
        let tail = octets(rest, len)?;
        let names = number(rest)?;
        let (letters_len, classes_len) = (number(rest)? as usize, number(rest)? as usize);
        let (sum, after) = rest.split_first_chunk::<4>().ok_or(Damage::Short)?;
        *rest = after;
        Ok(Entry { shared, tail, names, letters_len, classes_len, sum: u32::from_le_bytes(*sum) })
    }

    /// The octets of the group, checked; none when they are not there.
    fn body<'b>(&self, bodies: &'b [u8], start: usize) -> Result<Option<Body<'b>>, Damage> {
        let end = start + self.letters_len + self.classes_len;
        let Some(bytes) = bodies.get(start..end) else { return Ok(None) };
        if sum(bytes) != self.sum {
            return Err(Damage::Sum);
        }
        Ok(bytes.split_at_checked(self.letters_len).map(|(letters, classes)| Body { letters, classes }))
    }
}

/// A group's octets.
struct Body<'a> {
    letters: &'a [u8],
    classes: &'a [u8],
}

/// Which of a group's names equals the target, both in symbols; `name` has the separator's `len` symbols.
fn place_of(
    decoder: &NameDecoder,
    letters: &[u8],
    names: u32,
    name: &mut Symbols,
    len: usize,
    target: &Symbols,
) -> Result<Option<u32>, Damage> {
    let mut bits = BitReader::new(letters);
    // How many symbols the last name shares with the target, which it is lower than.
    let mut matched = 0;
    let (mut len, mut shared) = (len, len.saturating_sub(1));
    for place in 0..names {
        if place == 0 {
            len = decoder.rest(&mut bits, len, name)?;
        } else {
            shared = decoder.shared(&mut bits, shared)?;
            if shared > len {
                return Err(Damage::Order);
            }
            if shared < matched {
                // The next name differs from the last one where that one still agrees with the target: it is behind it.
                return Ok(None);
            }
            len = decoder.next(&mut bits, shared, name)?;
            if shared > matched {
                continue;
            }
        }
        let same = |(name, target): &(&u8, &u8)| name == target && **name != END;
        let pairs = name.iter().zip(target).skip(matched);
        matched += pairs.take_while(same).count();
        match (name.get(matched), target.get(matched)) {
            (Some(&END), Some(&END)) => return Ok(Some(place)),
            (Some(name), Some(target)) if name < target => {}
            _ => return Ok(None),
        }
    }
    Ok(None)
}

fn classes_at(bytes: &[u8], place: u32, found: &mut dyn FnMut(ClassId)) -> Result<(), Damage> {
    let mut bits = BitReader::new(bytes);
    let mut before = 0u32;
    loop {
        let names = bits.gamma()?;
        let is_here = place - before < names;
        for _ in 0..bits.gamma()? {
            let class = bits.gamma()? - 1;
            if is_here {
                found(class);
            }
        }
        if is_here {
            return Ok(());
        }
        before += names;
    }
}

/// The classes of one name after the other: runs of names that have the same ones.
struct Runs<'a> {
    bits: BitReader<'a>,
    left: u32,
    classes: Vec<ClassId>,
}

impl<'a> Runs<'a> {
    fn new(bytes: &'a [u8]) -> Self {
        Self { bits: BitReader::new(bytes), left: 0, classes: Vec::new() }
    }

    fn next(&mut self, found: &mut dyn FnMut(ClassId)) -> Result<(), Damage> {
        if self.left == 0 {
            self.left = self.bits.gamma()?;
            self.classes.clear();
            for _ in 0..self.bits.gamma()? {
                self.classes.push(self.bits.gamma()? - 1);
            }
        }
        self.left -= 1;
        self.classes.iter().for_each(|&class| found(class));
        Ok(())
    }
}

/// Appends a number of the head: seven bits an octet, the lowest first, the highest bit set in all but the last.
pub(super) fn put_number(mut number: u32, to: &mut Vec<u8>) {
    while number >= 0x80 {
        to.push(number as u8 | 0x80);
        number >>= 7;
    }
    to.push(number as u8);
}

fn number(rest: &mut &[u8]) -> Result<u32, Damage> {
    let mut number = 0u64;
    for place in 0..NUMBER_BYTES_MAX {
        let (&octet, after) = rest.split_first().ok_or(Damage::Short)?;
        *rest = after;
        number |= u64::from(octet & 0x7f) << (7 * place);
        if octet < 0x80 {
            return u32::try_from(number).map_err(|_| Damage::Code);
        }
    }
    Err(Damage::Code)
}

fn octets<'a>(rest: &mut &'a [u8], len: usize) -> Result<&'a [u8], Damage> {
    let (octets, after) = rest.split_at_checked(len).ok_or(Damage::Short)?;
    *rest = after;
    Ok(octets)
}

#[cfg(test)]
mod tests {
    use super::super::block_builder::{BlockBuilder, GROUP_NAMES, NameRow};
    use super::super::model::{Counts, Model, NameEncoder};
    use super::*;

    /// Keys with their classes.
    type Names = Vec<(Vec<u8>, Vec<ClassId>)>;

    /// Names as one block of several groups, with what decodes it.
    fn block(end: Option<&[u8]>) -> (Names, Vec<u8>, NameDecoder) {
        let mut names = Names::new();
        for number in 0..3 * GROUP_NAMES {
            let key = format!("com\0{}\0host{}", number % 5, number.wrapping_mul(2_654_435_761) % 100_000);
            let classes = if number % 9 == 0 { vec![number, 1_000_000] } else { vec![0] };
            names.push((key.into_bytes(), classes));
        }
        names.push(([b"com\09\0".as_slice(), &[b'x'; 900]].concat(), vec![3]));
        names.push(([b"com\09\0".as_slice(), &[b'x'; 1_000]].concat(), vec![3]));
        names.sort();
        let mut counts = Counts::new();
        names.iter().for_each(|(key, _)| assert!(counts.add(key)));
        let model = Model::from_bytes(&counts.model().to_bytes()).unwrap();
        assert_eq!(model, counts.model());
        let mut encoder = NameEncoder::new(&model);
        let mut builder = BlockBuilder::new(b"", 4_000);
        let (mut before, mut shared_before) = (Vec::new(), 0);
        for (key, classes) in &names {
            let shared = common_len(&before, key);
            assert!(builder.push(&mut encoder, NameRow { key, before: &before, shared, shared_before, classes }));
            (before, shared_before) = (key.clone(), shared);
        }
        let (start, bytes) = builder.finish(end);
        assert!(start.is_empty() && bytes.len() <= 4_000);
        (names, bytes, NameDecoder::new(&model).unwrap())
    }

    fn found(bytes: &[u8], decoder: &NameDecoder, key: &[u8], scratch: &mut Scratch) -> Result<Vec<ClassId>, Damage> {
        let mut classes = Vec::new();
        Block::read(bytes)?.find(decoder, key, scratch, &mut |class| classes.push(class))?;
        Ok(classes)
    }

    #[test]
    fn each_name_is_found_with_its_classes_and_none_beside_them() {
        let (names, bytes, decoder) = block(Some(b"d"));
        let scratch = &mut *Scratch::new();
        for (key, classes) in &names {
            assert_eq!(&found(&bytes, &decoder, key, scratch).unwrap(), classes);
            for near in [&key[..key.len() - 1], &[key, &b"0"[..]].concat(), &[key, &b"\0z"[..]].concat()] {
                if !names.iter().any(|(key, _)| key == near) && near.len() <= KEY_BYTES_MAX {
                    assert!(found(&bytes, &decoder, near, scratch).unwrap().is_empty());
                }
            }
        }
        for absent in [&b""[..], b"a", b"com", b"com\0!", b"com\0\x7f", b"com\x009\x00xy"] {
            assert!(found(&bytes, &decoder, absent, scratch).unwrap().is_empty());
        }
        for beyond in [&b"d"[..], b"d\0a", b"z"] {
            assert_eq!(found(&bytes, &decoder, beyond, scratch), Err(Damage::Place));
        }
        let mut all = Vec::new();
        let each = &mut |key: &[u8], class| {
            all.push((key.to_vec(), class));
            true
        };
        assert!(Block::read(&bytes).unwrap().each(&decoder, scratch, &mut Vec::new(), each).unwrap());
        let expected: Vec<_> = names.iter().flat_map(|(key, ids)| ids.iter().map(|&id| (key.clone(), id))).collect();
        assert_eq!(all, expected);
    }

    #[test]
    fn every_bit_flip_and_truncation_is_an_error_or_changes_no_answer() {
        let (names, good, decoder) = block(Some(b"d"));
        let scratch = &mut *Scratch::new();
        let asked: Vec<_> = names.iter().step_by(29).chain(names.last()).collect();
        let mut errors = 0;
        for bit in 0..good.len() * 8 {
            let mut bad = good.clone();
            bad[bit / 8] ^= 1 << (bit % 8);
            let errors_before = errors;
            for (key, classes) in &asked {
                match found(&bad, &decoder, key, scratch) {
                    Ok(answer) => assert_eq!(&answer, classes, "bit {bit}"),
                    Err(_) => errors += 1,
                }
            }
            let whole =
                Block::read(&bad).and_then(|block| block.each(&decoder, scratch, &mut Vec::new(), &mut |_, _| true));
            assert!(whole.is_err(), "bit {bit}");
            assert!(errors > errors_before, "bit {bit} is in a group of which a name was asked for");
        }
        for len in 0..good.len() {
            for (key, classes) in &asked {
                if let Ok(answer) = found(&good[..len], &decoder, key, scratch) {
                    assert_eq!(&answer, classes, "length {len}");
                }
            }
        }
    }

    #[test]
    fn octets_of_any_kind_end_in_an_error_or_an_answer() {
        let (names, good, decoder) = block(None);
        let scratch = &mut *Scratch::new();
        let head_len = usize::from(u16::from_le_bytes([good[0], good[1]]));
        let mut state = 7u64;
        let mut random = || {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            state
        };
        for round in 0..20_000usize {
            // A group's octets past its sum, which anyone can compute.
            let letters: Vec<u8> = (0..round % 300).map(|_| if round % 3 == 0 { 0 } else { random() as u8 }).collect();
            let key = &names[round % names.len()].0;
            decoder.symbols(key, &mut scratch.target).unwrap();
            let _ = place_of(&decoder, &letters, random() as u32, &mut scratch.name, 0, &scratch.target);
            let _ = classes_at(&letters, random() as u32, &mut |_| ());
            // A head past its sum.
            let mut bad = good.clone();
            for _ in 0..=round % 4 {
                let at = HEAD_START_BYTES + random() as usize % (head_len - HEAD_START_BYTES);
                bad[at] = random() as u8;
            }
            let sum = sum(&bad[HEAD_START_BYTES..head_len]);
            bad[2..HEAD_START_BYTES].copy_from_slice(&sum.to_le_bytes());
            let _ = found(&bad, &decoder, key, scratch);
            let _ =
                Block::read(&bad).and_then(|block| block.each(&decoder, scratch, &mut Vec::new(), &mut |_, _| true));
        }
    }
}
