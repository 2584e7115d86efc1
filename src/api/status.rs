//! `status`: what the controller says about a merge. Only the controller writes it.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
use kube::KubeSchema;
use serde::{Deserialize, Serialize};

/// How many collections `status.attention` lists; `status.attentionTotal` counts all.
pub const MAX_ATTENTION: usize = 20;

/// The longest message in the status, in characters.
pub const MAX_MESSAGE: usize = 1024;

/// What the controller says about a merge.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct EsIndexMergeStatus {
    /// The generation of the resource that this status is about; -1 before the controller has seen it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,

    /// How far the merge is, in one word: Pending, Preparing, Copying, Indexing, Verifying, Synced, `CuttingOver`,
    /// Completed, Suspended or Failed. For people; programs read the conditions.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 32))]
    pub phase: Option<String>,

    /// What is going on, or what is in the way and what to do about it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 1024))]
    pub message: Option<String>,

    /// `Ready`: the merge is complete and verified. `Reconciling`: work goes on, or is tried again. `Stalled`: only a
    /// person can help. `Failing`: the last attempt failed. `SourcesResolved`, `DestinationReady`, `Copied`,
    /// `Verified`, `Synced`, `CutOver`, `SourcesDeleted`: the steps.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 16))]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["type".to_owned()]))]
    pub conditions: Vec<Condition>,

    /// How much of the phase's work is done.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub progress: Option<ProgressStatus>,

    /// The progress in short texts, for the columns of `kubectl get`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub summary: Option<Summary>,

    /// How far the destination is behind the sources, for instance `3s`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 32))]
    pub lag: Option<String>,

    /// The index that receives the chunks, once it exists.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub destination: Option<DestinationStatus>,

    /// How chunks are read and written, chosen from the versions and settings that were found.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 256))]
    pub lanes: Option<String>,

    /// Collections that need attention, at most 20: first those that came after the verdict, named together, then those
    /// whose chunks may be missing, then those of which something was left out, then indices that no collection has; each
    /// by id.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 20))]
    #[x_kube(merge_strategy = ListMerge::Atomic)]
    pub attention: Vec<AttentionStatus>,

    /// How many such entries there are in all; a collection may have several.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub attention_total: Option<i64>,

    /// How many chunks are in quarantine: not copied, kept aside with the reason.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub quarantined: Option<i64>,

    /// How many processes hold work right now, however much each of them does at a time.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub workers: Option<i64>,

    /// How long the sources refused writes in the cutover, for instance `2.4s`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 32))]
    pub writes_refused: Option<String>,

    /// What became of the source indices, if `cutover.deleteSources` asks for their deletion or did so before.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub source_deletion: Option<SourceDeletionStatus>,

    /// When the merge began.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub started_at: Option<Time>,

    /// When the merge was complete and verified.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub completed_at: Option<Time>,
}

/// How much of the phase's work is done.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct ProgressStatus {
    /// The share that is done, in percent, rounded down. It never goes back within a phase. In `Indexing` it is that of
    /// the copying; what the server does after it is not measured.
    #[schemars(range(min = 0, max = 100))]
    pub percent: i32,

    /// How many collections there are.
    pub collections: i64,

    /// How many collections are done.
    pub collections_done: i64,

    /// How many chunks there are, as far as known.
    pub documents: i64,

    /// How many chunks are done.
    pub documents_done: i64,

    /// How many bytes were copied and compared since the start, in all phases.
    pub bytes_done: i64,

    /// How many chunks are done in a second, over the last 20 seconds or so.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub documents_per_second: Option<i64>,

    /// When the phase is expected to end.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub eta: Option<Time>,
}

/// The progress in short texts, for the columns of `kubectl get`.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct Summary {
    /// The share that is done, for instance `63%`. Left out in `Indexing` once copying has caught up.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 16))]
    pub progress: Option<String>,

    /// Collections done and all, for instance `120/300`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 48))]
    pub collections: Option<String>,

    /// Chunks done and all, for instance `12345/40000`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 48))]
    pub documents: Option<String>,

    /// Chunks per second, for instance `2150/s`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 32))]
    pub rate: Option<String>,
}

/// The index that receives the chunks.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct DestinationStatus {
    /// Its name.
    #[schemars(length(max = 255))]
    pub index: String,

    /// Its UUID in Elasticsearch. Another one means that somebody deleted the index and made it anew.
    #[schemars(length(max = 64))]
    pub uuid: String,
}

/// What became of the source indices.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct SourceDeletionStatus {
    /// When the deletion begins, or began. Absent while nothing is to be deleted (any more).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub from: Option<Time>,

    /// How many source indices were deleted.
    pub deleted: i64,

    /// How many are kept because they are not what was verified; `status.attention` names them with the reason.
    pub kept: i64,

    /// How many somebody else had deleted.
    pub missing: i64,

    /// How many are left to be looked at.
    pub remaining: i64,
}

/// A collection that needs attention.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct AttentionStatus {
    /// The id of the collection.
    pub collection: i64,

    /// Why, in one word.
    #[schemars(length(max = 64))]
    pub reason: String,

    /// Why, and what to do.
    #[schemars(length(max = 512))]
    pub message: String,
}
