//! A merge under one fault at a time, on servers of its own, with an application that goes on writing: afterwards the
//! independent checker must find nothing missing, extra, doubled or different.
//!
//! Data, writer and proxies follow from a seed, which is in the output of a test that fails: `FAULTS_SEED` gives the same
//! again. What is random beside it is the machine.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::print_stderr)]

mod answers;
mod failover;
mod postgres;
mod servers;
mod snapshots;
#[allow(dead_code)] // shared with the tests of crashes
mod stage;
