//! Stage 4, local: records from the configuration, and special-use names.

use corewall_sharding::name::Name;
use corewall_sharding::rule::AnswerRecord;

use super::answer::Answer;

/// Records of the configuration and the special-use names (RFC 6761, 6762, 7686, 8375, 9462). Immutable.
#[derive(Clone, Debug, Default)]
pub struct LocalRecords {}

impl LocalRecords {
    /// From names and their records; `special_use` adds the special-use names.
    pub fn new(_records: Vec<(Name, AnswerRecord)>, _special_use: bool) -> Self {
        todo!()
    }
    /// Fills `answer` when the name is ours: its records of the type, NODATA, NXDOMAIN; false when it is not ours.
    pub fn answer(&self, _name: &Name, _qtype: u16, _answer: &mut Answer) -> bool {
        todo!()
    }
}
