//! The bytes of a list: plain, gzip or zstd, and its lines.

use std::fs::File;
use std::io::{self, BufRead, BufReader, Read};
use std::path::Path;

/// Bytes read from a list at a time.
const READ_BYTES: usize = 128 * 1024;

/// Opens a list. Gzip (also of several members) and zstd are told by their first bytes, not by the file's name.
///
/// # Errors
/// Those of the file system. A corrupt or truncated archive is an error of the reader, when its damage is reached.
pub fn open(path: &Path) -> io::Result<Box<dyn BufRead>> {
    let mut file = File::open(path)?;
    let mut magic = Vec::with_capacity(4);
    Read::by_ref(&mut file).take(4).read_to_end(&mut magic)?;
    let whole = BufReader::with_capacity(READ_BYTES, io::Cursor::new(magic.clone()).chain(file));
    Ok(match magic.as_slice() {
        [0x1f, 0x8b, ..] => {
            Box::new(BufReader::with_capacity(READ_BYTES, flate2::bufread::MultiGzDecoder::new(whole)))
        }
        // A zstd frame, or a skippable frame in front of one (RFC 8878 §3.1).
        [0x28, 0xb5, 0x2f, 0xfd] | [0x50..=0x5f, 0x2a, 0x4d, 0x18] => {
            Box::new(BufReader::with_capacity(READ_BYTES, zstd::Decoder::with_buffer(whole)?))
        }
        _ => Box::new(whole),
    })
}
