//! What can go wrong with a merge, in the words of the person who can mend it.

use std::fmt;

use crate::collections::CollectionsError;
use crate::elastic::{ElasticError, ErrorCategory};
use crate::state::StateError;

/// Where the checkpoints are: left out, it is the other one.
pub(super) const STATE_POSTGRES: &str =
    "the state's Postgres (spec.state.postgres, or else spec.collections.postgres)";

/// One thing that is wrong with the spec, a secret, a server or a table.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    /// Where: a field of the resource (`spec.destination.index.vectorSize`) or a part (`source`).
    pub field: String,
    /// What is wrong, and what to do.
    pub message: String,
    /// Whether it may pass without anybody changing anything: a server that does not answer now.
    pub may_pass: bool,
}

impl Problem {
    /// A problem of that field.
    pub fn new(field: impl Into<String>, message: impl Into<String>) -> Problem {
        Problem { field: field.into(), message: message.into(), may_pass: false }
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.field, self.message)
    }
}

/// The bounded set of causes; its name is condition reason, event reason and metric label alike.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum MergeCategory {
    /// The spec says something that cannot be done.
    InvalidSpec,
    /// A secret is missing or malformed.
    SecretInvalid,
    /// A check before the start found problems.
    ChecksFailed,
    /// Another merge has the destination.
    DestinationClaimed,
    /// The existing destination does not fit.
    DestinationMismatch,
    /// The destination was deleted or replaced under the run.
    DestinationLost,
    /// The source cluster answered with an error or not at all.
    SourceUnavailable,
    /// The destination cluster answered with an error or not at all.
    DestinationUnavailable,
    /// The collections' database answered with an error or not at all.
    CollectionsUnavailable,
    /// The state database answered with an error or not at all.
    StateUnavailable,
    /// Something that this program got wrong.
    Internal,
}

impl MergeCategory {
    /// CamelCase, as Kubernetes wants reasons.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            MergeCategory::InvalidSpec => "InvalidSpec",
            MergeCategory::SecretInvalid => "SecretInvalid",
            MergeCategory::ChecksFailed => "ChecksFailed",
            MergeCategory::DestinationClaimed => "DestinationClaimed",
            MergeCategory::DestinationMismatch => "DestinationMismatch",
            MergeCategory::DestinationLost => "DestinationLost",
            MergeCategory::SourceUnavailable => "SourceUnavailable",
            MergeCategory::DestinationUnavailable => "DestinationUnavailable",
            MergeCategory::CollectionsUnavailable => "CollectionsUnavailable",
            MergeCategory::StateUnavailable => "StateUnavailable",
            MergeCategory::Internal => "Internal",
        }
    }
}

/// Which cluster an [`ElasticError`] came from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Side {
    /// `spec.source`.
    Source,
    /// `spec.destination`.
    Destination,
}

/// Any failure of the engine.
#[derive(Debug, thiserror::Error)]
pub enum MergeError {
    /// All problems found, at once.
    #[error("{}", list(.problems))]
    Problems {
        /// Their common class.
        category: MergeCategory,
        /// At least one.
        problems: Vec<Problem>,
    },
    /// The source cluster.
    #[error("spec.source: {}; {}", .0, .0.remedy())]
    Source(#[source] ElasticError),
    /// The destination cluster.
    #[error("spec.destination: {}; {}", .0, .0.remedy())]
    Destination(#[source] ElasticError),
    /// The destination cluster, asked to set the aliases.
    #[error("spec.cutover.aliases: {}; {}", .0, aliases_remedy(.0))]
    Aliases(#[source] ElasticError),
    /// The application's Postgres.
    #[error("spec.collections.postgres: {}; {}", .0, .0.remedy())]
    Collections(#[from] CollectionsError),
    /// Our Postgres.
    #[error("{}: {}; {}", STATE_POSTGRES, .0, .0.remedy())]
    State(#[from] StateError),
    /// The destination is not the index that this merge prepared.
    #[error("{0}")]
    DestinationLost(String),
    /// A blocking task died or data that we wrote ourselves cannot be read.
    #[error("internal error: {0}; please report it with the log")]
    Internal(String),
}

impl MergeError {
    /// One problem as an error.
    pub fn problem(
        category: MergeCategory,
        field: impl Into<String>,
        message: impl Into<String>,
    ) -> MergeError {
        MergeError::Problems { category, problems: vec![Problem::new(field, message)] }
    }

    /// The class for conditions, events and metrics.
    #[must_use]
    pub fn category(&self) -> MergeCategory {
        match self {
            MergeError::Problems { category, .. } => *category,
            MergeError::Source(_) => MergeCategory::SourceUnavailable,
            MergeError::Destination(_) | MergeError::Aliases(_) => MergeCategory::DestinationUnavailable,
            MergeError::Collections(_) => MergeCategory::CollectionsUnavailable,
            MergeError::State(_) => MergeCategory::StateUnavailable,
            MergeError::DestinationLost(_) => MergeCategory::DestinationLost,
            MergeError::Internal(_) => MergeCategory::Internal,
        }
    }

    /// True where retrying is pointless until a person changes the spec: the controller then waits for that.
    #[must_use]
    pub fn is_terminal(&self) -> bool {
        self.category() == MergeCategory::InvalidSpec
    }

    /// True where only a person can mend it, in the spec or on a server: a destination that is lost, or is not what the
    /// spec asks for.
    #[must_use]
    pub fn needs_a_person(&self) -> bool {
        let is_about_the_destination =
            |problem: &Problem| !problem.may_pass && problem.field.starts_with("spec.destination.index");
        match self {
            MergeError::DestinationLost(_) => true,
            MergeError::Problems { category, problems } => match category {
                MergeCategory::InvalidSpec | MergeCategory::DestinationMismatch => true,
                MergeCategory::ChecksFailed => problems.iter().any(is_about_the_destination),
                MergeCategory::SecretInvalid
                | MergeCategory::DestinationClaimed
                | MergeCategory::DestinationLost
                | MergeCategory::SourceUnavailable
                | MergeCategory::DestinationUnavailable
                | MergeCategory::CollectionsUnavailable
                | MergeCategory::StateUnavailable
                | MergeCategory::Internal => false,
            },
            MergeError::Source(_)
            | MergeError::Destination(_)
            | MergeError::Aliases(_)
            | MergeError::Collections(_)
            | MergeError::State(_)
            | MergeError::Internal(_) => false,
        }
    }

    /// True where the same attempt may succeed later without anybody changing anything.
    #[must_use]
    pub fn may_pass(&self) -> bool {
        match self {
            MergeError::Problems { problems, .. } => problems.iter().all(|problem| problem.may_pass),
            MergeError::Source(_)
            | MergeError::Destination(_)
            | MergeError::Aliases(_)
            | MergeError::Collections(_)
            | MergeError::State(_) => true,
            MergeError::DestinationLost(_) | MergeError::Internal(_) => false,
        }
    }

    /// Wraps an error of one of the two clusters.
    #[must_use]
    pub fn of(side: Side, error: ElasticError) -> MergeError {
        match side {
            Side::Source => MergeError::Source(error),
            Side::Destination => MergeError::Destination(error),
        }
    }

    /// True for the loss of a source index that is an answer rather than a failure.
    #[must_use]
    pub fn is_source_missing(&self) -> bool {
        matches!(self, MergeError::Source(error) if error.category() == ErrorCategory::NotFound)
    }
}

/// What to do about aliases that cannot be set.
fn aliases_remedy(error: &ElasticError) -> &'static str {
    // An index or a data stream has taken one of the names since the merge began.
    if error.category() == ErrorCategory::Invalid {
        "free the name that the server speaks of, or take it out of the list"
    } else {
        error.remedy()
    }
}

fn list(problems: &[Problem]) -> String {
    problems.iter().map(ToString::to_string).collect::<Vec<_>>().join("; ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_person_mends_a_destination_that_is_lost_or_another_one() {
        let problem = MergeError::problem;
        for error in [
            MergeError::DestinationLost("it is gone".to_owned()),
            problem(MergeCategory::InvalidSpec, "spec.source.url", "no URL"),
            problem(MergeCategory::DestinationMismatch, "spec.destination.index", "another mapping"),
            problem(MergeCategory::ChecksFailed, "spec.destination.index.vectorSize", "another size"),
        ] {
            assert!(error.needs_a_person(), "{error}");
        }
        for error in [
            problem(MergeCategory::ChecksFailed, "spec.source", "a privilege is missing"),
            problem(MergeCategory::SecretInvalid, "spec.source.credentialsSecretRef", "it is missing"),
            problem(MergeCategory::DestinationClaimed, "spec.destination.index.name", "another merge has it"),
            MergeError::Internal("a state of a later version".to_owned()),
        ] {
            assert!(!error.needs_a_person(), "{error}");
        }
    }

    #[test]
    fn what_may_pass_by_itself_needs_nobody() {
        let passing = Problem { may_pass: true, ..Problem::new("spec.destination.index", "no answer") };
        let lasting = Problem::new("spec.destination.index", "another mapping");
        let failed = |problems| MergeError::Problems { category: MergeCategory::ChecksFailed, problems };
        assert!(!failed(vec![passing.clone()]).needs_a_person());
        assert!(failed(vec![passing, lasting]).needs_a_person(), "one of them does not pass");
    }
}
