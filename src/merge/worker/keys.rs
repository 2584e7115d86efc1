//! Keys that an update in place gave to a chunk, or took from another one.
//!
//! An application may change `document_id` or `id` of a chunk that is copied already. Its former key then stays in the
//! destination, and the new one may be that of another chunk, whose words are written over; neither need show in any
//! count. But what the destination holds under an updated chunk's key, before it is written, tells all: words of
//! that chunk's former place in the log, where nothing lives any more, if the key is the same; nothing, if it is new; words
//! of a chunk that lives, if it is that chunk's. In the last two cases the keys of the source are put in
//! doubt, durably and before anything is written, and compared when the pass is followed (`act/keys/follow.rs`).
//! (A chunk that looks new is not looked for; if its key was not free, the destination says so when it is written, see
//! `copy.rs`.)

use std::collections::{BTreeMap, BTreeSet};

use super::Shared;
use super::batch::ReadWindow;
use super::copy::Place;
use crate::chunk::key_of;
use crate::elastic::{IndexName, PlacesRequest, SeqNo, ShardNumber};
use crate::merge::error::MergeError;
use crate::merge::version::Origin;
use crate::merge::{key_lane, stored_index};
use crate::state::invariants::Place as LogPlace;
use crate::state::{LeasedUnit, SourceId};

/// Ids in one look-up.
const IDS: usize = 1_000;
/// Places of a shard read with one search, and searches in one request.
const PLACES: usize = 1_000;
const SEARCHES: usize = 64;

/// A chunk that is about to be written and was updated since its shard was copied before.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Updated {
    pub place: Place,
    pub key: String,
}

/// The source of which a document in the destination is.
#[derive(Debug, Clone)]
pub(super) struct Owner {
    pub source: SourceId,
    pub index_name: String,
    pub shards: ShardNumber,
}

impl Owner {
    pub fn of(unit: &LeasedUnit) -> Owner {
        Owner { source: unit.source, index_name: unit.index_name.clone(), shards: unit.shards }
    }
}

/// A chunk, and the version that the destination holds under its key.
pub(super) struct Claim<'a> {
    pub own: LogPlace,
    pub key: &'a str,
    pub there: i64,
    pub owner: Owner,
}

/// Where a chunk is.
pub(super) fn log_place(windows: &[ReadWindow], place: Place) -> LogPlace {
    let ReadWindow { unit, page, .. } = &windows[place.window];
    LogPlace { source: unit.source, shard: unit.shard, seq_no: page.hits[place.hit].seq_no }
}

/// Puts the keys of those sources in doubt in which one of these chunks does not have the key that it had. What was in
/// quarantine of them before leaves it: from now on the destination may hold words of them.
pub(super) async fn watch(
    shared: &Shared,
    windows: &[ReadWindow],
    updated: &[Updated],
) -> Result<(), MergeError> {
    let at = |Updated { place, .. }: &Updated| {
        let ReadWindow { unit, page, .. } = &windows[place.window];
        let hit = &page.hits[place.hit];
        (unit.source, unit.shard, hit.id.as_str(), hit.seq_no)
    };
    let places: Vec<_> = updated.iter().map(at).collect();
    shared.context.state.quarantine_outlived(shared.context.id, &places).await?;
    let mut doubtful = BTreeSet::new();
    for part in updated.chunks(IDS) {
        let keys: Vec<&str> = part.iter().map(|updated| updated.key.as_str()).collect();
        let context = &shared.context;
        let versions = context.destination.versions(&context.destination_index, &keys).await;
        let mut claims = Vec::with_capacity(part.len());
        for (Updated { place, key }, version) in part.iter().zip(versions.map_err(MergeError::Destination)?) {
            let own = log_place(windows, *place);
            match version {
                Some(there) if Origin::of(there).is_some() => {
                    claims.push(Claim { own, key, there, owner: Owner::of(&windows[place.window].unit) });
                }
                Some(_) | None => drop(doubtful.insert((own.source, own.shard))),
            }
        }
        let rivals = have_rivals(shared, &claims).await?;
        let rivalled = claims.iter().zip(rivals).filter(|(_, has_rival)| *has_rival);
        doubtful.extend(rivalled.map(|(claim, _)| (claim.own.source, claim.own.shard)));
    }
    if !doubtful.is_empty() {
        tracing::info!(
            shards = doubtful.len(),
            "chunks were given other keys in place: both sides will be compared"
        );
    }
    Ok(shared.context.state.doubt_keys(shared.context.id, &doubtful).await?)
}

/// Of each chunk, whether the destination's document was written from another chunk that lives and has the same key.
pub(super) async fn have_rivals(shared: &Shared, claims: &[Claim<'_>]) -> Result<Vec<bool>, MergeError> {
    let mut at: BTreeMap<LogPlace, Vec<usize>> = BTreeMap::new();
    let mut indices: BTreeMap<SourceId, IndexName> = BTreeMap::new();
    for (number, claim) in claims.iter().enumerate() {
        let rivals: Vec<LogPlace> = places_of_rivals(claim).collect();
        if !rivals.is_empty() {
            indices.insert(claim.owner.source, stored_index(&claim.owner.index_name)?);
        }
        for place in rivals {
            at.entry(place).or_default().push(number);
        }
    }
    let mut found = vec![false; claims.len()];
    let mut by_shard: BTreeMap<(SourceId, ShardNumber), Vec<SeqNo>> = BTreeMap::new();
    for LogPlace { source, shard, seq_no } in at.keys() {
        by_shard.entry((*source, *shard)).or_default().push(*seq_no);
    }
    let mut searches = Vec::with_capacity(by_shard.len());
    for ((source, shard), places) in by_shard {
        let Some(index) = indices.get(&source) else { continue };
        for places in places.chunks(PLACES) {
            let (index, places) = (index.clone(), places.to_vec());
            searches.push((source, PlacesRequest { index, shard, places, lane: key_lane() }));
        }
    }
    for part in searches.chunks(SEARCHES) {
        let requests: Vec<PlacesRequest> = part.iter().map(|(_, request)| request.clone()).collect();
        let pages = shared.context.source.read_places(&requests).await.map_err(MergeError::Source)?;
        for ((source, request), page) in part.iter().zip(pages) {
            for hit in page.map_err(MergeError::Source)?.hits {
                let place = LogPlace { source: *source, shard: request.shard, seq_no: hit.seq_no };
                let Some(numbers) = at.get(&place) else { continue };
                let Ok(key) = key_of(hit.source()) else { continue };
                numbers
                    .iter()
                    .filter(|&&number| claims[number].key == key)
                    .for_each(|&number| found[number] = true);
            }
        }
    }
    Ok(found)
}

/// Where the chunk can be from which the destination's document was written, if it is not the claimant itself.
fn places_of_rivals(claim: &Claim<'_>) -> impl Iterator<Item = LogPlace> {
    let (owner, own) = (&claim.owner, claim.own);
    Origin::of(claim.there).into_iter().flat_map(move |origin| {
        (0..owner.shards)
            .filter(move |&shard| origin.is_on(shard))
            .map(move |shard| LogPlace { source: owner.source, shard, seq_no: origin.seq_no })
            .filter(move |&place| place != own)
    })
}
