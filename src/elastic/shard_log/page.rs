//! A search's answer taken apart without copying: byte ranges of one buffer, in one pass.
//!
//! What comes out is only read, not believed: [`super::check`] makes a page of it. Keys come in any order, unknown
//! ones are skipped. On failure it says what was expected and where.

use bytes::Bytes;

use super::super::error::{ElasticError, Result};
use super::super::names::IndexName;
use super::scan::{Malformed, RawString, Scanner};
use super::{Hit, READING};

/// One answer of a search as it was sent: a found page, or the server's error.
#[derive(Debug)]
pub(in crate::elastic) enum RawAnswer {
    Found(RawPage),
    Failed(ElasticError),
}

/// What a page says of itself, and its hits.
#[derive(Debug, Default)]
pub(in crate::elastic) struct RawPage {
    pub timed_out: Option<bool>,
    pub terminated_early: bool,
    pub shards: Option<Shards>,
    pub total: Option<Total>,
    pub hits: Vec<Hit>,
    /// Whether all hits are of the index that was asked for.
    pub foreign_index: Option<String>,
    pub bytes: usize,
}

impl RawPage {
    /// The total, if that many hits came of a greater one.
    pub fn total_beyond(&self, size: usize) -> Option<usize> {
        let total = self.total.and_then(|total| total.value).and_then(|value| usize::try_from(value).ok());
        total.filter(|&total| self.hits.len() == size && total > size)
    }
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(in crate::elastic) struct Shards {
    pub total: Option<i64>,
    pub successful: Option<i64>,
    pub failed: Option<i64>,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(in crate::elastic) struct Total {
    pub value: Option<i64>,
    pub is_exact: bool,
}

/// What went wrong while an answer was taken apart.
#[derive(Debug, thiserror::Error)]
pub(super) enum Broken {
    #[error(transparent)]
    Malformed(#[from] Malformed),
    #[error("{0}")]
    Wrong(String),
}

impl From<Broken> for ElasticError {
    fn from(broken: Broken) -> Self {
        ElasticError::bad_answer(READING, format!("the answer cannot be read: {broken}")).with_source(broken)
    }
}

/// Takes the answer of an `_msearch` apart: one answer for each index asked, in order.
///
/// `vector_field` is the field whose binary doc values are the hits' vectors.
pub(in crate::elastic) fn parse_many(
    answer: &Bytes,
    indices: &[&IndexName],
    vector_field: impl Fn(usize) -> Option<String>,
) -> Result<Vec<RawAnswer>> {
    let mut answers = Vec::with_capacity(indices.len());
    let mut failure = None;
    let mut scanner = Scanner::new(answer);
    scanner
        .object::<Broken>(|s, key| match key {
            b"responses" => s.array(|s| {
                let number = answers.len();
                let Some(index) = indices.get(number) else {
                    return Err(Broken::Wrong("there are more answers than requests".into()));
                };
                answers.push(one(s, answer, index, vector_field(number).as_deref())?);
                Ok(())
            }),
            b"error" => {
                failure = Some(());
                Ok(s.value().map(drop)?)
            }
            _ => Ok(s.value().map(drop)?),
        })
        .and_then(|()| Ok(scanner.end()?))?;
    if failure.is_some() {
        return Err(ElasticError::from_server(READING, 500, answer));
    }
    if answers.len() != indices.len() {
        let reason = format!("{} answers came for {} requests", answers.len(), indices.len());
        return Err(ElasticError::bad_answer(READING, reason));
    }
    Ok(answers)
}

/// Takes the answer of a `_search` apart.
pub(in crate::elastic) fn parse_single(
    answer: &Bytes,
    index: &IndexName,
    vector_field: Option<&str>,
) -> Result<RawAnswer> {
    let mut scanner = Scanner::new(answer);
    let found = one(&mut scanner, answer, index, vector_field)?;
    scanner.end().map_err(Broken::from)?;
    Ok(found)
}

fn one(
    scanner: &mut Scanner<'_>,
    answer: &Bytes,
    index: &IndexName,
    vector_field: Option<&str>,
) -> std::result::Result<RawAnswer, Broken> {
    scanner.peek();
    let start = scanner.at();
    let mut page = RawPage::default();
    let mut has_error = false;
    let mut status = None;
    scanner.object::<Broken>(|s, key| {
        match key {
            b"timed_out" => page.timed_out = Some(s.boolean()?),
            b"terminated_early" => page.terminated_early = s.boolean()?,
            b"_shards" => page.shards = Some(shards(s)?),
            b"hits" => hits(s, answer, index, vector_field, &mut page)?,
            b"status" => status = Some(s.integer()?),
            b"error" => {
                has_error = true;
                s.value()?;
            }
            _ => {
                s.value()?;
            }
        }
        Ok(())
    })?;
    let range = start..scanner.at();
    page.bytes = range.len();
    let status = status.and_then(|status| u16::try_from(status).ok());
    if has_error || status.is_some_and(|status| status >= 300) {
        let body = answer.get(range).unwrap_or_default();
        return Ok(RawAnswer::Failed(ElasticError::from_server(READING, status.unwrap_or(500), body)));
    }
    Ok(RawAnswer::Found(page))
}

fn shards(scanner: &mut Scanner<'_>) -> std::result::Result<Shards, Malformed> {
    let mut shards = Shards::default();
    scanner.object::<Malformed>(|s, key| {
        match key {
            b"total" => shards.total = Some(s.integer()?),
            b"successful" => shards.successful = Some(s.integer()?),
            b"failed" => shards.failed = Some(s.integer()?),
            _ => {
                s.value()?;
            }
        }
        Ok(())
    })?;
    Ok(shards)
}

fn hits(
    scanner: &mut Scanner<'_>,
    answer: &Bytes,
    index: &IndexName,
    vector_field: Option<&str>,
    page: &mut RawPage,
) -> std::result::Result<(), Broken> {
    scanner.object::<Broken>(|s, key| {
        match key {
            b"total" => page.total = Some(total(s, answer)?),
            b"hits" => s.array::<Broken>(|s| {
                let found = hit(s, answer, vector_field)?;
                if found.index != index.as_str().as_bytes() && page.foreign_index.is_none() {
                    page.foreign_index = Some(String::from_utf8_lossy(&found.index).into_owned());
                }
                page.hits.push(found.hit);
                Ok(())
            })?,
            _ => {
                s.value()?;
            }
        }
        Ok(())
    })
}

fn total(scanner: &mut Scanner<'_>, answer: &Bytes) -> std::result::Result<Total, Malformed> {
    let mut total = Total::default();
    scanner.object::<Malformed>(|s, key| {
        match key {
            b"value" => total.value = Some(s.integer()?),
            b"relation" => {
                let relation = s.string()?;
                total.is_exact = answer.get(relation.range) == Some(b"eq".as_slice());
            }
            _ => {
                s.value()?;
            }
        }
        Ok(())
    })?;
    Ok(total)
}

struct FoundHit {
    index: Bytes,
    hit: Hit,
}

fn hit(
    scanner: &mut Scanner<'_>,
    answer: &Bytes,
    vector_field: Option<&str>,
) -> std::result::Result<FoundHit, Broken> {
    let mut index = Bytes::new();
    let mut id = None;
    let mut seq_no = None;
    let mut version = None;
    let mut source = Bytes::new();
    let mut vector = None;
    scanner.object::<Broken>(|s, key| {
        match key {
            b"_index" => index = text(&s.string()?, answer)?,
            b"_id" => id = Some(string(&s.string()?, answer)?),
            b"_seq_no" => seq_no = Some(s.integer()?),
            b"_version" => version = Some(s.integer()?),
            b"_source" => source = answer.slice(s.document()?),
            b"fields" => s.object::<Broken>(|s, key| {
                if vector_field.is_some_and(|field| field.as_bytes() == key) {
                    vector = first_text(s, answer)?;
                } else {
                    s.value()?;
                }
                Ok(())
            })?,
            _ => {
                s.value()?;
            }
        }
        Ok(())
    })?;
    let lacks = |what: &str| Broken::Wrong(format!("a hit has no {what}"));
    let hit = Hit {
        // Not every lane asks for it: what must be there is checked afterwards.
        id: id.unwrap_or_default(),
        seq_no: seq_no.ok_or_else(|| lacks("_seq_no"))?,
        version: version.ok_or_else(|| lacks("_version"))?,
        source,
        vector,
    };
    Ok(FoundHit { index, hit })
}

/// The only string of an array of doc values.
fn first_text(scanner: &mut Scanner<'_>, answer: &Bytes) -> std::result::Result<Option<Bytes>, Broken> {
    let mut found = None;
    scanner.array::<Broken>(|s| {
        let raw = s.string()?;
        if found.is_some() {
            return Err(Broken::Wrong("a vector has more than one value".into()));
        }
        found = Some(text(&raw, answer)?);
        Ok(())
    })?;
    Ok(found)
}

/// The value of a string; copied only if it holds escapes.
fn text(raw: &RawString, answer: &Bytes) -> std::result::Result<Bytes, Broken> {
    if raw.escaped {
        return Ok(Bytes::from(unescaped(raw, answer)?));
    }
    let slice = answer.slice(raw.range.clone());
    match simdutf8::basic::from_utf8(&slice) {
        Ok(_) => Ok(slice),
        Err(_) => Err(Broken::Wrong(format!("a string at byte {} is not UTF-8", raw.range.start))),
    }
}

fn string(raw: &RawString, answer: &Bytes) -> std::result::Result<String, Broken> {
    if raw.escaped {
        return unescaped(raw, answer);
    }
    let slice = answer.get(raw.range.clone()).unwrap_or_default();
    match simdutf8::basic::from_utf8(slice) {
        Ok(value) => Ok(value.to_owned()),
        Err(_) => Err(Broken::Wrong(format!("a string at byte {} is not UTF-8", raw.range.start))),
    }
}

fn unescaped(raw: &RawString, answer: &Bytes) -> std::result::Result<String, Broken> {
    // With the quotes around it, which stand just outside of its range.
    let quoted = answer.get(raw.range.start.saturating_sub(1)..raw.range.end + 1).unwrap_or_default();
    serde_json::from_slice(quoted)
        .map_err(|e| Broken::Wrong(format!("a string at byte {} is malformed: {e}", raw.range.start)))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::panic)]
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    fn parsed(text: &str) -> Result<RawPage> {
        let index = IndexName::parse("a").unwrap();
        match parse_single(&Bytes::from(text.to_owned()), &index, Some("embedding"))? {
            RawAnswer::Found(page) => Ok(page),
            RawAnswer::Failed(error) => Err(error),
        }
    }

    fn wrapped(hits: &str) -> String {
        format!(r#"{{"hits":{{"hits":[{hits}]}}}}"#)
    }

    #[test]
    fn a_hit_is_read_whatever_the_order_of_its_keys_and_unknown_ones_are_skipped() {
        let text = wrapped(
            r#"{ "new": [{"_id":"no"}], "fields" : {"other":["x"], "embedding" : [ "PwAA/+==" ]},
               "_source":{ "s" : "}\"]{ \\" , "_id":"no"}, "_version" : 3,"_id":"é\u00e9\"", "_seq_no":-0, "_index":"a"}"#,
        );
        let page = parsed(&text).unwrap();
        let [hit] = page.hits.as_slice() else { panic!("one hit") };
        assert_eq!((hit.id.as_str(), hit.seq_no, hit.version), ("éé\"", 0, 3));
        assert_eq!(hit.source(), br#"{ "s" : "}\"]{ \\" , "_id":"no"}"#);
        assert_eq!(hit.vector(), Some("PwAA/+=="));
        assert_eq!(page.foreign_index, None);
    }

    #[test]
    fn a_vector_with_escaped_slashes_is_decoded_and_two_vectors_are_refused() {
        let hit = |vector: &str| {
            wrapped(&format!(
                r#"{{"_index":"a","_id":"p","_seq_no":1,"_version":1,"fields":{{"embedding":{vector}}}}}"#
            ))
        };
        assert_eq!(parsed(&hit(r#"["Pw\/A"]"#)).unwrap().hits[0].vector(), Some("Pw/A"));
        assert_eq!(parsed(&hit("[]")).unwrap().hits[0].vector(), None);
        for bad in [r#"["a","b"]"#, "[1]", r#""a""#, r#"["\x"]"#] {
            assert!(parsed(&hit(bad)).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_comment_in_a_document_ends_nothing_but_itself() {
        let hit = |id: &str, source: &str| {
            format!(r#"{{"_index":"a","_id":"{id}","_source":{source},"_seq_no":1,"_version":1}}"#)
        };
        let odd = r#"{"id":1, /* don"t },"_seq_no":7,"x":{ */ "content":"x"}"#;
        let page = parsed(&wrapped(&[hit("p", odd), hit("q", "{}")].join(","))).unwrap();
        let found: Vec<_> = page.hits.iter().map(|hit| (hit.id.as_str(), hit.seq_no, hit.source())).collect();
        assert_eq!(found, [("p", 1, odd.as_bytes()), ("q", 1, b"{}".as_slice())]);
        let around = parsed(&wrapped(&hit("p", "/* { */ {} /* } */"))).unwrap();
        assert_eq!(around.hits[0].source(), b"{}");
        assert!(parsed(&wrapped(&hit("p", "{} // \""))).is_err());
    }

    #[test]
    fn many_answers_must_be_as_many_as_the_requests() {
        let a = IndexName::parse("a").unwrap();
        let parse = |text: &str, indices: &[&IndexName]| {
            parse_many(&Bytes::from(text.to_owned()), indices, |_| None).map(|answers| answers.len())
        };
        let two = r#"{"took":1,"responses":[{"status":200},{"status":404,"error":"x"}]} "#;
        assert_eq!(parse(two, &[&a, &a]).unwrap(), 2);
        for indices in [vec![&a], vec![&a, &a, &a]] {
            assert!(parse(two, &indices).is_err());
        }
        for broken in ["", "[]", r#"{"took":1}"#, r#"{"responses":[{}]}x"#, r#"{"responses":[{},]}"#] {
            assert!(parse(broken, &[&a]).is_err(), "{broken}");
        }
    }

    #[test]
    fn text_that_is_not_utf_8_is_refused() {
        let mut text = wrapped(r#"{"_index":"a","_id":"#).into_bytes();
        text.truncate(text.len() - 3);
        text.extend_from_slice(b"\"\xff\",\"_seq_no\":1,\"_version\":1}]}}");
        let index = IndexName::parse("a").unwrap();
        let error = parse_single(&Bytes::from(text), &index, None).unwrap_err();
        assert!(error.to_string().contains("UTF-8"), "{error}");
    }

    proptest! {
        #[test]
        fn every_hit_comes_back_as_it_was_sent(
            hits in prop::collection::vec((".*", any::<i64>(), any::<i64>(), ".*", prop::option::of("[A-Za-z0-9+/]{0,40}")), 0..20),
            pretty: bool,
        ) {
            let sent: Vec<_> = hits.iter().map(|(id, seq_no, version, content, vector)| {
                let mut hit = json!({"_index": "a", "_id": id, "_seq_no": seq_no, "_version": version, "_source": {"c": content}});
                if let Some(vector) = vector {
                    hit["fields"] = json!({"embedding": [vector]});
                }
                hit
            }).collect();
            let answer = json!({"timed_out": false, "hits": {"hits": sent}});
            let text = if pretty { serde_json::to_string_pretty(&answer) } else { serde_json::to_string(&answer) }.unwrap();
            let page = parsed(&text).unwrap();
            prop_assert_eq!(page.hits.len(), hits.len());
            for (hit, (id, seq_no, version, content, vector)) in page.hits.iter().zip(&hits) {
                prop_assert_eq!((&hit.id, hit.seq_no, hit.version), (id, *seq_no, *version));
                let source: serde_json::Value = serde_json::from_slice(hit.source()).unwrap();
                prop_assert_eq!(source, json!({"c": content}));
                prop_assert_eq!(hit.vector(), vector.as_deref());
            }
        }

        #[test]
        fn an_answer_that_breaks_off_is_refused(cut in 0_usize..200) {
            let text = wrapped(r#"{"_index":"a","_id":"p","_seq_no":1,"_version":1,"_source":{"a":["}",1.5]},"fields":{"embedding":["QQ=="]}}"#);
            if cut < text.len() {
                prop_assert!(parsed(&text[..cut]).is_err());
            }
        }
    }
}
