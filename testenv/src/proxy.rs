//! Proxies on 127.0.0.1 that stand between a program and a real server and spoil what passes, on purpose: an
//! Elasticsearch behind a bad network or a broken gateway ([`ElasticProxy`]), and a Postgres whose connections are
//! cut at the worst moment ([`PostgresProxy`]).
//!
//! - What is spoiled may be changed while they run, and is counted by the name of the fault.
//! - Which requests a rule hits follows from the proxy's seed and the number of requests that the rule has seen.
//! - A proxy that spoils nothing passes every request and every answer on, byte for byte but for the framing.
//! - A server that is down looks like one: the connection to the proxy is closed without an answer.
//! - All connections end with the proxy.

mod bulk;
mod connections;
mod elastic;
mod fault;
mod message;
mod postgres;

pub use elastic::ElasticProxy;
pub use fault::{Announced, Fault, Gateway, Rule};
pub use postgres::{CommitCut, PostgresProxy};

#[cfg(test)]
mod tests;
