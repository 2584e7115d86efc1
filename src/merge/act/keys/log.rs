//! The log of one source, as the comparison of keys reads it.

use std::collections::BTreeMap;

use crate::elastic::{
    ElasticError, ErrorCategory, Hit, IndexName, MAX_WINDOW, Page, PlacesRequest, PrimaryStats, ReadLane,
    SeqNo, ShardNumber, WindowRequest,
};
use crate::merge::act::sources::index_name;
use crate::merge::engine::Engine;
use crate::merge::error::MergeError;
use crate::state::SourceRow;

/// Windows read with one request.
pub(super) const WINDOWS: usize = 8;

/// Why a comparison comes to no end.
#[derive(Debug, thiserror::Error)]
pub(super) enum Halt {
    /// The index cannot be read now, is another one, or does not end what is under way: the next resolve finds out what is
    /// the matter with it.
    #[error("the index cannot be read now")]
    Unreadable,
    #[error(transparent)]
    Failed(Box<MergeError>),
}

impl From<MergeError> for Halt {
    fn from(error: MergeError) -> Self {
        Self::Failed(Box::new(error))
    }
}

/// Where the log of each shard ends, and which history it is. What is below is on every copy, and visible after the
/// refresh that followed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Ends(BTreeMap<ShardNumber, End>);

#[derive(Debug, Clone, PartialEq, Eq)]
struct End {
    history_uuid: String,
    to: SeqNo,
    /// The end of what is under way.
    under_way: SeqNo,
}

/// A part of the log of a shard: from, to (exclusive).
type Window = (ShardNumber, SeqNo, SeqNo);

impl Ends {
    /// According to statistics of a source's index; `None` if they are of another one.
    pub fn of(source: &SourceRow, shards: &[PrimaryStats]) -> Option<Ends> {
        let end = |shard: &PrimaryStats| {
            let (to, under_way) = (shard.global_checkpoint + 1, shard.max_seq_no + 1);
            (shard.shard, End { history_uuid: shard.history_uuid.clone(), to, under_way })
        };
        let is_the_same = shards.iter().all(|shard| shard.index_uuid.0 == source.index_uuid);
        is_the_same.then(|| Ends(shards.iter().map(end).collect()))
    }

    /// Whether the log of a shard is of that history.
    pub fn is_of(&self, shard: ShardNumber, history_uuid: &str) -> bool {
        self.0.get(&shard).is_some_and(|end| end.history_uuid == history_uuid)
    }

    /// Whether every log is still the one that it was.
    pub fn goes_on(&self, now: &Ends) -> bool {
        self.0.len() == now.0.len() && self.0.iter().all(|(&shard, end)| now.is_of(shard, &end.history_uuid))
    }

    /// Whether all is done that was under way then, or is not under way any more: a new primary may not know of it.
    pub fn reach(&self, then: &Ends) -> bool {
        then.0.iter().all(|(shard, end)| {
            self.0.get(shard).is_some_and(|now| now.to >= end.under_way.min(now.under_way))
        })
    }

    /// Nothing that was read is read again, though a new primary may know of less.
    pub fn raise_to(&mut self, now: &Ends) {
        for (shard, end) in &mut self.0 {
            end.to = end.to.max(now.0.get(shard).map_or(0, |now| now.to));
        }
    }

    /// The windows from the beginning, or from former ends, up to these.
    pub fn windows(&self, since: Option<&Ends>) -> Vec<Window> {
        let mut windows = Vec::new();
        for (&shard, end) in &self.0 {
            let mut from = since.and_then(|since| since.0.get(&shard)).map_or(0, |before| before.to);
            while from < end.to {
                let to = end.to.min(from + MAX_WINDOW);
                windows.push((shard, from, to));
                from = to;
            }
        }
        windows
    }
}

pub(super) struct Log<'a> {
    engine: &'a Engine,
    source: &'a SourceRow,
    name: IndexName,
}

impl<'a> Log<'a> {
    pub fn new(engine: &'a Engine, source: &'a SourceRow) -> Result<Log<'a>, MergeError> {
        Ok(Log { engine, source, name: index_name(source)? })
    }

    /// The present ends.
    pub async fn ends(&self) -> Result<Ends, Halt> {
        let names = std::slice::from_ref(&self.name);
        let mut stats = existing(self.engine.source.primary_stats(names).await)?.ok_or(Halt::Unreadable)?;
        let stats = stats.remove(&self.name).ok_or(Halt::Unreadable)?;
        let shards = readable(stats)?.ok_or(Halt::Unreadable)?;
        let ends = Ends::of(self.source, &shards).ok_or(Halt::Unreadable)?;
        existing(self.engine.source.refresh(names).await)?.ok_or(Halt::Unreadable)?;
        Ok(ends)
    }

    /// What lives in these windows, by shard, with one request.
    pub async fn read(
        &self,
        windows: &[Window],
        lane: &ReadLane,
    ) -> Result<Vec<(ShardNumber, Vec<Hit>)>, Halt> {
        let request = |&(shard, from, to): &Window| WindowRequest {
            index: self.name.clone(),
            shard,
            from,
            to,
            lane: lane.clone(),
            most: None,
        };
        let requests: Vec<WindowRequest> = windows.iter().map(request).collect();
        let pages = self.engine.source.read_windows(&requests).await.map_err(MergeError::Source)?;
        windows.iter().zip(pages).map(|(&(shard, ..), page)| Ok((shard, live(page)?))).collect()
    }

    /// What lives at these places, by shard, with one request.
    pub async fn at(
        &self,
        places: BTreeMap<ShardNumber, Vec<SeqNo>>,
        lane: &ReadLane,
    ) -> Result<Vec<(ShardNumber, Vec<Hit>)>, Halt> {
        let shards: Vec<ShardNumber> = places.keys().copied().collect();
        let request =
            |(shard, places)| PlacesRequest { index: self.name.clone(), shard, places, lane: lane.clone() };
        let requests: Vec<PlacesRequest> = places.into_iter().map(request).collect();
        let pages = self.engine.source.read_places(&requests).await.map_err(MergeError::Source)?;
        shards.into_iter().zip(pages).map(|(shard, page)| Ok((shard, live(page)?))).collect()
    }
}

fn live(page: Result<Page, ElasticError>) -> Result<Vec<Hit>, Halt> {
    Ok(readable(page)?.ok_or(Halt::Unreadable)?.hits)
}

/// The answer about one index among others; `None` if it is gone, closed, red or an alias now, which the next resolve looks into.
pub(super) fn readable<T>(result: Result<T, ElasticError>) -> Result<Option<T>, MergeError> {
    match result {
        Err(error) if error.category() == ErrorCategory::Unavailable => Ok(None),
        result => existing(result),
    }
}

/// The answer to a request for certain indices: unavailable may be the whole cluster, which is an error.
pub(super) fn existing<T>(result: Result<T, ElasticError>) -> Result<Option<T>, MergeError> {
    match result {
        Ok(value) => Ok(Some(value)),
        Err(error) if error.is_missing_index() || error.is_closed_index() || error.is_alias() => Ok(None),
        Err(error) => Err(MergeError::Source(error)),
    }
}
