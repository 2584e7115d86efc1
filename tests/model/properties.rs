//! What must hold in every state that can be reached, and what must have been reached at all.

use stateright::{Model, Property};

use super::protocol::{KEYS, MOST_REPEATED, Place, Protocol, Stage, State, Worker, units_are_sound};

pub const NOTHING_LOST: &str = "what is checkpointed is in the destination, as it was read or newer";
pub const VERIFIED_IS_EQUAL: &str = "what was compared is equal";
pub const NOTHING_TWICE: &str = "each position has one accepted checkpoint";
pub const NEVER_BACK: &str = "a cursor never goes back";
pub const NO_STRANGER: &str = "only who has the lease moves the cursor";
pub const SOUND: &str = "units are sound";
pub const COMPLETED_IS_EQUAL: &str =
    "completed means equal: nothing lost, nothing stale, nothing resurrected";
pub const NO_CIRCLE: &str = "the last comparison is made again only after a late write";
pub const END_REACHED: &str = "it is completed with chunks in the destination";
pub const ENDS: &str = "nothing is left to do only when it is completed";

pub fn all() -> Vec<Property<Protocol>> {
    vec![
        Property::always(NOTHING_LOST, |_, state: &State| nothing_is_lost(state)),
        Property::always(VERIFIED_IS_EQUAL, |_, state: &State| compared_is_equal(state)),
        Property::always(NOTHING_TWICE, |_, state: &State| !state.accepted_twice),
        Property::always(NEVER_BACK, |_, state: &State| !state.went_back),
        Property::always(NO_STRANGER, |_, state: &State| !state.moved_by_a_stranger),
        Property::always(SOUND, |_, state: &State| units_are_sound(state)),
        Property::always(COMPLETED_IS_EQUAL, |_, state: &State| {
            state.stage != Stage::Completed || sides_are_equal(state)
        }),
        Property::always(NO_CIRCLE, |_, state: &State| state.repeated <= MOST_REPEATED),
        Property::always(ENDS, |model: &Protocol, state: &State| {
            let mut actions = Vec::new();
            model.actions(state, &mut actions);
            !actions.is_empty() || state.stage == Stage::Completed
        }),
        // The search would prove nothing had it never come here.
        Property::sometimes(END_REACHED, |_, state: &State| {
            let is_written = state.destination.iter().any(|slot| slot.content.is_some());
            state.stage == Stage::Completed
                && is_written
                && state.workers.iter().all(|worker| *worker == Worker::Idle)
        }),
    ]
}

fn live(state: &State) -> impl Iterator<Item = (usize, Place)> + '_ {
    (0..KEYS).filter_map(|key| state.source[key].map(|place| (key, place)))
}

fn nothing_is_lost(state: &State) -> bool {
    live(state)
        .filter(|(_, place)| state.copied.has(*place))
        .all(|(key, place)| state.destination[key].content == Some(place))
}

fn compared_is_equal(state: &State) -> bool {
    live(state)
        .filter(|(_, place)| state.verified.has(*place) && !state.quarantined.has(*place))
        .all(|(key, place)| state.destination[key].content == Some(place))
}

fn sides_are_equal(state: &State) -> bool {
    state.source.iter().zip(&state.destination).all(|(live, slot)| slot.content == *live)
}
