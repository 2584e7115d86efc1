//! The application's Postgres: which collections exist, and what is known about their documents.
//!
//! Read only: every session is set to refuse writes, and the user of the URL needs `SELECT` on two tables.
//! Releases of the application differ in columns, so they are looked up once, at [`Collections::connect`]:
//! `collection.id` is needed, everything else is taken where it exists. A table or column that exists but may
//! not be read is an error and not an absence: names and dates would silently be lost. So is a table of which a policy hides
//! rows: collections would be taken for deleted. And so is a replica, which may lag: collections would be missing, and deleted
//! ones still there. Each answer says whether it is one's.
//!
//! On failure: nothing is tried again in here; a [`CollectionsError`] says its [`Category`], whether the same
//! call may succeed later, and what to do.

mod columns;
mod error;
mod rows;

use std::sync::Arc;
use std::time::Duration;

pub use crate::postgres::{Category, Login};
pub use columns::DocumentColumns;
pub use error::CollectionsError;
pub use rows::{CollectionRow, DocumentRow};

use crate::postgres::{self, Access, Pool, Session};
use columns::Layout;

type Result<T> = std::result::Result<T, CollectionsError>;

const READY: u32 = 1;
const CONNECTIONS: u32 = 3;
const STATEMENT_TIMEOUT: Duration = Duration::from_secs(30);

/// The application's tables. Cheap to clone; all clones share one small pool.
#[derive(Debug, Clone)]
pub struct Collections {
    pool: Pool,
    layout: Arc<Layout>,
}

impl Collections {
    /// Connects to the primary and looks the tables up, in the user's own `search_path`.
    ///
    /// The URL is `postgresql://`, `postgres://` or with a driver (`postgresql+asyncpg://`); TLS as its
    /// `sslmode` (or asyncpg's `ssl`) says, `prefer` if it says nothing.
    pub async fn connect(login: impl Into<Login>) -> Result<Self> {
        let options = postgres::options(&login.into())?;
        postgres::check(&options).await?;
        let pool = postgres::open(
            options,
            Session {
                application_name: "es-index-merge collections",
                ready: READY,
                connections: CONNECTIONS,
                statement_timeout: STATEMENT_TIMEOUT,
                search_path: None,
                access: Access::ReadOnly,
            },
        );
        rows::refuse_replica(&pool).await?;
        let layout = columns::look_up(&pool).await?;
        Ok(Self { pool, layout: Arc::new(layout) })
    }

    /// What this database knows about documents.
    #[must_use]
    pub fn documents_known(&self) -> DocumentColumns {
        self.layout.documents_known()
    }

    /// All collections, ordered by id, as the primary has them: a replica is a transient error.
    pub async fn list(&self) -> Result<Vec<CollectionRow>> {
        rows::list(&self.pool, &self.layout).await
    }

    /// The rows of these documents that exist, by id, as the primary has them. Empty if the database has no documents table.
    pub async fn documents(&self, ids: &[i64]) -> Result<std::collections::HashMap<i64, DocumentRow>> {
        rows::documents(&self.pool, &self.layout, ids).await
    }

    /// Whether the server answers.
    pub async fn ping(&self) -> Result<()> {
        sqlx::query("SELECT 1")
            .execute(&self.pool)
            .await
            .map(|_| ())
            .map_err(CollectionsError::during("asking the collections' Postgres for a sign of life"))
    }

    /// Closes all connections; calls made later fail.
    pub async fn close(&self) {
        self.pool.close().await;
    }
}
