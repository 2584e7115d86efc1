//! Real parts to test, demonstrate and measure against, on 127.0.0.1 and without a container engine: Kubernetes,
//! Elasticsearch 8 and 9 with security and TLS, Postgres.
//!
//! Two ways to use it:
//! - a **shared** environment, by name: `testenv up --name NAME`, or [`Env::up`]. It stays until `testenv down`.
//! - a **private** part of one test: [`elasticsearch::Elasticsearch::start`], [`postgres::Postgres::start`],
//!   [`kubernetes::Kubernetes::start`]. It can be killed, paused and started again, and ends when the handle is
//!   dropped or the process dies, however it dies.
//!
//! Tests that only need *a* server take the shared one: [`elasticsearch::Elasticsearch::shared`],
//! [`postgres::Postgres::shared`], [`kubernetes::Kubernetes::shared`]. These give, in this order: the server that the
//! environment names (`TEST_ELASTICSEARCH_8_URL`, `TEST_ELASTICSEARCH_9_URL`, `TEST_ELASTICSEARCH_URL`,
//! `TEST_POSTGRES_URL`, `KUBECONFIG`), that of the run named `TESTENV_NAME` (or `test`) if it is up, or a private one
//! which all tests of the process share.
//!
//! What is fetched or built is cached; see [`places`]. Variables: `XDG_CACHE_HOME` (where the cache lies),
//! `TESTENV_RUNS` (where the run folders lie), `TESTENV_ARCHIVES` (a folder with archives fetched by hand),
//! `TESTENV_KEEP` (keep the folders of private parts, to look at their logs).

pub mod elasticsearch;
mod environment;
mod gobuild;
pub mod helm;
pub mod http;
pub mod kubernetes;
pub mod pki;
pub mod places;
pub mod postgres;
mod prerequisites;
pub mod process;
mod progress;
pub mod proxy;
mod ready;
pub mod run;
mod user;

use std::sync::{Mutex, OnceLock, PoisonError};

use anyhow::{Result, bail};

pub use environment::{Env, State};
pub use ready::free_port;

/// A part of an environment.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Part {
    /// Elasticsearch 8.19.
    Elasticsearch8,
    /// Elasticsearch 9.4.
    Elasticsearch9,
    /// Postgres.
    Postgres,
    /// Kubernetes.
    Kubernetes,
    /// Helm: only a program, nothing runs.
    Helm,
}

impl Part {
    /// All of them.
    pub const ALL: [Self; 5] =
        [Self::Elasticsearch8, Self::Elasticsearch9, Self::Postgres, Self::Kubernetes, Self::Helm];

    /// Its name, as `--only` takes it.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Elasticsearch8 => "elasticsearch-8",
            Self::Elasticsearch9 => "elasticsearch-9",
            Self::Postgres => "postgres",
            Self::Kubernetes => "kubernetes",
            Self::Helm => "helm",
        }
    }
}

impl std::str::FromStr for Part {
    type Err = anyhow::Error;
    fn from_str(name: &str) -> Result<Self> {
        match Self::ALL.into_iter().find(|part| part.as_str() == name) {
            Some(part) => Ok(part),
            None => bail!("{name:?} is no part: use {}", Self::ALL.map(Self::as_str).join(", ")),
        }
    }
}

/// What a part's `shared()` finds: in the environment, or in the run that is up.
fn running<A: serde::de::DeserializeOwned>(
    part: Part,
    from_environment: impl FnOnce() -> Result<Option<A>>,
) -> Result<Option<A>> {
    if let Some(access) = from_environment()? {
        return Ok(Some(access));
    }
    let name = std::env::var("TESTENV_NAME").unwrap_or_else(|_| "test".to_owned());
    let found = run::Run::shared(&name)?.find(part)?;
    if found.is_none() {
        progress::say(
            part.as_str(),
            &format!("run {name:?} doesn't have it, so this process starts its own"),
        );
    }
    Ok(found)
}

/// Fills a cell once. Unlike `OnceLock::get_or_init`, a failure is given back, and the next call tries again.
fn once<T>(
    cell: &'static OnceLock<T>,
    lock: &Mutex<()>,
    make: impl FnOnce() -> Result<T>,
) -> Result<&'static T> {
    let _lock = lock.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(value) = cell.get() {
        return Ok(value);
    }
    let value = make()?;
    Ok(cell.get_or_init(|| value))
}
