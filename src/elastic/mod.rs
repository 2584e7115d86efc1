//! One Elasticsearch cluster: its connection, its catalog, its shard logs, bulk writes and administration.
//!
//! A shard of an index is a *log*: each operation has a sequence number, a live chunk holds exactly one, and any
//! window of the log is read again with one stateless request ([`Cluster::read_windows`]).
//!
//! Invariants of this room:
//! - every request has a time limit and a bounded number of attempts ([`RetryPolicy`]);
//! - an answer that is not complete (a shard that did not answer, a time-out, fewer hits than the total) is an
//!   [`ElasticError`], never an empty or a shorter result;
//! - what does not exist is told apart from what may not be seen: lists of indices are asked strictly, and only an
//!   index that the server itself names as missing counts as missing;
//! - secrets are only in sensitive headers, never in an error or a log line.
//!
//! On failure each function returns an [`ElasticError`] with a bounded [`ErrorCategory`], the server's own reason
//! and a remedy.

mod admin;
#[cfg(test)]
mod answer_properties;
mod blocks;
mod bulk;
mod call;
mod catalog;
mod cluster;
mod config;
mod error;
mod info;
#[cfg(any(test, feature = "internals"))]
#[doc(hidden)]
pub mod internals;
mod lookup;
mod msearch;
mod names;
mod nodes;
mod places;
mod retry;
mod role;
mod segments;
mod shard_log;
mod stats;
mod versions;

pub use admin::{ForceMerge, Health, HealthReport, ShardCapacity};
pub use blocks::WriteBlock;
pub use bulk::{
    BulkBody, BulkItem, BulkOutcome, BulkRefusal, BulkRequest, BulkVersioning, MAX_BULK_BYTES, convicted,
};
pub use catalog::CatalogEntry;
pub use cluster::Cluster;
pub use config::{ClusterConfig, Credentials};
pub use error::{ElasticError, ErrorCategory, MORE_SHARDS, Result};
pub use info::IndexInfo;
pub use lookup::{LogRange, Lookup};
pub use names::{IndexName, IndexUuid, InvalidName, SeqNo, ShardNumber, Version};
pub use places::{Located, PlacesRequest, Walk, WalkPage};
pub use retry::RetryPolicy;
pub use segments::{Segment, SegmentReport};
pub use shard_log::{Hit, MAX_WINDOW, Page, ReadLane, WindowRequest};
pub use stats::PrimaryStats;
