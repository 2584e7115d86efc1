//! Write blocks: set, certain, lifted.
//!
//! The server sets and lifts them by name, and a name may lead to another index from one moment to the next. So the
//! indices that are meant are told by their uuids too, and what a name leads to is looked at: after a block was set, and
//! right before one is lifted. What is left is the moment between that look and the request.

use std::collections::{BTreeMap, BTreeSet};

use serde::Deserialize;
use serde_json::json;

use super::admin::{ACK_TIMEOUT, settings_call};
use super::call::Call;
use super::catalog::not_concrete;
use super::cluster::{Cluster, by_groups, one_by_one_where_refused, parse};
use super::error::{ElasticError, ErrorCategory, Result};
use super::names::{IndexName, IndexUuid};

const BLOCKING: &str = "block writes";
const UNBLOCKING: &str = "unblock writes";

/// Whether an index refuses writes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WriteBlock {
    /// The index.
    pub uuid: IndexUuid,
    /// Whether writes are refused, by whoever's will.
    pub is_set: bool,
}

#[derive(Deserialize)]
struct Blocked {
    acknowledged: bool,
    shards_acknowledged: bool,
    #[serde(default)]
    indices: Vec<BlockedIndex>,
}

#[derive(Deserialize)]
struct BlockedIndex {
    name: String,
    #[serde(default)]
    blocked: bool,
}

#[derive(Deserialize)]
struct Acknowledged {
    acknowledged: bool,
}

/// The number of the block that refuses writes, among those of an index.
const WRITE_BLOCK: &str = "8";

#[derive(Deserialize)]
struct ClusterState {
    blocks: Blocks,
}

#[derive(Deserialize)]
struct Blocks {
    /// By index and number; absent where there is none.
    #[serde(default)]
    indices: BTreeMap<String, BTreeMap<String, IndexBlock>>,
}

#[derive(Deserialize)]
struct IndexBlock {
    /// Of the request that has begun to set it; absent once it is set.
    uuid: Option<String>,
}

/// Flat settings by concrete index.
type Settings = BTreeMap<String, IndexSettings>;

#[derive(Deserialize)]
struct IndexSettings {
    /// A clone that was made without its original's block has the setting with no value.
    settings: BTreeMap<String, Option<String>>,
}

impl IndexSettings {
    fn text(&self, setting: &str) -> Option<&str> {
        self.settings.get(setting)?.as_deref()
    }

    fn is_true(&self, setting: &str) -> bool {
        self.text(setting) == Some("true")
    }

    fn uuid(&self) -> Option<IndexUuid> {
        self.text("index.uuid").map(|uuid| IndexUuid(uuid.to_owned()))
    }

    fn is_one_of(&self, uuids: &BTreeSet<IndexUuid>) -> bool {
        self.uuid().is_some_and(|uuid| uuids.contains(&uuid))
    }

    fn refuses_writes(&self) -> bool {
        self.is_true("index.blocks.write") || self.is_true("index.blocks.read_only")
    }

    /// Whether the server says that it is blocked and that no write is under way.
    fn is_verified(&self) -> bool {
        self.is_true("index.blocks.write") && self.is_true("index.verified_read_only")
    }
}

/// What a request to block says of one index.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Answer {
    /// Blocked, and the writes under way have ended.
    Certain,
    /// Tried, and a shard did not follow.
    Uncertain,
    /// Not mentioned: a block was there before, by whatever way.
    WasBlocked,
}

impl Blocked {
    fn of(&self, name: &str) -> Answer {
        match self.indices.iter().find(|index| index.name == name) {
            Some(index) if index.blocked && self.acknowledged && self.shards_acknowledged => Answer::Certain,
            Some(_) => Answer::Uncertain,
            None => Answer::WasBlocked,
        }
    }
}

/// The block of an index was neither completed nor lifted.
fn still_refused(name: &IndexName) -> ElasticError {
    let reason =
        format!("the server still refuses writes to {name}, and waits for those that are under way to end");
    ElasticError::new(ErrorCategory::Unavailable, UNBLOCKING, reason)
}

impl Cluster {
    /// Refuses writes to indices from now on, and waits for those under way; returns the indices where that is
    /// certain. Indices that do not exist are not among them, nor are names of indices that have none of `uuids`: a block
    /// that was set on such a one comes off again.
    ///
    /// An index that had a block before counts only if the server has verified that block (it says so from 8.18
    /// on); otherwise the block is taken off and set again, because a block that was set by other means says
    /// nothing of the writes that were under way.
    pub async fn block_writes(
        &self,
        indices: &[IndexName],
        uuids: &BTreeSet<IndexUuid>,
    ) -> Result<BTreeSet<IndexName>> {
        let blocked =
            by_groups(indices, |group| async move { self.block_group(&group, uuids).await }).await?;
        Ok(blocked.into_iter().flatten().collect())
    }

    /// Those of a group that are blocked for certain.
    async fn block_group(&self, group: &[&IndexName], uuids: &BTreeSet<IndexUuid>) -> Result<Vec<IndexName>> {
        let (answer, asked) = self.block(group).await?;
        let of = |name: &str| answer.as_ref().map_or(Answer::Uncertain, |answer| answer.of(name));
        let (found, _) = self.settings_of(BLOCKING, &asked).await?;
        let is_stranger =
            |name: &str, index: &IndexSettings| !index.is_one_of(uuids) && of(name) != Answer::WasBlocked;
        let strangers: Vec<IndexName> = found
            .iter()
            .filter(|(name, index)| is_stranger(name, index))
            .filter_map(|(name, _)| IndexName::parse(name).ok())
            .collect();
        if let Some(name) = self.unblock_group(&strangers.iter().collect::<Vec<_>>()).await?.first() {
            return Err(still_refused(name));
        }
        let mut blocked = Vec::with_capacity(asked.len());
        let mut unverified = Vec::new();
        let mut uncertain = Vec::new();
        for name in asked {
            let Some(index) = found.get(name.as_str()).filter(|index| index.is_one_of(uuids)) else {
                continue;
            };
            match of(name.as_str()) {
                Answer::Certain => blocked.push(name),
                Answer::WasBlocked if index.is_verified() => blocked.push(name),
                Answer::WasBlocked => unverified.push(name),
                Answer::Uncertain => uncertain.push(name),
            }
        }
        self.unblock_group(&unverified).await?;
        let (answer, asked) = self.block(&unverified).await?;
        for name in asked {
            match answer.as_ref().map(|answer| answer.of(name.as_str())) {
                Some(Answer::Certain) => blocked.push(name),
                _ => uncertain.push(name),
            }
        }
        for name in uncertain {
            if self.block_alone(name).await? {
                blocked.push(name);
            }
        }
        Ok(blocked.into_iter().cloned().collect())
    }

    /// Blocks an index for which the answer of its group was not certain.
    async fn block_alone(&self, name: &IndexName) -> Result<bool> {
        let (answer, _) = self.block(&[name]).await?;
        match answer.map(|answer| answer.of(name.as_str())) {
            Some(Answer::Certain) => Ok(true),
            // The request of its group, or one before it that was sent twice, came through after all.
            Some(Answer::WasBlocked) => {
                let (found, _) = self.settings_of(BLOCKING, &[name]).await?;
                Ok(found.get(name.as_str()).is_some_and(IndexSettings::is_verified))
            }
            Some(Answer::Uncertain) | None => Ok(false),
        }
    }

    async fn block<'a>(&self, names: &[&'a IndexName]) -> Result<(Option<Blocked>, Vec<&'a IndexName>)> {
        let call =
            |list: &str| Call::put(BLOCKING, format!("/{list}/_block/write")).with("timeout", ACK_TIMEOUT);
        let (answer, asked) = self.send_for_existing(names, call).await?;
        let answer = answer.map(|answer| parse(BLOCKING, &answer)).transpose()?;
        Ok((answer, asked))
    }

    /// Whether each of the indices refuses writes; those that do not exist are absent.
    pub async fn write_blocks(&self, indices: &[IndexName]) -> Result<BTreeMap<IndexName, WriteBlock>> {
        let found = by_groups(indices, |group| async move { self.blocks_of(&group).await }).await?;
        Ok(found.into_iter().flatten().collect())
    }

    async fn blocks_of(&self, group: &[&IndexName]) -> Result<Vec<(IndexName, WriteBlock)>> {
        let (all, asked) = self.settings_of(BLOCKING, group).await?;
        let mut found = Vec::with_capacity(asked.len());
        for name in asked {
            let index = all.get(name.as_str()).ok_or_else(|| not_concrete(BLOCKING, name))?;
            let uuid = index.uuid().ok_or_else(|| {
                ElasticError::bad_answer(BLOCKING, format!("index `{name}` comes without its uuid"))
            })?;
            found.push((name.clone(), WriteBlock { uuid, is_set: index.refuses_writes() }));
        }
        Ok(found)
    }

    /// What tells of blocks, by the names of the concrete indices that these names lead to; and those that lead to any.
    async fn settings_of<'a>(
        &self,
        doing: &'static str,
        names: &[&'a IndexName],
    ) -> Result<(Settings, Vec<&'a IndexName>)> {
        let call = |list: &str| {
            Call::get(doing, format!("/{list}/_settings/index.blocks.*,index.uuid,index.verified_read_only"))
                .with("flat_settings", "true")
        };
        let (answer, asked) = self.send_for_existing(names, call).await?;
        let found = answer.map(|answer| parse(doing, &answer)).transpose()?;
        Ok((found.unwrap_or_default(), asked))
    }

    /// Allows writes again to those of the indices that have one of `uuids`; what else a name leads to by now, or that it
    /// leads nowhere, is passed over. Returns those of which the server refuses it (a block that forbids changes of
    /// settings, a privilege), and why; they do not hold up the others.
    pub async fn unblock_writes(
        &self,
        indices: &[IndexName],
        uuids: &BTreeSet<IndexUuid>,
    ) -> Result<BTreeMap<IndexName, ElasticError>> {
        let refused = by_groups(indices, |group| self.unblock_what_can_be(group, uuids)).await?;
        Ok(refused.into_iter().flatten().collect())
    }

    async fn unblock_what_can_be(
        &self,
        group: Vec<&IndexName>,
        uuids: &BTreeSet<IndexUuid>,
    ) -> Result<Vec<(IndexName, ElasticError)>> {
        let is_of_one = |error: &ElasticError| {
            matches!(error.category(), ErrorCategory::Forbidden | ErrorCategory::Invalid)
        };
        let unblocked = one_by_one_where_refused(group, is_of_one, |part| async move {
            let refused = self.unblock_meant(&part, uuids).await?;
            Ok(part.into_iter().map(|name| (name.clone(), refused.contains(&name))).collect())
        })
        .await?;
        let refusal = |(name, refused): (IndexName, Result<bool>)| match refused {
            Ok(false) => None,
            Ok(true) => Some((name.clone(), still_refused(&name))),
            Err(error) => Some((name, error)),
        };
        Ok(unblocked.into_iter().filter_map(refusal).collect())
    }

    /// Those that still refuse writes.
    async fn unblock_meant<'a>(
        &self,
        group: &[&'a IndexName],
        uuids: &BTreeSet<IndexUuid>,
    ) -> Result<Vec<&'a IndexName>> {
        let (found, asked) = self.settings_of(UNBLOCKING, group).await?;
        let is_meant =
            |name: &&IndexName| found.get(name.as_str()).is_some_and(|index| index.is_one_of(uuids));
        let meant: Vec<&IndexName> = asked.into_iter().filter(is_meant).collect();
        self.unblock_group(&meant).await
    }

    /// A block that was not verified, as the writes under way did not end in time or a node was lost meanwhile, is none of
    /// the settings yet, and is not lifted with them: it is completed first. Returns those for which that did not succeed, and
    /// which still refuse writes.
    async fn unblock_group<'a>(&self, group: &[&'a IndexName]) -> Result<Vec<&'a IndexName>> {
        let incomplete = self.incomplete_blocks(group).await?;
        if !incomplete.is_empty() {
            self.block(&incomplete).await?;
        }
        let settings = json!({"index.blocks.write": null});
        let call = |list: &str| settings_call(UNBLOCKING, list, &settings);
        let (answer, _) = self.send_for_existing(group, call).await?;
        let is_done = match answer {
            Some(answer) => parse::<Acknowledged>(UNBLOCKING, &answer)?.acknowledged,
            None => true,
        };
        if !is_done {
            let reason = "the server did not acknowledge it in time";
            return Err(ElasticError::new(ErrorCategory::Unavailable, UNBLOCKING, reason));
        }
        self.incomplete_blocks(&incomplete).await
    }

    /// Those of the indices for which the server has begun to refuse writes, and not yet made sure that none is under way.
    async fn incomplete_blocks<'a>(&self, group: &[&'a IndexName]) -> Result<Vec<&'a IndexName>> {
        let call = |list: &str| Call::get(UNBLOCKING, format!("/_cluster/state/blocks/{list}"));
        let (answer, mut asked) = self.send_for_existing(group, call).await?;
        let Some(answer) = answer else { return Ok(Vec::new()) };
        let state: ClusterState = parse(UNBLOCKING, &answer)?;
        let is_incomplete = |name: &IndexName| {
            let blocks = state.blocks.indices.get(name.as_str());
            blocks.and_then(|blocks| blocks.get(WRITE_BLOCK)).is_some_and(|block| block.uuid.is_some())
        };
        asked.retain(|name| is_incomplete(name));
        Ok(asked)
    }
}
