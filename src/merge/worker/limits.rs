//! Bounds that may change while workers run: concurrency, bytes, documents per second.
//!
//! Concurrency towards the destination goes up slowly and halves when it says that it is overloaded
//! (AIMD), between 1 and what the spec allows. Where even one bulk at a time is too much, bodies get smaller in the same
//! way; and no body is as large again as one that was refused for its size.

use std::sync::Mutex;
use std::sync::PoisonError;
use std::sync::atomic::{AtomicU32, AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::Instant;

use crate::merge::valid::Workers;

/// A page or a bulk body is never planned larger than this, whatever the budget.
const MAX_PIECE: u64 = 6 * 1024 * 1024;
/// Bodies are not made smaller than this because of overload, in bytes.
const MIN_BODY: u64 = 16 * 1024;
/// Bulks that must succeed before one more may be in flight, or bodies may be larger again.
const PATIENCE: usize = 16;

/// Live limits of one process for one merge.
pub(in crate::merge) struct Limits {
    concurrency: AtomicU32,
    max_bytes_in_flight: AtomicU64,
    /// 0: unlimited.
    documents_per_second: AtomicU32,
    /// The moment at which the documents let through so far are paid for.
    paid_until: Mutex<Option<Instant>>,
    in_flight: AtomicUsize,
    allowed: AtomicUsize,
    /// The bytes of one body for which the destination seems to have room.
    room: AtomicU64,
    /// The smallest body that was refused for its size.
    too_large: AtomicU64,
    successes: AtomicUsize,
    freed: Notify,
    tuned: Notify,
}

impl Default for Limits {
    fn default() -> Limits {
        Limits {
            concurrency: AtomicU32::new(4),
            max_bytes_in_flight: AtomicU64::new(64 * 1024 * 1024),
            documents_per_second: AtomicU32::new(0),
            paid_until: Mutex::new(None),
            in_flight: AtomicUsize::new(0),
            allowed: AtomicUsize::new(4),
            room: AtomicU64::new(u64::MAX),
            too_large: AtomicU64::new(u64::MAX),
            successes: AtomicUsize::new(0),
            freed: Notify::new(),
            tuned: Notify::new(),
        }
    }
}

/// Leave to have one bulk in flight; given back when dropped.
pub(in crate::merge) struct Permit<'a>(&'a Limits);

impl Limits {
    /// Takes over the spec's values.
    pub fn tune(&self, workers: &Workers) {
        self.concurrency.store(workers.concurrency, Ordering::Relaxed);
        self.max_bytes_in_flight.store(workers.max_bytes_in_flight, Ordering::Relaxed);
        self.documents_per_second.store(workers.max_documents_per_second.unwrap_or(0), Ordering::Relaxed);
        self.allowed.store(workers.concurrency as usize, Ordering::Relaxed);
        // A new limit holds from now on: who pays for the old one is let go.
        *self.paid_until.lock().unwrap_or_else(PoisonError::into_inner) = None;
        self.tuned.notify_waiters();
        self.freed.notify_waiters();
    }

    /// Tasks to run.
    pub fn concurrency(&self) -> usize {
        self.concurrency.load(Ordering::Relaxed) as usize
    }

    /// The share of one page, and of one bulk body at most, in bytes: each task holds the page that it acts on, the one that
    /// it reads ahead, and a body.
    pub fn piece(&self) -> u64 {
        let shares = 3 * u64::from(self.concurrency.load(Ordering::Relaxed).max(1));
        (self.max_bytes_in_flight.load(Ordering::Relaxed) / shares).clamp(64 * 1024, MAX_PIECE)
    }

    /// The bytes of one bulk body: its share, or less where the destination has no room for that.
    pub fn body(&self) -> u64 {
        self.piece().min(self.room.load(Ordering::Relaxed))
    }

    /// Waits until that many documents may pass under `maxDocumentsPerSecond`.
    ///
    /// Each call pays for its documents after they were let through, so the mean over time is the limit
    /// and a batch is never larger than it would be without one.
    pub async fn pay(&self, documents: usize) {
        let tuned = self.tuned.notified();
        if let Some(due) = self.due(documents, Instant::now()) {
            tokio::select! {
                () = tokio::time::sleep_until(due) => {}
                () = tuned => {}
            }
        }
    }

    /// When documents that are let through now are paid for; `None` without a limit.
    fn due(&self, documents: usize, now: Instant) -> Option<Instant> {
        let rate = self.documents_per_second.load(Ordering::Relaxed);
        if rate == 0 || documents == 0 {
            return None;
        }
        let price = Duration::from_secs_f64(documents as f64 / f64::from(rate));
        let mut paid_until = self.paid_until.lock().unwrap_or_else(PoisonError::into_inner);
        let start = paid_until.map_or(now, |paid| paid.max(now));
        *paid_until = Some(start + price);
        *paid_until
    }

    /// Leave for one bulk.
    pub async fn permit(&self) -> Permit<'_> {
        loop {
            let freed = self.freed.notified();
            let allowed = self.allowed.load(Ordering::Relaxed).max(1);
            let taken = self.in_flight.fetch_update(Ordering::AcqRel, Ordering::Acquire, |count| {
                (count < allowed).then_some(count + 1)
            });
            if taken.is_ok() {
                return Permit(self);
            }
            freed.await;
        }
    }

    /// The destination took a bulk as it should.
    pub fn succeeded(&self) {
        if self.successes.fetch_add(1, Ordering::Relaxed) + 1 >= PATIENCE {
            self.successes.store(0, Ordering::Relaxed);
            let room = self.body();
            if room < self.piece() {
                let more = room.saturating_add(room / 2);
                if more < self.too_large.load(Ordering::Relaxed) {
                    self.room.store(more, Ordering::Relaxed);
                    return;
                }
            }
            let most = self.concurrency();
            let raised = self
                .allowed
                .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |now| (now < most).then_some(now + 1));
            if raised.is_ok() {
                self.freed.notify_one();
            }
        }
    }

    /// The destination said that it is overloaded; `body` are the bytes of a request that it had no room for.
    pub fn overloaded(&self, body: Option<u64>) {
        self.successes.store(0, Ordering::Relaxed);
        let halved = self
            .allowed
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |now| (now > 1).then_some(now / 2));
        if let Ok(before) = halved {
            tracing::info!(
                before,
                after = before / 2,
                "the destination is overloaded: fewer bulks in flight"
            );
        } else if let Some(bytes) = body {
            self.shrink(bytes, "the destination has no room for a bulk of that size: smaller ones");
        }
    }

    /// The destination, or something before it, takes no request of so many bytes.
    pub fn too_large(&self, body: u64) {
        self.too_large.fetch_min(body, Ordering::Relaxed);
        self.shrink(body, "the destination takes no bulk of that size: smaller ones");
    }

    /// Bodies are at most half of that from now on.
    fn shrink(&self, refused: u64, why: &'static str) {
        let room = (refused / 2).max(MIN_BODY);
        if self.room.fetch_min(room, Ordering::Relaxed) > room {
            tracing::info!(refused, room, "{why}");
        }
    }
}

impl Drop for Permit<'_> {
    fn drop(&mut self) {
        self.0.in_flight.fetch_sub(1, Ordering::AcqRel);
        self.0.freed.notify_one();
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn workers(concurrency: u32, rate: Option<u32>) -> Workers {
        Workers { concurrency, max_bytes_in_flight: 64 << 20, max_documents_per_second: rate }
    }

    #[tokio::test]
    async fn keeps_the_rate_over_many_small_calls_of_many_tasks() {
        let limits = Limits::default();
        limits.tune(&workers(4, Some(1_000)));
        let start = Instant::now();
        let last = (0..50).filter_map(|_| limits.due(100, start)).last().unwrap();
        assert_eq!(last - start, Duration::from_secs(5));
        // Idle time is not saved up for a burst.
        let later = last + Duration::from_mins(1);
        assert_eq!(limits.due(100, later).unwrap() - later, Duration::from_millis(100));
        limits.tune(&workers(4, None));
        assert_eq!(limits.due(100, later), None);
    }

    #[tokio::test]
    async fn halves_on_overload_and_recovers_slowly() {
        let limits = Limits::default();
        limits.tune(&workers(8, None));
        limits.overloaded(None);
        limits.overloaded(Some(1 << 20));
        assert_eq!(limits.allowed.load(Ordering::Relaxed), 2);
        assert_eq!(limits.body(), limits.piece(), "fewer come before smaller");
        for _ in 0..PATIENCE {
            limits.succeeded();
        }
        assert_eq!(limits.allowed.load(Ordering::Relaxed), 3);
    }

    #[test]
    fn bodies_shrink_where_one_at_a_time_is_too_much_and_grow_again() {
        let limits = Limits::default();
        limits.tune(&workers(1, None));
        let piece = limits.piece();
        limits.overloaded(None);
        assert_eq!(limits.body(), piece, "a full disk is not mended by smaller bodies");
        limits.overloaded(Some(60_000));
        limits.overloaded(Some(piece)); // one that was on its way
        assert_eq!(limits.body(), 30_000);
        limits.overloaded(Some(1_000));
        assert_eq!(limits.body(), MIN_BODY);
        let rounds = (0..100).position(|_| {
            (0..PATIENCE).for_each(|_| limits.succeeded());
            limits.body() == piece
        });
        assert_eq!(rounds, Some(14));
    }

    #[test]
    fn a_size_that_was_refused_is_not_tried_again() {
        let limits = Limits::default();
        limits.tune(&workers(2, None));
        limits.too_large(1 << 20);
        assert_eq!(limits.body(), 1 << 19);
        (0..100 * PATIENCE).for_each(|_| limits.succeeded());
        assert!((1 << 19..1 << 20).contains(&limits.body()), "{}", limits.body());
        assert_eq!(limits.allowed.load(Ordering::Relaxed), 2);
    }

    #[tokio::test]
    async fn a_permit_is_free_again_when_dropped() {
        let limits = Limits::default();
        limits.tune(&workers(1, None));
        let first = limits.permit().await;
        assert!(tokio::time::timeout(Duration::from_millis(20), limits.permit()).await.is_err());
        drop(first);
        drop(limits.permit().await);
    }

    #[test]
    fn a_piece_is_a_share_of_the_budget() {
        let limits = Limits::default();
        limits.tune(&Workers {
            concurrency: 4,
            max_bytes_in_flight: 24 << 20,
            max_documents_per_second: None,
        });
        assert_eq!(limits.piece(), 2 << 20);
    }
}
