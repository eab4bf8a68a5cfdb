//! skeleton
use crate::StoreError;
use crate::rule::{IpRewrite, ListId, Rule};
use std::path::Path;
/// What a row of an ancestor's database is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum AncestorItem {
    /// A rule.
    Rule(Rule),
    /// An address rewrite.
    Rewrite(IpRewrite),
    /// A row that says nothing we could do.
    Refused {
        /// `table:rowid`.
        place: String,
        /// The row's text.
        text: String,
        /// Why.
        reason: String,
    },
}
/// Reads a dnsmasq-sqlite database.
pub fn read_ancestor(
    _path: &Path,
    _list: ListId,
    _wildcard_forward_block: bool,
    _item: &mut dyn FnMut(AncestorItem),
) -> Result<(), StoreError> {
    todo!()
}
