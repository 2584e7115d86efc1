//! The units of a batch, how far each is walked, and which windows are read next. Pure.
//!
//! How large chunks are is known only when they have come, so windows are planned by those that came before:
//! - The first page of a batch is of a few chunks for each unit, and tells how large they are.
//! - An answer above its limit is not taken. Chunks are taken for as large then as they must be, and twice as large as before
//!   at least, again and again, down to one chunk in a request, which may be as large as a server takes one.
//! - A unit that failed asks for half as many chunks at each further attempt: what a server has no room for at once, or does
//!   not do in time, may do in parts. Each page that comes lets it ask for twice as many.

use std::collections::HashSet;

use crate::elastic::{MAX_WINDOW, Page, ReadLane, SeqNo, WindowRequest};
use crate::merge::error::MergeError;
use crate::merge::stored_index;
use crate::state::{Advance, LeasedUnit, UnitId};

/// The most documents that a window is planned for, whatever their size: beyond it nothing gets faster.
const MAX_WINDOW_DOCUMENTS: f64 = 1_000.0;
/// Bytes per document assumed before the first page is read, unless the index takes more for each on its disk.
const ASSUMED_BYTES: f64 = 16_384.0;
/// A window holds at most this many times what it was planned for; if there is more, it is read again in parts.
const SLACK: f64 = 2.0;
/// So many chunks are always taken, whatever was planned.
const FEW: f64 = 64.0;
/// An answer has at most this many times the bytes that it was planned for.
const MARGIN: u64 = 4;
/// The largest answer with a single chunk, in bytes: what a server takes in one request by default
/// (`http.max_content_length`, 100 MiB), and something for what it writes around it.
const MAX_CHUNK_BYTES: u64 = 101 << 20;
/// Halving more often would change nothing: a window for the most documents is down to one then.
const MAX_HALVINGS: i32 = 10;

/// A window that is asked for, and the place of its unit in the batch.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Asked {
    pub position: usize,
    pub request: WindowRequest,
}

impl Asked {
    fn width(&self) -> SeqNo {
        self.request.to - self.request.from
    }
}

/// The units of a batch.
pub(super) struct Walks {
    units: Vec<Walked>,
    /// Measured on the pages of this batch.
    bytes_per_document: f64,
    /// Nothing is measured yet: what lies compressed on a disk may be a hundred times as large in an answer.
    is_guessed: bool,
}

/// One unit and how far this task has taken it.
struct Walked {
    unit: LeasedUnit,
    /// Everything before it is read, or asked for.
    ahead: SeqNo,
    /// Done, lost or failed: not to be touched any more by this batch.
    closed: bool,
    /// Hits per sequence number, measured: 1 where nothing was updated or deleted.
    density: f64,
    /// How often the chunks that it asks for are halved.
    halvings: i32,
}

impl Walked {
    fn new(unit: LeasedUnit) -> Walked {
        let width = (unit.to - unit.from).max(1) as f64;
        let expected = (unit.estimated_documents as f64 / width).clamp(0.01, 1.0);
        Walked {
            ahead: unit.cursor,
            closed: unit.cursor >= unit.to,
            // After a failure nothing is taken for granted.
            density: if unit.attempts > 0 { 1.0 } else { expected },
            halvings: unit.attempts.clamp(0, MAX_HALVINGS),
            unit,
        }
    }

    fn is_unread(&self) -> bool {
        !self.closed && self.ahead < self.unit.to
    }

    /// Its next window, for at most so many chunks, and how many it is planned for.
    #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)] // at most the widest window, and positive
    fn next_window(&mut self, room: f64, lane: ReadLane) -> Result<(WindowRequest, f64), MergeError> {
        let share = (room * 0.5_f64.powi(self.halvings)).max(1.0);
        let width = ((share / self.density).ceil() as i64).clamp(1, MAX_WINDOW);
        let index = stored_index(&self.unit.index_name)?;
        let from = self.ahead;
        let to = self.unit.to.min(from + width);
        self.ahead = to;
        let planned = (to - from) as f64 * self.density;
        let most = Some((planned * SLACK).max(FEW).ceil() as usize);
        Ok((WindowRequest { index, shard: self.unit.shard, from, to, lane, most }, planned))
    }
}

impl Walks {
    pub fn new(units: Vec<LeasedUnit>) -> Walks {
        let on_disk = units.iter().map(|unit| unit.bytes_per_document as f64);
        let bytes_per_document = on_disk.fold(ASSUMED_BYTES, f64::max);
        Walks { units: units.into_iter().map(Walked::new).collect(), bytes_per_document, is_guessed: true }
    }

    /// Units that are not closed.
    pub fn open(&self) -> impl Iterator<Item = &LeasedUnit> {
        self.units.iter().filter(|walked| !walked.closed).map(|walked| &walked.unit)
    }

    /// The unit at that place, if it is not closed.
    pub fn open_at(&self, position: usize) -> Option<&LeasedUnit> {
        self.units.get(position).filter(|walked| !walked.closed).map(|walked| &walked.unit)
    }

    /// Nothing more is done with that unit.
    pub fn close(&mut self, position: usize) {
        self.units[position].closed = true;
    }

    /// Windows of the open units, one each, as many as fit that many bytes; they follow what is read already.
    pub fn next_windows(
        &mut self,
        bytes: u64,
        lane: impl Fn(&LeasedUnit) -> ReadLane,
    ) -> Result<Vec<Asked>, MergeError> {
        let mut room = (bytes as f64 / self.bytes_per_document).clamp(1.0, MAX_WINDOW_DOCUMENTS);
        let mut asked = Vec::new();
        let unread = self.units.iter_mut().enumerate().filter(|(_, walked)| walked.is_unread());
        for (position, walked) in unread {
            if room < 1.0 && !asked.is_empty() {
                break;
            }
            let most = if self.is_guessed { FEW.min(room) } else { room };
            let (request, planned) = walked.next_window(most, lane(&walked.unit))?;
            room -= planned;
            asked.push(Asked { position, request });
        }
        Ok(asked)
    }

    /// Sizes the next windows by what this one held.
    pub fn learn(&mut self, asked: &Asked, page: &Page) {
        let hits = page.hits.len() as f64;
        let walked = &mut self.units[asked.position];
        walked.density = (hits / asked.width().max(1) as f64).clamp(0.01, 1.0);
        walked.halvings = (walked.halvings - 1).max(0);
        if hits > 0.0 {
            self.is_guessed = false;
            self.bytes_per_document = (page.bytes as f64 / hits).max(256.0);
        }
    }

    /// More chunks live in this window than the plan knew: nothing of it is taken, and less is asked for.
    pub fn ask_again(&mut self, asked: &Asked) {
        let walked = &mut self.units[asked.position];
        (walked.ahead, walked.density) = (asked.request.from, 1.0);
    }

    /// The answer to these windows was above this limit: nothing of them is taken, and less is asked for.
    pub fn ask_for_less(&mut self, all: &[Asked], limit: u64) {
        let expected = |asked: &Asked| asked.width() as f64 * self.units[asked.position].density;
        let documents = all.iter().map(expected).sum::<f64>().max(1.0);
        self.bytes_per_document = (self.bytes_per_document * 2.0).max(limit as f64 / documents);
        for asked in all {
            self.ask_again(asked);
        }
    }

    /// Takes note of what became of checkpoints: a unit whose cursor did not move has another owner now.
    pub fn checkpointed(&mut self, advances: &[Advance], accepted: &HashSet<UnitId>) {
        for walked in &mut self.units {
            let Some(advance) = advances.iter().find(|advance| advance.unit == walked.unit.id) else {
                continue;
            };
            if accepted.contains(&advance.unit) {
                walked.closed |= advance.to >= walked.unit.to;
            } else {
                tracing::info!(
                    unit = advance.unit,
                    "a checkpoint was refused: the unit has another owner now"
                );
                walked.closed = true;
            }
        }
    }
}

/// The window, if one is asked for alone that can hold no more than one chunk.
pub(super) fn single(all: &[Asked]) -> Option<&Asked> {
    match all {
        [asked] if asked.width() == 1 => Some(asked),
        _ => None,
    }
}

/// The largest answer to these windows that is read, in bytes; they were planned for so many.
pub(super) fn answer_limit(all: &[Asked], bytes: u64) -> u64 {
    if single(all).is_some() { MAX_CHUNK_BYTES } else { bytes.saturating_mul(MARGIN) }
}

#[cfg(test)]
#[path = "walks_tests.rs"]
mod tests;
