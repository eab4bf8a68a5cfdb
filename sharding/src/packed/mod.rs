//! The packed layout: rules by name as blocks of sorted names, front-coded and Huffman-coded, a block to a page.
//!
//! | file | noun |
//! |---|---|
//! | `bits.rs` | `BitWriter`, `BitReader`: codes in octets |
//! | `huffman.rs` | code lengths out of counts, and the table that decodes |
//! | `model.rs` | `Model`: the codes of a generation, and the counts that make them |
//! | `block.rs` | `Block`: what is in one, and how a name is found in it |
//! | `block_builder.rs` | `BlockBuilder`: names in, a block out |
//! | `writer.rs` | `PackedWriter`: rows in, the tables of a shard out |
//! | `reader.rs` | `PackedRules`: a name looked up, all rules read |
//!
//! Invariant: whatever octets a block or a model has, reading gives an error or what was written, in bounded time and
//! memory. `README.md` has the formats octet by octet.

mod bits;
mod block;
mod block_builder;
mod huffman;
mod model;
mod reader;
mod writer;

pub(crate) use reader::{DecoderCache, PackedRules};
pub(crate) use writer::{CodeMaker, PackedCode, PackedWriter};

use std::fmt;

/// Octets of a key in the longest case.
const KEY_BYTES_MAX: usize = crate::name::NAME_TEXT_BYTES_MAX;

/// Why a block or a model cannot be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Damage {
    /// The sum of some octets is not the one beside them.
    Sum,
    /// It ends early.
    Short,
    /// Bits that are no code, or a number that no writer makes.
    Code,
    /// Names that do not ascend, or one longer than a name is.
    Order,
    /// It is a sound block, of other names than those it was asked for.
    Place,
}

impl fmt::Display for Damage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Sum => "the checksum of a block of names does not match",
            Self::Short => "a block of names ends early",
            Self::Code => "a block of names holds bits that are no code",
            Self::Order => "the names of a block are not in order",
            Self::Place => "a block of names is not where it belongs",
        })
    }
}

/// Octets that two texts have in common at their start.
fn common_len(a: &[u8], b: &[u8]) -> usize {
    a.iter().zip(b).take_while(|(a, b)| a == b).count()
}

/// The sum that stands beside some octets.
fn sum(bytes: &[u8]) -> u32 {
    xxhash_rust::xxh3::xxh3_64(bytes) as u32
}
