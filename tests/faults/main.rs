//! A merge under one fault at a time, on servers of its own, with an application that goes on writing: afterwards the
//! independent checker must find nothing missing, extra, doubled or different.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::print_stderr)]

mod answers;
mod crashes;
mod postgres;
mod processes;
mod servers;
mod snapshots;
mod stage;
