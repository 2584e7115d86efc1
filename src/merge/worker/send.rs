//! Sending a bulk body until each of its items has a final answer.
//!
//! - What the server rejects for a passing reason (429, 5xx) is sent again with backoff, [`RETRIES`] times. Then the
//!   batch fails and is retried later, as everything that ails the server may last long.
//! - The one exception: a chunk that answers an error of the class of 500 each time, [`STRIKES`] times at the least,
//!   while most of its body was taken. It gets a trial beside the words of a neighbour; if only those are read, the
//!   chunk is refused, and its neighbours go on.
//! - A body that is too large is sent in halves, and so is what a server with little room rejects. [`Limits`] learn from
//!   both, so that the bodies after it are smaller from the start.
//!
//! [`Limits`]: super::limits::Limits

use std::collections::BTreeSet;
use std::time::Duration;

use rand::Rng;

use super::Shared;
use crate::elastic::{
    BulkItem, BulkOutcome, BulkRefusal, BulkRequest, ElasticError, ErrorCategory, convicted,
};
use crate::merge::error::MergeError;

/// How often what was rejected is sent again before the batch fails and is retried with backoff: about half a minute.
const RETRIES: u32 = 8;
/// How many times in a row a chunk answers an error that may lie in it before it gets a trial.
const STRIKES: u32 = 5;

/// The final word on one item.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Sent {
    /// Written, where there was no document.
    Applied,
    /// Written over a document.
    Replaced,
    /// A version at least as high is there.
    AlreadyThere,
    /// Refused for good, with the reason.
    Refused(String),
}

/// Items that are sent together, and how often they were rejected for anything but their size.
struct Part {
    items: Vec<usize>,
    attempts: u32,
}

/// Sends a body until each item has a final answer.
pub(super) async fn send(shared: &Shared, body: BulkRequest) -> Result<Vec<Sent>, MergeError> {
    let mut ledger = Ledger::new(body.len());
    let mut open = vec![Part { items: (0..body.len()).collect(), attempts: 0 }];
    while let Some(Part { items, attempts }) = open.pop() {
        let part = if items.len() == body.len() { body.clone() } else { body.only(items.iter().copied()) };
        let bytes = part.bytes() as u64;
        let outcome = match post(shared, part).await {
            Ok(outcome) => outcome,
            Err(error) if error.category() == ErrorCategory::TooLarge => {
                shared.limits.too_large(bytes);
                open.extend(halved(&mut ledger, &items, &error));
                continue;
            }
            Err(error) if error.category() == ErrorCategory::Overloaded && attempts < RETRIES => {
                shared.limits.overloaded(error.is_about_room().then_some(bytes));
                let is_too_much = items.len() > 1 && bytes > shared.limits.body();
                let (parts, rejections) = if is_too_much {
                    (halves(&items, attempts), 0)
                } else {
                    (vec![Part { items, attempts: attempts + 1 }], attempts)
                };
                open.extend(parts);
                tokio::time::sleep(backoff(rejections + 1)).await;
                continue;
            }
            Err(error) => return Err(fatal(shared, error)),
        };
        let rejected = ledger.book(&items, outcome.items);
        ledger.note_replaced(&items, &outcome.replaced);
        if rejected.is_empty() {
            shared.limits.succeeded();
            continue;
        }
        if !ledger.may_lie_in(&rejected) {
            shared.limits.overloaded(ledger.had_no_room(&rejected).then_some(bytes));
        }
        if attempts < RETRIES {
            // In halves: what is too much at once for a server with little room may do in turn.
            open.extend(halves(&rejected, attempts + 1));
            tokio::time::sleep(backoff(attempts + 1)).await;
        } else if !try_out(shared, &body, &mut ledger, &rejected).await? {
            return Err(MergeError::Destination(ElasticError::rejected(ledger.why(&rejected))));
        }
    }
    ledger.close()
}

async fn post(shared: &Shared, request: BulkRequest) -> Result<BulkOutcome, ElasticError> {
    let _permit = shared.limits.permit().await;
    shared.context.destination.offer_bulk(&shared.context.writer_alias, request).await
}

/// The halves of what is too large; a chunk that is so alone is refused.
fn halved(ledger: &mut Ledger, items: &[usize], error: &ElasticError) -> Vec<Part> {
    if let [item] = items[..] {
        ledger.refuse(item, format!("the chunk alone is too large for a request: {error}"));
        return Vec::new();
    }
    halves(items, 0)
}

/// Two parts, of which the first is to be popped first; one alone stays one.
fn halves(items: &[usize], attempts: u32) -> Vec<Part> {
    let (left, right) = items.split_at(items.len().div_ceil(2));
    let parts = [right, left].into_iter().filter(|items| !items.is_empty());
    parts.map(|items| Part { items: items.to_vec(), attempts }).collect()
}

/// What a failed request means for the batch.
fn fatal(shared: &Shared, error: ElasticError) -> MergeError {
    if error.is_missing_index() {
        return MergeError::DestinationLost(format!(
            "the destination index or its alias {:?} is gone ({error}); restore it, or delete the resource and start anew",
            shared.context.writer_alias
        ));
    }
    MergeError::Destination(error)
}

/// Finds out whether it is these chunks, rather than the server, that failed; they are refused then. False if not, or
/// if not even a trial is called for.
async fn try_out(
    shared: &Shared,
    body: &BulkRequest,
    ledger: &mut Ledger,
    rejected: &[usize],
) -> Result<bool, MergeError> {
    if !ledger.may_lie_in(rejected) {
        return Ok(false);
    }
    let Some(words) = words_of_another(shared, body, ledger).await? else { return Ok(false) };
    let Some(trial) = body.trial(rejected, &words) else { return Ok(false) };
    let outcome = match post(shared, trial).await {
        Ok(outcome) => outcome,
        Err(error) if error.category() == ErrorCategory::TooLarge => return Ok(false),
        Err(error) => return Err(fatal(shared, error)),
    };
    Ok(ledger.convict(rejected, &outcome.items))
}

/// The words of a chunk that the destination takes: of this body, or else any that it holds.
async fn words_of_another(
    shared: &Shared,
    body: &BulkRequest,
    ledger: &Ledger,
) -> Result<Option<Vec<u8>>, MergeError> {
    if let Some(words) = ledger.taken().find_map(|item| body.words(item)) {
        return Ok(Some(words.to_vec()));
    }
    let context = &shared.context;
    let words = context.destination.some_words(&context.destination_index).await;
    Ok(words.map_err(MergeError::Destination)?.map(String::into_bytes))
}

/// What became of each item of a body so far.
struct Ledger {
    answers: Vec<Option<Sent>>,
    strikes: Vec<Strikes>,
}

/// How an item that has no final answer failed.
#[derive(Clone, Default)]
struct Strikes {
    /// How many times in a row in a way that may lie in the chunk.
    in_a_row: u32,
    last: Option<BulkRefusal>,
}

impl Ledger {
    fn new(items: usize) -> Ledger {
        Ledger { answers: vec![None; items], strikes: vec![Strikes::default(); items] }
    }

    /// Books the answers of these items; returns those that are to be sent again.
    fn book(&mut self, items: &[usize], outcomes: Vec<BulkItem>) -> Vec<usize> {
        let mut rejected = Vec::new();
        for (&item, outcome) in items.iter().zip(outcomes) {
            match outcome {
                BulkItem::Applied | BulkItem::Missing => self.answers[item] = Some(Sent::Applied),
                BulkItem::AlreadyThere => self.answers[item] = Some(Sent::AlreadyThere),
                BulkItem::Refused(refusal) => {
                    self.refuse(item, format!("{}: {}", refusal.kind, refusal.reason));
                }
                BulkItem::Retry(refusal) => {
                    self.strikes[item].add(refusal);
                    rejected.push(item);
                }
            }
        }
        rejected
    }

    /// Notes which of these items, by their places, were written over a document.
    fn note_replaced(&mut self, items: &[usize], places: &BTreeSet<usize>) {
        for &item in places.iter().filter_map(|&place| items.get(place)) {
            self.answers[item] = Some(Sent::Replaced);
        }
    }

    fn refuse(&mut self, item: usize, reason: String) {
        self.answers[item] = Some(Sent::Refused(reason));
    }

    /// The items that the destination took.
    fn taken(&self) -> impl Iterator<Item = usize> {
        let is_taken = |answer: &Option<Sent>| {
            matches!(answer, Some(Sent::Applied | Sent::Replaced | Sent::AlreadyThere))
        };
        self.answers.iter().enumerate().filter(move |(_, answer)| is_taken(answer)).map(|(item, _)| item)
    }

    /// Whether the failure of these items may lie in them: each failed so every time, and the destination took more of
    /// the whole body than failed, in whichever parts that was sent. A body of one chunk has no neighbour here; it
    /// depends on its trial alone.
    fn may_lie_in(&self, rejected: &[usize]) -> bool {
        let is_alone = self.answers.len() == 1;
        let has_failed = |strikes: &&Strikes| strikes.last.is_some();
        let taken = self.taken().count();
        let taken_later = self.taken().filter(|&item| has_failed(&&self.strikes[item])).count();
        let failed = self.strikes.iter().filter(has_failed).count() - taken_later;
        let are_few = taken > failed;
        (is_alone || are_few) && rejected.iter().all(|&item| self.strikes[item].in_a_row > 0)
    }

    /// Refuses those of them that the trial convicts; false unless that is all of them.
    fn convict(&mut self, rejected: &[usize], outcomes: &[BulkItem]) -> bool {
        for (&item, verdict) in rejected.iter().zip(convicted(outcomes)) {
            let times = self.strikes[item].in_a_row + 1;
            if let Some(refusal) = verdict.filter(|_| times > STRIKES) {
                let beside = "while the words of another chunk were read under the same id";
                self.refuse(item, format!("{refusal} ({times} times in a row, {beside})"));
            }
        }
        rejected.iter().all(|&item| self.answers[item].is_some())
    }

    /// Whether each of these items was rejected for want of room.
    fn had_no_room(&self, rejected: &[usize]) -> bool {
        let last = |item: &usize| self.strikes[*item].last.as_ref();
        rejected.iter().all(|item| last(item).is_some_and(BulkRefusal::is_about_room))
    }

    /// Why the first of these items that has no answer was rejected.
    fn why(&self, rejected: &[usize]) -> String {
        let open = rejected.iter().find(|&&item| self.answers[item].is_none());
        let last = open.and_then(|&item| self.strikes[item].last.as_ref());
        last.map(ToString::to_string).unwrap_or_default()
    }

    fn close(self) -> Result<Vec<Sent>, MergeError> {
        let all: Option<Vec<Sent>> = self.answers.into_iter().collect();
        all.ok_or_else(|| MergeError::Internal("a bulk item was left without an answer".to_owned()))
    }
}

impl Strikes {
    fn add(&mut self, refusal: BulkRefusal) {
        self.in_a_row = if refusal.may_lie_in_chunk() { self.in_a_row + 1 } else { 0 };
        self.last = Some(refusal);
    }
}

/// Exponential with full jitter: the workers of all processes must not come back together.
fn backoff(attempt: u32) -> Duration {
    let most = 100_u64.saturating_mul(1 << attempt.min(7));
    Duration::from_millis(rand::rng().random_range(most / 2..=most))
}

#[cfg(test)]
#[path = "send_tests.rs"]
mod tests;
