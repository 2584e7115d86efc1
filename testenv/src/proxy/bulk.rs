//! Rejecting some items of a bulk request, as a server without room does, or failing at some chunks, as one with a bug
//! does: they are really not done.

use serde_json::value::RawValue;
use serde_json::{Value, json};

use super::fault::chance;
use super::message::Message;

/// A bulk request without the items that are rejected.
pub struct Thinned {
    /// What is passed on; its body is empty if nothing is left.
    pub request: Message,
    /// For each item of the original its action, if it was rejected.
    rejected: Vec<Option<String>>,
    /// What the server says of those.
    error: fn() -> Value,
}

#[derive(serde::Deserialize)]
struct Answer<'a> {
    #[serde(borrow)]
    items: Vec<&'a RawValue>,
}

/// Takes a share of the items out: 429.
pub fn thin(request: &Message, share: f64, seed: u64) -> Thinned {
    without(request, no_room, |number, _| chance(seed, number) < share)
}

/// Takes those out whose chunk holds this text: 500.
pub fn fail(request: &Message, text: &str) -> Thinned {
    let text = text.as_bytes();
    let holds = |content: &[u8]| !text.is_empty() && content.windows(text.len()).any(|part| part == text);
    without(request, null_pointer, |_, content| holds(content))
}

fn without(request: &Message, error: fn() -> Value, is_out: impl Fn(u64, &[u8]) -> bool) -> Thinned {
    let mut thinned = Thinned { request: request.clone(), rejected: Vec::new(), error };
    thinned.request.body.clear();
    let mut lines = request.body.split_inclusive(|&byte| byte == b'\n');
    while let Some(action) = lines.next() {
        let name = action_name(action);
        let content = if name == "delete" { &[][..] } else { lines.next().unwrap_or_default() };
        let number = thinned.rejected.len() as u64;
        if is_out(number, content) {
            thinned.rejected.push(Some(name));
        } else {
            thinned.rejected.push(None);
            thinned.request.body.extend_from_slice(action);
            thinned.request.body.extend_from_slice(content);
        }
    }
    thinned
}

impl Thinned {
    /// How many items were taken out.
    pub fn rejected(&self) -> usize {
        self.rejected.iter().flatten().count()
    }

    /// The answer to the original, made from that to what was passed on; an answer that is no bulk's stays.
    pub fn complete(&self, answer: Message) -> Message {
        let Ok(parsed) = serde_json::from_slice::<Answer>(&answer.body) else { return answer };
        let mut done = parsed.items.into_iter().map(RawValue::get);
        let items: Vec<String> = self
            .rejected
            .iter()
            .map(|rejected| match rejected {
                Some(action) => json!({ action: (self.error)() }).to_string(),
                None => done.next().unwrap_or("null").to_owned(),
            })
            .collect();
        let body = format!(r#"{{"errors":true,"items":[{}]}}"#, items.join(","));
        answer.with_body(body)
    }

    /// The answer if nothing was passed on.
    pub fn all_rejected(&self) -> Message {
        self.complete(Message::answer("200 OK", "application/json", r#"{"errors":false,"items":[]}"#))
    }
}

fn action_name(line: &[u8]) -> String {
    serde_json::from_slice::<serde_json::Map<String, Value>>(line)
        .ok()
        .and_then(|action| action.into_iter().next())
        .map_or_else(|| "index".to_owned(), |(name, _)| name)
}

fn no_room() -> Value {
    json!({
        "status": 429,
        "error": {
            "type": "es_rejected_execution_exception",
            "reason": "rejected execution of primary operation [coordinating_and_primary_bytes=0, max_coordinating_and_primary_bytes=1]"
        }
    })
}

fn null_pointer() -> Value {
    json!({
        "status": 500,
        "error": {"type": "null_pointer_exception", "reason": "Cannot invoke \"Object.hashCode()\" because \"key\" is null"}
    })
}

/// An answer to a search, or one of the answers of a multi-search, that asked no shard.
pub fn zero_shards(answer: Message, seed: u64) -> Message {
    const NOTHING: &str = r#"{"took":0,"timed_out":false,"_shards":{"total":0,"successful":0,"skipped":0,"failed":0},"hits":{"total":{"value":0,"relation":"eq"},"max_score":0.0,"hits":[]},"status":200}"#;
    #[derive(serde::Deserialize)]
    struct Many<'a> {
        #[serde(borrow)]
        responses: Vec<&'a RawValue>,
    }
    let body = match serde_json::from_slice::<Many>(&answer.body) {
        Ok(Many { responses }) if !responses.is_empty() => {
            #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)] // below the length
            let spoiled = (chance(seed, responses.len() as u64) * responses.len() as f64) as usize;
            let all: Vec<&str> = responses
                .iter()
                .enumerate()
                .map(|(at, response)| if at == spoiled { NOTHING } else { response.get() })
                .collect();
            format!(r#"{{"took":0,"responses":[{}]}}"#, all.join(","))
        }
        _ => NOTHING.to_owned(),
    };
    answer.with_body(body)
}
