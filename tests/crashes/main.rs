//! A merge whose servers or processes are killed, on servers of its own, with an application that goes on writing:
//! afterwards the independent checker must find nothing missing, extra, doubled or different.
//!
//! `FAULTS_SEED` gives the same data and writer again, as in `tests/faults`.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::print_stderr)]

mod processes;
mod servers;
#[allow(dead_code)] // shared with the tests of faults
#[path = "../faults/stage.rs"]
mod stage;
