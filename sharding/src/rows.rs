//! skeleton
use crate::StoreError;
use crate::name::Name;
use crate::rule::ClassId;
/// One connection to one shard.
pub struct Shard {}
impl Shard {
    /// Calls `found` with the class of each rule of this very name.
    pub fn classes_of(&mut self, _name_text: &str, _found: &mut dyn FnMut(ClassId)) -> Result<(), StoreError> {
        todo!()
    }
    /// The target of an alias.
    pub fn target_of(&mut self, _name_text: &str, _class: ClassId) -> Result<Option<Name>, StoreError> {
        todo!()
    }
}
