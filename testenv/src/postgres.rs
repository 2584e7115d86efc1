//! A real Postgres on 127.0.0.1 and a random port: passwords (SCRAM), TLS from the run's test CA, no waiting for disks.
//!
//! `fsync` is off: a killed server recovers all that was committed, a machine that loses power may not.

use std::fs;
use std::ops::Deref;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, OnceLock};
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use serde::{Deserialize, Serialize};

use crate::pki::Purpose;
use crate::prerequisites::find_program;
use crate::process::{Launch, Process};
use crate::progress::{self, Step, say};
use crate::run::Run;
use crate::user::User;
use crate::{Part, places, ready};

/// Long: it comes up while everything is compiled.
const READY: Duration = Duration::from_mins(10);

/// How to reach it.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Access {
    /// `postgresql://USER:PASSWORD@127.0.0.1:PORT/postgres`, a superuser.
    pub url: String,
    /// The certificate of the CA, a PEM file, for `sslmode=verify-full`.
    pub ca: Option<PathBuf>,
}

impl Access {
    /// The one that `TEST_POSTGRES_URL` (and `TEST_POSTGRES_CA`) names.
    pub fn from_environment() -> Option<Self> {
        let variable = |name: &str| std::env::var(name).ok().filter(|value| !value.is_empty());
        Some(Self {
            url: variable("TEST_POSTGRES_URL")?,
            ca: variable("TEST_POSTGRES_CA").map(PathBuf::from),
        })
    }

    /// The variables under which tests find it.
    #[must_use]
    pub fn variables(&self) -> Vec<(String, String)> {
        let mut variables = vec![("TEST_POSTGRES_URL".to_owned(), self.url.clone())];
        if let Some(ca) = &self.ca {
            variables.push(("TEST_POSTGRES_CA".to_owned(), ca.display().to_string()));
        }
        variables
    }

    /// Runs statements by `psql`; gives the rows, columns separated by tabs.
    pub fn sql(&self, statements: &str) -> Result<String> {
        let output = self.psql(statements)?.output().context("cannot start psql")?;
        if !output.status.success() {
            bail!("psql: {}", String::from_utf8_lossy(&output.stderr).trim());
        }
        Ok(String::from_utf8(output.stdout)?.trim_end().to_owned())
    }

    fn psql(&self, statements: &str) -> Result<Command> {
        // The password must not be seen in the list of processes.
        let (without, password) = split_password(&self.url)?;
        let mut psql = Command::new(programs()?.join("psql"));
        psql.args(["--no-psqlrc", "--quiet", "--no-align", "--tuples-only", "--field-separator=\t"])
            .args(["--set=ON_ERROR_STOP=1", "--dbname"])
            .arg(without)
            .args(["--command", statements])
            .env("PGPASSWORD", password)
            .env("PGCONNECT_TIMEOUT", "5");
        Ok(psql)
    }

    /// Creates an empty database for one test. It is dropped with what is returned.
    pub fn database(&self) -> Result<Database> {
        static NEXT: AtomicU32 = AtomicU32::new(1);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let name = format!("test_{}_{number}_{}", std::process::id(), &ready::password()?[..8]);
        self.sql(&format!("CREATE DATABASE {name}"))?;
        let access = Self { url: with_database(&self.url, &name)?, ca: self.ca.clone() };
        Ok(Database { name, access, server: self.clone() })
    }
}

/// An empty database, dropped with this.
#[derive(Debug)]
pub struct Database {
    name: String,
    access: Access,
    server: Access,
}

impl Deref for Database {
    type Target = Access;
    fn deref(&self) -> &Access {
        &self.access
    }
}

impl Drop for Database {
    /// Not waited for: the server waits for all that are logging in, and one of them may be a connection of the test's own
    /// program, which cannot go on before this returns.
    fn drop(&mut self) {
        let dropping = self
            .server
            .psql(&format!("DROP DATABASE IF EXISTS {} WITH (FORCE)", self.name))
            // A test may have ended the server.
            .and_then(|mut psql| {
                Ok(psql.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn()?)
            });
        if let Err(error) = dropping {
            say("postgres", &format!("database {} is not dropped: {error:#}", self.name));
        }
    }
}

/// A server that is ready. One that was started here ends when this is dropped, or when the process dies.
#[derive(Debug)]
pub struct Postgres {
    access: Access,
    process: Option<Process>,
    run: Option<Arc<Run>>,
}

impl Postgres {
    /// Starts a private one.
    pub fn start() -> Result<Self> {
        let run = Run::private()?;
        Self::start_in(&run).map(|server| Self { run: Some(run), ..server })
    }

    /// The one which all tests share: that of the environment, or of `testenv up`, or else one of this process.
    /// Make a `database()` of your own in it.
    pub fn shared() -> Result<&'static Self> {
        static SHARED: OnceLock<Postgres> = OnceLock::new();
        static START: Mutex<()> = Mutex::new(());
        crate::once(&SHARED, &START, || {
            match crate::running(Part::Postgres, || Ok(Access::from_environment()))? {
                Some(access) => Ok(Self { access, process: None, run: None }),
                None => Self::start(),
            }
        })
    }

    /// Starts one in a run, and waits until it answers.
    pub(crate) fn start_in(run: &Run) -> Result<Self> {
        let what = Part::Postgres.as_str();
        let step = Step::begin(what, "making and starting a database cluster");
        let (launch, access) = prepare(run)?;
        let process = Process::start(launch, run.folder(), run.owned())?;
        let server = Self { access, process: Some(process), run: None };
        server.wait()?;
        let (url, _) = split_password(&server.access.url)?;
        step.end(&format!("ready at {url}"));
        Ok(server)
    }

    /// The folder of its logs and data, if it was started here.
    pub fn folder(&self) -> Option<&Path> {
        self.run.as_deref().map(Run::folder)
    }

    /// Its process id, while it runs and if it was started here.
    pub fn pid(&self) -> Option<i32> {
        self.process.as_ref().and_then(Process::pid)
    }

    /// Kills it, with all its sessions. Its data stays.
    pub fn kill_9(&self) -> Result<()> {
        self.own()?.kill_9()
    }

    /// Starts it again after `kill_9` or `stop`, on the same port and data, and waits until it answers.
    pub fn restart(&self) -> Result<()> {
        self.own()?.restart()?;
        self.wait()
    }

    /// Ends it in order. Its data stays until this is dropped.
    pub fn stop(&self) -> Result<()> {
        self.own()?.stop()
    }

    /// Freezes it and its sessions: connections stay open, nothing is answered.
    pub fn pause(&self) -> Result<()> {
        self.own()?.pause()
    }

    /// Lets it go on.
    pub fn resume(&self) -> Result<()> {
        self.own()?.resume()
    }

    fn own(&self) -> Result<&Process> {
        self.process.as_ref().context("this Postgres is shared: start a private one to disturb it")
    }

    fn wait(&self) -> Result<()> {
        ready::wait(Part::Postgres.as_str(), &[self.own()?], READY, || self.access.sql("SELECT 1").map(drop))
    }
}

impl Deref for Postgres {
    type Target = Access;
    fn deref(&self) -> &Access {
        &self.access
    }
}

/// The folder with `initdb`, `postgres` and `psql`: of the PATH, or else Debian's newest.
pub fn programs() -> Result<PathBuf> {
    let complete =
        |folder: &PathBuf| ["initdb", "postgres", "psql"].iter().all(|name| folder.join(name).is_file());
    let from_path =
        find_program("initdb").and_then(|file| Some(file.canonicalize().ok()?.parent()?.to_owned()));
    let version = |folder: &PathBuf| -> u32 {
        let name = folder.parent().and_then(Path::file_name).map(|name| name.to_string_lossy().into_owned());
        name.and_then(|name| name.parse().ok()).unwrap_or_default()
    };
    let mut debian: Vec<PathBuf> = fs::read_dir("/usr/lib/postgresql")
        .into_iter()
        .flatten()
        .filter_map(|entry| Some(entry.ok()?.path().join("bin")))
        .collect();
    debian.sort_by_key(version);
    from_path
        .into_iter()
        .chain(debian.into_iter().rev())
        .find(complete)
        .context("no Postgres here: apt-get install postgresql")
}

/// Makes the database cluster and its certificate.
fn prepare(run: &Run) -> Result<(Launch, Access)> {
    let user = User::for_services()?;
    let programs = programs()?;
    let folder = run.part_folder(Part::Postgres)?;
    let data = folder.join("data");
    fs::create_dir(&data)?;
    let authority = run.authority()?;
    let pair = authority.issue(&folder, "server", "postgres", Purpose::Server(&[], &[]))?;
    let (port, password) = (ready::free_port()?, ready::password()?);
    let password_file = folder.join("password");
    places::write_private(&password_file, password.as_bytes())?;
    if let Some(user) = &user {
        for owned in [&data, &pair.certificate, &pair.key, &password_file] {
            user.own(owned)?;
        }
    }
    let mut initdb = Command::new(programs.join("initdb"));
    initdb
        .args(["--username=postgres", "--auth=scram-sha-256", "--encoding=UTF8", "--locale=C", "--no-sync"])
        .arg(format!("--pwfile={}", password_file.display()))
        .arg(format!("--pgdata={}", data.display()))
        .current_dir(&folder);
    if let Some(user) = &user {
        initdb.uid(user.uid).gid(user.gid);
    }
    progress::run(&mut initdb, &folder.join("initdb.log"))?;
    places::remove(&password_file)?;
    let settings = [
        "listen_addresses=127.0.0.1".to_owned(),
        format!("port={port}"),
        "unix_socket_directories=".to_owned(),
        "max_connections=300".to_owned(),
        "fsync=off".to_owned(),
        "full_page_writes=off".to_owned(),
        "ssl=on".to_owned(),
        format!("ssl_cert_file={}", pair.certificate.display()),
        format!("ssl_key_file={}", pair.key.display()),
    ];
    let mut arguments = vec!["-D".to_owned(), data.display().to_string()];
    arguments.extend(settings.into_iter().flat_map(|setting| ["-c".to_owned(), setting]));
    let launch = Launch {
        name: Part::Postgres.as_str().to_owned(),
        program: programs.join("postgres"),
        arguments,
        environment: std::collections::BTreeMap::new(),
        folder: folder.clone(),
        user,
        log: folder.join("output.log"),
        interrupt: true,
    };
    let url = format!("postgresql://postgres:{password}@127.0.0.1:{port}/postgres");
    Ok((launch, Access { url, ca: Some(authority.certificate()) }))
}

/// The URL without its password, and the password.
fn split_password(url: &str) -> Result<(String, String)> {
    let (scheme, rest) = url.split_once("://").context("TEST_POSTGRES_URL is no URL")?;
    let Some((login, server)) = rest.rsplit_once('@') else { return Ok((url.to_owned(), String::new())) };
    let (user, password) = login.split_once(':').unwrap_or((login, ""));
    Ok((format!("{scheme}://{user}@{server}"), password.to_owned()))
}

/// The same URL with another database.
fn with_database(url: &str, name: &str) -> Result<String> {
    let (scheme, rest) = url.split_once("://").context("TEST_POSTGRES_URL is no URL")?;
    let (server, options) =
        rest.split_once('?').map_or((rest, None), |(server, options)| (server, Some(options)));
    let server = server.rsplit_once('/').map_or(server, |(server, _)| server);
    let options = options.map(|options| format!("?{options}")).unwrap_or_default();
    Ok(format!("{scheme}://{server}/{name}{options}"))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn a_url_is_taken_apart_and_put_together_again() {
        let url = "postgresql://me:secret@127.0.0.1:5432/postgres?sslmode=require";
        let (without, password) = split_password(url).unwrap();
        assert_eq!(without, "postgresql://me@127.0.0.1:5432/postgres?sslmode=require");
        assert_eq!(password, "secret");
        assert_eq!(
            with_database(url, "x").unwrap(),
            "postgresql://me:secret@127.0.0.1:5432/x?sslmode=require"
        );
    }
}
