//! Which of the wanted columns this release of the application has.

use std::collections::BTreeMap;

use super::error::SEEING_EVERY_ROW;
use super::{CollectionsError, Result};
use crate::postgres::{Category, Failure, Pool};

const DOING: &str = "looking up the tables of the application";

/// Creation dates have one of these names; the first that exists is taken.
const CREATED_NAMES: [&str; 2] = ["created_at", "created"];
const DATE_TYPES: [&str; 3] = ["timestamptz", "timestamp", "date"];
const ID_TYPES: [&str; 3] = ["int2", "int4", "int8"];

/// What the database knows about documents.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DocumentColumns {
    /// Their names.
    pub name: bool,
    /// When they were created.
    pub created: bool,
}

/// What was found. Names of columns are from this module's constants, never from the database.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Layout {
    /// Whether `collection.name` exists.
    pub(super) collection_name: bool,
    /// `None`: there is no table of documents, or it has neither a usable id nor anything wanted.
    pub(super) document: Option<DocumentLayout>,
}

#[derive(Debug, PartialEq, Eq)]
pub(super) struct DocumentLayout {
    pub(super) name: bool,
    pub(super) created: Option<&'static str>,
}

impl Layout {
    pub(super) fn documents_known(&self) -> DocumentColumns {
        self.document.as_ref().map_or(DocumentColumns { name: false, created: false }, |document| {
            DocumentColumns { name: document.name, created: document.created.is_some() }
        })
    }
}

/// A column as the catalog has it.
#[derive(Debug, Clone)]
struct Column {
    type_name: String,
    readable: bool,
    /// A policy of its table keeps rows from the user.
    filtered: bool,
}

type Table = BTreeMap<String, Column>;

/// Asks the catalog (not `information_schema`, which hides what the user may not read, so that a missing
/// right would look like a missing table).
pub(super) async fn look_up(pool: &Pool) -> Result<Layout> {
    let rows: Vec<(String, String, String, bool, bool)> = sqlx::query_as(include_str!("columns.sql"))
        .fetch_all(pool)
        .await
        .map_err(CollectionsError::during(DOING))?;
    let mut tables: BTreeMap<String, Table> = BTreeMap::new();
    for (table, column, type_name, readable, filtered) in rows {
        tables.entry(table).or_default().insert(column, Column { type_name, readable, filtered });
    }
    Ok(lay_out(tables.get("collection"), tables.get("document"))?)
}

/// Pure: from the catalog to the layout.
fn lay_out(collection: Option<&Table>, document: Option<&Table>) -> std::result::Result<Layout, Failure> {
    let Some(collection) = collection else {
        return Err(Failure::known(
            Category::Missing,
            DOING,
            "there is no table `collection` in the search_path of the user",
            "check that the URL names the application's database, that the user has USAGE on the schema of the \
             table, and that its search_path holds that schema",
        ));
    };
    let id = collection.get("id").ok_or_else(|| {
        Failure::known(
            Category::Incompatible,
            DOING,
            "table `collection` has no column `id`",
            "check that the URL names the application's database",
        )
    })?;
    readable("collection", "id", id)?;
    if !is_one_of(id, &ID_TYPES) {
        return Err(Failure::known(
            Category::Incompatible,
            DOING,
            format!("column `id` of table `collection` is of type {}, not an integer", id.type_name),
            "check that the URL names the application's database",
        ));
    }
    let collection_name = wanted("collection", "name", collection, &[])?;
    let document = document.map_or(Ok(None), lay_out_document)?;
    Ok(Layout { collection_name, document })
}

fn lay_out_document(table: &Table) -> std::result::Result<Option<DocumentLayout>, Failure> {
    if !table.get("id").is_some_and(|id| is_one_of(id, &ID_TYPES)) {
        return Ok(None);
    }
    let name = wanted("document", "name", table, &[])?;
    let mut created = None;
    for candidate in CREATED_NAMES {
        if created.is_none() && wanted("document", candidate, table, &DATE_TYPES)? {
            created = Some(candidate);
        }
    }
    if !name && created.is_none() {
        return Ok(None);
    }
    wanted("document", "id", table, &ID_TYPES)?;
    Ok(Some(DocumentLayout { name, created }))
}

/// Whether the column exists with one of these types (any, if none are named); an error if it may not be read.
fn wanted(table: &str, column: &str, columns: &Table, types: &[&str]) -> std::result::Result<bool, Failure> {
    match columns.get(column) {
        Some(found) if types.is_empty() || is_one_of(found, types) => {
            readable(table, column, found).map(|()| true)
        }
        _ => Ok(false),
    }
}

fn is_one_of(column: &Column, types: &[&str]) -> bool {
    types.contains(&column.type_name.as_str())
}

/// An error if not all of the column may be read.
fn readable(table: &str, column: &str, found: &Column) -> std::result::Result<(), Failure> {
    if !found.readable {
        return Err(Failure::known(
            Category::Forbidden,
            DOING,
            format!("the user may not read column `{column}` of table `{table}`"),
            format!("let an administrator run: GRANT SELECT ON {table} TO <the user of the URL>"),
        ));
    }
    if found.filtered {
        return Err(Failure::known(
            Category::Forbidden,
            DOING,
            format!("a row-level security policy of table `{table}` would hide rows from the user"),
            SEEING_EVERY_ROW,
        ));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
    use super::*;

    fn table(columns: &[(&str, &str)]) -> Table {
        columns
            .iter()
            .map(|(name, kind)| {
                let type_name = (*kind).to_owned();
                ((*name).to_owned(), Column { type_name, readable: true, filtered: false })
            })
            .collect()
    }

    #[test]
    fn needs_nothing_but_the_id_of_collections() {
        let layout = lay_out(Some(&table(&[("id", "int4")])), None).unwrap();
        assert_eq!(layout, Layout { collection_name: false, document: None });
        assert_eq!(layout.documents_known(), DocumentColumns { name: false, created: false });
    }

    #[test]
    fn takes_created_at_before_created_and_only_dates() {
        let collection = table(&[("id", "int8"), ("name", "varchar")]);
        let created = |columns: &[(&str, &str)]| {
            let document = table(columns);
            lay_out(Some(&collection), Some(&document)).unwrap().document.and_then(|found| found.created)
        };
        let id = ("id", "int4");
        assert_eq!(
            created(&[id, ("created", "timestamp"), ("created_at", "timestamptz")]),
            Some("created_at")
        );
        assert_eq!(created(&[id, ("created", "timestamp")]), Some("created"));
        assert_eq!(created(&[id, ("created_at", "int8"), ("created", "date")]), Some("created"));
        assert_eq!(created(&[id, ("created_at", "text")]), None);
    }

    #[test]
    fn a_column_that_may_not_be_read_is_an_error_and_not_an_absence() {
        let mut document = table(&[("id", "int4"), ("name", "text")]);
        document.get_mut("name").unwrap().readable = false;
        let failure = lay_out(Some(&table(&[("id", "int4")])), Some(&document)).unwrap_err();
        assert_eq!(failure.category(), Category::Forbidden);
        assert!(failure.remedy().contains("GRANT SELECT ON document"));
    }

    #[test]
    fn a_table_whose_rows_a_policy_hides_is_an_error_and_not_a_shorter_one() {
        let mut collection = table(&[("id", "int4")]);
        collection.get_mut("id").unwrap().filtered = true;
        let failure = lay_out(Some(&collection), None).unwrap_err();
        assert_eq!(failure.category(), Category::Forbidden);
        assert!(failure.remedy().contains("BYPASSRLS"));
    }
}
