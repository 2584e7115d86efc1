//! The room `elastic` on real servers: Elasticsearch 8.19 and 9.4, with TLS and security.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
// A list of one name reads better than `slice::from_ref` of it.
#![allow(clippy::cloned_ref_to_slice_refs)]

#[path = "elastic/access.rs"]
mod access;
#[path = "elastic/admin.rs"]
mod admin;
#[path = "elastic/catalog.rs"]
mod catalog;
#[path = "elastic/samples.rs"]
mod samples;
#[path = "elastic/server.rs"]
mod server;
#[path = "elastic/shard_log.rs"]
mod shard_log;
#[path = "elastic/writes.rs"]
mod writes;
