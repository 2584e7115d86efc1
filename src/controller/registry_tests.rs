//! The registry with engines that only count what is asked of them.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::sync::atomic::{AtomicUsize, Ordering};

use tokio::sync::Notify;

use super::*;
use crate::api::EsIndexMerge;

#[derive(Default)]
struct Counting {
    retuned: AtomicUsize,
    stopped: AtomicUsize,
    progress: Notify,
}

impl Work for Counting {
    fn retune(&self, _: ValidMerge) {
        self.retuned.fetch_add(1, Ordering::SeqCst);
    }

    async fn progressed(&self) {
        self.progress.notified().await;
    }

    async fn stop(&self) {
        self.stopped.fetch_add(1, Ordering::SeqCst);
    }
}

impl Counting {
    fn stops(&self) -> usize {
        self.stopped.load(Ordering::SeqCst)
    }
}

fn named(name: &str) -> Named {
    Named { namespace: "ns".to_owned(), name: name.to_owned() }
}

fn merge(change: impl FnOnce(&mut serde_json::Value)) -> ValidMerge {
    let mut object = serde_json::json!({
        "apiVersion": "indexmerge.dev/v1alpha1", "kind": "EsIndexMerge", "metadata": {"name": "a"},
        "spec": {
            "collections": {"postgres": {"urlSecretRef": {"name": "postgres", "key": "url"}}},
            "source": {"url": "https://es:9200"},
            "destination": {
                "url": "https://es:9200", "index": {"name": "merged", "language": "french", "vectorSize": 8}
            },
            "contract": "OpenGateLLM"
        }
    });
    change(&mut object["spec"]);
    let object: EsIndexMerge = serde_json::from_value(object).unwrap();
    ValidMerge::parse("ns/a", &object.spec).unwrap()
}

fn kept(registry: &Registry<Counting>, uid: &str, secrets: u64) -> Arc<Counting> {
    let engine = Arc::new(Counting::default());
    let merge = merge(|_| ());
    let key = Key::new(&merge, secrets);
    let before = registry.keep(uid, &named(uid), Arc::clone(&engine), key, &merge, Timestamp::UNIX_EPOCH);
    assert!(before.is_none());
    engine
}

#[test]
fn an_engine_serves_until_its_identity_its_secrets_or_its_trust_change() {
    let before = merge(|_| ());
    let key = Key::new(&before, 1);
    assert!(key.fits(&before));
    assert!(key.fits(&merge(|spec| spec["suspend"] = true.into())), "tuning is no other key");
    assert!(!key.fits(&merge(|spec| spec["destination"]["index"]["name"] = "other".into())));
    assert!(!key.fits(&merge(|spec| spec["source"]["insecureSkipVerify"] = true.into())));
    assert_ne!(key, Key::new(&before, 2));
}

#[tokio::test]
async fn a_running_engine_is_retuned_only_when_the_spec_changed() {
    let registry = Registry::new();
    let engine = kept(&registry, "a", 1);
    registry.retune("a", &merge(|_| ()));
    assert_eq!(engine.retuned.load(Ordering::SeqCst), 0);
    let changed = merge(|spec| spec["retryToken"] = "again".into());
    registry.retune("a", &changed);
    registry.retune("a", &changed);
    assert_eq!(engine.retuned.load(Ordering::SeqCst), 1);
    registry.retune("unknown", &changed);
}

#[tokio::test]
async fn a_stopped_engine_is_gone_and_what_is_known_of_its_resource_stays() {
    let registry = Registry::new();
    let engine = kept(&registry, "a", 1);
    registry.has_finalized("a", &named("a"));
    assert_eq!(registry.size(), (1, 0));
    registry.stop("a").await;
    registry.stop("a").await;
    assert_eq!(engine.stops(), 1);
    assert!(!registry.runs("a"));
    assert!(registry.finalized("a"));
    assert_eq!(registry.size(), (0, 0));
}

#[tokio::test]
async fn an_engine_that_is_replaced_is_handed_back_to_be_stopped() {
    let registry = Registry::new();
    let old = kept(&registry, "a", 1);
    let merge = merge(|_| ());
    let new = Arc::new(Counting::default());
    let key = Key::new(&merge, 2);
    let before =
        registry.keep("a", &named("a"), Arc::clone(&new), key.clone(), &merge, Timestamp::UNIX_EPOCH);
    assert!(Arc::ptr_eq(&before.unwrap(), &old));
    let running = registry.running("a", Timestamp::UNIX_EPOCH).unwrap();
    assert!(Arc::ptr_eq(&running.engine, &new) && running.key == key);
}

#[tokio::test]
async fn losing_leadership_stops_every_engine_and_forgets_what_was_written() {
    let registry = Registry::new();
    let engines = [kept(&registry, "a", 1), kept(&registry, "b", 1)];
    registry.has_written("a", &named("a"), EsIndexMergeStatus::default(), Timestamp::UNIX_EPOCH);
    registry.measured("a", &named("a"), "Copying");
    assert_eq!(registry.fails("a", &named("a"), Some("SourceUnavailable")), None);
    let gone = Mutex::new(Vec::new());
    registry.stop_all(|named, labels| gone.lock().unwrap().push((named.name.clone(), labels))).await;
    assert_eq!(engines.map(|engine| engine.stops()), [1, 1]);
    assert_eq!(registry.written("a"), None, "another leader may have written since");
    let mut gone = gone.into_inner().unwrap();
    gone.sort_by(|a, b| a.0.cmp(&b.0));
    let labels = Labels { phase: Some("Copying"), failing: Some("SourceUnavailable"), waiting: None };
    assert_eq!(gone, [("a".to_owned(), labels), ("b".to_owned(), Labels::default())]);
    registry.stop_all(|named, _| panic!("{named:?} is known")).await;
}

#[tokio::test]
async fn a_resource_is_woken_when_its_engine_progressed_and_no_more_when_it_stopped() {
    let registry = Registry::new();
    let mut wakes = registry.wakes();
    let engine = kept(&registry, "a", 1);
    engine.progress.notify_one();
    assert_eq!(wakes.recv().await.unwrap(), named("a"));
    registry.stop("a").await;
    engine.progress.notify_one();
    // The waker's copy of the engine goes with it; then nobody is left to wake anything.
    let gone = async {
        while Arc::strong_count(&engine) > 1 {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(Duration::from_secs(5), gone).await.unwrap();
    assert!(wakes.try_recv().is_err());
}

#[tokio::test]
async fn failures_in_a_row_wait_longer_and_a_success_starts_anew() {
    let registry = Registry::<Counting>::new();
    let failed = |uid: &str| registry.failed(uid, &named(uid), backoff::LONGEST, 0.0).as_secs();
    let waits: Vec<u64> = (0..4).map(|_| failed("a")).collect();
    assert_eq!(waits, [1, 2, 4, 8]);
    assert_eq!(registry.size(), (0, 1));
    assert_eq!(failed("b"), 1, "each resource has its own");
    registry.succeeded("a");
    assert_eq!(failed("a"), 1);
}

#[tokio::test]
async fn a_resource_that_is_gone_is_found_by_name_and_forgotten() {
    let registry = Registry::new();
    let engine = kept(&registry, "uid-1", 1);
    registry.measured("uid-1", &named("uid-1"), "Copying");
    assert_eq!(registry.uids(&named("uid-1")), ["uid-1"]);
    let (stopped, labels) = registry.forget("uid-1");
    assert!(Arc::ptr_eq(&stopped.unwrap(), &engine));
    assert_eq!(labels, Labels { phase: Some("Copying"), ..Labels::default() });
    assert!(registry.uids(&named("uid-1")).is_empty());
    assert!(registry.forget("uid-1").0.is_none());
}

#[test]
fn what_the_metrics_say_of_a_failure_is_remembered_until_it_is_over() {
    let registry = Registry::<Counting>::new();
    assert_eq!(registry.fails("a", &named("a"), None), None);
    assert!(registry.uids(&named("a")).is_empty(), "nothing is kept of what is not known");
    assert_eq!(registry.fails("a", &named("a"), Some("SourceUnavailable")), None);
    assert_eq!(registry.fails("a", &named("a"), Some("StateUnavailable")), Some("SourceUnavailable"));
    assert_eq!(registry.fails("a", &named("a"), None), Some("StateUnavailable"));
    assert_eq!(registry.waits("a", &named("a"), Some("CutoverHeld")), None, "one thing for itself");
    assert_eq!(registry.waits("a", &named("a"), None), Some("CutoverHeld"));
}

fn at(seconds: i64) -> Timestamp {
    Timestamp::from_second(1_800_000_000 + seconds).unwrap()
}

fn due(registry: &Registry<Counting>, seconds: i64) -> bool {
    registry.running("a", at(seconds)).unwrap().secrets_are_due
}

#[tokio::test]
async fn secrets_are_looked_at_every_thirty_seconds_and_after_a_failure() {
    let registry = Registry::new();
    let _engine = kept(&registry, "a", 1);
    registry.secrets_are_the_same("a", at(0));
    assert!(!due(&registry, 29) && due(&registry, 30));
    registry.suspect_secrets("a");
    assert!(due(&registry, 0));
}

#[tokio::test]
async fn secrets_that_cannot_be_taken_are_looked_at_less_and_less_often_until_they_can() {
    let registry = Registry::new();
    let _engine = kept(&registry, "a", 1);
    let failure = Failure {
        category: "SecretInvalid",
        message: "create the secret".to_owned(),
        terminal: false,
        needs_a_person: false,
    };
    registry.secrets_cannot_be_taken("a", &failure, at(0));
    assert!(!due(&registry, 0) && due(&registry, 1));
    registry.secrets_cannot_be_taken("a", &failure, at(1));
    assert!(!due(&registry, 2) && due(&registry, 3));
    registry.suspect_secrets("a");
    assert!(!due(&registry, 2), "what is wrong is known");
    assert_eq!(registry.running("a", at(2)).unwrap().hindrance, Some(failure));
    registry.secrets_are_the_same("a", at(3));
    assert_eq!(registry.running("a", at(4)).unwrap().hindrance, None);
    assert!(!due(&registry, 4));
}
