//! Everything that a watch saw of a resource, one entry for each version.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use es_index_merge::api::{EsIndexMerge, EsIndexMergeStatus};
use futures::{StreamExt, pin_mut};
use kube::{
    Api,
    runtime::watcher::{self, Event, watcher},
};
use tokio::sync::oneshot;
use tokio::task::JoinHandle;

/// Records until it is dropped.
pub struct Story {
    seen: Arc<Mutex<Vec<EsIndexMerge>>>,
    task: JoinHandle<()>,
}

impl Story {
    /// Begins to record; returns once nothing that happens from now on is missed.
    pub async fn begin(merges: Api<EsIndexMerge>, name: &str) -> Story {
        let seen = Arc::new(Mutex::new(Vec::<EsIndexMerge>::new()));
        let (ready, listed) = oneshot::channel();
        let config = watcher::Config::default().fields(&format!("metadata.name={name}"));
        let recorded = Arc::clone(&seen);
        let task = tokio::spawn(async move {
            let mut ready = Some(ready);
            let events = watcher(merges, config);
            pin_mut!(events);
            while let Some(event) = events.next().await {
                let merge = match event.expect("the watch goes on") {
                    Event::InitDone => {
                        if let Some(ready) = ready.take() {
                            ready.send(()).unwrap();
                        }
                        continue;
                    }
                    Event::Apply(merge) | Event::InitApply(merge) => merge,
                    Event::Init | Event::Delete(_) => continue,
                };
                let mut recorded = recorded.lock().unwrap();
                let version = &merge.metadata.resource_version;
                if recorded.last().is_none_or(|last| last.metadata.resource_version != *version) {
                    recorded.push(merge);
                }
            }
        });
        tokio::time::timeout(Duration::from_secs(30), listed).await.expect("a list").expect("a watch");
        Story { seen, task }
    }

    /// Every status, in order, without those that the controller had not written yet.
    pub fn statuses(&self) -> Vec<EsIndexMergeStatus> {
        assert!(!self.task.is_finished(), "the watch ended");
        let seen = self.seen.lock().unwrap();
        seen.iter().filter_map(|merge| merge.status.clone()).filter(|status| status.phase.is_some()).collect()
    }

    /// How many versions of the resource there were.
    pub fn versions(&self) -> usize {
        assert!(!self.task.is_finished(), "the watch ended");
        self.seen.lock().unwrap().len()
    }

    /// Waits until that version has been seen here too: every watch is told in its own time.
    pub async fn until_seen(&self, merge: &EsIndexMerge) {
        let version = merge.metadata.resource_version.as_ref();
        let seen = || {
            let seen = self.seen.lock().unwrap();
            seen.iter().any(|merge| merge.metadata.resource_version.as_ref() == version)
        };
        let waiting = async {
            while !seen() {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        };
        tokio::time::timeout(Duration::from_secs(30), waiting).await.expect("this watch is told too");
    }

    /// The phases, each once for each time it was entered.
    pub fn phases(&self) -> Vec<String> {
        let mut phases: Vec<String> = self.statuses().into_iter().filter_map(|status| status.phase).collect();
        phases.dedup();
        phases
    }

    /// How many versions appear within `time`.
    pub async fn versions_within(&self, time: Duration) -> usize {
        let before = self.versions();
        tokio::time::sleep(time).await;
        self.versions() - before
    }
}

impl Drop for Story {
    fn drop(&mut self) {
        self.task.abort();
    }
}
