//! Writing chunks into old indices, many at a time.

use std::fmt::Write as _;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use base64::Engine as _;
use bytes::Bytes;
use reqwest::Method;
use serde_json::Value;

use crate::cluster::{Cluster, short};

/// How often a request that the server was too busy for is sent again.
const ATTEMPTS: u32 = 8;

/// A bulk request under construction; operations keep their order.
#[derive(Default)]
pub struct Bulk {
    body: Vec<u8>,
    operations: usize,
}

impl Bulk {
    /// Bytes so far.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.body.len()
    }

    /// Operations so far.
    #[must_use]
    pub fn operations(&self) -> usize {
        self.operations
    }

    /// Writes `source` (one line of JSON); without an id the server makes one, as for the old application.
    pub fn index(&mut self, index: &str, id: Option<&str>, source: &str) {
        self.action("index", index, id);
        self.line(source);
    }

    /// Changes some fields of a chunk.
    pub fn update(&mut self, index: &str, id: &str, partial: &str) {
        self.action("update", index, Some(id));
        self.line(&format!("{{\"doc\":{partial}}}"));
    }

    /// Deletes a chunk.
    pub fn delete(&mut self, index: &str, id: &str) {
        self.action("delete", index, Some(id));
    }

    fn action(&mut self, verb: &str, index: &str, id: Option<&str>) {
        let target = match id {
            Some(id) => serde_json::json!({verb: {"_index": index, "_id": id}}),
            None => serde_json::json!({verb: {"_index": index}}),
        };
        self.line(&target.to_string());
        self.operations += 1;
    }

    fn line(&mut self, line: &str) {
        self.body.extend_from_slice(line.as_bytes());
        self.body.push(b'\n');
    }

    /// Sends everything. An operation that the server refuses is an error with its reason; a busy server is
    /// asked again with growing pauses.
    pub async fn send(self, cluster: &Cluster) -> Result<()> {
        if self.operations == 0 {
            return Ok(());
        }
        let body = Bytes::from(self.body);
        for attempt in 0..ATTEMPTS {
            let answer =
                cluster.send(Method::POST, "/_bulk", "application/x-ndjson", Some(body.clone())).await?;
            if matches!(answer.status, 429 | 503) {
                // There is no event to wait for: only the server knows when it has room again.
                tokio::time::sleep(Duration::from_millis(100 << attempt)).await;
                continue;
            }
            if !answer.is_success() {
                bail!("bulk: {} {}", answer.status, short(&answer.body));
            }
            return refused(&answer.json()?, self.operations);
        }
        bail!(
            "the server is too busy for a bulk of {} operations, {ATTEMPTS} times in a row",
            self.operations
        )
    }
}

fn refused(answer: &Value, operations: usize) -> Result<()> {
    let items = answer["items"].as_array().context("the answer to a bulk has no items")?;
    if items.len() != operations {
        bail!("sent {operations} operations, the server answers {}", items.len());
    }
    if answer["errors"] == Value::Bool(false) {
        return Ok(());
    }
    let first = items
        .iter()
        .filter_map(|item| item.as_object()?.values().next())
        .find(|item| !item["error"].is_null());
    match first {
        Some(item) => bail!(
            "the server refuses an operation on index {}: {} {}",
            item["_index"],
            item["status"],
            item["error"]
        ),
        None => bail!("the answer to a bulk says `errors` and names none"),
    }
}

/// How the numbers of a vector are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum VectorText {
    /// A list of the shortest decimals that give the same f32.
    Floats,
    /// A list of the decimals of the f64, as clients write that hold doubles.
    Doubles,
    /// base64 of big-endian f32.
    Base64,
}

/// Appends `vector` as a JSON value. Numbers that are not finite become `null`, which JSON has no word for.
pub fn write_vector(vector: &[f32], text: VectorText, out: &mut String) {
    if text == VectorText::Base64 {
        let bytes: Vec<u8> = vector.iter().flat_map(|x| x.to_be_bytes()).collect();
        out.push('"');
        base64::engine::general_purpose::STANDARD.encode_string(bytes, out);
        out.push('"');
        return;
    }
    out.push('[');
    for (at, x) in vector.iter().enumerate() {
        if at > 0 {
            out.push(',');
        }
        if !x.is_finite() {
            out.push_str("null");
            continue;
        }
        // `{:?}` of a float is its shortest text that reads back as the same; a String cannot fail.
        let _ = match text {
            VectorText::Doubles => write!(out, "{:?}", f64::from(*x)),
            VectorText::Floats | VectorText::Base64 => write!(out, "{x:?}"),
        };
    }
    out.push(']');
}

/// A chunk's `_source` as the old application writes it. `metadata` is a JSON object.
#[must_use]
pub fn source(id: i64, content: &str, vector: &[f32], text: VectorText, metadata: &str) -> String {
    let mut out = String::with_capacity(content.len() + vector.len() * 12 + metadata.len() + 64);
    let _ = write!(out, "{{\"id\":{id},\"content\":{},\"embedding\":", Value::from(content));
    write_vector(vector, text, &mut out);
    let _ = write!(out, ",\"metadata\":{metadata}}}");
    out
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn every_form_of_a_vector_reads_back_as_the_same_bits() {
        let vector = [0.1_f32, -1.0e-20, 3.0, f32::MIN_POSITIVE, 0.333_333_34];
        for text in [VectorText::Floats, VectorText::Doubles] {
            let mut out = String::new();
            write_vector(&vector, text, &mut out);
            let back: Vec<f32> = serde_json::from_str::<Vec<f64>>(&out)
                .unwrap()
                .into_iter()
                .map(|x| {
                    #[allow(clippy::cast_possible_truncation)]
                    let y = x as f32;
                    y
                })
                .collect();
            assert_eq!(back, vector);
        }
    }

    #[test]
    fn a_source_is_one_line_of_json() {
        let text = source(7, "a\n\"b\" \u{2028}", &[0.5], VectorText::Floats, "{\"document_id\":1}");
        assert!(!text.contains('\n'));
        let value: Value = serde_json::from_str(&text).unwrap();
        assert_eq!(value["content"], "a\n\"b\" \u{2028}");
        assert_eq!(value["metadata"]["document_id"], 1);
    }
}
