//! What people are told about the source indices of a merge that is complete. Pure.

use jiff::Timestamp;

use super::{Attention, Fact, FactKind, to_the_second};
use crate::merge::observe::Observation;
use crate::merge::plan::sources_deleted_from;
use crate::merge::valid::ValidMerge;
use crate::state::SourceRow;

/// What becomes of the source indices.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SourceDeletionReport {
    /// When their deletion begins, or began; `None`: nothing is deleted, as things are.
    pub from: Option<Timestamp>,
    /// Deleted by this merge.
    pub deleted: u64,
    /// Kept, because they are not what was verified.
    pub kept: u64,
    /// Deleted by somebody else.
    pub missing: u64,
    /// Not looked at yet.
    pub remaining: u64,
}

/// `None` where no source index is or was to be deleted.
pub(super) fn source_deletion(spec: &ValidMerge, seen: &Observation) -> Option<SourceDeletionReport> {
    let from = sources_deleted_from(spec, seen);
    let is_told = from.is_some() || seen.deletion.has_begun();
    is_told.then_some(SourceDeletionReport {
        from,
        deleted: seen.deletion.deleted,
        kept: seen.deletion.kept,
        missing: seen.deletion.missing,
        remaining: seen.deletion.remaining,
    })
}

/// What follows the message of a merge that is complete. No counter while they change.
pub(super) fn sentence(deletion: Option<&SourceDeletionReport>, now: Timestamp) -> String {
    let Some(deletion) = deletion else { return String::new() };
    let SourceDeletionReport { deleted, kept, missing, .. } = deletion;
    match deletion.from {
        Some(from) if deletion.remaining > 0 && now < from => format!(
            "; source indices are deleted from {} on; set spec.cutover.deleteSources: Never to keep them",
            to_the_second(from)
        ),
        Some(_) if deletion.remaining > 0 => {
            "; source indices are being deleted; set spec.cutover.deleteSources: Never to keep those that are left"
                .to_owned()
        }
        Some(_) | None => {
            let gone = if *missing > 0 { format!(", {missing} were gone already") } else { String::new() };
            let left = match deletion.remaining {
                0 => String::new(),
                remaining => format!(", {remaining} are left and stay as long as nothing else is asked for"),
            };
            let why = if *kept > 0 { " (see status.attention)" } else { "" };
            format!("; {deleted} source indices were deleted, {kept} are kept{why}{gone}{left}")
        }
    }
}

/// The condition.
pub(super) fn fact(seen: &Observation, deletion: Option<&SourceDeletionReport>) -> Fact {
    let (status, reason) = match deletion {
        None => (false, "NotAskedFor"),
        Some(SourceDeletionReport { from: None, .. }) => (false, "Stopped"),
        Some(SourceDeletionReport { remaining: 0, kept: 0, .. }) => (true, "Deleted"),
        Some(SourceDeletionReport { remaining: 0, .. }) => (false, "SomeKept"),
        Some(_) if seen.deletion.has_begun() => (false, "Deleting"),
        Some(_) => (false, "Retained"),
    };
    Fact { kind: FactKind::SourcesDeleted, status: Some(status), reason, message: String::new() }
}

/// A source index that is kept, for the list of what needs a person.
pub(super) fn kept(source: &SourceRow, why: &str) -> Attention {
    let (reason, sentence) = why.split_once(": ").unwrap_or(("SourceKept", why));
    Attention {
        collection: source.collection_id,
        reason: reason.to_owned(),
        message: format!(
            "the source index {} is kept: {sentence}; delete it yourself if nobody needs it, or mend it and set a new spec.retryToken",
            source.index_name
        ),
    }
}
