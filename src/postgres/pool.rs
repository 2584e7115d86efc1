//! A pool in which nothing is waited for without a limit.
//!
//! The server's own time-outs end a statement only where its answer arrives. Bytes may also be swallowed while the
//! connection stays open (a host that is lost, a proxy or a table of connections that forgot it), and the driver then
//! waits for ever: for the answer to a statement, and for that to the test of a connection which is given back, so that
//! its place in the pool is lost too. Here:
//!
//! - Every statement is answered within the limit, or fails as one whose connection was lost.
//! - A connection goes back to the pool only if everything it was asked was answered; any other is closed at once,
//!   without a word to the server.
//! - Giving back has a limit, and whoever waits for it waits in front of this pool, not in the driver's.
//! - If the driver's pool gives no connection although there is a place, it is replaced, with all that lie idle in it.

use std::fmt;
use std::future::Future;
use std::io;
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use futures::future::BoxFuture;
use futures::stream::{self, BoxStream};
use futures::{StreamExt, TryFutureExt, TryStreamExt};
use sqlx::pool::PoolConnection;
use sqlx::postgres::{PgConnection, PgQueryResult, PgRow, PgStatement, PgTypeInfo};
use sqlx::{Describe, Either, Error, Execute, Executor, PgPool, Postgres, SqlStr};
use tokio::runtime::Handle;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::timeout;

/// How long things may take.
#[derive(Debug, Clone, Copy)]
pub(super) struct Limits {
    /// To wait for one's turn; as long again for a connection; and to give it back.
    pub(super) acquire: Duration,
    /// From a statement to the last row of its answer.
    pub(super) answer: Duration,
}

/// What a statement may answer: numbers of rows, and rows.
pub(super) type Answer = Either<PgQueryResult, PgRow>;

/// A few connections that are all set alike. Cheap to clone; all clones share them.
#[derive(Clone)]
pub(crate) struct Pool(Arc<Shared>);

struct Shared {
    limits: Limits,
    /// One for each connection that may be out, whichever of the driver's pools it came from.
    places: Arc<Semaphore>,
    driver: RwLock<Arc<PgPool>>,
}

impl Pool {
    pub(super) fn new(driver: PgPool, limits: Limits) -> Self {
        let connections = driver.options().get_max_connections();
        // A u32 fits.
        let places = Semaphore::new(usize::try_from(connections).unwrap_or(1));
        Self(Arc::new(Shared { limits, places: Arc::new(places), driver: RwLock::new(Arc::new(driver)) }))
    }

    /// A connection, tested a moment ago.
    pub(crate) async fn lend(&self) -> Result<Lent, Error> {
        let Limits { acquire, answer } = self.0.limits;
        let turn = timeout(acquire, Arc::clone(&self.0.places).acquire_owned());
        let place = turn.await.map_err(|_| Error::PoolTimedOut)?.map_err(|_| Error::PoolClosed)?;
        let driver = self.driver();
        let connection = driver.acquire().await.inspect_err(|error| {
            if matches!(error, Error::PoolTimedOut) {
                self.renew(&driver);
            }
        })?;
        let limits = Limits { acquire, answer };
        Ok(Lent { connection, place: Some(place), limits, is_asking: false, has_begun: false })
    }

    /// Closes all connections, once those that are out are back; calls made later fail.
    pub(crate) async fn close(&self) {
        self.0.places.close();
        // Longer than a statement and the giving back may take.
        let limit = self.0.limits.answer + self.0.limits.acquire;
        if timeout(limit, self.driver().close()).await.is_err() {
            tracing::debug!("the connections to Postgres are closed without waiting for them any longer");
        }
    }

    fn driver(&self) -> Arc<PgPool> {
        Arc::clone(&self.0.driver.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// Puts a new pool in the place of `failed`, unless somebody did so before. It opens its connections when they are
    /// needed. Those of the old one are closed when the last that is out is given back.
    fn renew(&self, failed: &Arc<PgPool>) {
        let mut driver = self.0.driver.write().unwrap_or_else(PoisonError::into_inner);
        // Only those that lie idle can stand in the way of a new one. Without any the server just gives none, and those that
        // are out are well.
        if !Arc::ptr_eq(&driver, failed) || failed.num_idle() == 0 {
            return;
        }
        let options = failed.connect_options();
        *driver = Arc::new(failed.options().clone().connect_lazy_with((*options).clone()));
        drop(driver);
        tracing::info!("no connection to Postgres could be had in time; all are opened anew");
    }
}

/// The driver's options hold the password.
impl fmt::Debug for Pool {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("Pool").finish_non_exhaustive()
    }
}

/// A connection that is out. When this is dropped it goes back to the pool if it is as it was, and else is closed.
#[derive(Debug)]
pub(crate) struct Lent {
    connection: PoolConnection<Postgres>,
    place: Option<OwnedSemaphorePermit>,
    limits: Limits,
    /// Something was asked and not answered yet: what comes next on the connection belongs to that.
    is_asking: bool,
    /// A transaction was begun and not committed.
    pub(super) has_begun: bool,
}

impl Lent {
    /// What `ask` makes of the connection, if that comes within `limit`. It is an error of the driver if it does not.
    pub(crate) async fn within<'a, T, F>(
        &'a mut self,
        limit: Duration,
        ask: impl FnOnce(&'a mut PgConnection) -> F,
    ) -> Result<T, Error>
    where
        F: Future<Output = T> + 'a,
    {
        let Self { connection, is_asking, .. } = self;
        // Stays so if this future is dropped, too.
        *is_asking = true;
        let answer = timeout(limit, ask(connection)).await.map_err(|_| timed_out(limit))?;
        *is_asking = false;
        Ok(answer)
    }

    /// All that the statement answers.
    pub(super) async fn fetch_many<'q, E>(&mut self, query: E) -> Result<Vec<Answer>, Error>
    where
        E: Execute<'q, Postgres> + 'q,
    {
        self.within(self.limits.answer, |connection| connection.fetch_many(query).try_collect()).await?
    }

    pub(super) async fn fetch_optional<'q, E>(&mut self, query: E) -> Result<Option<PgRow>, Error>
    where
        E: Execute<'q, Postgres> + 'q,
    {
        self.within(self.limits.answer, |connection| connection.fetch_optional(query)).await?
    }

    pub(super) async fn prepare_with(
        &mut self,
        sql: SqlStr,
        parameters: &[PgTypeInfo],
    ) -> Result<PgStatement, Error> {
        let limit = self.limits.answer;
        self.within(limit, |connection| async move { connection.prepare_with(sql, parameters).await }).await?
    }

    pub(super) async fn describe(&mut self, sql: SqlStr) -> Result<Describe<Postgres>, Error> {
        self.within(self.limits.answer, |connection| connection.describe(sql)).await?
    }
}

impl Drop for Lent {
    fn drop(&mut self) {
        // What the connection's own drop would spawn, without a limit. Dropped before it runs, it closes the socket and
        // frees the place in the driver's pool; the server then rolls back.
        let returning = self.connection.return_to_pool();
        if self.is_asking || self.has_begun {
            return;
        }
        // Without a runtime (the program ends) it is closed too.
        if let Ok(runtime) = Handle::try_current() {
            let (place, limit) = (self.place.take(), self.limits.acquire);
            runtime.spawn(async move {
                if timeout(limit, returning).await.is_err() {
                    tracing::debug!(
                        "a connection to Postgres that was given back did not answer; it is closed"
                    );
                }
                drop(place);
            });
        }
    }
}

fn timed_out(limit: Duration) -> Error {
    let reason = format!("no answer within {} s", limit.as_secs());
    Error::Io(io::Error::new(io::ErrorKind::TimedOut, reason))
}

/// A stream of what has arrived already.
pub(super) fn streamed<'e>(
    answer: impl Future<Output = Result<Vec<Answer>, Error>> + Send + 'e,
) -> BoxStream<'e, Result<Answer, Error>> {
    answer.map_ok(|rows| stream::iter(rows.into_iter().map(Ok))).try_flatten_stream().boxed()
}

/// Each statement on a connection of its own.
impl<'p> Executor<'p> for &'p Pool {
    type Database = Postgres;

    fn fetch_many<'e, 'q: 'e, E>(self, query: E) -> BoxStream<'e, Result<Answer, Error>>
    where
        'p: 'e,
        E: 'q + Execute<'q, Postgres>,
    {
        streamed(async move { self.lend().await?.fetch_many(query).await })
    }

    fn fetch_optional<'e, 'q: 'e, E>(self, query: E) -> BoxFuture<'e, Result<Option<PgRow>, Error>>
    where
        'p: 'e,
        E: 'q + Execute<'q, Postgres>,
    {
        Box::pin(async move { self.lend().await?.fetch_optional(query).await })
    }

    fn prepare_with<'e>(
        self,
        sql: SqlStr,
        parameters: &'e [PgTypeInfo],
    ) -> BoxFuture<'e, Result<PgStatement, Error>>
    where
        'p: 'e,
    {
        Box::pin(async move { self.lend().await?.prepare_with(sql, parameters).await })
    }

    fn describe<'e>(self, sql: SqlStr) -> BoxFuture<'e, Result<Describe<Postgres>, Error>>
    where
        'p: 'e,
    {
        Box::pin(async move { self.lend().await?.describe(sql).await })
    }
}
