//! Before anything is changed: is everything there that the merge needs? All problems at once.
//!
//! Also the preview (`plan`): what would be merged, found without writing anything anywhere.

mod destination;
mod role;

use std::collections::{BTreeMap, BTreeSet};
use std::convert::identity;
use std::time::Duration;

use futures::future::join4;

use self::destination::{Aliases, check_destination};
use self::role::{partial_role, privilege_problem};
use super::act::{self, Matched, match_sources, partial_aliases};
use super::error::{MergeCategory, MergeError, Problem, STATE_POSTGRES};
use super::memo::WithoutIndex;
use super::phase::Phase;
use super::secrets::{ClusterAccess, Secrets};
use super::valid::{SourceWrites, ValidMerge};
use crate::chunk::VectorForm;
use crate::collections::{CollectionRow, Collections, CollectionsError};
use crate::elastic::{Cluster, ClusterConfig, ElasticError, IndexInfo, IndexName, Version};
use crate::state::{State, StateError};

/// Names of sources whose privileges are asked for: roles are given by pattern, so a sample tells.
const PRIVILEGE_SAMPLE: usize = 50;
/// Sources whose vector size is looked at before the start.
const VECTOR_SAMPLE: usize = 100;
/// How long the checks of one server may take.
const CHECK: Duration = Duration::from_mins(1);

/// Everything that a merge is connected to.
pub(super) struct Parts {
    pub source: Cluster,
    pub destination: Cluster,
    pub collections: Collections,
    pub state: State,
}

/// What a merge would do.
#[derive(Debug, Clone)]
pub struct Preview {
    /// Collections that would be merged.
    pub collections: u64,
    /// Their live chunks.
    pub documents: u64,
    /// The size of their primaries.
    pub bytes: u64,
    /// The largest collections: id, chunks.
    pub largest: Vec<(i64, u64)>,
    /// Collections without a readable index, and why.
    pub without_index: BTreeMap<i64, WithoutIndex>,
    /// Indices named by a number that no collection has.
    pub strays: Vec<String>,
    /// Versions of source and destination.
    pub versions: (Version, Version),
    /// Whether the destination exists already.
    pub destination_exists: bool,
    /// How embeddings would be written.
    pub vector_form: VectorForm,
    /// The index options of the destination, pinned.
    pub index_options: serde_json::Value,
    /// Everything that stands in the way.
    pub problems: Vec<Problem>,
}

/// Connects to all four and checks them; an error names every problem found.
pub(super) async fn connect(merge: &ValidMerge, secrets: &Secrets) -> Result<Parts, MergeError> {
    let (source, destination, collections, state) = join4(
        source(merge, secrets),
        cluster(&merge.destination.urls, merge.destination.insecure, &secrets.destination),
        Collections::connect(&secrets.collections),
        State::connect(&secrets.state, &merge.state_schema),
    )
    .await;
    let mut problems = Vec::new();
    let source = keep("spec.source", source, &mut problems);
    let destination = keep("spec.destination", destination, &mut problems);
    let collections = keep("spec.collections.postgres", collections, &mut problems);
    let state = keep(STATE_POSTGRES, state, &mut problems);
    let aliases = aliases(merge, state.as_ref()).await;
    problems.extend(check(merge, source.as_ref(), destination.as_ref(), collections.as_ref(), aliases).await);
    match (source, destination, collections, state) {
        (Some(source), Some(destination), Some(collections), Some(state)) if problems.is_empty() => {
            Ok(Parts { source, destination, collections, state })
        }
        _ => Err(MergeError::Problems { category: MergeCategory::ChecksFailed, problems }),
    }
}

/// What the merge would do. Reads only: no schema is created, no destination claimed.
pub async fn preview(merge: &ValidMerge, secrets: &Secrets) -> Result<Preview, MergeError> {
    let mut problems = Vec::new();
    let source = keep("spec.source", source(merge, secrets).await, &mut problems);
    let destination =
        cluster(&merge.destination.urls, merge.destination.insecure, &secrets.destination).await;
    let destination = keep("spec.destination", destination, &mut problems);
    let database =
        keep("spec.collections.postgres", Collections::connect(&secrets.collections).await, &mut problems);
    let aliases = Aliases::Wanted;
    problems.extend(check(merge, source.as_ref(), destination.as_ref(), database.as_ref(), aliases).await);
    let (Some(source), Some(destination), Some(database)) = (source, destination, database) else {
        return Err(MergeError::Problems { category: MergeCategory::ChecksFailed, problems });
    };
    if problems.iter().any(|problem| problem.may_pass) {
        // Something does not answer now: it is not asked for more.
        return Err(MergeError::Problems { category: MergeCategory::ChecksFailed, problems });
    }
    let matched = match matched(merge, &source, &database).await {
        Ok(matched) => matched,
        Err(error) => return Err(failed(problems, error)),
    };
    let names: Vec<IndexName> = matched.indices.values().cloned().collect();
    let (stats, unreadable) = match source.primary_stats(&names).await {
        Ok(stats) => act::readable(stats),
        Err(error) => return Err(failed(problems, MergeError::Source(error))),
    };
    problems.extend(unreadable.values().map(|reason| {
        let remedy =
            "look at the health of the source cluster, or put the collection into spec.collections.exclude";
        Problem::new("spec.source", format!("{reason}; {remedy}"))
    }));
    let documents_of = |index: &IndexName| {
        stats.get(index).map_or(0, |shards| shards.iter().map(|shard| shard.docs).sum::<u64>())
    };
    let mut largest: Vec<(i64, u64)> =
        matched.indices.iter().map(|(&collection, index)| (collection, documents_of(index))).collect();
    largest.sort_by_key(|&(collection, documents)| (std::cmp::Reverse(documents), collection));
    let documents = largest.iter().map(|(_, documents)| documents).sum();
    largest.truncate(10);
    let name = std::slice::from_ref(&merge.destination.index);
    let described = match destination.describe(name).await {
        Ok(described) => described,
        Err(error) => return Err(failed(problems, MergeError::Destination(error))),
    };
    Ok(Preview {
        collections: matched.indices.len() as u64,
        documents,
        bytes: stats.values().flatten().map(|shard| shard.store_bytes).sum(),
        largest,
        without_index: matched.without_index,
        strays: matched.strays.iter().map(ToString::to_string).collect(),
        versions: (source.version(), destination.version()),
        destination_exists: !described.is_empty(),
        vector_form: vector_form(destination.version(), described.get(&merge.destination.index)),
        index_options: act::pinned_index_options(&merge.destination, destination.version()),
        problems,
    })
}

/// The form in which embeddings are written: base64 where the server reads it (9.3) and the index keeps no vectors in
/// `_source` (a string would stay in it otherwise). One that is yet to be created keeps none, unless a template says so:
/// it is looked at again when it is there.
pub(super) fn vector_form(destination: Version, index: Option<&IndexInfo>) -> VectorForm {
    let is_hidden = index.is_none_or(|index| index.vectors_hidden);
    if destination.at_least(9, 3) && is_hidden { VectorForm::Base64 } else { VectorForm::Json }
}

/// The error of a second merge with the same destination.
pub(super) fn claimed(merge: &ValidMerge, owner: &str) -> MergeError {
    MergeError::problem(
        MergeCategory::DestinationClaimed,
        "spec.destination.index.name",
        format!(
            "the index {} is the destination of the merge {owner}; this one waits until that one is deleted",
            merge.destination.index
        ),
    )
}

/// The error of a merge whose state was made from another source.
pub(super) fn other_identity(merge: &ValidMerge) -> MergeError {
    MergeError::problem(
        MergeCategory::DestinationClaimed,
        "spec.source",
        format!(
            "the index {} was begun by a merge of the same name from another source or contract; create the resource anew with another destination name, or restore the former spec",
            merge.destination.index
        ),
    )
}

/// Why something cannot be used, and whether that may pass by itself.
struct Obstacle {
    message: String,
    may_pass: bool,
}

impl Obstacle {
    /// It as a problem of that field.
    fn of(self, field: &str) -> Problem {
        Problem { may_pass: self.may_pass, ..Problem::new(field, self.message) }
    }
}

impl From<ElasticError> for Obstacle {
    fn from(error: ElasticError) -> Obstacle {
        // An answer that was cut off on its way looks like one of something that is no Elasticsearch.
        Obstacle { message: format!("{error}; {}", error.remedy()), may_pass: error.may_pass() }
    }
}

impl From<CollectionsError> for Obstacle {
    fn from(error: CollectionsError) -> Obstacle {
        Obstacle { message: format!("{error}; {}", error.remedy()), may_pass: error.is_transient() }
    }
}

impl From<StateError> for Obstacle {
    fn from(error: StateError) -> Obstacle {
        Obstacle { message: format!("{error}; {}", error.remedy()), may_pass: error.is_transient() }
    }
}

/// What a failed look at a server means: problems of the field that the server is in.
fn as_problems(error: MergeError) -> Vec<Problem> {
    let (field, obstacle) = match error {
        MergeError::Problems { problems, .. } => return problems,
        MergeError::Source(error) => ("spec.source", error.into()),
        MergeError::Destination(error) => ("spec.destination", error.into()),
        MergeError::Aliases(error) => ("spec.cutover.aliases", error.into()),
        MergeError::Collections(error) => ("spec.collections.postgres", error.into()),
        MergeError::State(error) => (STATE_POSTGRES, error.into()),
        MergeError::DestinationLost(message) => {
            ("spec.destination.index.name", Obstacle { message, may_pass: false })
        }
        MergeError::Internal(_) => ("spec", Obstacle { message: error.to_string(), may_pass: false }),
    };
    vec![obstacle.of(field)]
}

/// Everything that was found before `error` ended it, and what it says itself, once.
fn failed(mut problems: Vec<Problem>, error: MergeError) -> MergeError {
    for problem in as_problems(error) {
        if !problems.contains(&problem) {
            problems.push(problem);
        }
    }
    MergeError::Problems { category: MergeCategory::ChecksFailed, problems }
}

/// The source cluster alone.
pub(super) async fn source(merge: &ValidMerge, secrets: &Secrets) -> Result<Cluster, ElasticError> {
    cluster(&merge.source_urls, merge.source_insecure, &secrets.source).await
}

/// One cluster.
pub(super) async fn cluster(
    urls: &[url::Url],
    insecure: bool,
    access: &ClusterAccess,
) -> Result<Cluster, ElasticError> {
    let config = ClusterConfig {
        credentials: access.credentials.clone(),
        ca_pem: access.ca_pem.clone(),
        identity_pem: access.identity_pem.clone(),
        insecure_skip_verify: insecure,
        ..ClusterConfig::new(urls.to_vec())
    };
    Cluster::connect(config).await
}

/// The value, or its error as a problem of that field.
fn keep<T>(field: &str, result: Result<T, impl Into<Obstacle>>, problems: &mut Vec<Problem>) -> Option<T> {
    match result {
        Ok(value) => Some(value),
        Err(error) => {
            problems.push(error.into().of(field));
            None
        }
    }
}

async fn matched(
    merge: &ValidMerge,
    source: &Cluster,
    collections: &Collections,
) -> Result<Matched, MergeError> {
    let rows = collections.list().await?;
    let catalog = source.resolve().await.map_err(MergeError::Source)?;
    let partial = partial_aliases(source, &rows, &catalog).await.map_err(MergeError::Source)?;
    let mut matched =
        match_sources(&rows, &catalog, &partial, |id| merge.wants(id), &merge.destination.index, &[]);
    let missing = matched.missing();
    matched.ask_for(source, &missing).await.map_err(MergeError::Source)?;
    Ok(matched)
}

/// Checks what is reachable; a failure to ask is a problem like any other.
async fn check(
    merge: &ValidMerge,
    source: Option<&Cluster>,
    destination: Option<&Cluster>,
    collections: Option<&Collections>,
    aliases: Aliases,
) -> Vec<Problem> {
    let of_source = async {
        let Some((source, collections)) = source.zip(collections) else { return Ok(Vec::new()) };
        let listing = async { Ok(collections.list().await?) };
        let rows = in_time("spec.collections.postgres", listing).await?;
        in_time("spec.source", check_source(merge, source, &rows)).await
    };
    let of_destination = async {
        let Some(destination) = destination else { return Ok(Vec::new()) };
        let checking = async {
            let mut problems = check_destination(merge, destination, aliases).await?;
            let name = merge.destination.index.to_string();
            let partial = partial_role("spec.destination.credentialsSecretRef", destination, &[name]).await;
            problems.extend(partial.map_err(MergeError::Destination)?);
            Ok(problems)
        };
        in_time("spec.destination", checking).await
    };
    let (of_source, of_destination) = tokio::join!(of_source, of_destination);
    [of_source, of_destination].into_iter().flat_map(|found| found.unwrap_or_else(identity)).collect()
}

/// The answer of the server that `field` names, or what is wrong with it: one that takes connections and then says
/// nothing must not hide what is known of the others.
async fn in_time<T>(
    field: &str,
    asking: impl Future<Output = Result<T, MergeError>>,
) -> Result<T, Vec<Problem>> {
    let Ok(answer) = tokio::time::timeout(CHECK, asking).await else {
        let message = "takes connections and does not answer; look at its health".to_owned();
        return Err(vec![Obstacle { message, may_pass: true }.of(field)]);
    };
    answer.map_err(as_problems)
}

async fn check_source(
    merge: &ValidMerge,
    source: &Cluster,
    rows: &[CollectionRow],
) -> Result<Vec<Problem>, MergeError> {
    let catalog = source.resolve().await;
    let matched = match &catalog {
        // What is behind an alias is asked about, whether all of it is shown or not.
        Ok(catalog) => {
            let partial = BTreeSet::new();
            match_sources(rows, catalog, &partial, |id| merge.wants(id), &merge.destination.index, &[])
        }
        Err(_) => Matched::default(),
    };
    let mut privileges = vec!["read", "view_index_metadata", "monitor", "maintenance"];
    if merge.cutover.source_writes == SourceWrites::Block {
        privileges.extend(["indices:admin/block/add", "indices:admin/settings/update"]);
    }
    if merge.cutover.delete_sources_after.is_some() {
        privileges.push("delete_index");
    }
    // Who may see no index sees none: then those that should be there are asked for.
    let wanted = rows.iter().map(|row| row.id).filter(|&id| merge.wants(id)).map(|id| id.to_string());
    let names: Vec<String> = if matched.indices.is_empty() {
        wanted.take(PRIVILEGE_SAMPLE).collect()
    } else {
        matched.indices.values().map(ToString::to_string).collect()
    };
    let sample = names.iter().take(PRIVILEGE_SAMPLE);
    let asked: Vec<(&str, &[&str])> = sample.map(|index| (index.as_str(), privileges.as_slice())).collect();
    let missing = source.missing_privileges(&asked, &["monitor"]).await.map_err(MergeError::Source)?;
    if !missing.is_empty() {
        return Ok(vec![privilege_problem("spec.source.credentialsSecretRef", &missing)]);
    }
    catalog.map_err(MergeError::Source)?;
    let partial = partial_role("spec.source.credentialsSecretRef", source, &names).await;
    let mut problems: Vec<Problem> = partial.map_err(MergeError::Source)?.into_iter().collect();
    problems.extend(check_vectors(merge, source, &matched).await?);
    Ok(problems)
}

/// When every source that was looked at has embeddings of another size, the spec is wrong; single ones are
/// quarantined chunk by chunk.
async fn check_vectors(
    merge: &ValidMerge,
    source: &Cluster,
    matched: &Matched,
) -> Result<Option<Problem>, MergeError> {
    let names: Vec<IndexName> = matched.indices.values().take(VECTOR_SAMPLE).cloned().collect();
    let described = source.describe_each(&names).await.map_err(MergeError::Source)?;
    let sizes: Vec<u64> = described
        .values()
        .flatten()
        .filter_map(|info| {
            info.mapping.pointer("/properties/embedding/dims").and_then(serde_json::Value::as_u64)
        })
        .collect();
    let wanted = u64::from(merge.destination.vector_size);
    let wrong = sizes.first().filter(|_| sizes.iter().all(|&size| size != wanted));
    Ok(wrong.map(|size| {
        Problem::new(
            "spec.destination.index.vectorSize",
            format!(
                "is {wanted}, but the embeddings of the sources have {size} dimensions; create the resource anew with {size}"
            ),
        )
    }))
}

/// Whether the names of its aliases have to be free. A state that cannot be read is a problem of its own.
async fn aliases(merge: &ValidMerge, state: Option<&State>) -> Aliases {
    let Some(state) = state else { return Aliases::Due };
    let Ok(row) = state.merge_of(&merge.owner, &merge.identity()).await else { return Aliases::Due };
    let Some(row) = row.filter(|row| row.released_at.is_none()) else { return Aliases::Wanted };
    match Phase::parse(&row.phase) {
        Some(Phase::Pending | Phase::Preparing) => Aliases::Wanted,
        _ => Aliases::Due,
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::panic)]
    use super::*;

    #[test]
    fn what_was_found_before_a_failure_is_told_with_it_and_nothing_twice() {
        let known = Problem::new("spec.destination.credentialsSecretRef", "a privilege is missing");
        let lost = || MergeError::Source(ElasticError::unavailable("no answer"));
        let problems = |error| match error {
            MergeError::Problems { problems, .. } => problems,
            error => panic!("{error}"),
        };
        let both = problems(failed(vec![known.clone()], lost()));
        assert_eq!(both.len(), 2);
        assert_eq!((&both[0], both[1].field.as_str()), (&known, "spec.source"));
        assert!(both[1].may_pass);
        assert_eq!(problems(failed(both.clone(), lost())), both, "it was known already");
    }
}
