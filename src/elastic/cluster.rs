//! A connected cluster, and the small tools that the other files of this room build requests with.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use futures::stream::{self, StreamExt as _, TryStreamExt as _};
use serde::Deserialize;
use serde::de::DeserializeOwned;

use super::call::{Call, Caller};
use super::config::ClusterConfig;
use super::error::{ElasticError, ErrorCategory, Result, shortened};
use super::names::{IndexName, IndexUuid, ShardNumber, Version};
use super::retry::RetryPolicy;

/// A connected Elasticsearch cluster. Cheap to clone; clones share connections.
#[derive(Debug, Clone)]
pub struct Cluster(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    caller: Caller,
    version: Version,
    uuid: String,
    name: String,
    /// Primary shards of the indices seen so far: of one uuid the number never changes.
    shard_counts: Mutex<HashMap<IndexUuid, ShardNumber>>,
}

#[derive(Deserialize)]
struct Root {
    cluster_name: Option<String>,
    cluster_uuid: Option<String>,
    version: Option<RootVersion>,
    tagline: Option<String>,
}

#[derive(Deserialize)]
struct RootVersion {
    number: String,
    distribution: Option<String>,
    build_flavor: Option<String>,
}

const CONNECTING: &str = "connect to Elasticsearch";
/// Time limit of an attempt to connect, so that a wrong address is reported soon.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// Longest part of a request line that a list of indices takes, in bytes; the server's limit is 4 kB for all of it.
const MAX_LIST_BYTES: usize = 2800;
/// Requests about groups of indices under way at a time.
const GROUPS_AT_ONCE: usize = 4;
/// Indices of which the server reads something in less time than a request of its own takes.
const SMALL_GROUP: usize = 64;

/// Shard counts that are remembered: a few megabytes.
const MAX_SHARD_COUNTS: usize = 50_000;

impl Cluster {
    /// Connects: asks the first node that answers who it is.
    ///
    /// Fails soon (seconds) and clearly: nobody there, TLS, credentials, something that is not Elasticsearch, or a
    /// version before 8.11.
    pub async fn connect(config: ClusterConfig) -> Result<Self> {
        let caller = Caller::new(&config)?;
        let attempts = u32::try_from(caller.node_count()).unwrap_or(u32::MAX).max(2);
        let call = Call::get(CONNECTING, "/")
            .policy(RetryPolicy { attempts, ..RetryPolicy::brief() })
            .timeout(CONNECT_TIMEOUT.min(config.request_timeout));
        let answer = caller.send(&call).await?;
        let (version, uuid, name) = identity(&answer)?;
        tracing::debug!(%version, cluster = name, "connected");
        Ok(Self(Arc::new(Inner { caller, version, uuid, name, shard_counts: Mutex::default() })))
    }

    /// The server's version.
    #[must_use]
    pub fn version(&self) -> Version {
        self.0.version
    }

    /// The cluster's uuid.
    #[must_use]
    pub fn uuid(&self) -> &str {
        &self.0.uuid
    }

    /// The cluster's name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.0.name
    }

    /// The number of shards of an index, if it was ever asked for.
    pub(super) fn shard_count(&self, uuid: &IndexUuid) -> Option<ShardNumber> {
        self.0.shard_counts.lock().unwrap_or_else(PoisonError::into_inner).get(uuid).copied()
    }

    pub(super) fn remember_shard_count(&self, uuid: IndexUuid, shards: ShardNumber) {
        let mut known = self.0.shard_counts.lock().unwrap_or_else(PoisonError::into_inner);
        // Indices come and go for as long as a merge follows them.
        if known.len() >= MAX_SHARD_COUNTS {
            known.clear();
        }
        known.insert(uuid, shards);
    }

    pub(super) async fn send(&self, call: &Call) -> Result<Bytes> {
        self.0.caller.send(call).await
    }

    pub(super) async fn ask<T: DeserializeOwned>(&self, call: &Call) -> Result<T> {
        let answer = self.send(call).await?;
        parse(call.doing, &answer)
    }

    /// Like [`Cluster::ask`], for requests that the server has to have acknowledged.
    pub(super) async fn command(&self, call: &Call) -> Result<()> {
        let answer: Acknowledged = self.ask(call).await?;
        if answer.acknowledged {
            return Ok(());
        }
        let reason = "the server did not acknowledge it in time";
        Err(ElasticError::new(ErrorCategory::Unavailable, call.doing, reason))
    }

    /// Sends one request for a list of indices, again without those that the server names as missing.
    ///
    /// Strict on purpose: with `ignore_unavailable` the server would silently leave out also the indices that the
    /// user has no privilege for, and they would look like deleted ones. Returns the answer (`None` if no index is
    /// left) and the indices it is about.
    pub(super) async fn send_for_existing<'a>(
        &self,
        names: &[&'a IndexName],
        call: impl Fn(&str) -> Call,
    ) -> Result<(Option<Bytes>, Vec<&'a IndexName>)> {
        let mut left = names.to_vec();
        while !left.is_empty() {
            match self.send(&call(&encoded_list(&left))).await {
                Ok(answer) => return Ok((Some(answer), left)),
                Err(error) if error.is_missing_index() => {
                    let before = left.len();
                    left.retain(|name| Some(name.as_str()) != error.index());
                    if left.len() == before {
                        return Err(error);
                    }
                }
                Err(error) => return Err(error),
            }
        }
        Ok((None, left))
    }
}

#[derive(Deserialize)]
struct Acknowledged {
    acknowledged: bool,
}

pub(super) fn identity(answer: &[u8]) -> Result<(Version, String, String)> {
    let unsupported = |reason: &str| ElasticError::new(ErrorCategory::Unsupported, CONNECTING, reason);
    let not_elasticsearch = || {
        let begin = shortened(&String::from_utf8_lossy(answer.get(..200).unwrap_or(answer)));
        unsupported(&format!("this is not Elasticsearch; it answers: {begin}"))
    };
    let cut_off = || ElasticError::bad_answer(CONNECTING, "the answer ends in the middle");
    let root: Root = serde_json::from_slice(answer).map_err(|e| {
        // What was cut off on its way says nothing about who sent it.
        let error = if e.is_eof() && !answer.is_empty() { cut_off() } else { not_elasticsearch() };
        error.with_source(e)
    })?;
    let number = root.version.ok_or_else(not_elasticsearch)?;
    if let Some(distribution) = number.distribution {
        return Err(unsupported(&format!("this is {distribution}, not Elasticsearch")));
    }
    if root.tagline.as_deref() != Some("You Know, for Search") {
        return Err(not_elasticsearch());
    }
    if number.build_flavor.as_deref() == Some("serverless") {
        return Err(unsupported("this is serverless Elasticsearch, which does not show its shards"));
    }
    let version = Version::parse(&number.number).ok_or_else(not_elasticsearch)?;
    if !version.at_least(8, 11) {
        return Err(unsupported(&format!("this is Elasticsearch {version}; 8.11 or later is needed")));
    }
    let uuid = root.cluster_uuid.ok_or_else(not_elasticsearch)?;
    // A node that has not joined a cluster yet gives this text instead of a uuid.
    if uuid == "_na_" {
        let reason = "the node has not joined its cluster yet";
        return Err(ElasticError::new(ErrorCategory::Unavailable, CONNECTING, reason));
    }
    Ok((version, uuid, root.cluster_name.unwrap_or_default()))
}

/// Parses a small answer.
pub(super) fn parse<T: DeserializeOwned>(doing: &'static str, answer: &[u8]) -> Result<T> {
    serde_json::from_slice(answer).map_err(|e| {
        ElasticError::bad_answer(doing, format!("the answer is not the expected JSON: {e}")).with_source(e)
    })
}

/// Appends one segment of a path, with everything but unreserved characters percent-encoded.
fn push_encoded(segment: &str, path: &mut String) {
    const HEX: &[u8; 16] = b"0123456789ABCDEF";
    for byte in segment.bytes() {
        if byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.' | b'~') {
            path.push(char::from(byte));
        } else {
            path.push('%');
            path.push(char::from(HEX[usize::from(byte >> 4)]));
            path.push(char::from(HEX[usize::from(byte & 15)]));
        }
    }
}

/// One name, encoded for a path.
pub(super) fn encoded(name: &str) -> String {
    let mut path = String::with_capacity(name.len());
    push_encoded(name, &mut path);
    path
}

/// Names separated by commas, encoded for a path.
pub(super) fn encoded_list(names: &[&IndexName]) -> String {
    let mut path = String::new();
    for name in names {
        if !path.is_empty() {
            path.push(',');
        }
        push_encoded(name.as_str(), &mut path);
    }
    path
}

/// Splits a list of indices so that no request line becomes too long, and no group has more than `most` of them.
fn groups(names: &[IndexName], most: usize) -> Vec<Vec<&IndexName>> {
    let mut groups: Vec<Vec<&IndexName>> = Vec::new();
    let mut bytes = 0;
    for name in names {
        let length = encoded(name.as_str()).len() + 1;
        match groups.last_mut() {
            Some(group) if bytes + length <= MAX_LIST_BYTES && group.len() < most => {
                group.push(name);
                bytes += length;
            }
            _ => {
                groups.push(vec![name]);
                bytes = length;
            }
        }
    }
    groups
}

/// Asks about a list of indices by groups that fit into a request line, a few at a time: while the server waits for one
/// request, it has others to work on. What they give is in the order of the list; the first failure ends all.
pub(super) async fn by_groups<'a, T, F: Future<Output = Result<T>>>(
    names: &'a [IndexName],
    ask: impl Fn(Vec<&'a IndexName>) -> F,
) -> Result<Vec<T>> {
    ask_groups(groups(names, usize::MAX), ask).await
}

/// [`by_groups`] for what the server reads with one thread a request: as many requests as it gets at a time, unless they
/// would be small. (What changes the cluster's state is better done by few requests.)
pub(super) async fn read_by_groups<'a, T, F: Future<Output = Result<T>>>(
    names: &'a [IndexName],
    ask: impl Fn(Vec<&'a IndexName>) -> F,
) -> Result<Vec<T>> {
    ask_groups(groups(names, names.len().div_ceil(GROUPS_AT_ONCE).max(SMALL_GROUP)), ask).await
}

/// What `ask` gives for each index of a group. The server refuses a list for the sake of one index (`is_of_one`); so the list
/// is halved until those that are refused stand alone, as they are few. Each other error ends all.
pub(super) async fn one_by_one_where_refused<'a, T, F: Future<Output = Result<Vec<(IndexName, T)>>>>(
    group: Vec<&'a IndexName>,
    is_of_one: fn(&ElasticError) -> bool,
    ask: impl Fn(Vec<&'a IndexName>) -> F,
) -> Result<Vec<(IndexName, Result<T>)>> {
    let mut found = Vec::with_capacity(group.len());
    let mut open = vec![group];
    while let Some(mut part) = open.pop() {
        match ask(part.clone()).await {
            Ok(answers) => found.extend(answers.into_iter().map(|(name, answer)| (name, Ok(answer)))),
            Err(error) if !is_of_one(&error) => return Err(error),
            Err(error) => {
                if let [name] = part[..] {
                    found.push((name.clone(), Err(error)));
                } else {
                    let rest = part.split_off(part.len() / 2);
                    open.extend([rest, part]);
                }
            }
        }
    }
    Ok(found)
}

async fn ask_groups<'a, T, F: Future<Output = Result<T>>>(
    groups: Vec<Vec<&'a IndexName>>,
    ask: impl Fn(Vec<&'a IndexName>) -> F,
) -> Result<Vec<T>> {
    let requests: Vec<F> = groups.into_iter().map(ask).collect();
    stream::iter(requests).buffered(GROUPS_AT_ONCE).try_collect().await
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn root(version: &str) -> String {
        format!(
            r#"{{"name":"n","cluster_name":"c","cluster_uuid":"u","version":{{"number":"{version}","build_flavor":"default"}},"tagline":"You Know, for Search"}}"#
        )
    }

    #[test]
    fn only_elasticsearch_from_8_11_is_accepted() {
        assert_eq!(identity(root("9.4.3").as_bytes()).unwrap().0, Version::new(9, 4, 3));
        let too_old = identity(root("8.10.4").as_bytes()).unwrap_err();
        assert_eq!(too_old.category(), ErrorCategory::Unsupported);
        assert!(too_old.to_string().contains("8.10.4"));
        let other = r#"{"version":{"number":"2.11.0","distribution":"opensearch"}}"#;
        assert!(identity(other.as_bytes()).unwrap_err().to_string().contains("opensearch"));
        for bad in ["<html>", "{}", "[]", ""] {
            assert_eq!(identity(bad.as_bytes()).unwrap_err().category(), ErrorCategory::Unsupported);
        }
    }

    #[test]
    fn an_answer_that_was_cut_off_says_nothing_about_who_sent_it() {
        let answer = root("9.4.3");
        for end in 1..answer.len() {
            let error = identity(&answer.as_bytes()[..end]).unwrap_err();
            assert_eq!(error.category(), ErrorCategory::BadAnswer, "{end}");
        }
    }

    #[test]
    fn a_node_without_a_cluster_is_waited_for() {
        let answer = root("9.4.3").replace("\"u\"", "\"_na_\"");
        assert!(identity(answer.as_bytes()).unwrap_err().is_transient());
    }

    #[test]
    fn lists_are_split_below_the_request_line_limit_and_keep_every_name() {
        let names: Vec<_> =
            (0..500).map(|n| IndexName::parse(&format!("collection-é-{n}")).unwrap()).collect();
        for most in [usize::MAX, 7] {
            let groups = groups(&names, most);
            assert!(groups.len() > 1);
            assert!(groups.iter().all(|group| encoded_list(group).len() <= MAX_LIST_BYTES));
            assert!(groups.iter().all(|group| group.len() <= most));
            let all: Vec<_> = groups.into_iter().flatten().cloned().collect();
            assert_eq!(all, names);
        }
    }

    #[test]
    fn names_are_encoded_for_a_path() {
        assert_eq!(encoded("a+é%b"), "a%2B%C3%A9%25b");
    }
}
