//! Reading collections and documents.
//!
//! - The statement that reads them also asks whether the server is a replica, in the same moment and without another question.
//! - Names come as bytes. The server refuses a whole answer for one text that is not of the encoding that it should have.

use std::collections::HashMap;

use jiff::Timestamp;
use sqlx::AssertSqlSafe;

use super::columns::{DocumentLayout, Layout};
use super::{CollectionsError, Result};
use crate::postgres::Pool;

/// Ids are asked for in groups of this size.
const GROUP: usize = 10_000;

/// A name in UTF-8; if the database's encoding is `SQL_ASCII`, which is none, as it is stored.
const NAME: &str = "convert_to(name::text, \
    (CASE getdatabaseencoding() WHEN 'SQL_ASCII' THEN 'SQL_ASCII' ELSE 'UTF8' END)::name)";
/// In the place of a name that the database does not have.
const NO_NAME: &str = "NULL::bytea";

/// A collection.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CollectionRow {
    /// Its id; also the name of its index.
    pub id: i64,
    /// Its name, if the database has one. Bytes that are not UTF-8 are replaced by U+FFFD.
    pub name: Option<String>,
}

/// What is selected of a document: whether a replica answers, id, name, and when it was created in microseconds.
type SelectedDocument = (bool, Option<i64>, Option<Vec<u8>>, Option<i64>);

/// What is known about a document.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DocumentRow {
    /// Its name. Bytes that are not UTF-8 are replaced by U+FFFD.
    pub name: Option<String>,
    /// When it was created, to the microsecond. A date without time zone is UTC; one that is infinite or
    /// beyond the years -9999 to 9999 is taken as unknown.
    pub created: Option<Timestamp>,
}

/// An error if the server is a replica.
pub(super) async fn refuse_replica(pool: &Pool) -> Result<()> {
    const DOING: &str = "asking whether the server is a replica";
    let is_replica: bool = sqlx::query_scalar("SELECT pg_is_in_recovery()")
        .fetch_one(pool)
        .await
        .map_err(CollectionsError::during(DOING))?;
    if is_replica { Err(CollectionsError::replica(DOING)) } else { Ok(()) }
}

pub(super) async fn list(pool: &Pool, layout: &Layout) -> Result<Vec<CollectionRow>> {
    const DOING: &str = "listing collections";
    let name = if layout.collection_name { NAME } else { NO_NAME };
    let select = of_server(&format!("SELECT id::bigint, {name} AS name FROM collection"));
    let rows: Vec<(bool, Option<i64>, Option<Vec<u8>>)> =
        sqlx::query_as(AssertSqlSafe(format!("{select} ORDER BY found.id")))
            .fetch_all(pool)
            .await
            .map_err(CollectionsError::during(DOING))?;
    if rows.iter().any(|(is_replica, ..)| *is_replica) {
        return Err(CollectionsError::replica(DOING));
    }
    let collections = rows.into_iter().filter_map(|(_, id, name)| Some((id?, name)));
    Ok(collections.map(|(id, name)| CollectionRow { id, name: name.map(text) }).collect())
}

pub(super) async fn documents(
    pool: &Pool,
    layout: &Layout,
    ids: &[i64],
) -> Result<HashMap<i64, DocumentRow>> {
    const DOING: &str = "reading documents";
    let Some(document) = &layout.document else {
        return Ok(HashMap::new());
    };
    let mut wanted = ids.to_vec();
    wanted.sort_unstable();
    wanted.dedup();
    let mut found = HashMap::with_capacity(wanted.len());
    for group in wanted.chunks(GROUP) {
        let rows: Vec<SelectedDocument> = sqlx::query_as(AssertSqlSafe(statement(document)))
            .bind(group)
            .fetch_all(pool)
            .await
            .map_err(CollectionsError::during(DOING))?;
        if rows.iter().any(|(is_replica, ..)| *is_replica) {
            return Err(CollectionsError::replica(DOING));
        }
        found.extend(rows.into_iter().filter_map(|(_, id, name, microseconds)| {
            let created = microseconds.and_then(|us| Timestamp::from_microsecond(us).ok());
            Some((id?, DocumentRow { name: name.map(text), created }))
        }));
    }
    Ok(found)
}

/// What `select` selects, each row behind a first column: whether the server is a replica. One row at least, in which all else
/// is null if nothing was selected.
fn of_server(select: &str) -> String {
    format!(
        "SELECT server.is_replica, found.* FROM (SELECT pg_is_in_recovery() AS is_replica) AS server \
         LEFT JOIN ({select}) AS found ON true"
    )
}

/// Safe: made of constants only. The session's time zone is UTC, so a date without one becomes UTC.
fn statement(document: &DocumentLayout) -> String {
    let name = if document.name { NAME } else { NO_NAME };
    let created = document.created.map_or_else(
        || "NULL::bigint".to_owned(),
        |column| {
            format!(
                "CASE WHEN isfinite({column}) \
                 THEN (extract(epoch FROM {column}::timestamptz) * 1000000)::bigint END"
            )
        },
    );
    of_server(&format!(
        "SELECT id::bigint, {name} AS name, {created} AS created FROM document WHERE id = ANY($1::bigint[])"
    ))
}

fn text(bytes: Vec<u8>) -> String {
    String::from_utf8(bytes).unwrap_or_else(|error| String::from_utf8_lossy(error.as_bytes()).into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_that_is_not_utf_8_keeps_what_can_be_read_of_it() {
        assert_eq!(text("thèses".as_bytes().to_vec()), "thèses");
        assert_eq!(text(b"th\xe8ses".to_vec()), "th\u{FFFD}ses");
    }
}
