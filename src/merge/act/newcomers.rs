//! Collections whose index came after the verdict: no pass knew it, and no block refuses its writers. They are told, and
//! nothing on a server is changed.
//!
//! By then the servers may be switched off. That they do not answer is no error: what was known stays.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use jiff::Timestamp;

use super::sources;
use crate::merge::engine::Engine;
use crate::merge::error::MergeError;
use crate::merge::observe::parse_memo;
use crate::merge::valid::ValidMerge;
use crate::state::{NewSource, SourceRow};

/// How long a look may take: nobody waits for it.
const LIMIT: Duration = Duration::from_secs(20);

/// What a look came to.
struct Seen {
    /// The index of each newcomer.
    newcomers: BTreeMap<i64, String>,
    /// Collections whose index cannot be read now.
    unreadable: BTreeSet<i64>,
}

/// Looks for newcomers and stores them. The moment is stored whatever comes of it, so that the next look has its time.
pub(super) async fn look(engine: &Engine, spec: &ValidMerge, now: Timestamp) -> Result<(), MergeError> {
    let seen = match tokio::time::timeout(LIMIT, Box::pin(see(engine, spec))).await {
        Ok(Ok(seen)) => Some(seen),
        Ok(Err(error)) => {
            tracing::debug!(%error, "it cannot be found out whether collections came after the verdict");
            None
        }
        Err(_) => {
            tracing::debug!(limit = ?LIMIT, "no answer whether collections came after the verdict");
            None
        }
    };
    engine
        .edit_memo(|memo| {
            memo.newcomers.looked_at = Some(now);
            if let Some(Seen { newcomers, unreadable }) = seen {
                memo.newcomers.replace(newcomers, &unreadable);
            }
        })
        .await
        .map(drop)
}

async fn see(engine: &Engine, spec: &ValidMerge) -> Result<Seen, MergeError> {
    // In another cluster every index would be new.
    sources::refuse_another_cluster(&parse_memo(&engine.merge_row().await?)?, &engine.source)?;
    let resolved = sources::look(engine, spec).await?;
    let without_index = resolved.matched.without_index.iter();
    Ok(Seen {
        newcomers: newcomers(resolved.found(), &resolved.before),
        unreadable: without_index.filter(|(_, why)| why.reason.is_unreadable()).map(|(&id, _)| id).collect(),
    })
}

/// Those of which no source was ever stored, by the uuid of the index: one that was made anew is another one.
fn newcomers(found: Vec<NewSource>, stored: &[SourceRow]) -> BTreeMap<i64, String> {
    let known: BTreeSet<&str> = stored.iter().map(|source| source.index_uuid.as_str()).collect();
    let new = found.into_iter().filter(|source| !known.contains(source.index_uuid.as_str()));
    new.map(|source| (source.collection_id, source.index_name)).collect()
}
