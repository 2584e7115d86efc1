//! Chunks that may have the key of another: one that came later may have replaced an earlier one that was compared
//! before. They are compared once in each attempt to cut over, after the disputes and after what was missing, which may have been
//! written from any of those that share a key; then each is known to be equal to what is under its key, or is in quarantine.

use crate::merge::engine::Engine;
use crate::merge::error::MergeError;
use crate::merge::memo::Rechecked;
use crate::state::QuarantineFilter;
use crate::state::invariants::Place;

/// Classes of quarantined chunks that were judged by what another writer or chunk left under their key.
const DISPUTED_CLASSES: [&str; 2] = ["Collision", "Different"];

/// What of it was done in this attempt.
pub(super) struct Twins {
    pub rechecked: Rechecked,
}

impl Twins {
    /// Plans the comparison of what depends on another chunk, which may be gone. Returns how many chunks.
    pub async fn retry_disputes(&self, engine: &Engine) -> Result<u64, MergeError> {
        let mut retried = 0;
        for class in DISPUTED_CLASSES.iter().filter(|_| self.rechecked < Rechecked::Disputes) {
            let filter = QuarantineFilter { class: Some((*class).to_owned()), ..QuarantineFilter::default() };
            retried += engine.state.retry_quarantined(engine.id, &filter).await?;
        }
        Ok(retried)
    }

    /// Plans the comparison of these chunks, unless that stage was reached before. True if there is anything to compare now.
    pub async fn compare(
        &self,
        engine: &Engine,
        stage: Rechecked,
        mut places: Vec<Place>,
    ) -> Result<bool, MergeError> {
        if self.rechecked >= stage || places.is_empty() {
            return Ok(false);
        }
        places.sort_unstable();
        places.dedup();
        let units = engine.state.plan_recheck(engine.id, &places).await?;
        if units == 0 {
            return Ok(false);
        }
        tracing::info!(units, ?stage, "chunks are compared once more before the counts are believed");
        engine.edit_memo(|memo| memo.cutover.rechecked = stage).await?;
        Ok(true)
    }
}
