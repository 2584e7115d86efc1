//! Events: what happened to a merge, for `kubectl describe`.
//!
//! Only transitions are published. Publishing is best effort: it has five seconds, and its failure is logged and
//! counted but never fails a reconcile.

use std::{
    collections::hash_map::DefaultHasher,
    hash::{Hash, Hasher},
    time::Duration,
};

use k8s_openapi::api::core::v1::ObjectReference;
use kube::{
    Client,
    runtime::events::{Event, EventType, Recorder, Reporter},
};
use tracing::warn;

use crate::metrics::Metrics;

const TIMEOUT: Duration = Duration::from_secs(5);

/// The API server refuses longer notes.
const LONGEST_NOTE: usize = 1000;

/// Something that happened, before it is told.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Happening {
    /// Whether a person should look.
    pub warning: bool,
    /// `CamelCase`, from a finite set.
    pub reason: String,
    /// A sentence.
    pub note: String,
}

impl Happening {
    /// All is well.
    pub(super) fn normal(reason: &str, note: &str) -> Self {
        Self { warning: false, reason: reason.to_owned(), note: note.to_owned() }
    }

    /// A person should look.
    pub(super) fn warning(reason: &str, note: &str) -> Self {
        Self { warning: true, reason: reason.to_owned(), note: note.to_owned() }
    }
}

/// Tells what happened.
pub(super) struct Publisher {
    recorder: Recorder,
    metrics: Metrics,
}

impl Publisher {
    /// `instance` is the name of this process.
    pub(super) fn new(client: Client, instance: &str, metrics: Metrics) -> Self {
        let reporter = Reporter {
            controller: "indexmerge.dev/controller".to_owned(),
            instance: Some(instance.to_owned()),
        };
        Self { recorder: Recorder::new(client, reporter), metrics }
    }

    /// Publishes each of `happenings` about the object.
    pub(super) async fn publish(&self, about: &ObjectReference, happenings: &[Happening]) {
        for happening in happenings {
            let event = Event {
                type_: if happening.warning { EventType::Warning } else { EventType::Normal },
                reason: happening.reason.clone(),
                note: Some(shorten(&happening.note, LONGEST_NOTE)),
                action: action(&happening.note),
                secondary: None,
            };
            let result = tokio::time::timeout(TIMEOUT, self.recorder.publish(&event, about)).await;
            let failure = match result {
                Ok(Ok(())) => None,
                Ok(Err(error)) => Some(error.to_string()),
                Err(_) => Some("no answer within 5 s".to_owned()),
            };
            self.metrics.event_published(if failure.is_none() { "ok" } else { "failed" });
            if let Some(error) = failure {
                warn!(error, reason = event.reason, "an event could not be published");
            }
        }
    }
}

/// The recorder counts events that differ in nothing but their note as one, and keeps the first note for minutes. So what
/// says something else is another action.
fn action(note: &str) -> String {
    let mut hasher = DefaultHasher::new();
    note.hash(&mut hasher);
    format!("Reconcile-{:016x}", hasher.finish())
}

/// At most `limit` bytes of `text`, cut between characters and marked.
pub(super) fn shorten(text: &str, limit: usize) -> String {
    if text.len() <= limit {
        return text.to_owned();
    }
    let mark = " ...";
    let mut end = limit.saturating_sub(mark.len());
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    format!("{}{mark}", &text[..end])
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
    use super::*;

    #[test]
    fn what_says_something_else_is_another_action_and_what_says_the_same_is_counted() {
        let no_answer = action("no answer");
        assert_eq!(no_answer, action("no answer"));
        assert_ne!(no_answer, action("a privilege is missing"));
        assert!(no_answer.len() <= 128, "the API server refuses longer ones");
    }

    #[test]
    fn long_notes_are_cut_between_characters() {
        assert_eq!(shorten("short", 1000), "short");
        let cut = shorten(&"é".repeat(600), 1000);
        assert!(cut.len() <= 1000 && cut.ends_with("é ..."), "{cut}");
    }
}
