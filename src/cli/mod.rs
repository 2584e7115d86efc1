//! The command line: `controller`, `run`, `plan`, `quarantine`, `manifest`, `crd`.
//!
//! Secrets never come as arguments: they are in the manifest's own `Secret` documents, in a folder laid out as
//! pods mount them, or (for `--from-env`) in the environment variables of the script that this replaces.
//! Exit code 0 of `run` means a positive verdict, and nothing else does.

mod env;
mod manifest;
mod plan;
mod quarantine;
mod run;
mod secrets;

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, Parser, Subcommand};

use self::manifest::Job;
use crate::{api, controller, telemetry};

/// Merges many Elasticsearch indices into one: resumable, live, verified.
#[derive(Debug, Parser)]
#[command(name = "es-index-merge", version, about, max_term_width = 100)]
struct Cli {
    #[command(subcommand)]
    command: Command,
    /// How logs are written.
    #[arg(long, global = true, env = "LOG_FORMAT", default_value = "text")]
    log_format: telemetry::LogFormat,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run the Kubernetes controller.
    Controller(ControllerArgs),
    /// Do a whole merge without Kubernetes; exit code 0 only on a positive verdict.
    Run(JobArgs),
    /// Say what a merge would do and what stands in its way; changes nothing.
    Plan(JobArgs),
    /// Look at the chunks that could not be copied, and have them tried again.
    #[command(subcommand)]
    Quarantine(quarantine::Command),
    /// Print the manifests for the environment variables of the migration script; the cutover is held in them.
    Manifest {
        /// Read the environment.
        #[arg(long, required = true)]
        from_env: bool,
    },
    /// Print the custom resource definition.
    Crd,
}

/// Where a merge is described.
#[derive(Debug, Args)]
struct JobArgs {
    /// A YAML file with one `EsIndexMerge` and, if you like, the Secrets that it names; `-` for standard input.
    #[arg(
        short,
        long,
        value_name = "FILE",
        required_unless_present = "from_env",
        conflicts_with = "from_env"
    )]
    file: Option<PathBuf>,
    /// Take everything from the environment variables of the migration script (`POSTGRES_URL`, `SOURCE_ES_URL`, ...).
    #[arg(long)]
    from_env: bool,
    /// Secrets as files: the key KEY of the secret NAME is DIR/NAME/KEY.
    #[arg(long, value_name = "DIR")]
    secrets_dir: Option<PathBuf>,
}

/// Settings of the controller.
#[derive(Debug, Args)]
struct ControllerArgs {
    /// Namespaces to watch, separated by commas; none: all.
    #[arg(long, env = "WATCH_NAMESPACES", value_delimiter = ',')]
    namespaces: Vec<String>,
    /// Where /livez, /readyz and /metrics listen.
    #[arg(long, env = "LISTEN_ADDRESS", default_value = "0.0.0.0:8080")]
    listen: std::net::SocketAddr,
    /// One active controller among several, by a Lease.
    #[arg(long, env = "LEADER_ELECTION", default_value_t = true, action = clap::ArgAction::Set)]
    leader_election: bool,
    /// The namespace of that Lease; none: the pod's own.
    #[arg(long, env = "POD_NAMESPACE")]
    lease_namespace: Option<String>,
    /// The name of that Lease; another one for each installation in a namespace.
    #[arg(long, env = "LEASE_NAME", default_value = "es-index-merge-controller")]
    lease_name: String,
    /// The name of this process in leases; unique among controllers.
    #[arg(long, env = "POD_NAME")]
    worker: Option<String>,
}

/// Parses the arguments and runs the command.
pub async fn main() -> ExitCode {
    let cli = Cli::parse();
    // Beside progress bars only what went wrong is worth a line.
    let level = if matches!(cli.command, Command::Controller(_)) { "info" } else { "warn" };
    if let Err(error) = telemetry::init(cli.log_format, level) {
        eprintln!("error: {error}");
        return ExitCode::FAILURE;
    }
    match Box::pin(dispatch(cli.command)).await {
        Ok(code) => code,
        Err(error) => {
            eprintln!("error: {}", in_full(&error));
            ExitCode::FAILURE
        }
    }
}

/// The error with its causes. Most of ours tell what caused them: what was told is not told again.
fn in_full(error: &anyhow::Error) -> String {
    error.chain().map(ToString::to_string).fold(String::new(), |told, cause| {
        if told.is_empty() {
            cause
        } else if told.contains(&cause) {
            told
        } else {
            format!("{told}: {cause}")
        }
    })
}

async fn dispatch(command: Command) -> anyhow::Result<ExitCode> {
    match command {
        Command::Controller(args) => {
            controller::run(args.into_config(), shutdown()?).await?;
            Ok(ExitCode::SUCCESS)
        }
        Command::Run(args) => Box::pin(run::run(args.load().await?, shutdown()?)).await,
        Command::Plan(args) => plan::plan(args.load().await?).await,
        Command::Quarantine(command) => Box::pin(quarantine::run(command)).await,
        Command::Manifest { .. } => {
            print!("{}", env::manifests(|name| std::env::var(name).ok(), env::Begin::Held)?);
            Ok(ExitCode::SUCCESS)
        }
        Command::Crd => {
            print!("{}", api::crd_yaml()?);
            Ok(ExitCode::SUCCESS)
        }
    }
}

impl JobArgs {
    async fn load(self) -> anyhow::Result<Job> {
        if let Some(file) = self.file {
            return Job::from_file(&file, self.secrets_dir).await;
        }
        let text = env::manifests(|name| std::env::var(name).ok(), env::Begin::AtOnce)?;
        Job::from_text(&text, self.secrets_dir)
    }
}

impl ControllerArgs {
    fn into_config(self) -> controller::ControllerConfig {
        controller::ControllerConfig {
            namespaces: self.namespaces.into_iter().filter(|name| !name.is_empty()).collect(),
            listen: self.listen,
            leader_election: self.leader_election,
            lease_namespace: self.lease_namespace,
            lease: self.lease_name,
            worker: self.worker.unwrap_or_else(process_name),
        }
    }
}

/// A name that no other process has: leases of one that died must not look like ours.
pub(crate) fn process_name() -> String {
    format!("es-index-merge-{}-{}", std::process::id(), uuid::Uuid::new_v4().simple())
}

/// Cancelled by SIGTERM or Ctrl-C: work then stops at a checkpoint.
fn shutdown() -> anyhow::Result<tokio_util::sync::CancellationToken> {
    use tokio::signal::unix::{SignalKind, signal};
    let token = tokio_util::sync::CancellationToken::new();
    let cancelled = token.clone();
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    tokio::spawn(async move {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
        cancelled.cancel();
    });
    Ok(token)
}

#[cfg(test)]
mod tests {
    use anyhow::anyhow;

    use super::*;

    #[test]
    fn a_cause_is_told_once() {
        let told =
            anyhow!("no route to host").context("connect to Elasticsearch: no route to host; check the URL");
        assert_eq!(in_full(&told), "connect to Elasticsearch: no route to host; check the URL");
        let untold = anyhow!("no such file").context("merge.yaml cannot be read").context("nothing was done");
        assert_eq!(in_full(&untold), "nothing was done: merge.yaml cannot be read: no such file");
    }
}
