//! Fills a real Elasticsearch and a real Postgres in the old layout: one index for each collection.
//!
//! Everything is deterministic: the same options give the same data, so a failing test can be run again.

pub mod bulk;
pub mod corpus;
pub mod embedding;
pub mod layout;
pub mod library;
pub mod odd;
pub mod random;
pub mod roff;
pub mod tables;
pub mod writer;
