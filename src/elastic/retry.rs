//! How often, and after which pauses, a request is sent again.

use std::time::Duration;

use rand::Rng;

/// A bounded number of attempts with jittered, doubling pauses.
///
/// An answer's own `Retry-After` replaces the pause, up to what is left of `total`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RetryPolicy {
    /// Most attempts, the first one included; at least 1.
    pub attempts: u32,
    /// Pause before the second attempt (before jitter).
    pub first_delay: Duration,
    /// Longest pause (before jitter).
    pub max_delay: Duration,
    /// No attempt is started later than this after the first one was.
    pub total: Duration,
}

impl Default for RetryPolicy {
    /// Eight attempts within two minutes: enough for a node's restart behind a load balancer or a full write queue.
    fn default() -> Self {
        Self {
            attempts: 8,
            first_delay: Duration::from_millis(200),
            max_delay: Duration::from_secs(15),
            total: Duration::from_mins(2),
        }
    }
}

impl RetryPolicy {
    /// Each request is sent once.
    #[must_use]
    pub fn once() -> Self {
        Self { attempts: 1, ..Self::default() }
    }

    /// For checks whose caller waits and asks again by itself: some attempts within five seconds.
    #[must_use]
    pub fn brief() -> Self {
        Self {
            attempts: 3,
            first_delay: Duration::from_millis(100),
            max_delay: Duration::from_secs(1),
            total: Duration::from_secs(5),
        }
    }

    /// The pause after attempt number `made` (from 1), or `None` when no further attempt is allowed.
    ///
    /// `elapsed` counts from the start of the first attempt. `fresh_node` says that a node which has not been
    /// tried for this request is at hand: then there is no reason to wait, except that the server asked for it.
    #[must_use]
    pub fn pause(
        &self,
        made: u32,
        elapsed: Duration,
        retry_after: Option<Duration>,
        fresh_node: bool,
    ) -> Option<Duration> {
        if made >= self.attempts {
            return None;
        }
        let pause = match retry_after {
            Some(asked) => asked,
            None if fresh_node => Duration::ZERO,
            None => self.jittered(made),
        };
        (elapsed.saturating_add(pause) < self.total).then_some(pause)
    }

    /// Half to all of the doubled delay, so that clients which failed together do not come back together.
    fn jittered(&self, made: u32) -> Duration {
        let doubled = self.first_delay.saturating_mul(1 << (made.saturating_sub(1)).min(16));
        let delay = doubled.min(self.max_delay);
        delay.mul_f64(rand::rng().random_range(0.5..=1.0))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn attempts_and_total_time_are_bounded() {
        let policy = RetryPolicy::default();
        assert_eq!(policy.pause(8, Duration::ZERO, None, false), None);
        assert_eq!(policy.pause(1, Duration::from_secs(121), None, true), None);
        assert_eq!(policy.pause(1, Duration::ZERO, Some(Duration::from_mins(10)), false), None);
    }

    #[test]
    fn pauses_double_with_jitter_up_to_the_longest() {
        let policy = RetryPolicy::default();
        for made in 1..8 {
            let whole = Duration::from_millis(200 * (1 << (made - 1))).min(policy.max_delay);
            let pause = policy.pause(made, Duration::ZERO, None, false);
            assert!(pause.is_some_and(|p| p >= whole / 2 && p <= whole), "{made}: {pause:?}");
        }
    }

    #[test]
    fn another_node_is_tried_at_once_and_retry_after_is_honoured() {
        let policy = RetryPolicy::default();
        assert_eq!(policy.pause(1, Duration::ZERO, None, true), Some(Duration::ZERO));
        let asked = Duration::from_secs(3);
        assert_eq!(policy.pause(1, Duration::ZERO, Some(asked), true), Some(asked));
    }
}
