//! The status as a person and as a machine read it.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use super::*;
use crate::merge::{Attention, Fact, FactKind, Next, Waiting};

const START: i64 = 1_800_000_000;

fn at(seconds: i64) -> Timestamp {
    Timestamp::from_second(START + seconds).unwrap()
}

/// A report of a copy, half done.
fn copying() -> Report {
    Report {
        phase: Phase::Copying,
        next: Next::After(Duration::from_secs(5)),
        progress: Progress {
            collections: 300,
            collections_done: 120,
            documents: 40_000,
            documents_done: 20_000,
            bytes_done: 1 << 30,
            percent: 50.4,
            rate: Some(2150.4),
            eta: Some(at(600)),
        },
        lag: None,
        destination: Some(("opengatellm".to_owned(), "uuid".to_owned())),
        attention: Vec::new(),
        attention_total: 0,
        quarantined: 0,
        workers: 4,
        lanes: Some("read _source, write base64".to_owned()),
        started_at: Some(at(-60)),
        completed_at: None,
        facts: vec![fact(FactKind::SourcesResolved, Some(true)), fact(FactKind::Copied, None)],
        message: "copying".to_owned(),
        waiting: None,
        load_settings_applied: true,
        writes_refused_seconds: None,
        source_deletion: None,
    }
}

fn fact(kind: FactKind, status: Option<bool>) -> Fact {
    Fact { kind, status, reason: "Because", message: "of this".to_owned() }
}

fn percent(percent: f64) -> Report {
    let mut report = copying();
    report.progress.percent = percent;
    report
}

fn stepped(report: Report) -> Outcome {
    Outcome::Stepped(Box::new(report))
}

fn in_phase(phase: Phase) -> Outcome {
    stepped(Report { phase, message: format!("now {}", phase.as_str()), ..copying() })
}

fn failed(category: &'static str, terminal: bool) -> Outcome {
    Outcome::Failed(Failure {
        category,
        message: "the server is away; start it".to_owned(),
        terminal,
        needs_a_person: terminal,
    })
}

/// A failure that only a person can mend, and that is tried again all the same.
fn lost() -> Failure {
    Failure::from(&MergeError::DestinationLost("the destination is gone; restore it".to_owned()))
}

/// The status after these outcomes, one second apart.
fn after(outcomes: &[Outcome]) -> EsIndexMergeStatus {
    let mut status = EsIndexMergeStatus { observed_generation: Some(-1), ..Default::default() };
    for (second, outcome) in outcomes.iter().enumerate() {
        status = next_status(&status, outcome, Some(1), at(i64::try_from(second).unwrap()));
    }
    status
}

fn condition<'a>(status: &'a EsIndexMergeStatus, type_: &str) -> &'a Condition {
    status.conditions.iter().find(|condition| condition.type_ == type_).unwrap()
}

/// `Ready`, `Reconciling` and `Stalled`, with the reason they share.
fn verdict(status: &EsIndexMergeStatus) -> (&str, &str, &str, &str) {
    let of = |type_| condition(status, type_).status.as_str();
    (of("Ready"), of("Reconciling"), of("Stalled"), condition(status, "Ready").reason.as_str())
}

#[test]
fn ready_is_only_a_completed_merge_and_stalled_only_what_a_person_must_mend() {
    for (outcome, expected) in [
        (in_phase(Phase::Pending), ("False", "True", "False", "Pending")),
        (in_phase(Phase::Copying), ("False", "True", "False", "Copying")),
        (in_phase(Phase::Synced), ("False", "True", "False", "Synced")),
        (in_phase(Phase::Completed), ("True", "False", "False", "Completed")),
        (in_phase(Phase::Suspended), ("False", "False", "False", "Suspended")),
        (in_phase(Phase::Failed), ("False", "False", "True", "Failed")),
        (Outcome::Rested, ("False", "False", "False", "Suspended")),
        (failed("SourceUnavailable", false), ("False", "True", "False", "SourceUnavailable")),
        (failed("InvalidSpec", true), ("False", "False", "True", "InvalidSpec")),
        (Outcome::Failed(lost()), ("False", "False", "True", "DestinationLost")),
    ] {
        assert_eq!(verdict(&after(&[outcome])), expected);
    }
}

#[test]
fn a_lost_destination_is_tried_again_where_it_was_and_nothing_is_stalled_that_goes_on() {
    assert!(!lost().terminal);
    let status = after(&[stepped(copying()), Outcome::Failed(lost())]);
    assert_eq!(status.phase.as_deref(), Some("Copying"), "it may be restored from a snapshot");
    assert_eq!(condition(&status, "Failing").status, "True");
    let beside = Outcome::Hindered(Box::new(copying()), lost());
    assert_eq!(verdict(&after(&[beside])), ("False", "True", "False", "DestinationLost"));
}

#[test]
fn every_condition_names_the_generation_it_is_about() {
    let status = next_status(&after(&[stepped(copying())]), &stepped(copying()), Some(7), at(5));
    assert_eq!(status.observed_generation, Some(7));
    assert!(status.conditions.iter().all(|condition| condition.observed_generation == Some(7)));
}

#[test]
fn the_time_of_a_condition_moves_only_when_its_status_flips() {
    let status = after(&[in_phase(Phase::Copying), in_phase(Phase::Indexing), in_phase(Phase::Completed)]);
    assert_eq!(condition(&status, "Ready").last_transition_time, Time(at(2)));
    assert_eq!(condition(&status, "Stalled").last_transition_time, Time(at(0)));
    assert_eq!(condition(&status, "SourcesResolved").last_transition_time, Time(at(0)));
    assert_eq!(condition(&status, "SourcesResolved").reason, "Because");
}

#[test]
fn a_step_that_changes_nothing_is_not_written() {
    let first = after(&[stepped(copying())]);
    let again = next_status(&first, &stepped(copying()), Some(1), at(3600));
    assert_eq!(again, first);
    assert!(!worth_writing(&first, &again, None, at(3600)));
}

#[test]
fn progress_alone_is_written_after_ten_seconds_or_one_percent() {
    let first = after(&[stepped(percent(50.4))]);
    let little = |report: Report| {
        let mut report = report;
        report.progress.documents_done += 7;
        next_status(&first, &stepped(report), Some(1), at(3))
    };
    assert!(!worth_writing(&first, &little(percent(50.9)), Some(at(0)), at(9)));
    assert!(worth_writing(&first, &little(percent(50.9)), Some(at(0)), at(10)));
    assert!(worth_writing(&first, &little(percent(51.0)), Some(at(0)), at(1)));
    assert!(worth_writing(&first, &little(percent(50.9)), None, at(1)), "another process wrote last");
}

#[test]
fn everything_but_progress_is_written_at_once() {
    let first = after(&[stepped(copying())]);
    let quarantined = Report { quarantined: 1, ..copying() };
    for outcome in [in_phase(Phase::Indexing), stepped(quarantined), failed("SourceUnavailable", false)] {
        let next = next_status(&first, &outcome, Some(1), at(1));
        assert!(worth_writing(&first, &next, Some(at(0)), at(1)));
    }
    let other_generation = next_status(&first, &stepped(copying()), Some(2), at(1));
    assert!(worth_writing(&first, &other_generation, Some(at(0)), at(1)));
}

#[test]
fn the_percentage_never_goes_back_within_a_phase() {
    let percent_of = |status: &EsIndexMergeStatus| status.progress.as_ref().unwrap().percent;
    let status = after(&[stepped(percent(50.0)), stepped(percent(49.0))]);
    assert_eq!(percent_of(&status), 50);
    assert_eq!(status.summary.as_ref().unwrap().progress.as_deref(), Some("50%"));
    let mut next_phase = percent(3.9);
    next_phase.phase = Phase::Indexing;
    assert_eq!(percent_of(&next_status(&status, &stepped(next_phase), Some(1), at(9))), 3);
    assert_eq!(percent_of(&after(&[stepped(percent(99.99))])), 99, "100 is only said when all is done");
}

#[test]
fn the_columns_say_what_the_numbers_say() {
    let status = after(&[stepped(Report { lag: Some(Duration::from_secs(75)), ..copying() })]);
    let summary = status.summary.unwrap();
    assert_eq!(summary.collections.as_deref(), Some("120/300"));
    assert_eq!(summary.documents.as_deref(), Some("20000/40000"));
    assert_eq!(summary.rate.as_deref(), Some("2150/s"));
    assert_eq!(status.lag.as_deref(), Some("1m15s"));
    assert_eq!(status.progress.unwrap().eta, Some(Time(at(600))));
    assert_eq!(status.destination.unwrap().index, "opengatellm");
    for (duration, words) in [(400, "0.4s"), (12_345, "12s"), (7_500_000, "2h5m")] {
        assert_eq!(in_words(Duration::from_millis(duration)), words);
    }
}

#[test]
fn no_share_is_told_of_what_the_server_does_by_itself() {
    let told = |phase, done| {
        let summary = after(&[stepped(Report { phase, ..percent(done) })]).summary.unwrap();
        summary.progress
    };
    assert_eq!(told(Phase::Indexing, 99.9).as_deref(), Some("99%"), "it catches up");
    assert_eq!(told(Phase::Indexing, 100.0), None);
    assert_eq!(told(Phase::Verifying, 100.0).as_deref(), Some("100%"));
}

#[test]
fn a_failure_takes_back_what_is_measured_in_a_step() {
    let lagging = || stepped(Report { lag: Some(Duration::from_secs(75)), ..copying() });
    let status = after(&[lagging(), failed("SourceUnavailable", false)]);
    assert_eq!((&status.lag, status.workers), (&None, None));
    let progress = status.progress.as_ref().unwrap();
    assert_eq!((progress.documents_per_second, &progress.eta), (None, &None));
    assert_eq!(status.summary.as_ref().unwrap().rate, None);
    assert_eq!(next_status(&status, &lagging(), Some(1), at(9)).lag.as_deref(), Some("1m15s"));
}

#[test]
fn a_failure_keeps_what_was_reached_and_says_what_to_do() {
    let status = after(&[stepped(copying()), failed("SourceUnavailable", false)]);
    assert_eq!(status.phase.as_deref(), Some("Copying"));
    assert_eq!(status.message.as_deref(), Some("the server is away; start it"));
    assert_eq!(status.summary.as_ref().unwrap().progress.as_deref(), Some("50%"));
    assert_eq!(condition(&status, "SourcesResolved").status, "True");
    let first = after(&[failed("SecretInvalid", false)]);
    assert_eq!(first.phase.as_deref(), Some("Pending"));
    assert_eq!(after(&[failed("InvalidSpec", true)]).phase.as_deref(), Some("Failed"));
}

/// A step with secrets that are not the present ones.
fn hindered(phase: Phase) -> Outcome {
    let Outcome::Stepped(report) = in_phase(phase) else { panic!("no step") };
    let failure = Failure {
        category: "SecretInvalid",
        message: "create the secret".to_owned(),
        terminal: false,
        needs_a_person: false,
    };
    Outcome::Hindered(report, failure)
}

#[test]
fn a_step_with_old_secrets_is_reported_beside_what_is_wrong_with_the_new_ones() {
    let status = after(&[stepped(copying()), hindered(Phase::CuttingOver)]);
    assert_eq!(verdict(&status), ("False", "True", "False", "SecretInvalid"));
    assert_eq!(condition(&status, "Failing").status, "True");
    assert_eq!(status.message.as_deref(), Some("create the secret"));
    assert_eq!(status.phase.as_deref(), Some("CuttingOver"), "what runs goes on");
    assert_eq!(status.workers, Some(4));
    let healed = next_status(&status, &in_phase(Phase::CuttingOver), Some(1), at(9));
    assert_eq!(condition(&healed, "Failing").status, "False");
}

#[test]
fn waiting_is_said_with_its_reason_and_is_no_failure() {
    let waiting = Waiting { reason: "WaitsForHold", message: "set spec.cutover.hold to false".to_owned() };
    let step = stepped(Report { phase: Phase::Synced, waiting: Some(waiting), ..copying() });
    assert_eq!(step.waiting(), Some("WaitsForHold"), "for the metrics");
    assert_eq!(stepped(copying()).waiting(), None);
    let status = after(&[step]);
    assert_eq!(verdict(&status), ("False", "True", "False", "WaitsForHold"));
    assert_eq!(status.message.as_deref(), Some("set spec.cutover.hold to false"));
    assert_eq!(condition(&status, "Failing").status, "False");
}

#[test]
fn lists_and_messages_are_bounded_as_the_definition_demands() {
    let attention =
        |collection| Attention { collection, reason: "R".repeat(100), message: "é".repeat(1000) };
    let report = Report {
        attention: (0..50).map(attention).collect(),
        attention_total: 50,
        message: "x".repeat(5000),
        lanes: Some("l".repeat(999)),
        ..copying()
    };
    let status = after(&[stepped(report)]);
    assert_eq!(status.attention.len(), MAX_ATTENTION);
    assert_eq!(status.attention_total, Some(50));
    assert!(status.attention.iter().all(|a| a.reason.len() <= 64 && a.message.chars().count() <= 512));
    assert!(status.message.unwrap().len() <= MAX_MESSAGE);
    assert!(status.conditions.iter().all(|condition| condition.message.len() <= MAX_MESSAGE));
    assert!(status.lanes.unwrap().len() <= 256);
}

/// The events between the last two outcomes.
fn told(before: &[Outcome], outcome: &Outcome) -> Vec<Happening> {
    let previous = after(before);
    let next = next_status(&previous, outcome, Some(1), at(100));
    happenings(&previous, &next, outcome)
}

/// Their reasons.
fn events(before: &[Outcome], outcome: &Outcome) -> Vec<String> {
    told(before, outcome).into_iter().map(|happening| happening.reason).collect()
}

#[test]
fn events_are_transitions_and_nothing_else() {
    let copying = || in_phase(Phase::Copying);
    let away = || failed("SourceUnavailable", false);
    assert_eq!(events(&[], &in_phase(Phase::Pending)), ["Pending"]);
    assert_eq!(events(&[in_phase(Phase::Preparing)], &copying()), ["Copying"]);
    assert!(events(&[copying()], &copying()).is_empty());
    assert_eq!(events(&[copying()], &away()), ["SourceUnavailable"]);
    assert!(events(&[copying(), away()], &away()).is_empty());
    assert_eq!(events(&[copying(), away()], &failed("StateUnavailable", false)), ["StateUnavailable"]);
    assert_eq!(events(&[copying(), away()], &copying()), ["Recovered"]);
    assert_eq!(events(&[copying()], &hindered(Phase::Copying)), ["SecretInvalid"]);
    assert!(events(&[hindered(Phase::Copying)], &hindered(Phase::Copying)).is_empty());
    assert_eq!(events(&[hindered(Phase::Copying)], &hindered(Phase::Indexing)), ["Indexing"]);
    assert_eq!(events(&[hindered(Phase::Copying)], &copying()), ["Recovered"]);
    assert_eq!(events(&[copying()], &stepped(Report { quarantined: 3, ..copying_now() })), ["Quarantined"]);
    assert_eq!(events(&[copying()], &Outcome::Released), ["Released"]);
    assert_eq!(events(&[copying()], &Outcome::Abandoned(String::new())), ["CleanupAbandoned"]);
    assert!(events(&[copying()], &Outcome::Nothing).is_empty());
}

#[test]
fn what_is_waited_for_is_an_event_also_where_a_phase_begins_with_it() {
    let synced = |reason, why: &str| Report {
        phase: Phase::Synced,
        message: "follows the sources".to_owned(),
        waiting: Some(Waiting { reason, message: why.to_owned() }),
        ..copying()
    };
    let given_up = || synced("CutoverRetrying", "an alias is refused");
    let expected = [
        Happening::normal("Synced", "follows the sources"),
        Happening::normal("CutoverRetrying", "an alias is refused"),
    ];
    assert_eq!(told(&[in_phase(Phase::CuttingOver)], &stepped(given_up())), expected);
    let Outcome::Hindered(_, failure) = hindered(Phase::Synced) else { panic!("no failure beside it") };
    let beside_it = Outcome::Hindered(Box::new(given_up()), failure);
    assert_eq!(told(&[hindered(Phase::CuttingOver)], &beside_it), expected);

    let held = || stepped(synced("CutoverHeld", "set spec.cutover.hold to false"));
    assert_eq!(events(&[in_phase(Phase::Verifying)], &held()), ["Synced", "CutoverHeld"]);
    assert!(events(&[held()], &held()).is_empty());
    assert_eq!(events(&[stepped(given_up())], &held()), ["CutoverHeld"]);
    assert_eq!(events(&[held(), failed("SourceUnavailable", false)], &held()), ["Recovered", "CutoverHeld"]);
}

#[test]
fn collections_that_come_after_the_verdict_are_an_event_and_leave_it_ready() {
    let completed = |entries: &[(i64, &str)]| {
        let attention = entries.iter().map(|&(collection, reason)| Attention {
            collection,
            reason: reason.to_owned(),
            message: "so it is".to_owned(),
        });
        stepped(Report {
            phase: Phase::Completed,
            attention: attention.collect(),
            attention_total: entries.len() as u64,
            ..copying()
        })
    };
    let cut = || completed(&[(7, "ContentCut")]);
    let late = || completed(&[(8, "NotMerged"), (7, "ContentCut")]);
    assert_eq!(told(&[cut()], &late()), [Happening::warning("NotMerged", "collection 8: so it is")]);
    assert!(told(&[late()], &late()).is_empty());
    assert!(told(&[late()], &cut()).is_empty());
    assert_eq!(verdict(&after(&[cut(), late()])), ("True", "False", "False", "Completed"));
}

fn copying_now() -> Report {
    Report { message: "now Copying".to_owned(), ..copying() }
}

#[test]
fn the_status_fits_the_definition() {
    let status = after(&[stepped(copying()), failed("SourceUnavailable", false)]);
    let text = serde_json::to_string(&status).unwrap();
    let back: EsIndexMergeStatus = serde_json::from_str(&text).unwrap();
    assert_eq!(back, status, "nothing is lost in writing, so an equal status compares equal");
}
