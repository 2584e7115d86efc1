//! What the status says, and when it is worth writing. Pure.
//!
//! - A condition's `lastTransitionTime` moves only when its status flips.
//! - `Ready` is true when the merge is complete and verified, `Reconciling` while work goes on or is tried again,
//!   `Stalled` when only a person can help: what `kubectl wait` and kstatus (Flux) expect. Argo CD knows none of them:
//!   deploy/argocd/argocd-cm.yaml teaches it.
//! - Messages hold no counter and no time that goes on; what counts is in `progress` and `summary`. Those are written when
//!   10 s have passed or 1 % was done, everything else at once, and what is equal not at all.
//! - Within a phase the percentage never goes back.

use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};

use super::events::{Happening, shorten};
use crate::{
    api::{
        AttentionStatus, DestinationStatus, EsIndexMergeStatus, MAX_ATTENTION, MAX_MESSAGE, ProgressStatus,
        SourceDeletionStatus, Summary,
    },
    merge::{MergeError, NOT_MERGED, Phase, Progress, Report, SourceDeletionReport},
};

/// How often progress alone is worth a write.
const PROGRESS_EVERY: Duration = Duration::from_secs(10);

/// What stands in the way, in the words of the person who can mend it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Failure {
    /// One of a finite set, `CamelCase`: condition reason, event reason and metric label alike.
    pub category: &'static str,
    /// What is wrong and what to do.
    pub message: String,
    /// Whether nothing is to be gained by trying again.
    pub terminal: bool,
    /// Whether only a person can mend it. It is tried again all the same, as it may be mended outside of the resource.
    pub needs_a_person: bool,
}

impl From<&MergeError> for Failure {
    fn from(error: &MergeError) -> Self {
        Self {
            category: error.category().as_str(),
            message: error.to_string(),
            terminal: error.is_terminal(),
            needs_a_person: error.needs_a_person(),
        }
    }
}

/// How acting on a resource ended.
#[derive(Debug)]
pub(super) enum Outcome {
    /// There was nothing to do, and there is nothing to say.
    Nothing,
    /// The engine made a step.
    Stepped(Box<Report>),
    /// The engine made a step, with secrets that are not the present ones; why it does not have those.
    Hindered(Box<Report>, Failure),
    /// The resource is suspended and no engine was ever opened for it.
    Rested,
    /// It did not work.
    Failed(Failure),
    /// The resource is being deleted and everything was put back and released.
    Released,
    /// The resource is being deleted, and something could not be put back: what, and why it goes nevertheless.
    Abandoned(String),
}

impl Outcome {
    /// What stands in the way.
    pub(super) fn failure(&self) -> Option<&Failure> {
        match self {
            Self::Failed(failure) | Self::Hindered(_, failure) => Some(failure),
            Self::Nothing | Self::Stepped(_) | Self::Rested | Self::Released | Self::Abandoned(_) => None,
        }
    }

    /// What the merge waits for, in one word.
    pub(super) fn waiting(&self) -> Option<&'static str> {
        match self {
            Self::Stepped(report) | Self::Hindered(report, _) => Some(report.waiting.as_ref()?.reason),
            Self::Nothing | Self::Rested | Self::Failed(_) | Self::Released | Self::Abandoned(_) => None,
        }
    }
}

/// The status that `outcome` makes of `previous`.
pub(super) fn next_status(
    previous: &EsIndexMergeStatus,
    outcome: &Outcome,
    generation: Option<i64>,
    now: Timestamp,
) -> EsIndexMergeStatus {
    let mut next = previous.clone();
    next.observed_generation = generation.or(previous.observed_generation);
    let mut conditions = Conditions { list: &mut next.conditions, generation, now };
    match outcome {
        Outcome::Nothing | Outcome::Released | Outcome::Abandoned(_) => {}
        Outcome::Rested => {
            conditions.summary(&Summarised::new(Standing::Resting, "Suspended", SUSPENDED));
            next.phase = Some(Phase::Suspended.as_str().to_owned());
            next.message = Some(SUSPENDED.to_owned());
        }
        Outcome::Failed(failure) => {
            let summarised = Summarised::failing(failure);
            conditions.summary(&summarised);
            if failure.terminal {
                next.phase = Some(Phase::Failed.as_str().to_owned());
            } else {
                next.phase.get_or_insert_with(|| Phase::Pending.as_str().to_owned());
            }
            next.message = Some(summarised.message);
            // What was measured in the last good step says nothing any more.
            next.workers = None;
            next.lag = None;
            if let Some(progress) = &mut next.progress {
                progress.documents_per_second = None;
                progress.eta = None;
            }
            if let Some(summary) = &mut next.summary {
                summary.rate = None;
            }
        }
        Outcome::Stepped(report) => stepped(&mut next, report, summarise(report), generation, now),
        Outcome::Hindered(report, failure) => {
            stepped(&mut next, report, Summarised::hindered(failure), generation, now);
        }
    }
    next
}

/// Takes over what a step reports; `summarised` is what the conditions say about it.
fn stepped(
    status: &mut EsIndexMergeStatus,
    report: &Report,
    summarised: Summarised,
    generation: Option<i64>,
    now: Timestamp,
) {
    let mut conditions = Conditions { list: &mut status.conditions, generation, now };
    conditions.summary(&summarised);
    for fact in &report.facts {
        conditions.set(fact.kind.as_str(), fact.status, fact.reason, &fact.message);
    }
    let same_phase = status.phase.as_deref() == Some(report.phase.as_str());
    let progress = progress(&report.progress, status.progress.as_ref().filter(|_| same_phase));
    status.summary = Some(summary(report.phase, &progress));
    status.progress = Some(progress);
    status.phase = Some(report.phase.as_str().to_owned());
    status.message = Some(summarised.message);
    status.lag = report.lag.map(in_words);
    status.destination = report.destination.clone().map(|(index, uuid)| DestinationStatus { index, uuid });
    status.lanes = report.lanes.as_ref().map(|lanes| shorten(lanes, 256));
    status.attention = attention(report);
    status.attention_total = Some(signed(report.attention_total));
    status.quarantined = Some(signed(report.quarantined));
    status.workers = Some(signed(report.workers));
    status.writes_refused = report
        .writes_refused_seconds
        .and_then(|seconds| Duration::try_from_secs_f64(seconds).ok())
        .map(in_words);
    status.source_deletion = report.source_deletion.as_ref().map(source_deletion);
    status.started_at = report.started_at.map(to_the_second);
    status.completed_at = report.completed_at.map(to_the_second);
}

/// Whether `next` is worth a write, when `previous` was written at `written_at` (unknown: by another process).
pub(super) fn worth_writing(
    previous: &EsIndexMergeStatus,
    next: &EsIndexMergeStatus,
    written_at: Option<Timestamp>,
    now: Timestamp,
) -> bool {
    if previous == next {
        return false;
    }
    let due = written_at.is_none_or(|at| now.duration_since(at).unsigned_abs() >= PROGRESS_EVERY);
    let percent = |status: &EsIndexMergeStatus| status.progress.as_ref().map(|progress| progress.percent);
    due || lasting(previous) != lasting(next) || percent(previous) != percent(next)
}

/// A status without what changes all the time while a merge runs.
fn lasting(status: &EsIndexMergeStatus) -> EsIndexMergeStatus {
    let unnumbered =
        |attention: &AttentionStatus| AttentionStatus { message: String::new(), ..attention.clone() };
    EsIndexMergeStatus {
        progress: None,
        summary: None,
        lag: None,
        workers: None,
        attention: status.attention.iter().map(unnumbered).collect(),
        quarantined: status.quarantined.map(|quarantined| quarantined.min(1)),
        source_deletion: status.source_deletion.as_ref().map(lasting_deletion),
        ..status.clone()
    }
}

/// What of it does not change with every index.
fn lasting_deletion(deletion: &SourceDeletionStatus) -> SourceDeletionStatus {
    SourceDeletionStatus {
        from: deletion.from.clone(),
        remaining: deletion.remaining.min(1),
        ..SourceDeletionStatus::default()
    }
}

/// What is worth an event in going from `previous` to `next`.
pub(super) fn happenings(
    previous: &EsIndexMergeStatus,
    next: &EsIndexMergeStatus,
    outcome: &Outcome,
) -> Vec<Happening> {
    let reason = |status: &EsIndexMergeStatus| {
        status.conditions.iter().find(|c| c.type_ == "Ready").map(|c| c.reason.clone()).unwrap_or_default()
    };
    let failing = |status: &EsIndexMergeStatus| condition_is(status, "Failing", "True");
    let (message, waiting) = match outcome {
        Outcome::Nothing => return Vec::new(),
        Outcome::Released => {
            return vec![Happening::normal("Released", "everything was put back and released")];
        }
        Outcome::Abandoned(what) => return vec![Happening::warning("CleanupAbandoned", what)],
        // The message of the status may be about what is waited for, or about the failure.
        Outcome::Stepped(report) | Outcome::Hindered(report, _) => {
            (report.message.as_str(), report.waiting.as_ref())
        }
        Outcome::Failed(_) | Outcome::Rested => (next.message.as_deref().unwrap_or_default(), None),
    };
    let mut happenings = Vec::new();
    if let Some(failure) = outcome.failure()
        && (reason(previous) != reason(next) || !failing(previous))
    {
        happenings.push(Happening::warning(failure.category, &failure.message));
    }
    if let Outcome::Failed(_) = outcome {
        return happenings;
    }
    if failing(previous) && !failing(next) {
        happenings.push(Happening::normal("Recovered", "what failed works again"));
    }
    let is_entered = previous.phase != next.phase;
    if is_entered {
        let phase = next.phase.as_deref().unwrap_or_default();
        let warning = phase == Phase::Failed.as_str();
        happenings.push(Happening { warning, reason: phase.to_owned(), note: message.to_owned() });
    }
    // While attempts fail, the status does not tell what was waited for before.
    let begins_to_wait = is_entered || (!failing(next) && reason(previous) != reason(next));
    if let Some(waiting) = waiting.filter(|_| begins_to_wait) {
        happenings.push(Happening::normal(waiting.reason, &waiting.message));
    }
    happenings.extend(deletion_happening(
        previous.source_deletion.as_ref(),
        next.source_deletion.as_ref(),
        message,
    ));
    if previous.quarantined.unwrap_or(0) == 0 && next.quarantined.unwrap_or(0) > 0 {
        let note = "chunks could not be copied and are kept aside; es-index-merge quarantine list tells why";
        happenings.push(Happening::warning("Quarantined", note));
    }
    let note = |about: &AttentionStatus| format!("collection {}: {}", about.collection, about.message);
    if let (None, Some(first)) = (not_merged(previous), not_merged(next)) {
        happenings.push(Happening::warning(NOT_MERGED, &note(first)));
    } else if let (None | Some(0), Some(first)) = (previous.attention_total, next.attention.first()) {
        happenings.push(Happening::warning("NeedsAttention", &note(first)));
    }
    happenings
}

/// What the status says of collections that came after the verdict.
fn not_merged(status: &EsIndexMergeStatus) -> Option<&AttentionStatus> {
    status.attention.iter().find(|attention| attention.reason == NOT_MERGED)
}

/// When the deletion of sources is scheduled, and when it is over: one event each for a merge.
fn deletion_happening(
    before: Option<&SourceDeletionStatus>,
    after: Option<&SourceDeletionStatus>,
    message: &str,
) -> Option<Happening> {
    let is_ahead = |deletion: &SourceDeletionStatus| deletion.from.is_some() && deletion.remaining > 0;
    let (was_ahead, after) = (before.is_some_and(is_ahead), after?);
    if !was_ahead && is_ahead(after) {
        return Some(Happening::normal("SourcesWillBeDeleted", message));
    }
    if !was_ahead || after.remaining > 0 {
        return None;
    }
    Some(Happening { warning: after.kept > 0, reason: "SourcesDeleted".to_owned(), note: message.to_owned() })
}

fn condition_is(status: &EsIndexMergeStatus, type_: &str, value: &str) -> bool {
    status.conditions.iter().any(|condition| condition.type_ == type_ && condition.status == value)
}

const SUSPENDED: &str = "suspended; set spec.suspend to false to go on";

/// Where a merge stands; exactly one of `Ready`, `Reconciling` and `Stalled` is true, or none.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Standing {
    /// Complete and verified.
    Ready,
    /// Work goes on, or is tried again.
    Reconciling,
    /// Only a person can help.
    Stalled,
    /// Nothing is done, because nothing is to be done.
    Resting,
}

/// What the conditions that everybody reads say.
struct Summarised {
    standing: Standing,
    /// The last attempt failed.
    failing: bool,
    /// One reason for all of them.
    reason: String,
    message: String,
}

impl Summarised {
    fn new(standing: Standing, reason: &str, message: &str) -> Self {
        Self { standing, failing: false, reason: reason.to_owned(), message: shorten(message, MAX_MESSAGE) }
    }

    fn failing(failure: &Failure) -> Self {
        let is_stalled = failure.terminal || failure.needs_a_person;
        let standing = if is_stalled { Standing::Stalled } else { Standing::Reconciling };
        Self { failing: true, ..Self::new(standing, failure.category, &failure.message) }
    }

    /// Work goes on beside the failure.
    fn hindered(failure: &Failure) -> Self {
        Self { standing: Standing::Reconciling, ..Self::failing(failure) }
    }
}

fn summarise(report: &Report) -> Summarised {
    let (reason, message) = match &report.waiting {
        Some(waiting) => (waiting.reason, waiting.message.as_str()),
        None => (report.phase.as_str(), report.message.as_str()),
    };
    let standing = match report.phase {
        Phase::Completed => Standing::Ready,
        Phase::Suspended => Standing::Resting,
        Phase::Failed => Standing::Stalled,
        Phase::Pending
        | Phase::Preparing
        | Phase::Copying
        | Phase::Indexing
        | Phase::Verifying
        | Phase::Synced
        | Phase::CuttingOver => Standing::Reconciling,
    };
    Summarised::new(standing, reason, message)
}

/// Conditions that keep the time of their last flip.
struct Conditions<'a> {
    list: &'a mut Vec<Condition>,
    generation: Option<i64>,
    now: Timestamp,
}

impl Conditions<'_> {
    fn summary(&mut self, summarised: &Summarised) {
        for (type_, value) in [
            ("Ready", summarised.standing == Standing::Ready),
            ("Reconciling", summarised.standing == Standing::Reconciling),
            ("Stalled", summarised.standing == Standing::Stalled),
            ("Failing", summarised.failing),
        ] {
            self.set(type_, Some(value), &summarised.reason, &summarised.message);
        }
    }

    fn set(&mut self, type_: &str, value: Option<bool>, reason: &str, message: &str) {
        let status = match value {
            Some(true) => "True",
            Some(false) => "False",
            None => "Unknown",
        };
        let found = self.list.iter().position(|condition| condition.type_ == type_);
        let kept = found
            .and_then(|at| self.list.get(at))
            .filter(|condition| condition.status == status)
            .map(|condition| condition.last_transition_time.clone());
        let condition = Condition {
            type_: type_.to_owned(),
            status: status.to_owned(),
            reason: reason.to_owned(),
            message: shorten(message, MAX_MESSAGE),
            observed_generation: self.generation,
            last_transition_time: kept.unwrap_or_else(|| to_the_second(self.now)),
        };
        match found.and_then(|at| self.list.get_mut(at)) {
            Some(place) => *place = condition,
            None => self.list.push(condition),
        }
    }
}

fn progress(now: &Progress, before: Option<&ProgressStatus>) -> ProgressStatus {
    #[allow(clippy::cast_possible_truncation)] // between 0 and 100
    let percent = now.percent.clamp(0.0, 100.0).floor() as i32;
    ProgressStatus {
        percent: percent.max(before.map_or(0, |before| before.percent)),
        collections: signed(now.collections),
        collections_done: signed(now.collections_done),
        documents: signed(now.documents),
        documents_done: signed(now.documents_done),
        bytes_done: signed(now.bytes_done),
        #[allow(clippy::cast_possible_truncation)] // a saturating cast of a rate
        documents_per_second: now.rate.map(|rate| rate.round() as i64),
        eta: now.eta.map(to_the_second),
    }
}

fn summary(phase: Phase, progress: &ProgressStatus) -> Summary {
    // All is copied, and what the server has to do then is not measured.
    let only_the_server_works = phase == Phase::Indexing && progress.percent >= 100;
    Summary {
        progress: (!only_the_server_works).then(|| format!("{}%", progress.percent)),
        collections: Some(format!("{}/{}", progress.collections_done, progress.collections)),
        documents: Some(format!("{}/{}", progress.documents_done, progress.documents)),
        rate: progress.documents_per_second.map(|rate| format!("{rate}/s")),
    }
}

fn source_deletion(report: &SourceDeletionReport) -> SourceDeletionStatus {
    SourceDeletionStatus {
        from: report.from.map(to_the_second),
        deleted: signed(report.deleted),
        kept: signed(report.kept),
        missing: signed(report.missing),
        remaining: signed(report.remaining),
    }
}

fn attention(report: &Report) -> Vec<AttentionStatus> {
    let listed = report.attention.iter().take(MAX_ATTENTION);
    listed
        .map(|attention| AttentionStatus {
            collection: attention.collection,
            reason: shorten(&attention.reason, 64),
            message: shorten(&attention.message, 512),
        })
        .collect()
}

/// Whole seconds are what the API keeps; more would make every comparison unequal.
fn to_the_second(time: Timestamp) -> Time {
    Time(Timestamp::from_second(time.as_second()).unwrap_or(time))
}

fn signed(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}

/// A duration as people say it: `0.4s`, `12s`, `3m20s`, `2h5m`.
fn in_words(duration: Duration) -> String {
    let seconds = duration.as_secs();
    match seconds {
        0..10 => format!("{:.1}s", duration.as_secs_f64()),
        10..60 => format!("{seconds}s"),
        60..3600 => format!("{}m{}s", seconds / 60, seconds % 60),
        _ => format!("{}h{}m", seconds / 3600, seconds % 3600 / 60),
    }
}

#[cfg(test)]
#[path = "report_tests.rs"]
mod tests;
