//! The error of this room.

use crate::postgres::{Category, Failure};

/// A failed call on the application's Postgres: class, reason, remedy; never a password, never a URL.
#[derive(Debug, thiserror::Error)]
#[error(transparent)]
pub struct CollectionsError(Failure);

impl CollectionsError {
    /// The class of the failure.
    #[must_use]
    pub fn category(&self) -> Category {
        self.0.category()
    }

    /// Whether the same call may succeed by itself later.
    #[must_use]
    pub fn is_transient(&self) -> bool {
        self.0.is_transient()
    }

    /// What to do about it.
    #[must_use]
    pub fn remedy(&self) -> &str {
        self.0.remedy()
    }

    /// Adds what was being done to an error of the driver.
    pub(super) fn during(doing: &'static str) -> impl Fn(sqlx::Error) -> Self {
        move |error| Self(Failure::of(doing, error))
    }
}

impl From<Failure> for CollectionsError {
    fn from(failure: Failure) -> Self {
        Self(failure)
    }
}
