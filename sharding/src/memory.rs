//! Memory that is mapped: files of a generation, read-only, and memory of the process's own in huge pages.
//!
//! A processor knows where some thousand pages lie. What is looked up at random in more memory than that waits for the address before
//! it waits for the line, and so does an instruction that has it fetched ahead; huge pages are as few as need be.
//!
//! Invariant: only files that nothing writes to any more are mapped, so that what was checked once stays as it is. Who truncates one
//! under a running server gets a SIGBUS, as with any mapping.

use std::fs::File;
use std::io;
use std::mem::MaybeUninit;
use std::path::Path;

use memmap2::{Advice, Mmap, MmapMut};

use crate::StoreError;

/// Bytes of a huge page, or less: on x86-64 it is these, and where they are larger the kernel sees by itself which fit in. A multiple of
/// every page size.
const HUGE_PAGE_BYTES: usize = 2 << 20;

/// Maps a finished file of a generation; an empty one gives an empty mapping.
pub(crate) fn map(path: &Path) -> Result<Mmap, StoreError> {
    let file = File::open(path).map_err(StoreError::io(path, "open the file"))?;
    // SAFETY: the mapping is read-only and the file belongs to a generation, which is never modified once published:
    // `Built::publish` renames a finished directory into place and nothing opens a file of it for writing.
    unsafe { Mmap::map(&file) }.map_err(StoreError::io(path, "map the file"))
}

/// Memory of zeroes that nothing has touched yet, in huge pages where the kernel gives them.
pub(crate) fn anonymous(bytes: usize) -> io::Result<MmapMut> {
    let memory = MmapMut::map_anon(bytes.max(1))?;
    // A kernel without huge pages refuses; small ones do as well.
    let _ = memory.advise(Advice::HugePage);
    Ok(memory)
}

/// A copy of `bytes` that stays in memory until it is dropped, in huge pages where the kernel gives them.
pub(crate) fn locked_copy(bytes: &[u8]) -> io::Result<Mmap> {
    let mut memory = anonymous(bytes.len())?;
    // Before the copy, which would be for nothing when it is refused.
    memory.lock()?;
    memory[..bytes.len()].copy_from_slice(bytes);
    memory.make_read_only()
}

/// So many copies of a value, in huge pages where the kernel gives them. The calling thread is the first to touch that memory, which
/// so lies near the core that it runs on.
pub fn filled<T: Clone>(count: usize, value: T) -> Vec<T> {
    let mut values = Vec::with_capacity(count);
    let room: &mut [MaybeUninit<T>] = values.spare_capacity_mut();
    let at = room.as_ptr() as usize;
    let skipped = at.next_multiple_of(HUGE_PAGE_BYTES) - at;
    if let Some(bytes) = size_of_val(room).checked_sub(skipped) {
        // A kernel without huge pages refuses; small ones do as well.
        // SAFETY: `skipped` leads to a place within the room, and so many bytes behind it are the room's too. The advice is about memory that
        // this vector has to itself, and changes nothing that a program can see.
        unsafe {
            libc::madvise(room.as_mut_ptr().byte_add(skipped).cast(), bytes, libc::MADV_HUGEPAGE);
        }
    }
    values.resize(count, value);
    values
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_filled_has_every_value_whatever_its_size() {
        for count in [0, 1, 1_000, HUGE_PAGE_BYTES / 8 - 1, HUGE_PAGE_BYTES / 2] {
            let values = filled(count, 7_u64);
            assert!(values.len() == count && values.iter().all(|value| *value == 7), "{count}");
        }
        assert_eq!(filled(3, String::from("text")), ["text"; 3]);
    }

    #[test]
    fn a_locked_copy_has_the_same_bytes() {
        for bytes in [vec![1, 2, 3], (0..100_000).map(|at| at as u8).collect()] {
            assert_eq!(locked_copy(&bytes).unwrap()[..], bytes);
        }
    }
}
