//! The nodes of one cluster: taken in turn, and left out for a while after they failed.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// How long a node is left out after its first failure; doubles with each further one.
const FIRST_ABSENCE: Duration = Duration::from_secs(5);
/// Longest time that a node is left out.
const LONGEST_ABSENCE: Duration = Duration::from_mins(1);

/// A set of nodes, each with what is needed to talk to it (`T`).
#[derive(Debug)]
pub(super) struct Nodes<T> {
    nodes: Vec<Node<T>>,
    next: AtomicUsize,
}

#[derive(Debug)]
struct Node<T> {
    link: T,
    absence: Mutex<Absence>,
}

#[derive(Debug, Default, Clone, Copy)]
struct Absence {
    failures: u32,
    until: Option<Instant>,
}

impl<T> Nodes<T> {
    pub(super) fn new(links: Vec<T>) -> Self {
        let nodes =
            links.into_iter().map(|link| Node { link, absence: Mutex::new(Absence::default()) }).collect();
        Self { nodes, next: AtomicUsize::new(0) }
    }

    pub(super) fn len(&self) -> usize {
        self.nodes.len()
    }

    /// The next node: one that was not tried yet and did not fail lately, or else the one that is back first.
    ///
    /// `None` only for an empty set.
    pub(super) fn pick(&self, tried: &[usize], now: Instant) -> Option<(usize, &T)> {
        let count = self.nodes.len();
        let start = self.next.fetch_add(1, Ordering::Relaxed);
        let in_turn = || (0..count).map(|step| (start.wrapping_add(step)) % count);
        let back_at = |index: usize| self.nodes.get(index).and_then(|node| node.absence().until);
        let is_present = |index: usize| back_at(index).is_none_or(|until| until <= now);
        let index = in_turn()
            .find(|&index| !tried.contains(&index) && is_present(index))
            .or_else(|| in_turn().find(|&index| !tried.contains(&index)))
            .or_else(|| in_turn().min_by_key(|&index| back_at(index)))?;
        self.nodes.get(index).map(|node| (index, &node.link))
    }

    /// Whether a node is at hand that was not tried yet and did not fail lately.
    pub(super) fn has_fresh(&self, tried: &[usize], now: Instant) -> bool {
        self.nodes.iter().enumerate().any(|(index, node)| {
            !tried.contains(&index) && node.absence().until.is_none_or(|until| until <= now)
        })
    }

    pub(super) fn failed(&self, index: usize, now: Instant) {
        if let Some(node) = self.nodes.get(index) {
            let mut absence = node.absence.lock().unwrap_or_else(PoisonError::into_inner);
            let length = FIRST_ABSENCE.saturating_mul(1 << absence.failures.min(8)).min(LONGEST_ABSENCE);
            absence.failures = absence.failures.saturating_add(1);
            absence.until = Some(now + length);
        }
    }

    pub(super) fn answered(&self, index: usize) {
        if let Some(node) = self.nodes.get(index) {
            *node.absence.lock().unwrap_or_else(PoisonError::into_inner) = Absence::default();
        }
    }
}

impl<T> Node<T> {
    fn absence(&self) -> Absence {
        *self.absence.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn picked(nodes: &Nodes<char>, tried: &[usize], now: Instant) -> Option<char> {
        nodes.pick(tried, now).map(|(_, link)| *link)
    }

    #[test]
    fn nodes_are_taken_in_turn() {
        let nodes = Nodes::new(vec!['a', 'b', 'c']);
        let now = Instant::now();
        let order: Vec<_> = (0..6).filter_map(|_| picked(&nodes, &[], now)).collect();
        assert_eq!(order, ['a', 'b', 'c', 'a', 'b', 'c']);
    }

    #[test]
    fn a_failed_node_is_left_out_until_its_time_is_over() {
        let nodes = Nodes::new(vec!['a', 'b']);
        let now = Instant::now();
        nodes.failed(0, now);
        assert!((0..4).all(|_| picked(&nodes, &[], now) == Some('b')));
        assert!(!nodes.has_fresh(&[1], now));
        let later = now + FIRST_ABSENCE;
        let order: Vec<_> = (0..2).filter_map(|_| picked(&nodes, &[], later)).collect();
        assert!(order.contains(&'a') && order.contains(&'b'));
    }

    #[test]
    fn when_all_failed_one_is_still_tried() {
        let nodes = Nodes::new(vec!['a', 'b']);
        let now = Instant::now();
        nodes.failed(0, now);
        nodes.failed(0, now);
        nodes.failed(1, now);
        assert_eq!(picked(&nodes, &[0], now), Some('b'));
        assert_eq!(picked(&nodes, &[0, 1], now), Some('b'), "the one that is back first");
        nodes.answered(0);
        assert!(nodes.has_fresh(&[], now));
    }

    #[test]
    fn an_empty_set_has_no_node() {
        assert_eq!(picked(&Nodes::new(vec![]), &[], Instant::now()), None);
    }
}
