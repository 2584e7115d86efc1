//! Sources in which several chunks of a shard have one sequence number.
//!
//! `_shrink` puts the segments of several shards together, each of which counted from 0; only what is written afterwards
//! has numbers of its own (elastic/elasticsearch#25321). The places of such a log do not tell chunks apart, and neither do
//! the versions that are made of them, the bits of the comparison, and the places of what is in quarantine. So nothing of
//! such a source can be said to be complete. It is set aside like others that cannot be read whole: its collection makes
//! the verdict negative, and the others go on.
//!
//! No setting tells: a shrunk index may be fine, and a clone or a restored copy of one may not. Whoever reads the log finds
//! out, and a second look makes sure of it. What was found stands with the source until a new `spec.retryToken` asks for
//! another look: writing each chunk again in place mends it.

use super::error::MergeError;
use super::observe::active;
use crate::elastic::{Cluster, ElasticError, ReadLane, WindowRequest};
use crate::state::{LeasedUnit, MergeId, SourceId, SourceRow, SourceState, State};

/// Begins with the reason, as all that is stored with a source.
const WHY: &str = "SequenceNumbersShared: several of its chunks have one sequence number, as in an index that was shrunk, so its log cannot be walked; reindex it into a new index, or exclude the collection";

/// Whether a second look finds it, too: an answer may have been changed on its way.
pub(super) async fn is_confirmed(source: &Cluster, window: &WindowRequest) -> bool {
    let again = WindowRequest { lane: ReadLane::Places, most: None, ..window.clone() };
    let pages = source.read_windows(&[again]).await.unwrap_or_default();
    pages.iter().any(|page| page.as_ref().is_err_and(ElasticError::is_shared_seq_no))
}

/// Sets the source of a unit aside.
pub(super) async fn set_aside(state: &State, merge: MergeId, unit: &LeasedUnit) -> Result<(), MergeError> {
    tracing::warn!(collection = unit.collection_id, "{WHY}");
    // The reason first: a source that is resolved meanwhile is kept aside by it.
    state.set_attention(merge, unit.collection_id, Some(WHY)).await?;
    Ok(state.set_source_state(&[unit.source], SourceState::Waiting).await?)
}

/// Sets those aside again that were resolved anew.
pub(super) async fn keep_aside(state: &State, stored: &[SourceRow]) -> Result<(), MergeError> {
    let known = active(stored).filter(|source| is_known(source));
    let kept: Vec<SourceId> = known.map(|source| source.id).collect();
    if !kept.is_empty() {
        state.set_source_state(&kept, SourceState::Waiting).await?;
    }
    Ok(())
}

/// Lets the next resolve take them for sources like the others.
pub(super) async fn look_again(state: &State, merge: MergeId) -> Result<(), MergeError> {
    for source in state.sources(merge).await?.iter().filter(|source| is_known(source)) {
        state.set_attention(merge, source.collection_id, None).await?;
    }
    Ok(())
}

fn is_known(source: &SourceRow) -> bool {
    source.attention.as_deref() == Some(WHY)
}
