//! The order in which the faults of a lane come: all of them once, in an order that follows from the seed, before any
//! comes again.

use std::sync::{Mutex, MutexGuard, PoisonError};

use demo::seed::random::Random;

/// The faults of a lane, over all rounds of a run.
#[derive(Debug)]
pub struct Deck<T>(Mutex<Cards<T>>);

#[derive(Debug)]
struct Cards<T> {
    random: Random,
    all: Vec<T>,
    /// The last comes first.
    left: Vec<T>,
    missed: Vec<T>,
}

impl<T: Copy + PartialEq> Deck<T> {
    /// All of these, to be shuffled.
    pub fn new(all: Vec<T>, seed: u64) -> Self {
        Self(Mutex::new(Cards { random: Random::new(seed), all, left: Vec::new(), missed: Vec::new() }))
    }

    /// The next one; `None` if there are no faults at all.
    pub fn draw(&self) -> Option<T> {
        let mut cards = self.lock();
        if cards.left.is_empty() {
            cards.shuffle();
        }
        cards.left.pop()
    }

    /// That one found nothing to hit, so it did not really come: it is among the first when all have had their turn.
    pub fn missed(&self, fault: T) {
        self.lock().missed.push(fault);
    }

    fn lock(&self) -> MutexGuard<'_, Cards<T>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<T: Copy + PartialEq> Cards<T> {
    fn shuffle(&mut self) {
        let mut left = self.all.clone();
        self.random.shuffle(&mut left);
        let missed = std::mem::take(&mut self.missed);
        left.sort_by_key(|fault| missed.contains(fault));
        self.left = left;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_fault_comes_once_before_any_comes_again() {
        let deck = Deck::new((0..20).collect(), 7);
        let turn = || (0..20).filter_map(|_| deck.draw()).collect::<Vec<i32>>();
        let (first, second) = (turn(), turn());
        assert_ne!(first, second);
        for mut faults in [first, second] {
            faults.sort_unstable();
            assert_eq!(faults, (0..20).collect::<Vec<i32>>());
        }
    }

    #[test]
    fn what_found_nothing_to_hit_comes_first_of_the_next_turn_and_keeps_nothing_else_away() {
        let deck = Deck::new((0..20).collect::<Vec<i32>>(), 7);
        let missed = deck.draw();
        deck.missed(missed.unwrap_or_default());
        let others: Vec<i32> = (1..20).filter_map(|_| deck.draw()).collect();
        assert!(!others.contains(&missed.unwrap_or_default()));
        assert_eq!(deck.draw(), missed);
    }
}
