//! Comparing a round of windows with the destination, chunk by chunk, field by field.
//!
//! What differs is written again and compared again. What still differs, and what has a rival for its key,
//! goes to quarantine, where it makes the verdict negative and names the chunk.

use std::collections::{BTreeMap, BTreeSet};

use serde::Deserialize;

use super::batch::{ReadWindow, Settled};
use super::copy::{Place, parse, places, quarantined, read_counts};
use super::facts::Facts;
use super::keys::{Claim, Owner, have_rivals, log_place};
use super::send::{Sent, send};
use super::{LEASE, Shared};
use crate::chunk::{Actual, Refusal, Transform, address, compare};
use crate::elastic::{BulkBody, BulkVersioning, Lookup};
use crate::merge::error::MergeError;
use crate::merge::version::{Origin, of_repair};
use crate::state::{SourceRow, SourceState, UnitId};

/// How often a chunk that differs is written and compared again.
const REPAIRS: u32 = 2;
/// Chunks in one look-up: the answer is about as large as a page of the source.
const LOOKUP_IDS: usize = 500;

/// A chunk that is to be in the destination.
#[derive(Debug, Clone)]
struct Expected {
    place: Place,
    id: String,
    document: i64,
    /// Whether the facts of its document belong into it.
    needs_document: bool,
}

/// What the destination holds under a chunk's key.
#[derive(Debug, Clone, Copy)]
struct There {
    version: i64,
    /// Its collection, as far as it says one.
    collection: Option<i64>,
}

/// A chunk that differs, what is there, and the difference.
type Different = (Expected, Option<There>, String);

/// How a chunk compares.
#[derive(Debug)]
enum Comparison {
    /// The contract does not take it.
    Refused(Refusal),
    /// Equal, and written from this very chunk.
    Equal,
    /// Equal, but written from another chunk with the same key and content.
    Collapsed {
        /// The version that is there.
        found: i64,
    },
    /// Not there, or different.
    Different {
        /// What is there.
        found: Option<There>,
        /// In words.
        difference: String,
    },
}

/// Compares every chunk of the round; returns what became of each window. `None`: a lease was lost before what differs was
/// written again, and nothing of the round counts.
pub(super) async fn act(
    shared: &Shared,
    facts: &mut Facts,
    windows: Vec<ReadWindow>,
) -> Result<Option<(Vec<ReadWindow>, Vec<Settled>)>, MergeError> {
    let mut settled: Vec<Settled> = windows.iter().map(read_counts).collect();
    let all = places(&windows);
    let (mut windows, expected, refused) = expect(shared, windows, all).await?;
    for (place, refusal) in refused {
        let settled = &mut settled[place.window];
        quarantine(&windows, place, None, refusal.class.as_str(), refusal.reason, settled);
    }
    let documents = expected.iter().filter(|e| e.needs_document).map(|e| e.document).collect();
    facts.learn(&shared.context.collections, &documents).await?;
    let mut open = expected;
    for attempt in 0..=REPAIRS {
        let (back, compared) = compare_all(shared, facts, windows, open).await?;
        windows = back;
        let (mut different, mut collapsed) = (Vec::new(), Vec::new());
        for (expected, comparison) in compared {
            let settled = &mut settled[expected.place.window];
            match comparison {
                Comparison::Refused(refusal) => {
                    let class = refusal.class.as_str();
                    quarantine(&windows, expected.place, None, class, refusal.reason, settled);
                }
                Comparison::Equal => settled.counts.compared += 1,
                Comparison::Collapsed { found } => collapsed.push((expected, found)),
                Comparison::Different { found, difference } => different.push((expected, found, difference)),
            }
        }
        let is_last = attempt == REPAIRS;
        different.append(&mut collapse(shared, &windows, collapsed, is_last, &mut settled).await?);
        if different.is_empty() {
            break;
        }
        if attempt == REPAIRS {
            give_up(&windows, different, &mut settled);
            break;
        }
        if !has_every_lease(shared, &windows).await? {
            return Ok(None);
        }
        open = repair(shared, facts, &windows, different, &mut settled).await?;
        if open.is_empty() {
            break;
        }
    }
    Ok(Some((windows, settled)))
}

/// What each chunk becomes in the destination, off the async runtime.
async fn expect(
    shared: &Shared,
    windows: Vec<ReadWindow>,
    places: Vec<Place>,
) -> Result<(Vec<ReadWindow>, Vec<Expected>, Vec<(Place, Refusal)>), MergeError> {
    let rules = shared.transform();
    blocking(move || {
        let mut expected = Vec::with_capacity(places.len());
        let mut refused = Vec::new();
        for place in places {
            let window = &windows[place.window];
            let hit = &window.page.hits[place.hit];
            match address(&rules, hit.source()) {
                Ok(address) => expected.push(Expected {
                    place,
                    needs_document: address.needs_document,
                    id: address.destination_id,
                    document: address.document_id,
                }),
                // With two faults, the one that copying names.
                Err(refusal) => refused.push((place, parse(rules, window, hit).err().unwrap_or(refusal))),
            }
        }
        (windows, expected, refused)
    })
    .await
}

/// Looks every chunk up in the destination and compares it.
async fn compare_all(
    shared: &Shared,
    facts: &Facts,
    windows: Vec<ReadWindow>,
    expected: Vec<Expected>,
) -> Result<(Vec<ReadWindow>, Vec<(Expected, Comparison)>), MergeError> {
    let context = &shared.context;
    let lane = shared.destination_lane();
    let mut windows = windows;
    let mut compared = Vec::with_capacity(expected.len());
    let mut rest = expected.into_iter().peekable();
    while rest.peek().is_some() {
        let part: Vec<Expected> = rest.by_ref().take(LOOKUP_IDS).collect();
        let mut ids: Vec<&str> = part.iter().map(|expected| expected.id.as_str()).collect();
        ids.sort_unstable();
        ids.dedup();
        let found = context
            .destination
            .lookup(&context.destination_index, &ids, lane.clone())
            .await
            .map_err(MergeError::Destination)?;
        let rules = shared.transform();
        let facts = facts.clone();
        let (back, mut results) = blocking(move || {
            let results: Vec<(Expected, Comparison)> = part
                .into_iter()
                .map(|expected| {
                    let comparison = compare_one(rules, &facts, &windows, &expected, &found);
                    (expected, comparison)
                })
                .collect();
            (windows, results)
        })
        .await?;
        windows = back;
        compared.append(&mut results);
    }
    Ok((windows, compared))
}

fn compare_one(
    rules: Transform,
    facts: &Facts,
    windows: &[ReadWindow],
    expected: &Expected,
    found: &Lookup,
) -> Comparison {
    let window = &windows[expected.place.window];
    let hit = &window.page.hits[expected.place.hit];
    let parsed = match parse(rules, window, hit) {
        Ok(parsed) => parsed,
        Err(refusal) => return Comparison::Refused(refusal),
    };
    let Some(there) = found.get(&expected.id) else {
        return Comparison::Different { found: None, difference: "is not in the destination".to_owned() };
    };
    let actual = Actual { source: there.source(), vector: there.vector() };
    match compare(&parsed, facts.get(expected.document), &actual) {
        Ok(()) if Origin::of(there.version) == Some(Origin::new(window.unit.shard, hit.seq_no)) => {
            Comparison::Equal
        }
        Ok(()) => Comparison::Collapsed { found: there.version },
        Err(difference) => {
            let found = There { version: there.version, collection: collection_of(there.source()) };
            Comparison::Different { found: Some(found), difference: difference.to_string() }
        }
    }
}

/// The collection that a document of the destination says it is of.
fn collection_of(document: &[u8]) -> Option<i64> {
    #[derive(Deserialize)]
    struct Fields {
        collection_id: i64,
    }
    serde_json::from_slice(document).ok().map(|fields: Fields| fields.collection_id)
}

/// Writes again what differs; returns what must be compared again. A chunk whose key belongs to another
/// live chunk, of whatever collection, is a collision: it goes to quarantine instead.
async fn repair(
    shared: &Shared,
    facts: &Facts,
    windows: &[ReadWindow],
    different: Vec<Different>,
    settled: &mut [Settled],
) -> Result<Vec<Expected>, MergeError> {
    let mut body = BulkBody::with_capacity(64 * 1024);
    let mut written = Vec::with_capacity(different.len());
    let rivalled = rivalled(shared, windows, &different).await?;
    for (expected, found, difference) in different {
        let window = &windows[expected.place.window];
        if let Some(&collection) = rivalled.get(&expected.place) {
            let whose = if collection == window.unit.collection_id {
                "the collection".to_owned()
            } else {
                format!("collection {collection}")
            };
            let reason = format!(
                "another chunk of {whose} has the same document_id and id but other content ({difference}); delete one of the two"
            );
            let settled = &mut settled[expected.place.window];
            quarantine(windows, expected.place, Some(expected.id), "Collision", reason, settled);
            continue;
        }
        let hit = &window.page.hits[expected.place.hit];
        let own = of_repair(window.unit.pass, window.unit.shard, hit.seq_no);
        // Above it can only be what somebody else wrote there, again and again.
        let above = found.map(|there| there.version).filter(|&version| version > own);
        let version = above.map_or(own, |version| version.saturating_add(1));
        let Ok(parsed) = parse(shared.transform(), window, hit) else { continue };
        let buffer = body.begin_index(&expected.id, version, BulkVersioning::ExternalGte);
        parsed.write(facts.get(expected.document), buffer);
        body.end();
        written.push(expected);
    }
    if written.is_empty() {
        return Ok(written);
    }
    let mut again = Vec::with_capacity(written.len());
    for (expected, sent) in written.into_iter().zip(send(shared, body.freeze()).await?) {
        let settled = &mut settled[expected.place.window];
        match sent {
            Sent::Applied | Sent::Replaced | Sent::AlreadyThere => {
                settled.counts.repaired += 1;
                again.push(expected);
            }
            Sent::Refused(reason) => {
                quarantine(windows, expected.place, Some(expected.id), "Refused", reason, settled);
            }
        }
    }
    let destination = &shared.context.destination_index;
    shared
        .context
        .destination
        .refresh(std::slice::from_ref(destination))
        .await
        .map_err(MergeError::Destination)?;
    Ok(again)
}

/// A repair is written above whatever was found, so it must not be done by a process that was stopped for so long that
/// others finished the units, and went on: what it read may be of a chunk that is another one now.
async fn has_every_lease(shared: &Shared, windows: &[ReadWindow]) -> Result<bool, MergeError> {
    let leases: BTreeSet<(UnitId, i64)> =
        windows.iter().map(|window| (window.unit.id, window.unit.epoch)).collect();
    let leases: Vec<(UnitId, i64)> = leases.into_iter().collect();
    Ok(shared.context.state.renew(&leases, LEASE).await?.len() == leases.len())
}

/// Counts chunks whose key is that of another live chunk with the same content. Where that one lives no more, the document
/// is to be written from the chunk that does, so that each of ours is of a place in the log that can be found again.
async fn collapse(
    shared: &Shared,
    windows: &[ReadWindow],
    collapsed: Vec<(Expected, i64)>,
    is_last: bool,
    settled: &mut [Settled],
) -> Result<Vec<Different>, MergeError> {
    let owner = |e: &Expected| Owner::of(&windows[e.place.window].unit);
    let claims: Vec<Claim<'_>> =
        collapsed.iter().map(|(e, there)| claim(windows, e, *there, owner(e))).collect();
    let rivals = have_rivals(shared, &claims).await?;
    let mut orphans = Vec::new();
    for ((expected, found), has_rival) in collapsed.into_iter().zip(rivals) {
        if has_rival || is_last {
            let settled = &mut settled[expected.place.window];
            settled.counts.compared += 1;
            settled.counts.collapsed += 1;
        } else {
            let found = There { version: found, collection: None };
            orphans.push((expected, Some(found), "is of a chunk that lives no more".to_owned()));
        }
    }
    Ok(orphans)
}

fn claim<'a>(windows: &[ReadWindow], expected: &'a Expected, there: i64, owner: Owner) -> Claim<'a> {
    Claim { own: log_place(windows, expected.place), key: &expected.id, there, owner }
}

/// Those of which the destination holds the words of another live chunk with the same key, and that one's collection.
async fn rivalled(
    shared: &Shared,
    windows: &[ReadWindow],
    different: &[Different],
) -> Result<BTreeMap<Place, i64>, MergeError> {
    let mut claims = Vec::with_capacity(different.len());
    let mut claimants = Vec::with_capacity(different.len());
    let mut others: Option<BTreeMap<i64, Owner>> = None;
    for (expected, found, _) in different {
        let Some(there) = *found else { continue };
        let unit = &windows[expected.place.window].unit;
        let collection = there.collection.unwrap_or(unit.collection_id);
        let owner = if collection == unit.collection_id {
            Some(Owner::of(unit))
        } else {
            if others.is_none() {
                others = Some(owners(shared).await?);
            }
            others.as_ref().and_then(|others| others.get(&collection).cloned())
        };
        // Nobody has a claim for a collection that takes no part.
        let Some(owner) = owner else { continue };
        claims.push(claim(windows, expected, there.version, owner));
        claimants.push((expected.place, collection));
    }
    let rivals = have_rivals(shared, &claims).await?;
    Ok(claimants.into_iter().zip(rivals).filter_map(|(rival, is_one)| is_one.then_some(rival)).collect())
}

/// The sources that take part, by collection.
async fn owners(shared: &Shared) -> Result<BTreeMap<i64, Owner>, MergeError> {
    let sources = shared.context.state.sources(shared.context.id).await?;
    let active = sources.into_iter().filter(|source| source.state == SourceState::Active);
    let owner = |source: SourceRow| {
        (
            source.collection_id,
            Owner { source: source.id, index_name: source.index_name, shards: source.shards },
        )
    };
    Ok(active.map(owner).collect())
}

/// Books a chunk that is not to be in the destination, and says why.
fn quarantine(
    windows: &[ReadWindow],
    place: Place,
    id: Option<String>,
    class: &str,
    reason: String,
    settled: &mut Settled,
) {
    let window = &windows[place.window];
    settled.counts.compared += 1;
    settled.counts.quarantined += 1;
    settled.quarantined.push(quarantined(&window.unit, &window.page.hits[place.hit], id, class, reason));
}

fn give_up(windows: &[ReadWindow], different: Vec<Different>, settled: &mut [Settled]) {
    for (expected, _, difference) in different {
        let window = &windows[expected.place.window];
        let hit = &window.page.hits[expected.place.hit];
        let settled = &mut settled[expected.place.window];
        settled.counts.compared += 1;
        settled.counts.different += 1;
        let reason = format!("still different after {REPAIRS} repairs: {difference}");
        settled.quarantined.push(quarantined(&window.unit, hit, Some(expected.id), "Different", reason));
    }
}

/// Runs `work` where computing does not hold up the async runtime.
async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Result<T, MergeError> {
    tokio::task::spawn_blocking(work)
        .await
        .map_err(|error| MergeError::Internal(format!("comparing chunks failed: {error}")))
}
