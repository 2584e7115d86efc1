//! The way over the segments of a shard, by the numbers that a shard gives its documents. Pure.
//!
//! A shard numbers its documents segment by segment, deleted ones too, in an order that no request tells. But how many
//! each segment has is known, and a document that is written again shows in which one it was: that one has a deleted document
//! more. So whoever knows where a segment begins knows where the next one does. Where that is wrong (segments were merged
//! meanwhile) some may be passed over: they are met in the next round. What is written again comes behind all others, so a round
//! ends where the shard ended at its beginning.

use std::collections::BTreeMap;

use super::searchable;
use crate::elastic::{Segment, SegmentReport, ShardNumber};

/// How far the segments of each shard were looked at.
pub(in crate::merge) type Places = BTreeMap<ShardNumber, Place>;

/// Where a round over the segments of a shard is, by the numbers of documents.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::merge) struct Place {
    /// The next one.
    pub next: u64,
    /// Behind the last one.
    end: u64,
    /// The segment that was met last.
    last: Option<String>,
}

impl Place {
    /// The beginning.
    pub fn first(shard: &SegmentReport) -> Place {
        let documents = searchable(shard).map(|segment| segment.num_docs + segment.deleted_docs);
        Place { next: 0, end: documents.sum(), last: None }
    }

    /// The place behind the segment of the document with that number, which was written again between these reports. `None`:
    /// the round is over, as it is if no document was found.
    pub fn after(&self, number: Option<u64>, before: &SegmentReport, now: &SegmentReport) -> Option<Place> {
        let number = number?;
        let (next, last) = match touched(before, now) {
            Some(one) if self.last.as_ref() != Some(&one.name) => {
                // Without any deletion its first document is alive. Else those before it may be deleted, of this segment
                // or of others: where it begins is not known, but not before the place that was looked at.
                let begins = if one.deleted_docs == 0 { number } else { self.next };
                let behind = begins + one.num_docs + one.deleted_docs;
                (behind.max(number + 1), Some(one.name.clone()))
            }
            // The same again: its end is not far.
            again => (number + 1, again.map(|one| one.name.clone())),
        };
        (next < self.end).then_some(Place { next, last, ..*self })
    }
}

/// The one segment, as it was before, in which a document more is deleted now.
fn touched<'a>(before: &'a SegmentReport, now: &SegmentReport) -> Option<&'a Segment> {
    let touched = |now: &Segment| {
        let before = searchable(before).find(|before| before.name == now.name)?;
        (before.deleted_docs < now.deleted_docs).then_some(before)
    };
    let mut touched = searchable(now).filter_map(touched);
    touched.next().filter(|_| touched.next().is_none())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use proptest::prelude::*;

    use super::*;

    /// A shard as the server keeps it: segments in their order, each with its generation and which documents are alive.
    #[derive(Debug, Clone)]
    struct Shard {
        segments: Vec<(u64, Vec<bool>)>,
        generation: u64,
    }

    impl Shard {
        fn new(sizes: &[usize]) -> Shard {
            let mut shard = Shard { segments: Vec::new(), generation: 0 };
            for &size in sizes {
                shard.append(size);
            }
            shard
        }

        fn append(&mut self, documents: usize) {
            self.generation += 1;
            self.segments.push((self.generation, vec![true; documents]));
        }

        fn report(&self) -> SegmentReport {
            let segment = |(generation, documents): &(u64, Vec<bool>)| {
                let alive = documents.iter().filter(|alive| **alive).count() as u64;
                Segment {
                    name: format!("_{generation}"),
                    generation: *generation,
                    num_docs: alive,
                    deleted_docs: documents.len() as u64 - alive,
                    bytes: 1,
                    search: true,
                    committed: true,
                }
            };
            let mut segments: Vec<Segment> = self.segments.iter().map(segment).collect();
            segments.sort_by_key(|segment| segment.generation);
            SegmentReport { shard: 0, segments }
        }

        /// Writes the first live document at or behind that number again, and gives its number.
        fn write_again(&mut self, number: u64) -> Option<u64> {
            let all = self.segments.iter_mut().flat_map(|(_, documents)| documents);
            let (found, alive) = (0_u64..).zip(all).find(|(at, alive)| *at >= number && **alive)?;
            *alive = false;
            self.append(1);
            Some(found)
        }

        /// Merges `number` segments from that place on; they need not be neighbours.
        fn merge(&mut self, at: usize, step: usize, number: usize) {
            let places: Vec<usize> = (0..number).map(|n| at + n * step).collect();
            if number < 2 || places.last().is_none_or(|&last| last >= self.segments.len()) {
                return;
            }
            self.generation += 1;
            let alive = |&place: &usize| self.segments[place].1.iter().filter(|alive| **alive).count();
            let merged = vec![true; places.iter().map(alive).sum::<usize>().max(1)];
            for &place in places[1..].iter().rev() {
                self.segments.remove(place);
            }
            self.segments[places[0]] = (self.generation, merged);
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(100))]

        #[test]
        fn every_old_segment_is_touched_though_some_are_merged_and_some_have_deletions(
            sizes in prop::collection::vec(prop_oneof![1_usize..5, 1_usize..300], 1..25),
            deleted in prop::collection::vec((any::<prop::sample::Index>(), any::<prop::sample::Index>()), 0..40),
            dead in prop::option::of(any::<prop::sample::Index>()),
            merges in prop::collection::vec((any::<prop::sample::Index>(), 1_usize..4, 2_usize..10), 0..8),
            orders in prop::collection::vec((any::<prop::sample::Index>(), any::<prop::sample::Index>()), 0..30),
        ) {
            let mut shard = Shard::new(&sizes);
            // Generations need not grow along the order.
            for (a, b) in orders {
                let length = shard.segments.len();
                shard.segments.swap(a.index(length), b.index(length));
            }
            for (segment, document) in deleted {
                let documents = &mut shard.segments[segment.index(sizes.len())].1;
                let document = document.index(documents.len());
                documents[document] = false;
            }
            if let Some(dead) = dead {
                shard.segments[dead.index(sizes.len())].1.fill(false);
            }
            let mark = shard.generation;
            // Each merge may hide some until the next round, which goes over all that was written again too; and where an end
            // is not known, documents are passed one by one.
            let most = (merges.len() + 2) * 3 * (sizes.len() + 10) + 400;
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
        fn without_merges_each_segment_is_touched_once(sizes in prop::collection::vec(1_usize..300, 1..60)) {
            let mut shard = Shard::new(&sizes);
            let mut place = Some(Place::first(&shard.report()));
            for _ in &sizes {
                let before = shard.report();
                let at = place.unwrap();
                let number = shard.write_again(at.next);
                place = at.after(number, &before, &shard.report());
            }
            prop_assert_eq!(place, None);
            let deleted = |(_, documents): &(u64, Vec<bool>)| documents.iter().filter(|alive| !**alive).count();
            prop_assert!(shard.segments[..sizes.len()].iter().all(|segment| deleted(segment) == 1));
        }

        /// A segment that was updated in the middle while it was loaded, and others behind it.
        #[test]
        fn a_deletion_in_the_middle_costs_no_more_than_a_few_steps(size in 2_usize..2_000, at in any::<prop::sample::Index>()) {
            let mut shard = Shard::new(&[size, 50, 50, 50]);
            let middle = at.index(size);
            shard.segments[0].1[middle] = false;
            let (mut before, mut place, mut rounds) = (shard.report(), Place::first(&shard.report()), 0);
            while before.segments[1..4].iter().any(|segment| segment.deleted_docs == 0) {
                rounds += 1;
                prop_assert!(rounds < 10, "{place:?}");
                let found = shard.write_again(place.next);
                let now = shard.report();
                place = place.after(found, &before, &now).unwrap_or_else(|| Place::first(&now));
                before = now;
            }
        }
    }
}
