//! How long to wait after the n-th failure in a row. Pure.

use std::time::Duration;

/// After the first failure.
const FIRST: Duration = Duration::from_secs(1);

/// However many failures there were.
pub(super) const LONGEST: Duration = Duration::from_mins(5);

/// However many failures there were, during a cutover: writers are refused as long, and only a step sees that its time
/// is over.
pub(super) const LONGEST_IN_CUTOVER: Duration = Duration::from_secs(5);

/// The wait after `failures` failures in a row: one second, doubled each time, at most `longest`, less up to a
/// quarter. `jitter` in `0.0..=1.0` says how much less, so that resources that failed together are not retried
/// together.
pub(super) fn delay(failures: u32, longest: Duration, jitter: f64) -> Duration {
    let doublings = failures.saturating_sub(1).min(16);
    let whole = FIRST.saturating_mul(1 << doublings).min(longest);
    whole.mul_f64(1.0 - 0.25 * jitter.clamp(0.0, 1.0))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
    use super::*;

    #[test]
    fn each_failure_doubles_the_wait_up_to_five_minutes() {
        let waits: Vec<u64> = (1..=11).map(|failures| delay(failures, LONGEST, 0.0).as_secs()).collect();
        assert_eq!(waits, [1, 2, 4, 8, 16, 32, 64, 128, 256, 300, 300]);
        assert_eq!(delay(u32::MAX, LONGEST, 0.0), LONGEST);
    }

    #[test]
    fn during_a_cutover_the_wait_is_a_few_seconds_at_most() {
        let wait = |failures| delay(failures, LONGEST_IN_CUTOVER, 0.0).as_secs();
        assert_eq!([1, 2, 3, 4, 5, 100].map(wait), [1, 2, 4, 5, 5, 5]);
    }

    #[test]
    fn jitter_takes_at_most_a_quarter_away() {
        assert_eq!(delay(3, LONGEST, 1.0), Duration::from_secs(3));
        assert_eq!(delay(3, LONGEST, 7.0), Duration::from_secs(3));
        assert_eq!(delay(1, LONGEST, 0.5), Duration::from_millis(875));
    }
}
