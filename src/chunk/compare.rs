//! Whether a document read back from the destination is the one that its source makes.
//!
//! Servers may order fields anew and print numbers and strings anew; they never change what those
//! say. So fields are compared by meaning: strings decoded, numbers as exact decimals, embeddings
//! as `f32`. A field that is missing on one side is a difference.

use std::collections::BTreeMap;

use super::{
    DocumentFacts, Parsed, Refusal,
    decimal::is_same_number,
    metadata::Kept,
    scan::{Scanner, Value},
    text::Text,
    vector::{Vector, Written},
};

/// The longest piece of a value that a difference quotes, in characters.
const MOST_QUOTED: usize = 120;

/// A document as the destination gives it.
#[derive(Clone, Copy, Debug)]
pub struct Actual<'a> {
    /// The raw `_source`.
    pub source: &'a [u8],
    /// The embedding as doc values in binary format, where `_source` has none.
    pub vector: Option<&'a str>,
}

/// The first field that differs, in the order of the destination's fields.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{field} differs: expected {expected}, found {actual}")]
pub struct Difference {
    /// The field; of metadata with its key; of an embedding with the element's number.
    pub field: String,
    /// What the source makes, shortened.
    pub expected: String,
    /// What the destination has, shortened.
    pub actual: String,
}

impl Difference {
    fn new(field: impl Into<String>, expected: &str, actual: &str) -> Self {
        Self { field: field.into(), expected: shortened(expected), actual: shortened(actual) }
    }
}

const NOTHING: &str = "nothing";

/// Compares field by field what `parsed` would be written as with what the destination has.
///
/// # Errors
/// The first difference.
pub fn compare(
    parsed: &Parsed<'_>,
    document: Option<&DocumentFacts>,
    actual: &Actual<'_>,
) -> Result<(), Difference> {
    let mut found = Found::read(actual)?;
    for (field, expected) in
        [("id", parsed.id), ("collection_id", parsed.collection_id), ("document_id", parsed.document_id)]
    {
        let expected = expected.to_string();
        same_value(field, Some(Value::Number(&expected)), found.fields.remove(field))?;
    }
    let resolved = parsed.resolve(document);
    let name = resolved.name.as_deref().map(|raw| Value::Text(Text::scanned(raw)));
    same_value("document_name", name, found.fields.remove("document_name"))?;
    same_value("content", Some(Value::Text(parsed.content)), found.fields.remove("content"))?;
    same_vector(&parsed.vector, found.vector)?;
    same_metadata(parsed, found.fields.remove("metadata"))?;
    let created = resolved.created.map(|moment| format!("\"{}\"", moment.to_iso()));
    let created = created.as_deref().map(|raw| Value::Text(Text::scanned(raw)));
    same_value("created", created, found.fields.remove("created"))?;
    match found.fields.pop_first() {
        Some((field, value)) => Err(Difference::new(shortened(&field), NOTHING, value.raw())),
        None => Ok(()),
    }
}

struct Found<'a> {
    /// All but the embedding.
    fields: BTreeMap<String, Value<'a>>,
    vector: Option<Written<'a>>,
}

impl<'a> Found<'a> {
    fn read(actual: &Actual<'a>) -> Result<Self, Difference> {
        let text = simdutf8::basic::from_utf8(actual.source)
            .map_err(|_| Difference::new("_source", "UTF-8", "other bytes"))?;
        let mut found = Self { fields: BTreeMap::new(), vector: None };
        Scanner::new(text)
            .document(|scanner, key| {
                let key = key.decode().unwrap_or_default().into_owned();
                match key.as_str() {
                    "embedding" => match scanner.skipped()? {
                        Value::Null => {}
                        value => found.vector = Some(Written::InSource(value)),
                    },
                    _ => drop(found.fields.insert(key, scanner.value()?)),
                }
                Ok::<(), Refusal>(())
            })
            .map_err(|refusal| Difference::new("_source", "a readable value", &refusal.reason))?;
        found.vector = found.vector.or(actual.vector.map(Written::Encoded));
        Ok(found)
    }
}

fn same_value(field: &str, expected: Option<Value<'_>>, actual: Option<Value<'_>>) -> Result<(), Difference> {
    let is_same = match (expected, actual) {
        (None, None) => true,
        (Some(wanted), Some(found)) => says_same(wanted, found),
        _ => false,
    };
    if is_same {
        return Ok(());
    }
    let quote =
        |value: Option<Value<'_>>| value.map_or_else(|| NOTHING.to_owned(), |found| found.raw().to_owned());
    Err(Difference::new(field, &quote(expected), &quote(actual)))
}

/// Scalars only: lists and objects never say the same here.
fn says_same(wanted: Value<'_>, found: Value<'_>) -> bool {
    match (wanted, found) {
        (Value::Null, Value::Null) => true,
        (Value::Bool(a), Value::Bool(b)) => a == b,
        (Value::Number(a), Value::Number(b)) => is_same_number(a, b),
        (Value::Text(a), Value::Text(b)) => a.says_same(b),
        _ => false,
    }
}

fn same_vector(expected: &Vector<'_>, found: Option<Written<'_>>) -> Result<(), Difference> {
    let Some(found) = found else {
        return Err(Difference::new("embedding", "an embedding", NOTHING));
    };
    if expected.is_written_as(&found) {
        return Ok(());
    }
    let actual = found
        .read(expected.values.len())
        .map_err(|refusal| Difference::new("embedding", "a readable value", &refusal.reason))?;
    match expected.first_difference(&actual) {
        None => Ok(()),
        Some(at) => {
            let quote = |values: &[f32]| values.get(at).map(ToString::to_string).unwrap_or_default();
            let field = format!("embedding[{at}]");
            Err(Difference::new(field, &quote(&expected.values), &quote(&actual.values)))
        }
    }
}

fn same_metadata(parsed: &Parsed<'_>, actual: Option<Value<'_>>) -> Result<(), Difference> {
    let entries = &parsed.metadata.entries;
    let raw = match actual {
        Some(Value::Object(raw)) if !entries.is_empty() => raw,
        other if entries.is_empty() => return same_value("metadata", Some(Value::Null), other),
        other => {
            let found = other.map_or(NOTHING, Value::raw);
            return Err(Difference::new("metadata", &format!("{} entries", entries.len()), found));
        }
    };
    let mut found = BTreeMap::new();
    Scanner::new(raw)
        .object(|scanner, key| {
            found.insert(key.decode().unwrap_or_default().into_owned(), scanner.value()?);
            Ok::<(), Refusal>(())
        })
        .map_err(|refusal| Difference::new("metadata", "an object", &refusal.reason))?;
    for entry in entries {
        let field = || format!("metadata.{}", shortened(&entry.key));
        match (&entry.value, found.remove(entry.key.as_ref())) {
            (Kept::Scalar(wanted), other) => same_value(&field(), Some(*wanted), other)?,
            (Kept::List(wanted), Some(Value::List(list))) => {
                let elements = Scanner::new(list).list().unwrap_or_default();
                let is_same = wanted.len() == elements.len()
                    && wanted.iter().zip(elements).all(|(mine, theirs)| says_same(*mine, theirs));
                if !is_same {
                    return Err(Difference::new(field(), &joined(wanted), list));
                }
            }
            (Kept::List(wanted), other) => {
                return Err(Difference::new(field(), &joined(wanted), other.map_or(NOTHING, Value::raw)));
            }
        }
    }
    match found.pop_first() {
        Some((key, value)) => {
            Err(Difference::new(format!("metadata.{}", shortened(&key)), NOTHING, value.raw()))
        }
        None => Ok(()),
    }
}

fn joined(elements: &[Value<'_>]) -> String {
    let elements: Vec<&str> = elements.iter().map(|element| element.raw()).collect();
    format!("[{}]", elements.join(","))
}

fn shortened(text: &str) -> String {
    match text.char_indices().nth(MOST_QUOTED) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text.to_owned(),
    }
}
