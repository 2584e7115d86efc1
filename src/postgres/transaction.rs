//! Transactions, with a limit for each of their statements.
//!
//! One that is dropped is rolled back by the server, which sees its connection end: to ask for it would be to wait for an
//! answer. So one that ends in the ordinary way is committed or rolled back by its name.

use futures::future::BoxFuture;
use futures::stream::BoxStream;
use sqlx::postgres::{PgRow, PgStatement, PgTypeInfo};
use sqlx::{Describe, Error, Execute, Executor, Postgres, SqlStr};

use super::pool::{Answer, Lent, Pool, streamed};

/// A transaction on a connection of the pool; nothing of it stays without [`Transaction::commit`].
#[derive(Debug)]
pub(crate) struct Transaction(Lent);

impl Pool {
    /// Begins a transaction.
    pub(crate) async fn begin(&self) -> Result<Transaction, Error> {
        self.begin_with("BEGIN").await
    }

    /// Begins one by these statements.
    pub(crate) async fn begin_with(&self, statements: &'static str) -> Result<Transaction, Error> {
        let mut lent = self.lend().await?;
        lent.has_begun = true;
        lent.fetch_many(statements).await?;
        Ok(Transaction(lent))
    }
}

impl Transaction {
    /// Commits. After an error which is not the server's answer it may have been committed or not.
    pub(crate) async fn commit(self) -> Result<(), Error> {
        self.end("COMMIT").await
    }

    /// Takes everything back, and gives the connection back to the pool.
    pub(crate) async fn rollback(self) -> Result<(), Error> {
        self.end("ROLLBACK").await
    }

    async fn end(mut self, how: &'static str) -> Result<(), Error> {
        self.0.fetch_many(how).await?;
        self.0.has_begun = false;
        Ok(())
    }
}

impl<'t> Executor<'t> for &'t mut Transaction {
    type Database = Postgres;

    fn fetch_many<'e, 'q: 'e, E>(self, query: E) -> BoxStream<'e, Result<Answer, Error>>
    where
        't: 'e,
        E: 'q + Execute<'q, Postgres>,
    {
        streamed(self.0.fetch_many(query))
    }

    fn fetch_optional<'e, 'q: 'e, E>(self, query: E) -> BoxFuture<'e, Result<Option<PgRow>, Error>>
    where
        't: 'e,
        E: 'q + Execute<'q, Postgres>,
    {
        Box::pin(self.0.fetch_optional(query))
    }

    fn prepare_with<'e>(
        self,
        sql: SqlStr,
        parameters: &'e [PgTypeInfo],
    ) -> BoxFuture<'e, Result<PgStatement, Error>>
    where
        't: 'e,
    {
        Box::pin(self.0.prepare_with(sql, parameters))
    }

    fn describe<'e>(self, sql: SqlStr) -> BoxFuture<'e, Result<Describe<Postgres>, Error>>
    where
        't: 'e,
    {
        Box::pin(self.0.describe(sql))
    }
}
