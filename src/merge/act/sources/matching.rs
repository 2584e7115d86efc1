//! The collections of Postgres x the indices of Elasticsearch.
//!
//! The index of a collection is the concrete index named by its id, or the one behind an alias of that
//! name which shows all of it. A collection without index, and an index named by a number without collection, are reported
//! and left alone.

use std::collections::{BTreeMap, BTreeSet};

use crate::collections::CollectionRow;
use crate::elastic::{CatalogEntry, Cluster, ElasticError, IndexName};
use crate::merge::memo::{NoIndex, WithoutIndex};
use crate::merge::observe::active;
use crate::state::SourceRow;

/// Collections and the indices found for them.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Matched {
    /// The concrete index of each collection that has one.
    pub indices: BTreeMap<i64, IndexName>,
    /// Collections without a readable index, and why.
    pub without_index: BTreeMap<i64, WithoutIndex>,
    /// Indices named by a number that no collection has.
    pub strays: Vec<IndexName>,
}

impl Matched {
    /// Collections of which no index is listed.
    pub fn missing(&self) -> BTreeSet<i64> {
        let missing = self.without_index.iter().filter(|(_, why)| why.reason == NoIndex::IndexMissing);
        missing.map(|(&id, _)| id).collect()
    }

    /// Asks whether an index of these would be listed, if there were one.
    pub async fn ask_for(
        &mut self,
        source: &Cluster,
        collections: &BTreeSet<i64>,
    ) -> Result<(), ElasticError> {
        let names: Vec<String> = collections.iter().map(ToString::to_string).collect();
        for name in source.hidden(&names).await? {
            let Ok(collection) = name.parse() else { continue };
            let message = "the source's credentials would not show its index, so nobody knows whether there is one; grant them view_index_metadata and read on it, or exclude the collection";
            self.leave_out(collection, NoIndex::IndexHidden, message.to_owned());
        }
        Ok(())
    }

    fn leave_out(&mut self, collection: i64, reason: NoIndex, message: String) {
        self.without_index.insert(collection, WithoutIndex { reason, message });
    }
}

/// The aliases in the place of a collection's index that leave out a part of what is behind them. Nobody is asked where no alias
/// is in such a place.
pub async fn partial_aliases(
    source: &Cluster,
    rows: &[CollectionRow],
    catalog: &[CatalogEntry],
) -> Result<BTreeSet<String>, ElasticError> {
    let ids: BTreeSet<String> = rows.iter().map(|row| row.id.to_string()).collect();
    let (mut listed, mut behind) = (BTreeSet::<&IndexName>::new(), BTreeSet::<&IndexName>::new());
    for entry in catalog {
        match entry {
            CatalogEntry::Index { name, .. } => drop(listed.insert(name)),
            CatalogEntry::Alias { name, indices } if ids.contains(name) => behind.extend(indices),
            CatalogEntry::Alias { .. } | CatalogEntry::DataStream { .. } => {}
        }
    }
    // One that the credentials do not show is no source.
    let behind: Vec<IndexName> = behind.intersection(&listed).map(|&name| name.clone()).collect();
    source.partial_aliases(&behind).await
}

/// Matches collections with indices; `partial` are aliases that leave out a part, `merged` the sources so far. Pure.
#[must_use]
pub fn match_sources(
    rows: &[CollectionRow],
    catalog: &[CatalogEntry],
    partial: &BTreeSet<String>,
    wants: impl Fn(i64) -> bool,
    destination: &IndexName,
    merged: &[SourceRow],
) -> Matched {
    let mut open = BTreeMap::new();
    let mut aliases: BTreeMap<&str, &[IndexName]> = BTreeMap::new();
    let mut streams = BTreeSet::new();
    for entry in catalog {
        match entry {
            CatalogEntry::Index { name, open: is_open, .. } => {
                open.insert(name.as_str(), (name, *is_open));
            }
            CatalogEntry::Alias { name, indices } => {
                aliases.insert(name.as_str(), indices);
            }
            CatalogEntry::DataStream { name, .. } => drop(streams.insert(name.as_str())),
        }
    }
    let mut matched = Matched::default();
    let known: BTreeSet<i64> = rows.iter().map(|row| row.id).collect();
    for &collection in known.iter().filter(|&&collection| wants(collection)) {
        let name = collection.to_string();
        let behind_alias = match aliases.get(name.as_str()) {
            Some([single]) => Some(single),
            Some(_) | None => None,
        };
        let by_alias = || open.get(behind_alias?.as_str()).copied();
        match open.get(name.as_str()).copied().or_else(by_alias) {
            Some((index, _)) if index != destination && partial.contains(&name) => {
                let message = format!(
                    "its id is an alias of {index} with a filter or a routing, which leaves out a part; reindex what the alias shows into an index of its own, or exclude the collection"
                );
                matched.leave_out(collection, NoIndex::AliasFiltered, message);
            }
            Some((index, true)) if index != destination => {
                matched.indices.insert(collection, index.clone());
            }
            Some((index, false)) => {
                let message = format!("the index {index} is closed; open it, or exclude the collection");
                matched.leave_out(collection, NoIndex::IndexClosed, message);
            }
            Some(_) => {
                let message = "its index is the destination itself; exclude the collection";
                matched.leave_out(collection, NoIndex::SourceIsDestination, message.to_owned());
            }
            None if streams.contains(name.as_str()) => {
                let message = "its id is the name of a data stream; give it one index, or exclude it";
                matched.leave_out(collection, NoIndex::IndexAmbiguous, message.to_owned());
            }
            None if aliases.get(name.as_str()).is_some_and(|indices| indices.len() > 1) => {
                let message = "its id is an alias of several indices; give it one index, or exclude it";
                matched.leave_out(collection, NoIndex::IndexAmbiguous, message.to_owned());
            }
            None if behind_alias.is_some() => {
                let message = format!(
                    "its id is an alias of {}, which the source's credentials do not show; grant them that index, or exclude the collection",
                    behind_alias.map_or("an index", IndexName::as_str)
                );
                matched.leave_out(collection, NoIndex::IndexHidden, message);
            }
            None => {
                let message = "the collection has no index; it was never filled, or its index was deleted";
                matched.leave_out(collection, NoIndex::IndexMissing, message.to_owned());
            }
        }
    }
    leave_out_shared(&mut matched, merged);
    for (name, (index, _)) in open {
        let is_stray = name.parse::<i64>().is_ok_and(|id| id.to_string() == name && !known.contains(&id));
        if is_stray {
            matched.strays.push(index.clone());
        }
    }
    matched
}

/// A chunk belongs to one collection. An index that several find behind their aliases is merged for the one that it was
/// merged for so far, else for the one that it is named by, else for the first.
fn leave_out_shared(matched: &mut Matched, merged: &[SourceRow]) {
    let is_merged = |collection: i64, index: &IndexName| {
        active(merged).any(|source| source.collection_id == collection && source.index_name == index.as_str())
    };
    let rank = |collection: i64, index: &IndexName| {
        (is_merged(collection, index), index.as_str() == collection.to_string())
    };
    let mut owners: BTreeMap<&IndexName, i64> = BTreeMap::new();
    for (&collection, index) in &matched.indices {
        let owner = owners.entry(index).or_insert(collection);
        if *owner != collection && rank(collection, index) > rank(*owner, index) {
            *owner = collection;
        }
    }
    let owner =
        |collection: i64, index: &IndexName| owners.get(index).copied().filter(|&owner| owner != collection);
    let shared: Vec<(i64, String)> = matched
        .indices
        .iter()
        .filter_map(|(&collection, index)| Some((collection, index, owner(collection, index)?)))
        .map(|(collection, index, owner)| {
            let message = format!(
                "the index {index} is merged for collection {owner}; give this one an index of its own, or exclude it"
            );
            (collection, message)
        })
        .collect();
    for (collection, message) in shared {
        matched.indices.remove(&collection);
        matched.leave_out(collection, NoIndex::IndexShared, message);
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn index(name: &str) -> CatalogEntry {
        CatalogEntry::Index { name: IndexName::parse(name).unwrap(), open: true, aliases: Vec::new() }
    }

    fn alias(name: &str, of: &str) -> CatalogEntry {
        CatalogEntry::Alias { name: name.to_owned(), indices: vec![IndexName::parse(of).unwrap()] }
    }

    /// The collections 42, 43 and 44, and what these names lead to.
    fn matched(catalog: &[CatalogEntry], partial: &[&str]) -> Matched {
        let rows = [42, 43, 44].map(|id| CollectionRow { id, name: None });
        let partial = partial.iter().map(|&name| name.to_owned()).collect();
        let destination = IndexName::parse("merged").unwrap();
        match_sources(&rows, catalog, &partial, |_| true, &destination, &[])
    }

    fn reasons(matched: &Matched) -> Vec<(i64, NoIndex)> {
        matched.without_index.iter().map(|(&collection, why)| (collection, why.reason)).collect()
    }

    #[test]
    fn an_alias_that_leaves_out_a_part_takes_nothing_of_its_index_over() {
        let catalog = [index("docs-v2"), alias("42", "docs-v2"), index("43"), index("44")];
        let whole = matched(&catalog, &[]);
        assert_eq!(whole.indices[&42].as_str(), "docs-v2");
        let partial = matched(&catalog, &["42", "of-nobody"]);
        assert_eq!(partial.indices.keys().copied().collect::<Vec<_>>(), [43, 44]);
        assert_eq!(reasons(&partial), [(42, NoIndex::AliasFiltered)]);
        assert!(partial.without_index[&42].message.contains("alias of docs-v2"));
    }

    #[test]
    fn of_two_parts_of_an_index_none_takes_it_and_who_shows_it_whole_does() {
        let catalog = ["42", "43", "44"].map(|name| alias(name, "docs-v2"));
        let catalog = [&[index("docs-v2")], &catalog[..]].concat();
        let parts = matched(&catalog, &["42", "43", "44"]);
        assert!(parts.indices.is_empty());
        assert_eq!(reasons(&parts), [42, 43, 44].map(|id| (id, NoIndex::AliasFiltered)));
        let one_whole = matched(&catalog, &["42", "44"]);
        assert_eq!(one_whole.indices.keys().copied().collect::<Vec<_>>(), [43]);
    }

    #[test]
    fn a_part_of_the_destination_is_nothing_that_is_missing_there() {
        let catalog = [index("merged"), alias("42", "merged"), index("43"), index("44")];
        assert_eq!(reasons(&matched(&catalog, &["42"])), [(42, NoIndex::SourceIsDestination)]);
    }
}
