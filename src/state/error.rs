//! The error of this room.

use crate::postgres::{Category, Failure};

/// A failed call on our state: class, reason, remedy; never a password, never a URL.
#[derive(Debug, thiserror::Error)]
#[error(transparent)]
pub struct StateError(Failure);

impl StateError {
    /// The class of the failure.
    #[must_use]
    pub fn category(&self) -> Category {
        self.0.category()
    }

    /// Whether the same call may succeed by itself later (the connection was lost, the server restarts, a
    /// deadlock or a serialization failure, too many connections, a time-out).
    #[must_use]
    pub fn is_transient(&self) -> bool {
        self.0.is_transient()
    }

    /// What to do about it.
    #[must_use]
    pub fn remedy(&self) -> &str {
        self.0.remedy()
    }

    /// Adds what was being done to an error of the driver: `.map_err(StateError::during("leasing units"))`.
    pub(super) fn during(doing: &'static str) -> impl Fn(sqlx::Error) -> Self {
        move |error| Self(Failure::of(doing, error))
    }

    /// The caller asks for something that cannot be meant.
    pub(super) fn argument(doing: &'static str, reason: impl Into<String>) -> Self {
        Self(Failure::known(
            Category::Invalid,
            doing,
            reason,
            "this is a mistake in es-index-merge; please report it",
        ))
    }

    /// A stored value that this version cannot read.
    pub(super) fn unreadable(reason: impl Into<String>) -> Self {
        Self(Failure::known(
            Category::Incompatible,
            "reading the state",
            reason,
            "the state was changed by hand or by another version; run that version, or start a new merge",
        ))
    }
}

impl From<Failure> for StateError {
    fn from(failure: Failure) -> Self {
        Self(failure)
    }
}
