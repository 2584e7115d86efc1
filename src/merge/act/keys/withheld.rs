//! Chunks in quarantine, as the comparison of keys sees them. They may be millions, so they are read in parts, and of all
//! of them nothing is held but numbers, and their places as bits.

use std::collections::BTreeMap;
use std::ops::RangeInclusive;

use super::live::Places;
use super::log::readable;
use crate::elastic::{Hit, PlacesRequest, ReadLane, SeqNo, ShardNumber};
use crate::merge::act::sources::index_name;
use crate::merge::engine::Engine;
use crate::merge::error::MergeError;
use crate::merge::observe::active;
use crate::state::{QuarantinedPlace, SourceId, SourceRow, storable};

/// Classes of quarantined chunks whose key is in the destination all the same.
const PRESENT_CLASSES: [&str; 1] = ["Different"];

/// Rows read at once.
const PAGE: i64 = 10_000;
/// Quarantined chunks of a shard looked at with one search, and searches in one request.
const RECHECK: usize = 200;

/// How many chunks of a source are in quarantine.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct InQuarantine {
    pub all: u64,
    /// Of these, the ones that the destination holds, though not as they should be.
    pub present: u64,
}

impl InQuarantine {
    /// Of each source that has any.
    pub async fn count(engine: &Engine) -> Result<BTreeMap<SourceId, InQuarantine>, MergeError> {
        let sources = engine.state.quarantine_by_source(engine.id).await?;
        Ok(sources.iter().map(|(&source, classes)| (source, InQuarantine::of(classes))).collect())
    }

    fn of(classes: &BTreeMap<String, i64>) -> InQuarantine {
        let mut sum = InQuarantine::default();
        for (class, &count) in classes {
            let count = count.max(0).unsigned_abs();
            sum.all += count;
            sum.present += if is_present(class) { count } else { 0 };
        }
        sum
    }
}

/// Whether the destination holds chunks of that class, though not as they should be.
fn is_present(class: &str) -> bool {
    PRESENT_CLASSES.contains(&class)
}

/// Where the chunks of one source are that are in quarantine and therefore not in the destination.
#[derive(Debug, Default)]
pub(super) struct Withheld(BTreeMap<ShardNumber, Places>);

impl Withheld {
    /// Of a source, as it is now.
    pub async fn read(engine: &Engine, source: SourceId) -> Result<Withheld, MergeError> {
        let mut withheld = Withheld::default();
        let mut after: Option<QuarantinedPlace> = None;
        loop {
            let mut page =
                engine.state.quarantine_of(engine.id, &(source..=source), after.as_ref(), PAGE).await?;
            for row in page.iter().filter(|row| !is_present(&row.class)) {
                withheld.0.entry(row.shard).or_default().add(row.seq_no);
            }
            after = page.pop();
            if after.is_none() {
                return Ok(withheld);
            }
        }
    }

    /// Whether the chunk at that place is in quarantine: an update of it is at another one, and judged by itself.
    pub fn holds(&self, shard: ShardNumber, seq_no: SeqNo) -> bool {
        self.0.get(&shard).is_some_and(|places| places.contains(seq_no))
    }
}

/// Quarantine speaks of chunks as they were read. One that was updated or deleted since is not there any more; the
/// update was judged by itself. Looks at the chunks of those sources, and takes out what is over. What is in an index that
/// cannot be read now, nobody knows.
pub(in crate::merge::act) async fn release_what_lives_no_more(
    engine: &Engine,
    stored: &[SourceRow],
    concerns: impl Fn(SourceId) -> bool,
) -> Result<(), MergeError> {
    engine.state.quarantine_clear_gone(engine.id).await?;
    let meant: BTreeMap<SourceId, &SourceRow> =
        active(stored).filter(|source| concerns(source.id)).map(|source| (source.id, source)).collect();
    if meant.is_empty() {
        return Ok(());
    }
    let held = engine.state.quarantine_by_source(engine.id).await?;
    for sources in runs(held.into_keys(), |source| meant.contains_key(&source)) {
        let mut after: Option<QuarantinedPlace> = None;
        loop {
            let mut page = engine.state.quarantine_of(engine.id, &sources, after.as_ref(), PAGE).await?;
            release(engine, &meant, &page).await?;
            after = page.pop();
            if after.is_none() {
                break;
            }
        }
    }
    Ok(())
}

/// The sources that are meant of those that have chunks in quarantine, as ranges: what is read of each is read at one go.
fn runs(
    held: impl Iterator<Item = SourceId>,
    is_meant: impl Fn(SourceId) -> bool,
) -> Vec<RangeInclusive<SourceId>> {
    let held: Vec<(SourceId, bool)> = held.map(|source| (source, is_meant(source))).collect();
    let alike = held.chunk_by(|one, next| one.1 == next.1);
    alike.filter(|run| run[0].1).map(|run| run[0].0..=run[run.len() - 1].0).collect()
}

/// Looks at the chunks of one page, which is in the order of sources and shards.
async fn release(
    engine: &Engine,
    meant: &BTreeMap<SourceId, &SourceRow>,
    page: &[QuarantinedPlace],
) -> Result<(), MergeError> {
    let mut searches = Vec::new();
    for rows in page.chunk_by(|one, next| (one.source, one.shard) == (next.source, next.shard)) {
        // Another source may have got its first one since they were counted.
        let Some(source) = meant.get(&rows[0].source) else { continue };
        for rows in rows.chunks(RECHECK) {
            let (index, shard) = (index_name(source)?, rows[0].shard);
            let places = rows.iter().map(|row| row.seq_no).collect();
            searches.push((rows, PlacesRequest { index, shard, places, lane: ReadLane::Keys }));
        }
    }
    let mut dead: Vec<&QuarantinedPlace> = Vec::new();
    for part in searches.chunks(RECHECK) {
        let requests: Vec<PlacesRequest> = part.iter().map(|(_, request)| request.clone()).collect();
        let pages = engine.source.read_places(&requests).await.map_err(MergeError::Source)?;
        for (&(rows, _), page) in part.iter().zip(pages) {
            // The next resolve finds out what is the matter with it.
            let Some(page) = readable(page)? else { continue };
            let is_it = |row: &QuarantinedPlace, hit: &Hit| {
                hit.seq_no == row.seq_no && storable(&hit.id) == row.chunk_id
            };
            dead.extend(rows.iter().filter(|row| !page.hits.iter().any(|hit| is_it(row, hit))));
        }
    }
    engine.state.quarantine_clear(engine.id, &dead).await?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sources_that_follow_each_other_are_read_at_one_go() {
        let held = || [1, 3, 4, 7, 9].into_iter();
        assert_eq!(runs(held(), |_| true), [1..=9]);
        assert_eq!(runs(held(), |source| source != 4), [1..=3, 7..=9]);
        assert_eq!(runs(held(), |source| source == 4), [4..=4]);
        assert!(runs(held(), |_| false).is_empty() && runs(std::iter::empty(), |_| true).is_empty());
    }

    #[test]
    fn what_differs_is_in_quarantine_and_in_the_destination() {
        let classes = BTreeMap::from([("Different".to_owned(), 2), ("vector".to_owned(), 5)]);
        assert_eq!(InQuarantine::of(&classes), InQuarantine { all: 7, present: 2 });
    }
}
