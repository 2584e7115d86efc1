//! The phases of a merge, in the order in which it walks through them.

use std::fmt;

/// Where a merge stands. Stored in Postgres by name; [`Phase::Suspended`] is shown but never stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Phase {
    /// Checks, and the claim of the destination's name.
    Pending,
    /// The destination is created or adopted; the sources are resolved; the first pass is planned.
    Preparing,
    /// Workers walk `[0, C]` of every shard.
    Copying,
    /// Catch-up, then the graph, the merges and the replicas.
    Indexing,
    /// Workers walk the same log and compare.
    Verifying,
    /// The destination follows the sources.
    Synced,
    /// The last pass, the last comparison and the counts; writers are refused meanwhile, unless
    /// `spec.cutover.sourceWrites` is `Allow`.
    CuttingOver,
    /// The verdict is positive.
    Completed,
    /// The user asked for a pause.
    Suspended,
    /// The verdict is negative, or something that only a person can mend.
    Failed,
}

impl Phase {
    /// Every phase that can be stored.
    pub const STORED: [Phase; 9] = [
        Phase::Pending,
        Phase::Preparing,
        Phase::Copying,
        Phase::Indexing,
        Phase::Verifying,
        Phase::Synced,
        Phase::CuttingOver,
        Phase::Completed,
        Phase::Failed,
    ];

    /// The name used in the status, in Postgres, in metrics and in logs.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Phase::Pending => "Pending",
            Phase::Preparing => "Preparing",
            Phase::Copying => "Copying",
            Phase::Indexing => "Indexing",
            Phase::Verifying => "Verifying",
            Phase::Synced => "Synced",
            Phase::CuttingOver => "CuttingOver",
            Phase::Completed => "Completed",
            Phase::Suspended => "Suspended",
            Phase::Failed => "Failed",
        }
    }

    /// The stored phase of that name; `None` for a name that no version of this program wrote.
    #[must_use]
    pub fn parse(name: &str) -> Option<Phase> {
        Phase::STORED.into_iter().find(|phase| phase.as_str() == name)
    }
}

impl fmt::Display for Phase {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}
