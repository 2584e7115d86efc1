//! What exists in a cluster: indices, aliases, data streams; settings and mappings; privileges.

use std::collections::{BTreeMap, BTreeSet};

use serde::Deserialize;
use serde::de::IgnoredAny;
use serde_json::{Map, Value, json};

use super::call::Call;
use super::cluster::{Cluster, by_groups, one_by_one_where_refused, parse, read_by_groups};
use super::error::{ElasticError, ErrorCategory, IS_ALIAS, Result};
use super::info::IndexInfo;
use super::names::IndexName;
use super::retry::RetryPolicy;

/// How often a list is asked for whose making an index that goes away breaks off.
const LISTINGS: u32 = 10;
/// Names in one question about privileges.
const NAMES_IN_A_QUESTION: usize = 500;
const RESOLVING: &str = "list the indices";
const DESCRIBING: &str = "read settings and mappings";
const READING_ALIASES: &str = "read aliases";
const REFRESHING: &str = "refresh";
const ASKING_PRIVILEGES: &str = "ask for our privileges";

/// Something that a name means.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum CatalogEntry {
    /// A concrete index.
    Index {
        /// Its name.
        name: IndexName,
        /// Whether it is open.
        open: bool,
        /// The aliases that include it.
        aliases: Vec<String>,
    },
    /// An alias.
    Alias {
        /// Its name.
        name: String,
        /// The indices it stands for.
        indices: Vec<IndexName>,
    },
    /// A data stream.
    DataStream {
        /// Its name.
        name: String,
    },
}

#[derive(Deserialize)]
struct Resolved {
    #[serde(default)]
    indices: Vec<ResolvedIndex>,
    #[serde(default)]
    aliases: Vec<ResolvedAlias>,
    #[serde(default)]
    data_streams: Vec<ResolvedStream>,
}

#[derive(Deserialize)]
struct ResolvedIndex {
    name: String,
    #[serde(default)]
    aliases: Vec<String>,
    #[serde(default)]
    attributes: Vec<String>,
}

#[derive(Deserialize)]
struct ResolvedAlias {
    name: String,
    #[serde(default)]
    indices: Vec<String>,
}

#[derive(Deserialize)]
struct ResolvedStream {
    name: String,
}

#[derive(Deserialize)]
struct Described {
    #[serde(default)]
    aliases: Map<String, Value>,
    #[serde(default)]
    mappings: Value,
    #[serde(default)]
    settings: Map<String, Value>,
    #[serde(default)]
    defaults: Map<String, Value>,
}

#[derive(Deserialize)]
struct Aliases {
    #[serde(default)]
    aliases: BTreeMap<String, Alias>,
}

/// What an alias leaves out of an index.
#[derive(Deserialize)]
struct Alias {
    filter: Option<IgnoredAny>,
    search_routing: Option<IgnoredAny>,
}

/// Which copies of the shards did what was asked of them all.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Copies {
    /// Every copy.
    All,
    /// Not those that are not assigned.
    Some,
}

#[derive(Deserialize)]
struct Broadcast {
    #[serde(rename = "_shards")]
    shards: BroadcastShards,
}

#[derive(Deserialize)]
struct BroadcastShards {
    total: u64,
    successful: u64,
    failed: u64,
    #[serde(default)]
    failures: Vec<Value>,
}

#[derive(Deserialize)]
struct Privileges {
    #[serde(default)]
    cluster: BTreeMap<String, bool>,
    #[serde(default)]
    index: BTreeMap<String, BTreeMap<String, bool>>,
}

impl Cluster {
    /// Everything that has a name and that we may see: open, closed and hidden indices, aliases, data streams.
    ///
    /// Indices whose name this program cannot use (they date from versions with other rules) are passed over.
    pub async fn resolve(&self) -> Result<Vec<CatalogEntry>> {
        let call = Call::get(RESOLVING, "/_resolve/index/*").with("expand_wildcards", "open,closed,hidden");
        let mut tries_left = LISTINGS;
        loop {
            tries_left -= 1;
            match self.send(&call).await {
                // Nobody asked for that index by its name: it was deleted while the server made the list.
                Err(error) if error.is_missing_index() && tries_left > 0 => {
                    tracing::debug!(%error, "an index went away meanwhile; the list is asked for again");
                }
                answer => return entries(&answer?),
            }
        }
    }

    /// Settings and mapping of each index; those that do not exist are absent.
    pub async fn describe(&self, indices: &[IndexName]) -> Result<BTreeMap<IndexName, IndexInfo>> {
        let found = read_by_groups(indices, |group| async move { self.describe_group(&group).await }).await?;
        Ok(found.into_iter().flatten().collect())
    }

    /// [`Cluster::describe`], where one index that the server refuses to show (by a block, or for want of a privilege) is no
    /// matter of the others: it has an inner error. If none is shown, that is the outer error.
    pub async fn describe_each(
        &self,
        indices: &[IndexName],
    ) -> Result<BTreeMap<IndexName, Result<IndexInfo>>> {
        ask_each(indices, |group| async move { self.describe_group(&group).await }).await
    }

    async fn describe_group(&self, group: &[&IndexName]) -> Result<Vec<(IndexName, IndexInfo)>> {
        let call = |list: &str| {
            Call::get(DESCRIBING, format!("/{list}"))
                .with("flat_settings", "true")
                .with("include_defaults", "true")
                .with("human", "true")
                .with("filter_path", DESCRIBED_PARTS)
        };
        let (answer, asked) = self.send_for_existing(group, call).await?;
        answer.map_or_else(|| Ok(Vec::new()), |answer| infos(&answer, &asked))
    }

    /// The aliases of these indices through which only a part of them is seen: they have a filter, or a routing of searches.
    /// An index that the server refuses to show is passed over: its settings and mapping are refused for the same reason.
    pub async fn partial_aliases(&self, indices: &[IndexName]) -> Result<BTreeSet<String>> {
        let found = read_by_groups(indices, |group| async move {
            one_by_one_where_refused(group, is_forbidden, |part| async move {
                self.partial_aliases_of(&part).await
            })
            .await
        })
        .await?;
        let told = found.into_iter().flatten().filter_map(|(_, aliases)| aliases.ok());
        Ok(told.flatten().collect())
    }

    async fn partial_aliases_of(&self, group: &[&IndexName]) -> Result<Vec<(IndexName, Vec<String>)>> {
        let call = |list: &str| {
            Call::get(READING_ALIASES, format!("/{list}/_alias"))
                .with("filter_path", "*.aliases.*.filter,*.aliases.*.search_routing")
        };
        let (answer, asked) = self.send_for_existing(group, call).await?;
        let Some(answer) = answer else { return Ok(Vec::new()) };
        let mut found: BTreeMap<String, Aliases> = parse(READING_ALIASES, &answer)?;
        let of_index = |name: &&IndexName| {
            let all = found.remove(name.as_str()).map(|index| index.aliases).unwrap_or_default();
            let is_partial = |alias: &Alias| alias.filter.is_some() || alias.search_routing.is_some();
            let partial = all.into_iter().filter(|(_, alias)| is_partial(alias)).map(|(alias, _)| alias);
            ((*name).clone(), partial.collect())
        };
        Ok(asked.iter().map(of_index).collect())
    }

    /// Makes everything written so far visible to searches; indices that do not exist are passed over.
    ///
    /// An error if a single shard did not do it. Ask [`Cluster::primary_stats`] first and leave out the indices that
    /// it has an error for: the server waits up to a minute for a primary that is not active, and keeps the others
    /// of the list waiting with it.
    pub async fn refresh(&self, indices: &[IndexName]) -> Result<()> {
        by_groups(indices, |group| async move { self.refresh_group(&group).await }).await.map(drop)
    }

    async fn refresh_group(&self, group: &[&IndexName]) -> Result<()> {
        let call =
            |list: &str| Call::post(REFRESHING, format!("/{list}/_refresh")).policy(RetryPolicy::brief());
        let (answer, asked) = self.send_for_existing(group, call).await?;
        let Some(answer) = answer else { return Ok(()) };
        if check_broadcast(REFRESHING, &answer, asked.len())? == Copies::Some {
            // A replica without a node is fine. A primary that is not there is not, and the server does not
            // always call it a failure.
            for (_, primaries) in self.stats_of(&asked).await? {
                primaries?;
            }
        }
        Ok(())
    }

    /// The privileges that are wanted and that we do not have, each as `index pattern: privilege` or
    /// `cluster: privilege`; empty also when security is off.
    pub async fn missing_privileges(&self, on: &[(&str, &[&str])], cluster: &[&str]) -> Result<Vec<String>> {
        let index: Vec<Value> = on
            .iter()
            .map(|(pattern, privileges)| json!({"names": [pattern], "privileges": privileges}))
            .collect();
        let call = Call::post(ASKING_PRIVILEGES, "/_security/user/_has_privileges")
            .json(&json!({"cluster": cluster, "index": index}))
            .policy(RetryPolicy::brief());
        let answer = match self.ask::<Privileges>(&call).await {
            Err(error) if security_is_off(&error) => return Ok(Vec::new()),
            answer => answer?,
        };
        let has_cluster = |privilege: &&str| answer.cluster.get(*privilege) == Some(&true);
        let mut missing: Vec<String> = cluster
            .iter()
            .filter(|privilege| !has_cluster(privilege))
            .map(|privilege| format!("cluster: {privilege}"))
            .collect();
        for (pattern, privileges) in on {
            let granted = answer.index.get(*pattern);
            let has = |privilege: &&str| granted.and_then(|g| g.get(*privilege)) == Some(&true);
            let lacking = privileges.iter().filter(|privilege| !has(privilege));
            missing.extend(lacking.map(|privilege| format!("{pattern}: {privilege}")));
        }
        let unique: BTreeSet<String> = missing.into_iter().collect();
        Ok(unique.into_iter().collect())
    }
}

impl Cluster {
    /// Those of the names which the present credentials would not show in a list, whether there is such an index or not.
    pub async fn hidden(&self, names: &[String]) -> Result<Vec<String>> {
        const SEEING: &str = "view_index_metadata";
        let mut hidden = Vec::new();
        for group in names.chunks(NAMES_IN_A_QUESTION) {
            let asked: Vec<(&str, &[&str])> =
                group.iter().map(|name| (name.as_str(), &[SEEING][..])).collect();
            let missing: BTreeSet<String> = self.missing_privileges(&asked, &[]).await?.into_iter().collect();
            let is_hidden = |name: &&String| missing.contains(&format!("{name}: {SEEING}"));
            hidden.extend(group.iter().filter(is_hidden).cloned());
        }
        Ok(hidden)
    }
}

fn is_forbidden(error: &ElasticError) -> bool {
    error.category() == ErrorCategory::Forbidden
}

/// What `ask` gives for each index. An inner error is of an index that the server refuses to speak of while it speaks of others;
/// if it refuses all of them, that is the outer error.
pub(super) async fn ask_each<'a, T, F: Future<Output = Result<Vec<(IndexName, T)>>>>(
    names: &'a [IndexName],
    ask: impl Fn(Vec<&'a IndexName>) -> F,
) -> Result<BTreeMap<IndexName, Result<T>>> {
    let found = read_by_groups(names, |group| one_by_one_where_refused(group, is_forbidden, &ask)).await?;
    let mut found: BTreeMap<IndexName, Result<T>> = found.into_iter().flatten().collect();
    if found.values().all(Result::is_err)
        && let Some((_, refusal)) = found.pop_first()
    {
        refusal?;
    }
    Ok(found)
}

/// Reads the answer of `GET /_resolve/index`.
pub(super) fn entries(answer: &[u8]) -> Result<Vec<CatalogEntry>> {
    let resolved: Resolved = parse(RESOLVING, answer)?;
    let indices = resolved.indices.into_iter().filter_map(|index| {
        let open = !index.attributes.iter().any(|attribute| attribute == "closed");
        Some(CatalogEntry::Index { name: known(&index.name)?, open, aliases: index.aliases })
    });
    let aliases = resolved.aliases.into_iter().map(|alias| CatalogEntry::Alias {
        name: alias.name,
        indices: alias.indices.iter().filter_map(|name| known(name)).collect(),
    });
    let streams =
        resolved.data_streams.into_iter().map(|stream| CatalogEntry::DataStream { name: stream.name });
    Ok(indices.chain(aliases).chain(streams).collect())
}

/// Reads the answer of `GET /index` for these indices.
pub(super) fn infos(answer: &[u8], asked: &[&IndexName]) -> Result<Vec<(IndexName, IndexInfo)>> {
    let mut described: BTreeMap<String, Described> = parse(DESCRIBING, answer)?;
    let info = |&name: &&IndexName| {
        let index = described.remove(name.as_str()).ok_or_else(|| not_concrete(DESCRIBING, name))?;
        let info = IndexInfo::new(index.mappings, index.settings, &index.defaults).ok_or_else(|| {
            ElasticError::bad_answer(DESCRIBING, format!("index `{name}` comes without its settings"))
        })?;
        Ok((
            name.clone(),
            IndexInfo { aliases: index.aliases.into_iter().map(|(alias, _)| alias).collect(), ..info },
        ))
    };
    asked.iter().map(info).collect()
}

/// The parts of `GET /index` that are used; the defaults alone would be ten kilobytes for each index.
const DESCRIBED_PARTS: &str = r"*.aliases,*.mappings,*.settings,*.defaults.index\.mapping\.exclude_source_vectors,*.defaults.index\.mapping\.source\.mode,*.defaults.index\.disable_sequence_numbers";

fn known(name: &str) -> Option<IndexName> {
    let parsed = IndexName::parse(name);
    if let Err(error) = &parsed {
        tracing::debug!(%error, "passed over");
    }
    parsed.ok()
}

/// The server answered under another name: what was asked for is an alias.
pub(super) fn not_concrete(doing: &'static str, name: &IndexName) -> ElasticError {
    let reason = format!("`{name}` is an alias, not an index");
    ElasticError::new(ErrorCategory::Invalid, doing, reason).with_kind(IS_ALIAS)
}

/// Checks an answer that every shard of at least `indices` indices had to give.
pub(super) fn check_broadcast(doing: &'static str, answer: &[u8], indices: usize) -> Result<Copies> {
    let Broadcast { shards } = parse(doing, answer)?;
    if shards.failed > 0 {
        let first = shards.failures.first().map(ToString::to_string).unwrap_or_default();
        let reason = format!(
            "{} of {} shards failed: {}",
            shards.failed,
            shards.total,
            super::error::shortened(&first)
        );
        return Err(ElasticError::new(ErrorCategory::Unavailable, doing, reason));
    }
    if shards.total < u64::try_from(indices).unwrap_or(u64::MAX) {
        let reason = format!("only {} shards were asked for {indices} indices", shards.total);
        return Err(ElasticError::bad_answer(doing, reason));
    }
    Ok(if shards.successful == shards.total { Copies::All } else { Copies::Some })
}

/// Without security the server does not know this address at all.
fn security_is_off(error: &ElasticError) -> bool {
    let is_unknown_address = matches!(error.status(), Some(400 | 404 | 405 | 410 | 500));
    let text = error.to_string();
    is_unknown_address && (text.contains("no handler found") || text.contains("not enabled"))
}
