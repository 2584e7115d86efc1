//! What the destination must hold for one chunk of a source, computed from the description of the contracts.

use std::collections::{BTreeMap, HashMap};
use std::fmt::Write as _;

use base64::Engine as _;
use jiff::Timestamp;
use jiff::civil;
use jiff::tz::TimeZone;
use serde::Deserialize;
use serde_json::value::RawValue;
use sha2::{Digest, Sha256};

use super::exact::{Decimal, Exact};

/// Which application reads the destination.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Contract {
    /// With `document_name`, at most 8 metadata entries.
    #[value(name = "OpenGateLLM")]
    OpenGateLLM,
    /// Without `document_name`, at most 10 metadata entries.
    #[value(name = "OpenGateRAG")]
    OpenGateRAG,
}

impl Contract {
    fn entries(self) -> usize {
        match self {
            Self::OpenGateLLM => 8,
            Self::OpenGateRAG => 10,
        }
    }
}

/// Keys of the source's metadata that become fields of their own.
const RESERVED: [&str; 5] =
    ["document_id", "collection_id", "document_name", "document_created_at", "document_created"];
/// A number from here on is milliseconds; as seconds it would be later than the year 5000.
const MILLISECONDS: i64 = 100_000_000_000;

/// What Postgres knows of a document.
#[derive(Debug, Clone, Default)]
pub struct Row {
    /// `document.name`
    pub name: Option<String>,
    /// `document.created` or `created_at`, in milliseconds since 1970.
    pub created: Option<i64>,
}

/// A document of the destination.
#[derive(Debug)]
pub struct Expected {
    /// `_id`
    pub key: String,
    /// `id`
    pub id: i64,
    /// `collection_id`
    pub collection: i64,
    /// `document_id`
    pub document: i64,
    /// `content`
    pub content: String,
    /// `document_name`; always `None` under [`Contract::OpenGateRAG`].
    pub name: Option<String>,
    /// `created`, in milliseconds since 1970.
    pub created: Option<i64>,
    /// `metadata`; `None` stands for `null`.
    pub metadata: Option<BTreeMap<String, Exact>>,
    /// `embedding`
    pub vector: Vec<f32>,
}

/// The fields of `_source` that matter, unparsed.
#[derive(Deserialize)]
struct Chunk<'a> {
    #[serde(borrow, default)]
    id: Option<&'a RawValue>,
    #[serde(borrow, default)]
    content: Option<&'a RawValue>,
    #[serde(borrow, default)]
    embedding: Option<&'a RawValue>,
    #[serde(borrow, default)]
    metadata: Option<&'a RawValue>,
}

/// What must become of a source's chunk; `Err` says why it must be in quarantine and not in the destination.
pub fn expect(
    source: &str,
    collection: i64,
    contract: Contract,
    dimensions: usize,
    rows: &HashMap<i64, Row>,
) -> Result<Expected, &'static str> {
    let chunk: Chunk<'_> = serde_json::from_str(source).map_err(|_| "not a JSON object")?;
    let id = key(chunk.id.map(Exact::parse).as_ref()).ok_or("bad id")?;
    let Some(Exact::Text(content)) = chunk.content.map(Exact::parse) else { return Err("no content") };
    if content.is_empty() {
        return Err("empty content");
    }
    let Some(Exact::Object(mut metadata)) = chunk.metadata.map(Exact::parse) else {
        return Err("no metadata");
    };
    let document = key(metadata.get("document_id")).ok_or("bad document_id")?;
    let vector = chunk.embedding.and_then(vector).ok_or("no vector")?;
    if vector.len() != dimensions || vector.iter().any(|x| !x.is_finite()) || vector.iter().all(|x| *x == 0.0)
    {
        return Err("bad vector");
    }
    let row = rows.get(&document).cloned().unwrap_or_default();
    let own_name = match metadata.get("document_name") {
        Some(Exact::Text(name)) if !name.is_empty() => Some(name.clone()),
        _ => None,
    };
    let own_date =
        ["document_created_at", "document_created"].iter().find_map(|key| date(metadata.get(*key)?));
    metadata.retain(|key, value| !RESERVED.contains(&key.as_str()) && is_kept(key, value));
    // A BTreeMap of strings is in byte order.
    let metadata: BTreeMap<String, Exact> = metadata.into_iter().take(contract.entries()).collect();
    Ok(Expected {
        key: destination_key(document, id),
        id,
        collection,
        document,
        content,
        name: own_name
            .or(row.name.filter(|name| !name.is_empty()))
            .filter(|_| contract == Contract::OpenGateLLM),
        created: own_date.or(row.created),
        metadata: (!metadata.is_empty()).then_some(metadata),
        vector,
    })
}

/// `sha256hex("{document}|{id}")`
fn destination_key(document: i64, id: i64) -> String {
    Sha256::digest(format!("{document}|{id}")).iter().fold(String::with_capacity(64), |mut hex, byte| {
        // Writing to a String cannot fail.
        let _ = write!(hex, "{byte:02x}");
        hex
    })
}

/// An integer that the destination's `integer` fields and the readers take.
fn key(value: Option<&Exact>) -> Option<i64> {
    let integer = match value? {
        Exact::Number(text) => Decimal::parse(text)?.integer()?,
        Exact::Text(text) if text.bytes().all(|byte| byte.is_ascii_digit()) => text.parse().ok()?,
        _ => return None,
    };
    (0..=i64::from(i32::MAX)).contains(&integer).then_some(integer)
}

/// A vector as a list of numbers or as base64 of big-endian f32; `None` when it is neither.
pub fn vector(raw: &RawValue) -> Option<Vec<f32>> {
    if raw.get().starts_with('"') {
        let text: String = serde_json::from_str(raw.get()).ok()?;
        let bytes = base64::engine::general_purpose::STANDARD.decode(text).ok()?;
        return bytes.chunks(4).map(|four| Some(f32::from_be_bytes(four.try_into().ok()?))).collect();
    }
    let numbers: Vec<&RawValue> = serde_json::from_str(raw.get()).ok()?;
    // The standard library's parser rounds correctly; a detour over f64 would round twice.
    numbers.into_iter().map(|number| number.get().parse().ok()).collect()
}

/// Milliseconds since 1970, rounded down.
fn date(value: &Exact) -> Option<i64> {
    match value {
        Exact::Number(text) => date_of_number(text),
        Exact::Text(text) if Decimal::parse(text.trim()).is_some() => date_of_number(text.trim()),
        Exact::Text(text) => date_of_text(text.trim()),
        _ => None,
    }
}

fn date_of_number(text: &str) -> Option<i64> {
    let number = Decimal::parse(text)?;
    let whole = number.floor(0)?;
    if whole.abs() >= MILLISECONDS { Some(whole) } else { number.floor(3) }
}

/// ISO 8601; without an offset in UTC, without a time at midnight.
pub fn date_of_text(text: &str) -> Option<i64> {
    let timestamp = if let Ok(timestamp) = text.parse::<Timestamp>() {
        timestamp
    } else if let Ok(time) = text.parse::<civil::DateTime>() {
        TimeZone::UTC.to_timestamp(time).ok()?
    } else {
        TimeZone::UTC.to_timestamp(text.parse::<civil::Date>().ok()?.at(0, 0, 0, 0)).ok()?
    };
    // `as_millisecond` rounds towards 1970.
    i64::try_from(timestamp.as_nanosecond().div_euclid(1_000_000)).ok()
}

/// Whether readers take a metadata entry as it is.
fn is_kept(key: &str, value: &Exact) -> bool {
    is_short(key) && !key.contains('\0') && is_readable(value)
}

fn is_readable(value: &Exact) -> bool {
    match value {
        Exact::Null | Exact::Object(_) | Exact::Unreadable => false,
        Exact::Bool(_) => true,
        Exact::Number(text) => Decimal::parse(text).is_some_and(|number| number.is_readable()),
        Exact::Text(text) => is_short(text),
        Exact::List(items) => joined(items).is_some_and(|text| (1..=255).contains(&text.chars().count())),
    }
}

fn is_short(text: &str) -> bool {
    (1..=255).contains(&text.trim().chars().count())
}

/// A list as readers join it: each item as Python prints it and trimmed, empty ones left out, by commas.
fn joined(items: &[Exact]) -> Option<String> {
    let mut texts = Vec::new();
    for item in items {
        let text = match item {
            Exact::Null => "None".to_owned(),
            Exact::Bool(true) => "True".to_owned(),
            Exact::Bool(false) => "False".to_owned(),
            Exact::Number(text) => text.clone(),
            Exact::Text(text) => text.trim().to_owned(),
            Exact::List(_) | Exact::Object(_) | Exact::Unreadable => return None,
        };
        if !text.is_empty() {
            texts.push(text);
        }
    }
    Some(texts.join(","))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn chunk(metadata: &str) -> String {
        format!("{{\"id\":7,\"content\":\"c\",\"embedding\":[0.6,0.8],\"metadata\":{metadata}}}")
    }

    fn of(metadata: &str) -> Expected {
        let rows = HashMap::from([(5, Row { name: Some("row".to_owned()), created: Some(1) })]);
        expect(&chunk(metadata), 42, Contract::OpenGateLLM, 2, &rows).unwrap()
    }

    #[test]
    fn takes_name_and_date_from_the_chunk_first_and_then_from_postgres() {
        let own = of("{\"document_id\":5,\"document_name\":\"own\",\"document_created_at\":1700000000}");
        assert_eq!((own.name.as_deref(), own.created), (Some("own"), Some(1_700_000_000_000)));
        let row = of("{\"document_id\":5,\"document_created_at\":null}");
        assert_eq!((row.name.as_deref(), row.created), (Some("row"), Some(1)));
        let none = of("{\"document_id\":6}");
        assert_eq!((none.name, none.created), (None, None));
        assert!(none.metadata.is_none());
    }

    #[test]
    fn the_key_is_the_applications() {
        assert_eq!(of("{\"document_id\":5}").key, format!("{:x}", Sha256::digest("5|7")));
    }

    #[test]
    fn reads_every_form_of_date() {
        let number = |text: &str| date(&Exact::Number(text.to_owned()));
        let text = |text: &str| date(&Exact::Text(text.to_owned()));
        assert_eq!(number("1700000000"), Some(1_700_000_000_000));
        assert_eq!(number("1700000000.25"), Some(1_700_000_000_250));
        assert_eq!(number("1700000000123"), Some(1_700_000_000_123));
        assert_eq!(text("1700000000"), Some(1_700_000_000_000));
        assert_eq!(text("2023-11-14T22:13:20Z"), Some(1_700_000_000_000));
        assert_eq!(text("2023-11-15T00:13:20.123456+02:00"), Some(1_700_000_000_123));
        assert_eq!(text("2023-11-14T22:13:20"), Some(1_700_000_000_000));
        assert_eq!(text("2023-11-14"), Some(1_699_920_000_000));
        assert_eq!(text("yesterday"), None);
    }

    #[test]
    fn keeps_what_readers_take_and_drops_the_rest_whole() {
        let long = "x".repeat(256);
        let metadata = of(&format!(
            "{{\"document_id\":5,\"a\":null,\"b\":{{}},\"c\":[[1]],\"d\":\"  \",\"e\":\"{long}\",\"{long}\":1,\"f\":1e16,\"g\":[],\
             \"keep\":9007199254740993,\"list\":[1,\"x\"],\"yes\":false}}"
        ))
        .metadata
        .unwrap();
        assert_eq!(metadata.keys().collect::<Vec<_>>(), ["keep", "list", "yes"]);
        assert!(metadata["keep"].same(&Exact::Number("9007199254740993".to_owned())));
    }

    #[test]
    fn keeps_the_first_entries_by_byte_order_of_keys() {
        let many: Vec<String> = (0..12).rev().map(|at| format!("\"k{at:02}\":1")).collect();
        let metadata = of(&format!("{{\"document_id\":5,{}}}", many.join(","))).metadata.unwrap();
        assert_eq!(metadata.len(), 8);
        assert_eq!(metadata.keys().next_back().map(String::as_str), Some("k07"));
    }

    #[test]
    fn a_chunk_that_no_reader_takes_belongs_into_quarantine() {
        let rows = HashMap::new();
        let refuse = |source: &str| expect(source, 1, Contract::OpenGateRAG, 2, &rows).err();
        assert_eq!(refuse("{\"id\":-1}"), Some("bad id"));
        assert_eq!(refuse("{\"id\":1,\"content\":\"\"}"), Some("empty content"));
        assert_eq!(refuse("{\"id\":1,\"content\":\"c\",\"metadata\":{}}"), Some("bad document_id"));
        for vector in ["[1]", "[0,0]", "[1,null]", "\"AAAA\""] {
            let source = format!(
                "{{\"id\":1,\"content\":\"c\",\"metadata\":{{\"document_id\":1}},\"embedding\":{vector}}}"
            );
            assert!(refuse(&source).is_some(), "{vector}");
        }
    }
}
