//! Whether the destination is, or can become, what the merge needs.

use super::privilege_problem;
use crate::elastic::{CatalogEntry, Cluster, IndexName, MORE_SHARDS, ShardCapacity, Version};
use crate::merge::act;
use crate::merge::error::{MergeError, Problem};
use crate::merge::valid::{Destination, ValidMerge};

/// Whether the names of the aliases of the spec have to be free.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Aliases {
    /// For a merge that has not begun.
    Wanted,
    /// Not for one that has, which does not stop for their sake: its cutover says what is wrong with them, and where they
    /// lead after it is up to those who use them.
    Due,
}

pub(super) async fn check_destination(
    merge: &ValidMerge,
    destination: &Cluster,
    aliases: Aliases,
) -> Result<Vec<Problem>, MergeError> {
    let name = &merge.destination.index;
    let alias = act::writer_alias(merge);
    // `manage` holds all that the index is created, looked at, refreshed and merged with.
    let on_alias: &[&str] = &["write", "manage"];
    let mut asked: Vec<(&str, &[&str])> =
        vec![(name.as_str(), &["read", "write", "manage"]), (&alias, on_alias)];
    asked.extend(merge.cutover.aliases.iter().map(|alias| (alias.as_str(), &on_alias[1..])));
    let missing =
        destination.missing_privileges(&asked, &["monitor"]).await.map_err(MergeError::Destination)?;
    if !missing.is_empty() {
        return Ok(vec![privilege_problem("spec.destination.credentialsSecretRef", &missing)]);
    }
    let mut problems = Vec::new();
    if let Some(options) = &merge.destination.index_options
        && let Some(problem) = unsupported_options(options, destination.version())
    {
        problems.push(problem);
    }
    let described =
        destination.describe(std::slice::from_ref(name)).await.map_err(MergeError::Destination)?;
    if let Some(info) = described.get(name) {
        let wanted = act::index_spec(&merge.destination, destination.version());
        problems.extend(act::misfits(&wanted, info));
        // A merge that has begun has taken the index as it was.
        if aliases == Aliases::Wanted {
            problems.extend(act::interferences(info));
            problems.extend(act::handed_over(merge, info));
        }
    } else if aliases == Aliases::Wanted {
        let scarce = destination.scarce_shards().await.map_err(MergeError::Destination)?;
        problems.extend(scarce.and_then(|capacity| no_room(&merge.destination, capacity)));
    }
    if aliases == Aliases::Wanted {
        for (position, alias) in merge.cutover.aliases.iter().enumerate() {
            problems.extend(alias_is_free(merge, destination, position, alias).await?);
        }
    }
    Ok(problems)
}

/// What is wrong if the cluster takes fewer shards than the index will have: whoever merges indices for want of shards may
/// have none left.
fn no_room(wanted: &Destination, capacity: ShardCapacity) -> Option<Problem> {
    let needed = u64::from(wanted.shards) * (1 + u64::from(wanted.replicas));
    (needed > capacity.room()).then(|| {
        Problem::new(
            "spec.destination",
            format!(
                "the index needs {needed} shards, replicas included, and the cluster has {} of {} at most; {MORE_SHARDS}",
                capacity.used, capacity.most
            ),
        )
    })
}

/// What is wrong if the name of an alias to be is that of an index, or that of an alias which leads elsewhere: an alias is
/// added to the destination, and not taken away from another index.
async fn alias_is_free(
    merge: &ValidMerge,
    destination: &Cluster,
    position: usize,
    alias: &IndexName,
) -> Result<Option<Problem>, MergeError> {
    match destination.describe(std::slice::from_ref(alias)).await {
        Err(error) if error.is_alias() => {
            let catalog = destination.resolve().await.map_err(MergeError::Destination)?;
            Ok(leads_elsewhere(&catalog, alias, &merge.destination.index).map(|other| {
                Problem::new(
                    format!("spec.cutover.aliases[{position}]"),
                    format!(
                        "{alias} is an alias of {other} there; reads would find both: remove it there first, or leave it out and move it yourself"
                    ),
                )
            }))
        }
        Err(error) => Err(MergeError::Destination(error)),
        Ok(found) if found.is_empty() => Ok(None),
        Ok(_) => Ok(Some(Problem::new(
            format!("spec.cutover.aliases[{position}]"),
            format!(
                "{alias} is the name of an index there, so no alias can have it; choose another, or delete that index if nobody needs it"
            ),
        ))),
    }
}

/// An index that has the alias already and is not the destination.
fn leads_elsewhere(catalog: &[CatalogEntry], alias: &IndexName, destination: &IndexName) -> Option<String> {
    catalog.iter().find_map(|entry| match entry {
        CatalogEntry::Alias { name, indices } if name == alias.as_str() => {
            indices.iter().find(|index| *index != destination).map(ToString::to_string)
        }
        CatalogEntry::Alias { .. } | CatalogEntry::Index { .. } | CatalogEntry::DataStream { .. } => None,
    })
}

/// Index options that the server does not have yet.
fn unsupported_options(options: &serde_json::Value, version: Version) -> Option<Problem> {
    let kind = options["type"].as_str()?;
    let since = match kind {
        "bbq_hnsw" | "bbq_flat" => (8, 18),
        "int4_hnsw" | "int4_flat" => (8, 15),
        "flat" | "int8_flat" => (8, 13),
        "int8_hnsw" => (8, 12),
        _ => return None,
    };
    (!version.at_least(since.0, since.1)).then(|| {
        Problem::new(
            "spec.destination.index.vectorIndexOptions.type",
            format!(
                "{kind} needs Elasticsearch {}.{}, the destination is {version}; choose another type (it cannot be changed: create the resource anew)",
                since.0, since.1
            ),
        )
    })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use serde_json::json;

    use super::*;
    use crate::merge::valid::test_merge;

    fn index(name: &str) -> IndexName {
        IndexName::parse(name).unwrap()
    }

    #[test]
    fn an_alias_of_another_index_is_found_and_one_of_the_destination_is_not() {
        let alias = |name: &str, indices: &[&str]| CatalogEntry::Alias {
            name: name.to_owned(),
            indices: indices.iter().copied().map(index).collect(),
        };
        let catalog =
            [alias("rag", &["merged"]), alias("both", &["merged", "old"]), alias("other", &["old"])];
        let elsewhere = |name: &str| leads_elsewhere(&catalog, &index(name), &index("merged"));
        assert_eq!(elsewhere("rag"), None);
        assert_eq!(elsewhere("free"), None);
        assert_eq!(elsewhere("both").as_deref(), Some("old"));
        assert_eq!(elsewhere("other").as_deref(), Some("old"));
    }

    #[test]
    fn index_options_are_refused_before_the_version_that_brought_them() {
        for (kind, major, minor) in [
            ("int8_hnsw", 8, 12),
            ("flat", 8, 13),
            ("int8_flat", 8, 13),
            ("int4_hnsw", 8, 15),
            ("int4_flat", 8, 15),
            ("bbq_hnsw", 8, 18),
            ("bbq_flat", 8, 18),
        ] {
            let options = json!({"type": kind});
            let problem = unsupported_options(&options, Version::new(major, minor - 1, 9));
            assert!(problem.is_some_and(|problem| problem.message.contains(kind)), "{kind}");
            assert_eq!(unsupported_options(&options, Version::new(major, minor, 0)), None, "{kind}");
        }
        assert_eq!(unsupported_options(&json!({"type": "hnsw"}), Version::new(8, 11, 0)), None);
    }

    #[test]
    fn an_index_that_needs_more_shards_than_fit_is_refused_with_its_replicas() {
        let wanted = |shards, replicas| Destination { shards, replicas, ..test_merge().destination };
        let capacity = ShardCapacity { used: 996, most: 1_000 };
        assert_eq!(no_room(&wanted(2, 1), capacity), None);
        assert_eq!(no_room(&wanted(4, 0), capacity), None);
        let problem = no_room(&wanted(3, 1), capacity).unwrap();
        assert!(problem.message.starts_with("the index needs 6 shards"), "{problem}");
        assert!(problem.message.contains("has 996 of 1000 at most"), "{problem}");
        // More than there may be: the limit was lowered since.
        assert!(no_room(&wanted(1, 0), ShardCapacity { used: 1_200, most: 1_000 }).is_some());
    }
}
