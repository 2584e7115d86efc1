//! One chunk: read, checked, and written in the destination's form.

use std::{borrow::Cow, io::Write as _};

use sha2::{Digest, Sha256};

use super::{
    Contract, Cuts, DocumentFacts, Input, Refusal, RefusalClass, Transform, VectorForm,
    date::Moment,
    decimal::Decimal,
    metadata::Metadata,
    refusal::Cut,
    scan::{Scanner, Value},
    text::Text,
    vector::{Vector, Written},
};

/// Keys are mapped as `integer`, and readers refuse negative ones.
const MOST_KEY: i64 = i32::MAX as i64;
/// The longest term that a `keyword` field can index, in bytes.
const MOST_KEYWORD_BYTES: usize = 32_766;

/// A chunk that may be indexed.
#[derive(Debug)]
pub struct Parsed<'a> {
    pub(super) contract: Contract,
    vector_form: VectorForm,
    pub(super) collection_id: i64,
    pub(super) document_id: i64,
    pub(super) id: i64,
    destination_id: String,
    pub(super) content: Text<'a>,
    pub(super) vector: Vector<'a>,
    pub(super) metadata: Metadata<'a>,
    /// Usable, and wanted by the contract.
    name: Option<Text<'a>>,
    cuts: Cuts,
}

/// The fields that may come from the application's database.
pub(super) struct Resolved<'a> {
    /// As JSON.
    pub name: Option<Cow<'a, str>>,
    pub created: Option<Moment>,
    pub cuts: Cuts,
}

/// Where a chunk goes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Address {
    /// As [`Parsed::destination_id`].
    pub destination_id: String,
    /// As [`Parsed::document_id`].
    pub document_id: i64,
    /// As [`Parsed::needs_document`].
    pub needs_document: bool,
}

/// Whether the numbers of an embedding are looked at, which is nearly all of the work.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Reading {
    /// They are read and checked.
    Checked,
    /// Only where the embedding ends.
    Skipped,
}

/// Reads and checks a chunk.
///
/// # Errors
/// [`Refusal`]: it must not be indexed; the same input is refused each time.
pub fn parse<'a>(transform: &Transform, input: Input<'a>) -> Result<Parsed<'a>, Refusal> {
    parse_as(*transform, input, Reading::Checked)
}

/// Where a chunk goes, without a look at the numbers of its embedding: [`parse`] may still refuse it for these.
///
/// # Errors
/// [`Refusal`]: [`parse`] refuses it, too.
pub fn address(transform: &Transform, input: Input<'_>) -> Result<Address, Refusal> {
    parse_as(*transform, input, Reading::Skipped).map(|parsed| Address {
        document_id: parsed.document_id,
        needs_document: parsed.needs_document(),
        destination_id: parsed.destination_id,
    })
}

fn parse_as(transform: Transform, input: Input<'_>, reading: Reading) -> Result<Parsed<'_>, Refusal> {
    let text = std::str::from_utf8(input.source)
        .map_err(|_| Refusal::new(RefusalClass::NotJson, "_source is not UTF-8"))?;
    let mut cuts = Cuts::default();
    let fields = Fields::read(text, transform, reading, &mut cuts)?;

    let metadata = match fields.metadata {
        Some(Ok(metadata)) => metadata,
        Some(Err(())) => return Err(key_refusal("metadata is no object, so there is no document_id")),
        None => return Err(key_refusal("metadata is absent, so there is no document_id")),
    };
    let collection_id = Some(input.collection_id)
        .filter(|id| (0..=MOST_KEY).contains(id))
        .ok_or_else(|| key_refusal("the collection's id is not within 0 and 2147483647"))?;
    let document_id = key("metadata.document_id", metadata.document_id)?;
    let id = key("id", fields.id)?;
    let content = content(fields.content)?;
    let vector = match (fields.vector, input.vector) {
        (Some(vector), _) => vector,
        (None, Some(_)) if reading == Reading::Skipped => Vector::unread(),
        (None, Some(encoded)) => Vector::read_encoded(encoded, transform.vector_size as usize)?,
        (None, None) => return Err(Refusal::new(RefusalClass::Vector, "there is no embedding")),
    };
    let name =
        if transform.contract.has_document_name() { name(metadata.document_name, &mut cuts) } else { None };

    Ok(Parsed {
        contract: transform.contract,
        vector_form: transform.vector_form,
        collection_id,
        document_id,
        id,
        destination_id: destination_id(document_id, id),
        content,
        vector,
        metadata,
        name,
        cuts,
    })
}

/// The destination's `_id` of a chunk of which only `id` and `metadata.document_id` are known.
///
/// # Errors
/// [`Refusal`]: it has no key, so it is in quarantine and not in the destination.
pub fn key_of(source: &[u8]) -> Result<String, Refusal> {
    let text = std::str::from_utf8(source)
        .map_err(|_| Refusal::new(RefusalClass::NotJson, "_source is not UTF-8"))?;
    let keys_only =
        Transform { contract: Contract::OpenGateRAG, vector_size: 0, vector_form: VectorForm::Json };
    let fields = Fields::read(text, keys_only, Reading::Skipped, &mut Cuts::default())?;
    let Some(Ok(metadata)) = fields.metadata else {
        return Err(key_refusal("metadata is absent or no object, so there is no document_id"));
    };
    Ok(destination_id(key("metadata.document_id", metadata.document_id)?, key("id", fields.id)?))
}

impl<'a> Parsed<'a> {
    /// The document that the chunk belongs to.
    #[must_use]
    pub fn document_id(&self) -> i64 {
        self.document_id
    }

    /// The chunk's id within its document.
    #[must_use]
    pub fn chunk_id(&self) -> i64 {
        self.id
    }

    /// The destination's `_id`: the hexadecimal SHA-256 of `{document_id}|{id}`, as the
    /// application computes it.
    #[must_use]
    pub fn destination_id(&self) -> &str {
        &self.destination_id
    }

    /// Whether the chunk lacks a name or a date that the application's database may have.
    #[must_use]
    pub fn needs_document(&self) -> bool {
        self.metadata.created.is_none() || (self.contract.has_document_name() && self.name.is_none())
    }

    /// Appends the destination's document to `out`: JSON on one line, without a line end.
    ///
    /// Returns what had to be left out.
    pub fn write(&self, document: Option<&DocumentFacts>, out: &mut Vec<u8>) -> Cuts {
        let resolved = self.resolve(document);
        // Writing to a Vec cannot fail.
        let _ = write!(
            out,
            r#"{{"id":{},"collection_id":{},"document_id":{},"#,
            self.id, self.collection_id, self.document_id
        );
        if let Some(name) = &resolved.name {
            out.extend_from_slice(br#""document_name":"#);
            out.extend_from_slice(name.as_bytes());
            out.push(b',');
        }
        out.extend_from_slice(br#""content":"#);
        out.extend_from_slice(self.content.raw.as_bytes());
        out.extend_from_slice(br#","embedding":"#);
        self.vector.write(self.vector_form, out);
        out.extend_from_slice(br#","metadata":"#);
        self.metadata.write(out);
        if let Some(created) = resolved.created {
            out.extend_from_slice(br#","created":""#);
            out.extend_from_slice(created.to_iso().as_bytes());
            out.push(b'"');
        }
        out.push(b'}');
        resolved.cuts
    }

    /// Name and date: the chunk's own first, then the database's, else none, and counted.
    pub(super) fn resolve(&self, document: Option<&DocumentFacts>) -> Resolved<'a> {
        let mut cuts = self.cuts;
        let mut name = None;
        if self.contract.has_document_name() {
            name = match self.name {
                Some(text) => Some(Cow::Borrowed(text.raw)),
                None => document_name(document, &mut cuts).map(Cow::Owned),
            };
            if name.is_none() {
                cuts.count(Cut::NameMissing);
            }
        }
        let from_database = || document.and_then(|facts| facts.created).and_then(Moment::from_timestamp);
        let created = self.metadata.created.or_else(from_database);
        if created.is_none() {
            cuts.count(Cut::CreatedMissing);
        }
        Resolved { name, created, cuts }
    }
}

/// The fields of `_source` that the contracts know.
#[derive(Default)]
struct Fields<'a> {
    id: Option<Value<'a>>,
    content: Option<Value<'a>>,
    vector: Option<Vector<'a>>,
    /// `Err`: there, but no object.
    metadata: Option<Result<Metadata<'a>, ()>>,
}

impl<'a> Fields<'a> {
    fn read(text: &'a str, transform: Transform, reading: Reading, cuts: &mut Cuts) -> Result<Self, Refusal> {
        let mut fields = Self::default();
        let mut seen = [false; 4];
        Scanner::new(text).document(|scanner, key| {
            let key = key.decode().unwrap_or_default();
            let position = ["id", "content", "embedding", "metadata"].iter().position(|known| *known == key);
            if let Some(index) = position
                && std::mem::replace(&mut seen[index], true)
            {
                return Err(Refusal::new(RefusalClass::NotJson, format!("the field `{key}` stands twice")));
            }
            match key.as_ref() {
                "id" => fields.id = Some(scanner.value()?),
                "content" => fields.content = Some(scanner.value()?),
                "embedding" => {
                    fields.vector = match reading {
                        Reading::Checked => embedding(scanner, transform.vector_size as usize)?,
                        Reading::Skipped => match scanner.skipped()? {
                            Value::Null => None,
                            _ => Some(Vector::unread()),
                        },
                    }
                }
                "metadata" if scanner.peek() == Some(b'{') => {
                    fields.metadata = Some(Ok(Metadata::read(scanner, transform.contract, cuts)?));
                }
                "metadata" => {
                    scanner.value()?;
                    fields.metadata = Some(Err(()));
                }
                _ => {
                    scanner.value()?;
                    cuts.count(Cut::UnknownField);
                }
            }
            Ok(())
        })?;
        Ok(fields)
    }
}

/// The value at the scanner's position as an embedding; a null is none.
fn embedding<'a>(scanner: &mut Scanner<'a>, size: usize) -> Result<Option<Vector<'a>>, Refusal> {
    // Read on the way, so that a list is walked once.
    if scanner.peek() == Some(b'[') {
        return Vector::read_list(scanner, size).map(Some);
    }
    match scanner.value()? {
        Value::Null => Ok(None),
        value => Written::InSource(value).read(size).map(Some),
    }
}

fn key_refusal(reason: impl Into<String>) -> Refusal {
    Refusal::new(RefusalClass::Key, reason)
}

/// An integer, an integer-valued decimal (`12.0`), or a string of digits.
fn key(field: &str, value: Option<Value<'_>>) -> Result<i64, Refusal> {
    let integer = match value {
        None | Some(Value::Null) => return Err(key_refusal(format!("{field} is absent"))),
        Some(Value::Number(number)) => Decimal::parse(number).and_then(|decimal| decimal.integer()),
        Some(Value::Text(text)) => match text.decode() {
            Ok(digits) if digits.bytes().all(|byte| byte.is_ascii_digit()) => digits.parse().ok(),
            _ => None,
        },
        Some(Value::Bool(_) | Value::List(_) | Value::Object(_)) => None,
    };
    integer
        .filter(|key| (0..=MOST_KEY).contains(key))
        .ok_or_else(|| key_refusal(format!("{field} is no integer within 0 and 2147483647")))
}

fn content(value: Option<Value<'_>>) -> Result<Text<'_>, Refusal> {
    let refuse = |reason| Err(Refusal::new(RefusalClass::Content, reason));
    match value {
        Some(Value::Text(text)) if text.is_empty() => refuse("content is empty"),
        Some(Value::Text(text)) if !text.is_unicode() => refuse("content has half of a surrogate pair"),
        Some(Value::Text(text)) => Ok(text),
        Some(Value::Null) | None => refuse("content is absent"),
        Some(_) => refuse("content is no string"),
    }
}

/// The chunk's own name, if a keyword can hold it.
fn name<'a>(value: Option<Value<'a>>, cuts: &mut Cuts) -> Option<Text<'a>> {
    match value {
        None | Some(Value::Null) => None,
        Some(Value::Text(text)) if text.is_empty() => None,
        Some(Value::Text(text)) if text.decode().is_ok_and(|name| name.len() <= MOST_KEYWORD_BYTES) => {
            Some(text)
        }
        Some(_) => {
            cuts.count(Cut::NameUnusable);
            None
        }
    }
}

/// The database's name as JSON, if a keyword can hold it.
fn document_name(document: Option<&DocumentFacts>, cuts: &mut Cuts) -> Option<String> {
    let name = document?.name.as_deref().filter(|name| !name.is_empty())?;
    if name.len() > MOST_KEYWORD_BYTES {
        cuts.count(Cut::NameUnusable);
        return None;
    }
    serde_json::to_string(name).ok()
}

fn destination_id(document_id: i64, id: i64) -> String {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    let hash = Sha256::digest(format!("{document_id}|{id}"));
    let digit = |nibble: u8| char::from(DIGITS[usize::from(nibble & 15)]);
    let mut hex = String::with_capacity(64);
    hex.extend(hash.iter().flat_map(|byte| [digit(byte >> 4), digit(*byte)]));
    hex
}
