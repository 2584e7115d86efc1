//! What the application's readers accept of a chunk's metadata.
//!
//! Invariants: an entry keeps its value exactly, digit by digit, or is dropped whole and counted;
//! what is kept, and in which order it is written, does not depend on the order it came in.

use std::borrow::Cow;

use super::{
    contract::Contract,
    date::Moment,
    decimal::{Decimal, printed_length},
    refusal::{Cut, Cuts, Refusal, RefusalClass},
    scan::{Malformed, Scanner, Value},
    text::{Text, is_readable, is_readable_length, python_strip},
};

/// Numbers beyond this make the readers raise.
const MOST_NUMBER: i64 = 9_999_999_999_999_999;
/// Digits of a number that is kept; the server's parser refuses a thousand.
const MOST_DIGITS: usize = 255;

/// A chunk's metadata: the reserved keys apart, and of the others those that may stay, by key.
#[derive(Debug, Default)]
pub(super) struct Metadata<'a> {
    pub document_id: Option<Value<'a>>,
    pub document_name: Option<Value<'a>>,
    pub created: Option<Moment>,
    pub entries: Vec<Entry<'a>>,
}

/// One entry that is kept.
#[derive(Debug)]
pub(super) struct Entry<'a> {
    pub key: Cow<'a, str>,
    pub raw_key: &'a str,
    pub value: Kept<'a>,
}

/// A value that is kept.
#[derive(Debug)]
pub(super) enum Kept<'a> {
    Scalar(Value<'a>),
    /// Scalars and nulls.
    List(Vec<Value<'a>>),
}

fn duplicate(key: &str) -> Refusal {
    let key: String = key.chars().take(64).collect();
    Refusal::new(RefusalClass::NotJson, format!("the key `{key}` stands twice in metadata"))
}

impl<'a> Metadata<'a> {
    /// The object that begins at the scanner's position.
    pub(super) fn read(
        scanner: &mut Scanner<'a>,
        contract: Contract,
        cuts: &mut Cuts,
    ) -> Result<Self, Refusal> {
        let mut read = Self::default();
        let mut created_at = None;
        let mut created = None;
        let mut collection_id = None;
        scanner.object(|scanner, raw_key| {
            let Ok(key) = raw_key.decode() else {
                scanner.value()?;
                cuts.count(Cut::MetadataNotUnicode);
                return Ok::<(), Refusal>(());
            };
            let reserved = match key.as_ref() {
                "document_id" => Some(&mut read.document_id),
                "document_name" => Some(&mut read.document_name),
                "document_created_at" => Some(&mut created_at),
                "document_created" => Some(&mut created),
                "collection_id" => Some(&mut collection_id),
                _ => None,
            };
            match reserved {
                Some(place) => {
                    if place.replace(scanner.value()?).is_some() {
                        return Err(duplicate(&key));
                    }
                }
                None => match keep(scanner, &key)? {
                    Ok(value) => read.entries.push(Entry { key, raw_key: raw_key.raw, value }),
                    Err(reason) => {
                        if let Some(cut) = reason {
                            cuts.count(cut);
                        }
                    }
                },
            }
            Ok(())
        })?;
        read.created = first_date([created_at, created], cuts);
        read.entries.sort_unstable_by(|a, b| a.key.cmp(&b.key));
        if let Some(pair) = read.entries.windows(2).find(|pair| pair[0].key == pair[1].key) {
            return Err(duplicate(&pair[0].key));
        }
        let most = contract.most_metadata_entries();
        cuts.count_many(Cut::MetadataTooMany, read.entries.len().saturating_sub(most));
        read.entries.truncate(most);
        Ok(read)
    }

    /// Appends the kept entries as an object, or `null` if there are none: readers refuse `{}`.
    pub(super) fn write(&self, out: &mut Vec<u8>) {
        if self.entries.is_empty() {
            out.extend_from_slice(b"null");
            return;
        }
        let mut separator = b'{';
        for entry in &self.entries {
            out.push(separator);
            separator = b',';
            out.extend_from_slice(entry.raw_key.as_bytes());
            out.push(b':');
            entry.value.write(out);
        }
        out.push(b'}');
    }
}

impl Kept<'_> {
    fn write(&self, out: &mut Vec<u8>) {
        match self {
            Self::Scalar(value) => out.extend_from_slice(value.raw().as_bytes()),
            Self::List(elements) => {
                let mut separator = b'[';
                for element in elements {
                    out.push(separator);
                    separator = b',';
                    out.extend_from_slice(element.raw().as_bytes());
                }
                out.push(b']');
            }
        }
    }
}

fn first_date(values: [Option<Value<'_>>; 2], cuts: &mut Cuts) -> Option<Moment> {
    for value in values.into_iter().flatten() {
        if matches!(value, Value::Null) {
            continue;
        }
        match Moment::read(value) {
            Some(moment) => return Some(moment),
            None => cuts.count(Cut::CreatedUnreadable),
        }
    }
    None
}

/// Reads one value: kept, or why not (`None`: a null, which the readers drop as well).
fn keep<'a>(scanner: &mut Scanner<'a>, key: &str) -> Result<Result<Kept<'a>, Option<Cut>>, Malformed> {
    let value = scanner.value()?;
    let kept = match value {
        Value::Null => Err(None),
        Value::Object(_) => Err(Some(Cut::MetadataNested)),
        _ if key.contains('\0') || !is_readable(key) => Err(Some(Cut::MetadataKey)),
        Value::Bool(_) => Ok(Kept::Scalar(value)),
        Value::Number(number) => {
            let is_readable_number = number.len() <= MOST_DIGITS
                && Decimal::parse(number).is_some_and(|decimal| decimal.is_within(MOST_NUMBER));
            if is_readable_number { Ok(Kept::Scalar(value)) } else { Err(Some(Cut::MetadataNumberRange)) }
        }
        Value::Text(text) => match text.decode() {
            Err(_) => Err(Some(Cut::MetadataNotUnicode)),
            Ok(decoded) if is_readable(&decoded) => Ok(Kept::Scalar(value)),
            Ok(_) => Err(Some(Cut::MetadataStringLength)),
        },
        Value::List(raw) => keep_list(Scanner::new(raw).list()?),
    };
    Ok(kept)
}

/// Readers join a list: each element as text, trimmed, empty ones left out, by commas.
fn keep_list(elements: Vec<Value<'_>>) -> Result<Kept<'_>, Option<Cut>> {
    let mut characters = 0;
    for element in &elements {
        let length = match element {
            Value::List(_) | Value::Object(_) => return Err(Some(Cut::MetadataNested)),
            Value::Null => "None".len(),
            Value::Bool(true) => "True".len(),
            Value::Bool(false) => "False".len(),
            Value::Number(number) => printed_length(number).ok_or(Some(Cut::MetadataNumberRange))?,
            Value::Text(text) => joined_length(*text)?,
        };
        if length > 0 {
            characters += length + usize::from(characters > 0);
        }
    }
    if is_readable_length(characters) { Ok(Kept::List(elements)) } else { Err(Some(Cut::MetadataListLength)) }
}

fn joined_length(text: Text<'_>) -> Result<usize, Option<Cut>> {
    let decoded = text.decode().map_err(|_| Some(Cut::MetadataNotUnicode))?;
    Ok(python_strip(&decoded).chars().count())
}
