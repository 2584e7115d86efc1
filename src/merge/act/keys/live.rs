//! The live chunks of a source by their places, and which of them have their document in the destination. Pure.
//!
//! A version names the operation of the source that its document was written from, and an operation has one key. So a
//! document whose operation lives is the document of that chunk, and neither of them has to be read: places and
//! versions are enough. What this does not settle (a chunk or a document without the other) is compared by keys.

use std::collections::BTreeMap;

use roaring::RoaringTreemap;

use crate::elastic::{SeqNo, ShardNumber};
use crate::merge::version::{DISTINCT_SHARDS, Origin, pass_of};
use crate::state::ShardRow;

/// Sequence numbers of one shard: a bit each where they are dense.
#[derive(Debug, Clone, Default, PartialEq)]
pub(super) struct Places(RoaringTreemap);

impl Places {
    pub fn add(&mut self, seq_no: SeqNo) {
        if let Ok(place) = u64::try_from(seq_no) {
            self.0.insert(place);
        }
    }

    pub fn contains(&self, seq_no: SeqNo) -> bool {
        u64::try_from(seq_no).is_ok_and(|place| self.0.contains(place))
    }

    pub fn len(&self) -> u64 {
        self.0.len()
    }

    /// Upwards.
    pub fn iter(&self) -> impl Iterator<Item = SeqNo> + '_ {
        self.0.iter().filter_map(|place| SeqNo::try_from(place).ok())
    }
}

/// Places of several shards, so many at a time.
pub(super) fn batches(
    all: &BTreeMap<ShardNumber, Places>,
    most: usize,
) -> impl Iterator<Item = BTreeMap<ShardNumber, Vec<SeqNo>>> {
    let mut left = all.iter().flat_map(|(&shard, places)| places.iter().map(move |at| (shard, at)));
    std::iter::from_fn(move || {
        let mut batch: BTreeMap<ShardNumber, Vec<SeqNo>> = BTreeMap::new();
        for (shard, at) in left.by_ref().take(most) {
            batch.entry(shard).or_default().push(at);
        }
        (!batch.is_empty()).then_some(batch)
    })
}

/// The live chunks of a source that are not in quarantine.
#[derive(Debug, Default)]
pub(super) struct Live {
    shards: BTreeMap<ShardNumber, Shard>,
    /// How many shards the source has.
    count: i32,
    last_pass: i32,
    /// A version speaks of a shard that the source does not have.
    names_no_shard: bool,
}

#[derive(Debug, Default)]
struct Shard {
    /// From which pass on a version speaks of this log; `None`: no version is believed.
    since: Option<i32>,
    live: Places,
    found: Places,
}

impl Live {
    /// `rows` are the shards of which versions are believed, of a source with so many; `last_pass` is the last one that
    /// was planned.
    pub fn new<'a>(rows: impl Iterator<Item = &'a ShardRow>, shards: i32, last_pass: i32) -> Live {
        let are_distinct = shards <= DISTINCT_SHARDS;
        let shard = |row: &ShardRow| {
            let since = row.copied_since.filter(|_| are_distinct);
            (row.shard, Shard { since, ..Shard::default() })
        };
        Live { shards: rows.map(shard).collect(), count: shards, last_pass, names_no_shard: false }
    }

    pub fn add(&mut self, shard: ShardNumber, seq_no: SeqNo) {
        self.shards.entry(shard).or_default().live.add(seq_no);
    }

    /// Whether the operation that a version of the destination speaks of lives here; it is found then.
    pub fn find(&mut self, version: i64) -> bool {
        self.names_no_shard |= self.is_of_no_shard(version);
        let Some((shard, seq_no)) = self.operation(version) else { return false };
        let Some(shard) = self.shards.get_mut(&shard) else { return false };
        shard.found.add(seq_no);
        true
    }

    /// Whether a version that should be of this log speaks of a shard that it does not have.
    fn is_of_no_shard(&self, version: i64) -> bool {
        let since = self.shards.values().filter_map(|shard| shard.since).min();
        let is_of_its_time = since.is_some_and(|since| (since..=self.last_pass).contains(&pass_of(version)));
        is_of_its_time && Origin::of(version).is_some_and(|origin| origin.shard >= self.count)
    }

    /// Whether versions were found that we did not give: `found` documents have an operation that lives, and one operation
    /// is one document. Somebody else wrote some of them so often that their versions name another operation (or we did,
    /// above what somebody else wrote).
    pub fn is_deceived(&self, found: u64) -> bool {
        self.names_no_shard || found != self.found_len()
    }

    /// The live chunk whose document has that version, if it was found.
    pub fn found(&self, version: i64) -> Option<(ShardNumber, SeqNo)> {
        let (shard, seq_no) = self.operation(version)?;
        self.shards.get(&shard)?.found.contains(seq_no).then_some((shard, seq_no))
    }

    fn operation(&self, version: i64) -> Option<(ShardNumber, SeqNo)> {
        let (shard, seq_no) = self.names(version)?;
        self.shards.get(&shard)?.live.contains(seq_no).then_some((shard, seq_no))
    }

    /// The place in this log that a version speaks of, whatever lives there.
    pub fn names(&self, version: i64) -> Option<(ShardNumber, SeqNo)> {
        let Origin { shard: number, seq_no } = Origin::of(version)?;
        let since = self.shards.get(&number)?.since?;
        (since..=self.last_pass).contains(&pass_of(version)).then_some((number, seq_no))
    }

    /// No version is believed from here on, and nothing is found.
    pub fn disbelieve(&mut self) {
        for shard in self.shards.values_mut() {
            shard.since = None;
            shard.found = Places::default();
        }
    }

    /// How many there are.
    pub fn len(&self) -> u64 {
        self.shards.values().map(|shard| shard.live.len()).sum()
    }

    /// How many were found.
    pub fn found_len(&self) -> u64 {
        self.shards.values().map(|shard| shard.found.len()).sum()
    }

    /// Where the others are.
    pub fn unfound(&self) -> BTreeMap<ShardNumber, Places> {
        let unfound = |shard: &Shard| Places(&shard.live.0 - &shard.found.0);
        self.shards.iter().map(|(&number, shard)| (number, unfound(shard))).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::merge::version::{of_copy, of_deletion, of_repair};

    fn row(shard: ShardNumber, copied_since: Option<i32>) -> ShardRow {
        ShardRow {
            source: 1,
            shard,
            history_uuid: "h".to_owned(),
            copy_planned_to: 10,
            verify_planned_to: 10,
            keys_checked_to: None,
            copied_since,
        }
    }

    /// Two shards: 0 since pass 3, with 1 and 2 live; 1 since pass 5, with 2 live. Pass 7 is the last.
    fn two() -> Live {
        let mut live = Live::new([row(0, Some(3)), row(1, Some(5))].iter(), 2, 7);
        for (shard, seq_no) in [(0, 1), (0, 2), (1, 2)] {
            live.add(shard, seq_no);
        }
        live
    }

    #[test]
    fn a_document_is_found_by_the_operation_it_was_written_from() {
        let mut live = two();
        assert!(live.find(of_copy(3, 0, 1)) && live.find(of_repair(7, 1, 2)));
        // The same document, seen again after we and somebody else wrote it again.
        assert!(live.find(of_repair(6, 0, 1)) && live.find(of_repair(6, 0, 1) + 7));
        assert_eq!((live.len(), live.found_len()), (3, 2));
        assert_eq!(live.found(of_copy(4, 1, 2)), None, "before shard 1 was planned");
        assert_eq!(live.found(of_copy(6, 1, 2)), Some((1, 2)));
        let unfound: Vec<_> = batches(&live.unfound(), 10).collect();
        assert_eq!(unfound, [BTreeMap::from([(0, vec![2])])]);
    }

    #[test]
    fn versions_of_dead_chunks_other_logs_and_other_writers_find_nothing() {
        let mut live = two();
        for version in [
            of_copy(3, 0, 3),
            of_copy(2, 0, 1),
            of_copy(4, 1, 2),
            of_copy(8, 0, 1),
            of_copy(5, 2, 2),
            of_deletion(5),
            i64::MAX,
            1,
            0,
        ] {
            assert!(!live.find(version), "{version}");
        }
        assert_eq!(live.found_len(), 0);
    }

    #[test]
    fn versions_that_cannot_all_be_ours_are_noticed() {
        let mut live = two();
        assert!(live.find(of_copy(6, 0, 1)) && live.find(of_copy(6, 1, 2)));
        assert!(!live.find(of_copy(2, 4, 1)), "of a former index, which had more shards");
        assert!(!live.is_deceived(2));
        assert!(live.is_deceived(3), "two documents of one operation");
        assert!(!live.find(of_copy(6, 2, 2)) && live.is_deceived(2), "there is no shard 2");
    }

    #[test]
    fn what_is_not_believed_is_not_found() {
        let mut live = two();
        assert!(live.find(of_copy(3, 0, 1)));
        live.disbelieve();
        assert_eq!((live.len(), live.found_len()), (3, 0));
        assert!(!live.find(of_copy(3, 0, 1)) && live.found(of_copy(3, 0, 1)).is_none());
    }

    #[test]
    fn places_come_in_batches_over_all_shards() {
        let mut all: BTreeMap<ShardNumber, Places> = BTreeMap::new();
        for (shard, at) in [(0, 5), (0, 1), (2, 7), (2, 8), (3, 9)] {
            all.entry(shard).or_default().add(at);
        }
        let batched: Vec<_> = batches(&all, 3).collect();
        let expected =
            [BTreeMap::from([(0, vec![1, 5]), (2, vec![7])]), BTreeMap::from([(2, vec![8]), (3, vec![9])])];
        assert_eq!(batched, expected);
        assert_eq!(batches(&BTreeMap::new(), 3).count(), 0);
    }

    #[test]
    fn nothing_is_found_where_versions_cannot_tell_the_log_or_the_shard() {
        let mut unknown = Live::new([row(0, None)].iter(), 1, 7);
        let mut many = Live::new([row(0, Some(1)), row(32, Some(1))].iter(), 33, 7);
        for live in [&mut unknown, &mut many] {
            live.add(0, 4);
            assert!(!live.find(of_copy(5, 0, 4)));
        }
        // A shard that was never planned has no row.
        let mut new = Live::new([].iter(), 1, 7);
        new.add(0, 4);
        assert!(!new.find(of_copy(5, 0, 4)));
        assert_eq!((new.len(), new.found_len()), (1, 0));
    }
}
