//! What the API server refuses when a resource is created is refused without one, too: `run` and `plan` read manifests
//! that no API server has seen.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
#![allow(clippy::too_many_lines)] // tables

#[path = "support/manifests.rs"]
mod manifests;

use es_index_merge::api::EsIndexMerge;
use es_index_merge::merge::ValidMerge;
use manifests::{Accepted, Answer, Refused, created, merge, shortest};
use serde_json::Value;

/// Only the API server knows what was there before: a retention may stay when a deletion is given up, and what was accepted
/// by an earlier version goes on.
const LEFT_TO_THE_API_SERVER: [&str; 2] =
    ["a retention without a deletion", "deletion of sources and destination"];

/// What is wrong with what comes of a row; nothing if it is what the API server would answer.
fn complaint(row: &str, patch: &Value, expected: &Answer) -> Option<String> {
    let mut manifest = shortest();
    merge(&mut manifest["spec"], patch);
    let resource: EsIndexMerge = match (serde_json::from_value(manifest), expected) {
        (Ok(resource), _) => resource,
        // What is missing and what is in no list is refused in the words of the decoder.
        (Err(_), Refused(_)) => return None,
        (Err(error), Accepted) => return Some(format!("{row}: should be accepted, but: {error}")),
    };
    match (ValidMerge::parse_new("cli/merge", &resource.spec), expected) {
        (Ok(_), Accepted) => None,
        (Ok(_), Refused(_)) => Some(format!("{row}: should be refused, but is accepted")),
        (Err(problems), Accepted) => Some(format!("{row}: should be accepted, but: {problems:?}")),
        (Err(problems), Refused(parts)) => {
            // The API server names the field in the sentence.
            let said =
                problems.iter().map(|problem| format!("{problem}\n{} {}", problem.field, problem.message));
            let said = said.collect::<Vec<_>>().join("\n");
            let missing: Vec<_> = parts.iter().filter(|part| !said.contains(**part)).collect();
            (!missing.is_empty()).then(|| format!("{row}: {missing:?} is not in: {said}"))
        }
    }
}

#[test]
fn what_the_api_server_refuses_is_refused_without_one_in_the_same_words() {
    let rows = created();
    assert!(LEFT_TO_THE_API_SERVER.iter().all(|left| rows.iter().any(|(row, ..)| row == left)));
    let asked = rows.iter().filter(|(row, ..)| !LEFT_TO_THE_API_SERVER.contains(row));
    let complaints: Vec<String> =
        asked.filter_map(|(row, patch, expected)| complaint(row, patch, expected)).collect();
    assert!(complaints.is_empty(), "{}", complaints.join("\n"));
}
