//! Reading collections and documents.

use std::collections::HashMap;

use jiff::Timestamp;
use sqlx::AssertSqlSafe;

use super::columns::{DocumentLayout, Layout};
use super::{CollectionsError, Result};
use crate::postgres::Pool;

/// Ids are asked for in groups of this size.
const GROUP: usize = 10_000;

/// A collection.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CollectionRow {
    /// Its id; also the name of its index.
    pub id: i64,
    /// Its name, if the database has one.
    pub name: Option<String>,
}

/// What is known about a document.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DocumentRow {
    /// Its name.
    pub name: Option<String>,
    /// When it was created, to the microsecond. A date without time zone is UTC; one that is infinite or
    /// beyond the years -9999 to 9999 is taken as unknown.
    pub created: Option<Timestamp>,
}

pub(super) async fn list(pool: &Pool, layout: &Layout) -> Result<Vec<CollectionRow>> {
    let statement = if layout.collection_name {
        "SELECT id::bigint, name::text FROM collection ORDER BY id"
    } else {
        "SELECT id::bigint, NULL::text FROM collection ORDER BY id"
    };
    let rows: Vec<(i64, Option<String>)> = sqlx::query_as(statement)
        .fetch_all(pool)
        .await
        .map_err(CollectionsError::during("listing collections"))?;
    Ok(rows.into_iter().map(|(id, name)| CollectionRow { id, name }).collect())
}

pub(super) async fn documents(
    pool: &Pool,
    layout: &Layout,
    ids: &[i64],
) -> Result<HashMap<i64, DocumentRow>> {
    let Some(document) = &layout.document else {
        return Ok(HashMap::new());
    };
    let mut wanted = ids.to_vec();
    wanted.sort_unstable();
    wanted.dedup();
    let mut found = HashMap::with_capacity(wanted.len());
    for group in wanted.chunks(GROUP) {
        let rows: Vec<(i64, Option<String>, Option<i64>)> =
            sqlx::query_as(AssertSqlSafe(statement(document)))
                .bind(group)
                .fetch_all(pool)
                .await
                .map_err(CollectionsError::during("reading documents"))?;
        found.extend(rows.into_iter().map(|(id, name, microseconds)| {
            let created = microseconds.and_then(|us| Timestamp::from_microsecond(us).ok());
            (id, DocumentRow { name, created })
        }));
    }
    Ok(found)
}

/// Safe: made of constants only. The session's time zone is UTC, so a date without one becomes UTC.
fn statement(document: &DocumentLayout) -> String {
    let name = if document.name { "name::text" } else { "NULL::text" };
    let created = document.created.map_or_else(
        || "NULL::bigint".to_owned(),
        |column| {
            format!(
                "CASE WHEN isfinite({column}) \
                 THEN (extract(epoch FROM {column}::timestamptz) * 1000000)::bigint END"
            )
        },
    );
    format!("SELECT id::bigint, {name}, {created} FROM document WHERE id = ANY($1::bigint[])")
}
