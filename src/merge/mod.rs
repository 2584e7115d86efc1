//! The engine: a spec and a stored state in, the next step out. It knows no Kubernetes.
//!
//! Recipe: [`ValidMerge::parse`] the spec, [`secrets::resolve`] what it names, [`Engine::open`] checks
//! everything and claims the destination, then [`Engine::step`] again and again: observe, plan ([`plan`]), act, report.
//! Workers ([`worker`]) run beside the steps and are the only ones that move data.
//!
//! The invariants that hold at every moment are listed in `docs/architecture.md`.

mod act;
mod engine;
mod error;
mod memo;
mod observe;
mod phase;
mod plan;
#[cfg(test)]
mod plan_properties;
mod preflight;
mod progress;
mod report;
pub mod secrets;
mod shrunk;
mod unreached;
mod valid;
pub mod version;
mod worker;

use std::time::Duration;

use jiff::Timestamp;

use crate::elastic::{IndexName, ReadLane};

pub use engine::{Connected, Engine};
pub use error::{MergeCategory, MergeError, Problem};
pub use memo::Memo;
pub use phase::Phase;
pub use plan::{Next, UNITS_FAILING, Waiting};
pub use preflight::{Preview, preview};
pub use report::{Attention, Fact, FactKind, NOT_MERGED, Progress, Report, SourceDeletionReport};
pub use valid::{
    Cutover, Destination, SourceWrites, Tolerations, UnknownDocuments, ValidMerge, Verification, Workers,
};

/// The time from `start` to `end`; zero where the clock went back.
#[must_use]
pub(crate) fn elapsed(start: Timestamp, end: Timestamp) -> Duration {
    Duration::try_from(end.duration_since(start)).unwrap_or(Duration::ZERO)
}

/// The time between two moments, whichever comes first.
#[must_use]
pub(crate) fn apart(one: Timestamp, other: Timestamp) -> Duration {
    one.duration_since(other).unsigned_abs()
}

/// How the keys of a source's chunks are read: the two fields that they are made of.
fn key_lane() -> ReadLane {
    ReadLane::Fields(vec!["id", "metadata.document_id"])
}

/// The name of an index as it is stored: checked before it was, so it can only be wrong by other hands.
fn stored_index(name: &str) -> Result<IndexName, MergeError> {
    IndexName::parse(name)
        .map_err(|error| MergeError::Internal(format!("a stored index name is invalid: {error}")))
}
