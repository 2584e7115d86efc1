//! Changing an index: creation, settings, mapping, aliases, flush and forced merges.
//!
//! Everything here may be done again: what is already so is an answer, not an error. A change that the server did
//! not acknowledge in time is [`ErrorCategory::Unavailable`].

use std::time::Duration;

use serde::Deserialize;
use serde_json::{Map, Value, json};

use super::call::Call;
use super::catalog::{check_broadcast, not_concrete};
use super::cluster::{Cluster, by_groups, encoded, encoded_list};
use super::error::{ElasticError, ErrorCategory, Result};
use super::names::IndexName;
use super::retry::RetryPolicy;

const CREATING: &str = "create an index";
const DELETING: &str = "delete an index";
const SETTING: &str = "change index settings";
const MAPPING: &str = "change a mapping";
const READING: &str = "read settings or a mapping";
const ALIASING: &str = "change aliases";
const FLUSHING: &str = "flush";
const MERGING: &str = "merge segments";
const CHECKING: &str = "ask for the health of an index";
const COUNTING: &str = "ask how many more shards fit";

/// How long the server waits for its nodes to take a change.
pub(super) const ACK_TIMEOUT: &str = "30s";
/// How long a change may wait for a master: one that must not be done late is then given up by the server.
const MASTER_TIMEOUT: &str = "5s";

/// The health of an index.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Health {
    /// Every copy of every shard is active.
    Green,
    /// Every primary is active, but not every replica.
    Yellow,
    /// A shard has no active primary.
    Red,
}

/// The health of an index, and how many nodes could hold copies of its shards.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
pub struct HealthReport {
    /// The worst of its shards.
    pub status: Health,
    /// Data nodes of the cluster.
    #[serde(rename = "number_of_data_nodes")]
    pub data_nodes: u64,
}

/// How many shards the data nodes hold, and how many they take together; the server tells it where few more fit.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
pub struct ShardCapacity {
    /// Shards of all indices, replicas too.
    #[serde(rename = "current_used_shards")]
    pub used: u64,
    /// `cluster.max_shards_per_node` times the number of data nodes.
    #[serde(rename = "max_shards_in_cluster")]
    pub most: u64,
}

impl ShardCapacity {
    /// How many more the server lets an index have.
    #[must_use]
    pub fn room(&self) -> u64 {
        self.most.saturating_sub(self.used)
    }
}

/// What a forced merge aims at, and how long its call may take.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ForceMerge {
    /// At most this many segments in each shard.
    MaxSegments {
        /// Number of segments, at least 1.
        segments: u32,
        /// Time limit of the call; the merge itself has none.
        limit: Duration,
    },
    /// No deleted chunks left in segments that hold more of them than the policy allows.
    ExpungeDeletes {
        /// Time limit of the call; the merge itself has none.
        limit: Duration,
    },
}

#[derive(Deserialize)]
struct Created {
    acknowledged: bool,
    shards_acknowledged: bool,
}

impl Cluster {
    /// Creates an index and waits for its primaries; `false`: it exists already, however it looks.
    ///
    /// If the answer was lost and the request sent again, an index that this call created is reported as existing.
    pub async fn create_index(&self, name: &IndexName, body: &Value) -> Result<bool> {
        let call = Call::put(CREATING, path(name, ""))
            .with("wait_for_active_shards", "1")
            .with("timeout", ACK_TIMEOUT)
            .json(body);
        let created: Created = match self.ask(&call).await {
            Err(error) if error.kind() == Some("resource_already_exists_exception") => return Ok(false),
            answer => answer?,
        };
        if created.acknowledged && created.shards_acknowledged {
            return Ok(true);
        }
        let reason = format!("index `{name}` was created, but its primaries are not active yet");
        Err(ElasticError::new(ErrorCategory::Unavailable, CREATING, reason))
    }

    /// Deletes an index; `false`: there was none.
    pub async fn delete_index(&self, name: &IndexName) -> Result<bool> {
        let call = Call::new(DELETING, elasticsearch::http::Method::Delete, path(name, ""));
        match self.command(&call).await {
            Err(error) if error.is_missing_index() => Ok(false),
            answer => answer.map(|()| true),
        }
    }

    /// Deletes that concrete index, by one request that is sent once; `false`: there was none.
    ///
    /// For an index about which something was made sure of just before: elsewhere a request may be sent again much
    /// later, when the name may mean another index. An alias or a pattern is refused by the server.
    pub async fn delete_index_at_once(&self, name: &IndexName) -> Result<bool> {
        let call = Call::new(DELETING, elasticsearch::http::Method::Delete, path(name, ""))
            .with("expand_wildcards", "none")
            .with("master_timeout", MASTER_TIMEOUT)
            .with("timeout", ACK_TIMEOUT)
            .policy(RetryPolicy::once());
        match self.command(&call).await {
            Err(error) if error.is_missing_index() => Ok(false),
            answer => answer.map(|()| true),
        }
    }

    /// Changes dynamic settings of indices, all of which must exist.
    pub async fn put_settings(&self, indices: &[IndexName], settings: &Value) -> Result<()> {
        by_groups(indices, |group| async move {
            self.command(&settings_call(SETTING, &encoded_list(&group), settings)).await
        })
        .await
        .map(drop)
    }

    /// Adds to or changes a mapping.
    pub async fn put_mapping(&self, name: &IndexName, body: &Value) -> Result<()> {
        let call = Call::put(MAPPING, path(name, "/_mapping")).with("timeout", ACK_TIMEOUT).json(body);
        self.command(&call).await
    }

    /// The mapping: `properties` and its siblings.
    pub async fn mapping(&self, name: &IndexName) -> Result<Value> {
        let call = Call::get(READING, path(name, "/_mapping"));
        self.part(&call, name, "mappings").await
    }

    /// The settings that were set explicitly, flat.
    pub async fn settings(&self, name: &IndexName) -> Result<Value> {
        let call = Call::get(READING, path(name, "/_settings")).with("flat_settings", "true");
        self.part(&call, name, "settings").await
    }

    async fn part(&self, call: &Call, name: &IndexName, part: &str) -> Result<Value> {
        let mut answer: Map<String, Value> = self.ask(call).await?;
        let index = answer.get_mut(name.as_str()).ok_or_else(|| not_concrete(call.doing, name))?;
        match index.get_mut(part) {
            Some(value) => Ok(value.take()),
            None => Err(ElasticError::bad_answer(call.doing, format!("index `{name}` comes without {part}"))),
        }
    }

    /// Changes aliases at once, by the server's `actions`.
    pub async fn update_aliases(&self, actions: &Value) -> Result<()> {
        let call = Call::post(ALIASING, "/_aliases")
            .with("timeout", ACK_TIMEOUT)
            .json(&json!({"actions": actions}))
            .only_if_refused();
        self.command(&call).await
    }

    /// Commits everything written so far to disk.
    pub async fn flush(&self, name: &IndexName) -> Result<()> {
        let call = Call::post(FLUSHING, path(name, "/_flush"));
        check_broadcast(FLUSHING, &self.send(&call).await?, 1).map(drop)
    }

    /// Merges segments; `false`: the time limit of the call ran out, and the merge goes on in the server.
    pub async fn force_merge(&self, name: &IndexName, options: ForceMerge) -> Result<bool> {
        let call = Call::post(MERGING, path(name, "/_forcemerge")).policy(RetryPolicy::once());
        let (call, limit) = match options {
            ForceMerge::MaxSegments { segments, limit } => {
                (call.with("max_num_segments", segments.max(1).to_string()), limit)
            }
            ForceMerge::ExpungeDeletes { limit } => (call.with("only_expunge_deletes", "true"), limit),
        };
        match self.send(&call.timeout(limit)).await {
            Ok(answer) => check_broadcast(MERGING, &answer, 1).map(|_| true),
            Err(error) if error.is_own_timeout() => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// The health of an index.
    pub async fn health(&self, name: &IndexName) -> Result<HealthReport> {
        let call = Call::get(CHECKING, format!("/_cluster/health/{}", encoded(name.as_str())))
            .with("timeout", "1s")
            .with("filter_path", "status,number_of_data_nodes");
        match self.ask(&call).await {
            // The server waits for an index that does not exist; this says that it does not.
            Err(error) if error.status() == Some(408) => {
                self.settings(name).await?;
                Err(error)
            }
            answer => answer,
        }
    }

    /// How many shards there are and may be, where few more fit. `None` where there is room for ten more at least, or the
    /// server does not tell.
    pub async fn scarce_shards(&self) -> Result<Option<ShardCapacity>> {
        let call = Call::get(COUNTING, "/_health_report/shards_capacity")
            .with("filter_path", "indicators.shards_capacity.details.data");
        match self.ask::<Value>(&call).await {
            Ok(answer) => {
                let data = answer.pointer("/indicators/shards_capacity/details/data");
                Ok(data.and_then(|data| ShardCapacity::deserialize(data).ok()))
            }
            // Whoever may not ask, or asks a service that has no such report, is told by the creation.
            Err(error)
                if matches!(
                    error.category(),
                    ErrorCategory::Forbidden | ErrorCategory::NotFound | ErrorCategory::Invalid
                ) =>
            {
                Ok(None)
            }
            Err(error) => Err(error),
        }
    }
}

fn path(name: &IndexName, rest: &str) -> String {
    format!("/{}{rest}", encoded(name.as_str()))
}

pub(super) fn settings_call(doing: &'static str, list: &str, settings: &Value) -> Call {
    Call::put(doing, format!("/{list}/_settings")).with("timeout", ACK_TIMEOUT).json(settings)
}
