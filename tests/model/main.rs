//! A model of the protocol, searched exhaustively: leases, epochs, checkpoints, external versions, repairs, deletions
//! and the end, with two workers that die, sleep and wake up, answers that get lost, and a source that changes.
//!
//! [`protocol`] is the state machine, built on the very functions that the code uses; [`properties`] says what must
//! hold in every state. The tests below also break one rule after the other: a model that finds nothing then would
//! prove nothing.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::print_stderr, missing_docs)]

mod properties;
mod protocol;

use properties::{COMPLETED_IS_EQUAL, NO_CIRCLE, NO_STRANGER, NOTHING_LOST};
use protocol::{Budget, Protocol, Rules};
use stateright::{Checker, HasDiscoveries, Model};

/// One update and one deletion, at any moment.
const CHANGES: Budget = Budget { updates: 1, deletions: 1, ..Budget::NONE };
/// A chunk that comes back after its deletion, on either shard.
const RETURN: Budget = Budget { deletions: 1, insertions: 1, ..Budget::NONE };
const TWO_UPDATES: Budget = Budget { updates: 2, ..Budget::NONE };

/// Searches every state; prints how many there are.
fn holds(budget: Budget) {
    let checker = Protocol { rules: Rules::ALL, budget }.checker().threads(2).spawn_bfs().join();
    eprintln!("{budget:?}: {} states, at most {} steps", checker.unique_state_count(), checker.max_depth());
    checker.assert_properties();
}

/// Breaks a rule and asserts that one of the properties is found violated; prints the way there.
fn is_noticed(rules: Rules, budget: Budget, by: &[&'static str]) {
    let stop = HasDiscoveries::AnyOf(by.iter().copied().collect());
    let checker = Protocol { rules, budget }.checker().threads(2).finish_when(stop).spawn_bfs().join();
    let found = by.iter().find_map(|property| checker.discovery(property).map(|path| (property, path)));
    let (property, path) =
        found.unwrap_or_else(|| panic!("not noticed after {} states", checker.unique_state_count()));
    let actions: Vec<String> = path.into_actions().iter().map(|action| format!("{action:?}")).collect();
    eprintln!("violated: {property}\n  {}", actions.join("\n  "));
}

#[test]
fn a_source_that_changes_is_followed_whatever_the_order_of_events() {
    holds(CHANGES);
    holds(Budget { insertions: 1, ..CHANGES });
}

#[test]
fn workers_that_die_sleep_and_hear_nothing_lose_and_double_nothing() {
    holds(Budget { crashes: 1, takeovers: 1, lost_answers: 1, ..Budget::NONE });
}

#[test]
fn the_bulk_of_a_dead_worker_may_arrive_at_any_time() {
    holds(Budget { crashes: 1, ..CHANGES });
    holds(Budget { crashes: 1, ..RETURN });
}

#[test]
fn a_worker_may_sleep_beyond_its_lease_and_wake_up_at_any_time() {
    holds(Budget { takeovers: 1, ..CHANGES });
    holds(Budget { takeovers: 1, ..RETURN });
    holds(Budget { takeovers: 1, ..TWO_UPDATES });
}

#[test]
fn answers_of_bulks_and_checkpoints_may_be_lost() {
    holds(Budget { lost_answers: 1, ..CHANGES });
}

#[test]
fn deletions_may_be_forgotten_by_the_destination() {
    let deletion = Budget { deletions: 1, forgotten: 1, ..Budget::NONE };
    holds(Budget { crashes: 1, ..deletion });
    holds(Budget { takeovers: 1, ..deletion });
}

/// Some millions of states: `make model`.
#[test]
#[ignore = "takes minutes; make model runs it"]
fn everything_at_once() {
    holds(Budget { crashes: 1, takeovers: 1, ..CHANGES });
    holds(Budget { takeovers: 1, lost_answers: 1, ..CHANGES });
    holds(Budget { takeovers: 2, ..CHANGES });
    holds(Budget { crashes: 1, takeovers: 1, lost_answers: 1, ..CHANGES });
}

#[test]
fn a_checkpoint_without_its_epoch_is_noticed() {
    is_noticed(
        Rules { epochs_are_compared: false, ..Rules::ALL },
        Budget { takeovers: 1, ..CHANGES },
        &[NO_STRANGER],
    );
}

#[test]
fn writes_without_versions_are_noticed() {
    is_noticed(
        Rules { versions_are_compared: false, ..Rules::ALL },
        Budget { takeovers: 1, ..CHANGES },
        &[NOTHING_LOST, COMPLETED_IS_EQUAL],
    );
}

#[test]
fn a_checkpoint_before_the_acknowledgement_is_noticed() {
    is_noticed(Rules { acknowledged_first: false, ..Rules::ALL }, CHANGES, &[NOTHING_LOST]);
}

#[test]
fn versions_by_the_sequence_number_alone_are_noticed() {
    is_noticed(
        Rules { passes_are_counted: false, ..Rules::ALL },
        Budget { takeovers: 1, ..RETURN },
        &[NOTHING_LOST],
    );
}

#[test]
fn a_deletion_at_the_version_found_is_noticed() {
    is_noticed(Rules { deletions_are_above: false, ..Rules::ALL }, CHANGES, &[NO_CIRCLE]);
}

#[test]
fn workers_that_may_write_until_the_end_are_noticed() {
    is_noticed(
        Rules { workers_are_stopped: false, ..Rules::ALL },
        Budget { crashes: 1, forgotten: 1, ..CHANGES },
        &[COMPLETED_IS_EQUAL],
    );
}

#[test]
fn a_verdict_without_the_last_count_is_noticed() {
    is_noticed(
        Rules { counted_again: false, ..Rules::ALL },
        Budget { crashes: 1, ..CHANGES },
        &[COMPLETED_IS_EQUAL],
    );
}
