//! `bench`: measures a merge against what people would use otherwise.
//!
//! In each case everybody does the same work on the same servers to the same final state, which is proven
//! ([`destination::prove`]); they take turns, the medians are compared, and the report is a Markdown text.

mod cases;
mod corpus;
mod destination;
mod extras;
mod link;
mod ours;
mod peers;
mod process;
mod recall;
mod report;
mod server;
mod source;

use std::path::PathBuf;

use anyhow::{Context as _, Result};
use clap::{Parser, ValueEnum};
use testenv::elasticsearch::Flavor;

/// Measures `es-index-merge run` against `_reindex`, elasticdump, a script and the limit, on real servers.
#[derive(Debug, Parser)]
#[command(name = "bench", max_term_width = 100)]
struct Cli {
    /// Smaller and fewer cases, and nothing beside them that is not asked for: under ten minutes.
    #[arg(long)]
    quick: bool,
    /// Only these cases.
    #[arg(long, value_delimiter = ',')]
    case: Vec<Case>,
    /// Only these pairs of versions, for instance `8-9`.
    #[arg(long, value_delimiter = ',')]
    pair: Vec<String>,
    /// Only these contestants.
    #[arg(long, value_delimiter = ',')]
    run: Vec<Contestant>,
    /// Only these measurements beside the cases.
    #[arg(long, value_delimiter = ',')]
    extra: Vec<Extra>,
    /// Turns of each contestant.
    #[arg(long)]
    rounds: Option<usize>,
    /// Chunks of the large case.
    #[arg(long)]
    chunks: Option<u64>,
    /// Collections of the case with tiny ones.
    #[arg(long)]
    tiny: Option<u64>,
    /// Heap of each server.
    #[arg(long, default_value = "2g")]
    heap: String,
    /// Where the report goes, besides standard output.
    #[arg(long)]
    report: Option<PathBuf>,
    /// Only starts the servers, prints how to name them in the environment, and waits.
    #[arg(long)]
    serve: bool,
}

/// What is merged.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Case {
    /// One large collection: 100 000 chunks on the newest version, 30 000 for the other pairs.
    Large,
    /// Twenty collections of 2 000 chunks, 1 000 for the other pairs.
    Mixed,
    /// Two thousand collections of ten chunks, one thousand for the other pairs.
    Tiny,
}

/// What is measured beside the cases.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Extra {
    /// Memory and cost per chunk as the data grows.
    Size,
    /// Two processes against one on a slow network.
    Workers,
    /// Coming back after a kill.
    Resume,
    /// Requests of a merge that waits.
    Idle,
    /// The limit that a user sets.
    Rate,
    /// Search quality after a graph that came last.
    Recall,
}

impl Extra {
    /// All of them.
    pub const ALL: [Self; 6] =
        [Self::Size, Self::Workers, Self::Resume, Self::Idle, Self::Rate, Self::Recall];
}

/// Who does it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Contestant {
    /// Our program, every chunk compared.
    Ours,
    /// Our program, only counts compared.
    OursCounts,
    /// `_reindex`, one request for all sources.
    Reindex,
    /// `_reindex`, one request for each source.
    ReindexEach,
    /// elasticdump.
    Elasticdump,
    /// The migration script.
    Script,
    /// Prepared bodies.
    Limit,
}

#[tokio::main]
async fn main() -> Result<()> {
    let cli = Cli::parse();
    if cli.serve {
        return serve(&cli).await;
    }
    let postgres = tokio::task::spawn_blocking(testenv::postgres::Postgres::start).await??;
    // Either kind may be asked for alone.
    let (asks_extras, asks_cases) = (!cli.extra.is_empty(), !cli.case.is_empty() || !cli.run.is_empty());
    let results = if asks_extras && !asks_cases { Vec::new() } else { cases::run(&cli, &postgres).await? };
    let mut text = report::report(&cli, &results);
    if asks_extras || (!asks_cases && !cli.quick) {
        text += &extras::run(&cli, &postgres).await?;
    }
    println!("{text}");
    save(&cli, &text)
}

/// Writes the report as far as it is: two hours are not lost when the last case fails.
fn save(cli: &Cli, text: &str) -> Result<()> {
    match &cli.report {
        Some(file) => std::fs::write(file, text).with_context(|| format!("{}", file.display())),
        None => Ok(()),
    }
}

/// Servers that stay for several runs.
async fn serve(cli: &Cli) -> Result<()> {
    let mut servers = Vec::new();
    for flavor in Flavor::ALL {
        if !cli.pair.is_empty() && !cli.pair.iter().any(|pair| pair.contains(cases::major(flavor))) {
            continue;
        }
        let server = server::Server::start(flavor, &cli.heap).await?;
        for (name, value) in server.access.variables(flavor) {
            println!("export {name}='{value}'");
        }
        servers.push(server);
    }
    tokio::signal::ctrl_c().await?;
    Ok(())
}
