//! What is decided about a resource, without any cluster.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
use serde_json::{Value, json};

use super::*;

/// A resource as the API server would send it, changed by `change`.
fn resource(change: impl FnOnce(&mut Value)) -> DeserializeGuard<EsIndexMerge> {
    let mut object = json!({
        "apiVersion": "indexmerge.dev/v1alpha1", "kind": "EsIndexMerge",
        "metadata": {"name": "a", "namespace": "ns", "uid": "u", "generation": 2, "resourceVersion": "1"},
        "spec": {
            "collections": {"postgres": {"urlSecretRef": {"name": "postgres", "key": "url"}}},
            "source": {"url": "https://es:9200"},
            "destination": {
                "url": "https://es:9200", "index": {"name": "merged", "language": "french", "vectorSize": 8}
            },
            "contract": "OpenGateLLM"
        }
    });
    change(&mut object);
    serde_json::from_value(object).unwrap()
}

fn decided(change: impl FnOnce(&mut Value)) -> Intent {
    decided_with(change, false)
}

fn decided_with(change: impl FnOnce(&mut Value), running: bool) -> Intent {
    let seen = Seen::new(&resource(change), &Registry::new(), now());
    decide(&seen, running)
}

fn now() -> Timestamp {
    Timestamp::from_second(1_800_000_000).unwrap()
}

fn deleted(object: &mut Value) {
    object["metadata"]["deletionTimestamp"] = json!("2027-01-15T07:59:00Z");
}

fn finalized(object: &mut Value) {
    object["metadata"]["finalizers"] = json!([FINALIZER, "somebody.else/finalizer"]);
}

fn with_status(object: &mut Value, phase: &str, generation: i64) {
    object["status"] = json!({"phase": phase, "observedGeneration": generation});
}

#[test]
fn a_new_resource_is_worked_at() {
    let Intent::Work(merge) = decided(|_| ()) else { panic!("not worked at") };
    assert_eq!(merge.owner, "ns/a");
}

#[test]
fn one_that_was_never_begun_rests_while_it_is_suspended() {
    assert!(matches!(decided(|o| o["spec"]["suspend"] = true.into()), Intent::Rest));
    let begun = |o: &mut Value| {
        o["spec"]["suspend"] = true.into();
        finalized(o);
    };
    assert!(matches!(decided(begun), Intent::Work(_)), "what was begun is brought to rest by its engine");
}

#[test]
fn what_is_complete_or_suspended_is_left_alone_until_the_spec_changes() {
    for phase in ["Completed", "Suspended"] {
        assert!(matches!(decided(|o| with_status(o, phase, 2)), Intent::Nothing), "{phase}");
        assert!(matches!(decided(|o| with_status(o, phase, 1)), Intent::Work(_)), "{phase}, older spec");
        assert!(
            matches!(decided_with(|o| with_status(o, phase, 2), true), Intent::Work(_)),
            "{phase}, running"
        );
    }
    assert!(matches!(decided(|o| with_status(o, "Copying", 2)), Intent::Work(_)));
    let failing = |o: &mut Value| {
        with_status(o, "Completed", 2);
        let condition = Condition {
            type_: "Failing".to_owned(),
            status: "True".to_owned(),
            reason: "StateUnavailable".to_owned(),
            message: String::new(),
            observed_generation: Some(2),
            last_transition_time: Time(now()),
        };
        o["status"]["conditions"] = json!([condition]);
    };
    assert!(matches!(decided(failing), Intent::Work(_)), "a failure is tried again");
}

#[test]
fn a_deletion_is_cleaned_up_only_if_there_is_something_to_clean_up() {
    assert!(matches!(decided(deleted), Intent::Nothing));
    let intent = decided(|o| {
        deleted(o);
        finalized(o);
        o["spec"]["deletionPolicy"] = "DeleteDestination".into();
    });
    let Intent::Release { merge: Ok(_), delete_destination: true } = intent else { panic!("{intent:?}") };
    let intent = decided_with(deleted, true);
    let Intent::Release { merge: Ok(_), delete_destination: false } = intent else { panic!("{intent:?}") };
}

#[test]
fn a_deletion_is_not_held_up_by_a_suspension_or_a_completed_status() {
    let intent = decided(|o| {
        deleted(o);
        finalized(o);
        with_status(o, "Completed", 2);
        o["spec"]["suspend"] = true.into();
    });
    assert!(matches!(intent, Intent::Release { .. }));
}

#[test]
fn a_resource_that_cannot_be_read_waits_for_a_person_and_can_be_deleted() {
    let broken = |o: &mut Value| o["spec"]["contract"] = "Unheard".into();
    let Intent::Reject(failure) = decided(broken) else { panic!("not rejected") };
    assert!(failure.terminal && failure.category == "Malformed");
    assert!(failure.message.contains("Unheard"), "{}", failure.message);
    let intent = decided(|o| {
        broken(o);
        deleted(o);
        finalized(o);
    });
    assert!(matches!(intent, Intent::Release { merge: Err(_), delete_destination: false }));
}

#[test]
fn the_annotation_and_the_age_of_a_deletion_are_seen() {
    let object = resource(|o| {
        deleted(o);
        o["metadata"]["annotations"] = json!({FORCE_DELETE_ANNOTATION: "true"});
    });
    let seen = Seen::new(&object, &Registry::new(), now());
    assert!(seen.force_delete);
    assert_eq!(seen.deleting_for, Some(Duration::from_mins(1)));
    assert!(!Seen::new(&resource(deleted), &Registry::new(), now()).force_delete);
}

#[test]
fn failures_are_retried_with_backoff_and_terminal_ones_wait_for_a_change() {
    let registry = Registry::new();
    let seen = Seen::new(&resource(|_| ()), &registry, now());
    let failed = |terminal| {
        Outcome::Failed(Failure { category: "X", message: String::new(), terminal, needs_a_person: terminal })
    };
    let wait = |outcome: &Outcome| next(&registry, &seen, outcome, 0.0);
    assert_eq!(wait(&failed(false)), Action::requeue(Duration::from_secs(1)));
    assert_eq!(wait(&failed(false)), Action::requeue(Duration::from_secs(2)));
    assert_eq!(wait(&Outcome::Rested), Action::await_change());
    assert_eq!(wait(&failed(false)), Action::requeue(Duration::from_secs(1)), "a success starts anew");
    assert_eq!(wait(&failed(true)), Action::await_change());
    let going = Seen::new(&resource(deleted), &registry, now());
    assert_ne!(
        next(&registry, &going, &failed(true), 0.0),
        Action::await_change(),
        "a deletion has a time limit"
    );
}

#[test]
fn while_writers_are_refused_a_failure_is_retried_after_a_few_seconds() {
    let longest = |seen: &Seen, registry: &Registry<Engine>| {
        let outcome = Outcome::Failed(Failure {
            category: "X",
            message: String::new(),
            terminal: false,
            needs_a_person: true,
        });
        for _ in 0..20 {
            next(registry, seen, &outcome, 0.0);
        }
        next(registry, seen, &outcome, 0.0)
    };
    let (cutover, other) = (Duration::from_secs(5), Duration::from_mins(5));
    for (phase, expected) in [("CuttingOver", cutover), ("Copying", other), ("Synced", other)] {
        let registry = Registry::new();
        let seen = Seen::new(&resource(|o| with_status(o, phase, 2)), &registry, now());
        assert_eq!(longest(&seen, &registry), Action::requeue(expected), "{phase}");
    }
    let registry = Registry::new();
    let seen = Seen::new(&resource(|o| with_status(o, "Synced", 2)), &registry, now());
    registry.measured(&seen.uid, &seen.named, "CuttingOver");
    assert_eq!(longest(&seen, &registry), Action::requeue(cutover), "its status could not be written");
}
