//! What people are told: everything that the status, the progress bars and the metrics are made from. Pure.

mod deletion;
mod newcomers;

use std::time::Duration;

use jiff::{SignedDuration, Timestamp};

pub use self::deletion::SourceDeletionReport;
pub use self::newcomers::NOT_MERGED;
use super::memo::GraphMemo;
use super::observe::{Observation, Rows, active};
use super::phase::Phase;
use super::plan::{Next, Waiting};
use super::progress::{Pace, eta};
use super::valid::{SourceWrites, ValidMerge, Verification};
use crate::state::{KindTotals, SourceDeletion, SourceState};

/// Collections that a report names.
const ATTENTION: usize = 20;

/// The state of a merge after a step.
#[derive(Debug, Clone, PartialEq)]
pub struct Report {
    /// Where it stands.
    pub phase: Phase,
    /// When the next step is due.
    pub next: Next,
    /// How far it is.
    pub progress: Progress,
    /// How far the destination may be behind the sources, counting what is copied; known from `Synced` on.
    pub lag: Option<Duration>,
    /// Name and uuid of the destination index.
    pub destination: Option<(String, String)>,
    /// What needs a person, the gravest first, at most 20.
    pub attention: Vec<Attention>,
    /// How many such entries there are in all.
    pub attention_total: u64,
    /// Chunks in quarantine.
    pub quarantined: u64,
    /// Processes that hold leases.
    pub workers: u64,
    /// How chunks are read and written.
    pub lanes: Option<String>,
    /// When the merge was claimed.
    pub started_at: Option<Timestamp>,
    /// When it was completed.
    pub completed_at: Option<Timestamp>,
    /// One for each domain condition.
    pub facts: Vec<Fact>,
    /// One sentence, stable: no counter, and no time that goes on.
    pub message: String,
    /// Set when the merge does not go on by itself.
    pub waiting: Option<Waiting>,
    /// Something of ours is on the servers that must be put back if the resource goes away.
    pub load_settings_applied: bool,
    /// How long writers were refused in the cutover, in seconds.
    pub writes_refused_seconds: Option<f64>,
    /// What becomes of the source indices, if they are or were to be deleted.
    pub source_deletion: Option<SourceDeletionReport>,
}

/// How far a merge is.
#[derive(Debug, Clone, PartialEq)]
pub struct Progress {
    /// Collections that take part.
    pub collections: u64,
    /// Of those, the ones that are done with the present walk.
    pub collections_done: u64,
    /// Documents of the present walk.
    pub documents: u64,
    /// Of those, the ones that are done.
    pub documents_done: u64,
    /// Bytes copied and compared since the start, in all phases.
    pub bytes_done: u64,
    /// Share of the present walk, 0 to 100, never going back within a phase.
    pub percent: f64,
    /// Documents per second.
    pub rate: Option<f64>,
    /// When the present walk ends.
    pub eta: Option<Timestamp>,
}

/// A collection that needs a person.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Attention {
    /// The collection.
    pub collection: i64,
    /// CamelCase, of a bounded set.
    pub reason: String,
    /// What is the matter, and what to do.
    pub message: String,
}

/// One domain condition.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fact {
    /// Which.
    pub kind: FactKind,
    /// `None`: unknown yet.
    pub status: Option<bool>,
    /// CamelCase, of a bounded set.
    pub reason: &'static str,
    /// For people.
    pub message: String,
}

/// The domain conditions.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum FactKind {
    /// Every collection that has an index is known.
    SourcesResolved,
    /// The destination exists and fits.
    DestinationReady,
    /// Everything up to the last pass is copied.
    Copied,
    /// Everything that was copied was compared.
    Verified,
    /// The destination is as near to the sources as `cutover.maxLag` asks.
    Synced,
    /// The verdict is positive.
    CutOver,
    /// Every source index that may be deleted is.
    SourcesDeleted,
}

impl FactKind {
    /// The condition's type.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            FactKind::SourcesResolved => "SourcesResolved",
            FactKind::DestinationReady => "DestinationReady",
            FactKind::Copied => "Copied",
            FactKind::Verified => "Verified",
            FactKind::Synced => "Synced",
            FactKind::CutOver => "CutOver",
            FactKind::SourcesDeleted => "SourcesDeleted",
        }
    }
}

/// What a report is made from.
pub(super) struct Inputs<'a> {
    pub spec: &'a ValidMerge,
    pub seen: &'a Observation,
    pub rows: &'a Rows,
    pub next: Next,
    pub waiting: Option<Waiting>,
    pub lanes: Option<String>,
    pub now: Timestamp,
}

/// Makes the report.
pub(super) fn report(inputs: &Inputs<'_>, pace: &mut Pace) -> Report {
    let Inputs { spec, seen, rows, now, .. } = *inputs;
    // Whoever only helps does not know whether everything is let go of.
    let suspended = spec.suspend
        && inputs.next == Next::Settled
        && !matches!(seen.phase, Phase::Completed | Phase::Failed);
    let phase = if suspended { Phase::Suspended } else { seen.phase };
    let attention = attention(rows);
    let source_deletion = deletion::source_deletion(spec, seen);
    let attention_total = attention.len() as u64;
    let mut message = message(phase, spec, seen, rows);
    message.push_str(newcomers::sentence(&rows.memo.newcomers));
    message.push_str(&deletion::sentence(source_deletion.as_ref(), now));
    Report {
        phase,
        next: inputs.next,
        progress: progress(seen.phase, rows, pace, now),
        lag: matches!(seen.phase, Phase::Synced | Phase::CuttingOver)
            .then(|| seen.lag_now(now))
            .filter(|&lag| lag < Duration::MAX),
        destination: rows
            .memo
            .destination
            .as_ref()
            .map(|destination| (spec.destination.index.to_string(), destination.uuid.clone())),
        attention: attention.into_iter().take(ATTENTION).collect(),
        attention_total,
        quarantined: rows.totals.quarantined.max(0).unsigned_abs(),
        workers: rows.totals.workers.max(0).unsigned_abs(),
        lanes: inputs.lanes.clone(),
        started_at: Some(rows.merge.started_at),
        completed_at: rows.merge.completed_at,
        facts: facts(spec, seen, rows)
            .into_iter()
            .chain([deletion::fact(seen, source_deletion.as_ref())])
            .collect(),
        message,
        waiting: inputs.waiting.clone(),
        load_settings_applied: rows.memo.destination.is_some() && seen.phase != Phase::Completed,
        writes_refused_seconds: rows.memo.writes_refused_seconds,
        source_deletion,
    }
}

fn progress(phase: Phase, rows: &Rows, pace: &mut Pace, now: Timestamp) -> Progress {
    let totals = &rows.totals;
    let may_verify =
        matches!(phase, Phase::Verifying | Phase::Synced | Phase::CuttingOver | Phase::Completed);
    // Where chunks are only counted, copying is the only walk.
    let verifying = may_verify && totals.verify.units > 0;
    let walk: &KindTotals = if verifying { &totals.verify } else { &totals.copy };
    let live: u64 = active(&rows.sources).map(|source| source.documents.max(0).unsigned_abs()).sum();
    let done = walk.counts.documents.max(0).unsigned_abs();
    // A finished walk has seen superseded documents too; an unfinished one is measured by its estimate.
    let documents = if walk.units == walk.units_done { done.max(live.min(done)) } else { live.max(done) };
    let rate = pace.note(phase, done, now);
    let share = if phase == Phase::Completed {
        100.0
    } else if walk.positions_total > 0 {
        walk.positions_done as f64 * 100.0 / walk.positions_total as f64
    } else {
        0.0
    };
    let collections = active(&rows.sources).count() as u64;
    let collections_done = if walk.units > 0 { collections.saturating_sub(rows.sources_open) } else { 0 };
    Progress {
        collections,
        collections_done,
        documents,
        documents_done: done.min(documents),
        bytes_done: (totals.copy.counts.bytes_read + totals.verify.counts.bytes_read).max(0).unsigned_abs(),
        percent: pace.percent(phase, share),
        rate: rate.filter(|_| walk.units > walk.units_done),
        eta: eta(documents.saturating_sub(done), rate, now).filter(|_| walk.units > walk.units_done),
    }
}

/// Everything that needs a person, the gravest first, then by collection id. What is stored with a source is `Reason: message`.
fn attention(rows: &Rows) -> Vec<Attention> {
    let Rows { sources, memo, .. } = rows;
    let mut all: Vec<Attention> = memo
        .without_index
        .iter()
        .map(|(&collection, why)| Attention {
            collection,
            reason: why.reason.as_str().to_owned(),
            message: why.message.clone(),
        })
        .collect();
    for source in
        sources.iter().filter(|source| matches!(source.state, SourceState::Active | SourceState::Waiting))
    {
        if let Some(text) = &source.attention {
            all.push(split(source.collection_id, text));
        }
        if let Some(SourceDeletion::Kept(reason)) = &source.deletion {
            all.push(deletion::kept(source, reason));
        }
        if !source.cuts.is_empty() && source.state == SourceState::Active {
            let cuts: Vec<String> =
                source.cuts.iter().map(|(reason, count)| format!("{count} {reason}")).collect();
            all.push(Attention {
                collection: source.collection_id,
                reason: "ContentCut".to_owned(),
                message: format!("what the contract's readers refuse was left out: {}", cuts.join(", ")),
            });
        }
    }
    for (&collection, classes) in &rows.quarantine {
        let named: Vec<String> = classes.iter().map(|(class, count)| format!("{count} {class}")).collect();
        all.push(Attention {
            collection,
            reason: "Quarantined".to_owned(),
            message: format!(
                "{} chunks are in quarantine ({}); es-index-merge quarantine list tells why",
                classes.values().sum::<i64>(),
                named.join(", ")
            ),
        });
    }
    for name in &memo.strays {
        if let Ok(collection) = name.parse() {
            all.push(Attention {
                collection,
                reason: "CollectionMissing".to_owned(),
                message: format!(
                    "the index {name} belongs to no collection and is left alone; delete it if nobody needs it"
                ),
            });
        }
    }
    all.extend(newcomers::attention(&memo.newcomers, sources));
    all.sort_by(|a, b| {
        (severity(&a.reason), a.collection, &a.reason).cmp(&(severity(&b.reason), b.collection, &b.reason))
    });
    all
}

/// Whole collections that are missing come first, in one entry; what is only cut comes after what is missing; indices that are
/// nobody's come last, as they may be many.
fn severity(reason: &str) -> u8 {
    match reason {
        "CollectionMissing" => 3,
        "ContentCut" => 2,
        NOT_MERGED => 0,
        _ => 1,
    }
}

fn split(collection: i64, text: &str) -> Attention {
    let (reason, message) = text.split_once(": ").unwrap_or(("Attention", text));
    Attention { collection, reason: reason.to_owned(), message: message.to_owned() }
}

fn facts(spec: &ValidMerge, seen: &Observation, rows: &Rows) -> Vec<Fact> {
    let after = |phase: Phase| seen.phase >= phase;
    let fact = |kind, holds: bool, yes: &'static str, no: &'static str, message: &str| Fact {
        kind,
        status: Some(holds),
        reason: if holds { yes } else { no },
        message: message.to_owned(),
    };
    let verdict = rows.memo.verdict.as_ref();
    let cut_over = match verdict {
        Some(verdict) if seen.phase == Phase::Completed => {
            fact(FactKind::CutOver, true, "VerdictPositive", "NotYet", &verdict.message)
        }
        Some(verdict) if seen.phase == Phase::Failed => {
            fact(FactKind::CutOver, false, "", "VerdictNegative", &verdict.message)
        }
        Some(_) | None => {
            let why = seen.cutover.last_failure.as_deref().unwrap_or("");
            fact(FactKind::CutOver, false, "", "NotYet", why)
        }
    };
    // A verdict speaks of what was done for it, whatever the spec says now.
    let counted_only = match verdict {
        Some(verdict) if matches!(seen.phase, Phase::Completed | Phase::Failed) => verdict.counted_only,
        Some(_) | None => spec.verification == Verification::Counts,
    };
    let is_compared = after(Phase::Synced) && seen.verify.open == 0;
    let not_compared = if counted_only { "CountedOnly" } else { "InProgress" };
    let graph_done = matches!(seen.graph, GraphMemo::Direct | GraphMemo::Built);
    vec![
        fact(FactKind::SourcesResolved, after(Phase::Copying), "Resolved", "NotYet", ""),
        fact(FactKind::DestinationReady, after(Phase::Copying), "Ready", "NotYet", ""),
        fact(
            FactKind::Copied,
            after(Phase::Indexing) && seen.copy.open == 0 && graph_done,
            "Copied",
            "InProgress",
            "",
        ),
        fact(FactKind::Verified, is_compared && !counted_only, "Compared", not_compared, ""),
        fact(FactKind::Synced, after(Phase::Synced), "Following", "NotYet", ""),
        cut_over,
    ]
}

/// Stable text: it changes with the state, not with time; a moment in it is one that stands.
fn message(phase: Phase, spec: &ValidMerge, seen: &Observation, rows: &Rows) -> String {
    let verdict = || rows.memo.verdict.as_ref().map_or_else(String::new, |verdict| verdict.message.clone());
    match phase {
        Phase::Pending => "checks the parts and claims the destination".to_owned(),
        Phase::Preparing => "prepares the destination and resolves the sources".to_owned(),
        Phase::Copying => "copies every chunk".to_owned(),
        Phase::Indexing if seen.copy.open > 0 => "catches up with what changed while copying".to_owned(),
        Phase::Indexing => match seen.graph {
            GraphMemo::Loading | GraphMemo::Switched { .. } => "builds the vector graph".to_owned(),
            GraphMemo::Direct | GraphMemo::Built => "puts the settings of service back".to_owned(),
        },
        Phase::Verifying => match spec.verification {
            Verification::Full => "compares every chunk with the destination".to_owned(),
            Verification::Counts => "compares nothing: the chunks are counted in the cutover".to_owned(),
        },
        Phase::Synced => "follows the sources".to_owned(),
        Phase::CuttingOver => cutting_over(spec, seen),
        Phase::Completed => verdict(),
        Phase::Suspended => "suspended at a checkpoint; set spec.suspend to false to go on".to_owned(),
        Phase::Failed => format!("{}; then set a new spec.retryToken", verdict()),
    }
}

/// Since when writers are refused, and for how long at most: the same sentence during the whole attempt, once the first
/// write block is asked for.
fn cutting_over(spec: &ValidMerge, seen: &Observation) -> String {
    let Some(blocked_at) = seen.cutover.blocked_at else {
        return match spec.cutover.source_writes {
            SourceWrites::Block => "last pass and verdict; no writer is refused yet".to_owned(),
            SourceWrites::Allow => "last pass and verdict; no writer is refused".to_owned(),
        };
    };
    let timeout = SignedDuration::try_from(spec.cutover.timeout).ok();
    let until =
        seen.cutover.started_at.zip(timeout).and_then(|(from, timeout)| from.checked_add(timeout).ok());
    let given_up = until.map_or_else(String::new, |until| {
        format!("; given up after {} unless it is done", to_the_second(until))
    });
    format!(
        "writers are refused since {}: last pass and verdict{given_up}; spec.suspend: true gives it up now",
        to_the_second(blocked_at)
    )
}

/// A moment as it is told: RFC 3339, in whole seconds.
fn to_the_second(moment: Timestamp) -> impl std::fmt::Display {
    moment.strftime("%Y-%m-%dT%H:%M:%SZ")
}

#[cfg(test)]
mod tests;
