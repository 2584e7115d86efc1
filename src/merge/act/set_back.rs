//! A state that was set back to an older one: its Postgres failed over to a replica that lagged, or a dump was restored.
//!
//! It knows of fewer passes than there were. What is written in a pass under a number that was given before loses against
//! what was written and deleted then (see [`crate::merge::version`]): a chunk keeps words that it has no more, one that is
//! deleted stays, one that comes back is refused. So the number is raised above all that there were, before anything is
//! planned, written or deleted by it. All else is only done once more.
//!
//! A process notices that the number fell. One that began after it asks the destination, whose documents tell in which
//! passes they were written.

use std::sync::atomic::{AtomicBool, AtomicI32, Ordering};

use super::{handover, writer_alias};
use crate::merge::engine::Engine;
use crate::merge::error::MergeError;
use crate::merge::memo::Memo;
use crate::merge::version::{LAST_PASS, pass_of};

/// Passes of which no document tells: in those that came last things may only have been deleted, and deletions cannot be
/// looked for. They are remembered for an hour (`index.gc_deletes`); in that time there are 3 600 passes at most, each with
/// a comparison that is made again, which takes a number too.
const UNTOLD: i32 = 1 << 13;

/// The passes that there were, as far as this process knows.
#[derive(Debug, Default)]
pub(in crate::merge) struct KnownPasses {
    /// The highest number that the state ever told.
    highest: AtomicI32,
    /// Whether the destination was asked, too.
    is_asked: AtomicBool,
    /// Whether it was handed over, as far as this process saw, or is about to be.
    is_handed_over: AtomicBool,
    /// Whether the merge was complete, as far as this process saw.
    is_complete: AtomicBool,
}

impl KnownPasses {
    /// Takes note of the number of the last pass, as the state tells it.
    pub fn note(&self, last: i32) {
        self.highest.fetch_max(last, Ordering::Relaxed);
    }

    /// Takes note that the destination was handed over, or is about to be: then no pass follows. Or that it was not after all.
    pub fn note_handover(&self, is_handed_over: bool) {
        self.is_handed_over.store(is_handed_over, Ordering::Relaxed);
    }

    /// Takes note that the merge was complete.
    pub fn note_completion(&self) {
        self.note_handover(true);
        self.is_complete.store(true, Ordering::Relaxed);
    }

    fn is_handed_over(&self) -> bool {
        self.is_handed_over.load(Ordering::Relaxed)
    }

    /// Whether that one is the last that there was.
    fn is_last(&self, pass: i32) -> bool {
        self.is_asked.load(Ordering::Relaxed) && pass >= self.highest.load(Ordering::Relaxed)
    }
}

/// Makes sure that the next pass is above all that there were; `last` is the last one that the state knows of. There is none
/// where the destination was handed over and the state forgot that.
pub(in crate::merge) async fn outnumber_forgotten_passes(
    engine: &Engine,
    memo: &Memo,
    last: i32,
) -> Result<(), MergeError> {
    let known = &engine.known_passes;
    let was_handed_over = known.is_handed_over();
    let is_given_up = memo.marked != memo.cutover.started_at && !known.is_complete.load(Ordering::Relaxed);
    if is_given_up || !was_handed_over {
        // Of an attempt that came to its end, and led nowhere.
        handover::unmark(engine, memo).await?;
    }
    if was_handed_over || !known.is_last(last) {
        let stored = engine.state.sources(engine.id).await?;
        let collections = stored.iter().map(|source| source.collection_id).collect();
        handover::refuse_if_handed_over(engine, &collections).await?;
        // Somebody may have taken the mark away.
        known.note_handover(false);
    }
    if known.is_last(last) {
        return Ok(());
    }
    let raised = outnumber(engine, last, known.highest.load(Ordering::Relaxed)).await?;
    if raised > last {
        tracing::warn!(last, raised, "the state was set back: passes go on above those that there were");
    }
    known.note(raised);
    known.is_asked.store(true, Ordering::Relaxed);
    Ok(())
}

/// Raises the number of the last pass above `seen` and above all that the destination tells of, if it is below that; returns
/// what it is then.
pub(super) async fn outnumber(engine: &Engine, last: i32, seen: i32) -> Result<i32, MergeError> {
    let name = &engine.merge.destination.index;
    let version = engine.destination.highest_version(name).await.map_err(MergeError::Destination)?;
    let highest = version.and_then(told_by).map_or(seen, |there| there.max(seen));
    if highest <= last {
        return Ok(last);
    }
    let raised = above(highest);
    engine.state.raise_pass(engine.id, raised).await?;
    Ok(raised)
}

/// The pass that a version of the destination tells of; `None` if it is none of ours.
fn told_by(version: i64) -> Option<i32> {
    Some(pass_of(version)).filter(|pass| (0..=LAST_PASS).contains(pass))
}

/// A number above which nothing was written or deleted, if no document tells of a higher pass than that.
fn above(highest: i32) -> i32 {
    highest.saturating_add(UNTOLD).min(LAST_PASS)
}

/// A write found no alias to go through. Where the index is there, the end of an attempt took the alias away and the state was
/// set back to before that: whoever lets workers write next gives it back.
pub(in crate::merge) async fn notice_missing_alias(engine: &Engine) -> Result<(), MergeError> {
    let info = super::destination::described_now(engine).await?;
    if info.aliases.contains(&writer_alias(&engine.merge)) {
        return Ok(());
    }
    tracing::warn!("the alias through which workers write is gone: it is given back when they are to write");
    engine.edit_memo(|memo| memo.workers_stopped = true).await.map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::merge::version::{of_copy, of_deletion};

    #[test]
    fn a_number_that_falls_and_one_that_was_never_asked_for_are_not_believed() {
        let known = KnownPasses::default();
        known.note(5);
        assert!(!known.is_last(5), "the destination may tell of more");
        known.is_asked.store(true, Ordering::Relaxed);
        assert!(known.is_last(5) && known.is_last(6));
        known.note(4);
        assert!(!known.is_last(4), "there was a fifth one");
    }

    #[test]
    fn what_is_written_next_is_above_all_that_the_forgotten_passes_wrote_and_deleted() {
        let found = told_by(of_copy(7, 0, 3)).map(above);
        assert!(found.is_some_and(|raised| of_copy(raised + 1, 0, 0) > of_deletion(7 + UNTOLD)));
    }

    #[test]
    fn versions_that_are_not_ours_raise_nothing_to_where_no_pass_can_follow() {
        assert_eq!((told_by(i64::MAX), told_by(-1)), (None, None));
        assert_eq!((told_by(1), told_by(of_copy(LAST_PASS, 0, 0))), (Some(0), Some(LAST_PASS)));
        assert_eq!(above(LAST_PASS - 1), LAST_PASS);
    }
}
