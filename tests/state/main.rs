//! Our Postgres schema, on a real server.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

#[path = "../support/mod.rs"]
mod support;

mod checkpoints;
mod claims;
mod connecting;
mod fixture;
mod interleavings;
mod leases;
mod plans;
mod queries;
mod rechecks;
mod silence;
mod sources;
