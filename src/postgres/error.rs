//! What a failed Postgres call means: a bounded class, a reason without secrets, and what to do.

use std::borrow::Cow;
use std::io;

use sqlx::migrate::MigrateError;

/// What to do about a pooler that hands sessions of the server from client to client.
pub(super) const LASTING_SESSIONS: &str = "use the session mode of the connection pooler on the way (PgBouncer: `pool_mode = session`), or a URL that leads to Postgres directly";

/// The class of a Postgres failure; used alike as condition reason, event reason and metric label.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Category {
    /// No connection, a connection that was cut, or a server that is starting, stopping or read-only.
    Unreachable,
    /// The server is there but could not serve this call now: connections, locks or time ran out.
    Busy,
    /// The user or the password is wrong.
    Unauthorized,
    /// The user may not do this.
    Forbidden,
    /// A database, a schema, a table or a column does not exist.
    Missing,
    /// The data is of another shape than this version knows.
    Incompatible,
    /// A setting given to us cannot be used (a URL, a schema's name, an argument).
    Invalid,
    /// Anything else; the reason tells.
    Other,
}

impl Category {
    /// The class as one word.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Unreachable => "Unreachable",
            Self::Busy => "Busy",
            Self::Unauthorized => "Unauthorized",
            Self::Forbidden => "Forbidden",
            Self::Missing => "Missing",
            Self::Incompatible => "Incompatible",
            Self::Invalid => "Invalid",
            Self::Other => "Other",
        }
    }

    const fn remedy(self) -> &'static str {
        match self {
            Self::Unreachable => {
                "check host, port, sslmode and network policies; it is tried again by itself"
            }
            Self::Busy => "nothing, if it passes; else look at the server's connections, locks and disk",
            Self::Unauthorized => "correct the user and the password in the Secret's URL",
            Self::Forbidden => "grant the user of the URL what it lacks",
            Self::Missing => "check that the URL names the right database and that its tables exist",
            Self::Incompatible => "run the version of es-index-merge that wrote this schema, or a newer one",
            Self::Invalid => "correct the setting",
            Self::Other => "see the reason; please report it if it is not clear",
        }
    }
}

/// A failed call: what was being done, why it failed, and what to do about it.
#[derive(Debug, thiserror::Error)]
#[error("{doing}: {reason}")]
pub(crate) struct Failure {
    doing: &'static str,
    reason: String,
    remedy: String,
    category: Category,
    transient: bool,
    #[source]
    source: Option<sqlx::Error>,
}

impl Failure {
    /// Sorts an error of the driver. `doing` is a gerund: "leasing units".
    pub(crate) fn of(doing: &'static str, error: sqlx::Error) -> Self {
        let (category, transient) = classify(&error);
        let remedy = sqlstate(&error).and_then(|code| remedy_of(&code)).unwrap_or(category.remedy());
        Self {
            doing,
            reason: reason(&error),
            remedy: remedy.to_owned(),
            category,
            transient,
            source: Some(error),
        }
    }

    /// A setting or an argument that cannot be used.
    pub(crate) fn invalid(doing: &'static str, reason: impl Into<String>, remedy: &str) -> Self {
        Self::known(Category::Invalid, doing, reason, remedy)
    }

    /// A failure found by us, not by the server; never transient.
    pub(crate) fn known(
        category: Category,
        doing: &'static str,
        reason: impl Into<String>,
        remedy: impl Into<String>,
    ) -> Self {
        Self { doing, reason: reason.into(), remedy: remedy.into(), category, transient: false, source: None }
    }

    /// A failure found by us, not by the server, that may pass by itself.
    pub(crate) fn passing(
        category: Category,
        doing: &'static str,
        reason: impl Into<String>,
        remedy: impl Into<String>,
    ) -> Self {
        Self { transient: true, ..Self::known(category, doing, reason, remedy) }
    }

    /// No answer within the time-out of the call.
    pub(crate) fn timed_out(doing: &'static str, seconds: u64) -> Self {
        Self {
            doing,
            reason: format!("no answer within {seconds} s"),
            remedy: Category::Unreachable.remedy().to_owned(),
            category: Category::Unreachable,
            transient: true,
            source: None,
        }
    }

    /// The same failure with a more exact remedy.
    pub(crate) fn with_remedy(mut self, remedy: impl Into<String>) -> Self {
        self.remedy = remedy.into();
        self
    }

    pub(crate) fn category(&self) -> Category {
        self.category
    }

    /// Whether the same call may succeed by itself later.
    pub(crate) fn is_transient(&self) -> bool {
        self.transient
    }

    pub(crate) fn remedy(&self) -> &str {
        &self.remedy
    }
}

fn reason(error: &sqlx::Error) -> String {
    match error {
        sqlx::Error::Database(error) => match error.code() {
            Some(code) => format!("{} (SQLSTATE {code})", error.message()),
            None => error.message().to_owned(),
        },
        sqlx::Error::PoolTimedOut => "no connection could be had in time".to_owned(),
        other => other.to_string(),
    }
}

/// Class, and whether the same call may succeed later.
fn classify(error: &sqlx::Error) -> (Category, bool) {
    match error {
        sqlx::Error::Database(error) => classify_answer(&error.code().unwrap_or_default()),
        sqlx::Error::Io(error) if error.kind() == io::ErrorKind::PermissionDenied => {
            (Category::Unreachable, false)
        }
        sqlx::Error::Io(_)
        | sqlx::Error::PoolTimedOut
        | sqlx::Error::PoolClosed
        | sqlx::Error::WorkerCrashed
        | sqlx::Error::BeginFailed => (Category::Unreachable, true),
        // A wrong certificate stays wrong until someone changes it.
        sqlx::Error::Tls(_) => (Category::Unreachable, false),
        sqlx::Error::Configuration(_) => (Category::Invalid, false),
        sqlx::Error::Migrate(inner) => match inner.as_ref() {
            MigrateError::Execute(error) | MigrateError::ExecuteMigration(error, _) => classify(error),
            _ => (Category::Incompatible, false),
        },
        sqlx::Error::ColumnDecode { .. }
        | sqlx::Error::ColumnNotFound(_)
        | sqlx::Error::Decode(_)
        | sqlx::Error::TypeNotFound { .. } => (Category::Incompatible, false),
        _ => (Category::Other, false),
    }
}

/// The SQLSTATE, if the error is an answer.
fn sqlstate(error: &sqlx::Error) -> Option<Cow<'_, str>> {
    match error {
        sqlx::Error::Database(answer) => answer.code(),
        sqlx::Error::Migrate(inner) => match inner.as_ref() {
            MigrateError::Execute(error) | MigrateError::ExecuteMigration(error, _) => sqlstate(error),
            _ => None,
        },
        _ => None,
    }
}

/// What to do about an answer of which its class says too little.
fn remedy_of(code: &str) -> Option<&'static str> {
    match code {
        // A violation of the protocol: so poolers name whatever they refuse, and most that goes wrong behind them.
        "08P01" => Some(
            "if a connection pooler refuses a start-up parameter, take `options` out of the URL or let the pooler ignore that \
             parameter (PgBouncer: `ignore_startup_parameters`); else look at the pooler's log, or use a URL that leads to \
             Postgres directly; it is tried again by itself",
        ),
        "25006" => Some(
            "let the URL lead to the primary: this server is a replica, or was made read-only; it is tried again by itself",
        ),
        "26000" | "42P05" => Some(LASTING_SESSIONS),
        "22021" | "22P05" => Some(
            "correct the text whose bytes the message shows; a database for spec.state needs the encoding UTF8",
        ),
        _ => None,
    }
}

/// By SQLSTATE (appendix A of the Postgres manual).
fn classify_answer(code: &str) -> (Category, bool) {
    match code {
        "28P01" | "28000" => (Category::Unauthorized, false),
        "42501" => (Category::Forbidden, false),
        // Read-only transaction: we reached a standby, as happens for a while after a failover.
        // 57P0x: shut down, crashed, starting up. 25P03, 57P05: the server closed an idle session.
        "25006" | "57P01" | "57P02" | "57P03" | "57P05" | "25P03" => (Category::Unreachable, true),
        // Serialization, deadlock, lock time-out, statement time-out, object in use.
        "40001" | "40P01" | "55P03" | "57014" | "55006" => (Category::Busy, true),
        "42P01" | "3F000" | "3D000" | "42703" => (Category::Missing, false),
        // The last two: a text that is not of its encoding, or that another encoding does not have.
        "42P18" | "42804" | "42883" | "22021" | "22P05" => (Category::Incompatible, false),
        // A prepared statement is not there, or is there already: the session is not the one that we prepared it on.
        "26000" | "42P05" => (Category::Invalid, false),
        code if code.starts_with("08") => (Category::Unreachable, true),
        // Too many connections, disk full, out of memory.
        code if code.starts_with("53") => (Category::Busy, true),
        // Data or index corrupted.
        code if code.starts_with("XX") => (Category::Incompatible, false),
        _ => (Category::Other, false),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cut_connection_is_transient_and_a_wrong_certificate_is_not() {
        let cut = sqlx::Error::Io(io::Error::from(io::ErrorKind::ConnectionReset));
        assert_eq!(classify(&cut), (Category::Unreachable, true));
        assert_eq!(classify(&sqlx::Error::PoolTimedOut), (Category::Unreachable, true));
        let tls = sqlx::Error::Tls("unknown issuer".into());
        assert_eq!(classify(&tls), (Category::Unreachable, false));
    }

    #[test]
    fn what_a_fail_over_or_a_pooler_may_say_for_a_while_is_transient_and_what_its_mode_makes_is_not() {
        assert_eq!(classify_answer("25006"), (Category::Unreachable, true));
        assert_eq!(classify_answer("08P01"), (Category::Unreachable, true));
        assert_eq!(classify_answer("42P05"), (Category::Invalid, false));
        assert_eq!(classify_answer("26000"), (Category::Invalid, false));
    }

    #[test]
    fn answers_of_replicas_and_poolers_have_remedies_of_their_own() {
        for (code, said) in [
            ("08P01", "ignore_startup_parameters"),
            ("25006", "primary"),
            ("26000", "pool_mode = session"),
            ("42P05", "pool_mode = session"),
            ("22021", "UTF8"),
            ("22P05", "UTF8"),
        ] {
            let remedy = remedy_of(code);
            assert!(remedy.is_some_and(|remedy| remedy.contains(said)), "{code}: {remedy:?}");
        }
        assert_eq!(remedy_of("42P01"), None);
    }

    #[test]
    fn every_failure_says_what_to_do() {
        let failure = Failure::of("pinging", sqlx::Error::PoolTimedOut);
        assert!(!failure.remedy().is_empty());
        assert_eq!(failure.to_string(), "pinging: no connection could be had in time");
    }
}
