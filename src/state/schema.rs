//! Connecting: the schema is created if absent, then brought up to date, by one process at a time.
//!
//! Migrating is one transaction under an advisory lock that ends with it, so a crash in the middle leaves
//! nothing, and any number of processes may start at once. When the schema is up to date nothing is locked
//! and no right to create anything is needed.

use std::time::Duration;

use sqlx::migrate::{MigrateError, Migrator};
use sqlx::postgres::PgConnection;
use sqlx::{AssertSqlSafe, Connection};

use super::{Result, StateError};
use crate::postgres::{self, Access, Category, Failure, Login, Pool, Session, Transaction};

static MIGRATIONS: Migrator = sqlx::migrate!("./migrations");

/// The schema used when none is named.
pub const DEFAULT_SCHEMA: &str = "es_index_merge";

const READY: u32 = 4;
const CONNECTIONS: u32 = 8;
const STATEMENT_TIMEOUT: Duration = Duration::from_mins(1);
/// For all statements of all migrations; each has its own limit too.
const MIGRATION_LIMIT: Duration = Duration::from_mins(5);
const MIGRATING: &str = "preparing the schema";

/// Our schema on one Postgres server. Cheap to clone; all clones share one small pool.
#[derive(Debug, Clone)]
pub struct State {
    pub(super) pool: Pool,
}

impl State {
    /// Connects, creates `schema` if it is absent, and migrates it.
    ///
    /// `schema` must match `^[a-z_][a-z0-9_]{0,62}$`. Creating it needs `CREATE` on the database; where the
    /// user has not that right the error is [`Category::Forbidden`] and names two ways out.
    pub async fn connect(login: impl Into<Login>, schema: &str) -> Result<Self> {
        let session = session(schema)?;
        let options = postgres::options(&login.into())?;
        postgres::check(&options).await?;
        let pool = postgres::open(options, session);
        bring_up_to_date(&pool, schema).await?;
        Ok(Self { pool })
    }

    /// Connects to a schema that is there already, and changes nothing: for looking at what a merge left.
    pub async fn connect_existing(login: impl Into<Login>, schema: &str) -> Result<Self> {
        let session = session(schema)?;
        let options = postgres::options(&login.into())?;
        postgres::check(&options).await?;
        let pool = postgres::open(options, session);
        if !is_up_to_date(&pool).await? {
            return Err(Failure::known(
                Category::Missing,
                "reading the state",
                format!("schema `{schema}` of that database holds no state of this version"),
                "check spec.state and the URL; a state of another version is read by that version, or brought up to \
                 date by a run of the merge",
            )
            .into());
        }
        Ok(Self { pool })
    }

    /// Whether the server answers.
    pub async fn ping(&self) -> Result<()> {
        sqlx::query("SELECT 1")
            .execute(&self.pool)
            .await
            .map(|_| ())
            .map_err(StateError::during("asking Postgres for a sign of life"))
    }

    /// Begins a transaction whose commit does not wait for the disk.
    ///
    /// For what may be done again if the database's machine fails within the next moments: what it loses then is the
    /// end of what was committed, never something from the middle, so no later promise is kept without an earlier one.
    pub(super) async fn begin_relaxed(&self, doing: &'static str) -> Result<Transaction> {
        self.pool
            .begin_with("BEGIN; SET LOCAL synchronous_commit TO off")
            .await
            .map_err(StateError::during(doing))
    }

    /// Closes all connections; calls made later fail.
    pub async fn close(&self) {
        self.pool.close().await;
    }
}

fn session(schema: &str) -> Result<Session> {
    if !is_schema_name(schema) {
        return Err(Failure::invalid(
            MIGRATING,
            format!("`{}` cannot be the name of a schema", schema.escape_default()),
            "set spec.state.schema to a name of a-z, 0-9 and _, at most 63 long, not starting with a digit or pg_",
        )
        .into());
    }
    Ok(Session {
        application_name: "es-index-merge",
        ready: READY,
        connections: CONNECTIONS,
        statement_timeout: STATEMENT_TIMEOUT,
        search_path: Some(quoted(schema)),
        access: Access::ReadWrite,
    })
}

fn is_schema_name(name: &str) -> bool {
    let mut bytes = name.bytes();
    let starts_well = bytes.next().is_some_and(|first| first.is_ascii_lowercase() || first == b'_');
    let goes_on_well = bytes.all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'_');
    // Postgres keeps pg_ for itself.
    starts_well
        && goes_on_well
        && name.len() <= 63
        && !name.starts_with("pg_")
        && name != "information_schema"
}

/// Words like `user` are fine as schemas, in quotes.
fn quoted(schema: &str) -> String {
    format!("\"{schema}\"")
}

async fn bring_up_to_date(pool: &Pool, schema: &str) -> Result<()> {
    if is_up_to_date(pool).await? {
        return Ok(());
    }
    let during = StateError::during(MIGRATING);
    let mut lent = pool.lend().await.map_err(&during)?;
    lent.within(MIGRATION_LIMIT, |connection| migrate(connection, schema)).await.map_err(&during)?
}

async fn migrate(connection: &mut PgConnection, schema: &str) -> Result<()> {
    let during = StateError::during(MIGRATING);
    let mut transaction = connection.begin().await.map_err(&during)?;
    sqlx::query("SELECT pg_advisory_xact_lock(hashtextextended('es-index-merge schema ' || $1, 0))")
        .bind(schema)
        .execute(&mut *transaction)
        .await
        .map_err(&during)?;
    create_schema(&mut transaction, schema).await?;
    let mut migrator = Migrator::with_migrations(MIGRATIONS.iter().cloned().collect());
    // Ours ends with the transaction; the library's would outlive an error.
    migrator.set_locking(false);
    migrator
        .run_direct(None, &mut *transaction, false)
        .await
        .map_err(|error| refused_migration(error, schema))?;
    transaction.commit().await.map_err(&during)
}

/// Whether every migration we know is applied and no other. Creates nothing.
async fn is_up_to_date(pool: &Pool) -> Result<bool> {
    let during = StateError::during("reading the schema's version");
    let exists: bool = sqlx::query_scalar("SELECT to_regclass('_sqlx_migrations') IS NOT NULL")
        .fetch_one(pool)
        .await
        .map_err(&during)?;
    if !exists {
        return Ok(false);
    }
    let applied: Vec<(i64, Vec<u8>)> =
        sqlx::query_as("SELECT version, checksum FROM _sqlx_migrations WHERE success ORDER BY version")
            .fetch_all(pool)
            .await
            .map_err(&during)?;
    let known = MIGRATIONS.iter().map(|migration| (migration.version, migration.checksum.as_ref()));
    Ok(known.eq(applied.iter().map(|(version, checksum)| (*version, checksum.as_slice()))))
}

async fn create_schema(connection: &mut PgConnection, schema: &str) -> Result<()> {
    let exists: bool =
        sqlx::query_scalar("SELECT EXISTS (SELECT FROM pg_catalog.pg_namespace WHERE nspname = $1)")
            .bind(schema)
            .fetch_one(&mut *connection)
            .await
            .map_err(StateError::during(MIGRATING))?;
    if exists {
        return Ok(());
    }
    // Safe: the name was checked to hold nothing but a-z, 0-9 and _.
    sqlx::query(AssertSqlSafe(format!("CREATE SCHEMA {}", quoted(schema))))
        .execute(connection)
        .await
        .map(|_| ())
        .map_err(|error| no_right(Failure::of("creating the schema", error), schema))
}

fn refused_migration(error: MigrateError, schema: &str) -> StateError {
    let unknown = match &error {
        MigrateError::VersionMissing(version) => {
            Some(format!("schema `{schema}` is at version {version}, which this version does not know"))
        }
        MigrateError::VersionMismatch(version) => {
            Some(format!("version {version} of schema `{schema}` is not the one that this version knows"))
        }
        _ => None,
    };
    match unknown {
        Some(reason) => Failure::known(
            Category::Incompatible,
            MIGRATING,
            reason,
            "run the version of es-index-merge that wrote it or a newer one, or create the resource anew with another spec.state.schema",
        )
        .into(),
        None => no_right(Failure::of(MIGRATING, sqlx::Error::Migrate(Box::new(error))), schema),
    }
}

/// The usual cause: the user of the collections' database may only read.
fn no_right(failure: Failure, schema: &str) -> StateError {
    if failure.category() != Category::Forbidden {
        return failure.into();
    }
    failure
        .with_remedy(format!(
            "let an administrator run: CREATE SCHEMA {} AUTHORIZATION <the user of the URL>; or create the resource \
             anew, as spec.state cannot be changed, and set spec.state.postgres to a database in which the user may \
             create a schema",
            quoted(schema)
        ))
        .into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn schema_names_are_checked_before_anything_is_sent() {
        for name in ["es_index_merge", "_a1", "user", &"a".repeat(63)] {
            assert!(is_schema_name(name), "{name}");
        }
        for name in ["", "1a", "A", "a-b", "a\"b", "a;b", "pg_mine", "information_schema", &"a".repeat(64)] {
            assert!(!is_schema_name(name), "{name}");
        }
    }
}
