//! skeleton
use crate::StoreError;
use std::path::Path;
/// A mapped binary-fuse filter.
pub struct Filter {}
impl Filter {
    /// Opens and checks.
    pub fn open(_path: &Path) -> Result<Filter, StoreError> {
        todo!()
    }
    /// Whether the key may be listed.
    pub fn contains(&self, _key: u64) -> bool {
        todo!()
    }
    /// Keys inside.
    pub fn keys(&self) -> u64 {
        todo!()
    }
    /// Bytes mapped.
    pub fn bytes(&self) -> usize {
        todo!()
    }
}
