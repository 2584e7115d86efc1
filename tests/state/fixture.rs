//! A merge in a fresh database, and builders for what belongs to it.

use std::time::Duration;

use es_index_merge::state::{
    Advance, Claim, Counts, LeasedUnit, MergeId, NewMerge, NewSource, QuarantineFilter, Quarantined,
    QuarantinedRow, ShardTarget, SourceId, State, UnitKind,
};

use crate::support::Database;

pub const LEASE: Duration = Duration::from_mins(1);
pub const SCHEMA: &str = "merge_state";

pub struct Fixture {
    pub database: Database,
    pub state: State,
    pub merge: MergeId,
}

impl Fixture {
    pub async fn new() -> Self {
        let database = Database::new().await;
        let state = State::connect(&database.url(), SCHEMA).await.unwrap();
        let merge = claimed(&state, "shop/albert", "opengatellm").await;
        Self { database, state, merge }
    }

    /// A source with one shard for each of these collections.
    pub async fn sources(&self, collections: impl IntoIterator<Item = i64>) -> Vec<SourceId> {
        let found: Vec<NewSource> = collections.into_iter().map(source).collect();
        let rows = self.state.upsert_sources(self.merge, &found).await.unwrap();
        let wanted = |id: i64| found.iter().any(|new| new.collection_id == id);
        rows.into_iter().filter(|row| wanted(row.collection_id)).map(|row| row.id).collect()
    }

    pub async fn plan(&self, kind: UnitKind, targets: &[ShardTarget], split: i64) -> u64 {
        self.state.plan_units(self.merge, kind, 0, targets, split).await.unwrap()
    }

    /// One source with one copy unit `[0, to)`.
    pub async fn one_unit(&self, to: i64) -> SourceId {
        let sources = self.sources([1]).await;
        assert_eq!(self.plan(UnitKind::Copy, &[target(sources[0], to)], 1_000_000).await, 1);
        sources[0]
    }

    pub async fn lease(&self, worker: &str) -> Vec<LeasedUnit> {
        self.state.lease_units(self.merge, UnitKind::Copy, worker, LEASE, 1_000, 1_000_000).await.unwrap()
    }

    /// What is in quarantine, ordered by collection and chunk.
    pub async fn quarantine(&self, filter: &QuarantineFilter) -> Vec<QuarantinedRow> {
        self.state.quarantine_page(self.merge, filter, None, 10_000).await.unwrap()
    }

    /// Lets every lease and every wait run out, as the passing of time would.
    pub async fn let_leases_expire(&self) {
        self.sql("UPDATE unit SET available_at = '-infinity'").await;
    }

    /// Runs statements in the schema.
    pub async fn sql(&self, statements: &str) {
        self.database.run(&format!("SET search_path = {SCHEMA}; {statements}")).await;
    }
}

pub async fn claimed(state: &State, owner: &str, index: &str) -> MergeId {
    match state.claim(&new_merge(owner, index)).await.unwrap() {
        Claim::Ours(row) => row.id,
        other => panic!("{other:?}"),
    }
}

pub fn new_merge(owner: &str, index: &str) -> NewMerge {
    NewMerge {
        owner: owner.to_owned(),
        destination_cluster: "cluster-uuid".to_owned(),
        destination_index: index.to_owned(),
        identity: "identity".to_owned(),
    }
}

pub fn source(collection_id: i64) -> NewSource {
    NewSource {
        collection_id,
        index_name: collection_id.to_string(),
        index_uuid: format!("uuid-{collection_id}"),
        shards: 1,
        documents: 10,
        bytes: 1_000,
    }
}

pub fn target(source: SourceId, to: i64) -> ShardTarget {
    ShardTarget {
        source,
        shard: 0,
        history_uuid: "history".to_owned(),
        to,
        estimated_documents: to,
        is_new: true,
    }
}

/// The next `positions` of a leased unit, one chunk each.
pub fn advance(unit: &LeasedUnit, positions: i64) -> Advance {
    let to = (unit.cursor + positions).min(unit.to);
    let counts = Counts { documents: to - unit.cursor, ..Counts::default() };
    Advance { unit: unit.id, epoch: unit.epoch, from: unit.cursor, to, counts }
}

pub fn quarantined(unit: &LeasedUnit, seq_no: i64) -> Quarantined {
    Quarantined {
        unit: unit.id,
        source: unit.source,
        shard: unit.shard,
        collection_id: unit.collection_id,
        chunk_id: format!("chunk-{seq_no}"),
        destination_id: None,
        seq_no,
        class: "vector".to_owned(),
        reason: "the vector has 3 of 1024 elements".to_owned(),
        original: format!("{{\"id\":{seq_no}}}").into_bytes(),
    }
}
