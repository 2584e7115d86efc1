//! A whole environment by name: up, down, its state and its variables.

use std::path::PathBuf;

use anyhow::{Context as _, Result, anyhow, bail};

use crate::elasticsearch::{self, Elasticsearch, Flavor, Options};
use crate::postgres::{self, Postgres};
use crate::process::{Identity, Process};
use crate::progress::say;
use crate::run::{self, Run};
use crate::{Part, helm, kubernetes, prerequisites};

/// An environment that is up: how to reach each part that it has.
#[derive(Debug, Clone)]
pub struct Env {
    /// Its name.
    pub name: String,
    /// Elasticsearch 8.
    pub elasticsearch_8: Option<elasticsearch::Access>,
    /// Elasticsearch 9.
    pub elasticsearch_9: Option<elasticsearch::Access>,
    /// Postgres.
    pub postgres: Option<postgres::Access>,
    /// Kubernetes.
    pub kubernetes: Option<kubernetes::Access>,
    /// The program helm.
    pub helm: Option<PathBuf>,
}

/// One process of an environment, as it is now.
#[derive(Debug, Clone)]
pub struct State {
    /// Its name, which begins with that of its part.
    pub process: String,
    /// Its id, if it runs.
    pub pid: Option<i32>,
}

impl Env {
    /// Brings up these parts under that name, all at once, and waits until each is ready. A part that is up stays as
    /// it is; one that the environment variables name is used instead of a new one.
    ///
    /// If a part fails the others stay up, and the error names each failure.
    pub fn up(name: &str, parts: &[Part]) -> Result<Self> {
        Self::up_for(name, parts, None)
    }

    /// Like `up`; with an `owner` it ends, at the latest, when another one starts or ends after that process is gone.
    pub fn up_for(name: &str, parts: &[Part], owner: Option<i32>) -> Result<Self> {
        let run = Run::shared(name)?;
        let _lock = run.lock()?;
        run::sweep()?;
        prerequisites::check(parts)?;
        if let Some(owner) = owner {
            run.give_owner(Identity::of(owner).with_context(|| format!("there is no process {owner}"))?)?;
        }
        let failures: Vec<String> = std::thread::scope(|scope| {
            let starts: Vec<_> =
                parts.iter().map(|part| (*part, scope.spawn(|| bring_up(&run, *part)))).collect();
            starts
                .into_iter()
                .filter_map(|(part, start)| {
                    let result = start.join().unwrap_or_else(|_| Err(anyhow!("starting it panicked")));
                    result.err().map(|error| format!("{}: {error:#}", part.as_str()))
                })
                .collect()
        });
        if !failures.is_empty() {
            bail!("not everything is up:\n  {}", failures.join("\n  "));
        }
        Self::find(name)
    }

    /// What is up under that name.
    pub fn find(name: &str) -> Result<Self> {
        let run = Run::shared(name)?;
        Ok(Self {
            name: name.to_owned(),
            elasticsearch_8: run.find(Part::Elasticsearch8)?,
            elasticsearch_9: run.find(Part::Elasticsearch9)?,
            postgres: run.find(Part::Postgres)?,
            kubernetes: run.find(Part::Kubernetes)?,
            helm: run.find(Part::Helm)?,
        })
    }

    /// Ends everything of that name and removes its data; the number of processes ended.
    pub fn down(name: &str) -> Result<usize> {
        let run = Run::shared(name)?;
        let _lock = run.lock()?;
        run::sweep()?;
        run.down()
    }

    /// The names of all environments that exist.
    pub fn names() -> Result<Vec<String>> {
        Run::names()
    }

    /// The processes of that name.
    pub fn state(name: &str) -> Result<Vec<State>> {
        let processes = Process::recorded(Run::shared(name)?.folder())?;
        Ok(processes
            .iter()
            .map(|process| State { process: process.name().to_owned(), pid: process.pid() })
            .collect())
    }

    /// The variables by which tests and people reach it.
    pub fn variables(&self) -> Vec<(String, String)> {
        let mut variables = vec![("TESTENV_NAME".to_owned(), self.name.clone())];
        for (flavor, access) in [(Flavor::V8, &self.elasticsearch_8), (Flavor::V9, &self.elasticsearch_9)] {
            variables.extend(access.iter().flat_map(|access| access.variables(flavor)));
        }
        variables.extend(self.postgres.iter().flat_map(postgres::Access::variables));
        variables.extend(self.kubernetes.iter().flat_map(kubernetes::Access::variables));
        variables.extend(self.helm.iter().map(|helm| ("TEST_HELM".to_owned(), helm.display().to_string())));
        variables
    }

    /// The folders which the `PATH` needs for kubectl and helm.
    #[must_use]
    pub fn path(&self) -> Vec<PathBuf> {
        let programs = [self.kubernetes.as_ref().map(|access| &access.kubectl), self.helm.as_ref()];
        programs.into_iter().flatten().filter_map(|program| Some(program.parent()?.to_owned())).collect()
    }
}

/// Brings up one part, and remembers how it is reached once it is ready.
fn bring_up(run: &Run, part: Part) -> Result<()> {
    match part {
        Part::Elasticsearch8 | Part::Elasticsearch9 => {
            let flavor = if part == Part::Elasticsearch8 { Flavor::V8 } else { Flavor::V9 };
            keep_or_start(
                run,
                part,
                || elasticsearch::Access::from_environment(flavor),
                || Elasticsearch::start_in(run, flavor, &Options::default()).map(|server| (*server).clone()),
            )
        }
        Part::Postgres => keep_or_start(
            run,
            part,
            || Ok(postgres::Access::from_environment()),
            || Postgres::start_in(run).map(|server| (*server).clone()),
        ),
        Part::Kubernetes => keep_or_start(run, part, kubernetes::Access::from_environment, || {
            kubernetes::start_in(run).map(|(access, _)| access)
        }),
        Part::Helm => keep_or_start(run, part, || Ok(None), helm::program),
    }
}

fn keep_or_start<A: serde::Serialize + serde::de::DeserializeOwned>(
    run: &Run,
    part: Part,
    from_environment: impl FnOnce() -> Result<Option<A>>,
    start: impl FnOnce() -> Result<A>,
) -> Result<()> {
    if run.find::<A>(part)?.is_some() {
        say(part.as_str(), "is up already");
        return Ok(());
    }
    let access = if let Some(access) = from_environment()? {
        say(part.as_str(), "that of the environment variables is used");
        access
    } else {
        // What is left of one that is damaged or half ended.
        run.end(part)?;
        start().inspect_err(|_| {
            if let Err(error) = run.end(part) {
                say(part.as_str(), &format!("could not be ended: {error:#}"));
            }
        })?
    };
    run.remember(part, &access).with_context(|| format!("cannot remember {}", part.as_str()))
}
