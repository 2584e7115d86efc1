//! The versions of chunks, by id, as they are at that moment.
//!
//! Not a search: what was written a moment ago and is not refreshed yet counts too.

use serde::Deserialize;
use serde_json::json;

use super::call::Call;
use super::cluster::{Cluster, encoded, parse};
use super::error::{ElasticError, ErrorCategory, INDEX_CLOSED, INDEX_NOT_FOUND, Result, shortened};
use super::names::IndexName;

const LOOKING_UP: &str = "look versions up";

#[derive(Deserialize)]
struct Answer {
    docs: Vec<Document>,
}

#[derive(Deserialize)]
struct Document {
    found: Option<bool>,
    #[serde(rename = "_version")]
    version: Option<i64>,
    error: Option<Failure>,
}

#[derive(Deserialize)]
struct Failure {
    #[serde(rename = "type", default)]
    kind: String,
    #[serde(default)]
    reason: String,
}

impl Cluster {
    /// The version of the chunk with each of these ids, in their order; `None` where there is none.
    ///
    /// Chunks are looked for where their ids alone route them. Errors of one id are errors of all.
    pub async fn versions(&self, index: &IndexName, ids: &[&str]) -> Result<Vec<Option<i64>>> {
        if ids.is_empty() {
            return Ok(Vec::new());
        }
        let call = Call::post(LOOKING_UP, format!("/{}/_mget", encoded(index.as_str())))
            .with("realtime", "true")
            .with("_source", "false")
            .with("filter_path", "docs.found,docs._version,docs.error.type,docs.error.reason")
            .json(&json!({"ids": ids}));
        of_answer(&self.send(&call).await?, ids.len())
    }
}

pub(super) fn of_answer(answer: &[u8], asked: usize) -> Result<Vec<Option<i64>>> {
    let answer: Answer = parse(LOOKING_UP, answer)?;
    if answer.docs.len() != asked {
        let reason = format!("{} ids were answered of {asked} asked", answer.docs.len());
        return Err(ElasticError::bad_answer(LOOKING_UP, reason));
    }
    answer.docs.into_iter().map(version).collect()
}

fn version(document: Document) -> Result<Option<i64>> {
    if let Some(Failure { kind, reason }) = document.error {
        let category = match kind.as_str() {
            INDEX_NOT_FOUND => ErrorCategory::NotFound,
            INDEX_CLOSED => ErrorCategory::Invalid,
            // A shard that moves, or has no copy that answers.
            _ => ErrorCategory::Unavailable,
        };
        let text = format!("{}: {}", shortened(&kind), shortened(&reason));
        return Err(ElasticError::new(category, LOOKING_UP, text).with_kind(&kind));
    }
    match (document.found, document.version) {
        (Some(true), Some(version)) => Ok(Some(version)),
        (Some(false), None) => Ok(None),
        _ => Err(ElasticError::bad_answer(LOOKING_UP, "a chunk is neither found with a version nor missing")),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn read(answer: &str, asked: usize) -> Result<Vec<Option<i64>>> {
        of_answer(answer.as_bytes(), asked)
    }

    #[test]
    fn each_id_has_its_answer() {
        let answer = r#"{"docs":[{"_version":7,"found":true},{"found":false}]}"#;
        assert_eq!(read(answer, 2).unwrap(), [Some(7), None]);
    }

    #[test]
    fn an_answer_that_leaves_something_open_is_an_error() {
        for answer in [
            r#"{"docs":[{"found":false}]}"#,
            r#"{"docs":[{"found":false},{}]}"#,
            r#"{"docs":[{"found":false},{"found":true}]}"#,
            r#"{"docs":[{"found":false},{"found":false,"_version":1}]}"#,
            "{}",
        ] {
            let error = read(answer, 2).unwrap_err();
            assert_eq!(error.category(), ErrorCategory::BadAnswer, "{answer}");
        }
    }

    #[test]
    fn an_error_of_one_is_an_error_of_all() {
        let moving = r#"{"docs":[{"found":false},{"error":{"type":"no_shard_available_action_exception","reason":"r"}}]}"#;
        let error = read(moving, 2).unwrap_err();
        assert_eq!(error.category(), ErrorCategory::Unavailable);
        let gone = moving.replace("no_shard_available_action_exception", INDEX_NOT_FOUND);
        assert!(read(&gone, 2).unwrap_err().is_missing_index());
    }
}
