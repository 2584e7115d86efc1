//! The two layouts a destination can have, and the languages its text can be analysed for.

use std::{fmt, str::FromStr};

/// Which application reads the destination, and so which fields it has.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Contract {
    /// With `document_name`; at most 8 metadata entries.
    OpenGateLLM,
    /// Without `document_name`; at most 10 metadata entries.
    OpenGateRAG,
}

impl Contract {
    /// The name as it stands in a manifest.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::OpenGateLLM => "OpenGateLLM",
            Self::OpenGateRAG => "OpenGateRAG",
        }
    }

    /// Whether a chunk has the field `document_name`.
    #[must_use]
    pub fn has_document_name(self) -> bool {
        matches!(self, Self::OpenGateLLM)
    }

    /// How many metadata entries the application's readers accept; more make them raise.
    #[must_use]
    pub fn most_metadata_entries(self) -> usize {
        match self {
            Self::OpenGateLLM => 8,
            Self::OpenGateRAG => 10,
        }
    }
}

impl fmt::Display for Contract {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// A contract or language that is none of ours.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{given}` is no {what}; choose one of {choices}")]
pub struct UnknownName {
    given: String,
    what: &'static str,
    choices: &'static str,
}

impl FromStr for Contract {
    type Err = UnknownName;

    fn from_str(given: &str) -> Result<Self, UnknownName> {
        [Self::OpenGateLLM, Self::OpenGateRAG].into_iter().find(|known| known.as_str() == given).ok_or_else(
            || UnknownName { given: given.to_owned(), what: "contract", choices: "OpenGateLLM, OpenGateRAG" },
        )
    }
}

/// The language of the collections' text.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[allow(missing_docs)]
pub enum Language {
    French,
    English,
    German,
    Italian,
    Portuguese,
    Spanish,
    Swedish,
    Dutch,
}

impl Language {
    /// All of them.
    pub const ALL: [Self; 8] = [
        Self::French,
        Self::English,
        Self::German,
        Self::Italian,
        Self::Portuguese,
        Self::Spanish,
        Self::Swedish,
        Self::Dutch,
    ];

    /// The name as it stands in a manifest, lower-case.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::French => "french",
            Self::English => "english",
            Self::German => "german",
            Self::Italian => "italian",
            Self::Portuguese => "portuguese",
            Self::Spanish => "spanish",
            Self::Swedish => "swedish",
            Self::Dutch => "dutch",
        }
    }

    /// The predefined stop word list of Elasticsearch's `stop` filter.
    #[must_use]
    pub fn stopwords(self) -> String {
        format!("_{}_", self.as_str())
    }

    /// The language of Elasticsearch's `stemmer` filter.
    ///
    /// The light stemmer where the server has one. It has none for Dutch, and an index with
    /// `light_dutch` is refused at its creation, so Dutch has the ordinary one.
    #[must_use]
    pub fn stemmer(self) -> String {
        match self {
            Self::Dutch => "dutch".to_owned(),
            _ => format!("light_{}", self.as_str()),
        }
    }
}

impl fmt::Display for Language {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl FromStr for Language {
    type Err = UnknownName;

    fn from_str(given: &str) -> Result<Self, UnknownName> {
        Self::ALL.into_iter().find(|known| known.as_str() == given).ok_or_else(|| UnknownName {
            given: given.to_owned(),
            what: "language",
            choices: "french, english, german, italian, portuguese, spanish, swedish, dutch",
        })
    }
}
