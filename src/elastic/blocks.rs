//! Write blocks: set, certain, lifted.

use std::collections::{BTreeMap, BTreeSet};

use serde::Deserialize;
use serde_json::json;

use super::admin::{ACK_TIMEOUT, settings_call};
use super::call::Call;
use super::catalog::not_concrete;
use super::cluster::{Cluster, by_groups, parse};
use super::error::{ElasticError, ErrorCategory, Result};
use super::names::IndexName;

const BLOCKING: &str = "block writes";
const UNBLOCKING: &str = "unblock writes";

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

/// Flat settings by index.
type Settings = BTreeMap<String, IndexSettings>;

#[derive(Deserialize)]
struct IndexSettings {
    /// A clone that was made without its original's block has the setting with no value.
    settings: BTreeMap<String, Option<String>>,
}

impl IndexSettings {
    fn is_true(&self, setting: &str) -> bool {
        self.settings.get(setting).and_then(Option::as_deref) == Some("true")
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
    fn of(&self, name: &IndexName) -> Answer {
        match self.indices.iter().find(|index| index.name == name.as_str()) {
            Some(index) if index.blocked && self.acknowledged && self.shards_acknowledged => Answer::Certain,
            Some(_) => Answer::Uncertain,
            None => Answer::WasBlocked,
        }
    }
}

impl Cluster {
    /// Refuses writes to indices from now on, and waits for those under way; returns the indices where that is
    /// certain. Indices that do not exist are not among them.
    ///
    /// An index that had a block before counts only if the server has verified that block (it says so from 8.18
    /// on); otherwise the block is taken off and set again, because a block that was set by other means says
    /// nothing of the writes that were under way.
    pub async fn block_writes(&self, indices: &[IndexName]) -> Result<BTreeSet<IndexName>> {
        let blocked = by_groups(indices, |group| async move { self.block_group(&group).await }).await?;
        Ok(blocked.into_iter().flatten().collect())
    }

    /// Those of a group that are blocked for certain.
    async fn block_group(&self, group: &[&IndexName]) -> Result<Vec<IndexName>> {
        let (answer, asked) = self.block(group).await?;
        let of = |name: &IndexName| answer.as_ref().map_or(Answer::Uncertain, |answer| answer.of(name));
        let were_blocked: Vec<&IndexName> =
            asked.iter().filter(|name| of(name) == Answer::WasBlocked).copied().collect();
        let verified = self.verified(&were_blocked).await?;
        let mut blocked = Vec::with_capacity(asked.len());
        for name in asked {
            let is_certain = of(name) == Answer::Certain || verified.contains(name);
            if is_certain || self.block_alone(name, of(name)).await? {
                blocked.push(name.clone());
            }
        }
        Ok(blocked)
    }

    /// Blocks an index for which the answer of its group was not certain.
    async fn block_alone(&self, name: &IndexName, of_group: Answer) -> Result<bool> {
        if of_group == Answer::WasBlocked {
            self.unblock_group(&[name]).await?;
        }
        let (answer, _) = self.block(&[name]).await?;
        match answer.map(|answer| answer.of(name)) {
            Some(Answer::Certain) => Ok(true),
            // The request of its group, or one before it that was sent twice, came through after all.
            Some(Answer::WasBlocked) => Ok(self.verified(&[name]).await?.contains(name)),
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

    /// Whether each of the indices refuses writes, by whoever's will; those that do not exist are absent.
    pub async fn write_blocks(&self, indices: &[IndexName]) -> Result<BTreeMap<IndexName, bool>> {
        let found = by_groups(indices, |group| async move { self.blocks_of(&group).await }).await?;
        Ok(found.into_iter().flatten().collect())
    }

    async fn blocks_of(&self, group: &[&IndexName]) -> Result<Vec<(IndexName, bool)>> {
        let call = |list: &str| {
            Call::get(BLOCKING, format!("/{list}/_settings/index.blocks.*,index.uuid"))
                .with("flat_settings", "true")
        };
        let (answer, asked) = self.send_for_existing(group, call).await?;
        let Some(answer) = answer else { return Ok(Vec::new()) };
        let all: Settings = parse(BLOCKING, &answer)?;
        let mut found = Vec::with_capacity(asked.len());
        for name in asked {
            let index = all.get(name.as_str()).ok_or_else(|| not_concrete(BLOCKING, name))?;
            let is_blocked = index.is_true("index.blocks.write") || index.is_true("index.blocks.read_only");
            found.push((name.clone(), is_blocked));
        }
        Ok(found)
    }

    /// Those of the indices of which the server says that they are blocked and that no write is under way.
    async fn verified(&self, names: &[&IndexName]) -> Result<BTreeSet<IndexName>> {
        if names.is_empty() {
            return Ok(BTreeSet::new());
        }
        let call = |list: &str| {
            Call::get(BLOCKING, format!("/{list}/_settings/index.blocks.write,index.verified_read_only"))
                .with("flat_settings", "true")
        };
        let (answer, asked) = self.send_for_existing(names, call).await?;
        let Some(answer) = answer else { return Ok(BTreeSet::new()) };
        let all: Settings = parse(BLOCKING, &answer)?;
        let is_verified = |name: &&IndexName| {
            all.get(name.as_str()).is_some_and(|index| {
                index.is_true("index.blocks.write") && index.is_true("index.verified_read_only")
            })
        };
        Ok(asked.into_iter().filter(is_verified).cloned().collect())
    }

    /// Allows writes again; indices that do not exist are passed over. Returns those of which the server refuses it (a
    /// block that forbids changes of settings, a privilege), and why; they do not hold up the others.
    pub async fn unblock_writes(&self, indices: &[IndexName]) -> Result<BTreeMap<IndexName, ElasticError>> {
        let refused =
            by_groups(indices, |group| async move { self.unblock_what_can_be(&group).await }).await?;
        Ok(refused.into_iter().flatten().collect())
    }

    async fn unblock_what_can_be(&self, group: &[&IndexName]) -> Result<Vec<(IndexName, ElasticError)>> {
        let is_of_one = |error: &ElasticError| {
            matches!(error.category(), ErrorCategory::Forbidden | ErrorCategory::Invalid)
        };
        match self.unblock_group(group).await {
            Ok(()) => return Ok(Vec::new()),
            // One of the list is enough for that.
            Err(error) if is_of_one(&error) => {}
            Err(error) => return Err(error),
        }
        let mut refused = Vec::new();
        for &name in group {
            match self.unblock_group(&[name]).await {
                Ok(()) => {}
                Err(error) if is_of_one(&error) => refused.push((name.clone(), error)),
                Err(error) => return Err(error),
            }
        }
        Ok(refused)
    }

    async fn unblock_group(&self, group: &[&IndexName]) -> Result<()> {
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
        Ok(())
    }
}
