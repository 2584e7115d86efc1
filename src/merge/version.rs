//! The external version of a chunk in the destination.
//!
//! `sequence number + 1` inside one history of a source index. When an index is re-created or restored its
//! sequence numbers start anew while the destination still holds higher versions, so each new history
//! of a collection's source is a *generation*, which counts above all sequence numbers.

use crate::elastic::SeqNo;

/// Sequence numbers that fit below a generation: 2^44 operations on one shard.
const GENERATION_BITS: u32 = 44;

/// The version under which a chunk is written.
#[must_use]
pub fn destination_version(generation: i32, seq_no: SeqNo) -> i64 {
    debug_assert!((0..(1 << GENERATION_BITS) - 2).contains(&seq_no));
    (i64::from(generation) << GENERATION_BITS) + seq_no + 1
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_generation_is_the_sequence_number_plus_one() {
        assert_eq!(destination_version(0, 0), 1);
        assert_eq!(destination_version(0, 41), 42);
    }

    #[test]
    fn a_generation_is_above_every_sequence_number_and_deletion_of_the_one_before() {
        let last = destination_version(0, (1 << GENERATION_BITS) - 3);
        // A deletion carries the version of what it deletes, plus one.
        assert!(last + 1 < destination_version(1, 0));
    }
}
