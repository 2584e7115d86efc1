//! The custom resource `EsIndexMerge` (`indexmerge.dev/v1alpha1`) and its definition.
//!
//! Three rules hold for everything here:
//! - What identifies a merge (databases, clusters, destination index, contract) never changes; what tunes it may,
//!   at any time. Both are enforced by CEL rules in the definition, so a wrong manifest is refused by
//!   `kubectl apply` and never seen by the controller.
//! - The definition has no defaults for `spec`: what is left out stays left out (Argo CD compares), and the
//!   value which then holds is named in the field's documentation and applied while decoding.
//! - `status` starts with `observedGeneration: -1`, so that nobody takes a resource without status for a
//!   finished one.
//!
//! This room does no I/O. The values that CEL cannot judge (is there such a secret, does the server know this
//! type of index) are judged by the engine when the merge is opened.

mod crd;
mod destination;
pub mod quantity;
mod rules;
mod schema;
mod spec;
mod status;
mod tuning;
pub(crate) mod words;

pub use crd::{crd, crd_yaml};
pub use destination::{DestinationSpec, IndexSpec, Language, VectorIndexOptions, VectorIndexType};
pub(crate) use rules::is_node_url;
pub use schema::{Refusal, out_of_bounds, unknown_fields};
pub use spec::{
    ClusterSpec, CollectionsSpec, Contract, DeletionPolicy, EsIndexMerge, EsIndexMergeSpec, PostgresRef,
    SecretKeyRef, SecretRef, StateSpec,
};
pub use status::{
    AttentionStatus, DestinationStatus, EsIndexMergeStatus, MAX_ATTENTION, MAX_MESSAGE, ProgressStatus,
    SourceDeletionStatus, Summary,
};
pub use tuning::{
    CutoverSpec, DeleteSources, SourceWrites, TolerationsSpec, UnknownDocuments, VerificationMode,
    VerificationSpec, WorkerMode, WorkersSpec,
};

/// The API group of the resource.
pub const GROUP: &str = "indexmerge.dev";

/// The finalizer of the controller; it is there only while something must be released.
pub const FINALIZER: &str = "indexmerge.dev/cleanup";

/// With the value `"true"` this annotation lets a resource go although its clusters could not be cleaned up.
pub const FORCE_DELETE_ANNOTATION: &str = "indexmerge.dev/force-delete";
