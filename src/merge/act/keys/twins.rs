//! Chunks that may have the key of another: one that came later may have replaced an earlier one that was compared
//! before. They, and those whose document is missing, are compared once in each attempt to cut over (disputes first); then each
//! is known to be equal to what is under its key, or is in quarantine.

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

    /// Whether that was not done in this attempt yet.
    pub fn may_compare(&self) -> bool {
        self.rechecked != Rechecked::Twins
    }

    /// Plans the comparison of these chunks. Returns how many units that makes.
    pub async fn compare(&self, engine: &Engine, mut places: Vec<Place>) -> Result<u64, MergeError> {
        if !self.may_compare() || places.is_empty() {
            return Ok(0);
        }
        places.sort_unstable();
        places.dedup();
        Ok(engine.state.plan_recheck(engine.id, &places).await?)
    }
}
