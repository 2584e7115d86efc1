//! `make chaos`: merges on real servers while everything around them breaks, for minutes, and the verdict of the
//! independent checker over each.
//!
//! The whole schedule follows from a seed, which is printed. What is random beside it is the machine: how far a merge
//! is when a fault comes, and whether that fault finds anything to hit. Every fault comes before any comes again, as far
//! as the time goes. Exit code 0 only if nothing was lost, doubled or different, every merge ended in a positive verdict
//! on every collection that was there for it, no process of it gave up, and the live writers made every kind of change.

mod deck;
mod faults;
mod round;
mod stage;
mod tally;

use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use chaos::parts::Parts;
use clap::Parser;
use demo::seed::random::{Random, any_seed};

use faults::Decks;
use stage::Bell;
use tally::Tally;

/// A round takes about that long; none is begun when less is left.
const ROUND: Duration = Duration::from_secs(100);

/// Merges under faults, and what came of them.
#[derive(Debug, Parser)]
#[command(name = "chaos", version)]
struct Arguments {
    /// For how long
    #[arg(long, env = "CHAOS_MINUTES", default_value_t = 10)]
    minutes: u64,
    /// The schedule; another one each time if it is not given
    #[arg(long, env = "CHAOS_SEED")]
    seed: Option<u64>,
    /// The program; without it the one beside this one
    #[arg(long, env = "CHAOS_PROGRAM")]
    program: Option<PathBuf>,
}

fn main() -> ExitCode {
    match chaos(&Arguments::parse()) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn chaos(arguments: &Arguments) -> Result<ExitCode> {
    let binary = program(arguments)?;
    let seed = arguments.seed.unwrap_or_else(any_seed);
    say(&format!("seed {seed}: CHAOS_SEED={seed} gives the same schedule again"));
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    let ended = Arc::new(Bell::default());
    let parts = Arc::new(Parts::start()?);
    let begun = Instant::now();
    runtime.spawn(end_on_signal(Arc::clone(&ended), Arc::clone(&parts)));

    let tally = Tally::new(faults::names());
    let mut random = Random::new(seed);
    let decks = Decks::new(random.bits());
    let mut number = 0;
    while number == 0 || begun.elapsed() + ROUND < Duration::from_mins(arguments.minutes) {
        let round = round::Round {
            number,
            seed: random.bits(),
            binary: &binary,
            parts: &parts,
            decks: &decks,
            ended: &ended,
        };
        let result = round.run(&runtime, &tally);
        if ended.rang() {
            println!("interrupted; {tally}");
            return Ok(ExitCode::from(130));
        }
        if let Err(error) = result {
            tally.failed(&format!("round {number}: {error:#}"));
        }
        number += 1;
    }
    for change in tally.never_made() {
        tally.failed(&format!("the live writers made no {change}"));
    }
    println!("\nseed {seed}, {number} rounds, {} s\n{tally}", begun.elapsed().as_secs());
    Ok(if tally.is_good() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// A signal ends the servers at once, so that nothing waits for them any more; everything else ends on the way out.
async fn end_on_signal(ended: Arc<Bell>, parts: Arc<Parts>) {
    use tokio::signal::unix::{SignalKind, signal};
    let (Ok(mut interrupt), Ok(mut terminate)) =
        (signal(SignalKind::interrupt()), signal(SignalKind::terminate()))
    else {
        return;
    };
    tokio::select! {
        _ = interrupt.recv() => {}
        _ = terminate.recv() => {}
    }
    ended.ring();
    say("interrupted: everything is ended");
    let killed = [parts.eight.kill_9(), parts.nine.kill_9(), parts.postgres.kill_9()];
    for error in killed.into_iter().filter_map(Result::err) {
        say(&format!("a server could not be ended: {error:#}"));
    }
}

/// The program that is tried.
fn program(arguments: &Arguments) -> Result<PathBuf> {
    let program = match &arguments.program {
        Some(given) => given.clone(),
        None => std::env::current_exe()?.with_file_name("es-index-merge"),
    };
    program.canonicalize().with_context(|| format!("{} is not there: build it first", program.display()))
}

/// One line, with the time since the start.
fn say(line: &str) {
    static START: std::sync::OnceLock<Instant> = std::sync::OnceLock::new();
    let elapsed = START.get_or_init(Instant::now).elapsed().as_secs_f64();
    println!("chaos [{elapsed:6.1}s] {line}");
}
