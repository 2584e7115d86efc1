//! Whether a source index is still what was verified. Pure: each check gives the reason to keep it.

use std::collections::BTreeMap;
use std::fmt::Display;

use crate::elastic::{IndexInfo, PrimaryStats};
use crate::merge::act::passes::is_copied_whole;
use crate::merge::memo::DestinationMemo;
use crate::state::{CollectionVerdict, ShardRow, SourceRow};

/// `Ok`, or why the index is kept: `Reason: sentence`.
pub(super) type Check = Result<(), String>;

/// What this merge stored about a source.
#[derive(Debug, Clone)]
pub(super) struct Stored<'a> {
    pub source: &'a SourceRow,
    pub shards: Vec<ShardRow>,
    pub verdict: Option<CollectionVerdict>,
    /// Chunks of the collection in quarantine.
    pub quarantined: i64,
    /// Whether the spec (still) asks for the collection.
    pub is_wanted: bool,
    pub destination: Option<DestinationMemo>,
}

/// The destination as it is; without uuid if there is no such index.
#[derive(Debug, Clone, Default)]
pub(super) struct DestinationNow {
    pub uuid: Option<String>,
    pub histories: BTreeMap<i32, String>,
    /// Chunks of the collection.
    pub documents: u64,
}

/// The source index as it is.
#[derive(Debug)]
pub(super) struct IndexNow {
    pub shards: Vec<PrimaryStats>,
    pub info: IndexInfo,
}

/// What is stored allows a deletion: a verdict on everything, nothing left out, nobody else's.
pub(super) fn stored(stored: &Stored<'_>) -> Check {
    let verdict = stored.verdict.as_ref().filter(|verdict| verdict.verdict);
    let Some(verdict) = verdict else {
        return keep("NoVerdict", "there is no positive verdict on its collection");
    };
    if stored.quarantined > 0 || verdict.quarantined > 0 {
        let chunks = stored.quarantined.max(verdict.quarantined);
        return keep(
            "Quarantined",
            format!("{chunks} of its chunks are in quarantine and only there and here"),
        );
    }
    // A name or a date that was missing is no content.
    let cut: i64 = stored
        .source
        .cuts
        .iter()
        .filter(|(reason, _)| !reason.ends_with("_missing"))
        .map(|(_, cut)| cut)
        .sum();
    if cut > 0 {
        return keep("ContentCut", format!("{cut} values that the contract's readers refuse are only here"));
    }
    if stored.shards.iter().any(|shard| shard.verify_planned_to != shard.copy_planned_to) {
        return keep("NotCompared", "its chunks were counted and not compared (spec.verification.mode)");
    }
    if !stored.is_wanted {
        return keep("Excluded", "its collection is excluded from the merge now");
    }
    Ok(())
}

/// The destination is the index that was verified, was not set back, and holds as many chunks of the collection.
pub(super) fn destination(stored: &Stored<'_>, now: &DestinationNow) -> Check {
    let known = stored.destination.as_ref();
    let is_same = known.is_some_and(|known| now.uuid.as_deref() == Some(known.uuid.as_str()));
    if !is_same {
        return keep("DestinationChanged", "the destination is not the index that was verified any more");
    }
    if known.is_none_or(|known| known.histories != now.histories) {
        return keep(
            "DestinationChanged",
            "the destination was set back to another state since it was verified",
        );
    }
    let verified = stored.verdict.as_ref().map_or(0, |verdict| verdict.destination_documents);
    if i64::try_from(now.documents) != Ok(verified) {
        return keep(
            "DestinationChanged",
            format!(
                "the destination has {} chunks of its collection, {verified} were verified",
                now.documents
            ),
        );
    }
    Ok(())
}

/// The index is the one that was copied and nobody else's, still refuses writes by our block, and nothing was written to it.
pub(super) fn index(stored: &Stored<'_>, now: &IndexNow) -> Check {
    let source = stored.source;
    let is_same = |uuid: &str| uuid == source.index_uuid;
    if !is_same(&now.info.uuid.0) || !now.shards.iter().all(|shard| is_same(&shard.index_uuid.0)) {
        return Err(replaced(&"another index has its name now"));
    }
    let names = now.info.aliases.iter().chain(std::iter::once(&source.index_name));
    let mut others = names.filter_map(|name| name.parse::<i64>().ok());
    if let Some(other) = others.find(|&other| other != source.collection_id) {
        return keep("IndexShared", format!("by the name {other} it is the index of that collection too"));
    }
    let is_blocked = now.info.settings.get("index.blocks.write").is_some_and(|block| block == "true");
    if !source.blocked_by_us || !is_blocked {
        return keep("NotBlocked", "this merge's write block is not on it, so it may have been written to");
    }
    if i32::try_from(now.shards.len()) != Ok(source.shards) {
        return keep("SourceChanged", "it has not as many shards as were copied");
    }
    now.shards.iter().try_for_each(|shard| same_log(stored, shard))?;
    let live: u64 = now.shards.iter().map(|shard| shard.docs).sum();
    let verified = stored.verdict.as_ref().map_or(0, |verdict| verdict.source_documents);
    if i64::try_from(live) != Ok(verified) {
        return keep("SourceChanged", format!("it has {live} chunks, {verified} were verified"));
    }
    Ok(())
}

/// The log of a shard is the one that was copied, and ends where the copy ended.
fn same_log(stored: &Stored<'_>, now: &PrimaryStats) -> Check {
    let copied = stored.shards.iter().find(|shard| shard.shard == now.shard);
    if copied.is_some_and(|copied| copied.history_uuid != now.history_uuid) {
        return keep("SourceChanged", format!("shard {} was set back to another state", now.shard));
    }
    if !is_copied_whole(copied, now) {
        return keep("SourceChanged", format!("shard {} was written to after it was copied", now.shard));
    }
    Ok(())
}

/// The name means something else than the index that was merged.
pub(super) fn replaced(why: &impl Display) -> String {
    format!("SourceReplaced: it is not the index that was merged: {why}")
}

fn keep(reason: &'static str, sentence: impl Display) -> Check {
    Err(format!("{reason}: {sentence}"))
}

#[cfg(test)]
#[path = "recheck_tests.rs"]
mod tests;
