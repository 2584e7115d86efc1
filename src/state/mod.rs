//! Our Postgres schema: merges, sources, units, leases, checkpoints, quarantine and verdicts.
//!
//! What must survive a crash of every process lives here and nowhere else. The rules:
//!
//! - A **checkpoint is one transaction**: cursors, counts, quarantine rows and cuts of a window are written
//!   together or not at all, and only for units whose id, epoch and cursor are those the worker had. A worker
//!   that lost its lease is told so and writes nothing. ([`invariants`] states these rules as functions.)
//! - A **lease** raises the unit's epoch, its end is judged by the database's clock alone, and nobody needs to
//!   release it: it runs out.
//! - **Planning is idempotent**: the log of a shard is cut from where the last plan ended, under a lock. If the
//!   shard's history begins anew, everything planned on the old one is closed and counts nowhere.
//! - A range is **compared once more** by a unit beside the plan, which counts nowhere. What is in quarantine at a
//!   window is what the last walk over it said.
//! - A destination is **claimed** by one merge at a time (a unique index, not a check).
//!
//! On failure: nothing is tried again in here. A [`StateError`] says its [`Category`], whether the same call
//! may succeed later ([`StateError::is_transient`]) and what to do. After an error of [`State::checkpoint`]
//! the same call may simply be made again: what was stored already is recognised and not counted twice.

mod checkpoint;
mod deletion;
mod error;
mod fold;
pub mod invariants;
mod lease;
mod merges;
mod plan;
mod quarantine;
mod recheck;
mod schema;
mod sources;
mod steps;
mod totals;
mod verdicts;

pub use crate::postgres::{Category, Login};
pub use checkpoint::{Advance, Counts, SourceCuts};
pub use deletion::SourceDeletion;
pub use error::StateError;
pub use lease::LeasedUnit;
pub use merges::{Claim, MergeRow, NewMerge};
pub use plan::ShardTarget;
pub use quarantine::{QuarantineFilter, Quarantined, QuarantinedPlace, QuarantinedRow};
pub use schema::{DEFAULT_SCHEMA, State};
pub use sources::{NewSource, ShardRow, SourceRow, SourceState};
pub use totals::{KindTotals, Totals};
pub use verdicts::CollectionVerdict;

/// Identifies a merge; made at the claim.
pub type MergeId = uuid::Uuid;
/// Identifies a unit; never used again.
pub type UnitId = i64;
/// Identifies one index of one collection within a merge.
pub type SourceId = i64;

/// What is done at each window of a unit.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum UnitKind {
    /// Read from the source, write to the destination.
    Copy,
    /// Read from the source, compare with the destination.
    Verify,
}

impl UnitKind {
    /// As it is stored, and as a metric label.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Copy => "copy",
            Self::Verify => "verify",
        }
    }

    fn parse(text: &str) -> Option<Self> {
        match text {
            "copy" => Some(Self::Copy),
            "verify" => Some(Self::Verify),
            _ => None,
        }
    }
}

type Result<T> = std::result::Result<T, StateError>;

/// Rows that one statement takes where they come from memory. They fit into one TLS record (16 KB): what is larger waits
/// 40 ms for the peer's delayed acknowledgement, as the connections to Postgres leave Nagle's algorithm on.
const ROWS_AT_ONCE: usize = 150;

/// A text as it is stored: Postgres cannot hold NUL, which ids, keys and reasons made from user data may contain.
#[must_use]
pub fn storable(text: &str) -> String {
    text.replace('\0', "\u{FFFD}")
}

/// Decodes microseconds since 1970, as our queries return times.
fn timestamp(microseconds: i64) -> Result<jiff::Timestamp> {
    jiff::Timestamp::from_microsecond(microseconds)
        .map_err(|error| StateError::unreadable(format!("a time of {microseconds} us: {error}")))
}
