//! Whether an error of the server's lies in a chunk, or in the server.
//!
//! A status of 500 does not say. What the server calls a lack of room, of a node, of a shard or of a disk never lies in
//! a chunk ([`BulkRefusal::may_lie_in_chunk`]). For the rest there is a trial: the chunk once more, and beside it other
//! words under the same id, so on the same shard and at the same moment ([`BulkRequest::trial`]). Those are read like
//! any chunk and then never written, because their condition cannot be met. On failure it says that nothing is proven.

use std::fmt;

use serde::Deserialize;

use super::{BulkBody, BulkItem, BulkRefusal, BulkRequest, push_quoted};

/// No shard had so many primaries: a condition that is never met, whether or not there is such a chunk.
const NO_TERM: i64 = (1 << 53) - 1;

/// Parts of the server's names of what ails a node, a shard, a disk or a cluster rather than a chunk.
const AILMENTS: [&str; 24] = [
    "already_closed",
    "block",
    "breaking",
    "closed",
    "cluster",
    "connect",
    "corrupt",
    "engine",
    "file",
    "i_o_",
    "interrupted",
    "io_exception",
    "master",
    "memory",
    "node",
    "primary",
    "recovery",
    "rejected",
    "security",
    "shard",
    "timeout",
    "translog",
    "transport",
    "unavailable",
];

/// The same in the words of a reason, where the name is that of a wrapper.
const AILING_WORDS: [&str; 6] = [
    "no space left",
    "too many open files",
    "data too large",
    "circuit_breaking",
    "circuitbreaking",
    "outofmemory",
];

#[derive(Deserialize)]
struct Action {
    index: Meta,
}

#[derive(Deserialize)]
struct Meta {
    #[serde(rename = "_id")]
    id: String,
}

impl fmt::Display for BulkRefusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "HTTP {}, {}: {}", self.status, self.kind, self.reason)
    }
}

impl BulkRefusal {
    /// Whether an error of the server's may be due to the chunk: it is of the class of 500, has a name, and neither
    /// the name nor the reason speaks of overload, a node, a shard, a disk or the cluster.
    ///
    /// It says nothing more: only a trial tells.
    #[must_use]
    pub fn may_lie_in_chunk(&self) -> bool {
        let reason = self.reason.to_ascii_lowercase();
        let is_of_server = matches!(self.status, 500..=599) && !matches!(self.status, 502..=504 | 507);
        is_of_server
            && !self.kind.is_empty()
            && !AILMENTS.iter().any(|ailment| self.kind.contains(ailment))
            && !AILING_WORDS.iter().any(|words| reason.contains(words))
    }
}

impl BulkRequest {
    /// The JSON of the chunk at that place; `None` for a deletion.
    #[must_use]
    pub fn words(&self, place: usize) -> Option<&[u8]> {
        let (_, words) = self.lines(place)?;
        (!words.is_empty()).then_some(words)
    }

    /// Two items for each place: the chunk again, and `words` (one line of JSON) under its id on a condition that is
    /// never met. `None` if a place holds no chunk.
    ///
    /// A server that is well answers the second one [`BulkItem::AlreadyThere`], whether or not the chunk is there.
    #[must_use]
    pub fn trial(&self, places: &[usize], words: &[u8]) -> Option<BulkRequest> {
        let mut body = BulkBody::default();
        for &place in places {
            let (action, chunk) = self.lines(place)?;
            let id = serde_json::from_slice::<Action>(action).ok()?.index.id;
            body.push_lines(&[action, chunk]);
            let mut condition = br#"{"index":{"_id":"#.to_vec();
            push_quoted(&mut condition, &id);
            condition
                .extend_from_slice(format!(r#","if_seq_no":0,"if_primary_term":{NO_TERM}}}}}"#).as_bytes());
            body.push_lines(&[&condition, words]);
        }
        Some(body.freeze())
    }

    /// The action and the chunk of an item, without their ends of line.
    fn lines(&self, place: usize) -> Option<(&[u8], &[u8])> {
        let end = *self.ends.get(place)?;
        let start = place.checked_sub(1).and_then(|before| self.ends.get(before)).copied().unwrap_or(0);
        let mut lines = self.body.get(start..end)?.split(|&byte| byte == b'\n');
        Some((lines.next()?, lines.next().unwrap_or_default()))
    }
}

impl BulkBody {
    fn push_lines(&mut self, lines: &[&[u8]]) {
        for line in lines {
            self.buffer.extend_from_slice(line);
            self.buffer.push(b'\n');
        }
        self.ends.push(self.buffer.len());
    }
}

/// What a trial says of each chunk: the server's reason, if that lies in the chunk.
///
/// It does if the chunk failed once more in a way that [`BulkRefusal::may_lie_in_chunk`], while the words beside it were
/// read and only their condition was not met.
#[must_use]
pub fn convicted(outcomes: &[BulkItem]) -> Vec<Option<BulkRefusal>> {
    let verdict = |pair: &[BulkItem]| match pair {
        [BulkItem::Retry(refusal), BulkItem::AlreadyThere] if refusal.may_lie_in_chunk() => {
            Some(refusal.clone())
        }
        _ => None,
    };
    outcomes.chunks(2).map(verdict).collect()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::super::BulkVersioning;
    use super::*;

    fn refusal(status: u16, kind: &str, reason: &str) -> BulkRefusal {
        BulkRefusal { status, kind: kind.into(), reason: reason.into() }
    }

    #[test]
    fn what_ails_the_server_never_lies_in_a_chunk() {
        for kind in
            ["null_pointer_exception", "illegal_state_exception", "array_index_out_of_bounds_exception"]
        {
            assert!(refusal(500, kind, "x").may_lie_in_chunk(), "{kind}");
        }
        for (status, kind, reason) in [
            (429, "null_pointer_exception", ""),
            (502, "null_pointer_exception", ""),
            (503, "null_pointer_exception", ""),
            (504, "null_pointer_exception", ""),
            (500, "", ""),
            (500, "cluster_block_exception", ""),
            (500, "circuit_breaking_exception", ""),
            (500, "unavailable_shards_exception", ""),
            (500, "no_shard_available_action_exception", ""),
            (500, "es_rejected_execution_exception", ""),
            (500, "already_closed_exception", ""),
            (500, "node_not_connected_exception", ""),
            (500, "receive_timeout_transport_exception", ""),
            (500, "process_cluster_event_timeout_exception", ""),
            (500, "i_o_exception", ""),
            (500, "out_of_memory_error", ""),
            (500, "exception", "java.io.IOException: No space left on device"),
            (500, "exception", "[parent] Data too large"),
        ] {
            assert!(!refusal(status, kind, reason).may_lie_in_chunk(), "{status} {kind} {reason}");
        }
    }

    #[test]
    fn a_trial_is_the_chunk_again_and_other_words_under_its_id() {
        let mut body = BulkBody::default();
        for (id, words) in [("a", b"{\"n\":1}".as_slice()), ("b\"", b"{\"n\":2}")] {
            body.begin_index(id, 7, BulkVersioning::External).extend_from_slice(words);
            body.end();
        }
        body.push_delete("c", 9);
        let whole = body.freeze();
        assert_eq!(
            (whole.words(0), whole.words(2), whole.words(3)),
            (Some(b"{\"n\":1}".as_slice()), None, None)
        );
        let trial = whole.trial(&[1], whole.words(0).unwrap()).unwrap();
        let expected = concat!(
            r#"{"index":{"_id":"b\"","version":7,"version_type":"external"}}"#,
            "\n{\"n\":2}\n",
            r#"{"index":{"_id":"b\"","if_seq_no":0,"if_primary_term":9007199254740991}}"#,
            "\n{\"n\":1}\n"
        );
        assert_eq!((std::str::from_utf8(&trial.body).unwrap(), trial.len()), (expected, 2));
        assert!(whole.trial(&[2], b"{}").is_none() && whole.trial(&[3], b"{}").is_none());
    }

    #[test]
    fn only_a_chunk_that_fails_beside_words_that_are_read_is_convicted() {
        let bad = || BulkItem::Retry(refusal(500, "null_pointer_exception", "x"));
        let busy = || BulkItem::Retry(refusal(429, "es_rejected_execution_exception", "x"));
        assert_eq!(
            convicted(&[bad(), BulkItem::AlreadyThere]),
            [Some(refusal(500, "null_pointer_exception", "x"))]
        );
        for (chunk, beside) in [
            (bad(), bad()),
            (bad(), busy()),
            (bad(), BulkItem::Applied),
            (bad(), BulkItem::Missing),
            (bad(), BulkItem::Refused(refusal(400, "x", "x"))),
            (busy(), BulkItem::AlreadyThere),
            (BulkItem::Applied, BulkItem::AlreadyThere),
        ] {
            assert_eq!(convicted(&[chunk, beside]), [None]);
        }
        assert_eq!(convicted(&[bad()]), [None]);
    }
}
