//! One way to talk to a Postgres server, for the two rooms that do ([`crate::collections`] and
//! [`crate::state`]): how a URL is read, what a session is set to, how long it is waited
//! for, and what a failure means.
//!
//! It knows no table. It exists because both rooms face the same servers with the same secrets, and a
//! second copy of "which error may be retried" or "what of a URL may be printed" would drift.
//!
//! On failure: every error is sorted into one bounded [`Category`], says what to do about it, and never
//! holds a password or a URL.

mod error;
mod pool;
#[cfg(test)]
mod pool_tests;
mod pooler;
mod session;
mod transaction;
mod url;

pub use error::Category;
pub(crate) use error::Failure;
pub(crate) use pool::Pool;
pub(crate) use session::{Access, Session, check, open};
pub(crate) use transaction::Transaction;
pub use url::Login;
pub(crate) use url::options;
