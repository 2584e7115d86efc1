//! The error of this room.

use sqlx::postgres::PgDatabaseError;

use crate::postgres::{Category, Failure};

/// What to do where a policy keeps rows from the user.
pub(super) const SEEING_EVERY_ROW: &str = "let an administrator run: ALTER ROLE <the user of the URL> BYPASSRLS; or name a user in the URL from whom no policy hides a row";

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
        move |error| {
            let is_filtered = would_hide_rows(&error);
            let failure = Failure::of(doing, error);
            Self(if is_filtered { failure.with_remedy(SEEING_EVERY_ROW) } else { failure })
        }
    }
}

/// Whether the server answers that a policy would keep rows from us, which our sessions do not let it do in silence. Its words
/// are in its own language, the name of the function that says them is not.
fn would_hide_rows(error: &sqlx::Error) -> bool {
    let answer = error.as_database_error().and_then(|answer| answer.try_downcast_ref::<PgDatabaseError>());
    answer.is_some_and(|answer| answer.routine() == Some("check_enable_rls"))
}

impl From<Failure> for CollectionsError {
    fn from(failure: Failure) -> Self {
        Self(failure)
    }
}
