//! `demo up | ask | check | seed | down`: watch a merge of real text on real servers, and check it.

mod ask;
mod controller;
mod follow;
mod kubernetes;
mod manifest;
mod progress;
mod servers;
mod up;

use std::process::ExitCode;

use anyhow::{Context, Result};
use clap::{Parser, Subcommand};
use demo::checker::Contract;
use demo::seed::{corpus, library, odd};

use progress::say;
use servers::{Flavor, Servers};

/// A merge of real text on a real Kubernetes, real Elasticsearches and a real Postgres.
///
/// Servers named by the environment (`TEST_ELASTICSEARCH_8_URL`, `TEST_ELASTICSEARCH_9_URL`, `TEST_POSTGRES_URL`,
/// `KUBECONFIG`) are used as they are; the others run on 127.0.0.1 and end with `demo down`.
#[derive(Debug, Parser)]
#[command(name = "demo", version)]
struct Arguments {
    /// The name of the environment; those with different names run beside each other
    #[arg(long, default_value = "demo", global = true)]
    name: String,
    /// Which Elasticsearch holds the old indices
    #[arg(long, value_enum, default_value = "8", global = true)]
    source: Flavor,
    /// Which Elasticsearch gets the merged index
    #[arg(long, value_enum, default_value = "9", global = true)]
    destination: Flavor,
    /// The application's database
    #[arg(long, default_value = "opengatellm", global = true)]
    database: String,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Bring everything up, merge, ask the result a few questions and check it
    Up,
    /// Ask the merged index questions, by text and by vector
    Ask {
        /// The merged index
        #[arg(long, default_value = "opengatellm")]
        index: String,
        /// A question; without any, a few in several languages
        question: Vec<String>,
    },
    /// Compare the merged index with its sources, chunk by chunk; exit code 0 only if all is equal
    Check {
        /// The merged index
        #[arg(long, default_value = "opengatellm")]
        index: String,
        /// How it was made
        #[arg(long, value_enum, default_value = "OpenGateLLM")]
        contract: Contract,
        /// Size of the vectors
        #[arg(long, default_value_t = 1024)]
        dimensions: usize,
        /// Only these collections
        #[arg(long, value_delimiter = ',', value_name = "ID,...")]
        include: Vec<i64>,
        /// Without these collections
        #[arg(long, value_delimiter = ',', value_name = "ID,...")]
        exclude: Vec<i64>,
    },
    /// Fill the source and Postgres in the old layout
    Seed {
        #[command(subcommand)]
        what: Seed,
    },
    /// End everything and remove its data
    Down,
}

#[derive(Debug, Subcommand)]
enum Seed {
    /// The demo's library of manual pages
    Library {
        /// Size of the vectors
        #[arg(long, default_value_t = 1024)]
        dimensions: usize,
        /// About so many chunks
        #[arg(long, default_value_t = 40_000)]
        total: usize,
    },
    /// Hostile data for tests
    Odd {
        /// The same seed gives the same data
        #[arg(long, default_value_t = 1)]
        seed: u64,
        /// Size of the vectors
        #[arg(long, default_value_t = 8)]
        dimensions: usize,
        /// How many collections
        #[arg(long, default_value_t = 24)]
        collections: usize,
        /// At most so many chunks in a document
        #[arg(long, default_value_t = 12)]
        chunks: usize,
        /// Also chunks that belong into quarantine
        #[arg(long)]
        bad: bool,
        /// Also two chunks with the same document and id
        #[arg(long)]
        twins: bool,
    },
}

#[tokio::main]
async fn main() -> ExitCode {
    progress::begin();
    match run(Arguments::parse()).await {
        Ok(code) => code,
        Err(error) => {
            eprintln!("demo: {error:#}");
            ExitCode::FAILURE
        }
    }
}

async fn run(arguments: Arguments) -> Result<ExitCode> {
    if let Command::Down = arguments.command {
        let name = arguments.name;
        let ended =
            tokio::task::spawn_blocking(move || testenv::Env::down(&name)).await.context("demo down")??;
        say(&format!("everything is down, {ended} processes ended"));
        return Ok(ExitCode::SUCCESS);
    }
    if let Command::Up = arguments.command {
        return up::up(&arguments.name, arguments.source, arguments.destination, &arguments.database).await;
    }
    let servers =
        Servers::find(&arguments.name, arguments.source, arguments.destination, &arguments.database).await?;
    match arguments.command {
        Command::Ask { index, question } => {
            ask::ask(&servers, &index, &question).await?;
            Ok(ExitCode::SUCCESS)
        }
        Command::Check { index, contract, dimensions, include, exclude } => {
            let options = demo::checker::Options { index, contract, dimensions, include, exclude };
            check(&servers, &options).await
        }
        Command::Seed { what } => {
            seed(&servers, what).await?;
            Ok(ExitCode::SUCCESS)
        }
        Command::Up | Command::Down => Ok(ExitCode::SUCCESS),
    }
}

async fn check(servers: &Servers, options: &demo::checker::Options) -> Result<ExitCode> {
    let (source, destination) = servers.clusters().await?;
    let verdict = demo::checker::check(&source, &destination, &servers.pool().await?, options).await?;
    println!("{verdict}");
    Ok(if verdict.is_good() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

async fn seed(servers: &Servers, what: Seed) -> Result<()> {
    let (source, _) = servers.clusters().await?;
    servers.create_database().await?;
    let pool = servers.pool().await?;
    match what {
        Seed::Library { dimensions, total } => {
            let options =
                library::Options { dimensions, total, large: total / 2, ..library::Options::default() };
            let pages = tokio::task::spawn_blocking(|| corpus::pages(&corpus::PACKAGES))
                .await
                .context("reading pages")??;
            say(&format!("{} manual pages read", pages.len()));
            let filled =
                library::fill(&source, &pool, library::arrange(pages, &options)?, &options, &say).await?;
            say(&format!(
                "{} collections, {} documents, {} chunks",
                filled.collections, filled.documents, filled.chunks
            ));
        }
        Seed::Odd { seed, dimensions, collections, chunks, bad, twins } => {
            let options =
                odd::Options { seed, dimensions, collections, chunks, bad, twins, ..odd::Options::default() };
            let model = odd::fill(&source, &pool, &options).await?;
            say(&format!(
                "{} collections, {} good and {} bad chunks, strangers {:?}",
                model.collections.len(),
                model.good_chunks(),
                model.bad_chunks(),
                model.strangers
            ));
        }
    }
    Ok(())
}
