//! What is not a race: memory, the cost per chunk of larger data, several workers, coming back after a kill, a merge
//! that only waits, the limit that a user sets, and search quality.

use std::fmt::Write as _;
use std::process::Child;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use testenv::elasticsearch::Flavor;
use testenv::postgres::{Database, Postgres};

use crate::corpus::Corpus;
use crate::link::Link;
use crate::ours::{self, Ask, Ran};
use crate::server::Server;
use crate::{Cli, Extra, destination, recall, source};

/// One-way delay of the slow network.
const DELAY: Duration = Duration::from_millis(20);

/// Runs what was asked for; gives lines of Markdown.
pub async fn run(cli: &Cli, postgres: &Postgres) -> Result<String> {
    let mut out = String::new();
    let extras = if cli.extra.is_empty() { Extra::ALL.to_vec() } else { cli.extra.clone() };
    let server = Server::start(Flavor::V9, &cli.heap).await?;
    for extra in extras {
        let bench = Bench { cli, server: &server, postgres };
        let text = match extra {
            Extra::Size => bench.size().await,
            Extra::Workers => bench.workers().await,
            Extra::Resume => bench.resume().await,
            Extra::Idle => bench.idle().await,
            Extra::Rate => bench.rate().await,
            Extra::Recall => {
                recall::measure(&server, postgres, if cli.quick { 15_000 } else { 40_000 }).await
            }
        };
        let text = text.with_context(|| format!("{extra:?}"))?;
        eprint!("bench: {extra:?}\n{text}");
        out += &text;
    }
    Ok(out)
}

struct Bench<'a> {
    cli: &'a Cli,
    server: &'a Server,
    postgres: &'a Postgres,
}

impl Bench<'_> {
    async fn filled(&self, collections: u64, chunks: u64, dimensions: usize) -> Result<Arc<Corpus>> {
        let corpus = Arc::new(Corpus::new(collections, chunks, dimensions));
        destination::remove(self.server).await?;
        // Another corpus may have as many chunks.
        source::empty(self.server).await?;
        source::fill(self.server, &corpus).await?;
        Ok(corpus)
    }

    fn asked(&self, corpus: &Corpus, urls: (&str, &str), more: &str) -> Result<(Database, String)> {
        let database = ours::database(self.postgres, corpus)?;
        let ask = Ask { verification: "Counts", more: more.to_owned() };
        let servers = (self.server, self.server);
        let manifest = ours::manifest(urls.0, urls.1, servers, &database, corpus.dimensions, &ask);
        Ok((database, manifest))
    }

    async fn once(&self, corpus: &Corpus, more: &str) -> Result<Ran> {
        destination::remove(self.server).await?;
        let url = &self.server.access.url;
        let (_database, manifest) = self.asked(corpus, (url, url), more)?;
        let ran = tokio::task::spawn_blocking(move || ours::run(&manifest)).await??;
        source::unblock(self.server).await?;
        Ok(ran)
    }

    /// Memory and the cost per chunk, as the data grows.
    async fn size(&self) -> Result<String> {
        let sizes: &[(u64, usize)] = if self.cli.quick {
            &[(5_000, 1024), (20_000, 1024)]
        } else {
            &[(10_000, 1024), (100_000, 1024), (100_000, 64), (1_000_000, 64)]
        };
        let mut out = String::from(
            "| chunks x dimensions | load | a chunk | graph | a chunk | peak memory of the program |\n|---|---|---|---|---|---|\n",
        );
        for &(chunks, dimensions) in sizes {
            let corpus = self.filled(1, chunks, dimensions).await?;
            let ran = self.once(&corpus, "").await?;
            let (load, graph) = (ran.of("Copying"), ran.of("Indexing"));
            let micros = |time: Duration| time.as_secs_f64() * 1e6 / chunks as f64;
            let _ = writeln!(
                out,
                "| {chunks} x {dimensions} | {:.1} s | {:.0} µs | {:.1} s | {:.0} µs | {} MiB |",
                load.as_secs_f64(),
                micros(load),
                graph.as_secs_f64(),
                micros(graph),
                ran.memory >> 20
            );
        }
        Ok(out + "\n")
    }

    /// Two processes at the same merge against one, both sides behind a slow network.
    async fn workers(&self) -> Result<String> {
        // Fewer would be too few parts of a shard for four workers.
        let chunks = 20_000;
        let corpus = self.filled(1, chunks, 1024).await?;
        let mut times = Vec::new();
        for processes in [1, 2] {
            destination::remove(self.server).await?;
            let from = Link::to(&self.server.access.url, DELAY).await?;
            let to = Link::to(&self.server.access.url, DELAY).await?;
            let more = "  workers: {concurrency: 2}\n";
            let (database, manifest) = self.asked(&corpus, (&from.url, &to.url), more)?;
            let runs: Vec<_> = (0..processes)
                .map(|_| {
                    let manifest = manifest.clone();
                    tokio::task::spawn_blocking(move || ours::run(&manifest))
                })
                .collect();
            times.push(copying(&database).await?.as_secs_f64());
            for run in runs {
                run.await??;
            }
            source::unblock(self.server).await?;
        }
        Ok(format!(
            "Behind a network of {} ms each way and windows of 64 KiB: {chunks} chunks are copied in {:.1} s by one process of two workers, in {:.1} s by two processes: {:.2} times as fast.\n\n",
            DELAY.as_millis(),
            times[0],
            times[1],
            times[0] / times[1]
        ))
    }

    /// A kill in the middle, and how soon it goes on as before.
    async fn resume(&self) -> Result<String> {
        let chunks = self.cli.chunks.unwrap_or(if self.cli.quick { 20_000 } else { 100_000 });
        let corpus = self.filled(1, chunks, 1024).await?;
        let url = &self.server.access.url;
        let (database, manifest) = self.asked(&corpus, (url, url), "")?;
        let first = quietly(&manifest)?;
        let begin = Instant::now();
        let until_first = self.written_from(chunks / 20).await?;
        self.written_from(chunks * 2 / 5).await?;
        let speed =
            (chunks * 2 / 5 - chunks / 20) as f64 / begin.elapsed().saturating_sub(until_first).as_secs_f64();
        kill(first)?;
        // What the server had in hand is done before anything is measured.
        let mut before = self.written().await?;
        loop {
            tokio::time::sleep(Duration::from_millis(300)).await;
            let now = self.written().await?;
            if now == before {
                break;
            }
            before = now;
        }
        let second = Instant::now();
        let again = tokio::task::spawn_blocking(move || ours::run(&manifest));
        self.written_from(before + 1).await?;
        let first_write = second.elapsed();
        let mut marks = vec![(Instant::now(), self.written().await?)];
        let full = loop {
            tokio::time::sleep(Duration::from_millis(100)).await;
            let now = (Instant::now(), self.written().await?);
            marks.push(now);
            let Some(&then) = marks.iter().rev().find(|mark| now.0 - mark.0 >= Duration::from_millis(900))
            else {
                continue;
            };
            let rate = (now.1 - then.1) as f64 / (now.0 - then.0).as_secs_f64();
            if rate >= 0.8 * speed {
                break Some(then.0 - second);
            }
            if again.is_finished() {
                break None;
            }
        };
        again.await??;
        source::unblock(self.server).await?;
        let repeated =
            database.sql("SELECT sum(already_there) FROM es_index_merge.unit WHERE kind = 'copy'")?;
        let at_speed = full.map_or_else(
            || "it ended before its speed could be told".to_owned(),
            |full| {
                format!(
                    "at 80 % of the speed before ({speed:.0} chunks a second) after {:.1} s",
                    full.as_secs_f64()
                )
            },
        );
        Ok(format!(
            "kill -9 at about 40 % of {chunks} chunks, and the same command again: writes again after {:.1} s, {at_speed}; {repeated} chunks were written a second time (answered as already there).\n\n",
            first_write.as_secs_f64()
        ))
    }

    async fn written(&self) -> Result<u64> {
        let path = format!("/{}/_stats/indexing?ignore_unavailable=true", destination::NAME);
        let answer = self.server.get(&path).await?;
        Ok(answer["_all"]["primaries"]["indexing"]["index_total"].as_u64().unwrap_or(0))
    }

    /// Waits until so many were written; gives the time that it took.
    async fn written_from(&self, least: u64) -> Result<Duration> {
        let start = Instant::now();
        while self.written().await? < least {
            ensure!(start.elapsed() < Duration::from_mins(5), "{least} chunks are not written");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        Ok(start.elapsed())
    }

    /// What a merge costs the servers while nothing happens.
    async fn idle(&self) -> Result<String> {
        let collections = if self.cli.quick { 200 } else { 1_000 };
        let watched = Duration::from_secs(if self.cli.quick { 30 } else { 120 });
        let corpus = self.filled(collections, 10, 1024).await?;
        let from = Link::to(&self.server.access.url, Duration::ZERO).await?;
        let to = Link::to(&self.server.access.url, Duration::ZERO).await?;
        let (database, manifest) = self.asked(&corpus, (&from.url, &to.url), "  cutover: {hold: true}\n")?;
        let child = quietly(&manifest)?;
        let start = Instant::now();
        while stored_phase(&database) != "Synced" {
            ensure!(start.elapsed() < Duration::from_mins(3), "it is not Synced");
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
        tokio::time::sleep(Duration::from_secs(5)).await;
        let pid = i32::try_from(child.id())?;
        let before = (from.requests(), to.requests(), crate::process::Cpu::of(pid)?);
        tokio::time::sleep(watched).await;
        let minutes = watched.as_secs_f64() / 60.0;
        let cpu = crate::process::Cpu::of(pid)?.since(before.2);
        let (of_source, of_destination) = (from.requests() - before.0, to.requests() - before.1);
        kill(child)?;
        Ok(format!(
            "A Synced merge of {collections} quiet collections sends {:.0} requests a minute to the source and {:.0} to the destination, and uses {:.2} % of a core.\n\n",
            of_source as f64 / minutes,
            of_destination as f64 / minutes,
            cpu.total().as_secs_f64() / watched.as_secs_f64() * 100.0
        ))
    }

    /// `maxDocumentsPerSecond`.
    async fn rate(&self) -> Result<String> {
        let (chunks, limit) = (10_000, 1_000);
        let corpus = self.filled(1, chunks, 1024).await?;
        let ran = self.once(&corpus, &format!("  workers: {{maxDocumentsPerSecond: {limit}}}\n")).await?;
        let rate = chunks as f64 / ran.of("Copying").as_secs_f64();
        Ok(format!(
            "`maxDocumentsPerSecond: {limit}`: {chunks} chunks were copied at {rate:.0} chunks a second ({:+.1} %).\n\n",
            (rate / f64::from(limit) - 1.0) * 100.0
        ))
    }
}

/// The stored phase; empty before there is a merge, when the table is not there either.
fn stored_phase(database: &Database) -> String {
    database.sql("SELECT phase FROM es_index_merge.merge").unwrap_or_default()
}

/// How long a merge copies, by its stored phase: of several processes each tells only of the phases that it ended.
async fn copying(database: &Database) -> Result<Duration> {
    let (start, mut since) = (Instant::now(), None);
    loop {
        let phase = stored_phase(database);
        match (phase.as_str(), since) {
            ("Copying", None) => since = Some(Instant::now()),
            ("Copying" | "Preparing" | "Pending" | "", _) => {}
            (_, Some(begun)) => return Ok(begun.elapsed()),
            (phase, None) => bail!("it is {phase} already"),
        }
        ensure!(start.elapsed() < Duration::from_mins(5), "it does not end copying");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// Starts the program; what it says is read and dropped, so that it never waits for a reader.
fn quietly(manifest: &str) -> Result<Child> {
    let mut child = ours::start(manifest)?;
    let mut said = child.stderr.take().context("a pipe")?;
    std::thread::spawn(move || std::io::copy(&mut said, &mut std::io::sink()));
    Ok(child)
}

fn kill(mut child: Child) -> Result<()> {
    child.kill()?;
    child.wait()?;
    Ok(())
}
