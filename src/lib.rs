//! Merges many Elasticsearch indices, one per collection, into one index.
//!
//! The rooms, from the inside out (a room imports only what its line in `docs/architecture.md` names):
//! [`elastic`], [`collections`], [`state`], [`chunk`] and [`api`] know nothing of each other;
//! [`merge`] is the engine on top of them and knows no Kubernetes; [`controller`] runs the engine
//! for each `EsIndexMerge` of a cluster; [`cli`] runs it without one.

pub mod api;
pub mod chunk;
pub mod cli;
pub mod collections;
pub mod controller;
pub mod elastic;
#[cfg(any(test, feature = "internals"))]
#[doc(hidden)]
pub mod fuzzing;
pub mod merge;
pub mod metrics;
mod postgres;
pub mod server;
pub mod state;
pub mod telemetry;
