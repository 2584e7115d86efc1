//! Why a chunk cannot be moved ([`Refusal`]), and what had to be left out of one that can ([`Cuts`]).
//!
//! Both are bounded: a refusal's class and a cut's reason come from fixed lists, so that they may
//! be labels of metrics and keys of reports.

use std::fmt;

/// What is wrong with a refused chunk.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum RefusalClass {
    /// `_source` is not a JSON object that Elasticsearch itself would take again.
    NotJson,
    /// `id`, `metadata.document_id` or the collection id is absent or no integer in `0..=2^31-1`.
    Key,
    /// `content` is absent, no string, empty, or not representable in Unicode.
    Content,
    /// The embedding is absent, of the wrong size, not finite, or without a direction.
    Vector,
}

impl RefusalClass {
    /// The class as it is stored and reported.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::NotJson => "not_json",
            Self::Key => "key",
            Self::Content => "content",
            Self::Vector => "vector",
        }
    }
}

impl fmt::Display for RefusalClass {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// A chunk that must not be indexed; it belongs into quarantine.
///
/// The same chunk is refused for the same reason each time: trying again cannot help, only a
/// change of the source can.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{class}: {reason}")]
pub struct Refusal {
    /// What is wrong, from a fixed list.
    pub class: RefusalClass,
    /// One sentence for people. It never quotes the chunk's content.
    pub reason: String,
}

impl Refusal {
    pub(super) fn new(class: RefusalClass, reason: impl Into<String>) -> Self {
        Self { class, reason: reason.into() }
    }
}

/// Why something was left out of a chunk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(usize)]
pub(super) enum Cut {
    UnknownField,
    MetadataKey,
    MetadataNested,
    MetadataStringLength,
    MetadataListLength,
    MetadataNumberRange,
    MetadataNotUnicode,
    MetadataTooMany,
    NameUnusable,
    NameMissing,
    CreatedUnreadable,
    CreatedMissing,
}

impl Cut {
    const NAMES: [&'static str; 12] = [
        "unknown_field",
        "metadata_key",
        "metadata_nested",
        "metadata_string_length",
        "metadata_list_length",
        "metadata_number_range",
        "metadata_not_unicode",
        "metadata_too_many",
        "document_name_unusable",
        "document_name_missing",
        "created_unreadable",
        "created_missing",
    ];
}

/// How often something was left out, by reason.
///
/// The reasons:
///
/// | reason | what was left out |
/// |---|---|
/// | `unknown_field` | a field of the chunk that the contract does not have |
/// | `metadata_key` | a metadata entry whose key, trimmed, is not 1 to 255 characters, or has a NUL in it |
/// | `metadata_nested` | a metadata entry that is an object, or a list with a list or an object in it |
/// | `metadata_string_length` | a metadata string that, trimmed, is not 1 to 255 characters |
/// | `metadata_list_length` | a metadata list whose elements, joined by commas, are not 1 to 255 characters |
/// | `metadata_number_range` | a metadata number beyond ±9999999999999999 |
/// | `metadata_not_unicode` | a metadata entry with half of a surrogate pair |
/// | `metadata_too_many` | a metadata entry beyond the contract's number of entries |
/// | `document_name_unusable` | a name that is no text or too long for a keyword (another one may have taken its place) |
/// | `document_name_missing` | `document_name`: neither the chunk nor the application's database has one |
/// | `created_unreadable` | a date that could not be read (another one may have taken its place) |
/// | `created_missing` | `created`: neither the chunk nor the application's database has a date |
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Cuts([u64; Cut::NAMES.len()]);

impl Cuts {
    pub(super) fn count(&mut self, cut: Cut) {
        self.0[cut as usize] += 1;
    }

    pub(super) fn count_many(&mut self, cut: Cut, times: usize) {
        self.0[cut as usize] += times as u64;
    }

    /// Adds the counts of `other`.
    pub fn merge(&mut self, other: &Self) {
        for (mine, theirs) in self.0.iter_mut().zip(other.0) {
            *mine += theirs;
        }
    }

    /// Whether nothing was left out.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.iter().all(|times| *times == 0)
    }

    /// The reasons that occurred, with their counts, always in the same order.
    pub fn iter(&self) -> impl Iterator<Item = (&'static str, u64)> + '_ {
        Cut::NAMES.into_iter().zip(self.0).filter(|(_, times)| *times > 0)
    }
}
