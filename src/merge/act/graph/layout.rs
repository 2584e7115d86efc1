//! Where the segments of a shard begin, by the numbers that a shard gives its documents. Pure.
//!
//! A shard numbers its documents segment by segment, deleted ones too, in an order that no request tells. But how many
//! each segment has is known, and a document that is written again shows in which one it was: that one has a deleted document
//! more. So whoever knows the first segments of the order knows where the next begins, and finds out which it is. A merge puts
//! its segment where the first of those was that it joins, so what is before all that vanished keeps its place.

use super::searchable;
use crate::elastic::{Segment, SegmentReport};

/// The first segments of a shard.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Layout {
    /// Their names, in their order.
    known: Vec<String>,
    /// Documents of segments among them that hold nothing but deleted ones, which nothing shows.
    hidden: u64,
}

impl Layout {
    /// The number of the first document behind the segments that are known. What vanished is known no more.
    pub fn next(&mut self, now: &SegmentReport) -> u64 {
        let documents =
            |name: &String| find(now, name).map(|segment| segment.num_docs + segment.deleted_docs);
        let known: Vec<u64> = self.known.iter().map_while(documents).collect();
        if known.len() < self.known.len() {
            self.known.truncate(known.len());
            self.hidden = 0;
        }
        known.iter().sum::<u64>() + self.hidden
    }

    /// Learns which segment the document was in that was written again in between.
    pub fn learn(&mut self, before: &SegmentReport, now: &SegmentReport) {
        let is_touched = |now: &&Segment| {
            find(before, &now.name).is_some_and(|before| before.deleted_docs < now.deleted_docs)
        };
        let mut touched = searchable(now).filter(is_touched);
        match (touched.next(), touched.next()) {
            (Some(one), None) if !self.known.contains(&one.name) => self.known.push(one.name.clone()),
            // The number was too low.
            (Some(_), None) => {
                let deleted = searchable(now).filter(|segment| segment.num_docs == 0);
                self.hidden += deleted.map(|segment| segment.deleted_docs).min().unwrap_or(1).max(1);
            }
            // It was merged away meanwhile: the next number says which of the others are known still.
            (None, _) if searchable(before).any(|segment| find(now, &segment.name).is_none()) => {}
            _ => *self = Layout::default(),
        }
    }
}

fn find<'a>(report: &'a SegmentReport, name: &str) -> Option<&'a Segment> {
    searchable(report).find(|segment| segment.name == name)
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

        /// Writes the first live document at or behind that number again.
        fn write_again(&mut self, number: u64) -> bool {
            let mut end = 0;
            for (_, documents, deleted) in &mut self.segments {
                end += *documents;
                // Deleted are the first ones of a segment.
                if number < end && deleted < documents {
                    *deleted += 1;
                    self.append(1);
                    return true;
                }
            }
            false
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
        #[test]
        fn every_old_segment_is_touched_though_some_are_merged(
            sizes in prop::collection::vec(prop_oneof![1_u64..5, 1_u64..100_000], 1..60),
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
            let mut merges = merges.into_iter();
            let mut layout = Layout::default();
            let mut before = shard.report();
            let is_open = |segment: &&Segment| segment.generation <= mark && segment.deleted_docs == 0;
            let mut rounds = 0;
            while searchable(&before).find(is_open).is_some() {
                rounds += 1;
                prop_assert!(rounds < sizes.len() * 10 + 20, "{layout:?} {before:?}");
                let place = layout.next(&before);
                if !shard.write_again(place) {
                    layout = Layout::default();
                }
                if rounds % 5 == 0 && let Some((at, step, number)) = merges.next() {
                    shard.merge(at.index(shard.segments.len()), step, number);
                }
                let now = shard.report();
                layout.learn(&before, &now);
                before = now;
            }
        }

        #[test]
        fn without_merges_each_segment_is_touched_once(sizes in prop::collection::vec(1_u64..100_000, 1..60)) {
            let mut shard = Shard::new(&sizes);
            let mut layout = Layout::default();
            for _ in &sizes {
                let before = shard.report();
                prop_assert!(shard.write_again(layout.next(&before)));
                layout.learn(&before, &shard.report());
            }
            prop_assert!(shard.segments[..sizes.len()].iter().all(|&(_, _, deleted)| deleted == 1));
        }
    }
}
