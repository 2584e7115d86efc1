//! Rate and time of arrival, from what the checkpoints say.

use std::time::Duration;

use jiff::{SignedDuration, Timestamp};

use super::elapsed;
use super::phase::Phase;

/// Over which time the rate is averaged: long enough to be steady, short enough to follow a change.
const MEMORY: Duration = Duration::from_secs(20);
/// Two looks closer together than this say nothing about the rate.
const SHORTEST: Duration = Duration::from_millis(500);

/// Remembers the last look. Lives in memory: after a restart the rate is measured anew.
#[derive(Debug, Default)]
pub(super) struct Pace {
    last: Option<Look>,
    rate: Option<f64>,
    highest: Option<(Phase, f64)>,
}

#[derive(Debug, Clone, Copy)]
struct Look {
    phase: Phase,
    at: Timestamp,
    done: u64,
}

impl Pace {
    /// Notes how many documents are done now; returns the rate in documents per second, if known.
    pub fn note(&mut self, phase: Phase, done: u64, now: Timestamp) -> Option<f64> {
        let last = self.last.filter(|last| last.phase == phase && last.done <= done);
        let Some(last) = last else {
            self.last = Some(Look { phase, at: now, done });
            self.rate = None;
            return None;
        };
        let span = elapsed(last.at, now);
        // Nothing done yet says nothing: the first pages are still on their way.
        let is_silent = self.rate.is_none() && done == last.done;
        if span < SHORTEST || is_silent {
            return self.rate;
        }
        let seconds = span.as_secs_f64();
        let fresh = (done - last.done) as f64 / seconds;
        let weight = 1.0 - (-seconds / MEMORY.as_secs_f64()).exp();
        self.rate = Some(self.rate.map_or(fresh, |rate| rate + (fresh - rate) * weight));
        self.last = Some(Look { phase, at: now, done });
        self.rate
    }

    /// The share done, which never goes back within a phase (new units make the whole larger).
    pub fn percent(&mut self, phase: Phase, percent: f64) -> f64 {
        let highest =
            self.highest.filter(|(of, _)| *of == phase).map_or(percent, |(_, most)| most.max(percent));
        self.highest = Some((phase, highest));
        highest
    }
}

/// When `left` documents will be done at `rate`; `None` if that cannot be said.
pub(super) fn eta(left: u64, rate: Option<f64>, now: Timestamp) -> Option<Timestamp> {
    let rate = rate.filter(|rate| *rate >= 0.1)?;
    let seconds = left as f64 / rate;
    if !seconds.is_finite() || seconds > 400.0 * 86_400.0 {
        return None;
    }
    now.checked_add(SignedDuration::from_secs_f64(seconds.ceil())).ok()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(1_700_000_000 + second).unwrap()
    }

    #[test]
    fn the_rate_is_that_of_a_steady_walk() {
        let mut pace = Pace::default();
        assert_eq!(pace.note(Phase::Copying, 0, at(0)), None);
        for second in 1..60 {
            let rate = pace.note(Phase::Copying, u64::try_from(second).unwrap() * 100, at(second)).unwrap();
            assert!((rate - 100.0).abs() < 1e-6);
        }
    }

    #[test]
    fn a_new_phase_is_measured_anew() {
        let mut pace = Pace::default();
        pace.note(Phase::Copying, 0, at(0));
        pace.note(Phase::Copying, 500, at(5));
        assert_eq!(pace.note(Phase::Verifying, 0, at(6)), None);
    }

    #[test]
    fn the_share_never_goes_back_within_a_phase() {
        let mut pace = Pace::default();
        assert!((pace.percent(Phase::Copying, 40.0) - 40.0).abs() < f64::EPSILON);
        assert!((pace.percent(Phase::Copying, 35.0) - 40.0).abs() < f64::EPSILON);
        assert!((pace.percent(Phase::Verifying, 1.0) - 1.0).abs() < f64::EPSILON);
    }

    #[test]
    fn the_arrival_is_left_over_rate() {
        assert_eq!(eta(1_000, Some(10.0), at(0)), Some(at(100)));
        assert_eq!(eta(1_000, None, at(0)), None);
        assert_eq!(eta(1_000, Some(0.0), at(0)), None);
    }
}
