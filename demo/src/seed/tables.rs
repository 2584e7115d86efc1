//! The application's tables in Postgres: `"user"`, `collection` and `document`.
//!
//! Releases of the application name the columns differently; all namings that were released are offered.
//! Tables are created in the first schema of the connection's search path.

use anyhow::{Context, Result};
use jiff::Timestamp;
use sqlx::{AssertSqlSafe, PgPool};

/// Which release the tables look like.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Naming {
    /// 0.2: `created_at`/`updated_at`, without a time zone (in UTC).
    CreatedAt,
    /// Later: `created`/`updated`, with a time zone.
    Created,
    /// As little as the operator can work with: ids only.
    IdsOnly,
}

/// A row of `collection`.
#[derive(Debug, Clone)]
pub struct CollectionRow {
    /// Also the name of its index.
    pub id: i64,
    /// What the user called it.
    pub name: String,
}

/// A row of `document`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DocumentRow {
    /// Unique over all collections.
    pub id: i64,
    /// Its collection, which must exist.
    pub collection: i64,
    /// Absent in some old rows.
    pub name: Option<String>,
    /// Absent in some old rows.
    pub created: Option<Timestamp>,
}

/// The tables of one database.
#[derive(Clone)]
pub struct Tables {
    pool: PgPool,
    naming: Naming,
}

impl Tables {
    /// Creates the tables, empty; fails when they exist.
    pub async fn create(pool: &PgPool, naming: Naming) -> Result<Self> {
        let (created, updated, kind, visibility) = match naming {
            Naming::CreatedAt => ("created_at", "updated_at", "timestamp", "'PRIVATE', 'PUBLIC'"),
            Naming::Created | Naming::IdsOnly => ("created", "updated", "timestamptz", "'private', 'public'"),
        };
        let statements = if naming == Naming::IdsOnly {
            vec![
                "CREATE TABLE collection (id serial PRIMARY KEY)".to_owned(),
                "CREATE TABLE document (id serial PRIMARY KEY, collection_id integer NOT NULL REFERENCES collection ON DELETE CASCADE)"
                    .to_owned(),
            ]
        } else {
            vec![
                format!("CREATE TYPE collectionvisibility AS ENUM ({visibility})"),
                format!(
                    "CREATE TABLE \"user\" (id serial PRIMARY KEY, name varchar NOT NULL, {created} {kind} NOT NULL DEFAULT now())"
                ),
                format!(
                    "CREATE TABLE collection (id serial PRIMARY KEY, user_id integer NOT NULL REFERENCES \"user\" ON DELETE CASCADE, \
                     name varchar NOT NULL, description varchar, visibility collectionvisibility NOT NULL, \
                     {created} {kind} NOT NULL DEFAULT now(), {updated} {kind} NOT NULL DEFAULT now())"
                ),
                format!(
                    "CREATE TABLE document (id serial PRIMARY KEY, collection_id integer NOT NULL REFERENCES collection ON DELETE CASCADE, \
                     name varchar, {created} {kind})"
                ),
                "INSERT INTO \"user\" (name) VALUES ('librarian')".to_owned(),
            ]
        };
        for statement in statements {
            // Built from the constants above.
            sqlx::query(AssertSqlSafe(statement))
                .execute(pool)
                .await
                .context("cannot create the application's tables")?;
        }
        Ok(Self { pool: pool.clone(), naming })
    }

    /// The tables that [`Tables::create`] made earlier.
    #[must_use]
    pub fn existing(pool: &PgPool, naming: Naming) -> Self {
        Self { pool: pool.clone(), naming }
    }

    /// Removes the tables and everything in them, so that they can be created again.
    pub async fn drop_all(pool: &PgPool) -> Result<()> {
        for statement in [
            "DROP TABLE IF EXISTS document",
            "DROP TABLE IF EXISTS collection",
            "DROP TABLE IF EXISTS \"user\"",
            "DROP TYPE IF EXISTS collectionvisibility",
        ] {
            sqlx::query(statement).execute(pool).await.context("cannot drop the application's tables")?;
        }
        Ok(())
    }

    /// Inserts collections; they are the only user's.
    pub async fn insert_collections(&self, rows: &[CollectionRow]) -> Result<()> {
        let ids: Vec<i64> = rows.iter().map(|row| row.id).collect();
        let names: Vec<String> = rows.iter().map(|row| row.name.clone()).collect();
        let statement = match self.naming {
            Naming::IdsOnly => {
                "INSERT INTO collection (id) SELECT id FROM unnest($1::bigint[], $2::text[]) AS new(id, name)"
            }
            Naming::CreatedAt => {
                "INSERT INTO collection (id, user_id, name, visibility) SELECT new.id, (SELECT min(id) FROM \"user\"), new.name, 'PRIVATE' \
                 FROM unnest($1::bigint[], $2::text[]) AS new(id, name)"
            }
            Naming::Created => {
                "INSERT INTO collection (id, user_id, name, visibility) SELECT new.id, (SELECT min(id) FROM \"user\"), new.name, 'private' \
                 FROM unnest($1::bigint[], $2::text[]) AS new(id, name)"
            }
        };
        sqlx::query(statement)
            .bind(ids)
            .bind(names)
            .execute(&self.pool)
            .await
            .context("cannot insert collections")?;
        Ok(())
    }

    /// Inserts documents of collections that exist.
    pub async fn insert_documents(&self, rows: &[DocumentRow]) -> Result<()> {
        let ids: Vec<i64> = rows.iter().map(|row| row.id).collect();
        let collections: Vec<i64> = rows.iter().map(|row| row.collection).collect();
        let names: Vec<Option<String>> = rows.iter().map(|row| row.name.clone()).collect();
        let created: Vec<Option<i64>> =
            rows.iter().map(|row| row.created.map(Timestamp::as_microsecond)).collect();
        let statement = match self.naming {
            Naming::IdsOnly => {
                "INSERT INTO document (id, collection_id) SELECT id, collection \
                 FROM unnest($1::bigint[], $2::bigint[], $3::text[], $4::bigint[]) AS new(id, collection, name, micros)"
            }
            Naming::CreatedAt => {
                "INSERT INTO document (id, collection_id, name, created_at) SELECT id, collection, name, \
                 timestamp 'epoch' + micros * interval '1 microsecond' \
                 FROM unnest($1::bigint[], $2::bigint[], $3::text[], $4::bigint[]) AS new(id, collection, name, micros)"
            }
            Naming::Created => {
                "INSERT INTO document (id, collection_id, name, created) SELECT id, collection, name, \
                 timestamptz 'epoch' + micros * interval '1 microsecond' \
                 FROM unnest($1::bigint[], $2::bigint[], $3::text[], $4::bigint[]) AS new(id, collection, name, micros)"
            }
        };
        sqlx::query(statement)
            .bind(ids)
            .bind(collections)
            .bind(names)
            .bind(created)
            .execute(&self.pool)
            .await
            .context("cannot insert documents")?;
        Ok(())
    }

    /// Deletes a document's row, as the application does before it deletes the chunks.
    pub async fn delete_document(&self, id: i64) -> Result<()> {
        sqlx::query("DELETE FROM document WHERE id = $1")
            .bind(id)
            .execute(&self.pool)
            .await
            .context("cannot delete a document")?;
        Ok(())
    }

    /// Deletes a collection's row, and with it those of its documents.
    pub async fn delete_collection(&self, id: i64) -> Result<()> {
        sqlx::query("DELETE FROM collection WHERE id = $1")
            .bind(id)
            .execute(&self.pool)
            .await
            .context("cannot delete a collection")?;
        Ok(())
    }
}
