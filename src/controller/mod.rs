//! Kubernetes: an engine for each `EsIndexMerge`, its status, its events.
//!
//! [`run`] is the whole of it: serve the probes, wait for the definition, be the leader, watch the resources and
//! reconcile each ([`reconcile`]: observe, decide, act, report). The data is moved by the engines' workers in the
//! background; a reconcile is one short step.
//!
//! Nothing here is needed for safety. Two controllers that work at the same merge, because a lease was lost and not
//! noticed, do some work twice; units are leased and every write is fenced by the engine.

mod act;
mod backoff;
mod events;
mod leadership;
mod reconcile;
mod registry;
mod report;
mod run;
mod secrets;
mod watch;
mod write;

pub use run::{ControllerConfig, ControllerError, run, run_with};
