//! Pure: an old chunk to a new one.
//!
//! [`address`] says where a chunk goes; [`parse`] takes it as a source gives it and checks all of
//! it; [`Parsed::write`] appends the destination's document; [`compare`] says whether a document
//! read back is that one;
//! [`index_body`], [`differences`] and [`interferences`] create or judge the destination itself.
//!
//! Invariants:
//! - **Deterministic.** The same chunk and the same facts from the application's database give the
//!   same bytes, in whatever order the source gives its fields. No clock, no randomness.
//! - **Exact or not at all.** Content, names and metadata are passed on as the text they are; a
//!   value that readers of the destination would choke on is dropped whole and counted ([`Cuts`]).
//! - **Never without its embedding**, its key or its content: such a chunk is a [`Refusal`].
//! - **Bounded.** No recursion; memory in proportion to the chunk.
//!
//! Failure: only [`Refusal`]; nothing here does I/O and nothing panics on any input.
//!
//! A chunk with half of a UTF-16 surrogate pair (`\ud800` alone) in its content is refused: no
//! Unicode text can hold it, the application's own readers fail on it, and so does Elasticsearch
//! when it prints `_source` anew. In metadata such an entry is cut.

mod compare;
mod contract;
mod date;
mod decimal;
mod float;
mod index;
#[cfg(any(test, feature = "internals"))]
#[doc(hidden)]
pub mod internals;
mod metadata;
mod parsed;
mod refusal;
mod scan;
mod text;
mod vector;

use jiff::Timestamp;

pub use self::{
    compare::{Actual, Difference, compare},
    contract::{Contract, Language, UnknownName},
    index::{IndexSpec, differences, index_body, interferences},
    parsed::{Address, Parsed, address, key_of, parse},
    refusal::{Cuts, Refusal, RefusalClass},
    vector::VectorForm,
};

/// What chunks are made into; the same for all chunks of a merge.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Transform {
    /// Which application reads the destination.
    pub contract: Contract,
    /// Elements of an embedding.
    pub vector_size: u32,
    /// In what form embeddings are written.
    pub vector_form: VectorForm,
}

/// A chunk as a source gives it.
#[derive(Clone, Copy, Debug)]
pub struct Input<'a> {
    /// The raw `_source`.
    pub source: &'a [u8],
    /// The embedding as doc values in binary format: base64 of big-endian `f32`. Used where
    /// `_source` has none.
    pub vector: Option<&'a str>,
    /// The collection, as the index is named; what `_source` says of it is not looked at.
    pub collection_id: i64,
}

/// What the application's database knows of a document.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct DocumentFacts {
    /// `document.name`
    pub name: Option<String>,
    /// When the document was created.
    pub created: Option<Timestamp>,
}
