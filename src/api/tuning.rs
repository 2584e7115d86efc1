//! `spec.workers`, `verification`, `tolerations`, `cutover`: what may be changed at any time.

use kube::KubeSchema;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{rules, words};

/// Who copies, and how hard.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct WorkersSpec {
    /// Where the workers run. `InProcess` (also when left out): in the controller's own process.
    #[serde(default)]
    pub mode: WorkerMode,

    /// How many processes work at the merge. In mode `InProcess` it is the controller alone: 1. Left out: 1.
    #[serde(default = "one")]
    #[schemars(range(min = 1, max = 1))]
    pub replicas: u32,

    /// How many workers copy at the same time in a process, 1 to 64. Fewer are used while Elasticsearch answers that
    /// it has too much to do. Left out: 4.
    #[serde(default = "default_concurrency")]
    #[schemars(range(min = 1, max = 64))]
    pub concurrency: u32,

    /// How many bytes all workers of a process together may hold between reading and writing, 1Mi to 16Gi. It bounds
    /// the memory of the process. Left out: 64Mi.
    #[serde(default = "default_bytes_in_flight")]
    #[schemars(length(min = 1, max = 16), regex(pattern = r"^[1-9][0-9]*(k|M|G|Ki|Mi|Gi)?$"))]
    #[x_kube(validation = rules::bytes_between(words::BYTES_IN_FLIGHT, "spec.workers.maxBytesInFlight"))]
    pub max_bytes_in_flight: String,

    /// How many chunks are written in a second, at most; 1 to 1000000. Left out: as many as the destination takes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 1_000_000))]
    pub max_documents_per_second: Option<u32>,
}

impl Default for WorkersSpec {
    fn default() -> Self {
        Self {
            mode: WorkerMode::default(),
            replicas: one(),
            concurrency: default_concurrency(),
            max_bytes_in_flight: default_bytes_in_flight(),
            max_documents_per_second: None,
        }
    }
}

fn one() -> u32 {
    1
}

fn default_concurrency() -> u32 {
    4
}

fn default_bytes_in_flight() -> String {
    "64Mi".to_owned()
}

/// Where the workers run.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum WorkerMode {
    /// In the process of the controller (or of the command line).
    #[default]
    InProcess,
}

/// How the result is verified before the merge may be called complete.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct VerificationSpec {
    /// `Full` (also when left out): every chunk is read back and compared field by field, the embedding bit by bit.
    /// `Counts`: only the number of chunks of each collection is compared; the condition `Verified` stays `False`, with the
    /// reason `CountedOnly`.
    #[serde(default)]
    pub mode: VerificationMode,
}

/// How much is compared.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum VerificationMode {
    /// Every chunk, every field.
    #[default]
    Full,
    /// Only the number of chunks of each collection.
    Counts,
}

/// What the verdict may overlook.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct TolerationsSpec {
    /// How many chunks may be in quarantine (not copied, kept aside with the reason) when the merge completes. Left
    /// out: 0.
    #[serde(default)]
    #[schemars(range(min = 0, max = 1_000_000_000))]
    pub max_quarantined: i64,

    /// What to make of chunks in the destination that belong to no collection of this merge. `Keep` (also when left
    /// out): they stay and count for nothing. `Refuse`: they stay, and the verdict is negative.
    #[serde(default)]
    pub unknown_documents: UnknownDocuments,
}

/// What to make of chunks in the destination that belong to no collection of this merge.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum UnknownDocuments {
    /// They count for nothing.
    #[default]
    Keep,
    /// They make the verdict negative.
    Refuse,
}

/// When and how the application moves from the sources to the destination.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = rules::deletion_needs_blocked_sources())]
pub struct CutoverSpec {
    /// `true` keeps the merge in phase `Synced`, where the destination follows the sources, until it is set to
    /// `false`. Left out: `false`, so the cutover begins as soon as the destination has caught up.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub hold: bool,

    /// How far the destination may be behind when the cutover begins, 1s to 24h. Left out: 30s.
    #[serde(default = "default_max_lag")]
    #[schemars(length(min = 2, max = 16), regex(pattern = r"^([0-9]+(h|m|s|ms))+$"))]
    #[x_kube(validation = rules::duration_between(words::MAX_LAG, "spec.cutover.maxLag"))]
    pub max_lag: String,

    /// How long an attempt to cut over may take, from its beginning to its verdict, 10s to 6h. Then it is given up:
    /// writes are allowed again, and it is tried again after a pause (30s at first, 30m at most). It is looked at
    /// between two steps, so writers are refused for longer while a step takes longer, while no controller runs, or
    /// while a server that the step needs does not answer. Left out: 5m.
    #[serde(default = "default_timeout")]
    #[schemars(length(min = 2, max = 16), regex(pattern = r"^([0-9]+(h|m|s|ms))+$"))]
    #[x_kube(validation = rules::duration_between(words::TIMEOUT, "spec.cutover.timeout"))]
    pub timeout: String,

    /// Whether writes to the sources are refused from the cutover on. `Block` (also when left out): they are, and stay
    /// refused, so that nothing is written where nobody reads. `Allow`: they never are; the verdict is about what was
    /// there at the last pass, and what is written later is not copied. Set after a cutover with `Block` it is the way
    /// back: writes are allowed again.
    #[serde(default)]
    pub source_writes: SourceWrites,

    /// Aliases that the destination gets when the merge is complete, at most 16; none may be a number. They are added
    /// and not moved: one that another index of that cluster has already is refused before the merge begins.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 16), inner(length(min = 1, max = 255)))]
    #[x_kube(merge_strategy = ListMerge::Set, validation = rules::alias_names(), validation = rules::aliases_are_no_numbers())]
    pub aliases: Vec<String>,

    /// What happens to the source indices once the merge is complete. `Never` (also when left out): they stay.
    /// `AfterVerification`: they are deleted after `retainFor`, one at a time, each only if it still is what was
    /// verified; one that is not, or of which a chunk is in quarantine, is kept and named in the status. Set it back
    /// to `Never`, or set `suspend`, to keep those that are left, at any time. Needs `sourceWrites: Block`,
    /// `verification.mode: Full` and the privilege `delete_index`.
    #[serde(default)]
    pub delete_sources: DeleteSources,

    /// How long the source indices are kept after the merge was complete when `deleteSources` is `AfterVerification`,
    /// 0s to 8760h (a year). Left out: 168h (a week). It says nothing while `deleteSources` is `Never`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 2, max = 16), regex(pattern = r"^([0-9]+(h|m|s|ms))+$"))]
    #[x_kube(validation = rules::duration_between(words::RETAIN_FOR, "spec.cutover.retainFor"))]
    pub retain_for: Option<String>,
}

impl CutoverSpec {
    /// `retainFor`, or what leaving it out means.
    #[must_use]
    pub fn retain_for(&self) -> &str {
        self.retain_for.as_deref().unwrap_or(DEFAULT_RETAIN_FOR)
    }
}

/// A week: long enough to notice over a weekend that something is not as it was.
const DEFAULT_RETAIN_FOR: &str = "168h";

impl Default for CutoverSpec {
    fn default() -> Self {
        Self {
            hold: false,
            max_lag: default_max_lag(),
            timeout: default_timeout(),
            source_writes: SourceWrites::default(),
            aliases: Vec::new(),
            delete_sources: DeleteSources::default(),
            retain_for: None,
        }
    }
}

fn default_max_lag() -> String {
    "30s".to_owned()
}

fn default_timeout() -> String {
    "5m".to_owned()
}

/// What happens to writes to the sources once the merge is complete.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum SourceWrites {
    /// They stay refused.
    #[default]
    Block,
    /// They are allowed again.
    Allow,
}

/// What happens to the source indices once the merge is complete.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum DeleteSources {
    /// They stay.
    #[default]
    Never,
    /// They are deleted some time after a positive verdict.
    AfterVerification,
}
