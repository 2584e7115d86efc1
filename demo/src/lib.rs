//! Fills real servers with the old layout, and checks what a merge made of it.
//!
//! - [`seed`] writes realistic and hostile data; the demo, the integration tests and the benchmarks use it.
//! - [`checker`] reads sources and destination whole and gives a verdict of its own. It is written from the
//!   description of the data alone and uses nothing of `es-index-merge`.

pub mod checker;
pub mod cluster;
pub mod seed;
