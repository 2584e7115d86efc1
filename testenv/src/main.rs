//! `testenv up | down | status | env`: the environment of real parts, by hand and in the Makefile.

use std::process::ExitCode;

use clap::{Parser, Subcommand};
use testenv::{Env, Part};

/// Real Kubernetes, Elasticsearch and Postgres on 127.0.0.1.
///
/// Parts that the environment names (KUBECONFIG, `TEST_ELASTICSEARCH_URL`, `TEST_POSTGRES_URL`) are used as they are.
#[derive(Debug, Parser)]
#[command(name = "testenv", version)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Bring parts up and wait until they are ready; those that are up stay as they are
    Up {
        #[command(flatten)]
        name: Name,
        /// Only these parts: elasticsearch-8, elasticsearch-9, postgres, kubernetes, helm
        #[arg(long, value_delimiter = ',', value_name = "PART,...")]
        only: Vec<Part>,
        /// It may be ended once this process is gone (that of a test run, for instance)
        #[arg(long, value_name = "PROCESS")]
        owner: Option<i32>,
    },
    /// End everything and remove its data
    Down {
        #[command(flatten)]
        name: Name,
    },
    /// Say what runs, under all names
    Status,
    /// Print the variables to reach it, for a shell: eval "$(testenv env)"
    Env {
        #[command(flatten)]
        name: Name,
    },
}

#[derive(Debug, clap::Args)]
struct Name {
    /// The environment's name; those with different names run beside each other
    #[arg(long, env = "TESTENV_NAME", default_value = "test")]
    name: String,
}

fn main() -> ExitCode {
    match run(Arguments::parse().command) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("testenv: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(command: Command) -> anyhow::Result<()> {
    match command {
        Command::Up { name, only, owner } => {
            let parts = if only.is_empty() { Part::ALL.to_vec() } else { only };
            Env::up_for(&name.name, &parts, owner)?;
            eprintln!("testenv: {0} is up; look at it by eval \"$(testenv env --name {0})\"", name.name);
        }
        Command::Down { name } => {
            let ended = Env::down(&name.name)?;
            eprintln!("testenv: {} is down, {ended} processes ended", name.name);
        }
        Command::Status => {
            for name in Env::names()? {
                println!("{name}");
                for state in Env::state(&name)? {
                    let pid =
                        state.pid.map_or_else(|| "has ended".to_owned(), |pid| format!("process {pid}"));
                    println!("  {:40} {pid}", state.process);
                }
            }
        }
        Command::Env { name } => {
            let env = Env::find(&name.name)?;
            for (name, value) in env.variables() {
                println!("export {name}='{}'", value.replace('\'', r"'\''"));
            }
            for folder in env.path() {
                println!("export PATH='{}':\"$PATH\"", folder.display());
            }
        }
    }
    Ok(())
}
