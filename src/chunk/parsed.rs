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
#[derive(Clone, Copy, Debug)]
enum Reading {
    /// They are read and checked.
    Checked,
    /// Only where the embedding ends, so there is none afterwards.
    Skipped,
}

/// Reads and checks a chunk.
///
/// # Errors
/// [`Refusal`]: it must not be indexed; the same input is refused each time.
pub fn parse<'a>(transform: &Transform, input: Input<'a>) -> Result<Parsed<'a>, Refusal> {
    let mut cuts = Cuts::default();
    let mut fields = Fields::read(input.source, *transform, Reading::Checked, &mut cuts)?;
    let metadata = fields.take_metadata()?;
    let collection_id = Some(input.collection_id)
        .filter(|id| (0..=MOST_KEY).contains(id))
        .ok_or_else(|| key_refusal("the collection's id is not within 0 and 2147483647"))?;
    let document_id = key("metadata.document_id", metadata.document_id)?;
    let id = key("id", fields.id)?;
    let content = content(fields.content)?;
    let vector = match (fields.vector, input.vector) {
        (Some(vector), _) => vector,
        (None, Some(encoded)) => Vector::read_encoded(encoded, transform.vector_size as usize)?,
        (None, None) => return Err(Refusal::new(RefusalClass::Vector, "there is no embedding")),
    };
    let name = own_name(transform.contract, &metadata, &mut cuts);
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

/// Where a chunk goes, by its key alone: [`parse`] may still refuse all else of it.
///
/// # Errors
/// [`Refusal`]: it has no key, so [`parse`] refuses it, too.
pub fn address(transform: &Transform, source: &[u8]) -> Result<Address, Refusal> {
    let mut cuts = Cuts::default();
    let mut fields = Fields::read(source, *transform, Reading::Skipped, &mut cuts)?;
    let metadata = fields.take_metadata()?;
    let document_id = key("metadata.document_id", metadata.document_id)?;
    let id = key("id", fields.id)?;
    let name = own_name(transform.contract, &metadata, &mut cuts);
    Ok(Address {
        destination_id: destination_id(document_id, id),
        document_id,
        needs_document: needs_document(transform.contract, &metadata, name),
    })
}

/// The destination's `_id` of a chunk of which only `id` and `metadata.document_id` are known.
///
/// # Errors
/// [`Refusal`]: it has no key, so it is in quarantine and not in the destination.
pub fn key_of(source: &[u8]) -> Result<String, Refusal> {
    let keys_only =
        Transform { contract: Contract::OpenGateRAG, vector_size: 0, vector_form: VectorForm::Json };
    address(&keys_only, source).map(|address| address.destination_id)
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
        needs_document(self.contract, &self.metadata, self.name)
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
    fn read(
        source: &'a [u8],
        transform: Transform,
        reading: Reading,
        cuts: &mut Cuts,
    ) -> Result<Self, Refusal> {
        let text = simdutf8::basic::from_utf8(source)
            .map_err(|_| Refusal::new(RefusalClass::NotJson, "_source is not UTF-8"))?;
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
                        Reading::Skipped => scanner.skipped().map(|_| None)?,
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

    fn take_metadata(&mut self) -> Result<Metadata<'a>, Refusal> {
        match self.metadata.take() {
            Some(Ok(metadata)) => Ok(metadata),
            Some(Err(())) => Err(key_refusal("metadata is no object, so there is no document_id")),
            None => Err(key_refusal("metadata is absent, so there is no document_id")),
        }
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

/// The chunk's own name, if the contract wants one and a keyword can hold it.
fn own_name<'a>(contract: Contract, metadata: &Metadata<'a>, cuts: &mut Cuts) -> Option<Text<'a>> {
    if contract.has_document_name() { name(metadata.document_name, cuts) } else { None }
}

fn needs_document(contract: Contract, metadata: &Metadata<'_>, name: Option<Text<'_>>) -> bool {
    metadata.created.is_none() || (contract.has_document_name() && name.is_none())
}

/// A name, if a keyword can hold it.
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
