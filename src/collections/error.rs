//! The error of this room.

use sqlx::postgres::PgDatabaseError;

use crate::postgres::{Category, Failure};

/// What to do where the tables are views that write.
const READING_ONLY: &str = "our sessions refuse to write, whatever the user may: let `collection` and `document` be tables, or views that only read";

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
            let remedy = remedy_of(&error);
            let failure = Failure::of(doing, error);
            Self(match remedy {
                Some(remedy) => failure.with_remedy(remedy),
                None => failure,
            })
        }
    }

    /// What was asked was answered by a replica. For a while after a fail-over a name may lead to one, so it may pass.
    pub(super) fn replica(doing: &'static str) -> Self {
        Self(Failure::passing(
            Category::Unreachable,
            doing,
            "the server is a replica: it may not know the newest collections yet, and still know deleted ones",
            "let the URL lead to the primary (with an operator for Postgres that is the service that ends in -rw); it is \
             tried again by itself",
        ))
    }
}

/// What to do about answers that mean something else here than elsewhere.
fn remedy_of(error: &sqlx::Error) -> Option<&'static str> {
    let answer = error.as_database_error()?.try_downcast_ref::<PgDatabaseError>()?;
    // A policy would keep rows from us, which our sessions do not let it do in silence. The words of that answer are in the
    // server's own language, the name of the function that says them is not.
    if answer.routine() == Some("check_enable_rls") {
        return Some(SEEING_EVERY_ROW);
    }
    (answer.code() == "25006").then_some(READING_ONLY)
}

impl From<Failure> for CollectionsError {
    fn from(failure: Failure) -> Self {
        Self(failure)
    }
}
