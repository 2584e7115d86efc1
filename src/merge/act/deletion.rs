//! Source indices are deleted after the verdict, one at a time, each looked at just before.
//!
//! Elasticsearch deletes by name, not by uuid. So the uuid and everything else that the verdict rests on is asked for
//! immediately before, the intent is stored, and the deletion is one request that is sent once. What took too long in
//! between, or is done by a process that does not decide any more, is not done: the next step looks again. An index
//! that is not what was verified is kept, with the reason.
//!
//! What is left is the moment between the last look and the server's own: an index that is made anew under the same
//! name in these milliseconds would be deleted.

mod recheck;

use std::time::{Duration, Instant};

use self::recheck::{DestinationNow, IndexNow, Stored};
use super::keys::COLLECTION_FIELD;
use super::sources::index_name;
use crate::elastic::{ElasticError, ErrorCategory, IndexInfo, IndexName, PrimaryStats};
use crate::merge::engine::Engine;
use crate::merge::error::{MergeCategory, MergeError};
use crate::merge::observe::parse_memo;
use crate::merge::valid::ValidMerge;
use crate::state::{SourceDeletion, SourceId, SourceRow};

/// How much the clocks of two machines may differ without anything being wrong.
const SKEW: Duration = Duration::from_secs(10);
/// What was seen of the source index longer ago than this is looked at again before it is deleted.
const FRESH: Duration = Duration::from_secs(10);
/// The server's `type` of "a snapshot is being made of that index": its deletion is tried again.
const IN_A_SNAPSHOT: &str = "snapshot_in_progress_exception";

/// What a look at a source index came to.
#[derive(Debug, PartialEq, Eq)]
enum Finding {
    /// It is what was verified, as seen from this moment on.
    AsVerified(Instant),
    /// There is no such index.
    Gone,
    /// It must stay (`Reason: sentence`).
    Keep(String),
}

/// Looks at one source index and deletes it, unless it is to be kept.
pub(super) async fn delete(engine: &Engine, spec: &ValidMerge, id: SourceId) -> Result<(), MergeError> {
    let sources = engine.state.sources(engine.id).await?;
    let Some(source) = sources.iter().find(|source| source.id == id) else { return Ok(()) };
    let Some(retain_for) = spec.cutover.delete_sources_after else { return Ok(()) };
    let left = engine.state.until_complete_for(engine.id, retain_for).await?;
    if let Some(left) = left.filter(|left| *left <= SKEW) {
        tokio::time::sleep(left).await;
    } else {
        // One of two clocks jumped, and what is deleted is not there again when it is set right.
        return Err(MergeError::problem(
            MergeCategory::ChecksFailed,
            "spec.cutover.retainFor",
            "is over by the clock of this process, but not by that of the state's Postgres; nothing is deleted before it is by both",
        ));
    }
    let name = index_name(source)?;
    let finding = look(engine, spec, source, &name).await?;
    let outcome = match finding {
        Finding::Keep(reason) => SourceDeletion::Kept(reason),
        Finding::Gone if source.deletion == Some(SourceDeletion::Intended) => SourceDeletion::Deleted,
        Finding::Gone => SourceDeletion::Missing,
        Finding::AsVerified(seen_at) => {
            engine.state.set_source_deletion(id, &SourceDeletion::Intended).await?;
            if !engine.still_decides().await? || seen_at.elapsed() > FRESH {
                return Ok(());
            }
            delete_now(engine, &name).await?
        }
    };
    tell(source, &outcome);
    Ok(engine.state.set_source_deletion(id, &outcome).await?)
}

/// The one request.
async fn delete_now(engine: &Engine, name: &IndexName) -> Result<SourceDeletion, MergeError> {
    match engine.source.delete_index_at_once(name).await {
        // Gone already: between the look and now, with our intent stored.
        Ok(true | false) => Ok(SourceDeletion::Deleted),
        Err(error) if is_refused_for_good(&error) => {
            Ok(SourceDeletion::Kept(format!("DeletionRefused: the server refuses to delete it: {error}")))
        }
        Err(error) => Err(MergeError::Source(error)),
    }
}

/// Whether the server refuses the deletion of this one index. A missing privilege concerns them all.
fn is_refused_for_good(error: &ElasticError) -> bool {
    let is_invalid = error.category() == ErrorCategory::Invalid && error.kind() != Some(IN_A_SNAPSHOT);
    is_invalid || error.is_block_of_an_index()
}

fn tell(source: &SourceRow, outcome: &SourceDeletion) {
    let (collection, index) = (source.collection_id, source.index_name.as_str());
    match outcome {
        SourceDeletion::Intended => {}
        SourceDeletion::Deleted => tracing::info!(collection, index, "a source index is deleted"),
        SourceDeletion::Kept(reason) => tracing::info!(collection, index, reason, "a source index is kept"),
        SourceDeletion::Missing => tracing::info!(collection, index, "a source index is gone already"),
    }
}

/// Everything that the verdict on a source rests on, as it is now. The source index itself comes last.
async fn look(
    engine: &Engine,
    spec: &ValidMerge,
    source: &SourceRow,
    name: &IndexName,
) -> Result<Finding, MergeError> {
    match engine.source.describe(std::slice::from_ref(name)).await {
        Ok(described) if !described.contains_key(name) => return Ok(Finding::Gone),
        Ok(_) => {}
        Err(error) => return unreadable(error),
    }
    let stored = read_stored(engine, spec, source).await?;
    if let Err(reason) = recheck::stored(&stored) {
        return Ok(Finding::Keep(reason));
    }
    let destination = look_at_destination(engine, source.collection_id).await?;
    if let Err(reason) = recheck::destination(&stored, &destination) {
        return Ok(Finding::Keep(reason));
    }
    let seen_at = Instant::now();
    match look_at_index(engine, name).await {
        Ok(Some(now)) => {
            Ok(recheck::index(&stored, &now).map_or_else(Finding::Keep, |()| Finding::AsVerified(seen_at)))
        }
        Ok(None) => Ok(Finding::Gone),
        Err(error) => unreadable(error),
    }
}

async fn read_stored<'a>(
    engine: &Engine,
    spec: &ValidMerge,
    source: &'a SourceRow,
) -> Result<Stored<'a>, MergeError> {
    let collection = source.collection_id;
    let shards = engine.state.shards(engine.id).await?;
    let verdicts = engine.state.verdicts(engine.id).await?;
    let quarantine = engine.state.quarantine_counts(engine.id).await?;
    Ok(Stored {
        source,
        shards: shards.into_iter().filter(|shard| shard.source == source.id).collect(),
        verdict: verdicts.into_iter().find(|verdict| verdict.collection_id == collection),
        quarantined: quarantine.get(&collection).map_or(0, |classes| classes.values().sum()),
        is_wanted: spec.wants(collection),
        destination: parse_memo(&engine.merge_row().await?)?.destination,
    })
}

/// The destination, as far as its answer concerns that collection. That it does not answer is an error.
async fn look_at_destination(engine: &Engine, collection: i64) -> Result<DestinationNow, MergeError> {
    let name = &engine.merge.destination.index;
    let names = std::slice::from_ref(name);
    let mut stats = match engine.destination.primary_stats(names).await {
        Err(error) if error.is_alias() || error.is_closed_index() => return Ok(DestinationNow::default()),
        stats => stats.map_err(MergeError::Destination)?,
    };
    let Some(shards) = stats.remove(name) else { return Ok(DestinationNow::default()) };
    let shards = shards.map_err(MergeError::Destination)?;
    engine.destination.refresh(names).await.map_err(MergeError::Destination)?;
    let counted = engine.destination.count_where(name, COLLECTION_FIELD, collection).await;
    Ok(DestinationNow {
        uuid: shards.first().map(|shard| shard.index_uuid.0.clone()),
        histories: shards.into_iter().map(|shard| (shard.shard, shard.history_uuid)).collect(),
        documents: counted.map_err(MergeError::Destination)?,
    })
}

/// The source index; `None` if there is none of that name.
async fn look_at_index(engine: &Engine, name: &IndexName) -> Result<Option<IndexNow>, ElasticError> {
    let names = std::slice::from_ref(name);
    let stats: Option<Vec<PrimaryStats>> =
        engine.source.primary_stats(names).await?.remove(name).transpose()?;
    // The block last: it is what keeps the rest as it is.
    let info: Option<IndexInfo> = engine.source.describe(names).await?.remove(name);
    Ok(stats.zip(info).map(|(shards, info)| IndexNow { shards, info }))
}

/// A name that means no index that can be looked at. What does not answer now is asked again.
fn unreadable(error: ElasticError) -> Result<Finding, MergeError> {
    if error.is_alias() {
        return Ok(Finding::Keep(recheck::replaced(&error)));
    }
    if error.is_closed_index() {
        return Ok(Finding::Keep(format!("SourceClosed: it cannot be looked at: {error}")));
    }
    Err(MergeError::Source(error))
}
