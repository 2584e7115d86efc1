//! The rules of leases, checkpoints and plans as pure functions.
//!
//! SQL enforces them (every statement repeats its rule in `WHERE`); these functions say them once in a form
//! that can be read, tested with properties, and held against the database's answer in `debug_assert!`.

use super::checkpoint::Counts;
use super::{Advance, SourceId};

/// A unit as the rules see it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct UnitFacts {
    /// Its first position.
    pub from: i64,
    /// Its end (exclusive).
    pub to: i64,
    /// Everything before it is checkpointed.
    pub cursor: i64,
    /// Raised at each lease.
    pub epoch: i64,
    /// Whether work is left and allowed.
    pub open: bool,
    /// Whether someone has the lease (also one that ran out and nobody took since).
    pub leased: bool,
}

/// What becomes of an advance.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Judgement {
    /// Stored: the cursor moves and the counts are added. `done`: the unit's end is reached.
    Accepted {
        /// Whether the unit is done by it.
        done: bool,
    },
    /// Stored already by the same lease: the worker asks again because it did not hear the answer. It is told
    /// yes, and nothing is counted.
    Repeated,
    /// The lease was lost, or the worker is wrong about where the unit stands: nothing is stored.
    Refused,
}

/// The rule of a checkpoint (invariants 1 and 2).
#[must_use]
pub fn judge(unit: &UnitFacts, advance: &Advance) -> Judgement {
    let same_lease = unit.epoch == advance.epoch;
    let forward = advance.from < advance.to && advance.to <= unit.to;
    if !same_lease || !forward {
        return Judgement::Refused;
    }
    // Within one epoch only its worker moves the cursor, so a cursor at `to` was put there by this advance.
    if unit.cursor == advance.to {
        return Judgement::Repeated;
    }
    if unit.open && unit.leased && unit.cursor == advance.from {
        return Judgement::Accepted { done: advance.to == unit.to };
    }
    Judgement::Refused
}

/// Whether a stored unit can exist.
#[must_use]
pub const fn is_sound(unit: &UnitFacts) -> bool {
    let in_order =
        0 <= unit.from && unit.from < unit.to && unit.from <= unit.cursor && unit.cursor <= unit.to;
    let open_means_work_left = !unit.open || unit.cursor < unit.to;
    let only_open_is_leased = unit.open || !unit.leased;
    in_order && open_means_work_left && only_open_is_leased
}

/// Joins advances that continue each other on the same lease (a worker that read several windows since its
/// last checkpoint), ordered by unit. `None` if those of one unit do not join: then the caller is wrong.
#[must_use]
pub fn coalesce(advances: &[Advance]) -> Option<Vec<Advance>> {
    let mut sorted = advances.to_vec();
    sorted.sort_by_key(|advance| (advance.unit, advance.from));
    let mut joined: Vec<Advance> = Vec::with_capacity(sorted.len());
    for advance in sorted {
        match joined.last_mut() {
            Some(last) if last.unit == advance.unit => {
                if last.epoch != advance.epoch || last.to != advance.from {
                    return None;
                }
                last.to = advance.to;
                last.counts += advance.counts;
            }
            _ => joined.push(advance),
        }
    }
    Some(joined)
}

/// A range of a log with its share of the estimate.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Range {
    /// First position.
    pub from: i64,
    /// End (exclusive).
    pub to: i64,
    /// Share of the estimated documents.
    pub estimated_documents: i64,
}

/// Cuts `[from, to)` into ranges of at most `split` positions and nearly equal size, and shares the estimate
/// out in proportion; the shares add up to the estimate exactly. Nothing for an empty range.
#[must_use]
pub fn cut(from: i64, to: i64, estimated_documents: i64, split: i64) -> Vec<Range> {
    if from >= to {
        return Vec::new();
    }
    let length = i128::from(to) - i128::from(from);
    let pieces = (length - 1) / i128::from(split.max(1)) + 1;
    let estimate = i128::from(estimated_documents.max(0));
    // The n-th border of `whole` cut into equal parts. It lies within 0..=whole, so it fits again.
    let share = |whole: i128, n: i128| i64::try_from(whole * n / pieces).unwrap_or(i64::MAX);
    (0..pieces)
        .map(|n| Range {
            from: from + share(length, n),
            to: from + share(length, n + 1),
            estimated_documents: share(estimate, n + 1) - share(estimate, n),
        })
        .collect()
}

/// One position of one log.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Place {
    /// The source.
    pub source: SourceId,
    /// The shard.
    pub shard: i32,
    /// The position.
    pub seq_no: i64,
}

/// A range of one log that holds some places.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PlaceRange {
    /// The source.
    pub source: SourceId,
    /// The shard.
    pub shard: i32,
    /// The first place.
    pub from: i64,
    /// One past the last place.
    pub to: i64,
    /// How many places it was made of.
    pub places: i64,
}

/// Places this near to each other are one range: what lies between is read with them at no cost worth mentioning.
pub const NEAR: i64 = 64;
/// The longest range, so that many places are many units.
pub const LONGEST_RANGE: i64 = 2_000;

/// Joins places to ranges: each place is in exactly one, each range begins and ends with a place, none is longer
/// than [`LONGEST_RANGE`].
#[must_use]
pub fn ranges(places: &[Place]) -> Vec<PlaceRange> {
    let mut sorted = places.to_vec();
    sorted.sort_unstable();
    sorted.dedup();
    let mut joined: Vec<PlaceRange> = Vec::new();
    for Place { source, shard, seq_no } in sorted {
        match joined.last_mut() {
            Some(last)
                if (last.source, last.shard) == (source, shard)
                    && seq_no - last.to < NEAR
                    && seq_no - last.from < LONGEST_RANGE =>
            {
                last.to = seq_no + 1;
                last.places += 1;
            }
            _ => joined.push(PlaceRange { source, shard, from: seq_no, to: seq_no + 1, places: 1 }),
        }
    }
    joined
}

/// Whether counts are such as one window can produce.
#[must_use]
pub const fn is_countable(counts: &Counts) -> bool {
    counts.documents >= 0
        && counts.bytes_read >= 0
        && counts.bytes_written >= 0
        && counts.written >= 0
        && counts.already_there >= 0
        && counts.collapsed >= 0
        && counts.quarantined >= 0
        && counts.compared >= 0
        && counts.different >= 0
        && counts.repaired >= 0
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
    use super::*;
    use proptest::prelude::*;

    const UNIT: UnitFacts = UnitFacts { from: 0, to: 100, cursor: 40, epoch: 3, open: true, leased: true };

    fn advance(epoch: i64, from: i64, to: i64) -> Advance {
        Advance { unit: 1, epoch, from, to, counts: Counts { documents: to - from, ..Counts::default() } }
    }

    #[test]
    fn the_outcomes_of_a_checkpoint() {
        let done = UnitFacts { cursor: 100, open: false, leased: false, ..UNIT };
        let given_back = UnitFacts { leased: false, ..UNIT };
        for (unit, advance, expected) in [
            (UNIT, advance(3, 40, 60), Judgement::Accepted { done: false }),
            (UNIT, advance(3, 40, 100), Judgement::Accepted { done: true }),
            (UNIT, advance(2, 40, 60), Judgement::Refused),
            (UNIT, advance(4, 40, 60), Judgement::Refused),
            (UNIT, advance(3, 30, 60), Judgement::Refused),
            (UNIT, advance(3, 50, 60), Judgement::Refused),
            (UNIT, advance(3, 40, 101), Judgement::Refused),
            (UNIT, advance(3, 40, 40), Judgement::Refused),
            (UNIT, advance(3, 20, 40), Judgement::Repeated),
            (UNIT, advance(2, 20, 40), Judgement::Refused),
            (done, advance(3, 40, 100), Judgement::Repeated),
            (done, advance(3, 40, 60), Judgement::Refused),
            (given_back, advance(3, 40, 60), Judgement::Refused),
        ] {
            assert_eq!(judge(&unit, &advance), expected, "{unit:?} {advance:?}");
        }
    }

    #[test]
    fn advances_that_continue_each_other_become_one() {
        let joined = coalesce(&[advance(3, 60, 70), advance(3, 40, 60)]).unwrap();
        assert_eq!(joined, vec![advance(3, 40, 70)]);
        assert!(coalesce(&[advance(3, 40, 60), advance(3, 61, 70)]).is_none());
        assert!(coalesce(&[advance(3, 40, 60), advance(4, 60, 70)]).is_none());
    }

    proptest! {
        #[test]
        fn every_place_is_in_exactly_one_range_that_begins_and_ends_with_one(
            places in proptest::collection::vec((1..3i64, 0..2i32, 0..10_000i64), 0..200),
        ) {
            let places: Vec<Place> =
                places.into_iter().map(|(source, shard, seq_no)| Place { source, shard, seq_no }).collect();
            let ranges = ranges(&places);
            let holds = |range: &PlaceRange, place: &Place| {
                (range.source, range.shard) == (place.source, place.shard)
                    && (range.from..range.to).contains(&place.seq_no)
            };
            for place in &places {
                prop_assert_eq!(ranges.iter().filter(|range| holds(range, place)).count(), 1);
            }
            for range in &ranges {
                let (from, to) = (range.from, range.to);
                let at = |seq_no| Place { source: range.source, shard: range.shard, seq_no };
                prop_assert!(places.contains(&at(from)) && places.contains(&at(to - 1)));
                prop_assert!(to - from <= LONGEST_RANGE);
            }
            let distinct: std::collections::BTreeSet<Place> = places.iter().copied().collect();
            let counted: i64 = ranges.iter().map(|range| range.places).sum();
            prop_assert_eq!(usize::try_from(counted).unwrap(), distinct.len());
        }

        #[test]
        fn joined_advances_say_the_same_in_any_order(
            cuts in prop::collection::vec((1..3i64, 1..20i64), 1..12), seed in any::<u64>()
        ) {
            let mut ends = std::collections::BTreeMap::new();
            let mut advances: Vec<Advance> = cuts
                .iter()
                .map(|&(unit, width)| {
                    let end = ends.entry(unit).or_insert(0);
                    let from = std::mem::replace(end, *end + width);
                    Advance { unit, ..advance(3, from, from + width) }
                })
                .collect();
            let turns = usize::try_from(seed % 12).unwrap() % advances.len();
            advances.rotate_left(turns);
            let joined = coalesce(&advances).unwrap();
            prop_assert_eq!(joined.len(), ends.len());
            for one in joined {
                prop_assert_eq!((one.from, one.to), (0, ends[&one.unit]));
                prop_assert_eq!(one.counts.documents, one.to);
            }
            // A window that is missing is noticed, unless it is the last or the only one of its unit.
            let last = |advance: &Advance| advance.to == ends[&advance.unit] || advance.from == 0;
            for missing in (0..advances.len()).filter(|&place| !last(&advances[place])) {
                let mut fewer = advances.clone();
                fewer.remove(missing);
                prop_assert!(coalesce(&fewer).is_none());
            }
        }

        #[test]
        fn a_checkpoint_moves_forward_or_not_at_all(
            cursor in 0..=10i64, epoch in 1..3i64, open: bool, leased: bool, of in 1..3i64, from in 0..12i64, to in 0..12i64
        ) {
            let unit = UnitFacts { from: 0, to: 10, cursor, epoch, open, leased };
            prop_assume!(is_sound(&unit));
            let asked = advance(of, from, to);
            if let Judgement::Accepted { done } = judge(&unit, &asked) {
                let moved = UnitFacts { cursor: to, open: !done, leased: !done, ..unit };
                prop_assert!(to > cursor && from == cursor && of == epoch && is_sound(&moved));
                // Asked again, it is known; of another lease, it is not.
                prop_assert_eq!(judge(&moved, &asked), Judgement::Repeated);
                prop_assert_eq!(judge(&moved, &advance(of + 1, from, to)), Judgement::Refused);
            }
        }

        #[test]
        fn ranges_cover_the_log_exactly_once_and_share_the_whole_estimate(
            from in 0..1_000_000i64,
            length in 1..5_000_000i64,
            estimate in 0..10_000_000i64,
            split in 1_000..3_000_000i64,
        ) {
            let ranges = cut(from, from + length, estimate, split);
            let mut end = from;
            for range in &ranges {
                prop_assert_eq!(range.from, end);
                prop_assert!(range.from < range.to && range.to - range.from <= split);
                prop_assert!(range.estimated_documents >= 0);
                end = range.to;
            }
            prop_assert_eq!(end, from + length);
            prop_assert_eq!(ranges.iter().map(|range| range.estimated_documents).sum::<i64>(), estimate);
        }
    }
}
