//! The way over the segments of a shard, by the numbers that a shard gives its documents. Pure.
//!
//! A shard numbers its documents segment by segment, deleted ones too, in an order that no request tells. But how many
//! each segment has is known, and a document that is written again shows in which one it was: that one has a deleted document
//! more. The first living document of each is written again, so what is deleted of a segment lies at its beginning, and behind
//! that document come as many as live in it. Where that is wrong (segments were merged meanwhile, somebody else deleted)
//! some may be passed over: they are met the next time round. What is written again comes behind all others, so a round ends
//! where the shard ended at its beginning.

use std::collections::BTreeMap;

use super::searchable;
use crate::elastic::{Segment, SegmentReport, ShardNumber};

/// How far the segments of each shard were looked at.
pub(in crate::merge) type Places = BTreeMap<ShardNumber, Place>;

/// Where a round over the segments of a shard is, by the numbers of documents.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::merge) struct Place {
    /// The next one.
    pub next: u64,
    /// Behind the last one.
    end: u64,
}

impl Place {
    /// The beginning.
    pub fn first(shard: &SegmentReport) -> Place {
        let documents = searchable(shard).map(|segment| segment.num_docs + segment.deleted_docs);
        Place { next: 0, end: documents.sum() }
    }

    /// The place behind the segment of the document with that number, which was written again between these reports. `None`:
    /// the round is over, as it is if no document was found.
    pub fn after(self, number: Option<u64>, before: &SegmentReport, now: &SegmentReport) -> Option<Place> {
        let next = behind(number?, before, now);
        (next < self.end).then_some(Place { next, ..self })
    }
}

/// The number of the first document behind the segment of that one, which was written again between these reports.
fn behind(number: u64, before: &SegmentReport, now: &SegmentReport) -> u64 {
    let touched = |now: &Segment| {
        let before = searchable(before).find(|before| before.name == now.name)?;
        (before.deleted_docs < now.deleted_docs).then_some(before)
    };
    let mut touched = searchable(now).filter_map(touched);
    match (touched.next(), touched.next()) {
        (Some(one), None) => number + one.num_docs.max(1),
        // Nobody knows in which one it was.
        _ => number + 1,
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use proptest::prelude::*;

    use super::*;

    /// A shard as the server keeps it: segments in their order, each with its documents and how many are deleted.
    #[derive(Debug, Clone)]
    struct Shard {
        segments: Vec<(u64, u64, u64)>,
        generation: u64,
    }

    impl Shard {
        fn new(sizes: &[u64]) -> Shard {
            let mut shard = Shard { segments: Vec::new(), generation: 0 };
            for &size in sizes {
                shard.append(size);
            }
            shard
        }

        fn append(&mut self, documents: u64) {
            self.generation += 1;
            self.segments.push((self.generation, documents, 0));
        }

        fn report(&self) -> SegmentReport {
            let segment = |&(generation, documents, deleted): &(u64, u64, u64)| Segment {
                name: format!("_{generation}"),
                generation,
                num_docs: documents - deleted,
                deleted_docs: deleted,
                bytes: documents,
                search: true,
                committed: true,
            };
            let mut segments: Vec<Segment> = self.segments.iter().map(segment).collect();
            segments.sort_by_key(|segment| segment.generation);
            SegmentReport { shard: 0, segments }
        }

        /// Writes the first live document at or behind that number again, and gives its number.
        fn write_again(&mut self, number: u64) -> Option<u64> {
            let mut start = 0;
            for segment in 0..self.segments.len() {
                let (_, documents, deleted) = &mut self.segments[segment];
                // What is deleted comes first; what is written again in the middle counts as if it had been the first.
                let found = number.max(start + *deleted);
                if found < start + *documents {
                    *deleted += 1;
                    self.append(1);
                    return Some(found);
                }
                start += *documents;
            }
            None
        }

        /// Merges `number` segments from that place on; they need not be neighbours.
        fn merge(&mut self, at: usize, step: usize, number: usize) {
            let places: Vec<usize> = (0..number).map(|n| at + n * step).collect();
            if number < 2 || places.last().is_none_or(|&last| last >= self.segments.len()) {
                return;
            }
            self.generation += 1;
            let live: u64 = places.iter().map(|&place| self.segments[place].1 - self.segments[place].2).sum();
            let merged = (self.generation, live.max(1), 0);
            for &place in places[1..].iter().rev() {
                self.segments.remove(place);
            }
            self.segments[places[0]] = merged;
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(100))]

        #[test]
        fn every_old_segment_is_touched_though_some_are_merged(
            sizes in prop::collection::vec(prop_oneof![1_u64..5, 1_u64..100_000], 1..25),
            merges in prop::collection::vec((any::<prop::sample::Index>(), 1_usize..4, 2_usize..10), 0..8),
            orders in prop::collection::vec((any::<prop::sample::Index>(), any::<prop::sample::Index>()), 0..30),
            dead in prop::option::of(any::<prop::sample::Index>()),
        ) {
            let mut shard = Shard::new(&sizes);
            if let Some(dead) = dead {
                let (_, documents, deleted) = &mut shard.segments[dead.index(sizes.len())];
                *deleted = *documents;
            }
            // Generations need not grow along the order.
            for (a, b) in orders {
                let length = shard.segments.len();
                shard.segments.swap(a.index(length), b.index(length));
            }
            let mark = shard.generation;
            // Each merge may hide some until the next round, which goes over all that was written again too.
            let most = (merges.len() + 2) * 3 * (sizes.len() + 10);
            let mut merges = merges.into_iter();
            let (mut before, mut rounds) = (shard.report(), 0);
            let mut place = Place::first(&before);
            let is_open = |segment: &&Segment| segment.generation <= mark && segment.deleted_docs == 0;
            while searchable(&before).find(is_open).is_some() {
                rounds += 1;
                prop_assert!(rounds < most, "{place:?} {before:?}");
                let found = shard.write_again(place.next);
                if rounds % 5 == 0 && let Some((at, step, number)) = merges.next() {
                    shard.merge(at.index(shard.segments.len()), step, number);
                }
                let now = shard.report();
                place = place.after(found, &before, &now).unwrap_or_else(|| Place::first(&now));
                before = now;
            }
        }

        #[test]
        fn without_merges_each_segment_is_touched_once(sizes in prop::collection::vec(1_u64..100_000, 1..60)) {
            let mut shard = Shard::new(&sizes);
            let mut place = 0;
            for _ in &sizes {
                let before = shard.report();
                let number = shard.write_again(place).unwrap();
                place = behind(number, &before, &shard.report());
            }
            prop_assert!(shard.segments[..sizes.len()].iter().all(|&(_, _, deleted)| deleted == 1));
        }
    }
}
