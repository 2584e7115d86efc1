//! One merge: a database, a range of collection ids, a destination; how programs reach its servers, and what the
//! checker thinks of it.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use demo::checker::{self, Contract, Verdict};
use demo::cluster::Cluster;
use demo::seed::tables::{Naming, Tables};
use demo::seed::{odd, writer};
use serde_json::{Value, json};
use sqlx::PgPool;
use sqlx::postgres::PgPoolOptions;
use testenv::elasticsearch::Elasticsearch;
use testenv::postgres::{Database, Postgres};
use testenv::proxy::{ElasticProxy, PostgresProxy};

use crate::parts;

/// How often the stored phase is asked for.
const LOOK: Duration = Duration::from_millis(100);
/// Ids of one merge.
const RANGE: i64 = 4_000;
/// When the step began in which the merge looked for the last time which sources there are, in microseconds.
const LAST_LOOK: &str =
    "SELECT floor(extract(epoch FROM (memo->'cutover'->>'stood_at')::timestamptz) * 1000000)::bigint
     FROM es_index_merge.merge";

/// A merge on servers that others may share, each with ids of its own.
pub struct Merge<'a> {
    /// The servers.
    pub source: &'a Elasticsearch,
    /// The servers.
    pub destination: &'a Elasticsearch,
    /// The independent client's connection to the source.
    pub source_client: Cluster,
    /// The independent client's connection to the destination.
    pub destination_client: Cluster,
    /// The first collection's id.
    pub first_id: i64,
    /// The destination index.
    pub index: String,
    database: Database,
    pool: PgPool,
}

/// Through what a program reaches the servers.
#[derive(Debug)]
pub struct Ways {
    /// To the source; all programs of a merge share it, as the source's address is part of what a merge is.
    pub source: Arc<ElasticProxy>,
    /// To the destination.
    pub destination: ElasticProxy,
    /// To the database, for collections and state alike.
    pub postgres: PostgresProxy,
}

/// What differs between the manifests of a merge.
#[derive(Debug, Clone)]
pub struct Tuning {
    /// Stay `Synced`.
    pub hold: bool,
    /// `workers.maxDocumentsPerSecond` of each process.
    pub documents_per_second: Option<u32>,
    /// `cutover.timeout`.
    pub cutover_timeout: Duration,
    /// `cutover.maxLag`.
    pub max_lag: Duration,
    /// `workers.concurrency`.
    pub concurrency: u32,
    /// `destination.index.numberOfReplicas`.
    pub replicas: u32,
}

impl Default for Tuning {
    fn default() -> Self {
        Self {
            hold: false,
            documents_per_second: None,
            cutover_timeout: Duration::from_mins(2),
            max_lag: Duration::from_secs(5),
            concurrency: 2,
            replicas: 0,
        }
    }
}

/// Size of the vectors.
pub const DIMENSIONS: usize = 8;

impl<'a> Merge<'a> {
    /// A new one, with an empty database; `number` tells it from others on the same servers.
    pub async fn new(
        source: &'a Elasticsearch,
        destination: &'a Elasticsearch,
        postgres: &Postgres,
        number: i64,
    ) -> Result<Self> {
        let database = postgres.database()?;
        let first_id = 1_000 + number * RANGE;
        Ok(Self {
            source_client: parts::client(source).await?,
            destination_client: parts::client(destination).await?,
            pool: PgPoolOptions::new()
                .max_connections(4)
                .acquire_timeout(Duration::from_mins(1))
                .connect(&database.url)
                .await?,
            first_id,
            index: format!("merged-{first_id}"),
            source,
            destination,
            database,
        })
    }

    /// Fills the source with odd data.
    pub async fn fill(&self, options: &odd::Options) -> Result<odd::Model> {
        let options = odd::Options {
            dimensions: DIMENSIONS,
            first_collection: self.first_id,
            first_document: self.first_id,
            ..options.clone()
        };
        odd::fill(&self.source_client, &self.pool, &options).await
    }

    /// Lets an application write that endures outages, into collections of its own.
    #[must_use]
    pub fn write(&self, seed: u64, per_second: u32) -> writer::Writer {
        let options = writer::Options {
            seed,
            dimensions: DIMENSIONS,
            per_second,
            first_collection: self.first_id + RANGE / 2,
            first_document: self.first_id + RANGE / 2,
            collections: 5,
            outages: writer::Outages::Endure,
        };
        let tables = Tables::existing(&self.pool, Naming::Created);
        writer::Writer::start(self.source_client.clone(), tables, options)
    }

    /// New ways to the servers, which spoil nothing yet.
    pub fn ways(&self, seed: u64) -> Result<Ways> {
        let source = Arc::new(ElasticProxy::start(&self.source.url, seed)?);
        self.ways_beside(&source, seed)
    }

    /// The ways of a further program of the merge.
    pub fn ways_beside(&self, source: &Arc<ElasticProxy>, seed: u64) -> Result<Ways> {
        Ok(Ways {
            source: Arc::clone(source),
            destination: ElasticProxy::start(&self.destination.url, seed ^ 0x5eed)?,
            postgres: PostgresProxy::start(&self.database.url)?,
        })
    }

    /// The manifest, with its secrets, of a program that goes these ways.
    #[must_use]
    pub fn manifest(&self, ways: &Ways, tuning: &Tuning) -> String {
        let secrets = [
            ("postgres", json!({"url": ways.postgres.url()})),
            ("source", login(self.source)),
            ("destination", login(self.destination)),
        ]
        .map(|(name, content)| {
            json!({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": name}, "stringData": content})
        });
        let merge = json!({
            "apiVersion": "indexmerge.dev/v1alpha1",
            "kind": "EsIndexMerge",
            "metadata": {"name": "chaos"},
            "spec": {
                "collections": {"postgres": {"urlSecretRef": {"name": "postgres", "key": "url"}}},
                "source": {"url": ways.source.url(), "credentialsSecretRef": {"name": "source"}},
                "destination": {
                    "url": ways.destination.url(),
                    "credentialsSecretRef": {"name": "destination"},
                    "index": {
                        "name": self.index, "numberOfShards": 2, "numberOfReplicas": tuning.replicas,
                        "language": "french", "vectorSize": DIMENSIONS
                    }
                },
                "contract": "OpenGateLLM",
                "workers": {
                    "concurrency": tuning.concurrency,
                    "maxBytesInFlight": "1Mi",
                    "maxDocumentsPerSecond": tuning.documents_per_second
                },
                "cutover": {
                    "hold": tuning.hold, "sourceWrites": "Block",
                    "maxLag": format!("{}s", tuning.max_lag.as_secs()),
                    "timeout": format!("{}s", tuning.cutover_timeout.as_secs())
                }
            }
        });
        let documents: Vec<String> = secrets.iter().chain([&merge]).map(ToString::to_string).collect();
        documents.join("\n---\n")
    }

    /// The stored phase, as soon as there is one.
    pub async fn phase(&self) -> Result<Option<String>> {
        let exists: bool = sqlx::query_scalar("SELECT to_regclass('es_index_merge.merge') IS NOT NULL")
            .fetch_one(&self.pool)
            .await?;
        if !exists {
            return Ok(None);
        }
        Ok(sqlx::query_scalar("SELECT phase FROM es_index_merge.merge").fetch_optional(&self.pool).await?)
    }

    /// Waits until the stored phase is one of these.
    pub async fn reaches(&self, phases: &[&str], limit: Duration) -> Result<String> {
        let deadline = Instant::now() + limit;
        loop {
            // An outage is nothing to stop at: the phase is asked for again.
            let phase = self.phase().await.ok().flatten();
            if let Some(phase) = phase.as_deref().filter(|phase| phases.contains(phase)) {
                return Ok(phase.to_owned());
            }
            if Instant::now() > deadline {
                bail!("{phases:?} was not reached within {} s, the phase is {phase:?}", limit.as_secs());
            }
            tokio::time::sleep(LOOK).await;
        }
    }

    /// One number from the database.
    pub async fn number(&self, query: &'static str) -> Result<i64> {
        Ok(sqlx::query_scalar(query).fetch_one(&self.pool).await?)
    }

    /// The independent verdict over what [`Merge::fill`] and the live writer left behind. A collection that the merge
    /// forgot, or whose index is gone, is an error: neither side would show it.
    pub async fn check(&self, filled: &odd::Model, written: &writer::Counts) -> Result<Verdict> {
        let judged: Vec<i64> =
            sqlx::query_scalar("SELECT collection_id FROM es_index_merge.collection_verdict")
                .fetch_all(&self.pool)
                .await?;
        if judged.is_empty() {
            bail!("the merge judged no collection");
        }
        let due = self.due(filled, written).await?;
        let forgotten: Vec<i64> = due.iter().copied().filter(|id| !judged.contains(id)).collect();
        if !forgotten.is_empty() {
            bail!("the merge is complete and has no verdict on the collections {forgotten:?}");
        }
        let there = self.source_indices().await?;
        let gone: Vec<i64> = due.difference(&there).copied().collect();
        if !gone.is_empty() {
            bail!("nobody deleted the indices of the collections {gone:?}, and they are gone");
        }
        let options = checker::Options {
            index: self.index.clone(),
            contract: Contract::OpenGateLLM,
            dimensions: DIMENSIONS,
            include: judged,
            exclude: Vec::new(),
        };
        checker::check(&self.source_client, &self.destination_client, &self.pool, &options).await
    }

    /// The collections that the verdict must speak of, by those who made them. Rightly out of it may be
    ///
    /// - one without an index: there is nothing to bring over;
    /// - one that the writer began to delete;
    /// - one that the writer made after the merge had looked which sources there are. No block keeps an application from
    ///   making an index. The merge looks for the last time in the step that stores `stood_at`, which is when that step
    ///   began; the writer's time of a collection is from after its row and its index were acknowledged, by the same
    ///   machine's clock. So what is older than `stood_at` was there for that look; what is younger may have been seen
    ///   or not, and counts if it was judged;
    /// - one whose creation failed, of which nobody knows whether it is there. It is treated in the same way.
    async fn due(&self, filled: &odd::Model, written: &writer::Counts) -> Result<BTreeSet<i64>> {
        let stood_at: Option<i64> = sqlx::query_scalar(LAST_LOOK).fetch_one(&self.pool).await?;
        let last_look = stood_at.context("the merge never looked whether its sources stand still")?;
        let made_before =
            written.standing.iter().filter(|(_, made)| made.as_microsecond() < last_look).map(|(&id, _)| id);
        Ok(filled.with_index().chain(made_before).collect())
    }

    /// The ids of this merge that are names of an index in the source.
    async fn source_indices(&self) -> Result<BTreeSet<i64>> {
        let listed = self.source_client.list("/_resolve/index/*?expand_wildcards=all").await?;
        let range = self.first_id..self.first_id + RANGE;
        let names = listed["indices"].as_array().context("no indices")?.iter();
        let ids = names.filter_map(|index| index["name"].as_str()?.parse::<i64>().ok());
        Ok(ids.filter(|id| range.contains(id)).collect())
    }

    /// Any index of the odd data with at least that many chunks.
    pub async fn large_source(&self) -> Result<String> {
        let stats = self.source_client.list("/_stats/docs").await?;
        let count = |index: &Value| index["primaries"]["docs"]["count"].as_u64().unwrap_or(0);
        let range = self.first_id..self.first_id + RANGE / 2;
        let indices = stats["indices"].as_object().context("no indices")?;
        indices
            .iter()
            .filter(|(name, _)| name.parse().is_ok_and(|id: i64| range.contains(&id)))
            .max_by_key(|(_, index)| count(index))
            .map(|(name, _)| name.clone())
            .context("no source")
    }

    /// Removes the indices of this merge from servers that go on.
    pub async fn clean(&self) -> Result<()> {
        self.destination_client.delete_index(&self.index).await?;
        for id in self.source_indices().await? {
            self.source_client.delete_index(&id.to_string()).await?;
        }
        Ok(())
    }

    /// The database pool, for changes that no writer makes.
    #[must_use]
    pub fn pool(&self) -> &PgPool {
        &self.pool
    }
}

impl Ways {
    /// Nothing is spoiled any more.
    pub fn clear(&self) {
        self.source.clear();
        self.destination.clear();
        self.postgres.clear();
    }
}

fn login(server: &Elasticsearch) -> Value {
    json!({"username": server.username, "password": server.password})
}
