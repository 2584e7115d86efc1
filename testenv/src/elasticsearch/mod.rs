//! A real Elasticsearch with security: TLS from the run's test CA, a superuser `elastic`, the basic licence.
//!
//! One node, on 127.0.0.1 and a random port, with data and logs in its run folder. If it ends while it starts, the
//! error carries the end of its log.

mod config;
mod install;
mod java;

use std::ops::Deref;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, OnceLock};
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::http::{Http, Identity};
use crate::pki::Pair;
use crate::process::Process;
use crate::progress::{Step, say};
use crate::run::Run;
use crate::{Part, ready};

pub use config::Options;
pub(crate) use install::{local_archive, present};
pub(crate) use java::find as find_java;

/// From the start of the process to the first answer. It takes 20 s on two free cores.
const READY: Duration = Duration::from_mins(10);
/// Of one request.
const REQUEST: Duration = Duration::from_mins(1);

/// Which Elasticsearch.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Flavor {
    /// 8.19.8: vectors in `_source`.
    V8,
    /// 9.4.3: hidden vectors, base64 in bulk requests.
    V9,
}

impl Flavor {
    /// Both, the older first.
    pub const ALL: [Self; 2] = [Self::V8, Self::V9];

    /// The version that is started.
    #[must_use]
    pub fn version(self) -> &'static str {
        match self {
            Self::V8 => "8.19.8",
            Self::V9 => "9.4.3",
        }
    }

    /// Its part of the environment.
    #[must_use]
    pub fn part(self) -> Part {
        match self {
            Self::V8 => Part::Elasticsearch8,
            Self::V9 => Part::Elasticsearch9,
        }
    }

    fn major(self) -> &'static str {
        match self {
            Self::V8 => "8",
            Self::V9 => "9",
        }
    }
}

/// How to reach it.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Access {
    /// `https://127.0.0.1:PORT`.
    pub url: String,
    /// A superuser.
    pub username: String,
    /// Its password.
    pub password: String,
    /// The certificate of the CA, a PEM file; none if the URL is `http://`.
    pub ca: Option<PathBuf>,
    /// Our certificate and its key, if it asks for one.
    #[serde(default)]
    pub client: Option<Pair>,
}

impl Access {
    /// Sends one request; gives status and body. A body which is a string is sent as lines of JSON.
    pub fn call(&self, method: &str, path: &str, body: Option<&Value>) -> Result<(u16, Value)> {
        self.http()?.call(method, path, body)
    }

    /// Like `call`, but any status other than 2xx is an error.
    pub fn ask(&self, method: &str, path: &str, body: Option<&Value>) -> Result<Value> {
        let (status, answer) = self.call(method, path, body)?;
        if !(200..300).contains(&status) {
            bail!("{method} {path} answered {status}: {answer}");
        }
        Ok(answer)
    }

    /// The version it says it has.
    pub fn version(&self) -> Result<String> {
        let answer = self.ask("GET", "/", None)?;
        Ok(answer["version"]["number"].as_str().context("the server doesn't say its version")?.to_owned())
    }

    /// The variables under which tests find it: `TEST_ELASTICSEARCH_8_URL` and so on.
    #[must_use]
    pub fn variables(&self, flavor: Flavor) -> Vec<(String, String)> {
        let prefix = format!("TEST_ELASTICSEARCH_{}", flavor.major());
        let mut variables = vec![
            (format!("{prefix}_URL"), self.url.clone()),
            (format!("{prefix}_USERNAME"), self.username.clone()),
            (format!("{prefix}_PASSWORD"), self.password.clone()),
        ];
        if let Some(ca) = &self.ca {
            variables.push((format!("{prefix}_CA"), ca.display().to_string()));
        }
        variables
    }

    /// The one that the environment names: `TEST_ELASTICSEARCH_8_URL` (or `_9_`), or `TEST_ELASTICSEARCH_URL` if
    /// that server has this major version; each with `_USERNAME`, `_PASSWORD`, `_CA`.
    pub fn from_environment(flavor: Flavor) -> Result<Option<Self>> {
        let own = format!("TEST_ELASTICSEARCH_{}", flavor.major());
        if let Some(access) = Self::from_variables(&own) {
            return Ok(Some(access));
        }
        let Some(access) = Self::from_variables("TEST_ELASTICSEARCH") else { return Ok(None) };
        let version =
            access.version().context("TEST_ELASTICSEARCH_URL names a server that doesn't answer")?;
        Ok((version.split('.').next() == Some(flavor.major())).then_some(access))
    }

    fn from_variables(prefix: &str) -> Option<Self> {
        let variable =
            |suffix: &str| std::env::var(format!("{prefix}_{suffix}")).ok().filter(|value| !value.is_empty());
        Some(Self {
            url: variable("URL")?,
            username: variable("USERNAME").unwrap_or_else(|| "elastic".to_owned()),
            password: variable("PASSWORD").unwrap_or_default(),
            ca: variable("CA").map(PathBuf::from),
            client: None,
        })
    }

    fn http(&self) -> Result<Http> {
        let identity = match &self.client {
            Some(pair) => Identity::Both(&self.username, &self.password, &pair.certificate, &pair.key),
            None => Identity::Basic(&self.username, &self.password),
        };
        Http::new(&self.url, self.ca.as_deref(), &identity, REQUEST)
    }
}

/// A server that is ready. One that was started here ends when this is dropped, or when the process dies.
#[derive(Debug)]
pub struct Elasticsearch {
    flavor: Flavor,
    access: Access,
    // Not of a server that somebody else runs. Dropped before the run folder is.
    process: Option<Process>,
    run: Option<Arc<Run>>,
}

impl Elasticsearch {
    /// Starts a private one.
    pub fn start(flavor: Flavor, options: &Options) -> Result<Self> {
        let run = Run::private()?;
        Self::start_in(&run, flavor, options).map(|server| Self { run: Some(run), ..server })
    }

    /// The one which all tests share: that of the environment, or of `testenv up`, or else one of this process.
    pub fn shared(flavor: Flavor) -> Result<&'static Self> {
        static SHARED: [OnceLock<Elasticsearch>; 2] = [OnceLock::new(), OnceLock::new()];
        static START: [Mutex<()>; 2] = [Mutex::new(()), Mutex::new(())];
        crate::once(&SHARED[flavor as usize], &START[flavor as usize], || {
            match crate::running(flavor.part(), || Access::from_environment(flavor))? {
                Some(access) => Ok(Self { flavor, access, process: None, run: None }),
                None => Self::start(flavor, &Options::default()),
            }
        })
    }

    /// Starts one in a run, and waits until it answers.
    pub(crate) fn start_in(run: &Run, flavor: Flavor, options: &Options) -> Result<Self> {
        let what = flavor.part().as_str();
        let home = install::get(flavor)?;
        let (launch, access) = config::prepare(run, flavor, &home, options)?;
        let step = Step::begin(what, &format!("starting {}", flavor.version()));
        let process = Process::start(launch, run.folder(), run.owned())?;
        let server = Self { flavor, access, process: Some(process), run: None };
        server.wait()?;
        step.end(&format!("ready at {}", server.access.url));
        Ok(server)
    }

    /// Which one it is.
    pub fn flavor(&self) -> Flavor {
        self.flavor
    }

    /// The folder of its logs and data, if it was started here.
    pub fn folder(&self) -> Option<&Path> {
        self.run.as_deref().map(Run::folder)
    }

    /// Its process id, while it runs and if it was started here.
    pub fn pid(&self) -> Option<i32> {
        self.process.as_ref().and_then(Process::pid)
    }

    /// Kills it as a power failure would. Its data stays.
    pub fn kill_9(&self) -> Result<()> {
        self.own()?.kill_9()
    }

    /// Starts it again after `kill_9` or `stop`, on the same ports and data, and waits until it answers.
    pub fn restart(&self) -> Result<()> {
        self.own()?.restart()?;
        self.wait()?;
        say(self.flavor.part().as_str(), "ready again");
        Ok(())
    }

    /// Ends it in order. Its data stays until this is dropped.
    pub fn stop(&self) -> Result<()> {
        self.own()?.stop()
    }

    /// Freezes it: connections stay open, nothing is answered.
    pub fn pause(&self) -> Result<()> {
        self.own()?.pause()
    }

    /// Lets it go on.
    pub fn resume(&self) -> Result<()> {
        self.own()?.resume()
    }

    fn own(&self) -> Result<&Process> {
        self.process.as_ref().context("this Elasticsearch is shared: start a private one to disturb it")
    }

    fn wait(&self) -> Result<()> {
        let http = self.access.http()?;
        ready::wait(self.flavor.part().as_str(), &[self.own()?], READY, || {
            let (status, answer) =
                http.call("GET", "/_cluster/health?wait_for_status=yellow&timeout=2s", None)?;
            if status != 200 {
                bail!("it answers {status}: {answer}");
            }
            Ok(())
        })
    }
}

impl Deref for Elasticsearch {
    type Target = Access;
    fn deref(&self) -> &Access {
        &self.access
    }
}
