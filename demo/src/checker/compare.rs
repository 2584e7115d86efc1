//! One document of the destination against what was expected, field by field.

use std::collections::BTreeMap;

use serde_json::value::RawValue;

use super::exact::{Decimal, Exact};
use super::expected::{Contract, Expected, date_of_text, vector};

/// Elasticsearch leaves vectors alone whose squared length is this near to 1, and normalises all others.
const UNIT: f64 = 1e-3;
/// Units in the last place by which a number may differ after normalising and back.
const ULPS: u32 = 2;
/// Longest piece of a value in a message.
const SHOWN: usize = 120;

/// The first field that is not as it should be.
#[derive(Debug, Clone)]
pub struct Difference {
    /// The field's name.
    pub field: String,
    /// What was expected.
    pub expected: String,
    /// What was found.
    pub found: String,
}

/// Compares every field; `None` when all are equal.
#[must_use]
pub fn compare(expected: &Expected, found: &str, contract: Contract) -> Option<Difference> {
    let fields: BTreeMap<String, &RawValue> = match serde_json::from_str(found) {
        Ok(fields) => fields,
        Err(error) => return Some(difference("_source", "an object", &error.to_string())),
    };
    let field = |name: &str| fields.get(name).map_or(Exact::Null, |raw| Exact::parse(raw));
    for name in fields.keys() {
        let known = match name.as_str() {
            "id" | "collection_id" | "document_id" | "content" | "embedding" | "metadata" | "created" => true,
            "document_name" => contract == Contract::OpenGateLLM,
            _ => false,
        };
        if !known {
            return Some(difference(name, "no such field", "a value"));
        }
    }
    integer("id", expected.id, &field("id"))
        .or_else(|| integer("collection_id", expected.collection, &field("collection_id")))
        .or_else(|| integer("document_id", expected.document, &field("document_id")))
        .or_else(|| text("content", Some(&expected.content), &field("content")))
        .or_else(|| text("document_name", expected.name.as_ref(), &field("document_name")))
        .or_else(|| created(expected.created, &field("created")))
        .or_else(|| metadata(expected.metadata.as_ref(), &field("metadata")))
        .or_else(|| embedding(&expected.vector, fields.get("embedding").copied()))
}

fn difference(field: &str, expected: &str, found: &str) -> Difference {
    let short = |text: &str| match text.char_indices().nth(SHOWN) {
        Some((at, _)) => format!("{}…", &text[..at]),
        None => text.to_owned(),
    };
    Difference { field: field.to_owned(), expected: short(expected), found: short(found) }
}

fn integer(name: &str, expected: i64, found: &Exact) -> Option<Difference> {
    match found {
        // As an integer is written, not `7.0`: readers parse it strictly.
        Exact::Number(text) if text.parse() == Ok(expected) => None,
        other => Some(difference(name, &expected.to_string(), &format!("{other:?}"))),
    }
}

fn text(name: &str, expected: Option<&String>, found: &Exact) -> Option<Difference> {
    match (expected, found) {
        (None, Exact::Null) => None,
        (Some(wanted), Exact::Text(is)) if wanted == is => None,
        (wanted, other) => Some(difference(name, &format!("{wanted:?}"), &format!("{other:?}"))),
    }
}

fn created(expected: Option<i64>, found: &Exact) -> Option<Difference> {
    let is = match found {
        Exact::Null => None,
        // Only with an offset: without one, what it means depends on who reads it.
        Exact::Text(text) if text.parse::<jiff::Timestamp>().is_ok() => date_of_text(text),
        other => return Some(difference("created", "ISO 8601 in UTC", &format!("{other:?}"))),
    };
    (is != expected).then(|| difference("created", &format!("{expected:?}"), &format!("{found:?}")))
}

fn metadata(expected: Option<&BTreeMap<String, Exact>>, found: &Exact) -> Option<Difference> {
    match (expected, found) {
        (None, Exact::Null) => None,
        (Some(wanted), Exact::Object(is)) => {
            let wrong =
                wanted.iter().find(|(key, value)| !is.get(*key).is_some_and(|found| found.same(value)));
            if let Some((key, value)) = wrong {
                return Some(difference(
                    &format!("metadata.{key}"),
                    &format!("{value:?}"),
                    &format!("{:?}", is.get(key)),
                ));
            }
            let surplus = is.keys().find(|key| !wanted.contains_key(*key))?;
            Some(difference(
                &format!("metadata.{surplus}"),
                "no such entry",
                &format!("{:?}", is.get(surplus)),
            ))
        }
        (wanted, other) => Some(difference("metadata", &format!("{wanted:?}"), &format!("{other:?}"))),
    }
}

fn embedding(expected: &[f32], found: Option<&RawValue>) -> Option<Difference> {
    let Some(is) = found.and_then(vector) else {
        return Some(difference("embedding", "a vector", found.map_or("nothing", RawValue::get)));
    };
    if is.len() != expected.len() {
        return Some(difference(
            "embedding",
            &format!("{} numbers", expected.len()),
            &format!("{} numbers", is.len()),
        ));
    }
    let squares: f64 = expected.iter().map(|x| f64::from(*x) * f64::from(*x)).sum();
    let tolerance = if (squares - 1.0).abs() < UNIT { 0 } else { ULPS };
    let wrong = expected.iter().zip(&is).position(|(a, b)| ulps(*a, *b) > tolerance)?;
    Some(difference(
        &format!("embedding[{wrong}]"),
        &format!("{:?}", expected[wrong]),
        &format!("{:?}", is[wrong]),
    ))
}

/// How many floats lie between two floats; 0.0 and -0.0 are the same.
fn ulps(a: f32, b: f32) -> u32 {
    // Maps the bits to integers in the order of the numbers.
    let ordered = |x: f32| {
        let bits = x.to_bits();
        if bits >> 31 == 0 { i64::from(bits) } else { -i64::from(bits & 0x7fff_ffff) }
    };
    u32::try_from((ordered(a) - ordered(b)).unsigned_abs()).unwrap_or(u32::MAX)
}

/// The keys of a document as the destination has them, to find the same chunk under two ids.
#[must_use]
pub fn keys(found: &str) -> Option<(i64, i64)> {
    let fields: BTreeMap<String, &RawValue> = serde_json::from_str(found).ok()?;
    let read = |name: &str| match Exact::parse(fields.get(name)?) {
        Exact::Number(text) => Decimal::parse(&text)?.integer(),
        _ => None,
    };
    Some((read("document_id")?, read("id")?))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::collections::HashMap;

    use super::super::expected::expect;
    use super::*;

    fn expected(vector: &str) -> Expected {
        let source = format!(
            "{{\"id\":7,\"content\":\"é\",\"embedding\":{vector},\"metadata\":{{\"document_id\":5,\"document_name\":\"n\",\"big\":9007199254740993,\"document_created_at\":1700000000}}}}"
        );
        expect(&source, 42, Contract::OpenGateLLM, 2, &HashMap::new()).unwrap()
    }

    const GOOD: &str = "{\"id\":7,\"collection_id\":42,\"document_id\":5,\"document_name\":\"n\",\"content\":\"é\",\"embedding\":[0.6,0.8],\"metadata\":{\"big\":9007199254740993},\"created\":\"2023-11-14T22:13:20Z\"}";

    fn field(found: &str) -> Option<String> {
        compare(&expected("[0.6,0.8]"), found, Contract::OpenGateLLM).map(|difference| difference.field)
    }

    #[test]
    fn finds_every_single_change() {
        assert_eq!(field(GOOD), None);
        for (from, to, name) in [
            ("\"id\":7", "\"id\":8", "id"),
            ("\"id\":7", "\"id\":\"7\"", "id"),
            ("\"collection_id\":42", "\"collection_id\":43", "collection_id"),
            ("\"document_id\":5,", "", "document_id"),
            ("\"document_name\":\"n\"", "\"document_name\":\"m\"", "document_name"),
            ("\"é\"", "\"e\u{301}\"", "content"),
            ("[0.6,0.8]", "[0.6,0.80000007]", "embedding[1]"),
            ("[0.6,0.8]", "[0.6]", "embedding"),
            ("\"embedding\":[0.6,0.8],", "", "embedding"),
            ("9007199254740993", "9007199254740992", "metadata.big"),
            ("{\"big\":9007199254740993}", "null", "metadata"),
            ("{\"big\":9007199254740993}", "{\"big\":9007199254740993,\"x\":1}", "metadata.x"),
            ("22:13:20Z", "22:13:21Z", "created"),
            ("\"2023-11-14T22:13:20Z\"", "1700000000000", "created"),
            ("22:13:20Z", "22:13:20", "created"),
            ("{\"id\"", "{\"_from\":1,\"id\"", "_from"),
        ] {
            let changed = GOOD.replacen(from, to, 1);
            assert_ne!(changed, GOOD, "{from}");
            assert_eq!(field(&changed).as_deref(), Some(name), "{to}");
        }
    }

    #[test]
    fn allows_two_units_in_the_last_place_only_where_the_server_normalises() {
        let near = f32::from_bits(3.0_f32.to_bits() + 2);
        let far = f32::from_bits(3.0_f32.to_bits() + 3);
        let found = |x: f32| GOOD.replacen("[0.6,0.8]", &format!("[{x:?},4.0]"), 1);
        let wanted = expected("[3.0,4.0]");
        assert!(compare(&wanted, &found(near), Contract::OpenGateLLM).is_none());
        assert!(compare(&wanted, &found(far), Contract::OpenGateLLM).is_some());
        assert_eq!(ulps(0.0, -0.0), 0);
        assert_eq!(ulps(f32::from_bits(1), -f32::from_bits(1)), 2);
    }
}
