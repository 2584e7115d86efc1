//! What was injected and what came of it, as a table.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Mutex, MutexGuard, PoisonError};

use demo::checker::Verdict;
use demo::seed::writer::Counts;

/// What a live writer does: without one of these a run shows less than it seems to.
const CHANGES: [&str; 4] = ["insert", "update", "partial update", "deletion"];

/// Sums over all rounds.
#[derive(Debug)]
pub struct Tally(Mutex<Sums>);

#[derive(Debug, Default)]
struct Sums {
    /// By fault: how often it was injected, and how often in a round that ended well.
    faults: BTreeMap<&'static str, (u64, u64)>,
    /// Of the round that goes on.
    open: BTreeMap<&'static str, u64>,
    /// What the live writers did, in the order of [`CHANGES`].
    changes: [u64; CHANGES.len()],
    merges: u64,
    documents: usize,
    lost: u64,
    doubled: u64,
    different: u64,
    failures: Vec<String>,
}

impl Tally {
    /// An empty one. Of these faults it also tells that they did not come.
    pub fn new(faults: impl Iterator<Item = &'static str>) -> Self {
        Self(Mutex::new(Sums { faults: faults.map(|fault| (fault, (0, 0))).collect(), ..Sums::default() }))
    }

    /// A fault was injected so many times.
    pub fn injected(&self, fault: &'static str, times: u64) {
        if times > 0 {
            *self.lock().open.entry(fault).or_default() += times;
        }
    }

    /// What the live writer of a round did.
    pub fn wrote(&self, counts: &Counts) {
        let made = [counts.inserted, counts.updated, counts.partly_updated, counts.documents_deleted];
        for (sum, times) in self.lock().changes.iter_mut().zip(made) {
            *sum += times;
        }
    }

    /// What no live writer did in any round.
    pub fn never_made(&self) -> Vec<&'static str> {
        let changes = self.lock().changes;
        CHANGES.into_iter().zip(changes).filter(|(_, times)| *times == 0).map(|(change, _)| change).collect()
    }

    /// A merge ended, and this is what the checker found.
    pub fn checked(&self, verdict: &Verdict) {
        let mut sums = self.lock();
        sums.merges += 1;
        sums.documents += verdict.destination_documents;
        sums.lost += verdict.missing.count;
        sums.doubled += verdict.extra.count + verdict.duplicated.count;
        sums.different += verdict.different.count;
    }

    /// Something else than the data is not as it should be.
    pub fn failed(&self, failure: &str) {
        crate::say(&format!("FAILED: {failure}"));
        self.lock().failures.push(failure.to_owned());
    }

    /// The round is over; its faults were survived if nothing of it failed.
    pub fn close(&self, well: bool) {
        let mut sums = self.lock();
        for (fault, times) in std::mem::take(&mut sums.open) {
            let (injected, survived) = sums.faults.entry(fault).or_default();
            *injected += times;
            if well {
                *survived += times;
            }
        }
    }

    /// How many failures there are so far.
    pub fn failures(&self) -> usize {
        self.lock().failures.len()
    }

    /// Nothing lost, doubled or different, and nothing failed.
    pub fn is_good(&self) -> bool {
        let sums = self.lock();
        sums.merges > 0 && sums.lost + sums.doubled + sums.different == 0 && sums.failures.is_empty()
    }

    fn lock(&self) -> MutexGuard<'_, Sums> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Display for Tally {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        {
            let sums = self.lock();
            writeln!(f, "{:<48} {:>8} {:>8}", "fault", "injected", "survived")?;
            for (fault, (injected, survived)) in &sums.faults {
                writeln!(f, "{fault:<48} {injected:>8} {survived:>8}")?;
            }
            writeln!(f, "\n{} merges, {} documents checked", sums.merges, sums.documents)?;
            let made = CHANGES.iter().zip(sums.changes).map(|(change, times)| format!("{times} {change}s"));
            writeln!(f, "live writers: {}", made.collect::<Vec<_>>().join(", "))?;
            writeln!(f, "lost: {}  doubled: {}  different: {}", sums.lost, sums.doubled, sums.different)?;
            for failure in &sums.failures {
                writeln!(f, "failed: {failure}")?;
            }
        }
        write!(f, "verdict: {}", if self.is_good() { "survived" } else { "NOT survived" })
    }
}
