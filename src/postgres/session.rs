//! Sessions: small pools whose connections are all set alike, and a first connection that fails clearly.
//!
//! The settings are made by a statement after each connect, not as start-up parameters, which connection
//! poolers in front of Postgres refuse. They last as long as the session, so no pool is opened through a pooler that hands
//! sessions on. Every wait has a limit, on our side and on the server's.

use std::time::Duration;

use futures::future::join_all;
use sqlx::Connection;
use sqlx::postgres::{PgConnectOptions, PgConnection, PgPoolOptions};

use super::error::{Failure, LASTING_SESSIONS};
use super::pool::{Limits, Pool};
use super::pooler;

/// How long to wait for a connection: for a new one, or for one of the pool.
const ACQUIRE_TIMEOUT: Duration = Duration::from_secs(10);
/// How long after the server's own limit for a statement its answer is given up.
const ANSWER_GRACE: Duration = Duration::from_secs(10);

/// What each connection of a pool is set to.
#[derive(Debug, Clone)]
pub(crate) struct Session {
    /// Seen in `pg_stat_activity`.
    pub(crate) application_name: &'static str,
    /// Connections that are opened in advance.
    pub(crate) ready: u32,
    /// Most connections at once.
    pub(crate) connections: u32,
    /// The server ends a statement that runs longer.
    pub(crate) statement_timeout: Duration,
    /// The value of `search_path`; `None` leaves the user's own.
    pub(crate) search_path: Option<String>,
    /// Whether the server refuses writes of this session.
    pub(crate) access: Access,
}

/// What a session may do, whatever the user may.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Access {
    ReadOnly,
    ReadWrite,
}

/// Opens two connections at once and closes them again: what is wrong with the URL, the network, the password or a pooler on
/// the way shows here at once and by name. (A pool would try for its whole time-out and then say only that.)
pub(crate) async fn check(options: &PgConnectOptions) -> Result<(), Failure> {
    const DOING: &str = "connecting to Postgres";
    // On the heap, as logging in twice at once takes much room.
    let checking = Box::pin(async {
        let (mut one, mut other) =
            tokio::try_join!(PgConnection::connect_with(options), PgConnection::connect_with(options))?;
        let are_shared = pooler::shares_sessions(&mut one, &mut other).await?;
        tokio::try_join!(one.close(), other.close())?;
        Ok::<_, sqlx::Error>(are_shared)
    });
    let are_shared = tokio::time::timeout(ACQUIRE_TIMEOUT, checking)
        .await
        .map_err(|_| {
            Failure::timed_out(DOING, ACQUIRE_TIMEOUT.as_secs()).with_remedy(
                "check host, port, sslmode and network policies, and that a connection pooler on the way has sessions left; \
                 it is tried again by itself",
            )
        })?
        .map_err(|error| Failure::of(DOING, error))?;
    if are_shared {
        return Err(Failure::invalid(
            DOING,
            "the URL leads to a connection pooler that hands sessions of the server from client to client, where our settings \
             (read-only, search_path, time-outs) would reach other applications",
            LASTING_SESSIONS,
        ));
    }
    Ok(())
}

/// A pool that connects in the background, tests a connection before handing it out, and replaces what broke.
///
/// One that is given back is tested too, and cannot be had meanwhile, so that even who asks one thing after the other uses
/// several. Opening one takes 0.1 s with TLS: sqlx 0.9.0 leaves Nagle's algorithm on, which holds two of its small
/// messages back until the server acknowledges others.
pub(crate) fn open(options: PgConnectOptions, session: Session) -> Pool {
    let limits = Limits { acquire: ACQUIRE_TIMEOUT, answer: session.statement_timeout + ANSWER_GRACE };
    let options = options.application_name(session.application_name);
    let ready = session.ready;
    let driver = PgPoolOptions::new()
        .max_connections(session.connections)
        .acquire_timeout(limits.acquire)
        // What takes longer fails, and says so.
        .acquire_slow_threshold(limits.acquire)
        .idle_timeout(Duration::from_mins(5))
        .max_lifetime(Duration::from_mins(30))
        .test_before_acquire(true)
        .after_connect(move |connection, _| {
            let session = session.clone();
            Box::pin(async move { session.apply(connection).await })
        })
        .connect_lazy_with(options);
    let pool = Pool::new(driver, limits);
    let opened = pool.clone();
    // A failure is met again by whoever needs a connection.
    tokio::spawn(async move { drop(join_all((0..ready).map(|_| opened.lend())).await) });
    pool
}

impl Session {
    /// Sets one connection. Compiling a statement (`jit`) costs more than any of ours takes to run. What a policy of a table
    /// (`row_security`) would leave out of an answer is an error: nobody would know of it.
    pub(crate) async fn apply(&self, connection: &mut PgConnection) -> Result<(), sqlx::Error> {
        let read_only = if self.access == Access::ReadOnly { "on" } else { "off" };
        let statement_timeout = format!("{}ms", self.statement_timeout.as_millis());
        sqlx::query(
            "SELECT set_config('TimeZone', 'UTC', false),
                    set_config('default_transaction_read_only', $1, false),
                    set_config('statement_timeout', $2, false),
                    set_config('lock_timeout', '20s', false),
                    set_config('jit', 'off', false),
                    set_config('row_security', 'off', false),
                    set_config('idle_in_transaction_session_timeout', '60s', false),
                    set_config('search_path', coalesce($3, current_setting('search_path')), false)",
        )
        .bind(read_only)
        .bind(statement_timeout)
        .bind(self.search_path.as_deref())
        .execute(connection)
        .await
        .map(|_| ())
    }
}
