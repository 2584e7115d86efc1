//! The external version of a chunk in the destination: which write of a key is the last word.
//!
//! From the highest bits down: the number of the *pass* in which the chunk was copied, a bit for what came after
//! the copying of that pass, the sequence number plus one, the shard (modulo 32), and three bits that are zero.
//!
//! Why not the sequence number alone: a key may move. A chunk that is deleted and inserted again gets a new `_id` from
//! the server, may land on another shard with a *lower* sequence number, and would be refused by the version, or by
//! the tombstone, of the one before it. The same holds for an index that was made anew or restored. Passes put such
//! writes in order, because of how they are planned (`State::plan_pass`):
//!
//! 1. Whatever pass n does not cover came after its ends were read, and belongs to a pass above n.
//! 2. So if a page shows a chunk that is deleted later, whatever is inserted after that deletion, on whichever shard,
//!    belongs to a higher pass than that page: it wins, and a late write of the page's chunk loses.
//! 3. A key that is found nowhere in the source after pass n was planned was deleted, or is inserted in a pass above
//!    n. So its deletion carries the highest version of pass n ([`of_deletion`]): above every write of the
//!    dead chunk, whoever holds it back for how long, and below every write of a chunk that comes after.
//! 4. A repair in pass n ([`of_repair`]) compares what is covered by pass n. It is above all copies up to pass n,
//!    also above what somebody else made of them in the destination, and below all later ones.
//!
//! The lower part names one operation of the source, so that two chunks with the same key can be told apart
//! ([`Origin`]). Whoever else writes a document gives it the next higher version; that names the same operation, whose
//! key the document still has, seven times over. Deletions are remembered by the server for an hour and not beyond its
//! restart; what that lets through is the reason for the last comparison of the cutover (`act/keys.rs`).

use crate::elastic::{SeqNo, ShardNumber};

const SPARE_BITS: u32 = 3;
const SHARD_BITS: u32 = 5;
const SEQ_BITS: u32 = 32;
const SEQ_BIT: u32 = SPARE_BITS + SHARD_BITS;
const STAGE_BIT: u32 = SEQ_BIT + SEQ_BITS;
const PASS_BIT: u32 = STAGE_BIT + 1;

/// The end (exclusive) of the sequence numbers that fit: 4 thousand million operations on one shard.
pub const SEQ_NO_END: SeqNo = (1 << SEQ_BITS) - 1;
/// The last pass that is planned: with the default `maxLag` and writers that never rest, more than a year. Comparisons that
/// are made again raise the number too, and have room beyond it.
pub const LAST_PASS: i32 = PASS_END - (1 << 16);

/// The end (exclusive) of the passes that fit.
const PASS_END: i32 = 1 << (63 - PASS_BIT);

/// Shards of a source that versions tell apart.
pub const DISTINCT_SHARDS: i32 = 1 << SHARD_BITS;

/// Which operation of the source a version speaks of.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Origin {
    /// The shard, modulo 32.
    pub shard: ShardNumber,
    /// The sequence number.
    pub seq_no: SeqNo,
}

impl Origin {
    /// Of a chunk on that shard.
    #[must_use]
    pub fn new(shard: ShardNumber, seq_no: SeqNo) -> Origin {
        Origin { shard: shard & ((1 << SHARD_BITS) - 1), seq_no }
    }

    /// That a version found in the destination speaks of; `None` if it cannot be of our making.
    #[must_use]
    pub fn of(version: i64) -> Option<Origin> {
        let part = |bit: u32, bits: u32| (version >> bit) & ((1 << bits) - 1);
        let seq_no = part(SEQ_BIT, SEQ_BITS) - 1;
        let shard = ShardNumber::try_from(part(SPARE_BITS, SHARD_BITS)).ok()?;
        (version > 0 && seq_no >= 0).then(|| Origin::new(shard, seq_no))
    }

    /// Whether it may be on that shard.
    #[must_use]
    pub fn is_on(self, shard: ShardNumber) -> bool {
        Origin::new(shard, self.seq_no) == self
    }
}

/// The version under which a chunk is copied.
#[must_use]
pub fn of_copy(pass: i32, shard: ShardNumber, seq_no: SeqNo) -> i64 {
    debug_assert!((0..PASS_END).contains(&pass) && (0..SEQ_NO_END).contains(&seq_no));
    let shard = i64::from(Origin::new(shard, seq_no).shard);
    (i64::from(pass) << PASS_BIT) | ((seq_no + 1) << SEQ_BIT) | (shard << SPARE_BITS)
}

/// The version under which a chunk is written again that was found different in pass `pass`.
#[must_use]
pub fn of_repair(pass: i32, shard: ShardNumber, seq_no: SeqNo) -> i64 {
    of_copy(pass, shard, seq_no) | (1 << STAGE_BIT)
}

/// The version of the deletion of a key that was found nowhere after `pass` was planned.
#[must_use]
pub fn of_deletion(pass: i32) -> i64 {
    (i64::from(pass) << PASS_BIT) | ((1 << PASS_BIT) - 1)
}

/// The last pass that may have written this version: passes above it write higher ones.
#[must_use]
pub fn pass_of(version: i64) -> i32 {
    i32::try_from(version >> PASS_BIT).unwrap_or(LAST_PASS)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn passes() -> impl Strategy<Value = i32> {
        prop_oneof![Just(0), Just(LAST_PASS), 0..LAST_PASS]
    }

    fn seq_nos() -> impl Strategy<Value = SeqNo> {
        prop_oneof![Just(0), Just(SEQ_NO_END - 1), 0..SEQ_NO_END]
    }

    proptest! {
        #[test]
        fn a_later_operation_on_the_same_shard_has_a_higher_version(pass in passes(), shard in 0..1024, seq_no in 0..SEQ_NO_END - 1) {
            prop_assert!(of_copy(pass, shard, seq_no) < of_copy(pass, shard, seq_no + 1));
            prop_assert!(of_repair(pass, shard, seq_no) < of_repair(pass, shard, seq_no + 1));
        }

        #[test]
        fn in_a_pass_a_repair_is_above_every_copy_and_the_deletion_above_every_repair(
            pass in passes(), shards in (0..1024, 0..1024), seq_nos in (seq_nos(), seq_nos()),
        ) {
            let repair = of_repair(pass, shards.1, seq_nos.1);
            prop_assert!(of_copy(pass, shards.0, seq_nos.0) < repair);
            prop_assert!(repair <= of_deletion(pass));
        }

        #[test]
        fn a_key_that_comes_back_in_a_later_pass_is_above_the_deletion_wherever_it_lands(
            pass in passes(), shard in 0..1024, seq_no in seq_nos(),
        ) {
            prop_assert!(of_deletion(pass) < of_copy(pass + 1, shard, seq_no));
            prop_assert_eq!(pass_of(of_deletion(pass)), pass);
        }

        #[test]
        fn a_version_tells_its_operation(pass in passes(), shard in 0..1024, seq_no in seq_nos()) {
            for version in [of_copy(pass, shard, seq_no), of_repair(pass, shard, seq_no)] {
                prop_assert!(version > 0);
                prop_assert_eq!(Origin::of(version), Some(Origin::new(shard, seq_no)));
                prop_assert!(Origin::new(shard, seq_no).is_on(shard));
                prop_assert_eq!(pass_of(version), pass);
            }
        }

        #[test]
        fn what_others_make_of_a_version_tells_the_same_operation(
            pass in passes(), shard in 0..1024, seq_no in seq_nos(), times in 1_i64..8, small in 0_i64..256,
        ) {
            let ours = of_repair(pass, shard, seq_no);
            prop_assert_eq!(Origin::of(ours + times), Some(Origin::new(shard, seq_no)));
            prop_assert_eq!(pass_of(ours + times), pass);
            prop_assert!(ours + times <= of_deletion(pass));
            // What a server counts by itself.
            prop_assert_eq!(Origin::of(small), None);
            prop_assert_eq!(Origin::of(-ours), None);
        }

        #[test]
        fn two_shards_of_up_to_32_are_told_apart(pass in passes(), shards in (0..32, 0..32), seq_no in seq_nos()) {
            prop_assume!(shards.0 != shards.1);
            prop_assert_ne!(Origin::of(of_copy(pass, shards.0, seq_no)), Some(Origin::new(shards.1, seq_no)));
        }
    }
}
